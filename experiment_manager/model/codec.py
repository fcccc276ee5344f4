"""The one encoding of variables and configurations: JSON, with tags for what plain JSON would bend.

Configurations hold enums, paths, tuples, bytes, NaN and keys that are no strings; `1`, `1.0` and `True` are three
different values. The manifest, the fingerprint of a configuration and the identity of a job all use this encoding, in
the process that plans and in the process that runs, so that equal texts mean equal values.

    plain     None, booleans, integers, strings, finite floats, lists, mappings with string keys
    tagged    {"$float": "nan"}  {"$tuple": [..]}  {"$bytes": "base64"}  {"$path": ".."}  {"$enum": [class, name]}
              {"$dict": [[key, value], ..]}  for mappings with other keys, or with a key that starts with `$`
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from enum import Enum, Flag
from functools import cache
from os import PathLike, fsdecode

from experiment_manager.errors import UnstorableValue
from experiment_manager.typing_names import Any, Final, TypeGuard

Encoded = Any
"""A value that `json.dumps` takes as it is and gives back unchanged."""

_FORM: Final[dict[str, Any]] = {
    "ensure_ascii": False,
    "separators": (",", ":"),
    "allow_nan": False,
    "check_circular": False,  # `encode` has refused what holds itself
}
_IN_ORDER: Final = json.JSONEncoder(**_FORM)
_BY_KEY: Final = json.JSONEncoder(**_FORM, sort_keys=True)
_PROGRAM: Final = "__main__"
_MOST_BITS: Final = 14_000
_LARGE: Final = 1 << 64
MOST_LEVELS: Final = 200
"""Of lists and mappings in one another: who goes through a value makes up to four calls for each, of Python's 1000."""
_LEVELS_OF_RECORDS: Final = 10  # around a value, more than there are


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value is one to calculate with, or to draw; True and False are none.

    >>> is_number(3), is_number(float("nan")), is_number(True), is_number("3")
    (True, True, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_float(value: float) -> float:
    """The value as a float; an integer that is too large for one is infinite.

    >>> as_float(3), as_float(-(10**400))
    (3.0, -inf)
    """
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def encode(value: Any, where: str = "") -> Encoded:
    """The tagged form of a value; the order of mapping keys is kept.

    >>> encode({"tau": 0.005, "shape": (1, 2), 3: b"x"})
    {'$dict': [['tau', 0.005], ['shape', {'$tuple': [1, 2]}], [3, {'$bytes': 'eA=='}]]}

    Raises UnstorableValue naming the place, as `nn.activation`, for anything else.
    """
    try:
        encoded = _encode(value, where)
        is_too_deep = has_many_levels(encoded, MOST_LEVELS - _LEVELS_OF_RECORDS)
    except RecursionError:
        is_too_deep = True
    if is_too_deep:
        raise UnstorableValue(f"{where or 'the value'} holds itself, or is nested too deeply to be stored") from None
    return encoded


def _encode(value: Any, where: str) -> Encoded:
    if _is_its_own(value):
        return value
    kind = type(value)
    if kind is int:
        return _encode_integer(value, where)
    if kind is str:
        return _encode_text(value, where)
    if kind is float:
        return {"$float": repr(value)}
    if kind is list:
        return [item if _is_its_own(item) else _encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if kind is dict or isinstance(value, Mapping):
        return _encode_mapping(value, where)
    return _encode_rare(value, where)


def _is_its_own(value: Any) -> bool:
    """Whether a value is known at once to be its own tagged form, as most are."""
    kind = type(value)
    if kind is str:
        return bool(value.isascii())
    if kind is int:
        return bool(-_LARGE < value < _LARGE)
    if kind is float:
        return bool(value - value == 0)
    return value is None or kind is bool


def _encode_integer(value: int, where: str) -> int:
    if value.bit_length() > _MOST_BITS:  # Python itself refuses to write longer ones as text
        raise UnstorableValue(
            f"{where or 'the value'} is an integer of {value.bit_length()} bits, too long to be stored"
        )
    return value


def _encode_text(value: str, where: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UnstorableValue(f"{where or 'the value'} is text that is not valid Unicode: {value!r}") from error
    return value


def _encode_mapping(value: Mapping[Any, Any], where: str) -> Encoded:
    place = f"{where}." if where else ""
    encoded: dict[str, Encoded] = {}
    for key, item in value.items():
        if type(key) is not str or key[:1] == "$":
            pairs = ((_encode(key, f"a key of {where}"), _encode(item, f"{place}{key}")) for key, item in value.items())
            return {"$dict": [list(pair) for pair in pairs]}
        name = key if key.isascii() else _encode_text(key, where)
        encoded[name] = item if _is_its_own(item) else _encode(item, place + key)
    return encoded


def _encode_rare(value: Any, where: str) -> Encoded:
    if isinstance(value, Enum):  # before int and str: an IntEnum is one, too
        kind = type(value)
        return {"$enum": [f"{_module_of(kind)}.{kind.__qualname__}", value.name]}
    if isinstance(value, tuple):
        return {"$tuple": [_encode(item, f"{where}[{i}]") for i, item in enumerate(value)]}
    if isinstance(value, (bytes, bytearray)):
        from base64 import b64encode

        return {"$bytes": b64encode(value).decode()}
    if isinstance(value, PathLike):
        return {"$path": _encode_text(fsdecode(value), where)}
    for plain in (bool, int, float, str):  # subclasses, numpy's float64 among them
        if isinstance(value, plain):
            return _encode(plain(value), where)
    item = of_python(value)
    if item is not value:
        return _encode(item, where)
    raise UnstorableValue(
        f"{where or 'the value'} is a {type(value).__module__}.{type(value).__qualname__}, which cannot be stored; "
        "use numbers, text, lists and mappings"
    )


def of_python(value: Any) -> Any:
    """What a scalar of NumPy or PyTorch is in Python; anything else as it is, as a long double, which no number of
    Python can hold."""
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        item = value.item()
        return value if type(item) is type(value) else item
    return value


def _module_of(kind: type) -> str:
    """The name of the module that a class is from. The program that was started is `__main__`, also where it has been
    imported by its name once more, as Hydra does for a `_target_` in it."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    is_program = file is not None and file == getattr(sys.modules.get(_PROGRAM), "__file__", None)
    return _PROGRAM if is_program else kind.__module__


def decode(encoded: Encoded) -> Any:
    """The value back from its tagged form.

    An enum comes back as itself where its class is loaded, else as its name: nothing is imported for it.
    """
    if isinstance(encoded, list):
        return [decode(item) for item in encoded]
    if not isinstance(encoded, dict):
        return encoded
    if len(encoded) == 1:
        (tag, body), *_ = encoded.items()
        if tag in _DECODERS:
            return _DECODERS[tag](body)
    return {key: decode(item) for key, item in encoded.items()}


def as_json(value: Any, not_finite: dict[str, str] | None = None) -> Any:
    """The value as JSON has it, without tags: a tuple is a list, an enum its name; a path, bytes (base64) and every key
    are text; a number that is not finite is None, and `not_finite` gets what it was, by its place.

    >>> lost = {}
    >>> as_json({"shape": (1, 2), "loss": [0.5, float("nan")], 3: Enum("Mode", "FAST").FAST}, lost), lost
    ({'shape': [1, 2], 'loss': [0.5, None], '3': 'FAST'}, {'loss[1]': 'nan'})

    Raises UnstorableValue for what has no such form.
    """
    lost: list[float] = []
    found = _as_json(value, lost)
    if lost and not_finite is not None:  # so rarely that places are looked for only then
        not_finite |= {place: repr(number) for place, number in _not_finite(value, "")}
    return found


def _as_json(value: Any, lost: list[float]) -> Any:
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return _encode_integer(value, "")
    if kind is float:
        if value - value == 0:
            return value
        lost.append(value)
        return None
    return _rare_as_json(value, lost)


def _rare_as_json(value: Any, lost: list[float]) -> Any:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list | tuple):
        return [_as_json(item, lost) for item in value]
    if isinstance(value, Mapping):
        return {key: _as_json(item, lost) for key, item in _named(value)}
    encoded = _encode_rare(value, "")  # a number of NumPy, a path, bytes
    if not isinstance(encoded, dict):
        return encoded
    (tag, body), *_ = encoded.items()
    return _as_json(float(body), lost) if tag == "$float" else body


def _named(value: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """The items of a mapping, by keys that are text, each by one of its own."""
    if all(type(key) is str for key in value):
        yield from value.items()
        return
    taken = {key for key in value if isinstance(key, str)}
    for key, item in value.items():
        name = key if isinstance(key, str) else json.dumps(_as_json(key, []))
        while not isinstance(key, str) and name in taken:  # nothing is lost for `1` beside `"1"`
            name = f"{name} ({type(key).__name__})"
        taken.add(name)
        yield name, item


def _not_finite(value: Any, where: str) -> Iterator[tuple[str, float]]:
    """The places of numbers that are not finite, and these."""
    if isinstance(value, Mapping):
        for key, item in _named(value):
            yield from _not_finite(item, f"{where}.{key}" if where else key)
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _not_finite(item, f"{where}[{place}]")
    else:
        lost: list[float] = []
        _as_json(value, lost)
        yield from ((where, number) for number in lost)


def _decode_bytes(body: str) -> bytes:
    from base64 import b64decode

    return b64decode(body)


def _decode_path(body: str) -> Any:
    from pathlib import Path

    return Path(body)


def _decode_enum(body: list[str]) -> Any:
    path, name = body
    kind = enum_class(path)
    return name if kind is None else _member(kind, name)


def enum_class(path: str) -> type[Enum] | None:
    """The class of an enum by its path, as `train.Mode`; None where it is not loaded."""
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(parts[:cut]))
        for part in parts[cut:]:
            found = getattr(found, part, None)
        if isinstance(found, type) and issubclass(found, Enum):
            return found
    return None


def enum_paths(encoded: Encoded) -> Iterator[str]:
    """The paths of the classes of all enums in a tagged form.

    >>> list(enum_paths({"mode": [{"$enum": ["train.Mode", "FAST"]}], "lr": 0.1}))
    ['train.Mode']
    """
    if isinstance(encoded, dict) and list(encoded) == ["$enum"]:
        yield encoded["$enum"][0]
    elif isinstance(encoded, dict | list):
        for item in encoded.values() if isinstance(encoded, dict) else encoded:
            yield from enum_paths(item)


def is_alike(one: Encoded, other: Encoded) -> bool:
    """Whether two tagged forms are equal, where an enum may be the program's own: it is of `__main__` in the program
    itself, and of a module wherever that is imported.

    >>> is_alike({"$enum": ["__main__.Mode", "FAST"]}, {"$enum": ["shop.train.Mode", "FAST"]})
    True
    >>> is_alike({"$enum": ["shop.train.Mode", "FAST"]}, {"$enum": ["shop.other.Mode", "FAST"]})
    False
    """
    before, after = with_same_enums(one, other)
    return digest(before) == digest(after)


def with_same_enums(one: Encoded, other: Encoded) -> tuple[Encoded, Encoded]:
    """Two tagged forms, in which an enum that is the program's own in one of them is so in both."""
    return _of_program(one, _in_program(other)), _of_program(other, _in_program(one))


def _in_program(encoded: Encoded) -> frozenset[str]:
    """The names of enums of `__main__`, with the dot before them."""
    return frozenset(path.removeprefix(_PROGRAM) for path in enum_paths(encoded) if path.startswith(f"{_PROGRAM}."))


def _of_program(encoded: Encoded, names: frozenset[str]) -> Encoded:
    """The tagged form with the enums of these names as those of `__main__`."""
    if isinstance(encoded, list):
        return [_of_program(item, names) for item in encoded]
    if not isinstance(encoded, dict):
        return encoded
    if list(encoded) == ["$enum"]:
        path, member = encoded["$enum"]
        found = (name for name in names if path.endswith(name))
        return {"$enum": [f"{_PROGRAM}{name}" if (name := next(found, None)) else path, member]}
    return {key: _of_program(item, names) for key, item in encoded.items()}


def _member(kind: type[Enum], name: str) -> Any:
    """The member of that name, `READ|WRITE` among them; the name where there is none."""
    names = name.split("|") if issubclass(kind, Flag) else [name]
    if not all(part in kind.__members__ for part in names):
        return name
    member: Any = kind[names[0]]
    for part in names[1:]:
        member |= kind[part]
    return member


_DECODERS: Final[dict[str, Any]] = {
    "$float": float,
    "$tuple": lambda body: tuple(decode(item) for item in body),
    "$bytes": _decode_bytes,
    "$path": _decode_path,
    "$enum": _decode_enum,
    "$dict": lambda body: {decode(key): decode(item) for key, item in body},
}


def readable(encoded: Encoded) -> str:
    """A tagged form as people read it: JSON, with tuples, paths, enums and the like as Python writes them.

    >>> readable([1, {"$tuple": [0.5, {"$float": "nan"}]}]), readable({"$dict": [[3, {"$path": "a/b"}]]})
    ('[1,(0.5,nan)]', '{3:Path("a/b")}')
    """
    if isinstance(encoded, list):
        return f"[{','.join(map(readable, encoded))}]"
    if not isinstance(encoded, dict):
        return dumps(encoded)
    tag = next(iter(encoded), "")
    body: Any = encoded.get(tag)
    if tag not in _DECODERS or len(encoded) > 1:
        return "{" + ",".join(f"{dumps(key)}:{readable(item)}" for key, item in encoded.items()) + "}"
    if tag == "$tuple":
        return f"({','.join(map(readable, body))}{',' if len(body) == 1 else ''})"
    if tag == "$dict":
        return "{" + ",".join(f"{readable(key)}:{readable(item)}" for key, item in body) + "}"
    if tag == "$enum":
        return ".".join((body[0].rpartition(".")[2], body[1]))
    return f"Path({dumps(body)})" if tag == "$path" else repr(_DECODERS[tag](body))


def plain(value: Any) -> Any:
    """A value without what JSON and YAML have no word for: tuples are lists, paths and enums are text.

    >>> plain({"shape": (1, 2), 3: float("inf")})
    {'shape': [1, 2], 3: inf}
    """
    if isinstance(value, Mapping):
        return {_plain_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode(errors="backslashreplace")
    return fsdecode(value) if isinstance(value, PathLike) else value


def yaml_text(value: Any) -> str:
    """A value as YAML, in the order of its keys."""
    import yaml

    return str(yaml.safe_dump(plain(value), sort_keys=False, allow_unicode=True, default_flow_style=None)).rstrip()


def _plain_key(key: Any) -> Any:
    found = plain(key)
    return str(found) if isinstance(found, list | dict) else found


def dumps(encoded: Encoded) -> str:
    """The text of a tagged form, keys in their order."""
    return _IN_ORDER.encode(encoded)


def loads(text: str | bytes) -> Encoded:
    """The value that a JSON text stands for, such as a tagged form; whatever it is, it can be gone through and written.

    Raises ValueError for what is no JSON, is nested too deeply, or has text that is not valid Unicode.
    """
    text = text.decode(json.detect_encoding(text)) if isinstance(text, bytes) else text
    try:
        found = json.loads(text)
        if "\\" in text and ("\\ud" in text or "\\uD" in text) and not _is_unicode(found):
            raise ValueError("a text in it is not valid Unicode")
        may_be_deep = len(text) > 2 * MOST_LEVELS and text.count("[") + text.count("{") > MOST_LEVELS
        is_too_deep = may_be_deep and has_many_levels(found)
    except RecursionError:
        is_too_deep = True
    if is_too_deep:
        raise ValueError("it is nested too deeply") from None
    return found


def _is_unicode(found: Encoded) -> bool:
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def has_many_levels(encoded: Encoded, most: int = MOST_LEVELS) -> bool:
    """Whether there are more than `most` of lists and mappings in one another."""
    level = [encoded] if isinstance(encoded, dict | list) else []
    for _ in range(most):
        if not level:
            return False
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return bool(level)


def canonical(encoded: Encoded) -> str:
    """A text that is equal exactly when two tagged forms are: key order does not count, types do.

    >>> canonical({"b": 1, "a": 2}) == canonical({"a": 2, "b": 1}), canonical(1) == canonical(1.0)
    (True, False)
    """
    text = _BY_KEY.encode(encoded)
    return _BY_KEY.encode(_sorted(encoded)) if '"$dict"' in text else text


def _sorted(encoded: Encoded) -> Encoded:
    """Pairs of `$dict` in the order of their texts; `sort_keys` does the rest."""
    if isinstance(encoded, list):
        return [_sorted(item) for item in encoded]
    if isinstance(encoded, dict):
        if list(encoded) == ["$dict"]:
            return {"$dict": sorted(([_sorted(k), _sorted(v)] for k, v in encoded["$dict"]), key=canonical)}
        return {key: _sorted(item) for key, item in encoded.items()}
    return encoded


def digest(encoded: Encoded) -> str:
    """32 hexadecimal characters that stand for the canonical text."""
    return digest_text(canonical(encoded))


def digest_text(text: str) -> str:
    """The digest of a value whose canonical text is known."""
    found: str = _hash()(text.encode(), digest_size=16).hexdigest()
    return found


@cache
def _hash() -> Any:
    from hashlib import blake2b  # only those who plan need it, and every task imports this module

    return blake2b
