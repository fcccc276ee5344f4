"""What SLURM's commands print, read into records. Text in, records out; the commands are run in `client.py`.

Every fact here was seen on SLURM 22.05, and much of it on 20.11, 24.11 and 26.05 (`tests/slurm_lines`). What cannot be
read is left out rather than guessed: unknown is not failed.
"""

import re
import time
from typing import Final

from experiment_manager.model.ids import RangeSet
from experiment_manager.model.records import State
from experiment_manager.scheduler.records import Phase, QueueRow, Run

SQUEUE_FORMAT: Final = "%F|%K|%A|%T|%r|%S|%l|%N|%u|%j|%o"
"""The columns that `parse_squeue` reads. The name and the script are last because they may hold anything."""

SACCT_FORMAT: Final = "JobID,JobIDRaw,State,ExitCode,Start,End,NodeList,JobName"
"""The columns that `parse_sacct` reads, likewise."""

_ENDS: Final = {
    "COMPLETED": State.COMPLETED,
    "FAILED": State.FAILED,
    "TIMEOUT": State.TIMEOUT,
    "OUT_OF_MEMORY": State.OUT_OF_MEMORY,
    "CANCELLED": State.CANCELLED,
    "PREEMPTED": State.PREEMPTED,
    "NODE_FAIL": State.NODE_FAIL,
    "BOOT_FAIL": State.NODE_FAIL,
    "DEADLINE": State.TIMEOUT,
    "REVOKED": State.CANCELLED,
    "REQUEUED": State.PREEMPTED,  # in accounting: this run was taken back, another one follows
    "LAUNCH_FAILED": State.FAILED,
    "RECONFIG_FAIL": State.FAILED,
}
_PAUSED: Final = frozenset({"SUSPENDED", "STOPPED"})
_WAITING: Final = frozenset(
    {
        "PENDING",
        "CONFIGURING",
        "REQUEUED",
        "REQUEUE_FED",
        "REQUEUE_HOLD",
        "RESV_DEL_HOLD",
        "SPECIAL_EXIT",
        "POWER_UP_NODE",
    }
)
_NOT_STARTED: Final = "53"
"""The signal that accounting tells of a task whose output could not be set up: nothing was started, or signalled."""
_NOT_STARTED_WORDS: Final = (
    "it could not be started there, as where its log cannot be opened: look whether the node sees the folder of the "
    "experiment, and may write to it"
)
_CAUSES: Final = {
    "TIME LIMIT": State.TIMEOUT,
    "PREEMPTION": State.PREEMPTED,
    "NODE FAILURE": State.NODE_FAIL,
    "JOB REQUEUE": State.PREEMPTED,
}
_RANGE: Final = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?\Z")
_SETTING: Final = re.compile(r"(\S+)\s*= ?(.*)")
_DAEMON: Final = r"(?:slurmstepd|slurmd|srun)\S*: (?:error: )?"
_ZONE: Final = r"(?:Z|[+-]\d\d:?\d\d)?"  # where LogTimeFormat is rfc3339 or rfc5424
_UNNAMED: Final = rf"\[\d{{4}}-\d\d-\d\dT[\d:.]+{_ZONE}\] error: "  # since 26.05; programs may begin their own lines so
_OVER_MEMORY: Final = (
    r"(?:Step\S*(?: \S+)? exceeded|Exceeded (?:job|step)) memory limit"  # OverMemoryKill, without cgroups
)
_CANCELLED: Final = r"\*\*\* (?P<what>JOB|STEP) .* CANCELLED AT \S+(?: DUE TO (?P<cause>.+?))? \*\*\*"
_END_IN_LOG: Final = re.compile(
    rf"^(?:(?:{_DAEMON}|{_UNNAMED}){_CANCELLED}"
    rf"|(?:{_DAEMON}|{_UNNAMED})(?P<over>{_OVER_MEMORY}.*)"
    rf"|{_DAEMON}(?P<memory>.*(?:oom[-_]kill|out[- ]of[- ]memory).*)"
    rf"|{_UNNAMED}(?P<unnamed_memory>Detected \d+ oom_kill event.*))\s*$",
    re.MULTILINE | re.IGNORECASE,
)


def parse_squeue(text: str) -> list[QueueRow]:
    """The rows of squeue, asked with SQUEUE_FORMAT.

    >>> row, = parse_squeue("57|0-2,6,8-9%4|57|PENDING|JobHeldUser|N/A|1:00:00||root|em p|x y|/x|y/slurm_scripts.sh")
    >>> list(row.indices or ()), row.phase, row.start, row.name, row.script
    ([0, 1, 2, 6, 8, 9], <Phase.WAITING: 'waiting'>, None, 'em p|x y', '/x|y/slurm_scripts.sh')
    """
    rows = []
    for line in text.splitlines():
        columns = line.split("|", 9)
        if len(columns) < 10 or not columns[0].isdigit():
            continue  # a name with a line break in it goes on here
        array, indices, _job_id, word, reason, start, _time_limit, nodes, user, rest = columns
        name, script = _name_and_script(rest)
        rows.append(
            QueueRow(
                name=name,
                array=array,
                indices=parse_indices(indices) if indices[:1].isdigit() else None,
                phase=phase(word),
                end=None if is_active(word) else final_state(word),
                word=word,
                reason="" if reason == "None" else reason,
                start=parse_time(start),
                user=user,
                node=nodes,
                script=script,
            )
        )
    return rows


def _name_and_script(text: str) -> tuple[str, str]:
    """A script has the whole path; of what was no script, SLURM shows the command, or `(null)`."""
    match = re.fullmatch(r"(.*?)\|(/.*)", text)
    return (match[1], match[2]) if match else (text.rpartition("|")[0], "")


def parse_sacct(text: str) -> list[Run]:
    """The runs of tasks, those of each in their order, asked with SACCT_FORMAT and -D.

    The rows of several tasks and runs come mixed, but the rows of a run's steps follow the row of their run at once:
    under `srun` the job says FAILED, and only the step tells that memory was the cause.

    >>> run, = parse_sacct("64|64|FAILED|1:0|9|10|n1|a|b\\n64.0|64.0|OUT_OF_MEMORY|0:125|9|10|n1|python")
    >>> run.word, run.name, run.end
    ('FAILED', 'a|b', <State.OUT_OF_MEMORY: 'OUT_OF_MEMORY'>)
    """
    runs: list[Run] = []
    last: dict[str, int] = {}  # by the task, where its newest run stands
    for line in text.splitlines():
        columns = line.split("|", 7)
        if len(columns) < 8 or not columns[0][:1].isdigit():
            continue
        task, is_step = _without_step(columns[0])
        key = re.sub(r"\[.*", "[]", task)
        run = _run(task, columns)
        if not is_step:
            last[key] = len(runs)
            runs.append(run)
        elif key in last and run.word == "OUT_OF_MEMORY" and runs[last[key]].end is not None:
            runs[last[key]] = runs[last[key]]._replace(end=State.OUT_OF_MEMORY)
    return runs


def _without_step(job_id: str) -> tuple[str, bool]:
    task, dot, _step = job_id.partition(".") if "[" not in job_id else (job_id, "", "")
    return task, bool(dot)


def _run(task: str, columns: list[str]) -> Run:
    _job_id, _raw, words, status, start, end, node, name = columns
    word = _first_word(words)
    exit_code, _colon, signal = status.partition(":")
    array, _, index = task.partition("_")
    return Run(
        name=name,
        array=array,
        array_index=int(index) if index.isdigit() else None,
        waiting=parse_indices(index[1:].rstrip("]")) if index.startswith("[") else None,
        end=final_state(word),
        word=word,
        exit_code=int(exit_code) if exit_code.isdigit() else 0,
        signal=int(signal) if signal.isdigit() else 0,
        start=parse_time(start),
        end_time=parse_time(end),
        node="" if node == "None assigned" else node,
        why=_NOT_STARTED_WORDS if signal == _NOT_STARTED else "",
    )


def parse_indices(text: str) -> RangeSet:
    """The indices that SLURM's text for an array names; the throttle and what SLURM has cut off are left out.

    >>> parse_indices("0-198:2,200%4")
    RangeSet([range(0, 199, 2), range(200, 201)])
    """
    ranges = []
    for item in text.partition("%")[0].split(","):
        match = _RANGE.match(item)
        if match:
            ranges.append(range(int(match[1]), int(match[2] or match[1]) + 1, int(match[3] or 1) or 1))
    return RangeSet(ranges)


def parse_time(text: str) -> float | None:
    """Epoch seconds of a time that SLURM printed, as such or as local time; None for Unknown, None, N/A.

    >>> parse_time("1795374879"), parse_time("Unknown")
    (1795374879.0, None)
    """
    if text.isdigit():
        return float(text) or None
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return None


def parse_config(text: str) -> dict[str, str]:
    """The settings of `scontrol show config`.

    >>> parse_config("MaxArraySize            = 1001")
    {'MaxArraySize': '1001'}
    """
    matches = map(_SETTING.fullmatch, map(str.strip, text.splitlines()))
    return {match[1]: match[2] for match in matches if match}


def _first_word(text: str) -> str:
    """SLURM's word without who did it (CANCELLED by 0) and without the mark of a column too narrow (CANCELLED+)."""
    return (text.split() or [""])[0].rstrip("+")


def final_state(word: str) -> State | None:
    """What an attempt has come to when accounting says this word; None where that is no end.

    >>> final_state("CANCELLED by 0"), final_state("BOOT_FAIL"), final_state("RUNNING")
    (<State.CANCELLED: 'CANCELLED'>, <State.NODE_FAIL: 'NODE_FAIL'>, None)
    """
    return _ENDS.get(_first_word(word))


def is_active(state: str) -> bool:
    """Whether SLURM still has a job of which squeue says this word. A word that we do not know is active.

    >>> is_active("COMPLETING"), is_active("REQUEUED"), is_active("TIMEOUT")
    (True, True, False)
    """
    word = _first_word(state)
    return word == "REQUEUED" or word not in _ENDS


def phase(word: str) -> Phase:
    """How far a job has come of which squeue says this word. Under one that we do not know it holds what it has.

    >>> phase("REQUEUE_HOLD"), phase("COMPLETING"), phase("TIMEOUT")
    (<Phase.WAITING: 'waiting'>, <Phase.ENDING: 'ending'>, <Phase.ENDED: 'ended'>)
    """
    word = _first_word(word)
    if not is_active(word):
        return Phase.ENDED
    if word in _PAUSED:
        return Phase.PAUSED
    return Phase.RUNNING if word == "RUNNING" else Phase.WAITING if word in _WAITING else Phase.ENDING


def is_refused(row: QueueRow) -> bool:
    """Whether the row is of a job that SLURM did not take: `sbatch` was told so, and squeue shows it for minutes.

    A job that SLURM took and then could not place looks the same here; accounting knows that one by its name, and the
    refused one not (measured).
    """
    return row.word == "FAILED" and row.reason == "BadConstraints"


def words_in_log(text: str) -> State | None:
    """How SLURM ended a task, by the last words that its daemons wrote into the log; None when they wrote none.

    A log that attempts share is to be given from the start of the attempt that is meant. That a step was cancelled
    without a cause says nothing of the job.

    >>> words_in_log("slurmstepd: error: *** JOB 62 ON n1 CANCELLED AT 2026-11-22T19:15:12 DUE TO TIME LIMIT ***")
    <State.TIMEOUT: 'TIMEOUT'>
    """
    found, is_over_memory = None, False
    for match in _END_IN_LOG.finditer(text):
        is_over_memory = is_over_memory or match["over"] is not None
        said = _meaning(match)
        if said is not State.CANCELLED or not is_over_memory:  # that is how it ends what is over its memory
            found = said or found
    return found


def without_daemons(text: str) -> str:
    """The lines of a log that the program has written, and not a daemon of SLURM."""
    unnamed = re.compile(_UNNAMED)
    return "\n".join(
        line
        for line in text.splitlines()
        if not line.startswith("slurmstepd") and not (unnamed.match(line) and _END_IN_LOG.match(line))
    )


def _meaning(match: "re.Match[str]") -> State | None:
    if match["memory"] or match["unnamed_memory"] or match["over"]:
        return State.OUT_OF_MEMORY
    cause = (match["cause"] or "").upper()
    known = next((state for words, state in _CAUSES.items() if cause.startswith(words)), None)
    return known or (State.CANCELLED if match["what"] == "JOB" else None)
