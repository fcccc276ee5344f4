"""What is left when a worker, a job, or what it looks at ends out of turn: no job goes on beside its next attempt, and
what people have cancelled stays so."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiment_manager.errors import JobRefused
from experiment_manager.execution.worker import TimeLeft
from experiment_manager.model.policy import INCOMPLETE
from experiment_manager.model.records import Attempt, JobId, State
from experiment_manager.scheduler.cancel import cancel
from experiment_manager.scheduler.reconcile import reconciled
from experiment_manager.scheduler.scripts import hand_to_workers, join
from experiment_manager.store import processes
from experiment_manager.store.launches import create_launch, read_launch
from experiment_manager.store.layout import Folder
from experiment_manager.store.states import States
from experiment_manager.store.whereabouts import Whereabouts
from experiment_manager.testing import Jobs
from tests.scheduler.file_scheduler import FileScheduler, order

LONG = {"seconds": 180.0}

LEAVES = """
import subprocess, sys, time
from pathlib import Path
from experiment_manager import Experiment, current_job

STAYS = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(90)"
HANDS_OVER = '''
import subprocess, sys, time
from pathlib import Path
print("here", flush=True)
deadline = time.monotonic() + 90
while not Path(sys.argv[2]).exists() and time.monotonic() < deadline:
    time.sleep(0.02)
left = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, start_new_session=True)
left.stdout.readline()
Path(sys.argv[3]).write_text(str(left.pid))
'''

def begun(*words, **how):
    child = subprocess.Popen([sys.executable, "-c", *words], stdout=subprocess.PIPE, **how)
    child.stdout.readline()
    return str(child.pid)

def run(job_id, variables, configuration):
    place = Path(current_job().directory)
    (place / "child").write_text(begun(STAYS, start_new_session=True))
    (place / "beside").write_text(begun(STAYS))
    server = begun(HANDS_OVER, STAYS, str(place / "hands_over"), str(place / "later"), start_new_session=True)
    (place / "server").write_text(server)
    (place / f"began.{current_job().attempt}").touch()
    deadline = time.monotonic() + configuration["seconds"]
    while time.monotonic() < deadline and not (place / "end").exists():
        time.sleep(0.02)
    assert not configuration["fails"]

words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
Experiment.load(words["--experiment-name"], words["--experiment-path"]).run_id(int(words["--job-id"]), run)
"""


def left_by(jobs: Jobs, job_id: int, which: str = "child") -> int:
    return int(Path(jobs.experiment.folder.job(JobId(job_id)), which).read_text())


def is_there(pid: int) -> bool:
    return processes.is_alive(pid) and processes.start_ticks(pid) is not None


def log_of(jobs: Jobs, job_id: int) -> str:
    return Path(jobs.experiment.folder.of_attempt(job_id, 1, "stderr")).read_text()


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_what_a_job_leaves_in_another_session_ends_before_the_next_begins(jobs: Jobs, is_cancelled: bool) -> None:
    """As the ranks that a launcher has started: they hold the GPU that the next job of the worker gets. Where the job
    did not end well, nobody else would end them; its log names them."""
    Path(jobs.experiment.folder.parent, "runner.py").write_text(LEAVES)
    jobs.make(LONG if is_cancelled else {"fails": True}, LONG, workers=1).submit()
    jobs.wait_until(lambda: jobs.has_begun(0))
    if is_cancelled:
        assert is_there(left_by(jobs, 0))
        assert [0] == jobs.cancel(0)
    jobs.wait_until(lambda: jobs.anchor(1))
    assert not is_there(left_by(jobs, 0))
    assert not is_there(left_by(jobs, 0, "beside"))
    assert [["CANCELLED"] if is_cancelled else ["FAILED"]] == [jobs.attempts()[0]]
    (told,) = [line for line in log_of(jobs, 0).splitlines() if line.startswith("experiment-manager: ended with the")]
    assert f"(process {left_by(jobs, 0)})" in told
    assert f"(process {left_by(jobs, 0, 'beside')})" not in told  # which is of its own process group


def test_what_a_completed_job_leaves_in_another_session_goes_on(jobs: Jobs) -> None:
    """As a connection, a server or an upload that was sent there to stay, and all that comes of it, whatever becomes of
    the next jobs of the worker; its own process group ends with it."""
    Path(jobs.experiment.folder.parent, "runner.py").write_text(LEAVES)
    folder = jobs.make({}, LONG, LONG, workers=1).experiment.folder
    jobs.submit()
    jobs.wait_until(lambda: jobs.has_begun(1))
    left = [left_by(jobs, 0)]
    try:
        assert is_there(left[0])
        assert not is_there(left_by(jobs, 0, "beside"))
        Path(folder.job(JobId(0)), "hands_over").touch()
        later = Path(folder.job(JobId(0)), "later")
        jobs.wait_until(lambda: later.exists() and later.read_text())
        left.append(left_by(jobs, 0, "later"))
        assert [1] == jobs.cancel(1)
        jobs.wait_until(lambda: jobs.has_begun(2))
        assert not is_there(left_by(jobs, 1))
        assert [True, True] == [is_there(pid) for pid in left]
    finally:
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    jobs.wait_until(lambda: not any(map(is_there, left)))
    jobs.end(2)
    jobs.wait_for("COMPLETED", "CANCELLED", "COMPLETED")
    assert "ended with" not in log_of(jobs, 0)
    (told,) = [line for line in log_of(jobs, 0).splitlines() if "left running, in sessions of its own: " in line]
    assert f"(process {left[0]})" in told
    for which in ("child", "server"):
        os.kill(left_by(jobs, 2, which), signal.SIGKILL)


@pytest.mark.parametrize("how", ["preempted", "killed"])
def test_what_was_cancelled_is_not_taken_again(jobs: Jobs, how: str) -> None:
    """Also where its worker ends before the job has looked for the request."""
    jobs.make(LONG, LONG, LONG, workers=2).submit()
    jobs.wait_until(lambda: jobs.has_begun(0) and jobs.has_begun(1))
    assert [0] == jobs.cancel(0)
    if how == "preempted":
        order(jobs, 0, "PREEMPTED")
    else:
        os.kill(jobs.anchor(0)["pid"], signal.SIGKILL)
        jobs.wait_until(lambda: FileScheduler().has_ended(jobs.task(0)))
    jobs.end(1)
    jobs.wait_until(lambda: jobs.has_begun(2))
    jobs.end(2)
    jobs.wait_for("CANCELLED", "COMPLETED", "COMPLETED")
    jobs.wait_until(lambda: not FileScheduler().queue(()))
    assert {0: ["CANCELLED"], 1: ["COMPLETED"], 2: ["COMPLETED"]} == jobs.attempts()


def test_all_that_waits_is_cancelled_at_once(jobs: Jobs) -> None:
    """However long the job takes to end that its worker runs."""
    jobs.make(LONG, LONG, LONG, workers=1).submit()
    jobs.wait_until(lambda: jobs.has_begun(0))
    os.kill(jobs.anchor(0)["pid"], signal.SIGSTOP)  # it would take for ever
    try:
        assert [0, 1, 2] == jobs.cancel(0, 1, 2)
        assert ["CANCELLED", "CANCELLED"] == [jobs.states()[1], jobs.states()[2]]
    finally:
        os.kill(jobs.anchor(0)["pid"], signal.SIGCONT)
    jobs.wait_for("CANCELLED", "CANCELLED", "CANCELLED")


def test_the_worker_of_a_search_goes_on(jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has trials that are no jobs yet, unless all is cancelled."""
    monkeypatch.setattr("experiment_manager.scheduler.cancel.may_grow", lambda _: True)
    jobs.make(LONG, workers=1).submit()
    jobs.wait_until(lambda: jobs.has_begun(0))
    assert [0] == jobs.cancel(0)
    jobs.wait_for("CANCELLED")
    jobs.wait_until(lambda: FileScheduler().has_ended(jobs.task(0)))
    (run,) = FileScheduler()._runs(str(jobs.task(0).array), 0)
    assert "CANCELLED" != run["word"]  # it has found nothing more by itself
    all_of = Jobs(FileScheduler(), tmp_path / "all", {}, jobs.seconds).make(LONG, LONG, workers=1)
    all_of.submit()
    all_of.wait_until(lambda: all_of.has_begun(0))
    assert [0, 1] == all_of.experiment.cancel()
    all_of.wait_for("CANCELLED", "CANCELLED")
    all_of.wait_until(lambda: FileScheduler().has_ended(all_of.task(0)))  # a moment after its job
    (run,) = FileScheduler()._runs(str(all_of.task(0).array), 0)
    assert "CANCELLED" == run["word"]


def test_a_job_between_its_anchor_and_its_state_is_cancelled(jobs: Jobs) -> None:
    """Whoever has linked the anchor has begun, though no name says RUNNING yet."""
    jobs.make(LONG, LONG, workers=1).submit()
    jobs.wait_until(lambda: jobs.has_begun(0))
    folder, name = jobs.experiment.folder, Path(jobs.experiment.folder.states, "0.1.RUNNING")
    table = reconciled(folder)
    os.kill(jobs.anchor(0)["pid"], signal.SIGSTOP)
    name.unlink()
    try:
        assert [0] == cancel(folder, [0], table)
        os.link(name.with_suffix(""), name)
    finally:
        os.kill(jobs.anchor(0)["pid"], signal.SIGCONT)
    jobs.wait_until(lambda: jobs.states()[0] == "CANCELLED")


def test_a_node_that_its_scheduler_has_lost_may_run_on(jobs: Jobs) -> None:
    """Whoever takes a job because the scheduler says that its task has ended leaves it as long as it takes to look."""
    jobs.make(LONG, workers=1).submit()
    jobs.wait_until(lambda: jobs.has_begun(0))
    folder, anchor = jobs.experiment.folder, Path(jobs.experiment.folder.states, "0.1")
    os.kill(jobs.anchor(0)["pid"], signal.SIGSTOP)
    record = anchor.read_text().replace(f'"host": "{os.uname().nodename}"', '"host": "elsewhere"')
    anchor.write_text(record)  # as a second machine sees it
    states = States(folder, lambda *_: True)
    number = states.claim(0, {"launch": "0001"}, only=2)
    assert 2 == number
    assert states.fenced_at(0, 1) is not None


def test_what_cannot_be_ended_is_not_run_again(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the name of an attempt that is over cannot be changed, whoever may still run it would not learn of it."""
    jobs.make({})
    states = States(jobs.experiment.folder, lambda *_: True)
    States(jobs.experiment.folder).claim(0, {})
    anchor = Path(jobs.experiment.folder.states, "0.1")
    anchor.write_text(anchor.read_text().replace(f'"pid": {os.getpid()}', '"pid": 999999999'))

    def fails(*_: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fails)
        with pytest.raises(JobRefused, match=r"cannot be renamed"):
            states.claim(0, {})
    assert ["0.1", "0.1.RUNNING"] == sorted(
        name for name in os.listdir(jobs.experiment.folder.states) if name[0] != "."
    )
    assert 2 == states.claim(0, {})


def test_what_runs_inside_of_an_allocation_ends_with_it(jobs: Jobs, tmp_path: Path) -> None:
    """As `work` under `salloc` on a node that dies: its scheduler is asked about the allocation."""
    jobs.make(LONG, workers=1)
    other = Jobs(FileScheduler(), tmp_path / "allocation", {}, 180.0).make(LONG)
    other.submit()
    other.wait_until(lambda: other.has_begun(0))
    task = other.task(0)
    states = States(jobs.experiment.folder)
    states.claim(0, {"task": other.anchor(0)["task"]})
    anchor = Path(jobs.experiment.folder.states, "0.1")
    anchor.write_text(anchor.read_text().replace(f'"host": "{os.uname().nodename}"', '"host": "elsewhere"'))
    assert "RUNNING" == jobs.states()[0]
    order(other, 0, "NODE_FAIL")
    jobs.wait_until(lambda: FileScheduler().has_ended(task))
    assert "LOST" == jobs.states()[0]
    assert states.fenced_at(0, 1) is not None


def test_a_worker_goes_back_to_what_others_have_left(jobs: Jobs) -> None:
    """While it ran what had joined, another one has died with a job of the first launch."""
    folder = jobs.make(LONG, LONG, workers=2).experiment.folder
    jobs.submit()
    jobs.wait_until(lambda: jobs.has_begun(0) and jobs.has_begun(1))
    jobs.experiment.add_job({"number": 2}, {"seconds": 180.0, "fails": False})
    jobs.experiment.save()
    arrangement = join(folder, jobs.scheduler, [2])
    about = {"runner": read_launch(folder, "0001").record["runner"], **arrangement.record}
    launch = create_launch(folder, [Attempt(JobId(2), 1, State.PENDING)], about)
    assert arrangement.joined is not None
    hand_to_workers(folder, launch, arrangement.joined)
    jobs.end(1)
    jobs.wait_until(lambda: jobs.has_begun(2))
    os.kill(jobs.anchor(0)["pid"], signal.SIGKILL)
    jobs.wait_until(lambda: FileScheduler().has_ended(jobs.task(0)))
    jobs.end(2)
    jobs.wait_until(lambda: jobs.has_begun(0, 2))
    jobs.end(0)
    jobs.wait_for("COMPLETED", "COMPLETED", "COMPLETED")
    assert {0: ["LOST", "COMPLETED"], 1: ["COMPLETED"], 2: ["COMPLETED"]} == jobs.attempts()


def test_a_script_that_is_submitted_again_has_workers_of_its_own(jobs: Jobs) -> None:
    """One that was started again before is no newer run of them."""
    jobs.make(LONG, LONG, workers=1, limit_s=20.0)
    (first,) = jobs.submit()
    jobs.wait_until(lambda: jobs.has_begun(0))
    order(jobs, 0, "PREEMPTED")
    jobs.wait_until(lambda: jobs.has_begun(0, 2))
    order(jobs, 0, "CANCELLED", 2)
    jobs.wait_until(lambda: not FileScheduler().queue(()))
    assert {0: "CANCELLED", 1: "PENDING"} == jobs.states()
    number = FileScheduler().submit(first.script)
    jobs.wait_until(lambda: jobs.has_begun(1))
    assert number == jobs.task(1).array
    (told,) = Path(jobs.experiment.folder.launches, "0001").glob("*.restart.json")
    assert first.slurm_id == told.name[0] != number
    jobs.end(1)
    jobs.wait_for("CANCELLED", "COMPLETED")


def test_a_limit_that_was_not_told_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler that did not answer once may know the end of a worker all the same."""
    now = 1_000.0
    monkeypatch.setattr("time.time", lambda: now)
    monkeypatch.setattr("time.monotonic", lambda: now)
    answers: list[float | None] = [None, None, 1_040.0]
    left = TimeLeft(lambda: answers.pop(0), job_limit_s=25.0)
    assert left.is_enough()  # nobody knows
    now = 1_005.0
    assert left.is_enough()
    assert 2 == len(answers)  # it was not asked at once
    now = 1_010.0
    assert left.is_enough()
    now = 1_020.0
    assert not left.is_enough()
    assert not answers


VANISHES = """
import sys
from experiment_manager.execution import supervisor
if {often}:
    supervisor.OWNERSHIP_POLL_S = supervisor.SECOND_LOOK_S = 0.1
supervisor.GONE_S = {gone_s}
from experiment_manager.execution.run import main
sys.exit(main(sys.argv[1:]))
"""


def look_often(folder: Path, *, often: bool = True, gone_s: float = 1.0) -> "subprocess.Popen[str]":
    """The first job of an experiment runs, and its supervisor looks `often`; gone for `gone_s`, the folder is gone."""
    place = ["--experiment-path", str(folder.parent), "--experiment-name", folder.name, "--job-id", "0"]
    command = [
        sys.executable,
        "-c",
        VANISHES.format(often=often, gone_s=gone_s),
        *place,
        "--runner",
        str(folder.parent / "runner.py"),
    ]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def hear(process: "subprocess.Popen[str]", words: str) -> None:
    assert process.stderr is not None
    said = ""
    while words not in said:
        said += process.stderr.readline()
        assert process.poll() is None, said


def test_a_folder_that_is_out_of_sight_ends_no_job(jobs: Jobs) -> None:
    """As a mount that is gone for a while: nobody has ended the attempt."""
    jobs.make(LONG)
    folder = Path(jobs.experiment.folder.path)
    with look_often(folder) as process:
        jobs.wait_until(lambda: jobs.has_begun(0))
        os.rename(folder / "states", folder / "away")
        hear(process, "is not there, and the job goes on")
        os.rename(folder / "away", folder / "states")
        jobs.end(0)
        assert 0 == process.wait(60)
    assert "COMPLETED" == jobs.states()[0]


@pytest.mark.parametrize(("is_moved", "is_made_again"), [(True, False), (True, True), (False, False)])
def test_a_job_whose_experiment_was_removed_ends(
    jobs: Jobs, tmp_path: Path, is_moved: bool, is_made_again: bool
) -> None:
    """Nothing that it computes could be kept, and where the experiment was moved, another process may run it there; so
    it does where its program makes its folder again, as for a checkpoint."""
    jobs.make(LONG)
    folder = Path(jobs.experiment.folder.path)
    with look_often(folder) as process:
        jobs.wait_until(lambda: jobs.has_begun(0))
        (pid,) = processes.children(process.pid)
        os.rename(folder, tmp_path / "moved")
        if not is_moved:
            shutil.rmtree(tmp_path / "moved")
        if is_made_again:
            (folder / "jobs" / "0").mkdir(parents=True)
        hear(process, "was removed or moved, and the job ends")
        assert INCOMPLETE == process.wait(60)
    assert not is_there(pid)
    assert is_made_again == folder.exists()
    if is_moved:
        assert "LOST" == str(States(Folder.at(tmp_path / "moved")).table(reconcile=True).state(0))


@pytest.mark.parametrize("is_seen", [True, False])
def test_an_experiment_that_was_made_anew_is_none_of_an_older_job(jobs: Jobs, tmp_path: Path, is_seen: bool) -> None:
    """Somebody moves an experiment away, and begins anew in its place: the attempt there that bears the same number is
    another one. The older job ends, at the next look, or by itself before that, leaves nothing there, and ends nothing.
    """
    jobs.make(LONG)
    folder = Path(jobs.experiment.folder.path)
    with look_often(folder, often=is_seen, gone_s=60.0) as old:
        jobs.wait_until(lambda: jobs.has_begun(0))
        (pid,) = processes.children(old.pid)
        os.rename(folder, tmp_path / "moved")
        anew = Jobs(jobs.scheduler, folder.parent, {}, jobs.seconds).make(LONG)
        with look_often(folder) as new:
            anew.wait_until(lambda: anew.has_begun(0))
            if is_seen:
                said = old.communicate(timeout=60)[1]
            anew.end(0)  # the older job looks there, too
            assert 0 == new.wait(60)
            said = said if is_seen else old.communicate(timeout=60)[1]
    assert INCOMPLETE == old.returncode
    assert not is_there(pid)
    assert {0: ["COMPLETED"]} == anew.attempts()
    ends = "and the job ends" if is_seen else "and how it ended is recorded nowhere"
    why = f"{folder} was removed, moved or made anew since it began, {ends}; run it where it is now"
    assert said.endswith(f"job 0 attempt 1: {why}\n")
    if not is_seen:
        assert "what attempt 1 of job 0 leaves is not kept" in (tmp_path / "moved/jobs/0/stderr.1.log").read_text()
    assert not (folder / "jobs/0/error.1.json").exists()


def test_an_experiment_whose_parent_is_gone_ends_no_job(jobs: Jobs, tmp_path: Path) -> None:
    """That is how a mount looks that is gone, or one that another device has taken the place of."""
    jobs.make(LONG)
    home = Path(jobs.experiment.folder.parent)
    looks = Whereabouts(jobs.experiment.folder.path)
    with look_often(Path(jobs.experiment.folder.path)) as process:
        jobs.wait_until(lambda: jobs.has_begun(0))
        os.rename(home, tmp_path / "away")
        hear(process, "is not there, and the job goes on")
        assert not looks.has_gone()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(3.0)  # three times as long as a folder may be gone
        os.rename(tmp_path / "away", home)
        jobs.end(0)
        assert 0 == process.wait(60)
    assert "COMPLETED" == jobs.states()[0]


@pytest.mark.parametrize("kind", ["folder", "link", "mount"])
def test_what_is_mounted_by_itself_is_never_gone(tmp_path: Path, kind: str) -> None:
    """Only a folder that has vanished from where it lies on its own device was removed."""
    place, real = tmp_path / "experiments" / "one", tmp_path / "disk" / "one"
    real.mkdir(parents=True)
    place.parent.mkdir()
    if kind == "folder":
        place.mkdir()
    elif kind == "link":
        place.symlink_to(real)
    looks = Whereabouts("/proc" if kind == "mount" else str(place))
    assert not looks.has_gone()
    if kind == "folder":
        place.rmdir()
        assert looks.has_gone()
    elif kind == "link":
        os.rename(real.parent, tmp_path / "unmounted")
        assert not looks.has_gone()
    else:
        assert looks._device is None
