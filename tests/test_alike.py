"""Jobs that their variables show wrongly: a mean of those that differ in their configurations alone says so, keys of
configurations can be named, and one configuration counts once."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from experiment_manager import Experiment
from experiment_manager.analysis.alike import Mixed, counted_once, jobs_again, mixing
from experiment_manager.errors import ExperimentManagerError
from experiment_manager.model.records import Job, JobId
from experiment_manager.store.manifest import Manifest
from tests.conftest import Prepared, Program


@pytest.fixture(scope="module")
def two_configurations(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Jobs 0-1 are of TD3, jobs 2-3 of DDPG, and jobs 4-5 of DDPG with another tau; all have the seed alone as a
    variable. So they are after an edit and `on_change=new`, and after another `--config-name`."""
    program = Prepared(tmp_path_factory.mktemp("swept"), ["seed=1,2"]).again()
    program.edit("algorithm: TD3", "algorithm: DDPG")
    assert 0 == program.sweep("seed=1,2", "hydra.sweeper.on_change=new", LIGHT="1").returncode
    other = (program.home / "conf/config.yaml").read_text().replace("0.005", "0.5")
    (program.home / "conf/other.yaml").write_text(f"{other}api_key: s3cret\nuse-amp: true\n")
    assert 0 == program.sweep("--config-name=other", "seed=1,2", "hydra.sweeper.experiment_name=train").returncode
    return program


def rows_of(program: Program, *words: str) -> tuple[list[Any], str]:
    done = program.tool("results", "--format", "json", *words)
    assert 0 == done.returncode, done.stderr
    return json.loads(done.stdout), done.stderr


def test_a_mean_over_different_configurations_says_so(two_configurations: Program) -> None:
    """Nothing is split that nobody has asked to split: groups and columns are of variables. One line says which jobs
    of one mean differ in their configurations, and in what, without values; not where they are in different groups."""
    rows, said = rows_of(two_configurations, "--group-by", "seed", "--aggregate", "count")
    assert [{"seed": 1, "count": 3}, {"seed": 2, "count": 3}] == rows
    (line,) = [line for line in said.splitlines() if "mix" in line]
    assert re.search(r"means mix jobs that differ in .* and \d more \(jobs 0-1; jobs 2-3; jobs 4-5\): ", line)
    assert "s3cret" not in said
    assert "api_key" not in said
    names = re.search(r"--group-by (\S+) keeps them apart", line)
    assert names is not None
    rows, said = rows_of(two_configurations, "--group-by", names[1], "--aggregate", "count")
    assert [1] * 6 == [row["count"] for row in rows]
    assert "mix" not in said
    _, said = rows_of(two_configurations, "--group-by", "seed", "--where", "cfg.tau == 0.5")
    assert "mix" not in said
    rows, said = rows_of(two_configurations)
    assert not any(name.startswith("cfg.") for row in rows for name in row)
    assert "differ" not in said


def test_keys_of_configurations_are_named(two_configurations: Program) -> None:
    """Any key makes groups and columns, and sorts, whatever jobs are chosen and also where all have one value; a job
    that lacks it has an empty cell; one that no job has is refused."""
    rows, _ = rows_of(two_configurations, "--columns", "job,cfg.use-amp,cfg.algorithm.gain")
    assert [None] * 4 + [True] * 2 == [row["cfg.use-amp"] for row in rows]
    assert [1.5, 1.5, 0.5, 0.5, 0.5, 0.5] == [row["cfg.algorithm.gain"] for row in rows]
    rows, _ = rows_of(two_configurations, "--sort", "-cfg.tau", "--columns", "job,cfg.tau")
    assert [0.5, 0.5] == [row["cfg.tau"] for row in rows[:2]]
    rows, _ = rows_of(two_configurations, "--columns", "cfg.use-amp", "--where", "0")
    assert [{"cfg.use-amp": None}] == rows
    rows, _ = rows_of(two_configurations, "--group-by", "cfg.tau", "--aggregate", "count", "--where", "4-5")
    assert [{"cfg.tau": 0.5, "count": 2}] == rows
    done = two_configurations.tool("results", "--group-by", "cfg.tua")
    assert 2 == done.returncode
    assert "no configuration of a job" in done.stderr
    assert "'tua'" in done.stderr


def test_methods_are_told_apart_by_keys_that_are_named(two_configurations: Program) -> None:
    """A comparison that would take jobs of several configurations for one run names the key, and the way out; where it
    averages over them, a note says so. So does a report, where it says in what jobs differ only."""
    experiment = Experiment.at(two_configurations.experiment)
    with pytest.raises(ExperimentManagerError, match=r"differ in .*tau.*; --by cfg\.algorithm\.gain,cfg\.tau keeps"):
        experiment.compare(by=["cfg.algorithm.gain"], metric="loss")
    with pytest.raises(ExperimentManagerError, match=r"no variable makes a method, .*tau.* in --by keeps them apart"):
        experiment.compare(metric="loss")
    found = experiment.compare(by=["cfg.algorithm.gain", "cfg.tau"], metric="loss")
    assert 3 == len(found.methods)
    assert not any("mix" in note for note in found.notes)
    page = Path(experiment.report(metric="loss")).read_text()
    assert "means mix jobs that differ in" in page
    page = Path(experiment.report(metric="loss", group_by=["cfg.algorithm.gain", "cfg.tau"])).read_text()
    assert "means mix jobs that differ in" not in page


def test_runs_of_one_method_may_be_of_other_configurations(program: Program) -> None:
    """Seeds that were added after an edit are runs of the same methods, and a note of the comparison says so."""
    program.sweep("algorithm=TD3,DDPG", "seed=1,2,3", LIGHT="1")
    program.edit("tau: 0.005", "tau: 0.5")
    program.sweep("algorithm=TD3,DDPG", "seed=4", LIGHT="1")
    found = Experiment.at(program.experiment).compare(metric="loss")
    assert 4 == found.n_runs
    line = "means mix jobs that differ in tau (jobs 0-5; jobs 6-7): --by algorithm,cfg.tau keeps them apart"
    assert line in found.notes


def test_the_line_is_bounded_and_can_be_pasted() -> None:
    """Keys of any length and of any letters, and any number of jobs and names, make a line of some 200 letters, in
    which only what can be typed is to be typed."""
    sides = tuple(tuple(range(place, 900, 9)) for place in range(9))
    for keys in (("a" * 300,) * 3, tuple(name * 13 for name in ("abc", "def", "ghi")), ("$HOME, `id`", "a\nb")):
        line = Mixed(keys, 36, sides, are_apart=False).told("--group-by", [f"variable_{n}" for n in range(30)])
        assert 220 > len(line)
        assert "\n" not in line
        assert "cfg.$" not in line


def test_what_repeats_a_job_tells_nothing_else_apart(program: Program) -> None:
    """Jobs of several sweeps that differ in seeds alone are runs of one configuration."""
    program.sweep("seed=1,2", LIGHT="1")
    program.sweep("seed=3,4", LIGHT="1")
    assert mixing(Experiment.at(program.experiment).folder, [range(4)]) is None


def test_one_configuration_counts_once(program: Program) -> None:
    """Where an axis is added with the default among its values, the jobs that it names anew are those that there were:
    means, comparisons and reports count each once, and say which are not counted, and how to hide them. To hide the
    only results is never advised. Repeats, which are meant, all count."""
    assert "under other" not in program.sweep("algorithm=TD3,DDPG", LIGHT="1").stderr
    done = program.sweep("algorithm=TD3,DDPG", "seed=1,2", LIGHT="1")
    what = "jobs 0-1 have the configurations of jobs 2,4, under other variables"
    assert f"{what}; " in done.stderr + done.stdout
    assert "remove" not in done.stderr + done.stdout
    rows, said = rows_of(program, "--group-by", "algorithm", "--aggregate", "count")
    assert [2, 2] == [row["count"] for row in rows]
    assert f"{what}, and are not counted again; `experiment-manager remove " in said
    assert " 0-1` hides jobs 0-1" in said
    experiment = Experiment.at(program.experiment)
    found = experiment.compare(metric="loss")
    assert [((2,), (3,)), ((4,), (5,))] == sorted(method.jobs for method in found.methods)
    assert any(what in note for note in found.notes)
    assert [] == experiment.doctor()
    assert what not in program.sweep("algorithm=TD3,DDPG", "seed=1,2,3", LIGHT="1").stderr  # those are not new
    assert 0 == program.tool("remove", "0-1", "--yes").returncode
    program.sweep("algorithm=TD3,DDPG", "seed=1,2", "hydra.sweeper.repeat=2", LIGHT="1")
    rows, said = rows_of(program, "--group-by", "algorithm", "--aggregate", "count")
    assert [7, 7] == [row["count"] for row in rows]


def test_a_sweep_of_another_sweeper_that_is_typed_again_counts_once(program: Program) -> None:
    """Hydra's own sweeper has new jobs whenever it is started: means, comparisons and reports count each configuration
    once, under the same variables, too, and say which jobs are not counted again."""
    by_another = ("hydra/sweeper=basic", "hydra.launcher.experiment_name=train", "algorithm=TD3,DDPG")
    for _ in range(2):
        assert 0 == program.sweep(*by_another, "seed=1,2", LIGHT="1").returncode
    experiment = Experiment.at(program.experiment)
    rows, said = rows_of(program, "--group-by", "algorithm", "--aggregate", "count")
    assert [2, 2] == [row["count"] for row in rows]
    what = "jobs 4-7 have the configurations of jobs 0-3, and are not counted again; `experiment-manager remove "
    assert what in said
    found = experiment.compare(metric="loss")
    assert [((0,), (1,)), ((2,), (3,))] == sorted(method.jobs for method in found.methods)
    assert any(what in note for note in found.notes)
    assert "jobs 4-7 have the configurations of jobs 0-3" in Path(experiment.report(metric="loss")).read_text()
    assert 4 == len(experiment.remove("4-7"))
    assert 0 == program.sweep(*by_another, "seed=3", LIGHT="1").returncode
    assert 3 == experiment.compare(metric="loss").n_runs


def test_only_jobs_whose_results_are_there_twice_are_to_be_hidden(program: Program) -> None:
    """Of jobs that are one configuration, the one that has ended well counts, and is not among those to hide."""
    program.sweep("algorithm=TD3", LIGHT="1")
    program.sweep("algorithm=TD3", "seed=1,2", LIGHT="1")
    experiment = Experiment.at(program.experiment)
    rows = experiment.result_rows()
    for states, counting, note in (
        ("COMPLETED COMPLETED", 1, "` hides job 0"),
        ("COMPLETED FAILED", 0, "` hides job 1"),
        ("COMPLETED RUNNING", 0, None),
        ("RUNNING COMPLETED", 1, None),
        ("FAILED FAILED", 1, None),
    ):
        by_job = dict(zip((0, 1), states.split(), strict=True))
        once, said = counted_once(
            experiment.folder, [{**row, "state": by_job.get(row["job"], "COMPLETED")} for row in rows]
        )
        assert [counting, 2] == [row["job"] for row in once]
        assert said is not None
        assert said.endswith(note or "not counted again"), said


def test_many_repeats_of_one_configuration_are_looked_at_once_each() -> None:
    """What it costs to find the jobs that are one configuration grows as their number does."""
    jobs = [Job(JobId(n), "", {"lr": 0.1, "repeat": n}, (), "same", 0) for n in range(20_000)]
    jobs += [Job(JobId(20_000 + n), "", {"lr": 0.1, "nn": n, "repeat": n}, (), "same", 0) for n in range(20_000)]
    found = jobs_again(jobs)
    assert 20_000 == len(found)
    assert [20_000, 0] in found


def test_configurations_are_read_where_there_are_several_recipes_alone(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many jobs of one sweep none is read, and of several sweeps none as long as they differ in what is said alone;
    where there is more, one of each group and sweep."""
    program.sweep("algorithm=TD3,DDPG", "seed=1,2", LIGHT="1")
    folder = Experiment.at(program.experiment).folder
    read = list[int]()
    usual = Manifest.encoded_configuration

    def counting(self: Manifest, job_id: int) -> Any:
        read.append(job_id)
        return usual(self, job_id)

    monkeypatch.setattr(Manifest, "encoded_configuration", counting)
    assert mixing(folder, [range(4)]) is None
    assert [] == read
    program.sweep("algorithm=TD3,DDPG", "seed=1,2,3,4,5", LIGHT="1")
    groups = [[0, 1, 4, 5, 6], [2, 3, 7, 8, 9]]
    assert mixing(folder, groups) is None
    assert [] == read
    program.edit("tau: 0.005", "tau: 0.5")
    program.sweep("algorithm=TD3", "seed=6,7,8,9", LIGHT="1")
    found = mixing(folder, [[*groups[0], 10, 11, 12, 13], groups[1]])
    assert found == Mixed(("tau",), 0, ((0, 1, 4, 5, 6), (10, 11, 12, 13)), are_apart=True)
    assert {0, 4, 10} >= set(read)
