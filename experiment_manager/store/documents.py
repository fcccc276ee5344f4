"""Records on disk: JSON that we wrote, read as if anybody could have written it. All of it is read here.

Only regular files are opened, and without waiting for anybody; no more is read than a record can hold; and each kind of
record has a shape, so that whoever asks for a field gets what the field means, or nothing. What cannot be read is never
taken for what is not there.

A kind of record has a number, its format, which goes up when older versions must not read it any more; one without a
number is of the first format. Nothing is read of a record whose format is newer than ours: see NewerRecord.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from experiment_manager.errors import NewerRecord, UnreadableRecord
from experiment_manager.model.codec import is_number, loads
from experiment_manager.model.records import State, Task
from experiment_manager.store.files import is_of_the_disk, looked, regular, unreadable
from experiment_manager.text import one_line, skipped
from experiment_manager.typing_names import IO, Any, Final, NamedTuple

MOST_BYTES: Final = 1 << 26
"""Of a record of ours; 100,000 jobs in single ranges take a megabyte."""

MOST_RESULT_BYTES: Final = 1 << 30
"""Of what jobs have left, and of the files of the original library."""

MOST_TABLE_BYTES: Final = 1 << 27
"""Of a result in a table, where there are many: in memory it takes up to twenty times as much."""

MOST_IDS: Final = 10_000_000
"""That a record may name in all; more of them are no jobs of anybody."""

_END_BYTES: Final = 65536
_LATEST: Final = 1e11  # in seconds since the epoch: no clock is that late
_MOST_DIGITS: Final = 9
_LARGEST: Final = 2**63  # of a whole number: of bytes, too


class Kind(NamedTuple):
    """The values that a field may have, in words and as a test."""

    words: str
    fits: Callable[[Any], bool]
    newest: int = 0  # of a format: the newest one that we read


def are_of_ids(values: Iterable[Any]) -> bool:
    """Whether each value is a text of job ids, and no more are named in all than there may be."""
    from experiment_manager.model.ids import parse_ids  # every task imports this module, and few have ids to read

    left = MOST_IDS
    for value in values:
        try:
            left -= len(parse_ids(value)) if isinstance(value, str) else MOST_IDS + 1
        except (ValueError, OverflowError):  # of more ids than Python counts
            return False
        if left < 0:
            return False
    return True


def _is_plan(value: Any) -> bool:
    return isinstance(value, dict) and all(
        key.isascii() and key.isdigit() and len(key) <= _MOST_DIGITS for key in value
    ) and are_of_ids(value.values())  # fmt: skip


def _is_in_range(value: Any) -> bool:
    return is_number(value) and not (isinstance(value, int) and abs(value) > _LARGEST)


TEXT: Final = Kind("text", lambda value: isinstance(value, str))
FLAG: Final = Kind("true or false", lambda value: isinstance(value, bool))


def _is_name(value: Any) -> bool:
    is_one = isinstance(value, str) and "\0" not in value
    return is_one and os.path.basename(value) == value and value not in ("", ".", "..")


def _is_numbered(value: Any) -> bool:
    return isinstance(value, str) and value[:1] != "-" and value.isprintable() and " " not in value


def _are_sources(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(source, list) and [type(item) for item in source] == [str, str, bool] for source in value
    )


def _is_task(value: Any) -> bool:
    if not isinstance(value, dict) or "cluster" in value or {*value, "cluster"} != set(Task._fields):
        return False
    texts = isinstance(value["scheduler"], str) and NUMBERED.fits(value["id"])
    maybe = all(value[name] is None or isinstance(value[name], str) for name in ("node", "user"))
    maybe = maybe and (value["array"] is None or NUMBERED.fits(value["array"]))
    return (
        texts
        and maybe
        and (value["array_index"] is None or WHOLE.fits(value["array_index"]))
        and WHOLE.fits(value["restart"])
    )


NUMBER: Final = Kind("number", _is_in_range)
WHOLE: Final = Kind("whole number", lambda value: isinstance(value, int) and not isinstance(value, bool))
COUNT: Final = Kind("number from 1 on", lambda value: WHOLE.fits(value) and value >= 1)
MOMENT: Final = Kind("time", lambda value: is_number(value) and abs(value) < _LATEST)  # NaN is none
TABLE: Final = Kind("mapping", lambda value: isinstance(value, dict))
LIST: Final = Kind("list", lambda value: isinstance(value, list))
WORDS: Final = Kind("list of texts", lambda value: isinstance(value, list) and all(map(TEXT.fits, value)))
DIGITS: Final = Kind(
    "text of digits", lambda value: isinstance(value, str) and value.isdecimal() and len(value) <= _MOST_DIGITS
)
NUMBERED: Final = Kind("id of a scheduler", _is_numbered)  # which its commands are given as a word, and no option
STATE: Final = Kind("state", lambda value: isinstance(value, str) and value in frozenset(State))
IDS: Final = Kind("text of job ids such as 0-3,7", lambda value: are_of_ids([value]))
PLAN: Final = Kind("mapping of attempts to job ids", _is_plan)
SOURCES: Final = Kind("list of places of YAML files", _are_sources)
TASK: Final = Kind("task of a scheduler", _is_task)
NAME: Final = Kind("name of a file", _is_name)

LAUNCH_FORMAT: Final = 5  # of records that need it: see `launches.needed_format`
SUBMISSION_FORMAT: Final = 1
END_FORMAT: Final = 2  # of records that need it: see `endings.needed_format`
RESULT_FORMAT: Final = 1
SELECTION_FORMAT: Final = 1
PROPOSAL_FORMAT: Final = 1


def _format(newest: int) -> Kind:
    return Kind("number of a format", lambda value: COUNT.fits(value) and value <= newest, newest)


Shape = Mapping[str, Kind]
"""The fields of a record, as far as we ask for them. None stands for a field that is not there."""

ANCHOR: Final[Shape] = {
    **dict.fromkeys(("host", "boot", "namespace", "scheduler", "slurm_task", "gpus", "node"), TEXT),
    "launch": DIGITS,
    "cluster": TEXT,
    **dict.fromkeys(("slurm_job_id", "slurm_array_job_id"), TEXT),
    **dict.fromkeys(("slurmd_nodename", "slurm_job_user"), TEXT),
    **dict.fromkeys(("job", "pid", "started_ticks", "uid"), WHOLE),
    **dict.fromkeys(("slurm_array_task_id", "slurm_restart_count"), DIGITS),
    "task": TASK,
    "start": MOMENT,
    "by_slurm": FLAG,
    "fake": FLAG,
    "worker": FLAG,
    "unbegun": STATE,
    **dict.fromkeys(("tasks", "launches"), WORDS),
    "looks_for_requests": NUMBER,
}
REQUEST: Final[Shape] = {"by": TEXT, "host": TEXT, "time": MOMENT, "process": TABLE}
END: Final[Shape] = {
    "format": _format(END_FORMAT),
    **dict.fromkeys(("state", "reason", "signal", "peak_memory_from", "fenced_by"), TEXT),
    **dict.fromkeys(("start", "end", "fenced_at"), MOMENT),
    **dict.fromkeys(("peak_memory_bytes", "cpu_s", "gpu_s", "peak_gpu_memory_bytes"), NUMBER),
    **dict.fromkeys(("ask_scheduler", "ask_slurm", "requeued", "has_result"), FLAG),
    "exit_code": WHOLE,
    "arguments": WORDS,
}
ERROR: Final[Shape] = dict.fromkeys(("type", "message", "traceback"), TEXT)
RESULT: Final[Shape] = {"format": _format(RESULT_FORMAT), "refused": TABLE, "told": FLAG, "fake": FLAG}
LAUNCH: Final[Shape] = {
    "format": _format(LAUNCH_FORMAT),
    **dict.fromkeys(("user", "host", "cwd", "launcher", "scheduler", "code", "python"), TEXT),
    "git_commit": TEXT,
    "joins": DIGITS,
    **dict.fromkeys(("argv", "overrides", "runner"), WORDS),
    "time": MOMENT,
    "job_timeout_min": NUMBER,
    "jobs": PLAN,
    "search_from": WHOLE,
    "recipe": WHOLE,
    "worker": TABLE,
    "git_dirty": FLAG,
    "git_untracked": WORDS,
    "slurm": TABLE,
    "pruner": TABLE,
    "ranking": TABLE,
    "heals": TABLE,
    "upstream": TABLE,
}
ARRAY: Final[Shape] = {
    "name": NAME,
    "script": NAME,
    "jobs": IDS,
    "pack": COUNT,
    "workers": COUNT,
    "indexed": TEXT,
    "after": WHOLE,
    "options": TABLE,
}
SUBMISSION: Final[Shape] = {"format": _format(SUBMISSION_FORMAT), "arrays": TABLE}
SUBMITTED: Final[Shape] = {"slurm_id": NUMBERED, "submitted": MOMENT, "doubtful_until": MOMENT, "cluster": TEXT}
PROPOSAL: Final[Shape] = {
    "format": _format(PROPOSAL_FORMAT),
    **dict.fromkeys(("launch", "identity"), TEXT),
    **dict.fromkeys(("variables", "values", "attributes"), TABLE),
    "recipe": WHOLE,
    "overrides": WORDS,
}
ENTRY: Final[Shape] = {
    **dict.fromkeys(("python", "cwd"), TEXT),
    **dict.fromkeys(("flags", "target", "app_arguments"), WORDS),
}
CODE: Final[Shape] = {**dict.fromkeys(("path", "root", "cwd", "script"), TEXT), "imports": WORDS}
RECIPE: Final[Shape] = {
    **dict.fromkeys(("config_name", "job_name", "task", "on_drift", "task_pickle"), TEXT),
    **dict.fromkeys(("entry", "now", "code"), TABLE),
    "sources": LIST,
    "hydra_overrides": WORDS,
}
STOPPED: Final[Shape] = {**dict.fromkeys(("by", "host"), TEXT), "time": MOMENT, "cancelled": FLAG}
CONFIGURATION: Final[Shape] = {"fingerprint": TEXT, "configuration": TABLE}
SELECTION: Final[Shape] = {"format": _format(SELECTION_FORMAT), "jobs": LIST, "proposals": FLAG}


def opened(path: str, *, follows: bool = False) -> IO[bytes]:
    """A regular file, open for reading. Raises OSError, for a pipe or a device, too, and waits for none of them; and
    for a link, which could lead anywhere, unless it `follows` those."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | (0 if follows else os.O_NOFOLLOW)
    try:
        handle = os.open(path, flags)
    except OSError as error:
        if error.errno != errno.ELOOP or follows:
            raise
        raise OSError(errno.ELOOP, "A link, which is not followed", path) from error
    handle = regular(handle, path)
    return os.fdopen(handle, "rb", buffering=0)  # there may be thousands


def content(path: str, most: int = MOST_BYTES) -> bytes:
    """All that is in a regular file. Raises OSError, for one of more than `most` bytes, too."""
    with opened(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > most:
            raise OSError(errno.EFBIG, f"Of {size} bytes, and no record is longer than {most}", path)
        return file.read()


def load(path: str, most: int = MOST_BYTES) -> Any:
    """The value in a JSON file. Raises OSError, or ValueError when it is no JSON."""
    return loads(content(path, most))


def read_json(path: str, most: int = MOST_BYTES) -> Any:
    """The value in a JSON file. Raises FileNotFoundError, or UnreadableRecord with the path and why."""
    try:
        return looked(lambda: load(path, most))
    except FileNotFoundError:
        raise
    except OSError as error:
        why = error.strerror or str(error)
        raise UnreadableRecord(path, why, is_out_of_reach=is_of_the_disk(error)) from error
    except ValueError as error:
        raise UnreadableRecord(path, one_line(str(error))) from error


def read_object(path: str, shape: Shape, required: Sequence[str] = (), most: int = MOST_BYTES) -> dict[str, Any]:
    """A record that is wholly of that shape. Raises FileNotFoundError, or UnreadableRecord."""
    body = _object(path, shape, most)
    if wrong := trouble(body, shape, required):
        raise UnreadableRecord(path, wrong)
    return body


def read_optional(
    path: str,
    shape: Shape,
    tell: Callable[[str], None] = skipped,
    most: int = MOST_BYTES,
    *,
    refuses_newer: bool = False,
    must_know: bool = False,
) -> dict[str, Any]:
    """A record as far as it can be read, empty where there is none; `tell` hears of what cannot be read.

    With `refuses_newer`, as where a job is going to be started by what it says, raises NewerRecord; with `must_know`
    that, and UnreadableRecord for what a disk or its server does not give.
    """
    body, error = _as_far_as_possible(path, shape, most)
    if isinstance(error, NewerRecord) and (refuses_newer or must_know):
        raise error
    if error is not None and error.is_out_of_reach and must_know:
        raise error
    if error is not None:
        tell(str(error))
    return body


def read_what_is_there(path: str, shape: Shape, most: int = MOST_BYTES) -> tuple[dict[str, Any], str | None]:
    """The same, with the sentence about what cannot be read; None: all of it was, or there is none."""
    body, error = _as_far_as_possible(path, shape, most)
    return body, None if error is None else str(error)


def _as_far_as_possible(path: str, shape: Shape, most: int) -> tuple[dict[str, Any], UnreadableRecord | None]:
    try:
        body = _object(path, shape, most)
    except FileNotFoundError:
        return {}, None
    except UnreadableRecord as error:
        return {}, error
    wrong = trouble(body, shape)
    if wrong is None:
        return body, None
    good = {name: value for name, value in body.items() if name not in shape or _fits(value, shape[name])}
    return good, UnreadableRecord(path, wrong)


def _object(path: str, shape: Shape, most: int) -> dict[str, Any]:
    """A record of a format that we know. Raises FileNotFoundError, or UnreadableRecord."""
    body = read_json(path, most)
    if not isinstance(body, dict):
        raise UnreadableRecord(path, "it is no object")
    refuse_newer(path, body, shape)
    if "format" in shape and (wrong := trouble(body, {"format": shape["format"]})):
        raise UnreadableRecord(path, wrong)  # who knows what the rest of it means
    return body


def is_newer(body: Any, shape: Shape) -> bool:
    """Whether a newer version has written this record."""
    if "format" not in shape or not isinstance(body, dict):
        return False
    return COUNT.fits(body.get("format")) and bool(body["format"] > shape["format"].newest)


def refuse_newer(path: str, body: Any, shape: Shape) -> None:
    """Raise NewerRecord when a newer version has written this record."""
    if is_newer(body, shape):
        raise NewerRecord(path, body["format"], shape["format"].newest)


def trouble(body: Any, shape: Shape, required: Sequence[str] = ()) -> str | None:
    """The fault in the fields of a record, for people; None: there is none."""
    if not isinstance(body, dict):
        return "it is no object"
    for name in required:
        if body.get(name) is None:
            return f"it has no {name!r}"
    for name, kind in shape.items():
        if name in body and not _fits(body[name], kind):
            return f"its {name!r} is no {kind.words}"
    return None


def _fits(value: Any, kind: Kind) -> bool:
    try:
        return value is None or kind.fits(value)
    except OverflowError:  # a number that no float can hold
        return False


def load_end(path: str) -> bytes:
    """The last 64 KiB of a file. Raises OSError."""
    with opened(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _END_BYTES))
        return file.read(2 * _END_BYTES)


def read_end(path: str, tell: Callable[[str], None] = skipped) -> bytes:
    """The last 64 KiB of a file; empty where there is none, or it cannot be read, of which `tell` hears."""
    try:
        return load_end(path)
    except FileNotFoundError:
        return b""
    except OSError as error:
        tell(unreadable(path, error))
        return b""


def last_line(path: str) -> str | None:
    """The last line of a log with something in it; None when there is none."""
    lines = (line.strip() for line in reversed(read_end(path).decode(errors="replace").split("\n")))
    return next(filter(None, lines), None)
