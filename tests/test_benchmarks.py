"""The benchmarks start, measure, and print a table; what the numbers are is not tested."""

import doctest
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import place, table, timing
from benchmarks.table import Line, markdown
from benchmarks.timing import Failed, Measured, take_turns, timed
from tests.conftest import clean_env

ROOT = Path(__file__).parent.parent


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, env=clean_env(), capture_output=True, text=True, timeout=120, check=False)


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if line[:1] == "|"]


@pytest.mark.parametrize("module", [place, table, timing], ids=lambda module: module.__name__)
def test_examples(module: object) -> None:
    """The examples in the docstrings hold."""
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]


def test_help_names_the_rows() -> None:
    """Whoever asks for help learns which rows there are."""
    done = run("--help")
    assert (0, "") == (done.returncode, done.stderr)
    for name in (
        "planning",
        "growth",
        "tree",
        "start",
        "submission",
        "pool",
        "workers",
        "status",
        "following",
        "child",
        "original",
        "seml",
    ):
        assert name in done.stdout


def test_an_unknown_row_is_refused() -> None:
    """A name that is no row is answered with those that are."""
    done = run("pickling")
    assert 2 == done.returncode
    assert "no row is called pickling; there are planning," in done.stderr


def test_a_row_yields_whole_lines(tmp_path: Path) -> None:
    """A row is measured and printed, all of its lines with all cells, and what it was measured with; --out keeps it."""
    out = tmp_path / "table.md"
    done = run("start", "seml", "--quick", "--rounds", "1", "--out", str(out))
    assert 0 == done.returncode, done.stderr
    head, rule, *lines, seml = cells(done.stdout)
    assert len(head) == 7
    assert {"---"} == set(rule)
    assert 3 == len(lines)
    for what, ours, peer, theirs, ratio, target, reached in lines:
        assert what.startswith("a task")
        assert ours.split()[1] == theirs.split()[1] == "ms"
        assert peer
        assert float(ratio.removeprefix("1/")) > 0  # as_ratio writes what is below a half as 1/2.1
        assert target.startswith("at most 1.")
        assert reached in ("yes", "**no**")
    assert "SEML" in seml
    assert "not measured" in seml
    assert "hydra-core 1." in done.stdout
    assert done.stdout == out.read_text()


def test_a_target_counts_the_median() -> None:
    """A ratio is ours by theirs; a target may be a ratio, a number, or both; a negative slope reaches nothing."""
    ours, theirs = Measured((1.0, 9.0, 2.0)), Measured((4.0, 4.0, 4.0))
    assert ("0.5", "at most 0.5", "yes") == Line(what="", ours=ours, theirs=theirs, at_most=0.5).cells()[4:]
    assert ("0.5", "at most 1/3", "**no**") == Line(what="", ours=ours, theirs=theirs, at_most=1 / 3).cells()[4:]
    assert ("", "at most 1 s", "**no**") == Line(what="", ours=ours, limit=1.0).cells()[4:]
    assert "unknown" in Line(what="", ours=ours, theirs=Measured((-1.0,)), at_most=1).cells()[6]
    assert 1 == markdown([Line(what="a|b\nc", why_not="x")]).count("a\\|b c")


def test_contestants_take_turns() -> None:
    """The first round warms up and does not count; every other round goes backwards."""
    calls: list[str] = []

    def contestant(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    took = take_turns({name: lambda name=name: contestant(name) for name in "ab"}, rounds=2)  # type: ignore[misc]
    assert list("abbaab") == calls
    assert {"a": Measured((4.0, 5.0)), "b": Measured((3.0, 6.0))} == took


def test_a_failure_tells_the_last_words(tmp_path: Path) -> None:
    """What fails is no measurement."""
    with pytest.raises(Failed, match="ended with 3: alas"):
        timed(["sh", "-c", "echo alas; exit 3"], cwd=tmp_path, env=dict(os.environ))
