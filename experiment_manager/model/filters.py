"""The pass filter: which jobs may run. Reads every form in which people write it; pure but for importing a callable.

    {algorithm: TD3, seed: [1, 2]}          a mapping, or its text: each variable is, or is one of
    "algorithm == 'TD3' and seed < 3"       an expression; cfg.nn[0] reads the composed configuration, result.accuracy
                                            what the job has returned, metric.loss what it last logged
    "0-3,7"  or a list of ids               ids and ranges
    "state:FAILED,TIMEOUT"                  states of the last attempt
    "sample:10" or "sample:10@3"            a random sample of what the rules before let pass, with a seed (0)
    "package.module.function"               a callable that takes the variables; also {_target_: .., other: arguments}
    a list of those                         all of them, one after the other

A filter is a tuple of rules; each rule drops jobs from what the rules before it left.
"""

import ast
import importlib
import os
import random
import re
import sys
from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Set, Sized
from contextlib import suppress
from enum import Enum
from importlib.machinery import PathFinder
from typing import Any, Final, NamedTuple, Protocol

from experiment_manager.errors import FilterError
from experiment_manager.model import codec
from experiment_manager.model.expressions import Expression
from experiment_manager.model.facts import NOTHING, Facts, Unanswered, is_under_a_root, unknown_name
from experiment_manager.model.filter_yaml import read_yaml, write_yaml
from experiment_manager.model.ids import RangeSet, format_ids, looks_like_ids, parse_ids, shortened, which
from experiment_manager.model.records import NO_FUNCTIONS, Job, JobId, State
from experiment_manager.text import described, one_line
from experiment_manager.trust import trusted_places


class Rule(Protocol):
    """One condition; `text` is how it was written."""

    text: str

    def select(self, jobs: Iterable[Job], facts: Facts) -> Iterable[Job]:
        """The jobs that pass, in order, one by one as `jobs` come. Raises FilterError, also while they come."""
        ...


class Dropped(NamedTuple):
    """One rule as it was written, how many jobs it saw, and the ids of those that it dropped, in order."""

    rule: str
    seen: int
    ids: tuple[JobId, ...]

    def __repr__(self) -> str:
        jobs = f" ({which(self.ids)})" if self.ids else ""
        return f"Dropped({len(self.ids)} of {self.seen} by {one_line(self.rule)}{jobs})"


class Selection(NamedTuple):
    """The jobs that pass, in the order of their ids, and what each rule dropped, in the order in which they apply."""

    jobs: tuple[Job, ...]
    dropped: tuple[Dropped, ...]

    def __repr__(self) -> str:
        ids = shortened(format_ids(job.id for job in self.jobs))
        seen = self.dropped[0].seen if self.dropped else len(self.jobs)
        return f"Selection({len(self.jobs)} of {seen} jobs pass{f': {ids}' if ids else ''})"

    def _repr_html_(self) -> str:
        from experiment_manager.model import html
        from experiment_manager.model.rows import named_apart

        jobs = [{"job": int(job.id), **named_apart(job.variables, ["job"])} for job in self.jobs[: html.MOST_ROWS]]
        seen = self.dropped[0].seen if self.dropped else len(self.jobs)
        rules = [
            {"rule": step.rule, "seen": step.seen, "dropped": len(step.ids), "jobs": shortened(format_ids(step.ids))}
            for step in self.dropped
        ]
        head = html.sentence(f"{len(self.jobs)} of {seen} jobs pass")
        return html.block(head, *[html.table(rules)] * bool(rules), html.table(jobs, len(self.jobs)))


def parse(written: Any) -> tuple[Rule, ...]:
    """The rules of a filter in any form; none for None. Raises FilterError."""
    if written is None:
        return ()
    written = codec.of_python(written)
    if isinstance(written, int) and not isinstance(written, bool):
        written = [written]
    if isinstance(written, str):
        return _parse_text(written)
    if isinstance(written, Mapping):
        return (_parse_mapping(written),)
    if callable(written):
        return (Call(getattr(written, "__qualname__", repr(written)), written),)
    if isinstance(written, RangeSet | range):
        return (Ids(format_ids(written), frozenset(written)),)
    if isinstance(written, Iterable) and not isinstance(written, bytes | bytearray):
        items = [codec.of_python(item) for item in written]
        if all(isinstance(item, int) and not isinstance(item, bool) for item in items):
            return (Ids(format_ids(items) or "no ids", frozenset(items)),)
        return tuple(rule for item in items for rule in parse(item))
    raise FilterError(
        f"a pass filter cannot be a {type(written).__name__}: {written!r}; write a mapping, an expression, ids such as "
        "0-3,7, state:FAILED, tag:baseline, sample:10, or the path of a function"
    )


class Passing:
    """The jobs that pass every rule, one by one as `jobs` come; afterwards `dropped` tells what each rule did.

    Raises FilterError for what cannot be evaluated, also while jobs come.
    """

    def __init__(self, rules: Iterable[Rule], jobs: Iterable[Job], facts: Facts) -> None:
        self._counts: list[tuple[str, array[int], array[int]]] = []
        for rule in rules:
            seen, kept = array("q"), array("q")
            self._counts.append((rule.text, seen, kept))
            jobs = _noted(rule.select(_noted(jobs, seen), facts), kept)
        self._jobs = jobs

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs)

    @property
    def dropped(self) -> tuple[Dropped, ...]:
        """For each rule, the jobs that it has dropped of those that have come."""
        return tuple(Dropped(text, len(seen), _without(seen, kept)) for text, seen, kept in self._counts)


def _noted(jobs: Iterable[Job], ids: "array[int]") -> Iterator[Job]:
    for job in jobs:
        ids.append(job.id)
        yield job


def _without(seen: Iterable[int], kept: Iterable[int]) -> tuple[JobId, ...]:
    left = set(kept)
    return tuple(JobId(job_id) for job_id in seen if job_id not in left)


def apply(rules: Iterable[Rule], jobs: Iterable[Job], facts: Facts) -> Selection:
    """The jobs that pass every rule. Raises FilterError for what cannot be evaluated; that none passes is no error."""
    passing = Passing(rules, jobs, facts)
    return Selection(tuple(passing), passing.dropped)


def require_some(passing: Sized, dropped: Iterable[Dropped], jobs: Iterable[Job], where: str) -> None:
    """Raise FilterError, with what each rule dropped and which values exist, unless something passes."""
    if passing:
        return
    steps = "; ".join(f"{step.rule} dropped {len(step.ids)} of {step.seen}" for step in dropped)
    raise FilterError(
        f"nothing passes the filter in {where}: {steps or 'there are no jobs'}. {values_there_are(jobs)}".rstrip()
    )


def none_told(rules: Iterable[Rule], found: Selection, jobs: Iterable[Job], facts: Facts) -> str | None:
    """What to say where nothing passes after a rule about variables: a value that no job has looks as if nothing were
    there. None where something passes, or what dropped the last is about what jobs have become, as `state:FAILED`."""
    last = next((pair for pair in zip(rules, found.dropped, strict=True) if pair[1].seen == len(pair[1].ids)), None)
    if found.jobs or last is None or not last[1].seen or not isinstance(last[0], Mapped | Evaluated):
        return None
    names = last[0].variables(facts.names)
    if not names:
        return None
    left = "" if last[1].seen == len(facts.ids) else " that is left"
    seen = frozenset(last[1].ids)
    asked = ({name: job.variables[name] for name in job.variables if name in names} for job in jobs if job.id in seen)
    return f"the filter {last[0].text}: no job{left} passes it; {_values_text(asked)}"


def values_there_are(jobs: Iterable[Job], most: int = 6) -> str:
    """A line such as `algorithm is one of 'TD3', 'DDPG'; seed is one of 1, 2, 3`."""
    return _values_text((job.variables for job in jobs), most)


def _values_text(settings: Iterable[Mapping[str, Any]], most: int = 6) -> str:
    values: dict[str, dict[str, None]] = {}
    for variables in settings:
        for name, value in variables.items():
            values.setdefault(name, {})[repr(value)] = None
    return "; ".join(
        f"{name} is one of {', '.join(list(found)[:most])}{', ...' if len(found) > most else ''}"
        for name, found in values.items()
    )


class Mapped:
    """Each key has its value, or one of its values; `cfg.x`, `result.x` and `metric.x` are read where they name."""

    def __init__(self, wanted: Mapping[str, Any]) -> None:
        wanted = {key: _of_python(_listed(value)) for key, value in wanted.items()}
        self.text = write_yaml(wanted)
        self.wanted = wanted
        self._wanted = {key: _Wanted(value if isinstance(value, list) else [value]) for key, value in wanted.items()}

    def select(self, jobs: Iterable[Job], facts: Facts) -> Iterable[Job]:
        for key in self._wanted:
            if key not in facts.names and not is_under_a_root(key):
                raise FilterError(unknown_name(key, self.text, facts.names))
        return self._passing(jobs, facts)

    @property
    def reads(self) -> frozenset[str]:
        """The keys that are no variables."""
        return frozenset(filter(is_under_a_root, self._wanted))

    def variables(self, names: Set[str]) -> frozenset[str]:
        """Those of the variables of these names that it asks for."""
        return frozenset(self._wanted.keys() & names)

    def _passing(self, jobs: Iterable[Job], facts: Facts) -> Iterator[Job]:
        unseen = {key for key in self._wanted if key not in facts.names}
        known: set[str] = set()  # of those the ones whose root some job has
        seen = {key: _Seen() for key, wanted in self._wanted.items() if len(wanted.values) > 1}
        is_any = False
        for job in jobs:
            for key in tuple(unseen):
                if facts.under(key.partition(".")[0], job) is not None:
                    known.add(key)
                    unseen -= {key} if facts.find(job, key) is not NOTHING else set()
            if all(facts.find(job, key) in wanted for key, wanted in self._wanted.items()):
                is_any = True
                for key, found in seen.items():
                    found.add(facts.find(job, key))
                yield job
        for key in seen if is_any else ():
            if missed := self._wanted[key].without(seen[key]):
                more = f" and {len(missed) - _MOST_MISSED} more" if len(missed) > _MOST_MISSED else ""
                values = ", ".join(map(repr, missed[:_MOST_MISSED]))
                facts.note(f"the filter {self.text}: no job that passes it has {key}={values}{more}")
        for key in sorted(unseen & known):
            what = {"cfg": "configuration", "result": "result"}.get(key.partition(".")[0], "job's metrics")
            raise FilterError(f"the filter {self.text!r} names {key}, which no {what} has")


class Evaluated:
    """An expression over the variables, and over the configuration as `cfg`, the result and the metrics.

    A job for which it cannot be evaluated, as `lr < 0.1` where lr is text, does not pass, and that is said; when it can
    be evaluated for no job at all, it is a mistake.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._expression = Expression(text)

    def select(self, jobs: Iterable[Job], facts: Facts) -> Iterable[Job]:
        for name in self._expression.unknown(facts.names):
            raise FilterError(unknown_name(name, self.text, facts.names))
        return self._passing(jobs, facts)

    @property
    def reads(self) -> frozenset[str]:
        """The dotted keys under a root that the expression names."""
        return self._expression.reads

    def variables(self, names: Set[str]) -> frozenset[str]:
        """Those of the variables of these names that it asks for."""
        return self._expression.variables(names)

    def _passing(self, jobs: Iterable[Job], facts: Facts) -> Iterator[Job]:
        is_answered, ids, first = False, array("q"), None
        for job in jobs:
            try:
                answer = self._expression.answer(job, facts)
            except Unanswered as error:
                ids.append(job.id)
                first = first or error
                continue
            is_answered = is_answered or answer is not None
            if answer:
                yield job
        if first is not None and not is_answered:
            raise first
        if first is not None:
            others = f", nor do {len(ids) - 1} more ({format_ids(ids[1:])})" if len(ids) > 1 else ""
            facts.note(f"{first}, so it does not pass{others}")


class Ids:
    """The job is one of these."""

    def __init__(self, text: str, ids: frozenset[int] | RangeSet) -> None:
        self.text = text
        self._ids = ids

    def select(self, jobs: Iterable[Job], facts: Facts) -> Iterable[Job]:
        for job_id in self._ids:
            if job_id not in facts.ids:
                has = format_ids(facts.ids) or "none"
                raise FilterError(
                    f"the filter {self.text!r} names job {job_id}, which is not there; there are jobs {has}"
                )
        return (job for job in jobs if job.id in self._ids)


class InState:
    """The last attempt of the job ended, or is, in one of these states."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._states = parse_states(text.removeprefix("state:"))

    def select(self, jobs: Iterable[Job], facts: Facts) -> Iterable[Job]:
        return (job for job in jobs if facts.state(job.id) in self._states)


class Tagged:
    """The job has one of these tags."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._tags = {tag.strip() for tag in text.removeprefix("tag:").split(",")}

    def select(self, jobs: Iterable[Job], facts: Facts) -> Iterable[Job]:
        tags = facts.tags()
        there = {tag for found in tags.values() for tag in found}
        if unknown := sorted(self._tags - there):
            there_are = f"; the tags are {', '.join(sorted(there))}" if there else ""
            raise FilterError(f"no job has the tag {unknown[0]!r}{there_are}")
        return (job for job in jobs if not self._tags.isdisjoint(tags.get(job.id, ())))


class Sample:
    """A random subset of what is left; all of it where that is no more."""

    def __init__(self, count: int, seed: int | None) -> None:
        self.text = f"sample:{count}" + (f"@{seed}" if seed is not None else "")
        self._count, self._seed = count, seed

    def select(self, jobs: Iterable[Job], facts: Facts) -> Iterable[Job]:
        return self._drawn(jobs)

    def _drawn(self, jobs: Iterable[Job]) -> Iterator[Job]:
        every = list(jobs)
        if self._count >= len(every):
            yield from every
            return
        chosen = set(random.Random(self._seed).sample(sorted(job.id for job in every), self._count))
        yield from (job for job in every if job.id in chosen)


class Call:
    """A function of the variables says so."""

    def __init__(self, text: str, function: Callable[[dict[str, Any]], Any]) -> None:
        self.text = text
        self._function = function

    def select(self, jobs: Iterable[Job], facts: Facts) -> Iterable[Job]:
        return (job for job in jobs if self._passes(job))

    def _passes(self, job: Job) -> bool:
        try:
            return bool(self._function(dict(job.variables)))
        except (Exception, SystemExit) as error:
            raise FilterError(
                f"the filter {self.text} failed on job {job.id} with variables {dict(job.variables)}: "
                f"{described(error)}"
            ) from error


class DottedPath:
    """A text such as `a.b`: a variable of that name where there is one, else the path of a function."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.reads = frozenset({text} if is_under_a_root(text) else ())

    def select(self, jobs: Iterable[Job], facts: Facts) -> Iterable[Job]:
        if self.text in facts.names or is_under_a_root(self.text):
            return Evaluated(self.text).select(jobs, facts)
        return Call(self.text, locate(self.text, facts.names)).select(jobs, facts)


def parse_states(text: str) -> frozenset[State]:
    """The states that a text such as `failed,TIMEOUT` names. Raises FilterError with the names there are."""
    states = set()
    for name in text.split(","):
        try:
            states.add(State(_SHORT_STATES.get(name.strip().upper(), name.strip().upper())))
        except ValueError:
            raise FilterError(f"{name.strip()!r} is no state; the states are {', '.join(State)}") from None
    return frozenset(states)


def _parse_text(text: str) -> tuple[Rule, ...]:
    text = text.strip()
    kind, _, rest = text.partition(":")
    if text.startswith(("{", "[")):
        return parse(read_yaml(text))
    if kind == "state":
        return (InState(text),)
    if kind == "tag":
        return (Tagged(text),)
    if kind == "sample":
        return (_parse_sample(rest),)
    if looks_like_ids(text):
        return (Ids(text, parse_ids(text)),)
    if "." in text and all(part.isidentifier() for part in text.split(".")):
        return (DottedPath(text),)
    return (Evaluated(text),)


def _parse_sample(text: str) -> Sample:
    match = _SAMPLE.match(text)
    if match is None:
        raise FilterError(f"'sample:{text}' is no sample; write sample:10, or sample:10@3 for the seed 3")
    return Sample(int(match[1]), int(match[2] or 0))


def _parse_mapping(written: Mapping[str, Any]) -> Rule:
    if "_target_" not in written:
        for key in written:
            if not isinstance(key, str):
                raise FilterError(f"the filter {dict(written)} has the key {key!r}; keys are names of variables")
        return Mapped(written)
    arguments = {key: value for key, value in written.items() if key not in ("_target_", "_partial_")}
    path = str(written["_target_"])
    function = locate(path, is_meant=True)
    return Call(path, lambda variables: function(variables, **arguments))


_SHORT_STATES: Final = {"OOM": "OUT_OF_MEMORY"}
_SAMPLE: Final = re.compile(r"\s*([0-9]+)\s*(?:@\s*([0-9]+)\s*)?\Z")


def _of_python(value: Any) -> Any:
    """The same with numbers and lists of Python in the place of those of NumPy or PyTorch, as jobs have them."""
    if isinstance(value, Mapping):
        return {key: _of_python(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = map(_of_python, value)
        return list(items) if isinstance(value, list) else tuple(items)
    if getattr(value, "shape", ()) != () and hasattr(value, "tolist"):
        return value.tolist()
    return codec.of_python(value)


def _listed(value: Any) -> Any:
    """The list that several values are, in whatever they come: a range, a set, an array, a column of a table, a tuple,
    an iterator. Anything else as it is."""
    is_one = isinstance(value, str | bytes | bytearray | Mapping | type) or getattr(value, "shape", None) == ()
    if is_one or not isinstance(value, Iterable):
        return value
    return sorted(value, key=repr) if isinstance(value, Set) else list(value)


def _equal(one: Any, other: Any) -> bool:
    """Equal as people mean it: 1 is 1.0, True is not 1, NaN is NaN, inside lists and mappings, too."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(value, other[key]) for key, value in one.items())
    if isinstance(one, float) and isinstance(other, float) and one != one:
        return other != other
    return one is other or bool(one == other and isinstance(one, bool) == isinstance(other, bool))


def _identity(value: Any) -> Hashable:
    """What values have in common that are equal so. Raises TypeError for one that can only be compared."""
    if isinstance(value, list | tuple):
        return "[", *map(_identity, value)
    if isinstance(value, Mapping):
        return "{", frozenset((key, _identity(item)) for key, item in value.items())
    if isinstance(value, float) and value != value:
        return ("nan",)
    if isinstance(value, Enum) and isinstance(value, int | float | str):  # it has the hash of its name
        value = value.value
    hash(value)
    return type(value) is bool, value


class _Seen:
    """Values that jobs have."""

    def __init__(self) -> None:
        self._identities = set[Hashable]()
        self._others: list[Any] = []

    def add(self, value: Any) -> None:
        try:
            self._identities.add(_identity(value))
        except TypeError:
            self._others.append(value)

    def __contains__(self, value: Any) -> bool:
        with suppress(TypeError):
            if _identity(value) in self._identities:
                return True
        return any(_equal(other, value) for other in self._others)


class _Wanted:
    """The values that a key may have; many of them are searched as fast as a few."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values
        self._seen = _Seen()
        for value in (*values, values):  # or the whole list
            self._seen.add(value)

    def __contains__(self, value: Any) -> bool:
        try:
            _identity(value)
        except TypeError:
            return any(_equal(value, one) for one in (*self.values, self.values))
        return value in self._seen

    def without(self, seen: _Seen) -> list[Any]:
        """Those that no job has; none where one has their whole list."""
        return [] if self.values in seen else [value for value in self.values if value not in seen]


_MOST_MISSED: Final = 5

_HARMLESS: Final = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign),
    *(ast.If, ast.Try, ast.Pass),
)


def locate(path: str, names: Iterable[str] = (), *, is_meant: bool = False) -> Callable[..., Any]:
    """The function that a dotted path (`package.module.function`) names. Raises FilterError.

    Unless it `is_meant` to be one, as with `_target_`, a module that does things when it is imported is not imported.
    """
    if NO_FUNCTIONS in os.environ:
        raise FilterError(
            f"the filter {path!r} is no variable, and no function is called for an agent; name variables, ids or states"
        )
    module_name, _, function_name = path.rpartition(".")
    here = os.getcwd()
    added = "" not in sys.path and here not in sys.path and bool(trusted_places([here]))
    if added:
        sys.path.insert(0, here)  # a module beside the script, as `python script.py` would find it
    try:
        if not is_meant and module_name not in sys.modules:
            _refuse_script(path, module_name, function_name)
        found = getattr(importlib.import_module(module_name), function_name)
    except FilterError:
        raise
    except (Exception, SystemExit) as error:  # their module's own code
        raise FilterError(
            f"the filter {path!r} is neither a variable ({', '.join(sorted(names)) or 'there are none'}) nor a "
            f"function that can be imported ({described(error)})"
        ) from error
    finally:
        if added:
            sys.path.remove(here)
    if not callable(found):
        raise FilterError(f"the filter {path!r} names a {type(found).__name__}, not a function of the variables")
    return found  # type: ignore[no-any-return]


def _refuse_script(path: str, module_name: str, function_name: str) -> None:
    """Raise FilterError for a module file beside us that has no such function, or does things when it is imported."""
    first = module_name.partition(".")[0]
    spec = PathFinder.find_spec(first, [os.getcwd()])
    if spec is None or not spec.origin or not spec.origin.endswith(".py") or first != module_name:
        return
    with open(spec.origin, "rb") as file:
        body = ast.parse(file.read()).body
    for node in body:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not is_text and not isinstance(node, _HARMLESS):
            raise FilterError(
                f"the filter {path!r} is no variable, and to import {spec.origin} would run its line {node.lineno}; "
                f"write {{_target_: {path}}} if that is meant"
            )
    if not any(function_name in ast.unparse(node) for node in body):
        raise FilterError(f"the filter {path!r} is no variable, and {spec.origin} has no function {function_name}")
