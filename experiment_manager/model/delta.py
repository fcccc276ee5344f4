"""The differences between two configurations in their tagged form. Pure.

The manifest stores one base per set of keys and, per job, only the leaves that differ; the messages about changed and
drifted configurations name the same leaves.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from experiment_manager.model.codec import Encoded, canonical, readable

Path = tuple[str, ...]
ABSENT: Final = "<absent>"


class Change(NamedTuple):
    """One leaf that differs; `before` and `after` are texts, or ABSENT."""

    key: str
    before: str
    after: str


def leaves(encoded: Encoded) -> dict[Path, Encoded]:
    """Every leaf of nested mappings by its path; lists, tagged values and empty mappings are leaves.

    >>> leaves({"seed": 1, "nn": {"width": [64, 64]}})
    {('seed',): 1, ('nn', 'width'): [64, 64]}
    """
    found: dict[Path, Encoded] = {}
    pending: list[tuple[Path, Encoded]] = [((), encoded)]
    while pending:
        path, node = pending.pop()
        if is_leaf(node):
            found[path] = node
        else:
            pending.extend(((*path, key), item) for key, item in reversed(node.items()))
    return found


def is_leaf(node: Encoded) -> bool:
    """Whether nothing below a node is stored or compared by itself."""
    is_tagged = isinstance(node, dict) and len(node) == 1 and next(iter(node)).startswith("$")
    return not isinstance(node, dict) or not node or is_tagged


def replaced(base: Mapping[Path, Encoded], other: Mapping[Path, Encoded]) -> list[tuple[Path, Encoded]]:
    """The leaves of `other` that are not those of `base`, where both have the same paths."""
    return [(path, item) for path, item in other.items() if not _same(base[path], item)]


def apply(base: Encoded, changes: Iterable[tuple[Iterable[str], Encoded]]) -> Encoded:
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


def compare(before: Encoded, after: Encoded) -> list[Change]:
    """Every leaf that differs, sorted by key.

    >>> compare({"tau": 0.005, "seed": 1}, {"tau": 0.01, "seed": 1, "nn": [64]})
    [Change(key='nn', before='<absent>', after='[64]'), Change(key='tau', before='0.005', after='0.01')]
    """
    old, new = leaves(before), leaves(after)
    changes = []
    for path in sorted(old.keys() | new.keys()):
        if path not in old or path not in new or not _same(old[path], new[path]):
            texts = (readable(side[path]) if path in side else ABSENT for side in (old, new))
            changes.append(Change(".".join(path), *texts))
    return changes


def describe(changes: Iterable[Change], *, most: int = 5) -> str:
    """A line such as `tau: 0.005 -> 0.01, seed: 1 -> 2, and 3 more`."""
    listed = list(changes)
    shown = ", ".join(f"{change.key}: {change.before} -> {change.after}" for change in listed[:most])
    return shown + (f", and {len(listed) - most} more" if len(listed) > most else "")


def _same(one: Any, other: Any) -> bool:
    """Equal and of the same types all through: 1, 1.0 and True are three values."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, dict)):
        return canonical(one) == canonical(other)
    return bool(one == other) and (not isinstance(one, float) or repr(one) == repr(other))  # 0.0 is not -0.0
