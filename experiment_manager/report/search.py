"""A search in a report: how it stands, and what Optuna draws of its study."""

import json
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_manager.analysis.status import SearchStatus, search_status
from experiment_manager.errors import OptionsError
from experiment_manager.execution.study import study_of
from experiment_manager.model.ids import which
from experiment_manager.store.layout import Folder
from experiment_manager.store.states import StateTable
from experiment_manager.text import skipped

if TYPE_CHECKING:
    import optuna


class Figure(NamedTuple):
    """A figure of Plotly: its data and its layout, as JSON has them, without colours and title."""

    title: str
    data: list[Any]
    layout: dict[str, Any]


class SearchFigures(NamedTuple):
    """What a report tells of a search."""

    status: SearchStatus
    figures: tuple[Figure, ...]

    @property
    def best_jobs(self) -> str:
        """Of the best trial: `job 3`, or `jobs 4-5`."""
        first = self.status.best_job
        return "" if first is None else which(range(first, first + self.status.jobs_per_trial))


def search_figures(folder: Folder, table: StateTable) -> SearchFigures | None:
    """The search of an experiment; None where it has none. Without Optuna it has no figures, which is said."""
    found = search_status(folder, table)
    if found is None:
        return None
    try:
        return SearchFigures(found, _drawn(study_of(folder, table)))
    except OptionsError as error:
        skipped(f"the figures of the search are left out: {error}")
        return SearchFigures(found, ())


def _drawn(study: "optuna.Study") -> tuple[Figure, ...]:
    from optuna import visualization

    wanted: list[tuple[str, Callable[[], Any]]]
    if len(study.directions) > 1:
        wanted = [("Pareto front", lambda: visualization.plot_pareto_front(study))]
    else:
        wanted = [
            ("Best so far", lambda: visualization.plot_optimization_history(study)),
            ("Values together", lambda: visualization.plot_parallel_coordinate(study)),
            ("Importance", lambda: _importances(study)),
        ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figures = [_figure(title, draw) for title, draw in wanted]
    return tuple(figure for figure in figures if figure is not None)


def _importances(study: "optuna.Study") -> Any:
    from optuna.importance import PedAnovaImportanceEvaluator
    from optuna.visualization import plot_param_importances

    return plot_param_importances(study, evaluator=PedAnovaImportanceEvaluator())


def _figure(title: str, draw: Callable[[], Any]) -> Figure | None:
    """None where too little is known to draw it."""
    try:
        found = json.loads(draw().to_json())
    except (RuntimeError, ValueError, ZeroDivisionError):
        return None
    layout = {name: value for name, value in found["layout"].items() if name not in ("template", "title")}
    return Figure(title, found["data"], layout) if found["data"] else None
