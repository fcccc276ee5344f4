"""The process that jobs are forked from: it has imported once the libraries that every job would import again.

It is started by `client`, which is the pool's end of it. It forks a supervisor for each job, and the supervisor forks
the job. The program is never run in the server itself, and there is only one thread.
"""

import gc
import importlib
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

from experiment_manager.execution.child import BecomesJob, prepare
from experiment_manager.execution.forkserver import job as forked
from experiment_manager.execution.forkserver.client import CHUNK, Talk
from experiment_manager.execution.forkserver.job import Ready
from experiment_manager.execution.forkserver.program import Import, imports_of, name_of
from experiment_manager.execution.forkserver.sharing import Arguments, Imports, own_packages, unseeded_generators
from experiment_manager.execution.run import run_or_refuse
from experiment_manager.execution.signals import Heard, block, unblock
from experiment_manager.execution.supervisor import load, supervise
from experiment_manager.scheduler import schedulers
from experiment_manager.store import processes
from experiment_manager.store.files import appending
from experiment_manager.store.layout import Folder
from experiment_manager.text import flush, tell_traceback


def main() -> None:
    """Serves one pool. Returns only as the program of a job, when that has ended."""
    talk = Talk(socket.socket(fileno=int(sys.argv[1])))
    server = _Server(talk, plan_from(talk))
    try:
        server.serve()
    except BecomesJob as job:
        becomes = job
        becomes.__traceback__ = None
    forked.become(becomes)


def plan_from(talk: Talk) -> dict[str, Any]:
    """What whoever has started this process wants of it; ends the process where nobody does any more."""
    plan: dict[str, Any] = {}
    talk.end.set_inheritable(False)
    while not plan and not talk.has_ended:
        plan = next(iter(talk.receive()), plan)
    if not plan:
        os._exit(0)
    return plan


def prepared(plan: Mapping[str, Any]) -> tuple[Ready, str | None]:
    """What this process is ready to run, whose libraries have been imported; and why no job may be a copy of it."""
    forked.leave_shared_last()
    if not sys.flags.safe_path:
        sys.path.insert(0, forked.first_on_path(plan["target"]))
    words = [name_of(plan["target"]), *plan["arguments"]]
    arguments = sys.argv = Arguments(words)  # libraries see the command line of a job
    sys.orig_argv[:] = [*plan["command"], *plan["target"], *plan["arguments"]]
    own = frozenset(plan["own"] if "own" in plan else own_packages(plan["target"]))
    modules = [Import(name) for name in plan["modules"]] if "modules" in plan else imports_of(plan["target"], own)
    foresee = None
    with Imports(own) as imports:
        _import(modules)
        if plan["warm_up"]:
            where, _, function = plan["warm_up"].partition(":")
            foresee = getattr(importlib.import_module(where), function)(plan["arguments"], plan["frozen"])
        processes.dying_with_us()  # it imports what every supervisor needs
        load(schedulers.current_built_in())
    why_not = imports.trouble(arguments)
    runs = tuple(plan["command"]), tuple(plan["target"]), plan["cwd"]
    ready = Ready(*runs, forked.handlers(), unseeded_generators(), foresee)
    sys.argv = words
    forked.share_modules()
    gc.freeze()  # the garbage collector of a job would otherwise write to, and so copy, all of it
    return ready, why_not


def _import(modules: Sequence[Import]) -> None:
    """The modules are imported that can be: what fails here, fails in the job where it is needed, and is told there."""
    for name, offered in modules:
        with suppress(Exception, SystemExit):
            if offered or name not in sys.modules:
                __import__(name, fromlist=offered)


class _Server:
    def __init__(self, talk: Talk, plan: Mapping[str, Any]) -> None:
        """The modules are imported, and the pool is told whether it may send jobs; ends the process if not."""
        self._talk = talk
        self._jobs: dict[int, int] = {}  # supervisors that run: their pids, and what they run
        self._ready, why_not = prepared(plan)
        self._tell({"ready": why_not is None, "why_not": why_not})
        if why_not is not None:
            os._exit(0)
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> NoReturn:
        """Ends the process when the pool has gone. In the process of a job this raises BecomesJob."""
        talk = self._talk.end.fileno()
        while True:
            heard = select.select([talk, self._woken], [], [])[0]
            if self._woken in heard:
                os.read(self._woken, CHUNK)
                self._reap()
            if talk not in heard:
                continue
            for message in self._talk.receive():
                if "signal" in message:
                    self._signal(message["job"], message["signal"])
                else:
                    self._start(message)
            if self._talk.has_ended:
                os._exit(0)

    def _reap(self) -> None:
        while self._jobs:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            self._tell({"job": self._jobs.pop(pid), "pid": pid, "returncode": os.waitstatus_to_exitcode(status)})

    def _tell(self, message: Mapping[str, Any]) -> None:
        try:
            self._talk.send(message)
        except OSError:  # the pool has gone; its jobs run on
            os._exit(0)

    def _signal(self, job_id: int, number: int) -> None:
        for pid, running in self._jobs.items():  # not reaped yet, so the pid is ours
            if running == job_id:
                os.kill(pid, number)

    def _start(self, message: Mapping[str, Any]) -> None:
        flush()
        try:
            log = appending(message["log"])
            block()  # a supervisor hears everything from its first moment on
            pid = os.fork()
        except OSError as error:
            unblock()
            self._tell({"job": message["job"], "error": error.errno})
            return
        if not pid:
            self._supervise(message, log)
        os.close(log)
        unblock()
        self._jobs[pid] = message["job"]

    def _supervise(self, message: Mapping[str, Any], log: int) -> NoReturn:
        """Runs one job under its supervisor, which is this process; in the process of the job raises BecomesJob."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            os.setsid()
            os.environ.update(message["variables"])
            for handle in (1, 2):
                os.dup2(log, handle)
            for handle in (log, self._woken, self._wake):
                os.close(handle)
            heard = Heard()
            self._talk.send({"job": message["job"], "process": processes.this_process()})
            self._talk.end.close()
            begin = partial(forked.begin, ready=self._ready, handles=heard.handles)
            run = partial(supervise, heard=heard, begin=begin)
            status = run_or_refuse(_prepared(message), run).status
        except BecomesJob:
            raise
        except BaseException:  # nothing else may leave this process: it is a copy of the server
            tell_traceback()
        flush()
        os._exit(status)


def _prepared(message: Mapping[str, Any]) -> Callable[[], Any]:
    folder = Folder.at(message["folder"])
    return lambda: prepare(folder, message["job"], launch=message["launch"], is_fake=False)
