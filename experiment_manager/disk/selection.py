"""`pass_filter.json`: which jobs may run, and how they were chosen. The original library knows its `jobs`, too."""

import os
from collections.abc import Iterable
from typing import Any

from experiment_manager.disk.files import read_json, write_json
from experiment_manager.disk.folder import Folder, writing
from experiment_manager.errors import FilterError


def write_selection(folder: Folder, ids: Iterable[int], how: Any) -> None:
    """The ids that may run are saved; `how` is kept for people, as text or a list of texts."""
    with writing(folder.pass_filter):
        write_json(folder.pass_filter, {"jobs": [int(job_id) for job_id in ids], "filter": how})


def has_selection(folder: Folder) -> bool:
    return os.path.exists(folder.pass_filter)


def read_selection(folder: Folder) -> list[int]:
    """The ids that may run. Raises FilterError when none were ever chosen, or the file is not readable."""
    try:
        jobs = read_json(folder.pass_filter)["jobs"]
    except FileNotFoundError:
        raise FilterError(
            f"{folder.path} has no pass filter yet, so no job may run; choose jobs with save_pass_filter(ids), "
            f"or `experiment-manager filter {folder.path} RULE`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FilterError(f"{folder.pass_filter} cannot be read ({error}); save the pass filter again") from error
    if not isinstance(jobs, list) or not all(isinstance(job_id, int) for job_id in jobs):
        raise FilterError(
            f"{folder.pass_filter} holds something else than a list of job ids; save the pass filter again"
        )
    return jobs
