"""What differs between two configurations: every leaf that does, and no other."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_manager.model import codec, delta
from experiment_manager.model.delta import ABSENT, Change
from tests.conftest import examples

BOOLEANS = st.booleans()
ALIKE: st.SearchStrategy[Any] = st.sampled_from([0.0, -0.0, 0, False])
OTHERS = (
    st.none()
    | st.booleans()
    | st.sampled_from([0, 1, 0.0, -0.0, 1.0, "", "0", "1"])
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.lists(st.sampled_from([0, 0.0, -0.0, 1, True, {"a": 1, "b": 2}]), max_size=3)
    | st.tuples(st.sampled_from([0, False, -0.0]))
    | st.dictionaries(st.integers(0, 2), st.integers(0, 1), min_size=1, max_size=2)
)
LEAVES = BOOLEANS.flatmap(lambda alike: ALIKE if alike else OTHERS)
KEYS = st.sampled_from(["a", "b", "a.b", ""])
CONFIGURATIONS = st.dictionaries(
    KEYS, st.recursive(LEAVES, lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=6), max_size=4
)


def same_keys(data: st.DataObject, encoded: Any) -> Any:
    """A tagged configuration with the same paths and other leaves."""
    other = copy.deepcopy(encoded)
    for path in delta.leaves(other):
        changed: bool = data.draw(BOOLEANS)
        if path and changed:
            delta.apply(other, [(path, codec.encode(data.draw(LEAVES)))])
    return other


def from_leaves(encoded: Any) -> dict[delta.Path, str]:
    """The canonical text of every leaf: what `compare` has to see."""
    return {path: codec.canonical(leaf) for path, leaf in delta.leaves(encoded).items()}


@examples(150)
@given(CONFIGURATIONS, st.data())
def test_apply_of_replaced_gives_the_other_back(configuration: Any, data: st.DataObject) -> None:
    """A base and the leaves that differ are enough for the other configuration, to the sign of a zero."""
    base = codec.encode(configuration)
    other = same_keys(data, base)
    changes = delta.replaced(delta.leaves(base), delta.leaves(other))
    stored = json.loads(codec.dumps([[list(path), item] for path, item in changes]))
    assert codec.canonical(other) == codec.canonical(delta.apply(codec.loads(codec.dumps(base)), stored))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({1: "a"}, {1: "b"}),
        ({"$x": 1}, {"$x": 2}),
        ([1], [2]),
        ("a", "b"),
    ],
)
def test_apply_replaces_the_whole_where_the_whole_is_the_leaf(one: Any, other: Any) -> None:
    """A configuration that is one leaf (integer keys, a list) is replaced as one leaf, too."""
    base, wanted = codec.encode(one), codec.encode(other)
    changes = delta.replaced(delta.leaves(base), delta.leaves(wanted))
    assert wanted == delta.apply(base, changes)


@examples(150)
@given(CONFIGURATIONS, CONFIGURATIONS, st.data())
def test_compare_names_every_differing_leaf_and_no_other(one: Any, other: Any, data: st.DataObject) -> None:
    """The keys named are those whose canonical leaf is another, or is on one side only."""
    before = codec.encode(one)
    after = same_keys(data, before) if data.draw(BOOLEANS) else codec.encode(other)
    old, new = from_leaves(before), from_leaves(after)
    expected = sorted(".".join(path) for path in old.keys() | new.keys() if old.get(path) != new.get(path))
    assert expected == sorted(change.key for change in delta.compare(before, after))


@examples(50)
@given(CONFIGURATIONS)
def test_compare_with_itself_is_empty(configuration: Any) -> None:
    """A configuration does not differ from itself, NaN or not."""
    encoded = codec.encode(configuration)
    assert [] == delta.compare(encoded, codec.loads(codec.dumps(encoded)))


def test_zero_and_minus_zero_differ() -> None:
    """0.0 and -0.0 have two fingerprints, so they are two leaves."""
    assert [Change("x", "0.0", "-0.0")] == delta.compare({"x": 0.0}, {"x": -0.0})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([{"a": 1, "b": 2}], [{"b": 2, "a": 1}]),
        ({1: "x", 2: "y"}, {2: "y", 1: "x"}),
        (({"a": 1, "b": 2},), ({"b": 2, "a": 1},)),
    ],
)
def test_order_of_keys_inside_a_leaf_is_no_difference(before: Any, after: Any) -> None:
    """Key order counts nowhere, not in mappings that stand in lists, either: the fingerprints are the same."""
    one, other = codec.encode({"leaf": before}), codec.encode({"leaf": after})
    assert codec.digest(one) == codec.digest(other)
    assert [] == delta.compare(one, other)


def test_types_differ() -> None:
    """1, 1.0, True and "1" are four values, alone and in lists."""
    values: list[Any] = [1, 1.0, True, "1"]
    for place, one in enumerate(values):
        for other in values[place + 1 :]:
            assert ["x"] == [change.key for change in delta.compare({"x": one}, {"x": other})]
            assert ["x"] == [change.key for change in delta.compare({"x": [[one]]}, {"x": [[other]]})]


def test_one_sided_leaves_are_absent_on_the_other() -> None:
    """A leaf that one side lacks is named with the word for it; a mapping that became a value is all its leaves."""
    assert [
        Change("nn", ABSENT, "3"),
        Change("nn.depth", "2", ABSENT),
        Change("nn.width", "1", ABSENT),
    ] == delta.compare({"nn": {"width": 1, "depth": 2}}, {"nn": 3})


def test_apply_changes_nothing_else() -> None:
    """Only the named leaves are replaced."""
    base = {"a": {"b": 1, "c": [1]}, "d": 2}
    assert {"a": {"b": 1, "c": [9]}, "d": 2} == delta.apply(base, [(("a", "c"), [9])])


def test_describe_counts_what_it_leaves_out() -> None:
    """A line shows so many changes and counts the rest."""
    changes = [Change(f"k{number}", "1", "2") for number in range(7)]
    line = delta.describe(changes, most=2)
    assert "k0: 1 -> 2, k1: 1 -> 2, and 5 more" == line
    assert "k0: 1 -> 2" == delta.describe(changes[:1])
    assert "more" not in delta.describe(changes, most=7)
