"""Space that an attempt keeps on the disk until it has ended: where the disk is full, its last files are written there.

    jobs/7/.result.1.json.reserve     becomes result.1.json, or error.1.json
    jobs/7/.attempt.1.json.reserve    becomes attempt.1.json

To overwrite a file and to rename it needs no space. A reserve holds JSON from the beginning: what is to be read where
nothing more can be written at all. Where no space could be kept, everything works as without it.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress

from experiment_manager.store.documents import END, read_optional
from experiment_manager.store.files import (
    SHORTLY_S,
    asked_again,
    discard,
    json_text,
    sync,
    temporary_name,
    write_json,
)
from experiment_manager.typing_names import Any, Final

RESERVE_BYTES: Final = 8192

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""The errors of a disk, or a quota, that is full."""


def _name(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.reserve")


def keep(path: str, body: Mapping[str, Any]) -> str | None:
    """There is space for a file like that of the path; see `assign`. `body` is what it holds if it cannot be written.

    Returns its name until it is assigned; None where none could be kept. Raises OSError when the disk is full.
    """
    name = temporary_name(path)
    try:
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        try:
            write_all(handle, _padded(body))
        finally:
            os.close(handle)
    except OSError as error:
        discard(name)
        if error.errno in FULL:
            raise
        return None
    return name


def assign(name: str, path: str) -> None:
    """The space that `keep` has kept is for the file of that path."""
    with suppress(OSError):
        os.rename(name, _name(path))


def trouble(path: str) -> str | None:
    """The system's words about a disk that has no space for a file like that of the path; None: there is some."""
    try:
        name = keep(path, {})
    except OSError as error:
        return error.strerror or str(error)
    if name is not None:
        discard(name)
    return None


def _padded(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body).encode().ljust(RESERVE_BYTES)


def note(path: str, body: Mapping[str, Any]) -> None:
    """The space that is kept for a file holds `body` from now on, where there is any."""
    with suppress(OSError):
        handle = _opened(path)
        try:
            write_all(handle, _padded(body))
        finally:
            os.close(handle)


def noted(path: str, *, must_know: bool = False) -> dict[str, Any]:
    """The record in the space that is kept for a file, empty where nothing is; `must_know`: see `read_optional`."""
    return read_optional(_name(path), END, must_know=must_know)


def release(path: str) -> None:
    """Nothing is kept for a file any more, unless the disk refuses that, also when it is asked again."""
    with suppress(OSError):
        asked_again(lambda: os.unlink(_name(path)), most_s=SHORTLY_S)


def write(
    path: str,
    value: Any,
    *,
    kept_for: str | None = None,
    patience_s: float = SHORTLY_S,
    tell: Callable[[str], None] | None = None,
    wait: Callable[[float], None] | None = None,
) -> None:
    """The file holds `value` as JSON, on disk for good; on a full disk in the space kept for it, or for another one.

    A file system that errs is tried again for so long, each time with a file of its own: what has failed to reach the
    disk once is not asked to again. `tell` hears of it, and `wait` waits in between. Raises OSError.
    """
    try:
        asked_again(lambda: write_json(path, value), tell, most_s=patience_s, wait=wait)
    except OSError as error:
        if error.errno not in FULL:
            raise
        try:
            _fill(kept_for or path, json_text(value).encode(), path)
        except OSError:
            raise error from None


def leave(path: str, *, kept_for: str | None = None) -> None:
    """The file holds what was kept for the case that it cannot be written. Raises OSError."""
    os.replace(_name(kept_for or path), path)


def _fill(kept: str, text: bytes, path: str) -> None:
    handle = _opened(kept)
    try:
        if os.fstat(handle).st_size < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_all(handle, text)
        os.ftruncate(handle, len(text))
        os.fsync(handle)
    finally:
        os.close(handle)
    os.replace(_name(kept), path)
    with suppress(OSError):
        sync(os.path.dirname(path))


def _opened(path: str) -> int:
    """A handle of what is kept. Raises OSError for what somebody else has put there."""
    handle = os.open(_name(path), os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_uid != os.geteuid():
        os.close(handle)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return handle


def write_all(handle: int, data: bytes) -> None:
    """All of the bytes are written, however few of them are taken at a time. Raises OSError."""
    while data:
        data = data[os.write(handle, data) :]
