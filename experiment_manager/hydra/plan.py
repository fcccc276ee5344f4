"""From a sweep to a plan: which jobs there are, which of them pass, which are run now, and what is to be written.

Each point of a sweep is a job that the manifest has, or a new one with the next id. Reads and decides, and writes
nothing: `commit` makes a plan true, and `dry_run` tells it.
"""

import gc
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from enum import Enum, auto
from functools import cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from experiment_manager.analysis import results
from experiment_manager.analysis.tables import require_variables
from experiment_manager.errors import ConfigurationChanged, FolderError, FreezeError, JobRefused
from experiment_manager.execution.pickled_runner import Pickled
from experiment_manager.hydra import entry, frozen_config
from experiment_manager.hydra.compose import ENVIRONMENT, Composer
from experiment_manager.hydra.fast_compose import Factored
from experiment_manager.hydra.pickled_task import pickled
from experiment_manager.hydra.schema import Options
from experiment_manager.model import filters, policy
from experiment_manager.model.configurations import Configured
from experiment_manager.model.facts import CONFIGURATION, Facts, Unresolved, resolved, to_keep
from experiment_manager.model.grid import Grid, Point, repeating, require_few, sweep_identity, zipped
from experiment_manager.model.ids import which
from experiment_manager.model.records import Entry, Job, JobId, Recipe
from experiment_manager.model.secrets import masked, masked_words
from experiment_manager.model.stages import After
from experiment_manager.scheduler.reconcile import reconciled
from experiment_manager.scheduler.scripts import Arrangement
from experiment_manager.scheduler.upstream import pairs
from experiment_manager.store.code import CodeCopy, read_code
from experiment_manager.store.files import is_file, is_there
from experiment_manager.store.holds import not_held, not_removed
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest, changed_configuration
from experiment_manager.store.matching import Matching
from experiment_manager.store.programs import is_gone
from experiment_manager.store.states import StateTable
from experiment_manager.store.tags import read_tags
from experiment_manager.text import followed, tell

Arrange = Callable[[Folder, Sequence[int], Callable[[int], Any]], Arrangement]
"""What arranges jobs into job arrays, given their ids and what tells the resolved configuration of one."""
_NOBODY: Final[tuple[int, ...]] = ()


class Asked(NamedTuple):
    """What a sweep asks for."""

    folder: Folder
    composer: Composer
    options: Options
    task: Any  # None: it defines jobs and runs none, and whoever launches them names their program
    rules: Sequence[filters.Rule]
    grid: Grid
    factored: Factored
    arrange: Arrange | None  # for launchers that hand jobs to a scheduler
    copies_code: bool
    after: After | None = None  # what the jobs come after


def asked(
    composer: Composer,
    options: Options,
    arguments: Sequence[str],
    task: Any,
    arrange: Arrange | None = None,
    *,
    copies_code: bool = False,
    after: After | None = None,
) -> Asked:
    """What the options and arguments of a sweep ask for. Raises ExperimentManagerError."""
    folder = Folder(options.experiment_path, options.experiment_name, is_only_read=options.dry_run)
    rules = filters.parse(options.pass_filter)
    if options.sample is not None:
        rules += (filters.Sample(options.sample, options.sample_seed),)
    grid = swept_grid(composer, options, arguments)
    if options.pruning is not None:
        require_variables(options.pruning.group_by, grid.names())
    return Asked(folder, composer, options, task, rules, grid, Factored(composer, grid), arrange, copies_code, after)


def swept_grid(composer: Composer, options: Options, arguments: Sequence[str]) -> Grid:
    """The distinct points of all blocks in order; the command line wins over a block, a block over `params`."""
    blocks = []
    for block in options.blocks or ({},):
        params = {**options.params, **(block.get("params") or {})}
        groups = block.get("zip") or options.zip
        names = [[composer.aliases.get(key, key) for key in group] for group in groups]
        blocks.append(repeating(zipped(composer.axes(params, arguments), names), options.repeat))
    grid = Grid(blocks, composer.config_name)
    require_few(grid.size, f"the sweep has {grid.size:,} combinations of values")
    if grid.repeated:
        tell(
            f"{', '.join(grid.repeated)}: a value that is given twice counts once; to run each job twice, add "
            "hydra.sweeper.repeat=2"
        )
    if lost := composer.lost_values(grid.settings()):
        tell(lost)
    return grid


class Known:
    """The jobs that the manifest has: there may be a million, so only what tells them apart is held."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.generation = self.next_id = 0
        self._jobs: dict[int, tuple[str | None, int | None]] = {}  # fingerprint, number of the recipe
        self._by_identity: dict[str, tuple[int, ...]] = {}
        if folder.is_experiment():
            if not is_there(folder.manifest):
                raise FolderError(
                    f"{folder.path} holds an experiment of the original library ({folder.original_config}); take it "
                    "over with Experiment.load(...).save(), or give the sweep another name with "
                    "hydra.sweeper.experiment_name=..."
                )
            with Manifest(folder) as manifest:
                self.generation, self.next_id = manifest.generation, manifest.next_id
                for job_id, identity, fingerprint, recipe in manifest.index():
                    self._jobs[job_id] = (fingerprint, recipe)
                    self._by_identity[identity] = (*self._by_identity.get(identity, _NOBODY), job_id)

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._jobs

    def __iter__(self) -> Iterator[int]:
        return iter(self._jobs)

    def fingerprint(self, job_id: int) -> str | None:
        """None for a job without a configuration."""
        return self._jobs[job_id][0]

    def has_configuration(self, job_id: int) -> bool:
        return job_id in self._jobs and self._jobs[job_id][0] is not None

    def recipe(self, job_id: int) -> int | None:
        """The number of the job's recipe; None while it has none."""
        return self._jobs[job_id][1]

    def same(self, identity: str) -> list[tuple[int, str | None]]:
        """The jobs of an identity, in the order of their ids, with their fingerprints."""
        return [(job_id, self._jobs[job_id][0]) for job_id in self._by_identity.get(identity, _NOBODY)]


class Numbered:
    """The points of a grid with their ids; each time one goes through them they are the same.

    With `on_change=new` there may be, or come to be, several jobs of one identity: then a point is composed to tell
    which one it is, so that a filter sees the job that it will be.
    """

    def __init__(
        self,
        grid: Grid,
        known: Known,
        configured: Callable[[Point], Configured],
        *,
        on_change: str,
        aliases: Mapping[str, str] = MappingProxyType({}),
        typed_config_name: str | None = None,  # by which experiments of version 0.1 know their jobs
    ) -> None:
        names = grid.names()
        self._typed_config_name = typed_config_name
        self._aliases = {alias: name for alias, name in aliases.items() if name in names and alias not in names}
        self._grid, self._known, self._configured = grid, known, configured
        self._adds_changed = on_change == "new"
        self._matched: dict[str, int | None] = {}  # what took a composition to tell, by identity

    def __len__(self) -> int:
        """At most so many."""
        return len(self._grid)

    def __iter__(self) -> Iterator[tuple[JobId, Point]]:
        next_id = self._known.next_id
        is_first = not self._known
        with Matching(self._known.folder) as matching:
            for point in self._grid:
                job_id = None if is_first else self._found(point, matching)
                if job_id is None:
                    job_id, next_id = next_id, next_id + 1
                yield JobId(job_id), point

    def jobs(self) -> Iterator[Job]:
        """The same as far as a filter wants to know it."""
        for job_id, point in self:
            variables = point.variables
            for alias, name in self._aliases.items():
                if name in variables:
                    variables[alias] = variables[name]
            yield Job(job_id, "", variables, point.overrides, None, None)

    def names(self) -> frozenset[str]:
        """The names of variables in a filter: their own, and other names that the program has for them."""
        return frozenset([*self._grid.names(), *self._aliases])

    def _found(self, point: Point, matching: Matching) -> int | None:
        identity = point.identity
        same = self._known.same(identity)
        if not same and self._typed_config_name not in (None, point.config_name):
            identity = sweep_identity(point.settings, self._typed_config_name)
            same = self._known.same(identity)
        if not same:
            return None
        job_id, mark = same[-1]
        if len(same) == 1 and not (self._adds_changed and mark is not None):
            return job_id
        if identity not in self._matched:
            configured = self._configured(point)
            match = matching.match(same, configured.fingerprint, lambda: configured.encoded)
            self._matched[identity] = None if match.is_changed and self._adds_changed else match.job_id
        return self._matched[identity]


class Kind(Enum):
    """What becomes of a job in the manifest."""

    NEW = auto()
    CONFIGURED = auto()  # it is there, and gets its configuration
    RENEWED = auto()  # it is run again, as this sweep was started


class Change(NamedTuple):
    """One job of the manifest is to be written."""

    kind: Kind
    job_id: JobId
    point: Point
    configured: Configured | None  # None for a new job that does not pass
    was: str | None = None  # the fingerprint of the configuration that it has


class Plan(NamedTuple):
    """What a sweep is going to do with an experiment whose manifest is the one that was read."""

    asked: Asked
    known: Known
    table: StateTable
    numbered: Numbered
    ids: Sequence[int]  # those that pass, in the order of the sweep
    dropped: tuple[filters.Dropped, ...]
    kept: Mapping[int, Mapping[str, Any]]  # what interpolations stand for that rules have read, by job
    to_run: Sequence[int]
    arrangement: Arrangement | None  # the job arrays of what a scheduler is to run
    upstream: Mapping[str, Any] | None = None  # what those that run come after, as the record of the launch keeps it

    @property
    def folder(self) -> Folder:
        return self.asked.folder

    def changes(self) -> Iterator[Change]:
        """What is to be written to the manifest, in the order of the sweep. Points are made, and composed, as they are
        asked for: what a plan holds for each job is its id.

        Raises ConfigurationChanged for a job that is there with another configuration.
        """
        passing, to_run = frozenset(self.ids), frozenset(self.to_run)
        factored = self.asked.factored
        with Matching(self.folder) as matching:
            for job_id, point in followed(self.numbered, len(self.numbered), "composing"):
                if job_id not in self.known:
                    yield Change(Kind.NEW, job_id, point, factored.configured(point) if job_id in passing else None)
                elif job_id in passing:
                    configured = factored.configured(point)
                    kind = self._met(job_id, configured, matching, is_to_run=job_id in to_run)
                    if kind is not None:
                        yield Change(kind, job_id, point, configured, self.known.fingerprint(job_id))

    def _met(self, job_id: JobId, configured: Configured, matching: Matching, *, is_to_run: bool) -> Kind | None:
        """What is to be written of a job that is there and passes; None: nothing. With `on_change=new`, a job with
        another configuration was not taken for it."""
        mark, was = configured.fingerprint, self.known.fingerprint(job_id)
        if was is None:
            return Kind.CONFIGURED
        if was != mark and matching.has_changed(job_id, configured.encoded):
            way_out = "add the changed jobs as new ones with hydra.sweeper.on_change=new"
            raise ConfigurationChanged(changed_configuration(self.folder, job_id, configured.encoded, way_out))
        return Kind.RENEWED if is_to_run else None

    def freezing(self) -> "Freezing":
        """What makes its jobs run later as they would now; to be asked when all of them are composed."""
        asked = self.asked
        return freezing(asked.composer, self.folder, asked.task, asked.options.on_drift, copies_code=asked.copies_code)


def plan(asked: Asked) -> Plan:
    """What is going to be done for a sweep, decided from what is on disk now. Raises ExperimentManagerError."""
    folder, options, grid, factored = asked.folder, asked.options, asked.grid, asked.factored
    known = Known(folder)
    table = reconciled(folder, is_to_act=True)
    numbered = Numbered(
        grid,
        known,
        factored.configured,
        on_change=options.on_change,
        aliases=asked.composer.aliases,
        typed_config_name=asked.composer.typed_config_name,
    )
    read: dict[int, dict[str, Any]] = {}
    ids, dropped = _passing(asked.rules, grid, numbered, factored, table, known, folder, read)
    states = {int(job_id): table.state(job_id) for job_id in table.attempts.keys() | table.queued.keys()}
    if known:
        ids = not_removed(folder, ids, "this sweep")
    to_run = [] if asked.task is None else not_held(folder, policy.to_run(states, ids, options.rerun))
    program = None if asked.task is None else entry.this_program()
    other = None if options.on_other_program == "same" else program
    refuse_other_tasks(folder, known, ids, entry.task_name(asked.task), program, options.on_other_program)
    left = frozenset(ids).difference(to_run)
    _tell_of_other_starts(asked, known, left, program)
    _tell_of_other_content(folder, known, left, entry.task_name(asked.task), other)
    passing = frozenset(ids) if read else frozenset()
    kept = {i: found for i, found in read.items() if i in passing or known.has_configuration(i)}
    arrangement = None
    if asked.arrange is not None and to_run:
        arrangement = asked.arrange(folder, to_run, _configurations(numbered, factored, to_run))
    upstream = None
    if asked.after is not None and to_run:
        wanted = frozenset(to_run)
        upstream = pairs(folder, asked.after, {i: point.variables for i, point in numbered if i in wanted})
    return Plan(asked, known, table, numbered, ids, dropped, kept, to_run, arrangement, upstream)


@contextmanager
def uncollected() -> Iterator[None]:
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
    table: StateTable,
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
    facts = Facts(
        numbered.names(),
        every,
        configuration,
        table.state,
        result=lambda job: results.returned(folder, job.id, table),
        metrics=lambda job: results.last_metrics(folder, job.id, table),
        tags=lambda: read_tags(folder).jobs,
    )
    passing = filters.Passing(rules, followed(numbered.jobs(), len(numbered), "filtering"), facts)
    ids = [int(job.id) for job in passing]
    filters.require_some(ids, passing.dropped, numbered.jobs(), folder.path)
    return ids, passing.dropped


def _read_keys(rules: Iterable[filters.Rule]) -> frozenset[str]:
    """The dotted keys of the configuration that rules name: `model.width` for `cfg.model.width < 3`."""
    named = (key.partition(".") for rule in rules for key in getattr(rule, "reads", ()))
    return frozenset(key for root, _, key in named if root == CONFIGURATION and key)


def _configurations(numbered: Numbered, factored: Factored, ids: Sequence[int]) -> Callable[[int], Any]:
    """What tells the resolved configuration of a job; the points are looked up when it is asked for the first time."""

    @cache
    def points() -> dict[int, Point]:
        wanted = frozenset(ids)
        return {job_id: point for job_id, point in numbered if job_id in wanted}

    return lambda job_id: resolved(factored.configured(points()[job_id]).encoded)


def refuse_other_tasks(
    folder: Folder,
    known: Known,
    ids: Iterable[int],
    task: str,
    program: Entry | None = None,
    on_other_program: str = "error",
) -> None:
    """Nothing happens when the jobs that are there call the same function; another one's results are not ours. Of
    functions with the same name, it looks at the programs, too. People may say that one is the other: of functions with
    the same name, unless they lie in programs of different names that are both there."""
    for job_id, recipe in _recipes(folder, known, ids):
        found, here = recipe.task, task
        is_other = not _may_be_the_same(found, task)
        may_be_meant = is_other and program is not None and _may_be_renamed(recipe, task)
        if not is_other and program is not None and _compared(recipe, program, task, folder) is entry.Other.ANOTHER:
            is_other = may_be_meant = True
            found, here = _shown(recipe.entry), _shown(program)
        if is_other and not (may_be_meant and on_other_program == "same"):
            same = ", or, where both are one program, add hydra.sweeper.on_other_program=same"
            or_same = same if may_be_meant else ""
            raise JobRefused(
                f"job {job_id} of {folder.path} belongs to {found}, and this sweep is of {here}; give this one an "
                f"experiment of its own with hydra.sweeper.experiment_name=...{or_same}"
            )


def _recipes(folder: Folder, known: Known, ids: Iterable[int]) -> Iterator[tuple[int, Recipe]]:
    """The recipes of those jobs that are there, each with one of the jobs."""
    recipes = {known.recipe(job_id): job_id for job_id in ids if job_id in known} if known else {}
    recipes.pop(None, None)
    if recipes:
        with Manifest(folder) as manifest:
            yield from ((job_id, manifest.recipe(number)) for number, job_id in recipes.items() if number is not None)


def _compared(recipe: Recipe, program: Entry, task: str, folder: Folder) -> entry.Other:
    return entry.other_program(recipe.entry, program, task, folder.path)


def _shown(program: Entry) -> str:
    """What it runs, for people: a module, or a script by its whole path."""
    return " ".join(program.target) if program.target[0] == "-m" else os.path.join(program.cwd, program.target[0])


def _tell_of_other_starts(asked: Asked, known: Known, left: Set[int], program: Entry | None) -> None:
    """People know that jobs which are left alone were started with other arguments of the program's own, or in another
    environment, than this sweep: neither is part of what makes a job."""
    if program is None:
        return
    mine = _start(asked.composer, program, asked.composer.hydra_overrides())
    others, ids, now = dict[str, None](), list[int](), dict[str, str]()
    for job_id, recipe in _recipes(asked.folder, known, left):
        was = _start(asked.composer, recipe.entry, recipe.hydra_overrides)
        if recipe.entry.target and was != mine:
            ids.append(job_id)
            others[_differing(was, mine)] = None
            now |= {name: text for name, text in mine.items() if was.get(name) != text}
    if ids:
        more = " or otherwise" if len(others) > _MOST_STARTS else ""
        tell(
            f"warning: jobs that are left alone, as {which(ids)}, were started with "
            f"{' or '.join([*others][:_MOST_STARTS])}{more}, and this sweep with {_differing(now, {})}, which makes no "
            "other job; give this one an experiment of its own with hydra.sweeper.experiment_name=..., or run them "
            "again with hydra.sweeper.rerun=always"
        )


def _tell_of_other_content(folder: Folder, known: Known, left: Set[int], task: str, program: Entry | None) -> None:
    """People know that jobs which are left alone are of the same script in another working tree, where it is not the
    same to the letter: their results may be what this one would not return."""
    if program is None:
        return
    others = dict[str, int]()
    for job_id, recipe in _recipes(folder, known, left):
        if _compared(recipe, program, task, folder) is entry.Other.EDITED:
            others.setdefault(_shown(recipe.entry), job_id)
    if others:
        more = " or others" if len(others) > _MOST_STARTS else ""
        tell(
            f"warning: jobs that are left alone, as {which([*others.values()])}, were started from "
            f"{' or '.join([*others][:_MOST_STARTS])}{more}, whose content is not that of {_shown(program)}, the same "
            "file in another working tree of the repository; give this sweep an experiment of its own with "
            "hydra.sweeper.experiment_name=..., run them again with hydra.sweeper.rerun=always, or, where both are one "
            "program, add hydra.sweeper.on_other_program=same"
        )


_MOST_STARTS: Final = 3


def _start(composer: Composer, program: Entry, overrides: Iterable[str]) -> dict[str, str]:
    """What a program was started with, by name, as people see it: without secrets, which may be others each time."""
    environment = {f"{ENVIRONMENT}.{name}": value for name, value in composer.environment(overrides).items()}
    found = {name: f"{name}={value}" for name, value in environment.items()}
    arguments = shlex.join(masked_words(program.app_arguments))
    return {"": arguments} | {name: text for name, text in found.items() if masked(text) == text}


def _differing(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    return " ".join(text for name, text in one.items() if text and other.get(name) != text) or "nothing"


def _may_be_the_same(one: str, other: str) -> bool:
    """Whether two names of tasks can be of the same; one may be no more than a file, or nothing.

    >>> [_may_be_the_same("a.py:main", name) for name in ("a.py:main", "a.py", "", "a.py:other", "b.py")]
    [True, True, True, False, False]
    """
    (file, _, function), (other_file, _, other_function) = one.partition(":"), other.partition(":")
    is_file = file == other_file and (function == other_function or "" in (function, other_function))
    return is_file or "" in (one, other)


def _may_be_renamed(recipe: Recipe, task: str) -> bool:
    """Whether a function can be that of a recipe, whose program has another name now: it has the same name, and the
    program of the recipe is gone."""
    function, now = recipe.task.partition(":")[2], task.partition(":")[2]
    return function == now != "" and is_gone(recipe.entry)


class Freezing(NamedTuple):
    """How the jobs of a sweep are composed and run again, and what has to be written so that they can be."""

    recipe: Recipe
    configuration: frozen_config.Copies
    code: CodeCopy | None
    task: Pickled | None

    def write(self, folder: Folder) -> None:
        """The copies of YAML, and if need be of code and function, are in the folder."""
        for copied in (self.code, self.task, self.configuration):
            if copied is not None:
                copied.write(folder)


def freezing(composer: Composer, folder: Folder, task: Any, on_drift: str, *, copies_code: bool) -> Freezing:
    """What the jobs of this sweep need to be run later: their YAML, and if need be their function and their code, as
    they are now; without a task, their YAML. Raises FreezeError."""
    program = None if task is None else entry.this_program()
    code = code_of(folder, entry.file_of(task), program) if copies_code else None
    function = None
    if task is not None and (program is None or not entry.runs_by_command_line()):
        function = pickled(task, script_in(folder, code))
    configuration = frozen_config.read_origins(folder, composer.origins())
    recipe = Recipe(
        entry=program or entry.nothing(),
        config_name=composer.typed_config_name,  # as programs see it in hydra.job
        sources=configuration.sources,
        hydra_overrides=composer.hydra_overrides(),
        job_name=composer.job_name,
        task=entry.task_name(task),
        on_drift=on_drift,
        now=composer.now(),
        task_pickle=None if function is None else function.path,
        code=None if code is None else code.code,
    )
    return Freezing(recipe, configuration, code, function)


def script_in(folder: Folder, code: CodeCopy | None) -> str | None:
    """The copy of the script that Python was given; None where there is none."""
    copied = None if code is None else code.code
    return None if copied is None or copied.script is None else folder.join(copied.path, copied.script)


def code_of(folder: Folder, file: str, program: Entry | None) -> CodeCopy:
    """The copy of the code that a task function is written in, in that file. Raises FreezeError."""
    if sys.flags.ignore_environment:
        raise FreezeError("a snapshot needs PYTHONPATH, which -E and -I turn off; leave them or the snapshot out")
    script = None
    if program is not None and program.target[:1] != ("-m",):
        script = os.path.join(program.cwd, *program.target)
        if not is_file(script):  # a folder with a __main__.py
            script = getattr(sys.modules["__main__"], "__file__", None)
    return read_code(folder, file, os.getcwd() if program is None else program.cwd, script)
