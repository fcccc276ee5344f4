"""Launches: the record of each handing-over of jobs, `launches/0001/launch.json`, written before anything runs."""

import getpass
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from experiment_manager.disk.files import read_json, write_json
from experiment_manager.disk.folder import Folder
from experiment_manager.errors import JobRefused
from experiment_manager.ids import format_ids, parse_ids
from experiment_manager.records import Attempt, Launch

_GIT_LIMIT_S: Final = 5.0


def create_launch(folder: Folder, jobs: Iterable[Attempt], about: Mapping[str, Any]) -> Launch:
    """A launch with the next number is on disk. `jobs` are the attempts that it is to make, one per job."""
    planned: dict[str, list[int]] = defaultdict(list)
    for attempt in jobs:
        planned[str(attempt.number)].append(attempt.job_id)
    record = {
        "time": time.time(),
        "user": user_name(),
        "host": os.uname().nodename,
        "cwd": os.getcwd(),
        "argv": sys.orig_argv,
        **_git(),
        **about,
        "jobs": {number: format_ids(ids) for number, ids in planned.items()},
    }
    number = _next_number(folder)
    write_json(folder.join("launches", number, "launch.json"), record)
    return Launch(number, record)


def _next_number(folder: Folder) -> str:
    os.makedirs(folder.launches, exist_ok=True)
    taken = [int(name) for name in os.listdir(folder.launches) if name.isdigit()]
    number = max(taken, default=0)
    while True:
        number += 1
        try:
            os.mkdir(folder.join("launches", f"{number:04d}"))
        except FileExistsError:
            continue
        return f"{number:04d}"


def read_launch(folder: Folder, number: str) -> Launch:
    """The launch of that number. Raises JobRefused when there is none."""
    path = folder.join("launches", number, "launch.json")
    try:
        return Launch(number, read_json(path))
    except (OSError, ValueError) as error:
        raise JobRefused(f"there is no launch {number} in {folder.path} ({error}); leave --launch out") from error


def last_launch(folder: Folder) -> Launch | None:
    """The newest launch that can be read; None when there is none."""
    try:
        numbers = sorted((name for name in os.listdir(folder.launches) if name.isdigit()), reverse=True)
    except FileNotFoundError:
        return None
    for number in numbers:
        try:
            return read_launch(folder, number)
        except JobRefused:
            continue
    return None


def planned_attempt(launch: Launch, job_id: int) -> int | None:
    """The number of the first attempt that a launch planned for a job; None: the job is not in this launch."""
    for first_attempt, ids in launch.record["jobs"].items():
        if job_id in parse_ids(ids):
            return int(first_attempt)
    return None


def planned_attempts(launch: Launch) -> dict[int, int]:
    """The number of the first attempt that a launch planned, for each of its jobs."""
    return {job_id: int(first) for first, ids in launch.record["jobs"].items() for job_id in parse_ids(ids)}


def slurm_options(launch: Launch, job_id: int) -> dict[str, Any] | None:
    """The SLURM options under which a launch runs a job; None where SLURM does not run it."""
    for array in launch.record.get("slurm", {}).get("arrays", ()):
        if job_id in parse_ids(array["jobs"]):
            return dict(array["options"])
    return None


def user_name() -> str:
    """Who we are, by name where the system knows it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a name, as in containers
        return str(os.getuid())


def _git() -> dict[str, Any]:
    """Commit and dirty flag of the code in the working directory; None where git cannot tell. Never fails a launch."""
    commit, status = _ask_git("rev-parse", "HEAD"), _ask_git("status", "--porcelain", "--untracked-files=no")
    return {"git_commit": commit, "git_dirty": None if status is None else bool(status)}


def _ask_git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=_GIT_LIMIT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
