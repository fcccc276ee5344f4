"""A comparison of methods: which of them is better, by how much, and whether chance could have done it.

A method is what jobs have in common, as `algorithm=TD3`, or a whole experiment. Its runs differ in what only repeats a
job, as the seed, and each run has a score on every task, where there are several. Scores that are missing are never
left out unsaid: they are named, and nothing is compared.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from experiment_manager.analysis import inference
from experiment_manager.analysis.inference import Interval
from experiment_manager.analysis.tables import (
    Row,
    check_goal,
    chosen_metric,
    group_key,
    repeating,
    require_variables,
    without,
)
from experiment_manager.errors import ExperimentManagerError, NotInstalled
from experiment_manager.model import codec
from experiment_manager.model.ids import which
from experiment_manager.model.records import State
from experiment_manager.text import settings_text

if TYPE_CHECKING:
    from experiment_manager.analysis.inference import Scores

EXPERIMENT: Final = "experiment"
"""What tells the jobs of several experiments apart, as a variable would."""

NORMALIZATIONS: Final = ("none", "range")
_DRAWS: Final = 10_000
_PROFILE_DRAWS: Final = 2_000
_SEED: Final = 0
_FEW_RUNS: Final = 5
_MOST_NAMED: Final = 3
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
        return f"Comparison({self.metric}: {' > '.join(method.label for method in self.methods)})"

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


class How(NamedTuple):
    """How jobs are compared; see `Experiment.compare`."""

    by: Sequence[str] | None = None
    over: Sequence[str] | None = None
    tasks: Sequence[str] = ()
    metric: str | None = None
    goal: str = "max"
    normalize: str = "none"
    is_common: bool = False  # of runs that some method lacks, none counts


class _Cell(NamedTuple):
    """The score of one job, by the run that it is; None for one that has none, and why."""

    job: int
    score: float | None
    trouble: str | None
    variables: Mapping[str, Any]


def compare(experiments: Mapping[str, Sequence[Row]], how: How) -> Comparison:
    """The comparison of the rows of one or several experiments, by their names, as `result_rows` gives them.

    Raises ExperimentManagerError for names that are no variables, for a choice that mixes different jobs in one run,
    and where a score is missing or no finite number, with the way out.
    """
    _require_numpy()
    rows = _together(experiments)
    check_goal(how.goal)
    if how.normalize not in NORMALIZATIONS:
        there_are = ", ".join(NORMALIZATIONS)
        raise ExperimentManagerError(f"normalize is one of {there_are}, not {how.normalize!r}")
    by, over = _chosen_variables(rows, how, are_several=len(experiments) > 1)
    source, metric = chosen_metric(rows, how.metric)
    if source is None or metric is None:
        raise ExperimentManagerError("no job has left a number to compare: none has completed with one")
    cells = _cells(rows, by, over, how.tasks, lambda row: _scored(row, source, metric))
    runs = _runs(cells, over, is_common=how.is_common)
    scores = {key: _matrix(of_tasks, runs) for key, of_tasks in cells.items()}
    if how.normalize == "range":
        scores = _normalized(scores)
    thresholds = _thresholds(scores)
    methods = [_method(cells[key], runs, by, found, thresholds) for key, found in scores.items()]
    order = sorted(range(len(methods)), key=lambda place: -_oriented(methods[place].iqm.value, how.goal))
    found = list(scores.values())
    return Comparison(
        metric,
        how.goal,
        over,
        tuple(how.tasks),
        n_runs=len(runs),
        task_labels=_task_labels(next(iter(cells.values())), how.tasks),
        methods=tuple(methods[place] for place in order),
        pairs=_pairs([(methods[place].label, found[place]) for place in order], how.goal),
        notes=tuple(_notes(cells, runs, how, found[0].shape[1])),
    )


def _require_numpy() -> None:
    try:
        import numpy  # noqa: F401 - whether it is there
    except ImportError as error:
        raise NotInstalled("numpy", "analysis") from error


def _together(experiments: Mapping[str, Sequence[Row]]) -> Sequence[Row]:
    """The rows of all experiments; of several, each has the name of its own as one variable more."""
    if len(experiments) == 1:
        return list(next(iter(experiments.values())))
    found: list[Row] = []
    for name, rows in experiments.items():
        if any(EXPERIMENT in row["variables"] for row in rows):
            raise ExperimentManagerError(
                f"{name}: a variable of its jobs is called {EXPERIMENT}, which is what tells experiments apart here"
            )
        found += [{**row, "variables": {EXPERIMENT: name, **row["variables"]}} for row in rows]
    return found


def _chosen_variables(rows: Sequence[Row], how: How, *, are_several: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What makes a method, and what repeats a job."""
    names = list(dict.fromkeys(name for row in rows for name in row["variables"]))
    for asked in (how.by or (), how.over or (), how.tasks):
        require_variables(asked, names)
    known = repeating(names)
    over = known if how.over is None else tuple(how.over)
    if not over:
        raise ExperimentManagerError(
            "no variable is called seed or repeat; name what only repeats a job with --over, as --over fold; the "
            f"variables are {', '.join(names) or 'none'}"
        )
    varying = [name for name in names if len({_key(row["variables"].get(name)) for row in rows}) > 1]
    by = without(varying, (*over, *how.tasks)) if how.by is None else tuple(how.by)
    if are_several and EXPERIMENT not in (*by, *how.tasks):
        by = (EXPERIMENT, *by)
    twice = [name for name in (*over, *how.tasks, *by) if [*over, *how.tasks, *by].count(name) > 1]
    if twice:
        raise ExperimentManagerError(f"{twice[0]!r} cannot be compared and averaged over; name it once")
    if how.over is not None and how.by is None and (forgotten := [name for name in by if name in known]):
        raise ExperimentManagerError(
            f"{forgotten[0]!r} repeats a job, too: --over {','.join((*over, *forgotten))}, or choose one of its values "
            "with --where"
        )
    if wrong := [name for name in (*by, *how.tasks) if name in known]:
        raise ExperimentManagerError(
            f"{wrong[0]!r} repeats a job, and is nothing to compare: leave it to --over, or rename the variable where "
            "it is more than a seed"
        )
    if not by:
        raise ExperimentManagerError(
            f"all jobs differ in {', '.join((*over, *how.tasks))} alone: there is one method, and nothing to compare "
            "it with"
        )
    return by, over


def _place(cell: _Cell) -> str:
    """Of what experiment a job is, where that needs to be said."""
    return f"of {cell.variables[EXPERIMENT]} " if EXPERIMENT in cell.variables else ""


def _scored(row: Row, source: str, metric: str) -> tuple[float | None, str | None]:
    """The score of a job, or why it has none."""
    if row["state"] != State.COMPLETED:
        return None, str(row["state"])
    value = row[source].get(metric)
    if not codec.is_number(value) and not isinstance(value, bool):
        return None, f"COMPLETED without a number {metric}"
    score = codec.as_float(value)
    if score != score or score in (float("inf"), float("-inf")):
        return None, f"COMPLETED with {score} as its {metric}"
    return score, None


_Cells = dict[str, dict[str, dict[str, _Cell]]]
"""Cells by method, task and run."""

Score = Callable[[Row], tuple[float | None, str | None]]
"""The score of a job, or why it has none."""


def _cells(rows: Sequence[Row], by: Sequence[str], over: Sequence[str], tasks: Sequence[str], score: Score) -> _Cells:
    found: _Cells = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        runs = found[group_key(row, by)][group_key(row, tasks)]
        value, trouble = score(row)
        cell = _Cell(row["job"], value, trouble, row["variables"])
        other = runs.setdefault(group_key(row, over), cell)
        if other is not cell:
            raise ExperimentManagerError(_mixed(other, cell, (*by, *tasks, *over), over))
    if len(found) < 2:
        text = settings_text(_of(rows[0]["variables"], by))
        raise ExperimentManagerError(f"there is one method, {text}, and nothing to compare it with")
    return found


def _mixed(one: _Cell, other: _Cell, chosen: Sequence[str], over: Sequence[str]) -> str:
    names = [name for name in {**one.variables, **other.variables} if name not in chosen]
    differ = [name for name in names if _key(one.variables.get(name)) != _key(other.variables.get(name))]
    same = settings_text(_of(one.variables, over))
    jobs = f"jobs {one.job} and {other.job} {_place(one)}"
    if not differ:
        return f"{jobs}are the same run, {same}; leave one of them out with --where"
    return (
        f"{jobs}would be the same run, {same}, and differ in {', '.join(differ)}; name that in "
        "--by or --tasks, in --over where it repeats a job, too, or choose one value with --where"
    )


def _key(value: Any) -> str:
    return codec.canonical(codec.encode(value))


def _of(variables: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: variables[name] for name in names if name in variables}


def _runs(cells: _Cells, over: Sequence[str], *, is_common: bool) -> list[str]:
    """The runs that every method has on every task. Raises ExperimentManagerError where one lacks a run that another
    has, unless such runs are left out, and where fewer than two are left."""
    tasks = list(dict.fromkeys(task for of_tasks in cells.values() for task in of_tasks))
    named = {key: cell for of_tasks in cells.values() for of_runs in of_tasks.values() for key, cell in of_runs.items()}
    lacking: dict[str, _Cell] = {}
    failed: dict[str, list[int]] = defaultdict(list)
    common = dict.fromkeys(named)
    for of_tasks in cells.values():
        for task in tasks:
            for run in named:
                cell = of_tasks.get(task, {}).get(run)
                if cell is not None and cell.score is not None:
                    continue
                common.pop(run, None)
                if cell is None:
                    lacking[run] = named[run]
                else:
                    failed[f"{_place(cell)}{cell.trouble}"].append(cell.job)
    if not is_common and (failed or lacking):
        found = [f"{which(ids)} {trouble}" for trouble, ids in failed.items()]
        found += [
            f"{settings_text(_of(cell.variables, over))} is not there for all methods" for cell in lacking.values()
        ]
        more = f", and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
        raise ExperimentManagerError(
            f"scores are missing: {'; '.join(found[:_MOST_NAMED])}{more}. Run what is missing, choose jobs with "
            "--where, or compare what all methods have with --common"
        )
    if len(common) < 2:
        raise ExperimentManagerError(
            f"{'no run is' if not common else 'one run is'} there for all methods (over {', '.join(over)}): without "
            "two, nothing tells a difference from chance; five or more tell something"
        )
    return list(common)


def _matrix(of_tasks: Mapping[str, Mapping[str, _Cell]], runs: Sequence[str]) -> "Scores":
    import numpy as np

    return np.array([[of_tasks[task][run].score for task in sorted(of_tasks)] for run in runs], dtype=float)


def _task_labels(of_tasks: Mapping[str, Mapping[str, _Cell]], tasks: Sequence[str]) -> tuple[str, ...]:
    """What people call each task, in the order of the columns of scores."""
    return tuple(settings_text(_of(next(iter(of_tasks[key].values())).variables, tasks)) for key in sorted(of_tasks))


def _normalized(scores: Mapping[str, "Scores"]) -> dict[str, "Scores"]:
    """Scores of each task from 0, the least of all methods, to 1; a task on which all are equal is 0."""
    import numpy as np

    everything = np.concatenate(list(scores.values()))
    least, width = everything.min(axis=0), np.ptp(everything, axis=0)
    return {key: (found - least) / np.where(width == 0.0, 1.0, width) for key, found in scores.items()}


def _oriented(value: Any, goal: str) -> Any:
    return value if goal == "max" else -value


def _thresholds(scores: Mapping[str, "Scores"]) -> "Scores":
    """Where profiles are looked at: from the least score of all to the largest."""
    import numpy as np

    everything = np.concatenate(list(scores.values()))
    return np.linspace(everything.min(), everything.max(), _N_THRESHOLDS)


def _method(
    of_tasks: Mapping[str, Mapping[str, _Cell]],
    runs: Sequence[str],
    by: Sequence[str],
    scores: "Scores",
    thresholds: "Scores",
) -> Method:
    variables = _of(next(iter(of_tasks.values()))[runs[0]].variables, by)
    aggregates = {
        name: inference.interval(aggregate, [scores], draws=_DRAWS, seed=_SEED)
        for name, aggregate in inference.AGGREGATES.items()
    }
    shares = inference.intervals(
        lambda drawn: inference.profile(drawn, thresholds), [scores], draws=_PROFILE_DRAWS, seed=_SEED
    )
    profile = zip(
        thresholds.tolist(), (Interval(*map(float, parts)) for parts in zip(*shares, strict=True)), strict=True
    )
    return Method(
        settings_text(variables),
        variables,
        jobs=tuple(tuple(of_tasks[task][run].job for task in sorted(of_tasks)) for run in runs),
        **aggregates,
        scores=tuple(map(tuple, scores.tolist())),
        profile=tuple(profile),
    )


def _pairs(methods: Sequence[tuple[str, "Scores"]], goal: str) -> tuple[Pair, ...]:
    """What each pair tells; of many methods, what the best and each other tell."""
    chosen = list(combinations(methods, 2))
    if len(methods) > _MOST_PAIRED:
        chosen = [(methods[0], other) for other in methods[1:]]
    pairs = [_pair(*one, *other, goal) for one, other in chosen]
    welch = inference.holm([pair.welch_p for pair in pairs])
    permutation = inference.holm([pair.permutation_p for pair in pairs])
    return tuple(
        pair._replace(welch_adjusted=welch[place], permutation_adjusted=permutation[place])
        for place, pair in enumerate(pairs)
    )


def _pair(label: str, one: "Scores", other_label: str, other: "Scores", goal: str) -> Pair:
    """What two methods tell, as if they were the only ones."""
    welch = inference.welch(one, other)
    if _oriented(welch.difference, goal) < 0.0:
        label, one, other_label, other = other_label, other, label, one
    permutation_p = inference.permutation(one, other, draws=_DRAWS, seed=_SEED)
    return Pair(
        label,
        other_label,
        difference=abs(welch.difference),
        improvement=inference.interval(
            inference.improvement, [_oriented(one, goal), _oriented(other, goal)], draws=_DRAWS, seed=_SEED
        ),
        welch_p=welch.p,
        permutation_p=permutation_p,
        welch_adjusted=welch.p,
        permutation_adjusted=permutation_p,
        runs_needed=inference.runs_needed(one, other),
    )


def _notes(cells: _Cells, runs: Sequence[str], how: How, n_tasks: int) -> Iterable[str]:
    if len(runs) < _FEW_RUNS:
        yield (
            f"{len(runs)} runs of each method are few: intervals that are drawn from them are too narrow, and small "
            f"differences are not seen; {_FEW_RUNS} or more tell something"
        )
    if n_tasks > 1 and how.normalize == "none":
        yield (
            f"scores of {n_tasks} tasks are averaged as they are; where their scales differ, normalize=range puts "
            "those of each task between 0 and 1"
        )
    left_out = {run for of_tasks in cells.values() for found in of_tasks.values() for run in found} - set(runs)
    if left_out:
        yield f"{len(left_out)} of {len(left_out) + len(runs)} runs are left out, which some method lacks"
    if len(cells) > _MOST_PAIRED:
        yield f"of {len(cells)} methods, the best is compared with each"
