"""The functions that filters name by a dotted path, found without running a script whose name somebody mistyped."""

import ast
import importlib
import os
import sys
from collections.abc import Callable, Iterable
from importlib.machinery import PathFinder
from typing import Any, Final

from experiment_manager.errors import FilterError
from experiment_manager.text import described

_HARMLESS: Final = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign),
    *(ast.If, ast.Try, ast.Pass),
)


def locate(path: str, names: Iterable[str] = (), *, is_meant: bool = False) -> Callable[..., Any]:
    """The function that a dotted path (`package.module.function`) names. Raises FilterError.

    Unless it `is_meant` to be one, as with `_target_`, a module that does things when it is imported is not imported.
    """
    module_name, _, function_name = path.rpartition(".")
    added = "" not in sys.path and os.getcwd() not in sys.path
    if added:
        sys.path.insert(0, os.getcwd())  # a module beside the script, as `python script.py` would find it
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
            sys.path.remove(os.getcwd())
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
