"""Jobs whose runner is a function: it travels as one pickle, and is called here, in a process of its own for each job.

python -m experiment_manager.execution.pickled_runner <file>
"""

import os
import pickle
import sys
from collections.abc import Callable
from hashlib import blake2b
from typing import IO, Any, NamedTuple

from experiment_manager.errors import JobRefused
from experiment_manager.execution import current_job
from experiment_manager.execution.command import PICKLED_RUNNER
from experiment_manager.execution.in_process import attempting
from experiment_manager.model.policy import REFUSED
from experiment_manager.store.documents import opened
from experiment_manager.store.files import appearing, is_there
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest
from experiment_manager.text import described, tell
from experiment_manager.trust import how_to_close, open_to_anybody, trusted_places


class Pickled(NamedTuple):
    """A function with all that it needs in memory."""

    path: str  # where it lies in an experiment once it is written
    data: bytes

    @classmethod
    def of(cls, data: bytes) -> "Pickled":
        """It is named by what it holds."""
        return cls(os.path.join("tasks", f"{blake2b(data, digest_size=8).hexdigest()}.pkl"), data)

    def write(self, folder: Folder) -> None:
        """The pickle is in the folder; the same one is stored once. Raises JobRefused where no job would load it."""
        path = folder.join(self.path)
        if not is_there(path):
            folder.make(os.path.dirname(path))
            with appearing(path) as temporary, open(temporary, "xb") as file:
                file.write(self.data)
        if (found := open_to_anybody(path)) is not None:
            raise JobRefused(_refusal(path, found))


def pickled_runner(runner: Callable[[int, dict[str, Any], Any], Any]) -> Pickled:
    """The pickle of a runner, with the places where its modules are found. Raises JobRefused for one that holds
    something which cannot be pickled."""
    import cloudpickle

    paths = [path or os.getcwd() for path in sys.path]
    try:
        return Pickled.of(pickle.dumps(paths) + cloudpickle.dumps(runner))
    except Exception as error:  # what objects of the program raise, too
        raise JobRefused(
            f"the runner {getattr(runner, '__name__', runner)!r} cannot be pickled ({described(error)}), and each job "
            "is a process of its own: keep what it holds out of its closure and of the module, or name a script that "
            "calls Experiment.run_id"
        ) from error


def words_for(folder: Folder, runner: Pickled) -> list[str]:
    """The words of the command that calls it."""
    return [sys.executable, *PICKLED_RUNNER, folder.join(runner.path)]


def trusted(path: str) -> IO[bytes]:
    """A pickle, open to be loaded, which may run anything. Ends the program with a sentence where every user of the
    machine may write to it. Raises OSError."""
    if (found := open_to_anybody(path)) is not None:
        tell(f"error: {_refusal(path, found)}")
        raise SystemExit(REFUSED)
    return opened(path)


def _refusal(path: str, found: str) -> str:
    what = "to load it" if found == path else f"to load {path}"
    return f"every user of this machine may write to {found}, and {what} may run anything; {how_to_close(found)}"


def main(path: str) -> None:
    """The job of this process has run: the function was called with its id, its variables and its configuration."""
    current = current_job.current_job()
    folder, job_id = current.experiment, current.required_id
    with Manifest(folder) as manifest:
        variables, configuration = dict(manifest.job(job_id).variables), manifest.configuration(job_id)
    with attempting(folder, job_id) as attempt, trusted(path) as file:
        paths = trusted_places(pickle.load(file))
        sys.path[:] = [*paths, *(place for place in sys.path if place not in paths)]
        attempt.leave(pickle.load(file)(job_id, variables, configuration))


if __name__ == "__main__":
    main(sys.argv[1])
