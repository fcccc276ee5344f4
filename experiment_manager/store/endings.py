"""How attempts end: on request, recorded on a full disk, too, and found out where nobody has recorded it.

    jobs/7/attempt.1.json    how it ended; which state it is in, its name in `states/` tells, and nothing here
    states/.7.1.cancel       who asks it to end, from any machine that shares the folder, and which process is meant;
                             gone when the attempt has ended

Only a supervisor looks for a request, and says so in its anchor. It is for the process that the anchor names, and for
no later one whose attempt bears the same number.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from experiment_manager.errors import JobRefused, UnreadableRecord
from experiment_manager.model.records import ENDED, State
from experiment_manager.store import processes, reserve
from experiment_manager.store.documents import (
    END,
    MOST_RESULT_BYTES,
    REQUEST,
    RESULT,
    content,
    is_newer,
    load,
    read_optional,
)
from experiment_manager.store.files import (
    Unseen,
    asked_again,
    clear_leftovers_in,
    discard,
    is_temporary,
    looked,
    write_json,
)
from experiment_manager.store.layout import Folder
from experiment_manager.text import tell_once
from experiment_manager.typing_names import Any, Final, NamedTuple

_UNWRITTEN: Final = "how it ended could not be written: the disk was full, or had failed"
_OF_NEWER_FORMAT: Final = "of a newer format"
_UNTOLD: Final = {"type": "OSError", "message": "what it left could not be written: the disk was full, or had failed"}
_SINCE: Final = {State.PRUNED: 2}
"""The states that not every version knows, and the first format of which a reader knows it; all others are of 1."""

_ENDED_WORDS: Final = frozenset(map(str, ENDED))

LOOKS: Final = "looks_for_requests"
"""In an anchor: every how many seconds the process looks."""


def needed_format(state: State | None) -> int:
    """The least format that keeps off those versions which do not know the state: its name in `states/` tells them
    nothing, and they would take the attempt for one that nothing runs any more.

    >>> needed_format(State.COMPLETED), needed_format(State.PRUNED)
    (1, 2)
    """
    return 1 if state is None else _SINCE.get(state, 1)


class Ending(NamedTuple):
    """How an attempt ended, and its record."""

    state: State
    record: Mapping[str, Any]


class Endings:
    """The ends of the attempts of one experiment."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def keep(self, job_id: int, start: float) -> dict[str, str | None]:
        """There is space for what an attempt of the job will leave, if there is any. Raises OSError when the disk is
        full: then there is no sense in beginning."""
        result, record = (self._folder.of_attempt(job_id, 0, kind) for kind in ("result", "attempt"))
        kept = {"result": reserve.keep(result, _UNTOLD)}
        try:
            kept["attempt"] = reserve.keep(
                record, {"reason": _UNWRITTEN, "start": start, "stopped": False, "format": 1}
            )
        except OSError:
            self.discard(kept)
            raise
        return kept

    def discard(self, kept: Mapping[str, str | None]) -> None:
        """The space is free again, unless an attempt has it."""
        for name in kept.values():
            if name is not None:
                discard(name)

    def begin(self, job_id: int, attempt: int, kept: Mapping[str, str | None]) -> None:
        """The attempt has the space, and no file tells how it ended before it has begun: somebody may have removed
        `states/` to start anew."""
        for kind in ("result", "error", "attempt"):
            path = self._folder.of_attempt(job_id, attempt, kind)
            with suppress(FileNotFoundError):
                os.unlink(path)
            name = kept.get(kind)
            if name is None:
                reserve.release(path)
            else:
                reserve.assign(name, path)
        self.clear_leftovers(job_id)

    def clear_leftovers(self, job_id: int) -> None:
        """Half-written files of killed processes are gone from the job's directory."""
        place = self._folder.job(job_id)
        with suppress(OSError):
            if any(map(is_temporary, os.listdir(place))):
                self._folder.require_within(place)
                clear_leftovers_in(place)

    def note_stop(self, job_id: int, attempt: int, about: Mapping[str, Any], *, had_result: bool) -> None:
        """The attempt was told to stop, before it had left its result or after that: for whoever finds it without an
        end, see `found`."""
        body = {"reason": _UNWRITTEN, **about, "stopped": not had_result, "format": 1}
        reserve.note(self._folder.of_attempt(job_id, attempt, "attempt"), body)

    def write(
        self, job_id: int, attempt: int, state: State, record: Mapping[str, Any], *, for_good: bool = True
    ) -> None:
        """The record is on disk, or people are told, once, why it is not: this never raises for the sake of a disk."""
        path = self._folder.of_attempt(job_id, attempt, "attempt")
        body = {"state": state, **record, "format": needed_format(state)}
        try:
            _twice(lambda: self._folder.make(self._folder.job(job_id), is_shared=True))
            if not for_good:
                _twice(lambda: write_json(path, body, for_good=False, is_shared=True))
                return
            reserve.write(path, body)
        except OSError as error:
            with suppress(OSError):
                reserve.leave(path)
            tell_once(f"records of attempts cannot be written in {self._folder.path}: {error.strerror or error}")
        for kind in ("result", "attempt"):
            reserve.release(self._folder.of_attempt(job_id, attempt, kind))

    def left(self, job_id: int, attempt: int, tell: Callable[[str], None]) -> tuple[dict[str, Any], str | None]:
        """The result that the attempt has left, read back, and why it cannot be, where there is one that cannot.

        `tell` hears of a file system that errs and is asked again.
        """
        path, trouble = self._folder.of_attempt(job_id, attempt, "result"), "its result cannot be read back"
        try:
            result = asked_again(lambda: load(path, MOST_RESULT_BYTES), tell)
        except FileNotFoundError:
            return {}, None
        except (OSError, ValueError, RecursionError) as error:
            return {}, f"{trouble}: {getattr(error, 'strerror', None) or error}"
        if is_newer(result, RESULT):  # the package was updated meanwhile: the job has left what the newer one reads
            return {"result": _OF_NEWER_FORMAT, **result}, None
        return (result, None) if isinstance(result, dict) and "result" in result else ({}, f"{trouble}: it is damaged")

    def found(self, job_id: int, attempt: int, about: Mapping[str, Any]) -> Ending | None:
        """How an attempt ended that nothing runs any more: as it is recorded, by a supervisor that was killed before
        its name told, or has renamed it where nobody here sees that yet; else by the complete result that it left; None
        for any other.

        Of that nobody knows the exit status, and nobody needs to: its task had returned. `about` is what its anchor
        tells. Raises NewerRecord where a newer version has recorded how it ended, or what it has left, and
        UnreadableRecord where a disk does not give that.
        """
        from experiment_manager.model.policy import left_result  # those who begin do not wait for it
        from experiment_manager.store.rungs import why_pruned

        path = self._folder.of_attempt(job_id, attempt, "result")
        told = read_optional(self._folder.of_attempt(job_id, attempt, "attempt"), END, must_know=True)
        if (word := told.get("state")) in _ENDED_WORDS:
            return Ending(State(word), {key: told[key] for key in told if key not in ("state", "format")})
        result = read_optional(path, RESULT, most=MOST_RESULT_BYTES, must_know=True)
        noted = reserve.noted(self._folder.of_attempt(job_id, attempt, "attempt"), must_know=True)
        pruned = why_pruned(self._folder, job_id, attempt, must_know=True) if result else None
        if pruned is None and not left_result(result, was_stopped=noted.get("stopped") is not False):
            return None
        try:
            ended = looked(lambda: os.stat(path).st_mtime)
        except Unseen as error:
            raise UnreadableRecord(path, error.strerror or str(error), is_out_of_reach=True) from error
        except OSError:
            return None
        who = f"process {os.getpid()} on {os.uname().nodename}"
        record = {
            "reason": f"recorded by {who} after its supervisor was killed: it had left its result",
            "exit_code": None,
            "start": about.get("start"),
            "end": ended,
            **{key: noted[key] for key in ("arguments",) if key in noted},
        }
        state = State.FAKE if result.get("fake") else State.COMPLETED if pruned is None else State.PRUNED
        if state is State.COMPLETED:
            record["has_result"] = True
        return Ending(state, record if pruned is None else {**record, "reason": f"{pruned}; {record['reason']}"})


def mark_of(folder: Folder, job_id: int, attempt: int) -> str:
    """The mark of a process that runs an attempt: the very file of its anchor. Raises OSError."""
    anchor = os.stat(folder.join("states", f"{job_id}.{attempt}"))
    return f"experiment-manager {job_id}.{attempt} {anchor.st_dev:x}:{anchor.st_ino:x}"


def bear_mark(folder: Folder, job_id: int, attempt: int) -> str:
    """This process bears the mark, which is returned, as long as it runs or until it is taken away; "" where that
    cannot be, and requests alone reach it."""
    try:
        name = mark_of(folder, job_id, attempt)
    except OSError:
        return ""
    processes.mark(name)
    return name


def read_anchor(folder: Folder, job_id: int, attempt: int) -> bytes | None:
    """What the anchor of an attempt says, as of no other attempt, of whatever experiment; None where it is not seen."""
    with suppress(OSError):
        return looked(lambda: content(folder.join("states", f"{job_id}.{attempt}")))
    return None


def are_others(found: bytes | None, ours: bytes | None) -> bool:
    """Whether one anchor is certainly not the other one, though their attempts have one number: an experiment was
    removed, or moved, and another one was made in its place. A file that lost its end with a disk is not told apart.

    >>> are_others(b'{"pid": 2}', b'{"pid": 1}'), are_others(b"", b'{"pid": 1}'), are_others(None, b'{"pid": 1}')
    (True, False, False)
    """
    return None not in (found, ours) and found != ours and bytes(found or b"").endswith(b"}")


def is_overtaken(folder: Folder, job_id: int, attempt: int, ours: bytes | None) -> bool:
    """Whether the attempt of that number is certainly not ours any more, as its anchor says; False where nobody has
    noted ours."""
    return ours is not None and are_others(read_anchor(folder, job_id, attempt), ours)


def require_ours(folder: Folder, job_id: int, attempt: int, ours: bytes | None) -> None:
    """Raise JobRefused where the attempt of that number is not ours any more: see `is_overtaken`."""
    if is_overtaken(folder, job_id, attempt, ours):
        raise JobRefused(
            f"what attempt {attempt} of job {job_id} leaves is not kept: {folder.path} was made anew since it began, "
            "and the attempt of that number there is another one"
        )


def _twice(write: Callable[[], object]) -> None:
    """A disk may err once; there may be thousands, so nothing waits for it. Raises OSError."""
    try:
        write()
    except OSError:
        write()


def ask_to_end(folder: Folder, job_id: int, attempt: int, *, record: Mapping[str, Any], by: str) -> None:
    """Whoever the record of an anchor names is asked to end the attempt. Raises OSError."""
    asked = {"by": by, "host": os.uname().nodename, "time": time.time(), "process": _identity(record)}
    write_json(_path(folder, job_id, attempt), asked, is_shared=True)


def asked_to_end(
    folder: Folder,
    job_id: int,
    attempt: int,
    record: Mapping[str, Any] | None = None,
    *,
    tell: Callable[[str], None] = lambda _: None,
) -> str | None:
    """Who has asked the process of that record, or this one, to end the attempt, in words; None when nobody has, or
    another process was meant. `tell` hears of a request that cannot be read."""
    asked = read_optional(_path(folder, job_id, attempt), REQUEST, tell)
    if not asked or asked.get("process") != _identity(record or processes.this_process()):
        return None
    return f"{asked.get('by')} on {asked.get('host')}"


def withdraw(folder: Folder, job_id: int, attempt: int) -> None:
    """Nobody is asked to end the attempt, which has ended."""
    discard(_path(folder, job_id, attempt))


def _path(folder: Folder, job_id: int, attempt: int) -> str:
    return folder.join("states", f".{job_id}.{attempt}.cancel")


def _identity(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record.get(name) for name in processes.IDENTITY}
