"""Several jobs in one SLURM task, all at the same time: one supervisor process for each, and one status for SLURM."""

import os
from collections.abc import Callable, Sequence
from typing import Final

from experiment_manager.disk.folder import Folder
from experiment_manager.disk.states import States
from experiment_manager.records import State
from experiment_manager.running.signals import Heard, block
from experiment_manager.running.supervisor import Outcome
from experiment_manager.slurm import within
from experiment_manager.text import flush, settle, tell_traceback

_FAILED: Final = 1
_BY_THEMSELVES: Final = (State.FAILED, State.OUT_OF_MEMORY)


def run_together(jobs: Sequence[int], run: Callable[[int], Outcome]) -> Outcome:
    """All jobs have ended. The status is that of the first, in their order, that has one other than 0.

    `run` is called in a process of its own for each job. Signals are passed on to every supervisor.
    """
    flush()
    block()
    read, write = os.pipe()
    supervisors = {_fork(job_id, run, write): place for place, job_id in enumerate(jobs)}
    os.close(write)
    heard = Heard()
    statuses = [0] * len(jobs)
    running = set(supervisors)
    while running:
        for number in heard.wait(1.0):
            for pid in running:  # not reaped yet, so the pids are ours
                os.kill(pid, number)
        for pid in tuple(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                running.discard(pid)
                code = os.waitstatus_to_exitcode(status)
                statuses[supervisors[pid]] = code if code >= 0 else 128 - code
    with os.fdopen(read, "rb") as told:
        is_to_requeue = bool(told.read())
    return Outcome(next((status for status in statuses if status), 0), is_to_requeue)


def failed_before(folder: Folder, jobs: Sequence[int]) -> set[int]:
    """Those of the jobs that failed by themselves before SLURM started this task again for the sake of the others.

    None where no other job was interrupted: then somebody wants them to run again.
    """
    here, states, last = within.ids(), States(folder), {}
    for job_id in jobs:
        attempts = states.attempts(job_id)
        if attempts and within.is_earlier_run(states.record(job_id, attempts[-1].number), here):
            last[job_id] = attempts[-1].state
    is_for_others = any(state not in (State.COMPLETED, *_BY_THEMSELVES) for state in last.values())
    return {job_id for job_id, state in last.items() if is_for_others and state in _BY_THEMSELVES}


def _fork(job_id: int, run: Callable[[int], Outcome], to_requeue: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = _FAILED
    try:
        outcome = run(job_id)
        status = outcome.status
        if outcome.is_to_requeue:
            os.write(to_requeue, b"r")
    except BaseException:  # nothing may leave this process by an exception: it is a copy of its parent
        tell_traceback()
    finally:
        settle()
        os._exit(status)
