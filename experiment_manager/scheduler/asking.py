"""One question to SLURM about all launches that it may still have something to say about, and what it says.

The queue knows at once what became of a task, and forgets it after minutes. Accounting keeps it, and every earlier run
of a task that was started again, but lags behind: by seconds, and for a restarted task it may tell of the earlier runs
only, or call the new one PENDING under the id of the whole array (measured).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress
from typing import Any, NamedTuple

from experiment_manager.errors import ExperimentManagerError, JobRefused, SlurmError, UnreadableLaunch
from experiment_manager.model.records import Launch, State
from experiment_manager.scheduler.slurm import client, parse
from experiment_manager.scheduler.slurm.parse import Queued, Run
from experiment_manager.scheduler.submissions import LaunchedArray, Sightings, Submission, launched_arrays
from experiment_manager.store.launches import launch_numbers, planned_attempts, read_launch, settle, unsettled_numbers
from experiment_manager.store.layout import Folder
from experiment_manager.store.states import Snapshot, States, task_in
from experiment_manager.text import skipped, tell


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


class OpenLaunch(NamedTuple):
    """A launch whose jobs SLURM may still have to say something about."""

    launch: Launch
    arrays: Sequence[LaunchedArray]
    planned: Mapping[int, int]  # job -> the number of its first attempt in this launch
    submission: Submission
    sightings: Sightings


class Answer(NamedTuple):
    """What SLURM says about the arrays of these names, of these users."""

    names: frozenset[str]
    users: frozenset[str]
    rows: Sequence[parse.Queued] | None  # None: it could not be asked, or is not here
    runs: Mapping[str, list[parse.Run]] | None  # None: there is no accounting

    def covers(self, launches: Iterable[OpenLaunch], users: Iterable[str]) -> bool:
        """Whether it was asked about all of these."""
        return self.names.issuperset(_names(launches)) and self.users.issuperset(users)

    def about(self, launches: Iterable[OpenLaunch]) -> dict[str, Told] | None:
        """What it says, by name of the array; None where it could not be asked."""
        return None if self.rows is None else by_name(_names(launches), self.rows, self.runs)


def running_records(states: States, snapshot: Snapshot) -> list[Mapping[str, Any]]:
    """Who runs what is RUNNING: a script may have been submitted by somebody else than its author."""
    return [
        snapshot.runners.get((job_id, number)) or states.record(job_id, number)
        for job_id, numbers in snapshot.attempts.items()
        for number, state in numbers.items()
        if state is State.RUNNING
    ]


def open_launches(
    folder: Folder, running: Sequence[Mapping[str, Any]] = (), *, is_to_act: bool = False
) -> tuple[list[OpenLaunch], set[str]]:
    """The launches that are not settled, or run again, as a script can be submitted twice; and who may run them.

    One that cannot be read is named and left out; where jobs are going to be started, it raises UnreadableLaunch.
    """
    by_slurm = {str(record.get("launch")) for record in running if record.get("by_slurm")}
    found = list(_unsettled(folder, by_slurm, is_to_act=is_to_act))
    users = {task.user for task in map(task_in, running) if task is not None and task.user is not None}
    return found, users | {str(opened.launch.record["user"]) for opened in found}


def _unsettled(folder: Folder, running: set[str], *, is_to_act: bool) -> Iterable[OpenLaunch]:
    open_ones = running.union(unsettled_numbers(folder))
    for number in launch_numbers(folder, open_ones):
        try:
            launch = read_launch(folder, number)
            arrays = launched_arrays(launch)
            if arrays:
                submission = Submission(folder, launch, is_to_act=is_to_act)
                sightings = Sightings(folder, launch, is_to_act=is_to_act)
                yield OpenLaunch(launch, arrays, planned_attempts(launch), submission, sightings)
            else:
                settle(folder, number)  # SLURM does not run it: its record has been read for the last time
        except UnreadableLaunch as error:
            if is_to_act and error.is_newer:
                raise
            if is_to_act:
                raise UnreadableLaunch(
                    f"{error}. Which jobs launch {number} has in hand is not known, so none is started: mend the file, "
                    f"or move {folder.join('launches', number)} away if none of its jobs waits or runs"
                ) from error
            skipped(str(error))
        except JobRefused:  # whoever made its folder was ended before its record: nothing was handed over
            continue


def ask(launches: Sequence[OpenLaunch], users: Iterable[str]) -> Answer:
    """What SLURM says about these launches; says on standard error when it cannot be asked."""
    names, asked = frozenset(_names(launches)), frozenset(users)
    if not launches or not client.is_available():
        return Answer(names, asked, None, None)
    try:
        rows = client.squeue(asked)
        runs = client.sacct(names, min(float(opened.launch.record["time"]) for opened in launches))
    except SlurmError as error:
        tell(f"SLURM cannot be asked: {error}. What it runs is shown as it was last known")
        return Answer(names, asked, None, None)
    return Answer(names, asked, rows, runs)


def ask_about(folders: Iterable[Folder]) -> Answer:
    """The same about the launches of several experiments; those whose launches cannot be read are left out."""
    launches: list[OpenLaunch] = []
    users: set[str] = set()
    for folder in folders:
        with suppress(ExperimentManagerError):  # who tells of that experiment says why
            found, theirs = open_launches(folder)
            launches, users = [*launches, *found], users | theirs
    return ask(launches, users)


def _names(launches: Iterable[OpenLaunch]) -> list[str]:
    return [array.name for opened in launches for array in opened.arrays]
