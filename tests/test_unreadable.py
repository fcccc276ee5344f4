"""What is damaged, foreign or not ours to read is named and left out; the rest is shown, no command falls over it."""

import math
from pathlib import Path

import pytest

from experiment_manager import Experiment
from experiment_manager.disk.folder import Folder
from experiment_manager.disk.results import last_values, read_metrics

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
    ],
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
