"""The cluster of the tests itself: it runs jobs, accounts for them, and takes other settings and back."""

import subprocess
from pathlib import Path

import pytest

from tests.cluster.conftest import (
    ProgramOf,
    as_user,
    kill_slurmd,
    reconfigured,
    sacct_state,
    start_slurmd,
    wait_for_queue_to_drain,
)
from tests.conftest import ROOT, Program, clean_env, wait_until


def sbatch(folder: Path, *options: str, command: str = "true") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["sbatch", "--parsable", f"--output={folder}/%a.log", *options, f"--wrap={command}"],
        cwd=folder,
        env=clean_env(),
        capture_output=True,
        text=True,
        check=False,
    )


def answer(*command: str) -> str:
    return subprocess.run(command, env=clean_env(), capture_output=True, text=True, check=False).stdout.strip()


def test_an_array_of_three(tmp_path: Path) -> None:
    """Each task of an array runs with its index, and accounting has its state and its exit code."""
    job = sbatch(tmp_path, "--array=0-2", command="echo $SLURM_ARRAY_TASK_ID; exit $SLURM_ARRAY_TASK_ID").stdout.strip()
    wait_for_queue_to_drain(job)
    expected = [(f"{job}_0", "COMPLETED", "0:0"), (f"{job}_1", "FAILED", "1:0"), (f"{job}_2", "FAILED", "2:0")]
    assert expected == sacct_state(job, rows=3)
    assert ["0\n", "1\n", "2\n"] == [(tmp_path / f"{task}.log").read_text() for task in range(3)]


def test_gpus_are_counted(tmp_path: Path) -> None:
    """A job sees the GPUs that it has asked for, and no others."""
    job = sbatch(tmp_path, "--array=7", "--gpus-per-node=2", command="echo $CUDA_VISIBLE_DEVICES").stdout.strip()
    wait_for_queue_to_drain(job)
    assert "0,1\n" == (tmp_path / "7.log").read_text()


@pytest.mark.parametrize(
    ("address", "line"),
    [("127.0.0.1", "CommunicationParameters=NoInAddrAny\n"), ("127.0.1.1", ""), ("127.0.0.11", ""), ("10.0.0.1", "")],
)
def test_what_the_daemons_listen_on(address: str, line: str) -> None:
    """They listen on the address of the machine's name alone only where they are asked by that: Debian gives a machine
    127.0.1.1."""
    shell = 'getent() { echo "$ADDRESS STREAM here"; }; . tests/cluster/configuration.sh; listening_line NoInAddrAny'
    done = subprocess.run(
        ["bash", "-euc", shell], cwd=ROOT, env=clean_env(ADDRESS=address), capture_output=True, text=True, check=True
    )
    assert line == done.stdout


def test_settings_change_and_come_back(tmp_path: Path) -> None:
    """Inside `reconfigured` a setting is another one; afterwards it is what it was, and a job has survived it."""
    job = sbatch(tmp_path, command="sleep 60").stdout.strip()
    wait_until(lambda: answer("squeue", "-h", "-j", job, "-o", "%T") == "RUNNING")
    with reconfigured(extra=["MaxArraySize=20"]):
        assert "Invalid job array specification" in sbatch(tmp_path, "--array=20").stderr
    assert 0 == sbatch(tmp_path, "--array=20").returncode
    assert "RUNNING" == answer("squeue", "-h", "-j", job, "-o", "%T")


def test_without_accounting(tmp_path: Path) -> None:
    """A cluster without accounting runs jobs, and sacct says nothing."""
    with reconfigured(accounting=False):
        job = sbatch(tmp_path).stdout.strip()
        wait_for_queue_to_drain(job)
        assert "COMPLETED" == answer("squeue", "-h", "-t", "all", "-j", job, "-o", "%T")
        assert "" == answer("sacct", "-j", job)


def test_an_unknown_knob_is_refused() -> None:
    """A misspelt knob changes nothing and is named."""
    with pytest.raises(AssertionError, match="no knob EM_CLUSTER_KILLWAIT"), reconfigured(killwait=2):
        pass


def test_a_slurmd_dies_and_comes_back() -> None:
    """A node whose daemon was killed takes jobs again after the daemon has been started."""
    kill_slurmd("n2")
    start_slurmd("n2")
    assert "hi" == answer("srun", "--nodelist=n2", "echo", "hi")


def test_an_ordinary_user(alices_program: ProgramOf) -> None:
    """Alice submits jobs, owns what they write, and has a Python that knows our package."""
    home = alices_program.home
    command = ["sbatch", "--parsable", "--output=out.log", "--wrap=whoami"]
    job = as_user("alice", command, home).stdout.strip()
    assert [(job, "COMPLETED", "0:0")] == sacct_state(job)
    assert ("alice\n", "alice") == ((home / "out.log").read_text(), (home / "out.log").owner())
    told = alices_program.python("-c", "import experiment_manager; print(experiment_manager.__version__)")
    assert 0 == told.returncode, told.stderr


def test_nodes_see_the_program(cluster_program: Program) -> None:
    """What a test makes below its temporary folder is there on the nodes."""
    script = str(cluster_program.home / "train.py")
    assert script == answer("srun", "ls", script)
