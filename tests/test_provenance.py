"""What a launch keeps about code and packages: enough to have them again, and never a reason not to launch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiment_manager.store import code
from tests.conftest import Program, ProgramAfter, clean_env

GIT = ("git", "-c", "user.name=me", "-c", "user.email=me@here", "-c", "commit.gpgsign=false")


def git(home: Path, *arguments: str) -> str:
    return subprocess.run([*GIT, *arguments], cwd=home, check=True, capture_output=True, text=True).stdout


def launch(program: Program, number: str = "0001") -> Any:
    return json.loads((program.experiment / f"launches/{number}/launch.json").read_text())


@pytest.fixture
def tracked(program: Program) -> Program:
    """The program, in a repository with one commit, in a folder below its root."""
    git(program.home.parent, "init", "-q")
    git(program.home.parent, "add", "home")
    git(program.home.parent, "commit", "-q", "-m", "first")
    return program


@pytest.mark.usefixtures("light")
def test_commit_and_what_differs_from_it(tracked: Program) -> None:
    """The commit and `code.patch` give back the code that ran, wherever below the repository it was started."""
    tracked.sweep("seed=1", "hydra/launcher=slurm_script")
    commit = git(tracked.home, "rev-parse", "HEAD").strip()
    assert (commit, False) == (launch(tracked)["git_commit"], launch(tracked)["git_dirty"])
    assert not (tracked.experiment / "launches/0001/code.patch").exists()
    tracked.edit("how: well", "how: well  # ü")
    (tracked.home / "data.bin").write_bytes(bytes(range(256)))
    git(tracked.home, "add", "data.bin")
    tracked.sweep("seed=2")
    assert launch(tracked, "0002")["git_dirty"] is True
    edited = (tracked.home / "conf/config.yaml").read_bytes()
    git(tracked.home, "stash", "-q")
    patch = tracked.experiment / "launches/0002/code.patch"
    subprocess.run(["git", "apply", str(patch)], cwd=tracked.home.parent, check=True)
    assert edited == (tracked.home / "conf/config.yaml").read_bytes()
    assert bytes(range(256)) == (tracked.home / "data.bin").read_bytes()


SCRIPTS = "hydra/launcher=slurm_script"


@pytest.mark.usefixtures("light")
def test_files_that_git_does_not_know_are_told(tracked: Program) -> None:
    """A commit is of the code that ran only where git knows that: the program, and Python files that it may import, are
    named where it does not, unless it ignores them; data and folders of it are none of them."""
    home = tracked.home
    tracked.sweep("seed=1", SCRIPTS)
    assert [] == launch(tracked)["git_untracked"]
    unknown = ("b[1].py", "helper.py", "models/net.py")
    for name in (*unknown, "ignored.py", "models/data/1.txt", "data/1.txt", "wei*rd/a.py"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).touch()
    (home.parent / ".gitignore").write_text("ignored.py\n")
    tracked.sweep("seed=2", SCRIPTS)
    record = launch(tracked, "0002")
    assert False is record["git_dirty"]
    assert [f"home/{name}" for name in unknown] == record["git_untracked"]
    git(home, "rm", "-q", "--cached", "train.py")
    git(home, "add", *unknown)
    git(home, "commit", "-qm", "without the program")
    tracked.tool("script")
    assert ["home/train.py"] == launch(tracked, "0003")["git_untracked"]
    assert 0 == tracked.tool("run", "1", "--launch", "0003").returncode
    commit = git(home, "rev-parse", "HEAD").strip()[:12]
    said = tracked.tool("show", "1").stdout
    assert f"commit {commit}, without home/train.py, which git does not know, Python" in said


def test_a_commit_is_of_the_code_where_the_program_lies_in_it(tracked: Program) -> None:
    """Of a program in another repository, or in none, it is not known whether a commit around the working directory has
    it."""
    commit, inner = str(code.commit(str(tracked.home))["git_commit"]), tracked.home / "inner"
    git(tracked.home, "init", "-q", "inner")
    assert [] == code.untracked(str(tracked.home), commit)
    assert [None] * 3 == [code.untracked(*asked) for asked in ((str(inner), commit), ("/", commit), ("/", None))]


@pytest.mark.usefixtures("light")
def test_a_patch_has_no_secrets_and_still_applies(tracked: Program) -> None:
    """An added line has *** where a secret was, which is told; the patch has as many lines as ever, and whatever was
    there before, binary or not, is as it was."""
    secret, before = "q7Xk29fLmPz81RtyWv45", "password: 'of the commit'\n"
    file = tracked.home / "notes.yaml"
    file.write_text(f"a: 1\n{before}")
    git(tracked.home, "add", "notes.yaml")
    git(tracked.home, "commit", "-q", "-m", "second")
    mine = f"api_key: '{secret}'\n++ hf_{secret}{secret}\nat: https://me:{secret}@host/\nkeep: [password, ü]\n"
    file.write_text(f"{mine}a: 2\n{before}")
    (tracked.home / "data.bin").write_bytes(bytes(range(256)) * 9)
    git(tracked.home, "add", "data.bin")
    done = tracked.sweep("seed=1")
    said = "code.patch, which keeps your changes, has *** for what looks like a secret in 3 lines"
    assert (0, True) == (done.returncode, said in done.stderr)
    patch = tracked.experiment / "launches/0001/code.patch"
    assert secret not in patch.read_text()
    assert patch.read_text().startswith("In 3 lines, *** stands for what looked like a secret")
    git(tracked.home, "stash", "-q")
    subprocess.run(["git", "apply", str(patch)], cwd=tracked.home.parent, check=True)
    masked = "api_key: '***'\n++ ***\nat: https://***@host/\nkeep: [password, ü]\n"
    assert f"{masked}a: 2\n{before}" == file.read_text()
    assert bytes(range(256)) * 9 == (tracked.home / "data.bin").read_bytes()


@pytest.mark.usefixtures("light")
def test_no_repository_no_commit(program: Program) -> None:
    """Outside of a repository there is nothing to tell, and the launch goes on."""
    program.sweep("seed=1", GIT_CEILING_DIRECTORIES=str(program.home.parent))
    assert (None, None) == (launch(program)["git_commit"], launch(program)["git_dirty"])
    assert ["0.1.COMPLETED"] == program.states()


def test_python_packages_and_command_are_kept(program_after: ProgramAfter) -> None:
    """Versions are those that are installed; the command is the one that was typed."""
    from importlib.metadata import version

    program = program_after("seed=1")
    record = launch(program)
    assert sys.version.split()[0] == record["python"]
    packages = code.read_packages(str(program.experiment / "launches/0001/packages.txt"))
    for name in ("hydra-core", "omegaconf", "hydra-submitit-launcher", "cloudpickle"):
        assert version(name) == packages[name]
    assert ["train.py", "-m", "seed=1"] == record["argv"][-3:]


def test_packages_that_are_not_known_do_not_differ(program_after: ProgramAfter) -> None:
    """`diff` compares versions where those of both launches are known; a file that cannot be read is named."""
    program = program_after("seed=1,2", "hydra/launcher=slurm_script")
    program.tool("run", "0")
    assert "packages" not in program.tool("diff", "0", "1").stdout  # of which one has not run
    program.sweep("seed=2")
    program.sweep("seed=3")
    known = program.experiment / "launches/0003/packages.txt"
    known.write_text(known.read_text().replace("hydra-core==", "hydra-core==0."))
    assert "1 package has another version" in program.tool("diff", "1", "2").stdout
    known.write_bytes(b"\xff")
    done = program.tool("diff", "1", "2")
    assert (3, f"skipped: {known} cannot be read: it is damaged\n") == (done.returncode, done.stderr)
    assert "packages" not in done.stdout
    known.unlink()
    done = program.tool("diff", "1", "2")
    assert (0, "") == (done.returncode, done.stderr)
    assert "packages" not in done.stdout


def test_git_that_hangs_or_asks_delays_no_launch(tmp_path: Path) -> None:
    """A git that never answers is given up, one that fails is not missed."""
    fake = tmp_path / "bin/git"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\nread answer\nexec sleep 60\n")
    fake.chmod(0o755)
    script = "from experiment_manager.store import code\nprint(code.commit())\ncode.write_patch('patch')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=clean_env(PATH=f"{fake.parent}:{os.environ['PATH']}"),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "{'git_commit': None, 'git_dirty': None}\n" == done.stdout
    assert not (tmp_path / "patch").exists()


def test_patch_that_is_too_large_is_not_kept(tracked: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody wants a gigabyte of data in each launch; a folder that cannot be written is no reason to fail either."""
    tracked.edit("how: well", f"how: well  # {'x' * 2000}")
    monkeypatch.chdir(tracked.home)
    code.write_patch(str(tmp_path / "patch"))
    assert "x" * 2000 in (tmp_path / "patch").read_text()
    monkeypatch.setattr(code, "MOST_BYTES", 1000)
    code.write_patch(str(tmp_path / "other"))
    code.write_patch("/proc/nowhere")
    assert not (tmp_path / "other").exists()


@pytest.mark.usefixtures("light")
def test_show_tells_launch_and_commit_of_each_attempt(tracked: Program) -> None:
    """`show` has the launch, the commit and the Python of every attempt, and where its changes are; for an attempt that
    was started by hand nothing of the kind is made up."""
    assert 1 == tracked.sweep("how=raise").returncode
    tracked.edit("how: well", "how: well  # changed")
    tracked.sweep("how=raise")
    tracked.tool("run", "0")
    commit, python = git(tracked.home, "rev-parse", "HEAD").strip(), sys.version.split()[0]
    first, second, third = tracked.told("show", "0")["attempts"]
    assert (commit, False) == (first["environment"]["git_commit"], first["environment"]["git_dirty"])
    assert (commit, True) == (second["environment"]["git_commit"], second["environment"]["git_dirty"])
    assert {} == third["environment"]
    lines = [line for line in tracked.tool("show", "0").stdout.splitlines() if line.startswith("  launch ")]
    assert [
        f"  launch 0001: commit {commit[:12]}, Python {python}",
        f"  launch 0002: commit {commit[:12]} with changes (launches/0002/code.patch), Python {python}",
    ] == lines
