"""One question to each scheduler about all launches that it may still have something to say about, and the answer.

The queue knows at once what became of a task, and forgets it after minutes. The history keeps it, and every earlier run
of a task that was started again, but lags behind: by seconds, and for a restarted task it may tell of the earlier runs
only, or show the new one as a part of the whole array that waits (measured on SLURM).
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from types import MappingProxyType
from typing import Any, NamedTuple

from experiment_manager.errors import (
    ExperimentManagerError,
    JobRefused,
    OptionsError,
    SchedulerError,
    UnreadableLaunch,
)
from experiment_manager.model.records import JobId, Launch, State, Task
from experiment_manager.scheduler import schedulers
from experiment_manager.scheduler.protocol import Scheduler
from experiment_manager.scheduler.records import Phase, QueueRow, Run, not_asked, who_is_asked
from experiment_manager.scheduler.submission import (
    ArrayNames,
    LaunchedArray,
    launched_arrays,
    original,
    script_paths,
    without_history,
)
from experiment_manager.store.launches import (
    is_being_submitted,
    launch_numbers,
    planned_attempts,
    read_launch,
    settle,
    unsettled_numbers,
    user_name,
)
from experiment_manager.store.layout import Folder
from experiment_manager.store.states import States, StateTable, scheduler_in, task_in
from experiment_manager.store.submissions import Sightings, Submission
from experiment_manager.text import skipped, tell


class ArrayReport:
    """What a scheduler says about one array, by its name: it may have been submitted more than once."""

    def __init__(
        self,
        rows: Iterable[QueueRow],
        runs: Iterable[Run] | None,
        *,
        is_by_id: bool = False,
        is_history_silent: bool = False,
    ) -> None:
        """`rows` and `runs` are those of the array alone; None: no history is kept, or, as `is_history_silent` says, it
        has not answered and may do so later. `is_by_id` tells that the scheduler was asked for the array itself, so
        that what is in neither is there no more."""
        self.has_history, self.is_by_id, self.is_history_silent = runs is not None, is_by_id, is_history_silent
        self._of_task: dict[tuple[str, int], list[Run]] = defaultdict(list)
        self._of_many: dict[str, list[Run]] = defaultdict(list)
        for run in runs or ():
            if run.array_index is not None:
                self._of_task[run.array, run.array_index].append(run)
            else:
                self._of_many[run.array].append(run)
        self._arrays = sorted({array for array, _ in self._of_task} | set(self._of_many), key=_order)
        self._rows_of_one: dict[int, list[QueueRow]] = defaultdict(list)
        self._rows_of_many: list[QueueRow] = []
        self.ids = set(self._arrays)
        for row in rows:
            self.ids.add(row.array)
            if row.indices is not None and len(row.indices) == 1:
                self._rows_of_one[next(iter(row.indices))].append(row)
            elif row.indices is not None:
                self._rows_of_many.append(row)

    def as_final(self) -> "ArrayReport":
        """The same, of a scheduler that has nothing more to say about the array."""
        found = copy(self)
        found.is_by_id = True
        return found

    @property
    def is_in_history(self) -> bool:
        """Whether the history knows any task of the array."""
        return bool(self._arrays)

    def knows_anything(self) -> bool:
        return bool(self._arrays or self._rows_of_one or self._rows_of_many)

    def indices(self) -> set[int]:
        """The tasks that the scheduler has, or remembers."""
        waiting = {index for row in self._rows_of_many for index in row.indices or ()}
        split_off = {index for _, index in self._of_task}
        together = {index for runs in self._of_many.values() for run in runs for index in run.waiting or ()}
        return waiting | split_off | together | set(self._rows_of_one)

    def active(self, index: int, array: str | None = None) -> QueueRow | None:
        """The row of a task that has not ended; with the id of an `array`, of that submission only."""
        return next((row for row in self._rows(index, array) if row.phase is not Phase.ENDED), None)

    def last_run(self, index: int) -> Run | None:
        """The newest run of a task, of whatever submission; the queue counts where the history is behind it."""
        runs = [run for array in self._arrays for run in self._known(array, index)]
        last = runs[-1] if runs else None
        ended = self._ended(index)
        if ended is None or (last is not None and _order(last.array) > _order(ended.array)):
            return last
        return last if last is not None and (last.array, last.word) == (ended.array, ended.word) else ended

    def run(self, array: str, index: int, restart: int, since: float) -> Run | None:
        """How a run of a task ended that had been started `restart` times before, at `since`; None while it is not
        said."""
        runs = self._known(array, index)
        if restart < len(runs) and runs[restart].end is not None:
            return runs[restart]
        ended = self._ended(index, array)
        if ended is None and restart >= len(runs) > 0 and self._is_last(runs[-1], index, since):
            return runs[-1]  # the history has lost a run
        return ended

    def _is_last(self, run: Run, index: int, since: float) -> bool:
        """Whether a run in the history is that of an attempt that began at `since`: one that ended before is not, by a
        clock that may be another one. Where the scheduler was asked for the array itself and has the task no more, the
        last run is, unless the task was taken back then: another run has followed."""
        if (run.end_time or 0.0) > since:
            return True
        is_gone = self.is_by_id and self.active(index, run.array) is None
        return is_gone and run.end not in (None, State.PREEMPTED)

    def _rows(self, index: int, array: str | None) -> list[QueueRow]:
        rows = [
            *self._rows_of_one.get(index, ()),
            *(row for row in self._rows_of_many if index in (row.indices or ())),
        ]
        return [row for row in rows if array in (None, row.array)]

    def _ended(self, index: int, array: str | None = None) -> Run | None:
        """The run that the queue shows as ended a short time ago, of the newest submission."""
        rows = [row for row in self._rows(index, array) if row.phase is Phase.ENDED]
        if not rows:
            return None
        row = max(rows, key=lambda row: _order(row.array))
        return Run(row.name, row.array, index, None, row.end, row.word, start=row.start, node=row.node)

    def _known(self, array: str, index: int) -> list[Run]:
        """The runs of a task in the history, oldest first. What has ended under the id of the whole array is one task,
        of which the history does not say yet which."""
        own = self._of_task.get((array, index))
        if own:
            return own
        others = self._of_many.get(array, ())
        waiting = [run for run in others if run.waiting is not None and index in run.waiting]
        return waiting or [run for run in others if run.waiting is None and run.end is None]


def _order(array: str) -> tuple[int, str]:
    """Later arrays have larger ids: as numbers, where they are some."""
    return (int(array), "") if array.isdecimal() else (0, array)


def reports(
    names: Iterable[str], rows: Iterable[QueueRow], runs: Iterable[Run] | None, *, is_history_silent: bool = False
) -> dict[str, ArrayReport]:
    """What a scheduler says about the arrays of these names."""
    rows_of: dict[str, list[QueueRow]] = {name: [] for name in names}
    runs_of: dict[str, list[Run]] = {name: [] for name in rows_of}
    for row in rows:
        if row.name in rows_of:
            rows_of[row.name].append(row)
    for run in runs or ():
        if run.name in runs_of:
            runs_of[run.name].append(run)
    return {
        name: ArrayReport(rows_of[name], None if runs is None else runs_of[name], is_history_silent=is_history_silent)
        for name in rows_of
    }


class OpenLaunch(NamedTuple):
    """A launch whose jobs a scheduler may still have to say something about."""

    folder: Folder
    launch: Launch
    scheduler: str
    arrays: Sequence[LaunchedArray]
    planned: Mapping[int, int]  # job -> the number of its first attempt in this launch
    submission: Submission
    sightings: Sightings
    scripts: Sequence[str]  # the paths that they may be submitted by
    running: Mapping[str, Sequence[Task]]  # the tasks that have told that they run a job, by the name of their array
    is_being_submitted: bool = False  # just now, by a process that lives
    original: str | None = None  # the folder whose tasks these are, where this one is a copy of it

    @property
    def names(self) -> list[str]:
        return [array.name for array in self.arrays]

    @property
    def asked(self) -> frozenset[str] | None:
        """The clusters that are asked here and now; None where that is not known."""
        try:
            return schedulers.named(self.scheduler).asked()
        except (OptionsError, SchedulerError):  # which is told of where the question is asked
            return None

    @property
    def ids(self) -> dict[str, str]:
        """The names of arrays by the scheduler's ids, as far as these are known, and surely of the cluster that is
        asked: another one has other jobs with the same ids."""
        found, asked = dict[str, str](), self.asked
        for name in self.names:
            tasks, submitted = self.running.get(name, ()), self.submission.array_id(name)
            if not self.is_partial(name, asked):
                found |= {task.array or task.id: name for task in tasks} | dict.fromkeys(self.sightings.ids(name), name)
                found |= {} if submitted is None else {submitted: name}
            elif asked is not None:
                found |= {task.array or task.id: name for task in tasks if task.cluster in asked}
        return {} if asked is not None and len(asked) > 1 else found

    def clusters(self, name: str) -> frozenset[str]:
        """The clusters that have, or had, tasks of the array of that name, as far as they have told their names."""
        tasks = self.running.get(name, ())
        return self.submission.clusters(name).union(
            self.sightings.clusters(name), (task.cluster for task in tasks if task.cluster is not None)
        )

    def usual(self, name: str) -> Sequence[None]:
        """That whichever cluster was here has the array, as older versions have noted it."""
        return () if self.submission.array_id(name) is None else (None,)

    def is_partial(self, name: str, asked: frozenset[str] | None) -> bool:
        """Whether clusters that are not asked may have tasks of the array: that none is seen tells nothing then."""
        return bool(not_asked(self.clusters(name), asked))

    def why_partial(self, asked: frozenset[str] | None) -> str | None:
        """What people are told where that is so of an array."""
        others = sorted(not_asked({one for name in self.names for one in self.clusters(name)}, asked))
        if not others:
            return None
        where = f"launch {self.launch.number} of {self.folder.path}"
        return f"{where}: {' or '.join(others)} may have its jobs, and {who_is_asked(asked)}"


class OpenLaunches(NamedTuple):
    """What `open_launches` has found."""

    launches: list[OpenLaunch]
    users: set[str]
    unread: Mapping[str, bool]  # those that cannot be read: whether a disk has refused them, which may pass


class Answer(NamedTuple):
    """What schedulers say about the arrays of these names, of these users."""

    names: frozenset[str]
    users: frozenset[str]
    reports: Mapping[str, ArrayReport]  # by name of the array; those that nobody could be asked about are not there
    unasked: Mapping[str, str] = {}  # by name of the array: why it was not asked about
    tables: Mapping[str, StateTable] = {}  # by folder: the states as they were before anybody was asked

    def covers(self, launches: Iterable[OpenLaunch], users: Iterable[str]) -> bool:
        """Whether all of these were asked about."""
        wanted = {name for opened in launches for name in opened.names}
        return self.names.issuperset(wanted) and self.users.issuperset(users)

    def about(self, opened: OpenLaunch) -> dict[str, ArrayReport]:
        """What is said about those arrays of a launch that its scheduler could be asked about."""
        return {name: self.reports[name] for name in opened.names if name in self.reports}


def asked_by_id(opened: OpenLaunch, said: Mapping[str, ArrayReport], names: Iterable[str]) -> Mapping[str, ArrayReport]:
    """What a scheduler has said about the arrays of a launch, and now says about those of these names, as it is asked
    for them by their ids; of those that it does not answer about, what it has said."""
    scheduler, since = schedulers.named(opened.scheduler), float(opened.launch.record["time"])
    found, ids, known = dict(said), opened.ids, names_known(scheduler, [opened])
    for name in names:
        arrays = [array for array, its in ids.items() if its == name]
        try:
            queues = [scheduler.queue_of(array) for array in arrays]
        except SchedulerError:  # it has answered the question about all: what waits there goes on waiting
            continue
        rows = [row for row in known.rows(row for queue in queues for row in queue or ()) if row.name == name]
        if None in queues:
            found[name] = said[name].as_final()
        elif said[name].is_history_silent:
            found[name] = ArrayReport(rows, None, is_by_id=True, is_history_silent=True)
        else:
            runs, is_silent = _asked(scheduler, lambda: _history_of(scheduler, arrays, since))  # noqa: B023 - at once
            runs = None if runs is None else [run for run in known.runs(runs) if run.name == name]
            found[name] = ArrayReport(rows, runs, is_by_id=True, is_history_silent=is_silent)
    return found


def _history_of(scheduler: Scheduler, arrays: Iterable[str], since: float) -> Sequence[Run] | None:
    found = [scheduler.history_of(array, since) for array in arrays]
    return None if None in found else [run for runs in found for run in runs or ()]


def _asked(scheduler: Scheduler, history: Callable[[], Sequence[Run] | None]) -> tuple[Sequence[Run] | None, bool]:
    """The runs in the history, None where there are none to be had, and whether that is because it does not answer,
    which people are told."""
    try:
        return history(), False
    except SchedulerError as error:
        without_history(scheduler, error)
        return None, True


def running_records(states: States, table: StateTable) -> dict[JobId, Mapping[str, Any]]:
    """Who runs what is RUNNING, by the job: a script may have been submitted by somebody else than its author."""
    return {
        job_id: states.anchor(table, job_id, number)
        for job_id, numbers in table.attempts.items()
        if State.RUNNING in numbers.values()
        for number, state in numbers.items()
        if state is State.RUNNING
    }


def open_launches(
    folder: Folder,
    running: Mapping[JobId, Mapping[str, Any]] = MappingProxyType({}),
    *,
    is_to_act: bool = False,
    with_copied: bool = False,
) -> OpenLaunches:
    """The launches that are not settled, or run again, as a script can be submitted twice; and who may run them.

    Those that came here with a copy of an experiment are left out, unless they are asked for: what is known of their
    tasks is known there, and nothing here may act on them. One that cannot be read is named; where jobs are going to be
    started, it raises UnreadableLaunch.
    """
    tasks = {job_id: task for job_id, record in running.items() if (task := task_in(record)) is not None}
    launched: dict[str, dict[JobId, Task]] = {
        str(record.get("launch")): {} for record in running.values() if scheduler_in(record)
    }
    for job_id, task in tasks.items():
        launched.get(str(running[job_id].get("launch")), {})[job_id] = task
    unread: dict[str, bool] = {}
    unsettled = _unsettled(folder, launched, unread, is_to_act=is_to_act)
    found = [opened for opened in unsettled if with_copied or opened.original is None]
    users = {task.user for task in tasks.values() if task.user is not None}
    if found:  # who looks may have submitted what somebody else has written
        users |= {user_name(), *(str(opened.launch.record["user"]) for opened in found)}
    return OpenLaunches(found, users, unread)


def _unsettled(
    folder: Folder, running: Mapping[str, Mapping[JobId, Task]], unread: dict[str, bool], *, is_to_act: bool
) -> Iterable[OpenLaunch]:
    """Those that can be read; the others go to `unread`."""
    open_ones = {*unsettled_numbers(folder), *running}
    for number in launch_numbers(folder, open_ones):
        try:
            launch = read_launch(folder, number)
            name, arrays = schedulers.name_of(launch), launched_arrays(launch)
            if name is not None and arrays:
                is_taken = is_being_submitted(folder, number)  # before it is read what was submitted
                submission = Submission(folder, launch, is_to_act=is_to_act)
                sightings = Sightings(folder, launch, is_to_act=is_to_act)
                scripts = [path for array in arrays for path in script_paths(folder, launch, array)]
                tasks = _tasks_of(arrays, running.get(number, {}))
                planned = planned_attempts(launch)
                about = (submission, sightings, scripts, tasks, is_taken, original(folder, launch))
                yield OpenLaunch(folder, launch, name, arrays, planned, *about)
            else:
                settle(folder, number)  # no scheduler runs it: its record has been read for the last time
        except UnreadableLaunch as error:
            if is_to_act and error.is_newer:
                raise
            if is_to_act:
                raise UnreadableLaunch(
                    f"{error}. Which jobs launch {number} has in hand is not known, so none is started",
                    is_out_of_reach=error.is_out_of_reach,
                ) from error
            skipped(str(error))
            unread[number] = error.is_out_of_reach
        except JobRefused:  # whoever made its folder was ended before its record: nothing was handed over
            continue


def _tasks_of(arrays: Sequence[LaunchedArray], running: Mapping[JobId, Task]) -> dict[str, list[Task]]:
    """The tasks that run jobs of each array, by its name."""
    if not running:
        return {}
    return {array.name: [running[JobId(job_id)] for job_id in set(array.jobs) & running.keys()] for array in arrays}


def ask(launches: Sequence[OpenLaunch], users: Iterable[str]) -> Answer:
    """What schedulers say about these launches, each asked once; says on standard error when one cannot be asked."""
    asked = frozenset(users)
    found: dict[str, ArrayReport] = {}
    unasked: dict[str, str] = {}
    for name in sorted({opened.scheduler for opened in launches}):
        mine = [opened for opened in launches if opened.scheduler == name]
        unasked |= {array: words for opened in mine for array, words in why_unasked(opened).items()}
        found |= _ask_one(name, mine, asked, unasked)
    return Answer(frozenset(name for opened in launches for name in opened.names), asked, found, unasked)


def _ask_one(
    name: str, launches: Sequence[OpenLaunch], users: frozenset[str], unasked: Collection[str]
) -> dict[str, ArrayReport]:
    names = [array for opened in launches for array in opened.names if array not in unasked]
    try:
        scheduler = schedulers.named(name)
        if not scheduler.is_available():
            return {}
        if not names:
            return {}
        known = names_known(scheduler, launches)
        rows = known.rows(scheduler.queue(users))
        since = min(float(opened.launch.record["time"]) for opened in launches)
        runs, is_silent = _asked(scheduler, lambda: scheduler.history(names, since))
    except OptionsError as error:
        tell(f"{error}. What it runs is shown as it was last known")
        return {}
    except SchedulerError as error:
        tell(f"{scheduler.label} cannot be asked: {error}. What it runs is shown as it was last known")
        return {}
    return reports(names, rows, None if runs is None else known.runs(runs), is_history_silent=is_silent)


def why_unasked(opened: OpenLaunch) -> dict[str, str]:
    """The arrays of a launch that its scheduler is not asked about now, by their names, each with why: another cluster
    has the jobs."""
    try:
        scheduler = schedulers.named(opened.scheduler)
        found = {array: scheduler.why_unasked(opened.clusters(array) or opened.usual(array)) for array in opened.names}
    except (OptionsError, SchedulerError):  # which is told of where the question is asked
        return {}
    where = f"launch {opened.launch.number} of {opened.folder.path}"
    return {array: f"{where}: {why}" for array, why in found.items() if why is not None}


def names_known(scheduler: Scheduler, launches: Iterable[OpenLaunch]) -> ArrayNames:
    """By which names the arrays of these launches of a scheduler are known."""
    names, scripts, ids = list[str](), list[str](), dict[str, str]()
    for opened in launches:
        if opened.scheduler == scheduler.name:
            names += opened.names
            scripts += opened.scripts
            ids |= opened.ids
    return ArrayNames(scheduler, scripts, names, ids)


def ask_about(folders: Iterable[Folder]) -> Answer:
    """The same about the launches of several experiments, whose states are read before; those that cannot be read are
    left out."""
    launches: list[OpenLaunch] = []
    users: set[str] = set()
    tables: dict[str, StateTable] = {}
    for folder in folders:
        with suppress(ExperimentManagerError):  # who tells of that experiment says why
            states = States(folder)
            table = states.table(reconcile=True)
            found, theirs, _ = open_launches(folder, running_records(states, table))
            launches, users, tables[folder.path] = [*launches, *found], users | theirs, table
    return ask(launches, users)._replace(tables=tables)
