"""Learning curves: which metrics the jobs of each group have logged, their mean over seeds, and how sure it is.

The band is the 95 % confidence interval of the mean after Student: mean ± t · s / √n, with the sample's deviation s and
the quantile t for n - 1 degrees of freedom. It assumes roughly normal values; one job alone has no band.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from experiment_manager.analysis.series import Series, sampled, series_of, thinned
from experiment_manager.store.layout import Folder
from experiment_manager.store.metrics import Metric, course
from experiment_manager.store.states import StateTable
from experiment_manager.text import skipped

_QUANTILES: Final = (12.7062, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.306, 2.26216, 2.22814)
_NORMAL: Final = 1.959964
_DIGITS: Final = 9


class Estimate(NamedTuple):
    """A mean over `n` values; `half` is half the width of its confidence interval, None for a single value."""

    mean: float
    half: float | None
    n: int


class Curve(NamedTuple):
    """The curve of one group; None where a value is not finite, or a single job has no band."""

    steps: list[float]
    means: list[float | None]
    lows: list[float | None]
    highs: list[float | None]
    counts: list[int]


def quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t, to four digits.

    Up to ten degrees of freedom from the table, then by Cornish and Fisher's expansion.

    >>> quantile(2), round(quantile(11), 3), round(quantile(100), 3)
    (4.30265, 2.201, 1.984)
    """
    if degrees <= len(_QUANTILES):
        return _QUANTILES[degrees - 1]
    z = _NORMAL
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of some values, at least one, and its confidence. What is not finite makes the outcome so.

    >>> estimate([1.0, 3.0])
    Estimate(mean=2.0, half=12.7062, n=2)
    """
    count = len(values)
    mean = sum(values) / count
    if count < 2:
        return Estimate(mean, None, count)
    squares = sum((value - mean) * (value - mean) for value in values)
    return Estimate(mean, quantile(count - 1) * math.sqrt(squares / (count - 1) / count), count)


def mean_curve(members: Sequence[Series], most: int) -> Curve:
    """The mean of some jobs at every step that one of them has logged, or at `most` of these, evenly chosen.

    A job counts from its first to its last step, between two of its steps on the straight line that joins them, and
    never beyond: `counts` says how many jobs a mean is of.
    """
    steps = thinned(sorted(set().union(*(member.steps for member in members))), most)
    at_steps = zip(*(sampled(member, steps) for member in members), strict=True)
    curve = Curve(steps, [], [], [], [])
    for values in at_steps:
        found = estimate([value for value in values if value is not None])
        curve.means.append(_shown(found.mean))
        curve.lows.append(None if found.half is None else _shown(found.mean - found.half))
        curve.highs.append(None if found.half is None else _shown(found.mean + found.half))
        curve.counts.append(found.n)
    return curve


def _shown(value: float) -> float | None:
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None


MOST_POINTS: Final = 1_000
"""Of one curve."""
_MOST_IN_ALL: Final = 250_000
_FEWEST: Final = 50
MOST_KEPT = 2_000_000
"""Values of metrics that are held until the curves are drawn, some 200 MB; what is beyond is read again."""

Logged = tuple[float | None, Mapping[str, Any]]
"""A step, and the values that were logged at it."""


class Learned(NamedTuple):
    """One metric by step, or in the order of logging: a curve for each group that has logged it so, by its place."""

    name: str
    curves: Mapping[int, Curve]
    by_step: bool  # else in the order of logging
    diverged: tuple[int, ...]  # jobs with values that are NaN or infinite
    some: tuple[int, ...] | None  # jobs that it is of, where others have logged the metric the other way


class Learning(NamedTuple):
    """All metrics, and how many points a curve may have at most; `is_thinned`: some curve had more."""

    metrics: tuple[Learned, ...]
    most_points: int
    is_thinned: bool


class Logbook:
    """The metrics that jobs have logged. Each file is read once, unless there is more of it than memory should hold."""

    def __init__(self, folder: Folder, table: StateTable) -> None:
        self._folder, self._table = folder, table
        self._kept: dict[int, list[Logged]] = {}
        self._n_kept = 0

    def last(self, job_id: int) -> dict[str, Any]:
        """The last value of each metric over the course of a job."""
        logged = _flat(course(self._folder, self._table, job_id, skipped))
        size = sum(len(values) for _, values in logged)
        if self._n_kept + size <= MOST_KEPT:
            self._n_kept += size
            self._kept[job_id] = logged
        last: dict[str, Any] = {}
        for _, values in logged:
            last |= values
        return last

    def course(self, job_id: int) -> list[Logged]:
        """Steps and values of all attempts that count, in order."""
        if job_id in self._kept:
            return self._kept.pop(job_id)
        return _flat(course(self._folder, self._table, job_id))


def _flat(attempts: Sequence[tuple[int, Sequence[Metric]]]) -> list[Logged]:
    return [(metric.step, metric.values) for _, metrics in attempts for metric in metrics]


def learn(logbook: Logbook, groups: Sequence[Sequence[int]], names: Sequence[str]) -> Learning:
    """The curves of groups of jobs, in the order of `names`. Holds the metrics of one group at a time.

    A metric that some jobs have logged by step, and others in their order alone, is there twice: no mean is of both.
    """
    most = max(_FEWEST, min(MOST_POINTS, _MOST_IN_ALL // max(1, len(groups) * len(names))))
    curves: dict[str, dict[bool, dict[int, Curve]]] = {name: {True: {}, False: {}} for name in names}
    logged: dict[tuple[str, bool], list[int]] = defaultdict(list)
    diverged, is_thinned = defaultdict(list), False
    for place, ids in enumerate(groups):
        members: dict[tuple[str, bool], list[Series]] = defaultdict(list)
        for job_id in ids:
            for name, series in series_of(logbook.course(job_id)).items():
                key = name, series.given
                members[key].append(series)
                logged[key].append(job_id)
                if not all(map(math.isfinite, series.values)):
                    diverged[key].append(job_id)
        for (name, by_step), found in members.items():
            curves.setdefault(name, {True: {}, False: {}})[by_step][place] = mean_curve(found, most)
            is_thinned = is_thinned or len(set().union(*(series.steps for series in found))) > most
    learned = (
        Learned(
            name,
            curves[name][by_step],
            by_step,
            tuple(sorted(diverged[name, by_step])),
            tuple(sorted(logged[name, by_step])) if curves[name][not by_step] else None,
        )
        for name in curves
        for by_step in (True, False)
        if curves[name][by_step]
    )
    return Learning(tuple(learned), most, is_thinned)
