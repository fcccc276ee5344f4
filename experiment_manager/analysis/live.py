"""How jobs are getting on: where they run, for how long, how long they still may, and what they last said."""

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

from experiment_manager.errors import JobRefused, UnreadableLaunch
from experiment_manager.model import codec
from experiment_manager.model.records import Attempt, Job, State
from experiment_manager.store.documents import END, read_end, read_optional
from experiment_manager.store.files import number_in
from experiment_manager.store.launches import read_order
from experiment_manager.store.layout import Folder
from experiment_manager.store.states import States, StateTable, node_of
from experiment_manager.text import skipped


def live_rows(folder: Folder, jobs: Iterable[Job], table: StateTable) -> list[dict[str, Any]]:
    """One row per job: `job`, `variables`, `state`, `attempt`, `node`, `elapsed_s`, `left_s` (until the time limit of a
    job that runs; None without one), `metrics` (the last that were logged), `reason`.
    """
    now = time.time()
    return [
        {"job": int(job.id), "variables": dict(job.variables), **_of(folder, table, table.last(job.id), now)}
        for job in jobs
    ]


def _of(folder: Folder, table: StateTable, last: Attempt, now: float) -> dict[str, Any]:
    row: dict[str, Any] = {"state": str(last.state), "attempt": last.number}
    row |= dict.fromkeys(("node", "elapsed_s", "left_s", "metrics", "reason"))
    if last.state is State.QUEUED:
        row["reason"] = table.queued[last.job_id].reason
    if not last.number:
        return row
    record = table.runners.get((last.job_id, last.number)) or States(folder).record(last.job_id, last.number)
    row["node"] = node_of(record)
    row["metrics"] = last_metrics(folder, last.job_id, last.number)
    start = number_in(record, "start")
    if last.state is State.RUNNING:
        limit_s = _limit_s(folder, last.job_id, record)
        row["elapsed_s"] = _between(start, now)
        row["left_s"] = None if start is None or limit_s is None else max(0.0, limit_s - (row["elapsed_s"] or 0.0))
    elif last.state is not State.QUEUED:
        end = read_optional(folder.of_attempt(last.job_id, last.number, "attempt"), END)
        ended = number_in(end, "end")
        row["reason"] = end.get("reason")
        row["elapsed_s"] = _between(start, ended)
    return row


def _between(start: float | None, end: float | None) -> float | None:
    """The seconds between two moments, None where one is not known; 0 where the clocks of two machines disagree.

    >>> _between(10.0, 12.5), _between(600.0, 12.5), _between(None, 12.5)
    (2.5, 0.0, None)
    """
    return max(0.0, end - start) if start is not None and end else None


def _limit_s(folder: Folder, job_id: int, record: Mapping[str, Any]) -> float | None:
    """The time limit of an attempt that SLURM runs; None where there is none, or nobody has set one."""
    if not record.get("by_slurm"):
        return None
    try:
        order = read_order(folder, str(record.get("launch")), job_id)
    except UnreadableLaunch as error:
        skipped(str(error))
        return None
    except JobRefused:
        return None
    minutes = order.options.get("timeout_min") if order is not None and order.options is not None else None
    return minutes * 60 if minutes else None


def last_metrics(folder: Folder, job_id: int, attempt: int) -> dict[str, Any] | None:
    """The last line of metrics that is whole, with `step`; None when there is none. Reads the end of the file only."""
    lines = read_end(folder.of_attempt(job_id, attempt, "metrics")).split(b"\n")
    for line in reversed(lines[:-1]):  # what follows the last line break is being written
        try:
            body = json.loads(line)
            step = {} if body["step"] is None else {"step": body["step"]}
            return {**step, **codec.decode(body["values"])}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return None
