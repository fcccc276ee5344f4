"""Jobs are held and released: what has not begun is not begun by any of ours, and what waits at a scheduler is held
there, too. And jobs are removed that were a mistake."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from experiment_manager.errors import JobRefused, SchedulerError
from experiment_manager.model.ids import format_ids
from experiment_manager.model.records import ENDED_WELL, JobId, State
from experiment_manager.scheduler import schedulers
from experiment_manager.scheduler.reconcile import ActiveTask, active_tasks
from experiment_manager.store.files import clear_leftovers_in, is_file, put_aside, remove_tree
from experiment_manager.store.holds import (
    note_emptied,
    read_emptied,
    read_held,
    read_removed,
    set_held,
    set_removed,
)
from experiment_manager.store.layout import Folder, writing
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.states import States, StateTable
from experiment_manager.text import as_word, noun

_Tasks = Mapping[ActiveTask, Sequence[int]]
_LEFT_BY_ATTEMPTS: Final = ("stdout", "stderr", "result", "error", "metrics")


class Held(NamedTuple):
    """The jobs that are held now, and those that were to be, and run: these go on."""

    ids: tuple[int, ...]
    running: tuple[int, ...] = ()

    def __repr__(self) -> str:
        runs = f", {format_ids(self.running)} run" if self.running else ""
        return f"Held({format_ids(self.ids) or 'none'}{runs})"


def hold(folder: Folder, ids: Iterable[int], table: StateTable) -> Held:
    """Those of the jobs that neither run nor are done are held, at their scheduler, too, where they wait.

    Raises JobRefused, with nothing done, for jobs that share a task with others which are not held; SchedulerError.
    """
    asked = list(ids)
    wanted = [job_id for job_id in asked if table.state(job_id) not in (State.RUNNING, *ENDED_WELL)]
    tasks = _waiting_tasks(folder, wanted, table)
    new = sorted(set(wanted) - read_held(folder))
    set_held(folder, new, are_held=True)
    try:
        for name, mine in _by_scheduler(tasks):
            schedulers.named(name).hold(mine)
    except SchedulerError:
        set_held(folder, new, are_held=False)
        raise
    after = States(folder).table()
    begun = [job_id for job_id in new if after.state(job_id) is State.RUNNING]  # somebody was faster
    set_held(folder, begun, are_held=False)
    running = [job_id for job_id in asked if after.state(job_id) is State.RUNNING]
    return Held(tuple(sorted(set(wanted) - set(begun))), tuple(sorted(running)))


def release(folder: Folder, ids: Collection[int], table: StateTable) -> list[int]:
    """The jobs may begin; returns those that were held. What waits at a scheduler is released there, also where it was
    held by somebody's own order. Raises SchedulerError: typed again, that goes on."""
    held = read_held(folder).intersection(ids)
    waiting = [job_id for job_id in ids if table.state(job_id) is State.QUEUED]
    tasks = {task: jobs for task, jobs in _tasks_of(folder, waiting, table).items() if not task.is_worker}
    set_held(folder, held, are_held=False)
    for name, mine in _by_scheduler(tasks):
        schedulers.named(name).release(mine)
    return sorted(held)


def _by_scheduler(tasks: _Tasks) -> list[tuple[str, list[tuple[str, int]]]]:
    names = sorted({task.scheduler for task in tasks})
    return [(name, [(one.array, one.array_index) for one in tasks if one.scheduler == name]) for name in names]


def _tasks_of(folder: Folder, waiting: Sequence[int], table: StateTable) -> _Tasks:
    """The tasks that have any of these jobs, which wait for a scheduler."""
    if not waiting:
        return {}
    there = active_tasks(folder, table, of=waiting)
    return {task: jobs for task, jobs in there.items() if not set(jobs).isdisjoint(waiting)}


def _waiting_tasks(folder: Folder, ids: Sequence[int], table: StateTable) -> _Tasks:
    """The tasks that are to be held with these jobs; workers leave them alone by themselves. Raises JobRefused."""
    waiting = [job_id for job_id in ids if table.state(job_id) is State.QUEUED]
    there = _tasks_of(folder, waiting, table)
    seen = {job_id for jobs in there.values() for job_id in jobs}
    if unseen := sorted(set(waiting) - seen):
        raise JobRefused(
            f"{noun(len(unseen))} {format_ids(unseen)} of {folder.path} cannot be held yet: they were submitted a "
            "moment ago, and the queue does not show them; repeat"
        )
    tasks = {task: jobs for task, jobs in there.items() if not task.is_worker}
    for task, jobs in tasks.items():
        others = [job for job in jobs if job not in ids and table.state(job) in (State.QUEUED, State.RUNNING)]
        if others:
            mine = [job for job in jobs if job in ids]
            raise JobRefused(
                f"jobs {format_ids(mine)} share {task} with {format_ids(others)}, which would wait, too; "
                "hold all of them"
            )
    return tasks


def remove(folder: Folder, ids: Iterable[int], table: StateTable, *, with_files: bool) -> list[int]:
    """No grid, table or count has these jobs any more; `with_files`: what they have left is gone, too. Returns their
    ids. Raises JobRefused, with nothing done, for one that runs or waits, and for trials of a search."""
    removed = sorted(ids)
    busy = [job_id for job_id in removed if table.state(job_id) in (State.RUNNING, State.QUEUED)]
    if busy:
        end = f"`experiment-manager cancel {as_word(folder.path)} {format_ids(busy)}`"
        raise JobRefused(
            f"nothing was removed: {noun(len(busy))} {format_ids(busy)} of {folder.path} "
            f"{'runs or waits; end it' if len(busy) == 1 else 'run or wait; end them'} with {end}, or choose others"
        )
    with Manifest(folder) as manifest:
        trials = [job_id for job_id in removed if manifest.may_propose(job_id)]
    if trials:
        are, them = ("is a trial", "it") if len(trials) == 1 else ("are trials", "them")
        raise JobRefused(
            f"nothing was removed: {noun(len(trials))} {format_ids(trials)} of {folder.path} {are} of a search, and "
            f"later ones rest on {them}; leave {them} out of tables with --where"
        )
    set_removed(folder, removed, are_removed=True)
    after = States(folder).table()
    begun = [job_id for job_id in removed if after.state(job_id) is State.RUNNING]
    if begun:
        set_removed(folder, removed, are_removed=False)
        raise JobRefused(f"nothing was removed: {noun(len(begun))} {format_ids(begun)} of {folder.path} begin just now")
    if with_files:
        clear_leftovers_in(folder.path)  # of an earlier call, which was interrupted
        for job_id in removed:
            _empty(folder, job_id)
    return removed


def _empty(folder: Folder, job_id: int) -> None:
    """The files of a removed job are gone: all of them at once, whenever this is interrupted. Raises FolderError."""
    note_emptied(folder, [job_id])
    with writing(folder.path), suppress(FileNotFoundError):
        remove_tree(put_aside(folder.job(JobId(job_id)), folder.path))


def bring_back(folder: Folder, ids: Collection[int] | None) -> list[int]:
    """Of these jobs, or of all, those that were removed are there again; returns their ids. Raises JobRefused, with
    nothing done, for those whose files are gone."""
    found = sorted(read_removed(folder) if ids is None else read_removed(folder).intersection(ids))
    states, emptied = States(folder), read_emptied(folder).intersection(found)
    if gone := [job_id for job_id in sorted(emptied) if not _has_what_it_left(states, folder, job_id)]:
        raise JobRefused(
            f"{noun(len(gone))} {format_ids(gone)} of {folder.path} cannot be brought back: the files were removed, "
            "too; sweep again with a variable more, as +again=1, or leave them out"
        )
    set_removed(folder, found, are_removed=False)
    return found


def _has_what_it_left(states: States, folder: Folder, job_id: int) -> bool:
    """Whether there are files that the attempts of a job have left, or it has never begun. Its folder, and records of
    how attempts ended, can be newer: they are written by whoever learns that from a scheduler."""
    numbers = [number for _, number, _ in states.attempts(job_id) if "unbegun" not in states.record(job_id, number)]
    paths = (folder.of_attempt(job_id, number, kind) for number in numbers for kind in _LEFT_BY_ATTEMPTS)
    return not numbers or any(map(is_file, paths))
