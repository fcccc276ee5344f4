"""`${...}` in overrides and configurations: Hydra's to resolve, job by job; what it stands for is written nowhere."""

import json
from pathlib import Path

import hydra
import pytest

from tests.conftest import Program

SECRET = "hunter2-is-no-password"

SCRIPT = """
import os
import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

OmegaConf.register_new_resolver("mul", lambda one, other: one * other)

@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg):
    told = [len(cfg.token), len(cfg.again), len(os.environ["TOKEN"])]
    place, size = (os.environ.get(name) for name in ("PLACE", "SIZE"))
    return {"told": told, "place": place, "size": size, "name": HydraConfig.get().job.name}

if __name__ == "__main__":
    main()
"""

CONFIG = """
defaults:
  - override hydra/sweeper: experiment
  - override hydra/launcher: local_pool
  - _self_
seed: 1
token: ${oc.env:SECRET}
again: nothing
ten: ${mul:${seed},10}
size: ${oc.env:SIZE}
number: ${oc.decode:${oc.env:SIZE}}
label: ${oc.env:SECRET}
hydra:
  sweeper: {experiment_name: train}
  job:
    env_set: {TOKEN: "${oc.env:SECRET}"}
"""

OVERRIDES = (
    "again=${oc.env:SECRET}",
    "+hydra.job.env_set.PLACE=at${hydra:job.num}",
    "hydra.job.name=run${seed}",
    "hydra.sweep.subdir=${hydra.job.override_dirname}",
    "+later=${oc.env:ONLY_ON_THE_NODE}",
    "+d.e=${.f}",
)


@pytest.fixture
def app(tmp_path: Path) -> Program:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/config.yaml").write_text(CONFIG)
    (tmp_path / "train.py").write_text(SCRIPT)
    return Program(tmp_path)


def test_interpolations_are_resolved_in_jobs_and_their_values_are_written_nowhere(app: Program) -> None:
    """Every job has what Hydra gives it; what an interpolation stands for in the sweep gets into none, nor, where
    it is a secret, into any file of the experiment: manifest, launches, scripts, logs, states; nor into `show`."""
    for launcher in ("local_pool", "basic", "slurm_script"):
        seeds = {"local_pool": "1,2", "basic": "3", "slurm_script": "4"}[launcher]
        done = app.sweep(f"seed={seeds}", *OVERRIDES, f"hydra/launcher={launcher}", SECRET=SECRET)
        assert done.returncode == 0, done.stderr
        assert SECRET not in done.stderr
    told = [row["result"] for row in app.told("results")]
    assert ["run1", "run2", "run3", None] == [one.get("name") for one in told]
    assert ["at0", "at1", "at0", None] == [one.get("place") for one in told]  # basic counts from 0 in each sweep
    assert [[len(SECRET)] * 3] * 3 == [one["told"] for one in told[:3]]
    files = [path for path in app.experiment.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"manifest.sqlite", "launch.json", "multirun.yaml", "slurm_scripts.sh", "hydra.yaml", "0.1"} <= names
    ours = [path for path in files if path.name != "hydra.yaml" or hydra.__version__ < "1.4"]
    assert [] == [path for path in ours if SECRET.encode() in path.read_bytes()]  # 1.4 itself resolves env_set there
    shown = app.tool("show", "0", SECRET=SECRET)
    assert "again=${oc.env:SECRET}" in shown.stdout
    assert SECRET not in shown.stdout
    launch = json.loads((app.experiment / "launches/0001/launch.json").read_text())
    assert "again=${oc.env:SECRET}" in launch["overrides"]


def test_filter_in_the_sweep_and_later_sees_the_same_values(app: Program) -> None:
    """What only the program can resolve, and only in the sweep's environment, is known later for the numbers that the
    filters of sweeps read; text is not kept, for it may be a secret; what nobody can tell is refused by its key and
    interpolation, in the sweep as later, and compared with nothing."""
    environment = {"SECRET": SECRET, "SIZE": "3", "PLACE": "", "TOKEN": ""}
    rule = "cfg.ten != 10 and cfg.size == '3' and cfg['label'] != ''"
    sweep = ("seed=1,2,3", "hydra/launcher=basic")  # whose jobs need no processes of their own
    done = app.sweep(*sweep, **environment)
    assert done.returncode == 0, done.stderr
    for where in ("cfg.ten != 10", "{cfg.ten: 10}"):
        done = app.tool("jobs", "--where", where)
        assert (2, "") == (done.returncode, done.stdout)
        assert "cfg.ten, which is ${mul:${seed},10} and cannot be resolved here" in done.stderr
    done = app.sweep(*sweep, f'hydra.sweeper.pass_filter="{rule}"', **environment)
    assert "3 jobs pass" not in done.stderr
    assert "2 jobs pass" in done.stderr
    before = (app.experiment / "manifest.sqlite").stat().st_mtime_ns
    app.sweep(*sweep, f'hydra.sweeper.pass_filter="{rule}"', **environment)
    assert before == (app.experiment / "manifest.sqlite").stat().st_mtime_ns
    assert [1, 2] == app.told("filter", "cfg.ten != 10", "--dry-run")["jobs"]
    assert 30 == app.told("show", "2", "--resolve")["configuration"]["ten"]
    assert SECRET.encode() not in (app.experiment / "manifest.sqlite").read_bytes()
    assert "cfg.label, which is ${oc.env:SECRET}" in app.tool("jobs", "--where", "cfg.label != ''").stderr
    done = app.sweep(*sweep, "hydra.sweeper.pass_filter='cfg.size != 0'", SECRET=SECRET)
    assert done.returncode == 2
    assert "cfg.size, which is ${oc.env:SIZE} and cannot be resolved here" in done.stderr


def test_what_a_filter_has_kept_of_a_job_is_what_the_job_has_run_with(app: Program) -> None:
    """A sweep with another environment keeps its values for the jobs that it adds or runs again; what was kept of a job
    that does not run again stays, for it has run with that."""
    rule = 'hydra.sweeper.pass_filter="cfg.number > 0"'
    environment = {"SECRET": SECRET, "PLACE": "", "TOKEN": ""}
    for seeds, size, more in (("1,2", "5", ()), ("1,2,3", "7", ()), ("2", "9", ("hydra.sweeper.rerun=always",))):
        done = app.sweep(f"seed={seeds}", "hydra/launcher=basic", rule, *more, SIZE=size, **environment)
        assert done.returncode == 0, done.stderr
    had = [row["result"]["size"] for row in app.told("results")]
    assert ["5", "9", "7"] == had
    for job_id, size in enumerate(had):
        assert [job_id] == app.told("filter", f"cfg.number == {size}", "--dry-run")["jobs"]
        assert int(size) == app.told("show", str(job_id), "--resolve")["configuration"]["number"]
