"""Workers: tasks that run one job of their launch after the other."""

import os
import re
import signal
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from experiment_manager.cli.main import main
from experiment_manager.errors import JobRefused, OptionsError
from experiment_manager.model.records import Attempt, JobId, State
from experiment_manager.scheduler import query, reconcile
from experiment_manager.scheduler.arrays import USUAL_LIMITS, arrays
from experiment_manager.scheduler.reconcile import reconciled
from experiment_manager.scheduler.records import Phase
from experiment_manager.scheduler.scripts import hand_to_workers, join
from experiment_manager.scheduler.slurm.scheduler import Slurm
from experiment_manager.store.launches import create_launch, read_launch
from experiment_manager.store.processes import is_gone
from experiment_manager.store.states import States
from experiment_manager.testing import Jobs
from tests.scheduler.file_scheduler import FileScheduler, order, wrong

LONG = {"seconds": 180.0}


def tasks_of(jobs: Jobs, *ids: int) -> Counter[int]:
    """How many of the jobs each worker has run."""
    return Counter(jobs.task(job_id).array_index or 0 for job_id in ids)


def test_each_job_runs_once(jobs: Jobs) -> None:
    """Two workers share seven jobs; each ends as it would in a task of its own, and no job runs twice."""
    jobs.make(*({"fails": number == 3} for number in range(7)), workers=2).submit()
    jobs.wait_for(*("FAILED" if number == 3 else "COMPLETED" for number in range(7)))
    assert [1] * 7 == [len(states) for states in jobs.attempts().values()]
    assert {0, 1} >= tasks_of(jobs, *range(7)).keys()


def test_what_waits_is_queued(jobs: Jobs) -> None:
    """A job that no worker has taken yet is QUEUED as long as one may take it, and then PENDING: the next launch has
    it."""
    jobs.make(LONG, LONG, {}, workers=1).submit()
    jobs.wait_until(lambda: jobs.has_begun(0))
    assert {0: "RUNNING", 1: "QUEUED", 2: "QUEUED"} == jobs.states()
    assert {"1 worker runs"} == {waiting.reason for waiting in reconciled(jobs.experiment.folder).queued.values()}
    order(jobs, 0, "CANCELLED")
    jobs.wait_for("CANCELLED", "PENDING", "PENDING")
    assert {0: ["CANCELLED"]} == jobs.attempts()
    jobs.make(workers=1)  # workers that nobody submits change nothing
    (left,) = [trouble for trouble in jobs.experiment.status().troubles if trouble.state is State.PENDING]
    assert ((1, 2), True) == (left.ids, left.reason.startswith("the workers of launch 0001 have ended; "))
    jobs.make()
    jobs.submit()
    for job_id, attempt in ((0, 2), (1, 1)):
        jobs.wait_until(lambda job_id=job_id, attempt=attempt: jobs.has_begun(job_id, attempt))  # type: ignore[misc]
        jobs.end(job_id)
    jobs.wait_for("COMPLETED", "COMPLETED", "COMPLETED")


@pytest.mark.parametrize("before", [[], ["CANCELLED"]], ids=["first", "again"])
def test_a_dry_pass_takes_no_job_from_workers(jobs: Jobs, before: list[str]) -> None:
    """A job that somebody has only looked at since its launch was planned is QUEUED, and is run or cancelled as all
    others, whether it has run before or not."""
    (held := FileScheduler().root / "hold").touch()
    jobs.make({}, {}, {}, **({} if before else {"workers": 2})).submit()
    if before:
        jobs.wait_for("QUEUED", "QUEUED", "QUEUED")
        jobs.cancel(0, 1, 2)
        jobs.make(workers=2).submit()
    for job_id in (0, 1, 1):
        assert 0 == main(["run", jobs.experiment.folder.path, str(job_id), "--fake"])
    jobs.wait_for("QUEUED", "QUEUED", "QUEUED")
    assert [0] == jobs.cancel(0)
    held.unlink()
    jobs.wait_for("CANCELLED", "COMPLETED", "COMPLETED")
    assert {
        0: [*before, "FAKE", "CANCELLED"],
        1: [*before, "FAKE", "FAKE", "COMPLETED"],
        2: [*before, "COMPLETED"],
    } == jobs.attempts()


def test_workers_that_end_while_the_queue_is_asked(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they have run since the states were read is not taken for left."""
    (held := FileScheduler().root / "hold").touch()
    jobs.make({}, {}, workers=1).submit()

    def late(*about: Any) -> query.Answer:
        held.unlink()
        jobs.wait_until(lambda: FileScheduler().queue([]) == [])
        return query.ask(*about)

    monkeypatch.setattr(reconcile, "ask", late)
    assert {0: "COMPLETED", 1: "COMPLETED"} == jobs.states()


def test_a_worker_that_dies(jobs: Jobs) -> None:
    """What it had in hand is taken again, once, by another one, after the scheduler has said that its task has ended;
    what ends so for the second time is LOST."""
    jobs.make(LONG, LONG, workers=2).submit()
    jobs.wait_until(lambda: jobs.has_begun(0) and jobs.has_begun(1))
    for attempt in (1, 2):
        jobs.wait_until(lambda attempt=attempt: jobs.has_begun(0, attempt))  # type: ignore[misc]
        os.kill(jobs.anchor(0, attempt)["pid"], signal.SIGKILL)
        jobs.wait_until(lambda attempt=attempt: FileScheduler().has_ended(jobs.task(0, attempt)))  # type: ignore[misc]
        if attempt == 1:
            assert "QUEUED" == jobs.states()[0]  # until the other one has ended its own
            jobs.end(1)
    jobs.wait_for("LOST", "COMPLETED")
    assert {0: ["LOST", "LOST"], 1: ["COMPLETED"]} == jobs.attempts()
    assert [0, 1] == sorted(index for number in (1, 2) if (index := jobs.task(0, number).array_index) is not None)


def test_what_kills_a_worker_kills_its_jobs(jobs: Jobs) -> None:
    """With the process of a task those die that run its jobs at a time: the scheduler takes the task for ended, and
    others may run the jobs again."""
    jobs.make(LONG, LONG, workers=1, pack=2).submit()
    jobs.wait_until(lambda: jobs.has_begun(0) and jobs.has_begun(1))
    (run,) = FileScheduler()._runs(str(jobs.task(0).array), 0)
    os.kill(run["pid"], signal.SIGKILL)
    jobs.wait_until(lambda: all(is_gone(jobs.anchor(job_id)) for job_id in (0, 1)))
    jobs.wait_for("LOST", "LOST")


def test_a_worker_that_is_started_again(jobs: Jobs) -> None:
    """It first goes on with what it had in hand when its node failed or it was preempted."""
    for number, word in enumerate(("PREEMPTED", "NODE_FAIL"), start=1):
        if number == 1:
            jobs.make(LONG, {}, workers=1).submit()
        jobs.wait_until(lambda number=number: jobs.has_begun(0, number))  # type: ignore[misc]
        order(jobs, 0, word, number)
    jobs.wait_until(lambda: jobs.has_begun(0, 3))
    assert {0: "RUNNING", 1: "QUEUED"} == jobs.states()
    jobs.end(0)
    jobs.wait_for("COMPLETED", "COMPLETED")
    assert {0: ["PREEMPTED", "NODE_FAIL", "COMPLETED"], 1: ["COMPLETED"]} == jobs.attempts()
    assert [0, 1, 2] == [jobs.task(0, number).restart for number in (1, 2, 3)]


@pytest.mark.parametrize("how", ["COMPLETED", "FAILED", "PREEMPTED"])
@pytest.mark.parametrize("options", [{}, {"workers": 1}], ids=["array", "workers"])
def test_what_ends_while_its_task_is_put_back(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], how: str
) -> None:
    """A job of which the queue says that it waits, and which has recorded its end when that is believed, is QUEUED
    where it is going to run again, and else what it has recorded; the next look tells the same."""
    held = FileScheduler().root / "hold"
    jobs.make({**LONG, "fails": how == "FAILED"}, **options).submit()
    jobs.wait_until(lambda: jobs.has_begun(0))
    held.touch()

    def late(*about: Any) -> query.Answer:
        with monkeypatch.context() as earlier:
            rows = [row._replace(phase=Phase.WAITING, word="WAITING") for row in FileScheduler().queue([])]
            earlier.setattr(FileScheduler, "queue", lambda *_: rows)
            answer = query.ask(*about)
        order(jobs, 0, how) if how == "PREEMPTED" else jobs.end(0)
        jobs.wait_until(lambda: States(jobs.experiment.folder).state(0, 1) == how)
        return answer

    assert {0: "RUNNING"} == jobs.states()
    with monkeypatch.context() as asked:
        asked.setattr(reconcile, "ask", late)
        told = jobs.states()
    is_again = how == "PREEMPTED" or (how == "FAILED" and not options)  # its task would try it again
    assert {0: "QUEUED" if is_again else how} == told
    if how == "PREEMPTED":
        assert told == jobs.states()
        held.unlink()
        jobs.wait_until(lambda: jobs.has_begun(0, 2))
        jobs.end(0)
        jobs.wait_for("COMPLETED")


def test_single_jobs_are_cancelled(jobs: Jobs) -> None:
    """A job is cancelled alone, whether it waits or runs: its worker goes on with the others."""
    jobs.make(LONG, {}, {}, workers=1).submit()
    jobs.wait_until(lambda: jobs.has_begun(0))
    assert [1] == jobs.cancel(1)
    assert {0: "RUNNING", 1: "CANCELLED", 2: "QUEUED"} == jobs.states()
    assert [0] == jobs.cancel(0)
    jobs.wait_for("CANCELLED", "CANCELLED", "COMPLETED")
    assert not jobs.has_begun(1)


def test_what_people_have_cancelled_stays_so_when_its_worker_is_preempted(jobs: Jobs) -> None:
    """Why it was told to end is known: no later end of its worker's task tells otherwise, and it is not taken again."""
    jobs.make(LONG, LONG, workers=1).submit()
    jobs.wait_until(lambda: jobs.has_begun(0))
    assert [0] == jobs.cancel(0)
    jobs.wait_until(lambda: jobs.has_begun(1))
    order(jobs, 1, "PREEMPTED")
    jobs.wait_until(lambda: jobs.has_begun(1, 2))
    assert {0: "CANCELLED", 1: "RUNNING"} == jobs.states()
    jobs.end(1)
    jobs.wait_for("CANCELLED", "COMPLETED")
    assert {0: ["CANCELLED"], 1: ["PREEMPTED", "COMPLETED"]} == jobs.attempts()


def test_all_jobs_are_cancelled(jobs: Jobs) -> None:
    """With their last jobs the workers end, too."""
    jobs.make(LONG, LONG, LONG, workers=2).submit()
    jobs.wait_until(lambda: jobs.has_begun(0))
    assert [0, 1, 2] == jobs.cancel(0, 1, 2)
    jobs.wait_for("CANCELLED", "CANCELLED", "CANCELLED")
    jobs.wait_until(lambda: not FileScheduler().queue(()))


def test_no_job_that_could_not_end(jobs: Jobs) -> None:
    """A worker takes no job that would need longer than the time that is left, as the longest that it has seen did."""
    jobs.make({"seconds": 3.0}, {}, workers=1, limit_s=6.0).submit()
    jobs.wait_for("COMPLETED", "PENDING")
    jobs.wait_until(lambda: FileScheduler().has_ended(jobs.task(0)))
    assert {0: "COMPLETED", 1: "PENDING"} == jobs.states()


def test_a_broken_machine_does_not_use_up_the_jobs(jobs: Jobs) -> None:
    """A worker whose first jobs all fail at once takes no more, and says so."""
    folder = jobs.make(*[{"fails": True}] * 12, workers=1).experiment.folder
    (array,) = jobs.submit()
    jobs.wait_for(*["FAILED"] * 10, "PENDING", "PENDING")
    said = Path(folder.join("launches", "0001", f"{array.slurm_id}_0.log")).read_text()
    assert "the first 10 jobs here have failed within seconds, all of them" in said
    (left,) = [trouble for trouble in jobs.experiment.status().troubles if trouble.state is State.PENDING]
    assert f"{array.slurm_id}_0 has said last: the first 10 jobs here have failed" in left.reason


def test_jobs_join_workers_that_run(jobs: Jobs) -> None:
    """Jobs of a later launch are QUEUED for workers that are there, run by them, can be cancelled, and are submitted
    with nothing; where no worker waits or runs, they are refused."""
    folder = jobs.make(LONG, workers=1).experiment.folder
    with pytest.raises(JobRefused, match=r"no worker of .* waits or runs"):
        join(folder, jobs.scheduler, [1])
    (array,) = jobs.submit()
    jobs.wait_until(lambda: jobs.has_begun(0))
    for number in (1, 2, 3):
        jobs.experiment.add_job({"number": number}, {"seconds": 0.0, "fails": number == 2})
    jobs.experiment.save()
    arrangement = join(folder, jobs.scheduler, [1, 2, 3])
    about = {"runner": read_launch(folder, "0001").record["runner"], **arrangement.record}
    launch = create_launch(folder, [Attempt(JobId(number), 1, State.PENDING) for number in (1, 2, 3)], about)
    assert arrangement.joined is not None
    assert "1 worker of launch 0001 that waits or runs, under the options of that launch" == arrangement.joined.words
    hand_to_workers(folder, launch, arrangement.joined)
    assert {0: "RUNNING", 1: "QUEUED", 2: "QUEUED", 3: "QUEUED"} == jobs.states()
    assert [(array.slurm_id, False)] == [(again.slurm_id, again.is_new) for again in jobs.submit()]
    assert [3] == jobs.cancel(3)
    jobs.end(0)
    jobs.wait_for("COMPLETED", "COMPLETED", "FAILED", "CANCELLED")
    assert {0: ["COMPLETED"], 1: ["COMPLETED"], 2: ["FAILED"], 3: ["CANCELLED"]} == jobs.attempts()
    assert ["0001", "0002"] == [jobs.anchor(job_id)["launch"] for job_id in (0, 1)]
    jobs.wait_until(lambda: FileScheduler().has_ended(jobs.task(0)))
    with pytest.raises(JobRefused, match=r"no worker of .* waits or runs"):
        join(folder, jobs.scheduler, [2])


@pytest.mark.parametrize(
    ("n_gpus", "options", "on_each"),
    [(2, {"pack": 4}, {"0": 2, "1": 2}), (3, {"pack": 2, "gpus_per_job": 1}, {"0": 1, "1": 1})],
)
def test_gpus_are_dealt_out(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, n_gpus: int, options: dict[str, float], on_each: dict[str, int]
) -> None:
    """The jobs that a worker runs at a time share its GPUs evenly, and so does the next job of each."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(n_gpus))))
    pack, jobs.seconds = int(options["pack"]), 40
    jobs.make(*[LONG] * (pack + 1), workers=1, **options).submit()
    jobs.wait_until(lambda: sum(jobs.has_begun(job_id) for job_id in range(pack + 1)) == pack)
    (waits,) = [job_id for job_id in range(pack + 1) if not jobs.has_begun(job_id)]

    def used(ids: Iterable[int]) -> Counter[str]:
        return Counter(jobs.anchor(job_id)["gpus"].removeprefix("CUDA_VISIBLE_DEVICES=") for job_id in ids)

    assert on_each == used(set(range(pack + 1)) - {waits})
    jobs.end(0 if waits else 1)
    jobs.wait_until(lambda: jobs.has_begun(waits))
    assert on_each == used(set(range(pack + 1)) - {0 if waits else 1})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"workers": 0}, "workers: 0 is no whole number of at least 1"),
        ({"workers": -3}, "workers: -3 is no whole number of at least 1"),
        ({"max_retries": 2}, "max_retries is for jobs that workers take again, and workers is not set"),
        ({"workers": 2, "timeout_min": 1, "job_timeout_min": 2}, "job_timeout_min=2 is longer than timeout_min=1"),
    ],
)
def test_refused(options: dict[str, object], words: str) -> None:
    """Options of workers that cannot be meant are refused in a sentence."""
    with pytest.raises(OptionsError, match=re.escape(words)):
        Slurm().options(options, where="hydra.launcher")


def test_more_workers_than_there_can_be() -> None:
    """There are not more workers than find a job to begin with, nor than an array may have tasks; those of several
    arrays are shared out."""
    limits = USUAL_LIMITS._replace(array_size=20)
    ten, five = (Slurm().options({"workers": 9, "pack": pack}, where="test") for pack in (1, 2))
    assert [9] == [array.n_workers for array in arrays([(ten, range(10))], limits)]
    assert [3] == [array.n_workers for array in arrays([(five, range(6))], limits)]
    assert [8, 1] == [array.n_workers for array in arrays([(ten, range(90)), (five, range(90, 100))], limits)]
    with pytest.raises(OptionsError, match="workers=30: an array has 20 tasks here at most"):
        arrays([(Slurm().options({"workers": 30}, where="test"), range(100))], limits)


def test_what_waits_is_left_to_the_scheduler(jobs: Jobs) -> None:
    """Who works by hand runs no job that waits in a queue, also where the scheduler does not answer; each job runs
    once."""
    (FileScheduler().root / "hold").touch()
    jobs.make({}, {}).submit()
    jobs.experiment.add_job({"number": 2}, {"seconds": 0.0, "fails": False})
    jobs.experiment.save()
    jobs.experiment.save_pass_filter([0, 1, 2])
    runner = str(Path(jobs.experiment.folder.parent, "runner.py"))
    assert [2] == [end.job_id for end in jobs.experiment.run(runner, n_jobs=2).ran]
    assert {0: "QUEUED", 1: "QUEUED", 2: "COMPLETED"} == jobs.states()
    wrong(stalls=True)
    assert jobs.experiment.run(runner).launch is None
    wrong()
    (FileScheduler().root / "hold").unlink()
    jobs.wait_for("COMPLETED", "COMPLETED", "COMPLETED")
    assert [["COMPLETED"]] * 3 == list(jobs.attempts().values())
