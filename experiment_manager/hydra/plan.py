"""From a sweep to a plan: which jobs there are, which of them pass, which are run now. Decide first, then write.

The plan is made under the experiment's lock and ends with four things on disk, in this order: the frozen YAML, the
manifest, the pass filter, and the record of the launch. When anything is wrong, none of them is touched.
"""

import gc
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

from experiment_manager.analysis import views
from experiment_manager.errors import ConfigurationChanged, FreezeError, JobRefused
from experiment_manager.execution.command import Place
from experiment_manager.hydra import entry
from experiment_manager.hydra.compose import ID, Composer, task_configuration
from experiment_manager.hydra.fast_compose import Factored
from experiment_manager.hydra.frozen_config import freeze
from experiment_manager.hydra.numbering import Known, Numbered
from experiment_manager.hydra.options import Options
from experiment_manager.model import codec, filters, policy
from experiment_manager.model.config_template import Configured, Frame
from experiment_manager.model.facts import CONFIGURATION, Unresolved, World
from experiment_manager.model.grid import Grid, Point, repeating, zipped
from experiment_manager.model.records import Attempt, Code, Entry, Job, JobId, Launch, Recipe, State
from experiment_manager.model.resolved import resolved, to_keep
from experiment_manager.progress import followed
from experiment_manager.scheduler.reconcile import reconciled
from experiment_manager.scheduler.scripts import Arrangement
from experiment_manager.store.code_snapshot import copy_code
from experiment_manager.store.launches import create_launch
from experiment_manager.store.layout import Folder, planning
from experiment_manager.store.leftovers import clear_leftovers
from experiment_manager.store.manifest import Manifest, changed_configuration
from experiment_manager.store.manifest_editor import ManifestEditor, editing, until_published
from experiment_manager.store.pass_filter import write_selection
from experiment_manager.store.states import Snapshot
from experiment_manager.text import tell


class Plan(NamedTuple):
    """What a sweep is going to do."""

    folder: Folder
    ids: Sequence[int]  # those that pass, in the order of the sweep
    dropped: tuple[filters.Dropped, ...]
    snapshot: Snapshot
    to_run: Sequence[int]
    n_new: int  # jobs that the manifest did not have
    launch: Launch | None  # None: there is nothing to run
    arrangement: Arrangement | None  # the job arrays of a launch that SLURM is to run


def swept_grid(composer: Composer, options: Options, arguments: Sequence[str]) -> Grid:
    """The distinct points of all blocks in order; the command line wins over a block, a block over `params`."""
    blocks = []
    for block in options.blocks or ({},):
        params = {**options.params, **(block.get("params") or {})}
        groups = block.get("zip") or options.zip
        names = [[composer.aliases.get(key, key) for key in group] for group in groups]
        blocks.append(repeating(zipped(composer.axes(params, arguments), names), options.repeat))
    grid = Grid(blocks, composer.config_name)
    if grid.repeated:
        tell(
            f"{', '.join(grid.repeated)}: a value that is given twice counts once; to run each job twice, add "
            "hydra.sweeper.repeat=2"
        )
    if lost := composer.lost_values(grid.settings()):
        tell(lost)
    return grid


Arrange = Callable[[Folder, Sequence[int], Callable[[int], Any]], Arrangement]
"""What arranges jobs into job arrays, given their ids and what tells the resolved configuration of one."""


def plan_sweep(
    composer: Composer,
    options: Options,
    arguments: Sequence[str],
    task: Any,
    about: Mapping[str, Any],
    arrange: Arrange | None = None,
    *,
    copies_code: bool = False,
) -> Plan:
    """The sweep is planned and recorded; nothing runs yet. Raises ExperimentManagerError with nothing written.

    `arrange` is there for launchers that hand jobs to SLURM. Points are made one by one, and made again where they are
    needed again: what is held for each job is its id.
    """
    folder = Folder(options.experiment_path, options.experiment_name)
    rules = filters.parse(options.pass_filter)
    if options.sample is not None:
        rules += (filters.Sample(options.sample, options.sample_seed),)
    grid = swept_grid(composer, options, arguments)
    asked = _Asked(folder, composer, options, task, rules, grid, Factored(composer, grid), arrange, copies_code)
    with _uncollected(), planning(folder):
        clear_leftovers(folder)
        return until_published(folder, lambda _: _planned(asked, about))


class _Asked(NamedTuple):
    """What a sweep asks for."""

    folder: Folder
    composer: Composer
    options: Options
    task: Any
    rules: Sequence[filters.Rule]
    grid: Grid
    factored: Factored
    arrange: Arrange | None
    copies_code: bool


def _planned(asked: _Asked, about: Mapping[str, Any]) -> Plan:
    """The plan of a sweep, on disk. Raises Overtaken when somebody else has published another manifest meanwhile."""
    folder, options, grid, factored = asked.folder, asked.options, asked.grid, asked.factored
    known = Known(folder)
    snapshot = reconciled(folder, is_to_act=True)
    numbered = Numbered(
        grid,
        known,
        lambda point: factored.configured(point).fingerprint,
        on_change=options.on_change,
        aliases=asked.composer.aliases,
    )
    kept: dict[int, dict[str, Any]] = {}
    ids, dropped = _passing(asked.rules, grid, numbered, factored, snapshot, known, folder, kept)
    states = {int(job_id): snapshot.state(job_id) for job_id in snapshot.attempts.keys() | snapshot.queued.keys()}
    to_run = policy.to_run(states, ids, options.rerun)
    _refuse_other_tasks(folder, known, ids, entry.task_name(asked.task))
    arrangement = None
    with editing(folder, known.generation) as editor:
        writer = _Writer(editor, known, folder, frozenset(ids), frozenset(to_run))
        for job_id, point in followed(numbered, len(numbered), "composing"):
            writer.add(job_id, point, factored)
        editor.keep({i: found for i, found in kept.items() if i in writer.passing or known.has_configuration(i)})
        if asked.arrange is not None and to_run:
            arrangement = asked.arrange(folder, to_run, _configurations(numbered, factored, to_run))
        if writer.uses_recipe:
            editor.set_variables(grid.names() if writer.n_new else ())
            recipe = recipe_of(asked.composer, folder, asked.task, options.on_drift, copies_code=asked.copies_code)
            editor.add_recipe(recipe, expected=writer.recipe)
            about = {**about, **_about_code(recipe)}
    write_selection(folder, sorted(ids), [rule.text for rule in asked.rules] or None)
    launch = None
    if to_run:
        attempts = (Attempt(JobId(i), snapshot.next_number(i), State.PENDING) for i in to_run)
        launch = create_launch(folder, attempts, {**about, **(arrangement.record if arrangement else {})})
    return Plan(folder, ids, dropped, snapshot, to_run, writer.n_new, launch, arrangement)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Inside, Python does not look for garbage in cycles: what planning makes is small, or lives until its end."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _passing(
    rules: Sequence[filters.Rule],
    grid: Grid,
    numbered: Numbered,
    factored: Factored,
    snapshot: Snapshot,
    known: Known,
    folder: Folder,
    kept: dict[int, dict[str, Any]],
) -> tuple[list[int], tuple[filters.Dropped, ...]]:
    """The ids of the jobs that pass, and what each rule dropped; `kept` has what interpolations stand for that rules
    read. Raises FilterError when nothing passes."""
    names = _read_keys(rules)
    settings = {setting.text: setting for setting in grid.settings()}

    def configuration(job: Job) -> Any:
        point = Point(tuple(settings[text] for text in job.overrides), None)
        encoded = factored.configured(point).encoded
        view = resolved(encoded, unresolved=Unresolved)
        if found := to_keep(encoded, view, names):
            kept[job.id] = found
        return view

    every: Set[int] = frozenset()
    if any(isinstance(rule, filters.Ids) for rule in rules):
        every = {*known, *(job_id for job_id, _ in numbered)}
    world = World(
        numbered.names(),
        every,
        configuration,
        snapshot.state,
        result=lambda job: views.returned(folder, job.id, snapshot),
        metrics=lambda job: views.last_metrics(folder, job.id, snapshot),
    )
    passing = filters.Passing(rules, followed(numbered.jobs(), len(numbered), "filtering"), world)
    ids = [int(job.id) for job in passing]
    filters.require_some(ids, passing.dropped, numbered.jobs(), folder.path)
    return ids, passing.dropped


def _read_keys(rules: Iterable[filters.Rule]) -> frozenset[str]:
    """The dotted keys of the configuration that rules name: `model.width` for `cfg.model.width < 3`."""
    named = (key.partition(".") for rule in rules for key in getattr(rule, "reads", ()))
    return frozenset(key for root, _, key in named if root == CONFIGURATION and key)


class _Writer:
    """Writes what a sweep adds to the manifest, point by point."""

    def __init__(
        self, editor: ManifestEditor, known: Known, folder: Folder, passing: Set[int], to_run: Set[int]
    ) -> None:
        self._editor, self._known, self._folder = editor, known, folder
        self.passing, self._is_to_run = passing, to_run
        self.recipe = editor.next_recipe()  # as long as nobody knows whether it is one that is there
        self.uses_recipe = False
        self.n_new = 0

    def add(self, job_id: JobId, point: Point, factored: Factored) -> None:
        """The manifest has the job of a point, and its configuration when it passes.

        Raises ConfigurationChanged when it has the job with another one; with `on_change=new` it was not taken for it.
        """
        if job_id not in self._known:
            configured = factored.configured(point) if job_id in self.passing else None
            self._editor.add_point(job_id, point, configured, self.recipe)
            self.n_new += 1
            self.uses_recipe = True
        elif job_id in self.passing:
            self._meet(job_id, point, factored.configured(point))

    def _meet(self, job_id: JobId, point: Point, configured: Configured) -> None:
        mark, was = configured.fingerprint, self._known.fingerprint(job_id)
        job = Job(job_id, "", {}, point.overrides, mark, self.recipe)
        if was is None:
            self._editor.set_configuration(job, configured)
            self.uses_recipe = True
        elif was != mark:
            way_out = "add the changed jobs as new ones with hydra.sweeper.on_change=new"
            raise ConfigurationChanged(changed_configuration(self._folder, job_id, configured.encoded, way_out))
        elif job_id in self._is_to_run:  # it is run as this sweep was started
            self._editor.renew_recipe(job)
            self.uses_recipe = True


def _configurations(numbered: Numbered, factored: Factored, ids: Sequence[int]) -> Callable[[int], Any]:
    """What tells the resolved configuration of a job; the points are looked up when it is asked for the first time."""

    @cache
    def points() -> dict[int, Point]:
        wanted = frozenset(ids)
        return {job_id: point for job_id, point in numbered if job_id in wanted}

    return lambda job_id: resolved(factored.configured(points()[job_id]).encoded)


def _refuse_other_tasks(folder: Folder, known: Known, ids: Iterable[int], task: str) -> None:
    """Nothing happens when the jobs that are there call the same function; another one's results are not ours."""
    recipes = {known.recipe(job_id): job_id for job_id in ids if job_id in known} if known else {}
    recipes.pop(None, None)
    if not recipes:
        return
    with Manifest(folder) as manifest:
        for number, job_id in recipes.items():
            assert number is not None
            found = manifest.recipe(number).task
            if found != task:
                raise JobRefused(
                    f"job {job_id} of {folder.path} belongs to {found}, and this sweep is of {task}; give this one an "
                    "experiment of its own with hydra.sweeper.experiment_name=..."
                )


def recipe_of(composer: Composer, folder: Folder, task: Any, on_drift: str, *, copies_code: bool) -> Recipe:
    """How the jobs of this sweep are composed and run again; their YAML, and if need be their function and their code,
    is frozen."""
    program = entry.this_program()
    code = _code(folder, task, program) if copies_code else None
    task_pickle = None
    if program is None or not entry.runs_by_command_line():
        from experiment_manager.hydra.pickled_task import freeze_task

        script = None if code is None or code.script is None else folder.join(code.path, code.script)
        task_pickle = freeze_task(folder, task, script)
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
        code=code,
    )


def _about_code(recipe: Recipe) -> dict[str, Any]:
    """What the record of a launch keeps of it."""
    return {} if recipe.code is None else {"code": recipe.code.path}


def _code(folder: Folder, task: Any, program: Entry | None) -> Code:
    if sys.flags.ignore_environment:
        raise FreezeError("a snapshot needs PYTHONPATH, which -E and -I turn off; leave them or the snapshot out")
    script = None
    if program is not None and program.target[:1] != ("-m",):
        script = os.path.join(program.cwd, *program.target)
        if not os.path.isfile(script):  # a folder with a __main__.py
            script = getattr(sys.modules["__main__"], "__file__", None)
    return copy_code(folder, entry.file_of(task), os.getcwd() if program is None else program.cwd, script)


def _proposed(composer: Composer, overrides: Sequence[str]) -> Point:
    """The point that another sweeper has proposed, without what it says to Hydra."""
    axes = composer.axes({}, [item for item in overrides if not item.startswith("hydra.")])
    return Point(tuple(axis.steps[0][0] for axis in axes), None)


def add_batch(
    composer: Composer,
    folder: Folder,
    batch: Sequence[Sequence[str]],
    task: Any,
    earlier: Sequence[int],
    about: Mapping[str, Any],
    arrange: Arrange | None = None,
    *,
    first_number: int,
    copies_code: bool = False,
) -> tuple[Launch, list[int], Arrangement | None]:
    """Jobs that another sweeper proposed are new jobs, whatever they are: it wants them run, also the same again. They
    write where `hydra.sweep` says.

    `earlier` are the ids of the batches before, which stay in the pass filter; `first_number` is the sweeper's number
    of the first job.
    """
    composed, places = [], []
    for number, overrides in enumerate(batch, start=first_number):
        config = composer.composed(overrides)
        composed.append(Configured(Frame(task_configuration(config))))
        places.append(composer.place(config, number))
    points = [_proposed(composer, overrides) for overrides in batch]

    def planned(_: int) -> tuple[Launch, list[int], Arrangement | None]:
        known = Known(folder)
        first = known.next_id
        jobs = []
        for place, (point, overrides) in enumerate(zip(points, batch, strict=True)):
            job_id = JobId(first + place)
            identity = codec.digest(["other sweeper", job_id])
            sweep_dir, subdir = (text.replace(ID, str(job_id)) for text in places[place])
            directory = os.path.abspath(os.path.join(sweep_dir, subdir))
            placed = Place(first_number + place, sweep_dir, subdir, directory).overrides()
            jobs.append(Job(job_id, identity, point.variables, (*overrides, *placed), None, None))
        recipe = recipe_of(composer, folder, task, "error", copies_code=copies_code)
        with editing(folder, known.generation) as editor:
            editor.set_variables(name for job in jobs for name in job.variables)
            number_of_recipe = editor.add_recipe(recipe)
            for job, found in zip(jobs, composed, strict=True):
                editor.add_job(job._replace(fingerprint=found.fingerprint, recipe=number_of_recipe), found)
        write_selection(folder, [*earlier, *(job.id for job in jobs)], "proposed by another sweeper")
        arrangement = arrange and arrange(
            folder, [job.id for job in jobs], lambda job_id: resolved(composed[job_id - first].encoded)
        )
        record = {**about, **_about_code(recipe), **(arrangement.record if arrangement else {})}
        launch = create_launch(folder, (Attempt(job.id, 1, State.PENDING) for job in jobs), record)
        return launch, [int(job.id) for job in jobs], arrangement

    with planning(folder):
        clear_leftovers(folder)
        return until_published(folder, planned)
