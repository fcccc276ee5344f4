"""The Python interface beside the original library's: definition, and a task until the runner's function is called.

Ours is two processes there, the supervisor that records what becomes of the job and the runner, and the original one.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.place import PROGRAMS, Place
from benchmarks.rows.start import until_stamped
from benchmarks.table import Line
from benchmarks.timing import take_turns

OURS, ORIGINAL = "experiment_manager", "original"
PEER = "the original library, as its document describes it"
RUNNER = PROGRAMS / "runner.py"


def lines(place: Place) -> Iterator[Line]:
    sizes = (10, place.size(10_000, 100), place.size(100_000, 1_000))
    for size in sizes[1:]:
        took = take_turns(
            {library: partial(_define_anew, place, library, size) for library in (OURS, ORIGINAL)},
            rounds=place.rounds,
        )
        what = f"`add_job` {size:,} times, `save`, `get_ids`, `save_pass_filter`"
        yield Line(what=what, ours=took[OURS], peer=PEER, theirs=took[ORIGINAL])
    for size in sizes:
        contestants: dict[str, Callable[[], float]] = {}
        for library, start in ((OURS, _start_ours), (ORIGINAL, _start_original)):
            folder = place.fresh("original")
            _define(place, library, folder, size)
            contestants[library] = partial(start, place, folder, itertools.cycle(range(size // 4)))
        took = take_turns(contestants, rounds=place.rounds)
        what = f"a task until the runner's function is called, {size:,} jobs"
        yield Line(what=what, ours=took[OURS], peer=PEER, theirs=took[ORIGINAL])


def _define_anew(place: Place, library: str, n_jobs: int) -> float:
    return _define(place, library, place.fresh("define"), n_jobs)


def _define(place: Place, library: str, folder: Path, n_jobs: int) -> float:
    return place.python(PROGRAMS / "define.py", folder, str(n_jobs), cwd=folder, LIBRARY=library).seconds


def _start_ours(place: Place, folder: Path, ids: Iterator[int]) -> float:
    command = ("-P", "-m", "experiment_manager", "run", folder / "it", str(next(ids)), "--runner", RUNNER)
    return until_stamped(place, command, LIBRARY=OURS)


def _start_original(place: Place, folder: Path, ids: Iterator[int]) -> float:
    command = (RUNNER, "--job-id", str(next(ids)), "--experiment-path", folder, "--experiment-name", "it")
    return until_stamped(place, command, LIBRARY=ORIGINAL)
