"""What SLURM says about one job array, out of its queue and its accounting together. Pure.

The queue knows at once what became of a task, and forgets it after minutes. Accounting keeps it, and every earlier run
of a task that was started again, but lags behind: by seconds, and for a restarted task it may tell of the earlier runs
only, or call the new one PENDING under the id of the whole array (measured).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Set

from experiment_manager.slurm import parse
from experiment_manager.slurm.parse import Queued, Run


class Told:
    """One array, by its name: it may have been submitted more than once."""

    def __init__(
        self, rows: Iterable[Queued], runs: Mapping[str, list[Run]] | None, known: Mapping[int, Set[int]]
    ) -> None:
        """`known` are the indices that accounting has, by SLURM's id of their submission."""
        self.has_accounting = runs is not None
        self._runs = runs or {}
        self._known_indices = known
        self._slurm_ids = sorted(known)
        self._of_one: dict[int, list[Queued]] = defaultdict(list)
        self._of_many: list[Queued] = []
        for row in rows:
            if row.indices is not None and len(row.indices) == 1:
                self._of_one[next(iter(row.indices))].append(row)
            elif row.indices is not None:
                self._of_many.append(row)

    def knows_anything(self) -> bool:
        return bool(self._slurm_ids or self._of_one or self._of_many)

    def indices(self) -> set[int]:
        """The tasks that SLURM has, or remembers."""
        waiting = {index for row in self._of_many for index in row.indices or ()}
        return waiting.union(self._of_one, *self._known_indices.values())

    def active(self, index: int, slurm_id: str | None = None) -> Queued | None:
        """The row of a task that SLURM still has; with `slurm_id`, of that submission only."""
        return next((row for row in self._rows(index, slurm_id) if parse.is_active(row.state)), None)

    def last_run(self, index: int) -> Run | None:
        """The newest run of a task, of whatever submission; the queue counts where accounting is behind it."""
        runs = [run for slurm_id in self._slurm_ids for run in self._known(str(slurm_id), index)]
        last = runs[-1] if runs else None
        ended = self._ended(index)
        if ended is None or (last is not None and _slurm_id(last) > _slurm_id(ended)):
            return last
        return last if last is not None and (_slurm_id(last), last.state) == (_slurm_id(ended), ended.state) else ended

    def run(self, slurm_id: str, index: int, restart: int, since: float) -> Run | None:
        """How a run of a task ended which SLURM had started `restart` times before, at `since`; None while it is not
        said."""
        runs = self._known(slurm_id, index)
        if restart < len(runs) and parse.final_state(runs[restart].state) is not None:
            return runs[restart]
        ended = self._ended(index, slurm_id)
        if ended is None and restart >= len(runs) > 0 and (runs[-1].end or 0.0) > since:
            return runs[-1]  # accounting has lost a run: one that ended before this one began is not it
        return ended

    def _rows(self, index: int, slurm_id: str | None) -> list[Queued]:
        rows = [*self._of_one.get(index, ()), *(row for row in self._of_many if index in (row.indices or ()))]
        return [row for row in rows if slurm_id in (None, row.array_job_id)]

    def _ended(self, index: int, slurm_id: str | None = None) -> Run | None:
        """The run that the queue shows as ended a short time ago, of the newest submission."""
        rows = [row for row in self._rows(index, slurm_id) if not parse.is_active(row.state)]
        if not rows:
            return None
        row = max(rows, key=lambda row: int(row.array_job_id))
        return Run(
            task=f"{row.array_job_id}_{index}",
            job_id=row.job_id,
            name=row.name,
            state=row.state,
            exit_code=0,
            signal=0,
            start=row.start,
            end=None,
            node=row.nodes,
            out_of_memory=row.state == "OUT_OF_MEMORY",
        )

    def _known(self, slurm_id: str, index: int) -> list[Run]:
        """The runs of a task in accounting. A row of the array's bare id that has ended is that of one task, of which
        accounting does not say yet which."""
        runs = parse.runs_of(self._runs, slurm_id, index)
        return [run for run in runs if run.task != slurm_id or parse.final_state(run.state) is None]


def _slurm_id(run: Run) -> int:
    return int(run.task.partition("_")[0])


def by_name(names: Iterable[str], rows: Iterable[Queued], runs: Mapping[str, list[Run]] | None) -> dict[str, Told]:
    """What SLURM says about the arrays of these names; a job that it has refused is none."""
    known: dict[str, dict[int, set[int]]] = {name: {} for name in names}
    for task, found in (runs or {}).items():
        index = task.partition("_")[2]
        for run in found:
            if run.name in known:
                indices = known[run.name].setdefault(_slurm_id(run), set())
                indices.update([int(index)] if index.isdigit() else parse.bracketed(run.task))
    queue: dict[str, list[Queued]] = {name: [] for name in known}
    for row in rows:
        if row.name in known and (not parse.is_refused(row) or int(row.array_job_id) in known[row.name]):
            queue[row.name].append(row)
    return {name: Told(queue[name], runs, known[name]) for name in known}
