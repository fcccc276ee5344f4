"""Several jobs in one SLURM task, all at the same time: one supervisor process for each, and one status for SLURM."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Final

from experiment_manager.signals import Heard, block
from experiment_manager.supervisor import Outcome

_FAILED: Final = 1


def run_together(jobs: Sequence[int], run: Callable[[int], Outcome]) -> Outcome:
    """All jobs have ended. The status is that of the first, in their order, that has one other than 0.

    `run` is called in a process of its own for each job. Signals are passed on to every supervisor.
    """
    sys.stdout.flush()
    sys.stderr.flush()
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
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
