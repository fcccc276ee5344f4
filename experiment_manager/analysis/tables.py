"""Tables of results: rows, flat, in order, and averaged over jobs that agree in some variables; DataFrames; files."""

import csv
import io
import json
import math
import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from experiment_manager.analysis.inference import around_mean, like_the_best
from experiment_manager.errors import ExperimentManagerError, NotInstalled
from experiment_manager.model import codec
from experiment_manager.model.grid import REPEAT
from experiment_manager.model.ids import which
from experiment_manager.model.records import ENDED_WELL, Job, State
from experiment_manager.model.rows import GroupRow, named_apart
from experiment_manager.store.layout import Folder, writing
from experiment_manager.store.metrics import course
from experiment_manager.store.states import StateTable
from experiment_manager.text import counted, harmless, skipped, stream_of

if TYPE_CHECKING:
    import pandas


Row = Mapping[str, Any]
NO_GOALS: Final[Mapping[str, str]] = MappingProxyType({})
"""Of no metric is known whether the best is `max` or `min`."""
_DIGITS: Final = 4
"""How many digits of a number a paper or a note shows."""


def _in_order(function: Callable[[Sequence[float]], float]) -> Callable[[Sequence[float]], float]:
    """NaN when one of the values is: it has no place in an order. Infinity has one."""
    return lambda values: math.nan if any(value != value for value in values) else _in_range(function, values)


def _in_range(function: Callable[[Sequence[float]], float], values: Sequence[float]) -> float:
    """The number that a function makes of the values, or of floats where an integer is too large to calculate with."""
    try:
        return function(values)
    except OverflowError:
        return function([codec.as_float(value) for value in values])


def _mean(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    if math.isinf(mean) and not any(map(math.isinf, values)):  # only their sum is too large
        return math.fsum(value / len(values) for value in values)
    return mean


def _median(values: Sequence[float]) -> float:
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else _mean(ordered[half - 1 : half + 1])


def _deviation(values: Sequence[float]) -> float | None:
    """Of the sample; None for one value, NaN when a value is infinite or NaN."""
    if len(values) < 2:
        return None
    import statistics  # which imports more than most verbs need

    floats = [codec.as_float(value) for value in values]
    return statistics.stdev(floats) if all(map(math.isfinite, floats)) else math.nan


def _bound(side: int) -> Callable[[Sequence[float]], float | None]:
    """The lower or the upper end of the interval of the mean; None for one value."""

    def found(values: Sequence[float]) -> float | None:
        distance = around_mean([codec.as_float(value) for value in values])
        return None if distance is None else _in_range(_mean, values) + side * distance

    return found


AGGREGATES: Final[Mapping[str, Callable[[Sequence[float]], float | None]]] = {
    "mean": lambda values: _in_range(_mean, values),
    "std": _deviation,
    "min": _in_order(min),
    "max": _in_order(max),
    "median": _in_order(_median),
    "low": _bound(-1),
    "high": _bound(1),
}
_INTERVAL: Final = "ci"
"""Stands for `low` and `high`, between which the mean lies with a confidence of 95 %."""


def aggregates_in(names: Iterable[str]) -> list[str]:
    """The aggregates that people name, each once. Raises ExperimentManagerError for one that is none."""
    found: dict[str, None] = {}
    for name in names:
        if name not in (*AGGREGATES, _INTERVAL, "count"):
            there_are = ", ".join((*AGGREGATES, _INTERVAL, "count"))
            raise ExperimentManagerError(f"{name!r} is no aggregate; there are {there_are}")
        found |= dict.fromkeys(("low", "high") if name == _INTERVAL else (name,))
    return list(found)


def flattened(rows: Sequence[Row], *nested: str, heads: Iterable[str] = ()) -> list[dict[str, Any]]:
    """The rows with their nested mappings spread out, in columns that `column_names` calls so."""
    called = column_names(rows, *nested, heads=heads)
    flat = [{name: value for name, value in row.items() if name not in nested} for row in rows]
    for key in nested:
        for spread, row in zip(flat, rows, strict=True):
            spread |= {called[f"{key}.{name}"]: value for name, value in row[key].items()}
    return flat


def column_names(rows: Sequence[Row], *nested: str, heads: Iterable[str] = ()) -> dict[str, str]:
    """What the columns of nested mappings are called, by their full names, as `metrics.loss`. A column has values of
    one kind: it is called by the name alone, and by its full name where any of the rows, or of the `heads`, has that
    name before, or it is the full name of another column."""
    names = [(key, name) for key in nested for name in dict.fromkeys(name for row in rows for name in row[key])]
    taken = {name for row in rows for name in row if name not in nested}
    taken |= {*heads, *(f"{key}.{name}" for key, name in names)}
    called: dict[str, str] = {}
    for key, name in names:
        full_name = f"{key}.{name}"
        called[full_name] = full_name if name in taken else name
        taken.add(name)
    return called


NO_NAMES: Final[Mapping[str, str]] = MappingProxyType({})
"""No column has a full name."""
_SOURCES: Final = ("result", "metrics")
RESULT_PARTS: Final = ("variables", *_SOURCES)
"""What is nested in a row of results, and begins the full names of columns."""


def with_tags(rows: Iterable[Row]) -> Sequence[Row]:
    """The rows, with what some of them have alone after the head of each: the attempt that a result is of, and the tags
    as one text."""
    rows = list(rows)
    some = [name for name in ("tags", "of_attempt") if any(name in row for row in rows)]
    if not some:
        return rows
    return [
        {
            **{name: row[name] for name in _HEAD if name in row},
            **{name: _some_text(row.get(name)) for name in some},
            **{name: value for name, value in row.items() if name not in some},
        }
        for row in rows
    ]


def _some_text(value: Any) -> Any:
    return ", ".join(value) or None if isinstance(value, list | tuple) else value


_HEAD: Final = ("job", "state", "attempt", "selected")


def flat_results(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows of results, flat: the variables, the fields of the result, the last metrics; and where a part of a result
    could not be stored, nothing in its place, which may be a column of numbers, and the reasons as `refused`."""
    rows = with_tags(rows)
    flat = flattened([_stored(row) for row in rows], *RESULT_PARTS, heads=_head_of_reasons(rows))
    reasons = ["; ".join(dict.fromkeys(row["refused"].values())) for row in rows]
    return [{**spread, _REASONS: why} if why else spread for spread, why in zip(flat, reasons, strict=True)]


def result_names(rows: Iterable[Row]) -> dict[str, str]:
    """What the columns of `flat_results` are called, by their full names."""
    rows = with_tags(rows)
    return column_names([_stored(row) for row in rows], *RESULT_PARTS, heads=_head_of_reasons(rows))


_REASONS: Final = "refused"


def _stored(row: Row) -> Row:
    """A row without the reasons why a part of its result could not be stored, and without what stands in its place."""
    result = {name: None if name in row["refused"] else value for name, value in row["result"].items()}
    return {**{key: value for key, value in row.items() if key != _REASONS}, "result": result}


def _head_of_reasons(rows: Iterable[Row]) -> list[str]:
    return [_REASONS] if any(row["refused"] for row in rows) else []


def columns_of(rows: Iterable[Row]) -> list[str]:
    """The names in flat rows, in the order in which they first come."""
    return list(dict.fromkeys(name for row in rows for name in row))


def chosen_columns(
    there: Iterable[str], asked: Sequence[str] | None, full_names: Mapping[str, str] = NO_NAMES
) -> dict[str, str]:
    """Those of the columns that are asked for, by name, by full name, see `column_names`, or by a pattern such as
    `val/*`, with what they are called in the rows; None: all of them. One that is asked for by its full name has that.

    Raises ExperimentManagerError with the columns there are for one that matches none.
    """
    columns = {name: name for name in there}
    if asked is None:
        return columns
    chosen: dict[str, str] = {}
    for pattern in asked:
        names = {**columns, **full_names} if is_full(pattern) else columns
        found = [pattern] if pattern in names else [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            raise ExperimentManagerError(f"{pattern!r} is no column; the columns are {', '.join(columns)}")
        chosen |= {name: names[name] for name in found}
    return chosen


def is_full(name: str) -> bool:
    """Whether a name says of itself what it is of: `metrics.loss`."""
    return name.partition(".")[0] in RESULT_PARTS and "." in name


def only_columns(rows: Sequence[Row], columns: Mapping[str, str]) -> list[dict[str, Any]]:
    """The same rows with these columns alone: what each is to be called, and is called."""
    return [{name: row.get(column) for name, column in columns.items()} for row in rows]


def changed_columns(rows: Sequence[Row], columns: Sequence[str]) -> list[str]:
    """Those of the columns in which flat rows differ, and `job`; all of them where there are no two rows to differ."""
    if len(rows) < 2:
        return list(columns)
    return [name for name in columns if name == "job" or len({exact_text(row.get(name)) for row in rows}) > 1]


def exact_text(value: Any) -> str:
    """A text that values have in common which are the same: 1, 1.0 and True are three."""
    return codec.canonical(codec.encode(value))


def rounded(rows: Sequence[Row], digits: int | None, but: Collection[str]) -> Sequence[Row]:
    """The same flat rows with so many significant digits of each number, but in those columns; None: with all."""
    if digits is None:
        return rows
    return [{name: value if name in but else _rounded(value, digits) for name, value in row.items()} for row in rows]


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, list):
        return [_rounded(item, digits) for item in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


class Best(NamedTuple):
    """The places of the best rows, the best first, and by what they are."""

    places: list[int]
    metric: str
    goal: str
    note: str | None = None  # which rows were left out, or what is odd about those that are compared


def best(
    rows: Sequence[Row], count: int, *, metric: str | None, goal: str | None, goals: Mapping[str, str] = NO_GOALS
) -> Best:
    """The best rows, not flat, of jobs that have ended well, or of groups, which are compared by their means: those
    with a number of the metric, see `chosen_metric`. Where no job with such a number has ended well, all are compared,
    and the note says so. Raises ExperimentManagerError where no row has such a number."""
    check_goal(goal)
    numbers = [row if "result" in row else {"result": row["mean"], "metrics": {}} for row in rows]
    ended = [place for place, row in enumerate(rows) if row.get("state") is None or row["state"] in ENDED_WELL]
    well = [place for place in ended if metric is None or _has_number(numbers[place], metric)]
    source, name = chosen_metric([numbers[place] for place in well], metric if well else None, goals)
    is_any_well = source is not None
    if not is_any_well:
        source, name = chosen_metric(numbers, metric, goals)
    if source is None or name is None:
        raise ExperimentManagerError("no job has left a number yet by which the best could be known")
    goal = goal or _known_goal(name, goals) or "max"
    found = {place: row[source].get(name) for place, row in enumerate(numbers)}
    there = [place for place, value in found.items() if _counts(value) and value == value]
    of_well, with_number = frozenset(well), frozenset(there)
    notes = [of_others([rows[place] for place in there if place not in of_well], are_left_out=is_any_well)]
    if is_any_well:
        there = [place for place in there if place in of_well]
        notes.append(_of_unranked([rows[place] for place in ended if place not in with_number], source, name))
    there.sort(key=lambda place: found[place], reverse=goal == "max")
    return Best(there[:count], metric or name, goal, "; ".join(filter(None, notes)) or None)


def of_others(rows: Sequence[Row], *, are_left_out: bool) -> str | None:
    """What to say of jobs that have a number, and have not ended well; some have, and were run again."""
    if not rows:
        return None
    are_again = all("of_attempt" in row for row in rows)
    if not are_left_out:
        if are_again:
            return "the last attempt of no job has ended well: the best is of what earlier ones have left"
        return "no job has ended well: the best is of what they have left until now"
    ids = [row["job"] for row in rows]
    is_one = len(ids) == 1
    why = "whose last attempt has" if are_again else f"which {'has' if is_one else 'have'}"
    return f"{counted(len(ids))} {'is' if is_one else 'are'} left out, {why} not ended well ({which(ids)})"


def _of_unranked(rows: Sequence[Row], source: str, name: str) -> str | None:
    """What to say of jobs that have ended well, or of groups, without such a number where it is looked for."""
    if not rows:
        return None
    verb = "is" if len(rows) == 1 else "are"
    if "job" not in rows[0]:
        return f"{len(rows)} group{'s' * (len(rows) > 1)} {verb} left out, without a mean of {name}"
    where = "result" if source == "result" else "logged metrics"
    ids = [row["job"] for row in rows]
    is_logged = source == "result" and any(_counts(row["metrics"].get(name)) for row in rows)
    way_out = f"; --metric metrics.{name} ranks what jobs have logged" if is_logged else ""
    return f"{counted(len(ids))} {verb} left out, without a number {name} in the {where} ({which(ids)}){way_out}"


def _has_number(row: Row, metric: str) -> bool:
    return any(_counts(row[source].get(name)) for source, name in _readings(metric))


def _readings(metric: str) -> list[tuple[str, str]]:
    """Where the numbers of a metric may be that people name, and what they are called there: its full name says it, as
    `metrics.loss`; otherwise a field of the result comes before a last metric."""
    source, _, name = metric.partition(".")
    return [*([(source, name)] if source in _SOURCES else []), *((one, metric) for one in _SOURCES)]


def _known_goal(metric: str, goals: Mapping[str, str]) -> str | None:
    """The goal of a metric, which may be named by its full name."""
    return next((goals[name] for _, name in reversed(_readings(metric)) if name in goals), None)


def flat_aggregate(row: Mapping[str, Any], how: Sequence[str]) -> dict[str, Any]:
    """`algorithm, count, result mean, result std` for one group; and `result count` where the jobs are more."""
    spread = {**named_apart(row["variables"], ["count"]), "count": row["count"]}
    names = [name for name in how if name != "count"]
    counts = row.get("counts", {})
    for field in dict.fromkeys([*(field for name in names for field in row[name]), *counts]):
        spread |= {f"{field} count": counts[field]} if field in counts else {}
        spread |= {f"{field} {name}": row[name][field] for name in names if field in row[name]}
    return spread


def aggregate(
    rows: Sequence[Row],
    by: Sequence[str],
    how: Sequence[str] = ("mean", "std"),
    logged: Collection[str] | None = (),
    variables: Iterable[str] = (),
) -> list[dict[str, Any]]:
    """One row per combination of the variables in `by`, over the COMPLETED jobs that have it, and the PRUNED ones
    where there are rows of any.

    `count` is the number of jobs; each of `how` maps each numeric field of the results, and each metric that is
    `logged`, to a number: None stands for all metrics, as does that no result has a number. A metric that is called
    like a field of the results is prefixed, as `metrics.loss`. True counts as 1 and False as 0, so that the mean of
    such a field is a rate. `counts` is there for the fields that a number is missing of in some job: how many have one.
    Raises ExperimentManagerError for an unknown variable or aggregate: known are those of the rows, and `variables`.
    """
    require_variables(by, list(dict.fromkeys((*variables_of(rows), *variables))))
    how = aggregates_in(how)
    groups = _groups(rows, by)
    fields = _fields(groups.values(), logged)
    values = [_values(members, fields) for members in groups.values()]
    aggregated = [_aggregated(members, by, how, found) for members, found in zip(groups.values(), values, strict=True)]
    partial = [
        field
        for field in dict.fromkeys(field for found in values for field in found)
        if any(len(found.get(field, ())) < row["count"] for found, row in zip(values, aggregated, strict=True))
    ]
    for row, found in zip(aggregated, values, strict=True):
        row |= {"counts": {field: len(found.get(field, ())) for field in partial}} if partial else {}
    return aggregated


class BestGroups(NamedTuple):
    """The groups of the best mean, and those that no test tells from it, by their `group_key`, and by what they are the
    best; or `why_not` that is told."""

    keys: Collection[str]
    metric: str
    goal: str | None
    why_not: str | None = None


def best_groups(
    rows: Sequence[Row],
    by: Sequence[str],
    *,
    metric: str | None,
    goal: str | None,
    goals: Mapping[str, str] = NO_GOALS,
) -> BestGroups | None:
    """Which of the groups of `aggregate` are the best in a metric, by default the first of `goals` that they have, or
    the first at all, see `like_the_best`; None where they have none. Raises ExperimentManagerError for a metric that
    they lack."""
    members = _groups(rows, by)
    named = _fields(members.values(), goals if metric is None else [metric])
    groups = {key: _values(found, named) for key, found in members.items()}
    fields = list(dict.fromkeys(field for values in groups.values() for field in values))
    if metric is not None and metric not in fields:
        raise _no_number(metric, fields)
    name = metric or next((name for name in (*goals, *fields) if name in fields), None)
    if name is None:
        return None
    if (goal := goal or _known_goal(name, goals)) is None:
        return BestGroups((), name, goal, "say what is best with --metric and --goal")
    check_goal(goal)
    values = [[codec.as_float(value) for value in found.get(name, ())] for found in groups.values()]
    try:
        places = like_the_best(values, goal)
    except ImportError:
        return BestGroups((), name, goal, f"a test needs numpy; {NotInstalled('numpy', 'analysis')}")
    keys = list(groups)
    lacking = f"not all groups have two finite values of {name}, or more, that could be tested"
    return BestGroups({keys[place] for place in places}, name, goal, None if places else lacking)


def _fields(groups: Iterable[Sequence[Row]], logged: Collection[str] | None) -> dict[str, tuple[str, str]]:
    """What is aggregated: what it is called, see `column_names`, and whether it is one of the `result` or of the
    `metrics`, and its name there. What is `logged` is named in either way."""
    numbers = [
        {source: {name: value for name, value in row[source].items() if _counts(value)} for source in _SOURCES}
        for members in groups
        for row in members
    ]
    is_all = logged is None or not any(row["result"] for row in numbers)
    found: dict[str, tuple[str, str]] = {}
    for full_name, column in column_names(numbers, *_SOURCES).items():
        source, _, name = full_name.partition(".")
        if source == "result" or is_all or not {full_name, column}.isdisjoint(logged or ()):
            found[column] = (source, name)
    return found


def group_names(
    rows: Sequence[Row], by: Sequence[str], how: Sequence[str], logged: Collection[str] | None
) -> dict[str, str]:
    """What the columns of `flat_aggregate` are called, by their full names: `metrics.loss mean`."""
    columns = dict(zip((f"variables.{name}" for name in by), named_apart(dict.fromkeys(by), ["count"]), strict=True))
    for field, (source, name) in _fields(_groups(rows, by).values(), logged).items():
        columns |= {f"{source}.{name} {one}": f"{field} {one}" for one in (*how, "count")}
    return columns


def group_metric(rows: Sequence[Row], by: Sequence[str], metric: str) -> str:
    """What a metric is called in the groups of `aggregate`, which people name so, or by its full name. Raises
    ExperimentManagerError for one that they lack."""
    fields = _fields(_groups(rows, by).values(), [metric])
    called = {f"{source}.{name}": field for field, (source, name) in fields.items()}
    if metric not in fields and metric not in called:
        raise _no_number(metric, fields)
    return called.get(metric, metric)


def _groups(rows: Sequence[Row], by: Sequence[str]) -> dict[str, list[Row]]:
    """The rows of jobs that ended well, by their `group_key`."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["state"] in ENDED_WELL:
            groups[group_key(row, by)].append(row)
    return groups


def variables_of(rows: Iterable[Row]) -> list[str]:
    return sorted({name for row in rows for name in row["variables"]})


def require_variables(asked: Iterable[str], names: Sequence[str]) -> None:
    """Raise ExperimentManagerError unless all that is asked for is among the names of the variables."""
    for name in asked:
        if name not in names:
            raise ExperimentManagerError(f"{name!r} is no variable; the variables are {', '.join(names) or 'none'}")


def repeating(names: Iterable[str], averaged: Collection[str] = ()) -> tuple[str, ...]:
    """The variables that only repeat a job: those that are called seed, as `seed` and `env.seed`, the `repeat` of a
    sweep, and those that are averaged by a search."""
    return tuple(
        name for name in names if name == REPEAT or name.lstrip("+~").rpartition(".")[2] == "seed" or name in averaged
    )


def without(names: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    """The names that are not among the others, in their order."""
    return tuple(name for name in names if name not in others)


def check_goal(goal: str | None) -> None:
    """Raise ExperimentManagerError unless the best is the largest or the smallest, as far as that is said."""
    if goal not in (None, "max", "min"):
        raise ExperimentManagerError(f"the goal is max or min, not {goal!r}")


def chosen_metric(
    rows: Sequence[Row], asked: str | None, goals: Mapping[str, str] = NO_GOALS
) -> tuple[str | None, str | None]:
    """Where the number that counts comes from, `result` or `metrics`, and its name: a field of the results before a
    last metric, unless its full name is asked for, as `metrics.loss`; True and False are 1 and 0. By default the first
    of those whose goals are known, as of a search, else the first there is, where there are numbers one that has some,
    or (None, None). Raises ExperimentManagerError where no job has
    left it.
    """
    numeric = {source: _names_with(_counts, rows, source) for source in _SOURCES}
    own = next((name for name in goals if any(name in names for names in numeric.values())), None)
    if asked is None and own is None:
        first = [(source, name) for source in _SOURCES for name in _names_with(codec.is_number, rows, source)]
        return next(iter(first), next(((source, names[0]) for source, names in numeric.items() if names), (None, None)))
    readings = [(source, own) for source in _SOURCES] if asked is None else _readings(asked)
    for source, name in readings:
        if name in numeric[source]:
            return source, name
    if asked is not None:
        raise _no_number(asked, dict.fromkeys(numeric["result"] + numeric["metrics"]))
    return None, None


def _names_with(is_wanted: Callable[[Any], bool], rows: Iterable[Row], source: str) -> list[str]:
    """The names of the results, or metrics, that have such a value in any of the rows."""
    return list(dict.fromkeys(name for row in rows for name, value in row[source].items() if is_wanted(value)))


def _no_number(name: str, there: Iterable[str]) -> ExperimentManagerError:
    there_are = ", ".join(there) or "none yet"
    return ExperimentManagerError(f"no job has left a number called {name!r}; there are {there_are}")


def group_key(row: Row, by: Iterable[str]) -> str:
    """A text that rows of one group have in common: 1, 1.0 and True are three values."""
    return exact_text([row["variables"].get(name) for name in by])


def _values(members: Sequence[Row], fields: Mapping[str, tuple[str, str]]) -> dict[str, list[float]]:
    """The numbers of each field that has any; True and False are 1 and 0."""
    values: dict[str, list[float]] = {}
    for field, (source, name) in fields.items():
        found = [value for row in members if _counts(value := row[source].get(name))]
        if found:
            values[field] = [int(value) if isinstance(value, bool) else value for value in found]
    return values


def _counts(value: Any) -> bool:
    return codec.is_number(value) or isinstance(value, bool)


def _aggregated(
    members: Sequence[Row], by: Sequence[str], how: Sequence[str], values: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    return {
        "variables": {name: members[0]["variables"].get(name) for name in by},
        "count": len(members),
        **{
            name: {field: AGGREGATES[name](found) for field, found in values.items()}
            for name in AGGREGATES
            if name in how
        },
    }


def state_counts(rows: Iterable[Row], by: Sequence[str]) -> list[GroupRow]:
    """One row per combination of the variables in `by`: `variables`, `count`, and `states`, which maps each state that
    some job has to the number of jobs. Raises ExperimentManagerError for an unknown variable."""
    listed = list(rows)
    require_variables(by, variables_of(listed))
    states = [str(state) for state in State if any(row["state"] == state for row in listed)]
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in listed:
        groups[group_key(row, by)].append(row)
    return [
        {
            "variables": {name: members[0]["variables"].get(name) for name in by},
            "count": len(members),
            "states": {state: sum(row["state"] == state for row in members) for state in states},
        }
        for members in groups.values()
    ]


def order(rows: Sequence[Row], by: str, full_names: Mapping[str, str] = NO_NAMES) -> list[int]:
    """The places of flat rows in the order of a column, `-loss` from the largest; rows without a value come last. It is
    named as in `chosen_columns`.

    Raises ExperimentManagerError with the columns there are for an unknown one.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    names = {**{name: name for name in columns}, **full_names}
    is_reversed, name = (True, by[1:]) if by.startswith("-") and by not in names else (False, by)
    if rows and name not in names:
        raise ExperimentManagerError(f"{name!r} is no column; the columns are {', '.join(columns)}")
    column = names.get(name, name)
    there = [place for place, row in enumerate(rows) if not _is_missing(row.get(column))]
    there.sort(key=lambda place: _rank(rows[place][column]), reverse=is_reversed)
    return there + [place for place, row in enumerate(rows) if _is_missing(row.get(column))]


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or value != value  # NaN


def _rank(value: Any) -> tuple[int, Any]:
    """Numbers before text, and everything else by its text."""
    return (0, value) if isinstance(value, int | float) else (1, str(value))


def results_frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> "pandas.DataFrame":
    """One row per job, flat: `job`, `state`, `attempt`, the variables, the fields of the result, the last metrics. It
    has the `columns` also where it has no rows. Of whole numbers that some jobs lack, a column is of floats where those
    hold all digits.

    Raises ExperimentManagerError where pandas is not installed.
    """
    frame: pandas.DataFrame = _pandas().DataFrame(list(rows), columns=None if rows else list(columns))
    for name in frame.select_dtypes("float64").columns:
        values = [None if _is_missing(value) else value for value in (row.get(name) for row in rows)]
        whole = [value for value in values if type(value) is int]
        if len(whole) == len(values) - values.count(None) and any(int(float(value)) != value for value in whole):
            frame[name] = _pandas().Series(values, index=frame.index, dtype=_type_of(whole))
    return frame


def _type_of(whole: Collection[int]) -> str:
    """The type of pandas that holds whole numbers, and gaps.

    >>> _type_of([-(2**63), 2**63 - 1]), _type_of([0, 2**64 - 1]), _type_of([-1, 2**63]), _type_of([2**64])
    ('Int64', 'UInt64', 'object', 'object')
    """
    least, most = min(whole), max(whole)
    if -(2**63) <= least and most < 2**63:
        return "Int64"
    return "UInt64" if least >= 0 and most < 2**64 else "object"


def metrics_frame(
    folder: Folder, jobs: Iterable[Job], table: StateTable, variables: Sequence[str]
) -> "pandas.DataFrame":
    """One row per value that a job has logged, in all attempts that make its course: `job`, the variables, `attempt`,
    `step`, `time` (seconds since the epoch), `metric`, `value`; with these columns also where nothing was logged.

    Long, as seaborn takes it: `sns.lineplot(data=exp.metrics(), x="step", y="value", hue="algorithm", row="metric")`.
    """
    made = _pandas().DataFrame
    heads: list[dict[str, Any]] = []
    counts: list[int] = []
    logged: dict[str, list[Any]] = {"step": [], "time": [], "metric": [], "value": []}
    for job in jobs:
        for number, metrics in course(folder, table, job.id, skipped):
            logged["step"] += [metric.step for metric in metrics for _ in metric.values]
            logged["time"] += [metric.time for metric in metrics for _ in metric.values]
            logged["metric"] += [name for metric in metrics for name in metric.values]
            logged["value"] += [value for metric in metrics for value in metric.values.values()]
            heads.append(_metrics_head(job.id, job.variables, number))
            counts.append(sum(len(metric.values) for metric in metrics))
    head = made(heads, columns=None if heads else list(_metrics_head(0, dict.fromkeys(variables), 0)))
    frame: pandas.DataFrame = head.loc[head.index.repeat(counts)].reset_index(drop=True).assign(**logged)
    return frame


def _metrics_head(job_id: int, variables: Mapping[str, Any], attempt: int) -> dict[str, Any]:
    """The cells that all rows of a job share; a variable whose name is taken is prefixed, as `variables.step`."""
    taken = ("job", "attempt", "step", "time", "metric", "value")
    return {"job": int(job_id), **named_apart(variables, taken), "attempt": attempt}


class WithErrors(NamedTuple):
    """A table in which a mean and how sure it is are one cell, `0.18 ± 0.15`, under the name of the field; `errors` are
    what stands after ±: `ci`, `std`."""

    rows: list[dict[str, Any]]
    columns: list[str]
    errors: Sequence[str]


def with_errors(rows: Sequence[Row], columns: Sequence[str], by: Collection[str], digits: int | None) -> WithErrors:
    """Flat rows of groups, with the columns that are shown, as papers show them. Errors have two digits, and means as
    many places behind the point, or both so many `digits` as are asked for."""
    there, joined, kinds = set(columns).difference(by), dict[str, str](), dict[str, str]()
    for field in (name.removesuffix(" mean") for name in columns if name.endswith(" mean") and name not in by):
        ends, deviation = {f"{field} low", f"{field} high"}, {f"{field} std"}
        if field in (*by, "count") or not (ends <= there or deviation <= there):
            continue
        kinds[field] = "ci" if ends <= there else "std"
        joined |= dict.fromkeys([f"{field} mean", *(ends if ends <= there else deviation)], field)
    named = list(dict.fromkeys(joined.get(name, name) for name in columns))

    def cell(row: Row, name: str) -> Any:
        if name not in kinds:
            return row.get(name)
        value, error = row.get(f"{name} mean"), row.get(f"{name} {'high' if kinds[name] == 'ci' else 'std'}")
        if value is None or error is None:  # one value tells nothing of how sure it is
            return value
        return _plus_minus(value, error - value if kinds[name] == "ci" else error, digits)

    return WithErrors([{name: cell(row, name) for name in named} for row in rows], named, sorted(set(kinds.values())))


def _plus_minus(value: float, error: float, digits: int | None) -> str:
    """
    >>> _plus_minus(0.175, 0.15235, None), _plus_minus(-1482.31, 213.4, None), _plus_minus(1.5e12, 2.345e10, None)
    ('0.17 ± 0.15', '-1482 ± 213', '1.5e+12 ± 2.3e+10')
    >>> _plus_minus(0.175, 0.15235, 3), _plus_minus(2.0, 0.0, None), _plus_minus(-0.001, 9.96, None)
    ('0.175 ± 0.152', '2 ± 0', '0 ± 10')
    """
    if digits is not None:
        return f"{value:.{digits}g} ± {error:.{digits}g}"
    error = float(f"{error:.{_ERROR_DIGITS}g}") if abs(error) < _HUNDRED else error
    if error and math.isfinite(error) and _SMALLEST <= abs(error) and abs(value) + abs(error) < _LARGEST:
        behind = max(0, _ERROR_DIGITS - 1 - math.floor(math.log10(abs(error))))
        return f"{round(value, behind) + 0.0:.{behind}f} ± {error:.{behind}f}"
    return f"{value:.{_DIGITS}g} ± {error:.{_ERROR_DIGITS}g}"


_ERROR_DIGITS: Final = 2
_HUNDRED, _SMALLEST, _LARGEST = 100.0, 1e-5, 1e6
"""An error from a hundred on has all of its digits before the point; numbers beyond the others are written with a
power of ten."""


def markdown(
    rows: Sequence[Row],
    columns: Sequence[str],
    strong: Collection[tuple[int, str]] = (),
    *,
    exact: Collection[str] = (),
    digits: int = _DIGITS,
) -> Iterator[str]:
    """The lines of a table as GitHub and notebooks show it; the cells in `strong`, by place and column, are bold.
    Columns that are `exact`, as those of variables, have all digits."""
    numbers = {name for name in columns if all(codec.is_number(row.get(name)) for row in rows)}

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    yield line(_markdown_text(name) for name in columns)
    yield line("---:" if name in numbers else "---" for name in columns)
    for place, row in enumerate(rows):
        cells = [_markdown_text(_short_text(row.get(name), None if name in exact else digits)) for name in columns]
        yield line(
            f"**{cell}**" if (place, name) in strong else cell for name, cell in zip(columns, cells, strict=True)
        )


def latex(
    rows: Sequence[Row],
    columns: Sequence[str],
    strong: Collection[tuple[int, str]] = (),
    *,
    exact: Collection[str] = (),
    digits: int = _DIGITS,
) -> Iterator[str]:
    """The lines of a table for `\\usepackage{booktabs}`; the cells in `strong`, by place and column, are bold.
    Columns that are `exact`, as those of variables, have all digits."""
    numbers = {name for name in columns if all(codec.is_number(row.get(name)) for row in rows)}
    yield f"\\begin{{tabular}}{{{''.join('r' if name in numbers else 'l' for name in columns)}}}"
    yield "\\toprule"
    yield f"{' & '.join(map(_latex_text, columns))} \\\\"
    yield "\\midrule"
    for place, row in enumerate(rows):
        cells = [_latex_text(_short_text(row.get(name), None if name in exact else digits)) for name in columns]
        texts = [_bold(cell) if (place, name) in strong else cell for name, cell in zip(columns, cells, strict=True)]
        line = f"{' & '.join(texts)} \\\\"
        yield f"{{}}{line}" if line[0] in "[*" else line  # which would belong to the line break before
    yield "\\bottomrule"
    yield "\\end{tabular}"


def _bold(cell: str) -> str:
    """The cell in bold, its formulas, too, which `\\textbf` alone leaves as they are."""
    return f"\\textbf{{\\boldmath {cell}}}" if "$" in cell else f"\\textbf{{{cell}}}"


TEXT_FORMATS: Final[Mapping[str, Callable[..., Iterator[str]]]] = {"markdown": markdown, "latex": latex}
"""Formats of tables for papers and notes: `lines(rows, columns, strong, exact=(), digits=4)`."""


def _short_text(value: Any, digits: int | None) -> str:
    """A cell for people who read: so many digits of what is no whole number; None: all."""
    value = _cell(value)
    is_cut = digits is not None and isinstance(value, float)
    return "" if value is None else f"{value:.{digits}g}" if is_cut else str(value)


def _markdown_text(text: str) -> str:
    """Text in a cell: a bar would end it, a line break the table; `_x_` would be slanted, and `<b>` be HTML."""
    return re.sub(r"([\\|*_`<\[\]])", r"\\\1", " ".join(text.split()))


_LATEX: Final = {
    "\\": "\\textbackslash{}",
    "{": "\\{",
    "}": "\\}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "±": "$\\pm$",
    **{letter: f"\\{letter}" for letter in "&%$#_"},
}
_NUMBER: Final = re.compile(r"(?<![\w.-])(-?\d+(?:\.\d+)?)(?:e([+-]\d+))?(?![\w.-])")


def _latex_text(text: str) -> str:
    """Text in a cell, of which no letter is a command; a number has a minus and a power that are typeset as such.

    >>> _latex_text("lr_decay & 50 %"), _latex_text("-1.5e-05 [-2, 3]")
    ('lr\\\\_decay \\\\& 50 \\\\%', '$-1.5 \\\\times 10^{-5}$ [$-2$, 3]')
    """
    typeset, last = [], 0
    for found in _NUMBER.finditer(text):
        if found[1].startswith("-") or found[2]:
            power = f" \\times 10^{{{int(found[2])}}}" if found[2] else ""
            typeset += ["".join(_LATEX.get(letter, letter) for letter in text[last : found.start()])]
            typeset += [f"${found[1]}{power}$"]
            last = found.end()
    rest = "".join(_LATEX.get(letter, letter) for letter in text[last:])
    return " ".join("".join([*typeset, rest]).split())


def write_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, is_safe: bool = False) -> None:
    """Rows on standard output, with a line of names; lists and mappings as JSON. `is_safe`: no text of a cell is a
    formula to a spreadsheet."""
    stream = stream_of(sys.stdout)
    is_shown = stream.isatty()
    for cells in (columns, *([_cell(row.get(name)) for name in columns] for row in rows)):
        texts = [_no_formula(cell) for cell in cells] if is_safe else cells
        stream.write(_csv_line([harmless(text) if is_shown and isinstance(text, str) else text for text in texts]))


def _csv_line(cells: Sequence[Any]) -> str:
    """A row with its end. Whoever reads a bare carriage return takes it for the end of a row, and Python quotes it only
    where rows end so.

    >>> _csv_line([1, "a,b", "a\\rb"])
    '1,"a,b","a\\rb"\\n'
    """
    line = io.StringIO(newline="")
    csv.writer(line).writerow(cells)
    return line.getvalue().removesuffix("\r\n") + "\n"


def _no_formula(cell: Any) -> Any:
    """
    >>> _no_formula("=1+1"), _no_formula("-x"), _no_formula(-1.5), _no_formula("a=b")
    ("'=1+1", "'-x", -1.5, 'a=b')
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_BEGINS_FORMULA) else cell


def write_parquet(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], path: str) -> None:
    """Rows as a Parquet file; a column that holds values of several types, or integers beyond 64 bits, as text.

    Raises ExperimentManagerError where pandas or pyarrow is not installed, or the file cannot be written.
    """
    frame = results_frame([{name: _cell(value) for name, value in row.items()} for row in rows], columns)
    for name in frame.columns:
        there = list(frame[name].dropna()) if frame[name].dtype == object else []  # other types hold one kind each
        if len(set(map(type, there))) > 1 or any(map(_is_too_large, there)):
            frame[name] = frame[name].map(str, na_action="ignore")
    try:
        with writing(os.path.abspath(path)):
            frame.to_parquet(path)
    except ImportError as error:
        raise NotInstalled("pyarrow", "analysis") from error


_BEGINS_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of one, as OWASP lists them under CSV injection."""

FILE_FORMATS: Final[Mapping[str, Callable[[Sequence[Mapping[str, Any]], Sequence[str], str], None]]] = {
    "parquet": write_parquet,
}
"""Formats of tables in a file of their own: `write(rows, columns, path)`."""


def _is_too_large(value: Any) -> bool:
    return type(value) is int and not -(2**63) <= value < 2**63


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    plain = codec.plain(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise NotInstalled("pandas", "analysis") from error
    return pandas
