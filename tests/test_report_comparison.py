"""The section of a report that compares groups: what `compare` tells of them, and why, where it tells nothing."""

from pathlib import Path
from typing import Any

import pytest

from experiment_manager.model.records import State
from experiment_manager.report.comparison import MOST_COMPARED
from tests.test_report import Study, data_of

REWARD = {"TD3": 10.0, "DDPG": 1.0, "SAC": 9.5}


def swept(home: Path, n_seeds: int, envs: tuple[str, ...] = ("hopper",)) -> Study:
    """Three algorithms whose rewards are apart by little or much."""
    study = Study(home, ["algorithm", "env", "seed"])
    for algorithm, reward in REWARD.items():
        for env in envs:
            for seed in range(n_seeds):
                variables = {"algorithm": algorithm, "env": env, "seed": seed}
                study.job(variables, result={"reward": (reward + seed**2) * (100.0 if env == "walker" else 1.0)})
    return study


def page_of(study: Study, **options: Any) -> str:
    return Path(study.report(**options)).read_text()


def test_a_report_compares_as_compare_does(tmp_path: Path) -> None:
    """Methods, their intervals, how likely each beats another and profiles are those of `compare`, in its order."""
    study = swept(tmp_path, 5, ("hopper", "walker"))
    drawn = data_of(study.report(tasks=["env"]))["compared"]
    found = study.experiment.compare(tasks=["env"], normalize="range")
    assert [
        [method.label, {"iqm": [*method.iqm], "mean": [*method.mean], "median": [*method.median]}]
        for method in found.methods
    ] == drawn["methods"]
    assert [[pair.better, pair.other, [*pair.improvement]] for pair in found.pairs] == drawn["pairs"]
    assert [[at, *share] for at, share in found.methods[0].profile] == [
        [*one] for one in zip(*drawn["profiles"][0], strict=True)
    ]
    assert "are few" not in page_of(study, tasks=["env"])


def test_a_group_has_one_colour_in_the_whole_page(tmp_path: Path) -> None:
    """A method has the place of its group among all, also where interquartile means have another order than means."""
    study = Study(tmp_path, ["algorithm", "seed"])
    for algorithm, rewards in (("TD3", (1, 2, 3, 4, 100)), ("DDPG", (5, 6, 7, 8, 9))):
        for seed, reward in enumerate(rewards):
            study.job({"algorithm": algorithm, "seed": seed}, result={"reward": reward})
    data = data_of(study.report())
    assert ["algorithm=TD3", "algorithm=DDPG"] == data["groups"]
    assert ["algorithm=DDPG", "algorithm=TD3"] == [label for label, _ in data["compared"]["methods"]]
    assert [1, 0] == data["compared"]["places"]


def test_few_runs_and_runs_that_a_group_lacks_are_said(tmp_path: Path) -> None:
    """Below five runs the page warns; a run that failed in one group is left out of all; who has none is left out."""
    study = swept(tmp_path, 4)
    study.job({"algorithm": "TD3", "env": "hopper", "seed": 4}, result={"reward": 1000.0})
    study.job({"algorithm": "DDPG", "env": "hopper", "seed": 4}, state=State.FAILED)
    study.job({"algorithm": "A2C", "env": "hopper", "seed": 0}, state=State.FAILED)
    page = page_of(study)
    assert "4 runs of each method are few" in page
    assert "1 of 5 runs are left out, which some method lacks." in page
    drawn = data_of(study.report())["compared"]
    assert {f"algorithm={name}" for name in REWARD} == {label for label, _ in drawn["methods"]}
    assert max(REWARD.values()) + 9 == drawn["profiles"][0][0][-1]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ([{"lr": lr} for lr in (1, 2)], None),  # nothing repeats a job
        ([{"lr": 1, "seed": seed} for seed in range(5)], None),  # one method alone
        ([{"lr": lr, "seed": 0} for lr in (1, 2)], "Nothing is compared: one run is there for all methods (over seed)"),
        ([{"lr": lr, "seed": lr} for lr in (1, 2)], "Nothing is compared: no run is there for all methods (over seed)"),
    ],
)
def test_where_nothing_can_be_compared(tmp_path: Path, variables: list[dict[str, Any]], said: str | None) -> None:
    """Without repetitions, or with one method, there is no section; with too few runs, it is a sentence."""
    study = Study(tmp_path, list(variables[0]))
    for one in variables:
        study.job(one, result={"reward": 1.0 + sum(one.values())})
    page = page_of(study)
    assert (said is not None) == ('<section id="comparison">' in page)
    assert said is None or said in page
    assert data_of(study.report())["compared"] is None


def test_the_best_of_many_groups_are_compared(tmp_path: Path) -> None:
    """Of many groups those with the best means are in it, and the page says of how many."""
    study = Study(tmp_path, ["lr", "seed"])
    for lr in range(MOST_COMPARED + 2):
        for seed in range(5):
            study.job({"lr": lr, "seed": seed}, result={"reward": float(lr + seed)})
    assert f"The first {MOST_COMPARED} of {MOST_COMPARED + 2} configurations." in page_of(study)
    assert "lr=9" == data_of(study.report())["compared"]["methods"][0][0]
