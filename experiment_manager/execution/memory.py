"""What the kernel says about memory: how much the processes of a job used, and how many of our memory cgroup it has
killed for it. Linux; elsewhere nothing is known."""

import os
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from experiment_manager.scheduler import schedulers

_PEAKS: Final = ("memory.peak", "memory.max_usage_in_bytes")


class _Group(NamedTuple):
    """A memory cgroup that we are in: where it lies, of which version."""

    root: str
    path: str
    version: int


def _groups() -> Iterator[_Group]:
    try:
        with open("/proc/self/cgroup") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            yield _Group("/sys/fs/cgroup/memory", path, 1)
        elif controllers == "":
            yield _Group("/sys/fs/cgroup", path, 2)


def oom_kills() -> int | None:
    """How many processes of our memory cgroup the kernel has killed for memory; None where that cannot be known."""
    most: int | None = None
    for root, path, version in _groups():
        name = "memory.oom_control" if version == 1 else "memory.events"
        while path not in ("/", ""):
            count = _counter(f"{root}{path}/{name}")
            if count is not None:
                most = max(most or 0, count)
            path = os.path.dirname(path)
    return most


def peak_of_step() -> int | None:
    """The most memory, in bytes, that the task around us has used so far: all its processes together, and
    what the kernel kept in memory of the files that they read and wrote, which counts against its limit, too. None
    where it has no memory cgroup of its own, or the kernel does not count it."""
    scheduler = schedulers.current()
    if scheduler is None:
        return None
    for root, path, _ in _groups():
        own = scheduler.cgroup(path)
        for name in _PEAKS if own is not None else ():
            found = _number(f"{root}{own}/{name}")
            if found is not None:
                return found
    return None


def memory_of(pids: Iterable[int]) -> int:
    """The memory, in bytes, that these processes use together now; what they share is counted once."""
    return sum(_proportional(pid) for pid in pids)


def _proportional(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return next((1024 * int(line.split()[1]) for line in file if line.startswith("Pss:")), 0)
    except (OSError, ValueError):  # it has ended, or is not ours
        return 0


def _counter(path: str) -> int | None:
    try:
        with open(path) as file:
            counts = [int(line.split()[1]) for line in file if line.startswith("oom_kill ")]
    except OSError:
        return None
    return counts[0] if counts else None


def _number(path: str) -> int | None:
    try:
        with open(path) as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
