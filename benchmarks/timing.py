"""Processes that are timed, and contestants that take turns."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TAIL_BYTES = 2000


class Failed(Exception):
    """A contestant did not end well; the text is the end of what it said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One process that has ended."""

    seconds: float
    peak_bytes: int  # of the process or of a child that it has waited for, whichever was larger
    output: str


@dataclass(frozen=True, slots=True)
class Measured:
    """What several rounds have measured, in one unit: s, B, or none for a count."""

    values: tuple[float, ...]
    unit: str = "s"

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """Half of the range, as a part of the median."""
        return (max(self.values) - min(self.values)) / 2 / self.median if self.median else 0.0

    def per(self, count: int) -> "Measured":
        """The same for one of so many.

        >>> Measured((2.0, 4.0)).per(2)
        Measured(values=(1.0, 2.0), unit='s')
        """
        return Measured(tuple(value / count for value in self.values), self.unit)

    def plus(self, other: "Measured") -> "Measured":
        """Both one after the other, round by round.

        >>> Measured((2.0, 4.0)).plus(Measured((1.0, 2.0)))
        Measured(values=(3.0, 6.0), unit='s')
        """
        return Measured(tuple(map(sum, zip(self.values, other.values, strict=True))), self.unit)


def slope(small: Measured, large: Measured, count: int) -> Measured:
    """What one more job costs, round by round, when `large` has `count` more of them.

    >>> slope(Measured((1.0, 2.0)), Measured((3.0, 5.0)), 10)
    Measured(values=(0.2, 0.3), unit='s')
    """
    pairs = zip(small.values, large.values, strict=True)
    return Measured(tuple((more - less) / count for less, more in pairs), small.unit)


def timed(command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str], status: int = 0) -> Run:
    """Runs a command to its end. Raises Failed unless it has that exit status.

    Linux counts the memory of whoever starts a process as that of the process until it has its own, so this process
    imports no large library.
    """
    with open(cwd / "output.log", "w+b") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        _, waited, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(waited)
        output.seek(0)
        text = output.read().decode(errors="replace")
    if process.returncode != status:
        words = " ".join(map(str, command))[:200]
        raise Failed(f"{words} ended with {process.returncode}: {text[-_TAIL_BYTES:].strip()}")
    return Run(seconds=seconds, peak_bytes=usage.ru_maxrss * 1024, output=text)


def take_turns(
    contestants: Mapping[str, Callable[[], float]], *, rounds: int, warm_up: bool = True, unit: str = "s"
) -> dict[str, Measured]:
    """What each contestant returned, round by round; every other round goes backwards."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(0 if warm_up else 1, rounds + 1):
        for name in list(contestants)[:: -1 if number % 2 else 1]:
            value = contestants[name]()
            print(f"  round {number} of {rounds}: {name}: {value:.4g} {unit}", file=sys.stderr, flush=True)
            if number:
                found[name].append(value)
    return {name: Measured(tuple(values), unit) for name, values in found.items()}
