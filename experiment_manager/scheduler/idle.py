"""Whether anything of an experiment runs, waits for a scheduler, or is being handed to one: then its files stay."""

from experiment_manager.errors import JobRefused, SchedulerError
from experiment_manager.model.ids import which
from experiment_manager.model.records import JobId, State
from experiment_manager.scheduler import schedulers
from experiment_manager.scheduler.query import open_launches
from experiment_manager.scheduler.reconcile import active_tasks, reconciled
from experiment_manager.store.launches import drivers
from experiment_manager.store.layout import Folder
from experiment_manager.store.states import States, StateTable
from experiment_manager.text import as_word

_BUSY = (State.RUNNING, State.QUEUED)


def require_idle(folder: Folder, what: str) -> StateTable:
    """The states of all attempts. Raises JobRefused, about an experiment that `what` (moved), while a job of it runs or
    waits for a scheduler, or may turn up there; SchedulerError where one cannot be asked. To be used inside
    `folder.planning`."""
    table = reconciled(folder, is_to_act=True)
    for state in _BUSY:
        ids = sorted(job_id for job_id in {*table.attempts, *table.queued} if _is(table, job_id, state))
        if ids:
            raise JobRefused(_refusal(folder, what, f"{which(ids)} {'is' if len(ids) == 1 else 'are'} {state}"))
    _require_no_driver(folder, what)
    for opened in open_launches(folder, is_to_act=True).launches:
        for name in opened.names:
            is_known = opened.submission.array_id(name) is not None
            if not is_known and opened.submission.doubtful_until(name) is not None:
                raise JobRefused(
                    f"whether launch {opened.launch.number} of {folder.path} was submitted is not known, so it is not "
                    f"{what}: `experiment-manager submit {as_word(folder.path)} --launch {opened.launch.number}` looks"
                )
    try:
        tasks = list(active_tasks(folder, table, is_needed=False))
    except SchedulerError as error:
        raise SchedulerError(f"{error}; {folder.path} is {what} when it is known what waits there") from error
    if tasks:
        label = schedulers.label_of(tasks[0].scheduler)
        raise JobRefused(
            f"{folder.path} is not {what}: {tasks[0]} waits or runs, though none of its jobs does; wait for it, or end "
            f"it with a command of {label}"
        )
    return table


def _require_no_driver(folder: Folder, what: str) -> None:
    for driver in drivers(folder):
        gone = "" if driver.is_surely_there else f"; if it has ended, remove {as_word(driver.path)}"
        raise JobRefused(
            f"{folder.path} is not {what}: {driver} runs the jobs of launch {driver.launch} one after the other; wait "
            f"for it, or end it with Ctrl-C{gone}"
        )


def _is(table: StateTable, job_id: JobId, state: State) -> bool:
    return table.state(job_id) is state or state in table.attempts.get(job_id, {}).values()


def require_none_begun(folder: Folder, what: str) -> None:
    """Raise JobRefused where an attempt is RUNNING, or somebody is about to begin one, by the files alone."""
    _require_no_driver(folder, what)
    attempts = States(folder).table().attempts
    ids = sorted(job_id for job_id, numbers in attempts.items() if State.RUNNING in numbers.values())
    if ids:
        raise JobRefused(_refusal(folder, what, f"{which(ids)} has begun meanwhile"))


def _refusal(folder: Folder, what: str, why: str) -> str:
    cancel = f"experiment-manager cancel {as_word(folder.path)}"
    return f"{folder.path} is not {what}: {why}; wait for it, or end it with `{cancel}`"
