"""Array scripts for the jobs of an experiment that is there already: what `generate_slurm_script` and `script` do."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiment_manager import decisions
from experiment_manager.disk.folder import Folder, planning
from experiment_manager.disk.launches import create_launch
from experiment_manager.disk.leftovers import clear_leftovers
from experiment_manager.disk.manifest import Manifest, unconfigured
from experiment_manager.disk.selection import read_selection
from experiment_manager.disk.states import Snapshot
from experiment_manager.errors import ExperimentManagerError, JobRefused, OptionsError
from experiment_manager.records import Attempt, JobId, Launch, State
from experiment_manager.resolved import resolved
from experiment_manager.slurm.configuration import SLURM
from experiment_manager.slurm.emit import arrange, write_scripts
from experiment_manager.slurm.options import SlurmOptions, as_mapping, make, overridden
from experiment_manager.slurm.reconcile import reconciled
from experiment_manager.slurm.submit import newest_launch


class Written(NamedTuple):
    """A launch whose scripts lie at the top of the experiment."""

    launch: Launch
    paths: list[str]
    ids: list[int]


def write(
    folder: Folder,
    slurm: SLURM | None,
    *,
    runner: str | None,
    name: str | None,
    n_jobs: int | None,
    rerun: str,
    overrides: Mapping[str, Any],
) -> Written:
    """The scripts of the jobs that pass and are to run are written; see `Experiment.generate_slurm_script`."""
    folder.require()
    if rerun not in decisions.RERUN:
        raise ExperimentManagerError(f"rerun={rerun} is not known; use {', '.join(decisions.RERUN)}")
    if n_jobs is not None and n_jobs < 1:
        raise ExperimentManagerError(f"{n_jobs} jobs are none; ask for 1 or more, or for all that pass")
    options = options_of(folder, slurm)
    options = overridden(options, {**({"name": name} if name else {}), **overrides}, where="SLURM options")
    with planning(folder):
        clear_leftovers(folder)
        selected = sorted(read_selection(folder))
        snapshot = reconciled(folder, is_to_act=True)
        ids = decisions.to_run({job_id: snapshot.state(job_id) for job_id in selected}, selected, rerun)[:n_jobs]
        if not ids:
            raise JobRefused(
                f"the {len(selected)} jobs of {folder.path} that pass the filter have completed, run, or wait; let "
                "others pass, or run them again with rerun=always"
            )
        words = runner_of(folder, ids, runner, slurm)
        return write_jobs(folder, options, ids, snapshot, {"launcher": "slurm_script", "runner": words})


def write_jobs(
    folder: Folder,
    options: SlurmOptions,
    ids: Sequence[int],
    snapshot: Snapshot,
    about: Mapping[str, Any],
    *,
    is_newest: bool = True,
) -> Written:
    """A launch that runs these jobs, and its scripts, are written. To be used inside `folder.planning`."""
    with Manifest(folder) as manifest:
        known = manifest.encoded_configuration
        arrangement = arrange(folder, options, ids, lambda job_id: resolved(known(JobId(job_id))))
    attempts = (Attempt(JobId(job_id), snapshot.next_number(job_id), State.PENDING) for job_id in ids)
    launch = create_launch(folder, attempts, {**about, "options": as_mapping(options), **arrangement.record})
    return Written(launch, write_scripts(folder, launch, arrangement, is_newest=is_newest), list(ids))


def options_of(folder: Folder, slurm: SLURM | None) -> SlurmOptions:
    """The options of an experiment: those that were set, else those of the newest launch by SLURM, else none."""
    if slurm is not None:
        return slurm.options
    try:
        launch = newest_launch(folder)
    except JobRefused:
        return SlurmOptions()
    where = f"launch {launch.number} of {folder.path}"
    if "options" not in launch.record["slurm"]:
        raise OptionsError(f"{where} has no options recorded; set them with set_slurm_config, or sweep again")
    return make(launch.record["slurm"]["options"], where=where)


def runner_of(folder: Folder, ids: Sequence[int], runner: str | None, slurm: SLURM | None) -> list[str] | None:
    """The words that run those of these jobs which were written in Python; None where all are a sweep's.

    Raises JobRefused for a job without a configuration, and where nothing is named that runs it.
    """
    with Manifest(folder) as manifest:
        jobs = [manifest.job(job_id) for job_id in ids]
    for job in jobs:
        if job.fingerprint is None:
            raise JobRefused(unconfigured(job.id, folder))
    mute = [job.id for job in jobs if job.recipe is None]
    if not mute:
        return None
    runner = runner or (slurm.python_runner if slurm is not None else None)
    if runner is not None:
        return [sys.executable, _script(folder, runner)]
    if slurm is not None and slurm.job_runner:
        return list(slurm.job_runner)
    raise JobRefused(
        f"job {mute[0]} of {folder.path} was written in Python: name the script that runs it, as python_runner of the "
        "SLURM options, as the first argument of generate_slurm_script, or with --runner"
    )


def _script(folder: Folder, runner: str) -> str:
    """The absolute path of a runner; `runner` may leave out `.py`, and lie here or beside the experiment."""
    places = list(dict.fromkeys([os.getcwd(), folder.parent]))
    for place in places:
        for name in (runner, f"{runner}.py"):
            path = os.path.join(place, name)
            if os.path.isfile(path):
                return os.path.abspath(path)
    where = f"neither in {places[0]} nor in {places[1]}" if len(places) > 1 else f"not in {places[0]}"
    raise OptionsError(f"the runner {runner} is {where}; name a script")
