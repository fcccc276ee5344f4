"""Which job each point of a sweep is: one that the manifest has, or a new one with the next id."""

import os
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from experiment_manager.errors import FolderError
from experiment_manager.model import policy
from experiment_manager.model.grid import Grid, Point
from experiment_manager.model.records import Job, JobId
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest

_NOBODY: Final[tuple[int, ...]] = ()


class Known:
    """The jobs that the manifest has: there may be a million, so only what tells them apart is held."""

    def __init__(self, folder: Folder) -> None:
        self.generation = 0
        self._jobs: dict[int, tuple[str | None, int | None]] = {}  # fingerprint, number of the recipe
        self._by_identity: dict[str, tuple[int, ...]] = {}
        if folder.is_experiment():
            if not os.path.exists(folder.manifest):
                raise FolderError(
                    f"{folder.path} holds an experiment of the original library ({folder.original_config}); take it "
                    "over with Experiment.load(...).save(), or give the sweep another name with "
                    "hydra.sweeper.experiment_name=..."
                )
            with Manifest(folder) as manifest:
                self.generation = manifest.generation
                for job_id, identity, fingerprint, recipe in manifest.index():
                    self._jobs[job_id] = (fingerprint, recipe)
                    self._by_identity[identity] = (*self._by_identity.get(identity, _NOBODY), job_id)
        self.next_id = max(self._jobs, default=-1) + 1

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._jobs

    def __iter__(self) -> Iterator[int]:
        return iter(self._jobs)

    def fingerprint(self, job_id: int) -> str | None:
        """None for a job without a configuration."""
        return self._jobs[job_id][0]

    def has_configuration(self, job_id: int) -> bool:
        return job_id in self._jobs and self._jobs[job_id][0] is not None

    def recipe(self, job_id: int) -> int | None:
        """The number of the job's recipe; None while it has none."""
        return self._jobs[job_id][1]

    def same(self, identity: str) -> list[tuple[int, str | None]]:
        """The jobs of an identity, in the order of their ids, with their fingerprints."""
        return [(job_id, self._jobs[job_id][0]) for job_id in self._by_identity.get(identity, _NOBODY)]


class Numbered:
    """The points of a grid with their ids; each time one goes through them they are the same.

    With `on_change=new` there may be, or come to be, several jobs of one identity: then a point is composed to tell
    which one it is, so that a filter sees the job that it will be.
    """

    def __init__(
        self,
        grid: Grid,
        known: Known,
        fingerprint: Callable[[Point], str],
        *,
        on_change: str,
        aliases: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        names = grid.names()
        self._aliases = {alias: name for alias, name in aliases.items() if name in names and alias not in names}
        self._grid, self._known, self._fingerprint = grid, known, fingerprint
        self._adds_changed = on_change == "new"
        self._matched: dict[str, int | None] = {}  # what took a composition to tell, by identity

    def __len__(self) -> int:
        """At most so many."""
        return len(self._grid)

    def __iter__(self) -> Iterator[tuple[JobId, Point]]:
        next_id = self._known.next_id
        is_first = not self._known
        for point in self._grid:
            job_id = None if is_first else self._found(point)
            if job_id is None:
                job_id, next_id = next_id, next_id + 1
            yield JobId(job_id), point

    def jobs(self) -> Iterator[Job]:
        """The same as far as a filter wants to know it."""
        for job_id, point in self:
            variables = point.variables
            for alias, name in self._aliases.items():
                if name in variables:
                    variables[alias] = variables[name]
            yield Job(job_id, "", variables, point.overrides, None, None)

    def names(self) -> frozenset[str]:
        """The names of variables in a filter: their own, and other names that the program has for them."""
        return frozenset([*self._grid.names(), *self._aliases])

    def _found(self, point: Point) -> int | None:
        identity = point.identity
        same = self._known.same(identity)
        if not same:
            return None
        job_id, mark = same[-1]
        if len(same) == 1 and not (self._adds_changed and mark is not None):
            return job_id
        if identity not in self._matched:
            match = policy.match(same, self._fingerprint(point))
            self._matched[identity] = None if match.is_changed and self._adds_changed else match.job_id
        return self._matched[identity]
