"""Text for people: it does no harm to a terminal, written so that nothing about the writing can raise; and the progress
of jobs, a bar on a terminal, one plain line per job elsewhere.

A reader that has gone, a full disk, a closed terminal, an encoding that lacks a letter: they decide what people get to
see, and never what becomes of jobs. All that this package prints is printed here. Imports nothing that costs time, for
the supervisor of every task tells things, too.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from experiment_manager.typing_names import Any, Final, TypeVar

MOST_CHARACTERS: Final = 200
"""Of a line that tells what a job, a configuration or somebody's code said; the rest stays where it was found."""

_CUT: Final = "..."
_LOOKED_AT: Final = 20
_SPACES: Final = "\n\t\xa0\u2009\u202f\u3000"
_UNSEEN: Final = "[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
_BEYOND_ASCII: Final = r"[^\x20-\x7e\n]"
_PLAIN: Final = {ord("\u2500"): "-", ord("\u2501"): "-", ord("\u2026"): _CUT}

_LONG_S: Final = 1.0
_STEP: Final = 100
_ENOUGH_TO_GUESS: Final = 3
"""So many jobs that have ended tell something about the others."""

Item = TypeVar("Item")


def harmless(text: str) -> str:
    r"""The same lines, with characters that steer a terminal, or that nobody sees, shown as Python writes them.

    >>> harmless("\x1b[31mred\n\tand so on")
    '\\x1b[31mred\n\tand so on'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _SPACES else ascii(c)[1:-1] for c in text)


def one_line(text: str, most: int = MOST_CHARACTERS) -> str:
    r"""A text of somebody else on one line of `most` characters; what does not fit is left out, and shown so.

    >>> one_line("first\n  second\x07"), one_line("abcdefgh", 6)
    ('first second\\x07', 'abc...')
    """
    start = text[: _LOOKED_AT * most]  # there may be a megabyte of it
    line = harmless(" ".join(part.strip() for part in start.splitlines() if part.strip()).replace("\t", " "))
    return line if len(line) <= most and len(start) == len(text) else line[: most - len(_CUT)] + _CUT


def message_of(error: BaseException) -> str:
    """The message of an exception; its `__str__` is somebody's code, and may fail."""
    try:
        return str(error)
    except BaseException:  # whatever their code raises: nobody meant to end us by it
        return "<exception str() failed>"


def described(error: BaseException) -> str:
    """An exception of somebody else's code on one line.

    >>> described(ValueError("no such lr"))
    'ValueError: no such lr'
    """
    message = message_of(error)
    return one_line(f"{type(error).__name__}: {message}" if message else type(error).__name__)


class Stream:
    """A text stream that does not raise, whatever becomes of what is written; `failure` tells what went wrong first."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.failure: Exception | None = None

    def write(self, text: str) -> int:
        """As of any text stream, which refuses bytes. A letter that the encoding lacks is shown as `\\u2500`."""
        try:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding
                self._stream.write(text.translate(_PLAIN).encode(encoding, "backslashreplace").decode(encoding))
        except TypeError:
            raise
        except Exception as error:  # people put streams of their own into `sys.stderr`
            self._note(error)
        return len(text)

    def write_bytes(self, piece: bytes) -> None:
        """The bytes are out, after all that was written before."""
        try:
            self._stream.flush()
            self._stream.buffer.write(piece)
            self._stream.buffer.flush()
        except Exception as error:
            self._note(error)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except Exception as error:
            self._note(error)

    def isatty(self) -> bool:
        """False, too, for what is closed."""
        try:
            return bool(self._stream.isatty())
        except Exception:
            return False

    def _note(self, error: Exception) -> None:
        if self.failure is None:
            self.failure = error
            settle_at_exit()

    def settle(self) -> None:
        """Nothing is left to be written. For the end of a process: what cannot be written goes nowhere from now on."""
        try:
            self._stream.flush()
        except Exception as error:
            self._note(error)
            with suppress(Exception):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
                self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        if name == "_stream":  # of a copy that has not been made yet
            raise AttributeError(name)
        return getattr(self._stream, name)


def stream_of(stream: Any) -> Stream:
    """A standard stream as one that does not raise; None is one that was closed when Python began."""
    return stream if isinstance(stream, Stream) else Stream(stream)


def tell(text: str) -> None:
    """People have the text on standard error, if anybody can."""
    _print(text, sys.stderr, is_urgent=True)


def tell_once(text: str, about: str | None = None) -> None:
    """People are told, once in this process, however often it happens; `about` is what it is about, if not the text."""
    if (about or text) not in _said:
        _said.add(about or text)
        tell(text)


def say(text: str) -> None:
    """The text is on standard output, or will be at the end: see `exit_status`."""
    _print(text, sys.stdout, is_urgent=False)


def say_json(document: str) -> None:
    """A JSON document is on standard output, with the same meaning in whatever encoding, and harmless."""
    import re

    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    try:
        document.encode(encoding)
        letters = _UNSEEN
    except UnicodeEncodeError:
        letters = _BEYOND_ASCII
    _print(re.sub(letters, _in_json, document), sys.stdout, is_urgent=False, is_harmless=True)


def _in_json(found: Any) -> str:
    units = found.group().encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


class LogText:
    """The output of a job, piece by piece, on standard output: as it is, or its text and colours on a terminal."""

    def __init__(self) -> None:
        self._out = stream_of(sys.stdout)
        self._rest = b""

    def say(self, piece: bytes) -> bool:
        """The piece is out; false when nobody reads any more."""
        if self._out.isatty():
            self._out.write(self._shown(piece))
            self._out.flush()
        else:
            self._out.write_bytes(piece)  # it may be in no encoding at all
        return self._out.failure is None

    def _shown(self, piece: bytes) -> str:
        import re

        whole = self._rest + piece
        cut = re.search(rb"(?:\x1b(?:\[[0-9;]{0,20})?|[\xc0-\xff][\x80-\xbf]{0,2})\Z", whole)  # the rest is to come
        self._rest = whole[cut.start() :] if cut else b""
        text = whole[: len(whole) - len(self._rest)].decode(errors="replace")
        parts = re.split(r"(\x1b\[[0-9;]*m|[\r\b])", text)
        return "".join(part if at % 2 else harmless(part) for at, part in enumerate(parts))


def as_word(text: str | os.PathLike[str]) -> str:
    """A text as a shell takes it for one word: a path in a command that people paste.

    >>> as_word("experiments/train"), as_word("a;b")
    ('experiments/train', "'a;b'")
    """
    import shlex

    return shlex.quote(os.fspath(text))


_skipped: Final[set[str]] = set()
_said: Final[set[str]] = set()


def skipped(what: str) -> None:
    """People are told, once, of something that was left out because it cannot be read, and why."""
    if what not in _skipped:
        _skipped.add(what)
        tell(f"skipped: {what}")


def has_skipped() -> bool:
    """Whether anything was left out since `all_skipped` was asked the last time."""
    return bool(_skipped)


def all_skipped() -> list[str]:
    """The notes of `skipped` since this was asked the last time."""
    found = sorted(_skipped)
    _skipped.clear()
    return found


def tell_traceback() -> None:
    """The traceback of the exception that is being handled is on standard error."""
    try:
        import traceback

        text = traceback.format_exc()
    except Exception:  # no memory, or an interpreter that ends
        text = described(sys.exc_info()[1] or Exception())
    tell(text.rstrip("\n"))


def _print(text: str, stream: Any, *, is_urgent: bool, is_harmless: bool = False) -> None:
    if stream is None:
        return
    with suppress(Exception):
        out = stream_of(stream)
        out.write((text if is_harmless else harmless(text)) + "\n")
        if is_urgent:
            out.flush()


def hold_numbers() -> None:
    """Files 0 to 2 of this process are open, and it ends with the status that it means to end with.

    A file that is opened while standard error is closed would become it, and be written to by whoever complains.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            handle = os.open(os.devnull, os.O_RDONLY)  # to write is refused, as it was before
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
            os.set_inheritable(number, True)
    settle_at_exit()


def protect() -> None:
    """The standard streams of this process, which is ours alone, do not raise, whoever prints."""
    hold_numbers()
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - it is for the whole process
        setattr(sys, name, stream_of(stream))


def exit_status(status: int) -> int:
    """The exit status of a command of ours, all of whose output is written, or lost: then it is not 0.

    Nothing is said about a reader that has had enough, as in `| head`.
    """
    failure = settle()
    if failure is None or getattr(failure, "errno", None) == errno.EPIPE:
        return status
    tell(f"error: standard output is not complete: {getattr(failure, 'strerror', None) or described(failure)}")
    return status or 1


def flush() -> None:
    """Nothing is left in our buffers that a copy of this process would write again."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream_of(stream).flush()


def settle() -> Exception | None:
    """Python finds nothing left to write when it ends, which it would end with 120 for; returns what was wrong with
    standard output."""
    found = None
    for stream in (sys.stderr, sys.stdout):
        if stream is not None:
            found = stream_of(stream)
            found.settle()
    return found.failure if found is not None and sys.stdout is not None else None


_settles = False


def settle_at_exit() -> None:
    """This process ends with the status that it means to end with."""
    global _settles
    if not _settles:
        import atexit

        _settles = True
        atexit.register(settle)


def names_in(text: str) -> list[str]:
    """The names in a text.

    >>> names_in("algorithm, nn,")
    ['algorithm', 'nn']
    """
    return [name.strip() for name in text.split(",") if name.strip()]


def listed(names: Sequence[str]) -> list[str]:
    """The names that somebody lists; a text alone is one of them.

    >>> listed("lr"), listed(("lr", "nn"))
    (['lr'], ['lr', 'nn'])
    """
    return [names] if isinstance(names, str) else list(names)


def noun(n_jobs: int) -> str:
    """`job` for one of them, `jobs` for none and several."""
    return "job" if n_jobs == 1 else "jobs"


def counted(n_jobs: int) -> str:
    """So many jobs.

    >>> counted(1), counted(2)
    ('1 job', '2 jobs')
    """
    return f"{n_jobs} {noun(n_jobs)}"


def size_text(n_bytes: float) -> str:
    """So much space on a disk, for people.

    >>> size_text(0), size_text(999), size_text(1536), size_text(3.4e9)
    ('0 B', '999 B', '1.5 kB', '3.4 GB')
    """
    units = ["B", "kB", "MB", "GB", "TB"]
    while n_bytes >= 999.5 and units[1:]:
        n_bytes, units = n_bytes / 1000, units[1:]
    return f"{n_bytes:.0f} {units[0]}" if units[0] == "B" or n_bytes >= 100 else f"{n_bytes:.1f} {units[0]}"


def on_terminal() -> bool:
    return sys.stderr is not None and stream_of(sys.stderr).isatty()


def settings_text(variables: Mapping[str, Any]) -> str:
    """`algorithm=TD3 seed=1`, as people would type it."""
    return " ".join(f"{name}={value_text(value)}" for name, value in variables.items())


def cell_text(value: Any, digits: int = 6) -> str:
    """A value in a table for people, with so many digits of what is no whole number.

    >>> [cell_text(value) for value in (None, True, 0.1234567, [1, 2])]
    ['', 'yes', '0.123457', '[1, 2]']
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


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


class _NotebookBar:
    """A progress bar in the output of a notebook's cell, which takes what rich's does. A kernel has no terminal to draw
    it on, and rich draws it there with ipywidgets alone."""

    def __init__(self, display: Any, total: int) -> None:
        self._total, self._done, self._outlook, self._began = total, 0, "", time.monotonic()
        self._shown = display(self._html(), raw=True, display_id=True)

    def _html(self) -> dict[str, str]:
        import html

        seconds = int(time.monotonic() - self._began)
        text = f"{self._done}/{self._total} jobs  {seconds // 60}:{seconds % 60:02d}  {self._outlook}".rstrip()
        bar = f'<progress value="{self._done}" max="{self._total}"></progress>'
        return {"text/plain": text, "text/html": f"<div>{bar} {html.escape(text)}</div>"}

    def advance(self, _: Any) -> None:
        self._done += 1
        self.update()

    def update(self, _: Any = None, *, outlook: str | None = None) -> None:
        self._outlook = self._outlook if outlook is None else outlook
        self._shown.update(self._html(), raw=True)

    def stop(self) -> None:
        self._outlook = ""
        self.update()


def _started_notebook_bar(total: int) -> Any:
    """The bar of a notebook; None where this is none."""
    try:
        ipython = sys.modules["IPython"]
        if type(ipython.get_ipython()).__name__ != "ZMQInteractiveShell":
            return None
        from IPython.display import display

        return _NotebookBar(display, total)
    except Exception:  # a bar is never worth a job
        return None


class JobLines:
    """Tells of each job that ends; `bar` is where the progress bar of a terminal or a notebook lives."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._began = total, 0, time.monotonic()
        self._bar: Any = None
        self._task: Any = None
        self._is_told_ahead = False

    @contextmanager
    def showing(self) -> Iterator[JobLines]:
        """The bar is there inside, on a terminal and in a notebook."""
        if on_terminal():
            with suppress(Exception):
                from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

                what = TextColumn("{task.description}", markup=False)
                rest = TextColumn("{task.fields[outlook]}", markup=False)
                bar = BarColumn(bar_width=24)  # what is said beside it fits a terminal of 80 columns
                self._bar = _started_bar(what, bar, MofNCompleteColumn(), TimeElapsedColumn(), rest)
                self._task = self._bar and self._bar.add_task("jobs", total=self._total, outlook="")
        elif self._total > 1:
            self._bar = _started_notebook_bar(self._total)
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
        if self._done == self._total:
            self.look_ahead("")
        elif not self._is_told_ahead and self._done >= _ENOUGH_TO_GUESS:
            self._show_outlook(guessed_rest(self._done, self._total, time.monotonic() - self._began))

    @property
    def has_bar(self) -> bool:
        return self._bar is not None

    def look_ahead(self, text: str) -> None:
        """The bar ends with that text about the jobs that are left, and no more with a guess by how many have ended so
        far; lines in a pipe have neither."""
        self._is_told_ahead = True
        self._show_outlook(text)

    def _show_outlook(self, text: str) -> None:
        if self._bar is not None:
            with suppress(Exception):
                self._bar.update(self._task, outlook=text)

    def say(self, line: str) -> None:
        """A line about all jobs."""
        if self._bar is None or isinstance(self._bar, _NotebookBar):
            tell(line)
            return
        with suppress(Exception):
            self._bar.console.print(harmless(line), markup=False, highlight=False)


def guessed_rest(n_done: int, total: int, seconds: float) -> str:
    """When the others of so many will have ended, if they go on as those have that ended in these seconds.

    >>> guessed_rest(3, 12, 20.0), guessed_rest(10, 100, 1000.0)
    ('about 1:00 left', 'about 2:30:00 left')
    """
    minutes, rest = divmod(round(seconds / n_done * (total - n_done)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"about {hours}:{minutes:02d}:{rest:02d} left" if hours else f"about {minutes}:{rest:02d} left"


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
