"""The metrics that jobs log, attempt by attempt, and over all attempts as one course of training.

jobs/7/metrics.1.jsonl  one line a call of log_metrics: {"step", "time", "values"}
"""

import errno
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import IO, Any, Final, NamedTuple

from experiment_manager.model import codec
from experiment_manager.model.codec import is_number
from experiment_manager.model.records import ENDED_WELL, JobId, State
from experiment_manager.store.documents import opened, read_end
from experiment_manager.store.files import unreadable
from experiment_manager.store.layout import Folder
from experiment_manager.store.states import StateTable

_BLOCK_BYTES: Final = 1 << 18
_LONGEST_LINE: Final = 1 << 24
_VALUES: Final = itemgetter("values")
_STEP_AND_TIME: Final = itemgetter("step", "time")


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


def last_logged(folder: Folder, job_id: int, attempt: int) -> dict[str, Any] | None:
    """The last line of metrics that is whole, with `step`; None when there is none. Reads the end of the file only."""
    lines = read_end(folder.of_attempt(job_id, attempt, "metrics")).split(b"\n")
    for line in reversed(lines[:-1]):  # what follows the last line break is being written
        body = _read_line(line)
        try:
            step = codec.decode(body["step"])
            return {**({} if step is None else {"step": step}), **codec.decode(body["values"])}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return None


def _logged(path: str, tell: Callable[[str], None] | None) -> Iterator[list[dict[str, Any]]]:
    """The lines of a file of metrics, block by block, with their values decoded. It is opened once."""
    n_seen = n_bad = first_bad = 0
    tell = tell or (lambda _: None)
    try:
        with opened(path) as file:
            for block in _blocks(file):
                bodies = _bodies(block)
                if b'"$' in block:
                    _decode_values(bodies)
                good = bodies if _are_metrics(bodies) else [body for body in bodies if _is_metric(body)]
                if len(good) < len(bodies):
                    first = next(place for place, body in enumerate(bodies, 1) if not _is_metric(body))
                    first_bad, n_bad = first_bad or n_seen + first, n_bad + len(bodies) - len(good)
                n_seen += len(bodies)
                yield good
    except FileNotFoundError:
        return
    except OSError as error:
        tell(unreadable(path, error))
    if n_bad:
        lines = f"line {first_bad}" if n_bad == 1 else f"{n_bad} lines, the first of them line {first_bad},"
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
            _skip_hole(file)
        else:
            begun.append(rest)


def _skip_hole(file: IO[bytes]) -> None:
    """What follows is read where something of it lies on the disk: a file of others may say that it has terabytes."""
    place = file.tell()
    try:
        file.seek(place, os.SEEK_DATA)
    except OSError as error:
        is_the_rest_empty = error.errno == errno.ENXIO
        file.seek(0 if is_the_rest_empty else place, os.SEEK_END if is_the_rest_empty else os.SEEK_SET)


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
    n_lines = block.count(b"\n") + 1
    if len(together) == n_lines:
        if block.count(b"[") + block.count(b"{") > 2 * n_lines + codec.MOST_LEVELS:
            together = [None if codec.has_many_levels(body) else body for body in together]
        return together
    return [_read_line(line) for line in block.split(b"\n")]


def _read_line(line: bytes) -> Any:
    try:
        return codec.loads(line)  # NaN and Infinity, too
    except ValueError:
        return None


def _decode_values(bodies: Iterable[Any]) -> None:
    """The values of each line, and its step, are themselves; None for values where nobody can tell them."""
    for body in bodies:
        if type(body) is dict:
            try:
                body["values"] = codec.decode(body.get("values"))
                body["step"] = codec.decode(body["step"])
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                body["values"] = None


def _are_metrics(bodies: Sequence[Any]) -> bool:
    """Whether all of them are, see `_is_metric`: told in one go, of what is written as `log_metrics` does."""
    try:
        return {dict} >= {*map(type, bodies), *map(type, map(_VALUES, bodies))} and all(map(_STEP_AND_TIME, bodies))
    except (LookupError, TypeError):
        return False


def _is_metric(body: Any) -> bool:
    return type(body) is dict and type(body.get("values")) is dict and "step" in body and "time" in body


Read = Callable[[int], list[Metric]]
"""Reads the metrics of an attempt of that number."""


def course(
    folder: Folder,
    table: StateTable,
    job_id: int,
    tell: Callable[[str], None] | None = None,
    read: Read | None = None,
    *,
    until: int | None = None,
) -> list[tuple[int, list[Metric]]]:
    """Attempts of a job in order, with the metrics that count: those of the last attempt that has any, and before it,
    where that one went on from a checkpoint, what it did not log again of each metric.

    It ends with the attempt whose result is that of the job (`StateTable.counted`), or with the last one where there is
    none; with `until`, with that one. Of a job that was begun anew only its last attempt counts; so it was where it
    had ended well, unless a metric tells that it went on. For `tell` see `read_metrics`; `read` is for those who have
    read an attempt already.
    """
    found: list[tuple[int, list[Metric]]] = []
    numbers = _numbers(table, job_id, table.counted(job_id) if until is None else until)
    for one in _from_the_last(folder, table, numbers, job_id, tell, read):
        if one.metrics and not one.is_replaced:
            found.insert(0, (one.number, one.metrics))
        if one.is_end:
            break
    return found


def not_logged_again(
    folder: Folder,
    table: StateTable,
    job_id: int,
    tell: Callable[[str], None] | None = None,
    read: Read | None = None,
) -> frozenset[int]:
    """The attempts of a job that have logged something which no later one has logged again: those of its course, and
    others where it was begun anew, with those that keep them out of it; also as it was after the attempts with which it
    was done, which may count as long as no later one is. For `tell` and `read` see `course`."""
    kept, courses = set[int](), {table.done(job_id), table.completed(job_id), None}
    for until in courses:
        ends = set[int]()
        for one in _from_the_last(folder, table, _numbers(table, job_id, until), job_id, tell, read):
            if one.metrics:
                kept |= {one.number} if one.is_replaced else {one.number, *ends}
            ends |= {one.number} if one.is_end else set()
    return frozenset(kept)


def last_of_course(
    folder: Folder, table: StateTable, job_id: int, tell: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """The last value of each metric over the course of a job, by its name; see `course`. Steps are looked at only where
    an attempt has logged what the last one has not."""
    numbers = _numbers(table, job_id, table.counted(job_id))
    by_attempt = [values for number in numbers if (values := last_values(folder, job_id, number, tell))]
    last: dict[str, Any] = by_attempt[0] if by_attempt else {}
    if any(values.keys() - last.keys() for values in by_attempt):
        last = {}
        for _, metrics in course(folder, table, job_id):
            for metric in metrics:
                last |= metric.values
    return last


def _numbers(table: StateTable, job_id: int, until: int | None = None) -> list[int]:
    """The attempts of a job that were no dry passes, up to one of them, the last one first."""
    states = table.attempts.get(JobId(job_id), {})
    return sorted(
        (number for number in states if states[number] is not State.FAKE and (until is None or number <= until)),
        reverse=True,
    )


class _Left(NamedTuple):
    """An attempt, and what later ones have left of it."""

    number: int
    metrics: list[Metric]  # that no later attempt has logged again
    is_replaced: bool  # later attempts have begun anew all that it did
    is_end: bool  # and so it is with all before it


def _from_the_last(
    folder: Folder,
    table: StateTable,
    numbers: Iterable[int],
    job_id: int,
    tell: Callable[[str], None] | None,
    read: Read | None,
) -> Iterator[_Left]:
    """These attempts of a job, the last one first. What is left of an attempt does not depend on those all of whose
    metrics were logged again."""
    later: dict[str, float] = {}
    states = table.attempts.get(JobId(job_id), {})
    for number in numbers:
        metrics = list(read_metrics(folder, job_id, number, tell)) if read is None else read(number)
        steps = _steps(metrics)
        is_end = states.get(number) in ENDED_WELL and bool(later and metrics) and not _went_on(later, steps)
        left = _before(later, metrics) if later else metrics
        yield _Left(number, left, is_end or _began_anew(later, steps), is_end)
        for name, (least, _) in steps.items():
            later[name] = min(least, later.get(name, math.inf))


def _step(metric: Metric) -> float | None:
    """Where a value belongs in the course of a job; None for one that does not tell it."""
    return metric.step if is_number(metric.step) and metric.step == metric.step else None


def _steps(metrics: Iterable[Metric]) -> dict[str, tuple[float, float]]:
    """The least and the largest step of each metric; infinity and minus infinity of one that has none."""
    found: dict[str, tuple[float, float]] = {}
    for metric in metrics:
        step = _step(metric)
        for name in metric.values:
            least, largest = found.setdefault(name, (math.inf, -math.inf))
            if step is not None and not least <= step <= largest:
                found[name] = min(least, step), max(largest, step)
    return found


def _began_anew(later: Mapping[str, float], steps: Mapping[str, tuple[float, float]]) -> bool:
    """Whether the metrics that can tell it begin where they had begun: those that an attempt has logged at several
    steps, and a later one again. Of what is logged once, as the number of parameters, nobody knows."""
    telling = [
        later[name] <= least
        for name, (least, largest) in steps.items()
        if least < largest and later.get(name, math.inf) < math.inf
    ]
    return bool(telling) and all(telling)


def _went_on(later: Mapping[str, float], steps: Mapping[str, tuple[float, float]]) -> bool:
    """Whether later attempts went on from one that had ended well: a metric says it, whose first step is further on, or
    they have logged what each start does alone, once at the same step. What had ended well is run again to have its
    results anew, so it takes that much for it to count beside them."""
    if any(least < later.get(name, math.inf) < math.inf for name, (least, _) in steps.items()):
        return True
    return all(first < math.inf and steps.get(name) == (first, first) for name, first in later.items())


def _before(later: Mapping[str, float], metrics: Iterable[Metric]) -> list[Metric]:
    """What was not logged again: of each metric the values below the first step of `later`, of one that had no steps
    then all that have some, and of one that is not in it all."""
    left = []
    for metric in metrics:
        step = _step(metric)
        values = {
            name: value
            for name, value in metric.values.items()
            if name not in later or (step is not None and step < later[name])
        }
        if values:
            left.append(metric if len(values) == len(metric.values) else metric._replace(values=values))
    return left
