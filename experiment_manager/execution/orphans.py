"""What the program of a job has started in sessions of its own, and has not waited for: ranks of a launcher that has
died, which keep the GPU, and what is to stay, as the connection of `ssh -fN -M`, a server, an upload.

Where a worker runs one job after the other, what an earlier one has left is not of a later one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

from experiment_manager.store import processes
from experiment_manager.typing_names import Final

_let_alone: Final[set[int]] = set()
"""What jobs that have ended have left running here, and what that had started when the last job began."""

_left_by: Final[set[tuple[bytes, ...]]] = set()
"""Those jobs, as the environment of their processes tells them."""


class Orphans:
    """The processes that one job has started, and whose own parents have ended: they are ours now, as the kernel lets
    it."""

    def __init__(self, told: Mapping[str, str]) -> None:
        """Before the job begins, whose processes are `told` so in their environment."""
        processes.adopt_orphans()
        self._names = tuple(os.fsencode(name) for name in sorted(told))
        self._job = tuple(os.fsencode(told[name]) for name in sorted(told))
        here = processes.children(os.getpid())
        left = _let_alone.intersection(here)
        _let_alone.clear()
        _let_alone.update(left, *map(processes.descendants, left))
        self._others = frozenset(here) - left  # of the worker, which waits for them itself

    def alive(self, pid: int) -> list[int]:
        """What there is of the job beside its program, which has that pid: its orphans, and what these have started.
        What has ended of them, and of what was let alone before, is no more."""
        found = []
        for one in processes.children(os.getpid()):
            if one == pid or one in self._others:
                continue
            with suppress(ChildProcessError):
                if os.waitpid(one, os.WNOHANG)[0]:
                    _let_alone.discard(one)
                    continue
            if not self._is_of_an_earlier_job(one):
                found.append(one)
        return [one for orphan in found for one in (orphan, *processes.descendants(orphan))]

    def let_alone(self, pid: int) -> list[int]:
        """They go on, and are of no later job."""
        if left := self.alive(pid):
            _let_alone.update(left)
            _left_by.add(self._job)
        return left

    def _is_of_an_earlier_job(self, pid: int) -> bool:
        if pid in _let_alone:
            return True
        if not _left_by:
            return False
        environment = processes.environment(pid)  # what was let alone may have started more since
        return tuple(environment.get(name, b"") for name in self._names) in _left_by
