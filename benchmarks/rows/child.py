"""A job of the demo under `experiment-manager run`, and the same job by hand; both to their ends."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from benchmarks.place import Place, in_hydra, planned
from benchmarks.table import Line
from benchmarks.timing import take_turns


def lines(place: Place) -> Iterator[Line]:
    steps = place.size(6_000, 300)
    settings = [f"steps={steps}", f"warm_up_steps={place.size(1_000, 200)}"]
    demo, folder = place.demo(), place.fresh("child")
    planned(place, demo, folder, ["algorithm=TD3", f"seed=range({place.rounds + 1})", *settings])
    ours, theirs = itertools.count(), itertools.count()  # the id of a job is its seed
    took = take_turns(
        {
            "ours": lambda: _supervised(place, folder, next(ours)),
            "by hand": lambda: _by_hand(place, demo, [f"seed={next(theirs)}", *settings]),
        },
        rounds=place.rounds,
    )
    what = f"a job of the demo, {steps:,} steps, under `experiment-manager run`"
    yield Line(what=what, ours=took["ours"], peer="`python train.py` by hand", theirs=took["by hand"], at_most=1.1)


def _supervised(place: Place, folder: Path, job_id: int) -> float:
    where = ("--experiment-path", folder, "--experiment-name", "it", "--launch", "0001")
    command = ("-P", "-m", "experiment_manager", "run", *where, "--job-id", str(job_id))
    return place.python(*command, cwd=folder).seconds


def _by_hand(place: Place, demo: Path, overrides: list[str]) -> float:
    run_dir = f"hydra.run.dir={in_hydra(place.fresh('hand'))}"
    return place.python("train.py", *overrides, run_dir, cwd=demo).seconds
