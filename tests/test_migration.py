"""The pages for those who come from elsewhere run: each is followed in a folder of its own, before and after."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import can_be_copied
from tests.conftest import COMMAND_LINE, clean_env
from tests.test_readme import Command, follow, steps, words_for_python

PAGES = Path(__file__).parent.parent / "docs/migration"
ON_THE_CLUSTER = "\n## On the cluster\n"
CONFIG = {"epochs": 3, "seed": 1, "size": 16}
OLD = [
    {"_id": 1, "config": {"db_collection": "train", "overwrite": 1, **CONFIG, "lr": 0.1}, "result": {"loss": 0.730563}},
    {"_id": 2, "config": {"db_collection": "train", "overwrite": 2, **CONFIG, "lr": 0.2}, "result": {"loss": 0.513525}},
]
JOBS = [{"variables": {"algorithm": name, "seed": seed}} for name in ("TD3", "DDPG") for seed in (1, 2, 3)]
ORIGINAL = {"variables": ["algorithm", "seed"], "jobs": [{**job, "run_config": job["variables"]} for job in JOBS]}
GIVEN: dict[str, dict[str, object]] = {
    "seml": {"old.json": OLD},
    "original-library": {
        "old/config.json": ORIGINAL,
        "old/pass_filter.json": {"jobs": [0, 1, 2]},
        "old/0_returns.json": [0.5, 1.0],
        "old/1_returns.json": [0.5, 2.0],
    },
}
"""What lies in the folder already: what the program that a page begins with has left, where that cannot run here."""


def pages() -> list[str]:
    return sorted(path.stem for path in PAGES.glob("*.md") if path.stem != "index")


def text_of(page: str) -> str:
    return (PAGES / f"{page}.md").read_text()


def make_folders(text: str, home: Path) -> None:
    """The folders of the files that a page has its reader save are there."""
    for step in steps(text):
        if not isinstance(step, Command):
            (home / step[0]).parent.mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize("page", pages())
def test_page_from_top_to_end(page: str, tmp_path: Path) -> None:
    """A reader who follows the page without a cluster sees what it shows, before and after."""
    here = text_of(page).partition(ON_THE_CLUSTER)[0]
    make_folders(here, tmp_path)
    for name, value in GIVEN.get(page, {}).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(value))
    env = clean_env(PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

    def type_line(line: str) -> "subprocess.CompletedProcess[str]":
        words = words_for_python(line)
        if words and can_be_copied(words, env):
            return COMMAND_LINE.run(words, cwd=tmp_path, env=env, timeout=120)
        return subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False
        )

    assert follow(here, tmp_path, type_line) > 2


def test_index_names_every_page() -> None:
    """The overview links each page, and the table of contents has each."""
    index = (PAGES / "index.md").read_text()
    assert set(pages()) == set(re.findall(r"\]\(([\w-]+)\.md\)", index))
    assert set(pages()) <= set(index.partition("```{toctree}")[2].split())
