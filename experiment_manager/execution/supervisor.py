"""Runs one job as a child process, and records what became of it: the one entry for local runs and tasks of schedulers.

    python -m experiment_manager run --experiment-path P --experiment-name N --job-id 7

It claims an attempt, starts the job in its own session with its output going straight to `jobs/7/`, passes signals on,
records how the child ended, and exits with the child's status. It imports neither Hydra nor the libraries of the
command line: every task of a sweep pays for what is imported here.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress

from experiment_manager.errors import FolderError
from experiment_manager.execution import environment
from experiment_manager.execution.child import Child, exit_status_of, start
from experiment_manager.execution.orphans import Orphans
from experiment_manager.execution.resources import gpus_of, may_have_gpus, memory_of, oom_kills, peak_of_step
from experiment_manager.execution.signals import (
    WARNINGS,
    Heard,
    catches,
    in_group,
    in_session,
    name_of,
    pass_on,
    session_of,
)
from experiment_manager.model.records import ENDED_BADLY, ENDED_WELL, TO_START_AGAIN, Attempt, State, Task
from experiment_manager.scheduler import schedulers
from experiment_manager.scheduler.protocol import Scheduler, Stop
from experiment_manager.store import processes, reserve
from experiment_manager.store.documents import END, ERROR, last_line, read_end, read_optional
from experiment_manager.store.endings import LOOKS, Endings, asked_to_end, bear_mark
from experiment_manager.store.files import asked_again, is_folder, log_file, may_be_there
from experiment_manager.store.layout import MANIFEST, Folder, writing
from experiment_manager.store.states import OWNERSHIP_POLL_S, States
from experiment_manager.store.whereabouts import Whereabouts
from experiment_manager.text import one_line, say, tell
from experiment_manager.typing_names import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

if TYPE_CHECKING:
    from experiment_manager.execution.gpu_use import GpuUse

Answer = TypeVar("Answer")

FIRST_SAMPLE_S: Final = 1.0
"""When the memory of a job is first looked at that the kernel does not count by itself, and how soon again at least."""

SAMPLE_SHARE: Final = 0.25
"""Then after this share of the time that it has run, until that is OWNERSHIP_POLL_S: what it takes for a fifth of its
time is seen, however short it is."""

SAMPLE_PAUSES: Final = 20
"""And after so many times as long as looking has taken, which large processes make long: nothing else is done then."""

LONGEST_PAUSE_S: Final = 60.0
"""But never later than that: what a job takes for a few minutes is to be seen."""

SECOND_LOOK_S: Final = 1.0
"""When it looks again after its state's name was not there: a network file system can be wrong for a moment."""

GONE_S: Final = 60.0
"""How long the folder of the experiment has to be gone, at each look, before the job ends with it."""

_GONE_LOOKS: Final = 3
"""So many looks at least."""

KILL_AFTER_S: Final = 20.0
"""A child that ignores TERM is killed after this time, or before the scheduler kills us all (SLURM's KillWait)."""

_GRACE_POLL_S: Final = 1.0
"""How often it wakes up during that time, to see whether it was stopped itself."""

_STOPPED_S: Final = 3.0
"""What takes so much longer than it was to has met a time for which we were stopped: by SIGSTOP, as SLURM suspends
jobs, or with our container or machine. A node that is busy adds less."""

WARNING_POLL_S: Final = 0.5
"""How often a warning is offered to a job that has no handler for it yet, as while it still imports its libraries."""

HANDLER_WAIT_S: Final = 10.0
"""How long a job that could be started again may take to have a handler for a warning, before it is stopped instead."""

WARNED_EARLY_S: Final = 90.0
"""How much earlier than it was told to a scheduler may warn of a time limit (SLURM: up to a minute)."""

STRAGGLERS_S: Final = 2.0
"""How long processes that the job has left behind may take to end."""

_LAST_WORDS: Final = 3
"""So many words at the end of a command line tell the program of a job, whatever Python a container runs it by."""

_DIES_WITHIN_S: Final = 1.0
"""How long the kernel may take to end what was killed, before nobody waits for it."""


class Outcome(NamedTuple):
    """What a supervisor leaves to whoever called it."""

    status: int
    is_to_requeue: bool = False  # the scheduler is to start the task again: the job made room for the time limit
    is_to_heal: bool = False  # the job died for want of what its launch gives more of, see `model.healing`
    was_overtaken: bool = False  # somebody else has recorded another end of the attempt, and may run the job again
    has_begun: bool = True  # false: what the job comes after has not completed


Start = Callable[[Child, int], int]
"""Starts the program of an attempt, and returns the pid of our child that runs it. Raises OSError."""


def supervise(child: Child, *, heard: Heard | None = None, begin: Start = start) -> Outcome:
    """Runs the job to its end; `begin` starts it. Raises JobRefused when another attempt runs."""
    heard = heard or Heard()  # first of all: until then a signal would end us without a trace
    states = States(child.folder, schedulers.has_ended)
    task = schedulers.task_of_attempt(child.scheduler)
    about = {**child.about, **schedulers.recorded(task), **gpus_of(os.environ), LOOKS: OWNERSHIP_POLL_S}
    with writing(child.folder.path):
        child.folder.make(child.folder.job(child.job_id))
        number = states.claim(child.job_id, about, planned=child.planned, only=child.only)
        if child.pruner is not None:
            from experiment_manager.store.rungs import unmark_pruned  # for few tasks

            unmark_pruned(child.folder, child.job_id, number)  # somebody may have removed `states/` to start anew
        mark = bear_mark(child.folder, child.job_id, number)
    try:
        return _supervised(child, states, number, _Supervision(child, states, number, heard, begin, task))
    finally:
        processes.unmark(mark)


def _supervised(child: Child, states: States, number: int, supervision: _Supervision) -> Outcome:
    if child.launch is not None:
        return supervision.run()
    log = child.folder.of_attempt(child.job_id, number, "stdout")  # somebody has typed this and looks at it
    if not child.is_fake:
        tell(f"job {child.job_id} attempt {number}: its output goes to {log}")
    outcome = supervision.run()
    if child.is_fake and (said := read_end(log).decode(errors="replace")):
        say(said.removesuffix("\n"))
    if supervision.has_lost_folder:
        return outcome
    reason = f": {supervision.reason}" if supervision.reason else ""
    with suppress(OSError, FolderError):
        tell(f"job {child.job_id} attempt {number}: {states.state(child.job_id, number)}{reason}")
    return outcome


def load(scheduler: Scheduler | None) -> None:
    """All is imported that a supervisor may need from when its job runs until the end is recorded: somebody may replace
    the package meanwhile."""
    from experiment_manager.model import healing, policy  # noqa: F401

    if may_have_gpus(os.environ):
        from experiment_manager.execution import gpu_use  # noqa: F401
    if scheduler is not None:
        with suppress(Exception):  # of somebody else's; it tells of that where it is asked
            scheduler.load()


def answer_of(
    scheduler: Scheduler | None,
    question: Callable[[Scheduler], Answer],
    otherwise: Answer,
    tell: Callable[[str], None],
) -> Answer:
    """A scheduler's answer; `otherwise` where there is none, or where it fails, which people are told."""
    if scheduler is None:
        return otherwise
    try:
        return question(scheduler)
    except Exception as error:
        tell(f"{scheduler.label} could not be asked: {type(error).__name__}: {error}")
        return otherwise


def most_starts(options: Mapping[str, Any]) -> tuple[str, int]:
    """How often a launch with these options lets a job start again, and the option that says so."""
    name = next((name for name in ("max_requeues", "max_num_timeout") if name in options), "max_requeues")
    return name, options.get(name) or 0


def may_start_again(folder: Folder, options: Mapping[str, Any], since: Iterable[Attempt]) -> bool:
    """Whether a launch with these options lets a job start again after one time limit, or warning by hand, more, which
    has had these attempts since the launch was planned."""
    _, limit = most_starts(options)
    return sum(_counts(folder, attempt) for attempt in since) < limit


def _counts(folder: Folder, attempt: Attempt) -> bool:
    """Whether an attempt was started again for its time limit, or a warning by hand, and not preempted."""
    if attempt.state is not State.PREEMPTED:
        return attempt.state is State.TIMEOUT
    end = read_optional(folder.of_attempt(attempt.job_id, attempt.number, "attempt"), END)
    return end.get("reason") == _BY_HAND


def is_limit_far(ends_at: float | None, options: Mapping[str, Any]) -> bool:
    """Whether a warning that has come now cannot be of the time limit, which a launch with these options has, and at
    which the task ends; None: that is not known."""
    early_s = (options.get("signal_delay_s") or 0) + WARNED_EARLY_S
    return ends_at is not None and ends_at - time.time() > early_s


def pause_s(ran_s: float, took_s: float) -> float:
    """How long after a look at the memory of a job, which has taken so long, it is looked at again.

    >>> pause_s(0.5, 0.0), pause_s(10.0, 0.0), pause_s(3600.0, 0.02), pause_s(3600.0, 18.0)
    (1.0, 2.5, 10.0, 60.0)
    """
    share = min(max(FIRST_SAMPLE_S, SAMPLE_SHARE * ran_s), OWNERSHIP_POLL_S)
    return max(share, min(SAMPLE_PAUSES * took_s, LONGEST_PAUSE_S))


class _Supervision:
    """One child from its start to its record."""

    def __init__(
        self, child: Child, states: States, number: int, heard: Heard, begin: Start, task: Task | None
    ) -> None:
        self._child, self._states, self._number, self._heard, self._begin = child, states, number, heard, begin
        of_launch = None if child.scheduler is None else schedulers.named(child.scheduler)
        self._scheduler, self._task = schedulers.current() or of_launch, task
        self._stopped: State | None = None
        self._stopped_by: int = signal.SIGTERM
        self._had_result = False  # before anybody told us to stop
        self._asked: str | None = None  # who has asked us to end, through the folder
        self._undelivered: dict[int, float] = {}  # warnings, and when they came
        self._warned = False
        self._was_warned_by_hand = False
        self._was_ended_at_warning = False  # since it had no handler for that
        self._fenced = False
        self._was_missing = False  # the name of our state, when it was looked for last
        self._has_told = False  # that the name could not be looked for
        self._has_told_of_request = False
        self._place = Whereabouts(child.folder.path, MANIFEST)
        self._gone_at: list[float] = []  # when the experiment was found to be gone, since it was there last
        self.has_lost_folder = False
        self._memory = 0
        self._gpus: GpuUse | None = None  # looked at with the memory, where there are any
        self._kill_at: float | None = None
        self._limit_at = float("inf")
        self._is_over_limit = False
        self._stragglers_s = STRAGGLERS_S
        self._oom_kills = oom_kills()
        self._pid = 0
        self._has_killed = self._was_killed = False  # we have, by KILL; it was, by somebody else
        self._orphans: Orphans | None = None  # once the job begins
        self._ended: dict[int, str] = {}  # those that were told to end, and what they are called
        self._have_heard: set[tuple[int, int]] = set()  # those outside of its process group, and by which signal
        self.reason: str | None = None
        self._unreadable: str | None = None
        self._is_decided = False

    def run(self) -> Outcome:
        started = time.time()
        try:
            return self._run(started)
        except Exception as error:  # of ours: whatever it is, the attempt is not left without an end
            if self._pid:
                self._kill(signal.SIGKILL)
            self.reason = f"its supervisor failed: {type(error).__name__}: {error}".partition("\n")[0]
            with suppress(Exception):
                if not self._is_decided:
                    self._publish(State.FAILED, {"reason": self.reason, "start": started, "end": time.time()})
            raise

    def _run(self, started: float) -> Outcome:
        if not self._states.wait_for_earlier(self._child.job_id, self._number, self._is_left_alone):
            return self._unbegun("stopped while an earlier run of the task was given time to end", started)
        if self._child.upstream is not None and (why_not := self._why_not(self._child.upstream)) is not None:
            self.reason = why_not
            return self._unbegun(why_not, started)._replace(has_begun=False)
        self._orphans = Orphans(environment.of_attempt(self._child.folder, self._child.job_id, self._number))
        try:
            self._pid = self._begin(self._child, self._number)
        except OSError as error:
            return self._record_unstarted(error, started)
        self._orphans.begin(self._pid)
        self._undelivered = dict.fromkeys(self._undelivered, time.monotonic())  # it has its time from now on
        if self._child.limit_s is not None:
            self._limit_at = time.monotonic() + self._child.limit_s
        load(self._scheduler)
        status, usage = self._wait()
        returncode = os.waitstatus_to_exitcode(status)
        self._was_killed = returncode == -signal.SIGKILL and not self._has_killed
        self._end_stragglers(is_all=not self._has_left_by_itself(returncode))
        return self._record(returncode, usage, started)

    def _unbegun(self, reason: str, started: float) -> Outcome:
        """The attempt has ended, and its program was never started."""
        state = self._stopped or State.CANCELLED
        is_to_ask = self._stopped is State.CANCELLED and self._is_scheduler_to_be_asked()
        told = {"ask_scheduler": True} if is_to_ask else {}
        self._publish(state, {"reason": reason, "start": started, "end": time.time(), **told})
        return self._incomplete()

    def _why_not(self, order: Mapping[str, Any]) -> str | None:
        """Why the job does not begin, by what it comes after; None: that has completed. Where a scheduler has waited
        for the end of that, what is seen of it may be old, and is looked at again."""
        from experiment_manager.store import upstream  # of the few jobs that come after others

        is_own_task = self._task is not None and self._child.scheduler is not None and self._child.only is None
        try:
            patience_s = upstream.SETTLES_S if is_own_task else 0.0
            child = self._child
            found = upstream.settled(child.folder, order, child.job_id, self._is_left_alone, patience_s)
        except upstream.UNKNOWN as error:
            return one_line(f"what it comes after cannot be looked at: {error}")
        return "stopped while it waited for what it comes after" if found is None else found.why_not

    def _is_left_alone(self, seconds: float) -> bool:
        """Waits so long; false once we are told to end. The job is warned when it has begun."""
        heard = self._heard.wait(seconds)
        self._undelivered.update(dict.fromkeys(WARNINGS.intersection(heard), time.monotonic()))
        if not WARNINGS.issuperset(heard):
            self._stopped = self._why_stopped().state
            return False
        return True

    def _file(self, kind: str) -> str:
        return self._child.folder.of_attempt(self._child.job_id, self._number, kind)

    def _wait(self) -> tuple[int, Any]:
        poll_at = time.monotonic() + OWNERSHIP_POLL_S
        began = sampled = time.monotonic()
        is_counted, has_gpus = self._counted_memory() is not None, may_have_gpus(os.environ)
        sample_at = float("inf") if is_counted and not has_gpus else began + FIRST_SAMPLE_S
        is_later = False
        ended: tuple[int, Any] | None = None
        while True:
            if ended is None:
                pid, status, usage = os.wait4(self._pid, os.WNOHANG)
                ended = (status, usage) if pid else None
            if ended is not None and not self._goes_on():
                return ended
            if is_later:
                self._left()  # none of them stays a zombie
            is_later = True
            until = min(poll_at, sample_at, self._kill_at or poll_at, self._limit_at) - time.monotonic()
            until = until if self._kill_at is None else min(until, _GRACE_POLL_S)
            for number in self._listen(min(until, WARNING_POLL_S) if self._undelivered else until):
                self._pass_on(number)
            self._look_for_result()
            self._deliver_warnings()
            now = time.monotonic()
            if self._kill_at is not None and now >= self._kill_at:
                self._kill(signal.SIGKILL)
                self._kill_at = None
            if now >= self._limit_at:
                self._end_at_limit()
            if now >= sample_at:
                busy = time.process_time()
                ours = self._ours()
                if not is_counted:
                    self._memory = max(self._memory, memory_of(ours, self._heard.is_quiet))
                took_s = time.monotonic() - now  # of that alone: drivers of GPUs are asked as often as before
                self._leave_out(took_s, time.process_time() - busy)
                has_gpus = has_gpus and self._look_at_gpus(ours, now - sampled)
                sampled = now
                pause = pause_s(now - began, took_s)
                sample_at = float("inf") if is_counted and not has_gpus else time.monotonic() + pause
            if now >= poll_at:
                poll_at = now + self._look()

    def _goes_on(self) -> bool:
        """Whether the job has not ended yet, though the command around it has, as a shell ends at once by what both
        were told: the job has its time all the same. What has a session of its own is told once nothing else is left.
        """
        if not self._child.is_wrapped or self._kill_at is None or self._has_killed:
            return False
        left = self._left()  # also: what has ended is gone
        if self._kill(0):
            return True
        self._tell_apart(left, self._stopped_by)
        return bool(left)

    def _tell_apart(self, pids: Iterable[int], number: int) -> None:
        """Each of these, which no signal to the process group has reached, gets that one, once."""
        for pid in pids:
            if (pid, number) in self._have_heard:
                continue
            self._have_heard.add((pid, number))
            if not in_session(pid, self._pid):
                self._ended.setdefault(pid, processes.name_of(pid))
            pass_on(pid, number)

    def _listen(self, seconds: float) -> list[signal.Signals]:
        """What we hear within that time."""
        began = time.monotonic()
        heard = self._heard.wait(seconds)
        self._leave_out(time.monotonic() - began, max(seconds, 0.0))
        return heard

    def _leave_out(self, took_s: float, most_s: float) -> None:
        """Of what was to take `most_s`, and took much longer, the time counts neither for the limit of the job nor for
        how long it may take to end: we were stopped meanwhile, and with us the job."""
        if took_s >= most_s + _STOPPED_S:
            self._limit_at += took_s
            self._kill_at = None if self._kill_at is None else self._kill_at + took_s

    def _look_for_result(self) -> None:
        """A result that is there before anybody tells the job to stop is of a task that has returned: what is left is
        the end of its interpreter, which may hang. Of one that is there later nobody knows that: the job can have heard
        the signal as soon as we did, and have left early for it."""
        if self._stopped is None and not self._had_result:
            self._had_result = os.path.exists(self._file("result")) and self._heard.is_quiet()

    def _look_at_gpus(self, pids: Collection[int], seconds: float) -> bool:
        """Whether it is worth looking again."""
        if self._gpus is None:
            from experiment_manager.execution.gpu_use import GpuUse

            self._gpus = GpuUse()
        self._gpus.look(pids, seconds)
        return self._gpus.can_tell

    def _look(self) -> float:
        """Ends the job when its attempt has been ended by somebody else, or when somebody has asked for its end;
        returns the seconds until the next look.

        Only a name that is not there twice is gone. Whatever else a file system says, the job goes on, unless the whole
        experiment was removed or moved: then nothing that it computes could be kept, and somebody else may run it.
        """
        try:
            is_there = self._states.is_running(self._child.job_id, self._number)
        except (OSError, FolderError) as error:
            self._gone_at.clear()
            if not self._has_told:
                self._has_told = True
                self._tell(f"the state cannot be looked at, and the job goes on: {error}")
            return OWNERSHIP_POLL_S
        if is_there:
            self._gone_at.clear()
        if is_there and self._stopped is None:
            child = self._child
            self._asked = asked_to_end(child.folder, child.job_id, self._number, tell=self._tell_of_request)
            if self._asked is not None:
                self._stop(signal.SIGTERM)
        if is_there or not self._was_missing:
            self._was_missing = not is_there
            return SECOND_LOOK_S if self._was_missing else OWNERSHIP_POLL_S
        if (why := self._why_unseen()) is not None and not self._has_gone_for_good():  # nobody has ended this
            if not self._has_told:
                self._has_told = True
                self._tell(f"{why}, and the job goes on")
            return OWNERSHIP_POLL_S
        self._tell_if_elsewhere("and the job ends")
        self._fenced = True
        self._kill(signal.SIGKILL)
        return OWNERSHIP_POLL_S

    def _tell_if_elsewhere(self, what: str) -> bool:
        """Whether our attempt is not in the place of the experiment any more, which people are told."""
        if is_elsewhere := not self._states.is_claimed_one(self._child.job_id, self._number):
            self.has_lost_folder = True
            place = self._child.folder.path
            self._tell(f"{place} was removed, moved or made anew since it began, {what}; run it where it is now")
        return is_elsewhere

    def _why_unseen(self) -> str | None:
        """Why nothing can be told of the states; None: they are there."""
        try:
            return None if is_folder(place := self._child.folder.states) else f"{place} is not there"
        except FolderError as error:
            return str(error)

    def _has_gone_for_good(self) -> bool:
        """Whether somebody has removed or moved the experiment: a server can be wrong for a moment, not for long."""
        if not self._place.has_gone():
            self._gone_at.clear()
            return False
        self._gone_at.append(time.monotonic())
        if len(self._gone_at) < _GONE_LOOKS or self._gone_at[-1] - self._gone_at[0] < GONE_S:
            return False
        self.has_lost_folder = True
        self._tell(f"{self._child.folder.path} was removed or moved, and the job ends; run it where that is now")
        return True

    def _tell_of_request(self, why: str) -> None:
        if not self._has_told_of_request:
            self._has_told_of_request = True
            self._tell(f"somebody may ask for its end, and it goes on: {why}; let us read that file, or cancel it anew")

    def _tell(self, text: str) -> None:
        tell(f"job {self._child.job_id} attempt {self._number}: {text}")

    def _pass_on(self, number: signal.Signals) -> None:
        if number in WARNINGS:
            self._undelivered.setdefault(number, time.monotonic())
        elif self._stopped is None:
            self._stop(number)
        elif self._task is None:  # asked for the second time by a person; a scheduler has KILL for that
            self._kill(signal.SIGKILL)

    def _end_at_limit(self) -> None:
        """The job is told to end, unless it has been already: it has run for as long as its launch lets it."""
        self._limit_at = float("inf")
        if self._stopped is None:
            self._is_over_limit = True
            self._stop(signal.SIGTERM, Stop(State.TIMEOUT, None))

    def _stop(self, number: int, stop: Stop | None = None) -> None:
        """The job is told to end; then the scheduler, if there is one, is asked why, where that is not known."""
        self._stopped, self._stopped_by, now = State.CANCELLED, number, time.monotonic()
        self._kill(number)
        about = {"arguments": self._child.arguments}
        self._states.note_stop(self._child.job_id, self._number, about, had_result=self._had_result)
        stop = stop or self._why_stopped()
        self._stopped = stop.state
        kill_wait_s = float("inf") if stop.kill_wait_s is None else stop.kill_wait_s
        self._kill_at = now + min(KILL_AFTER_S, 0.7 * kill_wait_s)
        self._stragglers_s = min(STRAGGLERS_S, 0.1 * kill_wait_s)

    def _ask(self, question: Callable[[Scheduler, Task], Answer], otherwise: Answer) -> Answer:
        """The scheduler's answer about our task; `otherwise` where there is none: see `_answer`."""
        task = self._task
        return otherwise if task is None else self._answer(lambda scheduler: question(scheduler, task), otherwise)

    def _answer(self, question: Callable[[Scheduler], Answer], otherwise: Answer) -> Answer:
        """The scheduler's answer; `otherwise` where there is none, or where it fails: that must not end the job."""
        return answer_of(self._scheduler, question, otherwise, self._tell)

    def _why_stopped(self) -> Stop:
        return self._ask(lambda scheduler, task: scheduler.why_stopped(task), Stop(State.CANCELLED, None))

    def _deliver_warnings(self) -> None:
        """Warnings reach a job that has a handler for them: one that has none would die of them long before its time.

        A job that may be requeued and has no handler is stopped, so that it can start again before the time limit.
        """
        for number, came in tuple(self._undelivered.items()):
            ours = self._ours()
            listeners = [pid for pid in ours if catches(pid, number)]
            is_due = time.monotonic() >= came + self._handler_wait()
            are_all_ready = self._child.has_ranks and self._ranks(ours) == self._ranks(listeners)
            if listeners and (is_due or are_all_ready or not self._child.has_ranks):
                self._warned = True
                del self._undelivered[number]
                if are_all_ready:
                    self._kill(
                        number
                    )  # what starts the ranks passes it on to all nodes, and would end one without handler
                for pid in () if are_all_ready else listeners:
                    pass_on(pid, number)
            elif is_due and self._stopped is None and self._may_requeue():
                self._undelivered.clear()
                self._warned = True
                self._stop(signal.SIGTERM)
                self._stopped, self._was_ended_at_warning = State.TIMEOUT, True

    def _handler_wait(self) -> float:
        """At most half of the time that is left."""
        return min(HANDLER_WAIT_S, (self._child.options.get("signal_delay_s") or 2 * HANDLER_WAIT_S) / 2)

    def _ours(self) -> list[int]:
        """The processes of the job; what starts its ranks is none of them."""
        if self._child.has_ranks:
            return processes.running(self._is_rank)
        sessions = self._sessions()
        return processes.running(lambda pid: any(in_session(pid, one) for one in sessions))

    def _sessions(self) -> set[int]:
        """The session of the job; and, since the command around it may give it another one, those in which its program
        runs, whatever that has in its environment. What the program starts in sessions of their own is apart."""
        if not self._child.is_wrapped:
            return {self._pid}
        words = os.fsencode(" ".join([*self._child.arguments[-_LAST_WORDS:], ""])).decode(errors="replace")
        below = (*processes.descendants(self._pid), *self._left())
        found = {session_of(pid) for pid in below if processes.words_of(pid).endswith(words)}
        return {self._pid, *(one for one in found if one is not None)}

    def _is_rank(self, pid: int) -> bool:
        """Whether a process is one of the job's ranks, which bear what we have told what starts them."""
        own = environment.of_attempt(self._child.folder, self._child.job_id, self._number)
        found = processes.environment(pid)
        is_rank = self._rank(found) is not None and not in_session(pid, self._pid)
        return is_rank and all(found.get(os.fsencode(name)) == os.fsencode(value) for name, value in own.items())

    def _may_requeue(self) -> bool:
        """Whether the launch lets this job start again after one time limit, or warning by hand, more."""
        earlier = self._states.attempts(self._child.job_id)[: self._number - 1]
        since = [attempt for attempt in earlier if attempt.number >= (self._child.planned or 1)]
        return self._task is not None and may_start_again(self._child.folder, self._child.options, since)

    def _kill(self, number: int) -> bool:
        """The whole session of the job gets a signal; false when nothing is left of it."""
        self._has_killed = self._has_killed or number == signal.SIGKILL
        try:
            os.killpg(self._pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _has_left_by_itself(self, returncode: int) -> bool:
        return returncode == 0 and self._stopped is None and not self._fenced

    def _end_stragglers(self, *, is_all: bool) -> None:
        """What the job has left behind is told to end, and killed when it does not: its process group, and with
        `is_all` whatever else it has started, also in sessions of their own, as a launcher starts its ranks."""
        if not self._kill(0) and not (is_all and self._left()):
            return
        for number, seconds in ((signal.SIGTERM, self._stragglers_s), (signal.SIGKILL, _DIES_WITHIN_S)):
            deadline = time.monotonic() + seconds
            self._have_heard.update((pid, number) for pid in self._left() if in_group(pid, self._pid))
            self._kill(number)
            while ((left := self._left()) and is_all) or self._kill(0):
                self._tell_apart(left if is_all else (), number)
                if time.monotonic() >= deadline:
                    break
                time.sleep(0.02)

    def _left(self) -> list[int]:
        """What the job has started, and whose own parents have ended; of what has ended itself, nothing is left."""
        return [] if self._orphans is None else self._orphans.alive()

    def _settle_what_is_left(self, state: State, *, has_left_by_itself: bool) -> None:
        """What a job that is done has left in sessions of its own goes on, as it would without us; of any other one all
        has ended, and the log of the job says what that was."""
        left: list[int] = []
        if has_left_by_itself and state in ENDED_WELL and self._orphans is not None:
            left = self._orphans.let_alone()
        elif has_left_by_itself:
            self._end_stragglers(is_all=True)
        self._log_processes("ended with the job, which had left it in sessions of its own", self._ended)
        self._log_processes("left running, in sessions of its own", {pid: processes.name_of(pid) for pid in left})

    def _log_processes(self, what: str, named: Mapping[int, str]) -> None:
        """A line in the log of the job about these processes, if there are any."""
        if not named:
            return
        names = ", ".join(f"{name} (process {pid})" for pid, name in sorted(named.items()))
        line = one_line(f"experiment-manager: {what}: {names}")
        with suppress(OSError), log_file(self._file("stderr")) as log:
            reserve.write_all(log, f"{line}\n".encode(errors="replace"))

    def _record_unstarted(self, error: OSError, started: float) -> Outcome:
        culprit, cwd = self._child.arguments[0], self._child.cwd
        reason = f"{culprit} could not be started: {error.strerror or error}"
        if not may_be_there(cwd):
            culprit = f"the folder {cwd}, where the sweep was started,"
            here = f"is not there any more, or not on {os.uname().nodename}"
            reason = f"{culprit} {here}; sweep again from where it is now, and all nodes see it"
        is_output = error.filename in self._child.logs(self._number)
        if is_output:
            reason = f"its output cannot be written: {error.strerror or error}"
        self.reason = reason
        with suppress(OSError), log_file(self._file("stderr")) as log:
            reserve.write_all(log, f"{reason}\n".encode(errors="replace"))
        self._publish(State.FAILED, {"reason": reason, "exit_code": None, "start": started, "end": time.time()})
        return Outcome(1 if is_output else exit_status_of(error))

    def _record(self, returncode: int, usage: Any, started: float) -> Outcome:
        result, self._unreadable = Endings(self._child.folder).left(self._child.job_id, self._number, self._tell)
        self._warned = self._warned or result.get("told") is True  # by whatever way the warning came
        from experiment_manager.model import policy

        pruned = self._why_pruned()
        is_oom = returncode != 0 and self._was_out_of_memory(returncode)  # what ended well is not asked about
        ending = policy.Ending(
            returncode=policy.of_wrapped(returncode) if self._child.is_wrapped and not is_oom else returncode,
            has_result=policy.left_result(result, was_stopped=self._stopped is not None and not self._had_result),
            stopped=self._stopped,
            was_warned=self._warned,
            out_of_memory=is_oom,
            needs_result=self._child.needs_result and not result,
            has_trouble=self._unreadable is not None
            or (not result and bool(read_optional(self._file("error"), ERROR))),
            is_fake=self._child.is_fake or bool(result.get("fake")),
            was_pruned=pruned is not None,
        )
        state = policy.ended_state(ending)
        is_of_scheduler = state is State.TIMEOUT and self._warned and not self._is_over_limit
        is_to_requeue = is_of_scheduler and self._may_requeue()
        if is_of_scheduler and self._is_being_preempted():
            state, is_to_requeue = State.PREEMPTED, True  # it would have been started again, had it stayed
        elif is_of_scheduler and self._is_limit_far():
            state, self._was_warned_by_hand = State.PREEMPTED if is_to_requeue else State.CANCELLED, True
        if state in _STARTED_AGAIN and self._is_asked_to_end():  # what people have cancelled, nobody starts again
            state, is_to_requeue = State.CANCELLED, False
        if state is State.COMPLETED and ending.returncode < 0:
            self.reason = f"ended by {name_of(-ending.returncode)} after it had left its result"
        else:
            self.reason = pruned if state is State.PRUNED else self._reason(state, returncode, is_to_requeue)
        self._settle_what_is_left(state, has_left_by_itself=self._has_left_by_itself(returncode))
        record = {
            "reason": self.reason,
            "exit_code": returncode if returncode >= 0 else None,
            "signal": name_of(-returncode) if returncode < 0 else None,
            "start": started,
            "end": time.time(),
            **self._peak_memory(usage.ru_maxrss * 1024),
            "cpu_s": usage.ru_utime + usage.ru_stime,
            **({} if self._gpus is None else self._gpus.record(time.time() - started)),
            **({"ask_scheduler": True} if state is State.CANCELLED and self._is_scheduler_to_be_asked() else {}),
            **({"requeued": True} if is_to_requeue else {}),
            **({"has_result": bool(result)} if state is State.COMPLETED else {}),
        }
        if not self._publish(state, record):
            return self._incomplete()._replace(was_overtaken=True)
        if state in ENDED_WELL:
            return Outcome(0, is_to_requeue)
        is_dry = state is State.FAKE
        status = policy.exit_status(returncode) or (0 if is_dry else policy.INCOMPLETE)
        return Outcome(status, is_to_requeue, is_to_heal=not is_to_requeue and self._has_rule_for(state))

    def _is_asked_to_end(self) -> bool:
        """Whether somebody has asked for the end since we looked last."""
        with suppress(OSError, FolderError):
            self._asked = self._asked or asked_to_end(self._child.folder, self._child.job_id, self._number)
        return self._asked is not None

    def _has_rule_for(self, state: State) -> bool:
        if state not in ENDED_BADLY:
            return False
        from experiment_manager.model.healing import rule_for

        return rule_for(state, self._child.options) is not None

    def _why_pruned(self) -> str | None:
        if self._child.pruner is None:
            return None
        from experiment_manager.store.rungs import why_pruned

        return why_pruned(self._child.folder, self._child.job_id, self._number)

    def _peak_memory(self, largest: int) -> dict[str, Any]:
        """Of all processes of the job together, and how that is known: counted by the kernel in the `cgroup` of the
        task, with the files that it kept in memory for them; or from `samples`, and at least that of the largest
        process."""
        counted = self._counted_memory()
        most = max(largest, self._memory, counted or 0)
        return {"peak_memory_bytes": most, "peak_memory_from": "samples" if counted is None else "cgroup"}

    @property
    def _has_own_task(self) -> bool:
        """Whether no other job runs beside it in the same task."""
        return self._child.scheduler is not None and self._child.options.get("pack", 1) == 1

    def _counted_memory(self) -> int | None:
        """The peak that the kernel has counted for the task, where the job has that for itself; None elsewhere."""
        is_alone = (
            self._has_own_task
            and not self._child.has_ranks
            and self._child.options.get("workers") is None  # its other jobs count there, too
        )
        return peak_of_step() if is_alone else None

    def _is_being_preempted(self) -> bool:
        return self._ask(lambda scheduler, task: scheduler.is_being_preempted(task), False)

    def _is_limit_far(self) -> bool:
        """Whether a warning cannot have been of the time limit, since that is far away: somebody has sent it."""
        return is_limit_far(self._ask(lambda scheduler, task: scheduler.ends_at(task), None), self._child.options)

    def _is_scheduler_to_be_asked(self) -> bool:
        """Whether the scheduler may know better why the job was told to end."""
        return self._task is not None and not self._was_warned_by_hand and self._asked is None

    def _rank(self, found: Mapping[bytes, bytes]) -> bytes | None:
        rank: bytes | None = self._scheduler.rank(found) if self._scheduler is not None else None
        return rank

    def _ranks(self, pids: Iterable[int]) -> set[bytes | None]:
        return {self._rank(processes.environment(pid)) for pid in pids}

    def _was_out_of_memory(self, returncode: int) -> bool:
        """The kernel counted a kill in our memory cgroup; ranks have cgroups of their own, and the error log tells."""
        if self._child.has_ranks:
            return self._answer(lambda scheduler: scheduler.tells_out_of_memory(self._error_log()), False)
        after = oom_kills()
        if self._oom_kills is None or after is None or after <= self._oom_kills:
            return False
        if self._stopped is not None:  # it was told to end, whatever one of its processes had died of before
            return self._was_killed
        return self._has_own_task or self._was_killed or self._tells_of_a_kill(returncode)

    def _tells_of_a_kill(self, returncode: int) -> bool:
        """Whether a job that shares its memory with others ended as one does of which the kernel has killed a process:
        the count is of them all."""
        error = read_optional(self._file("error"), ERROR)
        said = f"{error.get('type')}: {error.get('message')}" if error else last_line(self._file("stderr")) or ""
        return returncode == 128 + signal.SIGKILL or re.search(_KILLED, said, re.IGNORECASE) is not None

    def _first_failure(self) -> str | None:
        if not self._child.has_ranks:
            return None
        return self._answer(lambda scheduler: scheduler.first_failure(self._error_log()), None)

    def _error_log(self) -> str:
        return read_end(self._file("stderr")).decode(errors="replace")

    def _incomplete(self) -> Outcome:
        from experiment_manager.model.policy import INCOMPLETE

        return Outcome(INCOMPLETE)

    def _publish(self, state: State, record: dict[str, Any]) -> bool:
        """The end is recorded, and is ours; false when somebody else had ended the attempt before."""
        self._is_decided, record = True, {**record, "arguments": self._child.arguments}
        state = State.FAKE if self._child.is_fake else state
        job_id, number = self._child.job_id, self._number
        for is_last in (False, True):
            if self._fenced:
                return False
            if asked_again(lambda: self._states.finish(job_id, number, state, record), self._tell):
                return True
            if not is_last:
                time.sleep(SECOND_LOOK_S)
        if self._tell_if_elsewhere("and how it ended is recorded nowhere"):
            return False
        return self._states.state(job_id, number) is state  # a server can do what it is told, and answer that it cannot

    def _at_warning(self, is_to_requeue: bool) -> str:
        """Of a job that ended when it was warned of its time limit, that it did, and whether it starts again."""
        what = "it was ended, since it does not listen" if self._was_ended_at_warning else "it left"
        name, limit = most_starts(self._child.options)
        again = f"; no start is left of {name}={limit}" if limit and self._task is not None else ""
        return f"warned before its time limit, {what}" + (TO_START_AGAIN if is_to_requeue else again)

    def _reason(self, state: State, returncode: int, is_to_requeue: bool) -> str | None:
        """Why, in a line: the exception that the job left, else the signal or exit code."""
        if state is State.COMPLETED or (state is State.FAKE and returncode == 0):
            return None
        if self._was_warned_by_hand:
            return _BY_HAND
        if state is State.CANCELLED or (state is State.FAKE and self._stopped is not None):
            return "stopped by a signal" if self._asked is None else f"cancelled by {self._asked}"
        if state is State.TIMEOUT and self._is_over_limit:
            return f"ran longer than job_timeout_min={(self._child.limit_s or 0.0) / 60:g}"
        if state is State.TIMEOUT and self._warned and (self._stopped is None or self._was_ended_at_warning):
            return self._at_warning(is_to_requeue)
        if state in _REASONS:
            return _REASONS[state]
        error = read_optional(self._file("error"), ERROR)
        if self._unreadable is not None:
            return self._unreadable
        if error:
            return one_line(f"{error.get('type')}: {error.get('message')}")
        if returncode < 0:
            return f"ended by {name_of(-returncode)}"
        if words := self._first_failure():
            return words
        if returncode == 0 and self._child.needs_result:
            return _OF_WRAP if self._child.options.get("wrap") else _OF_RUNNER
        full = reserve.trouble(self._file("result"))  # then the job may have found no space for its own words
        last = last_line(self._file("stderr")) if returncode == 1 and not full else None  # of sys.exit("...")
        why = f"its last line on stderr: {last}" if last else full
        return one_line(f"exit code {returncode}" + (f"; {why}" if why else ""))


_KILLED: Final = r"killed|sigkill|out of memory|memoryerror|cannot allocate"
"""What jobs say of which the kernel has killed a process for memory, or refused it some."""

_STARTED_AGAIN: Final = (State.PREEMPTED, State.TIMEOUT, State.NODE_FAIL, State.CANCELLED)
"""Ends after which a scheduler, or a worker, may start the job again."""

_OF_RUNNER: Final = "the runner ended without running the job; it has to call Experiment.run_id"
_OF_WRAP: Final = (
    "the command in wrap ended with 0, and the job left no result: it was killed, left with another status, or by "
    'os._exit; where wrap is a shell, let it end as the job does (exec "$@", or set -o pipefail)'
)
_BY_HAND: Final = "it left when somebody warned it, long before its time limit"
_REASONS: Final = {
    State.TIMEOUT: "the time limit was reached",
    State.PREEMPTED: "preempted, or requeued by somebody",
    State.OUT_OF_MEMORY: "the kernel killed it for memory",
    State.NODE_FAIL: "the node failed",
}
