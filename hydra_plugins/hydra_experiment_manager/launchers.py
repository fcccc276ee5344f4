"""`hydra/launcher=local_pool`: jobs run here, several at a time."""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

import experiment_manager.schema  # noqa: F401 - registers our options with Hydra


class LocalPoolLauncher(Launcher):
    """Runs each job in a process of its own, under a supervisor that records what becomes of it."""

    def __init__(self, n_jobs: int, experiment_name: str, experiment_path: str) -> None:
        super().__init__()
        self.n_jobs = n_jobs
        self.experiment_name, self.experiment_path = experiment_name, experiment_path
        self.batches: Any = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def check(self) -> None:
        """Raises ExperimentManagerError for options that cannot be meant."""
        from experiment_manager.pool import check_n_jobs

        check_n_jobs(self.n_jobs)

    def launch_plan(self, plan: Any, ids: Sequence[int]) -> None:
        """Our own sweeper's way in: the jobs are in the manifest already."""
        from experiment_manager.hydra_sweep import run_plan

        run_plan(plan, ids, n_jobs=self.n_jobs)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Any other sweeper's way in."""
        from experiment_manager.folder import Folder
        from experiment_manager.hydra_sweep import Batches, told_to_the_user

        if self.batches is None:
            with told_to_the_user():
                folder = Folder(self.experiment_path, self.experiment_name)
            self.batches = Batches(self.hydra_context.config_loader, self.config, self.task_function, folder)
        returns: Sequence[JobReturn] = self.batches.launch(job_overrides, n_jobs=self.n_jobs)
        return returns
