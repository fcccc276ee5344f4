"""What SLURM sends to a batch shell reaches the job at once, and what becomes of the job is recorded as it was.

Everything happens twice at the same time: to scripts that become the supervisor, and to scripts with lines after it.
"""

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from experiment_manager.model.records import State
from tests.cluster.conftest import Cluster, sacct_state, turn
from tests.cluster.python_jobs import Jobs
from tests.cluster.sweeps import slurm
from tests.conftest import wait_until

pytestmark = pytest.mark.heavy  # minutes: run by `make test-cluster`

NOTES = {"listens": "notes"}
STOPS = {"listens": "should_stop", "s": 60}


def both(home: Path, configurations: Sequence[dict[str, Any]], **slurm: Any) -> list[Jobs]:
    """The same jobs without and with `post_script`, which tells in `after.txt` that it has come to its end."""
    after = [f'echo "begins $job" >> {home}/after.txt', "sleep 0.5", f'echo "ends $job" >> {home}/after.txt']
    ways: list[dict[str, Any]] = [{"name": "plain"}, {"name": "followed", "post_script": after}]
    return [Jobs(home, configurations, **way, **{"timeout_min": 10, **slurm}).submit() for way in ways]


def warn(jobs: Jobs, *numbers: int, name: str = "USR1") -> float:
    """SLURM sends what it sends before a time limit, `--signal=B:USR1`, to the tasks; returns when."""
    at = time.time()
    slurm("scancel", "--batch", f"--signal={name}", *map(jobs.task, numbers))
    return at


def batch_shell(jobs: Jobs, job: int) -> int:
    """The process that SLURM signals: the supervisor, or the shell that started it."""
    anchor = json.loads((jobs.path / f"states/{job}.1").read_text())
    if jobs.experiment.experiment_name == "plain":
        return int(anchor["pid"])
    return int(Path(f"/proc/{anchor['pid']}/stat").read_text().rpartition(")")[2].split()[1])


def storm(pid: int, numbers: Sequence[signal.Signals], most: int | None = None) -> int:
    """Signals, now and then several at once, until the process is gone or there were so many; returns how many."""
    sent, gaps = 0, random.Random(pid)
    while most is None or sent < most:
        try:
            os.kill(pid, gaps.choice(numbers))
        except ProcessLookupError:
            break
        sent += 1
        time.sleep(gaps.choice([0, 0.0003, 0.001, 0.004, 0.012]))
    return sent


def storms(
    all_of_them: Sequence[Jobs],
    *numbers: signal.Signals,
    most: int | None = None,
    meanwhile: Callable[[], object] = lambda: None,
) -> list[int]:
    """A storm for every job that runs, all at the same time; returns how many signals each has got."""
    shells = [batch_shell(one, int(name.split(".")[0])) for one in all_of_them for name in one.states()]
    with ThreadPoolExecutor(len(shells)) as pool:
        sent = [pool.submit(storm, pid, numbers, most) for pid in shells]
        meanwhile()
        return [one.result() for one in sent]


@pytest.fixture(scope="module", autouse=True)
def limited(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Jobs]]:
    """Jobs that SLURM itself warns, and ends for the time limit: it looks every 30 s, so they begin before all tests.

    Job 0 notes what it hears, job 1 leaves at the warning. With 16 processors there is room for 6 others twice.
    """
    jobs: list[dict[str, Any]] = [{**NOTES, "s": 600}, STOPS]
    with turn() if cluster.own else nullcontext():
        found = both(tmp_path_factory.mktemp("limited"), jobs, signal_delay_s=60)
        for one in found:
            for job in range(len(jobs)):
                one.await_word("ready", job)
                slurm("scontrol", "update", f"jobid={one.task(job)}", "endtime=now+31")
    yield found
    slurm("scancel", *(one.slurm_id for one in found))


def test_signals_reach_the_job_within_a_second(tmp_path: Path) -> None:
    """Both warnings and the end are heard at once, by a job that is ready for them or becomes it later; a job that is
    not hears no warning and lives on; the state and SLURM's own are those of what the job did."""
    ready, late, deaf, told, fails, ended = range(6)
    go = tmp_path / "go"
    until = {"s": 60, "until": str(go)}
    configurations: list[dict[str, Any]] = [
        {**NOTES, **until}, {**NOTES, **until, "imports_s": 3}, until, STOPS,
        {**NOTES, **until, "how": {"exit": 3}}, {**NOTES, "s": 60},
    ]  # fmt: skip
    all_of_them = both(tmp_path, configurations)
    for jobs in all_of_them:
        jobs.await_word("began", late)
        warn(jobs, late)
        for job in (ready, deaf, told, fails, ended):
            jobs.await_word("ready", job)
        sent = warn(jobs, ready, deaf, told, fails)
        late_s = [jobs.await_word(word, job) - sent for word, job in (("SIGUSR1", ready), ("told", told))]
        sent = warn(jobs, ready, name="USR2")
        late_s.append(jobs.await_word("SIGUSR2", ready) - sent)
        sent = time.time()
        slurm("scancel", jobs.task(ended))
        late_s.append(jobs.await_word("SIGTERM", ended) - sent)
        late_s.append(jobs.await_word("SIGUSR1", late) - jobs.await_word("ready", late))
        assert max(late_s) < 1, late_s
    go.touch()
    for jobs in all_of_them:
        states = ["COMPLETED", "COMPLETED", "COMPLETED", "CANCELLED", "FAILED", "CANCELLED"]
        assert [f"{job}.1.{state}" for job, state in enumerate(states)] == jobs.await_ends()
        slurm_says = [("COMPLETED", "0:0")] * 3 + [("FAILED", "75:0"), ("FAILED", "3:0"), ("CANCELLED by 0", "0:0")]
        assert slurm_says == [row[1:] for row in sacct_state(jobs.slurm_id, rows=6)]
        assert ["began", "ready", "ends"] == jobs.words(deaf)


def test_status_is_right_in_a_storm(tmp_path: Path) -> None:
    """More than 100 warnings while and until a job ends change neither its state nor its exit code: 0 or 3."""
    go = tmp_path / "go"
    until = {**NOTES, "s": 60, "until": str(go)}
    jobs: list[dict[str, Any]] = [{**until, "how": ["done", {"exit": 3}][job % 2]} for job in range(4)]
    all_of_them = both(tmp_path, jobs)
    for one in all_of_them:
        for job in range(4):
            one.await_word("ready", job)

    def let_go_at_its_height() -> None:
        wait_until(lambda: min(len(one.words(job)) for one in all_of_them for job in range(4)) > 50)
        go.touch()

    sent = storms(all_of_them, signal.SIGUSR1, signal.SIGUSR2, meanwhile=let_go_at_its_height)
    assert (8, True) == (len(sent), min(sent) > 100), sent
    for one in all_of_them:
        assert ["0.1.COMPLETED", "1.1.FAILED", "2.1.COMPLETED", "3.1.FAILED"] == one.await_ends()
        rows = [row[1:] for row in sacct_state(one.slurm_id, rows=4)]
        assert [("COMPLETED", "0:0"), ("FAILED", "3:0")] * 2 == rows
        assert {"SIGUSR1", "SIGUSR2"} < set(one.words(0))
    assert 8 == len((tmp_path / "after.txt").read_text().splitlines())


def test_one_attempt_in_a_storm_of_ends(tmp_path: Path) -> None:
    """TERM, a hundred times: every job is CANCELLED, once, whether it leaves at the first, with nothing, or never."""
    jobs: list[dict[str, Any]] = [{"s": 60}, STOPS, {**NOTES, "s": 60}]
    all_of_them = both(tmp_path, jobs)
    for one in all_of_them:
        for job in range(3):
            one.await_word("ready", job)
    assert 6 == len(storms(all_of_them, signal.SIGTERM, most=100))
    for one in all_of_them:
        assert ["0.1.CANCELLED", "1.1.CANCELLED", "2.1.CANCELLED"] == one.await_ends()
        anchors = [name for name in os.listdir(one.path / "states") if name.count(".") == 1]
        assert ["0.1", "1.1", "2.1"] == sorted(anchors)


def test_warned_job_is_started_again_so_often_and_no_more(tmp_path: Path) -> None:
    """With max_requeues=1: what left at the warning begins again, resumed, in its own task alone, also the one that
    bears the id of the whole array; what completed or failed by itself does not, and nothing begins a third time."""
    fails, deaf, late, told, last = range(1, 6)
    go, go_on = tmp_path / "go", tmp_path / "go_on"
    configurations: list[dict[str, Any]] = [
        {}, {**NOTES, "s": 60, "until": str(go), "how": {"exit": 3}}, {"s": 60, "until": str(go_on)},
        {**STOPS, "imports_s": 2}, STOPS, STOPS,
    ]  # fmt: skip
    near = {"timeout_min": 2, "signal_delay_s": 30}  # SLURM may warn so early, and whatever comes is of the time limit
    all_of_them = both(tmp_path, configurations, max_requeues=1, **near)
    for jobs in all_of_them:
        jobs.await_word("began", late)
        for job in (fails, deaf, told, last):
            jobs.await_word("ready", job)
        owner = slurm("squeue", "-h", "-j", jobs.slurm_id, "-o", "%A %K").splitlines()
        assert f"{jobs.slurm_id} {last}" in owner, "the task that bears the array's own id is among those warned"
        warn(jobs, fails, deaf, late, told, last)
        jobs.await_word("SIGUSR1", fails)
    go.touch()
    for jobs in all_of_them:
        for job in (told, last, late, deaf):
            jobs.await_word("ready", job, attempt=2)
        warn(jobs, deaf, late, told, last)
        jobs.await_word("told", last, attempt=2)
    go_on.touch()
    for jobs in all_of_them:
        expected = ["0.1.COMPLETED", "1.1.FAILED", "2.1.TIMEOUT", "2.2.COMPLETED"]
        expected += [f"{job}.{attempt}.TIMEOUT" for job in (late, told, last) for attempt in (1, 2)]
        assert expected == jobs.await_ends()
        resumed = [(jobs.path / f"jobs/{told}/metrics.{attempt}.jsonl").read_text() for attempt in (1, 2)]
        assert [0, 1] == [json.loads(line)["values"]["resumed"] for line in resumed]
        assert ["began", "ready", "told"] == jobs.words(late) == jobs.words(late, 2)
    after = (tmp_path / "after.txt").read_text().splitlines()
    expected = [f"{word} {job}" for word in ("begins", "ends") for job in (0, 1, 2, 2, 3, 3, 4, 4, 5, 5)]
    assert expected == sorted(after), "the lines after the job run to their end, also where SLURM is to start it again"


def test_slurms_own_warning_and_time_limit(limited: list[Jobs]) -> None:
    """The warning comes by `signal_delay_s`, the end at the limit; who leaves in between has not completed either."""
    for jobs in limited:
        assert ["0.1.TIMEOUT", "1.1.TIMEOUT"] == jobs.await_ends()
        assert ["began", "ready", "SIGUSR1", "SIGTERM"] == jobs.words(0)
        assert ["began", "ready", "told"] == jobs.words(1)
        assert [("TIMEOUT", "0:0"), ("FAILED", "75:0")] == [row[1:] for row in sacct_state(jobs.slurm_id, rows=2)]


def test_a_job_over_its_own_limit_is_not_started_again(tmp_path: Path) -> None:
    """`job_timeout_min` ends a job as TIMEOUT, also one that was warned before and might be started again after SLURM's
    own time limit; what it leaves meanwhile is its result, and SLURM is never asked, nor believed, about it."""
    configurations: list[dict[str, Any]] = [{"s": 60}, {**STOPS, "stopped": 1.5}, {**NOTES, "s": 60}]
    jobs = Jobs(tmp_path / "home", configurations, timeout_min=10, job_timeout_min=0.1, max_requeues=2).submit()
    jobs.await_word("ready", 2)
    warn(jobs, 2)
    assert ["0.1.TIMEOUT", "1.1.COMPLETED", "2.1.TIMEOUT"] == jobs.await_ends(is_asked=True)
    reason = "ran longer than job_timeout_min=0.1"
    assert [reason, None, reason] == [jobs.record(job)["reason"] for job in range(3)]
    assert 1.5 == jobs.result(1)
    assert ["USR1", "TERM"] == [word[3:] for word in jobs.words(2) if word.startswith("SIG")]


def test_preempted_jobs_begin_again_unless_they_are_done(limited: list[Jobs], tmp_path: Path) -> None:
    """Both kinds of preemption are heard at once; what did not complete is PREEMPTED and begins again, also the job
    that made room during its time of grace; with --no-requeue it is PREEMPTED for good."""
    configurations: list[dict[str, Any]] = [{**NOTES, "s": 60}, STOPS, {**STOPS, "stopped": "saved"}]
    preempted = {partition: both(tmp_path / partition, configurations, partition=partition, signal_delay_s=30)
                 for partition in ("preempt", "grace")}  # fmt: skip
    for jobs in limited:
        jobs.await_ends()  # they would be in the way
    (for_good,) = both(tmp_path / "good", [{"s": 60}], partition="preempt", max_requeues=0)[:1]
    all_of_them = [jobs for pair in preempted.values() for jobs in pair]
    for jobs in all_of_them:
        for job in range(3):
            jobs.await_word("ready", job)
    for_good.await_word("ready")
    other = slurm("sbatch", "--parsable", "-N2", "--exclusive", "--output=/dev/null", "--wrap=sleep 600")
    began = wait_until(lambda: min(_preempted_at(jobs.task(0)) for jobs in preempted["grace"]), 30)
    for pair in preempted.values():
        for jobs in pair:
            late_s = [jobs.await_word(word, job) - began for word, job in (("SIGUSR1", 0), ("told", 1))]
            assert max(late_s) < 2, "SLURM tells the time of a preemption in whole seconds"
            jobs.await_word("SIGTERM", 0)
    wait_until(lambda: slurm("squeue", "-h", "-j", other, "-o", "%T") == "RUNNING")
    for_good.await_ends()
    wait_until(lambda: for_good.experiment.states().state(0) is State.PREEMPTED)
    slurm("scancel", other)
    for jobs in all_of_them:
        for job in range(2):
            jobs.await_word("ready", job, attempt=2)
        expected = ["0.1.PREEMPTED", "0.2.RUNNING", "1.1.PREEMPTED", "1.2.RUNNING", "2.1.COMPLETED"]
        assert expected == jobs.states()


def _preempted_at(task: str) -> float:
    """When SLURM has begun to preempt a task; 0 while it has not."""
    told = dict(item.split("=", 1) for item in slurm("scontrol", "-o", "show", "job", task).split() if "=" in item)
    at = told.get("PreemptTime", "None")
    return 0.0 if at == "None" else time.mktime(time.strptime(at, "%Y-%m-%dT%H:%M:%S"))
