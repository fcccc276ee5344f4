"""The verbs for what jobs have left: results, as a table or a file; compare, which is better, and plot; efficiency,
what they used; export, which hands them to programs that track experiments; and report, a page of all there is."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, NoReturn

import typer

from experiment_manager.analysis.alike import counted_once, mixing
from experiment_manager.analysis.comparison import Comparison, Method, Pair
from experiment_manager.analysis.efficiency import CPU_MARGIN, MEMORY_MARGIN, TIME_MARGIN, Hours, Usage
from experiment_manager.analysis.inference import Interval
from experiment_manager.analysis.named_keys import keys_named, with_keys
from experiment_manager.analysis.results import Objective, known_objective, without_metrics, without_results
from experiment_manager.analysis.tables import (
    FILE_FORMATS,
    NO_NAMES,
    TEXT_FORMATS,
    Best,
    BestGroups,
    Row,
    aggregate,
    aggregates_in,
    best,
    best_groups,
    changed_columns,
    chosen_columns,
    columns_of,
    flat_aggregate,
    flat_results,
    group_key,
    group_metric,
    group_names,
    is_full,
    of_others,
    only_columns,
    order,
    require_variables,
    result_names,
    rounded,
    variables_of,
    with_errors,
    write_csv,
)
from experiment_manager.cli import completion, terminal
from experiment_manager.cli.terminal import HOW_TO_GET_MORE, Chosen, Columns, Json, Where, with_fields
from experiment_manager.errors import ExperimentManagerError
from experiment_manager.experiment import Experiment
from experiment_manager.model.ids import format_ids, which
from experiment_manager.model.records import ENDED_WELL
from experiment_manager.model.rows import ResultRow, named_apart
from experiment_manager.text import counted, names_in, settings_text, tell

Goal = Annotated[
    str | None,
    typer.Option(help="Whether the best is the largest or the smallest: max, min. Default: as a search says, or max."),
]

Repeating = Annotated[
    str | None, typer.Option(help="Variables that only repeat a job: seed,fold. Default: those called seed.")
]
Tasks = Annotated[str | None, typer.Option(help="Variables whose values are tasks: env.")]


def register(app: typer.Typer) -> None:
    """The verbs are on the command line."""
    example = "Example: experiment-manager results experiments/train --group-by algorithm --aggregate mean,std,count"
    app.command(epilog=example)(results)
    app.command(epilog="Example: experiment-manager compare experiments/train --by algorithm --metric reward")(compare)
    app.command(epilog="Example: experiment-manager plot experiments/train --kind curves --metric reward")(plot)
    app.command(epilog="Example: experiment-manager export experiments/train --to tensorboard --out runs")(export)
    app.command(epilog="Example: experiment-manager efficiency experiments/train --group-by algorithm")(efficiency)
    app.command(epilog="Example: experiment-manager report experiments/train --metric loss --goal min")(report)


GroupBy = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.variables, help="One row for the jobs that agree in these variables: algorithm,nn"
    ),
]
Aggregate = Annotated[
    str | None,
    typer.Option(
        "--aggregate",
        help="With --group-by: mean, std, min, max, median, count; ci: low and high, between which the mean lies "
        "(95 %, Student's t). Default: mean,std.",
    ),
]
BestOf = Annotated[
    int | None, typer.Option("--best", min=1, metavar="K", help="Only the best so many jobs, or groups by their means.")
]
Decisive = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.metric,
        help="What decides which is best. Default: what a search or a pruner goes by, else the first number.",
    ),
]
OnlyChanged = Annotated[
    bool, typer.Option("--only-changed", help="Only the columns in which the rows that are shown differ.")
]
Precision = Annotated[
    int | None, typer.Option(min=1, max=17, metavar="N", help="How many significant digits values have.")
]
Sort = Annotated[
    str | None,
    typer.Option(autocompletion=completion.sort_key, help="The column to sort by: loss; -loss from the largest."),
]
Format = Annotated[
    str | None, typer.Option("--format", help="table, csv, json, markdown, latex, or parquet (with --out).")
]


Safe = Annotated[bool, typer.Option("--safe", help="With --format csv: no text is a formula to a spreadsheet.")]
Missing = Annotated[
    bool,
    typer.Option("--missing", help="Only the ids of jobs that may run and have not completed; exit status 1 if any."),
]
Pruned = Annotated[
    bool, typer.Option("--pruned", help="With PRUNED jobs, whose values are of a shorter course; in means, too.")
]


@with_fields
def results(
    of_jobs: Chosen,
    group_by: GroupBy = None,
    how: Aggregate = None,
    best_: BestOf = None,
    metric: Decisive = None,
    goal: Goal = None,
    columns: Columns = None,
    only_changed: OnlyChanged = False,
    precision: Precision = None,
    sort: Sort = None,
    format_: Format = None,
    out: Annotated[Path | None, typer.Option(help="The file that parquet is written to.")] = None,
    safe: Safe = False,
    missing: Missing = False,
    pruned: Pruned = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, nested, for scripts.")] = False,
) -> None:
    """Show what the jobs returned, and the last of their metrics."""
    experiment, rules = of_jobs.read()
    if missing:
        _name_missing(experiment.missing_ids(rules), is_json=json or format_ == "json")
    kind = _format(format_, out, is_json=json, is_safe=safe)
    flat_only = {"--columns": columns, "--only-changed": only_changed or None, "--precision": precision}
    of_best = (None, None) if best_ or (kind in TEXT_FORMATS and group_by) else (metric, goal)
    _check_together(experiment, flat_only, is_json=json, how=how, group_by=group_by, unused=of_best)
    by, wanted = _names(group_by), aggregates_in(names_in(how or "mean,std"))
    named = [*names_in(columns or ""), (sort or "").removeprefix("-")]
    jobs = _rows_of(experiment, rules, named if by is None else by, pruned=pruned)
    jobs = jobs if by is None else _once(experiment, jobs, by)
    metric = metric if metric is None or by is None else group_metric(jobs, by, metric)
    objective, logged = _deciding(experiment, metric, columns, with_goals=bool(best_ or group_by))
    rows: Sequence[Row] = jobs if by is None else _means(experiment, jobs, by, wanted, logged)
    ranked = rows if by is None or best_ is None else aggregate(jobs, by, ["mean"], logged, _known(experiment, by))
    found = None if best_ is None else _best(ranked, best_, metric, goal, objective, jobs)
    flat: Sequence[Row] = flat_results(rows) if by is None else [flat_aggregate(row, wanted) for row in rows]
    rows, flat = (rows, flat) if found is None else _in_order(rows, flat, found.places)
    asked = None if columns is None else names_in(columns)
    full_names = _full_names(experiment, jobs, named, by, wanted, logged)
    rows, flat = (rows, flat) if sort is None else _in_order(rows, flat, order(flat, sort, full_names))
    if json:
        terminal.print_answer(rows)
        return
    there = _columns_there(experiment, flat, by, asked)
    called = chosen_columns(there, asked, full_names)
    flat, chosen = flat if asked is None else only_columns(flat, called), list(called)
    strong: Set[tuple[int, str]] = set()
    if kind in TEXT_FORMATS and by is not None:
        leading = best_groups(jobs, by, metric=metric, goal=goal, goals=objective.goals)
        flat, chosen, errors = with_errors(flat, chosen, _shown(by, ["count"]), precision)
        strong = _in_bold(rows, chosen, called, by, leading, errors)
    shown, heads = changed_columns(flat, chosen) if only_changed else chosen, _heads(rows, called)
    flat = flat if shown == chosen else only_columns(flat, dict(zip(shown, shown, strict=True)))
    flat = rounded(flat, precision, but=heads)
    if kind == "table":
        _print_table(flat, heads, are_chosen=columns is not None, digits=precision)
        _say_what_is_shown(found, len(ranked), [name for name in chosen if name not in shown])
    else:
        _write(flat, shown, kind, out, heads=heads, digits=precision, is_safe=safe, strong=strong)


def _columns_there(
    experiment: Experiment, flat: Sequence[Row], by: Sequence[str] | None, asked: Sequence[str] | None
) -> list[str]:
    """The columns of flat rows, and of those that may be asked for the variables that these jobs lack; where there are
    no rows, the columns that these would have."""
    if by is not None:
        return columns_of(flat) or [*_shown(by, ["count"]), "count"]
    there = columns_of(flat) or experiment.result_columns()
    more = () if asked is None else (*experiment.variables, *keys_named(asked, there))
    return list(dict.fromkeys((*there, *more)))


def _rows_of(
    experiment: Experiment, rules: list[Any] | None, named: Iterable[str], *, pruned: bool
) -> Sequence[ResultRow]:
    """A row per job, with the keys of configurations that are named; lines on standard error name those that lack some
    of their metrics, or whose results are gone."""
    jobs, folder = experiment.result_rows(rules, pruned=pruned), experiment.folder
    lacking = without_metrics(folder, [row["job"] for row in jobs], experiment.states)
    for line in (*lacking, *without_results(folder, jobs)):
        tell(line)
    return with_keys(experiment.folder, jobs, named)


def _once(experiment: Experiment, jobs: Sequence[ResultRow], by: Sequence[str]) -> Sequence[ResultRow]:
    """The rows that means are made of; lines name the jobs that are not counted again, and those that are in none.
    Raises ExperimentManagerError for what is no variable, before anything is said."""
    require_variables(by, list(dict.fromkeys((*variables_of(jobs), *_known(experiment, by)))))
    once, note = counted_once(experiment.folder, jobs)
    others = of_others([row for row in once if row["state"] not in ENDED_WELL], are_left_out=True)
    for line in filter(None, (note, others)):
        tell(line)
    return once


def _means(
    experiment: Experiment,
    jobs: Sequence[ResultRow],
    by: Sequence[str],
    how: Sequence[str],
    logged: Collection[str] | None,
) -> Sequence[Row]:
    """The groups of `aggregate`; a line names the jobs of one group that differ in more than their variables."""
    found = aggregate(jobs, by, how, logged, _known(experiment, by))
    groups: dict[str, list[int]] = defaultdict(list)
    for row in jobs:
        if row["state"] in ENDED_WELL:
            groups[group_key(row, by)].append(row["job"])
    if (mixed := mixing(experiment.folder, groups.values())) is not None:
        tell(mixed.told("--group-by", by))
    return found


def _known(experiment: Experiment, by: Sequence[str]) -> Sequence[str]:
    """What can make a group also where no row has it."""
    return (*experiment.variables, *keys_named(by, experiment.variables))


def _deciding(
    experiment: Experiment, metric: str | None, columns: str | None, *, with_goals: bool
) -> tuple[Objective, Collection[str] | None]:
    """By what jobs are compared, where rows are ranked or grouped; and the logged metrics that groups have means of
    besides their results, None for all."""
    found = known_objective(experiment.folder) if with_goals else Objective({}, (), frozenset())
    return found, None if columns is not None else list(found.goals) if metric is None else [metric]


def _full_names(
    experiment: Experiment,
    jobs: Sequence[Row],
    asked: Iterable[str],
    by: Sequence[str] | None,
    how: Sequence[str],
    logged: Collection[str] | None,
) -> Mapping[str, str]:
    """What the columns are called that are asked for by their full names, where any is: of jobs, those which none of
    these has, and others of the experiment have, too."""
    words = [word for word in asked if is_full(word)]
    if not words:
        return NO_NAMES
    if by is not None:
        return group_names(jobs, by, how, logged)
    found = result_names(jobs)
    elsewhere = [] if all(word in found for word in words) else experiment.result_columns(full=True)
    return {**dict(zip(elsewhere, elsewhere, strict=True)), **found}


def _in_order(rows: Sequence[Row], flat: Sequence[Row], places: Sequence[int]) -> tuple[list[Row], list[Row]]:
    return [rows[place] for place in places], [flat[place] for place in places]


def _in_bold(
    rows: Sequence[Row],
    columns: Sequence[str],
    called: Mapping[str, str],
    by: Sequence[str],
    leading: BestGroups | None,
    errors: Sequence[str],
) -> set[tuple[int, str]]:
    """The cells of a table of groups that are in bold; what that means, and what stands after ±, is told."""
    for kind in errors:
        tell(f"±: {_ERRORS[kind]}")
    means = () if leading is None else [name for name, column in called.items() if column == f"{leading.metric} mean"]
    names = [name for mean in means for name in (mean, mean.removesuffix(" mean"))]
    name = next((name for name in names if name in columns and name not in (*by, "count")), None)
    if leading is None or name is None:
        return set()
    if leading.why_not is not None:
        tell(f"nothing is in bold: {leading.why_not}")
    else:
        tell(f"bold: the best {leading.metric} ({leading.goal}), and what {_TEST} does not tell from it")
    return {(place, name) for place, row in enumerate(rows) if group_key(row, by) in leading.keys}


_ERRORS: Final = {
    "ci": "where the mean lies with a confidence of 95 % (Student's t)",
    "std": "the standard deviation of the sample; --aggregate mean,ci has an interval of the mean",
}
_TEST: Final = "Welch's test at 5 %, adjusted after Holm,"


def _best(
    rows: Sequence[Row],
    count: int,
    metric: str | None,
    goal: str | None,
    objective: Objective,
    jobs: Sequence[ResultRow],
) -> Best:
    """The best of the rows, which are those of jobs, or of groups of them with their means; what is to be said of the
    choice is told."""
    found = best(rows, count, metric=metric, goal=goal, goals=objective.goals)
    name = found.metric.removeprefix("metrics.")
    is_logged = name != found.metric or not any(name in row["result"] for row in jobs)
    of_trials = None
    if objective.averaged and "job" in rows[0] and name in objective.goals:
        others = [name for name in jobs[0]["variables"] if name not in objective.averaged]
        of_trials = (
            f"the search goes by means over {', '.join(objective.averaged)}, and these are single jobs; --group-by "
            f"{','.join(others)} compares its trials"
        )
    for note in (found.note, objective.note(name) if is_logged else None, of_trials):
        if note is not None:
            tell(note)
    return found


def _check_together(
    experiment: Experiment,
    flat_only: Mapping[str, Any],
    *,
    is_json: bool,
    how: str | None,
    group_by: str | None,
    unused: tuple[str | None, str | None],
) -> None:
    """Raise ExperimentManagerError for options that do not go together; `unused` are a metric and a goal that nothing
    is to be the best by."""
    asked = next((option for option, value in flat_only.items() if value is not None), None)
    if is_json and asked is not None:
        raise ExperimentManagerError(f"--json prints whole rows; {asked} goes with --format json, which is flat")
    if how is not None and group_by is None:
        there_are = ", ".join(experiment.variables) or "none"
        raise ExperimentManagerError(f"--aggregate is for --group-by, with names of variables; there are {there_are}")
    if unused != (None, None):
        option = "--metric" if unused[0] is not None else "--goal"
        raise ExperimentManagerError(f"{option} is for --best, with how many are to be shown; --sort sorts all")


def _say_what_is_shown(found: Best | None, n_all: int, same: Sequence[str]) -> None:
    """The lines below a table that say which rows, and which columns, are in it."""
    width = terminal.terminal_width()
    if same:
        for line in terminal.wrapped(f"the same in all rows: {', '.join(same)}", width or 10_000):
            terminal.say(line)
    if found is not None:
        terminal.say(f"the best {len(found.places)} of {n_all} by {found.metric}, of which the {found.goal} is best")


class Compared(NamedTuple):
    """What is compared, and how."""

    folders: Annotated[
        list[Path], typer.Argument(help="The folders of one or several experiments.", show_default=False)
    ]
    by: Annotated[
        str | None,
        typer.Option(
            autocompletion=completion.variables,
            help="Variables that make a method: algorithm,nn. Default: all that vary.",
        ),
    ] = None
    over: Repeating = None
    tasks: Tasks = None
    metric: Annotated[
        str | None,
        typer.Option(
            autocompletion=completion.metric,
            help="What is compared. Default: what a search or a pruner goes by, else the first number.",
        ),
    ] = None
    goal: Goal = None
    normalize: Annotated[str, typer.Option(help="range: the scores of each task from 0 to 1. Default: none.")] = "none"
    common: Annotated[
        bool, typer.Option("--common", help="Leave out the runs that some method lacks, as seeds that failed.")
    ] = False
    where: Where = None

    def read(self) -> tuple[Experiment, list[Experiment], dict[str, Any]]:
        """The experiment, the others, and the options of `Experiment.compare`."""
        first, *others = [Experiment.at(folder) for folder in self.folders]
        names = {"by": _names(self.by), "over": _names(self.over), "tasks": _names(self.tasks) or ()}
        more = {"metric": self.metric, "goal": self.goal, "normalize": self.normalize, "common": self.common}
        return first, others, {**names, **more, "where": first.rules(self.where)}


@with_fields
def compare(
    compared: Compared,
    format_: Annotated[str, typer.Option("--format", help="table, or for a paper: markdown, latex.")] = "table",
    json: Json = False,
) -> None:
    """Tell which method is better, by how much, and whether chance could have done it, with intervals and tests."""
    if format_ not in ("table", *TEXT_FORMATS):
        there_are = ", ".join(("table", *TEXT_FORMATS))
        raise ExperimentManagerError(f"{format_!r} is no format of a comparison; there are {there_are}, and --json")
    first, others, how = compared.read()
    found = first.compare(*others, curves=json, **how)
    if json:
        terminal.print_answer(_plain(found))
        return
    if format_ != "table":
        _print_for_paper(found, format_)
        return
    on_tasks = f" on {found.n_tasks} tasks" if found.n_tasks > 1 else ""
    terminal.say(f"{found.metric}, the {found.goal} is best: {found.n_runs} runs of each method{on_tasks}")
    terminal.print_rows([_method_row(method) for method in found.methods], exact=_heads_of(found))
    terminal.say("")
    terminal.print_rows([_pair_row(pair) for pair in found.pairs])
    for line in (_EXPLAINED, *found.notes):
        terminal.say(line)


@with_fields
def plot(
    compared: Compared,
    kind: Annotated[str, typer.Option(help="intervals, profile, curves or sensitivity.")] = "intervals",
    out: Annotated[Path | None, typer.Option(help="The file: .pdf, .svg or .png. Default: KIND.pdf, here.")] = None,
    x: Annotated[str | None, typer.Option(help="The variable of a sensitivity: lr.")] = None,
) -> None:
    """Draw a comparison for a paper, as compare makes it; curves are of a metric that jobs log. Prints the path."""
    first, others, how = compared.read()
    terminal.say(first.plot(kind, out or f"{kind}.pdf", *others, x=x, **how))


_EXPLAINED: Final = (
    "[]: 95 % of the draws of a stratified bootstrap; p: of two sides, adjusted after Holm for the number of pairs; "
    "runs needed: of each method, to find such a difference in four of five comparisons"
)


def _print_for_paper(found: Comparison, kind: str) -> None:
    """The table of methods, with those in bold that are the best, or that no test tells from it."""
    rows = [_method_row(method) for method in found.methods]
    best = found.methods[0].label
    apart = {
        {pair.better, pair.other}.difference({best}).pop()
        for pair in found.pairs
        if best in (pair.better, pair.other) and pair.permutation_adjusted < _ALPHA
    }
    strong = {
        (place, name)
        for place, method in enumerate(found.methods)
        for name in set(rows[place]) - set(_head(method))
        if method.label not in apart
    }
    for line in TEXT_FORMATS[kind](rows, columns_of(rows), strong, exact=_heads_of(found)):
        terminal.say(line)
    for note in (f"{found.n_runs} runs of each method; {_BOLD}", *found.notes):
        tell(note)


_ALPHA: Final = 0.05
_BOLD: Final = (
    "[]: 95 % of the draws of a stratified bootstrap; bold: the best, and what a permutation test at 5 %, adjusted "
    "after Holm, does not tell from it"
)


def _plain(value: Any) -> Any:
    """Records as mappings of the names of their fields."""
    if isinstance(value, tuple):
        if hasattr(value, "_asdict"):
            return {name: _plain(item) for name, item in value._asdict().items()}
        return [_plain(item) for item in value]
    return value


def _method_row(method: Method) -> dict[str, Any]:
    found = {"iqm": method.iqm, "mean": method.mean}
    if len(method.scores[0]) > 1:
        found["median"] = method.median  # over tasks: of one task it is the mean
    return {**_head(method), **{name: _interval_text(interval) for name, interval in found.items()}}


def _head(method: Method) -> dict[str, Any]:
    """The cells that tell which method it is."""
    return named_apart(method.variables, ("iqm", "mean", "median"))


def _heads_of(found: Comparison) -> set[str]:
    return {name for method in found.methods for name in _head(method)}


def _interval_text(interval: Interval) -> str:
    """`0.52 [0.41, 0.6]`, with four digits."""
    return f"{interval.value:.4g} [{interval.low:.4g}, {interval.high:.4g}]"


def _pair_row(pair: Pair) -> dict[str, Any]:
    return {
        "better": pair.better,
        "than": pair.other,
        "difference": f"{pair.difference:.4g}",
        "P(better)": _interval_text(pair.improvement),
        "p Welch": f"{pair.welch_adjusted:.2g}",
        "p permutation": f"{pair.permutation_adjusted:.2g}",
        "runs needed": pair.runs_needed,
    }


@with_fields
def efficiency(chosen: Chosen, group_by: GroupBy = None, json: Json = False) -> None:
    """Tell what jobs asked for and what they used, what was wasted, and the options that would have been enough."""
    experiment, rules = chosen.read()
    by = names_in(group_by or "")
    found = experiment.efficiency(rules, by=by)
    if json:
        terminal.print_answer(_plain(found))
        return
    if found.groups:
        terminal.print_rows([_usage_row(group) for group in found.groups], exact=set(_shown(by, _OF_USAGE)))
    for group in found.groups:
        for line in _waste_lines(group):
            terminal.say(line)
    for note in found.notes:
        terminal.say(note)


_OF_USAGE: Final = ("jobs", "attempts", "memory", "processors", "time", "GPUs", "GPU memory")


def _usage_row(group: Usage) -> dict[str, Any]:
    """What the job used that used most, of what was asked for; shares are of all jobs together."""
    return {
        **named_apart(group.variables, _OF_USAGE),
        "jobs": group.n_jobs,
        "attempts": group.n_attempts,
        "memory": _of(_gigabytes(group.used_memory_bytes), _gigabytes(group.asked_memory_bytes), group.memory_share),
        "processors": _of(_short(group.used_cpus), _short(group.asked_cpus), group.cpu_share),
        "time": _of(terminal.duration(group.used_s), terminal.duration(group.limit_s), group.time_share),
        **({"GPUs": gpus} if (gpus := _gpus(group)) else {}),
        **({"GPU memory": memory} if (memory := _gigabytes(group.used_gpu_memory_bytes)) else {}),
    }


def _gpus(group: Usage) -> str | None:
    """`0.9 of 1 (90 %)`; None where none were asked for, and none were used."""
    if not group.asked_gpus and not group.used_gpus:
        return None
    return _of(_short(group.used_gpus), _short(group.asked_gpus), group.gpu_share)


def _waste_lines(group: Usage) -> list[str]:
    named = settings_text(group.variables)
    of = f"{named}: " if named else ""
    lines = []
    if held := _hours_text(group.hours):
        what = "held" if group.asked_cpus is not None else "used"
        unused = _hours_text(group.unused)
        lines.append(f"{of}{what} {held}" + (f"; not used by jobs that ended well: {unused}" if unused else ""))
    if group.ended_badly:
        how = ", ".join(f"{count} {state}" for state, count in group.ended_badly.items())
        lines.append(f"{of}lost to attempts that ended badly ({how}): {_hours_text(group.lost) or 'nobody knows'}")
    if group.options:
        lines.append(f"{of}enough for {counted(group.n_measured)} that ended well ({_MARGINS}): {group.settings}")
    return lines


_MARGINS: Final = ", ".join(
    f"{name} +{round(100 * (margin - 1))} %"
    for name, margin in (("memory", MEMORY_MARGIN), ("time", TIME_MARGIN), ("processors", CPU_MARGIN))
)


def _hours_text(hours: Hours) -> str:
    """`12.5 CPU-hours, 50 GB-hours`; what is 0, or not known, is left out."""
    named = zip(("CPU", "GPU", "GB"), hours, strict=True)
    return ", ".join(f"{value:.3g} {name}-hours" for name, value in named if value)


def _of(used: str | None, asked: str | None, share: float | None) -> str | None:
    """`1.2 of 8 GB (15 %)`, as far as it is known."""
    if used is None:
        return None if asked is None else f"? of {asked}"
    rest = "" if share is None else f" ({100 * share:.0f} %)"
    return used if asked is None else f"{used} of {asked}{rest}"


def _gigabytes(count: float | None) -> str | None:
    return None if count is None else f"{count / 2**30:.3g} GB"


def _short(number: float | None) -> str | None:
    return None if number is None else f"{number:.2g}"


@with_fields
def report(
    chosen: Chosen,
    out: Annotated[Path | None, typer.Option(help="The file to write. Default: report.html in the folder.")] = None,
    average_over: Repeating = None,
    group_by: Annotated[
        str | None, typer.Option(help="Variables that make a group: algorithm,nn. Default: all others.")
    ] = None,
    metric: Decisive = None,
    goal: Goal = None,
    tasks: Tasks = None,
    json: Json = False,
) -> None:
    """Write one HTML file with progress, failures, the best, learning curves, all jobs and launches; print its path."""
    experiment, rules = chosen.read()
    path = experiment.report(
        out,
        where=rules,
        average_over=_names(average_over),
        group_by=_names(group_by),
        metric=metric,
        goal=goal,
        tasks=_names(tasks) or (),
    )
    if json:
        terminal.print_answer({"report": path})
    else:
        terminal.say(path)


@with_fields
def export(
    chosen: Chosen,
    to: Annotated[str, typer.Option(help="tensorboard, wandb (offline), mlflow or trackio.", show_default=False)],
    out: Annotated[
        str | None,
        typer.Option(help="The folder, for mlflow a database or an address. Default: as that program has it."),
    ] = None,
    project: Annotated[str | None, typer.Option(help="What groups runs there. Default: the experiment's name.")] = None,
    json: Json = False,
) -> None:
    """Hand jobs that have ended to a program that tracks experiments, each once: repeat it to go on."""
    experiment, rules = chosen.read()
    done = experiment.export(to, out, project=project, where=rules)
    if json:
        terminal.print_answer(_plain(done))
        return
    if done.unended:
        verb = "has" if len(done.unended) == 1 else "have"
        terminal.say(f"{counted(len(done.unended))} left out, which {verb} not ended ({which(done.unended)})")
    if done.present:
        verb = "was" if len(done.present) == 1 else "were"
        terminal.say(f"{counted(len(done.present))} {verb} there already ({which(done.present)})")
    terminal.say(f"{counted(len(done.written))} exported to {done.place}; look at it with: {done.hint}")


_ENDINGS: Final = ("", ".parquet", ".pq")
_MEANT: Final = {".json": "json", ".md": "markdown", ".tex": "latex"}
_PRINTED: Final = ("table", "csv", "json", *TEXT_FORMATS)


def _write(
    flat: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    kind: str,
    out: Path | None,
    *,
    heads: Set[str],
    digits: int | None,
    is_safe: bool,
    strong: Set[tuple[int, str]],
) -> None:
    if kind == "json":
        terminal.print_json(flat)
    elif kind == "csv":
        write_csv(flat, columns, is_safe=is_safe)
    elif kind in TEXT_FORMATS:
        more = {} if digits is None else {"digits": max(digits, terminal.DIGITS)}
        for line in TEXT_FORMATS[kind](flat, columns, strong, exact=heads, **more):
            terminal.say(line)
    else:
        FILE_FORMATS[kind](flat, columns, str(out))
        terminal.say(f"{len(flat)} rows in {out}")


def _print_table(flat: Sequence[Mapping[str, Any]], heads: Set[str], *, are_chosen: bool, digits: int | None) -> None:
    names = columns_of(flat)
    optional = names[1:] if are_chosen else [name for name in names if name not in heads]
    minor = () if are_chosen else ("attempt",)
    digits = max(digits or 0, terminal.DIGITS)
    terminal.print_rows(flat, optional=optional, minor=minor, more=HOW_TO_GET_MORE, exact=heads, digits=digits)


def _heads(rows: Sequence[Mapping[str, Any]], called: Mapping[str, str]) -> set[str]:
    """The columns that tell what a row is of: a job with its state and its variables, or a group; by what they are
    `called` where they are asked for, too."""
    names = {name for row in rows for name in row["variables"]}
    found = {"job", "state", "attempt", "count", *names, *_shown(names, names)}
    return found | {name for name, column in called.items() if column in found}


def _shown(names: Iterable[str], taken: Collection[str]) -> list[str]:
    """What the columns of some variables are called, in a table with columns of its own."""
    return list(named_apart(dict.fromkeys(names), taken))


def _format(named: str | None, out: Path | None, *, is_json: bool, is_safe: bool) -> str:
    kind = named or ("json" if is_json else "parquet" if out is not None else "table")
    formats = (*_PRINTED, *FILE_FORMATS)
    if kind not in formats:
        raise ExperimentManagerError(f"{kind!r} is no format; there are {', '.join(formats)}")
    if kind in FILE_FORMATS and out is None:
        raise ExperimentManagerError(f"{kind} is not for a terminal; name a file with --out")
    if kind not in FILE_FORMATS and out is not None:
        raise ExperimentManagerError(f"--out is for {', '.join(FILE_FORMATS)}; write > {out} for {kind}")
    if named is None and out is not None and out.suffix.lower() not in _ENDINGS:
        meant = _MEANT.get(out.suffix.lower(), "csv")
        raise ExperimentManagerError(
            f"--out writes parquet, and {out} ends in {out.suffix}; write --format {meant} > {out}, or name --format "
            "parquet, too"
        )
    if is_safe and kind != "csv":
        raise ExperimentManagerError("--safe goes with --format csv")
    return kind


def _name_missing(ids: list[int], *, is_json: bool) -> NoReturn:
    if is_json:
        terminal.print_answer({"jobs": ids})
    elif ids:
        terminal.say(format_ids(ids))
    else:
        tell("every job that may run has completed, in its last attempt or an earlier one")
    raise typer.Exit(1 if ids else 0)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else names_in(text)
