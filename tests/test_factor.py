"""What is plain, what is not, and what factored composition must never get wrong, rule by rule."""

import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from omegaconf import DictConfig

from experiment_manager.hydra.fast_compose import Factored, plain_keys
from experiment_manager.model import codec, grid
from experiment_manager.model.grid import Setting
from tests.test_factor_trees import (
    LIGHT,
    Compared,
    Loader,
    Some,
    Unchecked,
    loaded,
    points_of,
    require_equal,
    structured_configs,
    write,
)

TREE = {
    "config": f"defaults: {json.dumps(['_self_', {'db': 'one'}, {'opt': 'one'}, {'db@src': 'one'}, *LIGHT])}\n"
    "a: 1\nb: {x: 1, y: {z: 2}}\nlink: ${b}\nnothing: null\nneed: ???\nn: {1: one}\nitems: [1, {x: 1}]\n",
    "db/one": "host: h\nport: 1\n",
    "db/two": "host: g\nport: 2\nextra: 3\n",
    "db/alone": "# @package _global_\ndefaults: [{override /opt: two}, _self_]\nb: {x: 7}\n",
    "opt/one": "x: 1\n",
    "opt/two": "x: 2\nmore: 3\n",
    "unused/one": "x: 1\n",
    "typed": f"defaults: {json.dumps([{'model': 'typed'}, '_self_', *LIGHT])}\na: {{z: 1}}\n",
}


Make = Callable[..., "Sweep"]


class Sweep:
    """A sweep of the tree above, or of one with another primary config; what is swept may be wrong for Hydra."""

    def __init__(self, loader: Loader, master: DictConfig, composer: Compared, arguments: Sequence[str]) -> None:
        self.loader, self.master, self.composer = loader, master, composer
        self.points = points_of(composer, [arguments])

    def plain(self) -> set[str]:
        """The keys that are plain; every job is what Hydra composes, or fails as Hydra does."""
        plain = Unchecked(self.composer, self.points).plain
        if plain:  # else Hydra composes every job
            require_equal(self.composer, self.points)
        return plain

    def n_composed(self) -> int:
        """How often Hydra composes for all the jobs."""
        factored = Unchecked(self.composer, self.points)
        self.loader.composed.clear()
        for point in self.points:
            factored.configuration(point)
        return len(self.loader.composed)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Makes a sweep; Hydra is started once for every primary config."""
    started: dict[tuple[str, str], tuple[Loader, DictConfig, Compared]] = {}

    def make(*arguments: str, name: str = "config", config: str = TREE["config"]) -> Sweep:
        if (name, config) not in started:
            primary = config if "defaults:" in config else f"defaults: {json.dumps(['_self_', *LIGHT])}\n{config}"
            conf = write(tmp_path_factory.mktemp("tree"), {**TREE, "config": primary})
            loader, master = loaded(conf, name, [])
            started[name, config] = loader, master, Compared(loader, master)
            assert loader.load_sweep_config(master, [])  # else all would be refused alike
        return Sweep(*started[name, config], arguments)

    with structured_configs():
        yield make


def plain_of(*texts: str, groups: tuple[str, ...] = ()) -> set[str]:
    """The plain keys of a sweep over overrides written as `key=value`, each key with all of its values."""
    keys = [re.split("=", text)[0].lstrip("+") for text in texts]
    settings = (Setting(key, text, text) for key, text in zip(keys, texts, strict=True))
    return set(plain_keys(settings, lambda key, _: key in groups))


def test_swept_value_is_plain() -> None:
    """A key that is changed to several values is plain; one with a single value is part of the combination."""
    assert {"a", "b.x"} == plain_of("a=1", "a=2", "b.x=1", "b.x=2", "c=1")


def test_what_adds_deletes_or_has_a_package_is_not_plain() -> None:
    """`+`, `++`, `~`, a package and Hydra's own keys are for Hydra, also when only one value of the key is so."""
    assert set() == plain_of("+a=1", "+a=2", "++b=1", "b=2", "~c=1", "~c=2", "d@e=1", "d@e=2")
    assert set() == plain_of("hydra.job.name=1", "hydra.job.name=2", "hydra=1", "hydra=2")


def test_group_is_not_plain() -> None:
    """The choice of a group is for Hydra, with a package, too; a value inside the group is plain."""
    assert {"db.x"} == plain_of("db=1", "db=2", "db@s=1", "db@s=2", "db.x=1", "db.x=2", groups=("db",))


@pytest.mark.parametrize("other", ["a.b.c=1", "+a.b.c=1", "~a.b=1", "a[b]=1", "a[b].c=1", "++a.b.c={d: 1}"])
def test_key_that_another_touches_is_not_plain(other: str) -> None:
    """A key that another override names, in whole, in part or below, however it is written, is for Hydra."""
    assert {"ab", "a.bc"} == plain_of("a.b=1", "a.b=2", "ab=1", "ab=2", "a.bc=1", "a.bc=2", other)
    assert {"ab"} == plain_of("a.b=1", "a.b=2", "ab=1", "ab=2", "a.bc=1", "a.bc=2", "~a", other)


def test_plain_sweep_composes_a_handful_of_times(make: Make) -> None:
    """200 jobs over two groups: Hydra composes one base per group and the jobs of the sample."""
    sweep = make("db=one,two", "a=range(0,25)", "b.x=0.1,0.2,0.3,0.4")
    points = grid.Grid([sweep.composer.axes({}, ["db=one,two", "a=range(0,25)", "b.x=1,2,3,4"])], "config")
    sweep.loader.composed.clear()
    factored = Factored(sweep.composer, points)
    assert 200 == len({factored.configured(point).fingerprint for point in points})
    assert 5 == len(sweep.loader.composed)


def test_sweep_of_two_is_composed_by_hydra_alone(make: Make) -> None:
    """Where the sample would have every job of a sweep, each is composed once, and nothing beside."""
    sweep = make("a=1,2")
    sweep.loader.composed.clear()
    factored = Factored(sweep.composer, Some(sweep.points))
    assert [1, 2] == [factored.configured(point).encoded["a"] for point in [*sweep.points, *sweep.points]][:2]
    assert [("a=1",), ("a=2",)] == sweep.loader.composed


def test_fixed_value_costs_one_composition_per_group(make: Make) -> None:
    """Overrides of one value are in the base, which is compared with what is there without them."""
    assert 4 == make("db=one,two", "a=1,2,3", "b.x=5", "+new=1", "~b.y").n_composed()


def test_job_that_is_not_asked_for_is_not_composed(make: Make) -> None:
    """A filter that needs only variables drops first: a key that only one group has can be swept with the other."""
    sweep = make("db=one,two", "db.extra=5,6")
    factored = Unchecked(sweep.composer, sweep.points)
    sweep.loader.composed.clear()
    passing = [point for point in sweep.points if point.variables["db"] == "two"]
    assert [5, 6] == [factored.configuration(point)["db"]["extra"] for point in passing]
    assert [("db=two",)] == sweep.loader.composed


def test_job_that_cannot_be_composed_is_no_difference(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """A sample that Hydra refuses says nothing; the error comes when the job is asked for."""
    sweep = make("missing=1,2", "a=1,2")
    factored = Factored(sweep.composer, Some(sweep.points))
    assert "" == capsys.readouterr().err
    with pytest.raises(Exception, match="Could not override 'missing'"):
        factored.configured(sweep.points[0])


class Blind(Compared):
    """Takes no key for a group, and so the choice of a group for a value: the mistake that the sample is there for."""

    def is_group(self, key: str, value: Any) -> bool:
        return False


def test_sample_notices_what_is_not_the_sum_of_its_parts(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """Should a job differ from what Hydra composes, a line says so and Hydra composes every job of the sweep."""
    sweep = make()
    composer = Blind(sweep.loader, sweep.master)
    points = points_of(composer, [["db=one,two", "a=1,2"]])
    assert {"db", "a"} == Unchecked(composer, points).plain
    factored = Factored(composer, Some(points))
    assert "composing every job one by one: db=" in capsys.readouterr().err
    assert [composer.by_hydra(point.overrides) for point in points] == [
        factored.configured(point).encoded for point in points
    ]


def test_sample_is_quiet_when_all_is_well(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is said about a sweep that is the sum of its parts."""
    sweep = make("db=one,two", "a=1,2")
    Factored(sweep.composer, Some(sweep.points))
    assert "" == capsys.readouterr().err


TEMPTING = {
    "a key below an interpolated node": (["link.x=5,6"], {"link.x"}),
    "a fixed key below an interpolation to a swept one": (["b.x=5,6", "link.x=7"], {"b.x"}),
    "the same in the other order": (["link.x=7", "b.x=5,6"], {"b.x"}),
    "an added key below an interpolation": (["b.y.z=5,6", "++link.y.z=7"], {"b.y.z"}),
    "a key inside a swept one": (["b={x: 5},{x: 6}", "b.x=7,8"], set()),
    "a mapping, merged into what was there before": (["b={x: 5},{y: {z: 6}},{x: 7,y: {z: 8}}"], {"b"}),
    "a mapping with a key that is not there": (["b={x: 5},{w: 6}"], {"b"}),
    "an item of a list": (["items.0=5,6"], {"items.0"}),
    "a mapping in a list": (["items.1.x=5,6"], {"items.1.x"}),
    "a key that is an integer": (["n.1=5,6"], {"n.1"}),
    "a key that only one option has": (["db=one,two", "db.extra=5,6"], {"db.extra"}),
    "a key that an option brings by overriding another group": (["db=one,alone", "opt.more=5,6"], {"opt.more"}),
    "a value that an option sets, too": (["db=one,alone", "b.x=5,6"], {"b.x"}),
    "a group that no defaults list names": (["unused=one,two", "a=5,6"], {"a"}),
    "a mapping for a group": (["db={host: x},{host: y}", "a=5,6"], {"db", "a"}),
    "a mapping for a group, and an option": (["db=two,{host: y}", "a=5,6"], {"a"}),
    "a group in another package": (["db@src=one,two", "src.host=x,y", "src.extra=5,6"], {"src.host", "src.extra"}),
    "a package without a group": (["a@b=5,6"], set()),
    "a key below null": (["nothing.x=5,6"], {"nothing.x"}),
    "a key below a missing value": (["need.x=5,6"], {"need.x"}),
    "a missing value": (["need=5,???,{x: 1}"], {"need"}),
    "a key below a number": (["a.x=5,6"], {"a.x"}),
    "a mapping that becomes null": (["b=null,5,[1],{x: 2}"], {"b"}),
    "interpolations for values": (["a='${b.x}',${b},5,{k: 1},'${oc.env:HOME}'"], {"a"}),
    "values equal in text": (["a=1,1.0,'1','true','null',''"], {"a"}),
    "quoted strings": (["a='a,b','[q]','it\\'s','{x: 1}',\"d\",' s '"], {"a"}),
    "lists with quoted strings": (["items=['a,b',1],[],[[1],{x: '1'}]"], {"items"}),
    "a deletion of another key": (["a=5,6", "~b.y"], {"a"}),
    "a deletion of what an interpolation stands for": (["b.x=5,6", "~link.x"], {"b.x"}),
    "an added key": (["+new=5,6", "++a=7,8", "b.x=1,2"], {"b.x"}),
    "a force-added key with another key below": (["++w.x=5", "w.x=7,8"], set()),
    "the first of two mistakes": (["a.w=5,6", "missing=1"], {"a.w"}),
    "the second of two mistakes": (["missing=1", "a.w=5,6"], {"a.w"}),
    "a deletion that compares with a mapping": (["db.port=1,5", "~db={host: h,port: 1}"], set()),
}


@pytest.mark.parametrize("trap", TEMPTING)
def test_factoring_is_not_tempted(make: Make, trap: str) -> None:
    """Whatever looks plain and may not be is what Hydra makes of it, errors included."""
    arguments, plain = TEMPTING[trap]
    assert plain == make(*arguments).plain()


TYPED = {
    "an integer": ["model.width='2',2.0,x,'${a}'"],
    "a float written as an integer": ["model.rate=1,'3',nan,x"],
    "the name of an enum": ["model.kind=RED,1,red,Kind.BLUE"],
    "text": ["model.name=1,1.0,null"],
    "a truth value": ["model.flag=1,'false',x"],
    "an optional number": ["model.maybe=null,'2'"],
    "a missing number": ["model.need=1,x,???"],
    "one of several types": ["model.either=1,'1',null"],
    "a path": ["model.where='a b',1"],
    "an interpolated number": ["model.link=x,'${b}'"],
    "a list": ["model.sizes=[1,'2'],[x]"],
    "a typed mapping": ["model.table={x: 2},{y: '3'},{x: w}"],
    "a key of a typed mapping": ["model.table.x=2,'3',w"],
    "a key that is an integer": ["model.numbers.1=2,x"],
    "a dataclass": ["model.inner={p: '3',q: 1},{w: 1},null"],
    "a field of a dataclass": ["model.inner.p='3',x", "model.inner.q=1,2"],
    "a dataclass in a mapping": ["model.inners={x: {p: 2}},{y: {q: 1}}"],
    "a dataclass that is null": ["model.maybe_inner={p: 2},null"],
    "a field of a dataclass that is null": ["model.maybe_inner.p=2,3"],
    "a field of a dataclass that is missing": ["model.need_inner.p=2,3"],
    "a field of an interpolated dataclass": ["model.link_inner.p=2,3"],
    "a field of an interpolated dataclass, and of itself": ["model.inner.p=2,3", "model.link_inner.p=4"],
    "a mapping for what a dataclass has by interpolation": ["a.z=2,3", "model.maybe_inner={r: {z: 4}}"],
    "a mapping for what a dataclass has by interpolation, swept": ["a.z=2,3", "model.maybe_inner={r: {z: 4}},{r: {}}"],
    "a key below an interpolation of a new dataclass": ["a.z=2,3", "+model.maybe_inner.r.z=4"],
    "another dataclass": ["model=typed,frozen", "model.inner.p=2,3"],
}


@pytest.mark.parametrize("what", TYPED)
def test_structured_configs_convert_and_refuse(make: Make, what: str) -> None:
    """A value becomes what its dataclass says, or is refused, as Hydra does it."""
    assert make(*TYPED[what], name="typed").plain() >= {"a.z"} & {text[:3] for text in TYPED[what]}


def test_read_only_configuration_refuses(make: Make) -> None:
    """A primary config that is a frozen dataclass refuses numbers, mappings and lists alike."""
    arguments = ["a=1,{x: 1},[]", "src.p=1,2", "src={p: 1},{p: 2}"]
    for argument in arguments:
        make(argument, name="frozen_app").plain()


def test_merge_into_an_interpolated_node_follows_other_keys(make: Make) -> None:
    """Hydra merges a mapping into a copy of what an interpolation points to, swept or fixed: nothing is put in then."""
    config = "a: {b: '${other}'}\nother: {z: 1, w: 2}\n"
    for argument in ("a={b: {w: 3}},{b: {w: 4}}", "a={b: {w: 3}}", "++a={b: {w: 3}}"):
        assert "other.z" in make("other.z=5,6", argument, config=config).plain()


def test_addition_looks_at_what_is_there(make: Make) -> None:
    """`+x=1` is refused when the interpolation that x is gives a value, which depends on another key."""
    assert {"a"} == make("a=null,2", "+x=1", config="a: null\nx: ${a}\n").plain()


def test_deletion_compares_with_what_is_there(make: Make) -> None:
    """`~x=5` is refused when x is not 5, which depends on the key that it is interpolated from."""
    assert {"a"} == make("a=5,6", "~x=5", config="a: 5\nx: ${a}\n").plain()


def test_interpolation_that_an_override_brings_leads_elsewhere(make: Make) -> None:
    """A fixed override below one that is an interpolation writes where that points to."""
    config = "a: {z: 1}\nb: 1\n"
    assert {"a.z"} == make("a.z=5,6", "b='${a}'", "++b.z=7", config=config).plain()


def test_several_blocks_with_axes_of_their_own(make: Make) -> None:
    """A key that is swept in one block, fixed in another and absent in a third is right in all."""
    sweep = make()
    blocks = [["a=1,2", "db=one,two"], ["a=7", "b.x=5,6"], ["opt=one,two"], ["b.y={z: 1},{z: 2}", "+new=1"]]
    sweep.points = points_of(sweep.composer, blocks)
    assert {"a", "b.x", "b.y"} == sweep.plain()


def test_configurations_do_not_see_each_other(make: Make) -> None:
    """In whatever order jobs are asked for, a value that was put in for one is not in another."""
    sweep = make("a=1,{x: 2},null,[3]", "b={x: 5},{y: {z: 6}}")
    sweep.points = [*sweep.points, *reversed(sweep.points)]
    assert {"a", "b"} == sweep.plain()


SEVERAL = (
    ("b={x: 5}", "++b={c: 1}", "+b={d: 2}", "b.x=7", "~b.x", "++b.x=8", "b={x: 6},{w: 1}"),
    ("a=2,3", "++a=4", "~a", "+a=5"),
    ("db=one,two", "++db={port: 5}"),
    ("+new=1", "new=2,3", "+new={c: 1}"),
    ("+items=[2]", "items=[3]", "++items=[4],[{y: 1}]", "items=5,6", "++items=7"),
)
"""Overrides of one key each."""


def test_two_overrides_of_a_key_are_what_hydra_makes_of_them(make: Make) -> None:
    """Whatever the + before each, their order and what stands between them: a sweep has the configurations that Hydra's
    own sweeper has, in its order. What that cannot compose is not compared; jobs that are the same are one."""
    triples = [
        ("++b={x: 5}", "b.x=7", "b={x: 6}"),
        ("+new={c: 1}", "new={d: 2}", "new=3"),
        ("a=2,3", "~a", "+a=5"),
        ("++b={c: 1}", "a=2,3", "b={x: 6},{w: 1}"),
    ]
    n_compared = 0
    for arguments in [*itertools.chain(*(itertools.permutations(each, 2) for each in SEVERAL)), *triples]:
        sweep = make(*arguments)
        parsed = OverridesParser.create(sweep.loader).parse_overrides(list(arguments))
        (jobs,) = BasicSweeper.split_arguments(parsed, None)
        try:
            expected = [codec.canonical(sweep.composer.by_hydra(job)) for job in jobs]
        except Exception:  # whatever Hydra or OmegaConf raises
            continue
        sweep.plain()
        found = [codec.canonical(sweep.composer.by_hydra(point.overrides)) for point in sweep.points]
        assert list(dict.fromkeys(expected)) == list(dict.fromkeys(found)), arguments
        assert len(sweep.points) == len({point.identity for point in sweep.points})
        n_compared += 1
    assert n_compared > 30


@pytest.mark.parametrize(
    "arguments",
    [("items=[1],[2]", "++items=[3]"), ("++items=[1],[2]", "items=[3]"), ("items=null,[2]", "++items=[3]")],
)
def test_a_list_takes_the_place_of_the_one_before(make: Make, arguments: tuple[str, str]) -> None:
    """Hydra puts a list in the place of what was there, as it does a number, so what came before makes no jobs."""
    sweep = make(*arguments)
    sweep.plain()
    assert [{"items": [3]}] == [point.variables for point in sweep.points]


@pytest.mark.skipif(not hasattr(OverrideType, "EXTEND_LIST"), reason="Hydra before 1.4 extends no lists")
def test_a_list_is_extended_after_it_is_set(make: Make) -> None:
    """What `extend_list` adds comes behind what was set before, and not in its place."""
    sweep = make("++items=[3],[4]", "items=extend_list(8)")
    assert [[3, 8], [4, 8]] == [sweep.composer.by_hydra(point.overrides)["items"] for point in sweep.points]


def test_overrides_of_a_key_have_names_and_identities_of_their_own(make: Make) -> None:
    """Each is a variable; alone, one is called as its key, whatever its +; another order is another job."""
    one, other = ("++b={x: 5}", "b={x: 6}"), ("b={x: 6}", "++b={x: 5}")
    assert {"++b": {"x": 5}, "b": {"x": 6}} == make(*one).points[0].variables
    assert {"b": {"x": 5}} == make(one[0]).points[0].variables
    assert make(*one).points[0].identity != make(*other).points[0].identity
    assert {"new": 3} == make("+new=1", "new=2,3").points[1].variables
