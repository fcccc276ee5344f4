"""The learning curves of a report: which metrics the jobs of each group have logged, reduced group by group."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from experiment_manager.disk.folder import Folder
from experiment_manager.disk.results import Metric, read_metrics
from experiment_manager.disk.states import Snapshot
from experiment_manager.follow.metrics import course
from experiment_manager.report.curves import Curve, Series, mean_curve, series_of
from experiment_manager.text import skipped

MOST_POINTS: Final = 1_000
"""Of one curve."""
_MOST_IN_ALL: Final = 250_000
_FEWEST: Final = 50
MOST_KEPT = 2_000_000
"""Values of metrics that are held until the curves are drawn, some 200 MB; what is beyond is read again."""

Logged = tuple[float | None, Mapping[str, Any]]
"""A step, and the values that were logged at it."""


class Learned(NamedTuple):
    """One metric: a curve for each group that has logged it, by the group's place."""

    name: str
    curves: Mapping[int, Curve]
    by_step: bool  # else by the order of logging, for some job at least
    diverged: tuple[int, ...]  # jobs with values that are NaN or infinite


class Learning(NamedTuple):
    """All metrics, and how many points a curve may have at most; `is_thinned`: some curve had more."""

    metrics: tuple[Learned, ...]
    most_points: int
    is_thinned: bool


class Logbook:
    """What jobs have logged. Each file is read once, unless there is more of it than memory should hold."""

    def __init__(self, folder: Folder, snapshot: Snapshot) -> None:
        self._folder, self._snapshot = folder, snapshot
        self._kept: dict[int, list[Logged]] = {}
        self._n_kept = 0

    def last(self, job_id: int) -> dict[str, Any]:
        """The last value of each metric that the last attempt has logged."""
        read: dict[int, list[Metric]] = {}

        def reading(number: int) -> list[Metric]:
            read[number] = list(read_metrics(self._folder, job_id, number, skipped))
            return read[number]

        logged = _flat(course(self._folder, self._snapshot, job_id, read=reading))
        number = self._snapshot.last(job_id).number
        size = sum(len(values) for _, values in logged)
        if self._n_kept + size <= MOST_KEPT:
            self._n_kept += size
            self._kept[job_id] = logged
        last: dict[str, Any] = {}
        for metric in read[number] if number in read else reading(number):
            last |= metric.values
        return last

    def course(self, job_id: int) -> list[Logged]:
        """Steps and values of all attempts that count, in order."""
        if job_id in self._kept:
            return self._kept.pop(job_id)
        return _flat(course(self._folder, self._snapshot, job_id))


def _flat(attempts: Sequence[tuple[int, Sequence[Metric]]]) -> list[Logged]:
    return [(metric.step, metric.values) for _, metrics in attempts for metric in metrics]


def learn(logbook: Logbook, groups: Sequence[Sequence[int]], names: Sequence[str]) -> Learning:
    """The curves of groups of jobs, in the order of `names`. Holds the metrics of one group at a time."""
    most = max(_FEWEST, min(MOST_POINTS, _MOST_IN_ALL // max(1, len(groups) * len(names))))
    curves: dict[str, dict[int, Curve]] = {name: {} for name in names}
    unordered, diverged, is_thinned = set(), defaultdict(set), False
    for place, ids in enumerate(groups):
        members: dict[str, list[Series]] = defaultdict(list)
        for job_id in ids:
            for name, series in series_of(logbook.course(job_id)).items():
                members[name].append(series)
                if not series.given:
                    unordered.add(name)
                if not all(map(math.isfinite, series.values)):
                    diverged[name].add(job_id)
        for name, found in members.items():
            curves.setdefault(name, {})[place] = mean_curve(found, most)
            is_thinned = is_thinned or len(set().union(*(series.steps for series in found))) > most
    learned = (
        Learned(name, curves[name], name not in unordered, tuple(sorted(diverged[name])))
        for name in curves
        if curves[name]
    )
    return Learning(tuple(learned), most, is_thinned)
