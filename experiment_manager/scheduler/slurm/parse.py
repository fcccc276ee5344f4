"""What SLURM's commands print, read into records. Text in, records out; the commands are run in `client.py`.

Every fact here was seen on SLURM 22.05. What cannot be read is left out rather than guessed: unknown is not failed.
"""

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from experiment_manager.model.records import State

SQUEUE_FORMAT: Final = "%F|%K|%A|%T|%r|%S|%l|%N|%u|%j"
"""The columns that `parse_squeue` reads. The name is last because it may hold anything."""

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
_CAUSES: Final = {
    "TIME LIMIT": State.TIMEOUT,
    "PREEMPTION": State.PREEMPTED,
    "NODE FAILURE": State.NODE_FAIL,
    "JOB REQUEUE": State.PREEMPTED,
}
_RANGE: Final = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?\Z")
_PAIR: Final = re.compile(r"(?:^|\s)([A-Za-z][\w:/]*)=(\S*)")
_SETTING: Final = re.compile(r"(\S+)\s*= ?(.*)")
_DAEMON: Final = r"^(?:slurmstepd|slurmd|srun)\S*: (?:error: )?"
_END_IN_LOG: Final = re.compile(
    _DAEMON + r"(?:\*\*\* (?P<what>JOB|STEP) .* CANCELLED AT \S+(?: DUE TO (?P<cause>.+?))? \*\*\*"
    r"|(?P<memory>.*(?:oom[-_]kill|out[- ]of[- ]memory).*))\s*$",
    re.MULTILINE | re.IGNORECASE,
)


class Indices:
    """Array indices held as ranges, so that `0-999999:2` costs nothing.

    >>> 4 in Indices([range(0, 10, 2)]), 5 in Indices([range(0, 10, 2)]), len(Indices([range(0, 10, 2)]))
    (True, False, 5)
    """

    __slots__ = ("ranges",)

    def __init__(self, ranges: Iterable[range]) -> None:
        self.ranges = tuple(ranges)

    def __contains__(self, index: object) -> bool:
        return any(index in steps for steps in self.ranges)

    def __iter__(self) -> Iterator[int]:
        for steps in self.ranges:
            yield from steps

    def __len__(self) -> int:
        return sum(map(len, self.ranges))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Indices) and self.ranges == other.ranges

    def __hash__(self) -> int:
        return hash(self.ranges)

    def __repr__(self) -> str:
        return f"Indices({list(self.ranges)})"


class Queued(NamedTuple):
    """One row of squeue: a job, a task, or the tasks of an array that have not been split off yet."""

    array_job_id: str  # the job's own id where it is no array
    indices: Indices | None  # None: no array
    job_id: str
    state: str  # SLURM's long word
    reason: str
    start: float | None  # epoch seconds; an estimate while it pends, the time of the end where it never began
    time_limit: str  # as SLURM writes it: 1-00:00:00, 30:00, UNLIMITED
    nodes: str
    user: str
    name: str


class Run(NamedTuple):
    """One run of one task, as accounting remembers it. A pending array is one run that stands for many tasks."""

    task: str  # 12_3, 12, or 12_[4-9%2] for tasks that have not been split off
    job_id: str
    name: str
    state: str  # SLURM's word alone: CANCELLED by 0 is CANCELLED
    exit_code: int
    signal: int
    start: float | None
    end: float | None
    node: str
    out_of_memory: bool  # it, or a step of it: under srun the job says FAILED and only the step tells


def parse_squeue(text: str) -> list[Queued]:
    """The rows of squeue, asked with SQUEUE_FORMAT.

    >>> row, = parse_squeue("57|0-2,6,8-9%4|57|PENDING|JobHeldUser|N/A|1:00:00||root|em p|x y")
    >>> list(row.indices or ()), row.state, row.start, row.name
    ([0, 1, 2, 6, 8, 9], 'PENDING', None, 'em p|x y')
    """
    rows = []
    for line in text.splitlines():
        columns = line.split("|", 9)
        if len(columns) < 10 or not columns[0].isdigit():
            continue  # a name with a line break in it goes on here
        array_job_id, indices, job_id, state, reason, start, time_limit, nodes, user, name = columns
        found = parse_indices(indices) if indices[:1].isdigit() else None
        rows.append(
            Queued(array_job_id, found, job_id, state, reason, parse_time(start), time_limit, nodes, user, name)
        )
    return rows


def parse_sacct(text: str) -> dict[str, list[Run]]:
    """The runs of each task in their order, asked with SACCT_FORMAT and -D; ask the answer with `runs_of`.

    The rows of several tasks and runs come mixed, but the rows of a run's steps follow the row of their run at once.
    The tasks of array 12 that have not been split off are under `12_[]`.

    >>> runs = parse_sacct("64|64|FAILED|1:0|9|10|n1|a|b\\n64.0|64.0|OUT_OF_MEMORY|0:125|9|10|n1|python")
    >>> runs["64"][0].state, runs["64"][0].name, runs["64"][0].out_of_memory
    ('FAILED', 'a|b', True)
    """
    runs: dict[str, list[Run]] = {}
    for line in text.splitlines():
        columns = line.split("|", 7)
        if len(columns) < 8 or not columns[0][:1].isdigit():
            continue
        task, is_step = _without_step(columns[0])
        run = _run(task, columns)
        known = runs.setdefault(re.sub(r"\[.*", "[]", task), [])
        if not is_step:
            known.append(run)
        elif known and run.out_of_memory:
            known[-1] = known[-1]._replace(out_of_memory=True)
    return {key: known for key, known in runs.items() if known}


def _without_step(job_id: str) -> tuple[str, bool]:
    task, dot, _step = job_id.partition(".") if "[" not in job_id else (job_id, "", "")
    return task, bool(dot)


def _run(task: str, columns: list[str]) -> Run:
    _job_id, raw, words, status, start, end, node, name = columns
    state = _first_word(words)
    exit_code, _colon, signal = status.partition(":")
    return Run(
        task=task,
        job_id=raw,
        name=name,
        state=state,
        exit_code=int(exit_code) if exit_code.isdigit() else 0,
        signal=int(signal) if signal.isdigit() else 0,
        start=parse_time(start),
        end=parse_time(end),
        node="" if node == "None assigned" else node,
        out_of_memory=state == "OUT_OF_MEMORY",
    )


def runs_of(runs: Mapping[str, list[Run]], array_job_id: str, index: int | None) -> list[Run]:
    """The runs of one task, oldest first; empty when accounting has none. No index: the job is no array.

    A task that has not been split off is answered with the row of its array.
    """
    if index is None:
        return runs.get(array_job_id, [])
    own = runs.get(f"{array_job_id}_{index}")
    if own:
        return own
    pending = [run for run in runs.get(f"{array_job_id}_[]", ()) if index in bracketed(run.task)]
    return pending or runs.get(array_job_id, [])


@lru_cache(maxsize=64)
def bracketed(task: str) -> Indices:
    """The indices of tasks that have not been split off, as `12_[4-9%2]` names them."""
    return parse_indices(task.partition("[")[2].rstrip("]"))


def parse_indices(text: str) -> Indices:
    """The indices that SLURM's text for an array names; the throttle and what SLURM has cut off are left out.

    >>> parse_indices("0-198:2,200%4")
    Indices([range(0, 199, 2), range(200, 201)])
    """
    ranges = []
    for item in text.partition("%")[0].split(","):
        match = _RANGE.match(item)
        if match:
            ranges.append(range(int(match[1]), int(match[2] or match[1]) + 1, int(match[3] or 1) or 1))
    return Indices(ranges)


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


def parse_scontrol(text: str) -> dict[str, str]:
    """The pairs Key=Value of `scontrol -o show job`, the first of each key; a value ends at the first space.

    >>> parse_scontrol("JobId=74 JobName=my job JobState=PENDING Reason=Resources Restarts=0")["Reason"]
    'Resources'
    """
    pairs: dict[str, str] = {}
    for key, value in _PAIR.findall(text):
        pairs.setdefault(key, value)
    return pairs


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


def is_refused(row: Queued) -> bool:
    """Whether the row is of a job that SLURM did not take: `sbatch` was told so, and squeue shows it for minutes.

    A job that SLURM took and then could not place looks the same here; accounting knows that one by its name, and the
    refused one not (measured).
    """
    return row.state == "FAILED" and row.reason == "BadConstraints"


def words_in_log(text: str) -> State | None:
    """How SLURM ended a task, by the last words that its daemons wrote into the log; None when they wrote none.

    A log that attempts share is to be given from the start of the attempt that is meant. That a step was cancelled
    without a cause says nothing of the job.

    >>> words_in_log("slurmstepd: error: *** JOB 62 ON n1 CANCELLED AT 2026-11-22T19:15:12 DUE TO TIME LIMIT ***")
    <State.TIMEOUT: 'TIMEOUT'>
    """
    found = None
    for match in _END_IN_LOG.finditer(text):
        found = _meaning(match) or found
    return found


def _meaning(match: "re.Match[str]") -> State | None:
    if match["memory"]:
        return State.OUT_OF_MEMORY
    cause = (match["cause"] or "").upper()
    known = next((state for words, state in _CAUSES.items() if cause.startswith(words)), None)
    return known or (State.CANCELLED if match["what"] == "JOB" else None)
