"""`hydra/sweeper=experiment_optuna`: the command that begins a search, or goes on with it.

It reserves the ids of all trials, proposes as many as run at a time, and hands them over; whoever runs them asks for
the next ones (`execution/search.py`). The first trials are composed here, so that a wrong key is refused before
anything is written.
"""

import os
import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from hydra.core.utils import JobReturn
from omegaconf import DictConfig

from experiment_manager.analysis.tables import require_variables
from experiment_manager.errors import ConfigurationChanged, JobRefused, OptionsError
from experiment_manager.execution.search import unproposed
from experiment_manager.execution.study import (
    SAMPLERS,
    History,
    Proposer,
    Trial,
    best_of,
    check_filter,
    check_sampler,
    check_space,
    known_from,
    n_of_grid,
    proposed,
    require_optuna,
    too_many_failures,
)
from experiment_manager.hydra import entry, private_names
from experiment_manager.hydra.compose import Composer
from experiment_manager.hydra.dry_run import (
    MOST_SHOWN,
    NOTHING_DONE,
    configuration_lines,
    launcher_lines,
    pruner_lines,
)
from experiment_manager.hydra.launchers import STOPPED, ByScheduler, Handed, Here, Returns, about, told_to_the_user
from experiment_manager.hydra.plan import Freezing, Known, freezing, refuse_other_tasks
from experiment_manager.hydra.schema import SearchOptions, require_known
from experiment_manager.hydra.search_space import Space, read_space
from experiment_manager.hydra.sweeper import Sweep, keep_configuration, plain_options
from experiment_manager.model import codec, policy
from experiment_manager.model.configurations import ConfigTemplate, Configured
from experiment_manager.model.facts import resolved
from experiment_manager.model.ids import format_ids, which
from experiment_manager.model.records import Attempt, JobId, Launch, State
from experiment_manager.model.search import Proposal, Search
from experiment_manager.scheduler.reconcile import reconciled
from experiment_manager.scheduler.scripts import Arrangement
from experiment_manager.store.holds import not_held
from experiment_manager.store.launches import clear_leftovers, create_launch, driven
from experiment_manager.store.layout import Folder, planning, trouble_to_plan, trouble_to_write
from experiment_manager.store.manifest import Manifest, changed_configuration
from experiment_manager.store.manifest_editor import editing, until_published
from experiment_manager.store.matching import Matching
from experiment_manager.store.pass_filter import write_selection
from experiment_manager.store.proposals import go_on, was_cancelled, who_stopped
from experiment_manager.store.states import StateTable
from experiment_manager.text import counted, say, settings_text, tell

_NEEDED_BY: Final = "hydra/sweeper=experiment_optuna"


class Asked(NamedTuple):
    """What the command asks for."""

    folder: Folder
    composer: Composer
    options: SearchOptions
    task: Any
    space: Space
    sampler: Mapping[str, Any]
    seed: int | None  # None: whatever the search has, or any
    n_at_a_time: int
    ours: Here | ByScheduler


class Committed(NamedTuple):
    """A search that is on disk, with what is handed over now."""

    search: Search
    launch: Launch | None  # None: there is nothing to run
    arrangement: Arrangement | None
    ids: Sequence[int]  # of the trials that the launch begins with
    is_new: bool


class SearchSweep(Sweep):
    """One call of the sweeper of searches."""

    def _run(self, written: Mapping[str, Any], arguments: Sequence[str]) -> list[Sequence[JobReturn]]:
        private_names.tell_of_missing()
        with told_to_the_user():
            options = _options(written)
            asked = self._asked(options, arguments)
            if options.dry_run:
                self._tell_of_plan(asked)
                return []
            done = commit_search(asked, about(self._config, asked.ours))
        self._tell_of_settings(asked.folder)
        for line in _unused(asked.options):
            tell(line)
        tell(_summary(asked, done))
        if done.launch is not None:
            with told_to_the_user(STOPPED), driven(asked.folder, done.launch):
                keep_configuration(self._config, asked.folder.join("launches", done.launch.number, "multirun.yaml"))
                handed = Handed(asked.folder, done.launch, done.arrangement)
                if isinstance(asked.ours, Here):
                    asked.ours.run_search(handed, n_at_a_time=asked.n_at_a_time, most=_most(asked.folder, done))
                else:
                    asked.ours.run(handed, done.ids)
        if asked.ours.waits:
            with told_to_the_user():
                _conclude(asked.folder)
        with Manifest(asked.folder) as manifest:
            ids = [proposal.job_id for proposal in manifest.proposals()]
        return [Returns(asked.folder, ids, self._config)]

    def _tell_of_plan(self, asked: Asked) -> None:
        """People know what the search would do. Raises what it would be refused with before it runs anything."""
        refusal = trouble_to_plan(asked.folder)
        planned = _plan(asked)
        self._tell_of_settings(asked.folder)
        launcher = self._config.hydra.launcher, str(self._config.hydra.runtime.choices.get("hydra/launcher"))
        for line in _told(asked, planned, *launcher):
            say(line)
        if refusal := refusal or trouble_to_write(asked.folder):
            raise refusal

    def _asked(self, options: SearchOptions, arguments: Sequence[str]) -> Asked:
        """Raises ExperimentManagerError for what cannot be meant."""
        ours = self._launcher.prepared() if hasattr(self._launcher, "prepared") else None
        name = self._config.hydra.runtime.choices.get("hydra/launcher")
        if name == "basic":  # which runs one job after the other here, and so does this
            ours = Here(1, "spawn", None, job_timeout_min=None, copies_code=False)
        if ours is None:
            raise OptionsError(
                f"hydra/launcher={name} runs a list of jobs, and a search has none; use local_pool, slurm_script or "
                "slurm_submitit"
            )
        require_optuna(needed_by=_NEEDED_BY)
        averaged = [self._composer.aliases.get(name, name) for name in options.averaged]
        space = read_space(self._composer, options.params, arguments, averaged)
        if options.pruning is not None:
            keys = [*space.fixed_keys, *(one.key for one in (*space.dimensions, *space.averaged))]
            require_variables(options.pruning.group_by, keys)
        sampler = dict(options.sampler)
        target, seed = str(sampler.pop("_target_", "")), sampler.pop("seed", None)
        if seed is not None and not isinstance(seed, int):
            raise OptionsError(f"hydra.sweeper.sampler.seed={seed!r} is no whole number")
        kept = check_sampler(_sampler_name(target), sampler)
        check_space(space.dimensions)
        if kept["name"] == "cmaes" and len(options.directions) > 1:
            raise OptionsError("hydra/sweeper/sampler=cmaes has one objective; use tpe or nsgaii for several")
        check_filter(options.pass_filter, kept["name"])
        if kept["name"] == "grid":
            if options.warm_start is not None:
                raise OptionsError(
                    "hydra.sweeper.warm_start tells a grid nothing; leave it out, or take another sampler"
                )
            options = options._replace(n_trials=min(options.n_trials, n_of_grid(space.dimensions)))
        return Asked(
            folder=Folder(options.experiment_path, options.experiment_name, is_only_read=options.dry_run),
            composer=self._composer,
            options=options,
            task=self._task,
            space=space,
            sampler=kept,
            seed=seed,
            n_at_a_time=ours.for_search(options.n_jobs),
            ours=ours,
        )


def _options(written: Mapping[str, Any]) -> SearchOptions:
    plain, known = plain_options(written), SearchOptions._fields
    require_known(plain, known, prefix="hydra.sweeper.", choice=_NEEDED_BY)
    return SearchOptions(**{name: plain[name] for name in known}).check()


def _sampler_name(target: str) -> str:
    """The name of the config group of a sampler, by the class that is to be made of it."""
    kind = target.rpartition(".")[2].replace("create_nsgaii_sampler", SAMPLERS["nsgaii"])
    return next((name for name, found in SAMPLERS.items() if found == kind), kind or "null")


def _unused(options: SearchOptions) -> list[str]:
    """What people are told of options of hydra-optuna-sweeper that a search does not need."""
    given = {"storage": options.storage, "study_name": options.study_name}
    return [
        f"hydra.sweeper.{name}={value} is not used: the folder of the experiment keeps what the search has found, and "
        "its study is Experiment.study()"
        for name, value in given.items()
        if value is not None
    ]


def commit_search(asked: Asked, about: Mapping[str, Any]) -> Committed:
    """The search is on disk, with its first trials; nothing runs yet. Raises ExperimentManagerError with nothing
    written."""
    with planning(asked.folder):
        clear_leftovers(asked.folder)
        return until_published(asked.folder, lambda _: _commit(asked, about))


class Planned(NamedTuple):
    """What is going to be done for a search, decided from what is on disk now."""

    known: Known
    table: StateTable
    search: Search
    is_new: bool
    drawn: Sequence[Proposal]  # the first trials of a new search
    composed: Sequence[Configured]  # their configurations
    ids: Sequence[int]  # of the trials that were proposed before
    to_run: Sequence[int]  # those of them that run again

    def configuration(self, job_id: int) -> Any:
        """Resolved. Raises KeyError for a trial that is none of the first of a new search."""
        by_id = {one.job_id: configured for one, configured in zip(self.drawn, self.composed, strict=True)}
        return resolved(by_id[JobId(job_id)].encoded)


def _plan(asked: Asked) -> Planned:
    """Raises ExperimentManagerError, and Hydra's own errors, for what cannot be done; nothing is written."""
    folder, known = asked.folder, Known(asked.folder)
    before = _before(folder)
    table = reconciled(folder, is_to_act=True)
    there = [] if before is None else History(folder).jobs(table)
    search = _search(asked, known, before)
    drawn = _first(search, asked.n_at_a_time) if before is None else []
    composed = [Configured(ConfigTemplate(asked.composer.configuration(one.overrides))) for one in drawn]
    if there:
        _refuse_changed(asked, known, there[0].proposal)
    ids = [job.proposal.job_id for job in there]
    to_run = policy.to_run({job_id: table.state(job_id) for job_id in ids}, ids, asked.options.rerun)
    on_other_program = asked.options.on_other_program
    refuse_other_tasks(folder, known, ids, entry.task_name(asked.task), entry.this_program(), on_other_program)
    return Planned(known, table, search, before is None, drawn, composed, ids, not_held(folder, to_run))


def _told(asked: Asked, planned: Planned, launcher: DictConfig, name: str) -> Iterator[str]:
    """The lines of a dry run."""
    search, n_there = planned.search, len(planned.ids)
    how = "a new search" if planned.is_new else "going on with a search"
    yield f"dry run of {asked.folder.path}: {how} of {_size(search)}, {_goal(search)}"
    width = max(len(dimension.key) for dimension in (*search.dimensions, *search.averaged))
    yield from (f"  {dimension.key:{width}}  {dimension.words}" for dimension in search.dimensions)
    for dimension in search.averaged:
        yield f"  {dimension.key:{width}}  each {dimension.words}, whose mean counts"
    for choice in search.fixed:
        yield f"  {choice.text}, in all trials"
    if not planned.is_new:
        what = "jobs" if search.averaged else "trials"
        yield f"{what}: {n_there} proposed before, {len(planned.to_run)} of them to run again"
    n_new = min(asked.n_at_a_time - len(planned.to_run), search.n_slots - n_there)
    new = [search.job_id(n_there + place) or 0 for place in range(max(0, n_new))]
    to_run = [*planned.to_run, *new]
    yield f"to begin: {len(to_run)}" + (f", {format_ids(sorted(to_run))}" if to_run else "")
    for one in planned.drawn[:MOST_SHOWN]:
        yield f"  {one.job_id}  {settings_text(codec.decode(one.variables))}"
    if planned.drawn and asked.seed is None:
        yield "  (others, when it begins: hydra.sweeper.sampler.seed is not set)"
    arrangement = None
    if asked.ours.arrange is not None and to_run:
        arrangement = asked.ours.arrange(asked.folder, to_run, planned.configuration)
    yield from launcher_lines(asked.folder, launcher, name, arrangement)
    yield from pruner_lines(asked.options.pruning)
    if planned.drawn:
        yield from configuration_lines(JobId(planned.drawn[0].job_id), planned.composed[0])
    yield NOTHING_DONE


def _commit(asked: Asked, about: Mapping[str, Any]) -> Committed:
    folder = asked.folder
    known, table, search, is_new, drawn, composed, ids, again = planned = _plan(asked)
    to_run = list(again)
    frozen = freezing(asked.composer, folder, asked.task, asked.options.on_drift, copies_code=asked.ours.copies_code)
    with editing(folder, known.generation) as editor:
        frozen.write(folder)
        recipe = editor.add_recipe(frozen.recipe)
        search = search._replace(recipe=recipe)
        editor.set_variables(search.names)
        editor.set_search(search)
        for proposal, configured in zip(drawn, composed, strict=True):
            editor.add_trial(proposal._replace(recipe=recipe), configured)
        editor.renew_trials(to_run, recipe)
    go_on(folder)
    to_run += [one.job_id for one in drawn]
    to_run += _more(folder, asked.n_at_a_time - len(to_run), again)
    write_selection(folder, [*ids, *(one for one in to_run if one not in ids)], "a search", has_proposals=True)
    if not to_run:
        return Committed(search, None, None, [], is_new)
    arrangement = None if asked.ours.arrange is None else asked.ours.arrange(folder, to_run, planned.configuration)
    record = {
        **about,
        **_about_code(frozen),
        **({} if arrangement is None else arrangement.record),
        **({} if search.pruner is None else {"pruner": search.pruner}),
        "search_from": _next(folder),
        **asked.ours.about_search(asked.n_at_a_time),
    }
    attempts = (Attempt(JobId(job_id), table.next_number(job_id), State.PENDING) for job_id in sorted(to_run))
    return Committed(search, create_launch(folder, attempts, record), arrangement, sorted(to_run), is_new)


def _before(folder: Folder) -> Search | None:
    if not folder.is_experiment():
        return None
    with Manifest(folder) as manifest:
        return manifest.search


def _search(asked: Asked, known: Known, before: Search | None) -> Search:
    """The search that is asked for: a new one, or the one that is there, with more trials perhaps. Raises JobRefused
    where another one is there."""
    n_trials, pruner = asked.options.n_trials, asked.options.pruning
    found = Search(
        ranges=(),
        **asked.space._asdict(),
        directions=asked.options.directions,
        metrics=asked.options.metrics,
        sampler=asked.sampler,
        seed=int.from_bytes(os.urandom(4)) if asked.seed is None else asked.seed,
        max_failure_rate=asked.options.max_failure_rate,
        recipe=0,
        config_name=asked.composer.config_name,
        pass_filter=asked.options.pass_filter,
    )
    found = found._replace(
        ranges=((known.next_id, known.next_id + n_trials * found.jobs_per_trial - 1),),
        pruner=None if pruner is None else pruner._replace(average_over=found.averaged_keys)._asdict(),
    )
    if before is None and asked.options.warm_start is not None:
        warm = known_from(Folder.at(asked.options.warm_start), found)
        what = f"the jobs at {len(warm)} points" if found.averaged else counted(len(warm))
        tell(f"it begins with what {what} of {asked.options.warm_start} have found")
        return found._replace(warm=warm)
    if before is None:
        return found
    differences = before.differences(found)
    if asked.seed is not None and asked.seed != before.seed:
        differences.append(f"sampler.seed was {before.seed} and is {asked.seed}")
    if differences:
        raise JobRefused(
            f"{asked.folder.path} has another search: {'; '.join(differences)}; put that back to go on with it, or "
            f"give this one an experiment of its own: {_begin_anew(asked.folder)}"
        )
    ranges = before.ranges
    if n_trials > before.n_trials:
        n_more = (n_trials - before.n_trials) * before.jobs_per_trial
        ranges = (*ranges, (known.next_id, known.next_id + n_more - 1))
    return before._replace(ranges=ranges, max_failure_rate=found.max_failure_rate, pruner=found.pruner)


def _begin_anew(folder: Folder) -> str:
    """The settings of a search of its own, which knows what the one in a folder has found."""
    warm_start = shlex.quote(os.path.relpath(folder.path))
    return (
        f"hydra.sweeper.experiment_name=..., which hydra.sweeper.warm_start={warm_start} lets begin with what the jobs "
        "there have found"
    )


def _first(search: Search, count: int) -> list[Proposal]:
    """The first jobs of a new search, which nobody else can propose yet."""
    jobs: list[Trial] = []
    while len(jobs) < min(count, search.n_slots):
        found = proposed(search, jobs, search.job_id(len(jobs)) or 0, "")
        jobs.append(Trial(found, State.PENDING, None))
    return [job.proposal for job in jobs]


def _refuse_changed(asked: Asked, known: Known, first: Proposal) -> None:
    """Nothing happens when the program composes what it did when the search began. Raises ConfigurationChanged."""
    was = known.fingerprint(first.job_id)
    encoded = asked.composer.configuration(first.overrides)
    with Matching(asked.folder) as matching:
        is_changed = was not in (None, codec.digest(encoded)) and matching.has_changed(first.job_id, encoded)
    if is_changed:
        way_out = "give this search an experiment of its own with hydra.sweeper.experiment_name=..."
        raise ConfigurationChanged(changed_configuration(asked.folder, first.job_id, encoded, way_out))


def _more(folder: Folder, count: int, again: Collection[int]) -> list[int]:
    """So many more jobs are proposed, as far as the search goes; those of `again` run again."""
    found: list[int] = []
    proposer = Proposer(folder, "", again=again)
    while len(found) < count:
        one = proposer.next()
        if not isinstance(one, Proposal):
            return found
        found.append(one.job_id)
    return found


def _next(folder: Folder) -> int:
    """The first id that nobody has proposed."""
    with Manifest(folder) as manifest:
        found = manifest.next_unproposed()
        return manifest.next_id if found is None else found


def _about_code(frozen: Freezing) -> dict[str, Any]:
    return {} if frozen.recipe.code is None else {"code": frozen.recipe.code.path}


def _most(folder: Folder, done: Committed) -> int:
    return len(done.ids) + unproposed(folder)


def _summary(asked: Asked, done: Committed) -> str:
    """`experiments/train: a search of 20 trials, minimize by tpe; 2 of them begin, 18 are proposed as these end`."""
    search, n_left = done.search, unproposed(asked.folder)
    what = f"a search of {_size(search)}, {_goal(search)}"
    n_now = counted(len(done.ids)) if search.averaged else len(done.ids)
    text = f"{asked.folder.path}: {what}; {n_now} to run"
    return f"{text}, {n_left} are proposed as others end" if n_left and done.launch is not None else text


def _size(search: Search) -> str:
    """`20 trials of 3 jobs each`."""
    trials = f"{search.n_trials} trial{'' if search.n_trials == 1 else 's'}"
    return f"{trials} of {counted(search.jobs_per_trial)} each" if search.averaged else trials


def _goal(search: Search) -> str:
    """`minimize by tpe`."""
    return f"{','.join(search.directions)} by {search.sampler['name']}"


def _conclude(folder: Folder) -> None:
    """People are told what was found. Ends the program with status 1 where the search has not come to its end."""
    table = reconciled(folder)
    history = History(folder)
    trials = history.read(table)
    search = history.search
    for line in _best_lines(search, trials):
        tell(line)
    n_left = search.n_slots - history.n_proposed
    left = [one for one in trials if one.values is None and not (one.has_failed or one.state is State.PRUNED)]
    if (who := who_stopped(folder)) is not None:
        tell(f"{who} has stopped the search; the same command goes on")
        if any(trial.state is State.CANCELLED for trial in trials) or (was_cancelled(folder) and (n_left or left)):
            raise SystemExit(1)
        return
    why = too_many_failures(search, trials)
    elsewhere = [one for one in trials if one.state in (State.RUNNING, State.QUEUED)]
    if elsewhere:
        tell(f"{len(elsewhere)} of the trials are still run by others; `experiment-manager status` follows them")
    left = [one for one in left if one not in elsewhere]
    if why is None and not n_left and not left:
        return
    counts = ", ".join(f"{count} {state}" for state, count in Counter(str(trial.state) for trial in trials).items())
    bad = [one for one in trials if one.has_failed] or [one for one in left if one.state is not State.PENDING]
    shown = shlex.quote(os.path.relpath(folder.path))
    first = f"`experiment-manager show {shown} {bad[0].job_to_show}`" if bad else ""
    about = f", and {first} tells why the first one did not end well" if bad else ""
    goes_on = f"the same command goes on{about}"
    failed = [one for one in trials if one.has_failed]
    if why is not None and all(one.state is State.COMPLETED for one in failed):  # none of them runs again
        goes_on = (
            "the same command runs nothing more: hydra.sweeper.max_failure_rate=1 goes on all the same, and another "
            f"hydra.sweeper.metric is for a search of its own, {_begin_anew(folder)}"
        )
    tell(
        f"{len(trials)} of {search.n_trials} trials are proposed ({counts or 'none'}){f'; {why}' if why else ''}; "
        f"{goes_on}"
    )
    raise SystemExit(1)


def _best_lines(search: Search, trials: Sequence[Trial]) -> list[str]:
    """What people are told of the best of the trials: nothing where none has ended well."""
    n_ended, best = sum(trial.values is not None for trial in trials), best_of(search, trials)
    if best is None or best.values is None:
        n_objectives = len(search.directions)
        return [f"{n_ended} of {len(trials)} trials have values of {n_objectives} objectives"] if n_ended else []
    variables = codec.decode(best.proposal.variables)
    drawn = {key: value for key, value in variables.items() if key not in search.averaged_keys}
    jobs = which(search.trial(best.proposal.job_id))
    return [f"best of {n_ended}: {best.values[0]:.6g} by {jobs} ({settings_text(drawn)})"]
