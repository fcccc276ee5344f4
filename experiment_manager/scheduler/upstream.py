"""Jobs that come after jobs of another experiment, their upstream: which these are, what they have come to, and what of
that a scheduler can wait for.

launches/0001/launch.json    "upstream": {"experiment", "offsets", "groups"}    see `model.stages`

Who comes after whom is decided once, when a launch is planned, and kept in it: the other experiment may grow meanwhile.
Whether a job may begin, its upstream's states tell, and each job looks for itself before it begins (`store.upstream`).
That a scheduler waits keeps jobs from looking too early, and nodes from waiting for others.
"""

import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from experiment_manager.errors import FolderError, JobRefused
from experiment_manager.model import stages
from experiment_manager.model.ids import format_ids
from experiment_manager.model.records import UNFINISHED, Launch, State, task_name
from experiment_manager.model.stages import After, Standing
from experiment_manager.scheduler.protocol import Dependency, Scheduler
from experiment_manager.scheduler.reconcile import ActiveTask, active_tasks, reconciled
from experiment_manager.store.holds import read_removed
from experiment_manager.store.launches import Orders, drivers
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.pass_filter import has_selection, read_selection
from experiment_manager.store.states import States, StateTable
from experiment_manager.text import as_word, noun

_LOOK_S: Final = 1.0
_ASK_FIRST_S: Final = 2.0
_ASK_AT_MOST_EVERY_S: Final = 30.0
_MOST_TASKS: Final = 50
"""So many tasks are named to a scheduler; of more, their whole arrays."""


def pairs(folder: Folder, after: After, own: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """What the record of a launch keeps of the upstream of its jobs, given with their variables. What the filter of the
    other experiment drops is nobody's upstream, unless it runs or has completed. Raises JobRefused, FolderError."""
    other = Folder.at(after.experiment)
    if os.path.realpath(other.path) == os.path.realpath(folder.path):
        raise JobRefused(f"hydra.launcher.after={after.experiment} is this experiment itself; name the one before it")
    try:
        other.require()
    except FolderError as error:
        raise FolderError(f"hydra.launcher.after: {error}") from error
    table, removed = States(other).table(), read_removed(other)
    passing = frozenset(read_selection(other) if has_selection(other) else ())
    done = {job_id for job_id in table.attempts if table.state(job_id) in (State.RUNNING, State.COMPLETED)}
    with Manifest(other) as manifest:
        if manifest.search is not None:
            raise JobRefused(f"{after.experiment} is a search, whose jobs nobody knows yet; name a sweep")
        theirs = {
            int(job.id): job.variables
            for job in manifest.jobs()
            if job.id not in removed and (job.id in passing or job.id in done)
        }
    return stages.kept(other.path, stages.paired(own, theirs, after))


class Upstreams:
    """What the jobs have come to that others come after, looked at again by and by; for whoever begins many jobs."""

    def __init__(self) -> None:
        self._looks: dict[str, _Look] = {}

    def standing(self, order: Mapping[str, Any], job_id: int) -> Standing:
        """Whether a job may begin, by what its order says of its upstream; the answer may be a moment old. One that
        waits for what nobody is going to run cannot. That it cannot is said only where schedulers were asked: they
        start some jobs again. Raises FolderError, OSError."""
        ids, path = stages.upstream(order, job_id), str(order["experiment"])
        look = self._looks.setdefault(path, _Look(Folder.at(path)))
        table, is_truth = look.table()
        states = {one: table.state(one) for one in ids}
        found = stages.standing(states, path)
        if not is_truth:
            return found if found.never is None else Standing(waits_for=ids)
        idle = [one for one in found.waits_for if states[one] in (State.PENDING, State.FAKE)]
        if idle and not look.is_driven():
            return Standing(never=stages.not_completed(idle, path))
        return found


class _Look:
    """The states of one experiment; its schedulers are asked seldom."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._table: StateTable | None = None
        self._is_truth = False
        self._look_at = self._ask_at = 0.0
        self._pause = _ASK_FIRST_S

    def table(self) -> tuple[StateTable, bool]:
        """And whether schedulers were asked for it."""
        now = time.monotonic()
        if self._table is None or now >= self._look_at:
            self._folder.require()
            self._is_truth = now >= self._ask_at
            self._table = reconciled(self._folder) if self._is_truth else States(self._folder).table()
            self._look_at = time.monotonic() + _LOOK_S
            if self._is_truth:
                self._ask_at = time.monotonic() + self._pause
                if self._table.queued or self._table.confirmed:  # otherwise no scheduler has been asked
                    self._pause = min(1.5 * self._pause, _ASK_AT_MOST_EVERY_S)
        return self._table, self._is_truth

    def is_driven(self) -> bool:
        """Whether some process may still begin jobs of it, which wait for no scheduler."""
        return bool(drivers(self._folder))


class OwnTask(NamedTuple):
    """A task that is to be submitted, and its jobs."""

    array_index: int
    jobs: Sequence[int]


def dependency(folder: Folder, launch: Launch, scheduler: Scheduler, tasks: Sequence[OwnTask]) -> Dependency:
    """What a scheduler is to wait for before these tasks of a launch begin. Raises JobRefused where it has not, and so
    cannot wait for, what their jobs come after; SchedulerError."""
    kept = launch.record.get("upstream")
    if kept is None:
        return Dependency()
    other = Folder.at(str(kept["experiment"]))
    other.require()
    orders = Orders(folder)
    upstream = {}
    for _, jobs in tasks:
        for job_id in jobs:
            order = orders.of(launch.number, job_id)
            if order is not None and order.upstream is not None:
                upstream[job_id] = stages.upstream(order.upstream, job_id)
    table = reconciled(other)
    left = {one for ids in upstream.values() for one in ids if table.state(one) in UNFINISHED}
    if not left:
        return Dependency()
    there: dict[int, list[ActiveTask]] = defaultdict(list)
    for task, jobs in active_tasks(other, table, is_needed=False).items():
        if task.scheduler == scheduler.name:
            for job_id in left.intersection(jobs):
                there[job_id].append(task)
    if unseen := sorted(left - there.keys()):
        raise JobRefused(
            f"launch {launch.number} of {folder.path} is not submitted: {scheduler.label} has no task of "
            f"{noun(len(unseen))} {format_ids(unseen)} of {as_word(other.path)}, which its jobs come after; submit "
            f"{'it' if len(unseen) == 1 else 'them'} first, then `experiment-manager submit {as_word(folder.path)}`"
        )
    if scheduler.matches_tasks and (array := _matching(tasks, upstream, there)) is not None:
        return Dependency(matching=(array,))
    waited = sorted({(one.array, one.array_index) for found in there.values() for one in found})
    names = [task_name(*one) for one in waited]
    return Dependency(ended=tuple(names if len(names) <= _MOST_TASKS else dict.fromkeys(array for array, _ in waited)))


def _matching(
    tasks: Sequence[OwnTask], upstream: Mapping[int, Sequence[int]], there: Mapping[int, Sequence[ActiveTask]]
) -> str | None:
    """The array in which each of these tasks waits for the task of its own index, and for no other; None: there is
    none."""
    arrays = set()
    for index, jobs in tasks:
        found = {one for job_id in jobs for before in upstream.get(job_id, ()) for one in there.get(before, ())}
        if len(found) != 1 or any(one.array_index != index or one.is_worker for one in found):
            return None
        arrays |= {one.array for one in found}
    return arrays.pop() if len(arrays) == 1 else None
