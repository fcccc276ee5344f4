"""What can be seen of an experiment: on the disk, read without the product, and through every verb; and what must be
true of all that was seen."""

import collections
import contextlib
import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.faults.injector import Done
from tests.faults.scenarios import FOLDER, MOVED, verb

_STATE: Final = re.compile(r"(\d+)\.(\d+)(?:\.([A-Z_]+))?\Z")
_ENDED: Final = frozenset(
    {"COMPLETED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "CANCELLED", "PREEMPTED", "NODE_FAIL", "LOST", "PRUNED", "FAKE"}
)
_UNTRUE: Final = re.compile(
    r"is no experiment|(?:is|are) not there|there is no|there are no|has no\b|do(?:es)? not exist|(?:is|are) gone"
    r"|is missing|no such|nothing to|not in the manifest|cannot be found|another process|is damaged|remove it"
    r"|restore it|(?:save|write) .* again"
)
"""What nobody can say of what could not be looked at: that it is absent, or damaged, or that somebody else has it; and
what nobody should do then."""
_OF_JOBS: Final = re.compile(r"(attempt|error)\.\d+\.json|.*\.log")


class Violation(NamedTuple):
    """A promise that was not kept, and what shows it."""

    promise: str
    evidence: str


class OnDisk(NamedTuple):
    """The files of an experiment, read without the product."""

    folder: str
    has_manifest: bool
    has_pass_filter: bool
    variables: Mapping[int, tuple[str, str | None]]  # of each job, with its fingerprint, once it has one
    search: str | None  # what makes it this one: its ids, and its seed
    held: frozenset[int]
    removed: frozenset[int]
    attempts: Mapping[tuple[int, int], frozenset[str]]  # the names of each: "" for its anchor
    results: Mapping[tuple[int, int], Any]  # what the attempt has left, None where that is no JSON
    records: frozenset[tuple[int, int]]
    frozen: Mapping[str, str]  # the files of frozen configurations, and their hashes
    hidden: frozenset[str]  # files that a write has left half done
    runs: Mapping[tuple[int, int], int]  # how often the task function was called
    returned: frozenset[tuple[int, int]]  # the attempts whose task function came to its end
    beside: frozenset[tuple[int, int]]  # those that began while another process ran the same job
    files: frozenset[str]  # the names of all files of the experiment, without what differs from run to run
    left: Mapping[tuple[int, int], str]  # beside its result, what an attempt has logged, and saved
    said: str  # what jobs have left in words: their errors, and what they have printed
    troubles: tuple[Violation, ...]


def on_disk(home: Path, runs: Path) -> OnDisk:
    """The experiment as it lies there."""
    found = [name for name in (FOLDER, MOVED) if (home / name / "manifest.sqlite").exists()]
    troubles = [Violation("there is one experiment", f"{found}")] if len(found) > 1 else []
    name = found[0] if found else FOLDER
    folder = home / name
    attempts = collections.defaultdict(set)
    for path in _files(folder / "states"):
        if match := _STATE.match(path.name):
            attempts[int(match[1]), int(match[2])].add(match[3] or "")
    results, records = dict[tuple[int, int], Any](), set[tuple[int, int]]()
    for path in _files(folder / "jobs"):
        kind, _, number = path.name.partition(".")
        if kind in ("result", "attempt") and path.suffix == ".json" and path.parent.name.isdecimal():
            key = int(path.parent.name), int(number.partition(".")[0])
            body = None
            with contextlib.suppress(ValueError):
                body = json.loads(path.read_text())
            if kind == "result":
                results[key] = body
            else:
                records.add(key)
    variables, search = _manifest(folder / "manifest.sqlite", troubles)
    return OnDisk(
        folder=name,
        has_manifest=bool(found),
        has_pass_filter=(folder / "pass_filter.json").exists(),
        variables={**_proposed(folder / "proposals"), **variables},
        search=search,
        held=_marked(folder / "held"),
        removed=_marked(folder / "removed"),
        attempts={key: frozenset(names) for key, names in attempts.items()},
        results=results,
        records=frozenset(records),
        frozen={str(path.relative_to(folder)): _hash(path) for path in _files(folder / "conf") if not _is_hidden(path)},
        hidden=frozenset(str(path.relative_to(home)) for path in _files(home) if _is_hidden(path)),
        runs=_runs(runs),
        returned=frozenset((job, attempt) for job, attempt, what in _noted(runs) if what == "returns"),
        beside=frozenset((job, attempt) for job, attempt, what in _noted(runs) if what.startswith("beside:")),
        files=frozenset(kind_of(str(path.relative_to(home))) for path in _files(folder) if not _is_hidden(path)),
        left=_left(folder / "jobs"),
        said="\n".join(
            path.read_text(errors="replace") for path in _files(folder / "jobs") if _OF_JOBS.fullmatch(path.name)
        ),
        troubles=tuple(troubles),
    )


def _files(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in sorted(names))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") and part.endswith((".tmp", ".reserve")) for part in path.parts)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _marked(folder: Path) -> frozenset[int]:
    return frozenset(int(path.name) for path in _files(folder) if path.name.isdecimal())


def _proposed(folder: Path) -> dict[int, tuple[str, str | None]]:
    """The jobs that a search has proposed, as the manifest will have them."""
    found = [path for path in _files(folder) if path.stem.isdecimal() and path.suffix == ".json"]
    return {int(path.stem): (_text(json.loads(path.read_text())["variables"]), None) for path in found}


def _text(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _manifest(path: Path, troubles: list[Violation]) -> tuple[dict[int, tuple[str, str | None]], str | None]:
    """The jobs of a manifest, and its search."""
    if not path.exists():
        return {}, None
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as connection:
            if connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                troubles.append(Violation("the manifest opens", "integrity_check"))
            rows = connection.execute("SELECT id, variables, fingerprint FROM jobs").fetchall()
            is_one = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'searches'").fetchone()
            searches = connection.execute("SELECT body FROM searches").fetchall() if is_one else []
    except sqlite3.Error as error:
        troubles.append(Violation("the manifest opens", str(error)))
        return {}, None
    bodies = [json.loads(body) for (body,) in searches]
    search = "; ".join(f"ids {body['ranges']}, seed {body['seed']}" for body in bodies)
    return {job: (variables, fingerprint) for job, variables, fingerprint in rows}, search or None


def _left(jobs: Path) -> dict[tuple[int, int], str]:
    """What attempts of the programs have logged, as they log it, without the time; and what they have saved."""
    found = dict[tuple[int, int], str]()
    for path in sorted(jobs.glob("*/metrics.*.jsonl")):
        lines = [line for line in path.read_text(errors="replace").splitlines() if line]
        key = int(path.parent.name), int(path.name.split(".")[1])
        with contextlib.suppress(ValueError, KeyError):
            found[key] = _text([{**json.loads(line), "time": None} for line in lines])
    for path in sorted(jobs.glob("*/big.json")):
        for job, attempt in [_number_of(one) for one in sorted(path.parent.glob("result.*.json"))]:
            with contextlib.suppress(ValueError):
                found[job, attempt] = found.get((job, attempt), "") + _text(json.loads(path.read_text()))
    return found


def _number_of(path: Path) -> tuple[int, int]:
    return int(path.parent.name), int(path.name.split(".")[1])


def kind_of(path: str) -> str:
    """A path without what differs from job to job and from run to run.

    >>> kind_of("jobs/7/.result.1.json.0badcafe-1-77-0123456789abcdef.tmp")
    'jobs/N/.result.N.json.T.tmp'
    """
    path = re.sub(r"[0-9a-f]{8}-\d+-\d+-[0-9a-f]{16}", "T", path)
    path = re.sub(r"\d+", "N", re.sub(r"[0-9a-f]{16,}", "H", path))
    return re.sub(r"/(conf|code)/([^/]+)/.+", r"/\1/\2/...", path)  # copies of any files


def _runs(path: Path) -> dict[tuple[int, int], int]:
    return collections.Counter((job, attempt) for job, attempt, what in _noted(path) if what.isdecimal())


def _noted(path: Path) -> Iterator[tuple[int, int, str]]:
    for line in path.read_text().splitlines() if path.exists() else []:
        job, attempt, what = line.split()
        yield int(job), int(attempt), what


def truths_on_disk(now: OnDisk, earlier: OnDisk | None) -> Iterator[Violation]:
    """What is not as it must be in the files, at any time at which nothing runs."""
    yield from now.troubles
    if not now.has_manifest and (now.attempts or now.runs):
        yield Violation("the manifest is there", f"{len(now.attempts)} attempts without one")
    for key, names in now.attempts.items():
        states = names - {"", "RUNNING"}
        if "" not in names or len(states) > 1 or (states and "RUNNING" in names):
            yield Violation("each attempt has one anchor and one end", f"{key}: {sorted(names)}")
        result = now.results.get(key)
        is_whole = isinstance(result, dict) and (result.get("result") or {}).get("score") is not None
        if "COMPLETED" in names and not is_whole and key[0] not in now.removed:
            yield Violation("COMPLETED implies a whole result", f"{key}: {result}")
        if "COMPLETED" in names and now.runs.get(key) != 1:
            yield Violation("the task function ran as often as attempts say", f"{key} ran {now.runs.get(key, 0)} times")
    for key, count in now.runs.items():
        if count > 1 or key not in now.attempts:
            yield Violation("the task function ran as often as attempts say", f"{key} ran {count} times")
    done = dict[int, int]()
    for job, number in sorted(now.attempts, reverse=True):
        if "COMPLETED" in now.attempts[job, number]:
            done[job] = number  # the first one
    for job, number in now.attempts:
        if number > done.get(job, number):
            yield Violation("nothing COMPLETED runs again", f"job {job}: attempt {number} after {done[job]}")
    for key in sorted(now.beside):
        yield Violation("no job runs in two processes at once", f"{key}")
    yield from _not_kept(now, earlier)


def _not_kept(now: OnDisk, earlier: OnDisk | None) -> Iterator[Violation]:
    """What was there and is not, or is another."""
    if earlier is None:
        return
    for job, (variables, fingerprint) in earlier.variables.items():
        there = now.variables.get(job)
        if there is None or there[0] != variables or fingerprint not in (None, there[1]):
            yield Violation("ids and variables do not move", f"job {job}: {variables} {fingerprint}, and now {there}")
    if earlier.has_pass_filter and not now.has_pass_filter:
        yield Violation("a pass filter stays", "there is none any more")
    if earlier.search not in (None, now.search):
        yield Violation("a search stays the one that it is", f"{earlier.search}, and now {now.search}")
    if changed := dict(earlier.frozen.items() - now.frozen.items()):
        yield Violation("frozen configurations do not change", f"{changed}")
    for key, names in earlier.attempts.items():
        ended = names & _ENDED
        if ended and not ended <= now.attempts.get(key, frozenset()):
            yield Violation(
                "an end does not change", f"{key}: {sorted(names)}, then {sorted(now.attempts.get(key, ()))}"
            )
        if "COMPLETED" in names and earlier.results.get(key) != now.results.get(key) and key[0] not in now.removed:
            yield Violation("a finished result stays", f"{key}")


# ---------------------------------------------------------------- through the verbs

Look = Callable[[tuple[str, ...]], Done]


class Told(NamedTuple):
    """What the verbs tell of each job."""

    variables: Mapping[int, Any]
    states: Mapping[int, str]
    results: Mapping[int, Any]
    selected: frozenset[int]
    held: frozenset[int]
    removed: frozenset[int]


def told(look: Look, disk: OnDisk, *, waits: bool, runs: bool = False) -> tuple[Told | None, list[Violation]]:
    """What jobs, results and status say, and where that is not the truth; `waits`: the scheduler may have jobs; `runs`:
    a job may run."""
    wrong = list[Violation]()
    jobs = _json(look, wrong, disk, "jobs")
    if jobs is None:
        return None, wrong
    rows = _json(look, wrong, disk, "results") or []
    status = _json(look, wrong, disk, "status") or {"jobs": {}}
    found = Told(
        {job["job"]: job["variables"] for job in jobs},
        {job["job"]: job["state"] for job in jobs},
        {row["job"]: (row["result"] or {}).get("score") for row in rows},
        frozenset(job["job"] for job in jobs if job["selected"]),
        frozenset(status.get("held", ())),
        frozenset(status.get("removed", ())),
    )
    if (found.held, found.removed) != (disk.held, disk.removed):
        wrong.append(Violation("every verb tells the truth", f"held {found.held}, removed {found.removed}"))
    if set(found.states) != set(disk.variables) - disk.removed:
        wrong.append(Violation("every verb tells the truth", f"jobs tells {sorted(found.states)}"))
    by_status = {job: state for state, ids in status["jobs"].items() for job in ids}
    if by_status != found.states:
        wrong.append(Violation("every verb tells the truth", f"status: {by_status}, jobs: {found.states}"))
    for job, state in found.states.items():
        if (state == "RUNNING" and not runs) or (state == "QUEUED" and not waits):
            wrong.append(Violation("nothing is RUNNING or QUEUED for ever", f"job {job} is {state}"))
        if state == "COMPLETED" and found.results.get(job) != found.variables[job].get("x", 0) * 10:
            wrong.append(Violation("a finished result is told", f"job {job}: {found.results.get(job)}"))
        if state != "COMPLETED" and any("COMPLETED" in disk.attempts[key] for key in disk.attempts if key[0] == job):
            wrong.append(Violation("every verb tells the truth", f"job {job} is COMPLETED and is told to be {state}"))
    return found, wrong


def _json(look: Look, wrong: list[Violation], disk: OnDisk, name: str) -> Any:
    done = look(verb(name, "--json", folder=disk.folder))
    if done.status == 0 and not done.err.strip():
        return json.loads(done.out)
    if not disk.has_manifest and done.status == 2 and is_sentence(done.err):
        return None
    wrong.append(Violation("every verb answers", f"{name} ended with {done.status}: {done.err[-400:]}"))
    return json.loads(done.out) if done.status == 0 else None


def other_verbs(look: Look, disk: OnDisk, *, lies_elsewhere: bool = False) -> Iterator[Violation]:
    """Of the other verbs, those that fail; `lies_elsewhere`: what jobs have left lies outside of the experiment, as of
    the sweepers of others, and no archive has it."""
    if not disk.has_manifest:
        return
    asked = [("status",), ("results",), ("jobs",), ("report", "--out", "seen.html")]
    asked += [("archive", "--all", "--out", "seen.tar.gz"), ("filter",)]
    for job in sorted(set(disk.variables) - disk.removed)[:1]:
        asked += [("show", str(job))]
        asked += [("logs", str(job))] if any(key[0] == job for key in disk.attempts) else []
    asked += [("efficiency",), ("doctor",)]
    calls = [verb(*words, folder=disk.folder) for words in asked if words != ("filter",) or disk.has_pass_filter]
    for words in [*calls, ("-m", "experiment_manager", "list", "experiments")]:
        done = look(words)
        is_partly = lies_elsewhere and words[2] == "archive" and done.status == 3 and "skipped: " in done.err
        is_partly |= words[2] == "doctor" and done.status == 1 and bool(done.out.strip())  # where something is odd
        if (done.status != 0 and not is_partly) or "Traceback" in done.err:
            yield Violation("every verb answers", f"{words[2]} ended with {done.status}: {done.err[-400:]}")


def untruths(said: str, usual: str) -> list[str]:
    """The lines that say of something that it is not there, in words that are not said where all can be seen.

    >>> untruths("error: /x is no experiment", "error: /x has no jobs")
    ['error: /x is no experiment']
    """
    known = set(_UNTRUE.findall(usual))
    return [line for line in said.splitlines() if set(_UNTRUE.findall(line)) - known]


def is_sentence(said: str) -> bool:
    """Whether a command that was refused has ended with one sentence that says why."""
    lines = said.strip().splitlines()
    return bool(lines) and lines[-1].startswith("error: ") and "Traceback" not in said
