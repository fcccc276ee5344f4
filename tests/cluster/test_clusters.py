"""Two clusters that have a file system in common: what one of them has is nothing that the other one can tell of."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.conftest import SLURM_CONF, need_own_cluster
from tests.cluster.sweeps import Sweep, slurm
from tests.conftest import Program, clean_env, wait_until

PORT = 26897
ACCOUNT = "account=test cluster=other defaultaccount=test"
HELD = "+hydra.launcher.additional_parameters.hold=true"


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder where the second cluster has what it keeps: that of pytest is closed to slurm."""
    need_own_cluster()
    place = Path(tempfile.mkdtemp(prefix="experiment-manager-other-"))
    place.chmod(0o755)
    shutil.chown(place, "slurm", "slurm")
    yield place
    shutil.rmtree(place)


def configure(place: Path, *, leaves_out: str, **settings: str) -> Path:
    """The second cluster's configuration: that of the first one, but for these settings and the lines that begin so."""
    settings = {
        "ClusterName": "other",
        "SlurmctldPort": str(PORT),
        "StateSaveLocation": str(place / "state"),
        "SlurmctldPidFile": str(place / "slurmctld.pid"),
        "SlurmctldLogFile": str(place / "slurmctld.log"),
        **settings,
    }
    text = SLURM_CONF.read_text()
    for name, value in settings.items():
        text = re.sub(rf"(?m)^{name}=.*$", f"{name}={value}", text)
    path = place / "slurm.conf"
    path.write_text("".join(f"{line}\n" for line in text.splitlines() if not re.match(leaves_out, line)))
    for name in ("gres.conf", "cgroup.conf"):
        shutil.copy(SLURM_CONF.parent / name, place)
    return path


@contextmanager
def running(*words: str | Path, env: dict[str, str]) -> Iterator[None]:
    """A daemon of SLURM runs."""
    daemon = subprocess.Popen(words, env=env, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        daemon.terminate()
        daemon.wait(30)


@pytest.fixture
def other(place: Path) -> Iterator[str]:
    """The configuration of a second cluster, whose controller runs: SLURM_CONF makes it the one that is here."""
    none = "accounting_storage/none"
    path = configure(place, leaves_out="AccountingStorage(?!Type)", AccountingStorageType=none)
    env = clean_env(SLURM_CONF=str(path))
    with running("slurmctld", "-D", "-f", path, env=env):
        wait_until(
            lambda: " UP" in subprocess.run(["scontrol", "ping"], env=env, capture_output=True, text=True).stdout
        )
        yield str(path)


def change(what: str, words: str) -> None:
    """Accounting is told so; what is there already, or of which an interrupted test has left jobs, stays."""
    subprocess.run(["sacctmgr", "-iQ", what, *words.split()], env=clean_env(), check=False, capture_output=True)


def on_the_other() -> list[str]:
    """The ids of what waits or runs there."""
    return re.findall(r"(?m)^\d+$", slurm("squeue", "-h", "-M", "other", "-o", "%F"))


def next_id(*where: str) -> int:
    """The id that a job would get that is submitted now."""
    (found,) = re.findall(r"(?m)^NEXT_JOB_ID *= (\d+)", slurm("scontrol", *where, "show", "config"))
    return int(found)


@pytest.fixture
def _sibling(place: Path) -> Iterator[None]:
    """A second cluster of one node, of which the first one's accounting knows: the next jobs on both have the same id,
    and SLURM_CLUSTERS=other asks it."""
    path = configure(
        place,
        leaves_out="NodeName|GresTypes|AccountingStorageTRES",
        SlurmdSpoolDir=str(place / "slurmd"),
        SlurmdPidFile=str(place / "slurmd.pid"),
        SlurmdLogFile=str(place / "slurmd.log"),
        ProctrackType="proctrack/linuxproc",
        TaskPlugin="task/none",
    )
    (place / "gres.conf").write_text("")
    node = re.sub(r"n\[1-2\]", "o1", re.search(r"(?m)^NodeName=.*$", SLURM_CONF.read_text())[0])  # type: ignore[index]
    node = re.sub(r" Gres=\S+", "", re.sub(r"Port=\S+", f"Port={PORT + 1}", node))
    with path.open("a") as file:
        file.write(f"{node}\nFirstJobId={next_id()}\n")
    env = clean_env(SLURM_CONF=str(path))
    for words in ("cluster other", "account test cluster=other", f"user root {ACCOUNT}"):
        change("add", words)
    with running("slurmctld", "-D", "-f", path, env=env), running("slurmd", "-D", "-N", "o1", "-f", path, env=env):
        idle = ("sinfo", "-h", "-M", "other", "-p", "main", "-o", "%t")
        wait_until(lambda: "idle" in subprocess.run(idle, env=clean_env(), capture_output=True, text=True).stdout)
        while next_id() < next_id("-M", "other"):
            slurm("sbatch", "--test-only", "--wrap=true")
        yield
        slurm("scancel", "-M", "other", "-u", "root")
        wait_until(lambda: [] == on_the_other())
    change("delete", "cluster other")


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


class OnTheOther(Sweep):
    """An experiment whose commands ask, and submit to, what SLURM_CLUSTERS names."""

    clusters = "other"

    def python(self, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        return super().python(*arguments, **{"SLURM_CLUSTERS": self.clusters, **env})


@pytest.mark.usefixtures("light", "_sibling")
def test_one_accounting_knows_both(program: Program) -> None:
    """What SLURM_CLUSTERS sends to another cluster is submitted once, followed and cancelled there, whatever has its id
    here, and accounting tells of it; asked without, it is as last known."""
    here, held = Sweep(program, "here"), OnTheOther(program, "held")
    ends, killed = OnTheOther(program, "ends"), OnTheOther(program, "killed")
    here.write("seed=0,1", HELD)
    held.write("seed=0,1", HELD)
    assert here.submit() == held.submit()
    ends.write("how=well,exit3")
    killed.write("sleep=60,61")
    for sweep in (ends, killed):
        sweep.submit()
    killed.until_begun(0, 1)
    os.kill(killed.anchor(0)["pid"], signal.SIGKILL)
    slurm("scancel", "-M", "other", killed.task(1))
    ends.until({0: "COMPLETED", 1: "FAILED"}, through=["QUEUED", "RUNNING"])
    killed.until({0: "FAILED", 1: "CANCELLED"}, through=["RUNNING"])
    assert re.fullmatch("SLURM: FAILED(, signal 9)? on o1", killed.looked()[1][0])
    assert {0: "QUEUED", 1: "QUEUED"} == here.status() == held.status()
    assert "" == held.typed_again("seed=0,1", HELD)
    assert held.slurm_id == held.submit()
    assert [held.slurm_id] == on_the_other()
    words = ("sacct", "-X", "-n", "-P", "-M", "other", "-j", ends.slurm_id, "-o", "JobID,State")
    told = [f"{ends.task(0)}|COMPLETED", f"{ends.task(1)}|FAILED"]
    wait_until(lambda: told == sorted(slurm(*words).split()))
    for asked in ("experiments", ""):
        states, _, said = held.looked(SLURM_CLUSTERS=asked)
        assert {0: "QUEUED", 1: "QUEUED"} == states
        assert "the cluster other has the jobs, and experiments is asked" in said
        done = held.tool("cancel", SLURM_CLUSTERS=asked)
        assert (2, True) == (done.returncode, "the cluster other has the jobs" in done.stderr)
    done = held.tool("cancel")
    assert 0 == done.returncode, done.stderr
    held.until({0: "CANCELLED", 1: "CANCELLED"}, through=["QUEUED"])
    assert {0: "QUEUED", 1: "QUEUED"} == here.status()
    done = here.tool("cancel")
    assert 0 == done.returncode, done.stderr
    assert {0: "CANCELLED", 1: "CANCELLED"} == here.status() == held.status()
    assert ["0.1.FAILED", "1.1.CANCELLED"] == killed.states()
