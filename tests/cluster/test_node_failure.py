"""A node that SLURM loses while the job on it runs on: two runs of one job must not meet."""

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import kill_slurmd, reconfigured, sacct_state, start_slurmd
from tests.cluster.sweeps import Sweep, queue, slurm, start_again
from tests.conftest import Program, clean_env, wait_until

pytestmark = pytest.mark.heavy  # minutes: run by `make test-cluster`


def lives(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_node_dies_and_comes_back(program: Program, tmp_path: Path) -> None:
    """The run on a lost node is NODE_FAIL, and dead before the next one begins; it publishes nothing, whoever has
    noticed first: `status`, while the job waits for another node, or the next run itself."""
    watched, unwatched = Sweep(program, "watched"), Sweep(program, "unwatched")
    sweeps = {watched: tmp_path / "watched", unwatched: tmp_path / "unwatched"}
    for sweep, started in sweeps.items():
        started.mkdir()
        sweep.write("how=hang-at-first", f"started='{started}'")
        sweep.submit()
    for sweep in sweeps:
        sweep.until_begun(0)
    (node,) = {sweep.anchor(0)["task"]["node"] for sweep in sweeps}
    first = {sweep: int(next(started.iterdir()).suffix[1:]) for sweep, started in sweeps.items()}
    kill_slurmd(node)
    wait_until(lambda: queue(watched.slurm_id, unwatched.slurm_id) == ["PENDING", "PENDING"], 60)
    watched.until({0: "QUEUED"}, through=["RUNNING"])
    assert ["0.1.NODE_FAIL"] == watched.states()
    assert "" == watched.typed_again("how=hang-at-first", f"started='{sweeps[watched]}'")
    assert all(map(lives, first.values()))
    for sweep in sweeps:
        start_again(sweep.task(0))
    waiting = set(sweeps)
    while waiting:
        sweep = wait_until(lambda: next((one for one in waiting if len(list(sweeps[one].iterdir())) > 1), None), 60)
        assert not lives(first[sweep]), "two runs of one job at the same time"
        waiting.remove(sweep)
    for sweep in sweeps:
        sweep.until({0: "COMPLETED"})
    start_slurmd(node)
    for sweep in sweeps:
        assert [(sweep.task(0), "COMPLETED", "0:0")] == sacct_state(sweep.slurm_id, is_array=True)
        assert {0: "COMPLETED"} == sweep.status()
        assert ["0.1.NODE_FAIL", "0.2.COMPLETED"] == sweep.states()
        results = [path.name for path in (sweep.experiment / "jobs/0").glob("result.*")]
        assert ["result.2.json"] == results
        assert sweep.anchor(0, 2)["task"]["node"] != node


@pytest.fixture
def power() -> Iterator[Path]:
    """A folder where SLURM notes which nodes it turns off and on, as it does with those that nobody needs."""
    place = Path(tempfile.mkdtemp(prefix="experiment-manager-power-"))  # that of pytest is closed to slurm
    place.chmod(0o755)
    (place / "nodes").mkdir()
    shutil.chown(place / "nodes", "slurm", "slurm")
    for word in ("Suspend", "Resume"):
        (place / word).write_text(
            f'#!/bin/sh\nscontrol show hostnames "$1" | while read node; do echo {word} >{place}/nodes/$node; done\n'
        )
        (place / word).chmod(0o755)
    yield place
    shutil.rmtree(place)


@pytest.mark.usefixtures("light")
def test_a_node_that_does_not_boot(program: Program, power: Path) -> None:
    """Jobs for which SLURM turns nodes on are QUEUED; one whose node does not come up in time begins on another one, or
    is NODE_FAIL where SLURM may not start it again, and the same sweep runs it; none of them runs twice."""
    again, once, cancelled = (Sweep(program, name) for name in ("again", "once", "cancelled"))
    begun = program.home / "begun"
    begun.mkdir()
    programs = [f"{word}Program={power / word}" for word in ("Suspend", "Resume")]
    times = ["SuspendTime=3600", "SuspendTimeout=2", "ResumeTimeout=15"]

    def is_told(node: str, word: str) -> bool:
        path = power / "nodes" / node
        return path.exists() and path.read_text() == f"{word}\n"

    with reconfigured(extra=[*programs, *times]):
        for node in ("n1", "n2"):
            slurm("scontrol", "update", f"nodename={node}", "state=power_down")
            wait_until(lambda node=node: is_told(node, "Suspend"))  # type: ignore[misc]
            kill_slurmd(node)
        wait_until(lambda: ["idle~"] * 2 == slurm("sinfo", "-h", "-N", "-p", "main", "-o", "%t").split())
        again.write("seed=0", f"started={begun}")
        again.submit()
        off = wait_until(lambda: slurm("squeue", "-h", "-j", again.task(0), "-o", "%N"))
        (other,) = {"n1", "n2"} - {off}
        for sweep in (once, cancelled):
            sweep.write(
                "seed=0", f"started={begun}", "hydra.launcher.max_requeues=0", f"hydra.launcher.exclude={other}"
            )
            sweep.submit()
        wait_until(lambda: ["CONFIGURING"] * 3 == queue(again.slurm_id, once.slurm_id, cancelled.slurm_id))
        assert [({0: "QUEUED"}, {0: "configuring"}, "")] * 2 == [again.looked(), once.looked()]
        assert is_told(off, "Resume")
        done = cancelled.tool("cancel")
        assert 0 == done.returncode, done.stderr
        waits = again.start("-m", "experiment_manager", "status", str(again.experiment), "--wait")
        once.until({0: "NODE_FAIL"}, through=["QUEUED"], seconds=60)
        why = once.looked()[1][0]  # 26.05 tells an exit code of what it has not started
        assert re.fullmatch(f"SLURM: NODE_FAIL(, exit code 1)? on {off} before the job began", why)
        again.until({0: "QUEUED"})
        assert [] == again.states()
        wait_until(lambda: is_told(other, "Resume"), 60)
        told_at = (power / "nodes" / other).stat().st_mtime
        wait_until(lambda: time.time() > told_at + 2)  # SLURM takes one that was up in the same second for not booted
        subprocess.run(["slurmd", "-b", "-N", other], env=clean_env(), cwd="/", check=True)  # as after a boot
        again.until({0: "COMPLETED"}, through=["QUEUED", "RUNNING"], seconds=60)
        assert ["0.1.COMPLETED"] == again.states()
        assert other == again.anchor(0)["task"]["node"]
        said, errors = waits.communicate(timeout=60)
        assert (0, True) == (waits.returncode, "COMPLETED" in said), errors
        cancelled.until({0: "CANCELLED"}, through=["QUEUED"])
        assert "0" == once.typed_again("seed=0", f"started={begun}")
    once.submit()
    once.until({0: "COMPLETED"}, through=["QUEUED", "RUNNING"])
    assert ["0.1.NODE_FAIL", "0.2.COMPLETED"] == once.states()
    assert 2 == len(list(begun.iterdir()))
