"""Whether a process still lives: who we are, and whether somebody else is gone. Linux, and what is left elsewhere."""

import os
import signal
from collections.abc import Callable, Mapping
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1


def this_process() -> dict[str, Any]:
    """What identifies this process for good: host, boot, pid namespace, pid and its start in clock ticks."""
    pid = os.getpid()
    return {
        "host": os.uname().nodename,
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "namespace": _link("/proc/self/ns/pid"),
        "pid": pid,
        "started_ticks": _start_ticks(pid),
    }


def is_gone(record: Mapping[str, Any]) -> bool | None:
    """True when the process of a record has certainly ended, False when it runs, None when nobody here can know."""
    if record.get("host") != os.uname().nodename:
        return None
    me = this_process()
    if record.get("boot") != me["boot"]:
        return True  # this host has been started anew since
    if record.get("namespace") != me["namespace"]:
        return None
    pid = record.get("pid")
    if not isinstance(pid, int):
        return None
    if me["boot"] is None:  # no /proc: a pid that is used again looks alive, which is the harmless mistake
        return not is_alive(pid)
    return _start_ticks(pid) != record.get("started_ticks")


def dying_with_us() -> Callable[[], None]:
    """What to run in a child before its program (`preexec_fn`): it is killed when this process dies, on Linux."""
    prctl = _prctl()
    parent = os.getpid()

    def prepare_child() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
            if os.getppid() != parent:
                os._exit(1)

    return prepare_child


def _prctl() -> Callable[[int, int], int] | None:
    """The system call of that name; None where there is none.

    Every task waits for what is imported here, and `ctypes` is four modules around the one that does it.
    """
    try:
        from _ctypes import call_function, dlopen, dlsym

        address = dlsym(dlopen(None, 0), "prctl")  # type: ignore[arg-type]  # None: this program
    except ImportError:  # another Python than CPython
        import ctypes

        found: Callable[[int, int], int] | None = getattr(ctypes.CDLL(None), "prctl", None)
        return found
    except OSError:
        return None
    return lambda option, value: call_function(address, (option, value))


def _start_ticks(pid: int) -> int | None:
    """When a process started; None when there is none, or only a zombie that waits to be reaped."""
    text = _read(f"/proc/{pid}/stat")
    if text is None:
        return None
    fields = text.rpartition(")")[2].split()  # the name in brackets may hold anything
    return None if fields[0] in "ZX" else int(fields[19])


def is_alive(pid: int) -> bool:
    """Whether a process of that number runs here, whoever it is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _read(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return None


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None
