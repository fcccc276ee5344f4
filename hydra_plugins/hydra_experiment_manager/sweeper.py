"""`hydra/sweeper=experiment`: a sweep becomes an experiment."""

from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from experiment_manager import schema

schema.register()


class ExperimentSweeper(Sweeper):
    """Plans the sweep, and hands the jobs that pass to the launcher."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        from experiment_manager.hydra_sweep import recorded

        self.hydra_context, self.config = hydra_context, config
        self.task_function = task_function
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=recorded(task_function), config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from experiment_manager.hydra_sweep import sweep

        return sweep(self, arguments)
