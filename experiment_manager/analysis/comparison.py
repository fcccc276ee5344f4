"""A comparison of methods: which of them is better, by how much, and whether chance could have done it.

What methods and their scores are, scores.py says; here is what these tell. Each statistic is a function of its own, so
that a figure computes what it shows, and no more.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from experiment_manager.analysis import inference
from experiment_manager.analysis.inference import Interval
from experiment_manager.analysis.scores import How, Scored, ScoreTable, oriented, score_table
from experiment_manager.analysis.series import Series, common_steps, sampled
from experiment_manager.analysis.tables import Row
from experiment_manager.model.ids import which

if TYPE_CHECKING:
    from experiment_manager.analysis.inference import Scores

_DRAWS: Final = 10_000
_PROFILE_DRAWS: Final = 2_000
_CURVE_DRAWS: Final = 2_000
_MOST_STEPS: Final = 200
_SEED: Final = 0
_N_THRESHOLDS: Final = 21
_MOST_PAIRED: Final = 8
"""Of so many methods each is compared with each, of more, the best with each."""


class Method(NamedTuple):
    """What the runs of a method tell. Of shape (runs, tasks) are `jobs`, their ids, and `scores`, as these were left,
    or normalized."""

    label: str
    variables: Mapping[str, Any]
    jobs: tuple[tuple[int, ...], ...]
    iqm: Interval
    mean: Interval
    median: Interval
    scores: tuple[tuple[float, ...], ...]
    profile: tuple[tuple[float, Interval], ...]  # by threshold, the share of scores above it
    # by step, or in the order of logging where no run has steps, the iqm over runs and tasks; empty: not asked, not
    # logged, or logged in both ways, which the notes say
    curve: tuple[tuple[float, Interval], ...] = ()

    def __repr__(self) -> str:
        return f"Method({self.label}: iqm {self.iqm.value:.6g} [{self.iqm.low:.6g}, {self.iqm.high:.6g}])"


class Pair(NamedTuple):
    """Two methods, by their labels, of which the first has the better mean."""

    better: str
    other: str
    difference: float  # of their means, never negative
    improvement: Interval  # how likely a run of the better one beats one of the other
    welch_p: float
    permutation_p: float
    welch_adjusted: float  # after Holm, over all pairs
    permutation_adjusted: float
    runs_needed: int | None  # of each, to find such a difference in four of five comparisons; None: too many to say

    def __repr__(self) -> str:
        return f"Pair({self.better} over {self.other}: {self.difference:.6g}, p={self.permutation_adjusted:.3g})"


class Comparison(NamedTuple):
    """Methods from the best interquartile mean to the worst, what each pair of them tells, and cautions."""

    metric: str
    goal: str
    over: tuple[str, ...]  # what repeats a job
    tasks: tuple[str, ...]  # the variables that make a task
    n_runs: int
    task_labels: tuple[str, ...]
    methods: tuple[Method, ...]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]

    @property
    def n_tasks(self) -> int:
        return len(self.task_labels)

    def __repr__(self) -> str:
        return f"Comparison({self.metric}: {', '.join(method.label for method in self.methods)}, by iqm)"

    def _repr_html_(self) -> str:
        from experiment_manager.model import html

        def shown(found: Interval) -> str:
            return f"{found.value:.6g} [{found.low:.6g}, {found.high:.6g}]"

        rows = [
            {"method": one.label, **{name: shown(getattr(one, name)) for name in ("iqm", "mean", "median")}}
            for one in self.methods
        ]
        head = f"{self.metric} ({self.goal}), {self.n_runs} runs of each, with intervals of 95 %"
        return html.block(html.sentence(head), html.table(rows), *map(html.sentence, self.notes))


Logged = Callable[[Scored, str], Sequence[Sequence[Series | None]]]
"""Gives the metric of a name that each job of a method has logged, by run and task."""


def compare(experiments: Mapping[str, Sequence[Row]], how: How, logged: Logged | None = None) -> Comparison:
    """The comparison of the rows of one or several experiments, by their names, as `result_rows` gives them; with what
    jobs have `logged`, methods have a curve.

    Raises ExperimentManagerError for what has no scores to compare; see `score_table`.
    """
    table = score_table(experiments, how)
    curves, mixed = _curves(table, logged)
    methods = zip(table.methods, profiles(table), curves, strict=True)
    n_methods = len(table.methods)
    many = [f"of {n_methods} methods, the best is compared with each"] if n_methods > _MOST_PAIRED else []
    return Comparison(
        table.metric,
        table.goal,
        table.over,
        table.tasks,
        n_runs=table.n_runs,
        task_labels=table.task_labels,
        methods=tuple(_method(*parts) for parts in methods),
        pairs=_pairs(table),
        notes=(*table.notes, *many, *mixed),
    )


def _curves(table: ScoreTable, logged: Logged | None) -> "tuple[list[Curve], list[str]]":
    """The curve of each method, and a note where there is none since one axis cannot have them."""
    curves: list[Curve] = [() for _ in table.methods]
    if logged is None:
        return curves, []
    given: list[tuple[int, bool]] = []
    for place, method in enumerate(table.methods):
        series = logged(method, table.metric)
        curves[place] = curve(series, table)
        given += steps_given(method, series)
    why = mixed_steps(given, table.metric)
    return (curves, []) if why is None else ([() for _ in curves], [f"there are no curves: {why}"])


def aggregate(name: str, scores: "Scores") -> Interval:
    """The aggregate of that name (see `inference.AGGREGATES`) of the scores of a method."""
    return inference.interval(inference.AGGREGATES[name], [scores], draws=_DRAWS, seed=_SEED)


Profile = tuple[tuple[float, Interval], ...]
"""By threshold, the share of scores above it."""


def profiles(table: ScoreTable) -> list[Profile]:
    """The performance profile of each method, from the least score of all to the largest."""
    import numpy as np

    everything = np.concatenate([method.scores for method in table.methods])
    thresholds = np.linspace(everything.min(), everything.max(), _N_THRESHOLDS)

    def of(scores: "Scores") -> Profile:
        shares = inference.intervals(
            lambda drawn: inference.profile(drawn, thresholds), [scores], draws=_PROFILE_DRAWS, seed=_SEED
        )
        intervals = (Interval(*map(float, parts)) for parts in zip(*shares, strict=True))
        return tuple(zip(thresholds.tolist(), intervals, strict=True))

    return [of(method.scores) for method in table.methods]


def paired(table: ScoreTable) -> list[tuple[Scored, Scored]]:
    """The pairs of methods that are compared: each with each, of many methods the best with each other; of each pair
    the one with the better mean comes first."""
    chosen = list(combinations(table.methods, 2))
    if len(table.methods) > _MOST_PAIRED:
        chosen = [(table.methods[0], other) for other in table.methods[1:]]

    def goodness(method: Scored) -> float:
        return float(oriented(inference.mean(method.scores), table.goal))

    return [(one, other) if goodness(one) >= goodness(other) else (other, one) for one, other in chosen]


def improvement(one: Scored, other: Scored, goal: str) -> Interval:
    """How likely a run of the one method is better than a run of the other."""
    scores = [oriented(one.scores, goal), oriented(other.scores, goal)]
    return inference.interval(inference.improvement, scores, draws=_DRAWS, seed=_SEED)


Curve = tuple[tuple[float, Interval], ...]
"""By step, an interquartile mean."""


def curve(series: Sequence[Sequence[Series | None]], table: ScoreTable, task: int | None = None) -> Curve:
    """How a method learns: at each step that lies within the course of all its runs, the interquartile mean over runs
    and tasks, normalized as its scores are; of one `task` alone, as it was logged. Empty where there is no such step,
    and NaN where a run has logged what is no finite number.
    """
    import numpy as np

    tasks = range(len(table.task_labels)) if task is None else (task,)
    steps = common_steps([of_run[place] for of_run in series for place in tasks], _MOST_STEPS)
    if not steps:
        return ()
    scores = np.array(
        [[sampled(one, steps) for place in tasks if (one := of_run[place]) is not None] for of_run in series],
        dtype=float,
    )
    if task is None:
        scores = (scores - table.least[:, None]) / table.width[:, None]
    found = inference.at_steps(inference.interquartile_mean, scores, draws=_CURVE_DRAWS, seed=_SEED)
    is_known = np.isfinite(scores).all(axis=(0, 1))  # or what is no number would be the largest one, and left out
    unknown = Interval(math.nan, math.nan, math.nan)
    return tuple((step, one if known else unknown) for step, one, known in zip(steps, found, is_known, strict=True))


def steps_given(method: Scored, series: Sequence[Sequence[Series | None]]) -> list[tuple[int, bool]]:
    """The jobs of a method that have logged the metric, and whether they did by step, or else in their order."""
    return [
        (job, run.given)
        for jobs, of_run in zip(method.jobs, series, strict=True)
        for job, run in zip(jobs, of_run, strict=True)
        if run is not None
    ]


def mixed_steps(given: Sequence[tuple[int, bool]], metric: str) -> str | None:
    """Why no curves are to be had of such jobs, where some have logged by step, and some in their order."""
    without = sorted(job for job, is_by_step in given if not is_by_step)
    if not without or len(without) == len(given):
        return None
    verb = "has" if len(without) == 1 else "have"
    return (
        f"{which(without)} {verb} logged {metric} without a step, and others by step: one axis cannot have both; "
        "choose jobs with --where, or log it with log_metrics(step=...)"
    )


def _method(scored: Scored, profile: Profile, curve: Curve) -> Method:
    return Method(
        scored.label,
        scored.variables,
        scored.jobs,
        **{name: aggregate(name, scored.scores) for name in inference.AGGREGATES},
        scores=tuple(map(tuple, scored.scores.tolist())),
        profile=profile,
        curve=curve,
    )


def _pairs(table: ScoreTable) -> tuple[Pair, ...]:
    """What each pair tells."""
    pairs = [_pair(one, other, table.goal) for one, other in paired(table)]
    welch = inference.holm([pair.welch_p for pair in pairs])
    permutation = inference.holm([pair.permutation_p for pair in pairs])
    return tuple(
        pair._replace(welch_adjusted=welch[place], permutation_adjusted=permutation[place])
        for place, pair in enumerate(pairs)
    )


def _pair(better: Scored, other: Scored, goal: str) -> Pair:
    """What two methods tell, as if they were the only ones."""
    welch = inference.welch(better.scores, other.scores)
    permutation_p = inference.permutation(better.scores, other.scores, draws=_DRAWS, seed=_SEED)
    return Pair(
        better.label,
        other.label,
        difference=abs(welch.difference),
        improvement=improvement(better, other, goal),
        welch_p=welch.p,
        permutation_p=permutation_p,
        welch_adjusted=welch.p,
        permutation_adjusted=permutation_p,
        runs_needed=inference.runs_needed(better.scores, other.scores),
    )
