"""The values that jobs give back to Hydra and its sweepers, read from their folders."""

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any, overload

from hydra.core.utils import JobReturn, JobRuntime, JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from experiment_manager.execution.command import Place, place_of
from experiment_manager.model.records import Attempt, Job, State
from experiment_manager.store.documents import END, ERROR, read_optional
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.results import read_result
from experiment_manager.store.states import States


class JobFailed(Exception):
    """Raised for a sweeper that asks for the value of a job which did not complete."""


class Returns(Sequence[JobReturn]):
    """The values that jobs have returned, read from their folders when asked for: sweeps are large, few callers ask.

    `master` is the configuration of the sweep itself.
    """

    def __init__(self, folder: Folder, ids: Sequence[int], master: DictConfig) -> None:
        self._folder, self._ids, self._master = folder, ids, master

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, place: int) -> JobReturn: ...
    @overload
    def __getitem__(self, place: slice) -> "Returns": ...
    def __getitem__(self, place: int | slice) -> "JobReturn | Returns":
        if isinstance(place, slice):
            return Returns(self._folder, self._ids[place], self._master)
        return _job_return(self._folder, self._ids[place], self._master)


def _job_return(folder: Folder, job_id: int, master: DictConfig) -> JobReturn:
    last = States(folder).settled(job_id)
    with Manifest(folder) as manifest:
        job = manifest.job(job_id)
        config = OmegaConf.create(manifest.configuration(job.id))
    place = place_of(folder, job)
    hydra_config = _hydra_configuration(master, config, job, place)
    overrides: Any = OmegaConf.to_container(hydra_config.hydra.overrides.task, resolve=False)
    returned = JobReturn(
        overrides=overrides,
        cfg=config,
        hydra_cfg=OmegaConf.masked_copy(hydra_config, "hydra"),
        working_dir=place.directory if _changes_directory(hydra_config) else hydra_config.hydra.runtime.cwd,
        task_name=JobRuntime.instance().get("name"),
    )
    value, error = _value(folder, last)
    returned.status = JobStatus.FAILED if error else JobStatus.COMPLETED
    returned.return_value = error or value
    return returned


def _value(folder: Folder, last: Attempt) -> tuple[Any, JobFailed | None]:
    """The value that the attempt returned; or the exception for a job that has not completed."""
    job_id, number = last.job_id, last.number
    result = read_result(folder, job_id, number)
    if last.state is State.COMPLETED and not result.refused:
        return result.value, None
    error = read_optional(folder.of_attempt(job_id, number, "error"), ERROR).get("traceback", "")
    reason = read_optional(folder.of_attempt(job_id, number, "attempt"), END).get("reason")
    return None, JobFailed(
        f"job {job_id} of {folder.path} is {last.state}{f': {reason}' if reason else ''}{_refusal(result.refused)}; "
        f"its log is {folder.of_attempt(job_id, number, 'stderr')}\n{error}"
    )


def _refusal(refused: Mapping[str, str]) -> str:
    return "".join(f", but its {name} could not be stored: {why}" for name, why in refused.items())


def _hydra_configuration(master: DictConfig, config: Any, job: Job, place: Place) -> DictConfig:
    """The configuration of the job with Hydra's own part as the job has saved it; where it has saved none, as the sweep
    knows it."""
    known = copy.deepcopy(master)
    with read_write(known), read_write(known.hydra), open_dict(known):
        for key in [key for key in known if key != "hydra"]:
            del known[key]
        known.merge_with(config)
        node = known.hydra
        node.overrides.task = [text for text in job.overrides if not text.lstrip("+~").startswith(("hydra.", "hydra/"))]
        node.job.id, node.job.num = str(job.id), place.number
        node.sweep.dir, node.sweep.subdir, node.runtime.output_dir = place.sweep_dir, place.subdir, place.directory
        saved = copy.deepcopy(known)
        try:
            path = os.path.join(place.directory, str(node.output_subdir), "hydra.yaml")
            saved.hydra.merge_with(OmegaConf.load(path).hydra)
        except (OSError, YAMLError, OmegaConfBaseException):
            return known
    return saved


def _changes_directory(config: DictConfig) -> bool:
    """Whether the job has run in its output directory; before Hydra 1.2 that was so where nothing was said."""
    changes: bool | None = config.hydra.job.chdir
    if changes is None:
        from hydra import version

        return not version.base_at_least("1.2")
    return changes
