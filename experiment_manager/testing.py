"""What every scheduler has to do for us, as tests that anybody can run against one of their own.

    from experiment_manager.testing import SchedulerContract

    class TestMine(SchedulerContract):
        @pytest.fixture
        def scheduler(self) -> Scheduler:
            return Mine()

Needs pytest, and a scheduler that starts small jobs within `seconds`. Jobs are real: each is a process, and their
folder is pytest's `tmp_path`, which the scheduler's nodes have to see.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

import pytest

from experiment_manager.errors import OptionsError
from experiment_manager.experiment import Experiment
from experiment_manager.model.records import State, Task
from experiment_manager.scheduler import scripts
from experiment_manager.scheduler.cancel import cancel
from experiment_manager.scheduler.protocol import Scheduler
from experiment_manager.scheduler.reconcile import active_tasks, reconciled
from experiment_manager.scheduler.records import Options, Phase, Run
from experiment_manager.scheduler.submission import Submitted, newest_launch, submit
from experiment_manager.store.states import task_in

_RUNNER: Final = """
import sys, time
from pathlib import Path
from experiment_manager import Experiment, current_job

def run(job_id, variables, configuration):
    job = current_job()
    Path(job.directory, f"began.{job.attempt}").touch()
    until = time.monotonic() + configuration["seconds"]
    while time.monotonic() < until and not Path(job.directory, "end").exists():
        time.sleep(0.02)
    if configuration["fails"]:
        raise ValueError("as it was configured")
    return {"attempt": job.attempt}

words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
experiment = Experiment.load(words["--experiment-name"], words["--experiment-path"])
experiment.run_id(int(words["--job-id"]), run)
"""


class _Configured(NamedTuple):
    scheduler: str
    options: Options
    python_runner: str | None
    job_runner: Sequence[str] | None = None


class Jobs:
    """An experiment of small jobs for a scheduler: each lasts so many seconds, or until `end`, and may fail."""

    def __init__(self, scheduler: Scheduler, home: Path, options: Mapping[str, Any], seconds: float) -> None:
        self.scheduler, self.seconds, self._options, self._home = scheduler, seconds, options, home
        home.mkdir(parents=True, exist_ok=True)
        (home / "runner.py").write_text(_RUNNER)
        self.experiment = Experiment(["number"], "jobs", home)

    def make(self, *configurations: Mapping[str, Any], **options: Any) -> "Jobs":
        """Jobs with these configurations, and their scripts, are written."""
        for number, configuration in enumerate(configurations):
            self.experiment.add_job({"number": number}, {"seconds": 0.0, "fails": False, **configuration})
        self.experiment.save()
        self.experiment.save_pass_filter(self.experiment.get_all_ids())
        checked = self.scheduler.options({**self._options, **options}, where="test")
        configured = _Configured(self.scheduler.name, checked, str(self._home / "runner.py"))
        scripts.write(
            self.experiment.folder, configured, runner=None, name=None, n_jobs=None, rerun="failed", overrides={}
        )
        return self

    def submit(self) -> list[Submitted]:
        """The scripts are submitted; what was submitted before is not submitted again."""
        return submit(self.experiment.folder, newest_launch(self.experiment.folder))

    def states(self) -> dict[int, str]:
        """The state of each job, the scheduler having been asked."""
        table = reconciled(self.experiment.folder)
        return {job_id: str(table.state(job_id)) for job_id in self.experiment.get_all_ids()}

    def attempts(self) -> dict[int, list[str]]:
        """The states of all attempts of each job, the scheduler having been asked."""
        table = reconciled(self.experiment.folder)
        return {
            int(job): [str(numbers[number]) for number in sorted(numbers)] for job, numbers in table.attempts.items()
        }

    def wait_for(self, *states: str) -> None:
        """Until the jobs are in these states; fails the test when that takes longer than `seconds`."""
        wanted = dict(enumerate(states))
        self.wait_until(lambda: wanted == self.states(), lambda: f"{wanted} did not come: {self.attempts()}")

    def wait_until(self, condition: Callable[[], Any], said: Callable[[], str] = lambda: "nothing came") -> None:
        deadline = time.monotonic() + self.seconds
        while not condition():
            assert time.monotonic() < deadline, said()
            time.sleep(0.05)

    def has_begun(self, job_id: int, attempt: int = 1) -> bool:
        """Whether the task function of an attempt was called."""
        return Path(self.experiment.folder.job(job_id), f"began.{attempt}").exists()

    def end(self, job_id: int) -> None:
        """The job returns."""
        Path(self.experiment.folder.job(job_id), "end").touch()

    def anchor(self, job_id: int, attempt: int = 1) -> dict[str, Any]:
        from experiment_manager.store.states import States

        return States(self.experiment.folder).record(job_id, attempt)

    def task(self, job_id: int, attempt: int = 1) -> Task:
        """The task that an attempt ran in."""
        found = task_in(self.anchor(job_id, attempt))
        assert found is not None, f"the anchor of attempt {attempt} of job {job_id} names no task"
        return found

    def cancel(self, *ids: int) -> list[int]:
        return cancel(self.experiment.folder, ids, reconciled(self.experiment.folder))


class SchedulerContract:
    """What a scheduler has to do; see the head of this module."""

    options: ClassVar[Mapping[str, Any]] = {}
    """Of every job, as `partition`; nothing is needed where the scheduler has defaults."""

    seconds: ClassVar[float] = 180.0
    """How long a job may take from its submission to its end, and its end until it is known."""

    @pytest.fixture
    def scheduler(self) -> Scheduler:
        raise NotImplementedError("give the scheduler that is to be tested")

    @pytest.fixture
    def jobs(self, scheduler: Scheduler, tmp_path: Path) -> Iterator[Jobs]:
        """Of whatever a test leaves in the queue nothing stays there."""
        found = Jobs(scheduler, tmp_path / "home", self.options, self.seconds)
        yield found
        tasks = active_tasks(found.experiment.folder, reconciled(found.experiment.folder))
        scheduler.cancel((task.array, task.array_index) for task in tasks)

    def test_is_found_by_its_name(self, scheduler: Scheduler) -> None:
        """The name leads to the class, also in the processes of tasks; outside of a task it says so."""
        from experiment_manager.scheduler import schedulers

        assert type(scheduler) is type(schedulers.named(scheduler.name))
        assert scheduler.task({}) is None
        assert scheduler.is_available()

    def test_options_are_checked(self, scheduler: Scheduler) -> None:
        """Options come back as they were kept; one that is not known is named."""
        checked = scheduler.options({**self.options, "name": "train", "pack": 2}, where="test")
        assert checked == scheduler.options(scheduler.kept(checked), where="test")
        assert ("train", 2) == (checked.name, checked.pack)
        with pytest.raises(OptionsError, match=r"^test: .*no_such_option"):
            scheduler.options({"no_such_option": 1}, where="test")

    def test_jobs_run_to_their_end(self, jobs: Jobs) -> None:
        """Each job runs once, in a task of its own that its anchor names; how it ended is recorded."""
        jobs.make({}, {"fails": True}, {}).submit()
        jobs.wait_for("COMPLETED", "FAILED", "COMPLETED")
        assert {0: ["COMPLETED"], 1: ["FAILED"], 2: ["COMPLETED"]} == jobs.attempts()
        tasks = [jobs.task(job_id) for job_id in range(3)]
        assert [(jobs.scheduler.name, 0)] * 3 == [(task.scheduler, task.restart) for task in tasks]
        assert 3 == len({task.name for task in tasks})
        assert jobs.scheduler.name == jobs.anchor(0)["scheduler"]

    def test_what_runs_is_known(self, jobs: Jobs) -> None:
        """A task that runs is in the queue under the name of its array, and has not ended; afterwards it has."""
        jobs.make({"seconds": self.seconds}).submit()
        jobs.wait_for("RUNNING")
        jobs.wait_until(lambda: jobs.has_begun(0))
        task = jobs.task(0)
        rows = [row for row in jobs.scheduler.queue({task.user or ""}) if row.array == task.array]
        assert [(Phase.RUNNING, True)] == [(row.phase, task.array_index in (row.indices or ())) for row in rows]
        assert not jobs.scheduler.has_ended(task)
        jobs.end(0)
        jobs.wait_for("COMPLETED")
        jobs.wait_until(lambda: jobs.scheduler.has_ended(task))

    def test_history_tells_how_it_ended(self, jobs: Jobs) -> None:
        """Where a history is kept, it tells of each task under the name of its array, with times, and of no other."""
        before = time.time() - 60
        (array,) = jobs.make({}, {"fails": True}).submit()
        jobs.wait_for("COMPLETED", "FAILED")
        if jobs.scheduler.history([array.name], before) is None:
            pytest.skip("this scheduler keeps no history")
        ended = {0: State.COMPLETED, 1: State.FAILED}

        def runs() -> dict[int | None, Run]:
            return {run.array_index: run for run in jobs.scheduler.history([array.name], before) or ()}

        jobs.wait_until(lambda: ended == {index: run.end for index, run in runs().items()}, lambda: str(runs()))
        assert {array.slurm_id} == {run.array for run in runs().values()}
        assert all(before < (run.start or 0) <= (run.end_time or 0) for run in runs().values())
        assert not jobs.scheduler.history(["nobody-has-this-name"], before)

    def test_submitted_once(self, jobs: Jobs) -> None:
        """However often it is said, an array is submitted once, also when the record of it was lost."""
        first = jobs.make({"seconds": self.seconds}).submit()
        assert [(True, False)] == [(one.is_new, again.is_new) for one, again in zip(first, jobs.submit(), strict=True)]
        folder = jobs.experiment.folder
        record = Path(folder.join("launches", newest_launch(folder).number, "submission.json"))
        record.unlink()
        again = jobs.submit()
        assert [one.slurm_id for one in first] == [one.slurm_id for one in again]
        assert not any(one.is_new for one in again)
        jobs.wait_until(lambda: jobs.has_begun(0))
        jobs.end(0)
        jobs.wait_for("COMPLETED")
        assert {0: ["COMPLETED"]} == jobs.attempts()

    def test_cancelled_while_it_runs(self, jobs: Jobs) -> None:
        """Jobs that are cancelled end, are CANCELLED, and leave the queue; others go on."""
        jobs.make({"seconds": self.seconds}, {"seconds": self.seconds}).submit()
        jobs.wait_until(lambda: jobs.has_begun(0) and jobs.has_begun(1))
        assert [1] == jobs.cancel(1)
        jobs.wait_for("RUNNING", "CANCELLED")
        jobs.end(0)
        jobs.wait_for("COMPLETED", "CANCELLED")
        assert {0: ["COMPLETED"], 1: ["CANCELLED"]} == jobs.attempts()

    def test_cancelled_before_it_begins(self, jobs: Jobs) -> None:
        """What waits behind a throttle is QUEUED, and is CANCELLED without having begun."""
        jobs.make({"seconds": self.seconds}, {"seconds": self.seconds}, array_parallelism=1).submit()
        jobs.wait_for("RUNNING", "QUEUED")
        assert [1] == jobs.cancel(1)
        assert {0: "RUNNING", 1: "CANCELLED"} == jobs.states()
        jobs.wait_until(lambda: jobs.has_begun(0))
        jobs.end(0)
        jobs.wait_for("COMPLETED", "CANCELLED")
        assert not jobs.has_begun(1)

    def test_several_jobs_in_one_task(self, jobs: Jobs) -> None:
        """Packed jobs share a task, and each has its own end."""
        jobs.make({}, {"fails": True}, {}, pack=3).submit()
        jobs.wait_for("COMPLETED", "FAILED", "COMPLETED")
        assert 1 == len({jobs.task(job_id).name for job_id in range(3)})

    def test_workers_share_jobs(self, jobs: Jobs) -> None:
        """Two tasks run five jobs, each once, as it would run in a task of its own; what waits for them is QUEUED."""
        jobs.make({"seconds": self.seconds}, {"seconds": self.seconds}, {}, {"fails": True}, {}, workers=2).submit()
        jobs.wait_for("RUNNING", "RUNNING", "QUEUED", "QUEUED", "QUEUED")
        jobs.wait_until(lambda: jobs.has_begun(0) and jobs.has_begun(1))
        assert [4] == jobs.cancel(4)
        jobs.end(1)
        jobs.wait_for("RUNNING", "COMPLETED", "COMPLETED", "FAILED", "CANCELLED")
        jobs.end(0)
        jobs.wait_for("COMPLETED", "COMPLETED", "COMPLETED", "FAILED", "CANCELLED")
        assert [1] * 5 == [len(states) for states in jobs.attempts().values()]
        assert {jobs.task(1).name} == {jobs.task(2).name, jobs.task(3).name} != {jobs.task(0).name}

    def test_run_again(self, jobs: Jobs) -> None:
        """A job that failed runs again under the same id, as its next attempt; what completed does not."""
        jobs.make({}, {"fails": True}).submit()
        jobs.wait_for("COMPLETED", "FAILED")
        jobs.make()
        jobs.submit()
        jobs.wait_until(lambda: len(jobs.attempts()[1]) == 2 and jobs.states()[1] == "FAILED")
        assert {0: ["COMPLETED"], 1: ["FAILED", "FAILED"]} == jobs.attempts()


def register(name: str, where: str, folder: Path) -> None:
    """The scheduler `where` ("package.module:Class") is known by its name from now on, here and, with `folder` on
    PYTHONPATH, in other processes: as if a package had been installed that brings it as an entry point."""
    about = folder / f"{name}_scheduler-0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-scheduler\nVersion: 0\n")
    (about / "entry_points.txt").write_text(f"[experiment_manager.schedulers]\n{name} = {where}\n")
    sys.path.append(str(folder))
