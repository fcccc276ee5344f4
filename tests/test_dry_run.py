"""`hydra.sweeper.dry_run=true` tells what the sweep then does, and leaves everything as it was."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import Program, ProgramAfter, clean_env

pytestmark = pytest.mark.xdist_group("swept")  # what is prepared for several tests is prepared once
DRY = "hydra.sweeper.dry_run=true"
GRID = ("algorithm=TD3,DDPG", "seed=1,2,3")


def tree(home: Path) -> dict[str, tuple[int, int, int, int]]:
    """Every name below a folder, and what tells that somebody has touched it. Compiled modules are Python's."""
    return {
        str(path.relative_to(home)): (about.st_ino, about.st_mode, about.st_size, about.st_mtime_ns)
        for path in (home, *home.rglob("*"))
        if "__pycache__" not in path.parts and (path == home or path.name != "__pycache__")
        for about in [path.lstat()]
        if path != home or not (home / "__pycache__").exists()
    }


def dry_run(program: Program, *arguments: str) -> str:
    """What a dry run prints, which ends well and changes nothing."""
    before = tree(program.home)
    done = program.sweep(*arguments, DRY)
    assert 0 == done.returncode, done.stderr
    assert before == tree(program.home)
    return done.stdout


def configuration_in(printed: str) -> object:
    """The configuration that a dry run shows."""
    text = printed[printed.index("configuration of job") :].partition("\n")[2].rpartition("nothing is written")[0]
    return yaml.safe_load(text)


def test_a_sweep_that_runs_here_does_what_its_dry_run_told(program: Program) -> None:
    """The same line of numbers, the same jobs with the same variables, and the same first configuration, of an
    experiment that does not exist yet."""
    arguments = (*GRID, "tau=0.5", "hydra.sweeper.pass_filter=[{algorithm: DDPG}, 'seed > 1']")
    printed = dry_run(program, *arguments)
    assert not program.experiment.parent.exists()
    assert "jobs: 6, 6 of them new, 0 known\n" in printed
    assert "filter: {algorithm: DDPG} drops 3 of 6\nfilter: seed > 1 drops 1 of 3\n" in printed
    assert "to run: 2 (jobs 4-5)\n  4  algorithm=DDPG seed=2 tau=0.5\n  5  algorithm=DDPG seed=3 tau=0.5\n" in printed
    assert "launcher: local_pool  n_jobs=-1 start_method=" in printed

    done = program.sweep(*arguments)
    assert 0 == done.returncode, done.stderr
    assert printed.splitlines()[0].removeprefix("dry run of ") in done.stderr.splitlines()
    assert ["4.1.COMPLETED", "5.1.COMPLETED"] == program.states()
    assert yaml.safe_load((program.experiment / "jobs/4/.hydra/config.yaml").read_text()) == configuration_in(printed)


def test_a_search_does_what_its_dry_run_told(program: Program) -> None:
    """The space, the first trials with their values, and the first configuration; then, what is left of it."""
    pytest.importorskip("optuna")
    arguments = (
        *("hydra/sweeper=experiment_optuna", "hydra.sweeper.sampler.seed=3", "hydra.sweeper.n_trials=2"),
        *("hydra.launcher.n_jobs=2", "tau=tag(log,interval(0.01,1))", "algorithm=choice(TD3,DDPG)", "seed=2"),
    )
    printed = dry_run(program, *arguments)
    assert not program.experiment.parent.exists()
    head = f"dry run of {program.experiment}: a new search of 2 trials, minimize by tpe"
    space = [
        "  tau        0.01 to 1, on a logarithmic scale",
        "  algorithm  one of TD3, DDPG",
        "  seed=2, in all trials",
    ]
    assert [head, *space, "to begin: 2, 0-1"] == printed.splitlines()[:5]

    done = program.sweep(*arguments, LIGHT="1")
    assert 0 == done.returncode, done.stderr
    told = [line.split() for line in printed.splitlines()[5:7]]
    rows = [(row["job"], row["variables"]) for row in program.told("jobs")]
    assert told == [[str(job), *(f"{name}={value}" for name, value in own.items())] for job, own in rows]
    configuration = program.told("show", "0")["configuration"]
    assert configuration == configuration_in(printed)
    more = dry_run(program, *arguments, "hydra.sweeper.n_trials=3")
    assert "going on with a search of 3 trials" in more
    assert "trials: 2 proposed before, 0 of them to run again\nto begin: 1, 2\n" in more
    other = program.sweep(*arguments, DRY, "tau=interval(0.5,1)")
    assert 2 == other.returncode
    assert "has another search: " in other.stderr


def test_scripts_are_those_that_the_dry_run_told(program_after: ProgramAfter) -> None:
    """As many scripts, each with the array text, the throttle, the options that were told, and the lines for SLURM, for
    what a grown sweep adds and runs; an option that another one bounds is told as it holds."""
    program = program_after("seed=1,2")
    sizes = ("+resources.mem_gb=1,2", "hydra.launcher.resources_from=resources", "hydra.launcher.array_parallelism=3")
    times = ("hydra.launcher.timeout_min=1", "hydra.launcher.pack=2", "hydra.sweeper.repeat=2")
    arguments = ("seed=1,2,3", "hydra/launcher=slurm_script", *sizes, *times)
    printed = dry_run(program, *arguments)
    told = re.findall(r"^  (slurm_scripts\S*)  --array=(\S+)  tasks: (\d+).*mem_gb=(\d)", printed, re.MULTILINE)
    assert f"scripts: {len(told)}\n" in printed
    assert 2 == len(told)
    assert {"30"} == set(re.findall(r"signal_delay_s=(\d+)", printed))  # at most half of the limit
    heads = re.findall(r"^    (#SBATCH .*)", printed, re.MULTILINE)

    done = program.sweep(*arguments)
    assert 0 == done.returncode, done.stderr
    assert printed.splitlines()[0].removeprefix("dry run of ") in done.stderr.splitlines()
    assert {name for name, *_ in told} == {path.name for path in program.experiment.glob("slurm_scripts*.sh")}
    for name, array, n_tasks, mem_gb in told:
        script = (program.experiment / name).read_text()
        assert f"#SBATCH --array={array}\n" in script
        assert f"#SBATCH --mem={mem_gb}G\n" in script
        asked = [
            re.sub(r"(?<=-name=train-)\w{8}", "...", line) for line in script.splitlines() if line[:8] == "#SBATCH "
        ]
        assert asked == heads[: len(asked)]
        del heads[: len(asked)]
        assert int(n_tasks) == len(script.partition("jobs=(")[2].partition("\n)")[0].split("\n", 1)[1].split())
    first = re.search(r"configuration of job (\d+):", printed)
    assert first is not None
    assert program.told("show", first[1])["configuration"] == configuration_in(printed)


def test_what_is_found_out_meanwhile_is_told_and_not_recorded(program_after: ProgramAfter) -> None:
    """A job whose process is gone is LOST and would run again; its state, and what killed processes have left, stay
    as they were; who plans meanwhile is not waited for."""
    program = program_after("seed=1,2")
    found = program.python(
        "-c",
        "from experiment_manager.store.files import temporary_name\n"
        "from experiment_manager.store.layout import Folder\n"
        "from experiment_manager.store.states import States\n"
        f"folder = Folder.at({str(program.experiment)!r})\n"
        "States(folder).claim(1, {})\n"
        "open(temporary_name(folder.manifest), 'x').close()\n",
    )
    assert 0 == found.returncode, found.stderr
    assert ["0.1.COMPLETED", "1.1.COMPLETED", "1.2.RUNNING"] == program.states()
    with open(program.experiment / ".planning.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        printed = dry_run(program, "seed=1,2")
    assert "2 jobs pass; 1 to run, 1 COMPLETED left alone" in printed
    assert "to run: 1 (job 1)\n  1  seed=2\n" in printed


@pytest.mark.parametrize("launcher", ["basic", "slurm_script"])
def test_nothing_to_run_and_nothing_of_other_launchers_runs(program_after: ProgramAfter, launcher: str) -> None:
    """A launcher that is not ours is not called; where nothing is to be run, no job is shown."""
    program = program_after("seed=1,2")
    printed = dry_run(program, "seed=1,2", f"hydra/launcher={launcher}")
    assert "2 jobs pass; 0 to run, 2 COMPLETED left alone" in printed
    assert "to run: 0\n" in printed
    assert "configuration" not in printed
    if launcher == "basic":
        assert "to run: 1 (job 2)\n  2  seed=3\nlauncher: basic\n" in dry_run(
            program, "seed=3", f"hydra/launcher={launcher}"
        )


def test_values_that_no_job_can_read_are_named(program: Program) -> None:
    """A value that is missing and an interpolation that leads nowhere here refuse no sweep, and are named once for all
    jobs that have them; what only a job knows, and what is swept, is neither."""
    program.edit("seed: 1", "seed: ???\nneeded: ???\nnowhere: ${not.there}\nout: ${hydra:runtime.output_dir}")
    done = program.sweep(*GRID, DRY)
    assert 0 == done.returncode, done.stderr
    assert 2 == done.stderr.count("warning: in job 0, needed is missing (???); the job fails where it reads that") + (
        done.stderr.count("warning: in job 0, nowhere=${not.there} cannot be resolved here (")
    )
    assert "seed is missing" not in done.stderr
    assert "output_dir" not in done.stderr


def test_each_job_is_asked_what_it_cannot_read(program: Program) -> None:
    """An interpolation that leads somewhere with one value of the sweep and nowhere with another is named for the
    first job that has it so."""
    program.edit("seed: 1", "seed: 1\nsizes: {a: 1, c: 3}\nsize: ${sizes.${text}}")
    done = program.sweep("text=a,b,c,'${nowhere}'", DRY)
    assert 0 == done.returncode, done.stderr
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert ["job 1, size=", "job 3, size=", "job 3, text="] == sorted(
        line.removeprefix("warning: in ").partition("=")[0] + "=" for line in warnings
    )


OTHER = """
import threading
import hydra

LOCK = threading.Lock()


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg):
    with LOCK:
        return cfg.seed


@hydra.main(version_base=None, config_path="conf", config_name="config")
def other(cfg):
    return cfg.seed


main()
"""

REFUSED = {
    "changed configuration": (("seed=1,2",), "tau: 0.005 -> 0.01"),
    "nothing passes": (("seed=7", "hydra.sweeper.pass_filter='seed > 9'"), "seed is one of 7"),
    "file in the way": (("seed=7", "hydra.sweeper.experiment_path=train.py"), "cannot be made or written: File exists"),
    "another program": (("seed=1,2", "hydra.sweeper.experiment_name=train"), "belongs to train.py:main"),
    "function that cannot be pickled": (("seed=7",), "the task function cannot be pickled"),
    "option of SLURM": (("seed=7", "hydra/launcher=slurm_script", "hydra.launcher.mem_gb=-1"), "mem_gb"),
    "options of no job": (
        ("seed=7", "hydra/launcher=slurm_script", "hydra.launcher.resources_from=x"),
        "no job has that node",
    ),
    "damaged manifest": (("seed=1",), "damaged"),
    "damaged launch": (("seed=1",), "launch.json cannot be read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_sweep_would_refuse_is_refused(program_after: ProgramAfter, case: str) -> None:
    """With the sentence of the sweep itself, and its exit code 2."""
    program, (arguments, said) = program_after("seed=1,2"), REFUSED[case]
    script = "train.py"
    if case == "changed configuration":
        program.edit("tau: 0.005", "tau: 0.01")
    if case in ("another program", "function that cannot be pickled"):
        script = "other.py"
        (program.home / script).write_text(OTHER.replace("main()\n", "other()\n") if "another" in case else OTHER)
    if case.startswith("damaged"):
        path = program.experiment / ("manifest.sqlite" if "manifest" in case else "launches/0001/launch.json")
        path.chmod(0o644)
        path.write_text("no")
        (program.experiment / "launches/0001/settled").unlink()
    before = tree(program.home)
    dry = program.run("-m", *arguments, DRY, script=script)
    assert before == tree(program.home)
    real = program.run("-m", *arguments, script=script)
    assert (2, 2) == (dry.returncode, real.returncode), dry.stderr + real.stderr
    sentence = real.stderr[real.stderr.index("error: ") :]
    assert said in sentence
    assert sentence in dry.stderr


def test_what_hydra_cannot_compose_is_refused(program: Program) -> None:
    """In Hydra's words, also where Hydra itself would end with another status."""
    before = tree(program.home)
    done = program.sweep("seed=1,2", "seeds=3,4", DRY)
    assert 2 == done.returncode
    assert "Could not override 'seeds'" in done.stderr
    assert before == tree(program.home)


def test_a_folder_that_may_only_be_read_is_told_of(program_after: ProgramAfter) -> None:
    """All is told of somebody else's experiment; that the sweep itself would be refused there, too, in its words."""
    program = program_after("seed=1,2")
    everything = dry_run(program, "seed=1,2,3")
    for path in (program.experiment, *(path for path in program.experiment.rglob("*") if path.is_dir())):
        path.chmod(0o555)
    words = [sys.executable, "train.py", "-m", "seed=1,2,3"]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("only setpriv makes root obey permissions")
        words = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *words]
    before = tree(program.home)
    dry, real = (
        subprocess.run(
            [*words, *more], cwd=program.home, env=clean_env(), capture_output=True, text=True, timeout=120, check=False
        )
        for more in ([DRY], [])
    )
    assert before == tree(program.home)
    assert everything == dry.stdout
    assert (2, 2) == (dry.returncode, real.returncode), dry.stderr + real.stderr
    assert real.stderr[real.stderr.index("error: ") :] in dry.stderr
