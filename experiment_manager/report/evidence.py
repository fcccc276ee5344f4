"""The failures and launches of a report: reasons with the ends of logs, and who started what, from which
commit."""

import os
import re
import shlex
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from experiment_manager.analysis.jobs import tail
from experiment_manager.analysis.status import Trouble
from experiment_manager.errors import JobRefused, UnreadableLaunch
from experiment_manager.model.ids import format_ids
from experiment_manager.model.records import Launch
from experiment_manager.scheduler.submission import Submission, launched_arrays
from experiment_manager.store.launches import launch_numbers, read_launch
from experiment_manager.store.layout import Folder
from experiment_manager.store.states import StateTable
from experiment_manager.text import skipped

MOST_FAILURES: Final = 30
MOST_LAUNCHES: Final = 100
_LONGEST_LINE: Final = 500
_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f]")


class Failure(NamedTuple):
    """Jobs that ended the same bad way, and the end of the log of the first one."""

    state: str
    reason: str
    n_jobs: int
    ids: str
    job: int
    log: str  # its path
    lines: tuple[str, ...]


class Handed(NamedTuple):
    """One launch, for people."""

    number: str
    when: str
    who: str
    cwd: str
    command: str
    commit: str
    is_dirty: bool | None  # None: git could not tell
    jobs: str
    slurm: str  # what SLURM calls it


def failures(folder: Folder, troubles: Sequence[Trouble], table: StateTable) -> list[Failure]:
    """The troubles, those of most jobs first."""
    found = []
    for trouble in sorted(troubles, key=lambda trouble: -len(trouble.ids))[:MOST_FAILURES]:
        job_id = trouble.ids[0]
        log, lines = _end_of_log(folder, job_id, table.last(job_id).number)
        ids = format_ids(trouble.ids)
        found.append(Failure(str(trouble.state), trouble.reason, len(trouble.ids), ids, job_id, log, tuple(lines)))
    return found


def _end_of_log(folder: Folder, job_id: int, attempt: int) -> tuple[str, list[str]]:
    for kind in ("stderr", "stdout"):
        path = folder.of_attempt(job_id, attempt, kind)
        lines = [readable(line) for line in tail(path)]
        if any(line.strip() for line in lines):
            return os.path.relpath(path, folder.path), lines
    return "", []


def readable(line: str) -> str:
    """A line of a log without colours and control characters, and not too long.

    >>> readable("\\x1b[31mred\\x1b[0m\\x07 alert")
    'red alert'
    """
    text = _ESCAPES.sub("", line)
    return text if len(text) <= _LONGEST_LINE else text[:_LONGEST_LINE] + " …"


def launches(folder: Folder) -> tuple[list[Handed], int]:
    """The newest launches, newest first, and how many there are. One that cannot be read is named and skipped."""
    numbers, found = launch_numbers(folder), []
    for number in reversed(numbers[-MOST_LAUNCHES:]):
        try:
            found.append(_handed(folder, read_launch(folder, number)))
        except UnreadableLaunch as error:
            skipped(str(error))
        except JobRefused:  # whoever made its folder was ended before its record: nothing was handed over
            continue
    return found, len(numbers)


def _handed(folder: Folder, launch: Launch) -> Handed:
    record = launch.record
    submission = Submission(folder, launch, is_to_act=False)
    slurm_ids = (submission.array_id(array.name) for array in launched_arrays(launch))
    return Handed(
        number=launch.number,
        when=moment(record.get("time") or 0),
        who=f"{record.get('user')} on {record.get('host')}",
        cwd=str(record.get("cwd") or ""),
        command=command_line(record.get("argv") or ()),
        commit=str(record.get("git_commit") or ""),
        is_dirty=record.get("git_dirty"),
        jobs=", ".join(ids for ids in record["jobs"].values() if ids),
        slurm=", ".join(slurm_id for slurm_id in slurm_ids if slurm_id),
    )


def moment(seconds: Any) -> str:
    """`2026-03-01 14:05:00 +0100`, in the time zone of this machine."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(float(seconds)))


def command_line(argv: Sequence[Any]) -> str:
    """The command as one would type it; the interpreter by its name alone.

    >>> command_line(["/usr/bin/python3", "train.py", "-m", "note=two words"])
    "python3 train.py -m 'note=two words'"
    """
    words = [str(word) for word in argv]
    return shlex.join([os.path.basename(words[0]), *words[1:]]) if words else ""
