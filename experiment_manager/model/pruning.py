"""Pruning: which jobs are told to end early, since they do worse than others have done by the same step.

A *rung* is a step at which jobs are compared: rung 0 is `min_steps`, and each next one lies `reduction_factor` times as
far. A job leaves its value at a rung when it first gets there, and is compared with those that are there already; it
waits for nobody. Pure functions: a job that has a pruner imports this, and little else.
"""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, NamedTuple

from experiment_manager.errors import OptionsError
from experiment_manager.model.codec import digest

DIRECTIONS: Final = ("minimize", "maximize")
TAKES: Final = ("last", "best")

_OWN: Final[Mapping[str, Mapping[str, Any]]] = {
    "asha": {"reduction_factor": 4},
    "hyperband": {"reduction_factor": 3, "brackets": 3},
    "median": {"reduction_factor": 2, "min_jobs": 5},
    "patient": {"reduction_factor": 2, "patience": None},
}
"""The pruners, and the defaults of their options: those of Optuna, where it has them."""

PRUNERS: Final = tuple(_OWN)

_LAST_RUNG: Final = 63  # no float overflows before


class Pruner(NamedTuple):
    """The rule by which jobs are told to end early."""

    name: str
    metric: str  # that jobs log
    direction: str
    take: str = "last"  # at a rung counts the last value, or the best of the attempt so far
    min_steps: float = 1  # rung 0
    max_steps: float | None = None  # there are no rungs from here on: whoever gets there has run to the end
    reduction_factor: int = 4  # by which steps grow from rung to rung; one of so many goes on
    brackets: int = 1  # of hyperband: groups of jobs, each compared with its own from a later rung on
    min_jobs: int = 5  # of median: so many others have to be at a rung
    patience: float | None = None  # of patient: for so many steps a job may do no better than before
    group_by: tuple[str, ...] = ()  # variables: jobs are compared with those that agree in them
    average_over: tuple[str, ...] = ()  # variables: those that agree in all others are one trial, and end together
    rungs: str = ""  # stands for what makes values at rungs comparable

    def step_of(self, rung: int) -> float:
        """The step at which that rung is."""
        return float(self.min_steps * self.reduction_factor**rung)

    def rung_at(self, step: float) -> int | None:
        """The last rung that a job at that step has come to; None: it is before the first one.

        >>> pruner = Pruner("asha", "loss", "minimize", min_steps=10, max_steps=500, reduction_factor=3)
        >>> [pruner.rung_at(step) for step in (9, 10, 89, 90, 10_000)]
        [None, 0, 1, 2, 3]
        """
        if not (step >= self.min_steps) or math.isinf(step):  # NaN is nowhere
            return None
        rung = 0
        while rung < _LAST_RUNG and self.step_of(rung + 1) <= step and self.has_rung(rung + 1):
            rung += 1
        return rung

    def has_rung(self, rung: int) -> bool:
        """Whether jobs are compared there."""
        return self.max_steps is None or self.step_of(rung) < self.max_steps

    def is_better(self, one: float, other: float) -> bool:
        """Whether one value is better than another; NaN is the worst there is.

        >>> nan, pruner = float("nan"), Pruner("asha", "reward", "maximize")
        >>> pruner.is_better(2, 1), pruner.is_better(1, 1), pruner.is_better(1, nan), pruner.is_better(nan, nan)
        (True, False, True, False)
        """
        return self.badness(one) < self.badness(other)

    def badness(self, value: float) -> tuple[bool, float]:
        """What values are sorted by, the best one first and NaN last."""
        return (True, 0.0) if math.isnan(value) else (False, -value if self.direction == "maximize" else value)

    def bracket_of(self, job_id: int) -> int:
        """Which group of jobs a job is in: by its id, so that all agree, and not by turns, since neighbours are alike.
        The larger its number, the later jobs are compared, and the fewer they are."""
        weights = [
            math.ceil(
                self.brackets * self.reduction_factor ** (self.brackets - 1 - bracket) / (self.brackets - bracket)
            )
            for bracket in range(self.brackets)
        ]
        place = (job_id * 2_654_435_761 % 2**32) / 2**32 * sum(weights)  # Knuth's multiplicative hash
        for bracket, weight in enumerate(weights):
            place -= weight
            if place < 0:
                return bracket
        return self.brackets - 1

    def why_to_end(self, job_id: int, rung: int, values: Mapping[int, float]) -> str | None:
        """Why a job whose value at a rung is among `values`, those of the jobs that are there, is told to end; None: it
        goes on. A view that lacks some of the others decides as it would have a moment earlier. Trials of several jobs
        are compared likewise, by the mean of each and any number that is its own."""
        own = values[job_id]
        if math.isnan(own):
            return "it is NaN"
        rule, bracket = _AT_RUNGS.get(self.name), self.bracket_of(job_id)
        if rule is None or rung < bracket:
            return None
        others = [value for other, value in values.items() if other != job_id and self.bracket_of(other) == bracket]
        return rule(self, own, others)

    def is_out_of_patience(self, best_step: float, step: float) -> bool:
        """Whether a job is told to end that has done no better since `best_step`."""
        return self.patience is not None and step >= self.min_steps and step - best_step >= self.patience


def _is_not_among_the_best(pruner: Pruner, own: float, others: Collection[float]) -> str | None:
    """Asynchronous successive halving: of those at a rung, one of `reduction_factor` goes on, the best one always."""
    n_better = sum(pruner.is_better(value, own) for value in others)
    n_here = len(others) + 1
    n_go_on = max(1, n_here // pruner.reduction_factor)
    if n_better < n_go_on:
        return None
    those = "the best one goes" if n_go_on == 1 else f"the best {n_go_on} go"
    return f"{n_better} of the {n_here} there are better, and {those} on"


def _is_worse_than_the_median(pruner: Pruner, own: float, others: Collection[float]) -> str | None:
    """Worse than the better half of the others."""
    if len(others) < pruner.min_jobs:
        return None
    median = _median(pruner, others)
    return f"the median of {len(others)} others is {median:.6g}" if pruner.is_better(median, own) else None


def _median(pruner: Pruner, values: Collection[float]) -> float:
    """Of an even number the mean of the two, or the worse of them where that is not finite."""
    ordered = sorted(values, key=pruner.badness)
    one, other = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    mean = (one + other) / 2
    return mean if math.isfinite(mean) else other


_Rule = Callable[[Pruner, float, Collection[float]], str | None]
_AT_RUNGS: Final[Mapping[str, _Rule]] = {
    "asha": _is_not_among_the_best,
    "hyperband": _is_not_among_the_best,
    "median": _is_worse_than_the_median,
}


def checked(pruner: Any, metric: Any, direction: Any, *, where: str = "") -> Pruner | None:
    """The pruner that somebody has written, None where there is none. Raises OptionsError for what cannot be meant;
    `where` comes before the names of options.

    >>> checked({"name": "asha", "min_steps": 1000}, "reward", "maximize").step_of(1)
    4000.0
    """
    name, take = _metric(metric, where)
    if direction is not None and direction not in DIRECTIONS:
        raise OptionsError(f"{where}direction={direction} is not known; use {' or '.join(DIRECTIONS)}")
    if pruner is None or pruner == "none":
        return None
    kind, options = _named(pruner, where)
    if name is None:
        raise OptionsError(
            f"{where}pruner={kind} needs {where}metric, the name of a metric that jobs log with log_metrics"
        )
    if direction is None:
        raise OptionsError(
            f"{where}pruner={kind} needs {where}direction: minimize where small values of {name} are good, "
            "else maximize"
        )
    found = Pruner(kind, name, str(direction), take)._replace(**options)
    if found.max_steps is not None and found.max_steps <= found.min_steps:
        raise OptionsError(
            f"{where}pruner: max_steps={found.max_steps} is no more than min_steps={found.min_steps}; nothing would "
            "ever be compared"
        )
    if kind == "patient" and found.patience is None:
        raise OptionsError(
            f"{where}pruner=patient needs to know for how many steps a job may do no better: "
            "{name: patient, patience: 1000}"
        )
    return found._replace(rungs=_comparable(found))


def ranking(metric: Any, direction: Any, *, where: str = "") -> dict[str, str]:
    """By what jobs are compared that nothing prunes, where both are named: `metric`, `direction` and `take`. Raises
    OptionsError.

    >>> ranking("score", "minimize"), ranking("score", None)
    ({'metric': 'score', 'direction': 'minimize', 'take': 'last'}, {})
    """
    name, take = _metric(metric, where)
    return {} if name is None or direction is None else {"metric": name, "direction": str(direction), "take": take}


def read(written: Mapping[str, Any]) -> Pruner | None:
    """The pruner in the record of a launch, as `_asdict` gives it; None where it is none of ours."""
    try:
        found = Pruner(**{name: written[name] for name in Pruner._fields if name in written})
        return found._replace(group_by=tuple(found.group_by), average_over=tuple(found.average_over))
    except TypeError:
        return None


def _comparable(pruner: Pruner) -> str:
    """Eight characters that are the same for pruners whose rungs hold the same kind of values."""
    return digest([*pruner[1:4], float(pruner.min_steps), pruner.reduction_factor])[:8]


def _metric(metric: Any, where: str) -> tuple[str | None, str]:
    """The name of the metric, and how it is taken."""
    if isinstance(metric, Mapping):
        name, take = metric.get("name"), metric.get("take", TAKES[0])
        if unknown := sorted(map(str, set(metric) - {"name", "take"})):
            raise OptionsError(f"{where}metric has {', '.join(unknown)}; its keys are name and take")
    else:
        name, take = metric, TAKES[0]
    if metric is not None and (not isinstance(name, str) or not name):
        raise OptionsError(f"{where}metric={metric!r} names no metric; write its name, or {{name: reward, take: best}}")
    if take not in TAKES:
        raise OptionsError(f"{where}metric: take={take} is not known; use {' or '.join(TAKES)}")
    return name, str(take)


def _named(pruner: Any, where: str) -> tuple[str, dict[str, Any]]:
    """Which pruner is meant, and all of its options."""
    written = dict(pruner) if isinstance(pruner, Mapping) else {"name": pruner}
    kind = written.pop("name", None)
    if not isinstance(kind, str) or kind not in PRUNERS:
        raise OptionsError(f"{where}pruner={kind} is not known; use {', '.join(PRUNERS)}, or null")
    options = {
        "min_steps": 1,
        "max_steps": None,
        **_OWN[kind],
        "group_by": _names(kind, written.pop("group_by", ()), where),
    }
    for option, value in written.items():
        if option not in options:
            raise OptionsError(f"{where}pruner={kind} has no option {option!r}; it has {', '.join(options)}")
        options[option] = value if value is None and options[option] is None else _number(kind, option, value, where)
    return kind, options


def _names(kind: str, value: Any, where: str) -> tuple[str, ...]:
    """The names of variables."""
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise OptionsError(f"{where}pruner={kind}: group_by={value} is no list of variables, such as [task]")
    return tuple(names)


_LEAST: Final = {"reduction_factor": 2, "brackets": 1, "min_jobs": 1}
"""Of the options that are whole numbers."""


def _number(kind: str, option: str, value: Any, where: str) -> float:
    least = _LEAST.get(option)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if least is None and is_number and value > 0:
        return value  # type: ignore[no-any-return]
    if least is not None and is_number and value == int(value) and value >= least:
        return int(value)
    words = "a number of steps above 0" if least is None else f"a whole number, {least} or more"
    raise OptionsError(f"{where}pruner={kind}: {option}={value} is not {words}")
