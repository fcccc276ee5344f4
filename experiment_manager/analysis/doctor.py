"""What is odd about an experiment, and what to do about it: a list of findings, each a sentence and a way out.

It only reads. What would be recorded by whoever acts on the experiment, as that a job is LOST, is told and not
recorded, so one may look at the experiments of others. No check keeps another from being made: what cannot be read is a
finding.
"""

import errno
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

from experiment_manager.analysis.results import names_in_jobs, result_is_gone, way_back, without_folder
from experiment_manager.errors import LOOK_AT_THE_DISK, ExperimentManagerError, JobRefused, SchedulerError
from experiment_manager.model.ids import format_ids, which
from experiment_manager.model.records import Launch, State
from experiment_manager.scheduler.reconcile import active_tasks, reconciled
from experiment_manager.scheduler.submission import launched_arrays
from experiment_manager.store.files import (
    SHORTLY_S,
    asked_again,
    entries_in,
    is_folder,
    is_leftover,
    is_of_the_disk,
    is_there,
    looked,
    unreadable,
)
from experiment_manager.store.holds import read_removed
from experiment_manager.store.launches import (
    PLACES,
    last_launch,
    launch_numbers,
    of_scheduler,
    planned_attempts,
    read_launch,
    unsettled_numbers,
)
from experiment_manager.store.layout import Folder
from experiment_manager.store.lock import left_by, refused_locks
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.manifest_editor import unnamed_generation
from experiment_manager.store.pass_filter import has_selection, read_selection
from experiment_manager.store.processes import is_gone
from experiment_manager.store.programs import may_be_brought, missing_program, program_way_out, would_be_here
from experiment_manager.store.relocation import unfinished_move
from experiment_manager.store.states import StateTable, node_of
from experiment_manager.store.submissions import Sightings, Submission
from experiment_manager.text import as_word, followed, size_text

_LEAST_FREE: Final = 1e9  # bytes
_LITTLE_FREE: Final = 2e10  # and where less is left, it must be this share
_LEAST_SHARE: Final = 0.01
_LEAST_FILES: Final = 1000
_SKEW_S: Final = 5.0
_RESERVE: Final = re.compile(r"\.(?:result|attempt)\.([1-9]\d*)\.json\.reserve")
_REQUEST: Final = re.compile(r"\.(0|[1-9]\d*)\.([1-9]\d*)\.cancel")
_MAY_KEEP: Final = (State.RUNNING, State.LOST)  # what is LOST is recorded, and its space freed, by whoever acts
_LOOK_THERE: Final = "look at that file, and at its permissions"
_BESIDE_SQLITE: Final = ("-wal", "-shm", "-journal")


class Finding(NamedTuple):
    """Something odd: what it is, in a sentence, and what to do about it, in another."""

    kind: str
    what: str
    way_out: str
    jobs: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"Finding({self.kind}: {self.what})"


class _Seen(NamedTuple):
    """An experiment as every check sees it."""

    folder: Folder
    table: StateTable
    ids: frozenset[int] | None  # None: the manifest cannot be read

    @property
    def word(self) -> str:
        return as_word(self.folder.path)

    def state(self, job_id: int, attempt: int) -> State | None:
        return self.table.attempts.get(job_id, {}).get(attempt)  # type: ignore[call-overload,no-any-return]


def examine(place: Folder) -> list[Finding]:
    """All that is odd about an experiment. Raises FolderError where none is there, or its states cannot be read."""
    place.require()
    folder = Folder(place.parent, place.name, is_only_read=True)
    found = list(_checked(_manifest(folder)))
    ids = None
    with suppress(ExperimentManagerError), Manifest(folder) as manifest:
        ids = frozenset(int(job_id) for job_id in manifest.ids())
    seen = _Seen(folder, reconciled(folder), ids)
    for check in _CHECKS:
        found += _checked(check(seen))
    return list(dict.fromkeys(found))  # several may meet the same file that cannot be read


def _checked(findings: Iterable[Finding]) -> Iterator[Finding]:
    """The findings of a check, and that it could not be made."""
    try:
        yield from findings
    except (ExperimentManagerError, OSError) as error:
        said = str(error)
        if isinstance(error, OSError) and isinstance(error.filename, str):
            said = unreadable(error.filename, error)
        what, is_of_disk, _ = said.partition(f"; {LOOK_AT_THE_DISK}")
        yield Finding("unreadable", what, LOOK_AT_THE_DISK if is_of_disk else _LOOK_THERE)


# ---------------------------------------------------------------- the manifest, and the record of moves


def _manifest(folder: Folder) -> Iterator[Finding]:
    if not is_there(folder.manifest):
        return  # of the original library
    with Manifest(folder) as manifest:
        if (fault := manifest.quick_check()) is not None:
            copies = f"generations/{manifest.generation} is a copy, if it is whole"
            yield Finding("manifest", f"{folder.manifest} is damaged: {fault}", f"restore it from a backup; {copies}")
    newer = unnamed_generation(folder)
    if newer is not None:
        what = f"generations/{newer} was published, and manifest.sqlite is older: a planner was killed"
        yield Finding("manifest", what, "nothing is lost; the next sweep, or `filter`, goes on with it")
    for ending in _BESIDE_SQLITE:
        if is_there(folder.manifest + ending):
            what = f"manifest.sqlite{ending} lies beside the manifest: somebody has opened it for writing"
            yield Finding("manifest", what, "close that program, and remove the file; nothing of ours reads it")


def _moves(seen: _Seen) -> Iterator[Finding]:
    if begun := unfinished_move(seen.folder):
        command = f"experiment-manager move {as_word(begun['from'])} {as_word(begun['to'])}"
        yield Finding("move", f"a move from {begun['from']} to {begun['to']} was interrupted", f"`{command}` goes on")


# ---------------------------------------------------------------- jobs and states


def _lost(seen: _Seen) -> Iterator[Finding]:
    ids = tuple(sorted(job_id for job_id in seen.table.attempts if seen.table.state(job_id) is State.LOST))
    if ids:
        verb = "is" if len(ids) == 1 else "are"
        what = f"{which(ids)} {verb} LOST: nothing runs {'it' if len(ids) == 1 else 'them'}, and nobody knows why"
        command = f"experiment-manager resubmit {seen.word} --state lost"
        yield Finding("lost", what, f"`{command}` runs what has no result again", ids)


def _resultless(seen: _Seen) -> Iterator[Finding]:
    """Jobs that have completed, and whose results are gone."""
    names = names_in_jobs(seen.folder)
    known = seen.table.attempts.keys() if seen.ids is None else seen.ids
    attempts = {job_id: seen.table.completed(job_id) for job_id in known - read_removed(seen.folder)}
    done = {job_id: attempt for job_id, attempt in attempts.items() if attempt is not None}
    if names is None:  # which is said
        return
    gone = without_folder(seen.folder, done, names)
    if gone:
        folders = "the folder of it in jobs/ was" if len(gone) == 1 else "their folders in jobs/ were"
        yield _without_result(seen, gone, f"{folders} removed")
    left = sorted(done.keys() - set(gone))
    without = [
        job_id for job_id in followed(left, len(left), "looking") if result_is_gone(seen.folder, job_id, done[job_id])
    ]
    if without:
        file = f"result.{done[without[0]]}.json"
        yield _without_result(seen, tuple(without), f"{file} was removed, or never left")


def _without_result(seen: _Seen, ids: tuple[int, ...], why: str) -> Finding:
    verb = "has" if len(ids) == 1 else "have"
    what = f"{which(ids)} {verb} completed, and {verb} no result: {why}"
    return Finding("results", what, f"restore it from a backup, or {way_back(seen.folder, ids)}", ids)


def _strangers(seen: _Seen) -> Iterator[Finding]:
    known = seen.table.attempts.keys() if seen.ids is None else seen.ids
    ids = tuple(sorted(int(job_id) for job_id in seen.table.attempts if job_id not in known))
    if ids:
        what = f"there are states of {which(ids)}, which the manifest does not have"
        yield Finding("states", what, "was the manifest replaced by an older one? See generations/, or a backup", ids)
    if seen.table.foreign:
        names = ", ".join(seen.table.foreign[:5]) + (", ..." if seen.table.foreign[5:] else "")
        yield Finding("states", f"names in states/ that mean nothing to us: {names}", "move them away")


def _unreachable(seen: _Seen) -> Iterator[Finding]:
    """Jobs that run on machines which cannot be asked from here."""
    places: dict[str, list[int]] = {}
    for (job_id, _), record in seen.table.runners.items():
        if job_id not in seen.table.confirmed and is_gone(record) is None:
            places.setdefault(str(node_of(record)), []).append(int(job_id))
    for place, ids in sorted(places.items()):
        what = f"{which(ids)} {'is' if len(ids) == 1 else 'are'} RUNNING on {place}, which cannot be asked from here"
        hint = "look there; if nothing runs any more, rename states/JOB.ATTEMPT.RUNNING to end in .LOST"
        yield Finding("running", what, hint, tuple(sorted(ids)))


def _waiting(seen: _Seen) -> Iterator[Finding]:
    table = seen.table
    if not table.queued:
        return
    stuck = tuple(sorted(int(job_id) for job_id, waiting in table.queued.items() if waiting.is_stuck))
    if stuck:
        reasons = ", ".join(sorted({table.queued[job_id].reason for job_id in table.queued if job_id in stuck}))
        what = f"{which(stuck)} will not begin by {'itself' if len(stuck) == 1 else 'themselves'}: {reasons}"
        yield Finding(
            "queued", what, f"`experiment-manager cancel {seen.word} {format_ids(stuck)}`, or ask who holds", stuck
        )
    try:
        tasks = active_tasks(seen.folder, table)
    except SchedulerError as error:
        yield Finding("queued", f"what waits cannot be told: {error}", "ask again from a machine that reaches it")
        return
    held = {job_id for jobs in tasks.values() for job_id in jobs}
    ids = tuple(sorted(int(job_id) for job_id in table.queued if job_id not in held))
    if ids:
        what = f"{which(ids)} {'is' if len(ids) == 1 else 'are'} QUEUED, and no array in a queue holds them"
        hint = (
            f"they may start again; if not, `experiment-manager cancel {seen.word} {format_ids(ids)}`, and sweep again"
        )
        yield Finding("queued", what, hint, ids)


# ---------------------------------------------------------------- launches


def _launches(seen: _Seen) -> Iterator[Finding]:
    unsettled = set(unsettled_numbers(seen.folder))
    for number in launch_numbers(seen.folder):
        try:
            launch = read_launch(seen.folder, number)
        except JobRefused as error:
            yield Finding("launch", str(error), "no job is started by it")
            continue
        if number in unsettled:
            yield from _unsubmitted(seen, launch)
        yield from _skewed(seen.folder, launch)


def _unsubmitted(seen: _Seen, launch: Launch) -> Iterator[Finding]:
    """A launch with scripts whose jobs still wait for somebody to submit them."""
    submission = Submission(seen.folder, launch, is_to_act=False)
    sightings = Sightings(seen.folder, launch, is_to_act=False)
    planned = planned_attempts(launch)
    command = f"`experiment-manager submit {seen.word} --launch {launch.number}`"
    for array in launched_arrays(launch):
        if submission.array_id(array.name) is not None or launch.record.get("joins") is not None:
            continue
        left = tuple(
            sorted(
                job_id
                for job_id in array.jobs
                if seen.table.state(job_id) is State.PENDING or seen.table.next_number(job_id) <= planned[job_id]
            )
        )
        if submission.doubtful_until(array.name) is not None:
            what = f"the submission of launch {launch.number} was interrupted: it may have been taken, or not"
            yield Finding("launch", what, f"{command} looks, and submits nothing twice", left)
        elif left and not sightings.ids(array.name) and not any(job_id in seen.table.queued for job_id in left):
            what = f"launch {launch.number} was never submitted, and {_would_run(seen, left)}"
            yield Finding("launch", what, f"{command}, or leave it", left)


def _would_run(seen: _Seen, ids: tuple[int, ...]) -> str:
    """What becomes of jobs if their launch is submitted: those that have not begun wait for it, others run again."""
    waiting = tuple(job_id for job_id in ids if seen.table.state(job_id) is State.PENDING)
    ended = tuple(job_id for job_id in ids if job_id not in waiting)
    parts = [f"{which(waiting)} {'waits' if len(waiting) == 1 else 'wait'} for it"] if waiting else []
    if ended:
        states = "/".join(sorted({str(seen.table.state(job_id)) for job_id in ended}))
        parts.append(f"would run {which(ended)} again, {states} now")
    return ", and ".join(parts)


def _skewed(folder: Folder, launch: Launch) -> Iterator[Finding]:
    written = os.stat(folder.join("launches", launch.number, "launch.json")).st_mtime
    ahead = float(launch.record.get("time") or 0.0) - written
    if ahead > _SKEW_S:
        host = launch.record.get("host")
        what = f"the clock of {host} was {ahead:.0f} s ahead of that of the files (launch {launch.number})"
        yield Finding("clock", what, "let it be set: times in tables are off by that")


# ---------------------------------------------------------------- files


def _recipes(seen: _Seen) -> Iterator[Finding]:
    """Copies of code and configuration by which jobs run, and programs, that are gone."""
    if not is_there(seen.folder.manifest):
        return  # of the original library
    users: dict[int, list[int]] = {}
    with Manifest(seen.folder) as manifest:
        for job_id, _, _, number in manifest.index():
            if number is not None:
                users.setdefault(number, []).append(job_id)
        recipes = {number: manifest.recipe(number) for number in users}
    copies: dict[str, list[int]] = {}
    for number, recipe in recipes.items():
        found = [source.path for source in recipe.sources if source.frozen]
        for path in (*found, *([recipe.code.path] if recipe.code is not None else [])):
            copies.setdefault(path, []).extend(users[number])
    for path, ids in copies.items():
        yield from _checked(_missing(seen, path, ids))
    programs: dict[str, list[int]] = {}
    for number, recipe in recipes.items():
        gone = missing_program(seen.folder, recipe)
        is_copied = recipe.code is not None and recipe.code.script is not None  # which is told of
        if gone is not None and not is_copied and would_be_here(seen.folder, recipe):
            programs.setdefault(str(gone), []).extend(users[number])
    if programs and not _runs_in_wrap(seen.folder):
        for program, ids in programs.items():
            what = f"{program} is not there, which {which(ids)} {'runs' if len(ids) == 1 else 'run'}"
            yield Finding("program", what, program_way_out(seen.folder), tuple(sorted(ids)))


def _runs_in_wrap(folder: Folder) -> bool:
    """Whether the newest launch has its jobs run by another command, as in a container, which may have what is not
    here."""
    launch = last_launch(folder)
    record = None if launch is None else of_scheduler(launch.record)
    return may_be_brought((record or {}).get("options") or {})


def _missing(seen: _Seen, path: str, ids: list[int]) -> Iterator[Finding]:
    if not is_folder(seen.folder.join(path)):
        what = f"{path} is not there, from which {which(ids)} {'runs' if len(ids) == 1 else 'run'}"
        yield Finding("copies", what, "restore it from a backup; the same sweep makes a new one", tuple(ids))


def _leftovers(seen: _Seen) -> Iterator[Finding]:
    """What killed processes have left."""
    folder, left = seen.folder, list[str]()
    launches = [f"launches/{number}" for number in unsettled_numbers(folder)]
    for place in (*PLACES, *launches):
        with suppress(FileNotFoundError):
            names = os.listdir(folder.join(place))
            left += [os.path.join(place, name) for name in names if _is_left(seen, place, name)]
    ids = sorted(seen.table.attempts)
    for job_id in followed(ids, len(ids), "looking"):
        with suppress(FileNotFoundError):
            for name in os.listdir(folder.job(job_id)):
                kept = _RESERVE.fullmatch(name)
                is_kept = kept is not None and seen.state(job_id, int(kept[1])) in _MAY_KEEP
                if (kept is not None and not is_kept) or _is_left(seen, f"jobs/{job_id}", name):
                    left.append(f"jobs/{job_id}/{name}")
    if left:
        more = f", and {len(left) - 1} more" if left[1:] else ""
        hint = "nobody reads them; the next sweep or attempt removes most, and all may be removed by hand"
        yield Finding("leftovers", f"killed processes have left {left[0]}{more}", hint)


def _is_left(seen: _Seen, place: str, name: str) -> bool:
    if name[0] != ".":
        return False
    if place == "states" and (asked := _REQUEST.fullmatch(name)):
        return seen.state(int(asked[1]), int(asked[2])) is not State.RUNNING
    with suppress(OSError):
        return is_leftover(name, time.time() - os.lstat(seen.folder.join(place, name)).st_mtime)
    return False


def _locks(seen: _Seen) -> Iterator[Finding]:
    folder = seen.folder
    paths = [folder.locks[0], folder.export_lock]
    paths += [folder.join("launches", number, ".submitting.lock") for number in launch_numbers(folder)]
    for path in paths:
        if (words := left_by(path)) is not None:
            hint = f"if it does not run there any more, remove {as_word(f'{path}.held')}"
            yield Finding("lock", f"{words} holds {os.path.relpath(path, folder.path)}", hint)
    if (why := refused_locks(folder.manifest)) is not None:
        what = f"{folder.path} lies on a file system without locks ({why})"
        hint = "two planners at once lose nothing, and links stand for locks; on Lustre, mount with -o flock"
        yield Finding("lock", what, hint)


def _space(seen: _Seen) -> Iterator[Finding]:
    about = os.statvfs(seen.folder.path)
    free, total = about.f_bavail * about.f_frsize, about.f_blocks * about.f_frsize
    if free < max(_LEAST_FREE, min(_LEAST_SHARE * total, _LITTLE_FREE)):
        hint = f"make room: `experiment-manager clean {seen.word}`, `experiment-manager list --du`"
        yield Finding("disk", f"the disk has {size_text(free)} left of {size_text(total)}", hint)
    if about.f_files and about.f_favail < _LEAST_FILES:
        hint = f"remove files: `experiment-manager clean {seen.word}`"
        yield Finding("disk", f"the disk has room for {about.f_favail} more files", hint)


def _clock(seen: _Seen) -> Iterator[Finding]:
    folder = seen.folder
    places = [
        folder.manifest,
        folder.states,
        folder.launches,
        *(folder.job(job) for job in list(seen.table.attempts)[-9:]),
    ]
    times = list[float]()
    for path in places:
        with suppress(FileNotFoundError):
            times.append(looked(partial(os.stat, path)).st_mtime)
    ahead = max(times, default=0.0) - time.time()
    if ahead > _SKEW_S:
        what = f"files were written {ahead:.0f} s from now: this machine's clock is behind that of the file system"
        yield Finding("clock", what, "let it be set")


def _links(seen: _Seen) -> Iterator[Finding]:
    """Folders of jobs that were moved to a place which is gone, or cannot be looked at."""
    broken, unseen, why = list[int](), list[int](), OSError()
    with suppress(FileNotFoundError):
        for entry in entries_in(seen.folder.join("jobs")):
            if not (entry.name.isdecimal() and entry.is_symlink()):
                continue
            try:  # a server that has not answered for the first one is not waited for at each of ten thousand
                asked_again(partial(os.stat, entry.path), most_s=0.0 if unseen else SHORTLY_S)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    broken.append(int(entry.name))
                    continue
                unseen.append(int(entry.name))
                why = error
    if broken:
        yield _link(seen, sorted(broken), "is not there", "lay the links anew, or remove them")
    if unseen:
        way_out = LOOK_AT_THE_DISK if is_of_the_disk(why) else _LOOK_THERE
        yield _link(seen, sorted(unseen), f"cannot be looked at ({why.strerror or why})", way_out)


def _link(seen: _Seen, ids: list[int], what: str, way_out: str) -> Finding:
    those, verb = ("the folder", "is a link") if len(ids) == 1 else ("folders", "are links")
    target = os.readlink(seen.folder.job(ids[0]))
    return Finding("links", f"{those} of {which(ids)} {verb} to what {what}: {target}", way_out, tuple(ids))


def _filter(seen: _Seen) -> Iterator[Finding]:
    if not has_selection(seen.folder):
        return
    selected = read_selection(seen.folder)
    unknown = tuple(sorted(set(selected) - seen.ids)) if seen.ids is not None else ()
    if unknown:
        what = f"the pass filter lets {which(unknown)} pass, which the manifest does not have"
        yield Finding("filter", what, f"`experiment-manager filter {seen.word} ...` saves another one", unknown)


_CHECKS: Final[tuple[Callable[[_Seen], Iterator[Finding]], ...]] = (
    _moves,
    _lost,
    _resultless,
    _strangers,
    _unreachable,
    _waiting,
    _launches,
    _recipes,
    _filter,
    _links,
    _leftovers,
    _locks,
    _space,
    _clock,
)


def lines(found: Iterable[Finding]) -> Iterator[str]:
    """The findings for people: each a line, and below it what to do."""
    for one in found:
        yield f"{one.kind}: {one.what}"
        yield f"  {one.way_out}"


def summary(folder: Folder, found: list[Finding]) -> str:
    """The last line for people."""
    kinds: Mapping[str, None] = dict.fromkeys(one.kind for one in found)
    if not found:
        return f"nothing odd is found in {folder.path}"
    return f"{len(found)} finding{'s' if found[1:] else ''} in {folder.path}: {', '.join(kinds)}"
