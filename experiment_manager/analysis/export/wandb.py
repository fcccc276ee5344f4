"""Runs of Weights & Biases, offline: PLACE/wandb/offline-run-..., which `wandb sync` sends to a server.

A run is written aside and appears whole, with its mark as a file. Its id is experiment, job and attempt, so that a
server that gets it twice has it once.
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from experiment_manager.analysis.export.runs import Mark, Notes, Point, Run
from experiment_manager.errors import ExperimentManagerError
from experiment_manager.model.codec import digest_text
from experiment_manager.store.documents import TEXT, read_optional
from experiment_manager.store.files import clear_leftovers_in, temporary_name, write_json
from experiment_manager.text import as_word

_FOLDER: Final = "wandb"
_MARK: Final = "experiment-manager.json"
_RUN: Final = re.compile(r"offline-run-[0-9]{8}_[0-9]{6}-.+")
_LONGEST_ID, _LONGEST_PROJECT = 64, 128
_NO_PROJECT: Final = re.compile(r"[/\\#?%:]")
_SHAPE: Final = dict.fromkeys(("run", "project", "origin", "digest"), TEXT)


@contextmanager
def opened(project: str, place: str | None) -> Iterator["WeightsAndBiases"]:
    """The offline runs of a project."""
    if _NO_PROJECT.search(project) or len(project) > _LONGEST_PROJECT:
        raise ExperimentManagerError(
            f"{project!r} cannot be a project of W&B: it is longer than {_LONGEST_PROJECT} characters, or has one of "
            "/ \\ # ? % :; name another with --project, in Python project="
        )
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # an export goes where it is sent, and nowhere else
    import wandb

    yield WeightsAndBiases(wandb, project, os.path.abspath(place or os.curdir))


class WeightsAndBiases:
    """A folder of offline runs, as `wandb` itself would have left it."""

    def __init__(self, wandb: Any, project: str, place: str) -> None:
        self._wandb, self._project = wandb, project
        self.place = os.path.join(place, _FOLDER)
        self._before = self._runs()
        self.hint = f"wandb sync {as_word(self.place)}/offline-run-*"

    def marks(self, experiment: str) -> Mapping[str, Mark]:
        """The marks of the runs that are there."""
        return {name: mark for name, (_, mark) in self._before.items()}

    def _runs(self) -> dict[str, tuple[str, Mark]]:
        """The runs of the project that were exported, by their names: the folder and the mark of each."""
        try:
            names = [name for name in os.listdir(self.place) if _RUN.fullmatch(name)]
        except FileNotFoundError:
            return {}
        runs = {}
        for folder in (os.path.join(self.place, name) for name in sorted(names)):
            found = read_optional(os.path.join(folder, _MARK), _SHAPE)
            if found.get("project") == self._project and "run" in found:
                runs[found["run"]] = (folder, Mark(str(found.get("origin")), str(found.get("digest"))))
        return runs

    def write(self, run: Run, points: Sequence[Point], notes: Notes) -> None:
        """The run has a folder of its own, in the place of the one that it had."""
        os.makedirs(self.place, exist_ok=True)
        clear_leftovers_in(self.place)
        aside = temporary_name(os.path.join(self.place, "run"))
        os.mkdir(aside)
        try:
            self._log(run, points, aside)
            (made,) = (entry for entry in os.scandir(os.path.join(aside, _FOLDER)) if _RUN.fullmatch(entry.name))
            about = {"run": run.name, "project": self._project, **run.mark._asdict()}
            write_json(os.path.join(made.path, _MARK), about)
            if run.name in self._before:
                shutil.rmtree(self._before.pop(run.name)[0])
            os.rename(made.path, os.path.join(self.place, made.name))
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _log(self, run: Run, points: Sequence[Point], place: str) -> None:
        settings = self._wandb.Settings(
            console="off", silent=True, disable_git=True, disable_code=True, x_disable_stats=True, x_disable_meta=True,
            x_save_requirements=False,
        )  # fmt: skip
        logged = self._wandb.init(
            mode="offline", dir=place, project=self._project, id=_id(run), name=run.name, group=run.experiment,
            config={**run.parameters, "experiment_manager": run.about}, tags=[run.state],
            notes=run.about.get("reason"), settings=settings, reinit="create_new",
        )  # fmt: skip
        for point in points:
            logged.log({**point.values, "_timestamp": point.time}, step=point.step)
        logged.summary.update({name: value for name, value in run.summary.items() if value is not None})
        logged.finish(exit_code=0 if run.is_done else 1)


def _id(run: Run) -> str:
    """The id of a run, of the letters that an id may have; it is another one for another experiment, job or attempt.

    Where the name of the experiment has other letters, or is long, a digest of it stands for what is left out.
    """
    name = re.sub(r"[^\w.-]", "_", run.name, flags=re.ASCII)
    if name == run.name and len(name) <= _LONGEST_ID:
        return name
    ending = f"{digest_text(run.experiment)[:8]}.{run.job}.{run.attempt}"
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', run.experiment)[: _LONGEST_ID - len(ending) - 1]}-{ending}"
