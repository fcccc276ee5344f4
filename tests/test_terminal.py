"""Tables on a terminal: every line fits, nothing is folded, no number is cut, and what is left out is named."""

import re
from typing import Any

import pytest

from experiment_manager.cli.terminal import cut, row_lines, text_width

METRICS = {f"val/metric_{place}": 0.123456 * (place + 1) for place in range(30)}
LONG = "/scratch/shared/datasets/imagenet/versions/"


def rows(n_rows: int = 3) -> list[dict[str, Any]]:
    """Jobs with a constant, a long variable that differs at its end, a long name, and 30 metrics."""
    return [
        {"job": job, "state": "COMPLETED", "attempt": 1, "root": f"{LONG}{job}", "model.optimizer.learning_rate": 0.1}
        | {"note": "資料" * 30, "seed": job, "score": job / 7, "curve": [1.5, 2.25] * 9, **METRICS}
        for job in range(n_rows)
    ]


@pytest.mark.parametrize("width", [60, 80, 120, 200, 1000])
def test_table_fits_its_terminal(width: int) -> None:
    """Variables, state, then as many values as fit; each column is shown, told once, or named as left out."""
    lines = row_lines(rows(), width=width, optional=["score", "curve", *METRICS], minor=["attempt"], more="--columns")
    assert all(text_width(line) <= width for line in lines)
    head, _, *body = lines[:5]
    assert ["0", "1", "2"] == [line.split()[0] for line in body]
    said = " ".join(lines)
    assert "score" in head
    n_shown = head.count("metric")
    n_left_out = 0 if n_shown == len(METRICS) else int(re.search(r"\((\d+) columns\); --columns", said)[1])  # type: ignore[index]
    assert len(METRICS) <= n_shown + n_left_out <= len(METRICS) + 3
    for number in re.findall(r"\d\.\d{4,}", " ".join(body)):
        assert float(number) in {
            float(f"{value:.6g}") for row in rows() for value in row.values() if type(value) is float
        }


def test_different_jobs_never_look_alike_where_their_ends_tell_them_apart() -> None:
    """Long variables are cut where they are the same; what all rows share stands below the table, once."""
    lines = row_lines(rows(), width=80, optional=["score", "curve", *METRICS], minor=["attempt"])
    assert 3 == len({re.search(r"(…\S+)", line)[1] for line in lines[2:5]})  # type: ignore[index]
    below = " ".join(lines[5:])
    assert "the same in all rows: state=COMPLETED attempt=1 model.optimizer.learning_rate=0.1 note=" in below
    assert "left out: " in below


def test_what_was_cut_is_said() -> None:
    """Where every column is shown, and a cell is not whole, a line says how to see all of it."""
    lines = row_lines([{"key": "a", "job 1": "x " * 40, "job 2": "y"}], width=60, more="`less` shows all")
    assert "… stands for what was cut; `less` shows all" == lines[-1]
    assert 3 == len(row_lines([{"key": "a", "job 1": "x", "job 2": "y"}], width=60, more="`less` shows all"))


def test_table_of_one_row_and_too_many_variables() -> None:
    """Nothing is the same in all of one row; variables that do not fit are named, and the job always stands there."""
    lines = row_lines([{"job": 7, **{f"variable_{place}": "x" * 30 for place in range(9)}}], width=60)
    assert "   7 " == lines[2][:5]
    assert "left out: variable_3," in " ".join(lines)


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("loss 0.123456, acc 0.5", 12, "loss …"),
        ("1234567890.5 x", 8, "1234567…"),
        ("abcdefghijklmnop", 8, "abcdefg…"),
        ("日本語日本語", 8, "日本語…"),
        ("short", 8, "short"),
    ],
)
def test_text_is_cut_between_words(text: str, width: int, shown: str) -> None:
    """Before a word or a number that does not fit; within it only where nothing would be left."""
    assert shown == cut(text, width)
