"""Jobs that may not run: why, on standard error, and the exit status of that."""

from collections.abc import Callable

from experiment_manager.errors import AlreadyCompleted, ExperimentManagerError
from experiment_manager.execution.child import Child
from experiment_manager.execution.supervisor import Outcome
from experiment_manager.scheduler import schedulers
from experiment_manager.text import tell


def run_or_refuse(prepared: Callable[[], Child], run: Callable[[Child], Outcome]) -> Outcome:
    """What became of a job; why it was refused, if it was, stands on stderr."""
    try:
        return run(prepared())
    except AlreadyCompleted as done:
        from experiment_manager.model.policy import REFUSED

        tell(f"nothing to run: {done}")
        task = schedulers.current_task()
        is_well = done.is_news or (task is not None and task.restart)  # a scheduler may start again what was done
        return Outcome(0 if is_well else REFUSED)
    except ExperimentManagerError as error:
        return Outcome(refused(error))


def refused(error: ExperimentManagerError) -> int:
    """The exit status of a mistake, which is told."""
    from experiment_manager.model.policy import REFUSED

    tell(f"error: {error}")
    return REFUSED
