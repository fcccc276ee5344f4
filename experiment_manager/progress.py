"""What people see while jobs run: a bar on a terminal, one plain line per job elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from experiment_manager.records import State

Item = TypeVar("Item")
_LONG_S = 1.0
_STEP = 100


def on_terminal() -> bool:
    return sys.stderr.isatty()


def settings_text(variables: Mapping[str, Any]) -> str:
    """`algorithm=TD3 seed=1`, as people would type it."""
    return " ".join(f"{name}={value}" for name, value in variables.items())


class JobLines:
    """Tells of each job that ends; `bar` is where a terminal's progress bar lives."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._bar: Any = None
        self._task: Any = None

    @contextmanager
    def showing(self) -> Iterator["JobLines"]:
        """The bar is there inside, on a terminal."""
        if not on_terminal():
            yield self
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True)) as self._bar:
            self._task = self._bar.add_task("jobs", total=self._total)
            yield self
        self._bar = None

    def ended(self, job_id: int, state: State | None, text: str, *, seconds: float, reason: str | None) -> None:
        """One job more has ended; `state` is None for a job that was not begun."""
        self._done += 1
        line = f"[{self._done}/{self._total}] job {job_id} {state or 'not run'}  {text}  ({seconds:.1f} s)"
        if reason:
            line += f"  {reason}"
        self.say(line)
        if self._bar is not None:
            self._bar.advance(self._task)

    def say(self, line: str) -> None:
        """A line about all jobs."""
        if self._bar is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._bar.console.print(line, markup=False, highlight=False)


def followed(items: Iterable[Item], total: int, what: str) -> Iterable[Item]:
    """The same items, `total` at most; on a terminal, a bar appears when going through them takes long."""
    return _followed(items, total, what) if on_terminal() and total > 1 else items


def _followed(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import Progress

    started = time.monotonic()
    with Progress(console=Console(stderr=True), transient=True, disable=False) as bar:
        task = bar.add_task(what, total=total, visible=False)
        for place, item in enumerate(items, start=1):
            yield item
            if place % _STEP == 0 or total < _STEP:
                bar.update(task, completed=place, visible=time.monotonic() - started > _LONG_S)
