"""Experiments on the cluster, for the tests of their states: submitted, watched, and disturbed."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tests.conftest import Program, clean_env, wait_until

ACTIVE = {"PENDING", "QUEUED", "RUNNING"}


class Sweep(Program):
    """One experiment of the program; several of them may share a home."""

    def __init__(self, program: Program, name: str = "train") -> None:
        super().__init__(program.home)
        self.experiment = program.home / "experiments" / name
        self.slurm_id = ""

    def write(self, *settings: str, launcher: str = "slurm_script") -> "subprocess.CompletedProcess[str]":
        """Types the sweep, which writes the script or submits it."""
        name = f"hydra.sweeper.experiment_name={self.experiment.name}"
        done = self.sweep(*settings, name, f"hydra/launcher={launcher}")
        assert 0 == done.returncode, done.stderr
        return done

    def submit(self) -> str:
        """SLURM has the newest script by our own verb; returns its id."""
        (array,) = self.told("submit")
        self.slurm_id = array["slurm_id"]
        return self.slurm_id

    def sbatch(self, *options: str) -> str:
        """SLURM has the script at the top of the experiment by hand; returns its id."""
        self.slurm_id = slurm("sbatch", "--parsable", *options, str(self.experiment / "slurm_scripts.sh"))
        return self.slurm_id

    def task(self, index: int) -> str:
        return f"{self.slurm_id}_{index}"

    def status(self, **env: str) -> dict[int, str]:
        """The state of every job, as `status` tells it now."""
        return self.looked(**env)[0]

    def looked(self, **env: str) -> tuple[dict[int, str], dict[int, str], str]:
        """The states and the reasons that `status` tells, by job, and what it says on standard error."""
        done = self.tool("status", "--json", **env)
        assert 0 == done.returncode, done.stderr
        told = json.loads(done.stdout)
        reasons = {job: trouble["reason"] for trouble in told["troubles"] for job in trouble["jobs"]}
        reasons |= {job: reason for reason, jobs in told["waiting"].items() for job in jobs}
        return {job: state for state, jobs in told["jobs"].items() for job in jobs}, reasons, done.stderr

    def until(self, wanted: dict[int, str], through: Collection[str] | None = None, seconds: float = 40.0) -> None:
        """`status` says these states of these jobs within that time, and until then nothing but those of `through`."""
        last: list[Any] = [None]

        def is_so() -> bool:
            last[0] = self.looked()
            told = {job: last[0][0].get(job) for job in wanted}
            lies = {job: state for job, state in told.items() if state not in (wanted[job], *(through or ()))}
            assert through is None or not lies, f"wanted {wanted} through {through}, status says {last[0]}"
            if told != wanted:
                time.sleep(0.3)
            return told == wanted

        try:
            wait_until(is_so, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: wanted {wanted}, status says {last[0]}, {self.states()}") from None

    def until_begun(self, *jobs: int, attempt: int = 1, seconds: float = 40.0) -> None:
        """The program itself runs, as told by its first metrics."""
        for job in jobs:
            path = self.experiment / f"jobs/{job}/metrics.{attempt}.jsonl"
            wait_until(path.exists, seconds)

    def typed_again(self, *settings: str, launcher: str = "slurm_script") -> str:
        """Types the sweep once more; returns which jobs it launches, as `0-3`, empty for none."""
        before = set(self.launches())
        self.write(*settings, launcher=launcher)
        new = sorted(set(self.launches()) - before)
        return ",".join(jobs for number in new for jobs in self.launch(number)["jobs"].values())

    def launches(self) -> list[str]:
        return sorted(os.listdir(self.experiment / "launches"))

    def launch(self, number: str) -> Any:
        return _json(self.experiment / f"launches/{number}/launch.json")

    def anchor(self, job: int, attempt: int = 1) -> Any:
        return _json(self.experiment / f"states/{job}.{attempt}")

    def record(self, job: int, attempt: int = 1) -> Any:
        return _json(self.experiment / f"jobs/{job}/attempt.{attempt}.json")

    def steps(self, job: int, attempt: int) -> list[int]:
        """The steps that a counting job made in one attempt."""
        lines = (self.experiment / f"jobs/{job}/metrics.{attempt}.jsonl").read_text().splitlines()
        return [json.loads(line)["step"] for line in lines][1:]


def slurm(*command: str) -> str:
    """What one of SLURM's commands says, which has to succeed."""
    done = subprocess.run(command, env=clean_env(), capture_output=True, text=True, check=False)
    assert 0 == done.returncode, f"{command}: {done.stderr}"
    return done.stdout.strip()


def queue(*ids: str) -> list[str]:
    """The states of tasks that SLURM still has, sorted."""
    rows = [line.split() for line in slurm("squeue", "-h", "-r", "-o", "%F %T").splitlines()]
    return sorted(state for slurm_id, state in rows if slurm_id in ids)


def start_again(task: str) -> None:
    """SLURM does not wait the usual time before it starts a requeued task again."""

    def is_asked() -> bool:
        state = slurm("squeue", "-h", "-j", task, "-o", "%T")
        if state == "PENDING":
            slurm("scontrol", "update", f"jobid={task}", "starttime=now")
        return state in ("PENDING", "RUNNING", "")

    wait_until(is_asked)


def counting_path(folder: Path) -> tuple[str, Path]:
    """A PATH on which squeue, sacct and scontrol write a line into a file at each call, and are real."""
    folder.mkdir()
    calls = folder / "calls"
    calls.touch()
    for command in ("squeue", "sacct", "scontrol"):
        real = shutil.which(command)
        (folder / command).write_text(f'#!/bin/sh\necho {command} >> {calls}\nexec {real} "$@"\n')
        (folder / command).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}", calls


def _json(path: Path) -> Any:
    return json.loads(path.read_text())
