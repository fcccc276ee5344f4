"""Runs jobs here, several at a time: one supervisor process per job, the same one that a SLURM task starts."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, Final, NamedTuple, Protocol

from experiment_manager.errors import ExperimentManagerError, FolderError, OptionsError, UnreadableLaunch
from experiment_manager.execution import resources
from experiment_manager.execution.forkserver.client import ForkServer
from experiment_manager.execution.signals import hear_interrupts
from experiment_manager.execution.supervisor import KILL_AFTER_S
from experiment_manager.model import policy
from experiment_manager.model.estimate import SAMPLE, estimate
from experiment_manager.model.records import ENDED_WELL, Attempt, Launch, State
from experiment_manager.scheduler import schedulers
from experiment_manager.scheduler.upstream import Upstreams
from experiment_manager.store import processes
from experiment_manager.store.documents import END, load_end, read_optional
from experiment_manager.store.files import Patience, discard, log_file
from experiment_manager.store.launches import planned_attempts, read_launch
from experiment_manager.store.layout import Folder
from experiment_manager.store.states import States, ended_elsewhere
from experiment_manager.text import JobLines, as_word, counted, tell_once

_POLL_S: Final = 0.02
_UPSTREAM_S: Final = 0.5
_MOST_LOOKED_AT: Final = 500
_LOOK_AHEAD_S: Final = 2.0
"""How often the progress bar tells anew when all jobs will have ended."""

HOW_THEY_END: Final = f", for up to {KILL_AFTER_S:.0f} s; Ctrl-C again kills what is left"
"""Follows `ending 2 jobs`, once people have told jobs to end."""

_REPLACED: Final = "the experiment was removed, or moved, while it ran; what it left is not in this one"


class JobEnd(NamedTuple):
    """How one job of the pool has ended; `state` is None when its supervisor refused to begin; `reason` says why."""

    job_id: int
    attempt: int
    state: State | None
    reason: str | None
    seconds: float = 0.0  # from the start of its supervisor to its end


def ends_html(ran: Sequence[JobEnd]) -> str:
    """How jobs have ended, as a notebook shows it; nothing where none has run."""
    from experiment_manager.model import html

    rows = [
        {"job": end.job_id, "state": end.state or "not run", "seconds": round(end.seconds, 1), "reason": end.reason}
        for end in ran[: html.MOST_ROWS]
    ]
    return html.table(rows, len(ran)) if rows else ""


class Interrupted(KeyboardInterrupt):
    """Whoever runs jobs here was told to stop by a signal; all of them have ended. `ran` are those that had begun."""

    def __init__(self, number: int, ran: list[JobEnd]) -> None:
        super().__init__(signal.Signals(number).name)
        self.number, self.ran = number, ran


class _Process(Protocol):
    """A supervisor that was started or forked, as `Popen` has it."""

    @property
    def pid(self) -> int | None: ...
    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def wait(self) -> int: ...
    def send_signal(self, sig: int, /) -> None: ...


class _Running(NamedTuple):
    job_id: int
    process: _Process
    log: str
    started: float
    gpus: tuple[int, ...]  # places among those that are visible here


class _Unsettled(NamedTuple):
    """A job that has ended, and of which the file system cannot tell at the moment how."""

    task: _Running
    patience: Patience
    at: float  # when it is asked again


def available_cpus() -> int:
    """How many processors this process may use, which on a shared machine is not how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_n_jobs(n_jobs: int, *, where: str = "hydra.launcher.") -> None:
    """Raise ExperimentManagerError unless so many jobs can run at a time; `where` comes before the option's name."""
    if n_jobs < 1 and n_jobs != -1:
        raise ExperimentManagerError(
            f"{where}n_jobs={n_jobs} runs nothing; use 1 or more, or -1 for all {available_cpus()} processors"
        )


def check_start_method(start_method: str) -> None:
    """Raise OptionsError unless jobs can begin so."""
    try:
        policy.start_method(start_method)
    except OptionsError as error:
        raise OptionsError(f"hydra.launcher.start_method: {error}") from None


def check_gpus_per_job(gpus_per_job: float | None, *, where: str = "hydra.launcher.") -> None:
    """Raise ExperimentManagerError unless a job can have such a share of the GPUs here."""
    resources.check_gpus(gpus_per_job, resources.visible_gpus(os.environ), where=where)


def kept_limit(job_timeout_min: Any, *, where: str) -> dict[str, float]:
    """What the record of a launch that runs here keeps of the time limit of its jobs; nothing where there is none.
    Raises OptionsError for what is no time limit; `where` comes before the name of the option."""
    try:
        return {} if job_timeout_min is None else {"job_timeout_min": policy.job_limit_min(job_timeout_min)}
    except OptionsError as error:
        raise OptionsError(f"{where}job_timeout_min: {error}") from None


class Pool:
    """One launch, run here. With `forkserver` its jobs are forked where they can be."""

    def __init__(
        self,
        folder: Folder,
        launch: Launch,
        *,
        n_jobs: int,
        texts: Mapping[int, str],
        forkserver: ForkServer | None = None,
        gpus_per_job: float | None = None,
    ) -> None:
        """`gpus_per_job` as in `check_gpus_per_job`; None: the visible GPUs, divided by the jobs that run at once."""
        self._folder, self._launch, self._texts, self._forkserver = folder, launch, texts, forkserver
        self.n_jobs = n_jobs if n_jobs > 0 else available_cpus()
        self._gpus_per_job = gpus_per_job
        self._states, self._planned = States(folder), planned_attempts(launch)
        self._upstreams = Upstreams(folder) if launch.record.get("upstream") is not None else None
        self._has_told_of_upstream = self._has_told_of_end = False
        self._next_at = 0.0  # when it is looked again for a job that may begin, where none might

    def run(self, ids: Sequence[int]) -> list[JobEnd]:
        """Every job has ended; what became of them, in the order of `ids`, but for those that others have taken.

        Raises Interrupted after INT, TERM or HUP: the running jobs are told to end, a second signal kills them. When
        anything goes wrong here, they run on under their supervisors, and that is said.
        """
        waiting, running, ran = deque(ids), list[_Running](), dict[int, JobEnd]()
        unsettled, look_at = list[_Unsettled](), 0.0
        dealer = resources.GpuDealer(resources.visible_gpus(os.environ), self._gpus_per_job, min(self.n_jobs, len(ids)))
        if dealer.words:
            tell_once(f"{dealer.words} (hydra.launcher.gpus_per_job)")
        with Interrupts() as interrupts, JobLines(len(ids)).showing() as lines:
            try:
                if self._forkserver is not None:
                    self._forkserver.prepare(self._folder, self._launch, ids)
                while running or ((waiting or unsettled) and interrupts.first is None):
                    for _ in range(interrupts.news()):
                        self._end(running, lines)
                    ended = [task for task in running if task.process.poll() is not None]
                    for task in ended:
                        running.remove(task)
                        dealer.take_back(task.gpus)
                    while waiting and len(running) < self.n_jobs and interrupts.first is None:
                        if not self._can_begin(lines) or (gpus := dealer.deal()) is None:
                            break
                        if (job_id := self._next(waiting, lines)) is None:
                            dealer.take_back(gpus)
                            break
                        begun = self._begin(job_id, gpus, dealer.environment(gpus), lines)
                        if isinstance(begun, JobEnd):
                            dealer.take_back(gpus)
                            ran[job_id] = begun
                        else:
                            running.append(begun)
                    for task in ended:
                        if ForkServer.is_to_begin_again(task.process):
                            waiting.appendleft(task.job_id)
                        else:
                            unsettled.append(_Unsettled(task, Patience(), 0.0))
                    unsettled = self._settle_all(unsettled, ran, lines)
                    if lines.has_bar and time.monotonic() >= look_at:
                        lines.look_ahead(_outlook(list(ran.values()), running, len(waiting)))
                        look_at = time.monotonic() + _LOOK_AHEAD_S
                    if not ended:
                        self._pause()
            except Exception:
                if running:
                    lines.say(
                        f"this program has failed; {counted(len(running))} of {self._folder.path} go on without it"
                    )
                raise
            except BaseException:
                _tell_to_end(running)
                for task in running:
                    task.process.wait()
                raise
        if interrupts.first is not None:
            raise Interrupted(interrupts.first, list(ran.values()))
        return [ran[job_id] for job_id in ids if job_id in ran]

    def _end(self, running: Sequence[_Running], lines: JobLines) -> None:
        """The jobs are told to end, as people know the first time."""
        if running and not self._has_told_of_end:
            self._has_told_of_end = True
            lines.say(f"ending {counted(len(running))}{HOW_THEY_END}")
        _tell_to_end(running)

    def _can_begin(self, lines: JobLines) -> bool:
        """False while a fork server is still busy importing. Says so when there is none after all."""
        if self._forkserver is None:
            return True
        if (why_not := self._forkserver.news()) is not None:
            lines.say(f"every job starts its own interpreter, as with hydra.launcher.start_method=spawn: {why_not}")
        return not self._forkserver.is_importing

    def _next(self, waiting: "deque[int]", lines: JobLines) -> int | None:
        """A job that waits for no job of another experiment, which is taken out of the others; None: there is none as
        far as was looked, and people are told, once. Of many, a part is looked at at a time: signals come first."""
        if self._upstreams is None:
            return waiting.popleft()
        if time.monotonic() < self._next_at:
            return None
        left = set[int]()
        for _ in range(min(len(waiting), _MOST_LOOKED_AT)):
            found = self._upstreams.waits_for(self._launch.number, waiting[0])
            if not found or self._cancelled(waiting[0]) is not None:
                return waiting.popleft()
            left.update(found)
            waiting.rotate(-1)
        self._next_at = time.monotonic() + _UPSTREAM_S
        if not self._has_told_of_upstream:
            self._has_told_of_upstream = True
            where = as_word(os.path.relpath(str(self._launch.record["upstream"]["experiment"])))
            lines.say(f"waiting for {counted(len(left))} of {where} to complete (hydra.launcher.after)")
        return None

    def _cancelled(self, job_id: int) -> JobEnd | None:
        """How a job has ended that people have cancelled before we have begun it; None: they have not."""
        found = self._states.cancelled_for(job_id, self._launch.number, self._planned[job_id])
        return None if found is None else JobEnd(job_id, found[0], State.CANCELLED, found[1].get("reason"))

    def _pause(self) -> None:
        if self._forkserver is None or not self._forkserver.listen(_POLL_S):
            time.sleep(_POLL_S)

    def _not_begun(self, job_id: int, why: str, lines: JobLines) -> JobEnd:
        reason = f"could not be begun: {why}"
        lines.ended(job_id, None, self._texts.get(job_id, ""), seconds=0.0, reason=reason)
        return JobEnd(job_id, 0, None, reason)

    def _begin(
        self, job_id: int, gpus: tuple[int, ...], variables: Mapping[str, str], lines: JobLines
    ) -> _Running | JobEnd:
        """The job's supervisor, which runs, with these environment variables beside ours; or how the job has ended that
        has none, as people know."""
        if (cancelled := self._cancelled(job_id)) is not None:
            return self._told(cancelled, 0.0, lines)
        try:
            return self._start(job_id, gpus, variables)
        except OSError as error:  # no memory, no process, no room on the disk
            return self._not_begun(job_id, error.strerror or str(error), lines)

    def _start(self, job_id: int, gpus: tuple[int, ...], variables: Mapping[str, str]) -> _Running:
        """The job's supervisor runs, with these environment variables beside ours. Raises OSError."""
        log = self._folder.join("launches", self._launch.number, f"job-{job_id}.log")
        variables = {**variables, **schedulers.told_to_supervisors()}
        if self._forkserver is not None and self._forkserver.is_ready:
            task = self._forkserver.begin(
                job_id, folder=self._folder.path, launch=self._launch.number, log=log, variables=variables
            )
            return _Running(job_id, task, log, time.monotonic(), gpus)
        arguments = [sys.executable, "-P", "-m", "experiment_manager", "run", self._folder.path, str(job_id)]
        with log_file(log) as out:
            process = subprocess.Popen(
                [*arguments, "--launch", self._launch.number],
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # the terminal's Ctrl-C reaches us alone, and we pass it on
                preexec_fn=hear_interrupts,
            )
        return _Running(job_id, process, log, time.monotonic(), gpus)

    def _settle_all(self, unsettled: Sequence[_Unsettled], ran: dict[int, JobEnd], lines: JobLines) -> list[_Unsettled]:
        """What became of those is in `ran`; returns those that are to be asked about again. Other jobs do not wait."""
        left, now = list[_Unsettled](), time.monotonic()
        for one in unsettled:
            if now < one.at:
                left.append(one)
                continue
            job_id = one.task.job_id
            try:
                if (end := self._settle(one.task, lines)) is not None:
                    ran[job_id] = end
            except (OSError, FolderError) as error:
                cause = error if isinstance(error, OSError) else error.__cause__
                why = f"{getattr(cause, 'filename', None) or self._folder.path}: {getattr(cause, 'strerror', error)}"
                try:
                    pause = one.patience.pause(cause if isinstance(cause, OSError) else OSError(errno.EIO, str(error)))
                except OSError:
                    ran[job_id] = self._ended(
                        one.task, JobEnd(job_id, 0, None, f"its end cannot be read: {why}"), lines
                    )
                    continue
                if not one.at:
                    lines.say(f"the end of job {job_id} cannot be read, and is asked for again: {why}")
                left.append(one._replace(at=now + pause))
        return left

    def _settle(self, task: _Running, lines: JobLines) -> JobEnd | None:
        """What became of a job, as people know; None: others have taken it before it began here."""
        if (trouble := ForkServer.trouble(task.process)) is not None:
            return self._not_begun(task.job_id, os.strerror(trouble), lines)
        attempt = self._states.settled(task.job_id)
        said = _tail(task.log)
        if said is None:
            discard(task.log)
        ours = attempt if self._is_of(task, attempt) else self._earlier(task)
        if ours is None and (by := self._taken(attempt)) is not None:
            self._ended(task, JobEnd(task.job_id, 0, None, f"taken by others meanwhile: {by}"), lines)
            return None
        if ours is None:
            why_not = said or (_REPLACED if self._is_replaced() else _why_silent(task.log))
            ran = self._cancelled(task.job_id) or JobEnd(task.job_id, attempt.number, None, why_not)
        else:
            kept = read_optional(self._folder.of_attempt(task.job_id, ours.number, "attempt"), END)
            reason = ended_elsewhere(kept) or kept.get("reason")
            if ours.state is State.LOST and ended_elsewhere(kept) is None:
                killed = said is None or (task.process.returncode or 0) < 0
                reason = "its supervisor was killed" if killed else f"its supervisor failed: {said}"
            if ours.number < attempt.number:
                reason = "; ".join(filter(None, (reason, f"attempt {attempt.number} was begun elsewhere")))
            ran = JobEnd(task.job_id, ours.number, ours.state, reason)
        return self._ended(task, ran, lines)

    def _taken(self, last: Attempt) -> str | None:
        """Which attempt another launch has begun in the place of ours, for people; None: there is none."""
        if last.number < self._planned[last.job_id] or self._cancelled(last.job_id) is not None:
            return None
        record = self._states.record(last.job_id, last.number)
        if record.get("pid") is None or record.get("launch") == self._launch.number:
            return None
        how = processes.named(record) if last.state is State.RUNNING else f"which is {last.state}"
        return f"attempt {last.number}, {how}"

    def _is_replaced(self) -> bool:
        """Whether our launch is not there any more: people have removed the experiment, or moved it, and perhaps made
        another one in its place."""
        try:
            return read_launch(self._folder, self._launch.number).record != self._launch.record
        except UnreadableLaunch:
            return False
        except ExperimentManagerError:
            return True

    def _is_of(self, task: _Running, attempt: Attempt) -> bool:
        record = self._states.record(task.job_id, attempt.number) if attempt.number else {}
        return record.get("launch") == self._launch.number and record.get("pid") == task.process.pid

    def _earlier(self, task: _Running) -> Attempt | None:
        """The attempt of a task where others have begun one since; None where it has begun none."""
        found = reversed(self._states.attempts(task.job_id))
        return next((attempt for attempt in found if self._is_of(task, attempt)), None)

    def _ended(self, task: _Running, ran: JobEnd, lines: JobLines) -> JobEnd:
        return self._told(ran, time.monotonic() - task.started, lines)

    def _told(self, ran: JobEnd, seconds: float, lines: JobLines) -> JobEnd:
        lines.ended(ran.job_id, ran.state, self._texts.get(ran.job_id, ""), seconds=seconds, reason=ran.reason)
        return ran._replace(seconds=seconds)


def _outlook(ran: Sequence[JobEnd], running: Sequence[_Running], n_waiting: int) -> str:
    """When the jobs of the pool will have ended, for people; nothing while too little is known."""
    seconds = [one.seconds for one in ran if one.state in ENDED_WELL]
    now = time.monotonic()
    found = estimate(seconds[-SAMPLE:], [now - task.started for task in running], n_waiting, n_ended=len(seconds))
    return "" if found is None else f"done in {found.text}"


def _tell_to_end(running: Sequence[_Running]) -> None:
    for task in running:
        if task.process.poll() is None:
            task.process.send_signal(signal.SIGINT)


class Interrupts:
    """Inside, INT, TERM and HUP are noted instead of ending this process.

    One that was ignored when we came stays so: `nohup` ignores HUP, a shell's `&` ignores INT.
    """

    def __init__(self) -> None:
        self.first: int | None = None
        self._count = self._told = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():  # only there handlers can be set
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.first = self.first or number
        self._count += 1

    def news(self) -> int:
        """How many came since it was asked the last time."""
        new, self._told = self._count - self._told, self._count
        return new


def _why_silent(log: str) -> str:
    """Why a supervisor that did not begin has said nothing, as far as we can see: what it said had to go to its log."""
    why = "its supervisor ended before it began"
    try:
        with log_file(log) as handle:
            os.write(handle, b"\n")
        os.unlink(log)
    except OSError as error:
        return f"{why}: {error.strerror or error}"
    return why


def _tail(path: str) -> str | None:
    """The last line of a log; None when it is empty. Raises OSError when it is there and cannot be read."""
    try:
        lines = load_end(path).decode(errors="replace").strip().splitlines()
    except FileNotFoundError:  # settled before, as far as that went
        return None
    return lines[-1] if lines else None
