"""From axes to points, and what makes two points one job."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_manager.errors import GridError, UnstorableValue
from experiment_manager.model.grid import (
    Axis,
    Grid,
    Setting,
    distinct,
    points,
    sweep_identity,
    variables_identity,
    zipped,
)
from tests.conftest import examples


def axis(key: str, *values: Any) -> Axis:
    return Axis((key,), tuple((Setting(key, f"{key}={value}", value),) for value in values))


def rows(axes: list[Axis]) -> list[list[Any]]:
    return [list(point.variables.values()) for point in points(axes, "config")]


def identity(*settings: Setting, config_name: str | None = "config") -> str:
    return sweep_identity(settings, config_name)


def plain(key: str, value: Any) -> Setting:
    return Setting(key, f"{key}={value}", value)


def ordered(key: str, text: str) -> Setting:
    return Setting(key, text, None, is_ordered=True)


def test_last_axis_varies_fastest() -> None:
    """Points come as in Hydra's basic sweeper: the last key turns first."""
    every = list(points([axis("a", 1, 2), axis("b", "x", "y", "z")], "config"))
    assert [(a, b) for a in (1, 2) for b in "xyz"] == [tuple(point.variables.values()) for point in every]
    assert ("a=1", "b=z") == every[2].overrides
    assert ["a", "b"] == list(every[0].variables)


def test_no_axes_are_one_point() -> None:
    """A sweep without a swept key is one job; an axis without values is none."""
    assert [{}] == [point.variables for point in points([], "config")]
    assert [] == list(points([axis("a", 1), axis("b")], "config"))


@examples(60)
@given(st.lists(st.integers(0, 4), max_size=4))
def test_number_of_points_is_the_product(lengths: list[int]) -> None:
    """There are as many points as the product of the lengths says, all with identities of their own."""
    axes = [axis(f"k{place}", *range(length)) for place, length in enumerate(lengths)]
    every = list(points(axes, None))
    assert math.prod(lengths) == len(every)
    assert len(every) == len({point.identity for point in every})


def test_points_are_made_one_by_one() -> None:
    """Enumerating a grid holds one point at a time: the first of 10^12 comes at once."""
    first = next(points([axis(f"k{place}", *range(10)) for place in range(12)], None))
    assert {f"k{place}": 0 for place in range(12)} == first.variables


def test_zip_group_varies_together() -> None:
    """Keys of a group take their first values together, then their second ones; the rest is a product."""
    axes = zipped([axis("lr", 1, 2), axis("batch", 10, 20), axis("seed", 0, 1)], [["lr", "batch"]])
    assert [[1, 10, 0], [1, 10, 1], [2, 20, 0], [2, 20, 1]] == rows(axes)


def test_zip_group_stands_where_its_first_key_stood() -> None:
    """A group turns at the place of its first key; axes between its keys follow it."""
    axes = zipped([axis("a", 1, 2), axis("b", 5, 6), axis("c", 8, 9), axis("d", 0)], [["b", "d"][:1], ["a", "c"]])
    assert [("a", "c"), ("b",), ("d",)] == [each.keys for each in axes]
    assert [[1, 8, 5, 0], [1, 8, 6, 0], [2, 9, 5, 0], [2, 9, 6, 0]] == rows(axes)


def test_two_zip_groups() -> None:
    """Two groups are two axes of the product."""
    axes = zipped([axis("a", 1, 2), axis("b", 3, 4), axis("c", 5, 6, 7), axis("d", 7, 8, 9)], [["a", "b"], ["c", "d"]])
    assert [[a, b, c, d] for a, b in ((1, 3), (2, 4)) for c, d in ((5, 7), (6, 8), (7, 9))] == rows(axes)


def test_without_groups_nothing_changes() -> None:
    """No group, or an empty one, leaves the axes as they are."""
    axes = [axis("a", 1, 2), axis("b", 3)]
    assert axes == zipped(axes, [])
    assert axes == zipped(axes, [[]])


def test_zip_of_unequal_lengths_is_refused() -> None:
    """Keys that vary together need equally many values; the refusal counts them."""
    with pytest.raises(GridError, match=r"a has 2, b has 3 values"):
        zipped([axis("a", 1, 2), axis("b", 3, 4, 5)], [["a", "b"]])


def test_zip_of_unknown_key_is_refused() -> None:
    """A key that is not swept is refused with those that are."""
    with pytest.raises(GridError, match=r"'lrr'.*swept are: lr, seed"):
        zipped([axis("lr", 1), axis("seed", 2)], [["lrr", "seed"]])
    with pytest.raises(GridError, match="no keys"):
        zipped([], [["lr"]])


@pytest.mark.parametrize("groups", [[["a", "b"], ["b", "c"]], [["a", "a"]], [["a", "b", "a"]], [["a"], ["a"]]])
def test_key_that_is_zipped_twice_is_refused(groups: list[list[str]]) -> None:
    """A key varies together with one group, once: twice, in two groups or in one, is refused."""
    with pytest.raises(GridError, match=r"'(a|b)' twice"):
        zipped([axis("a", 1, 2), axis("b", 3, 4), axis("c", 5, 6)], groups)


def test_distinct_keeps_the_first() -> None:
    """Of points with one identity the first stays, where it stood."""
    every = [*points([axis("a", 1, 2, 1)], "config"), *points([axis("a", 2, 3)], "config")]
    assert [1, 2, 3] == [point.variables["a"] for point in distinct(every)]


def test_distinct_keeps_values_of_other_types() -> None:
    """1, 1.0, True and "1" are four jobs, NaN and NaN are one, -0.0 and 0.0 are two."""
    axes = [axis("a", 1, 1.0, True, "1", math.nan, float("nan"), 0.0, -0.0)]
    assert 7 == len(list(distinct(points(axes, "config"))))


def test_order_of_plain_settings_does_not_count() -> None:
    """Plain values are a set: the order in which a command line names them makes no other job."""
    assert identity(plain("a", 1), plain("b", 2)) == identity(plain("b", 2), plain("a", 1))
    assert identity(plain("a", 1), plain("b", 2)) != identity(plain("a", 2), plain("b", 1))
    assert identity(plain("a", {"x": 1, "y": 2})) == identity(plain("a", {"y": 2, "x": 1}))


def test_text_of_plain_settings_does_not_count() -> None:
    """`key`, `+key` and `++key` are one variable: its value counts, not how it was written."""
    assert identity(Setting("a", "a=1", 1)) == identity(Setting("a", "++a=1", 1))
    assert identity(Setting("a", "a='1'", "1")) != identity(Setting("a", "a=1", 1))


def test_order_of_ordered_settings_counts() -> None:
    """Appended groups and deletions are in order: the other way round they compose something else."""
    one, other = ordered("db", "+db=mysql"), ordered("db", "~db.port")
    assert identity(one, other) != identity(other, one)
    assert identity(one) != identity(other)
    assert identity(one, plain("a", 1)) == identity(plain("a", 1), one)


def test_name_of_the_config_counts() -> None:
    """The same overrides of another config are another job."""
    assert 3 == len({identity(plain("a", 1), config_name=name) for name in ("config", "other", None)})


def test_deletion_is_no_variable() -> None:
    """A deletion has no value to vary: it is among the overrides, not among the variables."""
    deletion = Setting("db", "~db", None, is_ordered=True, is_variable=False)
    (point,) = points([Axis(("db",), ((deletion,),)), axis("a", 1)], "config")
    assert {"a": 1} == point.variables
    assert ("~db", "a=1") == point.overrides


def test_identity_of_python_variables_is_typed_and_unordered() -> None:
    """Variables written in Python are a set of typed values, and never the same job as a point of a sweep."""
    assert variables_identity({"a": 1, "b": 2}) == variables_identity({"b": 2, "a": 1})
    values = [1, 1.0, True, "1", None, [1], (1,)]
    assert len(values) == len({variables_identity({"a": value}) for value in values})
    assert variables_identity({"a": 1}) != identity(plain("a", 1), config_name=None)
    with pytest.raises(UnstorableValue, match="a is"):
        variables_identity({"a": {1, 2}})


def test_grid_is_gone_through_again_and_again() -> None:
    """The points of blocks come one after the other, without those that came before, each time the same."""
    grid = Grid([[axis("a", 1, 2, 1)], [axis("a", 2, 3), axis("b", 0)]], "config")
    wanted = [{"a": 1}, {"a": 2}, {"a": 2, "b": 0}, {"a": 3, "b": 0}]
    assert [wanted, wanted] == [[point.variables for point in grid] for _ in range(2)]
    assert ["a", "b"] == grid.names()
    shared = Grid([[axis("a", 1, 2)], [axis("a", 2, 3)]], "config")
    assert [1, 2, 3] == [point.variables["a"] for point in shared]
    assert 4 == len(shared)


@examples(60)
@given(st.lists(st.lists(st.integers(0, 3), max_size=3), max_size=3), st.integers(0, 5), st.booleans())
def test_sample_of_a_grid_is_of_its_points(lengths: list[list[int]], count: int, is_zipped: bool) -> None:
    """A sample has that many points, or all there are; every one of them is a point of the grid, settings in order."""
    blocks = []
    for block in lengths:
        axes = [axis(f"k{place}", *range(length)) for place, length in enumerate(block)]
        if is_zipped and len(axes) > 2 and len(axes[0].steps) == len(axes[2].steps):
            axes = zipped(axes, [["k0", "k2"]])
        blocks.append(axes)
    grid = Grid(blocks, None)
    drawn = grid.sample(count)
    assert min(count, len(grid)) == len(drawn)
    assert {point.overrides for point in drawn} <= {point.overrides for point in grid}
    assert drawn == grid.sample(count)


def test_grid_of_a_million_points_costs_nothing() -> None:
    """Counting, sampling and beginning do not go through the points."""
    grid = Grid([[axis(f"k{place}", *range(10)) for place in range(12)]], None)
    assert 10**12 == len(grid)
    assert 3 == len({point.overrides for point in grid.sample(3)})
    assert {f"k{place}": 0 for place in range(12)} == next(iter(grid)).variables


def test_repeated_value_stays_where_it_first_stood() -> None:
    """Of equal values the first stays in its place, as it was written."""
    steps = tuple(
        (Setting("a", text, value),) for text, value in (("a=1", 1), ("a=2", 2), ("a=0x1", 1), ("a=1.0", 1.0))
    )
    assert [("a=1",), ("a=2",), ("a=1.0",)] == [point.overrides for point in Grid([[Axis(("a",), steps)]], None)]
