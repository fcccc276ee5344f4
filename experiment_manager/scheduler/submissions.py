"""What a launch keeps about its job arrays: in `launch.json`, before anything is handed over, and in `submission.json`.

launches/0001/launch.json        "slurm": {"arrays": [{name, script, jobs, pack, indexed, throttle, after, options}]}
launches/0001/submission.json    "arrays": {name: {"doubtful_until": time} or {"slurm_id": "123", "submitted": time}}
launches/0001/seen.json          the tasks that SLURM was seen to have of scripts which somebody submitted by hand
launches/0001/slurm_scripts.sh   the script as it was written, and then as it was submitted

A submission by hand leaves no record of ours, and may name a part of the array only. So what the queue does not have is
"taken out of the array" only when it was seen there, and while nobody answers, what was seen counts as last known.
"""

import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from experiment_manager.errors import NewerRecord, UnreadableLaunch, UnreadableRecord
from experiment_manager.model.ids import format_ids, parse_ids
from experiment_manager.model.records import Launch
from experiment_manager.scheduler.arrays import Array
from experiment_manager.store.documents import IDS, SUBMISSION, SUBMISSION_FORMAT, SUBMITTED, read_object, trouble
from experiment_manager.store.files import write_json
from experiment_manager.store.launches import SETTLED, of_scheduler
from experiment_manager.store.layout import Folder
from experiment_manager.text import skipped

_LONGEST_SLUG: Final = 40
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"


class LaunchedArray(NamedTuple):
    """One job array of a launch, as its record has it."""

    name: str  # a name that no other array of anybody bears: the scheduler's records are found by it
    script: str
    jobs: tuple[int, ...]  # in the order of the tasks
    pack: int
    is_indexed_by_job: bool
    after: int | None

    def tasks(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Each task: its index and the jobs that it runs."""
        if self.is_indexed_by_job:
            return ((job_id, (job_id,)) for job_id in self.jobs)
        return enumerate(self.jobs[at : at + self.pack] for at in range(0, len(self.jobs), self.pack))


def token(name: str) -> str:
    """A name of letters, digits and dashes that begins like `name` and that nobody else uses."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_LONGEST_SLUG].strip("-") or "job"
    rest = "".join(secrets.choice(_ALPHABET) for _ in range(7))
    return f"{slug}-{secrets.choice(_ALPHABET[:26])}{rest}"  # a letter first: no reader takes it for a number


def script_name(part: int) -> str:
    """`slurm_scripts.sh`, `slurm_scripts_2.sh`, ... for the parts from 1."""
    return "slurm_scripts.sh" if part == 1 else f"slurm_scripts_{part}.sh"


def records(found: Sequence[Array], name: str, kept: Callable[[Any], dict[str, Any]]) -> list[dict[str, Any]]:
    """What `launch.json` keeps of arrays; `kept` gives the options that are set, as `Scheduler.kept`."""
    first = token(name)
    return [
        {
            "name": first if part == 1 else f"{first}-{part}",
            "script": script_name(part),
            "jobs": format_ids(array.jobs),
            "pack": max(map(len, array.tasks)),
            "indexed": "job" if array.is_indexed_by_job else "position",
            "after": array.after,
            "options": kept(array.options),
        }
        for part, array in enumerate(found, start=1)
    ]


def launched_arrays(launch: Launch) -> list[LaunchedArray]:
    """The arrays of a launch; none for a launch that no scheduler runs."""
    return [
        LaunchedArray(
            name=record["name"],
            script=record["script"],
            jobs=tuple(parse_ids(record["jobs"])),
            pack=record["pack"],
            is_indexed_by_job=record["indexed"] == "job",
            after=record["after"],
        )
        for record in (of_scheduler(launch.record) or {}).get("arrays", ())
    ]


class Submission:
    """`submission.json` of a launch: written before and after each submission, so that a crash loses nothing.

    One that cannot be read is named, and what the scheduler has is found by its name alone; where something is going to
    be handed over, it raises UnreadableLaunch.
    """

    def __init__(self, folder: Folder, launch: Launch, *, is_to_act: bool = True) -> None:
        self._path = folder.join("launches", launch.number, "submission.json")
        self._arrays: dict[str, dict[str, Any]] = {}
        try:
            arrays = read_object(self._path, SUBMISSION, required=["arrays"])["arrays"]
            wrong = next(filter(None, (trouble(array, SUBMITTED) for array in arrays.values())), None)
            if wrong is not None:
                raise UnreadableRecord(self._path, wrong)
            self._arrays = arrays
        except FileNotFoundError:
            return
        except UnreadableRecord as error:
            if is_to_act and isinstance(error, NewerRecord):
                raise UnreadableLaunch(str(error), is_newer=True) from error
            if is_to_act:
                hint = "if it is damaged, remove it: what was submitted is found by its name"
                raise UnreadableLaunch(f"{error}; {hint}") from error
            skipped(str(error))

    def array_id(self, name: str) -> str | None:
        """The scheduler's id of an array; None while it is not known to be submitted."""
        about = self._arrays.get(name, {})
        return next((str(value) for key, value in about.items() if key.endswith("_id")), None)

    def submitted(self, name: str) -> float:
        """When an array was submitted, in seconds since the epoch; 0 where that is not known."""
        return float(self._arrays.get(name, {}).get("submitted") or 0.0)

    def doubtful_until(self, name: str) -> float | None:
        """Until when an array may still turn up that somebody began to submit without telling how it went; None when
        nobody did."""
        return self._arrays.get(name, {}).get("doubtful_until")

    def note(self, name: str, **about: Any) -> None:
        """The record of one array is `about`, on disk for good; nothing at all: it was not submitted."""
        self._arrays[name] = about
        if not about:
            del self._arrays[name]
        write_json(self._path, {"format": SUBMISSION_FORMAT, "arrays": self._arrays})
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(os.path.dirname(self._path), SETTLED))


def script_paths(folder: Folder, launch: Launch, array: LaunchedArray) -> tuple[str, str]:
    """The script that people submit, and the copy that the launch keeps."""
    return folder.join(array.script), folder.join("launches", launch.number, array.script)


def stale_scripts(folder: Folder, kept: Iterable[str]) -> list[str]:
    """Scripts of earlier launches that lie beside the newest ones, and could be submitted by mistake."""
    names = set(os.listdir(folder.path)) - set(kept)
    return [folder.join(name) for name in names if re.fullmatch(r"slurm_scripts(_\d+)?\.sh", name)]


class Sightings:
    """The indices that were seen, by the name of their array. What cannot be read is named, and stays as it is; where
    something is going to be handed over, it raises UnreadableLaunch."""

    def __init__(self, folder: Folder, launch: Launch, *, is_to_act: bool = True) -> None:
        self._path = folder.join("launches", launch.number, "seen.json")
        self._seen: dict[str, set[int]] = {}
        self._is_known = True
        self._is_only_read = folder.is_only_read
        try:
            body = read_object(self._path, {})
            if wrong := trouble(body, dict.fromkeys(body, IDS), required=list(body)):
                raise UnreadableRecord(self._path, wrong)
            self._seen = {name: set(parse_ids(text)) for name, text in body.items()}
        except FileNotFoundError:
            return
        except UnreadableRecord as error:
            if is_to_act:  # or jobs that wait would be taken for PENDING, and handed over again
                raise UnreadableLaunch(str(error)) from error
            self._is_known = False
            skipped(str(error))

    def has(self, name: str, index: int) -> bool:
        return index in self._seen.get(name, ())

    def add(self, found: Mapping[str, Iterable[int]]) -> None:
        """These were seen now; the file changes only when they are new."""
        is_new = False
        for name, indices in found.items():
            known = self._seen.setdefault(name, set())
            before = len(known)
            known.update(indices)
            is_new = is_new or len(known) > before
        if is_new and self._is_known and not self._is_only_read:
            with suppress(OSError):  # somebody else's folder
                write_json(self._path, {name: format_ids(sorted(known)) for name, known in self._seen.items() if known})
