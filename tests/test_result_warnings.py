"""Results that are not whole: what could not be stored, and what is NaN, is told wherever people look."""

import csv
import io
import re

import pandas

from experiment_manager import Experiment
from tests.conftest import Program

RETURNS = """import hydra

@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg):
    nan = float("nan")
    return [{"score": 0.5, "model": object()}, object(), {"score": nan, "curve": [nan]}, 1.0][cfg.seed]

if __name__ == "__main__":
    main()
"""


def test_results_that_are_not_whole_are_told(program: Program) -> None:
    """At the end of the sweep, in `status`, and in a column of `results`; an ordinary result is not mentioned, and a
    column of numbers stays one."""
    (program.home / "train.py").write_text(RETURNS)
    done = program.sweep("seed=0,1,2,3")
    assert 0 == done.returncode, done.stderr
    said = [
        r"1 job COMPLETED without a part of its result, which is not stored: model is a builtins\.object.* \(job 0\)",
        r"1 job COMPLETED without a part of its result, which is not stored: result is a builtins\.object.* \(job 1\)",
        r"1 job COMPLETED with NaN as its score \(job 2\)",
    ]
    for text in (done.stderr, program.tool("status").stdout):
        lines = [line for line in text.splitlines() if " COMPLETED with" in line]
        assert [1, 1, 1] == [len(re.findall(f"^{each}$", text, re.MULTILINE)) for each in said], text
        assert 3 == len(lines)
    status, rows = program.told("status"), program.told("results")
    assert [[0], [1], [2]] == [warning["jobs"] for warning in status["warnings"]]
    assert [["model"], ["result"], [], []] == [list(row["refused"]) for row in rows]
    assert ["not stored", "not stored"] == [rows[0]["result"]["model"], rows[1]["result"]["result"]]

    found = list(csv.DictReader(io.StringIO(program.tool("results", "--format", "csv").stdout)))
    assert ["", "", "", "1.0"] == [row["result"] for row in found]
    assert [True, True, False, False] == ["cannot be stored" in row["refused"] for row in found]
    frame = Experiment.at(program.experiment).results()
    assert pandas.api.types.is_float_dtype(frame["result"])
    assert [False, False, True, True] == list(frame["refused"].isna())
    assert {"0.1", "1.1", "2.1"} == {path.name for path in (program.experiment / "warnings").iterdir()}
    experiment = Experiment.at(program.experiment)
    (program.experiment / "states/2.1.COMPLETED").rename(program.experiment / "states/2.1.FAILED")
    assert [(0,), (1,)] == [warning.ids for warning in experiment.status().warnings]
