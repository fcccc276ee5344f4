"""Jobs of several tasks, tasks of several jobs, arrays of arrays, and what stands around a job: its environment."""

import json
import os
import re
import subprocess
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.conftest import reconfigured, sacct_state, wait_for_queue_to_drain
from tests.cluster.python_jobs import Jobs
from tests.cluster.sweeps import slurm
from tests.conftest import Program, clean_env, wait_until

HOSTILE = 'it\'s $(touch pwned) "50%" %j %%t \\back é'
RANKS = {"nodes": 2, "tasks_per_node": 2, "cpus_per_task": 1, "mem_gb": 0.2}


def at_the_same_time(jobs: Jobs, n: int) -> int:
    """The most jobs that ran at one moment, as they tell themselves."""
    ends = [(jobs.heard(job)[-1][0], -1) for job in range(n)]
    return max(accumulate(step for _, step in sorted([(jobs.heard(job)[0][0], 1) for job in range(n)] + ends)))


def test_tasks_of_one_job(tmp_path: Path) -> None:
    """Four ranks on two nodes have a log each and write the records once; warnings and TERM reach all of them, also
    those that become ready later, but no warning one that never does; one that fails, or runs out of memory, ends the
    others and names itself."""
    well, told, fails, large, ended, first = range(6)
    until = {"s": 60, "until": str(tmp_path / "go")}
    configurations: list[dict[str, Any]] = [
        {"listens": "notes", "imports_s": 3, "late": 3, **until, "show": ["SLURM_PROCID", "SLURM_NTASKS"]},
        {"listens": "should_stop", "s": 60},
        {"rank": 3, "how": {"exit": 5}, "others_s": 60},
        {"rank": 2, "mb": 400, "others_s": 60},
        {"listens": "notes", "s": 60},
        {"listens": "notes", "only": 0, "s": 60, "until": str(tmp_path / "go_on")},
    ]
    more = {"timeout_min": 10, "signal_delay_s": 8, "post_script": ["true"]}
    jobs = Jobs(tmp_path, configurations, name=HOSTILE, **RANKS, **more).submit()
    for rank in range(4):
        jobs.await_word("began", well, rank=rank)
    slurm("scancel", "--batch", "--signal=USR1", jobs.task(well))
    for rank in range(4):
        jobs.await_word("SIGUSR1", well, rank=rank)
    (tmp_path / "go").touch()
    for rank in range(4):
        jobs.await_word("ready", told, rank=rank)
    slurm("scancel", "--batch", "--signal=USR1", jobs.task(told))
    for rank in range(4):
        jobs.await_word("ready", ended, rank=rank)
    slurm("scancel", jobs.task(ended))
    for rank in range(4):
        jobs.await_word("ready", first, rank=rank)
    slurm("scancel", "--batch", "--signal=USR1", jobs.task(first))
    jobs.await_word("SIGUSR1", first)
    (tmp_path / "go_on").touch()
    states = ["COMPLETED", "CANCELLED", "FAILED", "OUT_OF_MEMORY", "CANCELLED", "COMPLETED"]
    assert [f"{job}.1.{state}" for job, state in enumerate(states)] == jobs.await_ends()
    heard = [jobs.words(well, rank=rank) for rank in range(4)]
    assert [["began", "ready", "SIGUSR1", "ends"]] * 4 == [
        list(dict.fromkeys(words)) for words in heard
    ]  # srun repeats
    assert [["began", "ready", "told"]] * 4 == [jobs.words(told, rank=rank) for rank in range(4)]
    assert [["began", "ready", "SIGTERM"]] * 4 == [jobs.words(ended, rank=rank) for rank in range(4)]
    assert ["began", "ready", "ends"] == jobs.words(first, rank=3)
    assert {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"} == jobs.result(well)
    found = sorted(os.listdir(jobs.path / f"jobs/{well}"))
    ranks = [f"heard.1.{rank}.txt" for rank in range(4)] + [
        f"{log}.1{rank}.log" for log in ("stderr", "stdout") for rank in ("", *(f".rank{n}" for n in range(4)))
    ]
    assert sorted([*ranks, "attempt.1.json", "metrics.1.jsonl", "result.1.json"]) == found
    assert 1 == len((jobs.path / f"jobs/{well}/metrics.1.jsonl").read_text().splitlines())
    assert jobs.record(fails)["reason"].endswith("task 3: Exited with exit code 5")
    assert "the kernel killed it for memory" == jobs.record(large)["reason"]
    assert not (tmp_path / "pwned").exists()


def test_jobs_of_one_task(tmp_path: Path) -> None:
    """Packed jobs run at the same time and end each for itself: the task fails with one of them, scancel ends all, and
    where the task begins again it runs only what was interrupted."""
    go, go_on = tmp_path / "go", tmp_path / "go_on"
    until, stops = {"s": 60, "until": str(go)}, {"listens": "should_stop", "s": 60, "until": str(go_on)}
    ends: list[dict[str, Any]] = [until, {**until, "how": {"exit": 3}}, until, until]
    cancelled: list[dict[str, Any]] = [{"s": 60}, {"s": 60}, {"s": 60}, {"listens": "notes", "s": 60}]
    again: list[dict[str, Any]] = [{}, {"how": {"exit": 4}}, stops, stops]
    jobs = Jobs(tmp_path, [*ends, *cancelled, *again], timeout_min=10, pack=4, max_requeues=1).submit()
    for job in range(12):
        jobs.await_word("ready", job)
    go.touch()
    slurm("scancel", jobs.task(1))
    wait_until(lambda: {"8.1.COMPLETED", "9.1.FAILED"} <= set(jobs.states()))
    slurm("scancel", "--batch", "--signal=USR1", jobs.task(2))
    for job in (10, 11):
        jobs.await_word("ready", job, attempt=2)
    go_on.touch()
    expected = [f"{job}.1.{state}" for job, state in enumerate(["COMPLETED", "FAILED", "COMPLETED", "COMPLETED"])]
    expected += [f"{job}.1.CANCELLED" for job in range(4, 8)] + ["8.1.COMPLETED", "9.1.FAILED"]
    expected += [f"{job}.{attempt}" for job in (10, 11) for attempt in ("1.PREEMPTED", "2.COMPLETED")]
    assert sorted(expected) == jobs.await_ends()
    assert 4 == at_the_same_time(jobs, 4)
    rows = [row[1:] for row in sacct_state(jobs.slurm_id, rows=3)]
    assert [("FAILED", "3:0"), ("CANCELLED by 0", "0:0"), ("FAILED", "1:0")] == rows


def test_more_jobs_than_an_array_may_have(program: Program) -> None:
    """11 jobs where MaxArraySize is 4: each runs once, under its own id, in three arrays that share the throttle; ids
    beyond the limit can be run alone."""
    jobs = Jobs(program.home, [{"s": 0.2, "how": n} for n in range(11)], name="train", timeout_min=10, mem_gb=0.1)
    program.experiment = jobs.path
    with reconfigured(extra=["MaxArraySize=4"]):
        program.tool("script", "--set", "array_parallelism=7")
        told = program.told("submit")
        scripts = [Path(one["script"]).read_text() for one in told]
        assert ["0-3%3", "0-3%2", "0-2%2"] == [re.findall("--array=(.*)", text)[0] for text in scripts]
        assert [4, 4, 3] == [len(slurm("squeue", "-h", "-r", "-j", one["slurm_id"]).splitlines()) for one in told]
        assert [f"{n}.1.COMPLETED" for n in sorted(range(11), key=str)] == drained(jobs, told)
        assert list(range(11)) == [jobs.result(n) for n in range(11)]
        assert at_the_same_time(jobs, 11) <= 7
        assert 0 == program.tool("filter", "8,10").returncode
        program.tool("script", "--rerun", "always")
        (one,) = program.told("submit")
        again = [f"{n}.{attempt}.COMPLETED" for n in (10, 8) for attempt in (1, 2)]
        assert again == [name for name in drained(jobs, [one]) if int(name.split(".")[0]) in (8, 10)]


def drained(jobs: Jobs, told: list[dict[str, Any]]) -> list[str]:
    """The states when SLURM has none of these arrays any more."""
    wait_for_queue_to_drain(*(one["slurm_id"] for one in told))
    return jobs.states()


def test_resources_of_their_own(program: Program) -> None:
    """`resources_from`: jobs that ask for the same share an array and get what they ask for; three arrays and two tasks
    at a time are two chains, one array after the other."""
    memory = [0.3, 0.25, 0.35] * 2
    configurations = [{"s": 0.5, "resources": {"mem_gb": gb}, "show": ["SLURM_MEM_PER_NODE"]} for gb in memory]
    jobs = Jobs(program.home, configurations, name="train", timeout_min=10, mem_gb=1, resources_from="resources")
    program.experiment = jobs.path
    program.tool("script", "--set", "array_parallelism=2")
    told = program.told("submit")
    waits = [slurm("squeue", "-h", "-j", one["slurm_id"], "-o", "%K|%E").splitlines() for one in told]
    assert [True, True, False] == [all(row.endswith("|(null)") for row in rows) for rows in waits]
    assert any(f"afterany:{told[0]['slurm_id']}" in row for row in waits[2]), waits
    assert [f"{n}.1.COMPLETED" for n in range(6)] == drained(jobs, told)
    asked = [{"SLURM_MEM_PER_NODE": str(round(gb * 1024 + 0.4999))} for gb in memory]
    assert asked == [jobs.result(n) for n in range(6)]
    assert at_the_same_time(jobs, 6) <= 2
    logs = sorted(path.name for path in (jobs.path / "launches/0001").glob("*.log"))
    assert [] == logs, "empty logs of tasks are not kept"


def test_submitted_from_inside_of_a_job(program: Program) -> None:
    """What SLURM tells a job about itself does not reach the jobs that it submits."""
    names = ["SLURM_MEM_PER_CPU", "SLURM_MEM_PER_NODE", "SLURM_CPUS_PER_TASK", "SBATCH_COMMENT", "SLURM_JOB_NAME"]
    jobs = Jobs(program.home, [{"show": [*names, "KEPT"]}], name="train", timeout_min=10, mem_gb=0.2)
    jobs.experiment.generate_slurm_script()
    line = f"{sys.executable} -m experiment_manager submit {jobs.path}"
    odd = ["--mem-per-cpu=77", "--cpus-per-task=3", "--job-name=outer", f"--output={program.home}/outer.log"]
    outer = subprocess.run(
        ["sbatch", "--parsable", *odd, f"--wrap={line}"], capture_output=True, text=True, check=True, cwd=program.home,
        env=clean_env(KEPT="yes", SBATCH_COMMENT="mine", EXPERIMENT_MANAGER_JOB="7"),
    ).stdout.strip()  # fmt: skip
    assert [(outer, "COMPLETED", "0:0")] == sacct_state(outer), (program.home / "outer.log").read_text()
    wait_until(lambda: jobs.states() == ["0.1.COMPLETED"])
    told = jobs.result(0)
    (array,) = json.loads((jobs.path / "launches/0001/launch.json").read_text())["slurm"]["arrays"]
    expected = {"SLURM_MEM_PER_NODE": "205", "SLURM_JOB_NAME": array["name"], "KEPT": "yes"}
    assert {**dict.fromkeys(names), **expected} == told


def test_words_around_the_job(tmp_path: Path) -> None:
    """`wrap` stands around the job and not around its supervisor."""
    jobs = Jobs(
        tmp_path, [{"s": 1, "show": ["MARK"]}], timeout_min=10, wrap=["env", "MARK=a b$(x)"], post_script=["true"]
    ).submit()
    jobs.await_word("ready")
    pid = json.loads((jobs.path / "states/0.1").read_text())["pid"]
    assert b"MARK=" not in Path(f"/proc/{pid}/environ").read_bytes()
    assert ["0.1.COMPLETED"] == jobs.await_ends()
    assert {"MARK": "a b$(x)"} == jobs.result(0)


def test_hostile_names_and_values(program: Program) -> None:
    """A sweep in a folder with a hostile name, over a hostile value: `sbatch` is typed, and the job gets the very same
    strings."""
    value = "a 'b' \"c\" $(touch pwned) `x` \\n é, [1] {2}"
    done = program.sweep(
        f"text={hydra_quoted(value)}", f"hydra.sweeper.experiment_path={hydra_quoted(HOSTILE)}",
        f"hydra.sweeper.experiment_name={hydra_quoted('#1 ' + HOSTILE)}", "hydra/launcher=slurm_script",
        "hydra.launcher.post_script=[true]",
    )  # fmt: skip
    assert 0 == done.returncode, done.stderr
    program.experiment = program.home / HOSTILE / f"#1 {HOSTILE}"
    (typed,) = [line.partition(": ")[2] for line in done.stderr.splitlines() if line.startswith("submit with")]
    command = typed.partition("  (")[0].replace("sbatch ", "sbatch --parsable ", 1)
    job = subprocess.run(
        ["bash", "-c", command], cwd=program.home, env=clean_env(), capture_output=True, text=True, check=True
    ).stdout.strip()
    wait_for_queue_to_drain(job)
    assert ["0.1.COMPLETED"] == program.states()
    composed = yaml.safe_load((program.experiment / "jobs/0/.hydra/config.yaml").read_text())
    assert value == composed["text"]
    assert not list(program.home.rglob("pwned"))


def hydra_quoted(text: str) -> str:
    return "'" + text.replace("'", "\\'") + "'"  # a backslash is one, unless a quote follows
