"""What every user of a machine may change is not run in one's own name."""

from pathlib import Path

import pytest

from experiment_manager.errors import JobRefused
from experiment_manager.scheduler.submission import launched_arrays, newest_launch, script_paths
from experiment_manager.testing import Jobs
from tests.scheduler.file_scheduler import FileScheduler


@pytest.mark.parametrize("place", ["experiment", "manifest", "launches", "launch", "script", "kept script"])
def test_nothing_is_submitted_that_anybody_may_write(jobs: Jobs, place: str) -> None:
    """Wherever another user could put a program of theirs, the submission is refused, and the sentence says how to mend
    it; a folder that a group shares is none of these."""
    jobs.make({})
    folder = jobs.experiment.folder
    launch = newest_launch(folder)
    top, kept = script_paths(folder, launch, launched_arrays(launch)[0])
    names = {"launches": folder.launches, "launch": folder.join("launches", launch.number), "kept script": kept}
    path = Path({"experiment": folder.path, "manifest": folder.manifest, "script": top, **names}[place])
    mode = path.stat().st_mode
    path.chmod(mode | 0o002)
    with pytest.raises(
        JobRefused, match=rf"every user of this machine may write to {path}, .*chmod -R o-w {folder.path}"
    ):
        jobs.submit()
    assert [] == list(FileScheduler()._arrays())
    path.chmod(mode | 0o020)
    jobs.submit()
    jobs.wait_until(lambda: {0: "COMPLETED"} == jobs.states())
