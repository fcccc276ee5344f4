"""Which jobs run in which task of which job array. Pure: ids and limits in, arrays out.

The index of a task is the id of its job where the ids fit; otherwise tasks are numbered by position and the script
carries a table. `MaxArraySize` limits the index and not the number of tasks (measured), and the text of `--array` may
not be longer than 4,096 bytes.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from experiment_manager.model.ids import format_ids
from experiment_manager.scheduler.slurm.options import SlurmOptions

LONGEST_ARRAY_TEXT: Final = 4000
DEFAULT_MAX_ARRAY_SIZE: Final = 1001
"""SLURM's own default (https://slurm.schedmd.com/slurm.conf.html)."""


class Array(NamedTuple):
    """One job array: `tasks` are the ids that each task runs, in order."""

    options: SlurmOptions
    tasks: tuple[tuple[int, ...], ...]
    throttle: int | None  # how many tasks may run at a time; None: as many as SLURM lets
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
        """What to write after --array=."""
        throttle = "" if self.throttle is None else f"%{self.throttle}"
        return format_ids(self.indices) + throttle


def arrays(
    wanted: Iterable[tuple[SlurmOptions, Sequence[int]]], *, max_array_size: int = DEFAULT_MAX_ARRAY_SIZE
) -> list[Array]:
    """The arrays that run these jobs, given with the options under which they run.

    A throttle (`array_parallelism`) holds for all arrays together: it is shared out, and where there are fewer than one
    for each array, they run in as many chains, one array after the other.
    """
    found: list[Array] = []
    for options, ids in wanted:
        pack = options.pack or 1
        ordered = sorted(ids)
        tasks = [tuple(ordered[at : at + pack]) for at in range(0, len(ordered), pack)]
        found += _split(options, tasks, max_array_size)
    return _throttled(found)


def _split(options: SlurmOptions, tasks: Sequence[tuple[int, ...]], max_array_size: int) -> list[Array]:
    whole = Array(options, tuple(tasks), None, is_indexed_by_job=True)
    fits = max(whole.indices) < max_array_size and len(whole.text) <= LONGEST_ARRAY_TEXT
    if fits and all(len(task) == 1 for task in tasks):
        return [whole]
    return [
        Array(options, tuple(tasks[at : at + max_array_size]), None, is_indexed_by_job=False)
        for at in range(0, len(tasks), max_array_size)
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
