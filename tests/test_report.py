"""The report in a real browser: what it shows is what the experiment has, without a network, in the light and in the
dark."""

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiment_manager import Experiment
from experiment_manager.report.curves import mean_curve, series_of
from tests.conftest import clean_env

pytestmark = pytest.mark.xdist_group("browser")  # one worker installs it

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
HOSTILE = "</script><script>document.title='fooled'</script><b>&amp;"
SEEDS, STEPS = 3, 20


def value_at(algorithm: str, seed: int, step: int) -> float:
    """What a job logs: exact, so that means can be computed by hand."""
    return {"TD3": 2.0, "DDPG": 1.0}.get(algorithm, 0.5) * step + seed


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Three algorithms, one of a hostile name, with three seeds each; one job failed, one logged NaN."""
    found = Experiment(["algorithm", "seed"], "study", tmp_path_factory.mktemp("report"))
    for algorithm in ("TD3", "DDPG", HOSTILE):
        for seed in range(SEEDS):
            found.add_job({"algorithm": algorithm, "seed": seed}, {"algorithm": algorithm, "seed": seed})
    found.save()
    found.save_pass_filter(found.get_all_ids())

    def run(job_id: int, variables: Any, _: Any) -> Any:
        if job_id == 8:
            raise ValueError(f"no luck with {HOSTILE}")
        lines = (
            {"step": step, "time": 0.0, "values": {"return": value_at(variables["algorithm"], variables["seed"], step)}}
            for step in range(STEPS)
        )
        path = Path(found.folder.of_attempt(job_id, 1, "metrics"))
        text = "".join(json.dumps(line) + "\n" for line in lines)
        path.write_text(text + ('{"step": 20, "val' if job_id else ""))  # others are writing their last line
        return {"score": 10.0 * job_id - 5, "note": HOSTILE if job_id else "plain"}

    for job_id in found.get_all_ids():
        try:
            found.run_id(job_id, run)
        except ValueError:
            continue
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real Chromium, installed where root may; skips the tests where there is none."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None and os.geteuid() == 0 and shutil.which("apt-get"):
        install = ["apt-get", "install", "-y", "-q", "-o", "DPkg::Lock::Timeout=300", BROWSERS[0]]
        for command in (install, ["apt-get", "update", "-q"], install):
            if subprocess.run(command, capture_output=True, check=False).returncode == 0 and command is install:
                break
        path = shutil.which(BROWSERS[0])
    if path is None:
        pytest.skip("no Chromium here, and it cannot be installed: apt-get install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def file(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> str:
    return experiment.report(tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture
def page(browser: Any, file: str) -> Iterator[Any]:
    """The page, opened as from a file share; nothing may be asked of anybody, and no script may fail."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    asked: list[str] = []
    failed: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("pageerror", lambda error: failed.append(str(error)))
    opened.goto(Path(file).as_uri())
    yield opened
    assert [Path(file).as_uri()] == [url for url in asked if not url.startswith(("data:", "blob:"))]
    assert [] == failed
    opened.close()


def column(page: Any, place: int) -> list[str]:
    found: list[str] = page.locator(f"#table tbody td:nth-child({place + 1})").all_inner_texts()
    return found


def heads(page: Any) -> list[str]:
    found: list[str] = page.locator("#table th button").all_inner_texts()
    return [text.strip() for text in found]


def test_a_click_sorts_the_jobs_by_number(page: Any) -> None:
    """Numbers are in the order of numbers, either way round; jobs without one come last."""
    score = heads(page).index("score")
    button = page.locator("#table th button", has_text="score")
    button.click()
    values = column(page, score)
    assert ["-5", "5", "15", "25", "35", "45", "55", "65", ""] == values
    button.click()
    assert ["65", "55", "45", "35", "25", "15", "5", "-5", ""] == column(page, score)


def test_jobs_are_filtered_by_text_and_by_state(page: Any) -> None:
    """Every word has to be in a row, name=value exactly in its column; states are chosen by a click."""
    page.locator("#filter").fill("ddpg")
    assert ["3", "4", "5"] == column(page, 0)
    page.locator("#filter").fill("seed=1 td3")
    assert ["1"] == column(page, 0)
    page.locator("#filter").fill("")
    page.locator("#states button", has_text="FAILED").click()
    assert ["8"] == column(page, 0)
    assert "1 of 9 jobs" == page.locator("#shown").inner_text()


def test_curves_are_the_means_over_seeds(page: Any) -> None:
    """What Plotly draws for a group is the mean of its jobs at each step, and the band that of Student's t."""
    plot = page.locator(".plot.curve").first
    plot.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('.plot.curve').dataset.drawn === 'yes'")
    drawn = page.evaluate(
        "document.querySelector('.plot.curve').data.filter((t) => t.fill !== 'toself')"
        ".map((t) => ({name: t.name, x: [...t.x], y: [...t.y]}))"
    )
    (td3,) = [trace for trace in drawn if trace["name"] == "algorithm=TD3"]
    assert list(range(STEPS)) == td3["x"]
    wanted = [statistics.mean(value_at("TD3", seed, step) for seed in range(SEEDS)) for step in range(STEPS)]
    assert wanted == pytest.approx(td3["y"])
    half = 4.30265 * statistics.stdev(range(SEEDS)) / math.sqrt(SEEDS)
    band = page.evaluate(
        "document.querySelector('.plot.curve').data.filter((t) => t.fill === 'toself' && t.name === 'algorithm=TD3')"
        ".map((t) => [...t.y])[0]"
    )
    assert wanted[0] - half == pytest.approx(band[0], rel=1e-6)
    assert wanted[0] + half == pytest.approx(band[-1], rel=1e-6)


def test_text_of_people_stays_text(page: Any) -> None:
    """Names, results and errors that look like a script are shown, and never run."""
    assert "study · report" == page.title()
    assert 0 == page.locator("main b:has-text('&')").count()
    assert f"ValueError: no luck with {HOSTILE}" in page.locator("#failures").inner_text()
    assert HOSTILE in column(page, heads(page).index("algorithm"))


@pytest.mark.parametrize(("scheme", "is_light"), [("light", True), ("dark", False)])
def test_page_is_readable_in_light_and_dark(browser: Any, file: str, scheme: str, is_light: bool) -> None:
    """The page follows what the reader has set, and text stands out from its ground."""
    opened = browser.new_page(color_scheme=scheme)
    opened.goto(Path(file).as_uri())
    ground, ink = opened.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('h1')).color]"
    )
    brightness = [sum(map(int, text.strip("rgb()").split(",")[:3])) / 765 for text in (ground, ink)]
    opened.close()
    assert is_light is (brightness[0] > 0.5)
    assert abs(brightness[0] - brightness[1]) > 0.6


def test_what_is_best_is_said(experiment: Experiment, browser: Any, tmp_path: Path) -> None:
    """The configuration with the best mean comes first, by the metric and the goal that were asked for."""
    opened = browser.new_page()
    for goal, first in (("max", HOSTILE), ("min", "TD3")):
        path = experiment.report(tmp_path / f"{goal}.html", metric="score", goal=goal)
        opened.goto(Path(path).as_uri())
        assert first in opened.locator("#best tbody tr").first.inner_text()
    opened.close()


def tool(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "experiment_manager", "report", *arguments]
    return subprocess.run(command, env=clean_env(**env), capture_output=True, text=True, check=False)


def test_report_with_a_mistake(experiment: Experiment) -> None:
    """Unknown names are answered with those that there are, and no file is written."""
    for arguments, said in (
        (("--metric", "scores"), "no job has left a number called 'scores'; there are score, return"),
        (("--group-by", "algo"), "'algo' is no variable; the variables are algorithm, seed"),
        (("--goal", "best"), "the goal is max or min, not 'best'"),
        (("--out", "/proc/nowhere/report.html"), "cannot be made or written"),
    ):
        done = tool(experiment.folder.path, *arguments)
        assert (2, True) == (done.returncode, said in done.stderr), done.stderr
    assert not os.path.exists(experiment.folder.join("report.html"))
    assert (0, f"{experiment.folder.join('report.html')}\n") == (
        (done := tool(experiment.folder.path)).returncode,
        done.stdout,
    )


def test_report_without_its_extra(experiment: Experiment, tmp_path: Path) -> None:
    """Where the libraries are not installed, the sentence says what to install."""
    (tmp_path / "plotly.py").write_text("raise ImportError('none here', name='plotly')\n")
    done = tool(experiment.folder.path, PYTHONPATH=str(tmp_path))
    assert (2, True) == (done.returncode, "pip install 'hydra-experiment-manager[report]'" in done.stderr)


def test_curves_of_uneven_jobs() -> None:
    """A job counts between its first and its last step; what is not finite leaves a gap; without steps order counts."""
    one, other = (
        series_of(logged)["x"] for logged in ([(0, {"x": 0}), (4, {"x": 4})], [(2, {"x": 10}), (6, {"x": 10})])
    )
    curve = mean_curve([one, other], 100)
    assert ([0, 2, 4, 6], [0, 6, 7, 10], [1, 2, 2, 1]) == (curve.steps, curve.means, curve.counts)
    assert [None, None] == [curve.lows[0], curve.highs[3]]
    broken = series_of([(0, {"x": 1}), (1, {"x": math.nan}), (2, {"x": math.inf})])["x"]
    assert [1, None, None] == mean_curve([broken], 100).means
    assert [0, 1] == list(series_of([(None, {"x": 5}), (None, {"x": 6})])["x"].steps)
    assert 10 == len(mean_curve([series_of((step, {"x": step}) for step in range(1000))["x"]], 10).steps)
