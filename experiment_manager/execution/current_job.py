"""What a job knows of itself while it runs: `experiment_manager.current_job()`.

The supervisor tells the job in three environment variables which attempt it is. Outside of an experiment the same
calls work and record nothing, so that a script runs by hand as it is.
"""

import atexit
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from experiment_manager.errors import JobRefused, UnstorableValue
from experiment_manager.execution.environment import PRUNER_VARIABLE, other_than_first
from experiment_manager.model import codec
from experiment_manager.model.records import Job, State
from experiment_manager.store.endings import read_anchor
from experiment_manager.store.layout import Folder
from experiment_manager.store.metrics_file import MetricsFile
from experiment_manager.store.processes import ATTEMPT_VARIABLE, FOLDER_VARIABLE, JOB_VARIABLE
from experiment_manager.text import one_line, tell

if TYPE_CHECKING:
    from pathlib import Path

    from experiment_manager.execution.pruning import Pruning

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_PRUNED: Final = "pruned"
_METRICS: Final = "_metrics_file"


class UpstreamJob:
    """A job of another experiment that the current one comes after (`hydra.launcher.after`), and that has completed.

    `variables` are what makes it another than its neighbours, `directory` is where it has left its files, and `attempt`
    the number of the attempt that completed.
    """

    def __init__(self, folder: Folder, job: Job, attempt: int) -> None:
        self._folder, self._job = folder, job
        self.id: int = job.id
        self.variables: Mapping[str, Any] = job.variables
        self.attempt = attempt

    def __repr__(self) -> str:
        return f"UpstreamJob({self.id} of {self._folder.path!r}: {dict(self.variables)})"

    @property
    def directory(self) -> "Path":
        """Hydra's output directory of the job, the same in every attempt."""
        from pathlib import Path

        from experiment_manager.execution.command import place_of

        return Path(place_of(self._folder, self._job).directory)

    @cached_property
    def result(self) -> Any:
        """What the job has returned; None where that was nothing."""
        from experiment_manager.store.results import read_result

        return read_result(self._folder, self.id, self.attempt).value


class CurrentJob:
    """The job that this process runs; `id` is None outside of an experiment."""

    def __init__(self, folder: Folder | None, job_id: int | None, attempt: int, pruner: str | None = None) -> None:
        self._folder = folder
        self.id = job_id
        self.attempt = attempt
        from threading import Event  # no supervisor is a job

        self._stopping = Event()
        self._signal: int | None = None
        self._listens = False
        self._pruner = pruner
        self._refused = set[str]()  # of what was logged, by name
        self.anchor: bytes | None = None
        """What tells this attempt from any other of its number, once it was looked at: see `note_anchor`."""
        self.told = False
        """Whether `should_stop` has ever returned true for a signal: then a job that returns nothing is not done."""
        self.stop_reason: str | None = None
        """Why `should_stop` has returned true: `pruned`, `warning` (USR1 or USR2: a time limit or a preemption is near)
        or `terminated` (TERM: a time limit, a preemption, or somebody who cancels it). None: it has not."""

    def __repr__(self) -> str:
        if self._folder is None:
            return "CurrentJob(outside of an experiment)"
        return f"CurrentJob({self.id}, attempt {self.attempt} of {self._folder.path!r})"

    @property
    def experiment(self) -> Folder:
        """The folder of the experiment. Raises JobRefused outside of one."""
        if self._folder is None:
            raise JobRefused("this process runs no job of an experiment; start it with `experiment-manager run`")
        return self._folder

    def note_anchor(self) -> None:
        """As the job begins; when it ends, another experiment may lie there, with an attempt of the same number."""
        if self._folder is not None and self.id is not None:
            self.anchor = self.anchor or read_anchor(self._folder, self.id, self.attempt)

    @property
    def required_id(self) -> int:
        """The id of the job. Raises JobRefused outside of an experiment."""
        if self.id is None:
            raise JobRefused("this process runs no job of an experiment; start it with `experiment-manager run`")
        return self.id

    @property
    def directory(self) -> "Path":
        """Where the job leaves its files, the same in every attempt: Hydra's output directory. Outside of an experiment
        that, too, or the working directory."""
        from pathlib import Path

        if self._point is not None:
            from experiment_manager.execution.command import place_of

            return Path(place_of(self.experiment, self._point).directory)
        hydra_config = sys.modules.get("hydra.core.hydra_config")
        if hydra_config is not None and hydra_config.HydraConfig.initialized():
            return Path(hydra_config.HydraConfig.get().runtime.output_dir)
        return Path.cwd()

    @cached_property
    def variables(self) -> Mapping[str, Any]:
        """What makes this job another than its neighbours; empty outside of an experiment."""
        return {} if self._point is None else self._point.variables

    @cached_property
    def upstream(self) -> "tuple[UpstreamJob, ...]":
        """The jobs of another experiment that this one comes after (`hydra.launcher.after`), by their ids; none where
        it comes after none. `[trained] = current_job().upstream` where it is one. Raises JobRefused where one of them
        has never completed; FolderError where their experiment is not there any more."""
        if self._folder is None or self.id is None:
            return ()
        from experiment_manager.model import stages
        from experiment_manager.store.launches import kept_upstream
        from experiment_manager.store.manifest import Manifest
        from experiment_manager.store.orders import read_order
        from experiment_manager.store.states import States
        from experiment_manager.store.upstream import located

        launch = States(self._folder).record(self.id, self.attempt).get("launch")
        order = None if launch is None else read_order(self._folder, launch, self.id)
        upstream = None if order is None else order.upstream
        if launch is None and (kept := kept_upstream(self._folder, [self.id]).get("upstream")) is not None:
            upstream = stages.by_job(kept)[self.id]
        if upstream is None:
            return ()
        other, ids = located(self._folder, upstream), stages.upstream(upstream, self.id)
        table = States(other).table()
        if missing := [one for one in ids if table.completed(one) is None]:
            raise JobRefused(stages.not_completed(missing, other.path))
        with Manifest(other) as manifest:
            return tuple(UpstreamJob(other, manifest.job(one), table.completed(one) or 0) for one in ids)

    @cached_property
    def _point(self) -> Job | None:
        if self._folder is None or self.id is None:
            return None
        from experiment_manager.store.manifest import Manifest

        with Manifest(self._folder) as manifest:
            return manifest.job(self.id)

    @cached_property
    def resumed(self) -> bool:
        """Whether an earlier attempt, which may have left a checkpoint in `directory`, has run before this one."""
        if self._folder is None or self.id is None:
            return False
        from experiment_manager.store.states import States

        earlier = States(self._folder).attempts(self.id)[: self.attempt - 1]
        return any(attempt.state is not State.FAKE for attempt in earlier)

    def should_stop(self) -> bool:
        """Whether the job is to end: it will be stopped soon, or is pruned. Save a checkpoint and return; `stop_reason`
        tells why. With several ranks rank 0 alone hears that it is pruned: let it tell the others.

        From the first call on, TERM, USR1 and USR2 no longer end this process by themselves, unless the program has a
        handler of its own. Call it once before the loop, from the main thread. A job that leaves early returns None:
        an attempt that was told to stop counts as COMPLETED only when it returns a result; one that was pruned and
        returns is PRUNED, with its result, if it has one.
        """
        from threading import current_thread, main_thread

        if not self._listens and current_thread() is main_thread():
            self._listens = True
            for number in _STOP_SIGNALS:
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, self._hear)
        self.told = self.told or self._stopping.is_set()
        if self.stop_reason is None and self.told:
            self.stop_reason = "terminated" if self._signal == signal.SIGTERM else "warning"
        elif self.stop_reason is None and self._pruning is not None and self._pruning.tell():
            self.stop_reason = _PRUNED
        return self.stop_reason is not None

    def _hear(self, number: int, _frame: object) -> None:
        self._signal = self._signal or number
        self._stopping.set()

    @cached_property
    def _pruning(self) -> "Pruning | None":
        """What compares this job with others; None where nothing prunes it, and in all ranks but the first."""
        if self._pruner is None or self._folder is None or self.id is None or not is_first_rank():
            return None
        from experiment_manager.execution.pruning import Pruning

        return Pruning(self._folder, self.id, self.attempt, self._pruner)

    @property
    def pruned(self) -> str | None:
        """Why the job was pruned; None: it was not, or was told and has gone on."""
        if self.stop_reason != _PRUNED or self._folder is None or self.id is None:
            return None
        from experiment_manager.store.rungs import why_pruned

        return why_pruned(self._folder, self.id, self.attempt)

    def log_metrics(
        self, first: Mapping[Any, Any] | float | None = None, /, step: float | None = None, **values: Any
    ) -> None:
        """One line more in the metrics of this attempt, on disk at once: `log_metrics(step=100, loss=0.3)`, or
        `log_metrics({"train/loss": 0.3}, step=100)` for names that Python has no keyword for.

        Values are stored in their plain form, as those that a job returns: numbers or text; what has none is left out,
        and said once, and is no error. With several tasks only rank 0 writes. Outside of an experiment nothing is
        recorded. With a pruner the job is compared with others here, at a few steps; `should_stop` tells what came of
        it. A line that the disk does not take, as a full one, ends no job: that is said, and it is written later.
        """
        step, values = _step_and_values(first, step, values)
        if self._folder is None or self.id is None or not is_first_rank():
            return
        line = {"step": self._plain("step", step), "time": time.time(), "values": self._plain("", values)}
        self._metrics.add((json.dumps(line, ensure_ascii=False) + "\n").encode())
        if self._pruning is not None:
            self._pruning.note(line["step"], codec.decode(line["values"]))

    @property
    def _metrics(self) -> MetricsFile:
        """One, also where several threads log for the first time."""
        found: MetricsFile | None = vars(self).get(_METRICS)
        if found is None:
            file = MetricsFile(self.experiment, self.required_id, self.attempt)
            found = vars(self).setdefault(_METRICS, file)
        return found

    def settle_metrics(self) -> None:
        """What was logged and could not be written is written now, or said to be lost."""
        if _METRICS in vars(self):
            self._metrics.settle()

    def _plain(self, name: str, value: Any) -> codec.Encoded:
        """A value as it is stored, without what cannot be."""
        try:
            return codec.encode(value)
        except (UnstorableValue, RecursionError):
            from experiment_manager.store.results import storable

            stored, refused = storable({name: value} if name else value)
        for what, why in refused.items():
            if what not in self._refused:
                self._refused.add(what)
                tell(f"log_metrics of job {self.id}: {one_line(what)} is left out: {one_line(why)}")
        return stored.get(name) if name and isinstance(stored, dict) else stored


def _step_and_values(first: Any, step: float | None, values: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What a call of `log_metrics` means: a mapping is what its items would be as keywords, which win over it, as in
    `dict({"loss": 1}, loss=2)`. Raises TypeError for a step that is given twice.

    >>> _step_and_values({"train/loss": 0.3}, 7, {}), _step_and_values(7, None, {"loss": 0.3})
    ((7, {'train/loss': 0.3}), (7, {'loss': 0.3}))
    """
    if not isinstance(first, Mapping):
        if first is not None and step is not None:
            raise TypeError(f"log_metrics got two steps, {first!r} and {step!r}; leave one of them out")
        return step if first is None else first, values
    metrics = {str(name): value for name, value in first.items()}
    return metrics.pop("step", None) if step is None else step, {**metrics, **values}


_claimant: int | None = None


@contextmanager
def claimed() -> Iterator[None]:
    """Inside, this process has claimed the attempt itself: it is the one that writes records, whatever its rank."""
    global _claimant
    before, _claimant = _claimant, os.getpid()
    try:
        yield
    finally:
        _claimant = before


def is_first_rank() -> bool:
    """Whether this process is the one of several tasks that writes records."""
    return _claimant == os.getpid() or other_than_first(os.environ) is None


def not_kept(job_id: int) -> str:
    """The sentence for a result that another rank than the first has returned."""
    return f"the result of job {job_id} is that of rank 0; what {other_than_first(os.environ)} returned is not kept"


_current: CurrentJob | None = None
_told: tuple[str | None, ...] = ()
"""What the environment told of it."""


def current_job() -> CurrentJob:
    """The job that this process runs. The same object at every call, so that `should_stop` hears every signal."""
    global _current, _told
    told = tuple(map(os.environ.get, (FOLDER_VARIABLE, JOB_VARIABLE, ATTEMPT_VARIABLE, PRUNER_VARIABLE)))
    if _current is None or _told != told:
        folder, job_id, attempt, pruner = told
        if not (folder and job_id):
            _current, _told = CurrentJob(None, None, 1, pruner), told
            return _current
        if _current is None:
            atexit.register(_ignore_signals)
        _current, _told = CurrentJob(Folder.at(folder), int(job_id), int(attempt or "1"), pruner), told
    return _current


@contextmanager
def another() -> Iterator[None]:
    """Inside, this process runs another job, of whatever experiment; then it goes on with the one before, which has
    heard what it has heard."""
    global _current, _told
    before = _current, _told
    try:
        yield
    finally:
        _current, _told = before if before[0] is not None else (_current, _told)


def settle_metrics() -> None:
    """What the job of this process has logged and could not write is written now, or said to be lost."""
    if _current is not None:
        _current.settle_metrics()


def was_asked() -> bool:
    """Whether anything in this process has called `current_job` yet."""
    return _current is not None


def _ignore_signals() -> None:
    """The program has ended. An interpreter that shuts down has no handlers any more, and a signal would end it with
    another status than the job's."""
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
