"""What the plugins do, once Hydra calls them: plan, launch, and tell how it went in words and exit status.

A sweep ends with 0 when every job that it ran has completed, with 1 when one has not, with 2 for a user's mistake.
"""

import os
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import update_wrapper
from typing import Any, Final, overload

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf

from experiment_manager import codec
from experiment_manager.attempts import attempting
from experiment_manager.compose import Composer, require_submitted
from experiment_manager.decisions import REFUSED
from experiment_manager.errors import ExperimentManagerError
from experiment_manager.files import read_optional
from experiment_manager.folder import Folder
from experiment_manager.job import JOB_VARIABLE
from experiment_manager.manifest import Manifest
from experiment_manager.pool import Interrupted, Pool, check_n_jobs
from experiment_manager.progress import settings_text
from experiment_manager.records import UNFINISHED, Job, State
from experiment_manager.results import read_result
from experiment_manager.states import States
from experiment_manager.sweep import Options, Plan, add_batch, plan_sweep

_LAUNCH_VARIABLE: Final = "EXPERIMENT_MANAGER_LAUNCH"


class JobFailed(Exception):
    """What a job that did not complete gives to a sweeper that asks for its value."""


@contextmanager
def told_to_the_user() -> Iterator[None]:
    """A user's mistake ends the program with a sentence and the exit status 2, without a traceback."""
    try:
        yield
    except ExperimentManagerError as error:
        _say(f"error: {error}")
        raise SystemExit(REFUSED) from None
    except KeyboardInterrupt:
        _say("stopped while the sweep was being planned: nothing was launched")
        raise SystemExit(128 + signal.SIGINT) from None


def refuse_inside_a_job() -> None:
    """A job must not sweep: a program with `hydra.mode: MULTIRUN` in its YAML would start itself for ever."""
    if JOB_VARIABLE in os.environ:
        raise ExperimentManagerError(
            f"this process is job {os.environ[JOB_VARIABLE]} of an experiment and must not start a sweep of its own; "
            f"unset {JOB_VARIABLE} for the inner program if you mean it"
        )


class Sweep:
    """One call of our own sweeper."""

    def __init__(self, loader: ConfigLoader, config: DictConfig, task: TaskFunction | None, launcher: Any) -> None:
        self._composer = Composer(loader, config)
        self._config, self._task, self._launcher = config, task, launcher

    def run(self, written: Mapping[str, Any], arguments: Sequence[str]) -> list[Sequence[JobReturn]]:
        """The whole sweep; returns what every job that passes has returned, also the ones that had completed before.

        Ends the program when a job fails.
        """
        ours = hasattr(self._launcher, "launch_plan")
        with told_to_the_user():
            refuse_inside_a_job()
            if ours:
                self._launcher.check()
            options, batch_size = _options(written)
            plan = plan_sweep(self._composer, options, arguments, self._task, _about(self._config))
        _say(_summary(plan))
        if plan.launch is not None:
            OmegaConf.save(self._config, plan.folder.join("launches", plan.launch.number, "multirun.yaml"))
            if not ours:
                self._note_ignored_directories(plan.folder)
            launch = self._launcher.launch_plan if ours else self._launch_elsewhere
            size = batch_size or len(plan.to_run)
            for at in range(0, len(plan.to_run), size):
                launch(plan, plan.to_run[at : at + size])
            _conclude(plan)
        return [Returns(plan.folder, list(plan.jobs.values()))]

    def _launch_elsewhere(self, plan: Plan, ids: Sequence[int]) -> Any:
        """Jobs of a plan have gone through a launcher that is not ours; the wrapped task function has recorded them."""
        assert plan.launch is not None
        os.environ[_LAUNCH_VARIABLE] = plan.launch.number
        try:
            batch = [self._composer.placed(plan.folder, job_id, plan.jobs[job_id].overrides) for job_id in ids]
            return self._launcher.launch(batch, initial_job_idx=plan.to_run.index(ids[0]))
        finally:
            del os.environ[_LAUNCH_VARIABLE]
            States(plan.folder).snapshot(reconcile=True)  # a worker that was killed never reached the end of its task

    def _note_ignored_directories(self, folder: Folder) -> None:
        own = ("hydra.sweep.dir=", "hydra.sweep.subdir=")
        ignored = [str(item) for item in self._config.hydra.overrides.hydra if str(item).startswith(own)]
        if ignored:
            _say(f"{', '.join(ignored)} is not used: the jobs of an experiment lie in {folder.join('jobs')}")


def _options(written: Mapping[str, Any]) -> tuple[Options, int | None]:
    plain: dict[str, Any] = {
        key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for key, value in written.items()
    }
    batch_size = plain.pop("max_batch_size")
    if batch_size is not None and batch_size < 1:
        raise ExperimentManagerError(f"hydra.sweeper.max_batch_size={batch_size} runs nothing; use 1 or more, or null")
    plain["params"] = plain["params"] or {}
    return Options(**plain).check(), batch_size


def _about(config: DictConfig) -> dict[str, Any]:
    launcher = OmegaConf.to_container(config.hydra.launcher, resolve=False)
    return {
        "launcher": config.hydra.runtime.choices.get("hydra/launcher"),
        "options": codec.encode(launcher),
        "overrides": [str(item) for item in config.hydra.overrides.task],
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _summary(plan: Plan) -> str:
    """`experiments/train: 6 jobs pass (3 new); 3 run now, 3 COMPLETED are left alone`."""
    dropped = "".join(f", {len(step.ids)} dropped by {step.rule}" for step in plan.dropped)
    running = set(plan.to_run)
    left = Counter(plan.snapshot.state(job_id) for job_id in plan.jobs if job_id not in running)
    kept = "".join(f", {count} {state} left alone" for state, count in left.items())
    new = f" ({plan.n_new} new in the manifest)" if plan.n_new else ""
    passing = "1 job passes" if len(plan.jobs) == 1 else f"{len(plan.jobs)} jobs pass"
    return f"{plan.folder.path}: {passing}{dropped}{new}; {len(plan.to_run)} to run{kept}"


def run_plan(plan: Plan, ids: Sequence[int], *, n_jobs: int) -> None:
    """Some jobs of a plan have run here. Ends the program, with the shell's status for it, on Ctrl-C."""
    assert plan.launch is not None
    texts = {job_id: settings_text(plan.jobs[job_id].variables) for job_id in ids}
    _run_here(Pool(plan.folder, plan.launch, n_jobs=n_jobs, texts=texts), ids, plan.folder)


def _run_here(pool: Pool, ids: Sequence[int], folder: Folder) -> None:
    if len(ids) > 1:
        _say(f"running {min(pool.n_jobs, len(ids))} at a time (hydra.launcher.n_jobs)")
    try:
        pool.run(ids)
    except Interrupted as stop:
        cancelled = sum(ran.state is State.CANCELLED for ran in stop.ran)
        _say(f"stopped by {stop}: {cancelled} jobs cancelled in {folder.path}; the same command runs what is left")
        raise SystemExit(128 + stop.number) from None


def _conclude(plan: Plan) -> None:
    """Ends the program with status 1, saying what to do, when a job that was launched here has not completed."""
    snapshot = States(plan.folder).snapshot(reconcile=True)
    ended = {job_id: snapshot.state(job_id) for job_id in plan.to_run}
    bad = [job_id for job_id, state in ended.items() if state is not State.COMPLETED]
    if not bad:
        return
    counts = ", ".join(f"{count} {state}" for state, count in Counter(ended[job_id] for job_id in bad).items())
    again = "the same command runs them again"
    if any(ended[job_id] in UNFINISHED for job_id in bad):
        again = "the same command runs what has not completed"
    folder = shlex.quote(os.path.relpath(plan.folder.path))
    _say(
        f"{len(bad)} of {len(ended)} {'job' if len(ended) == 1 else 'jobs'} did not complete ({counts}); {again}, and "
        f"`experiment-manager show {folder} {bad[0]}` tells why the first one did not"
    )
    raise SystemExit(1)


class RecordedTask:
    """A task function that records its attempts, for launchers that call it themselves (basic, joblib, submitit)."""

    def __init__(self, task: Callable[[DictConfig], Any]) -> None:
        update_wrapper(self, task)
        self._task = task

    def __call__(self, config: DictConfig) -> Any:
        sweep_dir, subdir = HydraConfig.get().sweep.dir, HydraConfig.get().sweep.subdir
        folder = Folder.at(os.path.dirname(sweep_dir))
        launch = os.environ.get(_LAUNCH_VARIABLE)
        with attempting(folder, int(subdir), launch=launch) as attempt:
            with Manifest(folder) as manifest:
                require_submitted(manifest, manifest.job(int(subdir)), config)
            value = self._task(config)
            attempt.leave(value)
            return value


class Batches:
    """What another sweeper proposes, batch by batch, over our launcher."""

    def __init__(self, loader: ConfigLoader, config: DictConfig, task: TaskFunction | None, folder: Folder) -> None:
        self._composer = Composer(loader, config)
        self._config, self._task, self._folder = config, task, folder
        self._earlier: list[int] = []

    def launch(self, batch: Sequence[Sequence[str]], *, n_jobs: int) -> "Returns":
        """A batch has run here; the values are real, and a failed job raises when it is asked for its value."""
        with told_to_the_user():
            refuse_inside_a_job()
            check_n_jobs(n_jobs)
            about = _about(self._config)
            launch, jobs = add_batch(self._composer, self._folder, batch, self._task, self._earlier, about)
        os.makedirs(self._config.hydra.sweep.dir, exist_ok=True)  # sweepers expect it of a launcher, and write there
        ids = [job.id for job in jobs]
        self._earlier += ids
        _say(f"{self._folder.path}: {len(ids)} new jobs, as another sweeper proposed them")
        texts = {int(job.id): settings_text(job.variables) for job in jobs}
        _run_here(Pool(self._folder, launch, n_jobs=n_jobs, texts=texts), ids, self._folder)
        return Returns(self._folder, jobs)


class Returns(Sequence[JobReturn]):
    """What jobs have returned, read from their folders when it is asked for: sweeps are large, and few callers ask."""

    def __init__(self, folder: Folder, jobs: Sequence[Job]) -> None:
        self._folder, self._jobs = folder, jobs

    def __len__(self) -> int:
        return len(self._jobs)

    @overload
    def __getitem__(self, place: int) -> JobReturn: ...
    @overload
    def __getitem__(self, place: slice) -> "Returns": ...
    def __getitem__(self, place: int | slice) -> "JobReturn | Returns":
        if isinstance(place, slice):
            return Returns(self._folder, self._jobs[place])
        return _job_return(self._folder, self._jobs[place])


def _job_return(folder: Folder, job: Job) -> JobReturn:
    last = States(folder).settled(job.id)
    with Manifest(folder) as manifest:
        config = OmegaConf.create(manifest.configuration(job.id))
    told = JobReturn(overrides=list(job.overrides), cfg=config, working_dir=folder.job(job.id), task_name=folder.name)
    result = read_result(folder, job.id, last.number)
    if last.state is State.COMPLETED and not result.refused:
        told.status = JobStatus.COMPLETED
        told.return_value = result.value
        return told
    error = read_optional(folder.of_attempt(job.id, last.number, "error")).get("traceback", "")
    reason = read_optional(folder.of_attempt(job.id, last.number, "attempt")).get("reason")
    told.status = JobStatus.FAILED
    told.return_value = JobFailed(
        f"job {job.id} of {folder.path} is {last.state}{f': {reason}' if reason else ''}{_refusal(result.refused)}; "
        f"its log is {folder.of_attempt(job.id, last.number, 'stderr')}\n{error}"
    )
    return told


def _refusal(refused: Mapping[str, str]) -> str:
    return "".join(f", but its {name} could not be stored: {why}" for name, why in refused.items())
