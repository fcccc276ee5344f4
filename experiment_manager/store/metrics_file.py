"""The file in which an attempt logs metrics, line by line, and the lines that the disk would not take: they wait, and
are written later. What a job computes for days is worth more than a line: no error of the disk leaves this module.
Where something else than a file of ours is there, as a link, whoever logs hears of it.
"""

import atexit
import errno
import os
from collections import deque
from threading import RLock
from typing import Final

from experiment_manager.store.files import ANSWERS, SHORTLY_S, appending, asked_again
from experiment_manager.store.layout import Folder
from experiment_manager.store.reserve import FULL, write_all
from experiment_manager.text import tell

_MOST_WAITING_BYTES: Final = 1 << 26
_NO_FILE: Final = (errno.ELOOP, errno.EISDIR, errno.EINVAL)
"""Why no file is opened where there is a link, a folder, a pipe or a device."""


class MetricsFile:
    """The metrics of an attempt, whose lines this process alone writes, from several threads if need be."""

    def __init__(self, folder: Folder, job_id: int, attempt: int) -> None:
        self._attempt = folder, job_id, attempt
        self._path = folder.of_attempt(job_id, attempt, "metrics")
        self._lock = RLock()  # a signal handler may log, too
        self._owner = os.getpid()
        self._waiting = deque[bytes]()
        self._n_waiting_bytes = self._n_lost = 0
        self._is_behind = self._settles_at_exit = self._is_writing = False
        self._is_doubtful = False
        """Whether the first line that waits may be in the file already, whole or in part."""

    def add(self, line: bytes) -> None:
        """The file ends with that line; where the disk does not take it, it waits for the next call, or for `settle`,
        and people are told. Of more than 64 MB that wait, the newest are kept. Raises OSError where there is a link,
        or anything else that is no file."""
        if self._owner != os.getpid():  # a copy of the process: what waits is the other one's to write
            self._owner, self._lock = os.getpid(), RLock()
            self._forget()
        with self._lock:
            self._waiting.append(line)
            self._n_waiting_bytes += len(line)
            try:
                self._write()
            except OSError as error:
                if error.errno in _NO_FILE and error.filename is not None:
                    raise
                self._keep(error)

    def settle(self) -> None:
        """What waits is written, if the disk takes it by now, or shortly, as where somebody makes room; or people are
        told that it is lost, here and by `status`."""
        if self._owner != os.getpid() or not self._waiting:
            return
        with self._lock:
            try:
                asked_again(self._write, most_s=SHORTLY_S, answers=ANSWERS - FULL)
            except OSError as error:
                lost = _lines(self._n_lost + len(self._waiting))
                tell(f"{lost} lost: {self._path} cannot be written: {error.strerror or error}")
                self._mark()
                self._forget()

    def _forget(self) -> None:
        """Nothing waits, and of nothing more is to be told that it is lost."""
        self._waiting.clear()
        self._n_waiting_bytes = self._n_lost = 0
        self._is_behind = self._is_writing = self._is_doubtful = False

    def _keep(self, error: OSError) -> None:
        if not self._settles_at_exit:
            atexit.register(self.settle)
        if not self._is_behind:
            tell(
                f"{self._path} cannot be written: {error.strerror or error}; the job goes on, and what it logs is "
                "written as soon as that is possible: make room there, or look at the disk"
            )
        self._is_behind = self._settles_at_exit = True
        while self._n_waiting_bytes > _MOST_WAITING_BYTES:
            self._n_waiting_bytes -= len(self._waiting.popleft())
            self._n_lost += 1

    def _write(self) -> None:
        """All that waits is in the file, in order. Called by a signal handler while a line is written, it leaves that
        to whom it has interrupted. Raises OSError."""
        if self._is_writing:
            return
        while self._waiting:
            self._is_writing = True
            try:
                while self._waiting:
                    self._write_first()
            finally:
                self._is_writing = False
        if self._is_behind:
            lost = f"; {_lines(self._n_lost)} lost, which were more than could wait" if self._n_lost else ""
            tell(f"{self._path} is written again, with what has waited{lost}")
            if lost:
                self._mark()
            self._n_lost, self._is_behind = 0, False

    def _mark(self) -> None:
        from experiment_manager.store.results import LOST_METRICS, mark  # few jobs lose any

        mark(*self._attempt, LOST_METRICS)

    def _write_first(self) -> None:
        line, is_again, self._is_doubtful = self._waiting[0], self._is_doubtful, True
        _append_line(self._path, line, is_again=is_again)
        self._waiting.popleft()
        self._is_doubtful = False
        self._n_waiting_bytes -= len(line)


def _lines(count: int) -> str:
    return "1 line is" if count == 1 else f"{count} lines are"


def _append_line(path: str, line: bytes, *, is_again: bool) -> None:
    """The file ends with that line, once, also where an earlier try has written it, or half of it, before it failed.
    Raises OSError.

    Whole lines are one write to a file opened for appending. One that was cut short, as on a full disk, is ended first:
    it takes no other line with it.
    """
    handle = appending(path, is_read=True)
    try:
        size = os.fstat(handle).st_size
        end = os.pread(handle, len(line), max(0, size - len(line)))
        if is_again and end == line:
            return
        half = end[end.rfind(b"\n") + 1 :]
        write_all(handle, line[len(half) :] if line.startswith(half) else b"\n" + line)
    finally:
        os.close(handle)
