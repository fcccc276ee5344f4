"""`hydra/launcher=local_pool`, `slurm_script` and `slurm_submitit`."""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from experiment_manager.hydra import schema

schema.register_launchers()


class LocalPoolLauncher(Launcher):
    """Runs each job in a process of its own, under a supervisor that records what becomes of it."""

    def __init__(
        self,
        n_jobs: int,
        start_method: str,
        gpus_per_job: float | None,
        job_timeout_min: float | None,
        snapshot: bool,
        experiment_name: str,
        experiment_path: str,
        after: Any = None,
        **others: Any,
    ) -> None:
        super().__init__()
        self.others = others
        self.n_jobs, self.start_method, self.gpus_per_job, self.snapshot = n_jobs, start_method, gpus_per_job, snapshot
        self.job_timeout_min, self.after = job_timeout_min, after
        self.experiment_name, self.experiment_path = experiment_name, experiment_path
        self.batches: Any = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def prepared(self) -> Any:
        """The launcher as our own sweeper uses it. Raises ExperimentManagerError for invalid options."""
        from experiment_manager.hydra.launchers import Here

        known = [name for name in schema.LocalPoolConf.__dataclass_fields__ if not name.startswith("_")]
        schema.require_known(self.others, known, prefix="hydra.launcher.", choice="hydra/launcher=local_pool")
        return Here(
            *(self.n_jobs, self.start_method, self.gpus_per_job),
            job_timeout_min=self.job_timeout_min,
            after=self.after,
            copies_code=self.snapshot,
        )

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Any other sweeper's way in."""
        from experiment_manager.hydra.launchers import launch_batch

        return launch_batch(self, job_overrides, initial_job_idx)


class SlurmScriptLauncher(Launcher):
    """Writes the array scripts, and submits nothing."""

    kind = "slurm_script"
    scheduler = "slurm"
    submits = False

    def __init__(self, experiment_name: str, experiment_path: str, **options: Any) -> None:
        super().__init__()
        self.options = options
        self.experiment_name, self.experiment_path = experiment_name, experiment_path
        self.batches: Any = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from experiment_manager.hydra.launchers import prepared_to_wait
        from experiment_manager.hydra.sweeper import RecordedTask

        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config
        if not isinstance(task_function, RecordedTask):  # another sweeper than ours: it may write before it launches
            prepared_to_wait(self)

    def prepared(self) -> Any:
        """The launcher as our own sweeper uses it. Raises ExperimentManagerError for invalid options."""
        from experiment_manager.hydra.launchers import ByScheduler

        return ByScheduler(self.options, scheduler=self.scheduler, submits=self.submits)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Any other sweeper's way in."""
        from experiment_manager.hydra.launchers import launch_batch

        return launch_batch(self, job_overrides, initial_job_idx)


class SlurmSubmititLauncher(SlurmScriptLauncher):
    """Submits through submitit, and returns at once or, with `wait`, when all jobs have ended."""

    kind = "slurm_submitit"
    submits = True
