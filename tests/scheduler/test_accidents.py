"""What people are told, and what runs, when a scheduler refuses, stalls, forgets, repeats itself or loses jobs."""

import fcntl
import getpass
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from experiment_manager.cli.main import main
from experiment_manager.errors import JobRefused, SchedulerError, UnreadableLaunch
from experiment_manager.experiment import Experiment
from experiment_manager.hydra import launchers
from experiment_manager.model.records import Launch, State
from experiment_manager.scheduler import query, reconcile, schedulers, submission
from experiment_manager.scheduler.healing import heal
from experiment_manager.scheduler.idle import require_idle
from experiment_manager.scheduler.query import ask_about
from experiment_manager.scheduler.reconcile import reconciled, wait_for, wait_until_idle
from experiment_manager.scheduler.records import Dependency, Limits, Phase
from experiment_manager.scheduler.submission import launched_arrays, newest_launch
from experiment_manager.store.files import temporary_name
from experiment_manager.store.launches import read_launch
from experiment_manager.store.layout import Folder
from experiment_manager.store.states import States
from experiment_manager.store.submissions import Submission
from experiment_manager.testing import Jobs
from tests.conftest import in_shape, submitted_long_ago
from tests.scheduler.file_scheduler import FileScheduler, begun, order, wrong


def test_refused(jobs: Jobs) -> None:
    """Nothing is handed over, and the scheduler's words are what people read; the same command submits later."""
    jobs.make({})
    wrong(refuses="no more today")
    with pytest.raises(SchedulerError, match="refused: no more today"):
        jobs.submit()
    assert {0: "PENDING"} == jobs.states()
    wrong()
    jobs.submit()
    jobs.wait_for("COMPLETED")


def test_refused_after_the_first(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a scheduler refuses a later array of a launch, people are told that those before it are submitted, and that
    the same command goes on with the rest, which it does."""
    monkeypatch.setattr(FileScheduler, "limits", lambda _: Limits(array_size=2, text=4000))
    jobs.make({}, {}, {}, {})
    folder, launch = jobs.experiment.folder, newest_launch(jobs.experiment.folder)

    def send(script: str, after: Dependency) -> str:
        wrong(refuses="no more today") if script.endswith("_2.sh") else None
        return FileScheduler().submit(script, after)

    said = r"slurm_scripts_2.sh: refused: no more today. 1 of 2 arrays of launch 0001 are submitted \(1\); .*submit "
    with pytest.raises(SchedulerError, match=said + f"{folder.path} --launch 0001` goes on with the rest"):
        submission.submit(folder, launch, send=send)
    wrong()
    assert [("1", False), ("2", True)] == [(array.slurm_id, array.is_new) for array in jobs.submit()]
    jobs.wait_for(*["COMPLETED"] * 4)


def test_killed_while_submitting(jobs: Jobs) -> None:
    """What a killed submission has left half written goes with the next one of the launch."""
    jobs.make({})
    record = jobs.experiment.folder.join("launches", "0001", "submission.json")
    left = Path(temporary_name(record).replace(f"-{os.getpid()}-", "-4194305-"))
    left.touch()
    jobs.submit()
    assert (False, True) == (left.exists(), Path(record).exists())


def test_two_submit_where_no_lock_keeps_one_out(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes second sees that somebody is at it, waits, and finds what he has submitted; who was killed at it is
    waited for no longer than it may turn up."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    jobs.make({}, {})
    folder, launch = jobs.experiment.folder, newest_launch(jobs.experiment.folder)
    is_sending, has_seen = threading.Event(), threading.Event()
    turns_up = submission._turns_up

    def send(script: str, after: Dependency) -> str:
        is_sending.set()
        assert has_seen.wait(60)
        return FileScheduler().submit(script, after)

    def seen(*given: Any) -> bool:
        if threading.current_thread() is threading.main_thread() and given[4].doubtful_until(given[3].name):
            has_seen.set()
        return turns_up(*given)

    monkeypatch.setattr(submission, "_turns_up", seen)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(submission.submit, folder, launch, send=send)
        assert is_sending.wait(60)
        (one,) = submission.submit(folder, launch)
        (other,) = first.result(60)
    assert (one.slurm_id, False, True) == (other.slurm_id, one.is_new, other.is_new)
    assert 1 == len(FileScheduler()._arrays())
    assert not list(Path(folder.join("launches", "0001")).glob("*.try"))
    Path(folder.join("launches", "0001", "submission.json")).unlink()
    shutil.rmtree(FileScheduler().root / one.slurm_id)
    name = one.name
    Path(folder.join("launches", "0001", f"{name}.try")).write_text('{"until": 1.0}')
    (again,) = submission.submit(folder, launch)
    assert again.is_new


def test_tasks_of_an_experiment_that_was_there_before(jobs: Jobs) -> None:
    """What waits for a deleted experiment runs nothing of the one that is made in its place, and says so in its log;
    a script without the name of its array, as older versions wrote it, runs the jobs of its launch."""
    (FileScheduler().root / "hold").touch()
    jobs.make({}).submit()
    folder = Path(jobs.experiment.folder.path)
    shutil.rmtree(folder)
    jobs.experiment = Experiment(["number"], "jobs", folder.parent)
    jobs.make({}, {})
    (FileScheduler().root / "hold").unlink()
    jobs.wait_until(lambda: FileScheduler()._runs("1", 0) and FileScheduler()._runs("1", 0)[-1]["end"] is not None)
    assert ({0: "PENDING", 1: "PENDING"}, 2) == (jobs.states(), FileScheduler()._runs("1", 0)[-1]["status"])
    assert f"launch 0001 of {folder} has no array jobs-" in Path(folder, "launches", "0001", "1_0.log").read_text()
    script = Path(folder, "launches", "0001", "slurm_scripts.sh")
    about = json.loads(script.read_text())
    place = about["run"].index("--array")
    script.write_text(json.dumps({**about, "run": about["run"][:place] + about["run"][place + 2 :]}))
    Path(folder, "slurm_scripts.sh").unlink()
    jobs.submit()
    jobs.wait_for("COMPLETED", "COMPLETED")
    assert ["2", "2"] == [jobs.task(job_id).array for job_id in (0, 1)]


def test_another_script_takes_the_place_of_the_one_that_is_submitted(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is submitted is the copy of the launch: at the top of the experiment somebody may write another one."""
    jobs.make({}, {})
    here, sent = submission._require_here, list[str]()

    def meanwhile(*given: Any) -> None:
        monkeypatch.setattr(submission, "_require_here", here)
        here(*given)
        jobs.experiment.add_job({"number": 2}, {"seconds": 0.0, "fails": False})
        jobs.make()

    monkeypatch.setattr(submission, "_require_here", meanwhile)

    def send(script: str, after: Dependency) -> str:
        sent.append(script)
        return FileScheduler().submit(script, after)

    submission.submit(jobs.experiment.folder, newest_launch(jobs.experiment.folder), send=send)
    assert "0002" == newest_launch(jobs.experiment.folder).number
    assert [jobs.experiment.folder.join("launches/0001/slurm_scripts.sh")] == sent
    jobs.wait_for("COMPLETED", "COMPLETED", "PENDING")


def test_accepted_and_not_answered(jobs: Jobs) -> None:
    """A submission that seems to have failed, and was taken, is found by its name: nothing runs twice."""
    jobs.make({"seconds": 180.0})
    wrong(times_out_after_accepting=True)
    (array,) = jobs.submit()
    wrong()
    assert [(array.slurm_id, False)] == [(again.slurm_id, again.is_new) for again in jobs.submit()]
    jobs.wait_until(lambda: jobs.has_begun(0))
    jobs.end(0)
    jobs.wait_for("COMPLETED")
    assert {0: ["COMPLETED"]} == jobs.attempts()
    assert ["1"] == [array for array, _ in FileScheduler()._arrays()]


@pytest.mark.parametrize("has_history", [True, False])
@pytest.mark.parametrize("by_hand", [False, True])
def test_renamed(jobs: Jobs, *, by_hand: bool, has_history: bool) -> None:
    """An array that bears another name than we gave it is ours: it waits, is not submitted again, can be cancelled, and
    is followed to its end, however long ago it was submitted, and whoever did that."""
    jobs.seconds = 40
    jobs.make({"seconds": 180.0}, {"seconds": 180.0})
    hold = FileScheduler().root / "hold"
    hold.touch()
    wrong(renames="mine", no_history=not has_history)
    if by_hand:
        FileScheduler().submit(jobs.experiment.folder.join("slurm_scripts.sh"))
        assert {0: "QUEUED", 1: "QUEUED"} == jobs.states()
    else:
        jobs.submit()
        submitted_long_ago(Path(jobs.experiment.folder.path))
    assert {0: "QUEUED", 1: "QUEUED"} == jobs.states()
    assert [False] == [again.is_new for again in jobs.submit()]
    submitted_long_ago(Path(jobs.experiment.folder.path))
    assert {0: "QUEUED", 1: "QUEUED"} == jobs.states()
    assert [1] == jobs.cancel(1)
    hold.unlink()
    jobs.wait_until(lambda: jobs.has_begun(0))
    assert {0: "RUNNING", 1: "CANCELLED"} == jobs.states()
    order(jobs, 0, "NODE_FAIL")
    jobs.wait_until(lambda: jobs.attempts()[0][0] == "NODE_FAIL", lambda: str(jobs.attempts()))
    assert ["CANCELLED"] == jobs.attempts()[1]


@pytest.mark.parametrize("has_history", [True, False])
def test_an_id_that_somebody_else_has(jobs: Jobs, *, has_history: bool) -> None:
    """An array with an id of ours that has another name and another script is none of ours, since ids begin again, and
    may be noted wrongly: it is not taken for our jobs, and not cancelled."""
    jobs.make({}, {})
    folder, launch = jobs.experiment.folder, newest_launch(jobs.experiment.folder)
    theirs = FileScheduler().root / "77"
    theirs.mkdir()
    about = {"name": "theirs", "script": "/theirs.sh", "text": "theirs", "tasks": "0-1", "user": getpass.getuser()}
    (theirs / "array.json").write_text(json.dumps({**about, "jobs": {}}))
    (theirs / "0.0.json").write_text(json.dumps({"word": "RUNNING", "start": 1.0, "end": None}))
    wrong(no_history=not has_history)
    Submission(folder, launch).note_id(launched_arrays(launch)[0].name, "77", time.time() - 1000.0, "file", None)
    state = "CANCELLED" if has_history else "LOST"
    assert {0: state, 1: state} == jobs.states()
    assert [] == jobs.cancel(0)
    assert ["0.0.json", "array.json"] == sorted(path.name for path in theirs.iterdir())


def test_a_history_that_does_not_answer(jobs: Jobs, capfd: pytest.CaptureFixture[str]) -> None:
    """Jobs are submitted, each once, and followed to their ends by what the queue and the jobs themselves tell; what
    nobody knows is LOST, also to whoever waits, until the history tells it."""
    wrong(keeps_history_to_itself="Operation not permitted")
    jobs.seconds = 60
    begun(jobs, {"seconds": 180.0}, {"seconds": 180.0}, {"seconds": 0.0})
    assert ["1"] == [array.slurm_id for array in jobs.submit()]
    Path(jobs.experiment.folder.join("launches", "0001", "submission.json")).unlink()
    os.kill(jobs.anchor(0)["pid"], signal.SIGKILL)
    order(jobs, 1, "NODE_FAIL")
    jobs.wait_until(lambda: jobs.has_begun(1, attempt=2), lambda: str(jobs.attempts()))
    jobs.end(1)
    jobs.wait_until(lambda: FileScheduler().queue([]) == [])
    assert {State.LOST: 1, State.COMPLETED: 2} == jobs.experiment.status(wait=True).counts
    assert "SLURM" not in (said := capfd.readouterr().err)
    assert 1 == said.count("the history refused: Operation not permitted. What the file scheduler still has")
    assert [("1", False)] == [(array.slurm_id, array.is_new) for array in jobs.submit()]
    assert "LOST" == jobs.states()[0]
    wrong()
    assert {0: ["FAILED"], 1: ["NODE_FAIL", "COMPLETED"], 2: ["COMPLETED"]} == jobs.attempts()


@pytest.mark.parametrize("how", ["list", "heal"])
def test_a_job_that_begins_while_the_scheduler_answers(jobs: Jobs, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Its task was seen to wait: that is no word on the job, which runs by now, and goes on."""
    hold = FileScheduler().root / "hold"
    hold.touch()
    jobs.make({"seconds": 180.0}, mem_gb=1, on_oom={"mem_gb": "x2", "max": 3}).submit()

    def begins() -> None:
        if hold.exists():
            hold.unlink()
            jobs.wait_until(lambda: jobs.has_begun(0))

    if how == "list":
        answer = ask_about([jobs.experiment.folder])
        begins()
        jobs.experiment.counts(answer)
    else:
        history = FileScheduler.history

        def slowly(scheduler: FileScheduler, *asked: Any) -> Any:
            begins()
            return history(scheduler, *asked)

        monkeypatch.setattr(FileScheduler, "history", slowly)
        assert () == heal(jobs.experiment.folder).healed
    assert not hold.exists()
    assert {0: ["RUNNING"]} == jobs.attempts()
    jobs.end(0)
    jobs.wait_for("COMPLETED")


def test_an_end_that_is_told_by_the_id_alone(jobs: Jobs) -> None:
    """A task that met its deadline before it began is not among the runs of a name: it is asked for by its array."""
    (FileScheduler().root / "hold").touch()
    (array,) = jobs.make({}, {}).submit()
    FileScheduler().order(array.slurm_id, 1, "TIMEOUT")
    jobs.wait_until(lambda: 1 == len(FileScheduler().queue([])))
    submitted_long_ago(Path(jobs.experiment.folder.path))
    assert {0: "QUEUED", 1: "TIMEOUT"} == jobs.states()


def test_waiting_for_what_never_begins(jobs: Jobs, capfd: pytest.CaptureFixture[str]) -> None:
    """Whoever waits is told of jobs that will not begin by themselves, when nothing else is left, and waits no more."""
    jobs.make({"seconds": 180.0}, {}, array_parallelism=1).submit()
    jobs.wait_until(lambda: jobs.has_begun(0))
    (FileScheduler().root / "hold").touch()
    wrong(holds_for="an administrator holds it")
    jobs.end(0)
    assert {State.COMPLETED: 1, State.QUEUED: 1} == jobs.experiment.status(wait=True).counts
    said = "job 1 will not begin unless somebody does something about it (an administrator holds it)"
    assert said in capfd.readouterr().err


@pytest.mark.parametrize("options", [{}, {"workers": 2}], ids=["tasks", "workers"])
def test_the_jobs_of_a_launch_never_begin(
    jobs: Jobs, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Whoever waits for a launch, or for all, is told where what is left of it will not begin, and waits no more; also
    where the jobs wait for workers, none of which runs."""
    monkeypatch.setattr(reconcile, "_STUCK_S", 1.0)
    (FileScheduler().root / "hold").touch()
    wrong(holds_for="an administrator holds it")
    jobs.make({}, {}, **options).submit()
    reconcile.wait_for(jobs.experiment.folder, newest_launch(jobs.experiment.folder), {})
    told = "2 workers wait (an administrator holds it)" if options else "an administrator holds it"
    said = f"jobs 0-1 will not begin unless somebody does something about it ({told}): ask them to let it go; "
    said += f"they stay in the queue, and `experiment-manager cancel {jobs.experiment.folder.path} 0-1` takes them back"
    assert said in capfd.readouterr().err
    assert {State.QUEUED: 2} == jobs.experiment.status(wait=True).counts
    assert said in capfd.readouterr().err
    assert 0 == main(["status", jobs.experiment.folder.path])
    assert f"2 jobs QUEUED: {told} (jobs 0-1); ask them to let it go" in " ".join(capfd.readouterr().out.split())
    wrong(holds_for="Priority")
    assert 0 == main(["status", jobs.experiment.folder.path])
    assert "(jobs 0-1); ask" not in capfd.readouterr().out


def test_what_may_pass_is_waited_for(
    jobs: Jobs, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits leaves soon for what only people can mend, and after ten minutes for what may pass, as an account
    that is not known while a database is started anew: when it has, the jobs run, and all are waited for."""
    assert (30.0, 600.0) == (reconcile._STUCK_S, reconcile._PASSES_S)
    monkeypatch.setattr(reconcile, "_STUCK_S", 0.0)
    hold = FileScheduler().root / "hold"
    hold.touch()
    wrong(holds_for="its account is not known")
    jobs.make({}, {}).submit()
    folder = jobs.experiment.folder
    looked: list[int] = []

    def heal() -> None:
        looked.append(1)
        if len(looked) == 3:  # it has been seen twice as it is
            hold.unlink()

    reconcile.wait_for(folder, newest_launch(folder), {}, heal=heal)
    assert {State.COMPLETED: 2} == jobs.experiment.status(wait=True).counts
    assert "will not begin" not in capfd.readouterr().err
    hold.touch()
    others = Jobs(FileScheduler(), tmp_path / "others", {}, 180.0).make({}, {})
    others.submit()
    monkeypatch.setattr(reconcile, "_PASSES_S", 1.0)
    reconcile.wait_for(others.experiment.folder, newest_launch(others.experiment.folder), {})
    said = "jobs 0-1 will not begin unless somebody does something about it (its account is not known)"
    assert said in capfd.readouterr().err
    assert {State.QUEUED: 2} == others.experiment.status(wait=True).counts
    assert said in capfd.readouterr().err


def test_waiting_for_what_only_a_newer_version_can_tell(
    jobs: Jobs, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits, for a launch or for all, leaves when it is so for long that a job runs no more, and its end cannot
    be read here; people are told."""
    monkeypatch.setattr(reconcile, "ASK_FIRST_S", 0.2)
    monkeypatch.setattr(reconcile, "_PASSES_S", 1.0)
    folder = begun(jobs).experiment.folder
    Path(folder.of_attempt(0, 1, "attempt")).write_text('{"format": 999}')
    os.kill(jobs.anchor(0)["pid"], signal.SIGKILL)
    reconcile.wait_for(folder, newest_launch(folder), {})
    assert "job 0 RUNNING" in (said := capfd.readouterr().err)
    assert "it runs no more, and how it ended cannot be read" in said
    assert {State.RUNNING: 1} == jobs.experiment.status(wait=True).counts


def test_on_another_cluster(jobs: Jobs, capfd: pytest.CaptureFixture[str]) -> None:
    """What was submitted to another cluster than the one that is asked is as it was last known: it is not called ended,
    not cancelled, and not submitted again, and people are told; asked there, it is followed."""
    (FileScheduler().root / "hold").touch()
    there: dict[str, Any] = {"cluster": "other"}
    wrong(**there)
    jobs.make({}).submit()
    submitted_long_ago(Path(jobs.experiment.folder.path))
    wrong(forgets=[about["name"] for _, about in FileScheduler()._arrays()])  # here nobody has heard of it
    assert {0: "QUEUED"} == jobs.states()
    assert ": None is asked, frozenset({'other'}) has the jobs" in capfd.readouterr().err
    with pytest.raises(SchedulerError, match="has the jobs"):
        jobs.cancel(0)
    assert [False] == [array.is_new for array in jobs.submit()]
    wrong(**there)
    assert [0] == jobs.cancel(0)
    assert {0: "CANCELLED"} == jobs.states()


def test_by_hand_on_another_cluster(jobs: Jobs, capfd: pytest.CaptureFixture[str]) -> None:
    """What somebody has submitted there without us is known to be there from when it was seen in its queue, or has
    begun: it waits and runs on, and people are told."""
    jobs.seconds = 40
    jobs.make({"seconds": 180.0}, {"seconds": 180.0}, array_parallelism=1)
    hold = FileScheduler().root / "hold"
    hold.touch()
    wrong(cluster="other")
    script = jobs.experiment.folder.join("slurm_scripts.sh")
    name = json.loads(Path(script).read_text())["name"]
    FileScheduler().submit(script)
    assert {0: "QUEUED", 1: "QUEUED"} == jobs.states()
    wrong(forgets=[name])
    assert {0: "QUEUED", 1: "QUEUED"} == jobs.states()
    assert ": None is asked, frozenset({'other'}) has the jobs" in capfd.readouterr().err
    wrong(cluster="other")
    hold.unlink()
    jobs.wait_until(lambda: jobs.has_begun(0))
    for path in Path(jobs.experiment.folder.join("launches", "0001")).glob("seen*.json"):
        path.unlink()
    wrong(forgets=[name])
    assert "RUNNING" == jobs.states()[0]
    with pytest.raises(SchedulerError, match="has the jobs"):
        jobs.cancel(0)
    wrong(cluster="other")
    assert [0, 1] == jobs.cancel(0, 1)
    jobs.wait_for("CANCELLED", "CANCELLED")


def test_a_cluster_that_has_told_its_name_later(jobs: Jobs) -> None:
    """What was submitted while the cluster did not tell its name is known to be there from when it was seen there."""
    (FileScheduler().root / "hold").touch()
    jobs.make({}).submit()
    submitted_long_ago(Path(jobs.experiment.folder.path))
    wrong(cluster="here")
    assert {0: "QUEUED"} == jobs.states()
    wrong(cluster="other", forgets=[about["name"] for _, about in FileScheduler()._arrays()])
    assert {0: "QUEUED"} == jobs.states()


def test_on_two_clusters_by_hand(jobs: Jobs, capfd: pytest.CaptureFixture[str]) -> None:
    """A script that somebody has submitted to one cluster, taken back, and submitted to another one is followed there;
    what has not begun waits as long as the first one may still have it, which people are told, and is not submitted to
    either by us. Whoever knows better says so."""
    jobs.seconds = 40
    jobs.make({"seconds": 180.0}, {"seconds": 180.0}, array_parallelism=1)
    hold, script = FileScheduler().root / "hold", jobs.experiment.folder.join("slurm_scripts.sh")
    hold.touch()
    wrong(cluster="other")
    FileScheduler().submit(script)
    assert {0: "QUEUED", 1: "QUEUED"} == jobs.states()
    FileScheduler().cancel([("1", 0), ("1", 1)])
    wrong(cluster="third")
    with pytest.raises(JobRefused, match=r"0001 of .* is not submitted here: other may have its jobs, and third is"):
        jobs.submit()
    wrong(cluster="here")
    hold.unlink()
    FileScheduler().submit(script)
    jobs.wait_until(lambda: jobs.has_begun(0))
    assert {0: "RUNNING", 1: "QUEUED"} == jobs.states()
    assert "other may have its jobs, and here is asked. What is not seen is shown as" in capfd.readouterr().err
    with pytest.raises(JobRefused, match=r"job 1 may go on: launch 0001 of .*: other may have its jobs, and here is"):
        jobs.cancel(1)
    assert {0: "RUNNING", 1: "QUEUED"} == jobs.states()
    FileScheduler().order("2", 0, "NODE_FAIL")
    jobs.wait_until(lambda: "NODE_FAIL" == jobs.attempts()[0][0], lambda: str(jobs.attempts()))
    launch = Path(jobs.experiment.folder.join("launches", "0001"))
    FileScheduler().cancel([("2", 0), ("2", 1)])
    jobs.wait_until(lambda: not FileScheduler().queue([]) and "RUNNING" not in jobs.states().values())
    (launch / "settled").touch()  # somebody knows that neither has it any more
    assert "PENDING" == jobs.states()[1]
    assert (launch / "settled").exists()


@pytest.mark.parametrize("fails", [False, True])
def test_what_has_ended_on_another_cluster_is_over(
    jobs: Jobs, capfd: pytest.CaptureFixture[str], *, fails: bool
) -> None:
    """Nobody is asked, or told, about jobs that have ended there, and they keep nobody from anything here."""
    wrong(cluster="other")
    jobs.make({"fails": fails}).submit()
    jobs.wait_until(lambda: jobs.states()[0] in ("COMPLETED", "FAILED"))
    folder = jobs.experiment.folder
    for path in Path(folder.join("launches", "0001")).glob("settled"):
        path.unlink()
    there = [about["name"] for _, about in FileScheduler()._arrays()]
    wrong(cluster="here", forgets=there)
    capfd.readouterr()
    assert {0: "FAILED" if fails else "COMPLETED"} == jobs.states()
    assert "" == capfd.readouterr().err
    assert Path(folder.join("launches", "0001", "settled")).exists()
    require_idle(folder, "moved")


def test_one_cluster_does_not_keep_another_from_its_work(jobs: Jobs) -> None:
    """What is on the cluster that is asked is followed and cancelled there, whatever else is on another one."""
    (FileScheduler().root / "hold").touch()
    wrong(cluster="other")
    jobs.make({}).submit()
    there = [about["name"] for _, about in FileScheduler()._arrays()]
    wrong(cluster="here", forgets=there)
    jobs.experiment.add_job({"number": 1}, {"seconds": 0.0, "fails": False})
    jobs.make().submit()
    assert {0: "QUEUED", 1: "QUEUED"} == jobs.states()
    assert [1] == jobs.cancel(1)
    assert {0: "QUEUED", 1: "CANCELLED"} == jobs.states()


def test_what_waits_and_is_not_seen_is_not_called_cancelled(jobs: Jobs) -> None:
    """A task that the queue does not show, and that nobody has told to end, begins later."""
    (FileScheduler().root / "hold").touch()
    jobs.make({}).submit()
    wrong(forgets=[about["name"] for _, about in FileScheduler()._arrays()])
    assert {0: "QUEUED"} == jobs.states()
    with pytest.raises(JobRefused, match="job 0 cannot be told to end: no queue that is seen from here has a task"):
        jobs.cancel(0)
    assert {0: "QUEUED"} == jobs.states()
    wrong()
    assert [0] == jobs.cancel(0)
    assert {0: "CANCELLED"} == jobs.states()


def test_stalls(jobs: Jobs, capfd: pytest.CaptureFixture[str]) -> None:
    """A scheduler that does not answer is no reason to call anything ended, waiting or failed: people are told."""
    begun(jobs, {"seconds": 180.0}, {"seconds": 180.0})
    wrong(stalls=True)
    assert {0: "RUNNING", 1: "RUNNING"} == jobs.states()
    assert "the file scheduler cannot be asked: no answer from the queue" in capfd.readouterr().err
    with pytest.raises(SchedulerError, match="no answer"):
        jobs.cancel(0)
    wrong()
    jobs.end(0)
    jobs.end(1)
    jobs.wait_for("COMPLETED", "COMPLETED")


def test_answers_twice(jobs: Jobs) -> None:
    """Rows that come twice are one task."""
    begun(jobs, {"seconds": 180.0}, {"seconds": 180.0}, array_parallelism=2)
    wrong(answers_twice=True)
    assert {0: "RUNNING", 1: "RUNNING"} == jobs.states()
    assert [1] == jobs.cancel(1)
    jobs.wait_for("RUNNING", "CANCELLED")
    jobs.end(0)
    jobs.wait_for("COMPLETED", "CANCELLED")


def test_forgets_what_runs(jobs: Jobs) -> None:
    """What the queue and the history have forgotten while it runs is not called ended, and ends as it does."""
    begun(jobs)
    (name,) = [about["name"] for _, about in FileScheduler()._arrays()]
    wrong(forgets=[name])
    assert {0: "RUNNING"} == jobs.states()
    jobs.end(0)
    jobs.wait_for("COMPLETED")


def test_killed_at_the_limit(jobs: Jobs) -> None:
    """A job that its scheduler ends at the time limit is a TIMEOUT."""
    begun(jobs)
    order(jobs, 0, "TIMEOUT")
    jobs.wait_for("TIMEOUT")
    assert {0: ["TIMEOUT"]} == jobs.attempts()


@pytest.mark.parametrize("has_history", [True, False])
def test_loses_a_node(jobs: Jobs, has_history: bool) -> None:
    """With the node the supervisor is gone and has recorded nothing: NODE_FAIL, and the job runs again as its next
    attempt, since the scheduler starts it again."""
    begun(jobs)
    wrong(no_history=not has_history)
    order(jobs, 0, "NODE_FAIL")
    jobs.wait_until(lambda: jobs.has_begun(0, attempt=2))
    jobs.end(0)
    jobs.wait_for("COMPLETED")
    assert {0: ["NODE_FAIL", "COMPLETED"]} == jobs.attempts()
    assert [0, 1] == [jobs.task(0, attempt).restart for attempt in (1, 2)]


def test_fails_inside_of_a_task(jobs: Jobs) -> None:
    """A scheduler that fails while it is asked why it ends a job does not change what became of the job."""
    begun(jobs)
    wrong(breaks_inside=True)
    order(jobs, 0, "CANCELLED")
    jobs.wait_for("CANCELLED")
    assert {0: ["CANCELLED"]} == jobs.attempts()


def test_told_to_who_only_reads(jobs: Jobs) -> None:
    """Who may write nothing, as a dry run, is told the same about a lost node, and what is on disk stays as it was."""
    begun(jobs)
    hold = FileScheduler().root / "hold"
    hold.touch()
    order(jobs, 0, "NODE_FAIL")
    jobs.wait_until(lambda: [row.phase for row in FileScheduler().queue([])] == [Phase.WAITING])
    home = Path(jobs.experiment.folder.path)

    def on_disk() -> dict[str, int]:
        return {str(path.relative_to(home)): path.stat().st_mtime_ns for path in home.rglob("*")}

    before = on_disk()
    assert State.QUEUED is reconciled(Folder(home.parent, home.name, is_only_read=True)).state(0)
    assert before == on_disk()
    assert {0: "QUEUED"} == jobs.states()
    assert {0: ["NODE_FAIL"]} == jobs.attempts()
    hold.unlink()
    jobs.wait_until(lambda: jobs.has_begun(0, attempt=2))
    jobs.end(0)
    jobs.wait_for("COMPLETED")


def test_preempts(jobs: Jobs) -> None:
    """A job that is preempted waits again, and goes on as its next attempt."""
    begun(jobs)
    order(jobs, 0, "PREEMPTED")
    jobs.wait_until(lambda: jobs.has_begun(0, attempt=2))
    jobs.end(0)
    jobs.wait_for("COMPLETED")
    assert {0: ["PREEMPTED", "COMPLETED"]} == jobs.attempts()


def test_preempts_a_task_of_several_jobs(jobs: Jobs) -> None:
    """The one that had failed before is no more than that, while the task waits and while it runs the other one."""
    jobs.make({"fails": True}, {"seconds": 180.0}, pack=2).submit()
    jobs.wait_for("FAILED", "RUNNING")
    hold = FileScheduler().root / "hold"
    hold.touch()
    order(jobs, 1, "PREEMPTED")
    jobs.wait_for("FAILED", "QUEUED")
    hold.unlink()
    jobs.wait_until(lambda: jobs.has_begun(1, attempt=2))
    assert {0: "FAILED", 1: "RUNNING"} == jobs.states()
    jobs.end(1)
    jobs.wait_for("FAILED", "COMPLETED")
    assert {0: ["FAILED"], 1: ["PREEMPTED", "COMPLETED"]} == jobs.attempts()


def test_not_installed(jobs: Jobs, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Where the package of a scheduler is missing, its jobs are shown as last known, and people are told what to do."""
    begun(jobs)
    with monkeypatch.context() as patch:
        patch.setattr(schedulers, "ENTRY_POINTS", "nothing.of.that.name")
        schedulers.named.cache_clear()
        assert {0: "RUNNING"} == jobs.states()
        assert "there is no scheduler 'file' here; install the package" in capfd.readouterr().err
    schedulers.named.cache_clear()
    jobs.end(0)
    jobs.wait_for("COMPLETED")


def test_whoever_waits_waits_for_the_word_of_the_scheduler(jobs: Jobs) -> None:
    """A supervisor is killed, and its scheduler, which may start the task again, says for a while that it runs: how the
    job ends is not known yet, though no process of it is left here."""
    begun(jobs, {"seconds": 180.0})
    pid = jobs.anchor(0)["pid"]
    behind = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])  # what tells that a task ended
    words = [sys.executable, "-m", "experiment_manager", "status", jobs.experiment.folder.path, "--wait", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as waits:
        os.kill(behind, signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                waits.wait(5.0)  # it has looked several times by then
        finally:
            os.kill(behind, signal.SIGCONT)
        said = waits.communicate(timeout=60)[0]
    assert {"FAILED": [0]} == in_shape("status", said)["jobs"]


def test_nobody_waits_for_the_word_about_a_launch_that_cannot_be_read(jobs: Jobs) -> None:
    """Nobody is asked about it, so that nobody would ever say how its job ended, whose supervisor was killed."""
    begun(jobs, {"seconds": 180.0})
    folder = jobs.experiment.folder
    Path(folder.join("launches", "0001", "launch.json")).write_text("{")
    os.kill(jobs.anchor(0)["pid"], signal.SIGKILL)
    assert {State.RUNNING: 1} == jobs.experiment.status(wait=True).counts


# ---------------------------------------------------------------- the record of a launch, where a disk refuses it


class Refused:
    """The records of the launches of one experiment, which a disk may refuse whoever asks a scheduler about them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Folder) -> None:
        self.n_refused, self.is_refusing = 0, True

        def read(of: Folder, number: str) -> Launch:
            if not self.is_refusing or of.path != folder.path:
                return read_launch(of, number)
            self.n_refused += 1
            raise UnreadableLaunch(f"launch {number}: Stale file handle", is_out_of_reach=True)

        monkeypatch.setattr(query, "read_launch", read)


def waiting_jobs(jobs: Jobs, **options: Any) -> Jobs:
    """One that waits in the queue."""
    (FileScheduler().root / "hold").touch()
    jobs.make({}, **options).submit()
    assert {0: "QUEUED"} == jobs.states()
    return jobs


def wait_for_newest(folder: Folder) -> None:
    wait_for(folder, newest_launch(folder), {})


@pytest.mark.parametrize("waits", [wait_for_newest, wait_until_idle])
@pytest.mark.parametrize("workers", [None, 1])
def test_whoever_waits_waits_for_a_disk_that_refuses_a_record(
    jobs: Jobs, waits: Callable[[Folder], Any], workers: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a launch has in hand is not known then: nothing of it has ended for that."""
    folder = waiting_jobs(jobs, workers=workers).experiment.folder
    refused = Refused(monkeypatch, folder)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(waits, folder)
        try:
            jobs.wait_until(lambda: refused.n_refused or waiting.done())
        finally:
            refused.is_refusing = False
            (FileScheduler().root / "hold").unlink()
        waiting.result(60.0)
        assert {0: ["COMPLETED"]} == jobs.attempts()


@pytest.mark.parametrize("waits", [wait_for_newest, wait_until_idle])
def test_nobody_waits_for_ever_for_a_disk_that_refuses_a_record(
    jobs: Jobs, waits: Callable[[Folder], Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """But for ten minutes; people are told."""
    folder = waiting_jobs(jobs).experiment.folder
    monkeypatch.setattr(reconcile, "_PASSES_S", 0.0)
    Refused(monkeypatch, folder)
    waits(folder)
    told = "launch 0001 cannot be read, so that nobody can tell what became of it" in capfd.readouterr().err
    assert told is (waits is wait_for_newest)
    assert [Phase.WAITING] == [one.phase for one in FileScheduler().queue([])]


def test_what_earlier_launches_have_in_hand_is_waited_for(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """By who asks for that once more, as after Ctrl-C; what is done is not waited for."""
    (hold := FileScheduler().root / "hold").touch()
    jobs.make({}, {}).submit()
    told: list[str] = []

    def let_go(what: str) -> None:
        told.append(what)
        hold.unlink()

    monkeypatch.setattr(launchers, "tell", let_go)
    options = {"after": None, "snapshot": False, "join": False}
    ours = launchers.ByScheduler(options, scheduler="file", submits=True)
    assert [] == ours.wait_for_earlier(jobs.experiment.folder, range(2))
    ours.waits = True
    assert [0, 1] == ours.wait_for_earlier(jobs.experiment.folder, range(2))
    assert ["waiting for jobs 0-1, which launch 0001 has in hand (hydra.launcher.wait)"] == told
    assert {0: ["COMPLETED"], 1: ["COMPLETED"]} == jobs.attempts()
    assert [] == ours.wait_for_earlier(jobs.experiment.folder, range(2))


def test_what_nobody_can_tell_of_is_not_waited_for(jobs: Jobs, capfd: pytest.CaptureFixture[str]) -> None:
    """A job that runs on another machine, without a scheduler; it has not completed, for who waits."""
    jobs.make({})
    folder, states = jobs.experiment.folder, States(jobs.experiment.folder)
    number = states.claim(0, {"launch": "0001"})
    anchor = Path(folder.states, f"0.{number}")
    anchor.write_text(json.dumps({**json.loads(anchor.read_text()), "host": "elsewhere", "boot": "another"}))
    ours = launchers.ByScheduler({"after": None, "snapshot": False, "join": False}, scheduler="file", submits=True)
    ours.waits = True
    assert [0] == ours.wait_for_earlier(folder, [0])
    assert (
        "job 0 runs on another machine, as far as is known here, and will not be waited for" in capfd.readouterr().err
    )


# ---------------------------------------------------------------- who has submitted, and who looks


@pytest.mark.parametrize("word", ["NODE_FAIL", "PREEMPTED"])
@pytest.mark.parametrize("is_by_hand", [True, False])
def test_what_somebody_else_has_submitted_is_put_back(
    jobs: Jobs, word: str, is_by_hand: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A colleague's script, which we have submitted: once its task waits again, nothing runs that names us."""
    jobs.make({"seconds": 180.0})
    path = Path(jobs.experiment.folder.join("launches", "0001", "launch.json"))
    (array,) = launched_arrays(newest_launch(jobs.experiment.folder))
    if is_by_hand:
        FileScheduler().submit(jobs.experiment.folder.join("launches", "0001", array.script), Dependency())
    else:
        jobs.submit()
    path.write_text(json.dumps({**json.loads(path.read_text()), "user": "alice"}))
    jobs.wait_until(lambda: jobs.has_begun(0))
    assert {0: "RUNNING"} == jobs.states()
    (FileScheduler().root / "hold").touch()
    order(jobs, 0, word)
    jobs.wait_until(lambda: [Phase.WAITING] == [one.phase for one in FileScheduler().queue([])])
    assert ["QUEUED"] * 3 == [jobs.states()[0] for _ in range(3)]
    monkeypatch.setattr(query, "user_name", lambda: "alice")  # who looks, too
    assert "QUEUED" == jobs.states()[0]
    (FileScheduler().root / "hold").unlink()
    jobs.wait_until(lambda: jobs.has_begun(0, attempt=2))
    jobs.end(0)
    jobs.wait_for("COMPLETED")
