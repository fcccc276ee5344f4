"""One experiment as one file, to keep or to hand on: what tells its story, and not the checkpoints unless asked."""

import io
import os
import re
import tarfile
from collections.abc import Iterator
from typing import Final

from experiment_manager.disk.files import appearing, is_temporary
from experiment_manager.disk.folder import Folder, writing
from experiment_manager.disk.manifest import Manifest
from experiment_manager.disk.states import Snapshot
from experiment_manager.errors import FolderError
from experiment_manager.progress import followed
from experiment_manager.running.command import has_own_place, place_of
from experiment_manager.text import skipped
from experiment_manager.words import counted

_TOP: Final = ("manifest.sqlite", "config.json", "pass_filter.json", "slurm_config.json")
_WHOLE: Final = ("conf", "code", "tasks", "launches", "warnings")
_OF_ATTEMPTS: Final = re.compile(r"(attempt|result|error)\.\d+\.json|metrics\.\d+\.jsonl")
_LOGS: Final = re.compile(r"std(out|err)\.\d+(\.rank\d+)?\.log")


def archive(folder: Folder, path: str, snapshot: Snapshot, *, logs: bool = False, everything: bool = False) -> int:
    """The experiment is in a gzipped tar file, below a folder of its own name; returns the number of files.

    In it are the manifest, frozen configurations, launches, states, results, errors and metrics; with `logs` what jobs
    have printed, too; with `everything` all files in their folders. Unpacked anywhere, it is read like any other.
    What cannot be read is named on standard error. Raises FolderError when the file is there already, or cannot be
    written.
    """
    if os.path.exists(path):
        raise FolderError(f"{path} is there already; choose another name with --out, or remove it")
    names = list(_names(folder, logs=logs, everything=everything))
    count = 0
    with writing(path), appearing(path) as temporary, tarfile.open(temporary, "x:gz", compresslevel=6) as file:
        for name in followed(names, len(names), "archiving"):
            try:
                file.add(folder.join(name), os.path.join(folder.name, name), recursive=False)
            except FileNotFoundError:  # a job that runs has put it away
                continue
            except PermissionError as error:
                skipped(f"{folder.join(name)} cannot be read: {error.strerror}")
                continue
            count += 1
        for job_id, numbers in snapshot.attempts.items():
            for number, state in numbers.items():
                count += _add_state(file, folder, f"{job_id}.{number}", str(state))
    _name_what_lies_elsewhere(folder)
    return count


def _name_what_lies_elsewhere(folder: Folder) -> None:
    """People are told of jobs whose files are not in the folder, since another sweeper had a place of its own."""
    if not os.path.exists(folder.manifest):
        return
    with Manifest(folder) as manifest:
        places = [place_of(folder, job).directory for job in manifest.jobs() if has_own_place(job)]
    if places:
        whose = f"what {counted(len(places))} {'has' if len(places) == 1 else 'have'} written"
        skipped(f"{whose} lies outside of the experiment, as in {places[0]}; pack it yourself")


def _names(folder: Folder, *, logs: bool, everything: bool) -> Iterator[str]:
    """The files to pack but for the states, relative to the folder, sorted in each."""
    yield from (name for name in _TOP if os.path.exists(folder.join(name)))
    for part in (*_WHOLE, "jobs"):
        for place, folders, files in os.walk(folder.join(part)):
            folders[:] = sorted(name for name in folders if not is_temporary(name))
            relative = os.path.relpath(place, folder.path)
            for name in sorted(name for name in files if not is_temporary(name)):
                is_ours = _is_wanted(relative, name, logs=logs) if part == "jobs" else not _leads_away(place, name)
                if (everything or is_ours) and not name.endswith(".lock"):
                    yield os.path.join(relative, name)


def _is_wanted(place: str, name: str, *, logs: bool) -> bool:
    """Whether a file of a job is one of the record, and not of the user's own."""
    if place.count(os.sep) == 1:
        return bool(_OF_ATTEMPTS.fullmatch(name) or (logs and _LOGS.fullmatch(name)))
    return place.count(os.sep) == 2 and os.path.basename(place) == ".hydra"


def _leads_away(place: str, name: str) -> bool:
    """Whether a file is a link by a whole path, which is another machine's affair."""
    path = os.path.join(place, name)
    return os.path.islink(path) and os.path.isabs(os.readlink(path))


def _add_state(file: tarfile.TarFile, folder: Folder, attempt: str, state: str) -> int:
    """An attempt's anchor and its state: by what was seen, since the name on disk may change meanwhile."""
    try:
        with open(folder.join("states", attempt), "rb") as anchor:
            content = anchor.read()
    except OSError:
        return 0
    for name in (attempt, f"{attempt}.{state}"):
        entry = tarfile.TarInfo(os.path.join(folder.name, "states", name))
        entry.size, entry.mode, entry.mtime = len(content), 0o644, int(os.stat(folder.path).st_mtime)
        file.addfile(entry, io.BytesIO(content))
    return 2
