"""The values that jobs have left at rungs, kept in file names: one listing of a folder tells them, and no file is read.

    rungs/4f1c09ab/9000/7.1.0.25    attempt 1 of job 7 was at 0.25 when it came to the rung at step 9000; an empty file
    rungs/4f1c09ab/9000/8.1.0.5~92e0a1b7    the same of a job that is compared with those of its group alone
    rungs/4f1c09ab/9000/10.1.0.5~~9         the same of a job of the trial of several that job 9 is the first of, and
                                            that counts by their mean
    rungs/4f1c09ab/ended~9~10.1             attempt 1 of job 10 of that trial was told to end, and so are its other jobs
    jobs/7/pruned.1.json            why that attempt was told to end; not there any more if it has gone on all the same

The first folder stands for what makes values comparable, see `Pruner.rungs`: all launches that mean the same share it.
Names of values are made and never changed or removed, so a listing that is behind lacks some and has no wrong one.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

from experiment_manager.store.documents import TEXT, Shape, read_optional
from experiment_manager.store.files import discard, leave_empty, write_json
from experiment_manager.store.layout import Folder

_MARK: Final[Shape] = {"reason": TEXT}
_ENDED: Final = "ended"


class Comparable(NamedTuple):
    """Whom a job is compared with."""

    group: str = ""  # those of the same one; "": those that have none
    trial: str = ""  # the first job of its trial: it counts together with the others; "": by itself


def leave_value(
    folder: Folder, rungs: str, step: float, job_id: int, attempt: int, value: float, whom: Comparable
) -> None:
    """The attempt has left its value at the rung of that step, for those that it is compared with. Raises OSError."""
    place = _place(folder, rungs, step)
    folder.make(place)
    leave_empty(os.path.join(place, f"{job_id}.{attempt}.{value!r}{_suffix(whom)}"))


def _suffix(whom: Comparable) -> str:
    """
    >>> [_suffix(Comparable(*names)) for names in ((), ("g",), ("", "t"), ("g", "t"))]
    ['', '~g', '~~t', '~g~t']
    """
    return "~".join(("", *whom)).rstrip("~")


class Left(NamedTuple):
    """A value at a rung, and who has left it."""

    job_id: int
    attempt: int
    value: float
    whom: Comparable


def values_left(folder: Folder, rungs: str, step: float) -> Iterator[Left]:
    """All values at a rung. Raises OSError."""
    for name in _names(_place(folder, rungs, step)):
        name, *whom = name.split("~")
        job_id, _, rest = name.partition(".")
        attempt, _, value = rest.partition(".")
        if job_id.isdecimal() and attempt.isdecimal() and len(whom) <= len(Comparable._fields):
            with suppress(ValueError):  # of a name that is none of ours
                yield Left(int(job_id), int(attempt), float(value), Comparable(*whom))


def values_by_attempt(folder: Folder, rungs: str, step: float) -> dict[int, dict[int, float]]:
    """The values at a rung: of each job by the attempts that have left one. Raises OSError."""
    return by_attempt(values_left(folder, rungs, step))


def by_attempt(values: Iterable[Left]) -> dict[int, dict[int, float]]:
    """Of each job by the attempts that have left one."""
    found: dict[int, dict[int, float]] = {}
    for left in values:
        found.setdefault(left.job_id, {}).setdefault(left.attempt, left.value)
    return found


def end_trial(folder: Folder, rungs: str, trial: str, job_id: int, attempt: int) -> None:
    """The other jobs of a trial are to end, since this attempt was told to. Raises OSError."""
    place = os.path.join(folder.rungs, rungs)
    folder.make(place)
    leave_empty(_mark(folder, rungs, trial, job_id, attempt))


def go_on_with_trial(folder: Folder, rungs: str, trial: str, job_id: int, attempt: int) -> None:
    """They are not any more, on account of this attempt, which has gone on."""
    discard(_mark(folder, rungs, trial, job_id, attempt))


def who_ended_trial(folder: Folder, rungs: str, trial: str) -> list[tuple[int, int]]:
    """The attempts, each with its job, that were told to end, and the other jobs of their trial with them. Raises
    OSError."""
    found = []
    for name in _names(os.path.join(folder.rungs, rungs)):
        word, *rest = name.split("~")
        job_id, _, attempt = rest[-1].partition(".") if rest else ("", "", "")
        if [word, *rest[:-1]] == [_ENDED, trial] and job_id.isdecimal() and attempt.isdecimal():
            found.append((int(job_id), int(attempt)))
    return found


def _mark(folder: Folder, rungs: str, trial: str, job_id: int, attempt: int) -> str:
    return os.path.join(folder.rungs, rungs, f"{_ENDED}~{trial}~{job_id}.{attempt}")


def newest(values: Mapping[int, Mapping[int, float]]) -> dict[int, float]:
    """The value that counts of each job: that of its newest attempt which has left one.

    >>> newest({7: {1: 0.5, 3: 0.25}, 8: {1: 2.0}})
    {7: 0.25, 8: 2.0}
    """
    return {job_id: attempts[max(attempts)] for job_id, attempts in values.items()}


def rung_values(folder: Folder, rungs: str) -> dict[int, dict[float, float]]:
    """What counts at all rungs: of each job its values by the steps of the rungs, in order. Raises OSError."""
    found: dict[int, dict[float, float]] = {}
    for step in rung_steps(folder, rungs):
        for job_id, value in newest(values_by_attempt(folder, rungs, step)).items():
            found.setdefault(job_id, {})[step] = value
    return found


def last_rungs(folder: Folder) -> dict[int, float]:
    """The step of the last rung that each job has come to, whatever pruned it. Raises OSError."""
    found: dict[int, float] = {}
    for rungs in _names(folder.rungs):
        for job_id, values in rung_values(folder, rungs).items():
            found[job_id] = max(found.get(job_id, 0.0), *values)
    return found


def rung_steps(folder: Folder, rungs: str) -> list[float]:
    """The steps of the rungs that some job has come to, in order. Raises OSError."""
    found = []
    for name in _names(os.path.join(folder.rungs, rungs)):
        with suppress(ValueError):
            found.append(float(name))
    return sorted(filter(math.isfinite, found))


def _place(folder: Folder, rungs: str, step: float) -> str:
    return os.path.join(folder.rungs, rungs, step_text(step))


def step_text(step: float) -> str:
    """A step as people write it.

    >>> step_text(9000.0), step_text(0.5)
    ('9000', '0.5')
    """
    return str(int(step)) if step == int(step) else repr(step)


def _names(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []


def mark_pruned(folder: Folder, job_id: int, attempt: int, *, reason: str) -> None:
    """It is on disk that the attempt was told to end, and why. Raises OSError."""
    write_json(folder.of_attempt(job_id, attempt, "pruned"), {"reason": reason})


def unmark_pruned(folder: Folder, job_id: int, attempt: int) -> None:
    """The attempt was not told to end, or has gone on."""
    discard(folder.of_attempt(job_id, attempt, "pruned"))


def why_pruned(folder: Folder, job_id: int, attempt: int, *, must_know: bool = False) -> str | None:
    """Why the attempt was told to end; None: it was not, or has gone on; `must_know`: see `read_optional`."""
    path = folder.of_attempt(job_id, attempt, "pruned")
    found: dict[str, Any] = read_optional(path, _MARK, must_know=must_know)
    return found.get("reason")
