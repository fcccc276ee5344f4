"""Settings of a sweep: what is not used is said, repetitions are jobs of their own, different values look different."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
import pytest

from experiment_manager.cli.terminal import row_lines
from experiment_manager.text import settings_text
from tests.conftest import Program

SEARCH = "hydra/sweeper=experiment_optuna"
IS_NEW = hydra.__version__ >= "1.4"
needs_aliases = pytest.mark.skipif(not IS_NEW, reason="Hydra 1.4 brought hydra.aliases")


def test_what_a_sweep_does_not_use_is_said(program: Program) -> None:
    """Settings in files that the sweep chooses, `hydra.sweep` where somebody set it, values that are given twice, a
    primary configuration that Hydra leaves out, an interpreter that may be gone: one sentence each, that names it."""
    conf = program.home / "conf"
    (conf / "experiment").mkdir()
    late = "# @package _global_\nhydra: {sweeper: {rerun: never, pass_filter: n == 1}}\n"
    (conf / "experiment/a.yaml").write_text("" if IS_NEW else late)
    (conf / "experiment/b.yaml").write_text("# @package _global_\nseed: 2\n")
    (conf / "bare.yaml").write_text(
        "defaults:\n  - override hydra/sweeper: experiment\n  - override hydra/launcher: slurm_script\n"
        "seed: 1\nhydra: {sweep: {dir: 'out/${now:%H}'}}\n"
    )
    cache = str(Path(sys.prefix).resolve().parent)
    done = program.sweep("-cn", "bare", "+experiment=a,b", "+n=1,1,2", XDG_CACHE_HOME=cache)
    assert done.returncode == 0, done.stderr
    for said in (
        "hydra.sweep.dir=out/${now:%H} is not used: the jobs of an experiment lie in",
        "n: a value that is given twice counts once; to run each job twice, add hydra.sweeper.repeat=2",
        "with +experiment=a Hydra leaves out the values of bare itself (seed, hydra)",
        f"the jobs start later, with {sys.executable}, an environment in a cache",
    ):
        assert 1 == done.stderr.count(said), done.stderr
    (conf / "experiment/a.yaml").write_text(late)
    (conf / "bare.yaml").write_text((conf / "bare.yaml").read_text().replace("defaults:\n", "defaults:\n  - _self_\n"))
    done = program.sweep("-cn", "bare", "+experiment=a,b", "+n=5,6", "hydra.sweep.subdir=x")
    assert "leaves out" not in done.stderr
    assert "may be removed" not in done.stderr
    if IS_NEW:
        assert "'hydra.sweeper' must be configured before the sweep starts" in done.stderr  # Hydra's own words
    else:
        assert "hydra.sweep.dir=out/${now:%H}, hydra.sweep.subdir=x are not used: the jobs of an" in done.stderr
        assert 1 == done.stderr.count("jobs; take them out\n"), done.stderr
        said = "hydra.sweeper.pass_filter, hydra.sweeper.rerun, set in what +experiment=a +n=5 chooses, is not used"
        assert 1 == done.stderr.count(said), done.stderr
    shown = 'hydra.launcher.setup=["echo ${oc.env:HOME}"]'
    done = program.sweep("seed=1,2", "hydra/launcher=slurm_script", "hydra.sweeper.experiment_name=other", shown)
    assert "hydra.launcher.setup reads ${oc.env:...}, whose value is written into the scripts" in done.stderr
    assert not re.search("(is|are) not used", done.stderr)
    (conf / "hydra/launcher").mkdir(parents=True)
    (conf / "hydra/launcher/a100.yaml").write_text("defaults: [slurm_submitit]\nmem_gb: 8\ntimeout_min: 9\n")
    ours = "defaults: [config, _self_, override hydra/launcher: a100]\n"
    (conf / "own.yaml").write_text(ours)
    chosen = ("hydra/launcher=slurm_script", "hydra.launcher.timeout_min=9", "hydra.sweeper.dry_run=true")
    done = program.sweep("-cn", "own", "seed=1,2", *chosen)
    said = "hydra/launcher=slurm_script takes the place of hydra/launcher=a100, whose mem_gb=8 does not hold; hydra.s"
    assert 1 == done.stderr.count(said), done.stderr


def test_repetitions_are_jobs_that_a_variable_tells_apart(program: Program) -> None:
    """`repeat` is a variable of the job and no override of its: seen by the job, filters and tables; more of them keep
    the ids there are; a sweep of `repeat` and a number that runs nothing are refused."""
    done = program.sweep("seed=1,2", "hydra.sweeper.repeat=2")
    assert done.returncode == 0, done.stderr
    rule = "hydra.sweeper.pass_filter='repeat == 3 and cfg.seed == 2'"
    done = program.sweep("seed=1,2", "hydra.sweeper.repeat=3", rule)
    assert done.returncode == 0, done.stderr
    assert [f"{job}.1.COMPLETED" for job in (0, 1, 2, 3, 5)] == program.states()
    rows = [(row["variables"]["seed"], row["variables"]["repeat"]) for row in program.told("jobs")]
    assert [(1, 1), (1, 2), (2, 1), (2, 2), (1, 3), (2, 3)] == rows
    shown = program.told("show", "5")
    assert ["seed=2"] == shown["overrides"]
    assert "repeat" not in shown["configuration"]
    assert "'repeat': 3" in (program.experiment / "jobs/5/train.log").read_text()
    for arguments, said in (
        (("repeat=1,2", "hydra.sweeper.repeat=2"), "the sweep has one of that name"),
        (("seed=1", "hydra.sweeper.repeat=0"), "hydra.sweeper.repeat=0 runs nothing"),
    ):
        done = program.sweep(*arguments)
        assert (2, True) == (done.returncode, said in done.stderr), done.stderr


@pytest.mark.parametrize(
    ("launcher", "limit", "said"),
    [
        ("local_pool", "0", "hydra.launcher.job_timeout_min: 0.0 is no time limit of a job; write minutes"),
        ("slurm_script", "61", "job_timeout_min=61 is longer than timeout_min=60, at which SLURM ends the whole task"),
    ],
)
def test_a_limit_of_jobs_that_nobody_can_mean(launcher: str, limit: str, said: str, program: Program) -> None:
    """It is refused in a sentence, and nothing is written."""
    done = program.sweep("seed=1", f"hydra/launcher={launcher}", f"hydra.launcher.job_timeout_min={limit}")
    assert (2, True) == (done.returncode, said in done.stderr), done.stderr
    assert not program.experiment.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("hydra.sweeper.pass_filters=1",), "is no option of hydra/sweeper=experiment; did you mean pass_filter?"),
        (("+hydra.sweeper.xyz=1",), "hydra/sweeper=experiment; its options are experiment_name, experiment_path,"),
        (("hydra.launcher.n_job=1",), "n_job is no option of hydra/launcher=local_pool; did you mean n_jobs?"),
        (("-cn", "cluster"), "hydra/launcher=local_pool; job_timeout_min is the time limit of each job"),
        (("hydra.launcher.partition=gpu",), "it is one of SLURM's; keep those in a file such as conf/hydra/launcher/"),
        (("hydra/launcher=slurm_script", "hydra.launcher.mem=1"), "unknown SLURM option 'mem'; did you mean"),
        (("hydra/sweeper=basic", "+hydra.launcher.x=1"), "hydra.launcher.x is no option of hydra/launcher=local_pool"),
        ((SEARCH, "hydra.sweeper.search_space={x: 1}"), "write the same into hydra.sweeper.params"),
        ((SEARCH, "hydra.sweeper.custom_search_space=a.b"), "the space of a search is written down"),
        ((SEARCH, "hydra.sweeper.n_trial=3"), "no option of hydra/sweeper=experiment_optuna; did you mean n_trials?"),
    ],
)
def test_an_option_of_another_is_refused(arguments: Sequence[str], said: str, program: Program) -> None:
    """An option that our sweepers and launchers have not, as those of others whose place they take, is named in a
    sentence with what to write instead, and nothing runs."""
    ours = "defaults: [config, _self_, override hydra/launcher: slurm_submitit]\nhydra: {launcher: {timeout_min: 9}}\n"
    (program.home / "conf/cluster.yaml").write_text(ours)
    done = program.sweep("seed=1", "hydra/launcher=local_pool", *arguments)
    assert (2, True) == (done.returncode, said in done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert not program.experiment.exists()


@needs_aliases
def test_other_names_of_keys_are_known_where_keys_are_named(program: Program) -> None:
    """`zip` and the pass filter take the names that `hydra.aliases` has for keys."""
    program.edit("seed: 1\n", "seed: 1\nhydra:\n  aliases: {'rate, r': tau}\n")
    zipping = "hydra.sweeper.zip=[[r,seed]]"
    done = program.sweep("r=0.1,0.2", "seed=8,9", zipping, "hydra.sweeper.pass_filter='rate > 0.1 and r < 1'")
    assert done.returncode == 0, done.stderr
    assert ["1.1.COMPLETED"] == program.states()
    assert [{"tau": 0.1, "seed": 8}, {"tau": 0.2, "seed": 9}] == [row["variables"] for row in program.told("jobs")]


def test_different_values_look_different() -> None:
    """Values of a variable that a column would show alike are shown as people type them, and always so in a line."""
    values: list[object] = [1, 1.0, True, "true", None, "null", "1"]
    lines = row_lines([{"x": value, "score": value} for value in values], width=None, exact=("x",))
    assert ["1", "1.0", "true", "'true'", "null", "'null'", "'1'"] == [line.split()[0] for line in lines[2:]]
    assert [f"x={line.split()[0]}" for line in lines[2:]] == [settings_text({"x": value}) for value in values]
    assert ["0.1", "0.2"] == [line.strip() for line in row_lines([{"x": 0.1}, {"x": 0.2}], width=None, exact=["x"])[2:]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("hydra.sweeper.zip=[[seed,[tau]]]",), "hydra.sweeper.zip has ['seed', ['tau']]; it is a list of groups"),
        (("hydra.sweeper.blocks=[{params:3}]",), "whose params are no mapping"),
        (("hydra.sweeper.blocks=[{params:[seed]}]",), "whose params are no mapping"),
        (("hydra.sweeper.blocks=[{zip:3}]",), "whose zip is 3; it is a list of groups"),
        (("hydra.sweeper.blocks=[{zip:[3]}]",), "whose zip has 3; it is a list of groups"),
        (("hydra.sweeper.blocks=[{zip:[seed]}]",), "whose zip has 'seed'; it is a list of groups"),
        (("n=range(1,3,0)",), "'n=range(1,3,0)' goes from value to value by 0"),
        (("tau=range(0,1,0.0)",), "goes from value to value by 0"),
        (("hydra.sweeper.pass_filter='{cfg.layers.²: 64}'",), "cfg.layers.², which no configuration has"),
        (("hydra.sweeper.repeat=1000000000",), "more than the 10,000,000 jobs that a sweep may have"),
        (("n=range(0,1000000000)",), "more than the 10,000,000 jobs that a sweep may have"),
        (("n=range(0,10000)", "tau=range(0,10000)"), "200,000,000 combinations of values: more than"),
        ([f"+k{i}=range(0,1000)" for i in range(9)], "000,000,000,000,000,000 combinations of values: more than"),
    ],
)
def test_what_no_sweep_can_be_made_of_is_refused_in_a_sentence(
    program: Program, arguments: Sequence[str], said: str
) -> None:
    """Whatever the value of an option or of a key, and before anything is written; it names the option."""
    done = program.sweep("seed=1,2", "+n=1", "+layers=[1]", *arguments)
    assert 2 == done.returncode, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not program.experiment.exists()
