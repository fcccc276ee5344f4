"""Configurations in their tagged form: every leaf that differs and no other, and templates that are filled."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_manager.model import codec, configurations
from experiment_manager.model.configurations import ABSENT, Change, ConfigTemplate, Configured, value_of
from experiment_manager.model.grid import Point, Setting
from experiment_manager.model.records import Job, JobId
from experiment_manager.store.layout import Folder, planning
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.manifest_editor import editing
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
    for path in configurations.leaves(other):
        changed: bool = data.draw(BOOLEANS)
        if path and changed:
            configurations.apply(other, [(path, codec.encode(data.draw(LEAVES)))])
    return other


def from_leaves(encoded: Any) -> dict[configurations.Path, str]:
    """The canonical text of every leaf: what `compare` has to see."""
    return {path: codec.canonical(leaf) for path, leaf in configurations.leaves(encoded).items()}


@examples(150)
@given(CONFIGURATIONS, st.data())
def test_apply_of_replaced_gives_the_other_back(configuration: Any, data: st.DataObject) -> None:
    """A base and the leaves that differ are enough for the other configuration, to the sign of a zero."""
    base = codec.encode(configuration)
    other = same_keys(data, base)
    changes = configurations.replaced(configurations.leaves(base), configurations.leaves(other))
    stored = json.loads(codec.dumps([[list(path), item] for path, item in changes]))
    assert codec.canonical(other) == codec.canonical(configurations.apply(codec.loads(codec.dumps(base)), stored))


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
    changes = configurations.replaced(configurations.leaves(base), configurations.leaves(wanted))
    assert wanted == configurations.apply(base, changes)


@examples(150)
@given(CONFIGURATIONS, CONFIGURATIONS, st.data())
def test_compare_names_every_differing_leaf_and_no_other(one: Any, other: Any, data: st.DataObject) -> None:
    """The keys named are those whose canonical leaf is another, or is on one side only."""
    before = codec.encode(one)
    after = same_keys(data, before) if data.draw(BOOLEANS) else codec.encode(other)
    old, new = from_leaves(before), from_leaves(after)
    expected = sorted(".".join(path) for path in old.keys() | new.keys() if old.get(path) != new.get(path))
    assert expected == sorted(change.key for change in configurations.compare(before, after))


@examples(50)
@given(CONFIGURATIONS)
def test_compare_with_itself_is_empty(configuration: Any) -> None:
    """A configuration does not differ from itself, NaN or not."""
    encoded = codec.encode(configuration)
    assert [] == configurations.compare(encoded, codec.loads(codec.dumps(encoded)))


def test_zero_and_minus_zero_differ() -> None:
    """0.0 and -0.0 have two fingerprints, so they are two leaves."""
    assert [Change("x", "0.0", "-0.0")] == configurations.compare({"x": 0.0}, {"x": -0.0})


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
    assert [] == configurations.compare(one, other)


def test_types_differ() -> None:
    """1, 1.0, True and "1" are four values, alone and in lists."""
    values: list[Any] = [1, 1.0, True, "1"]
    for place, one in enumerate(values):
        for other in values[place + 1 :]:
            assert ["x"] == [change.key for change in configurations.compare({"x": one}, {"x": other})]
            assert ["x"] == [change.key for change in configurations.compare({"x": [[one]]}, {"x": [[other]]})]


def test_one_sided_leaves_are_absent_on_the_other() -> None:
    """A leaf that one side lacks is named with the word for it; a mapping that became a value is all its leaves."""
    assert [
        Change("nn", ABSENT, "3"),
        Change("nn.depth", "2", ABSENT),
        Change("nn.width", "1", ABSENT),
    ] == configurations.compare({"nn": {"width": 1, "depth": 2}}, {"nn": 3})


def test_apply_changes_nothing_else() -> None:
    """Only the named leaves are replaced."""
    base = {"a": {"b": 1, "c": [1]}, "d": 2}
    assert {"a": {"b": 1, "c": [9]}, "d": 2} == configurations.apply(base, [(("a", "c"), [9])])


def test_describe_counts_what_it_leaves_out() -> None:
    """A line shows so many changes and counts the rest."""
    changes = [Change(f"k{number}", "1", "2") for number in range(7)]
    line = configurations.describe(changes, most=2)
    assert "k0: 1 -> 2, k1: 1 -> 2, and 5 more" == line
    assert "k0: 1 -> 2" == configurations.describe(changes[:1])
    assert "more" not in configurations.describe(changes, most=7)


def drawn(data: st.DataObject) -> tuple[codec.Encoded, list[Configured], list[codec.Encoded]]:
    """A configuration, jobs that differ from it in some of its leaves, and their whole configurations."""
    encoded = codec.encode(data.draw(CONFIGURATIONS))
    places = [path for path in configurations.leaves(encoded) if path]
    paths = data.draw(st.permutations(places))[: data.draw(st.integers(0, 3))]
    template = ConfigTemplate(encoded, paths)
    jobs, wholes = [], []
    for _ in range(data.draw(st.integers(1, 3))):
        values = [codec.encode(data.draw(LEAVES)) for _ in paths]
        jobs.append(Configured(template, tuple(map(value_of, values))))
        wholes.append(configurations.apply(copy.deepcopy(encoded), zip(paths, values, strict=True)))
    return encoded, jobs, wholes


@examples(200)
@given(st.data())
def test_filled_frame_is_the_whole_configuration(data: st.DataObject) -> None:
    """A job's configuration and fingerprint are those of the whole, and the template stays as it was."""
    encoded, jobs, wholes = drawn(data)
    before = codec.canonical(encoded)
    for job, whole in zip(jobs, wholes, strict=True):
        assert codec.canonical(whole) == codec.canonical(job.encoded)
        assert codec.digest(whole) == job.fingerprint
    assert before == codec.canonical(encoded)


def test_place_may_look_like_another_ones_text() -> None:
    """Values that look like the text of other places, or of the whole, change nothing else."""
    encoded = {"a": "b", "b": '"a"', "c": {"a": "0", "$": "1"}}
    template = ConfigTemplate(encoded, [("b",), ("a",)])
    job = Configured(template, (value_of('{"a":1}'), value_of(["b", {"x": 1}])))
    assert {"a": ["b", {"x": 1}], "b": '{"a":1}', "c": {"a": "0", "$": "1"}} == job.encoded
    assert codec.digest(job.encoded) == job.fingerprint


@examples(60)
@given(data=st.data())
def test_manifest_gives_back_what_a_frame_said(tmp_path_factory: Any, data: st.DataObject) -> None:
    """Whether a template's base is its own or another one's, each job reads back as its whole configuration."""
    folder = Folder(tmp_path_factory.mktemp("template"), "train")
    encoded, jobs, wholes = drawn(data)
    point = Point((Setting("seed", "seed=1", 1),), "config")
    with planning(folder), editing(folder) as editor:
        editor.add_job(
            Job(JobId(100), "other", {}, (), codec.digest(encoded), None), Configured(ConfigTemplate(encoded))
        )  # a base with other leaves
        for number, job in enumerate(jobs):
            editor.add_point(number, point, job, 1)
    with Manifest(folder) as manifest:
        for number, whole in enumerate(wholes):
            assert codec.canonical(whole) == codec.canonical(manifest.encoded_configuration(number))
            assert codec.digest(whole) == manifest.job(number).fingerprint


def in_orders(mapping: dict[str, Any]) -> list[dict[str, Any]]:
    """The mapping with its keys in one order, and in the other."""
    return [mapping, dict(reversed(mapping.items()))]


@pytest.mark.parametrize("nested", [lambda net: net, lambda net: {"net": net}, lambda net: {"blocks": [net]}])
@pytest.mark.parametrize("is_in_python", [True, False])
def test_each_job_has_the_order_of_its_own_keys(tmp_path: Path, nested: Any, *, is_in_python: bool) -> None:
    """A program builds its layers in the order of a mapping: a job reads back as it was given, whatever order the jobs
    before it have, also where they are in the manifest already; what it is told apart by does not ask for the order."""
    folder = Folder(tmp_path, "train")
    found = [codec.encode({"lr": 0.1, **nested(net)}) for net in in_orders({"conv": 8, "fc": 16})]
    found += [{1: {"b": 2, "a": 1}}, {1: {"a": 1, "b": 2}}, {1: (1, {"b": 1, "a": 1})}, {1: (1, {"a": 1, "b": 1})}]
    wanted = [*map(codec.encode, found), *map(codec.encode, reversed(found))]
    for first in (0, len(found)):
        with planning(folder), editing(folder) as editor:
            for number in range(first, first + len(found)):
                encoded = wanted[number]
                job = Job(JobId(number), f"{number}", {}, (), codec.digest(encoded), None)
                if is_in_python:
                    editor.add_configured(job, encoded)
                else:
                    editor.add_job(job, Configured(ConfigTemplate(encoded)))
    with Manifest(folder) as manifest:
        read = [codec.dumps(manifest.encoded_configuration(number)) for number in range(len(wanted))]
    assert [codec.dumps(encoded) for encoded in wanted] == read
    assert codec.digest(wanted[0]) == codec.digest(wanted[1])


def test_value_of_a_sweep_has_the_order_of_its_own_keys(tmp_path: Path) -> None:
    """The same for a value that a sweep puts into a template's place."""
    folder = Folder(tmp_path, "train")
    template = ConfigTemplate({"nets": []}, [("nets",)])
    wanted = [[net] for net in in_orders({"conv": 8, "fc": 16})]
    with planning(folder), editing(folder) as editor:
        editor.add_job(Job(JobId(9), "9", {}, (), "-", None), Configured(ConfigTemplate({"nets": wanted[0]})))
        for number, nets in enumerate(wanted):
            point = Point((Setting("seed", f"seed={number}", number),), "config")
            editor.add_point(number, point, Configured(template, (value_of(nets),)), 1)
    with Manifest(folder) as manifest:
        assert [codec.dumps({"nets": nets}) for nets in wanted] == [
            codec.dumps(manifest.encoded_configuration(number)) for number in range(2)
        ]


def test_point_is_stored_as_its_job(tmp_path: Path) -> None:
    """The manifest has the same record of a point of a sweep and of the job that it is."""
    settings_of = (
        Setting("lr", "lr=1e-3", 1e-3),
        Setting("text", "text='a, \"b\" ü'", 'a, "b" ü'),
        Setting("~db", "~db", None, True, False),
        Setting("nn", "nn=[1,2]", [1, 2]),
        Setting("one", "+one=two", "two", True),
    )
    point = Point(settings_of, "config")
    one, other = Folder(tmp_path, "one"), Folder(tmp_path, "other")
    configured = Configured(ConfigTemplate({"lr": 1}, [("lr",)]), (value_of(1e-3),))
    with planning(one), editing(one) as editor:
        editor.add_point(0, point, configured, 1)
        editor.add_point(1, point, None, 1)
    job = Job(JobId(0), point.identity, point.variables, point.overrides, configured.fingerprint, 1)
    with planning(other), editing(other) as editor:
        editor.add_job(job, Configured(ConfigTemplate({"lr": 1e-3})))
        editor.add_job(job._replace(id=JobId(1), fingerprint=None, recipe=None))
    with Manifest(one) as left, Manifest(other) as right:
        assert list(right.jobs()) == list(left.jobs())
        assert [right.configuration(i) for i in (0, 1)] == [left.configuration(i) for i in (0, 1)]
