"""The pool's end of a fork server: jobs that begin as copies of a process which has imported their libraries already.

`forkserver` is the other end. It never runs the program itself, and when it cannot be used it says why: then, as when
it dies, jobs are started as commands.
"""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from experiment_manager.execution.command import entry_of, job_command, variables_of
from experiment_manager.execution.forkserver import learning, program
from experiment_manager.model.records import Entry, Launch
from experiment_manager.store import processes
from experiment_manager.store.files import log_file
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest

CHUNK: Final = 65536
_MODULE: Final = "experiment_manager.execution.forkserver.server"
_FIRST: Final = f"import sys; sys.flags.safe_path or sys.path.pop(0); from {_MODULE} import main; main()"
_END_LIMIT_S: Final = 2.0
_NEVER: Final = ("__main__", "__mp_main__", "experiment_manager", "hydra_plugins")  # Hydra executes plugins itself


class Program(NamedTuple):
    """What jobs have in common, and the arguments that one of them has, after those of `entry`."""

    entry: Entry
    example: list[str]
    variables: Mapping[str, str]  # of the environment


def program_of(folder: Folder, job_id: int) -> Program | None:
    """What runs a job; None for a job that cannot be forked, whose program is no plain script or module of ours."""
    with Manifest(folder) as manifest:
        point = manifest.job(job_id)
        recipe = manifest.recipe(point.recipe) if point.recipe is not None else None
    if recipe is None or recipe.task_pickle or recipe.entry.python != sys.executable:
        return None
    entry = entry_of(folder, recipe)
    if not program.is_plain(entry.target, entry.cwd):
        return None
    words = 1 + len(entry.flags) + len(entry.target)
    return Program(entry, job_command(folder, point, recipe)[words:], variables_of(folder, recipe, os.environ))


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


class WarmTask:
    """A supervisor that the server has forked; to be used as a `Popen`."""

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
    """One server, for the jobs of one program."""

    def __init__(self, runs: Program, log: str, warm_up: str | None) -> None:
        """Raises OSError when it cannot be started. `warm_up` names a function, as `module:function`, to be called in
        it with the arguments of the example."""
        entry = runs.entry
        ours, theirs = socket.socketpair()
        self._talk, self._log = Talk(ours), log
        self._tasks: dict[int, WarmTask] = {}
        self.is_ready = False
        self.why_not: str | None = None
        """Why jobs cannot be forked, in words."""
        command = (sys.executable, *entry.flags)
        with theirs, log_file(log) as out:
            self._process = subprocess.Popen(
                [*command, "-c", _FIRST, str(theirs.fileno())],
                cwd=entry.cwd,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **runs.variables},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                preexec_fn=hear_interrupts,
            )
        self.send(
            {
                "command": command,
                "target": entry.target,
                "cwd": entry.cwd,
                "modules": _imported(entry),
                "warm_up": warm_up,
                "example": runs.example,
                "lesson": f"{log}.lesson",
            }
        )

    @property
    def has_ended(self) -> bool:
        """Nothing is heard of it any more."""
        return self._talk.has_ended

    def send(self, message: Mapping[str, Any]) -> None:
        with suppress(OSError):  # it has died: `listen` will find that nothing comes any more
            self._talk.send(message)

    def listen(self, seconds: float) -> None:
        """What the server and its supervisors have to say is known; returns as soon as they have said something."""
        waiting = select.poll()  # where `select` knows no handles above 1023
        waiting.register(self._talk.end, select.POLLIN)
        while not self.has_ended and waiting.poll(1000 * seconds):
            for message in self._talk.receive():
                self._hear(message)
            if self.has_ended and self.why_not is None:
                self.why_not = "the process that forks them has ended"
            seconds = 0

    def _hear(self, message: Mapping[str, Any]) -> None:
        if "ready" in message:
            self.is_ready, self.why_not = message["ready"], message["why_not"]
            return
        task = self._tasks[message["job"]]
        if "process" in message:
            task.process = message["process"]
        elif "error" in message:
            task.trouble = task.returncode = message["error"]
        else:
            task.process = task.process or {"pid": message["pid"]}
            task.returncode = message["returncode"]

    def begin(self, job_id: int, *, folder: str, launch: str, log: str, variables: Mapping[str, str]) -> WarmTask:
        """The server is told to fork the supervisor of a job; `variables` are of its environment."""
        task = self._tasks[job_id] = WarmTask(self, job_id)
        self.send({"job": job_id, "folder": folder, "launch": launch, "log": log, "variables": dict(variables)})
        return task

    def close(self) -> None:
        """The server has ended; supervisors that still run go on."""
        self._talk.end.close()
        if not self.is_ready:
            self._process.kill()  # it imports, and looks at nothing else
        try:
            self._process.wait(_END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with suppress(OSError):  # the folder of the experiment may be gone
            learning.taken(f"{self._log}.lesson")  # nobody learns it any more
            if not os.path.getsize(self._log):
                os.unlink(self._log)


class Forking:
    """How the launches of this process have their jobs forked: by one server, started when it is worth it, for all."""

    def __init__(self, warm_up: str | None = None) -> None:
        """`warm_up` as in ForkServer."""
        self._warm_up, self._launches = warm_up, 0
        self._server: ForkServer | None = None
        self._why_not: str | None = None
        self._is_told = False

    def prepare(self, folder: Folder, launch: Launch, ids: Sequence[int]) -> None:
        """There is a server if there are jobs for it: more than one, or, after an earlier launch, any."""
        self._launches += 1
        if self._server is not None or self._why_not is not None or len(ids) + self._launches <= 2:
            return
        runs = program_of(folder, ids[0])
        if runs is None:
            return
        try:
            self._server = ForkServer(runs, folder.join("launches", launch.number, "forkserver.log"), self._warm_up)
            atexit.register(self._server.close)
        except OSError as error:
            self._why_not = f"no process to fork them from could be started: {error}"

    def news(self) -> str | None:
        """Why jobs cannot be forked, the first time that this is asked after it is known."""
        if self._server is not None:
            self.listen(0)
            self._why_not = self._why_not or self._server.why_not
        why_not, self._is_told = None if self._is_told else self._why_not, self._why_not is not None
        return why_not

    def listen(self, seconds: float) -> None:
        """As ForkServer.listen."""
        assert self._server is not None
        self._server.listen(seconds)

    @property
    def is_there(self) -> bool:
        """A server may have something to say."""
        return self._server is not None and not self._server.has_ended

    @property
    def is_importing(self) -> bool:
        """It is not known yet whether jobs can be forked."""
        return self._why_not is None and self._server is not None and not self._server.is_ready

    @property
    def is_ready(self) -> bool:
        """Jobs can be forked."""
        return self._why_not is None and self._server is not None and self._server.is_ready

    def begin(self, job_id: int, *, folder: str, launch: str, log: str, variables: Mapping[str, str]) -> WarmTask:
        """The supervisor of a job is being forked, as `ForkServer.begin` has it."""
        assert self._server is not None
        return self._server.begin(job_id, folder=folder, launch=launch, log=log, variables=variables)


def _imported(entry: Entry) -> list[str]:
    """What this process has imported, in that order; not the program itself, and what we need for planning."""
    return [
        name
        for name, module in list(sys.modules.items())
        if getattr(module, "__spec__", None) is not None
        and name.partition(".")[0] not in _NEVER
        and name != entry.target[-1]
    ]


def hear_interrupts() -> None:
    """Runs in a supervisor's process before it starts: a shell's `&` has INT ignored, by which we tell it to end."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
