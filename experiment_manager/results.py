"""What jobs leave: results, errors, metrics, and the files that people save beside them.

jobs/7/result.1.json    {"result": <tagged value>}, or {"unstored": "<its repr>"} for what cannot be stored
jobs/7/error.1.json     {"type", "message", "traceback"}
jobs/7/metrics.1.jsonl  one line a call of log_metrics: {"step", "time", "values"}
"""

import os
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from experiment_manager import codec
from experiment_manager.errors import ResultError, UnstorableValue
from experiment_manager.files import appearing, read_json, write_json
from experiment_manager.folder import Folder

Saver = Callable[[str, Any], None]
"""Writes results to the file of that name: `saver(path, results)`."""
Loader = Callable[[str], Any]
"""Reads them back: `loader(path)`."""


def write_result(folder: Folder, job_id: int, attempt: int, value: Any, *, is_fake: bool = False) -> None:
    """The attempt has left a result. What cannot be stored is noted as such and is no error: the job did its work."""
    body: dict[str, Any]
    try:
        body = {"result": codec.encode(value, "result"), **({"fake": True} if is_fake else {})}
    except UnstorableValue as error:
        body = {"unstored": repr(value)[:1000], "why": str(error)}
    write_json(folder.of_attempt(job_id, attempt, "result"), body)


def read_result(folder: Folder, job_id: int, attempt: int) -> Any:
    """The result of an attempt; None when it left none, or one that could not be stored.

    Raises ResultError for a file that is not readable.
    """
    path = folder.of_attempt(job_id, attempt, "result")
    try:
        return codec.decode(read_json(path).get("result"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise ResultError(f"{path} cannot be read: {error}; remove it, or run job {job_id} again") from error


def has_result(folder: Folder, job_id: int, attempt: int) -> bool:
    return os.path.exists(folder.of_attempt(job_id, attempt, "result"))


def write_error(folder: Folder, job_id: int, attempt: int, error: BaseException) -> None:
    """The attempt has left the exception that ended it."""
    body = {
        "type": type(error).__name__,
        "message": str(error),
        "traceback": "".join(traceback.format_exception(error)),
    }
    write_json(folder.of_attempt(job_id, attempt, "error"), body)


def read_optional(path: str) -> dict[str, Any]:
    """The object in a JSON file of ours; empty when there is none or it is not readable."""
    try:
        body = read_json(path)
    except (OSError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}


class Metric(NamedTuple):
    """One call of log_metrics."""

    step: int | float | None
    time: float  # seconds since the epoch
    values: dict[str, Any]


def read_metrics(folder: Folder, job_id: int, attempt: int) -> Iterator[Metric]:
    """The metrics of an attempt in the order in which they were logged; a half-written last line is left out."""
    import orjson

    try:
        with open(folder.of_attempt(job_id, attempt, "metrics"), "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    return
                try:
                    body = orjson.loads(line)
                    yield Metric(body["step"], body["time"], codec.decode(body["values"]))
                except (ValueError, KeyError, TypeError):
                    continue
    except FileNotFoundError:
        return


def save_file(path: str, saver: Saver, results: Any, *, override: bool) -> None:
    """`saver` has written the file, whole; a saver that adds an ending of its own finds its file under `path` all the
    same. Raises ResultError when the file is there and `override` is false."""
    if os.path.exists(path) and not override:
        raise ResultError(f"{path} is there already; pass override=True to replace it, or choose another name")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with appearing(path) as temporary:
        saver(temporary, results)
        if not os.path.exists(temporary):
            _take_renamed(temporary)


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
    write_json(path, codec.encode(results, "results"))


def json_loader(path: str) -> Any:
    """What `json_saver` wrote, or any other JSON."""
    return codec.decode(read_json(path))


def numpy_saver(path: str, results: Any) -> None:
    """An array in NumPy's format, under exactly that name."""
    import numpy

    with open(path, "wb") as file:
        numpy.save(file, results)


def numpy_loader(path: str) -> Any:
    """The array that `numpy_saver` wrote."""
    import numpy

    return numpy.load(path)


def torch_saver(path: str, results: Any) -> None:
    """Tensors, state dicts and the like in PyTorch's format."""
    import torch

    torch.save(results, path)


def torch_loader(path: str) -> Any:
    """What `torch_saver` wrote, on the CPU."""
    import torch

    return torch.load(path, map_location="cpu")
