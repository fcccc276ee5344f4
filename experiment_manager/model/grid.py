"""From the axes of a sweep to its points, and what makes a point the same job as another. Pure."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import cached_property
from typing import Any, Final, NamedTuple

from experiment_manager.errors import GridError
from experiment_manager.model import codec


class _Written(NamedTuple):
    key: str
    text: str
    value: Any
    is_ordered: bool = False
    is_variable: bool = True


class Setting(_Written):
    """One override of one job. A sweep has few of them, and many jobs that share them, so its texts are made once.

    `key` is without + or ~, and with the package, as db@source; `text` is what Hydra gets, to the letter. What is
    ordered (a group that is appended, a deletion) has a place among the others that counts. A deletion has no value to
    vary, so it is no variable. One without a text is a variable of ours, and no override.
    """

    @cached_property
    def identifying(self) -> str:
        """This setting in the text that makes a job's identity. Raises UnstorableValue."""
        if self.is_ordered:
            return codec.dumps(self.text)
        return f"{codec.dumps(self.key)}:{codec.canonical(codec.encode(self.value, self.key))}"

    @cached_property
    def stored(self) -> str:
        """This setting in the manifest's text of the variables."""
        if not self.is_ordered and not isinstance(self.value, dict | list | tuple):
            return self.identifying  # the order of keys is all that the two texts differ in
        return f"{codec.dumps(self.key)}:{codec.dumps(codec.encode(self.value, self.key))}"

    @cached_property
    def stored_text(self) -> str:
        """This setting in the manifest's text of the overrides."""
        return codec.dumps(self.text)


class Axis(NamedTuple):
    """Keys that vary together, and the settings of each step: `steps[i][j]` is the setting of `keys[j]`."""

    keys: tuple[str, ...]
    steps: tuple[tuple[Setting, ...], ...]


class Point(NamedTuple):
    """One job of a sweep before it has an id."""

    settings: tuple[Setting, ...]
    config_name: str | None

    @property
    def identity(self) -> str:
        """The text that points have in common which are the same job. Raises UnstorableValue."""
        return sweep_identity(self.settings, self.config_name)

    @property
    def variables(self) -> dict[str, Any]:
        return {setting.key: setting.value for setting in self.settings if setting.is_variable}

    @property
    def overrides(self) -> tuple[str, ...]:
        return tuple([setting.text for setting in self.settings if setting.text])


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


REPEAT: Final = "repeat"
MOST_JOBS: Final = 10_000_000
"""Of a sweep, with those that a filter drops: each of them has an id."""


def require_few(count: int, what: str) -> None:
    """Raises GridError for more jobs than a sweep may have."""
    if count > MOST_JOBS:
        raise GridError(f"{what}: more than the {MOST_JOBS:,} jobs that a sweep may have; leave some of them out")


def repeating(axes: Sequence[Axis], count: int | None) -> list[Axis]:
    """The axes, and one that has each point `count` times: the variable `repeat`, from 1 on, which no override sets.

    Raises GridError where there is a variable of that name.
    """
    if count is None:
        return list(axes)
    require_few(count, f"hydra.sweeper.repeat={count}")
    if any(key.lstrip("~") == REPEAT for axis in axes for key in axis.keys):
        raise GridError(
            "hydra.sweeper.repeat adds a variable `repeat`, and the sweep has one of that name; leave one of them out"
        )
    return [*axes, Axis((REPEAT,), tuple((Setting(REPEAT, "", turn),) for turn in range(1, count + 1)))]


def points(axes: Sequence[Axis], config_name: str | None) -> Iterator[Point]:
    """Every combination, the last axis varying fastest."""
    place = _places(axes)
    for step in itertools.product(*(axis.steps for axis in axes)):
        yield Point(place(step), config_name)


def _places(axes: Sequence[Axis]) -> Callable[[Iterable[Sequence[Setting]]], tuple[Setting, ...]]:
    """A function from one step of each axis to the settings of a point, in the order in which the keys were written."""
    order = {key: place for place, key in enumerate(key for axis in axes for key in axis.keys)}
    flat = itertools.chain.from_iterable
    if all(len(axis.keys) == 1 for axis in axes):
        return lambda steps: tuple(flat(steps))
    return lambda steps: tuple(sorted(flat(steps), key=lambda setting: order[setting.key]))


def distinct(every: Iterable[Point]) -> Iterator[Point]:
    """The points without those whose identity came before."""
    seen = set()
    for point in every:
        identity = bytes.fromhex(point.identity)
        if identity not in seen:
            seen.add(identity)
            yield point


class Grid:
    """The distinct points of one or more blocks of axes, made one by one, however many there are, as often as asked."""

    def __init__(self, blocks: Iterable[Sequence[Axis]], config_name: str | None) -> None:
        given = [list(axes) for axes in blocks]
        self._blocks = [[_distinct_steps(axis) for axis in axes] for axes in given]
        self._config_name = config_name
        pairs = zip(itertools.chain(*given), itertools.chain(*self._blocks), strict=True)
        self.repeated = tuple(dict.fromkeys(",".join(b.keys) for a, b in pairs if len(a.steps) > len(b.steps)))
        """The axes that were given a value twice, which counts once."""

    def __len__(self) -> int:
        """At most so many points: two blocks may share some."""
        return self.size

    @property
    def size(self) -> int:
        """The same, also where that is more than Python's `len` can tell."""
        return sum(map(_size, self._blocks))

    def __iter__(self) -> Iterator[Point]:
        every = itertools.chain.from_iterable(points(axes, self._config_name) for axes in self._blocks)
        return distinct(every) if len(self._blocks) > 1 else every

    def settings(self) -> Iterator[Setting]:
        """Every setting that some point has, once for each block."""
        for axes in self._blocks:
            for axis in axes if _size(axes) else ():
                yield from itertools.chain.from_iterable(axis.steps)

    def names(self) -> list[str]:
        """The names of the variables, in the order in which they came."""
        return list(dict.fromkeys(setting.key for setting in self.settings() if setting.is_variable))

    def sample(self, count: int) -> list[Point]:
        """Some points, drawn by chance, the same ones each time."""
        import random  # programs that define jobs, or run one, import this module, too

        sizes = list(map(_size, self._blocks))
        chosen = random.Random(sum(sizes)).sample(range(sum(sizes)), min(count, sum(sizes)))
        return [self._at(place) for place in chosen]

    def _at(self, place: int) -> Point:
        for axes in self._blocks:
            if place < _size(axes):
                break
            place -= _size(axes)
        steps = []
        for axis in reversed(axes):
            place, turn = divmod(place, len(axis.steps))
            steps.append(axis.steps[turn])
        return Point(_places(axes)(reversed(steps)), self._config_name)


def _size(axes: Iterable[Axis]) -> int:
    return math.prod(len(axis.steps) for axis in axes)


def _distinct_steps(axis: Axis) -> Axis:
    """The axis without the steps that an earlier one repeats, as in seed=1,1."""
    steps: dict[tuple[str, ...], tuple[Setting, ...]] = {}
    for step in axis.steps:
        steps.setdefault(tuple(setting.identifying for setting in step), step)
    return Axis(axis.keys, tuple(steps.values()))


def sweep_identity(settings: Iterable[Setting], config_name: str | None) -> str:
    """A text that is equal for points which are one job: typed values by key, the ordered rest, the config's name."""
    plain: list[str] = []
    ordered: list[str] = []
    for setting in settings:
        (ordered if setting.is_ordered else plain).append(setting.identifying)
    if len(plain) > 1:
        plain.sort()
    name = "null" if config_name is None else codec.dumps(config_name)
    return codec.digest_text(f'["sweep",{name},{{{",".join(plain)}}},[{",".join(ordered)}]]')


def variables_identity(variables: Mapping[str, Any]) -> str:
    """A text that is equal for jobs written in Python which are one: their variables, typed; order does not count.

    Raises UnstorableValue.
    """
    return codec.digest(["variables", codec.encode(dict(variables))])


def may_be_one(names: Set[str], others: Set[str]) -> bool:
    """Whether jobs of one configuration with variables of these names may be one: with the same ones, or where some
    are named of one of the two alone, as an override that has the default. What only repeats a job is meant to be
    equal, and what is said to Hydra is no part of a configuration.

    >>> may_be_one({"lr"}, {"lr", "seed"}), may_be_one({"lr"}, {"lr", "repeat"}), may_be_one({"lr"}, {"lr"})
    (True, False, True)
    """
    return not any(name == REPEAT or name.startswith("hydra.") for name in names ^ others)
