"""The documentation as a reader follows it: files are saved, commands are typed, and what is shown is printed.

A page is a Markdown file with code blocks. Those in Python or YAML whose first line is a name in a comment are files of
that name; the lines of `console` blocks that begin with `$` are typed; all others show something. In what a page shows,
`...` stands for any text, and numbers and the width of columns may differ from what is printed.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.command_line import can_be_copied
from tests.conftest import COMMAND_LINE, clean_env

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FIRST_SWEEP = "tutorial/first-sweep.md"
"""The page whose program and experiment all others go on from."""

_ON_THE_CLUSTER = "\n## On the cluster\n"
"""The title of a section whose commands need SLURM."""

_WHOLLY_ON_THE_CLUSTER = ("tutorial/slurm.md", "how-to/slurm-scripts.md")


class Command(NamedTuple):
    """A line that a page types, and the lines that it shows below."""

    line: str
    shown: list[str]


def typed_pages() -> list[str]:
    """The tutorial's and the guides' pages, by their paths below docs/, that type something."""
    found = [path for folder in ("tutorial", "how-to") for path in sorted((DOCS / folder).glob("*.md"))]
    return [str(path.relative_to(DOCS)) for path in found if any(map(_is_command, steps(path.read_text())))]


def _is_command(step: object) -> bool:
    return isinstance(step, Command)


def needs_cluster(page: str) -> bool:
    """Whether something of the page is typed on a cluster."""
    return any(map(_is_command, steps(parts(page)[1])))


def parts(page: str) -> tuple[str, str]:
    """What of a page is typed anywhere, and what on a cluster: its section of that title, which needs no more of the
    rest than its files."""
    text = (DOCS / page).read_text()
    if page in _WHOLLY_ON_THE_CLUSTER:
        return "", text
    before, _, rest = text.partition(_ON_THE_CLUSTER)
    section, title, after = rest.partition("\n## ")
    return before + title + after, section


def local_part(page: str) -> str:
    """What of a page needs no cluster."""
    return parts(page)[0]


def steps(text: str) -> list[Command | tuple[str, str]]:
    """What a reader does from the top to the end: saves a file (its name and text), or types a command."""
    return list(_steps(text))


def _steps(text: str) -> Iterator[Command | tuple[str, str]]:
    for language, body in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        name, _, content = body.partition("\n")
        if language in ("python", "yaml") and re.fullmatch(r"# [\w./-]+\.(py|yaml)", name):
            yield name.removeprefix("# "), content
        elif language == "console":
            for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                line, _, shown = part.partition("\n")
                yield Command(line, [item for item in shown.splitlines() if item.strip()])


def normal(line: str) -> str:
    """A line without what differs from run to run: numbers and the width of columns."""
    return re.sub(r"\s+", " ", re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "N", re.sub("─+", "─", line))).strip()


def is_shown(shown: str, printed: list[str]) -> bool:
    """Whether a line was printed; `...` in it stands for any text."""
    pattern = ".*".join(re.escape(normal(part)) for part in shown.split("..."))
    return any(re.fullmatch(pattern, normal(line)) for line in printed)


def save_files(text: str, home: Path) -> None:
    """The files that a page has are there; nothing is typed."""
    for step in steps(text):
        if not isinstance(step, Command):
            name, content = step
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_text(content)


Type = Callable[[str], "subprocess.CompletedProcess[str]"]


def follow(text: str, home: Path, type_line: Type) -> int:
    """Files are saved and commands are typed; each ends as it is shown to end, and every line that is shown is printed.

    Returns the number of commands.
    """
    n_commands = 0
    for step in steps(text):
        if not isinstance(step, Command):
            name, content = step
            (home / name).parent.mkdir(parents=True, exist_ok=True)
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


def here(home: Path) -> Type:
    """Types lines in a folder of this machine, where this environment is active."""
    env = clean_env(PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

    def type_line(line: str) -> "subprocess.CompletedProcess[str]":
        words = _words_for_python(line)
        if words and can_be_copied(words, env):  # all but `run`, for which the installed command is typed
            return COMMAND_LINE.run(words, cwd=home, env=env, timeout=600)
        return subprocess.run(
            ["bash", "-c", line], cwd=home, env=env, capture_output=True, text=True, timeout=600, check=False
        )

    return type_line


def _words_for_python(line: str) -> list[str]:
    """The arguments of Python where a line is a call of it or of our command, and nothing else that a shell knows."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    command, *words = lexer
    if set(line) & set("$`*?~\\") or any(set(word) <= set("();<>|&") for word in words):
        return []
    return {"python": words, "experiment-manager": ["-m", "experiment_manager", *words]}.get(command, [])


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
