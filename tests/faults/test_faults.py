"""A fixed slice of `make faults`, where it hurts; what injects faults, and what sees that a promise is broken."""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.faults.__main__ import code_of, of_this_code
from tests.faults.injector import FAULTS, Done, Event, NoCompiler, compiled
from tests.faults.observation import OnDisk, told, truths_on_disk
from tests.faults.program import app
from tests.faults.scenarios import FOLDER, MOVED
from tests.faults.trial import Laboratory, kinds_first, said_wrongly

pytestmark = pytest.mark.xdist_group("faults")  # who starts the process that is copied


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    place = tmp_path_factory.mktemp("faults")
    try:
        library = compiled(place)
    except NoCompiler as error:
        pytest.skip(str(error))
    found = Laboratory(place / "laboratory", library)
    yield found
    found.end()


SLICE = (
    ("script", "kill", "rename", "launches"),
    ("submit", "kill", "rename", "submission.json"),
    ("run", "short", "write", "result"),
    ("run", "eio-once", "fsync", r"/\.result"),  # while a job leaves what it has computed
    ("run", "read-estale-once", "stat", "manifest"),  # which is there
    ("submitit", "close-once", "close", "submission_file"),  # which submitit writes, and leaves when it is refused
    ("submit", "kill", "unlink", "slurm/jobs"),  # of sbatch, when it has submitted
    ("cancel", "eio-once", "rename", r"attempt\.1\.json"),
    ("cancel", "estale-once", "mkdir", "jobs/0$"),  # the folder of that record
    ("cancel", "kill", "close", r"attempt\.1\.json"),  # of a job that never began: its end has a record
    ("cancel-pool", "eio-once", "rename", r"attempt\.1\.json"),  # of who ends, and whose job was told to
    ("archive", "enospc-once", "fsync", "/home$"),  # of the folder, when the file has its name already
    ("tasks", "kill-all", "rename", r"states/0\.1"),  # of what a node runs, which dies
    ("at-once", "kill", "rename", r"states/1\.1"),  # of a job's supervisor, whose job lives on, and is swept again
)


@pytest.mark.parametrize(("scenario", "fault", "call", "path"), SLICE)
def test_a_promise_holds_whatever_fails(
    laboratory: Laboratory, scenario: str, fault: str, call: str, path: str
) -> None:
    """Of a slice of all faults: nothing is lost, nothing runs twice, no state lies, and messages are sentences."""
    calls = laboratory.baseline(scenario).points(FAULTS[fault])
    at = next(number for number, event in enumerate(calls, 1) if event.call == call and re.search(path, event.path))
    tried = laboratory.run(scenario, fault, at)
    assert ((), ()) == (laboratory.baseline(scenario).violations, tried.violations)
    assert tried.fired is not None
    assert tried.fired.startswith(call)


def test_what_was_tried_of_other_code_counts_for_nothing(tmp_path: Path) -> None:
    """A file of results is gone on with while the package and the harness are the same, committed or not."""
    module = tmp_path / "experiment_manager/store/states.py"
    module.parent.mkdir(parents=True)
    module.write_text("x = 1\n")
    before = {"scenario": "run", "code": code_of(tmp_path)}
    assert [before] == of_this_code([before, {"scenario": "run"}], code_of(tmp_path))
    module.write_text("x = 2\n")
    assert [] == of_this_code([before], code_of(tmp_path))


def test_calls_are_tried_by_kind_first() -> None:
    """Of ten writes to one file and one rename, the rename is one of the first two that are tried; of calls that come
    equally early the first of a command are not tried first."""
    writes = [Event(7, "W", "write", f"/states/{number}.1") for number in range(10)]
    found, kinds = kinds_first([*writes, Event(7, "W", "rename", "/states/7.1")], "run kill")
    assert ({1, 11}, set(range(2, 11))) == ({*found[:2]}, {*found[2:]})
    assert ["rename" if number == 11 else "write" for number in found[:2]] == [call for call, _ in kinds]
    renames = [
        Event(7, "W", "rename", f"/{chr(ord('a') + number // 26)}{chr(ord('a') + number % 26)}")
        for number in range(400)
    ]
    early, kinds = kinds_first(renames, "run kill")
    assert (early[:16], len(kinds)) == (kinds_first(renames, "run kill")[0][:16], 400)
    assert {0, 1, 2, 3} == {number // 100 for number in early[:16]}


def test_a_fault_meets_the_calls_of_its_kind() -> None:
    """A full disk is met by what needs space, and by nothing that only reads or looks."""
    full = FAULTS["enospc"]
    assert errno.ENOSPC == full.number
    assert Event(7, "W", "write", "/x").can_meet(full, 7)
    assert not Event(7, "W", "unlink", "/x").can_meet(full, 7)
    assert not Event(7, "R", "read", "/x").can_meet(full, 7)
    assert not Event(8, "W", "write", "/x").can_meet(FAULTS["kill-main"], 7)


WHOLE = OnDisk(
    folder="experiments/app",
    has_manifest=True,
    has_pass_filter=True,
    variables={0: ('{"x":1}', "f0"), 1: ('{"x":9}', "f1")},
    search="ids 0-1, seed 1",
    held=frozenset(),
    removed=frozenset(),
    attempts={(0, 1): frozenset({"", "COMPLETED"}), (1, 1): frozenset({"", "FAILED"})},
    results={(0, 1): {"result": {"score": 10}}},
    records=frozenset({(0, 1), (1, 1)}),
    frozen={"conf/f/app.yaml": "77"},
    hidden=frozenset(),
    runs={(0, 1): 1, (1, 1): 1},
    returned=frozenset({(0, 1)}),
    beside=frozenset(),
    files=frozenset(),
    left={},
    said="",
    troubles=(),
)
ALL_ENDS = "all ends as it does without a fault"
COMPLETED, FAILED, BEGUN = frozenset({"", "COMPLETED"}), frozenset({"", "FAILED"}), frozenset({""})


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        ({"has_manifest": False}, "the manifest is there"),
        ({"attempts": {(0, 1): frozenset({"COMPLETED"})}}, "each attempt has one anchor and one end"),
        ({"attempts": {(0, 1): COMPLETED | FAILED}}, "each attempt has one anchor and one end"),
        ({"attempts": {(0, 1): COMPLETED | {"RUNNING"}}}, "each attempt has one anchor and one end"),
        ({"results": {}}, "COMPLETED implies a whole result"),
        ({"results": {(0, 1): None}}, "COMPLETED implies a whole result"),
        ({"results": {(0, 1): {"result": {}}}}, "COMPLETED implies a whole result"),
        ({"runs": {}}, "the task function ran as often as attempts say"),
        ({"runs": {(0, 1): 2, (1, 1): 1}}, "the task function ran as often as attempts say"),
        ({"runs": {(0, 1): 1, (0, 2): 1}}, "the task function ran as often as attempts say"),
        ({"attempts": {(0, 1): COMPLETED, (0, 2): COMPLETED}}, "nothing COMPLETED runs again"),
        ({"attempts": {(0, 1): COMPLETED, (0, 2): FAILED}}, "nothing COMPLETED runs again"),
        ({"attempts": {(0, 1): COMPLETED, (0, 2): BEGUN}}, "nothing COMPLETED runs again"),
        ({"beside": frozenset({(0, 2)})}, "no job runs in two processes at once"),
        ({"variables": {0: WHOLE.variables[0]}}, "ids and variables do not move"),
        ({"variables": {**WHOLE.variables, 1: ('{"x":8}', "f1")}}, "ids and variables do not move"),
        ({"variables": {**WHOLE.variables, 1: ('{"x":9}', "f2")}}, "ids and variables do not move"),
        ({"has_pass_filter": False}, "a pass filter stays"),
        ({"search": "ids 0-1, seed 2"}, "a search stays the one that it is"),
        ({"frozen": {}}, "frozen configurations do not change"),
        ({"attempts": {(0, 1): COMPLETED}}, "an end does not change"),
        ({"results": {(0, 1): {"result": {"score": 11}}}}, "a finished result stays"),
    ],
)
def test_each_promise_can_be_broken(broken: Mapping[str, Any], promise: str) -> None:
    """What is looked for on the disk is seen where it is so; of what is whole nothing is said."""
    assert [] == [*truths_on_disk(WHOLE, WHOLE)]
    assert promise in {found.promise for found in truths_on_disk(WHOLE._replace(**broken), WHOLE)}


def test_a_number_that_another_process_has_now_is_not_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program of the trials notes that its job runs in another process where that lives, and only then."""
    runs, parent = tmp_path / "runs", os.getppid()
    monkeypatch.setenv("FAULTS_RUNS", str(runs))
    runs.write_text(f"0 1 process:{parent}:{app.started(parent)}\n1 1 process:{parent}:{app.started(parent)}\n")
    assert [parent] == [*app.others(0)]
    runs.write_text(f"0 1 process:{parent}:1\n0 2 process:{os.getpid()}:{app.started(os.getpid())}\n")
    assert [] == [*app.others(0)]


def _answers(
    state: str = "COMPLETED", score: int = 10, by_status: str = "COMPLETED", held: tuple[int, ...] = ()
) -> Any:
    def look(words: tuple[str, ...]) -> Done:
        body = {
            "jobs": [{"job": 0, "variables": {"x": 1}, "state": state, "selected": True}],
            "results": [{"job": 0, "result": {"score": score}}],
            "status": {"jobs": {by_status: [0]}, "held": held, "removed": []},
        }
        return Done(0, json.dumps(body[words[2]]), "")

    return look


@pytest.mark.parametrize(
    ("look", "promise"),
    [
        (_answers(state="FAILED", by_status="FAILED"), "every verb tells the truth"),
        (_answers(by_status="FAILED"), "every verb tells the truth"),
        (_answers(held=(0,)), "every verb tells the truth"),
        (_answers(score=11), "a finished result is told"),
        (_answers(state="RUNNING", by_status="RUNNING"), "nothing is RUNNING or QUEUED for ever"),
        (_answers(state="QUEUED", by_status="QUEUED"), "nothing is RUNNING or QUEUED for ever"),
        (lambda _: Done(1, "[]", "Traceback"), "every verb answers"),
    ],
)
def test_each_lie_of_a_verb_is_seen(look: Callable[[tuple[str, ...]], Done], promise: str) -> None:
    """What `jobs`, `results` and `status` tell is held against the disk."""
    disk = WHOLE._replace(variables={0: WHOLE.variables[0]}, attempts={(0, 1): COMPLETED})
    assert [] == told(_answers(), disk, waits=False)[1]
    assert promise in {found.promise for found in told(look, disk, waits=False)[1]}


@pytest.mark.parametrize(
    "done",
    [
        Done(None, "", ""),
        Done(0, "", "", left=1),
        Done(1, "", "Traceback (most recent call last):"),
        Done(-11, "", "error: x"),
        Done(2, "", "it does not work"),
        Done(1, "", ""),
    ],
)
def test_what_a_command_must_not_say(done: Done) -> None:
    """No command hangs, leaves a process, has a traceback, is killed by itself, or is refused without a sentence."""
    assert said_wrongly(done, FAULTS["eio"])
    assert [] == said_wrongly(Done(2, "", "error: no space"), FAULTS["eio"])


def _fail(home: Path) -> None:
    (home / FOLDER / "states/0.1.COMPLETED").rename(home / FOLDER / "states/0.1.FAILED")


def _damage(home: Path) -> None:
    with (home / FOLDER / "manifest.sqlite").open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 2000)


def _submit_twice(home: Path) -> None:
    first = home / "slurm/jobs/1"
    first.with_name("2").write_text(json.dumps({**json.loads(first.read_text()), "id": 2}))


@pytest.mark.parametrize(
    ("scenario", "spoil", "promise"),
    [
        ("run", lambda home: (home / FOLDER / "jobs/0/.a.tmp").touch(), "leftovers vanish with the next write"),
        ("run", lambda home: (home / FOLDER / "jobs/0/a.txt").touch(), "no other file is left"),
        ("run", lambda home: (home / FOLDER / "states/odd").touch(), "nothing odd stays"),
        ("run", lambda home: (home / FOLDER / "held").mkdir() or (home / FOLDER / "held/0").touch(), ALL_ENDS),
        ("run", _fail, ALL_ENDS),
        ("run", _fail, "exit status 0 means that all is done"),
        ("run", lambda home: (home / FOLDER / "jobs/0/attempt.1.json").unlink(), "an end has a record"),
        ("run", _fail, "one error does not cost what a job has returned"),
        ("run", _damage, "the manifest opens"),
        ("run", _damage, "every verb answers"),
        ("run", lambda home: shutil.copytree(home / FOLDER, home / MOVED), "there is one experiment"),
        ("archive", lambda home: (home / "app.tar.gz").write_bytes(b"77"), "exit status 0 means that all is done"),
        ("archive", lambda home: (home / "app.tar.gz").write_bytes(b"77"), ALL_ENDS),
        ("submit", _submit_twice, "exit status 0 means that all is done"),
        ("submit", _submit_twice, "each job is submitted once"),
        ("submit", lambda home: (home / "slurm/jobs/1").unlink(), "what was submitted runs"),
    ],
)
def test_what_is_not_as_without_a_fault_is_seen(
    laboratory: Laboratory, scenario: str, spoil: Callable[[Path], object], promise: str
) -> None:
    """After a scenario that nothing disturbs all is well; and not where somebody has changed anything since."""
    assert [] == laboratory.undisturbed(scenario)
    assert promise in {one.promise for one in laboratory.undisturbed(scenario, spoil)}
