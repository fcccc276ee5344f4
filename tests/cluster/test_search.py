"""Searches on SLURM: tasks that propose the trials they run, killed in the middle, and how long they wait."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiment_manager import Experiment
from experiment_manager.model.records import State
from experiment_manager.store.documents import END, read_optional
from experiment_manager.store.states import States, task_in
from tests.cluster.sweeps import Sweep, queue
from tests.cluster.test_workers import n_completed, workers_of
from tests.conftest import Program, clean_env, wait_until

VALUE = """
    random.seed(repr(cfg.tau))
    time.sleep(min(30.0, LONG * random.paretovariate(1.5)))
    return (cfg.tau - 3.0) ** 2
"""


def searching(program: Program, long_s: float) -> Sweep:
    """The program, whose best value is 0 at tau = 3, and whose jobs take at least so long, and some of them much
    longer."""
    path = program.home / "train.py"
    text = path.read_text().replace("    end_as_told(cfg.how)\n", VALUE.replace("LONG", str(long_s)), 1)
    path.write_text(text.replace("import os\n", "import os\nimport random\n", 1))
    return Sweep(program)


def search(sweep: Sweep, n_trials: int, n_workers: int) -> Experiment:
    """The search is submitted, and the command has returned."""
    sweep.write(
        *("hydra/sweeper=experiment_optuna", f"hydra.sweeper.n_trials={n_trials}", "hydra.sweeper.sampler.seed=1"),
        *("tau=interval(0,10)", f"hydra.launcher.workers={n_workers}", "hydra.launcher.timeout_min=30"),
    )
    sweep.submit()
    return Experiment.at(sweep.experiment)


def kill_half(experiment: Experiment, n_workers: int) -> None:
    """Half of the workers, all of which run a job, are killed."""
    wait_until(lambda: os.path.exists(experiment.folder.states))
    running = wait_until(lambda: len(found := workers_of(experiment)) == n_workers and found, 120)
    for pid in random.Random(3).sample(running, n_workers // 2):
        os.kill(pid, signal.SIGKILL)


def check_all_once(experiment: Experiment, n_trials: int) -> None:
    """Each trial has completed once, and whatever had been begun before was lost with its worker."""
    table = experiment.states()
    assert list(range(n_trials)) == experiment.get_all_ids()
    for job_id in range(n_trials):
        states = list(table.attempts[job_id].values())  # type: ignore[index]
        assert [State.COMPLETED] == [one for one in states if one not in (State.LOST, State.NODE_FAIL)], job_id
    found = experiment.status().search
    assert found is not None
    assert (n_trials, 0, None) == (found.n_ended, found.n_failed, found.why_over)


def idle_share(experiment: Experiment) -> float:
    """Of the time from the first job of each worker to the end of its last one, the share between its jobs."""
    states, table = States(experiment.folder), experiment.states()
    by_task: dict[str, list[tuple[float, float]]] = {}
    for job_id, attempts in table.attempts.items():
        for number in attempts:
            anchor = states.record(job_id, number)
            end = read_optional(experiment.folder.of_attempt(job_id, number, "attempt"), END).get("end")
            task = task_in(anchor)
            if task is not None and end is not None and attempts[number] is State.COMPLETED:
                by_task.setdefault(task.name, []).append((anchor["start"], end))
    spans = [(min(start for start, _ in jobs), max(end for _, end in jobs)) for jobs in by_task.values()]
    allocated = sum(end - start for start, end in spans)
    busy = sum(end - start for jobs in by_task.values() for start, end in jobs)
    return 1 - busy / allocated


def test_a_search_is_waited_for(cluster_program: Program) -> None:
    """With `wait` the command returns when all trials have ended, and tells the best."""
    done = cluster_program.sweep(
        *("hydra/sweeper=experiment_optuna", "hydra.sweeper.n_trials=3", "tau=interval(0,10)"),
        *("hydra/launcher=slurm_submitit", "hydra.launcher.workers=2", "hydra.launcher.wait=true"),
        LIGHT="1",
    )
    assert 0 == done.returncode, done.stderr
    assert "best of 3: " in done.stderr.splitlines()[-1], done.stderr
    assert ["0.1.COMPLETED", "1.1.COMPLETED", "2.1.COMPLETED"] == Program.states(cluster_program)


def test_half_of_the_workers_are_killed(program: Program) -> None:
    """The search ends all the same: each trial completes once, none is lost, and no process is left."""
    experiment = search(searching(program, 0.5), 12, 4)
    kill_half(experiment, 4)
    wait_until(lambda: n_completed(experiment) == 12, 180)
    check_all_once(experiment, 12)
    wait_until(lambda: not [one for one in proposers() if str(program.home) in one], 60)


def proposers() -> list[str]:
    """The commands of processes that propose trials."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return [words for words in found if "execution.proposer" in words]


@pytest.mark.heavy
def test_workers_hardly_wait(program: Program) -> None:
    """Eight workers run 200 trials, some of which take ten times as long as others: between two of its trials a worker
    waits for less than a twentieth of its time, half of the workers are killed, and the best is found."""
    sweep = searching(program, 4.0)
    experiment = search(sweep, 200, 8)
    wait_until(lambda: n_completed(experiment) >= 60, 600)
    kill_half(experiment, 8)
    wait_until(lambda: n_completed(experiment) == 200, 1500)
    wait_until(lambda: not queue(sweep.slurm_id), 60)
    check_all_once(experiment, 200)
    share, best = idle_share(experiment), experiment.study().best_value
    print(f"idle {100 * share:.1f} % of the time, best {best:.2g}")
    assert share < 0.05
    assert best < 0.01


@pytest.mark.heavy
def test_batches_wait_for_their_slowest(program: Program, tmp_path: Path) -> None:
    """What the workers of `test_workers_hardly_wait` save: the same trials by hydra-optuna-sweeper, eight at a time,
    which waits for all eight before it proposes more, leave more than a quarter of eight tasks' time unused."""
    times = tmp_path / "times"
    times.mkdir()
    searching(program, 4.0)
    program.edit("    random.seed(repr(cfg.tau))\n", f"    random.seed(repr(cfg.tau))\n{NOTED}", "train.py")
    done = subprocess.run(
        [
            *(sys.executable, "train.py", "-m", "hydra/sweeper=optuna", "hydra/launcher=submitit_slurm"),
            *("hydra.sweeper.n_trials=64", "hydra.sweeper.n_jobs=8", "hydra.sweeper.direction=minimize"),
            *("tau=interval(0,10)", "hydra.launcher.timeout_min=10", "hydra.launcher.cpus_per_task=1"),
        ],
        cwd=program.home, env=clean_env(TIMES=str(times)), capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip
    assert 0 == done.returncode, done.stderr[-2000:]
    spans = [tuple(map(float, path.read_text().split())) for path in times.iterdir()]
    assert 64 == len(spans)
    wall = max(end for _, end in spans) - min(start for start, _ in spans)
    share = 1 - sum(end - start for start, end in spans) / (8 * wall)
    print(f"idle {100 * share:.1f} % of the time of eight tasks, {wall:.0f} s")
    assert share > 0.25


NOTED = """
    import atexit
    started = time.time()
    place = Path(os.environ["TIMES"]) / f"{os.uname().nodename}-{os.getpid()}-{started}"
    atexit.register(lambda: place.write_text(f"{started} {time.time()}"))
"""
