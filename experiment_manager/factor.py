"""Composing a sweep without composing every job: Hydra composes each combination once, plain values are put in.

Hydra needs tens of milliseconds for a job. But most swept overrides only set a value that is there, and leave
everything else as it is. Such an override is *plain*, and only where that is certain:

- it changes (no `+`, `~`, package), is no config group for Hydra, and is not Hydra's own;
- no other override that sets a value, swept or not, names the same key, a part of it, or something below it;
- in the composed base every node on its way is a mapping that is there and no interpolation, and it is there itself.

All other overrides make the *combination* that Hydra composes. A sample of the jobs is always composed the slow way,
too; any difference sends the whole sweep down that way, with a line that says so.
"""

import random
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.types import Override, OverrideType, ValueType
from omegaconf import Container, DictConfig, Node, OmegaConf
from omegaconf._utils import split_key

from experiment_manager import codec
from experiment_manager.compose import Composer, task_configuration
from experiment_manager.grid import Point, Setting

_SAMPLE: Final = 3
_SCALARS: Final = (bool, int, float, str, type(None))


class _Base(NamedTuple):
    """One combination, composed by Hydra: the configuration to put values into, and its tagged form."""

    config: DictConfig
    encoded: codec.Encoded
    found: dict[str, codec.Encoded]  # by the text of a plain override: the tagged value that it gives its key


class Factored:
    """The configurations of the points of one sweep."""

    def __init__(self, composer: Composer, points: Sequence[Point]) -> None:
        self._composer = composer
        self._plain = plain_keys(points, composer.is_group)
        self._tokens = {key: split_key(key) for key in self._plain}
        self._bases: dict[tuple[str, ...], _Base] = {}
        self._is_slow = not self._plain
        self._check(points)

    def _check(self, points: Sequence[Point]) -> None:
        """Compares some jobs with what Hydra itself composes; jobs that cannot be composed are told of when they are
        asked for."""
        if self._is_slow:
            return
        for point in random.Random(len(points)).sample(points, min(_SAMPLE, len(points))):
            try:
                slow = self._composer.configuration(point.overrides)
            except Exception:  # whatever Hydra or a resolver raises; a filter may drop this very job
                continue
            if codec.canonical(slow) != codec.canonical(self._fast(point)):
                print(
                    f"composing every job one by one: {' '.join(point.overrides)} is not the sum of its parts",
                    file=sys.stderr,
                )
                self._is_slow = True
                return

    def configuration(self, point: Point) -> codec.Encoded:
        """The tagged configuration of one point, as Hydra composes it. Raises Hydra's own errors."""
        if self._is_slow:
            return self._composer.configuration(point.overrides)
        return self._fast(point)

    def _fast(self, point: Point) -> codec.Encoded:
        combination: list[Setting] = []
        plain: list[Setting] = []
        for setting in point.settings:
            (plain if setting.key in self._plain else combination).append(setting)
        base = self._base(tuple(setting.text for setting in combination))
        encoded = base.encoded
        for setting in plain:
            tokens = self._tokens[setting.key]
            if setting.text not in base.found:
                if not _leads_to(base, tokens, setting.value):
                    return self._composer.configuration(point.overrides)
                base.found[setting.text] = _value_of(base.config, setting, tokens)
            encoded = _with(encoded, tokens, base.found[setting.text])
        return encoded

    def _base(self, combination: tuple[str, ...]) -> _Base:
        if combination not in self._bases:
            config = self._composer.composed(combination)
            self._bases[combination] = _Base(config, task_configuration(config), {})
        return self._bases[combination]


def plain_keys(points: Iterable[Point], is_group: Callable[[str, Any], bool]) -> frozenset[str]:
    """The keys that vary in the sweep and only set a value, as far as that can be told before composing."""
    texts: dict[str, set[str]] = {}
    settings: dict[str, Setting] = {}
    may_be_plain: dict[str, bool] = {}
    sets_value: dict[str, bool] = {}
    seen: set[str] = set()
    for point in points:
        for setting in point.settings:
            if setting.text in seen:
                continue
            seen.add(setting.text)
            key = setting.key
            texts.setdefault(key, set()).add(setting.text)
            settings[key] = setting
            group = is_group(key.removeprefix("~").partition("@")[0], setting.value)
            sets_value[key] = sets_value.get(key, False) or not group
            may_be_plain[key] = may_be_plain.get(key, True) and not group and _is_change(setting)
    ways = {key: tuple(split_key(key.removeprefix("~"))) for key, sets in sets_value.items() if sets}
    return frozenset(
        key
        for key, found in texts.items()
        if len(found) > 1
        and may_be_plain[key]
        and not any(_touch(ways[key], way) for other, way in ways.items() if other != key)
    )


def _is_change(setting: Setting) -> bool:
    key = setting.key
    is_ours = key != "hydra" and not key.startswith(("~", "hydra.")) and "@" not in key
    return is_ours and setting.text.startswith(f"{key}=")


def _touch(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether one key is the other, or lies on the way to it."""
    shared = min(len(one), len(other))
    return tuple(one[:shared]) == tuple(other[:shared])


def _leads_to(base: _Base, tokens: Sequence[str], value: Any) -> bool:
    """Whether every node on the way is a mapping, there and no interpolation, in the configuration and its tagged
    form; a value that is a mapping or list itself needs a last node that is no interpolation either."""
    node: Node = base.config
    encoded = base.encoded
    for token in tokens:
        if not isinstance(node, DictConfig) or node._is_none() or node._is_missing() or node._is_interpolation():
            return False
        if not isinstance(encoded, dict) or token not in encoded:
            return False
        child = node._get_node(token)
        if not isinstance(child, Node):
            return False
        node, encoded = child, encoded[token]
    return isinstance(value, _SCALARS) or not node._is_interpolation()


def _value_of(config: DictConfig, setting: Setting, tokens: Sequence[str]) -> codec.Encoded:
    """The tagged value that a key has after Hydra's own code has set it.

    A leaf is set in place, again and again. What may merge, or replace a whole node, goes into a copy.
    """
    is_leaf = isinstance(setting.value, _SCALARS) and not isinstance(_node(config, tokens), Container)
    target = config
    if not is_leaf:
        target = OmegaConf.masked_copy(config, [tokens[0]])
        OmegaConf.set_struct(target, True)
    override = Override(
        type=OverrideType.CHANGE,
        key_or_group=setting.key,
        value_type=ValueType.ELEMENT,
        _value=setting.value,
        package=None,
        input_line=setting.text,
    )
    ConfigLoaderImpl._apply_overrides_to_config([override], target)
    node = _node(target, tokens)
    return codec.encode(OmegaConf.to_container(node, resolve=False) if isinstance(node, Container) else node._value())


def _node(config: DictConfig, tokens: Sequence[str]) -> Any:
    node: Any = config
    for token in tokens:
        node = node._get_node(token)
    return node


def _with(encoded: Mapping[str, codec.Encoded], tokens: Sequence[str], item: codec.Encoded) -> codec.Encoded:
    """The same mapping with one leaf replaced; what is not on the way is shared, so nobody may change it."""
    first, *rest = tokens
    return {**encoded, first: _with(encoded[first], rest, item) if rest else item}
