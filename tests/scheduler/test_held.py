"""What waits at a scheduler is held there, so that nobody begins it, and a job alone is never held with half a task."""

from pathlib import Path

import pytest

from experiment_manager.errors import JobRefused
from experiment_manager.scheduler import scripts
from experiment_manager.scheduler.reconcile import reconciled
from experiment_manager.scheduler.submission import newest_launch
from experiment_manager.store.layout import Folder
from experiment_manager.store.states import States
from experiment_manager.testing import Jobs, _Configured
from tests.conftest import submitted_long_ago
from tests.scheduler.file_scheduler import FileScheduler


def test_what_waits_is_held_at_the_scheduler(jobs: Jobs) -> None:
    """The task of a held job waits until it is released, the others run; of a task with several jobs all are held or
    none; a script with held jobs is not submitted."""
    jobs.make({}, {}, {})
    (FileScheduler().root / "hold").touch()
    jobs.submit()
    jobs.wait_until(lambda: {0: "QUEUED", 1: "QUEUED", 2: "QUEUED"} == jobs.states())
    assert (1,) == jobs.experiment.hold("1").ids
    (FileScheduler().root / "hold").unlink()
    jobs.wait_until(lambda: {0: "COMPLETED", 1: "QUEUED", 2: "COMPLETED"} == jobs.states())
    assert {"held": (1,)} == jobs.experiment.status().waiting
    assert [1] == jobs.experiment.release()
    jobs.wait_until(lambda: "COMPLETED" == jobs.states()[1])


def test_packed_jobs_are_held_together(jobs: Jobs) -> None:
    """Of a task with several jobs all are held, or none; a script that has held jobs is not submitted."""
    jobs.make({}, {}, pack=2)
    (FileScheduler().root / "hold").touch()
    jobs.experiment.hold("0")
    with pytest.raises(JobRefused, match=r"launch 0001 of .* is not submitted: 1 job is held: 0"):
        jobs.submit()
    jobs.experiment.release()
    jobs.submit()
    jobs.wait_until(lambda: {0: "QUEUED", 1: "QUEUED"} == jobs.states())
    with pytest.raises(JobRefused, match=r"jobs 0 share the file scheduler task 1_0 with 1, which would wait, too"):
        jobs.experiment.hold("0")
    assert (0, 1) == jobs.experiment.hold().ids
    with pytest.raises(JobRefused, match=r"nothing was removed: jobs 0-1 of .* run or wait"):
        jobs.experiment.remove("0-1")
    assert [0, 1] == jobs.experiment.cancel()
    assert newest_launch(jobs.experiment.folder).number == "0001"


def test_what_was_done_stays_so_where_its_task_is_cancelled(jobs: Jobs) -> None:
    """Jobs that had completed, and whose next attempt was taken out of the queue, have completed, whoever has done so,
    and also for people who may not record it: no script is written for them again."""
    jobs.make({}, {}).submit()
    jobs.wait_for("COMPLETED", "COMPLETED")
    place, runner = jobs.experiment.folder, str(jobs.experiment.folder.parent) + "/runner.py"
    configured = _Configured("file", jobs.scheduler.options({}, where="test"), runner)

    def write(rerun: str) -> None:
        scripts.write(place, configured, runner=None, name=None, n_jobs=None, rerun=rerun, overrides={})

    (FileScheduler().root / "hold").touch()
    write("always")
    (array,) = jobs.submit()
    jobs.wait_for("QUEUED", "QUEUED")
    assert [0] == jobs.cancel(0)
    jobs.wait_for("COMPLETED", "QUEUED")
    submitted_long_ago(Path(place.path), "0002")
    FileScheduler().order(array.slurm_id, 1, "CANCELLED")
    seen = Folder(place.parent, place.name, is_only_read=True)
    jobs.wait_until(lambda: ["COMPLETED", "COMPLETED"] == [reconciled(seen).state(job_id) for job_id in (0, 1)])
    assert {0: ["COMPLETED", "CANCELLED"], 1: ["COMPLETED"]} == {
        int(job): [str(numbers[number]) for number in sorted(numbers)]
        for job, numbers in States(place).table().attempts.items()
    }
    jobs.wait_for("COMPLETED", "COMPLETED")
    assert {job: ["COMPLETED", "CANCELLED"] for job in (0, 1)} == jobs.attempts()
    with pytest.raises(JobRefused):
        write("failed")
