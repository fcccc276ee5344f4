"""1,000 jobs submitted to a real SLURM cluster, where they are held, never run, and are cancelled.

Ours and plain submitit are timed until the prompt is back. hydra-submitit-launcher stays until the jobs have ended, so
its time is until its last `sbatch` is over; what it writes after that, when it renames its pickles, still counts as
bytes. `sbatch` of one array script is what cannot be done faster.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import slurm
from benchmarks.place import PROGRAMS, Place, in_hydra
from benchmarks.rows.planning import grid
from benchmarks.table import Line
from benchmarks.timing import Failed, Measured, take_turns, timed

HYDRAS, PLAIN, LIMIT = "hydra-submitit-launcher", "plain submitit", "`sbatch` of one array"
HELD = "++hydra.launcher.additional_parameters.hold=true"
TIME_LIMIT_S = 1800.0


def lines(place: Place) -> Iterator[Line]:
    n_jobs = place.size(1_000, 4)
    what = f"{n_jobs:,} jobs submitted by `slurm_submitit`, until the prompt is back"
    if reason := slurm.why_not():
        yield Line(what=what, peer=f"{HYDRAS}, {PLAIN}, {LIMIT}", why_not=reason)
        return
    demo = place.demo()
    sizes: dict[str, list[float]] = {"ours": [], HYDRAS: [], PLAIN: []}
    contestants: dict[str, Callable[[], float]] = {
        "ours": lambda: _ours(place, demo, n_jobs, sizes["ours"]),
        HYDRAS: lambda: _until_submitted(place, demo, n_jobs, sizes[HYDRAS]),
        PLAIN: lambda: _plain(place, n_jobs, sizes[PLAIN]),
        LIMIT: lambda: _one_array(place, n_jobs),
    }
    with slurm.turn():
        took = take_turns(contestants, rounds=place.rounds, warm_up=False)
    hydras = f"{HYDRAS}, until its last `sbatch`"
    yield Line(what=what, ours=took["ours"], peer=hydras, theirs=took[HYDRAS], at_most=1 / 10)
    yield Line(what=what, ours=took["ours"], peer=f"{PLAIN}, without configurations", theirs=took[PLAIN])
    yield Line(what=what, ours=took["ours"], peer=LIMIT, theirs=took[LIMIT])
    on_disk = {name: Measured(tuple(values), "B") for name, values in sizes.items()}
    what = f"{n_jobs:,} jobs submitted: bytes on disk"
    yield Line(what=what, ours=on_disk["ours"], peer=HYDRAS, theirs=on_disk[HYDRAS], at_most=1 / 30)
    yield Line(what=what, ours=on_disk["ours"], peer=PLAIN, theirs=on_disk[PLAIN])


def n_bytes(folder: Path) -> int:
    """The sizes of all files, each once however many names it has."""
    found = [path.stat() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return sum({entry.st_ino: entry.st_size for entry in found}.values())


def _ours(place: Place, demo: Path, n_jobs: int, sizes: list[float]) -> float:
    folder = place.fresh("ours")
    where = f"hydra.sweeper.experiment_path={in_hydra(folder)}"
    sweep = ("hydra/sweeper=experiment", "hydra/launcher=slurm_submitit", HELD, where, *grid(n_jobs))
    with slurm.watched(place) as submissions:
        run = timed([sys.executable, "train.py", "-m", *sweep], cwd=demo, env=submissions.environment)
        if not submissions.rows():
            raise Failed(f"nothing was submitted: {run.output}")
    sizes.append(n_bytes(folder))
    return run.seconds


def _until_submitted(place: Place, demo: Path, n_jobs: int, sizes: list[float]) -> float:
    folder = place.fresh("theirs")
    sweep = ("hydra/sweeper=basic", "hydra/launcher=submitit_slurm", HELD, f"hydra.sweep.dir={in_hydra(folder)}")
    command = [sys.executable, "train.py", "-m", *sweep, *grid(n_jobs)]
    with slurm.watched(place) as submissions, open(folder.parent / f"{folder.name}.log", "w+b") as output:
        started, deadline = time.time(), time.monotonic() + TIME_LIMIT_S
        process = subprocess.Popen(
            command, cwd=demo, env=submissions.environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while len(list(folder.rglob("*_submitted.pkl"))) < n_jobs:
                if process.poll() is not None or time.monotonic() > deadline:
                    output.seek(0)
                    raise Failed(f"{HYDRAS} did not submit: {output.read().decode(errors='replace')[-500:]}")
                time.sleep(0.5)
        finally:
            process.kill()
            process.wait()
        sizes.append(n_bytes(folder))
        return submissions.rows()[-1][0] - started


def _plain(place: Place, n_jobs: int, sizes: list[float]) -> float:
    folder = place.fresh("plain")
    with slurm.watched(place) as submissions:
        command = [sys.executable, str(PROGRAMS / "plain_submitit.py"), str(folder), str(n_jobs)]
        run = timed(command, cwd=place.fresh("cwd"), env=submissions.environment)
    sizes.append(n_bytes(folder))
    return run.seconds


def _one_array(place: Place, n_jobs: int) -> float:
    with slurm.watched(place) as submissions:
        command = ["sbatch", f"--array=0-{n_jobs - 1}", str(PROGRAMS / "array.sh")]
        return timed(command, cwd=place.fresh("cwd"), env=submissions.environment).seconds
