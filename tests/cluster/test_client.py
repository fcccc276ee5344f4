"""SLURM's commands on a real cluster: what is submitted, asked and ended, and what refusals say."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experiment_manager.errors import SlurmError
from experiment_manager.model.records import State, Task
from experiment_manager.scheduler.records import Phase, QueueRow, Run
from experiment_manager.scheduler.slurm import client
from experiment_manager.scheduler.slurm.scheduler import Slurm
from tests.conftest import wait_until

pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.usefixtures("cluster")]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A script in a folder of its own, which is the present directory: it sources its first argument."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "job script.sh"
    path.write_text('#!/bin/bash\neval "$1"\n')
    return str(path)


Submit = Callable[..., str]


@pytest.fixture
def submit(tmp_path: Path) -> Iterator[Submit]:
    """Submits shell code as a small job; at the end of the test, what is left of it is cancelled."""
    submitted = []
    path = tmp_path / "work.sh"

    def now(code: str, *arguments: str) -> str:
        path.write_text(f"#!/bin/bash\n{code}\n")
        log = f"--output={tmp_path}/%A_%a.log"
        submitted.append(client.sbatch(str(path), "--mem=50", log, f"--chdir={tmp_path}", *arguments))
        return submitted[-1]

    yield now
    client.scancel(submitted)


def a_name() -> str:
    return f"em-client-{os.getpid()}-{time.time_ns()}"


def rows(job_id: str) -> list[QueueRow]:
    me = {row.user for row in client.squeue([])}
    return [row for row in client.squeue(me) if row.array == job_id]


def test_a_job_from_submission_to_its_end(submit: Submit) -> None:
    """What is submitted is in squeue under its name, and accounting tells how it ended and when."""
    name, before = a_name(), time.time()
    job_id = submit("exit 3", f"--job-name={name}")
    assert {name} == {row.name for row in rows(job_id)}
    run = wait_until(lambda: ended(name, before, job_id, None))
    assert ("FAILED", 3, 0, name) == (run.word, run.exit_code, run.signal, run.name)
    assert before - 2 < run.start <= run.end_time < time.time() + 2


def ended(name: str, since: float, job_id: str, index: int | None) -> Run | None:
    """The last run of a task once accounting says that it has ended."""
    found = runs_of(client.sacct([name], since - 5) or [], job_id, index)
    return found[-1] if found and found[-1].end is not None and found[-1].word != "REQUEUED" else None


def runs_of(runs: list[Run], array: str, index: int | None) -> list[Run]:
    return [run for run in runs if run.array == array and run.array_index == index and run.waiting is None]


def test_times_do_not_depend_on_anybody(submit: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    """People's own time zone and output formats change nothing of what is read."""
    for setting in ("TZ=Pacific/Auckland", "SLURM_TIME_FORMAT=relative", "SQUEUE_ARRAY=1", "SQUEUE_STATES=R"):
        monkeypatch.setenv(*setting.split("=", 1))
    monkeypatch.setenv("SQUEUE_NAMES", "nothing")
    monkeypatch.setenv("SACCT_FORMAT", "JobID")
    name, before = a_name(), time.time()
    job_id = submit("true", f"--job-name={name}", "--array=0-1", "--begin=now+3600")
    (row,) = rows(job_id)
    assert 3500 < (row.start or 0.0) - before < 3700
    done = submit("true", f"--job-name={name}")
    assert before - 2 < wait_until(lambda: ended(name, before, done, None)).end_time < before + 60


def test_names_hold_anything(submit: Submit) -> None:
    """A name with spaces and with the separator of the columns comes back whole."""
    job_id = submit("true", "--hold", "--job-name=a b|c '%A'")
    assert ["a b|c '%A'"] == [row.name for row in rows(job_id)]


def test_long_arrays_are_told_in_full(submit: Submit) -> None:
    """Of a pending array with hundreds of scattered indices all are told, in one row."""
    wanted = sorted({index * index % 997 for index in range(1, 160)})
    job_id = submit("true", "--hold", f"--array={','.join(map(str, wanted))}%3")
    (row,) = rows(job_id)
    assert wanted == list(row.indices or ())


def test_cancelling_some_tasks(submit: Submit) -> None:
    """Tasks are cancelled by array and index, and the others stay; what is not there does not matter."""
    job_id = submit("true", "--hold", "--array=0-198:2")
    client.scancel([f"{job_id}_[0-10,20]", f"{job_id}_[777]", "99999999"])
    (row,) = rows(job_id)
    assert sorted({*range(12, 199, 2)} - {20}) == list(row.indices or ())


def test_cancelling_thousands(submit: Submit) -> None:
    """More targets than one call takes are cancelled in several."""
    job_id = submit("true", "--hold", "--array=0-399")
    client.scancel([f"{job_id}_{index}" for index in range(399)])
    assert [399] == [index for row in rows(job_id) if row.phase is not Phase.ENDED for index in row.indices or ()]


def test_a_target_that_is_none() -> None:
    """What scancel cannot read is said in its own words."""
    with pytest.raises(SlurmError, match="scancel failed: Invalid job id abc") as caught:
        client.scancel(["abc"])
    assert not caught.value.is_doubtful


def test_a_requeued_task_has_two_runs(submit: Submit) -> None:
    """Accounting keeps the run that was taken back (20.11 mostly does not), and a task beside it has its own."""
    name, before = a_name(), time.time()
    code = '[ -n "$SLURM_RESTART_COUNT" ] || [ $SLURM_ARRAY_TASK_ID = 0 ] || '
    code += 'scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" || true; '
    code += '[ -z "$SLURM_RESTART_COUNT" ] && '
    code += "[ $SLURM_ARRAY_TASK_ID = 1 ] && sleep 30; exit 4"
    job_id = submit(code, f"--job-name={name}", "--array=0-1", "--requeue", "--open-mode=append")
    wait_until(lambda: (run := ended(name, before, job_id, 1)) and run.word == "FAILED", seconds=90)
    runs = client.sacct([name], before - 5) or []
    assert ["FAILED"] == [run.word for run in runs_of(runs, job_id, 0)]
    words = [run.word for run in runs_of(runs, job_id, 1)]
    assert ["REQUEUED", "FAILED"] == words or (os.environ.get("EM_CLUSTER_SLURM"), ["FAILED"]) == ("20.11", words)
    assert [] == runs_of(runs, job_id, 2)


def test_one_question_tells_which_tasks_have_ended(submit: Submit, tmp_path: Path) -> None:
    """As one about each does, of tasks that run, have ended, were started again, and that SLURM has never heard of."""
    code = "env | grep '^SLURM' > task.$SLURM_ARRAY_TASK_ID.$SLURM_RESTART_COUNT; "
    code += "[ $SLURM_ARRAY_TASK_ID = 1 ] && exit 4; sleep 300"
    job_id = submit(code, "--array=0-2", "--requeue")
    paths = [tmp_path / f"task.{index}." for index in range(3)]
    wait_until(lambda: all(path.exists() and "SLURM_JOB_ID" in path.read_text() for path in paths), seconds=90)
    told = [dict(line.split("=", 1) for line in path.read_text().splitlines()) for path in paths]
    tasks = [task for one in told if (task := Slurm().task(one)) is not None]
    assert Slurm().requeue(tasks[2]) is None
    wait_until(lambda: (tmp_path / "task.2.1").exists(), seconds=180)
    tasks += [tasks[2]._replace(restart=1), Task("slurm", "99999999", user=tasks[0].user)]
    wait_until(lambda: Slurm().has_ended(tasks[1]))
    assert {job_id} == {task.array for task in tasks[:3]}
    assert {tasks[1], tasks[2], tasks[4]} == Slurm().ended(tasks)
    assert {task for task in tasks if Slurm().has_ended(task)} == Slurm().ended(tasks)


def test_out_of_memory_under_srun(submit: Submit) -> None:
    """A step that dies for memory is seen though the job itself only says FAILED."""
    name, before = a_name(), time.time()
    job_id = submit("srun python3 -c 'x = bytearray(300 << 20)'", f"--job-name={name}")
    run = wait_until(lambda: ended(name, before, job_id, None))
    assert (State.OUT_OF_MEMORY, True) == (run.end, run.word in ("FAILED", "OUT_OF_MEMORY"))


def test_thousands_of_names() -> None:
    """More names than an argument can hold are asked about nevertheless."""
    assert [] == client.sacct([f"em-nobody-{number:040d}" for number in range(4000)], time.time() - 60)


def test_unknown_users_have_no_jobs() -> None:
    """A user whom this machine does not know is no reason to fail."""
    assert [] == client.squeue(["no-such-user"])


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--partition=nosuch", "invalid partition specified: nosuch.*one of .*main"),
        ("--array=0-100000", "Invalid job array specification; the largest index.* 1000,"),
        ("--constraint=nosuch", "Invalid feature specification; set `constraint`"),
        ("--gres=nosuch:1", "Invalid generic resource .*; set `gres`"),
        ("--mem=xyz", "Invalid --mem specification; mend that option"),
        ("--mem=99999G", "Requested node configuration is not available; .* lower mem_gb"),
        ("--nosuch", "unrecognized option '--nosuch'; mend"),
        (f"--array={','.join(str(index * 2) for index in range(480))}" + ",1,5" * 600, "over 4,096 bytes"),
    ],
)
def test_refusals_say_the_way_out(script: str, option: str, words: str) -> None:
    """sbatch's own words come first and what to do about it after; a clear refusal is not doubtful."""
    with pytest.raises(SlurmError, match=f"sbatch failed: .*{words}") as caught:
        client.sbatch(script, option)
    assert not caught.value.is_doubtful
    assert "sbatch" not in caught.value.words


def test_asking_only(script: str) -> None:
    """What SLURM would do is told, and nothing is submitted; what it would refuse is refused."""
    before = {row.array for row in client.squeue([])}
    assert "to start at" in client.test_only(script, "--job-name=em-asked")
    with pytest.raises(SlurmError, match="Invalid partition name specified"):
        client.test_only(script, "--partition=nosuch")
    assert "em-asked" not in {row.name for row in client.squeue([]) if row.array not in before}


def test_a_controller_that_is_away(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who cannot reach SLURM is told so: a question has no answer, and an order is doubtful."""
    told = client._ask("scontrol", "show", "config")
    path = next(line.split("=")[1].strip() for line in told.splitlines() if line.startswith("SLURM_CONF"))
    lines = Path(path).read_text().splitlines()
    kept = [line for line in lines if not line.lower().startswith("slurmctldport")]
    (tmp_path / "slurm.conf").write_text("\n".join([*kept, "SlurmctldPort=1", "MessageTimeout=1"]))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    with pytest.raises(SlurmError, match=r"may have submitted the job nevertheless.*Unable to contact") as caught:
        client.sbatch(script, "--hold")
    assert caught.value.is_doubtful
    with pytest.raises(SlurmError, match="squeue failed: Unable to contact"):
        client.squeue(["root"])


def test_a_cluster_without_accounting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where accounting is off there is no answer, which is no error."""
    told = client._ask("scontrol", "show", "config")
    path = next(line.split("=")[1].strip() for line in told.splitlines() if line.startswith("SLURM_CONF"))
    lines = [line for line in Path(path).read_text().splitlines() if not line.startswith("AccountingStorageT")]
    (tmp_path / "slurm.conf").write_text("\n".join([*lines, "AccountingStorageType=accounting_storage/none"]))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    assert client.sacct(["anything"], time.time() - 60) is None


def test_no_slurm_on_the_path(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without SLURM's commands the sentence says where to go; accounting simply has nothing to say."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert not client.is_available()
    for call in (lambda: client.sbatch(script), client.require, lambda: client.squeue([])):
        with pytest.raises(SlurmError, match="is not on the path here; run this on a login node"):
            call()
    assert client.sacct(["anything"], 0.0) is None


def test_an_order_without_an_answer(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An sbatch that hangs, dies or says nothing may have submitted the job."""
    little = tmp_path / "bin" / "sbatch"
    little.parent.mkdir()
    monkeypatch.setenv("PATH", str(little.parent), prepend=":")
    for code, words in (("exec sleep 9", "no answer within 0.5 s"), ("kill -9 $$", "ended with -9"), ("", "nothing")):
        little.write_text(f"#!/bin/bash\n{code}\n")
        little.chmod(0o755)
        with pytest.raises(SlurmError, match=words) as caught:
            client.sbatch(script, seconds=0.5)
        assert caught.value.is_doubtful


def test_a_job_does_not_inherit_another_one(submit: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Submitted from inside a job, the new one has its own SLURM variables and not those of the old one."""
    for setting in ("SLURM_JOB_ID=7", "SLURM_MEM_PER_CPU=1", "SBATCH_PARTITION=nosuch", "EXPERIMENT_MANAGER_JOB=3"):
        monkeypatch.setenv(*setting.split("=", 1))
    monkeypatch.setenv("KEPT", "yes")
    job_id = submit('env > "env.$SLURM_JOB_ID"; mv "env.$SLURM_JOB_ID" env.txt')
    text = wait_until(lambda: (tmp_path / "env.txt").exists() and (tmp_path / "env.txt").read_text())
    lines = set(text.splitlines())
    assert {f"SLURM_JOB_ID={job_id}", "KEPT=yes"} <= lines
    assert not lines & {"SLURM_MEM_PER_CPU=1", "SBATCH_PARTITION=nosuch", "EXPERIMENT_MANAGER_JOB=3"}


def test_own_defaults_stay() -> None:
    """Outside of a job people's own defaults for sbatch are theirs to set."""
    environ = {"SBATCH_ACCOUNT": "mine", "EXPERIMENT_MANAGER_JOB": "3"}
    assert {"SBATCH_ACCOUNT": "mine"} == client.clean_environment(environ)


def test_the_largest_array() -> None:
    """The cluster is asked for the size of its arrays."""
    assert 1001 == client.max_array_size()
