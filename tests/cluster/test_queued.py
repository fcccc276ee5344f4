"""Jobs that wait, in whatever way they were handed over: known as waiting, never run twice, and never called failed."""

import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from experiment_manager.store.processes import ancestors, descendants, words_of
from tests.cluster.conftest import (
    HOME,
    ProgramOf,
    need_own_cluster,
    python_as_user,
    reconfigured,
    up,
    wait_for_queue_to_drain,
)
from tests.cluster.sweeps import Sweep, counting_path, queue, slurm, start_again
from tests.conftest import Program, clean_env, files_below, wait_until

pytestmark = pytest.mark.heavy  # minutes: run by `make test-cluster`

HELD = "+hydra.launcher.additional_parameters.hold=true"


def test_taken_out_of_the_queue(program: Program) -> None:
    """Tasks that were cancelled before they began are CANCELLED, one alone or the whole array, though SLURM forgets
    the one alone; the sweep typed again runs them, and nothing that still waits."""
    seeds = "seed=0,1,2,3"
    sweep = Sweep(program)
    sweep.write(seeds, HELD)
    sweep.sbatch()
    sweep.until(dict.fromkeys(range(4), "QUEUED"), through=["PENDING"])
    assert set(sweep.looked()[1].values()) == {"JobHeldUser"}
    assert "" == sweep.typed_again(seeds, HELD)
    slurm("scancel", sweep.task(1))
    sweep.until({0: "QUEUED", 1: "CANCELLED", 2: "QUEUED", 3: "QUEUED"}, through=["QUEUED"])
    assert "1" == sweep.typed_again(seeds, HELD)
    slurm("scancel", sweep.slurm_id)
    sweep.until({0: "CANCELLED", 1: "CANCELLED", 2: "CANCELLED", 3: "CANCELLED"}, through=["QUEUED"])
    assert "0-3" == sweep.typed_again(seeds)
    sweep.submit()
    sweep.until(dict.fromkeys(range(4), "COMPLETED"), through=["QUEUED", "RUNNING"])
    assert [
        f"{job}.{number}.{state}" for job in range(4) for number, state in ((1, "CANCELLED"), (2, "COMPLETED"))
    ] == (sweep.states())


def test_submitted_by_hand(program: Program) -> None:
    """A script that `sbatch` got in part leaves the other jobs PENDING; one that it got twice runs each job once; one
    that is submitted again after failures runs those again, and is known to wait meanwhile."""
    part, twice, again = Sweep(program, "part"), Sweep(program, "twice"), Sweep(program, "again")
    part.write("seed=0,1,2,3")
    twice.write("seed=0,1", "sleep=1")
    again.write("how=unless-again,raise")
    part.sbatch("--array=0-1")
    first, second, _ = twice.sbatch(), twice.sbatch(), again.sbatch()
    part.until({0: "COMPLETED", 1: "COMPLETED", 2: "PENDING", 3: "PENDING"}, through=["PENDING", "QUEUED", "RUNNING"])
    assert "2-3" == part.typed_again("seed=0,1,2,3")
    wait_until(lambda: [] == queue(first, second))
    assert {0: "COMPLETED", 1: "COMPLETED"} == twice.status()
    assert ["0.1.COMPLETED", "1.1.COMPLETED"] == twice.states()
    again.until({0: "FAILED", 1: "FAILED"})
    again.sbatch()
    again.until({0: "COMPLETED"})
    again.until({1: "FAILED"})
    assert ["0.1.FAILED", "0.2.COMPLETED", "1.1.FAILED", "1.2.FAILED"] == again.states()


def test_died_before_it_began(program: Program) -> None:
    """A task that ends before its job begins makes the job FAILED, with what SLURM says and the last line of the log,
    and nothing else before that, however many end at once; where there is no such Python on the node, with the way
    out."""
    script, python = Sweep(program, "script"), Sweep(program, "python")
    script.write("seed=range(40)", "hydra.launcher.pre_script=['echo no such module >&2; exit 9']")
    python.write("seed=0")
    text = (python.experiment / "slurm_scripts.sh").read_text()
    (python.experiment / "slurm_scripts.sh").write_text(text.replace("exec /", "exec /gone/"))
    script.sbatch()
    python.sbatch()
    script.until(dict.fromkeys(range(40), "FAILED"), through=["PENDING", "QUEUED"])
    assert all(why.startswith("SLURM: FAILED") for why in script.looked()[1].values())
    assert all(why.endswith("before the job began: no such module") for why in script.looked()[1].values())
    python.until({0: "FAILED"}, through=["PENDING", "QUEUED"])
    way_out = "; what a script runs has to be on all nodes, and may be run there: install it where they see it"
    assert re.fullmatch(
        rf"SLURM: FAILED.* before .*/gone/.*: No such file or directory{way_out}", python.looked()[1][0]
    )


def test_packed_and_superseded(program: Program) -> None:
    """Jobs that share a task end each in its own way; a job that two launches hold is run by one of them, once."""
    packed, killed, older = Sweep(program, "packed"), Sweep(program, "killed"), Sweep(program, "older")
    packed.write("how=well,exit3,segv,raise,unless-again", "hydra.launcher.pack=2")
    killed.write("sleep=3,4", "hydra.launcher.pack=2")
    packed.submit()
    killed.submit()
    older.write("seed=0,1")
    assert "0-2" == older.typed_again("seed=0,1,2")
    newest = older.submit()
    oldest = slurm("sbatch", "--parsable", str(older.experiment / "launches/0001/slurm_scripts.sh"))
    killed.until_begun(0, 1)
    os.kill(killed.anchor(0)["pid"], signal.SIGKILL)
    packed.until({0: "COMPLETED", 1: "FAILED", 2: "FAILED", 3: "FAILED", 4: "FAILED"}, through=["QUEUED", "RUNNING"])
    killed.until({0: "FAILED", 1: "COMPLETED"}, through=["RUNNING"])
    wait_until(lambda: [] == queue(newest, oldest))
    assert dict.fromkeys(range(3), "COMPLETED") == older.status()
    assert ["0.1.COMPLETED", "1.1.COMPLETED", "2.1.COMPLETED"] == older.states()


def test_slurm_is_asked_once(program: Program, tmp_path: Path) -> None:
    """`status` asks squeue once and sacct once for all launches and arrays, and which cluster that is, and nobody when
    all has been said."""
    path, calls = counting_path(tmp_path / "counting")
    sweep = Sweep(program)
    resources = ("hydra.launcher.resources_from=res", "+res.cpus_per_task=1,2")
    arrays: list[str] = []
    for seeds in ("0", "0,1", "0,1,2"):
        sweep.write(f"seed={seeds}", HELD, *resources)
        arrays += [array["slurm_id"] for array in sweep.told("submit")]
    assert 6 == len(arrays)
    assert ["0001", "0002", "0003"] == sweep.launches()
    assert dict.fromkeys(range(6), "QUEUED") == sweep.status(PATH=path)
    assert ["sacct", "scontrol", "squeue"] == sorted(calls.read_text().split())  # the second one tells who is asked
    slurm("scancel", *arrays)
    sweep.until(dict.fromkeys(range(6), "CANCELLED"), through=["QUEUED"])
    calls.write_text("")
    assert dict.fromkeys(range(6), "CANCELLED") == sweep.status(PATH=path)
    assert "" == calls.read_text()


def test_slurm_is_asked_once_about_all_experiments(program: Program, tmp_path: Path) -> None:
    """`list` asks squeue once and sacct once, however many experiments there are, and nobody when all has been said."""
    path, calls = counting_path(tmp_path / "counting")
    sweeps = [Sweep(program, name) for name in ("a", "b", "c")]
    ids = []
    for sweep in sweeps:
        sweep.write("seed=0,1", HELD)
        ids.append(sweep.submit())
    done = program.python("-m", "experiment_manager", "list", "experiments", "--json", PATH=path)
    assert [{"QUEUED": 2}] * 3 == [row["counts"] for row in json.loads(done.stdout)]
    assert ["sacct", "scontrol", "squeue"] == sorted(calls.read_text().split())  # the second one tells who is asked
    slurm("scancel", *ids)
    for sweep in sweeps:
        sweep.until(dict.fromkeys(range(2), "CANCELLED"), through=["QUEUED"])
    calls.write_text("")
    done = program.python("-m", "experiment_manager", "list", "experiments", "--json", PATH=path)
    assert [{"CANCELLED": 2}] * 3 == [row["counts"] for row in json.loads(done.stdout)]
    assert "" == calls.read_text()


def test_a_controller_that_does_not_answer(program: Program) -> None:
    """While SLURM is silent every state is what it was, with a sentence that says so, and nothing is settled; then it
    goes on as if nothing had been."""
    need_own_cluster()
    sweep = Sweep(program)
    sweep.write("seed=0,1,2", "sleep=60")
    sweep.submit()
    sweep.until_begun(0, 1, 2)
    slurm("scontrol", "requeue", sweep.task(0))
    os.kill(sweep.anchor(1)["pid"], signal.SIGKILL)
    sweep.until({0: "QUEUED", 1: "FAILED", 2: "RUNNING"}, through=["RUNNING"])
    slurm("scontrol", "hold", sweep.task(0))
    assert "1,3" == sweep.typed_again("seed=0,1,2,3", "sleep=60", HELD)
    sweep.sbatch()
    states = {0: "QUEUED", 1: "QUEUED", 2: "RUNNING", 3: "QUEUED"}
    sweep.until(states)
    controller = int((HOME / "run/slurmctld.pid").read_text())
    os.kill(controller, signal.SIGSTOP)
    try:
        os.kill(sweep.anchor(2)["pid"], signal.SIGKILL)
        told, _, said = sweep.looked()
    finally:
        os.kill(controller, signal.SIGCONT)
    assert states == told
    assert "SLURM cannot be asked: squeue failed" in said
    assert not list(sweep.experiment.glob("launches/*/settled"))
    sweep.until({**states, 2: "FAILED"}, through=["RUNNING", "FAILED"])


def keep(slurm_id: str) -> None:
    """The controller has written down what it knows by now, with this job: it does so within seconds of a change."""
    kept, now = HOME / "state/slurmctld/job_state", time.time()
    slurm("scontrol", "update", f"jobid={slurm_id}", "comment=kept")
    wait_until(lambda: kept.exists() and kept.stat().st_mtime > now)


def whole_task(sweep: Sweep, job: int) -> list[int]:
    """The processes of the task of a job: SLURM's own, which waits for the script, and all below it."""
    daemon = next(pid for pid in ancestors(sweep.anchor(job)["pid"]) if words_of(pid).startswith("slurmstepd:"))
    return [daemon, *descendants(daemon)]


@pytest.mark.usefixtures("light")
def test_a_controller_that_is_gone_for_a_minute(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the controller is dead a job ends, a supervisor is killed, and all of another task: nothing is told to have
    ended that has not. Once it is back the rest runs, each once, but for what SLURM itself starts again, and who has
    waited the whole time is told so."""
    need_own_cluster()
    sweep, lost, through = (Sweep(program, name) for name in ("train", "lost", "through"))
    release, held = program.home / "go", program.home / "hold.0"
    begun = {each: program.home / f"begun.{each.experiment.name}" for each in (sweep, lost, through)}
    monkeypatch.setenv("RELEASE", str(release))
    held.touch()
    for each, settings in ((sweep, "sleep=15,600,0"), (lost, "how=hang-at-first"), (through, "steps=1")):
        begun[each].mkdir()
        each.write(settings, f"started={begun[each]}", "hydra.launcher.array_parallelism=2")
        each.submit()
    sweep.until_begun(0, 1)
    for each in (lost, through):
        each.until_begun(0)
    waits = [
        each.start("-m", "experiment_manager", "status", str(each.experiment), "--wait", "--json")
        for each in (sweep, through)
    ]
    assert {0: "RUNNING", 1: "RUNNING", 2: "QUEUED"} == sweep.status()
    keep(lost.slurm_id)
    os.kill(int((HOME / "run/slurmctld.pid").read_text()), signal.SIGKILL)
    gone = time.monotonic()
    release.touch()
    for pid in (sweep.anchor(1)["pid"], *whole_task(lost, 0)):
        os.kill(pid, signal.SIGKILL)
    while time.monotonic() < gone + 60:
        for told in (sweep.status(), {row["job"]: row["state"] for row in sweep.told("jobs")}):
            assert told in [{0: state, 1: "RUNNING", 2: "QUEUED"} for state in ("RUNNING", "COMPLETED")]
        assert {0: "RUNNING"} == lost.status() == through.status()
        assert [None, None] == [process.poll() for process in waits]
    assert ["0.1.COMPLETED", "1.1.RUNNING"] == sweep.states()
    assert not list(sweep.experiment.glob("launches/*/settled"))
    release.unlink()
    up()
    held.unlink()
    sweep.until({0: "COMPLETED", 1: "FAILED", 2: "RUNNING"}, through=["RUNNING", "QUEUED"], seconds=120)
    release.touch()
    wait_until(lambda: ["PENDING"] == queue(lost.slurm_id), 120)
    lost.until({0: "QUEUED"}, through=["RUNNING"])
    start_again(lost.task(0))
    lost.until({0: "COMPLETED"})
    assert ["0.1.NODE_FAIL", "0.2.COMPLETED"] == lost.states()
    said = [(json.loads(process.communicate(timeout=300)[0])["jobs"], process.returncode) for process in waits]
    assert [({"COMPLETED": [0, 2], "FAILED": [1]}, 1), ({"COMPLETED": [0]}, 0)] == said
    assert ["0.1.COMPLETED", "1.1.FAILED", "2.1.COMPLETED"] == sweep.states()
    runs = {each: Counter(path.name.split(".")[0] for path in begun[each].iterdir()) for each in begun}
    assert {sweep: {"0": 1, "1": 1, "2": 1}, lost: {"0": 2}, through: {"0": 1}} == runs


@pytest.mark.parametrize("is_refused", [False, True])
def test_without_accounting(program: Program, monkeypatch: pytest.MonkeyPatch, *, is_refused: bool) -> None:
    """Without accounting squeue tells how tasks ended, as long as it knows: also what was killed, or had not begun; the
    same where accounting refuses to answer."""
    ends, unbegun, held = Sweep(program, "ends"), Sweep(program, "unbegun"), Sweep(program, "held")
    if is_refused:
        commands = program.home / "bin"
        commands.mkdir()
        (commands / "sacct").write_text(
            "#!/bin/sh\necho 'sacct: error: slurmdbd: Operation not permitted' >&2\nexit 1\n"
        )
        (commands / "sacct").chmod(0o755)
        monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    with nullcontext() if is_refused else reconfigured(accounting=False):
        ends.write("seed=0,1,2,3", "sleep=60")
        unbegun.write("seed=0", "hydra.launcher.pre_script=['echo no such module; exit 9']")
        held.write("seed=0,1", HELD)
        for sweep in (ends, unbegun, held):
            sweep.submit()
        slurm("scancel", held.task(0))
        ends.until_begun(0, 1, 2, 3)
        os.kill(ends.anchor(0)["pid"], signal.SIGKILL)
        slurm("scancel", ends.task(1))
        slurm("scontrol", "requeue", ends.task(2))
        ends.until({0: "FAILED", 1: "CANCELLED", 2: "QUEUED", 3: "RUNNING"}, through=["RUNNING"])
        assert ["0.1.FAILED", "1.1.CANCELLED", "2.1.PREEMPTED", "3.1.RUNNING"] == ends.states()
        unbegun.until({0: "FAILED"}, through=["QUEUED"])
        assert unbegun.looked()[1][0].endswith("before the job began: no such module")
        assert {0: "QUEUED", 1: "QUEUED"} == held.status()
        slurm("scancel", held.slurm_id)
        held.until({1: "CANCELLED"}, through=["QUEUED"])


def test_seen_by_others(alices_program: ProgramOf) -> None:
    """Who may only read an experiment is told what became of it and changes nothing; where SLURM shows people only
    their own jobs, those of others are what was last known of them, and not cancelled."""
    experiment = alices_program.experiment
    alices_program.home.parent.chmod(0o755)
    for settings in (("seed=0", "sleep=60"), ("seed=0,1", HELD)):
        done = alices_program.sweep(*settings, "hydra/launcher=slurm_submitit")
        assert 0 == done.returncode, done.stderr
    wait_until((experiment / "jobs/0/metrics.1.jsonl").exists)
    submission = experiment / "launches/0002/submission.json"
    submission.write_text(re.sub(r'"submitted": [0-9.]+', '"submitted": 1.0', submission.read_text()))
    os.kill(json.loads((experiment / "states/0.1").read_text())["pid"], signal.SIGKILL)
    before = files_below(experiment)

    def seen() -> Any:
        done = python_as_user("nobody", "-m", "experiment_manager", "status", str(experiment), "--json", cwd=Path("/"))
        assert 0 == done.returncode, done.stderr
        return json.loads(done.stdout)["jobs"]

    with reconfigured(extra=["PrivateData=jobs"]):
        wait_until(lambda: {"FAILED": [0], "QUEUED": [1, 2]} == seen())
    assert before == files_below(experiment)
    assert {"FAILED": [0], "QUEUED": [1, 2]} == alices_program.told("status")["jobs"]
    assert before != files_below(experiment)


def test_looked_after_by_others(alices_program: ProgramOf) -> None:
    """Where SLURM shows people only their own jobs, somebody else who may write to an experiment leaves running what
    runs on nodes that nobody can ask, though SLURM has never heard of it."""
    need_own_cluster()
    experiment = alices_program.experiment
    alices_program.home.parent.chmod(0o755)
    done = alices_program.sweep("seed=0", "sleep=60", "hydra/launcher=slurm_submitit")
    assert 0 == done.returncode, done.stderr
    wait_until((experiment / "jobs/0/metrics.1.jsonl").exists)
    anchor = experiment / "states/0.1"
    about = json.loads(anchor.read_text())
    anchor.write_text(json.dumps({**about, "host": "elsewhere", "boot": "another"}))
    subprocess.run(["chmod", "-R", "a+rwX", experiment], check=True)
    asks = (
        "import json, sys; from experiment_manager.store.states import task_in; from experiment_manager.scheduler "
        "import schedulers; print(schedulers.has_ended(task_in(json.load(open(sys.argv[1])))))"
    )

    def as_nobody(*words: str) -> str:
        done = python_as_user("nobody", *words, cwd=Path("/"))
        assert 0 == done.returncode, done.stderr
        return done.stdout

    with reconfigured(extra=["PrivateData=jobs"], accounting=False):
        assert {"RUNNING": [0]} == json.loads(
            as_nobody("-m", "experiment_manager", "status", str(experiment), "--json")
        )["jobs"]
        assert "False\n" == as_nobody("-c", asks, str(anchor))
        assert [experiment / "states/0.1.RUNNING"] == list(experiment.glob("states/0.1.*"))


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("first", ["requeue", "resubmit"])
def test_resubmitted_while_slurm_starts_it_again(program: Program, first: str) -> None:
    """Jobs that have failed, and whose tasks are requeued by hand while `resubmit` hands them over: each is begun once
    more, by one of both, and nothing runs that has completed."""
    sweep, begun, jobs = Sweep(program), program.home / "begun", range(8)
    begun.mkdir()
    sweep.write("seed=range(8)", "how=unless-again", "sleep=1", f"started={begun}")
    sweep.submit()
    sweep.until(dict.fromkeys(jobs, "FAILED"))
    tasks = " ".join(map(sweep.task, jobs))
    again = f"for task in {tasks}; do scontrol requeue $task; done"
    words = ("-m", "experiment_manager", "resubmit", str(sweep.experiment), "--yes")
    resubmit = sweep.start(*words) if first == "resubmit" else None
    requeue = subprocess.Popen(["bash", "-c", again], env=clean_env())
    resubmit = resubmit or sweep.start(*words)
    assert 0 == requeue.wait(60)
    _, said = resubmit.communicate(timeout=120)
    assert (True, False) == (resubmit.returncode in (0, 2), "Traceback" in said), said
    sweep.until(dict.fromkeys(jobs, "COMPLETED"), seconds=90)
    wait_for_queue_to_drain()
    assert [f"{job}.{end}" for job in jobs for end in ("1.FAILED", "2.COMPLETED")] == sweep.states()
    assert dict.fromkeys(map(str, jobs), 2) == Counter(path.name.split(".")[0] for path in begun.iterdir())
