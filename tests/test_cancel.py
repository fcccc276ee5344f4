"""`experiment-manager cancel` without SLURM: who is told to end, by a signal or through the folder, and who is not."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiment_manager import Experiment
from experiment_manager.errors import JobRefused
from experiment_manager.model.records import Attempt, JobId, State
from experiment_manager.scheduler import cancel
from experiment_manager.scheduler.reconcile import ActiveTask
from experiment_manager.store import endings, processes
from experiment_manager.store.launches import create_launch
from experiment_manager.store.layout import Folder
from experiment_manager.store.states import States
from tests.conftest import Program, clean_env, on_another_host, wait_until

SEARCH = ("hydra/sweeper=experiment_optuna", "hydra.sweeper.n_trials=2", "seed=interval(0,10)")

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
    request behind; one that is meant for another process of the same attempt is not for it, and it tells once of one
    that cannot be read."""
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
    request = program.experiment / "states/.0.2.cancel"
    request.write_text("{")
    assert supervisor.stderr is not None
    told = [supervisor.stderr.readline() for _ in range(2)][1]
    expected = f"job 0 attempt 2: somebody may ask for its end, and it goes on: {request} cannot be read"
    assert told.startswith(expected), told
    endings.ask_to_end(folder, 0, 2, record={**record, "started_ticks": 1}, by="an earlier one")

    said = subprocess.run(
        [*elsewhere, sys.executable, "-m", "experiment_manager", "cancel", folder.path],
        env=clean_env(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert 0 == said.returncode, said.stderr
    assert f"told job 0 of {folder.path} to end\n" == said.stdout
    assert f"asked job 0 on {os.uname().nodename} to end; it looks every 0.2 s\n" == said.stderr
    assert "somebody may ask" not in supervisor.communicate(timeout=30)[1]
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


def began_and_wait(program: Program, started: Path, *arguments: str, jobs: int = 1) -> "subprocess.Popen[str]":
    """A sweep, one job at a time, whose first jobs have begun and go on."""
    sweep = program.start("train.py", "-m", f"started='{started}'", "hydra.launcher.n_jobs=1", *arguments, HOLD="60")
    wait_until(lambda: jobs == len(list(started.iterdir())))
    return sweep


def anchor(program: Program, name: str) -> Any:
    return json.loads((program.experiment / "states" / name).read_text())


@pytest.mark.usefixtures("light")
def test_a_sweep_that_is_cancelled_begins_no_further_job(program: Program, tmp_path: Path) -> None:
    """What its process was to begin later is CANCELLED, people are told so on both sides, and the sweep ends with 1;
    what no process was to begin stays PENDING, and a plain sweep runs the others again."""
    started = tmp_path / "started"
    started.mkdir()
    program.sweep("seed=9", "hydra.sweeper.pass_filter=[]")
    sweep = began_and_wait(program, started, "seed=1,2,3,9", "hydra.sweeper.pass_filter='seed < 9'")
    cancelled = program.tool("cancel")
    assert 0 == cancelled.returncode
    told, _, ids = cancelled.stdout.partition(f" of {program.experiment} to end")
    assert ("told jobs 0-2", "\n") == (told, ids)
    who = f"process {sweep.pid} on {os.uname().nodename} (launch 0001)"
    assert f"cancelled before {who} began them: jobs 1-2\n" == cancelled.stderr
    _, said = sweep.communicate(timeout=30)
    assert 1 == sweep.returncode
    assert "3 of 3 jobs did not complete (3 CANCELLED); the same command runs them again" in said
    assert 2 == said.count("before it began")
    assert ["0.1.CANCELLED", "1.1.CANCELLED", "2.1.CANCELLED"] == program.states()
    assert 1 == len(list(started.iterdir()))
    assert 0 == program.sweep("seed=1,2,3", f"started='{started}'").returncode
    assert {f"{job}.2.COMPLETED" for job in range(3)} <= {*program.states()}
    assert "none was told to end" in program.tool("cancel").stdout


@pytest.mark.usefixtures("light")
def test_what_was_done_stays_so_where_another_attempt_never_began(program: Program, tmp_path: Path) -> None:
    """Of a sweep that runs all jobs again, and is cancelled, the sweep ends with 1; of the jobs, one that had not begun
    again has completed, and nobody runs it again without a word. `show` tells of the attempt that never began."""
    started = tmp_path / "started"
    started.mkdir()
    swept = ("seed=1,2", f"started='{started}'")
    assert 0 == program.sweep(*swept).returncode
    for ended in started.iterdir():
        ended.unlink()
    sweep = began_and_wait(program, started, "seed=1,2", "hydra.sweeper.rerun=always")
    assert {"jobs": [0, 1]} == program.told("cancel")
    _, said = sweep.communicate(timeout=30)
    assert (1, True) == (sweep.returncode, "2 of 2 jobs did not complete (2 CANCELLED)" in said)
    assert {"COMPLETED": 1, "CANCELLED": 1}.items() <= program.told("status")["counts"].items()
    shown = program.told("show", "1")
    assert ("COMPLETED", ["COMPLETED", "CANCELLED"]) == (shown["state"], [one["state"] for one in shown["attempts"]])
    assert "before it began" in program.tool("show", "1").stdout
    (row,) = [row for row in program.told("results") if row["job"] == 1]
    assert ("COMPLETED", 1, {"result": 3.0}) == (row["state"], row["attempt"], row["result"])
    refused = [program.tool("resubmit", "1", "--yes"), program.tool("run", "1", "--launch", "0001")]
    assert [2, 2] == [one.returncode for one in refused]
    assert "job 1 of " in refused[0].stderr
    assert "is COMPLETED" in refused[0].stderr
    assert "has been completed since launch 0001 was planned: attempt 1" in refused[1].stderr
    assert "1 to run, 1 COMPLETED left alone" in program.sweep(*swept).stderr
    assert "nothing to run" in program.tool("work").stdout
    assert ["0.1.COMPLETED", "0.2.CANCELLED", "0.3.COMPLETED", "1.1.COMPLETED", "1.2.CANCELLED"] == program.states()
    assert 0 == program.sweep("seed=2", swept[1], "hydra.sweeper.rerun=always").returncode
    assert "1.3.COMPLETED" in program.states()


@pytest.mark.usefixtures("light")
def test_a_job_that_a_process_would_begin_later_is_cancelled_alone(program: Program, tmp_path: Path) -> None:
    """The others go on, and `resubmit` runs it."""
    started, release = tmp_path / "started", tmp_path / "release"
    started.mkdir()
    arguments = ("train.py", "-m", f"started='{started}'", "hydra.launcher.n_jobs=1", "seed=1,2,3")
    sweep = program.start(*arguments, RELEASE=str(release))
    wait_until(lambda: list(started.iterdir()))
    assert {"jobs": [1]} == program.told("cancel", "1")
    refused = program.tool("run", "1", "--launch", "0001")
    assert (2, True) == (refused.returncode, "cancelled before launch 0001 began it (attempt 1)" in refused.stderr)
    release.touch()
    sweep.communicate(timeout=30)
    assert 1 == sweep.returncode
    assert ["0.1.COMPLETED", "1.1.CANCELLED", "2.1.COMPLETED"] == program.states()
    assert ["0", "2"] == sorted(path.name.partition(".")[0] for path in started.iterdir())
    assert 0 == program.tool("resubmit", "1", "--yes").returncode
    assert "1.2.COMPLETED" in program.states()


@pytest.mark.usefixtures("light")
def test_what_several_processes_would_begin_none_of_them_begins(program: Program, tmp_path: Path) -> None:
    """A sweep, another sweep of the same jobs and a worker: each is told of what it has in hand, on any host."""
    started = tmp_path / "started"
    started.mkdir()
    sweeps = [began_and_wait(program, started, "seed=1,2,3,4", jobs=number) for number in (1, 2)]
    worker = program.start("-m", "experiment_manager", "work", str(program.experiment), "--jobs", "1", HOLD="60")
    wait_until(lambda: 3 == len(list(started.iterdir())))
    (left,) = {0, 1, 2, 3} - {int(path.name.partition(".")[0]) for path in started.iterdir()}
    said = subprocess.run(
        [*on_another_host(), sys.executable, "-m", "experiment_manager", "cancel", str(program.experiment)],
        env=clean_env(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert 0 == said.returncode, said.stderr
    assert f"(launch 0001, if it still runs) and process {sweeps[1].pid}" in said.stderr
    for process in (*sweeps, worker):
        process.communicate(timeout=60)
        assert 1 == process.returncode
    assert [f"{job}.1.CANCELLED" for job in range(4)] == program.states()
    assert ["0001", "0002", "0003"] == anchor(program, f"{left}.1")["launches"]
    assert 3 == len(list(started.iterdir()))


@pytest.mark.usefixtures("light")
def test_a_process_that_has_died_leaves_its_jobs_what_they_are(program: Program, tmp_path: Path) -> None:
    """They are PENDING, as they were; what runs is told to end."""
    started = tmp_path / "started"
    started.mkdir()
    sweep = began_and_wait(program, started, "seed=1,2")
    sweep.kill()
    sweep.communicate(timeout=30)
    assert {"jobs": [0]} == program.told("cancel")
    wait_until(lambda: ["0.1.CANCELLED"] == program.states())
    assert ["0.1", "0.1.CANCELLED"] == sorted(path.name for path in (program.experiment / "states").iterdir())


@pytest.mark.usefixtures("light")
def test_what_runs_is_cancelled_where_nothing_can_be_written(program: Program, tmp_path: Path) -> None:
    """No file may grow, as on a full disk: people learn which jobs may begin after that, and where; of a search, that
    it may propose more, and that no request reaches what its worker runs."""
    started = tmp_path / "started"
    started.mkdir()
    words = ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", sys.executable, "-m", "experiment_manager", "cancel"]
    for name, ran in (("train", ("seed=1,2",)), ("found", (*SEARCH, "hydra.sweeper.experiment_name=found"))):
        sweep = began_and_wait(program, started, *ran)
        folder = program.experiment.with_name(name)
        said = subprocess.run([*words, str(folder)], env=clean_env(), capture_output=True, text=True, check=False)
        who = f"process {sweep.pid} on {os.uname().nodename} (launch 0001), which Ctrl-C ends there: {folder}"
        may_begin = f"error: job 1 cannot be kept from beginning in {who}/states cannot be made or written: "
        may_propose = f"error: more may be proposed by {who}/proposals cannot be made or written: "
        assert 2 == said.returncode
        assert said.stderr.startswith(may_begin if name == "train" else may_propose), said.stderr
        if name == "train":
            wait_until((folder / "states/0.1.CANCELLED").exists)
        else:
            assert "; and job 0 cannot be told to end" in said.stderr
        sweep.send_signal(signal.SIGINT)
        sweep.communicate(timeout=30)
        for one in started.iterdir():
            one.unlink()


@pytest.mark.usefixtures("light")
def test_what_nobody_is_to_begin_is_not_cancelled(program: Program, tmp_path: Path) -> None:
    """A held job of a sweep stays PENDING. Where nobody can tell whether the process of a launch still runs, its jobs
    are CANCELLED in case it does, but for those that are done; people are told what else to do, and not that a job was
    told to end."""
    started = tmp_path / "started"
    started.mkdir()
    assert 0 == program.sweep("seed=3", f"started='{started}'").returncode
    (started / next(started.iterdir())).unlink()
    sweep = began_and_wait(program, started, "seed=3,1,2", "hydra.sweeper.rerun=always")
    program.tool("hold", "1")
    assert {"jobs": [0, 2]} == program.told("cancel")
    sweep.communicate(timeout=30)
    assert ["0.1.COMPLETED", "0.2.CANCELLED", "2.1.CANCELLED"] == program.states()
    driver = program.experiment / "launches/0002/driver.json"
    driver.write_text(json.dumps({"host": "node7", "pid": 12}))
    program.tool("release", "1")
    assert {"jobs": []} == program.told("cancel", "0")
    cancelled = program.tool("cancel")
    assert (0, True) == (cancelled.returncode, "none was told to end" in cancelled.stdout)
    assert (
        "cancelled before process 12 on node7 (launch 0002, if it still runs) began it: job 1\n"
        "whether process 12 on node7 still runs cannot be told from here; if it does not run there any more, remove "
        f"{driver}\n"
    ) == cancelled.stderr
    assert ["0.1.COMPLETED", "0.2.CANCELLED", "1.1.CANCELLED", "2.1.CANCELLED"] == program.states()


@pytest.mark.usefixtures("light")
def test_a_sweep_that_waits_for_others_is_cancelled_at_once(program: Program) -> None:
    """Jobs that come after those of another experiment do not wait for these any more."""
    first = program.start("train.py", "-m", "seed=1", "hydra.sweeper.experiment_name=first", HOLD="60")
    wait_until((program.experiment.with_name("first") / "states/0.1.RUNNING").exists)
    after = "hydra.launcher.after={experiment: experiments/first, jobs: all}"
    sweep = program.start("train.py", "-m", "seed=1,2", after)
    wait_until(lambda: list(program.experiment.glob("launches/*/driver.json")))
    worker = program.start("-m", "experiment_manager", "work", str(program.experiment), "--jobs", "1")
    wait_until(lambda: 2 == len(list(program.experiment.glob("launches/*/driver.json"))))
    assert {"jobs": [0, 1]} == program.told("cancel")
    for process in (sweep, worker):
        process.communicate(timeout=30)
        assert 1 == process.returncode
    assert first.poll() is None
    assert ["0.1.CANCELLED", "1.1.CANCELLED"] == program.states()
    first.terminate()
    first.communicate(timeout=30)


@pytest.mark.usefixtures("light")
def test_a_search_that_is_cancelled_proposes_nothing_more(program: Program, tmp_path: Path) -> None:
    """Its trials have ended, people are told that it is stopped, and the same command goes on with it."""
    started = tmp_path / "started"
    started.mkdir()
    sweep = began_and_wait(program, started, *SEARCH)
    assert {"jobs": [0]} == program.told("cancel")
    _, said = sweep.communicate(timeout=30)
    assert (1, True) == (sweep.returncode, "has stopped the search; the same command goes on" in said)
    assert ["0.1.CANCELLED"] == program.states()
    assert not list(program.experiment.glob("proposals/1.json"))
    arguments = (f"started='{started}'", "hydra.launcher.n_jobs=1", *SEARCH)
    assert 0 == program.sweep(*arguments).returncode
    assert ["0.1.CANCELLED", "0.2.COMPLETED", "1.1.COMPLETED"] == program.states()


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("is_cancelled", [True, False])
def test_a_search_that_is_cancelled_ends_with_1_where_trials_are_left(
    program: Program, tmp_path: Path, is_cancelled: bool
) -> None:
    """Also where what ran has completed before it was told to end; one that is only stopped has come to its end."""
    started, release = tmp_path / "started", tmp_path / "release"
    started.mkdir()
    words = ("train.py", "-m", f"started='{started}'", "hydra.launcher.n_jobs=1", *SEARCH)
    search = program.start(*words, RELEASE=str(release))
    wait_until(lambda: list(started.iterdir()))
    folder = Folder.at(program.experiment)
    if is_cancelled:
        cancel._driven(cancel._Marks(folder), [0], States(folder).table(), are_all=True)
    else:
        program.tool("search", "--stop")
    release.touch()
    _, said = search.communicate(timeout=30)
    assert (int(is_cancelled), True) == (search.returncode, "has stopped the search; the same command goes on" in said)
    assert ["0.1.COMPLETED"] == program.states()


def test_what_begins_while_its_process_is_cancelled_is_told_apart(tmp_path: Path) -> None:
    """Whoever claims the attempt first decides: what has begun runs, and is to be told to end, and what was cancelled
    is not begun by any launch that had it in hand, but by those that come later; a job whose task of another launch was
    taken out of a queue is one that the process would begin."""
    states = States(folder := Folder(tmp_path, "train"))
    attempts = [Attempt(JobId(job), 1, State.PENDING) for job in (0, 1, 2)]
    launch = create_launch(folder, attempts, {"launcher": "local_pool"})
    states.record_unbegun(2, 1, State.CANCELLED, {"reason": "SLURM: CANCELLED"}, {"tasks": ["12_2"]})
    table, marks = states.table(), cancel._Marks(folder)
    states.claim(0, {"launch": launch.number}, planned=1)
    driven = cancel._driven(marks, [0, 1, 2], table, are_all=True)
    taken, running = cancel._taken_from_drivers(marks, driven, table, {})
    assert ({1, 2}, {0: os.getpid()}) == (taken, {job: record["pid"] for job, (_, record) in running.items()})
    for job_id in (1, 2):
        with pytest.raises(JobRefused, match="was cancelled before launch 0001 began it"):
            states.claim(job_id, {"launch": launch.number}, planned=1)
    assert {} == cancel._driven(marks, [0, 1, 2], states.table(), are_all=True)
    assert 2 == states.claim(1, {"launch": "0002"}, planned=2)


def test_what_begins_while_its_task_is_cancelled_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two tasks that the scheduler has no more, the script of one has begun its job: that runs, and is to be told to
    end; the job of the other is CANCELLED, and its task begins it no more."""
    states = States(folder := Folder(tmp_path, "train"))

    def gone(_folder: Folder, waiting: dict[int, int]) -> list[int]:
        states.claim(0, {"launch": "0001"}, planned=1)
        return list(waiting)

    monkeypatch.setattr(cancel, "_gone", gone)
    running = cancel._settle(
        cancel._Marks(folder), {0: 0, 1: 0}, {job: [ActiveTask("slurm", "12", job)] for job in (0, 1)}
    )
    assert {0: (1, os.getpid())} == {job: (number, record["pid"]) for job, (number, record) in running.items()}
    assert (State.RUNNING, State.CANCELLED) == (states.state(0, 1), states.state(1, 1))
    assert ["12_1"] == states.record(1, 1)["tasks"]
