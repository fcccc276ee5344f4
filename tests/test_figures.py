"""`plot`: figures of comparisons, as files that stay the same and say what they should."""

import itertools
import math
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from experiment_manager import current_job
from experiment_manager.analysis import inference
from experiment_manager.errors import ExperimentManagerError
from experiment_manager.experiment import Experiment
from experiment_manager.model import codec
from experiment_manager.model.grid import variables_identity
from experiment_manager.model.records import Job, JobId
from experiment_manager.report.figures import KINDS, _looks
from experiment_manager.store.layout import planning
from experiment_manager.store.manifest_editor import editing
from tests.conftest import Program

SVG_TEXT = re.compile(r"<text[^>]*>([^<]*)</text>")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Two algorithms with two learning rates each, three seeds; those of lr=0.1 log steps 0 to 3, the others 0 to 5."""
    experiment = Experiment(["algorithm", "lr", "seed"], "train", str(tmp_path_factory.mktemp("figures")))
    for algorithm in ("TD3", "DDPG"):
        for lr in (0.1, 0.001):
            for seed in range(3):
                experiment.add_job({"algorithm": algorithm, "lr": lr, "seed": seed}, {})
    experiment.save()
    experiment.save_pass_filter(experiment.get_all_ids())
    for job in experiment.iter_jobs():

        def run(_: int, of: dict[str, object], __: object) -> dict[str, float]:
            score = (2.0 if of["algorithm"] == "TD3" else 1.0) + 0.1 * int(str(of["seed"]))
            for step in range(4 if of["lr"] == 0.1 else 6):
                current_job().log_metrics(step, reward=score * step)
            return {"reward": score}

        experiment.run_id(job.id, run)
    return experiment


def texts(path: Path) -> list[str]:
    """What is written in a figure."""
    return SVG_TEXT.findall(path.read_text())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", ["svg", "pdf", "png"])
def test_the_same_jobs_make_the_same_file(swept: Experiment, tmp_path: Path, kind: str, ending: str) -> None:
    """Every figure can be drawn in every format, and drawn again it is equal, byte by byte."""
    x = "lr" if kind == "sensitivity" else None
    drawn = [Path(swept.plot(kind, tmp_path / f"{name}.{ending}", x=x, metric="reward")) for name in ("one", "two")]
    one, two = (path.read_bytes() for path in drawn)
    assert one == two
    assert {"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}[ending] == one[: {"svg": 5}.get(ending, 4)]
    assert b"/Type3" not in one


def test_curves_have_one_kind_of_axis(tmp_path: Path) -> None:
    """Runs of which some have logged by step and others in their order are refused, whichever method they are of, and a
    comparison has no curves of them, and says why; where none has steps, the axis says so."""
    experiment = Experiment(["algorithm", "seed"], "train", tmp_path)
    for algorithm in ("A", "B"):
        for seed in range(2):
            experiment.add_job({"algorithm": algorithm, "seed": seed}, {})
    experiment.save()
    experiment.save_pass_filter(range(4))

    def run(with_step: set[int], job_id: int, *_: Any) -> int:
        for step in range(0, 40, 10):
            current_job().log_metrics(step if job_id in with_step else None, reward=step)
        return job_id

    for with_step, why in (
        ({2, 3}, "jobs 0-1 have logged reward without a step"),
        ({0, 1}, "jobs 2-3 have logged reward without a step"),
        ({0, 1, 2}, "job 3 has logged reward without a step"),
        (set(), None),
    ):
        for job_id in range(4):
            experiment.run_id(job_id, partial(run, with_step))
        path = tmp_path / "curves.svg"
        found = experiment.compare(metric="reward", curves=True)
        assert [why is None] * 2 == [bool(method.curve) for method in found.methods]
        assert (why is None) is not any(re.match(f"there are no curves: {why}", note) for note in found.notes)
        if why is None:
            experiment.plot("curves", path, metric="reward")
            assert "order of logging" in texts(path)
        else:
            with pytest.raises(ExperimentManagerError, match=why):
                experiment.plot("curves", path, metric="reward")


def test_figures_name_methods_and_metrics(swept: Experiment, tmp_path: Path) -> None:
    """The legend has the methods, the best first, by their value alone where one variable tells them apart."""
    path = tmp_path / "a.svg"
    swept.plot("profile", path, where="lr == 0.1")
    assert ["TD3", "DDPG"] == [text for text in texts(path) if text in ("TD3", "DDPG")]
    assert "share of runs above τ" in texts(path)
    swept.plot("intervals", path)
    assert "algorithm=TD3 lr=0.1" in texts(path)
    assert "IQM of reward" in texts(path)


def test_methods_are_told_apart() -> None:
    """No two of many look alike, and in a print in grey no two neighbours of the first eight are of one lightness."""
    looks = list(_looks([f"{place:02}" for place in range(64)]))
    assert 64 == len({(line["color"], str(line["linestyle"]), marker) for _, line, marker in looks})
    assert 8 == len({str(line["linestyle"]) for _, line, _ in looks[:8]}) == len({marker for *_, marker in looks[:8]})
    greys = [
        sum(share * int(line["color"][at : at + 2], 16) for share, at in ((0.299, 1), (0.587, 3), (0.114, 5))) / 255
        for _, line, _ in looks[:8]
    ]
    assert all(abs(one - other) > 0.1 for one, other in itertools.pairwise(greys)), greys


def in_blocks(folder: Path, *blocks: dict[str, Any]) -> Experiment:
    """Two runs with each of some settings, which are of different variables."""
    runs = [{**block, "seed": seed} for block in blocks for seed in range(2)]
    experiment = Experiment([], "blocks", folder)
    with planning(experiment.folder), editing(experiment.folder, 0) as editor:
        editor.set_variables(list(dict.fromkeys(name for run in runs for name in run)))
        for number, run in enumerate(runs):
            encoded = codec.encode(run)
            job = Job(JobId(number), variables_identity(run), run, (), codec.digest(encoded), None)
            editor.add_configured(job, encoded)
    experiment = Experiment.at(experiment.folder.path)
    experiment.save_pass_filter(experiment.get_all_ids())

    def run_one(job_id: int, *_: object) -> dict[str, Any]:
        current_job().log_metrics(1, score=job_id)
        return {"score": job_id}

    for job in experiment.iter_jobs():
        experiment.run_id(job.id, run_one)
    return experiment


def test_methods_of_different_variables_are_named_and_told_apart(tmp_path: Path) -> None:
    """A method has its name in full unless one variable tells all of them apart, also where it lacks the variable that
    the others differ in; where the names are equal, the looks are not."""
    cases: tuple[tuple[list[dict[str, Any]], list[str]], ...] = (
        ([{}, {"lr": 0.2}, {"lr": 0.01}], ["lr not set", "lr=0.2", "lr=0.01"]),
        ([{"units": 2}, {"depth": 2}, {"units": 1}], ["units=2", "depth=2", "units=1"]),
        ([{"units": 71}, {"units": 72}], ["71", "72"]),
        ([{"lr": 1}, {"lr": 2, "units": 3}], ["lr=1", "lr=2 units=3"]),
    )
    for place, (blocks, labels) in enumerate(cases):
        experiment = in_blocks(tmp_path / str(place), *blocks)
        for kind in ("intervals", "profile", "curves"):
            path = tmp_path / f"{kind}.svg"
            experiment.plot(kind, path, metric="score")
            assert labels[::-1] == [text for text in texts(path) if text in labels], kind
        compared = experiment.compare(metric="score")
        assert all(method.label for method in compared.methods)
    assert 3 == len({line["color"] for _, line, _ in _looks(["2", "1", "2"])})
    assert [line for _, line, _ in _looks(["b", "a"])] == [line for _, line, _ in _looks(["a", "b"])][::-1]


def test_a_sensitivity_of_what_some_methods_lack(tmp_path: Path) -> None:
    """Those that lack the variable have no place in the figure, and are named; those that have it alone are drawn."""
    experiment = in_blocks(tmp_path, {}, {"lr": 0.2}, {"lr": 0.01}, {"lr": 0.2, "units": 3})
    with pytest.raises(ExperimentManagerError, match=r"jobs 0-1 of lr, units not set have no lr; .* 'lr != None'"):
        experiment.plot("sensitivity", tmp_path / "a.svg", metric="score", x="lr")
    experiment.plot("sensitivity", tmp_path / "a.svg", metric="score", x="lr", where="lr != None")
    assert ["units=3", "units not set"] == [text for text in texts(tmp_path / "a.svg") if "units" in text]


def test_dollars_are_no_formula(tmp_path: Path) -> None:
    """Names and values of people are drawn as they are written."""
    experiment = Experiment(["name", "seed"], "train", str(tmp_path))
    for name, seed in ((name, seed) for name in (r"$\frac$", "a$_b$c") for seed in range(2)):
        experiment.add_job({"name": name, "seed": seed}, {})
    experiment.save()
    experiment.save_pass_filter(experiment.get_all_ids())
    for job in experiment.iter_jobs():

        def run(_: int, of: dict[str, Any], __: object) -> dict[str, Any]:
            current_job().log_metrics({"$x$": 1}, step=1)
            return {"$x$": of["seed"]}

        experiment.run_id(job.id, run)
    for kind in ("intervals", "profile", "curves"):
        experiment.plot(kind, tmp_path / f"{kind}.svg", metric="$x$")
        found = "".join(texts(tmp_path / f"{kind}.svg"))
        assert all(name in found for name in (r"$\frac$", "a$_b$c", "$x$")), found


def test_curves_end_where_a_run_ends(swept: Experiment, tmp_path: Path) -> None:
    """A curve goes as far as all runs of its method have come; tasks have a panel for all, and one each."""
    path = tmp_path / "curves.svg"
    swept.plot("curves", path, tasks=["lr"], metric="reward")
    found = texts(path)
    assert ["all 2 tasks", "lr=0.001", "lr=0.1"] == [text for text in found if text.startswith(("all", "lr="))]
    assert ["3", "5", "3"] == [found[place - 1] for place, text in enumerate(found) if text == "step"]  # the last tick


def test_a_curve_over_tasks_is_the_interquartile_mean_at_each_step(swept: Experiment) -> None:
    """`compare` has it where it is asked for: of all runs on all tasks, as far as each has come, and normalized as the
    scores are, so that it ends as these do."""
    found = swept.compare(tasks=["lr"], metric="reward", where="lr == 0.1", curves=True)
    assert [0, 1, 2, 3] == [step for step, _ in found.methods[0].curve]
    assert [0.0, 2.1, 4.2, 6.3] == pytest.approx([value for _, (value, _, _) in found.methods[0].curve])
    found = swept.compare(tasks=["lr"], metric="reward", normalize="range", curves=True)
    assert [0, 1, 2, 3] == [step for step, _ in found.methods[0].curve]
    assert () == swept.compare(tasks=["lr"], metric="reward").methods[0].curve


def test_experiments_may_be_tasks(swept: Experiment, tmp_path: Path) -> None:
    """Where each experiment is a task, each curve is of the jobs of its own."""
    other = Path(shutil.copytree(swept.folder.path, tmp_path / "other"))
    for path in other.glob("jobs/*/metrics.1.jsonl"):
        path.write_text(path.read_text().replace('"reward": ', '"reward": 1'))  # 2.1 becomes 12.1
    how: dict[str, Any] = {
        "by": ["algorithm"],
        "tasks": ["experiment"],
        "where": "lr == 0.1",
        "metric": "reward",
        "curves": True,
    }
    both = swept.compare(Experiment.at(other), **how).methods[0].curve
    alone = swept.compare(metric="reward", where="lr == 0.1", curves=True).methods[0].curve
    assert both[-1][1].value > alone[-1][1].value
    path = tmp_path / "a.svg"
    swept.plot("curves", path, Experiment.at(other), **{name: how[name] for name in how if name != "curves"})
    assert ["all 2 tasks", "experiment=other", "experiment=train"] == [
        text for text in texts(path) if text.startswith(("all", "experiment"))
    ]


def test_a_curve_without_gaps_or_none(tmp_path: Path) -> None:
    """What was logged as NaN is refused with its jobs: a mean would have a gap there, or be of others."""
    experiment = Experiment(["algorithm", "seed"], "train", str(tmp_path))
    for algorithm, seed in ((algorithm, seed) for algorithm in ("TD3", "DDPG") for seed in range(5)):
        experiment.add_job({"algorithm": algorithm, "seed": seed}, {})
    experiment.save()
    experiment.save_pass_filter(experiment.get_all_ids())

    def run(job: int, _: object, __: object) -> dict[str, float]:
        for step in range(3):
            current_job().log_metrics(step, loss=math.nan if (job, step) == (2, 1) else 1.0 + job)
        return {"loss": 1.0 + job}

    for job in experiment.iter_jobs():
        experiment.run_id(job.id, run)
    with pytest.raises(ExperimentManagerError, match=r"job 2 of TD3 logged a loss that is no .* --where"):
        experiment.plot("curves", tmp_path / "a.pdf", metric="loss")
    assert not (tmp_path / "a.pdf").exists()
    curve = experiment.compare(metric="loss", where="seed < 5", curves=True).methods[1].curve
    assert [False, True, False] == [math.isnan(value) for _, (value, _, _) in curve]


@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_computes_what_it_shows(
    swept: Experiment, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No figure shows a test of pairs, and none is made for one; nor what another kind alone shows."""
    shown = {"profile": "profile", "curves": "at_steps"}
    for name in {"welch", "permutation", "improvement", *shown.values()} - {shown.get(kind, "")}:
        monkeypatch.delattr(inference, name)
    swept.plot(kind, tmp_path / "a.svg", x="lr" if kind == "sensitivity" else None, metric="reward")


def test_a_sensitivity_has_a_line_for_each_setting_of_the_others(swept: Experiment, tmp_path: Path) -> None:
    """The axis has the values of the variable, as powers where they span much."""
    path = tmp_path / "lr.svg"
    swept.plot("sensitivity", path, x="lr")
    found = texts(path)
    assert ["algorithm=TD3", "algorithm=DDPG"] == [text for text in found if text.startswith("algorithm=")]
    assert "lr" in found
    assert "IQM of reward" in found


@pytest.mark.parametrize(
    ("said", "kind", "name", "how"),
    [
        ("'pie' is no figure; there are intervals, profile, curves, sensitivity", "pie", "a.pdf", {}),
        ("does not end in .pdf, .svg, .png", "profile", "a.docx", {}),
        ("a sensitivity: write --x NAME, in Python x=NAME; the variables are ", "sensitivity", "a.pdf", {}),
        ("x names the variable of a sensitivity", "profile", "a.pdf", {"x": "lr"}),
        ("'algorithm' is no variable with numbers by which methods differ", "sensitivity", "a.pdf", {"x": "algorithm"}),
        ("no job has left a number called 'loss'", "curves", "a.pdf", {"metric": "loss"}),
    ],
)
def test_what_cannot_be_drawn(
    swept: Experiment, tmp_path: Path, said: str, kind: str, name: str, how: dict[str, str]
) -> None:
    """A mistake is a sentence, and leaves no file."""
    with pytest.raises(ExperimentManagerError) as refused:
        swept.plot(kind, tmp_path / name, **how)
    assert said in str(refused.value)
    assert [] == [*tmp_path.iterdir()]


def test_on_the_command_line(swept: Experiment, tmp_path: Path) -> None:
    """`plot` prints the path of what it has drawn, by default here; where nothing can be written it says so, with 2."""

    def command(*words: str) -> "subprocess.CompletedProcess[str]":
        return Program(tmp_path).python("-m", "experiment_manager", "plot", *words)

    done = command(str(swept.folder.path), "--kind", "profile")
    assert (0, f"{tmp_path}/profile.pdf\n", "") == (done.returncode, done.stdout, done.stderr.partition("3 runs")[0])
    assert (tmp_path / "profile.pdf").exists()
    done = command(str(swept.folder.path), "--out", "nowhere/a.pdf")
    assert 2 == done.returncode
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
