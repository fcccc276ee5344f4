"""The entry point: the program `experiment-manager`, its exit status, and the verbs that it has."""

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any, Final

import typer

import experiment_manager
from experiment_manager.cli import completion, terminal
from experiment_manager.errors import ExperimentManagerError
from experiment_manager.model.policy import PARTIAL, REFUSED
from experiment_manager.store.layout import is_refused, unwritable
from experiment_manager.text import all_skipped, tell

VERBS: Final[Mapping[str, Mapping[str, str]]] = {
    "jobs": {
        "status": "Tell how the jobs stand, and what went wrong.",
        "jobs": "List the jobs with their variables and states.",
        "show": "Show everything about one job.",
        "filter": "Choose the jobs that may run.",
        "list": "List the experiments below a folder.",
    },
    "results": {
        "results": "Show what jobs returned, and their last metrics.",
        "compare": "Tell which method is better, with intervals and tests.",
        "plot": "Draw a comparison for a paper.",
        "export": "Hand jobs to W&B, MLflow, TensorBoard or Trackio.",
        "efficiency": "Tell what jobs asked for, used and wasted.",
        "report": "Write one HTML page about all there is.",
    },
    "following": {
        "work": "Run jobs here, beside others who do so elsewhere.",
        "search": "Tell how a search stands, go on with it, or stop it.",
        "script": "Write the array scripts of jobs that are to run.",
        "submit": "Submit the array scripts of a launch, each once.",
        "cancel": "End jobs that wait or run.",
        "logs": "Print what a job has printed.",
        "resubmit": "Run jobs again that ended badly.",
        "heal": "Submit again, with more, what died for want of memory or time.",
        "diff": "Show two jobs side by side, and what tells them apart.",
        "archive": "Pack an experiment into one file.",
    },
    "housekeeping": {
        "move": "Move or rename an experiment.",
        "clean": "Free space: remove what nothing reads any more.",
        "tag": "Mark jobs, or the experiment, with words.",
        "note": "Write a line about a job, or about the experiment.",
        "hold": "Keep jobs from beginning until they are released.",
        "release": "Let jobs begin that were held.",
        "remove": "Take jobs that were a mistake out of all tables.",
        "doctor": "Tell what is odd about an experiment, and what to do.",
    },
    "mcp": {
        "mcp": "Offer the commands to agents, as tools.",
    },
}
"""The module of each verb, and what it does, in a line of the list of verbs; its own help says more."""

_RUN: Final = "Run one job here."


def program(verb: str | None = None) -> typer.Typer:
    """The program, with all its verbs; of a verb that there is, only it and those of its module: importing the others
    takes as long as many a verb itself."""
    app = typer.Typer(
        name="experiment-manager",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(top)
    homes = [home for home, verbs in VERBS.items() if verb in verbs]
    for home in homes or VERBS:
        import_module(f"experiment_manager.cli.{home}").register(app)
    app.command(
        cls=completion.RunCommand,
        epilog="Example: experiment-manager run experiments/train 7",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    )(run)
    lines = {"run": _RUN, **{one: line for verbs in VERBS.values() for one, line in verbs.items()}}
    for command in app.registered_commands:
        command.short_help = lines[str(command.name or getattr(command.callback, "__name__", ""))]
    return app


def _version(is_asked: bool) -> None:
    if is_asked:
        terminal.say(experiment_manager.__version__)
        raise typer.Exit


def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Define, filter, run and follow many experiments. An experiment is a folder, such as experiments/train."""


def run(context: typer.Context) -> None:
    """Run one job here; `run --help` tells more."""
    from experiment_manager.execution.run import main as run_main

    raise typer.Exit(run_main(context.args))


def main(argv: Sequence[str]) -> int:
    """The exit status of a command line: 2, after one sentence, for a user's mistake, also one of typing; 3 when
    something was left out."""
    try:
        os.getcwd()
    except FileNotFoundError:
        tell("error: the working directory was removed; cd to one that is there")
        return REFUSED
    status = 0
    all_skipped()
    try:
        left = program(argv[0] if argv else None)(
            args=list(argv), prog_name="experiment-manager", standalone_mode=False
        )
        status = left if isinstance(left, int) else 0
    except completion.usage_error() as error:
        return _refused_call(error)
    except typer.Abort:
        tell("stopped; nothing more was done")
        return 1
    except ExperimentManagerError as error:
        tell(f"error: {error}")
        return REFUSED
    except RecursionError:  # of what others have written: no record of ours is so deep
        tell("error: what was to be told is nested too deeply; `experiment-manager doctor FOLDER` tells what is odd")
        return REFUSED
    except OSError as error:
        if not is_refused(error):
            raise
        tell(f"error: {unwritable(os.getcwd(), error)}")
        return REFUSED
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
    return PARTIAL if all_skipped() and not status else status


def _refused_call(error: Any) -> int:
    """The exit status of a call that cannot be read, which is told in one sentence; help that was asked for by naming
    nothing is shown."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return int(error.exit_code)
    context = error.ctx
    command = "experiment-manager" if context is None else context.command_path
    hint = f"`{command} --help` tells what there is"
    if (option := getattr(error, "option_name", None)) is not None and hasattr(error, "possibilities"):
        meant = f"; did you mean {' or '.join(sorted(error.possibilities)[:3])}?" if error.possibilities else ""
        words = f"{command} has no option {option}{meant}"
    else:
        text = " ".join(error.format_message().split()).rstrip(".")
        words = f"{command}: {text[:1].lower()}{text[1:]}"
    tell(f"error: {words}{'' if words.endswith('?') else ';'} {hint}")
    return REFUSED
