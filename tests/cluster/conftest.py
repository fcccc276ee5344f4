"""Shared by the tests on a real SLURM cluster: the cluster itself, its settings, its accidents, its other users.

The cluster is the one of `up.sh` beside this file. It is started when it does not run, and left running at the end.
Its SLURM is the machine's; inside of `debian.sh`, as EM_CLUSTER_SLURM says there, it is of another version.
A cluster that is not ours is used only where EM_CLUSTER_USE_EXISTING=1 asks for it, and then nothing is done to it.
Every test in this folder needs the cluster, and all run one after the other; no file has to say so.
"""

import contextlib
import functools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from tests.conftest import APP, Program, clean_env, wait_until

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
HOME = Path(os.environ.get("EM_CLUSTER_HOME", "/tmp/experiment-manager-cluster"))
SLURM_CONF = Path("/etc/slurm/slurm.conf")
MARK = "# Written by up.sh of experiment-manager"
NOT_FINAL = ("PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "REQUEUED", "RESIZING")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """A cluster that runs; where it is our own, settings and daemons may be changed."""

    own: bool


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The tests of this folder go to one worker; first, since xdist reads the marks in a hook of the same name."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.xdist_group("cluster"))


# ---------------------------------------------------------------- the cluster


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """A cluster that runs with the default settings; the test is skipped where there can be none.

    It fails where EM_CLUSTER_SLURM names another version than the one that answers.
    """
    found = _cluster()
    wanted, version = os.environ.get("EM_CLUSTER_SLURM", "newest"), _output("sinfo", "-V").split()[-1]
    assert wanted == "newest" or version.startswith(f"{wanted}."), (
        f"EM_CLUSTER_SLURM is {wanted}, but SLURM {version} is here: make test-cluster SLURM={wanted}"
    )
    return found


def _cluster() -> Cluster:
    if os.environ.get("EM_CLUSTER_USE_EXISTING") == "1":
        if not _answers():
            pytest.skip("EM_CLUSTER_USE_EXISTING=1, but no slurmctld answers")
        return Cluster(own=_written_by_us())
    if os.geteuid() == 0:
        with turn():
            done = _run_up()
        if done.returncode:
            pytest.skip(f"no SLURM {_tail(done)}")
    elif not (_written_by_us() and _answers()):
        pytest.skip("no SLURM cluster: only root can start one, with `make cluster-up`")
    return Cluster(own=True)


@pytest.fixture(scope="module", autouse=True)
def _no_slurm() -> None:
    """SLURM is what these tests are about: its commands stay where they are, unlike in all other tests."""


@pytest.fixture(autouse=True)
def _one_test_on_the_cluster(cluster: Cluster) -> Iterator[None]:
    """One test of all sessions on this machine has the cluster; jobs that it leaves are cancelled, daemons mended."""
    if not cluster.own:
        yield
        return
    with turn():
        before = _jobs()
        yield
        left = _jobs() - before
        if left:
            subprocess.run(["scancel", *sorted(left)], env=_env(), check=False)
        if os.geteuid() == 0 and _run_up("--status").returncode:
            up()


@pytest.fixture
def cluster_program(program: Program) -> Program:
    """A fresh copy of the program, in a folder that the nodes see."""
    return program


def up(*arguments: str, **knobs: object) -> None:
    """The cluster runs with these knobs, and the defaults for the others; fails the test when it does not."""
    done = _run_up(*arguments, **knobs)
    assert done.returncode == 0, _tail(done)


@contextlib.contextmanager
def reconfigured(*, accounting: bool = True, extra: Sequence[str] = (), **knobs: object) -> Iterator[None]:
    """Inside, the cluster runs with these settings, as in `reconfigured(extra=["MaxArraySize=20"], kill_wait=2)`.

    `extra` are lines of slurm.conf, `knobs` those of the README without their EM_CLUSTER_. Running jobs survive both
    changes, which take about two seconds each. Skips the test on a cluster that is not ours.
    """
    need_own_cluster()
    if extra:
        knobs["extra"] = "\n".join(extra)
    try:
        up(*([] if accounting else ["--no-accounting"]), **knobs)
        yield
    finally:
        up()


def need_own_cluster() -> None:
    """Skips the test unless the cluster may be changed from here."""
    if os.geteuid() != 0 or not _written_by_us():
        pytest.skip("only root can change the cluster, and only one that up.sh has made")


# ---------------------------------------------------------------- jobs


def sacct_state(
    job_id: str | int, *, rows: int = 1, is_array: bool = False, seconds: float = 60.0
) -> list[tuple[str, str, str]]:
    """(JobID, State, ExitCode) of a job, or of each task of an array, once all are final and at least `rows`.

    Accounting lags behind squeue by up to some seconds: meanwhile it calls a task of an array by the id of the array,
    and says that a task has FAILED before it says with which exit code.
    """
    command = ["sacct", "-X", "-n", "-P", "-j", str(job_id), "-o", "JobID,State,ExitCode"]

    def final() -> list[tuple[str, str, str]]:
        lines = [line.split("|") for line in _output(*command).splitlines()]
        told = [(name, state, exit_code) for name, state, exit_code in lines]
        are_final = not any(row[1].startswith(NOT_FINAL) or row[1:] == ("FAILED", "0:0") for row in told)
        are_named = not is_array or all("_" in name for name, _, _ in told)
        return told if len(told) >= rows and are_final and are_named else []

    found: list[tuple[str, str, str]] = wait_until(final, seconds)
    return sorted(found, key=lambda row: [int(part) if part.isdigit() else -1 for part in row[0].split("_")])


def wait_for_queue_to_drain(*ids_or_names: str | int, seconds: float = 60.0) -> None:
    """No job with one of these ids or names is in the queue any more; without arguments, no job at all."""
    wanted = {str(one) for one in ids_or_names}

    def drained() -> bool:
        rows = [line.split("|", 2) for line in _output("squeue", "-h", "-o", "%A|%F|%j").splitlines()]
        return not any(not wanted or wanted & set(row) for row in rows)

    wait_until(drained, seconds)


def _jobs() -> set[str]:
    return set(_output("squeue", "-h", "-o", "%F").split())


# ---------------------------------------------------------------- daemons


def kill_slurmd(node: str) -> None:
    """The daemon of the node is dead; the jobs on the node run on, and SLURM calls it down about 30 s later."""
    need_own_cluster()
    pid = int((HOME / "run" / f"slurmd.{node}.pid").read_text())
    assert Path(f"/proc/{pid}/comm").read_text() == "slurmd\n"
    os.kill(pid, signal.SIGKILL)


def start_slurmd(node: str) -> None:
    """The daemon of the node runs, and the node takes jobs."""
    need_own_cluster()
    up("--start-slurmd", node)


@contextlib.contextmanager
def without_slurmdbd() -> Iterator[None]:
    """Inside, the daemon of accounting is dead, and SLURM's controller keeps what it would tell it; at the end the
    cluster runs with its default settings."""
    need_own_cluster()
    pid = int((HOME / "run" / "slurmdbd.pid").read_text())
    assert Path(f"/proc/{pid}/comm").read_text() == "slurmdbd\n"
    os.kill(pid, signal.SIGKILL)
    try:
        wait_until(lambda: "refused" in subprocess.run(["sacct"], env=_env(), capture_output=True, text=True).stderr)
        yield
    finally:
        up()


# ---------------------------------------------------------------- other users


def as_user(name: str, command: Sequence[str], cwd: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    """Runs the command to its end as an ordinary user, who is made when she is missing, with her own environment."""
    user = _user(name)
    hers = {
        "HOME": user.pw_dir,
        "USER": name,
        "LOGNAME": name,
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
    }
    return subprocess.run(
        ["runuser", "-u", name, "--", *command],
        cwd=cwd,
        env={**hers, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def python_as_user(name: str, *arguments: str, cwd: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    """Runs Python with this package and what it needs as an ordinary user; skips the test where none can."""
    return as_user(name, [_python_of(name), *arguments], cwd, **{**_packages(), **env})


def shell_as_user(name: str, line: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Types a line as a user, with `python` and `experiment-manager` on the path as in an environment of hers."""
    commands = cwd / ".bin"
    python = _python_of(name)
    for command, words in (("python", python), ("experiment-manager", f"{python} -m experiment_manager")):
        commands.mkdir(exist_ok=True)
        (commands / command).write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        (commands / command).chmod(0o755)
    path = f"{commands}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    return as_user(name, ["bash", "-c", line], cwd, PATH=path, **_packages())


@functools.cache
def _python_of(name: str) -> str:
    """A Python of our version that the user may execute: ours may lie in the home of root, which is closed."""
    probe = "import sys, experiment_manager, hydra; print(*sys.version_info[:2])"
    version = "{}.{}".format(*sys.version_info[:2])
    why = []
    for python in (sys.executable, f"/usr/local/bin/python{version}", f"/usr/bin/python{version}"):
        done = as_user(name, [python, "-c", probe], Path("/"), **_packages())
        if done.returncode == 0 and done.stdout.split() == version.split("."):
            return python
        why.append(f"{python}: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
    pytest.skip(f"{name} can execute no Python {version} with our packages: {'; '.join(why)}")


def _packages() -> dict[str, str]:
    paths = sysconfig.get_paths()
    return {"PYTHONPATH": ":".join(dict.fromkeys([paths["purelib"], paths["platlib"], str(REPOSITORY)]))}


def _user(name: str) -> pwd.struct_passwd:
    """The user as the machine knows her; made, and entered in accounting, when she is missing."""
    need_own_cluster()
    try:
        return pwd.getpwnam(name)
    except KeyError:
        subprocess.run(["useradd", "-m", "-s", "/bin/bash", name], check=True, capture_output=True)
        up()
        return pwd.getpwnam(name)


class ProgramOf(Program):
    """A copy of the program that belongs to an ordinary user and is run by her."""

    def __init__(self, user: str, home: Path) -> None:
        super().__init__(home)
        self.user = user

    def python(self, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        return python_as_user(self.user, *arguments, cwd=self.home, **env)


@pytest.fixture
def alices_program() -> Iterator[ProgramOf]:
    """A fresh copy of the program in a folder of alice's, since that of pytest is closed to her."""
    user = _user("alice")
    folder = Path(tempfile.mkdtemp(prefix="experiment-manager-alice-"))
    try:
        home = folder / "home"
        shutil.copytree(APP, home, ignore=shutil.ignore_patterns("__pycache__"))
        for path in (folder, *folder.rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid)
        yield ProgramOf("alice", home)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ---------------------------------------------------------------- what the above stands on


def turn() -> FileLock:
    """The right to the cluster, among all the tests on this machine."""
    (HOME / "run").mkdir(parents=True, exist_ok=True)
    return FileLock(HOME / "run" / "tests.lock", timeout=1800, mode=0o666)


def _run_up(*arguments: str, **knobs: object) -> "subprocess.CompletedProcess[str]":
    env = _env(**{f"EM_CLUSTER_{name.upper()}": str(value) for name, value in knobs.items()})
    return subprocess.run(
        [str(HERE / "up.sh"), *arguments], env=env, capture_output=True, text=True, timeout=600, check=False
    )


def _env(**more: str) -> dict[str, str]:
    """An environment for SLURM's clients; SLURM_CONF says which cluster they ask."""
    return clean_env(**{name: value for name, value in os.environ.items() if name == "SLURM_CONF"}, **more)


def _tail(done: "subprocess.CompletedProcess[str]") -> str:
    return "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])


def _written_by_us() -> bool:
    return "SLURM_CONF" not in os.environ and SLURM_CONF.exists() and SLURM_CONF.read_text().startswith(MARK)


def _answers() -> bool:
    return shutil.which("scontrol") is not None and " UP" in _output("scontrol", "ping", strict=False)


def _output(*command: str, strict: bool = True) -> str:
    """What the command prints; a client may fail for a moment while slurmctld is busy."""
    for _ in range(3):
        done = subprocess.run(command, env=_env(), capture_output=True, text=True, timeout=60, check=False)
        if done.returncode == 0 or not strict:
            return done.stdout
        time.sleep(0.5)
    raise AssertionError(f"{' '.join(command)} failed: {done.stderr.strip()}")
