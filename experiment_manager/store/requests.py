"""Requests to whoever runs an attempt, made through the folder, from any machine that shares it: to end.

    states/.7.1.cancel      who asks, and which process is meant; gone when the attempt has ended

Only a supervisor looks for it, and says so in its anchor. It is for the process that the anchor names, and for no later
one whose attempt bears the same number.
"""

import os
import time
from collections.abc import Mapping
from typing import Any, Final

from experiment_manager.store import processes
from experiment_manager.store.documents import REQUEST, read_optional
from experiment_manager.store.files import discard, write_json
from experiment_manager.store.layout import Folder

LOOKS: Final = "looks_for_requests"
"""In an anchor: every how many seconds the process looks."""


def mark_of(folder: Folder, job_id: int, attempt: int) -> str:
    """The mark of a process that runs an attempt: the very file of its anchor. Raises OSError."""
    anchor = os.stat(folder.join("states", f"{job_id}.{attempt}"))
    return f"experiment-manager {job_id}.{attempt} {anchor.st_dev:x}:{anchor.st_ino:x}"


def bear_mark(folder: Folder, job_id: int, attempt: int) -> str:
    """This process bears the mark, which is returned, as long as it runs or until it is taken away; "" where that
    cannot be, and requests alone reach it."""
    try:
        name = mark_of(folder, job_id, attempt)
    except OSError:
        return ""
    processes.mark(name)
    return name


def ask_to_end(folder: Folder, job_id: int, attempt: int, *, record: Mapping[str, Any], by: str) -> None:
    """Whoever the record of an anchor names is asked to end the attempt. Raises OSError."""
    asked = {"by": by, "host": os.uname().nodename, "time": time.time(), "process": _identity(record)}
    write_json(_path(folder, job_id, attempt), asked)


def asked_to_end(folder: Folder, job_id: int, attempt: int) -> str | None:
    """Who has asked this process to end the attempt, in words; None when nobody has, or another process was meant."""
    asked = read_optional(_path(folder, job_id, attempt), REQUEST, lambda _: None)
    if not asked or asked.get("process") != _identity(processes.this_process()):
        return None
    return f"{asked.get('by')} on {asked.get('host')}"


def withdraw(folder: Folder, job_id: int, attempt: int) -> None:
    """Nobody is asked to end the attempt, which has ended."""
    discard(_path(folder, job_id, attempt))


def _path(folder: Folder, job_id: int, attempt: int) -> str:
    return folder.join("states", f".{job_id}.{attempt}.cancel")


def _identity(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record.get(name) for name in processes.IDENTITY}
