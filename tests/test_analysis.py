"""An experiment as people see it: rows, means over seeds, and results that a later failure does not hide."""

import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from experiment_manager.analysis.tables import aggregate, best, chosen_metric, flat_aggregate, latex, markdown
from experiment_manager.cli.main import main
from experiment_manager.cli.terminal import print_json, print_rows
from experiment_manager.errors import ExperimentManagerError
from experiment_manager.experiment import Experiment
from experiment_manager.model.records import Attempt, JobId, State
from experiment_manager.scheduler.arrays import arrays
from experiment_manager.scheduler.slurm.options import as_mapping, make
from experiment_manager.scheduler.submission import records
from experiment_manager.store.launches import create_launch
from experiment_manager.store.states import States
from tests.conftest import Program, ProgramAfter, clean_env


def row(seed: int, result: dict[str, Any], state: str = "COMPLETED", **variables: Any) -> dict[str, Any]:
    return {"state": state, "variables": {"seed": seed, **variables}, "result": result, "metrics": {}}


def test_mean_and_deviation_over_completed_jobs() -> None:
    """Failed jobs and fields that are no numbers do not count; one value has no deviation."""
    rows = [row(1, {"score": 1.0, "name": "x"}, lr=1), row(2, {"score": 3.0}, lr=1), row(3, {"score": 9.0}, lr=2)]
    rows.append(row(4, {"score": 100.0}, "FAILED", lr=1))
    first, second = aggregate(rows, ["lr"])
    assert ({"lr": 1}, 2, {"score": 2.0}) == (first["variables"], first["count"], first["mean"])
    assert pytest.approx(math.sqrt(2)) == first["std"]["score"]
    assert (1, {"score": 9.0}, {"score": None}) == (second["count"], second["mean"], second["std"])


@pytest.mark.parametrize("diverged", [math.inf, -math.inf, math.nan])
def test_diverged_job_is_seen_in_the_mean(diverged: float) -> None:
    """An infinite or undefined result makes the mean what it is, and the deviation NaN; nothing crashes."""
    (group,) = aggregate([row(1, {"loss": 1.0}, lr=1), row(2, {"loss": diverged}, lr=1)], ["lr"])
    assert not math.isfinite(group["mean"]["loss"])
    assert math.isnan(group["std"]["loss"])


def test_tables_for_papers() -> None:
    """In LaTeX and Markdown no text is a command or ends a cell, numbers are typeset as such, and the best is bold."""
    rows = [
        {"lr_decay": [6, 6], "a|b": "5 % $x & {y}~^\\", "score": -1.25e-7},
        {"lr_decay": "*x*", "a|b": "<b>\n2-3", "score": 12},
    ]
    columns = ["lr_decay", "a|b", "score"]
    assert [
        r"\begin{tabular}{llr}",
        r"\toprule",
        r"lr\_decay & a|b & score \\",
        r"\midrule",
        r"{}[6, 6] & 5 \% \$x \& \{y\}\textasciitilde{}\textasciicircum{}\textbackslash{} & $-1.25 \times 10^{-7}$ \\",
        r"{}*x* & \textless{}b\textgreater{} 2-3 & \textbf{12} \\",
        r"\bottomrule",
        r"\end{tabular}",
    ] == list(latex(rows, columns, {(1, "score")}))
    (line,) = [line for line in latex(rows, ["score"], {(0, "score")}) if "textbf" in line]
    assert r"\textbf{\boldmath $-1.25 \times 10^{-7}$} \\" == line  # or the formula would not be bold
    assert [
        r"| lr\_decay | a\|b | score |",
        r"| --- | --- | ---: |",
        r"| \[6, 6\] | 5 % $x & {y}~^\\ | -1.25e-07 |",
        r"| \*x\* | \<b> 2-3 | **12** |",
    ] == list(markdown(rows, columns, {(1, "score")}))

    rows = [{"lr": lr, "loss": lr} for lr in (0.100012, 0.100018, None, 1e-7)]
    for lines in (latex(rows, ["lr", "loss"], exact={"lr"}), markdown(rows, ["lr", "loss"], exact={"lr"})):
        text = "\n".join(lines)
        assert ([1, 1], 2) == ([text.count(lr) for lr in ("0.100012", "0.100018")], len(re.findall(r"0\.1\b", text)))


INF, NAN, HUGE = math.inf, math.nan, 10**400


@pytest.mark.parametrize(
    ("values", "mean", "std", "least", "most", "median"),
    [
        ([1, 2, 6], 3, 7**0.5, 1, 6, 2),
        ([1.0, 3.0], 2, 2**0.5, 1, 3, 2),
        ([0.5], 0.5, None, 0.5, 0.5, 0.5),
        ([1.0, INF, 3.0], INF, NAN, 1, INF, 3),
        ([-INF, 1.0], -INF, NAN, -INF, 1, -INF),
        ([-INF, INF, 2.0], NAN, NAN, -INF, INF, 2),
        ([1.0, NAN, 3.0], NAN, NAN, NAN, NAN, NAN),
        ([False, True, True, False, True], 0.6, 0.3**0.5, 0, 1, 1),
        ([True, 3], 2, 2**0.5, 1, 3, 2),
        ([1e308, 1e308], 1e308, 0, 1e308, 1e308, 1e308),
        ([HUGE, 1], INF, NAN, 1, HUGE, INF),
    ],
)
def test_aggregates_are_those_computed_by_hand(
    values: list[float], mean: float, std: float | None, least: float, most: float, median: float
) -> None:
    """Infinity has a place in an order and NaN has none, booleans have a rate, and no number is too large."""
    rows = [row(seed, {"x": value}, lr=1) for seed, value in enumerate(values)]
    (group,) = aggregate(rows, ["lr"], ["mean", "std", "min", "max", "median"])
    expected = {"mean": mean, "std": std, "min": least, "max": most, "median": median}
    assert {**expected, "count": len(values)} == pytest.approx(
        {"count": group["count"], **{name: group[name]["x"] for name in expected}}, nan_ok=True
    )


def test_count_of_values_is_said_where_jobs_are_more() -> None:
    """`count` is of jobs; a field that some of them have no number of says how many have, in each group."""
    results: list[dict[str, Any]] = [{"x": 1, "y": 1}, {"x": 2, "y": "0.5"}, {"x": 3}]
    one = [row(seed, result, lr=1) for seed, result in enumerate(results)]
    other = [row(4, {"x": 1, "y": 3, "z": 1}, lr=2), row(5, {"x": 5, "y": 3, "z": 2}, lr=2)]
    full, _ = aggregate([*one, *other], ["lr"], ["mean"])
    assert (3, {"y": 1, "z": 0}, {"x": 2, "y": 1}) == (full["count"], full["counts"], full["mean"])
    (complete,) = aggregate(other, ["lr"], ["mean"])
    assert {"variables", "count", "mean"} == set(complete)
    flat = flat_aggregate(full, ["mean", "count"])
    assert {"lr": 1, "count": 3, "x mean": 2, "y count": 1, "y mean": 1, "z count": 0} == flat


def test_types_keep_groups_apart() -> None:
    """1, 1.0 and True are three values of a variable."""
    assert 3 == len(aggregate([row(1, {"x": 1}, lr=value) for value in (1, 1.0, True)], ["lr"]))


def test_unknown_variable_lists_those_that_there_are() -> None:
    """The sentence names the variables."""
    with pytest.raises(ExperimentManagerError, match="the variables are lr, seed"):
        aggregate([row(1, {}, lr=1)], ["learning_rate"])


def test_failed_repetition_does_not_hide_the_result(program: Program) -> None:
    """A job that completed, and failed when it was run once more on demand, still shows what it returned."""
    program.edit("how: well", "how: ${oc.env:HOW,well}")
    assert 0 == program.sweep("seed=3").returncode
    assert 1 == program.sweep("seed=3", "hydra.sweeper.rerun=always", HOW="raise").returncode
    (found,) = program.told("results")
    assert ("FAILED", 2, {"result": 4.5}) == (found["state"], found["attempt"], found["result"])


def test_result_that_cannot_be_read_is_named_and_skipped(program_after: ProgramAfter) -> None:
    """One broken file does not blind the whole table."""
    program = program_after("seed=1,2")
    (program.experiment / "jobs/0/result.1.json").write_text('{"result": {"$tuple": 5}}')
    done = program.tool("results", "--json")
    assert done.returncode == 3
    assert "jobs/0/result.1.json cannot be read" in done.stderr
    assert [{}, {"result": 3.0}] == [row["result"] for row in json.loads(done.stdout)]


def test_run_on_a_host_that_cannot_be_asked(program_after: ProgramAfter) -> None:
    """RUNNING on another host is not called failed, and `status` says where it runs and that nobody here can know."""
    program = program_after("seed=1")
    anchor = program.experiment / "states" / "0.1"
    (program.experiment / "states/0.1.COMPLETED").rename(program.experiment / "states/0.1.RUNNING")
    text = anchor.read_text().replace(f'"host": "{os.uname().nodename}"', '"host": "node17"')
    anchor.unlink()
    anchor.write_text(text)
    status = program.told("status")
    assert {"RUNNING": 1} == status["counts"]
    assert "on node17, which cannot be asked from here" in status["troubles"][0]["reason"]
    assert "1 RUNNING left alone" in program.sweep("seed=1").stderr


@pytest.mark.parametrize(
    ("expected", "options", "limit"),
    [
        (None, None, None),
        (30.0, None, 0.5),
        (600.0, {"timeout_min": 10}, None),
        (60.0, {"timeout_min": 10, "job_timeout_min": 1}, None),
        (60.0, {"timeout_min": 0, "job_timeout_min": 1}, None),
    ],
)
def test_the_time_that_is_left_is_until_the_first_limit(
    expected: float | None, options: dict[str, Any] | None, limit: float | None, tmp_path: Path
) -> None:
    """A job that runs has the time until the limit of its task, or until its own, whichever comes first."""
    experiment = Experiment(["seed"], "e", tmp_path)
    experiment.add_job({"seed": 1}, {})
    experiment.save()
    about: dict[str, Any] = {} if limit is None else {"job_timeout_min": limit}
    if options is not None:
        about["slurm"] = {"arrays": records(arrays([(make(options, where="test"), [0])]), "e", as_mapping)}
    create_launch(experiment.folder, [Attempt(JobId(0), 1, State.PENDING)], about)
    States(experiment.folder).claim(0, {"launch": "0001"})
    (row,) = experiment.status().live
    left_s = row["left_s"]
    if expected is None:
        assert left_s is None
    else:
        assert expected - 20 < (left_s or 0) <= expected


def running_jobs(
    place: Path, n_completed: int, n_jobs: int, n_running: int = 2, took_s: float = 60.0, **about: Any
) -> Experiment:
    """An experiment of so many jobs, which a launch has begun here in order: the first have completed, after so many
    seconds each, and `n_running` of the others run."""
    experiment = Experiment(["seed"], "e", place)
    for seed in range(n_jobs):
        experiment.add_job({"seed": seed}, {})
    experiment.save()
    folder, states = experiment.folder, States(experiment.folder)
    create_launch(folder, [Attempt(JobId(job), 1, State.PENDING) for job in range(n_jobs)], about)
    for job in range(n_completed + n_running):
        folder.make(folder.job(job))
        states.claim(job, {"launch": "0001"})
        if job < n_completed:
            states.finish(job, 1, State.COMPLETED, {"reason": None, "start": 1e9, "end": 1e9 + took_s})
    return experiment


def test_when_all_jobs_will_have_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`status` tells it from the jobs that completed, for those that run and those that the pool has not begun; nobody
    waits for jobs that nobody runs."""
    experiment = running_jobs(tmp_path, 10, 22)
    found = experiment.status().estimate
    assert found is not None
    assert 330 < found.low_s <= found.high_s <= 360
    assert 660 < found.work_s <= 720
    experiment.add_job({"seed": 99}, {})  # of no launch
    experiment.save()
    path = str(tmp_path / "e")
    assert 0 == main(["status", path])
    assert re.search(r"^done in \d to \d min, 2 at a time$", capsys.readouterr().out, re.MULTILINE)
    assert 0 == main(["status", path, "--json"])
    told = json.loads(capsys.readouterr().out)["estimate"]
    assert found._fields == tuple(told)
    assert pytest.approx(found.high_s, abs=30) == told["high_s"]


def test_jobs_that_are_to_run_again_count(tmp_path: Path) -> None:
    """Jobs that have ended, and that a pool which runs has not begun again yet, are left, too."""
    experiment = running_jobs(tmp_path, 14, 14, n_running=0)
    create_launch(experiment.folder, [Attempt(JobId(job), 2, State.PENDING) for job in range(5)], {})
    States(experiment.folder).claim(0, {"launch": "0002"})
    found = experiment.status().estimate
    assert found is not None
    assert 240 < found.work_s <= 300


def test_hours_are_counted_of_what_jobs_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is left is told in GPU-hours where the jobs have asked SLURM for GPUs, else in hours of jobs."""
    arrays_of = arrays([(make({"gpus_per_node": 4, "timeout_min": 90}, where="test"), range(12))])
    slurm: dict[str, Any] = {"slurm": {"arrays": records(arrays_of, "e", as_mapping)}}
    for name, about, expected in (("asked", slurm, "24 GPU-hours"), ("here", {}, "6.0 job-hours")):
        running_jobs(tmp_path / name, 10, 12, took_s=10_800, **about)
        assert 0 == main(["status", str(tmp_path / name / "e")])
        assert f"2 at a time; about {expected} are left\n" in capsys.readouterr().out


@pytest.mark.parametrize(("n_completed", "n_running"), [(7, 2), (10, 0)])
def test_no_estimate_without_enough_to_go_by(n_completed: int, n_running: int, tmp_path: Path) -> None:
    """Nothing is said while too few have completed, or where nothing runs."""
    assert running_jobs(tmp_path, n_completed, 20, n_running).status().estimate is None


def test_a_job_that_says_nothing_is_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A job that runs and has neither printed nor logged for long, in any of its ranks, is marked; whatever it writes
    last counts."""
    experiment = running_jobs(tmp_path, 0, 1, 1)
    place, now = tmp_path / "e/jobs/0", time.time()
    assert experiment.status().live[0]["silent_s"] is None  # it has no log yet
    for age_s, name in ((9000, "stdout.1.log"), (2050, "stderr.1.log"), (50, "result.1.json"), (60, "stdout.2.log")):
        (place / name).touch()
        os.utime(place / name, (now - age_s, now - age_s))
    assert 2050 <= (experiment.status().live[0]["silent_s"] or 0) < 2100
    assert 0 == main(["status", str(tmp_path / "e")])
    assert "silent 0:34 h" in capsys.readouterr().out
    for age_s, name in ((500, "metrics.1.jsonl"), (400, "stdout.1.rank3.log")):
        (place / name).touch()
        os.utime(place / name, (now - age_s, now - age_s))
        assert age_s <= (experiment.status().live[0]["silent_s"] or 0) < age_s + 50
    assert 0 == main(["status", str(tmp_path / "e")])
    assert "silent" not in capsys.readouterr().out


def test_a_job_whose_metrics_are_no_numbers_any_more_is_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job that runs is marked when its last metrics hold NaN or infinity, and only then."""
    experiment = running_jobs(tmp_path, 0, 1, 1)
    metrics = tmp_path / "e/jobs/0/metrics.1.jsonl"
    last = '{"step": 1, "time": 1.0, "values": {"loss": NaN, "grad": -Infinity, "lr": 0.5}}\n'
    metrics.write_text(last)
    assert ["loss", "grad"] == experiment.status().live[0]["nan"]
    assert 0 == main(["status", str(tmp_path / "e")])
    assert "NaN: loss, grad" in capsys.readouterr().out
    metrics.write_text(f'{last}{{"step": 2, "time": 2.0, "values": {{"loss": 1.5, "note": "NaN"}}}}\n')
    assert experiment.status().live[0]["nan"] is None


def test_status_lists_once_and_opens_what_it_needs(tmp_path: Path) -> None:
    """`status` lists `states/` once, and opens a file only of jobs that run, that ended badly, and, while jobs run, of
    those that completed last: of these up to a number of each state, and the others are named, too."""
    experiment = Experiment(["seed"], "e", tmp_path)
    for seed in range(60):
        experiment.add_job({"seed": seed}, {})
    experiment.save()
    states = tmp_path / "e/states"
    states.mkdir()
    for job, state in enumerate(["COMPLETED"] * 20 + ["FAILED"] * 20 + ["RUNNING"] * 10):
        (states / f"{job}.1").write_text('{"host": "node17"}')
        (states / f"{job}.1.{state}").touch()
    script = (
        "import json, sys\n"
        "from experiment_manager.analysis import status\n"
        "status.MOST_REASONS, status.SAMPLE = 7, 9\n"
        "from experiment_manager.cli.main import main\n"
        "seen = []\n"
        "sys.addaudithook(lambda what, given: seen.append((what, str(given[0]))) "
        "if what in ('open', 'os.listdir', 'os.scandir', 'sqlite3.connect') else None)\n"
        "main(['status', sys.argv[1], '--json'])\n"
        "print(json.dumps(seen), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "e")], capture_output=True, text=True, env=clean_env(), check=True
    )
    seen = [tuple(item) for item in json.loads(done.stderr)]
    assert [("os.listdir", str(states))] == [item for item in seen if item[0] != "open" and "/e/states" in item[1]]
    assert 3 == sum(what == "sqlite3.connect" for what, _ in seen)  # however many jobs run
    opened = [path.removeprefix(f"{tmp_path}/e/") for what, path in seen if what == "open"]
    asked = [*(f"states/{job}.1" for job in range(40, 50)), *(f"jobs/{job}/attempt.1.json" for job in range(20, 27))]
    asked += [f"jobs/{job}/metrics.1.jsonl" for job in range(40, 50)]
    asked += [f"jobs/{job}/attempt.1.json" for job in range(11, 20)]
    assert sorted(asked) == sorted(path for path in opened if path.startswith(("states/", "jobs/")))
    told = json.loads(done.stdout)
    assert {"COMPLETED": 20, "FAILED": 20, "RUNNING": 10, "PENDING": 10} == told["counts"]
    ids = [(trouble["state"], trouble["jobs"]) for trouble in told["troubles"]]
    assert [("FAILED", list(range(20, 27))), ("FAILED", list(range(27, 40))), ("RUNNING", list(range(40, 50)))] == ids


def test_table_in_a_pipe_has_one_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns are aligned as a terminal shows them, and no text breaks a row or becomes markup."""
    print_rows([{"state": "A", "n": 3, "x": "[red]"}, {"state": "日本", "n": None}, {"n": 0.5, "x": "a\nb\x1b[1m"}])
    assert capsys.readouterr().out.splitlines() == [
        " state     n   x",
        " ─────────────────────────",
        " A         3   [red]",
        " 日本",
        "         0.5   a\\nb\\x1b[1m",
    ]


@pytest.mark.parametrize("value", [{}, [], {"a": [1, {"b": None}], "c": {}}, [{"a": 1}, [2]], 3, "x", None])
def test_json_is_one_document(value: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed as JSON is read back as it was, with a line for each item."""
    print_json(value)
    out = capsys.readouterr().out
    assert value == json.loads(out)
    assert len(out.splitlines()) == (len(value) + 2 if isinstance(value, dict | list) and value else 1)


def test_what_is_true_or_false_has_a_mean_and_a_rank() -> None:
    """True is 1 and False is 0 to whoever asks for it, by a mean or for the best; what counts where nobody asks is a
    number, as long as there is one."""
    rows = [
        {"job": job, "state": "COMPLETED", "variables": {}, "result": {"ok": ok}, "metrics": {"loss": 0.5 - job}}
        for job, ok in enumerate((False, True, False, True))
    ]
    assert {"ok": 0.5} == aggregate(rows, [], ["mean"])[0]["mean"]
    assert ([1, 3], "ok") == best(rows, 2, metric="ok", goal=None)[:2]
    assert [0, 2] == best(rows, 2, metric="result.ok", goal="min").places
    assert ("result", "ok") == chosen_metric(rows, "ok") == chosen_metric(rows, None, {"ok": "max"})
    assert ("metrics", "loss") == chosen_metric(rows, None)
    assert ("result", "ok") == chosen_metric([{**row, "metrics": {}} for row in rows], None)


def test_show_prints_no_trouble_of_a_dry_pass(program_after: ProgramAfter, capsys: pytest.CaptureFixture[str]) -> None:
    """What a dry pass has printed on standard error is no trouble of the job; what a failed attempt has is."""
    program = program_after("seed=1")
    assert 0 == program.tool("run", "0", "--fake").returncode
    path = str(program.experiment)
    attempt = Experiment.at(path).show(0)["attempts"][-1]
    assert "FAKE" == attempt["state"]
    Path(attempt["logs"]["stderr"]).write_text("a warning\n")
    assert 0 == main(["show", path, "0"])
    assert "a warning" not in capsys.readouterr().out
