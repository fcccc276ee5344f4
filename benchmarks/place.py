"""Where a run of the benchmarks works, with which programs, in which environment, and how much of it."""

import itertools
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.timing import Run, timed

REPOSITORY = Path(__file__).parent.parent
PROGRAMS = Path(__file__).parent / "programs"
PLUGINS = PROGRAMS / "plugins"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A folder that is new and ours, and the size of what is done there."""

    home: Path
    is_quick: bool
    rounds: int
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def size(self, full: int, quick: int) -> int:
        return quick if self.is_quick else full

    def fresh(self, name: str) -> Path:
        """An empty folder that nobody has used."""
        path = self.home / f"{name}.{next(self._numbers)}"
        path.mkdir()
        return path

    def demo(self) -> Path:
        """A copy of train.py and conf/ of this repository."""
        path = self.fresh("demo")
        shutil.copy(REPOSITORY / "train.py", path)
        shutil.copytree(REPOSITORY / "conf", path / "conf")
        return path

    def python(self, *arguments: str | Path, cwd: Path, **more: str) -> Run:
        """This Python, run to its end where there is no SLURM."""
        return timed([sys.executable, *arguments], cwd=cwd, env=self.without_slurm(**more))

    def without_slurm(self, **more: str) -> dict[str, str]:
        """An environment as on a machine without SLURM: whether there is one, and how its arrays are limited, changes
        nothing. The other commands that are called stay."""
        commands = self.home / "bin"
        if not commands.exists():
            commands.mkdir()
            for command in filter(shutil.which, ("git", "date")):
                (commands / command).symlink_to(str(shutil.which(command)))
        return environment(PATH=str(commands), **more)


def environment(**more: str) -> dict[str, str]:
    """What contestants inherit: nothing that tells them that they are jobs, and the plugin that launches nothing."""
    of_jobs = ("EXPERIMENT_MANAGER", "SLURM_")
    kept = {name: it for name, it in os.environ.items() if name == "SLURM_CONF" or not name.startswith(of_jobs)}
    return {**kept, "PYTHONPATH": str(PLUGINS), **more}


def in_hydra(value: str | Path) -> str:
    """A value on Hydra's command line, whatever it contains.

    >>> in_hydra("it's a=b")
    "'it\\\\'s a=b'"
    """
    return "'" + str(value).replace("'", "\\'") + "'"


def planned(place: Place, program: Path, folder: Path, overrides: Sequence[str], script: str = "train.py") -> Run:
    """Our sweep, written down as array scripts below `folder`."""
    ours = ("hydra/sweeper=experiment", "hydra/launcher=slurm_script")
    where = (f"hydra.sweeper.experiment_path={in_hydra(folder)}", "hydra.sweeper.experiment_name=it")
    return place.python(script, "-m", *ours, *where, *overrides, cwd=program)


def composed(
    place: Place, program: Path, overrides: Sequence[str], *, sweeper: str = "basic", script: str = "train.py"
) -> float:
    """A peer's sweep, whose launcher does nothing: how long the sweeper needs."""
    theirs = (f"hydra/sweeper={sweeper}", "hydra/launcher=nothing")
    where = f"hydra.sweep.dir={in_hydra(place.fresh('peer'))}"
    return place.python(script, "-m", *theirs, where, *overrides, cwd=program).seconds
