"""Launches: the record of each handing-over of jobs, `launches/0001/launch.json`, written before anything runs.

Tasks, which must not read what grows with the experiment, find their own part of it by the index: see orders.
"""

import getpass
import os
import sys
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from shutil import rmtree
from typing import Any, Final

from experiment_manager.disk import provenance
from experiment_manager.disk.files import give_name, leave_empty, sync, temporary_name, write_json
from experiment_manager.disk.folder import Folder
from experiment_manager.disk.orders import planned, read_record, write_orders
from experiment_manager.errors import FolderError, JobRefused, UnreadableLaunch
from experiment_manager.ids import format_ids
from experiment_manager.records import Attempt, Launch

RECORD: Final = "launch.json"
SETTLED: Final = "settled"
"""An empty file in a launch of which SLURM has nothing more to say: its record need not be read to know its jobs."""

_PACKAGES, _PATCH, _ORDERS = "packages.txt", "code.patch", "orders.sqlite"
WRITTEN_BEFORE_THE_RECORD: Final = (_PACKAGES, _PATCH, _ORDERS)


def create_launch(folder: Folder, jobs: Iterable[Attempt], about: Mapping[str, Any]) -> Launch:
    """A launch with the next number is on disk. `jobs` are the attempts that it is to make, one per job."""
    ids_by_attempt: dict[str, list[int]] = defaultdict(list)
    for attempt in jobs:
        ids_by_attempt[str(attempt.number)].append(attempt.job_id)
    record = {
        "time": time.time(),
        "user": user_name(),
        "host": os.uname().nodename,
        "cwd": os.getcwd(),
        "argv": sys.orig_argv,
        **provenance.of_code(),
        "python": ".".join(map(str, sys.version_info[:3])),
        **about,
        "jobs": {number: format_ids(ids) for number, ids in ids_by_attempt.items()},
    }
    folder.make(folder.launches)
    temporary = temporary_name(folder.join("launches", "launch"))
    try:
        os.mkdir(temporary)
        provenance.write_packages(os.path.join(temporary, _PACKAGES))
        if record["git_dirty"]:
            provenance.write_patch(os.path.join(temporary, _PATCH))
        if "slurm" not in record:
            leave_empty(os.path.join(temporary, SETTLED))
        write_orders(os.path.join(temporary, _ORDERS), record)
        write_json(os.path.join(temporary, RECORD), record)
        number = _numbered(folder, temporary)
    except BaseException:
        rmtree(temporary, ignore_errors=True)
        raise
    sync(folder.launches)
    return Launch(number, record)


def _numbered(folder: Folder, temporary: str) -> str:
    """The next number, which a finished launch bears from now on: nobody ever sees half of one."""
    number = max((int(name) for name in _names(folder)), default=0)
    while True:
        number += 1
        with suppress(FileExistsError):
            give_name(temporary, folder.join("launches", f"{number:04d}"))
            return f"{number:04d}"


def launch_numbers(folder: Folder, among: Collection[str] | None = None) -> list[str]:
    """The numbers of the launches there are, or of those `among` them, oldest first.

    A folder without a record is none: whoever was about to make it was killed. Raises FolderError when the folder of
    the launches cannot be read.
    """
    names = [name for name in _names(folder) if among is None or name in among]
    return [name for name in names if _is_there(folder.join("launches", name, RECORD))]


def unsettled_numbers(folder: Folder) -> list[str]:
    """The numbers of those of which SLURM may still have to say something, and what was never finished."""
    return [name for name in _names(folder) if not os.path.exists(folder.join("launches", name, SETTLED))]


def settle(folder: Folder, number: str) -> None:
    """SLURM has nothing more to say of this launch; nothing happens in a folder that only others may write to."""
    with suppress(OSError):
        leave_empty(folder.join("launches", number, SETTLED))


def _names(folder: Folder) -> list[str]:
    try:
        names = os.listdir(folder.launches)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise FolderError(f"{folder.launches} cannot be read: {error.strerror or error}") from error
    return sorted((name for name in names if name.isdecimal()), key=int)


def _is_there(path: str) -> bool:
    """Whether a file is there; one that cannot be looked at is, and whoever reads it says so."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    except OSError:
        pass
    return True


def read_launch(folder: Folder, number: str) -> Launch:
    """The launch of that number. Raises JobRefused when there is none."""
    return Launch(number, read_record(folder, number))


def last_launch(folder: Folder) -> Launch | None:
    """The newest launch; None when there is none. Raises UnreadableLaunch."""
    for number in reversed(launch_numbers(folder)):
        try:
            return read_launch(folder, number)
        except UnreadableLaunch:  # an older one is another one
            raise
        except JobRefused:  # it has no record: nothing was ever handed over
            continue
    return None


def planned_attempts(launch: Launch) -> dict[int, int]:
    """The number of the first attempt that a launch planned, for each of its jobs."""
    return planned(launch.record)


def user_name() -> str:
    """Who we are, by name where the system knows it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a name, as in containers
        return str(os.getuid())
