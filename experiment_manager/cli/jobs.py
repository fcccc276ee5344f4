"""The verbs for what an experiment is: its jobs, one of them, which may run, and the experiments there are."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from experiment_manager.analysis.jobs import tail
from experiment_manager.analysis.status import counts_text
from experiment_manager.analysis.tables import chosen_columns, columns_of, flattened, only_columns
from experiment_manager.cli import terminal
from experiment_manager.cli.terminal import HOW_TO_GET_MORE, Columns, Folder, JobNumber, Json, Selected, Where
from experiment_manager.errors import ExperimentManagerError
from experiment_manager.experiment import Experiment, counts_of, find_experiments
from experiment_manager.model import codec, filters
from experiment_manager.model.ids import format_ids, shortened
from experiment_manager.model.records import State
from experiment_manager.text import as_word, names_in, one_line, settings_text


def register(app: typer.Typer) -> None:
    """The verbs are on the command line."""
    app.command(epilog="Example: experiment-manager jobs experiments/train --where 'seed < 3'")(jobs)
    app.command(epilog="Example: experiment-manager show experiments/train 2")(show)
    example = "Example: experiment-manager filter experiments/train '{algorithm: TD3}' 'seed < 3' --explain"
    app.command(name="filter", epilog=example)(filter_)
    app.command(name="list", epilog="Example: experiment-manager list experiments")(list_)


def jobs(
    folder: Folder,
    where: Where = None,
    selected: Selected = False,
    columns: Columns = None,
    json: Json = False,
) -> None:
    """List the jobs with their variables, states, and whether they pass the saved filter."""
    experiment = Experiment.at(folder)
    rows = experiment.jobs(experiment.rules(where, selected=selected))
    if json:
        terminal.print_json(rows)
    else:
        exact = {name for row in rows for name in row["variables"]}
        flat = [flattened(row, "variables") for row in rows]
        if columns is not None and flat:
            flat = only_columns(flat, chosen_columns(columns_of(flat), names_in(columns)))
        if columns is not None:
            terminal.print_rows(flat, optional=list(flat[0])[1:] if flat else (), more=HOW_TO_GET_MORE, exact=exact)
        else:
            terminal.print_rows(flat, minor=("selected", "attempt"), more=HOW_TO_GET_MORE, exact=exact)


def show(
    folder: Folder,
    job: JobNumber,
    resolve: Annotated[bool, typer.Option("--resolve", help="With values in the place of interpolations.")] = False,
    json: Json = False,
) -> None:
    """Show one job: variables, overrides, configuration, the command to paste, attempts, logs and tracebacks."""
    found = Experiment.at(folder).show(job, resolve=resolve)
    if json:
        terminal.print_json(found)
        return
    terminal.say(f"job {found['job']}  {found['state']}  {settings_text(found['variables'])}")
    terminal.say(f"directory: {found['directory']}")
    if found["overrides"]:
        terminal.say("overrides: " + " ".join(found["overrides"]))
    terminal.say("configuration:" + ("" if found["configuration"] is not None else " none yet"))
    if found["configuration"] is not None:
        terminal.say(terminal.indented(codec.yaml_text(found["configuration"])))
    terminal.say("command:\n  " + (found["command"] or _no_command(folder, found)))
    for attempt in found["attempts"]:
        _show_attempt(attempt)
    if found["attempts"]:
        _show_trouble(found["attempts"][-1])


def _no_command(folder: Path, found: Mapping[str, Any]) -> str:
    if found["configuration"] is None:
        return "none yet: the job is composed, and frozen, when it first passes a sweep's filter"
    return f"experiment-manager run {as_word(folder)} {found['job']} --runner runner.py"


def _show_attempt(attempt: Mapping[str, Any]) -> None:
    reason = f"  {one_line(str(attempt['reason']))}" if attempt["reason"] else ""
    terminal.say(f"attempt {attempt['attempt']}  {attempt['state']}{reason}  {_times(attempt)}")
    if attempt["launch"]:
        terminal.say(f"  {_launched(attempt)}")
    for kind, path in attempt["logs"].items():
        terminal.say(f"  {kind}: {path}")


def _launched(attempt: Mapping[str, Any]) -> str:
    """`launch 0001 as SLURM 12_7: commit 1f3a9c2 with changes, Python 3.11.7`."""
    about = attempt["environment"]
    task = f" as SLURM {attempt['slurm_task']}" if attempt["slurm_task"] else ""
    commit = f"commit {about['git_commit'][:12]}" if about.get("git_commit") else "no commit known"
    changes = f" with changes (launches/{attempt['launch']}/code.patch)" if about.get("git_dirty") else ""
    python = f", Python {about['python']}" if about.get("python") else ""
    gpus = f", {one_line(attempt['gpus'])}" if attempt["gpus"] else ""
    return f"launch {attempt['launch']}{task}: {commit}{changes}{python}{gpus}"


def _show_trouble(attempt: Mapping[str, Any]) -> None:
    """Prints the traceback of an attempt that ended badly, or the end of its log."""
    is_good = attempt["state"] is State.FAKE and not attempt["reason"]
    if is_good or attempt["state"] in (State.COMPLETED, State.RUNNING):
        return
    if attempt["traceback"]:
        terminal.say(terminal.indented(attempt["traceback"]))
    elif "stderr" in attempt["logs"]:
        lines = tail(attempt["logs"]["stderr"])
        if lines:
            terminal.say("  last lines of stderr:\n" + terminal.indented("\n".join(lines)))


def _times(attempt: Mapping[str, Any]) -> str:
    if not attempt["start"]:
        return ""
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(attempt["start"]))
    lasted = f", {attempt['end'] - attempt['start']:.1f} s" if attempt["end"] else ""
    memory = f", {attempt['peak_memory_bytes'] / 2**20:.0f} MiB" if attempt["peak_memory_bytes"] else ""
    return f"on {attempt['host']}, {began}{lasted}{memory}"


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
            terminal.print_json({"jobs": ids})
        else:
            terminal.say(f"{len(ids)} jobs pass the filter of {experiment.folder.path}: {format_ids(ids)}")
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
        terminal.print_json({"jobs": ids, "saved": not dry_run, "rules": steps})
        return
    if explain:
        terminal.print_rows([{**step, "jobs": shortened(format_ids(step["jobs"]))} for step in steps])
    verb = "would pass" if dry_run else "may run"
    terminal.say(f"{len(ids)} jobs of {experiment.folder.path} {verb}: {format_ids(ids)}")


def list_(folder: Annotated[Path, typer.Argument(help="Where to look.")] = Path("."), json: Json = False) -> None:
    """List the experiments below a folder, with their counts and age."""
    if not folder.is_dir():
        raise ExperimentManagerError(f"{folder} is no folder; name one that holds experiments")
    rows = []
    for experiment, counts in counts_of(find_experiments(folder)):
        age_h = max(0.0, time.time() - Path(experiment.folder.manifest).stat().st_mtime) / 3600
        rows.append((experiment.folder.path, counts, age_h))
    if json:
        terminal.print_json([{"path": p, "counts": {str(s): n for s, n in c.items()}, "age_h": a} for p, c, a in rows])
    elif rows:
        terminal.print_rows([{"experiment": p, "jobs": counts_text(c), "defined": terminal.ago(a)} for p, c, a in rows])
    else:
        terminal.say(f"there are no experiments below {folder}")
