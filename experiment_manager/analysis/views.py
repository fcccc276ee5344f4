"""What people and scripts see of an experiment: rows and records, read from the folder. Files that have to
be skipped are named on standard error; nothing else is printed here."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from experiment_manager.analysis.live import live_rows
from experiment_manager.analysis.result_warnings import result_warnings
from experiment_manager.analysis.rows import NOT_STORED, state_counts
from experiment_manager.errors import FilterError, JobRefused, NoFilter, ResultError, UnreadableLaunch
from experiment_manager.execution import command
from experiment_manager.model.facts import Unresolved, World
from experiment_manager.model.ids import which
from experiment_manager.model.records import ENDED_BADLY, Counts, Job, JobId, State
from experiment_manager.store.documents import END, ERROR, read_end, read_optional, read_what_is_there
from experiment_manager.store.drafts import JobDrafts
from experiment_manager.store.files import number_in
from experiment_manager.store.launches import read_launch
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.pass_filter import read_selection
from experiment_manager.store.processes import is_gone
from experiment_manager.store.results import last_values, read_result
from experiment_manager.store.states import States, StateTable, node_of, task_in
from experiment_manager.text import as_word, one_line, skipped

_TAIL_LINES: Final = 30
MOST_REASONS: Final = 200
"""Of each state, how many jobs are asked in `status` why they ended so: each costs a file to open."""

_MOST_LISTED: Final = 10_000

_UNREAD: Final = f"beyond the first {MOST_REASONS} of them it is not looked why; `status --all` tells of each"


class Trouble(NamedTuple):
    """Jobs that need attention for the same reason: those that ended in the same bad way, that run where nobody can be
    asked, or whose results hold NaN. `ids` are in order."""

    state: State
    reason: str
    ids: tuple[int, ...]

    def __repr__(self) -> str:
        return f"Trouble({len(self.ids)} {self.state}: {one_line(self.reason)} ({which(self.ids)}))"


class Status(NamedTuple):
    """How an experiment stands: jobs by state, how many may run, and those that need attention, equal reasons together.

    `live` has a row for each job that runs, or for all: `job`, `variables`, `state`, `attempt`, `node`, `elapsed_s`,
    `left_s` (until its time limit), `metrics` (the last), `reason`. `groups` has one for each value of the variables
    that were asked for: `variables`, `count`, `states`. What is not known is None.
    """

    path: str
    counts: Counts
    ids: Mapping[str, tuple[int, ...]]  # by state
    n_selected: int | None  # None: no pass filter yet, or one that cannot be read
    waiting: Mapping[str, tuple[int, ...]]  # QUEUED jobs by SLURM's reason
    troubles: tuple[Trouble, ...]
    foreign: tuple[str, ...]  # in states/ and jobs/, and not ours: states/notes.txt
    live: tuple[Mapping[str, Any], ...] = ()  # rows of jobs that run, or of all; see live_rows
    has_filter: bool = True  # with `n_selected` None: there is a pass filter, and it cannot be read
    groups: tuple[Mapping[str, Any], ...] = ()  # counts by variables; see rows.state_counts
    warnings: tuple[Trouble, ...] = ()  # of results of jobs that completed

    def __repr__(self) -> str:
        return f"Status({counts_text(self.counts)} of {one_line(self.path)})"


def status(folder: Folder, ids: Iterable[int], table: StateTable) -> Status:
    """The status of an experiment with jobs of these ids.

    Opens one file per job that ended badly, of each state MOST_REASONS at most, one per result that is to be looked at,
    and none besides.
    """
    by_state: dict[State, list[int]] = defaultdict(list)
    troubles: dict[tuple[State, str], list[int]] = defaultdict(list)
    for job_id in ids:
        last = table.last(job_id)
        known = by_state[last.state]
        known.append(job_id)
        if last.state in ENDED_BADLY:
            is_asked = len(known) <= MOST_REASONS
            reason = _reason(folder, job_id, last.number) if is_asked else _UNREAD
            troubles[last.state, reason].append(job_id)
        elif last.state is State.RUNNING and last.job_id not in table.confirmed:
            record = table.runners.get((last.job_id, last.number), {})
            if is_gone(record) is None:
                name = folder.join("states", "JOB.ATTEMPT.RUNNING")
                host = record.get("host")
                hint = f"on {host}, which cannot be asked from here; if it is gone, mv {as_word(name)} to .LOST"
                troubles[last.state, hint].append(job_id)
    waiting: dict[str, list[int]] = defaultdict(list)
    for job_id in by_state[State.QUEUED]:
        waiting[table.queued[JobId(job_id)].reason].append(job_id)
    selected = _selected(folder)
    ordered: dict[str, tuple[int, ...]] = {state: tuple(by_state[state]) for state in State if by_state[state]}
    return Status(
        path=folder.path,
        counts=Counts({state: len(ids) for state, ids in ordered.items()}),
        ids=ordered,
        n_selected=None if selected is None else len(selected),
        has_filter=os.path.lexists(folder.pass_filter),
        waiting={reason: tuple(ids) for reason, ids in waiting.items()},
        troubles=tuple(Trouble(state, reason, tuple(ids)) for (state, reason), ids in troubles.items()),
        foreign=(*(f"states/{name}" for name in table.foreign), *_foreign_in_jobs(folder, table)),
        warnings=tuple(
            Trouble(State.COMPLETED, what, jobs)
            for what, jobs in result_warnings(folder, by_state[State.COMPLETED], table).items()
        ),
    )


def live_status(
    folder: Folder,
    drafts: JobDrafts,
    table: StateTable,
    *,
    by: Sequence[str],
    every: bool,
    most_running: int | None,
) -> Status:
    """The status of these jobs, with a row for each that runs, the first `most_running` of them, or for `every` one;
    and counted for each value of the variables in `by`. Raises ExperimentManagerError for an unknown variable."""
    everything = list(drafts) if every or by else []
    found = status(folder, [job.id for job in everything] or drafts.ids(), table)
    jobs = everything if every else drafts.jobs(found.ids.get(State.RUNNING, ())[:most_running])
    groups = state_counts(job_rows(folder, everything, table), by) if by else []
    return found._replace(live=tuple(live_rows(folder, jobs, table)), groups=tuple(groups))


def _foreign_in_jobs(folder: Folder, table: StateTable) -> list[str]:
    """Names in `jobs/` that are not ours; nobody looks where there are so many jobs that listing them takes long."""
    if len(table.attempts) > _MOST_LISTED:
        return []
    try:
        names = os.listdir(folder.join("jobs"))
    except FileNotFoundError:
        return []
    except OSError as error:
        skipped(f"{folder.join('jobs')} cannot be read: {error.strerror or error}")
        return []
    return sorted(f"jobs/{name}" for name in names if not name.isdecimal() and name[0] != ".")


def _reason(folder: Folder, job_id: int, attempt: int) -> str:
    end, why_not = read_what_is_there(folder.of_attempt(job_id, attempt, "attempt"), END)
    if why_not is not None:
        skipped(why_not)
    reason: str | None = end.get("reason")
    return reason or ("its reason cannot be read" if why_not else "no reason recorded")


def _selected(folder: Folder) -> frozenset[int] | None:
    """The ids that may run; None when none were chosen yet, or the file cannot be read, which is said."""
    try:
        return frozenset(read_selection(folder))
    except NoFilter:
        return None
    except FilterError as error:
        skipped(str(error))
        return None


def job_rows(folder: Folder, jobs: Iterable[Job], table: StateTable) -> list[dict[str, Any]]:
    """One row per job: `job`, `state`, `attempt` (0: none yet), `selected`, `variables`."""
    selected = _selected(folder) or frozenset()
    return [{**_head(job, table), "selected": job.id in selected, "variables": dict(job.variables)} for job in jobs]


def _head(job: Job, table: StateTable) -> dict[str, Any]:
    last = table.last(job.id)
    return {"job": int(job.id), "state": str(last.state), "attempt": last.number}


def facts(
    folder: Folder,
    jobs: Collection[Job],
    configuration: Callable[[int, Callable[[str, str, str], Any]], Any],
    table: Callable[[], StateTable],
) -> World:
    """The facts that a filter may ask for about jobs of an experiment; each is read when a rule first asks for it.

    `configuration(job_id, unresolved)` gives a configuration with values in the place of interpolations.
    """
    return World(
        names=frozenset(name for job in jobs for name in job.variables),
        ids=frozenset(job.id for job in jobs),
        configuration=lambda job: configuration(job.id, Unresolved),
        state=lambda job_id: table().state(job_id),
        result=lambda job: returned(folder, job.id, table()),
        metrics=lambda job: last_metrics(folder, job.id, table()),
    )


def result_rows(
    folder: Folder,
    jobs: Iterable[Job],
    table: StateTable,
    last: Callable[[JobId], dict[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """One row per job: `job`, `state`, `attempt`, `variables`, `result`, `metrics`, `refused`.

    `result` maps names to values: the fields of a returned mapping, or `result` for any other value, of the newest
    attempt that completed; empty where there is none. `metrics` has the last value of each metric of the last attempt.
    `refused` maps the fields that could not be stored to the reasons. `last` tells the metrics of those who read them
    anyhow.
    """
    rows = []
    for job in jobs:
        metrics = last_metrics(folder, job.id, table) if last is None else last(job.id)
        result, refused = _result_fields(folder, job.id, table.completed(job.id))
        left = {"result": result, "metrics": metrics, "refused": refused}
        rows.append({**_head(job, table), "variables": dict(job.variables), **left})
    return rows


def returned(folder: Folder, job_id: JobId, table: StateTable) -> Any:
    """What the newest attempt that completed has returned; None where there is nothing, or it cannot be read."""
    attempt = table.completed(job_id)
    try:
        return None if attempt is None else read_result(folder, job_id, attempt).value
    except ResultError as error:
        skipped(str(error))
        return None


def last_metrics(folder: Folder, job_id: JobId, table: StateTable) -> dict[str, Any]:
    """The last value of each metric that the last attempt has logged."""
    return last_values(folder, job_id, table.last(job_id).number, skipped)


def _result_fields(folder: Folder, job_id: int, attempt: int | None) -> tuple[dict[str, Any], dict[str, str]]:
    """The fields of a result, where what is not stored says so in its place; and why it is not."""
    if attempt is None:
        return {}, {}
    try:
        result, refused = read_result(folder, job_id, attempt)
    except ResultError as error:
        skipped(str(error))
        return {}, {}
    fields = result if isinstance(result, Mapping) else {} if result is None else {"result": result}
    named = {str(name): value for name, value in fields.items()}
    return {**named, **dict.fromkeys(refused, NOT_STORED)}, dict(refused)


def show(folder: Folder, job: Job, configuration: Any, table: StateTable) -> dict[str, Any]:
    """Everything about one job, as plain values: variables, overrides, configuration, command, attempts with logs."""
    states = States(folder)
    last = table.last(job.id)
    attempts = [
        _attempt(folder, states, attempt.job_id, attempt.number, attempt.state) for attempt in states.attempts(job.id)
    ]
    return {
        "job": int(job.id),
        "state": str(last.state),
        "variables": dict(job.variables),
        "overrides": list(job.overrides),
        "configuration": configuration,
        "directory": command.place_of(folder, job).directory,
        "command": _command(folder, job),
        "attempts": attempts,
    }


def _attempt(folder: Folder, states: States, job_id: int, number: int, state: State) -> dict[str, Any]:
    record = states.record(job_id, number)
    end = read_optional(folder.of_attempt(job_id, number, "attempt"), END)
    error = read_optional(folder.of_attempt(job_id, number, "error"), ERROR)
    logs = {kind: folder.of_attempt(job_id, number, kind) for kind in ("stdout", "stderr")}
    task = task_in(record)
    return {
        "attempt": number,
        "state": str(state),
        "reason": end.get("reason"),
        "launch": record.get("launch"),
        "slurm_task": task and task.name,
        "environment": environment(folder, str(record["launch"])) if record.get("launch") else {},
        "host": node_of(record),
        "gpus": record.get("gpus"),
        "start": number_in(record, "start"),
        "end": number_in(end, "end"),
        "peak_memory_bytes": number_in(end, "peak_memory_bytes"),
        "logs": {kind: path for kind, path in logs.items() if os.path.exists(path)},
        "traceback": error.get("traceback"),
    }


def environment(folder: Folder, launch: str) -> dict[str, Any]:
    """The code and the place that a launch was made with: `git_commit`, `git_dirty`, `code` (the copy that its jobs run
    from), `python`, `cwd`, `argv`, as far as its record tells; empty where there is none."""
    try:
        record = read_launch(folder, launch).record
    except UnreadableLaunch as error:
        skipped(str(error))
        return {}
    except JobRefused:
        return {}
    kept = ("git_commit", "git_dirty", "code", "python", "cwd", "argv")
    return {name: record[name] for name in kept if name in record}


def _command(folder: Folder, job: Job) -> str | None:
    """The line to paste that runs the job's program; None when it has none."""
    if job.recipe is None:
        return None
    with Manifest(folder) as manifest:
        recipe = manifest.recipe(job.recipe)
    arguments, cwd = command.job_command(folder, job, recipe), command.entry_of(folder, recipe).cwd
    return command.pasteable(arguments, cwd, command.variables_of(folder, recipe, os.environ))


def tail(path: str, lines: int = _TAIL_LINES) -> list[str]:
    """The last lines of a log, without reading more than its last 64 KiB."""
    return read_end(path).decode(errors="replace").splitlines()[-lines:]


def counts_text(counts: Mapping[str, int]) -> str:
    """`4 COMPLETED, 2 FAILED`."""
    return ", ".join(f"{count} {state}" for state, count in Counter(counts).items()) or "no jobs"
