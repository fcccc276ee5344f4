"""SLURM as a `Scheduler`: which task this process is, and what SLURM says, and does, about it while it runs.

Every task imports this, and pays for it, so the modules beside it, for whoever submits and asks, are imported where
they are used. A job with several tasks is started by `srun`, with one log per rank.
"""

from __future__ import annotations

import math
import os
import re
import time

from experiment_manager.errors import SlurmError
from experiment_manager.model.records import State, Task, task_name
from experiment_manager.scheduler.protocol import Scheduler, Stop
from experiment_manager.store.processes import ancestors, own_groups, words_of
from experiment_manager.typing_names import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from experiment_manager.scheduler.arrays import Array
    from experiment_manager.scheduler.records import Dependency, Limits, Place, QueueRow, Run, Send, Share
    from experiment_manager.scheduler.slurm.options import SlurmOptions

_ANSWER_LIMIT_S: Final = 5.0
_CONFIRMS_S: Final = 20.0
"""How long one look asks about tasks that squeue does not tell of, one after the other; the next one goes on."""
_ORDER_LIMIT_S: Final = 30.0  # a busy controller does what it is told late
_ENDED: Final = "COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL|PREEMPTED|BOOT_FAIL|DEADLINE|OUT_OF_MEMORY"
_STUCK: Final = (
    "BadConstraints|DependencyNeverSatisfied|JobHeldAdmin|JobHoldMaxRequeue|launch_failed_requeued_held"
    "|job_requeued_in_held_state"  # `scontrol requeuehold`, with State=SpecialExit, too (22.05)
    "|ReservationDeleted"
)
_STUCK_FOR_NOW: Final = (
    "InvalidAccount|InvalidQOS|PartitionTimeLimit"  # the first two also while slurmdbd is started anew
    r"|(?:Assoc|QOS)Max\w*PerJob\w*"  # of one job alone, which nobody else's end makes smaller
)
_FAILURE: Final = r"(?m)^srun: error: (\S+: tasks? [\d,-]+: (?!Terminated).+)$"
_OUT_OF_MEMORY_WORDS: Final = ("Out Of Memory", "oom-kill", "oom_kill")
"""What `srun` says, on its own standard error, when one of its tasks was killed for memory."""

_ONE_LOG: Final = 'exec >>"$1.rank$SLURM_PROCID.log" 2>&1; shift; exec "$@"'
_BOTH_LOGS: Final = 'exec >>"$1.rank$SLURM_PROCID.log" 2>>"$2.rank$SLURM_PROCID.log"; shift 2; exec "$@"'
_STEP: Final = r"(/.*?)?/job_\d+(/step_[^/]+)?"


_CPUS_ELSEWHERE: Final = frozenset(("exclusive", "cpus-per-task", "cpus-per-gpu", "ntasks", "ntasks-per-node", "nodes"))
_GPUS_ELSEWHERE: Final = frozenset(("exclusive", "gpus", "gpus-per-node", "gpus-per-task", "gres", "nodes"))
_MEMORY_ELSEWHERE: Final = frozenset(("mem", "mem-per-cpu", "mem-per-gpu", "nodes"))
"""Of `additional_parameters`: with one of these nobody knows here what a job has."""


class Slurm(Scheduler):
    """SLURM, from 20.11 on."""

    name = "slurm"
    label = "SLURM"
    submit_command = "sbatch"
    matches_tasks = True
    rank_variable = "SLURM_PROCID"
    size_variables = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    rank_names = r"SLURM_(PROCID|LOCALID|NODEID|GTIDS|NTASKS|NPROCS|TASK_PID|STEPID|STEP_\w+)|SLURM_SRUN_COMM_\w+"

    def options(self, values: Mapping[str, Any], *, where: str) -> SlurmOptions:
        from experiment_manager.scheduler.slurm.options import make

        return make(values, where=where)

    def kept(self, options: Any) -> dict[str, Any]:
        from experiment_manager.scheduler.slurm.options import as_mapping

        return as_mapping(options)

    def script(self, array: Array, place: Place) -> str:
        from experiment_manager.scheduler.slurm.script import render

        return render(array, place)

    def head(self, array: Array, place: Place) -> list[str]:
        from experiment_manager.scheduler.slurm.script import head

        return head(array, place)

    def in_force(self, options: Any) -> dict[str, Any]:
        from experiment_manager.scheduler.slurm.script import warning_s

        return {**self.kept(options), **({"signal_delay_s": warned} if (warned := warning_s(options)) else {})}

    def limits(self) -> Limits:
        from experiment_manager.scheduler.arrays import USUAL_LIMITS
        from experiment_manager.scheduler.slurm.client import max_array_size

        return USUAL_LIMITS._replace(array_size=max_array_size())

    def n_tasks(self, options: Mapping[str, Any]) -> int:
        """How many tasks a job with these SLURM options has.

        >>> Slurm().n_tasks({}), Slurm().n_tasks({"nodes": 2, "tasks_per_node": 4})
        (1, 8)
        """
        return int(options.get("nodes") or 1) * int(options.get("tasks_per_node") or 1)

    def takes(self, options: Mapping[str, Any]) -> tuple[str, float]:
        """GPUs, else processors where they were asked for: a job's share of those of its task.

        >>> Slurm().takes({"gpus_per_node": 2, "nodes": 2, "cpus_per_task": 8}), Slurm().takes({"nodes": 2})
        (('GPU', 4.0), ('job', 1.0))
        >>> Slurm().takes({"cpus_per_task": 8, "pack": 4}), Slurm().takes({"gres": "gpu:a100:2,disk:1", "pack": 4})
        (('CPU', 2.0), ('GPU', 0.5))
        """
        if options.get("resources_from"):
            return super().takes(options)  # each job may take something else
        asked = self.share({**options, "additional_parameters": None})  # a lower bound is better than none here
        if asked.gpus:
            return "GPU", asked.gpus
        return ("CPU", asked.cpus) if options.get("cpus_per_task") and asked.cpus else super().takes(options)

    def share(self, options: Mapping[str, Any]) -> Share:
        """Of packed jobs, each has its part of the task. A process has one processor where nothing is said of it, as in
        SLURM; what `additional_parameters` may say is not known.

        >>> from experiment_manager.scheduler.records import Share
        >>> Slurm().share({"mem_gb": 8, "cpus_per_task": 4, "timeout_min": 60, "pack": 2})
        Share(cpus=2.0, gpus=0.0, memory_bytes=4294967296.0, limit_s=3600)
        >>> Slurm().share({"mem_per_cpu": "2G", "cpus_per_task": 4, "workers": 8, "timeout_min": 60}).limit_s is None
        True
        """
        from experiment_manager.scheduler.records import Share

        more = options.get("additional_parameters") or {}
        n_nodes, n_tasks, pack = options.get("nodes") or 1, self.n_tasks(options), options.get("pack") or 1
        named = re.findall(r"(?:^|,)(?:gres[/:])?gpu(?::[^,:]+)?(?::([0-9]+))?(?=,|$|\()", options.get("gres") or "")
        n_gpus = n_nodes * (options.get("gpus_per_node") or sum(int(count or 1) for count in named))
        n_gpus = n_gpus or n_tasks * (options.get("gpus_per_task") or 0)
        n_cpus = n_gpus * (options.get("cpus_per_gpu") or 0) or n_tasks * (options.get("cpus_per_task") or 1)
        return Share(
            cpus=None if more.keys() & _CPUS_ELSEWHERE else n_cpus / pack,
            gpus=None if more.keys() & _GPUS_ELSEWHERE else n_gpus / pack,
            memory_bytes=_memory_of_task(options, n_nodes, n_cpus, n_gpus, pack),
            limit_s=_limit_of_job(options),
        )

    def fitting(self, need: Share, options: Mapping[str, Any]) -> dict[str, Any]:
        """Memory in gigabytes, time in minutes, whole processors, each rounded up. The time of a worker says nothing of
        its jobs, and where a job has several tasks, or nodes, nobody knows what one of them takes.

        >>> from experiment_manager.scheduler.records import Share
        >>> Slurm().fitting(Share(cpus=1.2, memory_bytes=5.1 * 2**30, limit_s=2000.0), {})
        {'mem_gb': 5.5, 'cpus_per_task': 2, 'timeout_min': 35}
        >>> Slurm().fitting(Share(memory_bytes=2.0**30), {"mem_per_cpu": "4G", "pack": 4})
        {'mem_gb': 4.0, 'mem_per_cpu': None}
        """
        more, pack = options.get("additional_parameters") or {}, options.get("pack") or 1
        found: dict[str, Any] = {}
        if self.n_tasks(options) > 1:
            return found
        if need.memory_bytes is not None and not more.keys() & _MEMORY_ELSEWHERE:
            found["mem_gb"] = _rounded_up(need.memory_bytes * pack / 2**30)
            found |= {name: None for name in ("mem_per_cpu", "mem_per_gpu") if options.get(name) is not None}
        has_memory_by_cpu = bool(options.get("mem_per_cpu")) and "mem_gb" not in found
        if need.cpus is not None and not more.keys() & _CPUS_ELSEWHERE and not has_memory_by_cpu:
            found["cpus_per_task"] = max(1, math.ceil(need.cpus * pack - 1e-9))
            found |= {name: None for name in ("cpus_per_gpu",) if options.get(name) is not None}
        is_limit_of_job = options.get("workers") is None and options.get("job_timeout_min") is None
        if need.limit_s is not None and is_limit_of_job and "time" not in more:
            minutes = math.ceil(need.limit_s / 60)
            found["timeout_min"] = max(1, minutes if minutes <= 10 else 5 * math.ceil(minutes / 5))
        return found

    def require(self) -> None:
        from experiment_manager.scheduler.slurm import client

        client.require()

    def cluster(self) -> str | None:
        from experiment_manager.scheduler.slurm import client

        asked = client.asked_clusters()
        return next(iter(asked)) if asked is not None and len(asked) == 1 else None

    def asked(self) -> frozenset[str] | None:
        from experiment_manager.scheduler.slurm import client

        return client.asked_clusters()

    def why_unasked(self, clusters: Collection[str | None]) -> str | None:
        from experiment_manager.scheduler.slurm import client

        return client.why_unasked(clusters)

    def submit(self, script: str, after: Dependency) -> str:
        from experiment_manager.scheduler.slurm import client

        return client.sbatch(script, *client.after(after))

    def sender(self, options: SlurmOptions) -> Send | None:
        from experiment_manager.scheduler.slurm.through_submitit import send_with

        return send_with(options.submitit_folder or "")

    def check(self, script: str) -> str:
        from experiment_manager.scheduler.slurm import client

        return client.test_only(script)

    def queue(self, users: Iterable[str]) -> Sequence[QueueRow]:
        from experiment_manager.scheduler.slurm import client

        return client.squeue(users)

    def history(self, names: Iterable[str], since: float) -> Sequence[Run] | None:
        from experiment_manager.scheduler.slurm import client

        return client.sacct(names, since)

    def queue_of(self, array: str) -> Sequence[QueueRow]:
        from experiment_manager.scheduler.slurm import client

        return client.squeue_of(array)

    def history_of(self, array: str, since: float) -> Sequence[Run] | None:
        from experiment_manager.scheduler.slurm import client

        return client.sacct_of(array, since)

    def never_begins(self, reason: str) -> bool:
        """Whoever holds a job (JobHeldUser) lets it go on when he likes, so it is waited for; not so one that was
        requeued and is held, which SLURM may have done by itself (RequeueExitHold).

        >>> Slurm().never_begins("JobHeldUser"), Slurm().never_begins("job requeued in held state")
        (False, True)
        >>> Slurm().never_begins("DependencyNeverSatisfied"), Slurm().never_begins("Priority")
        (True, False)
        >>> Slurm().never_begins("QOSMaxWallDurationPerJobLimit"), Slurm().never_begins("QOSMaxJobsPerUserLimit")
        (True, False)
        """
        return re.fullmatch(f"{_STUCK}|{_STUCK_FOR_NOW}", reason.replace(" ", "_")) is not None

    def may_pass(self, reason: str) -> bool:
        """SLURM looks again at what an account, a QOS or a partition lets, and holds no job for it.

        >>> Slurm().may_pass("InvalidAccount"), Slurm().may_pass("DependencyNeverSatisfied")
        (True, False)
        """
        return re.fullmatch(_STUCK_FOR_NOW, reason) is not None

    def way_out(self, reason: str) -> str:
        from experiment_manager.scheduler.slurm import client

        return client.way_out(reason)

    def script_of(self, array: str) -> str | None:
        from experiment_manager.scheduler.slurm import client

        return client.batch_script(array)

    def cancel(self, tasks: Iterable[tuple[str, int]]) -> None:
        from experiment_manager.scheduler.slurm import client

        client.scancel(client.targets(tasks))

    def hold(self, tasks: Iterable[tuple[str, int]]) -> None:
        from experiment_manager.scheduler.slurm import client

        client.hold(task_name(array, index) for array, index in tasks)

    def release(self, tasks: Iterable[tuple[str, int]]) -> None:
        from experiment_manager.scheduler.slurm import client

        client.release(task_name(array, index) for array, index in tasks)

    def end_in_log(self, text: str) -> State | None:
        from experiment_manager.scheduler.slurm.parse import words_in_log

        return words_in_log(text)

    def last_words(self, log: str) -> str:
        from experiment_manager.scheduler.slurm.parse import without_daemons

        return super().last_words(without_daemons(log))

    def task(self, environ: Mapping[str, str]) -> Task | None:
        """The task that this process runs in; None outside of SLURM.

        >>> ours = {"SLURM_JOB_ID": "13", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "7"}
        >>> Slurm().task({**ours, "SLURMD_NODENAME": "n1"}).name
        '12_7'

        It names no node in the shell of `salloc` on a login node, nor in a container that has a name of its own.

        >>> Slurm().task({"SLURM_JOB_ID": "13", "SLURM_JOB_NODELIST": "not-here[1-4]"}).node
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
            node=_node(environ),
            user=environ.get("SLURM_JOB_USER"),
            cluster=environ.get("SLURM_CLUSTER_NAME", "").lower() or None,
        )

    def why_stopped(self, task: Task) -> Stop:
        """What SLURM is doing to this task, asked while it still knows; CANCELLED where it does not say more.

        `Reason=TimeLimit` is a timeout; more restarts than ours: preempted, or requeued by somebody (measured on
        22.05).
        """
        fields = _fields(task)
        state = State.CANCELLED
        if fields.get("Reason") == "TimeLimit" or fields.get("JobState") == "TIMEOUT":
            state = State.TIMEOUT
        elif int(fields.get("Restarts", 0)) > task.restart or fields.get("JobState") == "PREEMPTED":
            state = State.PREEMPTED
        elif fields.get("JobState") == "NODE_FAIL":
            state = State.NODE_FAIL
        wait = re.search(r"^KillWait\s*=\s*(\d+)", _ask("show", "config"), re.MULTILINE)
        return Stop(state, float(wait[1]) if wait else None)

    def is_being_preempted(self, task: Task) -> bool:
        """Whether SLURM has announced that it will take this task's node for another one, and has not done it yet."""
        from experiment_manager.scheduler.slurm.parse import parse_time

        fields = _fields(task)
        announced, started = parse_time(fields.get("PreemptTime", "")), parse_time(fields.get("StartTime", ""))
        is_of_this_run = announced is not None and announced >= (started or 0.0)
        return is_of_this_run and int(fields.get("Restarts", 0)) == task.restart

    def ends_at(self, task: Task) -> float | None:
        """By our own clock: that of the controller, which ends the task, may be ahead of it, or behind."""
        fields = _fields(task)
        if fields.get("TimeLimit") == "UNLIMITED":
            return float("inf")
        from experiment_manager.scheduler.slurm.parse import parse_time

        found = parse_time(fields.get("EndTime", ""))
        if found is None:
            return None
        told = re.match(r"Configuration data as of (\S+)", _ask("show", "config"))  # that is: now (measured on 22.05)
        theirs, ours = parse_time(told[1]) if told else None, time.time()
        return found if theirs is None else found - (theirs - ours)

    def has_ended(self, task: Task) -> bool:
        """Whether SLURM says that this run has ended, or that it has forgotten it; false when it is silent, and of what
        another cluster runs than the one that is asked."""
        return self._has_ended(task) is True

    def _has_ended(self, task: Task) -> bool | None:
        """The same; None when it is silent, or is not to be asked."""
        if task.cluster is not None and task.cluster not in (self.asked() or ()):
            return None
        try:
            done = _scontrol("-o", "show", "job", task.name, asks_own=False)
        except OSError:
            return None
        if done.returncode:
            # of an array that has other tasks still, a task that was forgotten is "not found": on standard output by
            # 22.05, and on standard error by 26.05
            said = f"{done.stdout}\n{done.stderr}"
            is_absent = "Invalid job id" in said or f"Job {task.name} not found" in said
            return (is_absent and not self.may_hide(task.user)) or None
        return _says_ended(done.stdout, task)

    def holds_what_names_it(self, task: Task) -> bool:
        """The shell of `salloc` on a login node bears the variables of its allocation, is on no node of it, and
        outlives it.

        >>> [Slurm().holds_what_names_it(Task("slurm", "13", node=node)) for node in ("n1", None)]
        [True, False]
        """
        return task.node is not None

    def has_outlived(self, task: Task) -> bool:
        """What the kernel has in the task's own cgroup, or below what slurmd has started for it, goes with it, and
        nobody need be asked."""
        if not self.holds_what_names_it(task):
            return True
        return not (_is_in_group_of(task) or _is_below_step_of(task)) and self.has_ended(task)

    def ended(self, tasks: Collection[Task]) -> frozenset[Task]:
        """One call of squeue tells of all that it has; scontrol is asked about each that it is silent of, as long as it
        answers, and not for long: 300 such questions took 25 minutes, where the controller was silent."""
        if len(tasks) < 2:
            return super().ended(tasks)
        from experiment_manager.scheduler.slurm import client

        asked = self.asked() or ()
        ours = [task for task in tasks if task.id.isdecimal() and (task.cluster is None or task.cluster in asked)]
        try:
            told = client.squeue_runs([task.id for task in ours])
        except SlurmError:
            return frozenset()
        over = {
            task
            for task in ours
            if task.id in told and all(_is_over(task, word, restarts) for word, restarts in told[task.id])
        }
        absent = (task for task in ours if task.id not in told and not self.may_hide(task.user))
        deadline = time.monotonic() + _CONFIRMS_S
        for task in absent:
            said = self._has_ended(task) if time.monotonic() < deadline else None
            if said is None:
                break
            over.update({task} if said else ())
        return frozenset(over)

    def may_hide(self, user: str | None) -> bool:
        """With `PrivateData=jobs` SLURM says of a job of somebody else what it says of one that it has forgotten,
        "Invalid job id specified" (measured on 22.05)."""
        from experiment_manager.scheduler.slurm import client

        return client.may_hide_jobs_of(user)

    def load(self) -> None:
        from experiment_manager.scheduler.slurm import parse  # noqa: F401

    def requeue(self, task: Task) -> str | None:
        """SLURM will start this task again; else why it will not, in its words."""
        try:
            done = _scontrol("requeue", task.name, seconds=_ORDER_LIMIT_S)
        except OSError as error:
            return str(error)
        return done.stderr.strip() or f"scontrol ended with {done.returncode}" if done.returncode else None

    def start_words(self, log: str, error_log: str | None, environ: Mapping[str, str]) -> list[str]:
        """The words before the program: each rank appends to `log` and `error_log` of its own (None: to one of both).

        >>> Slurm().start_words("/e/stdout.1.log", None, {})[-2:]
        ['sh', '/e/stdout.1']

        A shell opens the logs: in a name, `srun` expands %t even where it is written %%t, and nothing after a
        backslash. One task that fails ends the others. Since 22.05 `srun` does not take over the --cpus-per-task of the
        batch job.
        """
        words = ["srun", "--kill-on-bad-exit=1"]
        cpus = environ.get("SLURM_CPUS_PER_TASK")
        words += [f"--cpus-per-task={cpus}"] if cpus else []
        logs = [name.removesuffix(".log") for name in (log, error_log) if name is not None]
        return [*words, "sh", "-c", _BOTH_LOGS if error_log else _ONE_LOG, "sh", *logs]

    def rank(self, environ: Mapping[Any, Any]) -> Any:
        return environ.get("SLURM_PROCID") or environ.get(b"SLURM_PROCID")

    def is_before_ranks(self, environ: Mapping[str, str]) -> bool:
        """A batch script and the shell of `salloc` are told the tasks that their job may have.

        They are in no step, or, as 26.05 tells a batch script, in one below zero.

        >>> Slurm().is_before_ranks({"SLURM_PROCID": "0", "SLURM_STEP_ID": "-5"})
        True
        >>> Slurm().is_before_ranks({"SLURM_PROCID": "0", "SLURM_STEP_ID": "0"})
        False
        """
        return environ.get("SLURM_PROCID") == "0" and environ.get("SLURM_STEP_ID", "-").startswith("-")

    def first_failure(self, said: str) -> str | None:
        """What `srun` says of the first task that failed by itself: those that it ended for that are Terminated.

        >>> said = "srun: error: n2: task 3: Exited with exit code 5\\nsrun: error: n1: tasks 0-1: Terminated"
        >>> Slurm().first_failure(said)
        'n2: task 3: Exited with exit code 5'
        """
        found = re.search(_FAILURE, said)
        return found[1] if found else None

    def tells_out_of_memory(self, said: str) -> bool:
        return any(words in said for words in _OUT_OF_MEMORY_WORDS)

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        return {"SUBMITIT_EXECUTOR": "slurm"}

    def cgroup(self, path: str) -> str | None:
        """As `/system.slice/slurmstepd.scope/job_12/step_batch`, in version 2 of cgroups, and in version 1.

        >>> Slurm().cgroup("/slurm/uid_0/job_12/step_batch/task_0"), Slurm().cgroup("/user.slice")
        ('/slurm/uid_0/job_12/step_batch', None)
        """
        found = re.match(_STEP, path)
        return None if found is None else found[0]


def _node(environ: Mapping[str, str]) -> str | None:
    """The node of its job that a process with this environment is on; None: on none, as far as can be seen. What slurmd
    starts is told the name of the node, which a container may not pass on; a host is called so with its domain or
    without."""
    host, nodes = os.uname().nodename, environ.get("SLURM_JOB_NODELIST", "")
    named = (name for name in (host, host.partition(".")[0]) if _is_among(name, nodes))
    return environ.get("SLURMD_NODENAME") or next(named, None)


def _is_among(host: str, nodes: str) -> bool:
    """Whether SLURM's text for nodes has this name.

    >>> [_is_among(host, "gpu7,r[1-2]n[08-11,20]") for host in ("gpu7", "r2n09", "r1n20", "r1n9", "r3n10")]
    [True, True, True, False, False]
    >>> [_is_among(host, "c1-[0-15]") for host in ("c1-0", "c1-10", "c1-010", "c1-16")]
    [True, True, False, False]
    """
    for item in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", nodes):
        parts = re.split(r"\[([^\]]*)\]", item)
        pattern = r"(\d+)".join(map(re.escape, parts[::2]))
        found = re.fullmatch(pattern, host)
        if found and all(map(_is_number_among, found.groups(), parts[1::2])):
            return True
    return False


def _is_number_among(number: str, ranges: str) -> bool:
    """Whether ranges as `08-11,20` have a number, written as they write it."""
    for item in ranges.split(","):
        first, _, last = item.partition("-")
        last = last or first
        is_padded = len(first) > 1 and first.startswith("0")
        width = max(len(first), len(str(int(number)))) if is_padded else len(str(int(number)))
        if first.isdecimal() and last.isdecimal() and len(number) == width and int(first) <= int(number) <= int(last):
            return True
    return False


def _is_in_group_of(task: Task) -> bool:
    """Whether this process is in the cgroup that slurmd has made for its job."""
    return re.search(rf"(?m)/job_{re.escape(task.id)}(?:/|$)", own_groups()) is not None


def _is_below_step_of(task: Task) -> bool:
    """Whether slurmstepd waits for this process, or for what has started it, in a step of the task: it calls itself
    `slurmstepd: [12.batch]`. Where the plugin proctrack/linuxproc tracks tasks they have no cgroups."""
    step = re.compile(rf"slurmstepd: \[{re.escape(task.id)}[.+]")
    return any(step.match(words_of(pid)) for pid in ancestors(os.getpid()))


def _fields(task: Task) -> dict[str, str]:
    """What SLURM tells of our task; where a name or a comment looks like a field, the field itself, which is first."""
    return _fields_in(_ask("-o", "show", "job", task.name), task)


def _fields_in(said: str, task: Task) -> dict[str, str]:
    return dict(reversed(re.findall(r"(\w+)=(\S+)", _record(said, task))))


def _says_ended(said: str, task: Task) -> bool:
    """Whether the run of a task has ended, by what SLURM tells of it."""
    told = _record(said, task)
    restarts, word = re.search(r"\bRestarts=(\d+)", told), re.search(r"\bJobState=(\w+)", told)
    return _is_over(task, word[1] if word else "", int(restarts[1]) if restarts else 0)


def _is_over(task: Task, word: str, restarts: int) -> bool:
    """Whether a run of a task has ended, by SLURM's word for its state and how often it was started again: the next run
    counts from the order on, and this one has KillWait to save what it has."""
    has_restarted = restarts > task.restart
    return word != "COMPLETING" if has_restarted else re.fullmatch(_ENDED, word) is not None


def _record(said: str, task: Task) -> str:
    """Of the jobs that SLURM tells of, the one that is the task's own: of a heterogeneous job it tells all parts.

    >>> _record("JobId=7 HetJobOffset=0 A=1\\nJobId=8 HetJobOffset=1 A=2\\n", Task("slurm", "8"))
    'JobId=8 HetJobOffset=1 A=2\\n'
    """
    found = [part for part in re.split(r"(?m)^(?=JobId=)", said) if part.strip()]
    own = [part for part in found if part.startswith(f"JobId={task.id} ")]
    return own[0] if own else found[0] if len(found) == 1 else ""


def _ask(*arguments: str) -> str:
    try:
        return _scontrol(*arguments).stdout
    except OSError:
        return ""


def _scontrol(
    *arguments: str, seconds: float = _ANSWER_LIMIT_S, asks_own: bool = True
) -> subprocess.CompletedProcess[str]:
    """Times are told as epoch seconds, see `client`. With `asks_own`, a process on a node asks the cluster that this is
    of, whatever SLURM_CLUSTERS it has inherited. Raises OSError when it does not answer."""
    import subprocess  # only here: jobs import this module, too, and ask nothing

    is_on_node = "SLURM_JOB_ID" in os.environ and "SLURMD_NODENAME" in os.environ
    left_out = ("SCONTROL_", *(("SLURM_CLUSTERS",) if asks_own and is_on_node else ()))
    env = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    try:
        return subprocess.run(
            ["scontrol", *arguments],
            env={**env, "LC_ALL": "C", "TZ": "UTC0", "SLURM_TIME_FORMAT": "%s"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.SubprocessError as error:
        raise OSError(str(error)) from error


def _memory_of_task(options: Mapping[str, Any], n_nodes: int, n_cpus: float, n_gpus: float, pack: int) -> float | None:
    """The bytes of memory of each job; None where all of a node, or whatever the partition gives, was asked for."""
    from experiment_manager.scheduler.slurm.options import megabytes  # which tasks do not need

    if (options.get("additional_parameters") or {}).keys() & _MEMORY_ELSEWHERE:
        return None
    found = 0.0
    if options.get("mem_gb"):
        found = options["mem_gb"] * 2**30 * n_nodes
    elif options.get("mem_per_cpu"):
        found = float(megabytes(options["mem_per_cpu"])) * 2**20 * n_cpus
    elif options.get("mem_per_gpu"):
        found = float(megabytes(options["mem_per_gpu"])) * 2**20 * n_gpus
    return found / pack or None


def _limit_of_job(options: Mapping[str, Any]) -> float | None:
    """The seconds that a job may run; None: that of a worker is no limit of its jobs, or there is none."""
    minutes = options.get("job_timeout_min")
    if minutes is None and options.get("workers") is None:
        minutes = options.get("timeout_min")
    return 60 * minutes if minutes else None


def _rounded_up(gigabytes: float) -> float:
    """To what people write: tenths below 1, halves below 10, else whole numbers.

    >>> _rounded_up(0.31), _rounded_up(3.2), _rounded_up(17.1)
    (0.4, 3.5, 18.0)
    """
    parts = 10 if gigabytes < 1 else 2 if gigabytes < 10 else 1
    return max(0.1, math.ceil(gigabytes * parts - 1e-9) / parts)
