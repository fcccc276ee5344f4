"""Finding the experiments below a folder, and how they stand."""

import os
from collections.abc import Iterator, Sequence

from experiment_manager.errors import ExperimentManagerError
from experiment_manager.experiment import Experiment
from experiment_manager.model.records import Counts
from experiment_manager.progress import followed
from experiment_manager.scheduler.asking import ask_about
from experiment_manager.text import described, skipped


def find_experiments(path: str | os.PathLike[str]) -> list[Experiment]:
    """All experiments below a folder, by path: `experiment-manager list`. Links are followed, as to a scratch disk.

    One that is damaged is named on standard error and left out.
    """
    found, seen = [], set()
    for place, folders, files in os.walk(os.path.abspath(path), onerror=_say, followlinks=True):
        real = os.path.realpath(place)
        if real in seen or "manifest.sqlite" in files:
            folders.clear()
        else:
            folders[:] = sorted(name for name in folders if not name.startswith("."))
        if "manifest.sqlite" in files and real not in seen:
            try:
                found.append(Experiment.at(place))
            except ExperimentManagerError as error:
                skipped(str(error))
            except Exception as error:
                skipped(f"{place}: {described(error)}")
        seen.add(real)
    return found


def counted(experiments: Sequence[Experiment]) -> Iterator[tuple[Experiment, Counts]]:
    """How many jobs of each experiment are in which state, with SLURM asked once about all of them.

    One whose states cannot be read is named on standard error and left out.
    """
    answer = ask_about([experiment.folder for experiment in experiments])
    for experiment in followed(experiments, len(experiments), "counting"):
        try:
            yield experiment, experiment.counts(answer)
        except ExperimentManagerError as error:
            skipped(str(error))
        except Exception as error:  # what nobody has thought of is named, and the other experiments are told of
            skipped(f"{experiment.folder.path}: {described(error)}")


def _say(error: OSError) -> None:
    skipped(f"{error.filename} cannot be read: {error.strerror or error}")
