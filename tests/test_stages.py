"""Stages: jobs that begin when jobs of another experiment have completed."""

import json
from pathlib import Path

import pytest

from experiment_manager import Experiment, current_job
from experiment_manager.model import policy
from tests.conftest import Program, ProgramAfter, wait_until

EVALUATE = """
import hydra
from experiment_manager import current_job
from train import end_as_told

@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg):
    upstream = current_job().upstream
    for job in upstream:
        assert list(job.directory.glob("result.*.json"))
        gain = {"TD3": 1.5, "DDPG": 0.5}[job.variables.get("algorithm", "TD3")]
        assert job.result == job.variables.get("seed", 1) * gain
    end_as_told(cfg.text)
    return {"after": [job.id for job in upstream], "results": [job.result for job in upstream]}

if __name__ == "__main__":
    main()
"""
"""A program that tells what its job comes after."""

TRAINED = ("seed=1,2", "algorithm=TD3,DDPG")
AFTER = "hydra.launcher.after=experiments/train"
AFTER_ALL = "hydra.launcher.after={experiment: experiments/train, jobs: all}"


def evaluating(program: Program) -> Program:
    """The program with a second one, whose jobs come after those of the first."""
    (program.home / "evaluate.py").write_text(EVALUATE)
    found = Program(program.home)
    found.experiment = program.home / "experiments/evaluate"
    return found


def found(program: Program) -> dict[int, list[int]]:
    """What each job that has completed came after."""
    return {row["job"]: row["result"]["after"] for row in program.told("results")}


def reasons(program: Program) -> dict[int, str]:
    return {job: one["reason"] for one in program.told("status")["troubles"] for job in one["jobs"]}


@pytest.mark.parametrize(
    ("arguments", "after"),
    [
        (["algorithm=DDPG,TD3", "seed=2", AFTER], {0: [3], 1: [2]}),  # ids differ, variables are the same
        (["algorithm=DDPG", "tau=1", AFTER], {0: [1, 3]}),
        (["tau=1", AFTER_ALL], {0: [0, 1, 2, 3]}),
        (["algorithm=TD3", "seed=2.0", AFTER], {0: [2]}),  # the same number
    ],
)
def test_jobs_come_after_those_that_match(
    program_after: ProgramAfter, arguments: list[str], after: dict[int, list[int]]
) -> None:
    """Those with the same values of all variables that both experiments have: one, several, or all; a job is given
    them, and what they have returned."""
    program = evaluating(program_after(*TRAINED))
    done = program.run("-m", *arguments, script="evaluate.py")
    assert 0 == done.returncode, done.stderr
    assert after == found(program)
    rows = Experiment.at(program.home / "experiments/train").result_rows()
    returned = {row["job"]: row["result"]["result"] for row in rows}
    for row in program.told("results"):
        assert [returned[job_id] for job_id in row["result"]["after"]] == row["result"]["results"]


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("verb", ["sweep", "work"])
def test_jobs_wait_for_those_that_run(program: Program, tmp_path: Path, verb: str) -> None:
    """What comes after jobs that run waits for their end, in a pool and under a worker by hand."""
    release = tmp_path / "release"
    train = program.start("train.py", "-m", "seed=1,2", RELEASE=str(release))
    wait_until(lambda: ["0.1.RUNNING", "1.1.RUNNING"] == program.states())
    after = evaluating(program)
    arguments = ["evaluate.py", "-m", "seed=1,2", AFTER]
    if verb == "work":
        done = after.run(*arguments[1:], "hydra/launcher=slurm_script", script="evaluate.py")
        assert 0 == done.returncode, done.stderr
        arguments = ["-m", "experiment_manager", "work", str(after.experiment)]
    second = after.start(*arguments)
    wait_until(lambda: (after.experiment / "launches/0001/launch.json").exists())
    assert second.poll() is None
    assert [] == after.states()
    release.touch()
    for process in (train, second):
        _, said = process.communicate(timeout=60)
        assert 0 == process.returncode, said
    assert {0: [0], 1: [1]} == found(after)


@pytest.mark.usefixtures("light")
def test_what_can_never_begin_is_cancelled(program: Program) -> None:
    """After a job that failed, or that nobody is about to run, none begins, and its state says why; the others run.
    When that has completed, the same jobs run, also by `resubmit`."""
    swept = ["how=well,unless-again", "seed=1,2", "hydra.sweeper.zip=[[seed,how]]"]
    assert 1 == program.sweep(*swept).returncode
    after = evaluating(program)
    done = after.run("-m", "seed=1,2", AFTER, script="evaluate.py")
    assert 1 == done.returncode
    assert ["0.1.COMPLETED", "1.1.CANCELLED"] == after.states()
    assert reasons(after) == {1: f"job 1 of {program.experiment}, which it comes after, is FAILED"}
    assert not list((after.experiment / "jobs/1").glob("*.log"))
    assert 0 == program.sweep(*swept).returncode
    assert 0 == after.tool("resubmit", "--yes").returncode
    assert {0: [0], 1: [1]} == found(after)


@pytest.mark.usefixtures("light")
def test_what_is_about_to_run_again_is_waited_for(program: Program, tmp_path: Path) -> None:
    """A job that failed, and that a sweep which lives is about to begin once more, is no reason to give up."""
    swept = ["how=well,unless-again", "seed=1,2", "hydra.sweeper.zip=[[seed,how]]", "hydra.launcher.n_jobs=1"]
    assert 1 == program.sweep(*swept).returncode
    release = tmp_path / "release"
    again = program.start("train.py", "-m", *swept, "hydra.sweeper.rerun=always", RELEASE=str(release))
    wait_until(lambda: "0.2.RUNNING" in program.states())
    after = evaluating(program)
    second = after.start("evaluate.py", "-m", "seed=2", AFTER)
    assert "waiting for 1 job of experiments/train" in "".join(second.stderr.readline() for _ in range(2))  # type: ignore[union-attr]
    assert ["1.1.FAILED"] == [name for name in program.states() if name.startswith("1.")]
    release.touch()
    for process in (again, second):
        _, said = process.communicate(timeout=60)
        assert 0 == process.returncode, said
    assert {0: [1]} == found(after)


@pytest.mark.usefixtures("light")
def test_nobody_waits_for_what_nobody_runs(program: Program) -> None:
    """Jobs that are defined, and neither run nor wait, are not waited for."""
    assert 0 == program.sweep("seed=1,2", "hydra/launcher=slurm_script").returncode
    after = evaluating(program)
    assert 1 == after.run("-m", "seed=1", AFTER, script="evaluate.py").returncode
    assert {0: f"job 0 of {program.experiment}, which it comes after, has not completed"} == reasons(after)


def test_a_script_that_begins_too_early_runs_nothing(program_after: ProgramAfter) -> None:
    """Whoever starts a task by hand before its upstream has completed finds it CANCELLED, with the reason."""
    program = program_after("seed=1,2")
    after = evaluating(program)
    done = after.run("-m", "seed=1,2", AFTER, "hydra/launcher=slurm_script", script="evaluate.py")
    assert "submit with: experiment-manager submit experiments/evaluate, which lets them wait" in done.stderr
    states = program.experiment / "states"
    (states / "1.1.COMPLETED").rename(states / "1.1.TIMEOUT")
    by_hand = after.tool("run", "1")
    assert 2 == by_hand.returncode
    assert f"job 1 of {after.experiment} is not begun: job 1 of {program.experiment}, which" in by_hand.stderr
    assert [] == after.states()
    for job_id, status in ((0, 0), (1, policy.INCOMPLETE)):
        words = ["--experiment-path", str(after.experiment.parent), "--experiment-name", "evaluate"]
        words += ["--launch", "0001", "--job-id", str(job_id)]
        assert status == after.python("-m", "experiment_manager", "run", *words).returncode
    assert ["0.1.COMPLETED", "1.1.CANCELLED"] == after.states()
    assert reasons(after) == {1: f"job 1 of {program.experiment}, which it comes after, is TIMEOUT"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["seed=1", "hydra.launcher.after=experiments/trian"], "did you mean experiments/train?"),
        (["seed=1", "hydra.launcher.after=experiments/evaluate"], "is this experiment itself"),
        (["seed=1", "hydra.launcher.after={experiment: experiments/train, jobs: some}"], "use matching, all"),
        (["seed=1", "hydra.launcher.after={folder: experiments/train}"], "names no experiment; write its folder"),
        (["seed=1,3,4", AFTER], "experiments/train has no job with seed=3; seed=4; sweep it there first"),
        (["tau=1,2", AFTER], "share no variable with those of experiments/train, which has seed; sweep one of them"),
        (["seed=1", AFTER, "hydra/sweeper=experiment_optuna", "tau=interval(0,1)"], "is for hydra/sweeper=experiment"),
    ],
)
def test_what_cannot_be_meant_is_refused(program_after: ProgramAfter, arguments: list[str], sentence: str) -> None:
    """A sentence, exit code 2, and nothing is written."""
    program = evaluating(program_after("seed=1,2"))
    done = program.run("-m", *arguments, script="evaluate.py")
    assert 2 == done.returncode, done.stderr
    assert sentence in done.stderr
    assert not program.experiment.exists()


def test_a_dry_run_tells_what_comes_after_what(program_after: ProgramAfter) -> None:
    program = evaluating(program_after("seed=1,2"))
    done = program.run("-m", "seed=2", AFTER, "hydra.sweeper.dry_run=true", script="evaluate.py")
    assert "after: the jobs of experiments/train that match: job 0 after job 1\n" in done.stdout


def test_python_launches_what_comes_after(program_after: ProgramAfter, monkeypatch: pytest.MonkeyPatch) -> None:
    """`exp.launch(..., after=...)`; older versions, which would not wait, do not read such a launch."""
    program = evaluating(program_after("seed=1,2"))
    monkeypatch.chdir(program.home)
    experiment = Experiment.from_sweep("conf", "config", ["seed=2"], experiment_name="evaluate")
    experiment.launch("local_pool", "evaluate.py", after="experiments/train")
    assert {0: [1]} == found(program)
    launch = json.loads((program.experiment / "launches/0001/launch.json").read_text())
    assert 5 == launch["format"]
    place = {"experiment": str(program.home / "experiments/train"), "relative": "../train"}
    assert {**place, "offsets": {"1": "0"}, "groups": {}} == launch["upstream"]


def test_outside_of_an_experiment_nothing_comes_before() -> None:
    assert () == current_job().upstream
