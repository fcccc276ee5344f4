"""A job that is compared with others while it runs, and is told to end when it does worse: see `model.pruning`.

Only the job itself decides about itself, in its own process, by what lies on disk when it comes to a rung; that takes
one listing. Where that cannot be read or written, the job goes on. The jobs of a trial of several count by their mean,
and each of them looks whether another one was told to end.
"""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from threading import Lock
from typing import Any, Final

from experiment_manager.errors import ExperimentManagerError
from experiment_manager.model.codec import as_float, digest, encode, is_number
from experiment_manager.model.pruning import read
from experiment_manager.model.records import ENDED_WELL
from experiment_manager.store.holds import read_removed
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.rungs import (
    Comparable,
    Left,
    by_attempt,
    end_trial,
    go_on_with_trial,
    leave_value,
    mark_pruned,
    newest,
    step_text,
    unmark_pruned,
    values_left,
    who_ended_trial,
)
from experiment_manager.text import counted, tell_once

_GONE_ON: Final = 2
"""A job that logs at so many later steps after it was told to end has gone on: its last words are one."""

_UNREADABLE: Final = (OSError, ExperimentManagerError)
"""What keeps a job from being compared, and from nothing else."""

_LOOKS_EVERY_S: Final = 10.0
"""How often a job looks whether another one of its trial was told to end."""


class Pruning:
    """One attempt, compared with others."""

    def __init__(self, folder: Folder, job_id: int, attempt: int, written: str) -> None:
        """`written` is what the supervisor says of the pruner, see `environment.of_attempt`."""
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
        self._look_at = 0.0
        self._ends_others = False

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
            self._look_at_others()

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
            if self._ends_others:
                with suppress(*_UNREADABLE):  # then each of them is compared by itself
                    end_trial(self._folder, self._pruner.rungs, self._whom.trial, self._job_id, self._attempt)
            return True

    @cached_property
    def _whom(self) -> Comparable:
        """Whom this job is compared with."""
        group_by, trial = self._pruner.group_by, ""
        if not group_by and not self._pruner.average_over:
            return Comparable()
        with Manifest(self._folder) as manifest:
            variables = manifest.job(self._job_id).variables
            if self._pruner.average_over and manifest.search is not None and self._job_id in manifest.search:
                trial = str(self._job_id - manifest.search.place(self._job_id))
        return Comparable(digest(encode([variables.get(name) for name in group_by]))[:8] if group_by else "", trial)

    def _note_step(self, step: float) -> None:
        is_later, self._step = step > self._step, max(step, self._step)
        if not self._is_told or not is_later:
            return
        self._n_later += 1
        if self._n_later == _GONE_ON:
            unmark_pruned(self._folder, self._job_id, self._attempt)
            if self._ends_others:
                go_on_with_trial(self._folder, self._pruner.rungs, self._whom.trial, self._job_id, self._attempt)

    def _note_value(self, step: float, value: float) -> None:
        pruner = self._pruner
        if self._best is None or pruner.is_better(value, self._best):
            self._best, self._best_step = value, step
        rung = pruner.rung_at(step)
        if rung is not None and (self._rung is None or rung > self._rung):
            is_first, self._rung = self._rung is None, rung
            try:
                self._come_to(rung, step, self._best if pruner.take == "best" else value, is_first=is_first)
            except _UNREADABLE as error:
                why = getattr(error, "strerror", None) or error
                tell_once(f"the job cannot be compared with others, and goes on: {why}")
        if self._why is None and pruner.is_out_of_patience(self._best_step, step):
            self._why = f"no better {pruner.metric} than {self._best:.6g} since step {self._best_step:g}"

    def _come_to(self, rung: int, step: float, value: float, *, is_first: bool) -> None:
        """The job has left its value at a rung that it had not come to in this launch, and is compared."""
        pruner = self._pruner
        step_of_rung, whom = pruner.step_of(rung), self._whom
        removed = read_removed(self._folder)  # what was a mistake is compared with nothing
        there = [left for left in values_left(self._folder, pruner.rungs, step_of_rung) if left.job_id not in removed]
        if pruner.group_by:
            there = [left for left in there if left.whom.group == whom.group]
        before = by_attempt(there).get(self._job_id, {})
        if any(attempt >= self._since for attempt in before):
            return  # an earlier attempt of the launch, which was told then
        if before and is_first and step > step_of_rung:
            return  # it goes on from a checkpoint, and what it had left at the rung is nearer to it
        leave_value(self._folder, pruner.rungs, step_of_rung, self._job_id, self._attempt, value, whom)
        why = self._why_to_end(rung, value, there)
        if why is not None and self._why is None:
            self._ends_others = bool(whom.trial)
            self._why = f"at step {step_text(step)} its {pruner.metric} is {value:.6g}{why}"

    def _why_to_end(self, rung: int, value: float, there: Sequence[Left]) -> str | None:
        """Why a job that has this value at a rung is told to end, as a sentence about it goes on; None: it is not."""
        values, own = {**newest(by_attempt(there)), self._job_id: value}, self._whom.trial
        if not own:
            why = self._pruner.why_to_end(self._job_id, rung, values)
            return None if why is None else f"; {why}"
        trials: dict[int, list[float]] = {}
        trial_of = {left.job_id: left.whom.trial for left in there} | {self._job_id: own}
        for job_id, one in values.items():
            if trial_of[job_id].isdecimal():
                trials.setdefault(int(trial_of[job_id]), []).append(one)
        means = {trial: sum(ones) / len(ones) for trial, ones in trials.items()}
        first = int(own)
        why = self._pruner.why_to_end(first, rung, means)
        return None if why is None else f", {means[first]:.6g} in the mean of {counted(len(trials[first]))}; {why}"

    def _look_at_others(self) -> None:
        """The job is to end where another one of its trial was told so, and is not run again; but for one that had run
        to its end before, or was told before: who runs that again wants it to run."""
        if not self._pruner.average_over or self._why is not None or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + _LOOKS_EVERY_S
        with suppress(*_UNREADABLE):
            ended = who_ended_trial(self._folder, self._pruner.rungs, self._whom.trial)
            if not ended:
                return
            from experiment_manager.store.states import States  # which few jobs ask

            states = States(self._folder)
            earlier = range(1, self._attempt)
            if any(states.state(self._job_id, number) in ENDED_WELL for number in earlier):
                return
            if any(job_id != self._job_id and not states.is_claimed(job_id, number + 1) for job_id, number in ended):
                self._why = "another job of its trial was told to end"
