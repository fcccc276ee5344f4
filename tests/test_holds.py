"""Jobs that are held, and jobs that were a mistake: nobody of ours begins them, and nothing is lost."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiment_manager import Experiment
from experiment_manager.cli.main import main
from experiment_manager.errors import FolderError, JobRefused
from experiment_manager.model.records import JobId
from experiment_manager.store.states import States
from tests.conftest import Program, ProgramAfter, in_shape


@pytest.fixture
def four(tmp_path: Path) -> Experiment:
    """Four jobs that may run, of which the first has."""
    experiment = Experiment(["seed"], "four", tmp_path)
    for seed in range(4):
        experiment.add_job({"seed": seed}, {})
    experiment.save()
    experiment.save_pass_filter(range(4))
    experiment.run_id(0, lambda _, variables, __: variables["seed"])
    return experiment


def test_held_jobs_are_not_begun(four: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing of ours begins a held job, and people are told; a dry pass is none, and released it begins."""
    assert ((1, 2), ()) == four.hold("0-2")
    assert ["1", "2"] == sorted(path.name for path in Path(four.folder.held).iterdir())
    with pytest.raises(JobRefused, match=r"1 job is held: 1; `experiment-manager release .*four 1` lets them begin"):
        four.run_id(1, lambda *_: 1)
    four.run_id(1, four.fake_runner)
    assert [3] == [end.job_id for end in four.run(_nothing).ran]
    assert "2 jobs are held and not begun: 1-2; `experiment-manager release" in capsys.readouterr().err
    with pytest.raises(JobRefused, match="is held: 1"):
        four.plan_resubmission("1", state="FAKE")
    assert [None, True, True, None] == [row.get("held") for row in four.jobs()]
    assert "2 jobs are held (jobs 1-2)" in _printed(capsys, "status", four)
    assert [1, 2] == four.release()
    assert [1, 2] == sorted(end.job_id for end in four.run(_nothing).ran)


def _nothing(*_: object) -> None:
    return None


def _printed(capsys: pytest.CaptureFixture[str], verb: str, experiment: Experiment, *arguments: str) -> str:
    capsys.readouterr()
    assert 0 == main([verb, experiment.folder.path, *arguments])
    return capsys.readouterr().out


def test_hold_and_release_on_the_command_line(four: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    """Without ids all that have not begun are held, and released; what was done, or not, is said."""
    place = four.folder.path
    assert f"jobs 1-3 of {place} held\n" == _printed(capsys, "hold", four)
    assert f"jobs 1,3 of {place} released\n" == _printed(capsys, "release", four, "1,3")
    assert [2] == in_shape("release", _printed(capsys, "release", four, "--json"))["jobs"]
    assert {"jobs": [2], "running": []}.items() <= in_shape(
        "hold", _printed(capsys, "hold", four, "2", "--json")
    ).items()
    assert "nothing was held" in _printed(capsys, "hold", four, "0")
    assert [2] == in_shape("status", _printed(capsys, "status", four, "--json"))["held"]


def test_a_worker_leaves_held_jobs(four: Experiment) -> None:
    """What is held while a worker runs is left, and counted as such; what begins just then is not called held."""
    states, planned = States(four.folder), {1: 1, 2: 1, 3: 1}
    assert [1, 2, 3] == list(states.unclaimed(planned))
    four.hold("2")
    assert [1, 3] == list(states.unclaimed(planned))
    assert (True, False) == (states.is_kept_back(2), states.is_kept_back(1))

    def holds_the_others(job_id: int, *_: object) -> str:
        return repr(four.hold("1-3")) if job_id == 1 else ""

    assert "Held(2-3, 1 run)" == four.run_id(1, holds_the_others)


@pytest.mark.xdist_group("swept")
@pytest.mark.usefixtures("light")
def test_removed_jobs_stay_away(program_after: ProgramAfter) -> None:
    """No table has a removed job, the same sweep leaves it out and says how it comes back, its id is given to no other
    job, and brought back it is what it was."""
    program: Program = program_after("seed=1,2")
    before = program.told("results")
    done = program.tool("remove", "1", "--yes")
    assert (0, f"job 1 of {program.experiment} removed; --undo brings back what was removed\n") == (
        done.returncode,
        done.stdout.splitlines(keepends=True)[-1],
    )
    assert [0] == [row["job"] for row in program.told("jobs")] == [row["job"] for row in program.told("results")]
    assert {"COMPLETED": 1} == program.told("status")["counts"]
    again = program.sweep("seed=1,2,3")
    assert 0 == again.returncode, again.stderr
    assert "1 job of this sweep was removed before, and left out: 1; `experiment-manager remove" in again.stderr
    assert [0, 2] == [row["job"] for row in program.told("jobs")]
    refused = program.tool("run", "1")
    assert (2, True) == (refused.returncode, "1 job was removed: 1" in refused.stderr), refused.stderr
    assert {"jobs": [1]} == program.told("remove", "--undo")
    assert before[1] == program.told("results")[1]


def test_files_of_a_removed_job_go_all_at_once(
    four: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted, the job is brought back with all of them, or not at all; a linked folder goes, not what it leads
    to."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o500)
    Path(four.folder.job(JobId(1))).symlink_to(elsewhere)
    assert [1] == four.remove([1], files=True)
    assert 0o500 == elsewhere.stat().st_mode & 0o777
    assert not os.path.lexists(four.folder.job(JobId(1)))
    unlink = os.unlink

    def interrupted(*arguments: Any, **options: Any) -> None:
        unlink(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", interrupted)
        with pytest.raises(KeyboardInterrupt):
            four.remove([0], files=True)
    with pytest.raises(JobRefused, match=r"job 0 of .*four cannot be brought back: the files were removed"):
        four.remove([0], undo=True)

    def refused(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    four.run_id(2, lambda *_: 2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refused)
        with pytest.raises(FolderError):
            four.remove([2], files=True)
    assert [2] == four.remove([2], undo=True)
    assert '"result": 2' in Path(four.folder.job(JobId(2)), "result.1.json").read_text()


def test_what_a_killed_removal_has_left_goes_with_the_next_one(four: Experiment) -> None:
    """The files of a job, which have no name any more, are of nobody when who removed them is gone."""
    child = subprocess.run([sys.executable, "-c", NAMES, four.folder.path], check=True, capture_output=True, text=True)
    left = Path(child.stdout.strip())
    assert (left / "result.1.json").exists()
    four.remove([0], files=True)
    assert not left.exists()


NAMES = """
import os, sys
from experiment_manager.store.files import temporary_name
left = temporary_name(os.path.join(sys.argv[1], "0"))
os.mkdir(left)
open(os.path.join(left, "result.1.json"), "w").close()
print(left)
"""


def test_files_of_removed_jobs(four: Experiment) -> None:
    """With --files what a job has left is gone, and it does not come back as if it were there."""
    assert [0, 3] == four.remove("0,3", files=True)
    assert not Path(four.folder.job(0)).exists()
    with pytest.raises(JobRefused, match=r"job 0 of .* cannot be brought back: the files were removed, too"):
        four.remove([0], undo=True)
    assert [3] == four.remove(3, undo=True)
    Path(four.folder.job(0)).mkdir()  # as whoever records what a scheduler tells of the job makes it
    Path(four.folder.of_attempt(0, 1, "attempt")).write_text('{"state": "COMPLETED", "format": 1}')
    with pytest.raises(JobRefused, match=r"job 0 of .* cannot be brought back: the files were removed, too"):
        four.remove([0], undo=True)
    assert [1, 2, 3] == four.get_all_ids() == four.get_filtered_ids()
    assert 4 == Experiment.at(four.folder.path).add_job({"seed": 9}, {})
    assert 2 == main(["remove", four.folder.path])
    assert 2 == main(["remove", four.folder.path, "1"])  # it asks, and nobody answers
