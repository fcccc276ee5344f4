"""The verb `status`: once, until all has ended, or again and again on a terminal."""

import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from experiment_manager.analysis.results import sentences
from experiment_manager.analysis.status import Status
from experiment_manager.cli import terminal
from experiment_manager.cli.terminal import Folder, Json
from experiment_manager.experiment import Experiment
from experiment_manager.model.ids import format_ids, shortened, which
from experiment_manager.model.records import State
from experiment_manager.text import counted, harmless, names_in, one_line, settings_text, tell

_MOST_TROUBLES: Final = 30  # reasons that a screen can hold
_MOST_RUNNING: Final = 20
_LOOK_FIRST_S: Final = 2.0
_LOOK_AT_MOST_EVERY_S: Final = 30.0


def register(app: typer.Typer) -> None:
    """The verb is on the command line."""
    app.command(epilog="Example: experiment-manager status experiments/train --group-by algorithm")(status)


def status(
    folder: Folder,
    every: Annotated[bool, typer.Option("--all", help="A row for every job, not for those alone that run.")] = False,
    group_by: Annotated[str | None, typer.Option(help="Count the states by these variables: algorithm,nn")] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when no job waits or runs: with 0 when all that may run completed.")
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
        terminal.print_json(_plain(found))
    else:
        _show(found, folder)
    if found.foreign:
        names = ", ".join(found.foreign[:5]) + (", ..." if len(found.foreign) > 5 else "")
        tell(f"skipped in {found.path}, not ours: {names}")
    if (wait or watch) and not set(experiment.get_filtered_ids()) <= set(found.ids.get(State.COMPLETED, ())):
        raise typer.Exit(1)


def _plain(found: Status) -> dict[str, Any]:
    return {
        "path": found.path,
        "counts": {str(state): count for state, count in found.counts.items()},
        "jobs": {str(state): list(jobs) for state, jobs in found.ids.items()},
        "selected": found.n_selected,
        "waiting": {reason: list(jobs) for reason, jobs in found.waiting.items()},
        "troubles": [{"state": str(t.state), "reason": t.reason, "jobs": list(t.ids)} for t in found.troubles],
        "warnings": [{"state": str(w.state), "reason": w.reason, "jobs": list(w.ids)} for w in found.warnings],
        "live": list(found.live),
        **({"groups": list(found.groups)} if found.groups else {}),
    }


def _show(found: Status, folder: Path) -> None:
    for line in _lines(found, folder, terminal.terminal_width()):
        terminal.say(line)


def _lines(found: Status, folder: Path, width: int | None, most_live: int | None = None) -> list[str]:
    """The lines that people read; `most_live`: with so many of the rows of single jobs."""
    no_filter = "its pass filter cannot be read" if found.has_filter else "no pass filter yet"
    verb = "passes" if found.n_selected == 1 else "pass"
    selected = no_filter if found.n_selected is None else f"{found.n_selected} {verb} the filter"
    between = [] if width is None else [""]
    lines = [f"{found.path}: {counted(sum(found.counts.values()))}, {selected}", *between]
    if found.groups:
        rows = [{**row["variables"], "count": row["count"], **row["states"]} for row in found.groups]
        states = list(found.groups[0]["states"])
        exact = list(found.groups[0]["variables"])
        more = "`|\xa0less\xa0-S` shows all"
        lines += terminal.row_lines(rows, width=width, optional=states, more=more, exact=exact)
    else:
        counts = [
            {"state": str(state), "count": count, "jobs": shortened(format_ids(found.ids[state]))}
            for state, count in found.counts.items()
        ]
        lines += terminal.row_lines(counts, width=width)
    live = found.live[:most_live]
    if live:
        fits = {"optional": ("elapsed", "left", "last", "reason"), "minor": ("node", "attempt")}
        lines += [
            *between,
            *terminal.row_lines([_short(row) for row in live], width=width, more="--json has all", **fits),
        ]
    n_unread = max(0, len(found.ids.get(State.RUNNING, ())) - len(found.live))
    if n_unread:
        lines.append(f"... and {n_unread + len(found.live) - len(live)} more that run; --all shows every job")
    elif len(live) < len(found.live):
        lines.append(f"... and {len(found.live) - len(live)} more, for which there is no room here")
    return [*lines, *_attention(found, folder)]


def _attention(found: Status, folder: Path) -> Iterator[str]:
    """Lines about all that needs attention: jobs that wait and why, and equal failures together."""
    for reason, waiting in found.waiting.items():
        yield f"{counted(len(waiting))} QUEUED: {one_line(reason)} ({which(waiting)})"
    for trouble in found.troubles[:_MOST_TROUBLES]:
        yield f"{counted(len(trouble.ids))} {trouble.state}: {one_line(trouble.reason)} ({which(trouble.ids)})"
    if len(found.troubles) > _MOST_TROUBLES:
        yield f"... and {len(found.troubles) - _MOST_TROUBLES} reasons more; --json has them all"
    yield from sentences({warning.reason: warning.ids for warning in found.warnings})
    if found.troubles:
        job = found.troubles[0].ids[0]
        yield f"`experiment-manager show {shlex.quote(str(folder))} {job}` tells more about the first"


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as it fits a line: times as people read them, the last metrics as text."""
    times = {"elapsed": terminal.duration(row["elapsed_s"]), "left": terminal.duration(row["left_s"])}
    metrics = ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in
                        (row["metrics"] or {}).items())  # fmt: skip
    head = {"job": row["job"], "what": settings_text(row["variables"]), "state": row["state"]}
    return {**head, "attempt": row["attempt"], "node": row["node"], **times, "last": metrics, "reason": row["reason"]}


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
