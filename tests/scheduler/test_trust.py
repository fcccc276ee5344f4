"""What every user of a machine may change is not run in one's own name."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiment_manager.errors import JobRefused
from experiment_manager.scheduler.submission import launched_arrays, newest_launch, script_paths
from experiment_manager.testing import Jobs
from experiment_manager.trust import TRUSTS_ANYBODY
from tests.scheduler.file_scheduler import FileScheduler


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    """In a folder that others can come to, other than those of the tests."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    yield Jobs(FileScheduler(), place / "home", {}, 180.0)
    shutil.rmtree(place)


PLACES = ("above", "experiment", "manifest", "launches", "launch", "script", "kept script", "code")


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_submitted_that_anybody_may_write(jobs: Jobs, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever another user could put a program of theirs, the submission is refused, and the sentence says how to mend
    it; a folder that a group shares is none of these, nor one that others cannot come to, and what was submitted is
    refused no more."""
    jobs.make({})
    folder = jobs.experiment.folder
    launch = newest_launch(folder)
    top, kept = script_paths(folder, launch, launched_arrays(launch)[0])
    names = {"launches": folder.launches, "launch": folder.join("launches", launch.number), "kept script": kept}
    names |= {"above": folder.parent, "experiment": folder.path, "manifest": folder.manifest}
    names |= {"script": top, "code": folder.join("code")}
    path = Path(names[place])
    if place == "code":
        path.mkdir()
    mode = path.stat().st_mode
    path.chmod(mode | 0o002)
    mends = rf"chmod \+t {path}" if place == "above" else f"chmod -R o-w {folder.path}"
    said = rf"every user of this machine may write to {path}, .*`{mends}`.*{TRUSTS_ANYBODY}=1"
    with pytest.raises(JobRefused, match=said):
        jobs.submit()
    assert [] == list(FileScheduler()._arrays())
    if place == "experiment":
        monkeypatch.setenv(TRUSTS_ANYBODY, "1")
    elif place == "launch":
        Path(folder.path).parent.chmod(0o700)
    else:
        path.chmod(mode | (0o1002 if place == "above" else 0o020))
    jobs.submit()
    jobs.wait_until(lambda: {0: "COMPLETED"} == jobs.states())
    path.chmod(mode | 0o002)
    monkeypatch.delenv(TRUSTS_ANYBODY, raising=False)
    jobs.submit()
