"""What jobs leave: results, errors, metrics, and the files that people save beside them.

jobs/7/result.1.json    {"result": <tagged value>, "refused": {field: why it could not be stored}}
jobs/7/error.1.json     {"type", "message", "traceback"}
jobs/7/metrics.1.jsonl  one line a call of log_metrics: {"step", "time", "values"}
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from experiment_manager import codec
from experiment_manager.disk.files import appearing, read_json, write_json
from experiment_manager.disk.folder import Folder
from experiment_manager.errors import ResultError, UnstorableValue

MOST_ELEMENTS: Final = 10_000
"""Of an array in a returned value; larger ones belong into a file of their own."""

Saver = Callable[[str, Any], None]
"""Writes results to the file of that name: `saver(path, results)`."""
Loader = Callable[[str], Any]
"""Reads them back: `loader(path)`."""


def write_result(
    folder: Folder, job_id: int, attempt: int, value: Any, *, is_fake: bool = False, told: bool = False
) -> None:
    """The attempt has left a result. `told`: the job knew that it had to stop, see `decisions.left_result`.

    Arrays and OmegaConf's containers are stored as lists and mappings. What cannot be stored is said, here on standard
    error and later by `results`, and is no error: the job did its work.
    """
    stored, refused = _storable(value)
    for name, why in refused.items():
        print(f"the result of job {job_id}: {name} is not stored: {why}; see save_results", file=sys.stderr, flush=True)
    body = {
        "result": stored,
        **({"refused": refused} if refused else {}),
        "told": told,
        **({"fake": True} if is_fake else {}),
    }
    write_json(folder.of_attempt(job_id, attempt, "result"), body)


def _storable(value: Any) -> tuple[codec.Encoded, dict[str, str]]:
    """The encoded value, and what had to be left out of it: field by field for a mapping."""
    if not isinstance(value, Mapping):
        try:
            return codec.encode(_plain(value), "result"), {}
        except UnstorableValue as error:
            return None, {"result": str(error)}
    stored, refused = {}, {}
    for name, item in value.items():
        try:
            codec.encode(name, "a key of the result")
            codec.encode(stored_item := _plain(item), str(name))
            stored[name] = stored_item
        except UnstorableValue as error:
            refused[str(name)] = str(error)
    return codec.encode(stored), refused


def _plain(value: Any) -> Any:
    """Lists for arrays and OmegaConf's lists, mappings for its mappings; everything else as it is."""
    if hasattr(value, "tolist") and hasattr(value, "shape"):
        if value.size > MOST_ELEMENTS if isinstance(value.size, int) else value.numel() > MOST_ELEMENTS:
            raise UnstorableValue(f"an array of more than {MOST_ELEMENTS} elements")
        return value.tolist()
    if type(value).__module__.startswith("omegaconf."):
        return [_plain(item) for item in value] if isinstance(value, Sequence) else dict(value)
    return value


class Result(NamedTuple):
    """What an attempt has returned: the value without the fields that could not be stored, and why they could not."""

    value: Any = None
    refused: Mapping[str, str] = MappingProxyType({})


def read_result(folder: Folder, job_id: int, attempt: int) -> Result:
    """The result of an attempt; an empty one when it left none. Raises ResultError for a file that is not readable."""
    path = folder.of_attempt(job_id, attempt, "result")
    try:
        body = read_json(path)
        return Result(codec.decode(body["result"]), dict(body.get("refused", {})))
    except FileNotFoundError:
        return Result()
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise ResultError(f"{path} cannot be read: {error}; remove it, or run job {job_id} again") from error


def write_error(folder: Folder, job_id: int, attempt: int, error: BaseException) -> None:
    """The attempt has left the exception that ended it, as far as it can be told: this never raises."""
    try:
        body = {"message": str(error), "traceback": "".join(traceback.format_exception(error))}
        told = {name: text.encode(errors="backslashreplace").decode() for name, text in body.items()}
        write_json(folder.of_attempt(job_id, attempt, "error"), {"type": type(error).__name__, **told})
    except Exception as failure:  # str(error) is the user's code, and the disk may be full
        print(f"the error of job {job_id} could not be kept: {type(failure).__name__}", file=sys.stderr, flush=True)


class Metric(NamedTuple):
    """One call of log_metrics."""

    step: int | float | None
    time: float  # seconds since the epoch
    values: dict[str, Any]


def read_metrics(folder: Folder, job_id: int, attempt: int) -> Iterator[Metric]:
    """The metrics of an attempt in the order in which they were logged; a half-written last line is left out."""
    try:
        with open(folder.of_attempt(job_id, attempt, "metrics"), "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    return
                try:
                    body = _read_line(line)
                    yield Metric(body["step"], body["time"], codec.decode(body["values"]))
                except (ValueError, KeyError, TypeError):
                    continue
    except FileNotFoundError:
        return


def _read_line(line: bytes) -> Any:
    import orjson

    try:
        return orjson.loads(line)
    except ValueError:  # integers of more than 64 bits, too
        return json.loads(line)


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
