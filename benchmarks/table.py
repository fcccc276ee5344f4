"""The lines of the table, and what was measured with what, as Markdown."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from benchmarks.timing import Measured

PACKAGES = (
    "hydra-experiment-manager", "hydra-core", "omegaconf", "hydra-filter-sweeper", "hydra-joblib-launcher",
    "hydra-submitit-launcher", "submitit", "hyperqueue", "seml",
)  # fmt: skip
_HEAD = ("what", "ours", "peer", "the peer's", "ours / peer's", "target", "reached")


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One comparison: with a peer, with a number that was promised (`limit`, in the unit of ours), or with both."""

    what: str
    ours: Measured | None = None
    peer: str = ""
    theirs: Measured | None = None
    at_most: float | None = None  # of ours divided by theirs
    limit: float | None = None
    why_not: str = ""  # the reason that it was not measured

    def cells(self) -> tuple[str, ...]:
        if self.why_not:
            return (self.what, "", self.peer, "not measured", "", "", self.why_not)
        ratio = self.ours.median / self.theirs.median if self.ours and self.theirs and self.theirs.median > 0 else None
        targets = [] if self.at_most is None else [f"at most {as_ratio(self.at_most)}"]
        if self.limit is not None and self.ours:
            targets.append(f"at most {as_quantity(self.limit, self.ours.unit)}")
        return (
            self.what,
            as_measured(self.ours),
            self.peer,
            as_measured(self.theirs),
            "" if ratio is None else as_ratio(ratio),
            ", ".join(targets),
            self._reached(ratio) if targets else "",
        )

    def _reached(self, ratio: float | None) -> str:
        if self.at_most is not None and ratio is None:
            return "unknown: the peer's number is not above 0"
        is_near = self.at_most is None or (ratio is not None and ratio <= self.at_most)
        is_within = self.limit is None or (self.ours is not None and self.ours.median <= self.limit)
        return "yes" if is_near and is_within else "**no**"


def as_ratio(ratio: float) -> str:
    """A ratio as people say it.

    >>> [as_ratio(ratio) for ratio in (40, 2.345, 1.5, 0.96, 0.123, 1 / 300)]
    ['40', '2.35', '1.5', '0.96', '1/8.1', '1/300']
    """
    is_less, times = 0 < ratio < 0.5, 1 / ratio if ratio else 0.0
    number = times if is_less else ratio
    digits = f"{number:.0f}" if number >= 10 else f"{number:.2g}" if is_less else f"{number:.3g}"
    return f"1/{digits}" if is_less else digits


def as_quantity(value: float, unit: str) -> str:
    """A number with its unit, in three digits.

    >>> [as_quantity(value, "s") for value in (61.23, 0.0123, 0.000071)]
    ['61.2 s', '12.3 ms', '71 µs']
    >>> as_quantity(1_234_567, "B"), as_quantity(1, "")
    ('1.23 MB', '1')
    """
    scales = {
        "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
        "B": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
    }.get(unit, ((1.0, unit),))
    scale, name = next((pair for pair in scales if abs(value) >= pair[0]), scales[-1])
    number = value / scale
    digits = f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"
    return f"{digits} {name}".strip()


def as_measured(measured: Measured | None) -> str:
    """The median, and half of the range where there is one."""
    if measured is None:
        return ""
    spread = f" ±{measured.spread:.0%}" if measured.spread >= 0.005 else ""
    return as_quantity(measured.median, measured.unit) + spread


def markdown(lines: Iterable[Line]) -> str:
    """The table."""
    rows = [_HEAD, tuple("---" for _ in _HEAD), *(line.cells() for line in lines)]
    return "".join(f"| {' | '.join(_one_line(cell) for cell in row)} |\n" for row in rows)


def _one_line(cell: str) -> str:
    return " ".join(cell.replace("|", "\\|").split())


def measured_with() -> str:
    """Machine and versions, as a list."""
    lines = [
        f"{len(os.sched_getaffinity(0))} cores, {_processor()}, {_memory_gb():.0f} GB, {platform.system()}",
        f"Python {platform.python_version()}, {_said('sbatch', '--version') or 'no SLURM that answers'}",
        f"commit {_said('git', '-C', str(Path(__file__).parent), 'describe', '--always', '--dirty') or 'unknown'}",
        ", ".join(f"{package} {_version(package)}" for package in PACKAGES),
        f"load of the machine at the end, 1 and 15 minutes: {os.getloadavg()[0]:.1f}, {os.getloadavg()[2]:.1f}",
    ]
    return "".join(f"- {line}\n" for line in lines)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):  # absent, or waiting for a server: no reason to lose the table
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def is_installed(package: str) -> bool:
    """Whether a peer is there to be measured."""
    return _version(package) != "absent"


def absent(what: str, package: str) -> Line:
    """The line of a peer that is not installed here, with this Python."""
    return Line(what=what, peer=package, why_not=f"pip install {package} ({sys.executable} has none)")
