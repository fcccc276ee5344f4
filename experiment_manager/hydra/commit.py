"""What is planned becomes true, under the lock of the experiment: for our own sweeper, and for what another proposes.

It ends with four things on disk, in this order: the frozen YAML, the manifest, the pass filter, and the record of the
launch. When anything is wrong, none of them is touched.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from experiment_manager.analysis.alike import again_told, jobs_again
from experiment_manager.errors import ExperimentManagerError
from experiment_manager.execution.command import Place
from experiment_manager.hydra.compose import ID, Composer, task_configuration
from experiment_manager.hydra.plan import (
    Arrange,
    Asked,
    Change,
    Freezing,
    Kind,
    Known,
    Plan,
    freezing,
    plan,
    uncollected,
)
from experiment_manager.model import codec
from experiment_manager.model.configurations import ConfigTemplate, Configured
from experiment_manager.model.facts import resolved
from experiment_manager.model.grid import Point
from experiment_manager.model.records import Attempt, Code, Job, JobId, Launch, State
from experiment_manager.scheduler.scripts import Arrangement
from experiment_manager.store.holds import read_removed
from experiment_manager.store.launches import clear_leftovers, create_launch, tell_of_wrap_left_out
from experiment_manager.store.layout import Folder, planning
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.manifest_editor import ManifestEditor, editing, until_published
from experiment_manager.store.pass_filter import write_selection
from experiment_manager.store.trust import refuse_to_begin_what_anybody_writes
from experiment_manager.text import tell


class Committed(NamedTuple):
    """A plan that is on disk."""

    plan: Plan
    n_new: int  # jobs that the manifest did not have
    launch: Launch | None  # None: there is nothing to run


def commit_sweep(asked: Asked, about: Mapping[str, Any]) -> Committed:
    """The sweep is planned and recorded; nothing runs yet. Raises ExperimentManagerError with nothing written."""
    with uncollected(), planning(asked.folder):
        clear_leftovers(asked.folder)
        done = until_published(asked.folder, lambda _: commit(plan(asked), about))
    if done.n_new and done.plan.known:
        with suppress(ExperimentManagerError):  # whoever makes means says it, too
            _tell_of_again(asked.folder, done.plan.known.next_id)
    return done


def _tell_of_again(folder: Folder, first: int) -> None:
    """People are told of new jobs, from the first on, that have the configurations of others."""
    removed = read_removed(folder)
    with Manifest(folder) as manifest:
        jobs = [job for job in manifest.of_one_configuration() if job.id not in removed]
    if again := [ids for ids in jobs_again(jobs) if max(ids) >= first]:
        tell(again_told(again, jobs))


def commit(planned: Plan, about: Mapping[str, Any]) -> Committed:
    """The plan is on disk. Raises Overtaken when somebody else has published another manifest than it was made for."""
    folder, n_new, is_changed = planned.folder, 0, False
    if planned.to_run and planned.arrangement is None:
        refuse_to_begin_what_anybody_writes(folder)
    with editing(folder, planned.known.generation) as editor:
        recipe = editor.next_recipe()  # as long as nobody knows whether it is one that is there
        for change in planned.changes():
            _write(editor, change, recipe)
            is_changed = True
            n_new += change.kind is Kind.NEW
        editor.keep(planned.kept, frozenset(planned.to_run))
        if is_changed:
            editor.set_variables(planned.asked.grid.names() if n_new else ())
            frozen = planned.freezing()
            frozen.write(folder)
            recipe = editor.add_recipe(frozen.recipe, expected=recipe)
            about = {**about, **_about_code(frozen), "recipe": recipe}  # which all jobs have that are to run
    write_selection(folder, sorted(planned.ids), [rule.text for rule in planned.asked.rules] or None)
    launch = None
    if planned.to_run:
        attempts = (Attempt(JobId(i), planned.table.next_number(i), State.PENDING) for i in planned.to_run)
        about = {**about, **planned.asked.options.ranking}
        about |= {} if planned.upstream is None else {"upstream": planned.upstream}
        if planned.arrangement is None:
            tell_of_wrap_left_out(folder, planned.to_run)
        launch = create_launch(folder, attempts, {**about, **about_arrays(planned.arrangement)})
    return Committed(planned, n_new, launch)


def _write(editor: ManifestEditor, change: Change, recipe: int) -> None:
    """The manifest has the job as the change says."""
    kind, job_id, point, configured, was = change
    if kind is Kind.NEW:
        editor.add_point(job_id, point, configured, recipe)
        return
    assert configured is not None
    job = Job(job_id, "", {}, point.overrides, configured.fingerprint, recipe)
    if kind is Kind.CONFIGURED:
        editor.set_configuration(job, configured)
    else:
        editor.renew_recipe(job._replace(fingerprint=was))


def _about_code(frozen: Freezing) -> dict[str, Any]:
    return about_code(frozen.recipe.code)


def about_code(code: Code | None) -> dict[str, Any]:
    """What the record of a launch keeps of the code."""
    return {} if code is None else {"code": code.path}


def about_arrays(arrangement: Arrangement | None) -> Mapping[str, Any]:
    """What it keeps of its job arrays."""
    return {} if arrangement is None else arrangement.record


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
        composed.append(Configured(ConfigTemplate(task_configuration(config))))
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
        frozen = freezing(composer, folder, task, "error", copies_code=copies_code)
        with editing(folder, known.generation) as editor:
            editor.set_variables(name for job in jobs for name in job.variables)
            frozen.write(folder)
            number_of_recipe = editor.add_recipe(frozen.recipe)
            for job, found in zip(jobs, composed, strict=True):
                editor.add_job(job._replace(fingerprint=found.fingerprint, recipe=number_of_recipe), found)
        write_selection(folder, [*earlier, *(job.id for job in jobs)], "proposed by another sweeper")
        arrangement = arrange and arrange(
            folder, [job.id for job in jobs], lambda job_id: resolved(composed[job_id - first].encoded)
        )
        record = {**about, **_about_code(frozen), **about_arrays(arrangement)}
        launch = create_launch(folder, (Attempt(job.id, 1, State.PENDING) for job in jobs), record)
        return launch, [int(job.id) for job in jobs], arrangement

    with planning(folder):
        clear_leftovers(folder)
        return until_published(folder, planned)
