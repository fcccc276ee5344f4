"""The folder of an experiment: which names it can bear, and the lock under which it is planned."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiment_manager import SLURM, Experiment
from experiment_manager.errors import ExperimentManagerError, FolderError
from experiment_manager.model.records import Attempt, JobId, State
from experiment_manager.scheduler.query import open_launches
from experiment_manager.store.launches import SETTLED, create_launch, read_launch
from experiment_manager.store.layout import Folder, check_name, planning, writing
from experiment_manager.store.lock import identity
from experiment_manager.store.pass_filter import read_selection
from experiment_manager.store.relocation import unfinished_move
from experiment_manager.store.submissions import Sightings, Submission
from tests.conftest import clean_env, erring, wait_until

PLANNER = """
import os, sys
from experiment_manager.store.layout import Folder, planning
with planning(Folder(sys.argv[1], sys.argv[2])):
    print("planning", flush=True)
    sys.stdin.read()
"""

RIVAL = """
import os, random, sys, time
from experiment_manager.store.layout import Folder, planning
busy = sys.argv[2]
deadline = time.monotonic() + 2
while time.monotonic() < deadline:
    try:
        with planning(Folder(sys.argv[1], "train")):
            os.close(os.open(busy, os.O_CREAT | os.O_EXCL))
            time.sleep(random.random() / 500)
            os.unlink(busy)
            raise KeyError("planning has failed")
    except KeyError:
        pass
"""


def plan_and_fail(folder: Folder, error: type[BaseException] = KeyError, notes: str | None = None) -> None:
    with planning(folder):
        assert os.path.isdir(folder.path)
        if notes is not None:
            Path(folder.join("notes.txt")).write_text(notes)
        raise error


@pytest.mark.parametrize(
    "name",
    [
        "train",
        "my experiment",
        'it\'s "quoted"',
        "größe-実験-🧪",
        "a#b",
        "a?b",
        "100%",
        "a=b,c",
        "~",
        "$HOME",
        "...",
        ".x",
        "x" * 200,
    ],
)
def test_accepted_name(tmp_path: Path, name: str) -> None:
    """Spaces, quotes, UTF-8 and what is special to shells, URIs and Hydra are no obstacle: the folder can be made."""
    check_name(name)
    folder = Folder(tmp_path, name)
    with planning(folder):
        assert name in os.listdir(tmp_path)
    assert name == folder.name
    assert str(tmp_path) == folder.parent
    assert folder.path == Folder.at(folder.path).path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "empty"),
        ("a/b", "slash"),
        ("/", "slash"),
        ("a\nb", "newline"),
        ("a\n", "newline"),
        ("a\tb", "control"),
        ("a\x00b", "control"),
        ("a\x7f", "control"),
        ("-m", "dash"),
        ("-", "dash"),
        (".", "'.'"),
        ("..", "'..'"),
        ("a${b}", "'${'"),
        ("x" * 201, "200 bytes"),
        ("ä" * 101, "200 bytes"),
        ("bad\udcff", "cannot be the name"),
    ],
)
def test_refused_name(tmp_path: Path, name: str, reason: str) -> None:
    """What cannot be a name is refused with the reason, and quoted so that the terminal stays whole."""
    with pytest.raises(FolderError) as refused:
        Folder(tmp_path, name)
    assert reason in str(refused.value)
    assert repr(name) in str(refused.value)
    assert [] == os.listdir(tmp_path)


@pytest.mark.parametrize("path", ["/", ".."])
def test_path_that_ends_in_no_name(tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The root of the file system is no experiment; a relative path is one by its last real name."""
    home = tmp_path / "home" / "inner"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    if path == "/":
        with pytest.raises(FolderError):
            Folder.at(path)
    else:
        assert str(home.parent) == Folder.at(path).path
        assert str(home / "train") == Folder.at("train/").path


def test_folder_exists_only_once_something_is_saved(tmp_path: Path) -> None:
    """Naming a folder makes nothing; asking it for an experiment says what is missing, and where."""
    folder = Folder(tmp_path / "experiments", "train")
    assert [] == os.listdir(tmp_path)
    assert not folder.is_experiment()
    with pytest.raises(FolderError, match=r"experiments/train is no experiment"):
        folder.require()


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, SystemExit])
def test_failed_planning_leaves_nothing_behind(tmp_path: Path, error: type[BaseException]) -> None:
    """A folder that had to be made is gone again, with the parents that had to be made, when planning fails."""
    (tmp_path / "kept").mkdir()
    with pytest.raises(error):
        plan_and_fail(Folder(tmp_path / "kept" / "a" / "b", "train"), error)
    assert [] == os.listdir(tmp_path / "kept")


def test_failed_planning_keeps_what_was_there(tmp_path: Path) -> None:
    """In a folder that was there, everything that was there stays, an empty folder, too."""
    folder = tmp_path / "train"
    (folder / "states").mkdir(parents=True)
    (folder / "manifest.sqlite").write_text("precious")
    with pytest.raises(KeyError):
        plan_and_fail(Folder(tmp_path, "train"))
    assert {"states", "manifest.sqlite"} == set(os.listdir(folder)) - {".planning.lock"}
    assert "precious" == (folder / "manifest.sqlite").read_text()
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(KeyError):
        plan_and_fail(Folder(tmp_path, "empty"))
    assert empty.is_dir()


def test_failed_planning_keeps_what_was_written_meanwhile(tmp_path: Path) -> None:
    """What somebody has put into a new folder is never removed, even though planning fails."""
    with pytest.raises(KeyError):
        plan_and_fail(Folder(tmp_path / "experiments", "train"), notes="mine")
    assert ["notes.txt"] == os.listdir(tmp_path / "experiments" / "train")


def test_planning_again_after_a_failure(tmp_path: Path) -> None:
    """A failure holds no lock: the next planning begins at once."""
    folder = Folder(tmp_path / "experiments", "train")
    for _ in range(3):
        with pytest.raises(KeyError):
            plan_and_fail(folder)
        with planning(folder):
            pass
    assert os.path.isdir(folder.path)


@pytest.mark.parametrize("name", ["train", "a b'c#%?"])
def test_second_process_waits(tmp_path: Path, name: str) -> None:
    """While one process plans, another waits, and goes on as soon as the first has ended, be it by SIGKILL."""
    command = [sys.executable, "-c", PLANNER, str(tmp_path), name]
    first, second = (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean_env())
        for _ in "12"
    )
    assert first.stdout is not None
    assert second.stdout is not None
    os.set_blocking(first.stdout.fileno(), False)
    os.set_blocking(second.stdout.fileno(), False)
    try:
        said = wait_until(lambda: [each for each in (first, second) if each.stdout and each.stdout.read(1)])
        assert 1 == len(said)
        (holder,) = said
        waiter = second if holder is first else first
        with pytest.raises(subprocess.TimeoutExpired):
            waiter.wait(0.5)
        assert waiter.stdout is not None
        assert not waiter.stdout.read(1)
        holder.kill()
        assert wait_until(lambda: waiter.stdout and waiter.stdout.read(1))
        waiter.communicate()
        assert 0 == waiter.returncode
    finally:
        for each in (first, second):
            each.kill()
            each.communicate()


def test_failing_planners_exclude_one_another(tmp_path: Path) -> None:
    """Nobody else plans inside, even where planners keep making the folder and removing it when they fail."""
    command = [sys.executable, "-c", RIVAL, str(tmp_path / "experiments"), str(tmp_path / "busy")]
    rivals = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=clean_env()) for _ in range(4)]
    errors = [rival.communicate(timeout=60)[1] for rival in rivals]
    assert ["", "", "", ""] == [error.strip().rpartition("\n")[2] for error in errors]


def test_path_that_cannot_be_made(tmp_path: Path) -> None:
    """Where a file stands in the way, the refusal names the folder, and nothing of it is left."""
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match=r"file/train cannot be made"), planning(Folder(tmp_path / "file", "train")):
        raise AssertionError("planning has begun")
    with pytest.raises(FolderError), planning(Folder(tmp_path, "file")):
        raise AssertionError("planning has begun")
    assert ["file"] == os.listdir(tmp_path)


QUESTIONS: dict[str, tuple[str, Callable[[Experiment], object]]] = {
    "whether it is an experiment": ("manifest.sqlite", lambda experiment: experiment.folder.is_experiment()),
    "what the manifest says": (
        "manifest.sqlite",
        lambda experiment: Experiment.at(experiment.folder.path).get_all_ids(),
    ),
    "what has run": ("states", lambda experiment: experiment.status().counts),
    "what is held": ("held", lambda experiment: experiment.status().held),
    "what was removed": ("removed", lambda experiment: experiment.status().removed),
    "what was saved": ("kept.json", lambda experiment: experiment.are_all_results_present("kept.json")),
    "the options of jobs": ("slurm_config.json", lambda experiment: experiment.slurm_config is not None),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_what_cannot_be_looked_at_is_not_taken_for_absent(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that errs once is asked again, and of one that errs for ever nothing is concluded."""
    experiment = Experiment(["seed"], "e", str(tmp_path))
    experiment.add_job({"seed": 1}, {"seed": 1})
    experiment.save()
    for folder in ("held", "removed"):
        os.makedirs(experiment.folder.join(folder), exist_ok=True)
    experiment.save_results(0, "kept.json", experiment.json_saver, {"a": 1})
    experiment.set_slurm_config(SLURM(job_runner=["true"]))
    experiment.save()
    of_file, ask = QUESTIONS[name]
    expected = ask(Experiment.at(experiment.folder.path))
    with monkeypatch.context() as patch:
        failed = erring(patch, of_file, most=1)
        found = ask(Experiment.at(experiment.folder.path))
        assert failed
    assert str(found) == str(expected)
    with monkeypatch.context() as patch:
        erring(patch, of_file, most=1_000_000)
        patch.setenv("EXPERIMENT_MANAGER_PATIENCE_S", "0.1")
        with pytest.raises(ExperimentManagerError, match="cannot be read"):
            ask(Experiment.at(experiment.folder.path))


RECORDS: dict[str, Callable[[Folder], object]] = {
    "pass_filter.json": read_selection,
    ".moving.json": unfinished_move,
    "submission.json": lambda folder: Submission(folder, read_launch(folder, "0001")),
    "seen.json": lambda folder: Sightings(folder, read_launch(folder, "0001")),
    "seen_arrays.json": lambda folder: Sightings(folder, read_launch(folder, "0001")),
    "seen_clusters.json": lambda folder: Sightings(folder, read_launch(folder, "0001")),
    "launch.json": lambda folder: open_launches(folder, is_to_act=True),
}


@pytest.mark.parametrize("name", RECORDS)
def test_nobody_is_told_to_replace_what_a_disk_does_not_show(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a record that is damaged people are told what to do with it; where the disk errs, to look there."""
    folder = Folder(tmp_path, "e")
    create_launch(folder, [Attempt(JobId(0), 1, State.PENDING)], {})
    Path(folder.join("launches", "0001", SETTLED)).unlink(missing_ok=True)  # as of one that a scheduler runs
    if name == "seen_arrays.json":
        Path(folder.join("launches", "0001", "seen.json")).write_text("{}")
    path = folder.join(name) if name in ("pass_filter.json", ".moving.json") else folder.join("launches", "0001", name)
    Path(path).write_text("{")
    with pytest.raises(
        ExperimentManagerError, match=r"cannot be read: .*(remove it|save the pass filter again|restore)"
    ):
        RECORDS[name](folder)
    erring(monkeypatch, name, most=1_000_000)
    monkeypatch.setenv("EXPERIMENT_MANAGER_PATIENCE_S", "0.1")
    with pytest.raises(ExperimentManagerError) as refused:
        RECORDS[name](folder)
    stale = f"{path} cannot be read: Stale file handle; the disk or its server has a fault: look there, and repeat"
    unknown = ". Which jobs launch 0001 has in hand is not known, so none is started"
    assert stale == str(refused.value).removesuffix(unknown if name == "launch.json" else "")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_look_that_fails_is_not_told_as_a_write(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where people plan, what they look at may be out of reach as well as what they write: the sentence says which."""
    look, why = os.lstat, os.strerror(number)

    def erring(path: object, *arguments: object, **options: object) -> os.stat_result:
        if str(path).endswith(of_file):
            raise OSError(number, why, path)
        return look(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "lstat", erring)
    monkeypatch.setenv("EXPERIMENT_MANAGER_PATIENCE_S", "0.1")
    way_out = "the disk or its server has a fault: look there, and repeat"
    of_file = ".planning.lock"
    with pytest.raises(FolderError) as refused, planning(Folder(tmp_path, "e")):
        raise AssertionError("planning has begun")
    assert f"{tmp_path}/e cannot be read: {why}; {way_out}" == str(refused.value)
    of_file = "looked_at"
    with pytest.raises(FolderError) as refused, writing(str(tmp_path)):
        identity(f"{tmp_path}/looked_at")
    assert f"{tmp_path}/looked_at cannot be read: {why}; {way_out}" == str(refused.value)
    with pytest.raises(FolderError) as refused, writing(str(tmp_path)):
        raise OSError(number, why, "/written")
    assert f"/written cannot be made or written: {why}; {way_out}" == str(refused.value)
