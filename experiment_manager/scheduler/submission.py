"""The submission of a launch: each of its job arrays once, so that it may be interrupted anywhere and typed again.

launches/0001/launch.json        "slurm": {"arrays": [{name, script, jobs, pack, workers, indexed, after, options}]}
launches/0001/submission.json    what was submitted, and what somebody has begun to submit (`store.submissions`)
launches/0001/slurm_scripts.sh   the script as it was written, and then as it was submitted

A submission can fail and yet have been taken, and it can be killed. So before each one the intent is on disk, under a
name that nobody else uses, and afterwards the scheduler's id; what is in doubt is looked up by name before it is
submitted again.

A submission by hand leaves no record of ours, and may name a part of the array only. So what the queue does not have is
"taken out of the array" only when it was seen there, and while nobody answers, what was seen counts as last known.
"""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from experiment_manager.errors import FolderError, JobRefused, SchedulerError, UnreadableLaunch
from experiment_manager.model.ids import format_ids, parse_ids
from experiment_manager.model.records import ENDED_WELL, Attempt, JobId, Launch, State, Task
from experiment_manager.scheduler import schedulers
from experiment_manager.scheduler.arrays import Array
from experiment_manager.scheduler.protocol import Scheduler
from experiment_manager.scheduler.records import Dependency, Phase, QueueRow, Run, Send, not_asked, who_is_asked
from experiment_manager.store.documents import content
from experiment_manager.store.files import Unseen, appearing, clear_leftovers_in, looked, unreadable
from experiment_manager.store.holds import why_not_begun
from experiment_manager.store.launches import (
    launch_numbers,
    note_submitted,
    note_submitting,
    of_scheduler,
    planned_attempts,
    read_launch,
    user_name,
)
from experiment_manager.store.layout import Folder, writing
from experiment_manager.store.states import States, scheduler_in, task_in
from experiment_manager.store.submissions import Sightings, Submission
from experiment_manager.store.trust import refuse_what_anybody_writes
from experiment_manager.text import as_word, tell, tell_once

if TYPE_CHECKING:
    from experiment_manager.scheduler.upstream import Before

MAX_RETRIES: Final = 1
"""How often workers take a job again that died with its worker, where people say nothing."""

SETTLES_S: Final = 10.0
"""How long a scheduler may take to know a job whose submission seemed to fail (SLURM's accounting: 0.2 to 0.85 s
measured)."""

ANSWERS_S: Final = 2.0
"""How long it has to answer, not having heard of a job, before that is believed: what had piled up while it was
away is done first."""

_LOOK_AGAIN_S: Final = 1.0
_LOCK_WAIT_S: Final = 300.0
_LONGEST_SLUG: Final = 40

DIED: Final = frozenset({State.RUNNING, State.LOST, State.NODE_FAIL})
"""What a job is that was left by a worker which has died."""
N_LETTERS: Final = 8
"""By so many letters at its end a name of arrays is told from all others."""

_TEXT: Final = r'"(?:[^"\\]|\\.)*"'
"""A text as JSON has it; not compiled, since tasks import this."""

_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"


class Submitted(NamedTuple):
    """What became of one array."""

    name: str
    slurm_id: str
    script: str
    is_new: bool  # submitted just now, and not found to be there
    is_edited: bool  # somebody has changed the script since it was written


def newest_launch(folder: Folder, number: str | None = None) -> Launch:
    """The newest launch that a scheduler is to run, but for those that heal jobs, or the one of that number. Raises
    JobRefused when there is none."""
    if number is not None:
        launch = read_launch(folder, number)
        if not launched_arrays(launch):
            raise JobRefused(f"launch {number} of {folder.path} has no SLURM scripts; leave --launch out")
        return launch
    for found in reversed(launch_numbers(folder)):
        try:
            launch = read_launch(folder, found)
        except UnreadableLaunch:  # it may be the one that is meant
            raise
        except JobRefused:  # it has no record: nothing was ever handed over
            continue
        if launched_arrays(launch) and "heals" not in launch.record:
            return launch
    raise JobRefused(
        f"{folder.path} has no SLURM scripts yet; write them with hydra/launcher=slurm_script, or with "
        f"`experiment-manager script {as_word(folder.path)}`"
    )


def submit(
    folder: Folder, launch: Launch, *, send: Send | None = None, wait_s: float = _LOCK_WAIT_S
) -> list[Submitted]:
    """Every array of the launch is submitted once, whatever has happened to earlier tries.

    `send` submits one script, where the scheduler itself is not to. Whoever else submits the launch is waited for,
    `wait_s` at most. Raises SchedulerError with the scheduler's words:
    what was submitted before stays recorded, the rest is not.
    """
    scheduler = _scheduler(launch)
    scheduler.require()
    arrays = launched_arrays(launch)
    _refuse_copied(folder, launch)
    with _alone(folder, launch, wait_s), writing(folder.path):
        submission = Submission(folder, launch)
        unsubmitted = [array for array in arrays if submission.array_id(array.name) is None]
        if launch.record.get("joins") is None:
            _refuse_what_anybody_writes(folder, launch, unsubmitted)
        cluster = scheduler.cluster() if unsubmitted else None  # before anything is submitted: it may take a while
        _refuse_elsewhere(folder, scheduler, launch, unsubmitted, submission)
        there = _look_up(folder, scheduler, launch, unsubmitted)
        done: list[Submitted] = []
        before: Before | None = None
        if launch.record.get("joins") is not None:
            return _of_workers(folder, launch, arrays, submission, there)
        for array in arrays:
            slurm_id = submission.array_id(array.name)
            if slurm_id is None and array.name not in there and array.n_workers is None:
                _refuse_kept_back(folder, launch, array)
            script, is_edited = _script(folder, launch, array, is_needed=slurm_id is None)
            is_new = False
            while slurm_id is None:
                if array.name in there or _turns_up(folder, scheduler, launch, array, submission, there):
                    slurm_id = there[array.name]
                    submitted = float(launch.record["time"])
                    submission.note_id(array.name, slurm_id, submitted, scheduler.name, cluster)
                    break
                if launch.record.get("upstream") is not None:
                    before = before or _before(folder, launch, scheduler)
                after = Dependency() if before is None else before.of(list(array.tasks()))
                if array.after is not None:
                    after = after._replace(ended=(done[array.after].slurm_id, *after.ended))
                note_submitting(folder, launch.number)
                until_if_gone = _doubtful_until(scheduler, send)
                if is_new := submission.claim(array.name, time.time() + scheduler.order_s + SETTLES_S, until_if_gone):
                    with _told_what_is_submitted(folder, launch, done, len(arrays)):
                        slurm_id = _send(folder, scheduler, launch, array, submission, script, after, send)
                else:  # somebody else does so, or has just done so
                    slurm_id = submission.array_id(array.name)
            done.append(Submitted(array.name, slurm_id, script, is_new, is_edited))
    return done


@contextmanager
def _told_what_is_submitted(folder: Folder, launch: Launch, done: Sequence[Submitted], n_arrays: int) -> Iterator[None]:
    """A scheduler's error inside says what was submitted before, and how to go on."""
    try:
        yield
    except SchedulerError as error:
        if not done:
            raise
        ids = ", ".join(array.slurm_id for array in done)
        message = (
            f"{error}. {len(done)} of {n_arrays} arrays of launch {launch.number} are submitted ({ids}); "
            f"`experiment-manager submit {as_word(folder.path)} --launch {launch.number}` goes on with the rest"
        )
        raise SchedulerError(message, words=error.words, is_doubtful=error.is_doubtful) from error


def test_only(folder: Folder, launch: Launch) -> list[tuple[str, str]]:
    """What the scheduler says of each script, and submits nothing. Raises SchedulerError for the first that it would
    refuse."""
    scheduler = _scheduler(launch)
    scheduler.require()
    scripts = [_script(folder, launch, array, is_kept=False)[0] for array in launched_arrays(launch)]
    answers = []
    for script in scripts:
        try:
            answers.append((script, scheduler.check(script)))
        except SchedulerError as error:
            raise _about(script, error) from error
    return answers


class LaunchedArray(NamedTuple):
    """One job array of a launch, as its record has it."""

    name: str  # a name that no other array of anybody bears: the scheduler's records are found by it
    script: str
    jobs: tuple[int, ...]  # in the order of the tasks
    pack: int
    is_indexed_by_job: bool
    after: int | None
    n_workers: int | None = None  # so many tasks, each of which may run any of the jobs
    max_retries: int = MAX_RETRIES  # so often one of them takes a job again whose worker has died

    @property
    def indices(self) -> Sequence[int]:
        """The index of each task."""
        return [index for index, _ in self.tasks()]

    def tasks(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Each task: its index and the jobs that it runs, or may run."""
        if self.n_workers is not None:
            return ((index, self.jobs) for index in range(self.n_workers))
        if self.is_indexed_by_job:
            return ((job_id, (job_id,)) for job_id in self.jobs)
        return ((index, self.jobs_of(index)) for index in range(-(-len(self.jobs) // self.pack)))

    def jobs_of(self, index: int) -> tuple[int, ...]:
        """The jobs of the task of that index, of an array that has no workers."""
        return (index,) if self.is_indexed_by_job else self.jobs[index * self.pack : (index + 1) * self.pack]


def token(name: str) -> str:
    """A name of letters, digits and dashes that begins like `name` and that nobody else uses."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_LONGEST_SLUG].strip("-") or "job"
    import secrets  # which tasks, that import this, do without

    rest = "".join(secrets.choice(_ALPHABET) for _ in range(N_LETTERS - 1))
    return f"{slug}-{secrets.choice(_ALPHABET[:26])}{rest}"  # a letter first: no reader takes it for a number


def script_name(part: int) -> str:
    """`slurm_scripts.sh`, `slurm_scripts_2.sh`, ... for the parts from 1."""
    return "slurm_scripts.sh" if part == 1 else f"slurm_scripts_{part}.sh"


def records(found: Sequence[Array], name: str, kept: Callable[[Any], dict[str, Any]]) -> list[dict[str, Any]]:
    """What `launch.json` keeps of arrays; `kept` gives the options that are set, as `Scheduler.kept`."""
    first = token(name)
    return [
        {
            "name": first if part == 1 else f"{first}-{part}",
            "script": script_name(part),
            "jobs": format_ids(array.jobs),
            "pack": max(map(len, array.tasks)) if array.n_workers is None else array.options.pack or 1,
            **({} if array.n_workers is None else {"workers": array.n_workers}),
            "indexed": "job" if array.is_indexed_by_job else "position",
            "after": array.after,
            "options": kept(array.options),
        }
        for part, array in enumerate(found, start=1)
    ]


def launched_arrays(launch: Launch) -> list[LaunchedArray]:
    """The arrays of a launch; none for a launch that no scheduler runs."""
    return [
        LaunchedArray(
            name=record["name"],
            script=record["script"],
            jobs=tuple(parse_ids(record["jobs"])),
            pack=record["pack"],
            is_indexed_by_job=record["indexed"] == "job",
            after=record["after"],
            n_workers=record.get("workers"),
            max_retries=_max_retries(record.get("options") or {}),
        )
        for record in (of_scheduler(launch.record) or {}).get("arrays", ())
    ]


def _max_retries(options: Mapping[str, Any]) -> int:
    found = options.get("max_retries")
    return found if isinstance(found, int) else MAX_RETRIES


def is_taken_again(
    last: Attempt,
    attempts: Mapping[int, State],
    planned: int,
    most: int,
    *,
    is_own: bool,
    is_for_others: Callable[[], bool],
) -> bool:
    """Whether a worker takes a job again whose `last` attempt under their launch has ended so, or died with its worker.

    `is_own`: the very worker that had it in hand was started again. `is_for_others`: see `has_ended_for_others`. What
    has died is taken by others, too, as long as of the attempts since the `planned` one fewer than `most` have done so
    before it, with those that still count as RUNNING.

    >>> attempts = {1: State.LOST, 2: State.NODE_FAIL, 3: State.RUNNING}
    >>> last, told = Attempt(JobId(0), 3, State.RUNNING), {"is_own": False, "is_for_others": bool}
    >>> [is_taken_again(last, attempts, 2, most, **told) for most in (0, 1, 2)]
    [False, False, True]
    """
    if last.state in DIED:
        before = (state for number, state in attempts.items() if planned <= number < last.number)
        return is_own or sum(state in DIED for state in before) < most
    return (is_own or last.state is not State.CANCELLED) and is_for_others()


def is_settled(
    since: Attempt | None, anchor: Mapping[str, Any], launch: str | None, *, is_for_others: bool
) -> bool | None:
    """Whether a job, of a task that its scheduler starts again, has ended by itself in it: it failed, ran longer than
    its launch lets it, or people have cancelled it; false for one that is still to be run. None for others: done, not
    begun for good, or begun by another launch.

    `since` is its last attempt under the launch, with its `anchor`; `is_for_others`: see `has_ended_for_others`.
    """
    if since is None:
        return False
    is_unbegun = "unbegun" in anchor
    if since.state in ENDED_WELL or (anchor.get("launch") not in (None, launch) and not is_unbegun):
        return None
    if since.state is State.RUNNING or is_for_others:
        return False
    return None if is_unbegun else True


def left_alone(settled: Mapping[int, bool | None]) -> frozenset[int]:
    """The jobs that a task leaves alone which its scheduler starts again: those that have ended by themselves, where
    others are still to be run; else somebody wants all to run again. See `is_settled`.

    >>> sorted(left_alone({0: True, 1: False, 2: None})), sorted(left_alone({0: True, 1: True, 2: None}))
    ([0], [])
    """
    is_for_others = False in settled.values()
    return frozenset(job_id for job_id, is_settled in settled.items() if is_settled and is_for_others)


def script_paths(folder: Folder, launch: Launch, array: LaunchedArray) -> tuple[str, str]:
    """The script that people submit, and the copy that the launch keeps."""
    return folder.join(array.script), folder.join("launches", launch.number, array.script)


class ArrayNames:
    """By which of our names the arrays of a scheduler are known, whatever they are called there: people, their
    environment (`SBATCH_JOB_NAME`) and sites rename jobs.

    An array that was submitted with a script of ours is known by the name that stands in it; one of which we know the
    id, by that, unless the scheduler tells that it has another script: ids begin again, and may be noted wrongly.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        scripts: Iterable[str],
        names: Iterable[str],
        ids: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`ids` has the names of arrays by the scheduler's ids, as far as these are known."""
        self._scheduler, self._names, self._ids = scheduler, frozenset(names), dict(ids)
        self._looked_at = set[str]()
        self._scripts = {os.path.realpath(script) for script in scripts}
        self._script_names = {os.path.basename(script) for script in self._scripts}

    def rows(self, rows: Iterable[QueueRow]) -> list[QueueRow]:
        """The rows of the queue, those of our arrays with our names."""
        return [row if row.name in self._names else row._replace(name=self._name(row)) for row in rows]

    def runs(self, runs: Iterable[Run]) -> list[Run]:
        """The same of the runs in the history."""
        return [
            run if run.name in self._names else run._replace(name=self._ids.get(run.array, run.name)) for run in runs
        ]

    def _name(self, row: QueueRow) -> str:
        if row.array not in self._looked_at and (row.array in self._ids or self._has_our_script(row)):
            self._looked_at.add(row.array)
            text = self._scheduler.script_of(row.array)
            found = [name for name in re.findall(r"[\w-]+", text or "") if name in self._names]
            if found:
                self._ids[row.array] = found[0]
            elif text is not None:
                self._ids.pop(row.array, None)
        return self._ids.get(row.array, row.name)

    def _has_our_script(self, row: QueueRow) -> bool:
        """Of the rows of others, which may be thousands, no file is looked at."""
        return os.path.basename(row.script) in self._script_names and os.path.realpath(row.script) in self._scripts


def stale_scripts(folder: Folder, kept: Iterable[str]) -> list[str]:
    """Scripts of earlier launches that lie beside the newest ones, and could be submitted by mistake."""
    names = set(os.listdir(folder.path)) - set(kept)
    return [folder.join(name) for name in names if re.fullmatch(r"slurm_scripts(_\d+)?\.sh", name)]


def keep_edited(folder: Folder, before: Launch) -> None:
    """The launch, earlier than that one, whose scripts lie at the top of the experiment has them as they were edited
    there, but for those that were submitted: these stay as they were then."""
    texts = [text for path in stale_scripts(folder, ()) if (text := _read(path)) is not None]
    for number in reversed(launch_numbers(folder)) if texts else ():
        if int(number) >= int(before.number):
            continue
        try:
            launch = read_launch(folder, number)
        except JobRefused as error:
            if isinstance(error, UnreadableLaunch) and error.is_out_of_reach:
                raise  # what was edited would be written over
            continue
        found = [array for array in launched_arrays(launch) if any(_is_of(text, array) for text in texts)]
        if found:
            submission = Submission(folder, launch, is_to_act=False)
            for array in found:
                if submission.array_id(array.name) is None:
                    _script(folder, launch, array, is_needed=False)
            return


def _is_of(text: str, array: LaunchedArray) -> bool:
    """Whether a script is the one of an array."""
    return re.search(rf"{re.escape(array.name)}(?![\w-])", text) is not None


def _about(script: str, error: SchedulerError) -> SchedulerError:
    """The same error, which says of what script."""
    return SchedulerError(f"{os.path.relpath(script)}: {error}", words=error.words, is_doubtful=error.is_doubtful)


def _scheduler(launch: Launch) -> Scheduler:
    found = schedulers.of(launch)
    assert found is not None, "it has arrays"
    return found


def _of_workers(
    folder: Folder, launch: Launch, arrays: Sequence[LaunchedArray], submission: Submission, there: Mapping[str, str]
) -> list[Submitted]:
    """The arrays of workers that have the jobs of a launch which has joined them, and so no scripts. Raises JobRefused
    where they are not there any more."""
    found = []
    for array in arrays:
        array_id = submission.array_id(array.name) or there.get(array.name)
        if array_id is None:
            raise JobRefused(
                f"launch {launch.number} of {folder.path} was to be run by the workers of launch "
                f"{launch.record['joins']}, which have ended; the same sweep, without join, starts others"
            )
        found.append(Submitted(array.name, array_id, script_paths(folder, launch, array)[1], False, False))
    return found


def _before(folder: Folder, launch: Launch, scheduler: Scheduler) -> "Before":
    from experiment_manager.scheduler.upstream import Before  # which asks what this has submitted

    return Before(folder, launch, scheduler)


def _refuse_what_anybody_writes(folder: Folder, launch: Launch, arrays: Sequence[LaunchedArray]) -> None:
    """Raise JobRefused where every user of the machine may change what these arrays are going to run in our name."""
    if not arrays:
        return
    scripts = [path for array in arrays for path in script_paths(folder, launch, array)]
    own = folder.join("launches", launch.number), folder.join(launch.record.get("code") or "code")
    refuse_what_anybody_writes(folder, f"launch {launch.number} of {folder.path} is not submitted", (*own, *scripts))


def _refuse_kept_back(folder: Folder, launch: Launch, array: LaunchedArray) -> None:
    """Raise JobRefused where an array that is to be submitted has jobs that are held, or were removed."""
    if why_not := why_not_begun(folder, array.jobs):
        raise JobRefused(
            f"launch {launch.number} of {folder.path} is not submitted: {why_not}, and "
            f"`experiment-manager script {as_word(folder.path)}` writes scripts of the others"
        )


def _send(
    folder: Folder,
    scheduler: Scheduler,
    launch: Launch,
    array: LaunchedArray,
    submission: Submission,
    script: str,
    after: Dependency,
    send: Send | None,
) -> str:
    _, kept = script_paths(folder, launch, array)  # that at the top may be another one any moment
    try:
        _require_here(folder, kept)
    except FolderError:
        submission.withdraw(array.name)
        raise
    cluster = scheduler.cluster()
    try:
        submission.note_doubt(array.name, _doubtful_until(scheduler, send), cluster)
        slurm_id = (send or scheduler.submit)(kept, after)
    except FolderError:
        submission.note(array.name)
        submission.withdraw(array.name)
        raise
    except SchedulerError as error:
        if not error.is_doubtful:
            submission.note(array.name)
            submission.withdraw(array.name)
            raise _about(script, error) from error
        until = time.time() + SETTLES_S
        submission.note_doubt(array.name, until, cluster)
        found = None
        with suppress(SchedulerError):  # what was said first is what counts
            found = _wait_for(folder, scheduler, launch, array, until)
        if found is None:
            submission.withdraw(array.name)  # what is in doubt is noted
            raise SchedulerError(
                f"{error}. Whether {array.name} was submitted is not known yet; type `experiment-manager submit` again "
                "later: it looks first, and submits nothing twice",
                words=error.words,
                is_doubtful=True,
            ) from error
        slurm_id = found
    submission.note_id(array.name, slurm_id, time.time(), scheduler.name, cluster)
    submission.withdraw(array.name)
    return slurm_id


def _doubtful_until(scheduler: Scheduler, send: Send | None) -> float:
    """Until when a submission that begins now may turn up, whatever becomes of us: the scheduler's own order ends with
    us."""
    return time.time() + (0.0 if send is None else scheduler.order_s) + SETTLES_S


def _refuse_copied(folder: Folder, launch: Launch) -> None:
    """Raise FolderError for a launch of the folder that this one is a copy of."""
    if (place := original(folder, launch)) is not None:
        raise FolderError(
            f"launch {launch.number} was, or is to be, submitted from {place}, of which {folder.path} is a copy: it "
            f"runs the jobs of {place}, and not those of {folder.path}; write scripts of these with "
            f"`experiment-manager script {as_word(folder.path)}`"
        )


def _require_here(folder: Folder, script: str) -> None:
    """Raise FolderError for a script that runs the jobs of another folder: where this one was before, or the one that
    it is a copy of."""
    place = place_in(_read(script) or "")
    if place is not None and not _is_same_place(place, folder.path):
        raise FolderError(
            f"{script} runs the jobs of {place}, and not those of {folder.path}, which was moved, or is a copy; write "
            f"it again with `experiment-manager script {as_word(folder.path)}`"
        )


def original(folder: Folder, launch: Launch) -> str | None:
    """The folder whose jobs the tasks of a launch run, where this one is a copy of that, and has got the launch with
    it; None: it is this folder's own, also where that was moved, and another experiment lies in its old place."""
    by = str(launch.record.get("joins") or launch.number)  # whose workers have its jobs
    with suppress(FolderError, OSError):
        for array in launched_arrays(launch)[:1]:
            place = place_in(_read(folder.join("launches", by, array.script)) or "")
            if place is None or _is_same_place(place, folder.path) or not Folder.at(place).is_experiment():
                return None
            records = [at.join("launches", launch.number, "launch.json") for at in (folder, Folder.at(place))]
            here, there = map(os.stat, records)
            if here.st_dev != there.st_dev and (here.st_ino, here.st_ctime_ns) == (there.st_ino, there.st_ctime_ns):
                return None  # one folder that is mounted twice, as by NFS
            return place if array.name in _names_there(Folder.at(place), launch.number, array.name) else None
    return None


def _names_there(folder: Folder, number: str, name: str) -> list[str]:
    """The names of the arrays of a launch of another folder; the given one where that cannot be read now."""
    try:
        return [array.name for array in launched_arrays(read_launch(folder, number))]
    except UnreadableLaunch:
        return [name]
    except JobRefused:  # there is no such launch
        return []


def _is_same_place(one: str, other: str) -> bool:
    """Whether two paths lead to one folder, which may be mounted in two places."""
    with suppress(OSError):
        return os.path.samefile(one, other)
    return os.path.realpath(one) == os.path.realpath(other)


def place_in(script: str) -> str | None:
    """The folder of the experiment whose jobs the text of a script runs; None where that cannot be told.

    >>> place_in("exec python run --experiment-path '/a b' --experiment-name c --launch 1 $job")
    '/a b/c'
    >>> place_in('["run", "--experiment-path", "/a", "--experiment-name", "c"]')
    '/a/c'
    """
    for words in _words_in(script):
        values = dict(pairwise(words))
        path, name = values.get("--experiment-path"), values.get("--experiment-name")
        if path and name:
            return os.path.join(path, name)
    return None


def _words_in(script: str) -> Iterator[list[str]]:
    """The words of each line, as a shell has them; then all texts, as JSON has them."""
    import json  # which tasks, that import this, may do without
    import shlex

    for line in script.splitlines():
        if "--experiment-path" in line and not line.startswith("#"):
            with suppress(ValueError):  # somebody has edited it
                yield shlex.split(line)
    with suppress(ValueError):
        yield [json.loads(text) for text in re.findall(_TEXT, script)]


def _turns_up(
    folder: Folder,
    scheduler: Scheduler,
    launch: Launch,
    array: LaunchedArray,
    submission: Submission,
    there: dict[str, str],
) -> bool:
    """Whether an array that somebody has begun to submit turns up at the scheduler in time; then it is in `there`."""
    until = submission.doubtful_until(array.name)
    if until is None:
        return False
    seconds = min(until - time.time(), scheduler.order_s + SETTLES_S)  # at most, were clocks to differ
    if seconds > SETTLES_S:
        said = (
            f"the submission of {array.name} was interrupted: waiting up to {seconds:.0f} s to see whether it goes on"
        )
        tell(said)
    found = _wait_for(folder, scheduler, launch, array, time.time() + seconds)
    if found is not None:
        there[array.name] = found
    return found is not None


def _wait_for(folder: Folder, scheduler: Scheduler, launch: Launch, array: LaunchedArray, until: float) -> str | None:
    """The id of an array that may be there; None when it answers and has not heard of it until then."""
    answers_since: float | None = None
    while True:
        try:
            found = _look_up(folder, scheduler, launch, [array])
        except SchedulerError:
            if time.time() >= until:
                raise
        else:
            answers_since = answers_since or time.time()
            if found or time.time() >= max(until, answers_since + ANSWERS_S):
                return found.get(array.name)
        time.sleep(_LOOK_AGAIN_S)


def without_history(scheduler: Scheduler, error: SchedulerError) -> None:
    """People are told, once, that the history of a scheduler does not answer."""
    said = f"{error}. What {scheduler.label} still has in its queue, and what jobs have recorded, has to be enough"
    tell_once(said, f"history of {scheduler.name}")


def _look_up(folder: Folder, scheduler: Scheduler, launch: Launch, arrays: Sequence[LaunchedArray]) -> dict[str, str]:
    """The scheduler's ids of those arrays that it knows, in its queue or in its history, by name.

    Where there is no history, or it does not answer, the anchors of attempts tell of arrays that have ended: of one
    without any, no job has run.
    """
    if not arrays:
        return {}
    names = [array.name for array in arrays]
    found: dict[str, str] = {}
    try:
        runs = scheduler.history(names, float(launch.record["time"]))
    except SchedulerError as error:
        without_history(scheduler, error)
        runs = None
    for run in runs or ():
        if run.name in names:
            found.setdefault(run.name, run.array)
    if runs is None:
        found = _by_anchors(folder, launch, arrays)
    scripts = [path for array in arrays for path in script_paths(folder, launch, array)]
    known = ArrayNames(scheduler, scripts, names)
    for row in known.rows(scheduler.queue({str(launch.record["user"]), user_name()})):
        if row.name in names and (row.phase is not Phase.ENDED or row.name not in found):
            found[row.name] = row.array
    return {name: found[name] for name in names if name in found}


def _refuse_elsewhere(
    folder: Folder, scheduler: Scheduler, launch: Launch, arrays: Sequence[LaunchedArray], submission: Submission
) -> None:
    """Raise JobRefused where another cluster than the one that is asked may have an array already."""
    if not arrays:
        return
    sightings, begun, asked = Sightings(folder, launch), _begun(folder, launch, arrays), scheduler.asked()
    for array in arrays:
        told = (task.cluster for task in begun.get(array.name, ()) if task.cluster is not None)
        known = submission.clusters(array.name).union(sightings.clusters(array.name), told)
        if others := " or ".join(sorted(not_asked(known, asked))):
            raise JobRefused(
                f"launch {launch.number} of {folder.path} is not submitted here: {others} may have its jobs, and "
                f"{who_is_asked(asked)}; submit it there, or write scripts of what is to run here with "
                "`experiment-manager script`"
            )


def _by_anchors(folder: Folder, launch: Launch, arrays: Sequence[LaunchedArray]) -> dict[str, str]:
    """The ids of the arrays, by name, whose tasks have begun a job of theirs."""
    return {name: tasks[0].array or tasks[0].id for name, tasks in _begun(folder, launch, arrays).items()}


def _begun(folder: Folder, launch: Launch, arrays: Sequence[LaunchedArray]) -> dict[str, list[Task]]:
    """Tasks that have begun jobs of the arrays, by the names of these: all that ran the first job that was begun."""
    states, planned, found = States(folder), planned_attempts(launch), dict[str, list[Task]]()
    attempts = states.table().attempts
    for array in arrays:
        for job_id in map(JobId, array.jobs):
            since = [number for number in attempts.get(job_id, ()) if number >= planned[job_id]]
            records = [states.record(job_id, number) for number in since]
            ours = [record for record in records if record.get("launch") == launch.number and scheduler_in(record)]
            if tasks := [task for record in ours if (task := task_in(record)) is not None]:
                found[array.name] = tasks
                break
    return found


def _script(
    folder: Folder, launch: Launch, array: LaunchedArray, *, is_kept: bool = True, is_needed: bool = True
) -> tuple[str, bool]:
    """The script to submit, and whether it was edited: the one at the top when it is of this launch, else its copy.

    Where `is_kept`, the copy of the launch becomes what is submitted. One that is not needed, since it was submitted
    already, may be gone.
    """
    top, kept = script_paths(folder, launch, array)
    text, original = _read(top), _read(kept)
    if text is None or not _is_of(text, array):
        if original is None and is_needed:
            raise FolderError(f"{top} and {kept} are not there any more; write the scripts again")
        return kept, False
    if text != original and is_kept:
        with (
            writing(kept),
            appearing(kept, is_shared=True) as temporary,
            open(temporary, "x", encoding="utf-8") as file,
        ):
            file.write(text)
    return top, text != original


def _read(path: str) -> str | None:
    """The text of a script; None where there is none, or none that is ours to read. Raises FolderError where that
    cannot be seen: an edited one is not passed over."""
    try:
        return looked(lambda: content(path)).decode()
    except Unseen as error:
        raise FolderError(unreadable(path, error)) from error
    except (OSError, UnicodeDecodeError):
        return None


@contextmanager
def _alone(folder: Folder, launch: Launch, wait_s: float) -> Iterator[None]:
    """Inside, nobody else submits this launch, or launches its jobs, and nothing is left of those who were killed while
    they did."""
    from experiment_manager.store.lock import Busy, Lock

    place = folder.join("launches", launch.number)
    try:
        with writing(folder.path):
            folder.require_within(place)
            lock = Lock(os.path.join(place, ".submitting.lock"), wait_s=wait_s)
    except Busy as busy:
        raise FolderError(f"{busy.holder} submits launch {launch.number} of {folder.path}; wait for it") from busy
    try:
        clear_leftovers_in(place)
        with writing(place):
            note_submitting(folder, launch.number)
        yield
    finally:
        note_submitted(folder, launch.number)
        lock.release()
