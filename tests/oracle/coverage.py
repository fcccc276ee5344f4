"""How often the 95 % intervals of `compare` hold the truth, simulated: python -m tests.oracle.coverage

Scores are drawn from a normal distribution, or from a skewed one; REPETITIONS times an interval is made of a few
runs, with DRAWS draws of the bootstrap.
"""

import math
import sys
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np

from experiment_manager.analysis.inference import interquartile_mean, interval

REPETITIONS, DRAWS = 4_000, 2_000
RUNS = (3, 5, 10, 20)
TASKS = (1, 10)
DISTRIBUTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "normal": lambda random, shape: random.standard_normal(shape),
    "lognormal": lambda random, shape: random.lognormal(0.0, 1.0, shape),
}


_UNIT = NormalDist()
_QUARTILE = _UNIT.inv_cdf(0.75)
TRUTHS = {
    "normal": 0.0,
    "lognormal": 2.0 * math.exp(0.5) * (_UNIT.cdf(_QUARTILE - 1.0) - _UNIT.cdf(-_QUARTILE - 1.0)),
}
"""The mean of the middle half of each distribution."""


def coverage(name: str, n_runs: int, n_tasks: int, repetitions: int, draws: int) -> float:
    """The share of intervals that hold the interquartile mean of the distribution."""
    draw = DISTRIBUTIONS[name]
    random = np.random.RandomState(1)
    held = 0
    for repetition in range(repetitions):
        found = interval(interquartile_mean, [draw(random, (n_runs, n_tasks))], draws=draws, seed=repetition)
        held += found.low <= TRUTHS[name] <= found.high
    return held / repetitions


if __name__ == "__main__":
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else REPETITIONS
    for name in DISTRIBUTIONS:
        for n_tasks in TASKS:
            found = [f"{coverage(name, n_runs, n_tasks, repetitions, DRAWS):.1%} of {n_runs} runs" for n_runs in RUNS]
            print(f"{name}, {n_tasks} tasks: {', '.join(found)}")
