"""SLURM's commands, run: the one place that starts sbatch, squeue, sacct and scancel. Reading is done in `parse.py`.

Every call has a time limit. A question is asked with SLURM's own variables for its output put aside, times as epoch
seconds (the one form that knows no time zone), and array indices in full.
"""

import os
import pwd
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Final

from experiment_manager.errors import SlurmError
from experiment_manager.model.ids import format_ids
from experiment_manager.scheduler.arrays import USUAL_LIMITS
from experiment_manager.scheduler.records import Dependency, QueueRow, Run
from experiment_manager.scheduler.slurm.parse import (
    SACCT_FORMAT,
    SQUEUE_FORMAT,
    is_refused,
    parse_config,
    parse_sacct,
    parse_squeue,
)
from experiment_manager.store.documents import content
from experiment_manager.store.processes import dying_with_us
from experiment_manager.text import names_in

ORDER_S: Final = 60.0
"""How long an `sbatch` may take before it is ended."""

_QUESTION_S: Final = 60.0
_SMALL_QUESTION_S: Final = 15.0
_MAX_TARGETS: Final = 100  # of one scancel
_MAX_TARGET_BYTES: Final = 4_000
_MAX_NAME_BYTES: Final = 100_000  # of one argument; Linux refuses 131,072
_CLOCKS_DISAGREE_S: Final = 86_400.0
"""How far the clock of the machine that made a launch may go ahead of accounting's; our names are asked for alone."""

_OF_A_JOB: Final = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SALLOC_", "SUBMITIT_")
_OF_THE_CLUSTER: Final = frozenset({"SLURM_CONF", "SLURM_CLUSTERS"})
_IDENTIFY: Final = ("array", "error", "export", "input", "job-name", "open-mode", "output", "signal", "wait")
_EXCLUSIVE: Final = (
    frozenset({"mem", "mem-per-cpu", "mem-per-gpu"}),
    frozenset({"cpus-per-task", "cpus-per-gpu"}),
    frozenset({"gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task", "gres"}),
    frozenset({"requeue", "no-requeue"}),
)
"""Options of which one may be set, or that say of the same thing something else."""
_VARIABLES: Final = {"array": "ARRAY_INX", "mem": "MEM_PER_NODE", "time": "TIMELIMIT"}
"""The variables of sbatch that are not called like their options."""
_SHORT: Final = {
    "A": "account",
    "C": "constraint",
    "G": "gpus",
    "M": "clusters",
    "J": "job-name",
    "N": "nodes",
    "a": "array",
    "c": "cpus-per-task",
    "e": "error",
    "i": "input",
    "o": "output",
    "p": "partition",
    "q": "qos",
    "t": "time",
}
_CHANGE_ANSWERS: Final = ("SQUEUE_", "SACCT_", "SCANCEL_", "SINFO_", "SCONTROL_", "SLURM_TIME_FORMAT")
_ASKED_WITH: Final = {"LC_ALL": "C", "TZ": "UTC0", "SLURM_BITSTR_LEN": "0", "SLURM_TIME_FORMAT": "%s"}

_CLUSTERS: Final = re.compile(r"(?m)^#SBATCH\s+(?:--clusters?[=\s]\s*|-M\s*)([^\s#]+)")

_PREFIX: Final = re.compile(
    r"^(?:\w+: (?:error|fatal): |\w+: (?=unrecognized|invalid|option)|allocation failure: )"
    r"|^slurm_\w+(?: error)?: |Batch job submission failed: "
)
_NOISE: Final = re.compile(r'If munged is up|auth_g_create|Try "\w+ --help"|cannot stat file .*retrying')
_DOUBTFUL: Final = re.compile(
    r"Socket timed out|Unable to contact slurm controller|Zero Bytes were transmitted|Unexpected message received"
    r"|Message receive failure|Message send failure|Communication (connection|shutdown) failure"
    r"|Connection reset|Broken pipe|Transport endpoint|Insane message length",
    re.IGNORECASE,
)
_NO_SUCH_JOB: Final = re.compile(r"invalid job id", re.IGNORECASE)
_NO_ACCOUNTING: Final = re.compile(r"accounting storage is disabled", re.IGNORECASE)

_ABSENT: Final = "{} is not on the path here; run this on a login node of the cluster"
_LIST_YOURS: Final = "sacctmgr show assoc user=$USER format=account,partition,qos"

REFUSALS: Final = (
    (r"mutually exclusive", "mend that option: leave one of them out"),  # others may be named with it
    (r"partition (specified|name)|use this partition|partition (not available|config)", "set `partition` to one of %p"),
    (r"invalid account", f"set `account` to one of yours: {_LIST_YOURS}"),
    (r"invalid qos", f"set `qos` to one of yours: {_LIST_YOURS}"),
    (r"invalid feature", "set `constraint` to features that the nodes have: sinfo -o '%N %f'"),
    (r"generic resource", "set `gres` and `gpus_per_node` to what the nodes have: sinfo -o '%N %G'"),
    (
        r"memory specification|node configuration|processors requested|node count|cpu count",
        "no node of the partition has that much: lower mem_gb, cpus_per_task, gpus_per_node or nodes",
    ),
    (r"Submit\w*Limit|JobsPerUser", "you have as many jobs as you may: wait until some have ended, or submit fewer"),
    (r"(Assoc|QOS)\w*Wall\w*Limit|time limit is invalid|--time spec", "lower timeout_min, sinfo shows the limits"),
    (r"(Assoc|QOS)\w+Limit", f"your account or QOS has that limit: ask for less, or choose another: {_LIST_YOURS}"),
    (r"accounting/QOS policy", f"your account or QOS has limits: submit fewer or smaller jobs, see {_LIST_YOURS}"),
    (r"invalid job array", "the largest index that an array may have here is %i, MaxArraySize less one"),
    (
        r"munge|protocol authentication|authentication credential|authentication error",
        "munge, which tells SLURM who you are, is down here: try another login node and tell the administrators",
    ),
    (r"other parameter too long", "an option is over 4,096 bytes: name fewer ids at once"),
    (r"temporarily unable to accept", "the cluster's queue is full: wait, or submit fewer jobs"),
    (r"slurm\.conf|ClusterName|configuration file", "SLURM is not configured here: run this on a login node"),
    (r"unable to open file", "the script is gone: write it again"),
    (r"job dependency", "the job that this one waits for is not known any more: leave it out"),
    (r"invalid node name", "name nodes that there are: sinfo -N"),
    (r"reservation", "name a reservation that is yours and open: scontrol show reservation"),
    (r"license", "name licenses that there are: scontrol show licenses"),
    (r"--cluster", "name a cluster that there is: sacctmgr show clusters"),
    (r"unrecognized option|invalid option|invalid --|invalid numeric", "mend that option"),
    (r"no space left|writing script", "the controller's disk is full: tell the administrators"),
    (f"no answer within|{_DOUBTFUL.pattern}", "the controller is busy or away: look with squeue, and try again later"),
)
"""What SLURM refuses with, and the way out; the first row that fits counts. %p: partitions, %i: the largest index."""

_ANOTHER: Final = "cancel it, and submit it with another one, see"
_LESS: Final = "cancel it, and submit it with less, see"
_LET_GO: Final = "`experiment-manager release` or `scontrol release` lets it begin"
_SHARED: Final = "you, or all of your account or QOS, have as much as you may: it begins when others have ended"

REASONS: Final = (
    (r"JobHeldUser|job requeued in held state", _LET_GO),
    (r"JobHeldAdmin", "an administrator holds it, and alone can let it begin: ask why"),
    (r"DependencyNeverSatisfied", "what it comes after has not ended well: cancel it, and submit it again after that"),
    (r"BadConstraints|PartitionConfig", f"no node is as it asks: {_LESS} sinfo"),
    (r"JobHoldMaxRequeue", f"it was started again too often; {_LET_GO} once more"),
    (r"launch.failed.requeued.held", f"it could not be started on its node: tell the administrators; {_LET_GO} again"),
    (r"ReservationDeleted", f"its reservation is gone: {_ANOTHER} scontrol show reservation"),
    (r"Reservation", "it begins with its reservation: scontrol show reservation"),
    (r"InvalidAccount", f"its account is not valid: {_ANOTHER} {_LIST_YOURS}"),
    (r"InvalidQOS", f"its QOS is not valid: {_ANOTHER} {_LIST_YOURS}"),
    (r"PartitionTimeLimit|(Assoc|QOS)Max\w*Wall", "cancel it, and submit it with a lower timeout_min, see sinfo"),
    (r"PartitionNodeLimit", "cancel it, and submit it with as many nodes as the partition lets, see sinfo"),
    (r"PartitionDown|PartitionInactive", f"its partition begins nothing now: wait, or {_ANOTHER} sinfo"),
    (r"(Assoc|QOS)Max\w*PerJob", f"it asks for more than one job may have: {_LESS} {_LIST_YOURS}"),
    (r"QOSMin|QOSNotAllowed|QOSUsageThreshold", f"its QOS does not let it begin: {_ANOTHER} {_LIST_YOURS}"),
    (r"(Assoc|QOS)(Grp|Max)|AssociationJobLimit|MaxJobsPer", _SHARED),
    (r"AccountNotAllowed", f"its account may not use the partition: {_ANOTHER} {_LIST_YOURS}"),
    (r"JobArrayTaskLimit", "array_parallelism lets no more run at a time"),
    (
        r"ReqNodeNotAvail|NodeDown|Nodes_required",
        "nodes that it needs are down, or kept for others: sinfo -R",
    ),
    (r"Licenses", "all licenses are in use: scontrol show licenses"),
)
"""Reasons to wait about which people can do something, and the way out; the first row that fits counts."""


def way_out(reason: str) -> str:
    """What people can do about a job that waits for this; empty where it begins by itself, or we do not know.

    >>> way_out("ReservationDeleted"), way_out("Priority")
    ('its reservation is gone: cancel it, and submit it with another one, see scontrol show reservation', '')
    """
    return next((way for pattern, way in REASONS if re.match(pattern, reason)), "")


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a submitted job inherits of an environment: nothing that tells it that it is another job.

    >>> clean_environment({"SLURM_JOB_ID": "7", "SLURM_MEM_PER_CPU": "1", "SLURM_CONF": "/c", "HOME": "/h"})
    {'SLURM_CONF': '/c', 'HOME': '/h'}

    Outside of a job people's own defaults, as SBATCH_ACCOUNT, stay.
    """
    left_out = ("EXPERIMENT_MANAGER_", *(_OF_A_JOB if "SLURM_JOB_ID" in environ else ()))
    return {name: value for name, value in environ.items() if name in _OF_THE_CLUSTER or not name.startswith(left_out)}


def submission_environment(environ: Mapping[str, str], script: str) -> dict[str, str]:
    """What `sbatch` is given for a script: SLURM lets its variables overrule the lines of the script, so those are left
    out that name what a line sets, and those that would give the job another name, other tasks, other logs, other
    signals, or less of this environment (SBATCH_EXPORT).

    People's defaults for what the script leaves open, as SBATCH_ACCOUNT, stay.
    """
    given = set(_IDENTIFY)
    for option in _options_in(script):
        given |= next((group for group in _EXCLUSIVE if option in group), {option})
    names = {f"SBATCH_{_VARIABLES.get(option, option.upper().replace('-', '_'))}" for option in given}
    return {name: value for name, value in clean_environment(environ).items() if name not in names}


def _options_in(script: str) -> set[str]:
    """The options that the lines of a script set, by their long names; a line may have several."""
    words = (word for line in re.findall(r"(?m)^#SBATCH\s+(.*)", _text(script)) for word in _words(line))
    found = filter(None, (re.match(r"--([a-z-]+)|-([a-zA-Z])", word) for word in words))
    return {match[1] or _SHORT.get(match[2], match[2]) for match in found}


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # somebody has edited it
        return line.split()


def _text(script: str) -> str:
    try:
        return content(script).decode(errors="replace")
    except OSError:  # sbatch will say so
        return ""


def asked_clusters() -> frozenset[str] | None:
    """The clusters that SLURM's commands ask: those that SLURM_CLUSTERS names, or else the one that is here. None where
    that does not tell its name, or all are meant."""
    if named := _named_clusters():
        return None if "all" in named else named
    own = own_cluster()
    return None if own is None else frozenset({own})


def _named_clusters() -> frozenset[str]:
    return frozenset(names_in(os.environ.get("SLURM_CLUSTERS", "").lower()))


def why_unasked(clusters: Collection[str | None]) -> str | None:
    """Why SLURM is not asked about what these clusters have: see `Scheduler.why_unasked`."""
    recorded = sorted(cluster for cluster in clusters if cluster is not None)
    asked = asked_clusters() if recorded or (clusters and os.environ.get("SLURM_CLUSTERS")) else None
    if asked is None or not asked.isdisjoint(recorded):
        return None
    names = ", ".join(sorted(asked))
    if recorded:
        hint = f"ask on a login node of {recorded[0]}, or set SLURM_CLUSTERS={recorded[0]}"
        return f"the cluster {' or '.join(recorded)} has the jobs, and {names} is asked; {hint}"
    if own_cluster() in asked:
        return None
    return f"the cluster that is here has the jobs, and {names} is asked; unset SLURM_CLUSTERS"  # an older record


def require_followed(script: str) -> None:
    """Raise SlurmError where a script is for another cluster than the one that is asked: its jobs would be looked for,
    and not found, here."""
    found = _CLUSTERS.findall(_text(script)) or [os.environ.get("SBATCH_CLUSTERS", "")]
    if found[-1]:
        asked = asked_clusters()
        if asked != frozenset({found[-1].lower()}):
            there = "another one" if asked is None else ", ".join(sorted(asked))
            words = f"the script is for the cluster {found[-1]}, and {there} is asked here"
            hint = f"set SLURM_CLUSTERS={found[-1]}, for this command and for all that follow the jobs"
            raise SlurmError(f"{words}, which would not find its jobs; {hint}", words=words)
    else:
        require_one_cluster()


def require_one_cluster() -> None:
    """Raise SlurmError where SLURM_CLUSTERS names several clusters, to which an order would go, or to any of them."""
    named = _named_clusters()
    if len(named) > 1 or "all" in named:
        told = f"SLURM_CLUSTERS={os.environ['SLURM_CLUSTERS']}"
        words = f"{told} names several clusters, each of which has jobs with the same ids"
        raise SlurmError(f"{words}; name one of them", words=words)


def is_available() -> bool:
    """Whether SLURM's commands are on the path here."""
    return all(shutil.which(command) for command in ("sbatch", "squeue"))


def require() -> None:
    """SLURM's commands are on the path here. Raises SlurmError where they are not."""
    if not is_available():
        raise SlurmError(_ABSENT.format("sbatch"), words=_ABSENT.format("sbatch"))


def sbatch(script: str, *arguments: str, seconds: float = ORDER_S) -> str:
    """The script is submitted, from the present directory; returns the id that SLURM gave it.

    Raises SlurmError; where it is doubtful the job may have been submitted nevertheless.
    """
    require_followed(script)
    command = ["sbatch", "--parsable", *arguments, script]
    done = _run(command, seconds=seconds, env=submission_environment(os.environ, script), is_order=True)
    return submitted_id(done.stdout, done.stderr)


def submitted_id(printed: str, errors: str) -> str:
    """The id in what sbatch has printed. Raises SlurmError."""
    ids = set(re.findall(r"^(\d+)(?:;\S*)?\s*$", printed, re.MULTILINE))
    if len(ids) != 1:  # none, or a program of the site, which calls SLURM's, prints numbers of its own
        said = _cleaned(printed + errors) or "nothing"
        raise SlurmError(
            f"sbatch has not said which id the job got, it said: {said}; look for it with squeue",
            words=said,
            is_doubtful=True,
        )
    return str(ids.pop())


def test_only(script: str, *arguments: str) -> str:
    """What SLURM would do with the script, in its own words; nothing is submitted. SlurmError when it would refuse."""
    command = ["sbatch", "--test-only", *arguments, script]
    return _run(command, seconds=_QUESTION_S, env=submission_environment(os.environ, script)).stderr.strip()


def squeue(users: Iterable[str]) -> list[QueueRow]:
    """Everything that SLURM has of these users, or of ours if none is named, and what has ended a moment ago.

    What it has refused is left out. Raises SlurmError. A user whom this machine does not know has no jobs.
    """
    names = ",".join(sorted(set(users)))
    whose = ("-u", names) if names else ("--me",)
    return [row for row in _squeue(*whose) if not is_refused(row)]


def squeue_of(array: str) -> list[QueueRow]:
    """What the controller has of one array, whoever has submitted it and whatever it is called. Raises SlurmError."""
    try:
        return _squeue("-j", array)
    except SlurmError as error:
        if _NO_SUCH_JOB.search(error.words):
            return []
        raise


def _squeue(*which: str) -> list[QueueRow]:
    said = _ask("squeue", "-h", *which, "-t", "all", "-o", SQUEUE_FORMAT)
    rows = parse_squeue(said)
    if not rows:
        _require_no_row("squeue", said.splitlines())
    return rows


_JOB_FIRST: Final = r"\s*\d+(_[^\s|,;]+|[.+]\w+)*([\s|,;]|$)"
"""A line that begins with a job's id, as `12_[3-4]`, `12+1` or `12.batch`, and not with a date or a time."""


def _require_no_row(command: str, lines: Iterable[str]) -> None:
    """Raise SlurmError where a line that was not read tells of a job: a program of the site may stand before SLURM's,
    and pass over the form that it is asked for; then nothing is known, and nothing has ended."""
    row = next((" ".join(line.split()) for line in lines if re.match(_JOB_FIRST, line)), None)
    if row is not None:
        words = f"{command} has answered in another form than it was asked for: {row}"
        raise SlurmError(f"{words}; look with `type -a {command}` which program that is", words=words)


def squeue_runs(ids: Sequence[str]) -> dict[str, list[tuple[str, int]]]:
    """What the controller has of the tasks with these ids of their own, in hidden partitions, too: its word for their
    states, and how often it has started them again. Those that it has not are left out. Raises SlurmError, also where
    one call of several did not answer: the next one is not made; or where one was answered in another form."""
    found: dict[str, list[tuple[str, int]]] = {}
    for batch in _batches(sorted(set(ids)), most=_MAX_NAME_BYTES, most_bytes=_MAX_NAME_BYTES):
        which = ("-a", "-t", "all", "-j", ",".join(batch))
        try:
            said = _ask("squeue", "-h", *which, "-O", "JobID:24,State:24,RestartCnt:12", seconds=_QUESTION_S)
        except SlurmError as error:
            if not _NO_SUCH_JOB.search(error.words):  # which is said of a single one alone, as far as is known
                raise
            for one in batch if len(batch) > 1 else ():
                found |= squeue_runs([one])
            continue
        rows = {line: re.fullmatch(r" *(\d+) +(\w+) +(\d+) *", line) for line in said.splitlines()}
        _require_no_row("squeue", (line for line, row in rows.items() if row is None))
        for row in filter(None, rows.values()):
            found.setdefault(row[1], []).append((row[2], int(row[3])))
    return found


def batch_script(array: str) -> str | None:
    """The script of an array that waits or runs, as it was submitted; None where SLURM does not tell people this."""
    try:
        return _ask("scontrol", "write", "batch_script", array, "-", seconds=_SMALL_QUESTION_S)
    except SlurmError:
        return None


def sacct_of(array: str, since: float) -> list[Run] | None:
    """What accounting knows of one array, as `sacct` tells it of those of a name. Jobs that were never allowed to begin
    are in it, too."""
    return _sacct(since, ["-j", array])


def sacct(names: Iterable[str], since: float) -> list[Run] | None:
    """What accounting knows of all jobs with these names since then; None on a cluster without accounting.

    Raises SlurmError when it could not be asked. One call, unless there are thousands of names. Jobs of others are
    asked for, too, which the cluster may decline; jobs that may not begin yet, held or delayed, are never in it.
    """
    runs: list[Run] = []
    for batch in _batches(sorted(set(names)), most=_MAX_NAME_BYTES, most_bytes=_MAX_NAME_BYTES):
        found = _sacct(since, ["--name", ",".join(batch)])
        if found is None:
            return None
        runs += found
    return runs


def _sacct(since: float, which: Sequence[str]) -> list[Run] | None:
    begin = min(since, time.time()) - _CLOCKS_DISAGREE_S  # a start that lies in the future is refused
    start = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(begin))  # UTC, as the call's TZ says
    if shutil.which("sacct") is None:
        return None
    named = os.environ.get("SLURM_CLUSTERS")  # the other commands go by it themselves
    where = ["-M", named] if named else []
    try:
        said = _ask("sacct", *where, "-a", "-n", "-P", "-D", "-S", start, "-o", SACCT_FORMAT, *which)
    except SlurmError as error:
        if _NO_ACCOUNTING.search(error.words):
            return None
        raise
    runs = parse_sacct(said)
    if not runs:
        _require_no_row("sacct", said.splitlines())
    return runs


def scancel(targets: Sequence[str]) -> None:
    """SLURM was told to end these jobs and tasks, as `12` or `12_[3-5,7]`; those that are no more do not matter.

    Raises SlurmError with scancel's words. One target that cannot be read makes SLURM leave all of its call alone.
    """
    require_one_cluster()
    refusals: list[SlurmError] = []
    for batch in _batches(targets, most=_MAX_TARGETS, most_bytes=_MAX_TARGET_BYTES):
        try:
            _ask("scancel", *batch)
        except SlurmError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


def hold(tasks: Iterable[str]) -> None:
    """These tasks, `12_7`, do not begin until they are released: a user's hold, whoever asks for it, so that the user
    can release them. Raises SlurmError with scontrol's words."""
    _order_each("uhold", tasks)


def release(tasks: Iterable[str]) -> None:
    """These tasks may begin. Raises SlurmError with scontrol's words."""
    _order_each("release", tasks)


def _order_each(word: str, tasks: Iterable[str]) -> None:
    require_one_cluster()
    for batch in _batches(list(tasks), most=_MAX_TARGETS, most_bytes=_MAX_TARGET_BYTES):
        _ask("scontrol", word, ",".join(batch))


def targets(tasks: Iterable[tuple[str, int]]) -> list[str]:
    """What scancel is told: `12_[0-2,5]`.

    >>> targets([("12", 0), ("12", 1), ("13", 4)])
    ['12_[0-1]', '13_[4]']
    """
    arrays: dict[str, list[int]] = {}
    for array, index in tasks:
        arrays.setdefault(array, []).append(index)
    return [f"{array}_[{format_ids(indices)}]" for array, indices in arrays.items()]


def after(dependency: Dependency) -> list[str]:
    """The arguments with which sbatch lets an array wait. A task whose match has failed would wait for ever, unless
    SLURM is told to cancel it.

    >>> after(Dependency()), after(Dependency(ended=("12", "13_4"), matching=("14",)))
    ([], ['--dependency=afterany:12:13_4,aftercorr:14', '--kill-on-invalid-dep=yes'])
    """
    kinds = {"afterany": dependency.ended, "aftercorr": dependency.matching}
    waits = [":".join([kind, *tasks]) for kind, tasks in kinds.items() if tasks]
    cancelled = ["--kill-on-invalid-dep=yes"] if dependency.matching else []
    return [f"--dependency={','.join(waits)}", *cancelled] if waits else []


def max_array_size() -> int:
    """One more than the largest array index that the cluster takes; 1001, SLURM's default, where it does not tell."""
    try:
        return _max_array_size()
    except (SlurmError, KeyError, ValueError):
        return USUAL_LIMITS.array_size


def own_cluster() -> str | None:
    """The name of the cluster that is here; None while it does not tell, when it is asked again after a minute."""
    if "SLURM_JOB_ID" in os.environ and "SLURMD_NODENAME" in os.environ and "SLURM_CLUSTER_NAME" in os.environ:
        return os.environ["SLURM_CLUSTER_NAME"].lower()  # on its nodes, unlike in a shell of salloc, this is it
    try:
        return _own_name()
    except (SlurmError, KeyError):
        return None


@cache
def _own_name() -> str:
    return _config(None)["ClusterName"].lower()


@cache
def _max_array_size() -> int:
    return int(_config(os.environ.get("SLURM_CLUSTERS"))["MaxArraySize"])


def may_hide_jobs_of(user: str | None) -> bool:
    """Whether SLURM may not show us the jobs of a user (None: of somebody): not our own, where jobs are private, or it
    is not told whether they are."""
    own = os.geteuid()
    if own == 0 or _is_named(own, user):
        return False
    settings = _config(os.environ.get("SLURM_CLUSTERS"))
    return not settings or "jobs" in names_in(settings.get("PrivateData", "").lower())


def _is_named(uid: int, user: str | None) -> bool:
    try:
        return user in (pwd.getpwuid(uid).pw_name, str(uid))
    except KeyError:  # as in containers
        return user == str(uid)


def _config(clusters: str | None) -> Mapping[str, str]:
    """The settings of these clusters, as SLURM_CLUSTERS names them, None: of the one that is here; empty where they are
    not told, which is believed for a minute."""
    return _told_config(clusters or None, time.monotonic() // 60)


@lru_cache
def _told_config(clusters: str | None, _minute: float) -> Mapping[str, str]:
    left_out = (*_CHANGE_ANSWERS, "SLURM_CLUSTERS")
    env = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    env |= {} if clusters is None else {"SLURM_CLUSTERS": clusters}
    try:
        said = _run(("scontrol", "show", "config"), seconds=_SMALL_QUESTION_S, env={**env, **_ASKED_WITH}).stdout
    except SlurmError:
        return {}
    return parse_config(said)


def advice(words: str) -> str:
    """The way out of a refusal with these words; empty when we know none.

    >>> advice("Invalid qos specification")
    'set `qos` to one of yours: sacctmgr show assoc user=$USER format=account,partition,qos'
    """
    way_out = next((way for pattern, way in REFUSALS if re.search(pattern, words, re.IGNORECASE)), "")
    if way_out.endswith("%p"):
        return way_out.replace("%p", ", ".join(_partitions()) or "those that sinfo lists")
    return way_out.replace("%i", str(max_array_size() - 1)) if "%i" in way_out else way_out


def _partitions() -> list[str]:
    try:
        return _ask("sinfo", "-h", "-o", "%R", seconds=_SMALL_QUESTION_S).split()
    except SlurmError:
        return []


def _ask(*command: str, seconds: float = _QUESTION_S) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_CHANGE_ANSWERS)}
    return _run(command, seconds=seconds, env={**kept, **_ASKED_WITH}).stdout


def _run(
    command: Sequence[str], *, seconds: float, env: Mapping[str, str], is_order: bool = False
) -> "subprocess.CompletedProcess[str]":
    """The command has ended well. An order that failed is doubtful unless SLURM clearly refused it; it ends with us."""
    name = command[0]
    try:
        done = subprocess.run(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
            preexec_fn=dying_with_us() if is_order else None,
        )
    except subprocess.TimeoutExpired as error:
        raise _failure(name, f"no answer within {seconds:g} s", is_doubtful=is_order) from error
    except FileNotFoundError as error:
        raise SlurmError(_ABSENT.format(name), words=_ABSENT.format(name)) from error
    except OSError as error:
        raise SlurmError(f"{name} cannot be started: {error.strerror}", words=str(error)) from error
    if done.returncode == 0:
        return done
    words = _cleaned(done.stderr) or _cleaned(done.stdout) or f"{name} ended with {done.returncode}"
    is_doubtful = is_order and (done.returncode < 0 or bool(_DOUBTFUL.search(words)))
    raise _failure(name, words, is_doubtful=is_doubtful)


def refusal(said: str, *, has_been_cut_off: bool) -> SlurmError:
    """The error for an sbatch that somebody else ran and that failed saying this; it is to be raised.

    Doubtful when it was cut off before it had its answer, or when it says that the controller did not answer well.
    """
    words = _cleaned(said) or "no answer"
    return _failure("sbatch", words, is_doubtful=has_been_cut_off or bool(_DOUBTFUL.search(words)))


def _failure(name: str, words: str, *, is_doubtful: bool) -> SlurmError:
    said = f"{name} failed, and may have submitted the job nevertheless" if is_doubtful else f"{name} failed"
    way_out = advice(words)
    message = f"{said}: {words}; {way_out}" if way_out else f"{said}: {words}"
    return SlurmError(message, words=words, is_doubtful=is_doubtful)


def _cleaned(text: str) -> str:
    """SLURM's own words without who says them, each once, on one line."""
    lines = [line for line in text.splitlines() if not _NOISE.search(line)]
    stripped = [" ".join(_PREFIX.sub("", line).split()).rstrip(".") for line in lines]
    return "; ".join(dict.fromkeys(filter(None, stripped)))


def _batches(words: Iterable[str], *, most: int, most_bytes: int) -> Iterator[list[str]]:
    """The words in order, so many at a time that each call stays small."""
    batch: list[str] = []
    size = 0
    for word in words:
        length = len(word.encode()) + 1
        if batch and (len(batch) >= most or size + length > most_bytes):
            yield batch
            batch, size = [], 0
        batch.append(word)
        size += length
    if batch:
        yield batch
