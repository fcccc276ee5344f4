"""Whether a process still lives, and signals to those that do. Linux, and what is left elsewhere.

Records of processes lie in folders that others may write to. A record is believed about an end, and never alone when a
signal is to be sent: see `tell`.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache

from experiment_manager.typing_names import Any, Final, NamedTuple, TypeGuard

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_MOST_PID: Final = 2**31 - 1
_SKEW_S: Final = 300.0
"""By how much the clocks of two machines may differ: another one of our name must not pass for this one before it was
started anew. Of a file, one clock tells: see `writer_is_gone`."""

IDENTITY: Final = ("host", "boot", "namespace", "pid", "started_ticks")
"""The fields of `this_process`: no two processes have all of it in common."""

JOB_VARIABLE: Final = "EXPERIMENT_MANAGER_JOB"
ATTEMPT_VARIABLE: Final = "EXPERIMENT_MANAGER_ATTEMPT"
FOLDER_VARIABLE: Final = "EXPERIMENT_MANAGER_FOLDER"
"""The environment tells every process of an attempt which one it is, whoever has started it."""

_marks: dict[str, int] = {}


def this_process() -> dict[str, Any]:
    """The identity of this process, for good: host, boot, pid namespace, pid and its start in clock ticks; whose it is;
    and a time at which it ran."""
    return {"host": os.uname().nodename, **_while_it_runs(os.getpid()), "uid": os.geteuid()}


@cache
def _while_it_runs(pid: int) -> Mapping[str, Any]:
    """What stays as it is as long as this process runs, read once: a worker asks for it before each of its jobs."""
    return {
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "namespace": _link("/proc/self/ns/pid"),
        "pid": pid,
        "started_ticks": start_ticks(pid),
        "start": time.time(),
    }


os.register_at_fork(after_in_child=_while_it_runs.cache_clear)  # a pid is used again, by a copy's copy, too


def named(record: Mapping[str, Any]) -> str:
    """The process of a record, in words, as far as it is told.

    >>> named({"pid": 12, "host": "node7"}), named({"host": "node7"}), named({})
    ('process 12 on node7', 'a process on node7', 'a process that nobody names')
    """
    pid, host = record.get("pid"), record.get("host")
    if host is None:
        return "a process that nobody names" if pid is None else f"process {pid} on a machine that nobody names"
    return f"{'a process' if pid is None else f'process {pid}'} on {host}"


def is_gone(record: Mapping[str, Any]) -> bool | None:
    """True when the process of a record has certainly ended, False when it runs, None when nobody here can know. Where
    the record lies in a file of that process, `writer_is_gone` knows more."""
    if record.get("host") != os.uname().nodename:
        return None
    me, boot = this_process(), record.get("boot")
    if is_of_another_boot(record):  # or of another machine of that name
        return True if ran_before_boot(record.get("start")) else None
    if boot != me["boot"]:  # not shown to one of us, as in a sandbox (ProcSubset=pid of systemd)
        return None
    if record.get("namespace") != me["namespace"]:  # another container
        return None
    pid, ticks = record.get("pid"), record.get("started_ticks")
    if not _is_pid(pid):
        return None
    if boot is None:  # no /proc: a pid that is used again looks alive, which is the harmless mistake
        return not is_alive(pid)
    if not isinstance(ticks, int):
        return None
    return _has_ended(pid, ticks, was_ours=record.get("uid") == os.geteuid() != 0)  # root of a container is no one user


def ran_before_boot(start: object) -> bool:
    """Whether that time lies before this machine was started, however the clocks of machines differ."""
    if isinstance(start, bool) or not isinstance(start, int | float):
        return False
    return start < time.time() - uptime_s() - _SKEW_S


def is_of_another_boot(record: Mapping[str, Any]) -> bool:
    """Whether a record tells of a process under another boot of this host, or on another machine of its name."""
    boots = record.get("boot"), this_process()["boot"]
    return record.get("host") == os.uname().nodename and None not in boots and boots[0] != boots[1]


def uptime_s() -> float:
    """How long ago this machine was started; longer than anything where the system does not tell."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else math.inf


def _has_ended(pid: int, ticks: int, *, was_ours: bool) -> bool | None:
    """Whether the process of that number that started then has ended; None where /proc does not show what has the
    number now: that of another user, under `hidepid`, may be it, unless the process `was_ours`."""
    seen = _seen(pid)
    if seen is not None:
        return seen.is_zombie or seen.started_ticks != ticks
    return None if _has_number(pid) and not (was_ours and _is_of_another(pid)) else True


def mark(name: str) -> None:
    """This process bears a mark that nobody but its user can give it, and that anybody may ask for: see `tell`.

    An open file without a place, which ends with the process. Where the system has none there is no mark.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            _marks[name] = os.memfd_create(name)


def unmark(name: str) -> None:
    """This process does not bear the mark any more, if it did."""
    if name in _marks:
        os.close(_marks.pop(name))


def unmark_copy() -> None:
    """This process, a copy of another one, has none of its marks."""
    for name in tuple(_marks):
        unmark(name)


def tell(record: Mapping[str, Any], number: int, *, mark: str | None = None) -> bool:
    """Whether the process of a record got a signal: only one that certainly runs, and that bears the mark, if any.

    Whoever signals a process that somebody's record names comes through here. Nothing is sent to the whole of what a
    user runs (-1), to a group (0 and below), or to the first process of a machine.
    """
    pid = record.get("pid")
    if not _is_pid(pid) or pid == 1:
        return False
    handle = _handle(pid)
    try:
        if is_gone(record) is not False or not (mark is None or _bears(pid, mark)):
            return False
        if handle is None or sys.platform != "linux":
            os.kill(pid, number)
        else:
            signal.pidfd_send_signal(handle, number)
    except OSError:  # it has ended, or is another user's
        return False
    finally:
        if handle is not None:
            os.close(handle)
    return True


def _bears(pid: int, name: str) -> bool:
    """Whether a process has marked itself; false where that cannot be seen. Raises OSError."""
    handles = f"/proc/{pid}/fd"
    return any(_link(f"{handles}/{handle}") == f"/memfd:{name} (deleted)" for handle in os.listdir(handles))


def _handle(pid: int) -> int | None:
    """A handle of a process, and of no later one of that number; None where the system has no such thing."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            return os.pidfd_open(pid)
    return None


def _is_pid(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST_PID


def end_left(folder: str, job_id: int, attempt: int) -> int:
    """Nothing of an attempt runs on this host any more, as far as that is ours to end; returns how many processes did.

    Its supervisor was killed. The job ended with that, and what the job had started may not have: a shell's program, or
    one that was sent to the background.
    """
    told = {JOB_VARIABLE: str(job_id).encode(), ATTEMPT_VARIABLE: str(attempt).encode()}

    def is_left(pid: int) -> bool:
        found = environment(pid)
        if pid == os.getpid() or any(found.get(name.encode()) != value for name, value in told.items()):
            return False
        try:
            return os.path.samefile(found.get(FOLDER_VARIABLE.encode(), b""), folder)
        except (OSError, ValueError):
            return False

    left = running(is_left)
    for pid in left:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    return len(left)


def running(is_meant: Callable[[int], bool]) -> list[int]:
    """The processes on this host that are meant. Read from /proc; empty without one."""
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
    return [pid for pid in pids if is_meant(pid)]


def adopt_orphans() -> None:
    """What children of ours start becomes our child when its parent ends, and not one of the machine's first process;
    on Linux."""
    prctl = _in_c("prctl")
    if prctl is not None and sys.platform == "linux":
        prctl(_PR_SET_CHILD_SUBREAPER, 1)


def children(pid: int) -> list[int]:
    """The children of a process; empty where the system does not tell them."""
    found: list[int] = []
    with suppress(OSError, ValueError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += map(int, (_read(f"/proc/{pid}/task/{thread}/children") or "").split())
    return found


def descendants(pid: int) -> list[int]:
    """Its children, and theirs, and so on."""
    found = children(pid)
    for child in found:  # which grows
        found += children(child)
    return found


def ancestors(pid: int) -> list[int]:
    """Its parent, and the parent of that, and so on, as far as they are shown to us."""
    found: list[int] = []
    while text := _read(f"/proc/{pid}/stat"):
        pid = int(text.rpartition(")")[2].split()[1])
        if not pid:
            break
        found.append(pid)
    return found


def words_of(pid: int) -> str:
    """The command line of a process, or what it says in its place; empty where that cannot be read."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def environment(pid: int) -> dict[bytes, bytes]:
    """What a process was started with; empty when that cannot be read, or was cleared."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            items = file.read().split(b"\0")
    except OSError:
        return {}
    return {name: value for name, _, value in (item.partition(b"=") for item in items) if name}


def own_groups() -> str:
    """The cgroups that this process is in, as the kernel lists them; empty where it does not."""
    return _read("/proc/self/cgroup") or ""


def name_of(pid: int) -> str:
    """What the kernel calls a process: the first letters of its program, or what that has said; `?` where it does not
    tell."""
    return _read(f"/proc/{pid}/comm") or "?"


def dying_with_us(number: int = signal.SIGKILL) -> Callable[[], None]:
    """A function for `preexec_fn`, by which a child is killed, or gets that signal, when this process dies, on
    Linux."""
    prctl = _in_c("prctl")
    parent = os.getpid()

    def prepare_child() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, int(number))
            if os.getppid() != parent:
                os._exit(1)

    return prepare_child


def fork_to_execute() -> int:
    """As `os.fork`, for a copy that does nothing but to execute a program.

    What Python does in a copy that goes on (it seeds `random`, looks after threads) writes to much of its memory, which
    then has to be copied: 1.5 of 4.8 ms of processor time (measured). Where there are threads, one of them could have
    what the copy needs, so Python is asked.
    """
    fork = _in_c("fork")
    threading = sys.modules.get("threading")
    is_alone = threading is None or threading.active_count() == 1
    pid = -1 if fork is None or not is_alone else fork()
    return os.fork() if pid == -1 else pid  # which says why it cannot


@cache
def _in_c(name: str) -> Callable[..., int] | None:
    """The function of the C library of that name; None where there is none.

    Every task waits for what is imported here, and `ctypes` is four modules around the one that does it.
    """
    try:
        from _ctypes import call_function, dlopen, dlsym

        address = dlsym(dlopen(None, 0), name)  # type: ignore[arg-type]  # None: this program
    except ImportError:  # another Python than CPython
        import ctypes

        found: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
        return found
    except OSError:
        return None
    return lambda *arguments: call_function(address, arguments)


class _Seen(NamedTuple):
    """What /proc shows of a process."""

    is_zombie: bool  # it has ended, and waits to be reaped
    started_ticks: int


def _seen(pid: int) -> _Seen | None:
    """What has that number, as far as it is shown to us; None also of what is there and is hidden from us."""
    text = _read(f"/proc/{pid}/stat")
    if not text:
        return None
    fields = text.rpartition(")")[2].split()  # the name in brackets may hold anything
    return _Seen(fields[0] in "ZX", int(fields[19]))


def start_ticks(pid: int) -> int | None:
    """When a process started; None when there is none that we see, or only a zombie that waits to be reaped."""
    seen = _seen(pid)
    return None if seen is None or seen.is_zombie else seen.started_ticks


def is_alive(pid: int) -> bool:
    """Whether a process of that number runs here, whoever it is; a zombie that waits to be reaped does not."""
    seen = _seen(pid)
    return _has_number(pid) if seen is None else not seen.is_zombie


def _has_number(pid: int) -> bool:
    """Whether anything has that number, also what /proc hides: the kernel tells it for a signal that is none."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _is_of_another(pid: int) -> bool:
    """Whether what has that number is a process of another user, which we may not signal."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        pass
    return False


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
