"""Makes small experiments as the installed version writes them, with its answers, for later versions to read.

    python -m tests.formats.make 0.1

makes, as root, `0.1/` beside this file: an archive for each experiment, and `answers.json`, what each verb said of it.
Needs the cluster of tests/cluster. The archives keep what git would lose: hard links, empty folders, times of files.
"""

import contextlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiment_manager import Experiment
from experiment_manager.cli import main as command_line
from tests.conftest import APP, Program, in_shape, unpack, wait_until

HERE = Path(__file__).parent
PLACE = Path("/home/alice/study")
"""Where they are made: absolute paths in them lead there, and nobody who reads them has it."""

PROGRAM = """
from experiment_manager import Experiment, current_job

experiment = Experiment(["algorithm", "layers"], "python", "experiments")

if __name__ == "__main__":
    for algorithm in ("TD3", "DDPG"):
        for layers in ((64, 64), (256,)):
            experiment.add_job({"algorithm": algorithm, "layers": layers}, {"lr": 0.1, "layers": layers})
    experiment.save()
    experiment.save_pass_filter(experiment.get_ids({"algorithm": "TD3"}))

    def run(job_id, variables, configuration):
        current_job().log_metrics(step=1, loss=0.5)
        if variables["layers"] == (256,):
            raise ValueError("told to raise")
        return {"score": 1.5, "layers": variables["layers"]}

    for job_id in experiment.get_filtered_ids():
        try:
            experiment.run_id(job_id, run)
        except ValueError:
            pass
"""


def local(program: Program) -> str:
    """Jobs here, of which some have failed, one runs again, and some are outside of the filter."""
    program.sweep("algorithm=TD3,DDPG", "seed=1,2", "how=well,unless-again", "hydra.sweeper.pass_filter='seed == 1'")
    program.sweep("algorithm=TD3", "seed=1", "how=raise,exit3,unless-again")
    return "train"


def other_sweeper(program: Program) -> str:
    """Proposals of Hydra's basic sweeper, which write into its own folder."""
    program.sweep("hydra/sweeper=basic", "seed=1,2", "hydra.launcher.experiment_name=basic")
    return "basic"


def other_launcher(program: Program) -> str:
    """Our sweeper over joblib."""
    program.sweep(
        "hydra/launcher=joblib", "hydra.launcher.n_jobs=1", "seed=1,2", "hydra.sweeper.experiment_name=joblib"
    )
    return "joblib"


def python(program: Program) -> str:
    """Jobs that were defined and run in Python."""
    (program.home / "define.py").write_text(PROGRAM)
    program.run(script="define.py")
    return "python"


def snapshot(program: Program) -> str:
    """Jobs that ran from a copy of the code."""
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "all"]):
        subprocess.run(["git", *words], cwd=program.home, check=True)
    program.sweep("seed=1,2", "hydra.launcher.snapshot=true", "hydra.sweeper.experiment_name=snapshot")
    return "snapshot"


def slurm(program: Program) -> str:
    """Arrays of SLURM: packed and plain tasks, one of which was put back into the queue."""
    name = ("hydra/launcher=slurm_submitit", "hydra.sweeper.experiment_name=slurm", "hydra.launcher.timeout_min=5")
    program.experiment = program.home / "experiments/slurm"
    program.sweep("seed=1,2,3", "how=well,raise", "hydra.launcher.pack=2", "hydra.launcher.wait=true", *name)
    program.sweep("how=hang-at-first", "hydra.launcher.array_parallelism=1", *name)
    (job,) = [row for row in program.told("jobs") if row["variables"].get("how") == "hang-at-first"]
    wait_until(lambda: f"{job['job']}.1.RUNNING" in program.states(), 60)
    task = program.told("show", str(job["job"]))["attempts"][-1]["slurm_task"]
    subprocess.run(["scontrol", "requeue", task], check=True)
    program.tool("status", "--wait")
    return "slurm"


KINDS: dict[str, Callable[[Program], str]] = {
    function.__name__: function for function in (local, other_sweeper, other_launcher, python, snapshot, slurm)
}


def answers(folder: Path) -> dict[str, Any]:
    """What each verb says of an experiment, without its place."""
    experiment = Experiment.at(folder)
    jobs = [str(job.id) for job in experiment.iter_jobs()]
    calls = [("status",), ("jobs",), ("results",), ("filter",), *(("show", job) for job in jobs)]
    said: dict[str, Any] = {" ".join(call): in_shape(call[0], _printed(folder, *call, "--json")) for call in calls}
    said |= {f"logs {job}": _printed(folder, "logs", job) for job in jobs}
    said["metrics"] = json.loads(experiment.metrics().to_json(orient="records"))
    return json.loads(json.dumps(said).replace(str(folder), "EXPERIMENT"))  # type: ignore[no-any-return]


def _printed(folder: Path, verb: str, *rest: str) -> str:
    """The output of `experiment-manager VERB FOLDER ...`."""
    with io.TextIOWrapper(io.BytesIO(), encoding="utf-8") as out:
        with contextlib.redirect_stdout(out):
            command_line.main([verb, str(folder), *rest])
        out.flush()
        return out.buffer.getvalue().decode()


def main(version: str) -> None:
    """`version/` has an archive of each kind, and the answers."""
    target = HERE / version
    target.mkdir(exist_ok=True)
    found = {}
    for kind, make in KINDS.items():
        shutil.rmtree(PLACE, ignore_errors=True)
        shutil.copytree(APP, PLACE, ignore=shutil.ignore_patterns("__pycache__"))
        name = make(Program(PLACE))
        with tarfile.open(target / f"{kind}.tar.gz", "x:gz") as archive:
            archive.add(PLACE / "experiments" / name, arcname=kind)
        found[kind] = answers(unpacked(target, kind, PLACE / "again"))
    shutil.rmtree(PLACE)
    (target / "answers.json").write_text(json.dumps(found, indent=1) + "\n")


def unpacked(version: Path, kind: str, place: Path) -> Path:
    """The experiment of that kind, below a folder."""
    unpack(version / f"{kind}.tar.gz", place)
    return place / kind


if __name__ == "__main__":
    main(sys.argv[1])
