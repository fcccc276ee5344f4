"""The command `experiment-manager run`: its arguments, on the light libraries that a task can afford."""

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from experiment_manager.decisions import REFUSED
from experiment_manager.errors import ExperimentManagerError
from experiment_manager.folder import Folder
from experiment_manager.supervisor import prepare, supervise

_EXAMPLE: Final = """example:
  experiment-manager run experiments/train 7
  experiment-manager run --experiment-path experiments --experiment-name train --job-id 7

The exit status is the job's own (128 + the signal for a job that a signal ended); 2 for a mistake in the call.
"""


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(
        prog="experiment-manager run",
        description="Run one job here, and record what becomes of it.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("folder", nargs="?", help="the experiment's folder")
    command.add_argument("job", nargs="?", type=int, help="the id of the job")
    command.add_argument("--experiment-path", metavar="P", help="the folder that holds the experiment")
    command.add_argument("--experiment-name", metavar="N", help="the name of the experiment")
    command.add_argument("--job-id", type=int, metavar="ID", help="the id of the job")
    command.add_argument("--launch", metavar="NNNN", help="the launch that this run belongs to; its jobs may run")
    command.add_argument("--runner", metavar="FILE", help="the script that runs jobs which were written in Python")
    command.add_argument("--fake", action="store_true", help="print the job instead of running it, and leave a result")
    return command


def main(argv: Sequence[str]) -> int:
    """Runs one job; returns the exit status."""
    command = parser()
    options = command.parse_args(argv)
    has_parts = options.experiment_path is not None and options.experiment_name is not None
    if (options.folder is None) == (not has_parts):
        command.error("name the experiment once: its FOLDER, or --experiment-path and --experiment-name")
    job_id = options.job_id if options.job_id is not None else options.job
    if job_id is None:
        command.error("name the job: FOLDER JOB, or --job-id")
    try:
        if has_parts:
            folder = Folder(options.experiment_path, options.experiment_name)
        else:
            folder = Folder.at(options.folder)
        return supervise(prepare(folder, job_id, launch=options.launch, is_fake=options.fake, runner=options.runner))
    except ExperimentManagerError as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
