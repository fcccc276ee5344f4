"""Arrays that bear other names at SLURM than we gave them: people's environment, people and sites rename jobs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.cluster.conftest import SLURM_CONF, need_own_cluster, reconfigured
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


RENAMES: Final = """
function slurm_job_submit(job, partitions, user)
    job.name = "site-" .. user
    job.comment = "ours"
    return slurm.SUCCESS
end

function slurm_job_modify(job, record, partitions, user)
    return slurm.SUCCESS
end

return slurm.SUCCESS
"""


@pytest.fixture
def renaming_site() -> Iterator[None]:
    """A site whose plugin gives each job another name, and another comment."""
    need_own_cluster()
    settings = dict(line.split("=", 1) for line in slurm("scontrol", "show", "config").splitlines() if "=" in line)
    folders = {name.strip(): value.strip() for name, value in settings.items()}["PluginDir"]
    if not any(Path(folder, "job_submit_lua.so").exists() for folder in folders.split(":")):
        pytest.skip("this SLURM has no job_submit/lua")
    script = SLURM_CONF.with_name("job_submit.lua")
    script.write_text(RENAMES)
    try:
        with reconfigured(extra=["JobSubmitPlugins=lua"]):
            yield
    finally:
        script.unlink()


@pytest.mark.heavy
@pytest.mark.usefixtures("renaming_site", "light")
def test_a_site_that_renames_all_jobs(program: Program) -> None:
    """Arrays are ours, submitted by us or by hand: they wait, run once, however often that is said, and can be
    cancelled."""
    ours, by_hand, runs = (Sweep(program, name) for name in ("ours", "by-hand", "runs"))
    for sweep in (ours, by_hand):
        sweep.write(JOBS, HELD)
    runs.write(JOBS)
    ours.submit()
    by_hand.sbatch()
    runs.submit()
    runs.until({0: "COMPLETED", 1: "COMPLETED"}, through=["QUEUED", "RUNNING"])
    for sweep in (ours, by_hand):
        assert {"site-0"} == set(slurm("squeue", "-h", "-j", sweep.slurm_id, "-o", "%j").split())
        assert {0: "QUEUED", 1: "QUEUED"} == sweep.status()
        submitted_id = sweep.slurm_id
        assert submitted_id == sweep.submit()
        submitted_long_ago(sweep.experiment)
        assert {0: "QUEUED", 1: "QUEUED"} == sweep.status()
        assert "" == sweep.typed_again(JOBS, HELD)
        done = sweep.tool("cancel")
        assert 0 == done.returncode, done.stderr
        assert {0: "CANCELLED", 1: "CANCELLED"} == sweep.status()
    assert "" == runs.typed_again(JOBS)
    assert ["0.1.COMPLETED", "1.1.COMPLETED"] == runs.states()
