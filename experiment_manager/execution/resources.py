"""What a job has of its machine: its share of the GPUs, and the memory that it used.

GPUs are dealt out among the jobs that run at once: variables hide from each what is not its share. Which ones there are
is what the environment says, else what the drivers show in /dev and /sys. Nothing of CUDA or ROCm is called: that would
open the GPUs. How much memory the processes of a job used, and how many of our memory cgroup the kernel has killed for
it, the kernel tells. Linux; elsewhere nothing is known of memory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile

from experiment_manager.errors import ExperimentManagerError
from experiment_manager.scheduler import schedulers
from experiment_manager.typing_names import Final, NamedTuple

GPUS_PER_JOB: Final = "gpus_per_job"

_INNER: Final = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
_OUTER: Final = "ROCR_VISIBLE_DEVICES"
"""HIP numbers what this one leaves, so it is narrowed only where no inner one is set."""

VARIABLES: Final = (*_INNER, _OUTER)

_ENTRY: Final = r"\d+|(GPU|MIG)-[\w./-]+"
_PEAKS: Final = ("memory.peak", "memory.max_usage_in_bytes")


class Devices(NamedTuple):
    """The GPUs that programs here can see: by variable, how each of them calls the GPU at a place."""

    names: Mapping[str, Sequence[str]]

    @property
    def n_gpus(self) -> int:
        """How many there are."""
        return min(map(len, self.names.values()), default=0)

    def environment(self, places: Sequence[int]) -> dict[str, str]:
        """The variables with which a program sees the GPUs at these places alone.

        >>> Devices({"CUDA_VISIBLE_DEVICES": ["0", "3", "5"]}).environment([1, 2])
        {'CUDA_VISIBLE_DEVICES': '3,5'}
        """
        return {name: ",".join(entries[place] for place in places) for name, entries in self.names.items()}


def visible_gpus(environ: Mapping[str, str], root: str = "/") -> Devices:
    """The GPUs that a program with this environment sees; `root` is where the machine's files are looked for.

    Inside of a scheduler's task without a variable nothing was given to it, whatever the machine has.
    """
    names = [name for name in _INNER if name in environ]
    if not names and _OUTER in environ:
        names = [_OUTER]
    if names:
        return Devices({name: entries(environ[name]) for name in names})
    if schedulers.current_task(environ) is not None:
        return Devices({})
    return _of_machine(root)


def entries(text: str) -> list[str]:
    """What a variable such as CUDA_VISIBLE_DEVICES shows: its entries up to the first that is none, as CUDA reads it.

    >>> entries("0,GPU-8932f937, 2,-1,3"), entries(""), entries("1,1")
    (['0', 'GPU-8932f937', '2'], [], ['1'])
    """
    found: list[str] = []
    for entry in map(str.strip, text.split(",")):
        if not re.fullmatch(_ENTRY, entry, re.ASCII) or entry in found:
            break
        found.append(entry)
    return found


def check_gpus(share: float | None, devices: Devices, *, where: str) -> None:
    """Raise ExperimentManagerError unless a job can have such a share, with the option's full name from `where`."""
    if share is None or share == 0:
        return
    option = f"{where}{GPUS_PER_JOB}={share:g}"
    if isinstance(share, bool) or not 0 < share < float("inf") or (share > 1 and share != int(share)):
        raise ExperimentManagerError(
            f"{option} is no share of a machine's GPUs; use 1, 2, ..., a fraction such as 0.5, or 0 to leave every job "
            "all of them"
        )
    if share > devices.n_gpus:
        raise ExperimentManagerError(
            f"{option}: {devices.n_gpus or 'no'} GPU{'s are' if devices.n_gpus > 1 else ' is'} visible here "
            f"({_why(devices)}); use a smaller share, or leave the option out"
        )


class GpuDealer:
    """Who has which GPUs. Without a share of their own, `at_once` jobs divide them: whole ones where there are enough,
    and else the jobs are spread over them; that never makes fewer jobs run. A share that was asked for is kept to."""

    def __init__(self, devices: Devices, share: float | None, at_once: int) -> None:
        self._devices = devices
        self._loads = [0] * (0 if share == 0 else devices.n_gpus)
        equal = len(self._loads) / max(1, at_once)
        self._width = max(1, int(equal if share is None else share))
        self._most: float = 1
        if share is None and equal < 1:
            self._most = float("inf")
        elif share and share < 1:
            self._most = int(1 / share + 1e-9)
        self._at_once = at_once

    def deal(self) -> tuple[int, ...] | None:
        """The places of one more job, the least used first; () where there is nothing to deal, None: none is free."""
        if not self._loads:
            return ()
        places = sorted(range(len(self._loads)), key=self._loads.__getitem__)[: self._width]
        if self._loads[places[-1]] >= self._most:
            return None
        for place in places:
            self._loads[place] += 1
        return tuple(sorted(places))

    def take_back(self, places: Sequence[int]) -> None:
        """A job that had these has ended."""
        for place in places:
            self._loads[place] -= 1

    def environment(self, places: Sequence[int]) -> dict[str, str]:
        """What a job is told of its places; nothing where there was nothing to deal."""
        return self._devices.environment(places) if places else {}

    @property
    def words(self) -> str | None:
        """What is dealt, for people; None: nothing is."""
        count = len(self._loads)
        if not count or (self._at_once == 1 and self._width == count):
            return None
        each = f"{self._width} for each job"
        if self._most != 1:
            most = min(self._most, -(-self._at_once // count))
            each = f"{'up to ' if count > 1 else ''}{most:g} jobs on {'each' if count > 1 else 'it'}"
        return f"{count} GPU{'s' if count > 1 else ''}: {each}"


def may_have_gpus(environ: Mapping[str, str]) -> bool:
    """Whether it is worth asking how busy GPUs are: NVIDIA's driver is here, or somebody has dealt out its GPUs."""
    return bool(environ.get("CUDA_VISIBLE_DEVICES")) or os.path.exists("/dev/nvidiactl")


def gpus_of(environ: Mapping[str, str]) -> dict[str, str]:
    """What a process is told of its GPUs, for a record; nothing where it is told nothing.

    >>> gpus_of({"CUDA_VISIBLE_DEVICES": "0,1", "LANG": "C"})
    {'gpus': 'CUDA_VISIBLE_DEVICES=0,1'}
    """
    visible_now = " ".join(f"{name}={environ[name]}" for name in VARIABLES if name in environ)
    return {"gpus": visible_now} if visible_now else {}


class _Group(NamedTuple):
    """A memory cgroup that we are in: where it lies, of which version."""

    root: str
    path: str
    version: int


def oom_kills(root: str = "/") -> int | None:
    """How many processes of the group of our task, or of our own group outside of tasks, the kernel has killed for
    memory; None where that cannot be known. `root` is where the machine's files are looked for.

    Groups above are those of others, too: version 2 counts the whole subtree of a group in it, version 1 what lies in
    the group itself.
    """
    counts: list[int] = []
    for base, path, version in _groups(root):
        name = "memory.oom_control" if version == 1 else "memory.events"
        own = _group_of_task(path) or path
        while path not in ("/", "") and path.startswith(own):
            count = _counter(f"{base}{path}/{name}")
            if count is not None:
                counts.append(count)
            path = os.path.dirname(path)
    return sum(counts) if counts else None


def peak_of_step() -> int | None:
    """The most memory, in bytes, that the task around us has used so far: all its processes together, and
    what the kernel kept in memory of the files that they read and wrote, which counts against its limit, too. None
    where it has no memory cgroup of its own, or the kernel does not count it."""
    for root, path, _ in _groups("/"):
        own = _group_of_task(path)
        for name in _PEAKS if own is not None else ():
            found = _number(f"{root}{own}/{name}")
            if found is not None:
                return found
    return None


def memory_of(pids: Iterable[int], goes_on: Callable[[], bool] = lambda: True) -> int:
    """The memory, in bytes, that these processes use together now; what they share is counted once.

    The kernel walks all their pages for that, 18 ms for a gigabyte of small ones (measured): once `goes_on` is false no
    other process is looked at, and there may be more.
    """
    return sum(_proportional(pid) for pid in takewhile(lambda _: goes_on(), pids))


def _of_machine(root: str) -> Devices:
    """What the drivers of NVIDIA, else of AMD, say that there is."""
    n_nvidia = sum(re.fullmatch(r"nvidia\d+", name) is not None for name in _listed(os.path.join(root, "dev")))
    if n_nvidia:
        return Devices({"CUDA_VISIBLE_DEVICES": [str(place) for place in range(n_nvidia)]})
    nodes = os.path.join(root, "sys/class/kfd/kfd/topology/nodes")
    n_amd = sum(_is_gpu(os.path.join(nodes, node, "gpu_id")) for node in _listed(nodes))
    return Devices({"HIP_VISIBLE_DEVICES": [str(place) for place in range(n_amd)]} if n_amd else {})


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _is_gpu(path: str) -> bool:
    """Whether a node of AMD's topology is a GPU: processors have the number 0."""
    try:
        with open(path) as file:
            return file.read().strip() not in ("", "0")
    except OSError:
        return False


def _why(devices: Devices) -> str:
    names = {name: ",".join(names) for name, names in devices.names.items()}
    return ", ".join(f"{name}={text}" for name, text in names.items()) or "by CUDA_VISIBLE_DEVICES, and in /dev"


def _group_of_task(path: str) -> str | None:
    scheduler = schedulers.current()
    return None if scheduler is None else scheduler.cgroup(path)


def _groups(root: str) -> Iterator[_Group]:
    try:
        with open(os.path.join(root, "proc/self/cgroup"), "rb", buffering=0) as file:
            lines = os.fsdecode(file.readall()).splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            yield _Group(os.path.join(root, "sys/fs/cgroup/memory"), path, 1)
        elif controllers == "":
            yield _Group(os.path.join(root, "sys/fs/cgroup"), path, 2)


def _proportional(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return next((1024 * int(line.split()[1]) for line in file if line.startswith("Pss:")), 0)
    except (OSError, ValueError):  # it has ended, or is not ours
        return 0


def _counter(path: str) -> int | None:
    try:
        with open(path, "rb", buffering=0) as file:
            counts = [int(line.split()[1]) for line in file.readall().splitlines() if line.startswith(b"oom_kill ")]
    except OSError:
        return None
    return counts[0] if counts else None


def _number(path: str) -> int | None:
    try:
        with open(path) as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
