"""What a planner leaves that is killed, or that the disk refuses: nothing that anybody has to mend."""

import errno
import json
import os
import resource
import signal
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from experiment_manager import Experiment
from experiment_manager.analysis.archive import archive
from experiment_manager.errors import FolderError
from experiment_manager.model.records import Attempt, JobId, State
from experiment_manager.scheduler.reconcile import reconciled
from experiment_manager.store.files import _booted_at, clear_leftovers_in, is_leftover, temporary_name
from experiment_manager.store.launches import clear_leftovers, create_launch, drivers, launch_numbers, settle
from experiment_manager.store.layout import Folder, planning
from experiment_manager.store.lock import left_by
from experiment_manager.store.processes import this_process
from experiment_manager.store.states import States
from tests.conftest import booted_at

A_DAY_S = 86_400


def hidden(path: str) -> list[str]:
    return sorted(
        os.path.relpath(os.path.join(place, name), path)
        for place, folders, files in os.walk(path)
        for name in (*folders, *files)
        if name.startswith(".") and name != ".planning.lock"
    )


def of_nobody(path: str) -> str:
    """A temporary name as a process has given it that is no more."""
    return temporary_name(path).replace(f"-{os.getpid()}-", "-4194305-")


def defined(place: Path, n_jobs: int = 1) -> Experiment:
    experiment = Experiment(["x"], "train", place)
    for x in range(n_jobs):
        experiment.add_job({"x": x}, {"x": x, "text": "x" * 100})
    return experiment


def test_next_planner_removes_what_surely_nobody_writes(tmp_path: Path) -> None:
    """What processes that are gone have left is removed wherever planners, jobs and launches write, and so is what is a
    day old; what another process may still write, and what people have put there, stays."""
    folder = Folder(tmp_path, "train")
    places = ["", "conf", "code", "tasks", "generations", "states", "launches", "launches/0001", "jobs/7"]
    for place in places:
        os.makedirs(folder.join(place), exist_ok=True)
        Path(of_nobody(folder.join(place, "x"))).touch()
    os.makedirs(of_nobody(folder.join("conf", "copy")) + "/main")
    kept = [temporary_name(folder.join("x")), folder.join("launches/0001/launch.json"), folder.join(".notes.tmp")]
    elsewhere = [folder.join("states", f".7.0.0badcafe-1-77-{n:016x}.tmp") for n in (1, 2)]
    for path in (*kept, *elsewhere):
        Path(path).touch()
    os.utime(elsewhere[1], (0, time.time() - 2 * A_DAY_S))
    with planning(folder):
        clear_leftovers(folder)
        clear_leftovers_in(folder.job(7))
    assert {os.path.relpath(path, folder.path) for path in (kept[0], kept[2], elsewhere[0])} == set(hidden(folder.path))
    assert os.path.exists(kept[1])


def test_a_file_that_is_made_again_clears_its_own_leftovers(tmp_path: Path) -> None:
    """What a killed `archive` or `report` has left beside its file goes when the file is made again; the leftovers of
    other files are not its business."""
    experiment = defined(tmp_path)
    experiment.save()
    for path, make in ((tmp_path / "a.tar.gz", experiment.archive), (tmp_path / "a.html", experiment.report)):
        mine, other = (Path(of_nobody(str(path.with_name(name)))) for name in (path.name, f"b{path.name}"))
        for left in (mine, other):
            left.touch()
        make(str(path))
        assert (False, True, True) == (mine.exists(), other.exists(), path.exists())


def test_settled_launches_keep_no_leftovers(tmp_path: Path) -> None:
    """What a killed process has left in the folder of a launch goes before the launch is settled, and nobody looks into
    it any more; of one that was settled before, with the note of who drove it, who is gone."""
    experiment = defined(tmp_path)
    experiment.save()
    launches, left = [], []
    for _ in range(2):
        launches.append(create_launch(experiment.folder, [], {}))
        left.append(Path(of_nobody(experiment.folder.join("launches", launches[-1].number, "multirun.yaml"))))
    left[0].touch()
    for launch in launches:
        settle(experiment.folder, launch.number)
    left[1].touch()
    assert [False, True] == [path.exists() for path in left]
    driver = left[1].with_name("driver.json")
    record = {key: value for key, value in json.loads(driver.read_text()).items() if key != "start"}
    driver.write_text(json.dumps({**record, "boot": "of another machine of this name, or before"}))
    with planning(experiment.folder):
        clear_leftovers(experiment.folder)
    assert str(driver) in [one.path for one in drivers(experiment.folder)]
    os.utime(driver, (booted_at() - 2, booted_at() - 2))
    assert str(driver) not in [one.path for one in drivers(experiment.folder)]
    with planning(experiment.folder):
        clear_leftovers(experiment.folder)
    assert not driver.exists()
    driver.write_text(json.dumps({**record, "pid": 4194305}))
    with planning(experiment.folder):
        clear_leftovers(experiment.folder)
    assert [False, False] == [path.exists() for path in (left[1], driver)]


def test_clean_removes_what_a_job_could_not(tmp_path: Path) -> None:
    """What an attempt has left half written in its job's folder, as where the disk let it remove nothing, goes with
    `clean`; what another process, or another host, may still write stays."""
    experiment = defined(tmp_path)
    experiment.save()
    place = experiment.folder.job(0)
    os.makedirs(place, exist_ok=True)
    left, kept = of_nobody(f"{place}/result.1.json"), temporary_name(f"{place}/result.1.json")
    elsewhere = [f"{place}/.attempt.1.json.0badcafe-1-77-{n:016x}.tmp" for n in (1, 2)]
    for path in (left, kept, *elsewhere):
        Path(path).write_text("{")
    os.utime(elsewhere[1], (0, time.time() - 2 * A_DAY_S))
    assert {left, elsewhere[1]} == {one.path for one in experiment.clean(dry_run=True).found}
    assert {left, elsewhere[1]} == {one.path for one in experiment.clean().found}
    assert {os.path.basename(path) for path in (kept, elsewhere[0])} == set(os.listdir(place))


def test_archive_of_a_folder_that_cannot_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be looked at is never taken for what is not there: no archive lacks the manifest or the jobs because
    a file system erred, and none replaces another."""
    experiment = defined(tmp_path)
    experiment.save()
    lstat, path = os.lstat, tmp_path / "x.tar.gz"
    monkeypatch.setenv("EXPERIMENT_MANAGER_PATIENCE_S", "0")
    for stale in (str(path), experiment.folder.manifest, experiment.folder.join("jobs")):

        def failing(name: Any, *, stale: str = stale, **given: Any) -> os.stat_result:
            if name == stale:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), name)
            return lstat(name, **given)

        with monkeypatch.context() as patched:
            patched.setattr(os, "lstat", failing)
            with pytest.raises(FolderError, match="cannot be read: Stale file handle"):
                experiment.archive(str(path))
        assert [] == [name for name in os.listdir(tmp_path) if "tar" in name]


def test_launch_without_a_record_is_none(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A folder that a launch never got its record in is no launch, and is removed once it is a day old, unless somebody
    keeps something in it."""
    experiment = defined(tmp_path)
    experiment.save()
    folder = experiment.folder
    for number in ("0001", "0002", "0003"):
        os.makedirs(folder.join("launches", number))
        Path(folder.join("launches", number, "packages.txt")).touch()
    Path(folder.join("launches/0002/mine.txt")).touch()
    for number in ("0001", "0002"):
        os.utime(folder.join("launches", number), (0, time.time() - 2 * A_DAY_S))
    assert [] == launch_numbers(folder)
    reconciled(folder)
    assert ("", "") == capfd.readouterr()
    with planning(folder):
        clear_leftovers(folder)
    assert ["0002", "0003"] == sorted(os.listdir(folder.launches))
    assert "0004" == create_launch(folder, [], {}).number


def test_launch_killed_at_any_moment(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A launch is there with all that belongs to it, or not at all, whenever its maker is killed; nobody complains of
    the rest, and the next planner removes it."""
    experiment = defined(tmp_path)
    experiment.save()
    folder = experiment.folder
    made: list[int] = []
    for moment in range(1, 40):
        if _killed_while_launching(folder, moment) == 0:
            break
        made.append(len(launch_numbers(folder)))
        for number in launch_numbers(folder):
            assert {"driver.json", "launch.json", "orders.sqlite", "packages.txt", "settled"} == set(
                os.listdir(folder.join("launches", number))
            )
        reconciled(folder)
    assert 5 < len(made) < 39
    assert 0 == made[0]
    assert 1 <= made[-1]
    assert ("", "") == capfd.readouterr()
    archive(folder, str(tmp_path / "x.tar.gz"), reconciled(folder))
    with tarfile.open(tmp_path / "x.tar.gz") as packed:
        assert [] == [name for name in packed.getnames() if "/." in name]
    assert all(is_leftover(os.path.basename(name), 0) for name in hidden(folder.launches) if "/" not in name)
    with planning(folder):
        clear_leftovers(folder)
    assert ([], []) == (hidden(folder.path), list(Path(folder.launches).glob("*/driver.json")))


def _killed_while_launching(folder: Folder, moment: int) -> int:
    """The signal that has ended a process at that moment of making a launch; 0 when it was done before."""
    pid = os.fork()
    if pid == 0:
        seen = 0

        def look(event: str, given: tuple[object, ...]) -> None:
            nonlocal seen
            is_ours = any(str(item).startswith(folder.launches) for item in given)
            if is_ours and event in ("open", "os.mkdir", "os.rename", "sqlite3.connect"):
                seen += 1
                if seen == moment:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            os.chdir(folder.parent)
            sys.addaudithook(look)
            create_launch(folder, [Attempt(JobId(0), 1, State.PENDING)], {})
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_what_runs_here_is_read_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """SLURM has nothing to say of a launch that ran here, so that no later look at the experiment opens its record; one
    that an earlier version has made is opened once."""
    folder = defined(tmp_path).folder
    for _ in "12":
        create_launch(folder, [], {})
    records = [folder.join("launches", number, "launch.json") for number in ("0001", "0002")]
    os.unlink(folder.join("launches/0002/settled"))
    reconciled(folder)
    for record in records:
        Path(record).write_text("garbage")
    reconciled(folder)
    assert ("", "") == capfd.readouterr()


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """Inside, no file can grow beyond that, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("n_bytes", [0, 100, 5000, 20_000])
@pytest.mark.parametrize("is_new", [True, False])
def test_refused_writes_are_one_sentence(tmp_path: Path, n_bytes: int, *, is_new: bool) -> None:
    """Where the disk takes no more, planning ends with a sentence that names the place, and leaves all as it was."""
    if not is_new:
        defined(tmp_path).save()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    experiment = defined(tmp_path, n_jobs=200)
    with largest_file(n_bytes), pytest.raises(FolderError) as refused:
        experiment.save()
    said = str(refused.value)
    assert said.startswith(f"{tmp_path}/train")
    assert " cannot be made or written: " in said
    assert "\n" not in said
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    experiment.save()
    assert 200 == len(Experiment.load("train", tmp_path).get_all_ids())


def test_who_looks_clears_what_killed_claims_have_left(tmp_path: Path) -> None:
    """No planner need come for the leftovers among the states: who finds out what became of attempts removes them, and
    who may only read, or does not look closely, leaves all as it is."""
    experiment = defined(tmp_path)
    experiment.save()
    folder = experiment.folder
    os.makedirs(folder.states)
    left, written = Path(of_nobody(folder.join("states", "7.0"))), Path(temporary_name(folder.join("states", "7.0")))
    left.touch()
    written.touch()
    States(Folder(tmp_path, "train", is_only_read=True)).table(reconcile=True)
    States(folder).table()
    assert (True, True) == (left.exists(), written.exists())
    States(folder).table(reconcile=True)
    assert (False, True) == (left.exists(), written.exists())


def test_who_only_looks_asks_no_file_system_for_its_clock(tmp_path: Path) -> None:
    """To ask it a file is made. Of what was written long before this machine was started nobody needs it, and who does
    does so once; a folder that is only read stays as it is, and what was written just before then may go on."""
    experiment = defined(tmp_path)
    experiment.save()
    folder, seen = experiment.folder, Folder(tmp_path, "train", is_only_read=True)
    records = []
    for _ in range(2):
        number = create_launch(folder, [Attempt(JobId(0), 1, State.PENDING)], {}).number
        records.append(Path(folder.join("launches", number, "driver.json")))
    os.makedirs(folder.states)
    os.makedirs(folder.job(0))
    records += [Path(folder.states, "0.1"), Path(f"{folder.locks[0]}.held")]
    record = {**this_process(), "boot": "another"}
    del record["start"]

    def looks(where: Folder, before_s: float) -> tuple[list[Any], list[Path]]:
        """What is known of processes that wrote their records so long before this boot; and where files were made."""
        _booted_at.clear()
        places = {path.parent for path in records}
        for path in records:
            path.write_text(json.dumps(record))
            os.utime(path, (booted_at() - before_s, booted_at() - before_s))
        Path(folder.states, "0.1.RUNNING").unlink(missing_ok=True)
        for place in places:
            os.utime(place, (1.0, 1.0))
        known = [drivers(where), States(where).table(reconcile=True).state(0), left_by(folder.locks[0])]
        return known, [place for place in places if place.stat().st_mtime != 1.0]

    for before_s in (3600.0, 2.0):
        known, touched = looks(seen, before_s)
        assert [] == touched
        assert (before_s == 3600.0) == (known[:2] == [[], State.LOST])
        assert (before_s == 3600.0) == ("which has ended" in known[2])
    known, touched = looks(folder, 2.0)
    assert [[], State.LOST] == known[:2]
    assert 1 == len({*touched} - {Path(folder.states)})  # into which it writes what it has found


def test_who_was_killed_while_it_claimed_keeps_no_space(tmp_path: Path) -> None:
    """An attempt that died between its anchor and its first state is LOST with a record like any other, and the space
    that it kept is free again."""
    experiment = defined(tmp_path)
    experiment.save()
    folder, states = experiment.folder, States(experiment.folder)
    os.makedirs(folder.job(0))
    states.claim(0, {"launch": None})
    os.unlink(folder.join("states", "0.1.RUNNING"))
    Path(folder.join("states", "0.1")).write_text(json.dumps({**this_process(), "started_ticks": 1}))
    assert 2 == len([name for name in os.listdir(folder.job(0)) if name.endswith(".reserve")])
    assert State.LOST is states.table(reconcile=True).state(0)
    assert ["attempt.1.json"] == os.listdir(folder.job(0))
    assert "its supervisor is gone" in json.loads(Path(folder.of_attempt(0, 1, "attempt")).read_text())["reason"]


def test_attempts_clear_what_earlier_ones_have_left(tmp_path: Path) -> None:
    """Leftovers in a job's directory go with its next attempt, and when it is found out that its supervisor was killed;
    a saved filter clears its own."""
    experiment = defined(tmp_path)
    experiment.save()
    folder, states = experiment.folder, States(experiment.folder)
    os.makedirs(folder.job(0))
    left = Path(of_nobody(folder.of_attempt(0, 1, "result")))
    left.touch()
    states.claim(0, {"launch": None})
    assert not left.exists()
    states.finish(0, 1, State.FAILED, {"reason": "bad"})
    left.touch()
    states.claim(0, {"launch": None})
    assert not left.exists()
    left.touch()
    states.lose(0, 2)
    assert not left.exists()
    filters = Path(of_nobody(folder.pass_filter))
    filters.touch()
    experiment.save_pass_filter([0])
    assert not filters.exists()
