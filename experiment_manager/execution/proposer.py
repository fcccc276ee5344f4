"""The process that proposes trials for a worker: it alone imports Optuna, beside the job that runs meanwhile.

    python -P -m experiment_manager.execution.proposer EXPERIMENT LAUNCH

For each line that it reads it prints one, as JSON: {"job": 17}; {"why": "...", "is_complete": true} where nothing more
is proposed; {"error": "..."}. It ends when nobody can ask any more.
"""

import json
import os
import sys
from typing import Any

from experiment_manager.errors import ExperimentManagerError
from experiment_manager.execution.study import Nothing, Proposer, require_optuna
from experiment_manager.store.layout import Folder


def _answer(proposer: Proposer) -> dict[str, Any]:
    try:
        found = proposer.next()
    except (ExperimentManagerError, OSError) as error:
        return {"error": str(error)}
    return found._asdict() if isinstance(found, Nothing) else {"job": found.job_id}


def _begun(experiment: str, launch: str) -> tuple[Proposer | None, dict[str, Any]]:
    """What proposes; or None, and the answer that says why there is none."""
    try:
        require_optuna(needed_by="a search")
        import optuna
        import optuna.samplers  # noqa: F401

        return Proposer(Folder.at(experiment), launch), {}
    except ExperimentManagerError as error:
        return None, {"error": str(error)}


def main(experiment: str, launch: str) -> None:
    """Answers until standard input ends."""
    proposer, answer = _begun(experiment, launch)
    for _ in sys.stdin:
        if proposer is None:  # what kept it from beginning may be hours ago
            proposer, answer = _begun(experiment, launch)
        if proposer is not None:
            answer = _answer(proposer)
        os.write(sys.stdout.fileno(), json.dumps(answer).encode() + b"\n")  # for a program, and no text for people


if __name__ == "__main__":
    main(*sys.argv[1:])
