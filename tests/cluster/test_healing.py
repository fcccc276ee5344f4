"""Jobs that need more memory than was asked, on a cluster whose kernel ends them: nobody looks, and all complete."""

from pathlib import Path

import pytest

from tests.cluster.sweeps import Sweep, slurm
from tests.conftest import Program, wait_until

PROGRAM = """
import time
import hydra

@hydra.main(version_base=None, config_path=None)
def main(cfg):
    if cfg.mb < 0:
        raise ValueError("nothing that more memory would mend")
    kept = bytearray(b"x") * (cfg.mb * 2**20)
    time.sleep(cfg.get("lasts_s", 0))
    return len(kept)

main()
"""
RULE = "{mem_gb: x2, max: 1}"


@pytest.mark.heavy  # the page about it, which test_pages.py types, has one job that needs four times as much
def test_up_to_four_times_the_memory(cluster_program: Program) -> None:
    """Of a sweep whose jobs need up to four times the memory that was asked for, each has run as often as it took, with
    twice as much each time; the others once, also one that fails; nothing was submitted twice, and who heals then finds
    nothing."""
    if "task/cgroup" not in slurm("scontrol", "show", "config"):
        pytest.skip("this cluster has no task/cgroup, which makes a memory cgroup for each step")
    sweep = Sweep(cluster_program, "healing")
    Path(sweep.home, "healing.py").write_text(PROGRAM)
    options = ("hydra/launcher=slurm_submitit", "hydra.launcher.mem_gb=0.25", f"hydra.launcher.on_oom={RULE}")
    done = sweep.run("-m", "+mb=10,20,350,360,800,-1", "hydra/sweeper=experiment", *options, script="healing.py")
    assert 0 == done.returncode, done.stderr
    assert 1 == sweep.tool("status", "--wait").returncode
    more = ["OUT_OF_MEMORY", "COMPLETED"]
    expected = [["COMPLETED"], ["COMPLETED"], more, more, ["OUT_OF_MEMORY", *more], ["FAILED"]]
    attempts = [sweep.told("show", str(job))["attempts"] for job in range(6)]
    assert expected == [[attempt["state"] for attempt in of_job] for of_job in attempts]
    steps = (("0.25", "0.5", 1), ("0.5", "1", 2))
    why = [f"OUT_OF_MEMORY with mem_gb={was}, now mem_gb={now} (on_oom, retry {retry})" for was, now, retry in steps]
    assert why == [one["healing"] for one in attempts[4][1:]]
    assert why == list(sweep.told("status")["healed"])
    numbers = [path.parent.name for path in sweep.experiment.glob("launches/*/launch.json")]
    names = [array["name"] for number in numbers for array in sweep.launch(number)["slurm"]["arrays"]]

    def of_accounting() -> list[str]:
        return slurm("sacct", "-X", "-n", "-P", "-D", "--name", ",".join(names), "-o", "JobID").split()

    n_tasks = sum(map(len, expected))
    wait_until(lambda: len(of_accounting()) >= n_tasks)  # it hears of the last ones a moment later
    tasks = of_accounting()
    assert n_tasks == len(tasks) == len(set(tasks))
    assert [] == sweep.told("heal")["healed"]


@pytest.mark.heavy
def test_a_time_limit_that_is_too_short(cluster_program: Program) -> None:
    """A job that SLURM ends at its limit is submitted again with three times as much, and completes; one that fits runs
    once."""
    sweep = Sweep(cluster_program, "healing")
    Path(sweep.home, "healing.py").write_text(PROGRAM)
    options = ("hydra.launcher.timeout_min=1", "hydra.launcher.on_timeout={timeout_min: x3, max: 9}")
    jobs = ("+mb=1", "+lasts_s=0,100", "hydra/sweeper=experiment", "hydra/launcher=slurm_submitit")
    done = sweep.run("-m", *jobs, *options, script="healing.py")
    assert 0 == done.returncode, done.stderr
    sweep.until({0: "COMPLETED", 1: "COMPLETED"}, seconds=400)
    attempts = [sweep.told("show", str(job))["attempts"] for job in range(2)]
    assert [["COMPLETED"], ["TIMEOUT", "COMPLETED"]] == [[one["state"] for one in of_job] for of_job in attempts]
    assert "TIMEOUT with timeout_min=1, now timeout_min=3 (on_timeout, retry 1)" == attempts[1][1]["healing"]
