"""The program that jobs have in common: how it is started, and which libraries its source names.

The source is read and not run: what a program does when it is imported, each job does for itself.
"""

import ast
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from typing import Final, NamedTuple

from experiment_manager.execution.command import job_command, runner_command, variables_of
from experiment_manager.execution.forkserver import job, sharing
from experiment_manager.model.records import Entry, Job, Recipe
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.orders import read_order
from experiment_manager.store.programs import entry_of

_WARM_UP: Final = "experiment_manager.hydra.callback:warm_up"


class Program(NamedTuple):
    """What jobs have in common, and the arguments that one of them has, after those of `entry`."""

    entry: Entry
    example: list[str]
    variables: Mapping[str, str]  # of the environment
    warm_up: str | None  # a function, as `module:function`, to be called once with the arguments of a job, and with
    frozen: str = ""  # the folder of those sources of configuration that stay as they are

    @property
    def command(self) -> tuple[str, ...]:
        """The interpreter and its flags."""
        return (self.entry.python, *self.entry.flags)


class Unforkable(Exception):
    """Why a job cannot be forked, in a few words."""


def program_of(folder: Folder, job_id: int, launch: str | None = None) -> Program:
    """What runs a job of a sweep or, where its launch names a script, one that was written in Python. Raises Unforkable
    for a job that has no plain script or module, or another interpreter than this one."""
    with Manifest(folder) as manifest:
        point = manifest.job(job_id)
        recipe = manifest.recipe(point.recipe) if point.recipe is not None else None
    program = _of_launch(folder, point, launch) if recipe is None else _of_sweep(folder, point, recipe)
    if program.entry.python != sys.executable:
        raise Unforkable(f"its interpreter is {program.entry.python}")
    if not job.is_plain(program.entry.target, program.entry.cwd):
        raise Unforkable("its program is neither a script nor a module")
    return program


def _of_sweep(folder: Folder, point: Job, recipe: Recipe) -> Program:
    if recipe.task_pickle:
        raise Unforkable("its program lies in no script, as in a notebook")
    entry = entry_of(folder, recipe)
    words = 1 + len(entry.flags) + len(entry.target)
    example = job_command(folder, point, recipe)[words:]
    return Program(entry, example, variables_of(folder, recipe, os.environ), _WARM_UP, folder.join("conf"))


def _of_launch(folder: Folder, point: Job, launch: str | None) -> Program:
    order = None if launch is None else read_order(folder, launch, point.id)
    runner = (order.runner if order is not None else None) or ()
    if order is None or len(runner) != 2:
        raise Unforkable("its runner is no Python script")
    entry = Entry(runner[0], (), (runner[1],), (), order.cwd)
    return Program(entry, runner_command(folder, point, runner)[len(runner) :], {}, None)


def name_of(target: Sequence[str]) -> str:
    """The first of `sys.argv`: of `-m pkg.train` the file. To be asked where modules are found as in the program."""
    found = _run_by(target[1]) if target[0] == "-m" else None
    return target[0] if found is None or found.origin is None else found.origin


class Import(NamedTuple):
    """`import name`, or `from name import ...`."""

    name: str
    offered: tuple[str, ...] = ()


def imports_of(target: Sequence[str], own: frozenset[str]) -> list[Import]:
    """The libraries that a program and its own modules name outside of functions, in the order in which it imports
    them. To be asked where modules are found as in the program; what cannot be read or found is left out."""
    source = _Source(own)
    if target[0] == "-m":
        source.visit(target[1])
        source.visit(f"{target[1]}.__main__")
    else:
        source.read(os.path.join(os.getcwd(), target[0]), "")
    return source.libraries


class _Source:
    """Modules of the program, each read once."""

    def __init__(self, own: frozenset[str]) -> None:
        self._own, self._visited = own, set[str]()
        self.libraries: list[Import] = []

    def visit(self, name: str) -> bool:
        """Whether there is a module of the program of that name; it and the packages around it have been read."""
        outer = name.rpartition(".")[0]
        if outer and not self.visit(outer):
            return False
        spec = _found(name)
        if spec is None:
            return False
        if name not in self._visited:
            self._visited.add(name)
            if spec.origin is not None and spec.origin.endswith(".py"):
                self.read(spec.origin, name if spec.submodule_search_locations is not None else outer)
        return True

    def read(self, path: str, package: str) -> None:
        """The imports of a file, which belongs to that package, are among the libraries."""
        try:
            with open(path, "rb") as file:
                tree = ast.parse(file.read())
        except (OSError, SyntaxError, ValueError, RecursionError):  # the job will tell
            return
        for found in _imports(tree.body, package):
            self._note(found)

    def _note(self, found: Import) -> None:
        if self._is_library(found.name):
            self.libraries.append(found)
        elif self.visit(found.name):
            for name in found.offered:
                self._note(Import(f"{found.name}.{name}"))

    def _is_library(self, name: str) -> bool:
        top = name.partition(".")[0]
        if top == "experiment_manager" or top in sys.builtin_module_names:
            return True
        if top in self._own or top == "hydra_plugins":
            return False
        outer = "" if "." not in name else name.rpartition(".")[0]
        spec = _found(name)
        if spec is not None and spec.origin is not None:
            return sharing.is_library(spec.origin)
        return bool(outer) and self._is_library(outer)  # a name that the package makes, or a package without a file


def _imports(statements: Sequence[ast.stmt], package: str) -> Iterator[Import]:
    for statement in statements:
        if isinstance(statement, ast.Import):
            yield from (Import(alias.name) for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            parts = package.split(".")[: 1 - statement.level or None] if statement.level and package else []
            name = ".".join([*parts, *([statement.module] if statement.module else [])])
            if name:
                yield Import(name, tuple(alias.name for alias in statement.names))
        elif isinstance(statement, ast.If) and _names_type_checking(statement.test):
            yield from _imports(statement.orelse, package)
        elif not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            for inner in ast.iter_child_nodes(statement):
                blocks = [inner] if isinstance(inner, ast.stmt) else getattr(inner, "body", None)
                yield from _imports(blocks if isinstance(blocks, list) else [], package)


def _names_type_checking(test: ast.expr) -> bool:
    return "TYPE_CHECKING" in (getattr(test, "id", None), getattr(test, "attr", None))


def _run_by(name: str) -> ModuleSpec | None:
    """The module that `-m` of that name runs, which of a package is one inside of it."""
    found = _found(name)
    return found if found is None or found.submodule_search_locations is None else _found(f"{name}.__main__")


def _found(name: str) -> ModuleSpec | None:
    """Where a module lies, without that anything is imported; None: nowhere on `sys.path`."""
    path: Sequence[str] | None = None
    spec = None
    for end in range(1, name.count(".") + 2):
        try:
            spec = PathFinder.find_spec(".".join(name.split(".")[:end]), path)
        except (ImportError, ValueError, AttributeError):
            return None
        if spec is None:
            return None
        path = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
        if path is None and end <= name.count("."):
            return None
    return spec
