"""Configurations in their tagged form: their leaves, how two of them differ, and those that differ in a few. Pure.

The manifest stores one base per order of keys and, per job, only the leaves that differ; the messages about changed and
drifted configurations name the same leaves.

Of the jobs of a sweep there is one template, and the values that are put into it, job by job. What a job needs of its
configuration (the fingerprint, and what the manifest stores) is text: that of a template is made once and cut where the
values go, so that a job costs the joining of strings and one hash.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, NamedTuple

from experiment_manager.model import codec

Path = tuple[str, ...]
ABSENT: Final = "<absent>"


class Change(NamedTuple):
    """One leaf that differs; `before` and `after` are texts, or ABSENT."""

    key: str
    before: str
    after: str


def leaves(encoded: codec.Encoded) -> dict[Path, codec.Encoded]:
    """Every leaf of nested mappings by its path; lists, tagged values and empty mappings are leaves.

    >>> leaves({"seed": 1, "nn": {"width": [64, 64]}})
    {('seed',): 1, ('nn', 'width'): [64, 64]}
    """
    found: dict[Path, codec.Encoded] = {}
    pending: list[tuple[Path, codec.Encoded]] = [((), encoded)]
    while pending:
        path, node = pending.pop()
        if is_leaf(node):
            found[path] = node
        else:
            pending.extend(((*path, key), item) for key, item in reversed(node.items()))
    return found


def is_leaf(node: codec.Encoded) -> bool:
    """Whether nothing below a node is stored or compared by itself."""
    is_tagged = isinstance(node, dict) and len(node) == 1 and next(iter(node)).startswith("$")
    return not isinstance(node, dict) or not node or is_tagged


def replaced(
    base: Mapping[Path, codec.Encoded], other: Mapping[Path, codec.Encoded]
) -> list[tuple[Path, codec.Encoded]]:
    """The leaves of `other` that are not stored as those of `base`, where both have the same paths."""
    return [(path, item) for path, item in other.items() if not _stored_alike(base[path], item)]


def replaced_leaves(base: codec.Encoded, other: codec.Encoded) -> list[list[Any]] | None:
    """The same of two whole configurations, as the manifest stores it: path and value of each leaf; None where they do
    not have the same paths in the same order.

    >>> replaced_leaves({"seed": 1, "nn": {"width": 64}}, {"seed": 1, "nn": {"width": 128}})
    [[['nn', 'width'], 128]]
    >>> replaced_leaves({"seed": 1, "nn": {"width": 64}}, {"nn": {"width": 64}, "seed": 1}) is None
    True
    """
    found: list[list[Any]] = []
    return found if _add_replaced(base, other, (), found) else None


def _add_replaced(base: codec.Encoded, other: codec.Encoded, path: Path, found: list[list[Any]]) -> bool:
    """Whether both have the same paths in the same order, and the leaves of `other` that are not stored as those of
    `base` are among the found."""
    if is_leaf(base) or is_leaf(other):
        if not _stored_alike(base, other):
            found.append([list(path), other])
        return is_leaf(base) and is_leaf(other)
    if len(base) != len(other):
        return False
    for (name, before), (key, item) in zip(base.items(), other.items(), strict=True):
        if name != key:
            return False
        if item is before:
            continue
        if type(item) is dict or type(before) is dict:
            if not _add_replaced(before, item, (*path, key), found):
                return False
        elif not _stored_alike(before, item):
            found.append([[*path, key], item])
    return True


def apply(base: codec.Encoded, changes: Iterable[tuple[Iterable[str], codec.Encoded]]) -> codec.Encoded:
    """`base` with some leaves replaced; `base` itself is changed, but for a root that is a leaf."""
    for path, item in changes:
        if not path:
            return item
        *parents, last = path
        node = base
        for key in parents:
            node = node[key]
        node[last] = item
    return base


def compare(before: codec.Encoded, after: codec.Encoded) -> list[Change]:
    """Every leaf that differs, sorted by key; an enum of the program is the same to whoever imports it.

    >>> compare({"tau": 0.005, "seed": 1}, {"tau": 0.01, "seed": 1, "nn": [64]})
    [Change(key='nn', before='<absent>', after='[64]'), Change(key='tau', before='0.005', after='0.01')]
    """
    old, new = map(leaves, codec.with_same_enums(before, after))
    changes = []
    for path in sorted(old.keys() | new.keys()):
        if path not in old or path not in new or not _same(old[path], new[path]):
            texts = (codec.readable(side[path]) if path in side else ABSENT for side in (old, new))
            changes.append(Change(".".join(path), *texts))
    return changes


def describe(changes: Iterable[Change], *, most: int = 5) -> str:
    """A line such as `tau: 0.005 -> 0.01, seed: 1 -> 2, and 3 more`."""
    listed = list(changes)
    shown = ", ".join(f"{change.key}: {change.before} -> {change.after}" for change in listed[:most])
    return shown + (f", and {len(listed) - most} more" if len(listed) > most else "")


class Value(NamedTuple):
    """A leaf in its tagged form, and its two texts."""

    encoded: codec.Encoded
    canonical: str
    stored: str


def value_of(encoded: codec.Encoded) -> Value:
    """The value with its texts."""
    return Value(encoded, codec.canonical(encoded), codec.dumps(encoded))


class ConfigTemplate:
    """A configuration in its tagged form, with places for values; every place is a leaf that is there."""

    def __init__(self, encoded: codec.Encoded, paths: Sequence[Path] = ()) -> None:
        self.encoded = encoded
        self.paths = tuple(paths)

    def filled(self, values: Sequence[Value]) -> codec.Encoded:
        """The configuration with a value in each place. It shares what is the same, so nobody may change it."""
        encoded = self.encoded
        for path, value in zip(self.paths, values, strict=True):
            encoded = _with(encoded, path, value.encoded)
        return encoded

    def canonical(self, values: Sequence[Value]) -> str:
        """The canonical text of the configuration with a value in each place."""
        pieces, order = self._cut
        parts = list(pieces)
        parts[1::2] = [values[place].canonical for place in order]
        return "".join(parts)

    @cached_property
    def _cut(self) -> tuple[list[str], list[int]]:
        """The pieces of the text, those at odd places to be replaced, and which value goes where."""
        mark = "@"
        while mark in codec.canonical(self.encoded):
            mark += "@"
        marked = self.encoded
        for place, path in enumerate(self.paths):
            marked = _with(marked, path, f"{mark}{place}")
        pieces = re.split(rf'"{mark}([0-9]+)"', codec.canonical(marked))
        return pieces, [int(place) for place in pieces[1::2]]


class Configured(NamedTuple):
    """The configuration of one job."""

    template: ConfigTemplate
    values: tuple[Value, ...] = ()

    @property
    def encoded(self) -> codec.Encoded:
        """The configuration in its tagged form; nobody may change it."""
        return self.template.filled(self.values)

    @property
    def fingerprint(self) -> str:
        """The hash by which a changed configuration is noticed."""
        return codec.digest_text(self.template.canonical(self.values))


def _with(encoded: codec.Encoded, path: Sequence[str], item: codec.Encoded) -> codec.Encoded:
    first, *rest = path
    return {**encoded, first: _with(encoded[first], rest, item) if rest else item}


def _stored_alike(one: codec.Encoded, other: codec.Encoded) -> bool:
    """The same to the order of keys, in the mappings of a list, too: programs go through them in that order."""
    if isinstance(one, list | dict):
        return type(one) is type(other) and codec.dumps(one) == codec.dumps(other)
    return _same(one, other)


def _same(one: Any, other: Any) -> bool:
    """Equal and of the same types all through: 1, 1.0 and True are three values."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return codec.canonical(one) == codec.canonical(other)
    return bool(one == other) and (not isinstance(one, float) or one != 0 or repr(one) == repr(other))  # 0.0, -0.0
