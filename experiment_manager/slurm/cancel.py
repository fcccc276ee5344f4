"""Ending jobs that wait or run: SLURM's by `scancel`, those that run here by a signal to their supervisor."""

import os
import signal
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from experiment_manager import processes
from experiment_manager.errors import JobRefused
from experiment_manager.folder import Folder
from experiment_manager.ids import format_ids
from experiment_manager.launches import user_name
from experiment_manager.records import JobId, State
from experiment_manager.slurm import client, within
from experiment_manager.slurm.reconcile import reconciled
from experiment_manager.states import Snapshot, States

_SLURM_ACTS_WITHIN_S: Final = 10.0
_LOOK_S: Final = 0.2


def cancel(folder: Folder, ids: Sequence[int], snapshot: Snapshot) -> list[int]:
    """Of these jobs those that wait or run were told to end; returns their ids. What had not begun is CANCELLED now.

    Raises JobRefused, with nothing done, for jobs that share a task of SLURM with others that go on; SlurmError.
    """
    states = States(folder)
    tasks: dict[str, list[int]] = defaultdict(list)
    here: list[tuple[int, int]] = []  # job and the pid of its supervisor
    unbegun: dict[int, int] = {}
    for job_id in ids:
        last = snapshot.last(job_id)
        if last.state is State.QUEUED:
            task = snapshot.queued[JobId(job_id)].task
            if task is not None:
                tasks[task].append(job_id)
                unbegun[job_id] = last.number
        elif last.state is State.RUNNING:
            record = states.record(job_id, last.number)
            task = within.task_of(record) if record.get("by_slurm") else None
            if task is not None:
                tasks[task].append(job_id)
            elif processes.is_gone(record) is False:
                here.append((job_id, int(record["pid"])))
    _refuse_shared(states, snapshot, tasks)
    client.scancel(_targets(tasks))
    for _, pid in here:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    _settle(folder, unbegun)
    return sorted([job_id for members in tasks.values() for job_id in members] + [job_id for job_id, _ in here])


def _refuse_shared(states: States, snapshot: Snapshot, tasks: dict[str, list[int]]) -> None:
    """Nothing happens when no other job waits or runs in these tasks."""
    others: dict[str, list[int]] = defaultdict(list)
    for job_id, waiting in snapshot.queued.items():
        if waiting.task in tasks and job_id not in tasks[waiting.task]:
            others[waiting.task].append(job_id)
    for job_id, numbers in snapshot.attempts.items():
        number = max(numbers)
        if numbers[number] is State.RUNNING:
            task = within.task_of(states.record(job_id, number))
            if task in tasks and job_id not in tasks[task]:
                others[task].append(job_id)
    for task, members in others.items():
        raise JobRefused(
            f"jobs {format_ids(tasks[task])} share SLURM task {task} with {format_ids(members)}, which would end, too; "
            "cancel all of them"
        )


def _targets(tasks: dict[str, list[int]]) -> list[str]:
    """What scancel is told: `12_[0-2,5]`.

    >>> _targets({"12_0": [], "12_1": [], "13_4": []})
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
            if queued is not None:
                reason = {"reason": f"cancelled by {user_name()} before it began"}
                States(folder).record_unbegun(job_id, number + 1, State.CANCELLED, reason, {"by_slurm": True})
        time.sleep(_LOOK_S if waiting else 0)
