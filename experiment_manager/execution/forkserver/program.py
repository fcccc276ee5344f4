"""A program that runs as `__main__` of an interpreter that is up already, as a fresh `python train.py` would run it."""

import builtins
import os
import pkgutil
import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any, Final

from experiment_manager.text import tell

_before: Final[list[ModuleType]] = []  # what was `__main__` first: its code may run to the end


def is_plain(target: Sequence[str], cwd: str) -> bool:
    """Whether a program can be run here: a module, or a file with source, as `-m pkg.train`, `train.py`; no archive."""
    if not target or target[0] == "-m":
        return len(target) == 2
    path = os.path.join(cwd, target[0])
    return os.path.isfile(path) and not path.endswith(".pyc") and pkgutil.get_importer(path) is None


def first_on_path(target: Sequence[str]) -> str:
    """What Python puts in front of `sys.path` for a program: the folder of the file, or where we are.

    >>> first_on_path(["/there/train.py"])
    '/there'
    """
    return os.getcwd() if target[0] == "-m" else os.path.dirname(os.path.realpath(target[0]))


def run(target: Sequence[str], arguments: Sequence[str]) -> None:
    """The program has run. Leave the interpreter by whatever this raises: its exit status, and what is printed of it,
    are then those of a fresh interpreter."""
    _before.append(sys.modules["__main__"])
    module = sys.modules["__main__"] = ModuleType("__main__")
    module.__dict__.update(__builtins__=builtins, __annotations__={})
    try:
        if target[0] == "-m":
            sys.argv[:] = ["-m", *arguments]
            runpy._run_module_as_main(target[1])  # type: ignore[attr-defined]  # what `python -m` itself calls
        else:
            sys.argv[:] = [target[0], *arguments]
            _run_file(target[0], vars(module))
    except SystemExit:
        raise
    except BaseException as error:
        shown = error.__traceback__ and error.__traceback__.tb_next  # without the frames of this module
        while shown is not None and shown.tb_frame.f_code.co_filename == __file__:
            shown = shown.tb_next
        sys.excepthook(type(error), error.with_traceback(shown), shown)
        sys.excepthook = _say_nothing  # on its way out the error gathers frames that are none of the program's
        raise


def _run_file(name: str, namespace: dict[str, Any]) -> None:
    path = name if os.path.isabs(name) else os.path.join(os.getcwd(), name.removeprefix("./"))
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        tell(f"{sys.executable}: can't open file {path!r}: [Errno {error.errno}] {error.strerror}")
        raise SystemExit(2) from None
    loader = SourceFileLoader("__main__", path)
    namespace.update(__file__=path, __loader__=loader, __spec__=None, __package__=None, __cached__=None)
    exec(compile(source, path, "exec", dont_inherit=True), namespace)


def _say_nothing(*_: object) -> None:
    """An `excepthook` for what has been told already."""
