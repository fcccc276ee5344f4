"""The facts about a job that filters ask for beside variables: configuration, result, last metrics, state."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple, NoReturn

from experiment_manager.errors import FilterError
from experiment_manager.model.records import Job, State
from experiment_manager.text import tell

Configuration = Callable[[Job], Any]
"""Gives the composed configuration of a job; called only by rules that read it."""

CONFIGURATION: Final = "cfg"
ROOTS: Final = (CONFIGURATION, "result", "metric")
"""The words that a name can begin with which is no variable: `cfg.model.width`, `result.accuracy`, `metric.loss`."""

NOTHING: Final = object()
"""Stands for a value that is not there; equal to nothing else."""


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
        elif isinstance(node, list) and key.isdigit() and int(key) < len(node):
            node = node[int(key)]
        elif isinstance(node, Unresolved):
            bool(node)  # which says why it cannot be told
        else:
            return NOTHING
    return node
