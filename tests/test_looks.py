"""A look at what is there that a file system refuses: nothing is concluded from it, by whoever looks."""

import itertools
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from experiment_manager import Experiment
from experiment_manager.analysis.results import without_results
from experiment_manager.errors import AlreadyCompleted, ExperimentManagerError, NotOverYet
from experiment_manager.experiment import find_experiments
from experiment_manager.hydra.frozen_config import Origin, read_origins
from experiment_manager.model.records import State
from experiment_manager.scheduler import reconcile, submission
from experiment_manager.scheduler.reconcile import wait_until_idle
from experiment_manager.scheduler.scripts import options_of
from experiment_manager.scheduler.submission import launched_arrays
from experiment_manager.store import processes
from experiment_manager.store.code import read_code
from experiment_manager.store.launches import read_launch
from experiment_manager.store.layout import Folder
from experiment_manager.store.results import write_result
from experiment_manager.store.states import States
from experiment_manager.store.working_trees import are_one_file
from experiment_manager.text import all_skipped
from experiment_manager.trust import open_to_anybody
from tests.conftest import erring
from tests.test_provenance import git


def snapshot(place: Path) -> object:
    """What a copy of the code has."""
    home = place / "home"
    if not home.exists():
        (home / "lib").mkdir(parents=True)
        for name in ("train.py", "lib/model.py"):
            (home / name).write_text(name)
        (home / "data").symlink_to("lib")
        git(home, "init", "-q")
        git(home, "add", ".")
    return read_code(Folder(place, "e"), str(home / "train.py"), str(home), str(home / "train.py"))


def configuration(place: Path) -> object:
    """What a frozen copy of YAML has."""
    conf = place / "conf"
    (conf / "algorithm").mkdir(parents=True, exist_ok=True)
    for name in ("config.yaml", "algorithm/TD3.yaml", "algorithm/vocabulary.txt"):
        (conf / name).write_text(name)
    return read_origins(Folder(place, "e"), [Origin("main", f"file://{conf}", str(conf))]).trees


def archived(place: Path) -> object:
    """What an archive has: nothing that a link of others leads to."""
    if not (place / "e").exists():
        experiment = Experiment(["seed"], "e", place)
        experiment.add_job({"seed": 1}, {})
        experiment.save()
        experiment.save_pass_filter([0])
        experiment.run_id(0, lambda *_: 7)
        (place / "secrets").mkdir()
        (place / "secrets/key.txt").touch()
        Path(experiment.folder.join("notes")).symlink_to(place / "secrets")
    out = place / "e.tar.gz"
    out.unlink(missing_ok=True)
    Experiment.at(place / "e").archive(str(out))
    with tarfile.open(out) as file:
        return file.getnames()


def trusted(place: Path) -> object:
    """Who may change what is behind a link."""
    (place / "open").mkdir(exist_ok=True)
    (place / "open").chmod(0o777)
    (place / "open/code").mkdir(exist_ok=True)
    place.chmod(0o755)
    if not (place / "link").is_symlink():
        (place / "link").symlink_to("open/code")
    return open_to_anybody(str(place / "link"))


def one_program(place: Path) -> object:
    """Whether a script is the same in a clone."""
    one, other = place / "one", place / "other"
    if not one.exists():
        one.mkdir()
        (one / "train.py").touch()
        git(one, "init", "-q")
        git(one, "add", ".")
        git(one, "commit", "-q", "-m", "first")
        git(place, "clone", "-q", str(one), str(other))
    return are_one_file(str(one / "train.py"), str(other / "train.py"))


def listed(place: Path) -> object:
    """Which experiments there are."""
    if not (place / "mine").exists():
        Experiment(["seed"], "e", place / "elsewhere").save()
        (place / "mine").mkdir()
        (place / "mine/link").symlink_to(place / "elsewhere")
    return [found.folder.path for found in find_experiments(place / "mine")]


def ended(place: Path) -> object:
    """Whether an attempt without a state has ended elsewhere, where a listing does not show it yet."""
    states = States(Folder(place, "e"))
    anchor = place / "e/states/0.1"
    if not anchor.exists():
        states.claim(0, {})
        os.link(anchor, place / "COMPLETED")
        os.unlink(f"{anchor}.RUNNING")
    return states.end(0, 1, State.LOST), sorted(os.listdir(place / "e/states"))


def to_submit(place: Path) -> object:
    """Which script is submitted, the one that somebody has edited; and with which options others are written."""
    folder = Folder(place, "e")
    if not Path(folder.path).exists():
        experiment = Experiment(["seed"], "e", place)
        experiment.add_job({"seed": 1}, {})
        experiment.save()
        experiment.save_pass_filter([0])
        (place / "runner.py").touch()
        (script,) = experiment.generate_slurm_script(str(place / "runner.py"), overrides={"mem_gb": 7})
        with open(script, "a") as file:
            file.write("# mine\n")
    launch = read_launch(folder, "0001")
    (array,) = launched_arrays(launch)
    return submission._script(folder, launch, array, is_kept=False), options_of(folder, None)


def left(place: Path) -> object:
    """What became of an attempt whose supervisor was killed once its job had left a whole result; and whether it may be
    run again, where its end says so."""
    folder, states = Folder(place, "e"), States(Folder(place, "e"))
    for path in (place / "e/states", place / "e/jobs/0"):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    states.claim(0, {})
    write_result(folder, 0, 1, 7)
    (place / "e/states/0.1").write_text(json.dumps({**processes.this_process(), "started_ticks": 1}))
    try:
        states.claim(0, {})
    except AlreadyCompleted:
        return states.state(0, 1)
    return "run again"


def resultless(place: Path) -> object:
    """Which jobs have completed and lack their folder, or their result."""
    if not (place / "e").exists():
        experiment = Experiment(["seed"], "e", place)
        for seed in range(3):
            experiment.add_job({"seed": seed}, {})
        experiment.save()
        experiment.save_pass_filter([0, 1, 2])
        for job_id in range(3):
            experiment.run_id(job_id, lambda *_: 7)
        shutil.rmtree(place / "e/jobs/1")
        (place / "e/jobs/2/result.1.json").unlink()
    experiment = Experiment.at(place / "e")
    findings = [(found.jobs, found.what) for found in experiment.doctor() if found.kind == "results"]
    rows = experiment.result_rows()
    return findings, experiment.status().warnings, without_results(experiment.folder, rows)


@pytest.mark.parametrize(
    ("look", "names"),
    [
        (snapshot, ["train.py", "model.py", "data", "home"]),
        (configuration, ["conf", "algorithm", "TD3.yaml", "vocabulary.txt", "config.yaml"]),
        (archived, ["notes", "0", "jobs", "0.1", "result.1.json", "manifest.sqlite", "states"]),
        (trusted, ["link", "open", "code"]),
        (one_program, [".git", "config", "one", "other"]),
        (listed, ["mine", "link", "e", "manifest.sqlite"]),
        (to_submit, ["slurm_scripts.sh", "launch.json", "0001", "launches"]),
        (left, ["result.1.json", "attempt.1.json", "0", "0.1", "0.1.RUNNING"]),
        (resultless, ["jobs", "0", "1", "2", "result.1.json", "attempt.1.json"]),
        (ended, ["states", "0.1", "0.1.RUNNING"]),
    ],
)
def test_nothing_is_concluded_from_a_look_that_failed(
    look: Callable[[Path], object],
    names: list[str],
    reachable: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whichever look a server refuses once, the answer is that of any other day, or an error; where it goes on to err,
    people may be told, too, what cannot be looked at."""
    expected = look(reachable)
    all_skipped()
    for name, (most, patience) in itertools.product(names, [(1, "0.5"), (1_000_000, "0")]):
        monkeypatch.setenv("EXPERIMENT_MANAGER_PATIENCE_S", patience)
        for after in itertools.count():
            capsys.readouterr()
            found, said = None, ""
            with monkeypatch.context() as patch:
                failed = erring(patch, name, most=most, after=after)
                try:
                    found = look(reachable)
                except (ExperimentManagerError, OSError) as error:
                    said = str(error)
            if not failed:
                break
            if all_skipped() and most > 1:
                said += capsys.readouterr().err
            assert found == expected or "Stale file handle" in said, (name, after)


def test_an_end_that_the_disk_does_not_give(
    reachable: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An attempt whose process is gone stays RUNNING while nobody can read what it has left: people are told, with the
    way out, nobody waits for it, it is not told to end, and the other jobs are run."""
    experiment = Experiment(["seed"], "e", reachable)
    for seed in (1, 2):
        experiment.add_job({"seed": seed}, {})
    experiment.save()
    experiment.save_pass_filter([0, 1])
    states = States(experiment.folder)
    states.claim(0, {})
    Path(experiment.folder.states, "0.1").write_text(json.dumps({**processes.this_process(), "started_ticks": 1}))
    os.makedirs(experiment.folder.job(0), exist_ok=True)
    Path(experiment.folder.of_attempt(0, 1, "result")).write_text('{"result": 7, "told": false}')
    monkeypatch.setenv("EXPERIMENT_MANAGER_PATIENCE_S", "0")
    with monkeypatch.context() as patch:
        assert erring(patch, "result.1.json", most=1_000_000) == []
        assert State.RUNNING is wait_until_idle(experiment.folder).state(0)
        said = capsys.readouterr().err
        assert "result.1.json cannot be read: Stale file handle" in said
        assert f"rename {experiment.folder.states}/0.1.RUNNING to end in .LOST" in said
        assert [] == experiment.cancel()
        with pytest.raises(NotOverYet, match="job 0 is not run again, since it may have completed"):
            states.claim(0, {})
        assert 1 == states.claim(1, {})
    with pytest.raises(AlreadyCompleted):
        states.claim(0, {})


def test_a_job_that_ends_while_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits until nothing runs tells of a job whose process ends after its state was read how it has ended."""
    experiment = Experiment(["seed"], "e", tmp_path)
    experiment.add_job({"seed": 1}, {})
    experiment.save()
    folder, states = experiment.folder, States(experiment.folder)
    states.claim(0, {})
    tables = [states.table()]
    states.end(0, 1, State.COMPLETED)
    Path(folder.states, "0.1").write_text(json.dumps({**processes.this_process(), "started_ticks": 1}))
    monkeypatch.setattr(reconcile, "reconciled", lambda *_, **__: tables.pop() if tables else states.table())
    assert State.COMPLETED is wait_until_idle(folder).state(0)
