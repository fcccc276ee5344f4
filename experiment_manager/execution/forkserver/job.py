"""A job that is forked instead of started: a copy of the server's process that becomes the program.

What a started interpreter would have is put right before the program runs: session, output, directory, environment,
signals, random numbers. The forked process leaves the supervisor's code by `BecomesJob`, so that its interpreter ends
as every interpreter does, with `atexit` and all; the program then runs as `__main__`, as a fresh `python train.py`
would run it.
"""

import atexit
import builtins
import errno
import gc
import importlib
import io
import os
import pkgutil
import runpy
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any, Final, NamedTuple

from experiment_manager.execution import child as spawned
from experiment_manager.execution.child import BecomesJob, Child
from experiment_manager.store import processes
from experiment_manager.store.files import log_file
from experiment_manager.text import tell

_before: Final[list[ModuleType]] = []  # what was `__main__` first: its code may run to the end
_shared: Final[set[str]] = set()  # the names of modules that were imported before jobs are forked
_left: Final[list[ModuleType]] = []


class Ready(NamedTuple):
    """What an interpreter is ready to run: the words that a command has to begin with, and where."""

    command: tuple[str, ...]  # the interpreter, its flags
    target: tuple[str, ...]
    cwd: str
    handlers: Mapping[int, Any]  # of signals, as they were when the libraries had been imported
    generators: Sequence[Any]  # of random numbers, that libraries have made without a seed
    foresee: Callable[[Sequence[str]], None] | None = None  # what a job with such arguments does first, is done

    def arguments_of(self, child: Child) -> list[str]:
        """The arguments of its program."""
        return child.arguments[len(self.command) + len(self.target) :]

    def why_not(self, child: Child) -> str | None:
        """Why a job cannot be forked, and has to be started; None: it can be."""
        words = (*self.command, *self.target)
        if child.is_fake:
            return "it is a dry pass"
        if child.has_ranks:
            return "the scheduler starts its ranks"
        if tuple(child.arguments[: len(words)]) != words:
            return f"its command does not begin with {' '.join(words)}"
        return None if child.cwd == self.cwd else f"it is started in {child.cwd}"


def begin(child: Child, attempt: int, ready: Ready, handles: Sequence[int]) -> int:
    """As `child.start`, by a fork where that can be: in the new process this raises BecomesJob.

    `handles` are what the supervisor has open and the job must not have. Signals wait while the process is made, since
    it begins with our handlers.
    """
    if ready.why_not(child) is not None:
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
                    os.dup2(out if child.is_one_log else err, 2)
                    _be_fresh(child, attempt, ready)
                    expendable()
                    os.close(tell)
                except BaseException as error:  # nothing else may leave this process: it is a copy of the supervisor
                    os.write(tell, str(getattr(error, "errno", None) or errno.EINVAL).encode())
                    os._exit(1)
                raise BecomesJob(child.arguments, ready.target, ready.arguments_of(child))
        os.close(tell)
        spawned.wait_until_begun(pid, trouble)
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
    _draw_anew(ready.generators)
    if (tempfile := sys.modules.get("tempfile")) is not None:
        vars(tempfile)["tempdir"] = None  # where that was for us; a job asks for TMPDIR itself
    importlib.invalidate_caches()


def _draw_anew(generators: Sequence[Any]) -> None:
    """Random numbers are those of a process of its own; `random` has been seeded anew by Python itself."""
    for generator in generators:
        generator.state = type(generator)().state
    numpy, torch = sys.modules.get("numpy.random"), sys.modules.get("torch")
    if numpy is not None:
        numpy.seed()
    if torch is not None:
        torch.default_generator.seed()


def handlers() -> dict[int, Any]:
    """The handlers of all signals that Python knows; what a program in C has set is left out, and stays."""
    found = {number: signal.getsignal(number) for number in signal.valid_signals()}
    found[signal.SIGQUIT] = signal.SIG_DFL if found[signal.SIGQUIT] is signal.SIG_IGN else found[signal.SIGQUIT]
    return {int(number): handler for number, handler in found.items() if handler is not None}


def is_plain(target: Sequence[str], cwd: str) -> bool:
    """Whether a copy can run a program: a module, or a file with source, as `-m pkg.train`, `train.py`; no archive."""
    if not target or target[0] == "-m":
        return len(target) == 2
    path = os.path.join(cwd, target[0])
    return os.path.isfile(path) and not path.endswith(".pyc") and pkgutil.get_importer(path) is None


def first_on_path(target: Sequence[str]) -> str:
    """What Python puts in front of `sys.path` for a program: the folder of the file, or where we are.

    >>> first_on_path(["/there/train.py"])
    '/there'
    """
    return os.getcwd() if target[0] == "-m" else os.path.dirname(os.path.realpath(target[0]))


def become(job: BecomesJob) -> None:
    """The program has run. Leave the interpreter by whatever this raises: its exit status, and what is printed of it,
    are then those of a fresh interpreter."""
    sys.orig_argv[:], target, arguments = job.command, job.target, job.arguments
    _before.append(sys.modules["__main__"])
    module = sys.modules["__main__"] = ModuleType("__main__")
    module.__dict__.update(__builtins__=builtins, __annotations__={})
    try:
        if target[0] == "-m":
            sys.argv[:] = ["-m", *arguments]
            runpy._run_module_as_main(target[1])  # type: ignore[attr-defined]  # what `python -m` itself calls
        else:
            sys.argv[:] = [target[0], *arguments]
            _run_file(target[0], vars(module))
    except SystemExit:
        raise
    except BaseException as error:
        shown = error.__traceback__ and error.__traceback__.tb_next  # without the frames of this module
        while shown is not None and shown.tb_frame.f_code.co_filename == __file__:
            shown = shown.tb_next
        sys.excepthook(type(error), error.with_traceback(shown), shown)
        sys.excepthook = _say_nothing  # on its way out the error gathers frames that are none of the program's
        raise


def share_modules() -> None:
    """What is imported by now is what all jobs have in common: see `_leave_shared`."""
    _shared.update(sys.modules.keys() - {"__main__", "builtins", "sys"})


def leave_shared_last() -> None:
    """To be called before anything is imported for the jobs: what is to be done at the end of a program is done in
    reverse order."""
    atexit.register(_leave_shared)


def _leave_shared() -> None:
    """The modules that were imported before the fork are no part of what the interpreter takes apart: to free all that
    libraries have made writes to, and so copies, most of the memory, a third of the time of a short job (measured).

    That they go is heard by nobody: where there is anything that Python would call or flush, everything is done as
    in any other interpreter. The program's own modules are taken apart in any case.
    """
    if not _before or threading.active_count() > 1:  # a thread may import until the very end
        return
    if not any(map(_hears_its_end, gc.get_objects())):  # those of before the fork are frozen
        _left.extend(sys.modules.pop(name) for name in _shared & sys.modules.keys())


def _hears_its_end(item: object) -> bool:
    """Whether Python calls something of an object when it goes: `__del__`, the rest of a generator, a file's flush."""
    if not hasattr(type(item), "__del__"):
        return False
    if isinstance(item, io.IOBase):
        return not item.closed
    return getattr(item, "gi_frame", item) is not None


def _run_file(name: str, namespace: dict[str, Any]) -> None:
    path = name if os.path.isabs(name) else os.path.join(os.getcwd(), name.removeprefix("./"))
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        tell(f"{sys.executable}: can't open file {path!r}: [Errno {error.errno}] {error.strerror}")
        raise SystemExit(2) from None
    loader = SourceFileLoader("__main__", path)
    namespace.update(__file__=path, __loader__=loader, __spec__=None, __package__=None, __cached__=None)
    exec(compile(source, path, "exec", dont_inherit=True), namespace)


def _say_nothing(*_: object) -> None:
    """An `excepthook` for what has been told already."""
