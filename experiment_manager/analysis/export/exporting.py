"""An export: each run that has ended is at the target once, however often it is asked for, or killed meanwhile."""

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Final, NamedTuple

from experiment_manager.analysis.export import mlflow, tensorboard, trackio, wandb
from experiment_manager.analysis.export.runs import (
    Configuration,
    Mark,
    Notes,
    ended,
    origin_of,
    points,
    run_name,
    run_of,
)
from experiment_manager.analysis.export.target import Kind, Target
from experiment_manager.errors import ExperimentManagerError, FolderError, NotInstalled
from experiment_manager.model.records import Job
from experiment_manager.store.layout import Folder, check_name, unwritable
from experiment_manager.store.lock import Busy, Lock
from experiment_manager.store.states import StateTable
from experiment_manager.text import counted, described, followed

TARGETS: Final[Mapping[str, Kind]] = {
    "tensorboard": Kind(tensorboard.opened, "tensorboardX", "tensorboard"),
    "wandb": Kind(wandb.opened, "wandb", "wandb"),
    "mlflow": Kind(mlflow.opened, "mlflow", "mlflow"),
    "trackio": Kind(trackio.opened, "trackio", "trackio"),
}
"""The programs that runs can be exported to, by the words for them."""


class Exported(NamedTuple):
    """What an export has done: the ids of jobs whose runs it wrote, whose runs were there already, and that have not
    ended; where the runs are, and the command that shows them."""

    to: str
    project: str
    place: str
    hint: str
    written: tuple[int, ...]
    present: tuple[int, ...]
    unended: tuple[int, ...]

    def __repr__(self) -> str:
        counts = f"{len(self.written)} written, {len(self.present)} present, {len(self.unended)} not ended"
        return f"Exported({self.to}, {counts}, {self.place})"


def export(
    folder: Folder,
    jobs: Collection[Job],
    table: StateTable,
    configuration: Configuration,
    *,
    to: str,
    place: str | None,
    project: str | None,
) -> Exported:
    """The last attempts of these jobs that have ended are at the target, each once; see `Experiment.export`."""
    if to not in TARGETS:
        raise ExperimentManagerError(f"{to!r} is nothing to export to; there are {', '.join(TARGETS)}")
    project = folder.name if project is None else project
    check_name(project)
    those = ended(jobs, table)
    if not those:
        raise ExperimentManagerError(
            f"none of {counted(len(jobs))} of {folder.path} has ended; export again when one has (`status` tells)"
        )
    notes, written, present = Notes(), list[int](), list[int]()
    with _alone(folder), _opened(TARGETS[to], project, place) as target:
        with _asking(to, "cannot tell which runs it has"):
            there = target.marks(folder.name)
        _refuse_others(folder, target, {run_name(folder, job, table): job for job in those}, there, table)
        for job in followed(those, len(those), f"exporting to {to}"):
            run = run_of(folder, job, table, configuration(job.id))
            if there.get(run.name) == run.mark:
                present.append(run.job)
                continue
            found = points(folder, run, table, notes)
            with _asking(to, f"does not take {run.name}"):
                target.write(run, found, notes)
            written.append(run.job)
    notes.tell()
    unended = sorted({int(job.id) for job in jobs} - {int(job.id) for job in those})
    return Exported(to, project, target.place, target.hint, tuple(written), tuple(present), tuple(unended))


def _refuse_others(
    folder: Folder, target: Target, runs: Mapping[str, Job], there: Mapping[str, Mark], table: StateTable
) -> None:
    """Raise ExperimentManagerError where a run of the same name is there that is of another experiment."""
    for name in there.keys() & runs.keys():
        job = runs[name]
        if there[name].origin != origin_of(folder, job, table):
            raise ExperimentManagerError(
                f"{target.place} has {name} of another experiment that is called {folder.name}, too; export "
                f"{folder.path} under another name with --project, in Python project="
            )


@contextmanager
def _alone(folder: Folder) -> Iterator[None]:
    """Inside, nobody else exports this experiment, as far as the folder can be written: two would both write a run."""
    try:
        lock = Lock(folder.export_lock, wait_s=0.0)
    except Busy as busy:
        raise ExperimentManagerError(f"{busy.holder} exports {folder.path} just now; wait for its end") from busy
    except OSError:
        yield
        return
    try:
        yield
    finally:
        lock.release(remove=True)


@contextmanager
def _opened(kind: Kind, project: str, place: str | None) -> Iterator[Target]:
    with ExitStack() as opened:
        try:
            with _asking(kind.library, f"cannot open {place or project}"):
                target = opened.enter_context(kind.open(project, place))
        except ImportError as error:
            missing = getattr(error, "name", None) or kind.library
            raise NotInstalled(missing, kind.extra) from error
        yield target


@contextmanager
def _asking(program: str, what: str) -> Iterator[None]:
    """Inside, what a program refuses is a sentence: what is exported stays, and the same command goes on."""
    try:
        yield
    except (ExperimentManagerError, ImportError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise FolderError(unwritable(os.fsdecode(error.filename), error)) from error
        raise ExperimentManagerError(
            f"{program} {what}: {described(error)}; what it has taken stays; repeat the command to go on"
        ) from error
