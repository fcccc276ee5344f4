"""The space of a search, from what people write: the syntax of hydra-optuna-sweeper, which is Hydra's.

lr: tag(log, interval(1e-5, 1e-1))     width: int(interval(16, 256))
depth: range(1, 5)                     algorithm: choice(TD3, DDPG)
"""

from collections.abc import Collection, Iterable, Mapping
from math import isfinite
from typing import Any, Final, NamedTuple

from hydra.core.override_parser.types import IntervalSweep, RangeSweep

from experiment_manager.errors import GridError
from experiment_manager.hydra.compose import Composer, Given, elements
from experiment_manager.model import codec
from experiment_manager.model.grid import Setting
from experiment_manager.model.search import CATEGORICAL, FLOAT, INT, Choice, Dimension

_LOG: Final = "log"


class Space(NamedTuple):
    """What varies from trial to trial, and what all trials have in common."""

    dimensions: tuple[Dimension, ...]
    fixed: tuple[Choice, ...]
    fixed_keys: tuple[str, ...]
    averaged: tuple[Dimension, ...] = ()


def read_space(
    composer: Composer, params: Mapping[str, Any], arguments: Iterable[str], average_over: Collection[str] = ()
) -> Space:
    """The space of these parameters; the command line wins over them. Raises GridError, and Hydra's own errors."""
    found: dict[str, Dimension | Setting] = {}
    for given in sorted(composer.parsed(params, arguments), key=lambda given: given.place):
        one = _read(composer, given, average_over)
        found[one.key] = one
    varied = [one for one in found.values() if isinstance(one, Dimension)]
    for name in average_over:
        if not isinstance(found.get(name), Dimension):
            raise GridError(
                f"hydra.sweeper.average_over has {name}, which the search does not vary (it varies "
                f"{', '.join(one.key for one in varied) or 'nothing'}); write {name}=1,2,3 on the command line or in "
                "hydra.sweeper.params"
            )
    dimensions = tuple(one for one in varied if one.key not in average_over)
    settings = [one for one in found.values() if isinstance(one, Setting)]
    if not dimensions:
        raise GridError(
            "the search has nothing to vary; write an interval, a range or a choice, as lr='tag(log, interval(1e-5, "
            "1e-1))', on the command line or in hydra.sweeper.params"
        )
    averaged = tuple(one for one in varied if one.key in average_over)
    return Space(dimensions, tuple(map(_choice, settings)), tuple(setting.key for setting in settings), averaged)


def _read(composer: Composer, given: Given, average_over: Collection[str]) -> Dimension | Setting:
    override = given.override
    value: Any = None if override.is_delete() else override.value()
    is_averaged = given.key in average_over
    if isinstance(value, IntervalSweep):
        if is_averaged:
            raise GridError(
                f"'{override.input_line}' has no list of values, which hydra.sweeper.average_over goes through; write "
                "a range or a choice"
            )
        return _interval(given, value)
    if isinstance(value, RangeSweep) and not value.shuffle and not is_averaged:
        return _range(given, value)
    axis = composer.axis(given)
    if not override.is_sweep_override():
        return axis.steps[0][0]
    choices = [step[0] for step in axis.steps]
    distinct = {setting.identifying: setting for setting in choices}
    return Dimension(given.key, CATEGORICAL, _prefix(given), choices=tuple(map(_choice, distinct.values())))


def _prefix(given: Given) -> str:
    """What comes before the name of the variable in an override."""
    return "" if given.is_one_of_several else given.prefix


def _choice(setting: Setting) -> Choice:
    return Choice(setting.text, codec.encode(setting.value, setting.key), setting.is_ordered)


def _interval(given: Given, sweep: IntervalSweep) -> Dimension:
    override = given.override
    low, high = sweep.start, sweep.end
    kind = INT if isinstance(low, int) and isinstance(high, int) else FLOAT
    is_log = _LOG in sweep.tags
    if low is None or high is None or not (isfinite(low) and isfinite(high)) or low > high:
        raise GridError(f"'{override.input_line}' has no values; write the smaller bound first")
    if is_log and low <= 0:
        raise GridError(f"'{override.input_line}' is on a logarithmic scale, which begins above 0")
    return Dimension(given.key, kind, _prefix(given), low=low, high=high, log=is_log)


def _range(given: Given, sweep: RangeSweep) -> Dimension:
    """Hydra's range: without the end. Raises GridError for one without values."""
    values = elements(given.override)
    assert sweep.step is not None
    kind = INT if all(isinstance(value, int) for value in values) else FLOAT
    return Dimension(
        given.key,
        kind,
        _prefix(given),
        low=min(values),
        high=max(values),
        step=abs(sweep.step) if len(values) > 1 else 1,
    )
