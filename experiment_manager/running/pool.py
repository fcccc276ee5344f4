"""Runs jobs here, several at a time: one supervisor process per job, the same one that a SLURM task starts."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, Final, NamedTuple

from experiment_manager.disk.files import read_optional
from experiment_manager.disk.folder import Folder
from experiment_manager.disk.states import States
from experiment_manager.errors import ExperimentManagerError
from experiment_manager.progress import JobLines
from experiment_manager.records import Launch, State

_POLL_S: Final = 0.02


class Ran(NamedTuple):
    """What became of one job of the pool; `state` is None when its supervisor refused to begin."""

    job_id: int
    attempt: int
    state: State | None
    reason: str | None


class Interrupted(Exception):
    """The pool was told to stop by a signal; all its jobs have ended. `ran` are those that had begun."""

    def __init__(self, number: int, ran: list[Ran]) -> None:
        super().__init__(signal.Signals(number).name)
        self.number, self.ran = number, ran


class _Running(NamedTuple):
    job_id: int
    process: "subprocess.Popen[bytes]"
    log: str
    started: float


def available_cpus() -> int:
    """How many processors this process may use, which on a shared machine is not how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_n_jobs(n_jobs: int) -> None:
    """Nothing happens when so many jobs can run at a time; else ExperimentManagerError."""
    if n_jobs < 1 and n_jobs != -1:
        raise ExperimentManagerError(
            f"hydra.launcher.n_jobs={n_jobs} runs nothing; use 1 or more, or -1 for all {available_cpus()} processors"
        )


class Pool:
    """One launch, run here."""

    def __init__(self, folder: Folder, launch: Launch, *, n_jobs: int, texts: Mapping[int, str]) -> None:
        self._folder, self._launch, self._texts = folder, launch, texts
        self.n_jobs = n_jobs if n_jobs > 0 else available_cpus()
        self._states = States(folder)

    def run(self, ids: Sequence[int]) -> list[Ran]:
        """Every job has ended; what became of them, in the order of `ids`.

        Raises Interrupted after INT, TERM or HUP: the running jobs are told to end, a second signal kills them. They
        are told to end, too, when anything goes wrong here.
        """
        waiting, running, ran = deque(ids), list[_Running](), dict[int, Ran]()
        with _Interrupts() as interrupts, JobLines(len(ids)).showing() as lines:
            try:
                while running or (waiting and interrupts.first is None):
                    for _ in range(interrupts.news()):
                        _tell_to_end(running)
                    while waiting and len(running) < self.n_jobs and interrupts.first is None:
                        self._begin(waiting.popleft(), running, ran, lines)
                    ended = [task for task in running if task.process.poll() is not None]
                    for task in ended:
                        running.remove(task)
                        ran[task.job_id] = self._settle(task, lines)
                    if not ended:
                        time.sleep(_POLL_S)
            except BaseException:
                _tell_to_end(running)
                for task in running:
                    task.process.wait()
                raise
        if interrupts.first is not None:
            raise Interrupted(interrupts.first, list(ran.values()))
        return [ran[job_id] for job_id in ids]

    def _begin(self, job_id: int, running: list[_Running], ran: dict[int, Ran], lines: JobLines) -> None:
        """The job runs, or `ran` tells why it could not be begun: no memory, no process, no room on the disk."""
        try:
            running.append(self._start(job_id))
        except OSError as error:
            reason = f"could not be begun: {error.strerror or error}"
            ran[job_id] = Ran(job_id, 0, None, reason)
            lines.ended(job_id, None, self._texts.get(job_id, ""), seconds=0.0, reason=reason)

    def _start(self, job_id: int) -> _Running:
        log = self._folder.join("launches", self._launch.number, f"job-{job_id}.log")
        arguments = [sys.executable, "-P", "-m", "experiment_manager", "run", self._folder.path, str(job_id)]
        with open(log, "ab") as out:
            process = subprocess.Popen(
                [*arguments, "--launch", self._launch.number],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # the terminal's Ctrl-C reaches us alone, and we pass it on
                preexec_fn=_hear_interrupts,
            )
        return _Running(job_id, process, log, time.monotonic())

    def _settle(self, task: _Running, lines: JobLines) -> Ran:
        attempt = self._states.settled(task.job_id)
        said = _tail(task.log)
        if said is None:
            os.unlink(task.log)
        record = self._states.record(task.job_id, attempt.number) if attempt.number else {}
        if record.get("launch") != self._launch.number or record.get("pid") != task.process.pid:
            ran = Ran(task.job_id, attempt.number, None, said or "its supervisor ended before it began")
        else:
            kept = read_optional(self._folder.of_attempt(task.job_id, attempt.number, "attempt"))
            reason = kept.get("reason")
            if attempt.state is State.LOST:
                killed = task.process.returncode < 0
                reason = "its supervisor was killed" if killed else f"its supervisor failed: {said}"
            ran = Ran(task.job_id, attempt.number, attempt.state, reason)
        seconds = time.monotonic() - task.started
        lines.ended(ran.job_id, ran.state, self._texts.get(ran.job_id, ""), seconds=seconds, reason=ran.reason)
        return ran


def _hear_interrupts() -> None:
    """Runs in a supervisor's process before it starts: a shell's `&` has INT ignored, by which we tell it to end."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _tell_to_end(running: Sequence[_Running]) -> None:
    for task in running:
        if task.process.poll() is None:
            task.process.send_signal(signal.SIGINT)


class _Interrupts:
    """Inside, INT, TERM and HUP are noted instead of ending this process.

    One that was ignored when we came stays so: `nohup` ignores HUP, a shell's `&` ignores INT.
    """

    def __init__(self) -> None:
        self.first: int | None = None
        self._count = self._told = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "_Interrupts":
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


def _tail(path: str) -> str | None:
    """The last line of a log; None when it is empty."""
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = file.read().strip().splitlines()
    return lines[-1] if lines else None
