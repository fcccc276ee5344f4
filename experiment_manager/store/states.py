"""The states of all attempts, kept in file names: one `scandir` tells them for 100,000 jobs, and no file is edited.

    states/7.1              the anchor of attempt 1 of job 7: who runs it. Never renamed, never removed
    states/7.1.RUNNING      renamed, when the attempt ends, to 7.1.COMPLETED, 7.1.FAILED, ...

A number is claimed by linking a complete file to the anchor, which only one process can do. A `scandir` can lose files
that others rename meanwhile, so an attempt that seems to have no state is asked again name by name.
"""

from __future__ import annotations

import errno
import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType

from experiment_manager.errors import (
    AlreadyCompleted,
    EndedSince,
    FolderError,
    JobRefused,
    NotOverYet,
    UnreadableRecord,
    Unwritten,
)
from experiment_manager.model.records import ENDED, ENDED_WELL, Attempt, JobId, State, Task
from experiment_manager.store import processes
from experiment_manager.store.documents import ANCHOR, END, content, read_optional
from experiment_manager.store.endings import Ending, Endings, are_others, asked_to_end, withdraw
from experiment_manager.store.files import (
    FileClock,
    asked_again,
    clear_leftovers_in,
    discard,
    is_leftover,
    is_of_the_disk,
    linked,
    looked,
    share,
    sync,
    temporary_name,
    unreadable,
    writer_is_gone,
)
from experiment_manager.store.holds import read_held, read_removed, why_not_begun
from experiment_manager.store.layout import Folder
from experiment_manager.text import as_word, skipped, tell
from experiment_manager.typing_names import Any, Final, NamedTuple

_STORED: Final = (State.RUNNING, *sorted(ENDED))
_STATE_OF: Final = {str(state): state for state in _STORED}
_NAMES_AT_BEGINNING: Final = 3
OWNERSHIP_POLL_S: Final = 10.0
"""How often a supervisor looks whether its attempt has been ended by somebody else, as a run that came after it."""

SEEN_S: Final = 60.0
"""For so long a network file system may not show what was done elsewhere."""

_PATIENCE_S: Final = 10.0
"""For so long who is to run a job waits for that; then it is not run, which is no harm."""

_LOOK_S: Final = 0.2
_MOST_FENCED: Final = 20
"""So many attempts cannot be made before whoever was cut off has looked."""

_OF_NO_DOING: Final = frozenset({State.LOST, State.NODE_FAIL, State.PREEMPTED})
"""How an attempt ends by no doing of its own, nor of people."""

_GONE: Final = {"reason": "its supervisor is gone and has recorded no end: killed, or the machine went down"}
_INTERRUPTED: Final = {"reason": "it never began, and whoever recorded that was interrupted"}


def task_in(record: Mapping[str, Any]) -> Task | None:
    """The task that the anchor of an attempt names, also one that 0.1 wrote; None for what ran outside of all.

    >>> task_in({"slurm_job_id": "13", "slurm_array_job_id": "12", "slurm_array_task_id": "7"}).name
    '12_7'
    """
    if "task" in record:
        return Task(**record["task"], cluster=record.get("cluster"))
    if "slurm_job_id" not in record:
        return None
    index = record.get("slurm_array_task_id")
    return Task(
        "slurm",
        record["slurm_job_id"],
        array=record.get("slurm_array_job_id"),
        array_index=None if index is None else int(index),
        restart=int(record.get("slurm_restart_count") or 0),
        node=record.get("slurmd_nodename"),
        user=record.get("slurm_job_user"),
    )


def scheduler_in(record: Mapping[str, Any]) -> str | None:
    """The name of the scheduler that was asked to run the attempt of an anchor; None for one that a pool, or a person,
    has started, which may well be inside of a task."""
    found = record.get("scheduler")
    return str(found) if found else "slurm" if record.get("by_slurm") else None


def is_to_be_asked_about(end: Mapping[str, Any]) -> bool:
    """Whether the record of an end says that the scheduler may know better."""
    return bool(end.get("ask_scheduler") or end.get("ask_slurm"))


def has_ended_for_others(state: State, end: Mapping[str, Any]) -> bool:
    """Whether an attempt has ended for no reason of its own, so that a worker may take its job again: it died, made
    room, also for the time limit of its worker, or was told to end and nobody could be asked why. A dry pass was
    none."""
    if state in _OF_NO_DOING or state is State.FAKE:
        return True
    return bool(end.get("requeued")) or (state is State.CANCELLED and is_to_be_asked_about(end))


def node_of(record: Mapping[str, Any]) -> str | None:
    """Where the attempt of an anchor ran, or was to run: as the scheduler names the node, else by the host's name."""
    task = task_in(record)
    return (task and task.node) or record.get("node") or record.get("host")


class Waiting(NamedTuple):
    """A job that SLURM has and that has not begun, or not begun again."""

    reason: str  # the scheduler's word
    task: str | None = None  # as the scheduler's commands name it: 12_7
    is_stuck: bool = False  # the scheduler will not start it by itself
    way_out: str = ""  # what people can do about it, where they need to
    may_pass: bool = False  # it is stuck for what may pass without them


class StateTable(NamedTuple):
    """All attempts at one moment, and the names in `states/` that mean nothing to us.

    What SLURM adds is derived and stored nowhere: `queued` jobs, and RUNNING ones that it `confirmed`, or could not be
    asked about.
    """

    attempts: Mapping[JobId, Mapping[int, State]]
    foreign: tuple[str, ...]
    queued: Mapping[JobId, Waiting] = MappingProxyType({})
    confirmed: frozenset[JobId] = frozenset()
    untold: frozenset[JobId] = frozenset()
    """Those of the RUNNING ones that have ended, as the scheduler says, and of which nobody here can tell how."""
    paused: Mapping[JobId, str] = MappingProxyType({})
    """Those RUNNING ones that are not running now, and why."""
    unread: Mapping[str, bool] = MappingProxyType({})
    """The launches that cannot be read, so that nobody was asked: whether a disk has refused that, which may pass."""
    runners: Mapping[tuple[JobId, int], Mapping[str, Any]] = MappingProxyType({})
    """Who runs what is RUNNING, as its anchors told when they were asked: see `States.record`."""
    kept: Mapping[JobId, int] = MappingProxyType({})
    """The jobs that were done before attempts which never began, and the attempt of each that counts: see
    `States.kept`."""

    def last(self, job_id: int) -> Attempt:
        """The last attempt of a job; number 0 and PENDING when there is none. See `last_real`."""
        last = Attempt(JobId(job_id), *_last_of(self.attempts.get(JobId(job_id), {})))
        return last._replace(state=State.QUEUED) if job_id in self.queued else last

    def standing(self, job_id: int) -> Attempt:
        """The attempt by which a job is what it is: the last one, or that with which it was done where all later ones
        never began."""
        kept = None if job_id in self.queued else self.kept.get(JobId(job_id))
        return self.last(job_id) if kept is None else Attempt(JobId(job_id), kept, self.state(job_id))

    def next_number(self, job_id: int) -> int:
        """The number that the next attempt of a job gets."""
        return max(self.attempts.get(JobId(job_id), {}), default=0) + 1

    def not_begun(self, planned: Mapping[int, int]) -> Iterator[JobId]:
        """Those of the jobs of which the attempt has not begun whose number is planned for each, or a later one; a dry
        pass is none."""
        for job_id, first in planned.items():
            numbers = self.attempts.get(JobId(job_id), {})
            if all(number < first or state is State.FAKE for number, state in numbers.items()):
                yield JobId(job_id)

    def by_state(self, ids: Iterable[int]) -> defaultdict[State, list[int]]:
        """The jobs by what each is, in their order: see `state`."""
        found = defaultdict[State, list[int]](list)
        for job_id in ids:
            numbers = self.attempts.get(JobId(job_id))
            if numbers is not None and len(numbers) == 1 and job_id not in self.queued:  # as of most
                (state,) = numbers.values()
            else:
                state = self.state(job_id)
            found[state].append(job_id)
        return found

    def are_over(self, planned: Mapping[int, int]) -> set[int]:
        """Those of the jobs whose only attempt is the one planned for each, or a later one, and has ended well, as of
        most: nobody need do anything with them any more."""
        over = set()
        for job_id, first in planned.items():
            numbers = self.attempts.get(JobId(job_id), {})
            if len(numbers) == 1:
                ((number, state),) = numbers.items()
                if state in ENDED_WELL and number >= first:
                    over.add(job_id)
        return over

    def completed(self, job_id: int) -> int | None:
        """The number of the newest attempt that completed; None when there is none."""
        numbers = self.attempts.get(JobId(job_id), {})
        return max((number for number, state in numbers.items() if state is State.COMPLETED), default=None)

    def done(self, job_id: int) -> int | None:
        """The number of the newest attempt with which the job was done: it completed, or it was pruned; None when there
        is none."""
        numbers = self.attempts.get(JobId(job_id), {})
        return max((number for number, state in numbers.items() if state in ENDED_WELL), default=None)

    def counted(self, job_id: int) -> int | None:
        """The attempt whose result and metrics are those of a job: the newest one that completed, or was pruned where
        the job is PRUNED; None where there is none, and its metrics are those of the last one."""
        return self.done(job_id) if self.state(job_id) is State.PRUNED else self.completed(job_id)

    def state(self, job_id: int) -> State:
        """What a job is: see `standing`."""
        if self.queued and job_id in self.queued:
            return State.QUEUED
        numbers = self.attempts.get(JobId(job_id), {})
        if self.kept and job_id in self.kept:
            return numbers[self.kept[JobId(job_id)]]
        return _last_of(numbers)[1]

    def __repr__(self) -> str:
        from collections import Counter

        found = Counter(self.state(job_id) for job_id in {*self.attempts, *self.queued})
        counts = ", ".join(f"{found[state]} {state}" for state in State if found[state])
        return f"StateTable({counts or 'no job has begun'})"


def _last_of(numbers: Mapping[int, State]) -> tuple[int, State]:
    """Of the attempts of a job, the number and the state of the last one: see `StateTable.last`."""
    if len(numbers) == 1:
        return next(iter(numbers.items()))
    last = last_real(Attempt(JobId(0), *attempt) for attempt in sorted(numbers.items()))
    return (0, State.PENDING) if last is None else (last.number, last.state)


def last_real(attempts: Iterable[Attempt]) -> Attempt | None:
    """The last attempt that was no dry pass, else the last dry pass: to look at a job must not make it undone."""
    last: Attempt | None = None
    for attempt in attempts:
        if last is None or attempt.state is not State.FAKE or last.state is State.FAKE:
            last = attempt
    return last


def _attempts_in(names: Iterable[str]) -> tuple[dict[JobId, Mapping[int, State]], list[tuple[JobId, int]], set[str]]:
    """The attempts whose names tell a state, by job; those that may be RUNNING; and the other names: anchors without a
    state, and what is not ours."""
    once = {state: {1: state} for state in _STORED}  # one for all jobs that have begun once, as most: small, and fast
    found: dict[JobId, Mapping[int, State]] = {}
    running, others, told = [], set(), set()
    for name in names:
        anchor, _, word = name.rpartition(".")
        state = _STATE_OF.get(word)
        attempt = None if state is None else _attempt_of(anchor)
        if state is None or attempt is None:
            others.add(name)
            continue
        told.add(anchor)
        job_id, number = attempt
        if state is State.RUNNING:
            running.append(attempt)
        numbers = found.get(job_id)
        if numbers is None:
            found[job_id] = once[state] if number == 1 else {number: state}
        elif numbers.get(number) in (None, State.RUNNING):  # seen under two names: the later one counts
            found[job_id] = {**numbers, number: state}
    return found, running, others - told


def _attempt_of(anchor: str) -> tuple[JobId, int] | None:
    """The job and the number of the attempt with an anchor of this name; None: it is none.

    >>> _attempt_of("7.1"), _attempt_of("07.1"), _attempt_of("7.0"), _attempt_of("-7.1"), _attempt_of("7")
    ((7, 1), None, None, None, None)
    """
    job, _, attempt = anchor.partition(".")
    try:
        job_id, number = int(job), int(attempt)
    except ValueError:
        return None
    is_as_we_write_it = job_id >= 0 and number > 0 and f"{job_id}.{number}" == anchor
    return (JobId(job_id), number) if is_as_we_write_it else None


class States:
    """The files in `states/` of one experiment."""

    def __init__(self, folder: Folder, has_ended: Callable[[Task, bool], bool] = lambda *_: False) -> None:
        """`has_ended` asks a scheduler whether a run of a task has ended, by the task and whether people have begun the
        attempt by hand; only who claims an attempt needs to know."""
        self._folder, self._path, self._endings = folder, folder.states, Endings(folder)
        self._has_ended = has_ended
        self._claimed: dict[tuple[int, int], bytes] = {}  # the anchors of the attempts that we have claimed

    def _name(self, job_id: int, attempt: int, state: State | None = None) -> str:
        return os.path.join(self._path, f"{job_id}.{attempt}" + (f".{state}" if state else ""))

    def table(self, *, reconcile: bool = False) -> StateTable:
        """The states of all attempts; with `reconcile`, those that run here but whose process is gone become LOST.

        Opens the anchors of what is RUNNING, with `reconcile`, and what those left that are gone, and no other file.
        Raises FolderError when it cannot be read.
        """
        try:
            return self._read(reconcile=reconcile)
        except OSError as error:
            raise FolderError(unreadable(error.filename or self._path, error)) from error

    def _read(self, *, reconcile: bool) -> StateTable:
        names, hidden = self._names()
        if reconcile:
            self._clear_leftovers(hidden)
        found, running, others = _attempts_in(names)
        foreign = []
        for name in others:
            attempt = _attempt_of(name)
            if attempt is None:
                foreign.append(name)
                continue
            job_id, number = attempt
            found[job_id] = {**found.get(job_id, {}), number: self.state(job_id, number)}
            running.append(attempt)
        runners = self._reconcile(found, running) if reconcile else {}
        return StateTable(found, tuple(sorted(foreign)), runners=runners, kept=self.kept(found))

    def kept(
        self, found: Mapping[JobId, Mapping[int, State]], unrecorded: Collection[tuple[int, int]] = ()
    ) -> dict[JobId, int]:
        """Those of the jobs that were done, and of which later attempts, as they all have, never began, with the number
        of the attempt that counts; `unrecorded` attempts never began, either, nor, as far as anybody can tell, those
        that are CANCELLED and have an anchor that cannot be read. Opens the anchors of attempts alone that ended badly
        after such a one."""
        kept = {}
        for job_id, numbers in found.items():
            if len(numbers) == 1:  # as of most
                continue
            done = max((number for number, state in numbers.items() if state in ENDED_WELL), default=math.inf)
            later = [number for number, state in numbers.items() if number > done and state is not State.FAKE]
            if later and not any(numbers[number] is State.RUNNING for number in later):
                unknown = (number for number in later if (job_id, number) not in unrecorded)
                if all(self._never_began(job_id, number, numbers[number]) for number in unknown):
                    kept[job_id] = int(done)
        return kept

    def _never_began(self, job_id: int, attempt: int, state: State) -> bool:
        record = self.record(job_id, attempt)
        return "unbegun" in record or (not record and state is State.CANCELLED)

    def _clear_leftovers(self, hidden: Iterable[str]) -> None:
        """What killed processes of this machine have left in the folder is gone: of them, no planner need ever come."""
        if any(is_leftover(name, 0.0) for name in hidden) and self.may_write():
            with suppress(OSError):  # of a link of somebody else's, which leads anywhere
                self._folder.require_within(self._path)
                clear_leftovers_in(self._path)

    def _names(self) -> tuple[list[str], list[str]]:
        """The names in the folder, and the hidden ones: files that are being made, or were left half done."""
        try:
            names = looked(lambda: os.listdir(self._path))
            hidden = [name for name in names if name[0] == "."]
            return [name for name in names if name[0] != "."] if hidden else names, hidden
        except FileNotFoundError:
            return [], []
        except OSError as error:  # nothing is known then, and PENDING would be a lie
            raise FolderError(unreadable(self._path, error)) from error

    def _reconcile(
        self, found: dict[JobId, Mapping[int, State]], running: Iterable[tuple[JobId, int]]
    ) -> dict[tuple[JobId, int], Mapping[str, Any]]:
        """Who runs what is RUNNING, of those attempts; what has ended without a word is no more."""
        runners: dict[tuple[JobId, int], Mapping[str, Any]] = {}
        for job_id, number in sorted(running):
            if found[job_id][number] is not State.RUNNING:
                continue
            record = self.record(job_id, number)
            ended = self._unrecorded_end(job_id, number, record)
            if ended is not None:
                found[job_id] = {**found[job_id], number: self.lose(job_id, number, ended)}
            if found[job_id][number] is State.RUNNING:
                runners[job_id, number] = record
        return runners

    def _unrecorded_end(self, job_id: int, attempt: int, record: Mapping[str, Any]) -> State | None:
        """How a RUNNING attempt has ended, by its anchor and what that tells, as far as that is certain; what SLURM
        runs, SLURM is asked about.

        An attempt that never began is found here when whoever recorded it was interrupted.
        """
        if "unbegun" in record:
            return State(record["unbegun"])
        return State.LOST if scheduler_in(record) is None and self._is_gone(job_id, attempt, record) else None

    def _is_gone(self, job_id: int, attempt: int, record: Mapping[str, Any]) -> bool | None:
        """Of the process that has written an anchor: see `writer_is_gone`."""
        return writer_is_gone(self._name(job_id, attempt), record, may_write=not self._folder.is_only_read)

    def settled(self, job_id: int) -> Attempt:
        """The attempt by which a job is what it is (`StateTable.standing`), LOST when it runs here and its process is
        gone; number 0 when there is none. Raises FolderError while a disk does not give how it ended."""
        last = self._standing(self.attempts(job_id)) or Attempt(JobId(job_id), 0, State.PENDING)
        is_running = last.state is State.RUNNING
        ended = self._unrecorded_end(job_id, last.number, self.record(job_id, last.number)) if is_running else None
        try:
            return last if ended is None else last._replace(state=self.lose(job_id, last.number, ended, must_know=True))
        except UnreadableRecord as error:
            raise FolderError(str(error)) from error

    def _standing(self, attempts: Sequence[Attempt]) -> Attempt | None:
        """The same of these attempts of a job; None: there is none."""
        kept = self.kept({one.job_id: {one.number: one.state for one in attempts} for one in attempts[:1]})
        return next((one for one in attempts if kept.get(one.job_id) == one.number), None) or last_real(attempts)

    def lose(
        self,
        job_id: int,
        attempt: int,
        state: State = State.LOST,
        record: Mapping[str, Any] = _GONE,
        *,
        must_know: bool = False,
    ) -> State:
        """The attempt, which nothing runs any more, is LOST (or `state`), unless it turns out to have ended, or to have
        left a complete result; returns what it is. Where that cannot be written, that is all. Where a newer version has
        written how it ended, or a disk does not give that, people are told, and it stays RUNNING for whoever can read
        it; with `must_know` raises UnreadableRecord for what a disk does not give."""
        try:
            return self._lose(job_id, attempt, state, record)
        except UnreadableRecord as error:
            if error.is_out_of_reach and must_know:
                raise
            running = as_word(self._name(job_id, attempt, State.RUNNING))
            hint = f"; job {job_id} stays RUNNING until then; if that never will be, rename {running} to end in .LOST"
            skipped(f"{error}{hint}" if error.is_out_of_reach else str(error))
            return State.RUNNING

    def _lose(self, job_id: int, attempt: int, state: State, record: Mapping[str, Any] = _GONE) -> State:
        about = self.record(job_id, attempt)
        if "unbegun" in about and record.get("reason") == _GONE["reason"]:  # nobody's supervisor: see `record_unbegun`
            record = about.get("ending", _INTERRUPTED)
        found = self._endings.found(job_id, attempt, about)
        if found is None and state in _OF_NO_DOING and (by := asked_to_end(self._folder, job_id, attempt, about)):
            kept = {key: record[key] for key in record if key != "ask_scheduler"}
            found = Ending(State.CANCELLED, {**kept, "reason": f"cancelled by {by}: {record.get('reason')}"})
        state, record = found or (state, record)
        if about.get("fake"):
            state = State.FAKE
        if "fenced_at" in record:
            record = {**record, "fenced_by": _who_we_are()}
        if not self.may_write():
            return state
        if processes.is_gone(about) is True:
            processes.end_left(self._folder.path, job_id, attempt)
        try:
            is_told = self.finish(job_id, attempt, state, record)
            if not is_told and self.end(job_id, attempt, state) is state:  # it died before it was RUNNING
                self._endings.write(job_id, attempt, state, record)
            self._endings.clear_leftovers(job_id)
        except OSError as error:
            tell(f"what became of job {job_id} is not recorded: {self._path}: {error.strerror or error}")
            return state
        return self.state(job_id, attempt)

    def may_write(self) -> bool:
        """Whether what is found out can be kept: one may look at the experiments of others, and at archives."""
        place = self._path if os.path.exists(self._path) else self._folder.path
        return not self._folder.is_only_read and os.access(place, os.W_OK)

    def state(self, job_id: int, attempt: int) -> State:
        """The state of one attempt, asked name by name, the last ones first. An anchor alone is RUNNING: it begins."""
        for state in reversed(_STORED):
            if _opens(self._name(job_id, attempt, state)):
                return state
        return State.RUNNING

    def attempts(self, job_id: int) -> list[Attempt]:
        """The attempts of one job in order, without listing the folder: anchors are numbered from 1 without gaps."""
        attempts: list[Attempt] = []
        while _opens(self._name(job_id, len(attempts) + 1)):
            number = len(attempts) + 1
            attempts.append(Attempt(JobId(job_id), number, self.state(job_id, number)))
        return attempts

    def record(self, job_id: int, attempt: int) -> dict[str, Any]:
        """Who runs, or ran, an attempt: see `claim`. Empty where the anchor is not ours to read."""
        return read_optional(self._name(job_id, attempt), ANCHOR)

    def anchor(self, table: StateTable, job_id: int, attempt: int) -> Mapping[str, Any]:
        """The same, without reading what was read for the table already."""
        return table.runners.get((JobId(job_id), attempt)) or self.record(job_id, attempt)

    def is_ours(self, job_id: int, attempt: int) -> bool:
        """Whether it is we who have begun an attempt, by whose its anchor is."""
        try:
            return os.stat(self._name(job_id, attempt)).st_uid == os.geteuid()
        except OSError:
            return False

    def task(self, job_id: int, attempt: int, record: Mapping[str, Any]) -> Task | None:
        """The task that an anchor names, for whoever asks its scheduler. One of ours bears the number of our user: in a
        container, or without its directory, a machine knows us by another name than its node, or by none."""
        task = task_in(record)
        return task if task is None or not self.is_ours(job_id, attempt) else task._replace(user=str(os.geteuid()))

    def is_claimed(self, job_id: int, attempt: int) -> bool:
        """Whether somebody has begun, or cancelled, this attempt: one file is asked for."""
        return _opens(self._name(job_id, attempt))

    def unclaimed(self, planned: Mapping[int, int]) -> dict[int, int]:
        """Those jobs, in their order, of which nobody has claimed the attempt of the number that is planned for each,
        unless as a dry pass, with the number that is free: by one listing of all names, which other processes may
        outdate at once. Raises FolderError."""
        names, kept_back = frozenset(self._names()[0]), self._kept_back()
        found = {}
        for job_id, number in planned.items():
            free, anchor = number, f"{job_id}.{number}"
            while anchor in names and f"{anchor}.FAKE" in names:
                free += 1
                anchor = f"{job_id}.{free}"
            if anchor not in names and job_id not in kept_back:
                found[job_id] = free
        return found

    def _kept_back(self) -> frozenset[int]:
        return read_held(self._folder) | read_removed(self._folder)

    def is_kept_back(self, job_id: int) -> bool:
        """Whether people have held the job, or removed it: two files are asked for."""
        return any(_opens(os.path.join(place, str(job_id))) for place in (self._folder.held, self._folder.removed))

    def claim(
        self, job_id: int, about: Mapping[str, Any], *, planned: int | None = None, only: int | None = None
    ) -> int:
        """The number of a new attempt, which is now RUNNING and ours; `about` is kept in its anchor.

        `planned` is the number that the launch gave to the job's first attempt: a job that has been completed since is
        refused, so handing over a job twice does no harm. An earlier run of the same SLURM task that still counts as
        RUNNING is ended as NODE_FAIL, whoever runs it. `only` is the one number that the attempt may get: whoever
        chooses among jobs, as others do at the same time, has chosen by what was there before; a job that turns out to
        have ended by its own doing since, or that people have cancelled, is refused. Raises JobRefused, as for a job
        that is held or was removed; AlreadyCompleted, NotOverYet.
        """
        if not about.get("fake") and self.is_kept_back(job_id):
            raise JobRefused(f"{self._folder.path}: {why_not_begun(self._folder, [job_id]) or 'it was held; repeat'}")
        self._folder.make(self._path)
        record = {"job": job_id, **processes.this_process(), "start": time.time(), **about}
        temporary, kept = temporary_name(self._name(job_id, 0)), dict[str, str | None]()
        try:
            anchor = json.dumps(record, ensure_ascii=False).encode()
            with open(temporary, "xb") as file:
                file.write(anchor)
            sync(temporary)
            while True:
                number = self._next(job_id, record, planned, is_chosen=only is not None)
                if only not in (None, number):
                    raise JobRefused(f"job {job_id} was taken by somebody else: it has had attempt {number - 1}")
                kept = kept or self._endings.keep(job_id, record["start"])
                if not linked(temporary, self._name(job_id, number)):  # somebody was faster
                    if only is not None:
                        raise JobRefused(f"job {job_id} was taken by somebody else: attempt {number} is theirs")
                    what = f"attempt {number} of job {job_id} was begun elsewhere, and {self._name(job_id, number)}"
                    _wait_to_see(partial(self.is_claimed, job_id, number), what)
                    continue
                self._claimed[job_id, number] = anchor
                if not about.get("fake") and self.is_kept_back(job_id):  # an anchor counts as RUNNING for who does so
                    self._refuse_begun(job_id, number, "it was held, or removed, just as it began")
                self._begin(job_id, number, kept)
                return number
        finally:
            self._endings.discard(kept)
            discard(temporary)

    def _begin(self, job_id: int, attempt: int, kept: Mapping[str, str | None]) -> None:
        """An attempt that is ours is RUNNING, with the space that was kept for it. Raises OSError when it cannot be."""
        anchor, running = self._name(job_id, attempt), self._name(job_id, attempt, State.RUNNING)
        try:
            self._endings.begin(job_id, attempt, kept)
            if not linked(anchor, running):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), running)
            n_names = looked(lambda: os.stat(anchor).st_nlink)  # the anchor, what it was linked from, and RUNNING
        except OSError as error:
            with suppress(OSError):
                reason = f"could not be begun: {error.strerror or error}"
                self._endings.write(job_id, attempt, State.FAILED, {"reason": reason})
                self.end(job_id, attempt, State.FAILED)
            raise
        ended = State.RUNNING if n_names == _NAMES_AT_BEGINNING else self.state(job_id, attempt)
        if ended is not State.RUNNING:  # who has done so looks for our name, too
            discard(running)
            raise JobRefused(f"attempt {attempt} of job {job_id} was ended as {ended} just as it began; others go on")

    def _refuse_begun(self, job_id: int, attempt: int, reason: str) -> None:
        """An attempt that is ours does not begin. Raises JobRefused."""
        self._endings.write(job_id, attempt, State.CANCELLED, {"reason": reason})
        self.end(job_id, attempt, State.CANCELLED)
        raise JobRefused(f"attempt {attempt} of job {job_id} of {self._folder.path} is not begun: {reason}")

    def note_stop(self, job_id: int, attempt: int, about: Mapping[str, Any], *, had_result: bool) -> None:
        """Our attempt was told to stop, or warned; see `Endings.note_stop`."""
        self._endings.note_stop(job_id, attempt, about, had_result=had_result)

    def _next(self, job_id: int, about: Mapping[str, Any], planned: int | None, *, is_chosen: bool) -> int:
        attempts = self.attempts(job_id)
        if not attempts:
            return 1
        last = attempts[-1]
        if last.state is State.RUNNING:
            ended = self._clear_the_way(job_id, last.number, about)
            if ended is State.RUNNING:
                what = f"job {job_id} is not run again: attempt {last.number} was ended by somebody else, and how"
                _wait_to_see(lambda: self.state(job_id, last.number) is not State.RUNNING, what)
                ended = self.state(job_id, last.number)
            attempts[-1] = last = last._replace(state=ended)
            if last.state in ENDED_WELL:
                raise AlreadyCompleted(
                    f"job {job_id} turns out to be {last.state.lower()}: attempt {last.number} had left its result "
                    "before its supervisor was killed; whoever runs the job from now on, runs it again",
                    is_news=True,
                )
        if planned is not None:
            since = last_real(attempts[planned - 1 :])
            self._refuse_ended(since, about)
            self._refuse_ended(self._standing(attempts[planned - 1 :]), about)
            if is_chosen and since is not None and not self.ended_for_others(since):
                raise JobRefused(f"job {job_id} has ended as {since.state} meanwhile (attempt {since.number})")
        return attempts[-1].number + 1

    def ended_for_others(self, last: Attempt) -> bool:
        """See `has_ended_for_others`; the record is read only where that matters."""
        if has_ended_for_others(last.state, {}):
            return True
        end = read_optional(self._folder.of_attempt(last.job_id, last.number, "attempt"), END)
        return has_ended_for_others(last.state, end)

    def _refuse_ended(self, since: Attempt | None, about: Mapping[str, Any]) -> None:
        """Raise JobRefused unless a job is still to be run by a launch, after what became of it `since`."""
        if since is None or since.state is State.FAKE or since.state not in ENDED:
            return
        job_id, number, state = since
        record, task = self.record(job_id, number), task_in(about)
        if task is not None and self._was_cancelled(since, record, task):
            raise JobRefused(
                f"job {job_id} was cancelled before it began (attempt {number}), and with it {task.name}, the task "
                "that begins now; `experiment-manager resubmit` runs it"
            )
        launch, ours = record.get("launch"), about.get("launch")
        if state is State.CANCELLED and not record:  # perhaps so that this launch does not begin it
            raise JobRefused(
                f"job {job_id} was cancelled (attempt {number}), and why cannot be read; let us read "
                f"{self._name(job_id, number)}, or run it anew: the next sweep or `experiment-manager resubmit` does so"
            )
        if ours in (record.get("launches") or ()):
            raise JobRefused(
                f"job {job_id} was cancelled before launch {ours} began it (attempt {number}); the next sweep or "
                "`experiment-manager resubmit` runs it again"
            )
        if state in ENDED_WELL:
            raise AlreadyCompleted(
                f"job {job_id} has been {state.lower()} since launch {ours} was planned: attempt {number}, "
                f"{f'launch {launch}' if launch else 'by hand'}"
            )
        if launch is not None and launch != ours and "unbegun" not in record:
            raise EndedSince(
                f"job {job_id} has ended as {state} in launch {launch} (attempt {number}) since launch {ours} was "
                "planned, and is left alone; the next sweep or `experiment-manager resubmit` runs it again"
            )

    def _was_cancelled(self, last: Attempt, record: Mapping[str, Any], task: Task) -> bool:
        """Whether a task was told to end before that attempt began, and the scheduler has not started it more often
        than for the attempts before: somebody would have asked for that since."""
        if task.scheduler != scheduler_in(record) or task.name not in (record.get("tasks") or ()):
            return False
        earlier = [task_in(self.record(last.job_id, number)) for number in range(1, last.number)]
        return task.restart <= max((one.restart + 1 for one in earlier if one and one.name == task.name), default=0)

    def _clear_the_way(self, job_id: int, attempt: int, about: Mapping[str, Any]) -> State:
        """A RUNNING attempt that nothing runs any more has ended; returns how, RUNNING where others have ended it and
        that cannot be seen yet. Raises NotOverYet when it is alive, or may be; JobRefused."""
        record = self.record(job_id, attempt)
        gone = self._is_gone(job_id, attempt, record)
        task, is_by_hand = self.task(job_id, attempt, record), scheduler_in(record) is None
        if task is not None and task.is_earlier_run_of(task_in(about)):
            reason = "its task was started again, and this attempt had not ended"
            fenced = {} if gone else {"fenced_at": time.time()}
            record = {"reason": reason, "ask_scheduler": True, **fenced}
            return self._lose_to_go_on(job_id, attempt, State.NODE_FAIL, record)
        ended = self._unrecorded_end(job_id, attempt, record)
        if ended is not None or gone or (gone is None and task is not None and self._has_ended(task, is_by_hand)):
            is_sure = gone or ended is not None  # a node that its scheduler has lost may run on
            fenced = {} if is_sure else {"fenced_at": time.time()}
            return self._lose_to_go_on(job_id, attempt, ended or State.LOST, {**_GONE, **fenced})
        running = self._name(job_id, attempt, State.RUNNING)
        way_out = "" if gone is False else f"; if nothing runs it there, rename {as_word(running)} to end in .LOST"
        raise NotOverYet(f"job {job_id} is running already: attempt {attempt}, {processes.named(record)}{way_out}")

    def _lose_to_go_on(self, job_id: int, attempt: int, state: State, record: Mapping[str, Any]) -> State:
        """As `lose`, for whoever is to run the job again. Raises JobRefused where only a newer version can tell how the
        attempt ended, and where its end cannot be recorded: whoever may still run it would not learn of it; NotOverYet
        where a disk has not given it for minutes."""

        def ask() -> State:
            try:
                return self._lose(job_id, attempt, state, record)
            except UnreadableRecord as error:
                if error.is_out_of_reach:
                    raise OSError(errno.EIO, error.why, error.path) from error
                raise

        why = f"job {job_id} is not run again, since it may have completed"
        try:
            found = asked_again(ask, tell)
        except UnreadableRecord as error:
            raise JobRefused(f"{why}: {error}") from error
        except OSError as error:
            raise NotOverYet(f"{why}: {unreadable(error.filename, error)}") from error
        if found is not State.RUNNING and self.is_running(job_id, attempt):
            running = self._name(job_id, attempt, State.RUNNING)
            raise JobRefused(f"job {job_id} is not run again: {running} cannot be renamed; see who may write to it")
        return found

    def end(self, job_id: int, attempt: int, state: State) -> State | None:
        """RUNNING is renamed to `state`, which is returned; None when the attempt is no longer ours to end."""
        running, ended = self._name(job_id, attempt, State.RUNNING), self._name(job_id, attempt, state)
        try:
            os.rename(running, ended)
        except FileNotFoundError:
            if self.state(job_id, attempt) is not State.RUNNING or self._has_unseen_name(job_id, attempt):
                return None
            try:
                os.link(self._name(job_id, attempt), ended)  # it died between its anchor and its first state
            except FileExistsError:
                return None
            discard(running)  # or it had not died, and goes on: it looks for our name, as we do for its own
        return state

    def _has_unseen_name(self, job_id: int, attempt: int) -> bool:
        """Whether the file of an anchor has a name more than a listing shows: that of its end, which was made elsewhere
        a moment ago. An anchor that is opened tells how many there are."""
        try:
            with open(self._name(job_id, attempt), "rb") as file:
                about = os.fstat(file.fileno())
            if FileClock(self._path).time - about.st_ctime > SEEN_S:  # a copy of hard links has names elsewhere
                return False
            own, seen = f"{job_id}.{attempt}", set[str]()
            with os.scandir(self._path) as entries:
                seen.update(entry.name for entry in entries if entry.inode() == about.st_ino)
        except OSError as error:
            if is_of_the_disk(error):  # of which nothing follows: nobody ends what may have ended
                raise
            return False
        return own in seen and about.st_nlink > len(seen)  # else a listing does not tell which file is which

    def finish(self, job_id: int, attempt: int, state: State, record: Mapping[str, Any]) -> bool:
        """Our attempt has ended, and `attempt.N.json` tells how; false when somebody else had ended it before.

        The state is told even where the record cannot be written, on a full disk or without the job's directory.
        Raises Unwritten where the state cannot.
        """
        try:
            if not self.is_running(job_id, attempt):
                return False
            self._endings.write(job_id, attempt, state, record)
            is_ours = self.end(job_id, attempt, state) is state
        except OSError as error:
            running = self._name(job_id, attempt, State.RUNNING)
            why = f"{running} cannot be renamed to end in .{state}: {error.strerror or error}; the next one who looks"
            raise Unwritten(
                f"{why} records how job {job_id} ended, if it left a result, or runs it again", error
            ) from error
        withdraw(self._folder, job_id, attempt)
        return is_ours

    def record_unbegun(
        self, job_id: int, attempt: int, state: State, record: Mapping[str, Any], about: Mapping[str, Any]
    ) -> None:
        """An attempt that was handed over and never began has ended as `state`; nothing happens when one has begun.

        The anchor tells all of it, too: whoever finds it alone, if only a moment before we have written the rest,
        records the same. There may be thousands at once, and SLURM can be asked again, so nothing waits for the disk.

        Where `about` names `tasks`, these were told to end, and begin no later attempt: a task that SLURM was starting
        may be in its queue no more before its script runs (seen on 20.11). Where it names `launches`, these begin the
        job no more: a process runs their jobs one after the other, and was about to begin this one, too.
        """
        self._folder.make(self._path, is_shared=True)
        temporary = temporary_name(self._name(job_id, 0))
        with open(temporary, "x", encoding="utf-8") as file:
            json.dump({"job": job_id, "unbegun": state, "ending": dict(record), **about}, file, ensure_ascii=False)
        share(temporary)
        try:
            os.link(temporary, self._name(job_id, attempt))
        except FileExistsError:
            return
        finally:
            os.unlink(temporary)
        self._endings.write(job_id, attempt, state, record, for_good=False)
        with suppress(FileExistsError):
            os.link(self._name(job_id, attempt), self._name(job_id, attempt, state))

    def cancelled_for(self, job_id: int, launch: str, planned: int) -> tuple[int, Mapping[str, Any]] | None:
        """The attempt, `planned` or a later one, as which people have cancelled a job so that that launch begins it no
        more, and how it has ended; None: there is none. What that launch has begun before is not asked."""
        number = planned
        while (record := self.record(job_id, number)) or os.path.exists(self._name(job_id, number)):
            if launch in (record.get("launches") or ()):
                return number, record.get("ending") or {}
            number += 1
        return None

    def amend(self, job_id: int, attempt: int, state: State, record: Mapping[str, Any]) -> None:
        """An attempt that has ended is `state` after all, as somebody who knows better says in `record`."""
        before = self.state(job_id, attempt)
        self._endings.write(job_id, attempt, state, record)
        if before is not state:
            with suppress(FileNotFoundError):
                os.rename(self._name(job_id, attempt, before), self._name(job_id, attempt, state))

    def fenced_at(self, job_id: int, attempt: int) -> float | None:
        """When an attempt was ended that something may still run elsewhere, until it notices; None for any other. Of
        what a newer version has recorded, it is the time at which it did; of what a disk does not give, now."""
        path = self._folder.of_attempt(job_id, attempt, "attempt")
        try:
            return read_optional(path, END, must_know=True).get("fenced_at")
        except UnreadableRecord:
            with suppress(OSError):
                return looked(lambda: os.stat(path).st_mtime)
            return time.time()

    def fences(self, job_id: int, attempt: int) -> dict[int, float]:
        """When the attempts before this one were ended that something may still run elsewhere, by their numbers."""
        earlier = range(max(1, attempt - _MOST_FENCED), attempt)
        found = {number: self.fenced_at(job_id, number) for number in earlier}
        return {number: fenced_at for number, fenced_at in found.items() if fenced_at is not None}

    def _fenced_since_s(self, job_id: int, attempt: int) -> float | None:
        """The seconds since the last such moment, by whichever clock says less: ours and that of whoever has ended the
        attempt may disagree, and the file system has dated his record. None: there is none."""
        clock, ages = FileClock(self._folder.job(job_id)), list[float]()
        for number, fenced_at in self.fences(job_id, attempt).items():
            ages.append(time.time() - fenced_at)
            with suppress(OSError):
                ages.append(clock.age_s(self._folder.of_attempt(job_id, number, "attempt")))
        return max(0.0, min(ages)) if ages else None

    def wait_for_earlier(self, job_id: int, attempt: int, wait: Callable[[float], bool]) -> bool:
        """Waits as long as a supervisor on another node may take to see that its attempt of the job, before this one,
        was ended. `wait` gets seconds, and tells whether the attempt still goes on then; returns whether it does."""
        most_s = 2 * OWNERSHIP_POLL_S
        fenced_s = self._fenced_since_s(job_id, attempt)
        if fenced_s is None:
            return True
        deadline = time.monotonic() + most_s - fenced_s
        while (left := deadline - time.monotonic()) > 0:
            if not wait(left):
                return False
        return True

    def is_running(self, job_id: int, attempt: int) -> bool:
        """False once somebody else has ended this attempt; and where we have claimed it, once it is another one that
        has its number: people have removed, or moved, an experiment, and made another in its place."""
        return _opens(self._name(job_id, attempt, State.RUNNING), self._claimed.get((job_id, attempt)))

    def is_claimed_one(self, job_id: int, attempt: int) -> bool:
        """Whether the attempt of that number is, as far as can be seen, the one that we have claimed: there is one, and
        no other."""
        try:
            anchor = looked(lambda: content(self._name(job_id, attempt)))
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return not are_others(anchor, self._claimed.get((job_id, attempt)))


def _who_we_are() -> str:
    from experiment_manager.store.launches import user_name  # few end what may run elsewhere

    return f"{user_name()} on {os.uname().nodename}"


def ended_elsewhere(end: Mapping[str, Any]) -> str | None:
    """Why an attempt was ended that might still run, and by whom, for whoever ran it; None: it was not ended so.

    >>> ended_elsewhere({"reason": "its task 7 has ended", "fenced_at": 1.0, "fenced_by": "ada on login2"})
    'its task 7 has ended (recorded by ada on login2)'
    """
    if "fenced_at" not in end:
        return None
    return f"{end.get('reason') or 'ended'} (recorded by {end.get('fenced_by') or 'somebody else'})"


def _wait_to_see(is_seen: Callable[[], bool], what: str) -> None:
    """What somebody else has done is seen here, too. Raises NotOverYet where a file system does not show it."""
    deadline = time.monotonic() + _PATIENCE_S
    while not is_seen():
        if time.monotonic() > deadline:
            raise NotOverYet(f"{what} cannot be seen here: the file system shows what is old; run the job again later")
        time.sleep(_LOOK_S)


def _opens(path: str, ours: bytes | None = None) -> bool:
    """Whether a file is there, asked with open(): stat answers from attribute caches on network file systems. Where
    `ours` tells what is in it, it is not, where that is another anchor.

    One that is not ours to read is there. Raises FolderError where nobody can tell, because of its folder, and OSError
    where a file system errs for longer than a moment.
    """

    def look() -> bool:
        if ours is not None:
            return not are_others(content(path), ours)
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        return True

    try:
        return looked(look)
    except FileNotFoundError:
        return False
    except PermissionError as error:
        if not os.access(os.path.dirname(path), os.X_OK):
            raise FolderError(unreadable(os.path.dirname(path), error)) from error
        return True
