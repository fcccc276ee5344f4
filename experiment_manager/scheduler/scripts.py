"""From jobs to array scripts on disk: which options each job has, the arrays that result, and their scripts.

For a sweep that is being launched, and for an experiment that is there already (`generate_slurm_script`, `script`).
"""

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from experiment_manager.errors import ExperimentManagerError, JobRefused, OptionsError, UnreadableLaunch
from experiment_manager.model import policy
from experiment_manager.model.facts import resolved
from experiment_manager.model.healing import require_raisable
from experiment_manager.model.ids import format_ids, which
from experiment_manager.model.records import Attempt, JobId, Launch, Recipe, State
from experiment_manager.scheduler import schedulers
from experiment_manager.scheduler.arrays import Array, arrays, of_workers
from experiment_manager.scheduler.nodes import elsewhere, nodes_left_out
from experiment_manager.scheduler.protocol import Scheduler, require_line
from experiment_manager.scheduler.query import ask, open_launches
from experiment_manager.scheduler.reconcile import reconciled
from experiment_manager.scheduler.records import Options, Place
from experiment_manager.scheduler.submission import (
    keep_edited,
    launched_arrays,
    newest_launch,
    records,
    script_paths,
    stale_scripts,
)
from experiment_manager.store.files import appearing, first_of, is_file, make_executable
from experiment_manager.store.holds import not_held
from experiment_manager.store.launches import (
    clear_leftovers,
    create_launch,
    kept_pruner,
    kept_upstream,
    note_submitted,
    of_scheduler,
    read_launch,
)
from experiment_manager.store.layout import Folder, planning, writing
from experiment_manager.store.manifest import Manifest, are_unconfigured, unconfigured, without_program
from experiment_manager.store.pass_filter import read_selection
from experiment_manager.store.programs import may_be_brought, missing_program, program_is_gone, would_be_here
from experiment_manager.store.states import StateTable
from experiment_manager.store.submissions import Submission
from experiment_manager.text import counted, tell


class Configured(Protocol):
    """What people have set for an experiment, as `SLURM(...)`: the options of its jobs and what runs them."""

    @property
    def scheduler(self) -> str: ...
    @property
    def options(self) -> Options: ...
    @property
    def python_runner(self) -> str | None: ...
    @property
    def job_runner(self) -> Sequence[str] | None: ...


class Arrangement(NamedTuple):
    """The arrays of a launch that is not written yet, and what its record keeps of them."""

    scheduler: Scheduler
    arrays: tuple[Array, ...]
    record: Mapping[str, Any]
    joined: "Joined | None" = None  # the workers that are there already and run these jobs, too: nothing is submitted

    @property
    def options(self) -> Mapping[str, Any]:
        """The options of the launch, as its record keeps them."""
        found: Mapping[str, Any] = self.record[self.scheduler.name]["options"]
        return found

    @property
    def array_records(self) -> Sequence[Mapping[str, Any]]:
        found: Sequence[Mapping[str, Any]] = self.record[self.scheduler.name]["arrays"]
        return found


class Joined(NamedTuple):
    """An array of workers that wait or run, of an earlier launch."""

    launch: str
    name: str  # of the array
    slurm_id: str | None  # the scheduler's id of it, as far as that is known
    n_workers: int  # of those that it had, so many wait or run

    @property
    def words(self) -> str:
        """Who has the jobs, and under which options, for people."""
        who = "1 worker" if self.n_workers == 1 else f"{self.n_workers} workers"
        waits = "waits or runs" if self.n_workers == 1 else "wait or run"
        return f"{who} of launch {self.launch} that {waits}, under the options of that launch"


def join(folder: Folder, scheduler: Scheduler, ids: Sequence[int]) -> Arrangement:
    """The arrangement by which workers that are there already run these jobs, too, under the options that they have.

    Raises JobRefused where no worker waits or runs, and where the scheduler cannot tell.
    """
    launches, users, _ = open_launches(folder, is_to_act=True)
    mine = [opened for opened in launches if opened.scheduler == scheduler.name]
    answer = ask(mine, users)
    for opened in reversed(mine):
        reports = answer.about(opened)
        for array, kept in zip(opened.arrays, of_scheduler(opened.launch.record)["arrays"], strict=True):
            report = reports.get(array.name)
            if array.n_workers is None or report is None:
                continue
            n_active = sum(report.active(index) is not None for index in array.indices)
            if not n_active:
                continue
            joins = str(opened.launch.record.get("joins") or opened.launch.number)
            array_id = next((array_id for array_id, name in opened.ids.items() if name == array.name), None)
            own = {**kept, "jobs": format_ids(sorted(ids)), "after": None}
            options = of_scheduler(opened.launch.record)["options"]
            record = {
                "scheduler": scheduler.name, scheduler.name: {"options": options, "arrays": [own]}, "joins": joins
            }  # fmt: skip
            own_options = scheduler.options(kept["options"], where=f"launch {joins} of {folder.path}")
            made = of_workers(own_options, ids, array.n_workers)
            return Arrangement(scheduler, (made,), record, Joined(joins, array.name, array_id, n_active))
    raise JobRefused(
        f"no worker of {folder.path} waits or runs that these jobs could join; leave hydra.launcher.join out, and "
        "set hydra.launcher.workers to start some"
    )


def arrange(
    folder: Folder,
    scheduler: Scheduler,
    options: Options,
    ids: Sequence[int],
    configuration: Callable[[int], Any],
) -> Arrangement:
    """The arrays that run these jobs. `configuration` is asked only where `resources_from` names a node of it.

    Raises OptionsError for options of a job that cannot be meant, where no job has any, and for a folder that no script
    can name.
    """
    require_line("experiment_path", folder.parent)
    if options.resources_from is None:
        groups = [(options, list(ids))]
    else:
        groups = []
        owns = {job_id: _own_options(scheduler, options, configuration(job_id), job_id) for job_id in ids}
        if not any(owns.values()):
            raise OptionsError(f"resources_from={options.resources_from}: no job has that node in its configuration")
        for job_id in ids:
            own = owns[job_id] or options
            for known, members in groups:
                if known == own:
                    members.append(job_id)
                    break
            else:
                groups.append((own, [job_id]))
    for own, members in groups:
        job = f" of job {members[0]}" if options.resources_from is not None else ""
        require_raisable(scheduler.kept(own), where=f"{scheduler.label} options{job}")
    without = nodes_left_out(folder, scheduler.kept(options))
    groups = [(elsewhere(scheduler, own, without), members) for own, members in groups]
    return arranged(folder, scheduler, groups, scheduler.kept(options))


def arranged(
    folder: Folder, scheduler: Scheduler, groups: Sequence[tuple[Options, Sequence[int]]], kept: Mapping[str, Any]
) -> Arrangement:
    """The arrays that run these jobs, given with the options under which they run; `kept` are those of the launch."""
    found = tuple(arrays(groups, scheduler.limits()))
    made = records(found, groups[0][0].name or folder.name, scheduler.kept)
    return Arrangement(
        scheduler, found, {"scheduler": scheduler.name, scheduler.name: {"options": kept, "arrays": made}}
    )


def arranged_again(folder: Folder, launch: Launch) -> Arrangement:
    """The arrangement of a launch all of whose jobs have the same options, from its record. Raises JobRefused where the
    scheduler's limits have changed since."""
    scheduler, record = schedulers.of(launch), of_scheduler(launch.record)
    assert scheduler is not None, "it has arrays"
    ids = [job_id for array in launched_arrays(launch) for job_id in array.jobs]
    where = f"launch {launch.number} of {folder.path}"
    own = scheduler.options(record["arrays"][0]["options"], where=where)
    again = arranged(folder, scheduler, [(own, ids)], record["options"])
    if [array["jobs"] for array in again.array_records] != [array["jobs"] for array in record["arrays"]]:
        raise JobRefused(
            f"{where} was to be submitted in other arrays than {scheduler.label} lets one submit now; run its jobs "
            "again with `experiment-manager resubmit`"
        )
    kept = {scheduler.name: record}
    return again._replace(record={**again.record, **kept})


def overridden(scheduler: Scheduler, options: Options, values: Mapping[str, Any], *, where: str) -> Options:
    """The options with some replaced, as checked as all others; None makes an option not set. Raises OptionsError."""
    return scheduler.options({**scheduler.kept(options), **values}, where=where)


def _own_options(scheduler: Scheduler, options: Options, configuration: Any, job_id: int) -> Options | None:
    """The options of one job: those of the launch, and over them the node of its configuration; None without one."""
    node = configuration
    where = f"{options.resources_from} of job {job_id}"
    for key in (options.resources_from or "").split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    if node is None:
        return None
    if not isinstance(node, Mapping):
        raise OptionsError(f"{where} is {node!r}; resources_from names a mapping of options, such as {{mem_gb: 32}}")
    return overridden(scheduler, options, node, where=where)


def write_scripts(
    folder: Folder, launch: Launch, arrangement: Arrangement, *, is_newest: bool = True, is_asked_for: bool = True
) -> list[str]:
    """The scripts of a launch are in its folder and, where `is_newest`, at the top of the experiment: their paths.

    Scripts of earlier launches are removed from the top, whence somebody could submit them by mistake; each launch
    keeps its own, as it was edited there, unless it was submitted before. They stay where nobody has asked for this
    launch, as when a job is healed: somebody may be about to submit them.
    """
    paths = []
    with writing(folder.path):
        if is_asked_for:
            keep_edited(folder, launch)
        for part, (array, launched) in enumerate(
            zip(arrangement.arrays, launched_arrays(launch), strict=True), start=1
        ):
            place = place_of_array(folder, launch.number, launched.name, part, len(arrangement.arrays))
            text = arrangement.scheduler.script(array, place)
            top, kept = script_paths(folder, launch, launched)
            _write(kept, text, is_shared=True)
            if is_newest:
                _write(top, text)
            paths.append(top if is_newest else kept)
        stale = stale_scripts(folder, map(os.path.basename, paths) if is_newest else ()) if is_asked_for else ()
        for path in stale:
            with suppress(FileNotFoundError):
                os.unlink(path)
    _tell_of_fewer(arrangement)
    return paths


def place_of_array(folder: Folder, launch: str, name: str, part: int, n_parts: int) -> Place:
    """Where an array of that name belongs, `part` of `n_parts` of a launch."""
    return Place(
        experiment_path=folder.parent,
        experiment_name=folder.name,
        launch=launch,
        job_name=name,
        logs=folder.join("launches", launch),
        python=sys.executable,
        part=part,
        n_parts=n_parts,
    )


def hand_to_workers(folder: Folder, launch: Launch, joined: Joined) -> None:
    """The workers of an earlier launch have the jobs of this one; it counts as submitted when they were."""
    if joined.slurm_id is None:
        note_submitted(folder, launch.number)
        return  # somebody has submitted them by hand: they are found by their name, as before
    scheduler = schedulers.of(launch)
    assert scheduler is not None, "it has workers"
    with writing(folder.path):
        submission = Submission(folder, launch)
        submitted = float(launch.record["time"])
        clusters = Submission(folder, read_launch(folder, joined.launch)).clusters(joined.name)
        cluster = next(iter(clusters), scheduler.cluster())
        submission.note_id(joined.name, joined.slurm_id, submitted, scheduler.name, cluster)
    note_submitted(folder, launch.number)


def _tell_of_fewer(arrangement: Arrangement) -> None:
    """People are told where fewer workers are enough than they have asked for."""
    asked = max((array.options.workers or 0 for array in arrangement.arrays), default=0)
    there = sum(array.n_workers or 0 for array in arrangement.arrays)
    if there < asked:
        n_jobs = sum(len(array.jobs) for array in arrangement.arrays)
        tell(f"workers={there} and not {asked}: with {counted(n_jobs)}, others would find nothing to begin with")


def _write(path: str, text: str, *, is_shared: bool = False) -> None:
    with appearing(path, is_shared=is_shared) as temporary:
        with open(temporary, "x", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        make_executable(temporary)


def how_to_submit(folder: Folder, launch: Launch, paths: Sequence[str]) -> str:
    """The lines that people paste, to submit the scripts of a launch."""
    ours = f"experiment-manager submit {shlex.quote(os.path.relpath(folder.path))}"
    scheduler = schedulers.of(launch)
    if len(paths) != 1:
        return f"{len(paths)} scripts; submit all of them with: {ours}"
    if launch.record.get("upstream") is not None:
        return f"submit with: {ours}, which lets them wait for what they come after"
    if scheduler is None or not scheduler.submit_command:
        return f"submit with: {ours}"
    return f"submit with: {scheduler.submit_command} {shlex.quote(os.path.relpath(paths[0]))}"


class Written(NamedTuple):
    """A launch whose scripts lie at the top of the experiment."""

    launch: Launch
    paths: list[str]
    ids: list[int]


def write(
    folder: Folder,
    configured: Configured | None,
    *,
    runner: str | None,
    name: str | None,
    n_jobs: int | None,
    rerun: str,
    overrides: Mapping[str, Any],
) -> Written:
    """The scripts of the jobs that pass and are to run are written; see `Experiment.generate_slurm_script`."""
    folder.require()
    policy.check_rerun(rerun)
    if n_jobs is not None and n_jobs < 1:
        raise ExperimentManagerError(f"{n_jobs} jobs are none; ask for 1 or more, or for all that pass")
    scheduler, options = options_of(folder, configured)
    named = {"name": name} if name else {}
    options = overridden(scheduler, options, {**named, **overrides}, where=f"{scheduler.label} options")
    with planning(folder):
        clear_leftovers(folder)
        selected = sorted(read_selection(folder))
        table = reconciled(folder, is_to_act=True)
        ids = policy.to_run({job_id: table.state(job_id) for job_id in selected}, selected, rerun)
        ids = configured_of(folder, not_held(folder, ids))[:n_jobs]
        if not ids:
            raise JobRefused(
                f"of the {counted(len(selected))} of {folder.path} that may run none is to run: each has completed, "
                "runs, or waits; let others pass, or run them again with rerun=always"
            )
        words = runner_of(folder, ids, runner, configured, options=scheduler.kept(options))
        about = {"launcher": f"{scheduler.name}_script", "runner": words}
        about |= {**kept_pruner(folder), **kept_upstream(folder, ids)}
        return write_jobs(folder, scheduler, options, ids, table, about)


def write_jobs(
    folder: Folder,
    scheduler: Scheduler,
    options: Options,
    ids: Sequence[int],
    table: StateTable,
    about: Mapping[str, Any],
    *,
    is_newest: bool = True,
) -> Written:
    """A launch that runs these jobs, and its scripts, are written. To be used inside `folder.planning`."""
    with Manifest(folder) as manifest:
        known = manifest.encoded_configuration
        arrangement = arrange(folder, scheduler, options, ids, lambda job_id: resolved(known(JobId(job_id))))
    attempts = (Attempt(JobId(job_id), table.next_number(job_id), State.PENDING) for job_id in ids)
    launch = create_launch(folder, attempts, {**about, "options": scheduler.kept(options), **arrangement.record})
    return Written(launch, write_scripts(folder, launch, arrangement, is_newest=is_newest), list(ids))


def options_of(folder: Folder, configured: Configured | None) -> tuple[Scheduler, Options]:
    """The scheduler and the options of an experiment: those that were set, else those of the newest launch by a
    scheduler, else SLURM and none. Raises UnreadableLaunch, OptionsError."""
    if configured is not None:
        return schedulers.named(configured.scheduler), configured.options
    try:
        launch = newest_launch(folder)
    except UnreadableLaunch:
        raise  # it has the options that people have set
    except JobRefused:
        usual = schedulers.named("slurm")
        return usual, usual.options({}, where="")
    where = f"launch {launch.number} of {folder.path}"
    kept, scheduler = of_scheduler(launch.record), schedulers.of(launch)
    if scheduler is None or "options" not in kept:
        raise OptionsError(f"{where} has no options recorded; set them with set_slurm_config, or sweep again")
    return scheduler, scheduler.options(kept["options"], where=where)


def configured_of(folder: Folder, ids: Sequence[int]) -> list[int]:
    """Those of these jobs that have a configuration; people are told of the others, once. Raises JobRefused where none
    has one."""
    with Manifest(folder) as manifest:
        without = manifest.unconfigured(ids)
    if not without:
        return list(ids)
    if len(without) == len(ids):
        raise JobRefused(f"{folder.path}: {are_unconfigured(without)}")
    tell(f"{are_unconfigured(without)}; the others are run")
    left_out = frozenset(without)
    return [job_id for job_id in ids if job_id not in left_out]


def runner_of(
    folder: Folder,
    ids: Sequence[int],
    runner: str | Sequence[str] | None,
    configured: Configured | None,
    *,
    options: Mapping[str, Any] | None,
) -> list[str] | None:
    """The words that run those of these jobs which were written in Python; None where all are a sweep's.

    `runner` is a script, or such words; `options` are those of the scheduler whose nodes run the jobs, None: they run
    here. Raises JobRefused for a job without a configuration, where nothing is named that runs it, and where its
    program is not there.
    """
    with Manifest(folder) as manifest:
        jobs = [manifest.job(job_id) for job_id in ids]
        for job in jobs:
            if job.fingerprint is None and not manifest.may_propose(job.id):
                raise JobRefused(unconfigured(job.id, folder))
        by_recipe: dict[int, list[int]] = {}
        for job in jobs:
            if job.recipe is not None:
                by_recipe.setdefault(job.recipe, []).append(job.id)
        for number, members in by_recipe.items():
            recipe = manifest.recipe(number)
            if not recipe.has_program:
                raise JobRefused(without_program(members[0], folder))
            require_program(folder, recipe, members, options)
    mute = [job.id for job in jobs if job.recipe is None]
    if not mute:
        return None
    runner = runner or (configured.python_runner if configured is not None else None)
    if isinstance(runner, str):
        return [sys.executable, _script(folder, runner)]
    if runner is not None:
        return list(runner)
    if configured is not None and configured.job_runner:
        return list(configured.job_runner)
    raise JobRefused(
        f"job {mute[0]} of {folder.path} was written in Python: name the script that runs it, as python_runner of the "
        "SLURM options, as the first argument of run or generate_slurm_script, or with --runner"
    )


def require_program(folder: Folder, recipe: Recipe, ids: Sequence[int], options: Mapping[str, Any] | None) -> None:
    """Raise JobRefused where the script that these jobs run is not there, before one of them begins. Where it may be on
    nodes alone, people are told: jobs that begin where it is not are refused there."""
    if options is not None and may_be_brought(options):
        return
    if (missing := missing_program(folder, recipe)) is None:
        return
    if options is None or would_be_here(folder, recipe):
        raise JobRefused(program_is_gone(missing, ids, folder))
    begin = "begins" if len(ids) == 1 else "begin"
    tell(f"warning: {missing} is not on this machine; {which(ids)} {begin} where a node has it")


def _script(folder: Folder, runner: str) -> str:
    """The absolute path of a runner; `runner` may leave out `.py`, and lie here or beside the experiment."""
    places = list(dict.fromkeys([os.getcwd(), folder.parent]))
    paths = [os.path.join(place, name) for place in places for name in (runner, f"{runner}.py")]
    if (found := first_of(paths, is_file)) is not None:
        return os.path.abspath(found)
    where = f"neither in {places[0]} nor in {places[1]}" if len(places) > 1 else f"not in {places[0]}"
    raise OptionsError(f"the runner {runner} is {where}; name a script")
