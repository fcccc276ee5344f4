"""`hydra.launcher.start_method=forkserver`: jobs that are copies of a warm process are like jobs that were started."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Program, wait_until

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


def write(program: Program, body: str, *, before: str = "", helpers: str = "", call: str = CALL) -> None:
    """The program of these tests: `app.py`, and `helpers.py` which it imports."""
    (program.home / "helpers.py").write_text(helpers)
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    (program.home / "app.py").write_text(HEAD + before + MAIN.format(body=indented) + call)


def sweep(program: Program, *arguments: str, **env: str) -> str:
    """What the sweep of `app.py` says; it has not failed, and where it was to fork its jobs, it has."""
    done = program.run("-m", FORK, *arguments, "hydra.job.name=train", script="app.py", **env)
    assert done.returncode == 0, done.stderr
    return done.stderr


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


def test_modules_are_imported_once_for_all_jobs(program: Program) -> None:
    """What the script imports is imported by the server, for no job again; the script itself runs in each job."""
    count = "with open({!r}, 'a') as file:\n    file.write('x')\n"
    imports, runs = str(program.home / "imports"), str(program.home / "runs")
    write(program, "return helpers.VALUE", before=count.format(runs), helpers=count.format(imports) + "VALUE = 7\n")
    said = sweep(program, "seed=1,2,3")
    assert OFF not in said
    assert [7, 7, 7] == results(program)
    assert 2 == len(Path(imports).read_text())  # the sweep, the server
    assert 4 == len(Path(runs).read_text())  # the sweep, three jobs


HOWS = ("well", "raise", "exit3", "segv", "kill")


def test_ends_and_records_are_those_of_spawn(program: Program) -> None:
    """However a job ends: state, reason, exit code, signal, logs, error and the names of all files are the same."""
    found = []
    for start_method in ("spawn", "forkserver"):
        done = program.sweep(
            f"how={','.join(HOWS)}",
            f"hydra.launcher.start_method={start_method}",
            f"hydra.sweeper.experiment_name={start_method}",
        )
        assert done.returncode == 1
        assert OFF not in done.stderr
        program.experiment = program.home / "experiments" / start_method
        kept = [
            {key: attempt(program, job)[key] for key in ("state", "reason", "exit_code", "signal")} for job in range(5)
        ]
        files = sorted(str(path.relative_to(program.experiment)) for path in program.experiment.rglob("*"))
        logs = [log(program, job).replace(start_method, "METHOD") for job in range(5)]
        found.append((program.states(), kept, logs, files, program.told("show", "1")["configuration"]))
    spawned, forked = found
    assert ["0.1.COMPLETED", *(f"{job}.1.FAILED" for job in range(1, 5))] == forked[0]
    assert [0, 1, 3, None, None] == [record["exit_code"] for record in forked[1]]
    assert spawned == forked


ENDS = {
    "sys.exit": "sys.exit({})",
    "text": "sys.exit('told why')",
    "interrupt": "raise KeyboardInterrupt",
    "unhandled": "raise ValueError('outside of Hydra')",
    "chained": "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise ValueError('outside') from error",
    "syntax": "import broken",
    "quiet": "os._exit(4)",
}


@pytest.mark.parametrize("how", ENDS)
def test_the_end_of_a_program_is_that_of_a_fresh_interpreter(program: Program, how: str) -> None:
    """Exit codes, what is printed of an exception, and `atexit` are as if the script had been started."""
    (program.home / "broken.py").write_text("def :\n")
    before = "import atexit\natexit.register(print, 'at exit')\n"
    after = "if current_job().id is not None:\n" + "".join(f"    {line}\n" for line in ENDS[how].splitlines())
    write(program, "return 1", before=before, call=CALL + after)
    found = []
    for start_method in ("spawn", "forkserver"):
        arguments = (f"hydra.launcher.start_method={start_method}", f"hydra.sweeper.experiment_name={start_method}")
        done = program.run("-m", "seed=1,2", *arguments, script="app.py")
        assert OFF not in done.stderr
        program.experiment = program.home / "experiments" / start_method
        record = attempt(program, 1)
        ended = record["exit_code"], record["signal"], record["reason"]
        found.append((ended, log(program, 1), log(program, 1, "stdout"), program.states()))
    assert found[0] == found[1]
    assert how == "quiet" or "at exit\n" == found[1][2]


def test_a_job_finds_what_a_started_one_finds(program: Program) -> None:
    """Arguments, path, streams, signals, open files, limits: what a program can ask its interpreter has one answer."""
    body = """
import json, signal
seen = {
    "argv": [item for item in sys.argv if "forkserver" not in item and "spawn" not in item],
    "orig_argv": [item for item in sys.orig_argv if "forkserver" not in item and "spawn" not in item],
    "path": sys.path,
    "flags": [str(sys.flags), sys.warnoptions, sys.executable],
    "streams": [repr(stream) for stream in (sys.stdin, sys.stdout, sys.stderr)],
    "stdin": sys.stdin.read(),
    "signals": {int(number): repr(signal.getsignal(number)).partition(" at ")[0] for number in signal.valid_signals()},
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "wakeup": signal.set_wakeup_fd(-1),
    "leads": [os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()],
    "cwd": os.getcwd(),
    "env": {name: value for name, value in os.environ.items() if name != "EXPERIMENT_MANAGER_FOLDER"},
    "oom": Path("/proc/self/oom_score_adj").read_text(),
    "files": sorted(os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")[:-1]),
    "umask": os.umask(0o22),
    "main": {name: repr(value) for name, value in vars(sys.modules["__main__"]).items() if name.startswith("__")},
    "hydra": str(hydra.core.hydra_config.HydraConfig.get().job.name),
}
return json.dumps(seen).replace("forkserver", "METHOD").replace("spawn", "METHOD")
"""
    write(program, body)
    found = []
    for start_method in ("spawn", "forkserver"):
        name = f"hydra.sweeper.experiment_name={start_method}"
        done = program.run("-m", "seed=1,2", f"hydra.launcher.start_method={start_method}", name, script="app.py")
        assert done.returncode == 0, done.stderr
        program.experiment = program.home / "experiments" / start_method
        found.append([json.loads(item) for item in results(program)])
    for spawned, forked in zip(*found, strict=True):
        for loader in (spawned, forked):
            loader["main"]["__loader__"] = loader["main"]["__loader__"].partition(" at ")[0]
        assert spawned == forked


def test_jobs_do_not_see_each_other(program: Program) -> None:
    """Working directory, environment, path and modules that one job changes are untouched in the next."""
    body = """
before = [os.getcwd(), os.environ.get("LEFT"), "left" in sys.path, helpers.LIST[:]]
os.chdir("/"); os.environ["LEFT"] = "x"; sys.path.append("left"); helpers.LIST.append(1)
return before
"""
    write(program, body, helpers="LIST = []\n")
    sweep(program, "seed=1,2,3", "hydra.launcher.n_jobs=1")
    assert [[str(program.home), None, False, []]] * 3 == results(program)


def test_random_numbers_differ(program: Program) -> None:
    """Jobs that are copies of one process draw other numbers each, from `random` and from numpy."""
    write(program, "import random\nreturn [random.random(), helpers.np.random.rand()]", helpers="import numpy as np\n")
    assert OFF not in sweep(program, "seed=1,2,3,4")
    assert 8 == len({number for pair in results(program) for number in pair})


@pytest.mark.parametrize(
    ("helpers", "why"),
    [
        ("import random\nrandom.seed(0)\n", "seeded or used the random numbers of python"),
        ("import numpy as np\nnp.random.seed(0)\n", "seeded or used the random numbers of numpy"),
        ("import numpy as np\nNOISE = np.random.rand()\n", "seeded or used the random numbers of numpy"),
        ("import numpy as np\nRNG = np.random.default_rng()\n", "a random generator without a seed"),
        ("import random\nRNG = random.Random()\n", "a random.Random"),
        ("import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n", "a thread"),
        ("import subprocess\nCHILD = subprocess.Popen(['sleep', '9'])\n", "started a process"),
        ("import argparse\nGIVEN = argparse.ArgumentParser().parse_known_args()\n", "helpers has read the arguments"),
        ("from experiment_manager import current_job\nJOB = current_job()\n", "asked for current_job"),
    ],
)
def test_what_a_copy_would_not_have_turns_it_off(program: Program, helpers: str, why: str) -> None:
    """A module whose import cannot be shared is said in one line, and every job is started by itself."""
    write(program, "return 1", helpers=helpers)
    (line,) = [line for line in sweep(program, "seed=1,2").splitlines() if OFF in line]
    assert why in line
    assert [1, 1] == results(program)
    assert ["job-", "launch", "multirun", "orders", "packages", "settled"] == [
        "job-",
        *sorted(p.stem for p in (program.experiment / "launches/0001").iterdir()),
    ]


@pytest.mark.parametrize(
    "helpers",
    [
        "import sys\nimport numpy as np\nRNG, NAME = np.random.default_rng(3), sys.argv[0]\n",
        "import numpy as np\nA = np.ones((300, 300)) @ np.ones((300, 300))\n",
    ],
)
def test_harmless_modules_do_not_turn_it_off(program: Program, helpers: str) -> None:
    """A generator with a seed is the same in every process, and OpenBLAS makes its threads anew after a fork."""
    write(program, "return float((helpers.np.ones((300, 300)) @ helpers.np.ones((300, 300)))[0, 0])", helpers=helpers)
    assert OFF not in sweep(program, "seed=1,2")
    assert [300.0, 300.0] == results(program)


def test_classes_of_the_script_can_be_pickled(program: Program) -> None:
    """A class of the script is found under `__main__`, also by the processes that a job makes."""
    body = """
import pickle, multiprocessing
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
    done = program.python("-m", "pkg.train", "-m", "seed=1,2")
    assert done.returncode == 0, done.stderr
    assert OFF not in done.stderr
    file = str(package / "train.py")
    assert [["__main__", "pkg.train", file, file, str(program.home)]] * 2 == results(program)
    assert "" == log(program, 0)


def test_script_without_a_guard(program: Program) -> None:
    """A script that calls its main function at the top runs once in each job, and not in the server."""
    write(program, "return cfg.seed", call="main()\n")
    assert OFF not in sweep(program, "seed=1,2,3")
    assert [1, 2, 3] == results(program)


def test_flags_of_the_interpreter(program: Program) -> None:
    """Jobs run with the flags that the sweep was started with."""
    write(program, "return [sys.flags.optimize, sys.flags.dev_mode]")
    done = program.python("-O", "-X", "dev", "app.py", "-m", "seed=1,2", "hydra.job.name=train")
    assert done.returncode == 0, done.stderr
    assert OFF not in done.stderr
    assert [[1, True], [1, True]] == results(program)


def start(program: Program, started: Path, *arguments: str) -> tuple[Any, dict[int, int]]:
    """A sweep whose first two jobs run: their pids."""
    started.mkdir()
    process = program.start("train.py", "-m", FORK, f"started='{started}'", "hydra.launcher.n_jobs=2", *arguments)
    wait_until(lambda: len(list(started.iterdir())) == 2)
    return process, dict(tuple(map(int, mark.name.split("."))) for mark in started.iterdir())  # type: ignore[misc]


def test_killed_server(program: Program, tmp_path: Path) -> None:
    """`kill -9` of the server: jobs that run go on and are waited for, the others are started, and that is said."""
    process, jobs = start(program, tmp_path / "started", "sleep=2", "seed=1,2,3")
    server = parent(parent(jobs[0]))
    assert b"running.forkserver" in Path(f"/proc/{server}/cmdline").read_bytes()
    os.kill(server, signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert 0 == process.returncode
    assert 1 == said.count(OFF)
    assert ["0.1.COMPLETED", "1.1.COMPLETED", "2.1.COMPLETED"] == program.states()


def test_killed_supervisor_of_a_forked_job(program: Program, tmp_path: Path) -> None:
    """`kill -9` of a supervisor takes its job along, which is LOST; the others are not touched."""
    process, jobs = start(program, tmp_path / "started", "sleep=2", "seed=1,2,3")
    os.kill(parent(jobs[0]), signal.SIGKILL)
    wait_until(lambda: is_gone(jobs[0]), 1.5)
    _, said = process.communicate(timeout=60)
    assert 1 == process.returncode
    assert "its supervisor was killed" in said
    assert ["0.1.LOST", "1.1.COMPLETED", "2.1.COMPLETED"] == program.states()


def test_killed_supervisor_after_its_server(program: Program, tmp_path: Path) -> None:
    """When the server is gone, the pool still learns that a supervisor has been killed."""
    process, jobs = start(program, tmp_path / "started", "sleep=2", "seed=1,2")
    supervisor = parent(jobs[0])
    os.kill(parent(supervisor), signal.SIGKILL)
    os.kill(supervisor, signal.SIGKILL)
    process.communicate(timeout=60)
    assert ["0.1.LOST", "1.1.COMPLETED"] == program.states()


def test_killed_sweep_leaves_no_server(program: Program, tmp_path: Path) -> None:
    """`kill -9` of the sweep: the server ends, and what runs, runs to its end."""
    process, jobs = start(program, tmp_path / "started", "sleep=2", "seed=1,2,3")
    server = parent(parent(jobs[0]))
    process.kill()
    process.communicate()
    wait_until(lambda: is_gone(server), 1.0)
    wait_until(lambda: ["0.1.COMPLETED", "1.1.COMPLETED"] == program.states())


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
    helpers = (
        f"import os, pathlib, sys, time\nif sys.orig_argv[1] == '-c':\n"
        f"    pathlib.Path({str(mark)!r}).write_text(str(os.getpid()))\n    time.sleep(60)\n"
    )
    write(program, "return 1", helpers=helpers)
    process = program.start("app.py", "-m", FORK, "seed=1,2", "hydra.job.name=train")
    wait_until(lambda: mark.exists() and mark.read_text())
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=5)
    assert 130 == process.returncode
    assert is_gone(int(mark.read_text()))
    assert [] == program.states()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_forked_job_hears_that_it_should_stop(program: Program, tmp_path: Path, number: signal.Signals) -> None:
    """TERM and USR1 to the supervisor reach `should_stop` of the job."""
    process, jobs = start(program, tmp_path / "started", "sleep=30", "seed=1,2", "stoppable=true")
    for pid in jobs.values():
        os.kill(parent(pid), number)
    process.communicate(timeout=60)
    assert 0 == process.returncode
    assert [{"stopped": True}] * 2 == [row["result"] for row in program.told("results")]


def test_warning_that_comes_at_once(program: Program, tmp_path: Path) -> None:
    """A warning before the job has a handler does not end it."""
    (tmp_path / "started").mkdir()
    (program.home / "helpers.py").write_text("")
    process = program.start("train.py", "-m", FORK, "seed=1,2", "sleep=2", "stoppable=true", "hydra.launcher.n_jobs=2")
    anchor = program.experiment / "states/0.1.RUNNING"
    wait_until(anchor.exists)
    os.kill(json.loads(anchor.read_text())["pid"], signal.SIGUSR1)
    process.communicate(timeout=60)
    assert ["0.1.COMPLETED", "1.1.COMPLETED"] == program.states()
    assert {"stopped": True} == program.told("results")[0]["result"]


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


def test_other_sweepers_fork_too(program: Program) -> None:
    """Hydra's own sweeper over our launcher forks its jobs, and gets the values."""
    is_forked = "b'running.forkserver' in Path('/proc/self/cmdline').read_bytes()"
    write(program, f"return os.getppid() == os.getsid(os.getppid()) and {is_forked}")
    arguments = ("hydra/sweeper=basic", "hydra.launcher.experiment_name=train", "seed=1,2", FORK)
    done = program.run("-m", *arguments, script="app.py")
    assert done.returncode == 0, done.stderr
    assert [True, True] == results(program)


def test_one_server_for_all_launches_of_a_sweep(program: Program) -> None:
    """A sweeper that proposes one job after the other has them forked by one server, from the second launch on."""
    count = str(program.home / "imports")
    helpers = f"with open({count!r}, 'a') as file:\n    file.write('x')\n"
    write(program, "return b'running.forkserver' in Path('/proc/self/cmdline').read_bytes()", helpers=helpers)
    arguments = ("hydra/sweeper=basic", "hydra.sweeper.max_batch_size=1", "hydra.launcher.experiment_name=train", FORK)
    done = program.run("-m", *arguments, "seed=1,2,3,4", script="app.py")
    assert done.returncode == 0, done.stderr
    assert [False, True, True, True] == results(program)
    assert 3 == len(Path(count).read_text())  # the sweep, the first job, the server
    assert 4 == len(list((program.experiment / "launches").iterdir()))


@pytest.mark.parametrize(
    ("home", "before", "imports"),
    [
        ("site-packages", "", 3),  # the first job, a copy of the server that tries it, the server
        ("site-packages", "os.environ['SET'] = 'before'", 7),  # six jobs, and the copy
        ("own", "", 6),
    ],
)
def test_what_libraries_import_late_is_learnt(program: Program, home: str, before: str, imports: int) -> None:
    """Parts of an installed library that a job had to import are imported for all later ones; parts of the user's own
    code, and what is imported after the program has changed its environment, are not."""
    count = program.home / "imports"
    package = program.home / home / "library"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "late.py").write_text(f"with open({str(count)!r}, 'a') as file:\n    file.write('x')\n")
    write(program, f"{before}\nimport library.late\nreturn cfg.seed", helpers="import library\n")
    said = sweep(program, "seed=range(0,6)", "hydra.launcher.n_jobs=1", PYTHONPATH=str(program.home / home))
    assert OFF not in said
    assert list(range(6)) == results(program)
    assert imports == len(count.read_text())
    kept = sorted(path.stem for path in (program.experiment / "launches/0001").iterdir())
    assert ["launch", "multirun", "orders", "packages", "settled"] == kept
