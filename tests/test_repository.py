"""Configs that are read once for a sweep: the same compositions, whatever happens to the files meanwhile."""

import json
from pathlib import Path

import pytest
from hydra.errors import HydraException
from omegaconf import open_dict

from tests.test_factor_trees import LIGHT, Compared, composer_of, write

DEFAULTS = f"defaults: {json.dumps([{'db': 'one'}, {'db@other': 'two'}, '_self_', *LIGHT])}\n"
FILES = {"config": f"{DEFAULTS}a: 1\n", "db/one": "port: 1\n", "db/two": "port: 2\n"}


@pytest.fixture
def composer(tmp_path: Path) -> Compared:
    return composer_of(write(tmp_path / "conf", FILES), "config", [])


def test_files_are_read_once(tmp_path: Path, composer: Compared) -> None:
    """What has been read is not read again, so a sweep has one configuration, also while somebody edits the YAML."""
    before = composer.configuration(["a=2"])
    assert composer.by_hydra(["a=2"]) == before
    write(tmp_path / "conf", {"db/one": "port: 7\n", "db/three": "port: 3\n"})
    assert {**before, "a": 3} == composer.configuration(["a=3"])
    assert {"port": 3} == composer.configuration(["db=three"])["db"]
    (tmp_path / "conf/db/three.yaml").unlink()
    assert {"port": 3} == composer.configuration(["db=three"])["db"]
    with pytest.raises(HydraException):
        composer.configuration(["db=four"])


def test_what_is_done_to_one_composition_is_not_seen_by_the_next(composer: Compared) -> None:
    """Hydra, and whoever gets a configuration, change it; what was read stays as it was."""
    first = composer.composed(["db@other=one"])
    with open_dict(first):
        first.other.port = 9
        first.db.clear()
    assert composer.by_hydra(["db@other=one"]) == composer.configuration(["db@other=one"])


@pytest.mark.parametrize("where", ["main", "command line"])
def test_search_path_is_searched(tmp_path: Path, where: str) -> None:
    """A search path of the primary config, or of the command line, counts as without us."""
    elsewhere = write(tmp_path / "elsewhere", {"db/far": "port: 5\n", "db/one": "port: 6\n"})
    line = f"hydra:\n  searchpath: ['file://{elsewhere}']\n" if where == "main" else ""
    conf = write(tmp_path / "conf", {**FILES, "config": f"{FILES['config']}{line}"})
    arguments = [] if line else [f"hydra.searchpath=['file://{elsewhere}']"]
    composer = composer_of(conf, "config", arguments)
    for overrides in (["db=far"], ["db=one"], ["db=far", "a=2"]):
        assert composer.by_hydra(overrides) == composer.configuration(overrides)
    assert {"port": 5} == composer.configuration(["db=far"])["db"]
