"""Notes that it runs, and that it returns, outside of everything that is made to fail; `NINE_FAILS`: fails for x=9, and
for x=8 dies with its supervisor, as where the kernel ends all of a task for memory; `SEVEN_WAITS`: for x=7
ends only when it is told to, where its task was not started again; for x=6 takes a second. Notes, too, where its job
runs in another process at that time."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import hydra
from omegaconf import DictConfig

from experiment_manager import current_job


def note(line: str) -> None:
    handle = os.open(os.environ["FAULTS_RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


def started(pid: int) -> str:
    """When a process began, which tells it from an earlier one of that number; empty where it lives no more."""
    with suppress(FileNotFoundError, ProcessLookupError):
        about = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if about[0] in "ZX" else about[19]
    return ""


def others(job_id: int | None) -> Iterator[int]:
    """The processes that have begun the job and live still."""
    for line in Path(os.environ["FAULTS_RUNS"]).read_text().splitlines():
        job, _, what = line.split()
        name, _, about = what.partition(":")
        number, _, began = about.partition(":")
        if (int(job), name) == (job_id, "process") and int(number) != os.getpid() and started(int(number)) == began:
            yield int(number)


@hydra.main(version_base=None, config_path="conf", config_name="app")
def main(cfg: DictConfig) -> dict[str, int]:
    job = current_job()
    note(f"{job.id} {job.attempt} {cfg.x}")
    note(f"{job.id} {job.attempt} process:{os.getpid()}:{started(os.getpid())}")
    for number in others(job.id):
        note(f"{job.id} {job.attempt} beside:{number}")
    if cfg.x == 9 and os.environ.get("NINE_FAILS"):
        raise ValueError("nine")
    if cfg.x == 8 and os.environ.get("NINE_FAILS"):
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()
    if cfg.x == 6:
        time.sleep(1)
    if cfg.x == 7 and os.environ.get("SEVEN_WAITS") and not os.environ.get("SLURM_RESTART_COUNT"):
        signal.pause()
    job.log_metrics(step=0, loss=cfg.x * 10)
    note(f"{job.id} {job.attempt} returns")
    return {"score": cfg.x * 10}


if __name__ == "__main__":
    main()
