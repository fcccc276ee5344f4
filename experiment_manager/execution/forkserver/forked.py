"""The child of a supervisor, by a fork instead of a start: it has what the supervisor's process has imported.

What a started interpreter would have is put right before the program runs: session, output, directory, environment,
signals, random numbers. The forked process leaves the supervisor's code by `BecomesJob`, so that its interpreter ends
as every interpreter does, with `atexit` and all.
"""

import errno
import importlib
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from experiment_manager.execution import child as spawned
from experiment_manager.execution.child import Child
from experiment_manager.execution.forkserver import randomness
from experiment_manager.store import processes
from experiment_manager.store.files import log_file


class Ready(NamedTuple):
    """What an interpreter is ready to run: the words that a command has to begin with, and where."""

    command: tuple[str, ...]  # the interpreter, its flags
    target: tuple[str, ...]
    cwd: str
    handlers: Mapping[int, Any]  # of signals, as they were when the libraries had been imported

    def fits(self, child: Child) -> bool:
        """Whether a job can be forked; else it has to be started."""
        words = (*self.command, *self.target)
        is_ours = tuple(child.arguments[: len(words)]) == words and child.cwd == self.cwd
        return is_ours and not child.is_fake and not child.has_ranks and child.scheduler is None


class BecomesJob(BaseException):
    """Raised in the forked process: everything up to the first caller is left, which then runs the program."""

    def __init__(self, ready: Ready, command: Sequence[str]) -> None:
        super().__init__(*command)
        words = len(ready.command) + len(ready.target)
        self.command, self.target, self.arguments = command, ready.target, command[words:]


def begin(child: Child, attempt: int, ready: Ready, handles: Sequence[int]) -> int:
    """As `child.start`, by a fork where that can be: in the new process this raises BecomesJob.

    `handles` are what the supervisor has open and the job must not have. Signals wait while the process is made, since
    it begins with our handlers.
    """
    if not ready.fits(child):
        return spawned.start(child, attempt)
    expendable = spawned.expendable()
    log, error_log = child.logs(attempt)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        with log_file(log) as out, log_file(error_log) as err:
            trouble, tell = os.pipe()
            pid = os.fork()
            if not pid:
                try:
                    for handle in (trouble, *handles):
                        os.close(handle)
                    processes.unmark_copy()
                    os.dup2(out, 1)
                    os.dup2(err, 2)
                    _be_fresh(child, attempt, ready)
                    expendable()
                    os.close(tell)
                except BaseException as error:  # nothing else may leave this process: it is a copy of the supervisor
                    os.write(tell, str(getattr(error, "errno", None) or errno.EINVAL).encode())
                    os._exit(1)
                raise BecomesJob(ready, child.arguments)
        os.close(tell)
        _wait_until_begun(pid, trouble)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _be_fresh(child: Child, attempt: int, ready: Ready) -> None:
    """This process is one that has been started for the attempt. Raises OSError."""
    os.setsid()
    os.chdir(child.cwd)
    environment = child.environment(attempt, os.environ)
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    signal.set_wakeup_fd(-1)
    for number, handler in ready.handlers.items():
        with suppress(OSError, ValueError):  # KILL, STOP, and what the C library keeps to itself
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
    randomness.renew()
    importlib.invalidate_caches()


def _wait_until_begun(pid: int, trouble: int) -> None:
    """The forked process is in its own session and hears signals as its program would. Raises OSError."""
    with os.fdopen(trouble, "rb") as file:
        told = file.read()
    if told:
        os.waitpid(pid, 0)
        raise OSError(int(told), os.strerror(int(told)))


def handlers() -> dict[int, Any]:
    """The handlers of all signals that Python knows; what a program in C has set is left out, and stays."""
    found = {number: signal.getsignal(number) for number in signal.valid_signals()}
    found[signal.SIGQUIT] = signal.SIG_DFL if found[signal.SIGQUIT] is signal.SIG_IGN else found[signal.SIGQUIT]
    return {int(number): handler for number, handler in found.items() if handler is not None}
