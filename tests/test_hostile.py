"""Whatever others have laid into the folder of an experiment: each verb that reads it ends soon, with a sentence."""

import os
import pickle
import resource
import shutil
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from experiment_manager import Experiment
from experiment_manager.cli.main import VERBS, main
from experiment_manager.model.records import Attempt, JobId, State
from experiment_manager.store.launches import create_launch
from experiment_manager.store.results import write_error, write_result
from experiment_manager.store.states import States

MOST_S, MOST_BYTES = 20, 3 << 30
READING: Final[dict[str, list[str]]] = {
    "status": ["--all"],
    "jobs": ["--json"],
    "show": ["0", "--json"],
    "filter": ["0-1", "state:COMPLETED", "--dry-run"],
    "list": ["--json"],
    "results": ["--json"],
    "compare": ["--metric", "score", "--by", "seed"],
    "plot": ["--out", "{out}/figure.svg"],
    "efficiency": ["--json"],
    "report": ["--out", "{out}/report.html"],
    "search": [],
    "logs": ["0"],
    "diff": ["0", "1"],
    "archive": ["--out", "{out}/it.tar.gz"],
    "doctor": [],
    "tag": [],
    "note": [],
    "resubmit": ["--launcher", "local_pool"],
    "clean": ["--dry-run"],
}
"""The verbs that only read, as they are called here, and two that ask before they do anything."""

WRITING: Final = {
    *("export", "work", "script", "submit", "cancel", "heal", "move", "hold", "release", "remove", "mcp"),
}

FILES: Final = {
    "manifest": ["manifest.sqlite"],
    "filter": ["pass_filter.json", "slurm_config.json", "moved.json"],
    "launch": ["launches/0001/launch.json"],
    "of a launch": [
        f"launches/0001/{name}" for name in ("orders.sqlite", "submission.json", "seen.json", "driver.json")
    ],
    "anchor": ["states/0.1", "states/1.1"],
    "attempt": ["jobs/0/attempt.1.json", "jobs/1/attempt.1.json"],
    "result": ["jobs/0/result.1.json", "jobs/1/error.1.json"],
    "metrics": ["jobs/0/metrics.1.jsonl"],
    "mark": ["notes/0.txt", "tags/0.best", "held/1", "warnings/0.1", "removed/1.files"],
    "code": ["tasks/0123456789abcdef.pkl", "conf/a/main/config.yaml", "launches/0001/packages.txt"],
    "proposal": ["proposals/7.json", "proposals/stopped.json", "proposals/7.configuration.json"],
}
LONG: Final = "9" * 20
NAMES: Final = (
    *(f"states/{LONG}.1", f"states/{LONG}.{LONG}", f"states/{LONG}.1.COMPLETED", f"jobs/{LONG}/result.1.json"),
    *(f"tags/{LONG}.best", f"notes/{LONG}.txt", f"proposals/{LONG}.json", f"launches/{LONG}/launch.json"),
    *(f"{place}/{LONG}" for place in ("held", "removed", "rungs")),
)


class Poison:
    """Whoever loads the pickle of this leaves a mark."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.mark,)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 100 << 30)


def written(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content.encode(errors="surrogatepass"))


CONTENTS: Final[dict[str, Callable[[Path], object]]] = {
    "pipe": os.mkfifo,
    "folder": os.mkdir,
    "link": lambda path: path.symlink_to(path.parents[len(path.parts) - 1 - path.parts.index("e")].parent / "secret"),
    "sparse": sparse,
    "deep": written("[" * 100_000),
    "rather deep": written('{"result": ' + '{"a":' * 400 + "1" + "}" * 401 + "\n"),
    "nul": written("\0" * 5000 + "\n"),
    "surrogate": written('{"result": "\\ud800", "reason": "\\ud800", "launch": "\\ud800", "jobs": {"1": "0"}}\n'),
    "raw surrogate": written('{"reason": "\ud800"}\n'),
    "digits": written(
        f'{{"jobs": {{"1": "0-{LONG}"}}, "launch": "{LONG}", "time": {LONG * 20}, "result": {LONG * 99}}}'
    ),
    "pickle": lambda path: path.write_bytes(pickle.dumps(Poison(os.environ["MARK"]))),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment of three jobs, of which one has completed and one has failed, in a launch of a pool."""
    home = tmp_path_factory.mktemp("hostile")
    (home / "secret").write_text("a private key")
    experiment = Experiment(["seed"], "e", home)
    for seed in range(3):
        experiment.add_job({"seed": seed}, {"lr": 0.1})
    experiment.save()
    experiment.save_pass_filter(range(3))
    folder = experiment.folder
    create_launch(folder, [Attempt(JobId(i), 1, State.PENDING) for i in range(2)], {"launcher": "local_pool"})
    states = States(folder)
    for job_id, state in ((0, State.COMPLETED), (1, State.FAILED)):
        states.claim(job_id, {"launch": "0001"})
        folder.make(folder.job(job_id))
        if state is State.COMPLETED:
            write_result(folder, job_id, 1, {"score": 1.5})
        else:
            write_error(folder, job_id, 1, ValueError("bad"))
        Path(folder.of_attempt(job_id, 1, "stdout")).write_text("said\n")
        Path(folder.of_attempt(job_id, 1, "metrics")).write_text('{"step": 1, "time": 5.0, "values": {"loss": 0.5}}\n')
        states.finish(job_id, 1, state, {"reason": "bad", "end": 9e9})
    return home


@pytest.fixture
def home(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same in a folder of its own, and another user's program beside it."""
    shutil.copytree(good, tmp_path / "home")
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "home"
    assert not (tmp_path / "mark").exists()


def call(verb: str, home: Path, out: Path) -> tuple[int, str]:
    """The exit status of a verb, in a process of its own that may take so much time and memory, and what it said."""
    said, place = out / "said", home if verb == "list" else home / "e"
    for made in ("figure.svg", "report.html", "it.tar.gz"):
        (out / made).unlink(missing_ok=True)
    pid = os.fork()
    if not pid:
        status = 99
        try:
            with said.open("wb", buffering=0) as file, open(os.devnull) as nothing:
                for standard, handle in enumerate((nothing, file, file)):
                    os.dup2(handle.fileno(), standard)
                sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
                resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(MOST_S)
                status = main([verb, str(place), *(word.format(out=out) for word in READING[verb])])
                sys.stdout.flush()
        except BaseException:
            os.write(2, traceback.format_exc().encode(errors="replace"))
        finally:
            os._exit(status)
    _, ended = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(ended), said.read_text(errors="replace")


def all_end_well(home: Path, out: Path) -> None:
    """Each verb that reads ends with a status of ours, without a traceback, and tells nothing of what is outside."""
    for verb in READING:
        status, said = call(verb, home, out)
        assert status in (0, 1, 2, 3), (verb, status, said[-2000:])
        assert "Traceback" not in said, (verb, said[-2000:])
        assert "a private key" not in said, (verb, said[-2000:])


def replaced(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    CONTENTS[kind](path)


def test_each_verb_is_one_that_reads_or_writes() -> None:
    """A verb that is added is added here."""
    assert {verb for verbs in VERBS.values() for verb in verbs} == {*READING} | WRITING


def test_as_it_is_all_of_it_is_told(home: Path, tmp_path: Path) -> None:
    """The calls of these tests are such that work, but for those that have nothing to tell of this experiment."""
    for verb in READING:
        status, said = call(verb, home, tmp_path)
        assert status in ((2,) if verb in ("search", "resubmit", "compare", "plot") else (0,)), (verb, status, said)


@pytest.mark.parametrize("first", [0, 4, 8])
def test_records_of_others_end_no_verb(home: Path, tmp_path: Path, first: int) -> None:
    """Pipes, links, huge files, pickles and texts of any shape, in the place of all records but the manifest at once,
    and ids of twenty digits in all names that have one."""
    kinds = deque(CONTENTS)
    kinds.rotate(first)
    for name in (name for files in FILES.values() for name in files if name != "manifest.sqlite"):
        replaced(home / "e" / name, kinds[0])
        kinds.rotate()
    for name in NAMES:
        path = home / "e" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    all_end_well(home, tmp_path)


@pytest.mark.heavy
@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("record", FILES)
def test_each_record_of_others_ends_no_verb(home: Path, tmp_path: Path, record: str, kind: str) -> None:
    """The same in the place of each kind of record by itself, so that nothing hides what comes after it."""
    for name in FILES[record]:
        replaced(home / "e" / name, kind)
    all_end_well(home, tmp_path)
