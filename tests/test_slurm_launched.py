"""The record of a launch about its job arrays: names that nobody else uses, jobs by index, and what was submitted."""

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from experiment_manager.errors import SlurmError, UnreadableLaunch
from experiment_manager.model.ids import format_ids
from experiment_manager.model.records import Attempt, JobId, Launch, State
from experiment_manager.scheduler.arrays import arrays
from experiment_manager.scheduler.records import NOTHING, Limits
from experiment_manager.scheduler.scripts import Arrangement, write_scripts
from experiment_manager.scheduler.slurm.options import as_mapping, make
from experiment_manager.scheduler.slurm.scheduler import Slurm
from experiment_manager.scheduler.slurm.through_submitit import send_with
from experiment_manager.scheduler.submission import (
    LaunchedArray,
    launched_arrays,
    records,
    script_name,
    script_paths,
    stale_scripts,
    token,
)
from experiment_manager.store.launches import create_launch
from experiment_manager.store.layout import Folder
from experiment_manager.store.submissions import Submission


def array(*jobs: int, pack: int = 1, by_job: bool = False) -> LaunchedArray:
    return LaunchedArray("a", "slurm_scripts.sh", jobs, pack, by_job, None)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    found = Folder(tmp_path, "e")
    Path(found.path).mkdir()
    return found


def launch_of(folder: Folder, ids: list[int], name: str = "e", size: int = 1001, **options: object) -> Launch:
    """A launch on disk with the arrays that run these jobs."""
    found = arrays([(make(options, where="test"), ids)], Limits(size, 4000))
    attempts = (Attempt(JobId(job_id), 1, State.PENDING) for job_id in ids)
    return create_launch(folder, attempts, {"slurm": {"arrays": records(found, name, as_mapping)}})


def submission_of(folder: Folder, launch: Launch) -> Any:
    return json.loads(Path(folder.join("launches", launch.number, "submission.json")).read_text())


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "beginning"),
    [
        ("train", "train"),
        ("Größe X/2", "gr-e-x-2"),
        ("--", "job"),
        ("日本", "job"),
        ("a" * 200, "a" * 40),
        ("a" * 39 + " b", "a" * 39),
        ("x,y%j|z\n", "x-y-j-z"),
    ],
)
def test_tokens_are_names_for_every_command(name: str, beginning: str) -> None:
    """A token has letters, digits and dashes only, whatever the experiment is called: it goes through `sacct --name`,
    which splits at commas, and through lines of a script."""
    assert re.fullmatch(re.escape(beginning) + "-[a-z0-9]{8}", token(name)), token(name)


def test_tokens_are_never_used_twice() -> None:
    """Two launches of one experiment bear different names."""
    assert 10_000 == len({token("train") for _ in range(10_000)})


def test_parts_of_a_launch_have_names_of_their_own(folder: Folder) -> None:
    """The parts are numbered in names and scripts, and no name is another one's."""
    found = launched_arrays(launch_of(folder, list(range(5)), size=2, array_parallelism=1))
    first = found[0].name
    assert [first, f"{first}-2", f"{first}-3"] == [part.name for part in found]
    assert ["slurm_scripts.sh", "slurm_scripts_2.sh", "slurm_scripts_3.sh"] == [part.script for part in found]
    assert [None, 0, 1] == [part.after for part in found]


# ---------------------------------------------------------------- jobs and indices


@pytest.mark.parametrize("size", [3, 1001])
@pytest.mark.parametrize("pack", [1, 2, 3, 7])
@pytest.mark.parametrize("ids", [[0], [4], [0, 1, 2, 3, 4], [9, 5, 2, 40, 11]])
def test_every_job_is_found_by_the_index_of_its_task(folder: Folder, ids: list[int], pack: int, size: int) -> None:
    """What is read back from `launch.json` says of each task which jobs it runs."""
    wanted = arrays([(make({"pack": pack}, where="test"), ids)], Limits(size, 4000))
    found = launched_arrays(launch_of(folder, ids, size=size, pack=pack))
    assert sorted(ids) == sorted(job_id for part in found for job_id in part.jobs)
    for array_wanted, part in zip(wanted, found, strict=True):
        tasks = dict(zip(array_wanted.indices, array_wanted.tasks, strict=True))
        assert tasks == dict(part.tasks())


def test_the_last_task_of_a_pack_may_have_fewer_jobs() -> None:
    """Tasks are numbered by position where a table says which jobs they run, and by job where it does not."""
    assert {3: (3,), 7: (7,)} == dict(array(3, 7, by_job=True).tasks())
    assert {0: (3, 7), 1: (8,)} == dict(array(3, 7, 8, pack=2).tasks())


def test_launches_of_other_launchers_have_no_arrays(folder: Folder) -> None:
    """A launch that SLURM does not run has none."""
    assert [] == launched_arrays(create_launch(folder, [Attempt(JobId(0), 1, State.PENDING)], {}))


# ---------------------------------------------------------------- what was submitted


def test_submission_survives_the_process(folder: Folder) -> None:
    """What was noted is on disk at once: an order in doubt, then SLURM's id and when; each array for itself."""
    launch = launch_of(folder, [0, 1, 2, 3], size=2)
    one, two = (part.name for part in launched_arrays(launch))
    first = Submission(folder, launch)
    assert (None, None) == (first.array_id(one), first.doubtful_until(one))
    first.note(one, doubtful_until=5.5)
    again = Submission(folder, launch)
    assert (None, 5.5, 0.0) == (again.array_id(one), again.doubtful_until(one), again.submitted(one))
    again.note(one, slurm_id="12", submitted=6.0)
    again.note(two, doubtful_until=7.0)
    noted = {one: {"slurm_id": "12", "submitted": 6.0}, two: {"doubtful_until": 7.0}}
    assert {"format": 1, "arrays": noted} == submission_of(folder, launch)
    last = Submission(folder, launch)
    assert ("12", None, 6.0) == (last.array_id(one), last.doubtful_until(one), last.submitted(one))
    assert (None, 7.0) == (last.array_id(two), last.doubtful_until(two))


def test_two_who_submit_without_a_lock(folder: Folder) -> None:
    """What one of them has told of an array, the other one keeps who has read the record before; and a try of a process
    that lives is nobody else's until it can turn up no more, however soon that would be were the process gone."""
    launch = launch_of(folder, [0, 1, 2, 3], size=2)
    one, two = (part.name for part in launched_arrays(launch))
    first, slow = Submission(folder, launch), Submission(folder, launch)
    first.note_id(two, "12", 6.0, "slurm", None)
    slow.note_id(one, "11", 5.0, "slurm", None)
    last = Submission(folder, launch)
    assert ("11", "12") == (last.array_id(one), last.array_id(two))

    assert last.claim("c", time.time() + 60, time.time() - 1)
    assert not Submission(folder, launch).claim("c", time.time() + 60, time.time() - 1)
    path = Path(folder.join("launches", launch.number, "c.try"))
    ended = {**json.loads(path.read_text())["process"], "started_ticks": 1}
    path.write_text(json.dumps({"until": time.time() + 60, "until_if_gone": 1.0, "process": ended}))
    assert Submission(folder, launch).claim("c", time.time() + 60, time.time() - 1)


def test_a_refused_array_leaves_no_note(folder: Folder) -> None:
    """Noting nothing takes the note of an array away, and those of the others stay."""
    launch = launch_of(folder, [0])
    submission = Submission(folder, launch)
    submission.note("a", doubtful_until=1.0)
    submission.note("b", slurm_id="3", submitted=1.0)
    submission.note("a")
    assert {"format": 1, "arrays": {"b": {"slurm_id": "3", "submitted": 1.0}}} == submission_of(folder, launch)
    submission.note("b")
    assert {"format": 1, "arrays": {}} == submission_of(folder, launch)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '{"arrays": {"a": {"slurm_id": 3}}}'])
def test_a_damaged_submission_says_nothing_and_stays(
    folder: Folder, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named, and what SLURM has is found by its name; on the strength of it nothing is submitted."""
    launch = launch_of(folder, [0])
    path = Path(folder.join("launches", launch.number, "submission.json"))
    path.write_text(text)
    found = Submission(folder, launch, is_to_act=False)
    assert (None, None) == (found.array_id(launched_arrays(launch)[0].name), found.doubtful_until("a"))
    assert f"skipped: {path} cannot be read: " in capsys.readouterr().err
    with pytest.raises(UnreadableLaunch, match="if it is damaged, remove it: what was submitted is found by its name"):
        Submission(folder, launch)
    assert text == path.read_text()


# ---------------------------------------------------------------- scripts


def test_scripts_lie_at_the_top_and_in_the_launch(folder: Folder) -> None:
    """People submit the one at the top; the launch keeps its own."""
    launch = launch_of(folder, list(range(3)), size=2)
    top, kept = script_paths(folder, launch, launched_arrays(launch)[1])
    assert (f"{folder.path}/slurm_scripts_2.sh", f"{folder.path}/launches/0001/slurm_scripts_2.sh") == (top, kept)


def test_stale_scripts_are_those_of_ours_that_are_not_kept(folder: Folder) -> None:
    """Of the files at the top only scripts that bear our names, and not those of the newest launch, are stale."""
    for name in ("slurm_scripts.sh", "slurm_scripts_2.sh", "slurm_scripts_10.sh", "slurm_scripts_x.sh", "my.sh"):
        (Path(folder.path) / name).touch()
    (Path(folder.path) / "slurm_scripts_3.sh.bak").touch()
    stale = stale_scripts(folder, [script_name(1)])
    assert [f"{folder.path}/slurm_scripts_10.sh", f"{folder.path}/slurm_scripts_2.sh"] == sorted(stale)


@pytest.mark.parametrize("was_submitted", [False, True])
@pytest.mark.parametrize("is_newest", [False, True])
def test_no_script_of_an_earlier_launch_lies_at_the_top(folder: Folder, is_newest: bool, was_submitted: bool) -> None:
    """Whether the scripts of the next launch are written for people or submitted at once. Each launch keeps its own: as
    it was submitted, else as people have edited it at the top. A launch that nobody has asked for takes none away."""

    def write(ids: list[int], **how: bool) -> Launch:
        found = tuple(arrays([(make({}, where="test"), ids)], Limits(2, 4000)))
        record = {"scheduler": "slurm", "slurm": {"options": {}, "arrays": records(found, "e", as_mapping)}}
        launch = create_launch(folder, (Attempt(JobId(job_id), 1, State.PENDING) for job_id in ids), record)
        write_scripts(folder, launch, Arrangement(Slurm(), found, record), **how)
        return launch

    earlier = write([0, 1, 2], is_newest=True)
    for array in launched_arrays(earlier):
        if was_submitted:
            Submission(folder, earlier).note_id(array.name, "7", 0.0, "slurm", None)
        with open(script_paths(folder, earlier, array)[0], "a") as file:
            file.write("# edited\n")
    write([0], is_newest=False, is_asked_for=False)
    assert ["slurm_scripts.sh", "slurm_scripts_2.sh"] == sorted(map(os.path.basename, stale_scripts(folder, ())))
    write([3], is_newest=is_newest)
    tops = [Path(path) for path in stale_scripts(folder, ())]
    assert (["slurm_scripts.sh"] if is_newest else []) == [path.name for path in tops]
    assert all("launch 0003" in path.read_text() for path in tops)
    kept = [Path(script_paths(folder, earlier, array)[1]).read_text() for array in launched_arrays(earlier)]
    assert [not was_submitted] * 2 == ["# edited" in text for text in kept]


def test_ids_of_a_large_launch_are_short(folder: Folder) -> None:
    """A launch of 10,000 jobs keeps ranges, not ten thousand numbers."""
    launch = launch_of(folder, list(range(10_000)), size=20_000)
    (record,) = launch.record["slurm"]["arrays"]
    assert format_ids(range(10_000)) == record["jobs"]
    assert Path(folder.join("launches", launch.number, "launch.json")).stat().st_size < 2_000


def test_submitit_where_there_is_no_srun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What submitit finds wrong with the machine is told with a way out."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmError, match=r'submitit submits nothing here: Could not detect "srun".*slurm_script'):
        send_with(str(tmp_path / "%j"))(str(tmp_path / "slurm_scripts.sh"), NOTHING)


def test_what_submitit_left_when_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of submitit's for a submission that is over for long goes with the next one; not so a younger one."""
    own = tmp_path / "own"
    own.mkdir()
    old, young = (own / f".submission_file_{number}.sh" for number in (1, 2))
    for path in (old, young, tmp_path / "srun", tmp_path / "slurm_scripts.sh"):
        path.touch(0o755)
    os.utime(old, (0, 0))
    monkeypatch.setenv("PATH", str(tmp_path))  # with no sbatch
    with pytest.raises(SlurmError):
        send_with(str(own / "%j"))(str(tmp_path / "slurm_scripts.sh"), NOTHING)
    assert [young] == [*own.iterdir()]
