"""The Hydra program that the tests sweep: quick, and able to end in every way that a job can end.

With LIGHT in its environment a job of it is told the same, does the same, and leaves the same result without Hydra, so
it costs a fifth, and leaves none of Hydra's files: for tests of what becomes of jobs, whatever they are.
"""

import atexit
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from experiment_manager import current_job

log = logging.getLogger(__name__)


def end_as_told(how: str) -> None:
    """Ends this process, or does nothing, as the configuration says."""
    if how == "raise":
        raise ValueError("told to raise")
    if how == "exit3":
        sys.exit(3)
    if how == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "segv-at-exit":
        atexit.register(os.kill, os.getpid(), signal.SIGSEGV)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "oom":
        fill_memory()
    if how == "oom-of-a-helper":
        subprocess.run([sys.executable, "-c", "import train; train.fill_memory()"], check=True)
    if how == "hang-at-first" and current_job().attempt == 1:
        time.sleep(600)
    if how == "unless-again" and current_job().attempt == 1:
        raise ValueError("works the second time")


def fill_memory() -> None:
    """Takes a gigabyte, and for a second keeps it."""
    hoard = b"x" * 2**30
    time.sleep(1)
    del hoard


def count(steps: int) -> int | None:
    """Counts from the last checkpoint on, ten steps a second; None when it was told to stop. At step 40 it rests
    as long as there is a file `hold.40` in the working directory."""
    job = current_job()
    checkpoint = job.directory / "checkpoint"
    done = int(checkpoint.read_text()) if job.resumed and checkpoint.exists() else 0
    while done < steps:
        if job.should_stop():
            return None
        time.sleep(0.1)
        if Path(f"hold.{done}").exists():
            continue
        done += 1
        checkpoint.write_text(str(done))
        job.log_metrics(step=done)
    return done


def as_it_is_typed(word: str) -> Any:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            pass
    return {"true": True, "false": False}.get(word, word.strip("'"))


def without_hydra(**_: Any) -> Callable[[Callable[[Any], Any]], Callable[[], None]]:
    """In the place of `hydra.main`: the configuration is what the command line says of it."""
    from experiment_manager.execution.in_process import attempting

    usual = {"seed": 1, "how": "well", "sleep": float(os.environ.get("HOLD", "0")), "steps": 0, "started": None}
    typed = {name: as_it_is_typed(value) for name, _, value in (word.partition("=") for word in sys.argv)}
    algorithm = SimpleNamespace(gain={"TD3": 1.5, "DDPG": 0.5}[typed.get("algorithm", "TD3")])
    cfg = SimpleNamespace(**{"stoppable": False, "deaf": False, **usual, **typed, "algorithm": algorithm})
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)

    def run(task: Callable[[Any], Any]) -> None:
        job = current_job()
        with attempting(job.experiment, job.required_id) as attempt:
            value = task(cfg)
            if value is not None:
                attempt.leave(value)

    return lambda task: lambda: run(task)


if "LIGHT" in os.environ and "EXPERIMENT_MANAGER_JOB" in os.environ:
    program: Callable[..., Callable[[Callable[[Any], Any]], Any]] = without_hydra
else:
    import hydra

    program = hydra.main


@program(version_base=None, config_path="conf", config_name="config")
def main(cfg: Any) -> Any:
    job = current_job()
    log.info("job %s attempt %s variables %s", job.id, job.attempt, dict(job.variables))
    job.log_metrics(step=1, loss=cfg.seed / 2)
    if cfg.deaf:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
    if cfg.stoppable:
        job.should_stop()  # before anybody is told that it may be stopped
    if cfg.started:
        Path(cfg.started, f"{job.id}.{os.getpid()}").touch()
    if cfg.steps:
        return count(cfg.steps)
    while (release := os.environ.get("RELEASE")) and not os.path.exists(release):
        time.sleep(0.02)
    deadline = time.monotonic() + cfg.sleep
    while time.monotonic() < deadline:
        if cfg.stoppable and job.should_stop():
            return {"stopped": True}
        time.sleep(0.02)
    end_as_told(cfg.how)
    return cfg.seed * cfg.algorithm.gain


if __name__ == "__main__":
    main()
