"""The command of a job with several tasks: `srun` around the program, with one log per rank. Pure."""

from collections.abc import Mapping
from typing import Any, Final

OUT_OF_MEMORY_WORDS: Final = ("Out Of Memory", "oom-kill", "oom_kill")
"""What `srun` says, on its own standard error, when one of its tasks was killed for memory."""


def n_tasks(options: Mapping[str, Any]) -> int:
    """How many tasks a job with these SLURM options has.

    >>> n_tasks({}), n_tasks({"nodes": 2, "tasks_per_node": 4})
    (1, 8)
    """
    return int(options.get("nodes") or 1) * int(options.get("tasks_per_node") or 1)


def srun(log: str, error_log: str | None, environment: Mapping[str, str]) -> list[str]:
    """The words before the program: `log` and `error_log` name the files of rank %t.

    One task that fails ends the others. Since 22.05 `srun` does not take over the batch job's --cpus-per-task.
    """
    words = ["srun", "--kill-on-bad-exit=1", "--unbuffered", "--open-mode=append"]
    cpus = environment.get("SLURM_CPUS_PER_TASK")
    words += [f"--cpus-per-task={cpus}"] if cpus else []
    if "\\" in log:  # SLURM expands nothing in a name with a backslash (measured): one log, each line with its rank
        return [*words, "--label"]
    words.append(f"--output={rank_pattern(log)}")
    return [*words, f"--error={rank_pattern(error_log)}"] if error_log else words


def rank_pattern(log: str) -> str:
    """`stdout.1.log` as the file names of all ranks.

    >>> rank_pattern("/a%b/stdout.1.log")
    '/a%%b/stdout.1.rank%t.log'
    """
    return f"{log.removesuffix('.log').replace('%', '%%')}.rank%t.log"
