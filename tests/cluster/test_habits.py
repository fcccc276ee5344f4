"""What sites, and people at them, do to jobs: `status` says it in words, and no state lies."""

import calendar
import json
import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.cluster.conftest import reconfigured, sacct_state, without_slurmdbd
from tests.cluster.sweeps import Sweep, queue, slurm, start_again
from tests.conftest import Program, clean_env, wait_until
from tests.debian import install
from tests.test_mounts import CLOCK

LARGE = """
import time
import hydra

@hydra.main(version_base=None, config_path=None)
def main(cfg):
    kept = bytearray(b"x") * 500_000_000
    time.sleep(60)

main()
"""


@pytest.mark.usefixtures("light")
def test_suspended_and_never_started(program: Program) -> None:
    """A job that SLURM has suspended is RUNNING, and `status` says that it is suspended; one whose log SLURM could not
    open has FAILED before it began, and says so."""
    stopped, unlogged = Sweep(program, "stopped"), Sweep(program, "unlogged")
    for sweep in (stopped, unlogged):
        sweep.write("seed=0", "sleep=60")
    script = unlogged.experiment / "slurm_scripts.sh"
    script.write_text(re.sub(r"(?m)^(#SBATCH --output)=.*", r"\1=/dev/null/%A.log", script.read_text()))
    stopped.submit()
    unlogged.submit()
    is_old = slurm("sinfo", "-V").split()[-1].startswith("20.")  # which tells a status, and no signal of its own
    told = [row[1:] for row in sacct_state(unlogged.slurm_id, is_array=True)]
    assert told == [("FAILED", "1:0" if is_old else "0:53")]
    unlogged.until({0: "FAILED"})
    why = "exit code 1" if is_old else "signal 53"
    words = "" if is_old else " (it could not be started there, as where its log cannot be opened"
    assert f"FAILED, {why} on n1{words}" in re.sub("n[12]", "n1", unlogged.looked()[1][0])
    stopped.until_begun(0)
    slurm("scontrol", "suspend", stopped.task(0))
    states, reasons, _ = stopped.looked()
    assert {0: "RUNNING"} == states
    assert reasons[0].startswith("SLURM has suspended it")
    slurm("scontrol", "resume", stopped.task(0))
    assert {} == stopped.looked()[1]


@pytest.mark.usefixtures("light")
def test_what_waits_for_its_time(program: Program) -> None:
    """A job with a time to begin, or with a reservation, is QUEUED until then, and `status` says why; it runs when that
    has come."""
    timed, kept = Sweep(program, "timed"), Sweep(program, "kept")
    timed.write("seed=0", "+hydra.launcher.additional_parameters.begin=now+1hour")
    kept.write("seed=0", "+hydra.launcher.additional_parameters.reservation=later")
    about = ("starttime=now+60minutes", "duration=10", "users=root", "nodes=n1")
    slurm("scontrol", "create", "reservation", "reservationname=later", *about)
    try:
        timed.submit()
        kept.submit()
        timed.until({0: "QUEUED"}, through=["QUEUED"])
        wait_until(lambda: timed.looked()[1] == {0: "BeginTime"})
        wait_until(lambda: kept.looked()[1].get(0, "").startswith("Reservation"))
        assert "it begins with its reservation: scontrol show reservation" in kept.tool("status").stdout
        slurm("scontrol", "update", f"jobid={timed.slurm_id}", "starttime=now")
        slurm("scontrol", "update", "reservationname=later", "starttime=now")
        for sweep in (timed, kept):
            sweep.until({0: "COMPLETED"}, through=["QUEUED", "RUNNING"])
    finally:
        slurm("scancel", *filter(None, (timed.slurm_id, kept.slurm_id)))
        wait_until(lambda: [] == queue(kept.slurm_id))
        slurm("scontrol", "delete", "reservationname=later")


@pytest.mark.usefixtures("light")
def test_what_will_not_begin_by_itself(program: Program) -> None:
    """A job that SLURM keeps for good is QUEUED, and `status --wait` ends with SLURM's reason and the way out: after
    another one has failed, held by root, requeued and held, or where no node is as it asks any more; and that is a way
    out."""
    names = ("after", "held", "put-back", "misfit")
    after, held, put_back, misfit = sweeps = tuple(Sweep(program, name) for name in names)
    failed = slurm("sbatch", "--parsable", "--output=/dev/null", "--wrap=exit 3")
    after.write("seed=0", f"+hydra.launcher.additional_parameters.dependency=afterok:{failed}")
    held.write("seed=0", "+hydra.launcher.additional_parameters.begin=now+1hour")
    put_back.write("how=hang-at-first")
    misfit.write("seed=0", "hydra.launcher.constraint=fast", "+hydra.launcher.additional_parameters.hold=true")
    try:
        slurm("scontrol", "update", "nodename=n1", "availablefeatures=fast", "activefeatures=fast")
        for sweep in sweeps:
            sweep.submit()
        slurm("scontrol", "update", "nodename=n1", "availablefeatures=", "activefeatures=")
        slurm("scontrol", "hold", held.task(0))
        slurm("scontrol", "release", misfit.slurm_id)
        put_back.until_begun(0)
        slurm("scontrol", "requeuehold", put_back.task(0))
        reasons = {
            after: ("DependencyNeverSatisfied", "what it comes after has not ended well: cancel it"),
            held: ("JobHeldAdmin", "an administrator holds it"),
            put_back: ("job requeued in held state", "`scontrol release` lets it begin"),
            misfit: ("BadConstraints", "no node is as it asks: cancel it, and submit it with less"),
        }
        for sweep, (reason, way_out) in reasons.items():
            wait_until(lambda: sweep.looked()[1] == {0: reason})  # noqa: B023 - at once
            done = sweep.tool("status", "--wait")
            assert 1 == done.returncode, done.stderr
            assert f"job 0 will not begin unless somebody does something about it ({reason}): " in done.stderr
            assert way_out in done.stderr
            assert way_out in done.stdout
            assert {0: "QUEUED"} == sweep.status()
        slurm("scontrol", "update", "nodename=n1", "availablefeatures=fast", "activefeatures=fast")
        slurm("scontrol", "update", f"jobid={held.slurm_id}", "starttime=now")
        for sweep in (held, put_back):
            slurm("scontrol", "release", sweep.task(0))
        start_again(put_back.task(0))
        assert {"jobs": [0]} == after.told("cancel", "0")
        after.until({0: "CANCELLED"})
        for sweep in (held, put_back, misfit):
            sweep.until({0: "COMPLETED"}, through=["QUEUED", "RUNNING"])
        assert ["0.1.PREEMPTED", "0.2.COMPLETED"] == put_back.states()
    finally:
        slurm("scontrol", "update", "nodename=n1", "availablefeatures=", "activefeatures=")


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("is_seen", [True, pytest.param(False, marks=pytest.mark.heavy)])
def test_a_deadline_that_comes_before_the_job(program: Program, *, is_seen: bool) -> None:
    """A job that could not begin before its deadline, since it was held, throttled, or had no room, is TIMEOUT, and
    was never more than QUEUED; also where nobody has asked until accounting alone can tell."""
    held, throttled, crowded = (Sweep(program, name) for name in ("held", "throttled", "crowded"))
    soon = "+hydra.launcher.additional_parameters.deadline=now+2hours"
    everything = ("+hydra.launcher.additional_parameters.exclusive=true", "hydra.launcher.nodes=2")
    held.write("seed=0", "+hydra.launcher.additional_parameters.hold=true", soon)
    throttled.write("sleep=50,51", "hydra.launcher.array_parallelism=1", soon)
    crowded.write("seed=0", *everything, soon)
    throttled.submit()
    throttled.until_begun(0)
    ends = ((throttled, 1), (held, 0), (crowded, 0))
    with nullcontext() if is_seen else reconfigured(min_job_age=2):
        for sweep in (held, crowded):
            sweep.submit()
        if is_seen:
            for sweep, job in ends:
                sweep.until({job: "QUEUED"}, through=["QUEUED"])
        for sweep, job in ends:
            slurm("scontrol", "update", f"jobid={sweep.task(job)}", "deadline=now+1")
        wait_until(lambda: "DEADLINE" == slurm("squeue", "-h", "-t", "all", "-j", crowded.slurm_id, "-o", "%T"))
        slurm("scontrol", "release", held.task(0))
        slurm("scontrol", "update", f"jobid={throttled.slurm_id}", "arraytaskthrottle=0")
        if not is_seen:
            known = ("squeue", "-h", "-t", "all", "-o", "%F_%K")
            wait_until(lambda: not {sweep.task(job) for sweep, job in ends} & set(slurm(*known).split()), 120)
        for sweep, job in ends:
            sweep.until({job: "TIMEOUT"}, through=["QUEUED"])
            assert f"{job}.1.TIMEOUT" in sweep.states()
            assert re.fullmatch("SLURM: DEADLINE(, exit code 1)? before the job began", sweep.looked()[1][job])


@pytest.mark.usefixtures("light")
def test_a_licence_for_one(program: Program) -> None:
    """Of two jobs that need the only licence there is, the second is QUEUED, with SLURM's reason and where to look,
    until the first has ended; then it runs."""
    sweep, rests = Sweep(program), program.home / "hold.0"
    rests.touch()
    with reconfigured(extra=["Licenses=solver:1"]):
        sweep.write("seed=0,1", "steps=1", "+hydra.launcher.additional_parameters.licenses=solver:1")
        sweep.submit()
        sweep.until_begun(0)
        wait_until(lambda: sweep.looked()[1] == {1: "Licenses"})
        assert {0: "RUNNING", 1: "QUEUED"} == sweep.status()
        assert "all licenses are in use: scontrol show licenses" in sweep.tool("status").stdout
        rests.unlink()
        sweep.until({0: "COMPLETED", 1: "COMPLETED"}, through=["QUEUED", "RUNNING"])
        assert ["0.1.COMPLETED", "1.1.COMPLETED"] == sweep.states()


@pytest.mark.usefixtures("light")
def test_slurmdbd_is_dead(program: Program) -> None:
    """While slurmdbd is dead, one sentence says so; jobs are submitted, each once, `status` tells how jobs end by what
    the controller knows, and `status --wait` returns. When it is back, accounting says the same."""
    killed, after = Sweep(program, "killed"), Sweep(program, "after")
    killed.write("seed=0,1,2", "sleep=60")
    killed.submit()
    killed.until_begun(0, 1, 2)
    after.write("seed=0,1")
    with without_slurmdbd():
        slurm("scancel", killed.task(0))
        os.kill(killed.anchor(1)["pid"], signal.SIGKILL)
        killed.until({0: "CANCELLED", 1: "FAILED", 2: "RUNNING"}, through=["RUNNING"])
        (said,) = killed.looked()[2].splitlines()
        assert said.startswith("sacct failed: "), said
        after.submit()
        assert [False] == [array["is_new"] for array in after.told("submit")]
        done = after.tool("status", "--wait")
        assert 0 == done.returncode, done.stderr
        assert ["0.1.COMPLETED", "1.1.COMPLETED"] == after.states()
    assert ["COMPLETED"] * 2 == [row[1] for row in sacct_state(after.slurm_id, rows=2, is_array=True)]
    assert ["CANCELLED", "FAILED"] == [sacct_state(killed.task(job))[0][1].split()[0] for job in (0, 1)]
    states, _, said = killed.looked()
    assert ({0: "CANCELLED", 1: "FAILED", 2: "RUNNING"}, "") == (states, said)


@pytest.mark.heavy
@pytest.mark.usefixtures("light")
def test_slurmdbd_is_dead_until_the_controller_has_forgotten(program: Program) -> None:
    """What ended while slurmdbd was dead, and the controller has forgotten, is what the log of its task tells, or LOST,
    since nobody can tell; when accounting is back, it is what that says."""
    sweep = Sweep(program)
    sweep.write("seed=0,1", "sleep=600")
    with reconfigured(min_job_age=2):
        sweep.submit()
        sweep.until_begun(0, 1)
        with without_slurmdbd():
            slurm("scancel", sweep.task(0))
            os.kill(sweep.anchor(1)["pid"], signal.SIGKILL)
            known = ("squeue", "-h", "-t", "all", "-o", "%F_%K")
            gone = {sweep.task(0), sweep.task(1)}
            wait_until(lambda: not gone & set(slurm(*known).split()), 120)
            sweep.until({0: "CANCELLED", 1: "LOST"}, through=["RUNNING"])
            assert "does not tell now what became of it" in sweep.looked()[1][1]
    sweep.until({0: "CANCELLED", 1: "FAILED"}, through=["LOST"])
    assert ["0.1.CANCELLED", "1.1.FAILED"] == sweep.states()


@pytest.mark.usefixtures("light")
def test_profiles_that_print_or_exit(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the shell of a task reads a profile that prints something, its job runs; where that exits, the job has
    FAILED before it began, with what the profile has said; so it is with a login shell."""
    for name, text in (("prints", "echo welcome; echo quota >&2\n"), ("exits", "echo no licence here >&2; exit 3\n")):
        place = program.home / name
        place.mkdir()
        (place / ".bash_profile").write_text(text)
        for kind in ("read", "login"):
            sweep = Sweep(program, f"{name}-{kind}")
            sweep.write("seed=0")
            with monkeypatch.context() as patch:
                if kind == "read":
                    patch.setenv("BASH_ENV", str(place / ".bash_profile"))
                else:
                    script = sweep.experiment / "slurm_scripts.sh"
                    script.write_text(script.read_text().replace("#!/bin/bash\n", "#!/bin/bash -l\n"))
                    patch.setenv("HOME", str(place))
                sweep.submit()
            if name == "prints":
                sweep.until({0: "COMPLETED"}, through=["QUEUED", "RUNNING"])
            else:
                sweep.until({0: "FAILED"}, through=["QUEUED"])
                reason = sweep.looked()[1][0]
                assert re.fullmatch("SLURM: FAILED.* on n[12] before the job began: no licence here", reason), reason


@pytest.mark.usefixtures("light")
def test_no_folder_for_temporary_files(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where TMPDIR names no folder of the node, jobs run in another one: alone, several in a task, and with lines after
    the job, also under `set -e`."""
    alone, packed, after = (Sweep(program, name) for name in ("alone", "packed", "after"))
    alone.write("seed=0")
    packed.write("seed=0,1", "hydra.launcher.pack=2")
    after.write("how=exit3", "hydra.launcher.setup=['set -euo pipefail']", "hydra.launcher.post_script=['touch after']")
    monkeypatch.setenv("TMPDIR", "/gone/tmp")
    for sweep in (alone, packed, after):
        sweep.submit()
    alone.until({0: "COMPLETED"}, through=["QUEUED", "RUNNING"])
    packed.until({0: "COMPLETED", 1: "COMPLETED"}, through=["QUEUED", "RUNNING"])
    after.until({0: "FAILED"}, through=["QUEUED", "RUNNING"])
    assert "exit code 3" in after.looked()[1][0]
    wait_until((program.home / "after").exists)


def submitted_in(place: Path, sweep: Sweep) -> str:
    """SLURM has the script by somebody who types `sbatch` in a folder; returns its id."""
    words = ["sbatch", "--parsable", str(sweep.experiment / "slurm_scripts.sh")]
    return subprocess.run(words, cwd=place, env=clean_env(), check=True, capture_output=True, text=True).stdout.strip()


def test_the_working_directory_is_not_there(program: Program) -> None:
    """A job whose working directory is gone has FAILED, and says so; one that was submitted from a folder that is gone
    runs."""
    from_elsewhere, gone = Sweep(program, "elsewhere"), Sweep(program, "gone")
    place = program.home / "place"
    place.mkdir()
    from_elsewhere.write("seed=0", "+hydra.launcher.additional_parameters.hold=true")
    from_elsewhere.slurm_id = submitted_in(place, from_elsewhere)
    words = ("seed=0", f"hydra.sweeper.experiment_path={program.home}/experiments")
    done = Program(place).sweep(
        *words, "hydra.sweeper.experiment_name=gone", "hydra/launcher=slurm_script", script="../train.py"
    )
    assert 0 == done.returncode, done.stderr
    shutil.rmtree(place)
    slurm("scontrol", "release", from_elsewhere.slurm_id)
    gone.submit()
    from_elsewhere.until({0: "COMPLETED"}, through=["QUEUED", "RUNNING"])
    gone.until({0: "FAILED"}, through=["QUEUED", "RUNNING"])
    why = gone.looked()[1][0]
    assert f"before the job began: error: the folder {place}, where the sweep was started, is not there any more" in why


@pytest.mark.usefixtures("light")
def test_the_environment_overrules_the_script_no_less_for_real(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With SBATCH_EXPORT=NONE jobs have the environment in which they were submitted, and SBATCH_REQUEUE starts no job
    again that was not to be; by hand, the script of an experiment does what sbatch does."""
    sweep = Sweep(program)
    monkeypatch.setenv("MINE", "yes")
    monkeypatch.setenv("SBATCH_EXPORT", "NONE")
    monkeypatch.setenv("SBATCH_REQUEUE", "1")
    sweep.write(
        "seed=0", "hydra.launcher.max_requeues=0", "hydra.launcher.pre_script=['test \"$MINE\" = yes || exit 9']"
    )
    sweep.submit()
    assert "Requeue=0 " in slurm("scontrol", "show", "job", sweep.slurm_id)
    sweep.until({0: "COMPLETED"}, through=["QUEUED", "RUNNING"])


@pytest.mark.usefixtures("light")
def test_the_hour_that_comes_twice(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """While clocks are put back by an hour, and right after it, states are what they are elsewhere, of what SLURM alone
    can tell, too, and times are seconds of one clock."""
    sweep, now = Sweep(program), time.time()
    sweep.write("sleep=2,60,61")
    there = time.gmtime(now + 3600 + 4)  # as clocks show it before they are put back, which they are in 4 s
    day = there.tm_yday - (calendar.isleap(there.tm_year) and there.tm_yday > 59)
    monkeypatch.setenv("TZ", f"WIN0SUM,J{day % 365 + 30 if day < 300 else 60}/0,J{day}/{time.strftime('%T', there)}")
    assert "SUM" == subprocess.run(["date", "+%Z"], capture_output=True, text=True, check=True).stdout.strip()
    sweep.submit()
    sweep.until_begun(0, 1, 2)
    wait_until(lambda: time.time() > now + 5)
    assert "WIN" == subprocess.run(["date", "+%Z"], capture_output=True, text=True, check=True).stdout.strip()
    slurm("scancel", sweep.task(1))
    os.kill(sweep.anchor(2)["pid"], signal.SIGKILL)
    sweep.until({0: "COMPLETED", 1: "CANCELLED", 2: "FAILED"}, through=["RUNNING"])
    attempts = [sweep.told("show", str(job))["attempts"][0] for job in range(3)]
    times = [about[name] for about in attempts for name in ("start", "end") if about[name] is not None]
    assert (5, []) == (len(times), [value for value in times if not now < value < now + 60])


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("ahead_s", [5, 300])
def test_a_login_node_whose_clock_is_ahead(program: Program, monkeypatch: pytest.MonkeyPatch, ahead_s: int) -> None:
    """Where jobs are submitted and asked about by a clock that is ahead of the cluster's, states are what they are
    elsewhere, also of what SLURM alone can tell, and so they stay."""
    if not os.path.exists(CLOCK):
        install("libfaketime")
    if not os.path.exists(CLOCK):
        pytest.skip("no libfaketime: root on Debian gets it by itself")
    ends, ended, held, waits = (Sweep(program, name) for name in ("ends", "ended", "held", "waits"))
    now = time.time()
    for name, value in (("LD_PRELOAD", CLOCK), ("FAKETIME", f"+{ahead_s}s"), ("NO_FAKE_STAT", "1")):
        monkeypatch.setenv(name, value)
    nodes = "hydra.launcher.setup=['unset LD_PRELOAD FAKETIME NO_FAKE_STAT']"
    ends.write("how=well,exit3,oom", nodes, "hydra.launcher.mem_gb=0.25")
    ended.write("sleep=90,91,92", nodes)
    for sweep in (held, waits):
        sweep.write("seed=0,1", nodes, "+hydra.launcher.additional_parameters.hold=true")
    for sweep in (ends, ended, held, waits):
        sweep.submit()
    (array,) = json.loads((ends.experiment / "launches/0001/submission.json").read_text())["arrays"].values()
    assert now + ahead_s < array["submitted"]
    ended.until_begun(0, 1, 2)
    slurm("scancel", ended.task(0))
    os.kill(ended.anchor(1)["pid"], signal.SIGKILL)
    slurm("scancel", held.slurm_id)
    wanted = {
        ends: {0: "COMPLETED", 1: "FAILED", 2: "OUT_OF_MEMORY"},
        ended: {0: "CANCELLED", 1: "FAILED", 2: "RUNNING"},
        held: {0: "CANCELLED", 1: "CANCELLED"},
        waits: {0: "QUEUED", 1: "QUEUED"},
    }
    for sweep, states in wanted.items():
        sweep.until(states, through=["QUEUED", "RUNNING"])
        assert states == {row["job"]: row["state"] for row in sweep.told("jobs")}
    assert ["0.1.COMPLETED", "1.1.FAILED", "2.1.OUT_OF_MEMORY"] == ends.states()
    assert 0 <= ends.told("show", "0")["attempts"][0]["start"] - now < 60  # by the clock of its node
    for name in ("LD_PRELOAD", "FAKETIME", "NO_FAKE_STAT"):
        monkeypatch.delenv(name)
    assert list(wanted.values()) == [sweep.status() for sweep in wanted]


@pytest.mark.heavy
@pytest.mark.usefixtures("light")
def test_a_site_that_starts_nothing_again(program: Program) -> None:
    """With JobRequeue=0 a job that is to be started again is, since its script asks for that; another one that has to
    make room for others is PREEMPTED, and stays so."""
    again, once = Sweep(program, "again"), Sweep(program, "once")
    with reconfigured(extra=["JobRequeue=0"]):
        again.write("sleep=2", "hydra.launcher.max_requeues=1", "hydra.launcher.timeout_min=5")
        once.write("sleep=60", "hydra.launcher.partition=preempt", "hydra.launcher.mem_gb=5", "hydra.launcher.nodes=2")
        again.submit()
        again.until_begun(0)
        slurm("scontrol", "requeue", again.task(0))
        again.until({0: "COMPLETED"}, through=["QUEUED", "RUNNING"])
        assert ["0.1.PREEMPTED", "0.2.COMPLETED"] == again.states()
        once.submit()
        once.until_begun(0)
        urgent = Sweep(program, "urgent")
        urgent.write("sleep=0", "hydra.launcher.mem_gb=5", "hydra.launcher.nodes=2")
        urgent.submit()
        once.until({0: "PREEMPTED"})  # CANCELLED by a signal until accounting says why
        urgent.until({0: "COMPLETED"}, through=["QUEUED", "RUNNING"])
        assert ["0.1.PREEMPTED"] == once.states()


@pytest.mark.heavy
@pytest.mark.usefixtures("light")
def test_a_node_that_starts_nothing(program: Program) -> None:
    """Where the prologue of a site fails, SLURM holds the job: it is QUEUED, `status` says what to do, and `status
    --wait` ends with a sentence; let go on a node that is well, it runs."""
    sweep = Sweep(program)
    prologue = program.home / "prologue"
    prologue.write_text("#!/bin/sh\nexit 1\n")
    prologue.chmod(0o755)
    sweep.write("seed=0")
    try:
        with reconfigured(extra=[f"Prolog={prologue}"]):
            sweep.submit()
            wait_until(lambda: sweep.looked()[1].get(0, "").startswith("launch failed requeued held"), 60)
            assert {0: "QUEUED"} == sweep.status()
            done = sweep.tool("status", "--wait")
            assert "it could not be started on its node: tell the administrators" in done.stdout + done.stderr
    finally:
        for node in ("n1", "n2"):
            if "drain" in slurm("sinfo", "-h", "-N", "-n", node, "-o", "%T"):
                slurm("scontrol", "update", f"nodename={node}", "state=resume")
    slurm("scontrol", "release", sweep.task(0))
    start_again(sweep.task(0))
    sweep.until({0: "COMPLETED"}, through=["QUEUED", "RUNNING"])


@pytest.mark.heavy
def test_killed_for_memory_without_cgroups(program: Program) -> None:
    """Where SLURM itself watches the memory of jobs and kills them (OverMemoryKill), accounting says FAILED, and the
    task's log tells the truth: OUT_OF_MEMORY."""
    sweep = Sweep(program, "memory")
    Path(sweep.home, "memory.py").write_text(LARGE)
    with reconfigured(cgroup="no", extra=["JobAcctGatherParams=OverMemoryKill", "JobAcctGatherFrequency=task=1"]):
        options = ("hydra/sweeper=experiment", "hydra/launcher=slurm_script", "hydra.launcher.mem_gb=0.2")
        done = sweep.run("-m", "+x=1", *options, script="memory.py")
        assert 0 == done.returncode, done.stderr
        sweep.submit()
        sweep.until({0: "OUT_OF_MEMORY"}, through=["QUEUED", "RUNNING"])
        assert "FAILED" == sacct_state(sweep.slurm_id, is_array=True)[0][1]
