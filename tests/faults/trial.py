"""One fault at one call of one scenario: what is seen then, the same command again, and what is seen then."""

import collections
import json
import os
import random
import re
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from tests.conftest import wait_until
from tests.faults import slurm_stand_in as slurm
from tests.faults.injector import BESIDE_S, FAULTS, Beside, Done, Event, Fault, Injector
from tests.faults.observation import (
    OnDisk,
    Told,
    Violation,
    is_sentence,
    kind_of,
    on_disk,
    other_verbs,
    told,
    truths_on_disk,
    untruths,
)
from tests.faults.scenarios import PLACE, PROGRAM, SCENARIOS, Scenario, environment, verb

MOST_AGAIN: Final = 3
"""How often a command is typed again at most until it ends well."""

ALL_VERBS_EVERY: Final = 4
"""After every fourth call all verbs are asked, after the others those that tell of each job: jobs, results, status."""

OURS: Final = "/experiment_manager/"
"""In the last line of a traceback where it is ours that has failed."""

_STATUSES: Final = (0, 1, 2, 3)

_OF_MORE_ATTEMPTS: Final = re.compile(
    r"/(jobs/N/(attempt|error|result|stdout|stderr|metrics)\.N\.\w+|launches/N/((job-N|forkserver)\.log|[^/]+\.try|seen\w*\.json)|states/N\.N(\.[A-Z_]+)?)\Z"
)
"""Files that attempts to run jobs, or to submit them, have made which there are not without a fault."""

_MARK: Final = re.compile(r"/warnings/N\.N\.\w+\Z")
"""A file that says of an attempt that something of what it has logged is missing."""

_OF_SUBMITIT: Final = re.compile(r"/\.submission_file_H\.sh\Z")
"""A file that submitit, killed as it submits or where nothing can be removed, leaves for an hour at least: it bears no
number of a process."""

_WHEN: Final = re.compile(rb"as it was on [^,<]+")
"""When a report was made."""

_AS_LAST_KNOWN: Final = "is shown as it was last known"
"""What is said where a scheduler does not answer, of which states may be old then."""

_OF_LOKY: Final = re.compile(r"^.*(resource_tracker|warnings\.warn).*\n", re.MULTILINE)
"""What the library of the joblib launcher says of its own when a process that it has started was not told to end."""


class Baseline(NamedTuple):
    """A scenario without a fault."""

    done: Done
    events: list[Event]
    main: int
    disk: OnDisk
    told: Told | None
    submitted: int
    made: Mapping[str, str]
    odd: frozenset[str]
    violations: tuple[Violation, ...]

    def points(self, fault: Fault) -> list[Event]:
        """The calls at which the fault can happen, in their order."""
        return [event for event in self.events if event.can_meet(fault, self.main)]


class Trial(NamedTuple):
    """What became of one fault at one call."""

    scenario: str
    fault: str
    at: int
    fired: str | None
    status: int | None
    said: str
    again: tuple[int | None, ...]
    violations: tuple[Violation, ...]

    def record(self) -> dict[str, Any]:
        return {**self._asdict(), "violations": [violation._asdict() for violation in self.violations]}


class Laboratory:
    """A folder in which scenarios are tried, one after another, always under one path: experiments know theirs."""

    def __init__(self, place: Path, library: Path) -> None:
        self._place, self._home, self._runs = place, place / "home", place / "runs"
        self._home.mkdir(parents=True)
        _copy_project(place / "program")
        slurm.install(place / "bin")
        self._said_beside = place / "beside"
        self._injector = Injector(library, place, self._home)
        self._baselines: dict[str, Baseline] = {}

    def end(self) -> None:
        """Nothing is left: no process, no file."""
        self._injector.end()
        _remove(self._place)

    def baseline(self, name: str) -> Baseline:
        """The scenario without a fault, tried once."""
        if name not in self._baselines:
            scenario = SCENARIOS[name]
            self._restore(name)
            with self._beside(scenario) as beside:
                if scenario.is_of_tasks:
                    done, events, main = self._injector.counted_others(self._tasks_of(scenario))
                else:
                    done, events, main = self._injector.counted(self._words(scenario.command), self._env(), beside)
            made = self._made(scenario)
            disk, found, wrong = self._observe(
                scenario._replace(waits_before=False) if scenario.is_of_tasks else scenario, None
            )
            submitted = len(slurm.submitted(self._home / "slurm"))
            states = set(found.states.values()) if found and scenario.is_of_tasks else {"COMPLETED"}
            if done.status != 0 or "Traceback" in done.err or states != {"COMPLETED"}:
                wrong.append(Violation("it works without a fault", f"{done.status}: {states}: {done.err[-800:]}"))
            self._baselines[name] = Baseline(
                done, events, main, disk, found, submitted, made, self._odd(disk), tuple(wrong)
            )
        return self._baselines[name]

    def run(self, name: str, fault_name: str, at: int) -> Trial:
        """The scenario with that fault at that call, counted from 1 among those that the fault can meet."""
        self.baseline(name)
        self._restore(name)
        with self._beside(SCENARIOS[name]) as beside:
            return self._run(name, fault_name, at, beside)

    def _run(self, name: str, fault_name: str, at: int, beside: Beside) -> Trial:
        scenario, fault, usual = SCENARIOS[name], FAULTS[fault_name], self.baseline(name)
        before = on_disk(self._home, self._runs)
        done, wrong = self._disturbed(name, fault, at, beside)
        wrong += usual.violations
        if name == "run" and not fault.is_kill and done.status != 0 and self._is_complete(usual):
            wrong.append(Violation("a command says how its job ended", f"{done.status} of one that is COMPLETED"))
        after = on_disk(self._home, self._runs)
        if fault.is_of_reads:
            usually = f"{usual.done.out}\n{usual.done.err}\n{usual.disk.said}"
            lies = untruths(f"{done.out}\n{done.err}\n{after.said}", usually)
            wrong += [Violation("nothing is said of what cannot be looked at", line[-600:]) for line in lies]
        met = done.fired or ""
        is_away = fault.is_of_slurm or " /slurm/" in met or met.startswith("fork")  # its files; `squeue` cannot begin
        is_said = is_away and _AS_LAST_KNOWN in done.err
        if scenario.is_only_read and done.status == 0 and done.out != usual.done.out and not is_said:
            wrong.append(Violation("every verb tells the truth", f"it printed {done.out[-600:]}"))
        if done.status == 0:
            wrong += self._not_ended(beside)
        disk, first, seen = self._observe(scenario, before, beside, with_all_verbs=at % ALL_VERBS_EVERY == 1)
        wrong += seen
        if done.status == 0 and not scenario.is_of_tasks:
            wrong += self._not_done(scenario, usual, first, beside, done.err)
        again = () if scenario.is_done_once and done.status == 0 else self._again(scenario, usual, wrong, beside)
        wrong += self._in_the_end(scenario, usual, disk, fault)
        if fault.is_error_once:
            wrong += self._lost(after.returned - before.returned)
        if fault.is_error_once or fault.is_kill:
            wrong += self._half_kept(usual)
        return Trial(name, fault_name, at, done.fired, done.status, done.err[-800:], again, tuple(wrong))

    def undisturbed(self, name: str, spoil: Callable[[Path], object] = lambda _: None) -> list[Violation]:
        """What is seen to be wrong of a scenario without a fault, where somebody has spoiled something after it."""
        scenario, usual = SCENARIOS[name], self.baseline(name)
        self._restore(name)
        before = on_disk(self._home, self._runs)
        done = self._injector.run(self._words(scenario.command), self._env())
        spoil(self._home)
        returned = on_disk(self._home, self._runs).returned - before.returned
        disk, first, wrong = self._observe(scenario, before, with_all_verbs=True)
        wrong += self._not_done(scenario, usual, first, None, done.err)
        wrong += self._half_kept(usual)
        wrong += self._lost(returned)
        return [*wrong, *self._in_the_end(scenario, usual, disk, FAULTS["eio-once"])]

    def _disturbed(self, name: str, fault: Fault, at: int, beside: Beside) -> tuple[Done, list[Violation]]:
        """What is to be disturbed, with the fault; and what it should not have said."""
        scenario = SCENARIOS[name]
        if scenario.is_of_tasks:
            done = self._injector.run_others(self._tasks_of(scenario), fault, at)
            return done, said_wrongly(done, fault)
        words, env, later = self._words(scenario.command), self._env(), scenario.is_typed_at_once and fault.is_kill
        done = self._injector.run(words, env, fault, at, beside=beside, is_awaited=not later)
        if scenario.is_of_others:
            done = done._replace(err=_OF_LOKY.sub("", done.err))
        is_printed = "Traceback" in self._baselines[name].done.out  # that of a job, whose log is shown
        wrong = said_wrongly(done._replace(out="") if is_printed else done, fault, is_of_job="run" in scenario.command)
        is_theirs = scenario.is_of_others and "Traceback" in done.err + done.out
        if scenario.makes_new_jobs or (is_theirs and OURS not in _last_frame(done.err + done.out)):
            wrong = [one for one in wrong if one.promise != "a message is a sentence"]
        if later and done.fired is None:  # nobody was killed by then
            done = done._replace(left=self._injector.end_orphans())
        elif later:
            wrong += said_wrongly(self._injector.run(words, env), fault)
        return done, wrong

    def _tasks_of(self, scenario: Scenario) -> Callable[[Mapping[str, str]], str]:
        return partial(self._run_tasks, is_preempted=scenario.is_preempted)

    def _run_tasks(self, more: Mapping[str, str] = MappingProxyType({}), *, is_preempted: bool = False) -> str:
        env = {**self._env(), **more}
        return slurm.run_tasks(self._home / "slurm", env, self._home, is_preempted=is_preempted)

    def _not_done(
        self, scenario: Scenario, usual: Baseline, first: Told | None, beside: Beside, said: str
    ) -> Iterator[Violation]:
        """What is not as without a fault, where a command has said that all is well."""
        promise = "exit status 0 means that all is done"
        if scenario.does_run and first and usual.told and first.states != usual.told.states:
            yield Violation(promise, f"{first.states}: {said[-400:]}")
        elif first != usual.told and beside is None and not scenario.makes_new_jobs:
            yield Violation(promise, f"{first} instead of {usual.told}: {said[-400:]}")
        if scenario.is_submitted and len(there := slurm.submitted(self._home / "slurm")) != usual.submitted:
            yield Violation(promise, f"{there} were submitted: {said[-400:]}")
        if (made := self._made(scenario)) != usual.made:
            other = sorted(name for name in {*made, *usual.made} if made.get(name) != usual.made.get(name))
            yield Violation(promise, f"of {scenario.makes} differ {other}: {said[-400:]}")

    def _made(self, scenario: Scenario) -> dict[str, str]:
        """What the command is for, where that is a file: its hash, or those of what is packed in it."""
        path = self._home / (scenario.makes or "nothing")
        if not path.exists():
            return {}
        if not tarfile.is_tarfile(path):
            return {path.name: sha256(_WHEN.sub(b"", path.read_bytes())).hexdigest()}
        with tarfile.open(path) as file:
            members = {member.name: file.extractfile(member) for member in file.getmembers()}
            return {name: sha256(one.read()).hexdigest() if one else "" for name, one in members.items()}

    def _env(self, **more: str) -> dict[str, str]:
        return environment(self._place, **more)

    def _words(self, words: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(word.replace(PLACE, str(self._place / "program")) for word in words)

    def _look(self, words: tuple[str, ...]) -> Done:
        return self._injector.look(words, self._env())

    @contextmanager
    def _beside(self, scenario: Scenario) -> Iterator[Beside]:
        """Inside, what runs beside the scenario's command, whose job has begun; it has ended afterwards."""
        if scenario.beside is None:
            yield None
            return
        with self._said_beside.open("wb") as said:
            begun = self._injector.begin(self._words(scenario.beside), self._env(SEVEN_WAITS="1"), said.fileno())
        try:
            wait_until(self._runs.exists)
            yield begun
        finally:
            with suppress(ProcessLookupError):
                os.killpg(begun.pid, signal.SIGKILL)
            begun.wait()
            self._injector.kill_left()

    def _not_ended(self, beside: Beside) -> list[Violation]:
        """What is not as it must be of what runs beside a command that was to end it."""
        if beside is None:
            return []
        if beside.poll() is None:
            return [Violation("what is told to end ends", f"it runs after {BESIDE_S:g} s")]
        said = self._said_beside.read_text(errors="replace")
        return [Violation("a message is a sentence", said[-1500:])] if "Traceback" in said else []

    def _observe(
        self, scenario: Scenario, earlier: OnDisk | None, beside: Beside = None, *, with_all_verbs: bool = False
    ) -> tuple[OnDisk, Told | None, list[Violation]]:
        wrong = list(truths_on_disk(on_disk(self._home, self._runs), earlier))
        waits = scenario.is_submitted or scenario.waits_before
        runs = beside is not None and beside.poll() is None
        found, lies = told(self._look, on_disk(self._home, self._runs), waits=waits, runs=runs)
        disk = on_disk(self._home, self._runs)
        wrong += lies
        wrong += truths_on_disk(disk, earlier)
        if with_all_verbs:
            wrong += other_verbs(self._look, disk, lies_elsewhere=scenario.makes_new_jobs)
            for name in ("seen.html", "seen.tar.gz"):
                (self._home / name).unlink(missing_ok=True)
        return disk, found, list(dict.fromkeys(wrong))

    def _again(
        self, scenario: Scenario, usual: Baseline, wrong: list[Violation], beside: Beside
    ) -> tuple[int | None, ...]:
        """The command is typed again until it ends as it does without a fault; returns its exit statuses."""
        statuses: list[int | None] = []
        while len(statuses) < MOST_AGAIN:
            if scenario.is_of_tasks:
                statuses.append(self._tasks_again(scenario, wrong, is_first=not statuses))
                if statuses[-1] == 0:
                    break
                continue
            if "run" in scenario.command and self._is_complete(usual):
                break  # `run` would run it again, which is what it is for
            words = self._words(scenario.again or scenario.command)
            done = self._injector.run(words, self._env(), beside=beside)
            statuses.append(done.status)
            if "Traceback" in done.err:
                wrong.append(Violation("a message is a sentence", f"again: {done.err[-800:]}"))
            if done.status == 0 or (scenario.is_done_once and self._is_made(scenario, usual, done)):
                break
        else:
            said = "" if scenario.is_of_tasks else done.err[-800:]
            wrong.append(Violation("the same command again mends it", f"{statuses}: {said}"))
        wrong += self._not_ended(beside)
        return tuple(statuses)

    def _tasks_again(self, scenario: Scenario, wrong: list[Violation], *, is_first: bool) -> int:
        """What has failed is submitted again, and runs; then what no task has begun, by the same sweep. Returns 0 where
        nothing is left to do."""
        for words in (verb("resubmit", "--yes") if is_first else self._words(scenario.before[0]), verb("submit")):
            done = self._injector.run(words, self._env())
            wrong += said_wrongly(done, Fault("count", ""))
        self._run_tasks()
        done = self._injector.run(verb("jobs", "--json"), self._env())
        return int(any(job["state"] != "COMPLETED" for job in json.loads(done.out)))

    def _is_made(self, scenario: Scenario, usual: Baseline, done: Done) -> bool:
        """Whether a file is refused because it is there, and is whole: who made it was killed right after."""
        is_there = f"{self._home / (scenario.makes or '')} is there already" in done.err
        return is_there and self._made(scenario) == usual.made

    def _is_complete(self, usual: Baseline) -> bool:
        now = on_disk(self._home, self._runs).attempts
        jobs = {job for (job, _), names in now.items() if "COMPLETED" in names}
        return jobs == {job for (job, _), names in usual.disk.attempts.items() if "COMPLETED" in names}

    def _in_the_end(self, scenario: Scenario, usual: Baseline, earlier: OnDisk, fault: Fault) -> list[Violation]:
        """What is not as it is without a fault, after all was typed again."""
        disk, last, wrong = self._observe(scenario, earlier)
        could_not_tell = scenario.beside is not None and (fault.is_kill or fault.is_from_then_on)
        if last and usual.told and could_not_tell:
            known = {job: state for job, state in last.states.items() if state != "LOST"}
            last = last._replace(states={**usual.told.states, **known})
        if last and usual.told and last != usual.told and not scenario.makes_new_jobs:
            wrong.append(Violation("all ends as it does without a fault", f"{last} instead of {usual.told}"))
        left = disk.hidden - usual.disk.hidden
        if left and not fault.is_error_once and not _began(earlier, disk).intersection(map(_job_of, left)):
            left = self._left_by_clean(disk) - usual.disk.hidden  # nobody has written there since
        if left:
            wrong.append(Violation("leftovers vanish with the next write", f"{sorted(left)}"))
        if scenario.makes and (made := self._made(scenario)) != usual.made:
            wrong.append(Violation("all ends as it does without a fault", f"{scenario.makes}: {sorted(made)}"))
        is_compared = not scenario.makes_new_jobs and not could_not_tell
        strays = _strays(disk, usual.disk) if is_compared else []
        if not fault.is_error_once:  # who drove a launch is noted until somebody plans the next one
            strays = [name for name in strays if not name.endswith("/driver.json")]
        if fault.is_from_then_on:
            strays = [name for name in strays if not _MARK.search(name)]
        if fault.is_kill or fault.is_from_then_on:
            strays = [name for name in strays if not _OF_SUBMITIT.search(name)]
        if strays:
            wrong.append(Violation("no other file is left", f"{strays}"))
        if not scenario.makes_new_jobs and not scenario.is_of_tasks and disk.frozen != usual.disk.frozen:
            other = sorted(dict(disk.frozen.items() ^ usual.disk.frozen.items()))
            wrong.append(Violation("all ends as it does without a fault", f"frozen configurations {other}"))
        if is_compared and (odd := self._odd(disk) - usual.odd):
            wrong.append(Violation("nothing odd stays", f"{sorted(odd)}"))
        if scenario.leaves_scripts:
            wrong += said_wrongly(self._injector.run(verb("submit"), self._env()), Fault("count", ""))
        if scenario.is_submitted:
            there = slurm.submitted(self._home / "slurm")
            if len(there) != usual.submitted or len(set(there)) != len(there):
                wrong.append(Violation("each job is submitted once", f"{there}"))
        if scenario.is_submitted or scenario.leaves_scripts:
            self._run_tasks()
            disk, done, seen = self._observe(scenario._replace(is_submitted=False), disk)
            wrong += seen
            if done and set(done.states.values()) != {"COMPLETED"}:
                wrong.append(Violation("what was submitted runs", f"{done.states}"))
        return wrong

    def _odd(self, disk: OnDisk) -> frozenset[str]:
        """What `doctor` finds odd, but for scripts that nobody has submitted, which each call may write anew."""
        found = json.loads(self._look(verb("doctor", "--json", folder=disk.folder)).out)["findings"]
        return frozenset(one["kind"] for one in found) - {"launch"}

    def _left_by_clean(self, disk: OnDisk) -> frozenset[str]:
        """What is half written where `clean` has been."""
        self._look(verb("clean", "--yes", folder=disk.folder))
        return on_disk(self._home, self._runs).hidden

    def _half_kept(self, usual: Baseline) -> Iterator[Violation]:
        """What attempts that are COMPLETED have logged and saved, and is not there; and ends without a record."""
        now = on_disk(self._home, self._runs)
        expected = {job: found for (job, _), found in usual.disk.left.items()}
        for (job, number), names in now.attempts.items():
            if job in now.removed:
                continue
            if "COMPLETED" in names and job in expected and now.left.get((job, number)) != expected[job]:
                yield Violation("COMPLETED implies a whole result", f"{job}.{number}: {now.left.get((job, number))}")
            if names - {"", "RUNNING"} and (job, number) not in now.records:
                yield Violation("an end has a record", f"{job}.{number}: {sorted(names)}")

    def _lost(self, returned: Set[tuple[int, int]]) -> list[Violation]:
        """Of attempts whose task function came to its end, those that have not ended well."""
        names = on_disk(self._home, self._runs).attempts
        ended = {key: sorted(names.get(key, ())) for key in sorted(returned)}
        return [
            Violation("one error does not cost what a job has returned", f"{key}: {found}")
            for key, found in ended.items()
            if "COMPLETED" not in found
        ]

    def _restore(self, name: str) -> None:
        """The folder is as it is before the scenario's command."""
        kept = self._place / "before" / name
        if not kept.exists():
            _empty(self._home)
            self._runs.unlink(missing_ok=True)
            for words in SCENARIOS[name].before:
                done = self._injector.run(self._words(words), self._env(NINE_FAILS="1"))
                if done.status not in (0, 1):
                    raise RuntimeError(f"{words} ended with {done.status}: {done.err}")
                if not SCENARIOS[name].waits_before:
                    slurm.run_tasks(self._home / "slurm", self._env(NINE_FAILS="1"), self._home)
            kept.mkdir(parents=True)
            _copy(self._home, kept / "home")
            if self._runs.exists():
                shutil.copy(self._runs, kept / "runs")
        _remove(self._home)
        _copy(kept / "home", self._home)
        self._runs.unlink(missing_ok=True)
        if (kept / "runs").exists():
            shutil.copy(kept / "runs", self._runs)


def said_wrongly(done: Done, fault: Fault, *, is_of_job: bool = False) -> list[Violation]:
    """What a command with a fault should not have said, or not in that way; `is_of_job`: its status is the job's."""
    wrong = []
    if done.status is None:
        return [Violation("no command hangs", done.fired or "")]
    if done.left:
        wrong.append(Violation("no process is left behind", f"{done.left}"))
    if "Traceback" in done.err or "Traceback" in done.out:
        wrong.append(Violation("a message is a sentence", (done.err or done.out)[-1500:]))
    elif not fault.is_kill and not is_of_job and done.status not in _STATUSES:
        wrong.append(Violation("a message is a sentence", f"it ended with {done.status}: {done.err[-400:]}"))
    elif not fault.is_kill and done.status == 2 and not is_sentence(done.err):
        wrong.append(Violation("a message is a sentence", done.err[-600:]))
    elif not fault.is_kill and done.status and not (done.err + done.out).strip():
        wrong.append(Violation("a message is a sentence", f"it ended with {done.status} without a word"))
    return wrong


def _last_frame(text: str) -> str:
    return "".join(re.findall(r'^ +File "([^"]+)"', text, re.MULTILINE)[-1:])


Kind = tuple[str, str]
"""A call, and the kind of file that it is about."""


def kinds_first(events: list[Event], seed: str) -> tuple[list[int], list[Kind]]:
    """The numbers of the calls, counted from 1: first one of each kind, then the second of each, and so on, and among
    these in no order, always the same for a seed: whoever tries some of them tries the end of a command as well as its
    beginning. And of which kinds the first ones are, each another."""
    seen: collections.Counter[Kind] = collections.Counter()
    ranked = []
    for number, event in enumerate(events, start=1):
        kind = event.call, kind_of(event.path)
        seen[kind] += 1
        ranked.append((seen[kind], number, kind))
    random.Random(seed).shuffle(ranked)
    ranked.sort(key=itemgetter(0))
    return [number for _, number, _ in ranked], [kind for _, _, kind in ranked[: len(seen)]]


def _job_of(path: str) -> int | None:
    """The job in whose folder a file lies."""
    match = re.search(r"/jobs/(\d+)/", path)
    return int(match[1]) if match else None


def _began(earlier: OnDisk, now: OnDisk) -> frozenset[int | None]:
    """The jobs of which an attempt has begun in between; and None, for what lies in no job's folder."""
    return frozenset({None, *(job for job, _ in now.attempts.keys() - earlier.attempts.keys())})


def _strays(now: OnDisk, usual: OnDisk) -> list[str]:
    """The kinds of files that nothing makes without a fault, nor what is run again."""
    return sorted(name for name in now.files - usual.files if not _OF_MORE_ATTEMPTS.search(name))


def _copy_project(target: Path) -> None:
    """The program in a repository of its own."""
    shutil.copytree(PROGRAM, target, ignore=shutil.ignore_patterns("__pycache__"))
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    for words in (("init", "--quiet"), ("add", "."), (*author, "commit", "--quiet", "--message=program")):
        subprocess.run(["git", *words], cwd=target, check=True)


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "--archive", source, target], check=True)  # which keeps hard links


def _remove(folder: Path) -> None:
    if folder.exists():
        subprocess.run(["chmod", "-R", "u+w", folder], check=True)  # snapshots of code may only be read
        shutil.rmtree(folder)


def _empty(folder: Path) -> None:
    _remove(folder)
    os.makedirs(folder)
