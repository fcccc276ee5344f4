"""How an experiment stands: jobs by state, how those that run are getting on, and which ones need attention.

Files that have to be skipped are named on standard error; nothing else is printed.
"""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from math import isfinite
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from experiment_manager.analysis.jobs import job_rows, selected_ids
from experiment_manager.analysis.logs import last_output
from experiment_manager.analysis.results import names_in_jobs, result_warnings
from experiment_manager.analysis.tables import state_counts
from experiment_manager.errors import JobRefused, OptionsError, UnreadableLaunch
from experiment_manager.model.codec import is_number
from experiment_manager.model.estimate import ENOUGH, SAMPLE, Estimate, estimate
from experiment_manager.model.ids import format_ids, shortened, which
from experiment_manager.model.records import ENDED_BADLY, ENDED_WELL, Counts, Job, JobId, Launch, State, task_name
from experiment_manager.model.rows import GroupRow, LiveRow
from experiment_manager.scheduler import schedulers
from experiment_manager.scheduler.healing import outlook
from experiment_manager.scheduler.submission import launched_arrays
from experiment_manager.store.documents import END, read_end, read_optional, read_what_is_there
from experiment_manager.store.drafts import JobDrafts
from experiment_manager.store.files import is_there, number_in, unreadable
from experiment_manager.store.holds import read_held, read_removed
from experiment_manager.store.launches import launch_numbers, of_scheduler, planned_attempts, read_launch
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.metrics import last_logged
from experiment_manager.store.orders import Order, read_order
from experiment_manager.store.processes import is_gone
from experiment_manager.store.rungs import last_rungs, step_text
from experiment_manager.store.states import States, StateTable, node_of
from experiment_manager.store.submissions import Sightings, Submission
from experiment_manager.store.tags import Tags, read_note, read_tags
from experiment_manager.text import as_word, counted, one_line, skipped

MOST_REASONS: Final = 200
"""Of each state, how many jobs are asked in `status` why they ended so: each costs a file to open."""

SILENT_AFTER_S: Final = 15 * 60.0
"""A job that has printed and logged nothing for so long is marked in `status`."""

_MOST_LOGS: Final = 20  # of workers, which say the same where a machine is broken
_ASKED: Final = frozenset({*ENDED_BADLY, State.RUNNING})

_UNREAD: Final = f"beyond the first {MOST_REASONS} of them it is not looked why; `status --all` tells of each"


class Trouble(NamedTuple):
    """Jobs that need attention for the same reason: those that ended in the same bad way, that run where nobody can be
    asked, that are suspended, or whose results hold NaN. `ids` are in order."""

    state: State
    reason: str
    ids: tuple[int, ...]

    def __repr__(self) -> str:
        return f"Trouble({len(self.ids)} {self.state}: {one_line(self.reason)} ({which(self.ids)}))"

    @property
    def words(self) -> str:
        """For people: `2 jobs FAILED: ValueError: too large (jobs 3-4)`."""
        return f"{counted(len(self.ids))} {self.state}: {one_line(self.reason)} ({which(self.ids)})"


class SearchStatus(NamedTuple):
    """How a search stands: of its `n_trials`, how many are proposed, how many of those have ended, failed, or were
    pruned, and the best value so far; None where there is none, or there are several objectives. A trial has
    `jobs_per_trial` jobs, of consecutive ids, the first of which is `best_job` for the best one; `n_jobs_left` are not
    proposed yet."""

    n_trials: int
    n_proposed: int
    n_ended: int
    n_failed: int
    n_pruned: int
    direction: tuple[str, ...]
    best: float | None
    best_job: int | None
    why_over: str | None  # why nothing more is proposed though trials are left
    jobs_per_trial: int = 1  # more where values are averaged
    n_jobs_left: int = 0

    def __repr__(self) -> str:
        return f"SearchStatus({self.n_ended} of {self.n_trials} have ended, best {self.best})"


class Status(NamedTuple):
    """How an experiment stands: jobs by state, how many may run, and those that need attention, equal reasons together.

    `live` has a row for each job that runs, or for all: `job`, `variables`, `state`, `attempt`, `node`, `elapsed_s`,
    `left_s` (until its time limit), `metrics` (the last), `silent_s` (since it has printed or logged anything) and
    `nan` (the names of its last metrics that are NaN or infinite), both of what runs, `reason`. `groups` has one for
    each value of the variables that were asked for: `variables`, `count`, `states`. What is not known is None.
    """

    path: str
    counts: Counts
    ids: Mapping[str, tuple[int, ...]]  # by state
    n_selected: int | None  # None: no pass filter yet, or one that cannot be read
    waiting: Mapping[str, tuple[int, ...]]  # QUEUED jobs by SLURM's reason
    troubles: tuple[Trouble, ...]
    foreign: tuple[str, ...]  # in states/ and jobs/, and not ours: states/notes.txt
    live: tuple[LiveRow, ...] = ()  # rows of jobs that run, or of all; see live_rows
    has_filter: bool = True  # with `n_selected` None: there is a pass filter, and it cannot be read
    groups: tuple[GroupRow, ...] = ()  # counts by variables; see rows.state_counts
    warnings: tuple[Trouble, ...] = ()  # of results of jobs that completed
    pruned: Mapping[str, tuple[int, ...]] = MappingProxyType({})  # PRUNED jobs by the last rung: "step 9000"
    estimate: Estimate | None = None  # when all will have ended; None: nothing runs, or too little is known
    search: SearchStatus | None = None  # None: it has none
    tags: Tags = Tags()  # of the experiment, and of its jobs
    healed: Mapping[str, tuple[int, ...]] = MappingProxyType({})  # submitted again with more, by why: see `heal`
    to_heal: Mapping[str, tuple[int, ...]] = MappingProxyType({})  # that are to be, likewise
    given_up: Mapping[str, tuple[int, ...]] = MappingProxyType({})  # that are not, in spite of a rule
    note: str | None = None  # of the experiment
    held: tuple[int, ...] = ()  # jobs that are not to begin
    removed: tuple[int, ...] = ()  # jobs that are not among the others any more
    dropped: tuple[int, ...] = ()  # PENDING jobs that the pass filter has dropped
    unconfigured: tuple[int, ...] = ()  # PENDING jobs that pass it, and that no sweep has composed: they cannot run
    ways_out: Mapping[str, str] = MappingProxyType({})  # by a reason in `waiting`, what people can do about it

    @property
    def headline(self) -> str:
        """How many jobs there are, and how many of them may run."""
        no_filter = "its pass filter cannot be read" if self.has_filter else "no pass filter yet"
        verb = "passes" if self.n_selected == 1 else "pass"
        selected = no_filter if self.n_selected is None else f"{self.n_selected} {verb} the filter"
        return f"{self.path}: {counted(sum(self.counts.values()))}, {selected}"

    @property
    def count_rows(self) -> list[dict[str, Any]]:
        """A row for each state that some job is in, for people."""
        return [
            {"state": str(state), "count": count, "jobs": shortened(format_ids(self.ids[state]))}
            for state, count in self.counts.items()
        ]

    @property
    def waits(self) -> tuple[Trouble, ...]:
        """The QUEUED jobs, by what they wait for."""
        return tuple(Trouble(State.QUEUED, reason, ids) for reason, ids in self.waiting.items())

    def __repr__(self) -> str:
        outlook = "" if self.estimate is None else f"; done in {self.estimate.text}"
        n_more = len(self.troubles) - 1
        more = f", and {n_more} more reason{'s' if n_more > 1 else ''}" if n_more > 0 else ""
        trouble = f"; {self.troubles[0].words}{more}" if self.troubles else ""
        return one_line(f"{self.headline}: {counts_text(self.counts)}{outlook}{trouble}")

    def _repr_html_(self) -> str:
        from experiment_manager.model import html

        groups = [html.flat(row, ("variables", "states")) for row in self.groups]
        live = [html.flat({**row, "nan": ", ".join(row["nan"] or ())}, ("variables", "metrics")) for row in self.live]
        said = [trouble.words for trouble in (*self.waits, *self.troubles, *self.warnings)]
        if self.estimate is not None:
            said.insert(0, f"done in {self.estimate.text}")
        tables = [html.table(rows) for rows in (groups or self.count_rows, live) if rows]
        return html.block(html.sentence(self.headline), *tables, *map(html.sentence, said))


def status(folder: Folder, ids: Iterable[int], table: StateTable) -> Status:
    """The status of an experiment with jobs of these ids.

    Opens one file per job that ended badly, of each state MOST_REASONS at most, one per result that is to be looked at,
    the record of the newest launch, those of all launches where some job has run again or died for want of memory or
    time, and none besides.
    """
    by_state = table.by_state(ids)
    troubles: dict[tuple[State, str], list[int]] = defaultdict(list)
    n_asked = Counter[State]()
    for last in map(table.last, sorted(job_id for state in _ASKED for job_id in by_state.get(state, ()))):
        n_asked[last.state] += 1
        if last.state in ENDED_BADLY:
            is_asked = n_asked[last.state] <= MOST_REASONS
            reason = _reason(folder, last.job_id, last.number) if is_asked else _UNREAD
            troubles[last.state, reason].append(last.job_id)
        elif last.job_id in table.paused:
            troubles[last.state, table.paused[last.job_id]].append(last.job_id)
        elif last.job_id not in table.confirmed:
            record = table.runners.get((last.job_id, last.number), {})
            if is_gone(record) is None:
                hint = _out_of_sight(folder, record.get("host"))
                troubles[last.state, hint].append(last.job_id)
    waiting: dict[str, list[int]] = defaultdict(list)
    ways_out: dict[str, str] = {}
    for job_id in by_state[State.QUEUED]:
        reason = table.queued[JobId(job_id)].reason
        waiting[reason].append(job_id)
        if way_out := table.queued[JobId(job_id)].way_out:
            ways_out[reason] = way_out
    if by_state[State.PENDING]:
        troubles |= _left_by_workers(folder, by_state[State.PENDING])
    names = names_in_jobs(folder)
    selected, removed = selected_ids(folder), read_removed(folder)
    ordered: dict[str, tuple[int, ...]] = {state: tuple(by_state[state]) for state in State if by_state[state]}
    return Status(
        path=folder.path,
        counts=Counts({state: len(ids) for state, ids in ordered.items()}),
        ids=ordered,
        n_selected=None if selected is None else len(selected),
        has_filter=is_there(folder.pass_filter),
        waiting={reason: tuple(ids) for reason, ids in waiting.items()},
        ways_out=ways_out,
        pruned=_pruned(folder, by_state[State.PRUNED]),
        troubles=tuple(Trouble(state, reason, tuple(ids)) for (state, reason), ids in troubles.items()),
        foreign=(*(f"states/{name}" for name in table.foreign), *_foreign_in_jobs(names or ())),
        warnings=tuple(
            Trouble(State.COMPLETED, what, jobs)
            for what, jobs in result_warnings(folder, by_state[State.COMPLETED], table, names).items()
        ),
        tags=read_tags(folder),
        note=read_note(folder),
        held=tuple(sorted(read_held(folder) - removed)),
        removed=tuple(sorted(removed)),
        dropped=() if selected is None else tuple(job for job in by_state[State.PENDING] if job not in selected),
        unconfigured=unconfigured(folder, [job for job in by_state[State.PENDING] if job in (selected or ())]),
        **outlook(folder, table)._asdict(),
    )


def unconfigured(folder: Folder, ids: Collection[int]) -> tuple[int, ...]:
    """Those of these jobs that no sweep has composed: they cannot run."""
    if not ids or not is_there(folder.manifest):  # of the original library
        return ()
    with Manifest(folder) as manifest:
        return tuple(manifest.unconfigured(ids))


def _out_of_sight(folder: Folder, host: object) -> str:
    """Where a job runs that may have ended without a word, and what to do where it has."""
    name = as_word(folder.join("states", "JOB.ATTEMPT.RUNNING"))
    is_here = host == os.uname().nodename
    unshown = "here, as a process that is not shown to us, or on another machine of this name"
    where = unshown if is_here else f"on {host}, which cannot be asked from here"
    return f"{where}; if it is gone, mv {name} to .LOST"


def _pruned(folder: Folder, ids: Iterable[int]) -> dict[str, tuple[int, ...]]:
    """PRUNED jobs by the last rung that they have come to, by listings alone."""
    found: dict[float, list[int]] = defaultdict(list)
    if not ids:
        return {}
    try:
        steps = last_rungs(folder)
    except OSError as error:
        skipped(unreadable(error.filename or folder.rungs, error))
        return {}
    for job_id in ids:
        found[steps.get(job_id, 0.0)].append(job_id)
    return {f"step {step_text(step)}" if step else "no rung": tuple(found[step]) for step in sorted(found)}


def _left_by_workers(folder: Folder, pending: Iterable[int]) -> dict[tuple[State, str], list[int]]:
    """Those PENDING jobs, by what people are told, that workers have left because they ended before."""
    found: dict[tuple[State, str], list[int]] = {}
    unexplained, here = set(pending), f"`experiment-manager work {as_word(folder.path)}`"
    for number in reversed(launch_numbers(folder)):
        if not unexplained:
            break
        try:
            launch = read_launch(folder, number)
            submission = Submission(folder, launch, is_to_act=False)
            sightings = Sightings(folder, launch, is_to_act=False)
        except JobRefused:  # named by whoever has asked the scheduler
            continue
        arrays = [array for array in launched_arrays(launch) if array.n_workers is not None]
        ids = [({submission.array_id(array.name), *sightings.ids(array.name)} - {None}, array) for array in arrays]
        left = unexplained.intersection(job_id for known, array in ids if known for job_id in array.jobs)
        if left:
            others = "the same sweep, or `submit --workers`, starts others"
            why = f"the workers of launch {number} have ended; {others}, and {here} runs them here"
            named = [(one, array.indices[:_MOST_LOGS]) for known, array in ids for one in sorted(map(str, known))]
            why += _last_words(folder, launch, [task_name(one, at) for one, places in named for at in places])
            found[State.PENDING, why] = sorted(left)
            unexplained -= left
    return found


def _last_words(folder: Folder, launch: Launch, tasks: Iterable[str]) -> str:
    """What one of the workers has said last, of the first that have said anything; empty: none has. A machine on which
    no job can begin tells of it there alone."""
    scheduler = schedulers.of(launch)
    if scheduler is None:
        return ""
    for task in tasks:
        with suppress(OSError):
            log = read_end(folder.join("launches", launch.number, f"{task}.log")).decode(errors="replace")
            if words := scheduler.last_words(log):
                return one_line(f"; {task} has said last: {words}")
    return ""


def live_status(
    folder: Folder,
    drafts: JobDrafts,
    table: StateTable,
    *,
    by: Sequence[str],
    every: bool,
    most_running: int | None,
) -> Status:
    """The status of these jobs, with a row for each that runs, the first `most_running` of them, or for `every` one;
    and counted for each value of the variables in `by`. Raises ExperimentManagerError for an unknown variable."""
    everything = list(drafts) if every or by else []
    ids = [job.id for job in everything] or drafts.ids()
    found = status(folder, ids, table)
    if not drafts.is_whole and found.n_selected is not None:
        found = found._replace(n_selected=len({*ids}.intersection(selected_ids(folder) or ())))
    jobs = everything if every else drafts.jobs(found.ids.get(State.RUNNING, ())[:most_running])
    groups = state_counts(job_rows(folder, everything, table), by) if by else []
    search = search_status(folder, table) if drafts.has_search else None
    return found._replace(
        live=tuple(live_rows(folder, jobs, table)),
        groups=tuple(groups),
        estimate=_estimate(folder, found, table, 0 if search is None else search.n_jobs_left),
        search=search,
    )


def search_status(folder: Folder, table: StateTable) -> SearchStatus | None:
    """How the search of an experiment stands; None where it has none."""
    if not is_there(folder.manifest):
        return None
    with Manifest(folder) as manifest:
        if manifest.search is None:
            return None
    from experiment_manager.execution.study import History, best_of, why_over

    history = History(folder)
    trials = history.read(table)
    search = history.search
    best = best_of(search, trials)
    counts = Counter(trial.state for trial in trials)
    n_failed = sum(trial.has_failed for trial in trials)
    return SearchStatus(
        n_trials=search.n_trials,
        n_proposed=len(trials),
        n_ended=sum(trial.values is not None for trial in trials) + n_failed + counts[State.PRUNED],
        n_failed=n_failed,
        n_pruned=counts[State.PRUNED],
        direction=search.directions,
        best=None if best is None or best.values is None else best.values[0],
        best_job=None if best is None else best.proposal.job_id,
        why_over=why_over(folder, search, trials) if history.n_proposed < search.n_slots else None,
        jobs_per_trial=search.jobs_per_trial,
        n_jobs_left=search.n_slots - history.n_proposed,
    )


def _estimate(folder: Folder, found: Status, table: StateTable, n_unproposed: int) -> Estimate | None:
    """When the jobs that run, that SLURM has, or that wait for a pool which runs will have ended.

    How long jobs took is asked of the last ones that ended well, by their ids: these are most like those that are left.
    Their records tell it, and not the times of the files in `states/`, which a link, a backup, or a copy changes.
    """
    running = found.ids.get(State.RUNNING, ())
    done = sorted(job_id for state in ENDED_WELL for job_id in found.ids.get(state, ()))  # more will be pruned, too
    if not running or len(done) < ENOUGH:
        return None
    now = time.time()
    records = [table.runners.get((JobId(job_id), table.last(job_id).number), {}) for job_id in running]
    so_far = [_between(number_in(record, "start"), now) or 0.0 for record in records]
    n_waiting = n_unproposed + len(found.ids.get(State.QUEUED, ())) + _n_waiting_here(folder, records, table)
    seconds = (_seconds(folder, job_id, table.standing(job_id).number) for job_id in done[-SAMPLE:])
    made = estimate([took for took in seconds if took is not None], so_far, n_waiting, n_ended=len(done))
    if made is None:
        return None
    counts, per_job = _takes(_order(folder, running[0], records[0]))
    return made._replace(counts=counts, per_job=per_job)


def _takes(order: Order | None) -> tuple[str, float]:
    """What a job takes while it runs, see `Scheduler.takes`."""
    if order is None or order.scheduler is None or order.options is None:
        return "job", 1.0
    try:
        return schedulers.named(order.scheduler).takes(order.options)
    except OptionsError:  # of a package that is not installed here
        return "job", 1.0


def _seconds(folder: Folder, job_id: int, attempt: int) -> float | None:
    """How long an attempt took; None where that cannot be read, of which nobody needs to hear."""
    end, _ = read_what_is_there(folder.of_attempt(job_id, attempt, "attempt"), END)
    return _between(number_in(end, "start"), number_in(end, "end"))


def _n_waiting_here(folder: Folder, runners: Iterable[Mapping[str, Any]], table: StateTable) -> int:
    """How many jobs have not begun of the launches that have jobs running without a scheduler."""
    waiting = 0
    for number in sorted({str(record["launch"]) for record in runners if record.get("launch")}):
        with suppress(JobRefused):
            launch = read_launch(folder, number)
            if of_scheduler(launch.record) is None:
                planned = planned_attempts(launch)
                waiting += len(planned.keys() - table.attempts.keys())
                again = (one for one in planned.items() if one[1] > 1 and one[0] in table.attempts)
                waiting += sum(table.next_number(job_id) <= first for job_id, first in again)
    return waiting


def _foreign_in_jobs(names: Iterable[str]) -> list[str]:
    """Those of the names in `jobs/` that are not ours."""
    return sorted(f"jobs/{name}" for name in names if not name.isdecimal() and name[0] != ".")


def _reason(folder: Folder, job_id: int, attempt: int) -> str:
    end, why_not = read_what_is_there(folder.of_attempt(job_id, attempt, "attempt"), END)
    if why_not is not None:
        skipped(why_not)
    reason: str | None = end.get("reason")
    return reason or ("its reason cannot be read" if why_not else "no reason recorded")


def counts_text(counts: Mapping[str, int]) -> str:
    """`4 COMPLETED, 2 FAILED`."""
    return ", ".join(f"{count} {state}" for state, count in Counter(counts).items()) or "no jobs"


def live_rows(folder: Folder, jobs: Iterable[Job], table: StateTable) -> list[LiveRow]:
    """One row per job, see Status: `job`, `variables`, `state`, `attempt`, `node`, `elapsed_s`, `left_s`, `metrics`,
    `silent_s`, `nan`, `reason`."""
    now = time.time()
    return [_live_row(folder, job, table, now) for job in jobs]


def _live_row(folder: Folder, job: Job, table: StateTable, now: float) -> LiveRow:
    last = table.standing(job.id)
    row: LiveRow = {
        "job": int(job.id),
        "variables": dict(job.variables),
        "state": str(last.state),
        "attempt": last.number,
        "node": None,
        "elapsed_s": None,
        "left_s": None,
        "metrics": None,
        "silent_s": None,
        "nan": None,
        "reason": None,
    }
    if last.state is State.QUEUED:
        row["reason"] = table.queued[last.job_id].reason
    if not last.number:
        return row
    record = States(folder).anchor(table, last.job_id, last.number)
    row["node"] = node_of(record)
    row["metrics"] = last_logged(folder, last.job_id, last.number)
    start = number_in(record, "start")
    if last.state is State.RUNNING:
        limit_s = _limit_s(_order(folder, last.job_id, record))
        row["elapsed_s"] = _between(start, now)
        row["left_s"] = None if start is None or limit_s is None else max(0.0, limit_s - (row["elapsed_s"] or 0.0))
        row["silent_s"] = _between(last_output(folder, last.job_id, last.number), now)
        row["nan"] = _not_finite(row["metrics"] or {})
    elif last.state is not State.QUEUED:
        end = read_optional(folder.of_attempt(last.job_id, last.number, "attempt"), END)
        ended = number_in(end, "end")
        row["reason"] = end.get("reason")
        row["elapsed_s"] = _between(start, ended)
    return row


def _not_finite(metrics: Mapping[str, Any]) -> list[str] | None:
    """The names of metrics that are NaN or infinite; None: there are none.

    >>> _not_finite({"step": 3, "loss": float("nan"), "lr": 0.1}), _not_finite({"loss": 0.5})
    (['loss'], None)
    """
    return [name for name, value in metrics.items() if is_number(value) and not isfinite(value)] or None


def _between(start: float | None, end: float | None) -> float | None:
    """The seconds between two moments, None where one is not known; 0 where the clocks of two machines disagree.

    >>> _between(10.0, 12.5), _between(600.0, 12.5), _between(None, 12.5)
    (2.5, 0.0, None)
    """
    return max(0.0, end - start) if start is not None and end else None


def _order(folder: Folder, job_id: int, record: Mapping[str, Any]) -> Order | None:
    """How the launch of an attempt wants its job to be run; None where there is none, or it cannot be read."""
    if record.get("launch") is None:
        return None
    try:
        return read_order(folder, str(record["launch"]), job_id)
    except UnreadableLaunch as error:
        skipped(str(error))
    except JobRefused:
        pass
    return None


def _limit_s(order: Order | None) -> float | None:
    """How long an attempt may run: the time limit of its task, or that of each job, whichever is shorter; None where
    there is neither."""
    if order is None:
        return None
    options = order.options or {}
    minutes = options.get("timeout_min") if options.get("workers") is None else None  # a worker's, which began earlier
    limits = [limit_s for limit_s in (60 * (minutes or 0), order.limit_s) if limit_s]
    return min(limits, default=None)
