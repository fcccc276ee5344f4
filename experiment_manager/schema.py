"""The options that Hydra shows and checks: `hydra.sweeper.*` and `hydra.launcher.*`, registered when this is
imported. Every Hydra program on the machine imports this, so it imports nothing that Hydra has not imported itself."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

_PLUGINS = "hydra_plugins.hydra_experiment_manager"


@dataclass
class SweeperConf:
    """hydra/sweeper=experiment"""

    _target_: str = f"{_PLUGINS}.sweeper.ExperimentSweeper"
    _recursive_: bool = False  # a filter's own _target_ is ours to call
    experiment_name: str = "${hydra.job.name}"
    experiment_path: str = "experiments"
    params: dict[str, Any] | None = field(default_factory=dict)  # the sweep, as in Hydra's basic sweeper
    zip: list[Any] = field(default_factory=list)  # groups of keys that vary together
    blocks: list[Any] = field(default_factory=list)  # several grids: {params, zip}
    pass_filter: Any = None
    sample: int | None = None  # a random subset of those that pass
    sample_seed: int = 0
    rerun: str = "failed"  # of the jobs that have ended: failed, never, always
    on_change: str = "error"  # a job is there with another configuration: error, new
    on_drift: str = "error"  # a job composes something else than was submitted: error, warn
    max_batch_size: int | None = None


@dataclass
class LocalPoolConf:
    """hydra/launcher=local_pool"""

    _target_: str = f"{_PLUGINS}.launchers.LocalPoolLauncher"
    n_jobs: int = -1  # how many at a time; -1, as in joblib: one per processor that this process may use
    experiment_name: str = "${hydra.job.name}"  # with other sweepers than ours, which name no experiment
    experiment_path: str = "experiments"


_store = ConfigStore.instance()
_store.store(group="hydra/sweeper", name="experiment", node=SweeperConf, provider="experiment_manager")
_store.store(group="hydra/launcher", name="local_pool", node=LocalPoolConf, provider="experiment_manager")
