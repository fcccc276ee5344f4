"""How this Python program was started, so that another process can start it again the same way.

Read from `sys.orig_argv`, which no program changes, and never from guesses about files: `python -O -m pkg.train`,
installed console scripts and wrappers such as `python -m coverage run train.py` all come back as they were typed.
"""

import filecmp
import os
import sys
from collections.abc import Sequence
from enum import Enum, auto
from types import FrameType
from typing import Final, NamedTuple

from experiment_manager.errors import FolderError
from experiment_manager.model.records import Entry
from experiment_manager.store.files import below, first_of, is_file

_TAKE_VALUE: Final = "WX"
_HYDRA_MAIN: Final = "decorated_main"


class _Command(NamedTuple):
    flags: tuple[str, ...]
    target: tuple[str, ...]
    arguments: tuple[str, ...]


def this_program() -> Entry | None:
    """How to start this program again. None when that cannot be told: no file or module was started (a notebook, `-c`,
    a prompt), or the program has given Hydra arguments that nobody typed."""
    command = _split(sys.orig_argv)
    arguments = None if command is None else _before(command.arguments, sys.argv[1:])
    if command is None or arguments is None:
        return None
    cwd, target = _start_directory(command.target)
    return Entry(sys.executable, command.flags, target, arguments, cwd)


def nothing() -> Entry:
    """What starts no program: a function that travels as a pickle needs none, and a sweep may be defined without."""
    return Entry(sys.executable, (), (), (), os.getcwd())


def of_script(path: str) -> Entry:
    """How a script is started by its path, here."""
    return nothing()._replace(target=(path,))


def passing_interpreter() -> str | None:
    """Why this interpreter may be gone when a job starts later; None when nothing says so.

    `uv run --with`, `uvx` and `pipx run` make environments in their caches, for one program, and remove them.
    """
    prefix = os.path.realpath(sys.prefix)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    caches = [os.path.realpath(place) for place in (home, os.environ.get("UV_CACHE_DIR")) if place]
    is_cached = any(prefix.startswith(place + os.sep) for place in caches)
    if is_cached or any(part.startswith(".tmp") for part in prefix.split(os.sep)):
        return (
            f"warning: the jobs start later, with {sys.executable}, an environment in a cache that may be removed as "
            "soon as this program ends (uv run --with, uvx, pipx run); sweep from an environment that stays"
        )
    return None


def _start_directory(target: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Where the program was started, which it may have left since, and what to start there."""
    file = os.path.abspath(getattr(sys.modules["__main__"], "__file__", None) or target[-1])  # absolute since the start
    if target[0] == "-m":
        first = sys.path[0] if sys.path else ""
        is_there = bool(first) and file.startswith(os.path.join(first, target[1].partition(".")[0]))
        return (first if is_there else os.getcwd()), target
    relative = os.path.normpath(target[0])
    candidates = [os.getcwd(), os.environ.get("PWD", "")]
    if not os.path.isabs(relative) and file.endswith(os.sep + relative):
        candidates.insert(0, file[: -len(relative) - 1] or os.sep)
    for path in candidates:
        started = os.path.normpath(os.path.join(path, target[0]))
        if path and (started == file or file.startswith(started + os.sep)):  # a folder with a __main__.py
            return path, target
    if os.path.basename(target[0]) != os.path.basename(file):  # a script that runs ours, as `coverage run` does
        places = {path: os.path.normpath(os.path.join(path, target[0])) for path in candidates if path}
        if (found := first_of(places, lambda path: is_file(places[path]))) is not None:
            return found, (places[found],)
    return os.getcwd(), (file,)


def _split(argv: Sequence[str]) -> _Command | None:
    """Interpreter flags, what is run, and its arguments.

    >>> _split(["python", "-X", "dev", "-m", "pkg.train", "-m", "seed=1,2"])
    _Command(flags=('-X', 'dev'), target=('-m', 'pkg.train'), arguments=('-m', 'seed=1,2'))
    """
    at = 1
    while at < len(argv):
        item = argv[at]
        if not item.startswith("-") or item == "-":
            return None if item == "-" else _Command(tuple(argv[1:at]), (item,), tuple(argv[at + 1 :]))
        if item.startswith("--"):
            at += 2 if item == "--check-hash-based-pycs" else 1
            continue
        for place, letter in enumerate(item[1:], start=2):
            rest = item[place:]
            if letter == "c":
                return None
            if letter == "m":
                flags = (*argv[1:at], *([item[: place - 1]] if place > 2 else []))
                name, after = (rest, at + 1) if rest else (argv[at + 1], at + 2)
                return _Command(flags, ("-m", name), tuple(argv[after:]))
            if letter in _TAKE_VALUE:
                at += 0 if rest else 1
                break
        at += 1
    return None


def _before(typed: Sequence[str], seen_by_hydra: Sequence[str]) -> tuple[str, ...] | None:
    """The arguments that the program took for itself: those that are no longer there when Hydra reads them.

    >>> _before(["--gpu", "0", "-m", "seed=1,2"], ["-m", "seed=1,2"])
    ('--gpu', '0')

    None when Hydra reads what was never typed.
    """
    cut = len(typed) - len(seen_by_hydra)
    if cut >= 0 and list(typed[cut:]) == list(seen_by_hydra):
        return tuple(typed[:cut])
    left = list(seen_by_hydra)
    taken = []
    for item in typed:
        if item in left:
            left.remove(item)
        else:
            taken.append(item)
    return None if left else tuple(taken)


def task_name(task_function: object) -> str:
    """The name of a task function, wherever the program lies: `train.py:main`, `pkg.train:main`; none for None."""
    if task_function is None:
        return ""
    while hasattr(task_function, "__wrapped__"):
        task_function = task_function.__wrapped__
    module = getattr(task_function, "__module__", None) or "?"
    if module == "__main__":
        module = os.path.basename(getattr(sys.modules["__main__"], "__file__", None) or "__main__")
    return f"{module}:{getattr(task_function, '__qualname__', type(task_function).__qualname__)}"


class Other(Enum):
    """What a script is to another one, whose function has the same name."""

    SAME = auto()
    EDITED = auto()  # the same file in another working tree of its repository, with other content
    ANOTHER = auto()


def other_program(was: Entry, now: Entry, task: str, folder: str) -> Other:
    """Whether jobs of an experiment, in that folder, that were started as `was` called another function than this
    program's, though both are named `train.py:main`: their script is still there, and is not this one.

    A copy of the same content is the same. So is a script that was edited in a copy of a whole project, with the
    experiment in it. One that cannot be read may be any.
    """
    before, mine = _file(was), _file(now)
    if before is None or mine is None or before == mine:
        return Other.SAME
    if os.path.basename(before) != task.partition(":")[0]:  # that of a function which several scripts import
        return Other.SAME
    was_here, is_here = (below(os.path.realpath(entry.cwd), folder) is not None for entry in (was, now))
    if is_here and not was_here:
        return Other.SAME
    from experiment_manager.store.documents import opened  # few sweeps come from another place
    from experiment_manager.store.working_trees import are_one_file

    try:
        with opened(before) as file:
            file.read(1)  # files of different sizes are not looked into otherwise
        if filecmp.cmp(before, mine, shallow=False):
            return Other.SAME
        return Other.EDITED if are_one_file(before, mine) else Other.ANOTHER
    except (OSError, FolderError):  # not to be read
        return Other.SAME


def _file(program: Entry) -> str | None:
    """The script or module of a program that lies where it was started; None where there is none."""
    if not program.target:
        return None
    name = os.path.join(program.cwd, program.target[0])
    if program.target[0] == "-m":
        name = os.path.join(program.cwd, *program.target[1].split("."))
        name = f"{name}.py" if os.path.isfile(f"{name}.py") else name
    name = name if os.path.isfile(name) else os.path.join(name, "__main__.py")
    return os.path.realpath(name) if os.path.isfile(name) else None


def file_of(task_function: object) -> str:
    """The file that the task function was written in; for one that was written in none, as in a notebook, a name that
    would lie in the working directory."""
    while hasattr(task_function, "__wrapped__"):
        task_function = task_function.__wrapped__
    module = sys.modules.get(getattr(task_function, "__module__", None) or "")
    return os.path.abspath(getattr(module, "__file__", None) or "a notebook or prompt")


_n_sweeps = 0


def note_sweep() -> None:
    """This process begins a sweep."""
    global _n_sweeps
    _n_sweeps += 1


def runs_by_command_line() -> bool:
    """Whether starting this program again, with other arguments, runs the same task function first.

    True when we were entered through the one `@hydra.main` function of the program, and for the first time; false in a
    notebook, under hydra-zen's `launch`, where several such functions follow one another in a script, or where the one
    has been called before, in a loop.
    """
    if _n_sweeps > 1:
        return False
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        code = frame.f_code
        if code.co_name == _HYDRA_MAIN and code.co_filename.endswith(os.path.join("hydra", "main.py")):
            break
        frame = frame.f_back
    if frame is None:
        return False
    mains = {
        id(value.__wrapped__)
        for value in vars(sys.modules["__main__"]).values()
        if hasattr(value, "__wrapped__") and getattr(getattr(value, "__code__", None), "co_name", "") == _HYDRA_MAIN
    }
    return len(mains) <= 1 and this_program() is not None
