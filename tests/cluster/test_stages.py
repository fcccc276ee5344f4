"""Stages on SLURM: a sweep whose jobs wait in the queue for those of another one, in each of which some fail."""

import subprocess
from collections.abc import Sequence

from tests.cluster.sweeps import Sweep, slurm
from tests.conftest import Program
from tests.test_stages import EVALUATE


class Evaluation(Sweep):
    """A sweep of evaluate.py, submitted while the one before it waits."""

    def write(self, *settings: str, launcher: str = "slurm_submitit") -> "subprocess.CompletedProcess[str]":
        name = f"hydra.sweeper.experiment_name={self.experiment.name}"
        done = self.run("-m", *settings, name, f"hydra/launcher={launcher}", script="evaluate.py")
        assert 0 == done.returncode, done.stderr
        return done

    @property
    def dependency(self) -> str:
        """What SLURM lets it wait for."""
        self.slurm_id = next(iter(self.told("submit")))["slurm_id"]
        return slurm("squeue", "-h", "-j", self.slurm_id, "-o", "%E").splitlines()[0]


def waiting(program: Program, how: Sequence[str]) -> Sweep:
    """A sweep whose jobs wait until they are released, and end as they are told."""
    (program.home / "evaluate.py").write_text(EVALUATE)
    sweep = Sweep(program)
    seeds = ",".join(map(str, range(1, len(how) + 1)))
    sweep.write(f"how={','.join(how)}", f"seed={seeds}", "hydra.sweeper.zip=[[seed,how]]", "hydra.launcher.mem_gb=0.2")
    sweep.sbatch("--hold")
    return sweep


def test_each_job_begins_when_its_own_has_completed(cluster_program: Program) -> None:
    """SLURM starts job k when job k before it has ended well, and cancels those of which that cannot be any more; what
    these have not done, and why, stands in their states."""
    train = waiting(cluster_program, ["well", "raise", "oom", "well", "well", "well"])
    after = Evaluation(train, "evaluate")
    after.write(
        *("text=well,well,well,raise,oom,well", "seed=1,2,3,4,5,6", "hydra.sweeper.zip=[[seed,text]]"),
        *("hydra.launcher.mem_gb=0.2", "hydra.launcher.after=experiments/train"),
    )
    assert f"aftercorr:{train.slurm_id}" in after.dependency
    after.until(dict.fromkeys(range(6), "QUEUED"))
    slurm("scontrol", "release", train.slurm_id)
    ends = ["COMPLETED", "CANCELLED", "CANCELLED", "FAILED", "OUT_OF_MEMORY", "COMPLETED"]
    after.until(dict(enumerate(ends)), through=["QUEUED", "RUNNING"], seconds=90)
    _, reasons, _ = after.looked()
    assert "job 1 of" in reasons[1]
    assert "which it comes after, is FAILED" in reasons[1]
    assert "which it comes after, is OUT_OF_MEMORY" in reasons[2]
    (one,) = [row["result"] for row in after.told("results") if row["job"] == 5]
    assert {"after": [5], "results": [9.0]} == one


def test_one_job_begins_when_several_have_ended(cluster_program: Program) -> None:
    """What comes after several jobs begins when all have ended, and looks itself: after one that has failed, it is
    CANCELLED, with nothing begun. Both may be run again at once: the second waits for the first."""
    train = waiting(cluster_program, ["well", "unless-again"])
    after = Evaluation(train, "evaluate")
    after.write("hydra.launcher.after={experiment: experiments/train, jobs: all}")
    assert "afterany:" in after.dependency
    slurm("scontrol", "release", train.slurm_id)
    after.until({0: "CANCELLED"}, through=["QUEUED", "RUNNING"], seconds=90)
    _, reasons, _ = after.looked()
    assert "job 1 of" in reasons[0]
    assert "which it comes after, is FAILED" in reasons[0]
    for sweep in (train, after):
        done = sweep.tool("resubmit", "--launcher", "slurm_submitit", "--yes")
        assert 0 == done.returncode, done.stderr
    after.until({0: "COMPLETED"}, through=["QUEUED", "RUNNING"], seconds=90)
    (one,) = [row["result"] for row in after.told("results")]
    assert {"after": [0, 1], "results": [1.5, 3.0]} == one
