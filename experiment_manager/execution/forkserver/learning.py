"""What jobs had to import themselves, told to the server that they were forked from, so that it is imported once.

Libraries import much of themselves when it is first used: the first optimizer of torch imports 900 modules in 1.4 s.
Only parts of installed libraries that the server has already are learnt, and only where importing them changes the
environment as the program has changed it: what is imported earlier must not miss what a program sets before.
"""

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, NamedTuple

from experiment_manager.store.documents import read_json
from experiment_manager.store.files import appearing

_INSTALLED: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


class Before(NamedTuple):
    """What a process has."""

    modules: frozenset[str]
    environment: Mapping[str, str]


class Lesson(NamedTuple):
    """The modules that a program has imported, and the variables of its environment that have changed meanwhile."""

    modules: list[str]
    environment: dict[str, str | None]


def now() -> Before:
    """Of this process."""
    return Before(frozenset(sys.modules), dict(os.environ))


def since(before: Before) -> Lesson:
    """What has changed; of the modules, those that can be learnt."""
    names = [
        name
        for name, module in list(sys.modules.items())
        if name not in before.modules and _can_be_learnt(name, module, before)
    ]
    old, new = before.environment, os.environ
    return Lesson(names, {name: new.get(name) for name in {*old, *new} if old.get(name) != new.get(name)})


def _can_be_learnt(name: str, module: object, before: Before) -> bool:
    library = name.partition(".")[0]
    is_there = library in before.modules and getattr(module, "__spec__", None) is not None
    return is_there and is_installed(sys.modules.get(library))


def is_installed(module: object) -> bool:
    """Whether a module belongs to an installed library."""
    file = getattr(module, "__file__", None) or ""
    return any(place in file for place in _INSTALLED)


def leave(path: str, lesson: Lesson) -> None:
    """The file tells it; there is none when there is nothing to learn."""
    if lesson.modules:
        with suppress(OSError), appearing(path, for_good=False) as temporary, open(temporary, "x") as file:
            json.dump(lesson, file)


def taken(path: str) -> Lesson | None:
    """What a job has left, once; None when there is nothing."""
    try:
        modules, environment = read_json(path)
        os.unlink(path)
    except (OSError, ValueError, TypeError):
        return None
    return Lesson(modules, environment)
