"""`export`: the runs of an experiment at programs that track experiments, each once, however often it is exported."""

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from experiment_manager import Experiment, current_job
from experiment_manager.errors import ExperimentManagerError
from experiment_manager.model.records import State
from experiment_manager.store.lock import Lock
from tests.conftest import ROOT, Program, clean_env, wait_until

N_STEPS = 5


def train(job_id: int, _: Any, __: Any) -> dict[str, Any]:
    """Logs numbers, NaN and text, and returns numbers and text; job 2 raises at its end."""
    for step in range(0, 10 * N_STEPS, 10):
        current_job().log_metrics(step, loss=1 / (1 + step), reward=math.nan if step == 20 else step, phase="warm")
    if job_id == 2:
        raise ValueError("told to")
    return {"score": job_id * 0.5, "note": "fine"}


def study(place: Path, n_jobs: int = 4, n_run: int = 3) -> Experiment:
    """Jobs that differ in lr; the first of them have run."""
    experiment = Experiment(["lr"], "train", place)
    for number in range(n_jobs):
        lr = 0.1 * (number + 1)
        experiment.add_job({"lr": lr}, {"lr": lr, "net": {"layers": [64, 64], "act": "relu"}, "warmup": None})
    experiment.save()
    experiment.save_pass_filter(experiment.get_all_ids())
    for job_id in range(n_run):
        run(experiment, job_id)
    return experiment


def run(experiment: Experiment, job_id: int) -> None:
    try:
        experiment.run_id(job_id, train)
    except ValueError:
        assert job_id == 2


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("prepared")
    study(place)
    return place


@pytest.fixture
def experiment(prepared: Path, tmp_path: Path) -> Experiment:
    """Jobs 0 and 1 have completed, job 2 has failed, job 3 has not begun."""
    shutil.copytree(prepared / "train", tmp_path / "train")
    return Experiment.at(tmp_path / "train")


def tree(place: Path) -> dict[str, tuple[int, bytes]]:
    """All files below a folder, with what is in them and when that was written."""
    files = [path for path in place.rglob("*") if path.is_file()]
    return {str(path.relative_to(place)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def command(home: Path, *words: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return Program(home).python("-m", "experiment_manager", "export", *words, **env)


def read(run: Path) -> Any:
    """A run as TensorBoard itself reads it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()


def text_of(events: Any, tag: str) -> str:
    return str(events.Tensors(f"{tag}/text_summary")[0].tensor_proto.string_val[0].decode())


def test_tensorboard_reads_what_was_logged(
    experiment: Experiment, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Numbers by step and time, parameters, the result, state and reason; what is left out is said once."""
    done = experiment.export("tensorboard", tmp_path / "runs")
    assert ((0, 1, 2), (), (3,)) == (done.written, done.present, done.unended)
    assert "metric phase is left out where it is no number: 3 jobs (jobs 0-2)\n" == capfd.readouterr().err
    assert {f"train.{job}.1" for job in range(3)} == {path.name for path in (tmp_path / "runs/train").iterdir()}
    events = read(tmp_path / "runs/train/train.1.1")
    logged = experiment.metrics("0-3").query("job == 1 and metric == 'loss'")
    losses = events.Scalars("loss")
    assert logged["step"].tolist() == [one.step for one in losses]
    assert logged["time"].tolist() == [one.wall_time for one in losses]
    assert logged["value"].tolist() == pytest.approx([one.value for one in losses])
    assert math.isnan(events.Scalars("reward")[2].value)
    assert [(40, 0.5)] == [(one.step, one.value) for one in events.Scalars("result/score")]
    assert ("fine", "COMPLETED") == (text_of(events, "result/note"), text_of(events, "state"))
    failed = read(tmp_path / "runs/train/train.2.1")
    assert ("FAILED", "ValueError: told to") == (text_of(failed, "state"), text_of(failed, "reason"))


def test_tensorboard_has_the_parameters(experiment: Experiment, tmp_path: Path) -> None:
    """The tab of hyperparameters has variables and configuration, with dots between the keys, and how the run ended."""
    from tensorboard.plugins.hparams import api_pb2, metadata

    experiment.export("tensorboard", tmp_path / "runs", where="2")
    events = read(tmp_path / "runs/train/train.2.1")
    of_tag = {tag: about.plugin_data.content for tag, about in events.summary_metadata.items()}
    begun = metadata.parse_session_start_info_plugin_data(of_tag[metadata.SESSION_START_INFO_TAG])
    found = {name: getattr(value, value.WhichOneof("kind")) for name, value in begun.hparams.items()}
    variables = {"lr": pytest.approx(0.3), "net.layers": "[64, 64]", "net.act": "relu", "warmup": "null"}
    assert {**variables, "state": "FAILED"} == found
    ended = metadata.parse_session_end_info_plugin_data(of_tag[metadata.SESSION_END_INFO_TAG])
    assert "STATUS_FAILURE" == api_pb2.Status.Name(ended.status)


def test_a_run_is_there_once(experiment: Experiment, tmp_path: Path) -> None:
    """A second export writes nothing; a job that has run since, or again, is a run that follows; one whose state turns
    out to be another is replaced."""
    runs = tmp_path / "runs"
    experiment.export("tensorboard", runs)
    before = tree(runs)
    again = experiment.export("tensorboard", runs)
    assert ((), (0, 1, 2)) == (again.written, again.present)
    assert before == tree(runs)
    run(experiment, 2)
    run(experiment, 3)
    more = experiment.export("tensorboard", runs)
    assert ((2, 3), (0, 1)) == (more.written, more.present)
    assert before.items() <= tree(runs).items()
    assert {"train.2.1", "train.2.2"} <= {path.name for path in (runs / "train").iterdir()}
    states = Path(experiment.folder.states)
    (states / "2.2.FAILED").rename(states / f"2.2.{State.CANCELLED}")
    assert (2,) == experiment.export("tensorboard", runs).written
    assert 1 == len([*(runs / "train/train.2.2").iterdir()])
    assert "CANCELLED" == text_of(read(runs / "train/train.2.2"), "state")


def test_what_is_exported_is_chosen(experiment: Experiment, tmp_path: Path) -> None:
    """`--where`, `--selected` and `--project` say which jobs go where; `--json` tells what was done."""
    experiment.save_pass_filter([0, 2, 3])
    words = (experiment.folder.path, "--to", "tensorboard", "--out", "runs", "--project", "mine")
    done = command(tmp_path, *words, "--selected", "--where", "lr < 0.35", "--json")
    told = json.loads(done.stdout)
    assert (0, [0, 2], [], []) == (done.returncode, told["written"], told["present"], told["unended"])
    assert ["train.0.1", "train.2.1"] == sorted(path.name for path in (tmp_path / "runs/mine").iterdir())
    done = command(tmp_path, *words)
    place = tmp_path / "runs/mine"
    assert [
        "1 job left out, which has not ended (job 3)",
        "2 jobs were there already (jobs 0,2)",
        f"1 job exported to {place}; look at it with: tensorboard --logdir {place}",
    ] == done.stdout.splitlines()


def test_a_killed_export_is_completed(tmp_path: Path) -> None:
    """Whenever an export is killed, the same command goes on, and nothing of the first one is left beside the runs."""
    experiment = study(tmp_path, n_jobs=20, n_run=20)
    words = ["-m", "experiment_manager", "export", experiment.folder.path, "--to", "tensorboard", "--out", "runs"]
    started = Program(tmp_path).start(*words)
    wait_until(lambda: [*tmp_path.glob("runs/train/*/events*")] != [])
    os.kill(started.pid, signal.SIGKILL)
    started.communicate()
    half = tmp_path / "runs/train/train.19.1"
    half.mkdir(exist_ok=True)
    (half / ".run.node7.4711.tmp").write_bytes(b"half of it")
    os.utime(half / ".run.node7.4711.tmp", (0, 0))
    there = {path.parent.name for path in tmp_path.glob("runs/train/*/events*")}
    done = command(tmp_path, *words[3:], "--json")
    told = json.loads(done.stdout)
    assert there == {f"train.{job}.1" for job in told["present"]}
    assert list(range(20)) == sorted([*told["written"], *told["present"]])
    assert [f"train/train.{job}.1" for job in range(20)] == sorted(
        (str(path.parent.relative_to(tmp_path / "runs")) for path in (tmp_path / "runs").rglob("*") if path.is_file()),
        key=lambda name: int(name.split(".")[1]),
    )


def test_steps_that_are_no_whole_numbers_are_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """They are a metric of their own then; the last of several values at one step counts; both is said."""
    experiment = study(tmp_path, n_jobs=2, n_run=0)

    def log(job_id: int, *_: Any) -> None:
        for step in (0.5, None, 2) if job_id == 0 else (3, 1, 3):
            current_job().log_metrics(step, loss=float(step or 7))

    for job_id in range(2):
        experiment.run_id(job_id, log)
    capfd.readouterr()
    experiment.export("tensorboard", tmp_path / "runs")
    assert [
        "steps that are no whole numbers are counted from 0, and logged as `step`: 1 job (job 0)",
        "of several values of a metric at the same step, the last is exported: 1 job (job 1)",
    ] == capfd.readouterr().err.splitlines()
    one, other = (read(tmp_path / f"runs/train/train.{job}.1") for job in range(2))
    assert [(0, 0.5), (1, 7.0), (2, 2.0)] == [(each.step, each.value) for each in one.Scalars("loss")]
    assert [(0, 0.5), (2, 2.0)] == [(each.step, each.value) for each in one.Scalars("step")]
    assert [(1, 1.0), (3, 3.0)] == [(each.step, each.value) for each in other.Scalars("loss")]


def test_lines_that_cannot_be_read(experiment: Experiment, tmp_path: Path) -> None:
    """Half a line at the end is not there yet; one that is no metric is named, and the exit status is 3."""
    path = Path(experiment.folder.of_attempt(0, 1, "metrics"))
    path.write_bytes(path.read_bytes() + b'{"step": 50, "ti')
    words = (experiment.folder.path, "--to", "tensorboard", "--out", "runs", "--where", "0")
    assert 0 == command(tmp_path, *words).returncode
    path.write_bytes(path.read_bytes() + b'\n{"step": 60, "time": 1.0, "values": {"loss": 0.25}}\n')
    done = command(tmp_path, *words)
    assert (3, True) == (done.returncode, f"skipped: line 6 of {path}: not what log_metrics writes" in done.stderr)
    assert [0, 10, 20, 30, 40, 60] == [one.step for one in read(tmp_path / "runs/train/train.0.1").Scalars("loss")]


def test_two_experiments_of_one_name(experiment: Experiment, tmp_path: Path) -> None:
    """Runs of another experiment that is called the same are never replaced: nothing is written, and a project of its
    own is the way out. One that was moved is the same."""
    runs = tmp_path / "runs"
    experiment.export("tensorboard", runs)
    before = tree(runs)
    other = study(tmp_path / "elsewhere", n_run=4)
    done = command(tmp_path, other.folder.path, "--to", "tensorboard", "--out", "runs")
    assert (2, 1) == (done.returncode, len(done.stderr.splitlines()))
    assert f"of another experiment that is called train, too; export {other.folder.path} under" in done.stderr
    assert before == tree(runs)
    assert (
        0
        == command(tmp_path, other.folder.path, "--to", "tensorboard", "--out", "runs", "--project", "other").returncode
    )
    shutil.move(experiment.folder.path, tmp_path / "moved/train")
    assert (0, 1, 2) == Experiment.at(tmp_path / "moved/train").export("tensorboard", runs).present


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("'neptune' is nothing to export to; there are tensorboard, wandb, mlflow, trackio", ["--to", "neptune"]),
        ("none of 1 job of", ["--to", "tensorboard", "--where", "3"]),
        ("'a/b' cannot be the name", ["--to", "tensorboard", "--project", "a/b"]),
        ("cannot be made or written", ["--to", "tensorboard", "--out", "/proc/nowhere"]),
        ("wandb is not installed: pip install 'hydra-experiment-manager[wandb]'", ["--to", "wandb"]),
        ("mlflow is not installed: pip install 'hydra-experiment-manager[mlflow]'", ["--to", "mlflow"]),
        ("trackio is not installed: pip install 'hydra-experiment-manager[trackio]'", ["--to", "trackio"]),
        ("tensorboardX is not installed: pip install 'hydra-exp", ["--to", "tensorboard"]),
    ],
)
def test_what_cannot_be_exported(experiment: Experiment, tmp_path: Path, said: str, words: list[str]) -> None:
    """A mistake is one sentence, with 2, and leaves no run and nothing in the experiment."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for library in ("wandb", "mlflow", "trackio", *(["tensorboardX"] if "tensorboardX" in said else [])):
        (hidden / f"{library}.py").write_text(f"raise ModuleNotFoundError('No module', name={library!r})\n")
    before = tree(Path(experiment.folder.path))
    done = command(tmp_path, experiment.folder.path, *words, PYTHONPATH=str(hidden))
    assert (2, "", 1) == (done.returncode, done.stdout, len(done.stderr.splitlines())), done.stderr
    assert said in done.stderr
    assert ["hidden", "train"] == sorted(path.name for path in tmp_path.iterdir())
    assert before == tree(Path(experiment.folder.path))


def test_a_folder_that_is_no_experiment(tmp_path: Path) -> None:
    """It is named, with 2."""
    done = command(tmp_path, str(tmp_path), "--to", "tensorboard")
    assert (2, True) == (done.returncode, f"{tmp_path} is no experiment" in done.stderr)


def test_one_export_at_a_time(experiment: Experiment, tmp_path: Path) -> None:
    """While somebody exports an experiment, nobody else does, so no run is written by two."""
    lock = Lock(experiment.folder.export_lock, wait_s=0)
    with pytest.raises(ExperimentManagerError, match=r"another process exports .*; wait for its end"):
        experiment.export("tensorboard", tmp_path / "runs")
    lock.release()
    assert (0, 1, 2) == experiment.export("tensorboard", tmp_path / "runs").written


COUNT = {
    "wandb": """
import glob, json
marks = glob.glob("out/wandb/offline-run-*/experiment-manager.json")
assert len(glob.glob("out/wandb/offline-run-*/*.wandb")) == len(marks)
runs = [json.load(open(path)) for path in marks]
print(json.dumps(sorted(run["run"] for run in runs if run["project"] == "train")))
""",
    "mlflow": """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(sys.argv[1])
runs = client.search_runs([client.get_experiment_by_name("train").experiment_id])
assert all(len(client.get_metric_history(run.info.run_id, "loss")) == 5 for run in runs)
assert {"lr", "net.layers", "net.act", "warmup"} == set(runs[0].data.params)
print(json.dumps(sorted(run.info.run_name for run in runs)))
""",
    "trackio": """
import json, os
os.environ["TRACKIO_DIR"] = os.path.abspath("out")
from trackio import Api
print(json.dumps(sorted(run.name for run in Api().runs("train"))))
""",
}


def python_with(to: str, tmp_path: Path) -> str:
    """A Python that has the library to export to, in an environment of its own."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    python = str(venv / "bin/python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--editable", f"{ROOT}[{to}]"], check=True)
    return python


def check_twice(python: str, to: str, out: str, tmp_path: Path, *, is_kept: Callable[[], object]) -> None:
    """One run for each job, after an export that was killed once `is_kept` is true and two whole ones, beside those of
    another project; read back by the library itself."""
    experiment = study(tmp_path)
    call = [python, "-m", "experiment_manager", "export", experiment.folder.path, "--to", to, "--out", out]
    options: dict[str, Any] = {"cwd": tmp_path, "env": clean_env(), "stdout": subprocess.PIPE, "text": True}
    killed = subprocess.Popen(call, **options)
    wait_until(is_kept, 120)
    killed.kill()
    killed.communicate()
    first, _, second = (
        json.loads(subprocess.run([*call, "--json", "--project", project], check=True, **options).stdout)
        for project in ("train", "another", "train")
    )
    assert [0, 1, 2] == sorted([*first["written"], *first["present"]])
    assert ([], [0, 1, 2]) == (second["written"], second["present"])
    where = out if out.startswith("http") else "sqlite:///out"
    counted = subprocess.run([python, "-c", COUNT[to], where], check=True, **options).stdout
    assert ["train.0.1", "train.1.1", "train.2.1"] == json.loads(counted.splitlines()[-1])


@pytest.mark.heavy
@pytest.mark.parametrize("to", COUNT)
def test_the_other_programs_take_an_export_twice(to: str, tmp_path: Path) -> None:
    """Into files here."""
    check_twice(python_with(to, tmp_path), to, "out", tmp_path, is_kept=(tmp_path / "out").exists)


@pytest.mark.heavy
def test_a_server_of_mlflow_takes_an_export_twice(tmp_path: Path) -> None:
    """Over HTTP, as people share one."""
    python = python_with("mlflow", tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", "sqlite:///server.db", "--workers", "1"]
    log = tmp_path / "server.log"
    with log.open("wb") as said:
        command = [str(Path(python).parent / "mlflow"), "server", *words]
        server = subprocess.Popen(
            command, cwd=tmp_path, env=clean_env(), stdout=said, stderr=said, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"

    def answers(path: str) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{address}{path}", timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    try:
        wait_until(lambda: answers("/health"), 120)
        of_ours = "/api/2.0/mlflow/experiments/get-by-name?experiment_name=train"
        check_twice(python, "mlflow", address, tmp_path, is_kept=lambda: answers(of_ours))
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
