"""A user's program that defines an experiment, runs it and reads what came of it, as a type checker sees it: what each
call returns is written down, so that `mypy --strict` is a test of it."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_type

import pandas

from experiment_manager import (
    Comparison,
    Counts,
    CurrentJob,
    Efficiency,
    Experiment,
    ExperimentManagerError,
    Job,
    JobDetails,
    JobDifference,
    JobRow,
    Launched,
    LiveRow,
    Resubmission,
    Resubmitted,
    ResultRow,
    Rows,
    Selection,
    State,
    StateTable,
    Status,
    Trouble,
    Worked,
    current_job,
    find_experiments,
)


def train(job_id: int, variables: dict[str, Any], configuration: Any) -> Mapping[str, float]:
    """What runs one job."""
    job = assert_type(current_job(), CurrentJob)
    for step in range(3):
        if job.should_stop():
            break
        job.log_metrics(step=step, loss=configuration["lr"] / (step + 1))
    assert_type(job.directory, Path)
    return {"score": variables["lr"] * job_id}


def define(folder: Path) -> Experiment:
    """Six jobs, all of which may run."""
    experiment = Experiment(["lr", "seed"], "study", folder)
    for lr in (0.1, 0.2, 0.4):
        for seed in (1, 2):
            assert_type(experiment.add_job({"lr": lr, "seed": seed}, {"lr": lr, "seed": seed}), int)
    experiment.save()
    experiment.save_pass_filter(experiment.get_ids("seed < 3"))
    return experiment


def choose(experiment: Experiment) -> list[int]:
    """The jobs with a small learning rate."""
    selection = assert_type(experiment.select({"lr": [0.1, 0.2]}), Selection)
    jobs = assert_type(list(selection.jobs), list[Job])
    for dropped in selection.dropped:
        assert_type(len(dropped.ids), int)
    return [int(job.id) for job in jobs]


def follow(experiment: Experiment) -> int:
    """How many jobs have completed."""
    status = assert_type(experiment.status(by=["lr"], every=True), Status)
    counts = assert_type(status.counts, Counts)
    troubles = assert_type(status.troubles, tuple[Trouble, ...])
    print(*(f"{len(trouble.ids)} {trouble.state}: {trouble.reason}" for trouble in troubles))
    rows = assert_type(status.live, tuple[LiveRow, ...])
    assert_type([row["elapsed_s"] for row in rows], list[float | None])
    assert_type([group["states"] for group in status.groups], list[dict[str, int]])
    table = assert_type(experiment.states(), StateTable)
    assert_type(table.state(0), State)
    return counts["COMPLETED"]


def read(experiment: Experiment) -> float:
    """The best score."""
    jobs = assert_type(experiment.jobs("seed == 1"), Rows[JobRow])
    assert_type([row["state"] for row in jobs if row["selected"]], list[str])
    rows = assert_type(experiment.result_rows(), Rows[ResultRow])
    scores: list[float] = [row["result"]["score"] for row in rows]
    frame = assert_type(experiment.results(), pandas.DataFrame)
    print(frame.groupby("lr")["score"].mean())
    assert_type(experiment.metrics(), pandas.DataFrame)
    details = assert_type(experiment.show(0), JobDetails)
    assert_type([attempt["reason"] for attempt in details["attempts"]], list[str | None])
    difference = assert_type(experiment.diff(0, 1), JobDifference)
    assert_type(difference["configuration"], dict[str, tuple[str, str]])
    return max(scores)


def judge(experiment: Experiment) -> str:
    """The best learning rate, and what the jobs have cost."""
    comparison = assert_type(experiment.compare(by=["lr"], metric="score"), Comparison)
    for method in comparison.methods:
        assert_type(method.label, str)
    used = assert_type(experiment.efficiency(), Efficiency)
    assert_type(used.groups[0].options, Mapping[str, Any])
    return comparison.methods[0].label


def again(experiment: Experiment) -> None:
    """What has failed runs again: nothing, here."""
    planned = assert_type(
        experiment.plan_resubmission(state="failed", launcher="local_pool", runner=__file__), Resubmission
    )
    done = assert_type(experiment.carry_out(planned), Resubmitted)
    if done.launch is not None:
        print(done.launch.number, *done.ids)


def sweep(folder: Path) -> tuple[str, ...]:
    """The same from YAML: the scripts that would run it on a cluster."""
    (folder / "conf").mkdir()
    (folder / "conf/train.yaml").write_text("lr: 0.1\nseed: 1\n")
    overrides = ["lr=0.1,0.2", "seed=1,2"]
    experiment = Experiment.from_sweep(folder / "conf", "train", overrides, experiment_path=folder)
    assert_type(experiment, Experiment)
    launched = assert_type(experiment.launch("slurm_script", __file__, timeout_min=10), Launched)
    return launched.scripts


def main(folder: Path) -> int:
    """The whole way."""
    try:
        experiment = define(folder)
        print(choose(experiment))
        worked = assert_type(experiment.run(train, n_jobs=2), Worked)
        print(worked, *(end.state for end in worked.ran))
        print(follow(experiment), read(experiment), judge(experiment))
        again(experiment)
        print(len(sweep(folder)))
        print(*(found.experiment_name for found in find_experiments(folder)))
    except ExperimentManagerError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
