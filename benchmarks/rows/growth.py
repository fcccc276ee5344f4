"""What ten and a hundred times as many jobs cost: time, and the memory of the process that plans them."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.place import Place, planned
from benchmarks.rows.planning import grid
from benchmarks.table import Line
from benchmarks.timing import Measured, take_turns

MB = 1_000_000


def lines(place: Place) -> Iterator[Line]:
    first = place.size(10_000, 500)
    sizes = (first, 10 * first, 100 * first) if not place.is_quick else (first, 2 * first)
    peaks: dict[int, list[float]] = {size: [] for size in sizes}
    demo = place.demo()
    contestants: dict[str, Callable[[], float]] = {
        str(size): partial(_plan, place, demo, size, peaks[size]) for size in sizes
    }
    took = take_turns(contestants, rounds=place.rounds, warm_up=False)
    for size, times, memory in zip(sizes[1:], (5, 40), (300 * MB, 1000 * MB), strict=False):
        what = f"{size:,} jobs, half pass, array scripts written"
        yield Line(what=what, ours=took[str(size)], peer=f"{first:,} jobs", theirs=took[str(first)], at_most=times)
        peak, of_first = Measured(tuple(peaks[size]), "B"), Measured(tuple(peaks[first]), "B")
        yield Line(what=f"{what}: peak memory", ours=peak, peer=f"{first:,} jobs", theirs=of_first, limit=memory)


def _plan(place: Place, demo: Path, n_jobs: int, peaks: list[float]) -> float:
    folder = place.fresh("growth")
    run = planned(place, demo, folder, [*grid(n_jobs), f"hydra.sweeper.pass_filter='seed < {n_jobs // 4}'"])
    peaks.append(run.peak_bytes)
    shutil.rmtree(folder)
    return run.seconds
