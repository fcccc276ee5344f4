"""Waiting for jobs that somebody else runs: their state files are looked at often, a scheduler is asked seldom."""

import time
from collections.abc import Mapping
from typing import Final

from experiment_manager.model.records import ENDED, Launch, State
from experiment_manager.progress import JobLines
from experiment_manager.scheduler.reconcile import reconciled
from experiment_manager.store.documents import END, read_optional
from experiment_manager.store.launches import planned_attempts
from experiment_manager.store.layout import Folder
from experiment_manager.store.states import States, StateTable

LOOK_S: Final = 0.5
ASK_FIRST_S: Final = 2.0
ASK_AT_MOST_EVERY_S: Final = 30.0


def wait_for(folder: Folder, launch: Launch, texts: Mapping[int, str]) -> None:
    """Every job of the launch has ended for good; `texts` are what people are told about each.

    A job that a scheduler is going to start again has not ended, and only the scheduler knows.
    """
    planned = planned_attempts(launch)
    waiting = set(planned)
    started, pause = time.monotonic(), ASK_FIRST_S
    ask_at = started + pause
    with JobLines(len(waiting)).showing() as lines:
        while waiting:
            time.sleep(LOOK_S)
            asks = time.monotonic() >= ask_at
            table = reconciled(folder) if asks else States(folder).table()
            for job_id in sorted(waiting):
                if _has_ended(table, job_id, planned[job_id], is_truth=asks):
                    waiting.discard(job_id)
                    _tell(folder, table, job_id, lines, texts.get(job_id, ""), time.monotonic() - started)
            if asks:
                pause = min(pause * 1.5, ASK_AT_MOST_EVERY_S)
                ask_at = time.monotonic() + pause


def wait_until_idle(folder: Folder) -> StateTable:
    """No job of the experiment waits in a queue or runs any more; returns the states at that moment."""
    pause = LOOK_S
    while True:
        table = reconciled(folder)
        is_busy = any(State.RUNNING in numbers.values() for numbers in table.attempts.values())
        if not (is_busy or table.queued):
            return table
        time.sleep(pause)
        pause = min(pause * 1.5, ASK_AT_MOST_EVERY_S)


def _has_ended(table: StateTable, job_id: int, planned: int, *, is_truth: bool) -> bool:
    last = table.last(job_id)
    if last.number < planned or last.state not in ENDED:
        return False
    return is_truth or last.state is State.COMPLETED


def _tell(folder: Folder, table: StateTable, job_id: int, lines: JobLines, text: str, seconds: float) -> None:
    last = table.last(job_id)
    reason = read_optional(folder.of_attempt(job_id, last.number, "attempt"), END).get("reason")
    lines.ended(job_id, last.state, text, seconds=seconds, reason=reason)
