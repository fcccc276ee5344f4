"""A worker that has imported the libraries of its jobs, and forks each job from itself: both ends of it.

The task itself stays a small process, `run`, which imports nothing: it passes signals on, and where no job may be a
copy of the other one, or where that has died, it is the worker itself. The other one, `main`, is an interpreter as the
jobs have it. Its lanes supervise as those of any worker do; only how a job begins is different.
"""

import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NoReturn

from experiment_manager.errors import ExperimentManagerError
from experiment_manager.execution.child import BecomesJob, Child
from experiment_manager.execution.forkserver import job as forked
from experiment_manager.execution.forkserver.client import Talk, plan_of, started
from experiment_manager.execution.forkserver.job import Ready
from experiment_manager.execution.forkserver.program import Unforkable, program_of
from experiment_manager.execution.forkserver.server import plan_from, prepared
from experiment_manager.execution.run import run_lanes
from experiment_manager.execution.signals import STOPS, Heard, block, hear_interrupts, name_of
from experiment_manager.execution.supervisor import Outcome, Start
from experiment_manager.execution.worker import Worker
from experiment_manager.store import processes
from experiment_manager.store.layout import Folder
from experiment_manager.text import settle, tell, tell_once, tell_traceback

_MODULE: Final = __name__


def run(worker: Worker) -> Outcome:
    """The jobs have run, forked where they can be. Those that are left when none can be forked, or none any more, are
    started from here, each in an interpreter of its own, and that is said."""
    try:
        return _run_forked(worker)
    except (Unforkable, ExperimentManagerError) as why:
        tell(f"every job starts its own interpreter, as with start_method=spawn: {why}")
    return run_lanes(worker)


def _run_forked(worker: Worker) -> Outcome:
    """Raises Unforkable when jobs may be left that are to be started otherwise."""
    if not os.path.isdir("/proc/self/task"):
        raise Unforkable("this system does not tell what its threads are")
    program = program_of(worker.folder, worker.first_job, worker.launch)
    heard = Heard()
    try:
        process, talk = started(_MODULE, program, None, _dying_with_us())
        talk.send({**plan_of(program), "worker": worker.place})
    except OSError as error:
        raise Unforkable(f"no process to fork them from could be started: {error.strerror or error}") from None
    said = _listened(process.pid, talk, heard)
    os.killpg(process.pid, signal.SIGKILL)  # its lanes, where it has died before them
    status = process.wait()
    talk.end.close()
    if "status" in said:
        return Outcome(**{name: said[name] for name in Outcome._fields})
    block()  # until lanes hear for themselves
    if heard.was_stopped or -status in STOPS:  # a scheduler may tell all processes of a task, in any order
        return Outcome(0)
    ended = name_of(-status) if status < 0 else f"exit code {status}"
    raise Unforkable(said.get("why_not") or f"the process that forks them has ended ({ended})")


def _listened(pid: int, talk: Talk, heard: Heard) -> dict[str, Any]:
    """What our child has said until its end; it has got the signals that we heard, or was ended before it was ready."""
    said, has_ended = dict[str, Any](), False
    waiting = list[signal.Signals]()  # for a process that imports, and hears nothing yet
    while not has_ended:
        has_ended = _has_ended(pid)  # before it is listened to: what it has said has arrived
        handles = [heard.handles[0], *([] if talk.has_ended else [talk.end.fileno()])]
        if talk.end.fileno() in select.select(handles, [], [], 0 if has_ended else None)[0]:
            for message in talk.receive():
                said |= message
        waiting += heard.wait(0)
        if said.get("ready"):
            for number in waiting:
                os.kill(pid, number)
            waiting.clear()
        elif heard.was_stopped:
            os.kill(pid, signal.SIGKILL)  # it has taken no job
    return said


def _dying_with_us() -> Callable[[], None]:
    dying = processes.dying_with_us()

    def prepare() -> None:
        dying()
        hear_interrupts()

    return prepare


def _has_ended(pid: int) -> bool:
    """Whether our child has ended, which keeps its pid."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def main() -> None:
    """Is the worker. Returns only as the program of a job, when that has ended."""
    talk = Talk(socket.socket(fileno=int(sys.argv[1])))
    plan = plan_from(talk)
    ready, why_not = prepared(plan)
    block()  # until lanes hear for themselves
    try:
        talk.send({"ready": why_not is None, "why_not": why_not})
        if why_not is not None:
            os._exit(0)
        outcome = run_lanes(Worker(*_place(plan["worker"]), beginning=partial(_beginning, ready)))
        talk.send(outcome._asdict())
    except BecomesJob as job:
        talk.end.close()
        becomes = job
        becomes.__traceback__ = None
    except BaseException:
        _end_badly(talk)
    else:
        settle()
        os._exit(0)
    forked.become(becomes)


def _place(place: list[Any]) -> tuple[Folder, str, str, int]:
    path, launch, array, index = place
    return Folder.at(path), launch, array, index


def _end_badly(talk: Talk) -> NoReturn:
    tell_traceback()
    try:
        talk.send(Outcome(1)._asdict())
    finally:
        settle()
        os._exit(1)


def _beginning(ready: Ready, heard: Heard) -> Start:
    """How a lane, which hears its signals by this, has a job begun."""

    def begin(child: Child, attempt: int) -> int:
        if (why_not := ready.why_not(child)) is not None:
            tell_once(f"job {child.job_id}, as others like it, starts its own interpreter: {why_not}", why_not)
        elif ready.foresee is not None:
            ready.foresee(ready.arguments_of(child))
        return forked.begin(child, attempt, ready, heard.handles)

    return begin
