"""Runs jobs here, several at a time: one supervisor process per job, the same one that a SLURM task starts."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, NamedTuple

from experiment_manager.errors import ExperimentManagerError
from experiment_manager.folder import Folder
from experiment_manager.progress import JobLines
from experiment_manager.records import Launch, State
from experiment_manager.results import read_optional
from experiment_manager.states import States

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
        self._stop: int | None = None

    def run(self, ids: Sequence[int]) -> list[Ran]:
        """Every job has ended; what became of them, in the order of `ids`.

        Raises Interrupted after INT, TERM or HUP: the running jobs are told to end, a second signal kills them.
        """
        waiting, running, ran = deque(ids), list[_Running](), dict[int, Ran]()
        with self._signals(running), JobLines(len(ids)).showing() as lines:
            while running or (waiting and self._stop is None):
                while waiting and len(running) < self.n_jobs and self._stop is None:
                    running.append(self._start(waiting.popleft()))
                ended = [task for task in running if task.process.poll() is not None]
                for task in ended:
                    running.remove(task)
                    ran[task.job_id] = self._settle(task, lines)
                if not ended:
                    time.sleep(_POLL_S)
        if self._stop is not None:
            raise Interrupted(self._stop, list(ran.values()))
        return [ran[job_id] for job_id in ids]

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
            reason = kept.get("reason") if attempt.state is not State.LOST else "its supervisor was killed"
            ran = Ran(task.job_id, attempt.number, attempt.state, reason)
        seconds = time.monotonic() - task.started
        lines.ended(ran.job_id, ran.state, self._texts.get(ran.job_id, ""), seconds=seconds, reason=ran.reason)
        return ran

    @contextmanager
    def _signals(self, running: list[_Running]) -> Iterator[None]:
        """Inside, INT, TERM and HUP go to the supervisors instead of ending this process."""

        def pass_on(number: int, _: FrameType | None) -> None:
            self._stop = number
            for task in running:
                if task.process.poll() is None:
                    task.process.send_signal(signal.SIGINT)

        with _handling((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), pass_on):
            yield


@contextmanager
def _handling(numbers: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers; elsewhere its owner decides
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _tail(path: str) -> str | None:
    """The last line of a log; None when it is empty."""
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = file.read().strip().splitlines()
    return lines[-1] if lines else None
