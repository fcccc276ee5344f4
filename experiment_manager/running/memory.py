"""What the kernel says about memory: how many processes of our memory cgroup it has killed for it. Linux."""

import os


def oom_kills() -> int | None:
    """How many processes of our memory cgroup the kernel has killed for memory; None where that cannot be known."""
    most: int | None = None
    try:
        with open("/proc/self/cgroup") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            root, name = "/sys/fs/cgroup/memory", "memory.oom_control"
        elif controllers == "":
            root, name = "/sys/fs/cgroup", "memory.events"
        else:
            continue
        while path not in ("/", ""):
            count = _counter(f"{root}{path}/{name}")
            if count is not None:
                most = max(most or 0, count)
            path = os.path.dirname(path)
    return most


def _counter(path: str) -> int | None:
    try:
        with open(path) as file:
            counts = [int(line.split()[1]) for line in file if line.startswith("oom_kill ")]
    except OSError:
        return None
    return counts[0] if counts else None
