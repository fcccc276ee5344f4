"""Tables, YAML and JSON on standard output: aligned for people, unwrapped in a pipe, machine-readable where asked."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from experiment_manager import codec

_MOST_IDS: Final = 60


def say(text: str) -> None:
    print(text)


def print_json(value: Any) -> None:
    """One JSON document; what JSON lacks is tagged as in the manifest (see codec)."""
    sys.stdout.write(json.dumps(codec.encode(value), ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """A table whose columns are the keys of all rows, in the order in which they first come."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in columns:
        is_number = all(isinstance(row.get(name), int | float | None) for row in rows)
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in columns))
    console = Console() if sys.stdout.isatty() else Console(width=100_000)
    console.print(table, markup=False) if rows else say("nothing to show")


def _cell(value: Any) -> Any:
    from rich.text import Text

    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return Text(str(value))  # text of people may hold what rich takes for markup


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


def ago(hours: float) -> str:
    """`3 hours ago`."""
    minutes = hours * 60
    for size, unit in ((1440.0, "day"), (60.0, "hour"), (1.0, "minute")):
        if minutes >= size:
            count = int(minutes // size)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
