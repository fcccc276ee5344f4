"""Composing a sweep without composing every job: Hydra composes each combination once, plain values are put in.

Hydra needs tens of milliseconds for a job. But most swept overrides only set a value that is there, and leave
everything else as it is. Such an override is *plain*, and only where that is certain:

- it changes (no `+`, `~`, package), is no config group for Hydra, and is not Hydra's own;
- no other override that sets a value, swept or not, names the same key, a part of it, or something below it;
- in the composed base every node on its way is a mapping that is there and no interpolation, and it is there itself.

All other overrides make the *combination* that Hydra composes. Those of them that set a value must not see what a plain
one sets, nor where Hydra would have been with it: no interpolation may lie on their way. A job that cannot be composed
from its parts is composed by Hydra, so errors are Hydra's own. A sample of the jobs is always composed the slow way,
too; any difference sends the whole sweep down that way, with a line that says so. A sweep with fewer jobs than the
sample has is composed by Hydra alone.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from omegaconf import AnyNode, Container, DictConfig, Node, OmegaConf, ValueNode

from experiment_manager.hydra import private_names
from experiment_manager.hydra.compose import Composer, task_configuration
from experiment_manager.model import codec, configurations
from experiment_manager.model.configurations import ConfigTemplate, Configured, Value, value_of
from experiment_manager.model.grid import Grid, Point, Setting
from experiment_manager.text import tell

_SAMPLE: Final = 3
_SCALARS: Final = (bool, int, float, str, type(None))


class _Base:
    """One combination, composed by Hydra: the configuration to put values into, and its tagged form."""

    def __init__(self, config: DictConfig, *, is_apart: bool) -> None:
        self.config = config
        self.encoded = task_configuration(config)
        self.is_apart = is_apart  # no override of the combination sees what a plain one sets
        self._values: dict[str, Value | None] = {}
        self._keeps: dict[tuple[str, type], bool] = {}  # whether a key holds values of a type just as they are
        self._branching: set[str] = set()  # texts of those that put a mapping, or something in the place of one
        self._templates: dict[tuple[str, ...], ConfigTemplate] = {}

    def value(self, setting: Setting, path: configurations.Path) -> Value | None:
        """The value that a plain setting gives its key; None when that is not certain here."""
        if setting.text not in self._values:
            found = None
            kind = (setting.key, type(setting.value))
            if self._keeps.get(kind) and not (kind[1] is str and "${" in setting.value):
                found = value_of(codec.encode(setting.value))
            elif _leads_to(self, path, setting.value):
                found = value_of(_value_of(self.config, setting, path))
                self._keeps[kind] = _keeps(self.config, path, setting.value) and found.encoded is setting.value
                if not (configurations.is_leaf(found.encoded) and configurations.is_leaf(_node_at(self.encoded, path))):
                    self._branching.add(setting.text)
            self._values[setting.text] = found
        return self._values[setting.text]

    def configured(
        self, plain: Sequence[Setting], values: tuple[Value, ...], paths: Mapping[str, configurations.Path]
    ) -> Configured:
        """The configuration with these values in their places."""
        keys = tuple([setting.key for setting in plain])
        template = self._templates.get(keys)
        if template is None:
            template = self._templates[keys] = ConfigTemplate(self.encoded, [paths[key] for key in keys])
        if self._branching and any(setting.text in self._branching for setting in plain):
            return Configured(ConfigTemplate(template.filled(values)))
        return Configured(template, values)


class Factored:
    """The configurations of the points of one sweep."""

    def __init__(self, composer: Composer, grid: Grid) -> None:
        self._composer = composer
        is_possible = private_names.has(*private_names.OF_NODES)
        self._plain = plain_keys(grid.settings(), composer.is_group) if is_possible else frozenset[str]()
        self._paths = {key: _way(key) for key in self._plain}
        self._bases: dict[tuple[str, ...], _Base] = {}
        self._composed: dict[tuple[str, ...], Configured] = {}  # the slow ones, asked for by a filter and then again
        self._is_slow = not self._plain
        self._check(grid)

    def _check(self, grid: Grid) -> None:
        """Compares some jobs with what Hydra itself composes; jobs that cannot be composed are told of when they are
        asked for."""
        if self._is_slow:
            return
        sample = grid.sample(_SAMPLE)
        if len(sample) < _SAMPLE:  # these are all that there are
            self._is_slow = True
            return
        for point in sample:
            try:
                slow = self._slow(point)
            except Exception:  # whatever Hydra or a resolver raises; a filter may drop this very job
                continue
            if slow.fingerprint != self.configured(point).fingerprint:
                tell(f"composing every job one by one: {' '.join(point.overrides)} is not the sum of its parts")
                self._is_slow = True
                return

    def configured(self, point: Point) -> Configured:
        """The configuration of one point, as Hydra composes it. Raises Hydra's own errors."""
        if not self._is_slow:
            with suppress(Exception):  # Hydra itself says below what is wrong, if anything is
                found = self._fast(point)
                if found is not None:
                    return found
        return self._slow(point)

    def _slow(self, point: Point) -> Configured:
        overrides = point.overrides
        if overrides not in self._composed:
            self._composed[overrides] = Configured(ConfigTemplate(self._composer.configuration(overrides)))
        return self._composed[overrides]

    def _fast(self, point: Point) -> Configured | None:
        combination: list[Setting] = []
        plain: list[Setting] = []
        for setting in point.settings:
            if not setting.text:
                continue
            (plain if setting.key in self._plain else combination).append(setting)
        base = self._base(combination)
        if not base.is_apart:
            return None
        values: list[Value] = []
        for setting in plain:
            value = base.value(setting, self._paths[setting.key])
            if value is None:
                return None
            values.append(value)
        return base.configured(plain, tuple(values), self._paths)

    def _base(self, combination: Sequence[Setting]) -> _Base:
        texts = tuple([setting.text for setting in combination])
        if texts not in self._bases:
            config = self._composer.composed(texts)
            values = [setting for setting in combination if not _is_group(setting, self._composer.is_group)]
            is_apart = True
            if values:
                groups = self._base([setting for setting in combination if setting not in values])
                is_apart = _are_apart(values, groups.config, config)
            self._bases[texts] = _Base(config, is_apart=is_apart)
        return self._bases[texts]


def plain_keys(settings: Iterable[Setting], is_group: Callable[[str, Any], bool]) -> frozenset[str]:
    """The keys that vary in the sweep and only set a value, as far as that can be told before composing."""
    texts: dict[str, set[str]] = {}
    may_be_plain: dict[str, bool] = {}
    sets_value: dict[str, bool] = {}
    for setting in {setting.text: setting for setting in settings if setting.text}.values():
        key = setting.key
        texts.setdefault(key, set()).add(setting.text)
        group = _is_group(setting, is_group)
        sets_value[key] = sets_value.get(key, False) or not group
        may_be_plain[key] = may_be_plain.get(key, True) and not group and _is_change(setting)
    ways = {key: _way(key) for key, sets in sets_value.items() if sets}
    return frozenset(
        key
        for key, found in texts.items()
        if len(found) > 1
        and may_be_plain[key]
        and not any(_touch(ways[key], way) for other, way in ways.items() if other != key)
    )


def _is_group(setting: Setting, is_group: Callable[[str, Any], bool]) -> bool:
    if setting.key.startswith("~") and "{" in setting.text:  # not a group, for Hydra: deletes what equals a mapping
        return False
    return is_group(setting.key.lstrip("+~").partition("@")[0], setting.value)


def _way(key: str) -> tuple[str, ...]:
    return private_names.way(key.lstrip("+~"))


def _is_change(setting: Setting) -> bool:
    key = setting.key
    is_ours = key != "hydra" and not key.startswith(("+", "~", "hydra.")) and "@" not in key
    return is_ours and setting.text.startswith(f"{key}=")


def _touch(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether one key is the other, or lies on the way to it."""
    shared = min(len(one), len(other))
    return tuple(one[:shared]) == tuple(other[:shared])


def _are_apart(settings: Sequence[Setting], before: DictConfig, after: DictConfig) -> bool:
    """Whether overrides that set values see nothing but their own keys, given the configuration without and with them.

    An interpolation on the way leads them elsewhere; `+` and a deletion look whether a value is there; a mapping is
    merged into what an interpolation points to, also one that a structured config has by default.
    """
    ways = [_way(setting.key) for setting in settings]
    for i, (setting, way) in enumerate(zip(settings, ways, strict=True)):
        if any(_touch(way, other) for other in ways[:i]):
            return False
        if _is_interpolated(before, way[:-1]) or _is_interpolated(after, way[:-1]):
            return False
        is_deletion = setting.key.startswith("~")
        if is_deletion and "=" in setting.text:  # compares the value
            return False
        is_looking = is_deletion or (setting.text.startswith("+") and not setting.text.startswith("++"))
        if is_looking and _is_interpolated(before, way):
            return False
        if not isinstance(setting.value, _SCALARS) and not _is_bare(before, way):
            return False
    return True


def _nodes(config: DictConfig, tokens: Sequence[str]) -> Iterator[Node]:
    """The nodes on the way, as far as it goes."""
    node: Any = config
    for token in tokens:
        if not isinstance(node, Container) or not _is_there(node):
            return
        node = private_names.child(node, token)
        if isinstance(node, Node):
            yield node


def _is_there(node: Node) -> bool:
    """Whether the node is neither null nor missing nor an interpolation."""
    return not (private_names.is_absent(node) or private_names.is_interpolation(node))


def _is_interpolated(config: DictConfig, tokens: Sequence[str]) -> bool:
    return any(private_names.is_interpolation(node) for node in _nodes(config, tokens))


def _is_bare(config: DictConfig, tokens: Sequence[str]) -> bool:
    """Whether a mapping or list can be set there without a look elsewhere: no interpolation and no structured config is
    there, or below, and none is made by setting it."""
    found: list[Any] = [config, *_nodes(config, tokens)]
    node = found[-1]
    if len(found) > len(tokens):
        return _holds_plain(node)
    if not isinstance(node, Container) or private_names.is_absent(node):
        return private_names.takes_anything(node)
    return private_names.holds_anything(node)


def _holds_plain(node: Any) -> bool:
    """Whether there is no interpolation and no structured config in the node."""
    if private_names.is_interpolation(node):
        return False
    if not isinstance(node, Container):
        return isinstance(node, ValueNode)
    if private_names.is_absent(node):
        return private_names.takes_anything(node)
    if not private_names.is_plain_container(node):
        return False
    content = private_names.content(node)
    return all(_holds_plain(item) for item in (content.values() if isinstance(content, dict) else content))


def _leads_to(base: _Base, tokens: Sequence[str], value: Any) -> bool:
    """Whether every node on the way is a mapping, there and no interpolation, in the configuration and its tagged
    form; a value that is a mapping or list itself must need nothing else to be set."""
    node: Node = base.config
    encoded = base.encoded
    for token in tokens:
        if not isinstance(node, DictConfig) or not _is_there(node):
            return False
        if not isinstance(encoded, dict) or token not in encoded:
            return False
        child = private_names.child(node, token)
        if not isinstance(child, Node):
            return False
        node, encoded = child, encoded[token]
    if not isinstance(node, ValueNode | Container):  # one of several types
        return False
    return isinstance(value, _SCALARS) or _is_bare(base.config, tokens)


def _value_of(config: DictConfig, setting: Setting, tokens: Sequence[str]) -> codec.Encoded:
    """The tagged value that a key has after Hydra's own code has set it.

    A leaf is set in place, again and again. What may merge, or replace a whole node, goes into a copy.
    """
    is_leaf = isinstance(setting.value, _SCALARS) and not isinstance(_node(config, tokens), Container)
    target = config
    if not is_leaf:
        target = OmegaConf.masked_copy(config, [tokens[0]])
        OmegaConf.set_struct(target, OmegaConf.is_struct(config))
        OmegaConf.set_readonly(target, OmegaConf.is_readonly(config))
    private_names.apply_value(target, setting.key, setting.value, setting.text)
    node = _node(target, tokens)
    if isinstance(node, Container):
        return codec.encode(OmegaConf.to_container(node, resolve=False))
    return codec.encode(private_names.content(node))


def _node(config: DictConfig, tokens: Sequence[str]) -> Any:
    node: Any = config
    for token in tokens:
        node = private_names.child(node, token)
    return node


def _keeps(config: DictConfig, tokens: Sequence[str], value: Any) -> bool:
    """Whether a key, where Hydra has just put a value, would hold any other value of that type just as well: it has no
    type of its own."""
    return type(value) in (bool, int, float, str) and type(_node(config, tokens)) is AnyNode


def _node_at(encoded: codec.Encoded, tokens: Sequence[str]) -> codec.Encoded:
    for token in tokens:
        encoded = encoded[token]
    return encoded
