"""Workers on SLURM: tasks that run one job after the other, killed, preempted, cut off, and limited in number."""

import json
import os
import random
import signal
import stat
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from experiment_manager import SLURM, Experiment
from experiment_manager.model.records import State
from experiment_manager.scheduler.reconcile import reconciled
from experiment_manager.store.states import States, StateTable
from tests.cluster.conftest import kill_slurmd, reconfigured, start_slurmd
from tests.cluster.sweeps import ACTIVE, Sweep, queue, slurm
from tests.cluster.test_refusals import few_jobs
from tests.conftest import Program, wait_until
from tests.test_forkserver import write

N_JOBS = 10_000
WITHOUT_PYTHON = """#!/bin/sh
here=$EXPERIMENT_MANAGER_FOLDER/jobs/$EXPERIMENT_MANAGER_JOB
echo "$EXPERIMENT_MANAGER_ATTEMPT" >> "$here/began"
sleep 0.02
printf '{"result": %s, "format": 1}' "$EXPERIMENT_MANAGER_JOB" > "$here/result.$EXPERIMENT_MANAGER_ATTEMPT.json"
"""
"""A runner that leaves its result in the form of a job of Python, and starts in a millisecond."""


def experiment_of(home: Path, n_jobs: int, **options: object) -> Experiment:
    """Jobs of 20 ms, handed over to workers."""
    runner = home / "job.sh"
    runner.write_text(WITHOUT_PYTHON)
    runner.chmod(stat.S_IRWXU)
    experiment = Experiment(["n"], "many", home)
    for number in range(n_jobs):
        experiment.add_job({"n": number}, {"n": number})
    experiment.set_slurm_config(SLURM(job_runner=[str(runner)], **options))
    experiment.save()
    experiment.save_pass_filter(range(n_jobs))
    return experiment


def n_completed(experiment: Experiment) -> int:
    states = Path(experiment.folder.states)
    return sum(name.endswith(".COMPLETED") for name in os.listdir(states)) if states.exists() else 0


def workers_of(experiment: Experiment) -> list[int]:
    """The processes of the workers that run a job at the moment."""
    states = States(experiment.folder)
    running = [name.split(".")[:2] for name in os.listdir(experiment.folder.states) if name.endswith(".RUNNING")]
    records = (states.record(int(job), int(attempt)) for job, attempt in running)
    return sorted({record["pid"] for record in records if record})


def ended(experiment: Experiment) -> StateTable | None:
    """The states, when no job waits or runs any more."""
    table = reconciled(experiment.folder)
    busy = {State.QUEUED, State.RUNNING, State.PENDING}
    return None if any(table.state(job_id) in busy for job_id in experiment.get_all_ids()) else table


TOLD = """
import json, submitit
told = submitit.JobEnvironment()
names = ("hostname", "num_tasks", "global_rank", "local_rank", "num_nodes", "node")
return json.dumps([dict(os.environ), told.job_id, {name: str(getattr(told, name)) for name in names},
                   Path("/proc/self/cgroup").read_text(), sorted(os.sched_getaffinity(0))])
"""
OF_EACH = {"EXPERIMENT_MANAGER_FOLDER", "SLURM_ARRAY_JOB_ID", "SLURM_JOBID", "SLURM_JOB_END_TIME", "SLURM_JOB_ID",
           "SLURM_JOB_NAME", "SLURM_JOB_SLUID", "SLURM_JOB_START_TIME", "SLURM_TASK_PID"}  # fmt: skip
"""The variables that differ from one task of one experiment to another of another one."""


def test_what_a_forked_job_is_told(program: Program) -> None:
    """SLURM's variables, what submitit makes of them, TMPDIR, cgroup and processors are those of a job that the worker
    spawns."""
    write(program, TOLD)
    found = []
    for method in ("spawn", "forkserver"):
        sweep, name = Sweep(program, method), f"hydra.sweeper.experiment_name={method}"
        options = ("workers=1", "cpus_per_task=2", f"start_method={method}")
        launcher = ("hydra/launcher=slurm_script", *(f"hydra.launcher.{option}" for option in options))
        done = program.run("-m", "seed=1", name, *launcher, script="app.py")
        assert 0 == done.returncode, done.stderr
        sweep.submit()
        sweep.until({0: "COMPLETED"}, through=ACTIVE)
        variables, job_id, *others = json.loads(sweep.told("results")[0]["result"]["result"])
        assert sweep.task(0) == job_id
        same = {name: "" if name in OF_EACH else value for name, value in variables.items()}
        found.append([same, json.loads(json.dumps(others).replace(f"job_{variables['SLURM_JOB_ID']}/", "job_/"))])
        assert [] == list((sweep.experiment / "launches/0001").glob("*.log"))
    spawned, forked = found
    assert spawned == forked
    assert "2" == forked[0]["SLURM_CPUS_PER_TASK"]


@pytest.mark.usefixtures("light")
def test_put_back_and_joined(program: Program) -> None:
    """A job whose worker SLURM puts back into the queue waits for it, and goes on before the others; a second sweep
    adds its job to those that the worker takes, and submits nothing; once the worker has ended, none can be joined."""
    sweep, settings = Sweep(program), ("hydra.launcher.max_requeues=3", "hydra.launcher.timeout_min=30")
    sweep.write("how=hang-at-first,raise", "hydra.launcher.workers=1", *settings)
    sweep.submit()
    sweep.until_begun(0)
    assert {0: "RUNNING", 1: "QUEUED"} == sweep.status()
    joins = ("how=well", "hydra.launcher.join=true", *settings)
    sweep.write(*joins, launcher="slurm_submitit")
    assert ["RUNNING"] == queue(sweep.slurm_id)
    assert ["0001", None] == [sweep.launch(number).get("joins") for number in ("0002", "0001")]
    slurm("scontrol", "requeue", sweep.task(0))
    sweep.until({0: "QUEUED", 1: "QUEUED", 2: "QUEUED"}, through=["RUNNING"])
    sweep.until({0: "COMPLETED", 1: "FAILED", 2: "COMPLETED"}, through=["RUNNING", "QUEUED"], seconds=60)
    assert ["0.1.PREEMPTED", "0.2.COMPLETED", "1.1.FAILED", "2.1.COMPLETED"] == sweep.states()
    wait_until(lambda: not queue(sweep.slurm_id))
    done = sweep.sweep("seed=7", *joins, "hydra/launcher=slurm_submitit")
    assert (2, True) == (done.returncode, "waits or runs that these jobs could join" in done.stderr)
    assert ["0001", "0002"] == sweep.launches()


def processes_of(home: Path) -> list[str]:
    """The commands of all processes that have to do with what lies there."""
    found = (path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.parent.name != str(os.getpid()))
    with suppress(FileNotFoundError, ProcessLookupError):
        return [text.replace(b"\0", b" ").decode() for text in found if os.fsencode(home) in text]
    return processes_of(home)


@pytest.mark.heavy
def test_ten_thousand_jobs(program: Program, tmp_path: Path) -> None:
    """Where one may have twenty jobs in the queue, ten thousand run by sixteen workers, and five hundred of a Hydra
    program by four, each to its end once, though workers are killed and a node is cut off meanwhile."""
    experiment = experiment_of(tmp_path, N_JOBS, workers=16, time=60, max_requeues=3)
    dice, hydra_jobs = random.Random(14), Sweep(program)
    with reconfigured(enforce="associations,limits,qos", extra=["MaxArraySize=20"]), few_jobs("root", 20):
        hydra_jobs.write("seed=range(0,500)", "hydra.launcher.workers=4", "hydra.launcher.max_requeues=3")
        hydra_jobs.submit()
        experiment.generate_slurm_script()
        experiment.submit()
        began = time.monotonic()
        for mark in (1000, 3000, 5000):
            wait_until(lambda mark=mark: n_completed(experiment) >= mark, 900)  # type: ignore[misc]
            if mark == 3000:
                kill_slurmd("n2")
                continue
            for pid in dice.sample(wait_until(lambda: workers_of(experiment)), 1):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: "down" in slurm("sinfo", "-h", "-n", "n2", "-o", "%T"), 120)
        start_slurmd("n2")
        both = {experiment: N_JOBS, Experiment.at(hydra_jobs.experiment): 500}
        tables = {one: wait_until(lambda one=one: ended(one), 900) for one in both}  # type: ignore[misc]
        print(f"{sum(both.values())} jobs in {time.monotonic() - began:.0f} s")
        wait_until(lambda: not processes_of(tmp_path), 30)
    for one, n_jobs in both.items():
        table = tables[one]
        assert {State.COMPLETED: n_jobs} == Counter(table.state(job_id) for job_id in range(n_jobs))
        again = [sorted(states.items()) for states in table.attempts.values() if len(states) > 1]
        print(f"{len(again)} jobs were taken again: {[[str(state) for _, state in states] for states in again]}")
        for states in table.attempts.values():
            assert [State.COMPLETED] == [one for one in states.values() if one not in (State.LOST, State.NODE_FAIL)]
    for job_id, states in tables[experiment].attempts.items():
        began_as = Path(experiment.folder.job(job_id), "began").read_text().split()
        assert len(set(began_as)) == len(began_as), f"an attempt of job {job_id} ran twice"
        assert {int(number) for number in began_as} <= states.keys()
