"""GPUs are dealt out among the jobs that run at once: no two get the same one where there are enough for all."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from experiment_manager.errors import ExperimentManagerError
from experiment_manager.execution.resources import (
    Devices,
    GpuDealer,
    check_gpus,
    entries,
    gpus_of,
    oom_kills,
    visible_gpus,
)
from tests.conftest import Program

CUDA, HIP, ROCR = "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"
FOUR = Devices({CUDA: ["0", "1", "GPU-8932f937-d72c-4106", "MIG-c6d4f1ef-42e4"]})

APP = """
import os, tempfile, time
from pathlib import Path
import hydra
from experiment_manager import current_job

@hydra.main(version_base=None)
def main(cfg):
    names = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "TMPDIR")
    told = {name: os.environ[name] for name in names if name in os.environ}
    told |= {"began": time.time(), "temporary": tempfile.gettempdir()}
    Path(tempfile.gettempdir(), "mine").touch()
    together = Path(os.environ["TOGETHER"])
    Path(together, str(current_job().id)).touch()
    least = int(os.environ["LEAST"])
    while len(os.listdir(together)) < least:
        time.sleep(0.01)
    return {**told, "ended": time.time()}

main()
"""

OURS = ("hydra/sweeper=experiment", "hydra/launcher=local_pool")


@pytest.fixture
def app(tmp_path: Path) -> Program:
    """Jobs that wait until `LEAST` of them have begun, and return what they are told of GPUs and temporary files."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "together").mkdir()
    found = Program(tmp_path)
    found.experiment = tmp_path / "experiments/app"
    return found


def swept(app: Program, n: int, *arguments: str, least: int, **env: str) -> tuple[list[dict[str, Any]], str]:
    """The results of `n` jobs that were swept, and what the sweep has said."""
    told = {"TOGETHER": str(app.home / "together"), "LEAST": str(least), **env}
    done = app.run("-m", f"+x=range(0,{n})", *OURS, *arguments, script="app.py", **told)
    assert 0 == done.returncode, done.stderr
    return results(app, n), done.stderr


def results(app: Program, n: int) -> list[dict[str, Any]]:
    """What the first attempts of the jobs 0 to `n` have returned."""
    return [json.loads((app.experiment / f"jobs/{job}/result.1.json").read_text())["result"] for job in range(n)]


# ---------------------------------------------------------------- which there are


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0,1,2", ["0", "1", "2"]),
        (" 3 , 1 ", ["3", "1"]),
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6,MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", None),
        ("MIG-GPU-8932f937-d72c-4106-c12f-20bd9faed9f6/1/0", None),
        ("0,1,-1,2", ["0", "1"]),
        ("NoDevFiles", []),
        ("all", []),
        ("", []),
        ("-1", []),
        ("1,1", ["1"]),
        ("0,,1", ["0"]),
    ],
)
def test_entries_up_to_the_first_that_is_none(text: str, expected: list[str] | None) -> None:
    """Indices, UUIDs and names of MIG instances are GPUs; as for CUDA, what follows an entry that is none is hidden."""
    assert (text.split(",") if expected is None else expected) == entries(text)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({CUDA: "2,3"}, {CUDA: ["2", "3"]}),
        ({HIP: "0", CUDA: "0,1"}, {CUDA: ["0", "1"], HIP: ["0"]}),
        ({ROCR: "4,5"}, {ROCR: ["4", "5"]}),
        ({ROCR: "4,5", HIP: "0,1"}, {HIP: ["0", "1"]}),  # HIP counts within what ROCR leaves
        ({CUDA: ""}, {CUDA: []}),
        ({"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1"}, {}),
        ({"SLURM_JOB_ID": "7", CUDA: "0"}, {CUDA: ["0"]}),
    ],
)
def test_the_environment_tells_which_are_visible(
    tmp_path: Path, environ: dict[str, str], expected: Mapping[str, list[str]]
) -> None:
    """A variable that is set decides, also an empty one; nothing of a machine belongs to a SLURM job that has none."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    assert expected == visible_gpus(environ, root=str(tmp_path)).names


def test_the_machine_tells_where_the_environment_does_not(tmp_path: Path) -> None:
    """NVIDIA's devices are counted in /dev, AMD's in its topology, where processors are nodes, too."""
    assert 0 == visible_gpus({}, root=str(tmp_path)).n_gpus
    for node, number in enumerate(("0", "51216", "51217")):
        path = tmp_path / f"sys/class/kfd/kfd/topology/nodes/{node}"
        path.mkdir(parents=True)
        (path / "gpu_id").write_text(f"{number}\n")
    assert {HIP: ["0", "1"]} == visible_gpus({}, root=str(tmp_path)).names
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm", "nvidia-modeset"):
        (tmp_path / "dev" / name).touch()
    assert {CUDA: ["0", "1", "2"]} == visible_gpus({}, root=str(tmp_path)).names


# ---------------------------------------------------------------- who gets which


@pytest.mark.parametrize(
    ("n_gpus", "share", "at_once", "expected", "words"),
    [
        (4, None, 2, [(0, 1), (2, 3), None], "4 GPUs: 2 for each job"),
        (8, None, 3, [(0, 1), (2, 3), (4, 5), (6, 7), None], "8 GPUs: 2 for each job"),
        (2, None, 3, [(0,), (1,), (0,), (1,)], "2 GPUs: up to 2 jobs on each"),
        (1, None, 4, [(0,)] * 5, "1 GPU: 4 jobs on it"),
        (4, None, 1, [(0, 1, 2, 3), None], None),
        (2, 1, 8, [(0,), (1,), None], "2 GPUs: 1 for each job"),
        (3, 2, 1, [(0, 1), None], "3 GPUs: 2 for each job"),
        (2, 0.5, 8, [(0,), (1,), (0,), (1,), None], "2 GPUs: up to 2 jobs on each"),
        (1, 1 / 3, 8, [(0,), (0,), (0,), None], "1 GPU: 3 jobs on it"),
        (4, 0, 2, [(), (), ()], None),
        (0, None, 2, [(), ()], None),
    ],
)
def test_shares(n_gpus: int, share: float | None, at_once: int, expected: list[Any], words: str | None) -> None:
    """Equal shares leave as many jobs at once as there were; whole GPUs are nobody else's; a share that was asked for
    lets jobs wait for a free GPU."""
    dealer = GpuDealer(Devices({CUDA: [str(n) for n in range(n_gpus)]} if n_gpus else {}), share, at_once)
    assert expected == [dealer.deal() for _ in expected]
    assert words == dealer.words


def test_a_share_that_was_given_back_is_dealt_again() -> None:
    """The least used GPU is the next, and what a job of one GPU is told is its entry in every variable."""
    dealer = GpuDealer(FOUR, 1, 4)
    assert [(0,), (1,), (2,), (3,), None] == [dealer.deal() for _ in range(5)]
    dealer.take_back((2,))
    assert (2,) == dealer.deal()
    assert {CUDA: "GPU-8932f937-d72c-4106"} == dealer.environment((2,))
    assert {CUDA: "0", HIP: "5"} == GpuDealer(Devices({CUDA: ["7", "0"], HIP: ["6", "5"]}), 1, 2).environment((1,))


@pytest.mark.parametrize(
    ("share", "devices", "sentence"),
    [
        (5, FOUR, "gpus_per_job=5: 4 GPUs are visible here (CUDA_VISIBLE_DEVICES=0,1,GPU-"),
        (1, Devices({}), "gpus_per_job=1: no GPU is visible here (by CUDA_VISIBLE_DEVICES, and in /dev)"),
        (0.5, Devices({CUDA: []}), "gpus_per_job=0.5: no GPU is visible here (CUDA_VISIBLE_DEVICES=)"),
        (1.5, FOUR, "gpus_per_job=1.5 is no share of a machine's GPUs; use 1, 2, ..., a fraction such as 0.5"),
        (-1, FOUR, "gpus_per_job=-1 is no share"),
        (float("nan"), FOUR, "gpus_per_job=nan is no share"),
        (float("inf"), FOUR, "gpus_per_job=inf is no share"),
    ],
)
def test_shares_that_nobody_can_have(share: float, devices: Devices, sentence: str) -> None:
    """They are refused with the share, and with what there is."""
    with pytest.raises(ExperimentManagerError) as refused:
        check_gpus(share, devices, where="hydra.launcher.")
    assert f"hydra.launcher.{sentence}" in str(refused.value)


# ---------------------------------------------------------------- jobs


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_jobs_that_overlap_have_gpus_of_their_own(app: Program, start_method: str) -> None:
    """Two jobs at a time, four GPUs: two for each, by whatever names they have, and a later job gets what an ended one
    has left. It is said once, and recorded with the attempt."""
    method = ("hydra.launcher.n_jobs=2", f"hydra.launcher.start_method={start_method}")
    found, said = swept(app, 3, *method, least=2, CUDA_VISIBLE_DEVICES="0,GPU-aa,2,MIG-bb,-1")
    assert {"0,GPU-aa", "2,MIG-bb"} == {one[CUDA] for one in found[:2]} == {one[CUDA] for one in found}
    for one in found:
        others = [other for other in found if other is not one and other["began"] < one["ended"]]
        assert all(other[CUDA] != one[CUDA] or other["ended"] <= one["began"] for other in others)
    assert 1 == said.count("4 GPUs: 2 for each job (hydra.launcher.gpus_per_job)")
    assert f"{CUDA}=0,GPU-aa" == app.told("show", "0")["attempts"][0]["gpus"]
    assert f", {CUDA}=0,GPU-aa" in app.tool("show", "0").stdout


def test_a_share_of_ones_own(app: Program) -> None:
    """A share that was asked for lets fewer jobs run at a time, 0 leaves every job what the sweep has, and one that can
    never be had is refused before anything is written; jobs that run again get theirs, too."""
    three = (*OURS, "hydra.launcher.gpus_per_job=3")
    refused = app.run("-m", "+x=1", *three, script="app.py", HIP_VISIBLE_DEVICES="0,1")
    assert 2 == refused.returncode
    assert "error: hydra.launcher.gpus_per_job=3: 2 GPUs are visible here (HIP_VISIBLE_DEVICES=0,1)" in refused.stderr
    assert not app.experiment.exists()
    two = ("hydra.launcher.gpus_per_job=2", "hydra.launcher.n_jobs=2")
    first, second = swept(app, 2, *two, least=1, HIP_VISIBLE_DEVICES="4,5")[0]
    assert "4,5" == first[HIP] == second[HIP]
    assert first["ended"] <= second["began"] or second["ended"] <= first["began"]
    left = ("hydra.launcher.gpus_per_job=0", "hydra.sweeper.rerun=always", "hydra.launcher.n_jobs=2")
    assert "GPU" not in swept(app, 1, *left, least=1, HIP_VISIBLE_DEVICES="4,5")[1]
    again = app.tool(
        *("resubmit", "0,1", "--state", "completed", "--yes", "--gpus-per-job", "1"),
        **{HIP: "4,5", "LEAST": "1", "TOGETHER": str(app.home / "together")},
    )
    assert 0 == again.returncode, again.stderr
    assert "2 GPUs: 1 for each job" in again.stderr
    assert ["HIP_VISIBLE_DEVICES=4,5"] * 2 + ["HIP_VISIBLE_DEVICES=4"] == [
        attempt["gpus"] for attempt in app.told("show", "0")["attempts"]
    ]


def test_jobs_of_one_task(app: Program) -> None:
    """Jobs that are packed into one task divide its GPUs, and each has a folder of its own for temporary files, which
    is gone when it has ended."""
    written = ("hydra/sweeper=experiment", "hydra/launcher=slurm_script", "hydra.launcher.pack=3")
    assert 0 == app.run("-m", "+x=range(0,3)", *written, script="app.py").returncode
    temporary = app.home / "temporary"
    temporary.mkdir()
    env = {"TOGETHER": str(app.home / "together"), "LEAST": "3", "TMPDIR": str(temporary), CUDA: "0,1,2"}
    done = app.tool("run", "0,1,2", **env)
    assert 0 == done.returncode, done.stderr
    assert 1 == done.stderr.count("3 GPUs: 1 for each job (gpus_per_job)")
    found = results(app, 3)
    assert {"0", "1", "2"} == {one[CUDA] for one in found}
    assert 3 == len({one["TMPDIR"] for one in found})
    assert all(one["TMPDIR"] == one["temporary"] and Path(one["TMPDIR"]).parent == temporary for one in found)
    assert [] == os.listdir(temporary)
    several = app.run("-m", "+x=1", *written[:2], "hydra.launcher.gpus_per_job=1", script="app.py")
    assert 2 == several.returncode
    assert "gpus_per_job divides the GPUs of a task among jobs that are packed into it" in several.stderr


def test_a_record_of_what_was_seen() -> None:
    """What a process is told is recorded as it is; a process that is told nothing has no record of it."""
    assert {} == gpus_of({"LANG": "C"})
    assert {"gpus": "CUDA_VISIBLE_DEVICES="} == gpus_of({CUDA: ""})


# ---------------------------------------------------------------- memory

STEPS = "/system.slice/slurmstepd.scope"


def kill_for_memory(machine: Path, group: str, *, is_v2: bool) -> None:
    """The kernel kills a process of a group, and counts that, in version 2 in all groups above, too."""
    files, name = (machine / "sys/fs/cgroup", "memory.events") if is_v2 else (
        machine / "sys/fs/cgroup/memory", "memory.oom_control")  # fmt: skip
    for path in (group, *map(str, Path(group).parents)) if is_v2 else (group,):
        file = files / path.lstrip("/") / name
        file.parent.mkdir(parents=True, exist_ok=True)
        before = int(file.read_text().split()[1]) if file.exists() else 0
        file.write_text(f"oom_kill {before + 1}\n")


@pytest.mark.parametrize("is_v2", [True, False])
@pytest.mark.parametrize("in_task", [True, False])
def test_kills_for_memory_are_those_of_our_own_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_v2: bool, in_task: bool
) -> None:
    """What the kernel kills in a task is counted, wherever in it; what it kills in the tasks of others on the node is
    not, though version 2 of cgroups counts it in all groups that hold both."""
    if in_task:
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setenv("SLURMD_NODENAME", "n1")
    ours, theirs = (f"{STEPS}/job_{job}/step_batch/user/task_0" for job in (7, 8))
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"0::{ours}\n" if is_v2 else f"4:memory:{ours}\n0::/\n")
    assert oom_kills(str(tmp_path)) is None
    kill_for_memory(tmp_path, ours, is_v2=is_v2)
    before = oom_kills(str(tmp_path))
    assert before is not None
    kill_for_memory(tmp_path, theirs, is_v2=is_v2)
    assert before == oom_kills(str(tmp_path))
    groups = [ours, *(f"{STEPS}/job_7/step_batch/user" for _ in range(in_task))]
    for group in groups:
        kill_for_memory(tmp_path, group, is_v2=is_v2)
        assert before < (before := oom_kills(str(tmp_path)) or 0)
