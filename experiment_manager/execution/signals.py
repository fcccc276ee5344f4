"""Signals: heard without losing one, and passed on only to processes that expect them. Knows no job and no SLURM."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from experiment_manager.typing_names import Any, Final

WARNINGS: Final = frozenset({signal.SIGUSR1, signal.SIGUSR2})
"""The end is near: the time limit, or a preemption with time to prepare for it."""

STOPS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""End now."""


_HEARD: Final = WARNINGS | STOPS | {signal.SIGCHLD}


class Heard:
    """Every signal we care about ends up in a pipe, so that waiting for one and for time is one `select`.

    Signals that came before this was made are lost, unless whoever started us has blocked them (see `block`).
    """

    def __init__(self) -> None:
        self._read, write = self.handles = os.pipe()
        """What a copy of this process has to close."""
        self.was_stopped = self.was_warned = False
        """Whether a signal of STOPS, and of WARNINGS, has been heard so far."""
        self._kept = b""  # what `is_quiet` has seen, and `wait` has not returned
        os.set_blocking(self._read, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in _HEARD:
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays nohup
                signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # a shell starts background children with QUIT ignored
        unblock()

    def wait(self, seconds: float) -> list[signal.Signals]:
        """The signals that came within that time, SIGCHLD left out; returns as soon as one came."""
        if not self._kept and not select.select([self._read], [], [], max(0.0, seconds))[0]:
            return []
        came, self._kept = self._kept + self._come(), b""
        heard = [signal.Signals(number) for number in came if number != signal.SIGCHLD]
        self.was_stopped = self.was_stopped or not STOPS.isdisjoint(heard)
        self.was_warned = self.was_warned or not WARNINGS.isdisjoint(heard)
        return heard

    def is_quiet(self) -> bool:
        """Whether no signal has come since `wait` returned last, but for SIGCHLD; the next `wait` tells of them all."""
        self._kept += self._come()
        return not self._kept.strip(bytes([signal.SIGCHLD]))

    def _come(self) -> bytes:
        """The numbers of the signals that have come since this was asked."""
        try:
            return os.read(self._read, 4096)
        except BlockingIOError:
            return b""

    def wait_to_read(self, handle: int) -> bool:
        """Something, or its end, can be read there; false where a signal of STOPS or WARNINGS was heard before that."""
        while not (self.was_stopped or self.was_warned):
            if not self._kept and handle in select.select([handle, self._read], [], [])[0]:
                return True
            self.wait(0)
        return False


def block() -> None:
    """Signals wait until `unblock`, also across `exec`: none is lost while a program starts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, WARNINGS | STOPS)


def unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WARNINGS | STOPS)


@contextmanager
def waiting() -> Iterator[Callable[[], None]]:
    """Inside, signals wait. Yields a function for a copy of this process that is about to execute a program: what it
    hears we do not, and the program ignores no more than we did when we were started."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)

    def hear_apart() -> None:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        yield hear_apart
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def uninterruptible() -> Iterator[Callable[[float], None]]:
    """Inside, Ctrl-C waits, and so do warnings that have a handler, as submitit's, which leaves from wherever we are:
    for what takes a moment and must not be half done. A mask would not do: where there are more threads, as in a
    notebook, another one hears the signal, and this one is interrupted all the same.

    Yields what waits for seconds before the rest is done, and is interrupted, also by a Ctrl-C from before."""
    import threading  # which supervisors do without

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *WARNINGS)}
    handlers: dict[int, Any] = {number: handler for number, handler in before.items() if callable(handler)}
    if before[signal.SIGINT] == signal.SIG_DFL:
        handlers[signal.SIGINT] = signal.SIG_DFL
    if threading.current_thread() is not threading.main_thread() or not handlers:
        yield time.sleep  # nothing interrupts it
        return
    heard: dict[int, FrameType | None] = {}

    def keep(number: int, frame: FrameType | None) -> None:
        heard.setdefault(number, frame)

    def hold() -> None:
        for number in handlers:
            signal.signal(number, keep)

    def let_in() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        came = dict(heard)
        heard.clear()
        for number, frame in came.items():
            if callable(handlers[number]):
                handlers[number](number, frame)
            else:
                os.kill(os.getpid(), number)

    def wait(seconds: float) -> None:
        try:
            let_in()
            time.sleep(seconds)
        finally:
            hold()

    hold()
    try:
        yield wait
    finally:
        let_in()


def hear_interrupts() -> None:
    """Runs in a supervisor's process before it starts: a shell's `&` has INT ignored, by which we tell it to end."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def name_of(number: int) -> str:
    """What people call a signal; those between SIGRTMIN and SIGRTMAX have numbers alone.

    >>> name_of(11), name_of(35)
    ('SIGSEGV', 'signal 35')
    """
    return signal.Signals(number).name if number in tuple(signal.Signals) else f"signal {number}"


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler of its own for a signal; without one a warning would end it."""
    try:
        with open(f"/proc/{pid}/status") as file:
            masks = [int(line.split()[1], 16) for line in file if line.startswith("SigCgt:")]
    except (OSError, ValueError):
        return False
    return bool(masks and masks[0] >> (number - 1) & 1)


def pass_on(pid: int, number: int) -> None:
    """A process that we have found by itself got the signal, unless it has ended."""
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def in_group(pid: int, group: int) -> bool:
    """Whether a process belongs to a process group, and gets the signals of that."""
    try:
        return os.getpgid(pid) == group
    except OSError:
        return False


def in_session(pid: int, session: int) -> bool:
    """Whether a process belongs to a session."""
    return session_of(pid) == session


def session_of(pid: int) -> int | None:
    """The session of a process; None where that has ended."""
    try:
        return os.getsid(pid)
    except OSError:
        return None
