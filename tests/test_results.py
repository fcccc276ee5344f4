"""Which jobs are the best: by what, and of which jobs."""

import json
import math
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from experiment_manager import Experiment, current_job
from experiment_manager.analysis.results import known_objective
from experiment_manager.analysis.tables import aggregate, flat_results, result_names
from experiment_manager.cli.main import main
from experiment_manager.model.pruning import checked
from experiment_manager.model.records import Attempt, JobId, State
from experiment_manager.store.launches import create_launch, driven
from tests.conftest import Program


def two_by_two(place: Path, runner: Callable[[int, dict[str, Any], Any], Any]) -> Experiment:
    """Two values of lr with two seeds each, which have run."""
    experiment = Experiment(["lr", "seed"], "train", place)
    for lr in (1, 2):
        for seed in range(2):
            experiment.add_job({"lr": lr, "seed": seed}, {"lr": lr})
    experiment.save()
    experiment.save_pass_filter(range(4))
    for job_id in range(4):
        experiment.run_id(job_id, runner)
    return experiment


@pytest.fixture
def pruned_by_loss(tmp_path: Path) -> Experiment:
    """Jobs that return acc and loss, both larger for a smaller lr; a pruner compared them by loss, to minimize."""
    experiment = two_by_two(tmp_path, lambda _, values, __: dict.fromkeys(("acc", "loss"), 1 / values["lr"]))
    pruner = checked({"name": "asha", "min_steps": 10}, "loss", "minimize")
    assert pruner is not None
    with driven(experiment.folder, create_launch(experiment.folder, [ATTEMPT], {"pruner": pruner._asdict()})):
        pass
    return experiment


ATTEMPT = Attempt(JobId(0), 1, State.PENDING)


@pytest.mark.parametrize(("metric", "goal", "lr"), [(None, "min", 2), ("loss", "min", 2), ("acc", "max", 1)])
def test_a_metric_is_ranked_by_its_own_goal(
    pruned_by_loss: Experiment, capsys: pytest.CaptureFixture[str], metric: str | None, goal: str, lr: int
) -> None:
    """What decides is what the pruner goes by, unless another metric is named, to which its goal does not apply: the
    same for the best jobs and groups, a comparison, and a report."""
    words = [] if metric is None else ["--metric", metric]
    for more in ([], ["--group-by", "lr"]):
        assert 0 == main(["results", pruned_by_loss.folder.path, "--best", "1", "--format", "json", *more, *words])
        assert [lr] == [row["lr"] for row in json.loads(capsys.readouterr().out)]
    found = pruned_by_loss.compare(metric=metric)
    assert (metric or "loss", goal, f"lr={lr}") == (found.metric, found.goal, found.methods[0].label)
    page = " ".join(Path(pruned_by_loss.report(metric=metric)).read_text().split())
    assert re.search(rf"{found.metric}<.{{0,40}} the {'largest' if goal == 'max' else 'smallest'} is best", page)
    assert ([] if metric != "acc" else ["the largest acc counts as the best; --goal min takes the smallest"]) == (
        capsys.readouterr().err.splitlines()
    )


def test_a_later_sweep_without_a_pruner_changes_no_goal(
    pruned_by_loss: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is best stays what it was, and tables of the same groups have the same columns in each format."""
    with driven(pruned_by_loss.folder, create_launch(pruned_by_loss.folder, [ATTEMPT], {})):
        pass
    where = ["results", pruned_by_loss.folder.path]
    assert 0 == main([*where, "--best", "1", "--format", "json"])
    assert [2] == [row["lr"] for row in json.loads(capsys.readouterr().out)]
    headers = set()
    for more in (["--format", "csv"], ["--format", "csv", "--best", "2"], ["--format", "markdown"]):
        assert 0 == main([*where, "--group-by", "lr", *more])
        headers.add(frozenset(re.findall(r"acc|loss|lr|count", capsys.readouterr().out.splitlines()[0])))
    assert {frozenset({"acc", "loss", "lr", "count"})} == headers


@pytest.mark.usefixtures("light")
def test_a_metric_that_a_sweep_names_decides_without_a_pruner(program: Program) -> None:
    """What `hydra.sweeper.metric` and `direction` say is what is best, also where nothing prunes; until a sweep names
    another."""
    program.sweep("seed=3,1,2", "hydra.sweeper.metric=loss", "hydra.sweeper.direction=minimize")
    assert "by loss, of which the min is best" in program.tool("results", "--best", "1").stdout
    assert 0 == program.sweep("seed=4").returncode
    experiment = Experiment.at(program.experiment)
    assert {"loss": "min"} == known_objective(experiment.folder).goals
    assert "the smallest is best" in " ".join(Path(experiment.report()).read_text().split())
    program.sweep("seed=5", "hydra.sweeper.metric=result", "hydra.sweeper.direction=maximize")
    assert "by result, of which the max is best" in program.tool("results", "--best", "1").stdout


def test_where_the_best_value_counts_people_are_told_that_the_last_is_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`take: best` is of a search or a pruner; tables, comparisons and reports go by the last value that was logged,
    and say so; not of what jobs return, of which there is one."""
    experiment = two_by_two(tmp_path, logs_reward)
    ranking = {"metric": "reward", "direction": "maximize", "take": "best"}
    with driven(experiment.folder, create_launch(experiment.folder, [ATTEMPT], {"ranking": ranking})):
        pass
    said = "goes by the best reward of each job (take: best); here the last one counts"
    for words in ([], ["--group-by", "lr"], ["--metric", "metrics.reward"]):
        assert 0 == main(["results", experiment.folder.path, "--best", "1", *words])
        assert said in capsys.readouterr().err
    assert 0 == main(["results", experiment.folder.path, "--best", "1", "--metric", "returned"])
    assert said not in capsys.readouterr().err
    assert any(said in note for note in experiment.compare().notes)
    experiment.report()
    assert said in capsys.readouterr().err


def logs_reward(_: int, variables: dict[str, Any], __: Any) -> dict[str, float]:
    for step, reward in enumerate((9 / variables["lr"], variables["lr"])):
        current_job().log_metrics(step=step, reward=reward)
    return {"returned": 1.0}


@pytest.mark.usefixtures("light")
def test_a_mean_tells_of_the_jobs_that_are_not_in_it(program: Program) -> None:
    """A job that had completed, and was run again and failed, is in no mean, and a line names it; its row says of which
    attempt the result is, in a frame, too."""
    program.sweep("seed=1,2")
    with pytest.raises(ZeroDivisionError):
        Experiment.at(program.experiment).run_id(1, lambda *_: 1 / 0)
    done = program.tool("results", "--group-by", "seed")
    assert "1 job is left out, whose last attempt has not ended well (job 1)" in done.stderr
    first, second = program.told("results")
    assert ("of_attempt" not in first, "FAILED", 2, 1) == (
        True,
        *(second[n] for n in ("state", "attempt", "of_attempt")),
    )
    frame = Experiment.at(program.experiment).results()
    assert ["job", "state", "attempt", "of_attempt", "seed"] == list(frame.columns[:5])
    assert "in its last attempt or an earlier one" in program.tool("results", "--missing").stderr
    with pytest.raises(ZeroDivisionError):
        Experiment.at(program.experiment).run_id(0, lambda *_: 1 / 0)
    said = program.tool("results", "--best", "1", "--metric", "loss").stderr
    assert "the last attempt of no job has ended well: the best is of what earlier ones have left" in said
    said = program.tool("results", "--best", "1", "--metric", "loss", "--group-by", "seed").stderr
    assert "2 jobs are left out, whose last attempt has not ended well (jobs 0-1)" in said


@pytest.mark.parametrize("kind", ["result", "state"])
def test_a_column_has_values_of_one_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    """A name that some jobs have as a variable, some have returned and some have logged is three columns in the tables
    of jobs and in Python, and each job without one of them has nothing there, also where a part of them is shown."""
    experiment = Experiment([kind, "seed"], "train", tmp_path)
    for seed in range(3):
        experiment.add_job({kind: "variable", "seed": seed}, {})
    experiment.save()
    experiment.save_pass_filter(range(3))

    def runner(job_id: int, *_: Any) -> Any:
        current_job().log_metrics(**{"loss": 100 + job_id, kind: 200 + job_id, "metric": job_id})
        return {"loss": 10} if job_id == 1 else {kind: "returned", "acc": 0.5} if job_id == 2 else None

    for job_id in range(3):
        experiment.run_id(job_id, runner)
    variable = kind if kind == "result" else "variables.state"
    expected: list[dict[str, Any]] = [
        {variable: "variable", "loss": None, "metrics.loss": 100, f"metrics.{kind}": 200, f"result.{kind}": None},
        {variable: "variable", "loss": 10, "metrics.loss": 101, f"metrics.{kind}": 201, f"result.{kind}": None},
        {variable: "variable", "loss": None, "metrics.loss": 102, f"metrics.{kind}": 202, f"result.{kind}": "returned"},
    ]
    where = ["results", experiment.folder.path, "--format", "json", "--columns", ",".join(["job", *expected[0]])]
    best = ["--best", "2", "--metric", "metric"]
    for words, jobs in (([], [0, 1, 2]), (best, [2, 1]), (["--where", "seed > 0"], [1, 2])):
        assert 0 == main([*where, *words])
        rows = {row.pop("job"): row for row in json.loads(capsys.readouterr().out)}
        assert {job_id: expected[job_id] for job_id in jobs} == rows
    frame = experiment.results()
    assert [10.0] == frame["loss"].dropna().tolist()
    assert [100, 101, 102] == frame["metrics.loss"].tolist()


@pytest.fixture
def logged_and_returned(tmp_path: Path) -> Experiment:
    """Jobs that log a loss; the first one alone returns one, too."""
    experiment = Experiment(["seed"], "train", tmp_path)
    for seed in range(3):
        experiment.add_job({"seed": seed}, {})
    experiment.save()
    experiment.save_pass_filter(range(3))

    def runner(job_id: int, *_: Any) -> Any:
        current_job().log_metrics(loss=20 - job_id)
        return {"loss": 1} if job_id == 0 else None

    for job_id in range(3):
        experiment.run_id(job_id, runner)
    return experiment


@pytest.mark.parametrize(
    ("where", "seeds"),
    [
        ([], [2, 1, 0]),
        (["--where", "seed == 0"], [0]),
        (["--where", "seed > 0"], [2, 1]),
        (["--where", "seed > 9"], []),
    ],
)
def test_a_full_name_is_of_the_same_values_whichever_jobs_are_shown(
    logged_and_returned: Experiment, capsys: pytest.CaptureFixture[str], where: list[str], seeds: list[int]
) -> None:
    """A column that is asked for by its full name is called by it, also where the name alone would do, and where none
    of the jobs has a value; a table can be sorted by it. What no job has is refused."""
    words = [logged_and_returned.folder.path, *where]
    lines = [f"{20 - seed},{'' if seed else 1},{seed}" for seed in seeds]
    for key in ("metrics.loss", "-variables.seed"):
        names = "metrics.loss,result.*,variables.seed"
        assert 0 == main(["results", *words, "--format", "csv", "--columns", names, "--sort", key])
        assert ["metrics.loss,result.loss,variables.seed", *lines] == capsys.readouterr().out.splitlines()
    if seeds:
        names = "variables.seed,metrics.loss mean"
        of_groups = ["--group-by", "seed", "--columns", names, "--sort", "metrics.loss mean"]
        assert 0 == main(["results", *words, "--format", "csv", *of_groups])
        assert [names, *(f"{seed},{20.0 - seed}" for seed in seeds)] == capsys.readouterr().out.splitlines()
        assert 0 == main(["jobs", *words, "--columns", "variables.seed"])
        assert "variables.seed" in capsys.readouterr().out
    assert 2 == main(["results", *words, "--columns", "metrics.lost"])
    assert "'metrics.lost' is no column" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("metric", "where", "best", "mean"),
    [
        ("loss", [], 0, 1),
        ("result.loss", [], 0, 1),
        ("metrics.loss", [], 2, 18),
        ("metrics.loss", ["--where", "seed > 0"], 2, 18),
        ("loss", ["--where", "seed > 0"], 2, 18),
    ],
)
def test_a_full_name_says_which_number_is_ranked(
    logged_and_returned: Experiment,
    capsys: pytest.CaptureFixture[str],
    metric: str,
    where: list[str],
    best: int,
    mean: int,
) -> None:
    """Of jobs and of groups; a metric that was logged has the goal that is known of its name."""
    pruner = checked({"name": "asha", "min_steps": 10}, "loss", "minimize")
    assert pruner is not None
    launch = create_launch(logged_and_returned.folder, [ATTEMPT], {"pruner": pruner._asdict()})
    with driven(logged_and_returned.folder, launch):
        pass
    words = ["results", logged_and_returned.folder.path, *where, "--best", "1", "--metric", metric]
    assert 0 == main([*words, "--columns", "job"])
    out, err = capsys.readouterr()
    assert [str(best), f"the best 1 of {2 if where else 3} by {metric}, of which the min is best"] == [
        line.strip() for line in out.splitlines() if re.match(r"\s+\d|the best", line)
    ]
    assert ("metrics.loss ranks what jobs have logged" in err) is (best == 0)
    assert 0 == main([*words, "--format", "json", "--group-by", "seed"])
    (row,) = json.loads(capsys.readouterr().out)
    assert (best, mean) == (
        row["seed"],
        row.get("metrics.loss mean" if metric != "loss" and not where and best else "loss mean"),
    )


def test_a_metric_that_no_job_has_there_is_refused(
    logged_and_returned: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full name is never taken for what is called alike elsewhere."""
    words = ["results", logged_and_returned.folder.path, "--where", "seed > 0", "--best", "1"]
    for more in ([], ["--group-by", "seed"]):
        assert 2 == main([*words, *more, "--metric", "result.loss"])
        assert "no job has left a number called 'result.loss'; there are loss" in capsys.readouterr().err


@pytest.mark.parametrize(("metric", "lr"), [("result.loss", 1), ("metrics.loss", 2), ("loss", 1)])
def test_a_full_name_says_which_number_is_compared(tmp_path: Path, metric: str, lr: int) -> None:
    """In a comparison, in a report and in what it compares: the least returned loss is of the largest logged one."""
    experiment = Experiment(["lr", "seed"], "train", tmp_path)
    for value in (1, 2):
        for seed in range(2):
            experiment.add_job({"lr": value, "seed": seed}, {})
    experiment.save()
    experiment.save_pass_filter(range(4))

    def runner(_: int, variables: dict[str, Any], __: Any) -> Any:
        current_job().log_metrics(step=1, loss=-variables["lr"])
        return {"loss": variables["lr"]}

    for job_id in range(4):
        experiment.run_id(job_id, runner)
    found = experiment.compare(metric=metric, goal="min")
    assert ("loss", f"lr={lr}") == (found.metric, found.methods[0].label)
    page = Path(experiment.report(metric=metric, goal="min")).read_text()
    ranked = re.findall(r'<tr class="first"><td class="number quiet">1</td>\s*<td>(\d)</td>', page)
    assert ([str(lr)], f"lr={lr}") == (ranked, re.findall(r"<tr><td>(lr=\d)</td>", page)[0])


@pytest.mark.parametrize("name", ["metrics.loss", "result.loss", "metrics.metrics.loss", "variables.seed"])
def test_a_name_that_is_the_full_name_of_another_keeps_its_values(tmp_path: Path, name: str) -> None:
    """A variable, a field of the results and a metric that are called so have columns of their own, and so has what the
    name is the full name of; in the means of groups, too."""
    experiment = Experiment([name, "seed"], "train", tmp_path)
    experiment.add_job({name: 1, "seed": 7}, {})
    experiment.save()
    experiment.save_pass_filter([0])

    def runner(*_: Any) -> Any:
        current_job().log_metrics(**{"loss": 2, "metrics.loss": 4, name: 3})
        return {"loss": 5, name: 6}

    experiment.run_id(0, runner)
    (row,) = flat_results(experiment.result_rows())
    expected = {"variables.seed": 7, "result.loss": 5, "metrics.loss": 2, "metrics.metrics.loss": 4}
    expected |= {f"variables.{name}": 1, f"result.{name}": 6, f"metrics.{name}": 3}
    called = result_names(experiment.result_rows())
    assert expected == {full_name: row[column] for full_name, column in called.items()}
    assert len(called) == len(set(called.values()))
    assert all(column not in called or column == full_name for full_name, column in called.items())
    (group,) = aggregate(experiment.result_rows(), ["seed"], ["mean"], None)
    numbers = [value for full_name, value in expected.items() if not full_name.startswith("variables.")]
    assert sorted(numbers) == sorted(group["mean"].values())


@pytest.mark.parametrize("more", [[], ["--metric", "loss"]])
def test_what_has_no_number_to_rank_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    """The best are of jobs that returned the metric: those that have only logged it, or whose value is NaN, are named,
    and so are groups without a mean; it is said how what was logged is ranked."""
    experiment = Experiment(["lr", "seed"], "train", tmp_path)
    for lr in (1, 2):
        for seed in range(3):
            experiment.add_job({"lr": lr, "seed": seed}, {})
    experiment.save()
    experiment.save_pass_filter(range(6))

    def runner(job_id: int, *_: Any) -> Any:
        current_job().log_metrics(step=1, loss=0)
        return {"loss": math.nan if job_id == 1 else job_id} if job_id < 3 else None

    for job_id in range(6):
        experiment.run_id(job_id, runner)
    where = ["results", experiment.folder.path, "--format", "json", "--goal", "min", "--best", "4", *more]
    assert 0 == main([*where])
    out, err = capsys.readouterr()
    assert [0, 2] == [row["job"] for row in json.loads(out)]
    left_out = "4 jobs are left out, without a number loss in the result (jobs 1,3-5)"
    assert [f"{left_out}; --metric metrics.loss ranks what jobs have logged"] == err.splitlines()
    assert 0 == main([*where, "--group-by", "seed"])
    out, err = capsys.readouterr()
    assert [0, 2] == [row["seed"] for row in json.loads(out)]
    assert ["1 group is left out, without a mean of loss"] == err.splitlines()


def logs_regret(_: int, variables: dict[str, Any], __: Any) -> None:
    current_job().log_metrics(step=1, regret=variables["lr"])
    if variables["lr"] < 2:
        raise ValueError("diverged")


def test_the_best_has_ended_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A job that failed early has logged the smallest regret, and is none of the best; what is left out is told, and
    so it is where no job has ended well, and those that have not are compared."""
    experiment = Experiment(["lr"], "train", tmp_path)
    for lr in (0, 1, 2, 3):
        experiment.add_job({"lr": lr}, {})
    experiment.save()
    experiment.save_pass_filter(range(4))
    words = ["results", experiment.folder.path, "--best", "1", "--goal", "min", "--format", "json"]
    for jobs, best, told in (
        ([0, 1], 0, "no job has ended well: the best is of what they have left until now"),
        ([2, 3], 2, "2 jobs are left out, which have not ended well (jobs 0-1)"),
    ):
        for job_id in jobs:
            with suppress(ValueError):
                experiment.run_id(job_id, logs_regret)
        assert 0 == main(words)
        out, err = capsys.readouterr()
        assert ([best], [told]) == ([row["job"] for row in json.loads(out)], err.splitlines())


@pytest.mark.parametrize(
    ("verb", "name", "column"),
    [
        (["results", "--group-by"], "count", "count"),
        (["results", "--format", "csv", "--group-by"], "count", "count"),
        (["results", "--format", "latex", "--group-by"], "count", "count"),
        (["status", "--group-by"], "count", "count"),
        (["status", "--group-by"], "COMPLETED", "COMPLETED"),
        (["efficiency", "--group-by"], "memory", "jobs"),
        (["compare", "--by"], "mean", "mean"),
        (["compare", "--format", "markdown", "--by"], "iqm", "iqm"),
    ],
)
def test_a_variable_that_is_called_like_a_column_keeps_its_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: list[str], name: str, column: str
) -> None:
    """In every table of groups: it is prefixed, as in a table of jobs, and the column has what it always has."""
    experiment = Experiment([name, "seed"], "train", tmp_path)
    for value in (710, 720):
        for seed in range(2):
            experiment.add_job({name: value, "seed": seed}, {})
    experiment.save()
    experiment.save_pass_filter(range(4))
    for job_id in range(4):
        experiment.run_id(job_id, lambda job_id, *_: job_id)
    word, *options = verb
    assert 0 == main([word, experiment.folder.path, *options, name])
    out = capsys.readouterr().out
    assert re.search(rf"\bvariables\.{name}\b.*\b{column}\b", out)
    assert ["710", "720"] == sorted(re.findall(r"^\W*(7[12]0)\b.*\d", out, re.MULTILINE))


@pytest.mark.parametrize(
    ("returned", "words", "columns"),
    [
        ("ckpt.pt", [], {"loss mean", "loss std"}),
        ({"acc": True, "note": "x"}, [], {"acc mean", "acc std"}),
        ({"acc": 0.5}, ["--columns", "loss mean"], {"loss mean"}),
        ({"acc": 1}, ["--best", "1", "--metric", "loss"], {"acc mean", "acc std", "loss mean", "loss std"}),
        ({"loss": 0.5}, ["--columns", "* mean"], {"loss mean", "metrics.loss mean"}),
    ],
)
def test_groups_have_means_of_what_was_logged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], returned: Any, words: list[str], columns: set[str]
) -> None:
    """Whatever jobs have returned besides: all metrics where no result is a number, those of the columns that are asked
    for, and the one that decides."""
    experiment = Experiment(["lr", "seed"], "train", tmp_path)
    for lr in (1, 2):
        for seed in range(2):
            experiment.add_job({"lr": lr, "seed": seed}, {})
    experiment.save()
    experiment.save_pass_filter(range(4))

    def runner(_: int, variables: dict[str, Any], __: Any) -> Any:
        current_job().log_metrics(step=1, loss=variables["lr"])
        return returned

    for job_id in range(4):
        experiment.run_id(job_id, runner)
    assert 0 == main(["results", experiment.folder.path, "--group-by", "lr", "--format", "json", *words])
    rows = json.loads(capsys.readouterr().out)
    assert columns == set(rows[0]) - {"lr", "count"}
    means = {row.get("metrics.loss mean", row.get("loss mean")) for row in rows}
    assert ({2} if "--best" in words else {1, 2} if "acc mean" not in columns else {None}) == means
    for kind in ("latex", "markdown"):
        metric = ["--metric", "loss", "--goal", "min"]
        assert 0 == main(["results", experiment.folder.path, "--group-by", "lr", "--format", kind, *metric])
