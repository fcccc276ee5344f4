"""A lock that one process holds at a time, also where the file system has none: then a hard link is the lock.

Lustre mounted without `-o flock` and some FUSE file systems refuse to lock; others keep a lock to one machine and do
not tell. So nothing that is written may rest on a lock alone: the manifest and the launches are published by what can
only succeed once (see `manifest_editor` and `launches`), and a lock only spares people the second try.
"""

import errno
import fcntl
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from experiment_manager.store.documents import ANCHOR, opened, read_optional
from experiment_manager.store.files import discard, is_there, looked, temporary_name, writer_is_gone
from experiment_manager.store.processes import named, this_process
from experiment_manager.text import tell_once

_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})
_PAUSE_S: Final = 0.05


class Busy(Exception):
    """Somebody else holds the lock; `holder` says who, as far as that is known."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


class Lock:
    """The lock of a path, held from the beginning on. Raises Busy after `wait_s`, and OSError."""

    def __init__(self, path: str, *, wait_s: float) -> None:
        self.path = path
        self._handle: int | None = None
        self._linked: tuple[int, int, int] | None = None
        deadline = time.monotonic() + wait_s
        try:
            self._handle = _flocked(path, deadline)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            _tell_of_no_locks(path, error)
            self._linked = _linked(_held(path), deadline)

    def release(self, *, remove: bool = False) -> None:
        """Others may have it; with `remove` its file is gone, too."""
        if remove:
            discard(self.path)
        if self._handle is not None:
            _close(self._handle)
            self._handle = None
        if self._linked is not None and _is_certainly(_held(self.path), self._linked):
            discard(_held(self.path))
        self._linked = None


def left_by(path: str) -> str | None:
    """Who has left a link that stands for the lock of a path, and does not run here: in words; None: nobody has."""
    if not is_there(_held(path)):
        return None
    holder = read_optional(_held(path), ANCHOR)
    gone = writer_is_gone(_held(path), holder, may_write=False)
    if gone is False:
        return None
    state = "which has ended," if gone else "which cannot be asked from here,"
    return f"{named(holder)}, {state}"


def refused_locks(path: str) -> str | None:
    """The system's words where the file system of a file has no locks; None where it has, or nobody can tell."""
    try:
        with opened(path) as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.strerror if error.errno in _NO_LOCKS else None
    return None


def _held(path: str) -> str:
    return f"{path}.held"


def _flocked(path: str, deadline: float) -> int:
    """An open file that is locked, and that still bears its name: a planner that fails removes what it has made."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            about = os.fstat(handle)
            if _identity_of(about) == identity(path):
                return handle
        except BlockingIOError:
            pass
        except BaseException:
            _close(handle)
            raise
        _close(handle)
        _wait(deadline, "another process")


def _linked(path: str, deadline: float) -> tuple[int, int, int]:
    """The identity of the link at `path`, which is ours. One whose holder has certainly ended is taken away."""
    mine = temporary_name(path)
    with open(mine, "x", encoding="utf-8") as file:
        json.dump(this_process(), file)
    try:
        while True:
            try:
                os.link(mine, path)
            except FileExistsError:
                seen = identity(path)  # before it is read: what somebody has put there meanwhile is another one
                holder = read_optional(path, ANCHOR)
                gone = writer_is_gone(path, holder)
                if gone:
                    take_away(path, seen)
                    continue
                _wait(deadline, _told(holder, path, is_unknown=gone is None))
            else:
                return _identity_of(os.stat(mine))
    finally:
        discard(mine)


def _told(holder: Mapping[str, Any], path: str, *, is_unknown: bool) -> str:
    """Who holds the link at that path, in words, and where that is said; what to do where it is not, and where nobody
    here can tell whether that process still runs."""
    if not holder:
        return f"a process that {path} does not name (remove that file if nobody works there)"
    way_out = " (remove that file if it does not run there any more)" if is_unknown else ""
    return f"{named(holder)}, as {path} says{way_out},"


def take_away(path: str, stale: tuple[int, int, int] | None) -> None:
    """The link that was seen is gone; one that somebody has made meanwhile is laid back."""
    aside = temporary_name(path)
    with suppress(OSError):
        os.rename(path, aside)
        if stale is None or not _is_certainly(aside, stale):
            os.link(aside, path)
    discard(aside)


def identity(path: str) -> tuple[int, int, int] | None:
    """By what one file is told from another that bears its name later; None where there is none. Raises OSError where
    the file system, which is asked again for a moment, does not tell."""
    try:
        return _identity_of(looked(lambda: os.lstat(path)))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_certainly(path: str, about: tuple[int, int, int]) -> bool:
    try:
        return identity(path) == about
    except OSError:
        return False


def _identity_of(about: os.stat_result) -> tuple[int, int, int]:
    """The number of a file that was removed is given to the next one, which is written later."""
    return about.st_dev, about.st_ino, about.st_mtime_ns


def _wait(deadline: float, holder: str) -> None:
    if time.monotonic() > deadline:
        raise Busy(holder)
    time.sleep(_PAUSE_S)


def _close(handle: int) -> None:
    with suppress(OSError):  # nothing was written
        os.close(handle)


def _tell_of_no_locks(path: str, error: OSError) -> None:
    place = os.path.dirname(path)
    tell_once(
        f"{place} lies on a file system without locks ({error.strerror}); {os.path.basename(_held(path))} there stands "
        "for one",
        about=place,
    )
