"""What is written as an option is what SLURM understands."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from experiment_manager.scheduler.arrays import arrays
from experiment_manager.scheduler.records import Place
from experiment_manager.scheduler.slurm.options import make
from experiment_manager.scheduler.slurm.script import render

HOSTILE = ["a\\b c", "it's #1; $(date)", '"q" `x` $HOME', "ü ß", "tail\\", "#x", "100%"]
TIMES = ["90", "90:30", "01:30:00", "2-12", "2-12:30", "2-12:30:30", "UNLIMITED"]


def shown(options: dict[str, Any], folder: Path) -> dict[str, str]:
    """What `scontrol show job` says of a held job with these options."""
    (array,) = arrays([(make(options, where="test"), [0])])
    script = folder / "script.sh"
    script.write_text(render(array, Place(str(folder), "x", "0001", "held", str(folder), "python3")))
    done = subprocess.run(["sbatch", "--parsable", "--hold", str(script)], capture_output=True, text=True, check=True)
    job_id = done.stdout.strip()
    told = subprocess.run(["scontrol", "show", "job", job_id], capture_output=True, text=True, check=True).stdout
    subprocess.run(["scancel", job_id], check=True)
    found = dict(re.findall(r"(\w+)=(\S*)", told))
    comment = re.search(r"Comment=(.*)", told)
    return {**found, "Comment": comment[1].removesuffix(" ") if comment else ""}


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_people_arrives_as_it_is(text: str, tmp_path: Path) -> None:
    """Quotes, backslashes and signs of the shell in an option mean themselves."""
    assert text == shown({"comment": text}, tmp_path)["Comment"]


@pytest.mark.parametrize("text", TIMES)
def test_time_limit_is_the_one_that_slurm_reads(text: str, tmp_path: Path) -> None:
    """Every form of a time that SLURM knows stands for the same limit as in SLURM."""
    told = shown({"timeout_min": text}, tmp_path)["TimeLimit"]
    plain = subprocess.run(
        ["sbatch", "--parsable", "--hold", f"--time={text}", "--wrap=true", f"--output={tmp_path}/o"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    theirs = subprocess.run(["scontrol", "show", "job", plain], capture_output=True, text=True, check=True).stdout
    subprocess.run(["scancel", plain], check=True)
    assert f"TimeLimit={told} " in theirs


def test_resources_are_those_that_were_asked_for(tmp_path: Path) -> None:
    """Memory, processors, GPUs, nodes and the partition arrive; no GPU is asked for where there is to be none."""
    asked = {"mem_gb": 1.5, "cpus_per_task": 2, "gpus_per_node": 1, "partition": "short", "timeout_min": 1}
    told = shown(asked, tmp_path)
    assert ("1.50G", "2", "short") == (told["MinMemoryNode"], told["NumCPUs"], told["Partition"])
    assert "gpu" in told["TresPerNode"]
    assert "TresPerNode" not in shown({**asked, "gpus_per_node": 0}, tmp_path)
