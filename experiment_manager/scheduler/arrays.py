"""Which jobs run in which task of which job array. Pure: ids and limits in, arrays out.

The index of a task is the id of its job where the ids fit; otherwise tasks are numbered by position and the script
carries a table. Where there are workers, it is the place at which the worker begins in the list of all jobs: which jobs
it runs shows only when it does. A scheduler limits the index and not the number of tasks (SLURM's MaxArraySize,
measured), and the length of the text that names them.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from experiment_manager.errors import OptionsError
from experiment_manager.model.ids import format_ids
from experiment_manager.scheduler.records import Limits, Options

USUAL_LIMITS: Final = Limits(array_size=1001, text=4000)
"""Of SLURM where nothing is configured (https://slurm.schedmd.com/slurm.conf.html): the text may have 4,096 bytes."""


class Array(NamedTuple):
    """One job array: `tasks` are the ids that each task runs, in order."""

    options: Any  # checked by its scheduler, see Options
    tasks: tuple[tuple[int, ...], ...]
    throttle: int | None  # how many tasks may run at a time; None: as many as the scheduler lets
    is_indexed_by_job: bool
    after: int | None = None  # the array that has to end before this one begins, by its place in the list
    n_workers: int | None = None  # so many tasks, each of which runs job after job: `tasks` are what they may take

    @property
    def jobs(self) -> list[int]:
        return [job_id for task in self.tasks for job_id in task]

    @property
    def indices(self) -> list[int]:
        """The index of each task."""
        return [task[0] for task in self.tasks] if self.is_indexed_by_job else list(range(self.n_tasks))

    @property
    def n_tasks(self) -> int:
        return len(self.tasks) if self.n_workers is None else self.n_workers

    @property
    def words(self) -> dict[int, str]:
        """By the index of a task, the word that ends its command, see `Place.command`: which jobs, or which worker.

        >>> Array(None, ((3, 4), (7,)), None, is_indexed_by_job=False).words
        {0: '3,4', 1: '7'}
        """
        if self.n_workers is not None:
            return {index: str(index) for index in self.indices}
        jobs = (",".join(map(str, task)) for task in self.tasks)
        return dict(zip(self.indices, jobs, strict=True))

    @property
    def text(self) -> str:
        """The tasks and the throttle: `0-3,7%2`."""
        throttle = "" if self.throttle is None else f"%{self.throttle}"
        return format_ids(self.indices) + throttle


def arrays(wanted: Iterable[tuple[Options, Sequence[int]]], limits: Limits = USUAL_LIMITS) -> list[Array]:
    """The arrays that run these jobs, given with the options under which they run.

    A throttle (`array_parallelism`) holds for all arrays together: it is shared out, and where there are fewer than one
    for each array, they run in as many chains, one array after the other. So are `workers`, by the number of jobs; no
    array has none, and none has more than can find a job to begin with. Raises OptionsError where there cannot be so
    many.
    """
    groups = [(options, sorted(ids)) for options, ids in wanted]
    total = sum(len(ids) for options, ids in groups if options.workers is not None)
    found: list[Array] = []
    for options, ids in groups:
        pack = options.pack or 1
        if options.workers is None:
            tasks = [tuple(ids[at : at + pack]) for at in range(0, len(ids), pack)]
            found += _split(options, tasks, limits)
        else:
            n_workers = _n_workers(options.workers, len(ids), total, pack)
            if n_workers > limits.array_size:
                raise OptionsError(
                    f"workers={n_workers}: an array has {limits.array_size} tasks here at most; use that many or fewer"
                )
            found.append(of_workers(options, ids, n_workers))
    return _throttled(found)


def _n_workers(workers: int, n_jobs: int, total: int, pack: int) -> int:
    """How many of the workers are for so many jobs of a total.

    >>> _n_workers(16, 100, 100, 1), _n_workers(16, 25, 100, 1), _n_workers(2, 1, 100, 1), _n_workers(16, 5, 5, 2)
    (16, 4, 1, 3)
    """
    return min(max(1, round(workers * n_jobs / total)), -(-n_jobs // pack))


def of_workers(options: Options, ids: Iterable[int], n_workers: int) -> Array:
    """The array of so many workers, each of which may take any of these jobs."""
    tasks = tuple((job_id,) for job_id in sorted(ids))
    return Array(options, tasks, None, is_indexed_by_job=False, n_workers=n_workers)


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
        throttled.append(array._replace(throttle=part if part < array.n_tasks else None, after=after))
    return throttled
