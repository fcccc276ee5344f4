"""What a scheduler has is not moved away from it, what was not submitted yet is submitted from the new place, and what
is odd about either is told."""

import os
import shutil
from pathlib import Path

import pytest

from experiment_manager import Experiment
from experiment_manager.errors import FolderError, JobRefused
from experiment_manager.model.records import State
from experiment_manager.scheduler.reconcile import reconciled
from experiment_manager.scheduler.submission import newest_launch, submit
from experiment_manager.store.submissions import Submission
from experiment_manager.testing import Jobs
from tests.scheduler.file_scheduler import FileScheduler, wrong


def test_what_waits_is_not_moved(jobs: Jobs, tmp_path: Path) -> None:
    """While a job waits, and while nobody knows whether it does, all stays; what has been cancelled is moved, and its
    launch is told of as before."""
    jobs.make({"seconds": 180.0})
    (FileScheduler().root / "hold").touch()
    experiment, to = jobs.experiment, tmp_path / "new"
    submission = Submission(experiment.folder, newest_launch(experiment.folder))
    submission.note("jobs-of-nobody")
    (name,) = (array["name"] for array in newest_launch(experiment.folder).record["file"]["arrays"])
    submission.note(name, doubtful_until=1.0)
    with pytest.raises(JobRefused, match=r"whether launch 0001 of .* was submitted is not known"):
        experiment.move(to)
    submission.note(name)
    jobs.submit()
    with pytest.raises(JobRefused, match=r"is not moved: job 0 is QUEUED; wait for it, or end it with `experiment-m"):
        experiment.move(to)
    assert [0] == jobs.cancel(0)
    jobs.wait_for("CANCELLED")
    wrong(refuses="no answer")
    experiment.move(to)
    assert ["CANCELLED"] == [row["state"] for row in experiment.jobs()]
    assert [False] == [array.is_new for array in submit(experiment.folder, newest_launch(experiment.folder))]


def test_scripts_of_a_moved_experiment(jobs: Jobs, tmp_path: Path) -> None:
    """Scripts that were not submitted run the jobs of the new place once it is moved; those of a plain `mv`, or of a
    copy, are refused, with what to do, and not run at the old place."""
    jobs.make({})
    experiment, old = jobs.experiment, jobs.experiment.folder.path
    experiment.move(tmp_path / "new")
    script = Path(experiment.folder.path, "slurm_scripts.sh")
    assert (True, False) == (os.access(script, os.X_OK), old in script.read_text())
    shutil.copytree(experiment.folder.path, tmp_path / "copy")
    copy = Experiment.at(tmp_path / "copy").folder
    with pytest.raises(FolderError, match=f"runs the jobs of {tmp_path}/new, and not those of {tmp_path}/copy"):
        submit(copy, newest_launch(copy))
    jobs.submit()
    jobs.wait_for("COMPLETED")


def test_a_copy_leaves_the_tasks_of_the_original_alone(jobs: Jobs, capfd: pytest.CaptureFixture[str]) -> None:
    """What waits or runs for the original of a copy is not the copy's to cancel, to hold or to submit: it is told of,
    PENDING or RUNNING, and LOST with its reason once it has ended there; what the copy runs itself is its own."""
    jobs.make({"seconds": 180.0}, {}, array_parallelism=1).submit()
    jobs.wait_until(lambda: jobs.has_begun(0))
    original = jobs.experiment.folder.path
    copy = Experiment.at(shutil.copytree(original, Path(original).with_name("copy")))
    table = reconciled(copy.folder)
    assert ["RUNNING", "PENDING"] == [table.state(job_id) for job_id in (0, 1)]
    words = f"in {original}, of which this is a copy"
    assert {0: f"it runs {words}, and its end will not be known here"} == table.paused
    assert f"launch 0001 of {copy.folder.path} was made {words}: what had not begun runs" in capfd.readouterr().err
    with pytest.raises(JobRefused, match=r"job 0 may go on: .* as a copy of .* runs there; cancel there, too"):
        copy.cancel()
    assert ((1,), (0,)) == copy.hold()
    assert [1] == copy.release()
    with pytest.raises(FolderError, match=f"launch 0001 was, or is to be, submitted from {original}, of which .* is a"):
        copy.submit()
    assert {0: "RUNNING", 1: "QUEUED"} == jobs.states()
    assert [] == list(FileScheduler().root.glob("*/*.held"))
    copy.generate_slurm_script("runner")
    assert [True] == [array.is_new for array in copy.submit()]
    jobs.wait_until(lambda: reconciled(copy.folder).state(1) is State.COMPLETED)
    jobs.end(0)
    jobs.wait_for("COMPLETED", "COMPLETED")
    assert {"LOST": 1, "COMPLETED": 1} == copy.counts()
    assert f"it was running {words}, and has ended there as COMPLETED" == copy.show(0)["attempts"][0]["reason"]


def test_a_moved_experiment_keeps_its_tasks(jobs: Jobs, tmp_path: Path) -> None:
    """After a plain `mv`, also where another experiment has come in the old place, and behind a link, what waits is
    the experiment's own."""
    (FileScheduler().root / "hold").touch()
    jobs.make({}).submit()
    old = Path(jobs.experiment.folder.path)
    (tmp_path / "link").symlink_to(old)
    assert "QUEUED" == reconciled(Experiment.at(tmp_path / "link").folder).state(0)
    moved = Experiment.at(old.rename(old.with_name("moved")))
    assert "QUEUED" == reconciled(moved.folder).state(0)
    jobs.experiment = Experiment(["number"], old.name, old.parent)
    jobs.make({})
    assert ({0: "PENDING"}, "QUEUED") == (jobs.states(), reconciled(moved.folder).state(0))
    assert [False] == [array.is_new for array in moved.submit()]
    assert [0] == moved.cancel()


def test_doctor_tells_what_waits_for_nobody(jobs: Jobs) -> None:
    """A launch that nobody has submitted, a submission that was interrupted, and a scheduler that does not answer are
    findings; jobs that wait in a queue are none, and those that have ended wait for nothing."""
    jobs.make({"seconds": 180.0})
    (FileScheduler().root / "hold").touch()
    experiment = jobs.experiment

    def found() -> list[str]:
        return [one.what for one in experiment.doctor()]

    assert ["launch 0001 was never submitted, and job 0 waits for it"] == found()
    launch = newest_launch(experiment.folder)
    submission = Submission(experiment.folder, launch)
    submission.note(launch.record["file"]["arrays"][0]["name"], doubtful_until=1.0)
    assert ["the submission of launch 0001 was interrupted: it may have been taken, or not"] == found()
    jobs.submit()
    assert {0: "QUEUED"} == jobs.states()
    assert [] == found()
    wrong(stalls=True)
    assert ["what waits cannot be told: no answer from the queue"] == found()
    wrong()
    assert [0] == jobs.cancel(0)
    jobs.wait_for("CANCELLED")
    experiment.generate_slurm_script("runner", rerun="always")
    assert ["launch 0002 was never submitted, and would run job 0 again, CANCELLED now"] == found()
