"""Inside a SLURM task: which one it is, and what SLURM says, and does, about it while it runs.

Light on imports, because every task pays for them. Outside of SLURM the functions say so.
"""

import os
import re
import subprocess
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from experiment_manager.records import State

_IDS: Final = (
    *("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT"),
    *("SLURMD_NODENAME", "SLURM_JOB_USER"),
)
_ANSWER_LIMIT_S: Final = 5.0
_ORDER_LIMIT_S: Final = 30.0  # a busy controller does what it is told late
_ENDED: Final = "COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL|PREEMPTED|BOOT_FAIL|DEADLINE|OUT_OF_MEMORY"


def ids() -> dict[str, str]:
    """What identifies the run of a task, for the anchor of an attempt; empty outside of SLURM."""
    return {name.lower(): os.environ[name] for name in _IDS if name in os.environ} if is_inside() else {}


def is_inside() -> bool:
    return "SLURM_JOB_ID" in os.environ


def task_of(record: Mapping[str, Any]) -> str | None:
    """How SLURM's commands name the task of a record made by `ids`: `12_7`, or `12` where it is no array.

    Never the plain job id of an array's task: one task bears the id of the whole array (measured).

    >>> task_of({"slurm_job_id": "12", "slurm_array_job_id": "12", "slurm_array_task_id": "7"}), task_of({})
    ('12_7', None)
    """
    array, index = record.get("slurm_array_job_id"), record.get("slurm_array_task_id")
    if array and index:
        return f"{array}_{index}"
    return record.get("slurm_job_id")


def node_of(record: Mapping[str, Any]) -> str | None:
    """Where the attempt of a record ran: as SLURM names the node, else by the name of the host."""
    return record.get("slurmd_nodename") or record.get("host")


def restart_of(record: Mapping[str, Any]) -> int:
    """How often SLURM had started the task before; SLURM sets no count the first time."""
    return int(record.get("slurm_restart_count") or 0)


def is_earlier_run(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> bool:
    """Whether two records are of one task, which SLURM has started again in between."""
    task = task_of(earlier)
    return task is not None and task == task_of(later) and restart_of(earlier) < restart_of(later)


class Stop(NamedTuple):
    """Why SLURM ends a task, and how long it waits before it kills what is left (None: it did not say)."""

    state: State
    kill_wait_s: float | None


def why_stopped() -> Stop:
    """What SLURM is doing to this task, asked while it still knows; CANCELLED where it does not say more.

    `Reason=TimeLimit` is a timeout; more restarts than ours: preempted, or requeued by somebody (measured on 22.05).
    """
    record = ids()
    task = task_of(record)
    if task is None:
        return Stop(State.CANCELLED, None)
    fields = _fields("show", "job", task)
    state = State.CANCELLED
    if fields.get("Reason") == "TimeLimit" or fields.get("JobState") == "TIMEOUT":
        state = State.TIMEOUT
    elif int(fields.get("Restarts", 0)) > restart_of(record) or fields.get("JobState") == "PREEMPTED":
        state = State.PREEMPTED
    elif fields.get("JobState") == "NODE_FAIL":
        state = State.NODE_FAIL
    wait = re.search(r"^KillWait\s*=\s*(\d+)", _ask("show", "config"), re.MULTILINE)
    return Stop(state, float(wait[1]) if wait else None)


def is_being_preempted() -> bool:
    """Whether SLURM has announced that it will take this task's node for another one, and has not done it yet."""
    record = ids()
    task = task_of(record)
    fields = _fields("show", "job", task) if task is not None else {}
    announced, started = fields.get("PreemptTime", "None"), fields.get("StartTime", "")
    return announced != "None" and announced >= started and int(fields.get("Restarts", 0)) == restart_of(record)


def has_ended(record: Mapping[str, Any]) -> bool:
    """Whether SLURM says that the task of a record has ended, or that it has forgotten it; false when it is silent."""
    task = task_of(record)
    if task is None:
        return False
    try:
        done = _scontrol("-o", "show", "job", task)
    except (OSError, subprocess.SubprocessError):
        return False
    if done.returncode:
        return "Invalid job id" in done.stderr
    restarts = re.search(r"\bRestarts=(\d+)", done.stdout)
    has_restarted = restarts is not None and int(restarts[1]) > restart_of(record)
    return has_restarted or re.search(rf"\bJobState=({_ENDED})\b", done.stdout) is not None


def requeue() -> str | None:
    """SLURM will start this task again; else why it will not, in its words."""
    task = task_of(ids())
    if task is None:
        return "this is no SLURM task"
    try:
        done = _scontrol("requeue", task, seconds=_ORDER_LIMIT_S)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return done.stderr.strip() or f"scontrol ended with {done.returncode}" if done.returncode else None


def _fields(*arguments: str) -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S+)", _ask("-o", *arguments)))


def _ask(*arguments: str) -> str:
    try:
        return _scontrol(*arguments).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _scontrol(*arguments: str, seconds: float = _ANSWER_LIMIT_S) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["scontrol", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
