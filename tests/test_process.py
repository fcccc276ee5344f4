"""A sweep is one process and each job another one, whatever the program and its surroundings do."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Program, clean_env

TRAIN = """
import os
import signal
import sys

import hydra
import submitit
from experiment_manager import current_job

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID")

@hydra.main(version_base=None, config_path=None)
def main(cfg):
    with open("ran.txt", "a") as file:
        file.write(f"{cfg.x}\\n")
    if cfg.x == "leave":
        sys.exit(0)
    if cfg.x == "hard":
        os._exit(0)
    if cfg.x == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if cfg.x == "nothing":
        return None
    if cfg.x == "forks":
        if not os.fork():
            sys.exit(0)
        os.wait()
        os.kill(os.getpid(), signal.SIGKILL)
    if cfg.x == "say":
        sys.exit("no data for this one")
    if cfg.x == "raise":
        raise BaseException("nor for this one")
    ranks = [name for name in NAMES if name in os.environ]
    if cfg.x == "inner":
        os.environ["RANK"] = "1"
    return {"x": cfg.x, "ranks": ranks, "of": submitit.JobEnvironment().num_tasks if "ask" in cfg else 1}

if __name__ == "__main__":
    main()
"""
OURS = ("hydra/sweeper=experiment", "hydra/launcher=local_pool")


@pytest.fixture
def plain(program: Program) -> Program:
    """A program without configuration files that writes down each call of its task function."""
    (program.home / "train.py").write_text(TRAIN)
    return program


def calls(program: Program) -> list[str]:
    path = program.home / "ran.txt"
    return sorted(path.read_text().split()) if path.exists() else []


@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "1", "WORLD_SIZE": "2"},
        {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_ID": "0"},
        {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"},
        {"PMI_RANK": "0", "PMI_SIZE": "8"},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_one_of_several_processes_does_not_sweep(plain: Program, variables: dict[str, str]) -> None:
    """Each rank would sweep, and ranks of different jobs would meet: refused with a sentence, and nothing has run."""
    done = plain.sweep("+x=1,2", *OURS, **variables)
    assert 2 == done.returncode
    assert "each of them would sweep; start the sweep once" in done.stderr
    assert "Traceback" not in done.stderr
    assert [] == calls(plain)
    assert not plain.experiment.exists()


@pytest.mark.parametrize("launcher", ["submitit_slurm", "submitit_local"])
def test_launcher_of_several_processes_per_job(plain: Program, launcher: str) -> None:
    """Each process that another launcher starts would make an attempt of its own at the job, so the sweep is refused
    before anything is submitted, with the launcher that knows ranks; one process per job, as it is there, is none."""
    done = plain.sweep("+x=1,2", "hydra/sweeper=experiment", f"hydra/launcher={launcher}", "hydra.launcher.nodes=2")
    assert 2 == done.returncode
    assert f"hydra/launcher={launcher} would start each job as 2 processes (nodes=2, tasks_per_node=1)" in done.stderr
    assert "use hydra/launcher=slurm_submitit, which takes the same options" in done.stderr
    assert "Traceback" not in done.stderr
    assert not plain.experiment.exists()


def test_jobs_have_no_rank_of_others(plain: Program) -> None:
    """A rank that was left in the environment reaches no job, whose results are all kept; a rank that a job has made
    itself counts, and what is not kept for it is said. submitit's question about ranks is answered with one task."""
    done = plain.sweep("+x=1,inner", "+ask=1", *OURS, RANK="1", LOCAL_RANK="1", SLURM_PROCID="3")
    assert 0 == done.returncode, done.stderr
    assert "jobs do not get LOCAL_RANK, RANK from here" in done.stderr
    kept, inner = plain.told("results")
    assert {"x": 1, "ranks": [], "of": 1} == kept["result"]
    assert not inner["result"]
    said = (plain.experiment / "jobs/1/stderr.1.log").read_text()
    assert "what rank 1 (RANK) returned is not kept" in said


@pytest.mark.parametrize("launcher", ["local_pool", "basic"])
def test_main_that_is_called_twice(plain: Program, launcher: str) -> None:
    """Each job runs once, however often the program calls its main function."""
    (plain.home / "train.py").write_text(TRAIN.replace("    main()\n", "    main()\n    main()\n"))
    done = plain.sweep("+x=1,2", "hydra/sweeper=experiment", f"hydra/launcher={launcher}")
    assert 0 == done.returncode, done.stderr
    assert ["1", "2"] == calls(plain)
    assert ["0.1.COMPLETED", "1.1.COMPLETED"] == plain.states()


def test_sweeps_in_a_loop_run_their_own_jobs(plain: Program) -> None:
    """A script that sweeps again with other arguments runs the jobs of each sweep once, with its own values."""
    loop = (
        "    given = sys.argv[1:]\n"
        "    for x in ('1,2', '3,4'):\n"
        "        sys.argv[1:] = ['-m', f'+x={x}', *given]\n"
        "        main()\n"
    )
    (plain.home / "train.py").write_text(TRAIN.replace("    main()\n", loop))
    done = plain.run(*OURS)
    assert 0 == done.returncode, done.stderr
    assert ["1", "2", "3", "4"] == calls(plain)
    assert [1, 2, 3, 4] == [row["result"]["x"] for row in plain.told("results")]


@pytest.mark.parametrize("launcher", ["local_pool", "basic"])
def test_task_that_leaves_ends_itself_alone(plain: Program, launcher: str) -> None:
    """`sys.exit(0)` in a task is the end of its own job, which has completed, under other launchers, too."""
    done = plain.sweep("+x=leave,2", "hydra/sweeper=experiment", f"hydra/launcher={launcher}")
    assert 0 == done.returncode, done.stderr
    assert ["2", "leave"] == calls(plain)
    assert ["0.1.COMPLETED", "1.1.COMPLETED"] == plain.states()
    said = plain.tool("doctor").stdout, plain.tool("results").stderr
    assert "no result" not in "".join(said)  # nobody has removed any, and it is not to be run again
    assert [True, True] == [ended(plain, job)["has_result"] for job in (0, 1)]  # it has returned nothing


@pytest.mark.parametrize("line", ['"$@" | cat', '"$@"; true'])
def test_a_command_around_a_job_that_ends_well_does_not_make_it_complete(plain: Program, line: str) -> None:
    """Under `wrap` the job has to leave that it is done: it returns, or calls `sys.exit(0)`. The end of a shell that
    has waited for it says nothing of a kill, of another status, or of a copy of the task that has left."""
    ways = {"2": True, "nothing": True, "leave": True, "say": False, "kill": False, "hard": False, "forks": False}
    wrap = f"hydra.launcher.wrap=[sh,-c,'{line}',sh]"
    words = (f"+x={','.join(ways)}", "hydra/sweeper=experiment", "hydra/launcher=slurm_script", wrap)
    assert 0 == plain.sweep(*words).returncode
    for job in range(len(ways)):
        plain.tool("run", str(job), "--launch", "0001")
    expected = [f"{job}.1.{'COMPLETED' if is_well else 'FAILED'}" for job, is_well in enumerate(ways.values())]
    assert expected == plain.states()
    for job, is_well in enumerate(ways.values()):
        assert is_well == ("the job left no result" not in (ended(plain, job)["reason"] or ""))


def test_jobs_that_run_without_the_command_around_them_are_named(plain: Program) -> None:
    """Whoever runs jobs here that a scheduler was to run under `wrap` knows it before they begin, once: by `run`,
    `work`, `resubmit` and a sweep. Nothing is said where that launch itself runs them."""
    at_scheduler = ("hydra/sweeper=experiment", "hydra/launcher=slurm_script")
    assert 0 == plain.sweep("+x=2,3,4,say", *at_scheduler, "hydra.launcher.wrap=[env,'A=1']").returncode
    calls: dict[str, Callable[[], Any]] = {
        "job 0": lambda: plain.tool("run", "0"),
        "jobs 1,3": lambda: plain.tool("work", "--where", "1,3"),
        "job 3": lambda: plain.tool("resubmit", "--launcher", "local_pool", "--yes"),
        "": lambda: plain.tool("run", "2", "--launch", "0001"),
        "jobs 0-3": lambda: plain.sweep("+x=2,3,4,say", *OURS, "hydra.sweeper.rerun=always"),
    }
    for named, call in calls.items():
        said = call().stderr
        assert ([named] if named else []) == re.findall(r"warning: (jobs? \S+) of \S+ runs? here without", said)
        assert not named or said.count("at a scheduler has (0001)") == 1, said
    (plain.experiment / "launches" / "0001" / "launch.json").write_text("{")
    again = plain.tool("run", "0")
    assert (0, False) == (again.returncode, "warning" in again.stderr), again.stderr


def ended(program: Program, job: int) -> dict[str, Any]:
    """How its first attempt has ended, as that is recorded."""
    record: dict[str, Any] = json.loads((program.experiment / f"jobs/{job}/attempt.1.json").read_text())
    return record


def test_words_of_a_task_that_leaves_are_its_reason(plain: Program) -> None:
    """`sys.exit("text")`, and an exception that Hydra does not catch, are told as the reason of the failure."""
    done = plain.sweep("+x=say,raise", *OURS)
    assert 1 == done.returncode
    shown = [plain.told("show", job)["attempts"][0]["reason"] for job in "01"]
    for text, reason in zip(["no data for this one", "BaseException: nor for this one"], shown, strict=True):
        assert reason.endswith(text)


def test_callbacks_see_where_the_jobs_lie(program: Program) -> None:
    """`on_multirun_end` of a user's callback finds the output of each job below the sweep directory, and in a job a
    callback hears of the job, and of no run."""
    (program.home / "gather.py").write_text(
        "from pathlib import Path\n"
        "from hydra.experimental.callback import Callback\n\n\n"
        "class Gather(Callback):\n"
        "    def __getattribute__(self, name):\n"
        "        if name.startswith(('on_run', 'on_job')):\n"
        "            print('heard', name)\n"
        "        return super().__getattribute__(name)\n"
        "    def on_multirun_end(self, config, **kwargs):\n"
        "        found = Path(config.hydra.sweep.dir).glob('*/.hydra/config.yaml')\n"
        "        print('gathered', *sorted(path.parent.parent.name for path in found))\n"
    )
    for launcher in ("local_pool", "basic"):
        name = f"hydra.sweeper.experiment_name={launcher}"
        callback = "+hydra.callbacks.gather._target_=gather.Gather"
        done = program.sweep("seed=1,2", callback, f"hydra/launcher={launcher}", name)
        assert 0 == done.returncode, done.stderr
        assert "gathered 0 1" in done.stdout
        log = program.home / f"experiments/{launcher}/jobs/0/stdout.1.log"
        heard = (log.read_text() if launcher == "local_pool" else done.stdout).splitlines()
        assert ["heard on_job_start", "heard on_job_end"] == [line for line in heard if line.startswith("heard")][:2]
        assert not [line for line in heard if line.startswith("heard on_run")]


@pytest.mark.skipif(version("hydra-core") < "1.4", reason="Hydra allows every call before 1.4")
def test_program_need_not_allow_our_callback(plain: Program) -> None:
    """A program that allows Hydra to call nothing but its own has its jobs checked and recorded all the same."""
    text = TRAIN.replace("version_base=None, config_path=None", "config_path=None, execution_whitelist=['__main__.*']")
    (plain.home / "train.py").write_text(text)
    done = plain.sweep("+x=1", *OURS)
    assert 0 == done.returncode, done.stderr
    assert [1] == [row["result"]["x"] for row in plain.told("results")]
    assert "" == (plain.experiment / "jobs/0/stderr.1.log").read_text()


def test_script_that_runs_a_script(plain: Program, tmp_path: Path) -> None:
    """Started as coverage, memray and IPython start a program, a sweep starts its jobs the same way."""
    wrapper = tmp_path / "wrap.py"
    wrapper.write_text("import runpy, sys\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n")
    command = [sys.executable, str(wrapper), "train.py", "-m", "+x=1", *OURS]
    done = subprocess.run(command, cwd=plain.home, env=clean_env(), capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    assert ["1"] == calls(plain)
    assert f"{shlex.quote(str(wrapper))} train.py" in plain.tool("show", "0").stdout
    wrapper.rename(plain.home / "wrap.py")
    for words in ("init -q", "add wrap.py train.py"):
        subprocess.run(["git", *words.split()], cwd=plain.home, check=True)
    command[1:] = ["wrap.py", "train.py", "-m", "+x=3", *OURS, "hydra.launcher.snapshot=true"]
    done = subprocess.run(command, cwd=plain.home, env=clean_env(), capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    (copy,) = plain.experiment.glob("code/*/wrap.py")
    assert f"{shlex.quote(str(copy))} train.py" in plain.tool("show", "1").stdout


SELDOM = """
import errno, os, sys
from experiment_manager.execution import run
from experiment_manager.execution.supervisor import Outcome

fork, asked, refused = os.fork, [], int(sys.argv[1])

def seldom():
    asked.append(os.getpid())
    if len(asked) == refused:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return fork()

os.fork = seldom
outcome = run._run_together([3, 4], lambda job: print("ran", job, flush=True) or Outcome(0))
print(outcome.status, len(asked))
"""


def test_where_there_are_no_more_processes_jobs_wait() -> None:
    """The second of two jobs, or lanes of `work`, begins once the first has ended, which is said; where not one process
    can be started, that is an error of ours."""
    done = subprocess.run([sys.executable, "-c", SELDOM, "2"], capture_output=True, text=True, check=True)
    assert ["ran 3", "ran 4", "0 3"] == done.stdout.splitlines()
    assert "Resource temporarily unavailable: another process is started when one has ended" in done.stderr
    done = subprocess.run([sys.executable, "-c", SELDOM, "1"], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert "ExperimentManagerError: no process could be started: Resource temporarily unavailable" in last
    assert "" == done.stdout


WARNED = """
import os, signal, time
from experiment_manager.execution import run
from experiment_manager.execution.supervisor import Outcome

def ran(lane):
    print("ran", lane, flush=True)
    os.kill(os.getppid(), signal.SIGUSR1)
    signal.sigwait([signal.SIGUSR1])  # which is passed on
    return Outcome(0, is_to_requeue=True)

outcome = run._run_together([3, 4], ran, 1)
print(outcome.status, outcome.is_to_requeue)
"""


def test_no_lane_begins_after_a_warning() -> None:
    """Where one lane of a worker waits for a GPU, which another one has as the warning comes, it takes no job: the
    other says whether the task is started again."""
    env = clean_env(CUDA_VISIBLE_DEVICES="0")
    done = subprocess.run([sys.executable, "-c", WARNED], env=env, capture_output=True, text=True, check=True)
    assert ["ran 3", "0 True"] == done.stdout.splitlines()
