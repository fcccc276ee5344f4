"""What a scheduler is told, and what it tells: the place and the options of an array, what it waits for, the rows of a
queue and the runs of a history. No task needs any of it to begin its job."""

from collections.abc import Callable, Collection
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from experiment_manager.model.records import State, task_name

if TYPE_CHECKING:
    from experiment_manager.model.ids import RangeSet
    from experiment_manager.scheduler.arrays import Array


class Phase(StrEnum):
    """How far a task in the queue has come."""

    WAITING = "waiting"  # no node has been given to it, or it was taken away again
    RUNNING = "running"
    PAUSED = "paused"  # it holds its nodes, and does not run until it is let go on
    ENDING = "ending"  # it holds nodes and does not run: it is being ended, cleared up
    ENDED = "ended"  # the queue still shows how


class Share(NamedTuple):
    """What one job has of its task: by what was asked for, or as much as it needs. None is what nobody knows."""

    cpus: float | None = None
    gpus: float | None = None
    memory_bytes: float | None = None
    limit_s: float | None = None  # how long it may run


class QueueRow(NamedTuple):
    """One row of the queue: a task, or the tasks of an array that have not been split off yet."""

    name: str  # of the array
    array: str  # the scheduler's id of the array
    indices: "RangeSet | None"  # None: no array, and none of ours
    phase: Phase
    end: State | None  # what it has come to, for what has ENDED
    word: str  # the scheduler's own for that
    reason: str  # why it waits, in the scheduler's words; empty where it does not say
    start: float | None  # epoch seconds; an estimate while it waits
    user: str
    node: str = ""
    script: str = ""  # the path that it was submitted with, as far as that is told

    @property
    def waits_for(self) -> str:
        """Why it waits; where the scheduler does not say, its word for that."""
        return self.reason or self.word.lower()

    def names_task(self, index: int) -> str:
        """How the scheduler's commands name one of its tasks: `12_7`."""
        return task_name(self.array, index)


class Run(NamedTuple):
    """One run of one task, as the scheduler's history has it; runs of a task are in the order in which they were."""

    name: str  # of the array
    array: str  # the scheduler's id of the array
    array_index: int | None  # of the task; None for what stands for several
    waiting: "RangeSet | None"  # the tasks that have not been split off, which this stands for; None: it is one task
    end: State | None  # None: it has not ended, as far as is known
    word: str
    exit_code: int = 0
    signal: int = 0
    start: float | None = None
    end_time: float | None = None
    node: str = ""
    why: str = ""  # what the scheduler's codes mean in words, where they are not plain

    @property
    def task(self) -> str:
        """How the scheduler's commands name it: `12_7`; the id alone where it is not known which task that was."""
        return self.array if self.array_index is None else task_name(self.array, self.array_index)


class Limits(NamedTuple):
    """What an array may be."""

    array_size: int  # one more than the largest index
    text: int  # the longest text that names its tasks, in bytes


class Place(NamedTuple):
    """Where an array belongs: all of it is written into the script, which needs nothing else."""

    experiment_path: str
    experiment_name: str
    launch: str
    job_name: str  # the token by which the scheduler's records are found again
    logs: str  # the folder of the logs of tasks, which hold what was said before and after the job
    python: str
    part: int = 1  # this is array `part` of `n_parts`
    n_parts: int = 1

    def command(self, array: "Array") -> list[str]:
        """The words that run a task of the array; one more has to follow, of `Array.words`."""
        words = [self.python, "-P", "-m", "experiment_manager", "run", "--experiment-path", self.experiment_path]
        words += ["--experiment-name", self.experiment_name, "--launch", self.launch, "--array", self.job_name]
        return [*words, "--job-id" if array.n_workers is None else "--worker"]


class Options(Protocol):
    """The checked options of jobs, of which these are common to all schedulers. Equal options are equal records."""

    @property
    def name(self) -> str | None: ...
    @property
    def pack(self) -> int | None: ...
    @property
    def array_parallelism(self) -> int | None: ...
    @property
    def resources_from(self) -> str | None: ...
    @property
    def workers(self) -> int | None: ...


class Dependency(NamedTuple):
    """What has to be before the tasks of a script begin; nothing, where both are empty."""

    ended: tuple[str, ...] = ()
    """These have ended, well or not: whole arrays by their ids (`12`), and tasks of arrays (`12_7`)."""

    matching: tuple[str, ...] = ()
    """For each task, the one of its own index in these arrays has ended well; a task for which that cannot be any more
    is cancelled. For schedulers that can, see `Scheduler.matches_tasks`."""


NOTHING: Final = Dependency()

Send = Callable[[str, Dependency], str]
"""Submits a script, to begin when that is so; returns the id of the array. Raises SchedulerError, or FolderError where
it has not got as far as the scheduler."""


def not_asked(clusters: Collection[str], asked: Collection[str] | None) -> frozenset[str]:
    """Those of the clusters that are not asked; all of them where it is not known which are (None).

    >>> sorted(not_asked({"a", "b"}, {"b", "c"})), sorted(not_asked({"a", "b"}, None))
    (['a'], ['a', 'b'])
    """
    return frozenset(clusters).difference(asked or ())


def who_is_asked(asked: Collection[str] | None) -> str:
    """
    >>> who_is_asked({"a"}), who_is_asked(None)
    ('a is asked', 'it is not known which cluster is asked')
    """
    return "it is not known which cluster is asked" if asked is None else f"{', '.join(sorted(asked))} is asked"
