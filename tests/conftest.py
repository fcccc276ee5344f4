"""Shared by the tests: a copy of a small Hydra program to sweep, and real processes to sweep it with."""

import compileall
import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hydra.version import VersionBase

if TYPE_CHECKING:
    from hypothesis import settings

os.environ.pop("PYTHONPATH", None)  # what whoever types `make test` has there belongs to no program of the tests

from tests.command_line import CommandLine, can_be_copied

sys.dont_write_bytecode = False  # of this process: pytest would rewrite the assertions of all tests again each time
collect_ignore = ["app", "apps", "faults/program", "oracle/record.py"]  # programs that are run are no tests

pytest.register_assert_rewrite("experiment_manager.testing")  # which shows people what a scheduler answered

ROOT = Path(__file__).parent.parent
APP = ROOT / "tests/app"
COMMAND_LINE = CommandLine()
FUZZ = int(os.environ.get("EXPERIMENT_MANAGER_FUZZ", "0"))
_OF_SLURM = ("sbatch", "srun", "salloc", "squeue", "sacct", "scancel", "scontrol", "sinfo", "sacctmgr", "sstat")
FRESH_VERSION_BASE = VersionBase.instance().version_base  # before any module is collected


def examples(number: int) -> "settings":
    """A property test tries so many examples, the same in each session; `make fuzz` more of them, and always others."""
    from hypothesis import settings

    return settings(max_examples=number * (FUZZ or 1))


class Program:
    """A Hydra program in a folder of its own, and the experiment that it makes."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.experiment = home / "experiments" / "train"

    def run(self, *arguments: str, script: str = "train.py", **env: str) -> "subprocess.CompletedProcess[str]":
        """Runs the script to its end."""
        return self.python(script, *arguments, **env)

    def sweep(self, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """Runs the script as a multirun."""
        return self.run("-m", *arguments, **env)

    def tool(self, verb: str, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """Runs `experiment-manager VERB <the experiment> ...`."""
        return self.python("-m", "experiment_manager", verb, str(self.experiment), *arguments, **env)

    def told(self, verb: str, *arguments: str) -> Any:
        """The output of `experiment-manager VERB --json`, which has the shape that is promised; without its version."""
        done = self.tool(verb, *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return in_shape(verb, done.stdout)

    def python(self, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """Runs Python to its end."""
        env = clean_env(**env)
        if can_be_copied(arguments, env):
            return COMMAND_LINE.run(arguments, cwd=self.home, env=env, timeout=120)
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=self.home, env=env, capture_output=True, text=True, timeout=120, check=False)

    def start(self, *arguments: str, **env: str) -> "subprocess.Popen[str]":
        """Starts Python in the background, as the leader of a session of its own."""
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.home,
            env=clean_env(**env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_hear_signals,
        )

    def states(self) -> list[str]:
        """The states in `states/`, without the anchors."""
        names = os.listdir(self.experiment / "states") if (self.experiment / "states").exists() else []
        return sorted(name for name in names if name.count(".") == 2)

    def edit(self, old: str, new: str, file: str = "conf/config.yaml") -> None:
        path = self.home / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


def in_shape(verb: str, printed: str) -> Any:
    """What a verb has printed with `--json`, without the number of its shape; it fails where it has not that shape."""
    found = json.loads(printed)
    _validator(verb).validate(found)
    for item in found if isinstance(found, list) else [found]:
        del item["schema_version"]
    return found


@cache
def _validator(verb: str) -> Any:
    try:
        from jsonschema import Draft202012Validator
    except ImportError:  # where Hydra's versions are tested, with few packages
        from types import SimpleNamespace

        return SimpleNamespace(validate=lambda _: None)
    from experiment_manager.cli.shapes import schema

    return Draft202012Validator(_closed(schema(verb)))


def _closed(part: Any) -> Any:
    """A schema that allows no keys but those that it names, so that none is printed that it does not tell of."""
    if isinstance(part, list):
        return [_closed(item) for item in part]
    if not isinstance(part, dict):
        return part
    found = {key: _closed(item) for key, item in part.items()}
    return {"additionalProperties": False, **found} if isinstance(found.get("properties"), dict) else found


def _hear_signals() -> None:
    """Whoever runs the tests in the background has INT ignored, and so would their children."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def clean_env(**more: str) -> dict[str, str]:
    """This process's environment without what tells a job that it is one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EXPERIMENT_MANAGER", "SLURM_"))}
    return {**kept, **more}


def pytest_configure() -> None:
    """Processes that tests start find this package compiled, also where PYTHONDONTWRITEBYTECODE keeps them from it:
    each would compile all of it again otherwise. Hypothesis, whose modules pytest rewrites, too, is not imported before
    it may be kept as rewritten."""
    from hypothesis import settings

    settings.register_profile("tests", derandomize=not FUZZ, deadline=None, max_examples=100 * (FUZZ or 1))
    settings.load_profile("tests")
    for package in ("experiment_manager", "hydra_plugins"):
        compileall.compile_dir(ROOT / package, quiet=2)


def pytest_unconfigure() -> None:
    """Nothing that the tests have started for themselves is left."""
    COMMAND_LINE.end()


@pytest.fixture(scope="module", autouse=True)
def _version_base_of_hydra() -> None:
    """Each module begins with the `version_base` of a fresh process, which decides where Hydra's jobs work: tests set
    it, and so does every program that is imported, as while its tests are collected."""
    VersionBase.instance().version_base = FRESH_VERSION_BASE


@pytest.fixture(scope="session")
def _path_without_slurm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What PATH is, but for SLURM's commands: a folder that has some gives way to one of links to all others in it."""
    folders = []
    for folder in map(Path, os.environ["PATH"].split(os.pathsep)):
        if not any((folder / command).exists() for command in _OF_SLURM):
            folders.append(str(folder))
            continue
        links = tmp_path_factory.mktemp("commands")
        for command in folder.iterdir():
            if command.name not in _OF_SLURM:
                (links / command.name).symlink_to(command)
        folders.append(str(links))
    return os.pathsep.join(folders)


@pytest.fixture(scope="module", autouse=True)
def _no_slurm(_path_without_slurm: str) -> Iterator[None]:
    """SLURM is where tests ask for it: whether there is a cluster, and the limits that tests of one give it meanwhile,
    change nothing for others; a cluster that is down would have each of them wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", _path_without_slurm)
        yield


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """A fresh copy of the program."""
    home = tmp_path / "home"
    shutil.copytree(APP, home, ignore=shutil.ignore_patterns("__pycache__"))
    return Program(home)


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that others can come to, other than those of the tests."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


def on_another_host() -> list[str]:
    """The words before a command that runs where this machine is called `other`. Skips the test where that cannot be
    had."""
    words = ["unshare", *([] if os.geteuid() == 0 else ["-r"]), "-u", "sh", "-c", 'hostname other; exec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*words, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no other host name can be had here: unshare -u")
    return words


@contextmanager
def as_nobody() -> Iterator[None]:
    """Inside, root is a user who may do nothing that its mode forbids; anybody else is that anyway."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of the program do without Hydra what they are told, in a fifth of the time (see its text): for tests of what
    becomes of jobs, and not of what they are."""
    monkeypatch.setenv("LIGHT", "1")


class Kept:
    """A folder as it is now, for every test that begins with what lies in it."""

    def __init__(self, home: Path) -> None:
        self.home, self._copy = home, home.with_name(f"{home.name}.kept")
        self._have(home, self._copy)

    def put_back(self) -> None:
        """The folder is again what it was, in the same place, whatever has been done to it."""
        subprocess.run(["chmod", "-R", "u+w", self.home], check=True)  # snapshots of code are read-only
        shutil.rmtree(self.home)
        self._have(self._copy, self.home)

    @staticmethod
    def _have(source: Path, target: Path) -> None:
        subprocess.run(["cp", "--archive", source, target], check=True)  # which keeps hard links


class Prepared:
    """A copy of the program that was swept once, for every test of a module that begins with what came of it: its jobs
    were light."""

    def __init__(self, place: Path, *sweeps: Sequence[str]) -> None:
        shutil.copytree(APP, place / "home", ignore=shutil.ignore_patterns("__pycache__"))
        for arguments in sweeps:
            Program(place / "home").sweep(*arguments, LIGHT="1")
        self._kept = Kept(place / "home")

    def again(self) -> Program:
        """The program as it was after its sweeps."""
        self._kept.put_back()
        return Program(self._kept.home)


ProgramAfter = Callable[..., Program]


@pytest.fixture(scope="session")
def program_after(tmp_path_factory: pytest.TempPathFactory) -> ProgramAfter:
    """`program_after("seed=1,2")` is a program that was swept so, for tests of what comes next: the sweep is made once
    for all that ask for it, and each test has what it left, untouched."""
    made: dict[tuple[str, ...], Prepared] = {}

    def give(*arguments: str) -> Program:
        if arguments not in made:
            made[arguments] = Prepared(tmp_path_factory.mktemp("swept"), arguments)
        return made[arguments].again()

    return give


def unpack(archive: Path, folder: Path) -> None:
    """What is in the archive lies in the folder: by `tar`, as people do it, and on every Python."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["tar", "--no-same-owner", "-xzf", archive, "-C", folder], check=True)


def wait_until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """The first true value of the condition; fails the test when there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"nothing came of {condition} in {seconds} s")


def booted_at() -> float:
    """When this machine was started, by its own clock."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content, to see that nothing has changed."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def submitted_long_ago(experiment: Path, launch: str = "0001") -> None:
    """Its first launch, or that one, was submitted so long ago that a scheduler's history has caught up."""
    path = experiment / "launches" / launch / "submission.json"
    body = json.loads(path.read_text())
    for about in body["arrays"].values():
        about["submitted"] -= 1000.0
    path.write_text(json.dumps(body))


def erring(monkeypatch: pytest.MonkeyPatch, name: str, *, most: int, after: int = 0) -> list[str]:
    """So many calls of `os.stat`, `os.scandir` and their like for files of that name fail, `after` so many others, as
    on a network file system whose server has forgotten them; returns the list of those that did."""
    failed: list[str] = []
    seen = itertools.count()

    def of(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any = os.curdir, *arguments: Any, **options: Any) -> Any:
            is_meant = isinstance(path, str) and os.path.basename(path) == name
            if is_meant and after <= next(seen) < after + most:
                failed.append(path)
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
            return function(path, *arguments, **options)

        return call

    for function in ("stat", "lstat", "listdir", "scandir", "open"):
        monkeypatch.setattr(os, function, of(getattr(os, function)))
    return failed
