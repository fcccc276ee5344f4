"""Jobs that a scheduler runs, and that come after jobs of another experiment which it runs, too."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from experiment_manager import Experiment
from experiment_manager.errors import FolderError, JobRefused, UnreadableLaunch
from experiment_manager.model import stages
from experiment_manager.model.records import Attempt, JobId, State
from experiment_manager.scheduler import scripts
from experiment_manager.scheduler.records import Dependency
from experiment_manager.scheduler.submission import Submitted, launched_arrays, newest_launch
from experiment_manager.scheduler.upstream import Before, Upstreams
from experiment_manager.store.launches import create_launch, kept_upstream
from experiment_manager.store.upstream import Reasons, located
from experiment_manager.testing import Jobs
from tests.conftest import as_nobody
from tests.scheduler.file_scheduler import FileScheduler


@pytest.fixture
def first(tmp_path: Path) -> Jobs:
    """The other experiment."""
    return Jobs(FileScheduler(), tmp_path / "first", {}, 180.0)


Pairs = Mapping[int, Sequence[int]]


def come_after(monkeypatch: pytest.MonkeyPatch, jobs: Jobs, first: Jobs, pairs: Pairs) -> None:
    """What is written next comes after these jobs, as a sweep says it."""
    place, own = first.experiment.folder.path, jobs.experiment.folder.path
    kept = {"upstream": stages.kept(place, os.path.relpath(place, own), pairs)}
    monkeypatch.setattr(scripts, "kept_upstream", lambda *_: kept)


def waited_for(array: str) -> list[str]:
    """What the scheduler was told to wait for."""
    found: list[str] = json.loads((FileScheduler().root / array / "array.json").read_text())["after"]
    return found


def test_tasks_wait_for_those_of_another_experiment(jobs: Jobs, first: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler is told of the tasks; what begins after one that failed is CANCELLED, and says why, the rest runs.
    What has completed is not waited for."""
    first.make({}, {"seconds": 180.0}, {"seconds": 180.0, "fails": True}).submit()
    first.wait_until(lambda: first.states()[0] == "COMPLETED" and first.has_begun(1) and first.has_begun(2))
    come_after(monkeypatch, jobs, first, {0: (0,), 1: (1,), 2: (2,)})
    (array,) = jobs.make({}, {}, {}).submit()
    (of_first,) = first.submit()
    assert [f"{of_first.slurm_id}_1", f"{of_first.slurm_id}_2"] == waited_for(array.slurm_id)
    assert {0: "QUEUED", 1: "QUEUED", 2: "QUEUED"} == jobs.states()
    first.end(1)
    first.end(2)
    jobs.wait_for("COMPLETED", "COMPLETED", "CANCELLED")
    (trouble,) = jobs.experiment.status().troubles
    assert f"job 2 of {first.experiment.folder.path}, which it comes after, is FAILED" == trouble.reason


def test_workers_take_what_may_begin(jobs: Jobs, first: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers wait for all that any of their jobs comes after, and then look job by job."""
    first.make({"seconds": 180.0}, {"seconds": 180.0, "fails": True}, workers=1).submit()
    first.wait_until(lambda: first.has_begun(0))
    come_after(monkeypatch, jobs, first, {0: (0, 1), 1: (0,)})
    (array,) = jobs.make({}, {}, workers=2).submit()
    (of_first,) = first.submit()
    assert [f"{of_first.slurm_id}_0"] == waited_for(array.slurm_id)
    first.end(0)
    first.wait_until(lambda: first.has_begun(1))
    first.end(1)
    jobs.wait_for("CANCELLED", "COMPLETED")


def submitted_and_out_of_sight(jobs: Jobs, first: Jobs, monkeypatch: pytest.MonkeyPatch) -> tuple[Submitted, Path]:
    """A worker begins with thirteen jobs, of which twelve come after those of the other experiment, which is away from
    the place that is returned."""
    first.make(*[{}] * 12).submit()
    first.wait_for(*["COMPLETED"] * 12)
    come_after(monkeypatch, jobs, first, {number: (number,) for number in range(12)})
    (FileScheduler().root / "hold").touch()
    (array,) = jobs.make(*[{}] * 13, workers=1).submit()
    place = Path(first.experiment.folder.path)
    os.rename(place, place.with_name("away"))
    (FileScheduler().root / "hold").unlink()
    return array, place


def test_what_cannot_be_looked_at_cancels_nothing(jobs: Jobs, first: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker on a node that does not see the other experiment leaves the jobs to those that do, however many these
    are, and runs what comes after nothing."""
    monkeypatch.setenv("EXPERIMENT_MANAGER_PATIENCE_S", "0.5")
    array, place = submitted_and_out_of_sight(jobs, first, monkeypatch)
    jobs.wait_for(*["PENDING"] * 12, "COMPLETED")
    assert {12: ["COMPLETED"]} == jobs.attempts()
    log = Path(jobs.experiment.folder.launches, "0001", f"{array.slurm_id}_0.log").read_text()
    assert f"job 0 of {jobs.experiment.folder.path} is not begun: what job 0 comes after cannot be looked at" in log
    assert all(f"job {one} of {jobs.experiment.folder.path} is not begun" in log for one in range(12))
    assert "jobs here have failed" not in log
    os.rename(place.with_name("away"), place)
    jobs.scheduler.submit(array.script, Dependency())
    jobs.wait_for(*["COMPLETED"] * 13)


def test_what_cannot_be_looked_at_for_a_while_is_waited_for(
    jobs: Jobs, first: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of a disk that passes costs no job its run: it is tried again, as one that waits."""
    array, place = submitted_and_out_of_sight(jobs, first, monkeypatch)
    log = Path(jobs.experiment.folder.launches, "0001", f"{array.slurm_id}_0.log")
    jobs.wait_until(lambda: log.exists() and "it is looked at again" in log.read_text())
    jobs.wait_until(lambda: jobs.states()[12] == "COMPLETED")
    os.rename(place.with_name("away"), place)
    jobs.wait_for(*["COMPLETED"] * 13)
    assert 1 == log.read_text().count("cannot be looked at")


def test_what_a_scheduler_does_not_have_is_not_waited_for(
    jobs: Jobs, first: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is submitted before what it comes after is; then the same goes on."""
    first.make({}, {})
    come_after(monkeypatch, jobs, first, {0: (0, 1)})
    jobs.make({})
    sentence = r"launch 0001 of .* is not submitted: jobs 0-1 of .*, which its jobs come after, did not reach the file"
    with pytest.raises(JobRefused, match=sentence):
        jobs.submit()
    assert {0: "PENDING"} == jobs.states()
    first.submit()
    jobs.submit()
    jobs.wait_for("COMPLETED")


class Matching(FileScheduler):
    """One that says that it can match tasks."""

    matches_tasks = True


@pytest.mark.parametrize(
    ("options", "pairs", "is_matching"),
    [
        ({}, {0: (0,), 1: (1,)}, True),
        ({}, {0: (1,), 1: (0,)}, False),
        ({}, {0: (0, 1), 1: (1,)}, False),
        ({"pack": 2}, {0: (0,), 1: (1,)}, False),  # how a task of several jobs ends is not how each of them does
    ],
)
def test_tasks_match_where_each_waits_for_one_job(
    jobs: Jobs, first: Jobs, monkeypatch: pytest.MonkeyPatch, options: Any, pairs: Pairs, is_matching: bool
) -> None:
    """Of the same index, and alone in its task; else all are waited for."""
    first.make({"seconds": 180.0}, {"seconds": 180.0}, **options).submit()
    first.wait_until(lambda: first.has_begun(0) and first.has_begun(1))
    come_after(monkeypatch, jobs, first, pairs)
    jobs.make({}, {}, **options)
    launch = newest_launch(jobs.experiment.folder)
    (array,) = launched_arrays(launch)
    found = Before(jobs.experiment.folder, launch, Matching()).of(list(array.tasks()))
    (of_first,) = first.submit()
    assert is_matching == (found == Dependency(matching=(of_first.slurm_id,)))
    assert is_matching == (not found.ended)
    first.end(0)
    first.end(1)


def launched(jobs: Jobs, other: Path, pairs: Pairs) -> None:
    """A launch of those jobs, which come after those of another experiment."""
    attempts = (Attempt(JobId(job_id), 1, State.PENDING) for job_id in pairs)
    place = os.path.relpath(other, jobs.experiment.folder.path)
    create_launch(jobs.experiment.folder, attempts, {"upstream": stages.kept(str(other), place, pairs)})


def test_what_comes_after_what_is_kept_by_job(jobs: Jobs, tmp_path: Path) -> None:
    """The newest launch of each job counts; jobs that come after several experiments are not launched together."""
    folder = jobs.experiment.folder
    launched(jobs, tmp_path / "a", {0: (0,), 1: (1,)})
    launched(jobs, tmp_path / "b", {2: (0, 1)})
    launched(jobs, tmp_path / "b", {1: (5,)})
    assert str(tmp_path / "a") == kept_upstream(folder, [0])["upstream"]["experiment"]
    assert {"0-1": "2"} == kept_upstream(folder, [1, 2])["upstream"]["groups"]
    assert {"4": "1"} == kept_upstream(folder, [1, 2])["upstream"]["offsets"]
    assert {} == kept_upstream(folder, [7])
    with pytest.raises(JobRefused, match=r"come after jobs of .*/a and of .*/b; name those of one of them alone"):
        kept_upstream(folder, [0, 2])
    record = tmp_path / "home/jobs/launches/0003/launch.json"
    record.write_text(record.read_text().replace('"offsets"', '"offset"'))
    with pytest.raises(JobRefused, match=r"launch.json is damaged \(its upstream is none\); restore it, or move"):
        kept_upstream(folder, [0])


def test_both_are_found_again_where_they_were_moved_together(first: Jobs, tmp_path: Path) -> None:
    """By where they lie from each other; where one was moved alone, a sentence tells what to do."""
    first.make({})
    order = {"experiment": str(tmp_path / "gone/first/jobs"), "relative": "../../first/jobs", "offset": 0}
    folder = Jobs(FileScheduler(), tmp_path / "second", {}, 180.0).experiment.folder
    assert first.experiment.folder.path == located(folder, order).path
    assert Reasons(folder).why_not(order, 0) is None
    with pytest.raises(Exception, match=r"is no experiment any more; where it was moved, sweep again with hydra"):
        located(folder, {**order, "relative": "../nothing"})


def test_a_place_that_one_may_not_look_into_hides_no_other_one(reachable: Path) -> None:
    """Neither the experiment nor the script that lies in the next place; where none does, it is said why."""
    for name in ("first", "second"):
        Experiment(["seed"], name, reachable).save()
    folder = Experiment.at(reachable / "second").folder
    (reachable / "runner.py").touch()
    shut = reachable / "shut"
    shut.mkdir(mode=0o700)
    shut.chmod(0)
    order = {"experiment": str(shut / "first"), "relative": "../first", "offset": 0}
    with as_nobody():
        assert str(reachable / "first") == located(folder, order).path
        with pytest.raises(FolderError, match=f"{shut}/first/manifest.sqlite cannot be read: Permission denied"):
            located(folder, {**order, "relative": "../nothing"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getcwd", lambda: str(shut))  # which tells it also where one may not look into it any more
        with as_nobody():
            assert str(reachable / "runner.py") == scripts._script(folder, "runner")
            with pytest.raises(FolderError, match=f"{shut}/other cannot be read: Permission denied"):
                scripts._script(folder, "other")


def test_a_record_that_a_disk_refuses_says_nothing_of_what_comes_before(
    jobs: Jobs, first: Jobs, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What waits in the queue is waited for, whoever runs what comes after it, and nothing is submitted meanwhile."""
    (FileScheduler().root / "hold").touch()
    first.make({}).submit()
    come_after(monkeypatch, jobs, first, {0: (0,)})
    jobs.make({})
    path = Path(first.experiment.folder.join("launches", "0001", "launch.json"))
    said = path.read_text()
    path.write_text("{")
    upstreams = Upstreams(jobs.experiment.folder)
    assert (0,) == upstreams.waits_for("0001", 0)
    assert "what job 0 comes after cannot be looked at here" in capfd.readouterr().err
    with pytest.raises(UnreadableLaunch, match=r"launch 0001 of .* cannot be read, so that nobody can tell"):
        jobs.submit()
    path.write_text(said)
    assert (0,) == upstreams.waits_for("0001", 0)
    (FileScheduler().root / "hold").unlink()
    jobs.submit()
    jobs.wait_for("COMPLETED")


def test_what_cannot_be_looked_at_is_tried_for_minutes(
    jobs: Jobs, first: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then whoever would run a job says why he does not."""
    monkeypatch.setenv("EXPERIMENT_MANAGER_PATIENCE_S", "0")
    first.make({})
    come_after(monkeypatch, jobs, first, {0: (0,)})
    jobs.make({})
    os.rename(first.experiment.folder.path, f"{first.experiment.folder.path}-away")
    upstreams = Upstreams(jobs.experiment.folder)
    assert () == upstreams.waits_for("0001", 0)
    assert "what job 0 comes after cannot be looked at here" in str(upstreams.why_given_up("0001", 0))
