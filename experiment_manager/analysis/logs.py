"""The output of an attempt, as it was printed, or as it comes while it runs: `experiment-manager logs`."""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from experiment_manager.errors import ResultError
from experiment_manager.model.records import UNFINISHED, Attempt, State
from experiment_manager.scheduler.reconcile import ASK_AT_MOST_EVERY_S, ASK_FIRST_S
from experiment_manager.store.documents import opened
from experiment_manager.store.files import unreadable
from experiment_manager.store.layout import Folder
from experiment_manager.store.states import States
from experiment_manager.text import tell

_CHUNK: Final = 1 << 16
_POLL_S: Final = 0.5


STREAMS: Final = ("stdout", "stderr")
Piece = tuple[str, bytes]
"""Which of the STREAMS, and what was printed on it."""


def log_paths(folder: Folder, job_id: int, attempt: int | None, *, kind: str = "stdout") -> list[str]:
    """The logs of an attempt, of the last one by default; one for each rank of a job with several tasks.

    Raises ResultError when the job has no such attempt, or the attempt has no such log.
    """
    number = _attempt(folder, job_id, attempt)
    found = _logs(folder, job_id, number, kind)
    if not found:
        raise ResultError(f"attempt {number} of job {job_id} of {folder.path} has left no {kind}")
    return found


def printed(folder: Folder, job_id: int, attempt: int | None) -> Iterator[Piece]:
    """The output of an attempt, the last one by default: one stream after the other, rank by rank.

    Raises ResultError when the job has no such attempt.
    """
    number = _attempt(folder, job_id, attempt)
    for kind in STREAMS:
        for path in _logs(folder, job_id, number, kind):
            yield from ((kind, piece) for piece in read(path))


def _attempt(folder: Folder, job_id: int, attempt: int | None) -> int:
    numbers = [each.number for each in States(folder).attempts(job_id)]
    if not numbers:
        raise ResultError(f"job {job_id} of {folder.path} has not run yet, so it has no logs")
    number = numbers[-1] if attempt is None else attempt
    if number not in numbers:
        there = ", ".join(map(str, numbers))
        raise ResultError(f"job {job_id} of {folder.path} has no attempt {number}; its attempts are {there}")
    return number


def marked(pieces: Iterable[Piece]) -> Iterator[bytes]:
    """Both streams as one, with a line at every change that tells which one follows, as of `tail` for several files;
    what a job has printed on standard output alone is as it was printed.

    >>> list(marked([("stdout", b"a"), ("stderr", b"b\\n")]))
    [b'a', b'\\n==> stderr <==\\n', b'b\\n']
    """
    before, last = STREAMS[0], b"\n"
    for kind, piece in pieces:
        if kind != before:
            yield (b"" if last.endswith(b"\n") else b"\n") + f"==> {kind} <==\n".encode()
        yield piece
        before, last = kind, piece


def _logs(folder: Folder, job_id: int, number: int, kind: str) -> list[str]:
    """The logs of an attempt that there are by now: that of all its ranks, then one for each rank, in order."""
    try:
        names = os.listdir(folder.job(job_id))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ResultError(unreadable(folder.job(job_id), error)) from error
    whole = os.path.basename(folder.of_attempt(job_id, number, kind))
    of_a_rank = re.compile(re.escape(whole.removesuffix(".log")) + r"\.rank([0-9]+)\.log")
    ranks = {int(match[1]): match[0] for match in map(of_a_rank.fullmatch, names) if match}
    found = [whole] if whole in names else []
    return [folder.join("jobs", str(job_id), name) for name in [*found, *(ranks[rank] for rank in sorted(ranks))]]


def last_output(folder: Folder, job_id: int, attempt: int) -> float | None:
    """When an attempt has printed anything on either stream, in any of its ranks, or logged metrics, for the last time,
    in seconds since the epoch; None where it has no such file, or nobody can look."""
    is_output = re.compile(rf"(stdout|stderr)\.{attempt}(\.rank[0-9]+)?\.log|metrics\.{attempt}\.jsonl").fullmatch
    try:
        with os.scandir(folder.job(job_id)) as entries:
            return max((entry.stat().st_mtime for entry in entries if is_output(entry.name)), default=None)
    except OSError:
        return None


def read(path: str, at: int = 0) -> Iterator[bytes]:
    """A log from that byte on, in pieces, however large it is; nothing where there is none.

    Raises ResultError when it cannot be read.
    """
    try:
        with opened(path) as file:
            file.seek(at)
            while piece := file.read(_CHUNK):
                yield piece
    except FileNotFoundError:
        return
    except OSError as error:
        raise ResultError(unreadable(path, error)) from error


def followed(folder: Folder, job_id: int, *, kind: str, state: Callable[[], State]) -> Iterator[bytes]:
    """The output on one of the STREAMS, as `followed_streams` yields it."""
    return (piece for _, piece in followed_streams(folder, job_id, (kind,), state))


def followed_streams(folder: Folder, job_id: int, kinds: Sequence[str], state: Callable[[], State]) -> Iterator[Piece]:
    """The output of the last attempt, all its ranks, as it comes, and then that of the next one, until the job ends.

    `state` tells what the job is, with SLURM asked: one that waits to be started again has not ended, and one whose
    node was lost has. It is called when the files tell of a change, and else ever more seldom.
    """
    at: dict[str, int] = {}  # how much of each log is told
    known: list[Attempt] | None = None
    first, pause, ask_at = 0, ASK_FIRST_S, 0.0
    has_ended = False
    while True:
        attempts = States(folder).attempts(job_id)
        first = first or (attempts[-1].number if attempts else 0)
        if not attempts and known is None:
            tell(f"waiting for job {job_id} of {folder.path} to begin")
        for number in (each.number for each in attempts if each.number >= first):
            for kind, path in ((stream, path) for stream in kinds for path in _logs(folder, job_id, number, stream)):
                for piece in read(path, at.get(path, 0)):
                    at[path] = at.get(path, 0) + len(piece)
                    yield kind, piece
        if has_ended:  # before its logs were read for the last time
            return
        first = attempts[-1].number if attempts else 0
        if attempts != known:
            known, pause, ask_at = attempts, ASK_FIRST_S, 0.0
        if time.monotonic() >= ask_at:
            has_ended = state() not in UNFINISHED
            pause = min(pause * 1.5, ASK_AT_MOST_EVERY_S)
            ask_at = time.monotonic() + pause
        if not has_ended:
            time.sleep(_POLL_S)
