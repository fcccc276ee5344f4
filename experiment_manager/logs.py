"""What an attempt has printed, and what it prints while it runs: `experiment-manager logs`."""

import os
import time
from collections.abc import Callable, Iterator
from typing import Final

from experiment_manager.disk.folder import Folder
from experiment_manager.disk.states import States
from experiment_manager.errors import ResultError
from experiment_manager.records import State

KINDS: Final = ("stdout", "stderr")
_CHUNK: Final = 1 << 16
_POLL_S: Final = 0.2


def log_paths(folder: Folder, job_id: int, attempt: int | None, *, kind: str = "stdout") -> list[str]:
    """The logs of an attempt, of the last one by default; one for each rank of a job with several tasks.

    Raises ResultError when the job has no such attempt, or the attempt has no such log.
    """
    numbers = [each.number for each in States(folder).attempts(job_id)]
    if not numbers:
        raise ResultError(f"job {job_id} of {folder.path} has not run yet, so it has no logs")
    number = numbers[-1] if attempt is None else attempt
    if number not in numbers:
        there = ", ".join(map(str, numbers))
        raise ResultError(f"job {job_id} of {folder.path} has no attempt {number}; its attempts are {there}")
    path = folder.of_attempt(job_id, number, kind)
    stem, ending = os.path.splitext(os.path.basename(path))
    try:
        names = sorted(os.listdir(folder.job(job_id)), key=lambda name: (len(name), name))
    except (FileNotFoundError, NotADirectoryError):
        names = []
    except OSError as error:
        raise ResultError(f"{folder.job(job_id)} cannot be read: {error.strerror or error}") from error
    ranks = [
        name for name in names if name.startswith(f"{stem}.") and name.endswith(ending) and name != f"{stem}{ending}"
    ]
    found = [folder.join("jobs", str(job_id), name) for name in ranks]
    if os.path.exists(path):
        found.insert(0, path)
    if not found:
        raise ResultError(f"attempt {number} of job {job_id} of {folder.path} has left no {kind}")
    return found


def read(path: str) -> Iterator[bytes]:
    """A log in pieces, however large it is. Raises ResultError when it cannot be read."""
    try:
        with open(path, "rb") as file:
            while piece := file.read(_CHUNK):
                yield piece
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror or error}") from error


def followed(folder: Folder, job_id: int, *, kind: str, state: Callable[[], State]) -> Iterator[bytes]:
    """What the last attempt has printed and prints, and then what the next one does, until the job has ended.

    `state` tells what the job is, with SLURM asked: one that waits to be started again has not ended.
    """
    number, at = 0, 0
    while True:
        attempts = States(folder).attempts(job_id)
        last = attempts[-1] if attempts else None
        if last is not None and last.number != number:
            number, at = last.number, 0
        pieces = list(_news(folder.of_attempt(job_id, number, kind), at)) if number else []
        at += sum(map(len, pieces))
        yield from pieces
        if pieces or (last is not None and last.state is State.RUNNING):
            time.sleep(_POLL_S)
        elif state() not in (State.PENDING, State.QUEUED, State.RUNNING):
            return
        else:
            time.sleep(5 * _POLL_S)


def _news(path: str, at: int) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            file.seek(at)
            while piece := file.read(_CHUNK):
                yield piece
    except FileNotFoundError:
        return
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror or error}") from error
