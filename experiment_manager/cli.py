"""The command line: each verb is the twin of a call on `Experiment`. Prints, and decides nothing."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import experiment_manager
from experiment_manager import cli_follow, cli_report, cli_results, cli_slurm, cli_status, filters, tables, views
from experiment_manager.decisions import REFUSED
from experiment_manager.errors import ExperimentManagerError
from experiment_manager.experiment import Experiment
from experiment_manager.find import find_experiments
from experiment_manager.ids import format_ids
from experiment_manager.progress import settings_text
from experiment_manager.records import State
from experiment_manager.rows import flattened

app = typer.Typer(
    name="experiment-manager",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(is_asked: bool) -> None:
    if is_asked:
        tables.say(experiment_manager.__version__)
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Define, filter, run and follow many experiments. An experiment is a folder, such as experiments/train."""


Folder = Annotated[Path, typer.Argument(help="The experiment's folder.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", help="Only jobs that pass this filter; may be repeated."),
]
Selected = Annotated[bool, typer.Option("--selected", help="Only jobs that pass the saved filter.")]


cli_status.register(app)
cli_results.register(app)
cli_follow.register(app)
cli_slurm.register(app)
cli_report.register(app)


def main(argv: Sequence[str]) -> int:
    """The exit status of a command line: 2, after one sentence, for a user's mistake."""
    try:
        app(args=list(argv), prog_name="experiment-manager")
    except ExperimentManagerError as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
    return 0


@app.command(
    epilog="Example: experiment-manager run experiments/train 7",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
)
def run(context: typer.Context) -> None:
    """Run one job here; `run --help` tells more."""
    from experiment_manager.run import main as run_main

    raise typer.Exit(run_main(context.args))


@app.command(epilog="Example: experiment-manager jobs experiments/train --where 'seed < 3'")
def jobs(folder: Folder, where: Where = None, selected: Selected = False, json: Json = False) -> None:
    """List the jobs with their variables, states, and whether they pass the saved filter."""
    experiment = Experiment.at(folder)
    rows = experiment.jobs(experiment.rules(where, selected=selected))
    if json:
        tables.print_json(rows)
    else:
        tables.print_rows([flattened(row, "variables") for row in rows])


@app.command(epilog="Example: experiment-manager show experiments/train 2")
def show(
    folder: Folder,
    job: Annotated[int, typer.Argument(help="The id of the job.", show_default=False)],
    resolve: Annotated[bool, typer.Option("--resolve", help="With values in the place of interpolations.")] = False,
    json: Json = False,
) -> None:
    """Show one job: variables, overrides, configuration, the command to paste, attempts, logs and tracebacks."""
    found = Experiment.at(folder).show(job, resolve=resolve)
    if json:
        tables.print_json(found)
        return
    tables.say(f"job {found['job']}  {found['state']}  {settings_text(found['variables'])}")
    tables.say(f"directory: {found['directory']}")
    if found["overrides"]:
        tables.say("overrides: " + " ".join(found["overrides"]))
    tables.say("configuration:" + ("" if found["configuration"] is not None else " none yet"))
    if found["configuration"] is not None:
        tables.say(tables.indented(tables.yaml_text(found["configuration"])))
    tables.say("command:\n  " + (found["command"] or _no_command(folder, found)))
    for attempt in found["attempts"]:
        _show_attempt(attempt)
    if found["attempts"]:
        _show_trouble(found["attempts"][-1])


def _no_command(folder: Path, found: Mapping[str, Any]) -> str:
    if found["configuration"] is None:
        return "none yet: the job is composed, and frozen, when it first passes a sweep's filter"
    return f"experiment-manager run {folder} {found['job']} --runner runner.py"


def _show_attempt(attempt: Mapping[str, Any]) -> None:
    reason = f"  {attempt['reason']}" if attempt["reason"] else ""
    tables.say(f"attempt {attempt['attempt']}  {attempt['state']}{reason}  {_times(attempt)}")
    for kind, path in attempt["logs"].items():
        tables.say(f"  {kind}: {path}")


def _show_trouble(attempt: Mapping[str, Any]) -> None:
    """What the attempt left to read, when it ended badly."""
    if attempt["state"] in (State.COMPLETED, State.RUNNING, State.FAKE):
        return
    if attempt["traceback"]:
        tables.say(tables.indented(attempt["traceback"]))
    elif "stderr" in attempt["logs"]:
        lines = views.tail(attempt["logs"]["stderr"])
        if lines:
            tables.say("  last lines of stderr:\n" + tables.indented("\n".join(lines)))


def _times(attempt: Mapping[str, Any]) -> str:
    if not attempt["start"]:
        return ""
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(attempt["start"]))
    lasted = f", {attempt['end'] - attempt['start']:.1f} s" if attempt["end"] else ""
    memory = f", {attempt['peak_memory_bytes'] / 2**20:.0f} MiB" if attempt["peak_memory_bytes"] else ""
    return f"on {attempt['host']}, {began}{lasted}{memory}"


@app.command(
    name="filter", epilog="Example: experiment-manager filter experiments/train '{algorithm: TD3}' 'seed < 3' --explain"
)
def filter_(
    folder: Folder,
    rules: Annotated[
        list[str] | None,
        typer.Argument(
            help='What a job has to pass: {algorithm: TD3}, "seed < 3", 0-3,7, state:FAILED, sample:10, or the dotted '
            "path of a function. None: show the filter there is.",
            show_default=False,
        ),
    ] = None,
    explain: Annotated[bool, typer.Option(help="Tell what each rule dropped.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Save nothing.")] = False,
    json: Json = False,
) -> None:
    """Choose the jobs that may run, and save the choice as the pass filter."""
    experiment = Experiment.at(folder)
    if not rules:
        ids = experiment.get_filtered_ids()
        if json:
            tables.print_json({"jobs": ids})
        else:
            tables.say(f"{len(ids)} jobs pass the filter of {experiment.folder.path}: {format_ids(ids)}")
        return
    selection = experiment.select(rules)
    filters.require_some(selection.jobs, selection.dropped, list(experiment.iter_jobs()), experiment.folder.path)
    ids = [int(job.id) for job in selection.jobs]
    if not dry_run:
        experiment.save_pass_filter(ids, [step.rule for step in selection.dropped])
    steps: list[dict[str, Any]] = [
        {"rule": step.rule, "seen": step.seen, "dropped": len(step.ids), "jobs": list(step.ids)}
        for step in selection.dropped
    ]
    if json:
        tables.print_json({"jobs": ids, "saved": not dry_run, "rules": steps})
        return
    if explain:
        tables.print_rows([{**step, "jobs": tables.shortened(format_ids(step["jobs"]))} for step in steps])
    verb = "would pass" if dry_run else "may run"
    tables.say(f"{len(ids)} jobs of {experiment.folder.path} {verb}: {format_ids(ids)}")


@app.command(name="list", epilog="Example: experiment-manager list experiments")
def list_(folder: Annotated[Path, typer.Argument(help="Where to look.")] = Path("."), json: Json = False) -> None:
    """List the experiments below a folder, with their counts and age."""
    if not folder.is_dir():
        raise ExperimentManagerError(f"{folder} is no folder; name one that holds experiments")
    rows = []
    for experiment in find_experiments(folder):
        try:
            counts = experiment.counts()
        except ExperimentManagerError as error:
            views.say_skipped(str(error))
            continue
        age_h = (time.time() - Path(experiment.folder.manifest).stat().st_mtime) / 3600
        rows.append((experiment.folder.path, counts, age_h))
    if json:
        tables.print_json([{"path": p, "counts": {str(s): n for s, n in c.items()}, "age_h": a} for p, c, a in rows])
    elif rows:
        tables.print_rows(
            [{"experiment": p, "jobs": views.counts_text(c), "defined": tables.ago(a)} for p, c, a in rows]
        )
    else:
        tables.say(f"there are no experiments below {folder}")
