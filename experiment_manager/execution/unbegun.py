"""The jobs of a task that had not begun when it was warned that its end is near, as those that waited for a GPU: none
begins then, which nobody would warn any more. The task is started again for them where it may be."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from experiment_manager.execution.supervisor import Outcome, answer_of, is_limit_far, may_start_again
from experiment_manager.model.ids import format_ids
from experiment_manager.model.policy import INCOMPLETE
from experiment_manager.model.records import Attempt, State, Task
from experiment_manager.scheduler import schedulers
from experiment_manager.scheduler.protocol import Scheduler
from experiment_manager.store.layout import Folder
from experiment_manager.store.orders import Orders
from experiment_manager.store.states import States, last_real
from experiment_manager.text import noun, tell

Answer = TypeVar("Answer")

_NEAR: Final = "it had not begun when its task was warned before its time limit"
_BY_HAND: Final = "it had not begun when somebody warned its task, long before its time limit"


class _Left(NamedTuple):
    """A job that is still to be run."""

    job_id: int
    since: tuple[Attempt, ...]  # its attempts under the launch
    next_number: int
    options: Mapping[str, Any]
    scheduler: str | None

    @property
    def has_begun(self) -> bool:
        return any(attempt.state is not State.FAKE for attempt in self.since)


def leave(folder: Folder, launch: str | None, jobs: Sequence[int], *, was_stopped: bool) -> Outcome:
    """Whether the task is to be started again for the jobs, which people are told; those for which it is not are
    recorded as never begun. `was_stopped`: the task was told to end since, and its scheduler is asked why: where that
    is no time limit, it tells what becomes of them. Raises ExperimentManagerError."""
    left = _left(folder, launch, jobs)
    if not left:
        return Outcome(INCOMPLETE)
    task = schedulers.task_of_attempt(left[0].scheduler)
    scheduler = schedulers.current()
    if was_stopped and _asked(scheduler, task, lambda one, of: one.why_stopped(of).state, None) is not State.TIMEOUT:
        return Outcome(INCOMPLETE)
    is_preempted = _asked(scheduler, task, lambda one, of: one.is_being_preempted(of), False)
    may_start = task is not None and any(may_start_again(folder, one.options, one.since) for one in left)
    are_several = len(left) > 1
    said = (
        f"{noun(len(left))} {format_ids(one.job_id for one in left)} {'have' if are_several else 'has'} not begun, and "
        f"{'do' if are_several else 'does'} not after this warning"
    )
    if is_preempted or may_start:
        tell(f"{said}: the task is to be started again")
        return Outcome(INCOMPLETE, is_to_requeue=True)
    tell(f"{said}: {'the same command' if task is None else 'the same sweep, or resubmit,'} begins what has not begun")
    if task is not None and left[0].scheduler is not None:
        ends_at = _asked(scheduler, task, lambda one, of: one.ends_at(of), None)
        _record(folder, launch, left, task, is_by_hand=is_limit_far(ends_at, left[0].options))
    return Outcome(INCOMPLETE)


def _left(folder: Folder, launch: str | None, jobs: Sequence[int]) -> list[_Left]:
    """Those of the jobs that nobody has held, cancelled, or begun elsewhere meanwhile."""
    states, orders, found = States(folder), Orders(folder), []
    for job_id in jobs:
        order = None if launch is None else orders.of(launch, job_id)
        attempts = states.attempts(job_id)
        since = () if order is None else tuple(attempts[order.attempt - 1 :])
        last = last_real(since)
        is_free = last is None or (last.state is not State.RUNNING and states.ended_for_others(last))
        if is_free and not states.is_kept_back(job_id):
            options, scheduler = ({}, None) if order is None else (order.options or {}, order.scheduler)
            found.append(_Left(job_id, since, len(attempts) + 1, options, scheduler))
    return found


def _asked(
    scheduler: Scheduler | None, task: Task | None, question: Callable[[Scheduler, Task], Answer], otherwise: Answer
) -> Answer:
    """The scheduler's answer about the task; `otherwise` where there is none: see `answer_of`."""
    return otherwise if task is None else answer_of(scheduler, lambda one: question(one, task), otherwise, tell)


def _record(folder: Folder, launch: str | None, left: Sequence[_Left], task: Task, *, is_by_hand: bool) -> None:
    """Those that have never begun ended so, which the scheduler would tell of the task alone."""
    state, reason = (State.CANCELLED, _BY_HAND) if is_by_hand else (State.TIMEOUT, _NEAR)
    about = {"launch": launch, "scheduler": left[0].scheduler, "slurm_task": task.name}
    about |= {"node": task.node} if task.node else {}
    try:
        for one in left:
            if not one.has_begun:
                end = {"reason": reason, "end": time.time()}  # when its task, which goes on for a moment, was there
                States(folder).record_unbegun(one.job_id, one.next_number, state, end, about)
    except OSError as error:
        tell(f"that jobs have not begun is not recorded: {error}")
