"""The original library as far as its document describes it, written anew for this comparison: all jobs of an experiment
are one JSON file, and every task reads the whole of it."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Job = dict[str, Any]


class Experiment:
    """A list of jobs; the place of a job is its id."""

    def __init__(self, variables: Sequence[str], experiment_name: str, abs_folder_path: str) -> None:
        self.variables, self.name, self.path = list(variables), experiment_name, abs_folder_path
        self.jobs: list[Job] = []

    @property
    def folder(self) -> Path:
        return Path(self.path, self.name)

    def add_job(self, variables: Job, configuration: Job) -> None:
        self.jobs.append({"variables": variables, "run_config": configuration})

    def save(self) -> None:
        os.makedirs(self.folder, exist_ok=True)
        (self.folder / "config.json").write_text(json.dumps({"variables": self.variables, "jobs": self.jobs}))

    @classmethod
    def load(cls, experiment_name: str, experiment_path: str) -> "Experiment":
        content = json.loads(Path(experiment_path, experiment_name, "config.json").read_text())
        experiment = cls(content["variables"], experiment_name, experiment_path)
        experiment.jobs = content["jobs"]
        return experiment

    def get_ids(self, pass_filter: Callable[[Job], bool]) -> list[int]:
        return [number for number, job in enumerate(self.jobs) if pass_filter(job["variables"])]

    def save_pass_filter(self, ids: Sequence[int]) -> None:
        (self.folder / "pass_filter.json").write_text(json.dumps(ids))

    def run_id(self, job_id: int, runner: Callable[[int, Job, Job], Any]) -> None:
        if job_id not in json.loads((self.folder / "pass_filter.json").read_text()):
            raise ValueError(f"job {job_id} may not run")
        job = self.jobs[job_id]
        runner(job_id, job["variables"], job["run_config"])
