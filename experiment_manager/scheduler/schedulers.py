"""Which schedulers there are, by name: SLURM, and those that installed packages bring."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache

from experiment_manager.errors import OptionsError
from experiment_manager.model.records import Launch, Task
from experiment_manager.scheduler.protocol import Scheduler
from experiment_manager.scheduler.slurm.scheduler import Slurm
from experiment_manager.typing_names import Any, Final

VARIABLE: Final = "EXPERIMENT_MANAGER_SCHEDULER"
"""In the environment of its tasks, the name of a scheduler that is not SLURM; its scripts set it."""

ENTRY_POINTS: Final = "experiment_manager.schedulers"


_TOLD: Final = "EXPERIMENT_MANAGER_TASK_IS_THERE"
"""In the environment of what a pool starts: until when nobody asks again whether the task is there, and which."""

_PAUSES: Final = 60
"""Nobody asks again for so many times as long as the answer took: for five minutes where a controller was silent."""

_asked_again_at: dict[str, float] = {}


BUILT_IN: Final[tuple[Scheduler, ...]] = (Slurm(),)
"""Those that need no package of somebody else."""


@cache
def named(name: str) -> Scheduler:
    """The scheduler of that name. Raises OptionsError where none is installed."""
    for known in BUILT_IN:
        if known.name == name:
            return known
    from importlib.metadata import entry_points

    for found in entry_points(group=ENTRY_POINTS, name=name):
        try:
            scheduler: Scheduler = found.load()()
        except (ImportError, AttributeError, TypeError) as error:
            raise OptionsError(
                f"the scheduler {name!r} cannot be loaded ({type(error).__name__}: {error}); upgrade, or remove, the "
                "package that brings it"
            ) from error
        return scheduler
    raise OptionsError(
        f"there is no scheduler {name!r} here; install the package that brings it, as an entry point of {ENTRY_POINTS}"
    )


def current(environ: Mapping[str, str] = os.environ) -> Scheduler | None:
    """The scheduler of the task that a process with this environment runs in; None outside of all."""
    if name := environ.get(VARIABLE):
        return named(name)
    return next((known for known in BUILT_IN if known.task(environ) is not None), None)


def current_built_in(environ: Mapping[str, str] = os.environ) -> Scheduler | None:
    """As `current`, for a process of which others are copies: None where it would take a package of somebody else."""
    name = environ.get(VARIABLE)
    return None if name and name not in {known.name for known in BUILT_IN} else current(environ)


def current_task(environ: Mapping[str, str] = os.environ) -> Task | None:
    """The task that a process with this environment runs in; None outside of all schedulers."""
    scheduler = current(environ)
    return None if scheduler is None else scheduler.task(environ)


def task_of_attempt(scheduler: str | None) -> Task | None:
    """The task that an attempt which begins here is a part of. Where no scheduler was asked to run it, its own is asked
    whether the task is still there: a shell, or a daemon, may outlive that, and what it runs goes on."""
    task = current_task()
    has_left = scheduler is None and task is not None and _has_outlived(task)
    return None if has_left else task


def told_to_supervisors() -> dict[str, str]:
    """The environment variables by which jobs that this process starts, and no scheduler was asked to run, know that
    the task around them is there: each would ask, and wait for a controller that is silent."""
    task = task_of_attempt(None)
    at = None if task is None else _asked_again_at.get(_words(task))
    return {} if task is None or at is None else {_TOLD: f"{at} {_words(task)}"}


def _has_outlived(task: Task) -> bool:
    words = _words(task)
    told_at, _, told = os.environ.get(_TOLD, "").partition(" ")
    with suppress(ValueError):
        if told == words:
            _asked_again_at.setdefault(words, float(told_at))
    began = time.monotonic()  # one clock for all processes of a machine
    if began < _asked_again_at.get(words, began):
        return False
    found = named(task.scheduler).has_outlived(task)
    if not found:
        ended = time.monotonic()
        _asked_again_at[words] = ended + _PAUSES * (ended - began)
    return found


def _words(task: Task) -> str:
    return f"{task.scheduler} {task.name} {task.restart}"


def recorded(task: Task | None) -> dict[str, Any]:
    """What the anchor of an attempt keeps of its task; empty outside of all schedulers."""
    return {} if task is None else task.record()


def has_ended(task: Task, is_by_hand: bool = False) -> bool:
    """Whether the scheduler of a task says that this run of it has ended; false when it is silent. Of what people have
    begun, which no scheduler was asked to run, see `holds_what_names_it`."""
    try:
        return (not is_by_hand or holds_what_names_it(task)) and named(task.scheduler).has_ended(task)
    except OptionsError:
        return False


def holds_what_names_it(task: Task) -> bool:
    """Whether what people have begun, and whose anchor names the task, ends with it, by its scheduler; false where
    that is not installed."""
    try:
        return named(task.scheduler).holds_what_names_it(task)
    except OptionsError:
        return False


def ended(tasks: Iterable[Task]) -> frozenset[Task]:
    """Those of which `has_ended` is true; each scheduler is asked about all of its tasks together."""
    by_scheduler: dict[str, set[Task]] = {}
    for task in tasks:
        by_scheduler.setdefault(task.scheduler, set()).add(task)
    found: set[Task] = set()
    for name, its in by_scheduler.items():
        with suppress(OptionsError):
            found |= named(name).ended(its)
    return frozenset(found)


def label_of(name: str) -> str:
    """What people call the scheduler of that name, also where it is not installed."""
    try:
        return named(name).label
    except OptionsError:
        return name


def name_of(launch: Launch) -> str | None:
    """The name of the scheduler that runs a launch; None for one that no scheduler runs."""
    found = launch.record.get("scheduler")
    return str(found) if found else Slurm.name if Slurm.name in launch.record else None


def of(launch: Launch) -> Scheduler | None:
    """The scheduler that runs a launch; None for one that no scheduler runs. Raises OptionsError."""
    name = name_of(launch)
    return None if name is None else named(name)
