"""The verbs that keep experiments in order: move."""

from pathlib import Path
from typing import Annotated

import typer

from experiment_manager.cli import terminal
from experiment_manager.cli.terminal import Folder, Json
from experiment_manager.scheduler.moving import move as move_experiment
from experiment_manager.store import layout


def register(app: typer.Typer) -> None:
    """The verbs are on the command line."""
    app.command(epilog="Example: experiment-manager move experiments/train archive/train-2025")(move)


def move(
    folder: Folder,
    to: Annotated[Path, typer.Argument(help="Its new folder, or a folder that it is to lie in.", show_default=False)],
    json: Json = False,
) -> None:
    """Move or rename an experiment that neither runs nor waits; interrupted, type it again."""
    new = move_experiment(layout.Folder.at(folder), str(to))
    if json:
        terminal.print_json({"path": new.path})
    else:
        terminal.say(new.path)
