"""The command `experiment-manager run`: one job, several at the same time in one task, or one job after the other as a
worker does, and the exit status of that.

A task of a scheduler that runs several jobs has a supervisor for each, in a process of its own. Every task imports
this: what few calls need is imported where it is used.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from experiment_manager.errors import AlreadyCompleted, ExperimentManagerError
from experiment_manager.execution import resources
from experiment_manager.execution.child import BecomesJob, Child, own_temporary_folder, prepare
from experiment_manager.execution.signals import STOPS, Heard, block, unblock
from experiment_manager.execution.supervisor import Outcome, supervise
from experiment_manager.scheduler import schedulers
from experiment_manager.store import processes
from experiment_manager.store.layout import Folder
from experiment_manager.text import as_word, flush, noun, settle, tell, tell_once, tell_traceback
from experiment_manager.typing_names import TYPE_CHECKING, Final, NamedTuple, NoReturn

if TYPE_CHECKING:
    import argparse

    from experiment_manager.execution.worker import LocalWorker, Worker

STATUS_FILE_VARIABLE: Final = "EXPERIMENT_MANAGER_STATUS_FILE"
"""Names the file in which a batch script wants to read the exit status, and the task if SLURM is to start it again."""

_EXAMPLE: Final = """example:
  experiment-manager run experiments/train 7
  experiment-manager run --experiment-path experiments --experiment-name train --job-id 7

The exit status is the job's own (128 + the signal for a job that a signal ended); 2 for a mistake in the call.
"""
_WITH_VALUE: Final = (
    *("--experiment-path", "--experiment-name", "--job-id", "--launch", "--runner"),
    *("--array", "--worker"),
)
_LONGEST_ID: Final = 19
_FAILED: Final = 1


class Call(NamedTuple):
    """What `run` is asked to do; None where nothing was said."""

    folder: str | None = None
    job: list[int] | None = None
    experiment_path: str | None = None
    experiment_name: str | None = None
    job_id: list[int] | None = None
    launch: str | None = None
    runner: str | None = None
    fake: bool = False
    array: str | None = None  # of the launch, which has to have it; None: the worker by hand, or any job of the launch
    worker: int | None = None


def plain_call(argv: Sequence[str]) -> Call | None:
    """A call as scripts and the pool write it, read without `argparse`, which costs a tenth of a start; None for any
    other.

    >>> plain_call(["experiments/train", "7"])[:2], plain_call(["experiments/train"]), plain_call(["--help"])
    (('experiments/train', [7]), None, None)
    """
    has_place = len(argv) >= 2 and not argv[0].startswith("-") and _are_ids(argv[1])
    found: dict[str, str] = {}
    for at in range(2 if has_place else 0, len(argv), 2):
        option, *value = argv[at : at + 2]
        if option not in _WITH_VALUE or not value or value[0].startswith("-"):
            return None
        found[option[2:].replace("-", "_")] = value[0]
    path, name, ids = found.get("experiment_path"), found.get("experiment_name"), found.get("job_id")
    launch, runner = found.get("launch"), found.get("runner")
    array, worker = found.get("array"), found.get("worker")
    if worker is not None:
        is_worker = None not in (launch, path, name) and not has_place and ids is runner is None
        if not is_worker or not _are_ids(worker) or "," in worker:
            return None
        return Call(experiment_path=path, experiment_name=name, launch=launch, array=array, worker=int(worker))
    if array is not None and launch is None:
        return None
    if has_place and path is name is ids is array is None:
        return Call(folder=argv[0], job=_ids(argv[1]), launch=launch, runner=runner)
    if has_place or path is None or name is None or ids is None or not _are_ids(ids):
        return None
    jobs = _ids(ids)
    return Call(experiment_path=path, experiment_name=name, job_id=jobs, launch=launch, runner=runner, array=array)


def parser() -> argparse.ArgumentParser:
    """What reads any call, and says what is wrong with it."""
    import argparse

    class Parser(argparse.ArgumentParser):
        """Says what is wrong in one sentence, as all our commands do."""

        def error(self, message: str) -> NoReturn:
            tell(f"error: {self.prog}: {message}; `{self.prog} --help` tells what there is")
            self.exit(2)

    command = Parser(
        prog="experiment-manager run",
        description="Run one job here, and record what becomes of it.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("folder", nargs="?", help="the experiment's folder")
    command.add_argument("job", nargs="?", type=_ids, help="the id of the job")
    command.add_argument("--experiment-path", metavar="P", help="the folder that holds the experiment")
    command.add_argument("--experiment-name", metavar="N", help="the name of the experiment")
    command.add_argument("--job-id", type=_ids, metavar="ID", help="the id of the job; 3,4,5: all of them at once")
    command.add_argument("--launch", metavar="NNNN", help="the launch that this run belongs to; its jobs may run")
    command.add_argument("--array", metavar="NAME", help="the array of the task, in that launch, as its scripts say")
    command.add_argument("--worker", type=int, metavar="N", help="be worker N of that array: run job after job")
    command.add_argument("--runner", metavar="FILE", help="the script that runs jobs which were written in Python")
    command.add_argument("--fake", action="store_true", help="print the job instead of running it, and leave a result")
    return command


def main(argv: Sequence[str]) -> int:
    """Runs one job, or several at the same time; returns the exit status, which also goes where a batch script asks."""
    status_file = os.environ.pop(STATUS_FILE_VARIABLE, None)
    call = plain_call(argv) or _checked_call(argv)
    try:
        if call.folder is None:
            folder = Folder(call.experiment_path or "", call.experiment_name or "")
        else:
            folder = Folder.at(call.folder)
    except ExperimentManagerError as error:
        return refused(error)
    ids = call.job_id or call.job or []
    outcome = _run_all(folder, ids, call) if call.worker is None else _work(folder, call)
    if status_file:
        _leave_status(status_file, outcome)
    if outcome.is_to_heal:
        _heal(folder)
    if status_file:
        return outcome.status
    if outcome.is_to_requeue:
        task = schedulers.current_task()
        if task is not None and (why_not := schedulers.named(task.scheduler).requeue(task)):
            tell(f"{schedulers.label_of(task.scheduler)} will not start this task again: {why_not}")
    _remove_empty_log(folder)
    return outcome.status


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


class _Running(NamedTuple):
    place: int  # among the jobs of the task
    gpus: tuple[int, ...]  # places among those of the task


def _leave_status(path: str, outcome: Outcome) -> None:
    """A batch script can read there what became of its job; bash's `wait` can lose it when many signals come
    (measured), and is what the script goes by where the file cannot be written."""
    again = schedulers.current_task() if outcome.is_to_requeue else None  # after the lines that follow
    try:
        with open(path, "w") as file:
            file.write(f"{outcome.status} {again.name if again else ''}\n")
    except OSError as error:
        started = "; the task is not started again" if again else ""
        tell(f"{path}, where the script reads how its job ended, cannot be written: {error.strerror}{started}")


def _heal(folder: Folder) -> None:
    """The job is submitted again with more, and what else is to be healed, where this node can submit anything; people
    find in the log of the task what became of it. It is the last thing that this process does, and may be killed."""
    by_hand = f"`experiment-manager heal {as_word(folder.path)}` submits it again"
    try:
        from experiment_manager.scheduler import healing  # for the few tasks that end so

        found = healing.heal(folder, is_alone=False)
        for line in [*healing.sentences(found, folder.path), *found.refused.values()]:
            tell(line)
        if found.refused:
            tell(by_hand)
    except ExperimentManagerError as error:
        tell(f"{error}; {by_hand}")
    except Exception:  # how the job ended is recorded, and its status is what counts
        tell_traceback()


def _checked_call(argv: Sequence[str]) -> Call:
    """Any call. Ends the program with a sentence where it cannot be meant."""
    command = parser()
    call = Call(**vars(command.parse_args(argv)))
    has_parts = call.experiment_path is not None and call.experiment_name is not None
    if (call.folder is None) == (not has_parts):
        command.error("name the experiment once: its FOLDER, or --experiment-path and --experiment-name")
    is_worker = call.worker is not None
    if is_worker and (call.launch is None or call.job_id is not None or call.job is not None):
        command.error("a worker is named by --launch, --array and --worker, and finds its jobs by itself")
    if call.array is not None and call.launch is None:
        command.error("an array is one of a launch: add --launch, or leave --array out")
    if not is_worker and call.job_id is None and call.job is None:
        command.error("name the job: FOLDER JOB, or --job-id")
    return call


def _remove_empty_log(folder: Folder) -> None:
    """Ten thousand tasks that had nothing to say leave no ten thousand empty logs."""
    try:
        log = os.readlink("/proc/self/fd/1")
        if (
            schedulers.current_task() is not None
            and os.path.dirname(os.path.dirname(log)) == folder.launches
            and not os.path.getsize(log)
        ):
            os.unlink(log)
    except OSError:  # no /proc, or somebody else has removed it
        pass


def _run_all(folder: Folder, ids: Sequence[int], call: Call) -> Outcome:
    if call.launch is None and not call.fake:
        from experiment_manager.store.launches import tell_of_wrap_left_out  # for those that are started by hand

        tell_of_wrap_left_out(folder, ids)
    if len(ids) == 1:
        return _run(folder, ids[0], call)
    from experiment_manager.store.orders import read_order

    try:
        left = _left_alone(folder, ids, call.launch)
        jobs = [job_id for job_id in ids if job_id not in left]
        order = read_order(folder, call.launch, ids[0]) if call.launch is not None else None
        gpus_per_job = (order.options or {}).get("gpus_per_job") if order is not None else None
        outcome = _run_together(
            jobs,
            lambda job_id: _run_beside_others(folder, job_id, call),
            gpus_per_job,
            leave=lambda unbegun, heard: _leave(folder, call, unbegun, heard),
        )
    except ExperimentManagerError as error:
        return Outcome(refused(error))
    return outcome._replace(status=outcome.status or (_FAILED if left else 0))


def _run(folder: Folder, job_id: int, call: Call) -> Outcome:
    runner = [sys.executable, call.runner] if call.runner is not None else None
    return run_or_refuse(
        lambda: prepare(folder, job_id, launch=call.launch, array=call.array, is_fake=call.fake, runner=runner),
        supervise,
    )


def _run_beside_others(folder: Folder, job_id: int, call: Call) -> Outcome:
    with own_temporary_folder(job_id):
        return _run(folder, job_id, call)


def _leave(folder: Folder, call: Call, jobs: Sequence[int], heard: Heard) -> Outcome:
    """What comes of the jobs of this task that had not begun when it was warned; those that had may be started again,
    whatever becomes of them."""
    from experiment_manager.execution.unbegun import leave  # for few tasks
    from experiment_manager.model.policy import INCOMPLETE

    try:
        return leave(folder, call.launch, jobs, was_stopped=heard.was_stopped)
    except (ExperimentManagerError, OSError) as error:
        tell(f"jobs that have not begun are not looked at: {error}")
        return Outcome(INCOMPLETE)


def _work(folder: Folder, call: Call) -> Outcome:
    """One worker has run jobs, those that it found; several at a time, each in a process of its own."""
    from experiment_manager.execution.worker import LocalWorker, Worker

    try:
        worker: Worker | LocalWorker
        if call.array is None:
            worker = LocalWorker(folder, call.launch or "")
        else:
            worker = Worker(folder, call.launch or "", call.array, call.worker or 0)
    except ExperimentManagerError as error:
        return Outcome(refused(error))
    if isinstance(worker, LocalWorker) or worker.start_method == "spawn":
        return run_lanes(worker)
    from experiment_manager.execution.forkserver import warm_worker

    return warm_worker.run(worker)


def run_lanes(worker: Worker | LocalWorker) -> Outcome:
    """A worker has run jobs from this process, which has to be its own."""

    def run(lane: int) -> Outcome:  # in a process of its own, whose error nobody else would tell
        try:
            return worker.run_lane(lane)
        except ExperimentManagerError as error:
            return Outcome(refused(error))

    if worker.n_lanes == 1 and not worker.gpus_per_job:
        return run(0)
    try:
        return _run_together(range(worker.n_lanes), run, worker.gpus_per_job)
    except ExperimentManagerError as error:
        return Outcome(refused(error))


def _are_ids(text: str) -> bool:
    return text.isascii() and all(item.isdigit() and len(item) < _LONGEST_ID for item in text.split(","))


def _ids(text: str) -> list[int]:
    try:
        return [int(item) for item in text.split(",")]
    except ValueError:
        import argparse

        raise argparse.ArgumentTypeError(f"{text!r} is no job id") from None


def _run_together(
    jobs: Sequence[int],
    run: Callable[[int], Outcome],
    gpus_per_job: float | None = None,
    *,
    leave: Callable[[Sequence[int], Heard], Outcome] = lambda _jobs, _heard: Outcome(0),
) -> Outcome:
    """All jobs have ended. The status is that of the first, in their order, that has one other than 0.

    `run` is called in a process of its own for each job, which sees its share of the task's GPUs. All run at once, but
    where `gpus_per_job` makes some wait for a GPU: these do not begin after a signal to end, nor after a warning, when
    `leave` is asked what comes of them once the others have ended. Signals are passed on to every supervisor. Where the
    system gives no more processes, jobs wait until one of the others has ended. Raises ExperimentManagerError when no
    job can have so many GPUs, or not one process can be started.
    """
    found = resources.visible_gpus(os.environ)
    resources.check_gpus(gpus_per_job, found, where="")
    dealer = resources.GpuDealer(found, gpus_per_job, len(jobs))
    if dealer.words:
        tell(f"{dealer.words} ({resources.GPUS_PER_JOB})")
    read, write = os.pipe()
    heard = Heard()
    waiting, running = deque(enumerate(jobs)), dict[int, _Running]()
    statuses, unbegun = [0] * len(jobs), list[int]()
    while waiting or running:
        while waiting and (gpus := dealer.deal()) is not None:
            place, job_id = waiting.popleft()
            try:
                pid = _fork(job_id, run, write, dealer.environment(gpus), (read, *heard.handles))
            except OSError as error:
                dealer.take_back(gpus)
                waiting.appendleft((place, job_id))
                if not running:
                    raise ExperimentManagerError(
                        f"no process could be started: {error.strerror or error}; the same command goes on"
                    ) from error
                tell_once(f"{error.strerror or error}: another process is started when one has ended")
                break
            running[pid] = _Running(place, gpus)
        for number in heard.wait(1.0):
            if number in STOPS:
                statuses = [
                    128 + number if (place, job) in waiting else statuses[place] for place, job in enumerate(jobs)
                ]
            else:
                unbegun += [job for _, job in waiting]
            waiting.clear()
            for pid in running:  # not reaped yet, so the pids are ours
                os.kill(pid, number)
        for pid, code in _ended(running):
            place, gpus = running.pop(pid)
            dealer.take_back(gpus)
            statuses[place] = code if code >= 0 else 128 - code
    os.close(write)
    with os.fdopen(read, "rb") as said:
        is_to_requeue = bool(said.read())
    left = leave(unbegun, heard) if unbegun else Outcome(0)
    status = next((status for status in statuses if status), left.status)
    return Outcome(status, is_to_requeue or left.is_to_requeue)


def _ended(pids: Iterable[int]) -> list[tuple[int, int]]:
    """Those of our processes that have ended, reaped, each with its exit code or, below 0, the signal that ended it."""
    found = [os.waitpid(pid, os.WNOHANG) for pid in pids]
    return [(pid, os.waitstatus_to_exitcode(status)) for pid, status in found if pid]


def _left_alone(folder: Folder, jobs: Sequence[int], launch: str | None) -> frozenset[int]:
    """Those of the jobs that have ended by themselves before the scheduler started this task again for the sake of the
    others; people are told. Raises JobRefused."""
    here = schedulers.current_task()
    if here is None or not here.restart:
        return frozenset()
    from experiment_manager.model.ids import format_ids
    from experiment_manager.scheduler.submission import is_settled, left_alone
    from experiment_manager.store.orders import Orders
    from experiment_manager.store.states import States, last_real, task_in

    states, orders, settled = States(folder), Orders(folder), dict[int, bool | None]()
    for job_id in jobs:
        order = None if launch is None else orders.of(launch, job_id)
        last = last_real(states.attempts(job_id)[0 if order is None else order.attempt - 1 :])
        record = {} if last is None else states.record(job_id, last.number)
        is_for_others = last is not None and states.ended_for_others(last)
        found = is_settled(last, record, launch, is_for_others=is_for_others)
        task = task_in(record)
        is_of_this = task is not None and task.is_earlier_run_of(here)
        settled[job_id] = found if not found or is_of_this else None
    left = left_alone(settled)
    if left:
        tell(
            f"{noun(len(left))} {format_ids(left)} ended by {'itself' if len(left) == 1 else 'themselves'} before this "
            "task was started again for others, and left alone"
        )
    return left


def _fork(
    job_id: int, run: Callable[[int], Outcome], to_requeue: int, variables: Mapping[str, str], handles: Sequence[int]
) -> int:
    """The pid of a process that runs the job, and is killed when we are; `handles` are ours, and not for it. Raises
    OSError."""
    flush()
    die_with_us = processes.dying_with_us()  # the scheduler takes the task for ended when we are
    block()  # until the supervisor hears for itself
    pid = -1
    try:
        pid = os.fork()
    finally:
        if pid:
            unblock()
    if pid:
        return pid
    status, is_to_end = _FAILED, True
    try:
        die_with_us()
        signal.set_wakeup_fd(-1)
        for handle in handles:
            os.close(handle)
        os.environ.update(variables)
        outcome = run(job_id)
        status = outcome.status
        if outcome.is_to_requeue:
            os.write(to_requeue, b"r")
    except BecomesJob:
        os.close(to_requeue)
        is_to_end = False
        raise
    except BaseException:  # nothing else may leave this process by an exception: it is a copy of its parent
        tell_traceback()
    finally:
        if is_to_end:
            settle()
            os._exit(status)
    raise AssertionError("a copy ends, or is left as the job")
