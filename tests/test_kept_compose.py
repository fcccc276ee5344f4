"""What Hydra composes of files is kept for forked jobs: whatever a job asks for, it gets what Hydra composes."""

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hydra import version
from hydra.core.config_store import ConfigStore
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import Container, DictConfig, OmegaConf, open_dict, read_write

from experiment_manager.hydra import private_names
from experiment_manager.hydra.kept_compose import ComposedOnce, KeptCompositions
from experiment_manager.model.records import State

HAS_BASES = hasattr(version, "base_at_least")
FILES = {
    "config.yaml": "defaults: [opt: adam, _self_]\nlr: 1\nname: ${opt.kind}-${lr}\ndeaf: true\ndeep: {a: {b: '???'}}\n",
    "opt/adam.yaml": "kind: adam\nbetas: [0.9, 0.99]\n",
    "opt/sgd.yaml": "kind: sgd\nmomentum: 0\n",
    "extra/one.yaml": "# @package _global_\none: 1\n",
    "following.yaml": "defaults: [opt: sgd, schedule: '${opt}_step', _self_]\nhydra: {job: {chdir: false}}\n",
    "schedule/sgd_step.yaml": "step: 3\n",
    "asking.yaml": "defaults: [opt: '${oc.env:OPT}', _self_]\n",
    "old.yaml": "defaults: [opt: adam]\nlr: 1\n",
    "found.yaml": "defaults: [far: away, _self_]\nhydra: {searchpath: ['file://ELSEWHERE']}\n",
}
ELSEWHERE = {"far/away.yaml": "distance: 7\n"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of frozen sources, and one of others beside it."""
    monkeypatch.setenv("OPT", "adam")
    setup_globals()
    for folder, files in (("frozen/main", FILES), ("frozen/far", ELSEWHERE), ("live", ELSEWHERE)):
        for name, text in files.items():
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace("ELSEWHERE", str(tmp_path / "live")))
    return tmp_path


@contextmanager
def base(text: str | None) -> Iterator[None]:
    found = version.VersionBase.instance()
    before = found.version_base
    if HAS_BASES:
        version.setbase(text)
    yield
    found.version_base = before


def composed(place: Path, config_name: str, overrides: list[str]) -> DictConfig:
    """As a job composes it."""
    loader = private_names.loader_of(private_names.search_path(str(place / "frozen/main")))
    config: DictConfig = loader.load_configuration(config_name, overrides, run_mode=RunMode.RUN)
    return config


def told(node: Any) -> Any:
    """All that a configuration is made of."""
    about = {**vars(node._metadata), "cache": vars(node)["_flags_cache"], "resolver_cache": None}  # it knows the time
    if not isinstance(node, Container) or not isinstance(content := node._content, dict | list):
        return type(node), about, node._value()
    inner = content.items() if isinstance(content, dict) else enumerate(content)
    return type(node), about, [(key, told(child), child._get_parent() is node) for key, child in inner]


def handed_out(place: Path, config_name: str, example: list[str], overrides: list[str]) -> bool:
    """Whether a job with these overrides was answered by what was kept for the example. It has got what Hydra composes
    by itself, now and when it asks again."""
    expected = composed(place, config_name, overrides)
    kept = KeptCompositions(str(place / "frozen"))
    kept.keep(["-cp", str(place / "frozen/main"), "-cn", config_name, *example])
    before = len(kept)
    with private_names.composing_by(*private_names.composers()):
        kept.hand_out()
        found = composed(place, config_name, overrides)
        is_handed_out = len(kept) < before
        again = composed(place, config_name, overrides) if is_handed_out else found
    assert told(expected) == told(found) == told(again)
    assert OmegaConf.to_yaml(expected) == OmegaConf.to_yaml(found)
    return is_handed_out


PLACED = ["hydra.mode=RUN", "hydra.run.dir='/x y'", "hydra.job.num=3"]


@pytest.mark.parametrize(
    ("config_name", "example", "overrides"),
    [
        ("config", [], []),
        ("config", ["lr=1"], ["lr=2", "deep.a.b=[1,{c: 2}]", "+late={x: 1}", "~deaf", *PLACED]),
        ("config", ["opt=sgd"], ["lr=2", "opt=sgd", "opt.momentum=0.5"]),
        ("config", ["+extra=one", "hydra/job_logging=disabled"], ["+extra=one", "hydra/job_logging=disabled", "one=2"]),
        ("config", ["~opt"], ["~opt", "lr=3"]),
        ("following", PLACED, ["schedule.step=4", *PLACED]),
        (
            "config",
            ["hydra.searchpath=[file://FROZEN/far]", "+far=away"],
            ["hydra.searchpath=[file://FROZEN/far]", "+far=away"],
        ),
    ],
)
def test_what_was_kept_is_what_hydra_composes(
    place: Path, config_name: str, example: list[str], overrides: list[str]
) -> None:
    """A job that chooses the same groups is answered at once, whatever values it sets."""
    example, overrides = (
        [item.replace("FROZEN", str(place / "frozen")) for item in items] for items in (example, overrides)
    )
    with base(None):
        assert handed_out(place, config_name, example, overrides)


@pytest.mark.parametrize(
    ("config_name", "example", "overrides"),
    [
        ("config", ["opt=adam"], ["opt=sgd"]),
        ("config", [], ["+extra=one"]),
        ("config", [], ["+opt@second=sgd"]),
        ("found", [], []),
        ("config", ["hydra.searchpath=[file://LIVE]", "+far=away"], ["hydra.searchpath=[file://LIVE]", "+far=away"]),
    ],
    ids=["another group", "one more", "another package", "live folder", "live folder by override"],
)
def test_what_may_differ_is_composed_anew(
    place: Path, config_name: str, example: list[str], overrides: list[str]
) -> None:
    """Another choice, and a source that may change, lead to Hydra itself."""
    example, overrides = (
        [item.replace("LIVE", str(place / "live")) for item in items] for items in (example, overrides)
    )
    with base(None):
        assert not handed_out(place, config_name, example, overrides)


def test_what_the_program_brings_is_respected(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that has put anything into the ConfigStore composes by itself."""
    with base(None):
        kept = KeptCompositions(str(place / "frozen"))
        kept.keep(["-cp", str(place / "frozen/main"), "-cn", "config"])
        monkeypatch.setattr(ConfigStore.instance(), "repo", copy.copy(ConfigStore.instance().repo))
        ConfigStore.instance().store("config", {"lr": 5}, group="opt/inner")
        with private_names.composing_by(*private_names.composers()):
            kept.hand_out()
            composed(place, "config", [])
        assert 1 == len(kept)


@pytest.mark.skipif(not HAS_BASES, reason="Hydra 1.4 knows one version base, and asks no resolver")
@pytest.mark.filterwarnings("ignore")
def test_what_hydra_does_differently_by_then_is_composed_anew(place: Path) -> None:
    """An old version base, a defaults list that Hydra warns of, and one that asks a resolver are left to the job."""
    with base("1.1"):
        assert not handed_out(place, "config", [], [])
    with base(None):
        assert not handed_out(place, "old", [], [])
        assert not handed_out(place, "asking", [], [])


def test_a_sweep_composes_what_lies_in_files_once(place: Path) -> None:
    """Of jobs that choose the same groups, the first alone is composed from the files, and no job finds what another
    has set; one whose defaults list asks a resolver is composed anew each time."""
    create, compose = private_names.composers()
    calls = list[Any]()

    def counted(loader: Any, defaults: Any, repo: Any) -> Any:
        calls.append(defaults)
        return compose(loader, defaults=defaults, repo=repo)

    jobs = [[], ["lr=2", "+late={x: 1}"], ["opt=sgd", "opt.momentum=1"], ["~deaf"], ["opt=sgd"], ["opt.betas=[1]"], []]
    once = ComposedOnce()
    with base(None):
        expected = [told(composed(place, "config", job)) for job in jobs]
        with private_names.composing_by(create, counted):
            for job, config in zip(jobs, expected, strict=True):
                with once.repeating():
                    assert config == told(composed(place, "config", job))
        assert 2 == len(calls)
        if HAS_BASES:
            with private_names.composing_by(create, counted), once.repeating():
                assert [composed(place, "asking", []), composed(place, "asking", [])]
            assert 4 == len(calls)


@dataclasses.dataclass
class Typed:
    """Of every kind of node one."""

    number: int = 3
    text: str | None = None
    share: float = 0.5
    is_on: bool = True
    state: State = State.RUNNING
    either: int | str = "x"
    inner: dict[str, list[float]] = dataclasses.field(default_factory=lambda: {"a": [1.0]})


def test_copies_made_by_hand_are_those_of_omegaconf() -> None:
    """A copied configuration holds what a copy of OmegaConf's own holds: types, flags, caches, parents, nothing
    shared."""
    config = OmegaConf.create(
        {"typed": Typed, "missing": "???", "link": "${typed.number}", "list": [{"deep": None}, 1]}
    )
    OmegaConf.set_struct(config, True)
    OmegaConf.set_readonly(config.list, True)
    assert config.typed.number == config.link
    kinds = (*private_names.get("Node.__deepcopy__"), type(config), type(config._metadata).__mro__[1])
    before = {kind: vars(kind).get("__deepcopy__") for kind in kinds}
    expected = copy.deepcopy(config)
    private_names.copy_by_hand()
    try:
        found = copy.deepcopy(config)
    finally:
        for kind, method in before.items():
            if method is None:
                del kind.__deepcopy__
            else:
                kind.__deepcopy__ = method
    assert told(expected) == told(found)
    assert config._metadata.resolver_cache is not found._metadata.resolver_cache
    with read_write(found.list), open_dict(found):
        found.typed.inner.a[0] = found.list[0].deep = 7
        found.new = 1
    assert told(expected) == told(config)
