"""The large program of `tests/apps` through every launcher and three sweepers: what a job receives and leaves is what
Hydra's own launcher gives it, but for what stands in DIFFERENCES."""

from pathlib import Path

import pytest

from tests.cluster.sweeps import slurm
from tests.test_apps import COMBINED, ORCHARD, Swept, left_in, sweep, unexpected

pytestmark = pytest.mark.heavy  # minutes: run by `make test-cluster`

WAITING = "slurm_submitit hydra.launcher.wait=true"
SEARCH = ("src/train.py", "hparams_search=optuna", "experiment=curved", "seed=7")
"""A search by Optuna that the program's own YAML describes, which makes it a multirun without `-m`."""


@pytest.fixture(scope="module")
def hydras(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """The values that Hydra's own sweeper and launcher give the jobs."""
    return sweep(tmp_path_factory.mktemp("hydra") / "home", "orchard", ORCHARD, "basic", "basic")


@pytest.mark.parametrize(
    ("sweeper", "launcher"),
    [
        *COMBINED[:-1],
        ("basic", WAITING),
        ("experiment", WAITING),
        ("basic", "local_pool hydra.launcher.start_method=forkserver"),
        ("experiment", "local_pool hydra.launcher.start_method=forkserver"),
        ("experiment", "joblib hydra.launcher.n_jobs=1"),
        ("experiment", "submitit_local"),
        ("experiment", "submitit_slurm"),
    ],
)
def test_jobs_receive_what_hydra_gives_them(sweeper: str, launcher: str, hydras: Swept, tmp_path: Path) -> None:
    """Configurations, directories, logs and files are the same, whoever sweeps and whatever starts the jobs."""
    found = sweep(tmp_path / "home", "orchard", ORCHARD, sweeper, launcher)
    assert {} == unexpected(hydras, found, sweeper, launcher.split()[0])


def test_jobs_of_a_written_script(hydras: Swept, tmp_path: Path) -> None:
    """The same where the sweep only writes a script, and somebody types `sbatch`."""
    home = tmp_path / "home"
    assert [] == sweep(home, "orchard", ORCHARD, "experiment", "slurm_script").jobs
    (script,) = home.glob("experiments/*/slurm_scripts.sh")
    slurm("sbatch", "--wait", str(script))
    assert {} == unexpected(hydras, left_in(home), "experiment", "slurm_script")


def test_search_by_optuna(tmp_path: Path) -> None:
    """Optuna proposes and finds the same, and its jobs receive the same, over our launchers as over Hydra's."""
    expected = sweep(tmp_path / "hydra", "orchard", SEARCH, None, "basic")
    assert 2 == len(expected.jobs)
    (best,) = (tmp_path / "hydra").rglob("optimization_results.yaml")
    for launcher in ("local_pool", WAITING):
        home = tmp_path / launcher.split()[0]
        assert {} == unexpected(expected, sweep(home, "orchard", SEARCH, None, launcher), launcher.split()[0])
        (found,) = home.rglob("optimization_results.yaml")
        assert best.read_text() == found.read_text()
