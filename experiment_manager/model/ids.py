"""Sets of job ids as people write them: `0-3,7`. Pure text in, numbers out, and back."""

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from experiment_manager.errors import FilterError
from experiment_manager.text import one_line

_ITEM: Final = re.compile(r"\s*(\d{1,19})\s*(?:-\s*(\d{1,19})\s*)?\Z")
_MOST_CHARACTERS: Final = 60
_TEXT: Final = re.compile(r"[\d\s,\-]*\d[\d\s,\-]*\Z")


class IdSet:
    """A set of ids held as its ranges, so that `0-999999` costs nothing.

    >>> 5 in IdSet([(0, 3), (5, 5)]), 4 in IdSet([(0, 3), (5, 5)]), len(IdSet([(0, 3)]))
    (True, False, 4)
    """

    __slots__ = ("ranges",)

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        self.ranges = tuple(ranges)

    def __contains__(self, job_id: object) -> bool:
        return isinstance(job_id, int) and any(low <= job_id <= high for low, high in self.ranges)

    def __iter__(self) -> Iterator[int]:
        for low, high in self._apart():
            yield from range(low, high + 1)

    def __len__(self) -> int:
        return sum(high - low + 1 for low, high in self._apart())

    def _apart(self) -> Iterator[tuple[int, int]]:
        """The same ids in ranges that do not overlap, ascending."""
        reached = -1
        for low, high in sorted(self.ranges):
            if high > reached:
                yield max(low, reached + 1), high
                reached = high


def looks_like_ids(text: str) -> bool:
    """True for text that can only be meant as ids and ranges.

    >>> looks_like_ids("0-3, 7"), looks_like_ids("seed"), looks_like_ids("-")
    (True, False, False)
    """
    return bool(_TEXT.match(text))


def parse_ids(text: str) -> IdSet:
    """The ids that a text such as `0-3,7` names; both ends of a range belong to it.

    >>> list(parse_ids("7, 0-3"))
    [0, 1, 2, 3, 7]

    Raises FilterError when the text is neither empty nor a list of ids and ranges.
    """
    ranges = []
    for item in text.split(",") if text.strip() else ():
        match = _ITEM.match(item)
        if match is None:
            raise FilterError(
                f"{one_line(repr(item.strip()))} in {one_line(repr(text))} is no job id or range; write ids like 0-3,7"
            )
        low, high = int(match[1]), int(match[2] or match[1])
        if high < low:
            raise FilterError(
                f"the range {item.strip()!r} in {one_line(repr(text))} runs backwards; write {high}-{low}"
            )
        ranges.append((low, high))
    return IdSet(ranges)


def format_ids(ids: Iterable[int]) -> str:
    """The shortest text for a set of ids.

    >>> format_ids([7, 0, 1, 2, 3])
    '0-3,7'
    """
    ranges: list[list[int]] = []
    for job_id in sorted(set(ids)):
        if ranges and ranges[-1][1] == job_id - 1:
            ranges[-1][1] = job_id
        else:
            ranges.append([job_id, job_id])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)


def shortened(ids: str) -> str:
    """Ids that fit a table: `0-3,7,...`."""
    return ids if len(ids) <= _MOST_CHARACTERS else ids[:_MOST_CHARACTERS].rpartition(",")[0] + ",..."


def which(ids: Collection[int]) -> str:
    """`job 3`, or `jobs 0-3,7`, shortened.

    >>> which([3]), which([0, 1, 2, 3, 7])
    ('job 3', 'jobs 0-3,7')
    """
    return f"{'job' if len(ids) == 1 else 'jobs'} {shortened(format_ids(ids))}"
