"""Sets of job ids as people write them: `0-3,7`. Pure text in, numbers out, and back."""

import re
from collections.abc import Collection, Iterable, Iterator
from itertools import pairwise
from operator import index
from typing import Any, Final

from experiment_manager.errors import FilterError, UnknownJob
from experiment_manager.text import one_line

_ITEM: Final = re.compile(r"\s*(\d{1,19})\s*(?:-\s*(\d{1,19})\s*)?\Z")
_MOST_CHARACTERS: Final = 60
_TEXT: Final = re.compile(r"[\d\s,\-]*\d[\d\s,\-]*\Z")


class RangeSet:
    """A set of numbers from 0 on held as its ranges, so that `0-999999` costs nothing. Goes through them in order.

    >>> 5 in RangeSet([range(0, 4), range(5, 6)]), list(RangeSet([range(2, 4), range(0, 3)])), len(RangeSet([range(4)]))
    (True, [0, 1, 2, 3], 4)
    """

    __slots__ = ("ranges",)

    def __init__(self, ranges: Iterable[range]) -> None:
        self.ranges = tuple(ranges)

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and any(number in steps for steps in self.ranges)

    def __iter__(self) -> Iterator[int]:
        for steps in self._apart():
            yield from steps

    def __len__(self) -> int:
        return sum(map(len, self._apart()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeSet) and self.ranges == other.ranges

    def __hash__(self) -> int:
        return hash(self.ranges)

    def __repr__(self) -> str:
        return f"RangeSet({list(self.ranges)})"

    def _apart(self) -> Iterable[range]:
        """The same numbers, ascending, each once: in ranges where these have no gaps, else one by one."""
        ordered = sorted(self.ranges, key=lambda steps: steps.start)
        if all(before.stop <= after.start for before, after in pairwise(ordered)):
            return ordered
        if any(steps.step != 1 for steps in ordered):
            return [range(number, number + 1) for number in sorted({number for steps in ordered for number in steps})]
        apart, reached = [], 0
        for steps in ordered:
            apart.append(range(max(steps.start, reached), max(steps.stop, reached)))
            reached = max(reached, steps.stop)
        return apart


def looks_like_ids(text: str) -> bool:
    """True for text that can only be meant as ids and ranges.

    >>> looks_like_ids("0-3, 7"), looks_like_ids("seed"), looks_like_ids("-")
    (True, False, False)
    """
    return bool(_TEXT.match(text))


def parse_ids(text: str) -> RangeSet:
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
        ranges.append(range(low, high + 1))
    return RangeSet(ranges)


def ids_in(asked: Any) -> list[int]:
    """The ids that somebody names, as text, as one number, or as several.

    >>> ids_in("0-2,7"), ids_in(3), ids_in([4, 1])
    ([0, 1, 2, 7], [3], [4, 1])

    Raises FilterError for anything else.
    """
    if isinstance(asked, str):
        return list(parse_ids(asked))
    try:
        return [index(asked)] if hasattr(asked, "__index__") else [index(item) for item in asked]
    except TypeError:
        raise FilterError(f"{asked!r} names no jobs; use ids and ranges, as 0-3,7") from None


def one_id(asked: object) -> int:
    """The id that somebody names, as a number of Python or of NumPy.

    Raises UnknownJob for what is no whole number.
    """
    try:
        return int(index(asked))  # type: ignore[arg-type]
    except TypeError:
        pass
    kind = type(asked).__name__
    raise UnknownJob(f"{one_line(repr(asked))} is no id of a job, but a {kind}; ids are whole numbers, as 3")


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
