"""What is damaged, foreign or not ours to read is named and left out; the rest is shown, no command falls over it."""

import json
import math
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiment_manager import Experiment
from experiment_manager.cli.main import main
from experiment_manager.errors import DamagedManifest, UnreadableLaunch
from experiment_manager.experiment import find_experiments
from experiment_manager.model.records import State
from experiment_manager.store import manifest, orders
from experiment_manager.store.documents import (
    DIGITS,
    MOST_IDS,
    MOST_TABLE_BYTES,
    NAME,
    NUMBERED,
    PLAN,
    TASK,
    Kind,
    are_of_ids,
)
from experiment_manager.store.layout import Folder
from experiment_manager.store.metrics import last_values, read_metrics
from experiment_manager.store.results import read_result, write_result
from experiment_manager.store.states import States
from tests.conftest import as_nobody, clean_env

FIRST = '{"step": 1, "time": 5.0, "values": {"loss": 0.5, "note": "a\\nb"}}\n'
LAST = '{"step": 2, "time": 6.0, "values": {"loss": {"$float": "nan"}, "best": 3}}\n'
HALF = '{"step": 3, "time": 7.0, "values": {"lo'


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An experiment of one job, whose directory is there."""
    experiment = Experiment(["seed"], "it", tmp_path)
    experiment.add_job({"seed": 1}, {})
    experiment.save()
    (tmp_path / "it/jobs/0").mkdir(parents=True)
    return experiment.folder


# ---------------------------------------------------------------- metrics


@pytest.mark.parametrize(
    ("garbage", "said"),
    [
        ("", []),
        ("rubbish\n", ["line 2 of "]),
        ("\0\udcff\udcfe\n[1]\n", ["2 lines, the first of them line 2, of "]),
        ('{"step": 1, "ti\n', ["line 2 of "]),
        ('{"step": 1,\n', ["line 2 of "]),
        ('{"step": 1, "time": 1, "values": [["loss", 9]]}\n', ["line 2 of "]),
        ('{"step": 1, "time": 1, "values": {"$tuple": 9}}\n', ["line 2 of "]),
        ('{"values": {"loss": 9}}\n', ["line 2 of "]),
        ("[" * 100_000 + "\n", ["line 2 of "]),
        ("x" * (17 << 20) + "\n", ["line 2 of "]),
    ],
    ids=range(10),
)
def test_lines_that_are_no_metrics(folder: Folder, garbage: str, said: list[str]) -> None:
    """They are left out and named, a half-written last line is left out, and every other line is read."""
    path = Path(folder.of_attempt(0, 1, "metrics"))
    path.write_bytes((FIRST + garbage + LAST + HALF).encode(errors="surrogateescape"))
    told: list[str] = []
    first, last = read_metrics(folder, 0, 1, told.append)
    assert (1, 5.0, {"loss": 0.5, "note": "a\nb"}) == first
    assert (2, 3) == (last.step, last.values["best"])
    assert math.isnan(last.values["loss"])
    assert [f"{each}{path}: not what log_metrics writes" for each in said] == told
    assert "a\nb" == last_values(folder, 0, 1)["note"]


def test_metrics_in_blocks(folder: Folder) -> None:
    """However long the file is: every line is read once, and the number of a bad one is that in the file."""
    path = Path(folder.of_attempt(0, 1, "metrics"))
    lines = [f'{{"step": {step}, "time": 0, "values": {{"loss": {step}}}}}\n' for step in range(20_000)]
    lines[15_000] = "rubbish\n"
    path.write_text("".join(lines))
    told: list[str] = []
    steps = [metric.step for metric in read_metrics(folder, 0, 1, told.append)]
    assert [step for step in range(20_000) if step != 15_000] == steps
    assert [f"line 15001 of {path}: not what log_metrics writes"] == told
    assert {"loss": 19_999} == last_values(folder, 0, 1)


def test_metrics_with_holes(folder: Folder) -> None:
    """What no disk holds is not read, however long a file says that it is; what comes after it is."""
    path = Path(folder.of_attempt(0, 1, "metrics"))
    with path.open("wb") as file:
        file.write(FIRST.encode())
        file.seek(200 << 30)
        file.write(f"\n{LAST}".encode())
        file.truncate(400 << 30)
    told: list[str] = []
    assert [1, 2] == [metric.step for metric in read_metrics(folder, 0, 1, told.append)]
    assert [f"line 2 of {path}: not what log_metrics writes"] == told


def test_metrics_that_cannot_be_opened(folder: Folder) -> None:
    """They are as good as none, and their file is named."""
    path = Path(folder.of_attempt(0, 1, "metrics"))
    path.mkdir()
    told: list[str] = []
    assert {} == last_values(folder, 0, 1, told.append)
    assert [f"{path} cannot be read: Is a directory"] == told


def test_nan_and_infinity_as_json_has_them_not(folder: Folder) -> None:
    """What other programs write for them is read."""
    line = '{"step": 1, "time": 5.0, "values": {"loss": NaN, "best": -Infinity}}\n'
    Path(folder.of_attempt(0, 1, "metrics")).write_text(line)
    assert {"loss": "nan", "best": "-inf"} == {name: repr(value) for name, value in last_values(folder, 0, 1).items()}


# ---------------------------------------------------------------- jobs


@pytest.fixture
def ended(folder: Folder) -> Folder:
    """The job has failed as attempt 1 and completed as attempt 2, with results, logs and metrics."""
    states = States(folder)
    for number, state in ((1, State.FAILED), (2, State.COMPLETED)):
        states.claim(0, {"launch": None})
        write_result(folder, 0, number, {"score": 1.5})
        Path(folder.of_attempt(0, number, "stdout")).write_text("said\n")
        Path(folder.of_attempt(0, number, "metrics")).write_text(FIRST)
        states.finish(0, number, state, {"reason": "bad", "end": 9e9})
    return folder


VERBS = (
    ["status"], ["status", "--all"], ["status", "--json"], ["results"], ["results", "--json"], ["jobs"], ["show", "0"],
    ["diff", "0", "0"], ["report"], ["results", "--missing"],
)  # fmt: skip


def only(partial: list[int]) -> list[int]:
    """The exit status of each verb, when those at these places leave something out."""
    return [3 if place in partial else 0 for place in range(len(VERBS))]


def endless(path: str) -> None:
    """What never ends is there."""
    os.symlink("/dev/zero", path)


def statuses(folder: Folder) -> list[int]:
    """The exit status of each verb; a traceback would fail the test."""
    return [main([verb, folder.path, *rest]) for verb, *rest in VERBS]


@pytest.mark.parametrize(
    ("kind", "partial"),
    [("result", [3, 4, 8]), ("metrics", [1, 3, 4, 8]), ("attempt", [1, 6, 8])],
    ids=["result", "metrics", "attempt"],
)
@pytest.mark.parametrize(
    ("instead", "why"),
    [(os.mkdir, "Is a directory"), (os.mkfifo, "Not a regular file"), (endless, "A link, which is not followed")],
)
def test_something_else_in_place_of_a_file(
    ended: Folder,
    kind: str,
    partial: list[int],
    instead: Callable[[str], None],
    why: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is named by those who need it, who end with 3 and wait for nothing; everything else is shown."""
    path = ended.of_attempt(0, 2, kind)
    os.unlink(path)
    instead(path)
    assert only(partial) == statuses(ended)
    said = capsys.readouterr()
    assert f"skipped: {path} cannot be read: {why}\n" in said.err
    assert "COMPLETED" in said.out


@pytest.mark.parametrize("content", ["", '{"st', "[1]", "\0\1", "[" * 100_000])
def test_damaged_records(ended: Folder, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is in the files of an attempt, each is named and the others are shown."""
    paths = [ended.of_attempt(0, 2, kind) for kind in ("result", "attempt")]
    for path in (*paths, os.path.join(ended.states, "0.1")):
        Path(path).write_text(content)
    assert only([1, 3, 4, 6, 8]) == statuses(ended)
    said = capsys.readouterr().err
    assert [True, True] == [f"skipped: {path} cannot be read: " in said for path in paths]


def test_records_with_text_for_numbers(ended: Folder) -> None:
    """A time that is none counts as not known, and its file is named."""
    Path(ended.of_attempt(0, 2, "attempt")).write_text('{"end": "soon", "peak_memory_bytes": [], "reason": 3}')
    Path(ended.states, "0.2").write_text('{"start": "now", "host": 3, "launch": 5}')
    assert only([1, 6, 7, 8]) == statuses(ended)
    os.rename(Path(ended.states, "0.2.COMPLETED"), Path(ended.states, "0.2.CANCELLED"))
    assert 3 == main(["status", ended.path, "--all"])


def test_a_log_that_cannot_be_read(ended: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """The one thing that was asked for is not there to be shown: exit status 2, and why."""
    path = Path(ended.of_attempt(0, 2, "stdout"))
    path.unlink()
    path.mkdir()
    assert 2 == main(["logs", ended.path, "0"])
    assert f"error: {path} cannot be read: Is a directory\n" == capsys.readouterr().err


def test_foreign_names_in_jobs(ended: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """`status` names what lies in jobs/ and states/ and is not ours."""
    for name in ("states/notes.txt", "jobs/old", "jobs/.hidden"):
        Path(ended.join(name)).touch()
    assert 0 == main(["status", ended.path])
    assert f"skipped in {ended.path}, not ours: states/notes.txt, jobs/old\n" == capsys.readouterr().err


def test_launches_that_are_damaged(ended: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """They are named, and the rest is shown."""
    for number, content in (("0001", '{"ti'), ("0002", "[]"), ("0003", "{}")):
        os.makedirs(ended.join("launches", number))
        Path(ended.join("launches", number, "launch.json")).write_text(content)
    assert [3] * len(VERBS) == statuses(ended)
    said = capsys.readouterr().err
    for words in ("0001/launch.json cannot be read: ", "0002/launch.json is damaged", "0003/launch.json is damaged"):
        assert words in said


def test_what_others_may_not_read(ended: Folder) -> None:
    """Files without permission are named and skipped; without the states nothing is known, and that is said."""

    def said(verb: str, *rest: str) -> tuple[int, str]:
        mere = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []
        command = [*mere, sys.executable, "-m", "experiment_manager", verb, *rest]
        done = subprocess.run(command, env=clean_env(), capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stderr

    result, anchor = ended.of_attempt(0, 2, "result"), os.path.join(ended.states, "0.2")
    for path in (result, anchor, ended.of_attempt(0, 1, "attempt")):
        os.chmod(path, 0)
    assert (3, f"skipped: {result} cannot be read: Permission denied\n") == said("results", ended.path)
    named = [
        f"skipped: {path} cannot be read: Permission denied\n" for path in (ended.of_attempt(0, 1, "attempt"), anchor)
    ]
    assert (3, "".join(named)) == said("show", ended.path, "0")
    status, error = said("archive", ended.path, "--out", f"{ended.parent}/it.tar.gz")
    skips = [f"skipped: {path} cannot be read: Permission denied\n" in error for path in (result, anchor)]
    assert (3, [True, True]) == (status, skips)
    os.chmod(ended.states, 0)
    expected = f"{ended.states} cannot be read: Permission denied\n"
    assert [(2, f"error: {expected}")] * 2 == [said("status", ended.path), said("logs", ended.path, "0")]
    assert (3, f"skipped: {expected}") == said("list", ended.parent)
    os.chmod(ended.states, 0o755)
    os.chmod(ended.manifest, 0)
    status, error = said("list", ended.parent)
    assert (3, True) == (status, f"skipped: {ended.manifest} cannot be read: " in error)


# ---------------------------------------------------------------- what is asked for


def test_parquet_where_it_cannot_be_written(ended: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder, or a folder that is not there, is said in a sentence."""
    for out in (ended.path, ended.join("nowhere", "x.parquet")):
        assert 2 == main(["results", ended.path, "--out", out])
        assert f"error: {out} cannot be made or written: " in capsys.readouterr().err


def test_aggregates_without_groups(ended: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """They are refused, with the variables to group by."""
    assert 2 == main(["results", ended.path, "--aggregate", "mean"])
    expected = "error: --aggregate is for --group-by, with names of variables; there are seed\n"
    assert expected == capsys.readouterr().err


def test_variables_that_are_called_as_columns(tmp_path: Path) -> None:
    """In `metrics()` a variable gives way to a column of that name."""
    experiment = Experiment(["step", "seed"], "it", tmp_path)
    experiment.add_job({"step": 7, "seed": 8}, {})
    experiment.save()
    States(experiment.folder).claim(0, {})
    os.makedirs(experiment.folder.job(0))
    Path(experiment.folder.of_attempt(0, 1, "metrics")).write_text(FIRST)
    first, _ = experiment.metrics().to_dict("records")
    expected = {"job": 0, "variables.step": 7, "seed": 8, "attempt": 1, "step": 1, "time": 5.0, "metric": "loss"}
    assert {**expected, "value": 0.5} == first


@pytest.mark.parametrize("rest", [[], ["--json"]])
def test_a_reader_that_has_had_enough(ended: Folder, rest: list[str]) -> None:
    """A pipe that is closed early is silent, however little there was to say."""
    command = [sys.executable, "-m", "experiment_manager", "status", ended.path, *rest]
    reading, writing = os.pipe()
    os.close(reading)
    env = {name: value for name, value in clean_env().items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, env=env, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writing)
    assert "" == done.stderr


def test_a_working_directory_that_was_removed(tmp_path: Path) -> None:
    """It is said in a sentence."""
    (tmp_path / "gone").mkdir()
    line = f"cd {tmp_path}/gone && rmdir {tmp_path}/gone && exec {sys.executable} -P -m experiment_manager status x"
    done = subprocess.run(["sh", "-c", line], env=clean_env(), capture_output=True, text=True, timeout=60, check=False)
    assert (2, "error: the working directory was removed; cd to one that is there") == (
        done.returncode,
        done.stderr.splitlines()[-1],
    )


@pytest.mark.parametrize(
    "body", ["raise SystemExit(0)", "raise RuntimeError('boom')", "lr = 1", "def lr(v): raise SystemExit"]
)
def test_a_mistyped_name_runs_no_script(
    ended: Folder, body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`train.lr` that is no variable is a sentence, whatever train.py would do."""
    (tmp_path / "mistyped.py").write_text(f"{body}\n")
    monkeypatch.chdir(tmp_path)
    assert 2 == main(["results", ended.path, "--where", "mistyped.lr"])
    assert "the filter 'mistyped.lr'" in capsys.readouterr().err.replace("filter mistyped.lr", "filter 'mistyped.lr'")
    sys.modules.pop("mistyped", None)


def test_ids_that_no_experiment_can_have(ended: Folder) -> None:
    """A range of a hundred thousand million ids, typed or in a record, is refused in a sentence; it is never written
    out, for which two gigabytes would not do."""
    os.makedirs(ended.join("launches", "0001"))
    arrays = '[{"name": "a", "script": "s", "jobs": "0-99999999999", "pack": 1, "indexed": "job", "options": {}}]'
    record = f'{{"slurm": {{"arrays": {arrays}}}, "user": "x", "time": 1, "jobs": {{"1": "0-99999999999"}}}}'
    Path(ended.join("launches", "0001", "launch.json")).write_text(record)
    bomb, folder = "0-99999999999", repr(ended.path)
    code = f"""
from experiment_manager import Experiment
from experiment_manager.cli.main import main
calls = [("show", "{bomb}"), ("logs", "{bomb}"), ("run", "{bomb}"), ("cancel", "{bomb}", "--yes"), ("filter", "{bomb}"),
         ("resubmit", "{bomb}", "--yes"), ("results", "--where", "{bomb}"), ("status",), ("jobs",)]
print([main([verb, {folder}, *rest]) for verb, *rest in calls])
try:
    Experiment.at({folder}).get_ids("{bomb}")
except ValueError as error:
    print(error)
"""
    command = ["bash", "-c", 'ulimit -v 2000000; exec "$@"', "-", sys.executable, "-c", code]
    done = subprocess.run(command, env=clean_env(), capture_output=True, text=True, check=False, timeout=60)
    assert 0 == done.returncode, done.stderr
    assert "Traceback" not in done.stderr
    *_, statuses, refusal = done.stdout.splitlines()
    assert "[2, 2, 2, 2, 2, 2, 2, 3, 3]" == statuses
    assert "the filter '0-99999999999' names job 1, which is not there; there are jobs 0" == refusal
    assert f"skipped: {ended.join('launches', '0001', 'launch.json')} is damaged" in done.stderr


def test_list_is_not_led_through_the_machine(
    folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A link is followed that is ours or root's, or leads to what is ours or of whoever made it; one that
    leads back up, or that another has made to what is not theirs, is named."""
    start = tmp_path / "start"
    start.mkdir()
    (start / "mine").symlink_to(folder.path)
    (start / "up").symlink_to("/")
    (start / "loop").symlink_to(".")
    refused = [f"{start}/up is a link to a folder in which {start} itself lies"]
    if os.geteuid() == 0:
        (start / "theirs").symlink_to(tmp_path)
        os.lchown(start / "theirs", 65534, 65534)
        why = "a link of another user's to what is neither theirs nor yours"
        refused.insert(0, f"{start}/theirs is {why}; name that folder itself")
    assert 3 == main(["list", str(start), "--json"])
    said = capsys.readouterr()
    assert 1 == said.out.count(f'"path": "{start}/mine"'), said.out
    assert [f"skipped: {one}" for one in refused] == said.err.splitlines()


def test_list_names_a_link_that_it_cannot_look_behind(reachable: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is there may be a folder with experiments: it is never left out in silence."""
    (reachable / "closed/scratch").mkdir(parents=True)
    (reachable / "closed").chmod(0o000)
    (reachable / "start").mkdir()
    (reachable / "start/scratch").symlink_to(reachable / "closed/scratch")
    (reachable / "start/gone").symlink_to("nowhere")
    with as_nobody():
        assert 3 == main(["list", str(reachable / "start")])
    assert f"skipped: {reachable}/start/scratch cannot be read: Permission denied\n" == capsys.readouterr().err
    (reachable / "closed").chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a link that is another user's")
@pytest.mark.parametrize(
    ("caller", "maker", "owner", "is_followed"),
    [
        (65534, 0, 65534, True),  # /home/ada/scratch -> /scratch/ada, as administrators make it
        (65534, 0, 65533, True),
        (65534, 65534, 0, True),
        (65534, 65533, 65534, True),
        (65534, 65533, 65533, True),
        (65534, 65533, 0, False),
        (0, 65533, 0, False),
    ],
)
def test_whose_links_are_followed(reachable: Path, caller: int, maker: int, owner: int, *, is_followed: bool) -> None:
    """Those of root and of the caller, and those to what is of whoever made them, or of a caller who is not root."""
    (reachable / "home").mkdir()
    Experiment(["seed"], "e", reachable / "scratch").save()
    subprocess.run(["chmod", "-R", "a+rX", reachable / "scratch"], check=True)
    os.chown(reachable / "scratch", owner, owner)
    (reachable / "home/scratch").symlink_to(reachable / "scratch")
    os.lchown(reachable / "home/scratch", maker, maker)
    os.seteuid(caller)
    try:
        found = [experiment.experiment_name for experiment in find_experiments(reachable / "home")]
    finally:
        os.seteuid(0)
    assert (["e"] if is_followed else []) == found


def test_what_is_huge_takes_no_memory(ended: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An anchor or a result of others that is longer than any of ours is named, and not read; the result of one job can
    still be asked for by itself."""
    text = "y" * MOST_TABLE_BYTES
    Path(ended.of_attempt(0, 2, "result")).write_text(json.dumps({"format": 1, "result": text}))
    os.truncate(ended.join("states", "0.1"), 100 << 30)
    assert 3 == main(["results", ended.path])
    assert f"no record is longer than {MOST_TABLE_BYTES}" in capsys.readouterr().err
    assert text == read_result(ended, 0, 2).value
    assert 3 == main(["archive", ended.path, "--out", str(tmp_path / "it.tar.gz")])
    assert f"{ended.path}/states/0.1 cannot be read: Of {100 << 30} bytes" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [PLAN, None])
def test_a_record_names_no_more_jobs_than_there_may_be(shape: Kind | None) -> None:
    """However they are spread over the attempts, arrays or tasks of a record."""
    most = f"0-{MOST_IDS - 1}"
    for more, fits in (("", True), ("7", False), (most, False), ("0-99999999999999999999", False), (7, False)):
        ids = {"1": most, "2": more}
        assert fits == (are_of_ids(ids.values()) if shape is None else shape.fits(ids))


@pytest.mark.parametrize("place", ["result", "error", "attempt", "anchor", "metrics", "launch"])
@pytest.mark.parametrize(
    "value", ["[" * 320 + "]" * 320, '{"a":' * 470 + "1" + "}" * 470, "[" * 100_000, '"\\ud800"'], ids=range(4)
)
def test_what_is_too_deep_or_no_unicode_ends_no_command(ended: Folder, place: str, value: str) -> None:
    """Wherever it stands in a record, it is named, and all verbs that read tell the rest; the report is written."""
    os.makedirs(ended.join("launches", "0001"))
    paths = {kind: ended.of_attempt(0, 2, kind) for kind in ("result", "error", "attempt", "metrics")}
    paths |= {"anchor": ended.join("states", "0.2"), "launch": ended.join("launches", "0001", "launch.json")}
    start = {"metrics": '{"step": 1, "time": 1, "values": ', "launch": '{"jobs": {"1": "0"}, "time": 1, "x": '}
    Path(paths[place]).write_text(f"""{start.get(place, '{"result": ')}{value}{"}" * (1 + (place == "metrics"))}\n""")
    found = {*statuses(ended)}
    assert ({0, 3}, True) == (found | {0, 3}, 3 in found or place == "error")  # of a job that completed it is not read
    assert "seed" in Path(ended.report).read_text(encoding="utf-8")


def test_no_record_leads_out_of_the_folder(ended: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """The launch of an attempt is a number: a path in its place is named, and nothing is read there."""
    outside = Path(ended.parent) / "outside"
    outside.mkdir()
    (outside / "launch.json").write_text(json.dumps({"jobs": {"1": "0"}, "git_commit": "of another", "cwd": "/"}))
    Path(ended.join("states", "0.2")).write_text(json.dumps({"launch": "../../outside"}))
    os.makedirs(ended.launches)
    statuses(ended)
    said = capsys.readouterr()
    assert "of another" not in said.out + Path(ended.report).read_text()
    assert f"skipped: {ended.states}/0.2 cannot be read: its 'launch' is no text of digits" in said.err


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (NAME, ["train-x1", "a b"], ["../x", "a/b", "", ".", "..", "a\0b", 3]),
        (NUMBERED, ["12", "12_7", "12_[0-3]", "7.server", ""], ["--user=ada", "-t", "12 --me", "1\n2", "1\0", 12]),
        (DIGITS, ["0001"], ["../1", "-1", "", "1" * 20, 1]),
    ],
)
def test_what_becomes_a_path_or_a_word_of_a_command(kind: Kind, good: list[object], bad: list[object]) -> None:
    """A name leads out of no folder, and an id that the commands of a scheduler are given is none of their options."""
    assert [[True] * len(good), [False] * len(bad)] == [[kind.fits(one) for one in some] for some in (good, bad)]
    task = {
        "scheduler": "slurm",
        "id": "1",
        "array": None,
        "array_index": None,
        "restart": 0,
        "node": None,
        "user": None,
    }
    assert [True, False, False] == [TASK.fits({**task, **more}) for more in ({}, {"id": "--me"}, {"array": "-t"})]


def test_damage_is_looked_at_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite takes for damage what one read that failed has not given it: what is whole at the second look is whole,
    and what is damaged is damaged then, too."""
    experiment = Experiment(["x"], "train", tmp_path)
    experiment.add_job({"x": 1}, {"x": 1})
    experiment.save()
    looks, connected = list[int](), manifest.Manifest._connected

    def malformed(most: int) -> None:
        def look(found: manifest.Manifest) -> Any:
            looks.append(1)
            if len(looks) <= most:
                raise sqlite3.DatabaseError("database disk image is malformed")
            return connected(found)

        looks.clear()
        monkeypatch.setattr(manifest.Manifest, "_connected", look)

    malformed(1)
    assert [0] == Experiment.load("train", str(tmp_path)).get_all_ids()
    malformed(9)
    with pytest.raises(DamagedManifest, match="is damaged"):
        manifest.Manifest(experiment.folder)


def test_damage_of_an_index_is_looked_at_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of the index of a launch, by which its jobs begin."""
    experiment = Experiment(["x"], "train", tmp_path)
    experiment.add_job({"x": 1}, {"x": 1})
    experiment.save()
    experiment.save_pass_filter([0])
    (tmp_path / "runner.py").touch()
    experiment.generate_slurm_script(str(tmp_path / "runner.py"))
    expected, indexed, looks = orders.read_order(experiment.folder, "0001", 0), orders._indexed, list[int]()
    for most in (1, 9):
        looks.clear()

        def look(*arguments: Any, most: int = most) -> Any:
            looks.append(1)
            if len(looks) <= most:
                raise sqlite3.DatabaseError("database disk image is malformed")
            return indexed(*arguments)

        monkeypatch.setattr(orders, "_indexed", look)
        if most == 1:
            assert expected == orders.read_order(experiment.folder, "0001", 0)
    with pytest.raises(UnreadableLaunch, match="malformed"):
        orders.read_order(experiment.folder, "0001", 0)
