"""A program of YAML files: defaults, packages, a schema, a logging of its own, environment, callbacks, resolvers."""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import MISSING, DictConfig, OmegaConf
from received import plain, write_received

log = logging.getLogger(__name__)
OmegaConf.register_new_resolver("twice", lambda number: 2 * number, replace=True)  # callbacks import this file again


@dataclass
class Database:
    driver: str = MISSING
    port: int = 1000
    hosts: list[str] = field(default_factory=lambda: ["localhost"])


@dataclass
class Connection:
    driver: str
    port: int


class Recorder(Callback):
    """Writes down which of its methods are called with what, below the directory that Hydra was started in."""

    def __init__(self, folder: str) -> None:
        self._file = Path(folder) / "calls.txt"

    def _add(self, *words: Any) -> None:
        with self._file.open("a") as file:
            print(*words, file=file)

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        self._add("run-start")

    def on_run_end(self, config: DictConfig, **_: Any) -> None:
        self._add("run-end")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        self._add("multirun-start", config.seed)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        self._add("multirun-end", config.seed)

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        self._add("job-start", config.seed, config.hydra.job.num, config.hydra.mode)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        assert job_return.cfg is not None
        assert job_return.hydra_cfg is not None
        assert job_return.working_dir is not None
        same = plain(job_return.cfg, resolve=False) == {
            key: value for key, value in plain(config, resolve=False).items() if key != "hydra"
        }
        is_output = Path(job_return.working_dir).name == Path(config.hydra.runtime.output_dir).name
        words = (job_return.status.name, job_return.return_value, job_return.overrides, job_return.task_name)
        self._add("job-end", config.seed, same, is_output, job_return.hydra_cfg.hydra.job.num, *words)


ConfigStore.instance().store(group="db", name="schema", node=Database)


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg: DictConfig) -> Any:
    log.info("selling with seed %s", cfg.seed)
    logging.getLogger("quiet").info("is not heard")
    connection = hydra.utils.instantiate(cfg.connection)
    Path("left").write_text("behind")  # in the working directory
    names = ("SHOP_FOR", "SHOP_PLAIN")
    write_received(cfg, connection=repr(connection), env={name: os.environ.get(name) for name in names})
    return {"total": cfg.total}


if __name__ == "__main__":
    main()
