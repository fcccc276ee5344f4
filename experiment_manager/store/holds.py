"""Jobs that people keep from beginning, as names of empty files, as states are: one listing tells all of them.

held/7        nobody of ours begins job 7 until it is released
removed/7     job 7 was a mistake: no grid, table or count has it. Its id, and its states, stay what they were
removed/7.files   what it had left was removed, too
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from experiment_manager.errors import JobRefused
from experiment_manager.store.layout import Folder, marks_in, set_marks
from experiment_manager.text import as_word, counted, tell
from experiment_manager.typing_names import Final

_FILES: Final = ".files"


def read_held(folder: Folder) -> frozenset[int]:
    """The jobs that are held. Raises FolderError where nobody can tell."""
    return frozenset(int(name) for name in marks_in(folder.held) if name.isdecimal())


def read_removed(folder: Folder) -> frozenset[int]:
    """The jobs that were removed. Raises FolderError where nobody can tell."""
    return frozenset(int(name) for name in marks_in(folder.removed) if name.isdecimal())


def read_emptied(folder: Folder) -> frozenset[int]:
    """Those of the removed jobs whose files were removed, too. Raises FolderError where nobody can tell."""
    found = (name.removesuffix(_FILES) for name in marks_in(folder.removed) if name.endswith(_FILES))
    return frozenset(int(name) for name in found if name.isdecimal())


def set_held(folder: Folder, ids: Iterable[int], *, are_held: bool) -> None:
    """The jobs are held, or are not. Raises FolderError."""
    set_marks(folder, folder.held, map(str, ids), are_there=are_held)


def set_removed(folder: Folder, ids: Iterable[int], *, are_removed: bool) -> None:
    """The jobs are removed, or are not. Raises FolderError."""
    set_marks(folder, folder.removed, map(str, ids), are_there=are_removed)


def note_emptied(folder: Folder, ids: Iterable[int]) -> None:
    """The files of these removed jobs are removed, or about to be. Raises FolderError."""
    set_marks(folder, folder.removed, (f"{job_id}{_FILES}" for job_id in ids), are_there=True)


def why_not_begun(folder: Folder, ids: Collection[int]) -> str | None:
    """Why none of ours may begin all of these jobs; None: nothing is said against it. Raises FolderError."""
    from experiment_manager.model.ids import format_ids  # of what is said seldom, and asked before each job

    where = as_word(folder.path)
    if found := read_held(folder).intersection(ids):
        held = format_ids(sorted(found))
        return f"{_are(found, 'held')}: {held}; `experiment-manager release {where} {held}` lets them begin"
    if found := read_removed(folder).intersection(ids):
        removed = format_ids(sorted(found))
        undo = f"`experiment-manager remove {where} {removed} --undo` brings it back"
        return f"{counted(len(found))} {_was(found)} removed: {removed}; {undo}"
    return None


def not_held(folder: Folder, ids: Sequence[int]) -> list[int]:
    """Those of the jobs, in their order, that are not held; of the others people are told. Raises FolderError."""
    from experiment_manager.model.ids import format_ids

    held = read_held(folder)
    if left_out := sorted(held.intersection(ids)):
        release = f"`experiment-manager release {as_word(folder.path)} {format_ids(left_out)}` lets them begin"
        tell(f"{_are(left_out, 'held')} and not begun: {format_ids(left_out)}; {release}")
    return [job_id for job_id in ids if job_id not in held]


def not_removed(folder: Folder, ids: Sequence[int], n_asked: str) -> list[int]:
    """Those of the jobs, in their order, that were not removed; people are told of the others, as of `n_asked`: `this
    sweep`. Raises FolderError, and JobRefused where none is left."""
    from experiment_manager.model.ids import format_ids

    removed = read_removed(folder)
    if left_out := sorted(removed.intersection(ids)):
        named = format_ids(left_out)
        undo = f"`experiment-manager remove {as_word(folder.path)} {named} --undo` brings them back"
        tell(f"{counted(len(left_out))} of {n_asked} {_was(left_out)} removed before, and left out: {named}; {undo}")
    left = [job_id for job_id in ids if job_id not in removed]
    if ids and not left:
        raise JobRefused(f"all jobs of {n_asked} were removed from {folder.path}; bring some of them back first")
    return left


def _was(ids: Collection[int]) -> str:
    return "was" if len(ids) == 1 else "were"


def _are(ids: Collection[int], what: str) -> str:
    return f"{counted(len(ids))} {'is' if len(ids) == 1 else 'are'} {what}"
