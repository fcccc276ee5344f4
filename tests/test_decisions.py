"""Decisions as tables: what is known on the left, what is done on the right."""

import itertools
import subprocess

import pytest

from experiment_manager.model.policy import Ending, Match, ended_state, exit_status, match, of_wrapped, to_run
from experiment_manager.model.records import ENDED, ENDED_WELL, UNFINISHED, State


@pytest.mark.parametrize(
    ("state", "failed", "never", "always"),
    [
        (State.PENDING, True, True, True),
        (State.QUEUED, False, False, False),
        (State.RUNNING, False, False, False),
        (State.COMPLETED, False, False, True),
        (State.FAILED, True, False, True),
        (State.TIMEOUT, True, False, True),
        (State.OUT_OF_MEMORY, True, False, True),
        (State.CANCELLED, True, False, True),
        (State.PREEMPTED, True, False, True),
        (State.NODE_FAIL, True, False, True),
        (State.LOST, True, False, True),
        (State.PRUNED, False, False, True),
        (State.FAKE, True, False, True),
    ],
)
def test_what_runs_again(state: State, failed: bool, never: bool, always: bool) -> None:
    """PENDING always runs, what somebody has in hand never; of the ended ones, what `rerun` says."""
    chosen = [bool(to_run({4: state}, [4], rerun)) for rerun in ("failed", "never", "always")]
    assert [failed, never, always] == chosen


def test_every_state_has_its_row() -> None:
    """Every state is either unfinished or ended."""
    assert set(State) == UNFINISHED | ENDED
    assert frozenset() == UNFINISHED & ENDED


def test_jobs_to_run_keep_their_order() -> None:
    """The selected jobs alone are looked at, in the order of the selection; one without a state is PENDING."""
    states = {1: State.FAILED, 2: State.COMPLETED, 3: State.FAILED, 9: State.FAILED}
    assert [7, 3, 1] == to_run(states, [7, 3, 2, 1], "failed")


def ending(
    returncode: int,
    *,
    result: bool = False,
    stopped: State | None = None,
    warned: bool = False,
    oom: bool = False,
    fake: bool = False,
    pruned: bool = False,
) -> Ending:
    return Ending(returncode, result, stopped, warned, oom, fake, was_pruned=pruned)


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        (ending(0), State.COMPLETED),
        (ending(0, result=True), State.COMPLETED),
        (ending(0, oom=True), State.COMPLETED),
        (ending(0, warned=True), State.TIMEOUT),
        (ending(0, warned=True, result=True), State.COMPLETED),
        (ending(0, stopped=State.PREEMPTED), State.PREEMPTED),
        (ending(0, stopped=State.CANCELLED, warned=True), State.CANCELLED),
        (ending(0, stopped=State.CANCELLED, result=True), State.COMPLETED),
        (ending(1), State.FAILED),
        (ending(1, result=True), State.FAILED),
        (ending(1, warned=True), State.FAILED),
        (ending(1, stopped=State.TIMEOUT), State.TIMEOUT),
        (ending(1, stopped=State.TIMEOUT, result=True), State.TIMEOUT),
        (ending(-9), State.FAILED),
        (ending(-9, oom=True), State.OUT_OF_MEMORY),
        (ending(1, oom=True), State.OUT_OF_MEMORY),
        (ending(-15, stopped=State.CANCELLED), State.CANCELLED),
        (ending(-9, stopped=State.TIMEOUT), State.TIMEOUT),
        (ending(-10, warned=True), State.TIMEOUT),
        (ending(-12, warned=True), State.TIMEOUT),
        (ending(-10), State.FAILED),
        (ending(-11, warned=True), State.FAILED),
        (ending(-11), State.FAILED),
        (ending(0, pruned=True), State.PRUNED),
        (ending(0, pruned=True, result=True), State.PRUNED),
        (ending(0, pruned=True, stopped=State.PREEMPTED), State.PRUNED),
        (ending(0, pruned=True, warned=True), State.PRUNED),
        (ending(-11, pruned=True, result=True), State.PRUNED),
        (ending(1, pruned=True), State.FAILED),
        (ending(-15, pruned=True, stopped=State.CANCELLED), State.CANCELLED),
        *(
            (ending(of_wrapped(status), result=True, stopped=stopped), State.COMPLETED)
            for status, stopped in itertools.product((132, 134, 135, 136, 139), (None, State.TIMEOUT, State.CANCELLED))
        ),
        *(
            (ending(of_wrapped(status), result=True, stopped=stopped), stopped or State.FAILED)
            for status, stopped in itertools.product((1, 130, 137, 138, 143, 255), (None, State.TIMEOUT))
        ),
        *((ending(status, result=True, oom=True), State.OUT_OF_MEMORY) for status in (1, 137, 139)),
        (ending(of_wrapped(139)), State.FAILED),
        (ending(of_wrapped(143), stopped=State.TIMEOUT), State.TIMEOUT),
        (ending(of_wrapped(137), oom=True), State.OUT_OF_MEMORY),
    ],
)
def test_how_an_attempt_ended(seen: Ending, state: State) -> None:
    """Exit 0 after a warning or a stop is a success with a result only; a memory kill is told from other failures."""
    assert state is ended_state(seen)


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        (ending(0, fake=True), State.FAKE),
        (ending(0, result=True, fake=True), State.FAKE),
        (ending(0, pruned=True, fake=True), State.FAKE),
        (ending(3, fake=True), State.FAKE),
        (ending(-9, oom=True, fake=True), State.FAKE),
        (ending(0, stopped=State.CANCELLED, fake=True), State.FAKE),
    ],
)
def test_how_a_dry_pass_ended(seen: Ending, state: State) -> None:
    """A dry pass is FAKE whatever its end: a failed one says nothing about the job."""
    assert state is ended_state(seen)


def test_no_ending_is_unfinished_and_no_failure_completed() -> None:
    """Whatever a supervisor saw, the state is an ended one; only what has ended with 0, or by a signal after
    it had left its result, is COMPLETED or PRUNED, the latter if it was told, and no dry pass is."""
    stops = (None, State.TIMEOUT, State.CANCELLED, State.PREEMPTED)
    both = (False, True)
    for code, result, stopped, warned, oom, fake, pruned in itertools.product(
        (0, 1, -9, -10), both, stops, both, both, both, both
    ):
        seen = ending(code, result=result, stopped=stopped, warned=warned, oom=oom, fake=fake, pruned=pruned)
        state = ended_state(seen)
        assert state in ENDED
        if state in ENDED_WELL:
            assert 0 == code or (code < 0 and result)
            assert (fake, pruned) == (False, state is State.PRUNED)
            assert result or pruned or not (warned or stopped)


@pytest.mark.parametrize(
    ("returncode", "status"), [(0, 0), (1, 1), (78, 78), (255, 255), (-9, 137), (-15, 143), (-11, 139)]
)
def test_exit_status(returncode: int, status: int) -> None:
    """A child that a signal ended has the status that a shell gives it."""
    assert status == exit_status(returncode)


@pytest.mark.parametrize("script", ["exit 7", "kill -9 $$", "kill -USR1 $$"])
def test_exit_status_is_what_bash_says(script: str) -> None:
    """The rule is the shell's own: a real shell says the same of the same child."""
    child = subprocess.run(["bash", "-c", script], check=False).returncode
    shell = subprocess.run(["bash", "-c", f"bash -c '{script}'; exit $?"], check=False, capture_output=True).returncode
    assert shell == exit_status(child)


@pytest.mark.parametrize(
    ("known", "fingerprint", "expected"),
    [
        ([], "a", Match(None)),
        ([(0, "a")], "a", Match(0)),
        ([(0, None)], "a", Match(0)),
        ([(0, "b")], "a", Match(0, is_changed=True)),
        ([(0, "b"), (4, "c")], "a", Match(4, is_changed=True)),
        ([(0, "b"), (4, "a")], "a", Match(4)),
        ([(0, "a"), (4, "b")], "a", Match(0)),
        ([(0, None), (4, "a")], "a", Match(4)),
        ([(0, "b"), (4, None)], "a", Match(4)),
        ([(0, "a"), (4, "a")], "a", Match(0)),
    ],
)
def test_match(known: list[tuple[int, str | None]], fingerprint: str, expected: Match) -> None:
    """The job with that fingerprint; else one that has none yet; else the newest, as changed; else no job."""
    assert expected == match(known, fingerprint)
