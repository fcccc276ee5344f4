"""A search as an Optuna study: what its jobs have found, and the values that the next one is to have.

The study is in memory, and made from what lies on disk: proposals, states and results. So whoever asks knows every
earlier proposal, and the same history asks the same. Optuna is imported where it is used, and nowhere else.
"""

import hashlib
import math
import time
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from inspect import signature
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from experiment_manager.errors import (
    ExperimentManagerError,
    FilterError,
    GridError,
    JobRefused,
    OptionsError,
    ResultError,
)
from experiment_manager.execution.search import no_search
from experiment_manager.model import codec, filters, pruning
from experiment_manager.model.codec import is_number
from experiment_manager.model.facts import Facts
from experiment_manager.model.records import Job, JobId, State
from experiment_manager.model.search import CATEGORICAL, INT, LAST, MAXIMIZE, Dimension, Proposal, Search, describe
from experiment_manager.store.documents import END, opened, read_optional
from experiment_manager.store.launches import planned_attempts, read_launch
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.metrics import Metric, course
from experiment_manager.store.proposals import publish, who_stopped
from experiment_manager.store.results import read_result
from experiment_manager.store.rungs import rung_values
from experiment_manager.store.states import SEEN_S, States, StateTable
from experiment_manager.text import counted, value_text

if TYPE_CHECKING:
    import optuna

SAMPLERS: Final = {
    "tpe": "TPESampler",
    "random": "RandomSampler",
    "grid": "GridSampler",
    "qmc": "QMCSampler",
    "cmaes": "CmaEsSampler",
    "nsgaii": "NSGAIISampler",
}
"""The samplers of a search, by the names of their config groups."""

_OLDEST: Final = (4, 9)
_GONE: Final = {"consider_prior": True, "consider_magic_clip": True, "consider_endpoints": False, "inc_popsize": 2}
"""Options of samplers, and the values that hydra-optuna-sweeper gives them, which newer Optunas do not ask for."""

_CHOICES_IN_SEQUENCES: Final = 5
"""The first version of Optuna whose sequences have choices in them."""

_LINKED_S: Final = 3 * SEEN_S
"""How long a proposal of somebody else may be taken, and not be seen yet."""

_MOST_DRAWN: Final = 100
"""So many proposals in a row are drawn that do not pass a filter."""

_FAILURES: Final = frozenset({State.FAILED, State.OUT_OF_MEMORY, State.TIMEOUT})
_UNDER_WAY: Final = (State.RUNNING, State.QUEUED, State.PENDING)
"""What a trial is of whose jobs some are, the first of these first."""

_MAY_GO_ON: Final = frozenset({State.PENDING, State.QUEUED, State.RUNNING, State.PREEMPTED, State.FAKE})


def study_of(folder: Folder, table: StateTable) -> "optuna.Study":
    """The search of an experiment as an Optuna study in memory, as it is now. Raises JobRefused where there is none,
    and OptionsError where Optuna is missing, or too old."""
    require_optuna(needed_by="the study of a search")
    history = History(folder)
    trials = history.read(table)
    with _quiet():
        return made_study(history.search, trials)


def require_optuna(*, needed_by: str) -> None:
    """Raise OptionsError unless an Optuna is installed that searches can use."""
    found = _version("optuna")
    if found is not None and tuple(int(part) for part in found.split(".")[:2] if part.isdecimal()) >= _OLDEST:
        return
    has = "it is not installed" if found is None else f"this is {found}"
    other, oldest = _version("hydra-optuna-sweeper"), ".".join(map(str, _OLDEST))
    how = f"install it with `pip install 'optuna>={oldest}'`"
    holds = f" (hydra-optuna-sweeper {other} asks for an older one, and runs with this one, too)" if other else ""
    raise OptionsError(f"{needed_by} needs Optuna {oldest} or newer, and {has}; {how}{holds}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


class Trial(NamedTuple):
    """What is known of a job of a search, or of all jobs of a trial together; the proposal is that of the first."""

    proposal: Proposal
    state: State
    values: tuple[float, ...] | None  # by objective; None: it has not ended well
    trouble: str | None = None  # why what it returned is no value
    rungs: Mapping[float, float] = MappingProxyType({})  # its values at the steps at which it was compared
    culprit: int | None = None  # the job that has not ended well, of several

    @property
    def has_failed(self) -> bool:
        """Whether it ended by a fault of its own."""
        return self.trouble is not None or self.state in _FAILURES

    @property
    def job_to_show(self) -> int:
        """The job that tells why it did not end well."""
        return self.proposal.job_id if self.culprit is None else self.culprit


def together(search: Search, jobs: Sequence[Trial]) -> list[Trial]:
    """The trials that these jobs, by their slots, are of: where values are averaged, each has several."""
    count = search.jobs_per_trial
    if count == 1:
        return list(jobs)
    return [_together(jobs[first : first + count], count) for first in range(0, len(jobs), count)]


def _together(jobs: Sequence[Trial], count: int) -> Trial:
    """A trial has failed as soon as one of its jobs has, likewise pruned, and has ended well when all have."""
    first = jobs[0]._replace(rungs=_mean_rungs(jobs), values=None)
    for job in jobs:
        if job.has_failed:
            return first._replace(state=job.state, trouble=job.trouble, culprit=job.proposal.job_id)
    states = {job.state for job in jobs} | ({State.PENDING} if len(jobs) < count else set())
    if State.PRUNED in states:
        return first._replace(state=State.PRUNED)
    if states == {State.COMPLETED}:
        values = zip(*(job.values or () for job in jobs), strict=True)
        return first._replace(state=State.COMPLETED, values=tuple(sum(one) / count for one in values))
    state = next((state for state in _UNDER_WAY if state in states), None)
    if state is not None:
        return first._replace(state=state)
    bad = next(job for job in jobs if job.state is not State.COMPLETED)
    return first._replace(state=bad.state, culprit=bad.proposal.job_id)


def _mean_rungs(jobs: Sequence[Trial]) -> Mapping[float, float]:
    """The means of those that have come to a rung."""
    steps = sorted({step for job in jobs for step in job.rungs})
    found = {step: [job.rungs[step] for job in jobs if step in job.rungs] for step in steps}
    return {step: sum(values) / len(values) for step, values in found.items()}


class History:
    """The trials of a search, read from disk again and again: each result once."""

    def __init__(self, folder: Folder, *, patience_s: float = 0.0) -> None:
        """For so many seconds a trial whose result cannot be opened counts as one that runs."""
        self._folder, self._patience_s = folder, patience_s
        self._missed: dict[tuple[int, int], float] = {}  # when results were first not there
        self._proposals: list[Proposal] = []
        self._values: dict[tuple[int, int], tuple[tuple[float, ...] | None, str | None]] = {}
        self.search = self._read_proposals()

    def _read_proposals(self) -> Search:
        """Raises JobRefused where there is no search."""
        with Manifest(self._folder) as manifest:
            search = manifest.search
            if search is None:
                raise JobRefused(no_search(self._folder))
            for slot in range(len(self._proposals), search.n_slots):
                found = manifest.proposal(search.job_id(slot) or 0)
                if found is None:
                    break
                self._proposals.append(found)
        return search

    def read(self, table: StateTable | None = None) -> list[Trial]:
        """The trials as they are now, in the order in which they were proposed."""
        jobs = self.jobs(table)
        return together(self.search, jobs)

    def jobs(self, table: StateTable | None = None) -> list[Trial]:
        """The same of each job by itself, by their slots."""
        self.search = self._read_proposals()
        table = States(self._folder).table() if table is None else table
        trials = [self._trial(one, table) for one in self._proposals]
        rungs = self._rungs()
        return [trial._replace(rungs=rungs.get(trial.proposal.job_id, {})) for trial in trials] if rungs else trials

    def _rungs(self) -> Mapping[int, Mapping[float, float]]:
        pruner = None if self.search.pruner is None else pruning.read(self.search.pruner)
        return {} if pruner is None else rung_values(self._folder, pruner.rungs)

    @property
    def n_proposed(self) -> int:
        """How many jobs are proposed."""
        return len(self._proposals)

    def look(self) -> int:
        """How many jobs are proposed by now."""
        self.search = self._read_proposals()
        return self.n_proposed

    def _trial(self, proposal: Proposal, table: StateTable) -> Trial:
        completed = table.completed(proposal.job_id)
        if completed is None:
            last = table.standing(proposal.job_id)
            return Trial(proposal, self._without_time(last.number, last.state, proposal.job_id), None)
        key = (proposal.job_id, completed)
        if key not in self._values:
            if not self._is_seen(*key):
                return Trial(proposal, State.RUNNING, None)
            self._values[key] = values_of(self._folder, self.search, table, *key)
        return Trial(proposal, State.COMPLETED, *self._values[key])

    def _is_seen(self, job_id: int, attempt: int) -> bool:
        """Whether a result can be opened, or has not been for too long."""
        try:
            opened(self._folder.of_attempt(job_id, attempt, "result")).close()
        except OSError:
            now = time.monotonic()
            return now - self._missed.setdefault((job_id, attempt), now) >= self._patience_s
        return True

    def _without_time(self, number: int, state: State, job_id: int) -> State:
        """PREEMPTED for what made room for the time limit of its task, and goes on."""
        if state is not State.TIMEOUT:
            return state
        end = read_optional(self._folder.of_attempt(job_id, number, "attempt"), END)
        return State.PREEMPTED if end.get("requeued") else state


def values_of(
    folder: Folder, search: Search, table: StateTable, job_id: int, attempt: int
) -> tuple[tuple[float, ...] | None, str | None]:
    """The values that an attempt which has completed has for the objectives of a search, or why it has none."""
    try:
        result = read_result(folder, job_id, attempt).value
    except ResultError as error:
        return None, str(error)
    if not search.metrics:
        return objectives(result, len(search.directions))
    asked = list(zip(search.metrics, search.directions, strict=True))
    fields = result if isinstance(result, Mapping) else {}
    attempts = () if all(name in fields for (name, _), _ in asked) else course(folder, table, job_id, until=attempt)
    logged = [metric for _, metrics in attempts for metric in metrics]
    values = [fields[name] if name in fields else _metric(logged, name, take, way) for (name, take), way in asked]
    missing = [name for ((name, _), _), value in zip(asked, values, strict=True) if value is None]
    if missing:
        return None, f"neither its result nor what it has logged has {', '.join(missing)}"
    return objectives(values[0] if len(values) == 1 else values, len(values))


def _metric(logged: Sequence[Metric], name: str, take: str, direction: str) -> Any:
    """What a job has logged by that name, the last or the best of it; None: there is none."""
    values = [metric.values[name] for metric in logged if name in metric.values]
    numbers = [value for value in values if is_number(value) and not math.isnan(value)]
    if take == LAST or not numbers:
        return values[-1] if values else None
    return max(numbers) if direction == MAXIMIZE else min(numbers)


def known_from(folder: Folder, search: Search) -> tuple[dict[str, Any], ...]:
    """What the jobs of another experiment have found in the space of this search, as the search keeps it. Raises
    OptionsError where there is none."""
    from optuna.trial import create_trial

    folder.require()
    table, found, n_completed = States(folder).table(), list[_Known](), 0
    distributions = {dimension.key: _distribution(dimension) for dimension in search.dimensions}
    with Manifest(folder) as manifest:
        jobs = list(manifest.jobs())
    for job in jobs:
        attempt = table.completed(job.id)
        if attempt is None:
            continue
        n_completed += 1
        values, _ = values_of(folder, search, table, job.id, attempt)
        drawn = {dimension.key: dimension.label_of(job.variables.get(dimension.key)) for dimension in search.dimensions}
        if values is None or None in drawn.values():
            continue
        params = {key: label[0] for key, label in drawn.items() if label is not None}
        with suppress(TypeError, ValueError):  # it is outside of the space
            create_trial(values=list(values), params=params, distributions=distributions)
            rest = {name: value for name, value in job.variables.items() if name not in search.averaged_keys}
            found.append(_Known(codec.dumps(codec.encode(rest)), params, values))
    if not found:
        raise OptionsError(
            f"hydra.sweeper.warm_start: none of the {counted(n_completed)} of {folder.path} that completed lies in "
            "the space of this search; it needs the same variables, and results"
        )
    if search.averaged:
        found = _means(found)
    return tuple({"params": one.params, "values": list(one.values)} for one in found)


class _Known(NamedTuple):
    """What a job has found."""

    trial: str  # which jobs have in common whose values are averaged
    params: dict[str, Any]
    values: tuple[float, ...]


def _means(found: Sequence[_Known]) -> list[_Known]:
    """Those of one trial are one, with the mean of their values."""
    trials: dict[str, list[_Known]] = {}
    for one in found:
        trials.setdefault(one.trial, []).append(one)
    return [
        jobs[0]._replace(
            values=tuple(sum(ones) / len(ones) for ones in zip(*(one.values for one in jobs), strict=True))
        )
        for jobs in trials.values()
    ]


def objectives(returned: Any, count: int) -> tuple[tuple[float, ...] | None, str | None]:
    """The values of so many objectives in what a job has returned, or why there are none.

    >>> objectives(0.5, 1), objectives([1, "2.5"], 2)
    (((0.5,), None), ((1.0, 2.5), None))
    >>> objectives(float("nan"), 1)[1], objectives([], 1)[1], objectives(1, 2)[1]
    ('it returned NaN', 'it returned [], which is no number', 'it returned 1, which are not 2 numbers')
    >>> objectives({"loss": 1}, 1)[1]
    "it returned {'loss': 1}, which is no number; hydra.sweeper.metric=loss would take that of it"
    """
    given = [returned] if count == 1 else list(returned) if isinstance(returned, list | tuple) else []
    shown = value_text(returned)
    try:
        values = tuple(float(value) for value in given)
    except (TypeError, ValueError, OverflowError):
        values = ()
    if len(values) != count:
        fields = [name for name, value in returned.items() if is_number(value)] if isinstance(returned, Mapping) else []
        take = f"; hydra.sweeper.metric={fields[0]} would take that of it" if fields and count == 1 else ""
        return None, f"it returned {shown}, which {'is no number' if count == 1 else f'are not {count} numbers'}{take}"
    if any(math.isnan(value) for value in values):
        return None, "it returned NaN"
    return values, None


class Nothing(NamedTuple):
    """Why nothing is proposed."""

    why: str
    is_complete: bool = False  # all trials have been proposed


class Proposer:
    """Proposes the trials of a search, one by one; others do so at the same time, wherever they are."""

    def __init__(self, folder: Folder, launch: str, *, again: Collection[int] = ()) -> None:
        """The jobs of `again` are going to run again, whatever became of them, and so are those of the launch until
        they begin. Raises JobRefused where there is no search."""
        self._folder, self._launch, self._history = folder, launch, History(folder, patience_s=SEEN_S)
        self._again = dict.fromkeys(again, math.inf)  # the number of the attempt that each is to have
        with suppress(ExperimentManagerError):  # whoever works for it tells
            self._again |= planned_attempts(read_launch(folder, launch)) if launch else {}

    def next(self) -> Proposal | Nothing:
        """A job that is proposed now, and that anybody may run. Raises ExperimentManagerError."""
        while True:
            jobs = self._jobs()
            search, slot = self._history.search, len(jobs)
            job_id = search.job_id(slot)
            if job_id is None:
                return Nothing(f"all {search.n_trials} trials are proposed", is_complete=True)
            if (why_not := why_over(self._folder, search, together(search, jobs))) is not None:
                return Nothing(why_not)
            try:
                proposal = proposed(search, jobs, job_id, self._launch)
            except FilterError as error:
                return Nothing(str(error))
            if publish(self._folder, proposal):
                if (who := who_stopped(self._folder)) is not None:  # who has not seen this one, perhaps
                    return Nothing(f"{who} has stopped the search")
                return proposal
            self._wait_to_see(slot, job_id)

    def _jobs(self) -> list[Trial]:
        """Those that are going to run again count as not begun."""
        table = States(self._folder).table()
        return [
            Trial(job.proposal, State.PENDING, None)
            if table.last(job.proposal.job_id).number < self._again.get(job.proposal.job_id, 0)
            else job
            for job in self._history.jobs(table)
        ]

    def _wait_to_see(self, slot: int, job_id: int) -> None:
        """The proposal of a slot, which somebody has made, is seen here, too. Raises JobRefused."""
        deadline = time.monotonic() + _LINKED_S
        while self._history.look() <= slot:
            if time.monotonic() > deadline:
                raise JobRefused(f"{self._folder.proposals}: job {job_id} is proposed, and its file cannot be read")
            time.sleep(0.1)


def why_over(folder: Folder, search: Search, trials: Sequence[Trial]) -> str | None:
    """Why nothing more is proposed, however many trials are left; None: more is."""
    if (who := who_stopped(folder)) is not None:
        return f"{who} has stopped the search"
    return too_many_failures(search, trials)


def best_of(search: Search, trials: Sequence[Trial]) -> Trial | None:
    """The best of the trials that have ended well; None where there is none, or there are several objectives. A pruned
    trial, which has not run to its end, is none of them."""
    ended = [trial for trial in trials if trial.values is not None and trial.state is State.COMPLETED]
    if not ended or len(search.directions) > 1:
        return None
    choose = max if search.directions[0] == MAXIMIZE else min
    return choose(ended, key=lambda trial: trial.values or ())


def too_many_failures(search: Search, trials: Sequence[Trial]) -> str | None:
    """The sentence where more trials have failed than the search allows; None where it goes on."""
    failed = [trial for trial in trials if trial.has_failed]
    n_ended = len(failed) + sum(trial.values is not None or trial.state is State.PRUNED for trial in trials)
    if not failed or len(failed) <= search.max_failure_rate * n_ended:
        return None
    first = failed[0]
    why = f"job {first.job_to_show}: {first.trouble or first.state}"
    return (
        f"{len(failed)} of {n_ended} trials that have ended have failed ({why}), more than "
        f"hydra.sweeper.max_failure_rate={search.max_failure_rate} allows"
    )


def proposed(search: Search, jobs: Sequence[Trial], job_id: int, launch: str) -> Proposal:
    """The proposal of the next job, whose trial the sampler draws: the same for the same jobs before, by their slots.
    Raises FilterError where nothing that it draws passes the filter."""
    if place := search.place(job_id):  # it has what was drawn for the first job of its trial
        return Proposal.made(search, job_id, launch, jobs[-place].proposal.values, {})
    rules, trials = filters.parse(search.pass_filter), together(search, jobs)
    with _quiet():
        study = made_study(search, trials)
        for turn in range(_MOST_DRAWN if rules else 1):  # what was dropped stays in it as if it ran, and is shunned
            study.sampler = _sampler(search, len(trials), turn)
            study.ask({dimension.key: _distribution(dimension) for dimension in search.dimensions})
            drawn = study.get_trials(deepcopy=False)[-1]
            attributes = {} if search.sampler["name"] == "grid" else drawn.system_attrs  # whose slot tells all
            found = Proposal.made(search, job_id, launch, drawn.params, attributes)
            if not rules or _passes(rules, search, found):
                return found
    raise FilterError(
        f"none of {_MOST_DRAWN} proposals has passed the filter {search.pass_filter!r}: it is too tight for the space; "
        "make one of them wider"
    )


def _passes(rules: Sequence[filters.Rule], search: Search, proposal: Proposal) -> bool:
    """Whether all jobs of its trial do, of which this is the first."""
    ids = search.trial(proposal.job_id)
    made = [Proposal.made(search, job_id, "", proposal.values, {}) for job_id in ids]
    jobs = [
        Job(JobId(one.job_id), one.identity, codec.decode(one.variables), one.overrides, None, None) for one in made
    ]
    facts = Facts(frozenset(search.names), tuple(ids), lambda _: None, lambda _: State.PENDING)
    return len(filters.apply(rules, jobs, facts).jobs) == len(jobs)


def check_filter(written: Any, sampler: str) -> None:
    """Raise FilterError unless a search by that sampler can have such a pass filter."""
    rules = filters.parse(written)
    if rules and sampler in ("grid", "qmc"):
        raise FilterError(
            f"hydra/sweeper/sampler={sampler} draws each point once, and none in place of those that a pass filter "
            "drops; take another sampler, or hydra/sweeper=experiment for a grid"
        )
    for rule in rules:
        if not isinstance(rule, filters.Mapped | filters.Evaluated) or rule.reads:
            raise FilterError(
                f"hydra.sweeper.pass_filter={rule.text}: a proposal has nothing but its variables yet; write an "
                "expression or a mapping of them"
            )


def made_study(search: Search, trials: Sequence[Trial]) -> "optuna.Study":
    """A study in memory that holds these trials; user attribute `job` is the id of each, or of its first job, `state`
    what it is here."""
    import optuna

    directions: Any = list(search.directions)
    study = optuna.create_study(directions=directions)
    study.add_trials([_warm(search, one) for one in search.warm])
    study.add_trials([_frozen(search, trial) for trial in trials])
    return study


def _warm(search: Search, known: Mapping[str, Any]) -> "optuna.trial.FrozenTrial":
    from optuna.trial import create_trial

    distributions = {dimension.key: _distribution(dimension) for dimension in search.dimensions}
    values, attributes = list(known["values"]), {"warm_start": True}
    return create_trial(values=values, params=dict(known["params"]), distributions=distributions, user_attrs=attributes)


def _frozen(search: Search, trial: Trial) -> "optuna.trial.FrozenTrial":
    from optuna.trial import TrialState, create_trial

    state = TrialState.COMPLETE
    if trial.state is State.PRUNED:
        state = TrialState.PRUNED
    elif trial.values is None:
        state = TrialState.RUNNING if trial.state in _MAY_GO_ON else TrialState.FAIL
    about: dict[str, Any] = {"job": trial.proposal.job_id, "state": str(trial.state)}
    if search.averaged:
        about["jobs"] = list(search.trial(trial.proposal.job_id))
    return create_trial(
        state=state,
        values=None if trial.values is None else list(trial.values),
        intermediate_values={int(step): value for step, value in trial.rungs.items()},
        params=dict(trial.proposal.values),
        distributions={dimension.key: _distribution(dimension) for dimension in search.dimensions},
        system_attrs=dict(trial.proposal.attributes),
        user_attrs={**about, **({"trouble": trial.trouble} if trial.trouble else {})},
    )


def _distribution(dimension: Dimension) -> "optuna.distributions.BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.kind == CATEGORICAL:
        return CategoricalDistribution(dimension.labels)
    assert dimension.low is not None
    assert dimension.high is not None
    if dimension.kind == INT:
        low, high, step = int(dimension.low), int(dimension.high), int(dimension.step or 1)
        return IntDistribution(low, high, log=dimension.log, step=step)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def _sampler(search: Search, slot: int, turn: int = 0) -> "optuna.samplers.BaseSampler":
    """A fresh sampler for a slot, and each turn to fill it: what it draws depends on nothing else but the search and
    the study."""
    name, seed = search.sampler["name"], seed_of(search.seed, slot, turn)
    options = {key: value for key, value in search.sampler.items() if key != "name"}
    if name == "tpe":
        options["constant_liar"] = True  # others run at the same time
    if name == "grid":  # the slot is the place in an order that is one for the whole search
        return _class(name)(_grid(search.dimensions), seed=search.seed)  # type: ignore[no-any-return]
    if name == "qmc":
        options["independent_sampler"] = _class("random")(seed=seed)
        return _of_sequence(search.dimensions, slot)(seed=search.seed, **options)  # type: ignore[no-any-return]
    return _class(name)(seed=seed, **options)  # type: ignore[no-any-return]


def _class(name: str) -> Any:
    import optuna

    return getattr(optuna.samplers, SAMPLERS[name])


def _of_sequence(dimensions: Sequence[Dimension], slot: int) -> Any:
    """A sampler that draws one point of a sequence, also before any trial has ended. Those who ask one after the other
    would count the points in a storage that they share."""
    import optuna

    kind = _class("qmc")
    if not hasattr(kind, "_find_sample_id"):
        raise OptionsError("this Optuna does not let its QMCSampler begin where others have ended; use another sampler")
    has_choices = int(optuna.__version__.partition(".")[0]) >= _CHOICES_IN_SEQUENCES
    space = {one.key: _distribution(one) for one in dimensions if has_choices or one.kind != CATEGORICAL}
    own = {"_find_sample_id": lambda *_: slot, "infer_relative_search_space": lambda *_: space}
    return type(kind.__name__, (kind,), own)


def _grid(dimensions: Sequence[Dimension]) -> dict[str, list[Any]]:
    """The values of each dimension. Raises GridError where they cannot be listed."""
    found = {}
    for dimension in dimensions:
        if dimension.kind == CATEGORICAL:
            found[dimension.key] = dimension.labels
            continue
        if dimension.low is None or dimension.high is None or (dimension.step is None and dimension.kind != INT):
            raise GridError(
                f"{dimension.key}={describe(dimension)} has no list of values, which hydra/sweeper/sampler=grid goes "
                "through; write a range or a choice"
            )
        step, count = dimension.step or 1, 1
        while dimension.low + count * step <= dimension.high + step / 1e6:
            count += 1
        found[dimension.key] = [dimension.low + place * step for place in range(count)]
    return found


def n_of_grid(dimensions: Sequence[Dimension]) -> int:
    """How many points the grid of these dimensions has. Raises GridError."""
    return math.prod(len(values) for values in _grid(dimensions).values())


def check_sampler(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The sampler as a search keeps it, without what says nothing. Raises OptionsError for what Optuna refuses."""
    import optuna

    if name not in SAMPLERS:
        raise OptionsError(
            f"hydra/sweeper/sampler={name} is not known to hydra/sweeper=experiment_optuna; use {', '.join(SAMPLERS)}"
        )
    kind = _class(name)
    known = signature(kind).parameters
    kept = {}
    for key, value in options.items():
        if (
            value is None
            or (key in known and known[key].default == value)
            or key in ("constant_liar", "seed", "_partial_")
        ):
            continue
        if key in _GONE and _GONE[key] == value:
            continue
        if key not in known or not isinstance(value, bool | int | float | str | Mapping):
            raise OptionsError(
                f"hydra.sweeper.sampler.{key}={value} is no option of {SAMPLERS[name]} of Optuna {optuna.__version__}; "
                f"it has {', '.join(sorted(known))}"
            )
        kept[key] = value
    with _quiet():
        try:
            kind(*([{}] if name == "grid" else []), seed=0, **kept)
        except (TypeError, ValueError, ImportError) as error:
            raise OptionsError(f"hydra.sweeper.sampler: {SAMPLERS[name]} refuses its options: {error}") from error
    return {"name": name, **kept}


def check_space(dimensions: Sequence[Dimension]) -> None:
    """Raise GridError where Optuna does not take a dimension."""
    for dimension in dimensions:
        try:
            with _quiet():
                _distribution(dimension)
        except (TypeError, ValueError) as error:
            raise GridError(f"{dimension.key}={describe(dimension)}: {error}") from error


def seed_of(seed: int, slot: int, turn: int = 0) -> int:
    """The seed of the sampler for a slot.

    >>> len({seed_of(1, 0), seed_of(1, 1), seed_of(2, 0), seed_of(1, 0, 1)})
    4
    """
    return int.from_bytes(hashlib.sha256(f"{seed} {slot} {turn}".encode()).digest()[:4])


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, Optuna says nothing: of what is new in it, of the study in memory."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
