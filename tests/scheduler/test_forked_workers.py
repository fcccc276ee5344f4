"""Workers whose jobs begin as copies of one process: `start_method: forkserver`."""

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from experiment_manager import Experiment
from experiment_manager.scheduler import schedulers, scripts
from experiment_manager.scheduler.records import Options
from experiment_manager.scheduler.submission import submit
from experiment_manager.store.layout import Folder
from experiment_manager.testing import Jobs
from tests.conftest import Program, wait_until
from tests.scheduler.file_scheduler import FileScheduler
from tests.test_forkserver import HELPERS, LIBRARY, OFF, SEEN, experiment, install, is_gone, results, write

LONG = {"seconds": 180.0}
FORKED: dict[str, Any] = {"workers": 1, "start_method": "forkserver"}
FORKS = "forkserver.warm_worker import main"
LISTENS = """
import time
job = current_job()
while not job.should_stop():
    (job.directory / "listens").touch()
    time.sleep(0.02)
return "told"
"""
MEET = """
import submitit, time
(current_job().directory / "here").touch()
while len(list(current_job().directory.parent.glob("*/here"))) < 2:
    time.sleep(0.02)
"""


class Configured(NamedTuple):
    """What hands jobs of a sweep over to the scheduler of the tests."""

    options: Options
    scheduler: str = "file"
    python_runner: None = None
    job_runner: None = None


def define(program: Program, *arguments: str, script: str = "app.py", name: str = "train") -> None:
    """The jobs of a sweep are there, and handed over to nobody."""
    settings = ("hydra/launcher=slurm_script", f"hydra.sweeper.experiment_name={name}", "hydra.job.name=train")
    done = program.run("-m", *settings, *arguments, script=script)
    assert done.returncode == 0, done.stderr


def hand_over(program: Program, name: str = "train", **options: Any) -> Path:
    """The jobs are submitted to the scheduler of the tests; returns the folder of the logs of its tasks."""
    folder = Folder(program.home / "experiments", name)
    defined = Experiment.at(folder.path)
    defined.save_pass_filter(defined.get_all_ids())
    configured = Configured(schedulers.named("file").options(options, where="test"))
    about: dict[str, Any] = {"runner": None, "name": None, "n_jobs": None, "rerun": "failed", "overrides": {}}
    launch = scripts.write(folder, configured, **about).launch
    submit(folder, launch)
    return Path(folder.join("launches", launch.number))


def until_ended(program: Program, *states: str) -> None:
    wait_until(lambda: list(states) == program.states(), 60)


def said_in(logs: Path) -> str:
    """What the tasks have said whose logs lie there."""
    return "".join(path.read_text() for path in logs.glob("*.log"))


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def test_a_job_sees_what_others_see(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment, TMPDIR and GPUs of its own, arguments, streams, signals, open files, limits, and what `current_job`
    and submitit say: in a task that runs several at a time, a forked job finds what a spawned one finds, and draws its
    own numbers."""
    answers = "seen = {'submitit': {name: repr(value) for name, value in vars(submitit.JobEnvironment()).items()},"
    write(program, MEET + SEEN.replace("seen = {", answers), helpers=HELPERS)
    (program.home / "temporary").mkdir()
    for name, value in {
        "PYTHONPATH": os.pathsep.join([install(program, "library", LIBRARY)["PYTHONPATH"], os.environ["PYTHONPATH"]]),
        "TMPDIR": str(program.home / "temporary"),
        "PYTEST_CURRENT_TEST": "",  # which changes
        "CUDA_VISIBLE_DEVICES": "0,1",
        "SUBMITIT_EXECUTOR": "slurm",
        "SLURM_JOB_ID": "12",
        "SLURMD_NODENAME": "n1",
        "SLURM_PROCID": "0",
        "SLURM_CPUS_PER_TASK": "2",
    }.items():
        monkeypatch.setenv(name, value)
    found = {}
    for method in ("spawn", "forkserver"):
        define(program, "seed=1,2", name=method)
        logs = hand_over(program, method, workers=1, pack=2, gpus_per_job=1, start_method=method)
        asked = experiment(program, method)
        until_ended(asked, "0.1.COMPLETED", "1.1.COMPLETED")
        assert "2 GPUs: 1 for each job (gpus_per_job)\n" == said_in(logs)
        jobs = [json.loads(item)[:2] for item in results(asked)]
        places = [seen["environment"]["TMPDIR"] for seen, _ in jobs]
        assert all(drawn["folder"].startswith(place) for place, (_, drawn) in zip(places, jobs, strict=True))
        assert ["0", "1"] == sorted(seen["environment"]["CUDA_VISIBLE_DEVICES"] for seen, _ in jobs)
        assert all(2 == len({drawn[name] for _, drawn in jobs}) for name in jobs[0][1])
        text = json.dumps([seen for seen, _ in jobs]).replace(method, "METHOD")
        found[method] = json.loads(re.sub(r"/job-\d-\w+", "/OWN", re.sub(r'"\d+:0:0"', '"TASK"', text)))
    assert found["spawn"] == found["forkserver"]


def test_signals_of_the_task_reach_a_forked_job(program: Program) -> None:
    """It hears that it should stop, and its lane what became of it: the task is started again where it was preempted,
    and takes no other job where it was cancelled."""
    write(program, LISTENS)
    define(program, "seed=1,2,3")
    hand_over(program, **FORKED)
    for job, word in enumerate(("PREEMPTED", "CANCELLED")):
        wait_until((program.experiment / f"jobs/{job}/listens").exists, 60)
        FileScheduler().order("1", 0, word)
    until_ended(program, "0.1.COMPLETED", "1.1.COMPLETED")
    wait_until(lambda: not FileScheduler().queue(()))
    assert ["0.1.COMPLETED", "1.1.COMPLETED"] == program.states()


def test_the_process_that_forks_is_killed(jobs: Jobs) -> None:
    """Its job is lost with it, and taken again; that one and the others are spawned, which is said once."""
    jobs.make(LONG, {}, {"fails": True}, **FORKED).submit()
    jobs.wait_until(lambda: jobs.has_begun(0))
    worker = jobs.anchor(0)["pid"]
    assert FORKS in command(worker)
    os.kill(worker, signal.SIGKILL)
    jobs.wait_until(lambda: jobs.has_begun(0, 2))
    jobs.end(0)
    jobs.wait_for("COMPLETED", "COMPLETED", "FAILED")
    assert {0: ["LOST", "COMPLETED"], 1: ["COMPLETED"], 2: ["FAILED"]} == jobs.attempts()
    assert 1 == said_in(Path(jobs.experiment.folder.join("launches", "0001"))).count(OFF)


def test_the_task_is_killed(jobs: Jobs) -> None:
    """Nothing of it is left: neither the process that forks nor the job."""
    jobs.make(LONG, {}, **FORKED).submit()
    jobs.wait_until(lambda: jobs.has_begun(0))
    worker = jobs.anchor(0)["pid"]
    os.kill(parent(worker), signal.SIGKILL)
    wait_until(lambda: is_gone(worker))
    jobs.wait_for("LOST", "PENDING")
    assert {0: ["LOST"]} == jobs.attempts()


def test_jobs_of_another_program_are_spawned(program: Program) -> None:
    """What the first job runs is forked; others start interpreters of their own, which is said once, with the
    reason."""
    write(program, "return 'other.py' in Path('/proc/self/cmdline').read_text()")
    shutil.copy(program.home / "app.py", program.home / "other.py")
    define(program, "seed=1,2")
    define(program, "seed=3,4", script="other.py")
    logs = hand_over(program, **FORKED)
    until_ended(program, *(f"{job}.1.COMPLETED" for job in range(4)))
    assert [False, False, True, True] == results(program)
    (line,) = said_in(logs).splitlines()
    assert "job 2, as others like it, starts its own interpreter: its command does not begin with " in line


def test_what_a_library_leaves_behind_turns_it_off(jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then every job starts an interpreter of its own, which is said once: the script of a job that was written in
    Python imports it."""
    place = tmp_path / "site-packages"
    place.mkdir()
    (place / "library.py").write_text("import socket\nSOCKET = socket.socket()\n")
    monkeypatch.setenv("PYTHONPATH", f"{place}:{os.environ['PYTHONPATH']}")
    runner = tmp_path / "home/runner.py"
    runner.write_text(f"import library\n{runner.read_text()}")
    jobs.make({}, {}, **FORKED).submit()
    jobs.wait_for("COMPLETED", "COMPLETED")
    (line,) = said_in(Path(jobs.experiment.folder.join("launches", "0001"))).splitlines()
    assert f"{OFF}, as with start_method=spawn: library has opened a socket, and has not closed it" == line
