"""How an attempt ends that submitit runs, once it is warned, as by SLURM before the time limit.

submitit's signal handler has the task started again, and leaves with SystemExit from wherever the task function is; or
it does not, and raises there why. Nothing of submitit is imported.
"""

from traceback import walk_tb
from typing import Final, NamedTuple

from experiment_manager.model.records import TO_START_AGAIN, State

_MODULE: Final = "submitit.core.job_environment"
_HANDLERS: Final = ("checkpoint_and_try_requeue", "checkpoint_and_exit")


class End(NamedTuple):
    """How an attempt has ended."""

    state: State
    reason: str | None
    is_to_requeue: bool = False


def end_by_warning(error: BaseException) -> End | None:
    """How an attempt has ended that was left by this exception, where submitit's handler has raised it; None where
    anything else has."""
    for frame, _ in walk_tb(error.__traceback__):
        if frame.f_code.co_name in _HANDLERS and frame.f_globals.get("__name__") == _MODULE:
            is_over_limit = bool(frame.f_locals.get("timed_out"))  # as submitit takes it, by how long the task has run
            return _end(error, is_over_limit=is_over_limit)
    return None


def _end(error: BaseException, *, is_over_limit: bool) -> End:
    state = State.TIMEOUT if is_over_limit else State.PREEMPTED
    if not isinstance(error, SystemExit):
        return End(state, f"{type(error).__name__}: {error}".partition("\n")[0])
    reason = "warned before its time limit, it left" if is_over_limit else "preempted, or warned by somebody, it left"
    return End(state, reason + TO_START_AGAIN, is_to_requeue=True)
