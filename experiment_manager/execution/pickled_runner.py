"""Jobs whose runner is a function: it travels as one pickle, and is called here, in a process of its own for each job.

python -m experiment_manager.execution.pickled_runner <file>
"""

import importlib
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from hashlib import blake2b
from types import SimpleNamespace
from typing import IO, Any, NamedTuple

from experiment_manager.errors import JobRefused
from experiment_manager.execution import current_job
from experiment_manager.execution.command import PICKLED_RUNNER
from experiment_manager.execution.in_process import attempting
from experiment_manager.model.codec import enum_class
from experiment_manager.model.policy import REFUSED
from experiment_manager.store.documents import opened
from experiment_manager.store.files import appearing, is_there
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.results import write_error
from experiment_manager.text import described, tell
from experiment_manager.trust import how_to_close, open_within, trusted_places


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
        if (found := open_within(folder.path, path)) is not None:
            raise JobRefused(_refusal(path, found))


def pickled_runner(runner: Callable[[int, dict[str, Any], Any], Any]) -> Pickled:
    """The pickle of a runner, with the places where its modules are found, and the enums of the program, which its
    jobs may have in their configurations. Raises JobRefused for one that holds something which cannot be pickled."""
    import cloudpickle

    paths = [path or os.getcwd() for path in sys.path]
    try:
        return Pickled.of(pickle.dumps(paths) + cloudpickle.dumps(runner) + cloudpickle.dumps(_enums_of_the_program()))
    except Exception as error:  # what objects of the program raise, too
        raise JobRefused(
            f"the runner {getattr(runner, '__name__', runner)!r} cannot be pickled ({described(error)}), and each job "
            "is a process of its own: keep what it holds out of its closure and of the module, or name a script that "
            "calls Experiment.run_id"
        ) from error


def _enums_of_the_program() -> list[type[Enum]]:
    """Those that no job can import, which cloudpickle takes as they are; in a job, the runner has the same classes."""
    import cloudpickle

    found = []
    for kind in _enums_in(sys.modules["__main__"], set()):
        with suppress(Exception):  # one that cannot be pickled is missed only where a job has it
            cloudpickle.dumps(kind)
            found.append(kind)
    return found


def _enums_in(owner: Any, seen: set[int]) -> Iterator[type[Enum]]:
    """The enums of the program in it, and in its classes: those of a function are there only while it runs."""
    for kind in list(vars(owner).values()):
        if isinstance(kind, type) and kind.__module__ == "__main__" and id(kind) not in seen:
            seen.add(id(kind))
            if issubclass(kind, Enum):
                yield kind
            yield from _enums_in(kind, seen)


def words_for(folder: Folder, runner: Pickled) -> list[str]:
    """The words of the command that calls it."""
    return [sys.executable, *PICKLED_RUNNER, folder.join(runner.path)]


def trusted(path: str) -> IO[bytes]:
    """A pickle, open to be loaded, which may run anything. Ends the program with a sentence, which is the reason of an
    attempt, too, where every user of the machine may write to it, or to its experiment. Raises OSError."""
    if (found := open_within(_experiment_of(path), path)) is not None:
        error, job = JobRefused(_refusal(path, found)), current_job.current_job()
        if job.id is not None:
            write_error(job.experiment, job.id, job.attempt, error)  # which is what people see of the attempt
        tell(f"error: {error}")
        raise SystemExit(REFUSED)
    return opened(path)


def _refusal(path: str, found: str) -> str:
    what, ways_out = "to load it" if found == path else f"to load {path}", how_to_close(found, _experiment_of(path))
    return f"every user of this machine may write to {found}, and {what} may run anything; {ways_out}"


def _experiment_of(path: str) -> str:
    """The folder of the experiment in which a pickle lies: see `Pickled.of`."""
    return os.path.dirname(os.path.dirname(os.path.abspath(path)))


def main(path: str) -> None:
    """The job of this process has run: the function was called with its id, its variables and its configuration."""
    current = current_job.current_job()
    folder, job_id = current.experiment, current.required_id
    with attempting(folder, job_id) as attempt:
        with trusted(path) as file:
            paths = trusted_places(pickle.load(file))
            sys.path[:] = [*paths, *(place for place in sys.path if place not in paths)]
            runner = pickle.load(file)
            _load_enums_of_the_program(file)
        with Manifest(folder) as manifest:  # after the modules: the members of their enums are decoded as themselves
            for name in sorted(manifest.enum_paths(job_id)):
                _load_enum(name, f"job {job_id} of {folder.path}")
            variables, configuration = dict(manifest.job(job_id).variables), manifest.configuration(job_id)
        attempt.leave(runner(job_id, variables, configuration))


def _load_enums_of_the_program(file: IO[bytes]) -> None:
    """Those that came with the runner are where their paths lead. What cannot be had is told where a job has it."""
    try:
        kinds: list[type[Enum]] = pickle.load(file)
    except Exception:  # one of an older version ends with the runner; others ask for modules that are not here
        return
    for kind in kinds:
        if enum_class(f"__main__.{kind.__qualname__}") is kind:  # one in another enum came with that
            continue
        owner: Any = sys.modules["__main__"]
        *classes, name = kind.__qualname__.split(".")
        for part in classes:
            if not isinstance(vars(owner).get(part), SimpleNamespace):
                setattr(owner, part, SimpleNamespace())
            owner = getattr(owner, part)
        setattr(owner, name, kind)


def _load_enum(path: str, where: str) -> None:
    """The class is loaded, or people know that the job has the name of its member as text instead."""
    why, parts = "", path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        if enum_class(path) is not None:
            return
        try:
            importlib.import_module(".".join(parts[:cut]))
        except (Exception, SystemExit) as error:  # what the module does, too
            why = f" ({described(error)})"
    if enum_class(path) is None:
        tell(
            f"warning: {where} has a member of the enum {path}, whose class is not found{why}, so that its name is "
            "given as text; define the enum in a module that jobs can import"
        )


if __name__ == "__main__":
    from experiment_manager.execution.pickled_runner import main as run  # its names stay, whatever enums are called

    run(sys.argv[1])
