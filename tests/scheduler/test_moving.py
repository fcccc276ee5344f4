"""What a scheduler has is not moved away from it, what was not submitted yet is submitted from the new place, and what
is odd about either is told."""

import os
import shutil
from pathlib import Path

import pytest

from experiment_manager import Experiment
from experiment_manager.errors import FolderError, JobRefused
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
