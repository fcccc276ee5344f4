"""The files that jobs leave: results, errors, metrics, and the files that people save beside them.

jobs/7/result.1.json    {"format", "result": <tagged value>, "refused": {field: why it could not be stored}}
jobs/7/error.1.json     {"type", "message", "traceback"}
jobs/7/metrics.1.jsonl  one line a call of log_metrics: {"step", "time", "values"}
"""

import json
import os
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import IO, Any, Final, NamedTuple

from experiment_manager.errors import FolderError, ResultError, UnreadableRecord, Unwritten
from experiment_manager.model import codec
from experiment_manager.model.plain import storable
from experiment_manager.store import reserve
from experiment_manager.store.documents import MOST_RESULT_BYTES, RESULT, RESULT_FORMAT, opened, read_json, read_object
from experiment_manager.store.files import appearing, leave_empty, write_json
from experiment_manager.store.layout import Folder, unwritable, writing
from experiment_manager.text import described, message_of, one_line, tell

_SHORT: Final = reserve.RESERVE_BYTES // 8
_BLOCK_BYTES: Final = 1 << 18
_NAN: Final = codec.encode(float("nan"))
_LONGEST_LINE: Final = 1 << 24

Saver = Callable[[str, Any], None]
"""Writes results to the file of that name: `saver(path, results)`."""
Loader = Callable[[str], Any]
"""Reads them back: `loader(path)`."""


def write_result(
    folder: Folder, job_id: int, attempt: int, value: Any, *, is_fake: bool = False, told: bool = False
) -> None:
    """The attempt has left a result, on disk for good. `told`: the job knew that it had to stop, see
    `decisions.left_result`.

    Values are stored in their plain form. What has none is said, here on standard error and later by `results`, and is
    no error: the job did its work. Raises Unwritten, with what the system says of the disk.
    """
    stored, refused = storable(value)
    body = {
        "format": RESULT_FORMAT,
        "result": stored,
        **({"refused": refused} if refused else {}),
        "told": told,
        **({"fake": True} if is_fake else {}),
    }
    if (refused or _holds_nan(stored)) and not is_fake:
        _mark(folder, job_id, attempt)
    path = folder.of_attempt(job_id, attempt, "result")
    try:
        reserve.write(path, body)
    except OSError as error:
        raise Unwritten(f"{path}: the result could not be written: {error.strerror or error}", error) from error
    for name, why in refused.items():
        tell(f"the result of job {job_id}: {one_line(name)} is not stored: {one_line(why)}; see save_results")


def _holds_nan(stored: codec.Encoded) -> bool:
    """Whether a result is NaN, or one of its fields."""
    return stored == _NAN or (isinstance(stored, dict) and _NAN in stored.values())


def _mark(folder: Folder, job_id: int, attempt: int) -> None:
    """There is a file `warnings/7.1`, if the disk lets us: it tells where to look, and nothing depends on it."""
    with suppress(OSError):
        os.makedirs(folder.warnings, exist_ok=True)
        leave_empty(os.path.join(folder.warnings, f"{job_id}.{attempt}"))


class Result(NamedTuple):
    """The value that an attempt has returned, without the fields that could not be stored, and why they could not."""

    value: Any = None
    refused: Mapping[str, str] = MappingProxyType({})


def read_result(folder: Folder, job_id: int, attempt: int) -> Result:
    """The result of an attempt; an empty one when it left none. Raises ResultError for a file that is not readable."""
    path = folder.of_attempt(job_id, attempt, "result")
    try:
        body = read_object(path, RESULT, most=MOST_RESULT_BYTES)
        refused = {str(name): str(why) for name, why in (body.get("refused") or {}).items()}
        return Result(codec.decode(body["result"]), refused)
    except FileNotFoundError:
        return Result()
    except UnreadableRecord as error:
        raise ResultError(str(error)) from error
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError) as error:
        why = described(error)
        raise ResultError(f"{path} cannot be read: {why}; remove it, or run job {job_id} again") from error


def write_error(folder: Folder, job_id: int, attempt: int, error: BaseException) -> None:
    """The attempt has left the exception that ended it, as far as it can be told: this never raises.

    On a full disk it is written into the space that was kept for the result, which there is none of.
    """
    path, kept = (folder.of_attempt(job_id, attempt, kind) for kind in ("error", "result"))
    try:
        body = {"message": message_of(error), "traceback": "".join(traceback.format_exception(error))}
        encoded = {name: text.encode(errors="backslashreplace").decode() for name, text in body.items()}
        whole = {"type": type(error).__name__, **encoded}
        short = {**whole, "message": encoded["message"][:_SHORT], "traceback": encoded["traceback"][-_SHORT:]}
        _write_error(path, kept, whole, short)
    except Exception as failure:  # the traceback asks the user's code
        tell(f"the error of job {job_id} could not be kept: {described(failure)}")


def _write_error(path: str, kept: str, whole: Mapping[str, str], short: Mapping[str, str]) -> None:
    """The longest of what there is to tell that finds space. Raises OSError when there is none for anything."""
    for body in (whole, short):
        with suppress(OSError):
            reserve.write(path, body, kept_for=kept)
            return
    reserve.leave(path, kept_for=kept)


class Metric(NamedTuple):
    """One call of log_metrics."""

    step: int | float | None
    time: float  # seconds since the epoch
    values: dict[str, Any]


def read_metrics(
    folder: Folder, job_id: int, attempt: int, tell: Callable[[str], None] | None = None
) -> Iterator[Metric]:
    """The metrics of an attempt in the order in which they were logged; a half-written last line is left out.

    What cannot be read is left out, too: `tell` gets a sentence that names the file, for people.
    """
    for bodies in _logged(folder.of_attempt(job_id, attempt, "metrics"), tell):
        for body in bodies:
            yield Metric(body["step"], body["time"], body["values"])


def last_values(folder: Folder, job_id: int, attempt: int, tell: Callable[[str], None] | None = None) -> dict[str, Any]:
    """The last value of each metric of an attempt, by its name; for `tell` see `read_metrics`."""
    last: dict[str, Any] = {}
    for bodies in _logged(folder.of_attempt(job_id, attempt, "metrics"), tell):
        for body in bodies:
            last.update(body["values"])
    return last


def _logged(path: str, tell: Callable[[str], None] | None) -> Iterator[list[dict[str, Any]]]:
    """The lines of a file of metrics, block by block, with their values decoded. It is opened once."""
    n_seen, bad = 0, list[int]()
    tell = tell or (lambda _: None)
    try:
        with opened(path) as file:
            for block in _blocks(file):
                bodies = _bodies(block)
                if b'"$' in block:
                    _decode_values(bodies)
                good = [body for body in bodies if _is_metric(body)]
                if len(good) < len(bodies):
                    bad += [n_seen + place for place, body in enumerate(bodies, 1) if not _is_metric(body)]
                n_seen += len(bodies)
                yield good
    except FileNotFoundError:
        return
    except OSError as error:
        tell(f"{path} cannot be read: {error.strerror or error}")
    if bad:
        lines = f"line {bad[0]}" if len(bad) == 1 else f"{len(bad)} lines, the first of them line {bad[0]},"
        tell(f"{lines} of {path}: not what log_metrics writes")


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file, some thousand at a time; `?` for one that is too long to be ours. What follows
    the last line end is left out."""
    begun, n_bytes = list[bytes](), 0  # the pieces of a line whose end has not come yet
    while piece := file.read(_BLOCK_BYTES):
        block, end, rest = piece.rpartition(b"\n")
        if end:
            first, further, others = block.partition(b"\n")
            yield (b"?" if n_bytes > _LONGEST_LINE else b"".join([*begun, first])) + further + others
            begun, n_bytes = [], 0
        n_bytes += len(rest)
        if n_bytes > _LONGEST_LINE:
            begun = []
        else:
            begun.append(rest)


def _bodies(block: bytes) -> list[Any]:
    """The values in the lines of a block, one for each line; None for one that is no JSON."""
    import orjson

    if not block:
        return []
    try:
        together: list[Any] = orjson.loads(
            b"[" + block.replace(b"\n", b",") + b"]"
        )  # four times as fast as line by line
    except ValueError:
        together = []
    if len(together) == block.count(b"\n") + 1:
        return together
    return [_read_line(line) for line in block.split(b"\n")]


def _read_line(line: bytes) -> Any:
    try:
        return json.loads(line)  # NaN and Infinity, too
    except (ValueError, RecursionError):
        return None


def _decode_values(bodies: Iterable[Any]) -> None:
    """The values of each line are themselves; None where nobody can tell them."""
    for body in bodies:
        if type(body) is dict:
            try:
                body["values"] = codec.decode(body.get("values"))
            except (ValueError, TypeError, AttributeError, RecursionError):
                body["values"] = None


def _is_metric(body: Any) -> bool:
    return type(body) is dict and type(body.get("values")) is dict and "step" in body and "time" in body


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
