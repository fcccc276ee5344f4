"""Experiment Manager: define, filter, run and follow many experiments with Hydra and SLURM.

Names are imported when they are first asked for, because every task of a sweep, and every Hydra program
on the machine, imports this package.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiment_manager.errors import ExperimentManagerError
    from experiment_manager.execution.current_job import CurrentJob, current_job
    from experiment_manager.experiment import Experiment
    from experiment_manager.find import find_experiments
    from experiment_manager.model.records import State
    from experiment_manager.scheduler.slurm.configuration import SLURM

_HOME = {
    "CurrentJob": "execution.current_job",
    "Experiment": "experiment",
    "ExperimentManagerError": "errors",
    "SLURM": "scheduler.slurm.configuration",
    "State": "model.records",
    "current_job": "execution.current_job",
    "find_experiments": "find",
}

__all__ = ["SLURM", "CurrentJob", "Experiment", "ExperimentManagerError", "State", "current_job", "find_experiments"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    from importlib import import_module

    return getattr(import_module(f"experiment_manager.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
