"""The verb of the command line that makes a page of an experiment: report."""

from pathlib import Path
from typing import Annotated

import typer

from experiment_manager.cli import terminal
from experiment_manager.cli.arguments import Folder, Json, Selected, Where
from experiment_manager.experiment import Experiment
from experiment_manager.text import names_in


def register(app: typer.Typer) -> None:
    """The verb is on the command line."""
    app.command(epilog="Example: experiment-manager report experiments/train --metric loss --goal min")(report)


def report(
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="The file to write. Default: report.html in the folder.")] = None,
    where: Where = None,
    selected: Selected = False,
    average_over: Annotated[
        str | None, typer.Option(help="Variables that only repeat a job: seed,fold. Default: those called seed.")
    ] = None,
    group_by: Annotated[
        str | None, typer.Option(help="Variables that make a group: algorithm,nn. Default: all others.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="What decides which is best. Default: the first number among the results.")
    ] = None,
    goal: Annotated[str, typer.Option(help="Whether the best is the largest or the smallest: max, min.")] = "max",
    json: Json = False,
) -> None:
    """Write one HTML file with progress, failures, the best, learning curves, all jobs and launches; print its path."""
    experiment = Experiment.at(folder)
    path = experiment.report(
        out,
        where=experiment.rules(where, selected=selected),
        average_over=_names(average_over),
        group_by=_names(group_by),
        metric=metric,
        goal=goal,
    )
    if json:
        terminal.print_json({"report": path})
    else:
        terminal.say(path)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else names_in(text)
