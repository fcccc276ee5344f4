"""What sites, and people at them, do to jobs: `status` says it in words, and no state lies."""

import re
from pathlib import Path

import pytest

from tests.cluster.conftest import reconfigured, sacct_state
from tests.cluster.sweeps import Sweep, slurm
from tests.conftest import Program

LARGE = """
import time
import hydra

@hydra.main(version_base=None, config_path=None)
def main(cfg):
    kept = bytearray(b"x") * 500_000_000
    time.sleep(60)

main()
"""


@pytest.mark.usefixtures("light")
def test_suspended_and_never_started(program: Program) -> None:
    """A job that SLURM has suspended is RUNNING, and `status` says that it is suspended; one whose log SLURM could not
    open has FAILED before it began, and says so."""
    stopped, unlogged = Sweep(program, "stopped"), Sweep(program, "unlogged")
    for sweep in (stopped, unlogged):
        sweep.write("seed=0", "sleep=60")
    script = unlogged.experiment / "slurm_scripts.sh"
    script.write_text(re.sub(r"(?m)^(#SBATCH --output)=.*", r"\1=/dev/null/%A.log", script.read_text()))
    stopped.submit()
    unlogged.submit()
    is_old = slurm("sinfo", "-V").split()[-1].startswith("20.")  # which tells a status, and no signal of its own
    told = [row[1:] for row in sacct_state(unlogged.slurm_id, is_array=True)]
    assert told == [("FAILED", "1:0" if is_old else "0:53")]
    unlogged.until({0: "FAILED"})
    why = "exit code 1" if is_old else "signal 53"
    words = "" if is_old else " (it could not be started there, as where its log cannot be opened"
    assert f"FAILED, {why} on n1{words}" in re.sub("n[12]", "n1", unlogged.looked()[1][0])
    stopped.until_begun(0)
    slurm("scontrol", "suspend", stopped.task(0))
    states, reasons, _ = stopped.looked()
    assert {0: "RUNNING"} == states
    assert reasons[0].startswith("SLURM has suspended it")
    slurm("scontrol", "resume", stopped.task(0))
    assert {} == stopped.looked()[1]


@pytest.mark.heavy
def test_killed_for_memory_without_cgroups(program: Program) -> None:
    """Where SLURM itself watches the memory of jobs and kills them (OverMemoryKill), accounting says FAILED, and the
    task's log tells the truth: OUT_OF_MEMORY."""
    sweep = Sweep(program, "memory")
    Path(sweep.home, "memory.py").write_text(LARGE)
    with reconfigured(cgroup="no", extra=["JobAcctGatherParams=OverMemoryKill", "JobAcctGatherFrequency=task=1"]):
        options = ("hydra/sweeper=experiment", "hydra/launcher=slurm_script", "hydra.launcher.mem_gb=0.2")
        done = sweep.run("-m", "+x=1", *options, script="memory.py")
        assert 0 == done.returncode, done.stderr
        sweep.submit()
        sweep.until({0: "OUT_OF_MEMORY"}, through=["QUEUED", "RUNNING"])
        assert "FAILED" == sacct_state(sweep.slurm_id, is_array=True)[0][1]
