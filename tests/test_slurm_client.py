"""What SLURM's commands are asked, by programs that stand for them and note their words."""

import datetime
import json
import os
import pwd
import shlex
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_manager import Experiment
from experiment_manager.errors import NotOverYet, SlurmError
from experiment_manager.model.records import State, Task
from experiment_manager.scheduler import schedulers
from experiment_manager.scheduler.reconcile import EndsOfTasks
from experiment_manager.scheduler.records import NOTHING, Dependency
from experiment_manager.scheduler.slurm import client
from experiment_manager.scheduler.slurm.scheduler import Slurm, _is_among
from experiment_manager.scheduler.slurm.through_submitit import send_with
from experiment_manager.store.states import States


@pytest.mark.parametrize("ahead_s", [0, 600, 100_000])
def test_accounting_is_asked_from_before_the_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_s: int
) -> None:
    """Clocks disagree: accounting is asked from a while before the launch on, and never from a moment to come."""
    said = tmp_path / "said"
    commands(tmp_path, monkeypatch, sacct=f'echo "$@" > {said}')
    now = time.time()
    assert [] == client.sacct(["name"], now + ahead_s)
    words = said.read_text().split()
    since = datetime.datetime.fromisoformat(words[words.index("-S") + 1]).replace(tzinfo=datetime.UTC)
    assert since.timestamp() < now - 3600


def test_a_script_for_another_cluster_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that names another cluster than the one that is asked is not submitted, since its jobs could not be
    followed; with SLURM_CLUSTERS all commands go there, accounting among them, and the submission tells where."""
    said = {"scontrol": "ClusterName = here", "sbatch": "12;other", "sacct": ""}
    lines = {name: f"echo {name} $* >> {tmp_path}/said; echo '{words}'" for name, words in said.items()}
    commands(tmp_path, monkeypatch, **lines)
    script = tmp_path / "slurm_scripts.sh"
    script.write_text("#!/bin/bash\n#SBATCH --clusters=other\n")
    forget_cluster()
    try:
        with pytest.MonkeyPatch.context() as while_down:
            while_down.setenv("PATH", "/nowhere")  # what is not told now may be told in a moment
            with pytest.raises(SlurmError, match="for the cluster other, and another one is asked"):
                client.sbatch(str(script))
        client._told_config.cache_clear()  # a minute later
        with pytest.raises(SlurmError, match=r"for the cluster other, and here is asked.*set SLURM_CLUSTERS=other"):
            client.sbatch(str(script))
        assert "sbatch" not in (tmp_path / "said").read_text()
        assert frozenset({"here"}) == client.asked_clusters()
        monkeypatch.setenv("SLURM_CLUSTERS", "other")
        assert ("12", frozenset({"other"})) == (client.sbatch(str(script)), client.asked_clusters())
        client.sacct(["name"], 0.0)
        assert "sacct -M other -a" in (tmp_path / "said").read_text()
    finally:
        forget_cluster()


@pytest.mark.parametrize("way", ["our own", "submitit"])
@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (["12"], "12"),
        (["your budget is", "1000 hours", "12"], "12"),
        (["12", "12"], "12"),
        (["12", "5000"], None),
        (["5000", "12"], None),
        (["welcome"], None),
    ],
)
def test_an_id_among_other_numbers_is_in_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, said: list[str], expected: str | None
) -> None:
    """Where a program of the site, which calls sbatch, prints numbers of its own, no id is guessed: what may have been
    submitted is looked for by its name."""
    words = said if way == "our own" else [f"Submitted batch job {word}" if word.isdigit() else word for word in said]
    sbatch = f"printf '%s\\n' {shlex.join(words)}"
    commands(tmp_path, monkeypatch, scontrol="echo ClusterName = here", sbatch=sbatch, srun="")
    script = tmp_path / "slurm_scripts.sh"
    script.write_text("#!/bin/bash\n")
    send = client.sbatch if way == "our own" else lambda path: send_with(f"{tmp_path}/%j")(path, NOTHING)
    if expected is not None:
        assert expected == send(str(script))
        return
    with pytest.raises(SlurmError, match="has not said which id the job got") as caught:
        send(str(script))
    assert caught.value.is_doubtful


def test_submitit_hands_over_the_script_that_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its path an array is known that a plugin has renamed and of which no id was noted; submitit keeps a copy."""
    said = f"echo $* > {tmp_path}/said; echo Submitted batch job 12"
    commands(tmp_path, monkeypatch, scontrol="echo ClusterName = here", sbatch=said, srun="")
    script = tmp_path / "slurm_scripts.sh"
    script.write_text("#!/bin/bash\n")
    assert "12" == send_with(f"{tmp_path}/of-submitit/%j")(str(script), Dependency(ended=("7",)))
    assert f"--dependency=afterany:7 {script}\n" == (tmp_path / "said").read_text()
    assert ["#!/bin/bash\n"] == [path.read_text() for path in (tmp_path / "of-submitit").rglob("*_submission.sh")]
    assert not [path for path in (tmp_path / "of-submitit").rglob("*") if path.is_symlink()]


def test_the_script_counts_and_not_the_environment(tmp_path: Path) -> None:
    """SLURM lets SBATCH_* overrule a script: what names a submission, and what its lines set, is put aside; people's
    defaults for the rest stay."""
    script = tmp_path / "slurm_scripts.sh"
    script.write_text("#!/bin/bash\n#SBATCH --time=01:00:00\n#SBATCH --mem=4G\n#SBATCH -p long\n#SBATCH --no-requeue\n")
    names = ("JOB_NAME", "ARRAY_INX", "EXPORT", "OUTPUT", "TIMELIMIT", "MEM_PER_CPU", "PARTITION", "REQUEUE")
    environ = {f"SBATCH_{name}": "mine" for name in (*names, "ACCOUNT", "QOS", "GPUS_PER_NODE")}
    left = client.submission_environment({**environ, "HOME": "/h"}, str(script))
    assert {"SBATCH_ACCOUNT", "SBATCH_QOS", "SBATCH_GPUS_PER_NODE", "HOME"} == left.keys()


@pytest.mark.parametrize(
    ("line", "gone"),
    [
        ("--time=1 -p long --qos high", {"TIMELIMIT", "PARTITION", "QOS"}),
        ("--comment='it --time=1' -A lab  # --qos=low", {"COMMENT", "ACCOUNT"}),
        ("--comment=it's -plong", {"COMMENT", "PARTITION"}),
        ("-c 4", {"CPUS_PER_TASK", "CPUS_PER_GPU"}),
        ("--cpus-per-gpu=4", {"CPUS_PER_TASK", "CPUS_PER_GPU"}),
        ("--gpus-per-node=1", {"GPUS", "GPUS_PER_NODE", "GPUS_PER_SOCKET", "GPUS_PER_TASK", "GRES"}),
    ],
)
def test_what_a_line_of_a_script_says_counts(tmp_path: Path, line: str, gone: set[str]) -> None:
    """Of a line with several options each counts, and of options that say the same otherwise none of the environment;
    what stands in quotes, or behind a #, is none."""
    script = tmp_path / "slurm_scripts.sh"
    script.write_text(f"#!/bin/bash\n#SBATCH {line}\n")
    names = {
        *("TIMELIMIT", "PARTITION", "QOS", "COMMENT", "ACCOUNT", "CPUS_PER_TASK", "CPUS_PER_GPU"),
        *("GPUS", "GPUS_PER_NODE", "GPUS_PER_SOCKET", "GPUS_PER_TASK", "GRES"),
    }
    environ = {f"SBATCH_{name}": "mine" for name in names}
    assert {f"SBATCH_{name}" for name in names - gone} == client.submission_environment(environ, str(script)).keys()


def test_a_task_of_another_cluster_has_not_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that has never heard of a task tells that one of its own has ended, and nothing of another cluster's;
    within a job the environment tells which cluster is asked, and nobody is."""
    gone = "{ echo slurm_load_jobs error: Invalid job id specified >&2; exit 1; }"
    commands(tmp_path, monkeypatch, scontrol=f"[ $1 = show ] && echo ClusterName = here || {gone}")
    forget_cluster()
    try:
        for cluster, has_ended in (("here", True), ("other", False), (None, True)):
            assert has_ended is Slurm().has_ended(Task("slurm", "12", cluster=cluster))
        assert "here" == Slurm().cluster()
        for asked in ([], [None], ["here"], ["here", "other"]):
            assert Slurm().why_unasked(asked) is None
        said = Slurm().why_unasked(["other"])
        assert said is not None
        assert "the cluster other has the jobs, and here is asked; ask on a login node of other" in said
        for named, one in (("Other", "other"), ("other,here", None), ("all", None)):
            monkeypatch.setenv("SLURM_CLUSTERS", named)
            assert Slurm().why_unasked(["other"]) is None
            assert one == Slurm().cluster()
        monkeypatch.setenv("SLURM_CLUSTERS", "other")
        assert "the cluster that is here has the jobs" in str(Slurm().why_unasked([None]))
        monkeypatch.delenv("SLURM_CLUSTERS")
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setenv("SLURM_CLUSTER_NAME", "other")
        assert "here" == Slurm().cluster()  # in a shell of `salloc -M other`, whose commands ask what is here
        monkeypatch.setenv("SLURMD_NODENAME", "n1")
        assert "other" == Slurm().cluster()
    finally:
        forget_cluster()


STUCK = (
    "BadConstraints", "DependencyNeverSatisfied", "JobHeldAdmin", "JobHoldMaxRequeue", "launch failed requeued held",
    "ReservationDeleted", "InvalidAccount", "InvalidQOS", "PartitionTimeLimit", "AssocMaxCpuPerJobLimit",
    "AssocMaxWallDurationPerJobLimit", "QOSMaxNodePerJobLimit", "QOSMaxMemoryPerJob", "QOSMaxGRESPerJob",
    "job requeued in held state",
)  # fmt: skip
BEGIN_LATER = (
    "Priority", "Resources", "None", "BeginTime", "Dependency", "JobHeldUser", "JobArrayTaskLimit", "PartitionDown",
    "ReqNodeNotAvail", "AssocMaxJobsLimit", "AssocGrpCpuLimit", "QOSMaxJobsPerUserLimit", "QOSMaxCpuPerUserLimit",
    "QOSGrpNodeLimit", "Reservation", "Licenses",
)  # fmt: skip
"""Some by themselves, others when whoever holds them lets them go."""


@pytest.mark.parametrize("reason", [*STUCK, *BEGIN_LATER])
def test_what_never_begins_by_itself(reason: str) -> None:
    """A job that asks for what one job may not have, or for what is gone, is not waited for; one that waits for others
    to end, or that its user holds, is."""
    assert (reason in STUCK) == Slurm().never_begins(reason)
    is_limit = reason in ("InvalidAccount", "InvalidQOS", "PartitionTimeLimit") or "PerJob" in reason
    assert is_limit == Slurm().may_pass(reason)  # which SLURM looks at again, as when slurmdbd is back


def test_whatever_people_can_do_something_about_has_a_way_out() -> None:
    """What waits for somebody to do something says what; what begins by itself, when nodes are free, says nothing."""
    begins = {"Priority", "Resources", "None", "BeginTime", "Dependency"}
    assert begins == {reason for reason in (*STUCK, *BEGIN_LATER) if not Slurm().way_out(reason)}
    assert "lower timeout_min" in Slurm().way_out("QOSMaxWallDurationPerJobLimit")
    assert "more than one job may have" in Slurm().way_out("AssocMaxCpuPerJobLimit")
    assert "when others have ended" in Slurm().way_out("QOSMaxCpuPerUserLimit")


@pytest.mark.parametrize("ahead_s", [0, 3600, -3600])
def test_the_end_of_a_task_is_told_by_our_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_s: int) -> None:
    """The controller ends a task by its own clock, and tells its time with its settings; when it does not, its clock
    counts as ours."""
    config = f"echo Configuration data as of $(($(date +%s) + {ahead_s}))"
    job = f"echo JobId=12 TimeLimit=01:00:00 EndTime=$(($(date +%s) + {ahead_s} + 60))"
    commands(tmp_path, monkeypatch, scontrol=f"[ $1 = show ] && {{ {config}; exit; }}; {job}")
    ends_at = Slurm().ends_at(Task("slurm", "12"))
    assert ends_at is not None
    assert 55 < ends_at - time.time() < 65
    commands(tmp_path, monkeypatch, scontrol=f"[ $1 = show ] && exit 1; {job}")
    ends_at = Slurm().ends_at(Task("slurm", "12"))
    assert ends_at is not None
    assert ahead_s + 55 < ends_at - time.time() < ahead_s + 65


def test_people_have_settings_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task asks for times as seconds, and what becomes of it of its own cluster, whatever it has inherited; what
    becomes of others, of the cluster that is asked by all commands."""
    asked = tmp_path / "asked"
    job = "JobId=12 PreemptTime=9 StartTime=10 Restarts=0 JobName=Restarts=1 Comment=Reason=TimeLimit"
    line = f"echo $SLURM_TIME_FORMAT $TZ $LC_ALL $SCONTROL_ALL $SLURM_CLUSTERS >> {asked}; echo {job}"
    commands(tmp_path, monkeypatch, scontrol=line)
    for name, value in (("SLURM_TIME_FORMAT", "relative"), ("TZ", "Europe/Berlin"), ("SCONTROL_ALL", "1"),
                        ("SLURM_CLUSTERS", "other"), ("SLURM_JOB_ID", "12"), ("SLURMD_NODENAME", "n1")):  # fmt: skip
        monkeypatch.setenv(name, value)
    here = Task("slurm", "12")
    assert not Slurm().is_being_preempted(here)
    assert State.CANCELLED is Slurm().why_stopped(here._replace(restart=1)).state
    assert Slurm().requeue(here) is None
    assert {"%s UTC0 C"} == set(asked.read_text().splitlines())
    assert not Slurm().has_ended(here)
    assert "%s UTC0 C other" == asked.read_text().splitlines()[-1]


def test_a_part_of_a_heterogeneous_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM tells of all parts of a heterogeneous job at once: a task is judged by its own (as 22.05 prints them)."""
    parts = (
        "JobId=11565 HetJobId=11565 HetJobOffset=0 JobName=het.sh JobState=RUNNING Reason=None Requeue=1 Restarts=0",
        "JobId=11566 HetJobId=11565 HetJobOffset=1 JobName=het.sh JobState=TIMEOUT Reason=TimeLimit Restarts=2",
    )
    commands(tmp_path, monkeypatch, scontrol=f"printf '%s\\n' {shlex.join(parts)}")
    leader, other = Task("slurm", "11565"), Task("slurm", "11566")
    assert (False, True) == (Slurm().has_ended(leader), Slurm().has_ended(other))
    assert (State.CANCELLED, State.TIMEOUT) == (Slurm().why_stopped(leader).state, Slurm().why_stopped(other).state)
    assert not Slurm().has_ended(Task("slurm", "3"))


@pytest.mark.parametrize(
    ("user", "private", "is_told"),
    [
        ("bob", "PrivateData = jobs,usage", True),
        ("alice", "PrivateData = jobs,usage", False),
        (None, "PrivateData = jobs", False),
        ("alice", "PrivateData = none", True),
        ("alice", "PrivateData = accounts,nodes", True),
        ("alice", None, False),
    ],
)
def test_what_is_private_has_not_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str | None, private: str | None, is_told: bool
) -> None:
    """SLURM has never heard of a job that it may not show us: only of our own, or where all are shown, and to root, is
    that the word that a task has ended."""
    gone = "{ echo slurm_load_jobs error: Invalid job id specified >&2; exit 1; }"
    settings = "exit 1" if private is None else f"echo ClusterName = here; echo {private}"
    commands(tmp_path, monkeypatch, scontrol=f"[ $2 = job ] || [ $3 = job ] && {gone}; {settings}")
    forget_cluster()
    try:
        with monkeypatch.context() as as_bob:
            as_bob.setattr(os, "geteuid", lambda: 10_001)
            as_bob.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_name={10_001: "bob"}[uid]))
            assert (is_told, not is_told) == (Slurm().has_ended(Task("slurm", "12", user=user)), Slurm().may_hide(user))
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        assert Slurm().has_ended(Task("slurm", "12", user=user))
    finally:
        forget_cluster()


ASKED = 'echo "$0 $*" >> {asked}; '

FORGETS = "case $* in *config) echo ClusterName = here ;; *) echo Invalid job id specified >&2; exit 1 ;; esac"
"""What scontrol says on a cluster that shows all jobs, and has forgotten those that it is asked about."""


@pytest.fixture
def allocated(tmp_path: Path) -> Experiment:
    """Three hundred jobs that run by hand in as many tasks of SLURM's, on machines that cannot be asked from here."""
    experiment = Experiment(["seed"], "e", tmp_path)
    for seed in range(300):
        experiment.add_job({"seed": seed}, {})
    experiment.save()
    states = States(experiment.folder)
    for seed in range(300):
        states.claim(seed, Task("slurm", str(1000 + seed), user="ada", node="n1", restart=seed % 2).record())
        anchor = Path(experiment.folder.states, f"{seed}.1")
        anchor.write_text(json.dumps({**json.loads(anchor.read_text()), "host": "elsewhere"}))
    return experiment


def test_slurm_is_asked_once_about_all_tasks(
    allocated: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many tasks there are, one call tells which have ended: those that SLURM says so of, or has started again,
    or has forgotten. Who asks again and again asks about the others twice a minute, and not of what does not answer."""
    asked = tmp_path / "asked"
    rows = "\n".join(f"{1000 + seed:<24}{word:<24}{restarts:<12}" for seed, (word, restarts) in enumerate(
        [("RUNNING", 0), ("RUNNING", 1), ("COMPLETING", 1), ("COMPLETING", 2), ("PENDING", 1), ("PENDING", 1),
         ("TIMEOUT", 0), ("NODE_FAIL", 1), *[("RUNNING", 1)] * 282]))  # fmt: skip
    (tmp_path / "rows").write_text(f"CLUSTER: here\n{rows}\n")
    silent = ASKED.format(asked=asked) + "echo slurm_load_jobs error: Socket timed out >&2; exit 1"
    forget_cluster()
    try:
        commands(tmp_path, monkeypatch, squeue=silent, scontrol=silent)
        assert {"RUNNING": 300} == allocated.counts()
        calls = asked.read_text().splitlines()
        assert 3 >= len(calls), calls[:9]
        now, ends, silent_ends = time.monotonic(), EndsOfTasks(), EndsOfTasks()
        tasks = [Task("slurm", str(1000 + seed), user="ada", node="n1", restart=seed % 2) for seed in range(300)]
        asked.write_text("")
        commands(tmp_path, monkeypatch, squeue=silent)
        assert [frozenset()] * 2 == [silent_ends.of(tasks) for _ in range(2)]
        assert 1 == sum("squeue" in line for line in asked.read_text().splitlines())
        commands(tmp_path, monkeypatch, squeue=f"{ASKED.format(asked=asked)} cat {tmp_path}/rows")
        asked.write_text("")
        assert frozenset() == Slurm().ended(tasks[290:])
        assert 1 == sum("scontrol -o show job" in line for line in asked.read_text().splitlines()), (
            "the first is silent"
        )
        commands(tmp_path, monkeypatch, scontrol=f"{ASKED.format(asked=asked)} {FORGETS}")
        client._told_config.cache_clear()  # a minute later
        asked.write_text("")
        with monkeypatch.context() as clock:
            for passed, n_asked in ((0, 1), (5, 1), (31, 2)):
                clock.setattr(time, "monotonic", lambda passed=passed: now + passed)
                ends.of(task for task in tasks if int(task.id) < 1290)
                assert n_asked == sum("squeue" in line for line in asked.read_text().splitlines())
        over = {job_id for job_id, state in enumerate(map(allocated.states().state, range(300))) if state is State.LOST}
        assert {4, 6, 7, *range(8, 290, 2), *range(290, 300)} == over
        assert 20 > len(asked.read_text().splitlines()), "of those alone that it does not tell of, each is asked about"
    finally:
        forget_cluster()


def test_what_ran_on_no_node_of_its_allocation_does_not_end_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An anchor that names an allocation and no node is of a shell of `salloc` beside it, which may live on: whoever
    looks from elsewhere, or is to run the job again, leaves it alone."""
    experiment = Experiment(["seed"], "e", tmp_path)
    experiment.add_job({"seed": 0}, {})
    experiment.save()
    states = States(experiment.folder, schedulers.has_ended)
    states.claim(0, Task("slurm", "123", user="root").record())
    anchor = Path(experiment.folder.states, "0.1")
    anchor.write_text(json.dumps({**json.loads(anchor.read_text()), "host": "elsewhere"}))
    commands(tmp_path, monkeypatch, squeue=FORGETS, scontrol=FORGETS)
    forget_cluster()
    try:
        assert {"RUNNING": 1} == experiment.counts()
        with pytest.raises(NotOverYet):
            states.claim(0, {})
        assert State.RUNNING is states.state(0, 1)
    finally:
        forget_cluster()


@pytest.mark.parametrize(
    ("names_node", "expected"), [("by slurmd", "LOST"), ("by its host", "LOST"), ("not", "RUNNING")]
)
def test_what_ran_by_hand_inside_of_a_container_ends_with_its_allocation(
    names_node: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container may pass on SLURM_* and not what slurmd calls the node: where it has the host's name, it is known by
    that to be on a node of the allocation."""
    environ = {"SLURM_JOB_ID": "123", "SLURM_JOB_USER": "root", "SLURM_JOB_NODELIST": "elsewhere[0-15]"}
    environ |= {"by slurmd": {"SLURMD_NODENAME": "n1"}, "by its host": {"SLURM_JOB_NODELIST": os.uname().nodename}}.get(
        names_node, {}
    )
    experiment = Experiment(["seed"], "e", tmp_path)
    experiment.add_job({"seed": 0}, {})
    experiment.save()
    States(experiment.folder).claim(0, schedulers.recorded(schedulers.current_task(environ)))
    anchor = Path(experiment.folder.states, "0.1")
    anchor.write_text(json.dumps({**json.loads(anchor.read_text()), "host": "elsewhere"}))
    commands(tmp_path, monkeypatch, squeue=FORGETS, scontrol=FORGETS)
    forget_cluster()
    try:
        assert {expected: 1} == experiment.counts()
    finally:
        forget_cluster()


def test_what_slurm_was_asked_to_run_is_in_its_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a container with a host name of its own that is not told the node: by its task a job is found again, and
    SLURM is asked why it ends. Of what people have begun there nobody knows that, as in a shell of `salloc`."""
    for name, value in {"SLURM_JOB_ID": "123", "SLURM_JOB_NODELIST": "elsewhere[0-15]"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURMD_NODENAME", raising=False)
    assert Task("slurm", "123") == schedulers.task_of_attempt("slurm")
    assert None is schedulers.task_of_attempt(None)


BY_HAND = """
import os, subprocess, sys
from experiment_manager.scheduler import schedulers

for _ in range(3):
    assert schedulers.task_of_attempt(None) is not None
if len(sys.argv) == 1:
    environ = {**os.environ, **schedulers.told_to_supervisors()}
    subprocess.run([sys.executable, "-c", os.environ["CODE"], "child"], env=environ, check=True)
"""


@pytest.mark.parametrize("below_step", [True, False])
def test_a_silent_controller_is_asked_once_whether_the_task_is_there(
    below_step: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many jobs are begun by hand inside of it, in one process or in those that it starts; and not at all where
    slurmstepd is seen to wait for them."""
    asked = tmp_path / "asked"
    asked.touch()
    commands(tmp_path, monkeypatch, scontrol=f"echo asked >> {asked}; sleep 0.5; exit 1")
    step = "slurmstepd: [123.batch]" if below_step else "slurmstepd: [1234.batch]"
    environ = {"SLURM_JOB_ID": "123", "SLURMD_NODENAME": "n1", "CODE": BY_HAND}
    words = ["bash", "-c", 'exec -a "$0" bash -c \'"$@"; exit $?\' bash "$@"', step, sys.executable, "-c", BY_HAND]
    subprocess.run(words, env={**os.environ, **environ}, check=True)
    assert (0 if below_step else 1) == len(asked.read_text().splitlines())


@given(
    prefix=st.sampled_from(["n", "c1-", "r1n"]),
    width=st.integers(1, 4),
    first=st.integers(0, 120),
    n_more=st.integers(0, 30),
    asked=st.integers(0, 160),
    asked_width=st.integers(1, 4),
)
def test_ranges_of_nodes_are_those_that_slurm_expands(
    prefix: str, width: int, first: int, n_more: int, asked: int, asked_width: int
) -> None:
    """`node[0-15]` has node0 and node10, and `node[08-11]` node08 and node11: as many digits as the first one has,
    where that begins with a zero before others, and more where a number needs them."""
    is_padded = len(f"{first:0{width}}") > len(str(first))
    names = {f"{prefix}{number:0{width if is_padded else 1}}" for number in range(first, first + n_more + 1)}
    text = f"{prefix}[{first:0{width}}-{first + n_more:0{width}}]"
    assert all(_is_among(name, f"gpu7,{text}") for name in names)
    host = f"{prefix}{asked:0{asked_width}}"
    assert (host in names) == _is_among(host, text)


@pytest.mark.parametrize("speaks", ["of a single one", "of any"])
def test_tasks_that_slurm_has_forgotten_have_ended_however_many_are_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speaks: str
) -> None:
    """Of one job id it has an error of its own, also where two nodes of one job ask; nothing follows for others."""
    unknown = "echo slurm_load_jobs error: Invalid job id specified >&2; exit 1"
    single = f"case $* in *-j\\ 77,*|*-j\\ 78,*) ;; *) {unknown} ;; esac"
    commands(tmp_path, monkeypatch, squeue=unknown if speaks == "of any" else single, scontrol=FORGETS)
    forget_cluster()
    one = Task("slurm", "77", node="n1", user="root", cluster="here")
    try:
        for tasks in ([one, one._replace(node="n2")], [one, one._replace(id="78")], [one, one._replace(restart=1)]):
            assert frozenset(tasks) == schedulers.ended(tasks)
        assert frozenset([one]) == schedulers.ended([one, one._replace(id="78", cluster="other")])
    finally:
        forget_cluster()


def test_a_task_that_runs_keeps_none_from_being_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where squeue leaves out what runs, too, all others that have ended are known by one look."""
    runs = "*job\\ 82) echo JobId=82 JobState=RUNNING Restarts=0 ;; "
    commands(tmp_path, monkeypatch, squeue="", scontrol=FORGETS.replace("case $* in ", f"case $* in {runs}"))
    forget_cluster()
    try:
        tasks = {number: Task("slurm", str(number), user="root") for number in range(77, 97)}
        assert {tasks[number] for number in tasks if number != 82} == schedulers.ended(tasks.values())
    finally:
        forget_cluster()


SQUEUE = "             JOBID PARTITION     NAME     USER ST       TIME  NODES NODELIST(REASON)\n"
SACCT = "JobID           JobName  Partition    Account  AllocCPUS      State ExitCode\n"


@pytest.mark.parametrize(
    "answer", [f"{SQUEUE}{77:>18} main em root R 1:00 1 n1\n{78:>18} main em root R 1:00 1 n2", "", "Welcome to here"]
)
def test_what_squeue_does_not_tell_of_has_ended_only_where_scontrol_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """A site's own squeue may answer in another form, or leave jobs out: they run as long as scontrol has them."""
    (tmp_path / "answer").write_text(answer)
    runs = "case $* in *config) echo ClusterName = here ;; *) echo JobId=$4 JobState=RUNNING Restarts=0 ;; esac"
    commands(tmp_path, monkeypatch, squeue=f"cat {tmp_path}/answer", scontrol=runs)
    forget_cluster()
    try:
        tasks = [Task("slurm", number, user="root") for number in ("77", "78")]
        assert frozenset() == schedulers.ended(tasks)
        if SQUEUE in answer:
            commands(tmp_path, monkeypatch, scontrol=FORGETS)
            assert frozenset() == schedulers.ended(tasks), "the two commands contradict each other"
    finally:
        forget_cluster()


def test_an_answer_in_another_form_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a site's own commands pass over the form that they are asked for, nothing is taken for absent; what tells
    of no job at all is an answer."""
    (tmp_path / "squeue.txt").write_text(f"{SQUEUE}            12_[3] main em root PD 0:00 1 (Priority)\n")
    (tmp_path / "sacct.txt").write_text(f"{SACCT}12_3 em main root 1 COMPLETED 0:0\n")
    commands(tmp_path, monkeypatch, squeue=f"cat {tmp_path}/squeue.txt", sacct=f"cat {tmp_path}/sacct.txt")
    for ask in (
        lambda: client.squeue([]),
        lambda: client.squeue_of("12"),
        lambda: client.squeue_runs(["12"]),
        lambda: client.sacct(["em"], 0.0),
        lambda: client.sacct_of("12", 0.0),
    ):
        with pytest.raises(SlurmError, match=r"has answered in another form than it was asked for: .*12_.*; "):
            ask()
    (tmp_path / "squeue.txt").write_text("Welcome\nCLUSTER: here\n2026-11-27 10:00:00 no maintenance\n")
    (tmp_path / "sacct.txt").write_text("27.11.2026: welcome\n10:00 in Jena\n")
    assert ([], [], {}) == (client.squeue([]), client.squeue_of("12"), client.squeue_runs(["12"]))
    assert ([], []) == (client.sacct(["em"], 0.0), client.sacct_of("12", 0.0))


@pytest.mark.parametrize("is_ours", [True, False])
def test_our_tasks_are_known_by_their_files(
    allocated: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_ours: bool
) -> None:
    """Where people see their own jobs alone, and this machine has no name for us, or another one, as a container has,
    those are ours that we have begun: what SLURM has no more of them has ended."""
    empty = "case $* in *config) echo PrivateData = jobs ;; *) echo Invalid job id specified >&2; exit 1 ;; esac"
    commands(tmp_path, monkeypatch, squeue="true", scontrol=empty)
    monkeypatch.setattr(os, "geteuid", lambda: 10_001)
    for name in os.listdir(allocated.folder.states) if is_ours else ():
        os.chown(os.path.join(allocated.folder.states, name), 10_001, -1)
    forget_cluster()
    try:
        assert {"LOST" if is_ours else "RUNNING": 300} == allocated.counts()
    finally:
        forget_cluster()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SLURM_CLUSTERS", "here,Other", "SLURM_CLUSTERS=here,Other names several clusters.*name one of them"),
        ("SLURM_CLUSTERS", "all", "SLURM_CLUSTERS=all names several clusters"),
        ("SBATCH_CLUSTERS", "other", "the script is for the cluster other, and here is asked.*SLURM_CLUSTERS=other"),
    ],
)
def test_it_is_known_which_cluster_gets_a_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    """Where the environment leaves that open, or says otherwise to sbatch than to squeue, nothing is submitted."""
    commands(tmp_path, monkeypatch, scontrol="echo ClusterName = here", sbatch="echo 12")
    script = tmp_path / "slurm_scripts.sh"
    script.write_text("#!/bin/bash\n")
    forget_cluster()
    try:
        assert "12" == client.sbatch(str(script))
        monkeypatch.setenv(name, value)
        with pytest.raises(SlurmError, match=said):
            client.sbatch(str(script))
        if name == "SLURM_CLUSTERS":
            for order in (client.scancel, client.hold, client.release):
                with pytest.raises(SlurmError, match=said):
                    order(["12_[0]"])
    finally:
        forget_cluster()


def forget_cluster() -> None:
    """The cluster that is here is asked for its name again."""
    client._own_name.cache_clear()
    client._told_config.cache_clear()


def commands(place: Path, monkeypatch: pytest.MonkeyPatch, **lines: str) -> None:
    """Programs that stand for SLURM's commands are on the path, each a line of a shell."""
    for name, line in lines.items():
        (place / name).write_text(f"#!/bin/sh\n{line}\n")
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
