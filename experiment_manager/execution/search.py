"""How a worker takes part in a search: it asks a process of its own, the proposer, for one job after the other."""

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from experiment_manager.errors import ExperimentManagerError
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.processes import dying_with_us
from experiment_manager.store.proposals import who_stopped
from experiment_manager.text import tell

if TYPE_CHECKING:
    import subprocess

_TRIES: Final = 2
"""A proposer that ends instead of answering is started again, so often in all."""


class SearchJobs:
    """The jobs of a search, as one lane of a worker gets them."""

    def __init__(self, folder: Folder, launch: str) -> None:
        self._folder, self._launch = folder, launch
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = os.getpid()
        self.is_over = False
        """Whether nothing more is going to be proposed."""

    def begin_beside(self) -> None:
        """The same, if it can be done; else whoever asks hears of it."""
        with suppress(OSError):
            self.begin()

    def begin(self) -> None:
        """The proposer is being started, if it is not there yet. Raises OSError."""
        if self._process is not None and self._process.poll() is None:
            return
        import subprocess  # which a worker without a search does not need

        self._process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "experiment_manager.execution.proposer"),
                *(self._folder.path, self._launch),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # signals are for whoever asks
            preexec_fn=dying_with_us(),
        )

    def end(self) -> None:
        """There is no proposer any more."""
        process, self._process = self._process, None
        if process is None or os.getpid() != self._pid:  # a copy of this process is the job
            return
        process.kill()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        process.wait()

    def ask(self) -> int | None:
        """The job that is proposed now; None where nothing is, nor will be here. Raises ExperimentManagerError."""
        answer = self._answer()
        if "job" in answer:
            return int(answer["job"])
        self.is_over = True
        self.end()
        if "error" in answer:
            raise ExperimentManagerError(answer["error"])
        if not answer["is_complete"]:
            tell(f"no more trials are begun here: {answer['why']}")
        return None

    def _answer(self) -> Mapping[str, Any]:
        why = ""
        for _ in range(_TRIES):
            try:
                self.begin()
                assert self._process is not None
                assert self._process.stdin is not None
                assert self._process.stdout is not None
                self._process.stdin.write(b"\n")
                self._process.stdin.flush()
                if line := self._process.stdout.readline():
                    answer: Mapping[str, Any] = json.loads(line)
                    return answer
                why = "it ended"
            except (OSError, ValueError) as error:
                why = str(error)
            self.end()
        return {"error": f"nothing could be proposed: {why}; the lines above say more, and the same command goes on"}

    def planned(self) -> dict[int, int]:
        """The jobs that were proposed under this launch, and the number of the first attempt of each."""
        with Manifest(self._folder) as manifest:
            return {one.job_id: 1 for one in manifest.proposals() if one.launch == self._launch}

    def has_left(self) -> bool:
        """Whether a trial is left that nobody has proposed yet, as far as can be told without a study."""
        if self.is_over or who_stopped(self._folder) is not None:
            return False
        with Manifest(self._folder) as manifest:
            search = manifest.search
            last = None if search is None else search.job_id(search.n_trials - 1)
            return last is not None and manifest.proposal(last) is None


def unproposed(folder: Folder) -> int:
    """How many trials of the search nobody has proposed yet."""
    with Manifest(folder) as manifest:
        return 0 if manifest.search is None else manifest.search.n_trials - sum(1 for _ in manifest.proposals())
