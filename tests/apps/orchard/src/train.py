"""A program in the shape of a well-known template: many groups, whole experiments, paths from a project's root."""

import logging
import os
import random
import sys
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / ".project-root").exists())
os.environ["PROJECT_ROOT"] = str(ROOT)
sys.path.insert(0, str(ROOT))

from received import write_received  # noqa: E402

from src.tasks import extras, instantiated, metric_value, task_wrapper  # noqa: E402

log = logging.getLogger(__name__)


@task_wrapper
def train(cfg: DictConfig) -> tuple[dict[str, float], dict[str, Any]]:
    """Trains and tests; returns the metrics of both, and all objects."""
    if cfg.get("seed"):
        random.seed(cfg.seed)
    log.info("Instantiating datamodule <%s>", cfg.data._target_)
    datamodule = hydra.utils.instantiate(cfg.data)
    model = hydra.utils.instantiate(cfg.model)
    callbacks, loggers = instantiated(cfg.get("callbacks")), instantiated(cfg.get("logger"))
    trainer = hydra.utils.instantiate(cfg.trainer, callbacks=callbacks, logger=loggers)
    for each in loggers:
        each.log_hyperparams({"model": OmegaConf.to_container(cfg.model, resolve=True), "tags": list(cfg.tags)})
    if cfg.get("train"):
        log.info("Starting training!")
        trainer.fit(model=model, datamodule=datamodule, ckpt_path=cfg.get("ckpt_path"))
    trained = dict(trainer.callback_metrics)
    if cfg.get("test"):
        log.debug("Starting testing!")
        trainer.test(model=model, datamodule=datamodule, ckpt_path=trainer.best_model_path or None)
        log.info("Best ckpt path: %s", trainer.best_model_path)
    objects = {"datamodule": datamodule, "model": model, "trainer": trainer}
    return {**trained, **trainer.callback_metrics}, objects


@hydra.main(version_base="1.3", config_path="../configs", config_name="train.yaml")
def main(cfg: DictConfig) -> float | None:
    """Returns the metric that `optimized_metric` names, for a search over hyperparameters."""
    extras(cfg)
    metrics, _ = train(cfg)
    write_received(cfg, metrics=metrics, root=os.environ["PROJECT_ROOT"], drawn=random.random() if cfg.seed else None)
    return metric_value(metrics, cfg.get("optimized_metric"))


if __name__ == "__main__":
    main()
