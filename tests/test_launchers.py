"""Our sweeper with other people's launchers, our launcher with other people's sweepers, and programs with no script."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from experiment_manager.hydra.launchers import _value
from experiment_manager.model.records import Attempt, JobId, State
from experiment_manager.store.layout import Folder
from tests.conftest import Program, clean_env, wait_until

OTHERS = ["basic", "joblib", "submitit_local"]


@pytest.mark.parametrize("launcher", OTHERS)
def test_other_launchers_keep_ids_states_and_results(program: Program, launcher: str) -> None:
    """The directory follows the id and not the position; states, results and metrics are recorded; what is done is not
    done again."""
    arguments = ("algorithm=DDPG", "seed=1,3", f"hydra/launcher={launcher}")
    done = program.sweep(*arguments, "hydra.sweeper.pass_filter='seed > 1'")
    assert done.returncode == 0, done.stderr
    assert ["1.1.COMPLETED"] == program.states()
    (row,) = [row for row in program.told("results") if row["job"] == 1]
    assert ({"result": 1.5}, {"loss": 1.5}) == (row["result"], row["metrics"])
    assert "seed: 3" in (program.experiment / "jobs/1/.hydra/config.yaml").read_text()
    done = program.sweep(*arguments, "hydra.sweep.dir=elsewhere")
    assert done.returncode == 0, done.stderr
    assert "hydra.sweep.dir=elsewhere is not used" in done.stderr
    assert [f"{job}.1.COMPLETED" for job in range(2)] == program.states()
    assert {"conf", "experiments"} == {path.name for path in program.home.iterdir() if path.is_dir()} - {"__pycache__"}


@pytest.mark.parametrize("launcher", OTHERS[:2])
def test_failure_under_another_launcher_is_no_success(program: Program, launcher: str) -> None:
    """A job that raises is FAILED, the others go on, and the sweep ends with 1."""
    done = program.sweep("how=raise,well", f"hydra/launcher={launcher}")
    assert done.returncode == 1
    assert ["0.1.FAILED", "1.1.COMPLETED"] == program.states()
    assert "ValueError: told to raise" in program.tool("show", "0").stdout


def test_worker_killed_under_joblib_is_lost(program: Program) -> None:
    """A joblib worker that dies of `kill -9` never reaches the end of its task; its job is LOST and not RUNNING."""
    done = program.sweep("how=kill,well", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert done.returncode != 0
    assert {"LOST"} == {program.told("show", "0")["state"]}


def test_two_sweeps_at_once_over_another_launcher_run_a_job_once(program: Program) -> None:
    """What one of them has completed since both were planned, the other one does not run again."""
    arguments = ("train.py", "-m", "sleep=0.2,1.5", "hydra/launcher=basic")
    both = [program.start(*arguments, "hydra.sweeper.rerun=failed") for _ in range(2)]
    for process in both:
        process.communicate(timeout=120)
    assert ["0.1.COMPLETED", "1.1.COMPLETED"] == program.states()


TWICE = """    for again in ([], ["hydra.sweeper.rerun=always"]):
        sys.argv[1:] = ["-m", "seed=1,2,3", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *again]
        main()
        os.unlink(os.environ["RELEASE"])
"""


def launch_of(program: Program, attempt: str) -> Any:
    return json.loads((program.experiment / "states" / attempt).read_text())["launch"]


def test_jobs_have_the_launch_of_their_sweep_in_workers_of_an_earlier_one(program: Program, tmp_path: Path) -> None:
    """joblib's workers outlive a sweep, with the environment of its time: what the next sweep of the same process runs
    again runs, as its own, and what is cancelled before it begins does not, which people are told."""
    release = tmp_path / "release"
    release.touch()
    program.edit("    main()\n", TWICE, "train.py")
    sweeps = program.start("train.py", RELEASE=str(release))
    wait_until(lambda: {"0.2.RUNNING", "1.2.RUNNING"} <= {*program.states()})
    assert {"jobs": [2]} == program.told("cancel", "2")
    release.touch()
    _, said = sweeps.communicate(timeout=60)
    assert "job 2 was cancelled before launch 0002 began it (attempt 2)" in said
    assert (1, True) == (sweeps.returncode, "1 of 3 jobs did not complete (1 CANCELLED)" in said)
    assert [*(f"{job}.{number}.COMPLETED" for job in "01" for number in "12"), "2.1.COMPLETED", "2.2.CANCELLED"] == (
        program.states()
    )
    assert ["0001", "0002"] == [launch_of(program, attempt) for attempt in ("0.1", "0.2")]


def test_a_job_that_did_not_begin_again_has_not_completed(program: Program, tmp_path: Path) -> None:
    """Of a sweep that runs jobs again, one that did not begin is what it was; the sweep says why, and ends with 1."""
    assert 0 == program.sweep("seed=1,2").returncode
    release = tmp_path / "release"
    arguments = ("train.py", "-m", "seed=1,2", "hydra/launcher=basic", "hydra.sweeper.rerun=always")
    sweep = program.start(*arguments, RELEASE=str(release))
    wait_until(lambda: "0.2.RUNNING" in program.states())
    assert 0 == program.tool("remove", "1", "--yes").returncode
    release.touch()
    _, said = sweep.communicate(timeout=60)
    assert (1, True) == (sweep.returncode, "1 of 2 jobs did not complete (1 PENDING)" in said)
    assert "job was removed: 1" in said
    assert ["0.1.COMPLETED", "0.2.COMPLETED", "1.1.COMPLETED"] == program.states()


COMMANDS = {
    "sbatch": 'for script; do :; done; id=$((71 + $(ls "$TASKS" | wc -l))); cp "$script" "$TASKS/$id"\n'
    'echo "Submitted batch job $id"',
    "srun": 'while [[ $1 == --* ]]; do [[ $1 == --unbuffered ]] || shift; shift; done; exec "$@"',
    "sacct": 'echo "JobID|State|NodeList"',
    **dict.fromkeys(("scontrol", "squeue", "scancel"), ":"),
}


class Tasks:
    """What stands in for SLURM with submitit: batch scripts that were submitted, to be run."""

    def __init__(self, program: Program, place: Path) -> None:
        self.program, self._scripts = program, place / "tasks"
        self._scripts.mkdir()
        commands = place / "commands"
        commands.mkdir()
        for name, text in COMMANDS.items():
            (commands / name).write_text(f"#!/bin/bash\n{text}\n")
            (commands / name).chmod(0o755)
        self._env = {"PATH": f"{commands}:{os.environ['PATH']}", "TASKS": str(self._scripts)}

    def sweep(self, *arguments: str, **env: str) -> "subprocess.Popen[str]":
        """A sweep that has submitted one more task, and waits for it."""
        task = 71 + len([*self._scripts.iterdir()])
        words = ("train.py", "-m", "hydra/launcher=submitit_slurm", *arguments)
        sweep = self.program.start(*words, **self._env, **env)
        wait_until(lambda: [*self.program.experiment.glob(f"launches/.submitit/{task}/*_submitted.pkl")])
        return sweep

    def start(self, task: int, *, restart: int = 0, **env: str) -> "subprocess.Popen[bytes]":
        """SLURM has started that task, with nothing of the environment of who has submitted it."""
        own = {"SLURM_JOB_ID": str(task), "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "n1"}
        own |= dict.fromkeys(("SLURM_NODEID", "SLURM_PROCID", "SLURM_LOCALID"), "0")
        own |= {"SLURM_RESTART_COUNT": str(restart)} if restart else {}
        env = clean_env(**self._env, **own, **env)
        return subprocess.Popen(["bash", self._scripts / str(task)], cwd=self.program.home, env=env)


@pytest.fixture
def tasks(program: Program, tmp_path: Path) -> Tasks:
    return Tasks(program, tmp_path)


def test_tasks_without_the_environment_of_their_sweep_run_a_job_once(tasks: Tasks) -> None:
    """A sweep that was killed when it had submitted, and was typed again, has two tasks for a job (SBATCH_EXPORT=NONE):
    the second one knows its launch, too, and that the job has completed since."""
    for _ in range(2):
        sweep = tasks.sweep("seed=1")
        sweep.kill()
        sweep.communicate()
    assert [0, 0] == [tasks.start(task).wait(60) for task in (71, 72)]
    assert ["0.1.COMPLETED"] == tasks.program.states()
    assert "0001" == launch_of(tasks.program, "0.1")


def warned(process: "subprocess.Popen[bytes]", started: Path) -> None:
    """The only job that has noted there that it runs was warned, as by SLURM, and its task has left."""
    (job,) = started.iterdir()
    job.unlink()
    os.kill(int(job.suffix[1:]), signal.SIGUSR2)
    process.wait(60)


def end_of(program: Program, attempt: int) -> Any:
    return json.loads((program.experiment / f"jobs/0/attempt.{attempt}.json").read_text())


def test_a_job_that_submitit_has_put_back_goes_on_in_the_launch_of_its_sweep(tasks: Tasks, tmp_path: Path) -> None:
    """It is no failure, and its sweep waits for it; the same sweep, typed again meanwhile, runs it no second time, and
    says so."""
    started, release, program = tmp_path / "started", tmp_path / "release", tasks.program
    started.mkdir()
    sweeps = [tasks.sweep("seed=1", f"started='{started}'")]
    first = tasks.start(71, RELEASE=str(release))
    wait_until(lambda: [*started.iterdir()])
    warned(first, started)
    assert ["0.1.PREEMPTED"] == program.states()
    assert end_of(program, 1).items() >= {"requeued": True}.items()
    sweeps.append(tasks.sweep("seed=1", f"started='{started}'"))
    release.touch()
    assert [0, 0] == [tasks.start(71, restart=1, RELEASE=str(release)).wait(60), tasks.start(72).wait(60)]
    said = [sweep.communicate(timeout=60)[1] for sweep in sweeps]
    assert [0, 0] == [sweep.returncode for sweep in sweeps]
    assert "has been completed since launch 0002 was planned: attempt 2, launch 0001" in said[1]
    assert ["0.1.PREEMPTED", "0.2.COMPLETED"] == program.states()
    assert "0001" == launch_of(program, "0.2")


def test_the_last_time_limit_of_a_job_of_submitit_is_one(tasks: Tasks, tmp_path: Path) -> None:
    """A job that reached its time limit is TIMEOUT, whether submitit has it started again or not."""
    started, program = tmp_path / "started", tasks.program
    started.mkdir()
    limit = ("hydra.launcher.timeout_min=5", "hydra.launcher.max_num_timeout=1")
    sweep = tasks.sweep("seed=1", f"started='{started}'", *limit)
    for restart in (0, 1):
        task = tasks.start(71, restart=restart, RELEASE=str(tmp_path / "never"))
        wait_until(lambda: [*started.iterdir()])
        warned(task, started)
    _, said = sweep.communicate(timeout=60)
    assert (1, True) == (sweep.returncode, "1 of 1 job did not complete (1 TIMEOUT)" in said)
    assert ["0.1.TIMEOUT", "0.2.TIMEOUT"] == program.states()
    assert "warned before its time limit, it left, to be started again" == end_of(program, 1)["reason"]
    assert "timed-out too many times" in end_of(program, 2)["reason"]
    assert [True, False] == ["requeued" in end_of(program, attempt) for attempt in (1, 2)]


def test_a_job_that_submitit_starts_again_by_itself_completes(program: Program, tmp_path: Path) -> None:
    """`submitit_local` starts a job again that has left so, and the sweep waits for that."""
    started, release = tmp_path / "started", tmp_path / "release"
    started.mkdir()
    words = ("train.py", "-m", "seed=1", f"started='{started}'", "hydra/launcher=submitit_local")
    sweep = program.start(*words, RELEASE=str(release))
    (job,) = wait_until(lambda: [*started.iterdir()])
    os.kill(int(job.suffix[1:]), signal.SIGUSR2)
    wait_until(lambda: "0.2.RUNNING" in program.states())
    release.touch()
    sweep.communicate(timeout=60)
    assert 0 == sweep.returncode
    assert ["0.1.PREEMPTED", "0.2.COMPLETED"] == program.states()


OLDER = """
import hydra, train
from experiment_manager.hydra.sweeper import RecordedTask

@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg):
    return RecordedTask(train.main.__wrapped__)(cfg)

main()
"""


def test_a_task_that_an_older_version_has_pickled_knows_its_launch(program: Program) -> None:
    """It waited while this version was installed, and has its launch in the environment."""
    assert 0 == program.sweep("seed=1").returncode
    (program.home / "older.py").write_text(OLDER)
    place = (f"hydra.sweep.dir={program.experiment}/jobs", "hydra.sweep.subdir=0")
    done = program.run(*place, script="older.py", EXPERIMENT_MANAGER_LAUNCH="0001")
    assert (1, True) == (done.returncode, "has been completed since launch 0001 was planned" in done.stderr)
    assert ["0.1.COMPLETED"] == program.states()


def test_configuration_edited_under_another_launcher_is_noticed(program: Program, tmp_path: Path) -> None:
    """Launchers that compose again when a job begins must not run what the manifest does not have."""
    started = tmp_path / "started"
    started.mkdir()
    release = tmp_path / "release"
    arguments = ("train.py", "-m", "seed=1,2", f"started='{started}'", "hydra/launcher=basic")
    sweep = program.start(*arguments, RELEASE=str(release))
    wait_until(lambda: list(started.iterdir()))
    program.edit("tau: 0.005", "tau: 9")
    release.touch()
    sweep.communicate(timeout=60)
    assert ["0.1.COMPLETED", "1.1.FAILED"] == program.states()
    assert "tau: 0.005 -> 9" in program.tool("show", "1").stdout


def test_basic_sweeper_gets_real_returns(program: Program) -> None:
    """Hydra's own sweeper over our launcher: each batch appends new jobs, the same values run again, and a failure is
    raised where Hydra asks for the value. Jobs write where hydra.sweep says, and whoever asks is told so; what is
    recorded of them lies in the experiment."""
    train = (program.home / "train.py").read_text()
    train = train.replace("    end_as_told", "    (job.directory / 'left').write_text(str(job.id))\n    end_as_told")
    (program.home / "train.py").write_text(train)
    arguments = ("hydra/sweeper=basic", "hydra.launcher.experiment_name=train", "hydra.sweep.dir='a sweep'")
    program.edit("seed: 1", "seed: 1\nhydra: {sweep: {subdir: 'no ${hydra.job.num} id ${hydra.job.id} seed ${seed}'}}")
    for _ in range(2):
        done = program.sweep(*arguments, "seed=1,2")
        assert done.returncode == 0, done.stderr
    assert [f"{job}.1.COMPLETED" for job in range(4)] == program.states()
    assert [1, 2, 1, 2] == [row["variables"]["seed"] for row in program.told("jobs")]
    names = ["no 0 id 0 seed 1", "no 0 id 2 seed 1", "no 1 id 1 seed 2", "no 1 id 3 seed 2"]
    sweep = program.home / "a sweep"
    assert ["multirun.yaml", *names] == sorted(path.name for path in sweep.iterdir())
    assert ["0", "2", "1", "3"] == [(sweep / name / "left").read_text() for name in names]
    assert {".hydra", "left", "train.log"} == {path.name for path in (sweep / names[3]).iterdir()}
    assert str(sweep / names[3]) == program.told("show", "3")["directory"]
    assert {"attempt.1.json", "metrics.1.jsonl", "result.1.json", "stderr.1.log", "stdout.1.log"} == {
        path.name for path in (program.experiment / "jobs" / "3").iterdir()
    }
    done = program.tool("archive", "--out", "packed.tar.gz")
    assert f"what 4 jobs have written lies outside of the experiment, as in {sweep / names[0]}" in done.stderr
    done = program.sweep(*arguments, "how=raise")
    assert done.returncode == 1
    assert "ValueError: told to raise" in done.stderr


@pytest.mark.usefixtures("light")
def test_optuna_optimises_over_our_launcher(program: Program) -> None:
    """A sweeper that draws values gets what the jobs returned, and finds the better ones with it."""
    text = (program.home / "train.py").read_text()
    (program.home / "train.py").write_text(text.replace("cfg.seed * cfg.algorithm.gain", "(cfg.tau - 3.0) ** 2"))
    settings = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2")
    done = program.sweep(*settings, "hydra.sweeper.sampler.seed=1", "tau=interval(0,10)", "hydra.launcher.n_jobs=2")
    assert done.returncode == 0, done.stderr
    results = [row["result"]["result"] for row in program.told("results")]
    assert 3 == len(results)
    assert f"Best value: {min(results)}" in done.stdout


ZEN = """
import sys
from helper import double
from hydra_zen import builds, launch, make_config
from experiment_manager import current_job

def task(cfg):
    if cfg.x == 3:
        raise ValueError("three")
    return double(cfg.x)

if __name__ == "__main__":
    try:
        (jobs,) = launch(
            make_config(x=1), task, multirun=True, version_base="1.3", job_name="train",
            overrides=["x=1," + sys.argv[1], "hydra/sweeper=experiment", "hydra/launcher=local_pool"],
        )
        print("returned", [job.return_value for job in jobs])
    finally:
        print("end of the script")
"""


def test_hydra_zen_launch_in_a_script(program: Program) -> None:
    """A configuration and a task function that exist in memory only travel as one pickle; the script around them does
    not run again in the jobs."""
    (program.home / "code").mkdir()
    (program.home / "code/helper.py").write_text("def double(x):\n    return x * 2\n")
    (program.home / "code/zen.py").write_text(ZEN)
    done = program.python("code/zen.py", "3")
    assert done.returncode == 1, done.stderr
    assert ["0.1.COMPLETED", "1.1.FAILED"] == program.states(), program.tool("show", "0").stdout
    assert [{"result": 2}, {}] == [row["result"] for row in program.told("results")]
    assert 1 == len(list((program.experiment / "tasks").iterdir()))
    done = program.python("code/zen.py", "4")
    assert "returned [2, 8]" in done.stdout, done.stderr
    assert "end of the script" not in Path(program.experiment / "jobs/0/stdout.1.log").read_text()


TWO_MAINS = """
import hydra

@hydra.main(version_base=None, config_path="conf", config_name="config")
def first(cfg):
    return 1

@hydra.main(version_base=None, config_path="conf", config_name="config")
def second(cfg):
    return 2

if __name__ == "__main__":
    first()
    second()
"""


def test_two_mains_in_one_script(program: Program) -> None:
    """Two functions of one script never share jobs: the second is told to take an experiment of its own; where it has
    one, each job runs the function of its own sweep, and not the whole script."""
    (program.home / "train.py").write_text(TWO_MAINS)
    done = program.sweep("seed=1")
    assert done.returncode == 2
    assert "belongs to train.py:first, and this sweep is of train.py:second" in done.stderr
    assert [{"result": 1}] == [row["result"] for row in program.told("results")]
    text = TWO_MAINS.replace('config_name="config")\ndef second', 'config_name="other")\ndef second')
    (program.home / "train.py").write_text(text)
    (program.home / "conf/other.yaml").write_text("defaults: [config]\nhydra: {sweeper: {experiment_name: other}}\n")
    assert 0 == program.sweep("seed=1").returncode
    program.experiment = program.home / "experiments" / "other"
    assert [{"result": 2}] == [row["result"] for row in program.told("results")]


def test_programs_that_only_run_are_left_alone(program: Program) -> None:
    """`python train.py` without -m is Hydra as ever: no experiment, and the job's calls record nothing."""
    done = program.run("seed=3", "hydra.run.dir=out")
    assert done.returncode == 0, done.stderr
    assert not program.experiment.exists()
    assert [".hydra", "train.log"] == sorted(path.name for path in (program.home / "out").iterdir())


def test_a_job_that_has_not_begun_has_no_log(tmp_path: Path) -> None:
    """Another sweeper is told of it in words that name no file that is not there."""
    folder = Folder(tmp_path, "train")
    value, error = _value(folder, Attempt(JobId(3), 0, State.PENDING))
    assert (None, f"job 3 of {folder.path} has not begun; the lines above say why") == (value, str(error))
