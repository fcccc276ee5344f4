"""`experiment-manager work` and `Experiment.run`: jobs run here, shared with whoever else works on the experiment."""

import json
import os
import pickle
import signal
import subprocess
import sys
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

from experiment_manager import Experiment, State
from experiment_manager.errors import ExperimentManagerError
from experiment_manager.store.processes import JOB_VARIABLE
from experiment_manager.store.states import States
from tests.conftest import Program, clean_env, files_below, in_shape, wait_until

RUNNER = """
import os, signal, sys, time
from pathlib import Path
from experiment_manager.execution import current_job
from experiment_manager.execution.in_process import attempting
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest

words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder, job_id = Folder(words["--experiment-path"], words["--experiment-name"]), int(words["--job-id"])
with Manifest(folder) as manifest:
    configuration = manifest.configuration(job_id)
with attempting(folder, job_id) as attempt:
    home = Path(sys.argv[0]).parent
    if configuration.get("is_deaf"):
        signal.signal(signal.SIGINT, lambda *_: (home / f"told.{job_id}").touch())
    with open(home / "begun", "a") as file:
        file.write(f"{job_id} {os.getpid()} {os.getppid()}\\n")
    while configuration.get("waits") and not (home / "go").exists():
        time.sleep(0.02)
    if configuration.get("fails"):
        raise ValueError("as it was configured")
    attempt.leave({"gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "")})
"""


@pytest.fixture
def home(tmp_path: Path) -> Program:
    """A program that has a runner, and an experiment to be defined by `define`."""
    (tmp_path / "runner.py").write_text(RUNNER)
    return Program(tmp_path)


def define(home: Program, *configurations: dict[str, Any]) -> Experiment:
    """Jobs with these configurations, all of which may run."""
    experiment = Experiment(["number"], "train", home.home / "experiments")
    for number, configuration in enumerate(configurations):
        experiment.add_job({"number": number}, configuration)
    experiment.save()
    experiment.save_pass_filter(experiment.get_all_ids())
    return experiment


def start(home: Program, *options: str) -> "subprocess.Popen[str]":
    """`work` in the background."""
    words = ("-m", "experiment_manager", "work", str(home.experiment), "--runner", "runner.py")
    return home.start(*words, *options)


def begun(home: Program) -> list[list[int]]:
    """Each start of a job: its id, its process, and the one that runs it."""
    path = home.home / "begun"
    return [[int(word) for word in line.split()] for line in path.read_text().splitlines()] if path.exists() else []


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_there(pid: int) -> bool:
    """Whether a process runs; one that has ended, and nobody has asked how, has no words any more."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False


def test_two_share_all_jobs(home: Program) -> None:
    """Two that work on one experiment at once share its jobs: each has some, and each job runs once."""
    define(home, *[{"waits": True}] * 16)
    both = [start(home, "--jobs", "2", "--json") for _ in range(2)]
    wait_until(lambda: len(begun(home)) == 4)
    (home.home / "go").touch()
    ended = [json.loads(work.communicate(timeout=120)[0])["jobs"] for work in both]
    assert [0, 0] == [work.returncode for work in both]
    assert all(ended)
    assert list(range(16)) == sorted(end["job_id"] for ends in ended for end in ends)
    assert {("COMPLETED", 1)} == {(end["state"], end["attempt"]) for ends in ended for end in ends}
    assert [1] * 16 == list(Counter(job_id for job_id, *_ in begun(home)).values())
    assert sorted(f"{job_id}.1.COMPLETED" for job_id in range(16)) == home.states()


def test_what_is_to_run(home: Program) -> None:
    """Run are jobs that pass the filter and `--where`, no more than `--max-jobs`, and what failed again unless
    `--rerun` says otherwise; the status tells whether all of them completed."""
    define(home, {}, {"fails": True}, *[{}] * 5).save_pass_filter(range(6))
    done = home.tool("work", "--runner", "runner.py", "--where", "number > 2", "--jobs", "2", "--max-jobs", "2")
    assert (0, 2) == (done.returncode, len(home.states())), done.stderr
    assert "3 jobs to run, 2 of them at most, 2 at a time" in done.stderr
    assert "2 jobs of" in done.stdout
    assert "1 job left (max_jobs=2): " in done.stdout
    done = home.tool("work", "--json")
    assert 1 == done.returncode
    states = {end["job_id"]: (end["state"], end["reason"]) for end in json.loads(done.stdout)["jobs"]}
    assert 4 == len(states)
    assert {1: ("FAILED", "ValueError: as it was configured")} == {
        job_id: end for job_id, end in states.items() if end != ("COMPLETED", None)
    }
    assert 6 == len(home.states())
    assert "the jobs that pass have ended (rerun=never), run, or wait" in home.tool("work", "--rerun", "never").stdout
    assert 1 == home.tool("work").returncode
    assert {"1.1.FAILED", "1.2.FAILED"} < set(home.states())


def test_no_job_begins_that_could_not_end(home: Program) -> None:
    """By the time limit of jobs, none begins that could last beyond `--until`: all are left, and that is no failure."""
    define(home, {}, {})
    until = datetime.now() + timedelta(seconds=60)
    words = ("--runner", "runner.py", "--until", until.isoformat(), "--job-timeout-min", "5")
    done = home.tool("work", *words, "--json")
    assert (0, []) == (done.returncode, home.states())
    assert {"launch": "0001", "jobs": [], "left": [0, 1]} == in_shape("work", done.stdout)
    assert f"2 jobs left (no time for them until {until:%H:%M}): 0-1" in home.tool("work", *words).stdout


def test_a_job_that_runs_too_long(home: Program) -> None:
    """It is told to end, and the next one runs."""
    define(home, {"waits": True}, {})
    done = home.tool("work", "--runner", "runner.py", "--job-timeout-min", "0.1", "--jobs", "2")
    assert (1, ["0.1.TIMEOUT", "1.1.COMPLETED"]) == (done.returncode, home.states())


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_gpus_are_dealt_out(home: Program, jobs: str) -> None:
    """Each job sees its share, also where one runs at a time."""
    experiment = define(home, {}, {}, {})
    words = ("--runner", "runner.py", "--gpus-per-job", "1", "--jobs", jobs)
    assert 0 == home.tool("work", *words, CUDA_VISIBLE_DEVICES="4,7").returncode
    seen = {row["result"]["gpus"] for row in experiment.result_rows()}
    assert {"4"} == seen if jobs == "1" else {"4", "7"} >= seen


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals(home: Program, number: signal.Signals, status: int) -> None:
    """Ctrl-C, TERM and HUP end the running jobs as CANCELLED, and begin no others; a second one kills."""
    define(home, *[{"waits": True, "is_deaf": number is signal.SIGINT}] * 4)
    work = start(home, "--jobs", "2")
    jobs = wait_until(lambda: len(begun(home)) == 2 and begun(home))
    work.send_signal(number)
    if number is signal.SIGINT:
        wait_until(lambda: len(list(home.home.glob("told.*"))) == 2)
        work.send_signal(number)
    _, said = work.communicate(timeout=60)
    assert (status, 2) == (work.returncode, len(home.states()))
    assert 1 == said.count("ending the jobs that run here, for up to 20 s; Ctrl-C again kills what is left\n")
    assert "2 jobs cancelled; the same command runs what is left" in said
    assert {"CANCELLED"} == {name.split(".")[2] for name in home.states()}
    assert not any(is_there(pid) for _, pid, _ in jobs)


def test_resubmit_is_stopped_like_work(home: Program) -> None:
    """After `work`, `resubmit` runs jobs again here, as many at a time; Ctrl-C ends it with a sentence, too."""
    define(home, *[{"waits": True, "fails": True}] * 2)
    (home.home / "go").touch()
    assert 1 == home.tool("work", "--runner", "runner.py", "--jobs", "2").returncode
    (home.home / "go").unlink()
    again = home.start("-m", "experiment_manager", "resubmit", str(home.experiment), "--yes")
    wait_until(lambda: len(begun(home)) == 4)
    again.send_signal(signal.SIGINT)
    said = again.communicate(timeout=60)[1]
    assert 130 == again.returncode
    assert "ending 2 jobs, for up to 20 s; Ctrl-C again kills what is left\n" in said
    assert "stopped by SIGINT: 2 jobs cancelled; the same command runs what is left" in said
    record = json.loads((home.experiment / "launches/0002/launch.json").read_text())
    assert ("local_pool", 2) == (record["launcher"], record["options"]["n_jobs"])


@pytest.mark.parametrize("victim", ["work", "worker", "lane"])
def test_a_killed_process(home: Program, victim: str) -> None:
    """With whoever has started it, or its parent, a lane ends its job, as CANCELLED; a lane that is killed itself takes
    its job along, which is LOST. Nothing runs on."""
    define(home, *[{"waits": True}] * 3)
    work = start(home, "--jobs", "2")
    jobs = wait_until(lambda: len(begun(home)) == 2 and begun(home))
    lanes = [lane for _, _, lane in jobs]
    os.kill({"work": work.pid, "worker": parent_of(lanes[0]), "lane": lanes[0]}[victim], signal.SIGKILL)
    if victim == "lane":
        wait_until(lambda: not is_there(jobs[0][1]))
        (home.home / "go").touch()
    _, said = work.communicate(timeout=60)
    wait_until(lambda: not any(is_there(pid) for job in jobs for pid in job[1:]))
    first, second = jobs[0][0], jobs[1][0]
    states = States(Experiment.at(home.experiment).folder).table(reconcile=True)
    wanted = ("LOST", "COMPLETED") if victim == "lane" else ("CANCELLED", "CANCELLED")
    assert wanted == (states.state(first), states.state(second))
    if victim != "work":
        assert 1 == work.returncode
        assert ("its supervisor was killed" if victim == "lane" else "the worker was ended by SIGKILL") in said


SCRIPT = """
import sys
from experiment_manager import Experiment

exp = Experiment.at("experiments/train")
gain = 10

def run(job_id, variables, configuration):
    if configuration.get("fails") and "again" not in sys.argv and not open("mended").close():
        raise AssertionError
    return {"gained": gain * variables["number"], "configuration": configuration}

print(exp.run(run, n_jobs=2))
"""


def test_a_function_as_the_runner(home: Program) -> None:
    """A function of the script is called in processes of its own, without the script being run again; what it returns
    is the result, and what failed is run again by it, too, though no command line names it."""
    experiment = define(home, {}, {"a": 1}, {"fails": True})
    (home.home / "script.py").write_text(SCRIPT)
    done = home.run(script="script.py")
    assert done.returncode == 0, done.stderr
    assert "Worked(2 COMPLETED, 1 FAILED in launch 0001)" == done.stdout.strip()
    assert {"gained": 10, "configuration": {"a": 1}} == experiment.result_rows()[1]["result"]
    (home.home / "mended").touch()
    (home.home / "script.py").write_text(SCRIPT.replace("raise AssertionError", "return 3"))
    assert 1 == home.tool("resubmit", "--yes").returncode  # by the function as it was pickled
    assert ["0.1.COMPLETED", "1.1.COMPLETED", "2.1.FAILED", "2.2.FAILED"] == home.states()
    assert "Worked(1 COMPLETED in launch 0003)" == home.run(script="script.py").stdout.strip()
    assert "local_pool" == json.loads((home.experiment / "launches/0002/launch.json").read_text())["launcher"]


MODES = """
from enum import Enum

class Mode(Enum):
    FAST = 1
    SLOW = 2
"""

OF_MODES = """
from enum import IntFlag
from experiment_manager import Experiment
from modes import Mode

class Way(IntFlag):
    OUT = 1
    BACK = 2

class Manifest(IntFlag):
    SIGNED = 1

class Model:
    class Head(IntFlag):
        WIDE = 1

    class Parts:
        class Tail(IntFlag):
            LONG = 1

def told(way):
    return type(way).__name__, int(way)

def run(number, variables, configuration):
    mode = variables["mode"]
    is_same = mode is configuration["modes"][0] is configuration["modes"][1][0]
    return {"mode": repr(mode), "same": is_same, "way": told(configuration["way"]), "runs": RUNS,
            "more": [told(one) for one in configuration["more"]]}

if __name__ == "__main__":
    experiment = Experiment(["mode"], "train", "experiments")
    for mode in Mode:
        experiment.add_job({"mode": mode}, {"modes": [mode, (mode,)], "way": Way.OUT | Way.BACK,
            "more": [Manifest.SIGNED, Model.Head.WIDE, Model.Parts.Tail.LONG]})
    experiment.save()
    experiment.save_pass_filter(experiment.get_all_ids())
    experiment.run(run)
"""


@pytest.mark.parametrize("runs", ["1", "Mode.__name__ and Way.__name__"])
def test_enums_are_themselves_in_a_function(home: Program, runs: str) -> None:
    """The runner gets members of enums, not their names: of a module, and of the program itself, which no job imports,
    also in its classes, whether the runner names the class or not."""
    (home.home / "modes.py").write_text(MODES)
    (home.home / "define.py").write_text(OF_MODES.replace("RUNS", runs))
    done = home.run(script="define.py")
    assert 0 == done.returncode, done.stderr
    results = Experiment.load("train", home.home / "experiments").result_rows()
    assert ["<Mode.FAST: 1>", "<Mode.SLOW: 2>"] == [row["result"]["mode"] for row in results]
    assert [(True, ["Way", 3])] * 2 == [(row["result"]["same"], list(row["result"]["way"])) for row in results]
    assert [[["Manifest", 1], ["Head", 1], ["Tail", 1]]] * 2 == [[*map(list, row["result"]["more"])] for row in results]


OF_A_FUNCTION = """
from experiment_manager import Experiment

def local():
    from enum import Enum

    class Mode(Enum):
        FAST = 1

    return Mode.FAST

experiment = Experiment(["mode"], "train", "experiments")
experiment.add_job({"mode": local()}, {})
experiment.save()
experiment.save_pass_filter([0])
"""


@pytest.mark.parametrize("place", ["a module that changed", "a module that ends", "another program", "a function"])
def test_an_enum_that_is_not_found_is_text(home: Program, place: str) -> None:
    """A job whose enum cannot be had runs with the name of the member, and its log tells so, once."""
    (home.home / "modes.py").write_text(MODES)
    source = OF_MODES.replace("    experiment.run(run)", "")
    if place == "another program":
        source = source.replace("from modes import Mode", MODES)
    (home.home / "define.py").write_text(OF_A_FUNCTION if place == "a function" else source)
    assert 0 == home.run(script="define.py").returncode
    (home.home / "modes.py").write_text("raise SystemExit(3)" if place == "a module that ends" else "Mode = None")
    done = Experiment.load("train", home.home / "experiments").run(
        lambda _, variables, __: variables["mode"], where="0"
    )
    assert [State.COMPLETED] == [end.state for end in done.ran]
    assert {"result": "FAST"} == Experiment.load("train", home.home / "experiments").result_rows()[0]["result"]
    log = next((home.experiment / "jobs/0").glob("stderr*")).read_text()
    assert 1 == log.count("Mode, whose class is not found")
    assert "Traceback" not in log


OF_WAYS = """
from enum import Enum
from experiment_manager import Experiment

class Way(Enum):
    OUT = 1

def run(number, variables, configuration):
    open("mended").close()
    return repr(configuration["way"])

experiment = Experiment(["seed"], "train", "experiments")
experiment.add_job({"seed": 1}, {"way": Way.OUT})
experiment.save()
experiment.save_pass_filter([0])
experiment.run(run)
"""


@pytest.mark.parametrize("end", [b"", b"no pickle"])
def test_a_function_that_another_version_has_pickled_runs(home: Program, end: bytes) -> None:
    """Without the enums of the program behind the function, the job has their names as text, as it had then."""
    (home.home / "script.py").write_text(OF_WAYS)
    assert 0 == home.run(script="script.py").returncode
    assert ["0.1.FAILED"] == home.states()
    (task,) = (home.experiment / "tasks").iterdir()
    with task.open("rb") as file:
        pickle.load(file)
        pickle.load(file)
        kept = file.tell()
    task.write_bytes(task.read_bytes()[:kept] + end)
    (home.home / "mended").touch()
    assert 0 == home.tool("resubmit", "--yes").returncode
    assert {"result": "'OUT'"} == Experiment.load("train", home.home / "experiments").result_rows()[0]["result"]


def test_a_script_as_the_runner(home: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python gets what the command prints; with nothing to run, no launch is made."""
    experiment = define(home, {}, {})
    monkeypatch.chdir(home.home)
    done = experiment.run(Path("runner.py"), where="number == 1")
    assert "Worked(1 COMPLETED in launch 0001)" == repr(done)
    assert [(1, 1, State.COMPLETED, None)] == [end[:4] for end in done.ran]
    assert "Worked(nothing to run)" == repr(experiment.run("runner.py", where="number == 1"))
    assert ["0001"] == os.listdir(home.experiment / "launches")


MISTAKES = {
    "--jobs 0": "n_jobs=0 runs nothing; use 1 or more, or -1",
    "--max-jobs 0": "max_jobs=0 runs nothing",
    "--until soon": "until=soon is no time; write a time of day, such as 18:00",
    "--until 2020-01-01T18:00": "that time has passed",
    "--gpus-per-job 9": "gpus_per_job=9: ",
    "--where number==9": "nothing passes the filter",
    "--where nmuber==0": "is no variable",
    "--rerun maybe": "rerun=maybe is not known; use failed, never, always",
    "--job-timeout-min 0": "job_timeout_min: 0.0 is no time limit",
    "--runner no.py": "the runner no.py is neither in",
    "": "name the script that runs it",
}


def test_mistakes(home: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be meant gets a sentence and the exit status 2, and nothing is written."""
    experiment = define(home, {})
    before = files_below(home.experiment)
    for words, sentence in MISTAKES.items():
        done = home.tool("work", *words.split())
        assert (2, 1) == (done.returncode, done.stderr.count("\n")), done.stderr
        assert sentence in done.stderr
    lock = Lock()
    with pytest.raises(ExperimentManagerError, match=r"cannot be pickled .* name a script"):
        experiment.run(lambda *_: lock.locked())
    for option, value in {"n_jobs": 1.5, "max_jobs": "3", "gpus_per_job": "1", "until": 18, "rerun": True}.items():
        with pytest.raises(ExperimentManagerError, match=f"^{option}="):
            experiment.run("runner.py", **{option: value})  # type: ignore[arg-type]
    for runner in (3, "", ["runner.py"]):
        with pytest.raises(ExperimentManagerError, match="is neither a script nor a function"):
            experiment.run(runner)  # type: ignore[arg-type]
    with pytest.raises(ExperimentManagerError, match="print a single job with run_id"):
        experiment.run(experiment.fake_runner)
    monkeypatch.setenv(JOB_VARIABLE, "3")
    with pytest.raises(ExperimentManagerError, match="is job 3 of an experiment and must not run others"):
        experiment.run("runner.py")
    assert before == files_below(home.experiment)


def test_a_launch_has_its_own_workers(home: Program) -> None:
    """`run --worker` without the name of an array is for a launch that was made by `work`."""
    define(home, {})
    assert 0 == home.tool("work", "--runner", "runner.py").returncode
    record = home.experiment / "launches/0001/launch.json"
    record.write_text(record.read_text().replace('"work"', '"local_pool"'))
    where = ("--experiment-path", str(home.experiment.parent), "--experiment-name", "train", "--launch", "0001")
    done = subprocess.run(
        [sys.executable, "-m", "experiment_manager", "run", *where, "--worker", "0"],
        capture_output=True, text=True, env=clean_env(), check=False,
    )  # fmt: skip
    assert 2 == done.returncode
    assert "has no worker by hand" in done.stderr


def test_a_lane_that_cannot_go_on_says_why() -> None:
    """Each is a process of its own, and nobody else would tell."""
    code = (
        "from types import SimpleNamespace\n"
        "from experiment_manager.errors import FolderError\n"
        "from experiment_manager.execution.run import run_lanes\n"
        "def run_lane(lane):\n"
        "    raise FolderError(f'states/ cannot be read: lane {lane}')\n"
        "raise SystemExit(run_lanes(SimpleNamespace(n_lanes=2, gpus_per_job=None, run_lane=run_lane)).status)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    said = sorted(done.stderr.splitlines())
    assert (2, [f"error: states/ cannot be read: lane {lane}" for lane in range(2)]) == (done.returncode, said)
