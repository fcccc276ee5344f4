"""Two days after `sbatch`: from a sweep in which everything went wrong to a complete table, by our commands alone."""

import json
from typing import Any

import pytest

from tests.conftest import Program

pytestmark = pytest.mark.heavy


def waited(program: Program) -> tuple[int, Any]:
    """The exit status and the words of `status --wait`, which may take minutes."""
    process = program.start("-m", "experiment_manager", "status", str(program.experiment), "--wait", "--json")
    said, errors = process.communicate(timeout=300)
    assert process.returncode in (0, 1), errors
    return process.returncode, json.loads(said)


def test_from_a_bad_night_to_a_complete_table(program: Program) -> None:
    """One job fails, one runs into its time limit, one has too little memory. Each is run again with what it lacks, and
    then every job has a result."""
    options = ("hydra/launcher=slurm_submitit", "hydra.launcher.timeout_min=1", "hydra.launcher.mem_gb=0.3")
    assert 0 == program.sweep("seed=1", "how=well,unless-again,oom", *options).returncode
    assert 0 == program.sweep("seed=2", "sleep=100", *options).returncode
    status, told = waited(program)
    assert 1 == status
    assert {"COMPLETED": [0], "FAILED": [1], "OUT_OF_MEMORY": [2], "TIMEOUT": [3]} == told["jobs"]
    assert (1, "1-3\n") == (
        (missing := program.tool("results", "--missing", "--where", "0-3")).returncode,
        missing.stdout,
    )
    assert "works the second time" in program.tool("logs", "1", "--stderr").stdout
    for arguments in (("--state", "failed"), ("--state", "oom", "mem_gb=1.5"), ("--state", "timeout", "timeout_min=3")):
        again = program.tool("resubmit", *arguments, "--yes", "--json")
        assert 0 == again.returncode, again.stderr
        assert "slurm_submitit" == json.loads(again.stdout)["launcher"]
    assert 0 == program.tool("filter", "0-3").returncode
    assert (0, {"COMPLETED": [0, 1, 2, 3]}) == ((ended := waited(program))[0], ended[1]["jobs"])
    done = program.tool("results", "--missing")
    assert (0, "every job that may run has completed, in its last attempt or an earlier one\n") == (
        done.returncode,
        done.stderr,
    )
    rows = program.told("results")
    assert [(0, 1), (1, 2), (2, 2), (3, 2)] == [(row["job"], row["attempt"]) for row in rows]
    assert all(row["result"] for row in rows)
    assert ["TIMEOUT", "COMPLETED"] == [attempt["state"] for attempt in program.told("show", "3")["attempts"]]
