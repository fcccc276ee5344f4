"""Inside the process of a job: it sees what a job of a multirun sees, and runs only what was submitted."""

from pathlib import Path

import pytest

from tests.conftest import Program, ProgramAfter

SCRIPTS = "hydra/launcher=slurm_script"  # plans and writes as every launcher, and runs nothing
STRUCTURED = """
import os
from dataclasses import dataclass
import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

@dataclass
class Conf:
    "Of this machine."
    workers: int = int(os.environ.get("WORKERS", "4"))
    stamp: str = "${now:%H%M%S%f}"

ConfigStore.instance().store(group="machine", name="here", node=Conf)

@hydra.main(version_base=None, config_path="conf", config_name="structured")
def main(cfg):
    hydra_cfg = HydraConfig.get()
    return {
        "stamp": cfg.machine.stamp, "id": hydra_cfg.job.id, "num": hydra_cfg.job.num, "mode": hydra_cfg.mode.name,
        "dir": hydra_cfg.sweep.dir, "subdir": hydra_cfg.sweep.subdir, "output": hydra_cfg.runtime.output_dir,
        "choices": dict(hydra_cfg.runtime.choices)["algorithm"], "name": hydra_cfg.job.name,
    }

if __name__ == "__main__":
    main()
"""


def structured(program: Program) -> None:
    (program.home / "train.py").write_text(STRUCTURED)
    (program.home / "conf/structured.yaml").write_text("defaults: [config, {machine: here}]\n")


def test_job_sees_a_multirun(program: Program) -> None:
    """hydra.job.id and num, the mode, sweep directory and subdirectory, choices and name are those of a multirun."""
    structured(program)
    names = ("hydra.job.name=mine", "hydra.sweeper.experiment_name=train")
    done = program.sweep("algorithm=TD3,DDPG", *names, "hydra.sweeper.pass_filter='1'")
    assert done.returncode == 0, done.stderr
    assert ["1.1.COMPLETED"] == program.states()
    jobs = str(program.experiment / "jobs")
    result = program.told("results")[1]["result"]
    stamp = result.pop("stamp")
    assert stamp
    assert {
        "id": "1", "num": 1, "mode": "MULTIRUN", "dir": jobs, "subdir": "1", "output": f"{jobs}/1",
        "choices": "DDPG", "name": "mine",
    } == result  # fmt: skip


def test_drift_stops_the_job_before_it_begins(program: Program) -> None:
    """A structured default that is another one on this machine: nothing runs, the reason names the key and both values,
    and the exit status is reserved for this."""
    structured(program)
    program.sweep("seed=1")
    done = program.tool("run", "0", WORKERS="8")
    assert 78 == done.returncode
    assert ["0.1.COMPLETED", "0.2.FAILED"] == program.states()
    assert "machine.workers: 4 -> 8" in program.tool("show", "0").stdout
    assert "machine.workers: 4 -> 8" in (program.experiment / "jobs/0/stderr.2.log").read_text()
    assert not (program.experiment / "jobs/0/result.2.json").exists()


def test_drift_can_be_accepted(program: Program) -> None:
    """With on_drift=warn the job goes on, and its log says what differs."""
    structured(program)
    program.sweep("seed=1", "hydra.sweeper.on_drift=warn", SCRIPTS)
    assert 0 == program.tool("run", "0", WORKERS="8").returncode
    assert "machine.workers: 4 -> 8" in (program.experiment / "jobs/0/stderr.1.log").read_text()


def test_check_that_cannot_be_made_is_not_skipped(program: Program) -> None:
    """Hydra goes on after a callback that raised; a job whose configuration cannot be compared does not run."""
    (program.home / "train.py").write_text(STRUCTURED.replace("= int(os", "= 10 ** int(os"))
    (program.home / "conf/structured.yaml").write_text("defaults: [config, {machine: here}]\n")
    program.sweep("seed=1", SCRIPTS)
    assert 78 == program.tool("run", "0", WORKERS="5000").returncode
    assert ["0.1.FAILED"] == program.states()
    assert "too long to be stored" in program.tool("show", "0").stdout


def test_every_kind_of_source_is_frozen(program: Program, tmp_path: Path) -> None:
    """--config-dir, hydra.searchpath in YAML and on the command line, and the main folder: editing any of them later
    reaches no defined job, and the first of two sources wins as it does in Hydra."""
    for name, tau in (("one", 0.1), ("two", 0.2)):
        (tmp_path / name / "extra").mkdir(parents=True)
        (tmp_path / name / "extra" / "both.yaml").write_text(f"tau: {tau}\n")
        (tmp_path / name / "extra" / f"{name}.yaml").write_text("# @package _global_\ntext: from " + name + "\n")
    arguments = ("-cd", str(tmp_path / "one"), f"hydra.searchpath=['file://{tmp_path / 'two'}']")
    done = program.sweep(*arguments, "+extra=both,one,two", "seed=1", SCRIPTS)
    assert done.returncode == 0, done.stderr
    for name in ("one", "two"):
        for path in (tmp_path / name / "extra").iterdir():
            path.write_text("tau: 9\ntext: edited\n")
    program.edit("tau: 0.005", "tau: 9")
    for job in range(3):
        assert 0 == program.tool("run", str(job)).returncode, program.tool("show", str(job)).stdout
    configurations = [program.told("show", str(job))["configuration"] for job in range(3)]
    assert [0.1, "from one", "from two"] == [
        configurations[0]["extra"]["tau"],
        *(c["text"] for c in configurations[1:]),
    ]
    assert "text: from two" in (program.experiment / "jobs/2/.hydra/config.yaml").read_text()


def test_program_with_multirun_in_its_yaml_does_not_start_itself_for_ever(program: Program) -> None:
    """`hydra.mode: MULTIRUN` in the YAML: the program sweeps without -m, and its jobs do not."""
    program.edit("seed: 1", "seed: 1\nhydra: {mode: MULTIRUN}")
    done = program.run("seed=1,2")
    assert done.returncode == 0, done.stderr
    assert ["0.1.COMPLETED", "1.1.COMPLETED"] == program.states()


def test_sweep_inside_a_job_is_refused(program: Program) -> None:
    """A process that is a job must not start a sweep of our kind."""
    done = program.sweep("seed=1,2", EXPERIMENT_MANAGER_JOB="3")
    assert done.returncode == 2
    assert "is job 3 of an experiment" in done.stderr
    assert not program.experiment.exists()


def test_module_entry_and_app_arguments(program: Program) -> None:
    """`python -O -m pkg.train`, with arguments that the program takes for itself, runs its jobs the same way; the YAML
    of the package is frozen, too."""
    package = program.home / "pkg"
    package.mkdir()
    (program.home / "conf").rename(package / "conf")
    (package / "__init__.py").touch()
    (package / "conf" / "__init__.py").touch()
    text = (program.home / "train.py").read_text()
    text = text.replace("    main()\n", "    MINE = sys.argv.pop(1)\n    main()\n")
    text = text.replace(
        "return cfg.seed * cfg.algorithm.gain", "return {'mine': MINE, 'optimized': not __debug__, 'tau': cfg.tau}"
    )
    (package / "train.py").write_text(text)
    done = program.python("-O", "-m", "pkg.train", "--mine", "-m", "seed=1", SCRIPTS)
    assert done.returncode == 0, done.stderr
    program.edit("tau: 0.005", "tau: 9", file="pkg/conf/config.yaml")
    assert 0 == program.tool("run", "0").returncode, program.tool("show", "0").stdout
    assert ["0.1.COMPLETED"] == program.states()
    assert {"mine": "--mine", "optimized": True, "tau": 0.005} == program.told("results")[0]["result"]


def test_chdir_and_relative_experiment_path(program: Program) -> None:
    """`hydra.job.chdir=true` puts the job into its directory, wherever the experiment lies."""
    text = (program.home / "train.py").read_text()
    text = text.replace("return cfg.seed * cfg.algorithm.gain", "return os.getcwd()")
    (program.home / "train.py").write_text(text)
    done = program.sweep("seed=1", "hydra.job.chdir=true", "hydra.sweeper.experiment_path=../elsewhere")
    assert done.returncode == 0, done.stderr
    folder = program.home.parent / "elsewhere" / "train"
    assert f'"{folder}/jobs/0"' in (folder / "jobs/0/result.1.json").read_text()


@pytest.mark.xdist_group("swept")  # what is prepared for several tests is prepared once
def test_moved_experiment_still_runs(program_after: ProgramAfter) -> None:
    """An experiment's folder can be moved: its frozen configuration goes along."""
    program = program_after("seed=1")
    moved = program.home / "archive" / "renamed"
    moved.parent.mkdir()
    program.experiment.rename(moved)
    program.experiment = moved
    assert 0 == program.tool("run", "0").returncode, program.tool("show", "0").stdout
    assert ["0.1.COMPLETED", "0.2.COMPLETED"] == program.states()
