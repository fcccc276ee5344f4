"""Files that appear whole or not at all, and what killed processes leave of them: readers see none of it. Nothing here
knows what the files mean.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import cache, partial

from experiment_manager.errors import LOOK_AT_THE_DISK, FolderError
from experiment_manager.model.codec import is_number
from experiment_manager.store.processes import (
    is_alive,
    is_gone,
    is_of_another_boot,
    ran_before_boot,
    this_process,
    uptime_s,
)
from experiment_manager.typing_names import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    import sqlite3

PATIENCE_VARIABLE: Final = "EXPERIMENT_MANAGER_PATIENCE_S"
"""Names the most seconds for which a file system that errs is asked again; five minutes where nobody says."""

ANSWERS: Final = frozenset(
    {
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL),
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENXIO, errno.ENODEV),
    }
)
"""Errors that tell how things are. Any other one tells that a file system, or a server behind it, has trouble."""

Answer = TypeVar("Answer")
Place = TypeVar("Place")

PATIENCE_S: Final = 300.0
"""How long a job waits for a file system that errs, before what it has computed is lost."""

SHORTLY_S: Final = 2.0
"""How long people wait for a file system that errs."""
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 10.0
_REFUSED_BY_DISK: Final = (("SQLITE_FULL", errno.ENOSPC), ("SQLITE_IOERR", errno.EIO), ("SQLITE_CANTOPEN", errno.EIO))
MOST_ROW_BYTES: Final = 1 << 26
"""Of a row of a database of ours, of which the longest holds a configuration."""

_FOREIGN: Final = """
SELECT type, name FROM sqlite_master
WHERE NOT (sql IS NULL OR sql LIKE 'CREATE TABLE %' OR sql LIKE 'CREATE INDEX %' OR sql LIKE 'CREATE UNIQUE INDEX %')
"""
_MOST_NAME_BYTES: Final = 180  # of a file name, which may have 255, with all that a temporary name adds
_LEFT_ALONE_S: Final = 86_400.0
_TEMPORARY: Final = r"\..+\.(?:([0-9a-f]{8}-[0-9]+)-)?([0-9]+)(?:-[0-9a-f]{16})?\.tmp(?:\.\w+)?"
"""Before names were random they ended in the host and the process; some savers append an ending of their own."""

_PLAIN_IN_URI: Final = frozenset("/._-~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def temporary_name(path: str) -> str:
    """A hidden name beside `path` that nobody else uses, on whatever host, and that nobody can foresee.

    Made with mode "x", such a file is ours: no link is followed that somebody has laid there. The name tells whose it
    is, so that what a killed process has left is known from what a slow one still writes: see `is_leftover`.
    """
    folder, name = os.path.split(path)
    cut = os.fsdecode(os.fsencode(name)[:_MOST_NAME_BYTES])
    return os.path.join(folder, f".{cut}.{_kernel()}-{os.getpid()}-{os.urandom(8).hex()}.tmp")


def is_leftover(name: str, age_s: float) -> bool:
    """Whether a file or folder of that name is a temporary one that surely nobody writes any more.

    Its process is known to be gone, or it has not been touched for a day: a slow writer on another host loses nothing.

    >>> is_leftover(".result.1.json.node7.4711.tmp", 90_000), is_leftover("result.1.json", 90_000)
    (True, False)
    """
    match = re.fullmatch(_TEMPORARY, name)
    if match is None:
        return False
    kernel, pid = match.groups()
    is_gone = kernel is not None and kernel == _kernel() and not is_alive(int(pid))
    return is_gone or age_s > _LEFT_ALONE_S


def is_temporary(name: str) -> bool:
    """Whether a file or folder of that name is a temporary one, of whomever and of whatever age."""
    return name[0] == "." and ".tmp" in name and re.fullmatch(_TEMPORARY, name) is not None  # most need no compiler


class FileClock:
    """The time by the clock of a file system, asked when it is needed for the first time: those of two machines may
    disagree."""

    def __init__(self, place: str) -> None:
        self._place, self._time = place, 0.0

    @property
    def time(self) -> float:
        """When it was asked first; raises OSError."""
        if not self._time:
            probe = temporary_name(os.path.join(self._place, "clock"))
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            self._time = os.stat(probe).st_mtime
            os.unlink(probe)
        return self._time

    def age_s(self, path: str) -> float:
        """How long ago a file was written; raises OSError."""
        return self.time - os.lstat(path).st_mtime


def writer_is_gone(path: str, record: Mapping[str, Any], *, may_write: bool = True) -> bool | None:
    """As `is_gone`, of the process that has written its record into this file, while it ran.

    Under another boot it ran before ours where the file is older than that by the clock of the file system, which needs
    no clocks of machines to agree: however shortly before, and whatever the record tells of the time. Who `may_write`
    nothing there cannot ask that clock, and knows it only of files that are older by more than clocks differ.
    """
    gone = is_gone(record)
    if gone is None and is_of_another_boot(record):
        with suppress(OSError):
            about = os.lstat(path)
            is_older = ran_before_boot(about.st_mtime)
            return is_older or (may_write and about.st_mtime < _booted(path, about.st_dev)) or None
    return gone


_booted_at: Final[dict[int, float]] = {}


def _booted(path: str, device: int) -> float:
    """When this machine was started, by the clock of the file system with that file, which is asked once; -inf where
    that does not tell, as where we may not write."""
    if device not in _booted_at:
        _booted_at[device] = -math.inf
        with suppress(OSError):
            _booted_at[device] = FileClock(os.path.dirname(path)).time - uptime_s()
    return _booted_at[device]


def clear_leftovers_in(place: str, clock: FileClock | None = None) -> None:
    """What killed processes have left in a folder is gone, and nothing that somebody may still write; never raises."""
    _clear(place, clock or FileClock(place))


def clear_leftovers_beside(path: str) -> None:
    """The leftovers of earlier attempts to make this file are gone; never raises."""
    place, name = os.path.split(path)
    _clear(place, FileClock(place), f".{name}.")


@cache
def _kernel() -> str:
    """Where the number of a process means something: the boot of the machine, and the namespace of its processes."""
    me = this_process()
    namespace = "".join(letter for letter in me["namespace"] or "" if letter.isdecimal())
    return f"{(me['boot'] or '')[:8]}-{namespace}" if namespace and me["boot"] else f"{os.urandom(4).hex()}-0"


@contextmanager
def appearing(path: str, *, for_good: bool = True, is_shared: bool = False) -> Iterator[str]:
    """Yields a temporary name to make a file of; afterwards the finished file bears the name `path`, on disk for good.

    Not `for_good`: a crash of the machine may lose it, and it takes a hundredth of the time.
    A new one that `is_shared` is for the group of its folder, and any other new one as the umask says.
    """
    temporary = temporary_name(path)
    try:
        yield temporary
        if is_shared:
            share(temporary)
        give_access(temporary, path)
        if for_good:
            sync(temporary)
        os.replace(temporary, path)
        if for_good:
            sync(os.path.dirname(path))
    except BaseException:
        discard(temporary)  # what has gone wrong is told, and not that the rest of it cannot be removed
        raise


@contextmanager
def appearing_folder(path: str) -> Iterator[str]:
    """Yields a new folder to fill; afterwards it bears the name `path`, unless somebody else's does already.

    To be used where the name tells what is in the folder, so that the other one holds the same.
    """
    from shutil import rmtree

    temporary = temporary_name(path)
    try:
        os.makedirs(temporary)
        yield temporary
        with suppress(FileExistsError):
            give_name(temporary, path)
    finally:
        rmtree(temporary, ignore_errors=True)


def give_name(folder: str, path: str) -> None:
    """A finished folder bears the name `path`. Raises FileExistsError where another one does that is not empty."""
    try:
        os.rename(folder, path)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from error
        raise


@contextmanager
def private_database(path: str, *, page_bytes: int = 4096) -> Iterator[sqlite3.Connection]:
    """Yields a connection to a database that nobody else knows yet, in a transaction that is committed at the end.

    It takes no locks, which not every file system has, and no journal: it is thrown away when anything fails. What the
    disk refuses is an OSError.
    """
    import sqlite3

    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))  # tells more than SQLite
    try:
        uri = f"file:{_quoted(path)}?mode=rwc&nolock=1"
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            _bound(connection)
            connection.executescript(
                f"PRAGMA page_size = {page_bytes}; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            )
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")
    except sqlite3.OperationalError as error:
        numbers = (number for name, number in _REFUSED_BY_DISK if error.sqlite_errorname.startswith(name))
        number = next(numbers, None)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), path) from error


class Patience:
    """How long a file system that errs is asked again, from its first error on: with growing pauses, for minutes."""

    def __init__(self, most_s: float = PATIENCE_S, answers: Container[int | None] = ANSWERS) -> None:
        try:
            seconds = float(os.environ.get(PATIENCE_VARIABLE, most_s))
        except ValueError:
            seconds = most_s
        self._until, self._pause = time.monotonic() + min(seconds, most_s), _FIRST_PAUSE_S
        self._answers = answers

    def pause(self, error: OSError) -> float:
        """The seconds until it is to be asked again. Raises the error when it is an answer, or it took too long."""
        if error.errno in self._answers or time.monotonic() + self._pause > self._until:
            raise error
        pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE_S)
        return pause


def asked_again(
    ask: Callable[[], Answer],
    tell: Callable[[str], None] | None = None,
    *,
    most_s: float = PATIENCE_S,
    answers: Container[int | None] = ANSWERS,
    wait: Callable[[float], None] | None = None,
) -> Answer:
    """The answer of `ask`. While it raises an OSError that is none of the `answers`, it is asked again, after a
    pause by `wait`, and `tell` hears of it once.

    Raises OSError when it is one, or when the patience is over.
    """
    patience = None
    while True:
        try:
            return ask()
        except OSError as error:
            is_first, patience = patience is None, patience or Patience(most_s, answers)
            pause = patience.pause(error)
            if is_first and tell is not None:
                tell(f"{error.filename or 'a file'} cannot be reached: {error.strerror or error}; it is asked again")
        (wait or time.sleep)(pause)


class Unseen(OSError):
    """What is there cannot be looked at, so that nobody takes the error for one of a write."""


def looked(look: Callable[[], Answer]) -> Answer:
    """The answer of a look at what is there; of a file system that errs it is asked again for a moment. Raises Unseen
    where that goes on, and another OSError where it is the answer."""
    try:
        return asked_again(look, most_s=SHORTLY_S)
    except OSError as error:
        if is_of_the_disk(error):
            raise Unseen(error.errno, error.strerror or str(error), error.filename) from error
        raise


def is_of_the_disk(error: BaseException) -> bool:
    """Whether a file, or a database, could not be reached, of which nothing follows for what is in it."""
    if isinstance(error, OSError):
        return error.errno not in ANSWERS
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN"))


def unreadable(path: str, error: OSError) -> str:
    """The sentence for what the system does not show: why, and where a disk or its server errs, the way out.

    >>> unreadable("/x", OSError(errno.ESTALE, "Stale file handle"))
    '/x cannot be read: Stale file handle; the disk or its server has a fault: look there, and repeat'
    >>> unreadable("/x", OSError(errno.EACCES, "Permission denied"))
    '/x cannot be read: Permission denied'
    """
    said = f"{path} cannot be read: {error.strerror or error}"
    return f"{said}; {LOOK_AT_THE_DISK}" if is_of_the_disk(error) else said


def is_there(path: str) -> bool:
    """Whether something bears that name: what cannot be looked at is never taken for what is not there.

    A file system that errs is asked again for a moment; FolderError when it cannot tell. `os.path.exists` says False.
    """
    return _found(os.lstat, path) is not None


def may_be_there(path: str) -> bool:
    """Whether that is a file or anything else, or a link to one; what cannot be looked at is, and whoever reads it says
    so."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    except OSError:
        pass
    return True


def exists(path: str) -> bool:
    """Whether that is a file, a folder or anything else, or a link to one. Raises FolderError as `is_there`."""
    return _found(os.stat, path) is not None


def is_file(path: str) -> bool:
    """Whether that is a file, or a link to one. Raises FolderError as `is_there`; `os.path.isfile` says False."""
    found = _found(os.stat, path)
    return found is not None and stat.S_ISREG(found.st_mode)


def is_folder(path: str) -> bool:
    """Whether that is a folder, or a link to one. Raises FolderError as `is_there`; `os.path.isdir` says False."""
    found = _found(os.stat, path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def is_link(path: str) -> bool:
    """Whether that is a link, wherever it leads. Raises FolderError as `is_there`; `os.path.islink` says False."""
    found = _found(os.lstat, path)
    return found is not None and stat.S_ISLNK(found.st_mode)


def leads_nowhere(path: str) -> bool:
    """Whether that is a link to what is not there. Raises FolderError as `is_there`."""
    return is_link(path) and not exists(path)


def entries_in(place: str) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name; of a file system that errs it is asked again for a moment. Raises OSError."""

    def look() -> list[os.DirEntry[str]]:
        with os.scandir(place) as entries:
            return sorted(entries, key=lambda entry: entry.name)

    return looked(look)


def folders_of(entries: Iterable[os.DirEntry[str]]) -> list[str]:
    """The paths of those that are folders, and no links. Raises OSError where that cannot be told of one."""
    return looked(lambda: [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)])


def walked(path: str) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Each folder from that one down, after the one that it is in, with what lies in it; no link is followed.

    Raises OSError for what cannot be looked at: `os.walk` leaves it out, as if nothing were in it.
    """
    waiting = [path]
    while waiting:
        place = waiting.pop()
        entries = entries_in(place)
        yield place, entries
        waiting += reversed(folders_of(entries))


def first_of(places: Iterable[Place], is_meant: Callable[[Place], bool]) -> Place | None:
    """The first of several places that is the one that is meant; None: none is. Raises FolderError where one of them
    cannot be looked at, and no other one is."""
    failure = None
    for place in places:
        try:
            if is_meant(place):
                return place
        except FolderError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return None


def _found(look: Callable[[str], os.stat_result], path: str) -> os.stat_result | None:
    """What is there; None: nothing is, as the file system says. Raises FolderError where it cannot say."""
    try:
        return looked(lambda: look(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself leads to nothing
            return None
        raise FolderError(unreadable(path, error)) from error


def database_uri(path: str) -> str:
    """How SQLite reads a finished file: without locks, which network file systems are bad at, and without a journal.

    >>> database_uri("/x/what?#.sqlite")
    'file:/x/what%3F%23.sqlite?mode=ro&immutable=1'
    """
    return f"file:{_quoted(path)}?mode=ro&immutable=1"


def finished_database(path: str) -> sqlite3.Connection:
    """A connection that reads a finished file, which anybody may have written: it has tables, and nothing that computes
    rows, and no row is longer than MOST_ROW_BYTES. Raises sqlite3.Error."""
    import sqlite3

    connection = sqlite3.connect(database_uri(path), uri=True)
    try:
        _bound(connection)
        if (found := connection.execute(_FOREIGN).fetchone()) is not None:
            raise sqlite3.DatabaseError(f"it has a {found[0]}, {found[1]}, which none of ours has")
    except BaseException:
        connection.close()
        raise
    return connection


def asked_twice(read: Callable[[], Answer]) -> Answer:
    """What `read` finds in a database: SQLite takes for damage what one read that failed has not given it. Raises
    sqlite3.Error."""
    import sqlite3

    try:
        return read()
    except sqlite3.DatabaseError:
        return read()


def _bound(connection: sqlite3.Connection) -> None:
    """What a file says cannot take all memory, nor call what is not harmless."""
    from sqlite3 import SQLITE_LIMIT_LENGTH

    connection.setlimit(SQLITE_LIMIT_LENGTH, MOST_ROW_BYTES)
    connection.execute("PRAGMA trusted_schema = OFF")


def _quoted(path: str) -> str:
    """`?` and `#` in a raw path would open another file."""
    return "".join(chr(byte) if chr(byte) in _PLAIN_IN_URI else f"%{byte:02X}" for byte in os.fsencode(path))


def below(root: str, path: str) -> str | None:
    """A path relative to the root, which itself is ""; None for one that is not below it."""
    relative = os.path.relpath(os.path.realpath(path), root)
    if relative == os.curdir:
        return ""
    return None if relative.split(os.sep)[0] == os.pardir else relative


def give_access(made: str, path: str) -> None:
    """Whoever may read or write the regular file of that name, if there is one, may do so with `made`, which is to have
    the name, whatever the umask says: it gets the mode, and the owner and the group if that can be. Never raises: a
    file that only we may read is better than none."""
    with suppress(OSError):
        about, before = os.lstat(made), looked(partial(os.lstat, path))
        if stat.S_ISREG(about.st_mode) and stat.S_ISREG(before.st_mode):
            mode = before.st_mode & (0o666 if about.st_mode & 0o200 else 0o444)
            runs = (mode & 0o444) >> 2 if about.st_mode & 0o100 else 0
            _allow(made, about, mode | runs, before.st_gid, owner=before.st_uid)


def share(made: str) -> None:
    """The group of the folder that a new file or folder lies in may do with it what it may there, whatever the umask
    says; never raises."""
    with suppress(OSError):
        about, place = os.lstat(made), looked(partial(os.stat, os.path.dirname(made)))
        given = place.st_mode & 0o070
        if not stat.S_ISDIR(about.st_mode):
            given &= (about.st_mode & 0o600) >> 3
            given |= (given & 0o040) >> 2 if about.st_mode & 0o100 else 0
        if given & ~about.st_mode:
            _allow(made, about, stat.S_IMODE(about.st_mode) | given, place.st_gid, owner=about.st_uid)


def _allow(made: str, about: os.stat_result, mode: int, group: int, *, owner: int) -> None:
    """What we have just made, and is about that, has the mode, the group and the owner; where it cannot have the group,
    its own one gets nothing that it has not, and where it cannot have the owner, nobody loses what the umask gave.
    Raises OSError."""
    now = stat.S_IMODE(about.st_mode)
    if (mode, group, owner) == (now, about.st_gid, about.st_uid):
        return
    handle = os.open(made, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(handle)
        if (found.st_dev, found.st_ino) != (about.st_dev, about.st_ino):  # somebody else has put another one there
            return
        if group != about.st_gid:
            try:
                os.fchown(handle, -1, group)
            except OSError:  # none of ours
                mode = mode & ~0o070 | mode & now & 0o070
        if owner != about.st_uid:
            try:
                os.fchown(handle, owner, -1)
            except OSError:  # only root may
                mode |= now & 0o555
        if mode != now:
            os.fchmod(handle, mode)
    finally:
        os.close(handle)


def make_read_only(path: str) -> None:
    """Nobody writes to the file any more; who may read it is what the umask said when it was made."""
    os.chmod(path, os.stat(path).st_mode & 0o444)


def make_executable(path: str) -> None:
    """Whoever may read the file may run it."""
    mode = os.stat(path).st_mode & 0o777
    os.chmod(path, mode | (mode & 0o444) >> 2)


def regular(handle: int, path: str) -> int:
    """The handle, which is of a regular file. Of anything else it is closed, and this raises OSError."""
    kind = os.fstat(handle).st_mode
    if stat.S_ISREG(kind):
        return handle
    os.close(handle)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise OSError(errno.EINVAL, "Not a regular file", path)


def appending(path: str, *, is_read: bool = False) -> int:
    """A handle that appends to a regular file, which is made where there is none; `is_read`: it can be read, too.

    Raises OSError for a link, a pipe and a device, and waits for none of them: others may write to the folder.
    """
    access = os.O_RDWR if is_read else os.O_WRONLY
    flags = access | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    handle = regular(os.open(path, flags, 0o666), path)
    os.set_blocking(handle, True)
    return handle


@contextmanager
def log_file(path: str) -> Iterator[int]:
    """Inside, there is a handle of `appending`, for the output of a process that is started meanwhile."""
    handle = appending(path)
    try:
        yield handle
    finally:
        with suppress(OSError):  # nothing of ours was written, and the process has its own handle
            os.close(handle)


def linked(temporary: str, path: str) -> bool:
    """The file has that name, too; false where another one has it, also one that cannot be seen here yet, as a network
    file system may have it for a minute. True where the answer to an earlier try was lost. Raises OSError."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        try:
            return os.path.samefile(temporary, path)
        except FileNotFoundError:
            return False
    return True


def leave_empty(path: str) -> None:
    """There is a regular file of that name, whatever is in it. Raises OSError."""
    os.close(appending(path))


def discard(path: str) -> None:
    """The file is gone, if it can be removed."""
    with suppress(OSError):
        os.unlink(path)


def remove_tree(path: str) -> None:
    """Nothing is there any more, also where folders of it were protected; no link is followed. Raises OSError."""
    from shutil import rmtree  # few processes need it

    try:
        is_whole_folder = stat.S_ISDIR(looked(partial(os.lstat, path)).st_mode)
    except FileNotFoundError:
        return
    if not is_whole_folder:
        os.unlink(path)
        return
    waiting = [path]
    while waiting:
        place = waiting.pop()
        mode = stat.S_IMODE(looked(partial(os.lstat, place)).st_mode)
        if mode & 0o700 != 0o700:  # before it is listed, which may be what is not allowed
            os.chmod(place, mode | 0o700)
        waiting += folders_of(entries_in(place))
    rmtree(path)


def put_aside(path: str, place: str) -> str:
    """A folder has a hidden name, which is returned, and is to be removed: half of one must not be taken for a whole
    one. It lies in `place`, where leftovers are looked for, if that can be. Raises OSError."""
    try:
        aside = temporary_name(os.path.join(place, os.path.basename(path)))
        os.rename(path, aside)
    except OSError:  # a mounted one, or one that is protected
        aside = temporary_name(path)
        os.rename(path, aside)
    return aside


def space_of(about: os.stat_result) -> int:
    """The bytes that something takes on the disk."""
    return about.st_blocks * 512


def space_below(path: str, tell: Callable[[OSError], object] | None = None) -> tuple[int, int]:
    """How many files are in a folder, and how many bytes all in it takes on the disk, as `du` counts: a file with
    several names once, and nothing that links lead to. `tell` hears of what cannot be read."""
    n_files, n_bytes, seen = 0, 0, set[tuple[int, int]]()
    waiting = [path]
    while waiting:
        place = waiting.pop()
        try:
            n_bytes += space_of(os.lstat(place))
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                        continue
                    about = entry.stat(follow_symlinks=False)
                    key = about.st_dev, about.st_ino
                    if about.st_nlink == 1 or key not in seen:
                        n_bytes += space_of(about)
                        seen.add(key)
                    n_files += 1
        except FileNotFoundError:  # a job that runs has put it away
            continue
        except OSError as error:
            if tell is not None:
                tell(error)
    return n_files, n_bytes


def sync(path: str) -> None:
    """All that was written to a file, or renamed in a folder, survives a crash of the machine."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(path: str) -> None:
    """As `sync`, of a file, or of a folder with all files and folders in it, one by one; nothing that links in it lead
    to. Raises OSError."""
    if not stat.S_ISDIR(looked(partial(os.lstat, path)).st_mode):
        sync(path)
        return
    for place, entries in walked(path):
        files = looked(partial(_regular_files, entries))
        for inside in (*files, place):
            with suppress(PermissionError):  # what may not be opened
                sync(inside)


def _regular_files(entries: Iterable[os.DirEntry[str]]) -> list[str]:
    return [entry.path for entry in entries if entry.is_file(follow_symlinks=False)]


def sync_all(path: str) -> None:
    """All that was written to the file system of a folder survives a crash of the machine: of a thousand files faster
    than one by one. Raises OSError."""
    import ctypes  # few processes need it

    sync_file_system = getattr(ctypes.CDLL(None), "syncfs", None)
    handle = os.open(path, os.O_RDONLY)
    try:
        if sync_file_system is None or sync_file_system(handle):
            os.sync()
    finally:
        os.close(handle)


def write_json(path: str, value: Any, *, for_good: bool = True, is_shared: bool = False) -> None:
    """The file holds `value` as JSON, readable for people; `for_good`, `is_shared` as in `appearing`."""
    made = appearing(path, for_good=for_good, is_shared=is_shared)
    with made as temporary, open(temporary, "x", encoding="utf-8") as file:
        file.write(json_text(value))


def json_text(value: Any) -> str:
    """The text that `write_json` writes."""
    return json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def number_in(body: Mapping[str, Any], name: str) -> float | None:
    """The number of that name in what a file holds; None where there is none, or something else."""
    value = body.get(name)
    return value if is_number(value) else None


def _clear(place: str, clock: FileClock, begins: str = ".") -> None:
    with suppress(OSError):
        for name in os.listdir(place):
            if name.startswith(begins) and is_temporary(name):
                with suppress(OSError):
                    _remove(os.path.join(place, name), clock)


def _remove(path: str, clock: FileClock) -> None:
    if not is_leftover(os.path.basename(path), clock.age_s(path)):
        return
    if stat.S_ISDIR(os.lstat(path).st_mode):
        from shutil import rmtree  # few processes need it

        rmtree(path, ignore_errors=True)
    else:
        os.unlink(path)
