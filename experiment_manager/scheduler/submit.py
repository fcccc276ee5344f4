"""Submitting the scripts of a launch, so that it may be interrupted anywhere and typed again.

A submission can fail and yet have been taken, and it can be killed. So before each one the intent is on disk, under a
name that nobody else uses, and afterwards the scheduler's id; what is in doubt is looked up by name before it is
submitted again.
"""

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from experiment_manager.errors import FolderError, JobRefused, SchedulerError, UnreadableLaunch
from experiment_manager.model.records import Launch
from experiment_manager.scheduler import schedulers
from experiment_manager.scheduler.protocol import Phase, Scheduler, Send
from experiment_manager.scheduler.submissions import LaunchedArray, Submission, launched_arrays, script_paths
from experiment_manager.store.documents import content
from experiment_manager.store.files import appearing
from experiment_manager.store.launches import launch_numbers, read_launch, user_name
from experiment_manager.store.layout import Folder, writing
from experiment_manager.text import as_word, tell

SETTLES_S: Final = 10.0
"""How long a scheduler may take to know a job whose submission seemed to fail (SLURM's accounting: 0.2 to 0.85 s
measured)."""

ANSWERS_S: Final = 2.0
"""How long it has to answer, not having heard of a job, before that is believed: what had piled up while it was
away is done first."""

_LOOK_AGAIN_S: Final = 1.0
_LOCK_WAIT_S: Final = 300.0


class Submitted(NamedTuple):
    """What became of one array."""

    name: str
    slurm_id: str
    script: str
    is_new: bool  # submitted just now, and not found to be there
    is_edited: bool  # somebody has changed the script since it was written


def newest_launch(folder: Folder, number: str | None = None) -> Launch:
    """The newest launch that a scheduler is to run, or the one of that number. Raises JobRefused when there is none."""
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
        if launched_arrays(launch):
            return launch
    raise JobRefused(
        f"{folder.path} has no SLURM scripts yet; write them with hydra/launcher=slurm_script, or with "
        f"`experiment-manager script {as_word(folder.path)}`"
    )


def submit(folder: Folder, launch: Launch, *, send: Send | None = None) -> list[Submitted]:
    """Every array of the launch is submitted once, whatever has happened to earlier tries.

    `send` submits one script, where the scheduler itself is not to. Raises SchedulerError with the scheduler's words:
    what was submitted before stays recorded, the rest is not.
    """
    scheduler = _scheduler(launch)
    scheduler.require()
    arrays = launched_arrays(launch)
    with _alone(folder, launch), writing(folder.path):
        submission = Submission(folder, launch)
        there = _look_up(scheduler, launch, [array for array in arrays if submission.array_id(array.name) is None])
        done: list[Submitted] = []
        for array in arrays:
            script, is_edited = _script(folder, launch, array)
            slurm_id = submission.array_id(array.name)
            if slurm_id is None and (array.name in there or _turns_up(scheduler, launch, array, submission, there)):
                slurm_id = there[array.name]
                submission.note(
                    array.name, **{f"{scheduler.name}_id": slurm_id}, submitted=float(launch.record["time"])
                )
            is_new = slurm_id is None
            if slurm_id is None:
                after = None if array.after is None else done[array.after].slurm_id
                slurm_id = _send(scheduler, launch, array, submission, script, after, send)
            done.append(Submitted(array.name, slurm_id, script, is_new, is_edited))
    return done


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


def _about(script: str, error: SchedulerError) -> SchedulerError:
    """The same error, which says of what script."""
    return SchedulerError(f"{os.path.relpath(script)}: {error}", words=error.words, is_doubtful=error.is_doubtful)


def _scheduler(launch: Launch) -> Scheduler:
    found = schedulers.of(launch)
    assert found is not None, "it has arrays"
    return found


def _send(
    scheduler: Scheduler,
    launch: Launch,
    array: LaunchedArray,
    submission: Submission,
    script: str,
    after: str | None,
    send: Send | None,
) -> str:
    survives_us = 0.0 if send is None else scheduler.order_s  # the scheduler's own order ends with us
    submission.note(array.name, doubtful_until=time.time() + survives_us + SETTLES_S)
    try:
        slurm_id = (send or scheduler.submit)(script, after)
    except FolderError:
        submission.note(array.name)
        raise
    except SchedulerError as error:
        if not error.is_doubtful:
            submission.note(array.name)
            raise _about(script, error) from error
        until = time.time() + SETTLES_S
        submission.note(array.name, doubtful_until=until)
        found = None
        with suppress(SchedulerError):  # what was said first is what counts
            found = _wait_for(scheduler, launch, array, until)
        if found is None:
            raise SchedulerError(
                f"{error}. Whether {array.name} was submitted is not known yet; type `experiment-manager submit` again "
                "later: it looks first, and submits nothing twice",
                words=error.words,
                is_doubtful=True,
            ) from error
        slurm_id = found
    submission.note(array.name, **{f"{scheduler.name}_id": slurm_id}, submitted=time.time())
    return slurm_id


def _turns_up(
    scheduler: Scheduler, launch: Launch, array: LaunchedArray, submission: Submission, there: dict[str, str]
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
    found = _wait_for(scheduler, launch, array, time.time() + seconds)
    if found is not None:
        there[array.name] = found
    return found is not None


def _wait_for(scheduler: Scheduler, launch: Launch, array: LaunchedArray, until: float) -> str | None:
    """The id of an array that may be there; None when it answers and has not heard of it until then."""
    answers_since: float | None = None
    while True:
        try:
            found = _look_up(scheduler, launch, [array])
        except SchedulerError:
            if time.time() >= until:
                raise
        else:
            answers_since = answers_since or time.time()
            if found or time.time() >= max(until, answers_since + ANSWERS_S):
                return found.get(array.name)
        time.sleep(_LOOK_AGAIN_S)


def _look_up(scheduler: Scheduler, launch: Launch, arrays: Sequence[LaunchedArray]) -> dict[str, str]:
    """The scheduler's ids of those arrays that it knows, in its queue or in its history, by name."""
    if not arrays:
        return {}
    names = [array.name for array in arrays]
    found: dict[str, str] = {}
    for run in scheduler.history(names, float(launch.record["time"])) or ():
        if run.name in names:
            found.setdefault(run.name, run.array)
    for row in scheduler.queue({str(launch.record["user"]), user_name()}):
        if row.name in names and (row.phase is not Phase.ENDED or row.name not in found):
            found[row.name] = row.array
    return {name: found[name] for name in names if name in found}


def _script(folder: Folder, launch: Launch, array: LaunchedArray, *, is_kept: bool = True) -> tuple[str, bool]:
    """The script to submit, and whether it was edited: the one at the top when it is of this launch, else its copy.

    Where `is_kept`, the copy of the launch becomes what is submitted.
    """
    top, kept = script_paths(folder, launch, array)
    text, original = _read(top), _read(kept)
    if text is None or re.search(rf"{re.escape(array.name)}(?![\w-])", text) is None:
        if original is None:
            raise FolderError(f"{top} and {kept} are not there any more; write the scripts again")
        return kept, False
    if text != original and is_kept:
        with writing(kept), appearing(kept) as temporary, open(temporary, "x", encoding="utf-8") as file:
            file.write(text)
    return top, text != original


def _read(path: str) -> str | None:
    try:
        return content(path).decode()
    except (OSError, UnicodeDecodeError):
        return None


@contextmanager
def _alone(folder: Folder, launch: Launch) -> Iterator[None]:
    """Inside, nobody else submits this launch."""
    from experiment_manager.store.lock import Busy, Lock

    try:
        with writing(folder.path):
            lock = Lock(folder.join("launches", launch.number, ".submitting.lock"), wait_s=_LOCK_WAIT_S)
    except Busy as busy:
        raise FolderError(f"{busy.holder} submits launch {launch.number} of {folder.path}; wait for it") from busy
    try:
        yield
    finally:
        lock.release()
