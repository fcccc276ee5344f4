"""States in file names: claimed once, ended once, never lost, whoever races or dies."""

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

from experiment_manager.errors import AlreadyCompleted, JobRefused, NotOverYet
from experiment_manager.model.records import ENDED, ENDED_WELL, Attempt, JobId, State, Task
from experiment_manager.store import processes
from experiment_manager.store.endings import Endings, ask_to_end
from experiment_manager.store.holds import set_held
from experiment_manager.store.layout import Folder
from experiment_manager.store.states import OWNERSHIP_POLL_S, States
from tests.conftest import booted_at, clean_env, erring, wait_until

CLAIMER = """
import os, sys
from experiment_manager.errors import JobRefused
from experiment_manager.store.layout import Folder
from experiment_manager.store.states import States
states = States(Folder(sys.argv[1], "train"))
print("ready", flush=True)
for line in sys.stdin:
    word, job, *rest = line.split()
    try:
        if word == "claim":
            print("won", states.claim(int(job), {"launch": "0001"}), flush=True)
        elif word == "end":
            print("ended", states.end(int(job), int(rest[0]), rest[1]), flush=True)
        elif word == "complete":
            ended = [states.end(each, 1, "COMPLETED") for each in range(int(job))]
            print("completed", len(ended) - ended.count(None), flush=True)
        elif word == "reconcile":
            found = states.table(reconcile=True)
            print("lost", sum(found.state(each) == "LOST" for each in range(int(job))), flush=True)
    except JobRefused as error:
        print("refused", error, flush=True)
    except Exception as error:
        print("error", repr(error), flush=True)
"""


class Claimer:
    """A real process that claims jobs when it is told to."""

    def __init__(self, parent: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLAIMER, str(parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=clean_env(),
        )

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, line: str) -> str:
        self.tell(line)
        return self.hear()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], Claimer]:
    """Starts a claimer that has said that it is ready; all are gone after the test."""

    def started() -> Claimer:
        claimer = Claimer(tmp_path)
        request.addfinalizer(claimer.kill)
        assert "ready" == claimer.hear()
        return claimer

    return started


@pytest.fixture
def states(tmp_path: Path) -> States:
    return States(Folder(tmp_path, "train"))


def names(parent: Path) -> list[str]:
    return sorted(os.listdir(parent / "train" / "states"))


def put(parent: Path, *files: str, record: dict[str, Any] | None = None) -> None:
    """Names in `states/` as another process would have left them."""
    place = parent / "train" / "states"
    place.mkdir(parents=True, exist_ok=True)
    for file in files:
        (place / file).write_text(json.dumps({**processes.this_process(), **(record or {})}))


def dead() -> dict[str, Any]:
    """The record of a process that has been here and is gone."""
    return {**processes.this_process(), "started_ticks": 1}


@pytest.mark.parametrize(
    ("state", "attempts"),
    [
        ("COMPLETED", "COMPLETED -CANCELLED"),
        ("COMPLETED", "FAILED COMPLETED -FAILED -LOST"),
        ("COMPLETED", "COMPLETED -CANCELLED FAKE"),
        ("PRUNED", "PRUNED -CANCELLED"),
        ("PRUNED", "COMPLETED PRUNED -NODE_FAIL"),
        ("FAILED", "COMPLETED FAILED"),
        ("CANCELLED", "COMPLETED FAILED -CANCELLED"),
        ("FAILED", "COMPLETED -CANCELLED FAILED"),
        ("RUNNING", "COMPLETED -CANCELLED RUNNING"),
        ("COMPLETED", "COMPLETED FAKE"),
        ("CANCELLED", "FAILED -CANCELLED"),
    ],
)
def test_what_was_done_stays_so_where_no_later_attempt_began(states: States, state: str, attempts: str) -> None:
    """A job is what its last attempt is, but for those that never began after it was done: nothing takes away what it
    has left, and a launch that was planned before runs it no more."""
    for number, word in enumerate(attempts.split(), start=1):
        if word.startswith("-"):
            states.record_unbegun(7, number, State(word[1:]), {"reason": "never began"}, {"launch": "0002"})
            continue
        assert number == states.claim(7, {"launch": "0002", "fake": word == "FAKE"})
        if word != "RUNNING":
            states.finish(7, number, State(word), {})
    table = states.table()
    assert [state] * 4 == [table.state(7), states.settled(7).state, table.standing(7).state, *table.by_state([7])]
    last = [word.lstrip("-") for word in attempts.split() if word != "FAKE"][-1]
    assert last == table.last(7).state
    if state in ENDED_WELL:
        assert {7} == {*table.kept} if "-" in attempts else not table.kept
        with pytest.raises(AlreadyCompleted):
            states.claim(7, {"launch": "0001"}, planned=1)


def test_attempt_from_claim_to_end(tmp_path: Path, states: States) -> None:
    """A claim is an anchor and RUNNING; its end is a rename; each attempt has the next number and keeps its record."""
    assert Attempt(JobId(7), 0, State.PENDING) == states.settled(7)
    assert 1 == states.claim(7, {"launch": "0001", "note": "ü"})
    assert ["7.1", "7.1.RUNNING"] == names(tmp_path)
    assert states.is_running(7, 1)
    assert State.FAILED is states.end(7, 1, State.FAILED)
    assert ["7.1", "7.1.FAILED"] == names(tmp_path)
    assert not states.is_running(7, 1)
    assert 2 == states.claim(7, {"launch": "0002"})
    assert State.COMPLETED is states.end(7, 2, State.COMPLETED)
    assert [Attempt(JobId(7), 1, State.FAILED), Attempt(JobId(7), 2, State.COMPLETED)] == states.attempts(7)
    record = states.record(7, 1)
    assert ("0001", "ü", 7, os.getpid()) == (record["launch"], record["note"], record["job"], record["pid"])
    assert "0002" == states.record(7, 2)["launch"]


def test_table_of_nothing(states: States) -> None:
    """Before anything ran there is nothing, and every job is PENDING."""
    table = states.table(reconcile=True)
    assert ({}, ()) == (table.attempts, table.foreign)
    assert Attempt(JobId(3), 0, State.PENDING) == table.last(3)
    assert State.PENDING is table.state(3)


def test_table_has_every_attempt(tmp_path: Path, states: States) -> None:
    """One look tells all attempts of all jobs, the last of each, and that numbers are numbers (10 after 9)."""
    put(tmp_path, *(f"3.{number}" for number in range(1, 11)), *(f"3.{number}.FAILED" for number in range(1, 10)))
    put(tmp_path, "3.10.COMPLETED", "12.1", "12.1.TIMEOUT")
    table = states.table()
    assert {3, 12} == set(table.attempts)
    assert {**dict.fromkeys(range(1, 10), State.FAILED), 10: State.COMPLETED} == table.attempts[JobId(3)]
    assert Attempt(JobId(3), 10, State.COMPLETED) == table.last(3)
    assert State.TIMEOUT is table.state(12)
    assert State.PENDING is table.state(1)


@pytest.mark.parametrize("state", sorted(ENDED))
def test_every_ended_state_is_kept(states: States, state: State) -> None:
    """Each state in which an attempt can end comes back by every way of asking."""
    states.claim(0, {})
    assert state is states.end(0, 1, state)
    assert state is states.table(reconcile=True).state(0)
    assert state is states.state(0, 1)
    assert state is states.settled(0).state


def test_running_job_is_refused_to_others(states: States) -> None:
    """While an attempt runs, another is refused, and the refusal says who runs it and where."""
    states.claim(7, {})
    with pytest.raises(JobRefused) as refused:
        states.claim(7, {})
    for part in ("job 7", "attempt 1", str(os.getpid()), os.uname().nodename):
        assert part in str(refused.value)
    assert 1 == states.claim(8, {})


def test_refused_claim_leaves_no_file(tmp_path: Path, states: States) -> None:
    """A claim that is refused leaves nothing behind."""
    states.claim(7, {})
    before = names(tmp_path)
    with pytest.raises(JobRefused):
        states.claim(7, {})
    assert before == names(tmp_path)


def test_forty_processes_claim_one_job(tmp_path: Path, states: States, start: Callable[[], Claimer]) -> None:
    """Of 40 processes that claim a job at once, one wins and every other one is refused while the winner lives; when it
    has ended, the next round gets the next number, so numbers have no gaps."""
    claimers = [start() for _ in range(40)]
    for expected in (1, 2, 3):
        for claimer in claimers:
            claimer.tell("claim 7")
        heard = [claimer.hear() for claimer in claimers]
        winners = [place for place, said in enumerate(heard) if said.startswith("won")]
        assert 39 == sum(said.startswith("refused") for said in heard), heard
        assert [f"won {expected}"] == [heard[place] for place in winners]
        winner = claimers[winners[0]]
        assert winner.process.pid == states.record(7, expected)["pid"]
        assert "ended FAILED" == winner.ask(f"end 7 {expected} FAILED")
    assert [Attempt(JobId(7), number, State.FAILED) for number in (1, 2, 3)] == states.attempts(7)
    assert [f"7.{number}{ending}" for number in (1, 2, 3) for ending in ("", ".FAILED")] == names(tmp_path)


def test_many_attempts_have_numbers_without_gaps(states: States, start: Callable[[], Claimer]) -> None:
    """Processes that claim and end in turn, as fast as they can, use every number once."""
    claimers = [start() for _ in range(4)]
    won = []
    for _ in range(25):
        for claimer in claimers:
            claimer.tell("claim 7")
        for claimer in claimers:
            said = claimer.hear()
            assert not said.startswith("error"), said
            if said.startswith("won"):
                won.append(int(said.split()[1]))
                assert "ended TIMEOUT" == claimer.ask(f"end 7 {won[-1]} TIMEOUT")
    assert list(range(1, len(won) + 1)) == sorted(won)
    assert len(won) >= 25
    assert list(range(1, len(won) + 1)) == [attempt.number for attempt in states.attempts(7)]


def test_killed_process_is_lost(tmp_path: Path, states: States, start: Callable[[], Claimer]) -> None:
    """After SIGKILL an attempt is RUNNING to who only looks, LOST to who reconciles, and stays so."""
    claimer = start()
    assert "won 1" == claimer.ask("claim 7")
    assert State.RUNNING is states.table(reconcile=True).state(7)
    claimer.process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, claimer.process.pid, os.WEXITED | os.WNOWAIT)
    assert State.RUNNING is states.table().state(7)
    assert State.LOST is states.table(reconcile=True).state(7)
    assert ["7.1", "7.1.LOST"] == names(tmp_path)
    assert State.LOST is states.table().state(7)


def test_what_ran_just_before_this_boot_is_lost(tmp_path: Path, states: States) -> None:
    """A job that a machine ran whose boot was another one is LOST where it began before this boot, by the clock of the
    file system, and may be claimed; else it may run on another machine of this name, and stays RUNNING."""
    for job, began in ((7, booted_at() - 10), (8, booted_at() - 10), (9, time.time())):
        record = {**processes.this_process(), "boot": "another", "start": began}
        put(tmp_path, f"{job}.1", f"{job}.1.RUNNING", record=record)
        os.utime(tmp_path / "train/states" / f"{job}.1", (began, began))
    assert 2 == states.claim(8, {})
    table = states.table(reconcile=True)
    assert [State.LOST, State.RUNNING, State.RUNNING] == [table.state(job) for job in (7, 8, 9)]
    with pytest.raises(NotOverYet, match=r"if nothing runs it there, rename .*9\.1\.RUNNING to end in \.LOST"):
        states.claim(9, {})


def test_whoever_chooses_takes_no_job_that_was_cancelled_meanwhile(tmp_path: Path, states: States) -> None:
    """A worker finds a job that was left RUNNING by one that died, and claims it: cancelled before that, or ended by
    its own doing, as turns out then or was recorded meanwhile, it is not run again. Others may."""
    anchor = {**dead(), "launch": "0001"}
    for job, ended in ((7, State.CANCELLED), (8, State.CANCELLED), (9, State.FAILED), (3, State.LOST)):
        put(tmp_path, f"{job}.1", f"{job}.1.RUNNING", record=anchor)
        if job == 7:
            ask_to_end(states._folder, job, 1, record=anchor, by="ada")
        elif job != 3:
            assert ended is states.lose(job, 1, ended, {"reason": "as ada wished"})
        refused = nullcontext() if job == 3 else pytest.raises(JobRefused, match=f"has ended as {ended} meanwhile")
        with refused:
            assert 2 == states.claim(job, {"launch": "0001"}, planned=1, only=2)
        assert ended is states.attempts(job)[0].state
    assert 2 == states.claim(7, {})


def test_next_claim_after_a_killed_process(tmp_path: Path, states: States, start: Callable[[], Claimer]) -> None:
    """The next claim records the killed attempt as LOST and gets the next number."""
    claimer = start()
    assert "won 1" == claimer.ask("claim 7")
    claimer.kill()
    assert 2 == states.claim(7, {})
    assert ["7.1", "7.1.LOST", "7.2", "7.2.RUNNING"] == names(tmp_path)
    assert State.LOST is states.attempts(7)[0].state


def test_killed_dry_pass_hides_nothing(tmp_path: Path, states: States) -> None:
    """A dry pass whose process is gone is FAKE: the job is what its last real attempt left."""
    put(tmp_path, "7.1", "7.1.COMPLETED")
    put(tmp_path, "7.2", "7.2.RUNNING", record={**dead(), "fake": True})
    assert State.COMPLETED is states.table(reconcile=True).state(7)
    assert ["7.1", "7.1.COMPLETED", "7.2", "7.2.FAKE"] == names(tmp_path)


def test_settled_after_a_killed_process(states: States, start: Callable[[], Claimer]) -> None:
    """Asking for one job settles it, too."""
    claimer = start()
    assert "won 1" == claimer.ask("claim 7")
    assert Attempt(JobId(7), 1, State.RUNNING) == states.settled(7)
    claimer.kill()
    assert Attempt(JobId(7), 1, State.LOST) == states.settled(7)


def test_running_elsewhere_is_left_alone(tmp_path: Path, states: States) -> None:
    """What runs on another host is RUNNING and refused, and the refusal says how to end it by hand."""
    put(tmp_path, "7.1", "7.1.RUNNING", record={"host": "node017", "pid": 5})
    assert State.RUNNING is states.table(reconcile=True).state(7)
    with pytest.raises(JobRefused, match=r"process 5 on node017.*rename .*7\.1\.RUNNING to end in \.LOST"):
        states.claim(7, {})
    os.rename(tmp_path / "train/states/7.1.RUNNING", tmp_path / "train/states/7.1.LOST")
    assert 2 == states.claim(7, {})


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"host": 3}'])
def test_unreadable_anchor_is_left_alone(tmp_path: Path, states: States, content: str) -> None:
    """Of an anchor that cannot be read nobody knows, so its attempt is RUNNING and is not taken away."""
    put(tmp_path, "7.1", "7.1.RUNNING")
    (tmp_path / "train/states/7.1").write_text(content)
    assert State.RUNNING is states.table(reconcile=True).state(7)
    with pytest.raises(JobRefused):
        states.claim(7, {})


def test_anchor_without_pid_is_left_alone(tmp_path: Path, states: States) -> None:
    """A record of this host without a pid tells nothing, either."""
    put(tmp_path, "7.1", "7.1.RUNNING")
    record = {key: value for key, value in processes.this_process().items() if key != "pid"}
    (tmp_path / "train/states/7.1").write_text(json.dumps(record))
    assert State.RUNNING is states.table(reconcile=True).state(7)


def test_attempt_that_was_ended_before_it_was_running_does_not_begin(
    tmp_path: Path, states: States, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was cut off between its anchor and its first state finds that it was ended, and has one state."""
    begin = Endings.begin

    def meanwhile(endings: Endings, job_id: int, attempt: int, kept: Any) -> None:
        monkeypatch.setattr(Endings, "begin", begin)
        assert State.NODE_FAIL is States(endings._folder).lose(job_id, attempt, State.NODE_FAIL, {"reason": "gone"})
        begin(endings, job_id, attempt, kept)

    monkeypatch.setattr(Endings, "begin", meanwhile)
    with pytest.raises(JobRefused, match="attempt 1 of job 7 was ended as NODE_FAIL just as it began"):
        states.claim(7, {})
    assert ["7.1", "7.1.NODE_FAIL"] == names(tmp_path)
    assert 2 == states.claim(7, {})


def test_attempt_that_begins_while_it_is_ended_has_one_state(
    tmp_path: Path, states: States, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it has got its first state after that was looked for, whoever ends it takes that away again: its supervisor
    finds that out, as every other that was ended elsewhere."""
    put(tmp_path, "7.1")

    def late(*_: Any) -> State:
        monkeypatch.undo()
        os.link(tmp_path / "train/states/7.1", tmp_path / "train/states/7.1.RUNNING")
        return State.RUNNING

    monkeypatch.setattr(States, "state", late)
    assert State.LOST is states.end(7, 1, State.LOST)
    assert ["7.1", "7.1.LOST"] == names(tmp_path)
    assert not states.is_running(7, 1)


def test_what_is_held_just_as_it_begins_does_not_begin(
    tmp_path: Path, states: States, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever holds a job looks whether it has begun, and whoever begins it looks once more whether it is held."""
    keep = Endings.keep

    def meanwhile(endings: Endings, job_id: int, start: float) -> Any:
        set_held(endings._folder, [job_id], are_held=True)
        return keep(endings, job_id, start)

    monkeypatch.setattr(Endings, "keep", meanwhile)
    with pytest.raises(JobRefused, match="it was held, or removed, just as it began"):
        states.claim(7, {})
    assert ["7.1", "7.1.CANCELLED"] == names(tmp_path)


def test_whoever_may_still_run_is_waited_for_by_all_that_follow(tmp_path: Path, states: States) -> None:
    """An attempt that was ended elsewhere may run until it looks, also where another one has come and gone since."""
    for number, fenced in ((1, {"fenced_at": 5.0}), (2, {}), (3, {})):
        assert number == states.claim(7, {})
        states.finish(7, number, State.LOST, {"reason": "gone", **fenced})
    assert (None, {1: 5.0}) == (states.fenced_at(7, 3), states.fences(7, 4))
    assert {} == states.fences(7, 1)
    waited: list[float] = []
    assert not states.wait_for_earlier(7, 4, lambda _: False)  # long ago by his clock alone
    os.utime(tmp_path / "train/jobs/7/attempt.1.json", (5.0, 5.0))
    assert states.wait_for_earlier(7, 4, lambda _: False)  # that was long ago
    states.finish(7, states.claim(7, {}), State.LOST, {"fenced_at": time.time()})

    def ends(seconds: float) -> bool:
        waited.append(seconds)
        return False

    assert not states.wait_for_earlier(7, 5, ends)
    assert 0 < waited[0] <= 2 * OWNERSHIP_POLL_S


def test_an_end_that_is_recorded_counts(tmp_path: Path, states: States) -> None:
    """Its supervisor was killed before its name told, or has renamed it where nobody here sees that yet: whoever finds
    it gone tells what it has recorded, and keeps that."""
    put(tmp_path, "7.1", "7.1.RUNNING", record=dead())
    record = tmp_path / "train/jobs/7/attempt.1.json"
    record.parent.mkdir(parents=True)
    record.write_text('{"state": "TIMEOUT", "requeued": true, "reason": "at its limit", "format": 1}')
    assert State.TIMEOUT is states.table(reconcile=True).state(7)
    assert {"state": "TIMEOUT", "requeued": True, "reason": "at its limit", "format": 1} == json.loads(
        record.read_text()
    )
    assert ["7.1", "7.1.TIMEOUT"] == names(tmp_path)


@pytest.fixture
def ended_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempt 1 of job 7, whose process is gone, was ended elsewhere a moment ago, which nothing here shows yet."""
    put(tmp_path, "7.1", record=dead())
    anchor = tmp_path / "train/states/7.1"
    os.link(anchor, f"{anchor}.COMPLETED")
    real_open, real_scandir = os.open, os.scandir

    def opens(path: Any, *arguments: Any, **more: Any) -> int:
        if str(path).endswith(".COMPLETED"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return real_open(path, *arguments, **more)

    @contextmanager
    def lists(path: Any) -> Iterator[Iterator[Any]]:
        with real_scandir(path) as entries:
            yield (entry for entry in entries if not entry.name.endswith(".COMPLETED"))

    monkeypatch.setattr(os, "open", opens)
    monkeypatch.setattr(os, "scandir", lists)
    monkeypatch.setattr("experiment_manager.store.states._PATIENCE_S", 0.1)


@pytest.mark.usefixtures("ended_unseen")
def test_an_end_that_is_not_seen_yet(tmp_path: Path, states: States) -> None:
    """Where a file system shows what is old, nobody ends the attempt a second time, and nobody runs the job again."""
    with pytest.raises(NotOverYet, match="job 7 is not run again: attempt 1 was ended by somebody else"):
        states.claim(7, {})
    assert State.RUNNING is states.lose(7, 1)
    assert ["7.1", "7.1.COMPLETED"] == names(tmp_path)


def test_an_anchor_that_is_not_seen_yet(tmp_path: Path, states: States, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody runs the job beside whoever has made it."""
    monkeypatch.setattr("experiment_manager.store.states._PATIENCE_S", 0.1)
    put(tmp_path, "7.1", "7.1.RUNNING")
    monkeypatch.setattr("experiment_manager.store.states._opens", lambda _: False)
    for only, why in ((1, "job 7 was taken by somebody else"), (None, "cannot be seen here: the file system shows")):
        with pytest.raises(JobRefused, match=why):
            states.claim(7, {}, only=only)
    assert ["7.1", "7.1.RUNNING"] == names(tmp_path)


def test_anchor_without_state_runs_while_its_process_lives(tmp_path: Path, states: States) -> None:
    """A process between its anchor and its first state has the job: it is RUNNING and refused to others."""
    put(tmp_path, "7.1")
    assert State.RUNNING is states.table(reconcile=True).state(7)
    assert Attempt(JobId(7), 1, State.RUNNING) == states.settled(7)
    with pytest.raises(NotOverYet):
        states.claim(7, {})
    assert ["7.1"] == names(tmp_path)


def test_anchor_without_state_is_lost_after_its_process(tmp_path: Path, states: States) -> None:
    """A process that died between its anchor and its first state has left a LOST attempt, by every way of asking."""
    put(tmp_path, "1.1", "2.1", "3.1", record=dead())
    assert State.RUNNING is states.table().state(1)
    assert State.LOST is states.settled(2).state
    assert 2 == states.claim(3, {})
    table = states.table(reconcile=True)
    assert [State.LOST, State.LOST, State.RUNNING] == [table.state(job_id) for job_id in (1, 2, 3)]
    assert ["1.1", "1.1.LOST", "2.1", "2.1.LOST", "3.1", "3.1.LOST", "3.2", "3.2.RUNNING"] == names(tmp_path)


def test_unbegun_attempt_whose_recording_was_interrupted(tmp_path: Path, states: States) -> None:
    """An attempt that never began is what was to be recorded of it, and runs nowhere, though its state was not
    written any more; the next claim makes an attempt of its own."""
    states.record_unbegun(7, 1, State.CANCELLED, {"reason": "cancelled"}, {"launch": "0001", "by_slurm": True})
    states.record_unbegun(8, 1, State.TIMEOUT, {"reason": "late"}, {"launch": "0001", "by_slurm": True})
    for name in ("7.1.CANCELLED", "8.1.TIMEOUT"):
        (tmp_path / "train" / "states" / name).unlink()
    assert State.CANCELLED is states.table(reconcile=True).state(7)
    assert 2 == states.claim(8, {"launch": "0002"})
    assert State.TIMEOUT is states.state(8, 1)


@pytest.mark.parametrize("knows", [True, False])
def test_whoever_finds_an_unbegun_attempt_without_a_record_says_the_same(
    tmp_path: Path, states: States, knows: bool
) -> None:
    """Its anchor is there before its record, and another process may look in between: it never says that a supervisor
    is gone, which there was none of. An anchor of an older version does not tell why."""
    states.record_unbegun(7, 1, State.CANCELLED, {"reason": "cancelled by ada"}, {"launch": "0001"})
    (tmp_path / "train/states/7.1.CANCELLED").unlink()
    record = tmp_path / "train/jobs/7/attempt.1.json"
    before = record.read_text()
    record.unlink()
    if not knows:
        anchor = tmp_path / "train/states/7.1"
        about = json.loads(anchor.read_text())
        del about["ending"]
        anchor.write_text(json.dumps(about))
    assert State.CANCELLED is states.table(reconcile=True).state(7)
    found = json.loads(record.read_text())
    assert found == {**json.loads(before), **({} if knows else {"reason": found["reason"]})}
    assert knows or "it never began, and whoever recorded that was interrupted" == found["reason"]


def test_unbegun_attempt_gives_way_to_one_that_began(states: States) -> None:
    """A job that has begun is left alone by whoever thinks that it never did."""
    states.claim(7, {})
    states.record_unbegun(7, 1, State.CANCELLED, {"reason": "cancelled"}, {})
    assert State.RUNNING is states.table(reconcile=True).state(7)


def test_several_processes_reconcile_at_once(tmp_path: Path, states: States, start: Callable[[], Claimer]) -> None:
    """Processes that find the same dead attempts at the same time all say LOST, and none of them fails."""
    claimers = [start() for _ in range(4)]
    for number in (1, 2, 3):
        put(tmp_path, f"0.{number}", record=dead())
        for job_id in range(1, 200):
            os.link(tmp_path / f"train/states/0.{number}", tmp_path / f"train/states/{job_id}.{number}")
        for claimer in claimers:
            claimer.tell("reconcile 200")
        assert ["lost 200"] * 4 == [claimer.hear() for claimer in claimers]
    assert {State.LOST} == set(states.table().attempts[JobId(17)].values())


@pytest.mark.parametrize("ended", [State.COMPLETED, State.FAILED, State.NODE_FAIL, State.CANCELLED, State.LOST])
def test_later_of_two_states_counts(tmp_path: Path, states: States, ended: State) -> None:
    """An attempt seen under RUNNING and an ended state has ended, in whatever order the folder lists them."""
    for job_id in range(20):
        pair = [f"{job_id}.1.RUNNING", f"{job_id}.1.{ended}"]
        put(tmp_path, f"{job_id}.1", *(pair if job_id % 2 else reversed(pair)))
    for table in (states.table(), states.table(reconcile=True)):
        assert {ended} == {table.state(job_id) for job_id in range(20)}
    assert {ended} == {states.state(job_id, 1) for job_id in range(20)}


def test_foreign_names_are_reported(tmp_path: Path, states: States) -> None:
    """Names that mean nothing to us are told, and touch no job; hidden temporary files are nobody's business."""
    foreign = [
        "7",
        "7.x",
        "7.0",
        "7.0.FAILED",
        "7.1.DONE",
        "7.1.failed",
        "7.1.FAILED~",
        "7.1.QUEUED",
        "notes.txt",
        "07.1",
    ]
    foreign += ["7.01.COMPLETED", "007.1.COMPLETED", "7.1.FAILED.x", "-7.1", "7.1.", "\u0667.1.COMPLETED", "7.1\n"]
    put(tmp_path, *foreign, ".7.0.host.1.tmp")
    table = states.table(reconcile=True)
    assert sorted(foreign) == sorted(table.foreign)
    assert Attempt(JobId(7), 0, State.PENDING) == table.last(7)
    assert 1 == states.claim(7, {})


def test_planned_job_that_another_launch_completed_is_refused(tmp_path: Path, states: States) -> None:
    """A launch gives a job's first attempt a number; if another launch has completed it since, it is not run again."""
    states.claim(7, {"launch": "0001"}, planned=1)
    states.end(7, 1, State.COMPLETED)
    with pytest.raises(JobRefused, match=r"completed since launch 0002 was planned.*attempt 1, launch 0001"):
        states.claim(7, {"launch": "0002"}, planned=1)
    with pytest.raises(JobRefused):
        states.claim(7, {"launch": None}, planned=1)
    assert ["7.1", "7.1.COMPLETED"] == names(tmp_path)


def test_planned_after_the_completed_attempt_runs(states: States) -> None:
    """A launch that was planned when the job had been completed (`rerun: always`) runs it again."""
    states.claim(7, {"launch": "0001"}, planned=1)
    states.end(7, 1, State.COMPLETED)
    assert 2 == states.claim(7, {"launch": "0002"}, planned=2)


def test_claim_by_hand_has_no_plan(states: States) -> None:
    """Somebody who runs a job by hand, without a plan, gets it whenever nothing runs it."""
    states.claim(7, {"launch": "0001"}, planned=1)
    states.end(7, 1, State.COMPLETED)
    assert 2 == states.claim(7, {"launch": None})


def test_planned_job_that_runs_is_refused(states: States) -> None:
    """A running job is refused whatever the plan."""
    states.claim(7, {"launch": "0001"}, planned=1)
    for launch, planned in (("0001", 1), ("0002", 1), ("0002", 2), (None, None)):
        with pytest.raises(JobRefused, match="running already"):
            states.claim(7, {"launch": launch}, planned=planned)


@pytest.mark.parametrize("state", sorted(ENDED - ENDED_WELL))
def test_requeued_job_of_the_same_launch_runs(states: States, state: State) -> None:
    """SLURM starts a job of the same launch again (a requeue): it gets the next attempt."""
    states.claim(7, {"launch": "0001"}, planned=1)
    states.end(7, 1, state)
    assert 2 == states.claim(7, {"launch": "0001"}, planned=1)


def test_attempt_that_cannot_be_looked_at_does_not_run_for_ever(
    states: States, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever look at its own files a server refuses, once or on and on, a claim begins the attempt or ends it."""
    for most, patience in ((1, "0.5"), (1_000_000, "0")):
        monkeypatch.setenv("EXPERIMENT_MANAGER_PATIENCE_S", patience)
        for job in itertools.count(1000 * most):
            number = None
            with monkeypatch.context() as patch, suppress(OSError):
                failed = erring(patch, f"{job}.1", most=most, after=job - 1000 * most)
                number = states.claim(job, {})
            if not failed:
                break
            assert [] == [found for found in states.attempts(job) if found.state is State.RUNNING and number is None]


def test_task_that_was_cancelled_begins_nothing(states: States) -> None:
    """A task that was told to end before it began, and begins nevertheless, as one that SLURM was starting, is refused;
    not so one that is started again later, and another submission."""

    def of_task(array: str, restart: int = 0) -> dict[str, Any]:
        return {"launch": "0001", **Task("slurm", "20", array=array, array_index=7, restart=restart).record()}

    about = {"scheduler": "slurm", "tasks": ["12_7"]}
    states.record_unbegun(7, 1, State.CANCELLED, {"reason": "cancelled by ada"}, about)
    with pytest.raises(JobRefused, match=r"was cancelled before it began \(attempt 1\), and with it 12_7"):
        states.claim(7, of_task("12"), planned=1)
    assert 2 == states.claim(7, of_task("12", restart=1), planned=1)
    states.end(7, 2, State.PREEMPTED)
    states.record_unbegun(7, 3, State.CANCELLED, {"reason": "cancelled by ada"}, about)
    with pytest.raises(JobRefused):  # its second time, which it waited for when it was cancelled
        states.claim(7, of_task("12", restart=2), planned=1)
    assert 4 == states.claim(7, of_task("13"), planned=1)


def test_end_of_an_attempt_that_somebody_else_ended(tmp_path: Path, states: States) -> None:
    """Who comes second to end an attempt hears None, and the first state stays."""
    states.claim(7, {})
    assert State.NODE_FAIL is states.end(7, 1, State.NODE_FAIL)
    assert None is states.end(7, 1, State.COMPLETED)
    assert None is states.end(7, 1, State.NODE_FAIL)
    assert not states.is_running(7, 1)
    assert ["7.1", "7.1.NODE_FAIL"] == names(tmp_path)


def test_attempt_is_ended_once_by_many(states: States, start: Callable[[], Claimer]) -> None:
    """Of several processes that end one attempt at once, one has ended it and the others hear None."""
    claimers = [start() for _ in range(6)]
    for number in range(1, 11):
        assert number == states.claim(7, {})
        for claimer, state in zip(claimers, ("FAILED", "TIMEOUT", "LOST") * 2, strict=True):
            claimer.tell(f"end 7 {number} {state}")
        heard = sorted(claimer.hear() for claimer in claimers)
        assert ["ended None"] * 5 == [said for said in heard if said == "ended None"], heard
        (winner,) = (said.split()[1] for said in heard if said != "ended None")
        assert winner == states.state(7, number)


def test_no_attempt_is_lost_while_others_rename(tmp_path: Path, states: States, start: Callable[[], Claimer]) -> None:
    """During 2,000 renames every table has every attempt, RUNNING or ended, and the last one has them ended."""
    jobs = range(2000)
    place = tmp_path / "train" / "states"
    put(tmp_path, "0.1", "0.1.RUNNING")
    for job_id in jobs[1:]:
        os.link(place / "0.1", place / f"{job_id}.1")
        os.link(place / "0.1", place / f"{job_id}.1.RUNNING")
    renamer = start()
    assert "completed 500" == renamer.ask("complete 500")
    renamer.tell("complete 2000")  # those, and the others

    def seen() -> set[State]:
        table = states.table()
        assert {job_id: [1] for job_id in jobs} == {job_id: list(found) for job_id, found in table.attempts.items()}
        found = {table.state(job_id) for job_id in jobs}
        assert {State.RUNNING, State.COMPLETED} >= found
        return found

    wait_until(lambda: seen() == {State.COMPLETED}, 120)
    assert "completed 1500" == renamer.hear()
    assert {State.COMPLETED} == {states.table().state(job_id) for job_id in jobs[::500]}


def test_claim_killed_at_any_moment_leaves_a_job_that_can_run(tmp_path: Path, states: States) -> None:
    """A process that is killed somewhere in a claim never blocks the job, and no number is skipped."""
    program = (
        "import sys\n"
        "from experiment_manager.store.layout import Folder\n"
        "from experiment_manager.store.states import States\n"
        "states = States(Folder(sys.argv[1], 'train'))\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    states.end(7, states.claim(7, {}), 'FAILED')\n"
    )
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=clean_env()
        )
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
        wait_until(lambda: states.attempts(7))
        process.kill()
        process.communicate()
        number = states.claim(7, {})
        assert number == len(states.attempts(7))
        states.end(7, number, State.COMPLETED)
    assert {State.FAILED, State.LOST, State.COMPLETED} >= set(states.table().attempts[JobId(7)].values())
