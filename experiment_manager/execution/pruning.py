"""A job that is compared with others while it runs, and is told to end when it does worse: see `model.pruning`.

Only the job itself decides about itself, in its own process, by what lies on disk when it comes to a rung; that takes
one listing. Where that cannot be read or written, the job goes on.
"""

import json
from functools import cached_property
from threading import Lock
from typing import Any, Final

from experiment_manager.model.codec import as_float, digest, encode, is_number
from experiment_manager.model.pruning import read
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.rungs import leave_value, mark_pruned, newest, step_text, unmark_pruned, values_by_attempt
from experiment_manager.text import tell_once

_GONE_ON: Final = 2
"""A job that logs at so many later steps after it was told to end has gone on: its last words are one."""


class Pruning:
    """One attempt, compared with others."""

    def __init__(self, folder: Folder, job_id: int, attempt: int, written: str) -> None:
        """`written` is what the supervisor says of the pruner, see `current_job.environment`."""
        about = json.loads(written)
        pruner = read(about)
        assert pruner is not None
        self._pruner = pruner
        self._since: int = about["since"]
        self._folder, self._job_id, self._attempt = folder, job_id, attempt
        self._lock = Lock()
        self._rung: int | None = None  # the last one that it has come to
        self._step = self._best_step = 0.0
        self._best: float | None = None
        self._why: str | None = None
        self._is_told = False
        self._n_later = 0  # calls at later steps since it was told

    def note(self, step: Any, values: dict[str, Any]) -> None:
        """The job has logged these values, whose own place they are."""
        value = values.get(self._pruner.metric)
        with self._lock:
            if is_number(step):
                self._note_step(as_float(step))
            if not is_number(value):
                return
            if not is_number(step):
                tell_once(f"{self._pruner.metric} is logged without a step, by which jobs are compared: none is pruned")
                return
            self._note_value(as_float(step), as_float(value))

    def tell(self) -> bool:
        """Whether the job is to end; once it has been told, that is on disk. False where it cannot be written."""
        with self._lock:
            if self._why is None or self._is_told:
                return self._is_told
            try:
                mark_pruned(self._folder, self._job_id, self._attempt, reason=self._why)
            except OSError as error:
                tell_once(f"that the job is pruned cannot be written, and it goes on: {error.strerror or error}")
                self._why = None
                return False
            self._is_told = True
            return True

    @cached_property
    def _group(self) -> str | None:
        """What the names of the values have in common with which this job is compared; None: all of them."""
        if not self._pruner.group_by:
            return None
        with Manifest(self._folder) as manifest:
            variables = manifest.job(self._job_id).variables
        return digest(encode([variables.get(name) for name in self._pruner.group_by]))[:8]

    def _note_step(self, step: float) -> None:
        is_later, self._step = step > self._step, max(step, self._step)
        if not self._is_told or not is_later:
            return
        self._n_later += 1
        if self._n_later == _GONE_ON:
            unmark_pruned(self._folder, self._job_id, self._attempt)

    def _note_value(self, step: float, value: float) -> None:
        pruner = self._pruner
        if self._best is None or pruner.is_better(value, self._best):
            self._best, self._best_step = value, step
        rung = pruner.rung_at(step)
        if rung is not None and (self._rung is None or rung > self._rung):
            is_first, self._rung = self._rung is None, rung
            try:
                self._come_to(rung, step, self._best if pruner.take == "best" else value, is_first=is_first)
            except OSError as error:
                tell_once(f"the job cannot be compared with others, and goes on: {error.strerror or error}")
        if self._why is None and pruner.is_out_of_patience(self._best_step, step):
            self._why = f"no better {pruner.metric} than {self._best:.6g} since step {self._best_step:g}"

    def _come_to(self, rung: int, step: float, value: float, *, is_first: bool) -> None:
        """The job has left its value at a rung that it had not come to in this launch, and is compared."""
        pruner = self._pruner
        step_of_rung = pruner.step_of(rung)
        values = values_by_attempt(self._folder, pruner.rungs, step_of_rung, group=self._group)
        before = values.get(self._job_id, {})
        if any(attempt >= self._since for attempt in before):
            return  # an earlier attempt of the launch, which was told then
        if before and is_first and step > step_of_rung:
            return  # it goes on from a checkpoint, and what it had left at the rung is nearer to it
        leave_value(self._folder, pruner.rungs, step_of_rung, self._job_id, self._attempt, value, group=self._group)
        why = pruner.why_to_end(self._job_id, rung, {**newest(values), self._job_id: value})
        if why is not None and self._why is None:
            self._why = f"at step {step_text(step)} its {pruner.metric} is {value:.6g}; {why}"
