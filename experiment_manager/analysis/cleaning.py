"""What of an experiment can be removed, since nothing reads it any more: found, told with its sizes, and removed.

    attempts     logs, results and metrics of attempts before the last one of a job; files that are left half written
    checkpoints  files of jobs that are done, by patterns; only where asked for
    code         copies of the code by which no job of the manifest is run
    launches     scripts and orders of launches all of whose jobs have ended; their records stay
    report       a report that is older than what it tells of

What is never removed: whatever a job that runs or waits uses; the last attempt of a job, and the one with which it was
done; metrics of earlier attempts of which something was not logged again (`metrics.not_logged_again`); how each attempt
ended; anything behind a link; and what cannot be looked at, with the folders that it is in. Each file goes by itself,
or a folder after it was renamed, so that what is left at any moment is an experiment, and what is half removed is gone
when somebody plans it next.
"""

import os
import re
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Final, NamedTuple

from experiment_manager.errors import FolderError, JobRefused, OptionsError, UnreadableLaunch
from experiment_manager.model.records import ENDED_WELL, UNFINISHED, Job, JobId, State
from experiment_manager.scheduler.reconcile import reconciled
from experiment_manager.scheduler.submission import launched_arrays
from experiment_manager.store.files import (
    FileClock,
    entries_in,
    is_leftover,
    is_link,
    is_temporary,
    is_there,
    looked,
    put_aside,
    remove_tree,
    space_below,
    space_of,
    unreadable,
    walked,
)
from experiment_manager.store.launches import (
    SETTLED,
    clear_leftovers,
    drivers,
    launch_numbers,
    planned_attempts,
    read_launch,
    unsettled_numbers,
)
from experiment_manager.store.layout import MANIFEST, Folder, planning, writing
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.metrics import not_logged_again
from experiment_manager.store.states import States, StateTable
from experiment_manager.text import followed, size_text, skipped

KINDS: Final = {
    "attempts": "logs, results and metrics of earlier attempts, half-written files",
    "checkpoints": "files of jobs that are done, by --checkpoints",
    "code": "copies of the code that no job runs from",
    "launches": "scripts and orders of launches that have ended",
    "report": "a report that is older than the experiment",
}
"""What can be removed, in the order in which it is told, and what that is."""

OF_JOBS: Final = ("attempts", "checkpoints")
_BUSY: Final = frozenset({State.RUNNING, State.QUEUED})
_OF_ATTEMPT: Final = re.compile(r"(stdout|stderr|result|metrics)\.([1-9]\d*)(?:\.rank\d+)?\.(?:log|json|jsonl)")
_OURS: Final = re.compile(r"\..*|(stdout|stderr|result|metrics|error|attempt|pruned)\.\d+\.(rank\d+\.)?\w+")


class Found(NamedTuple):
    """A file, or a whole folder, that can be removed."""

    kind: str
    path: str
    n_files: int
    n_bytes: int
    job_id: int | None = None
    inode: tuple[int, int, int] | None = None  # of a file with several names: device, number, and how many names


class Cleaning(NamedTuple):
    """What can be removed of an experiment, or was."""

    path: str
    found: tuple[Found, ...]

    @property
    def n_bytes(self) -> int:
        return _freed(self.found)

    @property
    def kinds(self) -> list[dict[str, Any]]:
        """A row for each kind of which there is something: `kind`, `what`, `files`, `bytes`, `jobs`."""
        rows: list[dict[str, Any]] = []
        for kind, what in KINDS.items():
            mine = [one for one in self.found if one.kind == kind]
            jobs = sorted({one.job_id for one in mine if one.job_id is not None})
            n_files, n_bytes = sum(one.n_files for one in mine), _freed(mine)
            row = {"kind": kind, "what": what, "files": n_files, "bytes": n_bytes, "jobs": jobs}
            rows += [row] if mine else []
        return rows

    def __repr__(self) -> str:
        kinds = ", ".join(row["kind"] for row in self.kinds) or "nothing"
        return f"Cleaning({size_text(self.n_bytes)}: {kinds})"


def _freed(found: Collection[Found]) -> int:
    """The bytes that are free when these are gone: a file with several names goes with the last of them."""
    names = Counter(one.inode for one in found if one.inode is not None)
    whole = {inode for inode, count in names.items() if count == inode[2]}
    once = {one.inode: one.n_bytes for one in found if one.inode in whole}
    return sum(one.n_bytes for one in found if one.inode is None) + sum(once.values())


class What(NamedTuple):
    """What is to be removed: of which kinds, which checkpoints, and of jobs in which states."""

    kinds: tuple[str, ...]
    checkpoints: tuple[str, ...] = ()
    states: frozenset[State] | None = None  # None: all that have ended; of checkpoints, those that are done

    @classmethod
    def checked(
        cls,
        kinds: Sequence[str] | None,
        checkpoints: Sequence[str],
        states: frozenset[State] | None,
        *,
        is_of_jobs: bool,
    ) -> "What":
        """`is_of_jobs`: jobs were chosen, and what is of none stays. Raises OptionsError, JobRefused."""
        usual = [kind for kind in KINDS if kind != "checkpoints" or checkpoints]
        chosen = list(kinds) if kinds is not None else usual
        for kind in chosen:
            if kind not in KINDS:
                raise OptionsError(f"there is no kind {kind!r} of what can be removed; there are {', '.join(KINDS)}")
        if "checkpoints" in chosen and not checkpoints:
            raise OptionsError("checkpoints are files of your own: say which, as --checkpoints '*.pt'")
        for pattern in checkpoints:
            if not pattern or os.path.isabs(pattern) or os.pardir in pattern.split("/"):
                raise OptionsError(
                    f"--checkpoints {pattern!r} fits nothing in a job's folder: write a name, as '*.pt', or a place in "
                    "it, as 'ckpt/*'"
                )
        if waiting := (states or frozenset()) & UNFINISHED:
            raise JobRefused(f"jobs that are {min(waiting)} have not ended; nothing of them is removed")
        if is_of_jobs or states is not None:
            if kinds is not None and (others := [kind for kind in chosen if kind not in OF_JOBS]):
                raise OptionsError(f"{others[0]} is of the whole experiment: choose no jobs for it")
            chosen = [kind for kind in chosen if kind in OF_JOBS]
        return cls(tuple(chosen), tuple(map(os.path.normpath, checkpoints)), states)  # './last.pt', 'ckpt/'


def plan_cleaning(folder: Folder, jobs: Iterable[Job], table: StateTable, what: What) -> Cleaning:
    """What can be removed; nothing is, and what is behind links, or cannot be looked at, is named."""
    driven_now = drivers(folder)
    waiting = _waiting(folder, [driver.launch for driver in driven_now], table) | _handed_over(folder, table)
    ids = [job.id for job in jobs if table.state(job.id) not in _BUSY and job.id not in waiting]
    if what.states is not None:
        ids = [job_id for job_id in ids if table.state(job_id) in what.states]
    found: list[Found] = []
    if set(what.kinds) & set(OF_JOBS) and _is_ours(folder.join("jobs")):
        clock = FileClock(folder.path)
        for job_id in followed(ids, len(ids), "looking"):
            found += _seen(folder.job(job_id), _of_job(folder, job_id, table, what, clock))
    is_busy = bool(driven_now) or any(table.state(job_id) in _BUSY for job_id in {*table.attempts, *table.queued})
    if "code" in what.kinds and not is_busy and _is_ours(folder.join("code")):
        found += _seen(folder.join("code"), _code(folder))
    if "launches" in what.kinds and _is_ours(folder.launches):
        found += _seen(folder.launches, _launches(folder, table))
    if "report" in what.kinds:
        found += _seen(folder.report, _report(folder))
    return Cleaning(folder.path, tuple(found))


def _seen(place: str, found: Iterator[Found]) -> list[Found]:
    """What was found in a place, once all of it was looked at; where that cannot be, nothing, and people are told."""
    try:
        return list(found)
    except OSError as error:
        why = unreadable(error.filename or place, error)
    except FolderError as error:
        why = str(error)
    skipped(f"{why}; {place} is left alone")
    return []


def _waiting(folder: Folder, numbers: Iterable[str], table: StateTable) -> frozenset[int]:
    """Of these launches, whose jobs somebody runs one after the other, those jobs that are not done: each may begin at
    any moment, whatever it is now."""
    found = set[int]()
    for number in numbers:
        try:
            planned = planned_attempts(read_launch(folder, number))
        except UnreadableLaunch as error:
            raise JobRefused(f"{error}; nothing is removed while somebody runs its jobs") from error
        found.update(job_id for job_id in planned if table.state(job_id) not in ENDED_WELL)
    return frozenset(found)


def _handed_over(folder: Folder, table: StateTable) -> frozenset[int]:
    """The jobs that scripts are to begin, once more or for the first time: they wait for a person, or for a scheduler
    that does not tell of them yet. Raises JobRefused where a launch cannot be read."""
    found = set[int]()
    for number in launch_numbers(folder, unsettled_numbers(folder)):
        try:
            planned = planned_attempts(read_launch(folder, number))
        except UnreadableLaunch as error:
            raise JobRefused(f"{error}; nothing is removed while its jobs may begin") from error
        found.update(table.not_begun(planned))
    return frozenset(found)


def _is_ours(place: str) -> bool:
    """Whether a folder is no link; of one, people are told: what is there may be that of other experiments, too. Raises
    FolderError."""
    is_elsewhere = is_link(place)
    if is_elsewhere:
        skipped(f"{place} is a link to {os.path.realpath(place)}: what is there is left alone; clean it there")
    return not is_elsewhere


def clean(folder: Folder, jobs: Sequence[Job], what: What) -> Cleaning:
    """What can be removed is gone; returns what that was. Nobody plans the experiment meanwhile, and a job that has
    begun since is left alone. Raises FolderError."""
    done: list[Found] = []
    with planning(folder):
        clear_leftovers(folder)
        table = reconciled(folder, is_to_act=True)
        planned = plan_cleaning(folder, jobs, table, what)
        states = States(folder)
        with writing(folder.path):
            for one in followed(planned.found, len(planned.found), "removing"):
                if one.job_id is not None:
                    now = {attempt.number: attempt.state for attempt in states.attempts(one.job_id)}
                    if now != table.attempts.get(JobId(one.job_id), {}):
                        continue
                if _is_removed(folder, one.path):
                    done.append(one)
    return planned._replace(found=tuple(done))


def _is_removed(folder: Folder, path: str) -> bool:
    """It is gone; false, and people are told, where that is not ours to do. Raises OSError."""
    try:
        with suppress(FileNotFoundError):
            if stat.S_ISDIR(looked(partial(os.lstat, path)).st_mode):
                remove_tree(put_aside(path, folder.path))
            else:
                os.unlink(path)
    except PermissionError as error:
        skipped(f"{path} cannot be removed: {error.strerror}; ask whose it is")
        return False
    return True


# ---------------------------------------------------------------- of jobs


def _of_job(folder: Folder, job_id: int, table: StateTable, what: What, clock: FileClock) -> Iterator[Found]:
    place = folder.job(job_id)
    try:
        about = looked(partial(os.lstat, place))
    except FileNotFoundError:
        return
    if not _is_ours(place) or not stat.S_ISDIR(about.st_mode):
        return
    top = _entries(place)
    if "attempts" in what.kinds:
        yield from (_file("attempts", entry, job_id) for entry in top if _is_left(entry, clock))
    if "attempts" in what.kinds and len(table.attempts.get(JobId(job_id), {})) > 1:
        kept, troubles = kept_attempts(table, job_id), list[str]()
        logged = not_logged_again(folder, table, job_id, troubles.append)
        if troubles:  # what cannot be read may well be read later
            logged = frozenset(table.attempts[JobId(job_id)])
        for entry in top:
            if _is_of_earlier(entry.name, kept, logged) and entry.is_file(follow_symlinks=False):
                yield _file("attempts", entry, job_id)
    if "checkpoints" in what.kinds and (what.states is not None or table.state(job_id) in ENDED_WELL):
        ours = [entry for entry in top if not _OURS.fullmatch(entry.name)]
        yield from _checkpoints(place, ours, what.checkpoints, job_id)


def kept_attempts(table: StateTable, job_id: int) -> frozenset[int]:
    """The attempts of a job of which everything is read: the last one, and that with which the job was done."""
    numbers = (
        table.next_number(job_id) - 1,
        table.last(job_id).number,
        table.done(job_id),
        table.completed(job_id),
    )
    return frozenset(number for number in numbers if number is not None)


def _is_left(entry: "os.DirEntry[str]", clock: FileClock) -> bool:
    """Whether a file is half written, and surely nobody writes it any more."""
    with suppress(OSError):  # gone meanwhile, or the clock of a folder in which nothing can be written
        return (
            is_temporary(entry.name)
            and entry.is_file(follow_symlinks=False)
            and is_leftover(entry.name, clock.age_s(entry.path))
        )
    return False


def _is_of_earlier(name: str, kept: Collection[int], logged: Collection[int]) -> bool:
    match = _OF_ATTEMPT.fullmatch(name)
    if match is None or int(match[2]) in kept:
        return False
    return match[1] != "metrics" or int(match[2]) not in logged


def _checkpoints(
    place: str, entries: Iterable["os.DirEntry[str]"], patterns: Sequence[str], job_id: int
) -> Iterator[Found]:
    """The files, and whole folders, whose names or places in the job's folder fit a pattern."""
    for entry in entries:
        inside = os.path.relpath(entry.path, place)
        is_folder = entry.is_dir(follow_symlinks=False)
        if is_folder and _may_hold_experiment(entry.path):
            continue
        if any(fnmatchcase(entry.name, pattern) or fnmatchcase(inside, pattern) for pattern in patterns):
            if is_folder:
                yield _tree("checkpoints", entry.path, job_id)
            else:
                yield _file("checkpoints", entry, job_id)
        elif is_folder:
            yield from _checkpoints(place, _entries(entry.path), patterns, job_id)


def _may_hold_experiment(place: str) -> bool:
    """Whether an experiment lies in a folder, as that of a job which is a sweep itself, or nobody can tell; then people
    are told."""
    try:
        if all(entry.name != MANIFEST for _, entries in walked(place) for entry in entries):
            return False
        skipped(f"{place} holds an experiment: it is left alone; clean it there")
    except OSError as error:
        skipped(f"{unreadable(error.filename or place, error)}; {place} is left alone")
    return True


def _entries(place: str) -> list["os.DirEntry[str]"]:
    """What lies in a folder, by name; nothing, and people are told, where that is not ours to read. Raises OSError."""
    try:
        return entries_in(place)
    except PermissionError as error:
        skipped(f"{place} cannot be read: {error.strerror}; what is there is left alone")
        return []


def _file(kind: str, entry: "os.DirEntry[str]", job_id: int) -> Found:
    about = entry.stat(follow_symlinks=False)
    inode = (about.st_dev, about.st_ino, about.st_nlink) if about.st_nlink > 1 else None
    return Found(kind, entry.path, 1, space_of(about), job_id, inode)


# ---------------------------------------------------------------- of the experiment


def _code(folder: Folder) -> Iterator[Found]:
    """The copies that the recipe of no job names; all are kept where a search may propose more jobs."""
    try:
        entries = entries_in(folder.join("code"))
    except FileNotFoundError:
        return
    with Manifest(folder) as manifest:
        if manifest.search is not None:
            return
        recipes = {recipe for _, _, _, recipe in manifest.index() if recipe is not None}
        codes = (manifest.recipe(recipe).code for recipe in recipes)
        used = {os.path.basename(code.path) for code in codes if code is not None}
    for entry in entries:
        if not entry.name.startswith(".") and entry.name not in used and entry.is_dir(follow_symlinks=False):
            yield _tree("code", entry.path)


def _launches(folder: Folder, table: StateTable) -> Iterator[Found]:
    """The scripts and orders of launches that have ended, but for the newest one, and the newest one with scripts."""
    numbers, ended = launch_numbers(folder), dict[str, list[str]]()
    newest: dict[bool, str] = {}
    for number in numbers:
        if not _is_ours(folder.join("launches", number)):
            continue
        try:
            launch = read_launch(folder, number)
        except JobRefused as error:
            skipped(str(error))
            continue
        arrays = launched_arrays(launch)
        newest |= {False: number, bool(arrays): number}
        if _has_ended(folder, number, planned_attempts(launch), table):
            ended[number] = ["orders.sqlite", *(array.script for array in arrays)]
    for number, names in ended.items():
        for path in () if number in newest.values() else [folder.join("launches", number, name) for name in names]:
            with suppress(FileNotFoundError):
                about = os.lstat(path)
                if stat.S_ISREG(about.st_mode):
                    yield Found("launches", path, 1, space_of(about))


def _has_ended(folder: Folder, number: str, planned: Mapping[int, int], table: StateTable) -> bool:
    """Whether every job that a launch was to run has begun and ended, and no scheduler has more to say of it."""
    if not is_there(folder.join("launches", number, SETTLED)):
        return False
    return all(
        table.next_number(job_id) > first and table.state(job_id) not in _BUSY for job_id, first in planned.items()
    )


def _report(folder: Folder) -> Iterator[Found]:
    path = folder.report
    with suppress(FileNotFoundError):
        about = os.lstat(path)
        newest = 0.0
        for place in (folder.manifest, folder.states):
            with suppress(FileNotFoundError):
                newest = max(newest, os.stat(place).st_mtime)
        if stat.S_ISREG(about.st_mode) and about.st_mtime < newest:
            yield Found("report", path, 1, space_of(about))


def _tree(kind: str, path: str, job_id: int | None = None) -> Found:
    return Found(kind, path, *space_below(path), job_id)
