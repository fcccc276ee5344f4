"""`hydra/sweeper=experiment` and `experiment_optuna`: a sweep, or a search, becomes an experiment."""

import os
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, read_write

from experiment_manager.hydra import schema

schema.register_sweeper()


class ExperimentSweeper(Sweeper):
    """Plans the sweep, and hands the jobs that pass to the launcher."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = {key: value for key, value in options.items() if key != "_recursive_"}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        from experiment_manager.hydra.sweeper import RecordedTask

        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config
        written: Any = OmegaConf.to_container(config.hydra.sweep, resolve=False)
        self.directories = {key: written[key] for key in ("dir", "subdir")}
        # Other launchers put files of their own (.submitit) there, and read it as soon as they are made.
        folder = os.path.abspath(os.path.join(self.options["experiment_path"], self.options["experiment_name"]))
        with read_write(config.hydra.sweep):
            config.hydra.sweep.dir = os.path.join(folder, "launches")
        self.recorded = RecordedTask(task_function)
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=self.recorded, config=config
        )

    def kind(self) -> Any:
        """What is made of the command."""
        from experiment_manager.hydra.sweeper import Sweep

        return Sweep

    def sweep(self, arguments: list[str]) -> Any:
        assert self.hydra_context is not None
        assert self.config is not None
        loader = self.hydra_context.config_loader
        sweep = self.kind()(loader, self.config, self.recorded, self.launcher, self.directories)
        try:
            return sweep.run(self.options, arguments)
        finally:  # callbacks look there for what the jobs have left
            with read_write(self.config.hydra.sweep):
                self.config.hydra.sweep.dir = os.path.join(os.path.dirname(self.config.hydra.sweep.dir), "jobs")


class ExperimentOptunaSweeper(ExperimentSweeper):
    """Begins a search, or goes on with it: workers ask Optuna for one trial after the other."""

    def kind(self) -> Any:
        from experiment_manager.hydra.search import SearchSweep

        return SearchSweep
