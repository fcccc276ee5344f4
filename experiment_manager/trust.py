"""Trust: what every user of the machine may change is not run in one's own name.

The owner of a file is trusted, and the group that shares it; so is everybody where TRUSTS_ANYBODY is set. Who may
change what is told by the modes of files and folders alone. Folders above all that runs here, as /builds of GitLab
or the volume of a container, have their modes from others, and root may be the only user: of these people are told.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator

from experiment_manager.text import as_word, tell_once
from experiment_manager.typing_names import Final

TRUSTS_ANYBODY: Final = "EXPERIMENT_MANAGER_TRUSTS_ANYBODY"
"""A variable of the environment in whose presence it does not matter who may write to what is run."""

_MOST_LINKS: Final = 40  # as Linux follows on the way to a file


def open_to_anybody(path: str, *, is_searched: bool = False) -> str | None:
    """What every user of the machine may change so that something else is found at `path`: the file, its folder, or a
    folder above it, also one that a link on the way is in or leads to. None: there is nothing of the kind.

    In a sticky folder, such as /tmp, nobody replaces what is another's, but anybody may add something, which counts for
    a folder that `is_searched`. Nobody comes below a folder that is closed to others, and nothing counts where
    TRUSTS_ANYBODY is set, nor where a file system keeps no modes, as a drive of Windows does not. Raises OSError where
    it cannot be told.
    """
    return next(_all_open(path, is_searched=is_searched), None)


def open_within(root: str, path: str | None = None, *, is_searched: bool = False) -> str | None:
    """As `open_to_anybody` of a path in a folder `root` (None: that itself), of which folders above the root are only
    told to people, once."""
    above = {place for way in _ways(root) for place in _from_the_top(os.path.dirname(way))}
    for found in _all_open(path or root, is_searched=is_searched):
        if found not in above:
            return found
        who = f"every user of this machine may write to {found}, and so put something else in the place of {root}"
        tell_once(f"warning: {who}, which may run anything in your name; {how_to_close(found, root)}", about=found)
    return None


def _all_open(path: str, *, is_searched: bool) -> Iterator[str]:
    if os.environ.get(TRUSTS_ANYBODY):
        return
    for way in _ways(path):
        for found in _open_on(way, is_searched=is_searched):
            if _keeps_modes(found, path):
                yield found


def _ways(path: str) -> Iterator[str]:
    """The path as it is written, and as it is with one more link on it followed, until there is none left."""
    way = os.path.abspath(path)
    for _ in range(_MOST_LINKS):
        yield way
        link = next(filter(_is_link, _from_the_top(way)), None)
        if link is None:
            return
        way = os.path.normpath(os.path.join(os.path.dirname(link), os.readlink(link))) + way[len(link) :]


def _is_link(place: str) -> bool:
    """False for what is not there, or not ours to see. Raises OSError where a file system errs."""
    try:
        return stat.S_ISLNK(os.lstat(place).st_mode)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False


def _open_on(way: str, *, is_searched: bool) -> Iterator[str]:
    """Those on the way from the top that every user may change."""
    for place in _from_the_top(way):
        try:
            mode = os.lstat(place).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return
        if stat.S_ISLNK(mode):  # what is behind it is on the next way
            return
        is_folder = stat.S_ISDIR(mode)
        if is_folder and not mode & stat.S_IXOTH:
            return
        is_sticky = is_folder and mode & stat.S_ISVTX and not (is_searched and place == way)
        if mode & stat.S_IWOTH and not is_sticky:
            yield place


def _keeps_modes(found: str, path: str) -> bool:
    """Whether the mode of what was found on the way to `path` tells who may change it: it does unless a file that we
    make for ourselves alone, on the same file system, is open to all, too."""
    place = path if os.path.isdir(path) else os.path.dirname(os.path.abspath(path))
    probe = os.path.join(place, f".modes.{os.getpid()}-{os.urandom(8).hex()}.tmp")
    try:
        if os.stat(place).st_dev != os.lstat(found).st_dev:
            return True
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    except OSError:  # it is not ours to write to
        return True
    try:
        return not os.lstat(probe).st_mode & stat.S_IWOTH
    finally:
        os.unlink(probe)


def _from_the_top(path: str) -> Iterator[str]:
    """The folders above an absolute path, the root first, and the path itself.

    >>> list(_from_the_top("/scratch/ada"))
    ['/', '/scratch', '/scratch/ada']
    """
    above = os.path.dirname(path)
    if above != path:
        yield from _from_the_top(above)
    yield path


def how_to_close(found: str, within: str) -> str:
    """What keeps others from changing what was found to be open, for people: from all that is in the folder `within`,
    where it is in there. Another folder others may go on writing to, if they replace nothing that is not theirs."""
    if any(f"{found}/".startswith(f"{place}/") for place in (within, os.path.realpath(within))):
        mends = f"`chmod -R o-w {as_word(within)}` mends it"
    elif os.path.isdir(found):
        mends = f"`chmod +t {as_word(found)}` by its owner mends it"
    else:
        mends = f"`chmod o-w {as_word(found)}` mends it"
    return f"{mends}, and where modes cannot be changed, or all users are trusted, {TRUSTS_ANYBODY}=1"


def trusted_places(places: Iterable[str]) -> list[str]:
    """Of the folders in which Python is going to look for modules, those to which not every user of the machine may add
    one. People are told of the others, once, and of folders above them."""
    return [place for place in places if _is_trusted(place)]


def _is_trusted(place: str) -> bool:
    try:
        found = open_within(place, is_searched=True)
    except OSError:  # nor can anything be imported from it
        return True
    if found is not None:
        who = f"every user of this machine may write to {found}"
        tell_once(f"no module is imported from {place}: {who}; {how_to_close(found, place)}")
    return found is None
