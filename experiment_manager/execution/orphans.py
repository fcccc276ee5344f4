"""What the program of a job has started in sessions of its own, and has not waited for: ranks of a launcher that has
died, which keep the GPU, and what is to stay, as the connection of `ssh -fN -M`, a server, an upload.

Not all that the kernel hands to us is of the job: a server that the batch script has started before is ours, too, once
what had started it ends, and is there for all jobs of a worker; and so is what an earlier job of the worker has left.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

from experiment_manager.execution.signals import in_session
from experiment_manager.store import processes
from experiment_manager.typing_names import Final

_let_alone: Final[set[int]] = set()
"""Our children that jobs which have ended have left running."""


class Orphans:
    """The processes that one job has started, and whose own parents have ended: they are ours now, as the kernel lets
    it."""

    def __init__(self, told: Mapping[str, str]) -> None:
        """Before the job begins, whose processes are `told` so in their environment."""
        processes.adopt_orphans()
        self._told = {os.fsencode(name): os.fsencode(value) for name, value in told.items()}
        here = processes.children(os.getpid())
        _let_alone.intersection_update(here)
        self._others = frozenset(here) - _let_alone  # of the worker, which waits for them itself
        self._program = 0
        self._began: int | None = None
        self._seen = frozenset[int]()

    def begin(self, pid: int) -> None:
        """The program of the job has that pid."""
        self._program, self._began = pid, processes.start_ticks(pid)

    def alive(self) -> list[int]:
        """What there is of the job beside its program: its orphans, and what these have started. What has ended of
        them, and of what was let alone before, is no more."""
        found = []
        for one in processes.children(os.getpid()):
            if one == self._program or one in self._others:
                continue
            with suppress(ChildProcessError):
                if os.waitpid(one, os.WNOHANG)[0]:
                    _let_alone.discard(one)
                    continue
            if one not in _let_alone and self._is_of_the_job(one):
                found.append(one)
        left = [one for orphan in found for one in (orphan, *processes.descendants(orphan))]
        self._seen = frozenset((*left, *processes.descendants(self._program)))
        return left

    def let_alone(self) -> list[int]:
        """They go on, and are of no later job."""
        left = self.alive()
        _let_alone.update(left)
        return left

    def _is_of_the_job(self, pid: int) -> bool:
        """It is in the session of its program, or is told which job it is of, or was below its program at the last
        look: one may clear the environment. Of what hides its environment, or has none, all that has begun since
        the program did."""
        began = processes.start_ticks(pid)
        if began is not None and self._began is not None and began < self._began:
            return False
        found = processes.environment(pid)
        is_told = all(found.get(name) == value for name, value in self._told.items())
        return not found or is_told or pid in self._seen or in_session(pid, self._program)
