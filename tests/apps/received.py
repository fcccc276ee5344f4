"""All that a job receives from Hydra, written down by the job itself: `received.json` in its output directory."""

import json
import logging
import os
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_original_cwd, to_absolute_path
from omegaconf import Container, DictConfig, OmegaConf


def write_received(cfg: DictConfig, **more: Any) -> None:
    """Everything that a task function can see is in the file."""
    hydra_config: Any = HydraConfig.get()
    handlers = logging.getLogger().handlers
    received = {
        "raw": plain(cfg, resolve=False),
        "resolved": plain(cfg, resolve=True),
        "types": {str(key): type_of(cfg, key) for key in cfg},
        "flags": {"struct": OmegaConf.is_struct(cfg), "readonly": OmegaConf.is_readonly(cfg)},
        "hydra_raw": plain(hydra_config, resolve=False),
        "hydra_resolved": plain(hydra_config, resolve=True),
        "places": {
            "cwd": os.getcwd(),
            "original": get_original_cwd(),
            "absolute": to_absolute_path("data"),
            "output": hydra_config.runtime.output_dir,
        },
        "logging": {type(each).__name__: each.formatter and each.formatter._fmt for each in handlers},
        **more,
    }
    path = Path(hydra_config.runtime.output_dir) / "received.json"
    path.write_text(json.dumps(received, default=str, indent=1))


def plain(config: Any, *, resolve: bool) -> Any:
    return OmegaConf.to_container(config, resolve=resolve) if isinstance(config, Container) else config


def type_of(config: DictConfig, key: Any) -> str:
    """The type of a node: that of its schema where it has one."""
    return getattr(OmegaConf.get_type(config, key), "__name__", "None")
