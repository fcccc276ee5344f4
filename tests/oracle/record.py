"""What rliable 1.2 and SciPy say of a few scores, for tests/test_inference.py, which compares ours with it.

rliable needs an environment of its own (it needs arch below 8, and that pandas below 3):

    python -m venv oracle && oracle/bin/pip install rliable==1.2.0 'arch<8' 'pandas<3' 'numpy<2.3'
    oracle/bin/python tests/oracle/record.py tests/oracle/answers.json
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from rliable import library, metrics

SEED, DRAWS = 3, 500
AGGREGATES = {"mean": metrics.aggregate_mean, "median": metrics.aggregate_median, "iqm": metrics.aggregate_iqm}
SHAPES = {"three runs": (3, 1), "two tasks": (5, 2), "four tasks": (10, 4), "ties": (6, 3)}
MOST_RUNS = 8  # of which all permutations are tried


def answers(one: Any, other: Any) -> dict[str, Any]:
    """All that is compared, of two methods."""
    found: dict[str, Any] = {"one": one.tolist(), "other": other.tolist()}
    for name, aggregate in AGGREGATES.items():
        found[name] = estimated({"one": one}, of_one(aggregate))
    pair = {"pair": [one, other]}
    found["improvement"] = estimated(pair, lambda *both: np.array([metrics.probability_of_improvement(*both)]))
    thresholds = np.linspace(-2, 2, 9)
    np.random.seed(SEED)
    shares, limits = library.create_performance_profile({"one": one}, thresholds, reps=DRAWS)
    found |= {"thresholds": thresholds.tolist(), "profile": [shares["one"].tolist(), *limits["one"].tolist()]}
    steps = np.stack([one, other, one + other], axis=-1)  # scores by run, task and step
    found["curve"] = [estimated({"one": steps[..., step]}, of_one(metrics.aggregate_iqm)) for step in range(3)]
    tasks = [(one[:, task], other[:, task]) for task in range(one.shape[1])]
    tests = [scipy.stats.ttest_ind(*both, equal_var=False) for both in tasks]
    found["welch"] = [[float(test.statistic), float(test.df), float(test.pvalue)] for test in tests]
    found["permutation"] = [permuted(*both) for both in tasks] if len(one) <= MOST_RUNS else []
    return found


def of_one(aggregate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The aggregate as a statistic of rliable: an array of one number."""
    return lambda scores: np.array([aggregate(scores)])


def estimated(scores: Mapping[str, Any], statistic: Callable[..., Any]) -> list[float]:
    """A number and the limits of its interval."""
    np.random.seed(SEED)
    points, limits = library.get_interval_estimates(scores, statistic, reps=DRAWS)
    ((name, point),) = points.items()
    return [float(point[0]), *map(float, limits[name][:, 0])]


def permuted(one: Any, other: Any) -> float:
    """The p-value over all permutations."""
    test = scipy.stats.permutation_test(
        (one, other), lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis), vectorized=True, n_resamples=np.inf
    )
    return float(test.pvalue)


def main(path: str) -> None:
    random = np.random.RandomState(7)
    found = {}
    for name, shape in SHAPES.items():
        one, other = random.standard_normal(shape), random.standard_normal(shape) + 0.3
        if name == "ties":
            one, other = np.round(one), np.round(other)
        found[name] = answers(one, other)
    Path(path).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
