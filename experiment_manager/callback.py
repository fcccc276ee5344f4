"""What Hydra calls inside the process of a job: the check that it runs what was submitted, and its result.

`on_run_start` comes before anything is written; a callback can stop a job only by SystemExit.
"""

import sys
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from experiment_manager import delta
from experiment_manager.compose import fingerprint, task_configuration
from experiment_manager.decisions import DRIFTED
from experiment_manager.files import write_json
from experiment_manager.job import current_job
from experiment_manager.manifest import Manifest
from experiment_manager.results import write_error, write_result


class JobCallback(Callback):
    """Added to every job that the supervisor starts, by an override on its command line."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """The job sees what a job of a multirun sees, and its configuration is the one that was submitted.

        Otherwise it ends here with the exit code DRIFTED, or with `on_drift=warn` goes on and says so.
        """
        job = current_job()
        if job.id is None:  # somebody has pasted the command: it runs like any other program, and records nothing
            return
        with Manifest(job.experiment) as manifest:
            point = manifest.job(job.id)
            submitted = manifest.encoded_configuration(point.id)
            recipe = manifest.recipe(point.recipe) if point.recipe is not None else None
        composed = task_configuration(config)
        if recipe is not None and fingerprint(composed) != point.fingerprint:
            changes = delta.describe(delta.compare(submitted, composed))
            message = (
                f"job {point.id} composes another configuration here than when it was submitted: {changes}. Its YAML "
                "is frozen, so this comes from code (a structured config, a resolver) or the environment; put it back, "
                "or accept it with hydra.sweeper.on_drift=warn and sweep again with hydra.sweeper.on_change=new"
            )
            print(f"{'warning' if recipe.on_drift == 'warn' else 'error'}: {message}", file=sys.stderr, flush=True)
            if recipe.on_drift != "warn":
                path = job.experiment.of_attempt(point.id, job.attempt, "error")
                write_json(path, {"type": "ConfigurationDrifted", "message": message, "traceback": ""})
                raise SystemExit(DRIFTED)
        with open_dict(config.hydra):
            config.hydra.mode = RunMode.MULTIRUN
            config.hydra.job.id = str(point.id)
            config.hydra.sweep.dir = job.experiment.join("jobs")
            config.hydra.sweep.subdir = str(point.id)
        if recipe is not None:  # OmegaConf keys this cache by the tuple of a resolver's arguments
            OmegaConf.get_cache(config)["now"] = {(pattern,): answer for pattern, answer in recipe.now.items()}

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """The value that the task function returned is on disk, or the exception that it raised."""
        job = current_job()
        if job.id is None:
            return
        if job_return.status == JobStatus.COMPLETED:
            write_result(job.experiment, job.id, job.attempt, job_return.return_value)
        elif isinstance(job_return._return_value, BaseException):
            write_error(job.experiment, job.id, job.attempt, job_return._return_value)
