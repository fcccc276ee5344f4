"""What people do after a sweep was started: read logs, run failed jobs again, compare two jobs, take results away."""

import csv
import errno
import gzip
import io
import itertools
import json
import math
import os
import re
import signal
import sys
import tarfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest

from experiment_manager import Experiment
from experiment_manager.analysis import archive, logs
from experiment_manager.analysis.tables import aggregate, order
from experiment_manager.cli.following import settings_of
from experiment_manager.cli.main import main
from experiment_manager.errors import ExperimentManagerError, JobRefused, OptionsError
from experiment_manager.model.records import State
from experiment_manager.store.layout import Folder
from tests.conftest import Prepared, Program, ProgramAfter, files_below, in_shape, unpack, wait_until
from tests.test_figures import in_blocks

pytestmark = pytest.mark.xdist_group("following")  # what is prepared for several tests is prepared once


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Job 0 and 1 completed, job 2 raised, job 3 exited with 3; the last launch is the one that failed."""
    return Prepared(tmp_path_factory.mktemp("mixed"), ("seed=1,2", "how=well"), ("seed=1", "how=raise,exit3"))


@pytest.fixture
def mixed(prepared: Prepared) -> Program:
    """The experiment as it was prepared, untouched."""
    return prepared.again()


# ---------------------------------------------------------------- logs


def test_logs_are_those_of_the_last_attempt(mixed: Program) -> None:
    """Standard output by default, standard error and earlier attempts on demand, byte for byte."""
    said = (mixed.experiment / "jobs/0/stdout.1.log").read_text()
    assert "job 0 attempt 1" in said
    assert said == mixed.tool("logs", "0").stdout
    assert "ValueError: told to raise" in mixed.tool("logs", "2", "--stderr").stdout
    mixed.tool("run", "3")
    assert "attempt 2" in mixed.tool("logs", "3").stdout
    assert "attempt 1" in mixed.tool("logs", "3", "--attempt", "1").stdout
    assert f"{mixed.experiment}/jobs/3/stderr.2.log\n" == mixed.tool("logs", "3", "--stderr", "--paths").stdout


def test_logs_have_both_streams(mixed: Program) -> None:
    """What went to standard error stands below a line that says so, also where nothing else was printed; --stdout and
    --stderr print one of them byte for byte; a job that has printed nothing is said to have."""
    (mixed.experiment / "jobs/2/stdout.1.log").write_text("no line end")
    both = mixed.tool("logs", "2").stdout
    assert both.startswith("no line end\n==> stderr <==\n")
    assert "ValueError: told to raise" in both
    assert "no line end" == mixed.tool("logs", "2", "--stdout").stdout
    followed = mixed.tool("logs", "2", "-f").stdout
    assert both == followed
    (mixed.experiment / "jobs/2/stdout.1.log").write_text("")
    assert mixed.tool("logs", "2").stdout.startswith("==> stderr <==\n")
    done = mixed.tool("logs", "2", "--stdout")
    assert (0, "", True) == (
        done.returncode,
        done.stdout,
        "job 2 of" in done.stderr and "printed nothing" in done.stderr,
    )
    names = ["stdout.1.log", "stderr.1.log"]
    assert names == [line.rpartition("/")[2] for line in mixed.tool("logs", "2", "--paths").stdout.splitlines()]


def test_logs_of_ranks_come_one_after_the_other(mixed: Program) -> None:
    """A job of several tasks has a log for each rank; 10 comes after 9."""
    for rank in (0, 9, 10):
        (mixed.experiment / f"jobs/0/stdout.1.rank{rank}.log").write_text(f"rank {rank}\n")
    assert ["rank 0", "rank 9", "rank 10"] == mixed.tool("logs", "0").stdout.splitlines()[-3:]


@pytest.mark.usefixtures("light")
def test_logs_that_there_are_not(mixed: Program) -> None:
    """What is not there is said in one sentence, with what there is."""
    mixed.sweep("seed=8,9", "hydra.sweeper.pass_filter='seed > 8'")
    for arguments, said in (
        (("7",), "there is no job 7 in"),
        (("4",), "has not run yet"),
        (("0", "--attempt", "3"), "has no attempt 3; its attempts are 1"),
    ):
        done = mixed.tool("logs", *arguments)
        assert (2, True) == (done.returncode, said in done.stderr)
        assert 1 == len(done.stderr.splitlines())


@pytest.mark.usefixtures("light")
def test_what_one_job_is_told_of_is_about_one(mixed: Program, tmp_path: Path) -> None:
    """Sentences agree with how many jobs they are about, and name jobs that somebody named only where somebody has."""
    assert "1 job of" in mixed.tool("filter", "0").stdout
    assert "1 job passes the filter of" in mixed.tool("filter").stdout
    assert "the 1 job of" in mixed.tool("script", "partition=cpu").stderr
    scripts = mixed.tool("script", "partition=cpu", "--rerun", "always").stdout
    assert "(1 job; nothing is submitted yet)" in scripts
    for verb, what in (("cancel", "is known to wait or run"), ("release", "was held by us")):
        assert f"no job of {mixed.experiment} {what}" in mixed.tool(verb).stdout
        assert f"no job of {mixed.experiment} that you named {what}" in mixed.tool(verb, "1").stdout
    archive_file = tmp_path / "it.tar.gz"
    said = mixed.tool("archive", "--out", str(archive_file)).stdout
    assert re.search(r"\((\d+|\d+\.\d) kB\); unpack it with", said)


@pytest.mark.usefixtures("light")
def test_following_a_job_that_waits_says_so(mixed: Program) -> None:
    """Nothing is to be seen of a job that has not begun: people are told for what they wait."""
    mixed.sweep("seed=8,9", "hydra.sweeper.pass_filter='seed > 8'")
    following = mixed.start("-m", "experiment_manager", "logs", str(mixed.experiment), "4", "-f")
    try:
        assert following.stderr is not None
        assert f"waiting for job 4 of {mixed.experiment} to begin\n" == following.stderr.readline()
    finally:
        following.send_signal(signal.SIGINT)
        following.communicate(timeout=60)
    assert 130 == following.returncode


@pytest.mark.usefixtures("light")
def test_following_a_log_ends_with_its_job(program: Program, tmp_path: Path) -> None:
    """What a job prints comes as it is printed, through the next attempt, and the command ends when the job has."""
    release = tmp_path / "release"
    sweep = program.start("train.py", "-m", "seed=1", "how=unless-again", RELEASE=str(release))
    wait_until((program.experiment / "jobs/0/stdout.1.log").exists)
    logs = program.start("-m", "experiment_manager", "logs", str(program.experiment), "0", "-f")
    assert logs.stdout is not None
    assert "attempt 1" in logs.stdout.readline()
    assert sweep.poll() is None
    release.touch()
    sweep.communicate()
    rest, errors = logs.communicate(timeout=30)
    assert (0, "") == (logs.returncode, errors)
    began = time.monotonic()
    again = program.tool("logs", "0", "-f")
    assert "attempt 1" in again.stdout
    assert time.monotonic() - began < 10
    assert "attempt 2" not in rest + again.stdout


@pytest.mark.usefixtures("light")
def test_following_all_ranks(program: Program) -> None:
    """What each rank prints comes as it is printed, each byte once, and nothing of files with almost the same name."""
    sweep = program.start("train.py", "-m", "seed=1", "sleep=60", "stoppable=true")
    directory = program.experiment / "jobs/0"
    said = directory / "stdout.1.log"
    wait_until(lambda: said.exists() and "attempt 1" in said.read_text())
    pieces = Experiment.at(program.experiment).follow_log(0)
    assert b"attempt 1" in next(pieces)
    (directory / "stdout.1.mine.log").write_text("my own\n")
    (directory / "stderr.1.rank0.log").write_text("an error\n")
    (directory / "stdout.1.rank1.log").write_text("rank 1 begins\n")
    assert b"rank 1 begins\n" == next(pieces)
    (directory / "stdout.1.rank0.log").write_text("rank 0 begins\n")
    assert b"rank 0 begins\n" == next(pieces)
    with open(directory / "stdout.1.rank1.log", "a") as file:
        file.write("rank 1 ends\n")
    assert b"rank 1 ends\n" == next(pieces)
    sweep.terminate()
    sweep.communicate()
    rest = b"".join(pieces)
    assert not [word for word in (b"begins", b"my own", b"an error") if word in rest]


def test_following_asks_slurm_seldom_and_reads_to_the_end(
    program_after: ProgramAfter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing changes SLURM is asked ever more seldom; what is printed last, while it answers, is told, too."""
    program = program_after("seed=1")
    log = program.experiment / "jobs/0/stdout.1.log"
    now = [0.0]
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    asked: list[float] = []

    def state() -> State:
        asked.append(now[0])
        if now[0] < 600:
            return State.QUEUED
        with open(log, "a") as file:
            file.write("the last words\n")
        return State.COMPLETED

    told = b"".join(logs.followed(Folder.at(program.experiment), 0, kind="stdout", state=state))
    assert told.endswith(b"the last words\n")
    pauses = [after - before for before, after in itertools.pairwise(asked)]
    assert pauses == sorted(pauses)
    assert (True, True) == (len(asked) < 30, 30 <= pauses[-1] < 31)


# ---------------------------------------------------------------- resubmit


def test_failed_jobs_run_again_as_they_were(mixed: Program) -> None:
    """The same ids, the next attempt, the frozen configuration, the launcher of the last launch."""
    mixed.edit("how: well", "how: oom")
    done = mixed.tool("resubmit", "--state", "failed", "--yes")
    first = done.stdout.splitlines()[0]
    assert f"2 jobs of {mixed.experiment} again, by local_pool: 2 FAILED (2-3)" == first
    assert 1 == done.returncode  # they fail again
    assert {"2.1.FAILED", "2.2.FAILED", "3.1.FAILED", "3.2.FAILED"} <= set(mixed.states())
    record = json.loads((mixed.experiment / "launches/0003/launch.json").read_text())
    assert {"2": "2-3"} == record["jobs"]
    assert "told to raise" in mixed.tool("show", "2").stdout


@pytest.mark.usefixtures("light")
def test_jobs_keep_their_time_limit_when_they_run_again(program: Program) -> None:
    """What ran too long under local_pool has the limit of the last launch, or another one that is given."""
    done = program.sweep("seed=1", "sleep=60", "hydra.launcher.job_timeout_min=0.01")
    assert "TIMEOUT" in done.stderr
    program.tool("resubmit", "--yes")
    program.tool("resubmit", "--yes", "--job-timeout-min", "0.02")
    reasons = [attempt["reason"] for attempt in program.told("show", "0")["attempts"]]
    assert [f"ran longer than job_timeout_min={limit}" for limit in (0.01, 0.01, 0.02)] == reasons


def test_nothing_happens_without_a_yes(mixed: Program) -> None:
    """Without a terminal and without --yes it says what it would do, and does nothing."""
    before = mixed.states()
    done = mixed.tool("resubmit", "2")
    assert (2, "error: nothing was done; add --yes to do it\n") == (done.returncode, done.stderr)
    assert f"1 job of {mixed.experiment} again, by local_pool: 1 FAILED (2)\n" == done.stdout
    assert before == mixed.states()
    assert ["0001", "0002"] == sorted(path.name for path in (mixed.experiment / "launches").iterdir())


def test_resubmission_with_a_mistake(mixed: Program) -> None:
    """An invalid request is refused with a sentence, and nothing is written."""
    for arguments, said in (
        (("0",), "job 0 of"),
        (("77",), "names job 77, which is not there"),
        (("--state", "running"), "end them with `experiment-manager cancel`"),
        (("--state", "broken"), "is no state; the states are"),
        (("mem_gb=4",), "local_pool has no SLURM options"),
        (("--job-timeout-min", "0"), "job_timeout_min: 0.0 is no time limit of a job"),
        (("--launcher", "slurm_script", "--job-timeout-min", "5"), "--set job_timeout_min=5"),
        (("--launcher", "cloud"), "local_pool, slurm_script, slurm_submitit"),
        (("--launcher", "slurm_script", "memory_gb=4"), "unknown SLURM option 'memory_gb'"),
        (
            ("--launcher", "slurm_script", "mem_gb="),
            "'mem_gb=' has no value; write mem_gb=null to take",
        ),
    ):
        done = mixed.tool("resubmit", *arguments, "--yes")
        assert (2, True) == (done.returncode, said in done.stderr), done.stderr
    assert ["0001", "0002"] == sorted(path.name for path in (mixed.experiment / "launches").iterdir())
    assert "nothing to run again" in mixed.tool("resubmit", "--state", "oom", "--yes").stdout


def test_scripts_for_failed_jobs_alone(mixed: Program) -> None:
    """With another launcher and other options: a script for what failed, and nothing else."""
    done = mixed.tool("resubmit", "--launcher", "slurm_script", "mem_gb=2", "--set", "timeout_min=9", "--json", "--yes")
    told = in_shape("resubmit", done.stdout)
    assert ([2, 3], "slurm_script", "0003") == (told["jobs"], told["launcher"], told["launch"])
    (script,) = told["scripts"]
    text = Path(script).read_text()
    assert {"2": "2-3"} == json.loads((mixed.experiment / "launches/0003/launch.json").read_text())["jobs"]
    for line in ("#SBATCH --mem=2G\n", "#SBATCH --time=00:09:00\n"):
        assert line in text
    assert ["2.1.FAILED", "3.1.FAILED"] == [name for name in mixed.states() if name > "2"]


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize(
    ("kind", "option"), [("local_pool", "n_jobs: 3"), ("slurm_script", "mem_gb: 2.0")], ids=["local_pool", "SLURM"]
)
def test_a_launch_knows_its_launcher_whatever_file_chose_it(program: Program, kind: str, option: str) -> None:
    """A launcher's file of one's own stands for the launcher below it, with its options, also in a record that names
    the file alone. Where nobody can tell, it is said what to add."""
    (program.home / "conf/hydra/launcher").mkdir(parents=True)
    (program.home / "conf/hydra/launcher/cluster.yaml").write_text(f"defaults: [{kind}]\n{option}\n")
    program.sweep("seed=1", "how=raise", "hydra/launcher=cluster")
    path = program.experiment / "launches/0001/launch.json"
    written = json.loads(path.read_text())
    assert (kind, "cluster") == (written["launcher"], written["launcher_file"])
    older = {key: value for key, value in {**written, "launcher": "cluster"}.items() if key != "launcher_file"}
    for record in (written, older):
        path.write_text(json.dumps(record))
        for named in (None, "cluster", kind):
            planned = Experiment.at(program.experiment).plan_resubmission(launcher=named)
            found = planned.n_jobs if planned.options is None else planned.options.mem_gb  # type: ignore[attr-defined]
            assert (kind, option) == (planned.launcher, f"{option.partition(':')[0]}: {found}")
    path.write_text(json.dumps({key: value for key, value in older.items() if key != "options"}))
    words = "name the launcher with --launcher" if kind == "local_pool" else "add --launcher slurm_submitit; the opt"
    with pytest.raises(JobRefused, match=f"the last launch went through cluster; {words}"):
        Experiment.at(program.experiment).plan_resubmission()


@pytest.mark.usefixtures("light")
def test_python_runs_failed_jobs_again(program: Program) -> None:
    """`Experiment.resubmit` is the twin, and tells what became of each job. What has completed since it was planned
    does not run again."""
    program.sweep("seed=1,2", "how=unless-again")
    experiment = Experiment.at(program.experiment)
    planned = experiment.plan_resubmission("1")
    done = experiment.resubmit("1", n_jobs=1)
    assert [(1, 2, "COMPLETED")] == [(ran.job_id, ran.attempt, str(ran.state)) for ran in done.ran]
    assert [0] == experiment.missing_ids()
    with pytest.raises(JobRefused, match=r"job 1 of .* is COMPLETED; name its state"):
        experiment.resubmit("1")
    with pytest.raises(JobRefused, match=r"^somebody has started job 1 of .* again meanwhile"):
        experiment.carry_out(planned)
    assert [1] == [ran.job_id for ran in experiment.resubmit("1", state="completed").ran]
    for written in ("seed < 3", {"seed": [1, 2]}, "state:FAILED,COMPLETED"):  # a filter, and no list of ids
        assert (0,) == experiment.plan_resubmission(written).ids == experiment.plan_resubmission(where=written).ids
    before = files_below(program.experiment)
    assert (None, ()) == experiment.resubmit("seed > 2")[:2]  # `resubmit --where "seed > 2"` has nothing to do, either
    assert before == files_below(program.experiment)


# ---------------------------------------------------------------- diff


def test_two_jobs_side_by_side(mixed: Program) -> None:
    """What differs, in both of them, and nothing that is the same."""
    found = Experiment.at(mixed.experiment).diff(0, 3)
    assert {"how": ('"well"', '"exit3"')} == found["configuration"]
    assert (0, "COMPLETED", 3, "FAILED") == tuple(
        found[side][key] for side in ("one", "other") for key in ("job", "state")
    )
    assert ("0001", "0002") == found["environment"]["launch"]
    assert "argv" in found["environment"]
    assert "node" not in found["environment"]
    text = mixed.tool("diff", "0", "3").stdout
    assert re.search(r"how +\"well\" +\"exit3\"", text)
    assert "configuration: the same" in mixed.tool("diff", "0", "0").stdout
    done = mixed.tool("diff", "0", "9")
    assert (2, True) == (done.returncode, "there is no job 9" in done.stderr)


@pytest.mark.usefixtures("light")
def test_show_resolves_on_demand(program: Program) -> None:
    """The configuration is shown as it was written, and with the values that it means where that is asked for."""
    program.sweep("seed=3", "+twice='${seed}${seed}'")
    assert "${seed}${seed}" == program.told("show", "0")["configuration"]["twice"]
    assert "33" == program.told("show", "0", "--resolve")["configuration"]["twice"]
    assert "twice: '33'" in program.tool("show", "0", "--resolve").stdout


# ---------------------------------------------------------------- archive


def test_archive_is_an_experiment(mixed: Program, tmp_path: Path) -> None:
    """Unpacked elsewhere it tells the same: states, results, metrics, configurations. Files of the jobs' own, and logs,
    are in it on demand only."""
    (mixed.experiment / "jobs/0/checkpoint.pt").write_bytes(b"x" * 1000)
    path = tmp_path / "it.tar.gz"
    done = mixed.tool("archive", "--out", str(path))
    assert (0, True) == (done.returncode, done.stdout.startswith(f"{path}  ("))
    with tarfile.open(path) as file:
        names = file.getnames()
        unpack(path, tmp_path / "elsewhere")
    assert not any(name.endswith((".log", ".pt", ".lock")) for name in names)
    there, here = Experiment.at(tmp_path / "elsewhere/train"), Experiment.at(mixed.experiment)
    assert here.jobs() == there.jobs()
    assert here.result_rows() == there.result_rows()
    assert [here.configuration(job) for job in range(4)] == [there.configuration(job) for job in range(4)]
    assert here.show(2)["attempts"][0]["traceback"] == there.show(2)["attempts"][0]["traceback"]
    everything = here.archive(str(tmp_path / "all.tar.gz"), everything=True)
    with tarfile.open(everything) as file:
        assert {"train/jobs/0/checkpoint.pt", "train/jobs/0/stdout.1.log"} <= set(file.getnames())


def test_archive_is_a_research_crate(mixed: Program, tmp_path: Path) -> None:
    """With --ro-crate it has the properties that RO-Crate 1.1 asks for, names what is in it and nothing else, and is
    still the experiment."""
    from rocrate.rocrate import ROCrate

    path, terms = tmp_path / "it.tar.gz", "https://creativecommons.org/licenses/by/4.0/"
    done = mixed.tool("archive", "--ro-crate", "--license", terms, "--out", str(path))
    assert (0, "") == (done.returncode, done.stderr)
    unpack(path, tmp_path / "elsewhere")
    crate = ROCrate(tmp_path / "elsewhere/train")
    described = crate.get("ro-crate-metadata.json")
    assert "https://w3id.org/ro/crate/1.1" == described["conformsTo"]
    assert crate.root_dataset == described["about"]
    root = crate.root_dataset.properties()
    assert ("Dataset", "Experiment train", {"@id": terms}) == (root["@type"], root["name"], root["license"])
    assert "4 jobs that differ in seed, how: 2 COMPLETED, 2 FAILED" == root["description"]
    assert datetime.fromisoformat(root["datePublished"]).tzinfo is not None
    values = {each["name"]: each["value"] for each in crate.root_dataset["variableMeasured"]}
    assert {"seed": ["1", "2"], "how": ["well", "raise", "exit3"]} == values
    parts = {part.id.rstrip("/") for part in crate.root_dataset["hasPart"]}
    assert parts | {"ro-crate-metadata.json"} == {each.name for each in (tmp_path / "elsewhere/train").iterdir()}
    assert all(part["name"] and part["description"] for part in crate.root_dataset["hasPart"])
    there, here = Experiment.at(tmp_path / "elsewhere/train"), Experiment.at(mixed.experiment)
    assert here.result_rows() == there.result_rows()


def test_a_crate_that_cannot_be_made(mixed: Program, tmp_path: Path) -> None:
    """Without the library, and for a license of no crate, a sentence, and no file."""
    (mixed.home / "rocrate.py").write_text("raise ModuleNotFoundError('No module', name='rocrate')\n")
    path = str(tmp_path / "it.tar.gz")
    for said, words in (
        ("needs rocrate; install it with pip install 'hydra-experiment-manager[ro-crate]'", ["--ro-crate"]),
        ("ask for one with --ro-crate", ["--license", "mine"]),
    ):
        done = mixed.tool("archive", "--out", path, *words, PYTHONPATH=str(mixed.home))
        assert (2, 1, True) == (done.returncode, len(done.stderr.splitlines()), said in done.stderr)
    assert [] == list(tmp_path.iterdir())


def test_archive_follows_only_links_that_their_maker_could_follow(mixed: Program, tmp_path: Path) -> None:
    """The folder of a job that its owner has moved away is packed as if it lay here; every other link that leads out of
    the experiment is named and left out, which the exit status tells; what is unpacked leads nowhere else."""
    experiment, secret = mixed.experiment, tmp_path / "secret"
    secret.mkdir()
    (secret / "id").write_text("a private key")
    rows = Experiment.at(experiment).result_rows()
    (experiment / "jobs/0").rename(tmp_path / "scratch")
    (experiment / "jobs/0").symlink_to(tmp_path / "scratch")
    (tmp_path / "scratch/last.pt").symlink_to(tmp_path / "scratch/result.1.json")
    (tmp_path / "scratch/data").symlink_to(secret)
    os.mkfifo(tmp_path / "scratch/pipe")
    (experiment / "tasks").symlink_to(secret)
    (experiment / "jobs/1/stderr.1.log").unlink()
    (experiment / "jobs/1/stderr.1.log").symlink_to(secret / "id")
    (experiment / "states/2.1").unlink()
    (experiment / "states/2.1").symlink_to(secret / "id")
    left_out = ["tasks", "jobs/0/data", "jobs/0/pipe", "jobs/1/stderr.1.log", "states/2.1"]
    if os.geteuid() == 0:
        (experiment / "jobs/9").symlink_to(secret)
        os.lchown(experiment / "jobs/9", 65534, 65534)
        left_out.append("jobs/9")
    path = tmp_path / "it.tar.gz"
    done = mixed.tool("archive", "--all", "--out", str(path))
    assert 3 == done.returncode, done.stderr
    assert sorted(left_out) == sorted(re.findall(rf"skipped: {experiment}/(\S+) ", done.stderr))
    assert b"a private key" not in gzip.decompress(path.read_bytes())
    with tarfile.open(path) as file:
        unpack(path, tmp_path / "elsewhere")
        assert all(member.isreg() or member.issym() for member in file.getmembers())
    there = Experiment.at(tmp_path / "elsewhere/train")
    assert rows == there.result_rows()
    assert Path("result.1.json") == (tmp_path / "elsewhere/train/jobs/0/last.pt").readlink()


def test_an_archive_that_fails_takes_no_other_ones(tmp_path: Path) -> None:
    """Who runs out of space leaves the file that somebody else has given the same name meanwhile."""
    path = tmp_path / "a.tar.gz"

    def fail() -> None:
        with archive._new(str(path)) as temporary:
            Path(temporary).touch()
            path.write_text("theirs")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space"):
        fail()
    assert "theirs" == path.read_text()
    assert [path] == list(tmp_path.iterdir())


def test_archive_replaces_nothing(mixed: Program, tmp_path: Path) -> None:
    """A file that is there stays; nothing is left of an archive that could not be written."""
    path = tmp_path / "it.tar.gz"
    path.write_text("mine")
    done = mixed.tool("archive", "--out", str(path))
    assert (2, f"error: {path} is there already; choose another name with --out, or remove it\n") == (
        done.returncode,
        done.stderr,
    )
    done = mixed.tool("archive", "--out", "/proc/nowhere/it.tar.gz")
    assert (2, True) == (done.returncode, "cannot be made or written" in done.stderr)
    assert "mine" == path.read_text()


# ---------------------------------------------------------------- results


def test_results_in_every_format(mixed: Program, tmp_path: Path) -> None:
    """CSV, JSON and Parquet hold the same rows as the table, sorted on demand."""
    table = mixed.tool("results", "--sort", "-result").stdout.splitlines()
    rows = list(csv.DictReader(io.StringIO(mixed.tool("results", "--format", "csv", "--sort", "-result").stdout)))
    assert ["1", "0", "2", "3"] == [row["job"] for row in rows]
    assert ["1", "0", "2", "3"] == [line.split()[0] for line in table[-4 - (not table[-1].strip()) :] if line.strip()]
    flat = json.loads(mixed.tool("results", "--format", "json", "--sort", "-result").stdout)
    assert [1, 0, 2, 3] == [row["job"] for row in flat]
    path = tmp_path / "it.parquet"
    assert f"4 rows in {path}\n" == mixed.tool("results", "--out", str(path), "--sort", "-result").stdout
    frame = pandas.read_parquet(path)
    assert [1, 0, 2, 3] == list(frame["job"])
    assert flat[0]["result"] == frame["result"][0]
    assert math.isnan(frame["result"][2])


@pytest.mark.parametrize(
    "words",
    [
        *(("jobs",), ("results",), ("results", "--missing"), ("efficiency",), ("cancel",), ("hold",), ("release",)),
        *(("tag", "good"), ("remove",), ("clean", "--dry-run"), ("resubmit",), ("results", "--group-by", "how")),
    ],
    ids=" ".join,
)
def test_a_value_that_no_job_has_is_told_by_each_command(mixed: Program, words: tuple[str, ...]) -> None:
    """A filter that nothing passes since no job has such a value is told, with the values there are, and is not taken
    for jobs that have nothing; what jobs have become may well be none."""
    mixed.tool("filter", "0-3")
    for written in ("seed == 9", 'seed == "1"', "{seed: 9}"):
        told = mixed.tool(words[0], *words[1:], "--where", written)
        assert [f"the filter {written}: no job passes it; seed is one of 1, 2"] == told.stderr.splitlines()[:1]
        assert "no attempt" not in told.stdout
    done = mixed.tool(words[0], *words[1:], "--where", "state:LOST")
    assert "the filter" not in done.stderr


def test_a_filter_after_others_tells_of_the_jobs_that_are_left(mixed: Program) -> None:
    """Where the rules before have dropped jobs, the values are those of the others. What is refused is said once."""
    told = mixed.tool("jobs", "--where", "seed == 1", "--where", "how == 'sideways'").stderr
    there_are = "how is one of 'well', 'raise', 'exit3'"
    assert f"the filter how == 'sideways': no job that is left passes it; {there_are}\n" == told
    assert "" == mixed.tool("jobs", "--where", "seed == 1", "--where", "state:LOST").stderr
    refused = mixed.tool("filter", "seed == 9").stderr
    assert 1 == refused.count("seed is one of 1, 2")


def test_missing_results(mixed: Program) -> None:
    """The ids of jobs that have not completed, of those that may run, and the exit status 1 when there are any."""
    done = mixed.tool("results", "--missing")
    assert (1, "2-3\n") == (done.returncode, done.stdout)
    assert (1, {"jobs": [2, 3]}) == (
        (everything := mixed.tool("results", "--missing", "--json", "--where", "0-3")).returncode,
        in_shape("results", everything.stdout),
    )
    assert 0 == mixed.tool("filter", "0-2").returncode
    narrowed = mixed.tool("results", "--missing", "--where", "0-3")
    assert (1, "2\n") == (narrowed.returncode, narrowed.stdout)
    assert [2] == Experiment.at(mixed.experiment).missing_ids("0-3")
    fine = mixed.tool("results", "--missing", "--where", "0-1")
    assert (0, "", "every job that may run has completed, in its last attempt or an earlier one\n") == (
        fine.returncode,
        fine.stdout,
        fine.stderr,
    )


@pytest.mark.usefixtures("light")
def test_aggregates_are_chosen(mixed: Program) -> None:
    """Mean, deviation, extremes, median and count, those that were named and no others."""
    mixed.sweep("seed=1,6", "algorithm=DDPG", "how=well")
    told = mixed.told(
        "results", "--group-by", "algorithm", "--aggregate", "max,median,count", "--where", "how == 'well'"
    )
    assert [("TD3", {"result": 3.0}), ("DDPG", {"result": 3.0})] == [
        (group["variables"]["algorithm"] or "TD3", group["max"]) for group in told
    ]
    assert {"variables", "count", "max", "median"} == set(told[0])
    done = mixed.tool("results", "--group-by", "algorithm", "--aggregate", "average")
    assert (2, "error: 'average' is no aggregate; there are mean, std, min, max, median, low, high, ci, count\n") == (
        done.returncode,
        done.stderr,
    )


@pytest.fixture
def scored(tmp_path: Path) -> Experiment:
    """Eight jobs of two algorithms, whose scores have many digits; one has no number of its loss."""
    experiment = Experiment(["algorithm", "seed", "width"], "scored", tmp_path)
    for job_id in range(8):
        experiment.add_job({"algorithm": ("TD3", "DDPG")[job_id % 2], "seed": job_id // 2, "width": 64}, {})
    experiment.save()
    experiment.save_pass_filter(range(8))
    for job_id in range(8):
        loss = None if job_id == 3 else -job_id / 7
        returned = {"score": job_id**2 / 3, "loss": loss, "steps": 123456.0}
        experiment.run_id(job_id, lambda *_, returned=returned: returned)
    return experiment


def test_best_jobs_and_groups(scored: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    """--best shows so many, the best first, by the metric and the goal that are named, of groups by their means; what
    has no number is never among them."""

    def shown(*arguments: str) -> list[dict[str, Any]]:
        assert 0 == main(["results", scored.folder.path, *arguments, "--format", "json"])
        rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
        return rows

    assert [7, 6, 5] == [row["job"] for row in shown("--best", "3")]
    assert [0, 1] == [row["job"] for row in shown("--best", "2", "--goal", "min")]
    assert [7, 6, 5, 4, 2, 1, 0] == [row["job"] for row in shown("--best", "9", "--metric", "loss", "--goal", "min")]
    assert [6, 7] == [row["job"] for row in shown("--best", "2", "--sort", "job")]
    assert ["DDPG"] == [row["algorithm"] for row in shown("--best", "1", "--group-by", "algorithm")]
    least = shown("--best", "1", "--goal", "min", "--group-by", "algorithm", "--aggregate", "std")
    assert ["TD3"] == [row["algorithm"] for row in least]
    assert 0 == main(["results", scored.folder.path, "--best", "2"])
    assert "the best 2 of 8 by score, of which the max is best" == capsys.readouterr().out.splitlines()[-1]


def test_means_have_intervals_and_counts(scored: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    """--aggregate ci gives the ends of Student's interval, and a field that some jobs lack says how many have it."""
    arguments = ["--group-by", "algorithm", "--aggregate", "mean,ci", "--format", "json"]
    assert 0 == main(["results", scored.folder.path, *arguments])
    td3, ddpg = json.loads(capsys.readouterr().out)
    scores = numpy.array([0, 4, 16, 36]) / 3
    half = 3.182446305284264 * scores.std(ddof=1) / 2
    assert pytest.approx([scores.mean() - half, scores.mean() + half]) == [td3["score low"], td3["score high"]]
    assert (4, 4, 3) == (td3["count"], ddpg["count"], ddpg["loss count"])
    assert list(td3)[:5] == ["algorithm", "count", "score mean", "score low", "score high"]


def test_groups_in_a_table_for_a_paper(
    scored: Experiment, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mean and how sure it is are one cell, and the best is in bold, with what no test tells from it, in the metric
    that counts; what that means is told beside the table."""
    where = ["results", scored.folder.path, "--group-by", "algorithm", "--aggregate", "mean,ci"]
    best = ["--metric", "score", "--goal", "max"]
    chosen = ["--columns", "algorithm,count,score*,steps mean"]
    assert 0 == main([*where, *chosen, *best, "--format", "markdown"])
    told = capsys.readouterr()
    assert [
        "| algorithm | count | score | steps mean |",
        "| --- | ---: | --- | ---: |",
        "| TD3 | 4 | **4.7 ± 8.6** | 1.235e+05 |",
        "| DDPG | 4 | **7 ± 11** | 1.235e+05 |",
    ] == told.out.splitlines()
    assert "±: where the mean lies with a confidence of 95 % (Student's t)" in told.err
    assert "bold: the best score (max), and what Welch's test at 5 %, adjusted after Holm, does not tell" in told.err
    assert 0 == main([*where[:-1], "mean,std", *chosen, *best, "--format", "latex", "--precision", "3", "--best", "1"])
    told = capsys.readouterr()
    assert r"DDPG & 4 & \textbf{\boldmath 7 $\pm$ 7.06} & 123000 \\" in told.out
    assert "±: the standard deviation of the sample" in told.err
    assert 0 == main([*where, "--metric", "loss", "--goal", "min", "--format", "markdown", "--where", "0-5,7"])
    line = capsys.readouterr().out.splitlines()[2:]
    assert [True, True] == ["**" in one for one in line]
    for more, why_not in (
        ([*best, "--where", "seed == 0"], "not all groups have two finite values of score"),
        ([], "say what is best with --metric and --goal"),
    ):
        assert 0 == main([*where, *more, "--format", "markdown"])
        told = capsys.readouterr()
        assert "**" not in told.out
        assert f"nothing is in bold: {why_not}" in told.err
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert 0 == main([*where, *chosen, *best, "--format", "markdown"])
    told = capsys.readouterr()
    assert "| TD3 | 4 | 4.7 ± 8.6 | 1.235e+05 |" in told.out
    assert "nothing is in bold: a test needs numpy" in told.err


def test_variables_that_the_chosen_jobs_lack_are_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is a variable of the experiment is one whichever jobs are chosen: its column is there, and empty."""
    path = in_blocks(tmp_path, {"units": 1}, {"lr": 0.1}).folder.path

    def csv_of(*arguments: str) -> list[str]:
        assert 0 == main(["results", path, *arguments, "--format", "csv"])
        return capsys.readouterr().out.splitlines()

    assert ["lr,count"] == csv_of("--group-by", "lr", "--where", "state:FAILED")
    assert ["lr,count,score mean", ",2,0.5"] == csv_of(
        "--group-by", "lr", "--where", "lr == None", "--aggregate", "mean"
    )
    assert ["job,lr", "0,", "1,"] == csv_of("--columns", "job,lr", "--where", "lr == None")
    assert ["job,state,attempt,units,seed,score,metrics.score"] == csv_of("--where", "lr == None")[:1]
    for columns in ("job,lr", "job,variables.lr"):
        assert 0 == main(["jobs", path, "--where", "lr == None", "--columns", columns])
        head, _, *lines = capsys.readouterr().out.strip().splitlines()
        assert (columns.split(","), ["0", "1"]) == (head.split(), [line.strip() for line in lines])
    assert 0 == main(["efficiency", path, "--group-by", "lr", "--where", "lr == None"])
    capsys.readouterr()
    for arguments in (["jobs"], ["results"], ["results", "--group-by", "lr", "--columns", "nothing"]):
        verb, *others = arguments
        assert 2 == main([verb, path, *(others or ["--columns", "nothing"])])
        assert "'nothing' is no column" in capsys.readouterr().err
    assert 2 == main(["results", path, "--group-by", "nothing", "--where", "state:FAILED"])
    assert "'nothing' is no variable; the variables are units, seed, lr" in capsys.readouterr().err


def test_variables_have_all_digits_in_a_table_for_a_paper(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers that were measured are rounded, and those that tell rows apart are not, whatever the table is of."""
    experiment = Experiment(["lr", "seed"], "close", tmp_path)
    for lr, seed in itertools.product((0.100012, 0.100018), range(2)):
        experiment.add_job({"lr": lr, "seed": seed}, {})
    experiment.save()
    experiment.save_pass_filter(range(4))
    for job_id in range(4):
        experiment.run_id(job_id, lambda job_id, *_: {"score": job_id + 0.100012})
    path = experiment.folder.path
    for arguments in (
        ["results", path],
        ["results", path, "--columns", "variables.lr,score"],
        ["results", path, "--group-by", "lr", "--aggregate", "mean"],
        ["compare", path, "--metric", "score"],
    ):
        for form in ("markdown", "latex"):
            assert 0 == main([*arguments, "--format", form])
            table = capsys.readouterr().out
            assert "0.100018" in table, arguments
            assert "3.100012" not in table


def test_groups_in_a_table_whose_variables_are_called_like_fields(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A variable stays what it is, whatever it is called, and huge values end in no traceback."""
    experiment = Experiment(["score std", "seed"], "odd", tmp_path)
    for job_id in range(4):
        experiment.add_job({"score std": job_id % 2, "seed": job_id // 2}, {})
    experiment.save()
    experiment.save_pass_filter(range(4))
    for job_id in range(4):
        experiment.run_id(job_id, lambda *_, job_id=job_id: {"score": (1 + job_id) * 1e80, "count": job_id})
    where = ["results", experiment.folder.path, "--group-by", "score std", "--aggregate", "mean"]
    assert 0 == main([*where, "--format", "markdown", "--metric", "count", "--goal", "max"])
    assert [
        "| score std | count | score mean | count mean |",
        "| ---: | ---: | ---: | ---: |",
        "| 0 | 2 | 2e+80 | **1** |",
        "| 1 | 2 | 3e+80 | **2** |",
    ] == capsys.readouterr().out.splitlines()


def test_columns_that_differ_and_digits(scored: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    """--only-changed leaves out what is the same in all rows that are shown, and says so; --precision rounds values,
    and no variable, in every format."""
    where = ["results", scored.folder.path, "--where", "algorithm == 'TD3'", "--only-changed"]
    assert 0 == main([*where, "--format", "csv", "--precision", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert ["job,seed,score,loss", "0,0,0.0,0.0", "2,1,1.3,-0.29", "4,2,5.3,-0.57", "6,3,12.0,-0.86"] == lines
    assert 0 == main([*where, "--precision", "9"])
    table = capsys.readouterr().out
    assert "1.33333333 " in table
    assert "the same in all rows: state, attempt, algorithm, width, steps" == table.splitlines()[-1]
    assert 0 == main(["results", scored.folder.path, "--where", "3", "--only-changed", "--format", "csv"])
    everything = "job,state,attempt,algorithm,seed,width,score,loss,steps"
    assert everything == capsys.readouterr().out.splitlines()[0]  # one row differs from none
    assert 0 == main([*where, "--columns", "score,job,steps", "--format", "csv"])
    assert "score,job" == capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-x", "@SUM(A1)", "\t=1", "\r=1", "'=1"])
def test_no_text_is_a_formula_where_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """`results --format csv --safe` has no cell that a spreadsheet runs, in names and values, of variables and results;
    numbers stay numbers, and without it all is as it is."""
    experiment = Experiment([text], "train", tmp_path)
    experiment.add_job({text: text}, {})
    experiment.save()
    experiment.save_pass_filter([0])
    experiment.run_id(0, lambda *_: {"loss": -1.5, text + "r": text})
    words = ["results", experiment.folder.path, "--format", "csv"]
    assert 0 == main([*words, "--safe"])
    cells = [cell for row in csv.reader(capsys.readouterr().out.splitlines(keepends=True)) for cell in row]
    assert "-1.5" in cells
    assert [] == [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r")) and cell != "-1.5"]
    assert 4 == sum(text in cell for cell in cells)
    assert 0 == main(words)
    plain = [cell for row in csv.reader(capsys.readouterr().out.splitlines(keepends=True)) for cell in row]
    assert (text in plain, len(plain)) == (True, len(cells))


def test_results_with_a_mistake(mixed: Program) -> None:
    """Unknown columns and formats are answered with those that there are."""
    for arguments, said in (
        (("--sort", "loss2"), "'loss2' is no column; the columns are job, state, attempt, seed, how, result, loss\n"),
        (("--format", "xls"), "'xls' is no format; there are table, csv, json, markdown, latex, parquet"),
        (("--format", "json", "--safe"), "--safe goes with --format csv"),
        (("--format", "parquet"), "parquet is not for a terminal; name a file with --out"),
        (("--format", "csv", "--out", "x.csv"), "--out is for parquet; write > x.csv for csv"),
        (("--out", "x.csv"), "--out writes parquet, and x.csv ends in .csv; write --format csv > x.csv"),
        (("--out", "a/x.JSON"), "--out writes parquet, and a/x.JSON ends in .JSON; write --format json > a/x.JSON"),
        (("--out", "x.tex"), "write --format latex > x.tex, or name --format parquet, too"),
        (("--metric", "loss"), "--metric is for --best, with how many are to be shown"),
        (("--metric", "loss", "--format", "latex"), "--metric is for --best, with how many are to be shown"),
        (("--group-by", "how", "--metric", "lost", "--format", "latex"), "no job has left a number called 'lost'"),
        (("--group-by", "how", "--goal", "most", "--format", "latex"), "the goal is max or min, not 'most'"),
        (("--best", "2", "--metric", "lost"), "no job has left a number called 'lost'; there are result"),
        (("--best", "2", "--goal", "most"), "the goal is max or min, not 'most'"),
        (("--json", "--only-changed"), "--json prints whole rows; --only-changed goes with --format json"),
    ):
        done = mixed.tool("results", *arguments)
        assert (2, True) == (done.returncode, said in done.stderr), done.stderr


def test_frames_for_plotting(mixed: Program) -> None:
    """`results()` has a row for each job, `metrics()` one for each logged value, in types that plot."""
    experiment = Experiment.at(mixed.experiment)
    results = experiment.results()
    assert [0, 1, 2, 3] == list(results["job"])
    assert experiment.result_rows()[1]["result"]["result"] == results["result"][1]
    metrics = experiment.metrics("how == 'well'")
    assert ["job", "seed", "how", "attempt", "step", "time", "metric", "value"] == list(metrics.columns)
    assert [(0, 1, "loss", 0.5), (1, 1, "loss", 1.0)] == list(
        metrics[["job", "step", "metric", "value"]].itertuples(index=False, name=None)
    )
    with open(mixed.experiment / "jobs/1/metrics.1.jsonl", "a") as file:
        file.write('{"step": 2, "time": 1.0, "values": {"lo')  # half a line: it is being written
    assert 2 == len(experiment.metrics("how == 'well'"))
    assert 0 == len(experiment.metrics("seed == 1 and how == 'none'"))


def test_frames_without_pandas(mixed: Program) -> None:
    """Where pandas is not installed, the sentence says what to install."""
    script = "import sys; sys.modules['pandas'] = None\nfrom experiment_manager import Experiment\n"
    script += f"Experiment.at({str(mixed.experiment)!r}).results()"
    done = mixed.python("-c", script)
    assert "pandas is not installed: pip install 'hydra-experiment-manager[analysis]'" in done.stderr


# ---------------------------------------------------------------- rows


def test_rows_in_order() -> None:
    """Numbers by size, then text; what is missing or NaN comes last, whichever way round."""
    rows = [{"x": value, "place": place} for place, value in enumerate((3, None, "b", 1.5, math.nan, "a", True))]
    assert [6, 3, 0, 5, 2, 1, 4] == order(rows, "x")
    assert [2, 5, 0, 3, 6, 1, 4] == order(rows, "-x")
    assert [] == order([], "anything")
    with pytest.raises(ExperimentManagerError, match="'y' is no column; the columns are x, place"):
        order(rows, "y")


def test_extremes_of_diverged_jobs() -> None:
    """A group with an infinite or undefined value has no extremes and no median, rather than wrong ones."""
    rows = [
        {"state": "COMPLETED", "variables": {"lr": 1}, "result": {"loss": value}, "metrics": {}}
        for value in (1, math.nan)
    ]
    (group,) = aggregate(rows, ["lr"], ["min", "median"])
    assert math.isnan(group["min"]["loss"])
    assert math.isnan(group["median"]["loss"])


# ---------------------------------------------------------------- status


@pytest.mark.usefixtures("light")
def test_status_shows_how_jobs_are_getting_on(program: Program) -> None:
    """A job that runs has a row: where, for how long, and what it last logged; it is gone when the job has ended."""
    sweep = program.start("train.py", "-m", "seed=4", "steps=3000")
    wait_until(lambda: "0.1.RUNNING" in program.states())
    wait_until(lambda: (program.told("status")["live"] or [{}])[0].get("metrics"))
    (row,) = program.told("status")["live"]
    assert (0, {"seed": 4, "steps": 3000}, "RUNNING", 1) == tuple(
        row[key] for key in ("job", "variables", "state", "attempt")
    )
    assert os.uname().nodename == row["node"]
    assert 0 < row["elapsed_s"] < 60
    assert row["left_s"] is None
    assert re.search(r" 0 +seed=4 steps=3000 +RUNNING +1 +\S+ +0:\d\d +step \d+", program.tool("status").stdout)
    sweep.send_signal(signal.SIGINT)
    sweep.communicate()
    assert [] == program.told("status")["live"]


def test_status_of_every_job(mixed: Program) -> None:
    """With --all each job has a row, with its reason and how long it took."""
    rows = mixed.told("status", "--all")["live"]
    assert [0, 1, 2, 3] == [row["job"] for row in rows]
    assert [None, None, "ValueError: told to raise", "exit code 3"] == [row["reason"] for row in rows]
    assert all(row["elapsed_s"] > 0 for row in rows)
    assert {"step": 1, "loss": 0.5} == rows[0]["metrics"]


def test_states_are_counted_by_variables(mixed: Program) -> None:
    """One row for each value, with the number of jobs in each state that there is."""
    groups = mixed.told("status", "--group-by", "how")["groups"]
    assert [
        ({"how": "well"}, 2, {"COMPLETED": 2, "FAILED": 0}),
        ({"how": "raise"}, 1, {"COMPLETED": 0, "FAILED": 1}),
        ({"how": "exit3"}, 1, {"COMPLETED": 0, "FAILED": 1}),
    ] == [(group["variables"], group["count"], group["states"]) for group in groups]
    assert re.search(r"how +count +COMPLETED +FAILED", mixed.tool("status", "--group-by", "how").stdout)
    done = mixed.tool("status", "--group-by", "hov")
    assert (2, "error: 'hov' is no variable; the variables are how, seed\n") == (done.returncode, done.stderr)


@pytest.mark.usefixtures("light")
def test_watching_on_a_terminal(program: Program, tmp_path: Path) -> None:
    """On a terminal the status is drawn anew until all has ended; then it stands there, and the exit status is 0."""
    import pty
    import subprocess
    import sys

    from tests.conftest import clean_env

    release = tmp_path / "release"
    sweep = program.start("train.py", "-m", "seed=1,2", "how=well", RELEASE=str(release))
    wait_until(lambda: "0.1.RUNNING" in program.states())
    master, slave = pty.openpty()
    watching = subprocess.Popen(
        [sys.executable, "-m", "experiment_manager", "status", str(program.experiment), "--watch"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=clean_env(TERM="xterm"),
        close_fds=True,
    )
    os.close(slave)
    said = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        said += piece
        if b"RUNNING" in said:
            release.touch()
    os.close(master)
    assert 0 == watching.wait(timeout=30)
    sweep.communicate()
    text = said.decode()
    assert "\x1b[?1049h" in text  # the alternate screen, and back
    assert "RUNNING" in text[: text.index("\x1b[?1049l")]
    assert re.search(r"COMPLETED +2", text[text.index("\x1b[?1049l") :])


@pytest.mark.parametrize(
    "text", ["[", "{1: [", "{? {a: 1} : 2}", "[2024-13-45]", "[!!python/object:os.system x]", "[" * 3000]
)
def test_a_setting_that_is_no_yaml_is_refused(text: str) -> None:
    """A value that begins as a list or a mapping and is none is refused in one sentence that names the option."""
    with pytest.raises(OptionsError, match=r"has a value that is no YAML \(.*\); write mem_gb=") as refused:
        settings_of([f"mem_gb={text}"])
    assert len(str(refused.value)) < 700
