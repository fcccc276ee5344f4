"""Experiments are moved, cleaned, tagged and looked after: nothing is lost on the way, whenever that is interrupted."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_manager import Experiment, current_job
from experiment_manager.analysis.export.runs import Mark, run_of
from experiment_manager.cli.main import main
from experiment_manager.errors import LOOK_AT_THE_DISK, FilterError, FolderError, JobRefused, OptionsError, UnknownJob
from experiment_manager.model.records import Attempt, JobId, State
from experiment_manager.scheduler.arrays import arrays
from experiment_manager.scheduler.moving import move, moved_script
from experiment_manager.scheduler.slurm.options import as_mapping, make
from experiment_manager.scheduler.submission import place_in, records
from experiment_manager.store.files import is_temporary, temporary_name
from experiment_manager.store.launches import create_launch, driven, read_launch
from experiment_manager.store.layout import Folder, planning
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.orders import read_order
from experiment_manager.store.pass_filter import write_selection
from experiment_manager.store.processes import this_process
from experiment_manager.store.relocation import Move, relocate
from experiment_manager.store.states import States
from tests.conftest import Program, ProgramAfter, erring, files_below

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
    for new in (tmp_path / "renamed", elsewhere / ("long-" * 40), tmp_path / ("a/" + "n" * 200), elsewhere / "copied"):
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


def test_who_waited_while_it_was_moved_makes_nothing_anew(tmp_path: Path) -> None:
    """Whoever waits to plan an experiment that somebody else moves away is told so, and leaves nothing in the old
    place: no empty folder is moved on, and no job runs a second time there."""
    calls: list[Callable[[Experiment], object]] = [
        lambda experiment: experiment.move(tmp_path / "third"),
        lambda experiment: experiment.clean(),
        lambda experiment: experiment.run(lambda *_: 1, rerun="always"),
    ]
    for number, call in enumerate(calls):
        place = tmp_path / str(number)
        experiment = made(place)
        with planning(experiment.folder):
            ended = while_it_waits(partial(call, experiment), lambda: (place / "train").rename(place / "new"))  # noqa: B023
        assert "was moved away" in ended()
        assert {"new"} == {*os.listdir(place)}
    assert not (tmp_path / "third").exists()


def while_it_waits(call: Callable[[], object], act: Callable[[], object]) -> Callable[[], str]:
    """Acts as soon as a process of its own, which makes the call, has opened the lock of those who plan; returns what
    gives the error of the call."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        seen = list[int]()

        def look(event: str, arguments: tuple[object, ...]) -> None:
            if event == "open" and str(arguments[0]).endswith(".planning.lock") and not seen:
                seen.append(os.write(write, b"."))

        try:
            sys.addaudithook(look)
            call()
        except FolderError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    assert b"." == os.read(read, 1)
    act()

    def ended() -> str:
        with open(read, encoding="utf-8") as said:
            os.waitpid(pid, 0)
            return said.read()

    return ended


def test_a_pickled_runner_goes_along(tmp_path: Path) -> None:
    """A function that has run jobs of an experiment runs the rest of them where it is moved to."""
    experiment = made(tmp_path)
    assert (1,) == tuple(one.job_id for one in experiment.run(lambda *_: 7).ran)
    experiment.move(tmp_path / "new")
    done = experiment.run(rerun="always", where="1")
    assert [State.COMPLETED] == [one.state for one in done.ran]


@pytest.mark.hypothesis
@given(name=st.text("ab '\"$\\é,]-", min_size=1, max_size=6), as_words=st.sampled_from([shlex.join, json.dumps]))
def test_a_script_tells_its_own_place_or_none(name: str, as_words: Callable[[list[str]], str]) -> None:
    """Whatever an experiment is called, a script is never taken for one of another."""
    line = as_words(["run", "--experiment-path", f"/a {name}", "--experiment-name", name, "--launch", "1"])
    assert place_in(f"#!/bin/sh\n{line} &\n") in (f"/a {name}/{name}", None)
    line = as_words(["run", "--experiment-path", "/a", "--experiment-name", name, "--launch", "1"])
    assert place_in(line) in (f"/a/{name}", None)


def test_scripts_name_the_new_place() -> None:
    """Whole paths and words are exchanged, in comments, too; where a shell would need quotes nothing is touched."""
    old, new = Folder("/a", "b"), Folder("/c d", "e")
    text = "# `experiment-manager submit /a/b`.\n#SBATCH --output=/a/b/launches/0001/%A_%a.log\n"
    assert text.replace("/a/b", "/x/y") == moved_script(text, old, Folder("/x", "y"))
    assert text == moved_script(text, old, new)


# ---------------------------------------------------------------- cleaning


def tried_twice(place: Path) -> Experiment:
    """Job 0 went on from its checkpoint in attempt 2, job 1 began anew, job 2 had completed before it failed; each has
    a checkpoint, and what it printed."""
    experiment = Experiment(["seed"], "train", place)
    for seed in range(3):
        experiment.add_job({"seed": seed}, {"seed": seed})
    experiment.save()
    experiment.save_pass_filter(range(3))
    courses: list[list[tuple[int, ...]]] = [[(1, 2), (3, 4)], [(1, 2), (1, 2)], [(1, 2), ()]]
    for job_id, attempts in enumerate(courses):
        for number, steps in enumerate(attempts, start=1):
            with suppress(ValueError):
                experiment.run_id(job_id, partial(logs, steps))
            for stream in ("stdout", "stderr"):
                Path(experiment.folder.of_attempt(job_id, number, stream)).write_text("printed")
        own = Path(experiment.folder.job(job_id))
        (own / "model.pt").write_bytes(b"x" * 9000)
        (own / "steps/checkpoint-2").mkdir(parents=True)
        (own / "steps/checkpoint-2/weights").write_bytes(b"x" * 9000)
    return experiment


def logs(steps: Sequence[int], _id: int, variables: dict[str, Any], _: Any) -> int:
    for step in steps:
        current_job().log_metrics(step=step, loss=1 / step)
    if not steps:
        raise ValueError("told to fail")
    return int(variables["seed"]) * 10


def names_below(place: str) -> set[str]:
    return {str(path.relative_to(place)) for path in Path(place).rglob("*") if not path.is_dir()}


def told(experiment: Experiment) -> list[Any]:
    """What people read of an experiment."""
    metrics = experiment.metrics().to_csv(index=False)
    return [metrics, experiment.result_rows(), experiment.jobs(), experiment.status().counts]


def exported(experiment: Experiment) -> list[Mark | None]:
    """What tells whether a job was exported already as it is now."""
    folder, table = experiment.folder, experiment.states()
    return [run_of(folder, experiment.job(job_id), table, None).mark for job_id in range(3)]


_FREED: Final = {
    *("jobs/0/stdout.1.log", "jobs/0/stderr.1.log", "jobs/0/result.1.json"),
    *("jobs/1/stdout.1.log", "jobs/1/stderr.1.log", "jobs/1/result.1.json", "jobs/1/metrics.1.jsonl"),
}
"""Of `tried_twice`: the metrics of attempt 1 of job 0 are the beginning of its course, and job 2 was done with it."""


def test_files_of_earlier_attempts_go(tmp_path: Path) -> None:
    """Logs, results and metrics of attempts that nobody reads go; what is told of the jobs is the same, and each
    attempt still says how it ended."""
    experiment = tried_twice(tmp_path)
    before, names = told(experiment), names_below(experiment.folder.path)
    runs = exported(experiment)
    planned = experiment.clean(dry_run=True)
    assert names == names_below(experiment.folder.path)
    (row,) = planned.kinds
    assert ("attempts", 7, [0, 1]) == (row["kind"], row["files"], row["jobs"])
    assert row["bytes"] == planned.n_bytes == experiment.clean().n_bytes > 0
    assert (_FREED, set()) == (names - names_below(experiment.folder.path), names_below(experiment.folder.path) - names)
    assert (before, runs) == (told(experiment), exported(experiment))
    assert ["COMPLETED"] * 2 == [attempt["state"] for attempt in experiment.show(1)["attempts"]]
    assert () == experiment.clean().found


def test_checkpoints_go_by_pattern(tmp_path: Path) -> None:
    """Files, and folders, of jobs that are done and fit a pattern go; those of a job that failed only with its state,
    and none of ours by any pattern."""
    experiment = tried_twice(tmp_path)
    names = names_below(experiment.folder.path)
    done = experiment.clean(checkpoints=["*.pt", "steps/*"], kinds=["checkpoints"])
    assert [("checkpoints", 4, [0, 1])] == [(row["kind"], row["files"], row["jobs"]) for row in done.kinds]
    gone = {f"jobs/{job}/{name}" for job in (0, 1) for name in ("model.pt", "steps/checkpoint-2/weights")}
    assert gone == names - names_below(experiment.folder.path)
    assert () == experiment.clean("0", checkpoints=["*"], kinds=["checkpoints"]).found[1:]  # the folder that is empty
    done = experiment.clean(state="failed", checkpoints=["*.pt"])
    assert ["model.pt"] == [os.path.basename(one.path) for one in done.found]


def test_what_is_not_used_any_more_goes(tmp_path: Path) -> None:
    """A copy of the code that no job names, scripts and orders of a launch that has ended and is not the newest, and a
    report that is older than the states; their records stay, and so does what links lead to."""
    experiment = tried_twice(tmp_path)
    folder, kept = experiment.folder, tmp_path / "kept"
    kept.write_text("mine")
    copy = Path(folder.join("code", "0123"))
    copy.mkdir(parents=True)
    (copy / "train.py").write_text("")
    (copy / "data").symlink_to(kept)
    (copy / "sub").mkdir(mode=0o555)
    numbers = []
    for at in (1, 3, 1):
        launch = create_launch(folder, [Attempt(JobId(0), at, State.PENDING)], {})
        with driven(folder, launch):
            numbers.append(launch.number)
    Path(folder.report).write_text("<html>")
    os.utime(folder.report, (1, 1))
    assert {"attempts", "code", "launches", "report"} == {row["kind"] for row in experiment.clean(dry_run=True).kinds}
    done = experiment.clean(kinds=["code", "launches", "report"])
    assert {
        str(copy), folder.join("launches", numbers[0], "orders.sqlite"), folder.report
    } == {one.path for one in done.found}  # fmt: skip
    assert ([], "mine") == (os.listdir(folder.join("code")), kept.read_text())
    assert 1 == read_launch(folder, numbers[0]).record["jobs"].keys().__len__()
    order = read_order(folder, numbers[0], 0)
    assert order is not None
    assert 1 == order.attempt


def test_what_runs_or_lies_elsewhere_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing of a job that runs goes, nor any copy of the code meanwhile; the folder of a job that is a link is named,
    and nothing in it goes."""
    experiment = tried_twice(tmp_path)
    Path(experiment.folder.join("code", "0123")).mkdir(parents=True)
    States(experiment.folder).claim(0, {})
    Path(experiment.folder.job(1)).rename(tmp_path / "scratch")
    Path(experiment.folder.job(1)).symlink_to(tmp_path / "scratch")
    before = names_below(str(tmp_path))
    assert () == experiment.clean(checkpoints=["*"]).found
    assert f"{experiment.folder.job(1)} is a link to {tmp_path}/scratch" in capsys.readouterr().err
    assert before == names_below(str(tmp_path))
    with pytest.raises(JobRefused, match="jobs that are RUNNING have not ended"):
        experiment.clean(state="running")
    with pytest.raises(OptionsError, match="code is of the whole experiment: choose no jobs for it"):
        experiment.clean("0", kinds=["code"])
    with pytest.raises(OptionsError, match=r"say which, as --checkpoints '\*\.pt'"):
        experiment.clean(kinds=["checkpoints"])
    for pattern in ("", "/tmp/*", "../1/*", "steps/../../1/*"):
        with pytest.raises(OptionsError, match="fits nothing in a job's folder"):
            experiment.clean(checkpoints=[pattern])


@pytest.mark.parametrize("name", ["jobs", "code", "launches", "launches/0001"])
def test_nothing_behind_a_link_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Whichever folder of an experiment is a link, it is named, and what is there stays: it may be that of others."""
    experiment = tried_twice(tmp_path)
    folder = experiment.folder
    Path(folder.join("code", "0123")).mkdir(parents=True)
    for at in (1, 3):
        with driven(folder, create_launch(folder, [Attempt(JobId(0), at, State.PENDING)], {})):
            pass
    kind = {"jobs": "attempts"}.get(name, name.split("/")[0])
    assert experiment.clean(kinds=[kind], dry_run=True).found
    Path(folder.join(name)).rename(tmp_path / "elsewhere")
    Path(folder.join(name)).symlink_to(tmp_path / "elsewhere")
    before = names_below(str(tmp_path / "elsewhere"))
    assert () == experiment.clean(kinds=[kind]).found
    assert f"{folder.join(name)} is a link to {tmp_path}/elsewhere" in capsys.readouterr().err
    assert before == names_below(str(tmp_path / "elsewhere"))


def test_what_somebody_is_about_to_run_is_left_alone(tmp_path: Path) -> None:
    """While a process runs jobs of a launch one after the other, the experiment stays where it is, and what is not done
    of these jobs keeps its files, also between two jobs; not for a process that has ended."""
    experiment = tried_twice(tmp_path)
    folder, before = experiment.folder, names_below(str(tmp_path / "train/jobs"))
    launch = create_launch(folder, [Attempt(JobId(job_id), 3, State.PENDING) for job_id in (0, 2)], {})
    driver = Path(folder.join("launches", launch.number, "driver.json"))
    elsewhere = json.dumps({**this_process(), "host": "node017"})
    with driven(folder, launch):
        for who, way_out in ((driver.read_text(), ""), (elsewhere, f"if it has ended, remove {driver}")):
            driver.write_text(who)
            assert () == experiment.clean(state="failed", checkpoints=["*"]).found
            with pytest.raises(
                JobRefused, match=rf"process {os.getpid()} on .* runs the jobs of launch 0001.*{way_out}"
            ):
                experiment.move(tmp_path / "new")
        assert before == names_below(str(tmp_path / "train/jobs"))
        driver.write_text(json.dumps({**this_process(), "pid": 2**22 + 1, "started_ticks": 1}))
        assert experiment.clean(state="failed", checkpoints=["*"], dry_run=True).found
        assert experiment.move(tmp_path / "new")
        assert not (tmp_path / "new/launches/0001/driver.json").exists()


def test_what_a_script_is_about_to_run_is_left_alone(tmp_path: Path) -> None:
    """A job that failed, and that somebody is going to submit again, or has just submitted, keeps its checkpoints."""
    experiment = tried_twice(tmp_path)
    folder, checkpoints = experiment.folder, ["*.pt"]
    assert experiment.clean(state="failed", checkpoints=checkpoints, dry_run=True).found
    number = experiment.states().next_number(2)
    written = records(arrays([(make({"name": "x"}, where="test"), [2])]), "x", as_mapping)
    create_launch(folder, [Attempt(JobId(2), number, State.PENDING)], {"slurm": {"options": {}, "arrays": written}})
    assert () == experiment.clean(state="failed", checkpoints=checkpoints).found
    assert Path(folder.job(2), "model.pt").exists()
    States(folder).finish(2, States(folder).claim(2, {}), State.FAILED, {"reason": "again"})
    assert experiment.clean(state="failed", checkpoints=checkpoints).found


def test_an_experiment_in_another_one_is_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a job is a sweep itself, no pattern fits what holds its experiment, and while that runs, the outer one
    stays where it is."""
    experiment = tried_twice(tmp_path)
    inner = made(Path(experiment.folder.job(0), "steps"))
    (tmp_path / "train/jobs/0/steps/config.json").write_text("{}")
    before = names_below(inner.folder.path)
    experiment.clean("0", checkpoints=["*"])
    assert before == names_below(inner.folder.path)
    assert "jobs/0/steps holds an experiment" in capsys.readouterr().err
    attempt = States(inner.folder).claim(1, {})
    with pytest.raises(JobRefused, match="steps/train is not moved: job 1 has begun"):
        experiment.move(tmp_path / "new")
    States(inner.folder).finish(1, attempt, State.FAILED, {})
    assert str(tmp_path / "new") == experiment.move(tmp_path / "new")


@pytest.mark.parametrize("name", ["steps", "inner"])
def test_what_cannot_be_looked_at_is_left_alone(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that a server has forgotten for a moment is looked at again, and one that it goes on to forget may hold
    an experiment: it is named, and what can be looked at is cleaned."""
    experiment = tried_twice(tmp_path)
    steps = Path(experiment.folder.job(0), "steps")
    os.rename(made(steps).folder.path, steps / "inner")
    before = names_below(str(steps))
    for most, said in ((1, "jobs/0/steps holds an experiment"), (1_000_000, "cannot be read: Stale file handle")):
        monkeypatch.setenv("EXPERIMENT_MANAGER_PATIENCE_S", "0.5")
        with monkeypatch.context() as patch:
            failed = erring(patch, name, most=most)
            done = experiment.clean("0,1", checkpoints=["*"], kinds=["checkpoints"])
            assert failed
        assert before == names_below(str(steps))
        assert said in capsys.readouterr().err
        assert not any("jobs/0/steps" in one.path for one in done.found)
        assert most > 1 or {0, 1} == {one.job_id for one in done.found}


def test_what_is_freed_is_what_the_disk_gets(tmp_path: Path) -> None:
    """A file with several names counts once, and only where all of them go; a pattern may name a place as a shell
    writes it."""
    experiment = tried_twice(tmp_path)
    job = Path(experiment.folder.job(0))
    for name in ("a.ckpt", "b.ckpt"):
        (job / name).write_bytes(os.urandom(50_000))
        (job / name.replace("ckpt", "best.ckpt")).hardlink_to(job / name)
    (tmp_path / "kept").hardlink_to(job / "b.ckpt")
    before = experiment.disk_usage()
    done = experiment.clean("0", checkpoints=["./*.ckpt", "steps/"], kinds=["checkpoints"])
    b_bytes = (tmp_path / "kept").stat().st_blocks * 512
    assert (5, before - b_bytes) == (len(done.found), experiment.disk_usage() + done.n_bytes)
    assert [(done.n_bytes, 5)] == [(row["bytes"], row["files"]) for row in done.kinds]


def test_killed_while_cleaning(tmp_path: Path) -> None:
    """Whenever that is killed, all that is told of the jobs is the same, and the same call removes the rest."""
    experiment = tried_twice(tmp_path / "old")
    before, names = told(experiment), names_below(experiment.folder.path)
    freed = {*_FREED, *(f"jobs/{job_id}/steps/checkpoint-2/weights" for job_id in (0, 1))}
    clean = partial(experiment.clean, checkpoints=["steps"])
    (tmp_path / "old").rename(tmp_path / "made")
    for moment in range(1, 100):
        shutil.copytree(tmp_path / "made", tmp_path / "old", symlinks=True)
        was_killed = killed(moment, clean)
        assert before == told(experiment)
        clean()
        assert freed == names - names_below(experiment.folder.path)
        shutil.rmtree(tmp_path / "old")
        if not was_killed:
            break
    assert moment > 5


def test_cleaning_that_could_not_look_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a disk does not show what is in the folders of jobs, nothing is removed, and nobody says that nothing is to
    be."""
    experiment = made(tmp_path)
    monkeypatch.setenv("EXPERIMENT_MANAGER_PATIENCE_S", "0")
    with monkeypatch.context() as patch:
        erring(patch, "0", most=1_000_000)
        assert 3 == main(["clean", experiment.folder.path, "--dry-run"])
    said = capsys.readouterr()
    assert f"nothing is removed from {experiment.folder.path}\n" == said.out
    assert "Stale file handle" in said.err


def test_cleaning_asks(tmp_path: Path) -> None:
    """The command shows what it would remove, and does it only with --yes where it cannot ask."""
    experiment = tried_twice(tmp_path)
    program = Program(tmp_path)
    program.experiment = tmp_path / "train"
    done = program.tool("clean")
    assert (2, "error: nothing was removed; add --yes to do it\n") == (done.returncode, done.stderr)
    assert re.search(r"attempts +[\d.]+ kB +7 +0-1 ", done.stdout), done.stdout
    assert 7 == len(experiment.clean(dry_run=True).found)
    asked = program.told("clean", "--dry-run")
    assert [False, asked["bytes"]] == [asked["removed"], program.told("clean", "--yes")["bytes"]]
    assert f"nothing to remove in {tmp_path}/train\n" == program.tool("clean").stdout


def test_the_space_that_experiments_take(tmp_path: Path) -> None:
    """It is what `du` says, of each experiment below a folder, also where files have several names, and links lead
    out."""
    experiment, other = made(tmp_path / "a"), tried_twice(tmp_path / "b")
    (tmp_path / "big").write_bytes(b"x" * 100_000)
    (Path(other.folder.job(0)) / "data").symlink_to(tmp_path / "big")
    done = Program(tmp_path).python("-m", "experiment_manager", "list", str(tmp_path), "--du", "--json")
    told = {one["path"]: one["bytes"] for one in json.loads(done.stdout)}
    paths = [experiment.folder.path, other.folder.path]
    said = subprocess.run(["du", "-s", "--block-size=1", *paths], capture_output=True, text=True, check=True).stdout
    sizes = [int(line.split()[0]) for line in said.splitlines()]
    assert (
        dict(zip(paths, sizes, strict=True))
        == told
        == {one.folder.path: one.disk_usage() for one in (experiment, other)}
    )
    shown = Program(tmp_path).python("-m", "experiment_manager", "list", str(tmp_path), "--du").stdout
    assert 2 == len(re.findall(r" kB$", shown, re.MULTILINE)), shown


# ---------------------------------------------------------------- tags and notes


def test_tags_are_shown_and_asked_for(tmp_path: Path) -> None:
    """Jobs and experiments are tagged by ids and filters; each table and record shows that, filters choose by it, and
    the tags are files that anybody can list; what is taken away is shown nowhere."""
    program = Program(tmp_path)
    experiment, program.experiment = tried_twice(tmp_path), tmp_path / "train"
    plain = [program.tool(verb).stdout for verb in ("jobs", "results", "status")]
    assert "tagged baseline: jobs 0,2\n" == program.tool("tag", "0,2", "baseline").stdout
    assert [1] == experiment.tag("good", "v1.2", where="seed == 1")
    told = {"tags": ["paper"], "tagged": {"baseline": [0, 2], "good": [1], "v1.2": [1]}}
    assert told == program.told("tag", "paper")
    assert {"0.baseline", "1.good", "1.v1.2", "2.baseline", "experiment.paper"} == {*os.listdir(experiment.folder.tags)}
    assert [["baseline"], ["good", "v1.2"], ["baseline"]] == [row["tags"] for row in program.told("jobs")]
    assert [0, 2, 1] == [*experiment.get_ids("tag:baseline"), *experiment.get_ids(["0-2", "tag:good, v1.2"])]
    frame = experiment.results()
    assert ("tags", ["baseline", "good, v1.2", "baseline"]) == (frame.columns[3], list(frame["tags"]))
    assert "good, v1.2" in program.tool("results", "--where", "tag:good").stdout
    assert "tags: paper\n" in program.tool("status").stdout
    assert "tagged baseline: jobs 0,2\n" in program.tool("status").stdout
    assert "tags: good, v1.2\n" in program.tool("show", "1").stdout
    listed = ("-m", "experiment_manager", "list", str(tmp_path))
    assert [["paper"]] == [one["tags"] for one in json.loads(program.python(*listed, "--json").stdout)]
    assert "paper" in program.python(*listed).stdout
    assert "good, v1.2" in Path(experiment.report()).read_text()
    os.unlink(experiment.folder.report)
    experiment.tag("baseline", "good", "v1.2", where="0-2", remove=True)
    assert 0 == program.tool("tag", "paper", "--remove").returncode
    assert [] == os.listdir(experiment.folder.tags)
    assert plain == [program.tool(verb).stdout for verb in ("jobs", "results", "status")]


def test_notes_are_kept(tmp_path: Path) -> None:
    """Each note is a line below the others, of a job or of the experiment, until they are removed."""
    program = Program(tmp_path)
    experiment, program.experiment = tried_twice(tmp_path), tmp_path / "train"
    assert "nothing is written here\n" == program.tool("note", "1").stdout
    program.tool("note", "1", "diverged", "late")
    assert "diverged late\n3 GPUs" == experiment.note("3 GPUs", job_id=1)
    assert {"job": None, "note": "for the paper"} == program.told("note", "for the paper")
    assert "note: diverged late\nnote: 3 GPUs\n" in program.tool("show", "1").stdout
    assert "note: for the paper\n" in program.tool("status").stdout
    assert "for the paper" in Path(experiment.report()).read_text()
    assert "another" == experiment.note("another", job_id=1, remove=True)
    assert {"job": 1, "note": None} == program.told("note", "1", "--remove")
    with pytest.raises(UnknownJob):
        experiment.note("of nobody", job_id=7)


def test_a_note_is_about_all_jobs_that_are_named(tmp_path: Path) -> None:
    """Ids and ranges are read as `tag` reads them; where one is not there, nothing is written."""
    program = Program(tmp_path)
    experiment, program.experiment = tried_twice(tmp_path), tmp_path / "train"
    assert "job 0: late\njob 2: late\n" == program.tool("note", "0,2", "late").stdout
    assert ["late", None, "late"] == [experiment.note(job_id=job_id) for job_id in range(3)]
    assert [{"job": 0, "note": "late"}, {"job": 1, "note": None}] == program.told("note", "0-1")
    refused = program.tool("note", "0-99", "early")
    assert (2, "late") == (refused.returncode, experiment.note(job_id=0))
    assert "2-0" in program.tool("note", "2-0", "early").stderr
    assert "01-15 restarted\n" == program.tool("note", "01-15 restarted").stdout  # one word, which is no ids
    assert "01-15 restarted" == experiment.note()


def test_words_that_cannot_be_tags(tmp_path: Path) -> None:
    """What no file name may hold, and what would be taken for an id, is refused in a sentence; a filter names the tags
    there are."""
    experiment = tried_twice(tmp_path)
    for word in ("", "a/b", "-x", ".x", "7", "a b", "a,b", "a\nb", "x" * 101):
        with pytest.raises(
            OptionsError, match=r"cannot be a tag: it is the name of a file, so it begins with a letter"
        ):
            experiment.tag(word, where="0")
    experiment.tag("baseline", where="0")
    with pytest.raises(FilterError, match=r"no job has the tag 'baselin'; the tags are baseline"):
        experiment.get_ids("tag:baselin")
    assert ["0.baseline"] == os.listdir(experiment.folder.tags)


# ---------------------------------------------------------------- what is odd


def test_a_sound_experiment_has_no_findings(tmp_path: Path) -> None:
    """One whose jobs have ended, well or not, that was moved, cleaned and tagged, is sound: the exit status is 0."""
    program = Program(tmp_path)
    experiment, program.experiment = tried_twice(tmp_path / "before"), tmp_path / "train"
    experiment.move(program.experiment)
    experiment.clean()
    experiment.tag("good", where="0")
    done = program.tool("doctor")
    assert (0, f"nothing odd is found in {tmp_path}/train\n") == (done.returncode, done.stdout), done.stderr
    assert {"path": experiment.folder.path, "findings": []} == program.told("doctor")


def abouts(place: Path) -> dict[str, list[object]]:
    """What the system tells of all files, but for when they were read."""
    found = {str(path): path.lstat() for path in place.rglob("*")}
    return {path: [*about[:7], about.st_mtime_ns, about.st_ctime_ns] for path, about in found.items()}


def test_what_is_odd_is_named(tmp_path: Path) -> None:
    """Each thing that is wrong is a finding with a way out, whatever else is wrong; nothing is changed on the way."""
    experiment = tried_twice(tmp_path)
    folder = experiment.folder
    dead = {**this_process(), "pid": 2**22 + 1, "started_ticks": 1}
    lost = States(folder).claim(0, dead)
    for name in ("99.1", "99.1.COMPLETED", "notes.txt", ".1.1.cancel"):
        Path(folder.states, name).touch()
    left = temporary_name(folder.join("conf.json")).replace(f"-{os.getpid()}-", f"-{2**22 + 1}-")
    Path(left).touch()
    Path(folder.locks[1]).write_text(json.dumps({**dead, "host": "node017"}))
    Path(folder.job(2)).rename(tmp_path / "scratch")
    Path(folder.job(2)).symlink_to(tmp_path / "nowhere")
    write_selection(folder, [0, 77], None)
    shutil.copy(folder.manifest, folder.join("generations", "2"))
    Path(folder.moving).write_text(json.dumps({"from": folder.path, "to": "/away", "token": "0" * 12}))
    create_launch(folder, [Attempt(JobId(0), 1, State.PENDING)], {"time": time.time() + 60})
    Path(folder.manifest + "-wal").touch()
    os.utime(folder.launches, (time.time() + 100,) * 2)
    before = abouts(tmp_path)
    done = Program(tmp_path).python("-m", "experiment_manager", "doctor", folder.path, "--json")
    assert 1 == done.returncode, done.stderr
    assert before == abouts(tmp_path)
    found = json.loads(done.stdout)["findings"]
    said = "\n".join(f"{one['kind']}: {one['what']}" for one in found)
    for sentence in (
        "lost: job 0 is LOST",
        "states: there are states of job 99, which the manifest does not have",
        "states: names in states/ that mean nothing to us: notes.txt",
        f"leftovers: killed processes have left {os.path.basename(left)}, and 1 more",
        "lock: process 4194305 on node017, which cannot be asked from here, holds .planning.lock",
        f"links: the folder of job 2 is a link to what is not there: {tmp_path}/nowhere",
        "filter: the pass filter lets job 77 pass",
        "manifest: generations/2",
        f"move: a move from {folder.path} to /away was interrupted",
        "clock: the clock of ",
        "clock: files were written ",
        "manifest: manifest.sqlite-wal lies beside the manifest",
    ):
        assert sentence in said, said
    assert [[0]] == [one["jobs"] for one in found if one["kind"] == "lost"]
    assert "results" not in {one["kind"] for one in found}  # of job 2 nobody knows that
    assert all(one["way_out"] for one in found)
    assert State.RUNNING is States(folder).state(0, lost)
    assert "Finding(lost: job 0 is LOST" in str(experiment.doctor())


def test_results_that_somebody_has_removed_are_named(tmp_path: Path) -> None:
    """A job that has completed, and whose folder or result was deleted, is named by `doctor`, and by a line of
    `results` and of `status`, with the way out; where all folders are behind a link to nothing, nobody says that they
    are gone."""
    program = Program(tmp_path)
    experiment, program.experiment = tried_twice(tmp_path), tmp_path / "train"
    folder = experiment.folder
    shutil.rmtree(folder.job(0))
    Path(folder.of_attempt(1, 2, "result")).unlink()
    found = {tuple(one["jobs"]): one for one in json.loads(program.tool("doctor", "--json").stdout)["findings"]}
    assert {(0,), (1,)} == set(found)
    assert "job 0 has completed, and has no result: the folder of it in jobs/ was removed" == found[0,]["what"]
    assert "job 1 has completed, and has no result: result.2.json was removed, or never left" == found[1,]["what"]
    assert f"or `experiment-manager run {folder.path} 1` runs it again" in found[1,]["way_out"]
    assert (
        f"its result with it; `experiment-manager run {folder.path} 0` runs it again" in program.tool("status").stdout
    )
    assert [[0]] == [one["jobs"] for one in program.told("status")["warnings"]]
    run = f"`experiment-manager run {folder.path} 0` runs the first one again (jobs 0-1)"
    line = f"2 jobs have completed, and have no result: it was removed, or never left; {run}"
    assert 1 == program.tool("results").stderr.count(line)
    end = Path(folder.of_attempt(1, 2, "attempt"))
    record = json.loads(end.read_text())
    assert record.pop("has_result")
    end.write_text(json.dumps(record))  # of a version that does not tell, whose jobs may have had none
    assert [[0]] == [list(one.jobs) for one in experiment.doctor()]
    end.unlink()
    assert [[0], [1]] == [list(one.jobs) for one in experiment.doctor()]
    os.rename(folder.join("jobs"), tmp_path / "jobs")
    os.symlink(tmp_path / "away", folder.join("jobs"))
    for verb in ("status", "doctor", "results"):
        said = program.tool(verb)
        assert ("train/jobs is a link to what is not there" in said.stderr) == (verb != "results")
        assert "no result" not in said.stdout + said.stderr
        assert "without a folder" not in said.stdout


@pytest.mark.xdist_group("swept")  # what is prepared for several tests is prepared once
def test_damage_is_a_finding(program_after: ProgramAfter) -> None:
    """A manifest that is damaged, and frozen files that are gone, are named, and what else can be told, too."""
    program = program_after("seed=1,2")
    shutil.rmtree(program.experiment / "conf")
    Path(program.experiment / "states/.7.1.cancel").touch()
    done = program.tool("doctor")
    assert (1, True) == (done.returncode, "copies: conf/" in done.stdout), done.stdout
    assert "from which jobs 0-1 run\n" in done.stdout
    manifest = program.experiment / "manifest.sqlite"
    whole = manifest.read_bytes()
    manifest.chmod(0o600)
    manifest.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    done = program.tool("doctor")
    assert (1, "") == (done.returncode, done.stderr)
    assert re.search(r"^manifest: .*is damaged|^unreadable: .*is damaged", done.stdout, re.MULTILINE), done.stdout
    assert "leftovers: killed processes have left states/.7.1.cancel\n" in done.stdout
    assert 2 == program.python("-m", "experiment_manager", "doctor", str(program.home)).returncode


@pytest.mark.xdist_group("swept")
def test_what_cannot_be_looked_at_is_not_told_as_gone(
    program_after: ProgramAfter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a copy that jobs run from, a folder of a job that is a link, and whatever else a disk does not show, nobody is
    told to restore, to lay anew or to remove it, but to look at the disk; the rest is examined."""
    experiment = Experiment.at(program_after("seed=1,2").experiment)
    folder = experiment.folder
    (copy,) = {path for path in os.listdir(folder.join("conf")) if path[0] != "."}
    scratch = Path(folder.parent, "scratch")
    scratch.mkdir()
    for job_id, at in ((0, scratch / "0"), (1, scratch / "nowhere")):
        shutil.rmtree(folder.job(JobId(job_id)))
        os.symlink(at, folder.job(JobId(job_id)))
    (scratch / "0").mkdir()
    broken = f"the folder of job 1 is a link to what is not there: {scratch}/nowhere"
    link = f"the folder of job 0 is a link to what cannot be looked at (Stale file handle): {scratch}/0"
    monkeypatch.setenv("EXPERIMENT_MANAGER_PATIENCE_S", "0.5")
    for name, unseen in (
        ("main", f"{folder.join('conf', copy, 'main')} cannot be read: Stale file handle"),
        ("0", link),
        ("manifest.sqlite-wal", f"{folder.manifest}-wal cannot be read: Stale file handle"),
    ):
        for most in (1, 1_000_000):
            with monkeypatch.context() as patch:
                failed = erring(patch, name, most=most)
                found = experiment.doctor()
            assert failed
            assert [broken] == [one.what for one in found if "not there" in one.what]
            at_the_disk = [one.what for one in found if one.way_out == LOOK_AT_THE_DISK]
            assert (most > 1, most > 1) == (unseen in at_the_disk, bool(at_the_disk))
            assert len(set(at_the_disk)) == len(at_the_disk)


# ---------------------------------------------------------------- a mistyped folder


def test_a_mistyped_folder_suggests_the_nearest(tmp_path: Path) -> None:
    """Every command that is given no experiment names the one that was probably meant, as one would type it; where none
    is near, it says how one comes to be."""
    for name in ("train", "search"):
        experiment = Experiment(["seed"], name, tmp_path / "experiments")
        experiment.add_job({"seed": 1}, {})
        experiment.save()
    (tmp_path / "alone").mkdir()
    shutil.copytree(tmp_path / "experiments/train", tmp_path / "alone/train")
    for verb, typed, meant in (
        ("status", "experiments/tran", "experiments/train"),
        ("jobs", "experiment/serch", "experiments/search"),
        ("doctor", "experiments/train/states", "experiments/train"),
        ("results", "alone", "alone/train"),
        ("show", "search", "experiments/search"),
        ("run", "experiments/trian", "experiments/train"),
    ):
        done = Program(tmp_path).python(
            "-m", "experiment_manager", verb, typed, *(["0"] if verb in ("run", "show") else [])
        )
        said = f"error: {tmp_path}/{typed} is no experiment: it has no manifest.sqlite; did you mean {meant}? ("
        assert (2, True) == (done.returncode, done.stderr.startswith(said)), done.stderr
    for typed in ("experiments", "experiments/base", "results/other"):
        with pytest.raises(FolderError, match="define one with a sweep"):
            Experiment.at(tmp_path / typed)
