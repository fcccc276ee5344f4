"""From a sweep to a plan: which jobs there are, which of them pass, which are run now. Decide first, then write.

The plan is made under the experiment's lock and ends with four things on disk, in this order: the frozen YAML, the
manifest, the pass filter, and the record of the launch. When anything is wrong, none of them is touched.
"""

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from experiment_manager import codec, decisions, filters, grid
from experiment_manager.disk.folder import Folder, planning
from experiment_manager.disk.launches import create_launch
from experiment_manager.disk.manifest import Manifest, changed_configuration, editing
from experiment_manager.disk.selection import write_selection
from experiment_manager.disk.states import Snapshot
from experiment_manager.errors import ConfigurationChanged, ExperimentManagerError, GridError, JobRefused
from experiment_manager.hydra import entry
from experiment_manager.hydra.compose import Composer, fingerprint
from experiment_manager.hydra.factor import Factored
from experiment_manager.hydra.freeze import freeze
from experiment_manager.progress import followed
from experiment_manager.records import Attempt, Entry, Job, JobId, Launch, Recipe, State
from experiment_manager.resolved import resolved
from experiment_manager.slurm.emit import Arrangement
from experiment_manager.slurm.reconcile import reconciled


class Options(NamedTuple):
    """`hydra.sweeper.*`, checked."""

    experiment_name: str
    experiment_path: str
    params: Mapping[str, Any]
    zip: Sequence[Sequence[str]]
    blocks: Sequence[Mapping[str, Any]]
    pass_filter: Any
    sample: int | None
    sample_seed: int
    rerun: str
    on_change: str
    on_drift: str

    def check(self) -> "Options":
        """The same options. Raises ExperimentManagerError naming the one that is wrong."""
        for name, value, allowed in (
            ("rerun", self.rerun, decisions.RERUN),
            ("on_change", self.on_change, decisions.ON_CHANGE),
            ("on_drift", self.on_drift, decisions.ON_DRIFT),
        ):
            if value not in allowed:
                raise ExperimentManagerError(f"hydra.sweeper.{name}={value} is not known; use {', '.join(allowed)}")
        if self.sample is not None and self.sample < 1:
            raise ExperimentManagerError(f"hydra.sweeper.sample={self.sample} selects nothing; use 1 or more, or null")
        for group in self.zip:
            if isinstance(group, str) or not isinstance(group, Sequence):
                raise GridError(f"hydra.sweeper.zip has {group!r}; it is a list of groups: [[lr, batch_size]]")
        for block in self.blocks:
            if not isinstance(block, Mapping) or not set(block) <= {"params", "zip"}:
                raise GridError(
                    f"hydra.sweeper.blocks has {block!r}; a block is a mapping with the keys params and zip"
                )
        return self


class Plan(NamedTuple):
    """What a sweep is going to do."""

    folder: Folder
    jobs: Mapping[int, Job]  # those that pass
    dropped: tuple[filters.Dropped, ...]
    snapshot: Snapshot
    to_run: tuple[int, ...]
    n_new: int  # jobs that the manifest did not have
    launch: Launch | None  # None: there is nothing to run
    arrangement: Arrangement | None  # the job arrays of a launch that SLURM is to run


class _Known:
    """The jobs that the manifest has, by identity."""

    def __init__(self, folder: Folder) -> None:
        self.jobs: dict[int, Job] = {}
        self.by_identity: dict[str, list[tuple[int, str | None]]] = defaultdict(list)
        if folder.is_experiment():
            with Manifest(folder) as manifest:
                for job in manifest.jobs():
                    self.jobs[job.id] = job
                    self.by_identity[job.identity].append((job.id, job.fingerprint))
        self.next_id = max(self.jobs, default=-1) + 1

    def number(self) -> JobId:
        self.next_id += 1
        return JobId(self.next_id - 1)


class _Drafts:
    """What is to be written to the manifest."""

    def __init__(self) -> None:
        self.new: dict[int, Job] = {}
        self.configured: dict[int, tuple[Job, codec.Encoded, str]] = {}


def grid_points(composer: Composer, options: Options, arguments: Sequence[str]) -> list[grid.Point]:
    """The distinct points of all blocks in order; the command line wins over a block, a block over `params`."""
    points: list[grid.Point] = []
    for block in options.blocks or ({},):
        params = {**options.params, **(block.get("params") or {})}
        groups = block.get("zip") or options.zip
        points += grid.points(grid.zipped(composer.axes(params, arguments), groups), composer.config_name)
    return list(grid.distinct(points))


Arrange = Callable[[Folder, Sequence[int], Callable[[int], Any]], Arrangement]
"""What arranges jobs into job arrays, given their ids and what tells the resolved configuration of one."""


def plan_sweep(
    composer: Composer,
    options: Options,
    arguments: Sequence[str],
    task: Any,
    about: Mapping[str, Any],
    arrange: Arrange | None = None,
) -> Plan:
    """The sweep is planned and recorded; nothing runs yet. Raises ExperimentManagerError with nothing written.

    `arrange` is there for launchers that hand jobs to SLURM.
    """
    folder = Folder(options.experiment_path, options.experiment_name)
    rules = filters.parse(options.pass_filter)
    if options.sample is not None:
        rules += (filters.Sample(options.sample, options.sample_seed),)
    points = grid_points(composer, options, arguments)
    with planning(folder):
        known, drafts = _Known(folder), _Drafts()
        snapshot = reconciled(folder)
        factored = Factored(composer, points)
        by_overrides = {point.overrides: point for point in points}

        @cache
        def configuration_of(overrides: tuple[str, ...]) -> codec.Encoded:
            return factored.configuration(by_overrides[overrides])

        def configuration(job: Job | grid.Point) -> codec.Encoded:
            return configuration_of(job.overrides)

        jobs = [_provisional(point, known, drafts, configuration, options) for point in points]
        world = filters.World(
            names=frozenset(name for job in jobs for name in job.variables),
            ids=known.jobs.keys() | drafts.new.keys(),
            configuration=lambda job: resolved(configuration(job)),
            state=snapshot.state,
        )
        selection = filters.apply(rules, jobs, world)
        filters.require_some(selection, jobs, folder.path)
        passing: dict[int, Job] = {}
        for job in followed(selection.jobs, "composing"):
            final = _place(job, configuration(job), known, drafts, folder)
            passing[final.id] = final
        to_run = decisions.to_run({job_id: snapshot.state(job_id) for job_id in passing}, passing, options.rerun)
        _refuse_other_tasks(folder, passing.values(), entry.task_name(task))
        arrangement = None
        if arrange is not None and to_run:
            arrangement = arrange(folder, to_run, lambda job_id: resolved(configuration(passing[job_id])))
        again = [passing[job_id] for job_id in to_run if job_id in known.jobs and job_id not in drafts.configured]
        _write_manifest(composer, folder, drafts, again, task, options)
        write_selection(folder, sorted(passing), [rule.text for rule in rules] or None)
        launch = None
        if to_run:
            attempts = (Attempt(JobId(i), snapshot.next_number(i), State.PENDING) for i in to_run)
            launch = create_launch(folder, attempts, {**about, **(arrangement.record if arrangement else {})})
    return Plan(folder, passing, selection.dropped, snapshot, tuple(to_run), len(drafts.new), launch, arrangement)


def _provisional(
    point: grid.Point, known: _Known, drafts: _Drafts, configuration: Callable[..., codec.Encoded], options: Options
) -> Job:
    """The job of a point before it is placed: the one with that identity, or a new one with the next id.

    With `on_change=new` there may be, or come to be, several jobs of one identity: then the point is composed here, so
    that a filter sees the job that it will be.
    """
    same = known.by_identity.get(point.identity)
    if same:
        found = decisions.Match(same[-1][0])
        if len(same) > 1 or (options.on_change == "new" and same[-1][1] is not None):
            found = decisions.match(same, fingerprint(configuration(point)))
        if found.job_id is not None and not (found.is_changed and options.on_change == "new"):
            return known.jobs[found.job_id]._replace(overrides=point.overrides)
    job = Job(known.number(), point.identity, point.variables, point.overrides, None, None)
    drafts.new[job.id] = job
    return job


def _place(job: Job, encoded: codec.Encoded, known: _Known, drafts: _Drafts, folder: Folder) -> Job:
    """The job that a composed point is in the end. Raises ConfigurationChanged when `on_change` is `error`."""
    mark = fingerprint(encoded)
    if job.id not in drafts.new:
        match = decisions.match(known.by_identity[job.identity], mark)
        assert match.job_id is not None
        if match.is_changed:
            way_out = "add the changed jobs as new ones with hydra.sweeper.on_change=new"
            raise ConfigurationChanged(changed_configuration(folder, match.job_id, encoded, way_out))
        found = known.jobs[match.job_id]
        if found.fingerprint is not None:
            return found._replace(overrides=job.overrides)
        job = job._replace(id=found.id)
    drafts.configured[job.id] = (job, encoded, mark)
    return job._replace(fingerprint=mark)


def _refuse_other_tasks(folder: Folder, jobs: Iterable[Job], task: str) -> None:
    """Nothing happens when the jobs that are there call the same function; another one's results are not ours."""
    recipes = {job.recipe: job.id for job in jobs if job.recipe is not None}
    if not recipes:
        return
    with Manifest(folder) as manifest:
        for number, job_id in recipes.items():
            found = manifest.recipe(number).task
            if found != task:
                raise JobRefused(
                    f"job {job_id} of {folder.path} belongs to {found}, and this sweep is of {task}; give this one an "
                    "experiment of its own with hydra.sweeper.experiment_name=..."
                )


def _write_manifest(
    composer: Composer, folder: Folder, drafts: _Drafts, again: Sequence[Job], task: Any, options: Options
) -> None:
    """The manifest has what is new, and the jobs that are run again are run as this sweep was started."""
    if not drafts.new and not drafts.configured and not again:
        return
    recipe = recipe_of(composer, folder, task, options.on_drift)
    with editing(folder) as editor:
        editor.set_variables(name for job in drafts.new.values() for name in job.variables)
        number = editor.add_recipe(recipe)
        for job in drafts.new.values():
            editor.add_job(job)
        for job, encoded, mark in drafts.configured.values():
            editor.set_configuration(job._replace(fingerprint=mark, recipe=number), encoded)
        for job in again:
            editor.renew_recipe(job._replace(recipe=number))


def recipe_of(composer: Composer, folder: Folder, task: Any, on_drift: str) -> Recipe:
    """How the jobs of this sweep are composed and run again; their YAML, and if need be their function, is frozen."""
    program = entry.this_program()
    task_pickle = None
    if program is None or not entry.runs_by_command_line():
        from experiment_manager.hydra.pickled_task import freeze_task

        task_pickle = freeze_task(folder, task)
    return Recipe(
        entry=program or Entry(sys.executable, (), (), (), os.getcwd()),
        config_name=composer.config_name,
        sources=freeze(folder, composer.origins()),
        hydra_overrides=composer.hydra_overrides(),
        job_name=composer.job_name,
        task=entry.task_name(task),
        on_drift=on_drift,
        now=composer.now(),
        task_pickle=task_pickle,
    )


def add_batch(
    composer: Composer,
    folder: Folder,
    batch: Sequence[Sequence[str]],
    task: Any,
    earlier: Sequence[int],
    about: Mapping[str, Any],
    arrange: Arrange | None = None,
) -> tuple[Launch, list[Job], Arrangement | None]:
    """Jobs that another sweeper proposed are new jobs, whatever they are: it wants them run, also the same again.

    `earlier` are the ids of the batches before, which stay in the pass filter.
    """
    composed = [composer.configuration(overrides) for overrides in batch]
    points = [
        tuple(
            axis.steps[0][0]
            for axis in composer.axes({}, [item for item in overrides if not item.startswith("hydra.")])
        )
        for overrides in batch
    ]
    with planning(folder):
        known = _Known(folder)
        jobs = []
        for settings, overrides in zip(points, batch, strict=True):
            number = known.number()
            variables = grid.Point(settings, "").variables
            jobs.append(Job(number, codec.digest(["other sweeper", number]), variables, tuple(overrides), None, None))
        recipe = recipe_of(composer, folder, task, "error")
        with editing(folder) as editor:
            editor.set_variables(name for job in jobs for name in job.variables)
            number_of_recipe = editor.add_recipe(recipe)
            for job, found in zip(jobs, composed, strict=True):
                editor.add_job(job)
                editor.set_configuration(job._replace(fingerprint=fingerprint(found), recipe=number_of_recipe), found)
        write_selection(folder, [*earlier, *(job.id for job in jobs)], "proposed by another sweeper")
        encoded = {job.id: found for job, found in zip(jobs, composed, strict=True)}
        arrangement = arrange and arrange(folder, list(encoded), lambda job_id: resolved(encoded[JobId(job_id)]))
        record = {**about, **(arrangement.record if arrangement else {})}
        launch = create_launch(folder, (Attempt(job.id, 1, State.PENDING) for job in jobs), record)
    return launch, jobs, arrangement
