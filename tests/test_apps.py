"""Small Hydra programs in the four combinations of sweeper and launcher: what a job receives, and what it leaves, is
what Hydra's own sweeper and launcher give it, but for what stands in DIFFERENCES."""

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.conftest import Program

APPS: Final = Path(__file__).parent / "apps"
OURS: Final = re.compile(r"(attempt|result|metrics|stdout|stderr|error)\.\d+\.(jsonl?|log)")
"""Records of an attempt, which lie beside the files of a job of our sweeper."""

FOLDER: Final = "the jobs of our sweeper lie in the experiment's folder"
ASKED: Final = "another launcher or sweeper was asked for"

DIFFERENCES: Final[Mapping[str, Mapping[str, str]]] = {
    "any": {
        r"hydra_\w+\.(launcher|sweeper)\..*": ASKED,
        r"hydra_\w+\.runtime\.choices\.hydra/(launcher|sweeper)": ASKED,
        r"hydra_\w+\.overrides\.hydra\..*": ASKED,
    },
    "local_pool": {
        r"hydra_\w+\.run\.dir": "a job is a plain run in a process of its own",
        r"hydra_\w+\.runtime\.config_sources\..*": "YAML is read from its frozen copy",
        r"hydra_raw\.sweep\.(dir|subdir)": "the process of a job is told as text where it writes",
    },
    "experiment": {
        r"hydra_\w+\.sweep\.(dir|subdir)": FOLDER,
        r"hydra_\w+\.runtime\.output_dir": FOLDER,
        r"hydra_resolved\.job_logging\.handlers\.file\.filename": FOLDER,
        r"places\.(output|cwd)": FOLDER,
        r"(hydra_\w+\.overrides\.task\.\d+|files\.\.hydra/overrides\.yaml)": "`${...}` is passed on as typed",
    },
}
"""By launcher and sweeper: what a job receives otherwise than from Hydra's own, and why."""

_TYPED, _BY_HYDRA = "${db.driver}", r"$\\{db.driver\\}"


class Swept(NamedTuple):
    """What a sweep has left."""

    jobs: list[dict[str, Any]]  # what each job has received and left
    calls: list[str]  # of callbacks


def sweep(home: Path, app: str, command: tuple[str, ...], sweeper: str, launcher: str) -> Swept:
    """A copy of the app has been swept, one job at a time."""
    shutil.copytree(APPS / app, home, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(APPS / "received.py", home)
    ours = ["hydra.launcher.n_jobs=1"] if launcher == "local_pool" else []
    ours = [f"hydra/sweeper={sweeper}", f"hydra/launcher={launcher}", *ours]
    done = Program(home).python(*command, *ours, SHOP_OWNER="owner")
    assert done.returncode == 0, done.stderr
    jobs = [left_by(path.parent, home) for path in home.rglob("received.json")]
    calls = home / "calls.txt"
    return Swept(
        sorted(jobs, key=lambda job: int(job["hydra_raw"]["job"]["num"])),
        calls.read_text().splitlines() if calls.exists() else [],
    )


def left_by(output: Path, home: Path) -> dict[str, Any]:
    """What a job has received, and the files in its output directory, with paths relative to the app's folder."""
    files = {str(path.relative_to(output)): path.read_text() for path in output.rglob("*") if path.is_file()}
    told = {"files": {name: text for name, text in files.items() if not OURS.fullmatch(name)}}
    told |= json.loads(told["files"].pop("received.json"))
    told["files"].pop(".hydra/hydra.yaml")  # says the same as hydra_raw
    text = json.dumps(told).replace(str(home), "HOME")
    found: dict[str, Any] = json.loads(re.sub(r"20\d\d-\d\d-\d\d[ /]\d\d[:-]\d\d[:-]\d\d(,\d+)?", "NOW", text))
    return found


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each plain value in nested mappings and lists, and its path."""
    if isinstance(value, dict | list) and value:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def compare(expected: Any, found: Any) -> dict[str, tuple[Any, Any]]:
    """What differs between two nested values, by path."""
    one, other = dict(leaves(expected)), dict(leaves(found))
    return {
        path: (one.get(path, "nothing"), other.get(path, "nothing"))
        for path in one.keys() | other.keys()
        if path not in one or path not in other or one[path] != other[path]
    }


@pytest.mark.parametrize(
    ("app", "command"),
    [
        ("shop", ("shop.py", "-m", "seed=1,2", "db=postgres", "late=${db.driver}", "+backup.hosts=[three]")),
        ("bakery", ("-m", "bakery.bake", "-m", "oven=gas,wood", "size=LARGE", "doughs.rye.flour_g=450", "salt=2")),
    ],
)
def test_jobs_receive_what_hydra_gives_them(app: str, command: tuple[str, ...], tmp_path: Path) -> None:
    """Configurations, Hydra's own among them, directories, environment, logging, files and callbacks are the same."""
    expected = sweep(tmp_path / "hydra", app, command, "basic", "basic")
    assert 2 == len(expected.jobs)
    for sweeper, launcher in (("basic", "local_pool"), ("experiment", "basic"), ("experiment", "local_pool")):
        found = sweep(tmp_path / f"{sweeper}-{launcher}", app, command, sweeper, launcher)
        known = [*DIFFERENCES["any"], *DIFFERENCES.get(sweeper, {}), *DIFFERENCES.get(launcher, {})]
        differing = compare(expected.jobs, found.jobs)
        assert {} == {path: values for path, values in differing.items() if not _is_one_of(path, known)}
        assert expected.calls == [call.replace(_TYPED, _BY_HYDRA) for call in found.calls]


def _is_one_of(path: str, patterns: Iterable[str]) -> bool:
    return any(re.fullmatch(rf"\d+\.{pattern}", path) for pattern in patterns)
