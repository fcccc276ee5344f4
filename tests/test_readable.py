"""What people read is in their words: columns also where no row is, and no tagged encodings."""

import csv
import io
import math
from enum import Enum
from pathlib import Path
from typing import Any

import pandas
import pytest

from experiment_manager import Experiment, current_job
from experiment_manager.cli.main import main
from experiment_manager.model import codec

NO_ROWS = ["job", "state", "attempt", "seed", "shape", "score", "big", "where", "loss"]


class Colour(Enum):
    """A value that JSON has no word for."""

    RED = 1


@pytest.fixture
def study(tmp_path: Path) -> Experiment:
    """Two jobs with values of every kind, one of which has run."""
    experiment = Experiment(["seed", "shape"], "study", tmp_path)
    for seed in (1, 2):
        shape = (seed, 0.5)
        odd = {"path": Path("a/b"), "colour": Colour.RED, "nan": math.nan, "by_number": {3: (1, 2)}, "bytes": b"x"}
        experiment.add_job({"seed": seed, "shape": shape}, {"shape": shape, **odd})
    experiment.save()
    experiment.save_pass_filter([0, 1])

    def run(*_: object) -> dict[str, object]:
        current_job().log_metrics(1, loss=0.5)
        return {"score": 1.5, "big": 2**80, "where": {"at": (1, Path("c"))}}

    experiment.run_id(0, run)
    return experiment


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The output of a command."""
    assert 0 == main(arguments)
    return capsys.readouterr().out


def test_columns_are_there_where_no_row_is(study: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    """Frames and files of a filter that matches nothing have the columns that they would have with rows."""
    none = "seed == 77"
    assert NO_ROWS == list(study.results().columns) == list(study.results(none).columns)
    assert math.isnan(study.results(none)["score"].mean())
    assert list(study.metrics().columns) == list(study.metrics(none).columns)
    path = study.folder.path
    assert ",".join(NO_ROWS) + "\n" == printed(capsys, "results", path, "--where", none, "--format", "csv")
    asked = ["--format", "csv", "--columns", "lo*,job"]
    assert "loss,job\n" == printed(capsys, "results", path, "--where", none, *asked)
    assert "loss,job\n0.5,0\n,1\n" == printed(capsys, "results", path, *asked)
    assert 2 == main(["results", path, "--columns", "nonsense"])
    assert "'nonsense' is no column; the columns are job, state, attempt, seed" in capsys.readouterr().err
    printed(capsys, "results", path, "--where", none, "--out", f"{path}/none.parquet")
    assert NO_ROWS == list(pandas.read_parquet(f"{path}/none.parquet").columns)


def test_large_integers_keep_their_digits(tmp_path: Path) -> None:
    """In frames and in Parquet, whichever jobs lack them, or have text or NaN in their place. Beside floats
    a column is of floats, which can be averaged."""
    experiment = Experiment(["seed"], "large", tmp_path)
    for seed in range(4):
        experiment.add_job({"seed": seed}, {})
    experiment.save()
    experiment.save_pass_filter(range(4))
    large, larger = 2**60 + 1, 2**63 + 5
    left = (
        {"hash": large, "mixed": large, "huge": 2**80, "few": 3, "unsigned": larger, "wide": larger, "real": large},
        {"mixed": "none", "huge": 1, "few": 4, "unsigned": 2**64 - 1, "wide": -1, "real": 1e18},
        {"hash": -large, "wide": math.nan, "real": math.nan, "unsigned": math.nan},
    )
    for job_id, result in enumerate(left):
        experiment.run_id(job_id, lambda *_, result=result: result)
    path = f"{experiment.folder.path}/it.parquet"
    assert 0 == main(["results", experiment.folder.path, "--out", path])
    frame, read = experiment.results(), pandas.read_parquet(path)
    for each in (frame, read):
        assert [large, -large] == list(each["hash"].dropna())
        assert [str(large), "none"] == list(map(str, each["mixed"].dropna()))
        assert [2**80, 1] == list(map(int, each["huge"].dropna()))
        assert [larger, 2**64 - 1] == list(each["unsigned"].dropna())
        assert [larger, -1] == list(map(int, each["wide"].dropna()))
        assert [float(large), 1e18] == list(each["real"].dropna())
        assert {2} == set(each[["hash", "mixed", "huge", "few", "unsigned", "wide", "real"]].isna().sum())
        types = [str(each[name].dtype) for name in ("hash", "unsigned", "few", "real")]
        assert ["Int64", "UInt64", "float64", "float64"] == types  # of floats where those hold all digits


def test_no_field_takes_the_place_of_another(tmp_path: Path) -> None:
    """A number and the text of it are two names of a result, in whichever order they come, and two columns."""
    experiment = Experiment(["seed"], "named", tmp_path)
    returned: tuple[dict[Any, float], ...] = ({1: 2.0, "1": 3.0}, {"1": 3.0, 1: 2.0, "1 (int)": 4.0}, {1: 2.0})
    for seed in range(len(returned)):
        experiment.add_job({"seed": seed}, {})
    experiment.save()
    experiment.save_pass_filter(range(len(returned)))
    for job_id, result in enumerate(returned):
        experiment.run_id(job_id, lambda *_, result=result: result)
    assert [
        {"1 (int)": 2.0, "1": 3.0},
        {"1": 3.0, "1 (int) (int)": 2.0, "1 (int)": 4.0},
        {"1": 2.0},
    ] == [row["result"] for row in experiment.result_rows()]


def test_no_tag_reaches_people(study: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    """`show`, `diff`, tables, CSV and Parquet have tuples, paths, enums and NaN as people write them."""
    path = study.folder.path
    shown = printed(capsys, "show", path, "0")
    for line in ("shape: [1, 0.5]", "path: a/b", "colour: RED", "nan: .nan", "3: [1, 2]"):
        assert f"  {line}" in shown
    assert "(1,0.5)" in printed(capsys, "diff", path, "0", "1")
    (row, _) = csv.DictReader(io.StringIO(printed(capsys, "results", path, "--format", "csv")))
    assert ("[1, 0.5]", '{"at": [1, "c"]}', str(2**80)) == (row["shape"], row["where"], row["big"])
    printed(capsys, "results", path, "--out", f"{path}/it.parquet")
    assert str(2**80) == pandas.read_parquet(f"{path}/it.parquet")["big"][0]
    told = shown + "".join(printed(capsys, verb, path) for verb in ("jobs", "results", "status"))
    assert [] == [tag for tag in ("$tuple", "$path", "$enum", "$float", "$dict", "$bytes") if tag in told]


def test_values_of_other_types_read_differently() -> None:
    """A list is no tuple and a path is no text, also for people."""
    values = [[1, 2], (1, 2), "a", Path("a"), Colour.RED, "RED", {1: 2}, {"1": 2}, math.nan, "nan", b"a", (), {}]
    assert len(values) == len({codec.readable(codec.encode(value)) for value in values})
