"""Decisions, made from what is known: pure functions that the sweeper, the supervisor and the tests call."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

from experiment_manager.errors import OptionsError
from experiment_manager.model.records import ENDED_WELL, UNFINISHED, State
from experiment_manager.typing_names import Any, Final, NamedTuple

RERUN: Final = ("failed", "never", "always")
ON_CHANGE: Final = ("error", "new")
ON_DRIFT: Final = ("error", "warn")
ON_OTHER_PROGRAM: Final = ("error", "same")

DRIFTED: Final = 78
"""Exit code of a job that stopped because it composed something else than was submitted (EX_CONFIG of sysexits.h)."""

UNRECORDED: Final = 74
"""Exit code of a job that did its work and could not write its result down (EX_IOERR of sysexits.h)."""

INCOMPLETE: Final = 75
"""Exit status of an attempt that left with 0 and is not done, or whose end somebody else has recorded (EX_TEMPFAIL)."""

REFUSED: Final = 2
"""Exit code for a user's mistake, as everywhere in the project."""

PARTIAL: Final = 3
"""Exit status of a verb that has told all but what could not be read, which it has named."""


LONGEST_LIMIT_MIN: Final = 60 * 24 * 366 * 10
"""Of a job, in minutes: ten years."""


def to_run(states: Mapping[int, State], ids: Iterable[int], rerun: str) -> list[int]:
    """Of the selected jobs those that are run now.

    PENDING jobs always, jobs that somebody has in hand never; of the ended ones, `failed` takes all that ended
    otherwise than COMPLETED or PRUNED, `always` takes all, `never` none.
    """
    chosen = []
    for job_id in ids:
        state = states.get(job_id, State.PENDING)
        has_ended = state not in UNFINISHED
        is_again = rerun == "always" or (rerun == "failed" and state not in ENDED_WELL)
        if state is State.PENDING or (has_ended and is_again):
            chosen.append(job_id)
    return chosen


def check_rerun(rerun: str) -> None:
    """Raise OptionsError unless it is one of RERUN."""
    if rerun not in RERUN:
        raise OptionsError(f"rerun={rerun} is not known; use {', '.join(RERUN)}")


class Ending(NamedTuple):
    """The end of a child, as its supervisor saw it."""

    returncode: int  # negative: the signal that ended it, see `of_wrapped`
    has_result: bool  # this attempt left a result
    stopped: State | None  # why we were told to stop; None: nobody told us
    was_warned: bool  # USR1 or USR2 came: the time limit is near
    out_of_memory: bool  # the memory cgroup counted a kill meanwhile
    is_fake: bool
    needs_result: bool = False  # exit 0 alone is no success, and nothing was left beside it
    has_trouble: bool = False  # it left an error and no result, or a result that cannot be read back
    was_pruned: bool = False  # it was told that it does worse than others, and has not gone on


def left_result(result: Mapping[str, Any], *, was_stopped: bool) -> bool:
    """Whether the file that an attempt left holds a result, for an attempt that was told to stop or warned.

    Nothing returned means checkpointed and left, unless the job was only warned, or told to stop when the file was
    there already (no `was_stopped` then), and says that it has not been told (`should_stop` never returned true): then
    it has simply ended in time.

    >>> left_result({"result": None, "told": True}, was_stopped=False), left_result({"result": 3}, was_stopped=True)
    (False, True)

    A task that has ended by `sys.exit(0)` leaves nothing, and not whether it was told: it may have been a handler.

    >>> left_result({"result": None}, was_stopped=False)
    False
    """
    if result.get("result") is not None or result.get("refused"):
        return True
    return bool(result) and result.get("told") is False and not was_stopped


def ended_state(ending: Ending) -> State:
    """The state to record. Exit 0 after a warning or a stop is a success only when the result is there; of a job that
    was pruned it says that it has left for that, with a result or without one. A signal that ended a job after it had
    left its result, as when a library fails while the interpreter shuts down, takes nothing from it.

    A dry pass is one whatever its end: the job is what it was before.
    """
    if ending.is_fake:
        return State.FAKE
    interrupted = ending.stopped is not None or ending.was_warned
    has_returned = ending.returncode == 0 or (ending.returncode < 0 and ending.has_result)
    is_well = has_returned and not ending.has_trouble
    if is_well and ending.was_pruned:
        return State.PRUNED
    if is_well and (ending.has_result or not (interrupted or ending.needs_result)):
        return State.COMPLETED
    if ending.returncode != 0 and ending.out_of_memory:
        return State.OUT_OF_MEMORY
    if ending.stopped is not None:
        return ending.stopped
    if ending.was_warned and ending.returncode in (0, -10, -12):
        return State.TIMEOUT
    return State.FAILED


_CRASHES: Final = frozenset({signal.SIGILL, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV})
"""The signals by which a library fails while the interpreter shuts down."""


def of_wrapped(status: int) -> int:
    """The returncode of a program that a shell or a container has started and waited for: by its status this tells of
    a crash, and is ended by no signal itself. A status of KILL, TERM or INT may be of an upload after the program, and
    stays what it is.

    >>> of_wrapped(139), of_wrapped(137), of_wrapped(1), of_wrapped(255), of_wrapped(-9)
    (-11, 137, 1, 255, -9)
    """
    return 128 - status if status - 128 in _CRASHES else status


def exit_status(returncode: int) -> int:
    """The status that a shell would see: 128 + the signal for a child that a signal ended."""
    return returncode if returncode >= 0 else 128 - returncode


class Match(NamedTuple):
    """Where a point of the grid stands among the jobs that are there."""

    job_id: int | None  # None: no such job yet
    is_changed: bool = False  # the job is there with another configuration


def match(
    known: Sequence[tuple[int, str | None]], fingerprint: str, is_alike: Callable[[int], bool] = lambda _: False
) -> Match:
    """Which job of one identity a composed point is: one with that fingerprint, one whose configuration is the same
    under another fingerprint, or one without a configuration yet.

    `known` holds (id, fingerprint) of all jobs of the identity, in order of ids; when all have other configurations the
    newest is named, as changed. `is_alike` is asked only of jobs with other fingerprints, where none has this one.

    >>> match([(0, "a"), (6, "b")], "a"), match([(0, "a")], "b"), match([], "a")
    (Match(job_id=0, is_changed=False), Match(job_id=0, is_changed=True), Match(job_id=None, is_changed=False))
    >>> match([(0, "a"), (3, None), (6, "b")], "c", lambda job_id: job_id == 6)
    Match(job_id=6, is_changed=False)
    """
    exact = (job_id for job_id, found in known if found == fingerprint)
    alike = (job_id for job_id, found in known if found is not None and is_alike(job_id))
    unconfigured = (job_id for job_id, found in known if found is None)
    for job_id in chain(exact, alike, unconfigured):
        return Match(job_id)
    return Match(known[-1][0], is_changed=True) if known else Match(None)


def job_limit_min(value: Any) -> float:
    """The time limit of a job, in minutes, from what somebody has written. Raises OptionsError.

    >>> job_limit_min("0.5"), job_limit_min(90)
    (0.5, 90.0)
    """
    try:
        found = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError):
        found = float("nan")
    if not 0 < found <= LONGEST_LIMIT_MIN:
        raise OptionsError(f"{value!r} is no time limit of a job; write minutes, such as 90 or 0.5, or null for none")
    return found


START_METHODS: Final = ("spawn", "forkserver")
"""How jobs begin, in the words of `multiprocessing`: each by itself, or as copies of a process with their libraries."""


def start_method(value: Any) -> str:
    """One of START_METHODS, from what somebody has written. Raises OptionsError."""
    if value not in START_METHODS:
        raise OptionsError(f"{value!r} is none of {', '.join(START_METHODS)}")
    return str(value)
