"""Expressions in pass filters, such as `algorithm == 'TD3' and cfg.nn[0] < 100`, on top of simpleeval.

simpleeval parses, restricts and evaluates; what is ours is that a dotted name such as `model.width` is one variable,
that a variable which this job does not have is None, and that `cfg`, `result` and `metric` are read only when they are
named. And what an expression makes is small: no operator takes ages, or all memory.
"""

import ast
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from enum import Enum
from functools import cached_property
from pathlib import PurePath
from typing import Any, Final

import simpleeval

from experiment_manager.errors import FilterError
from experiment_manager.model.facts import NOTHING, ROOTS, Facts, Unanswered, Unresolved
from experiment_manager.model.records import Job

VARIABLES: Final = "variables"  # variables["db@source"] for names that are no identifiers
_MOST_BITS: Final = 100_000  # of a whole number that an expression computes
_MOST_REPEATED: Final = 1000  # letters of a text, or items of a list
_MOST_LETTERS: Final = 10_000  # of a text that is made of values


def _text(value: Any = "") -> str:
    return str(_short(value))


def _short(value: Any) -> Any:
    """The same value, whose text is known to be short. Raises simpleeval.IterableTooLong, or TypeError."""
    left, pending = _MOST_LETTERS, [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str | bytes):
            left -= len(item)
        elif isinstance(item, list | tuple | Mapping):
            left -= 2 * len(item)
            if left >= 0:
                pending.extend(item)
                pending.extend(item.values() if isinstance(item, Mapping) else ())
        elif isinstance(item, Unresolved):
            str(item)  # which says why it cannot be told
        elif isinstance(item, int):
            left -= item.bit_length() // 4
        elif not isinstance(item, float | Enum | PurePath | None):
            raise TypeError(f"no text is made of a {type(item).__name__}")
        if left < 0:
            raise simpleeval.IterableTooLong(
                f"no text of more than {_MOST_LETTERS} letters is made; compare the value itself, as cfg.nn == [1, 2]"
            )
    return value


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * exponent > _MOST_BITS:
        raise simpleeval.NumberTooHigh("a power of whole numbers is too large")
    return base**exponent


def _product(one: Any, other: Any) -> Any:
    """As Python's; what is repeated is short, and a list has no lists in it."""
    if isinstance(one, int) and isinstance(other, int) and one.bit_length() + other.bit_length() > _MOST_BITS:
        raise simpleeval.NumberTooHigh("the product of two numbers is too large")
    for items, times in ((one, other), (other, one)):
        if not hasattr(items, "__len__") or not isinstance(times, int):
            continue
        if len(items) * times > _MOST_REPEATED:
            raise simpleeval.IterableTooLong(
                f"no text, and no list, of more than {_MOST_REPEATED} is made by repeating"
            )
        if not isinstance(items, str) and any(hasattr(item, "__len__") and not isinstance(item, str) for item in items):
            raise simpleeval.IterableTooLong("no list with lists in it is repeated")
    return one * other


def _remainder(one: Any, other: Any) -> Any:
    if isinstance(one, str | bytes):  # it would be formatted
        raise TypeError("a text has no remainder")
    return one % other


_FUNCTIONS: Final = {"int": int, "float": float, "str": _text, "len": len, "abs": abs, "min": min, "max": max}
_OPERATORS: Final = {
    **simpleeval.DEFAULT_OPERATORS,
    ast.Pow: _power,
    ast.Mult: _product,
    ast.Mod: _remainder,
}
_NO_NODES: Final = ("ListComp", "GeneratorExp", "DictComp", "SetComp")
_ABSENT: Final = object()
_SIMPLE: Final = frozenset({bool, int, float, str, type(None), type(_ABSENT)})
_MOST_ANSWERS: Final = 100_000
_ASSIGNED: Final = re.compile(r"\s*([\w.]+)\s*=\s*([^=\s,][^=,]*?)\s*\Z")
_EXAMPLE: Final = "write for example: algorithm == 'TD3' and seed < 3"
_CONSTANTS: Final = {"True", "False", "None"}
_MOST_DIGITS: Final = re.compile(r"[0-9]{4}")
"""Of a width or precision in an f-string it is too many."""

_CONVERSIONS: Final[dict[int, Callable[[Any], str]]] = {-1: str, ord("s"): str, ord("r"): repr, ord("a"): ascii}
_TEXT_METHODS: Final = {"startswith", "endswith", "lower", "upper"}


class Expression(simpleeval.EvalWithCompoundTypes):  # type: ignore[misc]
    """One expression, parsed once, asked for many jobs. Raises FilterError when it is no expression."""

    def __init__(self, text: str) -> None:
        super().__init__(operators=_OPERATORS)
        self.functions = _FUNCTIONS
        for name in _NO_NODES:  # of these, a few words make as much as one likes
            self.nodes.pop(getattr(ast, name), None)
        self.nodes[ast.BoolOp] = self._eval_and_or
        self.nodes |= {ast.JoinedStr: self._eval_f_string, ast.FormattedValue: self._eval_formatted}
        self._text = text
        self._job: Job
        self._facts: Facts
        self._names: Collection[str] = ()
        self._answers: dict[tuple[Any, ...], bool | Unanswered | None] = {}
        self._tree = _parsed(text)
        self._conditions = frozenset(id(node) for node in _conditions(self._tree))

    @cached_property
    def _read(self) -> frozenset[str]:
        """The variables that the expression names."""
        return self.variables(self._names)

    def variables(self, names: Collection[str]) -> frozenset[str]:
        """Those of the variables of these names that the expression names."""
        return _read_in(self._tree, names)

    def _lacks(self, tree: ast.expr) -> bool:
        """Whether the job lacks a variable that is read there: `lr > 0` of a job that has no lr."""
        return not _read_in(tree, self._names) <= self._job.variables.keys()

    def unknown(self, names: Collection[str]) -> Iterator[str]:
        """The names in the expression that are neither variables nor functions."""
        known = {*names, *ROOTS, VARIABLES, *_FUNCTIONS}
        pending: list[ast.AST] = [self._tree]
        while pending:
            node = pending.pop(0)
            dotted = _dotted(node)
            if dotted is not None and (dotted in known or _known_prefix(dotted, known)):
                continue
            if isinstance(node, ast.Name):
                yield node.id
            elif dotted is not None and isinstance(node, ast.Attribute) and node.attr not in _TEXT_METHODS:
                yield dotted
            else:
                pending.extend(ast.iter_child_nodes(node))

    @cached_property
    def reads(self) -> frozenset[str]:
        """The dotted keys under a root that the expression names: `cfg.nn`, `result`."""
        found: set[str] = set()
        pending: list[ast.AST] = [self._tree]
        while pending:
            node = pending.pop()
            key = _key(node)
            if key is None:
                pending.extend(ast.iter_child_nodes(node))
            elif key.partition(".")[0] in ROOTS:
                found.add(key)
        return frozenset(found)

    def answer(self, job: Job, facts: Facts) -> bool | None:
        """Whether the expression holds for one job; None where the job has nothing yet of what is asked for.

        Raises Unanswered, naming the job, when it cannot be evaluated for this one. Jobs of a grid share values, so an
        answer is remembered where it depends on few variables that can be compared.
        """
        self._names = facts.names
        if not self._reads_variables_only:
            return self._evaluate(job, facts)
        values = [job.variables.get(name, _ABSENT) for name in self._read]
        if not all(type(value) in _SIMPLE for value in values):
            return self._evaluate(job, facts)
        key = tuple([(type(value), repr(value) if type(value) is float else value) for value in values])
        if key not in self._answers:
            if len(self._answers) >= _MOST_ANSWERS:
                self._answers.clear()
            try:
                self._answers[key] = self._evaluate(job, facts)
            except Unanswered as error:
                self._answers[key] = error
        found = self._answers[key]
        if isinstance(found, Unanswered):
            raise found
        return found

    @cached_property
    def _reads_variables_only(self) -> bool:
        """Whether the expression asks for nothing but variables by their names."""
        named = {node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name)}
        return not named & {*ROOTS, VARIABLES}

    def _evaluate(self, job: Job, facts: Facts) -> bool | None:
        self._job, self._facts = job, facts
        try:
            return bool(self.eval(self._text, self._tree))
        except _NothingKnown:
            return None
        except FilterError:
            raise
        except simpleeval.InvalidExpression as error:  # for this job as for any other
            raise FilterError(f"{self._cannot(job)}: {error}") from error
        except MemoryError as error:
            raise FilterError(f"{self._cannot(job)}: it needs more memory than there is") from error
        except Exception as error:
            if isinstance(error, TypeError) and self._lacks(self._tree):
                return None
            raise Unanswered(f"{self._cannot(job)}: {error}{self._values(job)}") from error

    def _cannot(self, job: Job) -> str:
        return f"the filter {self._text!r} cannot be evaluated for job {job.id}"

    def _values(self, job: Job) -> str:
        """The values of the job where the expression reads: ` (lr='O.1')`."""
        found = [(name, job.variables.get(name)) for name in sorted(self._read)]
        found += [(key, value) for key in sorted(self.reads) if (value := self._facts.find(job, key)) is not NOTHING]
        return f" ({', '.join(f'{name}={value!r:.80}' for name, value in found)})" if found else ""

    def _eval_and_or(self, node: ast.BoolOp) -> Any:
        """As Python's; of conditions in any order: what is not known of a job leaves it to the others to decide.

        A value, as in `(result.loss or 9) > 1`, is not known where one of its operands is not: no other stands for it.
        """
        if id(node) not in self._conditions:
            return self._eval_boolop(node)
        is_or, is_unknown, value = isinstance(node.op, ast.Or), False, None
        for operand in node.values:
            try:
                value = self._eval(operand)
                if bool(value) is is_or:
                    return value
            except Exception as error:
                is_lacking = isinstance(error, TypeError) and self._lacks(operand)
                if not (is_unknown or is_lacking or isinstance(error, _NothingKnown)):
                    raise
                is_unknown = True  # as what cannot be evaluated after it, of a job that has not come so far
        if is_unknown:
            raise _NothingKnown
        return value

    def _eval_name(self, node: ast.Name) -> Any:
        if node.id in self._names:
            return self._job.variables.get(node.id)
        if node.id in ROOTS:
            found = self._facts.under(node.id, self._job)
            if found is None:
                raise _NothingKnown
            return found
        if node.id == VARIABLES:
            return _Variables(self._job.variables, self._names, self._text)
        return super()._eval_name(node)

    def _eval_attribute(self, node: ast.Attribute) -> Any:
        dotted = _dotted(node)
        if dotted is not None and dotted in self._names:
            return self._job.variables.get(dotted)
        owner = self._eval(node.value)
        if isinstance(owner, Mapping):
            if node.attr in owner:
                return owner[node.attr]
            there_are = ", ".join(map(str, owner))
            raise Unanswered(f"{self._cannot(self._job)}: {dotted} is not there; there are: {there_are}")
        if isinstance(owner, str) and node.attr in _TEXT_METHODS:
            return getattr(owner, node.attr)
        if isinstance(owner, Unresolved):
            bool(owner)  # which says why it cannot be told
        if owner is None and self._lacks(node.value):
            raise _NothingKnown
        raise Unanswered(
            f"{self._cannot(self._job)}: it asks a {type(owner).__name__} for .{node.attr}, which it has not; a key of "
            f"the configuration is read with cfg.{dotted}"
        )

    def _eval_f_string(self, node: ast.JoinedStr) -> str:
        return _text("".join([self._eval(part) for part in node.values]))

    def _eval_formatted(self, node: ast.FormattedValue) -> str:
        value, form = _short(self._eval(node.value)), self._eval(node.format_spec) if node.format_spec else ""
        if not form.isascii():  # Python reads the digits of all scripts
            raise simpleeval.IterableTooLong(f"a format is of ASCII letters and digits, and not {form!r:.40}")
        if _MOST_DIGITS.search(form):
            raise simpleeval.IterableTooLong(f"a width or precision of more than three digits: {form!r:.40}")
        is_as_it_is = node.conversion == -1 and form
        return _text(format(value if is_as_it_is else _CONVERSIONS[node.conversion](value), form))


def _parsed(text: str) -> ast.expr:
    """The tree of an expression. Raises FilterError for what is none, or would be true of every job."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (RecursionError, MemoryError) as error:  # so Python answers what is nested too deeply
        raise FilterError(f"the filter {text[:40]!r}... is nested too deeply to be read") from error
    except (SyntaxError, ValueError) as error:
        at = error.offset or 1 if isinstance(error, SyntaxError) else None
        place = "" if at is None else f" at {text.strip()[max(0, at - 1) :][:20]!r}"
        raise FilterError(
            f"the filter {text!r} is no expression: {getattr(error, 'msg', error)}{place}; {_meant(text)}"
        ) from error
    if isinstance(tree, ast.Tuple):
        raise FilterError(f"the filter {text!r} is a list of conditions; write `and` between them")
    _refuse_constants(tree, text)
    return tree


def _refuse_constants(tree: ast.expr, text: str) -> None:
    """Raise FilterError for a condition that says the same of every job, and is not True or False.

    Such a one is quoted text, `'seed > 2'`, or the `0.2` of `lr == 0.1 or 0.2`. What is no condition may be constant,
    as in `(dropout or 0) < 0.1`, unless nothing else is there: `lr == (0.1 or 0.2)`.
    """
    if _is_text(tree):
        raise FilterError(f"the filter {text!r} is text, not a condition; leave the inner quotes out")
    conditions = list(_conditions(tree))
    inner = [node for node in ast.walk(tree) if isinstance(node, ast.BoolOp) and not _names_something(node)]
    refused = [node for node in conditions if not _may_decide(node)]
    refused += [node for node in inner if node not in conditions and not all(map(_may_decide, _conditions(node)))]
    if not refused:
        return
    if not _names_something(tree):
        raise FilterError(f"the filter {text!r} names no variable, so it says the same of every job; {_EXAMPLE}")
    what = "text, not a condition" if _is_text(refused[0]) else "no condition: it says the same of every job"
    written = ast.get_source_segment(text.strip(), refused[0])
    raise FilterError(f"in the filter {text!r}, {written} is {what}; {_one_of(tree, text) or _EXAMPLE}")


def _conditions(tree: ast.expr) -> Iterator[ast.expr]:
    """An expression, and the parts of it whose truth decides: what stands in `and`, `or` and `not`."""
    pending = [tree]
    while pending:
        node = pending.pop(0)
        yield node
        if isinstance(node, ast.BoolOp):
            pending.extend(node.values)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            pending.append(node.operand)


def _may_decide(condition: ast.expr) -> bool:
    """Whether a condition may be meant: it asks something of the job, compares, is True or False, or joins others."""
    is_not = isinstance(condition, ast.UnaryOp) and isinstance(condition.op, ast.Not)
    is_of_truth = is_not or isinstance(condition, ast.BoolOp | ast.Compare) or _is_boolean(condition)
    return is_of_truth or _names_something(condition)


def _names_something(tree: ast.expr) -> bool:
    """Whether an expression reads a variable or a root; a function that is called is none."""
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return any(isinstance(node, ast.Name) and id(node) not in called for node in ast.walk(tree))


def _is_text(tree: ast.expr) -> bool:
    return isinstance(tree, ast.Constant) and isinstance(tree.value, str)


def _is_boolean(tree: ast.expr) -> bool:
    return isinstance(tree, ast.Constant) and isinstance(tree.value, bool)


def _one_of(tree: ast.expr, text: str) -> str | None:
    """What is meant by `lr == 0.1 or 0.2`, and by `lr == (0.1 or 0.2)`; None for what may mean anything."""
    if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.Or):
        first, *others = tree.values
    else:
        first, others = tree, []
    if not isinstance(first, ast.Compare) or len(first.ops) != 1 or not isinstance(first.ops[0], ast.Eq):
        return None
    second = first.comparators[0]
    values = [*(second.values if isinstance(second, ast.BoolOp) else [second]), *others]
    if any(map(_names_something, values)):
        return None
    name, *written = [ast.get_source_segment(text.strip(), node) or "" for node in (first.left, *values)]
    return f"write {name} in [{', '.join(written)}]"


def _meant(text: str) -> str:
    """The text to write instead: for `lr=0.1`, `lr == 0.1`."""
    match = _ASSIGNED.match(text)
    if match is None:
        return _EXAMPLE
    name, value = match.groups()
    return f"write {name} == {repr(value) if value.isidentifier() and value not in _CONSTANTS else value}"


class _NothingKnown(Exception):
    """The job has no configuration, no result or no metrics yet, so nothing is true of it."""


class _Variables(dict[str, Any]):
    """The variables of one job by name; None for one that other jobs have."""

    def __init__(self, variables: Mapping[str, Any], names: Collection[str], text: str) -> None:
        super().__init__(variables)
        self._names, self._text = names, text

    def __missing__(self, name: str) -> None:
        if name not in self._names:
            raise FilterError(
                f"the filter {self._text!r} names {name!r}, which is no variable; the variables are "
                f"{', '.join(sorted(self._names))}"
            )


def _dotted(node: ast.AST) -> str | None:
    """`a.b.c` for the nodes of that text; None for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        owner = _dotted(node.value)
        return None if owner is None else f"{owner}.{node.attr}"
    return None


def _read_in(tree: ast.expr, names: Collection[str]) -> frozenset[str]:
    """Those of the names that are read there."""
    found = map(_variable, ast.walk(tree))
    return frozenset(name for name in found if name is not None and name in names)


def _variable(node: ast.AST) -> str | None:
    """The name that a node reads if there is such a variable: `model.width`, or `variables['db@source']`."""
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == VARIABLES:
        place = getattr(node.slice, "value", None)
        return place if isinstance(place, str) else None
    return _dotted(node)


def _key(node: ast.AST) -> str | None:
    """The same, where `a['b']` is `a.b`."""
    if not isinstance(node, ast.Subscript):
        return _dotted(node)
    owner, place = _key(node.value), getattr(node.slice, "value", None)
    return None if owner is None or not isinstance(place, str | int) else f"{owner}.{place}"


def _known_prefix(dotted: str, known: Collection[str]) -> bool:
    """A variable that holds a mapping, the configuration, or a text's method: `cfg.nn`, `algorithm.lower`."""
    owner = dotted
    while "." in owner:
        owner = owner.rpartition(".")[0]
        if owner in known:
            return True
    return False
