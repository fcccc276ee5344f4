"""One question to SLURM about all launches that it may still have something to say about."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from experiment_manager.disk.folder import Folder
from experiment_manager.disk.launches import launch_numbers, planned_attempts, read_launch, settle, unsettled_numbers
from experiment_manager.disk.states import Snapshot, States
from experiment_manager.errors import ExperimentManagerError, JobRefused, SlurmError, UnreadableLaunch
from experiment_manager.records import Launch, State
from experiment_manager.slurm import client, parse
from experiment_manager.slurm.launched import LaunchedArray, Submission, launched_arrays
from experiment_manager.slurm.sightings import Sightings
from experiment_manager.slurm.told import Told, by_name
from experiment_manager.text import skipped, tell


class OpenLaunch(NamedTuple):
    """A launch whose jobs SLURM may still have to say something about."""

    launch: Launch
    arrays: Sequence[LaunchedArray]
    planned: Mapping[int, int]  # job -> the number of its first attempt in this launch
    submission: Submission
    sightings: Sightings


class Answer(NamedTuple):
    """What SLURM says about the arrays of these names, of these users."""

    names: frozenset[str]
    users: frozenset[str]
    rows: Sequence[parse.Queued] | None  # None: it could not be asked, or is not here
    runs: Mapping[str, list[parse.Run]] | None  # None: there is no accounting

    def covers(self, launches: Iterable[OpenLaunch], users: Iterable[str]) -> bool:
        """Whether it was asked about all of these."""
        return self.names.issuperset(_names(launches)) and self.users.issuperset(users)

    def about(self, launches: Iterable[OpenLaunch]) -> dict[str, Told] | None:
        """What it says, by name of the array; None where it could not be asked."""
        return None if self.rows is None else by_name(_names(launches), self.rows, self.runs)


def running_records(states: States, snapshot: Snapshot) -> list[Mapping[str, Any]]:
    """Who runs what is RUNNING: a script may have been submitted by somebody else than its author."""
    return [
        snapshot.runners.get((job_id, number)) or states.record(job_id, number)
        for job_id, numbers in snapshot.attempts.items()
        for number, state in numbers.items()
        if state is State.RUNNING
    ]


def open_launches(
    folder: Folder, running: Sequence[Mapping[str, Any]] = (), *, is_to_act: bool = False
) -> tuple[list[OpenLaunch], set[str]]:
    """The launches that are not settled, or run again, as a script can be submitted twice; and who may run them.

    One that cannot be read is named and left out; where jobs are going to be started, it raises UnreadableLaunch.
    """
    by_slurm = {str(record.get("launch")) for record in running if record.get("by_slurm")}
    found = list(_unsettled(folder, by_slurm, is_to_act=is_to_act))
    users = {str(record["slurm_job_user"]) for record in running if record.get("slurm_job_user")}
    return found, users | {str(opened.launch.record["user"]) for opened in found}


def _unsettled(folder: Folder, running: set[str], *, is_to_act: bool) -> Iterable[OpenLaunch]:
    open_ones = running.union(unsettled_numbers(folder))
    for number in launch_numbers(folder, open_ones):
        try:
            launch = read_launch(folder, number)
            arrays = launched_arrays(launch)
            if arrays:
                submission = Submission(folder, launch, is_to_act=is_to_act)
                sightings = Sightings(folder, launch, is_to_act=is_to_act)
                yield OpenLaunch(launch, arrays, planned_attempts(launch), submission, sightings)
            else:
                settle(folder, number)  # SLURM does not run it: its record has been read for the last time
        except UnreadableLaunch as error:
            if is_to_act:
                raise UnreadableLaunch(
                    f"{error}. Which jobs launch {number} has in hand is not known, so none is started: mend the file, "
                    f"or move {folder.join('launches', number)} away if none of its jobs waits or runs"
                ) from error
            skipped(str(error))
        except JobRefused:  # whoever made its folder was ended before its record: nothing was handed over
            continue


def ask(launches: Sequence[OpenLaunch], users: Iterable[str]) -> Answer:
    """What SLURM says about these launches; says on standard error when it cannot be asked."""
    names, asked = frozenset(_names(launches)), frozenset(users)
    if not launches or not client.is_available():
        return Answer(names, asked, None, None)
    try:
        rows = client.squeue(asked)
        runs = client.sacct(names, min(float(opened.launch.record["time"]) for opened in launches))
    except SlurmError as error:
        tell(f"SLURM cannot be asked: {error}. What it runs is shown as it was last known")
        return Answer(names, asked, None, None)
    return Answer(names, asked, rows, runs)


def ask_about(folders: Iterable[Folder]) -> Answer:
    """The same about the launches of several experiments; those whose launches cannot be read are left out."""
    launches: list[OpenLaunch] = []
    users: set[str] = set()
    for folder in folders:
        with suppress(ExperimentManagerError):  # who tells of that experiment says why
            found, theirs = open_launches(folder)
            launches, users = [*launches, *found], users | theirs
    return ask(launches, users)


def _names(launches: Iterable[OpenLaunch]) -> list[str]:
    return [array.name for opened in launches for array in opened.arrays]
