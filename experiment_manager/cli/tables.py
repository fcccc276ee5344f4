"""Tables, YAML and JSON on standard output: aligned for people, unwrapped in a pipe, machine-readable where asked."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, Final

from experiment_manager import codec
from experiment_manager.text import harmless, say_json, stream_of
from experiment_manager.text import say as _say

_MOST_IDS: Final = 60
_MOST_FITTED: Final = 1000


def say(text: str) -> None:
    """The text is on standard output, or will be: see `text.say`."""
    _say(text)


def print_json(value: Any) -> None:
    """One JSON document, each item on a line of its own; what JSON lacks is tagged as in the manifest (see codec)."""
    encoded, ends = codec.encode(value), ("", "")
    text = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
    if encoded and isinstance(encoded, dict):
        lines, ends = [f"{text(key)}: {text(item)}" for key, item in encoded.items()], ("{\n  ", "\n}")
    elif encoded and isinstance(encoded, list):
        lines, ends = [text(item) for item in encoded], ("[\n  ", "\n]")
    else:
        lines = [text(encoded)]
    say_json(ends[0] + ",\n  ".join(lines) + ends[1])


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """A table whose columns are the keys of all rows, in the order in which they first come.

    It fits the terminal. In a pipe, and where it is long, each row is one line: to make 100,000 rows fit takes rich
    45 s (measured).
    """
    if not rows:
        say("nothing to show")
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    numbers = {name for name in columns if all(isinstance(row.get(name), int | float | None) for row in rows)}
    cells = [[_cell(row.get(name)) for name in columns] for row in rows]
    if sys.stdout.isatty() and len(rows) <= _MOST_FITTED:
        _print_fitted(columns, numbers, cells)
    else:
        _print_lines(columns, numbers, cells)


def _print_fitted(columns: Sequence[str], numbers: Set[str], cells: Iterable[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(Text(name), justify="right" if name in numbers else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(harmless(cell)) for cell in row))  # text of people may hold what rich takes for markup
    Console(file=stream_of(sys.stdout)).print(table, markup=False)  # type: ignore[arg-type]


def _print_lines(columns: Sequence[str], numbers: Set[str], cells: Sequence[Sequence[str]]) -> None:
    lines = [[_on_a_line(text) for text in row] for row in [columns, *cells]]
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    for place, line in enumerate(lines):
        padded = (
            " " * (width - _width(text)) + text if name in numbers else text + " " * (width - _width(text))
            for name, text, width in zip(columns, line, widths, strict=True)
        )
        say(" " + "   ".join(padded).rstrip())
        if place == 0:
            say(" " + "\u2500" * (sum(widths) + 3 * len(widths) - 3))


def _on_a_line(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _width(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def yaml_text(value: Any) -> str:
    """YAML in the order of the keys."""
    import yaml

    return str(
        yaml.safe_dump(codec.encode(value), sort_keys=False, allow_unicode=True, default_flow_style=None)
    ).rstrip()


def indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def shortened(ids: str) -> str:
    """Ids that fit a table: `0-3,7,...`."""
    return ids if len(ids) <= _MOST_IDS else ids[:_MOST_IDS].rpartition(",")[0] + ",..."


def duration(seconds: float | None) -> str | None:
    """`1-02:03:04` for a day and more, as SLURM writes times.

    >>> duration(59.9), duration(3661), duration(90000), duration(None)
    ('0:59', '1:01:01', '1-01:00:00', None)
    """
    if seconds is None:
        return None
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}-{hours:02d}:{minutes:02d}:{rest:02d}"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def ago(hours: float) -> str:
    """`3 hours ago`."""
    minutes = hours * 60
    for size, unit in ((1440.0, "day"), (60.0, "hour"), (1.0, "minute")):
        if minutes >= size:
            count = int(minutes // size)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
