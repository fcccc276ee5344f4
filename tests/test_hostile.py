"""Whatever others have laid into the folder of an experiment: each verb ends soon, with a sentence, and changes nothing
outside of that folder."""

import json
import os
import pickle
import resource
import shutil
import signal
import stat
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from experiment_manager import Experiment
from experiment_manager.cli.main import VERBS, main
from experiment_manager.model.records import Attempt, JobId, State
from experiment_manager.store.files import temporary_name
from experiment_manager.store.launches import create_launch
from experiment_manager.store.processes import this_process
from experiment_manager.store.results import write_error, write_result
from experiment_manager.store.states import States
from tests.conftest import APP, Kept, Program, wait_until
from tests.faults import slurm_stand_in

MOST_S, MOST_BYTES = 20, 3 << 30
READING: Final[dict[str, list[str]]] = {
    "status": ["--all"],
    "jobs": ["--json"],
    "show": ["0", "--json"],
    "filter": ["0-1", "state:COMPLETED", "--dry-run"],
    "list": ["--json"],
    "results": ["--json"],
    "compare": ["--metric", "score", "--by", "lr", "--common", "--json"],
    "plot": ["--metric", "score", "--by", "lr", "--common", "--out", "{out}/figure.svg"],
    "efficiency": ["--json"],
    "report": ["--out", "{out}/report.html"],
    "search": [],
    "logs": ["0"],
    "diff": ["0", "1"],
    "archive": ["--out", "{out}/it.tar.gz"],
    "doctor": [],
    "tag": [],
    "note": [],
    "clean": ["--dry-run"],
    "mcp": [],
}
"""The verbs that only read, as they are called here."""

RUNS: Final = """
import sys
from experiment_manager import Experiment

words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
experiment = Experiment.load(words["--experiment-name"], words["--experiment-path"])
experiment.run_id(int(words["--job-id"]), lambda *_: {"score": 0.5})
"""
RUNNER: Final = ("--runner", "{home}/runner.py")
WRITING: Final[tuple[tuple[str, ...], ...]] = (
    *(("filter", "0-2,5-9"), ("search", "--stop"), ("search", "--more", "1"), ("clean", "--yes"), ("heal",)),
    *(("tag", "0-2", "best"), ("tag", "0", "best", "--remove"), ("note", "0", "diverged"), ("note", "0", "--remove")),
    *(("hold", "8"), ("release",), ("remove", "1,6", "--files", "--yes"), ("remove", "--undo"), ("cancel",)),
    *(("script", *RUNNER, "partition=main"), ("submit",), ("submit", "--test-only"), ("move", "{out}/moved")),
    *(("export", "--to", "tensorboard", "--out", "{out}/runs"),),
    *(("run", "8", *RUNNER), ("work", *RUNNER, "--where", "5-9"), ("report",)),
    ("resubmit", *RUNNER, "--launcher", "local_pool", "--yes"),
)
"""What changes an experiment, or runs jobs of it, each in a copy of its own."""

CALLS: Final = (*((verb, *rest) for verb, rest in READING.items() if verb != "mcp"), *WRITING)
"""All of them in a process that is a copy of this one; `mcp` starts one for each call."""

LAUNCHES: Final = ("0001", "0002", "0003", "0004")
FILES: Final = {
    "manifest": ["manifest.sqlite"],
    "filter": ["pass_filter.json", "slurm_config.json", "moved.json"],
    "launch": [f"launches/{launch}/launch.json" for launch in LAUNCHES],
    "of a launch": [
        f"launches/{launch}/{name}"
        for launch in LAUNCHES
        for name in ("orders.sqlite", "submission.json", "seen.json", "driver.json")
    ],
    "anchor": ["states/0.1", "states/1.1"],
    "attempt": ["jobs/0/attempt.1.json", "jobs/1/attempt.1.json"],
    "result": ["jobs/0/result.1.json", "jobs/1/error.1.json"],
    "metrics": ["jobs/0/metrics.1.jsonl"],
    "log": ["jobs/0/stdout.1.log", "jobs/8/stdout.1.log", "jobs/1/stderr.2.log"],
    "mark": ["notes/0.txt", "tags/0.best", "held/3", "warnings/0.1", "removed/1.files"],
    "code": ["tasks/0123456789abcdef.pkl", "conf/a/main/config.yaml", "launches/0001/packages.txt"],
    "proposal": ["proposals/7.json", "proposals/stopped.json", "proposals/7.configuration.json"],
    "lock": [".planning.lock", ".planning.lock.held", ".export.lock", ".moving.json"],
}
FOLDERS: Final = (
    *("states", "jobs", "jobs/0", "jobs/1", "jobs/8", "launches", *(f"launches/{launch}" for launch in LAUNCHES)),
    *("notes", "tags", "held", "removed", "warnings", "generations", "conf", "code", "tasks", "proposals", "rungs"),
)
LONG: Final = "9" * 20
NAMES: Final = (
    *(f"states/{LONG}.1", f"states/{LONG}.{LONG}", f"states/{LONG}.1.COMPLETED", f"jobs/{LONG}/result.1.json"),
    *(f"tags/{LONG}.best", f"notes/{LONG}.txt", f"proposals/{LONG}.json", f"launches/{LONG}/launch.json"),
    *(f"{place}/{LONG}" for place in ("held", "removed", "rungs")),
)
OURS: Final = ("e", "experiments", "slurm")
"""What commands may change in the folder in which all lies."""

ASKED: Final = (
    {
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    },
    {"method": "notifications/initialized"},
    {"id": 2, "method": "tools/call", "params": {"name": "status", "arguments": {"folder": "e"}}},
)


class Poison:
    """Whoever loads the pickle of this leaves a mark."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.mark,)


def sparse(path: Path) -> None:
    """What a job has printed is printed, however long it is."""
    path.touch()
    os.truncate(path, 100 << (20 if path.suffix == ".log" else 30))


def written(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content.encode(errors="surrogatepass"))


CONTENTS: Final[dict[str, Callable[[Path], object]]] = {
    "pipe": os.mkfifo,
    "folder": os.mkdir,
    "link": lambda path: path.symlink_to(os.environ["SECRET"]),
    "sparse": sparse,
    "deep": written("[" * 100_000),
    "rather deep": written('{"result": ' + '{"a":' * 400 + "1" + "}" * 401 + "\n"),
    "nan": written('{"result": NaN, "time": NaN, "start": NaN, "step": 1, "values": {"a": NaN}, "jobs": {"1": "0"}}\n'),
    "nul": written("\0" * 5000 + "\n"),
    "surrogate": written('{"result": "\\ud800", "reason": "\\ud800", "launch": "\\ud800", "jobs": {"1": "0"}}\n'),
    "raw surrogate": written('{"reason": "\ud800"}\n'),
    "digits": written(
        f'{{"jobs": {{"1": "0-{LONG}"}}, "launch": "{LONG}", "time": {LONG * 20}, "result": {LONG * 99}}}'
    ),
    "pickle": lambda path: path.write_bytes(pickle.dumps(Poison(os.environ["MARK"]))),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """An experiment of ten jobs: four have completed, two have failed, two wait, of which one was submitted by hand,
    and of one the script is written; a search beside it; and what is nobody's to change."""
    home = tmp_path_factory.mktemp("hostile") / "home"
    shutil.copytree(APP, home, ignore=shutil.ignore_patterns("__pycache__"))
    (home / "outside").mkdir()
    (home / "outside/secret").write_text("a private key")
    (home / "runner.py").write_text(RUNS)
    slurm_stand_in.install(home / "bin")
    search = ("hydra/sweeper=experiment_optuna", "hydra.sweeper.n_trials=2", "seed=range(1,9)")
    done = Program(home).sweep(*search, LIGHT="1")
    assert 0 == done.returncode, done.stderr
    experiment = Experiment(["lr", "seed"], "e", home)
    for lr in (0.1, 0.2):
        for seed in range(5):
            experiment.add_job({"lr": lr, "seed": seed}, {"lr": lr})
    experiment.save()
    folder = experiment.folder
    ends = dict.fromkeys((0, 2, 5, 7), State.COMPLETED) | dict.fromkeys((1, 6), State.FAILED)
    create_launch(folder, [Attempt(JobId(i), 1, State.PENDING) for i in ends], {"launcher": "local_pool"})
    states = States(folder)
    for job_id, state in ends.items():
        states.claim(job_id, {"launch": "0001"})
        folder.make(folder.job(job_id))
        if state is State.COMPLETED:
            write_result(folder, job_id, 1, {"score": 1.5 + job_id})
        else:
            write_error(folder, job_id, 1, ValueError("bad"))
        Path(folder.of_attempt(job_id, 1, "stdout")).write_text("said\n")
        Path(folder.of_attempt(job_id, 1, "metrics")).write_text('{"step": 1, "time": 5.0, "values": {"loss": 0.5}}\n')
        states.finish(job_id, 1, state, {"reason": "bad", "end": 9e9})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{home / 'bin'}:{os.environ['PATH']}")
        patch.setenv("FAULTS_SLURM", str(home / "slurm"))
        for job_id in (3, 4, 8):
            experiment.save_pass_filter([job_id])
            (script,) = experiment.generate_slurm_script(str(home / "runner.py"), overrides={"partition": "main"})
            if job_id == 3:
                experiment.submit()
            elif job_id == 4:
                subprocess.run(["sbatch", script], check=True, capture_output=True)
        searched = Experiment.at(home / "experiments/train")
        searched.save_pass_filter(range(2))
        searched.generate_slurm_script(rerun="always", overrides={"partition": "main"})
    experiment.save_pass_filter(range(10))
    return Kept(home)


@pytest.fixture
def home(good: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which all of that lies, as it was."""
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    monkeypatch.setenv("SECRET", str(good.home / "outside/secret"))
    monkeypatch.setenv("FAULTS_SLURM", str(good.home / "slurm"))
    monkeypatch.setenv("PATH", f"{good.home / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("LIGHT", "1")
    monkeypatch.chdir(tmp_path)
    good.put_back()
    yield good.home
    assert not (tmp_path / "mark").exists()


def call(words: Sequence[str], home: Path, out: Path, *, most_s: int = MOST_S) -> tuple[int, str]:
    """The exit status of a verb, in a process of its own that may take so much time and memory, and what it said."""
    verb, *rest = words
    said, (asks, asked) = out / "said", os.pipe()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    place = home / {"list": "", "mcp": "", "search": "experiments/train", "move": "experiments/train"}.get(verb, "e")
    pid = os.fork()
    if not pid:
        status = 99
        try:
            with said.open("wb", buffering=0) as file:
                for standard, handle in enumerate((asks, file.fileno(), file.fileno())):
                    os.dup2(handle, standard)
                os.close(asked)
                sys.stdin = os.fdopen(0, closefd=False)
                sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
                resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(most_s)
                status = main([verb, str(place), *(word.format(out=out, home=home) for word in rest)])
                sys.stdout.flush()
        except BaseException:
            os.write(2, traceback.format_exc().encode(errors="replace"))
        finally:
            os._exit(status)
    os.close(asks)
    with os.fdopen(asked, "w") as file:
        if verb == "mcp":
            file.writelines(json.dumps({"jsonrpc": "2.0", **one}) + "\n" for one in ASKED)
            file.flush()
            wait_until(lambda: said.exists() and f'"id":{ASKED[-1]["id"]},' in said.read_text(), most_s)
    _, ended = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(ended), said.read_text(errors="replace")


def outside(home: Path) -> dict[str, tuple[int, object]]:
    """Everything beside the experiments: its mode, and what is in it."""
    found = [home, *(path for top in home.iterdir() if top.name not in OURS for path in (top, *top.rglob("*")))]
    about = {path: path.lstat().st_mode for path in found}
    return {
        str(path): (mode, path.read_bytes() if stat.S_ISREG(mode) else path.is_symlink() and path.readlink())
        for path, mode in about.items()
    }


def ends_well(words: Sequence[str], home: Path, out: Path, *, most_s: int = MOST_S) -> None:
    """A verb ends with a status of ours, without a traceback, tells nothing of what is outside, and changes nothing
    there."""
    before = outside(home)
    status, said = call(words, home, out, most_s=most_s)
    assert status in (0, 1, 2, 3), (words, status, said[-2000:])
    assert "Traceback" not in said, (words, said[-2000:])
    assert "a private key" not in said, (words, said[-2000:])
    assert before == outside(home), words


def replaced(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    CONTENTS[kind](path)


def all_replaced(home: Path, first: int) -> None:
    """In the place of all records but the manifest there is something else, in turn, and all names that have an id have
    one of twenty digits, too."""
    kinds = deque(CONTENTS)
    kinds.rotate(first)
    for name in (name for files in FILES.values() for name in files if name != "manifest.sqlite"):
        for experiment in (home / "e", home / "experiments/train"):
            replaced(experiment / name, kinds[0])
        kinds.rotate()
    for name in NAMES:
        for experiment in (home / "e", home / "experiments/train"):
            path = experiment / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


def test_each_verb_is_one_that_reads_or_writes() -> None:
    """A verb that is added is added here."""
    assert {verb for verbs in VERBS.values() for verb in verbs} | {"run"} == {*READING} | {
        words[0] for words in WRITING
    }


def test_as_it_is_all_of_it_is_told(home: Path, tmp_path: Path) -> None:
    """The calls of these tests are such that work."""
    answers = {verb: call((verb, *rest), home, tmp_path / "out") for verb, rest in READING.items()}
    assert {"doctor"} == {verb for verb, (status, _) in answers.items() if status}, answers  # of what was not submitted
    assert '\\"counts\\"' in answers["mcp"][1]


def test_as_it_is_all_of_it_is_done(home: Path, good: Kept, tmp_path: Path) -> None:
    """Those that write, too, each of an experiment that is as it was, and change nothing outside of it."""
    failed = {}
    for words in WRITING:
        good.put_back()
        before = outside(home)
        status, said = call(words, home, tmp_path / "out")
        if status or before != outside(home):
            failed[words] = (status, said)
    assert {} == failed


@pytest.mark.parametrize("first", [0, 4, 8])
def test_records_of_others_end_no_verb(home: Path, tmp_path: Path, first: int) -> None:
    """Pipes, links, huge files, pickles and texts of any shape, in the place of all records but the manifest at once,
    and ids of twenty digits in all names that have one."""
    all_replaced(home, first)
    for verb, rest in READING.items():
        ends_well((verb, *rest), home, tmp_path / "out")


def test_records_of_others_end_no_verb_that_writes(home: Path, good: Kept, tmp_path: Path) -> None:
    """The same, with the kinds in other places for each verb."""
    for first, words in enumerate(WRITING):
        good.put_back()
        all_replaced(home, first)
        ends_well(words, home, tmp_path / "out")


@pytest.mark.heavy
@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("record", FILES)
def test_each_record_of_others_ends_no_verb(home: Path, good: Kept, tmp_path: Path, record: str, kind: str) -> None:
    """The same in the place of each kind of record by itself, so that nothing hides what comes after it."""
    for number, words in enumerate(CALLS):
        if number == 0 or words in WRITING:
            good.put_back()
            for experiment in (home / "e", home / "experiments/train"):
                for name in FILES[record]:
                    replaced(experiment / name, kind)
        ends_well(words, home, tmp_path / "out")


CALLED: Final = {"_target_": "os.mkdir", "path": "{mark}"}
FILTERS: Final[dict[str, tuple[dict[str, Any], int, str]]] = {
    "how": ({"format": 1, "jobs": [8], "filter": [CALLED, "os.mkdir"], **CALLED}, 0, ""),
    "jobs": ({"format": 1, "jobs": CALLED}, 2, "save the pass filter again"),
    "an id": ({"format": 1, "jobs": [8, CALLED]}, 2, "save the pass filter again"),
}
"""What somebody has written into a pass filter, by where a function stands in it; how `run` ends, and what it says."""


@pytest.mark.parametrize("where", FILTERS)
@pytest.mark.parametrize(
    "calls",
    [
        (("status", "--all"), ("filter", "0-1", "--dry-run"), ("work", *RUNNER)),
        pytest.param(CALLS, marks=pytest.mark.heavy),
    ],
    ids=["some", "all"],
)
def test_a_filter_of_others_calls_nothing(
    home: Path, good: Kept, tmp_path: Path, where: str, calls: Sequence[Sequence[str]]
) -> None:
    """A function that a pass filter names is called by no verb, wherever in it that stands; where it stands for the
    jobs that may run, none does, and a sentence says what to do."""
    body, ends, sentence = FILTERS[where]
    text = json.dumps(body).replace("{mark}", os.environ["MARK"])
    for words in (("run", "8", *RUNNER), *calls):
        good.put_back()
        for experiment in (home / "e", home / "experiments/train"):
            (experiment / "pass_filter.json").write_text(text)
        if words[0] == "run":
            status, said = call(words, home, tmp_path / "out")
            assert (ends, True) == (status, sentence in said), said
        else:
            ends_well(words, home, tmp_path / "out")
        assert not Path(os.environ["MARK"]).exists(), words


def led_out(home: Path, names: Sequence[str], *, whose: int) -> list[Path]:
    """These folders of the experiments are links of a user's to what is outside, where what was in them lies, beside
    files that are returned."""
    theirs = []
    for experiment in (home / "e", home / "experiments/train"):
        for name in (*FILES["mark"], "states/.keep", "jobs/0/.keep"):
            (experiment / name).parent.mkdir(exist_ok=True)
            (experiment / name).touch()
        for path in experiment.glob("launches/*/seen*.json"):
            path.unlink()
        for name in names:
            path, target = experiment / name, home / "outside" / experiment.name / name
            for made in (path, target.parent):
                made.mkdir(parents=True, exist_ok=True)
            path.rename(target)
            left = os.path.basename(temporary_name("1.json")).replace(f"-{os.getpid()}-", "-4194305-")
            for place in (target, *(inner for inner in target.iterdir() if inner.is_dir())):
                (place / left).touch()
                (place / "driver.json").write_text(json.dumps({**this_process(), "pid": 4194305}))
            theirs.append(target / "thesis.tex")
            theirs[-1].write_text("ten years of work")
            path.symlink_to(target)
            os.lchown(path, whose, whose)
    return theirs


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a link that is another user's")
@pytest.mark.parametrize(
    ("calls", "is_inner"),
    [
        (WRITING, False),
        pytest.param(CALLS, False, marks=pytest.mark.heavy),
        pytest.param(CALLS, True, marks=pytest.mark.heavy),
    ],
)
def test_links_of_others_lead_no_verb_out(
    home: Path, good: Kept, tmp_path: Path, calls: Sequence[Sequence[str]], *, is_inner: bool
) -> None:
    """Whichever folder of an experiment is a link of another user's to a place outside, no verb adds, changes or
    removes anything there."""
    for words in calls:
        good.put_back()
        led_out(home, [name for name in FOLDERS if ("/" in name) == is_inner], whose=65534)
        ends_well(words, home, tmp_path / "out")


@pytest.mark.heavy
@pytest.mark.parametrize("is_inner", [False, True])
def test_our_own_links_cost_nothing_beside_the_experiment(
    home: Path, good: Kept, tmp_path: Path, *, is_inner: bool
) -> None:
    """A folder of an experiment that we have laid elsewhere is used there, and files that are none of the experiment's
    stay there as they are."""
    for words in CALLS:
        good.put_back()
        theirs = led_out(home, [name for name in FOLDERS if ("/" in name) == is_inner], whose=os.geteuid())
        status, said = call(words, home, tmp_path / "out")
        assert "Traceback" not in said, (words, said)
        assert status in (0, 1, 2, 3), (words, status, said)
        assert {"ten years of work"} == {path.read_text() for path in theirs}, words


RUNS_JOBS: Final = ("work", "run", "resubmit")


@pytest.mark.heavy
def test_only_what_runs_jobs_runs_what_a_record_names(home: Path, good: Kept, tmp_path: Path) -> None:
    """The program of a sweep, the runner that is configured, the scripts of launches, and modules that lie in the
    experiment or where it is called from are run by no verb but those that run jobs."""
    modules = ("experiment_manager", "hydra", "yaml", "numpy", "sitecustomize")
    for words in (words for words in CALLS if words[0] not in RUNS_JOBS):
        good.put_back()
        programs = {home / "runner.py", home / "train.py", tmp_path / "evil.py"}
        for experiment in (home / "e", home / "experiments/train"):
            programs |= {place / f"{name}.py" for place in (tmp_path, experiment, home) for name in modules}
            for script in experiment.rglob("*.sh"):
                script.write_text(f"{script.read_text()}\nmkdir {os.environ['MARK']}\n")
            (experiment / "slurm_config.json").write_text(
                json.dumps({"python_runner": str(tmp_path / "evil.py"), "partition": "main"})
            )
        for program in programs:
            program.write_text(f"import os; os.mkdir({os.environ['MARK']!r})\n")
        ends_well(words, home, tmp_path / "out")
        assert not Path(os.environ["MARK"]).exists(), words


@pytest.mark.heavy
@pytest.mark.parametrize("place", ["states", "jobs"])
def test_a_million_names_take_seconds_and_no_memory(home: Path, tmp_path: Path, place: str) -> None:
    """However many attempts, or files that are none of ours, somebody has named in a folder, each verb answers."""
    ending = ("1", "1.COMPLETED") if place == "states" else ("txt", "log")
    handle = os.open(home / "e" / place, os.O_RDONLY)
    for number in range(500_000):
        for end in ending:
            os.close(os.open(f"{number + 10}.{end}", os.O_CREAT | os.O_WRONLY, dir_fd=handle))
    os.close(handle)
    for words in CALLS:
        ends_well(words, home, tmp_path / "out", most_s=600 if words[0] == "archive" else 60)  # which packs them
