"""The text of a batch script: `sbatch` options of one job array, and the shell lines around its jobs. Pure.

SLURM signals the process of the batch shell and nothing below it (measured), so the shell either becomes the supervisor
(`exec`) or, where something follows the job, passes signals on and waits.
"""

import shlex
from collections.abc import Iterable, Sequence
from typing import Any, Final

from experiment_manager.model.ids import format_ids
from experiment_manager.scheduler.arrays import Array
from experiment_manager.scheduler.protocol import require_line
from experiment_manager.scheduler.records import Place
from experiment_manager.scheduler.slurm.options import SlurmOptions, megabytes, memory_text, time_text

_PASSED_ON: Final = ("partition", "account", "qos", "constraint", "exclude", "gres", "comment", "mem_per_cpu")
_LONGEST_LINE: Final = 110
_WARNING_TO_REQUEUE_S: Final = 120
_EARLY_WARNINGS: Final = (
    "# A warning that comes before the job can hear it does not end this script.",
    "trap '' USR1 USR2",
)


def render(array: Array, place: Place) -> str:
    """The whole script. Raises OptionsError for a path that no line of a script can hold."""
    for name in ("experiment_path", "experiment_name", "logs", "python"):
        require_line(name, getattr(place, name))
    lines = ["#!/bin/bash", *head(array, place), "", *_about(array, place)]
    lines += ["", *_EARLY_WARNINGS]
    options = array.options
    before = [*options.setup, *options.pre_script]
    lines += ["", *before] if before else []
    lines += ["", *_jobs(array)]
    lines += _with_lines_after(array, place) if options.post_script else ["exec " + _run(array, place)]
    return "\n".join(lines) + "\n"


def head(array: Array, place: Place) -> list[str]:
    """The `#SBATCH` lines of the script."""
    return [
        f"#SBATCH --{name}" + ("" if value is True else f"={_quoted(value)}") for name, value in _head(array, place)
    ]


def _quoted(value: str) -> str:
    r"""A word for sbatch, which reads its lines almost as a shell, but takes a backslash for an escape in all quotes.

    >>> print(_quoted("it's a\\b"))
    'it'"'"'s a\\b'
    """
    return shlex.quote(value).replace("\\", "\\\\")


def _head(array: Array, place: Place) -> Iterable[tuple[str, Any]]:
    """The options of `sbatch`: those of every script, then those that were set, each once."""
    options = array.options
    written: dict[str, Any] = {
        "job-name": place.job_name,
        "array": array.text,
        "output": log_pattern(place.logs),
        "open-mode": "append",
        **_resources(options),
    }
    if options.mail is not None:  # one letter for the whole array, not one for each of its tasks
        written |= {"mail-user": options.mail, "mail-type": "END,FAIL"}
    for name, value in options.additional_parameters.items():
        written[name] = True if value is True else str(value)
    return written.items()


def log_pattern(folder: str) -> str:
    r"""What to write after --output= for the logs of an array's tasks in a folder.

    >>> log_pattern("/x/50%")
    '/x/50%%/%A_%a.log'

    SLURM expands nothing in a name with a backslash (measured); the log of such a task is lost, that of its job is not.
    """
    return "/dev/null" if "\\" in folder else f"{folder.replace('%', '%%')}/%A_%a.log"


def _resources(options: SlurmOptions) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if options.timeout_min is not None:
        found["time"] = time_text(options.timeout_min)
    for name in ("nodes", "cpus_per_task", "gpus_per_node", "gpus_per_task", "cpus_per_gpu"):
        if getattr(options, name):
            found[name.replace("_", "-")] = str(getattr(options, name))
    if options.tasks_per_node is not None:
        found["ntasks-per-node"] = str(options.tasks_per_node)
    if options.mem_gb is not None:
        found["mem"] = memory_text(megabytes(options.mem_gb * 1024))
    for name in (*_PASSED_ON, "mem_per_gpu"):
        if getattr(options, name) is not None:
            found[name.replace("_", "-")] = getattr(options, name)
    if warning_s(options):
        found["signal"] = f"B:USR1@{warning_s(options)}"
    if _requeues(options) is not None:
        found["requeue" if _requeues(options) else "no-requeue"] = True
    return found


def _requeues(options: SlurmOptions) -> int | None:
    return options.max_requeues if options.max_requeues is not None else options.max_num_timeout or None


def warning_s(options: SlurmOptions) -> int:
    """How long before the time limit a job is warned; 0: never.

    A job that may start again has to be warned, or it could not. Never more than half of the limit: it would be warned
    at once.
    """
    delay = options.signal_delay_s
    if delay is None:
        delay = _WARNING_TO_REQUEUE_S if _requeues(options) else 0
    return min(delay, options.timeout_min * 30) if options.timeout_min else delay


def _about(array: Array, place: Place) -> list[str]:
    folder = shlex.quote(f"{place.experiment_path}/{place.experiment_name}")
    part = f", part {place.part} of {place.n_parts}" if place.n_parts > 1 else ""
    how = ["# Submit it with `sbatch <this file>`, or, which can be repeated without running anything twice, with"]
    if place.n_parts > 1:
        how = [
            "# Submit all parts, in their order, each once however often it is said, with (sbatch takes this one alone)"
        ]
    return [
        f"# Experiment Manager: launch {place.launch}{part}, jobs {_short(format_ids(array.jobs))} of",
        f"# {folder}",
        *how,
        f"# `experiment-manager submit {folder}`.",
    ]


def _short(ids: str) -> str:
    return ids if len(ids) < _LONGEST_LINE - 60 else ids[: _LONGEST_LINE - 60].rpartition(",")[0] + ",..."


def _jobs(array: Array) -> list[str]:
    if array.n_workers is not None:
        return ["worker=$SLURM_ARRAY_TASK_ID  # which takes one job of the launch after the other"]
    if array.is_indexed_by_job:
        return ["job=$SLURM_ARRAY_TASK_ID"]
    table = _wrapped(",".join(map(str, task)) for task in array.tasks)
    return ["jobs=(  # by index of the task", *table, ")", "job=${jobs[SLURM_ARRAY_TASK_ID]}"]


def _wrapped(words: Iterable[str]) -> list[str]:
    lines = [""]
    for word in words:
        if len(lines[-1]) + len(word) > _LONGEST_LINE:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else f"    {word}"
    return lines


def _run(array: Array, place: Place) -> str:
    what = "job" if array.n_workers is None else "worker"
    return f'{shlex.join(place.command(array))} "${what}"'


def _with_lines_after(array: Array, place: Place) -> Sequence[str]:
    """The loop asks whether the job is gone: in a storm of signals `wait` returns early and tells it of no trap."""
    return [
        "",
        "# The job runs in the background, so that this shell can pass signals on to it. Its exit status is kept in a",
        "# file, because `wait` can lose it when many signals come, and is the status of this script in the end.",
        "em_job= em_again= em_file=$(mktemp)",
        *_passed_on("TERM INT HUP"),
        f"EXPERIMENT_MANAGER_STATUS_FILE=$em_file {_run(array, place)} &",
        "em_job=$!",
        *_passed_on("USR1 USR2"),
        'while em_status=0; wait "$em_job" || em_status=$?; kill -0 "$em_job" 2>/dev/null; do :; done',
        '[ ! -s "$em_file" ] || read -r em_status em_again < "$em_file"',
        'rm -f "$em_file"',
        "trap : USR1 USR2; trap em_again= TERM INT HUP",
        """trap '[ -z "$em_again" ] || scontrol requeue "$em_again" || :; exit "$em_status"' EXIT""",
        "",
        *array.options.post_script,
    ]


def _passed_on(names: str) -> Sequence[str]:
    return [
        f"for em_name in {names}; do",
        r"""    trap "[ -z \"\$em_job\" ] || kill -$em_name \"\$em_job\" 2>/dev/null || :" $em_name""",
        "done",
    ]
