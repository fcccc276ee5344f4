"""`work`: jobs of an experiment run here, one after the other, on whatever machine sees the folder; several people, and
several machines, may do so at once.

The launch is made here. Its jobs are run by a process of its own, the worker (`worker.LocalWorker`): it is small, so
that it can be copied for each job that runs at a time, whatever this process has imported. This one tells people how
jobs end, and passes signals on. When it is killed the worker ends its jobs, and records them as CANCELLED.
"""

import os
import selectors
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, time, timedelta
from functools import partial
from operator import index
from typing import Any, Final, NamedTuple

from experiment_manager.errors import ExperimentManagerError, FolderError, JobRefused, OptionsError
from experiment_manager.execution.command import missing_file, runner_here
from experiment_manager.execution.pickled_runner import pickled_runner, words_for
from experiment_manager.execution.pool import (
    HOW_THEY_END,
    Interrupted,
    Interrupts,
    JobEnd,
    available_cpus,
    check_gpus_per_job,
    check_n_jobs,
    ends_html,
    kept_limit,
)
from experiment_manager.execution.search import first_unproposed, unproposed
from experiment_manager.execution.signals import hear_interrupts, name_of
from experiment_manager.execution.worker import BY_HAND, Candidate, ended_in
from experiment_manager.model import policy
from experiment_manager.model.records import ENDED_WELL, Attempt, JobId, Launch, State
from experiment_manager.scheduler.reconcile import reconciled
from experiment_manager.scheduler.scripts import Configured, configured_of, runner_of
from experiment_manager.store.documents import END, read_optional
from experiment_manager.store.files import asked_again
from experiment_manager.store.holds import not_held
from experiment_manager.store.launches import (
    clear_leftovers,
    create_launch,
    driven,
    kept_pruner,
    kept_upstream,
    last_launch,
    planned_attempts,
    read_launch,
    tell_of_wrap_left_out,
)
from experiment_manager.store.layout import Folder, planning
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.pass_filter import read_selection
from experiment_manager.store.processes import JOB_VARIABLE, dying_with_us
from experiment_manager.store.states import States, StateTable, ended_elsewhere
from experiment_manager.text import JobLines, counted, settings_text, tell

RunnerFunction = Callable[[int, dict[str, Any], Any], Any]

_NOT_RUN: Final = "not run"
_LOOK_S: Final = 0.1
"""How long a signal may wait until it is passed on."""


class Worked(NamedTuple):
    """What a worker by hand has done: how each job that it took has ended, in the order in which they did, and the jobs
    that are left, which nobody has begun: for want of time, or by `max_jobs`. Others may have run the rest."""

    launch: Launch | None  # None: no job was to run, and nothing was done
    ran: tuple[JobEnd, ...] = ()
    left: tuple[int, ...] = ()

    def __repr__(self) -> str:
        if self.launch is None:
            return "Worked(nothing to run)"
        left = f", {len(self.left)} left" if self.left else ""
        return f"Worked({self.states or 'no job'} in launch {self.launch.number}{left})"

    def _repr_html_(self) -> str:
        from experiment_manager.model import html

        return html.block(html.sentence(repr(self)), ends_html(self.ran))

    @property
    def states(self) -> str:
        """How many jobs have ended in which state: `38 COMPLETED, 2 FAILED`."""
        counts = Counter(str(end.state or _NOT_RUN) for end in self.ran)
        return ", ".join(f"{counts[state]} {state}" for state in (*State, _NOT_RUN) if counts[state])


class Terms(NamedTuple):
    """How a worker by hand works; see `Experiment.run`."""

    n_jobs: int
    gpus_per_job: float | None
    max_jobs: int | None
    until: float | None  # seconds since the epoch
    rerun: str
    limit: Mapping[str, float]  # the time limit of jobs, as the record of the launch keeps it

    @classmethod
    def checked(
        cls,
        *,
        n_jobs: int,
        gpus_per_job: float | None,
        max_jobs: int | None,
        until: str | datetime | None,
        rerun: str,
        job_timeout_min: float | None,
    ) -> "Terms":
        """Raises OptionsError, or another ExperimentManagerError, for what cannot be meant."""
        n_jobs, max_jobs = _whole("n_jobs", n_jobs), None if max_jobs is None else _whole("max_jobs", max_jobs)
        check_n_jobs(n_jobs, where="")
        if not isinstance(gpus_per_job, int | float | None):
            raise OptionsError(f"gpus_per_job={gpus_per_job!r} is no number")
        check_gpus_per_job(gpus_per_job, where="")
        policy.check_rerun(rerun)
        if max_jobs is not None and max_jobs < 1:
            raise OptionsError(f"max_jobs={max_jobs} runs nothing; use 1 or more, or leave it out")
        n_jobs = available_cpus() if n_jobs == -1 else n_jobs
        end = None if until is None else end_of_work(until, datetime.now())
        return cls(n_jobs, gpus_per_job, max_jobs, end, rerun, kept_limit(job_timeout_min, where=""))


def _whole(name: str, value: Any) -> int:
    """The number, of whatever library it is. Raises OptionsError for anything else."""
    try:
        return int(index(value))
    except TypeError:
        raise OptionsError(f"{name}={value!r} is no whole number") from None


def end_of_work(until: str | datetime, now: datetime) -> float:
    """The next time that is meant, in seconds since the epoch: a time of day, or a day and a time.

    >>> now = datetime(2026, 3, 7, 17, 30)
    >>> ends = [end_of_work(text, now) for text in ("18:00", "9:00", "2026-03-10T12:00")]
    >>> [datetime.fromtimestamp(end).isoformat(" ") for end in ends]
    ['2026-03-07 18:00:00', '2026-03-08 09:00:00', '2026-03-10 12:00:00']

    Raises OptionsError.
    """
    found = until
    if isinstance(found, str):
        with suppress(ValueError):
            found = datetime.combine(now, time.fromisoformat(f"0{found}" if found[1:2] == ":" else found))
            if found.timestamp() <= now.timestamp():
                found = datetime.combine(now + timedelta(days=1), found.timetz())
    try:
        found = datetime.fromisoformat(found) if isinstance(found, str) else found
        seconds = found.timestamp()
    except (ValueError, OverflowError, AttributeError) as error:
        raise OptionsError(
            f"until={until} is no time; write a time of day, such as 18:00, or a day, too: 2026-01-31T18:00"
        ) from error
    if seconds <= now.timestamp():
        raise OptionsError(f"until={until}: that time has passed")
    return seconds


def work(
    folder: Folder,
    ids: Collection[int],
    *,
    runner: str | RunnerFunction | None,
    configured: Configured | None,
    terms: Terms,
    joins_search: bool = False,
) -> Worked:
    """Of these jobs, those that may run and are to run have run here, but for those that others have taken meanwhile;
    `joins_search`: those that the search proposes meanwhile, too.

    Raises JobRefused where nothing says how to run one of them, FilterError where no jobs were chosen to run, and
    Interrupted after INT, TERM or HUP: the running jobs are told to end, a second signal kills them.
    """
    folder.require()
    if not (runner is None or callable(runner) or (isinstance(runner, str) and runner)):
        raise OptionsError(f"runner={runner!r} is neither a script nor a function")
    if JOB_VARIABLE in os.environ:
        raise JobRefused(
            f"this process is job {os.environ[JOB_VARIABLE]} of an experiment and must not run others; unset "
            f"{JOB_VARIABLE} for it if you mean it"
        )
    launch = _launched(folder, ids, runner, configured, terms, joins_search=joins_search)
    if launch is None:
        return Worked(None)
    n_jobs = len(planned_attempts(launch))
    if launch.record.get("search_from") is not None:
        n_jobs += unproposed(folder)
    most = min(n_jobs, terms.max_jobs or n_jobs)
    at_most = f", {most} of them at most" if most < n_jobs else ""
    tell(f"{folder.path}: {counted(n_jobs)} to run{at_most}, {min(terms.n_jobs, most)} at a time")
    return follow_worker(folder, launch, most)


def _launched(
    folder: Folder,
    ids: Collection[int],
    runner: str | RunnerFunction | None,
    configured: Configured | None,
    terms: Terms,
    *,
    joins_search: bool,
) -> Launch | None:
    """The launch of the jobs that are to run; None where there are none."""
    function = pickled_runner(runner) if callable(runner) else None
    with planning(folder):
        clear_leftovers(folder)
        allowed = set(read_selection(folder))
        selected = sorted(allowed.intersection(ids))
        table = reconciled(folder, is_to_act=True)
        to_run = policy.to_run({job_id: table.state(job_id) for job_id in selected}, selected, terms.rerun)
        to_run = configured_of(folder, not_held(folder, to_run))
        search_from = first_unproposed(folder) if joins_search else None
        if not to_run and search_from is None:
            return None
        given = words_for(folder, function) if function is not None else runner if isinstance(runner, str) else None
        words = runner_of(folder, to_run, given or last_runner(folder, configured), configured, options=None)
        if function is not None and words is not None:
            function.write(folder)
        attempts = (Attempt(JobId(job_id), table.next_number(job_id), State.PENDING) for job_id in to_run)
        options = {name: value for name, value in terms._asdict().items() if name not in ("limit", "rerun")}
        about = {"launcher": BY_HAND, "runner": words, "options": options, **terms.limit}
        tell_of_wrap_left_out(folder, to_run)
        if search_from is not None:
            about["search_from"] = search_from
        return create_launch(folder, attempts, {**about, **kept_pruner(folder), **kept_upstream(folder, to_run)})


def last_runner(folder: Folder, configured: Configured | None) -> list[str] | None:
    """What ran the jobs of the last launch, if a person has worked there, and no runner is configured: a function can
    be named on no command line. None where there is none, or its file is gone."""
    launch = last_launch(folder)
    if launch is None or launch.launcher != BY_HAND:
        return None
    if configured is not None and (configured.python_runner or configured.job_runner):
        return None
    words = runner_here(folder, launch.record.get("runner"))
    return None if words is None or missing_file(words) else words


def follow_worker(folder: Folder, launch: Launch, most: int) -> Worked:
    """The worker of a launch that is there, which runs `most` jobs at most, has started and ended. Raises as `work`
    does."""
    with driven(folder, launch):
        return _Following(folder, launch, most).run()


class _Following:
    """The worker of a launch: it is started, and followed until it has ended."""

    def __init__(self, folder: Folder, launch: Launch, most: int) -> None:
        self._folder, self._launch, self._lines = folder, launch, JobLines(most)
        self._planned = planned_attempts(launch)
        self._states = States(folder)
        self._ran: dict[int, JobEnd] = {}
        self._unread: list[tuple[Candidate, float]] = []

    def run(self) -> Worked:
        """The worker has ended."""
        with Interrupts() as interrupts, self._lines.showing():
            try:
                process = self._start()
            except OSError as error:
                raise ExperimentManagerError(
                    f"no worker could be started: {error.strerror or error}; none of the jobs has begun, and the same "
                    "command goes on"
                ) from error
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                for line, is_report in _printed(process, interrupts, self._tell_of_end):
                    self._take(line) if is_report else self._lines.say(line)
            except BaseException:
                process.stdout.close()  # what it still says must not keep it from ending
                process.stderr.close()
                process.send_signal(signal.SIGINT)
                raise
            finally:
                status = process.wait()
            if status < 0:
                self._lines.say(f"the worker was ended by {name_of(-status)}; the same command goes on")
            self._settle_unread()
            if self._launch.record.get("search_from") is not None:  # what was proposed meanwhile
                self._planned = planned_attempts(read_launch(self._folder, self._launch.number))
            table = self._states.table(reconcile=True)
            self._take_killed(table)
        ran = list(self._ran.values())
        if interrupts.first is not None:
            raise Interrupted(interrupts.first, ran)
        left = [job_id for job_id, number in self._planned.items() if table.next_number(job_id) <= number]
        if status and left and all(end.state in ENDED_WELL for end in ran):  # it is not the status of a job
            raise ExperimentManagerError(
                f"launch {self._launch.number} of {self._folder.path}: its worker has ended with {status} before "
                f"{counted(len(left))} had begun; the same command goes on"
            )
        return Worked(self._launch, tuple(ran), tuple(left))

    def _tell_of_end(self) -> None:
        self._lines.say(f"ending the jobs that run here{HOW_THEY_END}")

    def _start(self) -> "subprocess.Popen[bytes]":
        where = ("--experiment-path", self._folder.parent, "--experiment-name", self._folder.name)
        end_with_us = dying_with_us(signal.SIGTERM)

        def prepare() -> None:
            hear_interrupts()
            end_with_us()

        return subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "experiment_manager", "run"),
                *(*where, "--launch", self._launch.number, "--worker", "0"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # the terminal's Ctrl-C reaches us alone, and we pass it on
            preexec_fn=prepare,
        )

    def _take(self, line: str) -> None:
        """A job has ended, or was refused; several lanes may find that out."""
        try:
            one, seconds, refused = ended_in(line)
        except ValueError:
            self._lines.say(line)
            return
        known = self._ran.get(one.job_id)
        if refused is not None and known is None:
            self._note(JobEnd(one.job_id, 0, None, refused, seconds))
        elif refused is None and (known is None or known.state is None):
            try:
                self._settle(one, seconds)
            except (OSError, FolderError) as error:
                self._lines.say(f"the end of job {one.job_id} cannot be read, and is asked for again: {error}")
                self._unread.append((one, seconds))

    def _settle(self, one: Candidate, seconds: float) -> None:
        """What became of a job is told. Raises OSError, FolderError where nobody can tell."""
        self._note(JobEnd(one.job_id, seconds=seconds, **self._found(one.job_id, one.number)))

    def _settle_unread(self) -> None:
        """The same of those of which the file system could not tell, which is asked again, for minutes if need be."""
        for one, seconds in self._unread:
            try:
                asked_again(partial(self._settle, one, seconds))
            except (OSError, FolderError) as error:
                self._note(JobEnd(one.job_id, one.number, None, f"its end cannot be read: {error}", seconds))

    def _end(self, job_id: int, number: int) -> dict[str, Any]:
        return read_optional(self._folder.of_attempt(job_id, number, "attempt"), END)

    def _found(self, job_id: int, number: int) -> dict[str, Any]:
        kept = self._end(job_id, number)
        reason = ended_elsewhere(kept) or kept.get("reason")
        return {"attempt": number, "state": self._states.state(job_id, number), "reason": reason}

    def _take_killed(self, table: StateTable) -> None:
        """Of what nobody has told: the process of a job was killed, the job ended as we did, or people have cancelled
        it before it began."""
        for job_id, number in self._planned.items():
            last = table.last(job_id)
            if job_id in self._ran or last.number != number or last.state in ENDED_WELL or last.state is State.RUNNING:
                continue
            record = self._states.record(job_id, number)
            if self._launch.number in (record.get("launch"), *(record.get("launches") or ())):
                kept = self._end(job_id, number)
                lost = "its supervisor was killed" if last.state is State.LOST else kept.get("reason")
                self._note(JobEnd(job_id, number, last.state, ended_elsewhere(kept) or lost))

    def _note(self, end: JobEnd) -> None:
        self._ran[end.job_id] = end
        self._lines.ended(end.job_id, end.state, self._text(end.job_id), seconds=end.seconds, reason=end.reason)

    def _text(self, job_id: int) -> str:
        try:
            with Manifest(self._folder) as manifest:  # opened anew: while we work it may be replaced
                return settings_text(manifest.job(job_id).variables)
        except ExperimentManagerError:
            return ""


def _printed(
    process: "subprocess.Popen[bytes]", interrupts: Interrupts, when_first: Callable[[], None]
) -> Iterator[tuple[str, bool]]:
    """The lines that a process prints, and whether on standard output, until it has closed both streams. It gets INT
    for each signal that we have got; `when_first` is called with the first."""
    is_first = True
    rest: dict[Any, bytes] = {process.stdout: b"", process.stderr: b""}
    with selectors.DefaultSelector() as selector:
        for stream in rest:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            for _ in range(interrupts.news()):
                if is_first:
                    when_first()
                is_first = False
                process.send_signal(signal.SIGINT)
            for key, _ in selector.select(_LOOK_S):
                piece = os.read(key.fd, 1 << 16)
                *lines, rest[key.fileobj] = (rest[key.fileobj] + piece).split(b"\n")
                if not piece:
                    selector.unregister(key.fileobj)
                    lines = [line for line in (rest[key.fileobj],) if line]
                for line in lines:
                    yield line.decode(errors="replace"), key.fileobj is process.stdout
