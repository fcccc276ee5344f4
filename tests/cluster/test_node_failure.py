"""A node that SLURM loses while the job on it runs on: two runs of one job must not meet."""

from pathlib import Path

import pytest

from tests.cluster.conftest import kill_slurmd, sacct_state, start_slurmd
from tests.cluster.sweeps import Sweep, queue, start_again
from tests.conftest import Program, wait_until

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
