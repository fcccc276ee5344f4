"""Jobs that their variables show wrongly: those that differ in their configurations alone, as of two `--config-name`,
and those that are one configuration, as where an axis was added that has the default, too, or another sweeper, which
makes new jobs whenever it is started, was started twice.

A mean of the former is of different jobs, which is told where one is made, with the keys that keep them apart where
they are named. Of the latter one counts.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from typing import Final, NamedTuple

from experiment_manager.analysis.tables import exact_text, repeating
from experiment_manager.model import codec, configurations
from experiment_manager.model.facts import CONFIGURATION
from experiment_manager.model.grid import REPEAT, may_be_one
from experiment_manager.model.ids import format_ids, which
from experiment_manager.model.records import ENDED, ENDED_WELL, Job
from experiment_manager.model.rows import ResultRow
from experiment_manager.model.secrets import masked
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest
from experiment_manager.text import as_word, one_line

_MOST_KEYS: Final = 3
_MOST_SIDES: Final = 3
_LONGEST_KEY: Final = 40
_LONGEST_LINE: Final = 200
_TYPED: Final = re.compile(r"[\w@/+-]+(\.[\w@/+-]+)*")
"""What can be typed in a list of names, and is read as the same key."""


# ---------------------------------------------------------------- jobs that differ in their configurations alone


class Mixed(NamedTuple):
    """In what jobs of one mean differ that no variable says: the keys that tell them apart, the fewest that do, and
    how many differ besides; and the jobs, by the values of these keys."""

    keys: tuple[str, ...]
    n_more: int
    sides: tuple[tuple[int, ...], ...]
    are_apart: bool  # by these keys

    def told(self, option: str, named: Sequence[str]) -> str:
        """A line of no more than some 200 letters, with a way to keep the jobs apart by an option that names others."""
        what = f"means mix jobs that differ in {self.names}"
        jobs = "; ".join(map(which, self.sides[:_MOST_SIDES])) + "; ..." * (len(self.sides) > _MOST_SIDES)
        ways = self.way_out(option, named), self.way_out(option, ())
        lines = [f"{about}: {way}" for about in (f"{what} ({jobs})", what) for way in ways]
        some = f"{what}; {CONFIGURATION}.KEY in {option} keeps them apart"
        return next((line for line in lines if len(line) <= _LONGEST_LINE), some)

    def way_out(self, option: str, named: Sequence[str]) -> str:
        """`--group-by lr,cfg.batch_size keeps them apart`; without others that are named, `cfg.batch_size in ...`."""
        typed = [f"{CONFIGURATION}.{key}" for key in self.keys if _is_typed(key)]
        if not typed:
            return "choose some of them with --where"
        names = as_word(",".join((*named, *typed)))
        which_ones = "them" if self.are_apart and len(typed) == len(self.keys) else "some of them"
        return f"{f'{option} {names}' if named else f'{names} in {option}'} keeps {which_ones} apart"

    @property
    def names(self) -> str:
        """`batch_size and 2 more`, without any value."""
        keys = map(one_line, self.keys)
        shown = [key if len(key) <= _LONGEST_KEY else f"{key[:_LONGEST_KEY]}..." for key in keys]
        return ", ".join(shown) + (f" and {self.n_more} more" if self.n_more else "")


class _Parts(NamedTuple):
    """Jobs of one mean by their recipes, and of each recipe the texts of the keys in which they differ."""

    ids: list[list[int]]
    texts: list[dict[str, str]]


def mixing(folder: Folder, groups: Iterable[Collection[int]]) -> Mixed | None:
    """In what jobs of one group differ, in any of the groups, beside their variables; None where they do not.

    Jobs of one recipe differ in their overrides alone. So configurations are read where a group has several recipes: of
    one job of each. Of jobs that were written in Python nobody knows what their configurations are to differ in.
    """
    groups = [group for group in groups if len(group) > 1]
    wanted = {job_id for group in groups for job_id in group}
    if not wanted:
        return None
    with Manifest(folder) as manifest:
        jobs = {int(job.id): job for job in manifest.jobs() if job.id in wanted and _is_composed(job)}
        if len({job.recipe for job in jobs.values()}) < 2:
            return None
        found = [_parts([jobs[job_id] for job_id in sorted(group) if job_id in jobs], manifest) for group in groups]
    mixed = [parts for parts in found if parts is not None]
    if not mixed:
        return None
    keys, are_apart = _telling(mixed)
    sides: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for parts in mixed:
        for ids, texts in zip(parts.ids, parts.texts, strict=True):
            sides[_of(texts, keys)] += ids
    n_more = len({key for parts in mixed for key in parts.texts[0]} - {*keys})
    return Mixed(keys, n_more, tuple(map(tuple, sides.values())), are_apart)


def _is_composed(job: Job) -> bool:
    return job.fingerprint is not None and job.recipe is not None


def _parts(jobs: Sequence[Job], manifest: Manifest) -> _Parts | None:
    """The jobs of one mean, where they differ in more than their variables say."""
    by_recipe: dict[int | None, list[Job]] = defaultdict(list)
    for job in jobs:
        by_recipe[job.recipe].append(job)
    first, *others = by_recipe.values() if by_recipe else [[]]
    keys, compared = dict[str, None](), first[:1]
    for part in others:
        one, other = _pair(first, part)
        keys |= dict.fromkeys(_unsaid(one, other, manifest))
        compared.append(other)
    if not keys:
        return None
    texts = [_texts(manifest.encoded_configuration(job.id), keys) for job in compared]
    return _Parts([[int(job.id) for job in part] for part in by_recipe.values()], texts)


def _pair(part: Sequence[Job], other: Sequence[Job]) -> tuple[Job, Job]:
    """A job of each, which differ in nothing that is said if there are two such, else in what repeats a job."""
    repeats = frozenset(repeating({name for job in (*part, *other) for name in job.variables}))
    for but in (frozenset[str](), repeats):
        texts = {_setting(job, but): job for job in reversed(part)}
        for job in other:
            if (one := texts.get(_setting(job, but))) is not None:
                return one, job
    return part[0], other[0]


def _setting(job: Job, but: Collection[str]) -> str:
    return exact_text({name: value for name, value in job.variables.items() if name not in but})


def _unsaid(one: Job, other: Job, manifest: Manifest) -> list[str]:
    """The keys in which the configurations of two jobs differ, and no variable says it. Where a variable is no key, as
    a group that is chosen, nobody knows what else follows from it."""
    if one.fingerprint == other.fingerprint:
        return []
    names = one.variables.keys() | other.variables.keys()
    differ = {name for name in names if exact_text(one.variables.get(name)) != exact_text(other.variables.get(name))}
    said = {name.lstrip("+~") for name in differ if name != REPEAT and not name.startswith("hydra.")}
    if _own_keys(manifest, one, other) <= said:
        return []
    before, after = (manifest.encoded_configuration(job.id) for job in (one, other))
    there = {".".join(path) for side in (before, after) for path in configurations.leaves(side)}
    if not said <= there:
        return []
    return [change.key for change in configurations.compare(before, after) if change.key not in said]


def _own_keys(manifest: Manifest, one: Job, other: Job) -> set[str]:
    """The keys in which jobs differ that are stored by one base; of others the root, which is no name of a variable."""
    mine, theirs = manifest.own_leaves(one.id), manifest.own_leaves(other.id)
    if mine is None or theirs is None or mine[0] != theirs[0]:
        return {""}
    texts, others = ({path: exact_text(item) for path, item in leaves.items()} for _, leaves in (mine, theirs))
    return {".".join(path) for path in texts.keys() | others.keys() if texts.get(path) != others.get(path)}


def _texts(encoded: codec.Encoded, keys: Iterable[str]) -> dict[str, str]:
    found = {".".join(path): item for path, item in configurations.leaves(encoded).items()}
    return {key: codec.canonical(found[key]) if key in found else configurations.ABSENT for key in keys}


def _of(texts: Mapping[str, str], keys: Iterable[str]) -> tuple[str, ...]:
    return tuple(texts.get(key, configurations.ABSENT) for key in keys)


def _telling(mixed: Sequence[_Parts]) -> tuple[tuple[str, ...], bool]:
    """The fewest keys, as far as one finds them one by one, by which these jobs are told apart, and whether all are."""
    chosen: dict[str, None] = {}
    for parts in mixed:
        while still := _still_alike(parts, chosen):
            if len(chosen) == _MOST_KEYS:
                return tuple(chosen), False
            chosen[min(still[0], key=lambda key: _cost(key, still))] = None
    return tuple(chosen), True


def _still_alike(parts: _Parts, chosen: Iterable[str]) -> list[dict[str, str]]:
    """The texts, in what they differ, of parts that the chosen keys do not tell apart; empty: they tell all."""
    groups: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    for texts in parts.texts:
        groups[_of(texts, chosen)].append(texts)
    for group in groups.values():
        if differ := [key for key in group[0] if len({texts[key] for texts in group}) > 1]:
            return [{key: texts[key] for key in differ} for texts in group]
    return []


def _cost(key: str, texts: Sequence[Mapping[str, str]]) -> tuple[bool, bool, int, bool, bool, int]:
    """What is to be chosen first: what is no secret and can be typed, tells the most apart, is there in all of them,
    is short, and lies high up."""
    found = {one[key] for one in texts}
    is_secret = masked(f"{key}=x") != f"{key}=x"
    return (
        is_secret,
        not _is_typed(key),
        -len(found),
        configurations.ABSENT in found,
        len(key) > _LONGEST_KEY,
        key.count("."),
    )


def _is_typed(key: str) -> bool:
    return _TYPED.fullmatch(key) is not None


# ---------------------------------------------------------------- jobs that are one configuration


def counted_once(folder: Folder, rows: Sequence[ResultRow]) -> tuple[list[ResultRow], str | None]:
    """The rows, of jobs that are one configuration only the first that has ended well; and what to say of those that
    are left out."""
    states = {row["job"]: row["state"] for row in rows}
    with Manifest(folder) as manifest:
        again = jobs_again(job for job in manifest.of_one_configuration() if job.id in states)
    left_out, hidden = list[int](), list[int]()
    for place, ids in enumerate(again):
        counts = next((job_id for job_id in ids if states[job_id] in ENDED_WELL), ids[0])
        others = [job_id for job_id in ids if job_id != counts]
        again[place] = [counts, *others]
        left_out += others
        hidden += [job_id for job_id in others if states[counts] in ENDED_WELL and states[job_id] in ENDED]
    if not left_out:
        return list(rows), None
    names = {row["job"]: row["variables"].keys() for row in rows}
    note = f"{_again_told(again, names)}, and {'is' if len(left_out) == 1 else 'are'} not counted again"
    if hidden:
        ids_text = format_ids(hidden)
        note += f"; `experiment-manager remove {as_word(folder.path)} {ids_text}` hides {which(hidden)}"
    dropped = frozenset(left_out)
    return [row for row in rows if row["job"] not in dropped], note


def jobs_again(jobs: Iterable[Job]) -> list[list[int]]:
    """The jobs with one configuration, see `may_be_one`: those with the most variables first."""
    by_mark: dict[str | None, dict[frozenset[str], list[Job]]] = defaultdict(lambda: defaultdict(list))
    for job in filter(_is_composed, jobs):
        by_mark[job.fingerprint][frozenset(job.variables)].append(job)
    return [ids for by_names in by_mark.values() for ids in _again(by_names)]


def _again(by_names: Mapping[frozenset[str], Sequence[Job]]) -> list[list[int]]:
    """Of jobs with one fingerprint, by the names of their variables. Each is looked up among those before, by the
    values of the names that both have: many repeats cost no more than as many jobs."""
    heads: dict[frozenset[str], list[Job]] = {}
    found: dict[int, list[int]] = {}
    for names, jobs in sorted(by_names.items(), key=lambda item: (-len(item[0]), item[1][0].id)):
        known: list[tuple[frozenset[str], dict[str, Job]]] = []
        for others, firsts in heads.items():
            if may_be_one(names, others):
                shared = names & others
                known.append((shared, {_shared(job, shared): job for job in reversed(firsts)}))
        own: dict[str, Job] = {}
        for job in jobs:
            head = next((one for shared, by_text in known if (one := by_text.get(_shared(job, shared)))), None)
            head = head or own.setdefault(_shared(job, names), job)
            if head is not job:
                found.setdefault(int(head.id), [int(head.id)]).append(int(job.id))
        heads[names] = list(own.values())
    return list(found.values())


def _shared(job: Job, names: Collection[str]) -> str:
    return exact_text({name: job.variables[name] for name in names})


def again_told(again: Sequence[Sequence[int]], jobs: Iterable[Job]) -> str:
    """What to say of jobs with one configuration, the first of which counts; they are among those `jobs`."""
    told = _again_told(again, {int(job.id): job.variables.keys() for job in jobs})
    return f"{told}; --group-by, compare and report count each configuration once"


def _again_told(again: Iterable[Sequence[int]], names: Mapping[int, Set[str]]) -> str:
    pairs = [(job_id, ids[0]) for ids in again for job_id in ids[1:]]
    verb, words = ("has", "the configuration") if len(pairs) == 1 else ("have", "the configurations")
    under = ", under other variables" if any(names[one] != names[first] for one, first in pairs) else ""
    return f"{which({one for one, _ in pairs})} {verb} {words} of {which({first for _, first in pairs})}{under}"
