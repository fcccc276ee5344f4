"""Runs one job as a child process, and records what became of it: the one entry for local runs and SLURM tasks.

    python -m experiment_manager run --experiment-path P --experiment-name N --job-id 7

It claims an attempt, starts the job in its own session with its output going straight to `jobs/7/`, passes signals on,
records how the child ended, and exits with the child's status. It imports neither Hydra nor the libraries of the
command line: every task of a sweep pays for what is imported here.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from experiment_manager import command, job
from experiment_manager.decisions import DRIFTED, Ending, ended_state, exit_status
from experiment_manager.errors import JobRefused
from experiment_manager.files import read_optional
from experiment_manager.folder import Folder, writing
from experiment_manager.launches import planned_attempt, read_launch
from experiment_manager.manifest import Manifest
from experiment_manager.records import Job, Recipe, State
from experiment_manager.selection import read_selection
from experiment_manager.states import States

OWNERSHIP_POLL_S: Final = 10.0
KILL_AFTER_S: Final = 20.0
"""A child that ignores TERM is killed after this time, before SLURM (KillWait, 30 s by default) kills us all."""

STRAGGLERS_S: Final = 2.0
"""How long processes that the job has left behind may take to end."""

FENCED: Final = 75
"""Exit status when somebody else has ended our attempt: nothing was published (EX_TEMPFAIL of sysexits.h)."""

_WARNINGS: Final = frozenset({signal.SIGUSR1, signal.SIGUSR2})
_STOPS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_PR_SET_PDEATHSIG: Final = 1


class Task(NamedTuple):
    """What to run: the arguments of the child, where, and under which launch."""

    folder: Folder
    job_id: int
    arguments: list[str]
    cwd: str
    launch: str | None
    planned: int | None  # the number of the job's first attempt in that launch
    is_fake: bool
    needs_result: bool  # a runner that does not run the job has done nothing


def prepare(folder: Folder, job_id: int, *, launch: str | None, is_fake: bool, runner: str | None) -> Task:
    """The task for a job that may run. Raises JobRefused, UnknownJob, FilterError; nothing is written."""
    with Manifest(folder) as manifest:
        point = manifest.job(job_id)
        recipe = manifest.recipe(point.recipe) if point.recipe is not None else None
    planned = None
    if launch is not None:
        planned = planned_attempt(read_launch(folder, launch), job_id)
        if planned is None:
            raise JobRefused(f"job {job_id} is not among the jobs of launch {launch} in {folder.path}")
    elif job_id not in read_selection(folder):
        raise JobRefused(outside_filter(job_id, folder))
    arguments, cwd = _child(folder, point, recipe, is_fake=is_fake, runner=runner)
    return Task(folder, job_id, arguments, cwd, launch, planned, is_fake, runner is not None)


def _child(
    folder: Folder, point: Job, recipe: Recipe | None, *, is_fake: bool, runner: str | None
) -> tuple[list[str], str]:
    """The arguments of the child and its working directory. Raises JobRefused when nothing can run the job."""
    where = f"job {point.id} of {folder.path}"
    if runner is not None and recipe is not None:
        raise JobRefused(f"{where} is a job of a sweep and has a command of its own; leave --runner out")
    if runner is not None and not os.path.isfile(runner):
        raise JobRefused(f"the runner {runner} is not there; name a script that calls Experiment.run_id")
    if point.fingerprint is None:
        raise JobRefused(
            f"{where} has no configuration yet: no sweep's filter has let it pass; sweep again with one that it passes"
        )
    if is_fake:
        return [sys.executable, "-m", "experiment_manager.fake_job"], os.getcwd()
    if recipe is not None:
        return command.job_command(folder, point, recipe), recipe.entry.cwd
    if runner is not None:
        return command.runner_command(folder, point, runner), os.getcwd()
    raise JobRefused(f"{where} was written in Python: name the script that runs it with --runner runner.py")


def outside_filter(job_id: int, folder: Folder) -> str:
    """The sentence for a job that was not selected."""
    from experiment_manager.ids import format_ids

    return (
        f"job {job_id} is outside the pass filter of {folder.path}, which lets pass "
        f"{format_ids(read_selection(folder))}; change the filter with save_pass_filter or `experiment-manager filter`"
    )


def supervise(task: Task) -> int:
    """Runs the job to its end; returns the exit status to leave with. Raises JobRefused when another attempt runs."""
    signals = _Signals()  # first of all: until then a signal would end us without a trace
    states = States(task.folder)
    with writing(task.folder.path):
        os.makedirs(task.folder.job(task.job_id), exist_ok=True)
        number = states.claim(task.job_id, {"launch": task.launch, **_slurm_ids()}, planned=task.planned)
    supervision = _Supervision(task, states, number, signals)
    if task.launch is not None:
        return supervision.run()
    log = task.folder.of_attempt(task.job_id, number, "stdout")  # somebody has typed this and looks at it
    if not task.is_fake:
        print(f"job {task.job_id} attempt {number}: its output goes to {log}", file=sys.stderr, flush=True)
    status = supervision.run()
    if task.is_fake:
        with open(log, encoding="utf-8", errors="replace") as file:
            print(file.read(), end="", flush=True)
    reason = f": {supervision.reason}" if supervision.reason else ""
    state = states.state(task.job_id, number)
    print(f"job {task.job_id} attempt {number}: {state}{reason}", file=sys.stderr, flush=True)
    return status


def _slurm_ids() -> dict[str, str]:
    names = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "SLURMD_NODENAME")
    return {name.lower(): os.environ[name] for name in names if name in os.environ}


class _Signals:
    """Every signal we care about ends up in a pipe, so that waiting for one and for time is one `select`."""

    def __init__(self) -> None:
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in _WARNINGS | _STOPS | {signal.SIGCHLD}:
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays nohup
                signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # a shell starts background children with QUIT ignored

    def wait(self, seconds: float) -> list[signal.Signals]:
        """The signals that came within that time, SIGCHLD left out; returns as soon as one came."""
        if not select.select([self._read], [], [], max(0.0, seconds))[0]:
            return []
        return [signal.Signals(number) for number in os.read(self._read, 4096) if number != signal.SIGCHLD]


class _Supervision:
    """One child from its start to its record."""

    def __init__(self, task: Task, states: States, number: int, signals: _Signals) -> None:
        self._task, self._states, self._number, self._signals = task, states, number, signals
        self._stopped: State | None = None
        self._warned = False
        self._fenced = False
        self._kill_at: float | None = None
        self._oom_kills = oom_kills()
        self._pid = 0
        self.reason: str | None = None

    def run(self) -> int:
        started = time.time()
        try:
            self._pid = self._start()
        except OSError as error:
            return self._record_unstarted(error, started)
        status, usage = self._wait()
        self._end_stragglers()
        return self._record(os.waitstatus_to_exitcode(status), usage, started)

    def _start(self) -> int:
        task = self._task
        env = {**os.environ, **job.environment(task.folder, task.job_id, self._number), "PYTHONUNBUFFERED": "1"}
        with open(self._file("stdout"), "ab") as out, open(self._file("stderr"), "ab") as err:
            child = subprocess.Popen(
                task.arguments,
                cwd=task.cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=_die_with_parent(os.getpid()),
            )
        child.returncode = 0  # we reap it ourselves, with wait4, for its memory and time
        return child.pid

    def _file(self, kind: str) -> str:
        return self._task.folder.of_attempt(self._task.job_id, self._number, kind)

    def _wait(self) -> tuple[int, Any]:
        poll_at = time.monotonic() + OWNERSHIP_POLL_S
        while True:
            pid, status, usage = os.wait4(self._pid, os.WNOHANG)
            if pid:
                return status, usage
            for number in self._signals.wait(min(poll_at, self._kill_at or poll_at) - time.monotonic()):
                self._pass_on(number)
            now = time.monotonic()
            if self._kill_at is not None and now >= self._kill_at:
                self._kill(signal.SIGKILL)
                self._kill_at = None
            if now >= poll_at:
                poll_at = now + OWNERSHIP_POLL_S
                if not self._states.is_running(self._task.job_id, self._number):
                    self._fenced = True
                    self._kill(signal.SIGKILL)

    def _pass_on(self, number: signal.Signals) -> None:
        if number in _WARNINGS:
            self._warned = True
        elif self._stopped is not None:
            number = signal.SIGKILL  # asked for the second time
        else:
            self._stopped = State.CANCELLED
            self._kill_at = time.monotonic() + KILL_AFTER_S
        self._kill(number)

    def _kill(self, number: int) -> bool:
        """The whole session of the job gets a signal; false when nothing is left of it."""
        try:
            os.killpg(self._pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _end_stragglers(self) -> None:
        """What the job has left behind in its session is told to end, and killed when it does not."""
        deadline = time.monotonic() + STRAGGLERS_S
        self._kill(signal.SIGTERM)
        while time.monotonic() < deadline and self._kill(0):
            time.sleep(0.02)
        self._kill(signal.SIGKILL)

    def _record_unstarted(self, error: OSError, started: float) -> int:
        culprit = self._task.arguments[0] if os.path.isdir(self._task.cwd) else f"the folder {self._task.cwd}"
        reason = f"{culprit} could not be started: {error.strerror or error}"
        if culprit != self._task.arguments[0]:
            reason = f"{culprit}, where the sweep was started, is not there any more; sweep again from where it is now"
        self.reason = reason
        with open(self._file("stderr"), "a", encoding="utf-8") as log:
            log.write(reason + "\n")
        self._publish(State.FAILED, {"reason": reason, "exit_code": None, "start": started, "end": time.time()})
        return 127

    def _record(self, returncode: int, usage: Any, started: float) -> int:
        after = oom_kills()
        result = read_optional(self._file("result"))
        ending = Ending(
            returncode=returncode,
            has_result=bool(result),
            stopped=self._stopped,
            was_warned=self._warned,
            out_of_memory=None not in (self._oom_kills, after) and (after or 0) > (self._oom_kills or 0),
            needs_result=self._task.needs_result,
            is_fake=self._task.is_fake or bool(result.get("fake")),
        )
        state = ended_state(ending)
        self.reason = self._reason(state, returncode)
        record = {
            "reason": self.reason,
            "exit_code": returncode if returncode >= 0 else None,
            "signal": signal.Signals(-returncode).name if returncode < 0 else None,
            "start": started,
            "end": time.time(),
            "peak_memory_bytes": usage.ru_maxrss * 1024,
            "cpu_s": usage.ru_utime + usage.ru_stime,
        }
        return exit_status(returncode) if self._publish(state, record) else FENCED

    def _publish(self, state: State, record: dict[str, Any]) -> bool:
        record = {**record, "arguments": self._task.arguments}
        return not self._fenced and self._states.finish(self._task.job_id, self._number, state, record)

    def _reason(self, state: State, returncode: int) -> str | None:
        """Why, in a line: the exception that the job left, else the signal or exit code."""
        if state in (State.COMPLETED, State.FAKE):
            return None
        if state is State.CANCELLED:
            return "stopped by a signal"
        error = read_optional(self._file("error"))
        if error:
            return f"{error.get('type')}: {error.get('message')}".partition("\n")[0]
        if returncode == DRIFTED:
            return "composed another configuration than was submitted"
        if returncode < 0:
            return f"ended by {signal.Signals(-returncode).name}"
        if returncode == 0 and self._task.needs_result:
            return "the runner ended without running the job; it has to call Experiment.run_id"
        return f"exit code {returncode}"


def _die_with_parent(parent: int) -> Callable[[], None]:
    """Runs in the child before the job: it dies when we are killed, and the OOM killer takes it rather than us."""
    libc = ctypes.CDLL(None, use_errno=True)

    def prepare_child() -> None:
        if hasattr(libc, "prctl"):
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
        try:
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write("500")
        except OSError:
            pass

    return prepare_child


def oom_kills() -> int | None:
    """How many processes of our memory cgroup the kernel has killed for memory; None where that cannot be known."""
    most: int | None = None
    try:
        with open("/proc/self/cgroup") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            root, name = "/sys/fs/cgroup/memory", "memory.oom_control"
        elif controllers == "":
            root, name = "/sys/fs/cgroup", "memory.events"
        else:
            continue
        while path not in ("/", ""):
            count = _counter(f"{root}{path}/{name}")
            if count is not None:
                most = max(most or 0, count)
            path = os.path.dirname(path)
    return most


def _counter(path: str) -> int | None:
    try:
        with open(path) as file:
            counts = [int(line.split()[1]) for line in file if line.startswith("oom_kill ")]
    except OSError:
        return None
    return counts[0] if counts else None
