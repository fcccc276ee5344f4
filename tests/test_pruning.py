"""Pruning: the rules, as functions of the values that jobs have left, and what somebody may write for one."""

import itertools
import math
from typing import Any

import pytest

from experiment_manager.errors import OptionsError
from experiment_manager.model.pruning import PRUNERS, Pruner, checked

NAN = math.nan


def told_to_end(pruner: Pruner, values: dict[int, float], job_id: int, rung: int = 0) -> bool:
    return pruner.why_to_end(job_id, rung, values) is not None


@pytest.mark.parametrize(
    ("values", "ended"),
    [
        ([3], []),  # the first one, with nobody to compare it with
        ([3, 1], [0]),
        ([1, 3], [1]),
        ([1, 2, 3, 4, 5, 6], [2, 3, 4, 5]),  # two of six go on
        ([1, 1, 1], []),  # as good as the best
        ([NAN], [0]),
        ([NAN, 9], [0]),
        ([math.inf, 5], [0]),
        ([-math.inf, 5], [1]),
    ],
)
def test_successive_halving(values: list[float], ended: list[int]) -> None:
    """Of those at a rung the best one of `reduction_factor` goes on, the best one always, and NaN never."""
    pruner = Pruner("asha", "loss", "minimize", reduction_factor=3)
    by_job = dict(enumerate(values))
    assert ended == [job_id for job_id in by_job if told_to_end(pruner, by_job, job_id)]
    mirrored = {job_id: -value for job_id, value in by_job.items()}
    other = pruner._replace(direction="maximize")
    assert ended == [job_id for job_id in mirrored if told_to_end(other, mirrored, job_id)]


@pytest.mark.parametrize("name", ["asha", "hyperband", "median"])
def test_a_view_that_is_behind(name: str) -> None:
    """The best job goes on whatever it sees of the others."""
    pruner = checked(name, "loss", "minimize")
    assert pruner is not None
    others = [(job_id, float(job_id * 7 % 10)) for job_id in range(1, 11)]
    for n_seen in range(len(others) + 1):
        for seen in itertools.combinations(others, n_seen):
            assert not told_to_end(pruner, {0: -1.0, **dict(seen)}, 0)


@pytest.mark.parametrize(
    ("others", "own", "ended"),
    [
        ([1, 2, 3, 4], 9, False),  # too few to know
        ([1, 2, 3, 4, 5], 3, False),
        ([1, 2, 3, 4, 5], 3.1, True),
        ([1, 2, 3, 4, 5, 6], 3.5, False),
        ([1, 2, NAN, NAN, NAN], 9, False),  # the median is NaN
        ([1, 2, 3, NAN, NAN], 9, True),
        ([1, 2, 3, 4, 5], NAN, True),
    ],
)
def test_the_median_of_the_others(others: list[float], own: float, ended: bool) -> None:
    """A job ends that is worse than the median of at least `min_jobs` others."""
    values = {0: own, **dict(enumerate(others, start=1))}
    assert ended == told_to_end(Pruner("median", "loss", "minimize", min_jobs=5), values, 0)


def test_brackets_of_hyperband() -> None:
    """Each job has one bracket by its id alone; later ones begin to compare later, hold fewer jobs, and compare their
    own."""
    pruner = Pruner("hyperband", "loss", "minimize", reduction_factor=3, brackets=3)
    brackets = [pruner.bracket_of(job_id) for job_id in range(3000)]
    counts = [brackets.count(bracket) for bracket in range(3)]
    assert 3000 == sum(counts)
    assert counts == sorted(counts, reverse=True)
    assert min(counts) > 300
    assert {0, 1, 2} == {pruner.bracket_of(job_id) for job_id in range(0, 60, 3)}  # neighbours are alike in a grid
    values = {job_id: float(job_id) for job_id in range(300)}
    late = [job_id for job_id in values if pruner.bracket_of(job_id) == 2]
    assert not any(told_to_end(pruner, values, job_id, rung=1) for job_id in late)
    going_on = [job_id for job_id in late if not told_to_end(pruner, values, job_id, rung=2)]
    assert late[: max(1, len(late) // 3)] == going_on


def test_patience() -> None:
    """A job ends that has done no better for `patience` steps, once it has come to `min_steps`."""
    pruner = checked({"name": "patient", "patience": 30, "min_steps": 50}, "loss", "minimize")
    assert pruner is not None
    cases = [(0, 29), (0, 49), (0, 50), (40, 69), (40, 70)]
    assert [False, False, True, False, True] == [pruner.is_out_of_patience(*case) for case in cases]


@pytest.mark.parametrize("min_steps", [1, 7, 0.5, 1000])
def test_rungs(min_steps: float) -> None:
    """A job at the step of a rung is at that rung; just before, at the one before. None is beyond `max_steps`."""
    pruner = Pruner("asha", "loss", "minimize", min_steps=min_steps, reduction_factor=3)
    for rung in range(12):
        step = pruner.step_of(rung)
        assert rung == pruner.rung_at(step)
        assert (rung - 1 if rung else None) == pruner.rung_at(math.nextafter(step, 0))
    bounded = pruner._replace(max_steps=pruner.step_of(2))
    assert 1 == bounded.rung_at(1e300)
    assert [None, None, None] == [pruner.rung_at(step) for step in (NAN, math.inf, -1)]


def test_nothing_written_is_no_pruner() -> None:
    """Without a pruner nothing is pruned, whatever metric is named."""
    assert [None, None] == [checked(none, "loss", "minimize") for none in (None, "none")]
    assert checked(None, None, None) is None


@pytest.mark.parametrize("name", PRUNERS)
def test_what_is_written_for_a_pruner(name: str) -> None:
    """A name, or a mapping with options; what is not written has a default."""
    own = {"patience": 5} if name == "patient" else {}
    found = checked({"name": name, "min_steps": 10, **own}, {"name": "reward", "take": "best"}, "maximize")
    assert found is not None
    assert ("reward", "maximize", "best", 10) == (found.metric, found.direction, found.take, found.min_steps)
    if not own:
        usual = checked(name, "reward", "maximize")
        assert usual is not None
        assert found._replace(min_steps=1, take="last", rungs=usual.rungs) == usual
        assert found.rungs != usual.rungs


@pytest.mark.parametrize(
    ("pruner", "metric", "direction", "sentence"),
    [
        ("asha", None, "minimize", "s.pruner=asha needs s.metric, the name of a metric that jobs log with log_metrics"),
        ("asha", "loss", None, "s.pruner=asha needs s.direction: minimize where small values of loss are good"),
        ("asha", "loss", "min", "s.direction=min is not known; use minimize or maximize"),
        ("ashna", "loss", "minimize", "s.pruner=ashna is not known; use asha, hyperband, median, patient, or null"),
        ({"min_steps": 3}, "loss", "minimize", "s.pruner=None is not known"),
        (["asha"], "loss", "minimize", "is not known"),
        ({"name": "asha", "patience": 3}, "loss", "minimize", "has no option 'patience'; it has min_steps, max_steps"),
        ({"name": "asha", "reduction_factor": 1}, "loss", "minimize", "reduction_factor=1 is not a whole number, 2 or"),
        ({"name": "asha", "reduction_factor": 2.5}, "loss", "minimize", "reduction_factor=2.5 is not a whole number"),
        ({"name": "asha", "min_steps": 0}, "loss", "minimize", "min_steps=0 is not a number of steps above 0"),
        ({"name": "asha", "min_steps": None}, "loss", "minimize", "min_steps=None is not a number of steps above 0"),
        ({"name": "asha", "min_steps": True}, "loss", "minimize", "min_steps=True is not a number of steps above 0"),
        ({"name": "asha", "min_steps": 9, "max_steps": 9}, "loss", "minimize", "max_steps=9 is no more than min_steps"),
        ({"name": "median", "min_jobs": 0}, "loss", "minimize", "min_jobs=0 is not a whole number, 1 or more"),
        (
            {"name": "asha", "group_by": {"a": 1}},
            "loss",
            "minimize",
            "group_by={'a': 1} is no list of variables, such as",
        ),
        ("patient", "loss", "minimize", "needs to know for how many steps a job may do no better: {name: patient"),
        ("asha", {"name": "loss", "take": "first"}, "minimize", "s.metric: take=first is not known; use last or best"),
        ("asha", {"name": "loss", "goal": "max"}, "minimize", "s.metric has goal; its keys are name and take"),
        (None, 3, None, "s.metric=3 names no metric; write its name, or {name: reward, take: best}"),
        (None, None, "up", "s.direction=up is not known"),
    ],
)
def test_what_cannot_be_meant(pruner: Any, metric: Any, direction: Any, sentence: str) -> None:
    """What is wrong is said in a sentence, with the way out."""
    with pytest.raises(OptionsError) as found:
        checked(pruner, metric, direction, where="s.")
    assert sentence in str(found.value)


class Curves:
    """A benchmark with a known order: jobs learn at their own speeds, so that curves cross at first, and come to their
    own levels. They run in lanes, and each of them decides by what the others have left so far."""

    def __init__(self, n_jobs: int, seed: int, *, n_steps: int = 81) -> None:
        state = seed
        draws = []
        for _ in range(3 * n_jobs):
            state = (6364136223846793005 * state + 1442695040888963407) % 2**64
            draws.append((state >> 11) / 2**53)
        self.n_jobs, self.n_steps = n_jobs, n_steps
        self.levels, self._speeds, self._noises = draws[:n_jobs], draws[n_jobs : 2 * n_jobs], draws[2 * n_jobs :]

    @property
    def best(self) -> int:
        return min(range(self.n_jobs), key=self.levels.__getitem__)

    def loss(self, job_id: int, step: int) -> float:
        transient = 0.5 * (1 + self._speeds[job_id]) * math.exp(-step / 3)
        noise = 0.02 * math.sin(40 * self._noises[job_id] + step)
        return self.levels[job_id] + transient + noise / step

    def run(self, pruner: Pruner, n_lanes: int = 8, ended: dict[int, int] | None = None) -> tuple[int, set[int]]:
        """How many steps all jobs have taken together, and which have run to their end; `ended` gets the steps of those
        that were told to end."""
        rungs: dict[int, dict[int, float]] = {}
        waiting = iter(range(self.n_jobs))
        running = dict.fromkeys(itertools.islice(waiting, n_lanes), 0)
        spent, finished = 0, set[int]()
        while running:
            for job_id in list(running):
                running[job_id] += 1
                spent += 1
                step, is_over = running[job_id], False
                rung = pruner.rung_at(step)
                if rung is not None and step == pruner.step_of(rung):
                    here = rungs.setdefault(rung, {})
                    here[job_id] = self.loss(job_id, step)
                    is_over = told_to_end(pruner, here, job_id, rung)
                if is_over and ended is not None:
                    ended[job_id] = step
                if step == self.n_steps:
                    is_over = True
                    finished.add(job_id)
                if is_over:
                    del running[job_id]
                    if (another := next(waiting, None)) is not None:
                        running[another] = 0
        return spent, finished


@pytest.mark.parametrize("options", [{}, {"reduction_factor": 3}, {"name": "hyperband"}], ids=str)
def test_what_pruning_saves_and_keeps(options: dict[str, Any]) -> None:
    """Over 20 seeds at most a third of the full budget is spent, and the best job runs to its end in at least 19."""
    pruner = checked({"name": "asha", "min_steps": 3, "max_steps": 81, **options}, "loss", "minimize")
    assert pruner is not None
    spent = kept = 0
    for seed in range(20):
        curves = Curves(64, seed)
        steps, finished = curves.run(pruner)
        spent += steps
        kept += curves.best in finished
    assert spent <= 20 * 64 * 81 / 3
    assert kept >= 19


@pytest.mark.heavy
@pytest.mark.parametrize("reduction_factor", [2, 3, 4])
def test_what_optuna_decides(reduction_factor: int) -> None:
    """Successive halving ends the same jobs at the same steps as Optuna's, where jobs run one after the other."""
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    curves, ours, theirs = Curves(40, seed=1), dict[int, int](), dict[int, int]()
    pruner = checked({"name": "asha", "min_steps": 3, "reduction_factor": reduction_factor}, "loss", "minimize")
    assert pruner is not None
    curves.run(pruner, n_lanes=1, ended=ours)
    study = optuna.create_study(
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=3, reduction_factor=reduction_factor)
    )
    for job_id in range(curves.n_jobs):
        trial = study.ask()
        for step in range(1, curves.n_steps + 1):
            trial.report(curves.loss(job_id, step), step)
            if trial.should_prune():
                theirs[job_id] = step
                break
        study.tell(trial, curves.loss(job_id, step))
    assert theirs == ours
