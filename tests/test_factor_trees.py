"""Factored composition against Hydra's own, on drawn trees of configs and drawn sweeps: always the same, errors too."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobRuntime, setup_globals
from hydra.types import RunMode
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from omegaconf import II, MISSING, DictConfig, ListConfig, Node, OmegaConf

from experiment_manager.hydra.compose import Composer, task_configuration
from experiment_manager.hydra.fast_compose import Factored
from experiment_manager.model import codec, grid
from experiment_manager.model.grid import Point, Setting
from tests.conftest import examples

MOST_POINTS = 6  # of one block of an example; Hydra composes each
LIGHT = [  # ends a defaults list; without these parts of its own, Hydra composes in half the time
    {f"override hydra/{group}": None} for group in ("help", "hydra_help", "hydra_logging", "job_logging", "output")
]


class Kind(Enum):
    RED = 1
    BLUE = 2


@dataclass
class Inner:
    p: int = 1
    q: float | None = None
    r: Any = "${a}"


@dataclass
class Model:
    width: int = 1
    rate: float = 0.5
    kind: Kind = Kind.RED
    name: str = "n"
    flag: bool = False
    maybe: int | None = None
    need: int = MISSING
    either: int | str = 1
    where: Path = Path("here")
    any: Any = 1
    link: int = II("a")
    sizes: list[int] = field(default_factory=lambda: [1, 2])
    table: dict[str, float] = field(default_factory=lambda: {"x": 1.0})
    numbers: dict[int, str] = field(default_factory=lambda: {1: "one"})
    inner: Inner = field(default_factory=Inner)
    inners: dict[str, Inner] = field(default_factory=lambda: {"x": Inner()})
    maybe_inner: Inner | None = None
    need_inner: Inner = MISSING
    link_inner: Inner = II("model.inner")  # noqa: RUF009


@dataclass(frozen=True)
class Frozen:
    p: int = 1
    sizes: list[int] = field(default_factory=lambda: [1, 2])
    inner: Inner = field(default_factory=Inner)


@dataclass
class App:
    """A structured config that is the primary one."""

    defaults: list[Any] = field(default_factory=lambda: ["_self_", {"model": "typed"}, {"db": "one"}, *LIGHT])
    a: Any = 1
    b: Any = field(default_factory=lambda: {"x": 1, "y": "${a}"})
    c: int | None = None
    db: Any = field(default_factory=dict)
    model: Any = MISSING
    src: Inner = field(default_factory=Inner)


@dataclass(frozen=True)
class FrozenApp:
    """A structured config that is the primary one, and makes all of the configuration read-only."""

    defaults: list[Any] = field(default_factory=lambda: ["_self_", *LIGHT])
    a: Any = 1
    b: Any = field(default_factory=lambda: {"x": 1, "y": "${a}"})
    src: Inner = field(default_factory=Inner)


@contextmanager
def structured_configs() -> Iterator[None]:
    """The dataclasses above are in Hydra's store for a while."""
    store = ConfigStore.instance()
    before = {**store.repo, "model": dict(store.repo.get("model", {}))}
    if "model" not in store.repo:
        del before["model"]
    store.store(group="model", name="typed", node=Model)
    store.store(group="model", name="frozen", node=Frozen)
    store.store(group="model", name="small", node=Inner)
    store.store(name="app", node=App)
    store.store(name="frozen_app", node=FrozenApp)
    try:
        yield
    finally:
        store.repo = before


class Loader(ConfigLoaderImpl):
    """Hydra's own, which counts the jobs that it composes."""

    def __init__(self, conf: Path) -> None:
        super().__init__(create_config_search_path(str(conf)))
        self.composed: list[tuple[str, ...]] = []

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        self.composed.append(tuple(sweep_overrides))
        return super().load_sweep_config(master_config, sweep_overrides)


def loaded(conf: Path, config_name: str, arguments: Sequence[str]) -> tuple[Loader, DictConfig]:
    """What Hydra's main makes of a folder of YAML and a command line. Raises Hydra's own errors."""
    version.setbase("1.3")
    setup_globals()
    JobRuntime.instance().set("name", "test")
    loader = Loader(conf)
    return loader, loader.load_configuration(config_name, list(arguments), RunMode.MULTIRUN)


class Compared(Composer):
    """One that can be compared with Hydra's own composition, untouched by ours."""

    def __init__(self, loader: Loader, master: DictConfig) -> None:
        super().__init__(loader, master)
        self._hydras, self._given = loader, master

    def by_hydra(self, overrides: Sequence[str]) -> codec.Encoded:
        """The value of `load_sweep_config`, but for Hydra's own part."""
        return task_configuration(self._hydras.load_sweep_config(self._given, list(overrides)))


def composer_of(conf: Path, config_name: str, arguments: Sequence[str]) -> Compared:
    return Compared(*loaded(conf, config_name, arguments))


def write(conf: Path, files: dict[str, str]) -> Path:
    """The folder, with these files in it."""
    for name, text in files.items():
        path = conf / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return conf


def outcome(compose: Any, argument: Any) -> tuple[str, str]:
    """The canonical text of the configuration, or type and message of the error."""
    try:
        return "composed", codec.canonical(compose(argument))
    except Exception as error:  # any error is to be the same one
        return type(error).__qualname__, str(error)


class Some(grid.Grid):
    """Some points of a grid, as if they were all of it."""

    def __init__(self, points: Sequence[Point]) -> None:
        super().__init__([], None)
        self._points = points

    def settings(self) -> Iterator[Setting]:
        return (setting for point in self._points for setting in point.settings)

    def sample(self, count: int) -> list[Point]:
        return random.Random(len(self._points)).sample(self._points, min(count, len(self._points)))


class Unchecked(Factored):
    """Without the comparison of a sample, which would hide what these tests look for."""

    def __init__(self, composer: Composer, points: Sequence[Point]) -> None:
        super().__init__(composer, Some(points))

    def _check(self, found: grid.Grid) -> None:
        pass

    def configuration(self, point: Point) -> codec.Encoded:
        """The configuration, the same as its texts say that it is."""
        found = self.configured(point)
        assert codec.digest(found.encoded) == found.fingerprint
        return found.encoded

    @property
    def plain(self) -> set[str]:
        return set(self._plain)


LEAVES: list[Any] = [0, 1, 2, 1.0, 0.5, True, None, "x", "1", "", "a,b", "[q]", "one", "???"]
LINKS = ["${a}", "${b}", "${b.x}", "${.y}", "${oc.select:c.x,7}", "${${c}}", "${model}", "${src}", "${a}-${c}"]
KEYS: list[Any] = ["x", "y", "z", 1]

leaves = st.sampled_from(LEAVES) | st.sampled_from(LEAVES) | st.sampled_from(LINKS)
lists = st.lists(leaves, max_size=2)
mappings = st.recursive(
    st.dictionaries(st.sampled_from(KEYS[:3]) | st.sampled_from(KEYS), leaves | leaves | lists, max_size=3),
    lambda deeper: st.dictionaries(st.sampled_from(KEYS[:3]), leaves | deeper, max_size=3),
    max_leaves=4,
)
nodes = leaves | mappings | mappings | lists

OPTIONS = {"model": ["typed", "typed", "small", "two", "frozen"]}
ABSENT = ["new", "a.x.y", "b.x.x", "c.z", "a[x]", "b.1", "unused", "unused.x", "db.in.new", "hydra.job.name"]
STRANGE_GROUPS = ["db@b", "unused", "db/in", "opt@db", "in@db.in"]
SCALARS = [
    *("0", "1", "2", "1.0", "0.5", "1e3", "nan", "true", "false", "null", "x", "'1'", "''", "'a,b'", "'[q]'", "b"),
    *("'it\\'s'", "'1.0'", "'true'", "'null'", '"q"', "a b", "???", "${b}", "${a}", "${b.x}", "'x${a}'", "'{x:1}'"),
]
TEXTS: dict[Any, list[str]] = {
    int: ["0", "1", "2", "'3'", "1.0", "true", "x", "null", "${a}"],
    float: ["0", "1", "0.5", "1e3", "'2'", "'0.5'", "nan", "x", "${b}"],
    bool: ["true", "false", "0", "1", "'true'", "yes", "x"],
    Kind: ["RED", "BLUE", "'RED'", "1", "2", "red", "Kind.RED", "null"],
}
LISTS = ["[]", "[1,2]", "['1',2]", "[x,'a,b']", "[[1],{x:1}]", "[${a}]", "null"]
FUNCTIONS = ["range(0,2)", "range(0,1,0.5)", "int(1.0,2.0)", "str(1,2)", "float(1,2)", "sort(2,1)", "bool(0,1)"]


def yaml_of(content: Any, defaults: Sequence[Any] = (), header: str = "") -> str:
    text = yaml.safe_dump({"defaults": list(defaults)}, sort_keys=False) if defaults else ""
    return header + text + (yaml.safe_dump(content, sort_keys=False) if content else "")


@st.composite
def option(draw: st.DrawFn, inner: str | None = None, overrides_opt: bool = False) -> str:
    """One option of a group: perhaps with defaults, an override of another group, or a package of its own."""
    defaults: list[Any] = []
    header = draw(st.sampled_from(["", "", "", "", "", "# @package _global_\n", "# @package src\n", "# @package b\n"]))
    if inner and draw(st.booleans()):
        defaults = draw(st.permutations(["_self_", {inner: draw(st.sampled_from(["one", "two"]))}]))
    if overrides_opt and draw(st.booleans()):
        header = "# @package _global_\n"
        defaults = [*(defaults or ["_self_"]), {"override /opt": "two"}]
    return yaml_of(draw(mappings), defaults, header)


@st.composite
def trees(draw: st.DrawFn) -> tuple[dict[str, str], str]:
    """A folder of YAML, and the name of its primary config."""
    options = st.sampled_from(["one", "two"])
    possible: list[Any] = [{"opt": draw(options)}, {"db": draw(options)}, {"db@src": draw(options)}]
    possible += [{"model": draw(st.sampled_from(OPTIONS["model"]))}, {"opt@db.o": draw(options)}, {"db@b.n": "one"}]
    chosen = [item for item in possible if draw(st.integers(0, 2))]
    defaults = ["_self_", *chosen] if draw(st.booleans()) else draw(st.permutations(["_self_", *chosen]))
    has_opt = possible[0] in defaults and not {"db@src", "db@b.n"} & {key for item in chosen for key in item}
    files = {f"db/{name}": draw(option("in", has_opt)) for name in ("one", "two")}
    files |= {f"{group}/{name}": draw(option()) for group in ("opt", "db/in", "unused") for name in ("one", "two")}
    base = draw(st.sampled_from(["typed", "small"]))
    files["model/two"] = yaml_of({"inner": {"p": 3}} if base == "typed" else {"p": 3}, [base, "_self_"])
    content = draw(st.fixed_dictionaries({"a": nodes, "b": nodes, "c": nodes}))
    content |= draw(st.dictionaries(st.sampled_from(["db", "src", "z", 1]), mappings, max_size=1))
    files["config"] = yaml_of(content, [*defaults, *LIGHT])
    return files, draw(st.sampled_from(["config"] * 8 + ["app", "app", "frozen_app"]))


def paths_of(node: Any, way: str = "") -> Iterator[tuple[str, Any]]:
    """The keys of a configuration as one types them, each with its node."""
    if isinstance(node, DictConfig) and not (node._is_none() or node._is_missing() or node._is_interpolation()):
        keys: list[Any] = list(node)
        for key in keys:
            if way or key != "hydra":
                child = node._get_node(key)
                yield f"{way}{key}", child
                yield from paths_of(child, f"{way}{key}.")


@st.composite
def value_texts(draw: st.DrawFn, node: Any, depth: int = 0) -> str:
    """A value as it is typed: most often one that the node can take."""
    kind = draw(st.integers(0, 9))
    if isinstance(node, DictConfig) and kind > 2 and depth < 3:
        inner = dict(paths_of(node))
        keys = draw(
            st.lists(st.sampled_from([*(key for key in inner if "." not in key), "x"]), max_size=2, unique=True)
        )
        return "{" + ",".join(f"{key}:{draw(value_texts(inner.get(key), depth + 1))}" for key in keys) + "}"
    if isinstance(node, ListConfig) and kind > 2:
        return draw(st.sampled_from(LISTS))
    if kind == 0:
        return draw(st.sampled_from([*LISTS, "{}", "{x:1}", "{x:{y:1}}", "{new:1}", "{1:2}", "{x:'a,b'}", "{p:2}"]))
    known = TEXTS.get(node._metadata.ref_type, SCALARS) if isinstance(node, Node) else SCALARS
    return draw(st.sampled_from(SCALARS if kind == 1 else known))


@st.composite
def overrides(draw: st.DrawFn, config: DictConfig, is_simple: bool = False) -> str:
    """One override as it is typed, swept or not: most often of a key that is there or a group that is used."""
    kind = 9 if is_simple else draw(st.integers(0, 9))
    prefix = "" if is_simple else draw(st.sampled_from([""] * 9 + ["+", "++", "~", "~"]))
    paths = dict(paths_of(config))
    choices = [key for key in config.hydra.runtime.choices if not key.startswith("hydra/")]
    if kind < 2 and choices:
        key = draw(st.sampled_from(choices * 3 + STRANGE_GROUPS))
        prefix = prefix if prefix != "++" else ""
        values: Any = st.sampled_from([*OPTIONS.get(key, ["one", "two"]) * 4, "null", "{x:1}", "nothing", "1", "[one]"])
    else:
        key = draw(st.sampled_from(ABSENT)) if kind == 2 or not paths else draw(st.sampled_from(sorted(paths)))
        values = value_texts(paths.get(key))
    if prefix == "+" and key in paths and draw(st.booleans()):
        key += draw(st.sampled_from([".new", ".x", "new"]))
    if prefix == "~":
        return f"~{key}" + (f"={draw(values)}" if draw(st.integers(0, 3)) == 0 else "")
    if not is_simple and draw(st.integers(0, 3)) == 0:
        return f"{prefix}{key}={draw(values)}"
    if kind > 2 and draw(st.integers(0, 9)) == 0:
        return f"{prefix}{key}={draw(st.sampled_from(FUNCTIONS))}"
    listed = ",".join(draw(st.lists(values, min_size=2, max_size=3, unique=True)))
    return f"{prefix}{key}=choice({listed})" if draw(st.integers(0, 5)) == 0 else f"{prefix}{key}={listed}"


@st.composite
def lines(draw: st.DrawFn, config: DictConfig) -> list[str]:
    """A command line: an override that looks plain, and some that may be anything, in any order."""
    simple = draw(overrides(config, is_simple=True))
    return draw(st.permutations([simple, *draw(st.lists(overrides(config), max_size=3))]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with structured_configs():
        yield tmp_path_factory.mktemp("trees")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Compared, DictConfig, OverridesParser]:
    conf = write(tmp_path_factory.mktemp("plain"), {"config": "a: 1\nb: {x: 1}\nc: [1]\n"})
    composer = composer_of(conf, "config", [])
    return composer, composer.composed([]), OverridesParser.create()


def points_of(composer: Composer, blocks: Sequence[Sequence[str]]) -> list[Point]:
    """The first points of each block."""
    every: list[Point] = []
    for block in blocks:
        found = grid.points(composer.axes({}, block), composer.config_name)
        every += [point for _, point in zip(range(MOST_POINTS), found, strict=False)]
    return list(grid.distinct(every))


def require_equal(composer: Compared, points: Sequence[Point]) -> None:
    """Every point composes to the same, or fails with the same error, on both ways, in any order."""
    factored = Unchecked(composer, points)
    expected: dict[str, tuple[str, str]] = {}
    for point in [*points, *points[:1]]:
        if point.identity not in expected:
            expected[point.identity] = outcome(composer.by_hydra, point.overrides)
        assert expected[point.identity] == outcome(factored.configuration, point), point.overrides


def test_store_is_left_as_it_was() -> None:
    """The structured configs of these tests are gone when they end."""
    before = OmegaConf.to_container(OmegaConf.create({"names": sorted(ConfigStore.instance().repo)}))
    with structured_configs():
        assert "app.yaml" in ConfigStore.instance().repo
    assert before == {"names": sorted(ConfigStore.instance().repo)}


RULES = settings(examples(12), suppress_health_check=list(HealthCheck))
REFUSALS = (Exception,)


@RULES
@given(tree=trees(), data=st.data())
def test_factored_is_what_hydra_composes(folder: Path, tree: tuple[dict[str, str], str], data: st.DataObject) -> None:
    """Of any tree and any sweep, every job's configuration is Hydra's own, and what Hydra refuses is refused alike."""
    files, name = tree
    for old in folder.rglob("*.yaml"):
        old.unlink()
    try:
        config = composer_of(write(folder, files), name, []).composed([])
    except REFUSALS as error:
        event(f"no tree: {type(error).__name__}")
        return
    blocks = data.draw(st.lists(lines(config), min_size=1, max_size=2), label="sweep")
    try:
        composer = composer_of(folder, name, blocks[0])
        points = points_of(composer, blocks)
    except REFUSALS as error:
        event(f"no sweep: {type(error).__name__}")
        return
    if not Unchecked(composer, points).plain:
        event("nothing is plain")
        return
    event("compared")
    require_equal(composer, points)


@RULES
@given(data=st.data())
def test_text_of_a_setting_says_its_value(
    plain: tuple[Compared, DictConfig, OverridesParser], data: st.DataObject
) -> None:
    """The override that Hydra gets reads back as the value that the job is known by."""
    composer, config, parser = plain
    typed = data.draw(overrides(config))
    try:
        axes = composer.axes({}, [typed])
    except REFUSALS:
        return
    for (setting,) in (step for axis in axes for step in axis.steps):
        (override,) = parser.parse_overrides([setting.text])
        if setting.is_variable:
            assert codec.canonical(codec.encode(setting.value)) == codec.canonical(codec.encode(override.value()))
