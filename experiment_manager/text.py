"""Text for people: it does no harm to a terminal, written so that nothing about the writing can raise.

A reader that has gone, a full disk, a closed terminal, an encoding that lacks a letter: they decide what people get to
see, and never what becomes of jobs. All that this package prints is printed here. Imports nothing that costs time, for
the supervisor of every task tells things, too.
"""

import errno
import os
import sys
from contextlib import suppress
from typing import Any, Final

MOST_CHARACTERS: Final = 200
"""Of a line that tells what a job, a configuration or somebody's code said; the rest stays where it was found."""

_CUT: Final = "..."
_LOOKED_AT: Final = 20
_SPACES: Final = "\n\t\xa0\u2009\u202f\u3000"
_UNSEEN: Final = "[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
_BEYOND_ASCII: Final = r"[^\x20-\x7e\n]"
_PLAIN: Final = {ord("\u2500"): "-", ord("\u2501"): "-", ord("\u2026"): _CUT}


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


def noun(n_jobs: int) -> str:
    """`job` for one of them, `jobs` for none and several."""
    return "job" if n_jobs == 1 else "jobs"


def counted(n_jobs: int) -> str:
    """So many jobs.

    >>> counted(1), counted(2)
    ('1 job', '2 jobs')
    """
    return f"{n_jobs} {noun(n_jobs)}"
