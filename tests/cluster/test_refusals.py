"""What bad input gets: SLURM's own words and what to change, exit status 2, and nothing recorded that is not there."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from experiment_manager.experiment import Experiment
from experiment_manager.scheduler.slurm.configuration import SLURM
from tests.cluster.conftest import HOME, ProgramOf, need_own_cluster, reconfigured, up
from tests.cluster.sweeps import slurm
from tests.conftest import Program, ProgramAfter, clean_env, files_below, wait_until

SUBMIT = "hydra/launcher=slurm_submitit"
Done = subprocess.CompletedProcess[str]


def sentence(done: Done) -> str:
    """The one sentence of a command that was refused: exit status 2, and no traceback."""
    assert 2 == done.returncode, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.stderr.strip().endswith(error), done.stderr
    return error


def newest_submission(program: Program) -> Any:
    newest = max(path for path in (program.experiment / "launches").iterdir() if path.name.isdigit())
    return json.loads((newest / "submission.json").read_text())


def nothing_is_recorded(program: Program) -> None:
    """No array counts as submitted, and the jobs are what they were, also for whoever asks SLURM."""
    assert {"format": 1, "arrays": {}} == newest_submission(program)
    assert [("PENDING", 0)] * 2 == [(row["state"], row["attempt"]) for row in program.told("jobs")]
    assert [] == program.states()


def is_refused(program: Program, *options: str) -> str:
    """The sentence that a sweep of two jobs with these options gets."""
    said = sentence(program.sweep("seed=1,2", SUBMIT, *options))
    nothing_is_recorded(program)
    return said


def works(program: Program, *options: str) -> None:
    """The same sweep, mended, runs to its end: nothing stands in its way."""
    done = program.sweep("seed=1,2", SUBMIT, *options)
    assert 0 == done.returncode, done.stderr
    wait_until(lambda: ["0.1.COMPLETED", "1.1.COMPLETED"] == program.states())


# ---------------------------------------------------------------- what SLURM refuses


NOT_THERE = {
    "partition=nosuch": ("invalid partition specified: nosuch", "set `partition` to one of main, short, "),
    "mem_gb=900": ("Memory specification can not be satisfied", "lower mem_gb, "),
    "gpus_per_node=9": ("Requested node configuration is not available", "gpus_per_node or nodes"),
    "gres=foo:1": ("Invalid generic resource (gres) specification", "set `gres` "),
    "constraint=fast": ("Invalid feature specification", "set `constraint` "),
    "exclude=n77": ("Invalid node name specified", "sinfo -N"),
}


@pytest.mark.usefixtures("light")
def test_what_the_cluster_does_not_have(program: Program) -> None:
    """The sentence has SLURM's words, the script and the option to change; with a partition that there is the same
    sweep runs."""
    for launch, (option, (words, way_out)) in enumerate(NOT_THERE.items(), start=1):
        said = is_refused(program, f"hydra.launcher.{option}")
        assert said.startswith(f"error: experiments/train/launches/000{launch}/slurm_scripts.sh: sbatch failed: ")
        assert words in said
        assert way_out in said
    works(program, "hydra.launcher.partition=main")


@pytest.mark.usefixtures("light")
def test_refused_is_not_submitted(program: Program) -> None:
    """`submit` is refused as the sweep was, as often as it is typed: what SLURM did not take never counts as submitted,
    though squeue shows it for minutes. Written again with a setting that can be met, it runs."""
    said = is_refused(program, "hydra.launcher.mem_gb=900")
    for _ in range(2):
        again = sentence(program.tool("submit"))
        assert said.partition("slurm_scripts.sh")[2] == again.partition("slurm_scripts.sh")[2]
        nothing_is_recorded(program)
    assert "Requested node configuration is not available" in sentence(program.tool("submit", "--test-only"))
    assert 0 == program.tool("script", "--set", "mem_gb=0.2").returncode
    assert 0 == program.tool("submit").returncode
    wait_until(lambda: ["0.1.COMPLETED", "1.1.COMPLETED"] == program.states())


@contextmanager
def few_jobs(user: str, most: int) -> Iterator[None]:
    """Inside, accounting lets the user have so many jobs at a time."""
    change = ("sacctmgr", "-i", "modify", "user", user, "set")
    slurm(*change, f"MaxSubmitJobs={most}")
    try:
        yield
    finally:
        slurm(*change, "MaxSubmitJobs=-1")


@pytest.mark.usefixtures("light")
def test_what_one_may_not(program: Program) -> None:
    """Accounts, qualities of service, limits of users and partitions: each is named with its way out, and an array
    that has an index too large since it was written, too."""
    limits = ["EnforcePartLimits=ALL", "MaxArraySize=3"]
    big = Program(program.home)
    assert (
        0 == big.sweep("seed=range(0,6)", "hydra/launcher=slurm_script", "hydra.sweeper.experiment_name=big").returncode
    )
    big.experiment = program.home / "experiments/big"
    with reconfigured(enforce="associations,limits,qos", extra=limits):
        said = is_refused(program, "hydra.launcher.account=nobodys")
        assert "Invalid account or account/partition combination specified; set `account` " in said
        said = is_refused(program, "hydra.launcher.qos=golden")
        assert "Invalid qos specification; set `qos` " in said
        said = is_refused(program, "hydra.launcher.partition=short", "hydra.launcher.timeout_min=90")
        assert "Requested time limit is invalid (missing or exceeds some limit); lower timeout_min" in said
        said = is_refused(program, "hydra.launcher.cpus_per_task=64")
        assert "lower mem_gb, cpus_per_task, " in said
        with few_jobs("root", 1):
            said = is_refused(program)
            assert "AssocMaxSubmitJobLimit" in said
            assert "you have as many jobs as you may: wait until some have ended, or submit fewer" in said
        said = sentence(big.tool("submit"))
        assert "slurm_scripts.sh: sbatch failed: Invalid job array specification; the largest index" in said
        assert "may have here is 2" in said
        assert {"format": 1, "arrays": {}} == newest_submission(big)
        works(program)


@pytest.mark.usefixtures("light")
def test_one_script_of_several_is_refused(program: Program) -> None:
    """What was submitted before stays recorded, what comes after is not tried, and mended it goes on."""
    memory = "+res.mem_gb=0.1,900,0.2"
    said = sentence(program.sweep(memory, SUBMIT, "hydra.launcher.resources_from=res"))
    assert "slurm_scripts_2.sh: sbatch failed: Memory specification" in said
    (noted,) = newest_submission(program)["arrays"].values()
    wait_until(lambda: ["0.1.COMPLETED"] == program.states())
    script = program.experiment / "launches/0001/slurm_scripts_2.sh"
    script.write_text(script.read_text().replace("--mem=900G", "--mem=90M"))
    told = program.told("submit")
    assert [(noted["slurm_id"], False), True, True] == [
        (told[0]["slurm_id"], told[0]["is_new"]),
        *(x["is_new"] for x in told[1:]),
    ]
    wait_until(lambda: [f"{job}.1.COMPLETED" for job in range(3)] == program.states())


@pytest.mark.usefixtures("light")
def test_a_limit_between_two_arrays(program: Program) -> None:
    """Where one may have fewer jobs than two arrays have tasks, the sentence says so, the first is submitted and runs,
    and `submit` goes on with the second when there is room, each once."""
    settings = ("+res.mem_gb=0.1,0.2", "seed=1,2", "hydra.launcher.resources_from=res", "hydra/launcher=slurm_script")
    assert 0 == program.sweep(*settings, "sleep=3").returncode
    with reconfigured(enforce="associations,limits,qos"), few_jobs("root", 3):
        said = sentence(program.tool("submit"))
        assert "slurm_scripts_2.sh: sbatch failed: " in said
        assert "AssocMaxSubmitJobLimit" in said
        assert "wait until some have ended, or submit fewer" in said
        (first,) = newest_submission(program)["arrays"].values()
        assert "slurm_scripts_2.sh" in sentence(program.tool("submit"))
        assert {"QUEUED", "RUNNING", "PENDING"} >= {row["state"] for row in program.told("jobs")}
        wait_until(lambda: 2 == sum(name.endswith("COMPLETED") for name in program.states()))
        told = wait_until(lambda: (done := program.tool("submit", "--json")).returncode == 0 and done.stdout)
        assert [(first["slurm_id"], False), True] == [
            (json.loads(told)[0]["slurm_id"], json.loads(told)[0]["is_new"]),
            json.loads(told)[1]["is_new"],
        ]
        wait_until(lambda: [f"{job}.1.COMPLETED" for job in range(4)] == program.states())


# ---------------------------------------------------------------- no SLURM to ask


def test_no_sbatch_on_the_path(program: Program, tmp_path: Path) -> None:
    """Where SLURM's commands are missing nothing is submitted, and nothing is written; scripts can be written."""
    (tmp_path / "empty").mkdir()
    path = {"PATH": str(tmp_path / "empty")}
    before = files_below(program.home)
    absent = "error: sbatch is not on the path here; run this on a login node of the cluster"
    assert absent == sentence(program.sweep("seed=1,2", SUBMIT, **path))
    assert before == {name: text for name, text in files_below(program.home).items() if "__pycache__" not in name}
    assert 0 == program.sweep("seed=1,2", "hydra/launcher=slurm_script", **path).returncode
    for arguments in (["submit"], ["submit", "--test-only"]):
        assert absent == sentence(program.tool(*arguments, **path))
    assert ["PENDING"] * 2 == [row["state"] for row in program.told("jobs")]


@pytest.mark.usefixtures("light")
def test_a_login_node_without_munge(program: Program) -> None:
    """Where munge is down, the sentence says so; jobs that run keep their state, and afterwards all is as ever."""
    need_own_cluster()
    assert 0 == program.sweep("seed=1,2", "hydra/launcher=slurm_script").returncode
    pid = int((HOME / "run" / "munged.pid").read_text())
    assert Path(f"/proc/{pid}/comm").read_text() == "munged\n"
    os.kill(pid, signal.SIGTERM)
    try:
        wait_until(lambda: not Path(f"/proc/{pid}/exe").exists())
        said = sentence(program.tool("submit"))
        assert "munge, which tells SLURM who you are, is down here" in said
        submitted = sentence(program.sweep("seed=1,2", SUBMIT))
        assert "munge, which tells SLURM who you are, is down here" in submitted
    finally:
        up()
    assert ["PENDING"] * 2 == [row["state"] for row in program.told("jobs")]
    assert [True] == [array["is_new"] for array in program.told("submit")]
    wait_until(lambda: ["0.1.COMPLETED", "1.1.COMPLETED"] == program.states())


# ---------------------------------------------------------------- invalid options


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("hydra.launcher.timeout_min=soon", "timeout_min: 'soon' is no time limit; write minutes (90)"),
        ("hydra.launcher.mem_gb=-1", "mem_gb: -1 is no number of gigabytes; write 4 or 0.5"),
        ("hydra.launcher.array_parallelism=0", "array_parallelism: 0 is no whole number of at least 1"),
        ("hydra.launcher.wait=maybe", "wait: 'maybe' is neither true nor false"),
        ("+hydra.launcher.time=10", "unknown SLURM option 'time'; did you mean 'timeout_min'?"),
        ("+hydra.launcher.additional_parameters.array=1-3", "'array' is written by the experiment manager itself"),
        ("hydra.launcher.resources_from=nowhere", "resources_from=nowhere: no job has that node"),
        ("hydra.launcher.resources_from=seed", "seed of job 0 is 1; resources_from names a mapping"),
    ],
)
def test_values_that_cannot_be_meant(program: Program, option: str, words: str) -> None:
    """A wrong value or name is told with what to write instead, before anything is written."""
    assert words in sentence(program.sweep("seed=1,2", SUBMIT, option))
    assert not (program.home / "experiments").exists()


def test_options_that_hydra_does_not_know(program: Program) -> None:
    """A misspelt option is refused by Hydra itself, which names it; nothing is written."""
    done = program.sweep("seed=1,2", SUBMIT, "hydra.launcher.partiton=main")
    assert done.returncode
    assert "partiton" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (program.home / "experiments").exists()


MISTAKES = (
    (["script", "--set", "nonsense=1"], "unknown SLURM option 'nonsense'"),
    (["script", "mem_gb"], "'mem_gb' is no setting of an option; write mem_gb=64"),
    (["script", "timeout_min=soon"], "'soon' is no time limit"),
    (["script", "--jobs", "0"], "0 jobs are none"),
    (["script", "--rerun", "often"], "rerun=often is not known; use failed, never, always"),
    (["submit"], "has no SLURM scripts yet; write them with hydra/launcher=slurm_script"),
    (["submit", "--launch", "0001"], "launch 0001 of"),
    (["submit", "--launch", "0099"], "there is no launch 0099"),
    (["cancel", "7"], "names job 7, which is not there"),
    (["cancel", "--state", "RUNING"], "'RUNING' is no state"),
)


def test_commands_that_cannot_be_meant(program_after: ProgramAfter) -> None:
    """Each verb says in a sentence what is wrong with an experiment that has run here, and changes nothing."""
    program = program_after("seed=1,2")
    before = files_below(program.experiment)
    for arguments, words in MISTAKES:
        assert words in sentence(program.tool(*arguments))
        assert before == files_below(program.experiment), arguments


def test_foreign_folders(tmp_path: Path) -> None:
    """A folder that is no experiment is told so and left alone."""
    program = Program(tmp_path)
    program.experiment = tmp_path / "own"
    program.experiment.mkdir()
    (program.experiment / "thesis.txt").write_text("mine")
    for verb in ("script", "submit", "cancel"):
        assert f"{program.experiment} is no experiment" in sentence(program.tool(verb))
    assert {"thesis.txt": b"mine"} == files_below(program.experiment)


def test_jobs_without_filter_or_runner(tmp_path: Path) -> None:
    """Jobs written in Python need a saved filter, and something that runs them, before there is a script."""
    experiment = Experiment(["x"], "e", tmp_path)
    experiment.add_job({"x": 1}, {"x": 1})
    experiment.save()
    program = Program(tmp_path)
    program.experiment = tmp_path / "e"
    assert "save_pass_filter" in sentence(program.tool("script"))
    experiment.save_pass_filter([0])
    said = sentence(program.tool("script"))
    assert "name the script that runs it" in said
    assert f"the runner missing.py is not in {tmp_path};" in sentence(program.tool("script", "--runner", "missing.py"))
    assert not (tmp_path / "e/launches").exists()


def test_folder_of_somebody_else(alices_program: ProgramOf) -> None:
    """Who may not write an experiment is told so when she wants to submit it, and nothing is submitted."""
    home = alices_program.home
    shutil.copytree(Path(__file__).parent.parent / "app", home / "copy")
    experiment = Experiment(["x"], "roots", home / "copy")
    experiment.add_job({"x": 1}, {"x": 1})
    experiment.save()
    experiment.save_pass_filter([0])
    experiment.set_slurm_config(SLURM(python_runner=str(home / "copy/runner.py")))
    experiment.generate_slurm_script()
    before = files_below(home / "copy/roots")
    done = alices_program.python("-m", "experiment_manager", "submit", str(home / "copy/roots"))
    assert "cannot be made or written: Permission denied" in sentence(done)
    assert before == files_below(home / "copy/roots")
    asked = ["squeue", "-h", "-u", "alice", "-t", "all", "-o", "%j"]
    names = subprocess.run(asked, env=clean_env(), capture_output=True, text=True, check=True).stdout.split()
    assert not [name for name in names if name.startswith("roots-")]
