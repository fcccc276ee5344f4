"""The progress of jobs, for people: a bar on a terminal, one plain line per job elsewhere. Nothing here raises."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from experiment_manager.text import harmless, one_line, stream_of, tell

Item = TypeVar("Item")
_LONG_S = 1.0
_STEP = 100


def on_terminal() -> bool:
    return sys.stderr is not None and stream_of(sys.stderr).isatty()


def settings_text(variables: Mapping[str, Any]) -> str:
    """`algorithm=TD3 seed=1`, as people would type it."""
    return " ".join(f"{name}={value_text(value)}" for name, value in variables.items())


def value_text(value: Any) -> str:
    """A value as people would type it: different values have different texts.

    >>> value_text(1.0), value_text(True), value_text("true"), value_text(None), value_text("1"), value_text("TD3")
    ('1.0', 'true', "'true'", 'null', "'1'", 'TD3')
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if not isinstance(value, str):
        return str(value)
    try:
        float(value)
    except ValueError:
        return f"'{value}'" if value.lower() in ("", "null", "true", "false") else value
    return f"'{value}'"


def _started_bar(*columns: Any, **options: Any) -> Any:
    """A progress bar of rich on standard error, which has begun; None where rich cannot."""
    try:
        from rich.console import Console
        from rich.progress import Progress

        bar = Progress(*columns, console=Console(file=stream_of(sys.stderr)), **options)  # type: ignore[arg-type]
        bar.start()
    except Exception:  # a bar is never worth a job
        return None
    return bar


class JobLines:
    """Tells of each job that ends; `bar` is where a terminal's progress bar lives."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._bar: Any = None
        self._task: Any = None

    @contextmanager
    def showing(self) -> Iterator["JobLines"]:
        """The bar is there inside, on a terminal."""
        if on_terminal():
            with suppress(Exception):
                from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

                what = TextColumn("{task.description}", markup=False)
                self._bar = _started_bar(what, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
                self._task = self._bar and self._bar.add_task("jobs", total=self._total)
        try:
            yield self
        finally:
            bar, self._bar = self._bar, None
            if bar is not None:
                with suppress(Exception):
                    bar.stop()

    def ended(self, job_id: int, state: str | None, text: str, *, seconds: float, reason: str | None) -> None:
        """One job more has ended; `state` is None for a job that was not begun."""
        self._done += 1
        line = f"[{self._done}/{self._total}] job {job_id} {state or 'not run'}  {one_line(text)}  ({seconds:.1f} s)"
        if reason:
            line += f"  {one_line(reason)}"
        self.say(line)
        if self._bar is not None:
            with suppress(Exception):
                self._bar.advance(self._task)

    def say(self, line: str) -> None:
        """A line about all jobs."""
        if self._bar is None:
            tell(line)
            return
        with suppress(Exception):
            self._bar.console.print(harmless(line), markup=False, highlight=False)


def followed(items: Iterable[Item], total: int, what: str) -> Iterable[Item]:
    """The same items, `total` at most; on a terminal, a bar appears when going through them takes long."""
    return _followed(items, total, what) if on_terminal() and total > 1 else items


def _followed(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    started = time.monotonic()
    bar = _started_bar(transient=True, disable=False)
    if bar is None:
        yield from items
        return
    try:
        task = bar.add_task(what, total=total, visible=False)
        for place, item in enumerate(items, start=1):
            yield item
            if place % _STEP == 0 or total < _STEP:
                with suppress(Exception):
                    bar.update(task, completed=place, visible=time.monotonic() - started > _LONG_S)
    finally:
        with suppress(Exception):
            bar.stop()
