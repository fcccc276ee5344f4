"""A search: the space that values are drawn from, and the ids that its jobs get, which nobody else does. Pure.

A trial is a job, or, where values are averaged over variables such as a seed, one job for each choice of those: they
share what was drawn, and the mean of what they find is the value of the trial. The slot of a job is its place among the
jobs of the search, from 0 on, those of one trial after each other; the ids of the slots are reserved before any of them
is proposed, so that nobody has to agree upon them later.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from experiment_manager.model import codec
from experiment_manager.model.grid import Setting, sweep_identity

FLOAT, INT, CATEGORICAL = "float", "int", "categorical"
MINIMIZE, MAXIMIZE = "minimize", "maximize"
DIRECTIONS: Final = (MINIMIZE, MAXIMIZE)
LAST, BEST = "last", "best"
_ANY_LATER: Final = 2**62
"""An id that no job has."""


class Choice(NamedTuple):
    """A value that can be chosen, and the override that chooses it."""

    text: str
    value: codec.Encoded
    is_ordered: bool = False  # see grid.Setting

    @classmethod
    def read(cls, body: Sequence[Any]) -> "Choice":
        """From the list that JSON makes of one. Raises TypeError for what is none."""
        found = cls(*body)
        if not isinstance(body, list) or not isinstance(found.text, str) or not isinstance(found.is_ordered, bool):
            raise TypeError(f"{body!r:.40} is no choice of a search")
        codec.decode(found.value)
        return found


class Dimension(NamedTuple):
    """One variable of a search, and the values that it may have."""

    key: str
    kind: str  # FLOAT, INT or CATEGORICAL
    prefix: str = ""  # of its overrides: + or ++
    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False
    choices: tuple[Choice, ...] = ()

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> "Dimension":
        """From what `_asdict` has given, once it was JSON. Raises TypeError, or another error, for what is none."""
        found = cls(**{**body, "choices": tuple(map(Choice.read, body["choices"]))})
        numbers = (found.low, found.high, found.step)
        is_one = found.kind in (FLOAT, INT, CATEGORICAL) and isinstance(found.log, bool)
        is_one = is_one and all(isinstance(text, str) for text in (found.key, found.prefix))
        is_one = is_one and all(codec.is_number(number) for number in numbers if number is not None)
        if not is_one or (None in numbers[:2] if found.kind != CATEGORICAL else not found.choices):
            raise TypeError(f"{found.key!r:.40} is no dimension of a search")
        return found

    @property
    def words(self) -> str:
        """The values that it may have, for people.

        >>> Dimension("lr", FLOAT, low=0.001, high=0.1, log=True).words
        '0.001 to 0.1, on a logarithmic scale'
        >>> Dimension("width", INT, low=1, high=9, step=2).words
        '1 to 9 by 2'
        """
        if self.kind == CATEGORICAL:
            return "one of " + ", ".join(choice.text.partition("=")[2] for choice in self.choices)
        step = f" by {self.step:g}" if self.step is not None else ", whole numbers" if self.kind == INT else ""
        return f"{self.low:g} to {self.high:g}{step}{', on a logarithmic scale' if self.log else ''}"

    @property
    def labels(self) -> list[Any]:
        """What stands for each choice in an Optuna study: the values where they are plain, and told apart by `==`, else
        their overrides."""
        values = [choice.value for choice in self.choices]
        are_plain = all(isinstance(value, str | int | float | bool | None) for value in values)
        are_distinct = all(values.index(value) == place for place, value in enumerate(values))
        return values if are_plain and are_distinct else [choice.text for choice in self.choices]

    def label_of(self, value: Any) -> tuple[Any] | None:
        """What stands for a value of a job in a study, in a tuple, since it may be None; None where nothing does.

        >>> width = Dimension("width", CATEGORICAL, choices=(Choice("width=16", 16), Choice("width=null", None)))
        >>> width.label_of(16), width.label_of(None), width.label_of(32), Dimension("lr", FLOAT).label_of(1)
        ((16,), (None,), None, (1.0,))
        """
        if self.kind == CATEGORICAL:
            encoded = codec.encode(value)
            values = [choice.value for choice in self.choices]
            places = [place for place, item in enumerate(values) if codec.dumps(item) == codec.dumps(encoded)]
            return (self.labels[places[0]],) if places else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return (float(value),) if self.kind == FLOAT else (value,) if isinstance(value, int) else None

    def setting(self, value: Any) -> Setting:
        """The override that gives this variable a value, which is a number or one of the labels."""
        if self.kind == CATEGORICAL:
            choice = self.choices[_place(self.labels, value)]
            return Setting(self.key, choice.text, codec.decode(choice.value), choice.is_ordered)
        number = int(value) if self.kind == INT else float(value)
        return Setting(self.key, f"{self.prefix}{self.key}={number!r}", number)


def _place(labels: Sequence[Any], value: Any) -> int:
    """Which of the labels a value is.

    >>> _place([1, "1", None], "1")
    1
    """
    return next(place for place, label in enumerate(labels) if type(label) is type(value) and label == value)


class Search(NamedTuple):
    """A search, as the manifest keeps it."""

    ranges: tuple[tuple[int, int], ...]  # the first and the last id of what was reserved, in the order of the slots
    dimensions: tuple[Dimension, ...]
    fixed: tuple[Choice, ...]  # the settings that all trials share, by `fixed_keys`
    fixed_keys: tuple[str, ...]
    directions: tuple[str, ...]
    metrics: tuple[tuple[str, str], ...]  # the name of each objective, and `last` or `best`; none: what jobs return
    sampler: Mapping[str, Any]  # name, and its options
    seed: int
    max_failure_rate: float
    recipe: int  # by which the trials are composed that are proposed from now on
    config_name: str | None
    pruner: Mapping[str, Any] | None = None  # what ends trials early, see `model.pruning`
    pass_filter: Any = None  # of variables, as it was written: what does not pass is drawn again
    warm: tuple[Mapping[str, Any], ...] = ()  # what others have found: `params` and `values`
    averaged: tuple[Dimension, ...] = ()  # a trial has a job for each choice of these, and their mean is its value

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> "Search":
        """From what `body` has given, once it was JSON. Raises TypeError, or another error, for what is no search."""
        found = cls(
            **{
                **body,
                "ranges": tuple((first, last) for first, last in body["ranges"]),
                "dimensions": tuple(map(Dimension.read, body["dimensions"])),
                "fixed": tuple(map(Choice.read, body["fixed"])),
                "metrics": tuple((name, take) for name, take in body["metrics"]),
                "warm": tuple(body.get("warm", ())),
                "averaged": tuple(map(Dimension.read, body.get("averaged", ()))),
                **{name: tuple(body[name]) for name in ("fixed_keys", "directions")},
            }
        )
        found._check()
        return found

    def _check(self) -> None:
        """Raise TypeError where a field is not what it has to be."""
        numbers = [number for pair in self.ranges for number in pair] + [self.seed, self.recipe]
        texts = [*self.fixed_keys, *(text for pair in self.metrics for text in pair)]
        is_one = all(type(number) is int for number in numbers) and all(isinstance(text, str) for text in texts)
        is_one = is_one and all(0 <= first <= last < _ANY_LATER for first, last in self.ranges)
        is_one = is_one and len(self.fixed) == len(self.fixed_keys) and {*self.directions} <= {*DIRECTIONS}
        is_one = is_one and isinstance(self.config_name, str | None) and codec.is_number(self.max_failure_rate)
        is_one = is_one and isinstance(self.sampler, Mapping) and isinstance(self.pruner, Mapping | None)
        if not is_one or not all(isinstance(one, Mapping) for one in self.warm) or not self.ranges:
            raise TypeError("this is no search")

    @property
    def body(self) -> dict[str, Any]:
        """The search as JSON has it."""
        described = {name: [one._asdict() for one in getattr(self, name)] for name in ("dimensions", "averaged")}
        return {**self._asdict(), **described}

    @property
    def n_slots(self) -> int:
        """How many jobs the search has."""
        return sum(last - first + 1 for first, last in self.ranges)

    @property
    def jobs_per_trial(self) -> int:
        return math.prod(len(dimension.choices) for dimension in self.averaged)

    @property
    def n_trials(self) -> int:
        return self.n_slots // self.jobs_per_trial

    def __contains__(self, job_id: object) -> bool:
        """Whether an id belongs to this search, proposed or not."""
        return isinstance(job_id, int) and any(first <= job_id <= last for first, last in self.ranges)

    def ids(self) -> Iterator[int]:
        """The id of each slot."""
        for first, last in self.ranges:
            yield from range(first, last + 1)

    def job_id(self, slot: int) -> int | None:
        """The id of a slot; None where there are not so many.

        >>> search = Search(((3, 4), (9, 9)), (), (), (), (), (), {}, 0, 0.0, 1, None)
        >>> [search.job_id(slot) for slot in range(4)], search.n_slots, 4 in search, 5 in search
        ([3, 4, 9, None], 3, True, False)
        """
        for first, last in self.ranges:
            if slot <= last - first:
                return first + slot
            slot -= last - first + 1
        return None

    def place(self, job_id: int) -> int:
        """Which of the jobs of its trial a job is. Raises ValueError for none of the search.

        >>> seeds = Dimension("seed", CATEGORICAL, choices=(Choice("seed=1", 1), Choice("seed=2", 2)))
        >>> search = Search(((3, 4), (9, 12)), (), (), (), (), (), {}, 0, 0.0, 1, None, averaged=(seeds,))
        >>> [search.place(job_id) for job_id in (3, 4, 9, 12)], search.n_trials
        ([0, 1, 0, 1], 3)
        """
        before = 0
        for first, last in self.ranges:
            if first <= job_id <= last:
                return (before + job_id - first) % self.jobs_per_trial
            before += last - first + 1
        raise ValueError(job_id)

    def trial(self, first: int) -> range:
        """The ids of the jobs of the trial whose first one has that id."""
        return range(first, first + self.jobs_per_trial)

    @property
    def averaged_keys(self) -> tuple[str, ...]:
        return tuple(dimension.key for dimension in self.averaged)

    def settings(self, values: Mapping[str, Any], place: int = 0) -> tuple[Setting, ...]:
        """The settings of the job at a place in the trial with these values, by the keys of the dimensions."""
        shared = (
            Setting(key, choice.text, codec.decode(choice.value), choice.is_ordered, not key.startswith("~"))
            for key, choice in zip(self.fixed_keys, self.fixed, strict=True)
        )
        own = []
        for dimension in reversed(self.averaged):  # the last one changes first
            place, choice = divmod(place, len(dimension.choices))
            own.append(dimension.setting(dimension.labels[choice]))
        return (*shared, *(dimension.setting(values[dimension.key]) for dimension in self.dimensions), *reversed(own))

    @property
    def names(self) -> list[str]:
        """The names of the variables."""
        fixed = (key for key in self.fixed_keys if not key.startswith("~"))
        return [*fixed, *(dimension.key for dimension in (*self.dimensions, *self.averaged))]

    def differences(self, other: "Search") -> list[str]:
        """In what another search is another one, for people: none where it goes on with this one."""
        found = [
            f"{name} was {_shown(mine)} and is {_shown(theirs)}"
            for name, mine, theirs in (
                ("direction", self.directions, other.directions),
                ("pass_filter", [self.pass_filter], [other.pass_filter]),
                ("metric", [name for name, _ in self.metrics], [name for name, _ in other.metrics]),
                ("sampler", self.sampler, other.sampler),
            )
            if mine != theirs
        ]
        mine, theirs = self._space(), other._space()
        return found + [
            f"{key} was {mine.get(key, 'not there')} and is {theirs.get(key, 'not there')}"
            for key in dict.fromkeys([*mine, *theirs])
            if mine.get(key) != theirs.get(key)
        ]

    def _space(self) -> dict[str, str]:
        fixed = {key: choice.text for key, choice in zip(self.fixed_keys, self.fixed, strict=True)}
        averaged = {dimension.key: f"{describe(dimension)}, averaged" for dimension in self.averaged}
        return {**fixed, **{dimension.key: describe(dimension) for dimension in self.dimensions}, **averaged}


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    return ",".join(map(str, value)) or "null"


def describe(dimension: Dimension) -> str:
    """The values of a dimension, as the command line would have them.

    >>> describe(Dimension("lr", FLOAT, low=1e-5, high=0.1, log=True)), describe(Dimension("n", INT, low=1, high=9))
    ('tag(log, interval(1e-05, 0.1))', 'int(interval(1, 9))')
    """
    if dimension.kind == CATEGORICAL:
        return f"choice({', '.join(choice.text.partition('=')[2] for choice in dimension.choices)})"
    bounds = f"{dimension.low}, {dimension.high}"
    text = f"interval({bounds})" if dimension.step is None else f"range({bounds}, step={dimension.step})"
    text = f"int({text})" if dimension.kind == INT and dimension.step is None else text
    return f"tag(log, {text})" if dimension.log else text


class Proposal(NamedTuple):
    """A job that was proposed, and what the study of whoever asks next has to know of it."""

    job_id: int
    launch: str  # under which it was proposed; the sweep's own are of none yet, and have ""
    recipe: int
    identity: str
    variables: codec.Encoded
    overrides: tuple[str, ...]
    values: Mapping[str, Any]  # by the keys of the dimensions
    attributes: Mapping[str, Any]  # what the sampler keeps of it

    @classmethod
    def made(
        cls, search: Search, job_id: int, launch: str, values: Mapping[str, Any], attributes: Mapping[str, Any]
    ) -> "Proposal":
        """The proposal of a job of a trial with these values. Raises UnstorableValue."""
        settings = search.settings(values, search.place(job_id))
        return cls(
            job_id=job_id,
            launch=launch,
            recipe=search.recipe,
            identity=sweep_identity(settings, search.config_name),
            variables=codec.encode({setting.key: setting.value for setting in settings if setting.is_variable}),
            overrides=tuple(setting.text for setting in settings),
            values=dict(values),
            attributes=dict(attributes),
        )

    @property
    def body(self) -> dict[str, Any]:
        """The proposal as JSON has it, without its id."""
        found = self._asdict()
        del found["job_id"]
        return found

    @classmethod
    def read(cls, job_id: int, body: Mapping[str, Any]) -> "Proposal":
        """From what `body` has given, once it was JSON. Raises TypeError for what is no proposal."""
        known = {name: body[name] for name in cls._fields[1:]}
        return cls(job_id, **{**known, "overrides": tuple(body["overrides"])})
