"""`pass_filter.json`: which jobs may run, and how they were chosen. The original library knows its `jobs`, too."""

import os
from collections.abc import Iterable
from typing import Any

from experiment_manager.errors import FilterError, NewerRecord, NoFilter, UnreadableRecord
from experiment_manager.store.documents import SELECTION, SELECTION_FORMAT, read_object
from experiment_manager.store.files import clear_leftovers_beside, unreadable, write_json
from experiment_manager.store.holds import read_removed
from experiment_manager.store.layout import Folder, writing
from experiment_manager.text import as_word


def write_selection(folder: Folder, ids: Iterable[int], how: Any, *, has_proposals: bool = False) -> None:
    """The ids that may run are saved; `how` is kept for people, as text or a list of texts. `has_proposals`: what a
    search proposes later may run, too."""
    clear_leftovers_beside(folder.pass_filter)
    with writing(folder.pass_filter):
        body = {"format": SELECTION_FORMAT, "jobs": [int(job_id) for job_id in ids], "filter": how}
        if has_proposals:
            body["proposals"] = True
        write_json(folder.pass_filter, body)


def has_selection(folder: Folder) -> bool:
    """Whether a pass filter was ever saved, readable or not. Raises FilterError where nobody can tell."""
    try:
        os.lstat(folder.pass_filter)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise FilterError(unreadable(folder.pass_filter, error)) from error
    return True


def read_selection(folder: Folder) -> list[int]:
    """The ids that may run, without those that were removed. Raises NoFilter when none were ever chosen; FilterError
    when the file is not readable."""
    found, removed = _read_selection(folder), read_removed(folder)
    return [job_id for job_id in found if job_id not in removed] if removed else found


def _read_selection(folder: Folder) -> list[int]:
    try:
        body = read_object(folder.pass_filter, SELECTION, required=["jobs"])
        jobs: list[int] = body["jobs"]
    except FileNotFoundError:
        raise NoFilter(
            f"{folder.path} has no pass filter yet, so no job may run; choose jobs with save_pass_filter(ids), "
            f"or `experiment-manager filter {as_word(folder.path)} RULE`"
        ) from None
    except NewerRecord as error:
        raise FilterError(str(error)) from error
    except UnreadableRecord as error:
        raise FilterError(error.with_way_out("save the pass filter again")) from error
    if any(kind is not int for kind in set(map(type, jobs))):  # there may be a million
        raise FilterError(
            f"{folder.pass_filter} holds something else than a list of job ids; save the pass filter again"
        )
    if not body.get("proposals"):
        return jobs
    from experiment_manager.store.proposals import proposed_ids

    return list(dict.fromkeys([*jobs, *proposed_ids(folder)]))
