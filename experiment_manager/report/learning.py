"""The learning curves of a report: which metrics the jobs of each group have logged, reduced group by group."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from experiment_manager.disk.folder import Folder
from experiment_manager.disk.states import Snapshot
from experiment_manager.follow.metrics import course
from experiment_manager.report.curves import Curve, Series, mean_curve, series_of

MOST_POINTS: Final = 1_000
"""Of one curve."""
_MOST_IN_ALL: Final = 250_000
_FEWEST: Final = 50


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


def learn(folder: Folder, snapshot: Snapshot, groups: Sequence[Sequence[int]], names: Sequence[str]) -> Learning:
    """The curves of groups of jobs, in the order of `names`. Holds the metrics of one group at a time."""
    most = max(_FEWEST, min(MOST_POINTS, _MOST_IN_ALL // max(1, len(groups) * len(names))))
    curves: dict[str, dict[int, Curve]] = {name: {} for name in names}
    unordered, diverged, is_thinned = set(), defaultdict(set), False
    for place, ids in enumerate(groups):
        members: dict[str, list[Series]] = defaultdict(list)
        for job_id in ids:
            for name, series in series_of(_logged(folder, snapshot, job_id)).items():
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


def _logged(folder: Folder, snapshot: Snapshot, job_id: int) -> list[tuple[float | None, Mapping[str, Any]]]:
    return [(metric.step, metric.values) for _, metrics in course(folder, snapshot, job_id) for metric in metrics]
