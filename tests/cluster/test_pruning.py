"""Pruned jobs on SLURM: in the hands of workers, and with several ranks."""

import json
from pathlib import Path

import pytest

from tests.cluster.sweeps import Sweep, slurm
from tests.conftest import Program
from tests.test_pruned_jobs import PRUNED, with_curves


@pytest.mark.heavy
@pytest.mark.parametrize(
    "options", [("workers=1",), ("tasks_per_node=2", "array_parallelism=1")], ids=lambda found: found[0]
)
def test_jobs_that_are_pruned(options: tuple[str, ...], program: Program) -> None:
    """They are PRUNED by what rank 0 was told; their tasks, and the sweep that waits for them, end well."""
    sweep = Sweep(Program(with_curves(program.home)))
    launcher = ("hydra/launcher=slurm_submitit", "hydra.launcher.wait=true", "hydra.launcher.timeout_min=2")
    done = sweep.sweep(*PRUNED, *launcher, *(f"hydra.launcher.{option}" for option in options), "lr=1,2,0.5,3")
    assert 0 == done.returncode, done.stderr
    assert ["0.1.COMPLETED", "1.1.PRUNED", "2.1.COMPLETED", "3.1.PRUNED"] == sweep.states()
    assert {"step 1": [1, 3]} == sweep.told("status")["pruned"]
    submission = json.loads(Path(sweep.experiment, "launches/0001/submission.json").read_text())
    (about,) = submission["arrays"].values()
    words = slurm("sacct", "-X", "-n", "-P", "-o", "State", "-j", about["slurm_id"]).split()
    assert {"COMPLETED"} == set(words)
