"""`hydra.launcher.start_method=forkserver`: jobs that are copies of one process are like jobs that were started."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiment_manager.execution.forkserver.program import imports_of
from tests.conftest import APP, Program, wait_until

HEAD = """
import os
import sys
from pathlib import Path

import hydra

import helpers
from experiment_manager import current_job

"""
MAIN = """
@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg):
{body}
"""
CALL = 'if __name__ == "__main__":\n    main()\n'
OFF = "every job starts its own interpreter"
FORK = "hydra.launcher.start_method=forkserver"
METHODS = ("spawn", "forkserver")
SERVER = "forkserver.server import main"


def write(program: Program, body: str, *, before: str = "", helpers: str = "", call: str = CALL) -> None:
    """The program of these tests: `app.py`, and `helpers.py` which it imports."""
    (program.home / "helpers.py").write_text(helpers)
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    (program.home / "app.py").write_text(HEAD + before + MAIN.format(body=indented) + call)


def install(program: Program, name: str, source: str) -> dict[str, str]:
    """A library is installed; returns the environment in which the program finds it."""
    place = program.home / "site-packages"
    place.mkdir(exist_ok=True)
    (place / f"{name}.py").write_text(source)
    return {"PYTHONPATH": str(place)}


def sweep(program: Program, *arguments: str, **env: str) -> str:
    """What the sweep of `app.py` says, which has not failed."""
    done = program.run("-m", FORK, *arguments, "hydra.job.name=train", script="app.py", **env)
    assert done.returncode == 0, done.stderr
    return done.stderr


def sweep_both(program: Program, *arguments: str, script: str = "app.py", **env: str) -> dict[str, list[str]]:
    """What sweeps with both start methods say; each has an experiment of its name. No job was refused to be forked."""
    said = {}
    for method in METHODS:
        names = (f"hydra.launcher.start_method={method}", f"hydra.sweeper.experiment_name={method}")
        done = program.run("-m", *names, *arguments, script=script, **env)
        assert OFF not in done.stderr
        said[method] = done.stderr.splitlines()
    return said


def experiment(program: Program, name: str) -> Program:
    """The program, to be asked about one of its experiments."""
    other = Program(program.home)
    other.experiment = program.home / "experiments" / name
    return other


def results(program: Program) -> list[Any]:
    return [row["result"]["result"] for row in program.told("results")]


def log(program: Program, job: int, kind: str = "stderr") -> str:
    return (program.experiment / f"jobs/{job}/{kind}.1.log").read_text()


def attempt(program: Program, job: int) -> Any:
    return json.loads((program.experiment / f"jobs/{job}/attempt.1.json").read_text())


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


# -- what a job sees --------------------------------------------------------------------------------------------------

LIBRARY = """
import random
import sys

import numpy as np

NAME = sys.argv[0]
DRAWN = random.random()  # as rich does, for its links
WITHOUT_SEED = np.random.default_rng()
WITH_SEED = np.random.default_rng(3)
PRODUCT = np.ones((300, 300)) @ np.ones((300, 300))  # OpenBLAS makes its threads anew after a fork
"""

HELPERS = """
import argparse
import os
import random
import secrets
import socket
import sqlite3
import sys
import tempfile
import threading
import uuid

import library
import numpy as np

from experiment_manager import current_job

ARGUMENTS = list(sys.argv)
GIVEN = argparse.ArgumentParser().parse_known_args()[1]
JOB = current_job().id
ENVIRONMENT = dict(os.environ)
OWN = {
    "urandom": os.urandom(8).hex(),
    "secrets": secrets.token_hex(),
    "uuid": str(uuid.uuid4()),
    "folder": tempfile.mkdtemp(),
    "pid": os.getpid(),
    "random": random.random(),
    "generator": random.Random().random(),
    "numpy": np.random.default_rng().random(),
}
np.random.seed(7)
SOCKET = socket.socket()
SOCKET.bind(("127.0.0.1", 0))
OWN["port"] = SOCKET.getsockname()[1]
DATABASE_FILE = tempfile.mkstemp()[1]
DATABASE = sqlite3.connect(DATABASE_FILE)
DATABASE.execute("CREATE TABLE t (x)")
FILE = open(__file__)
LINES = [FILE.readline()]
LIST = []
READ = []
sys.addaudithook(lambda event, given: event == "open" and READ.append(str(given[0])))
THREAD_ENDS = threading.Event()
THREAD = threading.Thread(target=THREAD_ENDS.wait, daemon=True)
THREAD.start()
"""

SEEN = """
import json, random, signal
seen = {
    "argv": [type(sys.argv).__name__, *sys.argv],
    "argv while importing": helpers.ARGUMENTS,
    "arguments of the parser": helpers.GIVEN,
    "name of the program, of a library": helpers.library.NAME,
    "orig_argv": sys.orig_argv,
    "path": sys.path,
    "flags": [str(sys.flags), sys.warnoptions, sys.executable],
    "streams": [repr(stream) for stream in (sys.stdin, sys.stdout, sys.stderr)],
    "stdin": sys.stdin.read(),
    "signals": {int(number): repr(signal.getsignal(number)).partition(" at ")[0] for number in signal.valid_signals()},
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "wakeup": signal.set_wakeup_fd(-1),
    "leads": [os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()],
    "cwd": os.getcwd(),
    "environment": dict(os.environ),
    "environment while importing": helpers.ENVIRONMENT,
    "oom": Path("/proc/self/oom_score_adj").read_text(),
    "umask": os.umask(0o22),
    "main": {name: repr(value).partition(" at ")[0] for name, value in vars(sys.modules["__main__"]).items()
             if name.startswith("__")},
    "hydra": str(hydra.core.hydra_config.HydraConfig.get().job.name),
    "job": [helpers.JOB, current_job().id],
    "seeded": [helpers.np.random.rand(), helpers.library.WITH_SEED.random()],
    "threads": helpers.THREAD.is_alive(),
    "next line": helpers.FILE.readline(),
    "rows": helpers.DATABASE.execute("SELECT count(*) FROM t").fetchall(),
    "told by Hydra": [(current_job().directory / ".hydra" / f"{name}.yaml").read_text()
                      for name in ("config", "hydra", "overrides")],
    "files": sorted(os.readlink(f"/proc/self/fd/{name}").partition(":")[0].replace(helpers.DATABASE_FILE, "database")
                    for name in os.listdir("/proc/self/fd")[:-1]),
    "product": float((helpers.library.PRODUCT @ helpers.library.PRODUCT)[0, 0]),
    "what others left": [os.environ.get("LEFT"), "left" in sys.path, helpers.LIST[:]],
}
os.chdir("/"); os.environ["LEFT"] = "x"; sys.path.append("left"); helpers.LIST.append(1)
drawn = {"job": random.random(), "job, numpy": helpers.np.random.default_rng().random(),
         "library": helpers.library.WITHOUT_SEED.random(), **helpers.OWN}
read = {Path(path).name for path in helpers.READ if "/conf/" in path and path.endswith(".yaml")}
return json.dumps([seen, drawn, sorted(read)])
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What jobs have seen and drawn, by the start method of their sweep."""
    home = tmp_path_factory.mktemp("seen") / "home"
    shutil.copytree(APP, home, ignore=shutil.ignore_patterns("__pycache__"))
    program = Program(home)
    write(program, SEEN, helpers=HELPERS)
    (home / "temporary").mkdir()
    env = install(program, "library", LIBRARY)
    env |= {"TMPDIR": str(home / "temporary"), "PYTEST_CURRENT_TEST": ""}  # which has a start method in its name
    sweep_both(program, "seed=1,2", "hydra.launcher.n_jobs=1", **env)
    return {
        method: [json.loads(item.replace(method, "METHOD")) for item in results(experiment(program, method))]
        for method in METHODS
    }


def test_a_job_sees_what_a_started_one_sees(seen: dict[str, list[Any]]) -> None:
    """Arguments, also while modules are imported, path, streams, signals, open files, limits, seeds: what a program can
    ask its interpreter has one answer, and no job finds what another has changed."""
    for (spawned, *_), (forked, *_) in zip(*(seen[method] for method in METHODS), strict=True):
        assert spawned == forked
        assert ["list", *forked["argv while importing"]] == forked["argv"]
        assert [None, False, []] == forked["what others left"]
    assert all(f"seed={seed}" in job["argv while importing"] for seed, (job, *_) in enumerate(seen["forkserver"], 1))


def test_what_lies_in_files_is_composed_once(seen: dict[str, list[Any]]) -> None:
    """A job that is forked reads no config group again, whatever values it sets."""
    assert {"config.yaml", "TD3.yaml"} <= {*seen["spawn"][1][2]}
    assert ["config.yaml"] == seen["forkserver"][1][2]


def test_what_jobs_draw_is_their_own(seen: dict[str, list[Any]]) -> None:
    """Whatever the program draws, makes or opens while it is imported, and what a job draws of a library, differs."""
    for method in METHODS:
        drawn = [draws for _, draws, _ in seen[method]]
        assert dict.fromkeys(drawn[0], 2) == {name: len({job[name] for job in drawn}) for name in drawn[0]}


def test_libraries_are_imported_once_and_the_program_by_each_job(program: Program) -> None:
    """What is installed is imported by the server, for no job again; what belongs to the program, by each job."""
    count = "with open({!r}, 'a') as file:\n    file.write('x')\n"
    counts = {name: str(program.home / name) for name in ("of_library", "of_helpers", "of_script")}
    helpers = count.format(counts["of_helpers"]) + "import library\n"
    env = install(program, "library", count.format(counts["of_library"]))
    write(program, "return 7", before=count.format(counts["of_script"]), helpers=helpers)
    assert OFF not in sweep(program, "seed=1,2", **env)
    assert [7, 7] == results(program)
    found = {name: len(Path(path).read_text()) for name, path in counts.items()}
    assert {"of_library": 2, "of_helpers": 3, "of_script": 3} == found  # the sweep, and the server or two jobs


# -- what a library leaves behind -------------------------------------------------------------------------------------

LEFT_BEHIND = {
    "seeds": ("import random\nrandom.seed(0)", "seeds has set the seed of the random numbers of random"),
    "seeds_numpy": (
        "import numpy\nnumpy.random.seed(0)",
        "seeds_numpy has set the seed of the random numbers of numpy.random",
    ),
    "has_thread": (
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()",
        "has_thread has started a thread",
    ),
    "has_child": ("import subprocess\nCHILD = subprocess.Popen(['sleep', '9'])", "has_child has started a process"),
    "has_socket": (
        "import socket\nSOCKET = socket.socket()",
        "has_socket has opened a socket, and has not closed it",
    ),
    "has_file": ("FILE = open('left', 'w')", "has_file has opened HERE/left, and has not closed it"),
    "has_database": (
        "import sqlite3\nDATABASE = sqlite3.connect('left')\nDATABASE.execute('SELECT * FROM sqlite_master')",
        "has_database has opened HERE/left, and has not closed it",
    ),
    "reads": (
        "import argparse\nGIVEN = argparse.ArgumentParser().parse_known_args()",
        "reads has read the arguments of the command line, which each job has of its own",
    ),
    "keeps": (
        "from sys import argv",
        "keeps has read the arguments of the command line, which each job has of its own",
    ),
    "asks": (
        "from experiment_manager import current_job\nJOB = current_job()",
        "a library has asked for current_job(), which another process must not answer",
    ),
    "imports_program": (
        "import of_the_program",
        "a library has imported of_the_program, which belongs to the program",
    ),
    "imports_plugin": (
        "import hydra_plugins.of_the_program",
        "a library has imported hydra_plugins.of_the_program, which belongs to the program",
    ),
    "draws": ("import random, uuid, sys\nDRAWN = random.random(), uuid.uuid4(), sys.argv[0]\nopen('left').close()", ""),
    "draws_much": ("import random\nfor _ in range(99999):\n    random.random()", ""),
    "outer": ("import has_thread\nimport socket", "has_thread has started a thread"),
}

LOOK = """
import importlib, os, sys
from experiment_manager.execution.forkserver.sharing import Arguments, Imports

names, sys.argv = sys.argv[1:], Arguments(["train.py", "seed=1"])
import numpy.random
for name in names:
    if not os.fork():
        with Imports(frozenset()) as imports:
            importlib.import_module(name)
        print(f"{name}: {imports.trouble(sys.argv) or ''}", flush=True)
        os._exit(0)
    os.wait()
"""


def test_what_a_library_leaves_behind_is_found(tmp_path: Path) -> None:
    """A seed, a thread, a process, whatever is open, a look at the command line: the module is named that did it; what
    a library only draws inside of itself is its business."""
    place = tmp_path / "site-packages"
    place.mkdir()
    for name, (source, _) in LEFT_BEHIND.items():
        (place / f"{name}.py").write_text(source + "\n")
    (tmp_path / "hydra_plugins").mkdir()
    for module in ("of_the_program.py", "hydra_plugins/of_the_program.py"):
        (tmp_path / module).touch()
        os.utime(tmp_path / module, (1, 1))  # else it may have been written by what was imported
    (tmp_path / "look.py").write_text(LOOK)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(place), str(Path(__file__).parent.parent)])}
    command = [sys.executable, "look.py", *LEFT_BEHIND]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    expected = [f"{name}: {why.replace('HERE', str(tmp_path))}" for name, (_, why) in LEFT_BEHIND.items()]
    assert expected == done.stdout.splitlines()


def test_what_a_library_leaves_behind_turns_it_off(program: Program) -> None:
    """One line says which module did it, and every job is started by itself."""
    env = install(program, "library", "import socket\nSOCKET = socket.socket()\n")
    write(program, "return Path('/proc/self/cmdline').read_text().split(chr(0))[1]", helpers="import library\n")
    (line,) = [line for line in sweep(program, "seed=1,2", **env).splitlines() if OFF in line]
    assert "start_method=spawn: library has opened a socket" in line
    assert ["app.py", "app.py"] == results(program)
    kept = sorted(path.stem for path in (program.experiment / "launches/0001").iterdir())
    assert ["launch", "multirun", "orders", "packages", "settled"] == kept


SOURCES = {
    "main.py": """
import json, xml.dom.minidom as dom
import own.deep
from own import other, name
if TYPE_CHECKING:
    import never
try:
    import hydra.utils
except ImportError:
    import there_is_none
def main():
    import never
class Main:
    from email import message, policy
if __name__ == "__main__":
    import csv
""",
    "own/__init__.py": "from .deep import *\nname = 1",
    "own/deep.py": "import numpy\nfrom . import inner",
    "own/inner/__init__.py": "from ..other import f",
    "own/other.py": "def :",
    "own/__main__.py": "import main",
}


@pytest.mark.parametrize("target", [("main.py",), ("-m", "own")])
def test_which_libraries_a_source_names(
    target: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that the program and its own modules import outside of functions, in their order; nothing of it is run."""
    for name, source in SOURCES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = [(name, *offered) for name, offered in imports_of(target, frozenset())]
    of_own, of_main = [("numpy",)], [("hydra.utils",), ("email", "message", "policy"), ("csv",)]
    first = [("json",), ("xml.dom.minidom",)]
    assert (of_own + first if target[0] == "-m" else first + of_own) + of_main == found
    assert not {"main", "own"} & sys.modules.keys()


def test_a_package_that_was_installed_from_a_folder_belongs_to_the_program(program: Program) -> None:
    """`pip install .` makes no library of a program's own package, and neither does `-m` of an installed one."""
    helpers = "import mine\nOWN = mine.OWN\n"
    install(program, "_", "")
    place = program.home / "site-packages"
    (place / "mine").mkdir()
    (place / "mine/__init__.py").write_text("import os\nOWN = os.getpid()\n")
    (place / "mine-1.dist-info").mkdir()
    (place / "mine-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (place / "mine-1.dist-info/RECORD").write_text("mine/__init__.py,,\n")
    origin = {"url": f"file://{program.home}", "dir_info": {}}
    (place / "mine-1.dist-info/direct_url.json").write_text(json.dumps(origin))
    write(program, "return helpers.OWN == os.getpid()", helpers=helpers)
    assert OFF not in sweep(program, "seed=1,2", PYTHONPATH=str(place))
    assert [True, True] == results(program)


# -- how a program ends -----------------------------------------------------------------------------------------------

HOWS = ("well", "raise", "exit3", "segv", "kill")


def test_ends_and_records_are_those_of_spawn(program: Program) -> None:
    """However a job ends: state, reason, exit code, signal, logs, error, Hydra's own configuration and the names of all
    files are the same."""
    sweep_both(program, f"how={','.join(HOWS)}", script="train.py")
    found = []
    for method in METHODS:
        asked = experiment(program, method)
        kept = [
            {key: attempt(asked, job)[key] for key in ("state", "reason", "exit_code", "signal")} for job in range(5)
        ]
        files = sorted(str(path.relative_to(asked.experiment)) for path in asked.experiment.rglob("*"))
        logs = [log(asked, job).replace(method, "METHOD") for job in range(5)]
        logs += [(asked.experiment / "jobs/0/.hydra/hydra.yaml").read_text().replace(method, "METHOD")]
        found.append((asked.states(), kept, logs, files, asked.told("show", "1")["configuration"]))
    spawned, forked = found
    assert ["0.1.COMPLETED", *(f"{job}.1.FAILED" for job in range(1, 5))] == forked[0]
    assert [0, 1, 3, None, None] == [record["exit_code"] for record in forked[1]]
    assert spawned == forked


ENDS = (
    "sys.exit({})",
    "sys.exit('told why')",
    "raise KeyboardInterrupt",
    "raise ValueError('outside of Hydra')",
    "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise ValueError('outside') from error",
    "import broken",
    "json.kept = Telling()",
    "json.kept = open(current_job().directory / 'kept', 'w')\njson.kept.write('whole')",
    "json.kept = rest()\nnext(json.kept)",
    "kept = Telling()",
    "os._exit(4)",
)
TELLING = """
import atexit, json

atexit.register(print, 'at exit')


class Telling:
    def __del__(self, write=os.write):
        write(1, b"gone\\n")


def rest(write=os.write):
    try:
        yield
    finally:
        write(1, b"gone\\n")
"""


def test_the_end_of_a_program_is_that_of_a_fresh_interpreter(program: Program) -> None:
    """Exit codes, what is printed of an exception, `atexit`, and what objects have to do when they go, wherever they
    are kept, are as if the script had been started."""
    (program.home / "broken.py").write_text("def :\n")
    after = "".join(
        f"if current_job().id == {job}:\n" + "".join(f"    {line}\n" for line in how.splitlines())
        for job, how in enumerate(ENDS)
    )
    write(program, "return 1", before=TELLING, call=CALL + after)
    sweep_both(program, f"seed=range(0,{len(ENDS)})")
    found = []
    for asked in (experiment(program, method) for method in METHODS):
        records = [attempt(asked, job) for job in range(len(ENDS))]
        ended = [(record["exit_code"], record["signal"], record["reason"]) for record in records]
        logs = [(log(asked, job), log(asked, job, "stdout")) for job in range(len(ENDS))]
        found.append((ended, logs, asked.states(), [path.read_text() for path in asked.experiment.glob("jobs/*/kept")]))
    assert found[0] == found[1]
    gone = "at exit\ngone\n"
    assert ["at exit\n"] * 6 + [gone, "at exit\n", gone, gone, ""] == [out for _, out in found[1][1]]
    assert ["whole"] == found[1][3]


# -- programs of all kinds -------------------------------------------------------------------------------------------


def test_classes_of_the_script_can_be_pickled(program: Program) -> None:
    """A class of the script is found under `__main__`, also by the processes that a job makes."""
    body = """
import pickle, multiprocessing
if cfg.seed == 2:
    return double(Point(2)).x
with multiprocessing.get_context("spawn").Pool(1) as pool:
    return pool.map(double, [pickle.loads(pickle.dumps(Point(cfg.seed)))])[0].x
"""
    before = """
class Point:
    def __init__(self, x):
        self.x = x


def double(point):
    return Point(2 * point.x)
"""
    write(program, body, before=before)
    sweep(program, "seed=1,2")
    assert [2, 4] == results(program)


def test_programs_in_packages(program: Program) -> None:
    """`python -m pkg.train` finds its package, its own name and its arguments."""
    write(program, "return [__name__, __spec__.name, sys.argv[0], __file__, sys.path[0]]")
    package = program.home / "pkg"
    package.mkdir()
    (package / "__init__.py").touch()
    (program.home / "app.py").rename(package / "train.py")
    (program.home / "conf").rename(package / "conf")
    done = program.python("-m", "pkg.train", "-m", FORK, "seed=1,2")
    assert done.returncode == 0, done.stderr
    assert OFF not in done.stderr
    file = str(package / "train.py")
    assert [["__main__", "pkg.train", file, file, str(program.home)]] * 2 == results(program)
    assert "" == log(program, 0)


def test_script_without_a_guard_and_flags_of_the_interpreter(program: Program) -> None:
    """A script that calls its main function at the top runs once in each job, and not in the server; jobs run with the
    flags that the sweep was started with."""
    write(program, "return [cfg.seed, sys.flags.optimize, sys.flags.dev_mode]", call="main()\n")
    done = program.python("-O", "-X", "dev", "app.py", "-m", FORK, "seed=1,2", "hydra.job.name=train")
    assert done.returncode == 0, done.stderr
    assert OFF not in done.stderr
    assert [[1, 1, True], [2, 1, True]] == results(program)


def test_spawn_and_single_jobs_have_no_server(program: Program) -> None:
    """Where nothing is said, and for one job alone, each job is the child of a supervisor of its own."""
    write(program, "return Path(f'/proc/{os.getppid()}/cmdline').read_bytes().decode().split(chr(0))[:4]")
    done = program.run("-m", "seed=1,2", "hydra.job.name=train", script="app.py")
    assert done.returncode == 0, done.stderr
    sweep(program, "seed=3")
    assert [[sys.executable, "-P", "-m", "experiment_manager"]] * 3 == results(program)


def test_unknown_start_method(program: Program) -> None:
    """A word that is no start method is refused before anything is planned."""
    done = program.sweep("seed=1,2", "hydra.launcher.start_method=fork")
    assert 2 == done.returncode
    assert "spawn, forkserver" in done.stderr
    assert not program.experiment.exists()


def test_one_server_for_all_launches_of_another_sweeper(program: Program) -> None:
    """A sweeper that proposes one job after the other has them forked by one server, from the second launch on."""
    count = str(program.home / "imports")
    env = install(program, "library", f"with open({count!r}, 'a') as file:\n    file.write('x')\n")
    write(program, f"return {SERVER!r} in Path('/proc/self/cmdline').read_text()", helpers="import library\n")
    arguments = ("hydra/sweeper=basic", "hydra.sweeper.max_batch_size=1", "hydra.launcher.experiment_name=train", FORK)
    done = program.run("-m", *arguments, "seed=1,2,3", script="app.py", **env)
    assert done.returncode == 0, done.stderr
    assert [False, True, True] == results(program)
    assert 3 == len(Path(count).read_text())  # the sweep, the first job, the server
    assert 3 == len(list((program.experiment / "launches").iterdir()))


# -- signals, and what is killed --------------------------------------------------------------------------------------


def start(program: Program, started: Path, *arguments: str, **env: str) -> tuple[Any, dict[int, int]]:
    """A sweep whose first two jobs run: their pids."""
    started.mkdir()
    settings = (FORK, f"started='{started}'", "hydra.launcher.n_jobs=2", *arguments)
    process = program.start("train.py", "-m", *settings, **env)
    wait_until(lambda: len(list(started.iterdir())) == 2)
    return process, dict(tuple(map(int, mark.name.split("."))) for mark in started.iterdir())  # type: ignore[misc]


@pytest.mark.usefixtures("light")
def test_killed_server(program: Program, tmp_path: Path) -> None:
    """`kill -9` of the server: jobs that run go on and are waited for, the others are started, and that is said."""
    release = tmp_path / "release"
    process, jobs = start(program, tmp_path / "started", "seed=1,2,3", RELEASE=str(release))
    server = parent(parent(jobs[0]))
    assert SERVER in Path(f"/proc/{server}/cmdline").read_text()
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: is_gone(server))
    release.touch()
    _, said = process.communicate(timeout=60)
    assert 0 == process.returncode
    assert 1 == said.count(OFF)
    assert ["0.1.COMPLETED", "1.1.COMPLETED", "2.1.COMPLETED"] == program.states()


@pytest.mark.usefixtures("light")
def test_killed_supervisor_of_a_forked_job(program: Program, tmp_path: Path) -> None:
    """`kill -9` of a supervisor takes its job along, which is LOST; the others are not touched."""
    release = tmp_path / "release"
    process, jobs = start(program, tmp_path / "started", "seed=1,2,3", RELEASE=str(release))
    os.kill(parent(jobs[0]), signal.SIGKILL)
    wait_until(lambda: is_gone(jobs[0]))
    release.touch()
    _, said = process.communicate(timeout=60)
    assert 1 == process.returncode
    assert "its supervisor was killed" in said
    assert ["0.1.LOST", "1.1.COMPLETED", "2.1.COMPLETED"] == program.states()


@pytest.mark.usefixtures("light")
def test_killed_supervisor_after_its_server(program: Program, tmp_path: Path) -> None:
    """When the server is gone, the pool still learns that a supervisor has been killed."""
    release = tmp_path / "release"
    process, jobs = start(program, tmp_path / "started", "seed=1,2", RELEASE=str(release))
    supervisor = parent(jobs[0])
    os.kill(parent(supervisor), signal.SIGKILL)
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: is_gone(jobs[0]))
    release.touch()
    process.communicate(timeout=60)
    assert ["0.1.LOST", "1.1.COMPLETED"] == program.states()


@pytest.mark.usefixtures("light")
def test_killed_sweep_leaves_no_server(program: Program, tmp_path: Path) -> None:
    """`kill -9` of the sweep: the server ends, and what runs, runs to its end."""
    release = tmp_path / "release"
    process, jobs = start(program, tmp_path / "started", "seed=1,2,3", RELEASE=str(release))
    server = parent(parent(jobs[0]))
    process.kill()
    process.communicate()
    wait_until(lambda: is_gone(server))
    assert ["0.1.RUNNING", "1.1.RUNNING"] == program.states()
    release.touch()
    wait_until(lambda: ["0.1.COMPLETED", "1.1.COMPLETED"] == program.states())


@pytest.mark.usefixtures("light")
def test_interrupt_after_the_server_was_killed(program: Program, tmp_path: Path) -> None:
    """Ctrl-C reaches the jobs of a server that is gone."""
    process, jobs = start(program, tmp_path / "started", "sleep=30", "seed=1,2,3")
    os.kill(parent(parent(jobs[0])), signal.SIGKILL)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert 130 == process.returncode
    assert ["0.1.CANCELLED", "1.1.CANCELLED"] == program.states()


def test_interrupt_while_the_server_imports(program: Program) -> None:
    """Ctrl-C before the first job ends the sweep at once, with nothing begun and no process left."""
    mark = program.home / "importing"
    library = (
        f"import os, pathlib, time\nif {SERVER!r} in pathlib.Path('/proc/self/cmdline').read_text():\n"
        f"    pathlib.Path({str(mark)!r}).write_text(str(os.getpid()))\n    time.sleep(60)\n"
    )
    env = install(program, "library", library)
    write(program, "return 1", helpers="import library\n")
    process = program.start("app.py", "-m", FORK, "seed=1,2", "hydra.job.name=train", **env)
    wait_until(lambda: mark.exists() and mark.read_text())
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=5)
    assert 130 == process.returncode
    assert is_gone(int(mark.read_text()))
    assert [] == program.states()


def test_a_forked_job_hears_that_it_should_stop(program: Program, tmp_path: Path) -> None:
    """TERM and USR1 to the supervisor reach `should_stop` of the job."""
    process, jobs = start(program, tmp_path / "started", "sleep=30", "seed=1,2", "stoppable=true")
    for number, pid in zip((signal.SIGTERM, signal.SIGUSR1), jobs.values(), strict=True):
        os.kill(parent(pid), number)
    process.communicate(timeout=60)
    assert 0 == process.returncode
    assert [{"stopped": True}] * 2 == [row["result"] for row in program.told("results")]


def test_warning_that_comes_at_once(program: Program, tmp_path: Path) -> None:
    """A warning before the job has a handler does not end it."""
    (tmp_path / "started").mkdir()
    (program.home / "helpers.py").write_text("")
    process = program.start("train.py", "-m", FORK, "seed=1,2", "sleep=60", "stoppable=true", "hydra.launcher.n_jobs=2")
    for job in (0, 1):
        anchor = program.experiment / f"states/{job}.1.RUNNING"
        wait_until(anchor.exists)
        os.kill(json.loads(anchor.read_text())["pid"], signal.SIGUSR1)
    process.communicate(timeout=60)
    assert ["0.1.COMPLETED", "1.1.COMPLETED"] == program.states()
    assert [{"stopped": True}] * 2 == [row["result"] for row in program.told("results")]
