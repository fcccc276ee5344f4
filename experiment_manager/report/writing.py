"""Writes the report of an experiment: the one function behind `Experiment.report` and `experiment-manager report`."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiment_manager.disk.files import appearing
from experiment_manager.disk.folder import writing

if TYPE_CHECKING:
    from experiment_manager.disk.folder import Folder
    from experiment_manager.disk.states import Snapshot
    from experiment_manager.records import Job


def write_report(
    folder: "Folder",
    jobs: "Sequence[Job]",
    snapshot: "Snapshot",
    path: str | os.PathLike[str] | None,
    *,
    average_over: Sequence[str] | None,
    group_by: Sequence[str] | None,
    metric: str | None,
    goal: str,
    only: str = "",
) -> str:
    """The report is in a file; returns its absolute path. `only` says of which jobs, where they are not all.

    See `Experiment.report`.
    """
    from experiment_manager.disk.leftovers import clear_leftovers_beside
    from experiment_manager.report.data import Choice, collect  # whoever runs a job imports this room, and no report
    from experiment_manager.report.page import render, require_extra

    require_extra()
    target = os.path.abspath(folder.join("report.html") if path is None else os.fspath(path))
    choice = Choice(average_over, group_by, metric, goal, only)
    html = render(collect(folder, jobs, snapshot, choice))
    clear_leftovers_beside(target)
    with writing(target), appearing(target) as temporary, open(temporary, "x", encoding="utf-8") as file:
        file.write(html)
    return target
