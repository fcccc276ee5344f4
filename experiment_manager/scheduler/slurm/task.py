"""Inside a SLURM task: which one it is, and what SLURM says, and does, about it while it runs.

A job with several tasks is started by `srun`, with one log per rank. Light on imports, because every task pays for
them. Outside of SLURM the functions say so.
"""

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from experiment_manager.model.records import State, Task
from experiment_manager.scheduler.protocol import Stop

if TYPE_CHECKING:
    import subprocess

_ANSWER_LIMIT_S: Final = 5.0
_ORDER_LIMIT_S: Final = 30.0  # a busy controller does what it is told late
_ENDED: Final = "COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL|PREEMPTED|BOOT_FAIL|DEADLINE|OUT_OF_MEMORY"


def task(environ: Mapping[str, str] = os.environ) -> Task | None:
    """The task that this process runs in; None outside of SLURM.

    >>> task({"SLURM_JOB_ID": "13", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "7"}).name
    '12_7'
    """
    if "SLURM_JOB_ID" not in environ:
        return None
    index, restart = environ.get("SLURM_ARRAY_TASK_ID", ""), environ.get("SLURM_RESTART_COUNT", "")
    return Task(
        "slurm",
        environ["SLURM_JOB_ID"],
        array=environ.get("SLURM_ARRAY_JOB_ID"),
        array_index=int(index) if index.isdecimal() else None,
        restart=int(restart) if restart.isdecimal() else 0,  # SLURM sets no count the first time
        node=environ.get("SLURMD_NODENAME"),
        user=environ.get("SLURM_JOB_USER"),
    )


def why_stopped(here: Task) -> Stop:
    """What SLURM is doing to this task, asked while it still knows; CANCELLED where it does not say more.

    `Reason=TimeLimit` is a timeout; more restarts than ours: preempted, or requeued by somebody (measured on 22.05).
    """
    fields = _fields("show", "job", here.name)
    state = State.CANCELLED
    if fields.get("Reason") == "TimeLimit" or fields.get("JobState") == "TIMEOUT":
        state = State.TIMEOUT
    elif int(fields.get("Restarts", 0)) > here.restart or fields.get("JobState") == "PREEMPTED":
        state = State.PREEMPTED
    elif fields.get("JobState") == "NODE_FAIL":
        state = State.NODE_FAIL
    wait = re.search(r"^KillWait\s*=\s*(\d+)", _ask("show", "config"), re.MULTILINE)
    return Stop(state, float(wait[1]) if wait else None)


def is_being_preempted(here: Task) -> bool:
    """Whether SLURM has announced that it will take this task's node for another one, and has not done it yet."""
    fields = _fields("show", "job", here.name)
    announced, started = fields.get("PreemptTime", "None"), fields.get("StartTime", "")
    return announced != "None" and announced >= started and int(fields.get("Restarts", 0)) == here.restart


def has_ended(run: Task) -> bool:
    """Whether SLURM says that this run of a task has ended, or that it has forgotten it; false when it is silent."""
    try:
        done = _scontrol("-o", "show", "job", run.name)
    except OSError:
        return False
    if done.returncode:
        return "Invalid job id" in done.stderr
    restarts = re.search(r"\bRestarts=(\d+)", done.stdout)
    has_restarted = restarts is not None and int(restarts[1]) > run.restart
    return has_restarted or re.search(rf"\bJobState=({_ENDED})\b", done.stdout) is not None


def requeue(here: Task) -> str | None:
    """SLURM will start this task again; else why it will not, in its words."""
    try:
        done = _scontrol("requeue", here.name, seconds=_ORDER_LIMIT_S)
    except OSError as error:
        return str(error)
    return done.stderr.strip() or f"scontrol ended with {done.returncode}" if done.returncode else None


def _fields(*arguments: str) -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S+)", _ask("-o", *arguments)))


def _ask(*arguments: str) -> str:
    try:
        return _scontrol(*arguments).stdout
    except OSError:
        return ""


def _scontrol(*arguments: str, seconds: float = _ANSWER_LIMIT_S) -> "subprocess.CompletedProcess[str]":
    """Raises OSError when it does not answer."""
    import subprocess  # only here: jobs import this module, too, and ask nothing

    try:
        return subprocess.run(
            ["scontrol", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.SubprocessError as error:
        raise OSError(str(error)) from error


OUT_OF_MEMORY_WORDS: Final = ("Out Of Memory", "oom-kill", "oom_kill")
"""What `srun` says, on its own standard error, when one of its tasks was killed for memory."""


_FAILURE: Final = r"(?m)^srun: error: (\S+: tasks? [\d,-]+: (?!Terminated).+)$"


def first_failure(said: str) -> str | None:
    """What `srun` says of the first task that failed by itself: those that it ended for that are Terminated.

    >>> first_failure("srun: error: n2: task 3: Exited with exit code 5\\nsrun: error: n1: tasks 0-1: Terminated")
    'n2: task 3: Exited with exit code 5'
    """
    found = re.search(_FAILURE, said)
    return found[1] if found else None


def n_tasks(options: Mapping[str, Any]) -> int:
    """How many tasks a job with these SLURM options has.

    >>> n_tasks({}), n_tasks({"nodes": 2, "tasks_per_node": 4})
    (1, 8)
    """
    return int(options.get("nodes") or 1) * int(options.get("tasks_per_node") or 1)


def srun(log: str, error_log: str | None, environment: Mapping[str, str]) -> list[str]:
    """The words before the program: each rank appends to `log` and `error_log` of its own (None: to one of both).

    >>> srun("/e/stdout.1.log", None, {})[-2:]
    ['sh', '/e/stdout.1']

    A shell opens the logs: in a name, `srun` expands %t even where it is written %%t, and nothing after a backslash.
    One task that fails ends the others. Since 22.05 `srun` does not take over the batch job's --cpus-per-task.
    """
    words = ["srun", "--kill-on-bad-exit=1"]
    cpus = environment.get("SLURM_CPUS_PER_TASK")
    words += [f"--cpus-per-task={cpus}"] if cpus else []
    logs = [name.removesuffix(".log") for name in (log, error_log) if name is not None]
    return [*words, "sh", "-c", _BOTH_LOGS if error_log else _ONE_LOG, "sh", *logs]


_ONE_LOG: Final = 'exec >>"$1.rank$SLURM_PROCID.log" 2>&1; shift; exec "$@"'
_BOTH_LOGS: Final = 'exec >>"$1.rank$SLURM_PROCID.log" 2>>"$2.rank$SLURM_PROCID.log"; shift 2; exec "$@"'
