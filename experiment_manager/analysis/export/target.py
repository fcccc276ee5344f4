"""What a program that tracks experiments has to have so that runs go there: one small class for each."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from experiment_manager.analysis.export.runs import Mark, Notes, Point, Run


class Target(Protocol):
    """A place where runs are kept, of one project."""

    place: str
    """Where that is: a folder or an address."""
    hint: str
    """The command that shows what is there, or sends it on."""

    def marks(self, experiment: str) -> Mapping[str, Mark]:
        """The runs of an experiment that are there whole, by their names."""

    def write(self, run: Run, points: Sequence[Point], notes: Notes) -> None:
        """The run is there whole, in the place of what was there of it; killed meanwhile, it is not among `marks`."""


class Kind(NamedTuple):
    """A program that runs can be exported to."""

    open: Callable[[str, str | None], AbstractContextManager[Target]]
    """Opens a project at a place; imports its library. Raises ImportError where there is none."""
    library: str
    extra: str
