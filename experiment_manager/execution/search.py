"""How a worker takes part in a search: it asks a process of its own, the proposer, for one job after the other."""

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from experiment_manager.errors import ExperimentManagerError, JobRefused, OptionsError
from experiment_manager.store.launches import user_name
from experiment_manager.store.layout import Folder, planning, writing
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.processes import dying_with_us
from experiment_manager.store.proposals import go_on, stop, who_stopped
from experiment_manager.text import tell

if TYPE_CHECKING:
    import subprocess

    from experiment_manager.execution.signals import Heard
    from experiment_manager.model.search import Search

_TRIES: Final = 2
"""A proposer that ends instead of answering is started again, so often in all."""


_ENDS_S: Final = 5.0
"""How long a proposer that was killed is waited for."""


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
        import subprocess

        process, self._process = self._process, None
        if process is None or os.getpid() != self._pid:  # a copy of this process is the job
            return
        process.kill()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        with suppress(subprocess.TimeoutExpired):  # in a file system that hangs, it ends when that answers
            process.wait(_ENDS_S)

    def ask(self, heard: "Heard") -> int | None:
        """The job that is proposed now; None where nothing is, nor will be here, or a signal was heard before that.
        Raises ExperimentManagerError."""
        answer = self._answer(heard)
        if answer is None:
            return None
        if "job" in answer:
            return int(answer["job"])
        self.is_over = True
        self.end()
        if "error" in answer:
            raise ExperimentManagerError(answer["error"])
        if not answer["is_complete"]:
            tell(f"no more trials are begun here: {answer['why']}")
        return None

    def _answer(self, heard: "Heard") -> Mapping[str, Any] | None:
        """What the proposer says; None where a signal was heard before it did: it may hang, as in a file system."""
        why = ""
        for _ in range(_TRIES):
            try:
                self.begin()
                assert self._process is not None
                assert self._process.stdin is not None
                assert self._process.stdout is not None
                self._process.stdin.write(b"\n")
                self._process.stdin.flush()
                if not heard.wait_to_read(self._process.stdout.fileno()):
                    return None
                if line := self._process.stdout.readline():
                    answer: Mapping[str, Any] = json.loads(line)
                    return answer
                why = "it ended"
            except (OSError, ValueError) as error:
                why = str(error)
            self.end()
        return {"error": f"nothing could be proposed: {why}; the lines above say more, and the same command goes on"}

    def planned(self) -> dict[int, int]:
        """The jobs that were proposed under this launch, and the number of the first attempt of each; none of a search
        that was stopped: what nobody has begun then, whoever goes on with it begins."""
        if who_stopped(self._folder) is not None:
            return {}
        with Manifest(self._folder) as manifest:
            return {one.job_id: 1 for one in manifest.proposals() if one.launch == self._launch}

    def has_left(self) -> bool:
        """Whether a trial is left that nobody has proposed yet, as far as can be told without a study."""
        if self.is_over or who_stopped(self._folder) is not None:
            return False
        with Manifest(self._folder) as manifest:
            return manifest.has_unproposed()


def add_trials(folder: Folder, count: int) -> int:
    """The search has so many trials more, and is stopped no more; returns how many it has now. Raises JobRefused where
    there is no search, and OptionsError for a number that adds none."""
    if count < 1:
        raise OptionsError(f"{count} trials more are none; ask for 1 or more")

    from experiment_manager.store.manifest_editor import editing, until_published  # which no worker needs

    def add(base: int) -> int:
        with Manifest(folder) as manifest:
            first, search = manifest.next_id, _required(folder, manifest)
        search = search._replace(ranges=(*search.ranges, (first, first + count * search.jobs_per_trial - 1)))
        with editing(folder, base) as editor:
            editor.set_search(search)
        return search.n_trials

    folder.require()
    with planning(folder):
        n_trials = until_published(folder, add)
        go_on(folder)
    return n_trials


def stop_search(folder: Folder) -> bool:
    """Nothing more is proposed, and what runs goes on; false where that was so before. Raises JobRefused where there is
    no search."""
    with Manifest(folder) as manifest:
        _required(folder, manifest)
    with writing(folder.proposals):
        return stop(folder, by=user_name())


def _required(folder: Folder, manifest: Manifest) -> "Search":
    if manifest.search is None:
        raise JobRefused(no_search(folder))
    return manifest.search


def no_search(folder: Folder) -> str:
    """The sentence for an experiment without a search."""
    return f"{folder.path} has no search; begin one with a sweep by hydra/sweeper=experiment_optuna"


def first_unproposed(folder: Folder) -> int | None:
    """The id of the next job that the search proposes; None where there is no search, or it proposes nothing more."""
    if who_stopped(folder) is not None:
        return None
    with Manifest(folder) as manifest:
        return manifest.next_unproposed()


def unproposed(folder: Folder) -> int:
    """How many jobs of the search nobody has proposed yet."""
    with Manifest(folder) as manifest:
        return manifest.n_unproposed()
