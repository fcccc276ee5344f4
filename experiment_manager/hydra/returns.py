"""What jobs give back to Hydra and its sweepers, read from their folders."""

from collections.abc import Mapping, Sequence
from typing import overload

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from experiment_manager.disk.files import read_optional
from experiment_manager.disk.folder import Folder
from experiment_manager.disk.manifest import Manifest
from experiment_manager.disk.results import read_result
from experiment_manager.disk.states import States
from experiment_manager.records import State


class JobFailed(Exception):
    """What a job that did not complete gives to a sweeper that asks for its value."""


class Returns(Sequence[JobReturn]):
    """What jobs have returned, read from their folders when it is asked for: sweeps are large, and few callers ask."""

    def __init__(self, folder: Folder, ids: Sequence[int]) -> None:
        self._folder, self._ids = folder, ids

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, place: int) -> JobReturn: ...
    @overload
    def __getitem__(self, place: slice) -> "Returns": ...
    def __getitem__(self, place: int | slice) -> "JobReturn | Returns":
        if isinstance(place, slice):
            return Returns(self._folder, self._ids[place])
        return _job_return(self._folder, self._ids[place])


def _job_return(folder: Folder, job_id: int) -> JobReturn:
    last = States(folder).settled(job_id)
    with Manifest(folder) as manifest:
        job = manifest.job(job_id)
        config = OmegaConf.create(manifest.configuration(job.id))
    told = JobReturn(overrides=list(job.overrides), cfg=config, working_dir=folder.job(job.id), task_name=folder.name)
    result = read_result(folder, job.id, last.number)
    if last.state is State.COMPLETED and not result.refused:
        told.status = JobStatus.COMPLETED
        told.return_value = result.value
        return told
    error = read_optional(folder.of_attempt(job.id, last.number, "error")).get("traceback", "")
    reason = read_optional(folder.of_attempt(job.id, last.number, "attempt")).get("reason")
    told.status = JobStatus.FAILED
    told.return_value = JobFailed(
        f"job {job.id} of {folder.path} is {last.state}{f': {reason}' if reason else ''}{_refusal(result.refused)}; "
        f"its log is {folder.of_attempt(job.id, last.number, 'stderr')}\n{error}"
    )
    return told


def _refusal(refused: Mapping[str, str]) -> str:
    return "".join(f", but its {name} could not be stored: {why}" for name, why in refused.items())
