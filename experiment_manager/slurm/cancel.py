"""Ending jobs that wait or run: SLURM's by `scancel`, those that run here by a signal to their supervisor."""

import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from experiment_manager import processes
from experiment_manager.disk.folder import Folder
from experiment_manager.disk.launches import user_name
from experiment_manager.disk.states import Snapshot, States
from experiment_manager.errors import JobRefused
from experiment_manager.ids import format_ids
from experiment_manager.records import JobId, State
from experiment_manager.slurm import client
from experiment_manager.slurm.reconcile import active_tasks, reconciled

_SLURM_ACTS_WITHIN_S: Final = 10.0
_LOOK_S: Final = 0.2


def cancel(folder: Folder, ids: Sequence[int], snapshot: Snapshot) -> list[int]:
    """Of these jobs those that wait or run were told to end; returns their ids. What had not begun is CANCELLED now.

    Raises JobRefused, with nothing done, for jobs that share a task of SLURM with others that go on; SlurmError.
    """
    states = States(folder)
    here: dict[int, int] = {}  # job -> the pid of its supervisor
    elsewhere = set()
    unbegun: dict[int, int] = {}
    for job_id in ids:
        last = snapshot.last(job_id)
        record = states.record(job_id, last.number) if last.state is State.RUNNING else {}
        if last.state is State.QUEUED:
            unbegun[job_id] = last.number
        elif record.get("by_slurm"):
            elsewhere.add(job_id)
        elif record and processes.is_gone(record) is False:
            here[job_id] = int(record["pid"])
    wanted = unbegun.keys() | elsewhere | here.keys()
    tasks: dict[str, list[int]] = {}
    if unbegun or elsewhere or (here and client.is_available()):
        there = active_tasks(folder, snapshot)
        tasks = {task: mine for task, jobs in there.items() if (mine := [job for job in jobs if job in wanted])}
        _refuse_shared(snapshot, there, tasks)
    client.scancel(_targets(tasks))
    for pid in here.values():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    _settle(folder, unbegun)
    return sorted({job_id for mine in tasks.values() for job_id in mine} | here.keys())


def _refuse_shared(snapshot: Snapshot, there: Mapping[str, Sequence[int]], tasks: Mapping[str, Sequence[int]]) -> None:
    """Nothing happens when no other job waits or runs in these tasks."""
    for task, mine in tasks.items():
        others = [
            job for job in there[task] if job not in mine and snapshot.state(job) in (State.QUEUED, State.RUNNING)
        ]
        if others:
            raise JobRefused(
                f"jobs {format_ids(mine)} share SLURM task {task} with {format_ids(others)}, which would end, too; "
                "cancel all of them"
            )


def _targets(tasks: Iterable[str]) -> list[str]:
    """What scancel is told: `12_[0-2,5]`.

    >>> _targets(["12_0", "12_1", "13_4"])
    ['12_[0-1]', '13_[4]']
    """
    arrays: dict[str, list[int]] = defaultdict(list)
    for task in tasks:
        array, _, index = task.partition("_")
        arrays[array].append(int(index))
    return [f"{array}_[{format_ids(indices)}]" for array, indices in arrays.items()]


def _settle(folder: Folder, unbegun: dict[int, int]) -> None:
    """What had not begun is recorded as CANCELLED: SLURM itself keeps no trace of it (measured)."""
    waiting = dict(unbegun)
    deadline = time.monotonic() + _SLURM_ACTS_WITHIN_S
    while waiting and time.monotonic() < deadline:
        snapshot = reconciled(folder)
        for job_id, number in list(waiting.items()):
            queued = snapshot.queued.get(JobId(job_id))
            if queued is not None and queued.task is not None:
                continue  # SLURM still has it
            del waiting[job_id]
            if snapshot.last(job_id).number == number:  # nobody has recorded it yet
                reason = {"reason": f"cancelled by {user_name()} before it began"}
                States(folder).record_unbegun(job_id, number + 1, State.CANCELLED, reason, {"by_slurm": True})
        time.sleep(_LOOK_S if waiting else 0)
