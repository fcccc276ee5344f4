"""The truth about jobs that SLURM runs: what the state files say, and where they are silent, what SLURM says.

At most one `squeue` and one `sacct`, for all launches together, and none when no launch needs them. What a supervisor
has recorded is never overridden, but for CANCELLED and NODE_FAIL that it has marked as "ask SLURM". Unknown is not
failed: where SLURM cannot be asked, or has not caught up, jobs stay what they were.
"""

import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from experiment_manager.errors import JobRefused, SlurmError
from experiment_manager.files import read_optional
from experiment_manager.folder import Folder
from experiment_manager.launches import planned_attempts, read_launch
from experiment_manager.records import ENDED_BADLY, JobId, Launch, State
from experiment_manager.slurm import client, parse, within
from experiment_manager.slurm.launched import LaunchedArray, Submission, launched_arrays
from experiment_manager.states import Snapshot, States, Waiting

SLURM_CATCHES_UP_S: Final = 60.0
"""How long after a submission SLURM's accounting may know nothing of a task yet (0.2 to 4.4 s measured)."""

_FORGOTTEN: Final = "SLURM has it no more and cannot tell what became of it"
_SETTLED: Final = "settled"
_HOLDS_NODES: Final = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT")


class _Open(NamedTuple):
    """A launch whose jobs SLURM may still have to say something about."""

    launch: Launch
    arrays: Sequence[LaunchedArray]
    planned: Mapping[int, int]  # job -> the number of its first attempt in this launch
    submission: Submission


class _Said(NamedTuple):
    """What SLURM says, by name of the array."""

    queue: Mapping[str, Sequence[parse.Queued]]
    runs: Mapping[str, list[parse.Run]] | None  # by task; None: there is no accounting


def reconciled(folder: Folder) -> Snapshot:
    """The states of all attempts, with SLURM asked where it is needed; what it knows better is now recorded, too.

    Says on standard error when SLURM cannot be asked, and then leaves everything as it was.
    """
    states = States(folder)
    snapshot = states.snapshot(reconcile=True)
    launches = list(_open_launches(folder, snapshot))
    if not launches:
        return snapshot
    said = _ask(states, snapshot, launches)
    judges = [_Judge(folder, states, snapshot, opened, said) for opened in launches]
    for judge in judges:
        judge.run()
    queued = {job_id: waiting for judge in judges for job_id, waiting in judge.queued.items()}
    confirmed = frozenset(job_id for judge in judges for job_id in judge.confirmed)
    return states.snapshot()._replace(queued=queued, confirmed=confirmed)


def _open_launches(folder: Folder, snapshot: Snapshot) -> Iterable[_Open]:
    try:
        numbers = sorted(name for name in os.listdir(folder.launches) if name.isdigit())
    except FileNotFoundError:
        return
    running = {JobId(i) for i, numbers in snapshot.attempts.items() if State.RUNNING in numbers.values()}
    for number in numbers:
        if os.path.exists(folder.join("launches", number, _SETTLED)) and not running:
            continue
        try:
            launch = read_launch(folder, number)
        except JobRefused as error:
            print(f"skipped: {error}", file=sys.stderr)
            continue
        arrays = launched_arrays(launch)
        if arrays:
            yield _Open(launch, arrays, planned_attempts(launch), Submission(folder, launch))


def _ask(states: States, snapshot: Snapshot, launches: Sequence[_Open]) -> _Said | None:
    """What SLURM says; None when it cannot be asked, or is not here."""
    if not client.is_available():
        return None
    users = {str(opened.launch.record["user"]) for opened in launches} | _users_in_anchors(states, snapshot)
    names = [array.name for opened in launches for array in opened.arrays]
    try:
        rows = client.squeue(users)
        runs = client.sacct(names, min(float(opened.launch.record["time"]) for opened in launches))
    except SlurmError as error:
        print(f"SLURM cannot be asked: {error}. What it runs is shown as it was last known", file=sys.stderr)
        return None
    queue: dict[str, list[parse.Queued]] = {name: [] for name in names}
    for row in rows:
        if row.name in queue:
            queue[row.name].append(row)
    return _Said(queue, runs)


def _users_in_anchors(states: States, snapshot: Snapshot) -> set[str]:
    """Who runs what is RUNNING: a script may have been submitted by somebody else than its author."""
    records = (
        states.record(job_id, number)
        for job_id, numbers in snapshot.attempts.items()
        for number, state in numbers.items()
        if state is State.RUNNING
    )
    return {record["slurm_job_user"] for record in records if record.get("slurm_job_user")}


class _Judge:
    """What becomes of the jobs of one launch."""

    def __init__(self, folder: Folder, states: States, snapshot: Snapshot, opened: _Open, said: _Said | None) -> None:
        self._folder, self._states, self._snapshot, self._opened, self._said = folder, states, snapshot, opened, said
        self.queued: dict[JobId, Waiting] = {}
        self.confirmed: set[JobId] = set()
        self._is_open = False

    def run(self) -> None:
        for array in self._opened.arrays:
            for job_id in array.jobs:
                self._judge(array, JobId(job_id))
        path = self._folder.join("launches", self._opened.launch.number, _SETTLED)
        if not self._is_open and not os.path.exists(path):
            with suppress(OSError):  # somebody else's folder: it will be asked about again
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o666))

    def _judge(self, array: LaunchedArray, job_id: JobId) -> None:
        last = self._snapshot.last(job_id)
        if last.number < self._opened.planned[job_id]:
            self._not_begun(array, job_id)
        elif last.state is State.RUNNING:
            self._running(array, job_id, last.number)
        elif last.state in ENDED_BADLY:
            self._ended_badly(array, job_id, last.number)

    def _active(self, array: LaunchedArray, index: int) -> parse.Queued | None:
        """The row of a task that SLURM still has."""
        rows = self._said.queue[array.name] if self._said else ()
        return next((row for row in rows if _has_active(row, index)), None)

    def _not_begun(self, array: LaunchedArray, job_id: JobId) -> None:
        """QUEUED while SLURM has the task; when it ended before the job began, that is recorded as its attempt."""
        index = array.index_of(job_id)
        submitted = self._submitted_at(array)
        if self._said is None:
            self._is_open = True
            if submitted is not None:
                self.queued[job_id] = Waiting("as last known")
            return
        active = self._active(array, index)
        if active is not None:
            self._is_open = True
            self._wait(job_id, active, index, "starting" if active.state in _HOLDS_NODES else active.reason)
            return
        runs = self._runs(array, index)
        if runs and parse.final_state(runs[-1].state) is not None:
            self._record_unbegun(array, job_id, runs[-1])
        elif submitted is None:
            self._is_open = True  # nobody has submitted it yet
        elif time.time() - submitted < SLURM_CATCHES_UP_S or (runs and parse.final_state(runs[-1].state) is None):
            self._is_open = True
            self.queued[job_id] = Waiting("submitted")
        else:
            state, reason = self._vanished(array)
            self._states.record_unbegun(job_id, self._opened.planned[job_id], state, {"reason": reason}, self._about())

    def _vanished(self, array: LaunchedArray) -> tuple[State, str]:
        """What became of a task that neither the queue nor accounting knows, though it was submitted.

        A task that is cancelled out of a pending array leaves no trace (measured); nothing else does that where there
        is accounting.
        """
        assert self._said is not None
        if self._said.runs is None:
            return State.LOST, f"it had not begun, and {_FORGOTTEN}"
        return State.CANCELLED, f"taken out of the array {array.name} before it began"

    def _wait(self, job_id: JobId, row: parse.Queued, index: int, reason: str) -> None:
        self.queued[job_id] = Waiting(reason, f"{row.array_job_id}_{index}")

    def _submitted_at(self, array: LaunchedArray) -> float | None:
        """When an array was submitted, as far as we or SLURM know; None when it was not."""
        submission = self._opened.submission
        if submission.slurm_id(array.name) is not None:
            return submission.submitted(array.name)
        rows = self._said.queue[array.name] if self._said else ()
        runs = self._said.runs if self._said and self._said.runs else {}
        seen = bool(rows) or any(run.name == array.name for found in runs.values() for run in found)
        return 0.0 if seen else None

    def _about(self) -> dict[str, Any]:
        return {"launch": self._opened.launch.number, "by_slurm": True}

    def _record_unbegun(self, array: LaunchedArray, job_id: JobId, run: parse.Run) -> None:
        state = parse.final_state(run.state) or State.LOST
        if state is State.COMPLETED:
            state, told = State.LOST, "SLURM says COMPLETED, but the job has not begun"
        else:
            told = f"{_words(run)} before the job began"
        said = _last_line(self._log(run.task))
        record = {"reason": f"{told}: {said}" if said else told, "slurm_state": run.state}
        planned = self._opened.planned[job_id]
        self._states.record_unbegun(job_id, planned, state, record, {**self._about(), "slurm_task": run.task})

    def _running(self, array: LaunchedArray, job_id: JobId, number: int) -> None:
        """An attempt that counts as RUNNING runs, or SLURM tells how it ended."""
        record = self._states.record(job_id, number)
        if record.get("launch") != self._opened.launch.number or not record.get("by_slurm"):
            return
        self._is_open = True
        if self._said is None:
            return
        index = array.index_of(job_id)
        active = self._active_run(array, index, record)
        if active is not None and active.state in _HOLDS_NODES:
            self.confirmed.add(job_id)
            return
        end = self._end_of(array, index, record)
        if end is None and active is None:
            return  # SLURM's accounting has not caught up
        state, reason = end or (State.NODE_FAIL, "SLURM has put its task back into the queue")
        self._states.lose(job_id, number, state, {"reason": reason})
        if active is not None:
            self._wait(job_id, active, index, active.reason)

    def _active_run(self, array: LaunchedArray, index: int, record: Mapping[str, Any]) -> parse.Queued | None:
        """The row of the very task that an attempt was run by: a script can be submitted twice."""
        rows = self._said.queue[array.name] if self._said else ()
        ours = str(record.get("slurm_array_job_id") or record.get("slurm_job_id"))
        return next((row for row in rows if row.array_job_id == ours and _has_active(row, index)), None)

    def _end_of(self, array: LaunchedArray, index: int, record: Mapping[str, Any]) -> tuple[State, str] | None:
        """How SLURM says that a run of a task ended; None while it does not say."""
        assert self._said is not None
        task = within.task_of(record)
        if self._said.runs is None:
            words = parse.words_in_log(_tail(self._log(task)))
            return (words, f"SLURM says {words} in the task's log") if words else (State.LOST, _FORGOTTEN)
        runs = self._said.runs.get(str(task), ())
        restart = within.restart_of(record)
        if not runs:
            return None
        run = runs[min(restart, len(runs) - 1)]
        state = parse.final_state(run.state)
        if state is None:
            return None
        if run.out_of_memory:
            return State.OUT_OF_MEMORY, "SLURM: out of memory"
        if state is State.COMPLETED:
            return State.LOST, "SLURM says COMPLETED, but the attempt has recorded no end"
        return state, _words(run)

    def _ended_badly(self, array: LaunchedArray, job_id: JobId, number: int) -> None:
        """QUEUED when SLURM is going to run it again; CANCELLED and NODE_FAIL may turn out to be something else."""
        index = array.index_of(job_id)
        active = self._active(array, index)
        end = read_optional(self._folder.of_attempt(job_id, number, "attempt"))
        if active is not None:
            self._is_open = True
            starts_again = active.start is not None and active.start > float(end.get("end") or 0)
            if active.state not in _HOLDS_NODES:
                self._wait(job_id, active, index, active.reason)
            elif active.state == "RUNNING" and starts_again:
                self._wait(job_id, active, index, "starting again")
        if end.get("ask_slurm"):
            self._refine(array, job_id, number, end)

    def _refine(self, array: LaunchedArray, job_id: JobId, number: int, end: Mapping[str, Any]) -> None:
        record = self._states.record(job_id, number)
        if record.get("launch") != self._opened.launch.number:
            return
        told = self._end_of(array, array.index_of(job_id), record) if self._said is not None else None
        if told is None:
            self._is_open = True
            return
        state, reason = told
        kept = {key: value for key, value in end.items() if key not in ("ask_slurm", "state")}
        if state in (State.LOST, State.FAILED):  # SLURM knows no better than the supervisor
            state, reason = State(end["state"]), str(kept.get("reason"))
        self._states.amend(job_id, number, state, {**kept, "reason": reason})

    def _runs(self, array: LaunchedArray, index: int) -> list[parse.Run]:
        """The runs of a task by accounting, of all submissions of its array."""
        if self._said is None or self._said.runs is None:
            return []
        named = [run for found in self._said.runs.values() for run in found if run.name == array.name]
        ids = sorted({int(run.task.partition("_")[0]) for run in named})
        return [run for slurm_id in ids for run in parse.runs_of(self._said.runs, str(slurm_id), index)]

    def _log(self, task: str | None) -> str:
        return self._folder.join("launches", self._opened.launch.number, f"{task}.log")


def _has_active(row: parse.Queued, index: int) -> bool:
    return parse.is_active(row.state) and row.indices is not None and index in row.indices


def _words(run: parse.Run) -> str:
    """`SLURM: FAILED, exit code 1 on n1`."""
    code = f", signal {run.signal}" if run.signal else f", exit code {run.exit_code}" if run.exit_code else ""
    node = f" on {run.node}" if run.node else ""
    return f"SLURM: {run.state}{code}{node}"


def _tail(path: str) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 65536))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _last_line(path: str) -> str:
    lines = _tail(path).strip().splitlines()
    return lines[-1].strip() if lines else ""
