"""The files that people save for a job beside what we keep, under names of their own, and the formats for them."""

import os
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from experiment_manager.errors import FolderError, ResultError
from experiment_manager.model import codec
from experiment_manager.store.documents import MOST_RESULT_BYTES, opened, read_json
from experiment_manager.store.files import appearing, write_json
from experiment_manager.store.layout import Folder, unwritable, writing
from experiment_manager.store.original import result_path

Saver = Callable[[str, Any], None]
"""Writes results to the file of that name: `saver(path, results)`."""
Loader = Callable[[str], Any]
"""Reads them back: `loader(path)`."""

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


def save_file(path: str, saver: Saver, results: Any, *, override: bool) -> None:
    """`saver` has written the file, whole; a saver that adds an ending of its own finds its file under `path` all the
    same. Raises ResultError when the file is there and `override` is false, FolderError when the disk does not keep it;
    what the saver raises goes on."""
    if os.path.exists(path) and not override:
        raise ResultError(f"{path} is there already; pass override=True to replace it, or choose another name")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    saved = False
    try:
        with appearing(path) as temporary:
            saver(temporary, results)
            saved = True
            if not os.path.exists(temporary):
                _take_renamed(temporary)
    except OSError as error:
        if saved:  # what the saver raises is its author's to see
            raise FolderError(unwritable(path, error)) from error
        raise


def _take_renamed(temporary: str) -> None:
    """Renames what a saver wrote to `temporary` plus an ending (numpy.save does that) back to `temporary`."""
    folder, name = os.path.split(temporary)
    for found in os.listdir(folder):
        if found.startswith(name):
            os.replace(os.path.join(folder, found), temporary)
            return
    raise ResultError(f"the saver wrote no file to {temporary}; it is called as saver(path, results)")


def json_saver(path: str, results: Any) -> None:
    """Results as JSON, with tags for what JSON lacks (see codec)."""
    with writing(path):
        write_json(path, codec.encode(results, "results"))


def json_loader(path: str) -> Any:
    """The value that `json_saver` wrote, or that any other JSON file holds."""
    return codec.decode(read_json(path, MOST_RESULT_BYTES))


def numpy_saver(path: str, results: Any) -> None:
    """An array in NumPy's format, under exactly that name."""
    import numpy

    with open(path, "wb") as file:
        numpy.save(file, results)


def numpy_loader(path: str) -> Any:
    """The array that `numpy_saver` wrote."""
    import numpy

    with opened(path) as file:
        return numpy.load(file)


def torch_saver(path: str, results: Any) -> None:
    """Tensors, state dicts and the like in PyTorch's format."""
    import torch

    torch.save(results, path)


def torch_loader(path: str) -> Any:
    """The value that `torch_saver` wrote, on the CPU."""
    import torch

    return torch.load(path, map_location="cpu")
