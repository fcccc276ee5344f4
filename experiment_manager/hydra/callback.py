"""The callback that Hydra calls inside the process of a job: the check that it runs what was submitted, and its result;
and the first things that every job does with Hydra, done once where jobs are forked from.

`on_run_start` comes before anything is written. Hydra turns what a callback raises into a warning and goes on, so what
must not go on ends the process by SystemExit, which is all that a callback can stop a job with.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from inspect import signature
from typing import Any

import hydra.core.utils
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from experiment_manager.errors import ConfigurationDrifted, JobRefused
from experiment_manager.execution.command import place_of, placed_in
from experiment_manager.execution.current_job import CurrentJob, current_job, is_first_rank, not_kept
from experiment_manager.hydra import private_names
from experiment_manager.hydra.compose import as_written, require_submitted, task_configuration
from experiment_manager.model.policy import DRIFTED, UNRECORDED
from experiment_manager.model.records import Code
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.proposals import leave_configuration
from experiment_manager.store.results import write_error, write_result
from experiment_manager.text import tell, tell_traceback


def listen() -> None:
    """From now on the job that this process was started for has our callback, and its program needs no word of it.

    A callback in the configuration would need one: Hydra 1.4 calls only what the program allows.
    """
    private_names.answer_the_mode_at_once()
    private_names.read_from_one_store()
    private_names.copy_by_hand()
    _watch_run_job(hears_of_jobs=private_names.replace_callbacks(_with_ours))


class JobCallback(Callback):
    """The work for a job before and after its task function."""

    _code: Code | None = None
    _has_completed = False  # the job of this process
    _process = 0  # in which it has begun

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """The job sees what a job of a multirun sees, and its configuration is the one that was submitted.

        Otherwise it ends here with the exit code DRIFTED, or with `on_drift=warn` goes on and says so.
        """
        job = current_job()
        if job.id is None:  # named in a command from before `listen`, which somebody has pasted
            return
        job.note_anchor()
        JobCallback._process = os.getpid()
        if JobCallback._has_completed:
            tell(
                f"job {job.id} is the first call of the program's main function, which has returned; the program calls "
                "it again, and ends here"
            )
            raise SystemExit(0)
        with _ending(job, DRIFTED), Manifest(job.experiment) as manifest:
            point = manifest.job(job.id)
            if point.fingerprint is None and manifest.may_propose(job.id):
                leave_configuration(job.experiment, job.id, task_configuration(config))
                point = manifest.job(job.id)
            require_submitted(manifest, point, config)
            place = place_of(job.experiment, point)
            with read_write(config.hydra), open_dict(config.hydra):
                config.hydra.mode = RunMode.MULTIRUN
                config.hydra.job.id = str(point.id)
                config.hydra.sweep.dir, config.hydra.sweep.subdir = place.sweep_dir, place.subdir
            if point.recipe is not None:
                recipe = manifest.recipe(point.recipe)
                self._code = recipe.code
                live = _live_code(job, recipe.code) if recipe.code is not None else None
                if live and recipe.on_drift != "warn":
                    raise ConfigurationDrifted(live)
                now = recipe.now  # OmegaConf keys this cache by the tuple of a resolver's arguments
                OmegaConf.get_cache(config)["now"] = {(pattern,): answer for pattern, answer in now.items()}

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """The value that the task function returned is on disk, or the exception that it raised.

        A job whose result cannot be written has not completed: it ends with the exit code UNRECORDED.
        """
        job = current_job()
        if job.id is None:
            return
        JobCallback._has_completed = job_return.status == JobStatus.COMPLETED
        if not is_first_rank():
            if JobCallback._has_completed and job_return.return_value is not None:
                tell(not_kept(job.id))
            return
        if job_return.status == JobStatus.COMPLETED:
            with _ending(job, UNRECORDED):
                write_result(
                    job.experiment, job.id, job.attempt, job_return.return_value, told=job.told, ours=job.anchor
                )
        else:
            ended_by = private_names.returned(job_return)
            if isinstance(ended_by, SystemExit):  # as Hydra 1.4 has it
                self.on_exit(ended_by)
            elif isinstance(ended_by, BaseException):
                write_error(job.experiment, job.id, job.attempt, ended_by, ours=job.anchor)
        live = _live_code(job, self._code) if self._code is not None else None
        if live:  # imported late, perhaps, or allowed by on_drift=warn
            tell(f"warning: {live}")

    @staticmethod
    def on_exit(leaving: SystemExit) -> None:
        """A job whose task has ended by `sys.exit(0)` has left that it returned nothing: its exit status alone does not
        tell that from a kill where a command stands around it (`wrap`). A handler of a signal may have called it. What
        the task has forked is another process."""
        job = current_job()
        is_well = leaving.code in (None, 0) and not JobCallback._has_completed
        if job.id is not None and is_well and JobCallback._process == os.getpid() and is_first_rank():
            with _ending(job, UNRECORDED):
                write_result(job.experiment, job.id, job.attempt, None, told=job.told or None, ours=job.anchor)


def warm_up(arguments: Sequence[str], frozen: str) -> Callable[[Sequence[str]], None] | None:
    """Hydra's plugins are known, and the parsers of its grammars have learnt from what they read: the overrides among
    the arguments of a job, and Hydra's own configuration. What Hydra composes for such arguments of `frozen` sources is
    kept; so is, from what is returned, what it composes for other arguments."""
    setup_globals()
    private_names.copy_by_hand()
    Plugins.instance()
    parser = OverridesParser.create()
    for override in (item for item in arguments if "=" in item):
        with suppress(Exception):  # the job will tell
            parser.parse_override(override)
    with suppress(Exception):
        private_names.keep_own_configurations([item for item in arguments if item.startswith(("hydra/", "hydra."))])
    if private_names.has(*private_names.OF_FIRST_STEP):
        from experiment_manager.hydra.kept_compose import KeptCompositions

        kept = KeptCompositions(frozen)
        with suppress(Exception):
            kept.keep(arguments)
        kept.hand_out()
        return kept.keep_also
    return None


def _with_ours(callbacks: Any) -> type:
    class JobCallbacks(callbacks):  # type: ignore[misc]
        """Hydra's list of callbacks, in the process of a job: ours is in it when the run that begins is that job. The
        program's own then hear what they hear of a job of a multirun: its start and its end, but of no run.

        Any other program that the job starts is none of ours, and so is a command that somebody has pasted.
        """

        def __init__(self, config: DictConfig | None = None) -> None:
            super().__init__(config)
            self._ours = JobCallback() if config is not None and _is_our_job(config) else None
            if self._ours is not None:
                self.callbacks.append(self._ours)

        def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
            if self._ours is None:
                super().on_run_start(config, **kwargs)
            else:
                self._ours.on_run_start(config, **kwargs)

        def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
            if self._ours is None:
                super().on_run_end(config, **kwargs)

    return JobCallbacks


def _watch_run_job(*, hears_of_jobs: bool) -> None:
    """Around Hydra's function that runs a job a task is seen that ends its process. Where our callback does not hear of
    jobs by Hydra's list, it does here, and the program's own callbacks hear of a run, too."""
    run_job: Any = hydra.core.utils.run_job

    def watched(*arguments: Any, **options: Any) -> JobReturn:
        config = signature(run_job).bind(*arguments, **options).arguments["config"]
        if not _is_our_job(config):
            return run_job(*arguments, **options)  # type: ignore[no-any-return]
        ours = JobCallback()
        if not hears_of_jobs:
            ours.on_run_start(config)
        try:
            job_return: JobReturn = run_job(*arguments, **options)
        except SystemExit as leaving:
            ours.on_exit(leaving)
            raise
        if not hears_of_jobs:
            ours.on_job_end(config, job_return)
        return job_return

    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", {})
        if names.get("run_job") is run_job:
            names["run_job"] = watched


def _is_our_job(config: DictConfig) -> bool:
    job = current_job()
    return job.id is not None and placed_in(str(job.directory)) in as_written(config, "hydra")


def _live_code(job: CurrentJob, code: Code) -> str | None:
    """The modules of the program that are imported as they are today, not as the snapshot has them; None: none."""
    from experiment_manager.store.code import live_modules

    found = ", ".join(f"{name} ({file})" for name, file in live_modules(job.experiment, code).items())
    if not found:
        return None
    return (
        f"job {job.id} imports code as it is today, and not as its snapshot has it: {found}; let the program find it "
        "by a path relative to its __file__, or sweep again with hydra.sweeper.on_drift=warn"
    )


@contextmanager
def _ending(job: CurrentJob, status: int) -> Iterator[None]:
    """An exception inside ends the process with that status, and stands in the log and in the attempt's error."""
    try:
        yield
    except Exception as error:
        try:
            write_error(job.experiment, job.required_id, job.attempt, error, ours=job.anchor)
            is_told = isinstance(error, ConfigurationDrifted | JobRefused | OSError)
            tell(f"error: {error}") if is_told else tell_traceback()
        finally:  # whatever becomes of what is told
            raise SystemExit(status) from None
