"""The truth about jobs that a scheduler runs, now and until they have ended: what the state files say, and where they
are silent, what it says.

Each scheduler is asked once for all launches together, and none that no launch needs. What became of jobs is decided in
`verdicts`, and recorded here, where that may be written to. Who waits looks at the state files often, and asks a
scheduler seldom.
"""

import math
import os
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple

from experiment_manager.errors import JobRefused, SchedulerError
from experiment_manager.model.ids import format_ids
from experiment_manager.model.records import ENDED, ENDED_WELL, Attempt, JobId, Launch, State, Task, task_name
from experiment_manager.scheduler import schedulers
from experiment_manager.scheduler.query import (
    Answer,
    ArrayReport,
    OpenLaunch,
    ask,
    asked_by_id,
    names_known,
    open_launches,
    running_records,
    why_unasked,
)
from experiment_manager.scheduler.records import Phase
from experiment_manager.scheduler.verdicts import (
    Amended,
    Disk,
    Ended,
    LaunchVerdicts,
    NeverBegan,
    Runs,
    TrackedLaunch,
    Verdict,
    Waits,
    may_come_back,
    verdicts,
)
from experiment_manager.store import processes
from experiment_manager.store.documents import END, read_end, read_optional
from experiment_manager.store.files import may_be_there
from experiment_manager.store.launches import SETTLED, drivers, planned_attempts, read_launch, settle, user_name
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.orders import read_order
from experiment_manager.store.proposals import who_stopped
from experiment_manager.store.states import States, StateTable, Waiting, scheduler_in
from experiment_manager.store.upstream import UNKNOWN, Reasons
from experiment_manager.text import JobLines, as_word, noun, tell, tell_once

_End = Callable[[int, int], Mapping[str, Any]]
"""Reads how an attempt ended, by its job and number."""
LOOK_S: Final = 0.5
_PROPOSES_S: Final = 5.0
"""How long nobody is asked whether the workers of a search are still there, which may be proposing a trial."""
_SUBMITS_S: Final = 30.0
"""How long a supervisor may take to submit its job again."""
_STUCK_S: Final = 30.0
"""How long nothing that is left begins by itself before whoever waits for it leaves: a scheduler may be about to cancel
it, as SLURM does after DependencyNeverSatisfied."""
_PASSES_S: Final = 600.0
"""The same where what keeps it from beginning may pass without anybody, as when SLURM's database is started anew, and
where it cannot be told how something has ended."""
ASK_FIRST_S: Final = 2.0
ASK_AT_MOST_EVERY_S: Final = 30.0


class EndsOfTasks:
    """Which tasks have ended, for whoever asks again and again: a scheduler that has said that one has not, or has said
    nothing, is asked about it again after half a minute."""

    def __init__(self) -> None:
        self._asked_at: dict[Task, float] = {}
        self._ended = set[Task]()

    def of(self, tasks: Iterable[Task]) -> frozenset[Task]:
        """Those of the tasks that have ended, as far as that is told now, by one question about all of them."""
        now, meant, last = time.monotonic(), frozenset(tasks), self._asked_at
        due = {task for task in meant - self._ended if now - last.get(task, -math.inf) >= ASK_AT_MOST_EVERY_S}
        self._ended |= schedulers.ended(due)
        last |= dict.fromkeys(due, now)
        return meant & self._ended


def reconciled(
    folder: Folder, answer: Answer | None = None, *, is_to_act: bool = False, ends: EndsOfTasks | None = None
) -> StateTable:
    """The states of all attempts, with schedulers asked where it is needed; what they know better is now recorded, too,
    where that may be written to.

    Says on standard error when one cannot be asked, and then leaves everything as it was. It is not asked again about
    what it has been asked for the `answer`, which has the states that preceded it, since of a job that has begun in a
    task meanwhile it says what is not so; nor about what it was asked lately for `ends`. Raises UnreadableLaunch where
    jobs are going to be started and a launch cannot be read: see `open_launches`; NewerRecord where one cannot tell how
    an attempt ended.
    """
    states = States(folder)
    preceding = None if answer is None else answer.tables.get(folder.path)
    table = states.table(reconcile=True) if preceding is None else preceding
    before = _without_ended_allocations(states, table, ends or EndsOfTasks())
    running = running_records(states, before)
    launches, users, unread = open_launches(folder, running, is_to_act=is_to_act, with_copied=True)
    before = _as_in_originals(states, before, [opened for opened in launches if opened.original is not None])
    before = before._replace(unread=unread)
    launches = [opened for opened in launches if opened.original is None]
    if not launches:
        return before
    if answer is None or preceding is None or not answer.covers(launches, users):
        answer = ask(launches, users)

    def end(job_id: int, number: int) -> Mapping[str, Any]:
        return read_optional(folder.of_attempt(job_id, number, "attempt"), END, refuses_newer=is_to_act)

    decided = [(opened, *_decided(folder, states, before, opened, answer, end)) for opened in launches]
    applied = _Applied(folder, states, before, end)
    for opened, found, was_asked in decided:
        applied.apply(
            opened, found, was_asked=was_asked, is_elsewhere=not answer.unasked.keys().isdisjoint(opened.names)
        )
    after = before
    if applied.has_news:  # it took some time, and is believed about jobs as they are now
        after = states.table(reconcile=True)
    return applied.table(after)


def _without_ended_allocations(states: States, table: StateTable, ends: EndsOfTasks) -> StateTable:
    """The table, in which what ran by hand inside of a task, as under `salloc`, on a machine that cannot be asked from
    here, is RUNNING no more where its scheduler says that the task has ended."""
    tasks = {
        (job_id, number): task
        for (job_id, number), record in table.runners.items()
        if scheduler_in(record) is None
        and processes.is_gone(record) is None
        and (task := states.task(job_id, number, record)) is not None
        and schedulers.holds_what_names_it(task)
    }
    has_ended = ends.of(tasks.values())
    found: dict[tuple[JobId, int], State] = {}
    for (job_id, number), task in tasks.items():
        if task in has_ended:
            reason = f"its task {task.name} has ended, and it has recorded no end"
            fenced = {"reason": reason, "fenced_at": time.time()}  # on a lost node it may run on
            found[job_id, number] = states.lose(job_id, number, State.LOST, fenced)
    return _with(table, found)


def _as_in_originals(states: States, table: StateTable, copied: Sequence[OpenLaunch]) -> StateTable:
    """The table, in which what ran when this folder was copied is RUNNING while it does so there, and LOST when it has
    ended there; people are told of what only the original has begun, or is going to."""
    running, found = dict[JobId, str](), dict[tuple[JobId, int], State]()
    for opened in copied:
        there, number = States(Folder.at(str(opened.original))), opened.launch.number
        words = f"in {opened.original}, of which this is a copy"
        for (job_id, attempt), record in table.runners.items():
            if record.get("launch") != number or scheduler_in(record) is None:
                continue
            state = there.state(job_id, attempt)
            if state is State.RUNNING:
                running[job_id] = f"it runs {words}, and its end will not be known here"
            else:
                reason = {"reason": f"it was running {words}, and has ended there as {state}"}
                found[job_id, attempt] = states.lose(job_id, attempt, State.LOST, reason)
        if any(table.not_begun(opened.planned)):
            where = opened.folder.path
            tell_once(
                f"launch {number} of {where} was made {words}: what had not begun runs there, and is PENDING here"
            )
    return _with(table, found)._replace(confirmed=frozenset(running), paused=running)


def _decided(
    folder: Folder, states: States, table: StateTable, opened: OpenLaunch, answer: Answer, end: _End
) -> tuple[LaunchVerdicts, bool]:
    """The verdicts about a launch, and whether its scheduler was asked."""
    reports = answer.about(opened)
    _note_seen(opened, reports)
    launch, disk = _tracked(opened), _disk(folder, states, table, opened, end)
    found = verdicts(launch, disk, reports, time.time())
    if found.absent:  # absence alone tells nothing of what may still begin
        found = verdicts(launch, disk, asked_by_id(opened, reports, found.absent), time.time())
    why = dict.fromkeys(answer.unasked[name] for name in opened.names if name in answer.unasked)
    if not why and launch.partial and (partly := opened.why_partial(launch.asked)) is not None:
        why = {partly: None}
    for words in why if found.is_open else ():
        tell_once(f"{words}. What is not seen is shown as it was last known")
    return found, bool(reports)


def _note_seen(opened: OpenLaunch, reports: Mapping[str, ArrayReport]) -> None:
    """What is seen of scripts that somebody has submitted by hand is kept, and on which cluster, where the submission
    does not tell that."""
    seen = {name: report for name, report in reports.items() if report.ids}
    by_hand = {name: report for name, report in seen.items() if opened.submission.array_id(name) is None}
    unknown = [name for name in seen if not opened.submission.clusters(name)]
    if unknown or by_hand:
        asked = opened.asked or frozenset()
        cluster = next(iter(asked)) if len(asked) == 1 else None
        opened.sightings.add(
            {name: report.indices() for name, report in by_hand.items()},
            {name: report.ids for name, report in by_hand.items()},
            dict.fromkeys(unknown, cluster),
        )


def _tracked(opened: OpenLaunch) -> TrackedLaunch:
    submission, asked = opened.submission, opened.asked
    return TrackedLaunch(
        number=opened.launch.number,
        label=schedulers.label_of(opened.scheduler),
        arrays=opened.arrays,
        planned=opened.planned,
        submitted={name: submission.submitted(name) for name in opened.names if submission.array_id(name) is not None},
        seen=opened.sightings.has,
        is_being_submitted=opened.is_being_submitted,
        has_id=frozenset(opened.ids.values()),
        is_ours=os.geteuid() == 0 or opened.launch.record["user"] == user_name(),
        partial=frozenset(name for name in opened.names if opened.is_partial(name, asked)),
        asked=asked,
        may_hide=lambda user: schedulers.named(opened.scheduler).may_hide(user),
    )


def _disk(folder: Folder, states: States, table: StateTable, opened: OpenLaunch, end: _End) -> Disk:
    def log(task: str) -> str:
        return read_end(folder.join("launches", opened.launch.number, f"{task}.log")).decode(errors="replace")

    return Disk(
        table=table,
        anchor=lambda job_id, number: states.anchor(table, job_id, number),
        end=end,
        end_in_log=lambda task: schedulers.named(opened.scheduler).end_in_log(log(task)),
        last_words=lambda task: schedulers.named(opened.scheduler).last_words(log(task)),
        is_ours=states.is_ours,
        why_not=partial(_why_not, folder, opened.launch, Reasons(folder)),
    )


def _why_not(folder: Folder, launch: Launch, reasons: Reasons, job_id: int) -> str | None:
    """Why a job of a launch cannot begin, by what it comes after; None: nothing is known against it."""
    if launch.record.get("upstream") is None:
        return None
    with suppress(*UNKNOWN):
        order = read_order(folder, launch.number, job_id)
        return None if order is None or order.upstream is None else reasons.why_not(order.upstream, job_id)
    return None


class _Applied:
    """What verdicts have changed: on disk, or, where that cannot be written, in the table that people see."""

    def __init__(self, folder: Folder, states: States, before: StateTable, end: _End) -> None:
        self._folder, self._states, self._before, self._end_of_attempt = folder, states, before, end
        self._keeps = states.may_write()
        self._found: dict[tuple[JobId, int], State] = {}
        self._unbegun = set[tuple[int, int]]()  # those of them that have never begun
        self._queued: dict[JobId, Waiting] = {}
        self._confirmed, self._untold = before.confirmed, set(before.untold)
        self._running: dict[JobId, Waiting] = {}  # what they are where they were put back into the queue meanwhile
        self._ended: dict[JobId, Attempt] = {}  # what they turned out to have come to
        self._paused: dict[JobId, str] = dict(before.paused)
        # what is true of what waits for words: see `Waiting`
        self._known: dict[tuple[str, tuple[str, ...]], tuple[bool, str, bool]] = {}
        self.has_news = False
        """Whether a scheduler was asked about jobs that may be in another state by now than before it answered."""

    def apply(self, opened: OpenLaunch, found: LaunchVerdicts, *, was_asked: bool, is_elsewhere: bool) -> None:
        is_open = found.is_open
        for verdict in found.verdicts:
            is_kept = self._apply(opened, verdict)
            is_open = is_open or not is_kept
        has_workers = any(array.n_workers is not None for array in opened.arrays)  # they may have run others and ended
        self.has_news = self.has_news or (was_asked and (has_workers or bool(found.verdicts)))
        if not (was_asked or is_elsewhere) or self._folder.is_only_read:
            return
        path = self._folder.join("launches", opened.launch.number, SETTLED)
        with suppress(OSError):  # somebody else's folder: it will be asked about again
            self._folder.require_within(os.path.dirname(path))
            if is_open and was_asked and may_be_there(path):
                os.unlink(path)
            elif not is_open and not may_be_there(path):
                settle(self._folder, opened.launch.number)

    def _apply(self, opened: OpenLaunch, verdict: Verdict) -> bool:
        """The verdict holds; returns false where it could not be recorded."""
        if isinstance(verdict, Waits):
            self._queued[verdict.job_id] = self._waiting(opened.scheduler, verdict)
        elif isinstance(verdict, Runs):
            self._running[verdict.job_id] = Waiting(verdict.word, verdict.task)
            if verdict.is_paused:
                label = schedulers.label_of(opened.scheduler)
                self._paused[verdict.job_id] = f"{label} has suspended it: it holds its node, and goes on when resumed"
        elif isinstance(verdict, NeverBegan):
            return self._record_unbegun(opened, verdict)
        elif isinstance(verdict, Ended):
            self._end(verdict)
        else:
            return self._amend(verdict)
        return True

    def _waiting(self, scheduler: str, verdict: Waits) -> Waiting:
        """Thousands may wait for one reason."""
        key = scheduler, verdict.waits_for
        if verdict.waits_for and key not in self._known:
            asked = schedulers.named(scheduler)
            is_stuck = all(map(asked.never_begins, verdict.waits_for))
            way_out = "; ".join(filter(None, dict.fromkeys(map(asked.way_out, verdict.waits_for))))
            self._known[key] = is_stuck, way_out, is_stuck and any(map(asked.may_pass, verdict.waits_for))
        return Waiting(verdict.reason, verdict.task, *self._known.get(key, ()))

    def _record_unbegun(self, opened: OpenLaunch, verdict: NeverBegan) -> bool:
        job_id, number, state, record, _ = verdict
        about = {"launch": opened.launch.number, "scheduler": opened.scheduler, **verdict.about}
        is_kept = self._kept(lambda: self._states.record_unbegun(job_id, number, state, record, about))
        if not is_kept:
            self._found[job_id, number] = state
            self._unbegun.add((job_id, number))
        return is_kept

    def _end(self, verdict: Ended) -> None:
        job_id, number, state, record = verdict
        if not processes.is_gone(self._states.anchor(self._before, job_id, number)):
            record = {**record, "fenced_at": time.time()}  # on a lost node it may run on until its supervisor looks
        self._found[job_id, number] = found = self._states.lose(job_id, number, state, record)
        self._ended[job_id] = Attempt(job_id, number, found)
        if found is State.RUNNING:  # a newer version can tell: nobody is to end it by hand
            self._untold.add(job_id)

    def _amend(self, verdict: Amended) -> bool:
        job_id, number, state, record = verdict
        return self._kept(lambda: self._states.amend(job_id, number, state, record))

    def _kept(self, record: Callable[[], None]) -> bool:
        """Whether what was found out is recorded; where the disk is full, or not ours, it will be found out again."""
        if not self._keeps:
            return False
        try:
            record()
        except OSError as error:
            self._keeps = False
            tell(
                f"what the scheduler tells of jobs cannot be recorded in {self._folder.path}: {error.strerror or error}"
            )
        return self._keeps

    def table(self, after: StateTable) -> StateTable:
        """The states as they are now, with what was found out and could not be recorded, and what waits."""
        after = _with(after, self._found)
        if self._unbegun:
            after = after._replace(kept=self._states.kept(after.attempts, self._unbegun))
        queued = {
            job_id: waiting
            for job_id, waiting in self._queued.items()
            if not (self._has_begun_since(after, job_id) or self._is_over(job_id, waiting))
        }
        ended_since = {
            job_id: waiting
            for job_id, waiting in self._running.items()
            if may_come_back(after.last(job_id), self._end_of_attempt)
        }
        untold = frozenset(self._untold)
        confirmed = self._confirmed | untold | self._running.keys()
        return after._replace(
            queued=queued | ended_since,
            confirmed=confirmed,
            untold=untold,
            paused=self._paused,
            unread=self._before.unread,
        )

    def _is_over(self, job_id: JobId, waiting: Waiting) -> bool:
        """Whether a job has meanwhile an end after which it does not run again, though its task does; after most of
        them, and where nobody can read its end, no worker, of which no task is named, takes it."""
        last = self._ended.get(job_id)
        if last is None:
            return False
        return last.state in ENDED_WELL or (waiting.task is None and not self._states.ended_for_others(last))

    def _has_begun_since(self, after: StateTable, job_id: JobId) -> bool:
        """Whether it runs, or has ended for good, in an attempt that was not there when the states were read."""
        newest = after.next_number(job_id) - 1
        has_begun = newest >= self._before.next_number(job_id) and "unbegun" not in self._states.record(job_id, newest)
        return has_begun and not may_come_back(after.last(job_id), self._end_of_attempt)


def _with(table: StateTable, found: Mapping[tuple[JobId, int], State]) -> StateTable:
    """The same with what was found out about attempts and could not be recorded."""
    if not found:
        return table
    attempts = {job_id: dict(numbers) for job_id, numbers in table.attempts.items()}
    for (job_id, number), state in found.items():
        numbers = attempts.setdefault(job_id, {})
        if numbers.get(number, State.RUNNING) is State.RUNNING:
            numbers[number] = state
    return table._replace(attempts=attempts)


class ActiveTask(NamedTuple):
    """A task that a scheduler has, waiting or running."""

    scheduler: str
    array: str
    array_index: int
    is_worker: bool = False  # it takes one job after the other, of all that are named

    @property
    def name(self) -> str:
        """As the scheduler's commands name it: 12_7."""
        return task_name(self.array, self.array_index)

    def __str__(self) -> str:
        return f"{schedulers.label_of(self.scheduler)} task {self.name}"


def active_tasks(
    folder: Folder, table: StateTable, *, of: Collection[int] | None = None, is_needed: bool = True
) -> dict[ActiveTask, Sequence[int]]:
    """The tasks that schedulers have, waiting or running, each with its jobs.

    A script that was submitted twice has two tasks for each job; a worker has all jobs that it may take, but for those
    that have ended. Raises SchedulerError where one cannot be asked; with `is_needed` false, one that this machine does
    not reach is left out. What another cluster has is left out where none of the jobs `of` which it is asked is there.
    """
    launches, users, _ = open_launches(folder, running_records(States(folder), table))
    found: dict[ActiveTask, Sequence[int]] = {}
    for name in sorted({opened.scheduler for opened in launches}):
        scheduler = schedulers.named(name)
        if not is_needed and not scheduler.is_available():
            continue
        mine = [opened for opened in launches if opened.scheduler == name]
        _require_asked(table, mine, of)
        arrays = [array for opened in mine for array in opened.arrays]
        tasks = {array.name: dict(array.tasks()) for array in arrays if array.n_workers is None}
        of_workers: dict[str, list[int]] = {}  # by the name of their array, which launches that have joined it share
        for array in arrays:
            if array.n_workers is not None:
                left = (job_id for job_id in array.jobs if table.state(job_id) not in ENDED)
                of_workers.setdefault(array.name, []).extend(left)
        for row in names_known(scheduler, launches).rows(scheduler.queue(users)):
            if row.phase is Phase.ENDED:
                continue
            for index in row.indices or ():
                if row.name in of_workers:
                    found[ActiveTask(name, row.array, index, is_worker=True)] = of_workers[row.name]
                elif row.name in tasks:
                    found[ActiveTask(name, row.array, index)] = tasks[row.name].get(index, ())
    return found


def _require_asked(table: StateTable, launches: Iterable[OpenLaunch], of: Collection[int] | None) -> None:
    """Raise SchedulerError where another cluster has any of the jobs, or may have it; None: of whatever jobs."""
    for opened in launches:
        unasked = why_unasked(opened)
        for array in opened.arrays if unasked else ():
            jobs = set(array.jobs) if of is None else set(array.jobs).intersection(of)
            if array.name in unasked and any(_may_be_there(table.last(JobId(job)), opened) for job in jobs):
                raise SchedulerError(unasked[array.name], words=unasked[array.name])


def may_be_elsewhere(folder: Folder, table: StateTable, ids: Collection[int]) -> dict[int, str]:
    """Those of the jobs that a cluster may have which is not asked, though another one that may have them is, and those
    that run in the folder that this one is a copy of, each with what people are told."""
    found: dict[int, str] = {}
    records = running_records(States(folder), table)
    for opened in open_launches(folder, records, with_copied=True).launches:
        if opened.original is not None:
            mine = (job for job, record in records.items() if record.get("launch") == opened.launch.number)
            words = f"what {folder.path} has got as a copy of {opened.original} runs there"
            found |= dict.fromkeys(set(mine).intersection(ids), words)
            continue
        asked = opened.asked
        for array in opened.arrays:
            if not opened.is_partial(array.name, asked):
                continue
            for job in set(array.jobs).intersection(ids):
                is_here = asked is not None and records.get(JobId(job), {}).get("cluster") in asked
                if not is_here and _may_be_there(table.last(JobId(job)), opened):
                    found[job] = str(opened.why_partial(asked))
    return found


def _may_be_there(last: Attempt, opened: OpenLaunch) -> bool:
    """Whether a scheduler may have the job of a launch, by its last attempt."""
    is_over = last.state in ENDED and last.state not in (State.PREEMPTED, State.NODE_FAIL)
    return last.number < opened.planned[last.job_id] or not is_over


def wait_for(
    folder: Folder,
    launch: Launch,
    texts: Mapping[int, str],
    *,
    of: Iterable[int] | None = None,
    heal: Callable[[], None] | None = None,
) -> None:
    """Every job of the launch, or of those named, has ended for good; `texts` are what people are told about each.

    A job that a scheduler is going to start again has not ended, and only the scheduler knows; `heal` is called before
    it is asked, and may submit others again: an end that it has not seen is not for good. Also when none that is left
    will begin by itself, and where for ten minutes nobody could read how something has ended, or the record of the
    launch: people are told.
    """
    planned = planned_attempts(launch)
    waiting = set(planned if of is None else of)
    stuck, untold, unread = _Stuck(), _Lasting(), _Lasting()
    started, pause, ends = time.monotonic(), ASK_FIRST_S, EndsOfTasks()
    ask_at = started + pause
    with JobLines(len(waiting)).showing() as lines:
        while waiting:
            time.sleep(LOOK_S)
            asks = time.monotonic() >= ask_at
            seen = None
            if asks and heal is not None:
                seen = States(folder).table()
                heal()
            table = reconciled(folder, ends=ends) if asks else States(folder).table()
            is_told = asks and launch.number not in _to_be_read_again(table, unread)
            lasting = untold.of(_without_end(table)) if asks else ()
            for job_id in sorted(waiting):
                is_left = is_told and table.state(job_id) is State.PENDING  # by workers that have ended
                is_news = seen is not None and seen.attempts.get(JobId(job_id)) != table.attempts.get(JobId(job_id))
                has_ended = _has_ended(table, job_id, planned[job_id], is_truth=is_told and not is_news)
                if has_ended or is_left or table.last(job_id) in lasting:
                    waiting.discard(job_id)
                    _tell(folder, launch, table, job_id, lines, texts.get(job_id, ""), time.monotonic() - started)
            if asks:
                pause = min(pause * 1.5, ASK_AT_MOST_EVERY_S)
                ask_at = time.monotonic() + pause
                if waiting and stuck.has_lasted([table.queued.get(JobId(job_id)) for job_id in waiting], _STUCK_S):
                    _tell_of_stuck(folder, table, waiting)
                    return


class _Stuck:
    """How long nothing that is left begins by itself, for whoever looks again and again."""

    def __init__(self) -> None:
        self._since: float | None = None

    def has_lasted(self, left: Collection[Waiting | None], seconds: float) -> bool:
        """Whether that is so for as long, or for _PASSES_S where it may pass; None is a job that does not wait."""
        if not all(one is not None and one.is_stuck for one in left):
            self._since = None
            return False
        self._since = self._since or time.monotonic()
        may_pass = any(one is not None and one.may_pass for one in left)
        return time.monotonic() - self._since >= (max(seconds, _PASSES_S) if may_pass else seconds)


class _Lasting:
    """Since when something is so that may pass by itself, for whoever looks again and again."""

    def __init__(self) -> None:
        self._since: dict[Hashable, float] = {}

    def of(self, found: Iterable[Hashable]) -> set[Hashable]:
        """Those of what is found now that were found at each look for _PASSES_S."""
        now = time.monotonic()
        self._since = {one: self._since.get(one, now) for one in found}
        return {one for one, since in self._since.items() if now - since >= _PASSES_S}


def _without_end(table: StateTable) -> list[Attempt]:
    """The attempts that have ended, and of which nobody here can tell how: a disk may not have given it for a while."""
    return [last for job_id in table.untold if (last := table.last(job_id)).state is State.RUNNING]


def _to_be_read_again(table: StateTable, unread: _Lasting) -> set[str]:
    """The launches that a disk has refused, but for those that it has refused for long: what their jobs are is not
    known."""
    refused = {number for number, may_pass in table.unread.items() if may_pass}
    return refused - unread.of(refused)


def wait_until_idle(folder: Folder, is_due: Callable[[StateTable], bool] = lambda _: False) -> StateTable:
    """No job of the experiment waits in a queue or runs any more; returns the states at that moment. Also when what is
    left will not begin by itself: people are told. `is_due` tells whether somebody is about to submit more."""
    pause, ends, stuck, states = LOOK_S, EndsOfTasks(), _Stuck(), States(folder)
    untold, unread = _Lasting(), _Lasting()
    quiet_since: float | None = None
    gone = set[tuple[JobId, int]]()  # attempts of which no process was left when the states were read the last time
    while True:
        # before the states are read: the last job may begin meanwhile
        grows, pools = may_grow(folder), _pools(folder)
        table = reconciled(folder, ends=ends)
        running = {
            (job_id, number)
            for job_id, found in table.attempts.items()
            for number, state in found.items()
            if state is State.RUNNING
        }
        is_busy = not running <= gone  # of what is there still, only how it ended cannot be told
        is_busy = bool(_to_be_read_again(table, unread)) or is_busy
        lasting = untold.of(_without_end(table))
        gone = {
            (job_id, number)
            for job_id, number in running
            if table.last(job_id) in lasting or _has_gone(table, (job_id, number), states.anchor(table, job_id, number))
        }
        if not stuck.has_lasted([None] if is_busy else table.queued.values(), 0.0):
            quiet_since = None
        else:
            quiet_since = quiet_since or time.monotonic()
            quiet_s = time.monotonic() - quiet_since
            may_go_on = (
                (quiet_s < _SUBMITS_S and is_due(table))
                or any(pool.may_begin(table, quiet_s) for pool in pools)
                or (grows and _may_propose(folder, table, quiet_s))
            )
            if not may_go_on:
                _tell_of_stuck(folder, table, table.queued)
                return table
            if quiet_s < _SUBMITS_S:
                time.sleep(LOOK_S)
                continue
        time.sleep(pause)
        pause = min(pause * 1.5, ASK_AT_MOST_EVERY_S)


def _has_gone(table: StateTable, attempt: tuple[JobId, int], anchor: Mapping[str, Any]) -> bool:
    """Whether nothing runs an attempt any more. What a scheduler runs is not over before that says so: its processes
    may be gone, and its task be about to start again; but for a launch that cannot be read, of which nobody is asked.
    """
    is_asked = scheduler_in(anchor) is not None and attempt[0] in table.confirmed
    return not is_asked and processes.is_gone(anchor) is True


class _Pool(NamedTuple):
    """A process that runs the jobs of a launch, without a scheduler."""

    planned: Mapping[int, int]
    is_surely_there: bool  # else it may be, on another machine

    def may_begin(self, table: StateTable, quiet_s: float) -> bool:
        """Whether it may be about to begin a job, where nothing has run for so long."""
        return (self.is_surely_there or quiet_s < _PROPOSES_S) and any(table.not_begun(self.planned))


def _pools(folder: Folder) -> list[_Pool]:
    found = []
    for driver in drivers(folder):
        with suppress(JobRefused):  # one that cannot be read, or is not there
            launch = read_launch(folder, driver.launch)
            if schedulers.of(launch) is None:
                found.append(_Pool(planned_attempts(launch), driver.is_surely_there))
    return found


def may_grow(folder: Folder) -> bool:
    """Whether a search has trials that nobody has proposed yet, and goes on."""
    if who_stopped(folder) is not None:
        return False
    with Manifest(folder) as manifest:
        return manifest.has_unproposed()


def _may_propose(folder: Folder, table: StateTable, quiet_s: float) -> bool:
    """Whether a worker that has just ended a trial of a search may be about to begin the next one: as long as it is
    there, however long it takes to propose that; for ten minutes where it is on a machine that cannot be asked."""
    found = drivers(folder)
    if quiet_s <= (_PASSES_S if found else _PROPOSES_S) or any(driver.is_surely_there for driver in found):
        return True
    with suppress(SchedulerError):
        return any(task.is_worker for task in active_tasks(folder, table, of=(), is_needed=False))
    return False


def _tell_of_stuck(folder: Folder, table: StateTable, ids: Iterable[int]) -> None:
    jobs: dict[tuple[str, str], list[int]] = {}
    for job_id in ids:
        waiting = table.queued[JobId(job_id)]
        jobs.setdefault((waiting.reason, waiting.way_out), []).append(job_id)
    for (reason, way_out), ids in jobs.items():
        what = f"{noun(len(ids))} {format_ids(sorted(ids))} will not begin unless somebody does something about it"
        cancel = f"`experiment-manager cancel {as_word(folder.path)} {format_ids(sorted(ids))}`"
        stays, it = ("it stays", "it") if len(ids) == 1 else ("they stay", "them")
        tell(
            f"{what} ({reason}): {f'{way_out}; ' if way_out else ''}{stays} in the queue, and {cancel} takes {it} back"
        )


def _has_ended(table: StateTable, job_id: int, planned: int, *, is_truth: bool) -> bool:
    last = table.last(job_id)
    if last.number < planned or last.state not in ENDED:
        return False
    return is_truth or last.state in ENDED_WELL


def _tell(
    folder: Folder, launch: Launch, table: StateTable, job_id: int, lines: JobLines, text: str, seconds: float
) -> None:
    last = table.last(job_id)
    reason = read_optional(folder.of_attempt(job_id, last.number, "attempt"), END).get("reason")
    if last.state is State.PENDING:
        why = "the workers have ended; the same command runs it"
        if launch.number in table.unread:
            why = f"launch {launch.number} cannot be read, so that nobody can tell what became of it"
        lines.ended(job_id, None, text, seconds=seconds, reason=why)
        return
    if last.state is State.RUNNING:
        reason = "it runs no more, and how it ended cannot be read"
    lines.ended(job_id, last.state, text, seconds=seconds, reason=reason)
