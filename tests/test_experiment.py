"""The Python interface: what the first users of the library wrote still works, and what they could not do does."""

import errno
import importlib
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from submitit.core.job_environment import SignalHandler
from submitit.core.utils import JobPaths

import experiment_manager
from experiment_manager import SLURM, Experiment, ExperimentManagerError, Launched, State, Submitted, current_job
from experiment_manager.analysis.comparison import compare
from experiment_manager.analysis.scores import How
from experiment_manager.errors import (
    ConfigurationChanged,
    DuplicateJob,
    FilterError,
    FolderError,
    JobRefused,
    ResultError,
    UnknownJob,
    UnstorableValue,
)
from experiment_manager.execution import environment, in_process
from experiment_manager.execution.current_job import CurrentJob
from experiment_manager.model import codec
from experiment_manager.model.records import Attempt, JobId
from experiment_manager.scheduler import reconcile
from experiment_manager.scheduler.reconcile import reconciled
from experiment_manager.store import matching, reserve
from experiment_manager.store.files import write_json
from experiment_manager.store.launches import create_launch, driven
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.matching import Matching
from experiment_manager.store.processes import ATTEMPT_VARIABLE, FOLDER_VARIABLE, JOB_VARIABLE
from experiment_manager.store.states import States, StateTable
from tests.conftest import clean_env, files_below
from tests.test_comparison import rows as compared_rows
from tests.test_comparison import usual

ALGORITHMS, SEEDS = ("TD3", "DDPG"), (1, 2, 3)


def define(folder: Path, seeds: tuple[int, ...] = SEEDS, tau: float = 0.005) -> Experiment:
    """Six jobs, or more: algorithms times seeds."""
    experiment = Experiment(["algorithm", "seed"], "study", folder)
    for algorithm in ALGORITHMS:
        for seed in seeds:
            variables = {"algorithm": algorithm, "seed": seed}
            experiment.add_job(variables, {**variables, "nn": [1, 10], "tau": tau})
    return experiment


@pytest.fixture
def saved(tmp_path: Path) -> Experiment:
    experiment = define(tmp_path)
    experiment.save()
    return experiment


def test_defining_filtering_and_running(saved: Experiment, tmp_path: Path) -> None:
    """The whole path: add, save, filter, load elsewhere, run by job id, and see the states."""
    ids = saved.get_ids(lambda variables: variables["algorithm"] == "DDPG")
    assert [3, 4, 5] == ids
    saved.save_pass_filter(ids)
    assert {"format": 1, "jobs": [3, 4, 5], "filter": None} == json.loads(
        (tmp_path / "study/pass_filter.json").read_text()
    )

    loaded = Experiment.load("study", tmp_path)
    assert ["algorithm", "seed"] == loaded.variables
    assert [3, 4, 5] == loaded.get_filtered_ids()
    seen: list[tuple[int, dict[str, Any], Any]] = []

    def runner(job_id: int, variables: dict[str, Any], configuration: Any) -> float:
        seen.append((job_id, variables, configuration))
        return 0.5

    assert 0.5 == loaded.run_id(4, runner)
    variables = {"algorithm": "DDPG", "seed": 2}
    assert [(4, variables, {**variables, "nn": [1, 10], "tau": 0.005})] == seen
    assert {"COMPLETED": 1, "PENDING": 5} == dict(loaded.status().counts)
    assert {"result": 0.5} == loaded.result_rows()[4]["result"]


def test_metrics_by_name_or_as_a_mapping(saved: Experiment) -> None:
    """A mapping logs names that are no keywords, its step beside it or in it; keywords win; two steps are an error."""
    saved.save_pass_filter([0])

    def runner(*_: Any) -> None:
        job = current_job()
        job.log_metrics(1, loss=0.5)
        job.log_metrics({"train/loss": 0.3}, step=2)
        job.log_metrics({"train/loss": 0.2, "acc": 1}, 3, acc=0.9)
        job.log_metrics({"step": 4, 5: "five"})
        with pytest.raises(TypeError, match="two steps, 6 and 7"):
            job.log_metrics(6, step=7, loss=0)

    saved.run_id(0, runner)
    logged = [(1, "loss", 0.5), (2, "train/loss", 0.3), (3, "train/loss", 0.2), (3, "acc", 0.9), (4, "5", "five")]
    frame = saved.metrics()[["step", "metric", "value"]]
    assert logged == list(frame.itertuples(index=False, name=None))


def test_states_are_counted_by_their_names(saved: Experiment) -> None:
    """`counts["COMPLETED"]` is a number for every state, also for type checkers; what is no state is an error."""
    counts = saved.status(wait=True).counts
    n_completed: int = counts["COMPLETED"]
    assert (0, 6, ["PENDING"]) == (n_completed, counts[State.PENDING], list(counts))
    with pytest.raises(KeyError, match="'COMPLETE' is no state; the states are PENDING, QUEUED"):
        counts["COMPLETE"]


def test_run_id_takes_an_id_and_no_position(saved: Experiment) -> None:
    """With the filter [3, 4, 5] job 0 is refused with a sentence, and a permuted filter runs the job that was named."""
    saved.save_pass_filter([5, 3, 4])
    with pytest.raises(JobRefused, match=r"job 0 is outside the pass filter .* lets pass 3-5"):
        saved.run_id(0, lambda *_: None)
    assert 3 == saved.run_id(3, lambda job_id, *_: job_id)
    with pytest.raises(UnknownJob, match=r"no job 6 .* its jobs are 0-5"):
        saved.run_id(6, lambda *_: None)


def test_nothing_runs_before_a_filter_was_saved(saved: Experiment) -> None:
    """Which jobs may run has to be said first, and the sentence says how."""
    with pytest.raises(FilterError, match="save_pass_filter"):
        saved.run_id(0, lambda *_: None)


def test_who_waits_does_not_leave_between_two_jobs_of_a_pool(
    saved: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing runs for a moment, and the process that runs the jobs is still there."""
    saved.save_pass_filter([0, 1])
    launch = create_launch(saved.folder, (Attempt(JobId(job), 1, State.PENDING) for job in (0, 1)), {})
    looks = list[StateTable]()
    with ExitStack() as pool:
        pool.enter_context(driven(saved.folder, launch))

        def look(*about: Any, **more: Any) -> StateTable:
            looks.append(reconciled(*about, **more))
            if len(looks) < 3:
                saved.run_id(len(looks) - 1, lambda *_: None)
            if len(looks) == 2:
                pool.close()
            return looks[-1]

        monkeypatch.setattr(reconcile, "reconciled", look)
        assert {"COMPLETED": 2, "PENDING": 4} == saved.status(wait=True).counts
    assert 3 == len(looks)


def test_an_attempt_here_waits_for_one_that_may_still_run(saved: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a supervisor on another node may not have seen yet that its attempt was ended, as under a supervisor."""
    monkeypatch.setattr("experiment_manager.store.states.OWNERSHIP_POLL_S", 0.2)
    saved.save_pass_filter([0])
    earlier = States(saved.folder)
    earlier.claim(0, {})
    earlier.finish(0, 1, State.NODE_FAIL, {"fenced_at": (fenced_at := time.time())})
    assert 0.4 <= saved.run_id(0, lambda *_: time.time()) - fenced_at


def test_runner_that_raises_is_failed_and_raises(saved: Experiment) -> None:
    """The exception reaches the caller; state, reason and traceback are recorded; the next call is attempt 2."""
    saved.save_pass_filter([0])

    def runner(*_: Any) -> None:
        raise KeyError("missing")

    with pytest.raises(KeyError, match="missing"):
        saved.run_id(0, runner)
    (trouble,) = saved.status().troubles
    assert ("FAILED", "KeyError: 'missing'", (0,)) == trouble
    assert "in runner" in (saved.show(0)["attempts"][0]["traceback"] or "")
    saved.run_id(0, lambda *_: None)
    assert ["FAILED", "COMPLETED"] == [attempt["state"] for attempt in saved.show(0)["attempts"]]


def test_fake_runner_leaves_the_configuration_and_is_no_completion(
    saved: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    """It prints id, variables and configuration, saves the configuration as a result, and the job counts as not run."""
    saved.save_pass_filter([1])
    saved.run_id(1, saved.fake_runner)
    said = capsys.readouterr().out
    assert "job id: 1" in said
    assert "'seed': 2" in said
    assert "'tau': 0.005" in said
    assert [1, 10] == saved.get_results(1, "configuration.json", Experiment.json_loader)["nn"]
    assert {"FAKE": 1, "PENDING": 5} == dict(saved.status().counts)


def test_same_variables_twice_are_refused(saved: Experiment) -> None:
    """A duplicate is a ValueError, here and after loading; 1, 1.0 and True are three different values."""
    with pytest.raises(DuplicateJob, match="already"):
        saved.add_job({"seed": 1, "algorithm": "TD3"}, {})
    with pytest.raises(ValueError, match="already"):
        Experiment.load("study", saved.folder.parent).add_job({"algorithm": "TD3", "seed": 3}, {})
    assert [6, 7] == [saved.add_job({"algorithm": "TD3", "seed": seed}, {}) for seed in (1.0, True)]


@pytest.mark.usefixtures("saved")
def test_defining_program_can_run_again(tmp_path: Path) -> None:
    """The same definition keeps its ids and writes nothing; a larger grid appends; a smaller one only selects."""
    before = files_below(tmp_path)
    define(tmp_path).save()
    assert before == files_below(tmp_path)
    larger = define(tmp_path, seeds=(1, 2, 3, 4))
    larger.save()
    assert [0, 1, 2, 3, 4, 5, 6, 7] == larger.get_all_ids()
    assert [6, 7] == larger.get_ids({"seed": 4})
    smaller = define(tmp_path, seeds=(2,))
    smaller.save()
    assert [1, 4] == smaller.get_all_ids()
    assert list(range(8)) == Experiment.load("study", tmp_path).get_all_ids()


def test_an_experiment_to_which_nothing_was_added_is_its_folder(saved: Experiment, tmp_path: Path) -> None:
    """Where the only job that was to be added is refused, and before any is, jobs, status and states tell of the same
    jobs; of those that were added, status counts which pass."""
    saved.save_pass_filter([0, 1])
    again = Experiment(["algorithm", "seed"], "study", tmp_path)
    with pytest.raises(ConfigurationChanged):
        again.add_job({"algorithm": "TD3", "seed": 1}, {"other": 1})
    whole = Experiment.load("study", tmp_path)
    assert (whole.get_all_ids(), whole.status().counts) == (again.get_all_ids(), again.status().counts)
    assert (6, 2) == (again.status().counts["PENDING"], again.status().n_selected)
    smaller = define(tmp_path, seeds=(2,))
    assert ([1, 4], 1) == (smaller.get_all_ids(), smaller.status().n_selected)


@pytest.mark.usefixtures("saved")
def test_changed_configuration_is_refused(tmp_path: Path) -> None:
    """The same variables with another configuration: the sentence names the key and both values."""
    with pytest.raises(ConfigurationChanged, match=r"tau: 0\.005 -> 0\.01"):
        define(tmp_path, tau=0.01)
    assert 0.005 == Experiment.load("study", tmp_path).configuration(0)["tau"]


MODE = "from enum import Enum\nclass Mode(Enum):\n    FAST = 1\n    SLOW = 2\n"


def define_with_enum(folder: Path, mode: Any, tau: float = 0.005) -> Experiment:
    """Three jobs, whose configuration has an enum."""
    experiment = Experiment(["seed"], "modes", folder)
    for seed in range(3):
        experiment.add_job({"seed": seed}, {"seed": seed, "mode": mode, "tau": tau})
    return experiment


def test_enums_of_the_program_are_those_of_whoever_imports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a program has defined with an enum of its own is the same where that is imported, and for as many jobs as
    there are, the manifest is opened once to see it; of a change, the sentence names what changed alone."""
    (tmp_path / "program_of_modes.py").write_text(MODE)
    monkeypatch.syspath_prepend(tmp_path)
    program = importlib.import_module("program_of_modes")
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "__main__", program)
        define_with_enum(tmp_path, program.Mode.FAST).save()
    before = files_below(tmp_path)
    define_with_enum(tmp_path, program.Mode.FAST).save()
    assert before == files_below(tmp_path)
    with pytest.raises(ConfigurationChanged, match=r"another configuration: tau: 0\.005 -> 0\.01; put"):
        define_with_enum(tmp_path, program.Mode.FAST, tau=0.01)
    with pytest.raises(ConfigurationChanged, match=r"another configuration: mode: Mode\.FAST -> Mode\.SLOW; put"):
        define_with_enum(tmp_path, program.Mode.SLOW)

    opened = list[Folder]()

    def noted(folder: Folder) -> Manifest:
        opened.append(folder)
        return Manifest(folder)

    monkeypatch.setattr(matching, "Manifest", noted)
    encoded = [codec.encode({"seed": seed, "mode": program.Mode.FAST, "tau": 0.005}) for seed in range(3)]
    folder = Folder(tmp_path, "modes")
    with Matching(folder) as found:
        assert [False] * 3 == [found.has_changed(job_id, encoded[job_id]) for job_id in range(3)]
    assert [folder] == opened


@pytest.mark.usefixtures("saved")
def test_two_programs_cannot_give_out_the_same_id(tmp_path: Path) -> None:
    """Of two that add jobs to the same folder at once, the later one is told to run again."""
    one, other = (Experiment.load("study", tmp_path) for _ in range(2))
    assert 6 == one.add_job({"algorithm": "TD3", "seed": 8}, {})
    assert 6 == other.add_job({"algorithm": "TD3", "seed": 9}, {})
    one.save()
    with pytest.raises(FolderError, match="somebody else has added jobs 6"):
        other.save()


@pytest.mark.parametrize(
    ("variables", "error", "said"),
    [
        ({"algorithm": "TD3"}, ExperimentManagerError, "has the variables algorithm, seed; got algorithm"),
        ({"algorithm": "TD3", "seed": 1, "lr": 1}, ExperimentManagerError, "got algorithm, seed, lr"),
        ({"algorithm": "TD3", "seed": {1, 2}}, UnstorableValue, "seed is a builtins.set"),
        ({"algorithm": object(), "seed": 1}, UnstorableValue, "algorithm is a builtins.object"),
    ],
)
def test_bad_variables(tmp_path: Path, variables: Mapping[str, Any], error: type[Exception], said: str) -> None:
    """Variables have the names of the experiment and values that can be stored; the sentence names the culprit."""
    with pytest.raises(error, match=said):
        Experiment(["algorithm", "seed"], "study", tmp_path).add_job(variables, {})


@pytest.mark.parametrize("name", ["a/b", "-a", "a\nb", "", ".."])
def test_bad_names(tmp_path: Path, name: str) -> None:
    """A name that no folder can bear is refused before anything is written."""
    with pytest.raises(FolderError, match="cannot be the name of an experiment"):
        Experiment([], name, tmp_path)
    assert [] == list(tmp_path.iterdir())


def test_pass_filter_needs_known_jobs(saved: Experiment, tmp_path: Path) -> None:
    """Unknown ids, and no ids at all, are refused, and the filter that was there stays."""
    saved.save_pass_filter([1])
    with pytest.raises(UnknownJob, match="no job 99"):
        saved.save_pass_filter([1, 99])
    with pytest.raises(FilterError, match=r"seed is one of 1, 2, 3"):
        saved.save_pass_filter([])
    with pytest.raises(FilterError, match="takes ids"):
        saved.save_pass_filter("0-2")  # type: ignore[arg-type]
    assert [1] == saved.get_filtered_ids()
    with pytest.raises(FolderError, match="is no experiment"):
        Experiment([], "other", tmp_path).save_pass_filter([0])


def test_random_ids(saved: Experiment) -> None:
    """Distinct ids of the experiment, the same for the same seed; more than there are cannot be drawn."""
    drawn = saved.get_random_ids(4, seed=1)
    assert 4 == len(set(drawn))
    assert set(drawn) <= set(saved.get_all_ids())
    assert drawn == saved.get_random_ids(4, seed=1)
    assert 1 < len({tuple(saved.get_random_ids(3)) for _ in range(30)})
    with pytest.raises(FilterError, match="7 jobs cannot be drawn from 6"):
        saved.get_random_ids(7)


@pytest.mark.parametrize(
    ("saver", "loader", "value"),
    [
        (Experiment.json_saver, Experiment.json_loader, {"curve": [1.0, float("inf")], "done": True}),
        (Experiment.numpy_saver, Experiment.numpy_loader, [[1.0, 2.0], [3.0, 4.0]]),
    ],
)
def test_results_come_back_under_the_name_they_were_saved(
    saved: Experiment, saver: Any, loader: Any, value: Any
) -> None:
    """What a saver wrote under a name is what the loader finds under that name, whole, once, and replaced on demand."""
    name = "returns"  # numpy.save by itself would write returns.npy
    assert not saved.are_all_results_present(name)
    for job_id in saved.get_all_ids():
        saved.save_results(job_id, name, saver, value)
    assert saved.are_all_results_present(name)
    found = saved.get_results(2, name, loader)
    assert value == (found.tolist() if hasattr(found, "tolist") else found)
    with pytest.raises(ResultError, match="is there already; pass override=True"):
        saved.save_results(2, name, saver, value)
    saved.save_results(2, name, saver, value, override=True)
    assert [name] == [path.name for path in Path(saved.folder.job(2)).iterdir()]


def test_saver_that_adds_an_ending(saved: Experiment) -> None:
    """A user's own saver around numpy.save, which adds .npy to the name, finds its results under the name it gave."""
    import numpy

    saved.save_results(0, "weights", lambda path, value: numpy.save(path, value), [1.0, 2.0])
    assert [1.0, 2.0] == saved.get_results(0, "weights", lambda path: numpy.load(path)).tolist()


def test_saver_that_makes_a_folder(saved: Experiment, tmp_path: Path) -> None:
    """A result may be a folder, as of save_pretrained or of zarr, or a link that leads to something."""

    def saver(path: str, value: str) -> None:
        Path(path).mkdir()
        (Path(path) / "weights").write_text(value)

    def loader(path: str) -> str:
        return (Path(path) / "weights").read_text()

    for job_id in saved.get_all_ids():
        saved.save_results(job_id, "model", saver, f"of {job_id}")
    assert saved.are_all_results_present("model")
    assert "of 2" == saved.get_results(2, "model", loader)
    with pytest.raises(ResultError, match="is there already"):
        saved.save_results(2, "model", saver, "again")
    kept = Path(saved.folder.job(2), "model").rename(tmp_path / "kept")
    Path(saved.folder.job(2), "model").symlink_to(kept)
    assert "of 2" == saved.get_results(2, "model", loader)
    kept.rename(tmp_path / "elsewhere")
    assert not saved.are_all_results_present("model")


def test_a_result_takes_the_place_of_another_whatever_both_are(saved: Experiment) -> None:
    """A file of a folder, a folder of a folder, and so on; where the saver fails, the earlier one stays, and nothing
    else."""

    def folder_saver(path: str, value: str) -> None:
        Path(path, "layers").mkdir(parents=True)
        Path(path, "layers", f"of_{value}").write_text(value)

    def failing_saver(path: str, value: str) -> None:
        folder_saver(path, value)
        raise ValueError("the network is gone")

    def content(path: str) -> str:
        return Path(path).read_text() if Path(path).is_file() else next(Path(path, "layers").iterdir()).read_text()

    savers: list[Any] = [folder_saver, saved.json_saver, folder_saver, folder_saver, saved.json_saver]
    for value, saver in enumerate(savers):
        saved.save_results(0, "model", saver, str(value), override=True)
        with pytest.raises(ValueError, match="the network is gone"):
            saved.save_results(0, "model", failing_saver, "new", override=True)
        assert str(value) in saved.get_results(0, "model", content)
        assert ["model"] == os.listdir(saved.folder.job(0))


def test_a_folder_is_on_disk_before_it_takes_the_place_of_another(
    saved: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing to the disk takes long: whoever is killed meanwhile leaves the earlier one, whole, or the new one."""

    def saver(path: str, value: str) -> None:
        Path(path, "layers").mkdir(parents=True)
        Path(path, "layers", "weights").write_text(value)
        Path(path, "newest").symlink_to("nowhere")

    saved.save_results(0, "model", saver, "old")
    place, real = Path(saved.folder.job(JobId(0))), os.fsync
    seen = list[tuple[str, str]]()

    def looking(handle: int) -> None:
        weights = place / "model" / "layers" / "weights"
        seen.append((Path(f"/proc/self/fd/{handle}").readlink().name, weights.read_text() if weights.exists() else ""))
        real(handle)

    monkeypatch.setattr(os, "fsync", looking)
    saved.save_results(0, "model", saver, "new", override=True)
    *before, (last, there) = seen
    assert (place.name, "new") == (last, there)
    assert {"old"} == {what for _, what in before}
    assert {"weights", "layers"} < {name for name, _ in before}
    assert ["model"] == os.listdir(place)


def test_results_that_are_not_there(saved: Experiment) -> None:
    """A missing result and an impossible name are said; only the jobs that pass the filter have to have results."""
    with pytest.raises(ResultError, match=r"job 0 .* has no result 'curve'"):
        saved.get_results(0, "curve", Experiment.json_loader)
    with pytest.raises(ResultError, match="no file name"):
        saved.save_results(0, "../escape", Experiment.json_saver, 1)
    saved.save_results(1, "curve", Experiment.json_saver, 1)
    saved.save_pass_filter([1])
    assert saved.are_all_results_present("curve")


def test_saver_that_fails_leaves_nothing(saved: Experiment) -> None:
    """A half-written result never appears, and the old one stays."""
    saved.save_results(0, "curve", Experiment.json_saver, 1)

    def saver(path: str, _: Any) -> None:
        Path(path).write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        saved.save_results(0, "curve", saver, 2, override=True)
    assert 1 == saved.get_results(0, "curve", Experiment.json_loader)
    assert ["curve"] == [path.name for path in Path(saved.folder.job(0)).iterdir()]


def test_importing_needs_no_numpy_or_torch() -> None:
    """The entry point imports no scientific library; they are imported by the savers that need them."""
    script = (
        "import sys; from experiment_manager import Experiment; Experiment.numpy_saver, Experiment.torch_saver\n"
        "print(sorted({'numpy', 'torch', 'pandas', 'hydra', 'typer', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], env=clean_env(), capture_output=True, text=True, check=True)
    assert "[]" == done.stdout.strip()


RUNNER = """
import argparse
from experiment_manager import Experiment

def runner(job_id, variables, configuration):
    print("running", job_id)
    if variables["seed"] == 3:
        raise ValueError("three")
    return {"score": variables["seed"] * 2}

parser = argparse.ArgumentParser()
parser.add_argument("--job-id", type=int)
parser.add_argument("--experiment-path")
parser.add_argument("--experiment-name")
options = parser.parse_args()
Experiment.load(options.experiment_name, options.experiment_path).run_id(options.job_id, runner)
"""


def run_tool(cwd: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "experiment_manager", *arguments]
    return subprocess.run(command, cwd=cwd, env=clean_env(), capture_output=True, text=True, check=False)


def test_runner_script_under_the_supervisor(saved: Experiment, tmp_path: Path) -> None:
    """`run --runner runner.py` makes one attempt per run, with logs, result, and the script's own exit status."""
    (tmp_path / "runner.py").write_text(RUNNER)
    saved.save_pass_filter([0, 2])
    done = run_tool(tmp_path, "run", "study", "0", "--runner", "runner.py")
    assert done.returncode == 0, done.stderr
    assert "running 0" in (tmp_path / "study/jobs/0/stdout.1.log").read_text()
    assert {"score": 2} == saved.result_rows()[0]["result"]
    assert 1 == run_tool(tmp_path, "run", "study", "2", "--runner", "runner.py").returncode
    assert ["0.1", "0.1.COMPLETED", "2.1", "2.1.FAILED"] == sorted(
        path.name for path in (tmp_path / "study/states").iterdir()
    )
    assert "ValueError: three" == saved.status().troubles[0].reason
    refused = run_tool(tmp_path, "run", "study", "1", "--runner", "runner.py")
    assert (2, True) == (refused.returncode, "outside the pass filter" in refused.stderr)
    assert "--runner" in run_tool(tmp_path, "run", "study", "0").stderr
    missing = run_tool(tmp_path, "run", "study", "0", "--runner", "nope.py")
    assert (2, True) == (missing.returncode, "nope.py is not there" in missing.stderr)


def test_runner_that_does_not_run_the_job_has_not_completed(saved: Experiment, tmp_path: Path) -> None:
    """A script that ends well without calling run_id has done nothing, and the reason says what it has to call."""
    (tmp_path / "runner.py").write_text("print('hello')")
    saved.save_pass_filter([0])
    done = run_tool(tmp_path, "run", "study", "0", "--runner", "runner.py")
    assert "has to call Experiment.run_id" in done.stderr
    assert {"FAILED": 1, "PENDING": 5} == dict(saved.status().counts)


def test_runner_killed_by_hand_is_lost(saved: Experiment, tmp_path: Path) -> None:
    """A runner without a supervisor that dies of `kill -9` is LOST, not RUNNING for ever."""
    script = RUNNER.replace('print("running", job_id)', "import os; os.kill(os.getpid(), 9)")
    (tmp_path / "runner.py").write_text(script)
    saved.save_pass_filter([0])
    where = ("--job-id", "0", "--experiment-path", str(tmp_path), "--experiment-name", "study")
    done = subprocess.run([sys.executable, "runner.py", *where], cwd=tmp_path, env=clean_env(), check=False)
    assert -9 == done.returncode
    assert {"LOST": 1, "PENDING": 5} == dict(saved.status().counts)


def write_original(folder: Path) -> Path:
    """The files that the original library left on disk."""
    home = folder / "old"
    home.mkdir()
    variables = [{"algorithm": a, "seed": s} for a in ALGORITHMS for s in SEEDS]
    jobs = [{"variables": v, "run_config": {**v, "tau": 0.005}} for v in variables]
    (home / "config.json").write_text(json.dumps({"variables": ["algorithm", "seed"], "jobs": jobs}))
    (home / "pass_filter.json").write_text(json.dumps({"jobs": [3, 4, 5]}))
    (home / "slurm_config.json").write_text(
        json.dumps(
            {
                "pre_script": [],
                "post_script": [],
                "n_gpus": 1,
                "n_cpus": 1,
                "memory": "1000",
                "time": "10:00:00",
                "job_runner": "python runner.py",
            }
        )
    )
    (home / "3_returns.json").write_text("[1, 2]")
    return home


def test_folder_of_the_original_library(tmp_path: Path) -> None:
    """Jobs, filter, results and SLURM options of an original folder are read as they are; running by id works; saving
    writes a manifest with the same ids and removes nothing."""
    home = write_original(tmp_path)
    experiment = Experiment.load("old", tmp_path)
    assert list(range(6)) == experiment.get_all_ids()
    assert [3, 4, 5] == experiment.get_filtered_ids()
    assert experiment.slurm_config is not None
    assert ("python", "runner.py") == experiment.slurm_config.job_runner
    assert [1, 2] == experiment.get_results(3, "returns.json", Experiment.json_loader)
    assert not experiment.are_all_results_present("returns.json")
    assert "DDPG" == experiment.run_id(4, lambda _, variables, __: variables["algorithm"])
    with pytest.raises(JobRefused):
        experiment.run_id(0, lambda *_: None)
    experiment.save()
    assert 6 == experiment.add_job({"algorithm": "SAC", "seed": 1}, {})
    loaded = Experiment.load("old", tmp_path)
    assert list(range(6)) == loaded.get_all_ids()
    assert 0.005 == loaded.configuration(5)["tau"]
    assert {"config.json", "pass_filter.json", "3_returns.json"} <= {path.name for path in home.iterdir()}


def test_original_folder_that_is_something_else(tmp_path: Path) -> None:
    """A config.json of another program is named and not taken for an experiment."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text('{"model": 1}')
    with pytest.raises(ExperimentManagerError, match=r"config\.json is no experiment of the original library"):
        Experiment.load("other", tmp_path)


def calls_of(experiment: Experiment, place: Path) -> Iterator[tuple[str, Any]]:
    """The value of each public method and property, of an experiment with one job that failed and one that is done."""
    again = {"launcher": "local_pool", "runner": "run.py"}
    called: dict[str, Callable[..., Any]] = {}
    for name in (name for name in dir(Experiment) if not name.startswith("_")):
        value = getattr(experiment, name)
        if callable(value):
            called[name] = value
        else:
            yield name, value
    one_job = ("job", "configuration", "show", "log", "log_paths", "output", "follow_log")
    given: dict[str, tuple[Any, ...]] = {
        **dict.fromkeys(one_job, (0,)),
        **dict.fromkeys(("jobs_of", "save_pass_filter", "result_warnings"), ([0, 1],)),
        **dict.fromkeys(("load",), ("study", experiment.folder.parent)),
        **dict.fromkeys(("get_ids", "select"), ("seed < 3",)),
        "add_job": ({"algorithm": "SAC", "seed": 1}, {}),
        "archive": (place / "study.tar.gz",),
        "are_all_results_present": ("curve",),
        "at": (experiment.folder.path,),
        "carry_out": (
            experiment.plan_resubmission("seed < 2", state="failed", launcher="local_pool", runner="run.py"),
        ),
        "diff": (0, 1),
        "export": ("tensorboard", place / "runs"),
        "fake_runner": (0, {}, {}),
        "from_sweep": (Path(__file__).parent / "app/conf", "config", ["seed=1,2"]),
        "generate_slurm_script": ("run.py",),
        "get_random_ids": (2,),
        "get_results": (0, "curve", Experiment.json_loader),
        "remove": ("seed > 100",),
        "report": (place / "report.html",),
        "resubmit": ("seed > 100",),
        "rules": (["seed < 3"],),
        "run": (lambda *_: 0.5,),
        "run_id": (2, lambda *_: 0.5),
        "set_slurm_config": (SLURM(time=10),),
    }
    skipped = {"save_results", *(name for name in called if name.endswith(("_saver", "_loader")))}
    skipped |= {"add_trials", "stop_search", "study", "plot"}  # of a search, see test_search.py, or test_figures.py
    skipped |= {"move"}  # after which it is not there: see test_housekeeping.py
    for name in sorted(called.keys() - skipped - {"submit", "compare", "launch"}):
        options = again if name in ("plan_resubmission", "resubmit") else {}
        yield name, called[name](*given.get(name, ()), **options)
    yield "compare", compare({"train": compared_rows(usual)}, How())  # needs several methods
    yield "launch", Launched(None, ())  # needs a sweep
    yield "submit", Submitted("study-1", "17", str(place / "study-1.sh"), is_new=True, is_edited=False)  # needs SLURM


def test_what_methods_return_can_be_read(saved: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every public method is documented, and returns plain values, a DataFrame, or a record that the package offers and
    documents, whose repr fits a screen."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.py").write_text(RUNNER)
    saved.save_pass_filter(saved.get_all_ids())
    saved.run_id(1, lambda *_: {"loss": float("nan")})
    saved.save_results(0, "curve", Experiment.json_saver, 1)
    (tmp_path / "run.py").write_text(RUNNER.replace("== 3", "== 1"))
    assert 1 == run_tool(tmp_path, "run", "study", "0", "--runner", "run.py").returncode
    for name, value in calls_of(saved, tmp_path):
        assert getattr(Experiment, name, saved).__doc__, name
        items = list(value) if isinstance(value, Iterator | list | tuple | dict) else []
        for item in (value, *items):
            kind = type(item)
            if kind.__module__ not in ("builtins", "pandas"):
                assert kind.__name__ in experiment_manager.__all__, (name, kind)
                assert kind.__doc__
                assert len(repr(item)) < 300 + len(str(tmp_path)), (name, repr(item))
                assert " object at 0x" not in repr(item), (name, repr(item))


def outcome(method: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    """What a call gives, or how it is refused."""
    try:
        found = method(*arguments, **named)
        return repr(list(found) if isinstance(found, Iterator) else found)
    except ExperimentManagerError as error:
        return f"{type(error).__name__}: {error}"


def test_ids_of_a_table_are_ids_in_every_method(saved: Experiment) -> None:
    """An id is a number, of Python or of NumPy, as `results` has them; text and fractions are refused in a sentence
    that says so, by whatever method they are given to."""
    numpy = pytest.importorskip("numpy")
    saved.save_pass_filter([2, 3])
    saved.run(lambda job_id, *_: print("printed") or {"score": job_id})
    saved.save_results(2, "mine.json", saved.json_saver, [1])
    others: dict[str, Any] = {
        "filename": "mine.json",
        "saver": saved.json_saver,
        "loader": saved.json_loader,
        "results": [1],
        "override": True,
        "runner": lambda job_id, *_: repr(job_id),
        "variables": {},
        "configuration": {},
    }
    wants = re.compile(r"(?:.*_)?ids?|one|other")
    called = set()
    for name, method in inspect.getmembers(saved, inspect.ismethod):
        parameters = inspect.signature(method).parameters
        taken = [each for each in parameters if wants.fullmatch(each)]
        if not taken or name.startswith("_"):
            continue
        called.add(name)
        needed = {each: others[each] for each in parameters if each in others}

        def asked(job: Any, taken: list[str] = taken, needed: dict[str, Any] = needed) -> dict[str, Any]:
            return {each: [job] if each.endswith("ids") else job for each in taken} | needed

        found = outcome(method, **asked(2))
        assert "Error" not in found, name
        for job in (numpy.int64(2), numpy.uint8(2), *saved.results({"seed": 3, "algorithm": "TD3"})["job"]):
            assert found == outcome(method, **asked(job)), name
        for job in (None, "2", 2.0) if name != "plan_resubmission" else ():  # which takes filters, too
            if job is None and name in ("note", "tags"):
                continue  # of the experiment itself
            said = outcome(method, **asked(job))
            assert (
                said
                == f"UnknownJob: {job!r} is no id of a job, but a {type(job).__name__}; ids are whole numbers, as 3"
            )
    assert {"job", "configuration", "show", "log", "diff", "run_id", "save_pass_filter", "result_warnings"} <= called


def test_a_text_is_one_name_wherever_names_are_listed(saved: Experiment, tmp_path: Path) -> None:
    """`by="seed"` is `by=["seed"]`, and not the letters of it, in every method and in whatever is listed."""
    saved.save_pass_filter(saved.get_all_ids())
    for job in saved.iter_jobs():
        saved.run_id(job.id, lambda job_id, *_: {"score": job_id})
    names = {"by": "algorithm", "over": "seed", "tasks": "algorithm", "group_by": "algorithm", "average_over": "seed"}
    names |= {"checkpoints": "*.pt", "kinds": "logs", "where": "seed < 2"}
    others: dict[str, dict[str, Any]] = {
        "clean": {"dry_run": True},
        "compare": {"metric": "score"},
        "report": {"path": str(tmp_path / "report.html")},
    }
    seen = set()
    for method_name, method in inspect.getmembers(saved, inspect.ismethod):
        if method_name.startswith("_"):
            continue
        for name, parameter in inspect.signature(method).parameters.items():
            if "abc.Sequence[str]" not in str(parameter.annotation) or method_name == "from_sweep":
                continue
            seen.add((method_name, name))
            given = others.get(method_name, {})
            if method_name == "compare" and name != "tasks":
                given = given | {"by": "algorithm", "over": "seed"}
            one, several = (outcome(method, **given | {name: value}) for value in (names[name], [names[name]]))
            assert one == several, (method_name, name)
            assert "is no variable" not in one, (method_name, name)
    assert {("status", "by"), ("report", "group_by"), ("efficiency", "by"), ("compare", "over")} <= seen
    plotted = saved.plot("profile", tmp_path / "a.svg", by="algorithm", over="seed", metric="score")
    assert Path(plotted).exists()
    assert ["lr"] == Experiment("lr", "one", tmp_path).variables


def test_adding_costs_the_same_for_the_first_and_the_last(tmp_path: Path) -> None:
    """The 10th and the 20,000th job take equally many function calls (the original compared each with all before)."""
    experiment = Experiment(["seed"], "study", tmp_path)
    calls: dict[int, int] = {}

    def count(_: Any, event: str, __: Any) -> None:
        calls[seed] = calls.get(seed, 0) + (event == "call")

    for seed in range(1, 20_001):
        if seed in (10, 20_000):
            sys.setprofile(count)
        experiment.add_job({"seed": seed}, {"seed": seed, "tau": 0.005})
        sys.setprofile(None)
    assert calls[10] == calls[20_000] > 0


def test_a_filter_names_variables_before_there_are_jobs(tmp_path: Path) -> None:
    """The variables that were declared are known, so that one may ask before adding each job whether it is there."""
    experiment = Experiment(["seed"], "e", tmp_path)
    assert [] == experiment.get_ids({"seed": 0}) == experiment.get_ids("seed < 3")
    with pytest.raises(FilterError, match="names 'sede', which is no variable; the variables are seed"):
        experiment.get_ids({"sede": 0})


def test_a_job_inside_of_a_job_is_another_one(tmp_path: Path) -> None:
    """Whatever their numbers: what is logged goes to the job that runs, and the outer one goes on."""
    experiments = [Experiment(["seed"], name, tmp_path) for name in ("outer", "inner")]
    for experiment in experiments:
        for seed in (1, 2):
            experiment.add_job({"seed": seed}, {})
        experiment.save()
        experiment.save_pass_filter([0, 1])
    outer, inner = experiments

    def fold(job_id: int, *_: Any) -> str:
        current_job().log_metrics(step=1, of_fold=float(job_id))
        return str(current_job().directory)

    def whole(*_: Any) -> list[Any]:
        job = current_job()
        found = [inner.run_id(number, fold) for number in (0, 1)]
        job.log_metrics(step=1, of_whole=1.0)
        assert current_job() is job
        return found

    assert [inner.folder.job(JobId(number)) for number in (0, 1)] == outer.run_id(0, whole)
    for experiment, number, name in ((outer, 0, "of_whole"), (inner, 0, "of_fold"), (inner, 1, "of_fold")):
        (line,) = Path(experiment.folder.job(JobId(number)), "metrics.1.jsonl").read_text().splitlines()
        assert name in line


@pytest.mark.parametrize("when", ["try", "pause"])
def test_ctrl_c_ends_a_job_whose_result_cannot_be_written(
    saved: Experiment, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """A disk that errs is asked again for minutes: nobody has to wait for that, and the record says what was lost."""
    saved.save_pass_filter([0])
    path = Path(saved.folder.of_attempt(JobId(0), 1, "result"))
    has_failed, n_tries = threading.Event(), 0

    def errs(name: str, *arguments: Any, **options: Any) -> None:
        nonlocal n_tries
        if name != str(path):
            return write_json(name, *arguments, **options)
        n_tries += 1
        if when == "try" and n_tries == 1:
            os.kill(os.getpid(), signal.SIGINT)
        if n_tries == 2:
            has_failed.set()
        raise OSError(errno.EIO, os.strerror(errno.EIO), name)

    def interrupt() -> None:
        has_failed.wait()
        if when == "pause":
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(reserve, "write_json", errs)
    monkeypatch.setenv("EXPERIMENT_MANAGER_PATIENCE_S", "20")
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    beside = threading.Thread(target=interrupt)
    beside.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            saved.run_id(0, lambda *_: 7)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        has_failed.set()
        beside.join()
        signal.signal(signal.SIGINT, ours)
    assert n_tries <= (1 if when == "try" else 3)
    assert "CANCELLED" == States(saved.folder).table().state(0)
    end = json.loads(Path(saved.folder.of_attempt(JobId(0), 1, "attempt")).read_text())
    assert f"stopped by a signal, before its result could be written to {path}" == end["reason"]
    assert not path.exists()


def warned_by_submitit(folder: Path) -> Callable[[int, FrameType | None], Any]:
    """Its handler in the process of a job: it has the task started again, and leaves."""
    env: Any = SimpleNamespace(global_rank=0, _requeue=lambda _: None)
    task: Any = SimpleNamespace(function=None, _timeout_min=60, _timeout_countdown=1)
    return SignalHandler(env, JobPaths(folder), task).checkpoint_and_try_requeue


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR2], ids=["ctrl-c", "submitit"])
@pytest.mark.parametrize(
    ("where", "has_returned"), [("claim", False), ("result", True), ("metrics", True), ("end", True)]
)
def test_a_signal_leaves_no_attempt_half_recorded(
    saved: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    has_returned: bool,
    number: signal.Signals,
) -> None:
    """Ctrl-C, and what submitit leaves by, whenever it comes: what was returned counts, nothing stays RUNNING, and this
    process is no job any more."""
    is_stop = number is signal.SIGINT
    state = "COMPLETED" if has_returned else "CANCELLED" if is_stop else "PREEMPTED"
    saved.save_pass_filter([0])
    owner, name = {
        "claim": (environment, "of_attempt"),
        "result": (in_process, "write_result"),
        "metrics": (CurrentJob, "settle_metrics"),
        "end": (States, "finish"),
    }[where]
    before = getattr(owner, name)

    def interrupted(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), number)
        return before(*arguments, **options)

    handler = signal.default_int_handler if is_stop else warned_by_submitit(tmp_path)
    ours = signal.signal(number, handler)  # a shell's `&` has INT ignored
    is_over = threading.Event()
    beside = threading.Thread(target=is_over.wait)  # as a notebook has some, which hears what this one does not
    beside.start()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, interrupted)
            with pytest.raises(KeyboardInterrupt if is_stop else SystemExit):
                saved.run_id(0, lambda *_: 7)
        assert not {JOB_VARIABLE, ATTEMPT_VARIABLE, FOLDER_VARIABLE}.intersection(os.environ)
    finally:
        is_over.set()
        beside.join()
        signal.signal(number, ours)
    assert state == States(saved.folder).table().state(0)
    if state == "COMPLETED":
        assert 7 == json.loads(Path(saved.folder.job(JobId(0)), "result.1.json").read_text())["result"]
