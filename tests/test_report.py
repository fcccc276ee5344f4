"""The report: one page that tells the truth about an experiment, seen in a real browser."""

import io
import json
import math
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from experiment_manager import Experiment
from experiment_manager.cli.main import main
from experiment_manager.errors import ExperimentManagerError
from experiment_manager.execution.study import Proposer
from experiment_manager.model import codec
from experiment_manager.model.records import State
from experiment_manager.model.search import Proposal
from experiment_manager.report import contents
from experiment_manager.report import curves as learning_curves
from experiment_manager.store.launches import create_launch
from experiment_manager.store.results import write_result
from experiment_manager.store.states import States
from tests.browser import browser
from tests.conftest import Program
from tests.test_search import beginning, search

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["browser"]
pytestmark = pytest.mark.xdist_group("browser")
HOSTILE = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">"
Line = tuple[Any, Mapping[str, Any]]


class Study:
    """An experiment whose jobs are written to disk as jobs write themselves, without a process each."""

    def __init__(self, home: Path, variables: Sequence[str], name: str = "study") -> None:
        self.experiment = Experiment(variables, name, home)

    def job(
        self,
        variables: Mapping[str, Any],
        lines: Sequence[Line] = (),
        *,
        result: Any = None,
        state: State = State.COMPLETED,
        reason: str | None = None,
        log: str = "",
    ) -> int:
        job_id = self.experiment.add_job(variables, {})
        self.experiment.save()
        return self.attempt(job_id, lines, result=result, state=state, reason=reason, log=log)

    def attempt(
        self,
        job_id: int,
        lines: Sequence[Line] = (),
        *,
        result: Any = None,
        state: State = State.COMPLETED,
        reason: str | None = None,
        log: str = "",
        torn: str = "",
    ) -> int:
        folder, states = self.experiment.folder, States(self.experiment.folder)
        Path(folder.job(job_id)).mkdir(parents=True, exist_ok=True)
        number = states.claim(job_id, {})
        text = "".join(json.dumps({"step": s, "time": 0, "values": codec.encode(v)}) + "\n" for s, v in lines) + torn
        if text:
            Path(folder.of_attempt(job_id, number, "metrics")).write_text(text)
        Path(folder.of_attempt(job_id, number, "stderr")).write_text(log)
        if result is not None:
            write_result(folder, job_id, number, result)
        if state is not State.RUNNING:
            states.finish(job_id, number, state, {"reason": reason, "end": 2e9})
        return job_id

    def report(self, **options: Any) -> str:
        return Experiment.at(self.experiment.folder.path).report(**options)


PLOTLY_LINE = 2_000


class Tab:
    """The one tab in which all reports are opened, and the one address that they have there, with Plotly in the same
    line of all: a browser compiles its four megabytes again, for two seconds, where address or line are others."""

    def __init__(self, browser: "Browser", place: Path) -> None:
        self._path = place / "report.html"
        self.page = browser.new_page(viewport={"width": 1200, "height": 900})

    def open(self, path: str, scheme: Any) -> None:
        before, plotly, after = Path(path).read_text().rpartition("<script>/**")  # with which its source begins
        assert plotly
        self._path.write_text(before + "\n" * (PLOTLY_LINE - before.count("\n")) + plotly + after)
        self.page.emulate_media(color_scheme=scheme, media="screen")
        self.page.goto(self._path.as_uri())
        self.page.wait_for_selector("#table tbody tr", state="attached")


@pytest.fixture(scope="module")
def tab(browser: "Browser", tmp_path_factory: pytest.TempPathFactory) -> Tab:
    return Tab(browser, tmp_path_factory.mktemp("tab"))


@pytest.fixture
def opened(tab: Tab) -> "Iterator[Callable[..., Page]]":
    """Opens a report as people do; whatever it asks of a network, and every error of its script, fails the test."""
    shown, errors, asked = [], [], []
    heard: dict[Any, Callable[[Any], None]] = {
        "pageerror": lambda error: errors.append(str(error)),
        "console": lambda message: errors.append(message.text) if message.type == "error" else None,
        "request": lambda request: asked.append(request.url),
    }
    for event, hear in heard.items():
        tab.page.on(event, hear)

    def show(path: str, scheme: Any = "light") -> "Page":
        shown.append(path)
        tab.open(path, scheme)
        return tab.page

    yield show
    for event, hear in heard.items():
        tab.page.remove_listener(event, hear)
    assert [] == errors
    assert len(shown) == len(asked), asked


def column(page: "Page", place: int) -> list[str]:
    return page.locator(f"#table tbody tr td:nth-child({place + 1})").all_inner_texts()


def head(page: "Page", name: str) -> Any:
    return page.locator("#table th button").get_by_text(name, exact=True)


def data_of(path: str) -> Any:
    """The data that the page's own script reads."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', Path(path).read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


def curves(path: str, name: str) -> dict[str, Any]:
    """The curves of one metric by the label of their group."""
    data = data_of(path)
    (metric,) = (metric for metric in data["metrics"] if metric["name"] == name)
    return {data["groups"][curve["group"]]: curve for curve in metric["curves"]}


# -- the table --------------------------------------------------------------------------------------------------------


@pytest.fixture
def sizes(tmp_path: Path) -> Study:
    """Jobs whose numbers sort otherwise as text, some failed, some with results that are no finite numbers."""
    study = Study(tmp_path, ["algorithm", "size"])
    for size, score in ((9, 0.5), (10, math.nan), (100, math.inf), (2, -1e-7)):
        study.job({"algorithm": "TD3", "size": size}, result={"score": score})
    study.job({"algorithm": "DDPG", "size": 30}, state=State.FAILED, reason="too large")
    return study


def test_click_on_a_header_sorts_numbers_as_numbers(sizes: Study, opened: "Callable[..., Page]") -> None:
    """9 comes before 10, a second click turns the order round, infinity is the largest, NaN and nothing come last."""
    page = opened(sizes.report())
    head(page, "size").click()
    assert ["2", "9", "10", "30", "100"] == column(page, 5)
    head(page, "size").click()
    assert ["100", "30", "10", "9", "2"] == column(page, 5)
    head(page, "score").click()
    assert ["-1e-7", "0.5", "inf"] == column(page, 6)[:3]
    assert {"nan", ""} == set(column(page, 6)[3:])
    head(page, "score").click()
    assert ["inf", "0.5", "-1e-7"] == column(page, 6)[:3]
    assert "descending" == page.locator("#table th[aria-sort]").get_attribute("aria-sort")


def test_table_is_filtered_by_text_and_by_state(sizes: Study, opened: "Callable[..., Page]") -> None:
    """Every word has to be there, name=value asks for exactly that value, and states can be added to each other."""
    page = opened(sizes.report())
    page.fill("#filter", "td3 size=10")
    assert ["1"] == column(page, 0)
    assert "1 of 5 jobs" == page.inner_text("#shown")
    page.fill("#filter", "")
    page.click("[data-state=FAILED]")
    assert ["4"] == column(page, 0)
    page.fill("#filter", "td3")
    assert [] == column(page, 0)
    page.click("[data-state=COMPLETED]")
    assert ["0", "1", "2", "3"] == column(page, 0)


def test_many_jobs_are_shown_page_by_page(tmp_path: Path, opened: "Callable[..., Page]") -> None:
    """Only the rows of one page are in the document, and sorting and filtering know all of them."""
    study = Study(tmp_path, ["number"])
    for number in range(2_000):
        study.experiment.add_job({"number": number}, {})
    study.experiment.save()
    page = opened(study.report())
    assert 25 == len(column(page, 0))
    page.click("#next")
    assert "25" == column(page, 0)[0]
    head(page, "number").click()
    head(page, "number").click()
    assert "1999" == column(page, 4)[0]
    page.fill("#filter", "number=777")
    assert ["777"] == column(page, 4)


# -- learning curves --------------------------------------------------------------------------------------------------


def test_drawn_curve_is_the_mean_over_seeds(tmp_path: Path, opened: "Callable[..., Page]") -> None:
    """The line that Plotly has drawn goes through the means, and the band is Student's, both computed another way."""
    study = Study(tmp_path, ["lr", "seed"])
    loss = {(lr, seed, step): lr * (seed**2 + 10 / step) for lr in (1, 2) for seed in (1, 2, 3) for step in (1, 5, 20)}
    for lr in (1, 2):
        for seed in (1, 2, 3):
            study.job({"lr": lr, "seed": seed}, [(step, {"loss": loss[lr, seed, step]}) for step in (1, 5, 20)])
    path = study.report(metric="loss", goal="min")
    page = opened(path)
    page.locator(".curve").scroll_into_view_if_needed()
    page.wait_for_selector(".curve .scatterlayer .js-line")
    drawn = page.evaluate(
        """() => {
          const plot = document.querySelector(".curve"), { xaxis, yaxis } = plot._fullLayout;
          const lines = plot.data.map((trace, place) => [trace, plot.querySelectorAll(".scatterlayer .trace")[place]]);
          return Object.fromEntries(lines.filter(([trace]) => !trace.fill).map(([trace, group]) => {
            const numbers = group.querySelector(".js-line").getAttribute("d").match(/-?[\\d.]+/g).map(Number);
            return [trace.name, numbers.map((pixel, place) => (place % 2 ? yaxis : xaxis).p2l(pixel))];
          }));
        }"""
    )
    for lr in (1, 2):
        values = {step: [loss[lr, seed, step] for seed in (1, 2, 3)] for step in (1, 5, 20)}
        expected = [number for step in values for number in (step, statistics.mean(values[step]))]
        assert pytest.approx(expected, abs=0.15) == drawn[f"lr={lr}"]  # a pixel is as wide as that
        curve = curves(path, "loss")[f"lr={lr}"]
        assert pytest.approx(expected) == [n for pair in zip(curve["steps"], curve["means"], strict=True) for n in pair]
        half = [4.302653 * statistics.stdev(found) / math.sqrt(3) for found in values.values()]
        assert pytest.approx(half) == [
            (high - low) / 2 for high, low in zip(curve["highs"], curve["lows"], strict=True)
        ]
    assert ["lr=1", "lr=2"] == page.locator("#legend button").all_inner_texts()


def test_click_on_the_legend_hides_a_group(tmp_path: Path, opened: "Callable[..., Page]") -> None:
    """A group that was clicked on is drawn in no plot any more, until the next click."""
    study = Study(tmp_path, ["lr"])
    for lr in (1, 2):
        study.job({"lr": lr}, [(1, {"loss": lr}), (2, {"loss": lr})])
    page = opened(study.report(goal="min"))
    names = "() => document.querySelector('.curve').data.map((trace) => trace.name)"
    page.locator(".curve").scroll_into_view_if_needed()
    page.wait_for_selector(".curve .scatterlayer")
    page.locator("#legend button").first.click()
    assert ["lr=2"] == page.evaluate(names)
    page.click("#all-groups")
    assert ["lr=1", "lr=2"] == page.evaluate(names)


def test_jobs_at_different_steps_are_averaged_where_they_are_known(tmp_path: Path) -> None:
    """Between its steps a job is on the straight line, beyond its last one it does not count; alone it has no band."""
    study = Study(tmp_path, ["seed"])
    study.job({"seed": 1}, [(0, {"x": 0}), (10, {"x": 10}), (20, {"x": 20})])
    study.job({"seed": 2}, [(0, {"x": 2}), (4, {"x": 6})], state=State.FAILED)
    curve = curves(study.report(), "x")["all jobs"]
    assert ([0, 4, 10, 20], [1, 5, 10, 20], [2, 2, 1, 1]) == (curve["steps"], curve["means"], curve["counts"])
    assert [False, False, True, True] == [low is None for low in curve["lows"]]


def test_value_that_is_not_finite_makes_a_gap_and_a_note(tmp_path: Path, opened: "Callable[..., Page]") -> None:
    """No mean is made up from the jobs that did not diverge, and the page names the one that did."""
    study = Study(tmp_path, ["seed"])
    study.job({"seed": 1}, [(1, {"x": 1.0}), (2, {"x": 2.0}), (3, {"x": 3.0})])
    study.job({"seed": 2}, [(1, {"x": 1.0}), (2, {"x": math.nan}), (3, {"x": -math.inf})])
    path = study.report()
    assert [1.0, None, None] == curves(path, "x")["all jobs"]["means"]
    assert "NaN or infinite in 1 job (1): the mean has gaps there." in opened(path).inner_text("#curves")


def test_steps_that_are_missing_are_counted(tmp_path: Path) -> None:
    """Without steps the order of logging is the axis, and the axis says so."""
    study = Study(tmp_path, ["seed"])
    study.job({"seed": 1}, [(None, {"x": 5}), (None, {"y": "text", "z": True}), (None, {"x": 7})])
    path = study.report()
    assert ([0, 1], [5, 7]) == (curves(path, "x")["all jobs"]["steps"], curves(path, "x")["all jobs"]["means"])
    assert [("x", "order of logging")] == [(metric["name"], metric["axis"]) for metric in data_of(path)["metrics"]]


def test_no_mean_is_of_steps_and_of_the_order_of_logging(tmp_path: Path, opened: "Callable[..., Page]") -> None:
    """A metric that some jobs have logged by step and others without one has two figures, whichever groups they are of,
    and each says of which jobs it is; one that all have logged alike has one."""
    study = Study(tmp_path, ["lr", "seed"])
    study.job({"lr": 1, "seed": 1}, [(100, {"x": 1, "y": 5}), (200, {"x": 3})])
    study.job({"lr": 1, "seed": 2}, [(None, {"x": 7}), (None, {"x": 9})])
    study.job({"lr": 2, "seed": 1}, [(None, {"x": 20}), (None, {"x": math.nan})])
    path = study.report()
    found = [
        (metric["axis"], [(curve["group"], curve["steps"], curve["means"]) for curve in metric["curves"]])
        for metric in data_of(path)["metrics"]
        if metric["name"] == "x"
    ]
    by_step = [(0, [100, 200], [1, 3])]
    assert [("step", by_step), ("order of logging", [(0, [0, 1], [7, 9]), (1, [0, 1], [20, None])])] == found
    said = opened(path).inner_text("#curves")
    assert "Of the 1 job that logged it by step (0); the others have a figure of their own." in said
    assert "Of the 2 jobs that logged it without a step (1, 2); the others" in said
    assert 2 == said.count("have a figure of their own")
    assert "NaN or infinite in 1 job (2)" in said


def test_attempt_that_went_on_continues_the_curve(tmp_path: Path) -> None:
    """Steps before the checkpoint come from the attempt before; what was computed again counts once; one begun anew
    shows nothing of the attempt before; a half-written line is left out."""
    study = Study(tmp_path, ["lr"])
    resumed = study.job({"lr": 1}, [(1, {"x": 1}), (2, {"x": 2}), (3, {"x": -9})], state=State.TIMEOUT)
    study.attempt(resumed, [(3, {"x": 3}), (4, {"x": 4})], state=State.RUNNING, torn='{"step": 5, "ti')
    anew = study.job({"lr": 2}, [(1, {"x": 1}), (2, {"x": 2})], state=State.FAILED)
    study.attempt(anew, [(1, {"x": 8})])
    found = curves(study.report(), "x")
    assert ([1, 2, 3, 4], [1, 2, 3, 4]) == (found["lr=1"]["steps"], found["lr=1"]["means"])
    assert ([1], [8]) == (found["lr=2"]["steps"], found["lr=2"]["means"])


def test_a_curve_ends_with_the_result_of_its_job(tmp_path: Path) -> None:
    """Of a job that had completed, what a later attempt logs that failed is in no curve; any other job counts as far as
    its last attempt. The page says so."""
    study = Study(tmp_path, ["lr"])
    done = study.job({"lr": 1}, [(1, {"x": 1}), (2, {"x": 2})], result={"score": 1})
    study.attempt(done, [(1, {"x": 8}), (2, {"x": 8}), (3, {"x": 8})], state=State.FAILED)
    study.job({"lr": 2}, [(1, {"x": 5}), (2, {"x": 6})], state=State.FAILED)
    path = study.report()
    found = {name: (curve["steps"], curve["means"]) for name, curve in curves(path, "x").items()}
    assert {"lr=1": ([1, 2], [1, 2]), "lr=2": ([1, 2], [5, 6])} == found
    said = "A job that had completed counts as far as the attempt whose result it has, any other as far as its last one"
    assert said in " ".join(Path(path).read_text().split())


def test_metrics_have_the_course_that_a_report_draws(tmp_path: Path) -> None:
    """`exp.metrics()` goes through all attempts as the curves do, and says which attempt each value is of; an attempt
    that has logged nothing yet takes nothing away."""
    study = Study(tmp_path, ["lr"])
    resumed = study.job({"lr": 1}, [(1, {"x": 1}), (2, {"x": 2}), (3, {"x": -9})], state=State.TIMEOUT)
    study.attempt(resumed, [(3, {"x": 3}), (4, {"x": 4})], state=State.PREEMPTED)
    study.attempt(resumed, state=State.RUNNING)
    anew = study.job({"lr": 2}, [(1, {"x": 1}), (2, {"x": 2})], state=State.FAILED)
    study.attempt(anew, [(1, {"x": 8})])
    frame = study.experiment.metrics()
    found = list(frame[["job", "attempt", "step", "value"]].itertuples(index=False, name=None))
    assert [(0, 1, 1, 1), (0, 1, 2, 2), (0, 2, 3, 3), (0, 2, 4, 4), (1, 2, 1, 8)] == found
    drawn = curves(study.report(), "x")
    assert ([1, 2, 3, 4], [1, 2, 3, 4]) == (drawn["lr=1"]["steps"], drawn["lr=1"]["means"])


def test_each_file_of_metrics_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of jobs and the curves come from one reading, of every attempt; where they are too many to be held,
    those that are drawn are read again, and the page is the same."""
    study = Study(tmp_path, ["lr"])
    for lr in range(3):
        job = study.job({"lr": lr}, [(step, {"x": step}) for step in range(5)], state=State.TIMEOUT)
        study.attempt(job, [(step, {"x": -step}) for step in range(3, 6)])
    opened: list[str] = []

    def note(what: str, arguments: tuple[Any, ...]) -> None:
        if what == "open" and "metrics." in str(arguments[0]):
            opened.append(str(arguments[0]).rpartition("jobs/")[2])

    sys.addaudithook(note)
    first = data_of(study.report())
    assert sorted(f"{job}/metrics.{number}.jsonl" for job in range(3) for number in (1, 2)) == sorted(opened)
    monkeypatch.setattr(learning_curves, "MOST_KEPT", 8)
    assert first == data_of(study.report())
    assert 6 + 6 + 4 == len(opened)
    assert [0, 1, 2, -3, -4, -5] == first["metrics"][0]["curves"][0]["means"]


def test_long_curves_and_many_metrics_stay_within_bounds(tmp_path: Path, opened: "Callable[..., Page]") -> None:
    """5,000 steps become 1,000 true points, first and last among them, and the page says so; 50 metrics have 50
    plots, which are drawn when they come into sight."""
    study = Study(tmp_path, ["seed"])
    study.job({"seed": 1}, [(step, {"x": step * 2}) for step in range(5_000)])
    study.job({"seed": 2}, [(step, {f"m{place}": step for place in range(49)}) for step in range(3)])
    path = study.report()
    curve = curves(path, "x")["all jobs"]
    assert (1_000, 0, 4_999) == (len(curve["steps"]), curve["steps"][0], curve["steps"][-1])
    assert [step * 2 for step in curve["steps"]] == curve["means"]
    page = opened(path)
    assert "Long curves are shown at 1,000 of their steps" in page.inner_text("#curves")
    assert 50 == page.locator(".curve").count() > page.locator(".curve[data-drawn]").count()


# -- what is best, what failed, where it came from --------------------------------------------------------------------


def test_best_is_by_the_mean_over_completed_jobs(tmp_path: Path, opened: "Callable[..., Page]") -> None:
    """The goal turns the order round; a failed job and a field that is no number count for nothing, and what diverged
    is never best."""
    study = Study(tmp_path, ["lr", "seed"])
    for lr, seed, score in ((1, 1, 1.0), (1, 2, 3.0), (2, 1, 2.5), (3, 1, math.inf)):
        study.job({"lr": lr, "seed": seed}, result={"note": "x", "score": score})
    study.job({"lr": 2, "seed": 2}, [(1, {"score": 99})], state=State.FAILED)
    body = "#best tbody tr"
    up = opened(study.report()).locator(body).all_inner_texts()
    assert ["1\t2\t2.5\t\t1\t2", "2\t1\t2\t12.7\t2\t0-1", "3\t3\tinf\t\t1\t3"] == [line.strip() for line in up]
    grouped = opened(study.report(group_by=["seed"], goal="min"))
    assert "differ in lr only" in grouped.inner_text("#best")
    assert ["2", "1"] == [line.split("\t")[1] for line in grouped.locator(body).all_inner_texts()]


def test_page_draws_the_comparison_of_its_groups(opened: "Callable[..., Page]", tmp_path: Path) -> None:
    """Intervals, how likely one group beats another, and profiles are drawn, and again in the colours of the dark."""
    study = Study(tmp_path, ["algorithm", "seed"])
    for algorithm, seed in ((name, seed) for name in (HOSTILE, "DDPG") for seed in range(3)):
        study.job({"algorithm": algorithm, "seed": seed}, result={"reward": len(algorithm) + seed})
    page = opened(study.report())
    for figure, n_points in (("intervals", 4), ("improvement", 1)):
        assert n_points == page.locator(f"[data-figure={figure}] .scatterlayer .point").count()
    profiles = page.locator("[data-figure=profile] .legendtext").all_inner_texts()
    assert 2 == len(profiles)
    assert "taken" != page.title()
    page.emulate_media(color_scheme="dark")
    assert 1 == page.locator("[data-figure=improvement] .scatterlayer .point").count()


def test_page_draws_what_a_search_has_found(tmp_path: Path, opened: "Callable[..., Page]") -> None:
    """How far it is, and Optuna's figures of its study."""
    folder = beginning(tmp_path, search(0, 19))
    proposer, states = Proposer(folder, "0001"), States(folder)
    for _ in range(12):
        trial = proposer.next()
        assert isinstance(trial, Proposal)
        folder.make(folder.job(trial.job_id))
        states.claim(trial.job_id, {})
        write_result(folder, trial.job_id, 1, trial.values["lr"])
        states.finish(trial.job_id, 1, State.COMPLETED, {})
    path = Experiment.at(folder.path).report(tmp_path / "report.html")
    page = opened(path)
    assert "12 of 20 trials have ended; the best value is" in page.locator("#search p").inner_text()
    assert ["Best so far", "Values together", "Importance"] == page.locator("#search figcaption").all_inner_texts()
    page.wait_for_selector('#search .plot[data-drawn="yes"] svg.main-svg')


def test_report_of_some_jobs(tmp_path: Path, opened: "Callable[..., Page]", capsys: pytest.CaptureFixture[str]) -> None:
    """With a filter it is about the jobs that pass and no others, and says so; what counts as the best is told where
    nobody has said it."""
    study = Study(tmp_path, ["lr", "seed"])
    for lr, score in ((1, 1.0), (2, 9.0), (1, 3.0)):
        study.job({"lr": lr, "seed": int(score)}, [(1, {"loss": score})], result=score)
    page = opened(study.report(where="lr == 1"))
    assert "of 2 of the 3 jobs, lr == 1: 100% completed" in " ".join(page.inner_text("#progress").split())
    assert ["0", "2"] == column(page, 0)
    assert ["1\t1\t2\t12.7\t2\t0,2"] == [line.strip() for line in page.locator("#best tbody tr").all_inner_texts()]
    study.experiment.save_pass_filter([1])
    out = tmp_path / "some.html"
    command = ["report", study.experiment.folder.path, "--selected", "--out", str(out)]
    assert capsys.readouterr().err.startswith("the largest result counts as the best;")
    assert (0, 0) == (main(command), main([*command, "--goal", "max"]))
    assert [
        "the largest result counts as the best; --goal min takes the smallest"
    ] == capsys.readouterr().err.splitlines()
    assert [1] == [row[0] for row in data_of(str(out))["rows"]]
    with pytest.raises(ExperimentManagerError, match=r"nothing passes the filter .* lr > 5 dropped 3 of 3"):
        study.report(where="lr > 5")


def test_failures_of_one_kind_are_together_with_the_end_of_a_log(tmp_path: Path, opened: "Callable[..., Page]") -> None:
    """The kind with most jobs comes first; the log is shown from its end, without the colours of a terminal."""
    study = Study(tmp_path, ["seed"])
    for seed in (1, 2, 3):
        reason = "no room" if seed == 1 else "diverged"
        log = "".join(f"line {place}\n" for place in range(100)) + "\x1b[31mlast\x1b[0m words\n"
        study.job({"seed": seed}, state=State.FAILED, reason=reason, log=log)
    page = opened(study.report())
    assert ["FAILED 2 jobs diverged", "FAILED 1 job no room"] == page.locator("#failures summary").all_inner_texts()
    shown = page.locator("#failures pre").first.inner_text().splitlines()
    assert ("line 71", "last words", 30) == (shown[0], shown[-1], len(shown))


def test_page_tells_how_a_sweep_was_launched(
    program: Program, opened: "Callable[..., Page]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Command, commit and whether it was clean, of a real sweep in a real repository."""

    def git(*words: str) -> str:
        command = ["git", "-c", "user.email=me@home", "-c", "user.name=me", *words]
        return subprocess.run(command, cwd=program.home, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    program.sweep("seed=1,2", "hydra/launcher=slurm_script")
    done = program.tool("report", "--out", "page.html")
    path = str(program.home / "page.html")
    assert (0, f"{path}\n") == (done.returncode, done.stdout)
    told = opened(path).inner_text("#launches")
    assert "train.py -m seed=1,2" in told
    assert git("rev-parse", "HEAD") in told
    assert "clean" in told
    monkeypatch.chdir(program.home)
    experiment = Experiment.at(program.experiment)
    record = program.experiment / "launches/0001/launch.json"
    whole = record.read_text()
    for found, said in (
        ('["helper.py"]', "with files that git does not know"),
        ("null", "no change of what git knows"),
    ):
        record.write_text(whole.replace('"git_untracked": []', f'"git_untracked": {found}'))
        assert said in opened(experiment.report()).inner_text("#launches")
    program.edit("how: well", "how:  well")
    create_launch(experiment.folder, [], {})
    assert "uncommitted changes" in opened(experiment.report()).locator("#launches details").first.inner_text()


# -- the page itself --------------------------------------------------------------------------------------------------


def test_hostile_text_stays_text(tmp_path: Path, opened: "Callable[..., Page]") -> None:
    """Names, values, reasons, logs and metrics that look like HTML are shown letter by letter, and nothing runs."""
    study = Study(tmp_path, ["name", HOSTILE], name="<b>study")
    for value in (HOSTILE, "<!-- <script>"):
        lines = [(1, {HOSTILE: 1}), (2, {HOSTILE: 2})]
        study.job({"name": value, HOSTILE: value}, lines, result={HOSTILE: 3, "text": value})
    study.job({"name": "x", HOSTILE: 1}, state=State.FAILED, reason=HOSTILE, log=HOSTILE + "\n")
    page = opened(study.report(metric=HOSTILE))
    page.locator(".curve").scroll_into_view_if_needed()
    page.wait_for_selector(".curve .scatterlayer")
    page.wait_for_timeout(100)
    assert "<b>study · report" == page.title()
    assert HOSTILE == column(page, 4)[0]
    assert HOSTILE == page.inner_text("#failures pre")
    assert HOSTILE == page.inner_text("figcaption")
    assert (3, 0) == (page.locator("script").count(), page.locator("img").count())


def brightness(page: "Page") -> float:
    """The mean brightness of the page's background and the plot's paper, 0 to 255, from the pixels themselves."""
    from matplotlib.image import imread

    shot = page.screenshot()
    return float(imread(io.BytesIO(shot), format="png")[..., :3].mean() * 255)


def test_page_is_dark_where_people_want_it_dark(sizes: Study, opened: "Callable[..., Page]") -> None:
    """The colours follow the browser, also those of the plots, and a page that is open changes with it; print is
    light, and the buttons of a plot hide nothing of it."""
    study = sizes
    study.job({"algorithm": "SAC", "size": 1}, [(1, {"x": 1}), (2, {"x": 2})])
    path = study.report()
    page = opened(path, "dark")
    page.locator(".curve").scroll_into_view_if_needed()
    page.wait_for_selector(".curve .scatterlayer")
    ink = "() => document.querySelector('.curve')._fullLayout.font.color"
    assert 70 > brightness(page)
    behind = "() => getComputedStyle(document.querySelector('.curve .modebar-group')).backgroundColor"
    assert "rgba(0, 0, 0, 0)" == page.evaluate(behind)
    assert "#98a2b3" == page.evaluate(ink)
    page.emulate_media(color_scheme="light")
    assert 200 < brightness(page)
    assert "#5d6778" == page.evaluate(ink)
    page.emulate_media(color_scheme="dark", media="print")
    assert 200 < brightness(page)


def test_nothing_to_show_is_said(tmp_path: Path, opened: "Callable[..., Page]") -> None:
    """An experiment that has not begun has a page, too."""
    study = Study(tmp_path, ["seed"])
    study.experiment.add_job({"seed": 1}, {})
    study.experiment.save()
    page = opened(study.report())
    assert "No job has logged metrics" in page.inner_text("#curves")
    assert "No job has completed and left a number yet." in page.inner_text("#best")
    assert "None." in page.inner_text("#failures")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"metric": "speed"}, "no job has left a number called 'speed'; there are score"),
        ({"group_by": ["lr"]}, "'lr' is no variable; the variables are algorithm, size"),
        ({"average_over": ["seed"]}, "'seed' is no variable; the variables are algorithm, size"),
        ({"goal": "best"}, "the goal is max or min, not 'best'"),
        ({"path": "/no/such/folder/report.html"}, "/no/such/folder/report.html cannot be made or written"),
    ],
)
def test_mistake_is_answered_with_what_there_is(sizes: Study, options: dict[str, Any], sentence: str) -> None:
    """One sentence names what is wrong, and nothing is written."""
    with pytest.raises(ExperimentManagerError, match=re.escape(sentence)):
        sizes.report(**options)
    assert [] == list(Path(sizes.experiment.folder.path).glob("*.html"))


def test_missing_extra_is_one_sentence(program: Program) -> None:
    """Without Plotly the command says what to install, and exits with 2."""
    (program.home / "plotly.py").write_text("raise ModuleNotFoundError('No module', name='plotly')\n")
    study = Study(program.home / "experiments", ["seed"], "train")
    study.job({"seed": 1})
    done = program.tool("report", PYTHONPATH=str(program.home))
    assert (2, "") == (done.returncode, done.stdout)
    assert (
        "error: a report needs plotly; install it with pip install 'hydra-experiment-manager[report]'\n" == done.stderr
    )


# -- the view, in the page's address ----------------------------------------------------------------------------------


def test_link_shows_what_was_looked_at(tmp_path: Path, opened: "Callable[..., Page]") -> None:
    """Order, filter, states, chosen curves and chosen jobs stand in the address; who opens it sees the same, and one
    that asks for what is not there shows the rest."""
    study = Study(tmp_path, ["algorithm", "size"])
    lines = [(step, {"loss": 1.0 / (step + 1)}) for step in range(3)]
    for size in (9, 10, 100, 2):
        study.job({"algorithm": "TD3", "size": size}, lines, result={"score": size})
    study.job({"algorithm": "DDPG", "size": 30}, lines, state=State.FAILED, reason="too large")
    path = study.report()
    page = opened(path)
    assert "" == page.evaluate("location.hash")
    head(page, "size").click()
    head(page, "size").click()
    page.fill("#filter", "td3")
    page.click("[data-state=COMPLETED]")
    page.locator("#legend button").nth(0).click()
    page.check("#log-scale")
    for job_id in (2, 1):
        page.locator("#table button.choose").get_by_text(str(job_id), exact=True).click()
    looked_at = view_of(page)
    link = page.evaluate("location.hash")
    assert ["2", "1", "0", "3"] == looked_at[0]
    page = opened(path)
    assert looked_at != view_of(page)
    page.evaluate("hash => { location.hash = hash }", link)
    page.wait_for_function("document.getElementById('filter').value === 'td3'")
    assert (looked_at, link) == (view_of(page), page.evaluate("location.hash"))
    page.evaluate("location.hash = '#view?sort=result:nothing&state=TIRED&jobs=77&curve=x'")
    page.wait_for_function("document.querySelectorAll('#table tbody tr').length === 0")
    page.evaluate("location.hash = '#view?'")
    page.wait_for_function("document.querySelectorAll('#table tbody tr').length === 5")


def view_of(page: "Page") -> tuple[Any, ...]:
    """The rows in their order, the curves that are drawn, whether they are logarithmic, and the jobs side by side."""
    pressed = page.locator("#legend button").evaluate_all("all => all.map(one => one.getAttribute('aria-pressed'))")
    return column(page, 0), pressed, page.is_checked("#log-scale"), page.inner_text("#pair")


def test_figures_keep_their_places(tmp_path: Path, opened: "Callable[..., Page]") -> None:
    """Drawn again, as by a click on the legend or by a link, each figure is as high as it was, and hides no other."""
    study = Study(tmp_path, ["algorithm", "seed"])
    for place in range(6):
        lines = [(step, {"loss": place * step}) for step in range(3)]
        study.job({"algorithm": "TD3" if place % 2 else "DDPG", "seed": place // 2}, lines, result={"score": place})
    page = opened(study.report())
    heights = "[...document.querySelectorAll('.plot.compared')].map(one => [one.offsetHeight, one._fullLayout.height])"
    before = page.evaluate(heights)
    page.click("#all-groups")
    page.evaluate("location.hash = '#view?curve=algorithm%3DTD3'")
    page.wait_for_function("document.querySelectorAll('#legend [aria-pressed=false]').length === 1")
    assert before == page.evaluate(heights)
    assert [True, True, True] == [outer == inner > 0 for outer, inner in before]


def test_two_jobs_are_compared_by_a_click(sizes: Study, opened: "Callable[..., Page]") -> None:
    """What differs stands side by side, what is the same is counted; a third job takes the place of the first."""
    page = opened(sizes.report())
    choose = page.locator("#table button.choose")
    choose.nth(0).click()
    assert "job 0 is chosen" in page.inner_text("#pair")
    choose.nth(4).click()
    rows = [line.split("\t") for line in page.inner_text("#pair-table").splitlines()]
    assert [["job 0", "job 4"], ["COMPLETED", "FAILED"]] == [rows[0][-2:], rows[1][-2:]]
    assert {"variable algorithm", "variable size"} <= {row[0] for row in rows}
    choose.nth(2).click()
    assert ["job 4", "job 2"] == page.locator("#pair-table thead th[scope=col]").all_inner_texts()
    page.locator("#pair button").click()
    assert "" == page.inner_text("#pair")


def test_a_click_shows_the_end_of_the_log_of_a_job(
    tmp_path: Path, opened: "Callable[..., Page]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the table, also from an address; with a link to the file where the page lies beside it. Of many long logs,
    those of jobs that failed come first, and what is left out is said."""
    study = Study(tmp_path, ["seed"])
    study.job({"seed": 1}, log="all is well\n")
    study.job({"seed": 2}, state=State.FAILED, reason="no", log=f"{HOSTILE}\n\x1b[31mdiverged\x1b[0m\n")
    study.job({"seed": 3})
    path = study.report()
    page = opened(path)
    page.locator("#table button.choose").nth(1).click()
    assert f"{HOSTILE}\ndiverged" == page.inner_text("#pair pre")
    assert "jobs/1/stderr.1.log" == page.get_attribute("#pair a", "href")
    assert (Path(path).parent / "jobs/1/stderr.1.log").is_file()
    page.evaluate("location.hash = '#view?jobs=2'")
    page.wait_for_function("document.querySelector('#pair').innerText.includes('Job 2: it has printed nothing.')")
    monkeypatch.setattr(contents, "MOST_OF_LOGS", 10)
    elsewhere = opened(study.report(path=tmp_path / "elsewhere.html"))
    elsewhere.locator("#table button.choose").nth(1).click()
    assert 0 == elsewhere.locator("#pair a").count()
    elsewhere.locator("#table button.choose").nth(0).click()
    said = elsewhere.inner_text("#pair")
    assert "Job 0: the end of its log is not on this page; experiment-manager logs shows it." in said
    assert "diverged" in said


def test_figures_and_their_data_are_saved(tmp_path: Path, opened: "Callable[..., Page]") -> None:
    """Each figure has a button for an SVG of it and one for a CSV of what is drawn, which are files of its name."""
    study = Study(tmp_path, ["lr"])
    for lr in (0.1, 0.2):
        study.job({"lr": lr}, [(step, {"loss": lr * step}) for step in range(3)], result={"score": lr})
    page = opened(study.report())
    page.locator(".plot.curve").scroll_into_view_if_needed()
    page.wait_for_selector(".plot.curve[data-drawn]")
    saved = {}
    for title in ("Save as SVG", "Save its data as CSV"):
        page.hover(".plot.curve")
        with page.expect_download() as download:
            page.locator(f".plot.curve [data-title='{title}']").click()
        saved[download.value.suggested_filename] = Path(download.value.path()).read_text()
    assert {"loss.svg", "loss.csv"} == set(saved)
    assert saved["loss.svg"].lstrip().startswith("<svg")
    lines = saved["loss.csv"].splitlines()
    assert ("group,step,mean,low,high,jobs", 6) == (lines[0], len(lines) - 1)
    assert "lr=0.1,2,0.2,,,1" in lines
