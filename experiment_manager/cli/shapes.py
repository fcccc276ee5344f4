"""The shapes of what verbs print with `--json`, and their JSON schemas, made from the records that are printed.

A key that is there keeps its name and meaning as long as SCHEMA_VERSION is the same; others may come.
"""

import sys
from collections.abc import Mapping, Sequence
from enum import Enum
from inspect import getdoc
from types import NoneType, UnionType
from typing import Any, Final, NotRequired, TypedDict, Union, get_args, get_origin, get_type_hints

from experiment_manager.analysis.comparison import Comparison
from experiment_manager.analysis.doctor import Finding
from experiment_manager.analysis.efficiency import Efficiency
from experiment_manager.analysis.export.exporting import Exported
from experiment_manager.analysis.status import SearchStatus
from experiment_manager.cli.terminal import NOT_FINITE as NOT_FINITE
from experiment_manager.cli.terminal import SCHEMA_VERSION as SCHEMA_VERSION
from experiment_manager.execution.pool import JobEnd
from experiment_manager.model.estimate import Estimate
from experiment_manager.model.rows import GroupRow, JobDetails, JobDifference, JobRow, LiveRow, ResultRow
from experiment_manager.scheduler.healing import Healing
from experiment_manager.scheduler.submission import Submitted


class Jobs(TypedDict):
    """The ids of jobs."""

    jobs: list[int]


class Attention(TypedDict):
    """Jobs that need attention for the same reason."""

    state: str
    reason: str
    jobs: list[int]


class StatusAnswer(TypedDict):
    """How an experiment stands: `jobs` are the ids by state; `selected` is how many may run, null without a filter."""

    path: str
    counts: dict[str, int]
    jobs: dict[str, list[int]]
    selected: int | None
    waiting: dict[str, list[int]]
    pruned: dict[str, list[int]]
    troubles: list[Attention]
    warnings: list[Attention]
    live: list[LiveRow]
    estimate: Estimate | None
    search: SearchStatus | None
    groups: NotRequired[list[GroupRow]]  # with --group-by
    tags: NotRequired[list[str]]  # of the experiment
    tagged: NotRequired[dict[str, list[int]]]
    note: NotRequired[str]
    held: NotRequired[list[int]]
    removed: NotRequired[list[int]]
    dropped: NotRequired[list[int]]  # PENDING, and outside of the pass filter
    unconfigured: NotRequired[list[int]]  # that pass it, and that no sweep has composed
    healed: NotRequired[dict[str, list[int]]]
    to_heal: NotRequired[dict[str, list[int]]]
    given_up: NotRequired[dict[str, list[int]]]


class AggregateRow(TypedDict):
    """The jobs that agree in some variables: how many there are, and for each aggregate (`mean`, `std`, ...) the
    numbers by field; `counts`: how many jobs have a field that some lack."""

    variables: dict[str, Any]
    count: int
    counts: NotRequired[dict[str, int]]


class RuleRow(TypedDict):
    """How many jobs a rule of the filter saw, and which it dropped."""

    rule: str
    seen: int
    dropped: int
    jobs: list[int]


class FilterAnswer(TypedDict):
    """The jobs that may run; where rules were given, whether they are saved, and what each dropped."""

    jobs: list[int]
    saved: NotRequired[bool]
    rules: NotRequired[list[RuleRow]]
    unconfigured: NotRequired[list[int]]  # that pass, and that no sweep has composed


class FoundExperiment(TypedDict):
    """An experiment that was found, and how many hours ago its manifest was written."""

    path: str
    counts: dict[str, int]
    age_h: float
    bytes: NotRequired[int]  # with --du
    tags: NotRequired[list[str]]


class WorkAnswer(TypedDict):
    """How the jobs have ended that were run, and which are left; `launch` is null when there was nothing to run."""

    launch: str | None
    jobs: list[JobEnd]
    left: list[int]


class HoldAnswer(TypedDict):
    """The jobs that are held now, and those that run and go on."""

    jobs: list[int]
    running: list[int]


class ResubmitAnswer(TypedDict):
    """The jobs that run again, and by what; `jobs` alone, and empty, when there are none."""

    jobs: list[int]
    launcher: NotRequired[str]
    launch: NotRequired[str]
    scripts: NotRequired[list[str]]
    slurm_ids: NotRequired[list[str]]
    states: NotRequired[dict[str, str]]


class Scripts(TypedDict):
    """The array scripts that were written."""

    scripts: list[str]


class TestedScript(TypedDict):
    """A script, and under the name of the scheduler's command what it would do with it."""

    script: str


class DoctorAnswer(TypedDict):
    """What is odd about an experiment."""

    path: str
    findings: list[Finding]


class ReportAnswer(TypedDict):
    """The page that was written."""

    report: str


class MovedAnswer(TypedDict):
    """Where the experiment lies now."""

    path: str


class TagAnswer(TypedDict):
    """The tags of the experiment, and the jobs that have each."""

    tags: list[str]
    tagged: dict[str, list[int]]


class NoteAnswer(TypedDict):
    """What is written about a job, or, where it is null, about the experiment."""

    job: int | None
    note: str | None


class CleanedRow(TypedDict):
    """What can be removed, or was, of one kind."""

    kind: str
    what: str
    files: int
    bytes: int
    jobs: list[int]


class CleanAnswer(TypedDict):
    """What can be removed, or was."""

    path: str
    removed: bool
    bytes: int
    kinds: list[CleanedRow]


SHAPES: Final[Mapping[str, Any]] = {
    "cancel": Jobs,
    "clean": CleanAnswer,
    "compare": Comparison,
    "diff": JobDifference,
    "doctor": DoctorAnswer,
    "efficiency": Efficiency,
    "export": Exported,
    "filter": FilterAnswer,
    "heal": Healing,
    "hold": HoldAnswer,
    "jobs": list[JobRow],
    "list": list[FoundExperiment],
    "move": MovedAnswer,
    "note": NoteAnswer | list[NoteAnswer],  # about several jobs
    "release": Jobs,
    "remove": Jobs,
    "report": ReportAnswer,
    "results": list[ResultRow] | list[AggregateRow] | Jobs,  # with --group-by, --missing
    "resubmit": ResubmitAnswer,
    "script": Scripts,
    "search": SearchStatus,
    "show": JobDetails,
    "status": StatusAnswer,
    "submit": list[Submitted] | list[TestedScript],  # with --test-only
    "tag": TagAnswer,
    "work": WorkAnswer,
}
"""What each verb prints with `--json`."""

_OTHER_KEYS: Final[Mapping[Any, Any]] = {AggregateRow: dict[str, float | None], TestedScript: str}
"""What stands under the keys that some records have besides those that they name."""

_PLAIN: Final[Mapping[Any, str]] = {str: "string", int: "integer", bool: "boolean", NoneType: "null"}


def schema(verb: str) -> dict[str, Any]:
    """The JSON schema of what a verb prints with `--json`."""
    definitions: dict[str, Any] = {}
    body = _top(SHAPES[verb], definitions)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **body, "$defs": definitions}


def _top(shape: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a document: each object at its top, or in the list that it is, says of which version it is."""
    kind, arguments = get_origin(shape), get_args(shape)
    if kind in (Union, UnionType):
        return {"anyOf": [_top(part, definitions) for part in arguments]}
    if kind is list:
        return {"type": "array", "items": _top(arguments[0], definitions)}
    more = {
        "schema_version": {"const": SCHEMA_VERSION},
        NOT_FINITE: {"type": "object", "additionalProperties": {"enum": ["nan", "inf", "-inf"]}},
    }
    body = _of_record(shape, definitions)
    return {**body, "properties": {**more, **body["properties"]}, "required": ["schema_version", *body["required"]]}


def _of_record(record: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    fields = get_type_hints(record, vars(sys.modules[record.__module__]))
    required = [name for name in fields if name in getattr(record, "__required_keys__", fields)]
    others = {"additionalProperties": _of(_OTHER_KEYS[record], definitions)} if record in _OTHER_KEYS else {}
    return {
        "type": "object",
        "description": " ".join((getdoc(record) or "").split()),
        "properties": {name: _of(hint, definitions) for name, hint in fields.items()},
        "required": required,
        **others,
    }


def _of(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a value; a float may be null, where it is not finite."""
    kind, arguments = get_origin(hint), get_args(hint)
    if kind is NotRequired:
        return _of(arguments[0], definitions)
    if kind in (Union, UnionType):
        parts = [_of(part, definitions) for part in arguments]
        if all(part.keys() == {"type"} for part in parts):
            kinds = (part["type"] for part in parts)
            names = (name for one in kinds for name in ([one] if isinstance(one, str) else one))
            return {"type": list(dict.fromkeys(names))}
        return {"anyOf": parts}
    if kind is tuple and arguments[-1] is not ...:
        items = [_of(part, definitions) for part in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if kind in (list, tuple, Sequence):
        return {"type": "array", "items": _of(arguments[0], definitions)}
    if kind in (dict, Mapping):
        return {"type": "object", "additionalProperties": _of(arguments[1], definitions)}
    hint = getattr(hint, "__supertype__", hint)
    if hint is float:
        return {"type": ["number", "null"]}
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"enum": [member.name for member in hint]}
    if hint is Any:
        return {}
    if hint.__name__ not in definitions:
        definitions[hint.__name__] = {}  # it may hold itself
        definitions[hint.__name__] = _of_record(hint, definitions)
    return {"$ref": f"#/$defs/{hint.__name__}"}
