"""The recording of a terminal in the README: `make recording` runs the demo and draws what a reader would see.

The commands run on a terminal of their own (a pty), an emulator (pyte) tells what its screen shows, and each line
is drawn for as long as it stood there: an SVG that moves by CSS alone, so that it plays where no script may run. What
takes long is shown faster than it was. Size: one element for each line that has ever been shown.
"""

import fcntl
import os
import pty
import shutil
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pyte

COLUMNS, ROWS = 100, 26
TYPED_S, RUNS_S, STEP_S, LAST_S = 1.0, 5.0, 0.25, 5.0
"""How long a command is there before it runs, how long it seems to run at most, the least time between two screens, and
how long the last screen stays."""

CHARACTER, LINE, MARGIN = 8.4, 19, 14
COLORS = {
    "default": "#d4d7dd",
    "black": "#7a8194",
    "brightblack": "#7a8194",
    "red": "#f07178",
    "green": "#9ece6a",
    "brown": "#e0af68",
    "blue": "#7aa2f7",
    "magenta": "#bb9af7",
    "cyan": "#7dcfff",
    "white": "#ffffff",
}

Line = tuple[tuple[str, str, bool], ...]
"""Pieces of a line: text, colour, and whether it is bold."""


class Shown(NamedTuple):
    """A line of the screen, and from when to when it stood there, in seconds of the recording."""

    row: int
    line: Line
    begin: float
    end: float


def record(commands: Sequence[str], folder: Path) -> list[Shown]:
    """Types the commands one after the other; all that the screen has shown."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    film = _Film()
    for command in commands:
        stream.feed(f"\x1b[1;32m$\x1b[0m \x1b[1m{command}\x1b[0m\r\n".encode())
        film.add(_lines(screen), TYPED_S)
        begin, screens = time.monotonic(), []
        for piece in _output(command, folder):
            stream.feed(piece)
            screens.append((time.monotonic() - begin, _lines(screen)))
        for lines, seconds in _shortened(screens):
            film.add(lines, seconds)
    film.add(_lines(screen), LAST_S)
    return film.developed()


Screen = dict[int, Line]


def _shortened(screens: Sequence[tuple[float, Screen]]) -> Iterator[tuple[Screen, float]]:
    """The screens of a command, each with how long it is shown, as if that had taken no longer than it seems to."""
    pace = min(1.0, RUNS_S / max(screens[-1][0], STEP_S))
    kept = [(0.0, screens[0][1])]
    for moment, lines in screens[1:-1]:
        if moment * pace - kept[-1][0] >= STEP_S:
            kept.append((moment * pace, lines))
    kept.append((screens[-1][0] * pace, screens[-1][1]))
    for (moment, lines), (after, _) in pairwise(kept):
        yield lines, max(after - moment, STEP_S)
    yield kept[-1][1], STEP_S


class _Film:
    """What each row has shown so far."""

    def __init__(self) -> None:
        self._now = 0.0
        self._rows: dict[int, tuple[Line, float]] = {}
        self._shown: list[Shown] = []

    def add(self, lines: Screen, seconds: float) -> None:
        for row, line in lines.items():
            before, begin = self._rows.get(row, ((), 0.0))
            if line != before:
                self._close(row, before, begin)
                self._rows[row] = (line, self._now)
        self._now += seconds

    def _close(self, row: int, line: Line, begin: float) -> None:
        if line and self._now > begin:
            self._shown.append(Shown(row, line, begin, self._now))

    def developed(self) -> list[Shown]:
        for row, (line, begin) in self._rows.items():
            self._close(row, line, begin)
        return self._shown


def _lines(screen: pyte.Screen) -> Screen:
    return {row: _line(screen, row) for row in range(ROWS)}


def _line(screen: pyte.Screen, row: int) -> Line:
    pieces: list[tuple[str, str, bool]] = []
    for column in range(COLUMNS):
        cell = screen.buffer[row][column]
        style = (cell.fg, bool(cell.bold))
        if pieces and pieces[-1][1:] == style:
            pieces[-1] = (pieces[-1][0] + cell.data, *style)
        else:
            pieces.append((cell.data, *style))
    text = "".join(piece[0] for piece in pieces)
    return tuple(pieces) if text.strip() else ()


def _output(command: str, folder: Path) -> Iterator[bytes]:
    """What a command prints on a terminal, in pieces of a tenth of a second."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.environ.update(TERM="xterm-256color", COLUMNS=str(COLUMNS), LINES=str(ROWS))
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        os.execvp("bash", ["bash", "-c", command])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    try:
        while piece := os.read(terminal, 1 << 16):
            yield piece.replace(os.fsencode(folder), b"~")
            time.sleep(0.1)
    except OSError:  # so a terminal ends on Linux
        pass
    _, status = os.waitpid(child, 0)
    assert status == 0, command


def svg(shown: Sequence[Shown]) -> Iterator[str]:
    """The recording as a picture that moves, line by line of its text."""
    length = max(one.end for one in shown)
    height = LINE * (1 + max(one.row for one in shown)) + 2 * MARGIN
    width = round(COLUMNS * CHARACTER) + 2 * MARGIN
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    yield "<style>text{font:14px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;white-space:pre;opacity:0;"
    yield f"animation:{length:.2f}s step-end infinite}}"
    for number, one in enumerate(shown):
        begin, end = 100 * one.begin / length, 100 * one.end / length
        last = "" if one.end == length else f"{end:.2f}%{{opacity:0}}"
        yield f"@keyframes l{number}{{0%{{opacity:{int(begin == 0)}}}{begin:.2f}%{{opacity:1}}{last}}}"
    yield "@media (prefers-reduced-motion){text{animation:none!important}.last{opacity:1}}</style>"
    yield f'<rect width="{width}" height="{height}" rx="8" fill="#1a1d26"/>'
    for number, one in enumerate(shown):
        kind = ' class="last"' if one.end == length else ""
        y = MARGIN + LINE * one.row + 14
        yield f'<text{kind} style="animation-name:l{number}" y="{y}">{"".join(_spans(one.line))}</text>'
    yield "</svg>"


def _spans(line: Line) -> Iterator[str]:
    """The pieces of a line, each where its column begins, whatever the width of the font."""
    column = 0
    for text, color, is_bold in line:
        if text.strip():
            x, width = MARGIN + column * CHARACTER, len(text.rstrip()) * CHARACTER
            fill = COLORS.get(color, f"#{color}" if len(color) == 6 else COLORS["default"])
            bold = ' font-weight="bold"' if is_bold else ""
            yield f'<tspan x="{x:.1f}" textLength="{width:.1f}" fill="{fill}"{bold}>{escape(text.rstrip())}</tspan>'
        column += len(text)


def in_a_clone(commands: Sequence[str]) -> list[Shown]:
    """What the screen shows where the commands are typed in a folder with the program of this repository."""
    with tempfile.TemporaryDirectory() as folder:
        root, place = Path(__file__).parent.parent, Path(folder).resolve()
        shutil.copy(root / "train.py", place)
        shutil.copytree(root / "conf", place / "conf")
        return record(commands, place)


if __name__ == "__main__":
    typed = (
        "python train.py -m algorithm=TD3,DDPG seed=1,2,3",
        "experiment-manager status experiments/train",
        "experiment-manager results experiments/train --group-by algorithm",
    )
    print("\n".join(svg(in_a_clone(typed))))
