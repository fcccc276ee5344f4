"""What `status` says about jobs that SLURM runs: the truth, however they end, and only what is known."""

import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial

import pytest

from tests.cluster.conftest import Cluster, sacct_state, turn
from tests.cluster.sweeps import Sweep, queue, slurm, start_again
from tests.conftest import APP, Program, wait_until

pytestmark = pytest.mark.heavy  # minutes: run by `make test-cluster`

FOLLOWED = "hydra.launcher.post_script=[true]"
OOM = "the kernel killed it for memory"


@pytest.fixture(scope="module", autouse=True)
def over_time(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Sweep]]:
    """Jobs that run out of time, which SLURM looks for every 30 s: begun before all tests, asked about in the last."""
    home = tmp_path_factory.mktemp("over-time") / "home"
    shutil.copytree(APP, home, ignore=shutil.ignore_patterns("__pycache__"))
    sweeps = {name: Sweep(Program(home), name) for name in ("plain", "followed", "deaf", "before")}
    with turn() if cluster.own else nullcontext():
        sweeps["plain"].write("sleep=600")
        sweeps["followed"].write("sleep=600", FOLLOWED)
        sweeps["deaf"].write("sleep=600", "deaf=true", FOLLOWED)
        sweeps["before"].write("hydra.launcher.pre_script=['echo loading modules','sleep 600']")
        for name, sweep in sweeps.items():
            sweep.submit()
            if name != "before":
                sweep.until_begun(0)
        wait_until(lambda: queue(*(sweep.slurm_id for sweep in sweeps.values())) == ["RUNNING"] * len(sweeps))
        for sweep in sweeps.values():
            slurm("scontrol", "update", f"jobid={sweep.task(0)}", "endtime=now+1")
    yield sweeps
    slurm("scancel", *(sweep.slurm_id for sweep in sweeps.values()))


def test_every_way_to_end_with_lines_after_the_job(program: Program) -> None:
    """SLURM and `status` say the same of every end, whatever `post_script` succeeds with, and `status` says why."""
    ways = {
        "exit3": ("FAILED", "3:0", "exit code 3"),
        "segv": ("FAILED", "11:0", "ended by SIGSEGV"),
        "raise": ("FAILED", "1:0", "ValueError: told to raise"),
        "well": ("COMPLETED", "0:0", None),
        "oom": ("OUT_OF_MEMORY", "0:125", OOM),
        "oom-of-a-helper": ("OUT_OF_MEMORY", "0:125", OOM),
    }
    sweep, ranks = Sweep(program), Sweep(program, "ranks")
    sweep.write(f"how={','.join(ways)}", FOLLOWED, "hydra.launcher.mem_gb=0.25")
    ranks.write("how=oom,well", FOLLOWED, "hydra.launcher.mem_gb=0.5", "hydra.launcher.tasks_per_node=2")
    task = sweep.submit()
    ranks.submit()
    states = {job: state for job, (state, _, _) in enumerate(ways.values())}
    sweep.until(states, through=["QUEUED", "RUNNING"])
    expected = [(f"{task}_{job}", state, code) for job, (state, code, _) in enumerate(ways.values())]
    told = [(name, state, code.replace("139:", "11:")) for name, state, code in sacct_state(task, rows=len(ways))]
    assert expected == told  # of the status 139 of a shell, SLURM 22.05 shows 11, and 26.05 all of it
    assert {job: why for job, (_, _, why) in enumerate(ways.values()) if why} == sweep.looked()[1]
    ranks.until({0: "OUT_OF_MEMORY", 1: "COMPLETED"}, through=["QUEUED", "RUNNING"])
    of_ranks, well = (state for _, state, _ in sacct_state(ranks.slurm_id, rows=2))
    assert of_ranks in ("FAILED", "OUT_OF_MEMORY")  # the job; 20.11 tells of it what others tell of its step alone
    assert "COMPLETED" == well
    assert "OUT_OF_MEMORY" in slurm("sacct", "-n", "-j", f"{ranks.task(0)}.0", "-o", "State%20")


def test_killed_and_cancelled(program: Program) -> None:
    """A supervisor that is killed leaves a FAILED job, and a job that is cancelled is CANCELLED, with `post_script` and
    without: neither is ever COMPLETED, and none stays RUNNING."""
    sweeps = [Sweep(program, "plain"), Sweep(program, "followed")]
    for sweep, settings in zip(sweeps, ((), (FOLLOWED,)), strict=True):
        sweep.write("seed=0,1,2", "sleep=60", *settings)
        sweep.submit()
    for sweep in sweeps:
        sweep.until_begun(0, 1, 2)
        os.kill(sweep.anchor(0)["pid"], signal.SIGKILL)
        slurm("scancel", sweep.task(1))
        assert "RUNNING" == sweep.status()[2]
    for sweep in sweeps:
        sweep.until({0: "FAILED", 1: "CANCELLED"}, through=["RUNNING"])
        assert ["FAILED", "CANCELLED by 0"] == [sacct_state(sweep.task(job))[0][1] for job in (0, 1)]
        assert ["0.1.FAILED", "1.1.CANCELLED", "2.1.RUNNING"] == sweep.states()
        assert sweep.looked()[1][0].startswith("SLURM: FAILED")
        assert "" != sweep.typed_again("seed=0,1", "sleep=60")


def has_steps(sweep: Sweep, attempt: int) -> bool:
    """Whether an attempt has got somewhere, so that its work can be lost."""
    return len(sweep.steps(0, attempt)) > 4


def test_preempted_twice(program: Program) -> None:
    """A job that keeps checkpoints and is preempted twice, without warning or with one, is done at its third attempt
    and repeats nothing; meanwhile it is QUEUED, and the sweep typed again starts nothing twice. One that SLURM may not
    start again stays PREEMPTED."""
    same = ("steps=100", "hydra.launcher.gpus_per_node=2")  # together they have all GPUs of both nodes
    settings = {name: (*same, f"hydra.launcher.partition={name}") for name in ("preempt", "grace")}
    sweeps = {partition: Sweep(program, partition) for partition in settings}
    once = {partition: Sweep(program, f"{partition}-once") for partition in settings}
    rests = {attempt: program.home / f"hold.{40 * attempt}" for attempt in (1, 2)}  # none gets further before the rival
    for rest in rests.values():
        rest.touch()
    for partition in settings:
        sweeps[partition].write(*settings[partition], launcher="slurm_submitit")
        once[partition].write(*settings[partition], "hydra.launcher.max_requeues=0", launcher="slurm_submitit")
        sweeps[partition].slurm_id = sweeps[partition].told("submit")[0]["slurm_id"]
    for attempt in (1, 2):
        for sweep in (*sweeps.values(), *(once.values() if attempt == 1 else ())):
            sweep.until_begun(0, attempt=attempt)
            wait_until(partial(has_steps, sweep, attempt))
        rival = slurm("sbatch", "--parsable", "--output=/dev/null", "--nodes=2", "--gpus-per-node=4", "--wrap=sleep 99")
        for partition, sweep in sweeps.items():
            sweep.until({0: "QUEUED"}, through=["RUNNING"])
            assert f"0.{attempt}.PREEMPTED" in sweep.states()
            assert "" == sweep.typed_again(*settings[partition], launcher="slurm_submitit")
        for sweep in once.values():
            sweep.until({0: "PREEMPTED"}, through=["RUNNING", "CANCELLED"])
        slurm("scancel", rival)
        rests[attempt].unlink()
        for sweep in sweeps.values():
            start_again(sweep.task(0))
    for sweep in sweeps.values():
        sweep.until({0: "COMPLETED"}, through=["QUEUED", "RUNNING"])
        assert ["0.1.PREEMPTED", "0.2.PREEMPTED", "0.3.COMPLETED"] == sweep.states()
        assert list(range(1, 101)) == [step for attempt in (1, 2, 3) for step in sweep.steps(0, attempt)]
        assert [(sweep.task(0), "COMPLETED", "0:0")] == sacct_state(sweep.slurm_id, is_array=True)


def test_out_of_time(over_time: dict[str, Sweep]) -> None:
    """A job that runs out of time is TIMEOUT, with `post_script` or without, deaf to TERM, or before it began; then the
    last line of the task's log is told."""
    for sweep in over_time.values():
        sweep.until({0: "TIMEOUT"}, through=["QUEUED", "RUNNING"])
        assert "TIMEOUT" == sacct_state(sweep.slurm_id, is_array=True)[0][1]
    why = {name: sweep.looked()[1][0] for name, sweep in over_time.items()}
    assert re.fullmatch(r"SLURM: TIMEOUT on n[12] before the job began: loading modules", why.pop("before"))
    assert {"the time limit was reached"} == set(why.values())
