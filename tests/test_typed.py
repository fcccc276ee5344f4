"""What a user's own program sees of the package's types."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import clean_env

ROOT = Path(__file__).parent.parent
PROGRAM = ROOT / "tests/apps/analysis.py"


@pytest.mark.xdist_group("mypy")
def test_a_users_program_is_checked_strictly(tmp_path: Path) -> None:
    """A program elsewhere that defines, runs, follows, compares and reads an experiment, and writes down the type of
    what each call returns, passes `mypy --strict` against the package as it is installed."""
    (tmp_path / "analysis.py").write_text(PROGRAM.read_text())
    strictly = ("--strict", "--config-file=", "--cache-dir", str(ROOT / ".mypy_cache"))  # kept from `make check`
    command = [sys.executable, "-m", "mypy", *strictly, "analysis.py"]
    done = subprocess.run(command, cwd=tmp_path, env=clean_env(), capture_output=True, text=True, check=False)
    assert (0, "Success: no issues found in 1 source file\n") == (done.returncode, done.stdout), done.stdout


def test_the_program_does_what_its_types_say(tmp_path: Path) -> None:
    """The same program runs to its end, so that what it writes down is true of the values, too."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path)],
        cwd=tmp_path, env=clean_env(), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "6 2.0 lr=0.4" in done.stdout.splitlines()
