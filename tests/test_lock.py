"""The lock under which experiments are planned, and what holds where there is none, or one that nobody else sees."""

import errno
import fcntl
import json
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from experiment_manager import Experiment
from experiment_manager.errors import Overtaken
from experiment_manager.model.records import Job, JobId
from experiment_manager.store import lock
from experiment_manager.store.files import writer_is_gone
from experiment_manager.store.layout import Folder, planning
from experiment_manager.store.lock import Busy, Lock, left_by
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.manifest_editor import editing, until_published
from experiment_manager.store.processes import this_process
from tests.conftest import booted_at, clean_env

NOT_HERE = "import fcntl\ndef flock(*given): raise OSError({number}, 'no locks')\nfcntl.flock = flock\n"
KNOWN_HERE_ALONE = "import fcntl\nfcntl.flock = lambda *given: None\n"
WAY_OUT = "remove that file if it does not run there any more),"
PLANNER = """
import sys, time
from experiment_manager import Experiment
from experiment_manager.errors import ExperimentManagerError
where, x = sys.argv[1], int(sys.argv[2])
while True:
    try:
        experiment = Experiment(["x", "y"], "train", where)
        for y in range(5):
            experiment.add_job({"x": x, "y": y}, {"x": x, "y": y})
        experiment.save()
        break
    except ExperimentManagerError as error:
        assert "run this again" in str(error), error
"""


def job(number: int) -> Job:
    return Job(JobId(number), f"identity {number}", {"x": number}, (), None, None)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_link_stands_for_a_lock(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where the file system has no locks, a link is one, which is said once; it is left by nobody, and taken from whom
    is gone, but not from a process of another machine."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    path, held = str(tmp_path / "lock"), str(tmp_path / "lock.held")
    lock = Lock(path, wait_s=0)
    with pytest.raises(Busy, match=rf"process {os.getpid()} on .* as {held} says"):
        Lock(path, wait_s=0)
    lock.release()
    assert ["lock"] == os.listdir(tmp_path)
    Path(held).write_text(json.dumps({**this_process(), "pid": 4194305}))
    Lock(path, wait_s=0).release()
    assert ["lock"] == os.listdir(tmp_path)
    for elsewhere in ({"host": "another"}, {"boot": "another"}):
        Path(held).write_text(json.dumps({**this_process(), **elsewhere}))
        with pytest.raises(Busy, match=r" on .* \(remove that file if it does not run there any more\),$"):
            Lock(path, wait_s=0)
    assert {"lock", "lock.held"} == set(os.listdir(tmp_path))
    for told in ({"start": booted_at() - 10}, {}):  # older versions told no time
        record = {key: value for key, value in this_process().items() if key != "start"}
        Path(held).write_text(json.dumps({**record, "boot": "before this one", **told}))
        os.utime(held, (booted_at() - 10, booted_at() - 10))
        assert "which cannot be asked from here" in (left_by(path) or "")  # who looks writes nothing to know more
        os.utime(held, (booted_at() - 3600, booted_at() - 3600))
        assert "which has ended" in (left_by(path) or "")
        os.utime(held, (booted_at() - 10, booted_at() - 10))
        Lock(path, wait_s=0).release()
        assert ["lock"] == os.listdir(tmp_path)
    assert 1 == capfd.readouterr().err.count("without locks")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a process that {held} does not name (remove that file if nobody works there)"),
        ("{}", "a process that {held} does not name (remove that file if nobody works there)"),
        (
            '{"host": "another"}',
            "a process on another, as {held} says (" + WAY_OUT,
        ),
        (
            '{"pid": 7}',
            "process 7 on a machine that nobody names, as {held} says (" + WAY_OUT,
        ),
    ],
)
def test_who_holds_a_link_is_told_as_far_as_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    """A link that does not say all is somebody's nevertheless: what it does not say is not told as None."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSYS, "no locks")))
    path, held = str(tmp_path / "lock"), tmp_path / "lock.held"
    held.write_text(text)
    with pytest.raises(Busy) as busy:
        Lock(path, wait_s=0)
    assert said.format(held=held) == busy.value.holder
    assert "None" not in str(lock.left_by(path))


@pytest.mark.parametrize("has_locks", [True, False])
def test_what_the_file_system_does_not_tell_is_no_other_planner(
    tmp_path: Path, has_locks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that errs once is asked again; of one that errs for ever nobody is told that another process plans."""
    path, look, failed = str(tmp_path / "lock"), os.lstat, list[object]()
    if not has_locks:
        monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSYS, "no locks")))
        held = Lock(path, wait_s=0)

    def stale(place: object) -> os.stat_result:
        if len(failed) < most:
            failed.append(place)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), place)
        return look(place)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "lstat", stale)
    monkeypatch.setenv("EXPERIMENT_MANAGER_PATIENCE_S", "0.5")
    most = 1
    if has_locks:
        Lock(path, wait_s=0).release()
    else:
        held.release()
        assert ["lock"] == os.listdir(tmp_path)
        Lock(path, wait_s=0)
    assert failed
    most = 1_000_000
    with pytest.raises(OSError, match="Stale"):
        Lock(path, wait_s=0)


def test_a_link_that_somebody_has_made_meanwhile_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two find that who had the lock is gone, and one of them has it already when the other takes the old one away."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSYS, "no locks")))
    path, held = str(tmp_path / "lock"), tmp_path / "lock.held"
    held.write_text(json.dumps({**this_process(), "pid": 4194305}))

    def meanwhile(*_: object) -> bool | None:
        monkeypatch.setattr(lock, "writer_is_gone", writer_is_gone)
        held.unlink()
        held.write_text(json.dumps(this_process()))
        return True

    monkeypatch.setattr(lock, "writer_is_gone", meanwhile)
    with pytest.raises(Busy, match=rf"process {os.getpid()} on "):
        Lock(path, wait_s=0)
    assert json.loads(held.read_text()) == this_process()


def test_nobody_plans_over_what_bears_no_name_yet(tmp_path: Path) -> None:
    """A planner that was planning on nothing, while another one has published the first manifest and is about to give
    it its name, plans again: it does not publish the second one, without the jobs of the first."""
    experiment = Experiment(["x"], "train", tmp_path)
    experiment.add_job({"x": 0}, {"x": 0})
    experiment.save()
    os.unlink(experiment.folder.manifest)
    with pytest.raises(Overtaken), editing(experiment.folder, 0) as editor:
        editor.add_job(job(0))
    with Manifest(experiment.folder) as manifest:
        assert ([0], 1) == (manifest.ids(), manifest.generation)


def test_a_slow_planner_puts_nothing_older_in_the_place_of_what_is_newer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has published, and is slow to name it, finds that others have gone on from it."""
    folder = Folder(tmp_path, "train")
    publish = os.link

    def plan(number: int) -> None:
        with editing(folder) as editor:
            editor.add_job(job(number))

    def linked(source: str, target: str) -> None:
        publish(source, target)
        if target.endswith("generations/1"):
            plan(1)  # another one, on what has just been published

    os.makedirs(folder.path)
    monkeypatch.setattr(os, "link", linked)
    plan(0)
    with Manifest(folder) as manifest:
        assert ([0, 1], 2) == (manifest.ids(), manifest.generation)


@pytest.mark.parametrize("locks", [NOT_HERE.format(number=errno.ENOSYS), KNOWN_HERE_ALONE], ids=["none", "alone"])
def test_no_planner_loses_what_another_one_wrote(tmp_path: Path, locks: str) -> None:
    """Without locks, or with one that nobody else sees, all that several planners add at once is in the manifest, each
    under an id of its own."""
    command = [sys.executable, "-c", locks + PLANNER, str(tmp_path)]
    planners = [
        subprocess.Popen([*command, str(x)], stderr=subprocess.PIPE, text=True, env=clean_env()) for x in range(4)
    ]
    errors = [planner.communicate(timeout=60)[1] for planner in planners]
    assert [0] * 4 == [planner.returncode for planner in planners], errors
    with Manifest(Folder(tmp_path, "train")) as manifest:
        found = [tuple(each.variables.values()) for each in manifest.jobs()]
        assert {(x, y) for x in range(4) for y in range(5)} == set(found)
        assert list(range(20)) == manifest.ids()
        assert 4 == manifest.generation
    assert {"manifest.sqlite", ".planning.lock", "generations"} == set(os.listdir(tmp_path / "train"))


def test_what_was_planned_on_an_older_manifest_is_not_published(tmp_path: Path) -> None:
    """A planner that has been overtaken is told so and has written nothing; again, it goes on from the newest."""
    folder = Folder(tmp_path, "train")
    os.makedirs(folder.path)
    seen: list[int] = []

    def plan(base: int) -> int:
        seen.append(base)
        with editing(folder, base) as editor:
            editor.add_job(job(base))
            if len(seen) == 1:
                other = threading.Thread(target=publish)  # nobody holds a lock here
                other.start()
                other.join()
        return base

    def publish() -> None:
        with editing(folder) as editor:
            editor.add_job(job(0))

    assert 1 == until_published(folder, plan)
    assert [0, 1] == seen
    with Manifest(folder) as manifest:
        assert [0, 1] == manifest.ids()
    with pytest.raises(Overtaken, match="run this again"), editing(folder, 1):
        raise AssertionError("planned on what is no more")
    assert {"1": 0, "2": os.path.getsize(folder.manifest)} == {
        name: os.path.getsize(os.path.join(folder.generations, name)) for name in os.listdir(folder.generations)
    }


def test_manifest_that_was_published_and_never_named(tmp_path: Path) -> None:
    """Between publishing a manifest and giving it its name a planner may be killed: the next one goes on from it."""
    folder = Folder(tmp_path, "train")
    with planning(folder), editing(folder) as editor:
        editor.add_job(job(0))
    before = Path(folder.manifest).read_bytes()
    with planning(folder), editing(folder) as editor:
        editor.add_job(job(1))
    os.unlink(folder.manifest)
    Path(folder.manifest).write_bytes(before)
    with planning(folder), editing(folder) as editor:
        editor.add_job(job(2))
    with Manifest(folder) as manifest:
        assert [0, 1, 2] == manifest.ids()
        assert 3 == manifest.generation


def test_manifest_from_a_backup_can_be_planned_on(tmp_path: Path) -> None:
    """Where the newest manifest was damaged and an older one is put back, the next planning goes on from that one."""
    folder = Folder(tmp_path, "train")
    for number in range(3):
        with planning(folder), editing(folder) as editor:
            editor.add_job(job(number))
        if number == 0:
            backup = Path(folder.manifest).read_bytes()
    os.chmod(folder.manifest, 0o644)
    Path(folder.manifest).write_bytes(b"garbage" * 100)
    os.unlink(folder.manifest)
    Path(folder.manifest).write_bytes(backup)
    with planning(folder), editing(folder) as editor:
        editor.add_job(job(7))
    with Manifest(folder) as manifest:
        assert [0, 7] == manifest.ids()
        assert 4 == manifest.generation


def test_manifest_without_generation_is_read_and_written(tmp_path: Path) -> None:
    """An experiment that an earlier version has written has no generations, and gets the first one with a new job."""
    folder = Folder(tmp_path, "train")
    with planning(folder), editing(folder) as editor:
        editor.add_job(job(0))
    os.chmod(folder.manifest, 0o644)
    with closing(sqlite3.connect(folder.manifest)) as connection, connection:
        connection.execute("DELETE FROM meta WHERE key = 'generation'")
    os.unlink(os.path.join(folder.generations, "1"))
    os.rmdir(folder.generations)
    with Manifest(folder) as manifest:
        assert 0 == manifest.generation
    with planning(folder), editing(folder) as editor:
        editor.add_job(job(1))
    with Manifest(folder) as manifest:
        assert ([0, 1], 1) == (manifest.ids(), manifest.generation)


def test_planning_locks_no_database(tmp_path: Path) -> None:
    """SQLite takes no lock for the copy that is edited: not every file system has them."""
    folder = Folder(tmp_path, "train")
    os.makedirs(folder.path)
    with editing(folder) as editor:
        editor.add_job(job(0))
        editor.write()
        held = [line for line in Path("/proc/locks").read_text().splitlines() if f" {os.getpid()} " in line]
        assert [] == held
