"""What our launchers do: run jobs here, write array scripts, or submit them; for our own sweeper and for any other.

The values that jobs give back to Hydra and its sweepers are read from their folders.
"""

import copy
import os
import shlex
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, NamedTuple, overload

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobRuntime, JobStatus
from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from experiment_manager.errors import ExperimentManagerError, JobRefused, OptionsError
from experiment_manager.execution import environment
from experiment_manager.execution.command import Place, place_of
from experiment_manager.execution.forkserver.client import ForkServer
from experiment_manager.execution.pool import (
    Interrupted,
    JobEnd,
    Pool,
    available_cpus,
    check_gpus_per_job,
    check_n_jobs,
    check_start_method,
    kept_limit,
)
from experiment_manager.execution.work import follow_worker
from experiment_manager.hydra import entry, private_names
from experiment_manager.hydra.commit import add_batch
from experiment_manager.hydra.compose import Composer, as_written
from experiment_manager.hydra.entry import passing_interpreter
from experiment_manager.model import codec, stages
from experiment_manager.model.ids import format_ids, which
from experiment_manager.model.policy import REFUSED
from experiment_manager.model.records import ENDED_WELL, Attempt, Job, Launch, State
from experiment_manager.scheduler import schedulers
from experiment_manager.scheduler.healing import has_rule, heal_quietly
from experiment_manager.scheduler.reconcile import reconciled, wait_for, wait_until_idle
from experiment_manager.scheduler.scripts import (
    Arrangement,
    Joined,
    arrange,
    hand_to_workers,
    how_to_submit,
    join,
    overridden,
    write_scripts,
)
from experiment_manager.scheduler.submission import Submitted, submit
from experiment_manager.store import processes
from experiment_manager.store.documents import END, ERROR, read_optional
from experiment_manager.store.launches import driven, launch_numbers, planned_attempts, read_launch
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.processes import JOB_VARIABLE
from experiment_manager.store.results import read_result
from experiment_manager.store.states import States, StateTable, scheduler_in
from experiment_manager.text import counted, hold_numbers, noun, settings_text, tell, tell_once

_WHERE: Final = "hydra.launcher."
_UNPLANNED: Final = "stopped while the sweep was being planned: nothing was launched"
STOPPED: Final = "stopped; the same command goes on with what has not completed"
_ENOUGH: Final = 8
"""So many jobs tell how long the jobs of a sweep take."""
_SHORT: Final = 0.15
"""The share of their time in which such jobs work themselves: a forked start takes a quarter of another (measured: 0.16
of 0.65 s), so that forked they take a third of the time."""


class Handed(NamedTuple):
    """A launch that is on disk, handed over to something that runs it."""

    folder: Folder
    launch: Launch
    arrangement: Arrangement | None

    @property
    def shown(self) -> str:
        """The folder as people type it."""
        return shlex.quote(os.path.relpath(self.folder.path))

    def texts(self, ids: Sequence[int]) -> dict[int, str]:
        """What people call each of these jobs: `algorithm=TD3 seed=1`."""
        with Manifest(self.folder) as manifest:
            return {job_id: settings_text(manifest.job(job_id).variables) for job_id in ids}


class Handover(NamedTuple):
    """What came of a launch: how its jobs have ended here, or the scripts that were written and submitted."""

    ran: tuple[JobEnd, ...] = ()
    scripts: tuple[str, ...] = ()
    submitted: tuple[Submitted, ...] = ()


@contextmanager
def told_to_the_user(when_stopped: str = _UNPLANNED) -> Iterator[None]:
    """What is wrong ends the program with a sentence and the exit status 2, without a traceback; Ctrl-C, too, with the
    shell's status for it. `when_stopped` is said then, unless people have been told: of an Interrupted."""
    hold_numbers()
    try:
        yield
    except ExperimentManagerError as error:
        tell(f"error: {error}")
        raise SystemExit(REFUSED) from None
    except Interrupted as stop:
        raise SystemExit(128 + stop.number) from None
    except KeyboardInterrupt:
        tell(when_stopped)
        raise SystemExit(128 + signal.SIGINT) from None


@contextmanager
def sweeping() -> Iterator[None]:
    """Inside, this process may sweep, and has no rank, as in `launching`; it ends with a sentence where it may not."""
    with told_to_the_user():
        require_may_launch()
    with without_rank():
        yield


def require_may_launch() -> None:
    """Raise ExperimentManagerError unless this process may start jobs.

    A job must not: a program with `hydra.mode: MULTIRUN` in its YAML would start itself for ever. Neither must one of
    several processes: each would run its share of the jobs, and none of them would have the ranks that it needs.
    """
    if JOB_VARIABLE in os.environ:
        raise ExperimentManagerError(
            f"this process is job {os.environ[JOB_VARIABLE]} of an experiment and must not start a sweep of its "
            f"own; unset {JOB_VARIABLE} for the inner program if you mean it"
        )
    if rank := environment.one_of_several(os.environ):
        raise ExperimentManagerError(
            f"this process is {rank}, and each of them would sweep; start the sweep once, without torchrun, srun "
            "or mpirun, and let each job start its processes; where it is alone all the same, unset these variables"
        )


@contextmanager
def without_rank() -> Iterator[None]:
    """Inside, this process has no rank: then nothing that it starts has that of somebody else."""
    dropped = {name: value for name, value in os.environ.items() if environment.is_of_ranks(name)}
    if meant := sorted(name for name in dropped if not environment.is_of_a_scheduler(name)):
        tell_once(f"jobs do not get {', '.join(meant)} from here: each of them is a program of its own")
    for name in dropped:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(dropped)


def about(config: DictConfig, ours: "Here | ByScheduler | None") -> dict[str, Any]:
    """What a launch keeps about the command that made it, and of the launcher, if it is one of ours."""
    launcher = OmegaConf.to_container(config.hydra.launcher, resolve=False)
    chosen = config.hydra.runtime.choices.get("hydra/launcher")
    kind = chosen if ours is None else ours.kind
    return {
        "launcher": kind,
        **({} if kind == chosen else {"launcher_file": chosen}),
        "options": codec.encode(launcher),
        "overrides": as_written(config, "task"),
        **({} if ours is None else ours.kept),
    }


class Here:
    """`local_pool`: jobs run on this machine, several at a time."""

    kind = "local_pool"
    waits = True
    arrange = None

    def __init__(
        self,
        n_jobs: int,
        start_method: str,
        gpus_per_job: float | None,
        *,
        job_timeout_min: float | None,
        after: Any = None,
        copies_code: bool,
    ) -> None:
        check_n_jobs(n_jobs)
        check_start_method(start_method)
        check_gpus_per_job(gpus_per_job)
        self.after = stages.checked(_plain(after), where=_WHERE)
        self.kept = kept_limit(job_timeout_min, where="hydra.launcher.")
        self.copies_code, self._gpus_per_job = copies_code, gpus_per_job
        self._n_jobs, self._forkserver = n_jobs, ForkServer() if start_method == "forkserver" else None

    def for_search(self, n_jobs: int | None) -> int:
        """How many trials of a search run at a time, of the `n_jobs` that the search asks for. Raises OptionsError for
        what a search cannot do."""
        refuse_after(self.after, "a search proposes its jobs while they run")
        if self._forkserver is not None:
            raise OptionsError("hydra.launcher.start_method=forkserver forks no trials of a search here; leave it out")
        here = self._n_jobs if self._n_jobs > 0 else available_cpus()
        return here if n_jobs is None else min(here, n_jobs)

    def about_search(self, n_at_a_time: int) -> dict[str, Any]:
        """What the launch of a search keeps for the worker that runs it."""
        return {"worker": {"n_jobs": n_at_a_time, "gpus_per_job": self._gpus_per_job}}

    def run_search(self, handed: Handed, *, n_at_a_time: int, most: int) -> None:
        """The search has run, as far as it goes here: `most` trials. Ends the program on Ctrl-C."""
        tell(f"running {min(n_at_a_time, most)} at a time (hydra.launcher.n_jobs)")
        with told_to_the_user(STOPPED), _told_when_stopped(handed.folder, "the same command goes on with the search"):
            follow_worker(handed.folder, handed.launch, most)

    def run(self, handed: Handed, ids: Sequence[int]) -> None:
        """The jobs have run. Ends the program, with the shell's status for it, on Ctrl-C."""
        with told_to_the_user(STOPPED):
            self.hand_over(handed, ids, "the same command")

    def hand_over(self, handed: Handed, ids: Sequence[int], again: str) -> "Handover":
        """The jobs have run. Raises Interrupted on Ctrl-C, when they have ended and people know that `again` runs what
        is left."""
        texts = handed.texts(ids)
        pool = Pool(
            *(handed.folder, handed.launch),
            n_jobs=self._n_jobs,
            texts=texts,
            forkserver=self._forkserver,
            gpus_per_job=self._gpus_per_job,
        )
        if len(ids) > 1:
            tell(f"running {min(pool.n_jobs, len(ids))} at a time (hydra.launcher.n_jobs)")
        with _told_when_stopped(handed.folder, f"{again} runs what is left"):
            ran = pool.run(ids)
        if self._forkserver is None and were_short(handed.folder, ran) and ForkServer.can_run(handed.folder, ids[0]):
            tell_once(
                "nearly all the time of these jobs was their start: hydra.launcher.start_method=forkserver would run "
                "them in a third of it"
            )
        return Handover(ran=tuple(ran))


@contextmanager
def _told_when_stopped(folder: Folder, what_then: str) -> Iterator[None]:
    """People know what a signal has ended, and how it goes on. Raises Interrupted then."""
    try:
        yield
    except Interrupted as stop:
        cancelled = sum(ran.state is State.CANCELLED for ran in stop.ran)
        tell(f"stopped by {stop}: {counted(cancelled)} cancelled in {folder.path}; {what_then}")
        raise


def were_short(folder: Folder, ran: Sequence[JobEnd]) -> bool:
    """Whether jobs, all of which have completed, did little else than to start: what they did themselves lies between
    Hydra's writing of their configuration and their result."""
    last = ran[-_ENOUGH:]  # the first ones may have waited for a cold disk
    if len(last) < _ENOUGH or any(one.state is not State.COMPLETED for one in ran):
        return False
    worked = 0.0
    for one in last:
        began = os.path.join(folder.job(one.job_id), ".hydra", "config.yaml")
        ended = folder.of_attempt(one.job_id, one.attempt, "result")
        try:
            worked += os.stat(ended).st_mtime - os.stat(began).st_mtime
        except OSError:  # hydra.output_subdir=null, another sweeper's folder, no result
            return False
    return worked <= _SHORT * sum(one.seconds for one in last)


class ByScheduler:
    """`slurm_script` and `slurm_submitit`: a scheduler runs the jobs, in array scripts that we write."""

    kept: Mapping[str, Any] = {}

    def __init__(self, written: Mapping[str, Any], *, scheduler: str, submits: bool) -> None:
        plain = {key: _plain(value) for key, value in written.items()}
        self.after = stages.checked(plain.pop("after", None), where=_WHERE)
        self.copies_code, self._joins = (_flag(plain, name) for name in ("snapshot", "join"))
        self._scheduler = schedulers.named(scheduler)
        self._options = self._scheduler.options(plain, where="hydra.launcher")
        self._submits = submits
        submitting = "slurm_submitit" if scheduler == "slurm" else f"{scheduler}_submit"
        self.kind = submitting if submits else f"{scheduler}_script"
        self.waits = submits and bool(plain.get("wait"))
        if submits:
            self._scheduler.require()

    def for_search(self, n_jobs: int | None) -> int:
        """How many trials of a search run at a time: `hydra.launcher.workers` runs them, or as many workers as the
        search asks for by its `n_jobs`. Raises OptionsError for what a search cannot do."""
        refuse_after(self.after, "a search proposes its jobs while they run")
        given = {"join": self._joins, "resources_from": self._options.resources_from}
        for name, value in given.items():
            if value:
                raise OptionsError(
                    f"hydra.launcher.{name}={value} is not for a search, which workers run; leave it out"
                )
        if self._options.workers is None and n_jobs is None:
            raise OptionsError(
                "a search is run by workers, which ask for one trial after the other; say how many with "
                "hydra.launcher.workers=8"
            )
        if self._options.workers is None:
            self._options = overridden(self._scheduler, self._options, {"workers": n_jobs}, where="hydra.launcher")
        return int(self._options.workers or 1) * int(self._options.pack or 1)

    def about_search(self, n_at_a_time: int) -> dict[str, Any]:
        """What the launch of a search keeps besides its arrays."""
        return {}

    def arrange(self, folder: Folder, ids: Sequence[int], configuration: Any) -> Arrangement:
        """The arrays that run these jobs. Raises OptionsError; JobRefused where there is none that they could join."""
        if self._joins:
            return join(folder, self._scheduler, ids)
        return arrange(folder, self._scheduler, self._options, ids, configuration)

    def run(self, handed: Handed, ids: Sequence[int]) -> None:
        """The scripts are written or submitted, and where it was asked for, the jobs have ended. Ends the program where
        that cannot be done."""
        with told_to_the_user(STOPPED):
            self.hand_over(handed, ids, "the same command")

    def hand_over(self, handed: Handed, ids: Sequence[int], again: str) -> "Handover":
        """The same. Raises ExperimentManagerError where it cannot be done, and Interrupted on Ctrl-C, when people know
        what that means for the jobs."""
        assert handed.arrangement is not None
        if warning := passing_interpreter():
            tell(warning)
        if handed.arrangement.joined is not None:
            self._join(handed, ids, handed.arrangement.joined)
            return Handover()
        with _told_when_interrupted(_UNPLANNED):
            paths = write_scripts(handed.folder, handed.launch, handed.arrangement, is_newest=not self._submits)
        if not self._submits:
            how = how_to_submit(handed.folder, handed.launch, paths)
            tell(f"{how}  ({counted(len(ids))}; nothing is submitted yet)")
            return Handover(scripts=tuple(paths))
        done = self._submit(handed)
        if self.waits:
            self._wait(handed, ids)
        return Handover(scripts=tuple(paths), submitted=tuple(done))

    def _join(self, handed: Handed, ids: Sequence[int], joined: Joined) -> None:
        with _told_when_interrupted(_UNPLANNED):
            hand_to_workers(handed.folder, handed.launch, joined)
        tell(f"{counted(len(ids))} handed to {joined.words}; follow with `experiment-manager status {handed.shown}`")
        if self.waits:
            self._wait(handed, ids)

    def _submit(self, handed: Handed) -> list[Submitted]:
        again = f"`experiment-manager submit {handed.shown}` goes on, and repeats nothing"
        with _told_when_interrupted(f"stopped while submitting; {again}"):
            done = submit(handed.folder, handed.launch, send=self._scheduler.sender(self._options))
        ids = ", ".join(array.slurm_id for array in done)
        tell(
            f"submitted as {self._scheduler.label} job {ids}; follow with `experiment-manager status {handed.shown}`, "
            f"end with `experiment-manager cancel {handed.shown}`"
        )
        return done

    def _wait(self, handed: Handed, ids: Sequence[int]) -> None:
        if handed.launch.record.get("search_from") is not None:  # it has more jobs than are known yet
            tell("waiting until no trial waits or runs any more (hydra.launcher.wait)")
            with _told_when_interrupted(f"the search goes on without this program; end it with `{_stop(handed)}`"):
                wait_until_idle(handed.folder)
            return
        texts = handed.texts(ids)
        how = f"cancel them with `experiment-manager cancel {handed.shown}`"
        with _told_when_interrupted(f"the jobs {format_ids(ids)} go on without this program; {how}"):
            heal = partial(heal_quietly, handed.folder) if has_rule(handed.launch) else None
            wait_for(handed.folder, handed.launch, texts, of=ids, heal=heal)

    def wait_for_earlier(self, folder: Folder, ids: Iterable[int]) -> list[int]:
        """Those of the jobs that earlier launches have in hand have ended, too, where that was asked for; returns them.
        What runs on another machine, without a scheduler, is not waited for: nobody here can tell whether it has ended.
        Raises Interrupted on Ctrl-C, when people know what that means for the jobs."""
        if not self.waits:
            return []
        table = reconciled(folder)
        found = {job_id for job_id in ids if table.state(job_id) in (State.QUEUED, State.RUNNING)}
        apart = {job_id for job_id in found if _runs_apart(folder, table, job_id)}
        if apart:
            verb = "runs" if len(apart) == 1 else "run"
            tell(
                f"{which(sorted(apart))} {verb} on another machine, as far as is known here, and will not be waited for"
            )
        left = found - apart
        for number in reversed(launch_numbers(folder) if left else ()):
            with suppress(JobRefused):  # one that cannot be read: what became of its jobs is told in the end
                launch = read_launch(folder, number)
                if mine := sorted(left & planned_attempts(launch).keys()):
                    left.difference_update(mine)
                    tell(f"waiting for {which(mine)}, which launch {number} has in hand (hydra.launcher.wait)")
                    self._wait(Handed(folder, launch, None), mine)
        return sorted(found)


def _runs_apart(folder: Folder, table: StateTable, job_id: int) -> bool:
    """Whether a job runs where nobody here can tell whether it has ended: neither a scheduler nor this machine can."""
    last, states = table.last(job_id), States(folder)
    if last.state is not State.RUNNING:
        return False
    record = states.record(job_id, last.number)
    is_asked = scheduler_in(record) is not None or states.task(job_id, last.number, record) is not None
    return not is_asked and processes.is_gone(record) is None


def _stop(handed: Handed) -> str:
    return f"experiment-manager search {handed.shown} --stop"


@contextmanager
def _told_when_interrupted(what: str) -> Iterator[None]:
    """People know what Ctrl-C means here. Raises Interrupted then."""
    try:
        yield
    except KeyboardInterrupt:
        tell(what)
        raise Interrupted(signal.SIGINT, []) from None


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def refuse_after(after: stages.After | None, why: str) -> None:
    """Raise OptionsError where jobs are to come after others, and cannot."""
    if after is not None:
        raise OptionsError(f"{_WHERE}after={after.experiment} is for hydra/sweeper=experiment: {why}; leave it out")


def _flag(options: dict[str, Any], name: str) -> bool:
    """An option that is none of the scheduler's, taken out of the others. Raises OptionsError."""
    value = options.pop(name)
    if not isinstance(value, bool):
        raise OptionsError(f"hydra.launcher.{name}={value!r} is neither true nor false")
    return value


def prepared_to_wait(launcher: Any) -> Any:
    """What works for another sweeper than ours. Ends the program where it would return before the jobs have run."""
    with told_to_the_user():
        ours = launcher.prepared()
        if not ours.waits:
            raise ExperimentManagerError(
                f"hydra/launcher={launcher.kind} returns before the jobs have run, and this sweeper needs their "
                "results; use hydra/launcher=slurm_submitit with hydra.launcher.wait=true, or hydra/sweeper=experiment"
            )
    return ours


class JobFailed(Exception):
    """Raised for a sweeper that asks for the value of a job which did not complete."""


class Returns(Sequence[JobReturn]):
    """The values that jobs have returned, read from their folders when asked for: sweeps are large, few callers ask.

    `master` is the configuration of the sweep itself.
    """

    def __init__(self, folder: Folder, ids: Sequence[int], master: DictConfig) -> None:
        self._folder, self._ids, self._master = folder, ids, master

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, place: int) -> JobReturn: ...
    @overload
    def __getitem__(self, place: slice) -> "Returns": ...
    def __getitem__(self, place: int | slice) -> "JobReturn | Returns":
        if isinstance(place, slice):
            return Returns(self._folder, self._ids[place], self._master)
        return _job_return(self._folder, self._ids[place], self._master)


def launch_batch(launcher: Any, batch: Sequence[Sequence[str]], first_number: int) -> Returns:
    """What another sweeper proposes has run through one of our launchers; `launcher.batches` remembers the sweep."""
    if launcher.batches is None:
        ours = prepared_to_wait(launcher)
        with told_to_the_user():
            refuse_after(ours.after, "another sweeper proposes its jobs while others run")
            folder = Folder(launcher.experiment_path, launcher.experiment_name)
            launcher.batches = Batches(
                launcher.hydra_context.config_loader, launcher.config, launcher.task_function, folder, ours
            )
    found: Returns = launcher.batches.launch(batch, first_number)
    return found


class Batches:
    """What another sweeper proposes, batch by batch, over one of our launchers."""

    def __init__(
        self,
        loader: ConfigLoader,
        config: DictConfig,
        task: TaskFunction | None,
        folder: Folder,
        ours: "Here | ByScheduler",
    ) -> None:
        self._composer = Composer(loader, config)
        self._config, self._task, self._folder, self._ours = config, task, folder, ours
        self._earlier: list[int] = []
        private_names.tell_of_missing()
        entry.note_sweep()

    def launch(self, batch: Sequence[Sequence[str]], first_number: int) -> Returns:
        """A batch has run; the values are real, and a failed job raises when it is asked for its value."""
        with sweeping():
            return self._launch(batch, first_number)

    def _launch(self, batch: Sequence[Sequence[str]], first_number: int) -> Returns:
        with told_to_the_user():
            launch, ids, arrangement = add_batch(
                self._composer,
                self._folder,
                batch,
                self._task,
                self._earlier,
                about(self._config, self._ours),
                self._ours.arrange,
                first_number=first_number,
                copies_code=self._ours.copies_code,
            )
        with driven(self._folder, launch):
            os.makedirs(self._config.hydra.sweep.dir, exist_ok=True)  # sweepers expect it, and write there
            self._earlier += ids
            them = "it" if len(ids) == 1 else "them"
            tell(f"{self._folder.path}: {len(ids)} new {noun(len(ids))}, as another sweeper proposed {them}")
            self._ours.run(Handed(self._folder, launch, arrangement), ids)
        return Returns(self._folder, ids, self._config)


def _job_return(folder: Folder, job_id: int, master: DictConfig) -> JobReturn:
    last = States(folder).settled(job_id)
    with Manifest(folder) as manifest:
        job = manifest.job(job_id)
        config = OmegaConf.create(manifest.configuration(job.id))
    place = place_of(folder, job)
    hydra_config = _hydra_configuration(master, config, job, place)
    overrides: Any = OmegaConf.to_container(hydra_config.hydra.overrides.task, resolve=False)
    returned = JobReturn(
        overrides=overrides,
        cfg=config,
        hydra_cfg=OmegaConf.masked_copy(hydra_config, "hydra"),
        working_dir=place.directory if _changes_directory(hydra_config) else hydra_config.hydra.runtime.cwd,
        task_name=JobRuntime.instance().get("name"),
    )
    value, error = _value(folder, last)
    returned.status = JobStatus.FAILED if error else JobStatus.COMPLETED
    returned.return_value = error or value
    return returned


def _value(folder: Folder, last: Attempt) -> tuple[Any, JobFailed | None]:
    """The value that the attempt returned; or the exception for a job that has not completed."""
    job_id, number = last.job_id, last.number
    if number == 0:
        return None, JobFailed(f"job {job_id} of {folder.path} has not begun; the lines above say why")
    result = read_result(folder, job_id, number)
    if last.state in ENDED_WELL and not result.refused:
        return result.value, None
    error = read_optional(folder.of_attempt(job_id, number, "error"), ERROR).get("traceback", "")
    reason = read_optional(folder.of_attempt(job_id, number, "attempt"), END).get("reason")
    return None, JobFailed(
        f"job {job_id} of {folder.path} is {last.state}{f': {reason}' if reason else ''}{_refusal(result.refused)}; "
        f"its log is {folder.of_attempt(job_id, number, 'stderr')}\n{error}"
    )


def _refusal(refused: Mapping[str, str]) -> str:
    return "".join(f", but its {name} could not be stored: {why}" for name, why in refused.items())


def _hydra_configuration(master: DictConfig, config: Any, job: Job, place: Place) -> DictConfig:
    """The configuration of the job with Hydra's own part as the job has saved it; where it has saved none, as the sweep
    knows it."""
    known = copy.deepcopy(master)
    with read_write(known), read_write(known.hydra), open_dict(known):
        for key in [key for key in known if key != "hydra"]:
            del known[key]
        known.merge_with(config)
        node = known.hydra
        node.overrides.task = [text for text in job.overrides if not text.lstrip("+~").startswith(("hydra.", "hydra/"))]
        node.job.id, node.job.num = str(job.id), place.number
        node.sweep.dir, node.sweep.subdir, node.runtime.output_dir = place.sweep_dir, place.subdir, place.directory
        saved = copy.deepcopy(known)
        try:
            path = os.path.join(place.directory, str(node.output_subdir), "hydra.yaml")
            saved.hydra.merge_with(OmegaConf.load(path).hydra)
        except (OSError, YAMLError, OmegaConfBaseException):
            return known
    return saved


def _changes_directory(config: DictConfig) -> bool:
    """Whether the job has run in its output directory; before Hydra 1.2 that was so where nothing was said."""
    changes: bool | None = config.hydra.job.chdir
    if changes is None:
        from hydra import version

        return not version.base_at_least("1.2")
    return changes
