"""Names of Hydra and OmegaConf that are not promised to anybody: all of them are used here, and nowhere else.

Each is asked for before it is used. A release that has one no more costs time, as the callers have a way by public
names, and never a sweep: NAMES says what becomes of it, and a sweep tells it in one line.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial, partialmethod
from importlib import import_module
from typing import Any, Final, NamedTuple

import hydra
import omegaconf
from hydra.core.override_parser.types import Override, OverrideType, ValueType
from hydra.types import RunMode
from omegaconf import Container, DictConfig, ListConfig, Node

from experiment_manager.text import tell


class PrivateName(NamedTuple):
    """`get` raises ImportError or AttributeError where the name is gone."""

    get: Callable[[], Any]
    without: str  # what becomes of a sweep without it
    since: tuple[int, int] = (1, 3)  # the version of Hydra that brought it


def _loader_module() -> Any:
    return import_module("hydra._internal.config_loader_impl")


def _loader() -> Any:
    return _loader_module().ConfigLoaderImpl


def _hydra() -> Any:
    return import_module("hydra._internal.hydra")


def _search_path() -> Any:
    return import_module("hydra._internal.utils").create_config_search_path


def _answers_at_once() -> bool:
    """Whether Hydra, since 1.4, tells its mode without composing a configuration for it."""
    return hasattr(_loader(), "get_mode")


def _callbacks() -> Any:
    found = _hydra().Callbacks
    _ = found(None).callbacks
    return found


def _defaults_list() -> Any:
    return import_module("hydra._internal.defaults_list")


def _nodes() -> Any:
    """Raises AttributeError where nodes hold what `copy_by_hand` does not know."""
    base, nodes = import_module("omegaconf.base"), import_module("omegaconf.nodes")
    config = DictConfig({"leaf": None})
    found = {*base.ContainerMetadata.__dataclass_fields__, *vars(config), *vars(config._get_node("leaf"))}
    if unknown := found ^ _OF_NODES:
        raise AttributeError(*unknown)
    return nodes.AnyNode, nodes.StringNode, nodes.IntegerNode, nodes.FloatNode, nodes.BooleanNode


_OF_NODES: Final = frozenset(
    {
        *("ref_type", "object_type", "optional", "key", "flags", "flags_root", "resolver_cache"),
        *("key_type", "element_type", "_metadata", "_parent", "_flags_cache", "_content", "_val"),
    }
)
_REPOSITORY: Final = "hydra._internal.config_repository"
_OWN: Final = "pkg://hydra.conf"
_COMPOSES: Final = "Hydra composes every job"
_READS: Final = "Hydra reads every config for every job"
_ASKS: Final = "Hydra lists its config groups"
_WATCHES: Final = "jobs are watched from around `run_job`"
_SHARES: Final = "forked jobs compose their configurations from the beginning"
_FORKS: Final = "forked jobs read Hydra's own configuration themselves"

NAMES: Final[dict[str, PrivateName]] = {
    "ConfigLoaderImpl._apply_overrides_to_config": PrivateName(lambda: _loader()._apply_overrides_to_config, _COMPOSES),
    "Override._value": PrivateName(lambda: _field(Override, "_value"), _COMPOSES),
    "split_key": PrivateName(lambda: import_module("omegaconf._utils").split_key, _COMPOSES),
    "is_primitive_type_annotation": PrivateName(
        lambda: import_module("omegaconf._utils").is_primitive_type_annotation, _COMPOSES
    ),
    "Node._is_none": PrivateName(lambda: Node._is_none, _COMPOSES),
    "Node._is_missing": PrivateName(lambda: Node._is_missing, _COMPOSES),
    "Node._is_interpolation": PrivateName(lambda: Node._is_interpolation, _COMPOSES),
    "Node._value": PrivateName(lambda: Node._value, _COMPOSES),
    "Node._metadata": PrivateName(lambda: DictConfig({})._metadata, _COMPOSES),
    "Container._get_node": PrivateName(lambda: (DictConfig._get_node, ListConfig._get_node), _COMPOSES),
    "ConfigLoaderImpl.repository": PrivateName(lambda: loader_of_nothing().repository, _READS),
    "ConfigLoaderImpl._parse_overrides_and_create_caching_repo": PrivateName(
        lambda: _loader()._parse_overrides_and_create_caching_repo, _ASKS
    ),
    "Callbacks": PrivateName(_callbacks, _WATCHES),
    "JobReturn._return_value": PrivateName(
        lambda: _field(import_module("hydra.core.utils").JobReturn, "_return_value"), "a failed job says so once more"
    ),
    "Hydra.get_mode": PrivateName(
        lambda: _loader().get_mode if _answers_at_once() else _hydra().Hydra.get_mode,
        "jobs compose their configuration twice",
    ),
    "ConfigRepository.initialize_sources": PrivateName(
        lambda: import_module(_REPOSITORY).ConfigRepository.initialize_sources,
        "jobs copy Hydra's store of configurations",
    ),
    "create_config_search_path": PrivateName(_search_path, _FORKS),
    "create_defaults_list": PrivateName(
        lambda: (_defaults_list().create_defaults_list, _defaults_list().Overrides), _SHARES
    ),
    "ConfigLoaderImpl._compose_config_from_defaults_list": PrivateName(
        lambda: _loader()._compose_config_from_defaults_list, _SHARES
    ),
    "Node.__deepcopy__": PrivateName(_nodes, "jobs take longer to copy configurations"),
    "_get_active_execution_whitelist": PrivateName(
        lambda: import_module("hydra._internal.execution_policy")._get_active_execution_whitelist,
        "what a notebook lets Hydra call, its jobs have to be told again",
        since=(1, 4),
    ),
}

OF_NODES: Final = (
    *("ConfigLoaderImpl._apply_overrides_to_config", "Override._value", "split_key", "is_primitive_type_annotation"),
    *("Node._is_none", "Node._is_missing", "Node._is_interpolation", "Node._value", "Node._metadata"),
    "Container._get_node",
)
"""What it takes to put values into a configuration that is composed."""

OF_FIRST_STEP: Final = (
    *("create_defaults_list", "ConfigLoaderImpl._compose_config_from_defaults_list", "create_config_search_path"),
)
"""What it takes to keep what Hydra composes before it sets values."""


def _field(record: Any, name: str) -> Any:
    """Raises AttributeError for a dataclass that has no such field."""
    if name not in record.__dataclass_fields__:
        raise AttributeError(name)
    return name


@cache
def get(name: str) -> Any:
    """What bears one of NAMES; None where it is gone."""
    try:
        return NAMES[name].get()
    except (ImportError, AttributeError, TypeError):  # a class that is made otherwise is another one, too
        return None


def has(*names: str) -> bool:
    """Whether all of these NAMES are there."""
    return all(get(name) is not None for name in names)


def tell_of_missing() -> None:
    """People know, in one line, which names are gone and what that costs; nothing is said while all are there."""
    version = tuple(int(part) for part in hydra.__version__.split(".")[:2])
    gone = {name: known.without for name, known in NAMES.items() if known.since <= version and not has(name)}
    if gone:
        tell(
            f"Hydra {hydra.__version__} with OmegaConf {omegaconf.__version__} has no {', '.join(gone)} any more, so "
            f"{', and '.join(dict.fromkeys(gone.values()))}: the sweep is right, but slower; upgrade "
            "hydra-experiment-manager"
        )


def way(key: str) -> tuple[str, ...]:
    """The parts of a dotted key, as OmegaConf splits it."""
    return tuple(get("split_key")(key))


def is_interpolation(node: Node) -> bool:
    return node._is_interpolation()


def is_absent(node: Node) -> bool:
    """Whether null or `???` stands in the place of what a container would hold."""
    return node._is_none() or node._is_missing()


def child(node: Any, key: Any) -> Any:
    """The node below a container, as it is: no interpolation is followed."""
    if isinstance(node, ListConfig):
        return node._get_node(int(key), validate_access=False)
    return node._get_node(key, validate_access=False)


def content(node: Node) -> Any:
    """What a node holds, as it is."""
    return node._value()


def takes_anything(node: Node) -> bool:
    """Whether the place of the node has no type of its own."""
    return node._metadata.ref_type is Any


def holds_anything(node: Container) -> bool:
    """Whether what lies in a container has no type of its own."""
    return node._metadata.element_type is Any


def is_plain_container(node: Container) -> bool:
    """Whether it is a mapping or list of no structured config, and of values that are none."""
    element, kind = node._metadata.element_type, node._metadata.object_type
    return kind in (dict, list) and (element is Any or get("is_primitive_type_annotation")(element))


def apply_value(config: DictConfig, key: str, value: Any, text: str) -> None:
    """The key has the value that an override gives it, by Hydra's own code."""
    override = Override(
        type=OverrideType.CHANGE,
        key_or_group=key,
        value_type=ValueType.ELEMENT,
        _value=value,
        package=None,
        input_line=text,
    )
    get("ConfigLoaderImpl._apply_overrides_to_config")([override], config)


def repository(loader: Any, config_name: str | None, overrides: Sequence[str]) -> Any:
    """Where Hydra looks for the configs of a sweep; None where that cannot be asked."""
    if not has("ConfigLoaderImpl._parse_overrides_and_create_caching_repo"):
        return None
    _, found = loader._parse_overrides_and_create_caching_repo(config_name, list(overrides))
    return found


def replace_callbacks(made: Callable[[Any], Any]) -> bool:
    """Hydra's list of callbacks is of the class that is made from its own, from now on; false where it has none."""
    if not has("Callbacks"):
        return False
    vars(_hydra())["Callbacks"] = made(get("Callbacks"))
    return True


def loader_of_nothing() -> Any:
    """Hydra's loader, where there is no configuration but its own."""
    return loader_of(search_path(None))


def search_path(main: str | None) -> Any:
    """Where Hydra looks for the configurations of a program whose own lie in that folder; None: it has none."""
    return _search_path()(main)


def loader_of(path: Any) -> Any:
    """Hydra's loader of what lies on a search path."""
    return _loader()(path)


def composers() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """What Hydra's loader makes its defaults lists by, and configurations of them."""
    return _loader_module().create_defaults_list, _loader()._compose_config_from_defaults_list


def compose_by(create: Callable[..., Any], compose: Callable[..., Any]) -> None:
    """Hydra's loader makes its defaults lists, and configurations of them, by these from now on."""
    vars(_loader_module())["create_defaults_list"] = create
    _loader()._compose_config_from_defaults_list = compose


@contextmanager
def composing_by(create: Callable[..., Any], compose: Callable[..., Any]) -> Iterator[None]:
    """The same for as long as this lasts; Hydra reads all of its own configurations anew, and those that are kept for
    jobs stay."""
    before, repository = composers(), import_module(_REPOSITORY).ConfigRepository
    load = repository.load_config
    compose_by(create, compose)
    repository.load_config = getattr(load, "reading_anew", load)
    try:
        yield
    finally:
        compose_by(*before)
        repository.load_config = load


def answer_the_mode_at_once() -> None:
    """Hydra 1.3 composes a configuration only to ask it for `hydra.mode`, and then composes it again: 0.12 of 0.6 s of
    processor time of a short job (measured on 1.3.8). The answer stands among the overrides of every job of ours."""
    if not has("Hydra.get_mode") or _answers_at_once():
        return
    ask: Any = get("Hydra.get_mode")

    def get_mode(self: Any, config_name: str | None, overrides: list[str]) -> Any:
        return RunMode.RUN if "hydra.mode=RUN" in overrides else ask(self, config_name, overrides)

    _hydra().Hydra.get_mode = get_mode


def read_from_one_store() -> None:
    """Hydra copies what it reads from, with all of its ConfigStore, for each composition, only to give the copy other
    places to read from: 0.012 of 0.14 s of processor time of a forked job (measured on 1.3.8). A copy now has the
    places of the first one until it gets others."""
    if has("ConfigRepository.initialize_sources"):
        repository: Any = import_module(_REPOSITORY).ConfigRepository
        repository.__deepcopy__ = lambda found, _: copy.copy(found)


def copy_by_hand() -> None:
    """To copy a configuration, as Hydra does several times for a job, OmegaConf makes and checks new nodes only to
    overwrite all that they hold, and copies the record of types that each has as an object of which nothing is known:
    0.02 of 0.11 s of processor time of a forked job (measured on OmegaConf 2.3.1). The same is copied here, and no
    more is done."""
    if not has("Node.__deepcopy__"):
        return
    import_module("omegaconf.base").Metadata.__deepcopy__ = _copied_metadata
    for kind in get("Node.__deepcopy__"):
        kind.__deepcopy__ = partialmethod(_copied_leaf, vars(kind())["_flags_cache"])
    mapping: Any = DictConfig
    mapping.__deepcopy__ = _copied_dict


def _copied_metadata(record: Any, memo: dict[int, Any]) -> Any:
    other = object.__new__(type(record))
    fields = vars(other)
    fields.update(vars(record))
    if fields["flags"] is not None:
        fields["flags"] = dict(fields["flags"])
    cache = fields["resolver_cache"]
    fields["resolver_cache"] = copy.deepcopy(cache, memo) if cache else defaultdict(dict)
    return other


def _copied_leaf(node: Any, flags_of_new: Mapping[str, Any] | None, memo: dict[int, Any]) -> Any:
    other = object.__new__(type(node))
    fields = vars(other)
    fields.update(vars(node), _flags_cache=copy.copy(flags_of_new))
    fields["_metadata"] = copy.deepcopy(fields["_metadata"], memo)
    return other


def _copied_dict(node: Any, memo: dict[int, Any]) -> Any:
    other = object.__new__(DictConfig)
    fields, content = vars(other), vars(node)["_content"]
    fields.update(vars(node))
    for name in ("_metadata", "_flags_cache"):
        fields[name] = copy.deepcopy(fields[name], memo)
    if isinstance(content, dict):
        fields["_content"] = {key: _copied_child(child, other, memo) for key, child in content.items()}
    return other


def _copied_child(child: Any, parent: Any, memo: dict[int, Any]) -> Any:
    before, vars(child)["_parent"] = vars(child)["_parent"], None
    try:
        other = copy.deepcopy(child, memo)
    finally:
        vars(child)["_parent"] = before
    vars(other)["_parent"] = parent
    return other


def keep_own_configurations(overrides: Sequence[str]) -> None:
    """Copies of this process have Hydra's own configurations in memory, those that a job with such overrides reads. A
    copy gets each once, since Hydra changes what it gets, and then reads it anew. Raises what Hydra raises.

    No other place is asked before Hydra's own, so nothing that a program brings can come before them.
    """
    kept = dict[str, Any]()

    def load_and_keep(self: Any, config_path: str) -> Any:
        found = load(self, config_path)
        if found is not None and found.path == _OWN:
            kept[config_path] = copy.deepcopy(found)
        return found

    def load_kept(self: Any, config_path: str) -> Any:
        found = kept.pop(config_path, None) if self.sources[0].full_path() == _OWN else None
        return load(self, config_path) if found is None else found

    compose = partial(loader_of_nothing().load_configuration, None, [*overrides], run_mode=RunMode.RUN)
    if not has("ConfigRepository.initialize_sources"):
        compose()
        return
    repository: Any = import_module(_REPOSITORY).ConfigRepository
    load, repository.load_config = repository.load_config, load_and_keep
    try:
        compose()
    finally:
        repository.load_config = load_kept
        vars(load_kept)["reading_anew"] = load


def returned(job_return: Any) -> Any:
    """What a task function has returned, or the exception that it has raised."""
    if has("JobReturn._return_value"):
        return job_return._return_value
    try:
        return job_return.return_value
    except BaseException as error:  # which is how Hydra hands it out
        return error
