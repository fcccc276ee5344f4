"""`experiment-manager run`: exit codes and states that tell the truth, however the job or its supervisor ends."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_manager.execution import environment
from experiment_manager.execution.run import Call, parser, plain_call
from experiment_manager.execution.supervisor import KILL_AFTER_S, STRAGGLERS_S
from experiment_manager.experiment import Experiment
from experiment_manager.model import policy
from experiment_manager.model.records import Attempt, JobId, State
from experiment_manager.scheduler.arrays import arrays
from experiment_manager.scheduler.slurm.options import as_mapping, make
from experiment_manager.scheduler.submission import records
from experiment_manager.store import processes
from experiment_manager.store.launches import create_launch
from experiment_manager.store.layout import Folder
from experiment_manager.store.states import States
from tests.conftest import Kept, Program, ProgramAfter, clean_env, examples, on_another_host, wait_until

pytestmark = pytest.mark.xdist_group("swept")  # what is prepared for several tests is prepared once


def attempt(program: Program, job: int, number: int = 1) -> Any:
    return json.loads((program.experiment / f"jobs/{job}/attempt.{number}.json").read_text())


ENDS = {
    "raise": (1, "ValueError: told to raise"),
    "exit3": (3, "exit code 3"),
    "segv": (139, "ended by SIGSEGV"),
    "kill": (137, "ended by SIGKILL"),
}


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.usefixtures("light")
def test_exit_status_and_state_are_the_childs(program_after: ProgramAfter, how: str) -> None:
    """`run` leaves with the status of the job, as a shell would tell it, and the state says FAILED with the reason."""
    program, job, (status, reason) = program_after(f"how={','.join(ENDS)}"), [*ENDS].index(how), ENDS[how]
    failed = [f"{place}.1.FAILED" for place in range(len(ENDS))]
    assert failed == program.states()
    done = program.tool("run", str(job))
    assert status == done.returncode
    assert f"job {job} attempt 2: FAILED: {reason}" in done.stderr
    assert sorted([*failed, f"{job}.2.FAILED"]) == program.states()
    assert reason == attempt(program, job, 2)["reason"]
    assert {"state": "FAILED", "reason": reason, "jobs": [job]} in program.told("status")["troubles"]


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_a_signal_after_the_result_takes_nothing_from_it(program: Program, start_method: str) -> None:
    """A job that dies while its interpreter shuts down has completed: its result is whole, and `show` tells of it."""
    done = program.sweep("how=segv-at-exit", "seed=1,2", f"hydra.launcher.start_method={start_method}")
    assert (0, ["0.1.COMPLETED", "1.1.COMPLETED"]) == (done.returncode, program.states())
    assert ["ended by SIGSEGV after it had left its result"] * 2 == [attempt(program, job)["reason"] for job in (0, 1)]
    assert [1, 2] == [row["variables"]["seed"] for row in program.told("results")]


def test_success_records_time_and_memory(program_after: ProgramAfter) -> None:
    """An attempt that completes leaves its times, peak memory and processor time."""
    program = program_after("seed=1")
    record = attempt(program, 0)
    assert ("COMPLETED", 0, None) == (record["state"], record["exit_code"], record["reason"])
    assert record["peak_memory_bytes"] > 10_000_000
    assert 0 < record["cpu_s"] < record["end"] - record["start"] + 10


HOLDER = """
import argparse, os, signal, time
from pathlib import Path
from experiment_manager import Experiment, current_job

HOW, ENDS = os.environ.get("HOW"), time.monotonic() + float(os.environ.get("HOLD", "0"))

def hold(job_id, variables, configuration):
    job = current_job()
    if HOW == "deaf":
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
    Path(f"{job_id}.{os.getpid()}").touch()
    while time.monotonic() < ENDS:
        if HOW == "stoppable" and job.should_stop():
            return {"stopped": True}
        time.sleep(0.02)

parser = argparse.ArgumentParser()
for name in ("--job-id", "--experiment-path", "--experiment-name"):
    parser.add_argument(name)
options = parser.parse_args()
Experiment.load(options.experiment_name, options.experiment_path).run_id(int(options.job_id), hold)
"""
RUN = ("0", "--runner", "holder.py")


class Running:
    """Job 0 of an experiment, which has been completed before, sleeping under a supervisor of its own."""

    def __init__(self, held: Program, how: str = "", **env: str) -> None:
        self.program = program = held
        assert ["0.1.COMPLETED"] == program.states()
        words = ("-m", "experiment_manager", "run", str(program.experiment), *RUN)
        self.supervisor = program.start(*words, HOLD="60", HOW=how, **env)
        (mark,) = wait_until(lambda: list(program.home.glob("0.*")))
        self.child = int(mark.name.split(".")[1])

    def end(self) -> int:
        self.supervisor.communicate(timeout=60)
        return self.supervisor.returncode

    def child_is_gone(self) -> bool:
        try:
            return Path(f"/proc/{self.child}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
        except FileNotFoundError:
            return True


@pytest.fixture(scope="module")
def _held(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    program = Program(tmp_path_factory.mktemp("held") / "home")
    program.home.mkdir()
    (program.home / "holder.py").write_text(HOLDER)
    experiment = Experiment(["seed"], "train", program.home / "experiments")
    experiment.add_job({"seed": 1}, {})
    experiment.save()
    experiment.save_pass_filter([0])
    assert 0 == program.tool("run", *RUN).returncode
    for path in program.home.glob("0.*"):
        path.unlink()
    return Kept(program.home)


@pytest.fixture
def held(_held: Kept) -> Program:
    """An experiment of one job, of a program that is no Hydra's: what becomes of processes does not depend on it."""
    _held.put_back()
    return Program(_held.home)


def test_killed_child_is_failed(held: Program) -> None:
    """`kill -9` of the job: its supervisor records FAILED with the signal and leaves with 137."""
    running = Running(held)
    program = running.program
    os.kill(running.child, signal.SIGKILL)
    assert 137 == running.end()
    assert ["0.1.COMPLETED", "0.2.FAILED"] == program.states()
    assert "ended by SIGKILL" == attempt(program, 0, 2)["reason"]


def test_killed_supervisor_takes_the_job_along_and_is_lost(held: Program) -> None:
    """`kill -9` of the supervisor: the job does not go on unseen, and `status` says LOST, not RUNNING for ever."""
    running = Running(held)
    program = running.program
    assert "RUNNING" == program.told("show", "0")["state"]
    running.supervisor.kill()
    running.end()
    wait_until(running.child_is_gone)
    status = program.told("status")
    assert {"LOST": 1} == status["counts"]
    assert "its supervisor is gone" in status["troubles"][0]["reason"]
    assert ["0.1.COMPLETED", "0.2.LOST"] == program.states()


def test_nothing_is_left_of_a_job_whose_supervisor_was_killed(held: Program) -> None:
    """What a job has started goes on when `kill -9` of the supervisor ends the job; who finds it LOST ends it, before
    it is run again, and nothing of another attempt."""
    (held.home / "job.py").write_text(
        "import pathlib, subprocess, time\n"
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "pathlib.Path('started').write_text(f'{child.pid}\\n')\n"
        "time.sleep(600)\n"
    )
    started = held.home / "started"
    supervisor = held.start("-m", "experiment_manager", "run", str(held.experiment), "0", "--runner", "job.py")
    (left,) = (int(pid) for pid in wait_until(lambda: started.exists() and started.read_text()).split())
    supervisor.kill()
    supervisor.communicate(timeout=60)
    assert processes.is_alive(left)
    other = held.start("-c", "import time; time.sleep(600)", **environment.of_attempt(Folder.at(held.experiment), 0, 9))
    assert {"LOST": 1} == held.told("status")["counts"]
    wait_until(lambda: not processes.is_alive(left))
    assert other.poll() is None
    other.kill()
    other.communicate(timeout=60)


BESIDE = r"""
import os, re, signal, subprocess, sys, time
from pathlib import Path

def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

def slept():
    return int(re.search(r"\nvoluntary_ctxt_switches:\s*(\d+)", Path(f"/proc/{os.getppid()}/status").read_text())[1])

def let_it_look():
    before = slept()
    while slept() <= before + 3:
        os.kill(os.getppid(), signal.SIGCHLD)
        time.sleep(0.01)

ours = []
for words, environ in ((["sleep"], None), (["env", "-i", "sleep"], {})):
    ours.append(subprocess.Popen([*words, "600"], start_new_session=True, env=environ).pid)
Path("ours").write_text(" ".join(map(str, ours)))
Path("begun").touch()
for name in ("early", "late"):
    while not Path(name).exists() or not Path(name).read_text().endswith("\n"):
        time.sleep(0.02)
    while parent_of(int(Path(name).read_text())) != os.getppid():
        time.sleep(0.02)
let_it_look()
sys.exit(3)
"""


def test_what_the_batch_script_has_started_outlives_a_job_that_fails(held: Program) -> None:
    """Its server becomes a child of the supervisor, by `exec`, once what has started it ends while the job runs; so
    does what that starts only then. What the job has started itself in sessions of its own is ended, with its
    environment or without it."""
    (held.home / "beside.py").write_text(BESIDE)
    script = (
        "(sleep 600 & echo $! > early; until [ -e begun -o -e end ]; do sleep 0.02; done; sleep 600 & echo $! > late) "
        ">server.log 2>&1 &\n"
        f"exec {sys.executable} -m experiment_manager run {held.experiment} 0 --runner beside.py\n"
    )
    done = subprocess.run(["bash", "-c", script], cwd=held.home, env=clean_env(), capture_output=True, text=True)
    (held.home / "end").touch()
    wait_until(lambda: (held.home / "late").exists() and (held.home / "late").read_text())
    servers = [int((held.home / name).read_text()) for name in ("early", "late")]
    try:
        ours = [int(pid) for pid in (held.home / "ours").read_text().split()]
        assert 3 == done.returncode, done.stderr
        assert [True, True] == [processes.is_alive(pid) for pid in servers]
        assert [False, False] == [processes.is_alive(pid) for pid in ours]
        assert not re.search(rf"process ({servers[0]}|{servers[1]})\b", log_of(held, 2))
    finally:
        for pid in servers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_what_a_job_has_left_without_an_environment_is_ended_with_it(held: Program) -> None:
    """Also where it was never seen below its program, which has failed at once."""
    leaves = "setsid env -i sleep 600 & while [ $(cat /proc/$!/comm) != sleep ]; do :; done; echo $! > ours; exit 3"
    about = {"runner": ["bash", "-c", leaves, "bash"]}
    number = create_launch(Experiment.at(held.experiment).folder, [Attempt(JobId(0), 2, State.PENDING)], about).number
    assert 3 == held.tool("run", "0", "--launch", number).returncode
    pid = int((held.home / "ours").read_text())
    try:
        assert not processes.is_alive(pid)
        assert f"(process {pid})" in log_of(held, 2)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


CHILDREN_END = """
import os, signal
from experiment_manager.execution.signals import Heard

heard = Heard()
os.kill(os.getpid(), signal.SIGCHLD)
print(heard.is_quiet(), heard.is_quiet())
os.kill(os.getpid(), signal.SIGTERM)
print(heard.is_quiet(), [number.name for number in heard.wait(60)], heard.was_stopped)
os.kill(os.getpid(), signal.SIGCHLD)
print(heard.is_quiet(), heard.wait(60), heard.wait(0), heard.is_quiet())
"""


def test_children_that_end_make_nobody_hurry() -> None:
    """A look at the memory of a job is cut short by a signal that is to be passed on, and not by children that end, of
    which the next wait tells."""
    said = subprocess.run([sys.executable, "-c", CHILDREN_END], check=True, capture_output=True, text=True).stdout
    assert ["True True", "False ['SIGTERM'] True", "True [] [] True"] == said.splitlines()


def log_of(held: Program, number: int) -> str:
    return (held.experiment / f"jobs/0/stderr.{number}.log").read_text()


def test_killed_both_can_be_run_again(held: Program) -> None:
    """`kill -9` of supervisor and job at once: the job is LOST, and the next `run` is attempt 3."""
    running = Running(held)
    program = running.program
    running.supervisor.kill()
    os.kill(running.child, signal.SIGKILL)
    running.end()
    assert 0 == program.tool("run", *RUN).returncode
    assert ["0.1.COMPLETED", "0.2.LOST", "0.3.COMPLETED"] == program.states()


def test_running_job_is_refused_to_others(held: Program) -> None:
    """A second `run` of a running job ends with 2 and says who runs it; a sweep leaves the job alone."""
    running = Running(held)
    program = running.program
    done = program.tool("run", *RUN)
    assert done.returncode == 2
    assert f"attempt 2, process {running.supervisor.pid}" in done.stderr
    assert ["0.1.COMPLETED", "0.2.RUNNING"] == program.states()
    os.kill(running.supervisor.pid, signal.SIGTERM)
    running.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stopped_job_is_cancelled(held: Program, number: signal.Signals) -> None:
    """TERM, INT and HUP reach the job, and the state is CANCELLED."""
    running = Running(held)
    program = running.program
    os.kill(running.supervisor.pid, number)
    assert 0 != running.end()
    assert running.child_is_gone()
    assert ["0.1.COMPLETED", "0.2.CANCELLED"] == program.states()


def test_job_that_stops_in_time_keeps_its_result(held: Program) -> None:
    """`should_stop()` turns true at TERM; a job that then returns a result has completed."""
    running = Running(held, "stoppable")
    program = running.program
    wait_until(lambda: _catches_term(running.child))
    os.kill(running.supervisor.pid, signal.SIGTERM)
    assert 0 == running.end()
    assert ["0.1.COMPLETED", "0.2.COMPLETED"] == program.states()
    assert {"stopped": True} == program.told("results")[0]["result"]


def _catches_term(pid: int) -> bool:
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) & (1 << (signal.SIGTERM - 1)))


def test_second_signal_kills_a_job_that_ignores_the_first(held: Program) -> None:
    """A job that ignores TERM is killed when it is asked again."""
    running = Running(held, "deaf")
    program = running.program
    os.kill(running.supervisor.pid, signal.SIGTERM)
    os.kill(running.supervisor.pid, signal.SIGINT)
    assert 137 == running.end()
    assert ["0.1.COMPLETED", "0.2.CANCELLED"] == program.states()


ENDURING = """
import argparse, time
from experiment_manager import Experiment, current_job
from experiment_manager.store import reserve

def wait(job_id, variables, configuration):
    record = str(current_job().directory / f"attempt.{current_job().attempt}.json")
    while not reserve.noted(record).get("stopped"):
        time.sleep(0.02)
    return {"done": True}

parser = argparse.ArgumentParser()
for name in ("--job-id", "--experiment-path", "--experiment-name"):
    parser.add_argument(name)
options = parser.parse_args()
Experiment.load(options.experiment_name, options.experiment_path).run_id(int(options.job_id), wait)
"""
OVER = "ran longer than job_timeout_min=0.01"


@pytest.mark.parametrize("is_of_slurm", [False, True])
@pytest.mark.parametrize(
    ("line", "expected", "status", "reason"),
    [
        ("exec sleep 60", "TIMEOUT", 143, OVER),
        ("trap 'exit 0' TERM; while :; do sleep 0.05; done", "TIMEOUT", 75, OVER),
        (f"trap '' TERM; exec {sys.executable} HOME/enduring.py \"$@\"", "COMPLETED", 0, None),
    ],
)
def test_a_job_that_runs_longer_than_its_launch_lets_it_is_told_to_end(
    line: str, expected: str, status: int, reason: str | None, is_of_slurm: bool, held: Program
) -> None:
    """By its supervisor, without a question to the scheduler, and never to be started again by it: TIMEOUT with the
    option as the reason, unless the job leaves its result while it is being told to end."""
    (held.home / "enduring.py").write_text(ENDURING)
    about: dict[str, Any] = {
        "runner": ["sh", "-c", line.replace("HOME", str(held.home)), "sh"],
        "job_timeout_min": 0.01,
    }
    if is_of_slurm:
        options = make({"job_timeout_min": about.pop("job_timeout_min"), "max_requeues": 3}, where="test")
        about["slurm"] = {"arrays": records(arrays([(options, [0])]), "e", as_mapping)}
    folder = Experiment.at(held.experiment).folder
    number = create_launch(folder, [Attempt(JobId(0), 2, State.PENDING)], about).number
    done = held.tool("run", "0", "--launch", number)
    assert status == done.returncode, done.stderr
    assert ["0.1.COMPLETED", f"0.2.{expected}"] == held.states()
    record = attempt(held, 0, 2)
    assert (reason, None, None) == (record["reason"], record.get("requeued"), record.get("ask_scheduler"))
    assert record["end"] - record["start"] >= 0.6


def _has_slept(pid: int) -> int:
    """How often a process has waited for something."""
    counts = re.findall(r"^voluntary_ctxt_switches:\s*(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(counts[0])


PATIENT = "trap 'touch told' TERM; echo $$ > begun; until [ -e go ]; do sleep 0.05; done; sleep 1; touch finished"
SOON = "import sys; from experiment_manager.execution import run, supervisor; supervisor.KILL_AFTER_S = 4.0; "


@pytest.mark.parametrize("what", ["the limit", "the grace"])
def test_time_for_which_a_job_was_stopped_does_not_count(what: str, held: Program) -> None:
    """A job and its supervisor that somebody has stopped (SIGSTOP, `scontrol suspend`, a container that is paused) go
    on with the time that they had left: of `job_timeout_min`, and until a job that was told to end is killed."""
    limit, stopped_s = {"the limit": ({"job_timeout_min": 0.1}, 10.0), "the grace": ({}, 6.0)}[what]
    about = {"runner": ["sh", "-c", PATIENT, "sh"], **limit}
    number = create_launch(Experiment.at(held.experiment).folder, [Attempt(JobId(0), 2, State.PENDING)], about).number
    words = (str(held.experiment), "0", "--launch", number)
    supervisor = held.start("-c", f"{SOON} sys.exit(run.main(sys.argv[1:]))", *words)
    begun, told = held.home / "begun", held.home / "told"
    child = int(wait_until(lambda: begun.exists() and begun.read_text()))
    before = _has_slept(supervisor.pid)

    def waits_for_the_job() -> bool:
        os.kill(supervisor.pid, signal.SIGCHLD)
        return _has_slept(supervisor.pid) > before + 3

    wait_until(waits_for_the_job)
    if what == "the grace":
        supervisor.terminate()
        wait_until(told.exists)
    stat = Path(f"/proc/{supervisor.pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "S")
    supervisor.send_signal(signal.SIGSTOP)
    os.killpg(child, signal.SIGSTOP)
    until = time.monotonic() + stopped_s
    wait_until(lambda: time.monotonic() > until)
    (held.home / "go").touch()
    supervisor.send_signal(signal.SIGCONT)
    os.killpg(child, signal.SIGCONT)
    _, said = supervisor.communicate(timeout=60)
    expected = {"the limit": ("FAILED", False), "the grace": ("CANCELLED", True)}[what]  # it leaves no result
    assert (f"0.2.{expected[0]}", expected[1]) == (held.states()[1], told.exists()), said
    assert (held.home / "finished").exists()


RETURNING = """
import argparse, signal, time
from pathlib import Path
from threading import Thread
from experiment_manager import Experiment, current_job

def work(job_id, variables, configuration):
    if HOW == "returns when it hears":
        heard = []
        signal.signal(signal.SIGTERM, lambda *_: heard.append(True))
        Path("listens").touch()
        while not heard:
            time.sleep(0.01)
    else:
        Thread(target=time.sleep, args=(600,)).start()

parser = argparse.ArgumentParser()
for name in ("--job-id", "--experiment-path", "--experiment-name"):
    parser.add_argument(name)
options = parser.parse_args()
Experiment.load(options.experiment_name, options.experiment_path).run_id(int(options.job_id), work)
"""


@pytest.mark.parametrize(
    ("how", "told_by", "expected"),
    [
        ("has returned", "the limit", "COMPLETED"),
        ("has returned", "TERM", "COMPLETED"),
        ("has returned", "cancel", "COMPLETED"),
        ("returns when it hears", "TERM", "CANCELLED"),
    ],
)
def test_a_job_that_has_returned_and_hangs_is_done(how: str, told_by: str, expected: str, held: Program) -> None:
    """The task has returned nothing, and its interpreter does not end, as for a thread of a library that waits: whoever
    tells the job to end later, it is COMPLETED. One that returns nothing when it is told to has left early, perhaps."""
    (held.home / "returning.py").write_text(f"HOW = {how!r}\n{RETURNING}")
    about = {"runner": [sys.executable, "returning.py"], **({"job_timeout_min": 0.1} if told_by == "the limit" else {})}
    folder = Experiment.at(held.experiment).folder
    number = create_launch(folder, [Attempt(JobId(0), 2, State.PENDING)], about).number
    supervisor = held.start("-m", "experiment_manager", "run", str(held.experiment), "0", "--launch", number)
    result = held.experiment / "jobs/0/result.2.json"
    wait_until((held.home / "listens").exists if expected == "CANCELLED" else result.exists)
    before = _has_slept(supervisor.pid)

    def has_looked() -> bool:  # at what there is, which each SIGCHLD makes it do
        os.kill(supervisor.pid, signal.SIGCHLD)
        return _has_slept(supervisor.pid) > before + 3

    if told_by != "the limit":  # before which it looks by itself
        wait_until(has_looked)
    if told_by == "cancel":
        assert 0 == held.tool("cancel", "0").returncode
    elif told_by == "TERM":
        os.kill(supervisor.pid, signal.SIGTERM)
    _, said = supervisor.communicate(timeout=60)
    assert ["0.1.COMPLETED", f"0.2.{expected}"] == held.states(), said
    assert (expected == "COMPLETED") == (supervisor.returncode == 0)


AT_EXIT = """
import argparse, atexit, os, sys
from experiment_manager import Experiment

parser = argparse.ArgumentParser()
for name in ("--job-id", "--experiment-path", "--experiment-name"):
    parser.add_argument(name)
options = parser.parse_args()
atexit.register(os.kill, os.getpid(), NUMBER)
if HAS_RESULT:
    Experiment.load(options.experiment_name, options.experiment_path).run_id(int(options.job_id), lambda *_: 7)
"""


@pytest.mark.parametrize("has_result", [True, False])
@pytest.mark.parametrize(("wrap", "number"), [(True, signal.SIGSEGV), (True, signal.SIGABRT), (False, 35)])
def test_what_starts_the_program_tells_of_its_signal(wrap: bool, number: int, has_result: bool, held: Program) -> None:
    """A program that dies after it has left its result has completed, whether a signal ended our child, or it stands in
    the exit status of a shell or a container that had started it; also a signal that has no name."""
    (held.home / "at_exit.py").write_text(f"NUMBER, HAS_RESULT = {int(number)}, {has_result}\n{AT_EXIT}")
    options = make({"wrap": ["sh", "-c", '"$@"; exit $?', "sh"] if wrap else []}, where="test")
    about = {
        "runner": [sys.executable, str(held.home / "at_exit.py")],
        "slurm": {"arrays": records(arrays([(options, [0])]), "e", as_mapping)},
    }
    number_of_launch = create_launch(
        Experiment.at(held.experiment).folder, [Attempt(JobId(0), 2, State.PENDING)], about
    ).number
    done = held.tool("run", "0", "--launch", number_of_launch)
    assert (0 if has_result else 128 + number) == done.returncode, done.stderr
    assert ["0.1.COMPLETED", f"0.2.{'COMPLETED' if has_result else 'FAILED'}"] == held.states()
    name = "signal 35" if number == 35 else signal.Signals(number).name
    after = f"ended by {name} after it had left its result"
    without = f"exit code {128 + number}" if wrap else f"ended by {name}"
    assert (after if has_result else without) == attempt(held, 0, 2)["reason"]


SAVING = """
import argparse, signal, sys, time
from pathlib import Path
from experiment_manager import Experiment

heard = []
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, _: heard.append(number))

def work(job_id, variables, configuration):
    Path(__file__).with_name("listens").touch()
    while not heard or not Path(__file__).with_name("saved").exists():
        time.sleep(0.01)
    return {"heard": heard}

parser = argparse.ArgumentParser()
for name in ("--job-id", "--experiment-path", "--experiment-name"):
    parser.add_argument(name)
options = parser.parse_args()
Experiment.load(options.experiment_name, options.experiment_path).run_id(int(options.job_id), work)
"""


def wrapped_launch(held: Program, wrap: Sequence[str], runner: str) -> str:
    """A launch of job 0 by that runner, with that command around it."""
    about = {
        "runner": [sys.executable, str(held.home / runner)],
        "slurm": {"arrays": records(arrays([(make({"wrap": wrap}, where="test"), [0])]), "e", as_mapping)},
    }
    return create_launch(Experiment.at(held.experiment).folder, [Attempt(JobId(0), 2, State.PENDING)], about).number


WAITING_SHELL = ("sh", "-c", '"$@"; exit $?', "sh")


@pytest.mark.parametrize("wrap", [(), WAITING_SHELL, ("setsid", "-w")])
def test_a_job_whose_wrap_ends_before_it_has_its_time(wrap: Sequence[str], held: Program) -> None:
    """A command around it may end by the signal of both: the job is told once to end, wherever it runs, and may take as
    long as one that is alone. Its result counts."""
    (held.home / "saving.py").write_text(SAVING)
    number = wrapped_launch(held, wrap, "saving.py")
    supervisor = held.start("-m", "experiment_manager", "run", str(held.experiment), "0", "--launch", number)
    wait_until((held.home / "listens").exists)
    told = time.monotonic()
    os.kill(supervisor.pid, signal.SIGTERM)
    wait_until(lambda: time.monotonic() > told + STRAGGLERS_S + 1.0)
    assert supervisor.poll() is None
    (held.home / "saved").touch()
    _, said = supervisor.communicate(timeout=60)
    assert ["0.1.COMPLETED", "0.2.COMPLETED"] == held.states(), said
    assert [signal.SIGTERM] == held.told("results")[0]["result"]["heard"]
    assert time.monotonic() < told + KILL_AFTER_S


def test_a_job_that_does_not_end_is_killed_also_where_its_wrap_has(held: Program) -> None:
    """A second Ctrl-C ends at once what is left of a job whose shell has ended."""
    (held.home / "saving.py").write_text(SAVING)
    number = wrapped_launch(held, WAITING_SHELL, "saving.py")
    supervisor = held.start("-m", "experiment_manager", "run", str(held.experiment), "0", "--launch", number)
    wait_until((held.home / "listens").exists)
    (shell,) = wait_until(lambda: processes.children(supervisor.pid))
    os.kill(supervisor.pid, signal.SIGTERM)
    wait_until(lambda: shell not in processes.children(supervisor.pid))
    told = time.monotonic()
    os.kill(supervisor.pid, signal.SIGTERM)
    supervisor.communicate(timeout=60)
    assert time.monotonic() < told + KILL_AFTER_S / 2
    assert ["0.1.COMPLETED", "0.2.CANCELLED"] == held.states()


BYSTANDER = """
import subprocess
from pathlib import Path

here = Path(__file__).parent
trap = f"trap 'touch {here}/misled' USR1; touch {here}/ready; while :; do sleep 0.05; done"
bystander = subprocess.Popen(["bash", "-c", trap], start_new_session=True)
while not (here / "ready").exists():
    pass
(here / "bystander").write_text(str(bystander.pid))
"""


@pytest.mark.parametrize("wrap", [(), WAITING_SHELL, ("setsid", "-w"), ("sh", "-c", 'setsid -w "$@"; exit $?', "sh")])
def test_a_warning_reaches_a_job_whose_wrap_gives_it_a_session(wrap: Sequence[str], held: Program) -> None:
    """Once, and wherever the program itself runs; no server that it has started in a session apart is taken for it."""
    (held.home / "saving.py").write_text(BYSTANDER + SAVING)
    number = wrapped_launch(held, wrap, "saving.py")
    supervisor = held.start("-m", "experiment_manager", "run", str(held.experiment), "0", "--launch", number)
    wait_until((held.home / "listens").exists)
    try:
        os.kill(supervisor.pid, signal.SIGUSR1)
        (held.home / "saved").touch()
        _, said = supervisor.communicate(timeout=60)
        assert ["0.1.COMPLETED", "0.2.COMPLETED"] == held.states(), said
        assert [signal.SIGUSR1] == held.told("results")[0]["result"]["heard"]
        assert not (held.home / "misled").exists()
    finally:
        supervisor.kill()
        with suppress(ProcessLookupError):
            os.kill(int((held.home / "bystander").read_text()), signal.SIGKILL)


SLOWLY = """
import os, signal, sys, time
from experiment_manager.execution import resources, run

real, looks = resources._proportional, open("looks", "w", buffering=1)

def slow(pid):
    began = time.monotonic()
    time.sleep(0.1)
    print(began, time.monotonic(), file=looks)
    if ENDS_AT_ONCE:
        os.kill(os.getpid(), signal.SIGTERM)
    return real(pid)

resources._proportional = slow
sys.exit(run.main(sys.argv[1:]))
"""
SEVERAL = "sleep 600 & sleep 600 & sleep 600 & wait"
SEEN_TWICE = "import time\nwhile len(open('looks').readlines()) < 2:\n    time.sleep(0.05)"


@pytest.mark.parametrize("ends_at_once", [True, False])
def test_a_look_at_memory_keeps_no_signal_waiting(ends_at_once: bool, held: Program) -> None:
    """Large processes are looked at slowly: no other one is once a signal waits to be passed on, and there is a pause
    of twenty times as long between two looks."""
    about = {"runner": ["bash", "-c", SEVERAL, "bash"] if ends_at_once else [sys.executable, "-c", SEEN_TWICE]}
    folder = Experiment.at(held.experiment).folder
    number = create_launch(folder, [Attempt(JobId(0), 2, State.PENDING)], about).number
    script = f"ENDS_AT_ONCE = {ends_at_once}\n{SLOWLY}"
    done = held.python("-c", script, str(held.experiment), "0", "--launch", number)
    looks = [tuple(map(float, line.split())) for line in (held.home / "looks").read_text().splitlines()]
    if ends_at_once:
        assert (143, 1) == (done.returncode, len(looks))
        return
    (_, ended), (later, _) = looks[:2]
    assert later - ended >= 2.0


@pytest.mark.parametrize("code", [policy.DRIFTED, policy.UNRECORDED])
def test_an_exit_code_of_the_programs_own_is_told_as_it_is(code: int, held: Program) -> None:
    """Programs may leave with the codes with which ours does; what that would mean stands in the error that is left."""
    about = {"runner": ["sh", "-c", f"exit {code}", "sh"]}
    folder = Experiment.at(held.experiment).folder
    number = create_launch(folder, [Attempt(JobId(0), 2, State.PENDING)], about).number
    assert code == held.tool("run", "0", "--launch", number).returncode
    assert f"exit code {code}" == attempt(held, 0, 2)["reason"]


SRUN = """#!/bin/sh
while [ "$1" != sh ]; do shift; done
SLURM_PROCID=0 "$@"
echo "$SAYS" >&2
exit $STATUS
"""


@pytest.mark.parametrize(
    ("status", "says", "expected"),
    [
        (139, "", "FAILED"),
        (137, "", "FAILED"),
        (137, "srun: error: n2: task 3: Out Of Memory", "OUT_OF_MEMORY"),
        (0, "", "COMPLETED"),
    ],
)
def test_of_several_ranks_all_have_to_end_well(status: int, says: str, expected: str, held: Program) -> None:
    """The first alone leaves the result: it says nothing of another one that has died, as while it wrote its part of a
    checkpoint."""
    (held.home / "at_exit.py").write_text(f"NUMBER, HAS_RESULT = 0, True\n{AT_EXIT}")
    (held.home / "srun").write_text(SRUN)
    (held.home / "srun").chmod(0o755)
    about = {
        "runner": [sys.executable, str(held.home / "at_exit.py")],
        "slurm": {"arrays": records(arrays([(make({"tasks_per_node": 4}, where="test"), [0])]), "e", as_mapping)},
    }
    number = create_launch(Experiment.at(held.experiment).folder, [Attempt(JobId(0), 2, State.PENDING)], about).number
    path = f"{held.home}:{os.environ['PATH']}"
    done = held.tool("run", "0", "--launch", number, PATH=path, STATUS=str(status), SAYS=says)
    assert status == done.returncode, done.stderr
    assert ["0.1.COMPLETED", f"0.2.{expected}"] == held.states()


BY_HAND = "it left when somebody warned it, long before its time limit"
LEAVES = "trap 'exit 0' USR1; kill -USR1 $PPID; while :; do sleep 0.02; done"


@pytest.mark.parametrize(
    ("left_s", "max_requeues", "expected", "reason"),
    [
        (3600.0, 0, "CANCELLED", BY_HAND),
        (3600.0, 1, "PREEMPTED", BY_HAND),
        (float("inf"), 0, "CANCELLED", BY_HAND),
        (100.0, 0, "TIMEOUT", "warned before its time limit, it left"),
        (100.0, 1, "TIMEOUT", "warned before its time limit, it left, to be started again"),
        (None, 0, "TIMEOUT", "warned before its time limit, it left"),
    ],
    ids=["far", "far, requeued", "no limit", "near", "near, requeued", "unknown"],
)
def test_a_warning_far_from_the_time_limit_is_no_time_limit(
    left_s: float | None, max_requeues: int, expected: str, reason: str, held: Program
) -> None:
    """Who leaves at one was told to by somebody: CANCELLED, or PREEMPTED where SLURM is to start the job again; TIMEOUT
    near the limit, and where SLURM does not tell when that is. The reason tells whether the job starts again, and what
    to do is said of what does not."""
    said = {None: "exit 1", float("inf"): "echo JobId=7 TimeLimit=UNLIMITED EndTime=Unknown"}.get(
        left_s, f"echo JobId=7 TimeLimit=01:00:00 EndTime={time.time() + (left_s or 0):.0f}"
    )
    (held.home / "scontrol").write_text(f"#!/bin/sh\necho $* >> {held.home}/asked\n{said}\n")
    (held.home / "scontrol").chmod(0o755)
    options = make({"max_requeues": max_requeues, "signal_delay_s": 30}, where="test")
    about = {
        "runner": ["sh", "-c", LEAVES, "sh"],
        "slurm": {"arrays": records(arrays([(options, [0])]), "e", as_mapping)},
    }
    number = create_launch(Experiment.at(held.experiment).folder, [Attempt(JobId(0), 2, State.PENDING)], about).number
    env = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1", "PATH": f"{held.home}:{os.environ['PATH']}"}
    done = held.tool("run", "0", "--launch", number, **env)
    assert 75 == done.returncode, done.stderr
    assert ["0.1.COMPLETED", f"0.2.{expected}"] == held.states()
    record = attempt(held, 0, 2)
    assert (reason, None) == (record["reason"], record.get("ask_scheduler"))
    assert bool(max_requeues) == record.get("requeued", False) == ("requeue 7" in (held.home / "asked").read_text())
    if max_requeues:
        assert 75 == held.tool("run", "0", "--launch", number, **env).returncode
        last = "CANCELLED" if expected == "PREEMPTED" else expected
        assert f"0.3.{last}" in held.states(), "it is started again as often as max_requeues says"
    if max_requeues and expected == "TIMEOUT":
        assert (
            "warned before its time limit, it left; no start is left of max_requeues=1" == attempt(held, 0, 3)["reason"]
        )
    says_what_to_do = "--state timeout`, goes on with what is TIMEOUT" in held.tool("status").stdout
    assert says_what_to_do == (expected == "TIMEOUT")


PACKED = """
import argparse, json, os, signal, time
from pathlib import Path
from experiment_manager import Experiment, current_job

HERE = Path(__file__).parent

def work(job_id, variables, configuration):
    job, how = current_job(), json.loads(os.environ["HOW"]).get(str(job_id), "completes")
    job.should_stop()  # which hears signals from now on
    HERE.joinpath(f"began.{job_id}.{job.attempt}").touch()
    if how == "fails":
        raise ValueError("told to")
    while how != "completes" and not job.should_stop():
        time.sleep(0.02)
    if how == "goes on":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        HERE.joinpath(f"warned.{job_id}").touch()
        time.sleep(60)
    return None if how == "leaves" else 1

parser = argparse.ArgumentParser()
for name in ("--job-id", "--experiment-path", "--experiment-name"):
    parser.add_argument(name)
options = parser.parse_args()
Experiment.load(options.experiment_name, options.experiment_path).run_id(int(options.job_id), work)
"""


class Pack:
    """Three jobs that share a task of SLURM, which is a program that notes what it is asked."""

    def __init__(self, home: Path, **options: Any) -> None:
        self.program = Program(home)
        home.mkdir()
        (home / "packed.py").write_text(PACKED)
        experiment = Experiment(["seed"], "train", home / "experiments")
        for seed in range(3):
            experiment.add_job({"seed": seed}, {})
        experiment.save()
        experiment.save_pass_filter(range(3))
        checked = make({"pack": 3, "signal_delay_s": 30, **options}, where="test")
        slurm = {"arrays": records(arrays([(checked, [0, 1, 2])]), "e", as_mapping)}
        about = {"runner": [sys.executable, str(home / "packed.py")], "slurm": slurm}
        planned = [Attempt(JobId(job_id), 1, State.PENDING) for job_id in range(3)]
        self.launch = create_launch(experiment.folder, planned, about).number
        self.answer("exit 1")

    def answer(self, line: str) -> None:
        """What the task is told by `scontrol`, of which `requeue` always does well."""
        text = f"#!/bin/sh\necho $* >> {self.program.home}/asked\n[ $1 = requeue ] && exit 0\n{line}\n"
        (self.program.home / "scontrol").write_text(text)
        (self.program.home / "scontrol").chmod(0o755)

    def begin(self, restart: int = 0, **how: str) -> "subprocess.Popen[str]":
        """A run of the task, in which the jobs do that; those that are not named complete at once."""
        env = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1", "SLURM_RESTART_COUNT": str(restart)}
        env |= {"PATH": f"{self.program.home}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": "0"}
        words = ("run", str(self.program.experiment), "0,1,2", "--launch", self.launch)
        told = {name.removeprefix("job_"): what for name, what in how.items()}
        return self.program.start("-m", "experiment_manager", *words, HOW=json.dumps(told), **env)

    def wait_until_begun(self, job_id: int, attempt: int = 1) -> None:
        wait_until((self.program.home / f"began.{job_id}.{attempt}").exists)

    def is_asked_to_requeue(self) -> bool:
        asked = self.program.home / "asked"
        return asked.exists() and "requeue 7\n" in asked.read_text()


NEVER_WARNED = "it had not begun when its task was warned before its time limit"
NEVER_BY_HAND = "it had not begun when somebody warned its task, long before its time limit"


@pytest.mark.parametrize(
    ("left_s", "max_requeues", "how", "expected", "reason"),
    [
        (100.0, 1, "leaves", ["0.1.TIMEOUT"], None),
        (100.0, 1, "waits", ["0.1.COMPLETED"], None),
        (3600.0, 1, "waits", ["0.1.COMPLETED"], None),
        (100.0, 0, "leaves", ["0.1.TIMEOUT", "1.1.TIMEOUT", "2.1.TIMEOUT"], NEVER_WARNED),
        (None, 0, "waits", ["0.1.COMPLETED", "1.1.TIMEOUT", "2.1.TIMEOUT"], NEVER_WARNED),
        (3600.0, 0, "waits", ["0.1.COMPLETED", "1.1.CANCELLED", "2.1.CANCELLED"], NEVER_BY_HAND),
    ],
)
def test_no_job_begins_after_the_warning_of_its_task(
    left_s: float | None, max_requeues: int, how: str, expected: list[str], reason: str | None, tmp_path: Path
) -> None:
    """Jobs of a pack that wait for a GPU are not begun where nobody would warn them any more: the task is started again
    for them, where it may be, and they run then; else they never began, and are run by whoever runs the sweep again."""
    pack = Pack(tmp_path / "home", gpus_per_job=1, max_requeues=max_requeues)
    pack.answer("exit 1" if left_s is None else f"echo JobId=7 TimeLimit=01:00:00 EndTime={time.time() + left_s:.0f}")
    task = pack.begin(job_0=how)
    pack.wait_until_begun(0)
    task.send_signal(signal.SIGUSR1)
    _, said = task.communicate(timeout=60)
    assert (75, expected) == (task.returncode, pack.program.states()), said
    assert "jobs 1-2 have not begun, and do not after this warning: " in said
    assert bool(max_requeues) == pack.is_asked_to_requeue() == ("the task is to be started again" in said)
    if reason is not None:
        assert [reason] * 2 == [attempt(pack.program, job)["reason"] for job in (1, 2)]
    if max_requeues:
        again = pack.begin(restart=1)
        again.communicate(timeout=60)
        assert {"1.1.COMPLETED", "2.1.COMPLETED"} < set(pack.program.states())


def test_jobs_that_have_not_begun_cost_the_others_no_start(tmp_path: Path) -> None:
    """Where a disk does not give, at the warning, what is to become of them."""
    pack = Pack(tmp_path / "home", gpus_per_job=1, max_requeues=1)
    pack.answer(f"echo JobId=7 TimeLimit=01:00:00 EndTime={time.time() + 100:.0f}")
    task = pack.begin(job_0="leaves")
    pack.wait_until_begun(0)
    orders = pack.program.experiment / "launches" / pack.launch / "orders.sqlite"
    orders.write_text("damaged" * 100)
    task.send_signal(signal.SIGUSR1)
    _, said = task.communicate(timeout=60)
    assert ("TIMEOUT", True) == (attempt(pack.program, 0)["state"], pack.is_asked_to_requeue()), said
    assert "jobs that have not begun are not looked at: " in said


@pytest.mark.parametrize(("why", "is_again"), [("Reason=TimeLimit", True), ("Reason=None", False)])
def test_a_task_that_is_ended_after_its_warning_is_started_again_for_time_alone(
    why: str, is_again: bool, tmp_path: Path
) -> None:
    """A job that has no start left lives on until the time limit, and the others of its pack are started again all the
    same; where somebody has cancelled the task, the scheduler tells what becomes of those that have not begun."""
    pack = Pack(tmp_path / "home", gpus_per_job=1, max_requeues=1)
    pack.answer(f"echo JobId=7 {why} EndTime={time.time() + 100:.0f}")
    for number, how in ((1, "leaves"), (2, "goes on")):
        task = pack.begin(restart=number - 1, job_0=how)
        pack.wait_until_begun(0, number)
        (pack.program.home / "asked").unlink(missing_ok=True)
        task.send_signal(signal.SIGUSR1)
        if how == "goes on":
            wait_until((pack.program.home / "warned.0").exists)
            task.send_signal(signal.SIGTERM)
        _, said = task.communicate(timeout=60)
    expected = ["0.1.TIMEOUT", f"0.2.{'TIMEOUT' if is_again else 'CANCELLED'}"]
    assert (expected, is_again) == (pack.program.states(), pack.is_asked_to_requeue()), said


def test_a_warning_that_comes_before_a_job_begins_reaches_it(tmp_path: Path) -> None:
    """As while it waits until an earlier run of its task, which may go on on a node that was lost, has looked."""
    pack = Pack(tmp_path / "home", gpus_per_job=1)
    states, some_time_ago = States(Experiment.at(pack.program.experiment).folder), time.time() - 15
    lost = {"fenced_at": some_time_ago}
    states.finish(0, states.claim(0, {"launch": pack.launch}), State.NODE_FAIL, lost)
    os.utime(pack.program.experiment / "jobs/0/attempt.1.json", (some_time_ago, some_time_ago))
    task = pack.begin(job_0="leaves")
    wait_until(lambda: "0.2.RUNNING" in pack.program.states())
    task.send_signal(signal.SIGUSR1)
    _, said = task.communicate(timeout=60)
    assert "0.2.TIMEOUT" in pack.program.states(), said


@pytest.mark.parametrize(
    ("how", "state", "options"),
    [("leaves", "TIMEOUT", {"job_timeout_min": 0.02}), ("fails", "FAILED", {}), ("leaves", "CANCELLED", {})],
    ids=["its own limit", "failed", "told by hand"],
)
def test_what_has_ended_by_itself_is_left_alone_where_its_task_starts_again_for_others(
    how: str, state: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """As a worker leaves it alone. Where nothing is left to be run, somebody wants the jobs to run again."""
    pack = Pack(tmp_path / "home", gpus_per_job=1, **options)
    pack.answer("echo JobId=7 TimeLimit=UNLIMITED EndTime=Unknown")
    states, program = States(Experiment.at(pack.program.experiment).folder), pack.program
    task = pack.begin(job_0=how, job_1="goes on")
    if state == "CANCELLED":
        pack.wait_until_begun(0)
        os.kill(states.record(0, 1)["pid"], signal.SIGUSR1)
    wait_until(lambda: "1.1.RUNNING" in program.states())
    task.kill()
    task.communicate()
    assert f"0.1.{state}" in program.states()
    _, said = pack.begin(restart=1).communicate(timeout=60)
    assert [1, 2, 1] == [len(states.attempts(job_id)) for job_id in range(3)], said
    assert "job 0 ended by itself before this task was started again for others, and left alone" in said
    _, said = pack.begin(restart=2).communicate(timeout=60)
    assert 2 == len(states.attempts(0)), said


@pytest.mark.parametrize(
    "told", [{"SLURM_JOB_NODELIST": "n[1-4]"}, {"SLURMD_NODENAME": "n1"}], ids=["shell of salloc", "daemon"]
)
def test_a_job_is_in_no_allocation_that_it_has_outlived(told: dict[str, str], held: Program) -> None:
    """A shell keeps the variables of an allocation that has ended: a job that is begun in it goes on, whoever looks
    from another host, and ends as one of a person, of whom the second signal kills."""
    elsewhere = on_another_host()
    gone = "#!/bin/sh\necho slurm_load_jobs error: Invalid job id specified >&2; exit 1\n"
    for name in ("scontrol", "squeue"):
        (held.home / name).write_text(gone)
        (held.home / name).chmod(0o755)
    env = {"PATH": f"{held.home}:{os.environ['PATH']}"}
    running = Running(held, "deaf", **env, **told, SLURM_JOB_ID="123")
    looks = [*elsewhere, sys.executable, "-m", "experiment_manager", "status", str(held.experiment)]
    said = subprocess.run(looks, env=clean_env(**env), capture_output=True, text=True, check=False)
    assert f"on {os.uname().nodename}, which cannot be asked from here" in said.stdout, said
    assert ["0.1.COMPLETED", "0.2.RUNNING"] == held.states()
    assert not running.child_is_gone()
    running.supervisor.send_signal(signal.SIGTERM)
    running.supervisor.send_signal(signal.SIGINT)
    assert 137 == running.end()
    assert ["0.1.COMPLETED", "0.2.CANCELLED"] == held.states()
    record = attempt(held, 0, 2)
    assert ("stopped by a signal", None) == (record["reason"], record.get("ask_scheduler"))


def test_attempt_that_somebody_else_ended_publishes_nothing(held: Program) -> None:
    """A supervisor whose RUNNING was renamed by another one records nothing over it, and leaves with 75."""
    running = Running(held)
    program = running.program
    states = program.experiment / "states"
    (states / "0.2.RUNNING").rename(states / "0.2.NODE_FAIL")
    os.kill(running.child, signal.SIGTERM)
    assert 75 == running.end()
    assert ["0.1.COMPLETED", "0.2.NODE_FAIL"] == program.states()
    assert not (program.experiment / "jobs/0/attempt.2.json").exists()


@pytest.mark.usefixtures("light")
def test_fake_run_prints_the_job_and_never_counts_as_completed(program_after: ProgramAfter) -> None:
    """`run --fake` prints id, variables and configuration, leaves a result, ends as FAKE, and the job still runs."""
    program = program_after("seed=7", "how=exit3")
    done = program.tool("run", "0", "--fake")
    assert done.returncode == 0, done.stderr
    said = (program.experiment / "jobs/0/stdout.2.log").read_text()
    assert said == done.stdout
    assert "job id: 0" in said
    assert "'seed': 7" in said
    assert "'tau': 0.005" in said
    assert 0.005 == json.loads((program.experiment / "jobs/0/configuration.json").read_text())["tau"]
    assert ["0.1.FAILED", "0.2.FAKE"] == program.states()
    assert {"FAILED": 1} == program.told("status")["counts"]
    program.sweep("seed=7", "how=exit3")
    assert ["0.1.FAILED", "0.2.FAKE", "0.3.FAILED"] == program.states()


def test_fake_run_of_a_completed_job_changes_nothing(program_after: ProgramAfter) -> None:
    """To look at a job that has completed must not make it undone: its state, its result, and that it is left alone."""
    program = program_after("seed=1")
    assert 0 == program.tool("run", "0", "--fake").returncode
    assert {"COMPLETED": 1} == program.told("status")["counts"]
    assert {"result": 1.5} == program.told("results")[0]["result"]
    assert "0 to run, 1 COMPLETED left alone" in program.sweep("seed=1").stderr


def test_dry_pass_that_fails_leaves_the_job_what_it_was(program_after: ProgramAfter) -> None:
    """A dry pass is FAKE whatever its end, says why it failed, takes no module from where it is typed, and hides
    neither a result nor that a launch has had its job done."""
    program = program_after("seed=1")
    (program.home / "types.py").write_text("raise SystemExit('a module of the user')")
    assert 0 == program.tool("run", "0", "--fake", PYTHONSAFEPATH="1").returncode
    (program.experiment / "jobs/0/configuration.json").unlink()
    (program.experiment / "jobs/0/configuration.json").mkdir()
    failed = program.tool("run", "0", "--fake", PYTHONSAFEPATH="1")
    assert 1 == failed.returncode
    assert "job 0 attempt 3: FAKE: exit code 1" in failed.stderr
    (program.home / "types.py").unlink()
    assert ["0.1.COMPLETED", "0.2.FAKE", "0.3.FAKE"] == program.states()
    assert "last lines of stderr" in program.tool("show", "0").stdout
    assert {"result": 1.5} == program.told("results")[0]["result"]
    again = program.tool("run", "0", "--launch", "0001")
    assert "job 0 has been completed since launch 0001 was planned: attempt 1" in again.stderr
    assert "0 to run, 1 COMPLETED left alone" in program.sweep("seed=1").stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["99"], "there is no job 99"),
        (["1"], "outside the pass filter"),
        (["0", "--launch", "0042"], "no launch 0042"),
        ([], "name the job"),
        (["x"], "is no job id"),
    ],
)
def test_run_refuses_with_a_sentence(program_after: ProgramAfter, arguments: list[str], said: str) -> None:
    """Unknown ids, jobs outside the filter and unknown launches end with 2, and begin no attempt."""
    program = program_after("seed=1,2", "hydra.sweeper.pass_filter='0'")
    done = program.tool("run", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert ["0.1.COMPLETED"] == program.states()


def test_places_that_cannot_be_written(program_after: ProgramAfter) -> None:
    """Where nothing can be written, `filter` and `run` say so in one sentence, and exit with 2."""
    program = program_after("seed=1")
    (program.experiment / "pass_filter.json").rename(program.home / "pass_filter.json")
    (program.experiment / "pass_filter.json").mkdir()
    done = program.tool("filter", "0")
    assert (2, 1) == (done.returncode, len(done.stderr.splitlines())), done.stderr
    assert "pass_filter.json cannot be made or written" in done.stderr
    (program.experiment / "pass_filter.json").rmdir()
    (program.home / "pass_filter.json").rename(program.experiment / "pass_filter.json")
    (program.experiment / "jobs").rename(program.home / "jobs")
    (program.experiment / "jobs").touch()
    done = program.tool("run", "0")
    assert (2, 1) == (done.returncode, len(done.stderr.splitlines())), done.stderr
    assert f"{program.experiment / 'jobs/0'} cannot be made or written" in done.stderr


def test_folder_that_is_no_experiment(program: Program) -> None:
    """`run` and every other verb say that a folder is no experiment, with 2 and without a traceback."""
    for verb in ("run", "status", "jobs", "results", "show", "filter"):
        more = ["0"] if verb in ("run", "show") else []
        done = program.tool(verb, *more)
        assert done.returncode == 2, verb
        assert "is no experiment" in done.stderr
        assert "Traceback" not in done.stderr


def test_run_takes_path_and_name(program_after: ProgramAfter) -> None:
    """The long form of the call, which scripts use, is the same as the short one."""
    program = program_after("seed=1")
    where = ("--experiment-path", "experiments", "--experiment-name", "train")
    done = program.python("-m", "experiment_manager", "run", *where, "--job-id", "0")
    assert done.returncode == 0, done.stderr
    assert ["0.1.COMPLETED", "0.2.COMPLETED"] == program.states()


def test_run_imports_no_heavy_library(program_after: ProgramAfter) -> None:
    """What every task of a sweep pays for has neither Hydra nor the libraries of the command line in it."""
    program = program_after("seed=1")
    script = (
        "import sys\nfrom experiment_manager.execution.run import main\n"
        f"status = main([{str(program.experiment)!r}, '0'])\n"
        "heavy = {'argparse', 'ctypes', 'hydra', 'omegaconf', 'typer', 'click', 'rich', 'yaml', 'numpy', 'pandas',"
        " 'submitit', 'orjson',"
        " 'dataclasses', 'inspect', 'cloudpickle', 'filelock', 'simpleeval'}\n"
        "print(status, sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=program.home, env=clean_env(), capture_output=True, text=True, check=True
    )
    assert "0 []" == done.stdout.strip()


RULE = {"timeout_min": "x2", "max": 90}
IMPORTS = """
import sys
from experiment_manager.execution import run, supervisor

def ours():
    return {name for name in sys.modules if name.startswith("experiment_manager")}

class Watched(supervisor._Supervision):
    def _wait(self):
        self.before = ours()
        return super()._wait()

    def run(self):
        outcome = super().run()
        print("imported late:", sorted(ours() - self.before))
        return outcome

supervisor._Supervision = Watched
sys.exit(run.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("line", "options", "expected"),
    [
        ("exit 0", {}, "FAILED"),  # a runner that runs nothing
        ("exit 3", {}, "FAILED"),
        ("kill -SEGV $$", {}, "FAILED"),
        ("LEAVES", {"max_requeues": 1}, "TIMEOUT"),
        ("kill -USR1 $PPID; exec sleep 600", {"max_requeues": 1, "signal_delay_s": 1}, "TIMEOUT"),
        ("kill -TERM $PPID; exec sleep 600", {"timeout_min": 9, "on_timeout": RULE}, "TIMEOUT"),
        ("exec sleep 600", {"job_timeout_min": 0.03}, "TIMEOUT"),
    ],
)
def test_a_supervisor_needs_no_package_once_its_job_runs(
    line: str, options: dict[str, Any], expected: str, held: Program
) -> None:
    """Somebody upgrades the package while jobs run: until the end is recorded, nothing of it is imported for the first
    time, whichever way the job ends, so that no end is made up of two versions, or of an ImportError."""
    says = "JobId=7 JobState=TIMEOUT Reason=TimeLimit TimeLimit=01:00:00 Restarts=0 PreemptTime=None"
    (held.home / "scontrol").write_text(f"#!/bin/sh\necho {says} EndTime={time.time() + 60:.0f}\n")
    (held.home / "scontrol").chmod(0o755)
    about = {
        "runner": ["sh", "-c", line.replace("LEAVES", LEAVES), "sh"],
        "slurm": {"arrays": records(arrays([(make(options, where="test"), [0])]), "e", as_mapping)},
    }
    number = create_launch(Experiment.at(held.experiment).folder, [Attempt(JobId(0), 2, State.PENDING)], about).number
    in_task = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1"}
    environ = {**in_task, "PATH": f"{held.home}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": "0"}
    done = held.python("-c", IMPORTS, str(held.experiment), "0", "--launch", number, **environ)
    assert "imported late: []" in done.stdout, done.stderr
    assert ["0.1.COMPLETED", f"0.2.{expected}"] == held.states()


PREPARED = """
import sys
from experiment_manager.execution.forkserver import server
from experiment_manager.execution.supervisor import load
from experiment_manager.scheduler import schedulers

plan = {"command": [sys.executable], "target": ["-m", "x"], "cwd": ".", "warm_up": None}
server.prepared({**plan, "arguments": [], "own": [], "modules": []})
before = set(sys.modules)
load(schedulers.current())
print(sorted(set(sys.modules) - before))
"""


def test_what_jobs_are_forked_from_has_all_that_their_supervisors_need(tmp_path: Path) -> None:
    """Each supervisor is a copy of it, and would import that again, from a package that was replaced since, perhaps."""
    env = clean_env(SLURM_JOB_ID="7", SLURMD_NODENAME="n1", CUDA_VISIBLE_DEVICES="0")
    done = subprocess.run([sys.executable, "-c", PREPARED], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert "[]" == done.stdout.strip(), done.stderr


WORDS = [
    "e", "7", "3,4", "x", "", "-1", "7,", "0x7", "٣", "9" * 30, "--experiment-path", "--experiment-name", "--job-id",
    "--job-id=7", "--launch", "--runner", "--array", "--worker", "--fake", "--la", "--", "-h", "0001",
]  # fmt: skip


@examples(500)
@given(st.lists(st.sampled_from(WORDS), max_size=8) | st.tuples(*[st.sampled_from(WORDS)] * 2, st.just("--launch")))
def test_a_plain_call_is_read_as_any_call(words: Sequence[str]) -> None:
    """What is read without argparse means what argparse says that it means."""
    call = plain_call(words)
    if call is not None:
        assert Call(**vars(parser().parse_args(list(words)))) == call


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        (Call(folder="e", job=[7], launch="1"), ["e", "7", "--launch", "1"]),
        (Call(experiment_path="p", experiment_name="e", job_id=[3, 4], launch="1"),
         ["--experiment-path", "p", "--experiment-name", "e", "--launch", "1", "--job-id", "3,4"]),
        (Call(experiment_path="p", experiment_name="e", job_id=[3], launch="1", array="e-x1"),
         ["--experiment-path", "p", "--experiment-name", "e", "--launch", "1", "--array", "e-x1", "--job-id", "3"]),
        (None, ["--experiment-path", "p", "--experiment-name", "e", "--array", "e-x1", "--job-id", "3"]),
        (None, ["e", "7", "--fake"]),
        (None, ["e", "--launch", "1", "7"]),
        (None, ["--experiment-path", "p", "--job-id", "7"]),
    ],
)  # fmt: skip
def test_calls_of_scripts_are_plain(expected: Call | None, words: list[str]) -> None:
    """The calls that scripts and the pool write are read without argparse; the others are left to it."""
    assert expected == plain_call(words)


def test_run_reads_nothing_that_grows(tmp_path: Path) -> None:
    """Until a job of a launch has begun, its task opens the same files in an experiment of 10 and of 1,000 jobs, lists
    no folder of it, imports nothing that only the end needs, and reads neither the whole launch nor the filter."""
    opened = {n_jobs: _opened_until_the_start(tmp_path, n_jobs) for n_jobs in (10, 1000)}
    assert opened[10] == opened[1000]
    assert ["launches/0001/orders.sqlite", "manifest.sqlite", "states/7.1"] == sorted(
        {path for path in opened[10] if path.startswith(("launches/", "manifest", "pass_filter", "states/7"))}
    )


def _opened_until_the_start(place: Path, n_jobs: int) -> list[str]:
    """The files that `run` opens and lists of an experiment of so many jobs until the child starts."""
    experiment = Experiment(["seed"], f"e{n_jobs}", place)
    for seed in range(n_jobs):
        experiment.add_job({"seed": seed}, {})
    experiment.save()
    experiment.save_pass_filter(range(n_jobs))
    options = make({"mem_gb": 1}, where="test")
    ids = random.Random(0).sample(range(8, n_jobs), n_jobs // 10)
    about = {"slurm": {"arrays": records(arrays([(options, [7, *ids])]), "e", as_mapping)}, "runner": ["true"]}
    create_launch(experiment.folder, (Attempt(JobId(job), 1, State.PENDING) for job in (7, *ids)), about)
    script = (
        "import json, sys\n"
        "from experiment_manager.execution.run import main\n"
        "ours = {'experiment_manager.model.policy', 'experiment_manager.model.ids'}\n"
        "seen, late = [], {'argparse', 'ctypes', 'secrets', 'shlex', 'shutil', 'subprocess', 'typing', *ours}\n"
        "def look(what, given):\n"
        "    if what in ('open', 'sqlite3.connect', 'os.listdir', 'os.scandir'):\n"
        "        seen.append(str(given[0]))\n"
        "    if what == 'open' and 'stdout.1.log' in str(given[0]):\n"
        "        print(json.dumps([seen, sorted(late & set(sys.modules))]))\n"
        "sys.addaudithook(look)\n"
        "main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", script, experiment.folder.path, "7", "--launch", "0001"]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_env(), check=True)
    seen, late = json.loads(done.stdout)
    assert [] == late
    assert "LOST" not in done.stderr
    home = f"{experiment.folder.path}/"
    paths = [path.partition("?")[0].removeprefix("file:") for path in seen]
    return [re.sub(r"\.[0-9a-f-]+\.tmp$", "", path.removeprefix(home)) for path in paths if path.startswith(home)]


def test_pasted_command_runs_the_same_job(program_after: ProgramAfter) -> None:
    """The command that `show` prints runs in a shell as it is, and makes no attempt."""
    program = program_after("algorithm=DDPG", "text='a b'")
    done = subprocess.run(
        program.told("show", "0")["command"], shell=True, env=clean_env(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Callback" not in done.stderr
    assert ["0.1.COMPLETED"] == program.states()


def test_result_that_cannot_be_written_is_no_completion(program: Program) -> None:
    """A job whose result finds no room on the disk is FAILED, and the reason says so."""
    text = (program.home / "train.py").read_text()
    limit = "__import__('resource').setrlimit(__import__('resource').RLIMIT_FSIZE, (3000, 3000)) or list(range(5000))"
    (program.home / "train.py").write_text(text.replace("cfg.seed * cfg.algorithm.gain", limit))
    assert 1 == program.sweep("seed=1").returncode
    assert ["0.1.FAILED"] == program.states()
    assert "the result could not be written: File too large" in attempt(program, 0)["reason"]
    assert 74 == program.tool("run", "0").returncode


def test_job_that_removes_its_own_folder_has_a_state(program: Program) -> None:
    """A state is told even where the record of the attempt cannot be written."""
    text = (program.home / "train.py").read_text()
    remove = "__import__('shutil').rmtree(job.directory) or sys.exit(5)"
    (program.home / "train.py").write_text(text.replace("cfg.seed * cfg.algorithm.gain", remove))
    assert 1 == program.sweep("seed=1").returncode
    assert ["0.1.FAILED"] == program.states()


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("target", ["train.py", "-m train"])
def test_moved_project_can_be_swept_again(program: Program, target: str) -> None:
    """A job whose program has moved: `run` says what is missing, and the same sweep from the new place runs it. Of a
    script that is known before an attempt begins; the folder of a module is missed when it does."""
    sweep = (*target.split(), "-m", "how=unless-again", "hydra.sweeper.experiment_path=../kept")
    program.python(*sweep)
    program.experiment = program.home.parent / "kept" / "train"
    program.home = program.home.rename(program.home.parent / "moved")
    done = program.tool("run", "0")
    if target == "train.py":
        where = f"the folder {program.home.parent}/home, where the sweep was started, is not there any more, or not on"
        assert (2, True) == (done.returncode, where in done.stderr)
        expected = ["0.1.FAILED", "0.2.COMPLETED"]
    else:
        assert 127 == done.returncode
        shown = program.tool("show", "0").stdout
        assert f"is not there any more, or not on {os.uname().nodename}; sweep again" in shown
        expected = ["0.1.FAILED", "0.2.FAILED", "0.3.COMPLETED"]
    done = program.python(*sweep)
    assert done.returncode == 0, done.stderr
    assert expected == program.states()


OTHERS_DIE = """
import itertools, sys
from experiment_manager.execution import supervisor
counts = itertools.count()
supervisor.oom_kills = lambda: next(counts)  # the kernel has killed a process of another job meanwhile
from experiment_manager.execution.run import main
sys.exit(main(sys.argv[1:]))
"""

HOW_IT_ENDS = """
import os, signal, sys, time
from pathlib import Path
from experiment_manager import Experiment, current_job

def run(job_id, variables, configuration):
    Path(current_job().directory, "began").touch()
    if variables["how"] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if variables["how"] == "sleeps":
        time.sleep(60)
    raise ValueError(variables["how"])

words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
Experiment.load(words["--experiment-name"], words["--experiment-path"]).run_id(int(words["--job-id"]), run)
"""


@pytest.mark.parametrize(
    ("how", "state"),
    [
        ("killed", "OUT_OF_MEMORY"),
        ("DataLoader worker (pid 7) is killed by signal: Killed", "OUT_OF_MEMORY"),
        ("no such optimizer", "FAILED"),
        ("sleeps", "CANCELLED"),
    ],
)
def test_what_others_die_of_in_the_same_memory_is_not_taken_for_ones_own(tmp_path: Path, how: str, state: str) -> None:
    """The kernel counts the processes that it kills for all jobs of a pool together: each job tells by its own end
    whether it was one of them, and what people have ended was none."""
    experiment = Experiment(["how"], "e", tmp_path)
    experiment.add_job({"how": how}, {})
    experiment.save()
    experiment.save_pass_filter([0])
    (tmp_path / "runner.py").write_text(HOW_IT_ENDS)
    words = ["run", str(tmp_path / "e"), "0", "--runner", str(tmp_path / "runner.py")]
    process = subprocess.Popen([sys.executable, "-c", OTHERS_DIE, *words[1:]], env=clean_env(), stderr=subprocess.PIPE)
    if how == "sleeps":
        wait_until(lambda: (tmp_path / "e/jobs/0/began").exists())
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert {state: 1} == experiment.status().counts
