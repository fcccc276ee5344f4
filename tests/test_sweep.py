"""Sweeps as people type them: what becomes a job, what runs, and what never runs twice."""

import json
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest
import yaml

from experiment_manager.hydra import entry
from experiment_manager.hydra.plan import Known, Numbered
from experiment_manager.model.configurations import ConfigTemplate, Configured
from experiment_manager.model.grid import Axis, Grid, Point, Setting
from experiment_manager.store.layout import Folder
from tests.conftest import Program, ProgramAfter, clean_env, files_below

pytestmark = pytest.mark.xdist_group("swept")  # what is prepared for several tests is prepared once
GRID = ("algorithm=TD3,DDPG", "seed=1,2,3")
SCRIPTS = "hydra/launcher=slurm_script"
"""Plans and writes as every launcher, and runs nothing: for what becomes of a sweep before its jobs run."""


def manifest_ids(program: Program) -> list[int]:
    with sqlite3.connect(program.experiment / "manifest.sqlite") as connection:
        return [row[0] for row in connection.execute("SELECT id FROM jobs ORDER BY id")]


@pytest.mark.usefixtures("light")
def test_filtered_sweep_runs_what_passes_and_records_all(program: Program) -> None:
    """The manifest has the whole grid; only what passes runs; the same sweep without the filter runs the rest; a grown
    grid keeps the old ids and runs what is new; the same command again runs nothing."""
    grid = ("algorithm=TD3,DDPG", "seed=1,2")
    done = program.sweep(*grid, "hydra.sweeper.pass_filter={algorithm: TD3}")
    assert done.returncode == 0, done.stderr
    assert ["0.1.COMPLETED", "1.1.COMPLETED"] == program.states()
    assert list(range(4)) == manifest_ids(program)
    assert "2 dropped by {algorithm: TD3}" in done.stderr

    done = program.sweep(*grid)
    assert done.returncode == 0, done.stderr
    assert [f"{job}.1.COMPLETED" for job in range(4)] == program.states()

    done = program.sweep(*GRID)
    assert done.returncode == 0, done.stderr
    assert [f"{job}.1.COMPLETED" for job in range(6)] == program.states()
    new = [(row["job"], row["variables"]) for row in program.told("jobs") if row["job"] > 3]
    assert [(4, {"algorithm": "TD3", "seed": 3}), (5, {"algorithm": "DDPG", "seed": 3})] == new

    before = files_below(program.experiment / "jobs")
    done = program.sweep(*GRID)
    assert done.returncode == 0, done.stderr
    assert "0 to run, 6 COMPLETED left alone" in done.stderr
    assert before == files_below(program.experiment / "jobs")
    assert ["0001", "0002", "0003"] == sorted(path.name for path in (program.experiment / "launches").iterdir())


def test_jobs_get_what_hydra_composes_and_leave_what_they_return(program: Program) -> None:
    """The result is the return value, the metrics are those logged, and `.hydra/config.yaml` is in the job's folder."""
    program.sweep("algorithm=TD3,DDPG", "seed=3", "tau=0.5")
    rows = program.told("results")
    assert [4.5, 1.5] == [row["result"]["result"] for row in rows]
    assert [1.5, 1.5] == [row["metrics"]["loss"] for row in rows]
    assert {"algorithm": "TD3", "seed": 3, "tau": 0.5} == rows[0]["variables"]
    shown = program.told("show", "1")
    assert {"name": "DDPG", "gain": 0.5, "layers": [32]} == shown["configuration"]["algorithm"]
    assert 0.5 == shown["configuration"]["tau"]
    assert "tau: 0.5" in (program.experiment / "jobs/1/.hydra/config.yaml").read_text()


def test_edited_configuration_reaches_no_defined_job(program_after: ProgramAfter) -> None:
    """A job that is run again composes what it composed first; sweeping over it is refused naming key and values;
    `on_change=new` appends; putting the configuration back finds the old jobs again."""
    program = program_after("seed=1,2")
    program.edit("tau: 0.005", "tau: 0.01")

    assert program.tool("run", "1").returncode == 0
    assert ["0.1.COMPLETED", "1.1.COMPLETED", "1.2.COMPLETED"] == program.states()
    assert "tau: 0.005" in (program.experiment / "jobs/1/.hydra/config.yaml").read_text()

    before = files_below(program.experiment)
    done = program.sweep("seed=1,2")
    assert done.returncode == 2
    assert "tau: 0.005 -> 0.01" in done.stderr
    assert "on_change=new" in done.stderr
    assert before == files_below(program.experiment)

    done = program.sweep("seed=1,2", "hydra.sweeper.on_change=new", SCRIPTS)
    assert done.returncode == 0, done.stderr
    assert [0, 1, 2, 3] == manifest_ids(program)
    assert 0.01 == program.told("show", "2")["configuration"]["tau"]
    assert 0.005 == program.told("show", "0")["configuration"]["tau"]

    program.edit("tau: 0.01", "tau: 0.005")
    done = program.sweep("seed=1,2")
    assert "0 to run, 2 COMPLETED left alone" in done.stderr
    assert json.loads((program.experiment / "pass_filter.json").read_text())["jobs"] == [0, 1]


@pytest.mark.usefixtures("light")
def test_failed_jobs_alone_run_again(program: Program) -> None:
    """A job that raises fails alone: the others go on, the sweep ends with 1 and says what to do; the same command runs
    the failed ones as attempt 2, and attempt 1 is still there."""
    arguments = ("seed=1,2", "how=unless-again,well", "hydra.sweeper.pass_filter='0-2'")
    done = program.sweep(*arguments)
    assert done.returncode == 1
    assert "2 of 3 jobs did not complete (2 FAILED); the same command runs them again" in done.stderr
    expected = ["0.1.FAILED", "1.1.COMPLETED", "2.1.FAILED"]
    assert expected == program.states()
    shown = program.tool("show", "2").stdout
    assert "ValueError: works the second time" in shown
    assert "Traceback" in shown

    done = program.sweep(*arguments)
    assert done.returncode == 0, done.stderr
    assert sorted([*expected, "0.2.COMPLETED", "2.2.COMPLETED"]) == program.states()
    assert (program.experiment / "jobs/2/stderr.1.log").read_text()
    assert "FAILED" in (program.experiment / "jobs/2/attempt.1.json").read_text()


@pytest.mark.parametrize(
    ("rerun", "expected"),
    [
        ("never", ["0.1.FAILED", "1.1.COMPLETED"]),
        ("failed", ["0.1.FAILED", "0.2.FAILED", "1.1.COMPLETED"]),
        ("always", ["0.1.FAILED", "0.2.FAILED", "1.1.COMPLETED", "1.2.COMPLETED"]),
    ],
)
@pytest.mark.usefixtures("light")
def test_rerun_decides_about_ended_jobs(program_after: ProgramAfter, rerun: str, expected: list[str]) -> None:
    """`never` leaves all ended jobs alone, `failed` takes those that did not complete, `always` takes all."""
    program = program_after("how=raise,well")
    program.sweep("how=raise,well", f"hydra.sweeper.rerun={rerun}")
    assert expected == program.states()


@pytest.mark.usefixtures("light")
def test_zip_varies_keys_together(program: Program) -> None:
    """Zipped keys make one axis, and the job can be run again by its own overrides."""
    done = program.sweep("algorithm=TD3,DDPG", "seed=1,2", "tau=0.1,0.2", "hydra.sweeper.zip=[[seed,tau]]", SCRIPTS)
    assert done.returncode == 0, done.stderr
    assert 0 == program.tool("run", "3").returncode
    variables = [(v["algorithm"], v["seed"], v["tau"]) for v in (row["variables"] for row in program.told("jobs"))]
    assert [("TD3", 1, 0.1), ("TD3", 2, 0.2), ("DDPG", 1, 0.1), ("DDPG", 2, 0.2)] == variables
    assert ["algorithm=DDPG", "seed=2", "tau=0.2"] == program.told("show", "3")["overrides"]


def test_blocks_share_one_numbering_without_duplicates(program: Program) -> None:
    """Several grids make one experiment; a point that two of them have is one job; the command line wins."""
    (program.home / "conf" / "blocks.yaml").write_text(
        "defaults: [config]\n"
        "hydra:\n  sweeper:\n    blocks:\n"
        "      - params: {algorithm: 'TD3,DDPG', seed: 1}\n"
        "      - params: {algorithm: TD3, seed: 'range(1,3)', text: 'a,b'}\n        zip: [[seed, text]]\n"
        "      - params: {seed: '1', algorithm: DDPG}\n"
    )
    done = program.sweep("-cn", "blocks", "tau=0.5", SCRIPTS)
    assert done.returncode == 0, done.stderr
    assert 0 == program.tool("run", "3").returncode
    assert "text: b" in (program.experiment / "jobs/3/.hydra/config.yaml").read_text()
    assert [
        {"algorithm": "TD3", "seed": 1, "tau": 0.5},
        {"algorithm": "DDPG", "seed": 1, "tau": 0.5},
        {"algorithm": "TD3", "seed": 1, "text": "a", "tau": 0.5},
        {"algorithm": "TD3", "seed": 2, "text": "b", "tau": 0.5},
    ] == [row["variables"] for row in program.told("jobs")]


def test_params_sweep_and_the_command_line_wins(program: Program) -> None:
    """`hydra.sweeper.params` is a sweep of its own, from the command line, too; what is typed besides wins over it."""
    done = program.sweep("seed=7", "+hydra.sweeper.params={seed: '1,2', tau: '0.1,0.2'}", SCRIPTS)
    assert done.returncode == 0, done.stderr
    assert 0 == program.tool("run", "1").returncode
    assert "seed: 7\ntau: 0.2\n" in (program.experiment / "jobs/1/.hydra/config.yaml").read_text()
    assert [{"seed": 7, "tau": 0.1}, {"seed": 7, "tau": 0.2}] == [row["variables"] for row in program.told("jobs")]


@pytest.mark.usefixtures("light")
def test_sample_is_of_what_passes_and_repeats(program: Program) -> None:
    """A sample is drawn from what passes, the same one for the same seed, another one for another."""
    arguments = ("seed=range(0,20)", "hydra.sweeper.pass_filter='seed < 10'", "hydra.sweeper.sample=2")
    assert program.sweep(*arguments).returncode == 0
    first = json.loads((program.experiment / "pass_filter.json").read_text())["jobs"]
    assert 2 == len(first)
    assert max(first) < 10
    assert "0 to run, 2 COMPLETED left alone" in program.sweep(*arguments).stderr
    program.sweep(*arguments, "hydra.sweeper.sample_seed=1", SCRIPTS)
    assert first != json.loads((program.experiment / "pass_filter.json").read_text())["jobs"]


def test_filter_reads_the_composed_configuration(program: Program) -> None:
    """`cfg.` in a filter is what Hydra composes for the job, also in a function's or mapping's company."""
    rule = 'hydra.sweeper.pass_filter=[{seed: [1, 2]}, "cfg.algorithm.gain > 1 and len(cfg.algorithm.layers) == 2"]'
    done = program.sweep(*GRID, rule, SCRIPTS)
    assert done.returncode == 0, done.stderr
    assert list(range(6)) == manifest_ids(program)
    assert [0, 1] == json.loads((program.experiment / "pass_filter.json").read_text())["jobs"]


def test_jobs_that_a_filter_drops_are_never_composed(program: Program) -> None:
    """A key that only one group has can be swept, as long as the filter drops the jobs of the others."""
    program.edit("gain: 1.5", "gain: 1.5\nonly_here: 0", file="conf/algorithm/TD3.yaml")
    swept = ("algorithm=TD3,DDPG", "algorithm.only_here=1,2")
    done = program.sweep(*swept)
    assert done.returncode == 1
    assert "only_here" in done.stderr
    assert not program.experiment.exists()
    done = program.sweep(*swept, "hydra.sweeper.pass_filter={algorithm: TD3}", SCRIPTS)
    assert done.returncode == 0, done.stderr
    assert [0, 1] == json.loads((program.experiment / "pass_filter.json").read_text())["jobs"]
    assert 0 == program.tool("run", "1").returncode
    assert ["1.1.COMPLETED"] == program.states()
    assert program.told("show", "2")["configuration"] is None


def test_another_script_of_the_same_name_is_another_program(program: Program) -> None:
    """It gets no results of the first one, and no job of it runs, as long as that is there; a copy, and the script that
    was moved, and edited since, go on."""
    for place in ("base", "mine"):
        shutil.copytree(program.home / "conf", program.home / place / "conf")
        shutil.copy(program.home / "train.py", program.home / place)
    assert 0 == program.run("-m", "seed=1,2", SCRIPTS, script="base/train.py").returncode
    assert 0 == program.run("-m", "seed=1,2", SCRIPTS, script="mine/train.py").returncode
    assert 0 == program.run("-m", "seed=1,2", SCRIPTS, script="base/train.py").returncode
    mine = program.home / "mine/train.py"
    mine.write_text(mine.read_text() + "\n# edited\n")
    before = files_below(program.experiment)
    done = program.run("-m", "seed=1,2", SCRIPTS, script="mine/train.py")
    assert 2 == done.returncode
    assert f"belongs to {program.home}/base/train.py, and this sweep is of {program.home}/mine/train.py" in done.stderr
    assert before == files_below(program.experiment)
    (program.home / "base/train.py").unlink()
    assert 0 == program.run("-m", "seed=1,2", SCRIPTS, script="mine/train.py").returncode


def test_jobs_whose_program_is_gone_do_not_begin(program_after: ProgramAfter) -> None:
    """Whoever runs them again is refused once, before an attempt begins, and nothing is written; `doctor` names it."""
    program = program_after("seed=1,2")
    (program.home / "train.py").rename(program.home / "new.py")
    before = files_below(program.home)
    gone = f"the program {program.home}/train.py is not there, which jobs 0-1"
    for words in (
        ("resubmit", "--state", "completed", "--yes"),
        ("resubmit", "--state", "completed", "--yes", "--launcher", "slurm_script"),
        ("work", "--rerun", "always"),
        ("script", "--rerun", "always"),
        ("run", "1"),
    ):
        verb, *more = words
        done = program.tool(verb, *more)
        assert (2, 1) == (done.returncode, len(done.stderr.splitlines())), done.stderr
        assert (gone if verb != "run" else gone.replace("jobs 0-1", "job 1")) in done.stderr
        assert "hydra.sweeper.experiment_name=train and hydra.sweeper.on_other_program=same" in done.stderr
    assert f"program: {gone} run\n  put it back" in program.tool("doctor").stdout
    assert before == files_below(program.home)


@pytest.mark.usefixtures("light")
def test_a_program_that_has_another_name_now_goes_on(program_after: ProgramAfter) -> None:
    """Who says that it is the same one gets its jobs, which run by its new name from then on; nobody else does, nor may
    one be the other as long as both are there, or where the function has another name."""
    program = program_after("seed=1,2")
    train, new = program.home / "train.py", program.home / "new.py"
    same = "hydra.sweeper.on_other_program=same"

    def sweep(*words: str) -> tuple[int, bool, str]:
        done = program.run("-m", "seed=1,2,3", "hydra.sweeper.experiment_name=train", *words, script="new.py")
        return done.returncode, f"where both are one program, add {same}" in done.stderr, done.stderr

    shutil.copy(train, new)
    assert (2, False) == sweep(same)[:2]
    train.unlink()
    code, is_named, said = sweep()
    assert (2, True) == (code, is_named)
    assert "belongs to train.py:main, and this sweep is of new.py:main" in said
    text = new.read_text()
    new.write_text(text.replace("def main(", "def other(").replace("    main()", "    other()"))
    assert (2, False) == sweep(same)[:2]
    new.write_text(text)
    code, _, said = sweep(same)
    assert (0, True) == (code, "1 to run, 2 COMPLETED left alone" in said), said
    code, _, said = sweep(same, "hydra.sweeper.rerun=always")
    assert (0, True) == (code, "3 to run" in said), said
    assert 0 == program.tool("run", "0").returncode
    assert {"findings": [], "path": str(program.experiment)} == program.told("doctor")


@pytest.mark.usefixtures("light")
def test_a_program_that_nodes_alone_have_runs_there(program: Program) -> None:
    """What a command in `wrap` brings along, as a container does, is not looked for here; a module is Python's to find;
    of a place that this machine has not, nothing is known here."""
    inside = program.home / "inside"
    wrap = f"hydra.launcher.wrap=[sh,-c,'cp {inside} train.py; \"$@\"; rm train.py',sh]"
    assert 0 == program.sweep("seed=1", SCRIPTS, wrap).returncode
    (program.home / "train.py").rename(inside)
    done = program.tool("run", "0", "--launch", "0001")
    assert (0, ["0.1.COMPLETED"]) == (done.returncode, program.states()), done.stderr
    assert 0 == program.tool("script", "--rerun", "always").returncode
    assert "program: " not in program.tool("doctor").stdout


def test_of_a_place_that_this_machine_has_not_nothing_is_known(program: Program) -> None:
    """Scripts are written for nodes, which may have it, and people are told; no job begins where it is not."""
    place = program.home / "place"
    shutil.copytree(program.home / "conf", place / "conf")
    shutil.copy(program.home / "train.py", place)
    where = f"hydra.sweeper.experiment_path={program.home}/experiments"
    assert 0 == program.run("-m", "seed=1", where, SCRIPTS, script="place/train.py").returncode
    place.rename(program.home / "elsewhere")
    done = program.tool("script")
    assert 0 == done.returncode, done.stderr
    assert (
        f"warning: the program {place}/train.py is not on this machine; job 0 begins where a node has it" in done.stderr
    )
    assert "program: " not in program.tool("doctor").stdout
    assert 2 == program.tool("run", "0", "--launch", "0001").returncode
    assert [] == program.states()


def git(place: Path, *words: str) -> None:
    """Git has done it there."""
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always")
    subprocess.run(["git", *identity, *words], cwd=place, env=clean_env(), check=True, capture_output=True)


@pytest.mark.parametrize(
    "copy",
    [
        "worktree",
        "clone",
        "clone of another",
        "same remote",
        "copy",
        "same template",
        "another path",
        "another repository",
    ],
)
def test_working_trees_of_one_repository_have_one_program(program: Program, copy: str) -> None:
    """A script that was edited is the same program at its place in a worktree, or a clone of its repository, or of what
    that is a clone of, and whoever gets results of it is told; elsewhere in it, or in another repository, which may
    have begun with the same commit, it is another one."""
    base, mine, home = program.home / "base", program.home / "mine", program.home
    for place in (base, base / "part") if copy == "another path" else (base,):
        shutil.copytree(home / "conf", place / "conf")
        shutil.copy(home / "train.py", place)
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "all")):
        git(base, *words)
    match copy:
        case "worktree":
            git(base, "worktree", "add", "-q", str(mine))
        case "clone":
            git(home, "clone", "-q", "base", "mine")
        case "clone of another":
            git(home, "clone", "-q", "--bare", "base", "hub.git")
            git(base, "remote", "add", "hub", "../hub.git")
            git(home, "clone", "-q", f"file://{home}/hub.git", "mine")
        case "same remote":
            git(base, "remote", "add", "origin", "git@example.org:group/project.git")
            shutil.copytree(base, mine, ignore=shutil.ignore_patterns(".git"))
            git(mine, "init", "-q")
            git(mine, "remote", "add", "up", "https://example.org/group/project")
        case "copy":
            git(base, "remote", "add", "origin", "git@example.org:group/project.git")
            shutil.copytree(base, mine)
        case "same template":
            shutil.copytree(base, mine)
            git(base, "remote", "add", "origin", "git@example.org:one/project.git")
            git(mine, "remote", "add", "origin", "git@example.org:other/project.git")
        case "another path":
            mine = base / "part"
        case "another repository":
            shutil.copytree(base, mine, ignore=shutil.ignore_patterns(".git"))
            (mine / "more").touch()
            for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "all")):
                git(mine, *words)
    (mine / "train.py").write_text((mine / "train.py").read_text() + "\n# edited\n")
    sweep = ("-m", "seed=1,2", SCRIPTS)
    assert 0 == program.run(*sweep, script="base/train.py").returncode
    script = str((mine / "train.py").relative_to(home))
    done = program.run(*sweep, script=script)
    is_other = copy in ("same template", "another path", "another repository")
    assert (2 if is_other else 0) == done.returncode, done.stderr
    if is_other:
        assert "where both are one program, add hydra.sweeper.on_other_program=same" in done.stderr
        assert 0 == program.run(*sweep, "hydra.sweeper.on_other_program=same", script=script).returncode


@pytest.mark.usefixtures("light")
def test_whoever_gets_results_of_a_script_that_was_edited_elsewhere_is_told(program: Program) -> None:
    """Two clones of a template, each with edits of its own, are working trees of one repository: a sweep of the one
    says in one line that it leaves jobs of the other alone, unless it runs them again, or is told that both are the
    same."""
    base, mine, home = program.home / "base", program.home / "mine", program.home
    shutil.copytree(home / "conf", base / "conf")
    shutil.copy(home / "train.py", base)
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "all")):
        git(base, *words)
    git(home, "clone", "-q", "base", "mine")
    assert 0 == program.run("-m", "seed=1,2", script="base/train.py").returncode

    def told(*words: str) -> list[str]:
        done = program.run("-m", *words, script="mine/train.py")
        assert 0 == done.returncode, done.stderr
        return [line for line in done.stderr.splitlines() if "whose content is not that of" in line]

    assert [] == told("seed=1,2")
    (mine / "train.py").write_text((mine / "train.py").read_text() + "\n# edited\n")
    (line,) = told("seed=1,2,3")
    assert f" were started from {base}/train.py, whose content is not that of {mine}/train.py" in line
    assert "hydra.sweeper.experiment_name=..." in line
    assert [] == told("seed=3")
    assert [] == told("seed=1,2", "hydra.sweeper.on_other_program=same")
    assert [] == told("seed=1,2", "hydra.sweeper.rerun=always")
    assert [] == told("seed=1,2")


def test_a_script_that_cannot_be_read_may_be_the_same(tmp_path: Path) -> None:
    """Nobody is refused for what a program is that nobody can look at."""
    was, mine = entry.of_script("/proc/self/mem"), tmp_path / "mem"
    for text in ("", "main()"):
        mine.write_text(text)
        now = entry.of_script(str(mine))
        assert entry.Other.SAME is entry.other_program(was, now, "mem:main", str(tmp_path / "e"))


@pytest.mark.usefixtures("light")
def test_jobs_that_were_started_otherwise_are_told_of(program_after: ProgramAfter) -> None:
    """The environment that Hydra sets makes no other job, and a sweep that leaves jobs alone says that theirs was
    another one, in one line; run again, they have the new one, and nothing is to be told."""
    program = program_after("seed=1,2")
    done = program.sweep("seed=1,2,3", "+hydra.job.env_set.MODE=x")
    assert 0 == done.returncode, done.stderr
    assert "were started with nothing, and this sweep with hydra.job.env_set.MODE=x" in done.stderr
    other = ("seed=1,2,3", "+hydra.job.env_set.MODE=y")
    lines = [line for line in program.sweep(*other).stderr.splitlines() if "were started with" in line]
    assert 1 == len(lines)
    assert "nothing or hydra.job.env_set.MODE=x, and this sweep with hydra.job.env_set.MODE=y" in lines[0]
    assert "were started with" not in program.sweep(*other, "hydra.sweeper.rerun=always").stderr
    assert "were started with" not in program.sweep(*other).stderr


@pytest.mark.parametrize(
    "again",
    [
        ("++hydra.job.env_set.A=1", "++hydra.job.env_set.B='x y'"),
        ("+hydra.job.env_set={B: x y, A: 1}",),
        ("+hydra.job.env_set.B=x y", "+hydra.job.env_set.A=2", "++hydra.job.env_set.A=1", "hydra.verbose=true"),
        ("+hydra.job.env_set={A: 1, B: x y}", "+hydra.job.env_set.API_KEY=other"),
    ],
)
@pytest.mark.usefixtures("light")
def test_an_environment_that_is_written_otherwise_is_the_same(program_after: ProgramAfter, again: list[str]) -> None:
    """What is set counts, and not how: no prefix, no order, and no secret, which may be another one each time."""
    program = program_after(
        "seed=1", "+hydra.job.env_set.A=1", "+hydra.job.env_set.B=x y", "+hydra.job.env_set.API_KEY=one"
    )
    done = program.sweep("seed=1", *again)
    assert 0 == done.returncode, done.stderr
    assert "were started with" not in done.stderr


def test_a_config_is_the_same_with_its_ending(program: Program) -> None:
    """`-cn config` and `-cn config.yaml` are the same jobs; those that version 0.1 has told apart are found again."""
    assert 0 == program.sweep("-cn", "config", "seed=1,2", SCRIPTS).returncode
    assert 0 == program.sweep("-cn", "config.yaml", "seed=1,2,3", SCRIPTS).returncode
    assert [0, 1, 2] == manifest_ids(program)

    old = Setting("seed", "seed=7", 7)
    points = [Point((old,), "config.yaml"), Point((old._replace(text="seed=8", value=8),), "config.yaml")]
    known = Known(Folder(program.home / "experiments", "none"))
    known._jobs, known._by_identity = {5: (None, None)}, {points[0].identity: (5,)}
    known.next_id = 6
    grid = Grid([[Axis(("seed",), tuple(point.settings for point in points))]], "config")
    configured = Configured(ConfigTemplate({}))
    numbered = Numbered(grid, known, lambda _: configured, on_change="error", typed_config_name="config.yaml")
    assert [5, 6] == [job_id for job_id, _ in numbered]


HOSTILE = [
    "'a,b'",
    "'x=1'",
    "'it\\'s'",
    "'say \"hi\"'",
    "'[1, 2]'",
    "'{a: 1}'",
    "'ü ∑ 日本'",
    "'a # b'",
    "'50%'",
    "' lead'",
    "'$HOME'",
]


def test_hostile_text_reaches_the_job_as_it_was_typed(program: Program) -> None:
    """What is swept gets to the task function to the letter, whatever a shell or a grammar makes of it elsewhere."""
    names = [f"text{place}" for place in range(len(HOSTILE))]
    swept = [f"+{name}=choice(plain,{value})" for name, value in zip(names, HOSTILE, strict=True)]
    done = program.sweep(*swept, f"hydra.sweeper.zip=[[{','.join(names)}]]")
    assert done.returncode == 0, done.stderr
    plain = dict(zip(names, [value[1:-1].replace("\\'", "'") for value in HOSTILE], strict=True))
    expected = [dict.fromkeys(names, "plain"), plain]
    assert expected == [row["variables"] for row in program.told("jobs")]
    shown = [program.told("show", str(job))["configuration"] for job in (0, 1)]
    composed = [yaml.safe_load((program.experiment / f"jobs/{job}/.hydra/config.yaml").read_text()) for job in (0, 1)]
    for found in (shown, composed):
        assert expected == [{name: configuration[name] for name in names} for configuration in found]


def test_hostile_experiment_names_work(program: Program) -> None:
    """Any name that can be a folder's can be an experiment's."""
    name = """it's [x] a b=c,d ünï 50% "q" a#b?c\\slash"""
    quoted = name.replace("'", "\\'")
    done = program.sweep("seed=1", f"hydra.sweeper.experiment_name='{quoted}'")
    assert done.returncode == 0, done.stderr
    assert (program.home / "experiments" / name / "states" / "0.1.COMPLETED").exists()


def test_folders_of_the_original_library_are_not_swept_into(program: Program) -> None:
    """Jobs that another library has numbered get no rivals, and what to do is said."""
    program.experiment.mkdir(parents=True)
    (program.experiment / "config.json").write_text('{"variables": ["seed"], "jobs": []}')
    done = program.sweep("seed=1")
    assert 2 == done.returncode
    assert f"{program.experiment} holds an experiment of the original library" in done.stderr
    assert "config.json" in {path.name for path in program.experiment.iterdir()}
    assert not (program.experiment / "manifest.sqlite").exists()


MISTAKES = {
    "unknown name in a mapping": ("hydra.sweeper.pass_filter={algo: TD3}", "'algo', which is no variable"),
    "unknown name in an expression": ("hydra.sweeper.pass_filter='algo == 1'", "the variables are algorithm, seed"),
    "syntax error": ("hydra.sweeper.pass_filter='seed =='", "no expression"),
    "nothing passes": ("hydra.sweeper.pass_filter='seed > 9'", "seed is one of 1, 2, 3"),
    "unequal zip": ("hydra.sweeper.zip=[[algorithm,seed]]", "algorithm has 2, seed has 3"),
    "unknown key in zip": ("hydra.sweeper.zip=[[seed,lr]]", "'lr', which is not swept"),
    "zip that is no list of groups": ("hydra.sweeper.zip=[seed]", "list of groups"),
    "unknown job id": ("hydra.sweeper.pass_filter='0-99'", "job 6, which is not there"),
    "unknown state": ("hydra.sweeper.pass_filter='state:DONE'", "the states are PENDING"),
    "slash in the name": ("hydra.sweeper.experiment_name='a/b'", "slash"),
    "newline in the name": ("hydra.sweeper.experiment_name='a\nb'", "newline"),
    "leading dash": ("hydra.sweeper.experiment_name='-a'", "dash"),
    "unknown rerun": ("hydra.sweeper.rerun=sometimes", "failed, never, always"),
    "no number of jobs": ("hydra.launcher.n_jobs=0", "n_jobs=0"),
    "file where a folder should be": ("hydra.sweeper.experiment_path=train.py", "cannot be made or written"),
    "no function": ("hydra.sweeper.pass_filter=no.such_function", "neither a variable"),
    "function that fails": ("hydra.sweeper.pass_filter=os.path.exists", "failed on job"),
    "no samples": ("hydra.sweeper.sample=0", "sample=0"),
    "bad batch": ("hydra.sweeper.max_batch_size=0", "max_batch_size=0"),
    "interval": ("tau=interval(0,1)", "no list of values"),
}


IN_AN_EXPERIMENT = ("unknown name in a mapping", "nothing passes", "unknown job id", "unequal zip")


@pytest.mark.parametrize(
    ("mistake", "is_there"), [(m, False) for m in MISTAKES] + [(m, True) for m in IN_AN_EXPERIMENT]
)
def test_a_mistake_gets_one_sentence_and_changes_nothing(
    program: Program, program_after: ProgramAfter, mistake: str, is_there: bool
) -> None:
    """Exit code 2, one line that names the culprit and the way out, and no file changed, made or removed."""
    if is_there:
        program = program_after("seed=1")
    before = files_below(program.home)
    argument, said = MISTAKES[mistake]
    if is_there and mistake == "unknown job id":
        said = "which is not there"
    done = program.sweep(*GRID, argument)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    said_by_us = done.stderr[done.stderr.index("error: ") :]  # newer versions of Hydra warn before
    assert 1 == len(said_by_us.strip().splitlines()) or "newline" in mistake
    assert "Traceback" not in done.stderr
    after = {name: data for name, data in files_below(program.home).items() if "__pycache__" not in name}
    assert {name: data for name, data in before.items() if "__pycache__" not in name} == after


def test_an_option_that_is_not_there_is_told_in_hydras_words(program: Program) -> None:
    """As a dry run tells it, and not as a fault of a disk; nothing is left. YAML that a disk does not give is named as
    that, by a sweep and by its dry run."""
    before = files_below(program.home / "conf")
    done = program.sweep("algorithm=SAC,TD3", "seed=1")
    assert 1 == done.returncode
    assert "Could not find 'algorithm/SAC'\n\nAvailable options in 'algorithm':\n\tDDPG" in done.stderr
    assert "cannot be made or written" not in done.stderr
    (program.home / "conf/algorithm/BAD.yaml").symlink_to("/proc/self/mem")
    for dry in ("true", "false"):
        done = program.sweep("algorithm=TD3,BAD", "seed=1", f"hydra.sweeper.dry_run={dry}")
        assert 2 == done.returncode
        assert "error: the YAML of the program cannot be read: Input/output error; the disk" in done.stderr
    (program.home / "conf/algorithm/BAD.yaml").unlink()
    assert before == files_below(program.home / "conf")
    assert not program.experiment.exists()


@pytest.mark.parametrize("damage", [b"", b"garbage" * 100])
def test_damaged_manifest_is_named(program_after: ProgramAfter, damage: bytes) -> None:
    """A damaged manifest stops the sweep with its path, and is left for a backup to replace."""
    program = program_after("seed=1")
    path = program.experiment / "manifest.sqlite"
    path.chmod(0o644)
    path.write_bytes(damage)
    done = program.sweep("seed=1")
    assert done.returncode == 2
    assert str(path) in done.stderr
    assert "damaged" in done.stderr
    assert damage == path.read_bytes()


def test_newer_manifest_is_refused(program_after: ProgramAfter) -> None:
    """A manifest of a newer version says so, and which package to upgrade."""
    program = program_after("seed=1")
    path = program.experiment / "manifest.sqlite"
    path.chmod(0o644)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 999")
    done = program.sweep("seed=1")
    assert done.returncode == 2
    assert "newer version" in done.stderr
    assert "upgrade hydra-experiment-manager" in done.stderr


def test_unwritable_folder_is_named(program: Program) -> None:
    """A place where nothing can be written ends with a sentence that names it."""
    done = program.sweep("seed=1", "hydra.sweeper.experiment_path=/proc/here")
    assert done.returncode == 2
    assert "/proc/here/train cannot be made or written" in done.stderr


@pytest.mark.usefixtures("light")
def test_two_sweeps_at_once_run_every_job_once(program: Program, tmp_path: Path) -> None:
    """Two people, or one in two terminals, start the same sweep: every job completes once and none runs twice."""
    started = tmp_path / "started"
    started.mkdir()
    arguments = ("train.py", "-m", "seed=range(0,4)", f"started='{started}'", "sleep=0.2", "hydra.launcher.n_jobs=2")
    both = [program.start(*arguments) for _ in range(2)]
    for process in both:
        process.communicate(timeout=120)
    assert [f"{job}.1.COMPLETED" for job in range(4)] == program.states()
    assert list(range(4)) == sorted(int(path.name.split(".")[0]) for path in started.iterdir())
