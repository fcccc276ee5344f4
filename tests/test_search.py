"""Searches: `hydra/sweeper=experiment_optuna`, whose trials are proposed where they run."""

import heapq
import json
import math
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from experiment_manager import Experiment
from experiment_manager.analysis.results import known_objective
from experiment_manager.errors import (
    FilterError,
    FolderError,
    GridError,
    OptionsError,
    UnknownJob,
)
from experiment_manager.execution import proposer as proposer_program
from experiment_manager.execution import study
from experiment_manager.execution.study import Proposer, Trial, check_sampler, proposed, require_optuna
from experiment_manager.hydra.compose import Composer
from experiment_manager.hydra.plan import Known
from experiment_manager.hydra.search_space import read_space
from experiment_manager.model.records import Attempt, Entry, JobId, Recipe, State
from experiment_manager.model.search import CATEGORICAL, FLOAT, INT, LAST, Choice, Dimension, Proposal, Search
from experiment_manager.scheduler import reconcile
from experiment_manager.scheduler.reconcile import reconciled
from experiment_manager.store.launches import create_launch
from experiment_manager.store.layout import Folder, planning
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.manifest_editor import editing
from experiment_manager.store.processes import this_process
from experiment_manager.store.proposals import leave_configuration, publish
from experiment_manager.store.states import StateTable
from tests.conftest import APP, Program, ProgramAfter, files_below, unpack, wait_until

SEARCH = ("hydra/sweeper=experiment_optuna", "hydra.sweeper.sampler.seed=1", "hydra.launcher.n_jobs=2")
SPACE = ("seed=interval(0,10)", "algorithm=choice(TD3,DDPG)")
FOUR = (*SEARCH, "hydra.sweeper.n_trials=4", *SPACE)
DIMENSIONS = (
    Dimension("lr", FLOAT, low=1e-5, high=0.1, log=True),
    Dimension("width", INT, low=16, high=64, step=16),
    Dimension("algorithm", CATEGORICAL, choices=(Choice("algorithm=TD3", "TD3"), Choice("algorithm=DDPG", "DDPG"))),
)
RECIPE = Recipe(
    Entry(sys.executable, (), ("train.py",), (), "/"), "config", (), (), "train", "train.py:main", "error", {}
)


def search(first: int, last: int, *, seed: int = 7, sampler: str = "tpe", **more: Any) -> Search:
    """A search that has these ids."""
    kept = check_sampler(sampler, {})
    return Search(((first, last),), DIMENSIONS, (), (), ("minimize",), (), kept, seed, 0.0, 1, "config")._replace(
        **more
    )


def beginning(path: Path, found: Search) -> Folder:
    """An experiment with a search, of which nothing is proposed yet."""
    folder = Folder(path, "train")
    with planning(folder), editing(folder) as editor:
        editor.set_variables(found.names)
        editor.add_recipe(RECIPE)
        editor.set_search(found)
    return folder


# -- the space ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    """Hydra, for the program of the tests."""
    with initialize_config_dir(str(APP / "conf"), version_base=None):
        loader = GlobalHydra.instance().config_loader()
        yield Composer(loader, loader.load_configuration("config", [], RunMode.MULTIRUN))


@pytest.mark.parametrize(
    ("written", "is_meant"),
    [
        ("tau=interval(0, 1)", Dimension("tau", FLOAT, low=0.0, high=1.0)),
        ("tau=tag(log, interval(1e-5, 0.1))", Dimension("tau", FLOAT, low=1e-5, high=0.1, log=True)),
        ("seed=int(interval(1, 9))", Dimension("seed", INT, low=1, high=9)),
        ("seed=tag(log, int(interval(4, 64)))", Dimension("seed", INT, low=4, high=64, log=True)),
        ("seed=range(1, 10, 2)", Dimension("seed", INT, low=1, high=9, step=2)),
        ("seed=range(1, 4)", Dimension("seed", INT, low=1, high=3, step=1)),
        ("tau=range(0.0, 1.0, 0.25)", Dimension("tau", FLOAT, low=0.0, high=0.75, step=0.25)),
        (
            "algorithm=choice(TD3, DDPG)",
            Dimension(
                "algorithm",
                CATEGORICAL,
                choices=(Choice("algorithm=TD3", "TD3"), Choice("algorithm=DDPG", "DDPG")),
            ),
        ),
        ("+new=interval(0, 1)", Dimension("new", FLOAT, "+", low=0.0, high=1.0)),
        (
            "text=null,1,1.0",
            Dimension(
                "text", CATEGORICAL, choices=(Choice("text=null", None), Choice("text=1", 1), Choice("text=1.0", 1.0))
            ),
        ),
    ],
)
def test_the_space_is_written_as_hydra_optuna_sweeper_has_it(
    composer: Composer, written: str, is_meant: Dimension
) -> None:
    """An interval, a range, with Hydra's end, and a choice are what they are to Hydra."""
    space = read_space(composer, {}, [written])
    assert (is_meant,) == space.dimensions
    assert is_meant == Dimension.read(json.loads(json.dumps(is_meant._asdict())))


def test_the_command_line_wins_over_params_and_what_has_one_value_is_fixed(composer: Composer) -> None:
    """A key has one meaning, the last one; all trials share what does not vary."""
    space = read_space(composer, {"tau": "interval(0, 1)", "seed": "range(1, 4)"}, ["tau=0.5", "~text"])
    assert ["seed"] == [dimension.key for dimension in space.dimensions]
    assert {"tau": "tau=0.5", "~text": "~text"} == {
        key: choice.text for key, choice in zip(space.fixed_keys, space.fixed, strict=True)
    }


def test_two_overrides_of_a_key_are_both_in_the_space(composer: Composer) -> None:
    """What is merged into a mapping takes nothing away, and has a name of its own; what replaces a value does."""
    space = read_space(composer, {}, ["algorithm=TD3,DDPG", "++algorithm={gain: 2}", "tau=1", "++tau=interval(0, 1)"])
    assert [("algorithm", ""), ("tau", "++")] == [(found.key, found.prefix) for found in space.dimensions]
    assert (("++algorithm",), "++algorithm={gain: 2}") == (space.fixed_keys, space.fixed[0].text)


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("tau=1", "the search has nothing to vary"),
        ("tau=interval(2, 1)", "write the smaller bound first"),
        ("tau=tag(log, interval(0, 1))", "begins above 0"),
        ("seed=range(3, 3)", "has no values"),
    ],
)
def test_a_space_without_values_is_refused(composer: Composer, written: str, why: str) -> None:
    """Nobody can draw from it."""
    with pytest.raises(GridError, match=why):
        read_space(composer, {}, [written])


def test_every_value_of_a_choice_is_found_again_by_its_label() -> None:
    """1, 1.0, true and "1" are four values, and lists are values, too."""
    values = [1, 1.0, True, "1", None, [1, 2]]
    one = Dimension("x", CATEGORICAL, choices=tuple(Choice(f"x={place}", value) for place, value in enumerate(values)))
    assert values == [one.setting(label).value for label in one.labels]
    assert [type(value) for value in values] == [type(one.setting(label).value) for label in one.labels]


# -- what is proposed --------------------------------------------------------------------------------------------------


def simulated(found: Search, count: int, at_a_time: int = 1) -> list[Trial]:
    """So many trials of a search, as many running at a time; the value of each is far from lr = 0.001 or not."""
    trials = list[Trial]()
    for slot in range(count):
        for place, trial in enumerate(trials[: max(0, slot - at_a_time + 1)]):
            value = abs(float(trial.proposal.values["lr"]) - 1e-3)
            trials[place] = trial._replace(state=State.COMPLETED, values=(value,))
        trials.append(Trial(proposed(found, trials, found.job_id(slot) or 0, ""), State.RUNNING, None))
    return trials


GRID = (*DIMENSIONS[1:], Dimension("lr", FLOAT, low=0.0, high=0.4, step=0.1))


@pytest.mark.parametrize("sampler", sorted(study.SAMPLERS))
def test_the_same_history_asks_the_same(sampler: str) -> None:
    """What is proposed depends on the search, the slot and the trials before, and on nothing else."""
    found = search(0, 19, sampler=sampler)
    if sampler == "grid":
        found = found._replace(dimensions=GRID)
    first = [trial.proposal for trial in simulated(found, 14, at_a_time=3)]
    assert first == [trial.proposal for trial in simulated(found, 14, at_a_time=3)]
    assert len(first) == len({proposal.overrides for proposal in first})
    assert len({proposal.values["algorithm"] for proposal in first}) == 2
    if sampler != "qmc":  # a sequence that is not scrambled is one for all seeds
        other = simulated(found._replace(seed=8), 14, at_a_time=3)
        assert first != [trial.proposal for trial in other]


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "nsgaii"])
def test_what_does_not_pass_is_drawn_again(sampler: str) -> None:
    """A filter of variables holds for every proposal, and one that nothing passes is told."""
    found = search(0, 19, sampler=sampler, pass_filter="lr < 0.001 and width != 32")
    trials = simulated(found, 12)
    assert all(trial.proposal.values["lr"] < 0.001 and trial.proposal.values["width"] != 32 for trial in trials)
    with pytest.raises(FilterError, match="none of 100 proposals has passed"):
        proposed(found._replace(pass_filter="lr > 1"), [], 0, "")


PLANE = tuple(Dimension(key, FLOAT, low=-5.0, high=5.0) for key in "xy")


def valley(values: Mapping[str, Any]) -> float:
    """A function of two values, 0 at (1, -2) and nowhere else."""
    return float((values["x"] - 1) ** 2 + 3 * (values["y"] + 2) ** 2 + (values["x"] - 1) * (values["y"] + 2))


def best_by_workers(seed: int, n_trials: int, n_workers: int) -> float:
    """The best of a search whose trials take times of a heavy tail, run by so many workers."""
    found, dice, trials = search(0, n_trials - 1, seed=seed, dimensions=PLANE), random.Random(seed), list[Trial]()
    running: list[tuple[float, int]] = []  # when which one ends
    now = 0.0
    while len(trials) < n_trials or running:
        while len(trials) < n_trials and len(running) < n_workers:
            heapq.heappush(running, (now + dice.paretovariate(1.2), len(trials)))
            trials.append(Trial(proposed(found, trials, len(trials), ""), State.RUNNING, None))
        now, slot = heapq.heappop(running)
        value = valley(trials[slot].proposal.values)
        trials[slot] = trials[slot]._replace(state=State.COMPLETED, values=(value,))
    return min(trial.values[0] for trial in trials if trial.values)


def best_by_one(seed: int, n_trials: int) -> float:
    """The best that Optuna itself finds, one trial after the other, with one sampler."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler: Any = optuna.samplers.TPESampler
    alone = optuna.create_study(sampler=sampler(seed=seed, multivariate=False))

    def objective(trial: optuna.Trial) -> float:
        return valley({key: trial.suggest_float(key, -5, 5) for key in "xy"})

    alone.optimize(objective, n_trials=n_trials)
    return alone.best_value


@pytest.mark.heavy
def test_eight_workers_find_what_one_process_finds() -> None:
    """Over 20 seeds, the logarithms of the best values after 200 trials differ in the mean by less than two standard
    errors of that difference, or the workers do better."""
    by_workers = [math.log10(best_by_workers(seed, 200, 8)) for seed in range(20)]
    by_one = [math.log10(best_by_one(seed, 200)) for seed in range(20)]
    worse = statistics.mean(by_workers) - statistics.mean(by_one)
    error = math.sqrt((statistics.variance(by_workers) + statistics.variance(by_one)) / 20)
    print(f"workers {statistics.mean(by_workers):.2f}, one process {statistics.mean(by_one):.2f}, error {error:.2f}")
    assert worse < 2 * error


@pytest.mark.parametrize("sampler", ["tpe", "nsgaii"])
def test_several_objectives(sampler: str) -> None:
    """Each trial has a value of each; generations of a genetic algorithm follow each other, whoever asks."""
    found = search(0, 39, sampler=sampler)._replace(directions=("minimize", "maximize"))
    if sampler == "nsgaii":
        found = found._replace(sampler={**found.sampler, "population_size": 4})
    trials = list[Trial]()
    for job_id in range(16):
        proposal = proposed(found, trials, job_id, "")
        values = (float(proposal.values["lr"]), float(proposal.values["width"]))
        trials.append(Trial(proposal, State.COMPLETED, values))
    generations = [value for key, value in trials[-1].proposal.attributes.items() if key.endswith("generation")]
    assert ([3] if sampler == "nsgaii" else []) == generations
    assert trials[-1].proposal == proposed(found, trials[:15], 15, "")
    assert study.made_study(found, trials).best_trials


SEEDS = Dimension("seed", CATEGORICAL, choices=tuple(Choice(f"seed={seed}", seed) for seed in (1, 2)))
NETS = Dimension("net", CATEGORICAL, choices=(Choice("net=a", "a"), Choice("net=b", "b")))


@pytest.mark.parametrize("sampler", ["tpe", "grid", "qmc"])
def test_a_trial_of_several_jobs(sampler: str) -> None:
    """They have each of the values that are averaged over, and share what is drawn once, by the means of others."""
    found = search(
        3, 30, sampler=sampler, averaged=(SEEDS, NETS), pass_filter=None if sampler != "tpe" else "lr < 0.05"
    )
    found = found._replace(dimensions=GRID) if sampler == "grid" else found
    assert (28, 7, 4) == (found.n_slots, found.n_trials, found.jobs_per_trial)
    assert Search.read(json.loads(json.dumps(found.body))) == found
    jobs = simulated(found, 27, at_a_time=5)
    assert [one.proposal for one in jobs] == [one.proposal for one in simulated(found, 27, at_a_time=5)]
    variables = [dict(one.proposal.variables) for one in jobs]
    own = [(one.pop("seed"), one.pop("net")) for one in variables]
    assert own == ([(1, "a"), (1, "b"), (2, "a"), (2, "b")] * 7)[:27]
    drawn = [json.dumps(one) for one in variables]
    assert [len(set(drawn[first : first + 4])) for first in range(0, 27, 4)] == [1] * 7
    assert 7 == len(set(drawn))
    trials = study.together(found, jobs)
    states = [trial.state for trial in trials]
    assert [State.COMPLETED] * 5 + [State.RUNNING] * 2 == states
    made = study.made_study(found, trials)
    assert [3, 7, 11] == [trial.user_attrs["job"] for trial in made.trials[:3]]
    assert [3, 4, 5, 6] == made.trials[0].user_attrs["jobs"]


def of_two(*jobs: tuple[State, float | None], **more: Any) -> Trial:
    """The trial that has these two jobs, or the first of them."""
    found = search(0, 1, averaged=(SEEDS,))
    made = list[Trial]()
    for job_id, (state, value) in enumerate(jobs):
        one = proposed(found, made, job_id, "")
        made.append(Trial(one, state, None if value is None else (value,), **(more if job_id else {})))
    (trial,) = study.together(found, made)
    return trial


def test_what_becomes_of_a_trial_of_several_jobs() -> None:
    """Its value is their mean when all have ended well; one that fails, or is pruned, decides; rungs are means."""
    done, runs = (State.COMPLETED, 1.0), (State.RUNNING, None)
    assert (State.COMPLETED, (2.0,)) == of_two(done, (State.COMPLETED, 3.0))[1:3]
    assert (State.PENDING, None) == of_two(done)[1:3]
    assert (State.RUNNING, None) == of_two(done, runs)[1:3]
    assert (State.PRUNED, None) == of_two(runs, (State.PRUNED, None))[1:3]
    assert (State.LOST, None) == of_two(done, (State.LOST, None))[1:3]
    failed = of_two(done, (State.FAILED, None))
    assert (State.FAILED, True, 1) == (failed.state, failed.has_failed, failed.job_to_show)
    silent = of_two(done, (State.COMPLETED, None), trouble="it returned NaN")
    assert (True, "it returned NaN", None) == (silent.has_failed, silent.trouble, silent.values)
    assert {1: 0.5, 2: 4.0} == of_two(done, runs, rungs={1: 0.5, 2: 4.0}).rungs


WORD = """defaults:
  - _self_
  - override hydra/sweeper: optuna
  - override hydra/sweeper/sampler: tpe
hydra:
  sweeper:
    sampler: {seed: 1, n_startup_trials: 2}
    direction: minimize
    n_trials: 3
    n_jobs: 1
    storage: null
    study_name: tuned
    max_failure_rate: 0.5
    params: {x: "interval(-5, 5)", y: "choice(1, 2)", +z: 3}
x: 0
y: 1
"""
PROGRAM = """
import hydra
@hydra.main(version_base="1.3", config_path=".", config_name="tuned")
def main(cfg):
    return cfg.x ** 2 + cfg.y + cfg.z
main()
"""


def test_a_program_of_hydra_optuna_sweeper_changes_one_word(program: Program) -> None:
    """It runs by either sweeper, with the same configuration but for that, and on Hydra's own launcher."""
    (program.home / "tuned.py").write_text(PROGRAM)
    for word in ("optuna", "experiment_optuna"):
        (program.home / "tuned.yaml").write_text(WORD.replace("sweeper: optuna", f"sweeper: {word}"))
        done = program.run("-m", script="tuned.py")
        assert 0 == done.returncode, done.stderr
    assert "hydra.sweeper.study_name=tuned is not used" in done.stderr
    found = Experiment.at(program.home / "experiments/tuned")
    assert {"COMPLETED": 3} == found.counts()
    assert all({"x", "y", "z"} == set(row["variables"]) for row in found.jobs())


def test_a_grid_is_gone_through_once() -> None:
    """In an order by chance, each point in one slot, however many ask at a time."""
    found = search(0, 39, sampler="grid")._replace(dimensions=GRID)
    assert 4 * 2 * 5 == study.n_of_grid(GRID)
    points = {tuple(trial.proposal.values.items()) for trial in simulated(found, 40, at_a_time=5)}
    assert 40 == len(points)


@pytest.mark.usefixtures("light")
def test_whoever_asks_at_the_same_time_gets_another_trial(tmp_path: Path) -> None:
    """Of several processes that propose, each slot is proposed once, and by one who knew all slots before it."""
    found = search(3, 42)
    folder = beginning(tmp_path, found)
    program = (
        "import sys\n"
        "from experiment_manager.execution.study import Nothing, Proposer\n"
        "from experiment_manager.store.layout import Folder\n"
        "proposer = Proposer(Folder.at(sys.argv[1]), sys.argv[2])\n"
        "while not isinstance(one := proposer.next(), Nothing):\n"
        "    print(one.job_id)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, folder.path, f"{number:04d}"], stdout=subprocess.PIPE, text=True
        )
        for number in (1, 2, 3)
    ]
    said = [process.communicate(timeout=60)[0].split() for process in processes]
    assert list(range(3, 43)) == sorted(int(job_id) for lines in said for job_id in lines)
    with Manifest(folder) as manifest:
        proposals = list(manifest.proposals())
    trials = list[Trial]()
    for proposal in proposals:
        assert proposal == proposed(found, trials, proposal.job_id, proposal.launch)
        trials.append(Trial(proposal, State.PENDING, None))


def test_an_id_that_a_search_has_reserved_is_nobody_elses(tmp_path: Path) -> None:
    """A program that has read the experiment before, and saves its own jobs after, is told to read it again."""
    experiment = Experiment(["x"], "train", tmp_path)
    experiment.add_job({"x": 0}, {"x": 0})
    experiment.save()
    slow = Experiment.load("train", tmp_path)
    slow.add_job({"x": 1}, {"x": 1})
    beginning(tmp_path, search(1, 3))
    with pytest.raises(FolderError, match=r"somebody else has added jobs 1 to .* meanwhile; run this again"):
        slow.save()
    with Manifest(experiment.folder) as manifest:
        assert [0] == manifest.ids()


def test_what_was_proposed_is_a_job_of_the_manifest_and_taken_up_when_that_is_written(tmp_path: Path) -> None:
    """Every reader sees rows and files as one; new jobs get ids after those that are reserved."""
    folder = beginning(tmp_path, search(0, 9))
    proposer = Proposer(folder, "0001")
    made = [proposer.next() for _ in range(3)]
    leave_configuration(folder, 1, {"lr": 0.5})

    def seen() -> Any:
        with Manifest(folder) as manifest:
            return (
                *(manifest.ids(), list(manifest.jobs()), list(manifest.index()), len(manifest), manifest.next_id),
                *(manifest.encoded_configuration(1), manifest.job(2), list(manifest.proposals())),
            )

    before = seen()
    assert ([0, 1, 2], 3, 10, {"lr": 0.5}, made) == (before[0], before[3], before[4], before[5], before[7])
    assert [True, False, True] == [job.fingerprint is None for job in before[1]]
    assert 10 == Known(folder).next_id
    with planning(folder), editing(folder):
        pass
    for name in os.listdir(folder.proposals):
        os.unlink(os.path.join(folder.proposals, name))
    assert before == seen()


def completed(folder: Folder, job_id: int) -> None:
    """The job has completed, as the names tell; its result is not there."""
    Path(folder.states).mkdir(exist_ok=True)
    for name in (f"{job_id}.1", f"{job_id}.1.COMPLETED"):
        Path(folder.states, name).touch()


def test_a_result_that_is_not_seen_yet_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system may show it a minute later than that the trial has ended: until then it counts as running."""
    folder = beginning(tmp_path, search(0, 9))
    proposer = Proposer(folder, "0001")
    assert isinstance(proposer.next(), Proposal)
    completed(folder, 0)
    assert isinstance(proposer.next(), Proposal)
    monkeypatch.setattr(study, "SEEN_S", 0.0)
    found = Proposer(folder, "0001").next()
    assert isinstance(found, study.Nothing)
    assert "1 of 1 trials that have ended have failed (job 0: it returned null" in found.why


def test_a_trial_that_went_on_has_the_values_of_its_whole_course(tmp_path: Path) -> None:
    """Its last value, and its best one, are those of all attempts of its course, whatever the last one has logged."""
    found = search(0, 9, metrics=(("loss", "best"), ("acc", LAST)), directions=("minimize", "maximize"))
    folder = beginning(tmp_path, found)
    attempts = [[(step, abs(step - 3), step / 10) for step in range(1, 6)], [(5, 9, 0.7)]]
    for number, lines in enumerate(attempts, start=1):
        os.makedirs(folder.job(0), exist_ok=True)
        Path(folder.of_attempt(0, number, "metrics")).write_text(
            "".join(
                json.dumps({"step": step, "time": 1.0, "values": {"loss": loss, "acc": acc}}) + "\n"
                for step, loss, acc in lines
            )
        )
    states = {1: State.PREEMPTED, 2: State.COMPLETED, 3: State.COMPLETED}
    for until, expected in ((2, (0.0, 0.7)), (3, (0.0, 0.7))):
        table = StateTable({JobId(0): {number: states[number] for number in range(1, until + 1)}}, ())
        assert (expected, None) == study.values_of(folder, found, table, 0, until)


def test_trials_that_run_again_are_no_failures(tmp_path: Path) -> None:
    """Whoever goes on with a search that has come to its end by failures, begins as many as may run at a time."""
    folder = beginning(tmp_path, search(0, 9))
    assert isinstance(Proposer(folder, "").next(), Proposal)
    Path(folder.states).mkdir()
    for name in ("0.1", "0.1.FAILED"):
        Path(folder.states, name).touch()
    assert isinstance(Proposer(folder, "").next(), study.Nothing)
    assert isinstance(Proposer(folder, "", again=[0]).next(), Proposal)
    launch = create_launch(folder, [Attempt(JobId(0), 2, State.PENDING)], {"launcher": "work", "search_from": 2})
    assert isinstance(Proposer(folder, launch.number).next(), Proposal)
    for name in ("0.2", "0.2.FAILED"):
        Path(folder.states, name).touch()
    assert isinstance(Proposer(folder, launch.number).next(), study.Nothing)


def test_a_proposer_that_could_not_begin_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What it met when it was started may be hours ago when it is asked."""
    Experiment(["x"], "train", tmp_path).save()

    def asked() -> Iterator[str]:
        beginning(tmp_path, search(0, 9))
        yield "\n"

    monkeypatch.setattr(sys, "stdin", asked())
    proposer_program.main(str(tmp_path / "train"), "0001")
    assert {"job": 0} == json.loads(capfd.readouterr().out)


def test_a_recipe_of_a_newer_manifest_is_asked_for_again(tmp_path: Path) -> None:
    """It is no damage that an older manifest does not have it."""
    with Manifest(beginning(tmp_path, search(0, 9))) as manifest, pytest.raises(UnknownJob, match="of recipe 2 run"):
        manifest.recipe(2)


def test_a_proposal_is_published_once(tmp_path: Path) -> None:
    """The first one that has the name of a slot keeps it."""
    folder = beginning(tmp_path, search(0, 9))
    one = Proposer(folder, "0001").next()
    assert isinstance(one, Proposal)
    before = files_below(Path(folder.proposals))
    assert not publish(folder, one._replace(launch="0002"))
    assert before == files_below(Path(folder.proposals))


def test_the_last_trial_that_begins_while_somebody_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits does not leave with states that are older than the last proposal."""
    folder, looks = beginning(tmp_path, search(0, 1, max_failure_rate=1.0)), list[StateTable]()

    def runs() -> None:
        one = Proposer(folder, "0001").next()
        assert isinstance(one, Proposal)
        completed(folder, one.job_id)

    def slow(*about: Any, **more: Any) -> StateTable:
        looks.append(reconciled(*about, **more))
        if len(looks) == 1:
            runs()
        return looks[-1]

    runs()
    monkeypatch.setattr(reconcile, "reconciled", slow)
    table = reconcile.wait_until_idle(folder)
    assert {0, 1} == table.attempts.keys()


def test_nobody_waits_for_a_search_that_nobody_here_knows_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials are left, and whoever ran the search is on another machine of this name, or was before this one was
    started anew: who waits for the end leaves after ten minutes. A process that surely is there is waited for."""
    folder, looks = beginning(tmp_path, search(0, 3)), list[float]()
    launch = create_launch(folder, [], {})
    driver = Path(folder.join("launches", launch.number, "driver.json"))
    for name in ("_PROPOSES_S", "_PASSES_S"):
        monkeypatch.setattr(reconcile, name, 0.0)

    def look(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            driver.write_text(json.dumps({**this_process(), "boot": "another"}))
        assert 5 > len(looks), "who waits does not leave"

    monkeypatch.setattr(time, "sleep", look)
    assert {} == reconcile.wait_until_idle(folder).attempts
    assert len(looks) >= 3


def test_an_optuna_that_is_too_old_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also who else asks for an older one."""
    has = {"optuna": "2.10.1", "hydra-optuna-sweeper": "1.3.0"}
    monkeypatch.setattr(study, "version", has.__getitem__)
    with pytest.raises(OptionsError) as caught:
        require_optuna(needed_by="a search")
    assert (
        "a search needs Optuna 4.9 or newer, and this is 2.10.1; install it with `pip install 'optuna>=4.9'` "
        "(hydra-optuna-sweeper 1.3.0 asks for an older one, and runs with this one, too)"
    ) == str(caught.value)


# -- with a program ----------------------------------------------------------------------------------------------------


def values(program: Program) -> dict[int, dict[str, Any]]:
    """The variables of each job."""
    return {row["job"]: row["variables"] for row in program.told("jobs")}


def test_a_search_runs_each_trial_once_and_the_same_command_goes_on(program_after: ProgramAfter) -> None:
    """With more trials it goes on from where it was, and what a grid adds gets other ids."""
    program = program_after(*FOUR)
    assert [f"{job}.1.COMPLETED" for job in range(4)] == program.states()
    first = values(program)
    assert all(0 <= one["seed"] <= 10 for one in first.values())
    again = program.sweep(*SEARCH, "hydra.sweeper.n_trials=5", *SPACE)
    assert 0 == again.returncode, again.stderr
    assert [f"{job}.1.COMPLETED" for job in range(5)] == program.states()
    assert first == {job: values(program)[job] for job in range(4)}
    results = [row["result"]["result"] for row in program.told("results")]
    assert f"best of 5: {min(results):.6g} by job {results.index(min(results))} (" in again.stderr
    assert 0 == program.sweep("seed=1").returncode
    assert {"seed": 1} == values(program)[5]


def test_a_search_by_the_means_over_seeds(program: Program) -> None:
    """Each trial has a job for each seed, all are told of as trials of that many, and the same command goes on."""
    options = (*SEARCH, "hydra.sweeper.average_over=[seed]", "seed=1,3", "tau=interval(0,1)")
    plan = program.sweep(*options, "hydra.sweeper.n_trials=2", "hydra.sweeper.dry_run=true")
    assert "a new search of 2 trials of 2 jobs each, minimize by tpe" in plan.stdout, plan.stderr
    assert "seed  each one of 1, 3, whose mean counts" in plan.stdout
    done = program.sweep(*options, "hydra.sweeper.n_trials=2")
    assert 0 == done.returncode, done.stderr
    assert (
        "a search of 2 trials of 2 jobs each, minimize by tpe; 2 jobs to run, 2 are proposed as others" in done.stderr
    )
    assert "best of 2: 3 by jobs 0-1 (tau=" in done.stderr
    again = program.sweep(*options, "hydra.sweeper.n_trials=3")
    assert (0, [f"{job}.1.COMPLETED" for job in range(6)]) == (again.returncode, program.states()), again.stderr
    assert [(1, 0), (3, 0), (1, 1), (3, 1), (1, 2), (3, 2)] == [
        (one["seed"], list(dict.fromkeys(other["tau"] for other in values(program).values())).index(one["tau"]))
        for one in values(program).values()
    ]
    made = Experiment.at(program.experiment).study()
    assert [3.0] * 3 == [trial.value for trial in made.trials]
    told = program.told("search")
    assert (3, 3, 3, 2, 0) == tuple(
        told[name] for name in ("n_trials", "n_proposed", "n_ended", "jobs_per_trial", "best_job")
    )
    assert "search: 3 of 3 trials have ended; best 3 by jobs 0-1" in program.tool("status").stdout
    other = program.sweep(*SEARCH, "seed=1,3", "tau=interval(0,1)")
    assert "seed was choice(1, 3), averaged and is choice(1, 3)" in other.stderr
    assert "0 of 4 trials" not in program.tool("search", "--more", "1").stdout
    assert 2 == Experiment.at(program.experiment).status().search.jobs_per_trial  # type: ignore[union-attr]
    assert 0 == program.tool("work").returncode
    assert [f"{job}.1.COMPLETED" for job in range(8)] == program.states()


@pytest.mark.usefixtures("light")
def test_tables_go_by_what_the_search_goes_by(program: Program) -> None:
    """What a search averages over repeats a job, in a report and in a comparison, too, and single jobs are not told as
    its trials; a report names all jobs of the best one."""
    options = (*SEARCH, "hydra.sweeper.average_over=[algorithm]", "algorithm=TD3,DDPG", "tau=interval(0,1)")
    done = program.sweep(*options, "hydra.sweeper.n_trials=2", "hydra.sweeper.metric={name: loss, take: best}")
    assert 0 == done.returncode, done.stderr
    experiment = Experiment.at(program.experiment)
    objective = known_objective(experiment.folder)
    assert ({"loss": "min"}, ("algorithm",)) == (objective.goals, objective.averaged)
    page = " ".join(Path(experiment.report()).read_text().split())
    assert "that differ in algorithm only" in page
    assert re.search(r"the best value is [\d.]+, by jobs (0-1|2-3)\.", page)
    assert ("algorithm",) == experiment.compare().over
    said = program.tool("results", "--best", "1").stderr
    assert "the search goes by means over algorithm, and these are single jobs; --group-by tau compares" in said


def test_a_search_that_is_another_one_is_refused(program_after: ProgramAfter) -> None:
    """One folder has one search: people are told in what the other is another one."""
    program = program_after(*FOUR)
    before = files_below(program.experiment)
    done = program.sweep(*SEARCH, "hydra.sweeper.direction=maximize", "seed=interval(0,11)", *SPACE[1:])
    assert 2 == done.returncode
    assert "has another search: direction was minimize and is maximize; seed was interval(0.0, 10.0)" in done.stderr
    assert before == files_below(program.experiment)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["hydra.sweeper.n_trials=0", *SPACE], "hydra.sweeper.n_trials=0 tries nothing"),
        (["hydra.sweeper.direction=down", *SPACE], "hydra.sweeper.direction=down is not known"),
        (["hydra.sweeper.max_failure_rate=2", *SPACE], "max_failure_rate=2.0 is no rate"),
        (["hydra/sweeper/sampler=motpe", *SPACE], "hydra/sweeper/sampler=MOTPESampler is not known"),
        (["hydra/sweeper/sampler=grid", *SPACE], "seed=interval(0.0, 10.0) has no list of values"),
        (
            ["hydra/sweeper/sampler=cmaes", "hydra.sweeper.direction=[minimize,maximize]", *SPACE],
            "hydra/sweeper/sampler=cmaes has one objective",
        ),
        (["hydra.sweeper.pass_filter='cfg.seed < 1'", *SPACE], "a proposal has nothing but its variables yet"),
        (["hydra.sweeper.pass_filter='seed > 10'", *SPACE], "none of 100 proposals has passed"),
        (["hydra.sweeper.pass_filter='sed > 1'", *SPACE], "sed"),
        (["hydra.sweeper.metric=[a,b]", *SPACE], "hydra.sweeper.metric names 2, and hydra.sweeper.direction 1"),
        (["hydra/launcher=slurm_script", *SPACE], "hydra.launcher.workers=8"),
        (["hydra/launcher=joblib", *SPACE], "hydra/launcher=joblib runs a list of jobs, and a search has none"),
        (["seed=1"], "the search has nothing to vary"),
        (["hydra.sweeper.average_over=[seed]", "seed=1,2"], "the search has nothing to vary"),
        (
            ["hydra.sweeper.average_over=[sed]", *SPACE],
            "has sed, which the search does not vary (it varies seed, algorithm)",
        ),
        (["hydra.sweeper.average_over=seed", *SPACE], "has no list of values, which hydra.sweeper.average_over goes"),
        (["hydra.sweeper.average_over=[1]", *SPACE], "hydra.sweeper.average_over=[1] is no list of variables"),
        (
            [
                *("hydra.sweeper.average_over=[algorithm]", "hydra.sweeper.metric=loss"),
                *("hydra.sweeper.pruner={name: asha, group_by: [algorithm]}", *SPACE),
            ],
            "hydra.sweeper.pruner groups by the same variable; leave one of them out",
        ),
        (
            ["hydra.sweeper.metric=loss", "hydra.sweeper.pruner={name: asha, group_by: [task]}", *SPACE],
            "'task' is no variable; the variables are seed, algorithm",
        ),
        (["sed=interval(0, 1)"], "sed"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    program: Program, arguments: Sequence[str], why: str
) -> None:
    """With one sentence; a key that the configuration does not have, as Hydra says it."""
    done = program.sweep("hydra/sweeper=experiment_optuna", *arguments)
    assert done.returncode in (1, 2)
    assert why in done.stderr
    assert "Traceback" not in done.stderr
    assert not program.experiment.exists()


@pytest.mark.usefixtures("light")
def test_a_misspelt_metric_costs_no_trial(program: Program) -> None:
    """A search whose trials have completed without its metric does not go on by the same command, says so, and names a
    search of its own that begins with what they have found; `show` says that the trial has failed, and why."""
    options = (*SEARCH, "hydra.sweeper.n_trials=2", "hydra.launcher.n_jobs=2", SPACE[0])
    said = program.sweep(*options, "hydra.sweeper.metric=lss").stderr
    warm = "hydra.sweeper.warm_start=experiments/train"
    assert "the same command runs nothing more: hydra.sweeper.max_failure_rate=1 goes on all the same" in said
    assert warm in said
    assert "the same command goes on" not in said
    why = "neither its result nor what it has logged has lss"
    assert f"a failure to its search: {why}\n" in program.tool("show", "0").stdout
    assert why == program.told("show", "0")["trouble"]
    refused = program.sweep(*options, "hydra.sweeper.metric=loss")
    assert (2, True) == (refused.returncode, warm in refused.stderr)
    done = program.sweep(*options, "hydra.sweeper.metric=loss", warm, "hydra.sweeper.experiment_name=next")
    assert (0, True) == (done.returncode, "begins with what 2 jobs of experiments/train have found" in done.stderr)


@pytest.mark.usefixtures("light")
def test_a_search_ends_when_too_many_trials_fail(program: Program) -> None:
    """None of them is proposed any more, and people are told which option decides; the same command goes on."""
    done = program.sweep(*SEARCH, "hydra.launcher.n_jobs=1", "hydra.sweeper.n_trials=3", "how=raise", SPACE[0])
    assert 1 == done.returncode
    assert ["0.1.FAILED"] == program.states()
    assert (
        "1 of 1 trials that have ended have failed (job 0: FAILED), more than hydra.sweeper.max_failure_rate=0.0"
        in (done.stderr)
    )


@pytest.mark.usefixtures("light")
def test_a_search_is_given_more_trials_stopped_and_helped(program_after: ProgramAfter) -> None:
    """`search --more` reserves ids, whoever works on the experiment proposes them, and after `--stop` nobody does."""
    program = program_after(*FOUR)
    assert 2 == program.tool("search", "--more", "0").returncode
    more = program.tool("search", "--more", "2")
    assert "search: 4 of 6 trials have ended, 2 are not proposed yet; best" in more.stdout
    worked = program.tool("work", "--jobs", "2")
    assert (0, False) == (worked.returncode, "taken by others" in worked.stdout), worked.stderr
    assert [f"{job}.1.COMPLETED" for job in range(6)] == program.states()
    assert {"n_trials": 6, "n_ended": 6}.items() <= program.told("search").items()
    program.tool("search", "--more", "9")
    assert "has stopped the search" in program.tool("search", "--stop").stdout
    assert "had been stopped before" in program.tool("search", "--stop").stdout
    assert "nothing to run" in program.tool("work").stdout
    experiment = Experiment.at(program.experiment)
    assert {"result": "min"} == known_objective(experiment.folder).goals
    assert 0 == program.tool("archive", "--out", "train.tar.gz").returncode
    unpack(program.home / "train.tar.gz", program.home / "elsewhere")
    study = Experiment.at(program.home / "elsewhere/train").study()
    assert list(range(6)) == [trial.user_attrs["job"] for trial in study.trials]
    assert program.told("search")["best"] == study.best_value


@pytest.mark.usefixtures("light")
def test_a_search_begins_with_what_another_experiment_has_found(program_after: ProgramAfter) -> None:
    """A job counts whose variables lie in the space; where none does, people are told, and nothing is written."""
    program = program_after(*FOUR)
    warm = ("hydra.sweeper.warm_start=experiments/train", "hydra.sweeper.experiment_name=next")
    space = ("seed=interval(0,9)", SPACE[1])
    done = program.sweep(*SEARCH, *warm, "hydra.sweeper.n_trials=1", *space)
    assert 0 == done.returncode, done.stderr
    seeds = [one["seed"] for one in values(program).values() if one["seed"] <= 9]
    trials = Experiment.at(program.experiment.with_name("next")).study().trials
    assert [*seeds] == [trial.params["seed"] for trial in trials if trial.user_attrs.get("warm_start")]
    assert 1 + len(seeds) == len(trials)
    refused = program.sweep(*SEARCH, *warm, "hydra.sweeper.experiment_name=other", "tau=interval(0,1)")
    assert (2, True) == (refused.returncode, "none of the 4 jobs" in refused.stderr)
    assert not program.experiment.with_name("other").exists()


LEARNS = """
    for step in range(1, 5):
        current_job().log_metrics(step=step, loss=cfg.tau)
        if current_job().should_stop():
            return None
    return {"loss": cfg.tau}
"""


@pytest.mark.usefixtures("light")
def test_trials_that_do_worse_are_pruned_and_known_as_such(program: Program) -> None:
    """The pruner of a grid ends trials of a search, too, also those that were proposed later; the study has what they
    had at each rung, and the best one has run to its end."""
    text = (program.home / "train.py").read_text()
    (program.home / "train.py").write_text(text.replace("    end_as_told(cfg.how)\n", LEARNS, 1))
    pruner = "hydra.sweeper.pruner={name: asha, reduction_factor: 2}"
    arguments = ("hydra/sweeper/sampler=random", pruner, "hydra.sweeper.metric=loss", "tau=interval(0,1)")
    done = program.sweep(*SEARCH, *arguments, "hydra.sweeper.n_trials=5", "hydra.launcher.n_jobs=1")
    assert 0 == done.returncode, done.stderr
    found = Experiment.at(program.experiment)
    trials = found.study().trials
    pruned = [trial for trial in trials if trial.state.name == "PRUNED"]
    assert pruned
    assert {"COMPLETE", "PRUNED"} == {trial.state.name for trial in trials}
    assert all({2: trial.params["tau"]}.items() <= trial.intermediate_values.items() for trial in trials)
    search = found.status().search
    assert search is not None
    assert (5, len(pruned), min(trial.params["tau"] for trial in trials)) == (
        search.n_ended,
        search.n_pruned,
        search.best,
    )


def proposers(program: Program) -> list[int]:
    """The processes that propose trials of the experiment."""
    found = []
    for place in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            words = (place / "cmdline").read_bytes().split(b"\0")
            if b"experiment_manager.execution.proposer" in words and os.fsencode(program.experiment) in words:
                found.append(int(place.name))
    return found


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_search_whose_proposer_hangs_ends_when_it_is_told(program: Program, number: signal.Signals) -> None:
    """Who waits for a trial hears a signal all the same, ends, and leaves no process; the same command goes on."""
    arguments = [*SEARCH, "hydra.sweeper.n_trials=8", "sleep=0.5", *SPACE]
    sweep = program.start("train.py", "-m", *arguments)
    wait_until(lambda: (program.experiment / "states/1.1.RUNNING").exists())
    hung = wait_until(lambda: len(found := proposers(program)) == 2 and found)
    try:
        for pid in hung:
            os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: len(states := program.states()) > 1 and all(name.endswith("COMPLETED") for name in states))
        sweep.send_signal(number)
        sweep.communicate(timeout=30)
        assert 128 + number == sweep.returncode
        assert [] == proposers(program)
    finally:
        for pid in set(hung).intersection(proposers(program)):
            os.kill(pid, signal.SIGKILL)
        sweep.kill()
    assert 0 == program.sweep(*arguments).returncode
    completed = [name for name in program.states() if name.endswith("COMPLETED")]
    assert [str(job) for job in range(8)] == sorted(name.split(".")[0] for name in completed)


@pytest.mark.usefixtures("light")
def test_processes_that_are_killed_cost_no_trial(program: Program) -> None:
    """A worker and the proposers are killed in the middle: another worker goes on, each trial completes once, and the
    same command runs what nobody is left to run."""
    arguments = [*SEARCH, "hydra.sweeper.n_trials=6", "sleep=0.5", *SPACE]
    sweep = program.start("train.py", "-m", *arguments)
    wait_until(lambda: (program.experiment / "states/1.1.RUNNING").exists())
    for pid in wait_until(lambda: len(found := proposers(program)) == 2 and found):
        os.kill(pid, signal.SIGKILL)
    anchor = json.loads((program.experiment / "states/1.1").read_text())
    os.kill(anchor["pid"], signal.SIGKILL)
    _, said = sweep.communicate(timeout=120)
    assert 1 == sweep.returncode, said
    assert ["1.1.LOST"] == [name for name in program.states() if not name.endswith("COMPLETED")]
    done = program.sweep(*arguments)
    assert 0 == done.returncode, done.stderr
    completed = [name for name in program.states() if name.endswith("COMPLETED")]
    assert [str(job) for job in range(6)] == sorted(name.split(".")[0] for name in completed)
