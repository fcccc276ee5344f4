"""Figures for a paper: intervals, performance profiles, learning curves and sensitivities of methods.

Methods can be told apart in grey: each has a colour, a dash pattern and a marker of its own. The same jobs make the
same file, byte by byte, and fonts are embedded as outlines (Type 42), which publishers take.
"""

import io
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from experiment_manager.analysis import inference
from experiment_manager.analysis.comparison import Logged, aggregate, curve, mixed_steps, profiles, steps_given
from experiment_manager.analysis.inference import Interval
from experiment_manager.analysis.scores import Scored, ScoreTable
from experiment_manager.analysis.series import Series
from experiment_manager.errors import ExperimentManagerError, NotInstalled
from experiment_manager.model.codec import is_number
from experiment_manager.model.ids import which
from experiment_manager.store.files import appearing
from experiment_manager.store.layout import writing
from experiment_manager.text import settings_text, value_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS: Final = ("pdf", "svg", "png")
_COLOURS: Final = ("#000000", "#D55E00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#E69F00", "#882255")
"""After Okabe and Ito, the last one after Tol: people who see colours differently tell them apart; neighbours differ in
lightness, too."""
_DASHES: Final[tuple[Any, ...]] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)), (0, (3, 3)))
_MARKERS: Final = "osD^vXP*"
_STYLE: Final[Mapping[str, Any]] = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "experiment-manager",
    "savefig.dpi": 300,
    "savefig.bbox": "tight",
}
_WIDTH, _HEIGHT = 3.3, 2.3
"""Of one panel, in inches: a column of a two-column paper."""
_MOST_ABREAST: Final = 4
"""So many panels stand side by side, more of them in several rows."""
_LOGARITHMIC: Final = 30.0
"""An axis is logarithmic where its values span more than so many times the least one."""


def check(kind: str, path: str, x: str | None, variables: Sequence[str] = ()) -> None:
    """Raise ExperimentManagerError unless there is such a figure, and the end of the file's name is a format; `x` is
    the variable of a sensitivity, one of the `variables`."""
    if os.path.splitext(path)[1][1:].lower() not in FORMATS:
        raise ExperimentManagerError(f"{path} does not end in {', '.join(f'.{one}' for one in FORMATS)}")
    if kind not in KINDS:
        raise ExperimentManagerError(f"{kind!r} is no figure; there are {', '.join(KINDS)}")
    if x is None and kind == "sensitivity":
        there_are = f"; the variables are {', '.join(variables)}" if variables else ""
        raise ExperimentManagerError(
            f"x names the variable of a sensitivity: write --x NAME, in Python x=NAME{there_are}"
        )
    if x is not None and kind != "sensitivity":
        raise ExperimentManagerError(f"x names the variable of a sensitivity, and {kind} has none; leave --x out")


def draw(kind: str, found: ScoreTable, path: str, *, logged: Logged, x: str | None = None) -> None:
    """The figure is in the file, whose ending says as what; see `check` for what can be drawn.

    Raises ExperimentManagerError for what cannot be drawn, and without Matplotlib; FolderError where the file cannot be
    written.
    """
    check(kind, path, x)
    ending = os.path.splitext(path)[1][1:].lower()
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NotInstalled("matplotlib", "analysis") from error
    image = io.BytesIO()
    style: Any = _STYLE
    with mpl.rc_context(style):
        figure = Figure()
        if kind == "curves":
            _curves(figure, found, logged)
        elif kind == "sensitivity":
            _sensitivity(figure, found, str(x))
        elif kind == "profile":
            _profile(figure, found)
        else:
            _intervals(figure, found)
        _write_as_it_is(figure)
        about = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}[ending]
        figure.savefig(image, format=ending, metadata=about)
    with writing(path), appearing(path, for_good=False) as temporary, open(temporary, "xb") as file:
        file.write(image.getbuffer())


def _write_as_it_is(figure: "Figure") -> None:
    """Names and values of people are no formulas, whatever dollars are in them."""
    for panel in figure.axes:
        legend = panel.get_legend()
        for text in (panel.title, panel.xaxis.label, panel.yaxis.label, *(legend.get_texts() if legend else ())):
            text.set_parse_math(False)


def _panels(figure: "Figure", count: int, *, height: float = _HEIGHT) -> list["Axes"]:
    """So many panels side by side, or in rows."""
    columns = min(count, _MOST_ABREAST)
    rows = math.ceil(count / columns)
    figure.set_size_inches(_WIDTH * columns, height * rows)
    found = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in found[count:]:
        unused.remove()
    if rows > 1:
        figure.subplots_adjust(hspace=0.5)
    return found[:count]


def _labels(found: ScoreTable) -> list[str]:
    """What methods are called in a figure: the value alone where one variable tells them apart, which all have."""
    names = {tuple(method.variables) for method in found.methods}
    if {len(each) for each in names} != {1} or len(names) > 1:
        return [method.label for method in found.methods]
    return [value_text(value) for method in found.methods for value in method.variables.values()]


def _looks(methods: Sequence[str]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Of each method: its label, how its line looks, and its marker, by the order of the labels: figures of the same
    methods show each of them alike, whichever is the best."""
    order = sorted(range(len(methods)), key=lambda number: methods[number])
    places = {number: place for place, number in enumerate(order)}
    for number, label in enumerate(methods):
        place = places[number]
        turned = place + place // len(_COLOURS)  # the ninth has the colour of the first, and another dash and marker
        line = {"color": _COLOURS[place % len(_COLOURS)], "linestyle": _DASHES[turned % len(_DASHES)]}
        yield label, line, _MARKERS[turned % len(_MARKERS)]


def _intervals(figure: "Figure", found: ScoreTable) -> None:
    """Each aggregate with its interval, methods from the best down."""
    names = [name for name in inference.AGGREGATES if name != "median" or len(found.task_labels) > 1]
    panels = _panels(figure, len(names), height=0.6 + 0.3 * len(found.methods))
    for name, panel in zip(names, panels, strict=True):
        for place, (_, line, marker) in enumerate(_looks(_labels(found))):
            value, low, high = aggregate(name, found.methods[place].scores)
            panel.hlines(-place, low, high, color=line["color"])
            panel.plot([low, high], [-place, -place], "|", color=line["color"])
            panel.plot(value, -place, marker, color=line["color"])
        shown = _labels(found) if panel is panels[0] else [""] * len(found.methods)
        panel.set_yticks([-place for place in range(len(found.methods))], shown, parse_math=False)
        panel.set_ylim(-len(found.methods) + 0.5, 0.5)
        panel.set_xlabel(f"{'IQM' if name == 'iqm' else name} of {found.metric}")


def _profile(figure: "Figure", found: ScoreTable) -> None:
    """The share of runs above each score, with its interval."""
    (panel,) = _panels(figure, 1)
    for profile, (label, line, _) in zip(profiles(found), _looks(_labels(found)), strict=True):
        _band(panel, profile, label, line)
    panel.set_xlabel(f"{found.metric} τ")
    panel.set_ylabel("share of runs above τ")
    panel.set_ylim(0.0, 1.0)
    panel.legend()


def _band(panel: "Axes", points: Sequence[tuple[float, Interval]], label: str, line: Mapping[str, Any]) -> None:
    """A line of values, and around it the band from the low ends to the high ones."""
    x, intervals = zip(*points, strict=True)
    values, lows, highs = zip(*intervals, strict=True)
    panel.plot(x, values, label=label, **line)
    panel.fill_between(x, lows, highs, color=line["color"], alpha=0.15, linewidth=0)


def _curves(figure: "Figure", found: ScoreTable, logged: Logged) -> None:
    """The interquartile mean at each step, with its interval: over all tasks, where there are several, then on each."""
    n_tasks = len(found.task_labels)
    tasks = [*([None] if n_tasks > 1 else []), *range(n_tasks)]
    panels = _panels(figure, len(tasks))
    all_series = [logged(method, found.metric) for method in found.methods]
    given = [
        one for method, series in zip(found.methods, all_series, strict=True) for one in steps_given(method, series)
    ]
    if (why := mixed_steps(given, found.metric)) is not None:
        raise ExperimentManagerError(why)
    for method, series, (label, line, _) in zip(found.methods, all_series, _looks(_labels(found)), strict=True):
        for task, panel in zip(tasks, panels, strict=True):
            points = curve(series, found, task)
            if not points or any(math.isnan(value) for _, (value, _, _) in points):
                raise ExperimentManagerError(_why_no_curve(series, method, found.metric, label))
            _band(panel, points, label, line)
    scaled = ", normalized" if found.least.any() or (found.width != 1.0).any() else ""
    together = [f"all {n_tasks} tasks{scaled}"] if n_tasks > 1 else []
    for title, panel in zip([*together, *found.task_labels], panels, strict=True):
        panel.set_title(title)
        panel.set_xlabel("step" if all(is_by_step for _, is_by_step in given) else "order of logging")
    panels[0].set_ylabel(f"IQM of {found.metric}")
    panels[0].legend()


def _why_no_curve(series: Sequence[Sequence[Series | None]], method: Scored, metric: str, label: str) -> str:
    runs = [run for of_run in series for run in of_run]
    jobs = [job for of_run in method.jobs for job in of_run]
    odd = [job for job, run in zip(jobs, runs, strict=True) if run and not all(map(math.isfinite, run.values))]
    if lacking := runs.count(None):
        return (
            f"{lacking} of {len(runs)} runs of {label} have not logged {metric}; name with --metric what all of "
            "them log by step"
        )
    if odd:
        return (
            f"{which(odd)} of {label} logged a {metric} that is no finite number, and a curve would have gaps there; "
            "choose other jobs with --where"
        )
    return (
        f"the runs of {label} have no steps of {metric} in common: none lies within the course of each; choose jobs "
        "that have with --where"
    )


def _sensitivity(figure: "Figure", found: ScoreTable, x: str) -> None:
    """The interquartile mean by the values of a variable, a line for each setting of the others."""
    lines: dict[str, list[tuple[float, Scored]]] = defaultdict(list)
    names = list(dict.fromkeys(name for method in found.methods for name in method.variables))
    for method in found.methods:
        if x in names and x not in method.variables:
            raise ExperimentManagerError(
                f"{which([job for run in method.jobs for job in run])} of {method.label} have no {x}; choose those "
                f"that have it with --where '{x} != None'"
            )
        value = method.variables.get(x)
        if not is_number(value):
            raise ExperimentManagerError(
                f"{x!r} is no variable with numbers by which methods differ; these differ in {', '.join(names)}"
            )
        others = {name: other for name, other in method.variables.items() if name != x}
        label = settings_text(others) or f"{', '.join(name for name in names if name != x)} not set"
        lines[label].append((float(value), method))
    (panel,) = _panels(figure, 1)
    for label, line, marker in _looks(list(lines)):
        methods = sorted(lines[label], key=lambda point: point[0])
        points = [(value, aggregate("iqm", method.scores)) for value, method in methods]
        _band(panel, points, label, {**line, "marker": marker})
    values = [value for points in lines.values() for value, _ in points]
    if min(values) > 0.0 and max(values) > _LOGARITHMIC * min(values):
        panel.set_xscale("log")
    panel.set_xlabel(x)
    panel.set_ylabel(f"IQM of {found.metric}")
    if len(lines) > 1:
        panel.legend()


KINDS: Final = ("intervals", "profile", "curves", "sensitivity")
