"""Aggregates, intervals and tests of scores, beside those of rliable 1.2 and SciPy (tests/oracle/record.py)."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_manager.analysis import inference
from tests.conftest import examples
from tests.oracle.coverage import coverage

ORACLE = Path(__file__).parent / "oracle"
ANSWERS: dict[str, Any] = json.loads((ORACLE / "answers.json").read_text())
SEED, DRAWS = 3, 500  # as the answers were drawn


def exactly(expected: Any) -> Any:
    """To twelve digits."""
    return pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.fixture(params=ANSWERS)
def answer(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = ANSWERS[request.param]
    return found | {name: np.array(found[name]) for name in ("one", "other", "thresholds")}


@pytest.mark.parametrize("name", inference.AGGREGATES)
def test_aggregates_and_their_intervals_are_those_of_rliable(answer: dict[str, Any], name: str) -> None:
    """Point and percentile interval are equal to twelve digits, draw by draw."""
    found = inference.interval(inference.AGGREGATES[name], [answer["one"]], draws=DRAWS, seed=SEED)
    assert exactly(answer[name]) == list(found)


def test_improvement_and_profiles_are_those_of_rliable(answer: dict[str, Any]) -> None:
    """So are the probability of improvement, ties among it, and performance profiles."""
    both = [answer["one"], answer["other"]]
    assert exactly(answer["improvement"]) == list(
        inference.interval(inference.improvement, both, draws=DRAWS, seed=SEED)
    )
    found = inference.intervals(
        lambda scores: inference.profile(scores, answer["thresholds"]), both[:1], draws=DRAWS, seed=SEED
    )
    assert exactly(np.array(answer["profile"])) == np.array(found)


def test_sample_efficiency_curves_are_those_of_rliable(answer: dict[str, Any]) -> None:
    """The interquartile mean over runs and tasks at a step, and its interval, are those of the scores of that step."""
    steps = np.stack([answer["one"], answer["other"], answer["one"] + answer["other"]], axis=-1)
    found = inference.at_steps(inference.interquartile_mean, steps, draws=DRAWS, seed=SEED)
    assert exactly(np.array(answer["curve"])) == np.array(found)


def test_tests_are_those_of_scipy(answer: dict[str, Any]) -> None:
    """Welch's t, degrees of freedom and p-value, and the p-value over all permutations, are SciPy's."""
    tasks = [(answer["one"][:, [task]], answer["other"][:, [task]]) for task in range(answer["one"].shape[1])]
    found = [inference.welch(*both) for both in tasks]
    assert exactly(np.array(answer["welch"])) == np.array(
        [[test.difference / test.error, test.degrees, test.p] for test in found]
    )
    for expected, both in zip(answer["permutation"], tasks, strict=False):
        assert exactly(expected) == inference.permutation(*both, draws=1, seed=SEED)


def test_drawn_permutations_tend_to_all_of_them() -> None:
    """Where not all permutations are tried, the p-value is near what it would be; it is never 0."""
    one, other = (np.array(ANSWERS["ties"][name]) for name in ("one", "other"))
    exact = inference.permutation(one[:, :1], other[:, :1], draws=1, seed=SEED)
    twice = [np.repeat(scores[:, :1], 2, axis=1) for scores in (one, other)]  # a second task is drawn, not tried
    assert exact > inference.permutation(*twice, draws=20_000, seed=SEED) > 0.0
    apart = [np.full((10, 2), 1.0), np.full((10, 2), 2.0)]
    assert 1 / 1_001 == inference.permutation(*apart, draws=1_000, seed=SEED)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8))
@examples(50)
def test_adjusted_p_values(values: list[float]) -> None:
    """Adjusting makes no p-value smaller, keeps their order, and multiplies the smallest by their number."""
    found = inference.holm(values)
    assert all(value <= adjusted <= 1.0 for value, adjusted in zip(values, found, strict=True))
    assert [found[place] for place in np.argsort(values, kind="stable")] == sorted(found)
    assert min(1.0, min(values) * len(values)) == found[int(np.argmin(values))]


def test_runs_needed_find_the_difference() -> None:
    """With so many runs, four of five pairs of samples with this difference and deviation are told apart at 5 %."""
    random = np.random.RandomState(SEED)
    one = np.array([[1.0 - 2**0.5], [1.0 + 2**0.5], [1.0]])  # mean 1, deviation sqrt(2)
    needed = inference.runs_needed(one, one - 1.0)
    assert needed == 32
    found = [
        inference.welch(random.normal(1.0, 2**0.5, (needed, 1)), random.normal(0.0, 2**0.5, (needed, 1))).p < 0.05
        for _ in range(400)
    ]
    assert 0.74 < np.mean(found) < 0.86
    assert inference.runs_needed(one, one) is None


def test_equal_scores_have_no_variance_to_divide_by() -> None:
    """Runs that are all alike are equal, or differ beyond doubt."""
    same, other = np.full((3, 2), 1.0), np.full((3, 2), 2.0)
    assert (1.0, 0.0) == (inference.welch(same, same).p, inference.welch(same, other).p)
    assert 0.5 == float(inference.improvement(same, same))


def test_intervals_hold_the_truth_as_often_as_is_said() -> None:
    """docs/comparing.md says how often intervals of few runs hold the truth; a small simulation agrees."""
    assert 0.85 < coverage("normal", 5, 10, repetitions=200, draws=400) < 0.97


@pytest.mark.heavy
def test_answers_are_what_rliable_says_today(tmp_path: Path) -> None:
    """The recorded answers come out again, in an environment of its own."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "oracle"], check=True)
    python = tmp_path / "oracle/bin/python"
    wanted = ["rliable==1.2.0", "arch<8", "pandas<3", "numpy<2.3"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    subprocess.run([python, ORACLE / "record.py", tmp_path / "answers.json"], check=True)
    again = json.loads((tmp_path / "answers.json").read_text())
    for name, expected in ANSWERS.items():
        for key in expected:
            assert exactly(np.array(expected[key])) == np.array(again[name][key])


def test_what_no_test_tells_from_the_best() -> None:
    """The best of groups of values, and those that Welch's test leaves beside it: none where some cannot be tested."""
    groups = [[1.0, 1.1, 0.9], [5.0, 5.1, 4.9], [5.05, 5.2, 4.95, 4.9]]
    assert ({1, 2}, {0}) == (inference.like_the_best(groups, "max"), inference.like_the_best(groups, "min"))
    assert {1} == inference.like_the_best([[1.0, 1.0], [2.0, 2.0]], "max")
    assert {0, 1} == inference.like_the_best([[2.0, 2.0], [2.0, 2.0]], "max")
    assert {1} == inference.like_the_best([[value * 1e300 for value in values] for values in groups[:2]], "max")
    assert {1} == inference.like_the_best([[value * 1e-300 for value in values] for values in groups[:2]], "max")
    for others in ([2.0], [], [math.nan, 2.0], [math.inf, 2.0]):
        assert set() == inference.like_the_best([*groups, others], "max")
    assert set() == inference.like_the_best([], "max")
