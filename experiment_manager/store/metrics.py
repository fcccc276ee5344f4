"""The metrics that jobs have logged over all their attempts, as one course of training."""

from collections.abc import Callable, Iterable, Sequence

from experiment_manager.model.codec import is_number
from experiment_manager.model.records import JobId, State
from experiment_manager.store.layout import Folder
from experiment_manager.store.results import Metric, read_metrics
from experiment_manager.store.states import StateTable

Read = Callable[[int], list[Metric]]
"""Reads the metrics of an attempt of that number."""


def course(
    folder: Folder,
    table: StateTable,
    job_id: int,
    tell: Callable[[str], None] | None = None,
    read: Read | None = None,
) -> list[tuple[int, list[Metric]]]:
    """Attempts of a job in order, with the metrics that count: those of the last attempt that has any, and before it,
    where that one went on from a checkpoint, the steps of earlier attempts that it did not take again.

    Of a job that was begun anew only the last attempt counts. For `tell` see `read_metrics`; `read` is for those who
    have read an attempt already.
    """
    states = table.attempts.get(JobId(job_id), {})
    found: list[tuple[int, list[Metric]]] = []
    for number in sorted((number for number in states if states[number] is not State.FAKE), reverse=True):
        metrics = list(read_metrics(folder, job_id, number, tell)) if read is None else read(number)
        if found:
            metrics = _earlier([metric for _, later in found for metric in later], metrics)
        if metrics:
            found.insert(0, (number, metrics))
    return found


def _earlier(later: Sequence[Metric], before: Iterable[Metric]) -> list[Metric]:
    """The metrics of `before` at steps below all those of `later`; none where steps are missing."""
    steps = [metric.step for metric in later if is_number(metric.step)]
    if len(steps) < len(later):
        return []
    first = min(steps)
    return [metric for metric in before if is_number(metric.step) and metric.step < first]
