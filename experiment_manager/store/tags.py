"""Words that people give to jobs and to experiments: tags are names of empty files, as states are, and notes are text.

tags/7.baseline    experiment.paper     job 7 is tagged baseline, the experiment itself paper
notes/7.txt        experiment.txt       what people have written, a line each time
"""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Final, NamedTuple

from experiment_manager.errors import FolderError, OptionsError
from experiment_manager.store.documents import content
from experiment_manager.store.files import appending, unreadable
from experiment_manager.store.layout import Folder, marks_in, set_marks, writing

_EXPERIMENT: Final = "experiment"
_TAG: Final = re.compile(r"[^\W\d_][\w.+=@-]*")
_NAME: Final = re.compile(rf"(?:(0|[1-9]\d*)|{_EXPERIMENT})\.({_TAG.pattern})")
_MOST_BYTES: Final = 100
_MOST_NOTE_BYTES: Final = 1 << 20


class Tags(NamedTuple):
    """The tags of an experiment: its own, and those of its jobs, each sorted."""

    own: tuple[str, ...] = ()
    jobs: Mapping[int, tuple[str, ...]] = MappingProxyType({})

    def of(self, job_id: int) -> tuple[str, ...]:
        return self.jobs.get(job_id, ())

    @property
    def by_tag(self) -> dict[str, tuple[int, ...]]:
        """The jobs that have each tag."""
        found: dict[str, list[int]] = defaultdict(list)
        for job_id in sorted(self.jobs):
            for tag in self.jobs[job_id]:
                found[tag].append(job_id)
        return {tag: tuple(found[tag]) for tag in sorted(found)}

    @property
    def words(self) -> list[str]:
        """A line for each tag of jobs, for people."""
        from experiment_manager.model.ids import which

        return [f"tagged {tag}: {which(ids)}" for tag, ids in self.by_tag.items()]


def check_tag(tag: str) -> None:
    """Raise OptionsError, which says why, unless `tag` can be one.

    >>> check_tag("baseline"); check_tag("v1.2+fix")
    """
    if not _TAG.fullmatch(tag) or len(tag.encode()) > _MOST_BYTES or not tag.isprintable():
        raise OptionsError(
            f"{tag!r} cannot be a tag: it is the name of a file, so it begins with a letter, and has letters, digits, "
            f"and _ . + = @ - only, {_MOST_BYTES} bytes at most"
        )


def read_tags(folder: Folder) -> Tags:
    """All tags there are, by one listing. Raises FolderError."""
    own, jobs = list[str](), dict[int, list[str]]()
    for name in sorted(marks_in(folder.tags)):
        match = _NAME.fullmatch(name)
        if match is not None:
            (own if match[1] is None else jobs.setdefault(int(match[1]), [])).append(match[2])
    return Tags(tuple(own), {job_id: tuple(tags) for job_id, tags in jobs.items()})


def set_tags(folder: Folder, tags: Collection[str], ids: Iterable[int] | None, *, are_there: bool) -> None:
    """The jobs, or with None the experiment itself, have these tags, or have them not. Raises OptionsError for a word
    that cannot be a tag, FolderError."""
    for tag in tags:
        check_tag(tag)
    subjects = [_EXPERIMENT] if ids is None else list(ids)
    names = (f"{subject}.{tag}" for subject in subjects for tag in tags)
    set_marks(folder, folder.tags, names, are_there=are_there)


def read_note(folder: Folder, job_id: int | None = None) -> str | None:
    """What people have written about a job, or about the experiment; None: nothing. Raises FolderError."""
    path = _note(folder, job_id)
    try:
        return content(path, _MOST_NOTE_BYTES).decode(errors="replace").rstrip("\n") or None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FolderError(unreadable(path, error)) from error


def add_note(folder: Folder, text: str, job_id: int | None = None) -> None:
    """The text stands below what was written before. Raises FolderError."""
    path = _note(folder, job_id)
    with writing(path):
        folder.make(os.path.dirname(path))
        handle = appending(path)
        try:
            os.write(handle, f"{text.rstrip()}\n".encode(errors="replace"))
        finally:
            os.close(handle)


def remove_note(folder: Folder, job_id: int | None = None) -> None:
    """Nothing is written about the job, or the experiment. Raises FolderError."""
    path = _note(folder, job_id)
    with writing(path), suppress(FileNotFoundError):
        folder.require_within(os.path.dirname(path))
        os.unlink(path)


def _note(folder: Folder, job_id: int | None) -> str:
    return folder.join("notes", f"{_EXPERIMENT if job_id is None else job_id}.txt")
