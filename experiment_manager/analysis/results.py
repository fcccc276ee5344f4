"""The results of jobs, as rows and as facts that filters ask for; and what people should know of them.

An attempt that left something to look at, a part of its result that could not be stored, or NaN, has left an empty file
`warnings/7.1`, so that a look at 100,000 jobs opens the results of these alone; and `warnings/7.1.metrics`, where the
disk did not take all that it logged.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from experiment_manager.analysis.jobs import job_head, tagged
from experiment_manager.errors import FolderError, JobRefused, ResultError, UnreadableLaunch
from experiment_manager.model.facts import Facts, Unresolved
from experiment_manager.model.ids import which
from experiment_manager.model.pruning import TAKES, read
from experiment_manager.model.records import Job, JobId, State
from experiment_manager.model.rows import Earlier, ResultRow
from experiment_manager.store.documents import END, MOST_TABLE_BYTES, read_optional
from experiment_manager.store.files import is_there, leads_nowhere, looked, unreadable
from experiment_manager.store.launches import last_ranking, planned_attempts, pruning_launch
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.metrics import last_of_course
from experiment_manager.store.results import LOST_METRICS, mark_name, read_result
from experiment_manager.store.rungs import rung_steps, step_text
from experiment_manager.store.states import StateTable
from experiment_manager.store.tags import read_tags
from experiment_manager.text import as_word, counted, one_line, skipped

NOT_STORED: Final = "not stored"
"""Stands in a row for a field of a result that could not be stored."""

MOST_READ: Final = 1000
_ONLY: Final = "result"
"""The name of the one field of a result that is no mapping."""
_GOALS: Final[Mapping[Any, str]] = {"maximize": "max", "minimize": "min"}
_WITHOUT_METRICS: Final = "without some of its metrics, which the disk did not take"
_UNREAD: Final = f"with something to look at beyond the first {MOST_READ} of them; `results` tells of each"


def facts(
    folder: Folder,
    jobs: Collection[Job],
    configuration: Callable[[int, Callable[[str, str, str], Any]], Any],
    table: Callable[[], StateTable],
) -> Facts:
    """The facts that a filter may ask for about jobs of an experiment; each is read when a rule first asks for it.

    `configuration(job_id, unresolved)` gives a configuration with values in the place of interpolations.
    """
    return Facts(
        names=frozenset(name for job in jobs for name in job.variables),
        ids=frozenset(job.id for job in jobs),
        configuration=lambda job: configuration(job.id, Unresolved),
        state=lambda job_id: table().state(job_id),
        result=lambda job: returned(folder, job.id, table()),
        metrics=lambda job: last_metrics(folder, job.id, table()),
        tags=lambda: read_tags(folder).jobs,
    )


def result_rows(
    folder: Folder,
    jobs: Iterable[Job],
    table: StateTable,
    last: Callable[[JobId], dict[str, Any]] | None = None,
) -> list[ResultRow]:
    """One row per job: `job`, `state`, `attempt`, `variables`, `result`, `metrics`, `refused`.

    `result` maps names to values: the fields of a returned mapping, or `result` for any other value, of the newest
    attempt that completed, or was pruned where the job is PRUNED; empty where there is none. `metrics` has the last
    value of each metric through the course of the job up to that attempt, or to the last one. `refused` maps the fields
    that could not be stored to the reasons. `last` tells the metrics of those who read them anyhow. `of_attempt` is
    there where both are of an earlier attempt than the last one, and `tags` where a job has some.
    """
    rows, tags = list[ResultRow](), read_tags(folder)
    for job in jobs:
        metrics = last_metrics(folder, job.id, table) if last is None else last(job.id)
        head, attempt = job_head(job, table), table.counted(job.id)
        earlier = Earlier() if attempt in (None, head["attempt"]) else Earlier(of_attempt=int(attempt or 0))
        result, refused = result_fields(folder, job.id, attempt)
        rows.append(
            {
                **head,
                **earlier,
                **tagged(tags, job.id),
                "variables": dict(job.variables),
                "result": result,
                "metrics": metrics,
                "refused": refused,
            }
        )
    return rows


def without_pruned(rows: Collection[ResultRow]) -> tuple[list[ResultRow], str | None]:
    """The rows of jobs that are not PRUNED, whose values are of a shorter course than those of the others; and a line
    that says how many are left out, if any are."""
    pruned = [int(row["job"]) for row in rows if row["state"] == State.PRUNED]
    left = [row for row in rows if row["state"] != State.PRUNED]
    if not pruned:
        return left, None
    verb = "is" if len(pruned) == 1 else "are"
    return left, f"{counted(len(pruned))} PRUNED {verb} left out, whose values are not comparable ({which(pruned)})"


def returned(folder: Folder, job_id: JobId, table: StateTable) -> Any:
    """The value of the newest attempt that completed; None where there is nothing, or it cannot be read."""
    attempt = table.completed(job_id)
    try:
        return None if attempt is None else read_result(folder, job_id, attempt, MOST_TABLE_BYTES).value
    except ResultError as error:
        skipped(str(error))
        return None


def last_metrics(folder: Folder, job_id: JobId, table: StateTable) -> dict[str, Any]:
    """The last value of each metric that a job has logged by the attempt that counts."""
    return last_of_course(folder, table, job_id, skipped)


def result_fields(folder: Folder, job_id: int, attempt: int | None) -> tuple[dict[str, Any], dict[str, str]]:
    """The fields of a result, where what is not stored says so in its place; and why it is not."""
    if attempt is None:
        return {}, {}
    try:
        result, refused = read_result(folder, job_id, attempt, MOST_TABLE_BYTES)
    except ResultError as error:
        skipped(str(error))
        return {}, {}
    fields = result if isinstance(result, Mapping) else {} if result is None else {_ONLY: result}
    return {**_by_text(fields), **dict.fromkeys(refused, NOT_STORED)}, dict(refused)


def _by_text(fields: Mapping[Any, Any]) -> dict[str, Any]:
    """The fields by names that are text, each by one of its own: beside `"1"`, the number is `1 (int)`."""
    named: dict[str, Any] = {}
    taken = {key for key in fields if isinstance(key, str)}
    for key, value in fields.items():
        name = str(key)
        while not isinstance(key, str) and name in taken:
            name = f"{name} ({type(key).__name__})"
        taken.add(name)
        named[name] = value
    return named


class Objective(NamedTuple):
    """By what jobs are compared, as far as the search and the newest sweep that says it do. What jobs return as a
    number is called `result`."""

    goals: Mapping[str, str]  # `max` or `min` for each metric; that of the search first
    averaged: tuple[str, ...]  # the variables over which the search takes the mean
    of_best: frozenset[str]  # the metrics of which the best value of a job counts there, and not the last

    def note(self, metric: str) -> str | None:
        """What to say where the last values of a logged metric are compared."""
        if metric not in self.of_best:
            return None
        return f"the search or the sweep goes by the best {metric} of each job (take: best); here the last one counts"


def known_objective(folder: Folder) -> Objective:
    """By what the jobs of an experiment are compared, where nobody says otherwise."""
    goals, of_best = dict[str, str](), set[str]()
    with Manifest(folder) as manifest:
        search = manifest.search
    if search is not None and len(search.directions) == 1:
        name, take = (search.metrics or ((_ONLY, TAKES[0]),))[0]
        goals[name] = _GOALS[search.directions[0]]
        of_best |= {name} if take == TAKES[1] else set()
    try:
        ranking = last_ranking(folder)
    except UnreadableLaunch as error:
        skipped(str(error))
        ranking = {}
    metric, goal = ranking.get("metric"), _GOALS.get(ranking.get("direction"))
    if isinstance(metric, str) and goal is not None and metric not in goals:
        goals[metric] = goal
        of_best |= {metric} if ranking.get("take") == TAKES[1] else set()
    return Objective(goals, () if search is None else search.averaged_keys, frozenset(of_best))


def names_in_jobs(folder: Folder) -> list[str] | None:
    """What lies in `jobs/`, by one listing; None, and it is said, where that cannot be looked at."""
    try:
        return looked(lambda: os.listdir(folder.join("jobs")))
    except FileNotFoundError:
        return None if _is_away(folder.join("jobs")) else []
    except OSError as error:
        skipped(unreadable(folder.join("jobs"), error))
        return None


def _is_away(path: str) -> bool:
    """Whether that is a link to what is not there, as on a disk that is not mounted, or may be: people are told."""
    try:
        is_away, said = leads_nowhere(path), f"{path} is a link to what is not there"
    except FolderError as error:
        is_away, said = True, str(error)
    if is_away:
        skipped(said)
    return is_away


def without_folder(folder: Folder, ids: Collection[int], names: Collection[str]) -> tuple[int, ...]:
    """Those of the jobs whose folders are gone, where these names are in `jobs/`.

    A listing may be older than states are, on a network file system, so the first ones are asked for by name.
    """
    there = frozenset(names)
    missing = [job_id for job_id in sorted(ids) if str(job_id) not in there]
    asked = missing[:MOST_READ]
    try:
        gone = [job_id for job_id in asked if not is_there(folder.job(JobId(job_id)))]
    except FolderError as error:
        skipped(str(error))
        return ()
    return tuple(missing if gone == asked else gone)


def without_results(folder: Folder, rows: Iterable[ResultRow]) -> list[str]:
    """A line about the jobs of those rows that have completed, and whose results are not there, if there are any. Only
    of rows without a result a file is looked at, which was looked for just before."""
    empty = {
        row["job"]: row.get("of_attempt", row["attempt"])
        for row in rows
        if (row["state"] == State.COMPLETED or "of_attempt" in row) and not (row["result"] or row["refused"])
    }
    try:
        gone = [job_id for job_id, attempt in empty.items() if result_is_gone(folder, job_id, attempt)]
    except FolderError as error:
        skipped(str(error))
        return []
    verb = "has" if len(gone) == 1 else "have"
    why = f"{counted(len(gone))} {verb} completed, and {verb} no result: it was removed, or never left"
    return [f"{why}; {way_back(folder, gone)} ({which(gone)})"] if gone else []


def result_is_gone(folder: Folder, job_id: int, attempt: int) -> bool:
    """Whether that attempt, which has completed, has no result any more, and that is not behind a link to what is not
    there. A program may leave none: so its end must tell that it had one, or be gone, too. Raises FolderError."""
    places = (folder.job(JobId(job_id)), folder.join("jobs"))
    if is_there(folder.of_attempt(job_id, attempt, "result")) or any(map(leads_nowhere, places)):
        return False
    path = folder.of_attempt(job_id, attempt, "attempt")
    return not is_there(path) or read_optional(path, END).get("has_result") is True


def way_back(folder: Folder, ids: Sequence[int]) -> str:
    """What people can do about the results of jobs, which are gone."""
    which_one = "it" if len(ids) == 1 else "the first one"
    return f"`experiment-manager run {as_word(folder.path)} {ids[0]}` runs {which_one} again"


def result_warnings(
    folder: Folder, ids: Collection[int], table: StateTable, names: Collection[str] | None = None
) -> dict[str, tuple[int, ...]]:
    """The warnings about the results that count, and the jobs that each is true of; `names` are in `jobs/`, where that
    was listed."""
    found: dict[str, list[int]] = defaultdict(list)
    marks = _marks(folder)
    for place, (job_id, attempt) in enumerate(_marked(marks, ids, table)):
        if place >= MOST_READ:
            found[_UNREAD].append(job_id)
            continue
        try:
            value, refused = read_result(folder, job_id, attempt, MOST_TABLE_BYTES)
        except ResultError as error:
            skipped(str(error))
            continue
        for why in dict.fromkeys(refused.values()):
            found[f"without a part of its result, which is not stored: {one_line(why)}"].append(job_id)
        names = ", ".join(_nan_fields(value))
        if names:
            found[f"with NaN as its {one_line(names)}"].append(job_id)
    if without := [job_id for job_id, _ in _marked(marks, ids, table, LOST_METRICS)]:
        found[_WITHOUT_METRICS] = without
    if names is not None and (gone := without_folder(folder, ids, names)):
        found[f"without a folder in jobs/: it was removed, and its result with it; {way_back(folder, gone)}"] = [*gone]
    return {**{what: tuple(jobs) for what, jobs in found.items()}, **_uncompared(folder, ids)}


def without_metrics(folder: Folder, ids: Collection[int], table: Callable[[], StateTable]) -> list[str]:
    """A line about the jobs that lack some of their metrics, if there are any."""
    marks = _marks(folder)
    without = tuple(job_id for job_id, _ in _marked(marks, ids, table(), LOST_METRICS)) if marks else ()
    return sentences({_WITHOUT_METRICS: without} if without else {})


def _uncompared(folder: Folder, ids: Collection[int]) -> dict[str, tuple[int, ...]]:
    """Those of the jobs that have run to their end beside a pruner that has never had a value to compare: the name of
    the metric is wrong, or steps are smaller than was thought."""
    with suppress(JobRefused, OSError):  # of which others tell
        launch = pruning_launch(folder) if ids else None
        pruner = None if launch is None else read(launch.record["pruner"])
        if launch is None or pruner is None or rung_steps(folder, pruner.rungs):
            return {}
        ran = planned_attempts(launch)
        if jobs := tuple(sorted(job_id for job_id in ids if job_id in ran)):
            step = step_text(pruner.min_steps)
            return {f"without a value of {pruner.metric} from step {step} on, by which the pruner compares jobs": jobs}
    return {}


def sentences(found: Mapping[str, Collection[int]]) -> list[str]:
    """A line for each thing to say, as `status` and the end of a sweep print it."""
    return [f"{counted(len(ids))} COMPLETED {what} ({which(ids)})" for what, ids in found.items()]


def _nan_fields(value: Any) -> list[str]:
    fields = value if isinstance(value, Mapping) else {"result": value}
    return [str(name) for name, item in fields.items() if isinstance(item, float) and item != item]


def _marks(folder: Folder) -> set[str]:
    """The names of the marks that attempts have left."""
    try:
        return set(os.listdir(folder.warnings))
    except FileNotFoundError:
        return set()
    except OSError as error:
        skipped(unreadable(folder.warnings, error))
        return set()


def _marked(marks: Collection[str], ids: Collection[int], table: StateTable, about: str = "") -> list[tuple[int, int]]:
    """The jobs, in order, of which the attempt that counts has left such a mark, with these attempts."""
    if not marks:
        return []
    completed = [(job_id, attempt) for job_id in sorted(ids) if (attempt := table.completed(job_id))]
    return [attempt for attempt in completed if mark_name(*attempt, about) in marks]
