"""Launches: the record of each handing-over of jobs, `launches/0001/launch.json`, written before anything runs.

Tasks, which must not read what grows with the experiment, find their own part of it by the index: see orders.
"""

import getpass
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from experiment_manager.disk import provenance
from experiment_manager.disk.files import write_json
from experiment_manager.disk.folder import Folder
from experiment_manager.disk.orders import planned, read_record, write_orders
from experiment_manager.errors import FolderError, JobRefused
from experiment_manager.ids import format_ids
from experiment_manager.records import Attempt, Launch


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
    number = _next_number(folder)
    provenance.write_packages(folder.join("launches", number, "packages.txt"))
    if record["git_dirty"]:
        provenance.write_patch(folder.join("launches", number, "code.patch"))
    write_orders(folder.join("launches", number, "orders.sqlite"), record)
    write_json(folder.join("launches", number, "launch.json"), record)
    return Launch(number, record)


def _next_number(folder: Folder) -> str:
    folder.make(folder.launches)
    number = int((launch_numbers(folder) or ["0"])[-1])
    while True:
        number += 1
        try:
            os.mkdir(folder.join("launches", f"{number:04d}"))
        except FileExistsError:
            continue
        return f"{number:04d}"


def launch_numbers(folder: Folder) -> list[str]:
    """The numbers of the launches there are, oldest first. Raises FolderError when their folder cannot be read."""
    try:
        names = os.listdir(folder.launches)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise FolderError(f"{folder.launches} cannot be read: {error.strerror or error}") from error
    return sorted((name for name in names if name.isdecimal()), key=int)


def read_launch(folder: Folder, number: str) -> Launch:
    """The launch of that number. Raises JobRefused when there is none."""
    return Launch(number, read_record(folder, number))


def last_launch(folder: Folder) -> Launch | None:
    """The newest launch that can be read; None when there is none."""
    for number in reversed(launch_numbers(folder)):
        try:
            return read_launch(folder, number)
        except JobRefused:
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
