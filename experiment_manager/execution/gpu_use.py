"""How busy a job keeps GPUs, and how much of their memory its processes have: asked of NVIDIA's NVML while it runs.

NVML tells how busy a whole GPU was in the last moment, a second at most, and, where others share it, each process.
Whoever runs a job asks now and then: what is seen stands for all the time since, the better the longer a job takes.
"""

import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Any, Final

_MICROSECONDS: Final = 1e6


class GpuUse:
    """The GPUs of one job, as far as they have been looked at."""

    def __init__(self) -> None:
        self._nvml, self._devices = _devices()
        self._busy_s = self._seen_s = self._unseen_s = 0.0
        self._peak = 0

    @property
    def can_tell(self) -> bool:
        """Whether it is worth looking again."""
        return self._nvml is not None

    def look(self, pids: Collection[int], seconds: float) -> None:
        """What the processes of the job do now stands for so many seconds. Raises nothing: no job ends by this."""
        if self._nvml is None:
            return
        try:
            busy, memory = self._now(frozenset(pids), seconds)
        except ProcessLookupError:
            self._unseen_s += seconds
            return
        except Exception:  # of a binding, and a driver, that are none of ours
            self._nvml = None
            return
        self._busy_s += busy * seconds
        self._seen_s += seconds
        self._peak = max(self._peak, memory)

    def record(self, seconds: float) -> dict[str, Any]:
        """Of a job that has run for so long: `gpu_s`, the seconds that it kept GPUs busy, all together, and the most
        memory that it had on them. Nothing where nobody could tell."""
        if self._nvml is None or self._seen_s <= self._unseen_s:
            return {}
        return {"gpu_s": self._busy_s / self._seen_s * seconds, "peak_gpu_memory_bytes": self._peak}

    def _now(self, pids: frozenset[int], seconds: float) -> tuple[float, int]:
        """How many GPUs they keep busy, and the memory that they have there, in bytes. Raises ProcessLookupError where
        NVML names a process that is not here: it knows them by other numbers than we do, as in a container, or this one
        has just ended."""
        busy, memory = 0.0, 0
        for device in self._devices:
            there = self._nvml.nvmlDeviceGetComputeRunningProcesses(device)
            others = [process.pid for process in there if process.pid not in pids]
            for pid in others:
                with suppress(PermissionError):  # it is here, and somebody else's
                    os.kill(pid, 0)
            if len(others) == len(there):
                continue
            memory += sum(process.usedGpuMemory or 0 for process in there if process.pid in pids)
            busy += self._busy_of(device, pids, seconds) if others else self._busy_of_all(device)
        return busy, memory

    def _busy_of_all(self, device: Any) -> float:
        return float(self._nvml.nvmlDeviceGetUtilizationRates(device).gpu) / 100

    def _busy_of(self, device: Any, pids: frozenset[int], seconds: float) -> float:
        """Of a GPU that others use, too: the mean of what NVML has seen of each of our processes since."""
        try:
            newest = self._nvml.nvmlDeviceGetProcessUtilization(device, 0)
        except self._nvml.NVMLError_NotFound:  # none has done anything
            return 0.0
        last = max((sample.timeStamp for sample in newest), default=0)
        since = last - seconds * _MICROSECONDS
        by_pid: dict[int, list[int]] = {}
        for sample in newest:
            if sample.pid in pids and sample.timeStamp >= since:
                by_pid.setdefault(sample.pid, []).append(sample.smUtil)
        return min(1.0, sum(sum(found) / len(found) for found in by_pid.values()) / 100)


def _devices() -> tuple[Any, list[Any]]:
    """NVIDIA's own binding, and the GPUs that a process here may open; None where one of both is not there."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml, [*_handles(pynvml, range(pynvml.nvmlDeviceGetCount()))]
    except Exception:  # as in `GpuUse.look`
        return None, []


def _handles(nvml: Any, places: Iterable[int]) -> Iterable[Any]:
    for place in places:
        try:
            yield nvml.nvmlDeviceGetHandleByIndex(place)
        except nvml.NVMLError:  # it is there, and not ours
            continue
