"""Several jobs in one SLURM task, all at the same time: one supervisor process for each, and one status for SLURM."""

import os
import shutil
import signal
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

from experiment_manager.execution import resources
from experiment_manager.execution.signals import STOPS, Heard, block, unblock
from experiment_manager.execution.supervisor import Outcome
from experiment_manager.model.records import State
from experiment_manager.scheduler import schedulers
from experiment_manager.store.layout import Folder
from experiment_manager.store.states import States, task_in
from experiment_manager.text import flush, settle, tell, tell_traceback

_FAILED: Final = 1
_BY_THEMSELVES: Final = (State.FAILED, State.OUT_OF_MEMORY)


class _Running(NamedTuple):
    place: int  # among the jobs of the task
    gpus: tuple[int, ...]  # places among those of the task


def run_together(jobs: Sequence[int], run: Callable[[int], Outcome], gpus_per_job: float | None = None) -> Outcome:
    """All jobs have ended. The status is that of the first, in their order, that has one other than 0.

    `run` is called in a process of its own for each job, which sees its share of the task's GPUs and has a folder for
    temporary files of its own. All run at once, but where `gpus_per_job` makes some wait for a GPU: these do not begin
    after a signal to end. Signals are passed on to every supervisor. Raises ExperimentManagerError when no job can have
    so many GPUs.
    """
    found = resources.visible_gpus(os.environ)
    resources.check_gpus(gpus_per_job, found, where="")
    dealer = resources.GpuDealer(found, gpus_per_job, len(jobs))
    if dealer.words:
        tell(f"{dealer.words} ({resources.GPUS_PER_JOB})")
    read, write = os.pipe()
    heard = Heard()
    waiting, running = deque(enumerate(jobs)), dict[int, _Running]()
    statuses = [0] * len(jobs)
    while waiting or running:
        while waiting and (gpus := dealer.deal()) is not None:
            place, job_id = waiting.popleft()
            pid = _fork(job_id, run, write, dealer.environment(gpus), (read, *heard.handles))
            running[pid] = _Running(place, gpus)
        for number in heard.wait(1.0):
            if number in STOPS:
                statuses = [
                    128 + number if (place, job) in waiting else statuses[place] for place, job in enumerate(jobs)
                ]
                waiting.clear()
            for pid in running:  # not reaped yet, so the pids are ours
                os.kill(pid, number)
        for pid, code in _ended(running):
            place, gpus = running.pop(pid)
            dealer.take_back(gpus)
            statuses[place] = code if code >= 0 else 128 - code
    os.close(write)
    with os.fdopen(read, "rb") as said:
        is_to_requeue = bool(said.read())
    return Outcome(next((status for status in statuses if status), 0), is_to_requeue)


def _ended(pids: Iterable[int]) -> list[tuple[int, int]]:
    """Those of our processes that have ended, reaped, each with its exit code or, below 0, the signal that ended it."""
    found = [os.waitpid(pid, os.WNOHANG) for pid in pids]
    return [(pid, os.waitstatus_to_exitcode(status)) for pid, status in found if pid]


def failed_before(folder: Folder, jobs: Sequence[int]) -> set[int]:
    """Those of the jobs that failed by themselves before SLURM started this task again for the sake of the others.

    None where no other job was interrupted: then somebody wants them to run again.
    """
    here, states, last = schedulers.current_task(), States(folder), {}
    for job_id in jobs:
        attempts = states.attempts(job_id)
        before = task_in(states.record(job_id, attempts[-1].number)) if attempts else None
        if before is not None and before.is_earlier_run_of(here):
            last[job_id] = attempts[-1].state
    is_for_others = any(state not in (State.COMPLETED, *_BY_THEMSELVES) for state in last.values())
    return {job_id for job_id, state in last.items() if is_for_others and state in _BY_THEMSELVES}


def _fork(
    job_id: int, run: Callable[[int], Outcome], to_requeue: int, variables: Mapping[str, str], handles: Sequence[int]
) -> int:
    """The pid of a process that runs the job; `handles` are ours, and not for it."""
    flush()
    block()  # until the supervisor hears for itself
    pid = os.fork()
    if pid:
        unblock()
        return pid
    status = _FAILED
    try:
        signal.set_wakeup_fd(-1)
        for handle in handles:
            os.close(handle)
        os.environ.update(variables)
        with _own_temporary_folder(job_id):
            outcome = run(job_id)
        status = outcome.status
        if outcome.is_to_requeue:
            os.write(to_requeue, b"r")
    except BaseException:  # nothing may leave this process by an exception: it is a copy of its parent
        tell_traceback()
    finally:
        settle()
        os._exit(status)


@contextmanager
def _own_temporary_folder(job_id: int) -> Iterator[None]:
    """Inside, TMPDIR is a folder of this job alone, which then is removed: jobs on one node would find each other's
    files under the names that programs give them. Where it cannot be made the job shares what the others have."""
    try:
        folder = tempfile.mkdtemp(prefix=f"job-{job_id}-")
    except OSError as error:
        tell(f"job {job_id} has no folder of its own for temporary files: {error.strerror or error}")
        yield
        return
    os.environ["TMPDIR"] = folder
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
