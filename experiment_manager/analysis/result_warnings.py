"""What people should know of results of jobs that completed: what could not be stored, and what is NaN.

Such attempts have left an empty file `warnings/7.1`, so that a look at 100,000 jobs opens the results of these alone.
"""

import os
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any, Final

from experiment_manager.errors import ResultError
from experiment_manager.model.ids import which
from experiment_manager.store.layout import Folder
from experiment_manager.store.results import read_result
from experiment_manager.store.states import StateTable
from experiment_manager.text import counted, one_line, skipped

MOST_READ: Final = 1000
_UNREAD: Final = f"with something to look at beyond the first {MOST_READ} of them; `results` tells of each"


def result_warnings(folder: Folder, ids: Collection[int], table: StateTable) -> dict[str, tuple[int, ...]]:
    """What is to be said of the results that count, and of which of these jobs it is true."""
    found: dict[str, list[int]] = defaultdict(list)
    for place, (job_id, attempt) in enumerate(_marked(folder, ids, table)):
        if place >= MOST_READ:
            found[_UNREAD].append(job_id)
            continue
        try:
            value, refused = read_result(folder, job_id, attempt)
        except ResultError as error:
            skipped(str(error))
            continue
        for why in dict.fromkeys(refused.values()):
            found[f"without a part of its result, which is not stored: {one_line(why)}"].append(job_id)
        names = ", ".join(_nan_fields(value))
        if names:
            found[f"with NaN as its {one_line(names)}"].append(job_id)
    return {what: tuple(jobs) for what, jobs in found.items()}


def sentences(found: Mapping[str, Collection[int]]) -> list[str]:
    """A line for each thing to say, as `status` and the end of a sweep print it."""
    return [f"{counted(len(ids))} COMPLETED {what} ({which(ids)})" for what, ids in found.items()]


def _nan_fields(value: Any) -> list[str]:
    fields = value if isinstance(value, Mapping) else {"result": value}
    return [str(name) for name, item in fields.items() if isinstance(item, float) and item != item]


def _marked(folder: Folder, ids: Collection[int], table: StateTable) -> list[tuple[int, int]]:
    """The jobs, in order, whose result that counts was marked when it was left, with their attempts."""
    try:
        names = os.listdir(folder.warnings)
    except FileNotFoundError:
        return []
    except OSError as error:
        skipped(f"{folder.warnings} cannot be read: {error.strerror or error}")
        return []
    marked = {tuple(map(int, name.split("."))) for name in names if _is_attempt(name)}
    completed = ((job_id, table.completed(job_id)) for job_id in sorted(ids))
    return [(job_id, attempt) for job_id, attempt in completed if attempt and (job_id, attempt) in marked]


def _is_attempt(name: str) -> bool:
    job_id, dot, attempt = name.partition(".")
    return bool(dot) and job_id.isdecimal() and attempt.isdecimal()
