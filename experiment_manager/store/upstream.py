"""What the jobs have come to that a job comes after, as that job asks before it begins, whoever starts it: a scheduler
that waits for a task does not know that the job which it ran is to be healed, and a script can be submitted by hand."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from experiment_manager.errors import ExperimentManagerError, FolderError
from experiment_manager.model import stages
from experiment_manager.model.records import State
from experiment_manager.model.stages import Standing
from experiment_manager.store.files import first_of
from experiment_manager.store.layout import Folder
from experiment_manager.store.states import States, StateTable

SETTLES_S: Final = 90.0
"""How long a task looks for the end of its upstream, which its scheduler has waited for: a network file system can show
the names in a folder as they were a minute ago (`acdirmax` of NFS)."""

UNKNOWN: Final = (ExperimentManagerError, OSError, LookupError, TypeError, ValueError)
"""What is raised where the other experiment cannot be looked at, or somebody has edited what is said of it."""

LOOK_S: Final = 1.0
_FEW: Final = 20
"""So many jobs are asked for one by one; of more, the whole folder of states is listed."""


def located(folder: Folder, order: Mapping[str, Any]) -> Folder:
    """The other experiment, which is only read: where it was, or, where both were moved together, beside that of the
    job. Raises FolderError."""
    path = str(order["experiment"])
    places = (path, os.path.normpath(folder.join(str(order["relative"]))))
    others = [Folder(os.path.dirname(place), os.path.basename(place), is_only_read=True) for place in places]
    if (found := first_of(others, Folder.is_experiment)) is not None:
        return found
    raise FolderError(
        f"{path}, which jobs of {folder.path} come after, is no experiment any more; where it was moved, sweep again "
        "with hydra.launcher.after=FOLDER"
    )


def settled(
    folder: Folder, order: Mapping[str, Any], job_id: int, wait: Callable[[float], bool], patience_s: float
) -> Standing | None:
    """Whether a job may begin, for the one process that is to run it: what has not ended is waited for, for so long,
    by `wait`, which is false when somebody has told it to end: then None. Raises one of UNKNOWN."""
    ids, until = stages.upstream(order, job_id), time.monotonic() + patience_s
    try:
        other = located(folder, order)
    except FolderError:  # a server can be wrong for a moment
        if not wait(LOOK_S):
            return None
        other = located(folder, order)
    while True:
        found = stages.standing(_states_of(States(other), ids), other.path)
        if not found.waits_for or time.monotonic() >= until:
            return found
        if not wait(LOOK_S):
            return None


class Reasons:
    """Why jobs cannot begin, for whoever asks about many of one moment: each other experiment is read once."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._tables: dict[str, tuple[str, StateTable]] = {}

    def why_not(self, order: Mapping[str, Any], job_id: int) -> str | None:
        """Why a job cannot begin, by what its order says of its upstream; None: it may, now or later. Raises one of
        UNKNOWN."""
        key = str(order["experiment"])
        if key not in self._tables:
            other = located(self._folder, order)
            self._tables[key] = other.path, States(other).table()
        path, table = self._tables[key]
        return stages.standing({one: table.state(one) for one in stages.upstream(order, job_id)}, path).never


def _states_of(states: States, ids: Sequence[int]) -> dict[int, State]:
    if len(ids) <= _FEW:
        return {job_id: states.settled(job_id).state for job_id in ids}
    table = states.table()
    return {job_id: table.state(job_id) for job_id in ids}
