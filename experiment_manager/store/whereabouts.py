"""Whether a folder was removed, or moved, or is only out of sight, as on a mount that is gone for a while."""

from __future__ import annotations

import os


class Whereabouts:
    """Where a folder is now, to be asked about later. `holds` names a file that is in it for as long as it is what it
    is: somebody may make a folder of its name again."""

    def __init__(self, path: str, holds: str = "") -> None:
        self._path = os.path.realpath(path)
        self._seen = os.path.join(self._path, holds) if holds else self._path
        self._device = _device(self._path)
        if self._device != _device(os.path.dirname(self._path)):  # it is mounted by itself, and may be so again
            self._device = None

    def has_gone(self) -> bool:
        """Whether the folder that it was in is there as it was, on the same device, and it is not, or does not hold its
        file, as the file system says. False wherever that cannot be known."""
        if self._device is None or _device(os.path.dirname(self._path)) != self._device:
            return False
        try:
            os.lstat(self._seen)
        except FileNotFoundError:
            return True
        except OSError:
            pass
        return False


def _device(path: str) -> int | None:
    try:
        return os.stat(path).st_dev
    except OSError:
        return None
