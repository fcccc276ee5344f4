"""Two nodes that share one file system, which each of them sees some seconds late and without the other's locks: FUSE
mounts with caches, in namespaces of their own, as two hosts. The clock of the second one is five minutes ahead."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from experiment_manager import Experiment
from experiment_manager.trust import open_to_anybody
from tests.conftest import APP, Program, clean_env, wait_until
from tests.debian import install
from tests.test_work import RUNNER

pytestmark = pytest.mark.heavy

LATE_S = 3.0
"""So long a node believes what it has seen: NFS does so for 3 to 60 s (acregmin, acregmax)."""
CLOCK = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
ENTER = 'mount --make-rprivate / && mount --bind "$1" "$2" && hostname "$3" && shift 3 && exec "$@"'


AWAY_S = 30.0
"""So long the server does not answer: a hard mount of NFS waits, as this does."""

WAITS = """
import sys, time
from pathlib import Path
from experiment_manager import Experiment

def runner(job_id, variables, configuration):
    Path(sys.argv[0]).with_name(f"begun.{job_id}").touch(exist_ok=False)
    while not Path(sys.argv[0]).with_name("go" if job_id < 4 else "go on").exists():
        time.sleep(0.02)
    return variables["number"]

words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
Experiment.load(words["--experiment-name"], words["--experiment-path"]).run_id(int(words["--job-id"]), runner)
"""


class Node:
    """A host of its own, which sees the shared folder through its own mount, which `server` serves."""

    def __init__(
        self, name: str, mount: Path, shared: Path, home: Path, server: "subprocess.Popen[bytes]", **env: str
    ) -> None:
        self._name, self._mount, self._shared, self._home, self._env = name, mount, shared, home, env
        self.server = server

    def start(self, *arguments: str | Path, **env: str) -> "subprocess.Popen[str]":
        """Python begins to run there."""
        enter = ("unshare", "--mount", "--uts", "--", "sh", "-c", ENTER, "node", self._mount, self._shared, self._name)
        return subprocess.Popen(
            [*enter, sys.executable, *arguments],
            cwd=self._home,
            env=clean_env(**self._env, **env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """The folder that all nodes see, and where the server keeps it."""
    (tmp_path / "server").mkdir()
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared"


@pytest.fixture
def _fuse() -> None:
    """What the tests need is there; else they are skipped."""
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("only root can mount file systems, and only where there is FUSE")
    if shutil.which("bindfs") is None or not os.path.exists(CLOCK):
        install("bindfs", "libfaketime")
    if shutil.which("bindfs") is None or not os.path.exists(CLOCK):
        pytest.skip("no bindfs, or no libfaketime: root on Debian gets both by itself")


@pytest.fixture
def nodes(_fuse: None, tmp_path: Path, shared: Path) -> Iterator[list[Node]]:
    """Two of them."""
    (tmp_path / "home").mkdir()
    late = ",".join(f"{what}_timeout={LATE_S}" for what in ("attr", "entry", "negative"))
    ahead = {"LD_PRELOAD": CLOCK, "FAKETIME": "+300", "NO_FAKE_STAT": "1"}
    servers, found = [], []
    for name, env in (("node1", {}), ("node2", ahead)):
        mount = tmp_path / name
        mount.mkdir()
        servers.append(subprocess.Popen(["bindfs", "-f", "-o", late, tmp_path / "server", mount]))
        found.append(Node(name, mount, shared, tmp_path / "home", servers[-1], **env))
    try:
        for name in ("node1", "node2"):
            wait_until(lambda name=name: os.path.ismount(tmp_path / name))  # type: ignore[misc]
        yield found
    finally:
        for server in servers:
            server.send_signal(signal.SIGCONT)
        for name in ("node1", "node2"):
            subprocess.run(["umount", tmp_path / name], check=False)
        for server in servers:
            server.wait(30)


def ended(processes: Sequence["subprocess.Popen[str]"]) -> list[tuple[int, str, str]]:
    """How each has ended, and what it said: sentences, and no traceback."""
    found = []
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert "Traceback" not in err, err
        found.append((process.returncode, out, err))
    return found


LOOKS = """
import os, pathlib, sys, time
shared, other = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
assert not (shared / "new").exists()
(other / "new").touch()
started = time.monotonic()
while not (shared / "new").exists():
    time.sleep(0.05)
print(time.monotonic() - started, time.time() - os.stat(shared / "new").st_mtime, os.uname().nodename)
"""


def test_the_nodes_see_what_is_late(nodes: list[Node], shared: Path, tmp_path: Path) -> None:
    """A node that has looked for a name in vain believes so for a while, and the second one's clock is ahead."""
    ((status, told, said),) = ended([nodes[1].start("-c", LOOKS, shared, tmp_path / "server")])
    assert 0 == status, said
    late_s, ahead_s, name = told.split()
    assert LATE_S / 2 < float(late_s) < 10 * LATE_S
    assert 295 < float(ahead_s) < 305 + float(late_s)
    assert "node2" == name


def test_two_nodes_share_all_jobs(nodes: list[Node], shared: Path, tmp_path: Path) -> None:
    """Each job runs once, on one of them, and both learn of all ends."""
    (tmp_path / "home/runner.py").write_text(RUNNER)
    experiment = Experiment(["number"], "train", tmp_path / "server")
    for number in range(40):
        experiment.add_job({"number": number}, {})
    experiment.save()
    experiment.save_pass_filter(range(40))
    words = ("-m", "experiment_manager", "work", shared / "train", "--runner", "runner.py", "--jobs", "2", "--json")
    told = [json.loads(out)["jobs"] for _, out, _ in ended([node.start(*words) for node in nodes])]
    assert all(told)
    begun = [int(line.split()[0]) for line in (tmp_path / "home/begun").read_text().splitlines()]
    assert dict.fromkeys(range(40), 1) == Counter(begun)
    assert {"COMPLETED": 40} == Experiment.at(tmp_path / "server/train").counts()
    assert {("COMPLETED", 1)} == {(end["state"], end["attempt"]) for ends in told for end in ends}


def test_two_nodes_search(nodes: list[Node], shared: Path, tmp_path: Path) -> None:
    """Workers on both propose and run trials: no id is given twice, each trial runs once, and the best is found."""
    shutil.copytree(APP, tmp_path / "home", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    program = Program(tmp_path / "home")
    done = program.sweep(
        *("hydra/sweeper=experiment_optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.sampler.seed=1"),
        *("seed=interval(0,10)", f"hydra.sweeper.experiment_path={tmp_path / 'server'}"),
        LIGHT="1",
    )
    assert 0 == done.returncode, done.stderr
    where = tmp_path / "server/train"
    assert 0 == program.python("-m", "experiment_manager", "search", str(where), "--more", "38").returncode
    words = ("-m", "experiment_manager", "work", shared / "train", "--jobs", "2")
    ended([node.start(*words, LIGHT="1") for node in nodes])
    experiment = Experiment.at(where)
    assert list(range(40)) == experiment.get_all_ids()
    assert {"COMPLETED": 40} == experiment.counts()
    states = sorted(name for name in os.listdir(where / "states") if name.count(".") == 2)
    assert sorted(f"{job_id}.1.COMPLETED" for job_id in range(40)) == states
    values = [trial.params["seed"] for trial in experiment.study().trials]
    assert 40 == len(set(values))
    assert experiment.study().best_value < 1.0
    hosts = {json.loads((where / f"states/{job_id}.1").read_text())["host"] for job_id in range(2, 40)}
    assert {"node1", "node2"} == hosts


def test_two_nodes_sweep_at_once(nodes: list[Node], shared: Path, tmp_path: Path) -> None:
    """Two grids are planned at the same time, by processes that no lock keeps apart: each is planned, or refused in a
    sentence; typed again, both are there, each configuration has one id, and what had an id keeps it."""
    shutil.copytree(APP, tmp_path / "home", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    more = ("hydra/launcher=slurm_script", f"hydra.sweeper.experiment_path={shared}")
    grids = ("seed=1,2,3,4", "seed=3,4,5,6")
    told = ended([node.start("train.py", "-m", grid, *more) for node, grid in zip(nodes, grids, strict=True)])
    assert {0} <= {status for status, *_ in told} <= {0, 2}, told
    first = {row["job"]: row["variables"] for row in Experiment.at(tmp_path / "server/train").jobs()}
    for node, grid in zip(nodes, grids, strict=True):
        ((status, _, said),) = ended([node.start("train.py", "-m", grid, *more)])
        assert 0 == status, said
    last = {row["job"]: row["variables"] for row in Experiment.at(tmp_path / "server/train").jobs()}
    assert first.items() <= last.items()
    assert [1, 2, 3, 4, 5, 6] == sorted(variables["seed"] for variables in last.values())


@pytest.mark.parametrize("when", ["before their ends", "while some begin"])
def test_a_server_goes_away(nodes: list[Node], shared: Path, tmp_path: Path, when: str) -> None:
    """The server of a node answers nothing for half a minute, while jobs end there, or begin: when it is back, each job
    has run once, has its end and its result, and no process stays."""
    (tmp_path / "home/runner.py").write_text(WAITS)
    experiment = Experiment(["number"], "train", tmp_path / "server")
    for number in range(8):
        experiment.add_job({"number": number}, {})
    experiment.save()
    experiment.save_pass_filter(range(8))
    words = ("-m", "experiment_manager", "work", shared / "train", "--runner", "runner.py", "--jobs", "4")
    worker = nodes[0].start(*words)
    begun = tmp_path / "home"
    wait_until(lambda: len(list(begun.glob("begun.*"))) == 4)
    if when == "while some begin":
        (begun / "go").touch()
        wait_until(lambda: len(list(begun.glob("begun.*"))) > 4)
    nodes[0].server.send_signal(signal.SIGSTOP)
    (begun / "go").touch()
    (begun / "go on").touch()
    away = time.monotonic()
    other = nodes[1].start("-m", "experiment_manager", "status", shared / "train", "--json")
    ((status, told, _),) = ended([other])
    counts = json.loads(told)["counts"]
    assert (0, 8) == (status, sum(counts.values()))
    if when == "before their ends":
        assert {"RUNNING": 4, "PENDING": 4} == counts
    assert counts.keys() <= {"RUNNING", "PENDING", "COMPLETED"}
    wait_until(lambda: time.monotonic() - away > AWAY_S, 2 * AWAY_S)
    assert worker.poll() is None
    nodes[0].server.send_signal(signal.SIGCONT)
    ((status, _, said),) = ended([worker])
    assert 0 == status, said
    found = Experiment.at(tmp_path / "server/train")
    assert {"COMPLETED": 8} == found.counts()
    assert {1} == {row["attempt"] for row in found.jobs()}
    assert list(range(8)) == [row["result"]["result"] for row in found.result_rows()]


@pytest.mark.usefixtures("_fuse")
def test_modes_tell_nothing_where_a_file_system_keeps_none() -> None:
    """On a drive of Windows all is open to all, whatever its owner wants; that is no reason to run nothing there."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        place = Path(name)
        place.chmod(0o755)
        for folder in ("server", "drive"):
            (place / folder).mkdir()
        (place / "server/file").touch()
        server = subprocess.Popen(["bindfs", "-f", "-p", "0777", "--chmod-ignore", place / "server", place / "drive"])
        try:
            wait_until(lambda: os.path.ismount(place / "drive"))
            assert 0o777 == (place / "drive/file").stat().st_mode & 0o777
            assert [None, None] == [open_to_anybody(str(place / "drive" / one)) for one in ("", "file")]
        finally:
            subprocess.run(["umount", place / "drive"], check=False)
            server.wait(30)
        assert ["file"] == os.listdir(place / "server")
        (place / "server").chmod(0o777)
        assert str(place / "server") == open_to_anybody(str(place / "server/file"))
