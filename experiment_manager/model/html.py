"""Records as a notebook shows them: sentences and small tables in HTML.

All text is escaped and nothing is fetched. Colours are those of the page, so that a dark one is read as well.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

from experiment_manager.text import cell_text, one_line

MOST_ROWS: Final = 50
"""Of a table; a cell that holds ten thousand would make a notebook slow."""

_PLAIN: Final = "background:transparent;color:inherit"
_CELL: Final = f"{_PLAIN};padding:2px 10px;border-bottom:1px solid rgba(128,128,128,.35)"


def block(*parts: str) -> str:
    """Several parts, one below the other."""
    return f'<div style="{_PLAIN};max-width:100%;overflow-x:auto">{"".join(parts)}</div>'


def sentence(text: str) -> str:
    """A line of text.

    >>> sentence("lr < 0.1")
    '<div>lr &lt; 0.1</div>'
    """
    return f"<div>{escape(one_line(text, 1000))}</div>"


def table(rows: Sequence[Mapping[str, Any]], n_rows: int | None = None) -> str:
    """A table whose columns are the keys of all rows, in the order in which they first come; of many rows the first
    ones, and how many there are: `n_rows`, where not all were given."""
    shown, total = rows[:MOST_ROWS], len(rows) if n_rows is None else n_rows
    names = list(dict.fromkeys(name for row in shown for name in row))
    numbers = {name for name in names if all(_is_number(row.get(name)) for row in shown)}
    heads = "".join(_cell("th", name, is_number=name in numbers) for name in names)
    lines = (
        "".join(_cell("td", one_line(cell_text(row.get(name))), is_number=name in numbers) for name in names)
        for row in shown
    )
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    rest = sentence(f"... and {total - len(shown):,} more") if total > len(shown) else ""
    style = f"{_PLAIN};border-collapse:collapse"
    return f'<table style="{style}"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>{rest}'


def _cell(tag: str, text: str, *, is_number: bool) -> str:
    align = "right" if is_number else "left"
    return f'<{tag} style="{_CELL};text-align:{align}">{escape(text)}</{tag}>'


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, int | float)


def flat(row: Mapping[str, Any], nested: Iterable[str]) -> dict[str, Any]:
    """A row with the items of its nested mappings as columns of their own; where a name is taken, with that of the
    mapping before it.

    >>> flat({"job": 0, "variables": {"lr": 0.1, "job": 5}, "metrics": {"lr": 1}}, ("variables", "metrics"))
    {'job': 0, 'lr': 0.1, 'variables.job': 5, 'metrics.lr': 1}
    """
    found: dict[str, Any] = {}
    for name, value in row.items():
        if name not in nested or not isinstance(value, Mapping):
            found[name] = value
            continue
        for inner, item in value.items():
            found[f"{name}.{inner}" if inner in found or inner in row else inner] = item
    return found
