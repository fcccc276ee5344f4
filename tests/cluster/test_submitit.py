"""`hydra/launcher=slurm_submitit`: submit and leave, or wait and hand real values to whoever optimises with them."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.sweeps import slurm
from tests.cluster.test_submission import calls, kill, wrapper
from tests.conftest import Program, files_below, wait_until

SUBMIT = "hydra/launcher=slurm_submitit"
ON_DISK = 2_000
"""Bytes per job that a submission may leave, as promised."""


def has_ended(program: Program, n_jobs: int) -> bool:
    states = program.states()
    return len(states) == n_jobs and not any("RUNNING" in name for name in states)


def used(folder: Path) -> int:
    """The bytes of all files below a folder."""
    return sum(len(content) for content in files_below(folder).values())


def noted(program: Program, launch: str = "0001") -> dict[str, Any]:
    path = program.experiment / "launches" / launch / "submission.json"
    found: dict[str, Any] = json.loads(path.read_text())["arrays"]
    return found


def timed(program: Program, *arguments: str) -> "tuple[float, subprocess.CompletedProcess[str]]":
    began = time.monotonic()
    done = program.sweep(*arguments)
    assert 0 == done.returncode, done.stderr
    return time.monotonic() - began, done


@pytest.mark.usefixtures("light")
def test_submit_and_leave(program: Program) -> None:
    """A sweep of twenty jobs is at the prompt again within two seconds more than it takes to plan it, while the jobs
    go on; what it leaves on disk is small and tidy."""
    grid = ("seed=range(1,21)", "hydra.launcher.array_parallelism=8")
    planned, _ = timed(program, *grid, "hydra/launcher=slurm_script", "hydra.sweeper.experiment_name=planned")
    took, done = timed(program, *grid, SUBMIT)
    assert took < planned + 2
    (array,) = noted(program).values()
    assert f"submitted as SLURM job {array['slurm_id']}" in done.stderr
    launches = program.experiment / "launches"
    assert used(launches) < 20 * ON_DISK
    top = {path.name for path in launches.iterdir()}
    assert {"0001", ".submitit"} == top
    kept = {path.name for path in (launches / "0001").iterdir() if path.suffix != ".log"}
    assert {"launch.json", "multirun.yaml", "submission.json", "slurm_scripts.sh"} <= kept
    assert kept <= {
        "launch.json",
        "orders.sqlite",
        "packages.txt",
        "multirun.yaml",
        "submission.json",
        "slurm_scripts.sh",
        ".submitting.lock",
        "settled",
    }
    assert not (program.experiment / "slurm_scripts.sh").exists()
    assert [array["slurm_id"]] == [path.name for path in (launches / ".submitit").iterdir()]
    assert not list(launches.rglob("*.pkl"))
    wait_until(lambda: has_ended(program, 20), 90)
    assert sorted(f"{job}.1.COMPLETED" for job in range(20)) == program.states()
    assert [] == list((launches / "0001").glob("*.log"))


@pytest.mark.usefixtures("light")
def test_swept_again_while_it_runs(program: Program) -> None:
    """The same command again leaves alone what SLURM has, and submits only what is new."""
    sweep = ("seed=1,2", "hydra.launcher.cpus_per_task=1", SUBMIT)
    assert 0 == program.sweep(*sweep, HOLD="60").returncode
    again = program.sweep(*sweep, HOLD="60")
    assert 0 == again.returncode, again.stderr
    assert "0 to run" in again.stderr
    assert ["0001"] == sorted(
        path.name for path in (program.experiment / "launches").iterdir() if path.name != ".submitit"
    )
    more = program.sweep("seed=1,2,3", *sweep[1:], HOLD="60")
    assert "1 to run" in more.stderr
    wait_until(lambda: ["RUNNING"] * 3 == [row["state"] for row in program.told("jobs")])
    assert {"jobs": [0, 1, 2]} == program.told("cancel")
    wait_until(lambda: has_ended(program, 3))
    assert [f"{job}.1.CANCELLED" for job in range(3)] == program.states()


@pytest.mark.parametrize("how", ["kill -9", "Ctrl-C"])
@pytest.mark.usefixtures("light")
def test_stopped_in_the_middle(program: Program, tmp_path: Path, how: str) -> None:
    """The sweep is stopped while it submits its second array: `experiment-manager submit` submits the rest, and nothing
    twice."""
    path = wrapper(tmp_path / "bin", "", '$REAL "$@"; exec sleep 5')
    grid = ("+res.mem_gb=0.1,0.11,0.12", "hydra.launcher.resources_from=res")
    sweep = program.start("train.py", "-m", *grid, SUBMIT, PATH=path)
    wait_until(lambda: calls(tmp_path / "bin") == 2 and len(_there(program)) == 2)
    if how == "kill -9":
        kill(sweep)
    else:
        os.killpg(sweep.pid, signal.SIGINT)
        said = sweep.communicate(timeout=5)[1]
        assert 130 == sweep.returncode
        assert "stopped while submitting; `experiment-manager submit experiments/train` goes on" in said
        assert "Traceback" not in said
    told = program.told("submit")
    assert [False, False, True] == [array["is_new"] for array in told]
    wait_until(lambda: has_ended(program, 3), 60)
    assert [f"{job}.1.COMPLETED" for job in range(3)] == program.states()
    assert {array["slurm_id"] for array in told} == _there(program)


def _there(program: Program) -> set[str]:
    """SLURM's ids of all arrays of the experiment's launch."""
    (launch,) = [path for path in (program.experiment / "launches").iterdir() if path.name.isdigit()]
    names = {array["name"] for array in json.loads((launch / "launch.json").read_text())["slurm"]["arrays"]}
    rows = [row.split("|") for row in slurm("squeue", "-h", "-t", "all", "-o", "%j|%F").splitlines()]
    return {row[1] for row in rows if row[0] in names}


@pytest.mark.usefixtures("light")
def test_waiting_tells_how_it_went(program: Program) -> None:
    """With `wait` the sweep ends when all jobs have: with 0, or with 1 and a line that says which one failed."""
    done = program.sweep("seed=1,2", "how=well,raise", SUBMIT, "hydra.launcher.wait=true")
    assert 1 == done.returncode
    assert ["0.1.COMPLETED", "1.1.FAILED", "2.1.COMPLETED", "3.1.FAILED"] == program.states()
    lines = sorted(re.findall(r"job (\d) (\w+)  (.*?)  \(", done.stderr))
    expected = [("0", "COMPLETED"), ("1", "FAILED"), ("2", "COMPLETED"), ("3", "FAILED")]
    assert expected == [(job, state) for job, state, _ in lines], done.stderr
    assert "2 of 4 jobs did not complete (2 FAILED); the same command runs them again" in done.stderr
    assert "experiment-manager show experiments/train 1" in done.stderr
    done = program.sweep("seed=1", "how=well", "tau=1", SUBMIT, "hydra.launcher.wait=true", "hydra.sweeper.rerun=never")
    assert 0 == done.returncode, done.stderr


@pytest.mark.usefixtures("light")
def test_ctrl_c_while_waiting(program: Program) -> None:
    """Ctrl-C asks nothing and leaves the jobs running, with a line that says how to cancel them; that line does it. The
    same command waits for them again."""
    sweep = program.start("train.py", "-m", "seed=1,2", SUBMIT, "hydra.launcher.wait=true", HOLD="120")
    wait_until(lambda: ["0.1.RUNNING", "1.1.RUNNING"] == program.states())
    os.killpg(sweep.pid, signal.SIGINT)
    _, said = sweep.communicate(timeout=5)
    assert 130 == sweep.returncode
    assert "Traceback" not in said
    (line,) = re.findall(r"the jobs 0-1 go on without this program; cancel them with `(experiment-manager .*)`", said)
    assert ["RUNNING"] * 2 == [row["state"] for row in program.told("jobs")]
    again = program.start("train.py", "-m", "seed=1,2", SUBMIT, "hydra.launcher.wait=true", HOLD="120")
    assert again.stderr is not None
    words = "waiting for jobs 0-1, which launch 0001 has in hand (hydra.launcher.wait)"
    assert any(words in line for line in again.stderr)
    done = program.python("-m", "experiment_manager", *line.split()[1:])
    assert 0 == done.returncode, done.stderr
    wait_until(lambda: ["0.1.CANCELLED", "1.1.CANCELLED"] == program.states())
    _, said = again.communicate(timeout=60)
    assert (1, True) == (again.returncode, "2 of 2 jobs did not complete (2 CANCELLED)" in said), said


@pytest.mark.usefixtures("light")
def test_optuna_optimises_on_the_cluster(program: Program) -> None:
    """A sweeper that draws values gets what the jobs have returned on their nodes, and draws better ones with it."""
    text = (program.home / "train.py").read_text()
    (program.home / "train.py").write_text(text.replace("cfg.seed * cfg.algorithm.gain", "(cfg.tau - 3.0) ** 2"))
    settings = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2")
    sampler = ("hydra.sweeper.sampler.seed=3", "hydra.sweeper.sampler.n_startup_trials=2")
    done = program.sweep(*settings, *sampler, "tau=interval(0,10)", SUBMIT, "hydra.launcher.wait=true")
    assert 0 == done.returncode, done.stderr
    rows = program.told("results")
    results = [row["result"]["result"] for row in rows]
    assert [(row["variables"]["tau"] - 3.0) ** 2 for row in rows] == pytest.approx(results)
    assert 4 == len(results)
    assert f"Best value: {min(results)}" in done.stdout
    assert min(results[2:]) <= min(results[:2])
    assert ["0001", "0002"] == sorted(p.name for p in (program.experiment / "launches").iterdir() if p.name.isdigit())


@pytest.mark.parametrize(
    ("sweeper", "launcher"), [("basic", "slurm_submitit"), ("basic", "slurm_script"), ("optuna", "slurm_submitit")]
)
def test_sweepers_that_need_results_are_refused(program: Program, sweeper: str, launcher: str) -> None:
    """A launcher that does not wait refuses a sweeper that needs results, before anything is submitted or written."""
    before = files_below(program.home)
    values = "tau=interval(0,1)" if sweeper == "optuna" else "tau=0,1"
    done = program.sweep(f"hydra/sweeper={sweeper}", f"hydra/launcher={launcher}", values)
    assert 2 == done.returncode
    assert [f"error: hydra/launcher={launcher} returns before the jobs have run"] == [
        line.partition(",")[0] for line in done.stderr.splitlines() if line.startswith("error: ")
    ]
    assert "hydra.launcher.wait=true" in done.stderr
    assert before == {name: text for name, text in files_below(program.home).items() if "__pycache__" not in name}
    assert {"conf"} == {path.name for path in program.home.iterdir() if path.is_dir()} - {"__pycache__"}


@pytest.mark.usefixtures("light")
def test_submitit_keeps_its_files_where_it_is_told(program: Program, tmp_path: Path) -> None:
    """`submitit_folder` names another place for submitit's own files, and one that cannot be made is said so, with
    nothing in doubt."""
    done = program.sweep("seed=1", SUBMIT, f"hydra.launcher.submitit_folder={tmp_path}/own/%j")
    assert 0 == done.returncode, done.stderr
    (array,) = noted(program).values()
    assert [array["slurm_id"]] == [path.name for path in (tmp_path / "own").iterdir()]
    assert not (program.experiment / "launches/.submitit").exists()
    done = program.sweep("seed=2", SUBMIT, "hydra.launcher.submitit_folder=/proc/nowhere/%j")
    assert 2 == done.returncode
    assert "error: /proc/nowhere cannot be made or written" in done.stderr
    assert {} == noted(program, "0002")
