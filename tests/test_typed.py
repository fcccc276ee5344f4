"""What a user's own program sees of the package's types, and what the package itself sees of `typing`."""

from __future__ import annotations

import ast
import copy
import inspect
import pickle
import subprocess
import sys
import typing
from collections.abc import Mapping
from pathlib import Path

import pytest

from experiment_manager import Job, typing_names
from tests.conftest import clean_env

ROOT = Path(__file__).parent.parent
PROGRAM = ROOT / "tests/apps/analysis.py"


@pytest.mark.xdist_group("mypy")
def test_a_users_program_is_checked_strictly(tmp_path: Path) -> None:
    """A program elsewhere that defines, runs, follows, compares and reads an experiment, and writes down the type of
    what each call returns, passes `mypy --strict` against the package as it is installed."""
    (tmp_path / "analysis.py").write_text(PROGRAM.read_text())
    strictly = ("--strict", "--config-file=", "--cache-dir", str(ROOT / ".mypy_cache"))  # kept from `make check`
    command = [sys.executable, "-m", "mypy", *strictly, "analysis.py"]
    done = subprocess.run(command, cwd=tmp_path, env=clean_env(), capture_output=True, text=True, check=False)
    assert (0, "Success: no issues found in 1 source file\n") == (done.returncode, done.stdout), done.stdout


def test_the_program_does_what_its_types_say(tmp_path: Path) -> None:
    """The same program runs to its end, so that what it writes down is true of the values, too."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path)],
        cwd=tmp_path, env=clean_env(), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "6 2.0 lr=0.4" in done.stdout.splitlines()


class Ours(typing_names.NamedTuple):
    """Two fields and a method."""

    place: int
    word: str | None = None

    @property
    def both(self) -> str:
        return f"{self.place}{self.word}"

    def same(self, other: Ours) -> bool:
        return self == other


class Theirs(typing.NamedTuple):
    """Two fields and a method."""

    place: int
    word: str | None = None

    @property
    def both(self) -> str:
        return f"{self.place}{self.word}"

    def same(self, other: Theirs) -> bool:
        return self == other


def test_a_named_tuple_of_ours_is_one_of_typing() -> None:
    """What can be done with a named tuple of `typing` can be done with ours, with the same outcome."""
    for given in ({"place": 1}, {"place": 2, "word": "a"}):
        ours, theirs = Ours(**given), Theirs(**given)
        assert ours == tuple(ours) == theirs
        assert repr(ours).removeprefix("Ours") == repr(theirs).removeprefix("Theirs")
        assert (ours.both, hash(ours), ours._asdict()) == (theirs.both, hash(theirs), theirs._asdict())
        assert ours.same(copy.copy(ours))
        assert (type(pickle.loads(pickle.dumps(ours))), pickle.loads(pickle.dumps(ours))) == (Ours, ours)
        assert tuple(ours._replace(word="b")) == tuple(theirs._replace(word="b"))
        assert not hasattr(ours, "__dict__")
        match ours:
            case Ours(place, word):
                assert (place, word) == tuple(ours)
    for name in ("_fields", "_field_defaults", "__doc__", "__module__", "__match_args__"):
        assert getattr(Ours, name) == getattr(Theirs, name)
    assert [*Ours.__annotations__] == [*Theirs.__annotations__]
    told = [str(inspect.signature(kind)) for kind in (Ours, Theirs)]
    assert "(place: 'int', word: 'str | None' = None)" == told[0]
    assert typing.get_type_hints(Ours) == typing.get_type_hints(Theirs)
    assert typing.get_type_hints(Job)["variables"] == Mapping[str, object]
    for wrong in ((), (1, "a", 2)):
        messages = []
        for kind in (Ours, Theirs):
            with pytest.raises(TypeError) as error:
                kind(*wrong)
            messages.append(str(error.value).replace(kind.__name__, "Kind"))
        assert messages[0] == messages[1]


def test_modules_with_named_tuples_of_ours_postpone_their_annotations() -> None:
    """Without it, a class has no annotations when it is made on Python 3.14, and what stands in them is no type."""
    for path in (ROOT / "experiment_manager").rglob("*.py"):
        text = path.read_text()
        if "experiment_manager.typing_names import" in text:
            assert any(
                isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in ast.parse(text).body
            ), path
