"""The results of jobs: what they returned, the error that ended them, and files that they save under their own names.

    jobs/7/result.1.json    {"format", "result": <tagged value>, "refused": {field: why it could not be stored}}
    jobs/7/error.1.json     {"type", "message", "traceback"}

What a job returned is stored in its plain form: numbers, text, lists and mappings. Only values are looked at: nothing
is imported to know a class that somebody else has imported. The metrics of jobs are in `metrics`.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, contextmanager, suppress
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from experiment_manager.errors import FolderError, ResultError, UnreadableRecord, UnstorableValue, Unwritten
from experiment_manager.model import codec
from experiment_manager.store import reserve
from experiment_manager.store.documents import MOST_RESULT_BYTES, RESULT, RESULT_FORMAT, opened, read_json, read_object
from experiment_manager.store.endings import is_overtaken, require_ours
from experiment_manager.store.files import (
    PATIENCE_S,
    appearing,
    exists,
    is_folder,
    is_link,
    is_there,
    leave_empty,
    put_aside,
    remove_tree,
    sync,
    sync_tree,
    write_json,
)
from experiment_manager.store.layout import Folder, unwritable, writing
from experiment_manager.text import described, message_of, one_line, tell

_SHORT: Final = reserve.RESERVE_BYTES // 8
_NAN: Final = codec.encode(float("nan"))

Saver = Callable[[str, Any], None]
"""Writes results to the file of that name: `saver(path, results)`."""
Loader = Callable[[str], Any]
"""Reads them back: `loader(path)`."""

_OURS: Final = r"(stdout|stderr|result|error|attempt|metrics|pruned)\.\d+\.(\w+\.)?\w+\Z"

MOST_ELEMENTS: Final = 10_000
"""Of an array in a returned value; larger ones belong into a file of their own."""

LOST_METRICS: Final = "metrics"
"""What a mark is about: lines of metrics that the disk did not take."""

_ENDLESS: Final = "holds itself, or is nested too deeply to be stored"


def write_result(
    folder: Folder,
    job_id: int,
    attempt: int,
    value: Any,
    *,
    is_fake: bool = False,
    told: bool | None = False,
    wait: Callable[[float], None] | None = None,
    ours: bytes | None = None,
) -> None:
    """The attempt has left a result, on disk for good. `told`: the job knew that it had to stop, see
    `policy.left_result`; None: it cannot be told whether it did. A file system that errs for a while, for which this
    waits by `wait`, does not cost the result. `ours`: the anchor of the attempt as it began.

    Values are stored in their plain form. What has none is said, here on standard error and later by `results`, and is
    no error: the job did its work. Raises Unwritten, with what the system says of the disk; JobRefused where another
    experiment lies there by now.
    """
    require_ours(folder, job_id, attempt, ours)
    stored, refused = storable(value)
    body = {
        "format": RESULT_FORMAT,
        "result": stored,
        **({"refused": refused} if refused else {}),
        **({} if told is None else {"told": told}),
        **({"fake": True} if is_fake else {}),
    }
    if (refused or _holds_nan(stored)) and not is_fake:
        mark(folder, job_id, attempt)
    path = folder.of_attempt(job_id, attempt, "result")
    try:
        reserve.write(path, body, patience_s=PATIENCE_S, tell=tell, wait=wait)
    except OSError as error:
        raise Unwritten(f"{path}: the result could not be written: {error.strerror or error}", error) from error
    for name, why in refused.items():
        tell(f"the result of job {job_id}: {one_line(name)} is not stored: {one_line(why)}; see save_results")


def _holds_nan(stored: codec.Encoded) -> bool:
    """Whether a result is NaN, or one of its fields."""
    return stored == _NAN or (isinstance(stored, dict) and _NAN in stored.values())


def mark(folder: Folder, job_id: int, attempt: int, about: str = "") -> None:
    """There is a file `warnings/7.1`, if the disk lets us: it tells where to look, and nothing depends on it."""
    with suppress(OSError):
        folder.make(folder.warnings)
        leave_empty(os.path.join(folder.warnings, mark_name(job_id, attempt, about)))


def mark_name(job_id: int, attempt: int, about: str = "") -> str:
    """The name of a mark that there is something to look at in a result; or `about` something else of the attempt.

    >>> mark_name(7, 1), mark_name(7, 1, LOST_METRICS)
    ('7.1', '7.1.metrics')
    """
    return f"{job_id}.{attempt}.{about}" if about else f"{job_id}.{attempt}"


class Result(NamedTuple):
    """The value that an attempt has returned, without the fields that could not be stored, and why they could not."""

    value: Any = None
    refused: Mapping[str, str] = MappingProxyType({})


def read_result(folder: Folder, job_id: int, attempt: int, most: int = MOST_RESULT_BYTES) -> Result:
    """The result of an attempt; an empty one when it left none. Raises ResultError for a file that is not readable, or
    has more than `most` bytes."""
    path = folder.of_attempt(job_id, attempt, "result")
    try:
        body = read_object(path, RESULT, most=most)
        refused = {str(name): str(why) for name, why in (body.get("refused") or {}).items()}
        return Result(codec.decode(body["result"]), refused)
    except FileNotFoundError:
        return Result()
    except UnreadableRecord as error:
        raise ResultError(str(error)) from error
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError) as error:
        why = described(error)
        raise ResultError(f"{path} cannot be read: {why}; remove it, or run job {job_id} again") from error


def write_error(folder: Folder, job_id: int, attempt: int, error: BaseException, *, ours: bytes | None = None) -> None:
    """The attempt has left the exception that ended it, as far as it can be told: this never raises. `ours`: the anchor
    of the attempt as it began; where another experiment lies there by now, nothing is written.

    On a full disk it is written into the space that was kept for the result, which there is none of.
    """
    path, kept = (folder.of_attempt(job_id, attempt, kind) for kind in ("error", "result"))
    try:
        if is_overtaken(folder, job_id, attempt, ours):
            return
        import traceback  # few attempts fail

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


def save_job_file(folder: Folder, job_id: int, filename: str, saver: Saver, results: Any, *, override: bool) -> None:
    """`saver(path, results)` has written a file of the job. Raises ResultError when it is there already, and
    FolderError when the job has no directory and none can be made."""
    path = _path(folder, job_id, filename)
    with writing(path):
        folder.make(folder.job(job_id))
    _save(
        path, saver, results, _folder_or_file(path), override=override
    )  # what the saver raises is its author's to see


def load_job_file(folder: Folder, job_id: int, filename: str, loader: Loader) -> Any:
    """The value that was saved under that name, also by the original library. Raises ResultError where it is not."""
    for path in (_path(folder, job_id, filename), _original_path(folder, job_id, filename)):
        if exists(path):  # a saver may make a folder
            return loader(path)
    raise ResultError(f"job {job_id} of {folder.path} has no result {filename!r}; it has not run, or saved no such")


def have_job_file(folder: Folder, ids: Iterable[int], filename: str) -> bool:
    """Whether each of these jobs has saved a file, or a folder, of that name."""
    return all(
        exists(os.path.join(folder.job(job_id), filename)) or exists(_original_path(folder, job_id, filename))
        for job_id in ids
    )


def save_file(path: str, saver: Saver, results: Any) -> None:
    """`saver` has written the file, whole, also where one was; never in the place of a folder. Raises FolderError when
    the disk does not keep it; what the saver raises goes on."""
    _save(path, saver, results, appearing(path), override=True)


def _save(path: str, saver: Saver, results: Any, making: AbstractContextManager[str], *, override: bool) -> None:
    """`saver` has written what then appears as `path`; one that adds an ending of its own finds its file there all the
    same. Raises ResultError when the file is there and `override` is false."""
    if not override and is_there(path):
        raise ResultError(f"{path} is there already; pass override=True to replace it, or choose another name")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    saved = False
    try:
        with making as temporary:
            saver(temporary, results)
            saved = True
            if not os.path.exists(temporary):
                _take_renamed(temporary)
    except OSError as error:
        if saved:  # what the saver raises is its author's to see
            raise FolderError(unwritable(path, error)) from error
        raise


@contextmanager
def _folder_or_file(path: str) -> Iterator[str]:
    """As `appearing`, for what may be a folder, and may take the place of one: then nothing is there for a moment, once
    all of the new one is on disk for good."""
    before = temporary = None
    try:
        with appearing(path, for_good=False) as temporary:
            yield temporary
            sync_tree(temporary)
            if _is_own_folder(temporary) or _is_own_folder(path):  # neither is replaced by a file, nor a file by it
                before = put_aside(path, os.path.dirname(path)) if is_there(path) else None
        sync(os.path.dirname(path))
    except BaseException:
        if before is not None and not os.path.lexists(path):
            os.rename(before, path)
        if temporary is not None:
            _discard_all(temporary)
        raise
    if before is not None:
        _discard_all(before)


def _discard_all(path: str) -> None:
    """The file or folder is gone, if it can be removed."""
    with suppress(OSError):
        remove_tree(path)


def _is_own_folder(path: str) -> bool:
    return is_folder(path) and not is_link(path)


def json_saver(path: str, results: Any) -> None:
    """Results as JSON, with tags for what JSON lacks (see codec). `Experiment` offers each of these pairs by name."""
    with writing(path):
        write_json(path, codec.encode(results, "results"))


def json_loader(path: str) -> Any:
    """The value that `json_saver` wrote, or that any other JSON file holds."""
    path = os.path.realpath(path) if is_link(path) else path  # of people's own
    return codec.decode(read_json(path, MOST_RESULT_BYTES))


def numpy_saver(path: str, results: Any) -> None:
    """An array in NumPy's format, under exactly that name."""
    import numpy

    with open(path, "wb") as file:
        numpy.save(file, results)


def numpy_loader(path: str) -> Any:
    """The array that `numpy_saver` wrote."""
    import numpy

    with opened(path, follows=True) as file:
        return numpy.load(file)


def torch_saver(path: str, results: Any) -> None:
    """Tensors, state dicts and the like in PyTorch's format."""
    import torch

    torch.save(results, path)


def torch_loader(path: str) -> Any:
    """The value that `torch_saver` wrote, on the CPU."""
    import torch

    return torch.load(path, map_location="cpu")


def _original_path(folder: Folder, job_id: int, filename: str) -> str:
    """Where the original library put a result."""
    return folder.join(f"{job_id}_{filename}")


def _path(folder: Folder, job_id: int, filename: str) -> str:
    if re.match(_OURS, filename):
        raise ResultError(f"{filename!r} is a name of our own files in {folder.job(job_id)}; choose another")
    if os.path.basename(filename) != filename or filename in ("", ".", ".."):
        raise ResultError(f"{filename!r} is no file name: results lie in {folder.job(job_id)}, without folders")
    return os.path.join(folder.job(job_id), filename)


def _take_renamed(temporary: str) -> None:
    """Renames what a saver wrote to `temporary` plus an ending (numpy.save does that) back to `temporary`."""
    folder, name = os.path.split(temporary)
    for found in os.listdir(folder):
        if found.startswith(name):
            os.replace(os.path.join(folder, found), temporary)
            return
    raise ResultError(f"the saver wrote no file to {temporary}; it is called as saver(path, results)")


class Storable(NamedTuple):
    """The part of a value that can be stored, and why the rest cannot: by its name, as `model` or `best.model`."""

    encoded: codec.Encoded
    refused: dict[str, str]


def storable(value: Any) -> Storable:
    """A value in its plain form; what cannot be stored of its fields, and of the fields of its fields, is left out."""
    refused: dict[str, str] = {}
    try:
        encoded = _encoded(value, "", refused)
    except UnstorableValue as error:
        return Storable(None, {"result": str(error)})
    except RecursionError:
        return Storable(None, {"result": f"the result {_ENDLESS}"})
    return Storable(encoded, refused)


def _encoded(value: Any, name: str, refused: dict[str, str]) -> codec.Encoded:
    fields = _fields(value)
    if fields is None:
        return codec.encode(_plain(value), name or "result")
    stored: dict[Any, Any] = {}
    for key, item in fields:
        whole = f"{name}.{key}" if name else str(key)
        try:
            codec.encode(key, f"a key of {name or 'the result'}")
            stored[key] = _encoded(item, whole, refused)
        except UnstorableValue as error:
            refused[whole] = str(error)
        except RecursionError:
            if name:  # the field in which it began is what cannot be stored
                raise
            refused[whole] = f"{whole} {_ENDLESS}"
    return _mapping(stored)


def _mapping(stored: Mapping[Any, codec.Encoded]) -> codec.Encoded:
    """As `codec.encode` writes mappings, of items that are encoded already."""
    if all(type(key) is str and not key.startswith("$") for key in stored):
        return dict(stored)
    return {"$dict": [[codec.encode(key), item] for key, item in stored.items()]}


def _fields(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """Names and values of what is a mapping, or has named parts; None for everything else."""
    kind = type(value)
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return [(name, getattr(value, name)) for name in kind._fields]
    if hasattr(kind, "__dataclass_fields__"):
        from dataclasses import fields

        return [(field.name, getattr(value, field.name, None)) for field in fields(value)]
    if hasattr(kind, "__attrs_attrs__"):
        return [(field.name, getattr(value, field.name, None)) for field in kind.__attrs_attrs__]
    if hasattr(kind, "model_fields") and hasattr(kind, "model_dump"):  # pydantic
        return [(name, getattr(value, name, None)) for name in kind.model_fields]
    if _is_pandas(value, "Series"):
        return _series(value)
    return None


def _series(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """A column with names; one that is only numbered is a list."""
    _check_size(value)
    if type(value.index).__name__ == "RangeIndex":
        return None
    if not value.index.is_unique:
        raise UnstorableValue("a pandas.Series with an index that repeats itself; return its values, or a mapping")
    items: Iterable[tuple[Any, Any]] = zip(value.index.tolist(), value.tolist(), strict=True)
    return items


def _plain(value: Any) -> Any:
    """The value in what JSON has, and what the codec has tags for. Raises UnstorableValue."""
    fields = _fields(value)
    if fields is not None:
        return {key: _plain(item) for key, item in fields}
    if hasattr(value, "tolist") and hasattr(value, "shape"):
        return _array(value)
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, list) or (isinstance(value, Sequence) and type(value).__module__.startswith("omegaconf.")):
        return [_plain(item) for item in value]
    if isinstance(value, AbstractSet):
        return _sorted([_plain(item) for item in value])
    kind = type(value)
    known = next((base for base in kind.__mro__ if (base.__module__, base.__name__) in _TEXTS), None)
    return value if known is None else _TEXTS[known.__module__, known.__name__](value)


def _array(value: Any) -> Any:
    """A list of lists, or the one number of an array without dimensions."""
    if str(getattr(value, "dtype", ""))[:9] in ("datetime6", "timedelta"):  # their numbers mean nothing without a unit
        value = value.astype(str)
    _check_size(value)
    plain = value.tolist()
    if type(plain) is type(value):
        raise UnstorableValue(f"{type(value).__module__}.{type(value).__qualname__} has no plain form; use float(...)")
    return _plain(plain)


def _check_size(value: Any) -> None:
    if value.size > MOST_ELEMENTS if isinstance(value.size, int) else value.numel() > MOST_ELEMENTS:
        raise UnstorableValue(f"an array of more than {MOST_ELEMENTS} elements")


def _sorted(items: list[Any]) -> list[Any]:
    """The items of a set, in an order that does not change from run to run."""
    try:
        return sorted(items)
    except TypeError:  # of several kinds
        return sorted(items, key=lambda item: codec.canonical(codec.encode(item)))


def _decimal(value: Any) -> Any:
    """A number where that loses no digit, else text."""
    number = float(value)
    kind = type(value)
    return number if not value.is_finite() or kind(repr(number)) == value else str(value)


_TEXTS: Final[dict[tuple[str, str], Callable[[Any], Any]]] = {
    ("decimal", "Decimal"): _decimal,
    ("fractions", "Fraction"): str,
    ("datetime", "datetime"): lambda value: value.isoformat(),
    ("datetime", "date"): lambda value: value.isoformat(),
    ("datetime", "time"): lambda value: value.isoformat(),
    ("datetime", "timedelta"): lambda value: value.total_seconds(),
    ("uuid", "UUID"): str,
}


def _is_pandas(value: Any, name: str) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, getattr(pandas, name, ()))
