"""Files that appear whole or not at all, under names that nobody can foresee."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from experiment_manager import Experiment
from experiment_manager.errors import FolderError, JobRefused
from experiment_manager.execution.in_process import attempting
from experiment_manager.model.records import Attempt, JobId, State
from experiment_manager.store import files
from experiment_manager.store.endings import ask_to_end, asked_to_end
from experiment_manager.store.files import is_leftover, remove_tree, sync_tree, temporary_name, write_json
from experiment_manager.store.launches import create_launch
from experiment_manager.store.layout import Folder
from experiment_manager.store.processes import this_process
from experiment_manager.store.states import States
from tests.conftest import Program, as_nobody, erring

A_DAY_S = 86_400


def test_no_temporary_name_comes_twice_or_is_too_long(tmp_path: Path) -> None:
    """Each temporary name is a new one, hidden, beside its file, and possible where the file's own name is."""
    path = str(tmp_path / ("ä" * 127))
    Path(path).touch()
    names = {temporary_name(path) for _ in range(100)}
    assert 100 == len(names)
    for name in names:
        assert tmp_path == Path(name).parent
        assert Path(name).name.startswith(".")
        Path(name).touch()


def test_no_link_is_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a link lies under a temporary name nevertheless, the file that it leads to stays as it is."""
    monkeypatch.setattr(files, "temporary_name", lambda path: f"{path}.tmp")
    (tmp_path / "thesis.tex").write_text("ten years of work")
    os.symlink(tmp_path / "thesis.tex", tmp_path / "x.json.tmp")
    with pytest.raises(FileExistsError):
        write_json(str(tmp_path / "x.json"), 1)
    assert "ten years of work" == (tmp_path / "thesis.tex").read_text()


def test_output_of_jobs_goes_through_no_link_and_waits_for_no_pipe(program: Program) -> None:
    """What others have laid under the names of a job's files is neither written through nor waited for: an attempt
    whose output has no file of its own ends FAILED, with the reason."""
    program.sweep("seed=1,2,3,4", "hydra/launcher=slurm_script")
    thesis = program.home / "thesis.tex"
    thesis.write_text("ten years of work")
    for job in range(4):
        (program.experiment / f"jobs/{job}").mkdir(parents=True)
    os.symlink(thesis, program.experiment / "jobs/0/stdout.1.log")
    os.symlink(thesis, program.experiment / "jobs/1/stderr.1.log")
    os.mkfifo(program.experiment / "jobs/2/stdout.1.log")
    os.symlink(thesis, program.experiment / "jobs/3/metrics.1.jsonl")
    for job, reason in enumerate(["Too many levels of symbolic links"] * 2 + ["No such device or address"]):
        done = program.tool("run", str(job))
        assert 1 == done.returncode
        assert f"FAILED: its output cannot be written: {reason}" in done.stderr
    assert 0 != program.tool("run", "3").returncode
    assert [f"{job}.1.FAILED" for job in range(4)] == program.states()
    assert "ten years of work" == thesis.read_text()


def test_leftovers_are_told_from_what_is_written() -> None:
    """A temporary file is left over when its process is gone, or nobody has touched it for a day; never one of ours."""
    mine = os.path.basename(temporary_name("result.1.json"))
    kernel, pid, token = mine.split(".")[-2].rsplit("-", 2)
    gone = mine.replace(f"-{pid}-", "-4194305-")  # no system counts that far
    elsewhere = gone.replace(kernel, f"{'0' * 8}-1")
    assert (False, True) == (is_leftover(mine, 0), is_leftover(gone, 0))
    assert (False, False) == (is_leftover(elsewhere, 0), is_leftover(elsewhere, A_DAY_S / 2))
    assert (True, True) == (is_leftover(elsewhere, 2 * A_DAY_S), is_leftover(mine, 2 * A_DAY_S))
    assert is_leftover(f"{gone}.npy", 0)
    assert is_leftover(".result.1.json.node7.example.org.4711.tmp", 2 * A_DAY_S)
    assert not any(is_leftover(name, 2 * A_DAY_S) for name in ("result.1.json", ".notes.tmp", ".hydra", f"x{gone}"))
    assert 16 == len(token)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a link that is another user's")
def test_links_of_others_are_not_followed_out_of_the_experiment(tmp_path: Path) -> None:
    """A job's folder may be a link that we made; one of another user's is refused, and nothing is written behind it."""
    folder = Folder(tmp_path, "train")
    (tmp_path / "private").mkdir()
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
    os.makedirs(folder.join("jobs"))
    os.symlink(tmp_path / "mine", folder.job(0))
    os.symlink(tmp_path / "private", folder.job(1))
    os.lchown(folder.job(1), 12345, 12345)
    with attempting(folder, 0):
        pass
    assert ["attempt.1.json"] == os.listdir(tmp_path / "mine")
    with pytest.raises(FolderError, match="another user's"), attempting(folder, 1):
        raise AssertionError("the job has begun")
    States(folder).amend(1, 1, State.LOST, {})
    assert [] == os.listdir(tmp_path / "private")


def test_json_that_cannot_be_encoded_leaves_what_was_there(tmp_path: Path) -> None:
    """A file is replaced whole or stays as it was, and no temporary file is left."""
    write_json(str(tmp_path / "x.json"), {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(str(tmp_path / "x.json"), {"a": float("nan")})
    assert {"a": 1} == json.loads((tmp_path / "x.json").read_text())
    assert ["x.json"] == os.listdir(tmp_path)


def test_what_the_umask_forbids_is_readable_by_nobody_else(program: Program) -> None:
    """With `umask 077` no file and no folder of an experiment, scripts and manifest among them, is open to others."""
    before = os.umask(0o077)
    try:
        for launcher in ("local_pool", "slurm_script"):
            done = program.sweep("seed=1,2", f"hydra/launcher={launcher}", "hydra.sweeper.rerun=always")
            assert done.returncode == 0, done.stderr
    finally:
        os.umask(before)
    modes = {path: path.stat().st_mode & 0o077 for path in program.experiment.rglob("*")}
    assert {} == {str(path): oct(mode) for path, mode in modes.items() if mode}
    assert os.access(program.experiment / "slurm_scripts.sh", os.X_OK)


def _planned_again(place: Path, umask: int) -> Experiment:
    """An experiment to which a job is added, and for which a launch is planned, by somebody with that umask."""
    before = os.umask(umask)
    try:
        is_there = (place / "train").exists()
        experiment = Experiment.load("train", place) if is_there else Experiment(["seed"], "train", place)
        experiment.add_job({"seed": len(experiment.get_all_ids())}, {})
        experiment.save()
        experiment.save_pass_filter(experiment.get_all_ids())
        create_launch(experiment.folder, [Attempt(JobId(0), 1, State.PENDING)], {"slurm": {}})
    finally:
        os.umask(before)
    return experiment


def _access(path: str) -> tuple[str, int]:
    about = os.stat(path)
    return oct(about.st_mode & 0o777), about.st_gid


def test_what_replaces_a_file_is_for_those_whom_that_was_for(tmp_path: Path) -> None:
    """Whatever the umask of a colleague: the manifest, the filter, and what else is replaced, keep their modes and
    their group; a new launch, and a request to end, are for the group of the folder that they lie in."""
    experiment = _planned_again(tmp_path, 0o002)
    folder, group = experiment.folder, os.getegid()
    if os.geteuid() == 0:
        group = 54321
        for path in (folder.path, *map(str, Path(folder.path).rglob("*"))):
            os.chown(path, -1, group)
    _planned_again(tmp_path, 0o077)
    os.makedirs(folder.states, mode=0o775, exist_ok=True)
    before = os.umask(0o077)
    try:
        ask_to_end(folder, 0, 1, record=this_process(), by="bob")
    finally:
        os.umask(before)
    expected = {"manifest.sqlite": 0o444, "generations/2": 0o444, "pass_filter.json": 0o664, "launches/0002": 0o770}
    expected |= {"launches/0002/launch.json": 0o660, "launches/0002/orders.sqlite": 0o660}
    assert {name: (oct(mode), group) for name, mode in expected.items()} == {
        name: _access(folder.join(name)) for name in expected
    }
    assert "0o640" == _access(folder.join("states", ".0.1.cancel"))[0]
    os.chmod(folder.pass_filter, 0o600)
    _planned_again(tmp_path, 0o002)
    assert "0o600" == _access(folder.pass_filter)[0]


@contextmanager
def _being(user: int, umask: int, *groups: int) -> Iterator[None]:
    """Inside, root is another user, with that umask, in these groups. Skips the test for anybody else."""
    if os.geteuid() != 0:
        pytest.skip("nobody but root can be another user")
    before = os.umask(umask), os.getegid(), os.getgroups()
    os.setgroups(groups)
    os.setegid(user)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(before[1])
        os.setgroups(before[2])
        os.umask(before[0])


def test_what_root_replaces_is_still_the_owners(reachable: Path) -> None:
    """Whoever made an experiment with `umask 077` reads, and changes, its manifest and its filter after root, as in a
    container, has saved it. Where another user replaces a file, whom nothing makes its owner, he takes away no more
    than his umask does."""
    place = reachable / "place"
    place.mkdir()
    os.chown(place, 4711, 4711)
    with _being(4711, 0o077):
        _planned_again(place, 0o077)
    _planned_again(place, 0o022)
    with _being(4711, 0o077):
        experiment = _planned_again(place, 0o077)
        assert [0, 1, 2] == experiment.get_all_ids()
        assert "seed" in Path(experiment.folder.manifest).read_bytes().decode(errors="ignore")
    assert ["0o400", "0o600"] == [
        _access(path)[0] for path in (experiment.folder.manifest, experiment.folder.pass_filter)
    ]
    place.chmod(0o777)
    with _being(4711, 0o077):
        write_json(f"{place}/x.json", 1)
    with _being(4712, 0o022):
        write_json(f"{place}/x.json", 2)
    with _being(4711, 0o077):
        assert "2" == Path(f"{place}/x.json").read_text().strip()


def test_a_file_in_the_place_of_a_link_is_as_the_umask_says(tmp_path: Path) -> None:
    """Not as the link, which everybody may do everything with: also a script, which can be run."""
    (tmp_path / "x.json").symlink_to("elsewhere")
    write_json(f"{tmp_path}/x.json", 1)
    (tmp_path / "script.sh").symlink_to("elsewhere")
    with files.appearing(f"{tmp_path}/script.sh") as temporary:
        Path(temporary).touch()
        files.make_executable(temporary)
    umask = os.umask(0)
    os.umask(umask)
    found = [_access(f"{tmp_path}/{name}")[0] for name in ("x.json", "script.sh")]
    assert [oct(0o666 & ~umask), oct(0o777 & ~umask & ~(umask & 0o444) >> 2)] == found


@pytest.mark.parametrize("mode", [0o755, 0o2770, 0o2777])
def test_a_new_file_is_as_the_umask_says(tmp_path: Path, mode: int) -> None:
    """Whatever the group of its folder may do there: results, reports, archives, scripts that people wrote for
    themselves; one that is shared is for that group, and for nobody else."""
    tmp_path.chmod(mode)
    before = os.umask(0o077)
    try:
        write_json(f"{tmp_path}/own.json", 1)
        write_json(f"{tmp_path}/shared.json", 1, is_shared=True)
    finally:
        os.umask(before)
    expected = "0o640" if mode == 0o755 else "0o660"
    assert ["0o600", expected] == [_access(f"{tmp_path}/{name}.json")[0] for name in ("own", "shared")]


def test_what_a_colleague_has_cancelled_is_known_to_the_group(reachable: Path) -> None:
    """With a `umask 077` of his, nobody else begins the job, a job that was done before stays so, and the folders that
    are made for the mark are the group's, too; where a mark cannot be read, nobody begins the job, either."""
    place = reachable / "train"
    place.mkdir()
    os.chown(place, 4711, 4700)
    place.chmod(0o2775)
    states, about = States(Folder(reachable, "train")), {"launches": ["0002"]}
    with _being(4712, 0o077, 4700):
        states.record_unbegun(7, 1, State.CANCELLED, {"reason": "cancelled by bob"}, about)
    with _being(4711, 0o002, 4700):
        assert (1, {"reason": "cancelled by bob"}) == states.cancelled_for(7, "0002", 1)
        assert "cancelled by bob" in (place / "jobs/7/attempt.1.json").read_text()
        with pytest.raises(JobRefused, match="was cancelled before launch 0002"):
            states.claim(7, {"launch": "0002"}, planned=1)
        assert 1 == states.claim(8, {"launch": "0001"})
        states.finish(8, 1, State.COMPLETED, {})
        assert 2 == states.claim(7, {"launch": "0003"}, planned=2)
        states.finish(7, 2, State.FAILED, {})
    with _being(4712, 0o077, 4700):
        for job_id, number in ((8, 2), (9, 1)):
            states.record_unbegun(job_id, number, State.CANCELLED, {"reason": "cancelled by bob"}, about)
            os.chmod(place / f"states/{job_id}.{number}", 0o600)
        states.record_unbegun(9, 2, State.CANCELLED, {"reason": "again"}, about)
    with _being(4711, 0o002, 4700):
        table = states.table()
        found = [table.state(8), states.settled(8).state, table.state(9)]
        assert [State.COMPLETED, State.COMPLETED, State.CANCELLED] == found
        assert (2, {"reason": "again"}) == states.cancelled_for(9, "0002", 1)
    os.unlink(place / "states/9.2.CANCELLED")
    os.unlink(place / "states/9.2")
    with _being(4711, 0o002, 4700):
        with pytest.raises(JobRefused, match=r"job 9 was cancelled \(attempt 1\), and why cannot be read"):
            states.claim(9, {"launch": "0002"}, planned=1)
        assert 2 == states.claim(9, {"launch": "0003"}, planned=2)


def test_a_request_that_cannot_be_read_is_told(reachable: Path) -> None:
    """It says where it lies, and why, and asks for nothing."""
    folder, heard = Folder(reachable, "train"), list[str]()
    os.makedirs(folder.states)
    ask_to_end(folder, 0, 1, record=this_process(), by="bob")
    assert "bob" in (asked_to_end(folder, 0, 1) or "")
    os.chmod(folder.join("states", ".0.1.cancel"), 0o000)
    with as_nobody():
        assert asked_to_end(folder, 0, 1, tell=heard.append) is None
    assert [f"{folder.states}/.0.1.cancel cannot be read: Permission denied"] == [text.split(";")[0] for text in heard]


def test_no_folder_is_passed_over_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a tree all is written to the disk for good, or removed, or there is an error: one that a file system shows
    again after a moment is looked at then."""
    deep = tmp_path / "tree/inner/deep"
    deep.mkdir(parents=True)
    (deep / "weights").touch()
    synced: list[str] = []
    monkeypatch.setattr(files, "sync", synced.append)
    monkeypatch.setenv("EXPERIMENT_MANAGER_PATIENCE_S", "0.5")
    for name in ("tree", "inner", "deep"):
        synced.clear()
        with monkeypatch.context() as patch:
            failed = erring(patch, name, most=1)
            sync_tree(str(tmp_path / "tree"))
            assert failed
        assert {str(place) for place in (deep / "weights", deep, *deep.parents[:2])} == {*synced}
        for act in (sync_tree, remove_tree):
            with monkeypatch.context() as patch:
                erring(patch, name, most=1_000_000)
                with pytest.raises(OSError, match="Stale file handle"):
                    act(str(tmp_path / "tree"))
    remove_tree(str(tmp_path / "tree"))
    assert [] == os.listdir(tmp_path)


def test_a_tree_is_removed_whose_folders_may_not_be_listed(reachable: Path) -> None:
    """By whoever may allow it, whatever they forbid; nothing behind a link goes with it."""
    reachable.chmod(0o777)
    with as_nobody():
        (reachable / "tree/inner/deep").mkdir(parents=True)
        (reachable / "kept").mkdir()
        (reachable / "tree/inner/deep/link").symlink_to(reachable / "kept")
        for place in ("tree/inner/deep", "tree/inner", "tree"):
            (reachable / place).chmod(0o000)
        remove_tree(str(reachable / "tree"))
        remove_tree(str(reachable / "tree"))  # which is not there
    assert ["kept"] == os.listdir(reachable)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to any group")
@pytest.mark.usefixtures("light")
def test_a_group_that_shares_a_folder_shares_what_is_made_in_it(program: Program) -> None:
    """Below a folder with the setgid bit, and with `umask 002`, all that commands and jobs make is of its group, which
    may write to every folder and read every file; scripts and manifest among them; nobody else may write."""
    group = 54321
    os.chown(program.home, 0, group)
    program.home.chmod(0o2775)
    for words in (["init", "-q"], ["add", "."]):  # whose files are copied
        subprocess.run(["git", *words], cwd=program.home, check=True)
    before = os.umask(0o002)
    try:
        for words in (["hydra/launcher=local_pool"], ["hydra/launcher=slurm_script", "hydra.launcher.snapshot=true"]):
            done = program.sweep("seed=1,2", *words, "hydra.sweeper.rerun=always")
            assert 0 == done.returncode, done.stderr
        for words in (["tag", "0", "best"], ["note", "0", "good"], ["hold", "1"], ["report"], ["work", "--where", "0"]):
            done = program.tool(*words)
            assert 0 == done.returncode, done.stderr
    finally:
        os.umask(before)
    found = [program.experiment.parent, *program.experiment.parent.rglob("*")]
    made = {path: path.stat() for path in found if not path.is_symlink()}
    assert 30 < len(made)
    assert [] == [path for path, about in made.items() if about.st_gid != group]
    code = program.experiment / "code"
    wrong = {
        str(path): oct(about.st_mode)
        for path, about in made.items()
        if about.st_mode & 0o002
        or about.st_mode & 0o040 == 0
        or (path.is_dir() and about.st_mode & 0o2070 != 0o2070 and not path.is_relative_to(code))
    }
    assert {} == wrong
