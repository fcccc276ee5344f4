"""The jobs of an experiment as a Python program defines them: drafts of new ones, on top of those in the manifest."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from experiment_manager.errors import (
    ConfigurationChanged,
    DuplicateJob,
    ExperimentManagerError,
    FilterError,
    FolderError,
    ManifestError,
    UnknownJob,
)
from experiment_manager.model import codec
from experiment_manager.model.grid import variables_identity
from experiment_manager.model.ids import format_ids, one_id
from experiment_manager.model.records import Job, JobId
from experiment_manager.store.documents import MOST_RESULT_BYTES, read_json
from experiment_manager.store.files import is_there
from experiment_manager.store.holds import read_removed
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest, changed_configuration, unknown_job
from experiment_manager.store.matching import Matching
from experiment_manager.text import described


class _Draft(NamedTuple):
    job: Job
    encoded: codec.Encoded


class JobDrafts:
    """The jobs that were added, and where the experiment was loaded, those of its folder, too.

    A job that the folder has keeps its id there; new ones get the ids that follow. `write` puts them into the manifest.
    """

    def __init__(self, folder: Folder, variables: Sequence[str], *, is_loaded: bool = False) -> None:
        self.variables = list(variables)
        self._folder, self._is_loaded = folder, is_loaded
        self._drafts: dict[int, _Draft] = {}
        self._new: list[int] = []  # the ids of those that the manifest does not have yet
        self._added: dict[str, int] = {}  # identity -> id of the jobs that are drafts, also once they are written
        self._saved: dict[str, list[tuple[int, str | None]]] | None = None  # identity -> (id, fingerprint)
        self._next_id = 0
        self.has_search = False
        """Whether the folder has a search, as its manifest told when its jobs were listed last."""

    @classmethod
    def load(cls, folder: Folder) -> "JobDrafts":
        """The jobs that a folder has; those that the original library wrote are drafts until they are written.

        Raises FolderError where there is no experiment, ManifestError where it is damaged.
        """
        folder.require()
        if is_there(folder.manifest):
            with Manifest(folder) as manifest:
                return cls(folder, manifest.variables, is_loaded=True)
        names, jobs = _read_original(folder)
        drafts = cls(folder, names, is_loaded=True)
        for place, (variables, configuration) in enumerate(jobs):
            identity, encoded = variables_identity(variables), codec.encode(configuration)
            drafts._put(Job(JobId(place), identity, variables, (), codec.digest(encoded), None), encoded)
        drafts._saved, drafts._next_id, drafts._new = {}, len(jobs), list(range(len(jobs)))
        return drafts

    def go_along(self, folder: Folder) -> None:
        """The experiment, which was moved, is in that folder."""
        self._folder = folder

    # -- defining ----------------------------------------------------------------------------------------------------

    def add(self, variables: Mapping[str, Any], configuration: Any) -> JobId:
        """A job with these variables is among the drafts; returns its id. See `Experiment.add_job` for the errors."""
        if set(variables) != set(self.variables):
            raise ExperimentManagerError(
                f"a job of {self._folder.path} has the variables {', '.join(self.variables)}; "
                f"got {', '.join(map(str, variables)) or 'none'}"
            )
        identity = variables_identity(variables)
        saved = self._read_saved()
        if identity in self._added or (self._is_loaded and identity in saved):
            raise DuplicateJob(f"the job {dict(variables)} is in {self._folder.path} already; change a variable")
        encoded = codec.encode(configuration, "configuration")
        job = Job(JobId(self._next_id), identity, dict(variables), (), codec.digest(encoded), None)
        if identity in saved:
            job = job._replace(id=self._id_in_manifest(saved[identity], job, encoded))
        else:
            self._next_id += 1
            self._new.append(job.id)
        return self._put(job, encoded)

    def _id_in_manifest(self, known: Sequence[tuple[int, str | None]], job: Job, encoded: codec.Encoded) -> JobId:
        """The id of the job that the manifest has with these variables. Raises ConfigurationChanged."""
        with Matching(self._folder) as matching:
            match = matching.match(known, job.fingerprint or "", lambda: encoded)
        if match.is_changed or match.job_id is None:
            way_out = "make what changes a variable, or choose another name"
            raise ConfigurationChanged(changed_configuration(self._folder, match.job_id or 0, encoded, way_out))
        return JobId(match.job_id)

    def _put(self, job: Job, encoded: codec.Encoded) -> JobId:
        self._drafts[job.id] = _Draft(job, encoded)
        self._added[job.identity] = job.id
        return job.id

    def _read_saved(self) -> Mapping[str, list[tuple[int, str | None]]]:
        """The jobs of the folder by identity, read once."""
        if self._saved is None:
            self._saved = {}
            if self._has_manifest():
                with Manifest(self._folder) as manifest:
                    for job_id, identity, fingerprint, _ in manifest.index():
                        self._saved.setdefault(identity, []).append((job_id, fingerprint))
                    self._next_id = manifest.next_id
        return self._saved

    def write(self) -> None:
        """The manifest has all drafts; one that has them already stays as it is. To be used inside `layout.planning`.

        Raises FolderError where somebody else has added jobs of the same ids meanwhile.
        """
        from experiment_manager.store.manifest_editor import until_published  # those who run a job write no manifest

        if self._new or not self._has_manifest():
            until_published(self._folder, self._publish)
        self._new.clear()

    def _publish(self, base: int) -> None:
        from experiment_manager.store.manifest_editor import editing

        if self._has_manifest():
            with Manifest(self._folder) as manifest:
                base, next_id = manifest.generation, manifest.next_id  # also after what a search has reserved
            if taken := [job_id for job_id in self._new if job_id < next_id]:
                raise FolderError(
                    f"somebody else has added jobs {format_ids(taken)} to {self._folder.path} meanwhile; run this again"
                )
        with editing(self._folder, base) as editor:
            editor.set_variables(self.variables)
            for job_id in self._new:
                editor.add_configured(*self._drafts[job_id])

    # -- reading -----------------------------------------------------------------------------------------------------

    def _has_manifest(self) -> bool:
        return is_there(self._folder.manifest)

    def _is_on_top(self) -> bool:
        """Whether the jobs of the manifest are jobs of this program, too, and not only those that it has added: where
        it was loaded, and while none was added."""
        return (self._is_loaded or not self._drafts) and self._has_manifest()

    @property
    def is_whole(self) -> bool:
        """Whether no job of the manifest is left out."""
        return self._is_on_top() or not self._has_manifest()

    def ids(self) -> list[int]:
        """The ids of all jobs, in order."""
        if not self._is_on_top():
            return sorted(self._drafts.keys() - read_removed(self._folder))
        return [*self._saved_ids(), *self._new]

    def _saved_ids(self) -> Sequence[int]:
        if not self._has_manifest():
            return ()
        with Manifest(self._folder) as manifest:
            self.has_search = manifest.search is not None
            found, removed = manifest.ids(), read_removed(self._folder)
            return [job_id for job_id in found if job_id not in removed] if removed else found

    def __iter__(self) -> Iterator[Job]:
        """All jobs, in the order of their ids, without those that were removed."""
        removed = read_removed(self._folder)
        if not self._is_on_top():
            yield from (self._drafts[job_id].job for job_id in sorted(self._drafts.keys() - removed))
            return
        with Manifest(self._folder) as manifest:
            self.has_search = manifest.search is not None
            yield from (job for job in manifest.jobs() if job.id not in removed)
        yield from (self._drafts[job_id].job for job_id in self._new)

    def job(self, job_id: int) -> Job:
        """One job. Raises UnknownJob."""
        job_id = one_id(job_id)
        if job_id in self._drafts:
            return self._drafts[job_id].job
        if not self._has_manifest():
            raise UnknownJob(unknown_job(job_id, self.ids(), self._folder.path))
        with Manifest(self._folder) as manifest:
            return manifest.job(job_id)

    def jobs(self, ids: Sequence[int]) -> list[Job]:
        """Several jobs, in that order, from a manifest that is opened once. Raises UnknownJob."""
        ids = list(map(one_id, ids))
        if not ids or any(job_id in self._drafts for job_id in ids):
            return [self.job(job_id) for job_id in ids]
        with Manifest(self._folder) as manifest:
            return [manifest.job(job_id) for job_id in ids]

    def encoded(self, job_id: int) -> codec.Encoded:
        """The configuration of a job in its tagged form; None while it has none. Raises UnknownJob."""
        job_id = self.job(job_id).id
        if job_id in self._drafts:
            return self._drafts[job_id].encoded
        with Manifest(self._folder) as manifest:
            return manifest.encoded_configuration(job_id)

    def resolved(self, job_id: int, unresolved: Callable[[str, str, str], Any] | None = None) -> Any:
        """The configuration with the values that interpolations stand for: those that the sweep kept, else those that
        can be told here, else what `unresolved` makes of their keys and texts. Raises UnknownJob."""
        from experiment_manager.model.facts import resolved

        encoded, kept = self.encoded(job_id := one_id(job_id)), {}
        if job_id not in self._drafts:
            with Manifest(self._folder) as manifest:
                kept = manifest.kept(job_id)
        return resolved(encoded, kept, unresolved)

    def known_ids(self, asked: Iterable[int]) -> list[int]:
        """The ids that are asked for, each once, in that order. Raises UnknownJob, and FilterError for none at all and
        for a filter in the place of ids."""
        if isinstance(asked, str | Mapping) or callable(asked):
            raise FilterError(f"save_pass_filter takes ids: save_pass_filter(exp.get_ids({asked!r}))")
        ids = list(dict.fromkeys(map(one_id, asked)))
        known = set(self.ids()) | set(self._saved_ids())
        for job_id in ids:
            if job_id not in known:
                raise UnknownJob(unknown_job(job_id, sorted(known), self._folder.path))
        if not ids:
            from experiment_manager.model import filters

            raise FilterError(f"no job passes the filter of {self._folder.path}; {filters.values_there_are(self)}")
        return ids


def _read_original(folder: Folder) -> tuple[list[str], list[tuple[dict[str, Any], Any]]]:
    """The names of the variables, and (variables, configuration) of each job; a job's id is its place, in a
    folder that the original library wrote: `config.json` with every job. Read only: saving the experiment writes a
    manifest, and the old files stay where they are.

    Raises ManifestError when the file is something else.
    """
    try:
        body = read_json(folder.original_config, MOST_RESULT_BYTES)
        jobs = [(dict(job["variables"]), job["run_config"]) for job in body["jobs"]]
        return [str(name) for name in body["variables"]], jobs
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(
            f"{folder.original_config} is no experiment of the original library ({described(error)})"
        ) from error
