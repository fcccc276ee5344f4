"""The options of a sweep, `hydra.sweeper.*`, as the sweeper reads them. Pure; their defaults are in the schema."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiment_manager.errors import ExperimentManagerError, GridError
from experiment_manager.model import policy


class Options(NamedTuple):
    """`hydra.sweeper.*`, checked."""

    experiment_name: str
    experiment_path: str
    params: Mapping[str, Any]
    zip: Sequence[Sequence[str]]
    blocks: Sequence[Mapping[str, Any]]
    pass_filter: Any
    sample: int | None
    sample_seed: int
    rerun: str
    on_change: str
    on_drift: str
    repeat: int | None
    dry_run: bool

    def check(self) -> "Options":
        """The same options. Raises ExperimentManagerError naming the one that is wrong."""
        for name, value, allowed in (
            ("rerun", self.rerun, policy.RERUN),
            ("on_change", self.on_change, policy.ON_CHANGE),
            ("on_drift", self.on_drift, policy.ON_DRIFT),
        ):
            if value not in allowed:
                raise ExperimentManagerError(f"hydra.sweeper.{name}={value} is not known; use {', '.join(allowed)}")
        if not isinstance(self.dry_run, bool):
            raise ExperimentManagerError(f"hydra.sweeper.dry_run={self.dry_run} is neither true nor false")
        if self.sample is not None and self.sample < 1:
            raise ExperimentManagerError(f"hydra.sweeper.sample={self.sample} selects nothing; use 1 or more, or null")
        if self.repeat is not None and (isinstance(self.repeat, bool) or self.repeat < 1):
            raise ExperimentManagerError(f"hydra.sweeper.repeat={self.repeat} runs nothing; use 1 or more, or null")
        for group in self.zip:
            if isinstance(group, str) or not isinstance(group, Sequence):
                raise GridError(f"hydra.sweeper.zip has {group!r}; it is a list of groups: [[lr, batch_size]]")
        for block in self.blocks:
            if not isinstance(block, Mapping) or not set(block) <= {"params", "zip"}:
                raise GridError(
                    f"hydra.sweeper.blocks has {block!r}; a block is a mapping with the keys params and zip"
                )
        return self
