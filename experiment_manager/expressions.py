"""Expressions in pass filters, such as `algorithm == 'TD3' and cfg.nn[0] < 100`, on top of simpleeval.

simpleeval parses, restricts and evaluates; what is ours is that a dotted name such as `model.width` is one variable,
that a variable which this job does not have is None, and that `cfg` is read only when it is named.
"""

import ast
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from typing import Any, Final

import simpleeval

from experiment_manager.errors import FilterError
from experiment_manager.records import Job

CONFIGURATION: Final = "cfg"
VARIABLES: Final = "variables"  # variables["db@source"] for names that are no identifiers
_FUNCTIONS: Final = {"int": int, "float": float, "str": str, "len": len, "abs": abs, "min": min, "max": max}
_ABSENT: Final = object()
_SIMPLE: Final = frozenset({bool, int, float, str, type(None), type(_ABSENT)})
_MOST_ANSWERS: Final = 100_000
_TEXT_METHODS: Final = {"startswith", "endswith", "lower", "upper"}


class Expression(simpleeval.EvalWithCompoundTypes):  # type: ignore[misc]
    """One expression, parsed once, asked for many jobs. Raises FilterError when it is no expression."""

    def __init__(self, text: str) -> None:
        super().__init__(functions={**_FUNCTIONS})
        self._text = text
        self._variables: Mapping[str, Any] = {}
        self._names: Collection[str] = ()
        self._configuration: Callable[[], Any] = dict
        self._answers: dict[tuple[Any, ...], bool] = {}
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError) as error:
            place = (
                f" at {text.strip()[max(0, (error.offset or 1) - 1) :][:20]!r}"
                if isinstance(error, SyntaxError)
                else ""
            )
            raise FilterError(
                f"the filter {text!r} is no expression: {getattr(error, 'msg', error)}{place}; "
                "write for example: algorithm == 'TD3' and seed < 3"
            ) from error

    @cached_property
    def _read(self) -> frozenset[str]:
        """The variables that the expression names."""
        dotted = (_dotted(node) for node in ast.walk(self._tree))
        return frozenset(name for name in dotted if name is not None and name in self._names)

    def unknown(self, names: Collection[str]) -> Iterator[str]:
        """The names in the expression that are neither variables nor functions."""
        known = {*names, CONFIGURATION, VARIABLES, *_FUNCTIONS}
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

    def is_true(self, job: Job, names: Collection[str], configuration: Callable[[Job], Any]) -> bool:
        """Whether the expression holds for one job. Raises FilterError naming the job when it cannot be evaluated.

        Jobs of a grid share values, so an answer is remembered where it depends on few variables that can be compared.
        """
        self._names = names
        if not self._reads_variables_only:
            return self._evaluate(job, configuration)
        values = [job.variables.get(name, _ABSENT) for name in self._read]
        if not all(type(value) in _SIMPLE for value in values):
            return self._evaluate(job, configuration)
        key = tuple([(type(value), repr(value) if type(value) is float else value) for value in values])
        if key not in self._answers:
            if len(self._answers) >= _MOST_ANSWERS:
                self._answers.clear()
            self._answers[key] = self._evaluate(job, configuration)
        return self._answers[key]

    @cached_property
    def _reads_variables_only(self) -> bool:
        """Whether the expression asks for nothing but variables by their names."""
        named = {node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name)}
        return not named & {CONFIGURATION, VARIABLES}

    def _evaluate(self, job: Job, configuration: Callable[[Job], Any]) -> bool:
        self._variables = job.variables
        self._configuration = lambda: configuration(job)
        try:
            return bool(self.eval(self._text, self._tree))
        except _NoConfiguration:
            return False
        except FilterError:
            raise
        except Exception as error:
            if isinstance(error, TypeError) and not self._read <= job.variables.keys():
                return False  # `lr > 0` of a job that has no lr
            raise FilterError(
                f"the filter {self._text!r} cannot be evaluated for job {job.id} with variables {dict(job.variables)}: "
                f"{error}"
            ) from error

    def _eval_name(self, node: ast.Name) -> Any:
        if node.id in self._names:
            return self._variables.get(node.id)
        if node.id == CONFIGURATION:
            configuration = self._configuration()
            if configuration is None:
                raise _NoConfiguration
            return configuration
        if node.id == VARIABLES:
            return _Variables(self._variables, self._names, self._text)
        return super()._eval_name(node)

    def _eval_attribute(self, node: ast.Attribute) -> Any:
        dotted = _dotted(node)
        if dotted is not None and dotted in self._names:
            return self._variables.get(dotted)
        owner = self._eval(node.value)
        if isinstance(owner, Mapping):
            if node.attr in owner:
                return owner[node.attr]
            raise FilterError(
                f"the filter {self._text!r} names {dotted}, which is not there; there are: {', '.join(map(str, owner))}"
            )
        if isinstance(owner, str) and node.attr in _TEXT_METHODS:
            return getattr(owner, node.attr)
        raise FilterError(
            f"the filter {self._text!r} asks a {type(owner).__name__} for .{node.attr}, which it has not; a key of the "
            f"configuration is read with cfg.{dotted}"
        )


class _NoConfiguration(Exception):
    """The job has no configuration yet, so nothing is true of it."""


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


def _known_prefix(dotted: str, known: Collection[str]) -> bool:
    """A variable that holds a mapping, the configuration, or a text's method: `cfg.nn`, `algorithm.lower`."""
    owner = dotted
    while "." in owner:
        owner = owner.rpartition(".")[0]
        if owner in known:
            return True
    return False
