"""The groups of a report beside each other, as methods: intervals, how likely one beats another, and profiles.

A report is mostly of jobs that are not all there yet: runs which one of the groups lacks are left out, of all of them,
and that is said.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from experiment_manager.analysis.comparison import aggregate, improvement, paired, profiles
from experiment_manager.analysis.inference import AGGREGATES, Interval
from experiment_manager.analysis.scores import How, ScoreTable, score_table
from experiment_manager.analysis.tables import Row, exact_text, group_key, repeating, without
from experiment_manager.errors import ExperimentManagerError

MOST_COMPARED: Final = 8


class Compared(NamedTuple):
    """The methods, the best interquartile mean first, or why there is nothing to compare."""

    trouble: str = ""
    n_runs: int = 0
    over: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()  # what people call each
    n_left_out: int = 0  # methods that are not among the best
    methods: tuple[tuple[str, Mapping[str, Interval]], ...] = ()  # label, and its aggregates
    pairs: tuple[tuple[str, str, Interval], ...] = ()  # the better, the other, how likely a run of it is better
    notes: tuple[str, ...] = ()
    drawn: Mapping[str, Any] | None = None  # what the page's script draws

    @property
    def aggregates(self) -> tuple[str, ...]:
        return tuple(self.methods[0][1]) if self.methods else ()


def compared(
    rows: Sequence[Row],
    ranked: Sequence[Mapping[str, Any]],
    *,
    by: Sequence[str],
    over: Sequence[str],
    tasks: Sequence[str],
    metric: str | None,
    goal: str,
) -> Compared | None:
    """What the groups tell beside each other that have values of the metric: `ranked` are the variables of each, the
    best first. None where nothing repeats a job, and where there is one method alone."""
    names = without(by, tasks)
    there = list(dict.fromkeys(group_key({"variables": one}, names) for one in ranked))
    if metric is None or not over or len(there) < 2 or set(names) & set(repeating(names)):
        return None
    chosen = set(there[:MOST_COMPARED])
    members = [row for row in rows if group_key(row, names) in chosen]
    varying = [name for name in names if len({exact_text(row["variables"].get(name)) for row in members}) > 1]
    try:
        table = score_table(
            {"": members},
            How(by=varying, over=over, tasks=tasks, metric=metric, goal=goal, normalize=_scaled(tasks), is_common=True),
        )
    except ExperimentManagerError as error:
        return Compared(trouble=str(error))
    of_job = {row["job"]: group_key(row, names) for row in members}
    return _of(table, [there.index(of_job[method.jobs[0][0]]) for method in table.methods], len(there) - len(chosen))


def _scaled(tasks: Sequence[str]) -> str:
    return "range" if tasks else "none"


def _of(table: ScoreTable, places: Sequence[int], n_left_out: int) -> Compared:
    """The methods, each in the colour of its place among all groups."""
    shown = [name for name in AGGREGATES if name != "median" or len(table.task_labels) > 1]
    methods = tuple(
        (method.label, {name: aggregate(name, method.scores) for name in shown}) for method in table.methods
    )
    pairs = tuple((one.label, other.label, improvement(one, other, table.goal)) for one, other in paired(table))
    score = f"{table.metric}, each task from 0 to 1" if table.tasks else table.metric
    return Compared(
        n_runs=table.n_runs,
        over=table.over,
        tasks=table.task_labels if table.tasks else (),
        n_left_out=n_left_out,
        methods=methods,
        pairs=pairs,
        notes=table.notes,
        drawn={
            "score": score,
            "places": places,
            "methods": [[label, aggregates] for label, aggregates in methods],
            "pairs": pairs,
            "profiles": [list(zip(*((at, *share) for at, share in one), strict=True)) for one in profiles(table)],
        },
    )
