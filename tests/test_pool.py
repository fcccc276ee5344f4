"""`hydra/launcher=local_pool`: bounded, interruptible, readable on a terminal and in a pipe."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiment_manager.execution.pool import JobEnd
from experiment_manager.experiment import Experiment
from experiment_manager.hydra.launchers import were_short
from experiment_manager.model.records import Attempt, JobId, State
from experiment_manager.store.launches import create_launch, user_name
from experiment_manager.store.layout import Folder
from experiment_manager.store.states import States
from tests.conftest import APP, Program, ProgramAfter, clean_env, wait_until


def start_sweep(program: Program, started: Path, *arguments: str) -> "subprocess.Popen[str]":
    started.mkdir()
    return program.start("train.py", "-m", f"started='{started}'", "sleep=30", *arguments)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.usefixtures("light")
def test_interrupt_ends_the_children_and_records_cancelled(
    program: Program, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    """Ctrl-C, TERM and HUP end the running jobs as CANCELLED, leave the waiting ones PENDING, and no process behind."""
    started = tmp_path / "started"
    sweep = start_sweep(program, started, "seed=1,2,3,4", "hydra.launcher.n_jobs=2")
    marks = wait_until(lambda: len(list(started.iterdir())) == 2 and list(started.iterdir()))
    os.kill(sweep.pid, number)
    _, said = sweep.communicate(timeout=60)
    assert status == sweep.returncode
    assert "ending 2 jobs, for up to 20 s; Ctrl-C again kills what is left\n" in said
    assert "2 jobs cancelled" in said
    assert ["0.1.CANCELLED", "1.1.CANCELLED"] == program.states()
    assert {"CANCELLED": 2, "PENDING": 2} == program.told("status")["counts"]
    for mark in marks:
        assert not Path(f"/proc/{mark.name.split('.')[1]}/cmdline").exists()


@pytest.mark.usefixtures("light")
def test_nohup_stays_nohup(program: Program, tmp_path: Path) -> None:
    """Under `nohup` a HUP, as at logging out, ends neither the sweep nor a job of it."""
    started = tmp_path / "started"
    started.mkdir()
    arguments = ("train.py", "-m", f"started='{started}'", "seed=1,2", "hydra.launcher.n_jobs=1")
    command = ["nohup", sys.executable, *arguments]
    env = clean_env(RELEASE=str(tmp_path / "release"))
    with subprocess.Popen(command, cwd=program.home, env=env, stderr=subprocess.DEVNULL) as sweep:
        wait_until(lambda: list(started.iterdir()))
        os.kill(sweep.pid, signal.SIGHUP)
        (tmp_path / "release").touch()
    assert 0 == sweep.returncode
    assert ["0.1.COMPLETED", "1.1.COMPLETED"] == program.states()


@pytest.mark.usefixtures("light")
def test_what_somebody_else_has_ended_is_told_with_his_reason(program: Program, tmp_path: Path) -> None:
    """Jobs that others have called LOST, since they could not see them, were not killed, and had begun: what is told is
    why, who has recorded it, and that one of them was begun again since."""
    started = tmp_path / "started"
    sweep = start_sweep(program, started, "seed=1,2", "hydra.launcher.n_jobs=2")
    wait_until(lambda: len(list(started.iterdir())) == 2)
    states = States(Experiment.at(program.experiment).folder)
    for job_id in (0, 1):
        states.lose(job_id, 1, State.LOST, {"reason": "its task 123 has ended", "fenced_at": time.time()})
    assert 2 == states.claim(1, {})
    _, said = sweep.communicate(timeout=60)
    assert 1 == sweep.returncode
    told = f"its task 123 has ended (recorded by {user_name()} on {os.uname().nodename})"
    assert re.search(rf"job 0 .*LOST.*{re.escape(told)}$", said, re.MULTILINE), said
    assert re.search(rf"job 1 .*LOST.*{re.escape(told)}; attempt 2 was begun elsewhere$", said, re.MULTILINE), said
    assert ["0.1.LOST", "1.1.LOST", "1.2.RUNNING"] == program.states()


@pytest.mark.usefixtures("light")
def test_interrupt_from_the_terminal_reaches_each_job_once(program: Program, tmp_path: Path) -> None:
    """Ctrl-C goes to the whole foreground group; jobs are in sessions of their own and hear it from us alone."""
    started = tmp_path / "started"
    sweep = start_sweep(program, started, "seed=1,2", "hydra.launcher.n_jobs=2")
    wait_until(lambda: len(list(started.iterdir())) == 2)
    os.killpg(sweep.pid, signal.SIGINT)
    sweep.communicate(timeout=60)
    assert ["0.1.CANCELLED", "1.1.CANCELLED"] == program.states()


@pytest.mark.usefixtures("light")
def test_killed_sweep_lets_its_jobs_finish_and_does_not_repeat_them(program: Program, tmp_path: Path) -> None:
    """`kill -9` of the sweep loses nothing: its jobs go on to their own end, and the same sweep leaves them alone."""
    started = tmp_path / "started"
    started.mkdir()
    arguments = ("train.py", "-m", "seed=1,2", f"started='{started}'")
    sweep = program.start(*arguments, "hydra.launcher.n_jobs=1", RELEASE=str(tmp_path / "release"))
    wait_until(lambda: list(started.iterdir()))
    sweep.kill()
    sweep.communicate()
    again = program.run(*arguments[1:])
    assert "1 to run, 1 RUNNING left alone" in again.stderr
    (tmp_path / "release").touch()
    wait_until(lambda: ["0.1.COMPLETED", "1.1.COMPLETED"] == program.states())
    assert 2 == len(list(started.iterdir()))


@pytest.mark.usefixtures("light")
def test_no_more_than_n_jobs_run_at_a_time(program: Program) -> None:
    """The intervals in which jobs ran overlap `n_jobs` deep and no deeper."""
    assert 0 == program.sweep("seed=1,2,3", "sleep=0.3", "hydra.launcher.n_jobs=2").returncode
    attempts = [program.told("show", str(job))["attempts"][0] for job in range(3)]
    depth = [sum(other["start"] <= one["start"] < other["end"] for other in attempts) for one in attempts]
    assert 2 == max(depth)


@pytest.mark.usefixtures("light")
def test_plain_lines_in_a_pipe(program: Program) -> None:
    """Without a terminal each job is one plain line, and there is no escape sequence."""
    done = program.sweep("seed=1", "how=well,raise")
    lines = [line for line in done.stderr.splitlines() if line.startswith("[")]
    assert 2 == len(lines)
    assert re.fullmatch(r"\[1/2\] job \d (COMPLETED|FAILED)  seed=\d how=\w+  \(\d+\.\d s\).*", lines[0])
    assert "\x1b" not in done.stderr


@pytest.mark.usefixtures("light")
def test_bar_on_a_terminal(program: Program) -> None:
    """On a terminal there is a bar that ends with all jobs done."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "train.py", "-m", "seed=1,2"]
    env = clean_env(TERM="xterm", COLUMNS="100")
    with subprocess.Popen(command, cwd=program.home, env=env, stdout=theirs, stderr=theirs, stdin=theirs) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # the terminal is gone with the last process on it
                break
        os.close(ours)
    assert 0 == process.returncode
    assert b"2/2" in shown
    assert b"\x1b[" in shown
    assert b"job 1 COMPLETED" in shown


RUNNER = """
import argparse, os, time
from experiment_manager import Experiment

def run(job_id, variables, configuration):
    ends = time.monotonic() + 60
    while job_id == 9 and not os.path.exists("release") and time.monotonic() < ends:
        time.sleep(0.02)

parser = argparse.ArgumentParser()
for name in ("--job-id", "--experiment-path", "--experiment-name"):
    parser.add_argument(name)
options = parser.parse_args()
Experiment.load(options.experiment_name, options.experiment_path).run_id(int(options.job_id), run)
"""
POOL = """
import sys
from experiment_manager.execution.pool import Pool
from experiment_manager.store.launches import read_launch
from experiment_manager.store.layout import Folder

folder = Folder.at(sys.argv[1])
Pool(folder, read_launch(folder, "0001"), n_jobs=2, texts={}).run(range(10))
"""


def test_the_bar_tells_when_all_will_have_ended(tmp_path: Path) -> None:
    """On a terminal, also a narrow one, the bar says it as soon as enough jobs have completed."""
    (tmp_path / "runner.py").write_text(RUNNER)
    experiment = Experiment(["seed"], "e", tmp_path)
    for seed in range(10):
        experiment.add_job({"seed": seed}, {})
    experiment.save()
    about = {"runner": [sys.executable, str(tmp_path / "runner.py")]}
    create_launch(experiment.folder, (Attempt(JobId(job), 1, State.PENDING) for job in range(10)), about)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", POOL, experiment.folder.path]
    env = clean_env(TERM="xterm", COLUMNS="80")
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=theirs, stderr=theirs, stdin=theirs) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # the terminal is gone with the last process on it
                break
            if re.search(rb"9/10.* done in \d+ to \d+ s", shown):
                (tmp_path / "release").touch()
        os.close(ours)
    assert 0 == process.returncode
    assert 10 == experiment.counts()["COMPLETED"]
    assert b"done in" not in shown[shown.rindex(b"10/10") :]


@pytest.mark.xdist_group("swept")  # what is prepared for several tests is prepared once
def test_job_that_cannot_start_does_not_begin(program_after: ProgramAfter) -> None:
    """A script that has moved since: the job is what it was, and people read what is not there."""
    program = program_after("seed=1")
    (program.home / "train.py").rename(program.home / "other.py")
    done = program.tool("run", "0")
    assert (2, True) == (done.returncode, f"the program {program.home}/train.py is not there" in done.stderr)
    assert ["0.1.COMPLETED"] == program.states()


RESULTS = {
    "numbers and an array": ("{'score': 1.0, 'curve': numpy.arange(3)}", {"score": 1.0, "curve": [0, 1, 2]}, []),
    "a list of the configuration": ("{'layers': cfg.algorithm.layers}", {"layers": [64, 64]}, []),
    "one field that cannot be stored": ("{'score': 1.0, 'model': object()}", {"score": 1.0}, ["model"]),
    "a large array": ("{'score': 1.0, 'all': numpy.zeros(20000)}", {"score": 1.0}, ["all"]),
    "nothing that can be stored": ("object()", None, ["result"]),
    "a value that holds itself": ("(lambda x: x.append(x) or x)([])", None, ["result"]),
    "not a number": ("{'loss': float('nan'), 'big': 2**70}", {"loss": {"$float": "nan"}, "big": 2**70}, []),
    "nothing": ("None", None, []),
}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, str]:
    """A sweep of short jobs, each of which returns one of RESULTS, and what the sweep has said."""
    program = Program(tmp_path_factory.mktemp("short") / "home")
    shutil.copytree(APP, program.home, ignore=shutil.ignore_patterns("__pycache__"))
    values = "".join(f"lambda: {value}, " for value, _, _ in RESULTS.values())
    program.edit("import logging", "import logging\nimport numpy", file="train.py")
    program.edit("return cfg.seed * cfg.algorithm.gain", f"return ({values})[cfg.seed]()", file="train.py")
    done = program.sweep(f"seed=range(0,{len(RESULTS)})")
    assert 0 == done.returncode, done.stderr
    return program, done.stderr


@pytest.mark.xdist_group("short")
def test_what_a_job_returns_is_stored_or_said(swept: tuple[Program, str]) -> None:
    """Each field is kept, or named in the job's log and in `results`: nothing is lost in silence."""
    program, _ = swept
    rows = program.told("results")
    for job, (kind, (_, stored, refused)) in enumerate(RESULTS.items()):
        body = json.loads((program.experiment / f"jobs/{job}/result.1.json").read_text())
        assert (stored, refused) == (body["result"], list(body.get("refused", {}))), kind
        log = (program.experiment / f"jobs/{job}/stderr.1.log").read_text()
        assert all(f"{field} is not stored" in log for field in refused), kind
        assert all(rows[job]["result"][field] == "not stored" for field in refused), kind


@pytest.mark.xdist_group("short")
def test_a_sweep_of_short_jobs_names_the_fork_server(swept: tuple[Program, str]) -> None:
    """One line at the end says that short jobs can be forked: not of a few, of those that work for a time, or fail."""
    program, said = swept
    assert 1 == said.count("hydra.launcher.start_method=forkserver would run them in a third of it")
    folder = Folder.at(str(program.experiment))
    ends = [JobEnd(job, 1, State.COMPLETED, None, seconds=2.0) for job in range(8)]
    failed = JobEnd(8, 1, State.FAILED, "told to raise", seconds=2.0)
    for job in range(8):
        os.utime(program.experiment / f"jobs/{job}/.hydra/config.yaml", (100, 100))
        os.utime(program.experiment / f"jobs/{job}/result.1.json", (100.25, 100.25))
    assert were_short(folder, ends)
    assert not were_short(folder, ends[:7])
    assert not were_short(folder, [failed, *ends])
    assert not were_short(folder, [end._replace(seconds=1.0) for end in ends])
    (program.experiment / "jobs/7/.hydra/config.yaml").unlink()
    assert not were_short(folder, ends)
