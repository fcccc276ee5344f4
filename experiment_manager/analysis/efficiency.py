"""What jobs asked for and what they used, what of it was wasted, and the options that would fit them.

Known is what each attempt has recorded, and what its launch has asked for. Memory is in bytes, time in seconds; hours
are of processors, of GPUs, and of gigabytes of 2**30 bytes. What is not known is None, and said in a note.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any, Final, NamedTuple

from experiment_manager.analysis.tables import group_key, repeating, require_variables
from experiment_manager.errors import JobRefused, OptionsError
from experiment_manager.model.records import ENDED, ENDED_BADLY, ENDED_WELL, Job, JobId, State
from experiment_manager.scheduler import schedulers
from experiment_manager.scheduler.records import Share
from experiment_manager.store.documents import END, read_optional
from experiment_manager.store.files import is_there, number_in
from experiment_manager.store.layout import Folder
from experiment_manager.store.metrics import course
from experiment_manager.store.orders import Order, Orders
from experiment_manager.store.states import States, StateTable
from experiment_manager.text import counted, skipped

ENOUGH: Final = 5
"""Options are suggested from so many jobs on that ended well."""

MEMORY_MARGIN, TIME_MARGIN, CPU_MARGIN = 1.2, 1.5, 1.1
"""What is suggested, for each of what the job used that used most: other nodes are slower, other seeds larger."""

_DIFFERENT: Final = 1.5
_LEAST_BYTES, _LEAST_S = 2**28, 300.0
_MOST_VALUES: Final = 12
_GB: Final = 2**30
_STOPPED: Final = (State.TIMEOUT, State.PREEMPTED)
"""How attempts end from which the next one mostly goes on."""


class Hours(NamedTuple):
    """Hours of processors, of GPUs, and of gigabytes (2**30 bytes) of memory; None where nobody knows."""

    cpu: float | None
    gpu: float | None
    gb: float | None


class Usage(NamedTuple):
    """What some jobs asked for and used: all of an experiment, or those with the same `variables`.

    A job has what it asked for, or its part of a packed task. Where jobs asked for different amounts, the largest is
    told. Of what was used, only attempts that ended well tell, each with all its processes. Shares are of what was
    asked for, in all those attempts together: 0.25 is a quarter.
    """

    variables: Mapping[str, Any]
    n_jobs: int  # with an attempt that has ended
    n_attempts: int  # that have ended
    n_measured: int  # jobs that ended well, and have recorded when
    ended_badly: Mapping[str, int]  # attempts, by state
    asked_memory_bytes: float | None
    used_memory_bytes: float | None  # the peak of the job that used most
    median_memory_bytes: float | None
    memory_share: float | None
    asked_cpus: float | None
    used_cpus: float | None  # on average
    cpu_share: float | None
    asked_gpus: float | None
    used_gpus: float | None  # that were busy, on average
    gpu_share: float | None
    used_gpu_memory_bytes: float | None  # of the job that used most, on all its GPUs
    limit_s: float | None
    used_s: float | None  # the longest
    median_s: float | None
    time_share: float | None
    hours: Hours  # held by all attempts; where no processors were asked for, those that they used
    unused: Hours  # held by attempts that ended well, and not used
    lost: Hours  # held by attempts that ended badly
    options: Mapping[str, Any]  # of a launcher, which would have been enough; None takes one away

    def __repr__(self) -> str:
        return f"Usage({counted(self.n_jobs)}, {self.n_attempts} attempts, to fit them: {self.settings or 'nothing'})"

    @property
    def settings(self) -> str:
        """The options as a sweep takes them: `hydra.launcher.mem_gb=6 hydra.launcher.timeout_min=40`."""
        return " ".join(f"hydra.launcher.{name}={_word(value)}" for name, value in self.options.items())


class Efficiency(NamedTuple):
    """What the jobs of an experiment asked for and used, in all or by group, and what is to be said of it."""

    groups: tuple[Usage, ...]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        jobs = counted(sum(group.n_jobs for group in self.groups))
        return f"Efficiency({jobs} in {len(self.groups)} group{'' if len(self.groups) == 1 else 's'})"


class _Attempt(NamedTuple):
    """An attempt that has ended, with what is known of it."""

    job: Job
    number: int
    state: State
    launch: str
    order: Order | None
    asked: Share
    seconds: float | None
    cpu_s: float | None
    gpu_s: float | None  # for which it kept GPUs busy, all together
    gpu_memory_bytes: float | None
    memory_bytes: float | None
    memory_from: str | None  # how it is known: counted in a `cgroup`, or from `samples`; None: earlier versions
    has_ranks: bool
    before: tuple["_Attempt", ...] = ()  # of one that ended well: those that it went on from

    @property
    def whole_s(self) -> float | None:
        """How long the job took, with what it went on from."""
        took = [one.seconds for one in (*self.before, self)]
        known = [seconds for seconds in took if seconds is not None]
        return sum(known) if len(known) == len(took) else None

    @property
    def ended_well(self) -> bool:
        return self.state in ENDED_WELL

    @property
    def hours(self) -> Hours:
        """What it held."""
        if self.seconds is None:
            return Hours(None, None, None)
        cpu = self.cpu_s / 3600 if self.asked.cpus is None and self.cpu_s is not None else _in(self, self.asked.cpus)
        memory = None if self.asked.memory_bytes is None else self.asked.memory_bytes / _GB
        return Hours(cpu, _in(self, self.asked.gpus), _in(self, memory))

    @property
    def unused(self) -> Hours:
        cpu = memory = None
        if self.seconds is not None and self.asked.cpus is not None and self.cpu_s is not None:
            cpu = max(0.0, self.asked.cpus * self.seconds - self.cpu_s) / 3600
        if self.asked.memory_bytes is not None and self.memory_bytes is not None:
            memory = _in(self, max(0.0, self.asked.memory_bytes - self.memory_bytes) / _GB)
        gpu = None
        if self.asked.gpus and self.seconds is not None and self.gpu_s is not None:
            gpu = max(0.0, self.asked.gpus * self.seconds - self.gpu_s) / 3600
        return Hours(cpu, gpu, memory)


def efficiency(
    folder: Folder, jobs: Iterable[Job], table: StateTable, by: Sequence[str] = (), variables: Iterable[str] = ()
) -> Efficiency:
    """What these jobs asked for and used, for each combination of the variables in `by`, or in all. Known are those of
    the jobs, and `variables`.

    Opens two files for each attempt that has ended, and the metrics of jobs that took several. Raises
    ExperimentManagerError for an unknown variable.
    """
    jobs = list(jobs)
    names = list(dict.fromkeys(name for job in jobs for name in job.variables))
    require_variables(by, list(dict.fromkeys((*names, *variables))))
    attempts = list(_attempts(folder, jobs, table))
    groups = [_usage(members, by, table) for members in _grouped(attempts, by)]
    notes = list(_notes(attempts, groups, table, jobs))
    if not by:
        notes += _differences(attempts, [name for name in names if name not in repeating(names)])
    return Efficiency(tuple(groups), tuple(notes))


def _attempts(folder: Folder, jobs: Iterable[Job], table: StateTable) -> Iterator[_Attempt]:
    states, orders = States(folder), Orders(folder)
    for job in jobs:
        numbers = sorted(table.attempts.get(JobId(job.id), {}).items())
        found = [
            _attempt(folder, states, orders, job, number, state)
            for number, state in numbers
            if state in ENDED and state is not State.FAKE
        ]
        for place, one in enumerate(found):
            yield one._replace(before=_before(folder, table, one, found[:place])) if one.ended_well else one


def _before(folder: Folder, table: StateTable, last: _Attempt, earlier: Sequence[_Attempt]) -> tuple[_Attempt, ...]:
    """Those of the earlier attempts that an attempt went on from: as their metrics tell, or else those that were
    stopped, and did not fail."""
    if not earlier:
        return ()
    in_course = {number for number, _ in course(folder, table, last.job.id, skipped, until=last.number)}
    return tuple(
        one
        for one in earlier
        if one.number in in_course
        or (one.state in _STOPPED and not is_there(folder.of_attempt(one.job.id, one.number, "metrics")))
    )


def _attempt(folder: Folder, states: States, orders: Orders, job: Job, number: int, state: State) -> _Attempt:
    launch = str(states.record(job.id, number).get("launch") or "")
    end = read_optional(folder.of_attempt(job.id, number, "attempt"), END)
    order = _order(orders, launch, job.id) if launch else None
    start, ended = number_in(end, "start"), number_in(end, "end")
    asked, has_ranks = _asked(order)
    memory = number_in(end, "peak_memory_bytes")
    return _Attempt(
        job=job,
        number=number,
        state=state,
        launch=launch,
        order=order,
        asked=asked,
        seconds=None if start is None or ended is None else max(0.0, ended - start),
        cpu_s=None if has_ranks else number_in(end, "cpu_s"),
        gpu_s=None if has_ranks else number_in(end, "gpu_s"),
        gpu_memory_bytes=None if has_ranks else number_in(end, "peak_gpu_memory_bytes"),
        memory_bytes=None if has_ranks else memory,
        memory_from=end.get("peak_memory_from"),
        has_ranks=has_ranks,
    )


def _order(orders: Orders, launch: str, job_id: int) -> Order | None:
    try:
        return orders.of(launch, job_id)
    except JobRefused as error:
        skipped(str(error))
        return None


def _asked(order: Order | None) -> tuple[Share, bool]:
    """What a job asked for, and whether its scheduler starts several processes, of which it alone knows."""
    if order is None or order.scheduler is None or order.options is None:
        return Share(limit_s=None if order is None else order.limit_s), False
    try:
        scheduler = schedulers.named(order.scheduler)
    except OptionsError:  # of a package that is not installed here
        return Share(limit_s=order.limit_s), False
    return scheduler.share(order.options), scheduler.n_tasks(order.options) > 1


def _grouped(attempts: Iterable[_Attempt], by: Sequence[str]) -> list[list[_Attempt]]:
    groups: dict[str, list[_Attempt]] = defaultdict(list)
    for attempt in attempts:
        groups[group_key({"variables": attempt.job.variables}, by)].append(attempt)
    return list(groups.values())


def _usage(attempts: Sequence[_Attempt], by: Sequence[str], table: StateTable) -> Usage:
    well = [attempt for attempt in attempts if attempt.ended_well]
    bad = [attempt for attempt in attempts if attempt.state in ENDED_BADLY]
    timed = [attempt for attempt in well if attempt.seconds is not None]
    memory = [attempt.memory_bytes for attempt in well if attempt.memory_bytes is not None]
    seconds = [attempt.seconds for attempt in timed if attempt.seconds is not None]
    with_cpu = [(attempt.cpu_s, attempt.seconds) for attempt in timed if attempt.cpu_s is not None]
    return Usage(
        variables={name: attempts[0].job.variables.get(name) for name in by},
        n_jobs=len({attempt.job.id for attempt in attempts}),
        n_attempts=len(attempts),
        n_measured=len({attempt.job.id for attempt in timed}),
        ended_badly=dict(Counter(str(attempt.state) for attempt in bad)),
        asked_memory_bytes=_largest(attempt.asked.memory_bytes for attempt in attempts),
        used_memory_bytes=max(memory, default=None),
        median_memory_bytes=median(memory) if memory else None,
        memory_share=_share((one.memory_bytes, one.asked.memory_bytes, one.seconds) for one in well),
        asked_cpus=_largest(attempt.asked.cpus for attempt in attempts),
        used_cpus=_share((cpu_s, took, 1.0) for cpu_s, took in with_cpu),
        cpu_share=_share((_cores(one), one.asked.cpus, one.seconds) for one in well),
        asked_gpus=_largest(attempt.asked.gpus for attempt in attempts),
        used_gpus=_share((one.gpu_s, one.seconds, 1.0) for one in timed),
        gpu_share=_share((_rate(one, one.gpu_s), one.asked.gpus or None, one.seconds) for one in well),
        used_gpu_memory_bytes=_largest(attempt.gpu_memory_bytes for attempt in well),
        limit_s=_largest(attempt.asked.limit_s for attempt in attempts),
        used_s=max(seconds, default=None),
        median_s=median(seconds) if seconds else None,
        time_share=_share((one.seconds, one.asked.limit_s, 1.0) for one in well),
        hours=_sum(attempt.hours for attempt in attempts),
        unused=_sum(attempt.unused for attempt in well),
        lost=_sum(attempt.hours for attempt in bad),
        options=_fitting(attempts, table),
    )


def _fitting(attempts: Sequence[_Attempt], table: StateTable) -> dict[str, Any]:
    """The options that would have been enough for all jobs of a group that ended well, where they are less than what
    was asked for, or nothing was: those of the newest launch are changed.

    What a job still lacks that ran out of it is not known, so nothing is said of that.
    """
    well = [attempt for attempt in attempts if attempt.ended_well and attempt.seconds is not None]
    if len({attempt.job.id for attempt in well}) < ENOUGH:
        return {}
    states = {table.state(attempt.job.id) for attempt in attempts}
    peaks = [_largest(one.memory_bytes for one in (*last.before, last)) for last in well]
    memory = _need(peaks, MEMORY_MARGIN, is_open=State.OUT_OF_MEMORY in states)
    is_open = State.TIMEOUT in states or any(one.whole_s is None for one in well)
    limit_s = _need([one.whole_s for one in well], TIME_MARGIN, is_open=is_open)
    cpus = _need([_cores(one) for one in well], CPU_MARGIN, is_open=False)
    need = Share(cpus=cpus, memory_bytes=memory, limit_s=limit_s)
    order = max(attempts, key=lambda one: (len(one.launch), one.launch)).order
    options = {} if order is None or order.options is None else order.options
    try:
        scheduler = schedulers.named("slurm" if order is None else order.scheduler or "slurm")
    except OptionsError:  # of a package that is not installed here
        return {}
    asked = Share() if order is None or order.scheduler is None else scheduler.share(options)
    would = scheduler.share({**options, **scheduler.fitting(need, options)})._asdict()
    enough = {name for name, has in asked._asdict().items() if has is not None and (would[name] or has) >= has}
    return scheduler.fitting(need._replace(**dict.fromkeys(enough)), options)


def _need(used: Sequence[float | None], margin: float, *, is_open: bool) -> float | None:
    """What each job is to get, where enough of them tell what they used, and none `is_open`: it ran out of that."""
    known = [value for value in used if value is not None]
    return None if is_open or len(known) < ENOUGH else max(known) * margin


def _cores(attempt: _Attempt) -> float | None:
    """The processors that it kept busy on average."""
    return _rate(attempt, attempt.cpu_s)


def _rate(attempt: _Attempt, seconds: float | None) -> float | None:
    return None if seconds is None or not attempt.seconds else seconds / attempt.seconds


def _in(attempt: _Attempt, amount: float | None) -> float | None:
    return None if amount is None or attempt.seconds is None else amount * attempt.seconds / 3600


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _share(parts: Iterable[tuple[float | None, float | None, float | None]]) -> float | None:
    """What was used of what was asked, each weighted; of those alone of which all is known."""
    used = asked = 0.0
    for one, whole, weight in parts:
        if one is not None and whole is not None and weight is not None:
            used, asked = used + one * weight, asked + whole * weight
    return used / asked if asked else None


def _sum(hours: Iterable[Hours]) -> Hours:
    columns = zip(*hours, strict=True)
    sums = [sum(known) if (known := [value for value in column if value is not None]) else None for column in columns]
    return Hours(*sums) if sums else Hours(None, None, None)


def _notes(
    attempts: Sequence[_Attempt], groups: Sequence[Usage], table: StateTable, jobs: Sequence[Job]
) -> Iterator[str]:
    """What is not known, and what was made of what is."""
    if not attempts:
        yield "no attempt has ended yet" if jobs else "no job is chosen"
        return
    running = sum(table.state(job.id) is State.RUNNING for job in jobs)
    if running:
        yield f"{counted(running)} that run{'s' if running == 1 else ''} will count when ended"
    if n := sum(attempt.seconds is None for attempt in attempts):
        yield f"of {_attempts_text(n)} nobody has recorded when they began and ended; they count in no hours"
    unseen = [one for one in attempts if one.seconds is not None and one.memory_bytes is None and not one.has_ranks]
    if unseen:
        yield f"{_attempts_text(len(unseen))} without memory and processor time, as within the process of a sweep"
    if n := sum(attempt.has_ranks for attempt in attempts):
        yield f"{_attempts_text(n)} of several tasks each: what they used, only the accounting of the scheduler knows"
    yield from _about_memory([attempt for attempt in attempts if attempt.memory_bytes is not None])
    if any(attempt.order is not None and (attempt.order.options or {}).get("workers") for attempt in attempts):
        yield "hours are of jobs: what workers held while they had none is not in them"
    if n := sum(bool(one.asked.gpus) and one.gpu_s is None and not one.has_ranks for one in attempts):
        yield (
            f"how busy the GPUs of {_attempts_text(n)} were is not known: that takes NVIDIA's GPUs, and "
            "pip install 'hydra-experiment-manager[gpu]' where the jobs run"
        )
    if any(attempt.gpu_s is not None for attempt in attempts):
        yield "a GPU counts as busy while anything runs on it, however little of it that takes; that is a sample"
    if any(group.ended_badly for group in groups):
        yield "lost is all that attempts held that ended badly; a job that goes on from a checkpoint has lost less"
    if all(attempt.order is None or attempt.order.scheduler is None for attempt in attempts):
        yield "no scheduler ran them, so nothing was asked for; options are those of a launcher of SLURM"
    if n := len({one.job.id for one in attempts if one.before}):
        yield f"{counted(n)} went on from earlier attempts: options are for all of these together, in one attempt"
    yield from _about_options(attempts, groups, table)


def _about_memory(attempts: Sequence[_Attempt]) -> Iterator[str]:
    if n := sum(attempt.memory_from == "samples" for attempt in attempts):
        yield (
            f"the memory of {_attempts_text(n)} was looked at every few seconds, since no cgroup was theirs alone: a "
            "short peak of several processes may be missing"
        )
    if n := sum(attempt.memory_from is None for attempt in attempts):
        yield f"an earlier version ran {_attempts_text(n)}: peaks of several processes below 10 seconds may be missing"
    if n := sum(attempt.memory_from == "cgroup" for attempt in attempts):
        yield (
            f"the memory of {_attempts_text(n)} is what the kernel counted, with the files that it kept in memory for "
            "them, which it gives up when it must"
        )


def _about_options(attempts: Sequence[_Attempt], groups: Sequence[Usage], table: StateTable) -> Iterator[str]:
    few = sum(group.n_measured < ENOUGH for group in groups)
    if few:
        where = "here" if len(groups) == 1 else f"in {few} of {len(groups)} groups"
        yield f"fewer than {ENOUGH} jobs {where} have ended well and recorded when: no options are suggested of so few"
    for state, what in ((State.OUT_OF_MEMORY, "memory"), (State.TIMEOUT, "time")):
        open_jobs = {attempt.job.id for attempt in attempts if table.state(attempt.job.id) is state}
        if open_jobs:
            yield f"{counted(len(open_jobs))} {state}: how much {what} they need is not known, so none is suggested"


def _differences(attempts: Sequence[_Attempt], names: Sequence[str]) -> Iterator[str]:
    """The variable by which use differs most, if its values deserve options of their own."""
    best: tuple[float, str] | None = None
    for name in names:
        groups = [[one for one in group if one.ended_well] for group in _grouped(attempts, [name])]
        if not 2 <= len(groups) <= _MOST_VALUES or any(len(group) < ENOUGH for group in groups):
            continue
        for pick, words, least in ((_memory_of, "memory", _LEAST_BYTES), (_seconds_of, "time", _LEAST_S)):
            peaks = [max(known) for group in groups if (known := [value for one in group if (value := pick(one))])]
            ratio = max(peaks) / min(peaks) if len(peaks) == len(groups) and max(peaks) >= least else 0.0
            if ratio >= _DIFFERENT and (best is None or ratio > best[0]):
                best = ratio, f"{words} differs {ratio:.2g}-fold by {name}: look with --group-by {name}"
    if best is not None:
        yield best[1]


def _memory_of(attempt: _Attempt) -> float | None:
    return attempt.memory_bytes


def _seconds_of(attempt: _Attempt) -> float | None:
    return attempt.seconds


def _attempts_text(n: int) -> str:
    return f"{n:,} attempt{'' if n == 1 else 's'}"


def _word(value: Any) -> str:
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
