"""Hydra's own test suites for launchers and sweepers, over ours. What cannot apply to us stands in NOT_APPLICABLE."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from hydra.core.plugins import Plugins
from hydra.test_utils.launcher_common_tests import BatchedSweeperTestSuite, IntegrationTestSuite, LauncherTestSuite

from tests.conftest import clean_env

Plugins.instance()  # or the suites' fixture puts back a state in which Hydra 1.4 does not know its own sweeper any more

OURS: Final = "hydra/sweeper=experiment"
QUIET: Final = ["-m", "hydra/hydra_logging=disabled", "hydra/job_logging=disabled"]

FOLDER: Final = "our sweeper puts its jobs and multirun.yaml into the experiment's folder, whatever hydra.sweep says"
TOLD: Final = "a failed job is told by the text that it left: other processes need not be able to load its exception"
STATUS: Final = "our sweeper ends the program with an exit status when a job has failed, and raises no exception of it"

NOT_APPLICABLE: Final = {
    "TestLocalPool": {"test_failure_preserves_task_traceback": TOLD},
    "TestSlurmSubmitit": {"test_failure_preserves_task_traceback": TOLD},
    "TestOurSweeper": {
        "test_sweep_2_jobs": FOLDER,
        "test_failure_preserves_task_traceback": STATUS,
    },
    "TestBatchesOfOurSweeper": {"test_sweep_2_jobs_2_batches": FOLDER},
    "TestProgramOfOurSweeper": {"test_custom_sweeper_run_workdir": FOLDER, "test_to_absolute_path_multirun": FOLDER},
}
"""By class: the tests of a suite that ask for what we do otherwise on purpose, and why."""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Experiments are made below the working directory; what cannot apply has to fail."""
    monkeypatch.chdir(tmp_path)
    reason = NOT_APPLICABLE.get(type(request.instance).__name__, {}).get(request.function.__name__)
    if reason is not None:
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))


@pytest.mark.parametrize(("launcher_name", "overrides"), [("local_pool", [])])
class TestLocalPool(LauncherTestSuite):
    """What any launcher has to do for Hydra's sweeper, and gives back to it."""


@pytest.mark.parametrize(("launcher_name", "overrides"), [("local_pool", ["hydra.sweeper.max_batch_size=2"])])
class TestBatches(BatchedSweeperTestSuite):
    """One launch for each batch; jobs are numbered through."""


@pytest.mark.heavy
@pytest.mark.parametrize(("task_launcher_cfg", "extra_flags"), [({}, [*QUIET, "hydra/launcher=local_pool"])])
class TestProgram(IntegrationTestSuite):
    """Programs in files: names of jobs, directories, paths."""


@pytest.mark.heavy
@pytest.mark.parametrize(("launcher_name", "overrides"), [("basic", [OURS]), ("local_pool", [OURS])])
class TestOurSweeper(LauncherTestSuite):
    """The same over `hydra/sweeper=experiment`, with Hydra's launcher and with ours."""


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("launcher_name", "overrides"),
    [(launcher, [OURS, "hydra.sweeper.max_batch_size=2"]) for launcher in ("basic", "local_pool")],
)
class TestBatchesOfOurSweeper(BatchedSweeperTestSuite):
    """Batches of our sweeper."""


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("task_launcher_cfg", "extra_flags"),
    [({}, [*QUIET, OURS, f"hydra/launcher={launcher}"]) for launcher in ("basic", "local_pool")],
)
class TestProgramOfOurSweeper(IntegrationTestSuite):
    """Programs in files that our sweeper sweeps."""


PUT_BACK = """
from copy import deepcopy
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton

before = deepcopy(Singleton.get_state())
Plugins.instance()
Singleton.set_state(before)
known = ConfigStore.instance().repo["hydra"]
if "basic.yaml" in known.get("sweeper", {}):  # else Hydra, as 1.4 does, forgets its own options, too
    assert {"local_pool.yaml", "slurm_script.yaml", "slurm_submitit.yaml"} <= known["launcher"].keys()
    assert "experiment.yaml" in known["sweeper"]
"""


def test_options_are_known_after_the_state_was_put_back(tmp_path: Path) -> None:
    """A test that takes Hydra's fixture for its state leaves our options known to the next one."""
    command = [sys.executable, "-c", PUT_BACK]
    done = subprocess.run(command, cwd=tmp_path, env=clean_env(), capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
