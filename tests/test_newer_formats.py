"""Records that a newer version has written: nothing of them is guessed at, and nothing is done that they may forbid."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from experiment_manager.cli.main import main
from experiment_manager.errors import UnreadableLaunch
from experiment_manager.model.records import State
from experiment_manager.store import documents
from experiment_manager.store.documents import content
from experiment_manager.store.endings import Endings
from experiment_manager.store.launches import read_launch
from experiment_manager.store.layout import Folder
from experiment_manager.store.results import write_result
from experiment_manager.store.states import States
from experiment_manager.store.submissions import Submission
from tests.conftest import Program, ProgramAfter, files_below

SWEEP = ("seed=1,2,3", "hydra/launcher=slurm_script")
READERS = (
    ["status"], ["status", "--all"], ["jobs"], ["results"], ["show", "0"], ["show", "1"], ["diff", "0", "1"],
    ["report", "--out", "-"], ["logs", "0"], ["list"],
)  # fmt: skip
RECORDS = {
    "launch": "launches/0001/launch.json",
    "attempt": "jobs/1/attempt.1.json",
    "result": "jobs/0/result.1.json",
    "submission": "launches/0001/submission.json",
    "filter": "pass_filter.json",
}
NEWEST = {
    "launch": documents.LAUNCH_FORMAT,
    "attempt": documents.END_FORMAT,
    "result": documents.RESULT_FORMAT,
    "submission": documents.SUBMISSION_FORMAT,
    "filter": documents.SELECTION_FORMAT,
}


@pytest.fixture
def program(program_after: ProgramAfter, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Scripts for three jobs; two of them have run, job 0 well, job 1 until its time limit. SLURM is not here."""
    program = program_after(*SWEEP)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    folder = Folder.at(program.experiment)
    states = States(folder)
    for job_id, state in ((0, State.COMPLETED), (1, State.TIMEOUT)):
        os.makedirs(folder.job(job_id))
        states.claim(job_id, {"launch": "0001", "by_slurm": True})
        Path(folder.of_attempt(job_id, 1, "stdout")).write_text("said\n")
        if state is State.COMPLETED:
            write_result(folder, job_id, 1, {"score": 1.5})
        states.finish(job_id, 1, state, {"reason": None, "end": 9e9})
    Path(program.experiment, RECORDS["submission"]).write_text('{"format": 1, "arrays": {}}')
    return program


def renew(kind: str, program: Program) -> str:
    """A newer version has written a record of that kind; returns the sentence about it."""
    path = program.experiment / RECORDS[kind]
    record = json.loads(path.read_text())
    assert 1 == record["format"]
    path.write_text(json.dumps({"format": NEWEST[kind] + 1, "news": record}))
    return about(path, kind)


def about(path: Path, kind: str) -> str:
    newest = NEWEST[kind]
    return (
        f"{path} was written by a newer version of Experiment Manager (format {newest + 1}, this one reads {newest}); "
        "update it: pip install --upgrade hydra-experiment-manager"
    )


def called(program: Program, verb: str, *rest: str) -> int:
    """The exit status of a verb."""
    place = program.experiment.parent if verb == "list" else program.experiment
    return main([verb, str(place), *(str(program.home / "r.html") if word == "-" else word for word in rest)])


@pytest.mark.parametrize(
    ("kind", "needed_by"),
    [
        ("launch", [0, 1, 2, 3, 4, 5, 6, 7, 9]),
        ("submission", [0, 1, 2, 3, 4, 5, 6, 7, 9]),
        ("attempt", [0, 1, 2, 3, 4, 5, 6, 7, 9]),
        ("result", [3, 7]),
        ("filter", [0, 1, 2, 7]),
    ],
)
def test_who_shows_a_newer_record_names_it(
    kind: str, needed_by: list[int], program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every verb that needs it says who can read it, shows the rest, and ends with 3; nothing is changed."""
    sentence = renew(kind, program)
    before = files_below(program.experiment)
    found = []
    for place, (verb, *rest) in enumerate(READERS):
        status = called(program, verb, *rest)
        said = capsys.readouterr().err
        assert (status, sentence in said) in ((0, False), (3, True)), (verb, said)
        assert said.count(sentence) < 2
        found += [place] if status else []
    assert needed_by == found
    assert before == files_below(program.experiment)


@pytest.mark.parametrize(
    ("kind", "verbs"),
    [
        ("launch", [["resubmit", "--yes"], ["script"], ["submit"], ["run", "2", "--launch", "0001"], ["sweep"]]),
        ("attempt", [["resubmit", "--yes"], ["sweep"]]),
        ("submission", [["resubmit", "--yes"], ["sweep"]]),
        ("filter", [["script"], ["run", "2"]]),
    ],
)
def test_who_would_act_on_a_newer_record_refuses(
    kind: str, verbs: list[list[str]], program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence, exit status 2, and nothing is written or started."""
    sentence = renew(kind, program)
    if kind == "launch":  # tasks read the index, which bears the number of its record
        with closing(sqlite3.connect(program.experiment / "launches/0001/orders.sqlite")) as connection:
            connection.execute(f"PRAGMA user_version = {documents.LAUNCH_FORMAT + 1}")
    before = files_below(program.experiment)
    for verb, *rest in verbs:
        if verb == "sweep":
            done = program.sweep(*SWEEP)
            status, said = done.returncode, done.stderr
        else:
            status, said = called(program, verb, *rest), capsys.readouterr().err
        expected = (
            about(program.experiment / "launches/0001/orders.sqlite", kind) if verb == "run" and rest[1:] else sentence
        )
        assert (2, True) == (status, f"error: {expected}\n" in said), (verb, said)
        assert before == files_below(program.experiment), verb


def test_what_a_newer_version_submits_is_not_submitted(program: Program) -> None:
    """Where SLURM's ids are in a record of a newer version, nobody submits the scripts, nor asks to remove it."""
    folder = Folder.at(program.experiment)
    sentence = renew("submission", program)
    with pytest.raises(UnreadableLaunch) as refused:
        Submission(folder, read_launch(folder, "0001"))
    assert sentence == str(refused.value)


def test_a_newer_result_is_kept(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    """A job that has completed stays so, whatever it left: the sweep and `resubmit` leave it alone."""
    renew("result", program)
    path = str(program.experiment / RECORDS["result"])
    before = content(path)
    done = program.sweep(*SWEEP)
    assert 0 == done.returncode, done.stderr
    assert "1 COMPLETED left alone" in done.stdout + done.stderr
    assert 2 == called(program, "resubmit", "0", "--yes")
    assert "job 0 of" in capsys.readouterr().err
    assert before == content(path)


@pytest.mark.parametrize("kind", ["result", "attempt"])
def test_an_end_that_only_a_newer_version_can_tell(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An attempt whose supervisor is gone is not LOST where a newer version has written how it ended, or what it left:
    it stays RUNNING, is named, and is not run again."""
    from experiment_manager import Experiment

    experiment = Experiment(["seed"], "it", tmp_path)
    experiment.add_job({"seed": 1}, {})
    experiment.save()
    experiment.save_pass_filter([0])
    folder = experiment.folder
    os.makedirs(folder.job(0))
    code = (
        "import sys\nfrom experiment_manager.store.layout import Folder\n"
        "from experiment_manager.store.states import States\n"
    )
    subprocess.run(
        [sys.executable, "-c", f"{code}States(Folder.at(sys.argv[1])).claim(0, {{}})", folder.path], check=True
    )
    path = Path(folder.of_attempt(0, 1, kind))
    written = f'{{"format": {NEWEST[kind] + 1}, "value": 1.5}}'
    path.write_text(written)
    assert 3 == main(["status", folder.path])
    said = capsys.readouterr()
    assert "RUNNING" in said.out
    assert ".LOST" not in said.out + said.err  # what a person is asked to do where nobody can be asked
    assert f"skipped: {about(path, kind)}\n" in said.err
    ran: list[int] = []
    with pytest.raises(ValueError, match=r"job 0 is not run again, since it may have completed: .*update it: pip"):
        experiment.run_id(0, lambda job_id, *_: ran.append(job_id))
    assert ([], ["0.1", "0.1.RUNNING"]) == (ran, sorted(os.listdir(folder.states)))
    assert written == path.read_text()


def test_what_a_job_of_a_newer_version_left(tmp_path: Path) -> None:
    """A supervisor whose package was updated meanwhile knows that its job has left something, and no trouble."""
    folder = Folder(tmp_path, "it")
    os.makedirs(folder.job(0))
    Path(folder.of_attempt(0, 1, "result")).write_text('{"format": 2, "value": 1.5}')
    result, trouble = Endings(folder).left(0, 1, print)
    assert (True, None) == (result["result"] is not None, trouble)


@pytest.mark.parametrize("number", [0, -1, True, "2", 1.5, [], {}])
def test_a_number_that_is_none(number: object, program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    """A record whose format is no number is damaged, and nothing of it is read."""
    path = program.experiment / RECORDS["attempt"]
    path.write_text(json.dumps({"format": number, "reason": "of old"}))
    assert 3 == called(program, "status")
    said = capsys.readouterr()
    assert f"skipped: {path} cannot be read: its 'format' is no number of a format\n" in said.err
    assert "of old" not in said.out
