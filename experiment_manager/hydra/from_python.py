"""Sweeps that a Python program or a notebook defines and launches: what `python train.py -m ...` does, in two steps,
and without a program for the first of them.

A sweep that is defined here is planned and written by what plans and writes every other; its jobs know no program until
they are launched. Nothing here ends the process: what is wrong is raised.
"""

import importlib
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple
from warnings import catch_warnings, simplefilter

from hydra import initialize, initialize_config_dir, version
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobRuntime
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from experiment_manager.analysis.status import counts_text
from experiment_manager.errors import ExperimentManagerError, JobRefused, OptionsError
from experiment_manager.execution.command import quoted
from experiment_manager.execution.pool import JobEnd, ends_html
from experiment_manager.hydra import entry, private_names
from experiment_manager.hydra.commit import about_arrays, about_code, commit_sweep
from experiment_manager.hydra.compose import Composer, as_written
from experiment_manager.hydra.launchers import (
    ByScheduler,
    Handed,
    Here,
    about,
    require_may_launch,
    without_rank,
)
from experiment_manager.hydra.pickled_task import pickled
from experiment_manager.hydra.plan import Known, asked, code_of, refuse_other_tasks, script_in, uncollected
from experiment_manager.hydra.sweeper import (
    RecordedTask,
    checked_options,
    keep_configuration,
    passing,
    tell_of_results,
    tell_of_settings,
)
from experiment_manager.model import html, policy
from experiment_manager.model.facts import resolved
from experiment_manager.model.ids import which
from experiment_manager.model.records import Attempt, Entry, Job, JobId, Launch, Recipe, State, launcher_of
from experiment_manager.scheduler.reconcile import reconciled
from experiment_manager.scheduler.scripts import configured_of, require_program
from experiment_manager.scheduler.submission import Submitted
from experiment_manager.scheduler.upstream import pairs
from experiment_manager.store.files import is_file, is_folder
from experiment_manager.store.holds import not_held
from experiment_manager.store.launches import (
    clear_leftovers,
    create_launch,
    driven,
    kept_pruner,
    kept_upstream,
    tell_of_wrap_left_out,
)
from experiment_manager.store.layout import Folder, planning
from experiment_manager.store.manifest import Manifest, unconfigured, without_program
from experiment_manager.store.manifest_editor import editing, until_published
from experiment_manager.store.pass_filter import read_selection
from experiment_manager.text import counted, tell

Task = str | os.PathLike[str] | Callable[..., Any]
"""What runs the jobs: the path of a script, `module:function`, or a function of the configuration."""

_SWEEPER: Final = "hydra/sweeper"
_LAUNCHER: Final = "hydra/launcher"
_OURS: Final = "local_pool, slurm_script, slurm_submitit"


class Launched(NamedTuple):
    """Jobs that were launched: `ran` says how those of local_pool have ended, `scripts` are the paths that were written
    for a scheduler, `submitted` what was handed to it."""

    launch: Launch | None  # None: no job was to run, and nothing was done
    ids: tuple[int, ...]
    ran: tuple[JobEnd, ...] = ()
    scripts: tuple[str, ...] = ()
    submitted: tuple[Submitted, ...] = ()

    def __repr__(self) -> str:
        if self.launch is None:
            return "Launched(nothing to run)"
        counts = counts_text(Counter(str(end.state or "not run") for end in self.ran))
        return f"Launched({counts if self.ran else which(self.ids)} in launch {self.launch.number})"

    def _repr_html_(self) -> str:
        return html.block(html.sentence(repr(self)), ends_html(self.ran))


def define(
    config_dir: str | os.PathLike[str],
    config_name: str,
    overrides: Sequence[str],
    *,
    experiment_name: str | None,
    experiment_path: str | os.PathLike[str] | None,
) -> Folder:
    """The jobs of a sweep are in the folder that is returned, those that pass its filter with their configurations, and
    may run. Raises ExperimentManagerError, with nothing written."""
    directory = os.path.abspath(config_dir)
    if not is_folder(directory):
        raise OptionsError(f"{directory} is no folder; from_sweep takes the folder of the program's YAML")
    if isinstance(overrides, str):
        raise OptionsError(f"overrides={overrides!r} is one text; give a list, with one override in each item")
    named = {"experiment_name": experiment_name, "experiment_path": experiment_path}
    ours = [f"hydra.sweeper.{key}={quoted(os.fspath(value))}" for key, value in named.items() if value is not None]
    given = [*overrides, *ours]
    with _raised(), _composing(directory, experiment_name or os.path.basename(config_name)) as loader:
        config = _of_our_sweeper(partial(_loaded, loader, config_name), given)
        written: Any = OmegaConf.to_container(config.hydra.sweep, resolve=False)
        options, batch_size = checked_options(_values(config.hydra.sweeper))
        if options.dry_run:
            raise OptionsError("hydra.sweeper.dry_run defines no jobs; leave it out, or ask the program with it")
        with read_write(config.hydra.sweep):
            config.hydra.sweep.dir = os.path.abspath(
                os.path.join(options.experiment_path, options.experiment_name, "launches")
            )
        private_names.tell_of_missing()
        private_names.copy_by_hand()
        composer = Composer(loader, config)
        plan, n_new, _ = commit_sweep(asked(composer, options, as_written(config, "task"), None), {})
        tell_of_settings(composer, config, written, plan.folder)
        if options.rerun != "failed" or batch_size is not None:
            tell("hydra.sweeper.rerun and max_batch_size are for sweeps that run their jobs; launch takes rerun, too")
        tell(passing(plan, n_new))
    return plan.folder


def launch(folder: Folder, launcher: str, task: Task | None, options: Mapping[str, Any], *, rerun: str) -> Launched:
    """The jobs that may run, and are to, have run or wait for a scheduler. Raises ExperimentManagerError, and
    KeyboardInterrupt after a signal: the jobs that ran here have ended then."""
    policy.check_rerun(rerun)
    require_may_launch()
    recipe = _newest_recipe(folder)
    program = None if task is None else _Program.of(task)
    with without_rank(), _raised(), _composing(_main_folder(folder, recipe), recipe.job_name) as loader:
        config = _with_launcher(loader, folder, recipe, launcher, options)
        with read_write(config.hydra.sweep):
            config.hydra.sweep.dir = folder.join("launches")
        ours: Here | ByScheduler = _prepared(loader, config, launcher)
        with uncollected(), planning(folder):
            clear_leftovers(folder)
            pruner = _pruner(config, folder)
            write = _Launching(folder, ours, program, about(config, ours), pruner, rerun, "after" in options)
            made = until_published(folder, write.write)
    if made is None:
        tell(f"{folder.path}: nothing to run")
        with without_rank():
            _wait_for_earlier(folder, ours, ())
        return Launched(None, ())
    handed, ids = made
    with driven(folder, handed.launch), without_rank():
        keep_configuration(config, folder.join("launches", handed.launch.number, "multirun.yaml"))
        tell(f"{folder.path}: {counted(len(ids))} to run by {launcher}")
        done = ours.hand_over(handed, ids, "launching again")
        if ours.waits:
            tell_of_results(folder, [*ids, *_wait_for_earlier(folder, ours, ids)], reconciled(folder))
    return Launched(handed.launch, tuple(ids), done.ran, done.scripts, done.submitted)


def _wait_for_earlier(folder: Folder, ours: Here | ByScheduler, ids: Collection[int]) -> list[int]:
    """What may run besides these jobs, and earlier launches have in hand, has ended, too; see `ByScheduler`."""
    if not isinstance(ours, ByScheduler):
        return []
    return ours.wait_for_earlier(folder, set(read_selection(folder)).difference(ids))


class _Program(NamedTuple):
    """What is to run the jobs."""

    name: str
    entry: Entry
    file: str
    function: Any = None  # None: the command line starts it

    @classmethod
    def of(cls, task: Task) -> "_Program":
        """Raises JobRefused for what is not there."""
        if callable(task):
            return cls(entry.task_name(task), entry.nothing(), entry.file_of(task), task)
        text = os.fspath(task)
        module, colon, name = text.partition(":")
        if colon and all(part.isidentifier() for part in [*module.split("."), name]):
            function = _imported(module, name)
            return cls(f"{module}:{name}", entry.nothing(), entry.file_of(function), function)
        if not is_file(text):
            raise JobRefused(
                f"the program {text} is not in {os.getcwd()}; name a script by its path, or a function by module:name"
            )
        return cls(os.path.basename(text), entry.of_script(text), os.path.abspath(text))


def _imported(module: str, name: str) -> Any:
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise JobRefused(f"{module}:{name} cannot be imported here ({error}); name a function of a module") from error
    if not callable(found):
        raise JobRefused(f"{module}:{name} is a {type(found).__name__}, and no function")
    return found


class _Launching(NamedTuple):
    """What is to be launched, and by what."""

    folder: Folder
    ours: Here | ByScheduler
    program: _Program | None  # None: what each job has been launched with before
    about: Mapping[str, Any]
    pruner: Mapping[str, Any]
    rerun: str
    is_after_chosen: bool  # by whoever launches; else jobs come after what they came after before

    def write(self, generation: int) -> tuple[Handed, list[int]] | None:
        """The launch is on disk; None where no job is to run. Raises Overtaken, and ExperimentManagerError."""
        folder = self.folder
        table = reconciled(folder, is_to_act=True)
        selected = read_selection(folder)
        to_run = policy.to_run({job_id: table.state(job_id) for job_id in selected}, selected, self.rerun)
        to_run = configured_of(folder, not_held(folder, to_run))
        if not to_run:
            return None
        with Manifest(folder) as manifest:
            jobs = [manifest.job(job_id) for job_id in to_run]
            recipes = self._recipes(manifest, jobs)
            known = manifest.encoded_configuration
            arrange = self.ours.arrange
            arrangement = arrange and arrange(folder, to_run, lambda job_id: resolved(known(JobId(job_id))))
        code = next(iter(recipes.values())).code
        if self.program is not None:
            with editing(folder, generation) as editor:
                numbers = {number: editor.add_recipe(recipe) for number, recipe in recipes.items()}
                for job in jobs:
                    editor.renew_recipe(job._replace(recipe=numbers[_number(job, folder)]))
        attempts = (Attempt(JobId(i), table.next_number(i), State.PENDING) for i in to_run)
        upstream = {} if self.is_after_chosen else kept_upstream(folder, to_run)
        if not upstream and self.ours.after is not None:
            upstream = {"upstream": pairs(folder, self.ours.after, {int(job.id): job.variables for job in jobs})}
        if arrangement is None:
            tell_of_wrap_left_out(folder, to_run)
        record = {**self.about, **self.pruner, **upstream, **about_code(code), **about_arrays(arrangement)}
        return Handed(folder, create_launch(folder, attempts, record), arrangement), to_run

    def _recipes(self, manifest: Manifest, jobs: Sequence[Job]) -> dict[int, Recipe]:
        """The recipes of these jobs by the numbers that they have now, each with the program that is to run it."""
        recipes = {number: manifest.recipe(number) for number in {_number(job, self.folder) for job in jobs}}
        if self.program is None:
            for number, recipe in recipes.items():
                members = [int(job.id) for job in jobs if job.recipe == number]
                if not recipe.has_program:
                    raise JobRefused(without_program(members[0], self.folder))
                options = None if self.ours.arrange is None else self.about["options"]
                require_program(self.folder, recipe, members, options)
            return recipes
        refuse_other_tasks(self.folder, Known(self.folder), [int(job.id) for job in jobs], self.program.name)
        changes = self._started()
        return {number: recipe._replace(**changes) for number, recipe in recipes.items()}

    def _started(self) -> dict[str, Any]:
        """What a recipe says of the program; what it needs in the folder is there. Raises FreezeError."""
        assert self.program is not None
        name, program, file, function = self.program
        copied = None
        if self.ours.copies_code:
            copied = code_of(self.folder, file, program if function is None else None)
            copied.write(self.folder)
        pickle = None
        if function is not None:
            pickle = pickled(function, script_in(self.folder, copied))
            pickle.write(self.folder)
        return {
            "task": name,
            "entry": program,
            "task_pickle": None if pickle is None else pickle.path,
            "code": None if copied is None else copied.code,
        }


def _number(job: Job, folder: Folder) -> int:
    """The number of a job's recipe. Raises JobRefused for a job that has none."""
    if job.fingerprint is None:
        raise JobRefused(unconfigured(job.id, folder))
    if job.recipe is None:
        raise JobRefused(
            f"job {job.id} of {folder.path} was written in Python, and by no sweep: run it with exp.run(runner), or "
            "write scripts for it with exp.generate_slurm_script(runner)"
        )
    return job.recipe


def _newest_recipe(folder: Folder) -> Recipe:
    """How the newest sweep of an experiment composes its jobs, of those that may run."""
    folder.require()
    with Manifest(folder) as manifest:
        if manifest.search is not None:
            raise JobRefused(f"{folder.path} is a search, which its workers run: exp.run(), or the same command again")
        selected = read_selection(folder)
        without = frozenset(manifest.unconfigured(selected))
        if selected and without.issuperset(selected):
            raise JobRefused(unconfigured(selected[0], folder))
        jobs = [manifest.job(job_id) for job_id in selected if job_id not in without]
        return manifest.recipe(max(_number(job, folder) for job in jobs))


def _main_folder(folder: Folder, recipe: Recipe) -> str | None:
    """The frozen copy of the program's own YAML; None where it has none that is copied."""
    places = (folder.join(source.path) for source in recipe.sources if source.provider == "main" and source.frozen)
    return next(places, None)


def _pruner(config: DictConfig, folder: Folder) -> Mapping[str, Any]:
    """What the record of a launch keeps of how jobs are compared, and what ends them early: as the sweep says, else as
    the last launch did."""
    if config.hydra.runtime.choices.get(_SWEEPER) != "experiment":
        return kept_pruner(folder)
    options, _ = checked_options(_values(config.hydra.sweeper))
    return options.ranking


def _values(node: DictConfig) -> dict[str, Any]:
    """The options of a plugin, which Hydra would give it."""
    return {str(key): node[key] for key in node if key not in ("_target_", "_recursive_")}


def _loaded(loader: ConfigLoader, config_name: str | None, overrides: Sequence[str]) -> DictConfig:
    return loader.load_configuration(config_name, list(overrides), RunMode.MULTIRUN)


def _of_our_sweeper(load: Callable[[Sequence[str]], DictConfig], overrides: Sequence[str]) -> DictConfig:
    """The configuration of the sweep itself. Raises OptionsError for another sweeper than `experiment`, which is taken
    where none is chosen."""
    if any(item.startswith(_SWEEPER) for item in overrides):
        config = load(overrides)
    else:
        try:
            config = load(overrides)
        except HydraException:  # settings of a sweeper that nobody has chosen yet
            config = load([f"{_SWEEPER}=experiment", *overrides])
        if config.hydra.runtime.choices.get(_SWEEPER) == "basic":
            config = load([f"{_SWEEPER}=experiment", *overrides])
    chosen = config.hydra.runtime.choices.get(_SWEEPER)
    if chosen != "experiment":
        raise OptionsError(
            f"from_sweep defines the jobs of {_SWEEPER}=experiment, and of no {chosen}; begin that from its program"
        )
    return config


def _with_launcher(
    loader: ConfigLoader, folder: Folder, recipe: Recipe, launcher: str, options: Mapping[str, Any]
) -> DictConfig:
    """The configuration of the sweep with these options of that launcher, besides those that the frozen YAML has for
    it. Raises OptionsError."""
    config = _as_it_was_swept(loader, folder, recipe)
    own = (config.hydra.runtime.choices.get(_LAUNCHER), launcher_of(config.hydra.launcher.get("_target_")))
    if launcher not in own:
        try:
            other = _loaded(loader, None, [f"{_LAUNCHER}={launcher}", "hydra.job.name=" + quoted(recipe.job_name)])
        except HydraException:
            raise OptionsError(f"{launcher!r} is no launcher of ours; there are {_OURS}") from None
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.launcher = other.hydra.launcher
            config.hydra.runtime.choices[_LAUNCHER] = launcher
    node = config.hydra.launcher
    for name, value in options.items():
        if name not in node or name in ("_target_", "_recursive_"):
            there = ", ".join(key for key in _values(node) if not key.startswith("experiment_"))
            raise OptionsError(f"{launcher} has no option {name}; it has {there}")
        try:
            with read_write(node):
                node[name] = value
        except OmegaConfBaseException as error:
            raise OptionsError(f"{launcher}: {name}={value!r}: {str(error).splitlines()[0]}") from error
    return config


def _as_it_was_swept(loader: ConfigLoader, folder: Folder, recipe: Recipe) -> DictConfig:
    """The configuration of a sweep, from its frozen YAML; a bare one where code or packages had a part in it."""
    places = [source for source in recipe.sources if source.provider != "main"]
    searched = [f"file://{folder.join(source.path)}" if source.frozen else source.path for source in places]
    searching = [f"hydra.searchpath=[{','.join(map(quoted, searched))}]"] if searched else []
    if _main_folder(folder, recipe) is not None:
        try:
            return _loaded(loader, recipe.config_name, [*recipe.hydra_overrides, *searching])
        except HydraException:
            pass
    return _loaded(loader, None, ["hydra.job.name=" + quoted(recipe.job_name)])


def _prepared(loader: ConfigLoader, config: DictConfig, launcher: str) -> Here | ByScheduler:
    context = HydraContext(config_loader=loader, callbacks=None)  # type: ignore[arg-type]  # nobody listens here
    made: Any = Plugins.instance().instantiate_launcher(
        hydra_context=context, task_function=RecordedTask(_nothing), config=config
    )
    if not hasattr(made, "prepared"):
        raise OptionsError(f"{launcher!r} is no launcher of ours; there are {_OURS}")
    found: Here | ByScheduler = made.prepared()
    return found


def _nothing(_: DictConfig) -> None:
    """What a launcher is given that never calls it."""


@contextmanager
def _raised() -> Iterator[None]:
    """What Hydra and OmegaConf complain of is an ExperimentManagerError."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ExperimentManagerError(str(error)) from error


@contextmanager
def _composing(directory: str | None, job_name: str) -> Iterator[ConfigLoader]:
    """Inside, Hydra reads what lies in a folder; outside it is as it was, also in the middle of another program of
    Hydra's. The newest rules of composition hold, `version_base=None`."""
    instance, runtime, base = GlobalHydra.instance(), JobRuntime.instance(), version.VersionBase.instance()
    before = (instance.hydra, runtime.get("name"), base.version_base)
    instance.clear()
    try:
        with catch_warnings():
            simplefilter("ignore")  # Hydra 1.4 wants no version_base, and those before it want one
            began: Any = (
                initialize(config_path=None, job_name=job_name, version_base=None)
                if directory is None
                else initialize_config_dir(directory, job_name=job_name, version_base=None)
            )
        with began:
            yield GlobalHydra.instance().config_loader()
    finally:
        GlobalHydra.instance().hydra = before[0]
        runtime.set("name", before[1])
        base.version_base = before[2]
