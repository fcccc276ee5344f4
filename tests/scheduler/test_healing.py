"""Jobs that died for want of memory or time are submitted again with more, each once, whoever heals and is killed."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiment_manager.cli.main import main
from experiment_manager.errors import OptionsError
from experiment_manager.execution.resubmit import Resubmitted
from experiment_manager.model.records import State
from experiment_manager.scheduler import healing
from experiment_manager.scheduler.healing import heal
from experiment_manager.scheduler.submission import launched_arrays
from experiment_manager.store.launches import read_launch
from experiment_manager.store.states import States
from experiment_manager.testing import Jobs
from tests.conftest import in_shape
from tests.scheduler.file_scheduler import FileScheduler, begun, order, wrong

LONG = {"seconds": 180.0}
OOM: dict[str, Any] = {"mem_gb": 1, "on_oom": {"mem_gb": "x2", "max": 3}}
FIRST, SECOND = "OUT_OF_MEMORY with mem_gb=1, now mem_gb=2 (on_oom, retry 1)", "(on_oom, retry 2)"


def arrays() -> list[list[str]]:
    """The jobs of each array that was ever submitted."""
    return [sorted(about["jobs"].values()) for _, about in FileScheduler()._arrays()]


def again(jobs: Jobs, *ids: int, **settings: Any) -> Resubmitted:
    """Somebody runs jobs again: scripts are written, and wait for him."""
    runner = os.path.join(jobs.experiment.folder.parent, "runner.py")
    return jobs.experiment.resubmit(list(ids), runner=runner, settings=settings)


def dies_without_a_word(jobs: Jobs, job_id: int) -> None:
    """The job and its supervisor are killed for memory, and the scheduler alone knows it."""
    os.kill(jobs.anchor(job_id)["pid"], signal.SIGSTOP)
    order(jobs, job_id, "OUT_OF_MEMORY")
    jobs.wait_until(lambda: FileScheduler().has_ended(jobs.task(job_id)))


def refused_to_its_supervisor(jobs: Jobs, job_id: int = 0) -> None:
    """The job dies for memory, and its supervisor, which has made a launch, may submit nothing."""
    wrong(refuses="not from a node")
    order(jobs, job_id, "OUT_OF_MEMORY")
    jobs.wait_until(lambda: FileScheduler().has_ended(jobs.task(job_id)))
    wrong()


def test_by_supervisors(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    """What died for memory runs again, alone, with more, until it has all that its rule gives, without anybody who
    looks; who waits, waits for it; status and show tell why."""
    begun(jobs, LONG, LONG, {}, **OOM)
    for attempt in (1, 2, 3):
        jobs.wait_until(lambda attempt=attempt: jobs.has_begun(0, attempt), lambda: str(jobs.attempts()))  # type: ignore[misc]
        order(jobs, 0, "OUT_OF_MEMORY", attempt)
    jobs.end(1)
    status = jobs.experiment.status(wait=True)
    assert {State.OUT_OF_MEMORY: 1, State.COMPLETED: 2} == status.counts
    assert {0: ["OUT_OF_MEMORY"] * 3, 1: ["COMPLETED"], 2: ["COMPLETED"]} == jobs.attempts()
    assert [["0", "1", "2"], ["0"], ["0"]] == arrays()
    assert [(0,), (0,)] == list(status.healed.values())
    assert {"it had mem_gb=3, the max of on_oom": (0,)} == status.given_up
    first, second, third = jobs.experiment.show(0)["attempts"]
    assert (False, FIRST, True) == ("healing" in first, second["healing"], third["healing"].endswith(SECOND))
    path = jobs.experiment.folder.path
    assert 0 == main(["status", path])
    assert f"1 job submitted again: {FIRST} (job 0)" in (said := capsys.readouterr().out)
    assert "1 job not submitted again: it had mem_gb=3, the max of on_oom (job 0)" in said
    assert 0 == main(["status", path, "--json"])
    assert {FIRST: [0]}.items() <= in_shape("status", capsys.readouterr().out)["healed"].items()
    assert 0 == main(["show", path, "0"])
    assert f"submitted again: {FIRST}" in capsys.readouterr().out
    log = Path(jobs.experiment.folder.join("launches", "0001", "1_0.log")).read_text()
    assert f"1 job submitted again as 2 in launch 0002: {FIRST} (job 0)" in log


def test_two_at_the_same_time(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    """What no supervisor could submit, the command does: once, however many type it, and however often; the jobs that
    died as only the scheduler knows, too."""
    begun(jobs, LONG, LONG, LONG, **OOM)
    refused_to_its_supervisor(jobs)
    dies_without_a_word(jobs, 1)
    path = jobs.experiment.folder.path
    assert {FIRST: (0, 1)} == jobs.experiment.status().to_heal
    assert 0 == main(["status", path])
    assert f"2 jobs to be submitted again, by `experiment-manager heal {path}`: {FIRST} (jobs 0-1)" in (
        capsys.readouterr().out
    )
    words = [sys.executable, "-m", "experiment_manager", "heal", path, "--json"]
    several = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [in_shape("heal", one.communicate()[0]) for one in several]
    assert [0, 0] == [one.returncode for one in several]
    assert {0, 1} == {job for answer in said for one in answer["healed"] for job in one["jobs"]}
    assert [["0", "1", "2"], ["0"], ["1"]] == arrays()
    jobs.wait_until(lambda: jobs.has_begun(0, 2) and jobs.has_begun(1, 2))
    assert 0 == main(["heal", path])
    assert f"nothing to heal in {path}\n" == capsys.readouterr().out
    for job_id in range(3):
        jobs.end(job_id)
    jobs.wait_for("COMPLETED", "COMPLETED", "COMPLETED")
    assert {0: ["OUT_OF_MEMORY", "COMPLETED"], 1: ["OUT_OF_MEMORY", "COMPLETED"], 2: ["COMPLETED"]} == jobs.attempts()
    assert 3 == len(arrays())


def test_where_nobody_can_be_asked(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    """`heal` does not say that there is nothing to heal where the scheduler did not answer what became of jobs that
    have a rule, and ends with 2; of jobs without one nothing is asked for."""
    begun(jobs, LONG, **OOM)
    path = jobs.experiment.folder.path
    capsys.readouterr()
    wrong(stalls=True)
    assert 2 == main(["heal", path])
    said = capsys.readouterr()
    assert "" == said.out
    assert "error: what became of launch 0001 could not be asked; repeat" in said.err
    assert 2 == main(["heal", path, "--json"])
    assert ["0001"] == in_shape("heal", capsys.readouterr().out)["unasked"]
    wrong()
    assert 0 == main(["heal", path])
    assert f"nothing to heal in {path}\n" == capsys.readouterr().out


def test_where_the_history_alone_does_not_answer(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a job whose end the history alone tells, `heal` says that it could not be asked, and not that all
    is healed; what runs still is no reason to."""
    begun(jobs, LONG, LONG, **OOM)
    path = jobs.experiment.folder.path
    refuses = {"keeps_history_to_itself": "Operation not permitted"}
    wrong(**refuses)
    assert 0 == main(["heal", path])
    assert f"nothing to heal in {path}\n" == capsys.readouterr().out
    wrong()
    dies_without_a_word(jobs, 1)
    array = str(jobs.task(1).array)
    jobs.wait_until(
        lambda: [0] == [i for row in FileScheduler().queue_of(array) for i in row.indices or ()]
    )  # it forgets
    Path(jobs.experiment.folder.join("launches", "0001", f"{array}_1.log")).write_text("")
    wrong(**refuses)
    assert 2 == main(["heal", path])
    assert "error: what became of launch 0001 could not be asked; repeat" in capsys.readouterr().err
    wrong()
    assert 0 == main(["heal", path])
    jobs.wait_until(lambda: jobs.has_begun(1, 2))
    assert [["0", "1"], ["1"]] == arrays()


def test_two_write_at_the_same_moment(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whom no lock keeps out, the files do: of two launches for one death, one is submitted."""
    begun(jobs, LONG, **OOM)
    refused_to_its_supervisor(jobs)
    folder, write = jobs.experiment.folder, healing._write
    shutil.rmtree(folder.join("launches", "0002"))

    def meanwhile(*given: Any) -> Any:
        monkeypatch.setattr(healing, "_write", write)
        assert [(0,)] == [one.jobs for one in heal(folder).healed]
        return write(*given)

    monkeypatch.setattr(healing, "_write", meanwhile)
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    assert () == heal(folder).healed
    assert [["0"], ["0"]] == arrays()
    jobs.wait_until(lambda: jobs.has_begun(0, 2))
    jobs.end(0)
    jobs.wait_for("COMPLETED")


@pytest.mark.parametrize("where", ["before its scripts", "after it was accepted"])
def test_killed(jobs: Jobs, where: str) -> None:
    """Whoever heals may be killed at any time: who comes next goes on with the launch, and submits it once."""
    begun(jobs, LONG, **OOM)
    refused_to_its_supervisor(jobs)
    folder = jobs.experiment.folder
    if where == "before its scripts":
        Path(folder.join("launches", "0002", "slurm_scripts.sh")).unlink()
    else:
        heal(folder)
        record = Path(folder.join("launches", "0002", "submission.json"))
        said = json.loads(record.read_text())
        record.write_text(json.dumps({**said, "arrays": {name: {"doubtful_until": 0} for name in said["arrays"]}}))
    assert ["0002"] == [one.launch for one in heal(folder).healed]
    jobs.wait_until(lambda: jobs.has_begun(0, 2))
    assert ((), [["0"], ["0"]]) == (heal(folder).healed, arrays())
    (array,) = read_launch(folder, "0002").record["file"]["arrays"]
    assert {"mem_gb": 2, **OOM, "name": None} | {"mem_gb": 2} == {**array["options"], "name": None}
    jobs.end(0)
    jobs.wait_for("COMPLETED")


def test_without_locks(jobs: Jobs) -> None:
    """Where two healers have not seen each other, the launch of the lower number is submitted and the other never."""
    begun(jobs, LONG, **OOM)
    refused_to_its_supervisor(jobs)
    folder = jobs.experiment.folder
    (array,) = launched_arrays(read_launch(folder, "0002"))
    shutil.copytree(folder.join("launches", "0002"), folder.join("launches", "0003"))
    for path in Path(folder.join("launches", "0003")).glob("*.*"):
        if path.suffix in (".json", ".sh"):
            path.write_text(path.read_text().replace(array.name, "another").replace('"0002"', '"0003"'))
    assert ["0002"] == [one.launch for one in heal(folder).healed]
    assert [] == list(heal(folder).healed)
    assert [["0"], ["0"]] == arrays()
    assert {FIRST: (0,)} == jobs.experiment.status().healed


def test_what_people_have_launched(jobs: Jobs) -> None:
    """A job that somebody has launched again, by scripts that wait for him, is left to him; so is one that ran by
    hand."""
    begun(jobs, LONG, **OOM)
    dies_without_a_word(jobs, 0)
    done = again(jobs, 0, mem_gb=2)
    assert ({"0002": (0,)}, ()) == (heal(jobs.experiment.folder).left, heal(jobs.experiment.folder).healed)
    assert [["0"]] == arrays()
    FileScheduler().submit(done.scripts[0])
    jobs.wait_until(lambda: jobs.has_begun(0, 2))
    jobs.end(0)
    jobs.wait_for("COMPLETED")


def test_what_is_held(jobs: Jobs) -> None:
    """A job that is held is not submitted again before it is released, also where its launch was written before."""
    begun(jobs, LONG, LONG, **OOM)
    refused_to_its_supervisor(jobs)
    dies_without_a_word(jobs, 1)
    jobs.experiment.hold("0")
    assert [(1,)] == [one.jobs for one in heal(jobs.experiment.folder).healed]
    jobs.experiment.release("0")
    assert [(0,)] == [one.jobs for one in heal(jobs.experiment.folder).healed]
    assert [["0", "1"], ["1"], ["0"]] == arrays()


def test_time(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    """A job that ran into its limit gets more time, as often as it may; `resubmit` asks for what the sweep did."""
    jobs.make({"seconds": 30.0}, limit_s=1, on_timeout={"limit_s": "x2", "max": 60}, max_retries=1).submit()
    jobs.wait_for("TIMEOUT")
    jobs.wait_until(lambda: ["TIMEOUT", "TIMEOUT"] == jobs.attempts()[0])
    assert {"it was submitted again once (max_retries=1)": (0,)} == heal(jobs.experiment.folder).given_up
    assert 0 == main(["heal", jobs.experiment.folder.path])
    assert "1 job given up: it was submitted again once" in capsys.readouterr().out
    launch = again(jobs, 0).launch
    assert launch is not None
    assert 1 == launch.record["file"]["arrays"][0]["options"]["limit_s"]


def test_what_the_scheduler_refuses(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    """It is told, with exit status 2, and tried again by the next one who heals."""
    begun(jobs, LONG, **OOM)
    refused_to_its_supervisor(jobs)
    log = Path(jobs.experiment.folder.join("launches", "0001", "1_0.log")).read_text()
    assert re.search(r"refused: not from a node\n.*`experiment-manager heal \S+jobs` submits it again", log)
    wrong(refuses="no node has so much")
    assert 2 == main(["heal", jobs.experiment.folder.path])
    assert "error: launch 0002: " in (said := capsys.readouterr().err)
    assert "no node has so much" in said
    wrong()
    assert 0 == main(["heal", jobs.experiment.folder.path])
    assert [["0"], ["0"]] == arrays()


def test_refused_before_anything_is_written(jobs: Jobs) -> None:
    """A rule that can raise nothing ends the launch with a sentence."""
    with pytest.raises(OptionsError, match="on_oom raises mem_gb, which is not set"):
        jobs.make({}, on_oom={"mem_gb": "x2", "max": 3})
    assert not Path(jobs.experiment.folder.launches).exists()


@pytest.mark.parametrize("rule", ["x2", 7, {"mem_gb": "more", "max": 3}, {"max": 3}, {"mem_gb": [], "max": "x"}])
def test_a_rule_that_somebody_has_edited(jobs: Jobs, rule: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """It is none: nobody is told lies by it, and nothing is submitted."""
    jobs.make({}, **OOM)
    folder = jobs.experiment.folder
    path = Path(folder.join("launches", "0001", "launch.json"))
    record = json.loads(path.read_text())
    record["file"]["arrays"][0]["options"]["on_oom"] = rule
    path.write_text(json.dumps(record))
    States(folder).record_unbegun(0, 1, State.OUT_OF_MEMORY, {}, {"launch": "0001", "scheduler": "file"})
    assert [0, 0] == [main([verb, folder.path]) for verb in ("heal", "status")]
    assert "nothing to heal" in (said := capsys.readouterr().out)
    assert "submitted again" not in said


def test_nodes_that_are_left_out(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    """Nodes on which so many jobs have died at their start are left out of what is submitted next, which is told."""
    wrong(node="n1")
    jobs.make({"fails": True}, {"fails": True}, LONG, exclude_after=2).submit()
    jobs.wait_until(lambda: ["FAILED", "FAILED"] == [jobs.states()[job_id] for job_id in (0, 1)])
    assert again(jobs, 0).launch is not None
    assert "is left out" not in capsys.readouterr().err  # nobody knows of another node that is better
    wrong(node="n2")
    order(jobs, 2, "NODE_FAIL")
    jobs.wait_until(lambda: jobs.has_begun(2, 2))
    jobs.end(2)
    jobs.wait_until(lambda: "COMPLETED" == jobs.states()[2])
    launch = again(jobs, 1).launch
    assert launch is not None
    assert "n1" == launch.record["file"]["arrays"][0]["options"]["exclude"]
    assert "n1 is left out: 2 jobs have died there at their start (exclude_after=2)" in capsys.readouterr().err
