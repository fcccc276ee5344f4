"""Runs of an MLflow experiment, on a server or in a database: PROJECT is the experiment, PLACE its tracking URI.

MLflow chooses the ids of runs, so ours is a tag, and the mark is the last tag that a run gets.
"""

import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from experiment_manager.analysis.export.runs import Mark, Notes, Point, Run
from experiment_manager.errors import ExperimentManagerError
from experiment_manager.model import codec
from experiment_manager.text import as_word, one_line, value_text

RESULT: Final = "result"
_RUN, _ORIGIN, _DIGEST = (f"experiment_manager.{name}" for name in ("run", "origin", "digest"))
_PAGE: Final = 1000
_MOST_METRICS, _MOST_TEXTS = 1000, 100  # of a call
_LONGEST_NAME, _LONGEST_PARAMETER, _LONGEST_TAG = 250, 6000, 5000
_LARGEST: Final = 1.7976931348623157e308
_FORBIDDEN: Final = re.compile(r"[^\w\-. :/]", re.ASCII)
_QUIET: Final = ("alembic", "mlflow")


@contextmanager
def opened(project: str, place: str | None) -> Iterator["MLflow"]:
    """The runs of an MLflow experiment, which is made where there is none."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # an export goes where it is sent, and nowhere else
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # which has what we print
    from mlflow import MlflowClient, get_tracking_uri

    for name in _QUIET:  # which tell each step by which they make a database
        logging.getLogger(name).setLevel(logging.WARNING)
    address = get_tracking_uri() if place is None else _address(place)
    yield MLflow(MlflowClient(tracking_uri=address), project, address)


def _address(place: str) -> str:
    """The tracking URI; a path is that of a database."""
    return place if re.match(r"[\w+-]+:", place) or place == "databricks" else f"sqlite:///{os.path.abspath(place)}"


class MLflow:
    """One experiment of MLflow."""

    def __init__(self, client: Any, project: str, address: str) -> None:
        self._client, self.place = client, address
        is_server = address.startswith(("http:", "https:", "databricks"))
        self.hint = f"open {address}" if is_server else f"mlflow ui --backend-store-uri {as_word(address)}"
        found = client.get_experiment_by_name(project)
        if found is not None and found.lifecycle_stage != "active":
            raise ExperimentManagerError(
                f"{project} was deleted in {address}; restore it with `mlflow experiments restore -x "
                f"{found.experiment_id}`, or export under another name with --project"
            )
        self._experiment = client.create_experiment(project) if found is None else found.experiment_id
        self._ids: dict[str, list[str]] = {}  # of the runs that bear a name of ours, whole or not

    def marks(self, experiment: str) -> Mapping[str, Mark]:
        """The marks of the runs that are whole, as their tags have them."""
        marks, token = {}, None
        while True:
            page = self._client.search_runs([self._experiment], max_results=_PAGE, page_token=token)
            for run in page:
                tags = run.data.tags
                if tags.get(_RUN, "").startswith(f"{experiment}."):
                    self._ids.setdefault(tags[_RUN], []).append(run.info.run_id)
                    if _DIGEST in tags:
                        marks[tags[_RUN]] = Mark(tags.get(_ORIGIN, ""), tags[_DIGEST])
            token = page.token
            if not token:
                return {name: mark for name, mark in marks.items() if len(self._ids[name]) == 1}

    def write(self, run: Run, points: Sequence[Point], notes: Notes) -> None:
        """The run is there; what there was of it has gone to where MLflow keeps what was deleted."""
        from mlflow.entities import Metric, Param, RunTag

        for before in self._ids.pop(run.name, ()):
            self._client.delete_run(before)
        tags = {_RUN: run.name, _ORIGIN: run.mark.origin, "mlflow.source.name": run.experiment}
        made = self._client.create_run(
            self._experiment, start_time=_milliseconds(run.start), tags=tags, run_name=run.name
        ).info.run_id
        numbers, texts = _summary(run)
        taken = _Taken(run.job, notes)
        last = points[-1].step if points else 0
        logged = [(name, value, point.time, point.step) for point in points for name, value in point.values.items()]
        logged += [(name, value, run.end, last) for name, value in numbers.items()]
        metrics = [
            Metric(_nearest(name), taken.number(name, value), _milliseconds(time), step)
            for name, value, time, step in logged
            if taken.is_first(name)
        ]
        parameters = {
            name: value if isinstance(value, str) else value_text(value) for name, value in run.parameters.items()
        }
        about = {**{f"experiment_manager.{name}": text for name, text in run.about.items()}, **texts}
        for part in _parts(metrics, _MOST_METRICS):
            self._client.log_batch(made, metrics=part)
        for part in _parts(taken.texts(Param, parameters, _LONGEST_PARAMETER), _MOST_TEXTS):
            self._client.log_batch(made, params=part)
        for part in _parts(taken.texts(RunTag, about, _LONGEST_TAG), _MOST_TEXTS):
            self._client.log_batch(made, tags=part)
        self._client.set_terminated(made, "FINISHED" if run.is_done else "FAILED", _milliseconds(run.end))
        self._client.set_tag(made, _DIGEST, run.mark.digest)


class _Taken:
    """What MLflow takes: letters of ASCII and few others, each name once, and texts that are not too long."""

    def __init__(self, job: int, notes: Notes) -> None:
        self._job, self._notes = job, notes
        self._metrics: dict[str, str] = {}  # what the first one of each name is called here

    def is_first(self, name: str) -> bool:
        """Whether the metric is not called in MLflow as another one is, which would be mixed with it."""
        near = _nearest(name)
        if self._metrics.setdefault(near, name) == name:
            return True
        self._notes.note(f"metric {one_line(name)} is left out: it is called like {near} in MLflow", self._job)
        return False

    def number(self, name: str, value: float) -> float:
        """The value; the largest number that there is for one that is infinite."""
        if math.isinf(value):
            self._notes.note(
                f"metric {one_line(name)} has infinite values, of which MLflow keeps the largest number", self._job
            )
            return math.copysign(_LARGEST, value)
        return value

    def texts(self, kind: Callable[[str, str], Any], named: Mapping[str, str], longest: int) -> list[Any]:
        """The texts as parameters or tags; what MLflow would refuse is left out, and noted."""
        found: dict[str, Any] = {}
        for name, text in named.items():
            near = _nearest(name)
            if near in found or len(text) > longest:
                why = (
                    f"is longer than {longest} characters"
                    if len(text) > longest
                    else f"is called like {near} in MLflow"
                )
                self._notes.note(f"{one_line(name)} is left out: it {why}", self._job)
            else:
                found[near] = kind(near, text)
        return list(found.values())


def _nearest(name: str) -> str:
    """A name of letters that MLflow takes, and no path that leads elsewhere.

    >>> _nearest("größe@eval"), _nearest("a//b/../c"), _nearest("")
    ('gr__e_eval', 'a/b/_/c', '_')
    """
    parts = [part.replace("..", "_") if part.strip(".") == "" else part for part in name.split("/") if part]
    return _FORBIDDEN.sub("_", "/".join(parts))[:_LONGEST_NAME].rstrip("/") or "_"


def _summary(run: Run) -> tuple[dict[str, float], dict[str, str]]:
    """The fields of a result that are numbers, as metrics, and the others, as tags."""
    numbers, texts = {}, {}
    for name, value in run.summary.items():
        if codec.is_number(value) or isinstance(value, bool):
            numbers[f"{RESULT}.{name}"] = codec.as_float(value)
        else:
            texts[f"{RESULT}.{name}"] = value if isinstance(value, str) else value_text(value)
    return numbers, texts


def _parts(items: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + most] for start in range(0, len(items), most))


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
