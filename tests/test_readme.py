"""The README runs: its files are written, its commands are typed one after the other, and what it shows is printed."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.command_line import can_be_copied
from tests.conftest import COMMAND_LINE, clean_env

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


class Command(NamedTuple):
    """A line that the README types, and the lines that it shows below."""

    line: str
    shown: list[str]


ON_SLURM = README[README.index("\n## On a SLURM cluster\n") : README.index("\n## Commands\n")]
"""The part that needs a cluster: tests/cluster/test_readme.py types it."""


def steps(text: str) -> list[Command | tuple[str, str]]:
    """What a reader does from the top to the end: saves a file (its name and text), or types a command."""
    found: list[Command | tuple[str, str]] = []
    for language, body in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
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


def clone(folder: Path) -> Path:
    """The folder has what a clone has, as far as a reader needs it, and trains and evaluates for a hundredth of the
    time: that a run of the default length learns is a test of tests/test_train.py."""
    shutil.copy(ROOT / "train.py", folder)
    shutil.copytree(ROOT / "conf", folder / "conf")
    config = folder / "conf/config.yaml"
    text = config.read_text()
    for name, short in (("steps", 110), ("warm_up_steps", 100), ("evaluation_episodes", 1)):
        text, n_found = re.subn(rf"(?m)^{name}: \d+ ", f"{name}: {short} ", text)
        assert 1 == n_found
    config.write_text(text)
    return folder


Type = Callable[[str], "subprocess.CompletedProcess[str]"]


def follow(text: str, home: Path, type_line: Type) -> int:
    """Files are saved and commands are typed; each ends as it is shown to end, and every line that is shown is printed.

    Returns the number of commands.
    """
    n_commands = 0
    for step in steps(text):
        if not isinstance(step, Command):
            name, content = step
            (home / name).write_text(content)
            continue
        n_commands += 1
        done = type_line(step.line)
        printed = (done.stdout + done.stderr).splitlines()
        is_mistake = any(line.startswith("error: ") for line in step.shown)
        has_failed = any("did not complete" in line for line in step.shown)
        assert done.returncode == (2 if is_mistake else 1 if has_failed else 0), (step.line, printed)
        for line in step.shown:
            assert is_shown(line, printed), (step.line, line, printed)
    return n_commands


def words_for_python(line: str) -> list[str]:
    """The arguments of Python where a line is a call of it or of our command, and nothing else that a shell knows."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    command, *words = lexer
    if set(line) & set("$`*?~\\") or any(set(word) <= set("();<>|&") for word in words):
        return []
    return {"python": words, "experiment-manager": ["-m", "experiment_manager", *words]}.get(command, [])


@pytest.mark.xdist_group("readme")
def test_readme_from_top_to_end(tmp_path: Path) -> None:
    """A reader who follows the README without a cluster sees what it shows."""
    home = clone(tmp_path)
    env = clean_env(PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

    def type_line(line: str) -> "subprocess.CompletedProcess[str]":
        words = words_for_python(line)
        if words and can_be_copied(words, env):  # all but `run`, for which the installed command is typed
            return COMMAND_LINE.run(words, cwd=home, env=env, timeout=600)
        return subprocess.run(
            ["bash", "-c", line], cwd=home, env=env, capture_output=True, text=True, timeout=600, check=False
        )

    assert follow(README.replace(ON_SLURM, ""), home, type_line) > 25


def test_tables_name_every_option_and_command() -> None:
    """The tables of the README have every option of the sweeper and of SLURM, every verb, and every state, and no
    other verb."""
    from experiment_manager.cli.main import app
    from experiment_manager.hydra.schema import SearchConf, SweeperConf
    from experiment_manager.model.records import State
    from experiment_manager.scheduler.slurm.options import valid_options

    of_sweepers = {*SweeperConf.__dataclass_fields__, *SearchConf.__dataclass_fields__} - {"defaults"}
    for option in {*of_sweepers, *valid_options()} - {"_target_", "_recursive_"}:
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
