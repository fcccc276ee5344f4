"""When all jobs will have ended: a range that holds, from what is known, for jobs of many kinds."""

import heapq
import re
import time
from collections.abc import Callable, Sequence
from random import Random
from statistics import fmean
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_manager.model.estimate import ENOUGH, SAMPLE, Durations, estimate, range_text
from tests.conftest import examples

KINDS: dict[str, Callable[[Random], float]] = {
    "alike": lambda generator: generator.uniform(55, 65),
    "uniform": lambda generator: generator.uniform(10, 100),
    "exponential": lambda generator: generator.expovariate(1 / 60),
    "some much longer": lambda generator: generator.choice([20.0, 20.0, 20.0, 200.0]),
}


class Moment(NamedTuple):
    """What is known at one moment of jobs that run on so many slots, and how long it takes until all have ended."""

    ended: list[float]  # in the order in which they ended
    running: list[float]
    n_waiting: int
    truth: float


def moment(durations: Sequence[float], n_slots: int, at: float) -> Moment:
    """That moment, where each slot takes the next job when it is free."""
    free, jobs = [0.0] * n_slots, list[tuple[float, float]]()
    for seconds in durations:
        began = heapq.heapreplace(free, free[0] + seconds)
        jobs.append((began, began + seconds))
    ended = sorted((end, end - began) for began, end in jobs if end <= at)
    running = [at - began for began, end in jobs if began <= at < end]
    return Moment([took for _, took in ended], running, sum(began > at for began, _ in jobs), max(free) - at)


def of(known: Moment, factor: float = 1.0) -> tuple[float, float]:
    """The range for that moment, where everything takes `factor` times as long."""
    found = estimate(
        [took * factor for took in known.ended[-SAMPLE:]],
        [so_far * factor for so_far in known.running],
        known.n_waiting,
        n_ended=len(known.ended),
    )
    assert found is not None
    return found.low_s, found.high_s


@pytest.mark.parametrize(
    ("kind", "share", "width"),
    [("alike", 0.9, 0.2), ("uniform", 0.85, 1.0), ("exponential", 0.7, 1.5), ("some much longer", 0.6, 1.5)],
)
def test_the_range_holds(kind: str, share: float, width: float) -> None:
    """At any moment of many courses, as soon as enough is known, all have ended within the range in most cases, and it
    is narrow where jobs are alike."""
    generator, held, widths = Random(kind), list[bool](), list[float]()
    while len(held) < 80:
        n_slots, n_jobs = generator.choice([1, 2, 8, 32]), generator.choice([20, 100, 400])
        durations = [KINDS[kind](generator) for _ in range(n_jobs)]
        known = moment(durations, n_slots, generator.uniform(0.1, 0.95) * sum(durations) / n_slots)
        if len(known.ended) < ENOUGH or not known.running:
            continue
        low, high = of(known)
        held.append(0.99 * low <= known.truth <= 1.01 * high)
        widths.append((high - low) / known.truth)
    assert sum(held) / len(held) >= share
    assert sorted(widths)[len(widths) // 2] <= width


@given(
    ended=st.lists(st.integers(1, 1000).map(float), min_size=ENOUGH, max_size=30),
    running=st.lists(st.integers(0, 2000).map(float), min_size=1, max_size=8),
    n_waiting=st.integers(0, 1000),
    power=st.integers(-3, 3),
)
@examples(60)
def test_a_range_of_any_jobs(ended: list[float], running: list[float], n_waiting: int, power: int) -> None:
    """It is a range in the future, the same each time, and as much longer as everything takes longer."""
    known = Moment(ended, running, n_waiting, 0.0)
    low, high = of(known)
    assert 0 <= low <= high
    assert (low, high) == of(known)
    assert pytest.approx((low * 2.0**power, high * 2.0**power)) == of(known, 2.0**power)


@pytest.mark.parametrize(("n_slots", "n_jobs"), [(1, 20), (3, 50), (8, 3000)])
def test_jobs_that_all_take_the_same_time(n_slots: int, n_jobs: int) -> None:
    """Where there is nothing to guess, the end is that of the schedule."""
    known = moment([60.0] * n_jobs, n_slots, 60.0 * 11)
    low, high = of(known)
    assert pytest.approx(known.truth, abs=60.0 if n_jobs > 400 else 0.001) == low
    assert pytest.approx(known.truth, abs=60.0 if n_jobs > 400 else 0.001) == high


def test_jobs_that_run_long_count() -> None:
    """While only the short ones have completed, those that have run much longer tell that there are long ones."""
    quick = estimate([10.0] * 20, [5.0] * 10, 100)
    mixed = estimate([10.0] * 20, [500.0] * 10, 100)
    assert quick is not None
    assert mixed is not None
    assert mixed.low_s > 10 * quick.high_s
    mean, _ = Durations([10.0] * 20, [500.0] * 20).mean_and_deviation()
    assert mean > 250
    mean, _ = Durations([10.0] * 20, [500.0] * 20, weight=1000).mean_and_deviation()
    assert mean < 12


@pytest.mark.parametrize(("n_ended", "n_running"), [(ENOUGH - 1, 4), (1000, 0), (0, 0)])
def test_too_little_is_known(n_ended: int, n_running: int) -> None:
    """Nothing is said after a few jobs, or where nothing runs."""
    assert estimate([1.0] * n_ended, [0.5] * n_running, 10) is None


def test_a_hundred_thousand_jobs() -> None:
    """They cost no more than a moment, and take their mean time, divided by the slots."""
    generator, began = Random(0), time.process_time()
    seconds = [generator.uniform(50, 70) for _ in range(SAMPLE)]
    found = estimate(seconds, [30.0] * 200, 100_000, n_ended=50_000)
    assert time.process_time() - began < 2
    assert found is not None
    whole = 100_000 * fmean(seconds)
    assert 0.95 * whole < 200 * found.low_s < 200 * found.high_s < 1.05 * whole
    assert pytest.approx(whole, rel=0.05) == found.work_s


@given(low=st.floats(0, 1e7), more=st.floats(0, 1e7))
def test_a_range_is_no_single_number(low: float, more: float) -> None:
    """Whatever the unit, two different numbers stand there, the smaller one first."""
    first, second = (
        [float(part) for part in re.split("[: ]", text) if re.fullmatch(r"[0-9.]+", part)]
        for text in range_text(low, low + more).split(" to ")
    )
    assert first < second
