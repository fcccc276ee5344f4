"""An experiment goes to another place: by one rename where that is on the same file system, else as a copy that is
compared before the original is removed. Whenever that is interrupted, the old one or a whole new one is there, and the
same call goes on.

    train/.moving.json     from where to where it is being moved; it goes along with a rename, and is gone at the end
    train/moved.json       where the experiment was before, the last place last
    .train.<token>.copy    beside the new place: what is copied, until it is whole
    .train.<token>.old     beside the old place: what is being removed

Nothing here knows whether a job runs; what follows a link, out of the experiment, is never touched.
"""

import errno
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from experiment_manager.errors import ExperimentManagerError, FolderError, UnreadableRecord
from experiment_manager.store.documents import LIST, MOMENT, TEXT, Kind, opened, read_object, read_optional, trouble
from experiment_manager.store.files import (
    discard,
    give_name,
    is_folder,
    is_leftover,
    is_link,
    is_there,
    remove_tree,
    sync,
    sync_all,
    temporary_name,
    write_json,
)
from experiment_manager.store.launches import user_name
from experiment_manager.store.layout import MANIFEST, Folder
from experiment_manager.text import as_word, followed, size_text, tell

_TOKEN: Final = Kind("token of twelve digits", lambda value: bool(re.fullmatch("[0-9a-f]{12}", str(value))))
_MOVING: Final = {**dict.fromkeys(("from", "to"), TEXT), "token": _TOKEN}
_MOVED: Final = {"moves": LIST}
_MOVE: Final = {**dict.fromkeys(("from", "to", "user", "source", "copy"), TEXT), "token": _TOKEN, "time": MOMENT}
_PIECE: Final = 1 << 20
_MOST_NAME_BYTES: Final = 150  # of the name of an experiment, which may have 200, in a hidden name

Mend = Callable[[Folder], None]
"""Puts right what names the old place in the files of a folder that are to lie at the new one."""


class Move(NamedTuple):
    """From where to where an experiment goes."""

    old: Folder
    new: Folder

    def record(self, **more: str) -> dict[str, Any]:
        return {"from": self.old.path, "to": self.new.path, **more}

    def is_of(self, record: Mapping[str, Any]) -> bool:
        """Whether a record is one of this very move."""
        return (record.get("from"), record.get("to")) == (self.old.path, self.new.path)


class Entry(NamedTuple):
    """What lies in an experiment, as it was seen."""

    name: str  # relative to the folder
    about: os.stat_result

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.about.st_mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.about.st_mode)


def last_move(folder: Folder) -> dict[str, Any]:
    """The last move that has brought an experiment here; empty where there was none."""
    last = [{}, *_moves(folder)][-1]
    return last if trouble(last, _MOVE) is None else {}


def unfinished_move(folder: Folder) -> dict[str, Any]:
    """The move of an experiment that was begun and not finished; empty where there is none. Raises FolderError."""
    try:
        return read_object(folder.moving, _MOVING, required=["from", "to", "token"])
    except FileNotFoundError:
        return {}
    except UnreadableRecord as error:
        raise FolderError(error.with_way_out("remove it, and repeat")) from error


def is_done(move: Move) -> bool:
    """Whether the experiment has come to its new place, so that at most some rest of the move is left."""
    if is_there(move.old.path) or not move.new.is_experiment():
        return False
    return move.is_of(unfinished_move(move.new)) or move.is_of(last_move(move.new))


def finish(move: Move, mend: Mend) -> None:
    """What was left of a move that `is_done` is done, too. Raises OSError."""
    if move.is_of(unfinished_move(move.new)):
        _finish_rename(move, mend)
    _remove_rest(move, _old_rest(move, str(last_move(move.new).get("token"))))


def relocate(move: Move, mend: Mend, check: Callable[[Folder], None]) -> None:
    """The experiment is in its new place, and nothing is left in the old one. To be used while nobody plans it.

    `check` raises where something of an experiment, at that folder, runs: it is asked about those that lie in this one
    before, and about this one afterwards. Raises FolderError, OSError.
    """
    begun = unfinished_move(move.old)
    if begun and not move.is_of(begun):
        _forget(begun)
        begun = {}
    token = str(begun.get("token") or os.urandom(6).hex())
    if move.new.is_experiment():
        _go_on_with(move, token, mend)
        return
    write_json(move.old.moving, move.record(token=token))
    try:
        for inner in _mend_links(move):
            check(inner)
        give_name(move.old.path, move.new.path)
    except OSError as error:
        if error.errno == errno.EXDEV:
            _copy(move, token, mend)
            return
        discard(move.old.moving)
        raise
    except ExperimentManagerError:
        discard(move.old.moving)
        raise
    try:
        check(move.new)
    except BaseException:
        os.rename(move.new.path, move.old.path)
        discard(move.old.moving)
        raise
    _sync_places(move)
    _finish_rename(move, mend)


def _finish_rename(move: Move, mend: Mend) -> None:
    discard(move.new.locks[1])  # it was ours, where the file system has no locks
    mend(move.new)
    _note(move, move.new, _moves(move.new))
    discard(move.new.moving)


def _moves(folder: Folder) -> list[dict[str, Any]]:
    """The moves of an experiment so far, the last one last."""
    return [one for one in read_optional(folder.moved, _MOVED).get("moves") or () if isinstance(one, dict)]


def _note(move: Move, place: Folder, before: list[dict[str, Any]], **more: str) -> None:
    """The folder says where it was before."""
    this = {**move.record(**more), "user": user_name(), "time": time.time()}
    write_json(place.moved, {"moves": [*before, this]})


def _sync_places(move: Move) -> None:
    for place in {move.old.parent, move.new.parent}:
        with suppress(OSError):  # a file system that does not do so
            sync(place)


# ---------------------------------------------------------------- by a copy


def _copy_place(move: Move, token: str) -> Folder:
    return Folder(move.new.parent, _hidden(move.new.name, token, "copy"))


def _old_rest(move: Move, token: str) -> str:
    return os.path.join(move.old.parent, _hidden(move.old.name, token, "old"))


def _hidden(name: str, token: str, what: str) -> str:
    cut = name.encode()[:_MOST_NAME_BYTES].decode(errors="ignore")
    return f".{cut}.{token}.{what}"


def _forget(begun: Mapping[str, Any]) -> None:
    """What another move has copied, which was never finished, is gone. Raises FolderError where the copy is whole, and
    only the original has still to go."""
    before = Move(Folder.at(str(begun["from"])), Folder.at(str(begun["to"])))
    if last_move(before.new).get("token") == begun["token"]:
        command = f"experiment-manager move {as_word(before.old.path)} {as_word(before.new.path)}"
        raise FolderError(f"{before.old.path} has been copied to {before.new.path} already: `{command}` goes on")
    remove_tree(_copy_place(before, str(begun["token"])).path)


def _copy(move: Move, token: str, mend: Mend) -> None:
    copy = _copy_place(move, token)
    try:
        seen = _copied(move, copy)
        mend(copy)
        source = _digest(move.old.path, seen)
        whole = _digest(copy.path, list(entries(copy)))
        _note(move, copy, _moves(move.old), token=token, source=source, copy=whole)
        sync_all(copy.path)
        if source != _digest(move.old.path, list(entries(move.old))):
            raise FolderError(f"something in {move.old.path} has changed while it was copied; see what, and repeat")
        give_name(copy.path, move.new.path)
    except Exception:
        remove_tree(copy.path)
        discard(move.old.moving)
        raise
    _take_away(move, token, source)


def _go_on_with(move: Move, token: str, mend: Mend) -> None:
    """An earlier call has ended when the copy had its name, and the original had not gone yet. Raises FolderError where
    that is another experiment, or both have changed since."""
    last = last_move(move.new)
    if not move.is_of(last) or last.get("token") != token:
        raise FolderError(f"{move.new.path} is there already; choose another name, or move it away")
    if last.get("source") == _digest(move.old.path, list(entries(move.old))):
        _take_away(move, token, str(last["source"]))
    elif last.get("copy") == _digest(move.new.path, list(entries(move.new))):
        os.rename(move.new.path, _copy_place(move, token).path)
        _copy(move, token, mend)
    else:
        raise FolderError(
            f"{move.old.path} was copied to {move.new.path}, and both have changed since: look which one is right, and "
            "remove the other"
        )


def _take_away(move: Move, token: str, source: str) -> None:
    """The original is gone, as it was when it was copied; what has changed is laid back, and the copy is none."""
    rest = _old_rest(move, token)
    os.rename(move.old.path, rest)
    if source != _digest(rest, list(entries(Folder.at(rest)))):
        os.rename(rest, move.old.path)
        os.rename(move.new.path, _copy_place(move, token).path)
        raise FolderError(f"something in {move.old.path} has changed while it was moved; see what, and repeat")
    _sync_places(move)
    _remove_rest(move, rest)


def _remove_rest(move: Move, rest: str) -> None:
    try:
        remove_tree(rest)
    except OSError as error:
        raise FolderError(
            f"{move.old.path} is now {move.new.path}, and whole there; what is left of it in {rest} cannot be removed: "
            f"{error.filename}: {error.strerror}; remove it, or let its owner do so"
        ) from error


def _copied(move: Move, copy: Folder) -> list[Entry]:
    """The copy is as the original; returns what it was made of."""
    seen = list(entries(move.old))
    _require_space(move, seen, copy)
    os.makedirs(copy.path, mode=0o700, exist_ok=True)
    wanted = {entry.name for entry in seen}
    for entry in reversed(
        list(entries(copy, leftovers=True))
    ):  # of an earlier call, and not there any more, or half written
        if entry.name not in wanted:
            path = copy.join(entry.name)
            os.rmdir(path) if entry.is_folder else os.unlink(path)
    linked: dict[tuple[int, int], str] = {}
    for entry in followed(seen, len(seen), "copying"):
        _copy_entry(move, copy, entry, linked)
    for entry in reversed(seen):
        if entry.is_folder:
            _copy_about(move.old.join(entry.name), copy.join(entry.name), entry.about)
    _copy_about(move.old.path, copy.path, os.lstat(move.old.path))
    for entry in followed(seen, len(seen), "comparing"):
        if not _is_same(move, copy, entry):
            fault = "differs from its copy: the disk or its server has a fault, or somebody writes to it"
            raise FolderError(f"{move.old.join(entry.name)} {fault}; nothing was moved")
    return seen


def _require_space(move: Move, seen: list[Entry], copy: Folder) -> None:
    """Raise FolderError for what no copy can be made of, and where there is no space for one."""
    for entry in seen:
        if not (entry.is_folder or entry.is_link or stat.S_ISREG(entry.about.st_mode)):
            raise FolderError(f"{move.old.join(entry.name)} is neither a file, a folder nor a link; remove it")
    there = sum(entry.about.st_size for entry in entries(copy)) if is_folder(copy.path) else 0
    needed = sum(entry.about.st_size for entry in seen if not entry.is_folder) - there
    free = shutil.disk_usage(move.new.parent).free
    if needed > free:
        raise FolderError(
            f"{move.new.parent} has {size_text(free)} left, and {move.old.path} takes {size_text(needed)}; make room"
        )


def _copy_entry(move: Move, copy: Folder, entry: Entry, linked: dict[tuple[int, int], str]) -> None:
    source, target = move.old.join(entry.name), copy.join(entry.name)
    if entry.is_folder:
        if not is_folder(target):
            os.mkdir(target, 0o700)
        return
    if entry.is_link:
        text = _link_text(move, entry.name, os.readlink(source))
        if not (is_link(target) and os.readlink(target) == text):
            _laid(target, text)
        return
    first = linked.setdefault((entry.about.st_dev, entry.about.st_ino), target)
    if _looks_same(entry.about, target) and (first == target or _is_one(first, target)):
        return
    temporary = temporary_name(target)
    try:
        if first == target or not _linked(first, temporary):
            shutil.copyfile(source, temporary, follow_symlinks=False)
            _copy_about(source, temporary, entry.about)
        os.replace(temporary, target)
    finally:
        discard(temporary)  # where both were one file already, a rename leaves it


def _linked(first: str, path: str) -> bool:
    try:
        os.link(first, path, follow_symlinks=False)
    except OSError:  # a file system without hard links
        return False
    return True


def _is_one(first: str, second: str) -> bool:
    return os.path.samestat(os.lstat(first), os.lstat(second))


def _looks_same(about: os.stat_result, path: str) -> bool:
    """Whether a copy is there already, of an earlier call: its time is set last."""
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(there.st_mode) and (there.st_size, there.st_mtime_ns) == (about.st_size, about.st_mtime_ns)


def _copy_about(source: str, target: str, about: os.stat_result) -> None:
    """Times, mode and owner of the copy are those of the original, as far as we may set them."""
    there = os.lstat(target)
    if (there.st_uid, there.st_gid) != (about.st_uid, about.st_gid):
        with suppress(PermissionError):
            os.chown(target, about.st_uid, about.st_gid)
    shutil.copystat(source, target)


def _is_same(move: Move, copy: Folder, entry: Entry) -> bool:
    source, target = move.old.join(entry.name), copy.join(entry.name)
    if entry.is_link:
        return os.readlink(target) == _link_text(move, entry.name, os.readlink(source))
    if entry.is_folder:
        return is_folder(target) and not is_link(target)
    with opened(source) as one, opened(target) as other:
        while True:
            piece = one.read(_PIECE)
            if piece != _exactly(other, len(piece)):
                return False
            if not piece:
                return not other.read(1)


def _exactly(file: Any, n_bytes: int) -> bytes:
    pieces: list[bytes] = []
    while n_bytes and (piece := file.read(n_bytes)):
        pieces.append(piece)
        n_bytes -= len(piece)
    return b"".join(pieces)


# ---------------------------------------------------------------- what lies in an experiment


def entries(folder: Folder, *, leftovers: bool = False) -> Iterator[Entry]:
    """All that lies in an experiment, folders before what is in them, without what is of a move, or a lock, itself, and
    without what killed processes have left, unless asked for. No link is followed. Raises OSError."""
    left_out = {os.path.basename(path) for path in (folder.moved, folder.moving, *folder.locks)}

    def below(place: str) -> Iterator[Entry]:
        folders = []
        with os.scandir(folder.join(place)) as found:
            for one in sorted(found, key=lambda one: one.name):
                if (place or one.name not in left_out) and (leftovers or not is_leftover(one.name, 0.0)):
                    entry = Entry(os.path.join(place, one.name), one.stat(follow_symlinks=False))
                    yield entry
                    folders += [entry.name] if entry.is_folder else []
        for name in folders:
            yield from below(name)

    yield from below("")


def _digest(root: str, seen: list[Entry]) -> str:
    """What tells whether anything has changed: names, sizes, times, and where links lead."""
    state = blake2b(digest_size=16)
    for entry in seen:
        about, text = entry.about, ""
        if entry.is_link:
            text = os.readlink(os.path.join(root, entry.name))
        size = () if entry.is_folder else (about.st_size, about.st_mtime_ns)
        state.update(os.fsencode(repr((entry.name, stat.S_IFMT(about.st_mode), *size, text))))
    return state.hexdigest()


def _mend_links(move: Move) -> list[Folder]:
    """The links of an experiment that is to be renamed lead where they lead, from its new place, too. Returns other
    experiments in it, as those of a job that is a sweep itself."""
    inner = []
    for entry in list(entries(move.old, leftovers=True)):
        path = move.old.join(entry.name)
        place, name = os.path.split(path)
        if name == MANIFEST and place != move.old.path:
            with suppress(FolderError):  # a name that no experiment has
                inner.append(Folder.at(place))
        if entry.is_link and is_leftover(os.path.basename(path), 0.0):
            os.unlink(path)  # an earlier call was about to lay it
        elif entry.is_link:
            text = os.readlink(path)
            if (mended := _link_text(move, entry.name, text)) != text:
                try:
                    _laid(path, mended)
                except PermissionError:  # in a folder that is protected, or of somebody else
                    tell(f"{entry.name}, a link to {text}, cannot be laid anew, and will not lead there any more")
    return inner


def _link_text(move: Move, name: str, text: str) -> str:
    """What a link in the new place has to say: a relative path where it leads into the experiment, else the whole path
    of what it led to before."""
    old = os.path.join(os.path.realpath(move.old.parent), move.old.name)
    place = os.path.dirname(os.path.join(old, name))
    head, tail = os.path.split(text)
    target = os.path.normpath(os.path.join(os.path.realpath(os.path.join(place, head)), tail))
    for root in (old, move.old.path):
        if target == root or target.startswith(root + os.sep):
            return os.path.relpath(target, place) if os.path.isabs(text) else text
    if os.path.isabs(text):
        return text
    here = os.path.join(os.path.realpath(move.new.parent), move.new.name, os.path.dirname(name), text)
    return text if os.path.normpath(here) == target else target


def _laid(path: str, text: str) -> None:
    """The link is there, in the place of whatever was."""
    temporary = temporary_name(path)
    os.symlink(text, temporary)
    os.replace(temporary, path)
