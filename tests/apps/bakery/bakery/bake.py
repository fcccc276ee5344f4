"""A module of a package whose whole configuration is code: structured configs, groups in the store, no YAML at all."""

import logging
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig
from received import write_received

log = logging.getLogger(__name__)


class Size(Enum):
    SMALL = 1
    LARGE = 2


@dataclass
class Oven:
    degrees: float = 180.0
    _target_: str = "bakery.bake.Heat"


@dataclass
class GasOven(Oven):
    degrees: float = 220.0
    flame: bool = True
    _target_: str = "bakery.bake.Heat"


@dataclass
class Heat:
    degrees: float
    flame: bool = False


@dataclass
class Dough:
    flour_g: int = 500
    name: str = "${size}-dough"


@dataclass
class Bread:
    defaults: list[Any] = field(default_factory=lambda: ["_self_", {"oven": "gas"}])
    oven: Oven = MISSING
    size: Size = Size.SMALL
    doughs: dict[str, Dough] = field(default_factory=lambda: {"rye": Dough(flour_g=400)})
    recipe: Path = Path("recipes/rye.txt")
    salt: float | None = None
    label: str = "${hydra:job.name}/${hydra:job.num}"


store = ConfigStore.instance()
store.store(name="bread", node=Bread)
store.store(group="oven", name="gas", node=GasOven)
store.store(group="oven", name="wood", node=Oven(degrees=300))


@hydra.main(version_base=None, config_path=None, config_name="bread")
def main(cfg: DictConfig) -> Any:
    log.info("baking %s", cfg.size)
    values = {name: repr(cfg[name]) for name in ("size", "recipe", "salt")}
    write_received(cfg, heat=repr(hydra.utils.instantiate(cfg.oven)), values=values)
    return cfg.oven.degrees


if __name__ == "__main__":
    main()
