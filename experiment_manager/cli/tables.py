"""Tables, YAML and JSON on standard output: aligned for people, unwrapped in a pipe, machine-readable where asked."""

import json
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from experiment_manager import codec
from experiment_manager.cli import layout
from experiment_manager.progress import value_text
from experiment_manager.text import say as _say
from experiment_manager.text import say_json, stream_of


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


def print_rows(
    rows: Sequence[Mapping[str, Any]],
    *,
    optional: Sequence[str] = (),
    minor: Sequence[str] = (),
    more: str = "",
    exact: Collection[str] = (),
) -> None:
    """A table whose columns are the keys of all rows, in the order in which they first come: each row is one line.

    On a terminal it fits: see `layout.lines` for what becomes of columns that are `optional` or `minor`.
    In the columns that are `exact`, as those of variables, different values look different.
    """
    for line in row_lines(rows, width=terminal_width(), optional=optional, minor=minor, more=more, exact=exact):
        say(line)


def row_lines(
    rows: Sequence[Mapping[str, Any]],
    *,
    width: int | None,
    optional: Sequence[str] = (),
    minor: Sequence[str] = (),
    more: str = "",
    exact: Collection[str] = (),
) -> list[str]:
    """The lines of `print_rows` for a terminal of that width."""
    if not rows:
        return ["nothing to show"]
    names = list(dict.fromkeys(key for row in rows for key in row))
    numbers = {name for name in names if all(isinstance(row.get(name), int | float | None) for row in rows)}
    cells = {_on_a_line(name): [_on_a_line(text) for text in _texts(rows, name, exact)] for name in names}
    columns = layout.Columns(cells, {_on_a_line(name) for name in numbers}, mark=_shown("\u2026", "..."))
    optional, minor = [_on_a_line(name) for name in optional], [_on_a_line(name) for name in minor]
    return layout.lines(columns, width=width, optional=optional, minor=minor, more=more)


def terminal_width() -> int | None:
    """How many columns the terminal has that standard output is; None where it is none."""
    return shutil.get_terminal_size().columns if stream_of(sys.stdout).isatty() else None


def _shown(mark: str, plain: str) -> str:
    """The mark, or what stands for it where standard output has no letter for it."""
    try:
        mark.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return plain
    return mark


def _on_a_line(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _texts(rows: Sequence[Mapping[str, Any]], name: str, exact: Collection[str]) -> list[str]:
    """The cells of a column; where different values of one that is exact would look alike, each as people type it."""
    texts = [_cell(row.get(name)) for row in rows]
    if name not in exact:
        return texts
    values = (codec.canonical(codec.encode(row[name])) if name in row else None for row in rows)
    if len(set(zip(texts, values, strict=True))) == len(set(texts)):
        return texts
    return [value_text(row[name]) if name in row else "" for row in rows]


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
        yaml.safe_dump(codec.plain(value), sort_keys=False, allow_unicode=True, default_flow_style=None)
    ).rstrip()


def indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


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
