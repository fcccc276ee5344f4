"""The pool's end of a fork server: it has jobs forked from a process that has imported their libraries already.

`server` is the other end. It never runs the program itself, and when it cannot be used it says why: then, as when it
dies, jobs are started as commands.
"""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from experiment_manager.execution.forkserver import sharing
from experiment_manager.execution.forkserver.program import Program, Unforkable, program_of
from experiment_manager.execution.signals import hear_interrupts
from experiment_manager.model.records import Launch
from experiment_manager.store import processes
from experiment_manager.store.files import log_file
from experiment_manager.store.layout import Folder

CHUNK: Final = 65536
_MODULE: Final = "experiment_manager.execution.forkserver.server"
_FIRST: Final = "import sys; sys.flags.safe_path or sys.path.pop(0); from {} import main; main()"
_END_LIMIT_S: Final = 2.0


class Talk:
    """A socket over which lines of JSON go."""

    def __init__(self, end: socket.socket) -> None:
        self.end, self._rest, self.has_ended = end, b"", False

    def send(self, message: Mapping[str, Any]) -> None:
        """Raises OSError when nobody listens."""
        self.end.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]]:
        """What has come; waits for something. `has_ended` tells that nothing comes any more."""
        try:
            data = self.end.recv(CHUNK)
        except ConnectionError:  # it died before it had read all
            data = b""
        self.has_ended = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]


def started(
    module: str, program: Program, out: int | None, prepare: Callable[[], None]
) -> "tuple[subprocess.Popen[bytes], Talk]":
    """An interpreter as the jobs have it, in a session of its own, which calls `main` of a module; and the way to talk
    to it. `out` gets what it prints; None: our own output. Raises OSError."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [*program.command, "-c", _FIRST.format(module), str(theirs.fileno())],
            cwd=program.entry.cwd,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **program.variables},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            preexec_fn=prepare,
        )
    return process, Talk(ours)


def plan_of(program: Program) -> dict[str, Any]:
    """What such an interpreter has to know of the program."""
    entry = program.entry
    about = {"command": program.command, "target": entry.target, "cwd": entry.cwd}
    return {**about, "arguments": program.example, "warm_up": program.warm_up, "frozen": program.frozen}


class ForkedTask:
    """A supervisor that the server forks; to be used as a `Popen`."""

    def __init__(self, server: "ForkServer", job_id: int) -> None:
        self._server, self._job_id = server, job_id
        self.process: Mapping[str, Any] = {}
        self.returncode: int | None = None
        self.trouble: int | None = None
        """The error number, when it could not be forked."""

    @property
    def pid(self) -> int | None:
        """None until it has told that it is there."""
        return self.process.get("pid")

    @property
    def was_never_begun(self) -> bool:
        """The server has died before it came to this."""
        return self._server.has_ended and self.pid is None and self.trouble is None

    def poll(self) -> int | None:
        """The exit status, None while it runs; that of one whose server has died is not known, and told as KILL."""
        self._server.listen(0)
        if self.returncode is None and self._server.has_ended and processes.is_gone(self.process) is not False:
            self.returncode = -signal.SIGKILL
        return self.returncode

    def wait(self) -> int:
        """The exit status, when it has ended."""
        while self.poll() is None:
            self._server.listen(0.02)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """It gets a signal if it still runs; where it has not told its pid yet, by way of the server."""
        if self.poll() is None and self.pid is not None and processes.tell(self.process, number):
            return
        if self.returncode is None:
            self._server.send({"job": self._job_id, "signal": int(number)})


class ForkServer:
    """Has the jobs of all launches of this process forked, by one process that is started when it is worth it."""

    def __init__(self) -> None:
        self._launches = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._talk: Talk | None = None
        self._log = ""
        self._tasks: dict[int, ForkedTask] = {}
        self._is_ready = False
        self._why_not: str | None = None
        self._is_told = False

    @staticmethod
    def can_run(folder: Folder, job_id: int) -> bool:
        """Whether a job has a program that can be forked at all: a script or a module, and no notebook."""
        try:
            program_of(folder, job_id)
        except Unforkable:
            return False
        return os.path.isdir("/proc/self/task")

    def prepare(self, folder: Folder, launch: Launch, ids: Sequence[int]) -> None:
        """There is a process to fork from if there are jobs for it: two, or, after an earlier launch, any."""
        self._launches += 1
        if self._talk is not None or self._why_not is not None or len(ids) + self._launches <= 2:
            return
        try:
            self._start(program_of(folder, ids[0]), folder.join("launches", launch.number, "forkserver.log"))
            atexit.register(self.close)
        except Unforkable:
            return
        except OSError as error:
            self._why_not = f"no process to fork them from could be started: {error}"

    def _start(self, program: Program, log: str) -> None:
        """The process imports what the jobs will need, which this one has imported. Raises OSError."""
        own = sharing.own_packages(program.entry.target)
        with log_file(log) as out:
            self._process, self._talk = started(_MODULE, program, out, hear_interrupts)
        self._log = log
        self.send({**plan_of(program), "modules": sharing.libraries(sys.modules, own), "own": sorted(own)})

    def news(self) -> str | None:
        """Why jobs cannot be forked, the first time that this is asked after it is known."""
        self.listen(0)
        why_not, self._is_told = None if self._is_told else self._why_not, self._why_not is not None
        return why_not

    @property
    def is_importing(self) -> bool:
        """It is not known yet whether jobs can be forked."""
        return self._why_not is None and self._talk is not None and not self._is_ready

    @property
    def is_ready(self) -> bool:
        """Jobs can be forked."""
        return self._why_not is None and self._is_ready

    @property
    def has_ended(self) -> bool:
        """Nothing is heard of the process, any more or at all."""
        return self._talk is None or self._talk.has_ended

    def begin(self, job_id: int, *, folder: str, launch: str, log: str, variables: Mapping[str, str]) -> ForkedTask:
        """The supervisor of a job is being forked; `variables` are of its environment."""
        task = self._tasks[job_id] = ForkedTask(self, job_id)
        self.send({"job": job_id, "folder": folder, "launch": launch, "log": log, "variables": dict(variables)})
        return task

    @staticmethod
    def is_to_begin_again(task: object) -> bool:
        """Whether a task has ended because the process that was to fork it had died before it came to it."""
        return isinstance(task, ForkedTask) and task.was_never_begun

    @staticmethod
    def trouble(task: object) -> int | None:
        """The error number, when a task could not be forked."""
        return task.trouble if isinstance(task, ForkedTask) else None

    def send(self, message: Mapping[str, Any]) -> None:
        """The process is told, if it lives: else `listen` will find that nothing comes any more."""
        assert self._talk is not None
        with suppress(OSError):
            self._talk.send(message)

    def listen(self, seconds: float) -> bool:
        """What the process and its supervisors have to say is known; returns as soon as they have said something.
        False, at once, when there is none that could."""
        if self._talk is None or self._talk.has_ended:
            return False
        waiting = select.poll()  # where `select` knows no handles above 1023
        waiting.register(self._talk.end, select.POLLIN)
        while not self._talk.has_ended and waiting.poll(1000 * seconds):
            for message in self._talk.receive():
                self._hear(message)
            if self._talk.has_ended and self._why_not is None:
                self._why_not = "the process that forks them has ended"
            seconds = 0
        return True

    def _hear(self, message: Mapping[str, Any]) -> None:
        if "ready" in message:
            self._is_ready, self._why_not = message["ready"], message["why_not"]
            return
        task = self._tasks[message["job"]]
        if "process" in message:
            task.process = message["process"]
        elif "error" in message:
            task.trouble = task.returncode = message["error"]
        else:
            task.process = task.process or {"pid": message["pid"]}
            task.returncode = message["returncode"]

    def close(self) -> None:
        """The process has ended; supervisors that still run go on."""
        assert self._talk is not None
        assert self._process is not None
        self._talk.end.close()
        if not self._is_ready:
            self._process.kill()  # it imports, and looks at nothing else
        try:
            self._process.wait(_END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with suppress(OSError):  # the folder of the experiment may be gone
            if not os.path.getsize(self._log):
                os.unlink(self._log)
