"""Jobs that come after jobs of another experiment, their upstream: which these are, what they have come to, and what of
that a scheduler can wait for.

launches/0001/launch.json    "upstream": {"experiment", "relative", "offsets", "groups"}    see `model.stages`

Who comes after whom is decided once, when a launch is planned, and kept in it: the other experiment may grow meanwhile.
Whether a job may begin, its upstream's states tell, and each job looks for itself before it begins (`store.upstream`).
That a scheduler waits keeps jobs from looking too early, and nodes from waiting for others.
"""

import errno
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from experiment_manager.errors import FolderError, JobRefused, UnreadableLaunch
from experiment_manager.model import stages
from experiment_manager.model.ids import format_ids
from experiment_manager.model.records import UNFINISHED, Launch, State, task_name
from experiment_manager.model.stages import After, Standing
from experiment_manager.scheduler import schedulers
from experiment_manager.scheduler.protocol import Scheduler
from experiment_manager.scheduler.reconcile import ActiveTask, active_tasks, reconciled
from experiment_manager.scheduler.records import Dependency
from experiment_manager.scheduler.submission import launched_arrays
from experiment_manager.store.files import Patience
from experiment_manager.store.holds import read_removed
from experiment_manager.store.launches import drivers, launch_numbers, planned_attempts, read_launch
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.orders import Orders
from experiment_manager.store.pass_filter import has_selection, read_selection
from experiment_manager.store.states import States, StateTable
from experiment_manager.store.submissions import Submission
from experiment_manager.store.upstream import LOOK_S, UNKNOWN, located
from experiment_manager.text import as_word, noun, one_line, tell

_ASK_FIRST_S: Final = 2.0
_ASK_AT_MOST_EVERY_S: Final = 30.0
_SUBMITS_S: Final = 60.0
"""How long after its launch a job may not be submitted yet."""

_LOOKS: Final = 3
"""So often it is looked whether a job that is not in the queue has ended just now."""

_MOST_TASKS: Final = 50
"""So many tasks are named to a scheduler; of more, their whole arrays."""


def pairs(folder: Folder, after: After, own: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """What the record of a launch keeps of the upstream of its jobs, given with their variables. What the filter of the
    other experiment drops is nobody's upstream, unless it runs or has completed. Raises JobRefused, FolderError."""
    other = Folder.at(after.experiment)
    if os.path.realpath(other.path) == os.path.realpath(folder.path):
        raise JobRefused(f"hydra.launcher.after={after.experiment} is this experiment itself; name the one before it")
    try:
        other.require()
    except FolderError as error:
        raise FolderError(f"hydra.launcher.after: {error}") from error
    table, removed = States(other).table(), read_removed(other)
    passing = frozenset(read_selection(other) if has_selection(other) else ())
    done = {job_id for job_id in table.attempts if table.state(job_id) in (State.RUNNING, State.COMPLETED)}
    with Manifest(other) as manifest:
        if manifest.search is not None:
            raise JobRefused(f"{after.experiment} is a search, whose jobs nobody knows yet; name a sweep")
        theirs = {
            int(job.id): job.variables
            for job in manifest.jobs()
            if job.id not in removed and (job.id in passing or job.id in done)
        }
    return stages.kept(other.path, os.path.relpath(other.path, folder.path), stages.paired(own, theirs, after))


class Upstreams:
    """What the jobs have come to that those of a launch come after, looked at again by and by; for whoever begins many
    jobs, of launches of one experiment."""

    def __init__(self, folder: Folder) -> None:
        self._folder, self._orders = folder, Orders(folder)
        self._looks: dict[str, _Look] = {}
        self._unseen: dict[str, _Unseen] = {}

    def waits_for(self, launch: str, job_id: int) -> tuple[int, ...]:
        """The jobs that a job has to wait for; none where it may begin, where it never can, and where that cannot be
        found out, however often it is tried: see `why_given_up`. The answer may be a moment old.

        One that waits for what nobody is about to run never can, and neither can one after what has failed: that is so
        only where schedulers, which start some jobs again, were asked, and nobody else is about to do so. While the
        other experiment cannot be looked at, all of its jobs are waited for, and people are told once.
        """
        if (found := self._order(launch, job_id)) is None:
            return ()
        order, ids = found
        key = str(order["experiment"])
        unseen = self._unseen.get(key)
        try:
            if unseen is None or unseen.is_due():
                if key not in self._looks:
                    self._looks[key] = _Look(located(self._folder, order))
                waits_for = self._looks[key].standing(ids).waits_for
                self._unseen.pop(key, None)
                return waits_for
        except UNKNOWN as error:
            why = one_line(f"what job {job_id} comes after cannot be looked at here: {error}")
            if unseen is None:
                tell(f"{why}; it is looked at again")
                unseen = self._unseen[key] = _Unseen()
            unseen.put_off(why)
        return ids if unseen.why_given_up is None else ()

    def why_given_up(self, launch: str, job_id: int) -> str | None:
        """Why what a job comes after cannot be looked at, however often that was tried; None: it can."""
        found = self._order(launch, job_id) if self._unseen else None
        unseen = None if found is None else self._unseen.get(str(found[0]["experiment"]))
        return None if unseen is None else unseen.why_given_up

    def _order(self, launch: str, job_id: int) -> tuple[Mapping[str, Any], tuple[int, ...]] | None:
        """What a launch says of the upstream of a job, and its jobs; None where there is none, or that cannot be read,
        of which whoever prepares the job tells."""
        with suppress(*UNKNOWN):
            order = self._orders.of(launch, job_id)
            if order is not None and order.upstream is not None and "experiment" in order.upstream:
                return order.upstream, stages.upstream(order.upstream, job_id)
        return None


class _Unseen:
    """An experiment that jobs come after, and that cannot be looked at since this was made: it is tried for minutes."""

    def __init__(self) -> None:
        self._patience = Patience()
        self._look_at = 0.0
        self.why_given_up: str | None = None

    def is_due(self) -> bool:
        """Whether it is to be looked at again now."""
        return self.why_given_up is None and time.monotonic() >= self._look_at

    def put_off(self, why: str) -> None:
        """It could not be looked at just now."""
        try:
            self._look_at = time.monotonic() + self._patience.pause(OSError(errno.EIO, os.strerror(errno.EIO)))
        except OSError:
            self.why_given_up = why


class _Look:
    """The states of one experiment; its schedulers are asked seldom."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._table = StateTable({}, ())
        self._known: dict[tuple[int, ...], Standing] = {}  # of the table that was read last
        self._look_at = self._ask_at = 0.0
        self._pause = _ASK_FIRST_S

    def standing(self, ids: tuple[int, ...]) -> Standing:
        if time.monotonic() >= self._look_at:
            self._table = States(self._folder).table()
            self._look_at = time.monotonic() + LOOK_S
            self._known = {}
        if ids not in self._known:
            self._known[ids] = self._standing(ids)
        return self._known[ids]

    def _standing(self, ids: tuple[int, ...]) -> Standing:
        found = self._of(ids, self._table)
        is_running = all(self._table.state(one) is State.RUNNING for one in found.waits_for)
        if found.never is None and is_running:
            return found
        table = self._truth()
        if table is None:  # not yet: schedulers are asked seldom
            return Standing(waits_for=ids)
        found = self._of(ids, table)
        due = _due(self._folder, table)
        idle = [one for one in found.waits_for if table.state(one) in (State.PENDING, State.FAKE) and one not in due]
        if found.never is None and not idle:
            return found
        if found.never is not None and any(one in due for one in ids):
            return Standing(waits_for=ids)
        _require_read(self._folder, table)
        return found if found.never is not None else Standing(never=stages.not_completed(idle, self._folder.path))

    def _of(self, ids: tuple[int, ...], table: StateTable) -> Standing:
        return stages.standing({one: table.state(one) for one in ids}, self._folder.path)

    def _truth(self) -> StateTable | None:
        """The states with schedulers asked; None where they were a moment ago."""
        if time.monotonic() < self._ask_at:
            return None
        self._table = table = reconciled(self._folder)
        if table.queued or table.confirmed:  # otherwise none has been asked, and files are cheap
            self._ask_at = time.monotonic() + self._pause
            self._pause = min(1.5 * self._pause, _ASK_AT_MOST_EVERY_S)
        return table


def _require_read(folder: Folder, table: StateTable) -> None:
    """Raise UnreadableLaunch where a launch cannot be read, which may be about to run what nobody else has in hand."""
    if table.unread:
        raise UnreadableLaunch(
            f"launch {', '.join(table.unread)} of {folder.path} cannot be read, so that nobody can tell which jobs it "
            "has in hand; `experiment-manager doctor` says why",
            is_out_of_reach=any(table.unread.values()),
        )


def _due(folder: Folder, table: StateTable) -> frozenset[int]:
    """The jobs that somebody is about to begin, once more or for the first time: what a process that lives has planned
    and not begun, and what was launched a moment ago and is not submitted yet."""
    found = set[int]()
    for launch in _launches_under_way(folder):
        found.update(table.not_begun(planned_attempts(launch)))
    return frozenset(found)


def _launches_under_way(folder: Folder) -> Iterator[Launch]:
    driven = {driver.launch for driver in drivers(folder)}
    newest = launch_numbers(folder)[-_LOOKS:]
    for number in sorted(driven.union(newest)):
        launch = read_launch(folder, number)
        if number in driven:
            yield launch
        elif schedulers.of(launch) is not None and time.time() - float(launch.record["time"]) < _SUBMITS_S:
            submission = Submission(folder, launch, is_to_act=False)
            if any(submission.array_id(array.name) is None for array in launched_arrays(launch)):
                yield launch


class Before:
    """What a scheduler is to wait for before the arrays of a launch begin, asked once for all of them."""

    def __init__(self, folder: Folder, launch: Launch, scheduler: Scheduler) -> None:
        """Raises JobRefused where the scheduler has not, and so cannot wait for, what the jobs come after, and where
        that cannot be told; SchedulerError."""
        self._scheduler = scheduler
        orders = stages.by_job(launch.record["upstream"])
        other = located(folder, launch.record["upstream"])
        self._upstream = {one: stages.upstream(orders[one], one) for one in planned_attempts(launch).keys() & orders}
        wanted = {one for ids in self._upstream.values() for one in ids}
        for look in range(_LOOKS):
            if look:
                time.sleep(LOOK_S)
            table = reconciled(other)
            left = {one for one in wanted if table.state(one) in UNFINISHED}
            self._tasks = self._there(other, table, left)
            if not (unseen := sorted(left - self._tasks.keys())):
                return
        _require_read(other, table)
        raise JobRefused(_not_submitted(folder, launch, scheduler, other, table, unseen))

    def _there(self, other: Folder, table: StateTable, left: set[int]) -> dict[int, list["_Task"]]:
        """The tasks of the scheduler that have those of the jobs."""
        found: dict[int, list[_Task]] = defaultdict(list)
        for task, jobs in active_tasks(other, table, of=left, is_needed=False).items() if left else ():
            if task.scheduler == self._scheduler.name:
                for job_id in left.intersection(jobs):
                    found[job_id].append(_Task(task, is_shared=task.is_worker or len(jobs) > 1))
        return found

    def of(self, tasks: Sequence[tuple[int, Sequence[int]]]) -> Dependency:
        """What the tasks of one array wait for, given by their index, each with its jobs."""
        waited = {
            found.task for _, jobs in tasks for job in jobs for one in self._upstream.get(job, ())
            for found in self._tasks.get(one, ())
        }  # fmt: skip
        if not waited:
            return Dependency()
        if self._scheduler.matches_tasks and (array := self._matching(tasks)) is not None:
            return Dependency(matching=(array,))
        named = sorted((one.array, one.array_index) for one in waited)
        if len(named) > _MOST_TASKS:
            return Dependency(ended=tuple(dict.fromkeys(array for array, _ in named)))
        return Dependency(ended=tuple(task_name(*one) for one in named))

    def _matching(self, tasks: Sequence[tuple[int, Sequence[int]]]) -> str | None:
        """The array in which each of these tasks waits for the task of its own index, which has one job as it has, and
        for no other; None: there is none."""
        arrays = set()
        for index, jobs in tasks:
            before = [] if len(jobs) != 1 else [self._tasks.get(one, []) for one in self._upstream.get(jobs[0], ())]
            if len(before) != 1 or len(before[0]) != 1:
                return None
            (one,) = before[0]
            if one.is_shared or one.task.array_index != index:
                return None
            arrays.add(one.task.array)
        return arrays.pop() if len(arrays) == 1 else None


class _Task(NamedTuple):
    task: ActiveTask
    is_shared: bool  # by several jobs: how it ends is not how each of them does


def _not_submitted(
    folder: Folder, launch: Launch, scheduler: Scheduler, other: Folder, table: StateTable, unseen: Sequence[int]
) -> str:
    """The sentence for a launch whose upstream, these jobs of another experiment, is nothing that a scheduler has."""
    again = f"`experiment-manager submit {as_word(folder.path)}`"
    running = [job_id for job_id in unseen if table.state(job_id) is State.RUNNING]
    them = "it" if len(unseen) == 1 else "them"
    way_out = f"wait for {them}, then {again}" if running == list(unseen) else f"submit {them} first, then {again}"
    how = f"run{'s' if len(unseen) == 1 else ''} outside of" if running == list(unseen) else "did not reach"
    return (
        f"launch {launch.number} of {folder.path} is not submitted: {noun(len(unseen))} {format_ids(unseen)} of "
        f"{as_word(other.path)}, which its jobs come after, {how} {scheduler.label}; {way_out}"
    )
