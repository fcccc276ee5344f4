"""The results and errors that jobs leave; their metrics are in `metrics`, files that people save in `saved_files`.

jobs/7/result.1.json    {"format", "result": <tagged value>, "refused": {field: why it could not be stored}}
jobs/7/error.1.json     {"type", "message", "traceback"}
"""

import os
import traceback
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from experiment_manager.errors import ResultError, UnreadableRecord, Unwritten
from experiment_manager.model import codec
from experiment_manager.model.plain import storable
from experiment_manager.store import reserve
from experiment_manager.store.documents import MOST_RESULT_BYTES, RESULT, RESULT_FORMAT, read_object
from experiment_manager.store.files import leave_empty
from experiment_manager.store.layout import Folder
from experiment_manager.text import described, message_of, one_line, tell

_SHORT: Final = reserve.RESERVE_BYTES // 8
_NAN: Final = codec.encode(float("nan"))


def write_result(
    folder: Folder, job_id: int, attempt: int, value: Any, *, is_fake: bool = False, told: bool = False
) -> None:
    """The attempt has left a result, on disk for good. `told`: the job knew that it had to stop, see
    `policy.left_result`.

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
