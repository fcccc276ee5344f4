"""The entry point: the program `experiment-manager`, its exit status, and the verbs that it has."""

import os
from collections.abc import Sequence
from typing import Annotated

import typer

import experiment_manager
from experiment_manager.cli import following, housekeeping, jobs, mcp, results, terminal
from experiment_manager.errors import ExperimentManagerError
from experiment_manager.model.policy import PARTIAL, REFUSED
from experiment_manager.store.layout import is_refused, unwritable
from experiment_manager.text import all_skipped, tell

app = typer.Typer(
    name="experiment-manager",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(is_asked: bool) -> None:
    if is_asked:
        terminal.say(experiment_manager.__version__)
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Define, filter, run and follow many experiments. An experiment is a folder, such as experiments/train."""


for verbs in (jobs, results, following, housekeeping, mcp):
    verbs.register(app)


def main(argv: Sequence[str]) -> int:
    """The exit status of a command line: 2, after one sentence, for a user's mistake; 3 when something was left out."""
    try:
        os.getcwd()
    except FileNotFoundError:
        tell("error: the working directory was removed; cd to one that is there")
        return REFUSED
    status = 0
    all_skipped()
    try:
        app(args=list(argv), prog_name="experiment-manager")
    except ExperimentManagerError as error:
        tell(f"error: {error}")
        return REFUSED
    except OSError as error:
        if not is_refused(error):
            raise
        tell(f"error: {unwritable(os.getcwd(), error)}")
        return REFUSED
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
    return PARTIAL if all_skipped() and not status else status


@app.command(
    epilog="Example: experiment-manager run experiments/train 7",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
)
def run(context: typer.Context) -> None:
    """Run one job here; `run --help` tells more."""
    from experiment_manager.execution.run import main as run_main

    raise typer.Exit(run_main(context.args))
