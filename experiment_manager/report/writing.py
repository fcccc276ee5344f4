"""Writes the report of an experiment: the one function behind `Experiment.report` and `experiment-manager report`."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiment_manager.disk.files import appearing
from experiment_manager.disk.folder import writing

if TYPE_CHECKING:
    from experiment_manager.experiment import Experiment


def report(
    self: "Experiment",
    path: str | os.PathLike[str] | None = None,
    *,
    average_over: Sequence[str] | None = None,
    group_by: Sequence[str] | None = None,
    metric: str | None = None,
    goal: str = "max",
) -> str:
    """One HTML file tells everything about the experiment; returns its path: `experiment-manager report`.

    It is `report.html` in the experiment's folder, unless `path` says otherwise. `average_over` are the variables that
    only repeat a job (by default those called seed), and `group_by` those that make a group (by default all others).
    `metric` decides which group is best, as its `goal`, max or min, says: a field of the results or a metric, by
    default the first number there is. Raises ExperimentManagerError for unknown names, and without the extra `report`.
    """
    from experiment_manager.report.data import Choice, collect  # whoever runs a job imports this room, and no report
    from experiment_manager.report.page import render, require_extra

    require_extra()
    target = os.path.abspath(self.folder.join("report.html") if path is None else os.fspath(path))
    choice = Choice(average_over, group_by, metric, goal)
    html = render(collect(self.folder, list(self.iter_jobs()), self.snapshot(), choice))
    with writing(target), appearing(target) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(html)
    return target
