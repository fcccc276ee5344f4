"""Stages: jobs that begin when jobs of another experiment, their upstream, have completed. Values without I/O.

A job comes after the jobs of the other experiment that have the same values of all variables which the two experiments
share: one of them where it has all of the other's variables, several where it lacks some, as the seed that it is to
take the mean over. Or it comes after all of them.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from experiment_manager.errors import ExperimentManagerError, JobRefused, OptionsError
from experiment_manager.model import codec
from experiment_manager.model.codec import as_float, is_number
from experiment_manager.model.ids import format_ids, parse_ids
from experiment_manager.model.records import ENDED, State
from experiment_manager.text import as_word, noun, settings_text

MATCHING: Final = "matching"
ALL: Final = "all"
_EXAMPLE: Final = "write its folder, or {experiment: experiments/train, jobs: all}"
_MOST_NAMED: Final = 3


class After(NamedTuple):
    """What the jobs of a launch come after."""

    experiment: str  # its folder, as people have written it
    jobs: str = MATCHING  # or ALL

    @property
    def words(self) -> str:
        return f"all jobs of {self.experiment}" if self.jobs == ALL else f"the jobs of {self.experiment} that match"


def checked(value: Any, *, where: str) -> After | None:
    """The option as people have written it; None: its jobs come after none. Raises OptionsError; `where` comes before
    the option's name.

    >>> checked("experiments/train", where=""), checked({"experiment": "e", "jobs": "all"}, where="")
    (After(experiment='experiments/train', jobs='matching'), After(experiment='e', jobs='all'))
    """
    if value is None:
        return None
    body = value if isinstance(value, Mapping) else {"experiment": value}
    experiment, jobs = body.get("experiment"), body.get("jobs", MATCHING)
    if not isinstance(experiment, str) or not experiment or set(body) - {"experiment", "jobs"}:
        raise OptionsError(f"{where}after={_shown(value)} names no experiment; {_EXAMPLE}")
    if jobs not in (MATCHING, ALL):
        raise OptionsError(f"{where}after.jobs={jobs} is not known; use {MATCHING}, {ALL}")
    return After(experiment, jobs)


def _shown(value: Any) -> str:
    return "{" + settings_text(value) + "}" if isinstance(value, Mapping) else str(value)


def paired(
    own: Mapping[int, Mapping[str, Any]], theirs: Mapping[int, Mapping[str, Any]], after: After
) -> dict[int, tuple[int, ...]]:
    """The upstream of each job of `own`, ascending; both are variables by job. Raises JobRefused where the experiments
    share no variable, and for a job that would come after none.

    >>> theirs = {0: {"lr": 1, "seed": 1}, 1: {"lr": 1, "seed": 2}, 2: {"lr": 2, "seed": 1}}
    >>> paired({7: {"lr": 1}, 8: {"lr": 2}}, theirs, After("train"))
    {7: (0, 1), 8: (2,)}
    >>> paired({7: {}}, theirs, After("train", ALL))
    {7: (0, 1, 2)}
    """
    where = after.experiment
    if not theirs:
        raise JobRefused(f"{where} has no job that others could come after; sweep there first")
    if after.jobs == ALL:
        return dict.fromkeys(own, tuple(sorted(theirs)))
    names = set[str]().union(*theirs.values())
    shared = {job_id: tuple(sorted(names.intersection(variables))) for job_id, variables in own.items()}
    if not all(shared.values()):
        raise JobRefused(
            f"these jobs share no variable with those of {where}, which has {', '.join(sorted(names)) or 'none'}; "
            f"sweep one of them here, too, or let each job come after all of them with "
            f"hydra.launcher.after='{{experiment: {where}, jobs: all}}'"
        )
    found: dict[tuple[tuple[str, ...], str], list[int]] = {}
    for those in set(shared.values()):
        for job_id, variables in sorted(theirs.items()):
            found.setdefault((those, _key(variables, those)), []).append(job_id)
    pairs = {
        job_id: tuple(found.get((shared[job_id], _key(variables, shared[job_id])), ()))
        for job_id, variables in own.items()
    }
    if lost := [job_id for job_id, ids in pairs.items() if not ids]:
        named = "; ".join(settings_text(_values(own[job_id], shared[job_id])) for job_id in lost[:_MOST_NAMED])
        more = f" and {len(lost) - _MOST_NAMED} more" if len(lost) > _MOST_NAMED else ""
        raise JobRefused(f"{where} has no job with {named}{more}; sweep it there first, or drop it here by a filter")
    return pairs


def _values(variables: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: variables[name] for name in names if name in variables}


def _key(variables: Mapping[str, Any], names: Iterable[str]) -> str:
    """Equal for equal values, also where one was typed as 1 and the other as 1.0."""
    values = {name: as_float(v) if is_number(v) else v for name, v in _values(variables, names).items()}
    return codec.canonical(codec.encode(values))


def kept(experiment: str, relative: str, pairs: Mapping[int, Sequence[int]]) -> dict[str, Any]:
    """What the record of a launch keeps of the upstream of its jobs, in the folder `experiment`, which lies at
    `relative` from that of the launch; see `upstream`.

    `offsets` has the jobs that come after one, by what their ids differ; `groups` those that come after several, by
    these.

    >>> kept("/train", "../train", {3: (0,), 4: (1,), 7: (0, 1), 8: (0, 1)})
    {'experiment': '/train', 'relative': '../train', 'offsets': {'-3': '3-4'}, 'groups': {'0-1': '7-8'}}
    """
    offsets: dict[str, list[int]] = {}
    groups: dict[str, list[int]] = {}
    for job_id, ids in sorted(pairs.items()):
        if len(ids) == 1:
            offsets.setdefault(str(ids[0] - job_id), []).append(job_id)
        else:
            groups.setdefault(format_ids(ids), []).append(job_id)
    texts = ({key: format_ids(ids) for key, ids in found.items()} for found in (offsets, groups))
    return {"experiment": experiment, "relative": relative, **dict(zip(("offsets", "groups"), texts, strict=True))}


def trouble(record: Any) -> str | None:
    """The fault in what the record of a launch keeps of that; None: there is none."""
    try:
        orders = by_job(record)
        for job_id in orders:
            upstream(orders[job_id], job_id)
    except (ExperimentManagerError, AttributeError, LookupError, TypeError, ValueError):
        return "its upstream is none"
    return None


def by_job(record: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """What a job's order says of its upstream, from what the record of its launch keeps: see `upstream`. Raises
    ValueError, TypeError or LookupError for a record that was edited."""
    found: dict[int, dict[str, Any]] = {}
    place = {"experiment": str(record["experiment"]), "relative": str(record["relative"])}
    orders = [({"offset": int(offset)}, ids) for offset, ids in record["offsets"].items()]
    orders += [({"jobs": group}, ids) for group, ids in record["groups"].items()]
    for own, ids in orders:
        order = {**place, **own}
        found.update((job_id, order) for job_id in parse_ids(ids))
    return found


def upstream(order: Mapping[str, Any], job_id: int) -> tuple[int, ...]:
    """The jobs that a job comes after, by what its order says.

    >>> upstream({"experiment": "/train", "offset": -3}, 7), upstream({"experiment": "/train", "jobs": "0-2"}, 7)
    ((4,), (0, 1, 2))
    """
    return (job_id + int(order["offset"]),) if "offset" in order else tuple(parse_ids(order["jobs"]))


class Standing(NamedTuple):
    """Whether a job may begin, by what its upstream has come to."""

    waits_for: tuple[int, ...] = ()  # those that have not ended
    never: str | None = None  # why it cannot begin, for people; None: it may, now or later
    path: str = ""  # of their experiment

    @property
    def why_not(self) -> str | None:
        """Why it does not begin now, for people; None: it may."""
        return self.never or (not_completed(self.waits_for, self.path) if self.waits_for else None)


def standing(states: Mapping[int, State], path: str) -> Standing:
    """Of a job whose upstream, in the experiment at `path`, is in these states.

    >>> standing({3: State.COMPLETED, 4: State.RUNNING}, "train").waits_for
    (4,)
    >>> standing({3: State.FAILED, 4: State.RUNNING}, "train").never
    'job 3 of train, which it comes after, is FAILED'
    """
    bad = {
        job_id: state
        for job_id, state in states.items()
        if state in ENDED and state not in (State.COMPLETED, State.FAKE)
    }
    if bad:
        return Standing(never=why_never(bad, path))
    return Standing(tuple(job_id for job_id, state in states.items() if state is not State.COMPLETED), path=path)


def not_completed(ids: Sequence[int], path: str) -> str:
    """Why a job does not begin whose upstream has not ended.

    >>> not_completed([3], "train")
    'job 3 of train, which it comes after, has not completed'
    """
    return f"{_named(ids, path)} {'has' if len(ids) == 1 else 'have'} not completed"


def why_never(states: Mapping[int, State], path: str) -> str:
    """Why a job cannot begin that comes after jobs in such states.

    >>> why_never({3: State.FAILED, 4: State.TIMEOUT}, "train")
    'jobs 3-4 of train, which it comes after, are 1 FAILED, 1 TIMEOUT'
    """
    counts = Counter(states.values())
    words = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
    verb = f"is {words.partition(' ')[2]}" if len(states) == 1 else f"are {words}"
    return f"{_named(states, path)} {verb}"


def _named(ids: Collection[int], path: str) -> str:
    return f"{noun(len(ids))} {format_ids(sorted(ids))} of {as_word(path)}, which it comes after,"
