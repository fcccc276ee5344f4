"""What the commands of each SLURM print, read: one scene of jobs on each version, told in `slurm_lines/VERSION.txt`.

`tests/cluster/record.py` has played it and noted the lines; what became of each job is known, and the same everywhere.
"""

import getpass
import os
import re
from itertools import combinations
from pathlib import Path

import pytest

from experiment_manager.errors import SlurmError
from experiment_manager.model.records import State, Task
from experiment_manager.scheduler.records import Phase
from experiment_manager.scheduler.slurm import client
from experiment_manager.scheduler.slurm.options import _ONE_OF
from experiment_manager.scheduler.slurm.parse import parse_config, parse_sacct, parse_squeue, words_in_log
from experiment_manager.scheduler.slurm.scheduler import Slurm

VERSIONS = sorted((Path(__file__).parent / "slurm_lines").glob("*.txt"))


@pytest.fixture(params=VERSIONS, ids=lambda path: path.stem)
def lines(request: pytest.FixtureRequest) -> dict[str, str]:
    """What was printed, by the command, on one version."""
    parts = re.split(r"^\$ (.*)\n", request.param.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def of(lines: dict[str, str], command: str) -> str:
    """What the one command printed that begins so."""
    (found,) = (text for name, text in lines.items() if name.startswith(command))
    return found


QUEUE = {
    "throttled": (Phase.WAITING, None, [0, 2, 4, 6, 8], "BeginTime"),
    "never": (Phase.WAITING, None, None, "DependencyNeverSatisfied"),
    "partly": (Phase.WAITING, None, [0, 1, 4, 5], "JobHeldUser"),
    "good": (Phase.ENDED, State.COMPLETED, None, ""),
    "failed": (Phase.ENDED, State.FAILED, None, "NonZeroExitCode"),
    "memory": (Phase.ENDED, State.OUT_OF_MEMORY, None, "OutOfMemory"),
    "limit": (Phase.ENDED, State.TIMEOUT, None, "TimeLimit"),
    "cancelled": (Phase.ENDED, State.CANCELLED, None, ""),
    "held-by-root": (Phase.WAITING, None, [0, 1], "JobHeldAdmin"),
    "requeued-and-held": (Phase.WAITING, None, None, "job requeued in held state"),
    "suspended": (Phase.PAUSED, None, None, ""),
}


def test_the_queue(lines: dict[str, str]) -> None:
    """squeue tells of each job how far it has come, which tasks it still means, and why it waits or has ended."""
    rows = {row.name: row for row in parse_squeue(of(lines, "squeue"))}
    for name, (phase, end, indices, reason) in QUEUE.items():
        row = rows[name]
        held = None if row.indices is None else list(row.indices)
        assert (phase, end, indices, reason) == (row.phase, row.end, held, row.reason), name
    assert {"root"} == {row.user for row in rows.values()}
    needs_help = {name for name, row in rows.items() if row.phase is Phase.WAITING and Slurm().way_out(row.reason)}
    assert {"never", "partly", "held-by-root", "requeued-and-held"} == needs_help
    stuck = {name for name, row in rows.items() if row.phase is Phase.WAITING and Slurm().never_begins(row.reason)}
    assert needs_help - {"partly"} == stuck  # which its user holds


def test_no_reason_is_none() -> None:
    """Of a job of which SLURM says no reason, people are told how far it has come."""
    (row,) = parse_squeue("12|7|19|CONFIGURING|None|1795662906|1:00:00|n1|root|e-abc|/e/slurm_scripts.sh\n")
    assert ("", "configuring") == (row.reason, row.waits_for)


HISTORY = {
    "good": [(State.COMPLETED, 0, 0)],
    "failed": [(State.FAILED, 3, 0)],
    "killed": [(State.FAILED, 0, 9)],
    "memory": [(State.OUT_OF_MEMORY, 0, 125)],
    "limit": [(State.TIMEOUT, 0, 0)],
    "cancelled": [(State.CANCELLED, 0, 0)],
    "never": [(None, 0, 0)],
}


def test_the_history(lines: dict[str, str]) -> None:
    """sacct tells of each run how it ended, those of one task in their order; what has not ended has no end.

    20.11 mostly forgets a run that is taken back seconds after it began, as those here were.
    """
    kept = slice(1 if " 20.11." in lines["sinfo -V"] else 0, None)
    runs = parse_sacct(of(lines, "sacct -a"))
    for name, ends in HISTORY.items():
        assert ends == [(run.end, run.exit_code, run.signal) for run in runs if run.name == name], name
    (step,) = (run for run in runs if run.name == "memory-srun")
    assert State.OUT_OF_MEMORY == step.end  # of which since 22.05 the job itself says that it has failed
    assert [State.PREEMPTED, None][kept] == [run.end for run in runs if run.name == "preempted"]
    requeued = [(run.array_index, run.end) for run in runs if run.name == "requeued"]
    assert [(0, State.PREEMPTED), (0, None)][kept] == [run for run in requeued if run[0] == 0]
    assert [(1, None)] == [run for run in requeued if run[0] == 1]
    (partly,) = (run for run in runs if run.name == "partly")
    assert [0, 1, 4, 5] == list(partly.waiting or ())
    (throttled,) = (run for run in runs if run.name == "throttled")
    assert [0, 2, 4, 6, 8] == list(throttled.waiting or ())


ENDS = {"limit": State.TIMEOUT, "cancelled": State.CANCELLED, "requeued": State.PREEMPTED, "preempted": State.PREEMPTED}


def test_the_last_words_in_a_log(lines: dict[str, str]) -> None:
    """SLURM's own words at the end of a log tell how it ended the task, and are not told as those of the program."""
    for name, end in {**ENDS, "memory": State.OUT_OF_MEMORY, "memory-srun": State.OUT_OF_MEMORY}.items():
        log = of(lines, f"cat {name}.log")
        assert end == words_in_log(log), name
        assert not re.search(r"CANCELLED AT|oom_kill|oom-kill", Slurm().last_words(log)), name


def a_scontrol(folder: Path, job: str, config: str = "", status: int = 0) -> None:
    """A program that prints what scontrol has printed, of a job and of the configuration."""
    (folder / "job").write_text(job)
    (folder / "config").write_text(config)
    (folder / "scontrol").write_text(
        f'#!/bin/sh\ncase "$*" in *config) cat {folder}/config ;; *) cat {folder}/job >&{1 + bool(status)} ;; esac\n'
        f"exit {status}\n"
    )
    (folder / "scontrol").chmod(0o755)


def test_what_a_task_is_told_while_it_is_ended(
    lines: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that gets TERM asks scontrol why, and how long it may still take; somebody else, whether it has ended."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    here = Task("slurm", "1", user=getpass.getuser())
    for name in ("limit", "cancelled", "preempted"):
        a_scontrol(tmp_path, of(lines, f"scontrol -o show job {name},"), of(lines, "scontrol show config"))
        assert (ENDS[name], 5.0) == Slurm().why_stopped(here), name
        assert not Slurm().has_ended(here), name  # its processes have KillWait to save what they have
    preempted = of(lines, "scontrol -o show job preempted,").replace("JobState=COMPLETING", "JobState=PENDING")
    a_scontrol(tmp_path, preempted, of(lines, "scontrol show config"))
    assert Slurm().has_ended(here)
    a_scontrol(tmp_path, of(lines, "scontrol -o show job 9999999"), status=1)
    assert Slurm().has_ended(here)
    for where in ("1", "2"):  # where 22.05 and where 26.05 say so, while other tasks of the array are there
        (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho 'Job 12_7 not found' >&{where}\nexit 1\n")
        assert Slurm().has_ended(here._replace(array="12", array_index=7))
    if told := lines.get("scontrol -o show job partly"):
        a_scontrol(tmp_path, told, status=1)
        job, _, index = told.split()[1].partition("_")
        assert Slurm().has_ended(here._replace(array=job, array_index=int(index)))
        assert not Slurm().has_ended(here._replace(array=job, array_index=7))
    a_scontrol(tmp_path, of(lines, "scontrol requeue"), status=1)
    assert "Job is pending execution" in str(Slurm().requeue(here))


REFUSALS = {
    "--partition=nosuch": "set `partition` to one of",
    "--mem=900G": "lower mem_gb",
    "--gpus-per-node=9": "lower mem_gb, cpus_per_task, gpus_per_node",
    "--gres=foo:1": "set `gres`",
    "--constraint=fast": "set `constraint`",
    "--exclude=n77": "sinfo -N",
    "--array=0-1001": "MaxArraySize less one",
    "--licenses=none:1": "name licenses",
    "--reservation=none": "name a reservation",
    "--cluster=nosuch": "name a cluster",
    "--nonsense": "mend that option",
    "--mem=1G --mem-per-cpu=1G": "mend that option",
    "--time=soon": "lower timeout_min",
}


def test_refusals(lines: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each refusal of sbatch is told in one line with the way out, and is not doubtful."""
    monkeypatch.setenv("PATH", "")
    for options, way_out in REFUSALS.items():
        said = of(lines, f"sbatch {options} good.sh")
        error = client.refusal(said, has_been_cut_off=False)
        assert isinstance(error, SlurmError)
        assert way_out in str(error), options
        assert "\n" not in str(error)
        assert not error.is_doubtful
        assert not re.search(r"sbatch: |Try \"", error.words), options


STARTS = r"Job \d+ to start at \d{4}-\d\d-\d\dT"
TAKEN = {
    "cpus-per-gpu cpus-per-task": ("20.11.",),
    "gpus-per-node gres": ("20.11.", "22.05.", "24.11."),
    "no-requeue requeue": ("",),
}
"""The pairs that sbatch takes though we take one of both, and the versions that do so."""


@pytest.mark.parametrize("pair", [pair for group in _ONE_OF for pair in combinations(sorted(group), 2)], ids=" ".join)
def test_options_of_which_we_take_one(
    lines: dict[str, str], monkeypatch: pytest.MonkeyPatch, pair: tuple[str, str]
) -> None:
    """sbatch refuses each two of a group, and says so in one line, but for those that we know some versions take."""
    monkeypatch.setenv("PATH", "")
    said = [text for name, text in lines.items() if set(pair) <= set(re.findall(r"--([a-z-]+)", name))]
    assert said
    version = lines["sinfo -V"].split()[-1]
    is_taken = version.startswith(TAKEN.get(" ".join(pair), ("none",)))
    for words in said:
        assert is_taken == bool(re.search(STARTS, words)), words
        why = str(client.refusal(words, has_been_cut_off=False))
        assert is_taken or re.fullmatch(".* mutually exclusive.*leave one of them out.*", why), why


def test_a_check_of_a_script(lines: dict[str, str]) -> None:
    """`sbatch --test-only` tells when the job would begin."""
    assert re.search(STARTS, of(lines, "sbatch --test-only good.sh"))


def test_settings(lines: dict[str, str]) -> None:
    """The largest array and the time to end in are among the settings."""
    settings = parse_config(of(lines, "scontrol show config"))
    assert ("1001", "5 sec") == (settings["MaxArraySize"], settings["KillWait"])


def test_no_accounting(lines: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is accounted for, sacct says so, and there is no history rather than an empty one."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "said").write_text(of(lines, "sacct --name"))
    (tmp_path / "sacct").write_text(f"#!/bin/sh\ncat {tmp_path}/said >&2\nexit 1\n")
    (tmp_path / "sacct").chmod(0o755)
    assert client.sacct(["good"], 0.0) is None
