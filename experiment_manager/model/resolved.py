"""Configurations as filters see them: interpolations resolved, enums by their names, whoever asks and from where."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from experiment_manager.model import codec
from experiment_manager.model.facts import read

Kept = Mapping[str, Any]
"""Values of interpolations by their dotted keys, as they were resolved by the sweep."""

_NOTHING_KEPT: Final[Kept] = {}


def resolved(
    encoded: codec.Encoded,
    kept: Kept = _NOTHING_KEPT,
    unresolved: Callable[[str, str, str], Any] | None = None,
) -> Any:
    """Plain values for a tagged configuration. Of an interpolation, the value that was kept counts; one that cannot be
    resolved here is what `unresolved` makes of its key, its text and the reason, or without that its text.

    >>> resolved({"seed": 2, "twice": "${seed}", "mode": {"$enum": ["train.Mode", "FAST"]}})
    {'seed': 2, 'twice': 2, 'mode': 'FAST'}
    """
    plain = _plain(encoded)
    if "${" not in codec.dumps(encoded) or not isinstance(plain, dict):
        return plain
    from omegaconf import OmegaConf  # which takes longer to import than most commands need

    def item(config: Any, key: Any, written: Any, way: tuple[str, ...]) -> Any:
        if isinstance(written, dict | list):
            return nested(config[key], written, way)
        if not isinstance(written, str) or not OmegaConf.is_interpolation(config, key):
            return written
        dotted = ".".join(way)
        if dotted in kept:
            return kept[dotted]
        try:
            found = config[key]
            is_node = OmegaConf.is_config(found)
            return nested(found, OmegaConf.to_container(found, resolve=False), way) if is_node else found
        except Exception as error:  # what resolvers raise, too
            return written if unresolved is None else unresolved(dotted, written, _reason(error))

    def nested(config: Any, written: Any, way: tuple[str, ...] = ()) -> Any:
        if isinstance(written, dict):
            return {key: item(config, key, inner, (*way, str(key))) for key, inner in written.items()}
        if isinstance(written, list):
            return [item(config, place, inner, (*way, str(place))) for place, inner in enumerate(written)]
        return written

    return nested(OmegaConf.create(plain), plain)


def _reason(error: Exception) -> str:
    """The first line of what OmegaConf says, which goes on with places in our own copy."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def to_keep(encoded: codec.Encoded, view: Any, keys: Iterable[str]) -> dict[str, Any]:
    """Of the interpolations that lie at or below some dotted keys: those that stand for a number, a boolean or null.

    Text is never kept: it may be a secret, which a configuration names (`${oc.env:TOKEN}`) so that it lies nowhere.
    """
    wanted = [tuple(key.split(".")) for key in keys]
    found = {}
    for way, text in _leaves(_plain(encoded)):
        is_read = any(way[: len(key)] == key or key[: len(way)] == way for key in wanted)
        if is_read and isinstance(text, str) and "${" in text:
            value = read(view, way)
            if value is None or isinstance(value, bool | int | float):
                found[".".join(way)] = value
    return found


def _leaves(plain: Any, way: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    items = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else None
    if items is None:
        yield way, plain
        return
    for key, item in items:
        yield from _leaves(item, (*way, str(key)))


def _plain(encoded: codec.Encoded) -> Any:
    if isinstance(encoded, list):
        return [_plain(item) for item in encoded]
    if not isinstance(encoded, dict):
        return encoded
    if list(encoded) == ["$enum"]:
        return encoded["$enum"][1]
    if list(encoded) == ["$tuple"]:
        return _plain(encoded["$tuple"])
    if list(encoded) == ["$path"]:
        return encoded["$path"]
    if list(encoded) == ["$dict"]:
        return {codec.decode(key): _plain(item) for key, item in encoded["$dict"]}
    if len(encoded) == 1 and next(iter(encoded)).startswith("$"):
        return codec.decode(encoded)
    return {key: _plain(item) for key, item in encoded.items()}
