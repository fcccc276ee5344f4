"""The verbs that keep experiments in order: move, clean, tag, note, hold, release, remove, doctor."""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import typer

from experiment_manager.analysis.cleaning import Cleaning
from experiment_manager.analysis.doctor import examine, lines, summary
from experiment_manager.cli import completion, terminal
from experiment_manager.cli.terminal import Folder, Json, Where
from experiment_manager.errors import OptionsError
from experiment_manager.experiment import Experiment
from experiment_manager.model.ids import format_ids, looks_like_ids, parse_ids, shortened
from experiment_manager.scheduler.moving import move as move_experiment
from experiment_manager.store import layout
from experiment_manager.store.tags import read_tags
from experiment_manager.text import counted, has_skipped, names_in, noun, size_text


def register(app: typer.Typer) -> None:
    """The verbs are on the command line."""
    app.command(epilog="Example: experiment-manager move experiments/train archive/train-2025")(move)
    app.command(epilog="Example: experiment-manager clean experiments/train --checkpoints '*.pt' --dry-run")(clean)
    app.command(epilog="Example: experiment-manager tag experiments/train 0-3,7 baseline")(tag)
    app.command(epilog="Example: experiment-manager note experiments/train 7 'diverged after the warm-up'")(note)
    app.command(epilog="Example: experiment-manager hold experiments/train 4-7")(hold)
    app.command(epilog="Example: experiment-manager release experiments/train 4-7")(release)
    app.command(epilog="Example: experiment-manager remove experiments/train 12-15")(remove)
    app.command(epilog="Example: experiment-manager doctor experiments/train")(doctor)


def move(
    folder: Folder,
    to: Annotated[Path, typer.Argument(help="Its new folder, or a folder that it is to lie in.", show_default=False)],
    json: Json = False,
) -> None:
    """Move or rename an experiment that neither runs nor waits; interrupted, type it again."""
    new = move_experiment(layout.Folder.at(folder), str(to))
    if json:
        terminal.print_answer({"path": new.path})
    else:
        terminal.say(new.path)


def clean(
    folder: Folder,
    checkpoints: Annotated[
        list[str] | None,
        typer.Option(help="Also files of jobs that are done, by a pattern: '*.pt', 'checkpoints/*'; may be repeated."),
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(
            autocompletion=completion.states, help="Only of jobs in these states, for checkpoints, too: failed,timeout."
        ),
    ] = None,
    where: Where = None,
    only: Annotated[
        str | None, typer.Option(help="Only these kinds: attempts, checkpoints, code, launches, report.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be removed, and remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without a question.")] = False,
    json: Json = False,
) -> None:
    """Free space: remove what nothing reads any more, such as logs of earlier attempts. It asks first."""
    experiment = Experiment.at(folder)
    how: dict[str, Any] = {
        "state": state,
        "checkpoints": checkpoints or (),
        "kinds": None if only is None else names_in(only),
    }
    found = experiment.clean(where, dry_run=True, **how)
    if not json:
        for line in _cleaning_lines(found):
            terminal.say(line)
    if found.found and not dry_run:
        terminal.require_yes("Remove them?", "nothing was removed", is_given=yes)
        found = experiment.clean(where, **how)
        if not json:
            terminal.say(f"{size_text(found.n_bytes)} freed in {found.path}")
    if json:
        terminal.print_answer(
            {"path": found.path, "removed": not dry_run, "bytes": found.n_bytes, "kinds": found.kinds}
        )


def _cleaning_lines(found: Cleaning) -> list[str]:
    """What can be removed, for people."""
    if not found.found:
        return [f"nothing {'is removed from' if has_skipped() else 'to remove in'} {found.path}"]
    rows = [
        {
            "kind": row["kind"],
            "size": size_text(row["bytes"]),
            "files": row["files"],
            "jobs": shortened(format_ids(row["jobs"])),
            "what": row["what"],
        }
        for row in found.kinds
    ]
    lines = terminal.row_lines(rows, width=terminal.terminal_width(), optional=("what",))
    return [*lines, f"{size_text(found.n_bytes)} in all"]


def tag(
    folder: Folder,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            autocompletion=completion.jobs,
            help="Ids of jobs (0-3,7), and tags; without ids, of the experiment.",
            show_default=False,
        ),
    ] = None,
    where: Where = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the tags away.")] = False,
    json: Json = False,
) -> None:
    """Mark jobs, or the whole experiment, with words that tables show and filters ask for: tag:baseline."""
    experiment = Experiment.at(folder)
    ids = [word for word in words or () if looks_like_ids(word)]
    tags = [word for word in words or () if word not in ids]
    rules = terminal.rules_of(ids, where)
    if (rules or remove) and not tags:
        raise OptionsError("name a tag, too, as in `experiment-manager tag FOLDER 0-3,7 baseline`")
    if tags:
        found = experiment.tag(*tags, where=rules, remove=remove)
        if rules and not found and not json:
            terminal.say(f"no job of {experiment.folder.path} passes; nothing was tagged")
            return
    all_tags = read_tags(experiment.folder)
    if json:
        tagged = {name: list(jobs) for name, jobs in all_tags.by_tag.items()}
        terminal.print_answer({"tags": list(all_tags.own), "tagged": tagged})
        return
    lines = [f"tags: {', '.join(all_tags.own)}"] if all_tags.own else []
    for line in [*lines, *all_tags.words] or [f"nothing in {experiment.folder.path} is tagged"]:
        terminal.say(line)


def note(
    folder: Folder,
    words: Annotated[
        list[str] | None,
        typer.Argument(help="The ids of jobs (0-3,7), if it is about some, and the text.", show_default=False),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take away what was written before.")] = False,
    json: Json = False,
) -> None:
    """Write a line about jobs, or about the whole experiment; without a text, show what was written."""
    experiment = Experiment.at(folder)
    told = list(words or ())
    ids = list(parse_ids(told.pop(0))) if told and looks_like_ids(told[0]) else []
    experiment.jobs_of(ids)  # of one that is not there nothing is written anywhere
    text = " ".join(told) or None
    about: list[int | None] = [*ids] or [None]
    found = {job_id: experiment.note(text, job_id=job_id, remove=remove) for job_id in about}
    if json:
        answers = [{"job": job_id, "note": note} for job_id, note in found.items()]
        terminal.print_answer(answers if len(ids) > 1 else answers[0])
        return
    for job_id, note in found.items():
        of_job = f"job {job_id}: " * (len(ids) > 1)
        for line in (note or "nothing is written here").splitlines():
            terminal.say(f"{of_job}{line}")


Ids = Annotated[
    list[str] | None, typer.Argument(help="Ids and ranges: 0-3,7.", show_default=False, autocompletion=completion.jobs)
]


def hold(folder: Folder, ids: Ids = None, where: Where = None, json: Json = False) -> None:
    """Keep jobs from beginning until they are released: all that have not begun, or those that are named."""
    experiment = Experiment.at(folder)
    rules = terminal.rules_of(ids, where)
    held = experiment.hold(rules or ["state:PENDING,QUEUED"])
    if json:
        terminal.print_answer({"jobs": list(held.ids), "running": list(held.running)})
        return
    place = experiment.folder.path
    if held.ids:
        terminal.say(f"{noun(len(held.ids))} {format_ids(held.ids)} of {place} held")
    if held.running:
        go_on = f"{noun(len(held.running))} {format_ids(held.running)} of {place} {_verb(held.running)}"
        terminal.say(f"{go_on} already, and not held; `experiment-manager cancel` ends what runs")
    if not held.ids and not held.running:
        terminal.say(f"no job of {place}{terminal.that_you_named(rules)} is left to begin; nothing was held")


def _verb(ids: Collection[int]) -> str:
    return "runs" if len(ids) == 1 else "run"


def release(folder: Folder, ids: Ids = None, where: Where = None, json: Json = False) -> None:
    """Let jobs begin that were held: all of them, or those that are named."""
    experiment = Experiment.at(folder)
    rules = terminal.rules_of(ids, where)
    released = experiment.release(rules)
    if json:
        terminal.print_answer({"jobs": released})
    elif released:
        terminal.say(f"{noun(len(released))} {format_ids(released)} of {experiment.folder.path} released")
    else:
        terminal.say(f"no job of {experiment.folder.path}{terminal.that_you_named(rules)} was held by us")


def remove(
    folder: Folder,
    ids: Ids = None,
    where: Where = None,
    files: Annotated[bool, typer.Option("--files", help="Also what they have left: logs, results, metrics.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Bring removed jobs back: all, or these ids.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without a question.")] = False,
    json: Json = False,
) -> None:
    """Take jobs that were a mistake out of grids, tables and counts; their ids stay used. It asks first."""
    experiment = Experiment.at(folder)
    place = experiment.folder.path
    if undo and where:
        raise OptionsError("--undo takes ids, and no --where: what was removed passes no filter")
    rules = terminal.rules_of(ids, where)
    if not undo:
        if rules is None:
            raise OptionsError("name the jobs that are to be removed, as in `experiment-manager remove FOLDER 12-15`")
        found = [int(job.id) for job in experiment.select(rules).jobs]
        if not json:
            more = ", with what they have left" if files else "; what they have left stays in jobs/"
            terminal.say(f"{counted(len(found))} of {place}: {shortened(format_ids(found)) or 'none'}{more}")
        if found:
            terminal.require_yes("Remove them?", "nothing was removed", is_given=yes)
    done = experiment.remove(",".join(ids) if undo and ids else rules, files=files, undo=undo)
    if json:
        terminal.print_answer({"jobs": done})
    elif undo:
        terminal.say(f"{counted(len(done))} of {place} brought back{f': {format_ids(done)}' if done else ''}")
    elif done:
        terminal.say(f"{noun(len(done))} {format_ids(done)} of {place} removed; --undo brings back what was removed")


def doctor(folder: Folder, json: Json = False) -> None:
    """Tell what is odd about an experiment, and what to do about it; change nothing. Exits with 1 when there is any."""
    place = layout.Folder.at(folder)
    found = examine(place)
    if json:
        findings = [{**one._asdict(), "jobs": list(one.jobs)} for one in found]
        terminal.print_answer({"path": place.path, "findings": findings})
    else:
        for line in (*lines(found), summary(place, found)):
            terminal.say(line)
    if found:
        raise typer.Exit(1)
