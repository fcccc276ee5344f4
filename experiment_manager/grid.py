"""From the axes of a sweep to its points, and what makes a point the same job as another. Pure."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from experiment_manager import codec
from experiment_manager.errors import GridError


class Setting(NamedTuple):
    """One override of one job: `text` is what Hydra gets, to the letter."""

    key: str  # without + or ~; with the package, as db@source
    text: str
    value: Any
    is_ordered: bool = False  # a group that is appended, or a deletion: its place among the others counts
    is_variable: bool = True  # a deletion has no value to vary


class Axis(NamedTuple):
    """Keys that vary together, and the settings of each step: `steps[i][j]` is the setting of `keys[j]`."""

    keys: tuple[str, ...]
    steps: tuple[tuple[Setting, ...], ...]


class Point(NamedTuple):
    """One job of a sweep before it has an id."""

    settings: tuple[Setting, ...]
    identity: str

    @property
    def variables(self) -> dict[str, Any]:
        return {setting.key: setting.value for setting in self.settings if setting.is_variable}

    @property
    def overrides(self) -> tuple[str, ...]:
        return tuple(setting.text for setting in self.settings)


def zipped(axes: Sequence[Axis], groups: Iterable[Sequence[str]]) -> list[Axis]:
    """The axes with those of each group joined into one, which stands where the first of them stood.

    Raises GridError for an unknown key, a key in two groups, and axes of unequal length.
    """
    by_key = {axis.keys[0]: axis for axis in axes}
    joined: dict[str, Axis] = {}
    for group in groups:
        for place, key in enumerate(group):
            if key not in by_key:
                raise GridError(
                    f"hydra.sweeper.zip names {key!r}, which is not swept; swept are: {', '.join(by_key) or 'no keys'}"
                )
            if key in joined or key in group[:place]:
                raise GridError(f"hydra.sweeper.zip names {key!r} twice; a key can vary together with one group only")
        lengths = {key: len(by_key[key].steps) for key in group}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{key} has {count}" for key, count in lengths.items())
            raise GridError(f"hydra.sweeper.zip: {counts} values; keys that vary together need equally many")
        steps = tuple(tuple(itertools.chain(*step)) for step in zip(*(by_key[key].steps for key in group), strict=True))
        joined.update(dict.fromkeys(group, Axis(tuple(group), steps)))
    return list({id(axis): axis for axis in (joined.get(axis.keys[0], axis) for axis in axes)}.values())


def points(axes: Sequence[Axis], config_name: str | None) -> Iterator[Point]:
    """Every combination, the last axis varying fastest."""
    order = {key: place for place, key in enumerate(key for axis in axes for key in axis.keys)}
    for step in itertools.product(*(axis.steps for axis in axes)):
        settings = tuple(sorted(itertools.chain(*step), key=lambda setting: order[setting.key]))
        yield Point(settings, sweep_identity(settings, config_name))


def distinct(every: Iterable[Point]) -> Iterator[Point]:
    """The points without those whose identity came before."""
    seen = set()
    for point in every:
        if point.identity not in seen:
            seen.add(point.identity)
            yield point


def sweep_identity(settings: Iterable[Setting], config_name: str | None) -> str:
    """What makes two points of sweeps one job: typed values by key, the ordered rest, and the name of the config."""
    plain, ordered = {}, []
    for setting in settings:
        if setting.is_ordered:
            ordered.append(setting.text)
        else:
            plain[setting.key] = setting.value
    return codec.digest(["sweep", config_name, codec.encode(plain), ordered])


def variables_identity(variables: Mapping[str, Any]) -> str:
    """What makes two jobs that were written in Python one job: their variables, typed; order does not count.

    Raises UnstorableValue.
    """
    return codec.digest(["variables", codec.encode(dict(variables))])
