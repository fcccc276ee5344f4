"""The verbs that tell how an experiment and its jobs stand: status, once, until all has ended, or again and again on a
terminal; jobs, show, filter; and list, the experiments there are.
"""

import shlex
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from experiment_manager.analysis.jobs import tail
from experiment_manager.analysis.results import sentences
from experiment_manager.analysis.status import SILENT_AFTER_S, SearchStatus, Status, counts_text, unconfigured
from experiment_manager.analysis.tables import (
    chosen_columns,
    column_names,
    columns_of,
    flattened,
    only_columns,
    with_tags,
)
from experiment_manager.cli import completion, terminal
from experiment_manager.cli.terminal import HOW_TO_GET_MORE, Chosen, Columns, Folder, JobNumber, Json, with_fields
from experiment_manager.errors import ExperimentManagerError
from experiment_manager.experiment import Experiment, counts_of, disk_usages, find_experiments
from experiment_manager.model import codec, filters
from experiment_manager.model.estimate import Estimate, hours_text
from experiment_manager.model.ids import format_ids, shortened, which
from experiment_manager.model.records import ENDED_WELL, TO_START_AGAIN, State
from experiment_manager.model.rows import named_apart
from experiment_manager.store.files import is_folder
from experiment_manager.store.manifest import are_unconfigured
from experiment_manager.text import (
    as_word,
    counted,
    harmless,
    names_in,
    one_line,
    settings_text,
    size_text,
    skipped,
    tell,
)

_MOST_NAMES: Final = 3
_MOST_TROUBLES: Final = 30  # reasons that a screen can hold
_MOST_RUNNING: Final = 20
_BUSY: Final = frozenset({str(State.RUNNING), str(State.QUEUED)})
_LOOK_FIRST_S: Final = 2.0
_LOOK_AT_MOST_EVERY_S: Final = 30.0


def register(app: typer.Typer) -> None:
    """The verbs are on the command line."""
    app.command(epilog="Example: experiment-manager status experiments/train --group-by algorithm")(status)
    app.command(epilog="Example: experiment-manager jobs experiments/train --where 'seed < 3'")(jobs)
    app.command(epilog="Example: experiment-manager show experiments/train 2")(show)
    example = "Example: experiment-manager filter experiments/train '{algorithm: TD3}' 'seed < 3' --explain"
    app.command(name="filter", epilog=example)(filter_)
    app.command(name="list", epilog="Example: experiment-manager list experiments")(list_)


def status(
    folder: Folder,
    every: Annotated[bool, typer.Option("--all", help="A row for every job, not for those alone that run.")] = False,
    group_by: Annotated[
        str | None,
        typer.Option(autocompletion=completion.variables, help="Count the states by these variables: algorithm,nn"),
    ] = None,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait", help="Return when no job waits or runs: with 0 when all that may run are COMPLETED or PRUNED."
        ),
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="As --wait, and show it again and again meanwhile.")] = False,
    json: Json = False,
) -> None:
    """Tell how many jobs are in which state, how those that run are getting on, and what went wrong."""
    experiment = Experiment.at(folder)
    by = names_in(group_by or "")
    most = None if json else _MOST_RUNNING
    if watch and sys.stdout.isatty() and not json:
        _watch(experiment, folder, by, every=every)
    found = experiment.status(wait=wait or watch, by=by, every=every, most_running=most)
    if json:
        terminal.print_answer(_plain(found))
    else:
        _show(found, folder)
    if found.foreign:
        names = ", ".join(found.foreign[:5]) + (", ..." if len(found.foreign) > 5 else "")
        tell(f"skipped in {found.path}, not ours: {names}")
    done = {job_id for state in ENDED_WELL for job_id in found.ids.get(state, ())}
    if (wait or watch) and not set(experiment.get_filtered_ids()) <= done:
        raise typer.Exit(1)


@with_fields
def jobs(chosen: Chosen, columns: Columns = None, json: Json = False) -> None:
    """List the jobs with their variables, states, and whether they pass the saved filter."""
    experiment, rules = chosen.read()
    rows = experiment.jobs(rules)
    if json:
        terminal.print_answer(rows)
    else:
        exact = {name for row in rows for name in row["variables"]}
        flat = flattened(with_tags(rows), "variables")
        if columns is not None and flat:
            lacking = [name for name in experiment.variables if name not in exact]  # which other jobs have
            elsewhere = {f"variables.{name}": f"variables.{name}" for name in lacking}
            called = {**elsewhere, **column_names(with_tags(rows), "variables")}
            exact |= set(called)
            there = list(dict.fromkeys((*columns_of(flat), *lacking)))
            flat = only_columns(flat, chosen_columns(there, names_in(columns), called))
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
        terminal.print_answer(found)
        return
    terminal.say(f"job {found['job']}  {found['state']}  {settings_text(found['variables'])}")
    for line in _marked(found.get("tags", ()), found.get("note")):
        terminal.say(line)
    for what in ("held", "removed"):
        if found.get(what):
            terminal.say(f"{what}: it is not begun")
    if "trouble" in found:
        terminal.say(f"a failure to its search: {found['trouble']}")
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


def filter_(
    folder: Folder,
    rules: Annotated[
        list[str] | None,
        typer.Argument(
            help='What a job has to pass: {algorithm: TD3}, "seed < 3", 0-3,7, state:FAILED, tag:good, sample:10, or '
            "the dotted path of a function. None: show the filter there is.",
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
            terminal.print_answer({"jobs": ids})
        else:
            passes = "passes" if len(ids) == 1 else "pass"
            terminal.say(f"{counted(len(ids))} {passes} the filter of {experiment.folder.path}: {format_ids(ids)}")
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
    without = unconfigured(experiment.folder, ids)
    if json:
        more = {"unconfigured": list(without)} if without else {}
        terminal.print_answer({"jobs": ids, "saved": not dry_run, "rules": steps, **more})
        return
    if explain:
        terminal.print_rows([{**step, "jobs": shortened(format_ids(step["jobs"]))} for step in steps])
    verb = "would pass" if dry_run else "may run"
    terminal.say(f"{counted(len(ids))} of {experiment.folder.path} {verb}: {format_ids(ids)}")
    if without:
        terminal.say(are_unconfigured(without))


def list_(
    folder: Annotated[Path, typer.Argument(help="Where to look.")] = Path("."),
    du: Annotated[bool, typer.Option("--du", help="Also how much space each takes: reads all folders.")] = False,
    json: Json = False,
) -> None:
    """List the experiments below a folder, with their counts and age."""
    if not is_folder(str(folder)):
        raise ExperimentManagerError(f"{folder} is no folder; name one that holds experiments")
    found = list(counts_of(find_experiments(folder)))
    sizes = disk_usages([experiment for experiment, _ in found]) if du else None
    rows: list[dict[str, Any]] = []
    for place, (experiment, counts) in enumerate(found):
        age_h = max(0.0, time.time() - Path(experiment.folder.manifest).stat().st_mtime) / 3600
        plain = {str(state): count for state, count in counts.items()}
        row = {"path": experiment.folder.path, "counts": plain, "age_h": age_h}
        size = {} if sizes is None else {"bytes": sizes[place]}
        tags: list[str] = []
        try:
            tags = experiment.tags()
        except ExperimentManagerError as error:  # the other experiments are told of
            skipped(str(error))
        rows.append({**row, **size, **({"tags": tags} if tags else {})})
    if json:
        terminal.print_answer(rows)
    elif rows:
        terminal.print_rows([_listed(row, has_tags=any("tags" in row for row in rows)) for row in rows])
    else:
        terminal.say(f"there are no experiments below {folder}")


def _listed(row: Mapping[str, Any], *, has_tags: bool) -> dict[str, Any]:
    """A row of `list`, for people."""
    return {
        "experiment": row["path"],
        "jobs": counts_text(row["counts"]),
        "defined": terminal.ago(row["age_h"]),
        **({"size": size_text(row["bytes"])} if "bytes" in row else {}),
        **({"tags": ", ".join(row.get("tags", ()))} if has_tags else {}),
    }


def _plain(found: Status) -> dict[str, Any]:
    return {
        "path": found.path,
        "counts": {str(state): count for state, count in found.counts.items()},
        "jobs": {str(state): list(jobs) for state, jobs in found.ids.items()},
        "selected": found.n_selected,
        "waiting": {reason: list(jobs) for reason, jobs in found.waiting.items()},
        "pruned": {where: list(jobs) for where, jobs in found.pruned.items()},
        "troubles": [{"state": str(t.state), "reason": t.reason, "jobs": list(t.ids)} for t in found.troubles],
        "warnings": [{"state": str(w.state), "reason": w.reason, "jobs": list(w.ids)} for w in found.warnings],
        "live": list(found.live),
        "estimate": None if found.estimate is None else found.estimate._asdict(),
        "search": None if found.search is None else found.search._asdict(),
        **({"groups": list(found.groups)} if found.groups else {}),
        **({"tags": list(found.tags.own)} if found.tags.own else {}),
        **({"tagged": {tag: list(ids) for tag, ids in found.tags.by_tag.items()}} if found.tags.jobs else {}),
        **({} if found.note is None else {"note": found.note}),
        **({"held": list(found.held)} if found.held else {}),
        **({"removed": list(found.removed)} if found.removed else {}),
        **({"dropped": list(found.dropped)} if found.dropped else {}),
        **({"unconfigured": list(found.unconfigured)} if found.unconfigured else {}),
        **{name: {text: list(ids) for text, ids in jobs.items()} for name, jobs in _healing(found) if jobs},
    }


def _healing(found: Status) -> tuple[tuple[str, Mapping[str, tuple[int, ...]]], ...]:
    """What healing has done, and has not, by the keys of `--json`."""
    return ("healed", found.healed), ("to_heal", found.to_heal), ("given_up", found.given_up)


def _marked(tags: Collection[str], note: str | None) -> Iterator[str]:
    """What people have said of a job, or of an experiment."""
    if tags:
        yield f"tags: {', '.join(tags)}"
    for line in (note or "").splitlines():
        yield f"note: {line}"


def _show(found: Status, folder: Path) -> None:
    for line in _lines(found, folder, terminal.terminal_width()):
        terminal.say(line)


def _lines(found: Status, folder: Path, width: int | None, most_live: int | None = None) -> list[str]:
    """The lines that people read; `most_live`: with so many of the rows of single jobs."""
    between = [] if width is None else [""]
    lines = [found.headline, *_marked(found.tags.own, found.note), *between]
    if found.groups:
        states = list(found.groups[0]["states"])
        named = [named_apart(row["variables"], ["count", *states]) for row in found.groups]
        rows = [
            {**names, "count": row["count"], **row["states"]} for names, row in zip(named, found.groups, strict=True)
        ]
        exact = list(named[0])
        more = "`|\xa0less\xa0-S` shows all"
        lines += terminal.row_lines(rows, width=width, optional=states, more=more, exact=exact)
    else:
        lines += terminal.row_lines(found.count_rows, width=width)
    live = found.live[:most_live]
    if live:
        fits: dict[str, Any] = {"optional": ("elapsed", "left", "last", "reason"), "minor": ("node", "attempt")}
        lines += [
            *between,
            *terminal.row_lines([_short(row) for row in live], width=width, more="--json has all", **fits),
        ]
    n_unread = max(0, len(found.ids.get(State.RUNNING, ())) - len(found.live))
    if n_unread:
        lines.append(f"... and {n_unread + len(found.live) - len(live)} more that run; --all shows every job")
    elif len(live) < len(found.live):
        lines.append(f"... and {len(found.live) - len(live)} more, for which there is no room here")
    lines += found.tags.words
    lines += _kept_back(found, folder)
    if found.pruned:
        lines.append("pruned at " + ", ".join(f"{where}: {len(jobs)}" for where, jobs in found.pruned.items()))
    if found.search is not None:
        lines.append(of_search(found.search, is_running=bool(_BUSY & found.counts.keys())))
    if found.estimate is not None:
        lines.append(_outlook(found.estimate, len(found.ids[State.RUNNING])))
    return [*lines, *_attention(found, folder)]


def of_search(found: SearchStatus, *, is_running: bool) -> str:
    """How a search stands, for people; `is_running`: some job of the experiment waits or runs.

    >>> of_search(SearchStatus(200, 65, 57, 1, 3, ("minimize",), 0.0123, 41, None, n_jobs_left=135), is_running=True)
    'search: 57 of 200 trials have ended (3 pruned, 1 failed), 135 are not proposed yet; best 0.0123 by job 41'
    """
    parts = [f"{count} {word}" for count, word in ((found.n_pruned, "pruned"), (found.n_failed, "failed")) if count]
    of_these = f" ({', '.join(parts)})" if parts else ""
    n_left = found.n_trials - found.n_proposed
    left = f", {n_left} are not proposed yet" if n_left else ""
    if found.n_jobs_left and not n_left:
        verb = "is" if found.n_jobs_left == 1 else "are"
        left = f", {counted(found.n_jobs_left)} of the last one {verb} not proposed yet"
    best = ""
    if found.best is not None and found.best_job is not None:
        best = f"; best {found.best:.6g} by {which(range(found.best_job, found.best_job + found.jobs_per_trial))}"
    over = "" if found.why_over is None else f"; nothing more is proposed: {found.why_over}"
    if found.n_jobs_left and not is_running and found.why_over is None:
        over = "; no trial runs: the same sweep, or `experiment-manager work`, goes on"
    return f"search: {found.n_ended} of {found.n_trials} trials have ended{of_these}{left}{best}{over}"


def _outlook(estimate: Estimate, n_running: int) -> str:
    """When all will have ended, for people.

    >>> _outlook(Estimate(6000, 9000, 50_400, "GPU"), 4)
    'done in 1:40 to 2:30 h, 4 at a time; about 14 GPU-hours are left'
    """
    work = f"; about {estimate.work_text} are left" if estimate.work_text else ""
    return f"done in {estimate.text}, {n_running} at a time{work}"


def _kept_back(found: Status, folder: Path) -> Iterator[str]:
    """Lines about jobs that are not to begin, and about those that are none any more."""
    if found.held:
        verb = "is" if len(found.held) == 1 else "are"
        release = f"experiment-manager release {shlex.quote(str(folder))}"
        yield f"{counted(len(found.held))} {verb} held ({which(found.held)}); `{release}` lets all begin"
    if found.dropped:
        verb = "is" if len(found.dropped) == 1 else "are"
        yield f"{counted(len(found.dropped))} PENDING {verb} outside of the pass filter ({which(found.dropped)})"
    if found.unconfigured:
        yield are_unconfigured(found.unconfigured)
    if found.removed:
        yield f"{counted(len(found.removed))} removed, and not counted ({which(found.removed)})"


def _attention(found: Status, folder: Path) -> Iterator[str]:
    """Lines about all that needs attention: jobs that wait and why, and equal failures together."""
    for reason, ids in found.healed.items():
        yield f"{counted(len(ids))} submitted again: {one_line(reason)} ({which(ids)})"
    for reason, ids in found.to_heal.items():
        heal = f"`experiment-manager heal {shlex.quote(str(folder))}`"
        yield f"{counted(len(ids))} to be submitted again, by {heal}: {one_line(reason)} ({which(ids)})"
    for reason, ids in found.given_up.items():
        yield f"{counted(len(ids))} not submitted again: {one_line(reason)} ({which(ids)})"
    for wait in found.waits:
        way_out = found.ways_out.get(wait.reason)
        yield f"{wait.words}; {way_out}" if way_out else wait.words
    for trouble in found.troubles[:_MOST_TROUBLES]:
        yield trouble.words
    if len(found.troubles) > _MOST_TROUBLES:
        yield f"... and {len(found.troubles) - _MOST_TROUBLES} reasons more; --json has them all"
    yield from sentences({warning.reason: warning.ids for warning in found.warnings})
    if found.troubles:
        job = found.troubles[0].ids[0]
        yield f"`experiment-manager show {shlex.quote(str(folder))} {job}` tells more about the first"
    if any(one.state is State.TIMEOUT and not one.reason.endswith(TO_START_AGAIN) for one in found.troubles):
        again = f"`experiment-manager resubmit {shlex.quote(str(folder))} --state timeout`"
        yield f"the same sweep, or {again}, goes on with what is TIMEOUT"


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as it fits a line: times as people read them, the last metrics as text."""
    times = {"elapsed": terminal.duration(row["elapsed_s"]), "left": terminal.duration(row["left_s"])}
    metrics = ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in
                        (row["metrics"] or {}).items())  # fmt: skip
    marks = [f"NaN: {', '.join(row['nan'])}"] if row["nan"] else []
    if (row["silent_s"] or 0.0) >= SILENT_AFTER_S:
        marks.append(f"silent {hours_text(row['silent_s'])} h")
    head = {"job": row["job"], "what": settings_text(row["variables"]), "state": row["state"]}
    about = {"attempt": row["attempt"], "node": row["node"], **times, "mark": "; ".join(marks) or None}
    return {**head, **about, "last": metrics, "reason": row["reason"]}


def _on_screen(found: Status, folder: Path, width: int, height: int) -> list[str]:
    """The lines as they fit a screen: with fewer rows of single jobs, so that what went wrong below them is seen."""
    most_live = len(found.live)
    while True:
        lines = _lines(found, folder, width, most_live)
        shown = [part for line in lines for part in terminal.wrapped(harmless(line), width)]
        if len(shown) <= height or not most_live:
            return shown
        most_live = max(0, most_live - max(1, len(shown) - height))


def _watch(experiment: Experiment, folder: Path, by: list[str], *, every: bool) -> None:
    """Shows the status on the whole terminal until nothing waits or runs; looks more seldom while nothing changes."""
    from rich.live import Live
    from rich.text import Text

    pause, before = _LOOK_FIRST_S, None
    try:
        with Live(screen=True, auto_refresh=False) as screen:
            while True:
                found = experiment.status(by=by, every=every, most_running=_MOST_RUNNING)
                lines = _on_screen(found, folder, screen.console.width, screen.console.height)
                screen.update(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"), refresh=True)
                if not {State.RUNNING, State.QUEUED} & found.counts.keys():
                    return
                pause = min(pause * 1.5, _LOOK_AT_MOST_EVERY_S) if found.counts == before else _LOOK_FIRST_S
                before = found.counts
                time.sleep(pause)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _no_command(folder: Path, found: Mapping[str, Any]) -> str:
    if found["configuration"] is None:
        return "none yet: the job is composed, and frozen, when it first passes a sweep's filter"
    if found["overrides"]:  # of a sweep that was defined in Python
        return (
            'none yet: exp.launch("local_pool", "train.py") names the program that runs it, and so does its own sweep'
        )
    return f"experiment-manager run {as_word(folder)} {found['job']} --runner runner.py"


def _show_attempt(attempt: Mapping[str, Any]) -> None:
    reason = f"  {one_line(str(attempt['reason']))}" if attempt["reason"] else ""
    terminal.say(f"attempt {attempt['attempt']}  {attempt['state']}{reason}  {_times(attempt)}")
    if attempt.get("healing"):
        terminal.say(f"  submitted again: {attempt['healing']}")
    if attempt["launch"]:
        terminal.say(f"  {_launched(attempt)}")
    for kind, path in attempt["logs"].items():
        terminal.say(f"  {kind}: {path}")


def _launched(attempt: Mapping[str, Any]) -> str:
    """`launch 0001 as SLURM 12_7: commit 1f3a9c2 with changes, Python 3.11.7`."""
    about = attempt["environment"]
    how = "by the worker" if attempt["worker"] else "as"
    task = f" {how} SLURM {attempt['slurm_task']}" if attempt["slurm_task"] else " by a worker" * attempt["worker"]
    commit = f"commit {about['git_commit'][:12]}" if about.get("git_commit") else "no commit known"
    changes = f" with changes (launches/{attempt['launch']}/code.patch)" if about.get("git_dirty") else ""
    if names := about.get("git_untracked"):
        more = ", ..." if names[_MOST_NAMES:] else ""
        changes += f", without {', '.join(names[:_MOST_NAMES])}{more}, which git does not know"
    python = f", Python {about['python']}" if about.get("python") else ""
    gpus = f", {one_line(attempt['gpus'])}" if attempt["gpus"] else ""
    return f"launch {attempt['launch']}{task}: {commit}{changes}{python}{gpus}"


def _show_trouble(attempt: Mapping[str, Any]) -> None:
    """Prints the traceback of an attempt that ended badly, or the end of its log."""
    is_good = attempt["state"] == State.FAKE and not attempt["reason"]
    if is_good or attempt["state"] in (*ENDED_WELL, State.RUNNING):
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
