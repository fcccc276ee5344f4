"""The files that people save for a job beside what we keep, under names of their own."""

import os
import re
from collections.abc import Iterable
from typing import Any, Final

from experiment_manager.errors import ResultError
from experiment_manager.store.layout import Folder, writing
from experiment_manager.store.original import result_path
from experiment_manager.store.results import Loader, Saver, save_file

_OURS: Final = re.compile(r"(stdout|stderr|result|error|attempt|metrics)\.\d+\.(\w+\.)?\w+\Z")


def save(folder: Folder, job_id: int, filename: str, saver: Saver, results: Any, *, override: bool) -> None:
    """`saver(path, results)` has written a file of the job. Raises ResultError when it is there already, and
    FolderError when the job has no directory and none can be made."""
    path = _path(folder, job_id, filename)
    with writing(path):
        folder.make(folder.job(job_id))
    save_file(path, saver, results, override=override)  # what the saver raises is its author's to see


def load(folder: Folder, job_id: int, filename: str, loader: Loader) -> Any:
    """The value that was saved under that name, also by the original library. Raises ResultError where it is not."""
    for path in (_path(folder, job_id, filename), result_path(folder, job_id, filename)):
        if os.path.exists(path):
            return loader(path)
    raise ResultError(f"job {job_id} of {folder.path} has no result {filename!r}; it has not run, or saved no such")


def are_all_present(folder: Folder, ids: Iterable[int], filename: str) -> bool:
    """Whether each of these jobs has saved a file of that name."""
    return all(
        os.path.exists(os.path.join(folder.job(job_id), filename))
        or os.path.exists(result_path(folder, job_id, filename))
        for job_id in ids
    )


def _path(folder: Folder, job_id: int, filename: str) -> str:
    if _OURS.match(filename):
        raise ResultError(f"{filename!r} is a name of our own files in {folder.job(job_id)}; choose another")
    if os.path.basename(filename) != filename or filename in ("", ".", ".."):
        raise ResultError(f"{filename!r} is no file name: results lie in {folder.job(job_id)}, without folders")
    return os.path.join(folder.job(job_id), filename)
