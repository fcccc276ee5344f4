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

WORKERS = """
import multiprocessing, re, resource, time
from pathlib import Path
import hydra

def take(pipe, spins_s):
    kept = bytearray(b"x") * (150 * 2**20)
    pipe.send(None)
    while time.process_time() < spins_s:
        pass
    pipe.recv()

def used(pid):
    return 1024 * int(re.search(r"^Pss: +([0-9]+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)[1])

@hydra.main(version_base=None, config_path=None)
def main(cfg):
    began = time.monotonic()
    pipes = [multiprocessing.Pipe() for _ in range(4)]
    workers = [multiprocessing.Process(target=take, args=(there, cfg.spins_s)) for _, there in pipes]
    for each in workers:
        each.start()
    for here, _ in pipes:
        here.recv()
    truth = used("self") + sum(used(each.pid) for each in workers)
    while time.monotonic() < began + cfg.lasts_s:
        time.sleep(0.1)
    for (here, _), each in zip(pipes, workers):
        here.send(None)
        each.join()
    used_s = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {"bytes": truth, "cpu_s": sum(one.ru_utime + one.ru_stime for one in used_s)}

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


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("lasts_s", "options", "source"),
    [
        ("0", ("+spins_s=3",), "cgroup"),
        ("5,6", ("+spins_s=0", "hydra.launcher.workers=1", "hydra.launcher.pack=2"), "samples"),
    ],
)
def test_efficiency_of_four_worker_processes(
    cluster_program: Program, lasts_s: str, options: tuple[str, ...], source: str
) -> None:
    """The memory that jobs with four worker processes are said to have used, and the processor time of one that keeps
    them busy, is within a tenth of what they had, also where the kernel counts the jobs of one task together."""
    if "task/cgroup" not in slurm("scontrol", "show", "config"):
        pytest.skip("this cluster has no task/cgroup, which makes a memory cgroup for each step")
    sweep = Sweep(cluster_program, "memory")
    Path(sweep.home, "memory.py").write_text(WORKERS)
    launcher = ("hydra/launcher=slurm_submitit", "hydra.launcher.wait=true", "hydra.launcher.mem_gb=4", *options)
    done = sweep.run("-m", f"+lasts_s={lasts_s}", "hydra/sweeper=experiment", *launcher, script="memory.py")
    assert 0 == done.returncode, done.stderr
    truths = [row["result"]["bytes"] for row in sweep.told("results")]
    (used,) = sweep.told("efficiency")["groups"]
    assert [source] * len(truths) == [sweep.record(job)["peak_memory_from"] for job in range(len(truths))]
    assert pytest.approx(max(truths), rel=0.1) == used["used_memory_bytes"]
    if source == "cgroup":
        (cpu_s,) = [row["result"]["cpu_s"] for row in sweep.told("results")]
        assert pytest.approx(cpu_s, rel=0.1) == used["used_cpus"] * used["used_s"]
    assert pytest.approx(truths, rel=0.1) == [sweep.record(job)["peak_memory_bytes"] for job in range(len(truths))]
    assert 4 * 2**30 / len(truths) == used["asked_memory_bytes"]
