"""One experiment as one file, to keep or to hand on: what tells its story, and not the checkpoints unless asked.

Others may have laid links into the folder, so what is packed is decided here, link by link. A job's directory that lies
elsewhere is packed as if it lay here when whoever made the link owns that place; any other link that leads out of the
experiment is left out and named. In the file are regular files, and relative links from one to another.
"""

import errno
import io
import os
import re
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from experiment_manager.analysis import crate
from experiment_manager.errors import ExperimentManagerError, FolderError
from experiment_manager.execution.command import has_own_place, place_of
from experiment_manager.store.documents import MOST_RESULT_BYTES, content
from experiment_manager.store.files import (
    appearing,
    below,
    clear_leftovers_beside,
    discard,
    entries_in,
    is_folder,
    is_link,
    is_temporary,
    is_there,
    looked,
    unreadable,
)
from experiment_manager.store.layout import Folder, writing
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.states import StateTable
from experiment_manager.text import counted, followed, skipped, tell

_TOP: Final = ("manifest.sqlite", "config.json", "pass_filter.json", "slurm_config.json")
_MARKS: Final = ("tags", "notes", "held", "removed")
_WHOLE: Final = ("conf", "code", "tasks", "launches", "warnings", "rungs", "proposals", *_MARKS)
_OF_ATTEMPTS: Final = re.compile(r"(attempt|result|error|pruned)\.\d+\.json|metrics\.\d+\.jsonl")
_LOGS: Final = re.compile(r"std(out|err)\.\d+(\.rank\d+)?\.log")
_JOB: Final = re.compile(r"jobs/\d+")
_UNKNOWN: Final = b"{}"


def archive(
    folder: Folder,
    path: str,
    table: StateTable,
    *,
    logs: bool = False,
    everything: bool = False,
    is_crate: bool = False,
    license_: str | None = None,
) -> int:
    """The experiment is in a gzipped tar file, below a folder of its own name; returns the number of files.

    In it are the manifest, frozen configurations, launches, states, results, errors and metrics; with `logs` what jobs
    have printed, too; with `everything` all files in their folders; where it `is_crate`, a file that makes it an
    RO-Crate, under a license. Unpacked anywhere, it is read like any other.
    What cannot be read, and what leads out of the experiment, is named on standard error and left out. Raises
    FolderError when the file is there already, or cannot be written.
    """
    if license_ is not None and not is_crate:
        raise ExperimentManagerError("a license is that of an RO-Crate: ask for one with --ro-crate, ro_crate=True")
    if is_there(path):
        raise FolderError(f"{path} is there already; choose another name with --out, or remove it")
    if is_crate:
        crate.require_library()
    clear_leftovers_beside(path)
    with writing(path), _new(path) as temporary, tarfile.open(temporary, "x:gz", compresslevel=6) as file:
        packing = _Packing(folder, file, logs=logs, everything=everything)
        names = list(packing.names())
        for name in followed(names, len(names), "archiving"):
            packing.add(name)
        for job_id, numbers in table.attempts.items():
            for number, state in numbers.items():
                packing.add_state(f"{job_id}.{number}", str(state))
        if is_crate:
            packing.add_bytes(crate.NAME, crate.metadata(folder, table, packing.parts, license_))
    if packing.n_data_links:
        tell(f"code: {packing.n_data_links} links to data outside of the experiment are not in {path}")
    _name_what_lies_elsewhere(folder)
    return packing.n_files


@contextmanager
def _new(path: str) -> Iterator[str]:
    """As `appearing`, of a file that was not there: nor is it where the disk refuses it in the end, after it has its
    name, so that the same command can be repeated. What somebody else has put there meanwhile stays."""
    made = None
    try:
        with appearing(path) as temporary:
            yield temporary
            made = os.stat(temporary)
    except OSError:
        with suppress(FileNotFoundError):
            if made is not None and os.path.samestat(made, os.lstat(path)):
                discard(path)
        raise


def _name_what_lies_elsewhere(folder: Folder) -> None:
    """People are told of jobs whose files are not in the folder, since another sweeper had a place of its own."""
    if not is_there(folder.manifest):
        return
    with Manifest(folder) as manifest:
        places = [place_of(folder, job).directory for job in manifest.jobs() if has_own_place(job)]
    if places:
        whose = f"what {counted(len(places))} {'has' if len(places) == 1 else 'have'} written"
        skipped(f"{whose} lies outside of the experiment, as in {places[0]}; pack it yourself")


class _Packing:
    """An archive that is being written."""

    def __init__(self, folder: Folder, file: tarfile.TarFile, *, logs: bool, everything: bool) -> None:
        self._folder, self._file, self._logs, self._everything = folder, file, logs, everything
        self._places = {os.path.realpath(folder.path): ""}  # and what each is called in the archive
        self.n_files = self.n_data_links = 0
        self.parts = set[str]()  # the names at the top of what is packed

    def names(self) -> Iterator[str]:
        """The files to pack but for the states, relative to the folder, sorted in each."""
        yield from (name for name in _TOP if is_there(self._folder.join(name)))
        for part in (*_WHOLE, "jobs"):
            if is_there(self._folder.join(part)):
                yield from self._below(part)

    def _below(self, place: str) -> Iterator[str]:
        """The names to pack in a folder of the experiment, and in those below it."""
        path = self._folder.join(place)
        folders = []
        try:
            if is_link(path) and not self._follows(place):
                return
            entries = entries_in(path)
        except (OSError, FolderError) as error:
            self._leave_unread(place, error)
            return
        for entry in entries:
            name = f"{place}/{entry.name}"
            if is_temporary(entry.name):
                continue
            try:
                is_whole = entry.is_dir(follow_symlinks=False) or (_JOB.fullmatch(name) and is_folder(entry.path))
            except (OSError, FolderError) as error:
                self._leave_unread(name, error)
                continue
            if is_whole:
                folders.append(name)
            elif self._is_wanted(place, entry.name):
                yield name
        for name in folders:
            yield from self._below(name)

    def _is_wanted(self, place: str, name: str) -> bool:
        """Whether a file is one of the record, and not of the user's own, or was asked for."""
        if name.endswith(".lock"):
            return False
        if self._everything or not place.startswith("jobs"):
            return True
        if _JOB.fullmatch(place):
            return bool(_OF_ATTEMPTS.fullmatch(name) or (self._logs and _LOGS.fullmatch(name)))
        return bool(re.fullmatch(r"jobs/[^/]+/\.hydra", place))

    def _follows(self, place: str) -> bool:
        """Whether a folder that is a link is packed as if it were here: jobs, where whoever made the link owns what it
        leads to. Nobody gets to pack what others have pointed at."""
        path = self._folder.join(place)
        real = os.path.realpath(path)
        if self._inside(real) is not None:
            self._add_link(place, real)
            return False
        why_not = None
        try:
            if not (place == "jobs" or _JOB.fullmatch(place)):
                why_not = f"is a link that leads out of the experiment, to {real}"
            elif os.stat(path).st_uid != os.lstat(path).st_uid:
                why_not = f"is a link to {real}, which is not of the user who made the link"
            elif below(real, self._folder.path) is not None:
                why_not = f"is a link to {real}, in which the experiment itself lies"
        except OSError as error:
            why_not = f"cannot be read: {error.strerror}"
        if why_not is None:
            self._places[real] = place
        else:
            self._leave_out(place, why_not)
        return why_not is None

    def _inside(self, real: str) -> str | None:
        """The name of a place in the archive; None for one that is not in it."""
        for place, called in self._places.items():
            rest = below(place, real)
            if rest is not None:
                return os.path.normpath(os.path.join(called, rest))
        return None

    def add(self, name: str) -> None:
        """A file, or a link, is in the archive, or is named as left out."""
        path = self._folder.join(name)
        real = os.path.realpath(path)
        try:
            is_elsewhere = is_link(path)
        except FolderError as error:
            self._leave_unread(name, error)
            return
        if is_elsewhere and self._inside(real) is None:
            if name.startswith("code/"):  # made by us: data is not copied
                self.n_data_links += 1
            else:
                self._leave_out(name, f"is a link that leads out of the experiment, to {real}")
        elif is_elsewhere and "/" in name and (self._everything or not name.startswith("jobs/")):
            self._add_link(name, real)
        else:
            self._add_file(name, real if is_elsewhere else path)

    def _add_link(self, name: str, real: str) -> None:
        about = tarfile.TarInfo(os.path.join(self._folder.name, name))
        about.type, about.mtime = tarfile.SYMTYPE, int(os.lstat(self._folder.join(name)).st_mtime)
        about.linkname = os.path.relpath(self._inside(real) or os.curdir, os.path.dirname(name))
        self._file.addfile(about)
        self._count(name)

    def _add_file(self, name: str, path: str) -> None:
        try:
            file = _opened(path)
        except FileNotFoundError:  # a job that runs has put it away
            return
        except OSError as error:
            self._leave_unread(name, error)
            return
        with file:
            n_bytes = os.fstat(file.fileno()).st_size
            if n_bytes > MOST_RESULT_BYTES and not self._everything and not name.endswith(".log"):
                self._leave_out(name, f"has {n_bytes} bytes, which no record has; --all packs it, too")
                return
            about = self._file.gettarinfo(arcname=os.path.join(self._folder.name, name), fileobj=file)
            self._file.addfile(about, file if about.isreg() else None)
        self._count(name)

    def _count(self, name: str) -> None:
        self.n_files += 1
        self.parts.add(name.partition("/")[0])

    def add_state(self, attempt: str, state: str) -> None:
        """An attempt's anchor and its state: by what was seen, since the name on disk may change meanwhile."""
        try:
            body = looked(lambda: content(self._folder.join("states", attempt)))
        except FileNotFoundError:
            return
        except OSError as error:
            self._leave_unread(f"states/{attempt}", error)
            body = _UNKNOWN
        for name in (attempt, f"{attempt}.{state}"):
            self.add_bytes(f"states/{name}", body)

    def add_bytes(self, name: str, body: bytes) -> None:
        """A file with that in it."""
        entry = tarfile.TarInfo(os.path.join(self._folder.name, name))
        entry.size, entry.mode, entry.mtime = len(body), 0o644, int(os.stat(self._folder.path).st_mtime)
        self._file.addfile(entry, io.BytesIO(body))
        self._count(name)

    def _leave_unread(self, name: str, error: OSError | FolderError) -> None:
        skipped(str(error) if isinstance(error, FolderError) else unreadable(self._folder.join(name), error))

    def _leave_out(self, name: str, why: str) -> None:
        skipped(f"{self._folder.join(name)} {why}")  # the exit status tells, too


def _opened(path: str) -> io.BufferedReader:
    """A regular file, and nothing that it has been exchanged for. Raises OSError."""
    handle = looked(lambda: os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no regular file")
    return os.fdopen(handle, "rb")
