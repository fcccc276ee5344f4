"""Hydra's own test suites for launchers, over `slurm_submitit` that waits; with Hydra's sweeper and with ours."""

import pytest
from hydra.test_utils.launcher_common_tests import BatchedSweeperTestSuite, IntegrationTestSuite, LauncherTestSuite

from tests.test_hydra_suites import OURS, QUIET, in_a_folder_of_its_own

pytestmark = pytest.mark.heavy  # minutes: run by `make test-cluster`
__all__ = ["in_a_folder_of_its_own"]  # a fixture of every test here

WAITING = ["hydra.launcher.wait=true"]
SUBMIT = "hydra/launcher=slurm_submitit"


@pytest.mark.parametrize(("launcher_name", "overrides"), [("slurm_submitit", WAITING)])
class TestSlurmSubmitit(LauncherTestSuite):
    """What any launcher has to do for Hydra's sweeper, and gives back to it."""


@pytest.mark.parametrize(
    ("launcher_name", "overrides"), [("slurm_submitit", [*WAITING, "hydra.sweeper.max_batch_size=2"])]
)
class TestBatches(BatchedSweeperTestSuite):
    """One launch for each batch; jobs are numbered through."""


@pytest.mark.parametrize(("task_launcher_cfg", "extra_flags"), [({}, [*QUIET, SUBMIT, *WAITING])])
class TestProgram(IntegrationTestSuite):
    """Programs in files: names of jobs, directories, paths."""


@pytest.mark.parametrize(("launcher_name", "overrides"), [("slurm_submitit", [OURS, *WAITING])])
class TestOurSweeper(LauncherTestSuite):
    """The same over `hydra/sweeper=experiment`."""
