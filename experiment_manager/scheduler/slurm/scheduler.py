"""SLURM as a `Scheduler`. Every task imports this: what is needed elsewhere alone is imported where it is used."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from experiment_manager.model.records import State, Task
from experiment_manager.scheduler.protocol import Limits, Place, QueueRow, Run, Scheduler, Send, Stop
from experiment_manager.scheduler.slurm import task as tasks

if TYPE_CHECKING:
    from experiment_manager.scheduler.arrays import Array
    from experiment_manager.scheduler.slurm.options import SlurmOptions

_STEP: Final = re.compile(r"(/.*?)?/job_\d+(/step_[^/]+)?")


class Slurm(Scheduler):
    """SLURM, from 22.05 on."""

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
        return tasks.n_tasks(options)

    def require(self) -> None:
        from experiment_manager.scheduler.slurm import client

        client.require()

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

    def cancel(self, tasks: Iterable[tuple[str, int]]) -> None:
        from experiment_manager.scheduler.slurm import client

        client.scancel(client.targets(tasks))

    def end_in_log(self, text: str) -> State | None:
        from experiment_manager.scheduler.slurm.parse import words_in_log

        return words_in_log(text)

    def last_words(self, log: str) -> str:
        return super().last_words("\n".join(line for line in log.splitlines() if not line.startswith("slurmstepd")))

    def task(self, environ: Mapping[str, str]) -> Task | None:
        return tasks.task(environ)

    def why_stopped(self, task: Task) -> Stop:
        return tasks.why_stopped(task)

    def is_being_preempted(self, task: Task) -> bool:
        return tasks.is_being_preempted(task)

    def has_ended(self, task: Task) -> bool:
        return tasks.has_ended(task)

    def requeue(self, task: Task) -> str | None:
        return tasks.requeue(task)

    def start_words(self, log: str, error_log: str | None, environ: Mapping[str, str]) -> list[str]:
        return tasks.srun(log, error_log, environ)

    def rank(self, environ: Mapping[Any, Any]) -> Any:
        return environ.get("SLURM_PROCID") or environ.get(b"SLURM_PROCID")

    def is_before_ranks(self, environ: Mapping[str, str]) -> bool:
        """A batch script and the shell of `salloc` are told the tasks that their job may have."""
        return environ.get("SLURM_PROCID") == "0" and "SLURM_STEP_ID" not in environ

    def first_failure(self, said: str) -> str | None:
        return tasks.first_failure(said)

    def tells_out_of_memory(self, said: str) -> bool:
        return any(words in said for words in tasks.OUT_OF_MEMORY_WORDS)

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        return {"SUBMITIT_EXECUTOR": "slurm"}

    def cgroup(self, path: str) -> str | None:
        """As `/system.slice/slurmstepd.scope/job_12/step_batch`, in version 2 of cgroups, and in version 1.

        >>> Slurm().cgroup("/slurm/uid_0/job_12/step_batch/task_0"), Slurm().cgroup("/user.slice")
        ('/slurm/uid_0/job_12/step_batch', None)
        """
        found = _STEP.match(path)
        return None if found is None else found[0]
