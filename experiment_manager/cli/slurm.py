"""The verbs of the command line that hand jobs to SLURM and take them back: script, submit, cancel."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from experiment_manager.cli import terminal
from experiment_manager.cli.terminal import Folder, Json, Where
from experiment_manager.errors import OptionsError
from experiment_manager.experiment import Experiment
from experiment_manager.model.ids import format_ids
from experiment_manager.scheduler import schedulers
from experiment_manager.scheduler.scripts import how_to_submit
from experiment_manager.scheduler.submission import newest_launch, test_only
from experiment_manager.text import noun


def register(app: typer.Typer) -> None:
    """The verbs are on the command line."""
    example = "Example: experiment-manager script experiments/train --set partition=gpu timeout_min=600"
    app.command(epilog=example)(script)
    app.command(epilog="Example: experiment-manager submit experiments/train")(submit)
    app.command(epilog="Example: experiment-manager cancel experiments/train 0-3 --state QUEUED")(cancel)


def script(
    folder: Folder,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="SLURM options that replace those there are: mem_gb=64 timeout_min=600.", show_default=False
        ),
    ] = None,
    runner: Annotated[str | None, typer.Option(help="The script that runs jobs which were written in Python.")] = None,
    job_name: Annotated[str | None, typer.Option(help="How the names of the SLURM jobs begin.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Only the first so many of those that are to run.")] = None,
    rerun: Annotated[str, typer.Option(help="Of the jobs that have ended: failed, never, always.")] = "failed",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="One option: --set mem_gb=64; may be repeated.")
    ] = None,
    json: Json = False,
) -> None:
    """Write the array scripts for the jobs that pass the filter and have not completed; submit nothing.

    The options are those saved in slurm_config.json, else those of the last launch by SLURM.
    """
    experiment = Experiment.at(folder)
    paths = experiment.generate_slurm_script(
        runner, job_name, jobs, rerun=rerun, overrides=settings_of([*(set_ or []), *(settings or [])])
    )
    if json:
        terminal.print_json({"scripts": paths})
        return
    for path in paths:
        terminal.say(path)
    terminal.say(how_to_submit(experiment.folder, paths))


def settings_of(items: Sequence[str]) -> dict[str, Any]:
    """`mem_gb=64` as an option and its value, read as YAML reads it; `key=null` takes an option away."""
    import yaml

    found: dict[str, Any] = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals or not name:
            raise OptionsError(f"{item!r} is no setting of an option; write mem_gb=64")
        if not text:
            raise OptionsError(f"{item!r} has no value; write {name}=null to take the option away")
        value = yaml.safe_load(text) if text[:1] in "[{" or text in ("null", "true", "false") else text
        found[name] = value
    return found


def submit(
    folder: Folder,
    launch: Annotated[str | None, typer.Option(help="The launch to submit: 0003. Otherwise the newest.")] = None,
    test: Annotated[bool, typer.Option("--test-only", help="Ask SLURM what it would do, and submit nothing.")] = False,
    json: Json = False,
) -> None:
    """Submit the array scripts of the newest launch, all of them, each once: interrupted, type it again."""
    experiment = Experiment.at(folder)
    if test:
        chosen = newest_launch(experiment.folder, launch)
        answers, scheduler = test_only(experiment.folder, chosen), schedulers.of(chosen)
        if json:
            command = scheduler.submit_command if scheduler is not None else ""
            terminal.print_json([{"script": path, command: words} for path, words in answers])
        for path, words in () if json else answers:
            terminal.say(f"{path}: {words}")
        return
    done = experiment.submit(launch)
    if json:
        terminal.print_json([array._asdict() for array in done])
        return
    for array in done:
        edited = ", edited since it was written and submitted as it is" if array.is_edited else ""
        how = "submitted as" if array.is_new else "was submitted already, as"
        terminal.say(f"{array.script} {how} SLURM job {array.slurm_id}{edited}")


def cancel(
    folder: Folder,
    ids: Annotated[list[str] | None, typer.Argument(help="Ids and ranges: 0-3,7.", show_default=False)] = None,
    state: Annotated[str | None, typer.Option(help="Only jobs in these states: QUEUED,RUNNING.")] = None,
    where: Where = None,
    json: Json = False,
) -> None:
    """End jobs that wait or run: all of the experiment, or those that are named."""
    experiment = Experiment.at(folder)
    named = [",".join(ids)] if ids else []
    rules = [*named, *([f"state:{state}"] if state else []), *(where or [])]
    cancelled = experiment.cancel(rules or None)
    if json:
        terminal.print_json({"jobs": cancelled})
    elif cancelled:
        terminal.say(f"told {noun(len(cancelled))} {format_ids(cancelled)} of {experiment.folder.path} to end")
    else:
        terminal.say(f"no job of {experiment.folder.path} that you named waits or runs; nothing was cancelled")
