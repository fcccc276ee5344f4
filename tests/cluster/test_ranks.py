"""Sweeps inside of SLURM: one process may sweep, wherever it runs; one of several tasks may not."""

import subprocess

import pytest

from tests.cluster.conftest import sacct_state
from tests.cluster.sweeps import Sweep
from tests.conftest import Program, clean_env


def ran(program: Program, *command: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, cwd=program.home, env=clean_env(**env), capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.usefixtures("light")
def test_sweeps_inside_of_slurm(cluster_program: Program) -> None:
    """In an allocation of two tasks, and in a batch script of two, a sweep of `local_pool` runs; as two tasks of a step
    it is refused by each, and nothing has been planned."""
    sweep = Sweep(cluster_program)
    line = "exec {python} train.py -m seed={seed} hydra/launcher=local_pool"
    python = sweep.python("-c", "import sys; print(sys.executable)").stdout.strip()
    done = ran(sweep, "srun", "-n2", "bash", "-c", line.format(python=python, seed=1))
    assert 0 != done.returncode
    assert 2 == done.stderr.count("and each of them would sweep"), done.stderr
    assert not sweep.experiment.exists()
    done = ran(sweep, "salloc", "-n2", "bash", "-c", line.format(python=python, seed=1))
    assert 0 == done.returncode, done.stderr
    wrapped = ("--wrap", line.format(python=python, seed=2))
    slurm_id = ran(sweep, "sbatch", "--parsable", "-n2", "-o", "out.log", *wrapped).stdout.strip()
    assert [(slurm_id, "COMPLETED", "0:0")] == sacct_state(slurm_id), (sweep.home / "out.log").read_text()
    assert ["0.1.COMPLETED", "1.1.COMPLETED"] == sweep.states()


def test_rank_of_the_shell_that_submits(cluster_program: Program) -> None:
    """`sbatch` takes the environment along, but no job is rank 1 for that: its result is kept."""
    sweep = Sweep(cluster_program)
    sweep.write("seed=1")
    slurm_id = ran(sweep, "sbatch", "--parsable", str(sweep.experiment / "slurm_scripts.sh"), RANK="1").stdout.strip()
    assert [("COMPLETED", "0:0")] == [row[1:] for row in sacct_state(slurm_id)]
    assert [1] == [len(row["result"]) for row in sweep.told("results")]
