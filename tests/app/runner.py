"""A job written in Python, for the tests on SLURM: it notes what it hears and when, and ends as it is configured."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiment_manager import Experiment, current_job

HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Notes:
    """`heard.<attempt>.<rank>.txt` in the job's directory: a time and a word in each line, on disk at once."""

    def __init__(self) -> None:
        name = f"heard.{current_job().attempt}.{os.environ.get('SLURM_PROCID', '0')}.txt"
        self._handle = os.open(current_job().directory / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def add(self, word: str) -> None:
        os.write(self._handle, f"{time.time()} {word}\n".encode())


def run(_id: int, _variables: Mapping[str, Any], configuration: Mapping[str, Any]) -> Any:
    """The knobs: imports_s (with late: of that rank alone), listens (no, notes, should_stop; with only: of that rank
    alone), s and until (a file that ends the time), how (a value, null, or {exit: 3}), stopped (what to return when
    told to stop), mb (memory to use), rank (the only one for which mb and how count), others_s (for how long the others
    go on), show (variables of the environment to return)."""
    notes, job, rank = Notes(), current_job(), int(os.environ.get("SLURM_PROCID", "0"))
    notes.add("began")
    if configuration.get("late") in (None, rank):
        time.sleep(configuration.get("imports_s", 0))
    listens = configuration.get("listens", "no") if configuration.get("only") in (None, rank) else "no"
    if listens == "notes":
        for number in HEARD:
            signal.signal(number, lambda number, _: notes.add(signal.Signals(number).name))
    elif listens == "should_stop":
        job.should_stop()
    job.log_metrics(step=job.attempt, resumed=int(job.resumed))
    notes.add("ready")
    deadline = time.monotonic() + configuration.get("s", 0)
    while time.monotonic() < deadline and not os.path.exists(configuration.get("until", "")):
        if listens == "should_stop" and job.should_stop():
            notes.add("told")
            return configuration.get("stopped")
        time.sleep(0.01)
    notes.add("ends")
    if configuration.get("rank") not in (None, rank):
        time.sleep(configuration.get("others_s", 0))
        return None
    return end(configuration)


def end(configuration: Mapping[str, Any]) -> Any:
    how = configuration.get("how", "done")
    if "mb" in configuration:
        held = bytearray(b"x") * (configuration["mb"] * 1_000_000)
        time.sleep(len(held) * 0)
    if isinstance(how, Mapping):
        sys.exit(how["exit"])
    if "show" in configuration:
        return {name: os.environ.get(name) for name in configuration["show"]}
    return how


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--job-id", type=int)
    parser.add_argument("--experiment-path", type=Path)
    parser.add_argument("--experiment-name")
    options = parser.parse_args()
    Experiment.load(options.experiment_name, options.experiment_path).run_id(options.job_id, run)
