"""When all jobs of an experiment will have ended, from how long those took that have: a range, by drawing lots. Pure.

How long a job takes is told by those that have completed and by those that still run: at first only the short ones have
completed, and what has run for an hour takes longer than that (the estimator of Kaplan and Meier). How well so few jobs
tell it is told by samples of them, drawn again (the bootstrap).
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from heapq import heapify, heapreplace
from random import Random
from typing import Final, NamedTuple

ENOUGH: Final = 8
"""So many jobs have to have completed: fewer tell nothing."""

SAMPLE: Final = 100
"""More jobs are not asked how long they took: the range would become narrower than the truth, and each is a file."""

_DRAWN: Final = 60
"""Courses of things, the first and the last end of which are the range: so eight of ten hold where jobs differ much."""

_ONE_BY_ONE: Final = 400
"""Of more jobs that wait, the first are taken together: which slot is free when matters at the end alone."""


class Estimate(NamedTuple):
    """When the jobs that are left will have ended, in seconds from now, if as many go on running at once; and how many
    seconds they would take one after the other."""

    low_s: float
    high_s: float
    work_s: float
    counts: str = "job"  # what people count the hours of: GPU, CPU
    per_job: float = 1.0  # how many of these each job takes

    @property
    def text(self) -> str:
        """For people: `1:40 to 2:30 h`."""
        return range_text(self.low_s, self.high_s)

    @property
    def work_text(self) -> str | None:
        """For people: `14 GPU-hours`; None where it is less than one.

        >>> Estimate(0, 1, 9000, "GPU", 4.0).work_text, Estimate(0, 1, 9000).work_text, Estimate(0, 1, 60).work_text
        ('10 GPU-hours', '2.5 job-hours', None)
        """
        hours = self.work_s * self.per_job / 3600
        return f"{hours:.{0 if hours >= 9.95 else 1}f} {self.counts}-hours" if hours >= 1 else None


def range_text(low_s: float, high_s: float) -> str:
    """Two durations as a range, in the unit that fits the longer one, and never as one number.

    >>> range_text(6000, 9000), range_text(240, 405), range_text(31, 31), range_text(240_000, 400_000)
    ('1:40 to 2:30 h', '4 to 7 min', '31 to 32 s', '2.7 to 4.7 days')
    """
    if high_s >= 3 * 86_400:
        return f"{math.floor(low_s / 8640) / 10:g} to {math.ceil(high_s / 8640 + 0.01) / 10:g} days"
    unit, word = (60, "") if high_s >= 3600 else (60, " min") if high_s >= 180 else (1, " s")
    low = math.floor(low_s / unit)
    high = max(math.ceil(high_s / unit), low + 1)
    return f"{low} to {high}{word}" if word else f"{hours_text(60 * low)} to {hours_text(60 * high)} h"


def hours_text(seconds: float) -> str:
    """Hours and minutes.

    >>> hours_text(2040), hours_text(360_000)
    ('0:34', '100:00')
    """
    hours, minutes = divmod(int(seconds // 60), 60)
    return f"{hours}:{minutes:02d}"


def estimate(
    ended: Sequence[float], running: Sequence[float], n_waiting: int, *, n_ended: int | None = None
) -> Estimate | None:
    """When the jobs that run and those that wait will have ended; None where nothing runs, or too little is known.

    `ended` are the seconds that jobs took which have completed, or a sample of these `n_ended`; `running` the seconds
    that others have run so far. The same jobs give the same range.

    >>> estimate([60.0] * 10, [0.0, 30.0], 2)
    Estimate(low_s=120.0, high_s=120.0, work_s=210.0, counts='job', per_job=1.0)
    >>> estimate([60.0] * 7, [0.0], 2) is None
    True
    """
    if len(ended) < ENOUGH or not running:
        return None
    generator, weight = Random(0), max(1.0, (n_ended or 0) / len(ended))
    found = []
    for _ in range(_DRAWN):
        durations = Durations(generator.choices(ended, k=len(ended)), running, weight)
        found.append(_drawn(durations, running, n_waiting, generator))
    ends, work = zip(*found, strict=True)
    return Estimate(min(ends), max(ends), math.fsum(work) / len(work))


class Durations:
    """How long jobs take, as far as those tell that have ended, each of them for `weight` jobs, and those that run."""

    def __init__(self, ended: Iterable[float], running: Iterable[float], weight: float = 1.0) -> None:
        seen = sorted([(seconds, 0) for seconds in ended] + [(seconds, 1) for seconds in running])
        at_risk = sum(1.0 if goes_on else weight for _, goes_on in seen)
        self.values, self._below = list[float](), list[float]()
        left, below = 1.0, 0.0  # the share of jobs that take longer, and of those that do not
        for seconds, goes_on in seen:
            if not goes_on:
                share = left * min(1.0, weight / at_risk)
                left, below = left - share, below + share
                self.values.append(seconds)
                self._below.append(below)
            at_risk -= 1.0 if goes_on else weight
        if left > 1e-9:  # some run longer than any has that ended: as long again, for want of anything better
            self.values.append(2 * seen[-1][0])
            self._below.append(1.0)

    def draw(self, n_jobs: int, generator: Random) -> list[float]:
        """How long so many jobs may take."""
        return generator.choices(self.values, cum_weights=self._below, k=n_jobs)

    def draw_left(self, so_far: float, generator: Random) -> float:
        """How much longer a job may take that has run for so long."""
        at = bisect_right(self.values, so_far)
        if at == len(self.values):
            return generator.random() * so_far
        below = self._below[at - 1] if at else 0.0
        place = bisect_right(self._below, below + generator.random() * (self._below[-1] - below), at)
        return self.values[min(place, len(self.values) - 1)] - so_far

    def mean_and_deviation(self) -> tuple[float, float]:
        shares = [after - before for before, after in zip([0.0, *self._below], self._below, strict=False)]
        whole = math.fsum(shares)
        mean = math.fsum(share * value for share, value in zip(shares, self.values, strict=True)) / whole
        squares = math.fsum(share * (value - mean) ** 2 for share, value in zip(shares, self.values, strict=True))
        return mean, math.sqrt(squares / whole)


def _drawn(durations: Durations, running: Sequence[float], n_waiting: int, generator: Random) -> tuple[float, float]:
    """When all have ended in one course of things, and the seconds that they take together."""
    free = [durations.draw_left(so_far, generator) for so_far in running]  # when each slot is free
    n_together = max(0, n_waiting - max(_ONE_BY_ONE, 4 * len(free)))
    single = durations.draw(n_waiting - n_together, generator)
    together = 0.0
    if n_together:
        mean, deviation = durations.mean_and_deviation()
        together = max(0.0, n_together * mean + generator.gauss(0.0, 1.0) * deviation * math.sqrt(n_together))
    work = math.fsum(free) + math.fsum(single) + together
    heapify(free)
    for seconds in single:
        heapreplace(free, free[0] + seconds)
    return max(free) + together / len(free), work
