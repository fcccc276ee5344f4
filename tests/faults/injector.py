"""Commands of the product with a fault in them: the faults that there are, and how a command is run with one.

A command is a copy of a process that has imported Hydra and the package; the library that injects (inject.c) is loaded
into it, and into every process that it starts.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tests.command_line import CommandLine

HERE: Final = Path(__file__).parent
COMMAND_S: Final = 90.0
"""No command of a scenario takes as long."""

ORPHANS_S: Final = 40.0
"""What a killed command has started ends by itself in this time."""

BESIDE_S: Final = 40.0
"""What runs beside a command has ended in this time, once the command has ended it."""

_MOST_PROCESSES: Final = 4000
_SPACE: Final = ("openw", "write", "mkdir", "link", "symlink", "sendfile", "copy_file_range", "ftruncate", "fsync")
_STALE: Final = ("openw", "write", "mkdir", "link", "rename", "unlink", "rmdir", "chmod", "ftruncate", "fsync")
_NAMES: Final = ("openw", "mkdir", "link", "rename", "unlink", "symlink", "rmdir", "chmod")


_OF_SLURM: Final = ("away", "late")
"""What SLURM's commands do by themselves: they are refused, or do what they are asked and are not answered."""


class Fault(NamedTuple):
    """What happens at a call: `kinds` and `calls` say at which ones it can (see inject.c)."""

    mode: str  # kill, kill_all, fail, short; of SLURM's commands: away, late
    kinds: str  # W: calls that change files, R: that read, S: that look, L: locks, P: processes, C: SLURM's commands
    number: int = 0  # the error
    calls: tuple[str, ...] = ()  # all of the kinds where none is named
    is_from_then_on: bool = False
    is_main_only: bool = False  # in the process that was typed, and in none that it has started

    @property
    def is_kill(self) -> bool:
        return self.mode.startswith("kill")

    @property
    def is_error_once(self) -> bool:
        """Whether it is over when the call is made again."""
        return (self.mode == "fail" or self.is_of_slurm) and not self.is_from_then_on

    @property
    def is_of_slurm(self) -> bool:
        """Whether it is SLURM that does not answer."""
        return self.mode in _OF_SLURM

    @property
    def is_of_reads(self) -> bool:
        """Whether it keeps something from being seen that is there."""
        return set(self.kinds) <= {"R", "S"}


FAULTS: Final[Mapping[str, Fault]] = {
    "kill": Fault("kill", "WP"),
    "kill-all": Fault("kill_all", "WP"),
    "kill-main": Fault("kill", "WP", is_main_only=True),
    "enospc-once": Fault("fail", "W", errno.ENOSPC, _SPACE),
    "enospc": Fault("fail", "W", errno.ENOSPC, _SPACE, is_from_then_on=True),
    "edquot": Fault("fail", "W", errno.EDQUOT, _SPACE, is_from_then_on=True),
    "short": Fault("short", "W", errno.ENOSPC, _SPACE),
    "eio-once": Fault("fail", "W", errno.EIO),
    "eio": Fault("fail", "W", errno.EIO, is_from_then_on=True),
    "estale-once": Fault("fail", "W", errno.ESTALE, _STALE),
    "estale": Fault("fail", "W", errno.ESTALE, _STALE, is_from_then_on=True),
    "erofs": Fault("fail", "W", errno.EROFS, is_from_then_on=True),
    "eacces": Fault("fail", "W", errno.EACCES, _NAMES, is_from_then_on=True),
    "eintr-once": Fault("fail", "WL", errno.EINTR, ("openw", "write", "fsync", "lock", "sendfile")),
    "close-once": Fault("fail", "W", errno.EDQUOT, ("close",)),
    "enolck": Fault("fail", "L", errno.ENOLCK, is_from_then_on=True),
    "read-eio-once": Fault("fail", "R", errno.EIO),
    "read-eio": Fault("fail", "R", errno.EIO, is_from_then_on=True),
    "read-estale-once": Fault("fail", "RS", errno.ESTALE),
    "read-estale": Fault("fail", "RS", errno.ESTALE, is_from_then_on=True),
    "fork-once": Fault("fail", "P", errno.EAGAIN, ("fork",)),
    "fork": Fault("fail", "P", errno.EAGAIN, ("fork",), is_from_then_on=True),
    "away-once": Fault("away", "C"),
    "away": Fault("away", "C", is_from_then_on=True),
    "late-once": Fault("late", "C"),
    "late": Fault("late", "C", is_from_then_on=True),
}
KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "kills": ("kill", "kill-all", "kill-main"),
    "full disks": ("enospc-once", "enospc", "edquot", "short"),
    "failing writes": (
        "eio-once",
        "eio",
        "estale-once",
        "estale",
        "erofs",
        "eacces",
        "eintr-once",
        "close-once",
        "enolck",
    ),
    "failing reads": ("read-eio-once", "read-eio", "read-estale-once", "read-estale"),
    "failing forks": ("fork-once", "fork"),
    "SLURM away": ("away-once", "away", "late-once", "late"),
}
EVERYTHING: Final = Fault("count", "WRSLP")
_NOTHING: Final = Fault("count", "")
_MODES: Final = ("count", "kill", "kill_all", "fail", "short")


class Event(NamedTuple):
    """One call that was counted."""

    process: int
    kind: str
    call: str
    path: str

    def can_meet(self, fault: Fault, main: int) -> bool:
        """Whether the fault counts this call."""
        is_there = not fault.is_main_only or self.process == main
        return is_there and self.kind in fault.kinds and (not fault.calls or self.call in fault.calls)


class Done(NamedTuple):
    """How a command ended; status None: not in time."""

    status: int | None
    out: str
    err: str
    fired: str | None = None  # the call and its path, where there was a fault
    left: int = 0  # processes that did not end by themselves


class NoCompiler(Exception):
    """The library cannot be made on this machine; the message is one sentence."""


def compiled(place: Path) -> Path:
    """The library that injects, made in a folder. Raises NoCompiler."""
    library = place / "inject.so"
    done = subprocess.run([HERE / "build.sh", library], capture_output=True, text=True, check=False)
    if done.returncode == 2:
        raise NoCompiler(done.stderr.strip())
    if done.returncode:
        raise RuntimeError(done.stderr)
    return library


class _Control(ctypes.Structure):
    """`struct control` of inject.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("counted", "fired", "at")),
        *(
            (name, ctypes.c_int32)
            for name in ("mode", "number", "from_then_on", "main_only", "armed", "main", "n_processes")
        ),
        ("processes", ctypes.c_int32 * _MOST_PROCESSES),
        ("kinds", ctypes.c_char * 16),
        ("calls", ctypes.c_char * 512),
        ("root", ctypes.c_char * 1024),
        ("log", ctypes.c_char * 1024),
        ("fired_call", ctypes.c_char * 32),
        ("fired_path", ctypes.c_char * 1024),
    )


Beside = subprocess.Popen[bytes] | None
"""What runs beside a command: see `Injector.begin`."""


class Injector:
    """Runs commands, one at a time, and counts the calls of theirs on files below `root`."""

    def __init__(self, library: Path, place: Path, root: Path) -> None:
        self._path, self._log, self.root = place / "control", place / "calls", root
        self._asked, self._of_slurm = place / "asked", ""  # what SLURM's commands were asked, one line each
        self._path.write_bytes(bytes(ctypes.sizeof(_Control)))
        with self._path.open("r+b") as file:
            self._control = _Control.from_buffer(mmap.mmap(file.fileno(), 0))
        self._env = {
            "LD_PRELOAD": str(library),
            "FAULTS_CONTROL": str(self._path),
            "FAULTS_ASKED": str(self._asked),
        }
        env = {**os.environ, **self._env, "PYTHONDONTWRITEBYTECODE": "1"}
        self._commands = CommandLine(str(HERE / "copied.py"), env)

    def look(self, words: Sequence[str], env: Mapping[str, str]) -> Done:
        """A command without faults, which starts no process."""
        done = self._commands.run(words, cwd=self.root, env={**env, **self._env}, timeout=COMMAND_S)
        return Done(done.returncode, done.stdout, done.stderr)

    def begin(self, words: Sequence[str], env: Mapping[str, str], out: int) -> "subprocess.Popen[bytes]":
        """A command that runs beside the next one; its calls count with those of that one, and from its first on. What
        it says goes there."""
        self._control.armed = 0
        whole, command = {**env, **self._env, "FAULTS_INSIDE": "1"}, [sys.executable, *words]
        return subprocess.Popen(command, cwd=self.root, env=whole, stdout=out, stderr=out, start_new_session=True)

    def counted(
        self, words: Sequence[str], env: Mapping[str, str], beside: Beside = None
    ) -> tuple[Done, list[Event], int]:
        """An undisturbed command, its calls in order, and the number of its first process."""
        self._log.unlink(missing_ok=True)
        done = self.run(words, env, EVERYTHING, log=self._log, beside=beside)
        return done, self._events(), self._control.main

    def _events(self) -> list[Event]:
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        found = sorted((int(line.split(" ", 1)[0]), line.split(" ", 4)[1:]) for line in lines)
        asked = [line.partition(" ")[::2] for line in self._lines_asked()]
        return [
            *(Event(int(event[0]), *event[1:]) for _, event in found),
            *(Event(0, "C", name, words) for name, words in asked),
        ]

    def _lines_asked(self) -> list[str]:
        return self._asked.read_text().splitlines() if self._asked.exists() else []

    def run(
        self,
        words: Sequence[str],
        env: Mapping[str, str],
        fault: Fault = _NOTHING,
        at: int = 0,
        *,
        log: Path | None = None,
        beside: Beside = None,
        is_awaited: bool = True,
    ) -> Done:
        """A command with the fault at that call, counted from 1; all of its processes have ended, if `is_awaited`, and
        where it ended well, what runs beside it."""
        earlier = self._arm(fault, at, log)
        whole = {**env, **self._env, "FAULTS_INSIDE": "1", "FAULTS_OF_SLURM": self._of_slurm}
        try:
            done = self._commands.run(words, cwd=self.root, env=whole, timeout=COMMAND_S)
        except TimeoutError:
            done = subprocess.CompletedProcess(words, -signal.SIGKILL, "", "")
            self._kill()
            return Done(None, "", "", self._fired())
        left = self._end_orphans(but=earlier if beside is not None else ()) if is_awaited else 0
        if beside is not None and done.returncode == 0:
            with contextlib.suppress(subprocess.TimeoutExpired):  # who asks sees that it runs
                beside.wait(BESIDE_S)
        if beside is not None and beside.poll() is not None:
            left += self._end_orphans()
        self._control.armed = 0
        return Done(done.returncode, done.stdout, done.stderr, self._fired(), left)

    def run_others(
        self,
        begin: Callable[[Mapping[str, str]], str],
        fault: Fault = _NOTHING,
        at: int = 0,
        *,
        log: Path | None = None,
    ) -> Done:
        """What a function starts in the environment that it is given, with a fault, as in `run`: it meets those
        processes, and not who starts them. The function returns what they have printed."""
        self._arm(fault, at, log)
        self._control.armed = 1
        try:
            said = begin({**self._env, "FAULTS_INSIDE": "1", "FAULTS_OF_SLURM": self._of_slurm})
        except subprocess.TimeoutExpired:
            self._kill()
            return Done(None, "", "", self._fired())
        left = self._end_orphans()
        self._control.armed = 0
        return Done(0, "", said, self._fired(), left)

    def counted_others(self, begin: Callable[[Mapping[str, str]], str]) -> tuple[Done, list[Event], int]:
        """As `counted`, of what a function starts."""
        self._log.unlink(missing_ok=True)
        return self.run_others(begin, EVERYTHING, log=self._log), self._events(), self._control.main

    def _fired(self) -> str | None:
        if self._of_slurm:
            at = int(self._of_slurm.split()[1])
            return next(iter(self._lines_asked()[at - 1 : at]), None)
        call, path = self._control.fired_call.decode(), self._control.fired_path.decode(errors="replace")
        return f"{call} {path.replace(str(self.root), '')}" if self._control.fired else None

    def _arm(self, fault: Fault, at: int, log: Path | None) -> Sequence[int]:
        """Everything begins anew, but for the processes that live still, which are returned."""
        earlier = self._living()
        ctypes.memset(ctypes.addressof(self._control), 0, ctypes.sizeof(_Control))
        control = self._control
        self._asked.unlink(missing_ok=True)
        self._of_slurm = f"{fault.mode} {at} {fault.is_from_then_on:d}" if fault.is_of_slurm else ""
        mode = "count" if self._of_slurm else fault.mode
        control.at, control.mode, control.number = at, _MODES.index(mode), fault.number
        control.from_then_on, control.main_only = fault.is_from_then_on, fault.is_main_only
        control.kinds = fault.kinds.encode()
        control.calls = f",{','.join(fault.calls)},".encode() if fault.calls else b""
        control.root, control.log = os.fsencode(self.root), os.fsencode(log or "")
        control.processes[: len(earlier)], control.n_processes = earlier, len(earlier)
        return earlier

    def _living(self) -> list[int]:
        """The processes of the last command that have not ended."""
        numbers = self._control.processes[: min(self._control.n_processes, _MOST_PROCESSES)]
        return [number for number in set(numbers) if number and self._is_ours(number)]

    def _is_ours(self, number: int) -> bool:
        try:
            environment = Path(f"/proc/{number}/environ").read_bytes()
        except OSError:
            return False
        return f"FAULTS_CONTROL={self._path}".encode() in environment

    def end(self) -> None:
        """No process of ours is left."""
        self._commands.end()
        self._kill()

    def end_orphans(self) -> int:
        """What a command has left running has ended; returns how many did not do so by themselves."""
        left = self._end_orphans()
        self._control.armed = 0
        return left

    def kill_left(self) -> None:
        """What a command, or what ran beside it, has left running is killed: the next one begins in the same place."""
        self._kill()
        self._control.armed = 0

    def _end_orphans(self, but: Collection[int] = ()) -> int:
        deadline = time.monotonic() + ORPHANS_S
        while (left := set(self._living()).difference(but)) and time.monotonic() < deadline:
            time.sleep(0.02)
        self._kill(left)
        return len(left)

    def _kill(self, numbers: Collection[int] | None = None) -> None:
        for number in self._living() if numbers is None else numbers:
            with contextlib.suppress(OSError):
                os.kill(number, signal.SIGKILL)
