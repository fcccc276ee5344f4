"""`experiment-manager cancel`: what was named ends, nothing else does, and the states say so for good."""

import json
import time
from pathlib import Path

import pytest

from experiment_manager.errors import JobRefused
from tests.cluster.python_jobs import Jobs
from tests.cluster.sweeps import slurm
from tests.cluster.test_refusals import sentence
from tests.cluster.test_submission import sbatch_by_hand
from tests.conftest import Program, wait_until

SUBMIT = "hydra/launcher=slurm_submitit"


def states(program: Program) -> list[str]:
    return [row["state"] for row in program.told("jobs")]


def active(*slurm_ids: str) -> set[str]:
    """The tasks that SLURM has of these arrays, by index."""
    rows = [line.split("|") for line in slurm("squeue", "-r", "-h", "-t", "PD,R,CG,S", "-o", "%F|%K").splitlines()]
    return {index for slurm_id, index in rows if slurm_id in slurm_ids}


def array_of(program: Program) -> str:
    (array,) = program.told("submit")
    return str(array["slurm_id"])


@pytest.mark.usefixtures("light")
def test_some_of_those_that_wait_and_run(program: Program) -> None:
    """By ids, by state and by filter those end that are meant, waiting or running; the others go on; then all that is
    left, and then there is nothing more to end."""
    done = program.sweep("seed=range(0,9)", SUBMIT, "hydra.launcher.array_parallelism=3", HOLD="120")
    assert 0 == done.returncode, done.stderr
    wait_until(lambda: 3 == len(program.states()))
    array = array_of(program)
    assert ["RUNNING"] * 3 + ["QUEUED"] * 6 == states(program)

    began = time.monotonic()
    assert {"jobs": [0, 7, 8]} == program.told("cancel", "0,7-8")
    assert time.monotonic() - began < 5
    wait_until(lambda: {"1", "2", "3"} <= active(array) and "0" not in active(array))
    wait_until(lambda: "3.1.RUNNING" in program.states())
    assert ["CANCELLED", *["RUNNING"] * 3, *["QUEUED"] * 3, *["CANCELLED"] * 2] == states(program)

    assert {"jobs": [4, 5, 6]} == program.told("cancel", "--state", "QUEUED")
    assert ["CANCELLED", *["RUNNING"] * 3, *["CANCELLED"] * 5] == states(program)
    assert {"jobs": [2]} == program.told("cancel", "--state", "RUNNING", "--where", "seed > 1", "--where", "seed == 2")
    wait_until(lambda: {"1", "3"} == active(array))

    said = program.tool("cancel").stdout
    assert f"told jobs 1,3 of {program.experiment} to end\n" == said
    wait_until(lambda: not active(array))
    assert ["CANCELLED"] * 9 == states(program)
    assert [f"{job}.1.CANCELLED" for job in range(9)] == program.states()
    assert "none was told to end" in program.tool("cancel").stdout
    assert {"jobs": []} == program.told("cancel", "3")
    assert "cancelled by root before it began" in program.tool("show", "8").stdout


def test_packed_jobs(tmp_path: Path) -> None:
    """A job that shares its task with others that wait or run is refused, and nothing ends; all of a task can be
    cancelled, and what is left of it when the others have ended."""
    quick, slow = {"s": 0}, {"s": 120}
    jobs = Jobs(tmp_path / "home", [slow, slow, slow, slow, quick, slow], pack=2, array_parallelism=2).submit()
    jobs.await_word("ready", 0)
    jobs.await_word("ready", 3)
    for wanted, shared in (("0", "jobs 0 share SLURM task {}_0 with 1"), ("4", "jobs 4 share SLURM task {}_2 with 5")):
        with pytest.raises(JobRefused, match=shared.format(jobs.slurm_id)):
            jobs.experiment.cancel(wanted)
    assert {"0", "1", "2"} == active(jobs.slurm_id)
    assert [0, 1] == jobs.experiment.cancel("0-1")
    jobs.await_word("ends", 4)
    wait_until(lambda: "4.1.COMPLETED" in jobs.states())
    jobs.await_word("ready", 5)
    assert [2, 3, 5] == jobs.experiment.cancel("2-5")
    ended = {4: "COMPLETED"}
    assert [f"{job}.1.{ended.get(job, 'CANCELLED')}" for job in range(6)] == jobs.await_ends()


def test_at_any_moment_of_the_start(tmp_path: Path) -> None:
    """Cancelled while SLURM starts the tasks, at whatever moment, every job is CANCELLED and nothing runs on."""
    launched = []
    for delay in (0.0, 0.15, 0.3, 0.45, 0.6, 0.9):
        jobs = Jobs(tmp_path / f"{delay}", [{"s": 120}] * 3, name=f"e{delay}")
        jobs.submit()
        time.sleep(delay)
        assert [0, 1, 2] == jobs.experiment.cancel()
        launched.append(jobs)
    for jobs in launched:
        expected = [f"{job}.1.CANCELLED" for job in range(3)]
        assert expected == jobs.await_ends(is_asked=True)
        assert {"CANCELLED"} == {row["state"] for row in jobs.experiment.jobs()}


def test_every_submission_of_a_script(tmp_path: Path) -> None:
    """A script that was submitted twice by hand waits twice: cancelling its jobs takes all of it out of the queue."""
    jobs = Jobs(tmp_path / "home", [{}] * 3, additional_parameters={"hold": True})
    (script,) = jobs.experiment.generate_slurm_script()
    ids = [sbatch_by_hand(Path(script), Path("/")) for _ in range(2)]
    wait_until(lambda: {"0", "1", "2"} == active(ids[0]) == active(ids[1]))
    began = time.monotonic()
    assert [1, 2] == jobs.experiment.cancel("1-2")
    assert time.monotonic() - began < 5
    assert {"0"} == active(ids[0]) == active(ids[1])
    assert ["QUEUED", "CANCELLED", "CANCELLED"] == [row["state"] for row in jobs.experiment.jobs()]
    anchor = json.loads((jobs.path / "states/1.1").read_text())
    assert {f"{slurm_id}_1" for slurm_id in ids} == set(anchor["tasks"])  # none of them begins it later


def test_after_a_requeue(tmp_path: Path) -> None:
    """A job that SLURM has put back into its queue is taken out of it, and its second attempt is CANCELLED."""
    jobs = Jobs(tmp_path / "home", [{"s": 120}], max_requeues=1).submit()
    jobs.await_word("ready")
    slurm("scontrol", "requeue", jobs.task(0))
    wait_until(lambda: ["QUEUED"] == [row["state"] for row in jobs.experiment.jobs()])
    assert [0] == jobs.experiment.cancel()
    assert not active(jobs.slurm_id)
    assert ["0.1.PREEMPTED", "0.2.CANCELLED"] == jobs.states()


@pytest.mark.usefixtures("light")
def test_jobs_that_run_here(program: Program) -> None:
    """A job of `local_pool` is ended by a signal to its supervisor, and the sweep says so; others go on."""
    sweep = program.start("train.py", "-m", "seed=1,2", "hydra.launcher.n_jobs=2", HOLD="60")
    wait_until(lambda: ["0.1.RUNNING", "1.1.RUNNING"] == program.states())
    assert {"jobs": [1]} == program.told("cancel", "1")
    wait_until(lambda: ["0.1.RUNNING", "1.1.CANCELLED"] == program.states())
    assert {"jobs": [0]} == program.told("cancel")
    _, said = sweep.communicate(timeout=20)
    assert 1 == sweep.returncode
    assert "2 of 2 jobs did not complete (2 CANCELLED)" in said
    assert ["0.1.CANCELLED", "1.1.CANCELLED"] == program.states()


@pytest.mark.usefixtures("light")
def test_where_slurm_cannot_be_asked(program: Program, tmp_path: Path) -> None:
    """What SLURM runs cannot be ended from a machine without it: that is an error and no silence."""
    assert 0 == program.sweep("seed=1", SUBMIT, HOLD="60").returncode
    wait_until(lambda: ["0.1.RUNNING"] == program.states())
    said = sentence(program.tool("cancel", PATH=str(tmp_path)))
    assert "squeue is not on the path here; run this on a login node of the cluster" in said
    assert ["0.1.RUNNING"] == program.states()
    assert {"jobs": [0]} == program.told("cancel")
    wait_until(lambda: ["0.1.CANCELLED"] == program.states())
