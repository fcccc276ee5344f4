"""The SLURM part of the README, typed on the cluster to the letter, as root and as an ordinary user."""

import os
import pwd
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import as_user, sacct_state, shell_as_user
from tests.test_readme import ON_SLURM, README, clone, follow, steps

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
"""What is typed on the cluster is about jobs; in the place of learning, which tests/test_readme.py has run, each takes
its time and a fraction of the processor's."""


@pytest.fixture(params=[pytest.param("root", marks=pytest.mark.heavy), "alice"])
def user(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    as_user(name, ["true"], Path("/"))  # who is made when she is missing
    return name


@pytest.fixture
def home(user: str) -> Iterator[Path]:
    """A clone that belongs to the user, in a place that she can reach."""
    folder = Path(tempfile.mkdtemp(prefix="experiment-manager-readme-"))
    try:
        clone(folder)
        (folder / "train.py").write_text(PAUSES)
        owner = pwd.getpwnam(user)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_readme_on_the_cluster(user: str, home: Path) -> None:
    """The array of three TD3 jobs runs as tasks 0-2, `status` and `results` show them, accounting agrees, and all that
    follows prints what is shown."""
    before = README[: README.index(ON_SLURM)]
    for name, text in (step for step in steps(before) if not hasattr(step, "line")):
        (home / name).write_text(text)
    assert 0 == shell_as_user(user, "python define.py", home).returncode
    assert follow(ON_SLURM, home, lambda line: shell_as_user(user, line, home)) > 15
    script = (home / "experiments/train/launches/0001/slurm_scripts.sh").read_text()
    (name,) = re.findall("--job-name=(.*)", script)
    told = as_user(user, ["sacct", "-X", "-n", "-P", "--name", name, "-o", "JobID"], home).stdout.split()
    assert [(f"{told[0].partition('_')[0]}_{job}", "COMPLETED", "0:0") for job in range(3)] == sacct_state(
        told[0].partition("_")[0], rows=3
    )
