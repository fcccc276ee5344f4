"""Configurations that differ in a few leaves: one template, and the values that are put into it, job by job. Pure.

What a job needs of its configuration (the fingerprint, and what the manifest stores) is text. The text of a template is
made once and cut where the values go, so that a job costs the joining of strings and one hash.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from experiment_manager.model import codec, delta


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

    def __init__(self, encoded: codec.Encoded, paths: Sequence[delta.Path] = ()) -> None:
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
