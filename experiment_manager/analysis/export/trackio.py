"""Runs of a Trackio project, in its database on this machine: PLACE is the folder that TRACKIO_DIR names.

All of a run is written in one transaction, with its mark in the configuration.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

from experiment_manager.analysis.export.runs import Mark, Notes, Point, Run
from experiment_manager.errors import ExperimentManagerError
from experiment_manager.store.files import exists
from experiment_manager.text import as_word

RESULT: Final = "result"
_PLACE: Final = "TRACKIO_DIR"
_MARK: Final = "experiment_manager.mark"
_OURS: Final = "experiment_manager"


@contextmanager
def opened(project: str, place: str | None) -> Iterator["Trackio"]:
    """The runs of a project of Trackio's."""
    if place is not None:
        os.environ[_PLACE] = os.path.abspath(place)
    from trackio import Api
    from trackio.sqlite_storage import SQLiteStorage
    from trackio.utils import TRACKIO_DIR

    there = os.path.abspath(TRACKIO_DIR)
    if place is not None and there != os.path.abspath(place):
        raise ExperimentManagerError(f"Trackio writes to {there} in this process already; export in another process")
    SQLiteStorage.validate_project_name(project)
    yield Trackio(Api(), SQLiteStorage, project, there)


class Trackio:
    """A project of Trackio's."""

    def __init__(self, api: Any, storage: Any, project: str, place: str) -> None:
        self._api, self._storage, self._project, self.place = api, storage, project, place
        self.hint = f"{_PLACE}={as_word(place)} trackio show --project {as_word(project)}"

    def marks(self, experiment: str) -> Mapping[str, Mark]:
        """The marks in the configurations of the runs."""
        marks = {}
        for run in self._runs():
            mark = (run.config or {}).get(_MARK)
            if run.name.startswith(f"{experiment}.") and isinstance(mark, str) and mark.count("-") == 1:
                marks[run.name] = Mark(*mark.split("-"))
        return marks

    def _runs(self) -> list[Any]:
        is_known = exists(str(self._storage.get_project_db_path(self._project)))
        return list(self._api.runs(self._project)) if is_known else []

    def write(self, run: Run, points: Sequence[Point], notes: Notes) -> None:
        """The run is there, in the place of what was there of it."""
        self._storage.delete_run(self._project, run.name, run.name)
        rows = [*points, Point(points[-1].step if points else 0, run.end, {})]
        values: list[dict[str, Any]] = [dict(point.values) for point in rows]
        values[-1] = {f"{RESULT}/{name}": value for name, value in run.summary.items() if value is not None}
        values[-1] = values[-1] or {"state": run.state}
        self._storage.bulk_log(
            self._project,
            run.name,
            values,
            [point.step for point in rows],
            [datetime.fromtimestamp(point.time, UTC).isoformat() for point in rows],
            config={
                **run.parameters,
                **{f"{_OURS}.{name}": text for name, text in run.about.items()},
                _MARK: "-".join(run.mark),
            },
            run_id=run.name,
        )
