"""Sweeps that a Python program defines and launches: what its Hydra program makes of the same overrides."""

import json
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.version import VersionBase

from experiment_manager import Experiment, ExperimentManagerError, current_job
from tests.conftest import Program, clean_env, wait_until

GRID = ("algorithm=TD3,DDPG", "seed=1,2,3")
FILTER = "hydra.sweeper.pass_filter='seed < 3'"
SCRIPT = "hydra/launcher=slurm_script"  # a sweep that runs nothing


@pytest.fixture
def here(program: Program, monkeypatch: pytest.MonkeyPatch) -> Program:
    """The program, in whose folder this process is."""
    monkeypatch.chdir(program.home)
    return program


def defined(program: Program, *overrides: str) -> Experiment:
    return Experiment.from_sweep(program.home / "conf", "config", overrides, experiment_name="train")


def jobs_in(experiment: Path) -> list[tuple[Any, ...]]:
    """What the manifest says of the jobs, but for the programs that run them."""
    with sqlite3.connect(experiment / "manifest.sqlite") as connection:
        return connection.execute(
            "SELECT id, identity, variables, overrides, changes, fingerprint FROM jobs"
        ).fetchall()


def test_what_is_defined_is_what_the_program_sweeps(here: Program) -> None:
    """Jobs, ids, configurations, pass filter and frozen YAML are those of `python train.py -m`, which then finds all of
    them there, and has nothing to add."""
    experiment = defined(here, *GRID, FILTER)
    made = jobs_in(here.experiment), (here.experiment / "pass_filter.json").read_text()
    frozen = sorted(path.name for path in (here.experiment / "conf").iterdir())
    assert [0, 1, 3, 4] == experiment.get_filtered_ids()
    assert ["algorithm", "seed"] == experiment.variables
    assert not (here.experiment / "launches").exists()

    done = here.sweep(*GRID, FILTER, SCRIPT)
    assert (0, True) == (done.returncode, "4 jobs pass, 2 dropped by seed < 3; 4 to run" in done.stderr), done.stderr
    elsewhere = here.sweep(*GRID, FILTER, SCRIPT, "hydra.sweeper.experiment_path=elsewhere")
    assert elsewhere.returncode == 0, elsewhere.stderr
    other = here.home / "elsewhere/train"
    assert (jobs_in(other), (other / "pass_filter.json").read_text()) == made
    assert frozen == sorted(path.name for path in (other / "conf").iterdir())


@pytest.mark.usefixtures("light")
def test_what_is_defined_runs_here(here: Program) -> None:
    """`launch` runs what may run and has not run, as it was frozen, also when another process has defined it; again it
    runs what has been added since, and nothing when that is all."""
    defined(here, "seed=1,2,3", "algorithm=DDPG").save_pass_filter([0, 2])
    here.edit("seed: 1", "seed: 7")
    launched = Experiment.at(here.experiment).launch("local_pool", "train.py", n_jobs=2)
    assert "Launched(2 COMPLETED in launch 0001)" == repr(launched)
    assert ["0.1.COMPLETED", "2.1.COMPLETED"] == here.states()
    here.edit("seed: 7", "seed: 1")
    grown = defined(here, "seed=1,2,3", "algorithm=DDPG")
    assert (1,) == grown.launch("local_pool", "train.py").ids
    assert "Launched(nothing to run)" == repr(grown.launch("local_pool"))
    assert [0.5, 1.0, 1.5] == [row["result"]["result"] for row in grown.result_rows()]


def test_scripts_have_the_options_of_the_launcher(here: Program) -> None:
    """Options reach the scripts, also those of a file of one's own that stands for that launcher, and what the sweep
    says of ending jobs early reaches the launch, too."""
    (here.home / "conf/hydra/launcher").mkdir(parents=True)
    (here.home / "conf/hydra/launcher/own.yaml").write_text("defaults: [slurm_script]\nmem_gb: 3\n")
    pruner = ("hydra.sweeper.pruner=asha", "hydra.sweeper.metric=loss", "hydra.sweeper.direction=minimize")
    experiment = defined(here, "seed=1,2,3", "hydra/launcher=own", *pruner)
    launched = experiment.launch(
        "slurm_script", Path("train.py"), timeout_min=17, array_parallelism=2, partition="long"
    )
    (script,) = launched.scripts
    text = Path(script).read_text()
    for option in ("--mem=3G", "--array=0-2%2", "--time=00:17:00", "--partition=long", "--job-name=train"):
        assert option in text
    assert launched.launch is not None
    assert ("slurm_script", "loss") == (launched.launch.record["launcher"], launched.launch.record["pruner"]["metric"])
    assert "python train.py -cp" in (experiment.show(0)["command"] or "")


def test_functions_run_the_jobs(here: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that is named by its module, and one that is in no module and holds a value of this process, each take
    the configuration in a process of its own."""
    (here.home / "task_of_a_module.py").write_text("def double(cfg):\n    return 2 * cfg.seed\n")
    monkeypatch.syspath_prepend(here.home)
    factor = 10

    def times(cfg: Any) -> Any:
        return {"product": factor * cfg.seed, "job": current_job().id}

    experiment = defined(here, "seed=1,2")
    experiment.save_pass_filter([0])
    experiment.launch("local_pool", "task_of_a_module:double")
    assert 2 == experiment.result_rows("0")[0]["result"]["result"]
    other = Experiment.from_sweep("conf", "config", ["seed=3"], experiment_name="other")
    other.launch("local_pool", times)
    assert {"product": 30, "job": 0} == other.result_rows()[0]["result"]
    with pytest.raises(ExperimentManagerError, match="belongs to task_of_a_module:double, and this sweep is of"):
        experiment.launch("local_pool", times, rerun="always")


def test_an_interrupted_launch_ends_its_jobs(here: Program) -> None:
    """The signal of an interrupted cell ends the jobs that run, which are CANCELLED, and raises KeyboardInterrupt."""
    defined(here, "seed=1,2,3", "sleep=600")
    (here.home / "launching.py").write_text(
        "from experiment_manager import Experiment\n"
        "try:\n    Experiment.at('experiments/train').launch('local_pool', 'train.py', n_jobs=2)\n"
        "except KeyboardInterrupt as error:\n    print('interrupted by', error)\n"
    )
    process = here.start("launching.py", LIGHT="1")
    wait_until(lambda: ["0.1.RUNNING", "1.1.RUNNING"] == here.states())
    process.send_signal(signal.SIGINT)
    printed, told = process.communicate(timeout=60)
    assert (0, "interrupted by SIGINT\n") == (process.returncode, printed), told
    assert ["0.1.CANCELLED", "1.1.CANCELLED"] == here.states()
    assert "2 jobs cancelled" in told
    assert "launching again runs what is left" in told


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Hydra before 1.4, about version_base
def test_hydra_is_as_it_was(here: Program) -> None:
    """A program that uses Hydra itself goes on with its own configuration."""
    assert not GlobalHydra.instance().is_initialized()
    with initialize_config_dir(str(here.home / "conf"), job_name="mine"):
        before, base = GlobalHydra.instance().hydra, VersionBase.instance().version_base
        defined(here, "seed=1,2")
        assert (before, base) == (GlobalHydra.instance().hydra, VersionBase.instance().version_base)
        assert 5 == compose("config", ["seed=5"]).seed
    assert not GlobalHydra.instance().is_initialized()


def refused(what: Callable[[], Any], said: str) -> None:
    with pytest.raises(ExperimentManagerError, match=said):
        what()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["sed=1,2"], "Could not override 'sed'"),
        (["algorithm=TD4,DDPG"], "Could not find 'algorithm/TD4'"),
        (["seed=interval(1,2)"], "has no list of values"),
        (["seed=1,2", "hydra.sweeper.pass_filter='seed > 3'"], "nothing passes the filter"),
        (
            ["seed=1,2", "hydra/sweeper=experiment_optuna"],
            "defines the jobs of hydra/sweeper=experiment, and of no exp",
        ),
        (["seed=1,2", "hydra.sweeper.dry_run=true"], "dry_run defines no jobs"),
        ("seed=1,2", "is one text; give a list"),
    ],
)
def test_what_cannot_be_defined(here: Program, overrides: Sequence[str], said: str) -> None:
    """The sentence says why, and nothing is written."""
    refused(lambda: Experiment.from_sweep("conf", "config", overrides), said)
    assert not (here.home / "experiments").exists()


def test_what_cannot_be_launched(here: Program) -> None:
    """A job without a program, a program that is not there, and options that the launcher does not have are refused in
    a sentence, before anything is written; so is a job that was written in Python."""
    experiment = defined(here, "seed=1,2")
    launch = experiment.launch
    refused(lambda: launch("local_pool"), r"job 0 of .* was defined without a program; name the one")
    refused(experiment.run, "job 0 of .* was defined without a program")
    refused(lambda: launch("local_pool", "tran.py"), r"the program tran\.py is not in")
    refused(lambda: launch("local_pool", "json:nothing"), "json:nothing cannot be imported here")
    refused(lambda: launch("local_pol", "train.py"), "no launcher of ours; there are local_pool, slurm_script")
    refused(lambda: launch("joblib", "train.py"), "no launcher of ours")
    refused(lambda: launch("local_pool", "train.py", n_job=2), "has no option n_job; it has n_jobs, start_method")
    refused(lambda: launch("local_pool", "train.py", n_jobs="two"), "n_jobs='two': .* could not be converted")
    refused(lambda: launch("slurm_script", "train.py", timeout_min="soon"), "timeout_min")
    refused(lambda: launch("local_pool", "train.py", rerun="sometimes"), "rerun=sometimes is not known")
    lock = threading.Lock()  # which no pickle holds
    refused(lambda: launch("local_pool", lambda _: lock.locked()), "cannot be pickled")
    assert not (here.experiment / "launches").exists()
    assert experiment.show(0)["command"] is None

    some = Experiment.from_sweep("conf", "config", ["seed=1,2", FILTER.replace("3", "2")], experiment_name="some")
    some.save_pass_filter([1])
    refused(lambda: some.launch("local_pool", "train.py"), "job 1 of .* has no configuration yet")

    written = Experiment(["seed"], "written", here.home)
    written.add_job({"seed": 1}, {"seed": 1})
    written.save()
    written.save_pass_filter([0])
    refused(lambda: written.launch("local_pool", "train.py"), r"job 0 of .* was written in Python.*exp\.run\(runner\)")


def test_a_job_without_a_program_is_refused_by_its_supervisor(here: Program) -> None:
    """`experiment-manager run` says what to do, and no attempt is made."""
    defined(here, "seed=1,2")
    shown = here.tool("show", "0").stdout
    assert "none yet: exp.launch(" in shown
    assert "--runner" not in shown
    done = here.tool("run", "0")
    assert (2, True) == (done.returncode, "was defined without a program" in done.stderr)
    assert [] == here.states()


def test_defining_needs_no_program_and_no_hydra_before(tmp_path: Path) -> None:
    """Where YAML names no sweeper, the jobs are those of ours; importing `Experiment` still imports no Hydra."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/plain.yaml").write_text("lr: 0.1\n")
    script = (
        "import sys\nfrom experiment_manager import Experiment\nassert 'hydra' not in sys.modules\n"
        "exp = Experiment.from_sweep('conf', 'plain', ['lr=0.1,0.2', 'hydra.sweeper.repeat=2'])\n"
        "print(exp.get_all_ids())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=clean_env(), capture_output=True, text=True, check=True
    )
    assert [0, 1, 2, 3] == json.loads(done.stdout)
    assert (tmp_path / "experiments/plain/manifest.sqlite").exists()


PROGRAM_WITH_ENUM = """
from dataclasses import dataclass
from enum import Enum
import hydra
from hydra.core.config_store import ConfigStore

class Mode(Enum):
    FAST = 1
    SLOW = 2

@dataclass
class Config:
    mode: Mode = Mode.FAST
    seed: int = 1

ConfigStore.instance().store("base", Config)

@hydra.main(version_base=None, config_path="{conf}", config_name="config")
def main(cfg):
    return cfg.seed + cfg.mode.value

if __name__ == "__main__":
    main()
"""
STUDY = """
import importlib
from experiment_manager import Experiment
importlib.import_module({module!r})
experiment = Experiment.from_sweep("conf", "config", ["seed=1,2", "mode=FAST,SLOW"], experiment_name="it")
print(experiment.launch("local_pool", {path!r}, n_jobs=2))
"""


def write_program_with_enum(home: Path, path: str) -> None:
    """The program and its configuration."""
    (home / "conf").mkdir()
    (home / "conf/config.yaml").write_text(
        "defaults: [base, _self_, {override hydra/sweeper: experiment}, {override hydra/launcher: local_pool}]\n"
    )
    depth = "../" * path.count("/")
    (home / path).write_text(PROGRAM_WITH_ENUM.replace("{conf}", f"{depth}conf"))


def ended(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What Python has done with these words."""
    words = (sys.executable, *words)
    return subprocess.run(words, cwd=home, env=clean_env(), capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("module", "path"), [("train", "train.py"), ("shop.__main__", "shop/__main__.py")])
@pytest.mark.parametrize("is_defined_first", [True, False])
def test_enums_of_the_program_are_the_same_to_whoever_imports_it(
    tmp_path: Path, module: str, path: str, *, is_defined_first: bool
) -> None:
    """An enum that the program defines is of `__main__` there, and of a module in the program that defines the sweep:
    its jobs have the same configurations, whoever was first."""
    (tmp_path / "shop").mkdir()
    write_program_with_enum(tmp_path, path)
    (tmp_path / "study.py").write_text(STUDY.format(module=module, path=path))

    def run(*words: str) -> str:
        done = ended(tmp_path, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    sweep = [path, "-m", "seed=1,2", "mode=FAST,SLOW", "hydra.sweeper.experiment_name=it"]
    if is_defined_first:
        assert "Launched(4 COMPLETED in launch 0001)" in run("study.py")
        run(*sweep)
    else:
        run(*sweep, SCRIPT)
        assert "Launched(4 COMPLETED in launch 0002)" in run("study.py")
    experiment = Experiment.load("it", tmp_path / "experiments")
    assert [2, 3, 3, 4] == sorted(row["result"]["result"] for row in experiment.result_rows())


DEFINED = """
import train
from experiment_manager import Experiment
Experiment.from_sweep("conf", "config", ["seed=1,2"], experiment_name="it")
"""


def test_a_job_whose_enums_have_another_name_is_no_other_job(tmp_path: Path) -> None:
    """A sweep that adds changed jobs as new ones takes those that were defined elsewhere for its own, and where more
    has changed, the sentence names that alone."""
    write_program_with_enum(tmp_path, "train.py")
    sweep = ("train.py", "-m", "seed=1,2", "hydra.sweeper.experiment_name=it", SCRIPT)
    assert "2 new in the manifest" in ended(tmp_path, "-c", DEFINED).stderr
    done = ended(tmp_path, *sweep, "hydra.sweeper.on_change=new")
    assert (0, True) == (done.returncode, "2 jobs pass; 2 to run" in done.stderr), done.stderr
    assert [0, 1] == Experiment.load("it", tmp_path / "experiments").get_all_ids()

    program = tmp_path / "train.py"
    program.write_text(program.read_text().replace("seed: int = 1", "seed: int = 1\n    tau: float = 0.5"))
    done = ended(tmp_path, *sweep)
    assert (2, True) == (done.returncode, "another configuration: tau: <absent> -> 0.5; put" in done.stderr), (
        done.stderr
    )
    done = ended(tmp_path, *sweep, "hydra.sweeper.on_change=new")
    assert (0, True) == (done.returncode, "2 jobs pass (2 new in the manifest); 2 to run" in done.stderr), done.stderr
    assert [0, 1, 2, 3] == Experiment.load("it", tmp_path / "experiments").get_all_ids()
