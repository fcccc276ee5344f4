"""Submission through submitit: its executor writes the submission file, calls `sbatch` and makes the job; the script
is ours, the same that `slurm_script` writes, and is what `sbatch` is given.

Nothing is pickled. What a task needs is on disk before `sbatch` is called: the manifest, the launch and the script. On
the node no code of submitit runs, so what its signal handler does when SLURM requeues a job cannot touch our states.
"""

import io
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any, Final

from submitit.core.utils import FailedJobError, FailedSubmissionError, JobPaths
from submitit.slurm.slurm import SlurmExecutor

from experiment_manager.errors import SlurmError
from experiment_manager.scheduler.records import Send
from experiment_manager.scheduler.slurm import client
from experiment_manager.store.documents import content
from experiment_manager.store.files import FileClock
from experiment_manager.store.layout import writing

_UNNAMED: Final = re.compile(r"\.submission_file_\w+\.sh")
_SURELY_READ_S: Final = 3600.0
_TIMED_OUT: Final = 124  # exit status of coreutils' timeout


class ScriptExecutor(SlurmExecutor):
    """Submits one script. `submit` and `map_array` of its parent, which pickle functions, are not for it. Raises
    SlurmError where submitit finds no SLURM."""

    def __init__(self, folder: str, script: str, arguments: Sequence[str]) -> None:
        try:
            super().__init__(folder)
        except RuntimeError as error:  # there is no srun
            way_out = "take hydra/launcher=slurm_script, and `experiment-manager submit`"
            raise SlurmError(f"submitit submits nothing here: {error}; {way_out}", words=str(error)) from error
        self._script, self._arguments = script, tuple(arguments)
        self._handed_over: Path | None = None

    def submit_script(self) -> str:
        """SLURM has the script; returns its id. Raises SlurmError with `sbatch`'s words; FolderError."""
        client.require_followed(self._script)
        with writing(str(self._first)):
            os.makedirs(self._first, exist_ok=True)
        self._clear()
        said = io.StringIO()
        try:
            with _submission_environment(self._script), redirect_stderr(said):
                job: Any = self._submit_command(self._submitit_command_str)
        except FailedJobError as error:
            cause = error.__cause__
            status = cause.returncode if isinstance(cause, subprocess.CalledProcessError) else -1
            raise client.refusal(str(error), has_been_cut_off=status < 0 or status == _TIMED_OUT) from error
        except (FailedSubmissionError, OSError) as error:  # perhaps after sbatch has done its work
            raise client.refusal(str(error), has_been_cut_off=True) from error
        finally:
            if self._handed_over is not None:
                self._handed_over.unlink(missing_ok=True)
        return str(job.job_id)

    def _clear(self) -> None:
        """What killed processes have left before there was an id is gone, if it is so old that no `sbatch` reads it."""
        clock = FileClock(str(self._first))
        with suppress(OSError):
            for path in (self._first / name for name in os.listdir(self._first) if _UNNAMED.fullmatch(name)):
                if clock.age_s(str(path)) > _SURELY_READ_S:
                    path.unlink(missing_ok=True)

    @property
    def _first(self) -> Path:
        """Where submitit puts the file before there is an id."""
        return JobPaths.get_first_id_independent_folder(self.folder)

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        self._handed_over = self._first / f".submission_file_{uid}.sh"  # in the end a link to the file that is kept
        return content(self._script).decode(errors="surrogateescape")

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        # the same text under the path by which the array is known, whatever it is called there
        return ["timeout", "--foreground", f"{client.ORDER_S:g}", "sbatch", *self._arguments, self._script]

    @staticmethod
    def _get_job_id_from_submission_command(string: bytes | str) -> str:
        """The one id in what `sbatch` printed. Submitit takes the first, which may be one of a program of the site."""
        text = string if isinstance(string, str) else string.decode(errors="replace")
        ids = set(re.findall(r"^Submitted batch job (\d+)", text, re.MULTILINE) or re.findall(r"job (\d+)", text))
        if len(ids) != 1:
            raise FailedSubmissionError(f"sbatch has not said which id the job got, it said: {text}")
        return str(ids.pop())


def send_with(folder: str) -> Send:
    """What submits scripts for `submission.submit`, with submitit's files in `folder` (`%j` stands for the id)."""
    return lambda script, after: ScriptExecutor(folder, script, client.after(after)).submit_script()


@contextmanager
def _submission_environment(script: str) -> Iterator[None]:
    """Inside, this process has the environment that a submission inherits; submitit hands on its own."""
    before = dict(os.environ)
    clean = client.submission_environment(before, script)
    for name in before.keys() - clean.keys():
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(before)
