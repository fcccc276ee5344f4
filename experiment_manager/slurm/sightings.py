"""Which tasks SLURM was seen to have of scripts that somebody submitted by hand: `launches/0001/seen.json`.

`sbatch` by hand leaves no record of ours, and may name a part of the array only. So what SLURM does not have is
"taken out of the array" only when it was seen there, and while SLURM is silent what was seen counts as last known.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress

from experiment_manager.disk.documents import IDS, read_object, trouble
from experiment_manager.disk.files import write_json
from experiment_manager.disk.folder import Folder
from experiment_manager.errors import UnreadableLaunch, UnreadableRecord
from experiment_manager.ids import format_ids, parse_ids
from experiment_manager.records import Launch
from experiment_manager.text import skipped


class Sightings:
    """The indices that were seen, by the name of their array. What cannot be read is named, and stays as it is; where
    something is going to be handed over, it raises UnreadableLaunch."""

    def __init__(self, folder: Folder, launch: Launch, *, is_to_act: bool = True) -> None:
        self._path = folder.join("launches", launch.number, "seen.json")
        self._seen: dict[str, set[int]] = {}
        self._is_known = True
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
        if is_new and self._is_known:
            with suppress(OSError):  # somebody else's folder
                write_json(self._path, {name: format_ids(sorted(known)) for name, known in self._seen.items() if known})
