"""Moving and renaming an experiment: refused while anything of it runs or waits, and what names its old place is put
right, the scripts that were not submitted yet among it."""

import os
import re
from contextlib import suppress
from functools import partial
from typing import Final

from experiment_manager.errors import FolderError, JobRefused
from experiment_manager.scheduler.idle import require_idle, require_none_begun
from experiment_manager.scheduler.submission import launched_arrays, place_in, script_paths
from experiment_manager.store.documents import content
from experiment_manager.store.files import appearing, below, is_folder, is_link, is_there, looked
from experiment_manager.store.launches import clear_leftovers, read_launch, unsettled_numbers
from experiment_manager.store.layout import Folder, planning, writing
from experiment_manager.store.relocation import Move, finish, is_done, relocate
from experiment_manager.store.submissions import Submission
from experiment_manager.text import as_word, tell

_PLAIN: Final = re.compile(r"[A-Za-z0-9_@+=:,./-]+")
_WHAT: Final = "moved"
_GAP: Final = r"""["',\s]+"""
_WORD: Final = r"""[^"'$\\\s]+"""
_PLACE: Final = re.compile(
    rf"(--experiment-path{_GAP})(?P<path>{_WORD})({_GAP}--experiment-name{_GAP})(?P<name>{_WORD})"
)
"""Where a script says whose jobs it runs, as words of a shell or as texts in JSON; not where words need quotes."""


def move(folder: Folder, to: str) -> Folder:
    """The experiment lies at `to`, or in it where that is a folder, and nowhere else; returns its new folder.

    Interrupted at any point, the same call goes on; after its end it changes nothing. Raises FolderError where it
    cannot go there; JobRefused while anything of it runs, waits, or may have been submitted.
    """
    places = [Folder.at(to), Folder(to, folder.name)]
    for place in places:
        if is_done(Move(folder, place)):
            done = Move(folder, place)
            with planning(place):
                clear_leftovers(place)
                finish(done, partial(_mend_scripts, done))
            return place
    folder.require()
    found = Move(folder, places[is_folder(to) and not places[0].is_experiment()])
    _require_way(found)
    folder.was_there = True
    with planning(folder):
        folder.require()  # somebody else may have moved it while we waited
        clear_leftovers(folder)
        require_idle(folder, _WHAT)
        relocate(found, partial(_mend_scripts, found), lambda place: require_none_begun(place, _WHAT))
    return found.new


def _require_way(found: Move) -> None:
    """Raise FolderError where an experiment cannot go from there to there."""
    old, new = found
    if is_link(old.path):
        real = os.path.realpath(old.path)
        raise FolderError(f"{old.path} is a link to {real}; move that, and lay the link anew")
    if not is_folder(new.parent):
        raise FolderError(f"{new.parent} is no folder; make it, or choose another place")
    if below(os.path.realpath(old.path), new.path) is not None:
        raise FolderError(f"{new.path} lies in {old.path} itself; choose another place")
    if is_there(new.path) and not new.is_experiment() and not _is_empty(new.path):
        raise FolderError(f"{new.path} is there already; choose another name, or move it away")
    for place in {old.parent, new.parent, old.path}:
        if not os.access(place, os.W_OK | os.X_OK):
            raise FolderError(f"{place} cannot be written; mend its permissions, or choose another place")


def _is_empty(path: str) -> bool:
    with suppress(OSError):
        return not os.listdir(path)
    return False


def _mend_scripts(found: Move, place: Folder) -> None:
    """The scripts that were never submitted name the new place; people are told of those that cannot be put right."""
    for number in unsettled_numbers(place):
        try:
            launch = read_launch(place, number)
        except JobRefused:  # one that cannot be read is not submitted either
            continue
        submission = Submission(place, launch, is_to_act=False)
        arrays = [array for array in launched_arrays(launch) if submission.array_id(array.name) is None]
        paths = {path for array in arrays for path in script_paths(place, launch, array)}
        if [path for path in sorted(paths) if not _mend_script(found, place, path)]:
            tell(
                f"the scripts of launch {number} name {found.old.path}, where the experiment is not any more; write "
                f"them again with `experiment-manager script {as_word(found.new.path)}`"
            )


def _mend_script(found: Move, place: Folder, path: str) -> bool:
    """Whether a script names the new place now; true for one that is not there."""
    try:
        place.require_within(os.path.dirname(path))
        text = looked(lambda: content(path)).decode()
    except FileNotFoundError:
        return True
    except (OSError, UnicodeDecodeError):
        return False
    mended = moved_script(text, found.old, found.new)
    if mended != text:
        mode = os.stat(path).st_mode
        with writing(path), appearing(path) as temporary:
            with open(temporary, "x", encoding="utf-8") as file:
                file.write(mended)
            os.chmod(temporary, mode & 0o777)
    return place_in(mended) != found.old.path


def moved_script(text: str, old: Folder, new: Folder) -> str:
    """The text of a script with its new place in every line that named the old one; as it is where a path has letters
    that a shell takes for others.

    >>> print(moved_script("run --experiment-path /a --experiment-name b > /a/b/log /a/bc", Folder("/a", "b"),
    ...                    Folder("/c", "d")))
    run --experiment-path /c --experiment-name d > /c/d/log /a/bc
    """
    if not (_PLAIN.fullmatch(old.path) and _PLAIN.fullmatch(new.path)):
        return text

    def placed(found: re.Match[str]) -> str:
        is_old = os.path.join(found["path"], found["name"]) == old.path
        return f"{found[1]}{new.parent}{found[3]}{new.name}" if is_old else found[0]

    return re.sub(rf"{re.escape(old.path)}(?![\w@+=:,.-])", new.path, _PLACE.sub(placed, text))
