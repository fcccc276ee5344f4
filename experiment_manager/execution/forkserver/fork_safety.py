"""Whether this process may be forked: what its libraries have begun, and what a copy would not have or must not share.

A copy has none of the threads, but the locks that they held; a GPU that was opened before cannot be used after. Linux.
"""

import os
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

from experiment_manager.execution import current_job
from experiment_manager.execution.forkserver import randomness
from experiment_manager.execution.forkserver.learning import is_installed
from experiment_manager.execution.forkserver.randomness import Randomness

_GPUS: Final = ("/dev/nvidia", "/dev/kfd", "/dev/dri")
_OURS: Final = ("__main__", "experiment_manager", "hydra_plugins")


class Arguments(list[str]):
    """The command line while modules are imported that all jobs will share: a job has arguments of its own, and a
    module of the user's that reads them now would know none of them. What libraries look for there does not count."""

    reader: str | None = None
    """The module that has read more than the name of the program."""

    def __getitem__(self, place: Any) -> Any:
        if place != 0:
            self._note()
        return super().__getitem__(place)

    def __iter__(self) -> Iterator[str]:
        self._note()
        return super().__iter__()

    def __len__(self) -> int:
        self._note()
        return super().__len__()

    def __contains__(self, item: object) -> bool:
        self._note()
        return super().__contains__(item)

    def _note(self) -> None:
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and _module_of(frame).partition(".")[0] in sys.stdlib_module_names:
            frame = frame.f_back
        name = "" if frame is None else _module_of(frame)
        if name and name.partition(".")[0] not in _OURS and not is_installed(sys.modules.get(name)):
            self.reader = self.reader or name


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__") or "")


def trouble(before: Randomness, arguments: Arguments | None = None) -> str | None:
    """Why jobs that begin as copies of this process would differ from jobs that are started; None when they would not.

    `before` are the random numbers before the program's modules were imported; `arguments` was `sys.argv` meanwhile.
    """
    if arguments is not None and arguments.reader is not None:
        return f"{arguments.reader} has read the arguments of the command line, which each job has of its own"
    if not os.path.isdir("/proc/self/task"):
        return "this system does not tell what its threads are"
    if threading.active_count() > 1:
        names = sorted(thread.name for thread in threading.enumerate() if thread is not threading.main_thread())
        return f"it has started a thread ({', '.join(names)})"
    if _has_children():
        return "it has started a process"
    if _has_opened_a_gpu():
        return "it has opened a GPU"
    if current_job.was_asked():
        return "it has asked for current_job(), which another process must not answer"
    told = randomness.trouble(before)
    if told is None and _n_threads() > 1:
        _fork_once()  # OpenBLAS ends its threads before a fork, and has them again when they are needed
        told = f"it has started {_n_threads() - 1} threads of a library" if _n_threads() > 1 else None
    return told


def _n_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _fork_once() -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)


def _has_children() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def _has_opened_a_gpu() -> bool:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return True
    return any(_target(handle).startswith(_GPUS) for handle in os.listdir("/proc/self/fd"))


def _target(handle: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{handle}")
    except OSError:
        return ""
