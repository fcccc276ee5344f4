"""`python -m experiment_manager` and `python train.py` as copies of a process that has imported Hydra and the package:
processes of their own like any other, that begin sooner. This file is also the program that is copied."""

import atexit
import builtins
import contextlib
import gc
import importlib.machinery
import io
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import IO

_WIDTH = 16  # of a number in what the two processes say to each other


def _read_at_start(env: Mapping[str, str]) -> dict[str, str]:
    """Of an environment, what a process reads only when it is started, but for the places that it searches."""
    read = {name: value for name, value in env.items() if name.startswith(("PYTHON", "LANG", "LC_", "LD_"))}
    read.pop("PYTHONPATH", None)
    return read


_BEGUN = _read_at_start(os.environ)
_SEARCHED = os.environ.get("PYTHONPATH", "")


def _only_adds(place: str) -> bool:
    """Whether all modules of a place are found there alone: else a process may have imported others of their names."""
    if not os.path.isabs(place) or not os.path.isdir(place):
        return False
    taken = sys.stdlib_module_names | {"sitecustomize", "usercustomize"}
    names = {name.partition(".")[0] for name in os.listdir(place)} - {""}
    return not any(name in taken or importlib.machinery.PathFinder.find_spec(name) for name in names)


def can_be_copied(words: Sequence[str], env: Mapping[str, str]) -> bool:
    """Whether these words for Python are a verb or a script, and a copy does the same as a fresh interpreter in this
    environment.

    `run` is always a fresh one: what every task pays for, and what becomes of it, is about the process itself.
    """
    first, verb = (*words[:2],), (*words[2:3],)
    is_verb = first == ("-m", "experiment_manager") and verb != ("run",)
    searched = env.get("PYTHONPATH", "")
    return (
        (is_verb or first[0].endswith(".py"))
        and _read_at_start(env) == _BEGUN
        and (searched == _SEARCHED or (not _SEARCHED and all(map(_only_adds, searched.split(os.pathsep)))))
    )


class CommandLine:
    """The process that is copied; it is started at the first call, and ends with the one that started it.

    It is this file, or another `program` in this folder that does the same and something of its own.
    """

    def __init__(self, program: str = __file__, env: Mapping[str, str] | None = None) -> None:
        self._program, self._env = program, env
        self._server: subprocess.Popen[bytes] | None = None
        self._ours: socket.socket | None = None

    def run(
        self, words: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float
    ) -> "subprocess.CompletedProcess[str]":
        """The same as `subprocess.run([sys.executable, *words], ...)` that captures both streams as text."""
        umask = os.umask(0)
        os.umask(umask)
        asked = json.dumps({"words": list(words), "cwd": str(cwd), "env": dict(env), "umask": umask}).encode()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            try:
                ours = self._started()
                ours.settimeout(timeout)
                socket.send_fds(ours, [_number(len(asked))], [0, out.fileno(), err.fileno()])
                ours.sendall(asked)
                status = int(_received(ours, _WIDTH))
            except BaseException:
                self.end()
                raise
            return subprocess.CompletedProcess([sys.executable, *words], status, _text(out), _text(err))

    def _started(self) -> socket.socket:
        if self._ours is None:
            self._ours, theirs = socket.socketpair()
            command = [sys.executable, self._program, str(theirs.fileno())]
            handles = [theirs.fileno()]
            self._server = subprocess.Popen(command, pass_fds=handles, start_new_session=True, env=self._env)
            theirs.close()
        return self._ours

    def end(self) -> None:
        """The process is gone, and what it has not answered is killed; the next call starts anew."""
        if self._ours is not None and self._server is not None:
            self._ours.close()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
        self._server = self._ours = None


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return io.TextIOWrapper(file, newline=None).read()


def _number(value: int) -> bytes:
    return b"%*d" % (_WIDTH, value)


def _received(stream: socket.socket, n_bytes: int) -> bytes:
    found = b""
    while len(found) < n_bytes:
        piece = stream.recv(n_bytes - len(found))
        if not piece:
            raise EOFError
        found += piece
    return found


# ---------------------------------------------------------------- the process that is copied


def serve(theirs: socket.socket) -> None:
    """Returns in each copy, which then has the words, the streams, the place and the environment that are asked for."""
    gc.freeze()
    while True:
        size, streams, _, _ = socket.recv_fds(theirs, _WIDTH, 3)
        if not size:
            os._exit(0)
        asked = json.loads(_received(theirs, int(size + _received(theirs, _WIDTH - len(size)))))
        child = os.fork()
        if not child:
            theirs.close()
            return _become(streams, **asked)
        for stream in streams:
            os.close(stream)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with contextlib.suppress(BrokenPipeError):
            theirs.sendall(_number(status))


def _become(streams: Sequence[int], *, words: list[str], cwd: str, env: Mapping[str, str], umask: int) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 (the streams stay open)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.umask(umask)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None  # as in a process that has not looked for it yet
    sys.path[0] = cwd if words[0] == "-m" else os.path.dirname(os.path.realpath(words[0]))
    if not _SEARCHED and env.get("PYTHONPATH"):
        sys.path[1:1] = env["PYTHONPATH"].split(os.pathsep)
    sys.argv[:] = words
    sys.orig_argv[:] = [sys.executable, *words]


def run_copy() -> None:
    """Does what Python does with its arguments."""
    if sys.argv[0] == "-m":
        del sys.argv[1]
        runpy.run_module("experiment_manager", run_name="__main__", alter_sys=True)
        return
    path = os.path.join(os.getcwd(), sys.argv[0])
    main = ModuleType("__main__")
    vars(main).update(__file__=path, __cached__=None, __builtins__=builtins, __annotations__={})
    loader = importlib.machinery.SourceFileLoader("__main__", path)
    main.__loader__ = loader
    sys.modules["__main__"] = main
    exec(loader.source_to_code(Path(path).read_bytes(), path), vars(main))


def import_all() -> None:
    import experiment_manager.hydra

    ours = [
        f"experiment_manager.hydra.{module.name}" for module in pkgutil.iter_modules(experiment_manager.hydra.__path__)
    ]
    for name in ("hydra", "orjson", "experiment_manager.experiment", *ours):
        importlib.import_module(name)
    from experiment_manager.cli.main import main

    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as empty:
        main(["list", empty])  # which imports what typer imports late
    _compose_once()


def _compose_once() -> None:
    """What Hydra imports, compiles and learns of its grammar when it composes is there; what it notes is forgotten.

    Not since 1.4, where plugins add their configs to what would be forgotten as they are imported, which is once.
    """
    from hydra import __version__, compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.singleton import Singleton

    if __version__ >= "1.4":
        return
    before = Singleton.get_state()
    swept = ["seed=1,2", "tau=range(1,3)", "text=choice('a b',c)", "hydra.sweeper.pass_filter={seed: [1]}"]
    with initialize_config_dir(str(Path(__file__).parent / "app" / "conf"), version_base=None):
        OverridesParser.create().parse_overrides(swept)
        compose("config", ["algorithm=TD3", "seed=1", "+x=[1,2]", "text='a b'"], return_hydra_config=True)
    Singleton.set_state(before)


def end_as_python(run: Callable[[], None]) -> None:
    """Runs it, and all that Python calls when a program has ended; then the process is gone. Modules that it shares
    with all copies are not taken apart, which would write to, and so copy, most of the memory: half of the time of a
    short command (measured)."""
    status = 0
    try:
        run()
    except SystemExit as leaving:
        if not isinstance(leaving.code, int | None):
            raise  # which Python prints
        status = leaving.code or 0
    threading._shutdown()  # type: ignore[attr-defined]  # as Python waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status & 0xFF)


if __name__ == "__main__":
    import_all()
    serve(socket.socket(fileno=int(sys.argv[1])))
    end_as_python(run_copy)
