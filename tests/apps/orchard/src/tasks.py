"""What stands around a training: the wrapper of the task, what is done before it, and which number it gives back."""

import functools
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

log = logging.getLogger(__name__)
Task = Callable[[DictConfig], tuple[dict[str, float], dict[str, Any]]]


def task_wrapper(task: Task) -> Task:
    """The log says where the output lies, also of a task that fails."""

    @functools.wraps(task)
    def wrap(cfg: DictConfig) -> tuple[dict[str, float], dict[str, Any]]:
        try:
            return task(cfg)
        except Exception:
            log.exception("the task failed")
            raise
        finally:
            log.info("Output dir: %s", cfg.paths.output_dir)

    return wrap


def extras(cfg: DictConfig) -> None:
    """What `cfg.extras` asks for is done; the configuration may be changed by it."""
    if cfg.extras.ignore_warnings:
        warnings.filterwarnings("ignore")
    output = Path(cfg.paths.output_dir)
    if cfg.extras.enforce_tags:
        if not cfg.tags:
            if not OmegaConf.is_missing(HydraConfig.get().job, "id"):
                raise ValueError("Specify tags before launching a multirun!")
            with open_dict(cfg):
                cfg.tags = ["untagged"]
        (output / "tags.log").write_text(str(list(cfg.tags)))
    if cfg.extras.print_config:
        order = ["data", "model", "callbacks", "logger", "trainer", "paths", "extras"]
        fields = [key for key in order if key in cfg] + sorted(str(key) for key in cfg if key not in order)
        tree = OmegaConf.to_yaml(OmegaConf.masked_copy(cfg, fields), resolve=True)
        (output / "config_tree.log").write_text(tree)


def instantiated(configs: DictConfig | None) -> list[Any]:
    """The objects of a group of callbacks or loggers."""
    targets = [each for each in (configs or {}).values() if isinstance(each, DictConfig) and "_target_" in each]
    return [hydra.utils.instantiate(each) for each in targets]


def metric_value(metrics: dict[str, float], name: str | None) -> float | None:
    """The number by which a search compares. Raises KeyError for a metric that was never logged."""
    if not name:
        return None
    if name not in metrics:
        raise KeyError(f"no metric {name}; logged were {sorted(metrics)}")
    return metrics[name]
