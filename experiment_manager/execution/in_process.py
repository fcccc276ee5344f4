"""An attempt that runs in this very process: Python runners by hand, task functions under other launchers, and, as a
program, the child of `run --fake`, a dry pass through everything.

Under a supervisor the attempt is the supervisor's, and only the result is left here.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from experiment_manager.execution import current_job, environment
from experiment_manager.execution.signals import uninterruptible
from experiment_manager.execution.within_submitit import End, end_by_warning
from experiment_manager.model.records import State
from experiment_manager.scheduler import schedulers
from experiment_manager.store import processes
from experiment_manager.store.endings import bear_mark, read_anchor
from experiment_manager.store.files import asked_again
from experiment_manager.store.layout import Folder, writing
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.orders import Orders
from experiment_manager.store.results import json_saver, save_file, write_error, write_result
from experiment_manager.store.rungs import unmark_pruned
from experiment_manager.store.states import States
from experiment_manager.text import say, tell


class InProcess:
    """The attempt that this process makes."""

    def __init__(self, folder: Folder, job_id: int, number: int, *, is_fake: bool) -> None:
        self._folder, self._job_id, self.number, self._is_fake = folder, job_id, number, is_fake
        self.anchor = read_anchor(folder, job_id, number)
        self.has_left = self.has_left_early = False
        self.is_leaving = False
        """Whether its result is being written."""
        self.pruned: str | None = None  # why, if it was

    def end_by(self, error: BaseException) -> End:
        """How it has ended, where it is left by an exception."""
        warned = end_by_warning(error)
        if warned is not None or isinstance(error, KeyboardInterrupt):
            if self.has_left and not self.has_left_early:  # it has returned: what it has computed counts
                return End(State.COMPLETED if self.pruned is None else State.PRUNED, self.pruned)
            result = self._folder.of_attempt(self._job_id, self.number, "result")
            before = f", before its result could be written to {result}" if self.is_leaving else ""
            return warned or End(State.CANCELLED, f"stopped by a signal{before}")
        if isinstance(error, SystemExit) and error.code in (None, 0):
            pruned = current_job.current_job().pruned
            return End(State.COMPLETED if pruned is None else State.PRUNED, pruned)
        if isinstance(error, SystemExit):
            return End(State.FAILED, f"exit code {error.code}")
        return End(State.FAILED, f"{type(error).__name__}: {error}".partition("\n")[0])

    def leave(self, value: Any) -> None:
        """The attempt has left this result; of several tasks the first one writes it."""
        job = current_job.current_job()
        told, self.pruned = job.told, job.pruned
        self.has_left_early = told and value is None
        if not current_job.is_first_rank():
            if value is not None:
                tell(current_job.not_kept(self._job_id))
        else:
            self.is_leaving = True
            with uninterruptible() as wait:  # a disk may err for minutes
                place = self._folder, self._job_id, self.number
                write_result(*place, value, is_fake=self._is_fake, told=told, wait=wait, ours=self.anchor)
                self.has_left, self.is_leaving = True, False

    @contextmanager
    def error_kept(self) -> Iterator[None]:
        """The attempt leaves the exception that comes from inside."""
        try:
            yield
        except Exception as error:
            write_error(self._folder, self._job_id, self.number, error, ours=self.anchor)
            raise


def is_current(folder: Folder, job_id: int) -> bool:
    """Whether a supervisor runs this very job in this process, by whatever path its folder is known."""
    current = current_job.current_job()
    return current.id == job_id and os.path.realpath(current.experiment.path) == os.path.realpath(folder.path)


@contextmanager
def attempting(folder: Folder, job_id: int, *, launch: str | None = None, is_fake: bool = False) -> Iterator[InProcess]:
    """Inside, an attempt of the job is RUNNING and `current_job()` is that job; then the state is what became of it.

    Raises JobRefused when another attempt runs, and Unwritten when its end cannot be recorded; what the body raises
    goes on.
    """
    if is_current(folder, job_id):
        made = InProcess(folder, job_id, current_job.current_job().attempt, is_fake=is_fake)
        with made.error_kept():
            yield made
        return
    with current_job.another(), ExitStack() as uninterrupted:
        uninterrupted.enter_context(uninterruptible())
        yield from _claimed(folder, job_id, launch, uninterrupted, is_fake=is_fake)


def _claimed(
    folder: Folder, job_id: int, launch: str | None, uninterrupted: ExitStack, *, is_fake: bool
) -> Iterator[InProcess]:
    """As `attempting`: an attempt that this process claims. What is `uninterrupted` is let go once its end would be
    recorded."""
    states = States(folder, schedulers.has_ended)
    order = None if launch is None else Orders(folder).required(launch, job_id)
    with writing(folder.path):
        folder.make(folder.job(job_id))
        task = schedulers.recorded(schedulers.task_of_attempt(None))
        about = {"launch": launch, **task, **({"fake": True} if is_fake else {})}
        number = states.claim(job_id, about, planned=order and order.attempt)
        mark = bear_mark(folder, job_id, number)
        if order is not None and order.pruner is not None:
            unmark_pruned(folder, job_id, number)  # somebody may have removed `states/` to start anew
    start, end = time.time(), End(State.FAILED, None)
    pruner = None if order is None or is_fake else order.pruner
    variables = environment.of_attempt(folder, job_id, number, pruner=pruner, since=order and order.attempt)
    before = {name: os.environ.get(name) for name in (*variables, environment.PRUNER_VARIABLE)}
    _set_variables({environment.PRUNER_VARIABLE: None, **variables})
    made = InProcess(folder, job_id, number, is_fake=is_fake)
    try:
        uninterrupted.close()
        start = time.time() if is_fake else _after_earlier(states, job_id, number)
        with current_job.claimed(), made.error_kept():
            yield made
        end = End(State.COMPLETED, None)
        if made.pruned is not None:
            end = End(State.PRUNED, made.pruned)
        elif made.has_left_early:
            end = End(State.CANCELLED, "told to stop, and left without a result")
    except BaseException as error:
        end = made.end_by(error)
        raise
    finally:
        try:
            current_job.settle_metrics()  # which may wait, and Ctrl-C ends that
        finally:
            with uninterruptible() as wait:
                _set_variables(before)
                state = State.FAKE if is_fake else end.state
                processes.unmark(mark)
                record: dict[str, Any] = {"reason": end.reason, "exit_code": None, "start": start, "end": time.time()}
                if end.is_to_requeue:
                    record["requeued"] = True
                if state is State.COMPLETED:
                    record["has_result"] = made.has_left
                asked_again(lambda: states.finish(job_id, number, state, record), tell, wait=wait)


def _set_variables(variables: Mapping[str, str | None]) -> None:
    """The environment has these variables, without those that are None."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _after_earlier(states: States, job_id: int, attempt: int) -> float:
    """The time, once no earlier attempt runs any more on a node that was lost."""

    def goes_on(seconds: float) -> bool:
        time.sleep(seconds)  # Ctrl-C ends it
        return True

    states.wait_for_earlier(job_id, attempt, goes_on)
    return time.time()


def print_job(job_id: int, variables: object, configuration: object) -> None:
    """A fake run's words about a job are on standard output."""
    say(f"job id: {job_id}\nvariables: {variables}\nconfiguration: {configuration}")


def leave_result(folder: Folder, job_id: int, configuration: object) -> None:
    """The configuration lies in the job's directory as `configuration.json`."""
    save_file(f"{folder.job(job_id)}/configuration.json", json_saver, configuration)


def main() -> None:
    """Print what the job of this process would get, and leave a result."""
    current = current_job.current_job()
    folder = current.experiment
    with Manifest(folder) as manifest:
        point = manifest.job(current.required_id)
        configuration = manifest.configuration(point.id)
    print_job(point.id, dict(point.variables), configuration)
    leave_result(folder, point.id, configuration)
    write_result(folder, point.id, current.attempt, None, is_fake=True)


if __name__ == "__main__":
    main()
