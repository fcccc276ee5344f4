"""Where everything of an experiment lies: every file name of the project is written here, once.

    <experiment_path>/<experiment_name>/
      manifest.sqlite   generations/7   pass_filter.json   slurm_config.json   conf/<hash>/<source>/   code/<hash>/
      launches/0001/launch.json  orders.sqlite  driver.json     states/7.1  states/7.1.COMPLETED
      jobs/7/stdout.1.log  stderr.1.log  result.1.json  error.1.json  attempt.1.json  metrics.1.jsonl  pruned.1.json
      rungs/4f1c09ab/9000/7.1.0.25
      proposals/17.json  17.configuration.json  stopped.json
      tags/7.baseline   notes/7.txt
      moved.json        .moving.json

This module names files, checks that a name can be one, and takes the lock under which experiments are planned.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from experiment_manager.errors import LOOK_AT_THE_DISK, FolderError
from experiment_manager.store.files import (
    Unseen,
    below,
    is_file,
    is_folder,
    is_there,
    leave_empty,
    looked,
    share,
    unreadable,
)
from experiment_manager.text import as_word
from experiment_manager.typing_names import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from experiment_manager.store.lock import Lock

LOCK_WAIT_S: Final = 60.0
_MOST_LOOKED_AT: Final = 1000
_LOCK_TRIES: Final = 100
_LOCK_PAUSE_S: Final = 0.002
MANIFEST: Final = "manifest.sqlite"
"""By this file in it a folder is known to be an experiment."""

_NO_ROOM: Final = "make room there, or choose another folder, and repeat"
_REFUSALS: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.ENOLCK, errno.ENOSYS, errno.EMFILE, errno.ENFILE, errno.ENAMETOOLONG}
)
_WAYS_OUT: Final = {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EIO: LOOK_AT_THE_DISK,
    errno.ESTALE: LOOK_AT_THE_DISK,
    errno.EROFS: "it may only be read: mount it to be written, or choose another folder",
}


def check_name(name: str) -> None:
    """Raise FolderError, which says why, unless `name` can be the name of an experiment."""
    reason = None
    if not isinstance(name, str) or not name:
        reason = "it is empty"
    elif any("\ud800" <= letter <= "\udfff" for letter in name):
        reason = "it is not valid Unicode"
    elif "/" in name:
        reason = "it has a slash; put the folder into experiment_path"
    elif any(letter < " " or letter == "\x7f" for letter in name):
        reason = "it has a newline or another control character"
    elif name.startswith("-"):
        reason = "it starts with a dash, which every command would take for an option"
    elif name in (".", "..") or "${" in name or len(name.encode()) > 200:
        reason = "it is '.' or '..', holds '${', or is longer than 200 bytes"
    if reason:
        raise FolderError(f"{name!r} cannot be the name of an experiment: {reason}")


class Folder:
    """The folder of one experiment and the names in it: `path` is absolute, and on disk only once something was saved.

    One that `is_only_read` stays as it is, whatever is found out about its jobs meanwhile. Who has read the manifest of
    one that `was_there` does not make it anew where it was moved away since. Raises FolderError for a name that no
    folder can bear.
    """

    __slots__ = ("is_only_read", "path", "was_there")

    def __init__(
        self, experiment_path: str | os.PathLike[str], experiment_name: str, *, is_only_read: bool = False
    ) -> None:
        check_name(experiment_name)
        self.path = os.path.join(os.path.abspath(os.fspath(experiment_path)), experiment_name)
        self.is_only_read, self.was_there = is_only_read, False

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> Folder:
        """The folder of an experiment by its own path, as commands get it."""
        whole = os.path.abspath(os.fspath(path))
        return cls(os.path.dirname(whole), os.path.basename(whole))

    def __repr__(self) -> str:
        return f"Folder({self.path!r})"

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    @property
    def parent(self) -> str:
        return os.path.dirname(self.path)

    def join(self, *names: str) -> str:
        return os.path.join(self.path, *names)

    @property
    def manifest(self) -> str:
        return self.join(MANIFEST)

    @property
    def generations(self) -> str:
        """All that has been published as the manifest: see `manifest_editor`."""
        return self.join("generations")

    @property
    def original_config(self) -> str:
        """The file that the original library wrote instead of a manifest."""
        return self.join("config.json")

    @property
    def pass_filter(self) -> str:
        return self.join("pass_filter.json")

    @property
    def slurm_config(self) -> str:
        return self.join("slurm_config.json")

    @property
    def states(self) -> str:
        return self.join("states")

    @property
    def launches(self) -> str:
        return self.join("launches")

    @property
    def proposals(self) -> str:
        """What searches have proposed since the manifest was written: see `proposals`."""
        return self.join("proposals")

    @property
    def warnings(self) -> str:
        """Holds an empty file for each attempt of whose result or metrics people should know: see `results.mark`."""
        return self.join("warnings")

    def job(self, job_id: int) -> str:
        return self.join("jobs", str(job_id))

    @property
    def tags(self) -> str:
        """Holds an empty file for each tag of a job, or of the experiment: see `tags`."""
        return self.join("tags")

    @property
    def held(self) -> str:
        """Holds an empty file for each job that is not to begin: see `holds`."""
        return self.join("held")

    @property
    def removed(self) -> str:
        """Holds an empty file for each job that was a mistake: see `holds`."""
        return self.join("removed")

    @property
    def report(self) -> str:
        """The newest report, where no other place was chosen for it."""
        return self.join("report.html")

    @property
    def moved(self) -> str:
        """Where the experiment was before: see `relocation`."""
        return self.join("moved.json")

    @property
    def moving(self) -> str:
        """A move that was begun, and has not been finished: see `relocation`."""
        return self.join(".moving.json")

    @property
    def locks(self) -> tuple[str, str]:
        """What whoever plans the experiment holds, with and without locks of the file system."""
        return _lock_path(self), f"{_lock_path(self)}.held"

    @property
    def export_lock(self) -> str:
        """Whoever exports the experiment holds it."""
        return self.join(".export.lock")

    @property
    def rungs(self) -> str:
        """Holds an empty file for each value that a job has left at a rung: see `rungs`."""
        return self.join("rungs")

    def of_attempt(self, job_id: int, attempt: int, kind: str) -> str:
        """A file of one attempt: `stdout`, `stderr` (logs), `result`, `error`, `attempt`, `pruned` (JSON),
        `metrics` (lines)."""
        ending = {"stdout": "log", "stderr": "log", "metrics": "jsonl"}.get(kind, "json")
        return os.path.join(self.job(job_id), f"{kind}.{attempt}.{ending}")

    def make(self, path: str, *, is_shared: bool = False) -> None:
        """The folder at `path`, in the experiment, is there, to be written to; where it is new, and `is_shared`, by the
        group of the folder that it lies in, too.

        Raises OSError, PermissionError as `require_within`, FileNotFoundError where the experiment was there and is
        gone: nothing is left where nobody looks for it.
        """
        self.require_within(path)
        made = list[str]()
        _make_folder(path, made, within=self.path if self.was_there else None)
        for place in reversed(made if is_shared else ()):
            share(place)

    def require_within(self, path: str) -> None:
        """Raise PermissionError where a link of somebody else's on the way to a folder leads out of the experiment:
        what is written, or removed, there is in a place that others have chosen."""
        place = path
        while place.startswith(self.path + os.sep):
            with suppress(FileNotFoundError):  # it is going to be made
                about = os.lstat(place)
                if (
                    stat.S_ISLNK(about.st_mode)
                    and about.st_uid != os.geteuid()
                    and below(os.path.realpath(self.path), place) is None
                ):
                    raise PermissionError(
                        errno.EPERM, "it is a link of another user's, and leads out of the experiment", place
                    )
            place = os.path.dirname(place)

    def is_experiment(self) -> bool:
        return is_file(self.manifest) or is_file(self.original_config)

    def require(self) -> None:
        """Raise FolderError unless an experiment is here; it names the one that was probably meant."""
        if self.is_experiment():
            return
        meant = _nearest(self.path)
        way_out = "define one with a sweep or with Experiment.save(), or name another folder"
        if meant is not None:
            way_out = f"did you mean {as_word(meant)}?"
        raise FolderError(
            f"{self.path} is no experiment: it has no manifest.sqlite; {way_out} (`experiment-manager list` shows "
            "those below a folder)"
        )


def marks_in(place: str) -> list[str]:
    """The names of the empty files in a folder by which people mark jobs; none where it is not there. Raises
    FolderError: nothing is known then, and to begin a job would be a mistake."""
    try:
        return looked(lambda: os.listdir(place))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise FolderError(unreadable(place, error)) from error


def set_marks(folder: Folder, place: str, names: Iterable[str], *, are_there: bool) -> None:
    """The empty files of these names are in a folder of the experiment, or are not. Raises FolderError."""
    with writing(folder.path):
        if are_there:
            folder.make(place)
        else:
            folder.require_within(place)
        for name in names:
            path = os.path.join(place, name)
            if are_there:
                leave_empty(path)
                continue
            with suppress(FileNotFoundError):
                os.unlink(path)


def _nearest(path: str) -> str | None:
    """The experiment that was probably meant, as one would type it here: the one around that folder, the only one in
    it, one beside it of much the same name, one of its name a folder deeper, or one in a folder of much the same name.
    None: there is none."""
    from difflib import get_close_matches  # for people who have mistyped something

    place = os.path.dirname(path)
    while place != os.path.dirname(place):
        if _has_manifest(place):
            return _as_typed(place)
        place = os.path.dirname(place)
    inside = _experiments_in(path)
    if len(inside) == 1:
        return _as_typed(inside[0])
    parent, name = os.path.split(path)
    above, between = os.path.split(parent)
    deeper = [os.path.join(parent, one) for one in _names_in(parent) if _has_manifest(os.path.join(parent, one, name))]
    others = [os.path.join(above, one) for one in get_close_matches(between, _names_in(above))]
    for place, is_exact in [(parent, False), *((one, True) for one in deeper), *((one, False) for one in others)]:
        names = [os.path.basename(found) for found in _experiments_in(place)]
        for found in [name] if is_exact else get_close_matches(name, names, n=1):
            return _as_typed(os.path.join(place, found))
    return None


def _experiments_in(path: str) -> list[str]:
    found = (os.path.join(path, name) for name in _names_in(path))
    return [place for place in found if _has_manifest(place)]


def _has_manifest(path: str) -> bool:
    return os.path.isfile(os.path.join(path, MANIFEST))


def _names_in(path: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(path) if name[0] != ".")[:_MOST_LOOKED_AT]
    except OSError:
        return []


def _as_typed(path: str) -> str:
    """Relative to the working directory, where it is below that."""
    here = os.path.relpath(path)
    return path if here.startswith(os.pardir) else here


@contextmanager
def writing(path: str) -> Iterator[None]:
    """Inside, a place that cannot be written is a FolderError with a sentence, and no bare OSError."""
    try:
        yield
    except OSError as error:
        raise FolderError(unwritable(path, error)) from error


def is_refused(error: OSError) -> bool:
    """Whether the system has refused what nobody of ours did wrong: a full disk, a fault of it, missing permissions."""
    return error.errno in _WAYS_OUT or error.errno in _REFUSALS


def unwritable(path: str, error: OSError) -> str:
    """The sentence for what the system refuses: which file, where it names one, why, and what can be done."""
    named = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else path
    where = named if os.path.isabs(named) and not os.path.basename(named).startswith(".") else path
    if isinstance(error, Unseen):
        return unreadable(where, error)
    way_out = _WAYS_OUT.get(error.errno or 0, "mend its permissions, make room, or choose another folder")
    return f"{where} cannot be made or written: {error.strerror or error}; {way_out}"


@contextmanager
def planning(folder: Folder) -> Iterator[None]:
    """Inside, nobody else plans this experiment. A folder that was made for the lock is removed when planning fails.

    Where locks are known to one machine alone, somebody else may plan it nevertheless: what is published tells (see
    `lock`). Raises FolderError when the folder cannot be written, or another planner holds it for longer than
    LOCK_WAIT_S; inside, an OSError is one, too.
    """
    made, lock = _lock(folder)
    try:
        with writing(folder.path):
            yield
    except BaseException:
        lock.release(remove=bool(made))
        _unmake(made)
        raise
    lock.release()


def _lock(folder: Folder) -> tuple[list[str], Lock]:
    """The folders that were made, and the lock, held. A planner that fails may take the folder away under us: again."""
    from experiment_manager.store.lock import Busy, Lock

    for last in (*[False] * (_LOCK_TRIES - 1), True):
        made: list[str] = []
        if folder.was_there and not is_folder(folder.path):
            raise FolderError(f"{folder.path} was moved away, or removed, meanwhile; name the place where it is now")
        try:
            _make_folder(folder.path, made)
            return made, Lock(_lock_path(folder), wait_s=LOCK_WAIT_S)
        except Busy as busy:
            raise FolderError(
                f"{busy.holder} has been planning {folder.path} for {LOCK_WAIT_S:.0f} s; wait for it, or end it"
            ) from busy
        except OSError as error:
            _unmake(made)
            if last or not isinstance(error, FileNotFoundError | FileExistsError):
                raise _unplannable(folder, error) from error
        time.sleep(_LOCK_PAUSE_S)
    raise FolderError(f"{folder.path} is made and removed by others all the time; try again")


def trouble_to_plan(folder: Folder) -> FolderError | None:
    """The error that `planning` would raise at once because the folder cannot be made or locked, as far as that can be
    told without trying; None: there is none."""
    place = folder.path
    while not is_there(place):
        place = os.path.dirname(place)
    if not is_folder(place):
        return _unplannable(folder, FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)))
    lock = _lock_path(folder)
    refused = _refused(lock, os.R_OK | os.W_OK) if is_there(lock) else _refused(place, os.W_OK | os.X_OK)
    return None if refused is None else _unplannable(folder, refused)


def trouble_to_write(folder: Folder) -> FolderError | None:
    """The error that `planning` would raise as soon as something is to be written, as far as that can be told without
    trying; None: there is none."""
    refused = _refused(folder.path, os.W_OK | os.X_OK) if is_folder(folder.path) else None
    return None if refused is None else FolderError(unwritable(folder.path, refused))


def _refused(path: str, needed: int) -> OSError | None:
    """The system's error for somebody who uses what is there so; None: there is none."""
    if os.access(path, needed, effective_ids=True):
        return None
    number = errno.EROFS if os.statvfs(path).f_flag & os.ST_RDONLY else errno.EACCES
    return OSError(number, os.strerror(number))


def _unplannable(folder: Folder, error: OSError) -> FolderError:
    if isinstance(error, Unseen):
        return FolderError(unreadable(folder.path, error))
    way_out = _WAYS_OUT.get(error.errno or 0, "choose another experiment_path, or mend its permissions")
    return FolderError(f"{folder.path} cannot be made or written: {error.strerror or error}; {way_out}")


def _lock_path(folder: Folder) -> str:
    return folder.join(".planning.lock")


def _make_folder(path: str, made: list[str], within: str | None = None) -> None:
    """Makes a folder and the parents it lacks, and puts those that it made into `made`, innermost first; not the folder
    that it is to be `within`. Raises OSError."""
    missing, last = list[str](), path
    while path != within and not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for path in reversed(missing):
        try:
            os.mkdir(path)
        except FileExistsError:
            is_other = os.path.lexists(path) and not os.path.isdir(path)  # one that others made may not be seen yet
            if is_other and (within is None or path == last):  # else the next one says what is wrong
                raise
        else:
            made.insert(0, path)


def _unmake(made: list[str]) -> None:
    for path in made:
        try:
            os.rmdir(path)
        except OSError:  # somebody has put something there: it stays
            return
