"""What the jobs have come to that a job comes after, as that job asks before it begins, whoever starts it: a scheduler
that waits for a task does not know that the job which it ran is to be healed, and a script can be submitted by hand."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from experiment_manager.model import stages
from experiment_manager.model.records import State
from experiment_manager.model.stages import Standing
from experiment_manager.store.layout import Folder
from experiment_manager.store.states import States

SETTLES_S: Final = 90.0
"""How long a task looks for the end of its upstream, which its scheduler has waited for: a network file system can show
the names in a folder as they were a minute ago (`acdirmax` of NFS)."""

_LOOK_S: Final = 1.0
_FEW: Final = 20
"""So many jobs are asked for one by one; of more, the whole folder of states is listed."""


def settled(order: Mapping[str, Any], job_id: int, wait: Callable[[float], bool], patience_s: float) -> Standing | None:
    """Whether a job may begin, for the one process that is to run it: what has not ended is waited for, for so long,
    by `wait`, which is false when somebody has told it to end: then None. Raises FolderError, OSError."""
    ids, path = stages.upstream(order, job_id), str(order["experiment"])
    states, until = States(_experiment(path)), time.monotonic() + patience_s
    while True:
        found = stages.standing(_states_of(states, ids), path)
        if not found.waits_for or time.monotonic() >= until:
            return found
        if not wait(_LOOK_S):
            return None


def why_not(order: Mapping[str, Any], job_id: int) -> str | None:
    """Why a job cannot begin, by what its order says of its upstream; None: it may, now or later."""
    ids, path = stages.upstream(order, job_id), str(order["experiment"])
    return stages.standing(_states_of(States(Folder.at(path)), ids), path).never


def _experiment(path: str) -> Folder:
    folder = Folder.at(path)
    folder.require()
    return folder


def _states_of(states: States, ids: Sequence[int]) -> dict[int, State]:
    if len(ids) <= _FEW:
        return {job_id: states.settled(job_id).state for job_id in ids}
    table = states.table()
    return {job_id: table.state(job_id) for job_id in ids}
