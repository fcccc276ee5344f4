"""Healing: what died for want of memory or time, under a launch with a rule for that, is submitted again with more.

launches/0002/launch.json    "heals": {"launch": "0001", "state", "rule", "option", "was", "now", "retry"}

Which jobs these are, `model.healing` decides; here it is read from the files, and carried out: a launch of its own is
on disk before anything is submitted, so whoever is killed has forgotten nothing, and the next one who heals goes on
with it. A healing launch is submitted as every other one, once (`submission`); of two that want the same attempt, as
where the file system has no locks, the one that stands (`model.healing.claims`).
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from experiment_manager.errors import ExperimentManagerError, JobRefused, UnreadableLaunch
from experiment_manager.model.healing import RULES, Death, Decision, Group, Planned, Retry, claims, decide, is_rule
from experiment_manager.model.ids import format_ids, parse_ids, which
from experiment_manager.model.records import Attempt, JobId, Launch, State
from experiment_manager.scheduler import schedulers
from experiment_manager.scheduler.nodes import elsewhere, nodes_left_out
from experiment_manager.scheduler.protocol import Scheduler
from experiment_manager.scheduler.query import Answer, ask_about
from experiment_manager.scheduler.reconcile import reconciled
from experiment_manager.scheduler.records import not_asked
from experiment_manager.scheduler.scripts import arranged, arranged_again, write_scripts
from experiment_manager.scheduler.submission import LaunchedArray, Submitted, launched_arrays, script_paths, submit
from experiment_manager.scheduler.verdicts import comes_back
from experiment_manager.store.documents import END, read_optional
from experiment_manager.store.files import is_there
from experiment_manager.store.holds import read_held, read_removed
from experiment_manager.store.launches import (
    clear_leftovers,
    create_launch,
    launch_numbers,
    of_scheduler,
    planned_attempts,
    read_launch,
)
from experiment_manager.store.layout import Folder, planning
from experiment_manager.store.lock import Busy
from experiment_manager.store.states import States, StateTable, scheduler_in
from experiment_manager.store.submissions import Submission
from experiment_manager.text import counted, one_line, skipped, tell_once

_MORTAL: Final = frozenset(RULES.values())
_UNSEEN: Final = frozenset({State.RUNNING, State.LOST})
"""The states of jobs of whose end their supervisor has told nothing."""

_Options = dict[int, tuple[str, Mapping[str, Any]]]
"""The name of its array, and its options, of each job of a launch that has a rule for some; of another one: none."""
_KEPT: Final = ("launcher", "launcher_file", "runner", "cwd", "pruner", "upstream", "options", "overrides", "code")
"""What a launch that heals has from the one that it heals, beside the options."""


class Healed(NamedTuple):
    """Jobs that are submitted again together, each a task of its own, and why."""

    launch: str
    jobs: tuple[int, ...]
    reason: str  # OUT_OF_MEMORY with mem_gb=1, now mem_gb=1.5 (on_oom, retry 1)
    slurm_ids: tuple[str, ...] = ()  # none: it is not submitted, see Healing.refused

    def __repr__(self) -> str:
        return f"Healed({which(self.jobs)} in launch {self.launch}: {self.reason})"


class Healing(NamedTuple):
    """What came of healing: the jobs that are submitted again by now; those that are given up, by the reason; those
    whose next attempt people have launched, by its number; and what could not be submitted, by the launch."""

    healed: tuple[Healed, ...] = ()
    given_up: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    left: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    refused: Mapping[str, str] = MappingProxyType({})
    unasked: tuple[str, ...] = ()  # launches with a rule of which their schedulers could not tell what became

    def __repr__(self) -> str:
        n_healed, n_given_up = sum(len(one.jobs) for one in self.healed), sum(map(len, self.given_up.values()))
        return f"Healing({n_healed} submitted again, {n_given_up} given up)"


def heal(folder: Folder, *, is_alone: bool = True) -> Healing:
    """Every job that died for want of memory or time, and has a rule for that, is submitted again, once, whoever else
    heals at the same time, and whatever became of earlier tries.

    Not `is_alone`: many do so at the same time, as supervisors do, each at the end of its job. Then schedulers are not
    asked about what has not recorded its end, who submits a launch just now is not waited for, and of what others have
    left unsubmitted, one launch is enough. Raises ExperimentManagerError where nothing can be done; where one launch
    cannot be submitted, the others are.
    """
    folder.require()
    with planning(folder):
        clear_leftovers(folder)
        table, unasked = _looked(folder) if is_alone else (States(folder).table(), ())
        found = _survey(folder, table, is_asked=is_alone)
        for scheduler in {one.name: one for one in found.schedulers()}.values():
            scheduler.require()
        launches = [*found.unfinished[: None if is_alone else 1]]
        for launch in launches:
            _complete(folder, launch)
        written = [_write(folder, found.launches[group.launch], group) for group in found.decision.groups]
        if written:  # somebody else, whom no lock has kept out, may have written the same
            stands = {launch.number for launch in _survey(folder, table, is_asked=is_alone).unfinished}
            launches += [launch for launch in written if launch.number in stands]
    healed, refused = [], dict[str, str]()
    for launch in launches:
        submitted: Sequence[Submitted] = ()
        try:
            submitted = submit(folder, launch) if is_alone else submit(folder, launch, wait_s=0.0)
        except ExperimentManagerError as error:
            if not is_alone and isinstance(error.__cause__, Busy):  # who submits it tells what became of it
                continue
            refused[launch.number] = one_line(str(error))
        ids = tuple(sorted(planned_attempts(launch)))
        healed.append(Healed(launch.number, ids, reason_of(launch) or "", tuple(one.slurm_id for one in submitted)))
    left = {job_id: owner for job_id, owner in found.decision.left.items() if owner not in found.healing}
    return Healing(tuple(healed), _by_text(found.decision.given_up), _by_text(left), refused, unasked)


def _looked(folder: Folder) -> tuple[StateTable, tuple[str, ...]]:
    """What schedulers know better is recorded; and the launches with a rule about which one could not be asked."""
    answer = ask_about([folder])
    table = reconciled(folder, answer, is_to_act=True)
    unasked = tuple(
        number
        for number, launch in _launches(folder, is_to_act=True).items()
        if has_rule(launch) and any(_is_left_open(table, answer, array) for array in launched_arrays(launch))
    )
    return table, unasked


def _is_left_open(table: StateTable, answer: Answer, array: LaunchedArray) -> bool:
    """Whether jobs of an array may have died of which the scheduler, or its history alone, has not told."""
    if array.name not in answer.names:
        return False
    report = answer.reports.get(array.name)
    if report is None:
        return True
    is_open = (job not in table.confirmed and table.state(job) in _UNSEEN for job in array.jobs)
    return report.is_history_silent and any(is_open)


def has_rule(launch: Launch) -> bool:
    """Whether the launch has a rule for any of its jobs."""
    return bool(_options_of(launch))


def heal_quietly(folder: Folder) -> None:
    """The same for whoever waits for jobs; why it cannot be done, people are told once."""
    try:
        refused = list(heal(folder).refused.values())
    except ExperimentManagerError as error:
        refused = [str(error)]
    for why in refused:
        tell_once(f"{why}. Jobs that this was to submit again are taken for ended", f"healing of {folder.path}")


def reason_of(launch: Launch) -> str | None:
    """Why a launch has submitted its jobs again; None for one that heals nothing."""
    kept = launch.record.get("heals")
    if kept is None:
        return None
    try:
        return Retry(**{name: kept[name] for name in Retry._fields}).words
    except (KeyError, TypeError, ValueError):  # somebody has edited it
        return "it was healed"


class Outlook(NamedTuple):
    """What healing has done for jobs, what it is to do, and what it does not: jobs by what people are told."""

    healed: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    to_heal: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    given_up: Mapping[str, tuple[int, ...]] = MappingProxyType({})


def outlook(folder: Folder, table: StateTable) -> Outlook:
    """What healing has done; nothing is written, and what cannot be read is named. Reads the launches where some job
    has died so, or has begun more than once."""
    if not _may_have_healed(table):
        return Outlook()
    found = _survey(folder, table, is_asked=True, is_to_act=False)
    healed, to_heal = dict[str, set[int]](), dict[str, set[int]]()
    unfinished = {launch.number for launch in found.unfinished}
    for launch in found.launches.values():
        reason = reason_of(launch)
        if reason is not None and launch.number not in found.void:
            place = to_heal if launch.number in unfinished else healed
            place.setdefault(reason, set()).update(planned_attempts(launch))
    for group in found.decision.groups:
        to_heal.setdefault(group.retry.words, set()).update(group.attempts)
    done, due = ({text: tuple(sorted(ids)) for text, ids in by.items()} for by in (healed, to_heal))
    return Outlook(done, due, _by_text(found.decision.given_up))


def is_under_way(folder: Folder, table: StateTable) -> bool:
    """Whether somebody is going to submit jobs again that have died, or has done so since the table was read."""
    if not _may_have_healed(table):
        return False
    found = _survey(folder, table, is_asked=True, is_to_act=False)
    return bool(found.unfinished or found.decision.groups or found.healing & set(found.decision.left.values()))


def _may_have_healed(table: StateTable) -> bool:
    return any(len(numbers) > 1 or not _MORTAL.isdisjoint(numbers.values()) for numbers in table.attempts.values())


class _Survey(NamedTuple):
    launches: Mapping[str, Launch]
    healing: frozenset[str]  # those of them that heal
    unfinished: Sequence[Launch]  # that heal, and something of which is not submitted
    void: frozenset[str]  # that were to heal what another launch has
    decision: Decision

    def schedulers(self) -> list[Scheduler]:
        """Those that something is going to be submitted to. Raises OptionsError."""
        launches = [*self.unfinished, *(self.launches[group.launch] for group in self.decision.groups)]
        return [scheduler for launch in launches if (scheduler := schedulers.of(launch)) is not None]


def _survey(folder: Folder, table: StateTable, *, is_asked: bool, is_to_act: bool = True) -> _Survey:
    """What the files tell of healing. Raises UnreadableLaunch where something is going to be submitted."""
    launches = _launches(folder, is_to_act=is_to_act)
    healing = frozenset(launch.number for launch in launches.values() if "heals" in launch.record)
    options = {number: own for number, launch in launches.items() if (own := _options_of(launch))}
    if not healing and not options:
        return _Survey(launches, healing, [], frozenset(), Decision((), {}, {}))
    kept_back = read_held(folder) | read_removed(folder)
    planned, unfinished = [], []
    for launch in launches.values():
        is_healing, has_begun = launch.number in healing, True
        if is_healing:
            submission = Submission(folder, launch, is_to_act=is_to_act)
            is_known = [submission.array_id(array.name) is not None for array in launched_arrays(launch)]
            has_begun = any(is_known)
            unfinished += [] if all(is_known) or _may_be_elsewhere(launch, submission) else [launch]
        attempts = planned_attempts(launch)
        if has_begun or kept_back.isdisjoint(attempts):  # nothing is submitted that has a job which is not to begin
            planned.append(Planned(launch.number, attempts, is_healing, has_begun))
    found = claims(planned, table.attempts)
    begun = {one.number for one in planned if one.has_begun}
    stands = [launch for launch in unfinished if launch.number in begun | found.standing]
    void = frozenset(launch.number for launch in unfinished) - {launch.number for launch in stands}
    deaths = _deaths(folder, table, launches, options, is_asked=is_asked)
    decision = decide([one for one in deaths if one.job_id not in kept_back], found)
    return _Survey(launches, healing, stands, void, decision)


def _launches(folder: Folder, *, is_to_act: bool) -> dict[str, Launch]:
    found = {}
    for number in launch_numbers(folder):
        try:
            found[number] = read_launch(folder, number)
        except UnreadableLaunch as error:
            if is_to_act:
                raise
            skipped(str(error))
        except JobRefused:  # it has no record: nothing was ever handed over
            continue
    return found


def _deaths(
    folder: Folder,
    table: StateTable,
    launches: Mapping[str, Launch],
    options: Mapping[str, _Options],
    *,
    is_asked: bool,
) -> list[Death]:
    """The jobs that have died so, and that a scheduler has run, under these options of their launches. `is_asked`: it
    was asked which of them it starts again itself."""
    states, found = States(folder), []
    for job_id in table.attempts:
        last = table.standing(job_id)
        if last.state not in _MORTAL:
            continue
        anchor = states.record(job_id, last.number)
        number = str(anchor.get("launch"))
        asked = options[number].get(job_id) if number in options else None
        if scheduler_in(anchor) is None or asked is None or _is_elsewhere(anchor):
            continue
        if not is_asked and comes_back(last.state, _end(folder, job_id, last.number)):
            continue
        kept = (launches[number].record.get("heals") or {}).get("retry")
        retries = kept if isinstance(kept, int) else 0
        found.append(Death(job_id, last.state, table.next_number(job_id), number, *asked, retries))
    return found


def _is_elsewhere(anchor: Mapping[str, Any]) -> bool:
    """Whether an attempt was of another cluster than the one to which we submit: its options are for that one."""
    name, cluster = scheduler_in(anchor), anchor.get("cluster")
    return name is not None and cluster is not None and bool(not_asked({cluster}, schedulers.named(name).asked()))


def _may_be_elsewhere(launch: Launch, submission: Submission) -> bool:
    """Whether somebody has begun to submit a launch to another cluster."""
    scheduler = schedulers.of(launch)
    told = frozenset[str]().union(*(submission.clusters(array.name) for array in launched_arrays(launch)))
    return bool(told) and scheduler is not None and bool(not_asked(told, scheduler.asked()))


def _end(folder: Folder, job_id: int, number: int) -> Mapping[str, Any]:
    return read_optional(folder.of_attempt(job_id, number, "attempt"), END)


def _options_of(launch: Launch) -> _Options:
    found: _Options = {}
    for array in (of_scheduler(launch.record) or {}).get("arrays", ()):
        options = (array.get("options") or {}).items()
        own = {name: value for name, value in options if name not in RULES or is_rule(value)}
        if not RULES.keys().isdisjoint(own):
            found |= dict.fromkeys(parse_ids(array["jobs"]), (str(array["name"]), own))
    return found


def _write(folder: Folder, healed: Launch, group: Group) -> Launch:
    """A launch that submits the jobs of a group again, and its scripts, are on disk."""
    scheduler, record = schedulers.of(healed), of_scheduler(healed.record)
    assert scheduler is not None, "it has arrays"
    kept = next(array["options"] for array in record["arrays"] if array["name"] == group.array)
    where = f"{format_ids(sorted(group.attempts))} of {folder.path}, submitted again"
    values = {**kept, group.retry.option: group.retry.now, "resources_from": None}
    own = scheduler.options(values, where=where)
    own = elsewhere(scheduler, own, nodes_left_out(folder, scheduler.kept(own)))
    ids = sorted(group.attempts)
    arrangement = arranged(folder, scheduler, [(own, ids)], record.get("options") or {})
    about = {name: healed.record[name] for name in _KEPT if healed.record.get(name) is not None}
    about |= {"resubmits": format_ids(ids), "heals": {"launch": healed.number, **group.retry._asdict()}}
    attempts = (Attempt(JobId(job_id), number, State.PENDING) for job_id, number in group.attempts.items())
    launch = create_launch(folder, attempts, {**about, **arrangement.record})
    write_scripts(folder, launch, arrangement, is_newest=False, is_asked_for=False)
    return launch


def _complete(folder: Folder, launch: Launch) -> None:
    """The scripts of a launch are there, also where whoever made it was killed before they were."""
    if not all(is_there(script_paths(folder, launch, array)[1]) for array in launched_arrays(launch)):
        write_scripts(folder, launch, arranged_again(folder, launch), is_newest=False, is_asked_for=False)


def _by_text(found: Mapping[int, str]) -> dict[str, tuple[int, ...]]:
    texts: dict[str, list[int]] = {}
    for job_id, text in sorted(found.items()):
        texts.setdefault(text, []).append(job_id)
    return {text: tuple(ids) for text, ids in texts.items()}


def sentences(found: Healing, path: str) -> list[str]:
    """What came of healing, for people."""
    said = []
    for one in found.healed:
        by = f" as {', '.join(one.slurm_ids)}" if one.slurm_ids else ""
        verb = f"submitted again{by}" if by else "to be submitted again"
        said.append(f"{counted(len(one.jobs))} {verb} in launch {one.launch}: {one.reason} ({which(one.jobs)})")
    said += [f"{counted(len(ids))} given up: {reason} ({which(ids)})" for reason, ids in found.given_up.items()]
    said += [
        f"{counted(len(ids))} left alone: launch {launch} has {'it' if len(ids) == 1 else 'them'} ({which(ids)})"
        for launch, ids in found.left.items()
    ]
    return said or ([] if found.unasked else [f"nothing to heal in {path}"])
