"""The scores that methods are compared by: which job is which run of which method, and what is refused.

A method is what jobs have in common, as `algorithm=TD3`, or a whole experiment. Its runs differ in what only repeats a
job, as the seed, and each run has a score on every task, where there are several. Scores that are missing are never
left out unsaid: they are named, and nothing is compared.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from experiment_manager.analysis.inference import interquartile_mean
from experiment_manager.analysis.tables import (
    NO_GOALS,
    Row,
    check_goal,
    chosen_metric,
    exact_text,
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
    from experiment_manager.analysis.alike import Mixed
    from experiment_manager.analysis.inference import Scores

EXPERIMENT: Final = "experiment"
"""What tells the jobs of several experiments apart, as a variable would."""

NORMALIZATIONS: Final = ("none", "range")
_FEW_RUNS: Final = 5
_LARGEST: Final = 1e100
"""The squares of such scores are numbers, and so are sums of them."""
_MOST_NAMED: Final = 3


class How(NamedTuple):
    """How jobs are compared; see `Experiment.compare`."""

    by: Sequence[str] | None = None
    over: Sequence[str] | None = None
    tasks: Sequence[str] = ()
    metric: str | None = None
    goal: str | None = None  # None: as `goals` say of the metric, else max
    normalize: str = "none"
    is_common: bool = False  # of runs that some method lacks, none counts
    goals: Mapping[str, str] = NO_GOALS  # of the metrics that are taken before others
    notes: Sequence[str] = ()  # on the jobs, which precede those on the scores
    averaged: Sequence[str] = ()  # the variables over which a search takes the mean, which repeat a job, too
    mixing: "Callable[[str, list[list[int]]], Mixed | None]" = lambda _experiment, _groups: None
    of_last: Callable[[str], str | None] = lambda _: None  # what to say where the last values of a metric are compared


class _Cell(NamedTuple):
    """The score of one job, by the run that it is; None for one that has none, and why."""

    job: int
    score: float | None
    trouble: str | None
    variables: Mapping[str, Any]


class Scored(NamedTuple):
    """A method with its jobs, the experiment that each is of, where there are several, and the score of each, all of
    shape (runs, tasks)."""

    label: str
    variables: Mapping[str, Any]
    jobs: tuple[tuple[int, ...], ...]
    experiments: tuple[tuple[str, ...], ...]
    scores: "Scores"


class ScoreTable(NamedTuple):
    """The scores of methods, which have the same runs on the same tasks, from the best interquartile mean to the worst;
    scores are as jobs left them, or normalized."""

    metric: str
    goal: str
    over: tuple[str, ...]  # what repeats a job
    tasks: tuple[str, ...]  # the variables that make a task
    task_labels: tuple[str, ...]
    n_runs: int
    least: "Scores"  # of each task: a score is what a job left, less this,
    width: "Scores"  # in units of this
    methods: tuple[Scored, ...]
    notes: tuple[str, ...]


def score_table(experiments: Mapping[str, Sequence[Row]], how: How) -> ScoreTable:
    """The scores of the rows of one or several experiments, by their names, as `result_rows` gives them.

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
    source, metric = chosen_metric(rows, how.metric, how.goals)
    if source is None or metric is None:
        raise ExperimentManagerError(
            "no job has left a number to compare: none has completed with one; `experiment-manager status` tells how "
            "they stand, and a job leaves what it returns, or logs with current_job().log_metrics"
        )
    goal = how.goal or how.goals.get(metric, "max")
    cells = _cells(rows, by, over, how, lambda row: _scored(row, source, metric))
    runs = _runs(cells, by, over, how.tasks, is_common=how.is_common)
    raw = {key: _matrix(of_tasks, runs) for key, of_tasks in cells.items()}
    least, width = _scale(list(raw.values()), how.normalize)
    methods = [_method(cells[key], runs, by, (scores - least) / width) for key, scores in raw.items()]
    methods.sort(key=lambda method: -oriented(float(interquartile_mean(method.scores)), goal))
    task_labels = _task_labels(next(iter(cells.values())), how.tasks)
    return ScoreTable(
        metric,
        goal,
        over,
        tuple(how.tasks),
        task_labels,
        n_runs=len(runs),
        least=least,
        width=width,
        methods=tuple(methods),
        notes=(
            *how.notes,
            *filter(None, [how.of_last(metric) if source == "metrics" else None]),
            *_mixed_notes(methods, by, how),
            *_notes(cells, runs, how, len(task_labels)),
        ),
    )


def _method(
    of_tasks: Mapping[str, Mapping[str, _Cell]], runs: Sequence[str], by: Sequence[str], scores: "Scores"
) -> Scored:
    variables = _of(next(iter(of_tasks.values()))[runs[0]].variables, by)
    found = [[of_tasks[task][run] for task in sorted(of_tasks)] for run in runs]
    jobs = tuple(tuple(cell.job for cell in of_run) for of_run in found)
    experiments = tuple(tuple(str(cell.variables.get(EXPERIMENT, "")) for cell in of_run) for of_run in found)
    return Scored(_called(variables, by), variables, jobs, experiments, scores)


def _called(variables: Mapping[str, Any], by: Sequence[str]) -> str:
    """What people call a method; one may lack every variable that others differ in."""
    return settings_text(_of(variables, by)) or f"{', '.join(by)} not set"


def oriented(value: Any, goal: str) -> Any:
    """A score, or its negative where the least is best: then more is better."""
    return value if goal == "max" else -value


def _require_numpy() -> None:
    try:
        import numpy  # noqa: F401 - whether it is there
    except ImportError as error:
        raise NotInstalled("numpy", "analysis") from error


def _together(experiments: Mapping[str, Sequence[Row]]) -> Sequence[Row]:
    """The rows of all experiments; of several, each has the name of its own as one variable more. Raises
    ExperimentManagerError for one without any."""
    if without_rows := [name for name, rows in experiments.items() if not rows]:
        raise ExperimentManagerError(f"no job of {without_rows[0]} is chosen; choose others with --where")
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
    over = repeating(names, how.averaged) if how.over is None else tuple(how.over)
    if not over:
        why = "no variable is called seed or repeat" if how.over is None else "no variable is named that repeats a job"
        raise ExperimentManagerError(
            f"{why}; name what only repeats a job with --over, as --over fold; the "
            f"variables are {', '.join(names) or 'none'}"
        )
    varying = [name for name in names if len({exact_text(row["variables"].get(name)) for row in rows}) > 1]
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
    if not by and (mixed := how.mixing("", [[row["job"] for row in rows]])) is not None:
        raise ExperimentManagerError(
            f"no variable makes a method, and the jobs differ in {mixed.names}: {mixed.way_out('--by', ())}"
        )
    if not by:
        raise ExperimentManagerError(
            f"all jobs differ in {', '.join((*over, *how.tasks))} alone: there is one method, and nothing to compare "
            "it with; add jobs of another, or name another experiment beside this one"
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
    if abs(score) > _LARGEST:
        return None, f"COMPLETED with {score:g} as its {metric}, which is too large to calculate with"
    return score, None


_Cells = dict[str, dict[str, dict[str, _Cell]]]
"""Cells by method, task and run."""

Score = Callable[[Row], tuple[float | None, str | None]]
"""The score of a job, or why it has none."""


def _cells(rows: Sequence[Row], by: Sequence[str], over: Sequence[str], how: How, score: Score) -> _Cells:
    tasks = how.tasks
    found: _Cells = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        runs = found[group_key(row, by)][group_key(row, tasks)]
        value, trouble = score(row)
        cell = _Cell(row["job"], value, trouble, row["variables"])
        other = runs.setdefault(group_key(row, over), cell)
        if other is not cell:
            raise ExperimentManagerError(_mixed(other, cell, by, over, how))
    if len(found) < 2:
        text = _called(rows[0]["variables"], by)
        raise ExperimentManagerError(
            f"there is one method, {text}, and nothing to compare it with; add jobs of another, or choose more with "
            "--where"
        )
    return found


def _mixed(one: _Cell, other: _Cell, by: Sequence[str], over: Sequence[str], how: How) -> str:
    names = [name for name in {**one.variables, **other.variables} if name not in (*by, *how.tasks, *over)]
    differ = [name for name in names if exact_text(one.variables.get(name)) != exact_text(other.variables.get(name))]
    same = settings_text(_of(one.variables, over))
    jobs = f"jobs {one.job} and {other.job} {_place(one)}"
    if not differ and (mixed := how.mixing(str(one.variables.get(EXPERIMENT, "")), [[one.job, other.job]])) is not None:
        return f"{jobs}would be the same run, {same}, and differ in {mixed.names}; {mixed.way_out('--by', _named(by))}"
    if not differ:
        return f"{jobs}are the same run, {same}; leave one of them out with --where"
    return (
        f"{jobs}would be the same run, {same}, and differ in {', '.join(differ)}; name that in "
        "--by or --tasks, in --over where it repeats a job, too, or choose one value with --where"
    )


def _named(by: Sequence[str]) -> list[str]:
    """What people name of that which makes a method."""
    return [name for name in by if name != EXPERIMENT]


def _mixed_notes(methods: Iterable[Scored], by: Sequence[str], how: How) -> Iterable[str]:
    """A line for each experiment with methods whose jobs differ in more than what repeats them."""
    groups: dict[str, dict[tuple[str, int], list[int]]] = defaultdict(lambda: defaultdict(list))
    for method in methods:
        for jobs, experiments in zip(method.jobs, method.experiments, strict=True):
            for task, (job, experiment) in enumerate(zip(jobs, experiments, strict=True)):
                groups[experiment][method.label, task].append(job)
    for experiment, of_one in groups.items():
        if (mixed := how.mixing(experiment, list(of_one.values()))) is not None:
            yield f"{experiment}: " * bool(experiment) + mixed.told("--by", _named(by))


def _of(variables: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: variables[name] for name in names if name in variables}


def _runs(cells: _Cells, by: Sequence[str], over: Sequence[str], tasks: Sequence[str], *, is_common: bool) -> list[str]:
    """The runs that every method has on every task. Raises ExperimentManagerError where one lacks a run that another
    has, unless such runs are left out, and where fewer than two are left."""
    of_tasks = {task: cell for found in cells.values() for task, runs in found.items() for cell in runs.values()}
    of_runs = {run: cell for found in cells.values() for runs in found.values() for run, cell in runs.items()}
    failed: dict[str, list[int]] = defaultdict(list)
    lacking: dict[str, list[str]] = defaultdict(list)
    common = dict.fromkeys(of_runs)
    for found in cells.values():
        method = _called(next(iter(next(iter(found.values())).values())).variables, by)
        for (task, on), (run, of) in product(of_tasks.items(), of_runs.items()):
            cell = found.get(task, {}).get(run)
            if cell is not None and cell.score is not None:
                continue
            common.pop(run, None)
            if cell is None:
                names = settings_text({**_of(of.variables, over), **_of(on.variables, tasks)})
                lacking[method].append(names)
            else:
                failed[f"{_place(cell)}{cell.trouble}"].append(cell.job)
    if not is_common and (failed or lacking):
        sentences = [f"{which(ids)} {trouble}" for trouble, ids in failed.items()]
        sentences += [f"{method} has no {_first(names, ' or ')}" for method, names in lacking.items()]
        raise ExperimentManagerError(
            f"scores are missing: {_first(sentences, '; ')}. Run what is missing, choose jobs with --where, or compare "
            "what all methods have with --common"
        )
    if len(common) < 2:
        raise ExperimentManagerError(
            f"{'no run is' if not common else 'one run is'} there for all methods (over {', '.join(over)}): without "
            "two, nothing tells a difference from chance; run more, five or more tell something"
        )
    return list(common)


def _first(texts: Sequence[str], separator: str) -> str:
    """The first of them, and how many more there are."""
    more = f"{separator}{len(texts) - _MOST_NAMED} more" if len(texts) > _MOST_NAMED else ""
    return separator.join(texts[:_MOST_NAMED]) + more


def _matrix(of_tasks: Mapping[str, Mapping[str, _Cell]], runs: Sequence[str]) -> "Scores":
    import numpy as np

    return np.array([[of_tasks[task][run].score for task in sorted(of_tasks)] for run in runs], dtype=float)


def _task_labels(of_tasks: Mapping[str, Mapping[str, _Cell]], tasks: Sequence[str]) -> tuple[str, ...]:
    """What people call each task, in the order of the columns of scores."""
    return tuple(settings_text(_of(next(iter(of_tasks[key].values())).variables, tasks)) for key in sorted(of_tasks))


def _scale(scores: Sequence["Scores"], normalize: str) -> tuple["Scores", "Scores"]:
    """What is taken from the scores of each task, and what they are divided by, so that normalized ones are between 0
    and 1 over all methods; a task on which all are equal is 0."""
    import numpy as np

    everything = np.concatenate(scores)
    if normalize == "none":
        return np.zeros(everything.shape[1]), np.ones(everything.shape[1])
    width = np.ptp(everything, axis=0)
    return everything.min(axis=0), np.where(width == 0.0, 1.0, width)


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
