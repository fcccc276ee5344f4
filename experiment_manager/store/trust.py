"""Experiments that every user of the machine may change are not run: they could be programs of anybody's."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from experiment_manager.errors import FolderError, JobRefused
from experiment_manager.store.files import looked, unreadable
from experiment_manager.store.layout import Folder
from experiment_manager.trust import how_to_close, open_to_anybody, open_within


def refuse_to_begin_what_anybody_writes(folder: Folder, code: str | None = None) -> None:
    """Raise JobRefused where every user of the machine may change what tells how jobs of an experiment run here, or the
    copy of their `code`. People are told of folders above it: who begins jobs here knows whose machine it is."""
    paths = () if code is None else (folder.join(code),)
    _refuse(folder, f"no job of {folder.path} is begun", paths, lambda path: open_within(folder.path, path))


def refuse_what_anybody_writes(folder: Folder, what: str, paths: Iterable[str] = ()) -> None:
    """Raise JobRefused where every user of the machine may change what tells how jobs of an experiment run, or one of
    `paths`, also by way of a folder above them; `what` is not done then. Raises FolderError."""
    _refuse(folder, what, paths, open_to_anybody)


def _refuse(folder: Folder, what: str, paths: Iterable[str], open_in: Callable[[str], str | None]) -> None:
    below = [folder.join(name) for name in ("launches", "conf", "code", "tasks")]
    for path in (folder.path, folder.manifest, *below, *paths):
        try:
            found = looked(lambda path=path: open_in(path))  # type: ignore[misc]
        except OSError as error:
            raise FolderError(unreadable(path, error)) from error
        if found is not None:
            raise JobRefused(
                f"{what}: every user of this machine may write to {found}, and so run programs in your name; "
                f"{how_to_close(found, folder.path)}"
            )
