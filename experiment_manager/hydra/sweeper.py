"""What the plugins do, once Hydra calls them: plan, launch, and tell how it went in words and exit status.

A sweep ends with 0 when every job that it ran has completed, with 1 when one has not, with 2 for a user's mistake. What
others have taken from it, and run on, counts as what they ran before.
"""

import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import update_wrapper
from typing import Any, Final

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf

from experiment_manager.analysis.results import result_warnings, sentences
from experiment_manager.errors import ExperimentManagerError, FolderError, JobRefused, OptionsError
from experiment_manager.execution.in_process import attempting
from experiment_manager.execution.within_submitit import end_by_warning
from experiment_manager.hydra import entry, private_names
from experiment_manager.hydra.commit import commit_sweep
from experiment_manager.hydra.compose import Composer, require_submitted
from experiment_manager.hydra.dry_run import dry_run, told, warnings
from experiment_manager.hydra.launchers import (
    STOPPED,
    ByScheduler,
    Handed,
    Here,
    Returns,
    about,
    sweeping,
    told_to_the_user,
)
from experiment_manager.hydra.plan import Asked, Plan, asked
from experiment_manager.hydra.schema import Options, require_known, slurm_node
from experiment_manager.model.records import ENDED_WELL, UNFINISHED, Launch, State, launcher_of
from experiment_manager.model.secrets import masked
from experiment_manager.scheduler import schedulers
from experiment_manager.scheduler.reconcile import reconciled
from experiment_manager.store import processes
from experiment_manager.store.files import appearing
from experiment_manager.store.launches import driven, planned_attempts
from experiment_manager.store.layout import Folder, is_refused, trouble_to_plan, trouble_to_write, unwritable, writing
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.states import States, StateTable
from experiment_manager.text import counted, say, settings_text, tell

_LAUNCH_VARIABLE: Final = "EXPERIMENT_MANAGER_LAUNCH"
"""By this, tasks knew their launch that an older version has pickled."""

_MOST_TAKEN: Final = 3


class Sweep:
    """One call of our own sweeper."""

    def __init__(
        self,
        loader: ConfigLoader,
        config: DictConfig,
        task: "RecordedTask",
        launcher: Any,
        directories: Mapping[str, Any],
    ) -> None:
        """`task` is what the launcher calls, if it is not ours; `directories` is `hydra.sweep` as the user wrote it."""
        self._directories = directories
        self._composer = Composer(loader, config)
        self._config, self._recorded, self._launcher = config, task, launcher
        self._task: TaskFunction = task.function

    def run(self, written: Mapping[str, Any], arguments: Sequence[str]) -> list[Sequence[JobReturn]]:
        """The whole sweep; returns what every job that passes has returned, also the ones that had completed before.

        Ends the program when a job fails.
        """
        entry.note_sweep()
        with sweeping():
            return self._run(written, arguments)

    def _run(self, written: Mapping[str, Any], arguments: Sequence[str]) -> list[Sequence[JobReturn]]:
        private_names.tell_of_missing()
        private_names.copy_by_hand()
        with told_to_the_user():
            ours = self._launcher.prepared() if hasattr(self._launcher, "prepared") else None
            if ours is None:
                _require_one_process(self._config)
            options, batch_size = checked_options(written)
            if options.dry_run:
                self._tell(options, arguments, ours)
                return []
            wanted = self._wanted(options, arguments, ours)
            plan, n_new, launch = commit_sweep(wanted, about(self._config, ours))
        self._tell_of_settings(plan.folder)
        tell(_summary(plan, n_new))
        if launch is not None:
            if "code" in launch.record:
                tell(f"its jobs run from the snapshot {plan.folder.join(launch.record['code'])}")
            with driven(plan.folder, launch):
                self._hand_over(plan, launch, batch_size, ours)
        with told_to_the_user(STOPPED):
            others = set(plan.ids).difference(plan.to_run)
            earlier = ours.wait_for_earlier(plan.folder, others) if isinstance(ours, ByScheduler) else []
            if earlier or (launch is not None and (ours is None or ours.waits)):
                ids = sorted([*plan.to_run, *earlier])
                _conclude(plan.folder, launch, ids, are_awaited=isinstance(ours, ByScheduler))
        size = batch_size or max(len(plan.ids), 1)
        return [Returns(plan.folder, plan.ids[at : at + size], self._config) for at in range(0, len(plan.ids), size)]

    def _hand_over(self, plan: Plan, launch: Launch, batch_size: int | None, ours: Here | ByScheduler | None) -> None:
        """The jobs of a launch have run, or wait. Ends the program where that cannot be."""
        with told_to_the_user():
            keep_configuration(self._config, plan.folder.join("launches", launch.number, "multirun.yaml"))
        size = batch_size if batch_size and not plan.arrangement else len(plan.to_run)
        with told_to_the_user(STOPPED):
            for at in range(0, len(plan.to_run), size):
                ids = plan.to_run[at : at + size]
                if ours is None:
                    self._run_elsewhere(plan, launch, ids)
                else:
                    ours.run(Handed(plan.folder, launch, plan.arrangement), ids)

    def _wanted(self, options: Options, arguments: Sequence[str], ours: Here | ByScheduler | None) -> Asked:
        arrange = None if ours is None else ours.arrange
        copies_code = ours is not None and ours.copies_code
        after = None if ours is None else ours.after
        return asked(self._composer, options, arguments, self._task, arrange, copies_code=copies_code, after=after)

    def _tell(self, options: Options, arguments: Sequence[str], ours: Here | ByScheduler | None) -> None:
        """People know what the sweep would do. Raises what it would be refused with before it runs anything."""
        refusal: ExperimentManagerError | None = None
        try:
            wanted = self._wanted(options, arguments, ours)
            refusal = trouble_to_plan(wanted.folder)
            found = dry_run(wanted)
        except HydraException as error:  # of a configuration that cannot be composed
            raise refusal or ExperimentManagerError(str(error)) from error
        except ExperimentManagerError as error:
            raise refusal or error from error
        self._tell_of_settings(found.plan.folder)
        for line in warnings(found):
            tell(line)
        name = str(self._config.hydra.runtime.choices.get("hydra/launcher"))
        for line in told(found, _summary(found.plan, found.n_new), self._config.hydra.launcher, name):
            say(line)
        if refusal := refusal or trouble_to_write(found.plan.folder):
            raise refusal

    def _run_elsewhere(self, plan: Plan, launch: Launch, ids: Sequence[int]) -> None:
        """Jobs of a plan have gone through a launcher that is not ours; the wrapped task function has recorded them."""
        self._recorded.launch = launch.number
        try:
            with Manifest(plan.folder) as manifest:
                batch = [self._composer.placed(plan.folder, job_id, manifest.job(job_id).overrides) for job_id in ids]
            _tell_of_refused(self._launcher.launch(batch, initial_job_idx=plan.to_run.index(ids[0])))
        except SystemExit as leaving:  # not by a task, see RecordedTask: by a callback, or by the launcher itself
            if not leaving.code:
                _conclude(plan.folder, launch, plan.to_run)  # which ends with another status when jobs have not run
            raise
        except OSError as error:  # of Hydra's own files: what a task function raises is in what it returns
            if not is_refused(error):
                raise
            raise FolderError(unwritable(plan.folder.path, error)) from error
        finally:
            States(plan.folder).table(reconcile=True)  # a worker that was killed never reached the end of its task

    def _tell_of_settings(self, folder: Folder) -> None:
        tell_of_settings(self._composer, self._config, self._directories, folder)


def keep_configuration(config: DictConfig, path: str) -> None:
    """The configuration of a sweep is in a file, as people look it up. Raises FolderError."""
    with writing(path), appearing(path, for_good=False) as temporary:
        OmegaConf.save(config, temporary)


def tell_of_settings(composer: Composer, config: DictConfig, directories: Mapping[str, Any], folder: Folder) -> None:
    """People know which of their settings a sweep does not use, or writes where others may read it; `directories` is
    `hydra.sweep` as they wrote it."""
    ignored = composer.chosen_directories(directories)
    if ignored:
        are, them = ("are", "them") if ignored[1:] else ("is", "it")
        tell(
            f"{', '.join(ignored)} {are} not used: the jobs of an experiment lie in {folder.join('jobs')}; take {them} "
            "out"
        )
    launcher: Any = OmegaConf.to_container(config.hydra.launcher, resolve=False)
    if launcher_of(launcher.get("_target_")) == "slurm_script" and (replaced := _replaced(composer, launcher)):
        tell(replaced)
    shown = [key for key in ("setup", "pre_script", "post_script", "wrap") if "oc.env" in str(launcher.get(key))]
    if shown:
        tell(
            f"warning: hydra.launcher.{shown[0]} reads ${{oc.env:...}}, whose value is written into the scripts "
            "and launch.json; write $NAME there instead, which the shell of the job reads"
        )
    for key in _with_secrets(launcher):
        tell(
            f"warning: hydra.launcher.{key} has what looks like a secret, and stands in launch.json and in the "
            "scripts; write $NAME there instead, which the shell of the job reads"
        )
    for overrides in dict.fromkeys(composer.unused.values()):
        keys = [key for key, first in composer.unused.items() if first == overrides]
        tell(
            f"{', '.join(keys)}, set in what {overrides} chooses, is not used: a sweep's settings are read before "
            "it chooses anything; set them in the program's own YAML or on the command line"
        )


def _with_secrets(launcher: Mapping[str, Any]) -> list[str]:
    """The options that show by themselves that they have a secret in them: they are needed as they are."""
    return [key for key, value in launcher.items() if masked(f"{key}={value}") != f"{key}={value}"]


def _replaced(composer: Composer, launcher: Mapping[str, Any]) -> str | None:
    """That options do not hold which the program's YAML has for the launcher in whose place slurm_script was chosen."""
    name, own = composer.replaced_launcher() or ("", {})
    if launcher_of(own.get("_target_")) != "slurm_submitit":
        return None
    usual = slurm_node("SlurmSubmititLauncher")
    lost = {key: value for key, value in own.items() if value != usual.get(key) and value != launcher.get(key)}
    lost.pop("_target_", None)
    if not lost:
        return None
    return (
        f"hydra/launcher=slurm_script takes the place of hydra/launcher={name}, whose {settings_text(lost)} "
        f"{'does' if len(lost) == 1 else 'do'} not hold; hydra.sweeper.dry_run=true, without it, shows what that asks "
        "for"
    )


def plain_options(written: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a sweeper as plain values; those that say nothing of `params` have none."""
    plain: dict[str, Any] = {
        key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for key, value in written.items()
    }
    return {**plain, "params": plain["params"] or {}}


def checked_options(written: Mapping[str, Any]) -> tuple[Options, int | None]:
    """The options of a sweep, and how many jobs are handed over at once. Raises ExperimentManagerError."""
    plain = plain_options(written)
    known = (*Options._fields, "max_batch_size")
    require_known(plain, known, prefix="hydra.sweeper.", choice="hydra/sweeper=experiment")
    batch_size = plain.pop("max_batch_size")
    if batch_size is not None and batch_size < 1:
        raise ExperimentManagerError(f"hydra.sweeper.max_batch_size={batch_size} runs nothing; use 1 or more, or null")
    return Options(**plain).check(), batch_size


def _require_one_process(config: DictConfig) -> None:
    """Raises OptionsError where a launcher that is not ours, as submitit_slurm, would start each job as several
    processes: each of them would make an attempt of its own."""
    launcher, name = config.hydra.launcher, config.hydra.runtime.choices.get("hydra/launcher")
    asked = {key: launcher.get(key) for key in ("nodes", "tasks_per_node")}
    n_tasks = schedulers.named("slurm").n_tasks(asked)
    if "tasks_per_node" not in launcher or n_tasks < 2:
        return
    raise OptionsError(
        f"hydra/launcher={name} would start each job as {n_tasks} processes (nodes={asked['nodes'] or 1}, "
        f"tasks_per_node={asked['tasks_per_node'] or 1}), and each of them would claim it; use hydra/launcher="
        "slurm_submitit, which takes the same options and runs them as the ranks of one job, or one process"
    )


def _summary(plan: Plan, n_new: int) -> str:
    """`experiments/train: 6 jobs pass (3 new); 3 run now, 3 COMPLETED are left alone`."""
    running = set(plan.to_run)
    left = Counter(plan.table.state(job_id) for job_id in plan.ids if job_id not in running)
    kept = "".join(f", {count} {state} left alone" for state, count in left.items())
    return f"{passing(plan, n_new)}; {len(plan.to_run)} to run{kept}"


def passing(plan: Plan, n_new: int) -> str:
    """`experiments/train: 6 jobs pass (3 new)`."""
    dropped = "".join(f", {len(step.ids)} dropped by {step.rule}" for step in plan.dropped)
    new = f" ({n_new} new in the manifest)" if n_new else ""
    verb = "passes" if len(plan.ids) == 1 else "pass"
    return f"{plan.folder.path}: {counted(len(plan.ids))} {verb}{dropped}{new}"


def tell_of_results(folder: Folder, ids: Iterable[int], table: StateTable) -> None:
    """People know what of the results of those jobs that have completed could not be stored, or is NaN."""
    completed = [job_id for job_id in ids if table.state(job_id) is State.COMPLETED]
    for line in sentences(result_warnings(folder, completed, table)):
        tell(line)


def _tell_of_refused(returned: Any) -> None:
    """People know why jobs did not begin that a launcher which is not ours has called; `returned` is what it says of
    all of them."""
    for job_return in returned or ():
        error = private_names.returned(job_return) if isinstance(job_return, JobReturn) else None
        if isinstance(error, JobRefused):
            tell(str(error))


def _conclude(where: Folder, launch: Launch | None, ids: Sequence[int], *, are_awaited: bool = False) -> None:
    """Ends the program with status 1, saying what to do, when a job that was launched or waited for here has not
    completed. One that others have taken meanwhile, and run on, is left alone as one that ran before, unless they are
    awaited, whoever runs them."""
    table = reconciled(where)
    ended = {job_id: table.last(job_id).state for job_id in ids}  # also where it was done before, and is
    not_begun = () if launch is None else table.not_begun(planned_attempts(launch))
    ended |= {job_id: State.PENDING for job_id in not_begun if ended[job_id] is not State.QUEUED}
    tell_of_results(where, ids, table)
    if taken := {} if launch is None or are_awaited else _taken(where, launch, table):
        tell(_taken_told(where, taken))
    bad = [job_id for job_id, state in ended.items() if state not in ENDED_WELL and job_id not in taken]
    if not bad:
        return
    counts = ", ".join(f"{count} {state}" for state, count in Counter(ended[job_id] for job_id in bad).items())
    again = f"the same command runs {'it' if len(bad) == 1 else 'them'} again"
    if any(ended[job_id] in UNFINISHED for job_id in bad):
        again = "the same command runs what has not completed"
    folder = shlex.quote(os.path.relpath(where.path))
    tell(
        f"{len(bad)} of {counted(len(ended))} did not complete ({counts}); {again}, and "
        f"`experiment-manager show {folder} {bad[0]}` tells why {'it' if len(bad) == 1 else 'the first one'} did not"
    )
    raise SystemExit(1)


def _taken(where: Folder, launch: Launch, table: StateTable) -> dict[int, str]:
    """The jobs of a launch that run in another one, each with who runs it."""
    states, found = States(where), dict[int, str]()
    for job_id in planned_attempts(launch):
        last = table.last(job_id)
        if last.state is State.RUNNING:
            record = states.record(job_id, last.number)
            if record.get("launch") != launch.number:
                found[job_id] = processes.named(record)
    return found


def _taken_told(where: Folder, taken: Mapping[int, str]) -> str:
    """`2 jobs run elsewhere, taken by others meanwhile (job 3: process 12 on node7; job 5: ...)`."""
    by_whom = "; ".join(f"job {job_id}: {who}" for job_id, who in list(taken.items())[:_MOST_TAKEN])
    more = "; ..." if len(taken) > _MOST_TAKEN else ""
    wait = f"experiment-manager status {shlex.quote(os.path.relpath(where.path))} --wait"
    runs = "runs" if len(taken) == 1 else "run"
    return f"{counted(len(taken))} taken by others meanwhile {runs} there ({by_whom}{more}); `{wait}` waits"


class RecordedTask:
    """A task function that records its attempts, for launchers that call it themselves (basic, joblib, submitit).

    Wherever they call it, it has been pickled, and knows its launch: processes may have another environment than the
    sweep, or still have that of an earlier one."""

    launch: str | None = None
    """The number of the launch whose jobs it runs, set before a launcher gets these."""

    def __init__(self, task: Callable[[DictConfig], Any]) -> None:
        update_wrapper(self, task)
        self._task = task

    @property
    def function(self) -> Callable[[DictConfig], Any]:
        """The task function itself."""
        return self._task

    def __call__(self, config: DictConfig) -> Any:
        sweep_dir, subdir = HydraConfig.get().sweep.dir, HydraConfig.get().sweep.subdir
        folder = Folder.at(os.path.dirname(sweep_dir))
        launch = self.launch or os.environ.get(_LAUNCH_VARIABLE)
        with attempting(folder, int(subdir), launch=launch) as attempt:
            with Manifest(folder) as manifest:
                require_submitted(manifest, manifest.job(int(subdir)), config)
            value = self._call(config)
            attempt.leave(value)
            return value

    def _call(self, config: DictConfig) -> Any:
        """What the task returns. One that ends its process ends itself alone, as where it has a process of its own: it
        has returned nothing, or it has failed. Where it is submitit that leaves, its process has to end so."""
        try:
            return self._task(config)
        except SystemExit as leaving:
            if end_by_warning(leaving) is not None:
                raise
            if leaving.code in (None, 0):
                return None
            raise TaskExited(leaving.code) from leaving


class TaskExited(Exception):
    """What `sys.exit` with another status than 0 is to a launcher that calls a task."""

    def __init__(self, code: object) -> None:
        super().__init__(f"exit code {code}" if isinstance(code, int) else str(code))
