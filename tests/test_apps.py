"""Small Hydra programs in the four combinations of sweeper and launcher: what a job receives, and what it leaves, is
what Hydra's own sweeper and launcher give it, but for what stands in DIFFERENCES."""

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.conftest import Program

APPS: Final = Path(__file__).parent / "apps"
OURS: Final = re.compile(r"(attempt|result|metrics|stdout|stderr|error)\.\d+\.(jsonl?|log)")
"""Records of an attempt, which lie beside the files of a job of our sweeper."""

OF_OTHERS: Final = r"\[NOW\]\[(hydra|hydra_plugins|submitit)\b[^\]]*\]\[INFO\] - .*?(?<!\\)\\n"
"""Lines that sweepers and launchers log in the process of a job, before or after it, as Hydra's own do of the next."""

FOLDER: Final = "the jobs of our sweeper lie in the experiment's folder"
ASKED: Final = "another launcher or sweeper was asked for"

_IN_A_PROCESS_OF_ITS_OWN: Final = {
    r"hydra_\w+\.run\.dir": "a job is a plain run in a process of its own",
    r"hydra_\w+\.runtime\.config_sources\..*": "YAML is read from its frozen copy",
    r"hydra_raw\.sweep\.(dir|subdir)": "the process of a job is told as text where it writes",
}
_NAMED_BY_THE_LAUNCHER: Final = {r"hydra_\w+\.job\.id": "these launchers have names of their own for jobs"}

DIFFERENCES: Final[Mapping[str, Mapping[str, str]]] = {
    "any": {
        r"hydra_\w+\.(launcher|sweeper)\..*": ASKED,
        r"hydra_\w+\.runtime\.choices\.hydra/(launcher|sweeper)": ASKED,
        r"hydra_\w+\.overrides\.hydra\..*": ASKED,
    },
    **dict.fromkeys(("joblib", "submitit_local", "submitit_slurm"), _NAMED_BY_THE_LAUNCHER),
    **dict.fromkeys(("local_pool", "slurm_script", "slurm_submitit"), _IN_A_PROCESS_OF_ITS_OWN),
    "experiment": {
        r"hydra_\w+\.sweep\.(dir|subdir)": FOLDER,
        r"where": FOLDER,
        r"(hydra_\w+\.overrides\.task\.\d+|files\.\.hydra/overrides\.yaml)": "`${...}` is passed on as typed",
    },
}
"""By launcher and sweeper: what a job receives otherwise than from Hydra's own, and why."""

_TYPED, _BY_HYDRA = "${db.driver}", r"$\\{db.driver\\}"

COMBINED: Final = (("basic", "local_pool"), ("experiment", "basic"), ("experiment", "local_pool"))
"""Sweepers and launchers of which one at least is ours."""

ORCHARD: Final = (
    *("src/train.py", "-m", "experiment=curved,straight", "seed=7", "tags=[a,b]"),
    "+optimized_metric=val/loss",
)
"""The large program, swept over a group that changes Hydra's own settings and the directory of the sweep."""


class Swept(NamedTuple):
    """What a sweep has left."""

    jobs: list[dict[str, Any]]  # what each job has received and left
    calls: list[str]  # of callbacks


def sweep(home: Path, app: str, command: tuple[str, ...], sweeper: str | None, launcher: str) -> Swept:
    """A copy of the app has been swept, one job at a time; by the sweeper that it asks for itself where none is named.

    A launcher is written as on the command line, as in `local_pool hydra.launcher.start_method=forkserver`.
    """
    shutil.copytree(APPS / app, home, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(APPS / "received.py", home)
    one_at_a_time = ["hydra.launcher.n_jobs=1"] if launcher.startswith("local_pool") else []
    asked = [] if sweeper is None else [f"hydra/sweeper={sweeper}"]
    ours = [*asked, *f"hydra/launcher={launcher}".split(), *one_at_a_time]
    done = Program(home).python(*command, *ours, SHOP_OWNER="owner")
    assert done.returncode == 0, done.stderr
    return left_in(home)


def left_in(home: Path) -> Swept:
    """What all the jobs in the folder of an app have left so far."""
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
    told |= json.loads(told["files"].pop("received.json")) | {"where": str(output.relative_to(home))}
    told["files"].pop(".hydra/hydra.yaml")  # says the same as hydra_raw
    text = json.dumps(told).replace(str(output), "OUTPUT").replace(str(home), "HOME")
    text = re.sub(r"20\d\d-\d\d-\d\d[ /_]\d\d[:-]\d\d[:-]\d\d(,\d+)?", "NOW", text)
    found: dict[str, Any] = json.loads(re.sub(OF_OTHERS, "", text))
    return found


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each plain value in nested mappings and lists, and its path."""
    if isinstance(value, dict | list) and value:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def compare(expected: Any, found: Any) -> dict[str, tuple[Any, Any]]:
    """The differences between two nested values, by path."""
    one, other = dict(leaves(expected)), dict(leaves(found))
    return {
        path: (one.get(path, "nothing"), other.get(path, "nothing"))
        for path in one.keys() | other.keys()
        if path not in one or path not in other or one[path] != other[path]
    }


@pytest.mark.parametrize(
    ("app", "command", "combinations"),
    [
        ("shop", ("shop.py", "-m", "seed=1,2", "db=postgres", "late=${db.driver}", "+backup.hosts=[three]"), COMBINED),
        (
            "bakery",
            ("-m", "bakery.bake", "-m", "oven=gas,wood", "size=LARGE", "doughs.rye.flour_g=450", "salt=2"),
            COMBINED,
        ),
        ("orchard", ORCHARD, COMBINED[-1:]),  # the others, and other launchers, in tests/cluster
    ],
)
def test_jobs_receive_what_hydra_gives_them(
    app: str, command: tuple[str, ...], combinations: Sequence[tuple[str, str]], tmp_path: Path
) -> None:
    """Configurations, Hydra's own among them, directories, environment, logging, files and callbacks are the same."""
    expected = sweep(tmp_path / "hydra", app, command, "basic", "basic")
    assert 2 == len(expected.jobs)
    for sweeper, launcher in combinations:
        found = sweep(tmp_path / f"{sweeper}-{launcher}", app, command, sweeper, launcher)
        assert {} == unexpected(expected, found, sweeper, launcher)
        assert expected.calls == [call.replace(_TYPED, _BY_HYDRA) for call in found.calls]


def unexpected(expected: Swept, found: Swept, *kinds: str) -> dict[str, tuple[Any, Any]]:
    """What the jobs of one sweep have received or left otherwise than those of another, but for what is known of these
    sweepers and launchers."""
    known = [pattern for kind in ("any", *kinds) for pattern in DIFFERENCES.get(kind, {})]
    differing = compare(expected.jobs, found.jobs)
    return {path: values for path, values in differing.items() if not _is_one_of(path, known)}


def _is_one_of(path: str, patterns: Iterable[str]) -> bool:
    return any(re.fullmatch(rf"\d+\.{pattern}", path) for pattern in patterns)
