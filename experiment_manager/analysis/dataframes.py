"""Results and metrics as pandas DataFrames, and as files: what people plot and analyse with."""

import csv
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from experiment_manager.errors import ExperimentManagerError
from experiment_manager.model import codec
from experiment_manager.model.records import Job
from experiment_manager.store.layout import Folder, writing
from experiment_manager.store.metrics import course
from experiment_manager.store.states import StateTable
from experiment_manager.text import skipped, stream_of

if TYPE_CHECKING:
    import pandas

FORMATS: Final = ("table", "csv", "json", "parquet")


def results_frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> "pandas.DataFrame":
    """One row per job, flat: `job`, `state`, `attempt`, the variables, the fields of the result, the last metrics. It
    has the `columns` also where it has no rows.

    Raises ExperimentManagerError where pandas is not installed.
    """
    frame: pandas.DataFrame = _pandas().DataFrame(list(rows), columns=None if rows else list(columns))
    return frame


def metrics_frame(
    folder: Folder, jobs: Iterable[Job], table: StateTable, variables: Sequence[str]
) -> "pandas.DataFrame":
    """One row per value that a job has logged, in all attempts that make its course: `job`, the variables, `attempt`,
    `step`, `time` (seconds since the epoch), `metric`, `value`; with these columns also where nothing was logged.

    Long, as seaborn takes it: `sns.lineplot(data=exp.metrics(), x="step", y="value", hue="algorithm", row="metric")`.
    """
    made = _pandas().DataFrame
    heads: list[dict[str, Any]] = []
    counts: list[int] = []
    logged: dict[str, list[Any]] = {"step": [], "time": [], "metric": [], "value": []}
    for job in jobs:
        for number, metrics in course(folder, table, job.id, skipped):
            logged["step"] += [metric.step for metric in metrics for _ in metric.values]
            logged["time"] += [metric.time for metric in metrics for _ in metric.values]
            logged["metric"] += [name for metric in metrics for name in metric.values]
            logged["value"] += [value for metric in metrics for value in metric.values.values()]
            heads.append(_metrics_head(job.id, job.variables, number))
            counts.append(sum(len(metric.values) for metric in metrics))
    head = made(heads, columns=None if heads else list(_metrics_head(0, dict.fromkeys(variables), 0)))
    frame: pandas.DataFrame = head.loc[head.index.repeat(counts)].reset_index(drop=True).assign(**logged)
    return frame


def _metrics_head(job_id: int, variables: Mapping[str, Any], attempt: int) -> dict[str, Any]:
    """What all rows of a job have in common; a variable whose name is taken is prefixed, as `variables.step`."""
    taken = ("job", "attempt", "step", "time", "metric", "value")
    named = {f"variables.{name}" if name in taken else name: value for name, value in variables.items()}
    return {"job": int(job_id), **named, "attempt": attempt}


def write_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Rows on standard output, with a line of names; lists and mappings as JSON."""
    writer = csv.writer(stream_of(sys.stdout), lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in columns])


def write_parquet(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], path: str) -> None:
    """Rows as a Parquet file; a column that holds values of several types, or integers beyond 64 bits, as text.

    Raises ExperimentManagerError where pandas or pyarrow is not installed, or the file cannot be written.
    """
    frame = results_frame([{name: _cell(value) for name, value in row.items()} for row in rows], columns)
    for name in frame.columns:
        there = [value for value in frame[name] if value is not None and value == value]
        if len(set(map(type, there))) > 1 or any(map(_is_too_large, there)):
            frame[name] = frame[name].map(lambda value: value if value is None or value != value else str(value))
    try:
        with writing(os.path.abspath(path)):
            frame.to_parquet(path)
    except ImportError as error:
        raise ExperimentManagerError(_install("pyarrow")) from error


def _is_too_large(value: Any) -> bool:
    return type(value) is int and not -(2**63) <= value < 2**63


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    plain = codec.plain(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise ExperimentManagerError(_install("pandas")) from error
    return pandas


def _install(package: str) -> str:
    return f"{package} is not installed: pip install 'hydra-experiment-manager[analysis]'"
