"""`hydra/launcher=nothing`: jobs are taken and not run, so that a sweep costs what its sweeper does."""

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher


class NothingLauncher(Launcher):
    """Has nothing to set up, and returns nothing."""

    def setup(self, **_: Any) -> None:
        """Hydra's three arguments are of no use here."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        return []


ConfigStore.instance().store(
    group="hydra/launcher", name="nothing", node={"_target_": "hydra_plugins.launch_nothing.NothingLauncher"}
)
