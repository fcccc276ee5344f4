"""The rows of plain values that an experiment is read as: what `Experiment.jobs`, `result_rows`, `show` and the others
return, and `--json` prints. They are ordinary dictionaries, and type checkers know their keys.
"""

from collections.abc import Collection, Mapping
from typing import Any, NotRequired, SupportsIndex, TypedDict, TypeVar, overload

from experiment_manager.text import one_line

_Row = TypeVar("_Row")
_NESTED = ("variables", "result", "metrics", "states")


def named_apart(variables: Mapping[str, Any], taken: Collection[str]) -> dict[str, Any]:
    """The variables as cells of a row that has columns of its own: one whose name is taken there is prefixed.

    >>> named_apart({"lr": 0.1, "count": 3}, ["count"])
    {'lr': 0.1, 'variables.count': 3}
    """
    return {f"variables.{name}" if name in taken else name: value for name, value in variables.items()}


class JobHead(TypedDict):
    """The beginning of a row about a job: `attempt` is 0 where there is none yet."""

    job: int
    state: str
    attempt: int


class Marks(TypedDict, total=False):
    """The part of a row that is there where people have held a job, or tagged it."""

    held: bool
    tags: list[str]


class JobRow(JobHead):
    """One job: `selected` says whether it may run; `held` is there where it is held, `tags` where it has some."""

    selected: bool
    held: NotRequired[bool]
    tags: NotRequired[list[str]]
    variables: dict[str, Any]


class Earlier(TypedDict, total=False):
    """The part of a row that is there where a result is of an earlier attempt than the last."""

    of_attempt: int


class ResultRow(JobHead):
    """What a job has left: its `result` and its last `metrics`, by name; `refused` maps the fields of the result that
    could not be stored to the reasons; `of_attempt` is there where both are of an earlier attempt than the last, and
    `tags` where the job has some."""

    held: NotRequired[bool]
    of_attempt: NotRequired[int]
    tags: NotRequired[list[str]]
    variables: dict[str, Any]
    result: dict[str, Any]
    metrics: dict[str, Any]
    refused: dict[str, str]


class LiveRow(TypedDict):
    """How a job is getting on: see `Status`. What is not known is None."""

    job: int
    variables: dict[str, Any]
    state: str
    attempt: int
    node: str | None
    elapsed_s: float | None
    left_s: float | None
    metrics: dict[str, Any] | None
    silent_s: float | None
    nan: list[str] | None
    reason: str | None


class GroupRow(TypedDict):
    """The jobs that have the same values of some variables: how many there are, and how many in which state."""

    variables: dict[str, Any]
    count: int
    states: dict[str, int]


class AttemptDetails(TypedDict):
    """One attempt of a job, as `show` tells it. What is not known is None; times are seconds since the epoch. `healing`
    is there where it was submitted for what became of the one before: why, and with how much more."""

    attempt: int
    state: str
    reason: str | None
    launch: str | None
    slurm_task: str | None
    worker: bool
    environment: dict[str, Any]
    host: str | None
    gpus: str | None
    start: float | None
    end: float | None
    peak_memory_bytes: float | None
    logs: dict[str, str]
    traceback: str | None
    healing: NotRequired[str]


class JobDetails(TypedDict):
    """Everything about one job: `command` is a line to paste, None for a job that was written in Python; `tags` and
    `note` are there where it has some, `held` where it is held, `removed` where it was removed, `trouble` where its
    search has no value of it, though it has completed."""

    job: int
    state: str
    variables: dict[str, Any]
    overrides: list[str]
    configuration: Any
    directory: str
    command: str | None
    attempts: list[AttemptDetails]
    held: NotRequired[bool]
    removed: NotRequired[bool]
    trouble: NotRequired[str]
    tags: NotRequired[list[str]]
    note: NotRequired[str]


class JobSide(JobHead):
    """One of two jobs that are compared."""

    variables: dict[str, Any]


class JobDifference(TypedDict):
    """Two jobs side by side: `configuration` and `environment` map the names of what differs to both texts."""

    one: JobSide
    other: JobSide
    configuration: dict[str, tuple[str, str]]
    environment: dict[str, tuple[str, str]]


class Rows(list[_Row]):
    """A list of rows, which a notebook shows as a table. As `print` shows it, it is any other list."""

    @overload
    def __getitem__(self, place: SupportsIndex, /) -> _Row: ...
    @overload
    def __getitem__(self, place: slice, /) -> "Rows[_Row]": ...
    def __getitem__(self, place: Any, /) -> Any:
        found = super().__getitem__(place)
        return Rows(found) if isinstance(place, slice) else found

    def __str__(self) -> str:
        return list.__repr__(self)

    def __repr__(self) -> str:
        """
        >>> Rows([{"job": 0}, {"job": 1}])
        Rows(2: {'job': 0}, ...)
        """
        more = ", ..." if len(self) > 1 else ""
        return f"Rows({len(self)}{f': {one_line(str(self[0]))}' if self else ''}{more})"

    def _repr_html_(self) -> str:
        from experiment_manager.model import html

        if not self:
            return html.block(html.sentence("nothing to show"))
        rows = [html.flat(row, _NESTED) for row in self[: html.MOST_ROWS] if isinstance(row, dict)]
        return html.block(html.table([_shown(row) for row in rows], len(self)))


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what it says of nothing."""
    return {name: value for name, value in row.items() if name != "refused" or value}
