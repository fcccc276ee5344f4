"""What jobs used of what they asked for, from records that are really on disk: shares, hours, options, and cautions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from experiment_manager import Efficiency, Experiment, ExperimentManagerError, Hours
from experiment_manager.model.records import Attempt, JobId, State
from experiment_manager.scheduler.arrays import arrays
from experiment_manager.scheduler.records import Share
from experiment_manager.scheduler.slurm.options import as_mapping, make
from experiment_manager.scheduler.slurm.scheduler import Slurm
from experiment_manager.scheduler.submission import records
from experiment_manager.store.launches import create_launch
from experiment_manager.store.states import States

GB = 2**30
HOUR: Mapping[str, Any] = {"start": 1e9, "end": 1e9 + 3600, "reason": None, "cpu_s": 3600.0, "peak_memory_bytes": GB}
ASKED = {"mem_gb": 8, "cpus_per_task": 4, "timeout_min": 600}


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    """Two algorithms with six seeds each; nothing has begun."""
    found = Experiment(["algorithm", "seed"], "e", tmp_path)
    for algorithm in ("DDPG", "TD3"):
        for seed in range(6):
            found.add_job({"algorithm": algorithm, "seed": seed}, {})
    found.save()
    return found


def ran(
    experiment: Experiment,
    ids: range | list[int],
    options: Mapping[str, Any] | None,
    state: State = State.COMPLETED,
    **end: Any,
) -> None:
    """A launch with these options has run each of the jobs once more, an hour long, and so they ended."""
    about: dict[str, Any] = {}
    if options is not None:
        about["slurm"] = {"arrays": records(arrays([(make(options, where="test"), list(ids))]), "e", as_mapping)}
    number = experiment.states().next_number(ids[0])
    launch = create_launch(experiment.folder, (Attempt(JobId(job), number, State.PENDING) for job in ids), about)
    states = States(experiment.folder)
    for job in ids:
        attempt = states.claim(job, {"launch": launch.number, **({} if options is None else {"scheduler": "slurm"})})
        states.finish(job, attempt, state, {**HOUR, "peak_memory_from": "cgroup", **end})


def said(found: Efficiency) -> str:
    return "\n".join(found.notes)


def test_before_anything_has_ended_it_says_so(experiment: Experiment) -> None:
    """That no attempt has ended is said of jobs that are chosen, and of none that none is."""
    assert ("no attempt has ended yet",) == experiment.efficiency().notes
    assert ("no job is chosen",) == experiment.efficiency("state:FAILED").notes


def test_what_was_asked_used_and_wasted(experiment: Experiment) -> None:
    """Shares and hours are those of all attempts, what failed is lost with all that it held, and the options would have
    been enough for the job that used most, with a margin."""
    ran(experiment, range(12), ASKED, State.FAILED)
    ran(experiment, range(11), ASKED)
    ran(experiment, [11], ASKED, peak_memory_bytes=3 * GB, cpu_s=5400.0)
    (used,) = (found := experiment.efficiency()).groups
    assert (12, 24, 12, {"FAILED": 12}) == (used.n_jobs, used.n_attempts, used.n_measured, used.ended_badly)
    assert (8 * GB, 3 * GB, GB) == (used.asked_memory_bytes, used.used_memory_bytes, used.median_memory_bytes)
    assert (4, 36000, 3600) == (used.asked_cpus, used.limit_s, used.used_s)
    assert pytest.approx((14 / 96, 12.5 / 48, 0.1)) == (used.memory_share, used.cpu_share, used.time_share)
    assert (Hours(96, 0, 192), Hours(48, 0, 96)) == (used.hours, used.lost)
    assert pytest.approx((48 - 12.5, 96 - 14)) == (used.unused.cpu, used.unused.gb)
    assert "hydra.launcher.mem_gb=4 hydra.launcher.cpus_per_task=2 hydra.launcher.timeout_min=90" == used.settings
    assert "lost is all that attempts held" in said(found)


def logged(experiment: Experiment, job: int, attempt: int, *steps: int) -> None:
    path = Path(experiment.folder.of_attempt(job, attempt, "metrics"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f'{{"step": {step}, "time": 1.0, "values": {{"loss": 0.5}}}}\n' for step in steps))


@pytest.mark.parametrize(
    ("state", "first", "second", "limit_min"),
    [
        (State.TIMEOUT, (), (), 105),
        (State.PREEMPTED, (1, 2), (3, 4), 105),
        (State.FAILED, (1, 2), (3, 4), 105),
        (State.TIMEOUT, (1, 2), (1, 2), 15),
        (State.FAILED, (), (), 15),
    ],
)
def test_a_job_that_went_on_needs_the_time_of_all_its_attempts(
    experiment: Experiment, state: State, first: tuple[int, ...], second: tuple[int, ...], limit_min: int
) -> None:
    """A limit is suggested in which it would have come to its end at once; what was begun anew does not count."""
    ran(experiment, range(12), ASKED, state, peak_memory_bytes=3 * GB)
    ran(experiment, range(12), ASKED, end=1e9 + 600, cpu_s=600.0)
    for job in range(12):
        for attempt, steps in ((1, first), (2, second)):
            if steps:
                logged(experiment, job, attempt, *steps)
    (used,) = (found := experiment.efficiency()).groups
    assert (limit_min, 4 if limit_min > 15 else 1.5) == (used.options["timeout_min"], used.options["mem_gb"])
    assert ("12 jobs went on from earlier attempts" in said(found)) is (limit_min > 15)


def test_gpus_that_were_idle(experiment: Experiment) -> None:
    """How busy GPUs were is told of those attempts that were looked at; of the others it is said that nobody knows."""
    ran(experiment, range(6), {**ASKED, "gpus_per_node": 2}, gpu_s=1800.0, peak_gpu_memory_bytes=GB)
    ran(experiment, range(6, 12), {**ASKED, "gpus_per_node": 2})
    (used,) = (found := experiment.efficiency()).groups
    assert (2, 0.5, 0.25, GB) == (used.asked_gpus, used.used_gpus, used.gpu_share, used.used_gpu_memory_bytes)
    assert (24, 9) == (used.hours.gpu, used.unused.gpu)
    assert "how busy the GPUs of 6 attempts were is not known" in said(found)


def test_groups_that_differ(experiment: Experiment) -> None:
    """The variable by which use differs is named, and each of its groups has options of its own; one that only repeats
    jobs is none."""
    ran(experiment, range(6), ASKED)
    ran(experiment, range(6, 12), ASKED, peak_memory_bytes=4 * GB)
    assert "memory differs 4-fold by algorithm: look with --group-by algorithm" in said(experiment.efficiency())
    groups = experiment.efficiency(by=["algorithm"]).groups
    assert [("DDPG", 1.5), ("TD3", 5.0)] == [
        (group.variables["algorithm"], group.options["mem_gb"]) for group in groups
    ]
    assert 1 == len(experiment.efficiency("algorithm == 'TD3'", by=["algorithm"]).groups)
    with pytest.raises(ExperimentManagerError, match="'algo' is no variable; the variables are algorithm, seed"):
        experiment.efficiency(by=["algo"])


def test_no_options_of_what_is_not_known(experiment: Experiment) -> None:
    """Nothing is suggested of few jobs, of memory that jobs still lack, or of what was hardly enough."""
    ran(experiment, range(4), ASKED)
    assert ({}, True) == (
        experiment.efficiency().groups[0].options,
        "fewer than 5 jobs" in said(experiment.efficiency()),
    )
    ran(experiment, range(4, 6), {"mem_gb": 1.1, "timeout_min": 60})
    ran(experiment, [6], ASKED, State.OUT_OF_MEMORY)
    found = experiment.efficiency()
    assert {"cpus_per_task": 2, "timeout_min": 90} == found.groups[0].options
    assert "1 job OUT_OF_MEMORY: how much memory they need is not known" in said(found)
    ran(experiment, [6], {"mem_gb": 1.1, "timeout_min": 60})
    assert {} == experiment.efficiency().groups[0].options


def test_a_part_of_a_task(experiment: Experiment) -> None:
    """A packed job has its part of the task, and the options are of the whole; the time of a worker is no limit of its
    jobs, and memory that nobody counted is said to have been looked at."""
    ran(experiment, range(12), {**ASKED, "pack": 4, "workers": 2, "gpus_per_node": 2}, peak_memory_from="samples")
    (used,) = (found := experiment.efficiency()).groups
    assert (2 * GB, 1, 0.5, None) == (used.asked_memory_bytes, used.asked_cpus, used.asked_gpus, used.limit_s)
    assert (Hours(12, 6, 24), {"mem_gb": 5.0}) == (used.hours, used.options)
    assert "looked at every few seconds" in said(found)
    assert "what workers held while they had none is not in them" in said(found)
    assert "how busy the GPUs of 12 attempts were is not known" in said(found)


def test_what_nobody_has_recorded(experiment: Experiment) -> None:
    """An attempt without a record counts in no hours, several tasks of a job in no use, and both are said; without a
    scheduler nothing was asked for, and hours are those that were used."""
    ran(experiment, range(2), ASKED, State.LOST, start=None)
    ran(experiment, range(2, 4), {**ASKED, "tasks_per_node": 2})
    found = experiment.efficiency()
    assert (16, None, None) == (found.groups[0].hours.cpu, found.groups[0].used_memory_bytes, found.groups[0].used_cpus)
    assert "of 2 attempts nobody has recorded when they began and ended" in said(found)
    assert "2 attempts of several tasks each" in said(found)
    ran(experiment, range(6, 12), None, peak_memory_from=None)
    (used,) = (found := experiment.efficiency("algorithm == 'TD3'")).groups
    assert (None, Hours(6, None, None)) == (used.asked_cpus, used.hours)
    assert {"mem_gb": 1.5, "cpus_per_task": 2, "timeout_min": 90} == used.options
    assert "no scheduler ran them" in said(found)
    assert "an earlier version ran 6 attempts" in said(found)


@pytest.mark.parametrize(
    ("expected", "options"),
    [
        (Share(1, 0, None, None), {"mem_gb": 0}),
        (
            Share(8, 4, 4 * 8 * GB, 3600),
            {"gpus_per_node": 4, "cpus_per_gpu": 2, "mem_per_gpu": "8G", "timeout_min": 60},
        ),
        (Share(4, 2, None, 30), {"gres": "gpu:a100:2", "cpus_per_task": 4, "job_timeout_min": 0.5, "timeout_min": 5}),
        (Share(None, None, 2 * GB, None), {"mem_gb": 2, "additional_parameters": {"exclusive": True}}),
        (Share(16, 0, 16 * GB, None), {"nodes": 2, "tasks_per_node": 2, "cpus_per_task": 4, "mem_per_cpu": "1G"}),
    ],
)
def test_what_the_options_of_slurm_ask_for(expected: Share, options: dict[str, Any]) -> None:
    """Each job's share, with all its tasks, however it was asked for; what only a node knows is not known."""
    assert expected == Slurm().share(as_mapping(make(options, where="test")))


def test_memory_by_processor_stays_where_memory_is_not_known() -> None:
    """Fewer processors would be less memory, too."""
    assert {} == Slurm().fitting(Share(cpus=1), {"mem_per_cpu": "4G", "cpus_per_task": 4})
