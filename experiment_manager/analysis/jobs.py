"""Jobs as rows and records of plain values: which there are, one of them with all its attempts, and two side by side.

Files that have to be skipped are named on standard error; nothing else is printed.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any, Final

from experiment_manager.errors import FilterError, JobRefused, NoFilter, UnreadableLaunch
from experiment_manager.execution import command
from experiment_manager.model import codec, configurations
from experiment_manager.model.records import Job, JobId, State
from experiment_manager.model.rows import AttemptDetails, JobDetails, JobDifference, JobHead, JobRow, JobSide, Marks
from experiment_manager.scheduler.healing import reason_of
from experiment_manager.store.code import read_packages
from experiment_manager.store.documents import END, ERROR, read_end, read_optional
from experiment_manager.store.files import is_there, may_be_there, number_in, unreadable
from experiment_manager.store.holds import read_held, read_removed
from experiment_manager.store.launches import read_launch
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.pass_filter import read_selection
from experiment_manager.store.programs import entry_of
from experiment_manager.store.states import States, StateTable, node_of, task_in
from experiment_manager.store.tags import Tags, read_note, read_tags
from experiment_manager.text import skipped

_TAIL_LINES: Final = 30


def job_rows(folder: Folder, jobs: Iterable[Job], table: StateTable) -> list[JobRow]:
    """One row per job: `job`, `state`, `attempt` (0: none yet), `selected`, `tags` where it has some, `variables`."""
    selected, tags, held = selected_ids(folder) or frozenset(), read_tags(folder), read_held(folder)
    return [_job_row(job, table, tags, is_selected=job.id in selected, is_held=job.id in held) for job in jobs]


def _job_row(job: Job, table: StateTable, tags: Tags, *, is_selected: bool, is_held: bool) -> JobRow:
    marks: Marks = {**({"held": True} if is_held else {}), **tagged(tags, job.id)}
    return {**job_head(job, table), "selected": is_selected, **marks, "variables": dict(job.variables)}


def tagged(tags: Tags, job_id: int) -> Marks:
    """The part of a row that tells the tags of a job; nothing where it has none."""
    found = tags.of(job_id)
    return {"tags": list(found)} if found else {}


def job_head(job: Job, table: StateTable) -> JobHead:
    """The beginning of a row about a job: `job`, `state`, `attempt` (0: none yet)."""
    last = table.standing(job.id)
    return {"job": int(job.id), "state": str(last.state), "attempt": last.number}


def selected_ids(folder: Folder) -> frozenset[int] | None:
    """The ids that may run; None when none were chosen yet, or the file cannot be read, which is said."""
    try:
        return frozenset(read_selection(folder))
    except NoFilter:
        return None
    except FilterError as error:
        skipped(str(error))
        return None


def show(folder: Folder, job: Job, configuration: Any, table: StateTable) -> JobDetails:
    """Everything about one job, as plain values: variables, overrides, configuration, command, attempts with logs."""
    states = States(folder)
    last = table.standing(job.id)
    attempts = [
        _attempt(folder, states, attempt.job_id, attempt.number, attempt.state) for attempt in states.attempts(job.id)
    ]
    found: JobDetails = {
        "job": int(job.id),
        "state": str(last.state),
        "variables": dict(job.variables),
        "overrides": list(job.overrides),
        "configuration": configuration,
        "directory": command.place_of(folder, job).directory,
        "command": _command(folder, job),
        "attempts": attempts,
    }
    if job.id in read_held(folder):
        found["held"] = True
    if job.id in read_removed(folder):
        found["removed"] = True
    if (trouble := _trouble(folder, job, table)) is not None:
        found["trouble"] = trouble
    if tags := read_tags(folder).of(job.id):
        found["tags"] = list(tags)
    if (note := read_note(folder, job.id)) is not None:
        found["note"] = note
    return found


def _trouble(folder: Folder, job: Job, table: StateTable) -> str | None:
    """Why a job that has completed is a failure to the search that has proposed it; None: it is none."""
    attempt = table.completed(job.id)
    if attempt is None or not is_there(folder.manifest):
        return None
    with Manifest(folder) as manifest:
        search = manifest.search if manifest.may_propose(job.id) else None
    if search is None:
        return None
    from experiment_manager.execution.study import values_of

    return values_of(folder, search, table, job.id, attempt)[1]


def _attempt(folder: Folder, states: States, job_id: int, number: int, state: State) -> AttemptDetails:
    record = states.record(job_id, number)
    end = read_optional(folder.of_attempt(job_id, number, "attempt"), END)
    error = read_optional(folder.of_attempt(job_id, number, "error"), ERROR)
    logs = {kind: folder.of_attempt(job_id, number, kind) for kind in ("stdout", "stderr")}
    task = task_in(record)
    found: AttemptDetails = {
        "attempt": number,
        "state": str(state),
        "reason": end.get("reason"),
        "launch": record.get("launch"),
        "slurm_task": task and task.name,
        "worker": record.get("worker") is True,
        "environment": environment(folder, str(record["launch"])) if record.get("launch") else {},
        "host": node_of(record),
        "gpus": record.get("gpus"),
        "start": number_in(record, "start"),
        "end": number_in(end, "end"),
        "peak_memory_bytes": number_in(end, "peak_memory_bytes"),
        "logs": {kind: path for kind, path in logs.items() if may_be_there(path)},
        "traceback": error.get("traceback"),
    }
    if record.get("launch") and (why := _healing(folder, str(record["launch"]))) is not None:
        found["healing"] = why
    return found


def _healing(folder: Folder, launch: str) -> str | None:
    """Why a launch has submitted its jobs again; None where it heals nothing, or cannot be read."""
    try:
        return reason_of(read_launch(folder, launch))
    except JobRefused:  # named where it is read for its environment
        return None


def environment(folder: Folder, launch: str) -> dict[str, Any]:
    """The code and the place that a launch was made with: `git_commit`, `git_dirty`, `git_untracked` (Python files that
    git did not know), `code` (the copy that its jobs run from), `python`, `cwd`, `argv`, as far as its record tells;
    empty where there is none."""
    try:
        record = read_launch(folder, launch).record
    except UnreadableLaunch as error:
        skipped(str(error))
        return {}
    except JobRefused:
        return {}
    kept = ("git_commit", "git_dirty", "git_untracked", "code", "python", "cwd", "argv")
    return {name: record[name] for name in kept if name in record}


def _command(folder: Folder, job: Job) -> str | None:
    """The line to paste that runs the job's program; None when it has none, or none yet."""
    if job.recipe is None:
        return None
    with Manifest(folder) as manifest:
        recipe = manifest.recipe(job.recipe)
    if not recipe.has_program:
        return None
    arguments, cwd = command.job_command(folder, job, recipe), entry_of(folder, recipe).cwd
    return command.pasteable(arguments, cwd, command.variables_of(folder, recipe, os.environ))


def tail(path: str, lines: int = _TAIL_LINES) -> list[str]:
    """The last lines of a log, without reading more than its last 64 KiB."""
    return read_end(path).decode(errors="replace").splitlines()[-lines:]


def difference(folder: Folder, one: int, other: int, table: StateTable) -> JobDifference:
    """`one` and `other`: job, state, attempt, variables; `configuration` and `environment` map what differs to both
    texts.

    The environment is where and with which code the last attempt of each was launched, and the versions of packages,
    where those of both are known. Raises UnknownJob.
    """
    with Manifest(folder) as manifest:
        sides = [_side(manifest, job_id, table) for job_id in (one, other)]
        before, after = (manifest.encoded_configuration(job_id) for job_id in (one, other))
    about = [_about(folder, job_id, table) for job_id in (one, other)]
    packages = [_packages(folder, found.get("launch")) for found in about]
    if all(packages):
        about = [{**found, **versions} for found, versions in zip(about, packages, strict=True)]
    return {
        "one": sides[0],
        "other": sides[1],
        "configuration": {
            change.key: (change.before, change.after) for change in configurations.compare(before or {}, after or {})
        },
        "environment": {
            name: (_text(about[0].get(name)), _text(about[1].get(name)))
            for name in dict.fromkeys([*about[0], *about[1]])
            if about[0].get(name) != about[1].get(name)
        },
    }


def _side(manifest: Manifest, job_id: int, table: StateTable) -> JobSide:
    job = manifest.job(job_id)
    return {**job_head(job, table), "variables": dict(job.variables)}


def _about(folder: Folder, job_id: int, table: StateTable) -> Mapping[str, Any]:
    """Node, launch, command line and code of the last attempt; empty for a job that has not run."""
    last = table.standing(job_id)
    if not last.number:
        return {}
    record = States(folder).record(JobId(job_id), last.number)
    about = {"node": node_of(record), "launch": record.get("launch")}
    return about | environment(folder, str(record.get("launch")))


def _packages(folder: Folder, launch: str | None) -> Mapping[str, str]:
    """The versions of the packages that a launch was made with, by `package NAME`; empty where they are not known."""
    path = folder.join("launches", launch or "none", "packages.txt")
    try:
        return {f"package {name}": version for name, version in read_packages(path).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        skipped(unreadable(path, error) if isinstance(error, OSError) else f"{path} cannot be read: it is damaged")
        return {}


def _text(value: Any) -> str:
    return (
        configurations.ABSENT
        if value is None
        else value
        if isinstance(value, str)
        else codec.readable(codec.encode(value))
    )
