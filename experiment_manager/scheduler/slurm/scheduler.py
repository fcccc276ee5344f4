"""SLURM as a `Scheduler`: which task this process is, and what SLURM says, and does, about it while it runs.

Every task imports this, and pays for it, so the modules beside it, for whoever submits and asks, are imported where
they are used. A job with several tasks is started by `srun`, with one log per rank.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from experiment_manager.model.records import State, Task
from experiment_manager.scheduler.protocol import Limits, Place, QueueRow, Run, Scheduler, Send, Stop

if TYPE_CHECKING:
    import subprocess

    from experiment_manager.scheduler.arrays import Array
    from experiment_manager.scheduler.slurm.options import SlurmOptions

_ANSWER_LIMIT_S: Final = 5.0
_ORDER_LIMIT_S: Final = 30.0  # a busy controller does what it is told late
_ENDED: Final = "COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL|PREEMPTED|BOOT_FAIL|DEADLINE|OUT_OF_MEMORY"
_STUCK: Final = frozenset(
    {"BadConstraints", "DependencyNeverSatisfied", "JobHeldAdmin", "JobHoldMaxRequeue", "launch_failed_requeued_held"}
)
_FAILURE: Final = r"(?m)^srun: error: (\S+: tasks? [\d,-]+: (?!Terminated).+)$"
_OUT_OF_MEMORY_WORDS: Final = ("Out Of Memory", "oom-kill", "oom_kill")
"""What `srun` says, on its own standard error, when one of its tasks was killed for memory."""

_ONE_LOG: Final = 'exec >>"$1.rank$SLURM_PROCID.log" 2>&1; shift; exec "$@"'
_BOTH_LOGS: Final = 'exec >>"$1.rank$SLURM_PROCID.log" 2>>"$2.rank$SLURM_PROCID.log"; shift 2; exec "$@"'
_STEP: Final = re.compile(r"(/.*?)?/job_\d+(/step_[^/]+)?")


class Slurm(Scheduler):
    """SLURM, from 20.11 on."""

    name = "slurm"
    label = "SLURM"
    submit_command = "sbatch"
    rank_variable = "SLURM_PROCID"
    size_variables = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    rank_names = r"SLURM_(PROCID|LOCALID|NODEID|GTIDS|NTASKS|NPROCS|TASK_PID|STEPID|STEP_\w+)|SLURM_SRUN_COMM_\w+"

    def options(self, values: Mapping[str, Any], *, where: str) -> "SlurmOptions":
        from experiment_manager.scheduler.slurm.options import make

        return make(values, where=where)

    def kept(self, options: Any) -> dict[str, Any]:
        from experiment_manager.scheduler.slurm.options import as_mapping

        return as_mapping(options)

    def script(self, array: "Array", place: Place) -> str:
        from experiment_manager.scheduler.slurm.script import render

        return render(array, place)

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
        n_nodes, n_tasks, share = options.get("nodes") or 1, self.n_tasks(options), options.get("pack") or 1
        named = re.findall(r"(?:^|,)(?:gres[/:])?gpu(?::[^,:]+)?(?::([0-9]+))?(?=,|$|\()", options.get("gres") or "")
        n_gpus = n_nodes * (options.get("gpus_per_node") or sum(int(count or 1) for count in named))
        n_gpus = n_gpus or n_tasks * (options.get("gpus_per_task") or 0)
        if n_gpus:
            return "GPU", n_gpus / share
        n_cpus = n_tasks * (options.get("cpus_per_task") or 0)
        return ("CPU", n_cpus / share) if n_cpus else super().takes(options)

    def require(self) -> None:
        from experiment_manager.scheduler.slurm import client

        client.require()

    def cluster(self) -> str | None:
        from experiment_manager.scheduler.slurm import client

        return client.named_cluster()

    def why_unasked(self, clusters: Collection[str | None]) -> str | None:
        asked, here = (self.cluster() if clusters else None), "the cluster that is here"
        other = next((cluster for cluster in clusters if cluster != asked), asked)
        if other == asked:
            return None
        hint = "unset SLURM_CLUSTERS" if other is None else f"set SLURM_CLUSTERS={other}"
        return f"{other or here} has the jobs, and {asked or here} is asked; {hint}"

    def submit(self, script: str, after: str | None = None) -> str:
        from experiment_manager.scheduler.slurm import client

        return client.sbatch(script, *client.after(after))

    def sender(self, options: "SlurmOptions") -> Send | None:
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
        """What people hold themselves, they let go on when they like.

        >>> Slurm().never_begins("DependencyNeverSatisfied"), Slurm().never_begins("Priority")
        (True, False)
        """
        return reason.replace(" ", "_") in _STUCK

    def script_of(self, array: str) -> str | None:
        from experiment_manager.scheduler.slurm import client

        return client.batch_script(array)

    def cancel(self, tasks: Iterable[tuple[str, int]]) -> None:
        from experiment_manager.scheduler.slurm import client

        client.scancel(client.targets(tasks))

    def end_in_log(self, text: str) -> State | None:
        from experiment_manager.scheduler.slurm.parse import words_in_log

        return words_in_log(text)

    def last_words(self, log: str) -> str:
        from experiment_manager.scheduler.slurm.parse import without_daemons

        return super().last_words(without_daemons(log))

    def task(self, environ: Mapping[str, str]) -> Task | None:
        """The task that this process runs in; None outside of SLURM.

        >>> Slurm().task({"SLURM_JOB_ID": "13", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "7"}).name
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

    def why_stopped(self, task: Task) -> Stop:
        """What SLURM is doing to this task, asked while it still knows; CANCELLED where it does not say more.

        `Reason=TimeLimit` is a timeout; more restarts than ours: preempted, or requeued by somebody (measured on
        22.05).
        """
        fields = _fields("show", "job", task.name)
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
        fields = _fields("show", "job", task.name)
        announced, started = fields.get("PreemptTime", "None"), fields.get("StartTime", "")
        return announced != "None" and announced >= started and int(fields.get("Restarts", 0)) == task.restart

    def ends_at(self, task: Task) -> float | None:
        fields = _fields("show", "job", task.name)
        if fields.get("TimeLimit") == "UNLIMITED":
            return float("inf")
        from experiment_manager.scheduler.slurm.parse import parse_time

        return parse_time(fields.get("EndTime", ""))

    def has_ended(self, task: Task) -> bool:
        """Whether SLURM says that this run has ended, or that it has forgotten it; false when it is silent."""
        try:
            done = _scontrol("-o", "show", "job", task.name)
        except OSError:
            return False
        if done.returncode:
            # of an array that has other tasks still, a task that was forgotten is told of elsewhere, and otherwise
            return "Invalid job id" in done.stderr or f"Job {task.name} not found" in done.stdout
        restarts = re.search(r"\bRestarts=(\d+)", done.stdout)
        has_restarted = restarts is not None and int(restarts[1]) > task.restart
        return has_restarted or re.search(rf"\bJobState=({_ENDED})\b", done.stdout) is not None

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
        found = _STEP.match(path)
        return None if found is None else found[0]


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
