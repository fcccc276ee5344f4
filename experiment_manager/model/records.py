"""The nouns of the project, frozen. Nothing here reads or writes a file.

The records are `NamedTuple`s and not dataclasses because every SLURM task starts by importing them: the import of
`dataclasses` (and `inspect` behind it) alone costs about as much as that of `sqlite3` and `subprocess` together.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from experiment_manager.typing_names import Any, Final, NamedTuple, NewType

JobId = NewType("JobId", int)
"""The number of a job: given once, never changed, never reused. Not a position."""

NO_FUNCTIONS: Final = "EXPERIMENT_MANAGER_NO_FUNCTIONS"
"""A variable of the environment in whose presence no filter calls a function: it may do anything."""


class State(StrEnum):
    """The state of an attempt. SLURM's names, and QUEUED, LOST, PRUNED and FAKE, which are ours."""

    __hash__ = str.__hash__  # that of an enumeration is Python, and `status` looks some hundred thousand up

    PENDING = "PENDING"  # not handed over yet
    QUEUED = "QUEUED"  # SLURM has it, it has not begun
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    CANCELLED = "CANCELLED"
    PREEMPTED = "PREEMPTED"
    NODE_FAIL = "NODE_FAIL"
    LOST = "LOST"  # it began, nothing runs it any more, nobody knows why
    PRUNED = "PRUNED"  # it did worse than others, was told so, and left: done, with a result of a shorter course
    FAKE = "FAKE"  # a dry pass has ended, well or not: nothing was computed, so it must never count as COMPLETED


UNFINISHED = frozenset({State.PENDING, State.QUEUED, State.RUNNING})
ENDED = frozenset(State) - UNFINISHED
ENDED_WELL = frozenset({State.COMPLETED, State.PRUNED})
"""States of a job that is done: it runs again only for somebody who says so."""

ENDED_BADLY = ENDED - ENDED_WELL - {State.FAKE}
"""States that a person wants to hear about: the attempt ended and left no result to trust."""

TO_START_AGAIN: Final = ", to be started again"
"""How the reason of an attempt ends after which the scheduler starts the job again by itself."""


class Counts(dict[str, int]):
    """How many jobs are in which state, `counts["COMPLETED"]`; those states alone that some job has, and 0 for others.
    Raises KeyError for what is no state.

    >>> Counts({State.FAILED: 2})["FAILED"], Counts()["COMPLETED"], list(Counts())
    (2, 0, [])
    >>> Counts({State.COMPLETED: 3, State.FAILED: 1})
    Counts(COMPLETED=3, FAILED=1)
    """

    def __missing__(self, state: str) -> int:
        if state not in frozenset(State):
            raise KeyError(f"{state!r} is no state; the states are {', '.join(State)}")
        return 0

    def __repr__(self) -> str:
        return f"Counts({', '.join(f'{state}={count}' for state, count in self.items())})"

    def _repr_html_(self) -> str:
        from experiment_manager.model import html

        return html.block(html.table([{"state": str(state), "count": count} for state, count in self.items()]))


class Entry(NamedTuple):
    """How the user's program was started: enough to start it again in another process."""

    python: str  # absolute path of the interpreter
    flags: tuple[str, ...]  # interpreter flags, as -O or -X dev
    target: tuple[str, ...]  # ("train.py",) or ("-m", "pkg.train")
    app_arguments: tuple[str, ...]  # what the program takes for itself, before Hydra's arguments
    cwd: str


class Source(NamedTuple):
    """One place on Hydra's search path. `path` is relative to the experiment's folder where it is frozen."""

    provider: str  # "main", "command-line" or "searchpath"
    path: str
    frozen: bool


class Code(NamedTuple):
    """The copy of a program's files that its jobs run from; paths in it are relative to it."""

    path: str  # relative to the experiment's folder
    root: str  # what was copied
    cwd: str | None  # where the program was started; None: not in what was copied
    script: str | None  # what Python was given; None: a module, or not in what was copied
    imports: tuple[str, ...]  # where modules are looked for


class Recipe(NamedTuple):
    """All that it takes to turn the overrides of a job into a process that composes the same configuration again."""

    entry: Entry
    config_name: str | None
    sources: tuple[Source, ...]
    hydra_overrides: tuple[str, ...]  # Hydra's own, in order; those that place the job are left out
    job_name: str
    task: str  # which function the jobs call, as `train.py:main`
    on_drift: str  # "error" or "warn"
    now: Mapping[str, str]  # the sweep's one answer to each ${now:...}
    task_pickle: str | None = None  # for task functions that no script can be asked for; relative to the folder
    code: Code | None = None  # None: the program as it is when a job starts

    @property
    def has_program(self) -> bool:
        """Whether it says what runs a job; a sweep that was defined in Python does so from its launch on."""
        return bool(self.entry.target or self.task_pickle)


class Job(NamedTuple):
    """One job of an experiment: a point of the grid, or one that was added in Python.

    `identity` is the text by which equal variables are known, `overrides` are Hydra's. `fingerprint` is the hash of the
    configuration, None until the job has one: a job that never passed a filter is known by its variables only.
    `recipe` is None for jobs that were written in Python.
    """

    id: JobId
    identity: str
    variables: Mapping[str, Any]
    overrides: tuple[str, ...]
    fingerprint: str | None
    recipe: int | None

    def __repr__(self) -> str:
        from experiment_manager.text import one_line

        return f"Job({self.id}: {one_line(str(dict(self.variables)))})"


class Attempt(NamedTuple):
    """One run of a job, counted from 1; number 0 and PENDING stand for a job that has none yet."""

    job_id: JobId
    number: int
    state: State


class Launch(NamedTuple):
    """One handing-over of jobs to something that runs them: its number, as text of four digits or more, and its record,
    `launches/NNNN/launch.json`."""

    number: str
    record: Mapping[str, Any]

    def __repr__(self) -> str:
        from experiment_manager.text import one_line

        jobs = ",".join(map(str, self.record.get("jobs", {}).values()))
        return f"Launch({self.number!r} by {self.launcher}: {one_line(jobs) or 'none'})"

    @property
    def launcher(self) -> str | None:
        """Which launcher has handed the jobs over: one of ours by its own name, whatever YAML file has chosen it. Of
        records that name the file alone, the class tells, which their options name."""
        options = self.record.get("options")
        target = options.get("_target_") if isinstance(options, Mapping) else None
        return launcher_of(target) or self.record.get("launcher")


_LAUNCHERS: Final = {
    "LocalPoolLauncher": "local_pool",
    "SlurmScriptLauncher": "slurm_script",
    "SlurmSubmititLauncher": "slurm_submitit",
}


def launcher_of(target: Any) -> str | None:
    """The name of our launcher of that class; None for any other class.

    >>> launcher_of("hydra_plugins.hydra_experiment_manager.launchers.LocalPoolLauncher"), launcher_of(None)
    ('local_pool', None)
    """
    package, _, name = str(target).rpartition(".")
    return _LAUNCHERS.get(name) if package.startswith("hydra_plugins.hydra_experiment_manager.") else None


def task_name(array: str, array_index: int) -> str:
    """How people and a scheduler's commands name a task of an array: `12_7`."""
    return f"{array}_{array_index}"


class Task(NamedTuple):
    """One task of a scheduler, in one of its runs, as the anchor of an attempt has it."""

    scheduler: str  # its name: slurm
    id: str  # of the job that runs
    array: str | None = None  # the id of the array; None: it is no part of one
    array_index: int | None = None
    restart: int = 0  # how often the scheduler had started the task before
    node: str | None = None
    user: str | None = None
    cluster: str | None = None  # of several, the one that runs it; None: it is not known

    @property
    def name(self) -> str:
        """How people and the scheduler's commands name it: `12_7`, or `12` where it is no part of an array.

        Never the id of an array's task alone: one task bears the id of the whole array (measured on SLURM 22.05).
        """
        if self.array is None or self.array_index is None:
            return self.id
        return task_name(self.array, self.array_index)

    def record(self) -> dict[str, Any]:
        """What the anchor of an attempt keeps of it; its cluster beside it, where older versions pass over it."""
        about = self._asdict()
        cluster = about.pop("cluster")
        return {"task": about, **({} if cluster is None else {"cluster": cluster})}

    def is_earlier_run_of(self, later: Task | None) -> bool:
        """Whether the scheduler has started the same task again since."""
        if later is None or (self.cluster and later.cluster and self.cluster != later.cluster):
            return False
        return self.name == later.name and self.restart < later.restart
