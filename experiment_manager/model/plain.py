"""Plain values: what a job returned, in numbers, text, lists and mappings, and what of it has no such form.

Only values are looked at: nothing is imported to know a class that somebody else has imported.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple

from experiment_manager.errors import UnstorableValue
from experiment_manager.model import codec

MOST_ELEMENTS: Final = 10_000
"""Of an array in a returned value; larger ones belong into a file of their own."""

_ENDLESS: Final = "holds itself, or is nested too deeply to be stored"


class Storable(NamedTuple):
    """The part of a value that can be stored, and why the rest cannot: by its name, as `model` or `best.model`."""

    encoded: codec.Encoded
    refused: dict[str, str]


def storable(value: Any) -> Storable:
    """A value in its plain form; what cannot be stored of its fields, and of the fields of its fields, is left out."""
    refused: dict[str, str] = {}
    try:
        encoded = _encoded(value, "", refused)
    except UnstorableValue as error:
        return Storable(None, {"result": str(error)})
    except RecursionError:
        return Storable(None, {"result": f"the result {_ENDLESS}"})
    return Storable(encoded, refused)


def _encoded(value: Any, name: str, refused: dict[str, str]) -> codec.Encoded:
    fields = _fields(value)
    if fields is None:
        return codec.encode(_plain(value), name or "result")
    stored: dict[Any, Any] = {}
    for key, item in fields:
        whole = f"{name}.{key}" if name else str(key)
        try:
            codec.encode(key, f"a key of {name or 'the result'}")
            stored[key] = _encoded(item, whole, refused)
        except UnstorableValue as error:
            refused[whole] = str(error)
        except RecursionError:
            if name:  # the field in which it began is what cannot be stored
                raise
            refused[whole] = f"{whole} {_ENDLESS}"
    return _mapping(stored)


def _mapping(stored: Mapping[Any, codec.Encoded]) -> codec.Encoded:
    """As `codec.encode` writes mappings, of items that are encoded already."""
    if all(type(key) is str and not key.startswith("$") for key in stored):
        return dict(stored)
    return {"$dict": [[codec.encode(key), item] for key, item in stored.items()]}


def _fields(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """Names and values of what is a mapping, or has named parts; None for everything else."""
    kind = type(value)
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return [(name, getattr(value, name)) for name in kind._fields]
    if hasattr(kind, "__dataclass_fields__"):
        from dataclasses import fields

        return [(field.name, getattr(value, field.name, None)) for field in fields(value)]
    if hasattr(kind, "__attrs_attrs__"):
        return [(field.name, getattr(value, field.name, None)) for field in kind.__attrs_attrs__]
    if hasattr(kind, "model_fields") and hasattr(kind, "model_dump"):  # pydantic
        return [(name, getattr(value, name, None)) for name in kind.model_fields]
    if _is_pandas(value, "Series"):
        return _series(value)
    return None


def _series(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """A column with names; one that is only numbered is a list."""
    _check_size(value)
    if type(value.index).__name__ == "RangeIndex":
        return None
    if not value.index.is_unique:
        raise UnstorableValue("a pandas.Series with an index that repeats itself; return its values, or a mapping")
    items: Iterable[tuple[Any, Any]] = zip(value.index.tolist(), value.tolist(), strict=True)
    return items


def _plain(value: Any) -> Any:
    """The value in what JSON has, and what the codec has tags for. Raises UnstorableValue."""
    fields = _fields(value)
    if fields is not None:
        return {key: _plain(item) for key, item in fields}
    if hasattr(value, "tolist") and hasattr(value, "shape"):
        return _array(value)
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, list) or (isinstance(value, Sequence) and type(value).__module__.startswith("omegaconf.")):
        return [_plain(item) for item in value]
    if isinstance(value, AbstractSet):
        return _sorted([_plain(item) for item in value])
    kind = type(value)
    known = next((base for base in kind.__mro__ if (base.__module__, base.__name__) in _TEXTS), None)
    return value if known is None else _TEXTS[known.__module__, known.__name__](value)


def _array(value: Any) -> Any:
    """A list of lists, or the one number of an array without dimensions."""
    if str(getattr(value, "dtype", ""))[:9] in ("datetime6", "timedelta"):  # their numbers mean nothing without a unit
        value = value.astype(str)
    _check_size(value)
    plain = value.tolist()
    if type(plain) is type(value):
        raise UnstorableValue(f"{type(value).__module__}.{type(value).__qualname__} has no plain form; use float(...)")
    return _plain(plain)


def _check_size(value: Any) -> None:
    if value.size > MOST_ELEMENTS if isinstance(value.size, int) else value.numel() > MOST_ELEMENTS:
        raise UnstorableValue(f"an array of more than {MOST_ELEMENTS} elements")


def _sorted(items: list[Any]) -> list[Any]:
    """The items of a set, in an order that does not change from run to run."""
    try:
        return sorted(items)
    except TypeError:  # of several kinds
        return sorted(items, key=lambda item: codec.canonical(codec.encode(item)))


def _decimal(value: Any) -> Any:
    """A number where that loses no digit, else text."""
    number = float(value)
    kind = type(value)
    return number if not value.is_finite() or kind(repr(number)) == value else str(value)


_TEXTS: Final[dict[tuple[str, str], Callable[[Any], Any]]] = {
    ("decimal", "Decimal"): _decimal,
    ("fractions", "Fraction"): str,
    ("datetime", "datetime"): lambda value: value.isoformat(),
    ("datetime", "date"): lambda value: value.isoformat(),
    ("datetime", "time"): lambda value: value.isoformat(),
    ("datetime", "timedelta"): lambda value: value.total_seconds(),
    ("uuid", "UUID"): str,
}


def _is_pandas(value: Any, name: str) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, getattr(pandas, name, ()))
