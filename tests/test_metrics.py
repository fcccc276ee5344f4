"""The course of a job through its attempts, which curves, frames, exports and `clean` go by."""

import json
import os
from collections import ChainMap, Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Barrier
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_manager import Experiment, current_job
from experiment_manager.analysis.export.runs import Notes, points, run_of
from experiment_manager.analysis.series import logged_series
from experiment_manager.model.records import JobId, State
from experiment_manager.report.curves import Logbook
from experiment_manager.store.layout import Folder
from experiment_manager.store.metrics import Metric, course, last_logged, last_of_course, not_logged_again, read_metrics
from experiment_manager.store.states import StateTable

Line = tuple[float | None, dict[str, Any]]
"""A step, and what was logged at it."""


def attempted(experiment: Experiment, *attempts: Sequence[Line]) -> None:
    """Job 0 has logged this, attempt by attempt, of which all but the last one failed."""
    for number, lines in enumerate(attempts, start=1):

        def runner(*_: Any, lines: Sequence[Line] = lines, number: int = number) -> None:
            for step, values in lines:
                current_job().log_metrics(values, step=step)
            if number < len(attempts):
                raise ValueError("the node went down")

        with suppress(ValueError):
            experiment.run_id(0, runner)


@pytest.fixture
def one(tmp_path: Path) -> Experiment:
    experiment = Experiment(["seed"], "train", tmp_path)
    experiment.add_job({"seed": 1}, {"seed": 1})
    experiment.save()
    experiment.save_pass_filter([0])
    return experiment


def steps(first: int, last: int, **more: Any) -> list[Line]:
    return [(step, {"loss": 1 / step, **more}) for step in range(first, last)]


@pytest.mark.parametrize(
    "end",
    [[(None, {"test_acc": 0.9})], [(3, {"epoch_val": 0.5})], [(None, {"loss": 0.1})], [(float("nan"), {"acc": 1})]],
)
def test_what_a_later_attempt_did_not_log_again_counts(one: Experiment, end: Sequence[Line]) -> None:
    """Whatever an attempt that went on logs besides, without a step or by another counter, each metric keeps its steps
    before the first one at which it was logged again; `clean` removes nothing of it."""
    attempted(one, steps(1, 6), [*steps(4, 9), *end])
    before = one.metrics()
    of_loss = before[(before.metric == "loss") & before.step.notna()]
    assert [*range(1, 9)] == [int(step) for step in of_loss.step]
    assert [1, 1, 1, 2, 2, 2, 2, 2] == list(of_loss.attempt)
    one.clean()
    assert before.to_csv() == one.metrics().to_csv()


def test_a_job_begun_anew_has_nothing_of_before(one: Experiment) -> None:
    """An attempt that begins where an earlier one had begun has no course before it, also of metrics that it did not
    come to; but what nobody has logged again stays on the disk."""
    attempted(one, [*steps(1, 6), (None, {"test_acc": 0.1})], steps(1, 3))
    assert [("loss", 2)] * 2 == list(one.metrics()[["metric", "attempt"]].itertuples(index=False, name=None))
    one.clean()
    assert os.path.exists(one.folder.of_attempt(0, 1, "metrics"))
    attempted(one, steps(1, 4))
    one.clean()
    assert not os.path.exists(one.folder.of_attempt(0, 2, "metrics"))


@pytest.mark.parametrize(
    ("again", "expected"),
    [
        ([(1, {"loss": 0.1})], {"loss": 0.1}),
        ([(1, {"loss": 0.1}), *steps(1, 3)], {"loss": 0.5}),
        ([(9, {"lss": 50})], {"lss": 50, "final": 100}),
        ([], {"lss": 100, "final": 100}),
    ],
)
def test_what_had_completed_counts_beside_what_goes_on_from_it_alone(
    one: Experiment, again: Sequence[Line], expected: Mapping[str, float]
) -> None:
    """A job that had completed and is run again has what the newest attempt that completed has logged, also where it
    logs under other names; what is of before counts where a metric begins further on, or nothing was logged at all."""
    attempted(one, [(1, {"lss": 100}), (2, {"lss": 100}), (None, {"final": 100})])
    on_disk = one.folder.of_attempt(0, 1, "metrics")
    attempted(one, again)
    (row,) = one.result_rows()
    assert expected == row["metrics"] == Logbook(one.folder, one.states()).last(0)
    one.clean()
    assert os.path.exists(on_disk)


def test_what_led_to_a_replaced_end_is_replaced_with_it(one: Experiment) -> None:
    """Of a job that failed, went on and completed, and then is run anew, nothing of before counts, by whatever name;
    also once the attempt that had completed is cleaned away as far as it can be."""
    attempted(one, [(1, {"lss": 9}), (2, {"lss": 8})], [(3, {"loss": 7}), (4, {"loss": 6})])
    attempted(one, [(1, {"loss": 5}), (5, {"loss": 4})])
    for _ in range(2):
        assert [{"loss": 4}] == [row["metrics"] for row in one.result_rows()]
        one.clean()


def test_two_attempts_that_went_on_from_the_same_checkpoint(one: Experiment) -> None:
    """The second of them takes the place of the first, and of nothing before; what is logged once at each start, as a
    number of parameters, tells nothing of where an attempt began."""
    start: Line = (0, {"n_parameters": 7})
    attempted(one, [start, *steps(1, 6)], [start, *steps(5, 8)], [start, *steps(5, 7)])
    frame = one.metrics()
    found = frame[frame.metric == "loss"][["attempt", "step"]].itertuples(index=False, name=None)
    assert [(1, 1), (1, 2), (1, 3), (1, 4), (3, 5), (3, 6)] == list(found)
    attempted(one, [start])
    assert {1, 3} == set(one.metrics().query("metric == 'loss'").attempt)


def test_a_job_that_had_nothing_left_to_log_has_its_last_metrics(one: Experiment) -> None:
    """Rows, filters and reports go by the whole course of a job, also where its last attempt has logged nothing, or one
    metric alone."""
    attempted(one, steps(1, 6, acc=0.5), [], [(9, {"acc": 0.7})])
    (row,) = one.result_rows()
    assert {"loss": 0.2, "acc": 0.7} == row["metrics"]
    assert [0] == one.get_ids("metric.loss == 0.2")
    assert row["metrics"] == Logbook(one.folder, one.states()).last(0)


@pytest.mark.parametrize("is_anew", [True, False])
def test_a_row_is_of_one_attempt(one: Experiment, is_anew: bool) -> None:
    """Of a job that had completed before it failed, the result and the metrics are those with which it completed, also
    in frames, curves and filters; an exported run is of its own attempt."""

    def runner(*_: Any) -> float:
        is_first = not current_job().resumed
        current_job().log_metrics(step=2 if is_first or is_anew else 3, loss=0.1 if is_first else 99)
        return 0.9 / is_first

    one.run_id(0, runner)
    with pytest.raises(ZeroDivisionError):
        one.run_id(0, runner)
    (row,) = one.result_rows()
    assert ("FAILED", {"result": 0.9}, {"loss": 0.1}) == (row["state"], row["result"], row["metrics"])
    assert (2, 1) == (row["attempt"], row["of_attempt"])
    logbook, table = Logbook(one.folder, one.states()), one.states()
    assert ({"loss": 0.1}, [(2, {"loss": 0.1})]) == (logbook.last(0), logbook.course(0))
    assert [(1, 2, 0.1)] == list(one.metrics()[["attempt", "step", "value"]].itertuples(index=False, name=None))
    assert [0.1] == list(logged_series(one.folder, table, 0)["loss"].values)
    assert [0] == one.get_ids("metric.loss == 0.1")
    run = run_of(one.folder, one.job(0), table, None)
    assert ("train.0.2", "FAILED", {}) == (run.name, run.state, run.summary)
    assert 99 == points(one.folder, run, table, Notes())[-1].values["loss"]


def test_what_counts_of_a_job_that_was_run_again_is_not_removed(one: Experiment) -> None:
    """A job that went on from a checkpoint, completed, and was begun anew and failed has the course with which it
    completed; `clean` leaves the attempt that this began with."""
    attempted(one, steps(1, 6), steps(4, 9))

    def failing(*_: Any) -> None:
        for step, values in steps(1, 3):
            current_job().log_metrics(values, step=step)
        raise ValueError("the node went down")

    with pytest.raises(ValueError, match="the node"):
        one.run_id(0, failing)
    before = one.metrics()
    assert [1, 1, 1, 2, 2, 2, 2, 2] == list(before.attempt)
    one.clean()
    assert before.to_csv() == one.metrics().to_csv()
    assert os.path.exists(one.folder.of_attempt(0, 1, "metrics"))


class Odd:
    def __repr__(self) -> str:
        raise AssertionError


def test_no_value_that_is_logged_ends_a_job(one: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    """What has a plain form is stored in it, as in a result; what has none is left out, which is said once, and the
    rest of the line is there."""
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    endless: list[Any] = []
    endless.append(endless)

    def runner(*_: Any) -> str:
        steps: tuple[Any, ...] = (1, Decimal(2))
        for step in steps:
            current_job().log_metrics(
                step=step, loss=Decimal("0.5"), at=moment, odd=Odd(), endless=endless,
                conf=numpy.array([0.25, 0.75]), one=numpy.array(2.0), many=numpy.zeros(20_000),
            )  # fmt: skip
        current_job().log_metrics(step=Odd(), loss=1)  # type: ignore[arg-type]
        current_job().log_metrics(Odd())  # type: ignore[arg-type]
        return "done"

    one.run_id(0, runner)
    assert ["odd", "endless", "many", "step"] == [
        line.split(": ")[1].split()[0] for line in capsys.readouterr().err.splitlines()
    ]
    first, second, third, _ = read_metrics(one.folder, 0, 1)
    plain = {"loss": 0.5, "at": moment.isoformat(), "conf": [0.25, 0.75], "one": 2.0}
    assert [(1, plain), (2, plain), (None, {"loss": 1})] == [
        (metric.step, metric.values) for metric in (first, second, third)
    ]


def test_a_step_that_is_no_number_is_that_everywhere(one: Experiment) -> None:
    """NaN is a step in tables, and beside a job that runs; it has no place in a course."""
    attempted(one, [(float("nan"), {"loss": 1}), (2, {"loss": 2})], [(3, {"loss": 3}), (float("nan"), {"acc": 1})])
    assert [2, 3] == list(one.metrics().step.dropna())
    (step,) = (value for name, value in (last_logged(one.folder, 0, 2) or {}).items() if name == "step")
    assert step != step


_VALUES = st.dictionaries(st.sampled_from("abc"), st.just(0), min_size=1)
_STATES = st.sampled_from([State.FAILED, State.COMPLETED, State.PRUNED, State.TIMEOUT])
_LINES = st.lists(st.tuples(st.none() | st.integers(0, 5), _VALUES), max_size=6)


@pytest.mark.hypothesis
@given(attempts=st.lists(st.tuples(_LINES, _STATES), min_size=1, max_size=4))
def test_what_is_removed_changes_no_course(attempts: Sequence[tuple[Sequence[Line], State]]) -> None:
    """Of whatever attempts, those that can be removed are not in the course of the job, and without them it is the
    same; it ends with what the last attempt up to the one that counts has logged, as it is."""
    numbered = dict(enumerate(attempts, start=1))
    logged = {number: [Metric(step, 0.0, values) for step, values in lines] for number, (lines, _) in numbered.items()}

    def found(there: Mapping[int, Sequence[Metric]]) -> list[tuple[int, list[Metric]]]:
        return course(FOLDER, table, 0, read=lambda number: list(there.get(number, ())))

    table = StateTable({JobId(0): {number: state for number, (_, state) in numbered.items()}}, ())
    until = table.counted(0) or len(attempts)
    whole = found(logged)
    kept = not_logged_again(FOLDER, table, 0, read=lambda number: logged[number])
    assert {number for number, _ in whole} <= kept
    assert whole == found({number: logged[number] for number in kept})
    last = [metrics for number, metrics in logged.items() if metrics and number <= until][-1:]
    assert last == [metrics for _, metrics in whole][-1:]


@pytest.mark.hypothesis
@given(attempts=st.lists(st.tuples(_LINES, _STATES), min_size=1, max_size=4))
def test_the_last_values_are_those_of_the_course(attempts: Sequence[tuple[Sequence[Line], State]]) -> None:
    """Of whatever attempts, though most are told without looking at steps."""
    table = StateTable({JobId(0): {number: state for number, (_, state) in enumerate(attempts, start=1)}}, ())
    with TemporaryDirectory() as there:
        folder = Folder(there, "train")
        for number, (lines, _) in enumerate(attempts, start=1):
            path = Path(folder.of_attempt(0, number, "metrics"))
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w") as file:
                for place, (step, values) in enumerate(lines):
                    line = {"step": step, "time": 1.0, "values": dict.fromkeys(values, (number, place))}
                    file.write(json.dumps(line) + "\n")
        whole = [metric.values for _, metrics in course(folder, table, 0) for metric in metrics]
        assert dict(ChainMap(*reversed(whole))) == last_of_course(folder, table, 0)


def test_several_threads_may_log(one: Experiment) -> None:
    """Each line is whole, and nothing stands between two."""

    def runner(*_: Any) -> None:
        begin = Barrier(4)

        def logs(which: int) -> None:
            begin.wait()
            for step in range(200):
                current_job().log_metrics({f"of_{which}": step}, step=step)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(logs, range(4)))

    one.run_id(0, runner)
    lines = Path(one.folder.of_attempt(0, 1, "metrics")).read_text().split("\n")
    assert "" == lines.pop()
    assert dict.fromkeys(["of_0", "of_1", "of_2", "of_3"], 200) == Counter(
        name for line in lines for name in json.loads(line)["values"]
    )


FOLDER = Folder("/nowhere", "train")
