"""Which jobs run in which task of which job array. Pure: ids and limits in, arrays out.

The index of a task is the id of its job where the ids fit; otherwise tasks are numbered by position and the script
carries a table. A scheduler limits the index and not the number of tasks (SLURM's MaxArraySize, measured), and the
length of the text that names them.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from experiment_manager.model.ids import format_ids
from experiment_manager.scheduler.protocol import Limits, Options

USUAL_LIMITS: Final = Limits(array_size=1001, text=4000)
"""Of SLURM where nothing is configured (https://slurm.schedmd.com/slurm.conf.html): the text may have 4,096 bytes."""


class Array(NamedTuple):
    """One job array: `tasks` are the ids that each task runs, in order."""

    options: Any  # checked by its scheduler, see Options
    tasks: tuple[tuple[int, ...], ...]
    throttle: int | None  # how many tasks may run at a time; None: as many as the scheduler lets
    is_indexed_by_job: bool
    after: int | None = None  # the array that has to end before this one begins, by its place in the list

    @property
    def jobs(self) -> list[int]:
        return [job_id for task in self.tasks for job_id in task]

    @property
    def indices(self) -> list[int]:
        """The index of each task."""
        return [task[0] for task in self.tasks] if self.is_indexed_by_job else list(range(len(self.tasks)))

    @property
    def text(self) -> str:
        """The tasks and the throttle: `0-3,7%2`."""
        throttle = "" if self.throttle is None else f"%{self.throttle}"
        return format_ids(self.indices) + throttle


def arrays(wanted: Iterable[tuple[Options, Sequence[int]]], limits: Limits = USUAL_LIMITS) -> list[Array]:
    """The arrays that run these jobs, given with the options under which they run.

    A throttle (`array_parallelism`) holds for all arrays together: it is shared out, and where there are fewer than one
    for each array, they run in as many chains, one array after the other.
    """
    found: list[Array] = []
    for options, ids in wanted:
        pack = options.pack or 1
        ordered = sorted(ids)
        tasks = [tuple(ordered[at : at + pack]) for at in range(0, len(ordered), pack)]
        found += _split(options, tasks, limits)
    return _throttled(found)


def _split(options: Options, tasks: Sequence[tuple[int, ...]], limits: Limits) -> list[Array]:
    whole = Array(options, tuple(tasks), None, is_indexed_by_job=True)
    fits = max(whole.indices) < limits.array_size and len(whole.text) <= limits.text
    if fits and all(len(task) == 1 for task in tasks):
        return [whole]
    return [
        Array(options, tuple(tasks[at : at + limits.array_size]), None, is_indexed_by_job=False)
        for at in range(0, len(tasks), limits.array_size)
    ]


def _throttled(found: Sequence[Array]) -> list[Array]:
    """The same arrays with their part of the throttle, and chained where it does not go round."""
    limits = [array.options.array_parallelism for array in found if array.options.array_parallelism is not None]
    if not limits:
        return list(found)
    limit = min(limits)
    n_chains = min(limit, len(found))
    share, rest = divmod(limit, n_chains)
    throttled = []
    for place, array in enumerate(found):
        part = share + (place % n_chains < rest)
        after = place - n_chains if place >= n_chains else None
        throttled.append(array._replace(throttle=part if part < len(array.tasks) else None, after=after))
    return throttled
