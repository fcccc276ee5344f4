"""Many processes at one experiment at the same moment: nothing is lost, nothing runs twice, no id moves."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from experiment_manager import Experiment
from experiment_manager.errors import ExperimentManagerError
from experiment_manager.model.records import JobId
from tests.conftest import Program, clean_env, examples, wait_until
from tests.faults import slurm_stand_in
from tests.test_work import RUNNER

N_SUPERVISORS = 200
N_SWEEPS = 10
GRIDS = ("seed=1,2,3,4,5,6", "seed=4,5,6,7,8,9")


@pytest.mark.parametrize("is_killed", [False, True])
def test_what_another_process_submits_just_now_is_taken(program: Program, tmp_path: Path, *, is_killed: bool) -> None:
    """The same sweep twice at once hands over each job once, however long the scheduler takes to answer; of one that
    was killed meanwhile the jobs are PENDING again."""
    slurm_stand_in.install(tmp_path / "slurm")
    os.mkfifo(tmp_path / "go")
    slow = tmp_path / "slow" / "sbatch"
    slow.parent.mkdir()
    slow.write_text(f'#!/bin/bash\n: > {tmp_path}/asked\nread -r < {tmp_path}/go\nexec {tmp_path}/slurm/sbatch "$@"\n')
    slow.chmod(0o755)
    env = {"PATH": f"{slow.parent}:{tmp_path}/slurm:{os.environ['PATH']}", "FAULTS_SLURM": str(tmp_path / "queue")}
    sweep = ("-m", "seed=1,2", "hydra/launcher=slurm_submitit")
    first = program.start("train.py", *sweep, **env)
    try:
        wait_until((tmp_path / "asked").exists)
        second = program.run(*sweep, **env)
        assert "2 jobs pass; 0 to run, 2 QUEUED left alone" in second.stdout + second.stderr
        if not is_killed:
            (tmp_path / "go").write_text("go\n")
            assert 0 == first.wait(60)
            assert [0, 1] == [index for _, index in slurm_stand_in.submitted(tmp_path / "queue")]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
    counts = json.loads(program.tool("status", "--json", **env).stdout)["counts"]
    assert {"PENDING" if is_killed else "QUEUED": 2} == counts
    assert is_killed == (program.experiment / "launches" / "0001" / "submitting.json").exists()


@pytest.mark.parametrize("launcher", ["local_pool", "basic"])
def test_a_job_that_others_take_is_no_failure(program: Program, tmp_path: Path, launcher: str) -> None:
    """The same sweep twice at once runs each job once. The one that finds a job taken says who has it, leaves it alone
    as one that ran before, and ends with 0 while it runs."""
    one_by_one = ["hydra.launcher.n_jobs=1"] * (launcher == "local_pool")
    words = ("train.py", "-m", "seed=1,2", f"hydra/launcher={launcher}", *one_by_one)
    first = program.start(*words, RELEASE=str(tmp_path / "one"))
    try:
        wait_until(lambda: ["0.1.RUNNING"] == program.states())
        second = program.start(*words, RELEASE=str(tmp_path / "two"))
        wait_until(lambda: ["0.1.RUNNING", "1.1.RUNNING"] == program.states())
        pid = json.loads((program.experiment / "states" / "1.1").read_text())["pid"]
        (tmp_path / "one").touch()
        _, said = first.communicate(timeout=60)
        assert (0, ["0.1.COMPLETED", "1.1.RUNNING"]) == (first.returncode, program.states()), said
        assert f"1 job taken by others meanwhile runs there (job 1: process {pid} on {os.uname().nodename}); `" in said
        assert "error:" not in said
        if launcher == "local_pool":
            assert "job 1 not run  seed=2  (" in said
            assert f"taken by others meanwhile: attempt 1, process {pid} on " in said
        (tmp_path / "two").touch()
        _, said = second.communicate(timeout=60)
        assert (0, False) == (second.returncode, "taken" in said)
    finally:
        (tmp_path / "one").touch()
        (tmp_path / "two").touch()
    assert ["0.1.COMPLETED", "1.1.COMPLETED"] == program.states()


@pytest.mark.heavy
def test_two_hundred_supervisors_end_at_once(tmp_path: Path) -> None:
    """Jobs that all end at the same moment, each with a supervisor of its own: each has run once and has its end and
    its result, and nothing half written stays."""
    (tmp_path / "runner.py").write_text(RUNNER)
    experiment = Experiment(["number"], "train", tmp_path)
    for number in range(N_SUPERVISORS):
        experiment.add_job({"number": number}, {"waits": True})
    experiment.save()
    experiment.save_pass_filter(range(N_SUPERVISORS))
    words = (sys.executable, "-P", "-m", "experiment_manager", "run", str(tmp_path / "train"))
    running = [
        subprocess.Popen([*words, str(number), "--runner", "runner.py"], cwd=tmp_path, env=clean_env(), stderr=-1)
        for number in range(N_SUPERVISORS)
    ]
    try:
        wait_until(lambda: {"RUNNING": N_SUPERVISORS} == Experiment.at(tmp_path / "train").counts(), 300)
        begun = tmp_path / "begun"
        wait_until(lambda: begun.exists() and N_SUPERVISORS == len(begun.read_text().splitlines()), 300)
    finally:
        (tmp_path / "go").touch()
    said = [process.communicate(timeout=300)[1].decode() for process in running]
    assert {0} == {process.returncode for process in running}
    assert "Traceback" not in "".join(said)
    assert dict.fromkeys(range(N_SUPERVISORS), 1) == Counter(_begun(tmp_path))
    found = Experiment.at(tmp_path / "train")
    assert {"COMPLETED": N_SUPERVISORS} == found.counts()
    assert [{"gpus": ""}] * N_SUPERVISORS == [row["result"] for row in found.result_rows()]
    hidden = [path for path in (tmp_path / "train").rglob(".*") if path.is_file() and path.name != ".planning.lock"]
    assert [] == hidden


WATCHES = """
import os, sys
from experiment_manager import Experiment
from experiment_manager.errors import ExperimentManagerError

ORDER = ["RUNNING", "COMPLETED"]  # after all that has not begun
seen, results = {}, {}
while not os.path.exists(sys.argv[2]):
    try:
        experiment = Experiment.at(sys.argv[1])
        rows = experiment.result_rows()
    except ExperimentManagerError:  # it is not there yet
        assert not seen
        continue
    for row in rows:
        job, state = row["job"], row["state"]
        now = row["attempt"] or 0, 1 + ORDER.index(state) if state in ORDER else 0
        assert now >= seen.get(job, now), (job, seen[job], now)
        assert row["result"] == results.get(job, row["result"]), (job, results[job], row["result"])
        seen[job] = now
        if state == "COMPLETED":
            results[job] = row["result"]
    assert seen.keys() <= {row["job"] for row in rows}
assert seen
"""


@pytest.mark.heavy
@pytest.mark.parametrize("launcher", ["slurm_script", "local_pool"])
def test_ten_sweeps_at_once(program: Program, launcher: str) -> None:
    """Two grids that overlap, five times each at the same moment, while others read: each sweep is done, is refused
    in a sentence, or tells which jobs another one runs; each configuration has one id, which never moves, and where
    jobs run each runs once. Nobody who reads meanwhile sees a job, a result or a state go back."""
    done, begun = program.home / "done", program.home / "begun"
    begun.mkdir()
    watcher = program.start("-c", WATCHES, str(program.experiment), str(done))
    words = (f"started={begun}", f"hydra/launcher={launcher}")
    sweeps = [program.start("train.py", "-m", GRIDS[place % 2], *words, LIGHT="1") for place in range(N_SWEEPS)]
    begin = "import os, sys, time\nfrom experiment_manager.cli.main import main\n"
    until = f"while not os.path.exists({str(done)!r}):\n"
    loop = f"{begin}{until}    time.sleep(0.05)\n    assert main(sys.argv[1:]) in (0, 2, 3), sys.argv\n"
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", loop, *words], cwd=program.home, env=clean_env(), stdout=-3, stderr=-1, text=True
        )
        for words in (["status", "experiments/train"], ["jobs", "experiments/train"], ["results", "experiments/train"])
    ]
    try:
        told = [sweep.communicate(timeout=300) for sweep in sweeps]
    finally:
        done.touch()
    for reader in readers:
        (_, said), status = reader.communicate(timeout=60), reader.returncode
        assert (0, False) == (status, "Traceback" in said), said
    _, said = watcher.communicate(timeout=60)
    assert 0 == watcher.returncode, said
    for sweep, (_, said) in zip(sweeps, told, strict=True):
        assert sweep.returncode != 2 or re.search("^error: .", said, re.MULTILINE), said
        assert sweep.returncode in (0, 2), said
    assert 0 in {sweep.returncode for sweep in sweeps}
    assert "Traceback" not in str(told)
    assert 0 == program.sweep(GRIDS[0], *words, LIGHT="1").returncode
    assert 0 == program.sweep(GRIDS[1], *words, LIGHT="1").returncode
    rows = Experiment.at(program.experiment).jobs()
    assert list(range(9)) == [row["job"] for row in rows]
    assert list(range(1, 10)) == sorted(row["variables"]["seed"] for row in rows)
    if launcher == "local_pool":
        assert {"COMPLETED": 9} == Experiment.at(program.experiment).counts()
        assert {1} == {row["attempt"] for row in rows}
        assert dict.fromkeys(map(str, range(9)), 1) == Counter(path.name.split(".")[0] for path in begun.iterdir())


@pytest.mark.heavy
@pytest.mark.parametrize("launcher", ["local_pool", "work"])
def test_the_filter_is_changed_while_jobs_run(program: Program, launcher: str) -> None:
    """While a sweep, or a worker, runs jobs, `filter` chooses others again and again: each call is done, or refused in
    a sentence; each job that has begun has run once, and the same sweep runs the rest afterwards."""
    begun, jobs = program.home / "begun", range(12)
    begun.mkdir()
    words = ("-m", "seed=range(12)", "sleep=0.2", f"started={begun}")
    if launcher == "work":
        assert 0 == program.sweep(*words, "hydra/launcher=slurm_script", LIGHT="1").returncode
        running = program.start("-m", "experiment_manager", "work", str(program.experiment), "--jobs", "2", LIGHT="1")
    else:
        running = program.start("train.py", *words, "hydra.launcher.n_jobs=2", LIGHT="1")
    wait_until(lambda: any(begun.iterdir()))
    chosen = itertools.cycle(["0-2", "3-7", "seed > 8", "state:COMPLETED", "0-11"])
    statuses = set()
    while running.poll() is None:
        done = program.tool("filter", next(chosen))
        assert "Traceback" not in done.stderr, done.stderr
        statuses.add(done.returncode)
    _, said = running.communicate(timeout=120)
    assert (True, False) == (running.returncode in (0, 1, 2), "Traceback" in said), said
    assert statuses <= {0, 2}
    assert 0 in statuses
    assert {1} == set(Counter(path.name.split(".")[0] for path in begun.iterdir()).values())
    done = program.sweep(*words, "hydra.launcher.n_jobs=2", LIGHT="1")
    assert 0 == done.returncode, done.stderr
    assert [f"{job}.1.COMPLETED" for job in jobs] == sorted(program.states(), key=lambda name: int(name.split(".")[0]))
    assert dict.fromkeys(map(str, jobs), 1) == Counter(path.name.split(".")[0] for path in begun.iterdir())


def _begun(home: Path) -> Iterator[int]:
    return (int(line.split()[0]) for line in (home / "begun").read_text().splitlines())


# ---------------------------------------------------------------- any calls at the same moment

SEEDS = st.lists(st.integers(0, 7), min_size=1, max_size=4, unique=True)
CALLS = st.one_of(
    st.tuples(st.just("grow"), SEEDS),
    st.tuples(st.just("choose"), SEEDS),
    st.tuples(st.just("run"), st.integers(0, 7)),
    st.tuples(st.just("fail"), st.integers(0, 7)),
    st.tuples(st.just("read"), st.none()),
)
TOGETHER = st.lists(st.lists(CALLS, min_size=2, max_size=5), min_size=1, max_size=4)


def call(path: str, what: str, about: Any) -> tuple[str, Any]:
    """What one process does, and what came of it; what is refused is refused in a sentence."""
    try:
        return what, _CALLS[what](Path(path), about)
    except ExperimentManagerError as error:
        return "refused", str(error)


def _grow(path: Path, seeds: list[int]) -> None:
    experiment = Experiment.at(path) if path.exists() else Experiment(["seed"], path.name, path.parent)
    for seed in seeds:
        if not experiment.get_ids({"seed": seed}):
            experiment.add_job({"seed": seed}, {})
    experiment.save()


def _choose(path: Path, seeds: list[int]) -> None:
    experiment = Experiment.at(path)
    experiment.save_pass_filter([job for seed in seeds for job in experiment.get_ids({"seed": seed})])


def _run(path: Path, job_id: int) -> None:
    def runner(number: int, *_: Any) -> int:
        with _noted(path, number):
            return number

    Experiment.at(path).run_id(job_id, runner)


def _fail(path: Path, job_id: int) -> str:
    def runner(number: int, *_: Any) -> None:
        with _noted(path, number):
            raise KeyError("as it was asked to")

    with pytest.raises((KeyError, ExperimentManagerError)) as found:
        Experiment.at(path).run_id(job_id, runner)
    if isinstance(found.value, ExperimentManagerError):
        raise found.value
    return "failed"


@contextmanager
def _noted(path: Path, job_id: int) -> Iterator[None]:
    """The job runs inside, and nowhere else at the same time."""
    alone = path.with_name(f"runs.{job_id}")
    alone.touch(exist_ok=False)
    with open(path.with_name("begun"), "a") as file:
        file.write(f"{job_id}\n")
    try:
        yield
    finally:
        alone.unlink()


def _read(path: Path, _: None) -> dict[str, int]:
    experiment = Experiment.at(path)
    return {str(row["variables"]["seed"]): row["job"] for row in experiment.jobs()}


_CALLS: dict[str, Callable[[Path, Any], Any]] = {
    "grow": _grow,
    "choose": _choose,
    "run": _run,
    "fail": _fail,
    "read": _read,
}


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    """Five, each of its own."""
    with ProcessPoolExecutor(5, mp_context=get_context("spawn")) as found:
        yield found


@pytest.mark.hypothesis
@given(begins_with_some=st.integers(0, 3).map(bool), batches=TOGETHER)
@examples(25)
def test_any_calls_at_the_same_moment(
    begins_with_some: bool,
    batches: list[list[tuple[str, Any]]],
    processes: ProcessPoolExecutor,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Whatever two to five processes do at the same time, and after that: no id moves or is lost, each attempt has one
    end, what was begun is there, what has completed has its result, and nobody is told anything else."""
    home = tmp_path_factory.mktemp("together")
    path, known = home / "e", dict[str, int]()
    if begins_with_some:
        _grow(path, [0, 1, 2, 3])
        _choose(path, [0, 1, 2, 3])
    for batch in batches:
        asked = [processes.submit(call, str(path), what, about) for what, about in batch]
        answers = [one.result(60) for one in asked]
        if not path.exists():
            assert {"refused"} >= {what for what, _ in answers}
            continue
        read = _read(path, None) if (path / "manifest.sqlite").exists() else {}
        assert known.items() <= read.items()
        assert all(seen.items() <= read.items() for what, seen in answers if what == "read")
        assert len(set(read.values())) == len(read)
        known = read
    if known:
        event(f"{_check_attempts(path, home / 'begun')} attempts")
    shutil.rmtree(home)


def _check_attempts(path: Path, begun: Path) -> int:
    experiment = Experiment.at(path)
    table = experiment.states()
    assert () == table.foreign
    names = os.listdir(path / "states") if (path / "states").exists() else []
    n_attempts = Counter(int(name.split(".")[0]) for name in names if name.count(".") == 1)
    n_begun = Counter(map(int, begun.read_text().split())) if begun.exists() else Counter[int]()
    assert n_attempts == n_begun
    assert sum(n_attempts.values()) == sum(name.count(".") == 2 for name in names)
    for job_id in n_attempts:
        for number, state in table.attempts[JobId(job_id)].items():
            result = path / f"jobs/{job_id}/result.{number}.json"
            assert state in ("COMPLETED", "FAILED")
            assert (state == "COMPLETED") == result.exists()
            assert state != "COMPLETED" or job_id == json.loads(result.read_text())["result"]
    return sum(n_attempts.values())
