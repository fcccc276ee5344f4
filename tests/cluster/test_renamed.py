"""Arrays that bear other names at SLURM than we gave them: people's environment, people and sites rename jobs."""

import pytest

from tests.cluster.sweeps import Sweep, queue, slurm
from tests.conftest import Program, submitted_long_ago

HELD = "+hydra.launcher.additional_parameters.hold=true"
JOBS = "seed=0,1"


@pytest.mark.parametrize("way", ["environment", "scontrol", "sbatch by hand", "environment by hand"])
def test_a_renamed_array_is_ours(program: Program, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """It waits, is submitted once however often that is said, and what is cancelled of it is CANCELLED."""
    sweep = Sweep(program)
    sweep.write(JOBS, HELD)
    if way.startswith("environment"):
        monkeypatch.setenv("SBATCH_JOB_NAME", "mine")
        monkeypatch.setenv("SBATCH_ARRAY_INX", "0-7")
        monkeypatch.setenv("SBATCH_TIMELIMIT", "3")
    if way == "environment by hand":
        monkeypatch.delenv("SBATCH_ARRAY_INX")
    if way.endswith("by hand"):
        sweep.sbatch(*(["--job-name=mine"] if way == "sbatch by hand" else []))
        assert {0: "QUEUED", 1: "QUEUED"} == sweep.status()
        assert sweep.slurm_id == sweep.submit()
    else:
        sweep.submit()
    if way == "scontrol":
        slurm("scontrol", "update", f"jobid={sweep.slurm_id}", "jobname=mine")
    names = set(slurm("squeue", "-h", "-j", sweep.slurm_id, "-o", "%j").split())
    assert ("mine" in names) == (way != "environment"), names
    submitted_long_ago(sweep.experiment)
    assert {0: "QUEUED", 1: "QUEUED"} == sweep.status()
    assert sweep.slurm_id == sweep.submit()
    assert "" == sweep.typed_again(JOBS, HELD)
    done = sweep.tool("cancel", "1")
    assert 0 == done.returncode, done.stderr
    assert {0: "QUEUED", 1: "CANCELLED"} == sweep.status()
    slurm("scancel", sweep.task(0))
    assert {0: "CANCELLED", 1: "CANCELLED"} == sweep.status()
    assert [] == queue(sweep.slurm_id)
