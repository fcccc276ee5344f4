"""Ending jobs that wait or run: those of a scheduler by its own order, those that run here by a signal to their
supervisor, and those that run elsewhere by a request in the folder. What a process would begin later, which runs the
jobs of a launch one after the other, has ended before it began: then nobody begins it."""

import signal
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from experiment_manager.errors import ExperimentManagerError, FolderError, JobRefused, SchedulerError
from experiment_manager.model.ids import format_ids
from experiment_manager.model.records import ENDED_WELL, JobId, State
from experiment_manager.scheduler import schedulers
from experiment_manager.scheduler.reconcile import ActiveTask, active_tasks, may_be_elsewhere, may_grow
from experiment_manager.store import processes
from experiment_manager.store.endings import LOOKS, ask_to_end, mark_of, withdraw
from experiment_manager.store.files import number_in
from experiment_manager.store.holds import read_held, read_removed
from experiment_manager.store.launches import Driver, drivers, planned_attempts, read_launch, user_name
from experiment_manager.store.layout import Folder, unwritable
from experiment_manager.store.proposals import stop, who_stopped
from experiment_manager.store.states import States, StateTable, scheduler_in
from experiment_manager.text import noun, one_line, tell

_ACTS_WITHIN_S: Final = 10.0
_LOOK_S: Final = 0.2
_BEGUN: Final = ENDED_WELL | {State.RUNNING}


def cancel(folder: Folder, ids: Sequence[int], table: StateTable, *, are_all: bool = False) -> list[int]:
    """Of these jobs those that wait or run were told to end; returns their ids. What had not begun is CANCELLED now.

    `are_all`: of a search nothing goes on, either; else its workers do, with what nobody has proposed yet. What runs on
    another machine, or as another user, is asked through the folder, and people are told so; and of what a process was
    to begin later. Where nobody here can tell whether that process still runs, its jobs are CANCELLED and not among the
    ids. A job that nobody is to begin, as one that is held, stays what it is. Raises JobRefused, with nothing done, for
    jobs that share a task with others that go on; SchedulerError. JobRefused, too, for what nothing of ours reaches,
    and what cannot be kept from beginning, when the others have been told.
    """
    marks = _Marks(folder)
    states = marks.states
    running: dict[int, tuple[int, Mapping[str, Any]]] = {}  # job -> its attempt, and who runs that
    elsewhere = set()
    unbegun: dict[int, int] = {}  # job -> the newest number that an attempt of it has
    for job_id in ids:
        last = table.last(job_id)
        record = states.record(job_id, last.number) if last.state is State.RUNNING else {}
        if last.state is State.QUEUED:
            unbegun[job_id] = table.next_number(job_id) - 1  # which a dry pass may have
        elif scheduler_in(record):
            elsewhere.add(job_id)
        elif last.state is State.RUNNING and "unbegun" not in record:
            running[job_id] = last.number, record
    wanted = unbegun.keys() | elsewhere | running.keys()
    tasks: dict[ActiveTask, list[int]] = {}
    by_worker: set[int] = set()
    if wanted:
        there = active_tasks(folder, table, of=unbegun.keys() | elsewhere, is_needed=bool(unbegun or elsewhere))
        tasks = {task: mine for task, jobs in there.items() if (mine := [job for job in jobs if job in wanted])}
        grows = not are_all and any(task.is_worker for task in tasks) and may_grow(folder)
        left = {task for task in tasks if task.is_worker and (grows or _has_others(table, there[task], wanted))}
        by_worker = {job for task in left for job in tasks[task]}
        tasks = {task: mine for task, mine in tasks.items() if by_worker.isdisjoint(mine)}
        _refuse_shared(table, there, tasks)
    # What would be begun next is marked before anything is told to end: whoever runs one job after the other begins the
    # next one at once, and what was begun before its mark is among `running` then. Where a mark cannot be made, as on a
    # full disk, what runs is told to end nevertheless; what may begin after that is named at the end.
    by_scheduler, driven = _by_job(tasks), _driven(marks, ids, table, are_all=are_all)
    taken, begun_here = _taken_from_drivers(marks, driven, table, by_scheduler)
    running |= begun_here | _taken_from_workers(marks, by_worker, unbegun)
    ending = {job for task, mine in tasks.items() if task.is_worker for job in mine}
    _taken_from_workers(marks, ending & unbegun.keys(), unbegun)  # what runs there may take long to end
    for name in sorted({task.scheduler for task in tasks}):
        schedulers.named(name).cancel((task.array, task.array_index) for task in tasks if task.scheduler == name)
    begun = by_worker & running.keys()
    notified, unreached = _end(folder, running)
    others = may_be_elsewhere(folder, table, unbegun.keys() | elsewhere) if wanted else {}
    settled = by_scheduler.keys() & unbegun.keys() - others.keys()
    late = _settle(marks, {job_id: unbegun[job_id] for job_id in settled}, by_scheduler)
    _refuse_left(marks, {**unreached, **_end(folder, late)[1]}, others)
    _refuse_unseen(folder, {job_id: unbegun[job_id] for job_id in unbegun.keys() - by_scheduler.keys()})
    return sorted(by_scheduler.keys() | notified | (by_worker - begun) | taken)


class _Marks:
    """Attempts are CANCELLED before they began, so that nobody begins them. What cannot be recorded, as on a full disk,
    is kept for the end: it keeps nothing else from being told to end."""

    def __init__(self, folder: Folder) -> None:
        self.folder, self.states = folder, States(folder)
        self._unmarked: dict[int, tuple[str, str]] = {}  # job -> what becomes of it, and why it has no mark
        self._proposing: list[str] = []
        self._doubted = set[str]()

    def mark(self, job_id: int, number: int, about: Mapping[str, Any], otherwise: str) -> bool:
        """That attempt never begins, or has begun, and true is returned; else people learn at the end that the job
        `otherwise`."""
        try:
            self.states.record_unbegun(job_id, number, State.CANCELLED, _before_it_began(), about)
        except OSError as error:
            if not self.states.record(job_id, number):
                self._unmarked[job_id] = otherwise, unwritable(self.folder.states, error)
                return False
        self._unmarked.pop(job_id, None)
        return True

    def stop_search(self, driver: Driver) -> None:
        """Nothing more is proposed of the search that this process runs."""
        try:
            if who_stopped(self.folder) is None and stop(self.folder, by=user_name(), is_cancelled=True):
                tell(f"the search in {self.folder.path} is stopped: nothing more is proposed; the same command goes on")
        except OSError as error:
            why = unwritable(self.folder.proposals, error)
            self._proposing.append(f"more may be proposed by {_named(driver)}, which Ctrl-C ends there: {why}")
        self.doubt(driver)

    def doubt(self, driver: Driver) -> None:
        """People know what to do where this process does not run any more, and nobody here can tell."""
        if not driver.is_surely_there and driver.path not in self._doubted:
            self._doubted.add(driver.path)
            gone = f"if it does not run there any more, remove {driver.path}"
            tell(f"whether {one_line(str(driver))} still runs cannot be told from here; {gone}")

    def left(self) -> list[str]:
        """What could not be recorded, in a sentence each."""
        jobs = defaultdict[tuple[str, str], list[int]](list)
        for job_id, words in self._unmarked.items():
            jobs[words].append(job_id)
        told = (f"{noun(len(ids))} {format_ids(sorted(ids))} {what}: {why}" for (what, why), ids in jobs.items())
        return [*told, *self._proposing]


def _named(driver: Driver) -> str:
    return f"{one_line(str(driver))} (launch {driver.launch}{'' if driver.is_surely_there else ', if it still runs'})"


def _refuse_left(marks: _Marks, unreached: Mapping[int, str], others: Mapping[int, str]) -> None:
    """Raise JobRefused unless all was told to end, and nothing that was cancelled may begin."""
    left = marks.left()
    if unreached:
        left.append(
            f"{noun(len(unreached))} {format_ids(unreached)} cannot be told to end: neither a signal nor a request of "
            f"ours reaches {', '.join(sorted(set(unreached.values())))}; end it there"
        )
    if others:
        words = "; ".join(dict.fromkeys(others.values()))
        left.append(f"{noun(len(others))} {format_ids(sorted(others))} may go on: {words}; cancel there, too")
    if left:
        raise JobRefused("; and ".join(left))


def _by_job(tasks: Mapping[ActiveTask, Iterable[int]]) -> dict[int, list[ActiveTask]]:
    """The tasks of each job: of a script that was submitted twice it has two."""
    found = defaultdict[int, list[ActiveTask]](list)
    for task, jobs in tasks.items():
        for job_id in jobs:
            found[job_id].append(task)
    return found


def _has_others(table: StateTable, jobs: Sequence[int], wanted: Collection[int]) -> bool:
    """Whether other jobs are left for a worker that may run these."""
    return any(table.state(job) in (State.QUEUED, State.RUNNING) for job in jobs if job not in wanted)


def _driven(marks: _Marks, ids: Collection[int], table: StateTable, *, are_all: bool) -> dict[int, list[Driver]]:
    """Of these jobs those that have not begun and that a process is to begin, each with whoever may do so: none that is
    held, and none that is done where nobody can tell whether that process still runs. With `are_all` nothing more is
    proposed of a search that one of them runs, and what was proposed before is among them."""
    folder, found, mine = marks.folder, defaultdict[int, list[Driver]](list), frozenset(ids)
    kept_back = _kept_back(folder)
    for driver in drivers(folder):
        try:
            launch = read_launch(folder, driver.launch)
            proposes = are_all and launch.record.get("search_from") is not None
            if proposes:
                marks.stop_search(driver)
                launch = read_launch(folder, driver.launch)  # with what was proposed before that
        except ExperimentManagerError as error:
            tell(f"{driver} may begin other jobs: {error}")
            continue
        for job_id, first in planned_attempts(launch).items() if schedulers.of(launch) is None else ():
            if job_id in kept_back or not (proposes or job_id in mine):
                continue
            is_left = driver.is_surely_there or table.done(job_id) is None
            if is_left and _may_begin(marks.states, table, job_id, first, driver.launch):
                found[job_id].append(driver)
    return found


def _kept_back(folder: Folder) -> frozenset[int]:
    """The jobs that are held, or were removed; none where nobody can tell: they are cancelled as all others."""
    with suppress(FolderError):
        return read_held(folder) | read_removed(folder)
    return frozenset()


def _may_begin(states: States, table: StateTable, job_id: int, first: int, launch: str) -> bool:
    """Whether a job may still begin under a launch whose attempts of it are those from `first` on: that some task of
    another one was cancelled before it began keeps nobody else from it."""
    since = {number: state for number, state in table.attempts.get(JobId(job_id), {}).items() if number >= first}
    if not _BEGUN.isdisjoint(since.values()):
        return False
    records = [states.record(job_id, number) for number, state in since.items() if state is not State.FAKE]
    return all("unbegun" in record and launch not in (record.get("launches") or ()) for record in records)


def _taken_from_drivers(
    marks: _Marks,
    driven: Mapping[int, Sequence[Driver]],
    table: StateTable,
    handed_to: Mapping[int, Sequence[ActiveTask]],
) -> tuple[set[int], dict[int, tuple[int, Mapping[str, Any]]]]:
    """Those of these jobs that are CANCELLED now, so that no process begins them that certainly runs, of which people
    are told, as of all others; and those that one has begun all the same since the states were read, with their
    attempts and who runs them."""
    states, taken, words = marks.states, set[int](), defaultdict[str, list[int]](list)
    running: dict[int, tuple[int, Mapping[str, Any]]] = {}
    for job_id, mine in driven.items():
        number = table.next_number(job_id)
        about = {"launches": [driver.launch for driver in mine], **_tasks_of(handed_to.get(job_id, ()))}
        who = " and ".join(map(_named, mine))
        if not marks.mark(job_id, number, about, f"cannot be kept from beginning in {who}, which Ctrl-C ends there"):
            continue
        if "unbegun" in states.record(job_id, number):
            words[who].append(job_id)
            if any(driver.is_surely_there for driver in mine):
                taken.add(job_id)
        elif record := _runs(states, job_id, number):
            running[job_id] = number, record
    for who, jobs in words.items():
        tell(f"cancelled before {who} began {'it' if len(jobs) == 1 else 'them'}: {noun(len(jobs))} {format_ids(jobs)}")
    for driver in (driver for mine in driven.values() for driver in mine):
        marks.doubt(driver)
    return taken, running


def _before_it_began() -> dict[str, Any]:
    return {"reason": f"cancelled by {user_name()} before it began"}


def _tasks_of(tasks: Sequence[ActiveTask]) -> dict[str, Any]:
    """What an anchor says of the tasks that were told to end before they began its job."""
    return {"scheduler": tasks[0].scheduler, "tasks": [task.name for task in tasks]} if tasks else {}


def _taken_from_workers(
    marks: _Marks, ids: Iterable[int], unbegun: dict[int, int]
) -> dict[int, tuple[int, Mapping[str, Any]]]:
    """Of these jobs, those that have not begun are CANCELLED, and no more in `unbegun`: no worker takes them. Returns
    the others, with their attempts and who runs them."""
    states = marks.states
    running: dict[int, tuple[int, Mapping[str, Any]]] = {}
    for job_id in ids:
        if job_id in unbegun:
            number = unbegun[job_id] + 1
            if not marks.mark(job_id, number, {}, "cannot be kept from beginning in a worker"):
                continue
            del unbegun[job_id]
        else:
            number = states.attempts(job_id)[-1].number
        if record := _runs(states, job_id, number):  # a worker may have been faster
            running[job_id] = number, record
    return running


def _runs(states: States, job_id: int, number: int) -> Mapping[str, Any] | None:
    """Who runs an attempt, if anybody does: its anchor alone counts, the name of its state follows."""
    record = states.record(job_id, number)
    return record if "unbegun" not in record and states.state(job_id, number) is State.RUNNING else None


def _end(folder: Folder, running: Mapping[int, tuple[int, Mapping[str, Any]]]) -> tuple[set[int], Mapping[int, str]]:
    """The jobs that were told to end, by a signal or a request, and those that cannot be, with who runs them."""
    notified, asked, unreached = set(), defaultdict[str, list[int]](list), {}
    for job_id, (number, record) in running.items():
        if _signalled(folder, job_id, number, record):
            notified.add(job_id)
            continue
        if processes.is_gone(record) is True:  # only how it ended cannot be told now
            continue
        looks_s = number_in(record, LOOKS)
        try:
            if looks_s is not None:
                ask_to_end(folder, job_id, number, record=record, by=user_name())
        except OSError:  # it is not ours to write to
            looks_s = None
        if looks_s is None:
            unreached[job_id] = one_line(processes.named(record))
            continue
        if States(folder).state(job_id, number) is not State.RUNNING:  # it has ended meanwhile, and looks no more
            withdraw(folder, job_id, number)
            continue
        asked[f"on {record.get('host')} to end; it looks every {looks_s:g} s"].append(job_id)
    for words, ids in asked.items():
        tell(one_line(f"asked {noun(len(ids))} {format_ids(ids)} {words}"))
    return notified.union(*asked.values()), unreached


def _signalled(folder: Folder, job_id: int, number: int, record: Mapping[str, Any]) -> bool:
    if record.get("worker"):  # a signal would end all that it may still run
        return False
    try:
        mark = mark_of(folder, job_id, number)
    except OSError:
        return False
    return processes.tell(record, signal.SIGTERM, mark=mark)


def _refuse_shared(
    table: StateTable, there: Mapping[ActiveTask, Sequence[int]], tasks: Mapping[ActiveTask, Sequence[int]]
) -> None:
    """Raise JobRefused unless no other job waits or runs in these tasks."""
    for task, mine in tasks.items():
        others = [job for job in there[task] if job not in mine and table.state(job) in (State.QUEUED, State.RUNNING)]
        if others:
            raise JobRefused(
                f"jobs {format_ids(mine)} share {task} with {format_ids(others)}, which would end, too; "
                "cancel all of them"
            )


def _refuse_unseen(folder: Folder, unbegun: Mapping[int, int]) -> None:
    """Raise JobRefused unless all of the jobs, each with the newest number of its attempts, have begun since."""
    table = States(folder).table() if unbegun else None
    unseen = [job for job, number in unbegun.items() if table is not None and table.next_number(job) == number + 1]
    if unseen:
        raise JobRefused(
            f"{noun(len(unseen))} {format_ids(sorted(unseen))} cannot be told to end: no queue that is seen from here "
            "has a task of theirs now; repeat in a moment, or where they were submitted"
        )


def _settle(
    marks: _Marks, unbegun: dict[int, int], handed_to: Mapping[int, Sequence[ActiveTask]]
) -> dict[int, tuple[int, Mapping[str, Any]]]:
    """What had not begun, and the scheduler has no more, is recorded as CANCELLED, with its tasks: SLURM, for one,
    keeps no trace of it (measured), and whoever asked later could only say that it is LOST. Returns what runs although
    the scheduler has it no more: jobs, with their attempts and who runs them."""
    waiting, states = dict(unbegun), marks.states
    running: dict[int, tuple[int, Mapping[str, Any]]] = {}
    deadline = time.monotonic() + _ACTS_WITHIN_S
    while waiting and time.monotonic() < deadline:
        for job_id in _gone(marks.folder, waiting):
            number, about = waiting.pop(job_id) + 1, _tasks_of(handed_to[job_id])
            marks.mark(job_id, number, about, "was taken out of the queue, which cannot be recorded")
            if record := _runs(states, job_id, number):  # its script has begun after all
                running[job_id] = number, record
        time.sleep(_LOOK_S if waiting else 0)
    return running


def _gone(folder: Folder, waiting: Iterable[int]) -> list[int]:
    """Those of the jobs that no scheduler has in a task any more; none while one does not answer."""
    try:
        tasks = active_tasks(folder, States(folder).table(), of=set(waiting), is_needed=False)
    except SchedulerError:
        return []
    there = {job_id for jobs in tasks.values() for job_id in jobs}
    return [job_id for job_id in waiting if job_id not in there]
