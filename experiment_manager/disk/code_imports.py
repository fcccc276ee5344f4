"""Where Python finds the modules of a program whose code is copied: in the copy, and not in the original."""

import importlib.machinery
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Set
from pathlib import Path
from typing import Any, Final

from experiment_manager.disk.files import below
from experiment_manager.disk.folder import Folder
from experiment_manager.errors import FreezeError
from experiment_manager.records import Code

OURS: Final = ("experiment_manager", "hydra_plugins")
"""Packages that belong to no program."""

LEAVE_OUT: Final = "or leave hydra.launcher.snapshot out"


def searched(root: str, places: Set[str], files: Collection[str]) -> list[str]:
    """Where in the copy modules are to be looked for: where this process looks, and where it has found some or would
    find some, also by the import hooks of editable installs.

    `places` and `files` are what was copied, relative to the root. Raises FreezeError, see below.
    """
    found = [below(root, place or os.getcwd()) for place in sys.path]
    found += sorted({below(root, place) for _, place in origins()}, key=str)
    found += sorted({below(root, place) for place in _hooked(root, places, files)}, key=str)
    return [place for place in dict.fromkeys(found) if place is not None and place in places]


def _hooked(root: str, places: Set[str], files: Collection[str]) -> Iterator[str]:
    """The directories of what import hooks find in the repository, which nobody may have imported yet.

    Raises FreezeError for a module that they find by another name than its file has: no directory leads to it.
    """
    usual = (importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter, importlib.machinery.PathFinder)
    names = {part for name in files if name.endswith(".py") for part in name.removesuffix(".py").split(os.sep)}
    for hook in sys.meta_path:
        if hook in usual or not hasattr(hook, "find_spec"):
            continue
        mapping = getattr(sys.modules.get(getattr(hook, "__module__", None) or ""), "MAPPING", None)
        for name, place in mapping.items() if isinstance(mapping, dict) else _asked(hook, sorted(names)):
            path, parts = Path(str(place).removesuffix(".py")), str(name).split(".")
            inside = below(root, str(path))
            if inside not in places and f"{inside}.py" not in files:
                continue
            if list(path.parts[-len(parts) :]) != parts:
                raise FreezeError(
                    f"an import hook finds {name} in {path}, not under its own name, where no snapshot can have it; "
                    f"rename it, {LEAVE_OUT}"
                )
            yield str(path.parents[len(parts) - 1])


def _asked(hook: Any, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The modules of these names that an import hook finds in files, each with its directory, or its file."""
    for name in filter(str.isidentifier, names):
        try:
            spec = hook.find_spec(name, None)
        except Exception:  # whatever a hook does with a name that it does not know
            continue
        origin = getattr(spec, "origin", None)
        if spec is not None and isinstance(origin, str) and os.path.isfile(origin):
            yield name, os.path.dirname(origin) if spec.submodule_search_locations else origin


def origins() -> Iterator[tuple[str, str]]:
    """The name of each package and module at the top that was imported from a file, and the directory that it is in."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if "." in name or name == "__main__" or not (file or hasattr(module, "__path__")):
            continue
        try:
            packages = [str(place) for place in getattr(module, "__path__", ())]
        except Exception:  # whatever a module calls its path
            continue
        yield from ((name, os.path.dirname(place)) for place in packages or [str(file)])


def live_modules(folder: Folder, code: Code) -> dict[str, str]:
    """The modules of this process that come from the original, though they were copied, each with its file."""
    copy = os.path.realpath(folder.join(code.path))
    elsewhere = tuple(place + os.sep for place in (copy, sys.prefix, sys.base_prefix, sys.exec_prefix))
    found = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or file.startswith(elsewhere) or name.partition(".")[0] in OURS:
            continue
        inside = below(code.root, file)
        if inside and not os.path.realpath(file).startswith(copy + os.sep):
            copied = os.path.join(copy, inside)
            if os.path.isfile(copied) and os.path.realpath(copied) == copied:  # and no link
                found[name] = file
    return found
