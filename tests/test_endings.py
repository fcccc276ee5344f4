"""How attempts end where the disk is full, a file system errs, or the supervisor has been killed: no result is lost."""

import dataclasses
import datetime
import decimal
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from experiment_manager import Experiment, current_job
from experiment_manager.cli.main import main
from experiment_manager.errors import AlreadyCompleted, EndedSince, ExperimentManagerError
from experiment_manager.execution import environment
from experiment_manager.execution.child import exit_status_of
from experiment_manager.execution.current_job import CurrentJob
from experiment_manager.execution.resources import memory_of
from experiment_manager.model.policy import Ending, ended_state
from experiment_manager.model.records import ENDED_WELL, State
from experiment_manager.store import processes, reserve
from experiment_manager.store.files import asked_again, log_file
from experiment_manager.store.layout import Folder
from experiment_manager.store.metrics import read_metrics
from experiment_manager.store.results import read_result, storable, write_error, write_result
from experiment_manager.store.rungs import mark_pruned
from experiment_manager.store.states import States
from tests.conftest import Program


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs root, to mount a small file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path) -> None:
    with open(disk / "filler", "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def claimed(folder: Folder, job_id: int, launch: str | None = "0001", planned: int | None = None) -> int:
    os.makedirs(folder.job(job_id), exist_ok=True)
    return States(folder).claim(job_id, {"launch": launch}, planned=planned)


def text_of(folder: Folder, kind: str) -> Any:
    return json.loads(Path(folder.of_attempt(0, 1, kind)).read_text())


def test_an_attempt_ends_as_ever_on_a_full_disk(small_disk: Path) -> None:
    """Result and record find the space that was kept for them, which is free again afterwards; without such space no
    attempt begins, and nothing of it stays."""
    folder, states = Folder(small_disk, "train"), States(Folder(small_disk, "train"))
    claimed(folder, 0)
    fill(small_disk)
    write_result(folder, 0, 1, {"score": 7.0})
    assert states.finish(0, 1, State.COMPLETED, {"reason": None})
    assert {"score": 7.0} == read_result(folder, 0, 1).value
    assert {"state": "COMPLETED", "reason": None, "format": 1} == text_of(folder, "attempt")
    assert ["attempt.1.json", "result.1.json"] == sorted(os.listdir(folder.job(0)))
    with open(small_disk / "filler", "ab") as file, pytest.raises(OSError, match="No space"):
        file.write(bytes(1 << 19))
    before = sorted(os.listdir(folder.states))
    with pytest.raises(OSError, match="No space left on device"):
        claimed(folder, 1)
    assert before == sorted(os.listdir(folder.states))
    assert [] == os.listdir(folder.job(1))


def test_what_finds_no_space_says_so(small_disk: Path) -> None:
    """A result that is larger than what was kept for it fails with the words of the system, and the error is kept."""
    folder = Folder(small_disk, "train")
    claimed(folder, 0)
    fill(small_disk)
    with pytest.raises(OSError, match="the result could not be written: No space left on device") as caught:
        write_result(folder, 0, 1, {"text": "x" * reserve.RESERVE_BYTES})
    assert isinstance(caught.value, ExperimentManagerError)  # whichever of the two is expected
    assert (errno.ENOSPC, "No space left on device") == (caught.value.errno, caught.value.strerror)
    write_error(folder, 0, 1, caught.value)
    assert not os.path.exists(folder.of_attempt(0, 1, "result"))
    assert "No space left on device" in text_of(folder, "error")["message"]


def test_where_nothing_can_be_written_a_name_is_changed(tmp_path: Path) -> None:
    """What is kept holds a record from the beginning: to rename it needs no space."""
    path = str(tmp_path / "attempt.1.json")
    name = reserve.keep(path, {"reason": "unknown"})
    assert name is not None
    reserve.assign(name, path)
    reserve.leave(path)
    assert {"reason": "unknown"} == json.loads(Path(path).read_text())
    assert ["attempt.1.json"] == os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("result", "stopped", "state"),
    [
        ({"result": 3, "told": False}, "", State.COMPLETED),
        ({"result": 3, "told": True}, "before", State.COMPLETED),
        ({"result": None, "told": False}, "", State.COMPLETED),
        ({"result": None, "told": False}, "before", State.LOST),  # a checkpoint, perhaps
        ({"result": None, "told": False}, "after", State.COMPLETED),
        ({"result": None, "told": True}, "after", State.LOST),
        ({"result": None, "told": True}, "", State.LOST),
        ({"result": None, "told": False, "fake": True}, "", State.FAKE),
        (None, "", State.LOST),
        ({"result": 3, "told": False, "pruned": True}, "", State.PRUNED),
        ({"result": None, "told": True, "pruned": True}, "before", State.PRUNED),
    ],
)
def test_a_result_outlives_its_supervisor(tmp_path: Path, result: Any, stopped: str, state: State) -> None:
    """A supervisor was killed after its job had left a complete result: whoever looks records what it meant to, and the
    job is not run again without a word."""
    folder, states = Folder(tmp_path, "train"), States(Folder(tmp_path, "train"))
    claimed(folder, 0)
    if stopped:
        states.note_stop(0, 1, {"arguments": []}, had_result=stopped == "after")
    if result is not None:
        Path(folder.of_attempt(0, 1, "result")).write_text(json.dumps(result))
    if result and result.get("pruned"):
        mark_pruned(folder, 0, 1, reason="others do better")
    gone = {**processes.this_process(), "started_ticks": 1}
    Path(folder.states, "0.1").write_text(json.dumps(gone))
    if state in ENDED_WELL:
        with pytest.raises(AlreadyCompleted, match=f"turns out to be {state.lower()}"):
            claimed(folder, 0)
    assert state is states.table(reconcile=True).attempts[0][1]  # type: ignore[index]
    reason = "had left its result" if state is not State.LOST else "its supervisor is gone"
    assert reason in text_of(folder, "attempt")["reason"]
    assert not [name for name in os.listdir(folder.job(0)) if name.endswith(".reserve")]
    assert 2 == claimed(folder, 0)


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED, State.LOST])
def test_a_job_that_failed_since_is_left_to_its_next_sweep(tmp_path: Path, state: State) -> None:
    """Two sweeps of one grid at once: what ended badly in one of them is not run again by the other; what is requeued
    in one launch, or run by hand, is."""
    folder, states = Folder(tmp_path, "train"), States(Folder(tmp_path, "train"))
    claimed(folder, 0, "0001", planned=1)
    states.end(0, 1, state)
    with pytest.raises(EndedSince, match=rf"ended as {state} in launch 0001 \(attempt 1\) since launch 0002"):
        claimed(folder, 0, "0002", planned=1)
    assert 2 == claimed(folder, 0, "0001", planned=1)
    states.end(0, 2, state)
    assert 3 == claimed(folder, 0, None)
    states.end(0, 3, state)
    assert 4 == claimed(folder, 0, "0002", planned=1)


def test_a_task_that_never_began_bars_no_other_launch(tmp_path: Path) -> None:
    """Where one of two launches of the same jobs was taken out of the queue, the other runs them."""
    folder = Folder(tmp_path, "train")
    States(folder).record_unbegun(0, 1, State.CANCELLED, {"reason": "SLURM: CANCELLED"}, {"launch": "0001"})
    assert 2 == claimed(folder, 0, "0002", planned=1)


def test_a_file_system_that_errs_is_asked_again() -> None:
    """An error that is no answer is met with pauses and told once; an answer is believed at once."""
    answers: list[Any] = [OSError(errno.EIO, "Input/output error", "/x"), OSError(errno.ESTALE, "Stale"), 7]
    told = list[str]()

    def ask() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert 7 == asked_again(ask, told.append)
    assert ["/x cannot be reached: Input/output error; it is asked again"] == told
    answers[:] = [FileNotFoundError(errno.ENOENT, "No such file or directory"), 7]
    with pytest.raises(FileNotFoundError):
        asked_again(ask, told.append)
    answers[:] = [OSError(errno.EIO, "Input/output error")] * 9
    with pytest.raises(OSError, match="Input/output error"):
        asked_again(ask, told.append, most_s=0.2)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_a_moment_without_a_disk_costs_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], call: str, number: int
) -> None:
    """Whatever call fails once, with an error that is no answer, the result is whole, and nothing is left beside it."""
    folder = Folder(tmp_path, "train")
    os.makedirs(folder.job(0))
    real, failures = getattr(os, call), [OSError(number, os.strerror(number))]

    def failing(*given: Any, **named: Any) -> Any:
        if failures:
            raise failures.pop()
        return real(*given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing)
        write_result(folder, 0, 1, {"score": 7})
    assert {"score": 7} == read_result(folder, 0, 1).value
    assert ["result.1.json"] == os.listdir(folder.job(0))
    assert "it is asked again" in capsys.readouterr().err


def test_half_a_line_takes_no_other_with_it(tmp_path: Path) -> None:
    """Metrics that are logged after a line was cut short are all there."""
    folder = Folder(tmp_path, "train")
    os.makedirs(folder.job(0))
    current = CurrentJob(folder, 0, 1)
    current.log_metrics(step=1, loss=1.0)
    with open(folder.of_attempt(0, 1, "metrics"), "a") as file:
        file.write('{"step": 2, "ti')
    current.log_metrics(step=3, loss=3.0)
    current.log_metrics(step=4, loss=4.0)
    assert [1, 3, 4] == [metric.step for metric in read_metrics(folder, 0, 1, lambda _: None)]


def test_metrics_that_a_full_disk_does_not_take_wait_for_room(
    small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No line of metrics ends a job: what could not be written is said once, and is there, in order and once, as soon
    as there is room; what never was written is said to be lost when the job ends."""
    folder = Folder(small_disk, "train")
    os.makedirs(folder.job(0))
    current = CurrentJob(folder, 0, 1)
    current.log_metrics(step=0, loss="x" * 100)
    fill(small_disk)
    for step in range(1, 200):
        current.log_metrics(step=step, loss="x" * 100)
    said = capsys.readouterr().err
    assert 1 == said.count(f"{folder.of_attempt(0, 1, 'metrics')} cannot be written: No space left on device; ")
    (small_disk / "filler").unlink()
    current.log_metrics(step=200, loss="x" * 100)
    assert list(range(201)) == [metric.step for metric in read_metrics(folder, 0, 1, pytest.fail)]
    assert "is written again, with what has waited\n" in capsys.readouterr().err
    fill(small_disk)
    while "cannot be written" not in capsys.readouterr().err:
        current.log_metrics(step=201, loss="x" * 100)
    current.settle_metrics()
    assert "1 line is lost: " in capsys.readouterr().err


@pytest.mark.parametrize("room", ["is made at the end", "is never made"])
def test_jobs_of_which_metrics_are_lost_are_named(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], room: str
) -> None:
    """A job that has completed waits a moment for room for its last metrics; where there is none, `status` and
    `results` say that they are not all there, and not its log alone, which the same disk may not have taken."""
    experiment = Experiment(["seed"], "train", small_disk)
    for seed in (1, 2):
        experiment.add_job({"seed": seed}, {})
    experiment.save()
    experiment.save_pass_filter([0, 1])
    experiment.run_id(1, lambda *_: current_job().log_metrics(step=1, loss=1.0))

    def run(*_: Any) -> int:
        fill(small_disk)
        for step in range(100):
            current_job().log_metrics(step=step, loss="x" * 1000)
        if room == "is made at the end":
            monkeypatch.setattr(time, "sleep", lambda _: (small_disk / "filler").unlink(missing_ok=True))
        return 7

    experiment.run_id(0, run)
    assert State.COMPLETED is experiment.states().state(0)
    said = "1 job COMPLETED without some of its metrics, which the disk did not take (job 0)"
    expected = [] if room == "is made at the end" else [said]
    n_there = len([*read_metrics(experiment.folder, 0, 1, pytest.fail)])
    assert n_there < 100 if expected else n_there == 100
    for verb in ("status", "results"):
        capsys.readouterr()
        assert 0 == main([verb, experiment.folder.path])
        told = capsys.readouterr()
        assert expected == [line for line in (told.out + told.err).splitlines() if "COMPLETED without" in line]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("call", ["open", "write", "close", "half a write"])
def test_one_error_of_a_disk_costs_no_line_of_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], call: str, number: int
) -> None:
    """Whatever call fails, and whether it has written the line or half of it before, each line is there once, in order,
    at the latest when the job has ended."""
    folder = Folder(tmp_path, "train")
    experiment = Experiment(["seed"], "train", tmp_path)
    experiment.add_job({"seed": 1}, {})
    experiment.save()
    experiment.save_pass_filter([0])
    name = call.rpartition(" ")[2]
    real, metrics = getattr(os, name), folder.of_attempt(0, 1, "metrics")

    def failing(given: Any, *more: Any) -> Any:
        path = os.readlink(f"/proc/self/fd/{given}") if isinstance(given, int) else given
        if path != metrics or not failures:
            return real(given, *more)
        if call == "half a write":
            real(given, more[0][:10])
        if call == "close":
            real(given)
        raise failures.pop()

    def run(*_: Any) -> int:
        with monkeypatch.context() as patched:
            patched.setattr(os, name, failing)
            for step in range(4):
                failures[:] = [OSError(number, os.strerror(number))] if step % 2 else []
                current_job().log_metrics(step=step, loss=1.0)
        return 7

    failures: list[OSError] = []
    experiment.run_id(0, run)
    assert State.COMPLETED is experiment.states().state(0)
    assert [0, 1, 2, 3] == [metric.step for metric in read_metrics(folder, 0, 1, pytest.fail)]
    assert 2 == capsys.readouterr().err.count(f"{metrics} cannot be written: {os.strerror(number)}; the job goes on")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", ["open", "pread", "write", "close"])
def test_a_signal_handler_may_log_while_a_line_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, when: str
) -> None:
    """Whatever call it comes before or after, each line is there once, in the order in which they were logged."""
    folder = Folder(tmp_path, "train")
    os.makedirs(folder.job(0))
    real, metrics, current = getattr(os, call), folder.of_attempt(0, 1, "metrics"), CurrentJob(folder, 0, 1)
    signals = [signal.SIGUSR2]

    def interrupted(given: Any, *more: Any) -> Any:
        path = os.readlink(f"/proc/self/fd/{given}") if isinstance(given, int) else given
        is_due = path == metrics and signals
        if is_due and when == "before":
            signal.raise_signal(signals.pop())
        done = real(given, *more)
        if is_due and when == "after":
            signal.raise_signal(signals.pop())
        return done

    ours = signal.signal(signal.SIGUSR2, lambda *_: current.log_metrics(step=2, loss=2.0))
    try:
        with monkeypatch.context() as patched:
            patched.setattr(os, call, interrupted)
            current.log_metrics(step=1, loss=1.0)
    finally:
        signal.signal(signal.SIGUSR2, ours)
    current.log_metrics(step=3, loss=3.0)
    assert not signals
    assert [1, 2, 3] == [metric.step for metric in read_metrics(folder, 0, 1, pytest.fail)]


def test_lines_that_wait_are_written_when_the_program_ends(small_disk: Path) -> None:
    """Also where nothing is logged any more, and by the process that has logged them alone."""
    folder = Folder(small_disk, "train")
    os.makedirs(folder.job(0))
    program = """
import os, sys
from experiment_manager import current_job
current_job().log_metrics(step=1, loss="x" * 5000)
os.unlink(sys.argv[1])
if not os.fork():
    sys.exit(0)
os.wait()
"""
    fill(small_disk)
    environ = {**os.environ, **environment.of_attempt(folder, 0, 1)}
    done = subprocess.run([sys.executable, "-c", program, small_disk / "filler"], env=environ, capture_output=True)
    assert (0, 1, 1) == (done.returncode, done.stderr.count(b"the job goes on"), done.stderr.count(b"is written again"))
    assert [1] == [metric.step for metric in read_metrics(folder, 0, 1, pytest.fail)]


def test_exit_0_is_no_success_of_an_attempt_that_left_an_error() -> None:
    """What was swallowed on its way to an exit status counts all the same."""
    ending = Ending(returncode=0, has_result=False, stopped=None, was_warned=False, out_of_memory=False, is_fake=False)
    assert State.COMPLETED is ended_state(ending)
    assert State.FAILED is ended_state(ending._replace(has_trouble=True))


@dataclasses.dataclass
class Scores:
    accuracy: float
    best: Any = None


Pair = namedtuple("Pair", "low high")


@pytest.mark.parametrize(
    ("value", "stored", "refused"),
    [
        (Scores(0.5, Pair(1, 2)), {"accuracy": 0.5, "best": {"low": 1, "high": 2}}, []),
        ([Scores(0.5)], [{"accuracy": 0.5, "best": None}], []),
        ({"best": {"model": object(), "score": 1}}, {"best": {"score": 1}}, ["best.model"]),
        ({3, 1, 2}, [1, 2, 3], []),
        ({"b", 1}, ["b", 1], []),
        (decimal.Decimal("0.1"), 0.1, []),
        (decimal.Decimal("0.1234567890123456789"), "0.1234567890123456789", []),
        (datetime.datetime(2020, 1, 2, 3), "2020-01-02T03:00:00", []),
        (datetime.timedelta(minutes=1), 60.0, []),
        (2**100, 2**100, []),
        ({"z": 1j, "n": 1}, {"n": 1}, ["z"]),
    ],
)
def test_values_with_a_plain_form_are_stored(value: Any, stored: Any, refused: list[str]) -> None:
    """What has names or an order of its own is stored as mappings and lists; the rest is refused by its name."""
    found = storable(value)
    assert (stored, refused) == (found.encoded, list(found.refused))


def test_values_of_libraries() -> None:
    """A column with names is a mapping, one with numbers a list; a long double is refused, and not cut."""
    numpy, pandas = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    assert {"accuracy": 0.5, "steps": 3.0} == storable(pandas.Series({"accuracy": 0.5, "steps": 3})).encoded
    assert [1, 2] == storable(pandas.Series([1, 2])).encoded
    assert "2020-01-02" == storable(numpy.datetime64("2020-01-02")).encoded
    assert ["x"] == list(storable({"x": numpy.longdouble(1)}).refused)
    assert ["x"] == list(storable({"x": pandas.DataFrame({"a": [1]})}).refused)


def test_memory_of_processes() -> None:
    """The memory of processes is added up, and one that is gone uses none."""
    mine = memory_of([os.getpid()])
    assert mine > 1_000_000
    assert 0 == memory_of([2**22 + 1])


BREAKS = """
import os
from contextlib import suppress
import hydra
from experiment_manager import current_job

@hydra.main(version_base=None)
def main(cfg):
    if "breaks" in cfg:
        states = current_job().experiment.states
        os.rename(states, f"{states}.away")
        open(states, "w").close()
    if "fills" in cfg:
        with open(cfg.fills, "wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(1024)):
                pass
    return 7

main()
"""


@pytest.mark.parametrize("by", ["local_pool", "basic", "run"])
def test_states_that_nobody_can_reach_at_the_end(program: Program, by: str) -> None:
    """Whoever cannot record or read how a job ended says so in a sentence, and ends with 2; when the states are there
    again the job is COMPLETED, since its result is."""
    (program.home / "app.py").write_text(BREAKS)
    program.experiment = program.home / "experiments/app"
    sweep = ("-m", "hydra/sweeper=experiment", "+breaks=1")
    if by != "run":
        done = program.run(*sweep, f"hydra/launcher={by}", script="app.py")
    else:
        assert 0 == program.run(*sweep, "hydra/launcher=slurm_script", script="app.py").returncode
        done = program.tool("run", "0")
    assert 2 == done.returncode, done.stderr
    assert "Not a directory" in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("error: ")
    said = done.stderr + "".join(path.read_text() for path in program.experiment.rglob("*.log"))
    assert "Traceback" not in said
    (program.experiment / "states").unlink()
    (program.experiment / "states.away").rename(program.experiment / "states")
    assert {"COMPLETED": 1} == program.told("status")["counts"]


def test_a_close_that_fails_ends_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written to a log is its process's business: that our handle of it cannot be closed well says nothing."""
    close = os.close

    def failing(handle: int) -> None:
        close(handle)
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with monkeypatch.context() as patched:
        patched.setattr(os, "close", failing)
        with log_file(str(tmp_path / "x.log")) as handle:
            os.write(handle, b"said")
    assert b"said" == (tmp_path / "x.log").read_bytes()


def test_a_full_disk_of_a_batch_script(program: Program) -> None:
    """Where the script's own file takes no more, the job's exit status is still its own, and a sentence says why the
    script has to go by something else."""
    assert 0 == program.sweep("seed=1", "hydra/launcher=slurm_script").returncode
    done = program.tool("run", "0", EXPERIMENT_MANAGER_STATUS_FILE="/dev/full")
    assert (0, "") == (done.returncode, done.stdout)
    assert done.stderr.splitlines()[-1] == (
        "/dev/full, where the script reads how its job ended, cannot be written: No space left on device"
    )
    assert {"COMPLETED": 1} == program.told("status")["counts"]


@pytest.mark.parametrize(("number", "status"), [(errno.ENOENT, 127), (errno.EACCES, 126), (errno.EAGAIN, 1)])
def test_exit_status_of_what_could_not_be_started(number: int, status: int) -> None:
    """127 and 126 have the meaning that shells give them; want of memory or processes is neither."""
    assert status == exit_status_of(OSError(number, os.strerror(number)))


def test_a_disk_that_is_full_under_the_basic_launcher(small_disk: Path, program: Program) -> None:
    """What Hydra itself cannot write beside a job is a sentence, as everywhere; the job that has run is COMPLETED."""
    (program.home / "app.py").write_text(BREAKS)
    ours = ("hydra/sweeper=experiment", "hydra/launcher=basic", f"hydra.sweeper.experiment_path={small_disk}")
    done = program.run("-m", *ours, "+x=1,2", f"+fills={small_disk / 'filler'}", script="app.py")
    assert 2 == done.returncode, done.stderr
    assert "error: " in done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    program.experiment = small_disk / "app"
    assert {"COMPLETED": 1, "PENDING": 1} == program.told("status")["counts"]


def test_space_is_free_again_though_the_disk_errs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be kept as long as the experiment is there."""
    path, unlink, asked = str(tmp_path / "result.1.json"), os.unlink, list[str]()
    name = reserve.keep(path, {})
    assert name is not None
    reserve.assign(name, path)

    def errs_once(what: str) -> None:
        asked.append(what)
        if len(asked) == 1:
            raise OSError(errno.EIO, "Input/output error", what)
        unlink(what)

    assert 1 == len(os.listdir(tmp_path))
    monkeypatch.setattr(os, "unlink", errs_once)
    reserve.release(path)
    assert [] == os.listdir(tmp_path)
