"""Jobs of `tests/app/runner.py` on the cluster: made, submitted, signalled, and asked for what they have heard."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiment_manager.experiment import Experiment
from experiment_manager.scheduler.slurm.configuration import SLURM
from tests.cluster.sweeps import slurm
from tests.conftest import APP, wait_until


class Jobs:
    """An experiment with one job for each configuration, handed to SLURM at once; its array is `slurm_id`."""

    def __init__(
        self, home: Path, configurations: Sequence[Mapping[str, Any]], *, name: str = "e", **slurm: Any
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(APP / "runner.py", home)
        self.experiment = Experiment(["n"], name, home)
        for number, configuration in enumerate(configurations):
            self.experiment.add_job({"n": number}, dict(configuration))
        self.experiment.save()
        self.experiment.save_pass_filter(self.experiment.get_all_ids())
        self.experiment.set_slurm_config(SLURM(python_runner=str(home / "runner.py"), **slurm))
        self.experiment.save()
        self.path = Path(self.experiment.folder.path)
        self.slurm_ids: list[str] = []

    def submit(self) -> "Jobs":
        self.experiment.generate_slurm_script()
        self.slurm_ids = [array.slurm_id for array in self.experiment.submit()]
        return self

    @property
    def slurm_id(self) -> str:
        (only,) = self.slurm_ids
        return only

    def task(self, job: int) -> str:
        return f"{self.slurm_id}_{job}"

    def heard(self, job: int, attempt: int = 1, rank: int = 0) -> list[tuple[float, str]]:
        """What a job has noted so far: times and words."""
        try:
            lines = (self.path / f"jobs/{job}/heard.{attempt}.{rank}.txt").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [(float(line.split()[0]), line.split()[1]) for line in lines]

    def words(self, job: int, attempt: int = 1, rank: int = 0) -> list[str]:
        return [word for _, word in self.heard(job, attempt, rank)]

    def await_word(self, word: str, job: int = 0, attempt: int = 1, rank: int = 0, seconds: float = 30) -> float:
        """When a job noted that word first."""
        found = wait_until(lambda: [at for at, said in self.heard(job, attempt, rank) if said == word], seconds)
        return float(found[0])

    def states(self) -> list[str]:
        """`0.1.COMPLETED` for every attempt that has a state."""
        names = os.listdir(self.path / "states") if (self.path / "states").exists() else []
        return sorted(name for name in names if name.count(".") == 2)

    def await_ends(self, seconds: float = 60, *, is_asked: bool = False) -> list[str]:
        """The states when no attempt runs any more and no task of ours runs.

        With `is_asked` SLURM is asked about what is RUNNING, as every reader does: it may have killed a supervisor
        before that could record an end.
        """

        def has_ended() -> bool:
            if is_asked:
                self.experiment.jobs()
            return not (_queued(self.slurm_ids) or any("RUNNING" in name for name in self.states()))

        try:
            wait_until(has_ended, seconds)
        except AssertionError as error:
            queue = slurm("squeue", "-h", "-t", "all", "-o", "%A %F_%K %T %r %N")
            raise AssertionError(f"{error}: {self.states()} of {self.slurm_ids}, in the queue:\n{queue}") from error
        return self.states()

    def record(self, job: int, attempt: int = 1) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / f"jobs/{job}/attempt.{attempt}.json").read_text())
        return found

    def result(self, job: int, attempt: int = 1) -> Any:
        return json.loads((self.path / f"jobs/{job}/result.{attempt}.json").read_text())["result"]


def _queued(ids: Sequence[str]) -> bool:
    """Whether SLURM has any of these; what is COMPLETING has ended, and its node may take minutes to say so."""
    rows = [line.split("|") for line in slurm("squeue", "-h", "-o", "%F|%T").splitlines()]
    return any(slurm_id in ids and word != "COMPLETING" for slurm_id, word in rows)
