"""Running jobs again that ended: the same ids and configurations, the next attempt, other options if need be."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from experiment_manager.errors import JobRefused, OptionsError
from experiment_manager.execution.pool import JobEnd, Pool, check_gpus_per_job, ends_html, kept_limit
from experiment_manager.execution.work import last_runner
from experiment_manager.execution.worker import BY_HAND
from experiment_manager.model.ids import format_ids, which
from experiment_manager.model.records import ENDED_BADLY, ENDED_WELL, UNFINISHED, Attempt, Job, JobId, Launch, State
from experiment_manager.scheduler import schedulers
from experiment_manager.scheduler.protocol import Scheduler
from experiment_manager.scheduler.reconcile import reconciled
from experiment_manager.scheduler.records import Options
from experiment_manager.scheduler.scripts import Configured, options_of, overridden, runner_of, write_jobs
from experiment_manager.scheduler.submission import Submitted, submit
from experiment_manager.store.holds import not_held, why_not_begun
from experiment_manager.store.launches import (
    clear_leftovers,
    create_launch,
    driven,
    kept_pruner,
    kept_upstream,
    last_launch,
    tell_of_wrap_left_out,
)
from experiment_manager.store.layout import Folder, planning
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.states import StateTable
from experiment_manager.text import noun, settings_text

LAUNCHERS: Final = ("local_pool", "slurm_script", "slurm_submitit")


class Resubmission(NamedTuple):
    """Jobs that would run again, and how; nothing is written yet. See `Experiment.carry_out`."""

    ids: tuple[int, ...]
    states: Mapping[State, tuple[int, ...]]  # what the jobs are now
    launcher: str
    scheduler: Scheduler | None  # None: they run here
    options: Options | None  # of the scheduler
    runner: list[str] | None
    n_jobs: int  # of local_pool: how many run at a time
    gpus_per_job: float | None  # of local_pool: the share of the GPUs that each gets, None: an equal one
    job_timeout_min: float | None = None  # of local_pool: how long each may run
    pruner: Mapping[str, Any] | None = None  # None: nothing prunes them

    def __repr__(self) -> str:
        states = ", ".join(f"{len(ids)} {state}" for state, ids in self.states.items()) or "nothing"
        return f"Resubmission({states} again by {self.launcher}{f': {which(self.ids)}' if self.ids else ''})"


class Resubmitted(NamedTuple):
    """Jobs that run again, by one launch: `scripts` are the paths that slurm_script has written, `submitted` what
    slurm_submitit has handed to SLURM, `ran` how the jobs of local_pool have ended."""

    launch: Launch | None  # None: no job was to run again, and nothing was done
    ids: tuple[int, ...]
    scripts: Sequence[str] = ()
    submitted: Sequence[Submitted] = ()
    ran: Sequence[JobEnd] = ()

    def __repr__(self) -> str:
        if self.launch is None:
            return "Resubmitted(nothing to run again)"
        return f"Resubmitted({which(self.ids)} in launch {self.launch.number})"

    def _repr_html_(self) -> str:
        from experiment_manager.model import html

        return html.block(html.sentence(repr(self)), ends_html(self.ran))


def plan(
    folder: Folder,
    jobs: Iterable[Job],
    table: StateTable,
    *,
    states: Collection[State] | None,
    are_named: bool,
    launcher: str | None,
    settings: Mapping[str, Any],
    slurm: Configured | None,
    runner: str | None,
    n_jobs: int | None,
    gpus_per_job: float | None,
    job_timeout_min: float | None,
) -> Resubmission:
    """Which of these jobs would run again, and how: those in one of `states`, by default in any state that is bad.

    `are_named`: the user has named ids, and is told of one that cannot run again. Raises JobRefused, OptionsError.
    """
    wanted = ENDED_BADLY if states is None else frozenset(states)
    if waiting := wanted & UNFINISHED:
        raise JobRefused(f"jobs that are {min(waiting)} have not ended; end them with `experiment-manager cancel`")
    found = _not_held(folder, {int(job.id): table.state(job.id) for job in jobs}, wanted, are_named=are_named)
    by_state: dict[State, list[int]] = defaultdict(list)
    for job_id, state in found.items():
        if state in wanted:
            by_state[state].append(job_id)
        elif are_named:
            way_out = "name its state with --state to run it again" if state not in UNFINISHED else "leave it out"
            raise JobRefused(f"job {job_id} of {folder.path} is {state}; {way_out}")
    ids = tuple(job_id for job_id, state in found.items() if state in wanted)
    last = last_launch(folder)
    chosen = _launcher(folder, last, launcher)
    if settings and chosen == "local_pool":
        raise OptionsError(f"{', '.join(settings)}: local_pool has no SLURM options; name another one with --launcher")
    if job_timeout_min is not None and chosen != "local_pool":
        raise OptionsError(f"{chosen} takes its options from --set: --set job_timeout_min={job_timeout_min:g}")
    scheduler, options, kept_options = None, None, None
    local = _local_options(last, n_jobs=n_jobs, gpus_per_job=gpus_per_job)
    if chosen == "local_pool":
        check_gpus_per_job(local["gpus_per_job"])
        kept = last.record.get("job_timeout_min") if last is not None else None
        local |= kept_limit(kept if job_timeout_min is None else job_timeout_min, where="")
    else:
        scheduler, options = options_of(folder, slurm)
        options = overridden(scheduler, options, settings, where=f"{scheduler.label} options")
        kept_options = scheduler.kept(options)
    return Resubmission(
        ids=ids,
        states={state: tuple(by_state[state]) for state in State if state in by_state},
        launcher=chosen,
        scheduler=scheduler,
        options=options,
        runner=runner_of(folder, ids, runner or last_runner(folder, slurm), slurm, options=kept_options),
        pruner=None if State.PRUNED in by_state else kept_pruner(folder).get("pruner"),  # who asks for those wants all
        **local,
    )


def _not_held(
    folder: Folder, found: Mapping[int, State], wanted: Collection[State], *, are_named: bool
) -> dict[int, State]:
    """The jobs without those that would run again and are held, of which people are told. Raises JobRefused for one
    that the user has named."""
    again = [job_id for job_id, state in found.items() if state in wanted]
    if are_named and (why_not := why_not_begun(folder, again)):
        raise JobRefused(f"{folder.path}: {why_not}")
    left = frozenset(not_held(folder, again))
    return {job_id: state for job_id, state in found.items() if job_id in left or state not in wanted}


def _launcher(folder: Folder, last: Launch | None, named: str | None) -> str:
    """The launcher that is to run the jobs: the one that is named, by its own name or that of the file which chose it
    for the last launch; else that of the last launch. Raises JobRefused for none of ours."""
    files = () if last is None else (last.record.get("launcher"), last.record.get("launcher_file"))
    chosen = named if named and named not in files else last and last.launcher
    if not named and chosen == BY_HAND:
        return "local_pool"
    scheduler = None if last is None else schedulers.name_of(last)
    if chosen in (*LAUNCHERS, f"{scheduler}_script", f"{scheduler}_submit"):
        return str(chosen)
    words = f"{named} is none of ours" if named else f"the last launch went through {chosen or 'nothing'}"
    if scheduler == "slurm":
        raise JobRefused(f"{folder.path}: {words}; add --launcher slurm_submitit; the options of that launch stay")
    raise JobRefused(f"{folder.path}: {words}; name the launcher with --launcher: {', '.join(LAUNCHERS)}")


def _local_options(last: Launch | None, **given: float | None) -> dict[str, Any]:
    """The options of local_pool that were given, else those of the last launch, if it ran here, else the defaults."""
    ran_here = last is not None and last.launcher in ("local_pool", BY_HAND)
    kept = last.record.get("options") if last is not None and ran_here else None
    options = kept if isinstance(kept, Mapping) else {}
    found = {name: options.get(name) if value is None else value for name, value in given.items()}
    return {
        "n_jobs": n_jobs if isinstance(n_jobs := found["n_jobs"], int) and n_jobs else -1,
        "gpus_per_job": share if isinstance(share := found["gpus_per_job"], int | float) else None,
    }


def carry_out(folder: Folder, planned: Resubmission) -> Resubmitted:
    """The jobs run again, or wait; nothing is written where there are none. Raises JobRefused when one of them was
    started by somebody else meanwhile, and what the launchers raise."""
    if not planned.ids:
        return Resubmitted(None, ())
    about: dict[str, Any] = {
        "launcher": planned.launcher,
        "runner": planned.runner,
        "resubmits": format_ids(planned.ids),
        **({} if planned.pruner is None else {"pruner": planned.pruner}),
    }
    about |= kept_upstream(folder, planned.ids)
    with planning(folder):
        clear_leftovers(folder)
        table = reconciled(folder, is_to_act=True)
        if why_not := why_not_begun(folder, planned.ids):
            raise JobRefused(f"{folder.path}: {why_not}")
        done = {
            job_id for state in ENDED_WELL for job_id in planned.states.get(state, ())
        }  # these are meant to run again
        begun = [
            job_id
            for job_id in planned.ids
            if (state := table.state(job_id)) in UNFINISHED or (state in ENDED_WELL and job_id not in done)
        ]
        if begun:
            raise JobRefused(
                f"somebody has started {noun(len(begun))} {format_ids(begun)} of {folder.path} again meanwhile; look, "
                "and repeat"
            )
        if planned.scheduler is not None and planned.options is not None:
            is_newest = planned.launcher.endswith("_script")
            written = write_jobs(
                folder, planned.scheduler, planned.options, planned.ids, table, about, is_newest=is_newest
            )
        else:
            tell_of_wrap_left_out(folder, planned.ids)
            attempts = (Attempt(JobId(i), table.next_number(i), State.PENDING) for i in planned.ids)
            kept = {"n_jobs": planned.n_jobs, "gpus_per_job": planned.gpus_per_job}
            limit = kept_limit(planned.job_timeout_min, where="")
            launch = create_launch(folder, attempts, {**about, "options": kept, **limit})
    if planned.launcher.endswith("_script"):
        return Resubmitted(written.launch, planned.ids, scripts=written.paths)
    if planned.scheduler is not None:
        with driven(folder, written.launch):
            return Resubmitted(written.launch, planned.ids, submitted=submit(folder, written.launch))
    with driven(folder, launch):
        with Manifest(folder) as manifest:
            texts = {job_id: settings_text(manifest.job(job_id).variables) for job_id in planned.ids}
        pool = Pool(folder, launch, n_jobs=planned.n_jobs, texts=texts, gpus_per_job=planned.gpus_per_job)
        ran = pool.run(planned.ids)
    return Resubmitted(launch, planned.ids, ran=ran)
