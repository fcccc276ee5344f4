"""Short jobs, run one after the other by two workers that are started as the script of their array starts them.

What a job costs beside its work is measured with a shell script that leaves a result and ends. HyperQueue is timed from
the submission to its server until the last result is there, and writes nothing; ours from the start of the workers
until they have ended, and each attempt is on disk for good before its job begins, and after. What the files of that
cost is measured bare: a loop that makes the same ones. `xargs` and GNU parallel are what processes cost at least.

Jobs of Hydra take 50 ms; the bare work is two processes that sleep as often. Ours begins with the planning of the
sweep, as joblib's does. Whoever has not done all jobs is not measured.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.place import PROGRAMS, Place, environment, in_hydra
from benchmarks.table import Line, absent, is_installed
from benchmarks.timing import Failed, Measured, Run, take_turns, timed

N_WORKERS: Final = 2
TRIAL: Final = 2
"""So many jobs show whether a peer works here at all."""

JOB, SLEEP_S = PROGRAMS / "short_job.sh", 0.05
HYPERQUEUE, PARALLEL, XARGS = "hyperqueue", "GNU parallel", f"`xargs -P {N_WORKERS}`"
BY_HAND, BARE = f"`experiment-manager work --jobs {N_WORKERS}`", "the files of our jobs and their fsyncs, made bare"
JOBLIB, SLEEPS = "hydra-joblib-launcher", f"{N_WORKERS} processes that sleep as often"
MAX_TIMES_WORK, MAX_TIMES_JOBLIB = 1.5, 1 / 3

NO_PLUGINS: Final = {"PYTHONPATH": ""}
"""No job has more modules of its own than its program, so that jobs can be forked."""

Contestant = Callable[[int], float]
"""Does so many jobs, and returns the seconds; raises Failed."""


def lines(place: Place) -> Iterator[Line]:
    yield from _of_shell_scripts(place, place.size(1_000, 20))
    yield from _of_hydra(place, place.size(1_000, 4))


def _of_shell_scripts(place: Place, n_jobs: int) -> Iterator[Line]:
    what = f"{n_jobs:,} jobs of a shell script, {N_WORKERS} workers, per job"
    peers: dict[str, Contestant] = {XARGS: partial(_xargs, place)}
    if _is_gnu_parallel():
        peers[PARALLEL] = partial(_parallel, place)
    if is_installed(HYPERQUEUE):
        peers[HYPERQUEUE] = partial(_hyperqueue, place)
    ours: dict[str, Contestant] = {"ours": partial(_ours, place), BY_HAND: partial(_by_hand, place)}
    broken = _broken(peers)
    took = _took({**ours, **_without(peers, broken), BARE: partial(_files, place)}, n_jobs, place.rounds)
    for peer in (XARGS, PARALLEL, HYPERQUEUE):
        if peer in took:
            options = {PARALLEL: f" `-j {N_WORKERS}`", HYPERQUEUE: f": `LocalCluster`, {N_WORKERS} cores"}
            yield Line(what=what, ours=took["ours"], peer=peer + options.get(peer, ""), theirs=took[peer])
        elif peer in broken:
            yield Line(what=what, peer=peer, why_not=broken[peer])
        else:
            yield absent(what, peer) if peer == HYPERQUEUE else Line(what=what, peer=peer, why_not="absent here")
    yield Line(what=what, ours=took["ours"], peer=BARE, theirs=took[BARE])
    if HYPERQUEUE in took:
        both = took[HYPERQUEUE].plus(took[BARE])
        yield Line(what=what, ours=took["ours"], peer=f"{HYPERQUEUE}, and {BARE}", theirs=both, at_most=1)
    yield Line(what=f"{what}, {BY_HAND}", ours=took[BY_HAND], peer="the workers of an array", theirs=took["ours"])


def _of_hydra(place: Place, n_jobs: int) -> Iterator[Line]:
    program = place.fresh("hydra")
    shutil.copy(PROGRAMS / "sleeper.py", program)
    ours: dict[str, Contestant] = {name: partial(_sweep, place, program, name) for name in ("spawn", "forkserver")}
    peers: dict[str, Contestant] = {JOBLIB: partial(_joblib, place, program)} if is_installed(JOBLIB) else {}
    broken = _broken(peers)
    took = _took({**ours, **_without(peers, broken), SLEEPS: partial(_sleeps, place)}, n_jobs, place.rounds)
    for name in ours:
        what = f"{n_jobs:,} Hydra jobs of 50 ms, {N_WORKERS} workers, `start_method={name}`, per job"
        is_aim = name == "forkserver"  # it is for short jobs
        at_most = MAX_TIMES_WORK if is_aim else None
        yield Line(what=what, ours=took[name], peer=SLEEPS, theirs=took[SLEEPS], at_most=at_most)
        if JOBLIB in took:
            at_most, options = MAX_TIMES_JOBLIB if is_aim else None, f"`n_jobs={N_WORKERS}`"
            yield Line(what=what, ours=took[name], peer=f"{JOBLIB}: {options}", theirs=took[JOBLIB], at_most=at_most)
        elif JOBLIB in broken:
            yield Line(what=what, peer=JOBLIB, why_not=broken[JOBLIB])
        else:
            yield absent(what, JOBLIB)


def _took(contestants: dict[str, Contestant], n_jobs: int, rounds: int) -> dict[str, Measured]:
    runs = {name: partial(contestant, n_jobs) for name, contestant in contestants.items()}
    return {name: found.per(n_jobs) for name, found in take_turns(runs, rounds=rounds, warm_up=False).items()}


def _broken(peers: dict[str, Contestant]) -> dict[str, str]:
    """The peers that cannot do even a few jobs here, and what they say."""
    found = {}
    for name, peer in peers.items():
        try:
            peer(TRIAL)
        except Failed as failure:
            found[name] = str(failure)[-300:]
    return found


def _without(peers: dict[str, Contestant], broken: dict[str, str]) -> dict[str, Contestant]:
    return {name: peer for name, peer in peers.items() if name not in broken}


def _ours(place: Place, n_jobs: int) -> float:
    folder = _defined(place, n_jobs)
    run = _array(folder / "it" / "slurm_scripts.sh", cwd=folder)
    _check_completed(folder / "it", n_jobs)
    return run.seconds


def _by_hand(place: Place, n_jobs: int) -> float:
    folder = _defined(place, n_jobs)
    words = ("-P", "-m", "experiment_manager", "work", folder / "it", "--jobs", str(N_WORKERS))
    seconds = place.python(*words, cwd=folder, PYTHONPATH="").seconds
    _check_completed(folder / "it", n_jobs)
    return seconds


def _sweep(place: Place, program: Path, start_method: str, n_jobs: int) -> float:
    folder = place.fresh("ours")
    where = (f"hydra.sweeper.experiment_path={in_hydra(folder)}", "hydra.sweeper.experiment_name=it")
    options = (f"hydra.launcher.workers={N_WORKERS}", f"hydra.launcher.start_method={start_method}")
    ours = ("hydra/sweeper=experiment", "hydra/launcher=slurm_script", *where, *options)
    planning = place.python("sleeper.py", "-m", *ours, f"+job=range({n_jobs})", cwd=program, **NO_PLUGINS)
    run = _array(next((folder / "it" / "launches" / "0001").glob("*.sh")), cwd=folder)
    _check_completed(folder / "it", n_jobs)
    if run.output:
        raise Failed(f"the workers were to say nothing: {run.output[-300:]}")  # as that they cannot fork
    return planning.seconds + run.seconds


def _defined(place: Place, n_jobs: int) -> Path:
    folder = place.fresh("ours")
    place.python(PROGRAMS / "short_jobs.py", folder, str(n_jobs), str(N_WORKERS), JOB, cwd=folder)
    return folder


def _array(script: Path, *, cwd: Path) -> Run:
    """All workers of an array have run, as SLURM would have started its tasks."""
    text = script.read_text()
    if f"--array=0-{N_WORKERS - 1}\n" not in text:
        raise Failed(f"{script} is not of {N_WORKERS} workers: {text[:300]}")
    return _together('SLURM_ARRAY_TASK_ID=$number bash "$SCRIPT"', cwd=cwd, SCRIPT=str(script))


def _together(command: str, *, cwd: Path, **more: str) -> Run:
    """As many processes as there are workers have run that command, which finds its place in $number."""
    begin = f'for number in $(seq 0 {N_WORKERS - 1}); do {command} & pids="$pids $!"; done'
    line = f"{begin}; for pid in $pids; do wait $pid || exit; done"
    return timed(["sh", "-c", line], cwd=cwd, env=environment(**{**NO_PLUGINS, **more}))


def _files(place: Place, n_jobs: int) -> float:
    folder = place.fresh("bare")
    (folder / "states").mkdir()
    (folder / "jobs").mkdir()
    each = n_jobs // N_WORKERS
    more = {"PYTHON": sys.executable, "PROGRAM": str(PROGRAMS / "files_of_jobs.py"), "FOLDER": str(folder)}
    command = f'"$PYTHON" "$PROGRAM" "$FOLDER" $((number * {each})) $((number * {each} + {each} - 1))'
    run = _together(command, cwd=folder, **more)
    _check_completed(folder, n_jobs)
    return run.seconds


def _sleeps(place: Place, n_jobs: int) -> float:
    program = f"import time\nfor _ in range({n_jobs // N_WORKERS}): time.sleep({SLEEP_S})"
    more = {"PYTHON": sys.executable, "PROGRAM": program}
    return _together('"$PYTHON" -c "$PROGRAM"', cwd=place.fresh("sleeps"), **more).seconds


def _xargs(place: Place, n_jobs: int) -> float:
    return _by_shell(place, f'seq {n_jobs} | xargs -P {N_WORKERS} -n 1 "$JOB"', n_jobs)


def _parallel(place: Place, n_jobs: int) -> float:
    return _by_shell(place, f'seq {n_jobs} | parallel --will-cite --ungroup -j {N_WORKERS} "$JOB"', n_jobs)


def _by_shell(place: Place, line: str, n_jobs: int) -> float:
    results = place.fresh("results")
    seconds = timed(["sh", "-c", line], cwd=place.fresh("shell"), env=_of_peer(results)).seconds
    _check_results(results, n_jobs)
    return seconds


def _hyperqueue(place: Place, n_jobs: int) -> float:
    results, folder = place.fresh("results"), place.fresh("hyperqueue")
    command = [sys.executable, str(PROGRAMS / "hyperqueue_tasks.py"), str(n_jobs), str(N_WORKERS), str(JOB)]
    said = timed(command, cwd=folder, env={**_of_peer(results), "TMPDIR": str(folder)}).output
    _check_results(results, n_jobs)
    return float(said.rpartition("seconds")[2])


def _joblib(place: Place, program: Path, n_jobs: int) -> float:
    folder = place.fresh("theirs")
    options = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={N_WORKERS}", f"hydra.sweep.dir={in_hydra(folder)}"]
    words = ("sleeper.py", "-m", *options, f"+job=range({n_jobs})")
    seconds = place.python(*words, cwd=program, **NO_PLUGINS).seconds
    _check_count(len(list(folder.glob("*/.hydra/config.yaml"))), n_jobs, folder)
    return seconds


def _of_peer(results: Path) -> dict[str, str]:
    return environment(RESULTS=str(results), JOB=str(JOB))


def _check_completed(folder: Path, n_jobs: int) -> None:
    """Raises Failed unless each job has completed, in its first attempt."""
    names = os.listdir(folder / "states")
    _check_count(len([name for name in names if name.endswith(".1.COMPLETED")]), n_jobs, folder)
    _check_count(len(names), 2 * n_jobs, folder)  # an anchor and a state for each, and nothing else


def _check_results(results: Path, n_jobs: int) -> None:
    """Raises Failed unless each job has left a result that can be read."""
    found = {json.loads(path.read_bytes())["result"] for path in results.iterdir()}
    _check_count(len(found), n_jobs, results)


def _check_count(n_found: int, n_jobs: int, folder: Path) -> None:
    if n_found != n_jobs:
        raise Failed(f"not all was done, or more than that: {n_found} and not {n_jobs} in {folder}")


def _is_gnu_parallel() -> bool:
    """Others bear the name, too."""
    if shutil.which("parallel") is None:
        return False
    done = subprocess.run(["parallel", "--version"], capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout.startswith("GNU parallel")
