"""`make faults`: every fault at every call of every scenario, on all processors, and the table of what came of it.

    python -m tests.faults --minutes 60 --scenarios sweep,submit --faults kill,enospc --results faults.jsonl
    python -m tests.faults --one submit kill 17        one of them, with all that it shows

Each fault first meets each kind of call, on each kind of file, once, in whichever scenario; then in every scenario one
call of each kind, then the second of each, and so on: where the time is over before all of them were tried, what was
tried is spread evenly, and what was not is named. A run with the same file of results goes on where the earlier one
ended, as long as neither the package nor the harness has changed since: what was tried of other code is tried again.
"""

import argparse
import collections
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, Final, NamedTuple

from experiment_manager.model.ids import format_ids
from tests.faults.injector import FAULTS, KINDS, NoCompiler, compiled
from tests.faults.scenarios import SCENARIOS
from tests.faults.trial import Kind, Laboratory, kinds_first

PROJECT: Final = Path(__file__).parent.parent.parent
_TRIED: Final = ("experiment_manager", "hydra_plugins", "tests/faults")
"""What decides whether a trial says something of another one: the package, and what is asked of it."""

_SPACE: Final = 1 << 30
"""More bytes than the experiments of all workers need."""

_ours: Laboratory | None = None  # of a process that tries


class Pair(NamedTuple):
    """A scenario with a fault."""

    scenario: str
    fault: str


Row = Mapping[str, Any]
Task = tuple[Pair, int]


def code_of(project: Path) -> str:
    """What is tried: the commit, and a hash of the files as they lie there, whether they are committed or not."""
    found = hashlib.sha256()
    for path in sorted(path for name in _TRIED for path in (project / name).rglob("*") if path.is_file()):
        if path.suffix != ".pyc":
            found.update(f"{path.relative_to(project)} ".encode() + hashlib.sha256(path.read_bytes()).digest())
    asked = ["git", "-C", str(project), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() or "no commit"
    return f"{commit}, files {found.hexdigest()[:16]}"


def of_this_code(rows: Iterable[Row], code: str) -> list[Row]:
    """Those of the rows that tell of the same files, whatever commit they were of.

    >>> of_this_code([{"code": "1a2b, files 77"}, {"code": "1a2b, files 78"}, {}], "3c4d, files 77")
    [{'code': '1a2b, files 77'}]
    """
    return [row for row in rows if row.get("code", "").partition(", ")[2] == code.partition(", ")[2]]


def _begin(place: str, library: str) -> None:
    global _ours
    _ours = Laboratory(Path(place) / str(os.getpid()), Path(library))
    Finalize(None, _ours.end, exitpriority=1)


def _count(name: str) -> tuple[dict[str, tuple[list[int], list[Kind]]], list[Row]]:
    """The calls at which each fault can happen in a scenario, in the order in which they are tried, and of which kinds
    the first ones are; and what is wrong with it without a fault."""
    assert _ours is not None
    found = _ours.baseline(name)
    return {fault: kinds_first(found.points(FAULTS[fault]), f"{name} {fault}") for fault in FAULTS}, [
        v._asdict() for v in found.violations
    ]


def _try(task: Task) -> Row:
    assert _ours is not None
    (scenario, fault), at = task
    try:
        return _ours.run(scenario, fault, at).record()
    except Exception as error:  # of the laboratory itself: the others are tried nevertheless
        wrong = {"promise": "the laboratory works", "evidence": f"{type(error).__name__}: {error}"}
        return {"scenario": scenario, "fault": fault, "at": at, "fired": None, "violations": [wrong]}


def interleaved(points: Mapping[Pair, Sequence[int]]) -> Iterator[Task]:
    """The first call of each pair, then the second of each, until none is left, in no order, always the same.

    >>> first, second = Pair("sweep", "kill"), Pair("run", "kill")
    >>> sorted(at for _, at in list(interleaved({first: [4, 1], second: [7]}))[:2])
    [4, 7]
    """
    pairs = sorted(points)
    for turn in range(max(map(len, points.values()), default=0)):
        random.Random(turn).shuffle(pairs)
        yield from ((pair, points[pair][turn]) for pair in pairs if turn < len(points[pair]))


def kinds_met(tasks: Iterable[Task], first: Mapping[Task, Kind]) -> set[tuple[str, Kind]]:
    """Which faults have met which kinds of calls, in whichever scenario, by those of the tasks that are `first`."""
    return {(pair.fault, first[pair, at]) for pair, at in tasks if (pair, at) in first}


def new_first(tasks: Iterable[Task], first: Mapping[Task, Kind], tried: Iterable[Task] = ()) -> list[Task]:
    """The same tasks, those first whose fault meets a kind of call that it has met in no scenario yet.

    >>> sweep, run = Pair("sweep", "kill"), Pair("run", "kill")
    >>> first = {(sweep, 1): ("open", "a"), (run, 5): ("open", "a"), (run, 6): ("open", "b")}
    >>> [at for _, at in new_first([(sweep, 1), (run, 5), (run, 6)], first)]
    [1, 6, 5]
    """
    met = kinds_met(tried, first)
    new, others = list[Task](), list[Task]()
    for task in tasks:
        meets = kinds_met([task], first)
        (others if meets <= met else new).append(task)
        met |= meets
    return [*new, *others]


def table(rows: Iterable[Row], points: Mapping[Pair, Sequence[int]]) -> str:
    """What was tried and what was broken, as Markdown: a line for each scenario and fault, then the sums of both."""
    tried: dict[Pair, list[Row]] = collections.defaultdict(list)
    for row in rows:
        tried[Pair(row["scenario"], row["fault"])].append(row)
    lines = ["| scenario | fault | calls | tried | met | violations |", "|---|---|---:|---:|---:|---|"]
    for pair, calls in points.items():
        found = tried[pair]
        if not found:
            continue
        met = sum(row["fired"] is not None for row in found)
        broken = collections.Counter(
            promise for row in found for promise in {violation["promise"] for violation in row["violations"]}
        )
        said = "; ".join(f"{promise}: {count}" for promise, count in broken.most_common()) or "0"
        lines.append(f"| {pair.scenario} | {pair.fault} | {len(calls)} | {len(found)} | {met} | {said} |")
    return "\n".join(lines)


def summary(rows: Sequence[Row], points: Mapping[Pair, Sequence[int]], first: Mapping[Task, Kind]) -> str:
    """A line for each scenario, a column for each kind of fault: what was tried of how many calls, and of how many
    kinds of calls, each with each fault; and violations, if any."""
    lines = [f"| scenario | {' | '.join(KINDS)} |", f"|---|{'---:|' * len(KINDS)}"]
    for name in dict.fromkeys(pair.scenario for pair in points):
        cells = []
        for faults in KINDS.values():
            n_calls = sum(len(points.get(Pair(name, fault), ())) for fault in faults)
            found = [row for row in rows if row["scenario"] == name and row["fault"] in faults]
            broken = sum(bool(row["violations"]) for row in found)
            of_kinds = {task for task in first if task[0].scenario == name and task[0].fault in faults}
            n_kinds = f"{len(of_kinds.intersection(map(_task, found)))} of {len(of_kinds)} kinds"
            said = f"{len(found)} of {n_calls}, {n_kinds}" + (f", **{broken} broken**" if broken else "")
            cells.append(said if n_calls else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _task(row: Row) -> Task:
    return Pair(row["scenario"], row["fault"]), row["at"]


def not_tried(rows: Iterable[Row], points: Mapping[Pair, Sequence[int]]) -> dict[Pair, list[int]]:
    """The calls that no row is about."""
    seen = set(map(_task, rows))
    left = {pair: sorted(at for at in calls if (pair, at) not in seen) for pair, calls in points.items()}
    return {pair: calls for pair, calls in left.items() if calls}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="when no other fault is begun; none: until all were tried")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--results", type=Path, default=Path("faults.jsonl"))
    most = 2 * (os.cpu_count() or 1)  # half of the time a command waits for what does not answer
    parser.add_argument("--workers", type=int, default=most)
    parser.add_argument("--each-kind", action="store_true", help="one call of each kind alone, with each fault")
    parser.add_argument("--one", nargs=3, metavar=("SCENARIO", "FAULT", "CALL"))
    asked = parser.parse_args()
    for name in ("scenarios", "faults"):
        known = SCENARIOS if name == "scenarios" else FAULTS
        setattr(asked, name, getattr(asked, name).split(","))
        unknown = set(getattr(asked, name)) - set(known)
        if unknown:
            parser.error(f"there are no {name} {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return asked


def _show(place: Path, library: Path, asked: Sequence[str]) -> int:
    laboratory = Laboratory(place / "one", library)
    try:
        tried = laboratory.run(asked[0], asked[1], int(asked[2]))
    finally:
        laboratory.end()
    print(json.dumps(tried.record(), indent=1))
    return int(bool(tried.violations))


class _Progress:
    """One line on a terminal that is written over; where there is none, a line each minute."""

    def __init__(self, total: int) -> None:
        self._total, self._begun, self._told = total, time.monotonic(), 0.0

    def tell(self, done: int, broken: int, task: str) -> None:
        now, is_terminal = time.monotonic(), sys.stderr.isatty()
        if now < self._told + (0.2 if is_terminal else 60):
            return
        self._told = now
        left_s = (now - self._begun) / max(done, 1) * (self._total - done)
        said = f"{done} of {self._total} tried, {broken} with violations, {left_s / 60:.0f} min for all that is left"
        print(f"\r\033[K{said}: {task}" if is_terminal else said, end="" if is_terminal else "\n", file=sys.stderr)


def _try_all(
    pool: ProcessPoolExecutor, tasks: Sequence[Task], until: float, code: str, asked: argparse.Namespace
) -> list[Row]:
    rows: list[Row] = []
    pending: set[Future[Row]] = set()
    left, progress = iter(tasks), _Progress(len(tasks))
    with asked.results.open("a") as file:
        while True:
            while (
                len(pending) < 2 * asked.workers and time.monotonic() < until and (task := next(left, None)) is not None
            ):
                pending.add(pool.submit(_try, task))
            if not pending:
                return rows
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                row = {**future.result(), "code": code}
                rows.append(row)
                file.write(json.dumps(row) + "\n")
            file.flush()
            progress.tell(len(rows), sum(bool(row["violations"]) for row in rows), f"{row['scenario']} {row['fault']}")


def _place() -> str | None:
    """Where the experiments lie: in memory where that can be, where nobody waits for `fsync`; None: where TMPDIR says.

    A sweep with a fault takes 1.5 s then, and not 2.3 s.
    """
    place = Path("/dev/shm")
    is_usable = "TMPDIR" not in os.environ and place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    return str(place) if is_usable and shutil.disk_usage(place).free > _SPACE else None


def main() -> int:
    """Returns 0 when nothing that was tried broke a promise, nor does without a fault."""
    asked = _arguments()
    until = time.monotonic() + (asked.minutes * 60 if asked.minutes else float("inf"))
    with tempfile.TemporaryDirectory(prefix="faults-", dir=_place()) as folder:
        try:
            library = compiled(Path(folder))
        except NoCompiler as error:
            print(error, file=sys.stderr)
            return 2
        if asked.one:
            return _show(Path(folder), library, asked.one)
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(asked.workers, context, _begin, (folder, str(library))) as pool:
            return _run(pool, asked, until)


def _run(pool: ProcessPoolExecutor, asked: argparse.Namespace, until: float) -> int:
    points, first, unsound = dict[Pair, list[int]](), dict[Task, Kind](), 0
    for name, (calls, wrong) in zip(asked.scenarios, pool.map(_count, asked.scenarios), strict=True):
        for fault in (fault for fault in asked.faults if calls[fault][0]):
            pair, (numbers, kinds) = Pair(name, fault), calls[fault]
            points[pair] = numbers
            first |= {(pair, at): kind for at, kind in zip(numbers, kinds, strict=False)}
        unsound += len(wrong)
        for violation in wrong:
            print(f"{name} without a fault: {violation['promise']}: {violation['evidence']}", file=sys.stderr)
    code = code_of(PROJECT)
    lines = asked.results.read_text().splitlines() if asked.results.exists() else []
    ours = of_this_code(map(json.loads, lines), code)
    if len(ours) < len(lines):
        print(
            f"{len(lines) - len(ours)} lines of {asked.results} are of other code, and count for nothing",
            file=sys.stderr,
        )
    earlier = [row for row in ours if _task(row)[0] in points]
    missing = {(pair, at) for pair, calls in not_tried(earlier, points).items() for at in calls}
    wanted = [task for task in interleaved(points) if task in missing and (not asked.each_kind or task in first)]
    tasks = new_first(wanted, first, map(_task, earlier))
    rows = [*earlier, *_try_all(pool, tasks, until, code, asked)]
    print(f"\n{table(rows, points)}\n\n{summary(rows, points, first)}\n")
    n_met, n_kinds = len(kinds_met(map(_task, rows), first)), len(kinds_met(first, first))
    print(f"{n_met} of {n_kinds} pairs of a fault and a kind of call, on a kind of file, tried in some scenario")
    left = not_tried(rows, points)
    n_left, n_all = sum(map(len, left.values())), sum(map(len, points.values()))
    broken = sum(bool(row["violations"]) for row in rows)
    print(
        f"{n_all - n_left} of {n_all} faults tried, {broken} with violations; all of it is in {asked.results} ({code})"
    )
    for name in dict.fromkeys(pair.scenario for pair in left):
        missed = [f"{pair.fault} {format_ids(left[pair])}" for pair in left if pair.scenario == name]
        print(f"not tried of {name}, calls by fault: {'; '.join(missed)}")
    return int(bool(broken or unsound))


if __name__ == "__main__":
    sys.exit(main())
