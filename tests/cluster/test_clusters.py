"""Two clusters that have a file system in common: what one of them has is nothing that the other one can tell of."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import SLURM_CONF, need_own_cluster
from tests.cluster.sweeps import Sweep, slurm
from tests.conftest import Program, clean_env, wait_until

PORT = 26897
HELD = "+hydra.launcher.additional_parameters.hold=true"


@pytest.fixture
def other() -> Iterator[str]:
    """The configuration of a second cluster, whose controller runs: SLURM_CONF makes it the one that is here."""
    need_own_cluster()
    place = Path(tempfile.mkdtemp(prefix="experiment-manager-other-"))  # that of pytest is closed to slurm
    place.chmod(0o755)
    shutil.chown(place, "slurm", "slurm")
    settings = {
        "ClusterName": "other",
        "SlurmctldPort": str(PORT),
        "StateSaveLocation": str(place / "state"),
        "SlurmctldPidFile": str(place / "slurmctld.pid"),
        "SlurmctldLogFile": str(place / "slurmctld.log"),
        "AccountingStorageType": "accounting_storage/none",
    }
    text = SLURM_CONF.read_text()
    for name, value in settings.items():
        text = re.sub(rf"(?m)^{name}=.*$", f"{name}={value}", text)
    path = place / "slurm.conf"
    path.write_text("\n".join(line for line in text.splitlines() if not line.startswith("AccountingStorageT")))
    for name in ("gres.conf", "cgroup.conf"):
        shutil.copy(SLURM_CONF.parent / name, place)
    env = clean_env(SLURM_CONF=str(path))
    controller = subprocess.Popen(
        ["slurmctld", "-D", "-f", path], env=env, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(
            lambda: " UP" in subprocess.run(["scontrol", "ping"], env=env, capture_output=True, text=True).stdout
        )
        yield str(path)
    finally:
        controller.terminate()
        controller.wait(30)
        shutil.rmtree(place)


@pytest.mark.parametrize("is_by_hand", [False, True])
def test_asked_on_the_wrong_cluster(program: Program, other: str, *, is_by_hand: bool) -> None:
    """Jobs that wait and run on one cluster are what they were last known to be when another one is asked, which says
    so; nothing is cancelled there, and nothing is begun again."""
    settings = ("seed=0,1", "sleep=600")
    sweep = Sweep(program)
    sweep.write(*settings, "hydra.launcher.array_parallelism=1")
    (sweep.sbatch if is_by_hand else sweep.submit)()
    sweep.until_begun(0)
    states = {0: "RUNNING", 1: "QUEUED"}
    sweep.until(states, through=["QUEUED", "PENDING"])
    submission = sweep.experiment / "launches/0001/submission.json"
    if not is_by_hand:  # long ago
        submission.write_text(re.sub(r'"submitted": [0-9.]+', '"submitted": 1.0', submission.read_text()))
    told, _, said = sweep.looked(SLURM_CONF=other)
    assert states == told
    assert "the cluster experiments has the jobs, and other is asked; ask on a login node of experiments" in said
    done = sweep.tool("cancel", "0-1", SLURM_CONF=other)
    assert (2, True) == (done.returncode, "the cluster experiments has the jobs" in done.stderr)
    done = sweep.sweep(*settings, "hydra/launcher=slurm_submitit", SLURM_CONF=other)
    assert ["0001"] == sweep.launches(), done.stderr
    assert "experiments" == sweep.anchor(0)["cluster"]
    anchor = sweep.experiment / "states/0.1"
    text = anchor.read_text()
    anchor.write_text(re.sub(r'"host": "[^"]*"', '"host": "a node of that cluster"', text))
    done = sweep.tool("run", "0", SLURM_CONF=other, SLURM_JOB_ID="5", SLURMD_NODENAME="n1", SLURM_CLUSTER_NAME="other")
    assert (2, True) == (done.returncode, "job 0 is running already" in done.stderr)
    anchor.write_text(text)
    assert states == sweep.status()
    slurm("scancel", sweep.slurm_id)
    sweep.until({0: "CANCELLED", 1: "CANCELLED"}, through=["RUNNING", "QUEUED"])


def test_each_cluster_has_its_own_jobs(program: Program, other: str) -> None:
    """Jobs of one experiment may be on both: each is followed, and cancelled, where it is."""
    sweep = Sweep(program)
    sweep.write("seed=0", HELD)
    sweep.submit()
    held = slurm("squeue", "-h", "-j", sweep.slurm_id, "-o", "%r")
    assert "JobHeldUser" == held
    done = sweep.sweep("seed=0,1", HELD, "hydra/launcher=slurm_submitit", SLURM_CONF=other)
    assert 0 == done.returncode, done.stderr
    assert {"1": "1"} == sweep.launch("0002")["jobs"]
    assert {0: "QUEUED", 1: "QUEUED"} == sweep.status() == sweep.status(SLURM_CONF=other)
    done = sweep.tool("cancel", "1", SLURM_CONF=other)
    assert 0 == done.returncode, done.stderr
    assert {0: "QUEUED", 1: "CANCELLED"} == sweep.status() == sweep.status(SLURM_CONF=other)
    done = sweep.tool("cancel", "0")
    assert 0 == done.returncode, done.stderr
    assert {0: "CANCELLED", 1: "CANCELLED"} == sweep.status()
    assert os.path.exists(sweep.experiment / "launches/0001/settled")
