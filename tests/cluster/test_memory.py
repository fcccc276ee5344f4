"""How much memory a job has used, as the kernel counts it for a step of SLURM's."""

from pathlib import Path

import pytest

from tests.cluster.sweeps import Sweep, slurm
from tests.conftest import Program

PROGRAM = """
import subprocess, sys
from pathlib import Path
import hydra

TAKES = "kept = bytearray(b'x') * (100 * 2**20); print(flush=True); input()"

def asked_of_the_kernel():
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("memory", ""):
            root = Path("/sys/fs/cgroup", controllers)
            step = next((part for part in (Path(path), *Path(path).parents) if part.name.startswith("step_")), None)
            for name in ("memory.peak", "memory.max_usage_in_bytes"):
                if step and (root / str(step).lstrip("/") / name).exists():
                    return int((root / str(step).lstrip("/") / name).read_text())

@hydra.main(version_base=None, config_path=None)
def main(cfg):
    command = [sys.executable, "-c", TAKES]
    taking = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)]
    for each in taking:
        each.stdout.readline()
    for each in taking:
        each.communicate(b"\\n")
    return asked_of_the_kernel()

main()
"""


def test_peak_of_all_processes(cluster_program: Program) -> None:
    """The record of an attempt has what the kernel counted for the whole step: the program's processes together, also
    those that lived for a moment only."""
    if "task/cgroup" not in slurm("scontrol", "show", "config"):
        pytest.skip("this cluster has no task/cgroup, which makes a memory cgroup for each step")
    sweep = Sweep(cluster_program, "memory")
    Path(sweep.home, "memory.py").write_text(PROGRAM)
    options = ("hydra/launcher=slurm_submitit", "hydra.launcher.wait=true", "hydra.launcher.mem_gb=1")
    done = sweep.run("-m", "+x=1", "hydra/sweeper=experiment", *options, script="memory.py")
    assert 0 == done.returncode, done.stderr
    (row,) = sweep.told("results")
    counted = row["result"]["result"]
    assert counted > 300 * 2**20
    assert counted <= sweep.record(0)["peak_memory_bytes"] < counted + 50 * 2**20
