"""A sweep of 200 jobs of 50 ms, two at a time, from its start to its end.

It shows what a job costs besides its work. The pool gives each job a process of its own, with Hydra imported in it, or
forked from one that has imported it. submitit_local gives each one such a process, too; it has no limit of its own and
gets batches of two. joblib's workers import once, run one job after the other and record nothing. `xargs` is what
processes cost at least.
"""

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.place import PROGRAMS, Place, environment, in_hydra
from benchmarks.table import Line, absent, is_installed
from benchmarks.timing import take_turns, timed

N_AT_ONCE = 2
METHODS = ("spawn", "forkserver")
JOBLIB, SUBMITIT = "hydra-joblib-launcher", "hydra-submitit-launcher"
PEERS = {
    JOBLIB: ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={N_AT_ONCE}"],
    SUBMITIT: ["hydra/launcher=submitit_local", f"hydra.sweeper.max_batch_size={N_AT_ONCE}"],
}


def lines(place: Place) -> Iterator[Line]:
    n_jobs = place.size(200, 4)
    program = place.fresh("pool")
    shutil.copy(PROGRAMS / "sleeper.py", program)
    contestants: dict[str, Callable[[], float]] = {
        method: partial(_ours, place, program, n_jobs, method) for method in METHODS
    }
    for peer in filter(is_installed, PEERS):
        contestants[peer] = partial(_theirs, place, program, n_jobs, PEERS[peer])
    contestants["xargs"] = lambda: _by_hand(place, program, n_jobs)
    took = take_turns(contestants, rounds=place.rounds, warm_up=False)
    by_hand = f"plain `python sleeper.py` by `xargs -P {N_AT_ONCE}`"
    for method in METHODS:
        what = f"{n_jobs} jobs of 50 ms, {N_AT_ONCE} at a time, `local_pool`, `start_method={method}`"
        for peer in PEERS:
            if peer not in took:
                yield absent(what, peer)
                continue
            options = " ".join(PEERS[peer])
            yield Line(what=what, ours=took[method], peer=f"{peer}: `{options}`", theirs=took[peer])
        yield Line(what=what, ours=took[method], peer=by_hand, theirs=took["xargs"])


def _ours(place: Place, program: Path, n_jobs: int, method: str) -> float:
    launcher = (
        *("hydra/launcher=local_pool", f"hydra.launcher.n_jobs={N_AT_ONCE}"),
        f"hydra.launcher.start_method={method}",
    )
    where = f"hydra.sweeper.experiment_path={in_hydra(place.fresh('ours'))}"
    sweep = ("hydra/sweeper=experiment", *launcher, where, f"+job=range({n_jobs})")
    return _swept(place, program, sweep)


def _theirs(place: Place, program: Path, n_jobs: int, options: list[str]) -> float:
    where = f"hydra.sweep.dir={in_hydra(place.fresh('theirs'))}"
    return _swept(place, program, [*options, where, f"+job=range({n_jobs})"])


def _swept(place: Place, program: Path, arguments: Sequence[str]) -> float:
    """How long the program takes, without the plugin of the benchmarks: one that belongs to a program turns the fork
    server off."""
    return place.python("sleeper.py", "-m", *arguments, cwd=program, PYTHONPATH="").seconds


def _by_hand(place: Place, program: Path, n_jobs: int) -> float:
    line = f'seq {n_jobs} | xargs -P {N_AT_ONCE} -I N "$PYTHON" sleeper.py +job=N "hydra.run.dir=$WHERE/N"'
    where = str(place.fresh("hand"))
    return timed(["sh", "-c", line], cwd=program, env=environment(WHERE=where, PYTHON=sys.executable)).seconds
