"""Templates of configurations: what is made of texts is what would be made of the whole configuration."""

import copy
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from experiment_manager.model import codec, delta
from experiment_manager.model.config_template import ConfigTemplate, Configured, value_of
from experiment_manager.model.grid import Point, Setting
from experiment_manager.model.records import Job, JobId
from experiment_manager.store.layout import Folder, planning
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.manifest_editor import editing
from tests.conftest import examples
from tests.test_delta import CONFIGURATIONS, LEAVES


def drawn(data: st.DataObject) -> tuple[codec.Encoded, list[Configured], list[codec.Encoded]]:
    """A configuration, jobs that differ from it in some of its leaves, and their whole configurations."""
    encoded = codec.encode(data.draw(CONFIGURATIONS))
    places = [path for path in delta.leaves(encoded) if path]
    paths = data.draw(st.permutations(places))[: data.draw(st.integers(0, 3))]
    template = ConfigTemplate(encoded, paths)
    jobs, wholes = [], []
    for _ in range(data.draw(st.integers(1, 3))):
        values = [codec.encode(data.draw(LEAVES)) for _ in paths]
        jobs.append(Configured(template, tuple(map(value_of, values))))
        wholes.append(delta.apply(copy.deepcopy(encoded), zip(paths, values, strict=True)))
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
