"""What became of the jobs of a launch: decided from what is on disk and what a scheduler says. Pure: nothing is asked,
and nothing is written here.

What is recorded as ended is never overridden, but for CANCELLED and NODE_FAIL that whoever recorded it has marked as
"ask the scheduler": a task that was started again ends its earlier run so when it claims its job first
(`States.claim`). Unknown is not failed: where nobody could be asked, or the scheduler has not caught up, jobs stay
what they were. What the scheduler has no more, while its history does not answer, is LOST, and marked so, too.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

from experiment_manager.model.records import ENDED_WELL, TO_START_AGAIN, Attempt, JobId, State, Task
from experiment_manager.scheduler.query import ArrayReport
from experiment_manager.scheduler.records import Phase, QueueRow, Run, not_asked
from experiment_manager.scheduler.submission import LaunchedArray, is_settled, is_taken_again, left_alone
from experiment_manager.store.states import (
    StateTable,
    has_ended_for_others,
    is_to_be_asked_about,
    last_real,
    scheduler_in,
    task_in,
)

CATCHES_UP_S: Final = 60.0
"""How long after a submission a scheduler's history may know nothing of a task yet (0.2 to 4.4 s measured on SLURM)."""

MAY_BE_BEHIND_S: Final = 86_400.0
"""How long after a submission a history that knows no task of the array may turn out to have been behind."""

MAY_TELL_S: Final = 30 * 86_400.0
"""How long after the end of an attempt a history is asked about it that has not answered, or does not know it. SLURM's
accounting forgets nothing by itself; sites that have it purged keep months."""

_LAST_KNOWN: Final = "as last known"
_HANDED_OVER: Final = "being submitted"
_OF_A_SIBLING: Final = "REVOKED"  # another cluster of a federation runs it
_NOT_THERE: Final = re.compile(r": line \d+: /[^:]+: (?:No such file or directory|Permission denied|cannot execute)")
"""How bash ends where a program is not there, as a Python that only the login node has."""

_BE_THERE: Final = "what a script runs has to be on all nodes, and may be run there: install it where they see it"
_MAY_COME_BACK: Final = (State.PREEMPTED, State.NODE_FAIL, State.TIMEOUT, State.CANCELLED, State.LOST)
"""A scheduler may start such a job again, or know better what became of it: its record tells."""


class Waits(NamedTuple):
    """The scheduler has the job, and it has not begun, or not begun again."""

    job_id: JobId
    reason: str  # the scheduler's word, as far as there is one
    task: str | None = None  # as its commands name it: 12_7; None: it was not seen there, or is any worker's
    waits_for: tuple[str, ...] = ()  # the scheduler's words of all tasks that may begin it; none where one runs


class Runs(NamedTuple):
    """The attempt that counts as RUNNING does, or may well do so: nobody is to end it by hand."""

    job_id: JobId
    word: str
    task: str | None = None
    is_paused: bool = False  # it holds its nodes, and its processes are stopped


class NeverBegan(NamedTuple):
    """The task of a job has ended, or was taken away, before the attempt of this number began."""

    job_id: JobId
    number: int
    state: State
    record: Mapping[str, Any]
    about: Mapping[str, Any] = {}


class Ended(NamedTuple):
    """The attempt that counts as RUNNING runs no more, as the scheduler says."""

    job_id: JobId
    number: int
    state: State
    record: Mapping[str, Any]


class Amended(NamedTuple):
    """The scheduler knows better how an attempt ended, and was to be asked, or has not started it again."""

    job_id: JobId
    number: int
    state: State
    record: Mapping[str, Any]


Verdict = Waits | Runs | NeverBegan | Ended | Amended


class LaunchVerdicts(NamedTuple):
    """The verdicts about one launch, and whether its scheduler may have more to say about it later."""

    verdicts: Sequence[Verdict]
    is_open: bool
    absent: frozenset[str] = frozenset()  # arrays to ask for by their ids: nothing is known of a task of theirs


class TrackedLaunch(NamedTuple):
    """A launch, as far as verdicts need it."""

    number: str
    label: str  # the scheduler's name in words
    arrays: Sequence[LaunchedArray]
    planned: Mapping[int, int]  # job -> the number of its first attempt in this launch
    submitted: Mapping[str, float]  # by name, when the arrays were submitted that are known to be
    seen: Callable[[str, int], bool]  # whether a task, by name and index, was seen at the scheduler
    is_ours: bool  # whether the scheduler would surely tell us of its jobs: a cluster may show people only their own
    has_id: frozenset[str] = frozenset()  # the names of the arrays that the scheduler can be asked for by their ids
    partial: frozenset[str] = frozenset()  # of those that others, who are not asked, may have tasks of
    asked: frozenset[str] | None = None  # the clusters that are asked, where they have told their names
    may_hide: Callable[[str | None], bool] = lambda _: False  # see `Scheduler.may_hide`
    is_being_submitted: bool = False  # whether somebody hands over just now what was not submitted yet


class Disk(NamedTuple):
    """What lies on disk about attempts; only what a verdict needs is read."""

    table: StateTable
    anchor: Callable[[int, int], Mapping[str, Any]]
    end: Callable[[int, int], Mapping[str, Any]]
    end_in_log: Callable[[str], State | None]  # by the name of a task: how its log says that it was ended
    last_words: Callable[[str], str]  # the last line in it that is not the scheduler's
    is_ours: Callable[[int, int], bool] = lambda *_: False  # whether we have begun the attempt, whatever we are called
    why_not: Callable[[int], str | None] = lambda _: None  # why a job cannot begin, by what it comes after


def verdicts(launch: TrackedLaunch, disk: Disk, reports: Mapping[str, ArrayReport], now: float) -> LaunchVerdicts:
    """What became of the jobs of a launch. `reports` is what its scheduler says about those of its arrays that it could
    be asked about. `now` is in seconds since the epoch."""
    return _Decision(launch, disk, reports, now).made()


def _active(array: LaunchedArray, report: ArrayReport | None) -> list[QueueRow]:
    """The rows of the tasks of an array that have not ended."""
    rows = [] if report is None else [report.active(index) for index in array.indices]
    return [row for row in rows if row is not None]


def _was_started_since(row: QueueRow, end: Mapping[str, Any], anchor: Mapping[str, Any]) -> bool:
    """Whether a task was started after an attempt had ended: where that has no time, its own one after it began, one of
    another submission of the script after its end was found, which has passed over it else."""
    task = task_in(anchor)
    is_its_own = task is None or row.array == _array_of(task)
    since = end.get("end") or (anchor.get("start", 0.0) if is_its_own else end.get("fenced_at"))
    return row.start is not None and since is not None and row.start > float(since)


def _array_of(task: Task | None) -> str:
    """The id of the submission that a task is of; empty, as of none, where there is no task."""
    return "" if task is None else task.array or task.id


class _Workers(NamedTuple):
    """Workers that may take jobs: what people are told of them, and why they wait, where none runs."""

    words: str
    waits_for: tuple[str, ...] = ()

    def wait(self, job_id: JobId) -> Waits:
        return Waits(job_id, self.words, waits_for=self.waits_for)


def _of_workers(rows: Sequence[QueueRow]) -> _Workers:
    """What the queue tells of workers: `3 workers run, 5 wait (Priority)`."""
    reasons = [row.waits_for for row in rows if row.phase is Phase.WAITING]
    n_running = len(rows) - len(reasons)
    runs = f"{n_running} {'worker runs' if n_running == 1 else 'workers run'}"
    if not reasons:
        return _Workers(runs)
    waits = f"{len(reasons)}{'' if n_running else ' worker' if len(reasons) == 1 else ' workers'} wait"
    waits += f"{'s' if len(reasons) == 1 else ''} ({reasons[0]})"
    return _Workers(f"{runs}, {waits}") if n_running else _Workers(waits, tuple(dict.fromkeys(reasons)))


def comes_back(state: State, end: Mapping[str, Any]) -> bool:
    """Whether a scheduler is expected to start a job again that has ended so, as long as it has its task."""
    is_requeued = state is State.TIMEOUT and bool(end.get("requeued"))
    return is_requeued or state in (State.PREEMPTED, State.NODE_FAIL)


def may_come_back(last: Attempt, end: Callable[[int, int], Mapping[str, Any]]) -> bool:
    """The same of the last attempt of a job; `end` reads how it ended, and is asked only where that matters."""
    return last.state in _MAY_COME_BACK and comes_back(last.state, end(last.job_id, last.number))


class _Decision:
    def __init__(self, launch: TrackedLaunch, disk: Disk, reports: Mapping[str, ArrayReport], now: float) -> None:
        self._launch, self._disk, self._reports, self._now = launch, disk, reports, now
        self._anchor, self._end = cache(disk.anchor), cache(disk.end)  # files, of each of which much is asked
        self._found: list[Verdict] = []
        self._is_open = False
        self._absent: set[str] = set()

    def made(self) -> LaunchVerdicts:
        over = self._disk.table.are_over(self._launch.planned)
        for array in self._launch.arrays:
            report = self._reports.get(array.name)
            if array.n_workers is not None:
                self._decide_of_workers(array, report)
                continue
            for index, jobs in array.tasks():
                for job_id in jobs:
                    if job_id not in over:
                        self._decide(array, index, JobId(job_id), report)
        return LaunchVerdicts(self._found, self._is_open, frozenset(self._absent))

    def _decide(self, array: LaunchedArray, index: int, job_id: JobId, report: ArrayReport | None) -> None:
        last = self._disk.table.last(job_id)
        if self._has_not_begun(last):
            self._not_begun(array, index, job_id, report)
        elif last.state is State.RUNNING:
            ended = self._counts_as_running(array, index, job_id, last.number, report)
            if ended is not None:
                self._begins_again(array, index, *ended, self._seen_of(array, report, index))
        elif last.state not in ENDED_WELL:
            self._ended(array, index, job_id, last, report)

    def _has_not_begun(self, last: Attempt) -> bool:
        """Whether a job has not begun under this launch; a dry pass, whatever its number is, is no beginning."""
        return last.number < self._launch.planned[last.job_id] or last.state is State.FAKE

    def _decide_of_workers(self, array: LaunchedArray, report: ArrayReport | None) -> None:
        """Any of them may run any of the jobs; which one runs a job that has begun, its anchor tells."""
        waits = self._waits_for_workers(array, report)
        for job_id in map(JobId, array.jobs):
            last = self._disk.table.last(job_id)
            if self._has_not_begun(last):
                if waits is not None:
                    self._found.append(waits.wait(job_id))
                continue
            if last.state not in (State.RUNNING, *_MAY_COME_BACK):
                continue
            anchor = self._anchor(job_id, last.number)
            task = task_in(anchor)
            if last.state is State.RUNNING:
                index = -1 if task is None or task.array_index is None else task.array_index
                ended = self._counts_as_running(array, index, job_id, last.number, report)
                if ended is not None:
                    self._wait_for_workers(array, *ended, report, waits)
            elif anchor.get("launch") == self._launch.number and task is not None and task.array_index is not None:
                end = self._end(job_id, last.number)
                if is_to_be_asked_about(end):
                    last, end = self._amended(array, task.array_index, last, end, report)
                self._wait_for_workers(array, last, end, report, waits)

    def _waits_for_workers(self, array: LaunchedArray, report: ArrayReport | None) -> _Workers | None:
        """Why jobs that have not begun wait for the workers of an array; None: there is none that could take them."""
        report = self._seen_of(array, report)
        rows = _active(array, report)
        if rows:
            self._is_open = True
            return _of_workers(rows)
        if all(self._submitted_at(array, index) is None for index in array.indices):
            self._is_open = True  # nobody has submitted them yet
            return _Workers(_HANDED_OVER) if self._launch.is_being_submitted else None
        if report is None or not (report.knows_anything() or self._launch.is_ours):
            self._is_open = True
            return _Workers(_LAST_KNOWN)
        if self._is_only_absent(array, report) or self._may_turn_up(array, report):
            self._is_open = True
            return _Workers("submitted")
        return None

    def _seen_of(
        self, array: LaunchedArray, report: ArrayReport | None, index: int | None = None
    ) -> ArrayReport | None:
        """The report; None where others, who are not asked, may have the task, or any one, and it tells of none that
        waits or runs."""
        if report is None or array.name not in self._launch.partial:
            return report
        is_seen = report.active(index) is not None if index is not None else bool(_active(array, report))
        return report if is_seen else None

    def _is_elsewhere(self, array: LaunchedArray, anchor: Mapping[str, Any]) -> bool:
        """Whether an attempt is, or may be, of a cluster that is not asked."""
        if array.name not in self._launch.partial:
            return False
        cluster = anchor.get("cluster")
        return cluster is None or bool(not_asked({cluster}, self._launch.asked))

    def _may_turn_up(self, array: LaunchedArray, report: ArrayReport) -> bool:
        """Whether a scheduler that has just been told of the workers does not know them yet."""
        since = self._launch.submitted.get(array.name)
        return not report.knows_anything() and since is not None and self._now - since < CATCHES_UP_S

    def _wait_for_workers(
        self,
        array: LaunchedArray,
        last: Attempt,
        end: Mapping[str, Any],
        report: ArrayReport | None,
        waits: _Workers | None,
    ) -> None:
        """QUEUED where a worker is going to take a job again that has ended so."""
        if waits is None:
            return
        is_taken = is_taken_again(
            last,
            self._disk.table.attempts[last.job_id],
            self._launch.planned[last.job_id],
            array.max_retries,
            is_own=self._is_started_again(array, last, end, report),
            is_for_others=lambda: has_ended_for_others(last.state, end),
        )
        if is_taken:
            self._found.append(waits.wait(last.job_id))

    def _is_started_again(
        self, array: LaunchedArray, last: Attempt, end: Mapping[str, Any], report: ArrayReport | None
    ) -> bool:
        """Whether the scheduler starts the very worker again that had a job in hand, as far as is known."""
        anchor = self._anchor(last.job_id, last.number)
        task = task_in(anchor)
        if task is None or report is None or self._is_elsewhere(array, anchor):
            return comes_back(last.state, end)
        row = report.active(-1 if task.array_index is None else task.array_index, _array_of(task))
        if row is None:
            return False
        if row.phase is Phase.WAITING:
            return True
        return _was_started_since(row, end, anchor) or last.state is State.NODE_FAIL

    def _not_begun(self, array: LaunchedArray, index: int, job_id: JobId, report: ArrayReport | None) -> None:
        """QUEUED while the scheduler has the task; that it ended before the job began is an attempt of its own."""
        report = self._seen_of(array, report, index)
        submitted = self._submitted_at(array, index)
        active = report.active(index) if report is not None else None
        run = report.last_run(index) if report is not None else None
        if active is not None:
            starts = active.word.lower() if active.phase is Phase.PAUSED else "starting"
            self._waits(job_id, active, index, active.waits_for if active.phase is Phase.WAITING else starts)
        elif run is not None and run.end is not None:
            self._ended_before_it_began(job_id, run, run.end)
        elif submitted is None and self._launch.is_being_submitted:
            self._waits_unseen(job_id, _HANDED_OVER)
        elif submitted is None:
            self._is_open = True  # nobody has submitted it yet
        elif report is None or not (report.knows_anything() or self._launch.is_ours):
            self._waits_unseen(job_id, _LAST_KNOWN)
        elif run is not None or self._now - submitted < CATCHES_UP_S or self._is_only_absent(array, report):
            self._waits_unseen(job_id, "submitted")
        else:
            self._vanished(array, job_id, submitted, report)

    def _is_only_absent(self, array: LaunchedArray, report: ArrayReport) -> bool:
        """Whether nothing is known of a task because the scheduler was asked for the names of arrays, or for people,
        alone: somebody may have renamed it, or it was never allowed to begin. It can be asked for the array itself."""
        if report.is_by_id or array.name not in self._launch.has_id:
            return False
        self._absent.add(array.name)
        return True

    def _submitted_at(self, array: LaunchedArray, index: int) -> float | None:
        """When a task was submitted, as far as we know or have seen it; None when it was not."""
        if array.name in self._launch.submitted:
            return self._launch.submitted[array.name]
        return 0.0 if self._launch.seen(array.name, index) else None

    def _waits(self, job_id: JobId, row: QueueRow, index: int, reason: str) -> None:
        self._is_open = True
        self._found.append(Waits(job_id, reason, row.names_task(index), (reason,)))

    def _waits_unseen(self, job_id: JobId, reason: str) -> None:
        self._is_open = True
        self._found.append(Waits(job_id, reason))

    def _vanished(self, array: LaunchedArray, job_id: JobId, submitted: float, report: ArrayReport) -> None:
        """Neither the queue nor the history knows a task that was submitted.

        On SLURM a task that is cancelled out of a pending array leaves no trace (measured); nothing else does that
        where there is a history, unless that is behind: then it does not know any task of the array.
        """
        state = State.CANCELLED
        reason = self._disk.why_not(job_id) or f"taken out of the array {array.name} before it began"
        if not report.has_history:
            state, reason = State.LOST, f"it had not begun, and {self._forgotten(report)}"
        is_behind = report.has_history and not report.is_in_history and self._now - submitted < MAY_BE_BEHIND_S
        is_to_ask = report.is_history_silent or is_behind  # it may know better when it answers
        self._is_open = self._is_open or is_to_ask
        record = {"reason": reason, **({"ask_scheduler": True} if is_to_ask else {})}
        self._found.append(NeverBegan(job_id, self._free_number(job_id), state, record))

    def _free_number(self, job_id: JobId) -> int:
        """The number of an attempt that never began: the planned one, unless a dry pass has taken that meanwhile."""
        planned = self._launch.planned[job_id]
        has_it = planned in self._disk.table.attempts.get(job_id, {})
        return self._disk.table.next_number(job_id) if has_it else planned

    def _forgotten(self, report: ArrayReport) -> str:
        tells = "does not tell now" if report.is_history_silent else "cannot tell"
        return f"{self._launch.label} has it no more and {tells} what became of it"

    def _ended_before_it_began(self, job_id: JobId, run: Run, end: State) -> None:
        """The task ended before the job began."""
        state, record = self._unbegun(run, end)
        if state is State.CANCELLED and (why_not := self._disk.why_not(job_id)):
            record["reason"] = f"{why_not} ({record['reason']})"
        about: dict[str, Any] = {"slurm_task": run.task, **({"node": run.node} if run.node else {})}
        if state is State.CANCELLED and not run.word.startswith(_OF_A_SIBLING):  # see `States.record_unbegun`
            about["tasks"] = [run.task]
        self._found.append(NeverBegan(job_id, self._free_number(job_id), state, record, about))

    def _unbegun(self, run: Run, end: State) -> tuple[State, dict[str, Any]]:
        """What an attempt came to whose task ended before it began."""
        words = f"{self._words(run)} before the job began"
        if end is State.COMPLETED:
            end, words = State.LOST, f"{self._launch.label} says COMPLETED, but the job has not begun"
        said = self._disk.last_words(run.task)
        if said and _NOT_THERE.search(said):
            said = f"{said}; {_BE_THERE}"
        return end, {"reason": f"{words}: {said}" if said else words, "slurm_state": run.word}

    def _words(self, run: Run) -> str:
        """`SLURM: FAILED, exit code 1 on n1`, with what a code means where that is not plain."""
        code = f", signal {run.signal}" if run.signal else f", exit code {run.exit_code}" if run.exit_code else ""
        node = f" on {run.node}" if run.node else ""
        return f"{self._launch.label}: {run.word}{code}{node}" + (f" ({run.why})" if run.why else "")

    def _counts_as_running(
        self, array: LaunchedArray, index: int, job_id: JobId, number: int, report: ArrayReport | None
    ) -> tuple[Attempt, Mapping[str, Any]] | None:
        """An attempt that counts as RUNNING runs, or the scheduler tells how it ended; then it is returned as it is
        now, with its end."""
        anchor = self._anchor(job_id, number)
        if anchor.get("launch") != self._launch.number or not scheduler_in(anchor):
            self._is_open = self._is_open or (report is not None and report.active(index) is not None)
            return None
        self._is_open = True
        if report is None or self._is_elsewhere(array, anchor):
            self._found.append(Runs(job_id, _LAST_KNOWN))
            return None
        task = task_in(anchor)
        active = report.active(index, _array_of(task))
        if active is not None and active.phase is not Phase.WAITING:
            is_paused = active.phase is Phase.PAUSED
            self._found.append(Runs(job_id, active.word.lower(), active.names_task(index), is_paused))
            return None
        end = self._end_of(index, job_id, number, anchor, report)
        if array.n_workers is not None and end is not None and end[0] is State.FAILED:
            end = State.LOST, f"its worker ended: {end[1]}"  # for no reason of the job's, which would have told it
        is_unknown = end is None or end[1] == self._forgotten(report)
        if active is None and is_unknown and self._is_only_absent(array, report):
            return None
        if end is None and active is None:
            if self._may_be_hidden(job_id, number, task):
                self._found.append(Runs(job_id, _LAST_KNOWN))
            elif self._is_unaccounted(array, index, anchor, report):
                words = f"{self._launch.label} has it no more, and its history knows of no run of it"
                return self._ends(job_id, number, State.LOST, {"reason": words, "ask_scheduler": True})
            return None  # the history has not caught up
        is_back = active is not None and (end is None or end[0] is State.LOST)  # more than nobody knows
        put_back = (State.NODE_FAIL, f"{self._launch.label} has put its task back into the queue")
        state, reason = put_back if end is None or is_back else end
        is_to_ask = end is None or (is_unknown and report.is_history_silent)
        about = {"reason": reason, **({"ask_scheduler": True} if is_to_ask else {})}
        return self._ends(job_id, number, state, about)

    def _ends(
        self, job_id: JobId, number: int, state: State, end: Mapping[str, Any]
    ) -> tuple[Attempt, Mapping[str, Any]]:
        self._found.append(Ended(job_id, number, state, end))
        return Attempt(job_id, number, state), end

    def _is_unaccounted(self, array: LaunchedArray, index: int, anchor: Mapping[str, Any], report: ArrayReport) -> bool:
        """Whether an attempt runs no more of whose end the history will not tell: a day after it began that knows of no
        run of its task, and its own cluster, which was asked for the array itself, has no such task, which is what
        counts where there is no history, too."""
        task = task_in(anchor)
        is_its_own = task is not None and task.cluster is not None and task.cluster in (self._launch.asked or ())
        is_late = self._age_s(anchor.get("start"), self._submitted_at(array, index)) >= MAY_BE_BEHIND_S
        return is_its_own and is_late and report.is_by_id and report.last_run(index) is None

    def _age_s(self, *times: float | None) -> float:
        """How long ago the last of these times was, of which some may not be known; 0 where none is."""
        return self._now - max((float(one) for one in times if one), default=self._now)

    def _may_be_hidden(self, job_id: int, number: int, task: Task | None) -> bool:
        """Whether the scheduler may not show us the task of an attempt."""
        return self._launch.may_hide(task and task.user) and not self._disk.is_ours(job_id, number)

    def _end_of(
        self, index: int, job_id: int, number: int, anchor: Mapping[str, Any], report: ArrayReport
    ) -> tuple[State, str] | None:
        """How the scheduler says that a run of a task ended; None while it does not say."""
        task = task_in(anchor)
        array, restart = _array_of(task), task.restart if task is not None else 0
        run = report.run(array, index, restart, float(anchor.get("start") or 0.0))
        if run is None and report.has_history:
            return None
        if run is None:
            found = self._disk.end_in_log(str(task and task.name))
            if found is None and self._may_be_hidden(job_id, number, task):
                return None  # that it is not seen tells nothing
            words = f"{self._launch.label} says {found} in the task's log"
            return (found, words) if found else (State.LOST, self._forgotten(report))
        if run.end is State.OUT_OF_MEMORY or self._is_over_memory(run, task):
            return State.OUT_OF_MEMORY, f"{self._launch.label}: out of memory"
        if run.end is State.COMPLETED:
            return State.LOST, f"{self._launch.label} says COMPLETED, but the attempt has recorded no end"
        return None if run.end is None else (run.end, self._words(run))

    def _is_over_memory(self, run: Run, task: Task | None) -> bool:
        """Whether a task was ended for memory of which its end says nothing: then its log does."""
        was_killed = run.end is State.CANCELLED or (run.end is State.FAILED and run.exit_code == 0)
        return was_killed and self._disk.end_in_log(str(task and task.name)) is State.OUT_OF_MEMORY

    def _ended(
        self, array: LaunchedArray, index: int, job_id: JobId, last: Attempt, report: ArrayReport | None
    ) -> None:
        """QUEUED when it is going to run again; CANCELLED and NODE_FAIL may turn out to be something else."""
        seen = self._seen_of(array, report, index)
        active = seen.active(index) if seen is not None else None
        if active is None and last.state not in _MAY_COME_BACK:
            return  # nothing more is to be said of it, and its record need not be read
        end = self._end(job_id, last.number)
        if is_to_be_asked_about(end) and self._is_of_this_launch(job_id, last.number):
            last, end = self._amended(array, index, last, end, report)
        self._begins_again(array, index, last, end, seen)

    def _begins_again(
        self, array: LaunchedArray, index: int, last: Attempt, end: Mapping[str, Any], report: ArrayReport | None
    ) -> None:
        """QUEUED where a task is going to run a job again that has ended so."""
        job_id = last.job_id
        active = report.active(index) if report is not None else None
        returns = comes_back(last.state, end)
        if active is not None:
            self._is_open = True
            anchor = self._anchor(job_id, last.number)
            if self._is_left_alone(job_id, anchor) or self._is_left_for_others(array, index, last, end, active):
                return
            if active.phase is Phase.WAITING:
                self._waits(job_id, active, index, active.waits_for)
            elif active.phase is Phase.RUNNING and _was_started_since(active, end, anchor):
                self._waits(job_id, active, index, "starting again")
            elif returns:  # it has not been put back yet
                self._waits(job_id, active, index, active.word.lower())
        elif report is None and returns and self._is_of_this_launch(job_id, last.number):
            self._waits_unseen(job_id, _LAST_KNOWN)
        elif report is not None and returns and last.state is State.TIMEOUT:
            self._stays_ended(array, index, last, end, report)
        elif report is not None and returns and self._is_of_this_launch(job_id, last.number):
            self._is_open = self._is_only_absent(array, report) or self._is_open

    def _stays_ended(
        self, array: LaunchedArray, index: int, last: Attempt, end: Mapping[str, Any], report: ArrayReport
    ) -> None:
        """A job that was to be started again, and of which the scheduler has no task any more, is not: its supervisor
        could not tell, since it had to end first."""
        anchor = self._anchor(last.job_id, last.number)
        task = task_in(anchor)
        is_of_this = self._is_of_this_launch(last.job_id, last.number)
        if not is_of_this or self._may_be_hidden(last.job_id, last.number, task):
            return
        said = self._end_of(index, last.job_id, last.number, anchor, report) if report.has_history else None
        is_told = said is not None and said[0] not in (State.PREEMPTED, State.NODE_FAIL)
        if not is_told and self._is_only_absent(array, report):
            self._is_open = True
            return
        reason = str(end.get("reason") or "it left at its warning").removesuffix(TO_START_AGAIN)
        kept = {key: value for key, value in end.items() if key not in ("requeued", "state")}
        words = {"reason": f"{reason}; {self._launch.label} has not started it again"}
        self._found.append(Amended(last.job_id, last.number, State.TIMEOUT, {**kept, **words}))

    def _is_of_this_launch(self, job_id: JobId, number: int) -> bool:
        return self._anchor(job_id, number).get("launch") == self._launch.number

    def _is_left_alone(self, job_id: JobId, anchor: Mapping[str, Any]) -> bool:
        """Whether a task of this launch does not begin a job that has ended: it is done, or another launch has begun
        what has ended so, see `States.claim`; `anchor` is that of its last attempt."""
        is_done = self._disk.table.kept.get(job_id, 0) >= self._launch.planned[job_id]
        return is_done or (anchor.get("launch") not in (None, self._launch.number) and "unbegun" not in anchor)

    def _is_left_for_others(
        self, array: LaunchedArray, index: int, last: Attempt, end: Mapping[str, Any], row: QueueRow
    ) -> bool:
        """Whether a task of several jobs, which is or was started again, leaves one alone that has ended so."""
        jobs = array.jobs_of(index)
        if len(jobs) == 1:
            return False
        settled = {job_id: self._is_settled(JobId(job_id), row) for job_id in jobs if job_id != last.job_id}
        return last.job_id in left_alone({**settled, last.job_id: self._is_settled_by(last, end, row)})

    def _is_settled(self, job_id: JobId, row: QueueRow) -> bool | None:
        """See `is_settled`: what the run of a task finds, or has found, of one of its jobs."""
        attempts = [
            Attempt(job_id, number, state)
            for number, state in sorted(self._disk.table.attempts.get(job_id, {}).items())
            if number >= self._launch.planned[job_id] and not self._is_of_run(row, job_id, number)
        ]
        last = last_real(attempts)
        return False if last is None else self._is_settled_by(last, self._end(job_id, last.number), row)

    def _is_settled_by(self, last: Attempt, end: Mapping[str, Any], row: QueueRow) -> bool | None:
        anchor = self._anchor(last.job_id, last.number)
        is_for_others = has_ended_for_others(last.state, end)
        settled = is_settled(last, anchor, self._launch.number, is_for_others=is_for_others)
        return settled if not settled or _array_of(task_in(anchor)) == row.array else None

    def _is_of_run(self, row: QueueRow, job_id: JobId, number: int) -> bool:
        """Whether an attempt began after a task that runs was started."""
        began = self._anchor(job_id, number).get("start")
        return row.phase is Phase.RUNNING and row.start is not None and began is not None and began > row.start

    def _amended(
        self,
        array: LaunchedArray,
        index: int,
        last: Attempt,
        end: Mapping[str, Any],
        report: ArrayReport | None,
    ) -> tuple[Attempt, Mapping[str, Any]]:
        """The attempt and its end as they are now, where the scheduler knows better, or no better; while it does not
        say, they stay as they are, and it is to be asked again."""
        job_id, number, was = last
        anchor = self._anchor(job_id, number)
        is_told = report is not None and not self._is_elsewhere(array, anchor)
        report = report if is_told else None
        answer = None if report is None else self._better(index, job_id, number, anchor, report)
        is_unbegun = "unbegun" in anchor
        times = (end.get("end"), end.get("fenced_at"), anchor.get("start"), self._submitted_at(array, index))
        is_over = self._age_s(*times) >= MAY_TELL_S
        if answer is None and self._may_tell_later(array, index, was, report, is_unbegun=is_unbegun, is_over=is_over):
            self._is_open = True
            return last, end
        answer = answer or (was, {})
        state, about = answer
        kept = {key: value for key, value in end.items() if key not in ("ask_scheduler", "ask_slurm", "state")}
        is_no_better = state is State.FAILED and (was is not State.LOST or array.n_workers is not None)
        if (state is State.LOST or is_no_better) and not is_unbegun:  # it knows no better than the supervisor
            state, about = was, {}
        if about:  # its word counts, also that it was not to be started again
            kept.pop("requeued", None)
        self._found.append(Amended(job_id, number, state, {**kept, **about}))
        return Attempt(job_id, number, state), {**kept, **about}

    def _may_tell_later(
        self,
        array: LaunchedArray,
        index: int,
        was: State,
        report: ArrayReport | None,
        *,
        is_unbegun: bool,
        is_over: bool,
    ) -> bool:
        """Whether the scheduler, which says nothing of an attempt, may do so when it is asked otherwise, or later;
        `is_over`: it has had its time."""
        if report is None:
            return True
        if not report.has_history:
            return not is_over
        if (was is State.LOST or is_unbegun) and self._is_only_absent(array, report):
            return True
        if is_unbegun:
            return self._now - (self._submitted_at(array, index) or 0.0) < MAY_BE_BEHIND_S
        return not is_over

    def _better(
        self, index: int, job_id: int, number: int, anchor: Mapping[str, Any], report: ArrayReport
    ) -> tuple[State, Mapping[str, Any]] | None:
        """What the scheduler says of an attempt that it was to be asked about; None while it does not say."""
        if "unbegun" in anchor:
            run = report.last_run(index)
            return None if run is None or run.end is None else self._unbegun(run, run.end)
        answer = self._end_of(index, job_id, number, anchor, report)
        if answer is None:
            return None
        task = task_in(anchor)
        has_it = report.active(index, _array_of(task)) is not None  # and may start it again
        if answer[0] is State.LOST and (report.is_history_silent or (has_it and not report.has_history)):
            return None
        return answer[0], {"reason": answer[1]}
