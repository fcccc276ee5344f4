"""What the documentation types on a cluster, typed on one to the letter, as root and as an ordinary user."""

import os
import pwd
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import as_user, sacct_state, shell_as_user
from tests.pages import DOCS, FIRST_SWEEP, clone, follow, needs_cluster, parts, save_files, typed_pages

PAUSES = """
import time
import hydra

@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(config):
    time.sleep(8 if config.steps == 2000 else config.steps / 1000)  # those are cancelled while they run
    return -float(config.seed)

if __name__ == "__main__":
    main()
"""
"""What is typed on the cluster is about jobs; in the place of learning, which tests/test_pages.py has run, each takes
its time and a fraction of the processor's."""


@pytest.fixture(params=[pytest.param("root", marks=pytest.mark.heavy), "alice"])
def user(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    as_user(name, ["true"], Path("/"))  # who is made when she is missing
    return name


@pytest.fixture
def home(user: str) -> Iterator[Path]:
    """A clone that belongs to the user, in a place that she can reach, with the program of the first page."""
    folder = Path(tempfile.mkdtemp(prefix="experiment-manager-pages-"))
    try:
        clone(folder)
        (folder / "train.py").write_text(PAUSES)
        save_files((DOCS / FIRST_SWEEP).read_text(), folder)
        owner = pwd.getpwnam(user)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("page", [page for page in typed_pages() if needs_cluster(page)])
def test_pages_on_the_cluster(page: str, user: str, home: Path) -> None:
    """What a page types on a cluster prints there what it shows."""
    local, on_cluster = parts(page)
    save_files(local, home)
    assert follow(on_cluster, home, lambda line: shell_as_user(user, line, home)) > 0
    if page == "tutorial/slurm.md":
        accounting_agrees(user, home)


def accounting_agrees(user: str, home: Path) -> None:
    """The array of three TD3 jobs has run as its tasks 0-2."""
    script = (home / "experiments/train/launches/0001/slurm_scripts.sh").read_text()
    (name,) = re.findall("--job-name=(.*)", script)
    told = as_user(user, ["sacct", "-X", "-n", "-P", "--name", name, "-o", "JobID"], home).stdout.split()
    number = told[0].partition("_")[0]
    assert [(f"{number}_{job}", "COMPLETED", "0:0") for job in range(3)] == sacct_state(number, rows=3)
