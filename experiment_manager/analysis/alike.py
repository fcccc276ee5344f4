"""Jobs that their variables show wrongly: those that differ in their configurations alone, as of two `--config-name`,
and those that are one configuration under other variables, as where an axis was added that has the default, too.

A mean that mixes the former is of nothing, and one that counts the latter twice is of fewer runs than it says. So the
former have keys in which they differ as variables more, `cfg.batch_size`, and of the latter one counts.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from experiment_manager.analysis.tables import exact_text, repeating
from experiment_manager.model import codec, configurations
from experiment_manager.model.grid import REPEAT, are_one
from experiment_manager.model.ids import shortened, which
from experiment_manager.model.records import ENDED_WELL, Job
from experiment_manager.model.rows import Alike, ResultRow, Rows
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest
from experiment_manager.text import settings_text

_MOST_SIDES: Final = 3
_LONGEST_TEXT: Final = 40


class _Setting(NamedTuple):
    """Jobs of several recipes that agree in all variables but those that repeat a job, and differ in more than that."""

    parts: list[list[Job]]  # by recipe
    texts: list[dict[str, str]]  # of each part, by the keys in which some differ

    @property
    def keys(self) -> Iterable[str]:
        return self.texts[0].keys()


def look_alike(
    folder: Folder, jobs: Sequence[Job], over: Callable[[], Iterable[str]] = tuple
) -> tuple[list[Job], Alike]:
    """The jobs, with the keys of their configurations as variables more that it takes to tell apart those which agree
    in all others but what repeats a job: the seed, and what is named in `over`; and what there is to know of them.

    Jobs of one recipe differ in their overrides alone. So configurations are read where there are several recipes: of
    one job of each recipe and setting. Of jobs that were written in Python nobody knows what their configurations are
    to differ in.
    """
    composed = list(filter(_is_composed, jobs))
    again = jobs_again(composed)
    findings = again_told(again)
    if len({job.recipe for job in composed}) < 2:
        return list(jobs), Alike(again=again, findings=findings)
    with Manifest(folder) as manifest:
        settings = _by_setting(composed, over())
        mixed = list(_mixed(settings, manifest))
        keys = _telling(mixed)
        values = _values(manifest, settings, keys) if keys else {}
    if not keys:
        return list(jobs), Alike(again=again, findings=findings)
    taken = {name for job in jobs for name in job.variables}
    names = {key: _free(f"cfg.{key}", taken) for key in keys}
    nothing = dict.fromkeys(names.values())
    told = [job._replace(variables={**job.variables, **nothing, **_renamed(values.get(job.id), names)}) for job in jobs]
    return told, Alike(tuple(names.values()), again, (_mixed_told(mixed, values, names), *findings))


def _is_composed(job: Job) -> bool:
    return job.fingerprint is not None and job.recipe is not None


def counted_once(rows: Rows[ResultRow]) -> Rows[ResultRow]:
    """The rows, of jobs with one configuration only the first that has ended well: see `Alike.again`."""
    left_out = set[int]()
    states = {row["job"]: row["state"] for row in rows}
    for ids in rows.alike.again:
        there = [job_id for job_id in ids if job_id in states]
        counting = next((job_id for job_id in there if states[job_id] in ENDED_WELL), there[0] if there else None)
        left_out.update(job_id for job_id in there if job_id != counting)
    return Rows((row for row in rows if row["job"] not in left_out), rows.alike)


# ---------------------------------------------------------------- jobs that differ in their configurations alone


def _by_setting(jobs: Iterable[Job], over: Iterable[str]) -> list[tuple[frozenset[str], list[list[Job]]]]:
    """The jobs that agree in all variables but those that repeat a job, which are named, by their recipes."""
    jobs = list(jobs)
    repeats = frozenset(repeating({name for job in jobs for name in job.variables}, frozenset(over)))
    found: dict[str, dict[int | None, list[Job]]] = defaultdict(lambda: defaultdict(list))
    for job in jobs:
        setting = exact_text({name: value for name, value in job.variables.items() if name not in repeats})
        found[setting][job.recipe].append(job)
    return [(repeats, list(parts.values())) for parts in found.values()]


def _mixed(settings: Iterable[tuple[frozenset[str], list[list[Job]]]], manifest: Manifest) -> Iterator[_Setting]:
    """Those whose jobs differ in more than their variables say."""
    for repeats, parts in settings:
        keys: dict[str, None] = {}
        compared = [parts[0][0]]
        for part in parts[1:]:
            one, other = _pair(parts[0], part, repeats)
            keys |= dict.fromkeys(_unsaid(one, other, repeats, manifest))
            compared.append(other)
        if keys:
            yield _Setting(parts, [_texts(manifest.encoded_configuration(job.id), keys) for job in compared])


def _pair(part: Sequence[Job], other: Sequence[Job], repeats: frozenset[str]) -> tuple[Job, Job]:
    """A job of each, which agree also in what repeats a job, if there are two such."""

    def turn(job: Job) -> str:
        return exact_text({name: value for name, value in job.variables.items() if name in repeats})

    turns = {turn(job): job for job in reversed(part)}
    return next(((turns[turn(job)], job) for job in other if turn(job) in turns), (part[0], other[0]))


def _unsaid(one: Job, other: Job, repeats: frozenset[str], manifest: Manifest) -> list[str]:
    """The keys in which the configurations of two jobs differ, and no variable says it. Where what repeats them is no
    key, as a group that is chosen, nobody knows what else follows from it."""
    if one.fingerprint == other.fingerprint:
        return []
    said = {name for name in repeats if exact_text(one.variables.get(name)) != exact_text(other.variables.get(name))}
    said.discard(REPEAT)
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


def _telling(mixed: Sequence[_Setting]) -> tuple[str, ...]:
    """The fewest keys, as far as one finds them one by one, by which all these jobs are told apart."""
    chosen: dict[str, None] = {}
    for setting in mixed:
        while alike := _still_alike(setting, chosen):
            chosen[min(alike[0], key=lambda key: _cost(key, alike))] = None
    return tuple(chosen)


def _still_alike(setting: _Setting, chosen: Iterable[str]) -> list[dict[str, str]]:
    """The texts, in what they differ, of parts that the chosen keys do not tell apart; empty: they tell all."""
    groups: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    for texts in setting.texts:
        groups[tuple(texts.get(key, configurations.ABSENT) for key in chosen)].append(texts)
    for group in groups.values():
        if differ := [key for key in setting.keys if len({texts[key] for texts in group}) > 1]:
            return [{key: texts[key] for key in differ} for texts in group]
    return []


def _cost(key: str, texts: Sequence[Mapping[str, str]]) -> tuple[int, bool, bool, int]:
    """What is to be chosen first: what tells the most apart, is there in all of them, is short, and lies high up."""
    found = {one[key] for one in texts}
    return (-len(found), configurations.ABSENT in found, max(map(len, found)) > _LONGEST_TEXT, key.count("."))


def _values(
    manifest: Manifest, settings: Iterable[tuple[frozenset[str], list[list[Job]]]], keys: Sequence[str]
) -> dict[int, dict[str, Any]]:
    """The values of these keys by job: those of one part have the same."""
    values: dict[int, dict[str, Any]] = {}
    for _, parts in settings:
        for part in parts:
            leaves = configurations.leaves(manifest.encoded_configuration(part[0].id))
            found = {".".join(path): item for path, item in leaves.items()}
            of_part = {key: codec.decode(found.get(key)) for key in keys}
            values |= {int(job.id): of_part for job in part}
    return values


def _renamed(values: Mapping[str, Any] | None, names: Mapping[str, str]) -> dict[str, Any]:
    return {} if values is None else {name: values[key] for key, name in names.items()}


def _free(name: str, taken: Iterable[str]) -> str:
    return name if name not in taken else f"configuration.{name.partition('.')[2]}"


def _mixed_told(
    mixed: Sequence[_Setting], values: Mapping[int, Mapping[str, Any]], names: Mapping[str, str]
) -> tuple[str, str]:
    """`jobs 0-4 differ in lr, of which their variables say nothing: lr=0.1 (jobs 0-3), lr=1 (job 4)`, and a way to tell
    them apart."""
    sides: dict[str, list[int]] = defaultdict(list)
    for job_id in (job.id for setting in mixed for part in setting.parts for job in part):
        sides[settings_text(values[job_id])].append(job_id)
    n_more = len({key for setting in mixed for key in setting.keys} - names.keys())
    shown = ", ".join(f"{shortened(text)} ({which(ids)})" for text, ids in list(sides.items())[:_MOST_SIDES])
    shown += f" and {len(sides) - _MOST_SIDES} more" if len(sides) > _MOST_SIDES else ""
    in_what = ", ".join(names) + (f" and {n_more} more key{'s' * (n_more > 1)}" if n_more else "")
    ids = [job_id for ids in sides.values() for job_id in ids]
    key, value = next(iter(values[ids[0]].items()))
    verb = "tells" if len(names) == 1 else "tell"
    return (
        f"{which(ids)} differ in {in_what}, of which their variables say nothing: {shown}",
        f'{", ".join(names.values())} {verb} them apart, and --where "cfg.{key} == {value!r}" chooses some',
    )


# ---------------------------------------------------------------- jobs that are one configuration


def jobs_again(jobs: Iterable[Job]) -> tuple[tuple[int, ...], ...]:
    """The jobs with one configuration under other variables, see `are_one`: those with the most variables first."""
    by_mark: dict[str | None, list[Job]] = defaultdict(list)
    for job in filter(_is_composed, jobs):
        by_mark[job.fingerprint].append(job)
    found = []
    for alike in by_mark.values():
        if len(alike) < 2 or len({frozenset(job.variables) for job in alike}) < 2:
            continue
        heads = list[list[Job]]()
        for job in sorted(alike, key=lambda job: (-len(job.variables), job.id)):
            head = next((head for head in heads if are_one(head[0].variables, job.variables)), None)
            if head is None:
                heads.append([job])
            else:
                head.append(job)
        found += [tuple(int(job.id) for job in head) for head in heads if len(head) > 1]
    return tuple(found)


def again_told(again: Sequence[Sequence[int]]) -> tuple[tuple[str, str], ...]:
    """What to say of jobs with one configuration, if there are any."""
    if not again:
        return ()
    firsts, others = [ids[0] for ids in again], [job_id for ids in again for job_id in ids[1:]]
    verb, words = ("has", "the configuration") if len(others) == 1 else ("have", "the configurations")
    what = f"{which(others)} {verb} {words} of {which(firsts)}, under other variables"
    return ((what, "--group-by, compare and report count each configuration once"),)
