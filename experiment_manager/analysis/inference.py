"""What the scores of a few runs tell about methods: aggregates, how sure they are, and tests between two.

Scores of a method are a matrix of shape (runs, tasks). Aggregates, the stratified bootstrap, the probability of
improvement and performance profiles are those of Agarwal et al., "Deep Reinforcement Learning at the Edge of the
Statistical Precipice" (2021); the tests are Welch's and one of permutations within tasks, and for several pairs
p-values are adjusted after Holm. NumPy is all that is needed, and is imported where it is used.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import combinations
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Scores = NDArray[np.float64]
    Draws = NDArray[np.int64]

CONFIDENCE: Final = 0.95
POWER: Final = 0.8
"""How often a difference is to be found that is there, where runs are planned."""

_MOST_EXACT: Final = 20_000
"""So many ways to divide runs among two methods are all tried; of more, so many are drawn."""
_MOST_CELLS: Final = 1 << 22
"""So many numbers are drawn at once: 32 MB."""
_TINY: Final = 1e-300
_EPSILON: Final = 1e-15


class Interval(NamedTuple):
    """A number, and where it lies with a confidence of 95 %."""

    value: float
    low: float
    high: float


def mean(scores: "Scores") -> "Scores":
    """The mean over tasks of the means over runs; the last two axes are runs and tasks, others stay."""
    found: Scores = scores.mean(axis=-2).mean(axis=-1)
    return found


def median(scores: "Scores") -> "Scores":
    """The median over tasks of the means over runs, of the same shape."""
    import numpy as np

    found: Scores = np.median(scores.mean(axis=-2), axis=-1)
    return found


def interquartile_mean(scores: "Scores") -> "Scores":
    """The mean of the middle half of all scores, runs and tasks together, of the same shape: a quarter of them, rounded
    down, is left out at either end."""
    import numpy as np

    flat = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    count = flat.shape[-1]
    cut = int(0.25 * count)
    found: Scores = flat[..., cut : count - cut].mean(axis=-1)
    return found


AGGREGATES: Final = {"iqm": interquartile_mean, "mean": mean, "median": median}
"""The aggregates by their names in tables."""


def improvement(one: "Scores", other: "Scores") -> "Scores":
    """How likely a run of the first method beats one of the other on a task, over tasks. A tie is half a win."""
    import numpy as np

    difference = one[..., :, None, :] - other[..., None, :, :]
    found: Scores = (np.sign(difference).mean(axis=(-3, -2)).mean(axis=-1) + 1.0) / 2.0
    return found


def profile(scores: "Scores", thresholds: "Scores") -> "Scores":
    """The share of runs, over all tasks, whose score is above each threshold; one axis more, the last."""
    flat = scores.reshape(*scores.shape[:-2], -1, 1)
    found: Scores = (flat > thresholds).mean(axis=-2)
    return found


def resampled(scores: Sequence["Scores"], draws: int, seed: int) -> Iterator[list["Scores"]]:
    """The scores of methods, drawn again `draws` times with replacement, by task, some at a time: arrays of shape
    (some, runs, tasks). The methods are drawn one after the other within each draw, by NumPy's RandomState, whose
    numbers are the same in every release."""
    import numpy as np

    random = np.random.RandomState(seed)
    shapes = {one.shape for one in scores}
    size = sum(one.size for one in scores)
    some = max(1, _MOST_CELLS // size)
    for first in range(0, draws, some):
        n = min(some, draws - first)
        if len(shapes) == 1:
            (shape,) = shapes
            drawn = random.randint(0, shape[0], size=(n, len(scores), *shape))
            places: list[Draws] = [drawn[:, place] for place in range(len(scores))]
        else:
            rounds = [[random.randint(0, len(one), size=one.shape) for one in scores] for _ in range(n)]
            places = [np.stack([each[place] for each in rounds]) for place in range(len(scores))]
        yield [one[place, np.arange(one.shape[1])] for one, place in zip(scores, places, strict=True)]


def intervals(
    statistic: "Callable[..., Scores]", scores: Sequence["Scores"], *, draws: int, seed: int
) -> tuple["Scores", "Scores", "Scores"]:
    """The statistic of these scores, and the percentiles between which it lies in 95 % of the draws."""
    import numpy as np

    found = np.concatenate([statistic(*drawn) for drawn in resampled(scores, draws, seed)])
    tail = 100.0 * (1.0 - CONFIDENCE) / 2.0
    low, high = np.percentile(found, [tail, 100.0 - tail], axis=0)
    return statistic(*scores), low, high


def interval(statistic: "Callable[..., Scores]", scores: Sequence["Scores"], *, draws: int, seed: int) -> Interval:
    """The same of a statistic that is one number."""
    return Interval(*(float(part) for part in intervals(statistic, scores, draws=draws, seed=seed)))


def at_steps(statistic: "Callable[..., Scores]", scores: "Scores", *, draws: int, seed: int) -> list[Interval]:
    """The same at each step of scores of shape (runs, tasks, steps): a sample-efficiency curve. The draws are the same
    at all steps, so that whole runs are drawn."""
    return [interval(statistic, [scores[..., step]], draws=draws, seed=seed) for step in range(scores.shape[-1])]


class Welch(NamedTuple):
    """Welch's test: `difference` of the means, its standard error, degrees of freedom, and the p-value of two sides."""

    difference: float
    error: float
    degrees: float
    p: float


def welch(one: "Scores", other: "Scores") -> Welch:
    """Whether two methods differ in their mean over tasks, with variances of their own for each task; at least two runs
    of each. Where no run differs from another, p is 1 for equal means and 0 for others."""
    n_tasks = one.shape[1]
    parts = [
        (float(variance) / len(scores) / n_tasks**2, len(scores) - 1)
        for scores in (one, other)
        for variance in scores.var(axis=0, ddof=1)
    ]
    difference, square = float(mean(one) - mean(other)), sum(part for part, _ in parts)
    if square == 0.0:
        return Welch(difference, 0.0, math.inf, 1.0 if difference == 0.0 else 0.0)
    degrees = 1.0 / sum((part / square) ** 2 / n for part, n in parts)
    return Welch(difference, math.sqrt(square), degrees, student(difference / math.sqrt(square), degrees))


def permutation(one: "Scores", other: "Scores", *, draws: int, seed: int) -> float:
    """The p-value, of two sides, of a difference of the means as large as this one, were runs dealt out to the methods
    at random within each task. All ways of one task are tried where they are few, and `draws` drawn otherwise: then the
    smallest p-value is 1 / (draws + 1)."""
    import numpy as np

    pooled = np.concatenate([one, other])
    n, n_all = len(one), len(pooled)
    seen = abs(float(mean(one) - mean(other)))
    total = pooled.sum(axis=0)

    def at_least(sums: "Scores") -> int:
        differences = (sums / n - (total - sums) / (n_all - n)).mean(axis=-1)
        return int((np.abs(differences) >= seen * (1.0 - 1e-12)).sum())

    if one.shape[1] == 1 and math.comb(n_all, n) <= _MOST_EXACT:
        ways = np.array(list(combinations(range(n_all), n)))
        return at_least(pooled[ways, 0].sum(axis=1)[:, None]) / len(ways)
    random, count = np.random.RandomState(seed), 0
    some = max(1, _MOST_CELLS // pooled.size)
    for first in range(0, draws, some):
        keys = random.random_sample((min(some, draws - first), *pooled.shape))
        places = keys.argsort(axis=1)[:, :n]
        count += at_least(np.take_along_axis(pooled[None], places, axis=1).sum(axis=1))
    return (count + 1) / (draws + 1)


def holm(values: Sequence[float]) -> list[float]:
    """The p-values of several tests, adjusted so that a false alarm among all of them is as rare as with one alone.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, largest = [1.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, values[place] * (len(values) - rank)))
        adjusted[place] = largest
    return adjusted


def like_the_best(groups: Sequence[Sequence[float]], goal: str) -> set[int]:
    """The places of the group of values with the best mean, and of those that Welch's test, adjusted after Holm, does
    not tell from it at 5 %; none where a group has fewer than two values, or one that is not finite."""
    import numpy as np

    if any(len(values) < 2 or not all(map(math.isfinite, values)) for values in groups) or not groups:
        return set()
    largest = max(abs(value) for values in groups for value in values) or 1.0  # squares of it may be too large
    scores = [(np.array(values, dtype=float) / largest)[:, None] for values in groups]
    best = (max if goal == "max" else min)(range(len(scores)), key=lambda place: float(mean(scores[place])))
    others = [place for place in range(len(scores)) if place != best]
    p = holm([welch(scores[best], scores[place]).p for place in others])
    return {best, *(place for place, adjusted in zip(others, p, strict=True) if adjusted >= 1.0 - CONFIDENCE)}


def runs_needed(one: "Scores", other: "Scores") -> int | None:
    """How many runs of each method would show a difference like this one four times in five, at 5 % and by the normal
    approximation; None where there is no difference, or more than a million would be needed."""
    difference = float(mean(one) - mean(other))
    spread = sum(float(scores.var(axis=0, ddof=1).sum()) for scores in (one, other)) / one.shape[1] ** 2
    if difference == 0.0:
        return None
    from statistics import NormalDist

    normal = NormalDist()
    quantiles = normal.inv_cdf((1.0 + CONFIDENCE) / 2.0) + normal.inv_cdf(POWER)
    needed = max(2.0, math.ceil(quantiles**2 * spread / difference**2))
    return int(needed) if needed <= 1e6 else None


def student(t: float, degrees: float) -> float:
    """The p-value, of two sides, of Student's t with these degrees of freedom, to 12 digits.

    >>> round(student(2.228138851986274, 10), 12), student(0.0, 3)
    (0.05, 1.0)
    """
    return beta_share(degrees / (degrees + t * t), degrees / 2.0, 0.5)


def around_mean(values: Sequence[float]) -> float | None:
    """How far the mean of all that could be measured may lie from the mean of these values, on either side and with a
    confidence of 95 %, by Student's t; None for one value, NaN where one is not finite.

    >>> round(around_mean([1.0, 2.0, 6.0]), 6), around_mean([1.0])
    (6.572411, None)
    """
    if len(values) < 2:
        return None
    if not all(map(math.isfinite, values)):
        return math.nan
    from statistics import stdev

    return _student_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))


@cache
def _student_quantile(degrees: int) -> float:
    """The t that lies between minus and plus itself with a probability of 95 %, to 12 digits."""
    low, high = 1.0, 16.0
    while high - low > 1e-12 * high:
        middle = (low + high) / 2.0
        low, high = (middle, high) if student(middle, degrees) > 1.0 - CONFIDENCE else (low, middle)
    return (low + high) / 2.0


def beta_share(x: float, a: float, b: float) -> float:
    """The regularized incomplete beta function I_x(a, b), by its continued fraction after Lentz.

    >>> beta_share(0.5, 2.0, 2.0), beta_share(0.25, 1.0, 1.0)
    (0.5, 0.25)
    """
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    if x > (a + 1.0) / (a + b + 2.0):  # where the other fraction converges quickly
        return 1.0 - beta_share(1.0 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    c, d = 1.0, 1.0 / _not_zero(1.0 - (a + b) * x / (a + 1.0))
    fraction = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        change = 1.0
        for term in (even, odd):
            d = 1.0 / _not_zero(1.0 + term * d)
            c = _not_zero(1.0 + term / c)
            change = c * d
            fraction *= change
        if abs(change - 1.0) < _EPSILON:
            break
    return min(1.0, front * fraction)


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
