"""The programs of jobs: how they are started, and whether they are there."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from experiment_manager.model.records import Entry, Recipe
from experiment_manager.store.files import is_folder, may_be_there
from experiment_manager.store.layout import Folder
from experiment_manager.typing_names import Any, NamedTuple


def entry_of(folder: Folder, recipe: Recipe) -> Entry:
    """How the program is started: as it was, or from the copy of its code."""
    entry, code = recipe.entry, recipe.code
    if code is None:
        return entry
    copy = folder.join(code.path)
    return entry._replace(
        cwd=entry.cwd if code.cwd is None else os.path.normpath(os.path.join(copy, code.cwd)),
        target=entry.target if code.script is None else (os.path.join(copy, code.script),),
    )


def place_of_modules(entry: Entry) -> str:
    """The folder in which a program finds its own modules: that of its script, or where a module was started; the
    working directory where neither is named. Raises FolderError where a disk does not say."""
    if not entry.target:
        return os.getcwd()
    path = os.path.join(entry.cwd, entry.target[0])
    return entry.cwd if entry.target[0] == "-m" else path if is_folder(path) else os.path.dirname(path)


class Missing(NamedTuple):
    """The script of jobs, or the folder in which they run, that is not there."""

    path: str
    is_folder: bool

    def __str__(self) -> str:
        return f"the folder {self.path}, where the sweep was started," if self.is_folder else f"the program {self.path}"


def is_gone(program: Entry) -> bool:
    """Whether the script or module of a program is no longer where it was started; false where a disk does not say. A
    module that lay elsewhere, as an installed one, was never there."""
    place, names = program.cwd, list(program.target)
    if names[:1] == ["-m"]:
        *packages, name = names[1].split(".")
        place, names = os.path.join(place, *packages), [name, f"{name}.py"]
        if not may_be_there(place):
            return False
    return bool(names) and not any(may_be_there(os.path.join(place, name)) for name in names)


def missing_program(folder: Folder, recipe: Recipe) -> Missing | None:
    """What jobs of a recipe lack of their program; None where it is there, where a disk does not say, and where no file
    is named: of a module, and of a function that travels as a pickle."""
    entry = entry_of(folder, recipe)
    if recipe.task_pickle is not None or entry.target[:1] == ("-m",) or not is_gone(entry):
        return None
    if not may_be_there(entry.cwd):
        return Missing(entry.cwd, is_folder=True)
    return Missing(os.path.join(entry.cwd, entry.target[0]), is_folder=False)


def may_be_brought(options: Mapping[str, Any]) -> bool:
    """Whether a launch with these options of a scheduler may have programs that are not here, as in a container."""
    return bool(options.get("wrap") or options.get("resources_from"))


def would_be_here(folder: Folder, recipe: Recipe) -> bool:
    """Whether this machine has the folder of that script and its interpreter: then no other one has the script where
    this one has not. Others may, as a node with disks of its own, where these are not here."""
    entry = entry_of(folder, recipe)
    script = os.path.join(entry.cwd, *entry.target)
    return may_be_there(os.path.dirname(script)) and may_be_there(entry.python)


def program_is_gone(missing: Missing, ids: Sequence[int], folder: Folder) -> str:
    """The sentence for jobs whose script, or folder, is not there."""
    from experiment_manager.model.ids import which  # for this alone, and every task imports this module

    jobs, is_one = f"{which(ids)} of {folder.path}", len(ids) == 1
    if missing.is_folder:
        here = f"is not there any more, or not on {os.uname().nodename}"
        return (
            f"{missing} {here}, and {jobs} {'runs' if is_one else 'run'} in it; sweep again from where it is now, and "
            "all nodes see it"
        )
    return f"{missing} is not there, which {jobs} {'runs' if is_one else 'run'}; {program_way_out(folder)}"


def program_way_out(folder: Folder) -> str:
    """What to do where the script of jobs is not there."""
    return (
        "put it back, or, where it has another name now, sweep the same with that, "
        f"hydra.sweeper.experiment_name={folder.name} and hydra.sweeper.on_other_program=same"
    )
