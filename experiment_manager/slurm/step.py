"""The command of a job with several tasks: `srun` around the program, with one log per rank. Pure."""

import re
from collections.abc import Mapping
from typing import Any, Final

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
