"""Experiments are moved, cleaned, tagged and looked after: nothing is lost on the way, whenever that is interrupted."""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

import pytest

from experiment_manager import Experiment
from experiment_manager.errors import FolderError, JobRefused
from experiment_manager.model.records import State
from experiment_manager.scheduler.moving import move, moved_script
from experiment_manager.store.files import is_temporary
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.relocation import Move, relocate
from experiment_manager.store.states import States
from tests.conftest import ProgramAfter, files_below

_CHANGES = frozenset(f"os.{what}" for what in ("mkdir", "rename", "link", "symlink", "remove", "rmdir", "chmod"))
_OF_A_MOVE = ("moved.json", ".moving.json", ".planning.lock")


def made(place: Path) -> Experiment:
    """An experiment with two jobs, of which one has run, links that lead out of it and into it, and files of one's
    own."""
    experiment = Experiment(["seed"], "train", place)
    for seed in (1, 2):
        experiment.add_job({"seed": seed}, {"seed": seed})
    experiment.save()
    experiment.save_pass_filter([0, 1])
    experiment.run_id(0, lambda _, variables, __: variables["seed"])
    job = Path(experiment.folder.job(0))
    (job / "model.pt").write_bytes(b"x" * 5000)
    (job / "last.pt").symlink_to(job / "model.pt")
    (job / "data").symlink_to("../../../data")
    (job / "read-only").mkdir()
    (job / "read-only/it").touch()
    (job / "read-only").chmod(0o555)
    return experiment


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system."""
    if not os.access("/dev/shm", os.W_OK) or os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("there is no second file system here")
    found = Path(mkdtemp(dir="/dev/shm"))
    yield found
    shutil.rmtree(found)


def contents(place: Path) -> dict[str, bytes]:
    """What lies in an experiment, but for what tells of a move, and what a killed process has left half written."""
    return {
        name: data
        for name, data in files_below(place).items()
        if name not in _OF_A_MOVE and not is_temporary(os.path.basename(name))
    }


# ---------------------------------------------------------------- moving


@pytest.mark.xdist_group("swept")  # what is prepared for several tests is prepared once
@pytest.mark.usefixtures("light")
def test_a_moved_experiment_goes_on(program_after: ProgramAfter) -> None:
    """Its jobs run again by every verb that does so, each attempt and launch is told of as before, and the move, typed
    again, changes nothing."""
    program = program_after("seed=1,2")
    before = program.told("show", "1")
    new = program.home / "archive"
    new.mkdir()
    for _ in "12":
        assert {"path": str(new / "train")} == program.told("move", "archive")
    assert not program.experiment.exists()
    program.experiment = new / "train"
    shown = program.told("show", "1")
    assert [str(new / "train/jobs/1"), before["variables"]] == [shown["directory"], shown["variables"]]
    assert [one["environment"] for one in before["attempts"]] == [one["environment"] for one in shown["attempts"]]
    assert 0 == program.tool("run", "0").returncode
    done = program.tool("resubmit", "1", "--state", "COMPLETED", "--yes")
    assert 0 == done.returncode, done.stderr
    assert ["0.1.COMPLETED", "0.2.COMPLETED", "1.1.COMPLETED", "1.2.COMPLETED"] == program.states()


def test_links_lead_where_they_led(tmp_path: Path, elsewhere: Path) -> None:
    """After a rename and after a copy a link into the experiment leads into it, one that leads out of it to the same
    place; hard links stay some, and modes stay what they are."""
    experiment = made(tmp_path / "a")
    (tmp_path / "a/data").mkdir()
    for new in (tmp_path / "renamed", elsewhere / "copied", tmp_path / "a/back"):
        assert str(new) == experiment.move(new)
        job = Path(experiment.folder.job(0))
        assert (str(job / "model.pt"), str(tmp_path / "a/data")) == (
            os.path.realpath(job / "last.pt"),
            os.path.realpath(job / "data"),
        )
        assert 0o555 == (job / "read-only").stat().st_mode & 0o777
        assert Path(experiment.folder.manifest).samefile(Path(experiment.folder.generations) / "1")
        assert [1] == [row["result"]["result"] for row in experiment.result_rows("state:COMPLETED")]


@pytest.mark.parametrize("is_copied", [False, True])
def test_killed_while_moving(tmp_path: Path, elsewhere: Path, *, is_copied: bool) -> None:
    """Whenever that is killed, an experiment is whole at the old place or at the new one, and none is half; the same
    call ends with a whole one at the new place and nothing at the old one."""
    old, new = tmp_path / "old", (elsewhere if is_copied else tmp_path) / "new"
    made(old)
    whole, n_killed = contents(old / "train"), 0
    old.rename(tmp_path / "made")
    for moment in range(1, 1000, 7 if is_copied else 1):
        shutil.copytree(tmp_path / "made", old, symlinks=True)
        was_killed = killed(moment, partial(move, Folder(old, "train"), str(new)))
        there = [place for place in (old / "train", new) if Folder.at(place).is_experiment()]
        assert there
        assert [whole] * len(there) == [contents(place) for place in there], moment
        move(Folder(old, "train"), str(new))
        assert [[], whole] == [list(old.iterdir()), contents(new)], moment
        assert (str(new / "jobs/0/model.pt"), {".moving.json"} & {*os.listdir(new)}) == (
            os.path.realpath(new / "jobs/0/last.pt"),
            set(),
        )
        assert [] == [name for name in files_below(new) if is_temporary(os.path.basename(name))]
        assert [new.name] == [one.name for one in new.parent.iterdir() if "new" in one.name]
        (new / "jobs/0/read-only").chmod(0o755)
        shutil.rmtree(new)
        old.rmdir()
        if not was_killed:
            break
        n_killed += 1
    assert n_killed > 5


def killed(moment: int, call: Callable[[], object]) -> bool:
    """Whether a process was killed just before so many changes to files of its own had been made by the call."""
    pid = os.fork()
    if pid == 0:
        seen = 0

        def look(event: str, _: tuple[object, ...]) -> None:
            nonlocal seen
            if event in _CHANGES:
                seen += 1
                if seen == moment:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(look)
            call()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0


def test_what_runs_is_not_moved(tmp_path: Path, elsewhere: Path) -> None:
    """While a job runs, or one begins at the last moment, or a file is written meanwhile, all stays where it is."""
    experiment = made(tmp_path)
    before = contents(tmp_path / "train")
    states = States(experiment.folder)
    attempt = states.claim(1, {})
    with pytest.raises(JobRefused, match="is not moved: job 1 is RUNNING"):
        experiment.move(tmp_path / "other")
    states.finish(1, attempt, State.FAILED, {})
    way = Move(experiment.folder, Folder(tmp_path, "other"))

    def begins(place: Folder) -> None:
        assert place.path == str(tmp_path / "other")
        raise JobRefused("job 1 has begun")

    with pytest.raises(JobRefused, match="has begun"):
        relocate(way, lambda _: None, begins)

    def writes(_: Folder) -> None:
        (tmp_path / "train/jobs/1/late").touch()

    with pytest.raises(FolderError, match="has changed while it was copied"):
        relocate(Move(experiment.folder, Folder(elsewhere, "other")), writes, lambda _: None)
    assert [] == list(elsewhere.iterdir())
    (tmp_path / "train/jobs/1/late").unlink()
    assert before.keys() <= contents(tmp_path / "train").keys()
    assert {"train"} == {one.name for one in tmp_path.iterdir()}


def test_where_nothing_can_be_moved_to(tmp_path: Path) -> None:
    """Another experiment, a file, a place in itself, a folder that is not there, a link: a sentence, and no change."""
    experiment, other = made(tmp_path), Experiment(["x"], "other", tmp_path)
    other.save()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("train")
    before = contents(tmp_path / "train")
    for to, why in (
        ("other", "is there already"),
        ("file", "is there already"),
        ("train/inside", "lies in"),
        ("no/such", "is no folder"),
        ("train", "is there already|lies in"),
    ):
        with pytest.raises(FolderError, match=why):
            experiment.move(tmp_path / to)
    with pytest.raises(FolderError, match="is a link to"):
        move(Folder(tmp_path, "link"), str(tmp_path / "elsewhere"))
    with pytest.raises(FolderError, match="is no experiment"):
        move(Folder(tmp_path, "none"), str(tmp_path / "elsewhere"))
    assert before == contents(tmp_path / "train")
    assert {"train", "other", "file", "link"} == {one.name for one in tmp_path.iterdir()}


def test_who_has_seen_an_experiment_does_not_make_it_anew(tmp_path: Path) -> None:
    """A job that was about to begin when its experiment was moved leaves nothing at the old place."""
    experiment = made(tmp_path)
    old = Folder(tmp_path, "train")
    with Manifest(old) as manifest:
        assert 1 == manifest.job(1).id
    experiment.move(tmp_path / "new")
    with pytest.raises(FileNotFoundError):
        States(old).claim(1, {})
    assert not (tmp_path / "train").exists()


def test_a_pickled_runner_goes_along(tmp_path: Path) -> None:
    """A function that has run jobs of an experiment runs the rest of them where it is moved to."""
    experiment = made(tmp_path)
    assert (1,) == tuple(one.job_id for one in experiment.run(lambda *_: 7).ran)
    experiment.move(tmp_path / "new")
    done = experiment.run(rerun="always", where="1")
    assert [State.COMPLETED] == [one.state for one in done.ran]


def test_scripts_name_the_new_place() -> None:
    """Whole paths and words are exchanged, in comments, too; where a shell would need quotes nothing is touched."""
    old, new = Folder("/a", "b"), Folder("/c d", "e")
    text = "# `experiment-manager submit /a/b`.\n#SBATCH --output=/a/b/launches/0001/%A_%a.log\n"
    assert text.replace("/a/b", "/x/y") == moved_script(text, old, Folder("/x", "y"))
    assert text == moved_script(text, old, new)
