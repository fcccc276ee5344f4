"""What jobs may share that begin as copies of one process: installed libraries whose import has left nothing behind.

The rule. Only libraries are imported before jobs are forked: Python's own modules, and what is installed. The modules
of the program (whatever is not installed, or was from a folder that is still here, and the package that `-m` names)
are imported by each job, so what they draw, open, start or read of the command line is the job's own, as with `spawn`.
What a library draws inside of itself is its business, as the random number that rich takes for its links. What is
different afterwards is not: a seed that it has set, what it has opened or started and not ended, and what it has read
of the command line, which each job has of its own. Linux.
"""

import gc
import os
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.machinery import ExtensionFileLoader, SourceFileLoader
from types import FrameType, ModuleType
from typing import Any, Final

from experiment_manager.execution import current_job

_INSTALLED: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_STANDARD: Final = os.path.dirname(os.path.realpath(os.__file__)) + os.sep
_OURS: Final = ("__main__", "__mp_main__", "experiment_manager", "hydra_plugins.hydra_experiment_manager")

_GPUS: Final = ("/dev/nvidia", "/dev/kfd", "/dev/dri")
_KINDS: Final = {"socket": "a socket", "pipe": "a pipe", "anon_inode": "a queue of events"}
_CLOCK_S: Final = 2.0  # how exact the times of files are, at least
_UNTOLD_BITS: Final = 96  # an entropy so long is one that numpy has drawn itself
_MOST_BLOCKS: Final = 1000  # of 624 random numbers each, that a library may draw while it is imported


def libraries(modules: Mapping[str, ModuleType], own: frozenset[str]) -> list[str]:
    """Those modules that may be imported before jobs are forked, in their order; `own` are packages of the program."""
    others = own | {"hydra_plugins"}  # which Hydra executes itself
    return [
        name
        for name, module in modules.items()
        if _top(name) not in others and not _is_ours(name) and is_library(_origin(module))
    ]


def own_packages(target: tuple[str, ...]) -> frozenset[str]:
    """The packages that are installed and belong to the program nevertheless: they were installed from a folder that
    is still here, or one of them is the program, as in `-m package.train`."""
    from importlib.metadata import distributions

    own = {_top(target[1])} if target[0] == "-m" else set()
    for distribution in distributions():
        if _comes_from_a_folder(distribution.read_text("direct_url.json")):
            own |= {_top(file.parts[0]) for file in distribution.files or ()}
    return frozenset(own)


def _comes_from_a_folder(origin: str | None) -> bool:
    """Whether pip has installed a distribution from a folder of this machine (PEP 610); conda's are gone by then."""
    from json import loads
    from urllib.parse import unquote, urlsplit

    try:
        found = loads(origin or "{}")
    except ValueError:
        return False
    return "dir_info" in found and os.path.isdir(unquote(urlsplit(str(found.get("url"))).path))


def _is_ours(name: str) -> bool:
    return f"{name}.".startswith(tuple(f"{package}." for package in _OURS))


def _top(name: str) -> str:
    return name.partition(".")[0]


def _origin(module: object) -> str:
    """The file that a module was imported from, "built-in" or "frozen"; nothing for one that somebody has made up, as
    for a package without a file, which has nothing of its own to import."""
    return getattr(getattr(module, "__spec__", None), "origin", None) or ""


def is_library(origin: str) -> bool:
    """Python's own modules, and installed ones."""
    is_installed = any(place in origin for place in _INSTALLED)
    return is_installed or origin in ("built-in", "frozen") or os.path.realpath(origin).startswith(_STANDARD)


class Arguments(list[str]):
    """The command line while libraries are imported: that of one job, where the next has another. A library that looks
    at more of it than the name of the program cannot be shared."""

    reader: str | None = None
    """The module that has done so."""

    def __bool__(self) -> bool:
        return True

    def note(self) -> None:
        """Whoever has called us is the reader, if nobody was before; Python's own modules do it for others."""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and _top(_module_of(frame)) in sys.stdlib_module_names:
            frame = frame.f_back
        if frame is not None and not _is_ours(_module_of(frame)):
            self.reader = self.reader or _module_of(frame)

    def is_kept_by(self) -> str | None:
        """A module that has this object in a name of its own, and so can read it later."""
        for holder in gc.get_referrers(self):
            if isinstance(holder, dict) and holder is not vars(sys) and "__spec__" in holder:
                name = str(holder.get("__name__"))
                if not _is_ours(name):
                    return name
        return None


def _noting(name: str) -> Callable[..., Any]:
    method = getattr(list, name)

    def noting(self: Arguments, *given: Any, **named: Any) -> Any:
        if (name, given) != ("__getitem__", (0,)):
            self.note()
        return method(self, *given, **named)

    return noting


for _name in {*vars(list)} - {"__new__", "__init__", "__getattribute__", "__hash__", "__class_getitem__", "__doc__"}:
    setattr(Arguments, _name, _noting(_name))


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__") or "")


class Imports:
    """Inside, imports are watched; afterwards `trouble` says what they have left behind, and which module did."""

    def __init__(self, own: frozenset[str]) -> None:
        self._own, self._begun = own, time.time() - _CLOCK_S
        self._from_the_start = frozenset(sys.modules)  # what each interpreter imports, as a system's sitecustomize
        self._outer: list[str] = []  # the packages whose modules are being imported
        self._there = _things()
        self._left: dict[tuple[str, str], str] = {}  # what is new, and the module after whose import it was there
        self._numbers = {module: state() for module, state in _NUMBERS.items() if module in sys.modules}
        self._seeded: tuple[str, str] | None = None  # a module, and the one whose random numbers they are
        self._originals: list[tuple[Any, Any]] = []

    def __enter__(self) -> "Imports":
        for loader in (SourceFileLoader, ExtensionFileLoader):
            self._originals.append((loader, vars(loader).get("exec_module")))
            setattr(loader, "exec_module", self._watching(loader.exec_module))  # noqa: B010 - mypy knows it as a method
        return self

    def __exit__(self, *_: object) -> None:
        for loader, original in self._originals:
            if original is None:  # it was inherited
                del loader.exec_module
            else:
                loader.exec_module = original
        self.look("what Hydra does first")

    def _watching(self, execute: Callable[[Any, ModuleType], None]) -> Callable[[Any, ModuleType], None]:
        def exec_module(loader: Any, module: ModuleType) -> None:
            name = module.__name__
            self._outer.append(_top(name))
            try:
                execute(loader, module)
                if name in _NUMBERS:
                    self._numbers[name] = _NUMBERS[name]()
            finally:
                self._outer.pop()
                if not self._outer or self._outer[-1] != _top(name):  # a library is looked at when it is done
                    self.look(name)

        return exec_module

    def look(self, name: str) -> None:
        """What is new is the work of this module."""
        for thing in _things() - self._there:
            self._left.setdefault(thing, name)
        for module, before in self._numbers.items():
            now = _NUMBERS[module]()
            if now != before:
                self._numbers[module] = now
                if not _was_only_drawn(before, now):
                    self._seeded = self._seeded or (name, module)

    def trouble(self, arguments: Arguments) -> str | None:
        """Why jobs that begin as copies of this process would differ from jobs that are started; None when they would
        not. `arguments` was `sys.argv` meanwhile."""
        if reader := arguments.reader or arguments.is_kept_by():
            return f"{reader} has read the arguments of the command line, which each job has of its own"
        if not os.path.isdir("/proc/self/task"):
            return "this system does not tell what its threads are"
        if current_job.was_asked():
            return "a library has asked for current_job(), which another process must not answer"
        if self._seeded is not None:
            return "{} has set the seed of the random numbers of {}".format(*self._seeded)
        _let_threads_end()
        for kind, what in sorted(_things() - self._there):
            return f"{self._left.get((kind, what), 'a library')} has {_told(kind, what)}"
        if module := next(self._of_the_program(), None):
            return f"a library has imported {module}, which belongs to the program"
        return None

    def _of_the_program(self) -> Iterator[str]:
        for name, module in list(sys.modules.items()):
            origin = _origin(module)
            if not origin or name in self._from_the_start or _is_ours(name):
                continue
            if is_library(origin) and _top(name) not in self._own:
                continue
            if os.path.exists(origin) and os.stat(origin).st_mtime < self._begun:  # torch writes a module, and loads it
                yield name


def _things() -> set[tuple[str, str]]:
    """What this process has that a copy of it would not have, or would share: threads, processes, what is open."""
    found = {("thread", name) for name in os.listdir("/proc/self/task")}
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        found.add(("process", ""))
    except ChildProcessError:
        pass
    for handle in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{handle}")
        except OSError:  # it was the handle by which the folder was read
            continue
        if not target.startswith("/dev/") or target.startswith((*_GPUS, "/dev/shm/")):  # others have no place in them
            found.add(("file", target))
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is not None and getattr(cuda, "is_initialized", bool)():  # it may be on its way
        found.add(("file", _GPUS[0]))
    return found


def _told(kind: str, what: str) -> str:
    if kind == "file" and what.startswith(_GPUS):
        return "opened a GPU"
    if kind == "file":
        return f"opened {_KINDS.get(what.partition(':')[0], what)}, and has not closed it"
    return f"started a {kind}"


def _let_threads_end() -> None:
    """OpenBLAS ends its threads before a fork, and has them again when they are needed; other threads stay."""
    if len(os.listdir("/proc/self/task")) > 1:
        with warnings.catch_warnings(action="ignore"):
            pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)


# -- random numbers ---------------------------------------------------------------------------------------------------


def _of_python() -> object:
    return random.getstate()[1]


def _of_numpy() -> object:
    state: dict[str, Any] = sys.modules["numpy.random"].get_state(legacy=False)
    inner = state["state"]
    return (*map(int, inner["key"]), int(inner["pos"])) if "key" in inner else "replaced"


def _of_torch() -> object:
    return sys.modules["torch"].initial_seed()


_NUMBERS: Final[Mapping[str, Callable[[], object]]] = {
    "random": _of_python,
    "numpy.random": _of_numpy,
    "torch": _of_torch,
}
"""The state of the numbers that everybody draws from, by the module that has them. Python's and numpy's are the words
of a Mersenne twister; torch's is the seed, which drawing does not change."""


def _was_only_drawn(before: object, now: object) -> bool:
    """Whether drawing leads from one state of a Mersenne twister to the other; else it was seeded.

    >>> twister = random.Random(1)
    >>> before = twister.getstate()[1]
    >>> _ = [twister.random() for _ in range(2000)]
    >>> _was_only_drawn(before, twister.getstate()[1]), _was_only_drawn(before, random.Random(2).getstate()[1])
    (True, False)
    """
    if not isinstance(before, tuple) or not isinstance(now, tuple):
        return False
    twister = random.Random()
    twister.setstate((3, before, None))
    for _ in range(_MOST_BLOCKS):
        reached = twister.getstate()[1]
        if reached[:-1] == now[:-1]:
            return bool(reached[-1] <= now[-1])
        twister.getrandbits(32 * (len(reached) - reached[-1]))
    return False


def unseeded_generators() -> list[Any]:
    """The generators of numpy's that libraries have made without a seed, each of which a job has to seed anew."""
    numpy = sys.modules.get("numpy.random")
    if numpy is None:
        return []
    own, kind = numpy.mtrand._rand._bit_generator, numpy.BitGenerator
    found = [item for item in gc.get_objects() if issubclass(type(item), kind) and item is not own]
    return [item for item in found if _is_unseeded(item)]


def _is_unseeded(generator: Any) -> bool:
    entropy = getattr(generator.seed_seq, "entropy", None)
    return isinstance(entropy, int) and entropy.bit_length() > _UNTOLD_BITS
