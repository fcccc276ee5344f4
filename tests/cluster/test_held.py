"""`experiment-manager hold`: SLURM holds the elements of held jobs, and begins the others, until they are released."""

from tests.cluster.sweeps import slurm
from tests.cluster.test_cancel import SUBMIT, array_of, states
from tests.conftest import Program, wait_until


def test_elements_of_held_jobs_wait(program: Program) -> None:
    """A held job is one that its user holds, as `squeue` says; what comes after it begins before it, and it begins once
    it is released."""
    done = program.sweep("seed=range(0,4)", SUBMIT, "hydra.launcher.array_parallelism=1", HOLD="120")
    assert 0 == done.returncode, done.stderr
    wait_until(lambda: ["RUNNING", "QUEUED", "QUEUED", "QUEUED"] == states(program))
    array = array_of(program)
    assert {"jobs": [1, 2], "running": [0]}.items() <= program.told("hold", "0-2").items()
    reasons = slurm("squeue", "-r", "-h", "-j", f"{array}_1,{array}_2", "-o", "%r").split()
    assert ["JobHeldUser", "JobHeldUser"] == reasons
    assert [1, 2] == program.told("status")["held"]
    program.tool("cancel", "0")
    wait_until(lambda: ["CANCELLED", "QUEUED", "QUEUED", "RUNNING"] == states(program))
    assert {"jobs": [2]}.items() <= program.told("release", "2").items()
    program.tool("cancel", "3")
    wait_until(lambda: ["CANCELLED", "QUEUED", "RUNNING", "CANCELLED"] == states(program))
    program.tool("cancel")
    wait_until(lambda: ["CANCELLED"] * 4 == states(program))
