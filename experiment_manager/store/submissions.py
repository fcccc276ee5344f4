"""What is known of the arrays of a launch outside of its experiment: which were submitted, and which were seen.

launches/0001/submission.json    "arrays": {name: {"doubtful_until": time} or {"slurm_id": "123", "submitted": time}},
                                 with the "cluster" that has it, where it has told its name
launches/0001/train-x7.try       who submits that array just now, and until when it may turn up
launches/0001/seen.json          the tasks that SLURM was seen to have of scripts which somebody submitted by hand
launches/0001/seen_arrays.json   the ids of the arrays that these are tasks of
launches/0001/seen_clusters.json the names of the clusters that arrays were seen on
"""

import os
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeVar

from experiment_manager.errors import NewerRecord, UnreadableLaunch, UnreadableRecord
from experiment_manager.model.ids import format_ids, parse_ids
from experiment_manager.model.records import Launch
from experiment_manager.store.documents import (
    IDS,
    MOST_IDS,
    NUMBER,
    NUMBERED,
    SUBMISSION,
    SUBMISSION_FORMAT,
    SUBMITTED,
    TABLE,
    are_of_ids,
    read_object,
    read_optional,
    trouble,
)
from experiment_manager.store.files import clear_leftovers_beside, discard, temporary_name, write_json, writer_is_gone
from experiment_manager.store.launches import SETTLED
from experiment_manager.store.layout import Folder
from experiment_manager.store.lock import identity, take_away
from experiment_manager.store.processes import this_process
from experiment_manager.text import names_in, skipped

Item = TypeVar("Item")

_TRY: Final = {**dict.fromkeys(("until", "until_if_gone"), NUMBER), "process": TABLE}


class Submission:
    """`submission.json` of a launch: written before and after each submission, so that a crash loses nothing.

    One that cannot be read is named, and what the scheduler has is found by its name alone; where something is going to
    be handed over, it raises UnreadableLaunch.
    """

    def __init__(self, folder: Folder, launch: Launch, *, is_to_act: bool = True) -> None:
        self._folder, self._launch = folder, launch
        self._path = folder.join("launches", launch.number, "submission.json")
        self._arrays: dict[str, dict[str, Any]] = {}
        try:
            arrays = read_object(self._path, SUBMISSION, required=["arrays"])["arrays"]
            wrong = next(filter(None, map(_trouble, arrays.values())), None)
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
                raise UnreadableLaunch(error.with_way_out(hint), is_out_of_reach=error.is_out_of_reach) from error
            skipped(str(error))

    def array_id(self, name: str) -> str | None:
        """The scheduler's id of an array; None while it is not known to be submitted."""
        about = self._arrays.get(name, {})
        return next((str(value) for key, value in about.items() if key.endswith("_id")), None)

    def clusters(self, name: str) -> frozenset[str]:
        """The clusters that may have an array that was submitted, or may turn up, as `Scheduler.cluster` has named
        them; more than one where an older version has noted what people had named."""
        return frozenset(names_in(str(self._arrays.get(name, {}).get("cluster") or "").lower()))

    def note_id(self, name: str, array_id: str, submitted: float, scheduler: str, cluster: str | None) -> None:
        """An array was submitted, then, and got that id from the scheduler of that name; `cluster` is the one that has
        it, as far as that is known."""
        about = {f"{scheduler}_id": array_id, "submitted": submitted}
        self.note(name, **about, **({} if cluster is None else {"cluster": cluster}))

    def note_doubt(self, name: str, until: float, cluster: str | None) -> None:
        """An array is about to be submitted, to that cluster, and may turn up until then."""
        self.note(name, doubtful_until=until, **({} if cluster is None else {"cluster": cluster}))

    def submitted(self, name: str) -> float:
        """When an array was submitted, in seconds since the epoch; 0 where that is not known."""
        return float(self._arrays.get(name, {}).get("submitted") or 0.0)

    def doubtful_until(self, name: str) -> float | None:
        """Until when an array may still turn up that somebody began to submit without telling how it went; None when
        nobody did."""
        return self._arrays.get(name, {}).get("doubtful_until")

    def claim(self, name: str, until: float, until_if_gone: float) -> bool:
        """Whether this try to submit an array, which may turn up until then, is ours: false where somebody else, whom
        no lock has kept out, does so, or has done so since this was read. What he has told is known then. Where this
        process has ended it turns up sooner, or never. Raises OSError, UnreadableLaunch."""
        path, mine = self._try(name), temporary_name(self._path)
        about = {"until": until, "until_if_gone": until_if_gone, "process": this_process()}
        write_json(mine, about, for_good=False, is_shared=True)
        try:
            while True:
                try:
                    os.link(mine, path)
                    break
                except FileExistsError:
                    seen = identity(path)
                    other = _until(path)
                    if seen is not None and (other is None or other > time.time()):
                        self._arrays.setdefault(name, {})["doubtful_until"] = other or until
                        return False
                    if seen is not None:  # whoever began it was killed, and it did not turn up in time
                        take_away(path, seen)
        finally:
            discard(mine)
        now = Submission(self._folder, self._launch)
        if now._arrays == self._arrays:
            return True
        self._arrays = now._arrays
        if self.array_id(name) is None:
            return True
        self.withdraw(name)
        return False

    def withdraw(self, name: str) -> None:
        """Our try to submit an array is over: it is known how it went."""
        discard(self._try(name))

    def _try(self, name: str) -> str:
        return os.path.join(os.path.dirname(self._path), f"{name}.try")

    def note(self, name: str, **about: Any) -> None:
        """The record of one array is `about`, on disk for good; nothing at all: it was not submitted. What others, whom
        no lock has kept out, have told of other arrays since this was read stays."""
        with suppress(UnreadableLaunch):
            self._arrays = Submission(self._folder, self._launch)._arrays
        self._arrays[name] = about
        if not about:
            del self._arrays[name]
        write_json(self._path, {"format": SUBMISSION_FORMAT, "arrays": self._arrays}, is_shared=True)
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(os.path.dirname(self._path), SETTLED))


def _trouble(array: Any) -> str | None:
    """The fault in what is noted of an array, whichever scheduler has it; None: there is none."""
    ids = {} if not isinstance(array, dict) else {name: NUMBERED for name in array if name.endswith("_id")}
    return trouble(array, {**SUBMITTED, **ids})


def _until(path: str) -> float | None:
    """Until when the array may turn up that somebody submits; None where he does not tell."""
    found = read_optional(path, _TRY)
    gone = writer_is_gone(path, found.get("process") or {})
    until: float | None = found.get("until_if_gone" if gone is True and "until_if_gone" in found else "until")
    return until


class Sightings:
    """What was seen of the arrays of a launch, by their names: the indices of their tasks, their ids, and the clusters
    that they were on. What cannot be read is named, and stays as it is; where something is going to be handed over, it
    raises UnreadableLaunch."""

    def __init__(self, folder: Folder, launch: Launch, *, is_to_act: bool = True) -> None:
        self._folder = folder
        self._path = folder.join("launches", launch.number, "seen.json")
        self._ids_path = folder.join("launches", launch.number, "seen_arrays.json")
        self._clusters_path = folder.join("launches", launch.number, "seen_clusters.json")
        self._seen: dict[str, set[int]] = {}
        self._ids: dict[str, set[str]] = {}
        self._clusters: dict[str, set[str]] = {}
        self._is_known = True
        try:
            self._clusters = _read_texts(self._clusters_path)
            body = read_object(self._path, {})
            wrong = trouble(body, dict.fromkeys(body, IDS), required=list(body))
            if wrong or not are_of_ids(body.values()):
                raise UnreadableRecord(self._path, wrong or f"it names more than {MOST_IDS} tasks")
            self._seen = {name: set(parse_ids(text)) for name, text in body.items()}
            self._ids = _read_texts(self._ids_path)
        except FileNotFoundError:
            return
        except UnreadableRecord as error:
            if is_to_act:  # or jobs that wait would be taken for PENDING, and handed over again
                hint = "restore it, or remove it if no job of its launch waits or runs"
                raise UnreadableLaunch(error.with_way_out(hint), is_out_of_reach=error.is_out_of_reach) from error
            self._is_known = False
            skipped(str(error))

    def has(self, name: str, index: int) -> bool:
        return index in self._seen.get(name, ())

    def ids(self, name: str) -> Collection[str]:
        """The scheduler's ids of the arrays of this name that were seen."""
        return self._ids.get(name, ())

    def clusters(self, name: str) -> Collection[str]:
        """The clusters that arrays of this name were seen on, as far as they have told their names."""
        return self._clusters.get(name, ())

    def add(
        self,
        found: Mapping[str, Iterable[int]],
        ids: Mapping[str, Iterable[str]],
        clusters: Mapping[str, str | None],
    ) -> None:
        """These tasks and arrays were seen now, on these clusters; the files change only when some are new."""
        where = {name: [cluster] for name, cluster in clusters.items() if cluster is not None}
        if _grow(self._clusters, where):  # before the tasks: of what is known to be submitted it is known, too, where
            self._write(self._clusters_path, {name: sorted(known) for name, known in self._clusters.items()})
        if _grow(self._ids, ids):  # and as what
            self._write(self._ids_path, {name: sorted(known) for name, known in self._ids.items()})
        if _grow(self._seen, found):
            self._write(self._path, {name: format_ids(sorted(known)) for name, known in self._seen.items()})

    def _write(self, path: str, body: Mapping[str, Any]) -> None:
        if self._is_known and not self._folder.is_only_read:
            with suppress(OSError):  # somebody else's folder
                self._folder.require_within(os.path.dirname(path))
                clear_leftovers_beside(path)
                write_json(path, body, is_shared=True)


def _read_texts(path: str) -> dict[str, set[str]]:
    try:
        body = read_object(path, {})
    except FileNotFoundError:  # of an older version, which did not tell
        return {}
    for texts in body.values():
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise UnreadableRecord(path, "it does not map names to lists of texts")
    return {name: set(texts) for name, texts in body.items()}


def _grow(known: dict[str, set[Item]], found: Mapping[str, Iterable[Item]]) -> bool:
    """What was found is known, by its name, too; returns whether any of it is new."""
    is_new = False
    for name, items in found.items():
        new = set(items) - known.get(name, set())
        if new:
            known.setdefault(name, set()).update(new)
            is_new = True
    return is_new
