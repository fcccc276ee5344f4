"""Healing: which jobs that died for want of memory or time are submitted again, with how much more, and which are given
up; and which nodes are left out, since jobs die there at their start. Pure: records in, decisions out.

A rule is an option of a launch: `on_oom: {mem_gb: x1.5, max: 256}`. What a launch has planned, it has for itself: of
all that heal the same attempt of a job, one stands, and whoever looks finds the same one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from experiment_manager.errors import OptionsError
from experiment_manager.model.records import State
from experiment_manager.typing_names import Any, Final, NamedTuple

RULES: Final = {"on_oom": State.OUT_OF_MEMORY, "on_timeout": State.TIMEOUT}
"""The options that hold a rule, and the state of the attempts that each is for."""

AT_ITS_START_S: Final = 60.0
"""A job that fails within so many seconds has died at its start."""

_DECIMALS: Final = 4


def checked_rule(value: Any, option: str) -> dict[str, Any]:
    """A rule that raises an option, as it is kept. Raises OptionsError.

    >>> checked_rule({"mem_gb": "x1.50", "max": 256}, "mem_gb")
    {'mem_gb': 'x1.5', 'max': 256}
    """
    example = f"{{{option}: x1.5, max: 256}}"
    if not isinstance(value, Mapping):
        raise OptionsError(f"{value!r} is no rule; write how much more a job gets, and how much at most: {example}")
    for name in value:
        if name not in (option, "max"):
            raise OptionsError(f"{name!r} is nothing that this rule can raise; write {example}")
    for name in (option, "max"):
        if value.get(name) is None:
            raise OptionsError(f"{dict(value)!r} does not say {name}; write {example}")
    text = value[option]
    factor = _number(text[1:]) if isinstance(text, str) and text.startswith("x") else None
    if factor is None:
        raise OptionsError(f"{option}: {text!r} is no factor; write x1.5 or x2: {example}")
    if factor <= 1:
        raise OptionsError(f"{option}: {text} is not more than before; write a factor above 1: {example}")
    most = _number(value["max"])
    if most is None or most <= 0:
        raise OptionsError(
            f"max: {value['max']!r} is no number above 0; write how much is enough for any job: {example}"
        )
    return {option: f"x{factor:.12g}", "max": int(most) if most == int(most) else most}


def _number(value: Any) -> float | None:
    try:
        number = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def is_rule(value: Any) -> bool:
    """Whether a record holds a checked rule; somebody may have edited it.

    >>> is_rule({"mem_gb": "x1.5", "max": 256}), is_rule({"mem_gb": "more", "max": 256}), is_rule("x2")
    (True, False, False)
    """
    options = [name for name in value if name != "max"] if isinstance(value, Mapping) else []
    try:
        return len(options) == 1 and checked_rule(value, str(options[0])) == value
    except OptionsError:
        return False


def _raised(rule: Mapping[str, Any]) -> tuple[str, float, float]:
    """The option that a checked rule raises, by which factor, and how far."""
    ((option, factor),) = ((name, text) for name, text in rule.items() if name != "max")
    return option, float(factor[1:]), float(rule["max"])


def require_raisable(options: Mapping[str, Any], *, where: str) -> None:
    """Raise OptionsError unless each rule of a job's options can raise what the job asks for."""
    for name in RULES:
        if options.get(name) is None:
            continue
        option, _, most = _raised(options[name])
        present = options.get(option)
        if present is None:
            raise OptionsError(f"{where}: {name} raises {option}, which is not set; set it, or leave {name} out")
        if not present:
            raise OptionsError(
                f"{where}: {name} cannot raise {option}=0, which asks for all that there is; leave {name} out, or ask "
                "for a number"
            )
        if present >= most:
            raise OptionsError(
                f"{where}: {name} raises {option} to {most:g} at most, which is not above {option}={present:g}; raise "
                f"max, or leave {name} out"
            )


class Retry(NamedTuple):
    """A job is submitted again with more of one option."""

    rule: str  # on_oom
    state: State  # that its last attempt has come to
    option: str
    was: float
    now: float
    retry: int  # how often in a row it is submitted again by now

    @property
    def words(self) -> str:
        """For people: `OUT_OF_MEMORY with mem_gb=1, now mem_gb=1.5 (on_oom, retry 1)`."""
        more = f"{self.option}={self.now:g}"
        return f"{self.state} with {self.option}={self.was:g}, now {more} ({self.rule}, retry {self.retry})"


class GivenUp(NamedTuple):
    """A job that has a rule, and is not submitted again."""

    reason: str


def rule_for(state: State, options: Mapping[str, Any]) -> str | None:
    """The rule that these options have for an attempt that has ended so; None where they have none."""
    return next((name for name, meant in RULES.items() if meant is state and options.get(name) is not None), None)


def next_try(state: State, options: Mapping[str, Any], retries: int) -> Retry | GivenUp | None:
    """What becomes of a job whose last attempt has ended so, under these options of its launch, after so many retries
    in a row; None where no rule is for that.

    >>> options = {"mem_gb": 100, "on_oom": {"mem_gb": "x1.5", "max": 256}, "max_retries": 3}
    >>> next_try(State.OUT_OF_MEMORY, options, 0).words
    'OUT_OF_MEMORY with mem_gb=100, now mem_gb=150 (on_oom, retry 1)'
    >>> next_try(State.OUT_OF_MEMORY, {**options, "mem_gb": 225}, 2).now, next_try(State.FAILED, options, 0)
    (256, None)
    >>> next_try(State.OUT_OF_MEMORY, {**options, "mem_gb": 256}, 3).reason
    'it had mem_gb=256, the max of on_oom'
    """
    name = rule_for(state, options)
    if name is None:
        return None
    option, factor, most = _raised(options[name])
    was = _number(options.get(option))
    if not was:
        return GivenUp(f"{name} raises {option}, and it had none")
    if was >= most:
        return GivenUp(f"it had {option}={was:g}, the max of {name}")
    limit = options.get("max_retries")
    if isinstance(limit, int) and retries >= limit:
        often = "once" if retries == 1 else f"{retries} times"
        return GivenUp(f"it was submitted again {often} (max_retries={limit})")
    now = min(max(round(was * factor, _DECIMALS), was + 10**-_DECIMALS), most)
    if isinstance(options[option], int):
        now = min(math.ceil(now), most)
    return Retry(name, state, option, was, now, retries + 1)


class Planned(NamedTuple):
    """What a launch has planned: which attempt of which jobs."""

    number: str
    attempts: Mapping[int, int]  # job -> the number of its first attempt in this launch
    is_healing: bool
    has_begun: bool  # something of it was submitted


class Claims(NamedTuple):
    """Which launch has which attempt of a job, and which healing launches stand, of those that nothing was submitted
    of: the others are never submitted."""

    owner: Mapping[tuple[int, int], str]
    standing: frozenset[str]


def claims(launches: Sequence[Planned], is_there: Mapping[Any, Collection[int]]) -> Claims:
    """Who has what, of all launches in the order of their numbers. `is_there` are the numbers of the attempts that have
    begun, by job.

    What was submitted has its jobs, and what people have launched, too. A healing launch of which nothing was submitted
    stands when nobody has any of its attempts: of two that have planned the same one, as where the file system has no
    locks, that with the lower number.

    >>> claims([Planned("0002", {7: 2}, True, False), Planned("0003", {7: 2, 8: 2}, True, False)], {}).standing
    frozenset({'0002'})
    """
    owner: dict[tuple[int, int], str] = {}
    for launch in launches:
        if not launch.is_healing or launch.has_begun:
            for attempt in launch.attempts.items():
                owner.setdefault(attempt, launch.number)
    standing = set()
    for launch in launches:
        if not launch.is_healing or launch.has_begun:
            continue
        mine = list(launch.attempts.items())
        if any(one in owner or one[1] in is_there.get(one[0], ()) for one in mine):
            continue
        standing.add(launch.number)
        owner.update(dict.fromkeys(mine, launch.number))
    return Claims(owner, frozenset(standing))


class Death(NamedTuple):
    """A job whose last attempt has ended in a state that some rule is for, and the options that it had."""

    job_id: int
    state: State
    next_number: int  # that its next attempt gets
    launch: str  # of its last attempt
    array: str  # there
    options: Mapping[str, Any]
    retries: int  # how often in a row it was submitted again before


class Group(NamedTuple):
    """Jobs that are submitted again together, each a task of its own, with the same options."""

    launch: str  # in which they have died
    array: str
    retry: Retry
    attempts: Mapping[int, int]  # job -> the number of its next attempt


class Decision(NamedTuple):
    groups: tuple[Group, ...]
    given_up: Mapping[int, str]  # job -> why
    left: Mapping[int, str]  # job -> the launch that has planned its next attempt


def decide(deaths: Iterable[Death], found: Claims) -> Decision:
    """What becomes of jobs that have died: each is in one place of the answer at most, and in none where it has no
    rule."""
    attempts: dict[tuple[str, str, Retry], dict[int, int]] = defaultdict(dict)
    given_up, left = dict[int, str](), dict[int, str]()
    for death in deaths:
        answer = next_try(death.state, death.options, death.retries)
        if answer is None:
            continue
        owner = found.owner.get((death.job_id, death.next_number))
        if owner is not None:
            left[death.job_id] = owner
        elif isinstance(answer, GivenUp):
            given_up[death.job_id] = answer.reason
        else:
            attempts[death.launch, death.array, answer][death.job_id] = death.next_number
    groups = tuple(Group(*key, jobs) for key, jobs in attempts.items())
    return Decision(groups, given_up, left)


class Beginning(NamedTuple):
    """How an attempt got over its start on a node."""

    node: str
    job_id: int
    time: float  # when it ended
    has_died: bool  # at its start


def bad_nodes(beginnings: Iterable[Beginning], after: int) -> dict[str, int]:
    """The nodes on which so many jobs have died at their start, since one last got over it there, and how many those
    are. A job that died so on two nodes has a fault of its own and tells nothing of them; where no job has got over its
    start on any other node, nobody knows that it is the nodes.

    >>> died = [Beginning("n1", job, 1.0, True) for job in (1, 2)]
    >>> bad_nodes([*died, Beginning("n2", 3, 1.0, False)], 2), bad_nodes(died, 2)
    ({'n1': 2}, {})
    """
    every = list(beginnings)
    places: dict[int, set[str]] = defaultdict(set)
    last_well: dict[str, float] = {}
    for one in every:
        if one.has_died:
            places[one.job_id].add(one.node)
        else:
            last_well[one.node] = max(one.time, last_well.get(one.node, one.time))
    dead: dict[str, set[int]] = defaultdict(set)
    for one in every:
        is_since = one.time > last_well.get(one.node, -math.inf)
        if one.has_died and is_since and len(places[one.job_id]) == 1:
            dead[one.node].add(one.job_id)
    found = {node: len(jobs) for node, jobs in sorted(dead.items()) if len(jobs) >= after}
    return found if last_well.keys() - found.keys() else {}
