"""The README runs: its files are written, its commands are typed one after the other, and what it shows is printed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import clean_env

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


class Command(NamedTuple):
    """A line that the README types, and the lines that it shows below."""

    line: str
    shown: list[str]


def steps() -> list[Command | tuple[str, str]]:
    """What a reader does from the top to the end: saves a file (its name and text), or types a command."""
    found: list[Command | tuple[str, str]] = []
    for language, body in re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL):
        if language in ("python", "yaml"):
            name, _, text = body.partition("\n")
            found.append((name.removeprefix("# "), text))
        elif language == "console":
            for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                line, _, shown = part.partition("\n")
                found.append(Command(line, [item for item in shown.splitlines() if item.strip()]))
    return found


def normal(line: str) -> str:
    """A line without what differs from run to run: numbers and the width of columns."""
    return re.sub(r"\s+", " ", re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "N", re.sub("─+", "─", line))).strip()


def is_shown(shown: str, printed: list[str]) -> bool:
    """Whether a line was printed; `...` in it stands for any text."""
    pattern = ".*".join(re.escape(normal(part)) for part in shown.split("..."))
    return any(re.fullmatch(pattern, normal(line)) for line in printed)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone has."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copy(ROOT / "train.py", folder)
    shutil.copytree(ROOT / "conf", folder / "conf")
    return folder


@pytest.mark.xdist_group("readme")
def test_readme_from_top_to_end(home: Path) -> None:
    """Every command ends as it is shown to end, and every line that is shown is printed."""
    env = clean_env(PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    n_commands = 0
    for step in steps():
        if not isinstance(step, Command):
            name, text = step
            (home / name).write_text(text)
            continue
        n_commands += 1
        done = subprocess.run(
            ["bash", "-c", step.line], cwd=home, env=env, capture_output=True, text=True, timeout=600, check=False
        )
        printed = (done.stdout + done.stderr).splitlines()
        is_mistake = any(line.startswith("error: ") for line in step.shown)
        has_failed = any("did not complete" in line for line in step.shown)
        assert done.returncode == (2 if is_mistake else 1 if has_failed else 0), (step.line, printed)
        for line in step.shown:
            assert is_shown(line, printed), (step.line, line, printed)
    assert n_commands > 25


def test_tables_name_every_option_and_command() -> None:
    """The tables of the README have every option of the sweeper, every verb, and every state, and no other verb."""
    from experiment_manager.cli import app
    from experiment_manager.records import State
    from experiment_manager.schema import SweeperConf

    for option in set(SweeperConf.__dataclass_fields__) - {"_target_", "_recursive_"}:
        assert f"`{option}`" in README
    verbs = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert verbs == set(re.findall(r"^\| `(\w+) FOLDER", README, re.MULTILINE))
    for state in State:
        assert state in README


def test_methods_that_the_readme_names_exist() -> None:
    """Every `exp.name` in the README is a method of Experiment."""
    from experiment_manager import Experiment

    names = set(re.findall(r"\bexp\.(\w+)\(", README))
    assert len(names) > 8
    assert all(hasattr(Experiment, name) for name in names)
