"""The facts about a job that filters ask for beside variables: configuration, result, last metrics, state.

A configuration is seen with its interpolations resolved and enums by their names, whoever asks and from where.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, NoReturn

from experiment_manager.errors import FilterError
from experiment_manager.model import codec
from experiment_manager.model.records import Job, State
from experiment_manager.text import tell

Configuration = Callable[[Job], Any]
"""Gives the composed configuration of a job; called only by rules that read it."""

CONFIGURATION: Final = "cfg"
ROOTS: Final = (CONFIGURATION, "result", "metric")
"""The words that a name can begin with which is no variable: `cfg.model.width`, `result.accuracy`, `metric.loss`."""

NOTHING: Final = object()
"""Stands for a value that is not there; equal to nothing else."""

Kept = Mapping[str, Any]
"""Values of interpolations by their dotted keys, as they were resolved by the sweep."""

_NOTHING_KEPT: Final[Kept] = {}


def _nothing_known(_: Job) -> None:
    return None


class Facts(NamedTuple):
    """The facts that rules may look at, beside the variables of a job; each is read when a rule asks for it."""

    names: frozenset[str]  # every variable that some job has
    ids: Collection[int]  # every job of the experiment
    configuration: Configuration
    state: Callable[[int], State]
    result: Callable[[Job], Any] = _nothing_known  # of the newest attempt that completed; None: no result
    metrics: Callable[[Job], Any] = _nothing_known  # the last value of each; None or empty: none were logged
    note: Callable[[str], None] = tell
    tags: Callable[[], Mapping[int, Collection[str]]] = dict  # of every job that has some

    def under(self, root: str, job: Job) -> Any:
        """The values of a job under one of the ROOTS; None where nothing is known, so that nothing is true of it."""
        if root == CONFIGURATION:
            return self.configuration(job)
        return self.result(job) if root == "result" else self.metrics(job) or None

    def find(self, job: Job, key: str) -> Any:
        """The value that a dotted key leads to, in the variables or under a root; NOTHING where it leads nowhere."""
        if key in self.names:
            return job.variables.get(key)
        root, *keys = key.split(".")
        return read(self.under(root, job), keys)


class Unanswered(FilterError):
    """A filter that cannot be evaluated for one job; it may well be for others."""


class Unresolved:
    """Stands in a configuration for an interpolation that cannot be resolved here; no question about it has an answer.

    Each use of it raises FilterError with the key, the interpolation, and the way out.
    """

    def __init__(self, key: str, text: str, why: str) -> None:
        self._sentence = (
            f"the filter reads cfg.{key}, which is {text} and cannot be resolved here ({why}); give the filter to the "
            "sweep (hydra.sweeper.pass_filter), which keeps the numbers that its filters read, or filter on a variable"
        )

    def _refuse(self, *_: Any) -> NoReturn:
        raise FilterError(self._sentence)

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __getitem__ = _refuse
    __bool__ = __len__ = __iter__ = __str__ = __int__ = __float__ = __abs__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
    __mod__ = __rmod__ = __pow__ = __rpow__ = __neg__ = __floordiv__ = __rfloordiv__ = _refuse


def is_under_a_root(key: str) -> bool:
    """Whether a dotted key reads something else than a variable: `cfg.nn`, `result`, `metric.loss`."""
    return key.partition(".")[0] in ROOTS


def unknown_name(name: str, text: str, names: Iterable[str]) -> str:
    """The sentence for a name that no job has."""
    hint = "; states are chosen by state:FAILED" if name == "state" else "; text needs quotes" if "==" in text else ""
    return (
        f"the filter {text!r} names {name!r}, which is no variable; the variables are "
        f"{', '.join(sorted(names)) or 'none'}, and cfg. reads the configuration, result. and metric. what a job "
        f"has left{hint}"
    )


def read(node: Any, keys: Iterable[str]) -> Any:
    """The node of nested mappings and lists that a path of keys leads to; NOTHING when it leads nowhere."""
    for key in keys:
        if isinstance(node, Mapping) and key in node:
            node = node[key]
        elif isinstance(node, list) and key.isdecimal() and int(key) < len(node):
            node = node[int(key)]
        elif isinstance(node, Unresolved):
            bool(node)  # which says why it cannot be told
        else:
            return NOTHING
    return node


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
    from omegaconf.errors import OmegaConfBaseException

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

    try:
        config = OmegaConf.create(plain)
    except (OmegaConfBaseException, RecursionError):  # a key, or a text with `${`, that is none of its, or too deep
        return plain
    return nested(config, plain)


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
