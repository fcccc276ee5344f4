"""What became of jobs, decided from every mixture of states, queue, history and time. Nothing here touches a disk."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_manager.model.ids import RangeSet
from experiment_manager.model.records import ENDED, TO_START_AGAIN, JobId, State, Task
from experiment_manager.scheduler.query import ArrayReport, reports
from experiment_manager.scheduler.records import Phase, QueueRow, Run
from experiment_manager.scheduler.slurm.parse import final_state, is_active, phase
from experiment_manager.scheduler.submission import LaunchedArray
from experiment_manager.scheduler.verdicts import (
    CATCHES_UP_S,
    MAY_BE_BEHIND_S,
    MAY_TELL_S,
    Amended,
    Disk,
    Ended,
    LaunchVerdicts,
    NeverBegan,
    Runs,
    TrackedLaunch,
    Waits,
    verdicts,
)
from experiment_manager.store.states import StateTable

NOW = 10_000.0
N_JOBS = 4
NAME, ARRAY, LAUNCH = "e-abc", "12", "0001"

LOGS = {"TIME LIMIT": State.TIMEOUT, "exceeded": State.OUT_OF_MEMORY}

Attempts = dict[int, dict[int, State]]


class World:
    """A launch of four jobs, what is on disk about them, and what their scheduler says."""

    def __init__(
        self,
        attempts: Attempts,
        *,
        ends: Mapping[tuple[int, int], Mapping[str, Any]] = {},
        rows: list[QueueRow] | None = None,
        runs: list[Run] | None = None,
        submitted: float | None = NOW - 1000,
        planned: int = 1,
        log: str = "",
        launch_of: Mapping[tuple[int, int], str] = {},
        has_id: bool = False,
        is_history_silent: bool = False,
        n_workers: int | None = None,
        is_partial: bool = False,
        pack: int = 1,
        starts: Mapping[tuple[int, int], float] = {},
    ) -> None:
        self.pack, self.starts = pack, starts
        self.attempts, self.ends = attempts, {key: dict(end) for key, end in ends.items()}
        self.rows, self.runs, self.log, self.launch_of = rows, runs, log, launch_of
        self.is_history_silent, self.is_ours = is_history_silent, False
        self.unbegun: set[tuple[int, int]] = set()
        self.kept: dict[JobId, int] = {}
        array = LaunchedArray(NAME, "slurm_scripts.sh", tuple(range(N_JOBS)), pack, pack == 1, None, n_workers)
        self.launch = TrackedLaunch(
            number=LAUNCH,
            label="SLURM",
            arrays=[array],
            planned=dict.fromkeys(range(N_JOBS), planned),
            submitted={} if submitted is None else {NAME: submitted},
            seen=lambda _name, _index: False,
            is_ours=True,
            has_id=frozenset({NAME} if has_id else ()),
            partial=frozenset({NAME} if is_partial else ()),
            asked=frozenset({"here"}),
        )

    def anchor(self, job_id: int, number: int) -> Mapping[str, Any]:
        launch = self.launch_of.get((job_id, number), LAUNCH)
        cluster = ("here", "there")[job_id % 2]
        task = Task(
            "slurm", str(100 + job_id), ARRAY, job_id // self.pack, restart=number - 1, user="alice", cluster=cluster
        )
        if (job_id, number) in self.unbegun:
            return {"launch": launch, "scheduler": "slurm", "unbegun": "LOST"}
        return {"launch": launch, "scheduler": "slurm", "start": self.starts.get((job_id, number), NOW - 500.0),
                **task.record()}  # fmt: skip

    def decided(self, now: float = NOW) -> LaunchVerdicts:
        found: Mapping[str, ArrayReport] = {}
        if self.rows is not None:
            is_silent = self.is_history_silent and self.runs is None
            found = reports([NAME], self.rows, self.runs, is_history_silent=is_silent)
        return verdicts(self.launch, self.disk(), found, now)

    def disk(self) -> Disk:
        attempts = {JobId(job_id): dict(numbers) for job_id, numbers in self.attempts.items()}
        return Disk(
            table=StateTable(attempts, (), kept=self.kept),
            anchor=self.anchor,
            end=lambda job_id, number: self.ends.get((job_id, number), {}),
            end_in_log=lambda _task: next((state for words, state in LOGS.items() if words in self.log), None),
            last_words=lambda _task: self.log,
            is_ours=lambda _job_id, _number: self.is_ours,
        )

    def apply(self, decided: LaunchVerdicts, *, is_gone: bool = True) -> None:
        """What `reconcile` writes, into this world; `is_gone`: nothing that has ended runs on, as is known here."""
        for verdict in decided.verdicts:
            if isinstance(verdict, NeverBegan | Ended | Amended):
                fenced = {"fenced_at": NOW} if isinstance(verdict, Ended) and not is_gone else {}
                self.attempts.setdefault(verdict.job_id, {})[verdict.number] = verdict.state
                self.ends[verdict.job_id, verdict.number] = {**verdict.record, **fenced, "state": verdict.state}
            if isinstance(verdict, NeverBegan):
                self.unbegun.add((verdict.job_id, verdict.number))


def row(index: int, word: str, *, reason: str = "", start: float | None = None, array: str = ARRAY) -> QueueRow:
    end = None if is_active(word) else final_state(word)
    return QueueRow(NAME, array, RangeSet([range(index, index + 1)]), phase(word), end, word, reason, start, "alice")


def run(index: int, word: str, *, end_time: float | None = NOW - 10, exit_code: int = 0) -> Run:
    return Run(NAME, ARRAY, index, None, final_state(word), word, exit_code, 0, NOW - 500, end_time, "n1")


# ---------------------------------------------------------------- properties

WORDS = (
    "PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING", "COMPLETED", "FAILED",
    "TIMEOUT", "CANCELLED", "PREEMPTED", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "SOMETHING_NEW",
)  # fmt: skip
STATES = st.sampled_from([State.RUNNING, *sorted(ENDED)])
MARKED = (State.CANCELLED, State.NODE_FAIL, State.LOST)
MOMENTS = st.sampled_from([None, NOW - 2000, NOW - 400, NOW - 5])


@st.composite
def worlds(draw: st.DrawFn) -> World:
    attempts: Attempts = {}
    for job_id in range(N_JOBS):
        n_attempts = draw(st.integers(0, 2))
        if n_attempts:
            ended = {number: draw(st.sampled_from(sorted(ENDED))) for number in range(1, n_attempts)}
            attempts[job_id] = {**ended, n_attempts: draw(STATES)}
    ends = {
        (job_id, number): {
            "state": state,
            "reason": "as recorded",
            "end": NOW - 100,
            **({"ask_scheduler": True} if draw(st.booleans()) and state in MARKED else {}),
            **({"requeued": True} if draw(st.booleans()) else {}),
        }
        for job_id, numbers in attempts.items()
        for number, state in numbers.items()
        if state is not State.RUNNING
    }
    rows = draw(
        st.none()
        | st.lists(
            st.builds(
                row,
                st.integers(0, N_JOBS - 1),
                st.sampled_from(WORDS),
                start=MOMENTS,
                array=st.sampled_from([ARRAY, ARRAY, "15"]),
            ),
            max_size=5,
        )
    )
    runs = draw(
        st.none()
        | st.lists(st.builds(run, st.integers(0, N_JOBS - 1), st.sampled_from(WORDS), end_time=MOMENTS), max_size=6)
    )
    submitted = draw(st.sampled_from([None, NOW - 5, NOW - 1000]))
    planned, silent, n_workers = draw(st.integers(1, 2)), draw(st.booleans()), draw(st.sampled_from([None, N_JOBS]))
    launch_of = {key: draw(st.sampled_from([LAUNCH, LAUNCH, "0007"])) for key in ends}
    about: dict[str, Any] = {
        "planned": planned,
        "is_history_silent": silent,
        "n_workers": n_workers,
        "is_partial": draw(st.booleans()),
    }
    return World(attempts, ends=ends, rows=rows, runs=runs, submitted=submitted, launch_of=launch_of, **about)


@given(worlds())
def test_what_is_recorded_as_ended_stays(world: World) -> None:
    """No verdict changes an attempt that has ended, unless its record says that the scheduler is to be asked."""
    for verdict in world.decided().verdicts:
        if isinstance(verdict, NeverBegan | Ended):
            assert world.attempts.get(verdict.job_id, {}).get(verdict.number, State.RUNNING) is State.RUNNING
        if isinstance(verdict, Amended):
            before = world.ends[verdict.job_id, verdict.number]
            is_same = before.get("requeued") and before["state"] is verdict.state is State.TIMEOUT
            assert before.get("ask_scheduler") or is_same


@given(worlds())
def test_unknown_is_not_failed(world: World) -> None:
    """Where the scheduler could not be asked, nothing ends, and the launch is asked about again."""
    world.rows = None
    decided = world.decided()
    assert not [verdict for verdict in decided.verdicts if isinstance(verdict, NeverBegan | Ended | Amended)]
    if any(State.RUNNING in numbers.values() for numbers in world.attempts.values()):
        running = [job_id for job_id, numbers in world.attempts.items() if numbers[max(numbers)] is State.RUNNING]
        assert decided.is_open or all(max(world.attempts[job_id]) < world.launch.planned[job_id] for job_id in running)


@given(worlds())
def test_what_a_silent_history_leaves_open(world: World) -> None:
    """While the history does not answer, only what is LOST for that is marked, the launch is asked about again, and
    what the history then tells of a task counts."""
    world.rows, world.runs, world.is_history_silent = world.rows or [], None, True
    decided = world.decided()
    lost = {verdict.job_id: verdict for verdict in decided.verdicts
            if isinstance(verdict, NeverBegan | Ended) and "does not tell now" in verdict.record["reason"]}  # fmt: skip
    assert all(verdict.state is State.LOST and verdict.record["ask_scheduler"] for verdict in lost.values())
    assert decided.is_open or not lost
    world.apply(decided)
    world.runs = [Run(NAME, ARRAY, job_id, None, State.TIMEOUT, "TIMEOUT", end_time=NOW) for job_id in lost] * 2
    world.apply(world.decided())
    for job_id, verdict in lost.items():
        assert State.TIMEOUT is world.attempts[job_id][verdict.number]
        assert "ask_scheduler" not in world.ends[job_id, verdict.number]


@given(worlds())
def test_two_readers_agree(world: World) -> None:
    """The same facts have the same verdicts."""
    assert world.decided() == world.decided()


@given(worlds())
def test_applied_twice_nothing_changes(world: World) -> None:
    """What has been recorded is not found out again: a second look ends nothing more, and amends nothing else."""
    world.apply(world.decided())
    before = {job_id: dict(numbers) for job_id, numbers in world.attempts.items()}
    world.apply(world.decided())
    assert before == world.attempts


@given(worlds(), st.booleans())
def test_the_next_look_tells_the_same(world: World, is_gone: bool) -> None:
    """What waits, and is going to run again, does so for the look that records how it ended, too."""
    first = world.decided()
    world.apply(first, is_gone=is_gone)
    assert waiting_in(first) == waiting_in(world.decided())


@pytest.mark.parametrize("is_gone", [True, False])
@pytest.mark.parametrize("word", ["TIMEOUT", "PREEMPTED", "NODE_FAIL"])
def test_another_submission_that_ran_all_the_time_has_passed_over_a_job(word: str, is_gone: bool) -> None:
    """The script was submitted twice, and the other task runs another job of its pack: at each look the job is what it
    has come to, but for what may begin again."""
    rows = [row(0, "RUNNING", start=NOW - 400, array="15")]
    world = World({0: {1: State.RUNNING}}, rows=rows, runs=[run(0, word)], submitted=None)
    looks = [world.decided()]
    for _ in range(2):
        world.apply(looks[-1], is_gone=is_gone)
        looks.append(world.decided())
    assert [[] if word == "TIMEOUT" else [JobId(0)]] * 3 == [waiting_in(look) for look in looks]


@pytest.mark.parametrize("fenced", [{}, {"fenced_at": NOW - 5}])
def test_its_own_task_that_was_started_since_begins_a_job_again(fenced: Mapping[str, Any]) -> None:
    """Whenever that was found out."""
    rows = [row(0, "RUNNING", start=NOW - 400)]
    world = World({0: {1: State.TIMEOUT}}, ends={(0, 1): fenced}, rows=rows, runs=[], submitted=None)
    assert [JobId(0)] == waiting_in(world.decided())


@pytest.mark.parametrize("state", [State.PREEMPTED, State.NODE_FAIL])
def test_that_a_task_is_not_seen_says_nothing_of_its_next_run(state: State) -> None:
    """Somebody else may have submitted it: it is asked for by its id before the launch is over."""
    done = {job_id: {1: State.COMPLETED} for job_id in range(1, N_JOBS)}
    world = World({0: {1: state}, **done}, rows=[], runs=[run(0, str(state))], has_id=True)
    looked = world.decided()
    assert (frozenset({NAME}), True) == (looked.absent, looked.is_open)
    said = {NAME: reports([NAME], world.rows or (), world.runs)[NAME].as_final()}
    assert LaunchVerdicts([], False) == verdicts(world.launch, world.disk(), said, NOW)


def waiting_in(decided: LaunchVerdicts) -> list[JobId]:
    return sorted(verdict.job_id for verdict in decided.verdicts if isinstance(verdict, Waits))


@given(worlds())
def test_a_job_is_in_one_place(world: World) -> None:
    """No job both runs and waits, and each has at most one verdict of a kind."""
    found = world.decided().verdicts
    waits = [verdict.job_id for verdict in found if isinstance(verdict, Waits)]
    runs = [verdict.job_id for verdict in found if isinstance(verdict, Runs)]
    ends = [verdict.job_id for verdict in found if isinstance(verdict, NeverBegan | Ended | Amended)]
    assert not set(waits) & set(runs)
    for ids in (waits, runs, ends):
        assert len(set(ids)) == len(ids)


@given(worlds())
def test_completed_is_left_alone(world: World) -> None:
    """A job whose last attempt of this launch has completed has no verdict at all."""
    for verdict in world.decided().verdicts:
        numbers = world.attempts.get(verdict.job_id, {})
        newest = max(numbers, default=0)
        assert newest < world.launch.planned[verdict.job_id] or numbers[newest] is not State.COMPLETED


# ---------------------------------------------------------------- cases


def states_of(world: World, now: float = NOW) -> list[tuple[str, Any]]:
    """The kind of each verdict, and what it says."""
    told = []
    for verdict in world.decided(now).verdicts:
        said = verdict.reason if isinstance(verdict, Waits) else verdict.word if isinstance(verdict, Runs) else None
        told.append((type(verdict).__name__, said or verdict.state))  # type: ignore[union-attr]
    return told


CASES: list[tuple[str, World, list[tuple[str, Any]]]] = [
    ("waits in the queue", World({}, rows=[row(0, "PENDING", reason="Resources")], submitted=None),
     [("Waits", "Resources")]),
    ("is being started", World({}, rows=[row(0, "COMPLETING")], submitted=None), [("Waits", "starting")]),
    ("not submitted", World({}, rows=[], runs=[], submitted=None), []),
    ("just submitted", World({}, rows=[], runs=[], submitted=NOW - 5), [("Waits", "submitted")] * N_JOBS),
    ("taken out of the array", World({}, rows=[], runs=[]), [("NeverBegan", State.CANCELLED)] * N_JOBS),
    ("forgotten, without a history", World({}, rows=[], runs=None), [("NeverBegan", State.LOST)] * N_JOBS),
    ("ended before the job began", World({}, rows=[], runs=[run(0, "FAILED", exit_code=127)], submitted=None),
     [("NeverBegan", State.FAILED)]),
    ("completed, and the job never began", World({}, rows=[], runs=[run(1, "COMPLETED")], submitted=None),
     [("NeverBegan", State.LOST)]),
    ("runs", World({0: {1: State.RUNNING}}, rows=[row(0, "RUNNING")], submitted=None), [("Runs", "running")]),
    ("runs, as last known", World({0: {1: State.RUNNING}}, submitted=None), [("Runs", "as last known")]),
    ("killed at its limit", World({0: {1: State.RUNNING}}, rows=[], runs=[run(0, "TIMEOUT")], submitted=None),
     [("Ended", State.TIMEOUT)]),
    ("history has not caught up", World({0: {1: State.RUNNING}}, rows=[], runs=[], submitted=None), []),
    ("put back", World({0: {1: State.RUNNING}}, rows=[row(0, "PENDING", reason="BeginTime")], runs=[], submitted=None),
     [("Ended", State.NODE_FAIL), ("Waits", "BeginTime")]),
    ("put back, without a history",
     World({0: {1: State.RUNNING}}, rows=[row(0, "PENDING", reason="BeginTime")], runs=None, submitted=None),
     [("Ended", State.NODE_FAIL), ("Waits", "BeginTime")]),
    ("without a history, by its log",
     World({0: {1: State.RUNNING}}, rows=[], runs=None, log="DUE TO TIME LIMIT", submitted=None),
     [("Ended", State.TIMEOUT)]),
    ("killed for memory, as only its log says",
     World({0: {1: State.RUNNING}}, rows=[], runs=[run(0, "FAILED")], log="exceeded", submitted=None),
     [("Ended", State.OUT_OF_MEMORY)]),
    ("suspended", World({0: {1: State.RUNNING}}, rows=[row(0, "SUSPENDED")], submitted=None), [("Runs", "suspended")]),
    ("without a history and a log", World({0: {1: State.RUNNING}}, rows=[], runs=None, submitted=None),
     [("Ended", State.LOST)]),
    ("completed, and recorded no end",
     World({0: {1: State.RUNNING}}, rows=[], runs=[run(0, "COMPLETED")], submitted=None), [("Ended", State.LOST)]),
    ("preempted, and will start again",
     World({0: {1: State.PREEMPTED}}, ends={(0, 1): {"end": NOW - 50}}, rows=[row(0, "REQUEUED")], submitted=None),
     [("Waits", "requeued")]),
    ("its node is made ready", World({}, rows=[row(0, "CONFIGURING")], submitted=None), [("Waits", "configuring")]),
    ("cancelled, in truth by the limit",
     World({0: {1: State.CANCELLED}}, ends={(0, 1): {"state": "CANCELLED", "ask_scheduler": True}}, rows=[],
           runs=[run(0, "TIMEOUT")], submitted=None), [("Amended", State.TIMEOUT)]),
    ("the same, as 0.1 wrote it",
     World({0: {1: State.CANCELLED}}, ends={(0, 1): {"state": "CANCELLED", "ask_slurm": True}}, rows=[],
           runs=[run(0, "TIMEOUT")], submitted=None), [("Amended", State.TIMEOUT)]),
    ("an attempt of another launch",
     World({0: {1: State.RUNNING}}, rows=[], runs=[run(0, "TIMEOUT")], submitted=None, launch_of={(0, 1): "0007"}), []),
    ("another launch has run it, and its task, which waits, leaves it alone",
     World({0: {1: State.FAILED}}, rows=[row(0, "PENDING")], submitted=None, launch_of={(0, 1): "0007"}), []),
    ("submitted twice: one task has ended, the other waits",
     World({0: {1: State.RUNNING}}, rows=[row(0, "PENDING", reason="Priority", array="15")], runs=[run(0, "TIMEOUT")],
           submitted=None), [("Ended", State.TIMEOUT), ("Waits", "Priority")]),
    ("preempted, and a cluster that is not asked may have it",
     World({0: {1: State.RUNNING}}, rows=[], runs=[run(0, "PREEMPTED")], submitted=None, is_partial=True),
     [("Ended", State.PREEMPTED), ("Waits", "as last known")]),
    ("cancelled, in truth by the limit, where another cluster may have its tasks, too",
     World({0: {1: State.CANCELLED}}, ends={(0, 1): {"state": "CANCELLED", "ask_scheduler": True}}, rows=[],
           runs=[run(0, "TIMEOUT")], submitted=None, is_partial=True), [("Amended", State.TIMEOUT)]),
]  # fmt: skip


def workers(
    attempts: Attempts,
    word: str | None,
    *,
    array: str = ARRAY,
    runs: list[Run] | None = None,
    start: float = NOW - 900,
) -> World:
    """A launch of which one worker, which had job 0 in hand, is all that the queue has; None: it is not asked."""
    asks = {(0, max(attempts[0])): {"state": "CANCELLED", "ask_scheduler": True, "end": NOW - 50}}
    ends = asks if State.CANCELLED in attempts[0].values() else {}
    rows = None if word is None else [row(0, word, reason="BeginTime", array=array, start=start)]
    return World(attempts, ends=ends, rows=rows, runs=runs, n_workers=1)


DIED_TWICE: Attempts = {0: {1: State.LOST, 2: State.NODE_FAIL}}  # more often than others take it again
TAKEN_AGAIN = [
    ("put back while nobody could ask why, and the history is behind",
     workers({0: {1: State.CANCELLED}}, "PENDING", runs=[]), True),
    ("the same without a history", workers({0: {1: State.CANCELLED}}, "PENDING"), True),
    ("cancelled, and its worker, which has another one, goes on",
     workers({0: {1: State.CANCELLED}}, "RUNNING", runs=[]), False),
    ("put back, and has died before", workers(DIED_TWICE, "PENDING", runs=[]), True),
    ("put back, and its supervisor had been killed",
     workers({0: {1: State.LOST, 2: State.LOST}}, "PENDING", runs=[]), True),
    ("its supervisor has been killed twice", workers({0: {1: State.LOST, 2: State.LOST}}, "RUNNING", runs=[]), False),
    ("put back, and its supervisor had been killed: it runs again",
     workers({0: {1: State.LOST, 2: State.LOST}}, "RUNNING", runs=[], start=NOW - 5), True),
    ("put back, and the scheduler does not answer now", workers(DIED_TWICE, None), True),
    ("workers that were submitted once more run, and its own is gone",
     workers(DIED_TWICE, "RUNNING", array="15", runs=[]), False),
    ("is put back when it is told to have died", workers({0: {1: State.RUNNING}}, "PENDING", runs=[]), True),
    ("is put back when it is told to have made room",
     workers({0: {1: State.RUNNING}}, "PENDING", runs=[run(0, "PREEMPTED")]), True),
]  # fmt: skip


@pytest.mark.parametrize(("world", "is_taken"), [one[1:] for one in TAKEN_AGAIN], ids=[one[0] for one in TAKEN_AGAIN])
def test_what_a_worker_takes_again_is_queued(world: World, is_taken: bool) -> None:
    """As long as a worker is there that is going to, by the rule by which it does so: see `is_taken_again`."""
    decided = world.decided()
    assert is_taken == (JobId(0) in waiting_in(decided))
    assert {JobId(1), JobId(2), JobId(3)} <= set(waiting_in(decided))
    assert not any(isinstance(verdict, Amended) for verdict in decided.verdicts)


def packed(first: dict[int, State], second: dict[int, State], word: str, *, array: str = ARRAY, **end: Any) -> World:
    """Four jobs that share a task, of which the last two have completed; what began as attempt 2 did so since the task
    was started, which was after the ends of all others. `end` is the record of how the first job ended."""
    done = {2: {1: State.COMPLETED}, 3: {1: State.COMPLETED}}
    ends = {(0, 1): {**end, "end": NOW - 100}, (1, 1): {"end": NOW - 100}}
    rows = [row(0, word, reason="BeginTime", start=NOW - 50, array=array)]
    starts = {(job_id, 2): NOW - 40 for job_id in range(N_JOBS)}
    return World({0: first, 1: second, **done}, ends=ends, rows=rows, submitted=None, pack=N_JOBS, starts=starts)


FAILED, LOST = {1: State.FAILED}, {1: State.LOST}
OWN_LIMIT, PREEMPTED = {1: State.TIMEOUT}, {1: State.PREEMPTED}
PACKS = [
    ("it failed, and another one made room", packed(FAILED, PREEMPTED, "PENDING"), [1]),
    ("it ran over its own limit, and another one died", packed(OWN_LIMIT, LOST, "PENDING"), [1]),
    ("people have cancelled it", packed({1: State.CANCELLED}, PREEMPTED, "PENDING"), [1]),
    ("it was told to end, and nobody could say why",
     packed({1: State.CANCELLED}, PREEMPTED, "PENDING", ask_scheduler=True), [0, 1]),
    ("another one has not begun", packed(OWN_LIMIT, {}, "PENDING"), [1]),
    ("both are to be started again", packed(OWN_LIMIT, PREEMPTED, "PENDING", requeued=True), [0, 1]),
    ("the task was put back by hand", packed(OWN_LIMIT, FAILED, "PENDING"), [0, 1]),
    ("it runs the other one again", packed(FAILED, {**PREEMPTED, 2: State.RUNNING}, "RUNNING"), []),
    ("it has run the other one again", packed(FAILED, {**PREEMPTED, 2: State.COMPLETED}, "RUNNING"), []),
    ("put back by hand, it runs the other one first", packed(FAILED, {**FAILED, 2: State.RUNNING}, "RUNNING"), [0]),
    ("the script was submitted twice, and the other task waits",
     packed(FAILED, PREEMPTED, "PENDING", array="15"), [0, 1]),
]  # fmt: skip


@pytest.mark.parametrize(("world", "waiting"), [one[1:] for one in PACKS], ids=[one[0] for one in PACKS])
def test_what_a_task_of_several_jobs_leaves_alone_does_not_wait(world: World, waiting: list[int]) -> None:
    """It is what it has come to: the task, started again for others, runs it no more."""
    assert waiting == waiting_in(world.decided())


@pytest.mark.parametrize(("world", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_cases(world: World, expected: list[tuple[str, Any]]) -> None:
    """What is decided in each situation that was seen on real clusters."""
    assert expected == states_of(world)


def test_a_job_that_is_done_does_not_wait() -> None:
    """Where it is done, and an attempt after that never began, a task of the launch that it is done for leaves it
    alone; one of a launch that was to run it once more does not."""
    attempts = {0: {1: State.COMPLETED, 2: State.CANCELLED}}
    for planned, expected in ((1, []), (2, [("Waits", "Priority")])):
        world = World(attempts, rows=[row(0, "PENDING", reason="Priority")], submitted=None, planned=planned,
                      launch_of={(0, 2): "0007"})  # fmt: skip
        world.unbegun.add((0, 2))
        world.kept = {JobId(0): 1}
        assert expected == states_of(world)


@pytest.mark.parametrize("runs", [[], None], ids=["history", "no history"])
def test_absence_alone_ends_nothing(runs: list[Run] | None) -> None:
    """What is not among the names that were asked for waits, and runs, until its array itself was asked for."""
    world = World({1: {1: State.RUNNING}}, rows=[], runs=runs, has_id=True)
    decided = world.decided()
    assert {NAME} == decided.absent
    assert {JobId(0), JobId(2), JobId(3)} == {found.job_id for found in decided.verdicts if isinstance(found, Waits)}
    assert decided.is_open
    assert not any(isinstance(found, NeverBegan | Ended) for found in decided.verdicts)
    final = verdicts(world.launch, world.disk(), {NAME: reports([NAME], [], runs)[NAME].as_final()}, NOW)
    assert not final.absent
    assert {JobId(0), JobId(2), JobId(3)} == {found.job_id for found in final.verdicts if isinstance(found, NeverBegan)}


@pytest.mark.parametrize("runs", [[], None, [run(0, "COMPLETED")], [run(0, "REQUEUED")]])
def test_what_was_not_started_again_stays_ended(runs: list[Run] | None) -> None:
    """A job that left at its time limit, and was to be started again, is TIMEOUT for good where the scheduler has no
    task of it, as where it has refused that: its record says so. Absence alone is believed of what was asked by id."""
    end = {"state": State.TIMEOUT, "reason": f"it left{TO_START_AGAIN}", "requeued": True, "end": NOW - 9, "x": 1}
    about: dict[str, Any] = {"ends": {(0, 1): end}, "runs": runs, "submitted": None}
    attempts: Attempts = {0: {1: State.TIMEOUT}}
    assert [("Waits", "BeginTime")] == states_of(World(attempts, rows=[row(0, "PENDING", reason="BeginTime")], **about))
    assert [("Waits", "as last known")] == states_of(World(attempts, **about))
    for_good = {"reason": "it left; SLURM has not started it again", "end": NOW - 9, "x": 1}
    amended = Amended(JobId(0), 1, State.TIMEOUT, for_good)
    assert [amended] == World(attempts, rows=[], **about).decided().verdicts
    by_name = World(attempts, rows=[], has_id=True, **about).decided()
    is_told = runs == [run(0, "COMPLETED")]
    assert ([amended] if is_told else []) == by_name.verdicts
    assert is_told == (not by_name.absent)


def test_what_may_be_hidden_runs_as_last_known() -> None:
    """A task that the scheduler may not show us has not ended because it is not seen; what its log tells counts."""
    world = World({0: {1: State.RUNNING}}, rows=[], runs=None, submitted=None)
    assert [("Ended", State.LOST)] == states_of(world)
    world.launch = world.launch._replace(may_hide=lambda user: user == "alice")
    assert [("Runs", "as last known")] == states_of(world)
    world.is_ours = True  # also where we have another name here
    assert [("Ended", State.LOST)] == states_of(world)
    world.is_ours = False
    world.runs = []
    assert [("Runs", "as last known")] == states_of(world)
    world.runs, world.log = None, "DUE TO TIME LIMIT"
    assert [("Ended", State.TIMEOUT)] == states_of(world)
    world.attempts, world.log = {0: {1: State.CANCELLED}}, ""
    world.ends[0, 1] = {"state": "CANCELLED", "ask_scheduler": True}
    assert ([], True) == (states_of(world), world.decided().is_open)


def test_a_history_that_is_behind_may_know_better() -> None:
    """A task that is unknown to the queue, and whose whole array is unknown to the history, is CANCELLED until the
    history tells more, within a day of the submission; a single one that it does not know was taken out."""
    known = World({}, rows=[], runs=[run(1, "RUNNING", end_time=None)], submitted=NOW - 1000)
    assert [None] * 3 == [found.record.get("ask_scheduler") for found in ends_of(known)]
    world = World({}, rows=[], runs=[], submitted=NOW - 1000)
    assert [(State.CANCELLED, True)] * N_JOBS == [
        (found.state, found.record["ask_scheduler"]) for found in ends_of(world)
    ]
    assert world.decided().is_open
    world.apply(world.decided())
    assert ([], True) == (ends_of(world), world.decided().is_open)
    world.runs = [run(0, "FAILED", exit_code=127), run(1, "CANCELLED"), run(2, "COMPLETED")]
    world.apply(world.decided())
    states = {job: numbers[1] for job, numbers in world.attempts.items()}
    assert {0: State.FAILED, 1: State.CANCELLED, 2: State.LOST, 3: State.CANCELLED} == states
    assert "SLURM: FAILED, exit code 127 on n1 before the job began" == world.ends[0, 1]["reason"]
    later = world.decided(NOW + MAY_BE_BEHIND_S)
    world.apply(later)
    assert (False, [3]) == (later.is_open, [found.job_id for found in later.verdicts])
    assert (State.CANCELLED, None) == (world.attempts[3][1], world.ends[3, 1].get("ask_scheduler"))
    assert [None] * N_JOBS == [
        found.record.get("ask_scheduler") for found in ends_of(World({}, rows=[], runs=[], submitted=NOW - 90_000))
    ]


def test_a_task_that_was_cancelled_is_named() -> None:
    """Where the scheduler says that a task was cancelled before its job began, the record names it, so that it begins
    nothing later; not so where another cluster of a federation runs it, nor where it died."""
    runs = [run(0, "CANCELLED"), run(1, "REVOKED"), run(2, "NODE_FAIL"), run(3, "FAILED")]
    found = {one.job_id: one.about for one in ends_of(World({}, rows=[], runs=runs)) if isinstance(one, NeverBegan)}
    assert {0: [runs[0].task], 1: None, 2: None, 3: None} == {job: about.get("tasks") for job, about in found.items()}


@pytest.mark.parametrize("was", [State.LOST, State.NODE_FAIL, State.CANCELLED])
@pytest.mark.parametrize("runs", [[], None], ids=["does not know it", "does not answer"])
def test_nobody_is_asked_for_ever(was: State, runs: list[Run] | None) -> None:
    """What a history does not tell of an attempt is asked for a month after its end, whether it does not answer or does
    not know it; the state stays what it was. A scheduler that cannot be asked from here has not had its time."""
    end = {"state": was, "reason": "gone", "ask_scheduler": True, "fenced_at": NOW + 1000}
    about: dict[str, Any] = {"ends": {(0, 1): end}, "submitted": None, "is_history_silent": True}
    world = World({0: {1: was}}, rows=[], runs=runs, **about)
    before, after = NOW + 1000 + MAY_TELL_S - 1, NOW + 1000 + MAY_TELL_S
    assert ([], True) == (world.decided(before).verdicts, world.decided(before).is_open)
    for_good = Amended(JobId(0), 1, was, {"reason": "gone", "fenced_at": NOW + 1000})
    world.rows = None
    assert [] == ends_of(world, after)
    world.rows = []
    world.apply(found := world.decided(after))
    assert ([for_good], {1: was}) == (list(found.verdicts), world.attempts[0])
    world.runs = [run(0, "TIMEOUT")]
    assert [] == [one for one in ends_of(world, after) if isinstance(one, Amended)]


def test_an_attempt_that_no_history_knows_runs_no_more() -> None:
    """A day after an attempt began whose task its own cluster, asked for its array, has no more, and the history knows
    no run of, it is LOST, and asked about; not before, not by absence alone, and not by another cluster's word."""
    world, later = World({0: {1: State.RUNNING}}, rows=[], runs=[]), NOW - 500 + MAY_BE_BEHIND_S
    by_id = {NAME: reports([NAME], [], [])[NAME].as_final()}
    world.launch = world.launch._replace(asked=frozenset({"here"}))

    def of_job(said: Mapping[str, ArrayReport], now: float, cluster: str | None = "here") -> list[Any]:
        disk = world.disk()._replace(anchor=lambda *about: {**world.anchor(*about), "cluster": cluster})
        found = verdicts(world.launch, disk, said, now).verdicts
        return [one for one in found if one.job_id == 0]

    assert [] == of_job(by_id, later - 1)
    (ended,) = of_job(by_id, later)
    assert (Ended, State.LOST, True) == (type(ended), ended.state, ended.record["ask_scheduler"])
    assert [] == of_job({NAME: reports([NAME], [], [])[NAME]}, later)
    assert [] == of_job(by_id, later, "other") == of_job(by_id, later, None)
    known = [run(0, "RUNNING", end_time=None)]
    assert [] == of_job({NAME: reports([NAME], [], known)[NAME].as_final()}, later)
    there = [row(0, "RUNNING")]
    assert [Runs] == [type(one) for one in of_job({NAME: reports([NAME], there, [])[NAME].as_final()}, later)]
    world.launch = world.launch._replace(may_hide=lambda user: user == "alice")
    assert [Runs] == [type(one) for one in of_job(by_id, later)]


def ends_of(world: World, now: float = NOW) -> list[NeverBegan | Ended | Amended]:
    return [found for found in world.decided(now).verdicts if isinstance(found, NeverBegan | Ended | Amended)]


def test_the_history_is_given_time() -> None:
    """A task that nobody knows counts as submitted for a minute, and only then as taken out of the array."""
    world = World({}, rows=[], runs=[], submitted=NOW)
    assert ("Waits", "submitted") == states_of(world, NOW + CATCHES_UP_S - 1)[0]
    assert ("NeverBegan", State.CANCELLED) == states_of(world, NOW + CATCHES_UP_S + 1)[0]


JOB_STATE_CODES = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "CONFIGURING", "COMPLETING", "DEADLINE", "FAILED", "LAUNCH_FAILED",
    "NODE_FAIL", "OUT_OF_MEMORY", "PENDING", "POWER_UP_NODE", "PREEMPTED", "RECONFIG_FAIL", "RESV_DEL_HOLD",
    "REQUEUE_FED", "REQUEUE_HOLD", "REQUEUED", "RESIZING", "REVOKED", "RUNNING", "SIGNALING", "SPECIAL_EXIT",
    "STAGE_OUT", "STOPPED", "SUSPENDED", "TIMEOUT", "UPDATE_DB",
)  # fmt: skip
"""All of SLURM's manual, https://slurm.schedmd.com/squeue.html#lbAG."""


@pytest.mark.parametrize("word", JOB_STATE_CODES)
def test_every_word_of_the_manual_has_a_phase(word: str) -> None:
    """Each of SLURM's words is a phase, and it has an end exactly where the phase is that of something that ended."""
    assert (phase(word) is Phase.ENDED) == (final_state(word) is not None and word != "REQUEUED")


WAITING = (
    "PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT",
    "POWER_UP_NODE",
)  # fmt: skip


@pytest.mark.parametrize("word", [*JOB_STATE_CODES, "SOMETHING_NEW"])
def test_only_what_waits_has_been_put_back(word: str) -> None:
    """An attempt that counts as RUNNING is ended where SLURM says that its task waits, or has ended, and under no other
    word, one of which we have never heard among them."""
    decided = World({0: {1: State.RUNNING}}, rows=[row(0, word)], runs=[], submitted=None).decided()
    has_ended = any(isinstance(found, Ended) for found in decided.verdicts)
    assert has_ended == (word in WAITING or (final_state(word) is not None and word != "REQUEUED"))
