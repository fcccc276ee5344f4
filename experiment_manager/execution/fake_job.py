"""The child of `run --fake`: prints what the job would get and leaves a result, for a dry pass through everything."""

from experiment_manager.execution.current_job import CurrentJob, current_job
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.results import json_saver, save_file, write_result
from experiment_manager.text import say


def print_job(job_id: int, variables: object, configuration: object) -> None:
    """A fake run's words about a job are on standard output."""
    say(f"job id: {job_id}\nvariables: {variables}\nconfiguration: {configuration}")


def leave_result(folder: Folder, job_id: int, configuration: object) -> None:
    """The configuration lies in the job's directory as `configuration.json`."""
    save_file(f"{folder.job(job_id)}/configuration.json", json_saver, configuration, override=True)


def main(current: CurrentJob) -> None:
    folder = current.experiment
    with Manifest(folder) as manifest:
        point = manifest.job(current.required_id)
        configuration = manifest.configuration(point.id)
    print_job(point.id, dict(point.variables), configuration)
    leave_result(folder, point.id, configuration)
    write_result(folder, point.id, current.attempt, None, is_fake=True)


if __name__ == "__main__":
    main(current_job())
