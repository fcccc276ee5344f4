"""Experiment Manager: define, filter, run and follow many experiments with Hydra and SLURM.

Names are imported when they are first asked for, because every task of a sweep, and every Hydra program
on the machine, imports this package.
"""

from __future__ import annotations

TYPE_CHECKING = False  # a type checker knows better; `typing` would take 2 ms of each start

if TYPE_CHECKING:
    from typing import Any

    from experiment_manager.analysis.cleaning import Cleaning
    from experiment_manager.analysis.comparison import Comparison, Method, Pair
    from experiment_manager.analysis.doctor import Finding
    from experiment_manager.analysis.efficiency import Efficiency, Hours, Usage
    from experiment_manager.analysis.export.exporting import Exported
    from experiment_manager.analysis.inference import Interval
    from experiment_manager.analysis.status import SearchStatus, Status, Trouble
    from experiment_manager.errors import ExperimentManagerError
    from experiment_manager.execution.current_job import CurrentJob, UpstreamJob, current_job
    from experiment_manager.execution.pool import JobEnd
    from experiment_manager.execution.resubmit import Resubmission, Resubmitted
    from experiment_manager.execution.work import Worked
    from experiment_manager.experiment import Experiment, find_experiments
    from experiment_manager.hydra.from_python import Launched
    from experiment_manager.model.estimate import Estimate
    from experiment_manager.model.filters import Dropped, Selection
    from experiment_manager.model.records import Attempt, Counts, Job, Launch, State
    from experiment_manager.model.rows import (
        AttemptDetails,
        GroupRow,
        JobDetails,
        JobDifference,
        JobHead,
        JobRow,
        JobSide,
        LiveRow,
        ResultRow,
        Rows,
    )
    from experiment_manager.scheduler.healing import Healed, Healing
    from experiment_manager.scheduler.holding import Held
    from experiment_manager.scheduler.slurm.configuration import SLURM
    from experiment_manager.scheduler.submission import Submitted
    from experiment_manager.store.layout import Folder
    from experiment_manager.store.states import StateTable, Waiting
    from experiment_manager.store.tags import Tags

_HOME = {
    "Attempt": "model.records",
    "AttemptDetails": "model.rows",
    "Cleaning": "analysis.cleaning",
    "Comparison": "analysis.comparison",
    "Counts": "model.records",
    "CurrentJob": "execution.current_job",
    "Dropped": "model.filters",
    "Efficiency": "analysis.efficiency",
    "Estimate": "model.estimate",
    "Experiment": "experiment",
    "ExperimentManagerError": "errors",
    "Exported": "analysis.export.exporting",
    "Finding": "analysis.doctor",
    "Folder": "store.layout",
    "GroupRow": "model.rows",
    "Healed": "scheduler.healing",
    "Healing": "scheduler.healing",
    "Held": "scheduler.holding",
    "Hours": "analysis.efficiency",
    "Interval": "analysis.inference",
    "Job": "model.records",
    "JobDetails": "model.rows",
    "JobDifference": "model.rows",
    "JobEnd": "execution.pool",
    "JobHead": "model.rows",
    "JobRow": "model.rows",
    "JobSide": "model.rows",
    "Launch": "model.records",
    "Launched": "hydra.from_python",
    "LiveRow": "model.rows",
    "Method": "analysis.comparison",
    "Pair": "analysis.comparison",
    "Resubmission": "execution.resubmit",
    "Resubmitted": "execution.resubmit",
    "ResultRow": "model.rows",
    "Rows": "model.rows",
    "SLURM": "scheduler.slurm.configuration",
    "SearchStatus": "analysis.status",
    "Selection": "model.filters",
    "State": "model.records",
    "StateTable": "store.states",
    "Status": "analysis.status",
    "Submitted": "scheduler.submission",
    "Tags": "store.tags",
    "Trouble": "analysis.status",
    "UpstreamJob": "execution.current_job",
    "Usage": "analysis.efficiency",
    "Waiting": "store.states",
    "Worked": "execution.work",
    "current_job": "execution.current_job",
    "find_experiments": "experiment",
}

__all__ = [
    "SLURM",
    "Attempt",
    "AttemptDetails",
    "Cleaning",
    "Comparison",
    "Counts",
    "CurrentJob",
    "Dropped",
    "Efficiency",
    "Estimate",
    "Experiment",
    "ExperimentManagerError",
    "Exported",
    "Finding",
    "Folder",
    "GroupRow",
    "Healed",
    "Healing",
    "Held",
    "Hours",
    "Interval",
    "Job",
    "JobDetails",
    "JobDifference",
    "JobEnd",
    "JobHead",
    "JobRow",
    "JobSide",
    "Launch",
    "Launched",
    "LiveRow",
    "Method",
    "Pair",
    "Resubmission",
    "Resubmitted",
    "ResultRow",
    "Rows",
    "SearchStatus",
    "Selection",
    "State",
    "StateTable",
    "Status",
    "Submitted",
    "Tags",
    "Trouble",
    "UpstreamJob",
    "Usage",
    "Waiting",
    "Worked",
    "current_job",
    "find_experiments",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    from importlib import import_module

    return getattr(import_module(f"experiment_manager.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
