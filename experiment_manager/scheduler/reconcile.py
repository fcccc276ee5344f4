"""The truth about jobs that SLURM runs: what the state files say, and where they are silent, what SLURM says.

At most one `squeue` and one `sacct`, for all launches together, and none when no launch needs them. What a supervisor
has recorded is never overridden, but for CANCELLED and NODE_FAIL that it has marked as "ask SLURM". Unknown is not
failed: where SLURM cannot be asked, or has not caught up, jobs stay what they were.
"""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from experiment_manager.model.records import Attempt, JobId, State
from experiment_manager.scheduler.asking import Answer, OpenLaunch, Told, ask, open_launches, running_records
from experiment_manager.scheduler.slurm import client, parse
from experiment_manager.scheduler.submissions import LaunchedArray, Submission
from experiment_manager.store import processes
from experiment_manager.store.documents import END, read_end, read_optional
from experiment_manager.store.launches import SETTLED, settle, user_name
from experiment_manager.store.layout import Folder
from experiment_manager.store.states import Snapshot, States, Waiting, task_in
from experiment_manager.text import tell

SLURM_CATCHES_UP_S: Final = 60.0
"""How long after a submission SLURM's accounting may know nothing of a task yet (0.2 to 4.4 s measured)."""

_FORGOTTEN: Final = "SLURM has it no more and cannot tell what became of it"
_LAST_KNOWN: Final = "as last known"
_MAY_COME_BACK: Final = (State.PREEMPTED, State.NODE_FAIL, State.TIMEOUT, State.CANCELLED)
"""SLURM may start such a job again, or know better what became of it: its record tells."""

_HOLDS_NODES: Final = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT")


def reconciled(folder: Folder, answer: Answer | None = None, *, is_to_act: bool = False) -> Snapshot:
    """The states of all attempts, with SLURM asked where it is needed; what it knows better is now recorded, too, where
    that may be written to.

    Says on standard error when SLURM cannot be asked, and then leaves everything as it was. It is not asked again about
    what it has been asked for the `answer`. Raises UnreadableLaunch where jobs are going to be started and a launch
    cannot be read: see `open_launches`; NewerRecord where one cannot tell how an attempt ended.
    """
    states = States(folder)
    snapshot = states.snapshot(reconcile=True)
    launches, users = open_launches(folder, running_records(states, snapshot), is_to_act=is_to_act)
    if not launches:
        return snapshot
    if answer is None or not answer.covers(launches, users):
        answer = ask(launches, users)
    told = answer.about(launches)
    judges = [_Judge(folder, states, snapshot, opened, told, is_to_act=is_to_act) for opened in launches]
    for judge in judges:
        judge.run()
    found = {attempt: state for judge in judges for attempt, state in judge.found.items()}
    before = snapshot
    if any(judge.has_news for judge in judges):  # it took some time, and is believed about jobs as they are now
        snapshot = states.snapshot(reconcile=True)
    snapshot = _with(snapshot, found)
    queued = {
        job_id: waiting
        for judge in judges
        for job_id, waiting in judge.queued.items()
        if not _has_begun_since(states, before, snapshot, job_id)
    }
    running = {job_id: waiting for judge in judges for job_id, waiting in judge.running.items()}
    ended_since = {
        job_id: waiting
        for job_id, waiting in running.items()
        if _returns(folder, snapshot.last(job_id), is_to_act=is_to_act)
    }
    confirmed = frozenset(job_id for judge in judges for job_id in judge.confirmed)
    return snapshot._replace(queued=queued | ended_since, confirmed=confirmed)


def _with(snapshot: Snapshot, found: Mapping[tuple[JobId, int], State]) -> Snapshot:
    """The same with what was found out about attempts and could not be recorded."""
    if not found:
        return snapshot
    attempts = {job_id: dict(numbers) for job_id, numbers in snapshot.attempts.items()}
    for (job_id, number), state in found.items():
        numbers = attempts.setdefault(job_id, {})
        if numbers.get(number, State.RUNNING) is State.RUNNING:
            numbers[number] = state
    return snapshot._replace(attempts=attempts)


def _has_begun_since(states: States, before: Snapshot, after: Snapshot, job_id: JobId) -> bool:
    newest = after.next_number(job_id) - 1
    return newest >= before.next_number(job_id) and "unbegun" not in states.record(job_id, newest)


def _returns(folder: Folder, last: Attempt, *, is_to_act: bool) -> bool:
    """Whether SLURM is expected to start a job again that has ended so, as long as it has its task."""
    path = folder.of_attempt(last.job_id, last.number, "attempt")
    return last.state in _MAY_COME_BACK and _comes_back(last, read_optional(path, END, refuses_newer=is_to_act))


def _comes_back(last: Attempt, end: Mapping[str, Any]) -> bool:
    is_requeued = last.state is State.TIMEOUT and bool(end.get("requeued"))
    return is_requeued or last.state in (State.PREEMPTED, State.NODE_FAIL)


def active_tasks(folder: Folder, snapshot: Snapshot) -> dict[str, tuple[int, ...]]:
    """The tasks that SLURM has, waiting or running, as its commands name them, each with its jobs.

    A script that was submitted twice has two tasks for each job. Raises SlurmError.
    """
    launches, users = open_launches(folder, running_records(States(folder), snapshot))
    tasks = {array.name: dict(array.tasks()) for opened in launches for array in opened.arrays}
    return {
        f"{row.array_job_id}_{index}": tasks[row.name].get(index, ())
        for row in (client.squeue(users) if launches else ())
        if row.name in tasks and parse.is_active(row.state)
        for index in row.indices or ()
    }


class _Judge:
    """What becomes of the jobs of one launch."""

    def __init__(
        self,
        folder: Folder,
        states: States,
        snapshot: Snapshot,
        opened: OpenLaunch,
        told: dict[str, Told] | None,
        *,
        is_to_act: bool,
    ) -> None:
        self._is_to_act = is_to_act
        self._folder, self._states, self._snapshot, self._opened, self._told = folder, states, snapshot, opened, told
        self.queued: dict[JobId, Waiting] = {}
        self.running: dict[JobId, Waiting] = {}  # what they are where they were put back into the queue meanwhile
        self.confirmed: set[JobId] = set()
        self.found: dict[tuple[JobId, int], State] = {}  # what could not be recorded
        self._keeps = states.may_write()
        self._is_open = self._has_recorded = False

    def run(self) -> None:
        if self._told is not None:
            by_hand = [array.name for array in self._opened.arrays if self._submission.slurm_id(array.name) is None]
            self._opened.sightings.add({name: self._told[name].indices() for name in by_hand})
        for array in self._opened.arrays:
            told = self._told[array.name] if self._told is not None else None
            for index, jobs in array.tasks():
                for job_id in jobs:
                    self._judge(array, index, JobId(job_id), told)
        if self._told is None or self._folder.is_only_read:
            return
        path = self._folder.join("launches", self._opened.launch.number, SETTLED)
        with suppress(OSError):  # somebody else's folder: it will be asked about again
            if self._is_open and os.path.exists(path):
                os.unlink(path)
            elif not self._is_open and not os.path.exists(path):
                settle(self._folder, self._opened.launch.number)

    @property
    def has_news(self) -> bool:
        """Whether SLURM was asked, and has said anything of a job: then its state may be another one by now."""
        return self._told is not None and bool(self.queued or self.running or self.found or self._has_recorded)

    @property
    def _submission(self) -> Submission:
        return self._opened.submission

    def _judge(self, array: LaunchedArray, index: int, job_id: JobId, told: Told | None) -> None:
        last = self._snapshot.last(job_id)
        if last.number < self._opened.planned[job_id]:
            self._not_begun(array, index, job_id, told)
        elif last.state is State.RUNNING:
            self._runs(index, job_id, last.number, told)
        elif last.state is not State.COMPLETED:
            self._ended(index, job_id, last, told)

    def _not_begun(self, array: LaunchedArray, index: int, job_id: JobId, told: Told | None) -> None:
        """QUEUED while SLURM has the task; when it ended before the job began, that is recorded as its attempt."""
        submitted = self._submitted_at(array, index)
        active = told.active(index) if told is not None else None
        run = told.last_run(index) if told is not None else None
        if active is not None:
            self._wait(job_id, active, index, "starting" if active.state in _HOLDS_NODES else active.reason)
        elif told is not None and run is not None and parse.final_state(run.state) is not None:
            self._died(job_id, run)
        elif submitted is None:
            self._is_open = True  # nobody has submitted it yet
        elif told is None or not (told.knows_anything() or self._is_ours()):
            self._wait_unseen(job_id, _LAST_KNOWN)
        elif run is not None or time.time() - submitted < SLURM_CATCHES_UP_S:
            self._wait_unseen(job_id, "submitted")
        else:
            state, reason = self._vanished(array, told)
            self._record_unbegun(job_id, state, {"reason": reason})

    def _is_ours(self) -> bool:
        """Whether SLURM would surely tell us of these jobs: a cluster may show people only their own."""
        return os.geteuid() == 0 or self._opened.launch.record["user"] == user_name()

    def _vanished(self, array: LaunchedArray, told: Told) -> tuple[State, str]:
        """What became of a task that neither the queue nor accounting knows, though it was submitted.

        A task that is cancelled out of a pending array leaves no trace (measured); nothing else does that where there
        is accounting.
        """
        if not told.has_accounting:
            return State.LOST, f"it had not begun, and {_FORGOTTEN}"
        return State.CANCELLED, f"taken out of the array {array.name} before it began"

    def _wait(self, job_id: JobId, row: parse.Queued, index: int, reason: str) -> None:
        self._is_open = True
        self.queued[job_id] = Waiting(reason, f"{row.array_job_id}_{index}")

    def _wait_unseen(self, job_id: JobId, reason: str) -> None:
        self._is_open = True
        self.queued[job_id] = Waiting(reason)

    def _submitted_at(self, array: LaunchedArray, index: int) -> float | None:
        """When a task was submitted, as far as we know or have seen it at SLURM's; None when it was not."""
        if self._submission.slurm_id(array.name) is not None:
            return self._submission.submitted(array.name)
        return 0.0 if self._opened.sightings.has(array.name, index) else None

    def _record_unbegun(self, job_id: JobId, state: State, record: Mapping[str, Any], **about: Any) -> None:
        number = self._opened.planned[job_id]
        about = {"launch": self._opened.launch.number, "by_slurm": True, **about}
        if not self._kept(lambda: self._states.record_unbegun(job_id, number, state, record, about)):
            self.found[job_id, number] = state

    def _kept(self, record: Callable[[], None]) -> bool:
        """Whether what was found out is recorded; where the disk is full, or not ours, it will be found out again."""
        if not self._keeps:
            return False
        try:
            record()
        except OSError as error:
            self._keeps, self._is_open = False, True
            tell(f"what SLURM tells of jobs cannot be recorded in {self._folder.path}: {error.strerror or error}")
        else:
            self._has_recorded = True
        return self._keeps

    def _died(self, job_id: JobId, run: parse.Run) -> None:
        """The task ended before the job began."""
        state = parse.final_state(run.state) or State.LOST
        if state is State.COMPLETED:
            state, words = State.LOST, "SLURM says COMPLETED, but the job has not begun"
        else:
            words = f"{_words(run)} before the job began"
        said = _last_line(self._log(run.task))
        record = {"reason": f"{words}: {said}" if said else words, "slurm_state": run.state}
        self._record_unbegun(job_id, state, record, slurm_task=run.task)

    def _runs(self, index: int, job_id: JobId, number: int, told: Told | None) -> None:
        """An attempt that counts as RUNNING runs, or SLURM tells how it ended."""
        record = self._snapshot.runners.get((job_id, number), {})
        if record.get("launch") != self._opened.launch.number or not record.get("by_slurm"):
            self._is_open = self._is_open or (told is not None and told.active(index) is not None)
            return
        self._is_open = True
        if told is None:
            self.running[job_id] = Waiting(_LAST_KNOWN)
            self.confirmed.add(job_id)  # nobody is to end by hand what may run well
            return
        task = task_in(record)
        active = told.active(index, str(task and (task.array or task.id)))
        if active is not None and active.state in _HOLDS_NODES:
            self.confirmed.add(job_id)
            self.running[job_id] = Waiting(active.state.lower(), f"{active.array_job_id}_{index}")
            return
        end = self._end_of(index, record, told)
        if end is None and active is None:
            return  # SLURM's accounting has not caught up
        state, reason = end or (State.NODE_FAIL, "SLURM has put its task back into the queue")
        about: dict[str, Any] = {"reason": reason, **({} if end else {"ask_slurm": True})}
        if not processes.is_gone(record):  # where SLURM has lost a node, the job may run on until its supervisor looks
            about["fenced_at"] = time.time()
        self.found[job_id, number] = self._states.lose(job_id, number, state, about)
        if self.found[job_id, number] is State.RUNNING:  # a newer version can tell: nobody is to end it by hand
            self.confirmed.add(job_id)
        if active is not None:
            self._wait(job_id, active, index, active.reason)

    def _end_of(self, index: int, record: Mapping[str, Any], told: Told) -> tuple[State, str] | None:
        """How SLURM says that a run of a task ended; None while it does not say."""
        task = task_in(record)
        slurm_id = str(task and (task.array or task.id))
        run = told.run(slurm_id, index, task.restart if task else 0, float(record.get("start") or 0.0))
        if run is None and told.has_accounting:
            return None
        if run is None:
            words = parse.words_in_log(_tail(self._log(task and task.name)))
            return (words, f"SLURM says {words} in the task's log") if words else (State.LOST, _FORGOTTEN)
        state = parse.final_state(run.state)
        if state is None:
            return None
        if run.out_of_memory:
            return State.OUT_OF_MEMORY, "SLURM: out of memory"
        if state is State.COMPLETED:
            return State.LOST, "SLURM says COMPLETED, but the attempt has recorded no end"
        return state, _words(run)

    def _ended(self, index: int, job_id: JobId, last: Attempt, told: Told | None) -> None:
        """QUEUED when SLURM is going to run it again; CANCELLED and NODE_FAIL may turn out to be something else."""
        active = told.active(index) if told is not None else None
        if active is None and last.state not in _MAY_COME_BACK:
            return  # nothing more is to be said of it, and its record need not be opened
        path = self._folder.of_attempt(job_id, last.number, "attempt")
        end = read_optional(path, END, refuses_newer=self._is_to_act)
        comes_back = _comes_back(last, end)
        if active is not None:
            self._is_open = True
            starts_again = active.start is not None and active.start > float(end.get("end") or 0)
            if active.state not in _HOLDS_NODES:
                self._wait(job_id, active, index, active.reason)
            elif active.state == "RUNNING" and starts_again:
                self._wait(job_id, active, index, "starting again")
            elif comes_back:  # SLURM has not put it back yet
                self._wait(job_id, active, index, active.state.lower())
        elif told is None and comes_back and self._made(job_id, last.number):
            self._wait_unseen(job_id, _LAST_KNOWN)
        if end.get("ask_slurm"):
            self._refine(index, job_id, last.number, end, told)

    def _made(self, job_id: JobId, number: int) -> bool:
        """Whether an attempt is one of this launch."""
        return self._states.record(job_id, number).get("launch") == self._opened.launch.number

    def _refine(self, index: int, job_id: JobId, number: int, end: Mapping[str, Any], told: Told | None) -> None:
        if not self._made(job_id, number):
            return
        record = self._states.record(job_id, number)
        answer = self._end_of(index, record, told) if told is not None else None
        if answer is None:
            self._is_open = True
            return
        state, reason = answer
        kept = {key: value for key, value in end.items() if key not in ("ask_slurm", "state")}
        if state in (State.LOST, State.FAILED):  # SLURM knows no better than the supervisor
            state, reason = State(end["state"]), str(kept.get("reason"))
        self._kept(lambda: self._states.amend(job_id, number, state, {**kept, "reason": reason}))

    def _log(self, task: str | None) -> str:
        return self._folder.join("launches", self._opened.launch.number, f"{task}.log")


def _words(run: parse.Run) -> str:
    """`SLURM: FAILED, exit code 1 on n1`."""
    code = f", signal {run.signal}" if run.signal else f", exit code {run.exit_code}" if run.exit_code else ""
    node = f" on {run.node}" if run.node else ""
    return f"SLURM: {run.state}{code}{node}"


def _tail(path: str) -> str:
    return read_end(path).decode(errors="replace")


def _last_line(path: str) -> str:
    """The last line that is not a daemon's of SLURM: how the task ended we know already."""
    lines = [line.strip() for line in _tail(path).splitlines()]
    return next((line for line in reversed(lines) if line and not line.startswith("slurmstepd")), "")
