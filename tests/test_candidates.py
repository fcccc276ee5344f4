"""Which jobs a worker may take, and in which order: workers of one launch, in simulated time."""

import errno
import heapq
import os
import random
import signal
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_manager import Experiment
from experiment_manager.errors import AlreadyCompleted, EndedSince, FolderError, JobRefused, NotOverYet
from experiment_manager.execution import worker
from experiment_manager.execution.child import Child
from experiment_manager.execution.supervisor import Outcome
from experiment_manager.execution.worker import PAUSE, Candidate, Candidates, Lane, TimeLeft
from experiment_manager.model.records import Attempt, JobId, State
from experiment_manager.store.launches import create_launch
from experiment_manager.store.states import States
from tests.conftest import examples


class Deaf:
    """Hears no signal: tests have handlers of their own."""

    was_stopped = was_warned = False

    def wait(self, _: float) -> list[signal.Signals]:
        return []


class Table:
    """What is taken, in memory, and how often somebody has looked."""

    def __init__(self, n_jobs: int) -> None:
        self.left = dict.fromkeys(range(n_jobs), 1)
        self.n_looks = self.n_listings = 0

    def is_claimed(self, job_id: int, number: int) -> bool:
        self.n_looks += 1
        return self.left.get(job_id) != number

    def unclaimed(self, planned: Mapping[int, int]) -> dict[int, int]:
        self.n_listings += 1
        return {job_id: number for job_id, number in planned.items() if job_id in self.left}

    def workers(self, n_workers: int) -> list[Iterator[Candidate]]:
        """Of a launch without a search, which name jobs alone."""
        states, planned = cast(States, self), dict(self.left)
        every = (iter(Candidates(states, "0001", planned, place, n_workers)) for place in range(n_workers))
        return [cast("Iterator[Candidate]", one) for one in every]


def end(table: Table, n_workers: int, seconds: Callable[[int], float]) -> float:
    """When all jobs have ended, of which each takes so long."""
    workers = table.workers(n_workers)
    free, latest = [(0.0, place) for place in range(n_workers)], 0.0
    while free:
        now, place = heapq.heappop(free)
        if (one := next(workers[place], None)) is not None:
            del table.left[one.job_id]  # KeyError: taken twice
            latest = max(latest, now + seconds(one.job_id))
            heapq.heappush(free, (now + seconds(one.job_id), place))
    assert not table.left
    return latest


def end_of_longest_first(seconds: Sequence[float], n_workers: int) -> float:
    """The same of a scheduler that knows how long each job takes, and begins with the longest."""
    free = [0.0] * n_workers
    for length in sorted(seconds, reverse=True):
        heapq.heapreplace(free, free[0] + length)
    return max(free)


def test_a_job_that_is_held_is_not_asked_for_without_end() -> None:
    """A listing may not show for a while that it is: it is named again after a pause each time, and others go on."""

    class Stale(Table):
        is_held = True

        def is_kept_back(self, job_id: int) -> bool:
            return self.is_held and job_id == 1

    table = Stale(3)
    candidates = Candidates(cast(States, table), "0001", dict(table.left), 0, 1)
    named = []
    for one in candidates:
        named.append("pause" if one is PAUSE else one and one.job_id)
        if one is None or one is PAUSE:
            continue
        if table.is_kept_back(one.job_id):
            candidates.leave(one)
            table.is_held = len(named) < 6
        else:
            del table.left[one.job_id]
    assert [0, 1, 2, "pause", 1, "pause", 1, "pause", 1] == named


def test_a_job_that_nobody_has_taken_is_tried_again() -> None:
    """Its last attempt was not over yet where it was refused, as some others saw it: a few times, with pauses."""
    table = Table(2)
    candidates = Candidates(cast(States, table), "0001", dict(table.left), 0, 1)
    table.is_kept_back = lambda _: False  # type: ignore[attr-defined]
    named = []
    for one in candidates:
        named.append("pause" if one is PAUSE else one and one.job_id)
        if one is not None and one is not PAUSE and (one.job_id == 1 or len(named) > 4):
            del table.left[one.job_id]
        elif one is not None and one is not PAUSE:
            candidates.leave(one, may_be_over=True)
    assert [0, 1, "pause", 0, "pause", 0] == named


@pytest.mark.parametrize(
    ("refusal", "n_tries"), [(NotOverYet, 4), (AlreadyCompleted, 1), (EndedSince, 1), (JobRefused, 1)]
)
def test_a_job_is_tried_again_only_where_that_may_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: type[JobRefused], n_tries: int
) -> None:
    """A claim that was refused because the last attempt was not over is repeated; what has completed stays so."""
    experiment = Experiment(["seed"], "study", tmp_path)
    experiment.add_job({"seed": 1}, {})
    experiment.save()
    experiment.save_pass_filter([0])
    runner = tmp_path / "runner.py"
    runner.touch()
    create_launch(experiment.folder, [Attempt(JobId(0), 1, State.PENDING)], {"runner": [sys.executable, str(runner)]})
    tries = []

    def refuse(child: Child, **_: Any) -> NoReturn:
        tries.append(child.only)
        raise refusal("it was refused")

    monkeypatch.setattr(worker, "supervise", refuse)
    monkeypatch.setattr(worker, "_PAUSE_S", 0.0)
    monkeypatch.setattr(worker, "Heard", Deaf)
    candidates = Candidates(States(experiment.folder), "0001", {0: 1}, 0, 1)
    lane = Lane(experiment.folder, candidates, TimeLeft(lambda: None, None), is_alone=True, note=lambda *_: None)
    assert Outcome(0) == lane.run()
    assert [1] * n_tries == tries


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
def test_a_file_system_that_errs_between_jobs_is_asked_again(number: int) -> None:
    """A worker goes on when it answers."""
    error = OSError(number, os.strerror(number))

    class Errs(Table):
        n_errors = 2

        def unclaimed(self, planned: Mapping[int, int]) -> dict[int, int]:
            if self.n_errors > 0:
                self.n_errors -= 1
                raise FolderError("states cannot be read") from error
            return super().unclaimed(planned)

        def is_claimed(self, job_id: int, number: int) -> bool:
            if self.n_errors > 0:
                self.n_errors -= 1
                raise error
            return super().is_claimed(job_id, number)

    table = Errs(3)
    (worker,) = table.workers(1)
    for one in worker:
        table.n_errors = 2
        del table.left[one.job_id]
    assert not table.left


@examples(50)
@given(st.integers(0, 40), st.integers(1, 9), st.randoms(use_true_random=False))
def test_each_job_is_taken_once(n_jobs: int, n_workers: int, dice: random.Random) -> None:
    """However workers are interleaved, each job is taken once, and none is left, also by one that looked before another
    took it."""
    table, taken = Table(n_jobs), list[int]()
    workers = table.workers(n_workers)
    offered: dict[int, Candidate] = {}
    while workers:
        place = dice.randrange(len(workers))
        if (one := offered.pop(id(workers[place]), None)) is not None:
            if one.job_id in table.left:  # else somebody was faster, and the anchor could not be linked
                del table.left[one.job_id]
                taken.append(one.job_id)
            continue
        found = next(workers[place], None)
        if found is None:
            del workers[place]
        else:
            offered[id(workers[place])] = found
    assert list(range(n_jobs)) == sorted(taken)


@pytest.mark.parametrize("spread", [0.01, 1.0])
def test_looks(spread: float) -> None:
    """A worker looks for about one file per job that it takes, and lists what is left a few times in its life."""
    dice, table = random.Random(3), Table(10_000)
    end(table, 16, lambda _: 1 + spread * dice.expovariate(1))
    assert 1.1 > table.n_looks / 10_000
    assert 4 > table.n_listings / 16


def test_jobs_of_random_length() -> None:
    """Twenty jobs of random length on four workers, which know nothing of the lengths, end within a tenth of the time
    after what a scheduler reaches that knows them: in the median of a hundred such launches."""
    ratios = []
    for seed in range(100):
        dice = random.Random(seed)
        seconds = [dice.uniform(0.5, 1.5) for _ in range(20)]
        ratios.append(end(Table(20), 4, seconds.__getitem__) / end_of_longest_first(seconds, 4))
    assert 1.1 > statistics.median(ratios)
