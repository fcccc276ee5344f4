"""How busy jobs keep GPUs, by a module in the place of NVIDIA's, which answers what a file says: no GPU is needed."""

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Program, clean_env

NVML = """
import json, os
from pathlib import Path
from types import SimpleNamespace

class NVMLError(Exception): pass
class NVMLError_NotFound(NVMLError): pass

def told():
    return json.loads(Path(os.environ["FAKE_NVML"]).read_text())

def nvmlInit(): pass
def nvmlDeviceGetCount(): return len(told())

def nvmlDeviceGetHandleByIndex(index):
    if told()[index].get("closed"): raise NVMLError("no permission")
    return index

def nvmlDeviceGetComputeRunningProcesses(handle):
    return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in told()[handle]["processes"]]

def nvmlDeviceGetUtilizationRates(handle):
    return SimpleNamespace(gpu=told()[handle]["busy"])

def nvmlDeviceGetProcessUtilization(handle, timeStamp):
    found = told()[handle].get("samples", [])
    if not found: raise NVMLError_NotFound
    return [SimpleNamespace(pid=pid, timeStamp=at, smUtil=busy) for pid, at, busy in found]
"""
LOOKING = """
import json, os, sys
from experiment_manager.execution.gpu_use import GpuUse
use = GpuUse()
for pids, seconds in json.loads(sys.argv[1]):
    use.look(pids, seconds)
print(json.dumps(use.record(100.0)))
"""


def with_nvml(place: Path, gpus: Any) -> dict[str, str]:
    """The environment of a machine whose GPUs do that."""
    (place / "pynvml.py").write_text(NVML)
    (place / "gpus.json").write_text(json.dumps(gpus))
    return {"PYTHONPATH": f"{place}{os.pathsep}{ROOT}", "FAKE_NVML": str(place / "gpus.json")}


OURS, OTHER, NOWHERE = 1, os.getpid(), 2**22 + 1


@pytest.mark.parametrize(
    ("gpus", "record"),
    [
        ([{"busy": 60, "processes": [[OURS, 5]]}, {"busy": 20, "processes": [[OURS, 7]]}], (80.0, 12)),
        ([{"busy": 60, "processes": []}], (0.0, 0)),  # it has asked for a GPU, and does nothing with it
        ([{"busy": 99, "processes": [[OTHER, 9]]}, {"closed": True}], (0.0, 0)),
        (
            [{"busy": 99, "processes": [[OURS, 5], [OTHER, 9]],
              "samples": [[OURS, 10**7, 30], [OURS, 9 * 10**6, 50], [OURS, 1, 99], [OTHER, 10**7, 20]]}], (40.0, 5),
        ),
        ([{"busy": 99, "processes": [[OURS, 5], [OTHER, 9]]}], (0.0, 5)),
        ([{"busy": 60, "processes": [[OURS, 5], [NOWHERE, 9]]}], None),  # numbers of another namespace
        ([], (0.0, 0)),
    ],
)  # fmt: skip
def test_what_is_seen_of_gpus(tmp_path: Path, gpus: Any, record: tuple[float, int] | None) -> None:
    """Of GPUs that a job has for itself, how busy they are; of those that others use, how busy its processes keep them;
    and nothing where NVML cannot tell which processes these are."""
    done = subprocess.run(
        [sys.executable, "-c", LOOKING, json.dumps([[[OURS], 5.0], [[OURS], 5.0]])],
        env=clean_env(**with_nvml(tmp_path, gpus)), capture_output=True, text=True, check=True,
    )  # fmt: skip
    expected: Mapping[str, Any] = (
        {} if record is None else dict(zip(("gpu_s", "peak_gpu_memory_bytes"), record, strict=True))
    )
    assert expected == pytest.approx(json.loads(done.stdout))


JOB = """
import json, os, time
from pathlib import Path

told = Path(os.environ["FAKE_NVML"])  # before what takes long to import: a supervisor looks after a second
part = told.with_name(f"{os.getpid()}")
part.write_text(json.dumps([{"busy": 50, "processes": [[os.getpid(), 2**30]]}]))
part.replace(told)

import hydra
from experiment_manager import current_job

@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg):
    until = time.monotonic() + 1.6
    while time.monotonic() < until:
        time.sleep(0.02)
    return 1

if __name__ == "__main__":
    main()
"""


def test_the_record_of_a_job_has_them(program: Program, tmp_path: Path) -> None:
    """A supervisor looks where GPUs are dealt out; `efficiency` shows it, also of jobs that asked no scheduler."""
    (program.home / "gpu.py").write_text(JOB)
    program.experiment = program.home / "experiments/gpu"
    env = with_nvml(tmp_path, [])
    done = program.run("-m", "seed=1", script="gpu.py", CUDA_VISIBLE_DEVICES="0", **env)
    assert 0 == done.returncode, done.stderr
    end = json.loads((program.experiment / "jobs/0/attempt.1.json").read_text())
    assert pytest.approx(0.5, rel=0.01) == end["gpu_s"] / (end["end"] - end["start"])
    assert 2**30 == end["peak_gpu_memory_bytes"]
    (used,) = program.told("efficiency")["groups"]
    assert pytest.approx(0.5, rel=0.01) == used["used_gpus"]
    assert "1 GB" in program.tool("efficiency").stdout


def test_the_binding_has_what_is_asked_of_it() -> None:
    """NVIDIA's own has the same functions, with the same arguments."""
    real = pytest.importorskip("pynvml")
    ours: dict[str, Any] = {}
    exec(NVML, ours)
    for name in (name for name in ours if name.startswith("nvml")):
        assert (
            inspect.signature(ours[name]).parameters.keys() == inspect.signature(getattr(real, name)).parameters.keys()
        )
    assert issubclass(real.NVMLError_NotFound, real.NVMLError)
