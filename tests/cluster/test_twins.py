"""One thing in Python, on the command line and by hand: scripts of an experiment, and what runs where and as whom."""

import json
import os
import re
import sys
from pathlib import Path

import pytest

from experiment_manager import SLURM, Experiment
from tests.cluster.conftest import shell_as_user
from tests.cluster.python_jobs import Jobs
from tests.cluster.sweeps import slurm
from tests.cluster.test_submission import sbatch_by_hand
from tests.conftest import Program, wait_until

DEFINE = """
import os, sys
from experiment_manager import Experiment, SLURM

abs_folder_path = os.path.dirname(os.path.realpath(__file__))
experiment_name = "test_experiment"
exp = Experiment(["algorithm", "seed"], experiment_name, abs_folder_path)
for alg in ["TD3", "DDPG"]:
    for seed in [1, 2, 3]:
        variables = {"algorithm": alg, "seed": seed}
        configuration = {"algorithm": alg, "seed": seed, "nn": [1, 10], "tau": 0.005}
        exp.add_job(variables, configuration)
exp.save()

def pass_filter(variables):
    return variables["algorithm"] == "TD3"

exp.save_pass_filter(exp.get_ids(pass_filter))
slurm = {
    "n_gpus": int(sys.argv[1]),
    "n_cpus": 1,
    "memory": "1000",
    "time": "10:00:00",
    "post_script": ["module load python/3.8", "module load conda"],
    "pre_script": ["conda deactivate idrl", "module unload conda", "module unload python/3.8"],
    "python_runner": "runner.py"
}
exp.set_slurm_config(SLURM(**slurm))
exp.save()
print(*exp.generate_slurm_script("python_script", "job_name", 10))
"""
"""The program of the original README, with the number of GPUs as its argument."""

RUNNER = """
import argparse, getpass, os
from experiment_manager import Experiment

def runner(job_id, variables, configuration):
    return [getpass.getuser(), os.environ.get("CUDA_VISIBLE_DEVICES"), variables["seed"], configuration["nn"]]

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--job-id", type=int)
    parser.add_argument("--experiment-path", type=str)
    parser.add_argument("--experiment-name", type=str)
    args = parser.parse_args()

    exp = Experiment.load(args.experiment_name, args.experiment_path)
    exp.run_id(args.job_id, runner)
"""


@pytest.mark.parametrize(("user", "gpus"), [("root", [0]), ("alice", [1])])
def test_programs_of_the_original_readme(request: pytest.FixtureRequest, user: str, gpus: list[int]) -> None:
    """The jobs that pass run to their results, with the GPU that they ask for and as who has submitted them, from
    whatever folder; lines before and after the job that fail do not harm it."""
    program: Program = request.getfixturevalue("alices_program" if user == "alice" else "program")
    submitted = {n_gpus: submitted_original(user, program, n_gpus) for n_gpus in gpus}
    for n_gpus, slurm_id in submitted.items():
        program.experiment = program.home / f"{n_gpus}/test_experiment"
        ended_original(user, program, n_gpus, slurm_id)


def submitted_original(user: str, program: Program, n_gpus: int) -> str:
    """The two programs of the original README lie in a folder of their user's, the first has run, and SLURM has what
    it has written, by this id."""
    folder = program.home / str(n_gpus)
    assert 0 == shell_as_user(user, f"mkdir {n_gpus}", program.home).returncode
    for name, text in (("define.py", DEFINE), ("python_script.py", RUNNER)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o644)
    done = program.python(f"{n_gpus}/define.py", str(n_gpus))
    assert 0 == done.returncode, done.stderr
    script = folder / "test_experiment/slurm_scripts.sh"
    assert f"{script}\n" == done.stdout
    submitted = shell_as_user(user, f"cd /; sbatch --parsable {script}", program.home)
    assert 0 == submitted.returncode, submitted.stderr
    return submitted.stdout.strip()


def ended_original(user: str, program: Program, n_gpus: int, slurm_id: str) -> None:
    """All that was submitted has come to its results."""
    script = program.experiment / "slurm_scripts.sh"
    wait_until(lambda: [f"{job}.1.COMPLETED" for job in range(3)] == program.states(), 60)
    results = [row["result"]["result"] for row in program.told("results", "--selected")]
    assert 3 == len(results)
    for seed, (name, gpus, own_seed, nn) in enumerate(results, start=1):
        assert (user, seed, [1, 10]) == (name, own_seed, nn)
        assert (gpus in {"0", "1", "2", "3"}) == bool(n_gpus)
    assert "#SBATCH --job-name=job-name-" in script.read_text()
    log = (program.experiment / f"launches/0001/{slurm_id}_0.log").read_text()
    assert 3 <= log.count("command not found") <= 5
    told = program.told("submit")
    assert [(slurm_id, False)] == [(array["slurm_id"], array["is_new"]) for array in told]


def test_first_jobs_and_lines_around_them(tmp_path: Path) -> None:
    """With a number of jobs the first that many of those that pass and are not done are taken; lines run before and
    after each; a failing job stays a failing task, and one that has completed a task that has."""
    jobs = Jobs(
        tmp_path / "home",
        [{}, {}, {"how": {"exit": 3}}, {"show": ["FROM_BEFORE"]}, {}],
        pre_script=["export FROM_BEFORE=seen", f"echo before $SLURM_ARRAY_TASK_ID >> {tmp_path}/around"],
        post_script=[f"echo after $SLURM_ARRAY_TASK_ID >> {tmp_path}/around", "false"],
    )
    exp = jobs.experiment
    exp.save_pass_filter([1, 2, 3, 4])
    (script,) = exp.generate_slurm_script(None, "few", 3)
    assert "#SBATCH --array=1-3\n" in Path(script).read_text()
    jobs.slurm_ids = [array.slurm_id for array in exp.submit()]
    assert ["1.1.COMPLETED", "2.1.FAILED", "3.1.COMPLETED"] == jobs.await_ends()
    assert {"FROM_BEFORE": "seen"} == jobs.result(3)
    lines = (tmp_path / "around").read_text().splitlines()
    assert sorted(f"{when} {job}" for when in ("before", "after") for job in (1, 2, 3)) == sorted(lines)
    assert all(lines.index(f"before {job}") < lines.index(f"after {job}") for job in (1, 2, 3))
    asked = ("sacct", "-X", "-n", "-P", "-j", jobs.slurm_id, "-o", "JobID,State,ExitCode")
    expected = [f"{jobs.task(1)}|COMPLETED|0:0", f"{jobs.task(2)}|FAILED|3:0", f"{jobs.task(3)}|COMPLETED|0:0"]
    wait_until(lambda: expected == sorted(slurm(*asked).splitlines()))
    (script,) = exp.generate_slurm_script(None, "few", 1)
    assert "#SBATCH --array=2\n" in Path(script).read_text()
    (script,) = exp.generate_slurm_script(None, "few", 1, rerun="never", overrides={"cpus_per_task": 2})
    assert "#SBATCH --array=4\n" in Path(script).read_text()
    assert "#SBATCH --cpus-per-task=2\n" in Path(script).read_text()


def test_a_whole_command_runs_the_jobs(tmp_path: Path) -> None:
    """`job_runner` in a saved file is a command of its own, which gets the options of a job."""
    jobs = Jobs(tmp_path / "home", [{"show": ["WRAPPED"]}])
    command = f"env WRAPPED='a b' {sys.executable} {tmp_path}/home/runner.py"
    SLURM(job_runner=command, memory="200M", time=5).save(tmp_path / "options.yaml")
    exp = Experiment.load("e", tmp_path / "home")
    exp.set_slurm_config(SLURM.load(tmp_path / "options.yaml"))
    exp.save()
    jobs.experiment = exp
    jobs.submit()
    assert ["0.1.COMPLETED"] == jobs.await_ends()
    assert {"WRAPPED": "a b"} == jobs.result(0)


@pytest.mark.usefixtures("light")
def test_script_and_submit_on_the_command_line(program: Program) -> None:
    """`script` writes with other options what the last sweep asked for, `submit --test-only` submits nothing, `submit`
    the newest launch or the one that is named, all with JSON for scripts."""
    assert 0 == program.sweep("seed=1,2,3", "hydra/launcher=slurm_script", "hydra.launcher.cpus_per_task=2").returncode
    told = program.told("script", "mem_gb=0.3", "--set", "timeout_min=2:00:00", "--jobs", "2", "--job-name", "Two")
    assert {"scripts": [str(program.experiment / "slurm_scripts.sh")]} == told
    text = (program.experiment / "slurm_scripts.sh").read_text()
    for line in ("--array=0-1", "--cpus-per-task=2", "--mem=308M", "--time=02:00:00"):
        assert f"#SBATCH {line}\n" in text
    assert re.search("^#SBATCH --job-name=two-[a-z0-9]{8}$", text, re.MULTILINE)
    (tested,) = program.told("submit", "--test-only")
    assert re.match(r"sbatch: Job \d+ to start at", tested["sbatch"])
    assert [] == slurm("squeue", "-h", "-t", "all", "-n", _job_name(text), "-o", "%F").splitlines()
    assert ["PENDING"] * 3 == [row["state"] for row in program.told("jobs")]
    (second,) = program.told("submit")
    assert second["is_new"]
    (first,) = program.told("submit", "--launch", "0001")
    assert first["slurm_id"] != second["slurm_id"]
    wait_until(lambda: [f"{job}.1.COMPLETED" for job in range(3)] == program.states(), 60)
    assert {"COMPLETED": 3} == program.told("status")["counts"]
    done = program.tool("submit")
    assert (
        f"{program.experiment}/slurm_scripts.sh was submitted already, as SLURM job {second['slurm_id']}\n"
        == done.stdout
    )


def _job_name(script: str) -> str:
    (name,) = re.findall("--job-name=(.*)", script)
    return str(name)


SHOW = """
import json, os, sys
import hydra
from hydra.utils import get_original_cwd
from experiment_manager import current_job

@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg):
    slurm = {name: os.environ.get(name) for name in ("SLURM_ARRAY_TASK_ID", "MINE", "SLURM_CPUS_PER_TASK")}
    return {"cwd": os.getcwd(), "original": get_original_cwd(), "argv0": sys.argv[0], "seed": cfg.seed, **slurm}

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("launcher", ["slurm_submitit", "slurm_script"])
def test_where_a_job_runs(program: Program, launcher: str, tmp_path: Path) -> None:
    """A sweep that was typed in a subfolder, with a relative experiment_path, runs its jobs there, wherever the script
    is submitted, with the environment of who submits it and nothing of a job that it was submitted from."""
    (program.home / "show.py").write_text(SHOW)
    inside = Program(program.home / "sub folder")
    inside.home.mkdir()
    inside.experiment = program.home / "exp s" / "train"
    place = ("hydra.sweeper.experiment_path='../exp s'", "hydra.sweeper.experiment_name=train")
    env = {"MINE": "a b", "SLURM_CPUS_PER_TASK": "7", "SLURM_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "99"}
    done = inside.run("-m", "seed=4,5", *place, f"hydra/launcher={launcher}", script="../show.py", **env)
    assert 0 == done.returncode, done.stderr
    if launcher == "slurm_script":
        (shown,) = re.findall(r"submit with: sbatch '?(.*?)'?  \(2 jobs", done.stderr)
        os.environ["MINE"] = "a b"
        try:
            sbatch_by_hand(inside.home / shown, tmp_path)
        finally:
            del os.environ["MINE"]
    wait_until(lambda: ["0.1.COMPLETED", "1.1.COMPLETED"] == inside.states(), 60)
    here = str(inside.home)
    for job in range(2):
        result = json.loads((inside.experiment / f"jobs/{job}/result.1.json").read_text())["result"]
        expected = {"cwd": here, "original": here, "argv0": "../show.py", "seed": 4 + job}
        assert {**expected, "SLURM_ARRAY_TASK_ID": str(job), "MINE": "a b", "SLURM_CPUS_PER_TASK": None} == result
    assert not (inside.home / "experiments").exists()
