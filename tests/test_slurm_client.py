"""What SLURM's commands are asked, by programs that stand for them and note their words."""

import datetime
import os
import time
from pathlib import Path

import pytest

from experiment_manager.errors import SlurmError
from experiment_manager.scheduler.slurm import client


@pytest.mark.parametrize("ahead_s", [0, 600, 100_000])
def test_accounting_is_asked_from_before_the_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_s: int
) -> None:
    """Clocks disagree: accounting is asked from a while before the launch on, and never from a moment to come."""
    sacct, said = tmp_path / "sacct", tmp_path / "said"
    sacct.write_text(f'#!/bin/sh\necho "$@" > {said}\n')
    sacct.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    now = time.time()
    assert [] == client.sacct(["name"], now + ahead_s)
    words = said.read_text().split()
    since = datetime.datetime.fromisoformat(words[words.index("-S") + 1]).replace(tzinfo=datetime.UTC)
    assert since.timestamp() < now - 3600


def test_a_script_for_another_cluster_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that names another cluster than the one that is asked is not submitted, since its jobs could not be
    followed; with SLURM_CLUSTERS all commands go there, accounting among them, and the submission tells where."""
    said = {"scontrol": "ClusterName = here", "sbatch": "12;other", "sacct": ""}
    for name, words in said.items():
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name} $* >> {tmp_path}/said\necho '{words}'\n")
        (tmp_path / name).chmod(0o755)
    script = tmp_path / "slurm_scripts.sh"
    script.write_text("#!/bin/bash\n#SBATCH --clusters=other\n")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    client._own_name.cache_clear()
    try:
        with pytest.MonkeyPatch.context() as while_down:
            while_down.setenv("PATH", "/nowhere")  # what is not told now may be told in a moment
            with pytest.raises(SlurmError, match="for the cluster other, and another one is asked"):
                client.sbatch(str(script))
        with pytest.raises(SlurmError, match=r"for the cluster other, and here is asked.*set SLURM_CLUSTERS=other"):
            client.sbatch(str(script))
        assert "sbatch" not in (tmp_path / "said").read_text()
        assert client.named_cluster() is None
        monkeypatch.setenv("SLURM_CLUSTERS", "other")
        assert ("12", "other") == (client.sbatch(str(script)), client.named_cluster())
        client.sacct(["name"], 0.0)
        assert "sacct -M other -a" in (tmp_path / "said").read_text()
        monkeypatch.setenv("SLURM_CLUSTERS", "here")
        assert client.named_cluster() is None
    finally:
        client._own_name.cache_clear()


def test_the_script_counts_and_not_the_environment(tmp_path: Path) -> None:
    """SLURM lets SBATCH_* overrule a script: what names a submission, and what its lines set, is put aside; people's
    defaults for the rest stay."""
    script = tmp_path / "slurm_scripts.sh"
    script.write_text("#!/bin/bash\n#SBATCH --time=01:00:00\n#SBATCH --mem=4G\n#SBATCH -p long\n#SBATCH --no-requeue\n")
    names = ("JOB_NAME", "ARRAY_INX", "EXPORT", "OUTPUT", "TIMELIMIT", "MEM_PER_CPU", "PARTITION", "REQUEUE")
    environ = {f"SBATCH_{name}": "mine" for name in (*names, "ACCOUNT", "QOS", "GPUS_PER_NODE")}
    left = client.submission_environment({**environ, "HOME": "/h"}, str(script))
    assert {"SBATCH_ACCOUNT", "SBATCH_QOS", "SBATCH_GPUS_PER_NODE", "HOME"} == left.keys()
