"""A metric of one job by step: its values in order, and what they are between two steps."""

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from experiment_manager.model.codec import as_float, is_number
from experiment_manager.store.layout import Folder
from experiment_manager.store.metrics import course
from experiment_manager.store.states import StateTable


class Series(NamedTuple):
    """One metric of one job: values at strictly ascending steps, which are `given`, or else the order of logging."""

    steps: Sequence[float]
    values: Sequence[float]
    given: bool


def series_of(logged: Iterable[tuple[float | None, Mapping[str, Any]]]) -> dict[str, Series]:
    """Each numeric metric of one job, out of its steps and values as they were logged.

    Of values logged twice at a step the last one counts. Where a step is missing, or no finite number, the values of
    that metric are numbered from 0 in their order.

    >>> series_of([(2, {"loss": 1}), (1, {"loss": 3})])["loss"].values.tolist()
    [3.0, 1.0]
    """
    found: dict[str, tuple[list[float | None], list[float]]] = {}
    for step, values in logged:
        at = as_float(step) if is_number(step) else math.nan
        for name, value in values.items():
            if is_number(value):
                steps, numbers = found.setdefault(name, ([], []))
                steps.append(at if math.isfinite(at) else None)
                numbers.append(as_float(value))
    return {name: _ordered(steps, numbers) for name, (steps, numbers) in found.items()}


def _ordered(steps: Sequence[float | None], values: Sequence[float]) -> Series:
    given = [step for step in steps if step is not None]
    if len(given) < len(steps):
        return Series(array("d", range(len(values))), array("d", values), False)
    if any(step >= following for step, following in pairwise(given)):
        last = dict(zip(given, values, strict=True))
        given = sorted(last)
        values = [last[step] for step in given]
    return Series(array("d", given), array("d", values), True)


def logged_series(folder: Folder, table: StateTable, job_id: int) -> dict[str, Series]:
    """The metrics that a job has logged, through all of its attempts that count."""
    attempts = course(folder, table, job_id)
    return series_of((metric.step, metric.values) for _, metrics in attempts for metric in metrics)


def thinned(steps: Sequence[float], most: int) -> list[float]:
    """At most so many of the steps, the first and the last among them.

    >>> thinned([0, 1, 2, 3, 4], 3), thinned([0, 1], 3)
    ([0, 2, 4], [0, 1])
    """
    if len(steps) <= most:
        return list(steps)
    return [steps[round(place * (len(steps) - 1) / (most - 1))] for place in range(most)]


def sampled(series: Series, steps: Sequence[float]) -> list[float | None]:
    """The values of a job at these steps; None before its first and after its last one."""
    if len(steps) == len(series.steps) and list(steps) == list(series.steps):
        return list(series.values)
    own, values = series.steps, series.values
    sampled: list[float | None] = []
    for step in steps:
        place = bisect_left(own, step)
        if place < len(own) and own[place] == step:
            sampled.append(values[place])
        elif 0 < place < len(own):
            part = (step - own[place - 1]) / (own[place] - own[place - 1])
            sampled.append(values[place - 1] * (1 - part) + values[place] * part)
        else:
            sampled.append(None)
    return sampled


def common_steps(runs: Sequence[Series | None], most: int) -> list[float]:
    """The steps of some runs that lie within the course of each, at most so many of them; none where there is none, or
    where a run has not logged the metric.

    >>> common_steps([Series([0, 1, 2], [5, 6, 7], True), Series([1, 3], [5, 6], True)], 10)
    [1, 2]
    """
    there = [run for run in runs if run is not None]
    if not there or len(there) < len(runs):
        return []
    first, last = max(run.steps[0] for run in there), min(run.steps[-1] for run in there)
    steps = sorted(set().union(*(run.steps for run in there)))
    return thinned([step for step in steps if first <= step <= last], most)
