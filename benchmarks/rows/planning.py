"""A sweep of 10,000 jobs with the demo's configuration, half of which pass the filter, until its array scripts are
written.

The process that composes once imports Hydra and nothing else, and so does the program `light.py` that is swept beside
it. The demo's own program imports NumPy and Gymnasium, too: it stands beside itself, composing once.
"""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.place import PROGRAMS, Place, composed, in_hydra, planned
from benchmarks.table import Line, absent, is_installed
from benchmarks.timing import slope, take_turns

SWEEPERS = {"basic": "basic sweeper", "filter": "hydra-filter-sweeper"}


def grid(n_jobs: int) -> list[str]:
    """The sweep of so many jobs."""
    return ["algorithm=TD3,DDPG", f"seed=range({n_jobs // 2})"]


def lines(place: Place) -> Iterator[Line]:
    n_jobs = place.size(10_000, 1_000)
    small, large = place.size(10, 2), place.size(50, 8)
    demo = place.demo()
    what = f"{n_jobs:,} jobs, half pass, array script written"
    plan = place.fresh("plan")
    shutil.copy(PROGRAMS / "light.py", demo)
    planned(place, demo, plan, _ours(n_jobs), "light.py")
    contestants: dict[str, Callable[[], float]] = {
        "ours": lambda: planned(place, demo, place.fresh("ours"), _ours(n_jobs), "light.py").seconds,
        "demo": lambda: planned(place, demo, place.fresh("ours"), _ours(n_jobs)).seconds,
        "limit": lambda: _compose_once(place, demo, plan),
        "program": lambda: place.python("train.py", "--cfg", "job", cwd=demo).seconds,
    }
    sweepers = [name for name, package in SWEEPERS.items() if name == "basic" or is_installed(package)]
    for sweeper in sweepers:
        for size in (small, large):
            overrides = [*grid(size), *(_filter(size) if sweeper == "filter" else [])]
            contestants[f"{sweeper} {size}"] = partial(composed, place, demo, overrides, sweeper=sweeper)
    took = take_turns(contestants, rounds=place.rounds)

    n_bytes = sum(path.stat().st_size for path in plan.rglob("*") if path.is_file())
    limit = f"import Hydra, compose once, write the same {n_bytes / 1e6:.2g} MB"
    yield Line(what=what, ours=took["ours"], peer=limit, theirs=took["limit"], at_most=3)
    program = "`python train.py --cfg job`: the program imported, composed once, nothing written"
    yield Line(what=f"{what}, `train.py`", ours=took["demo"], peer=program, theirs=took["program"])
    for sweeper, peer in SWEEPERS.items():
        if sweeper not in sweepers:
            yield absent(f"{what}, per job", peer)
            continue
        cost = slope(took[f"{sweeper} {small}"], took[f"{sweeper} {large}"], large - small)
        peer = f"{peer}, slope from {small} to {large} jobs, nothing launched"
        ours = took["ours"].per(n_jobs)
        yield Line(what=f"{what}, per job", ours=ours, peer=peer, theirs=cost, at_most=1 / 300)


def _ours(n_jobs: int) -> list[str]:
    return [*grid(n_jobs), f"hydra.sweeper.pass_filter='seed < {n_jobs // 4}'"]


def _filter(n_jobs: int) -> list[str]:
    """The same filter for hydra-filter-sweeper, whose expression says what is dropped."""
    expression = in_hydra(f"seed >= {n_jobs // 4}")
    return [f"hydra.sweeper.filters=[{{hydra_filter_sweeper.Expression: {{expr: {expression}}}}}]"]


def _compose_once(place: Place, demo: Path, plan: Path) -> float:
    arguments = (PROGRAMS / "compose_once.py", demo / "conf", plan, place.fresh("copy"))
    return place.python(*arguments, cwd=demo).seconds
