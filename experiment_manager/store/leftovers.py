"""Leftovers: what killed processes have left in an experiment. Readers see none of it, and the next planner removes
it, and from a job's directory the job's next attempt.

Only what surely nobody writes any more goes: `files.is_leftover` tells by the name, and by an age that the file system
itself has measured, since the clocks of two machines may disagree.
"""

import os
import stat
from contextlib import suppress
from shutil import rmtree
from typing import Final

from experiment_manager.store.files import is_leftover, is_temporary, temporary_name
from experiment_manager.store.launches import RECORD, WRITTEN_BEFORE_THE_RECORD, unsettled_numbers
from experiment_manager.store.layout import Folder

_PLACES: Final = ("", "conf", "code", "tasks", "generations", "states", "launches")


def clear_leftovers(folder: Folder) -> None:
    """No leftover is in the folders that all jobs share. To be used inside `folder.planning`; never raises."""
    now = _Now(folder.path)
    for place in _PLACES:
        _clear(folder.join(place) if place else folder.path, now)
    with suppress(OSError):
        for number in unsettled_numbers(folder):
            place = folder.join("launches", number)
            _clear(place, now)
            _clear_unrecorded(place, now)


def clear_leftovers_in(place: str) -> None:
    """The same for one folder: whoever claims a job does so in the directory of that job."""
    _clear(place, _Now(place))


def clear_leftovers_beside(path: str) -> None:
    """The leftovers of earlier attempts to make this file are gone; never raises."""
    place, name = os.path.split(path)
    _clear(place, _Now(place), f".{name}.")


class _Now:
    """The time by the file system's clock, asked when it is needed for the first time."""

    def __init__(self, place: str) -> None:
        self._place, self._time = place, 0.0

    def age_s(self, path: str) -> float:
        """How long ago a file was written; raises OSError."""
        if not self._time:
            probe = temporary_name(os.path.join(self._place, "clock"))
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            self._time = os.stat(probe).st_mtime
            os.unlink(probe)
        return self._time - os.lstat(path).st_mtime


def _clear(place: str, now: _Now, begins: str = ".") -> None:
    with suppress(OSError):
        for name in os.listdir(place):
            if name.startswith(begins) and is_temporary(name):
                with suppress(OSError):
                    _remove(os.path.join(place, name), now)


def _remove(path: str, now: _Now) -> None:
    if not is_leftover(os.path.basename(path), now.age_s(path)):
        return
    if stat.S_ISDIR(os.lstat(path).st_mode):
        rmtree(path, ignore_errors=True)
    else:
        os.unlink(path)


def _clear_unrecorded(place: str, now: _Now) -> None:
    """A launch that never got a record is gone; it gets its name only with its record now, but did not always."""
    with suppress(OSError):
        if not os.path.exists(os.path.join(place, RECORD)) and is_leftover(".launch.0.tmp", now.age_s(place)):
            for name in WRITTEN_BEFORE_THE_RECORD:
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(place, name))
            os.rmdir(place)
