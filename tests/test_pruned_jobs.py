"""Jobs that are pruned: they compare themselves with others at rungs, leave when they are told to, and are PRUNED."""

import json
import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiment_manager import Experiment
from experiment_manager.execution import current_job as module
from experiment_manager.execution import environment, pruning
from experiment_manager.execution.current_job import CurrentJob
from experiment_manager.execution.study import Proposer
from experiment_manager.model.pruning import Pruner, checked
from experiment_manager.model.search import CATEGORICAL, Dimension
from experiment_manager.model.search import Choice as OneOf
from experiment_manager.report.contents import Choice, collect
from experiment_manager.store.layout import Folder
from experiment_manager.store.rungs import last_rungs, rung_values, values_by_attempt, why_pruned
from tests.conftest import Program
from tests.test_search import beginning, search

CURVE = """
import sys
import hydra
from experiment_manager import current_job

@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg):
    job, how = current_job(), cfg.how
    for step in range(1, 10):
        job.log_metrics(step=step, loss=cfg.lr)
        if job.should_stop() and how != "ignores":
            assert job.stop_reason == "pruned"
            if how == "exits":
                sys.exit(0)
            if how == "fails":
                raise ValueError("on its way out")
            return {"score": 100.0, "steps": step} if how == "heeds" else None
    return {"score": cfg.lr, "steps": step}

main()
"""
BY_LOSS = (
    *("hydra/sweeper=experiment", "hydra.sweeper.experiment_name=train"),
    *("hydra.sweeper.metric=loss", "hydra.sweeper.direction=minimize"),
)
PRUNED = (*BY_LOSS, "hydra.sweeper.pruner={name: asha, reduction_factor: 3}")


def with_curves(home: Path) -> Path:
    """In that folder is a program whose jobs log a loss, which is their learning rate, at nine steps."""
    (home / "train.py").write_text(CURVE)
    (home / "conf").mkdir(exist_ok=True)
    (home / "conf/config.yaml").write_text("{lr: 1, how: heeds, task: easy}")
    return home


@pytest.fixture
def curves(tmp_path: Path) -> Program:
    return Program(with_curves(tmp_path))


def one_at_a_time(*more: str) -> tuple[str, ...]:
    return ("hydra/launcher=local_pool", "hydra.launcher.n_jobs=1", "hydra.launcher.start_method=forkserver", *more)


def test_jobs_that_are_pruned(curves: Program) -> None:
    """A job that is told and leaves is PRUNED, however it leaves; one that fails on the way is FAILED; one that goes on
    completes. PRUNED is no failure, and is left alone until somebody asks for it."""
    ways: list[dict[str, Any]] = [
        {"lr": 1},
        *({"lr": 2, "how": how} for how in ("heeds", "exits", "nothing", "ignores")),
        {"lr": 0.5},
    ]
    blocks = ",".join(f"{{params: {{{', '.join(f'{key}: {value}' for key, value in way.items())}}}}}" for way in ways)
    sweep = (*PRUNED, f"hydra.sweeper.blocks=[{blocks}]", *one_at_a_time())
    done = curves.sweep(*sweep)
    assert 0 == done.returncode, done.stderr
    states = ["0.1.COMPLETED", "1.1.PRUNED", "2.1.PRUNED", "3.1.PRUNED", "4.1.COMPLETED", "5.1.COMPLETED"]
    assert states == curves.states()
    assert "job 1 PRUNED" in done.stderr
    assert "3 PRUNED left alone" in curves.sweep(*sweep).stderr
    assert states == curves.states()

    folder = Folder.at(curves.experiment)
    (rungs,) = os.listdir(folder.rungs)
    assert {1: 1.0, 3: 1.0, 9: 1.0} == rung_values(folder, rungs)[0]
    assert {1: 2.0} == rung_values(folder, rungs)[1]
    assert {1: 2.0, 3: 2.0, 9: 2.0} == rung_values(folder, rungs)[4]
    end = json.loads(Path(folder.of_attempt(1, 1, "attempt")).read_text())
    why = "at step 1 its loss is 2; 1 of the 2 there are better, and the best one goes on"
    assert (why, 2) == (end["reason"], end["format"])
    found = curves.told("status")
    assert {"step 1": [1, 2, 3]} == found["pruned"]
    assert [] == found["troubles"]
    assert "pruned at step 1: 3" in curves.tool("status").stdout

    experiment = Experiment.at(curves.experiment)
    pruning = collect(folder, list(experiment.iter_jobs()), experiment.states(), Choice()).pruning
    rungs_of_report = (("1", 6, 3, "0.5"), ("3", 3, 0, "0.5"), ("9", 3, 0, "0.5"))
    assert ("asha by loss, minimize", rungs_of_report) == pruning
    experiment.report(None)
    assert '<section id="pruning">' in Path(curves.experiment, "report.html").read_text()

    shown = curves.tool("results", "--json")
    assert [0, 4, 5] == [row["job"] for row in json.loads(shown.stdout)]
    assert "3 jobs PRUNED are left out, whose values are not comparable (jobs 1-3)" in shown.stderr
    rows = curves.told("results", "--pruned")
    assert [{"score": 100.0, "steps": 1}, {}, {}] == [row["result"] for row in rows[1:4]]
    assert 3 == sum(row["count"] for row in curves.told("results", "--group-by", "lr"))
    assert 0 == curves.tool("results", "--missing").returncode

    again = curves.tool("resubmit", "--state", "PRUNED", "--yes")
    assert 0 == again.returncode, again.stderr
    assert ["1.2.COMPLETED", "2.2.COMPLETED", "3.2.COMPLETED"] == [name for name in curves.states() if ".2." in name]
    assert "PRUNED" not in curves.told("status")["counts"]


def test_a_job_that_fails_when_it_was_told(curves: Program) -> None:
    """Under a launcher that calls the task function itself, jobs are pruned, too; what fails then is FAILED."""
    done = curves.sweep(*PRUNED, "hydra/launcher=basic", "lr=1,3", "how=heeds,fails")
    assert 1 == done.returncode
    assert ["0.1.COMPLETED", "1.1.COMPLETED", "2.1.PRUNED", "3.1.FAILED"] == curves.states()


def test_whoever_works_on_the_jobs_of_a_sweep(curves: Program) -> None:
    """`work` runs the jobs of scripts that wait with the pruner of their sweep, and ends well; an older version refuses
    their launch."""
    assert 0 == curves.sweep(*PRUNED, "hydra/launcher=slurm_script", "lr=1,nan").returncode
    record = json.loads((curves.experiment / "launches/0001/launch.json").read_text())
    assert (3, "asha", "loss") == (record["format"], record["pruner"]["name"], record["pruner"]["metric"])
    done = curves.tool("work", "--jobs", "1")
    assert 0 == done.returncode, done.stderr
    assert {"COMPLETED": 1, "PRUNED": 1} == curves.told("status")["counts"]


def test_jobs_that_are_not_comparable(curves: Program) -> None:
    """With `group_by` a job is compared with those alone that agree in a variable; one that there is none of is
    refused."""
    grouped = "hydra.sweeper.pruner={name: asha, group_by: [%s]}"
    done = curves.sweep(
        *BY_LOSS, *one_at_a_time(), grouped % "task", "task=easy,hard", "lr=1,nan,3", "hydra.sweeper.dry_run=true"
    )
    assert "pruner: asha" in done.stdout
    wrong = curves.sweep(*BY_LOSS, grouped % "tsk", "task=easy,hard", "lr=1,2")
    assert (2, True) == (wrong.returncode, "'tsk' is no variable; the variables are task, lr" in wrong.stderr)
    found = curves.sweep(*BY_LOSS, *one_at_a_time(), grouped % "lr", "task=easy,hard", "lr=1,2,nan")
    assert 0 == found.returncode, found.stderr
    states = ["0.1.COMPLETED", "1.1.COMPLETED", "2.1.PRUNED", "3.1.COMPLETED", "4.1.COMPLETED", "5.1.PRUNED"]
    assert states == curves.states()
    (rungs,) = os.listdir(curves.experiment / "rungs")
    names = sorted(os.listdir(curves.experiment / "rungs" / rungs / "1"))
    groups = [name.partition("~")[2] for name in names]
    assert (6, groups[:3]) == (len(names), groups[3:])
    assert 3 == len(set(groups))


def test_a_pruner_that_cannot_be_meant(curves: Program) -> None:
    """The sweep is refused with a sentence, and nothing is written."""
    done = curves.sweep("hydra/sweeper=experiment", "hydra.sweeper.pruner=asha", "lr=1,2")
    assert 2 == done.returncode
    assert "error: hydra.sweeper.pruner=asha needs hydra.sweeper.metric, the name of a metric" in done.stderr
    assert ["conf", "train.py"] == sorted(os.listdir(curves.home))


def test_a_metric_that_no_job_logs(curves: Program) -> None:
    """Where nothing could be compared, the sweep and `status` say so."""
    done = curves.sweep(*PRUNED, "hydra.sweeper.metric=los", *one_at_a_time(), "lr=1,2")
    assert (0, ["0.1.COMPLETED", "1.1.COMPLETED"]) == (done.returncode, curves.states())
    line = "2 jobs COMPLETED without a value of los from step 1 on, by which the pruner compares jobs (jobs 0-1)"
    assert line in done.stderr
    assert line in curves.tool("status").stdout


# -- one attempt, in this process --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path, "train")


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_DFL) for number in module._STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def pruner(name: str = "asha", direction: str = "minimize", take: str = "last", **options: Any) -> Pruner:
    found = checked({"name": name, **options}, {"name": "loss", "take": take}, direction)
    assert found is not None
    return found


def attempt_of(folder: Folder, job_id: int, rule: Pruner, *, attempt: int = 1, since: int = 1) -> CurrentJob:
    """The job in its attempt, as its launch says whose first attempt of it is `since`."""
    os.makedirs(folder.job(job_id), exist_ok=True)
    told = environment.of_attempt(folder, job_id, attempt, pruner=rule._asdict(), since=since)
    return CurrentJob(folder, job_id, attempt, told[environment.PRUNER_VARIABLE])


def logs(job: CurrentJob, *losses: float, first: int = 1) -> bool:
    """Whether the job is told to end after it has logged these losses, one a step."""
    for step, loss in enumerate(losses, start=first):
        job.log_metrics(step=step, loss=loss)
    return job.should_stop()


def test_values_stay_as_they_were_left_first(folder: Folder) -> None:
    """In one launch the first attempt that comes to a rung leaves the value of the job there; an attempt of another
    launch leaves its own, which counts from then on, but where it goes on from a checkpoint beyond."""
    rule = pruner(reduction_factor=2)
    assert not logs(attempt_of(folder, 0, rule), 5.0, 4.0)
    assert not logs(attempt_of(folder, 0, rule, attempt=2), 9.0, 9.0, 9.0, 3.0)
    assert {1: {1: 5.0}, 2: {1: 4.0}, 4: {2: 3.0}} == {
        step: values_by_attempt(folder, rule.rungs, step)[0] for step in (1, 2, 4)
    }
    assert not logs(attempt_of(folder, 0, rule, attempt=3, since=3), 0.5, first=3)
    assert {1: 5.0, 2: 4.0, 4: 3.0} == rung_values(folder, rule.rungs)[0]
    assert not logs(attempt_of(folder, 0, rule, attempt=4, since=4), 7.0, 6.0)
    assert {1: 7.0, 2: 6.0, 4: 3.0} == rung_values(folder, rule.rungs)[0]
    assert {0: 4.0} == last_rungs(folder)


def test_the_best_value_or_the_last(folder: Folder) -> None:
    """With `take: best` the best value so far counts at a rung, else the last."""
    for direction, values in (("minimize", (3.0, 2.0)), ("maximize", (2.0, 3.0))):
        for take, expected in (("last", values[0]), ("best", values[1])):
            rule = pruner(direction=direction, take=take, min_steps=2)
            logs(attempt_of(folder, 0, rule), values[1], values[0])
            assert {0: {2: expected}} == rung_values(folder, rule.rungs)


def test_rungs_that_a_job_jumps_over(folder: Folder) -> None:
    """A job that logs now and then leaves a value at the last rung that it has passed, and none at those before."""
    rule = pruner(reduction_factor=2)
    job = attempt_of(folder, 0, rule)
    job.log_metrics(step=5, loss=1)
    job.log_metrics(step=6, other=1)
    job.log_metrics(step=9, loss=math.nan)
    assert ["4", "8"] == sorted(os.listdir(os.path.join(folder.rungs, rule.rungs)))
    assert job.should_stop()
    assert "at step 9 its loss is nan; it is NaN" == why_pruned(folder, 0, 1) == job.pruned


def test_the_jobs_of_a_trial_count_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a rung the means of trials are compared, and when a job is told to end, so are the others of its trial, also
    one that has come to no rung yet; but not one that runs again, or when the first one does."""
    seeds = Dimension("seed", CATEGORICAL, choices=tuple(OneOf(f"seed={seed}", seed) for seed in (1, 2, 3)))
    folder = beginning(tmp_path, search(0, 5, averaged=(seeds,)))
    proposer = Proposer(folder, "0001")
    assert list(range(6)) == [proposer.next().job_id for _ in range(6)]  # type: ignore[union-attr]
    monkeypatch.setattr(pruning, "_LOOKS_EVERY_S", 0.0)
    rule = pruner(reduction_factor=2)._replace(average_over=("seed",))
    jobs = [attempt_of(folder, job_id, rule) for job_id in range(6)]
    assert not logs(jobs[0], 4.0)
    assert not logs(jobs[3], 1.0)
    jobs[1].log_metrics(step=1, loss=0.0)
    assert not logs(jobs[0], 4.0, first=2)  # the other one has not asked yet
    assert jobs[1].should_stop()
    why = "at step 1 its loss is 0, 2 in the mean of 2 jobs; 1 of the 2 there are better, and the best one goes on"
    assert why == jobs[1].pruned
    assert logs(jobs[0], 4.0, first=3)
    assert logs(jobs[2], 0.0, first=0)
    assert "another job of its trial was told to end" == jobs[0].pruned == jobs[2].pruned
    assert not logs(jobs[3], 1.0, first=2)

    Path(folder.states).mkdir()
    for name in ("0.1", "0.1.PRUNED"):
        Path(folder.states, name).touch()
    assert not logs(attempt_of(folder, 0, rule, attempt=2, since=2), 0.0, first=0)
    assert logs(attempt_of(folder, 2, rule), 0.0, first=0)
    Path(folder.states, "1.2").touch()
    assert not logs(attempt_of(folder, 2, rule), 0.0, first=0)


def test_a_job_without_patience(folder: Folder) -> None:
    """It is told when it has done no better for so many steps, wherever the others are."""
    job = attempt_of(folder, 0, pruner("patient", patience=3, min_steps=2))
    assert not logs(job, 5.0, 4.0, 4.0, 4.0)
    assert logs(job, 4.0, first=5)
    assert "no better loss than 4 since step 2" == job.pruned


def test_a_job_that_goes_on_was_not_pruned(folder: Folder) -> None:
    """Once it has logged two later steps it goes on, and is not told again; one later line may be its last words."""
    rule = pruner(reduction_factor=2)
    logs(attempt_of(folder, 0, rule), 1.0, 1.0, 1.0, 1.0)
    job = attempt_of(folder, 1, rule)
    assert logs(job, 2.0)
    assert ("pruned", False) == (job.stop_reason, job.told)
    job.log_metrics(step=1, loss=2.0)
    job.log_metrics(step=2, test=2.0)
    assert job.pruned is not None
    logs(job, 2.0, 2.0, first=3)
    assert job.pruned is None
    assert not os.path.exists(folder.of_attempt(1, 1, "pruned"))


def test_where_nothing_can_be_compared(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """Without steps, or where the folder cannot be written, the job goes on, and says so once."""
    job = attempt_of(folder, 0, pruner())
    for _ in range(2):
        job.log_metrics(loss=math.nan)
    job.log_metrics(step=1, loss="none yet")
    assert not os.path.exists(folder.rungs)
    Path(folder.rungs).write_text("in the way")
    assert not logs(job, math.nan, math.nan, math.nan, math.nan)
    said = capsys.readouterr().err
    assert 1 == said.count("loss is logged without a step, by which jobs are compared: none is pruned")
    assert 1 == said.count("the job cannot be compared with others, and goes on: Not a directory")


def test_a_mark_that_cannot_be_written(folder: Folder) -> None:
    """A job is told nothing that nobody could read later."""
    job = attempt_of(folder, 0, pruner())
    os.mkdir(folder.of_attempt(0, 1, "pruned"))
    assert not logs(job, math.nan)
    assert job.stop_reason is None


def test_other_ranks_hear_nothing(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 alone is compared, as it alone logs."""
    monkeypatch.setenv("RANK", "1")
    assert not logs(attempt_of(folder, 0, pruner()), math.nan)
    assert not os.path.exists(folder.rungs)


@pytest.mark.parametrize(
    ("number", "reason"),
    [(signal.SIGTERM, "terminated"), (signal.SIGUSR1, "warning"), (signal.SIGUSR2, "warning")],
)
def test_why_a_job_is_to_end(folder: Folder, number: int, reason: str) -> None:
    """A signal says why as far as it tells, and comes before what others do better; None until then."""
    job = attempt_of(folder, 0, pruner())
    assert (False, None) == (job.should_stop(), job.stop_reason)
    os.kill(os.getpid(), number)
    assert (True, reason, True) == (logs(job, math.nan), job.stop_reason, job.told)
    assert why_pruned(folder, 0, 1) is None
