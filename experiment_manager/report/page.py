"""The page: the contents of a report as one HTML file that asks nobody for anything, and how it is written.

The browser is told so, too: a content security policy names the three scripts by their hashes and forbids the rest, so
that text of people which looked like a script would neither be run nor fetched.
"""

import hashlib
import json
from base64 import b64encode
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import experiment_manager
from experiment_manager.errors import ExperimentManagerError
from experiment_manager.model.records import ENDED_BADLY, State
from experiment_manager.text import tell

if TYPE_CHECKING:
    from experiment_manager.report.contents import Contents
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiment_manager.store.files import appearing
from experiment_manager.store.layout import writing

if TYPE_CHECKING:
    from experiment_manager.model.records import Job
    from experiment_manager.store.layout import Folder
    from experiment_manager.store.states import StateTable


_SCRIPTS = ("comparison.js", "view.js", "page.js")
_FAMILIES = {
    "COMPLETED": "good",
    "PRUNED": "pruned",
    "RUNNING": "running",
    "QUEUED": "waiting",
    "PENDING": "waiting",
    "FAKE": "waiting",
}


def require_extra() -> None:
    """Raise ExperimentManagerError, which says what to install, unless pages can be made."""
    try:
        import jinja2  # noqa: F401
        import plotly  # noqa: F401
    except ImportError as error:
        raise ExperimentManagerError(
            f"a report needs {error.name}; install it with pip install 'hydra-experiment-manager[report]'"
        ) from error


def render(contents: "Contents", *, is_beside: bool = False) -> str:
    """The whole HTML file. `is_beside` as in `_data`."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    data = in_script(_data(contents, is_beside=is_beside))
    scripts = {"plotly": get_plotlyjs(), "page": "".join(map(_source, _SCRIPTS))}
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = environment.from_string(_source("page.html"))
    html: str = template.render(
        contents=contents,
        version=experiment_manager.__version__,
        hashes=" ".join(f"'sha256-{_hash(text)}'" for text in scripts.values()),
        css=Markup(_source("page.css")),
        data=Markup(data),
        comparison=Markup(environment.from_string(_source("comparison.html")).render(compared=contents.compared)),
        total=sum(contents.counts.values()),
        family={str(state): "bad" if state in ENDED_BADLY else _FAMILIES[state] for state in State},
        **{name: Markup(text) for name, text in scripts.items()},
    )  # fmt: skip
    return html


def _source(name: str) -> str:
    return files("experiment_manager.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return b64encode(hashlib.sha256(text.encode()).digest()).decode()


def in_script(value: Any) -> str:
    """JSON that can stand inside of a script element, whatever text it holds.

    >>> print(in_script("</script>"))
    "\\u003c/script\\u003e"
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _data(contents: "Contents", *, is_beside: bool) -> dict[str, Any]:
    """The data that the page's own script shows: the table of jobs with the ends of their logs, and what Plotly draws;
    `is_beside`: the page lies in the folder of the experiment, so that it can link its files."""
    return {
        "columns": [[column.kind, column.name, column.is_number] for column in contents.columns],
        "rows": contents.rows,
        "logs": {log.job: [log.path, "\n".join(log.lines)] for log in contents.logs},
        "logsLeftOut": contents.n_logs_left_out,
        "isBeside": is_beside,
        "groups": [group.label for group in contents.drawn],
        "metrics": [
            {
                "name": metric.name,
                "axis": "step" if metric.by_step else "order of logging",
                "curves": [
                    {"group": place, **curve._asdict()} for place, curve in sorted(metric.curves.items())
                ],
            }
            for metric in contents.learning.metrics
        ],
        "search": [figure._asdict() for figure in (contents.search.figures if contents.search else ())],
        "compared": contents.compared.drawn if contents.compared else None,
        "best": {
            "metric": contents.metric,
            "configurations": [
                {"label": best.label, "points": best.points, "mean": best.drawn[0], "half": best.drawn[1]}
                for best in contents.best
                if best.drawn
            ],
        },
    }  # fmt: skip


def write_report(
    folder: "Folder",
    jobs: "Sequence[Job]",
    table: "StateTable",
    path: str | os.PathLike[str] | None,
    *,
    average_over: Sequence[str] | None,
    group_by: Sequence[str] | None,
    metric: str | None,
    goal: str | None,
    tasks: Sequence[str] = (),
    only: str = "",
) -> str:
    """The report is in a file; returns its absolute path. `only` says of which jobs, where they are not all.

    See `Experiment.report`.
    """
    from experiment_manager.report.contents import (  # whoever runs a job imports this module, and no report
        Choice,
        collect,
    )
    from experiment_manager.store.files import clear_leftovers_beside

    require_extra()
    target = os.path.abspath(folder.report if path is None else os.fspath(path))
    choice = Choice(average_over, group_by, metric, goal, only, tasks)
    contents = collect(folder, jobs, table, choice)
    if contents.metric is not None and contents.goal is None:
        tell(f"the largest {contents.metric} counts as the best; --goal min takes the smallest")
    html = render(contents, is_beside=os.path.dirname(target) == folder.path)
    clear_leftovers_beside(target)
    with writing(target), appearing(target) as temporary, open(temporary, "xb") as file:
        file.write(html.encode(errors="replace"))  # names of files need not be Unicode
    return target
