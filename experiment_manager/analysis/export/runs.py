"""The runs of an experiment as programs that track experiments take them: flat parameters, numbers by step, a summary.

A run is the last attempt of a job, once that has ended, with what that attempt has returned; its metrics are the course
of the job through all attempts.
"""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from experiment_manager.analysis.results import result_fields
from experiment_manager.model import codec
from experiment_manager.model.ids import which
from experiment_manager.model.records import ENDED, ENDED_WELL, Job, State
from experiment_manager.store.documents import END, read_optional
from experiment_manager.store.files import number_in
from experiment_manager.store.layout import Folder
from experiment_manager.store.metrics import Metric, course
from experiment_manager.store.states import States, StateTable
from experiment_manager.text import counted, one_line, skipped, tell

STEP: Final = "step"
"""The metric that has the steps of jobs whose steps are no whole numbers; they are counted instead."""

_SHAPE: Final = 1  # goes up when equal jobs are to be exported again, as when more of them is


class Mark(NamedTuple):
    """What a run bears where it was exported to: whose it is, and what was known of it then."""

    origin: str
    digest: str


class Run(NamedTuple):
    """An attempt that has ended, without its metrics."""

    name: str  # train.7.1: experiment, job, attempt
    experiment: str
    job: int
    attempt: int
    state: str
    reason: str | None
    start: float  # seconds since the epoch
    end: float
    parameters: dict[str, Any]  # text, numbers, true and false, None
    summary: dict[str, Any]  # the same, of the result
    mark: Mark

    @property
    def is_done(self) -> bool:
        return self.state == State.COMPLETED

    @property
    def about(self) -> dict[str, str]:
        """What is neither a parameter nor a value, as tags."""
        tags = {"experiment": self.experiment, "job": str(self.job), "attempt": str(self.attempt), "state": self.state}
        return tags if self.reason is None else {**tags, "reason": one_line(self.reason)}


class Point(NamedTuple):
    """Numbers of one step."""

    step: int
    time: float  # seconds since the epoch
    values: dict[str, float]


class Notes:
    """What a target has no place for, and the jobs that have it; people are told once, at the end."""

    def __init__(self) -> None:
        self._found: dict[str, list[int]] = defaultdict(list)

    def note(self, what: str, job: int) -> None:
        if job not in self._found[what][-1:]:
            self._found[what].append(job)

    def tell(self) -> None:
        for what, jobs in self._found.items():
            tell(f"{what}: {counted(len(jobs))} ({which(jobs)})")


def ended(jobs: Iterable[Job], table: StateTable) -> list[Job]:
    """The jobs whose last attempt has ended, and was no dry pass."""
    return [job for job in jobs if table.state(job.id) in ENDED - {State.FAKE}]


def run_name(folder: Folder, job: Job, table: StateTable) -> str:
    """The name of a run: experiment, job, attempt."""
    return f"{folder.name}.{job.id}.{table.standing(job.id).number}"


def origin_of(folder: Folder, job: Job, table: StateTable) -> str:
    """What tells the last attempt of a job from that of any other experiment: who ran it, and when it began."""
    return _digest(States(folder).record(job.id, table.standing(job.id).number))


def run_of(folder: Folder, job: Job, table: StateTable, configuration: Any) -> Run:
    """The run of a job that has ended."""
    last, states = table.standing(job.id), States(folder)
    anchor = states.record(job.id, last.number)
    end = read_optional(folder.of_attempt(job.id, last.number, "attempt"), END)
    start = number_in(anchor, "start") or number_in(end, "start") or 0.0
    result, _ = result_fields(folder, job.id, last.number if last.state in ENDED_WELL else None)
    reason = end.get("reason")
    known: dict[str, Any] = {
        "state": str(last.state),
        "reason": None if reason is None else str(reason),
        "start": start,
        "end": max(start, number_in(end, "end") or start),
        "parameters": {**flat(configuration or {}), **flat(job.variables)},
        "summary": flat(result),
    }
    numbers = sorted(table.attempts[job.id])
    if len(numbers) > 1:  # what is not exported may be gone the next time
        numbers = [number for number, _ in course(folder, table, job.id, until=last.number)]
    logged = [_size(folder.of_attempt(job.id, number, "metrics")) for number in numbers]
    mark = Mark(_digest(anchor), _digest([_SHAPE, known, logged]))
    return Run(run_name(folder, job, table), folder.name, int(job.id), last.number, mark=mark, **known)


def points(folder: Folder, run: Run, table: StateTable, notes: Notes) -> list[Point]:
    """The numbers that a job has logged, in the order of their steps; those of one step are together.

    Where a step is no whole number, or missing, all are counted from 0 in their order, and `step` is a metric.
    """
    metrics = [metric for _, found in course(folder, table, run.job, skipped, until=run.attempt) for metric in found]
    steps = [_whole(metric.step) for metric in metrics]
    is_counted = None in steps
    if is_counted:
        notes.note("steps that are no whole numbers are counted from 0, and logged as `step`", run.job)
    found: dict[int, Point] = {}
    for place, (metric, step) in enumerate(zip(metrics, steps, strict=True)):
        values = _numbers(metric, run.job, notes)
        if is_counted:
            step = place
            if codec.is_number(metric.step):
                values.setdefault(STEP, codec.as_float(metric.step))
        if values and step is not None:
            known = found.setdefault(step, Point(step, metric.time, {})).values
            if known.keys() & values:
                notes.note("of several values of a metric at the same step, the last is exported", run.job)
            known.update(values)
    return [found[step] for step in sorted(found)]


def flat(value: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by their dotted names; what is no scalar as JSON.

    >>> flat({"lr": 0.1, "net": {"layers": [64, 64], "act": "relu"}})
    {'lr': 0.1, 'net.layers': '[64, 64]', 'net.act': 'relu'}
    """
    leaves: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{above}.{key}" if above else str(key)
        if isinstance(item, Mapping) and item:
            leaves.update(flat(item, name))
        else:
            leaves[name] = _scalar(item)
    return leaves


def _scalar(value: Any) -> Any:
    if type(value) is int and not -(2**63) <= value < 2**63:
        return str(value)  # which no program of them has a number for
    if value is None or isinstance(value, str | bool | int | float):
        return value
    plain = codec.plain(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _numbers(metric: Metric, job: int, notes: Notes) -> dict[str, float]:
    values = {}
    for name, value in metric.values.items():
        if codec.is_number(value) or isinstance(value, bool):
            values[name] = codec.as_float(value)
        else:
            notes.note(f"metric {one_line(name)} is left out where it is no number", job)
    return values


def _whole(step: Any) -> int | None:
    return int(step) if codec.is_number(step) and step == step and abs(step) < 2**63 and step == int(step) else None


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _digest(value: Any) -> str:
    return codec.digest_text(json.dumps(value, sort_keys=True, default=str))[:16]


Configuration = Callable[[int], Any]
"""Gives all parameters of a job, as plain values; None where it has none."""
