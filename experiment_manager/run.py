"""The command `experiment-manager run`: its arguments, on the light libraries that a task can afford."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final

from experiment_manager.decisions import REFUSED
from experiment_manager.disk.folder import Folder
from experiment_manager.errors import AlreadyCompleted, ExperimentManagerError
from experiment_manager.running.child import Child, prepare
from experiment_manager.running.supervisor import Outcome, supervise
from experiment_manager.slurm import within

STATUS_FILE_VARIABLE: Final = "EXPERIMENT_MANAGER_STATUS_FILE"
"""Names the file in which a batch script wants to read the exit status, and the task if SLURM is to start it again."""

_EXAMPLE: Final = """example:
  experiment-manager run experiments/train 7
  experiment-manager run --experiment-path experiments --experiment-name train --job-id 7

The exit status is the job's own (128 + the signal for a job that a signal ended); 2 for a mistake in the call.
"""


def _ids(text: str) -> list[int]:
    try:
        return [int(item) for item in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no job id") from None


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(
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
    command.add_argument("--runner", metavar="FILE", help="the script that runs jobs which were written in Python")
    command.add_argument("--fake", action="store_true", help="print the job instead of running it, and leave a result")
    return command


def main(argv: Sequence[str]) -> int:
    """Runs one job, or several at the same time; returns the exit status, which also goes where a batch script asks."""
    status_file = os.environ.pop(STATUS_FILE_VARIABLE, None)
    command = parser()
    options = command.parse_args(argv)
    has_parts = options.experiment_path is not None and options.experiment_name is not None
    if (options.folder is None) == (not has_parts):
        command.error("name the experiment once: its FOLDER, or --experiment-path and --experiment-name")
    ids = options.job_id if options.job_id is not None else options.job
    if ids is None:
        command.error("name the job: FOLDER JOB, or --job-id")
    try:
        if has_parts:
            folder = Folder(options.experiment_path, options.experiment_name)
        else:
            folder = Folder.at(options.folder)
    except ExperimentManagerError as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    outcome = _run_all(folder, ids, options)
    if status_file:
        with open(status_file, "w") as file:  # bash's wait can lose the status when many signals come (measured)
            again = within.task_of(within.ids()) if outcome.is_to_requeue else None  # after the lines that follow
            file.write(f"{outcome.status} {again or ''}\n")
        return outcome.status
    if outcome.is_to_requeue:
        refused = within.requeue()
        if refused:
            print(f"SLURM will not start this task again: {refused}", file=sys.stderr)
    _remove_empty_log(folder)
    return outcome.status


def _remove_empty_log(folder: Folder) -> None:
    """Ten thousand tasks that had nothing to say leave no ten thousand empty logs."""
    try:
        log = os.readlink("/proc/self/fd/1")
        if within.is_inside() and os.path.dirname(os.path.dirname(log)) == folder.launches and not os.path.getsize(log):
            os.unlink(log)
    except OSError:  # no /proc, or somebody else has removed it
        pass


def _run_all(folder: Folder, ids: Sequence[int], options: argparse.Namespace) -> Outcome:
    if len(ids) == 1:
        return _run(folder, ids[0], options)
    from experiment_manager.running.pack import failed_before, run_together

    failed = failed_before(folder, ids)
    outcome = run_together([i for i in ids if i not in failed], lambda job_id: _run(folder, job_id, options))
    return outcome._replace(status=outcome.status or int(bool(failed)))


def _run(folder: Folder, job_id: int, options: argparse.Namespace) -> Outcome:
    runner = [sys.executable, options.runner] if options.runner is not None else None
    return told(lambda: prepare(folder, job_id, launch=options.launch, is_fake=options.fake, runner=runner), supervise)


def told(prepared: Callable[[], Child], run: Callable[[Child], Outcome]) -> Outcome:
    """What became of a job; why it was refused, if it was, stands on stderr."""
    try:
        return run(prepared())
    except AlreadyCompleted as done:
        print(f"nothing to run: {done}", file=sys.stderr)
        return Outcome(
            0 if within.restart_of(within.ids()) else REFUSED
        )  # SLURM has started a task again that was done
    except ExperimentManagerError as error:
        print(f"error: {error}", file=sys.stderr)
        return Outcome(REFUSED)
