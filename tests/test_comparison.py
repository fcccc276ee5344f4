"""`compare`: which jobs make which scores, what is refused, and what is said."""

import json
import math
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from experiment_manager import current_job
from experiment_manager.analysis.comparison import compare
from experiment_manager.analysis.scores import EXPERIMENT, How
from experiment_manager.analysis.tables import Row
from experiment_manager.errors import ExperimentManagerError
from experiment_manager.experiment import Experiment
from experiment_manager.model.records import State
from tests.conftest import Program

REWARD = {"TD3": 10.0, "DDPG": 1.0}
RUNS = 5


def row(job: int, result: Any, **variables: Any) -> Row:
    return {
        "job": job,
        "state": State.COMPLETED,
        "variables": variables,
        "result": result,
        "metrics": {},
        "refused": {},
    }


def rows(reward: Callable[[str, int, str], Any], envs: tuple[str, ...] = ("hopper",)) -> list[Row]:
    """A grid of two algorithms, tasks and seeds."""
    points = [(name, seed, env) for name in REWARD for env in envs for seed in range(RUNS)]
    return [
        row(job, {"reward": reward(name, seed, env)}, algorithm=name, seed=seed, env=env)
        for job, (name, seed, env) in enumerate(points)
    ]


def usual(name: str, seed: int, env: str) -> float:
    return (REWARD[name] + seed) * (100.0 if env == "walker" else 1.0)


def refusal(found: list[Row], **how: Any) -> str:
    with pytest.raises(ExperimentManagerError) as refused:
        compare({"train": found}, How(**how))
    return str(refused.value)


def test_methods_are_in_order_and_told_apart() -> None:
    """The better method comes first, with the mean of its runs; five runs apart by six deviations are no chance."""
    found = compare({"train": rows(usual)}, How())
    assert [("algorithm=TD3", 12.0), ("algorithm=DDPG", 3.0)] == [(m.label, m.mean.value) for m in found.methods]
    (pair,) = found.pairs
    assert ("algorithm=TD3", "algorithm=DDPG", 9.0, 1.0) == (
        pair.better,
        pair.other,
        pair.difference,
        pair.improvement.value,
    )
    assert pair.permutation_p == pair.permutation_adjusted == 2 / math.comb(2 * RUNS, RUNS)
    assert ("Comparison(reward: algorithm=TD3, algorithm=DDPG, by iqm)", ()) == (repr(found), found.notes)


def test_what_is_smallest_may_be_best() -> None:
    """`goal=min` turns the order and who is better, and no number."""
    found = compare({"train": rows(usual)}, How(goal="min"))
    assert ["algorithm=DDPG", "algorithm=TD3"] == [method.label for method in found.methods]
    (pair,) = found.pairs
    assert ("algorithm=DDPG", 9.0, 1.0) == (pair.better, pair.difference, pair.improvement.value)
    assert found.methods[1].iqm == compare({"train": rows(usual)}, How()).methods[0].iqm


def test_each_task_counts_as_much_where_scores_are_normalized() -> None:
    """Raw scores of tasks are averaged with a word about it; normalized ones lie between 0 and 1."""
    found = compare({"train": rows(usual, ("hopper", "walker"))}, How(tasks=("env",)))
    assert (2, RUNS, 606.0) == (found.n_tasks, found.n_runs, found.methods[0].mean.value)
    assert "averaged as they are" in found.notes[0]
    found = compare({"train": rows(usual, ("hopper", "walker"))}, How(tasks=("env",), normalize="range"))
    assert ((), 1.0, 0.0) == (
        found.notes,
        max(max(run) for run in found.methods[0].scores),
        min(min(run) for run in found.methods[1].scores),
    )


def test_experiments_are_methods() -> None:
    """Jobs of several experiments are told apart by the name of theirs."""
    other = [{**one, "result": {"reward": one["result"]["reward"] + 100.0}} for one in rows(usual)]
    found = compare({"a": rows(usual), "b": other}, How(by=[EXPERIMENT], tasks=["algorithm"], over=["seed"]))
    assert ["experiment=b", "experiment=a"] == [method.label for method in found.methods]
    assert (2, 100.0) == (found.n_tasks, found.pairs[0].difference)


def test_many_methods_are_compared_with_the_best() -> None:
    """Of more than eight methods, each is compared with the best one, and people are told."""
    many = [
        row(job, {"reward": float(lr + seed)}, lr=lr, seed=seed)
        for job, (lr, seed) in enumerate((lr, seed) for lr in range(10) for seed in range(RUNS))
    ]
    found = compare({"train": many}, How())
    assert [("lr=9", f"lr={lr}") for lr in range(8, -1, -1)] == [(pair.better, pair.other) for pair in found.pairs]
    assert "of 10 methods, the best is compared with each" in found.notes


def test_runs_that_are_missing_are_named_or_left_out() -> None:
    """What has not completed, or left no finite number, is refused with its ids; `common` leaves out its seed, said."""
    for broken, said in (
        ({"state": State.FAILED}, "job 7 FAILED"),
        ({"state": State.PRUNED}, "job 7 PRUNED"),
        ({"result": {}}, "job 7 COMPLETED without a number reward"),
        ({"result": {"reward": math.nan}}, "job 7 COMPLETED with nan as its reward"),
        ({"result": {"reward": -math.inf}}, "job 7 COMPLETED with -inf as its reward"),
        (
            {"result": {"reward": 1e308}},
            "job 7 COMPLETED with 1e+308 as its reward, which is too large to calculate with",
        ),
    ):
        found = [{**one, **broken} if one["job"] == 7 else one for one in rows(usual)]
        assert f"scores are missing: {said}. Run what is missing" in refusal(found)
        left = compare({"train": found}, How(is_common=True))
        assert (RUNS - 1, ((0,), (1,), (3,), (4,))) == (left.n_runs, left.methods[0].jobs)
        assert "1 of 5 runs are left out, which some method lacks" in left.notes
    unequal = [one for one in rows(usual) if one["job"] != 7]
    assert "scores are missing: algorithm=DDPG has no seed=2. Run" in refusal(unequal)
    tasks = [one for one in rows(usual, ("hopper", "walker")) if one["job"] not in range(15, 20)]
    said = "algorithm=DDPG has no seed=0 env=walker or seed=1 env=walker or seed=2 env=walker or 2 more. Run"
    assert said in refusal(tasks, tasks=("env",))
    assert "no job of train is chosen" in refusal([])


def test_few_runs_are_refused_or_warned_of() -> None:
    """One run tells nothing; of two to four people are warned."""
    few = [one for one in rows(usual) if one["variables"]["seed"] < 1]
    assert "one run is there for all methods (over seed)" in refusal(few)
    found = compare({"train": [one for one in rows(usual) if one["variables"]["seed"] < 3]}, How())
    assert found.notes[0].startswith("3 runs of each method are few")


@pytest.mark.parametrize(
    ("said", "how"),
    [
        (
            "jobs 0 and 5 would be the same run, seed=0, and differ in env; name that in",
            {"by": ["algorithm"]},
        ),
        ("'seed' repeats a job, too: --over env,seed", {"over": ["env"]}),
        ("'seed' repeats a job, and is nothing to compare", {"by": ["seed"], "over": ["env"]}),
        ("'seed' cannot be compared and averaged over; name it once", {"by": ["seed"]}),
        ("'lr' is no variable; the variables are algorithm, seed, env", {"over": ["lr"]}),
        ("no job has left a number called 'loss'; there are reward", {"metric": "loss"}),
        ("the goal is max or min, not 'best'", {"goal": "best"}),
        ("normalize is one of none, range, not 'z'", {"normalize": "z"}),
        ("there is one method, and nothing to compare it with", {"over": ["seed", "env", "algorithm"]}),
    ],
)
def test_what_cannot_be_compared(said: str, how: dict[str, Any]) -> None:
    """A choice that mixes different jobs, or leaves nothing to compare, is refused with the way out."""
    assert said in refusal(rows(usual, ("hopper", "walker")), **how)


def test_no_seed_and_nothing_completed() -> None:
    """Without a variable called seed, people name what repeats a job; without results there is nothing to compare."""
    found = [row(job, {"loss": job}, lr=job, fold=job % 2) for job in range(4)]
    assert "no variable is called seed or repeat; name what only repeats a job with --over" in refusal(found)
    assert "no job has left a number to compare" in refusal(rows(lambda *_: "text"))


def half(algorithm: str, seed: int) -> dict[str, float]:
    """What a job leaves of which half log a loss."""
    if algorithm == "TD3":
        current_job().log_metrics(1, loss=0.5 + seed)
    return {"reward": float(seed)}


@pytest.mark.parametrize(
    ("said", "names", "leaves", "words"),
    [
        ("there is one method, and nothing to compare it with", ("TD3",), lambda _, seed: {"reward": seed}, ()),
        ("no variable is called seed or repeat", ("TD3", "DDPG"), lambda _, seed: {"reward": seed}, ("fold",)),
        ("scores are missing: algorithm=DDPG has no seed=4", ("TD3", "DDPG"), lambda *_: {"reward": 1}, ("unequal",)),
        ("one run is there for all methods", ("TD3", "DDPG"), lambda *_: {"reward": 1}, ("one",)),
        ("COMPLETED with nan as its reward", ("TD3", "DDPG"), lambda _, seed: {"reward": seed or math.nan}, ()),
        ("scores are missing: jobs 0,5 FAILED", ("TD3", "DDPG"), lambda _, seed: {"reward": 1 / seed}, ()),
        ("loss", ("TD3", "DDPG"), half, ("--metric", "loss")),
        ("'lr' is no variable; the variables are algorithm, seed", ("TD3", "DDPG"), half, ("--over", "lr")),
    ],
)
def test_bad_input_is_a_sentence_and_2(
    tmp_path: Path,
    said: str,
    names: Sequence[str],
    leaves: Callable[[str, int], dict[str, float]],
    words: Sequence[str],
) -> None:
    """Of `compare` in all its forms, and of `plot`, which leaves no half figure."""
    repeats = "fold" if "fold" in words else "seed"
    experiment = Experiment(["algorithm", repeats], "train", str(tmp_path))
    for name in names:
        seeds = 1 if "one" in words else RUNS - 1 if "unequal" in words and name == "DDPG" else RUNS
        for seed in range(seeds):
            experiment.add_job({"algorithm": name, repeats: seed}, {})
    experiment.save()
    experiment.save_pass_filter(experiment.get_all_ids())
    for job in experiment.iter_jobs():
        with suppress(ZeroDivisionError):
            experiment.run_id(job.id, lambda _, of, __: leaves(of["algorithm"], of[repeats]))
    options = [word for word in words if word not in ("fold", "one", "unequal")]
    for verb in (("compare",), ("compare", "--json"), ("compare", "--format", "latex"), ("plot", "--kind", "curves")):
        done = Program(tmp_path).python("-m", "experiment_manager", *verb, str(experiment.folder.path), *options)
        assert (2, "") == (done.returncode, done.stdout), done.stdout
        assert done.stderr.startswith("error: "), done.stderr
        assert said in done.stderr
        assert 1 == len(done.stderr.splitlines()), done.stderr
    assert ["train"] == [path.name for path in tmp_path.iterdir()]


def test_on_the_command_line(tmp_path: Path) -> None:
    """`compare` prints the methods and the pairs, and with --json the whole record; a mistake is one sentence and 2."""
    experiment = Experiment(["algorithm", "seed"], "train", str(tmp_path))
    for name in REWARD:
        for seed in range(RUNS):
            experiment.add_job({"algorithm": name, "seed": seed}, {})
    experiment.save()
    experiment.save_pass_filter(experiment.get_all_ids())
    for job in experiment.iter_jobs():
        experiment.run_id(job.id, lambda _, of, __: {"reward": usual(of["algorithm"], of["seed"], "hopper")})

    def command(*words: str) -> "subprocess.CompletedProcess[str]":
        return Program(tmp_path).python("-m", "experiment_manager", *words)

    done = command("compare", str(experiment.folder.path))
    assert (0, "") == (done.returncode, done.stderr)
    assert "reward, the max is best: 5 runs of each method" in done.stdout
    assert "12 [10.8, 13.2]" in done.stdout
    told = json.loads(command("compare", str(experiment.folder.path), "--json", "--by", "algorithm").stdout)
    assert [experiment.compare().methods[place].label for place in (0, 1)] == [one["label"] for one in told["methods"]]
    assert {"value": 1.0, "low": 1.0, "high": 1.0} == told["pairs"][0]["improvement"]
    assert [] == told["methods"][0]["curve"]  # of what no job has logged
    paper = command("compare", str(experiment.folder.path), "--format", "latex")
    assert r"TD3 & \textbf{12 [10.33, 13.67]} & \textbf{12 [10.8, 13.2]} \\" in paper.stdout.splitlines()
    assert r"DDPG & 3 [1.333, 4.667] & 3 [1.8, 4.2] \\" in paper.stdout.splitlines()
    assert "bold: the best" in paper.stderr
    odd = command("compare", str(experiment.folder.path), "--format", "word")
    assert (2, True) == (odd.returncode, "'word' is no format of a comparison; there are table, markdown" in odd.stderr)
    wrong = command("compare", str(experiment.folder.path), "--metric", "loss")
    assert (2, "error: no job has left a number called 'loss'; there are reward\n") == (wrong.returncode, wrong.stderr)
    twice = command("compare", str(experiment.folder.path), str(experiment.folder.path))
    assert (2, True) == (twice.returncode, "is named twice" in twice.stderr)
