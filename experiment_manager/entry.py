"""How this Python program was started, so that another process can start it again the same way.

Read from `sys.orig_argv`, which no program changes, and never from guesses about files: `python -O -m pkg.train`,
installed console scripts and wrappers such as `python -m coverage run train.py` all come back as they were typed.
"""

import os
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Final, NamedTuple

from experiment_manager.records import Entry

_TAKE_VALUE: Final = "WX"
_HYDRA_MAIN: Final = "decorated_main"


class _Command(NamedTuple):
    flags: tuple[str, ...]
    target: tuple[str, ...]
    arguments: tuple[str, ...]


def this_program() -> Entry | None:
    """How to start this program again; None when no file or module was started (a notebook, `-c`, a prompt)."""
    command = _split(sys.orig_argv)
    if command is None:
        return None
    target = command.target
    if len(target) == 1 and not os.path.exists(target[0]):  # the program has changed its working directory since
        target = (os.path.abspath(getattr(sys.modules["__main__"], "__file__", target[0])),)
    return Entry(
        python=sys.executable,
        flags=command.flags,
        target=target,
        app_arguments=_before(command.arguments, sys.argv[1:]),
        cwd=os.getcwd(),
    )


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


def _before(typed: Sequence[str], seen_by_hydra: Sequence[str]) -> tuple[str, ...]:
    """What the program took for itself: the arguments that are no longer there when Hydra reads them.

    >>> _before(["--gpu", "0", "-m", "seed=1,2"], ["-m", "seed=1,2"])
    ('--gpu', '0')
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
    return tuple(taken)


def runs_by_command_line() -> bool:
    """Whether starting this program again, with other arguments, runs the same task function and nothing else.

    True when we were entered through the one `@hydra.main` function of the program; false in a notebook, under
    hydra-zen's `launch`, or where several such functions follow one another in a script.
    """
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
