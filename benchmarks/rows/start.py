"""A task on a node: `experiment-manager run` until its child begins, in a small experiment and in a large one.

The child is a shell script that asks `date` and ends, put before the job's own command by the option `wrap`; the time
is from the start of our process to that date. The job is FAILED then, since it never ran. Bare Python imports what
nobody can do without, and starts the same.
"""

import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.place import PROGRAMS, Place, in_hydra, planned
from benchmarks.rows.planning import grid
from benchmarks.table import Line
from benchmarks.timing import take_turns, timed
from experiment_manager.model.policy import INCOMPLETE

STAMP = PROGRAMS / "stamp.sh"
BARE = "import sqlite3, json, subprocess; subprocess.run([{!r}])"
MAX_TIMES_BARE, NOISE = 1.5, 1.1


def lines(place: Place) -> Iterator[Line]:
    sizes = (10, place.size(100_000, 1_000))
    demo = place.demo()
    contestants: dict[str, Callable[[], float]] = {
        f"{size:,} jobs": partial(_start, place, _experiment(place, demo, size), itertools.count()) for size in sizes
    }
    contestants["bare"] = partial(until_stamped, place, ["-c", BARE.format(str(STAMP))])
    took = take_turns(contestants, rounds=min(place.rounds * place.size(3, 1), sizes[0] - 1))
    few, many = (took[f"{size:,} jobs"] for size in sizes)
    what = "a task, from the start of `experiment-manager run` until its child begins"
    bare = "bare Python that imports sqlite3, json, subprocess, and starts the same child"
    yield Line(what=f"{what}, {sizes[0]} jobs", ours=few, peer=bare, theirs=took["bare"], at_most=MAX_TIMES_BARE)
    yield Line(what=f"{what}, {sizes[1]:,} jobs", ours=many, peer=bare, theirs=took["bare"], at_most=MAX_TIMES_BARE)
    yield Line(what=f"{what}, {sizes[1]:,} jobs", ours=many, peer=f"{sizes[0]} jobs", theirs=few, at_most=NOISE)


def _experiment(place: Place, demo: Path, n_jobs: int) -> Path:
    folder = place.fresh("start")
    planned(place, demo, folder, [*grid(n_jobs), f"hydra.launcher.wrap=[{in_hydra(STAMP)}]"])
    return folder


def _start(place: Place, folder: Path, numbers: Iterator[int]) -> float:
    """A job that has not run yet is run as a task of its array runs it."""
    where = ("--experiment-path", folder, "--experiment-name", "it", "--launch", "0001")
    command = ("-P", "-m", "experiment_manager", "run", *where, "--job-id", str(next(numbers)))
    return until_stamped(place, command, status=INCOMPLETE)


def until_stamped(place: Place, arguments: Sequence[str | Path], *, status: int = 0, **env: str) -> float:
    """From the start of this Python, which ends with that status, until what it starts has stamped a file."""
    folder = place.fresh("stamp")
    stamp = folder / "stamp"
    inherited = place.without_slurm(STAMP=str(stamp), **env)
    started = time.time()
    timed([sys.executable, *arguments], cwd=folder, env=inherited, status=status)
    return float(stamp.read_text()) - started
