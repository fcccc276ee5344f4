"""Folders that the original library wrote: `config.json` with every job, results as `<id>_<filename>` beside it.

Read only: saving the experiment writes a manifest, and the old files stay where they are.
"""

from typing import Any

from experiment_manager.errors import ManifestError
from experiment_manager.store.documents import MOST_RESULT_BYTES, read_json
from experiment_manager.store.layout import Folder
from experiment_manager.text import described


def read_original(folder: Folder) -> tuple[list[str], list[tuple[dict[str, Any], Any]]]:
    """The names of the variables, and (variables, configuration) of each job; a job's id is its place.

    Raises ManifestError when the file is something else.
    """
    try:
        body = read_json(folder.original_config, MOST_RESULT_BYTES)
        jobs = [(dict(job["variables"]), job["run_config"]) for job in body["jobs"]]
        return [str(name) for name in body["variables"]], jobs
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(
            f"{folder.original_config} is no experiment of the original library ({described(error)})"
        ) from error


def result_path(folder: Folder, job_id: int, filename: str) -> str:
    """Where the original library put a result."""
    return folder.join(f"{job_id}_{filename}")
