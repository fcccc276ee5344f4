"""The part of the pages for those who come from elsewhere that needs a cluster, typed on one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import clean_env
from tests.test_migration import ON_THE_CLUSTER, make_folders, pages, text_of
from tests.test_readme import Command, follow, steps

pytestmark = pytest.mark.heavy  # one of them runs into a time limit, which takes minutes


@pytest.mark.parametrize("page", [page for page in pages() if ON_THE_CLUSTER in text_of(page)])
def test_page_on_the_cluster(page: str, tmp_path: Path) -> None:
    """Whoever has followed the page up to there, and types the rest on the cluster, sees what it shows."""
    before, _, there = text_of(page).partition(ON_THE_CLUSTER)
    make_folders(before, tmp_path)
    for step in steps(before):
        if not isinstance(step, Command):
            name, text = step
            (tmp_path / name).write_text(text)
    env = clean_env(PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

    def type_line(line: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900, check=False
        )

    assert follow(there, tmp_path, type_line) > 1
