"""What all verbs take and print: their arguments, and tables, YAML and JSON on standard output, aligned for people,
unwrapped in a pipe, machine-readable where asked.

Nothing is folded, and no number is ever cut: a column is shown whole, cut between words, or left out and named.
"""

import inspect
import json
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import wraps
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, get_type_hints

import typer

from experiment_manager.cli import completion
from experiment_manager.errors import JobRefused
from experiment_manager.model import codec
from experiment_manager.text import cell_text, say_json, stream_of, value_text
from experiment_manager.text import say as _say

if TYPE_CHECKING:
    from experiment_manager.experiment import Experiment

SCHEMA_VERSION: Final = 1
"""Of what `--json` prints, see `shapes`."""

NOT_FINITE: Final = "not_finite"
"""The key that maps places to `nan`, `inf` or `-inf`, where JSON has null."""

HOW_TO_GET_MORE = "--columns\xa0NAMES shows others, `|\xa0less\xa0-S` all"
"""The hint for columns that do not fit the terminal."""

DIGITS: Final = 6
"""How many digits of a number a table shows at least."""

Folder = Annotated[Path, typer.Argument(help="The experiment's folder.", show_default=False)]
JobNumber = Annotated[
    int, typer.Argument(help="The id of the job.", show_default=False, autocompletion=completion.one_job)
]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", help="Only jobs that pass this filter; may be repeated."),
]
Columns = Annotated[
    str | None,
    typer.Option(
        "--columns",
        autocompletion=completion.columns,
        help="Only these columns, in this order; patterns, too: seed,'val/*'. Full names: metrics.loss.",
    ),
]
Selected = Annotated[bool, typer.Option("--selected", help="Only jobs that pass the saved filter.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def with_fields(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb as the command line takes it: each parameter that is a record stands for the fields of it, so that what
    several verbs have in common is declared once."""
    hints = get_type_hints(verb, include_extras=True)
    records = {name: hints[name] for name in inspect.signature(verb).parameters if _is_record(hints[name])}
    shown: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(verb).parameters.items():
        if name in records:
            of_record = get_type_hints(records[name], include_extras=True)
            fields = inspect.signature(records[name]).parameters.values()
            shown += [one.replace(kind=one.KEYWORD_ONLY, annotation=of_record[one.name]) for one in fields]
        else:
            shown.append(parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=hints[name]))

    @wraps(verb)
    def called(**values: Any) -> None:
        made = {name: one(**{field: values.pop(field) for field in one._fields}) for name, one in records.items()}
        verb(**made, **values)

    called.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in shown}
    return called


def _is_record(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, tuple)


class Chosen(NamedTuple):
    """The experiment that a verb reads, and which of its jobs."""

    folder: Folder
    where: Where = None
    selected: Selected = False

    def read(self) -> "tuple[Experiment, list[Any] | None]":
        """The experiment, and the rules that its jobs are to pass."""
        from experiment_manager.experiment import Experiment

        experiment = Experiment.at(self.folder)
        return experiment, experiment.rules(self.where, selected=self.selected)


def rules_of(ids: Sequence[str] | None, where: Sequence[str] | None, state: str | None = None) -> list[str] | None:
    """The rules that jobs are to pass which are named by ids and filters; None where nothing is named."""
    named = [",".join(ids)] if ids else []
    return [*named, *([f"state:{state}"] if state else []), *(where or [])] or None


def that_you_named(rules: Collection[str] | None) -> str:
    """What follows `no job of experiments/train` where somebody has named jobs."""
    return "" if rules is None else " that you named"


def require_yes(question: str, refusal: str, *, is_given: bool) -> None:
    """Raise JobRefused unless somebody agrees: by `--yes`, which `is_given`, or at a terminal."""
    if not is_given and not (sys.stdin.isatty() and typer.confirm(question)):
        raise JobRefused(f"{refusal}; add --yes to do it")


def say(text: str) -> None:
    """The text is on standard output, or will be: see `text.say`."""
    _say(text)


def print_json(value: Any) -> None:
    """One JSON document, each item on a line of its own; what JSON lacks is as `codec.as_json` has it."""
    _print_document(codec.as_json(value))


def print_answer(answer: Mapping[str, Any] | Sequence[Any]) -> None:
    """What a verb answers with `--json`, in its shape (see shapes): an object, or a list of objects, each of which says
    of which version it is, and what its numbers were that are not finite."""
    if isinstance(answer, Mapping):
        _print_document(_versioned(answer))
    else:
        _print_document([_versioned(item) for item in answer])


def _versioned(answer: Mapping[str, Any]) -> dict[str, Any]:
    not_finite: dict[str, str] = {}
    found = codec.as_json(answer, not_finite)
    return {"schema_version": SCHEMA_VERSION, **found, **({NOT_FINITE: not_finite} if not_finite else {})}


def _print_document(encoded: Any) -> None:
    ends = ("", "")
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
    digits: int = DIGITS,
) -> None:
    """A table whose columns are the keys of all rows, in the order in which they first come: each row is one line.

    On a terminal it fits: see `lines` for what becomes of columns that are `optional` or `minor`.
    In the columns that are `exact`, as those of variables, different values look different.
    """
    how: dict[str, Any] = {"optional": optional, "minor": minor, "more": more, "exact": exact, "digits": digits}
    for line in row_lines(rows, width=terminal_width(), **how):
        say(line)


def row_lines(
    rows: Sequence[Mapping[str, Any]],
    *,
    width: int | None,
    optional: Sequence[str] = (),
    minor: Sequence[str] = (),
    more: str = "",
    exact: Collection[str] = (),
    digits: int = DIGITS,
) -> list[str]:
    """The lines of `print_rows` for a terminal of that width."""
    if not rows:
        return ["nothing to show"]
    names = list(dict.fromkeys(key for row in rows for key in row))
    numbers = {name for name in names if all(isinstance(row.get(name), int | float | None) for row in rows)}
    cells = {_on_a_line(name): [_on_a_line(text) for text in _texts(rows, name, exact, digits)] for name in names}
    columns = Cells(cells, {_on_a_line(name) for name in numbers}, mark=_shown("\u2026", "..."))
    optional, minor = [_on_a_line(name) for name in optional], [_on_a_line(name) for name in minor]
    return lines(columns, width=width, optional=optional, minor=minor, more=more)


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


def _texts(rows: Sequence[Mapping[str, Any]], name: str, exact: Collection[str], digits: int) -> list[str]:
    """The cells of a column; where different values of one that is exact would look alike, each as people type it."""
    texts = [cell_text(row.get(name), digits) for row in rows]
    if name not in exact:
        return texts
    values = map(_typed, (row.get(name, _NOTHING) for row in rows))
    if len(set(zip(texts, values, strict=True))) == len(set(texts)):
        return texts
    return [value_text(row[name]) if name in row else "" for row in rows]


def _typed(value: Any) -> Any:
    """What is equal for values that are the same: 1, 1.0 and True are three."""
    if value is _NOTHING:
        return None
    kind = type(value)
    return (kind, value) if kind is str or kind is int or kind is bool else codec.canonical(codec.encode(value))


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


_GAP: Final = 3
_WIDEST: Final = (60, 40, 30, 24, 18, 12)
"""How wide a column of text may be: the first of these with which the table fits."""
_NARROWEST: Final = _WIDEST[-1]
_NEVER_CUT: Final = 16
_MOST_NAMED: Final = 200
_OF_NUMBERS: Final = "0123456789.-+e"
_NOTHING: Final = object()


class Cells(NamedTuple):
    """The cells of a table by column, names on top; `numbers` are aligned on the right, and never cut."""

    cells: Mapping[str, Sequence[str]]
    numbers: Collection[str]
    mark: str = "\u2026"  # of what was cut
    rule: str = "\u2500"


class _Fit(NamedTuple):
    widths: dict[str, int]  # of the columns that are shown, in their order
    same: list[str]  # shown once, below the table
    left_out: list[str]


def lines(
    columns: Cells, *, width: int | None, optional: Sequence[str] = (), minor: Sequence[str] = (), more: str = ""
) -> list[str]:
    """The table, one line a row, in a terminal of that width; None: as wide as it gets.

    Where it does not fit, columns that say the same in all rows are told once, long text is cut, and of the `optional`
    columns as many are shown as fit, in the order in which they are given, and then of the `minor` ones. What is left
    out is named, with what `more` says about how to get it.
    """
    natural = {name: _widest((name, *cells)) for name, cells in columns.cells.items()}
    if width is None or _total(natural) <= width:
        return list(_drawn(columns, natural))
    fit = _fitted(columns, natural, width, optional, minor)
    notes = []
    if fit.same:
        notes.append("the same in all rows: " + " ".join(_setting(columns, name, width // 2) for name in fit.same))
    if fit.left_out:
        notes.append(f"left out: {_named(fit.left_out)}" + (f"; {more}" if more else ""))
    elif more and any(text_width(cell) > width for name, width in fit.widths.items() for cell in columns.cells[name]):
        notes.append(f"{columns.mark} stands for what was cut; {more}")
    return [*_drawn(columns, fit.widths, optional), *chain.from_iterable(wrapped(note, width) for note in notes)]


def wrapped(text: str, width: int) -> list[str]:
    """A text in lines that are broken between words; a no-break space is kept, and comes out as any other.

    >>> wrapped("loss=0.25 accuracy=0.5", 14)
    ['loss=0.25', 'accuracy=0.5']
    """
    lines = [""]
    for word in text.split(" ") if text_width(text) > width else [text]:
        if lines[-1] and text_width(lines[-1]) + 1 + text_width(word) > width:
            lines.append(word)
        else:
            lines[-1] += f" {word}" if lines[-1] else word
    return [line.replace("\xa0", " ") for line in lines]


def _total(widths: Mapping[str, int]) -> int:
    return sum(widths.values()) + _GAP * max(0, len(widths) - 1) + 1


def _fitted(
    columns: Cells, natural: Mapping[str, int], width: int, optional: Sequence[str], minor: Sequence[str]
) -> _Fit:
    required = [name for name in natural if name not in optional and name not in minor]
    same = [name for name in natural if name not in optional and _is_same(columns.cells[name])]
    same = [name for name in same if name != required[0]]
    optional = [name for name in (*optional, *minor) if name not in same and any(columns.cells.get(name, ()))]
    least = {name: _least(columns, name, size) for name, size in natural.items()}
    first = sum(_GAP + least[name] for name in optional[:2])
    shown: dict[str, int] = {}
    for widest in _WIDEST:
        shown = {name: max(least[name], min(natural[name], widest)) for name in required if name not in same}
        if _total(shown) + first <= width:
            break
    left_out: list[str] = []
    while _total(shown) > width and len(shown) > 1:
        left_out.insert(0, shown.popitem()[0])
    for name, others in zip(optional, _texts_after(optional, columns.numbers), strict=True):
        free = width - _total(shown) - _GAP
        size = natural[name] if name in columns.numbers else min(natural[name], free // (1 + others))
        if least[name] <= free:
            shown[name] = size if least[name] <= size <= free else least[name]
        else:
            left_out.append(name)
    widths = {name: shown[name] for name in natural if name in shown}
    return _Fit(widths, [name for name in same if columns.cells[name][0]], left_out)


def _is_same(cells: Sequence[str]) -> bool:
    return len(cells) > 1 and all(cell == cells[0] for cell in cells)


def _least(columns: Cells, name: str, natural: int) -> int:
    """The narrowest that a column can be: a number is shown whole, text and names begin to be cut there."""
    whole = max(map(text_width, columns.cells[name])) if name in columns.numbers else 0
    return max(whole, natural if natural <= _NEVER_CUT else _NARROWEST)


def _texts_after(names: Sequence[str], numbers: Collection[str]) -> list[int]:
    """For each column how many columns of text come after it, which want some of the width, too."""
    return [sum(1 for other in names[place + 1 :] if other not in numbers) for place in range(len(names))]


def _setting(columns: Cells, name: str, width: int) -> str:
    return f"{name}={cut(columns.cells[name][0], min(width, _WIDEST[0]), columns.mark)}"


def _named(names: Sequence[str]) -> str:
    """`a, b, c`, or the first of many and how many there are."""
    text = ", ".join(names)
    if len(text) <= _MOST_NAMED:
        return text
    return f"{text[:_MOST_NAMED].rpartition(',')[0]}, ... ({len(names)} columns)"


def _drawn(columns: Cells, widths: Mapping[str, int], optional: Collection[str] = ()) -> Iterator[str]:
    shown = [
        [
            _end(name, width, columns.mark),
            *_cut_alike(columns.cells[name], width, columns.mark, by_end=name not in optional),
        ]
        for name, width in widths.items()
    ]
    padded = [
        _padded(cells, width, is_number=name in columns.numbers)
        for (name, width), cells in zip(widths.items(), shown, strict=True)
    ]
    for place, line in enumerate(zip(*padded, strict=True)):
        yield " " + (" " * _GAP).join(line).rstrip()
        if place == 0:
            yield " " + columns.rule * (_total(widths) - 1)


def _padded(cells: Sequence[str], width: int, *, is_number: bool) -> list[str]:
    """The cells of a column, each as wide as the column."""
    if "".join(cells).isascii():
        return [cell.rjust(width) for cell in cells] if is_number else [cell.ljust(width) for cell in cells]
    gaps = (" " * (width - text_width(cell)) for cell in cells)
    return [gap + cell if is_number else cell + gap for cell, gap in zip(cells, gaps, strict=True)]


def _cut_alike(cells: Sequence[str], width: int, mark: str, *, by_end: bool) -> list[str]:
    """The cells of one column with their beginnings; or with their ends, where these tell more of them apart."""
    if _widest(cells) <= width:
        return list(cells)
    by_start = [cut(cell, width, mark) for cell in cells]
    if by_start == list(cells) or not by_end:
        return by_start
    ends = [_end(cell, width, mark) for cell in cells]
    return ends if len(set(ends)) > len(set(by_start)) else by_start


def _end(text: str, width: int, mark: str) -> str:
    """The end of a text that is too long, as of a name: it tells `model.optimizer.lr` from its neighbours."""
    return cut(text[::-1], width, mark[::-1])[::-1]


def cut(text: str, width: int, mark: str = "\u2026") -> str:
    """A text in that many columns of a terminal: what does not fit is cut off before a word or a number, and marked.

    >>> cut("lr=0.25 seed=13", 14), cut("[256, 256, 256]", 12), cut("abcdefghijklmnop", 8)
    ('lr=0.25 …', '[256, 256, …', 'abcdefg…')
    >>> cut("x 1234567890123456789", 12)
    'x …'
    """
    if text_width(text) <= width:
        return text
    kept, size = len(text), width - len(mark)
    while text_width(text[:kept]) > size:
        kept -= 1
    at = kept
    while at > 0 and _is_inside(text[at - 1], text[at]):
        at -= 1
    is_number = text[kept - 1] in _OF_NUMBERS and text[kept] in _OF_NUMBERS
    return text[: at if at * 3 > width or (at and is_number) else kept] + mark


def _is_inside(before: str, after: str) -> bool:
    """Whether a text is cut in a word or a number between these two."""
    return not before.isspace() and not after.isspace() and before not in ",;/|" and after not in ",;/|"


def _widest(texts: Sequence[str]) -> int:
    """How many columns of a terminal the widest of these takes."""
    return max(map(len if "".join(texts).isascii() else text_width, texts), default=0)


def text_width(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
