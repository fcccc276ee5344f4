"""Sets of ids as text, and back."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_manager.errors import FilterError
from experiment_manager.model.ids import RangeSet, format_ids, looks_like_ids, parse_ids
from tests.conftest import examples

ID_SETS = st.sets(st.integers(0, 60)) | st.sets(st.integers(0, 10**12), max_size=8)
RANGES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)), max_size=6)


@examples(100)
@given(ID_SETS)
def test_parsed_text_is_the_set(ids: set[int]) -> None:
    """Every set of ids comes back from its text, in order and once each."""
    assert sorted(ids) == list(parse_ids(format_ids(ids)))


@examples(100)
@given(st.sets(st.integers(0, 60), min_size=1))
def test_text_is_the_shortest(ids: set[int]) -> None:
    """Neighbours are one range, and ranges are sorted, so no two of them touch; the text looks like ids."""
    text = format_ids(ids)
    assert looks_like_ids(text)
    ranges = parse_ids(text).ranges
    assert all(before.stop < after.start for before, after in itertools.pairwise(ranges))
    assert sum(map(len, ranges)) == len(ids)


@examples(100)
@given(RANGES)
def test_overlapping_ranges_count_once(ranges: list[tuple[int, int]]) -> None:
    """Iteration, length and membership agree, however ranges overlap and whatever their order."""
    pairs = [range(low, low + more + 1) for low, more in ranges]
    expected = sorted({number for numbers in pairs for number in numbers})
    found = RangeSet(pairs)
    assert expected == list(found)
    assert len(expected) == len(found)
    assert expected == [number for number in range(-1, 45) if number in found]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("7", [7]),
        ("0-3,7", [0, 1, 2, 3, 7]),
        (" 7 , 0 - 3 ", [0, 1, 2, 3, 7]),
        ("3-3", [3]),
        ("007", [7]),
        ("1,1,1-2", [1, 2]),
        ("", []),
        ("  ", []),
    ],
)
def test_texts_that_are_ids(text: str, ids: list[int]) -> None:
    """Spaces and repetitions do no harm, both ends of a range belong to it, and no text is no ids."""
    assert ids == list(parse_ids(text))


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "1,a",
        "1,,2",
        ",",
        "1,",
        ",1",
        "-",
        "1-",
        "-1",
        "1--3",
        "1-2-3",
        "1 2",
        "1.5",
        "1e3",
        "+1",
        "0x10",
        "1;2",
        "1_0",
    ],
)
def test_texts_that_are_no_ids(text: str) -> None:
    """A text that is no list of ids and ranges is refused, and the refusal quotes it."""
    with pytest.raises(FilterError) as refused:
        parse_ids(text)
    assert repr(text) in str(refused.value)


def test_backward_range_is_told_forward() -> None:
    """A range that runs backwards is refused, with what was probably meant."""
    with pytest.raises(FilterError, match=r"backwards; write 3-9"):
        parse_ids("1,9-3")


def test_enormous_range_costs_nothing() -> None:
    """A range is held as its ends."""
    ids = parse_ids("0-999999999999")
    assert 10**12 - 1 in ids
    assert 10**12 not in ids
    assert [0, 1, 2] == [number for number, _ in zip(ids, range(3), strict=False)]


@pytest.mark.parametrize("found", ["1", 1.0, None, "a", (0, 3)])
def test_only_integers_are_ids(found: object) -> None:
    """Nothing but an integer is in a set of ids."""
    assert found not in RangeSet([range(4)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", True),
        ("0-3, 7", True),
        ("1,,2", True),
        ("", False),
        ("-", False),
        (",", False),
        ("seed", False),
        ("1.5", False),
    ],
)
def test_what_looks_like_ids(text: str, expected: bool) -> None:
    """Text of digits, commas, dashes and spaces with one digit at least can only be meant as ids."""
    assert expected is looks_like_ids(text)


@examples(100)
@given(st.text(alphabet="0123456789-, a.", max_size=8))
def test_any_text_is_ids_or_refused(text: str) -> None:
    """No text ends otherwise than in a set of ids or in a FilterError."""
    try:
        ids = parse_ids(text)
    except FilterError:
        return
    assert set(ids) == set(parse_ids(format_ids(ids)))
