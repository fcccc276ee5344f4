"""`experiment-manager cancel` without SLURM: who is told to end, by a signal or through the folder, and who is not."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiment_manager import Experiment
from experiment_manager.model.records import State
from experiment_manager.scheduler import cancel
from experiment_manager.scheduler.reconcile import ActiveTask
from experiment_manager.store import endings, processes
from experiment_manager.store.layout import Folder
from experiment_manager.store.states import States
from tests.conftest import Program, clean_env, on_another_host, wait_until

IN_PROCESS = """
import sys, time
from experiment_manager import Experiment
Experiment.at(sys.argv[1]).run_id(int(sys.argv[2]), lambda *_: print("runs", flush=True) or time.sleep(60))
"""

SUPERVISOR = """
import sys
from experiment_manager.execution import run
from experiment_manager.execution import supervisor
supervisor.OWNERSHIP_POLL_S = 0.2
sys.exit(run.main(sys.argv[1:]))
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    """Jobs that were written in Python."""
    made = Experiment(["n"], "train", str(tmp_path / "experiments"))
    for n in range(3):
        made.add_job({"n": n}, {"n": n})
    made.save()
    made.save_pass_filter([0, 1, 2])
    return made


@pytest.fixture
def bystander() -> "Iterator[subprocess.Popen[str]]":
    """A process of the user's that runs no job, and can say who it is."""
    who = "import json; from experiment_manager.store.processes import this_process"
    who = f"{who}; print(json.dumps(this_process()), flush=True)"
    command = [sys.executable, "-c", f"{who}\nimport sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def claimed(folder: Folder, job_id: int, record: dict[str, Any]) -> None:
    """A RUNNING attempt as a stranger might have written it."""
    os.makedirs(folder.states, exist_ok=True)
    for name in (f"{job_id}.1", f"{job_id}.1.RUNNING"):
        Path(folder.join("states", name)).write_text(json.dumps({"job": job_id, "start": 1.0, **record}))


@pytest.mark.parametrize("pid", [-1, 0, 1, -4711, True, 2.0, "5", None, 2**31, 10**30])
@pytest.mark.parametrize("ticks", [None, 1, "1"])
def test_no_number_stands_for_several_processes(pid: Any, ticks: Any) -> None:
    """No signal goes to everything that a user runs, to a group, to the first process, or to what is no process; an
    unknown start is no proof that a process is the one that is meant."""
    me = processes.this_process()
    assert processes.tell(me, 0)
    assert not processes.tell({**me, "pid": pid, "started_ticks": ticks}, 0)
    assert not processes.tell({**me, "started_ticks": ticks}, 0)


def test_cancel_signals_only_who_runs_jobs_of_this_folder(
    experiment: Experiment, tmp_path: Path, bystander: "subprocess.Popen[str]"
) -> None:
    """A process that a file names is signalled when it has marked itself as running that attempt of that folder; one
    that has not is left alone, even with the right start, and the sentence says where it is."""
    assert bystander.stdout is not None
    record = json.loads(bystander.stdout.readline())
    other = Folder(tmp_path / "experiments", "other")
    for folder in (experiment.folder, other):
        claimed(folder, 0, record)
        claimed(folder, 1, processes.this_process())
    endings.bear_mark(other, 1, 1)
    try:
        said = subprocess.run(
            [sys.executable, "-m", "experiment_manager", "cancel", experiment.folder.path],
            env=clean_env(), capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        processes.unmark_copy()
    assert 2 == said.returncode
    assert "jobs 0-1 cannot be told to end" in said.stderr
    assert f"process {bystander.pid} on {os.uname().nodename}" in said.stderr
    assert bystander.poll() is None

    command = [sys.executable, "-c", IN_PROCESS, experiment.folder.path, "2"]
    with subprocess.Popen(command, env=clean_env(), stdout=subprocess.PIPE) as runner:
        assert runner.stdout is not None
        assert b"runs\n" == runner.stdout.readline()
        assert [2] == experiment.cancel("2")
        assert -15 == runner.wait()


@pytest.mark.usefixtures("light")
def test_cancel_from_another_machine_is_a_request_in_the_folder(program: Program, tmp_path: Path) -> None:
    """Where no signal reaches it, the supervisor finds the request when it looks, records who has asked, and leaves no
    request behind; one that is meant for another process of the same attempt is not for it."""
    elsewhere = on_another_host()
    started = tmp_path / "started"
    started.mkdir()
    assert 0 == program.sweep(f"started='{started}'").returncode
    (ended,) = started.iterdir()
    ended.unlink()
    folder = Folder.at(program.experiment)
    supervisor = program.start("-c", SUPERVISOR, str(program.experiment), "0", HOLD="60")
    wait_until(lambda: list(started.iterdir()))
    record = json.loads((program.experiment / "states/0.2").read_text())
    endings.ask_to_end(folder, 0, 2, record={**record, "started_ticks": 1}, by="an earlier one")

    said = subprocess.run(
        [*elsewhere, sys.executable, "-m", "experiment_manager", "cancel", folder.path],
        env=clean_env(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert 0 == said.returncode, said.stderr
    assert f"told job 0 of {folder.path} to end\n" == said.stdout
    assert f"asked job 0 on {os.uname().nodename} to end; it looks every 0.2 s\n" == said.stderr
    supervisor.communicate(timeout=30)
    assert ["0.1.COMPLETED", "0.2.CANCELLED"] == program.states()
    reason = json.loads((program.experiment / "jobs/0/attempt.2.json").read_text())["reason"]
    assert reason.startswith("cancelled by ")
    assert reason.endswith(" on other")
    assert not list((program.experiment / "states").glob(".*"))


@pytest.mark.usefixtures("light")
def test_cancel_reaches_the_jobs_of_a_pool_at_once(program: Program, tmp_path: Path) -> None:
    """Jobs that were forked end by a signal, as those that were started; their neighbour goes on to its own end."""
    started = tmp_path / "started"
    started.mkdir()
    sweep = program.start("train.py", "-m", f"started='{started}'", "seed=1,2", "hydra.launcher.n_jobs=2", HOLD="60")
    wait_until(lambda: 2 == len(list(started.iterdir())))
    assert {"jobs": [1]} == program.told("cancel", "1")
    wait_until(lambda: ["0.1.RUNNING", "1.1.CANCELLED"] == program.states())
    assert "stopped by a signal" in program.tool("show", "1").stdout
    assert {"jobs": [0]} == program.told("cancel")
    sweep.communicate(timeout=30)
    assert ["0.1.CANCELLED", "1.1.CANCELLED"] == program.states()


def test_what_begins_while_its_task_is_cancelled_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two tasks that the scheduler has no more, the script of one has begun its job: that runs, and is to be told to
    end; the job of the other is CANCELLED, and its task begins it no more."""
    states = States(folder := Folder(tmp_path, "train"))

    def gone(_folder: Folder, waiting: dict[int, int]) -> list[int]:
        states.claim(0, {"launch": "0001"}, planned=1)
        return list(waiting)

    monkeypatch.setattr(cancel, "_gone", gone)
    running = cancel._settle(folder, {0: 0, 1: 0}, {job: [ActiveTask("slurm", "12", job)] for job in (0, 1)})
    assert {0: (1, os.getpid())} == {job: (number, record["pid"]) for job, (number, record) in running.items()}
    assert (State.RUNNING, State.CANCELLED) == (states.state(0, 1), states.state(1, 1))
    assert ["12_1"] == states.record(1, 1)["tasks"]
