"""Everything that a report shows, collected from the folder of an experiment: its jobs and their groups, the failures
with their reasons and the ends of logs, and who launched what, from which commit. Nothing here knows HTML.
"""

import math
import os
import re
import shlex
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from experiment_manager.analysis.alike import counted_once, mixing
from experiment_manager.analysis.jobs import tail
from experiment_manager.analysis.named_keys import key_values, keys_named
from experiment_manager.analysis.results import Objective, known_objective, result_rows
from experiment_manager.analysis.status import Trouble, status
from experiment_manager.analysis.tables import (
    Row,
    check_goal,
    chosen_metric,
    group_key,
    repeating,
    require_variables,
    without,
)
from experiment_manager.errors import JobRefused, UnreadableLaunch
from experiment_manager.model import codec
from experiment_manager.model.codec import as_float, is_number
from experiment_manager.model.ids import format_ids
from experiment_manager.model.pruning import read
from experiment_manager.model.records import ENDED_BADLY, Job, Launch, State
from experiment_manager.model.secrets import Masks, masked_words
from experiment_manager.report.comparison import Compared, compared
from experiment_manager.report.curves import Learning, Logbook, estimate, learn
from experiment_manager.report.search import SearchFigures, search_figures
from experiment_manager.scheduler.submission import launched_arrays
from experiment_manager.store.documents import END, read_optional
from experiment_manager.store.launches import kept_pruner, launch_numbers, read_launch
from experiment_manager.store.layout import Folder
from experiment_manager.store.rungs import rung_values, step_text
from experiment_manager.store.states import States, StateTable
from experiment_manager.store.submissions import Submission
from experiment_manager.text import settings_text, skipped, tell

MOST_GROUPS: Final = 24
MOST_BEST: Final = 10
_LONGEST_CELL: Final = 200
_EXACT: Final = 2**53
MOST_FAILURES: Final = 30
MOST_LAUNCHES: Final = 100
MOST_LOGS: Final = 10_000
MOST_OF_LOGS: Final = 2_000_000
"""Characters of the ends of logs, of all jobs together."""

_LONGEST_LINE: Final = 500
_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f]")


class Choice(NamedTuple):
    """The choices of whoever makes a report. None: see `Experiment.report`."""

    average_over: Sequence[str] | None = None
    group_by: Sequence[str] | None = None
    metric: str | None = None
    goal: str | None = None
    only: str = ""  # which jobs the report is of, where it is not of all
    tasks: Sequence[str] = ()


class Group(NamedTuple):
    """Jobs that agree in the variables of a group. `values` are the metric's of those that have completed."""

    label: str
    variables: Mapping[str, Any]
    ids: tuple[int, ...]
    completed: tuple[int, ...]
    values: tuple[float, ...]


class Best(NamedTuple):
    """A place among the best: mean, half of its confidence interval, and the values it is of, by job."""

    label: str
    variables: Mapping[str, str]
    mean: str
    half: str
    n: int
    ids: str
    points: tuple[tuple[int, float], ...]
    drawn: tuple[float, float | None] | None  # mean and half, where they are finite


class Column(NamedTuple):
    """A column of the table of jobs; `kind`: job, variable, result or last metric."""

    kind: str
    name: str
    is_number: bool


class Failure(NamedTuple):
    """Jobs that ended the same bad way, and the end of the log of the first one."""

    state: str
    reason: str
    n_jobs: int
    ids: str
    job: int
    log: str  # its path
    lines: tuple[str, ...]


class LogEnd(NamedTuple):
    """The end of the log of a job's last attempt."""

    job: int
    path: str  # below the folder of the experiment
    lines: tuple[str, ...]


class Handed(NamedTuple):
    """One launch, for people."""

    number: str
    when: str
    who: str
    cwd: str
    command: str
    commit: str
    is_dirty: bool | None  # None: git could not tell
    untracked: tuple[str, ...] | None  # Python files that git does not know; None: it was not asked, or could not tell
    jobs: str
    slurm: str  # what SLURM calls it


class Rung(NamedTuple):
    """A step at which jobs were compared: how many came to it, and to how many of them it was the last."""

    step: str
    n_jobs: int
    n_ended: int
    best: str


class Pruning(NamedTuple):
    """What jobs were compared by, and where; see `model.pruning`."""

    words: str  # asha by loss, minimize
    rungs: tuple[Rung, ...]


class Contents(NamedTuple):
    """The whole report."""

    path: str
    name: str
    when: str
    only: str  # which jobs; empty: all
    counts: Mapping[str, int]  # by state
    n_selected: int | None
    metric: str | None
    source: str | None  # of the metric: result, or last metric
    goal: str | None  # None: nobody has said it of this metric, and the largest is best
    grouped_by: tuple[str, ...]
    averaged: tuple[str, ...]
    cautions: tuple[str, ...]  # on what the means are of
    n_groups: int
    best: tuple[Best, ...]
    n_ranked: int
    compared: Compared | None  # None: nothing to compare
    drawn: tuple[Group, ...]
    learning: Learning
    pruning: Pruning | None  # None: nothing prunes jobs
    search: SearchFigures | None  # None: there is none
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Any]]
    failures: Sequence[Failure]
    n_failures: int
    logs: Sequence[LogEnd]
    n_logs_left_out: int  # more would make the page too large
    launches: Sequence[Handed]
    n_launches: int
    tags: tuple[str, ...]
    note: tuple[str, ...]  # its lines


def _without_secrets(jobs: Sequence[Job]) -> list[Job]:
    """The jobs for a page that others read."""
    masks = Masks()
    return [job._replace(variables=masks.settings(job.variables)) for job in jobs]


def collect(folder: Folder, jobs: Sequence[Job], table: StateTable, choice: Choice) -> Contents:
    """The contents of a report. Raises ExperimentManagerError for a name that is no variable, or no metric."""
    objective = known_objective(folder)
    jobs = _without_secrets(_with_keys(folder, jobs, choice.group_by or ()))
    found = status(folder, [job.id for job in jobs], table)
    logbook = Logbook(folder, table)
    rows = result_rows(folder, jobs, table, logbook.last)
    once, of_again = counted_once(folder, rows)
    source, metric, goal = _decisive(objective, rows, choice)
    names = tuple(dict.fromkeys(name for job in jobs for name in job.variables))
    by, averaged = _grouping(choice, names, objective.averaged)
    groups = _groups(once, by, source, metric)
    ranked = _ranked(groups, goal or "max")
    drawn = tuple(ranked + [group for group in groups if not group.values])[:MOST_GROUPS]
    logged = tuple(dict.fromkeys(name for row in rows for name, value in row["metrics"].items() if is_number(value)))
    first = [metric] if metric is not None and metric in logged else []
    shown_launches, n_launches = _launches(folder)
    columns, cells = _table(folder, rows, names)
    logs, n_logs_left_out = _logs(folder, jobs, table)
    return Contents(
        path=folder.path,
        name=folder.name,
        when=_moment(time.time()),
        only=_short(choice.only),
        counts=found.counts,
        n_selected=found.n_selected,
        metric=metric,
        source=source,
        goal=goal,
        grouped_by=by,
        averaged=averaged,
        cautions=tuple(filter(None, [of_again, _mixed(folder, groups, by)])),
        n_groups=len(groups),
        best=tuple(map(_best, ranked[:MOST_BEST])),
        n_ranked=len(ranked),
        compared=compared(
            once,
            [group.variables for group in ranked],
            by=by,
            over=averaged,
            tasks=_known(choice.tasks, names),
            metric=None if source is None else f"{source}.{metric}",
            goal=goal or "max",
        ),
        drawn=drawn,
        learning=learn(logbook, [group.ids for group in drawn], [*first, *without(logged, first)]),
        pruning=_pruning(folder, jobs, table),
        search=search_figures(folder, table),
        columns=columns,
        rows=cells,
        failures=_failures(folder, found.troubles, table),
        n_failures=len(found.troubles),
        logs=logs,
        n_logs_left_out=n_logs_left_out,
        launches=shown_launches,
        n_launches=n_launches,
        tags=found.tags.own,
        note=tuple((found.note or "").splitlines()),
    )


def _with_keys(folder: Folder, jobs: Sequence[Job], names: Sequence[str]) -> list[Job]:
    """The jobs, with those of the names as variables more that are keys of configurations."""
    keys = keys_named(names, {name for job in jobs for name in job.variables})
    values = key_values(folder, [job.id for job in jobs], keys)
    return [job._replace(variables={**job.variables, **values.get(job.id, {})}) for job in jobs]


def _grouping(choice: Choice, names: Sequence[str], over: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The variables that make a group, and those over which groups are averaged."""
    averaged = repeating(names, over) if choice.average_over is None else _known(choice.average_over, names)
    by = without(names, averaged)
    if choice.group_by is not None:
        by = _known(choice.group_by, names)
    return by, without(names, by)


def _decisive(objective: Objective, rows: Sequence[Row], choice: Choice) -> tuple[str | None, str | None, str | None]:
    """Where the metric comes from that decides what is best, its name, and its goal, as far as that is known."""
    check_goal(choice.goal)
    source, metric = chosen_metric(rows, choice.metric, objective.goals)
    if source == "metrics" and (note := objective.note(metric or "")) is not None:
        tell(note)
    return source, metric, choice.goal or objective.goals.get(metric or "")


def _pruning(folder: Folder, jobs: Sequence[Job], table: StateTable) -> Pruning | None:
    """Where jobs were compared, by the pruner of the newest sweep."""
    try:
        pruner = read(kept_pruner(folder).get("pruner") or {})
        values = {} if pruner is None else rung_values(folder, pruner.rungs)
    except (OSError, JobRefused) as error:
        skipped(str(error))
        return None
    ids = {int(job.id) for job in jobs}
    there = {job_id: found for job_id, found in values.items() if job_id in ids}
    if pruner is None or not there:
        return None
    ended = Counter(max(found) for job_id, found in there.items() if table.state(job_id) is State.PRUNED)
    rungs = []
    for step in sorted({step for found in there.values() for step in found}):
        here = [found[step] for found in there.values() if step in found]
        rungs.append(Rung(step_text(step), len(here), ended[step], f"{min(here, key=pruner.badness):.6g}"))
    return Pruning(f"{pruner.name} by {pruner.metric}, {pruner.direction}", tuple(rungs))


def _known(asked: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    require_variables(asked, names)
    return tuple(asked)


def _groups(rows: Sequence[Row], by: Sequence[str], source: str | None, metric: str | None) -> list[Group]:
    """The jobs by their values of the variables in `by`, in the order in which they first come."""
    members: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        members[group_key(row, by)].append(row)
    varying = _varying([found[0]["variables"] for found in members.values()], by)
    groups = []
    for found in members.values():
        variables = found[0]["variables"]
        label = settings_text({name: variables[name] for name in varying if name in variables}) or "all jobs"
        have = [row for row in found if row["state"] == State.COMPLETED and is_number(_left(row, source, metric))]
        groups.append(
            Group(
                label=_short(label),
                variables={name: variables[name] for name in by if name in variables},
                ids=tuple(row["job"] for row in found),
                completed=tuple(row["job"] for row in have),
                values=tuple(as_float(_left(row, source, metric)) for row in have),
            )
        )
    return groups


def _mixed(folder: Folder, groups: Sequence[Group], by: Sequence[str]) -> str | None:
    """What to say of jobs of one group that differ in more than their variables, if there are any."""
    mixed = mixing(folder, [group.completed for group in groups])
    return None if mixed is None else mixed.told("--group-by", by)


def _left(row: Row, source: str | None, metric: str | None) -> Any:
    return row[source].get(metric) if source is not None else None


def _varying(settings: Sequence[Mapping[str, Any]], by: Sequence[str]) -> list[str]:
    """The variables in which the groups differ: the others would only lengthen every label."""
    if len(settings) < 2:
        return list(by)
    return [name for name in by if len({codec.canonical(codec.encode(found.get(name))) for found in settings}) > 1]


def _ranked(groups: Sequence[Group], goal: str) -> list[Group]:
    """The groups that have values, the best mean first, and last those whose mean is not finite."""

    def badness(group: Group) -> tuple[bool, float]:
        mean = estimate(group.values).mean
        return (True, 0.0) if not math.isfinite(mean) else (False, -mean if goal == "max" else mean)

    return sorted((group for group in groups if group.values), key=badness)


def _best(group: Group) -> Best:
    mean, half, n = estimate(group.values)
    finite = [pair for pair in zip(group.completed, group.values, strict=True) if math.isfinite(pair[1])]
    shown_half = half if half is not None and math.isfinite(half) else None
    return Best(
        label=group.label,
        variables={name: _short(str(value)) for name, value in group.variables.items()},
        mean=f"{mean:.6g}",
        half="" if half is None else f"{half:.3g}",
        n=n,
        ids=format_ids(group.completed),
        points=tuple(finite[:MOST_GROUPS]),
        drawn=(mean, shown_half) if math.isfinite(mean) else None,
    )


def _table(folder: Folder, rows: Sequence[Row], names: Sequence[str]) -> tuple[tuple[Column, ...], list[list[Any]]]:
    """The columns and cells of the table of jobs."""
    of_results = dict.fromkeys(name for row in rows for name in row["result"])
    of_metrics = dict.fromkeys(name for row in rows for name in row["metrics"])
    places = [
        ("variables", "variable", names),
        ("result", "result", of_results),
        ("metrics", "last metric", of_metrics),
    ]
    columns = [Column("job", name, name != "state") for name in ("job", "state", "attempt", "seconds")]
    seconds = [_seconds(folder, row["job"], row["attempt"]) for row in rows]
    cells: list[list[Any]] = [
        [row["job"], str(row["state"]), row["attempt"] or None, took] for row, took in zip(rows, seconds, strict=True)
    ]
    if any("tags" in row for row in rows):
        columns.append(Column("job", "tags", False))
        for line, row in zip(cells, rows, strict=True):
            line.append(_cell(", ".join(row.get("tags", ())) or None))
    for key, kind, found in places:
        for name in found:
            values = [row[key].get(name) for row in rows]
            columns.append(Column(kind, name, all(value is None or is_number(value) for value in values)))
            for line, value in zip(cells, values, strict=True):
                line.append(_cell(value))
    return tuple(columns), cells


def _seconds(folder: Folder, job_id: int, attempt: int) -> float | None:
    """How long an attempt took; None for one that has not ended, or does not say."""
    if not attempt:
        return None
    end = read_optional(folder.of_attempt(job_id, attempt, "attempt"), END).get("end")
    start = States(folder).record(job_id, attempt).get("start") if is_number(end) else None
    return round(max(0.0, end - start), 1) if is_number(start) and end is not None else None


def _cell(value: Any) -> Any:
    """A value as JSON holds it: a number, text, or None."""
    if value is None or isinstance(value, str):
        return None if value is None else _short(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _EXACT:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    return _short(str(value))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_CELL else text[:_LONGEST_CELL] + "…"


def _failures(folder: Folder, troubles: Sequence[Trouble], table: StateTable) -> list[Failure]:
    """The troubles, those of most jobs first."""
    found = []
    for trouble in sorted(troubles, key=lambda trouble: -len(trouble.ids))[:MOST_FAILURES]:
        job_id = trouble.ids[0]
        log, lines = _end_of_log(folder, job_id, table.last(job_id).number)
        ids = format_ids(trouble.ids)
        found.append(Failure(str(trouble.state), trouble.reason, len(trouble.ids), ids, job_id, log, tuple(lines)))
    return found


def _logs(folder: Folder, jobs: Sequence[Job], table: StateTable) -> tuple[list[LogEnd], int]:
    """The ends of the logs of jobs, those that ended badly first, and how many jobs are left out."""
    begun = [table.standing(job.id) for job in jobs]
    begun = [last for last in begun if last.number]
    found, left = list[LogEnd](), MOST_OF_LOGS
    for place, last in enumerate(sorted(begun, key=lambda last: (last.state not in ENDED_BADLY, last.job_id))):
        if left <= 0 or place == MOST_LOGS:
            return found, len(begun) - place
        path, lines = _end_of_log(folder, last.job_id, last.number)
        if path:
            found.append(LogEnd(last.job_id, path, tuple(lines)))
            left -= sum(map(len, lines))
    return found, 0


def _end_of_log(folder: Folder, job_id: int, attempt: int) -> tuple[str, list[str]]:
    for kind in ("stderr", "stdout"):
        path = folder.of_attempt(job_id, attempt, kind)
        lines = [_readable(line) for line in tail(path)]
        if any(line.strip() for line in lines):
            return os.path.relpath(path, folder.path), lines
    return "", []


def _readable(line: str) -> str:
    """A line of a log without colours and control characters, and not too long.

    >>> _readable("\\x1b[31mred\\x1b[0m\\x07 alert")
    'red alert'
    """
    text = _ESCAPES.sub("", line)
    return text if len(text) <= _LONGEST_LINE else text[:_LONGEST_LINE] + " …"


def _launches(folder: Folder) -> tuple[list[Handed], int]:
    """The newest launches, newest first, and how many there are. One that cannot be read is named and skipped."""
    numbers, found = launch_numbers(folder), []
    for number in reversed(numbers[-MOST_LAUNCHES:]):
        try:
            found.append(_handed(folder, read_launch(folder, number)))
        except UnreadableLaunch as error:
            skipped(str(error))
        except JobRefused:  # whoever made its folder was ended before its record: nothing was handed over
            continue
    return found, len(numbers)


def _handed(folder: Folder, launch: Launch) -> Handed:
    record = launch.record
    submission = Submission(folder, launch, is_to_act=False)
    slurm_ids = (submission.array_id(array.name) for array in launched_arrays(launch))
    return Handed(
        number=launch.number,
        when=_moment(record.get("time") or 0),
        who=f"{record.get('user')} on {record.get('host')}",
        cwd=str(record.get("cwd") or ""),
        command=_command_line(record.get("argv") or ()),
        commit=str(record.get("git_commit") or ""),
        is_dirty=record.get("git_dirty"),
        untracked=None if (found := record.get("git_untracked")) is None else tuple(found),
        jobs=", ".join(ids for ids in record["jobs"].values() if ids),
        slurm=", ".join(slurm_id for slurm_id in slurm_ids if slurm_id),
    )


def _moment(seconds: Any) -> str:
    """`2026-03-01 14:05:00 +0100`, in the time zone of this machine."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(float(seconds)))


def _command_line(argv: Sequence[Any]) -> str:
    """The command as one would type it; the interpreter by its name alone.

    >>> _command_line(["/usr/bin/python3", "train.py", "-m", "note=two words"])
    "python3 train.py -m 'note=two words'"
    """
    words = masked_words(argv)
    return shlex.join([os.path.basename(words[0]), *words[1:]]) if words else ""
