"""Jobs that their variables show wrongly: no mean mixes those that differ in their configurations alone, or counts one
configuration twice."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiment_manager import Experiment
from experiment_manager.analysis.alike import look_alike
from experiment_manager.errors import ExperimentManagerError
from tests.conftest import Prepared, Program


@pytest.fixture(scope="module")
def two_configurations(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Jobs 0-1 are of TD3, jobs 2-3 of DDPG, and jobs 4-5 of DDPG with another tau; all have the seed alone as a
    variable. So they are after an edit and `on_change=new`, and after another `--config-name`."""
    program = Prepared(tmp_path_factory.mktemp("swept"), ["seed=1,2"]).again()
    program.edit("algorithm: TD3", "algorithm: DDPG")
    assert 0 == program.sweep("seed=1,2", "hydra.sweeper.on_change=new", LIGHT="1").returncode
    other = (program.home / "conf/config.yaml").read_text().replace("0.005", "0.5")
    (program.home / "conf/other.yaml").write_text(other)
    assert 0 == program.sweep("--config-name=other", "seed=1,2", "hydra.sweeper.experiment_name=train").returncode
    return program


def groups(program: Program, *words: str) -> tuple[list[Any], str]:
    done = program.tool("results", "--format", "json", *words)
    assert 0 == done.returncode, done.stderr
    return json.loads(done.stdout), done.stderr


def test_no_mean_mixes_jobs_of_different_configurations(two_configurations: Program) -> None:
    """Jobs of equal variables are told apart by keys of their configurations, the fewest that do, in tables, in means,
    in comparisons and in reports; and a line says so."""
    rows, said = groups(two_configurations, "--group-by", "seed", "--aggregate", "count")
    told = {(row["cfg.algorithm.gain"], row["cfg.tau"]): row["count"] for row in rows if row["seed"] == 1}
    assert {(1.5, 0.005): 1, (0.5, 0.005): 1, (0.5, 0.5): 1} == told
    assert (
        "jobs 0-5 differ in tau, algorithm.gain and 2 more keys, of which their variables say nothing: tau=0.005 "
        in said
    )
    rows, _ = groups(two_configurations)
    assert [1.5, 1.5, 0.5, 0.5, 0.5, 0.5] == [row["cfg.algorithm.gain"] for row in rows]
    experiment = Experiment.at(two_configurations.experiment)
    found = experiment.compare(metric="loss")
    assert 3 == len(found.methods)
    assert any("of which their variables say nothing" in note for note in found.notes)
    assert "cfg.tau" in Path(experiment.report(metric="loss")).read_text()


def test_jobs_are_chosen_by_what_tells_them_apart(two_configurations: Program) -> None:
    """The way out that is told leaves jobs that differ in their variables alone; a comparison that would mix others
    says in what they differ."""
    where = "cfg.algorithm.gain == 0.5 and cfg.tau == 0.5"
    rows, said = groups(two_configurations, "--group-by", "seed", "--aggregate", "count", "--where", where)
    assert [{"seed": 1, "count": 1}, {"seed": 2, "count": 1}] == rows
    assert "differ" not in said
    experiment = Experiment.at(two_configurations.experiment)
    with pytest.raises(ExperimentManagerError, match=r"differ in cfg\.tau; name that in --by"):
        experiment.compare(by=["cfg.algorithm.gain"], metric="loss")


def test_what_repeats_a_job_tells_nothing_else_apart(program: Program) -> None:
    """Jobs of several sweeps that differ in seeds alone are runs of one configuration; those of another seed and
    another configuration are not."""
    program.sweep("seed=1,2", LIGHT="1")
    program.sweep("seed=3,4", LIGHT="1")
    experiment = Experiment.at(program.experiment)
    assert () == experiment.result_rows().alike.findings
    program.edit("tau: 0.005", "tau: 0.5")
    program.sweep("seed=5,6", LIGHT="1")
    assert [0.005] * 4 + [0.5] * 2 == [row["variables"]["cfg.tau"] for row in experiment.result_rows()]


def test_one_configuration_counts_once(program: Program) -> None:
    """Where an axis is added with the default among its values, the jobs that it names anew are those that there were:
    means, comparisons and reports count each once, and `doctor` names them. Repeats, which are meant, all count."""
    assert "under other" not in program.sweep("algorithm=TD3,DDPG", LIGHT="1").stderr
    done = program.sweep("algorithm=TD3,DDPG", "seed=1,2", LIGHT="1")
    what = "jobs 0-1 have the configurations of jobs 2,4, under other variables"
    assert f"{what}; " in done.stderr + done.stdout
    assert f"`experiment-manager remove {program.experiment} 0-1` hides one of each" in done.stderr + done.stdout
    rows, said = groups(program, "--group-by", "algorithm", "--aggregate", "count")
    assert [2, 2] == [row["count"] for row in rows]
    assert what in said
    experiment = Experiment.at(program.experiment)
    found = experiment.compare(metric="loss")
    assert [((2,), (3,)), ((4,), (5,))] == sorted(method.jobs for method in found.methods)
    assert any(what in note for note in found.notes)
    assert [what] == [one.what for one in experiment.doctor()]
    assert what not in program.sweep("algorithm=TD3,DDPG", "seed=1,2,3", LIGHT="1").stderr  # those are not new
    assert 0 == program.tool("remove", "0-1", "--yes").returncode
    assert [] == experiment.doctor()
    program.sweep("algorithm=TD3,DDPG", "seed=1,2", "hydra.sweeper.repeat=2", LIGHT="1")
    rows, said = groups(program, "--group-by", "algorithm", "--aggregate", "count")
    assert [7, 7] == [row["count"] for row in rows]


def test_configurations_are_read_where_there_are_several_recipes_alone(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many jobs of one sweep none is read, and of several sweeps none as long as they differ in what is said alone;
    where there is more, one of each setting and sweep."""
    program.sweep("algorithm=TD3,DDPG", "seed=1,2", LIGHT="1")
    experiment = Experiment.at(program.experiment)
    read = list[int]()
    from experiment_manager.store.manifest import Manifest

    usual = Manifest.encoded_configuration

    def counting(self: Manifest, job_id: int) -> Any:
        read.append(job_id)
        return usual(self, job_id)

    monkeypatch.setattr(Manifest, "encoded_configuration", counting)
    look_alike(experiment.folder, list(experiment.iter_jobs()))
    assert [] == read
    program.sweep("algorithm=TD3,DDPG", "seed=1,2,3,4,5", LIGHT="1")
    look_alike(experiment.folder, list(experiment.iter_jobs()))
    assert [] == read
    program.edit("tau: 0.005", "tau: 0.5")
    program.sweep("algorithm=TD3", "seed=6,7,8,9", LIGHT="1")
    look_alike(experiment.folder, list(experiment.iter_jobs()))
    assert {0, 2, 4, 7, 10} >= set(read)
