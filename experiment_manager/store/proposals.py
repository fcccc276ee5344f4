"""What a search has proposed since its manifest was written, and the configurations that those jobs have left.

    proposals/17.json                 job 17: complete when it appears, and never changed
    proposals/stopped.json            somebody has stopped the search: nothing more is proposed
    proposals/17.configuration.json   what job 17 composed when it ran for the first time

A proposal is linked to its name, which only one process can do: the others read it, and propose the next one. The
manifest takes proposals up when it is written next; the files stay, since they are what keeps the ids taken.
"""

import os
import time
from collections.abc import Mapping
from typing import Any, Final

from experiment_manager.errors import UnreadableRecord
from experiment_manager.model import codec
from experiment_manager.model.search import Proposal
from experiment_manager.store.documents import (
    CONFIGURATION,
    PROPOSAL,
    PROPOSAL_FORMAT,
    STOPPED,
    read_object,
    read_optional,
)
from experiment_manager.store.files import discard, json_text, linked, sync, temporary_name
from experiment_manager.store.layout import Folder

_ENDING: Final = ".json"


def proposed_ids(folder: Folder) -> list[int]:
    """The ids of the jobs that have a file, in order: by one listing. Raises OSError."""
    try:
        names = os.listdir(folder.proposals)
    except FileNotFoundError:
        return []
    stems = (name.removesuffix(_ENDING) for name in names if name.endswith(_ENDING))
    return sorted(int(stem) for stem in stems if stem.isascii() and stem.isdecimal())


def read_proposal(folder: Folder, job_id: int) -> Proposal | None:
    """The proposal of a job; None where it has no file. Raises UnreadableRecord."""
    path = _path(folder, job_id)
    try:
        return Proposal.read(job_id, read_object(path, PROPOSAL, required=list(PROPOSAL)))
    except FileNotFoundError:
        return None
    except (KeyError, TypeError) as error:
        raise UnreadableRecord(path, f"it is no proposal: {error}") from error


def publish(folder: Folder, proposal: Proposal) -> bool:
    """The proposal has its file, on disk for good; false where another one has it already."""
    folder.make(folder.proposals)
    return _link(_path(folder, proposal.job_id), {"format": PROPOSAL_FORMAT, **proposal.body})


def stop(folder: Folder, *, by: str, is_cancelled: bool = False) -> bool:
    """Nothing more is proposed; false where somebody has stopped the search before. `is_cancelled`: what runs was to
    end, too, so that the search has not come to its end."""
    folder.make(folder.proposals, is_shared=True)
    about = {"by": by, "host": os.uname().nodename, "time": time.time()}
    return _link(_stop_path(folder), {**about, "cancelled": True} if is_cancelled else about)


def go_on(folder: Folder) -> None:
    """It is no more stopped. To be used inside `layout.planning`."""
    discard(_stop_path(folder))


def who_stopped(folder: Folder) -> str | None:
    """Who has stopped the search, and None where nobody has."""
    try:
        found = read_object(_stop_path(folder), STOPPED)
    except (FileNotFoundError, NotADirectoryError):  # asked with open(): the search may have gone on a moment ago
        return None
    except (OSError, UnreadableRecord):
        return "somebody"
    return f"{found.get('by') or 'somebody'} on {found.get('host') or 'some machine'}"


def was_cancelled(folder: Folder) -> bool:
    """Whether the search is stopped since people have cancelled it; false where nobody can tell."""
    return bool(read_optional(_stop_path(folder), STOPPED).get("cancelled"))


def leave_configuration(folder: Folder, job_id: int, encoded: codec.Encoded) -> None:
    """The configuration of a job is kept, unless it has one already. Raises OSError."""
    folder.make(folder.proposals)
    _link(_configuration_path(folder, job_id), {"fingerprint": codec.digest(encoded), "configuration": encoded})


def read_configuration(folder: Folder, job_id: int) -> tuple[str, codec.Encoded] | None:
    """The fingerprint and the tagged configuration that a job has left; None: none yet. Raises UnreadableRecord."""
    try:
        found = read_object(_configuration_path(folder, job_id), CONFIGURATION, required=list(CONFIGURATION))
    except FileNotFoundError:
        return None
    return found["fingerprint"], found["configuration"]


def _path(folder: Folder, job_id: int) -> str:
    return os.path.join(folder.proposals, f"{job_id}{_ENDING}")


def _stop_path(folder: Folder) -> str:
    return os.path.join(folder.proposals, "stopped.json")


def _configuration_path(folder: Folder, job_id: int) -> str:
    return os.path.join(folder.proposals, f"{job_id}.configuration{_ENDING}")


def _link(path: str, body: Mapping[str, Any]) -> bool:
    """The file holds that, whole and on disk for good; false where there is one already. Raises OSError."""
    temporary = temporary_name(path)
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(json_text(body))
        sync(temporary)
        if not linked(temporary, path):
            return False
        sync(os.path.dirname(path))
    finally:
        discard(temporary)
    return True
