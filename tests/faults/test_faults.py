"""A fixed slice of `make faults`: one fault of each kind, where it hurts, and what injects them."""

import errno
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.__main__ import code_of, of_this_code
from tests.faults.injector import FAULTS, Event, NoCompiler, compiled
from tests.faults.trial import Laboratory, kinds_first

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
    ("submit", "kill", "unlink", "slurm/jobs"),  # of sbatch, when it has submitted
    ("cancel-pool", "eio-once", "rename", r"attempt\.1\.json"),  # of who ends, and whose job was told to
    ("archive", "enospc-once", "fsync", "/home$"),  # of the folder, when the file has its name already
)


@pytest.mark.parametrize(("scenario", "fault", "call", "path"), SLICE)
def test_a_promise_holds_whatever_fails(
    laboratory: Laboratory, scenario: str, fault: str, call: str, path: str
) -> None:
    """Of a slice of all faults: nothing is lost, nothing runs twice, no state lies, and messages are sentences."""
    calls = laboratory.baseline(scenario).points(FAULTS[fault])
    at = next(number for number, event in enumerate(calls, 1) if event.call == call and re.search(path, event.path))
    tried = laboratory.run(scenario, fault, at)
    assert () == tried.violations
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
    found, n_kinds = kinds_first([*writes, Event(7, "W", "rename", "/states/7.1")], "run kill")
    assert ({1, 11}, set(range(2, 11)), 2) == ({*found[:2]}, {*found[2:]}, n_kinds)
    renames = [
        Event(7, "W", "rename", f"/{chr(ord('a') + number // 26)}{chr(ord('a') + number % 26)}")
        for number in range(400)
    ]
    early, n_kinds = kinds_first(renames, "run kill")
    assert (early[:16], n_kinds) == (kinds_first(renames, "run kill")[0][:16], 400)
    assert {0, 1, 2, 3} == {number // 100 for number in early[:16]}


def test_a_fault_meets_the_calls_of_its_kind() -> None:
    """A full disk is met by what needs space, and by nothing that only reads or looks."""
    full = FAULTS["enospc"]
    assert errno.ENOSPC == full.number
    assert Event(7, "W", "write", "/x").can_meet(full, 7)
    assert not Event(7, "W", "unlink", "/x").can_meet(full, 7)
    assert not Event(7, "R", "read", "/x").can_meet(full, 7)
    assert not Event(8, "W", "write", "/x").can_meet(FAULTS["kill-main"], 7)
