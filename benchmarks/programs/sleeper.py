"""A Hydra program whose jobs take 50 ms."""

import time

import hydra
from omegaconf import DictConfig


@hydra.main(version_base=None, config_path=None)
def main(config: DictConfig) -> float:  # noqa: ARG001 - Hydra calls it with one
    time.sleep(0.05)
    return 0.05


main()
