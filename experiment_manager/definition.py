"""The jobs of an experiment, as they are defined in Python: which there are, and which may run."""

import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple, Self

from experiment_manager.analysis import views
from experiment_manager.errors import (
    ConfigurationChanged,
    DuplicateJob,
    ExperimentManagerError,
    FilterError,
    FolderError,
    UnknownJob,
)
from experiment_manager.model import codec, filters, policy
from experiment_manager.model.config_template import Configured, Frame
from experiment_manager.model.facts import Unresolved, World
from experiment_manager.model.grid import variables_identity
from experiment_manager.model.ids import format_ids
from experiment_manager.model.records import Job, JobId
from experiment_manager.model.resolved import resolved
from experiment_manager.scheduler.reconcile import reconciled
from experiment_manager.scheduler.slurm.configuration import SLURM
from experiment_manager.store.layout import Folder, planning
from experiment_manager.store.leftovers import clear_leftovers
from experiment_manager.store.manifest import Manifest, changed_configuration, unknown_job
from experiment_manager.store.manifest_editor import editing, until_published
from experiment_manager.store.original import read_original
from experiment_manager.store.pass_filter import read_selection, write_selection
from experiment_manager.store.states import Snapshot


class _Draft(NamedTuple):
    job: Job
    encoded: codec.Encoded
    is_new: bool  # the manifest does not have it yet


class Definition:
    """What an experiment is: its jobs, and the choice of those that may run. See `Experiment`."""

    def __init__(self, variables: Sequence[str], experiment_name: str, abs_folder_path: str | os.PathLike[str]) -> None:
        self.variables = list(variables)
        self.folder = Folder(abs_folder_path, experiment_name)
        self._drafts: dict[int, _Draft] = {}
        self._here: dict[str, int] = {}  # identity -> id of the jobs that were added here, or loaded
        self._is_loaded = False
        self._disk: dict[str, list[tuple[int, str | None]]] | None = None
        self._next_id = 0
        self._slurm: SLURM | None = None

    @property
    def experiment_name(self) -> str:
        return self.folder.name

    @classmethod
    def load(cls, experiment_name: str, experiment_path: str | os.PathLike[str]) -> Self:
        """The experiment that is in `<experiment_path>/<experiment_name>`, also one that the original library wrote.

        Raises FolderError where there is none, ManifestError where it is damaged.
        """
        return cls._loaded(Folder(experiment_path, experiment_name))

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> Self:
        """The same, by the experiment's own folder."""
        return cls._loaded(Folder.at(path))

    @classmethod
    def _loaded(cls, folder: Folder) -> Self:
        folder.require()
        experiment = cls([], folder.name, folder.parent)
        experiment._is_loaded = True
        if os.path.exists(folder.manifest):
            with Manifest(folder) as manifest:
                experiment.variables = list(manifest.variables)
            return experiment
        experiment.variables, jobs = read_original(folder)
        for place, (variables, configuration) in enumerate(jobs):
            experiment._add(JobId(place), variables, codec.encode(configuration), is_new=True)
        experiment._disk, experiment._next_id = {}, len(jobs)
        return experiment

    def add_job(self, variables: Mapping[str, Any], configuration: Any) -> int:
        """A job with these variables is in the experiment; returns its id.

        `configuration` holds all parameters of the job: mappings, lists, numbers, text.
        Raises DuplicateJob (a ValueError) when these variables are there already; ConfigurationChanged when the folder
        has them with another configuration; UnstorableValue for what the manifest cannot hold.
        """
        if set(variables) != set(self.variables):
            raise ExperimentManagerError(
                f"a job of {self.folder.path} has the variables {', '.join(self.variables)}; "
                f"got {', '.join(map(str, variables)) or 'none'}"
            )
        identity = variables_identity(variables)
        disk = self._on_disk()
        if identity in self._here or (self._is_loaded and identity in disk):
            raise DuplicateJob(f"the job {dict(variables)} is in {self.folder.path} already; change a variable")
        encoded = codec.encode(configuration, "configuration")
        match = policy.match(disk.get(identity, ()), codec.digest(encoded))
        if match.is_changed and match.job_id is not None:
            way_out = "make what changes a variable, or choose another name"
            raise ConfigurationChanged(changed_configuration(self.folder, match.job_id, encoded, way_out))
        if match.job_id is not None:
            return self._add(JobId(match.job_id), variables, encoded, is_new=False)
        self._next_id += 1
        return self._add(JobId(self._next_id - 1), variables, encoded, is_new=True)

    def _add(self, job_id: JobId, variables: Mapping[str, Any], encoded: codec.Encoded, *, is_new: bool) -> int:
        identity = variables_identity(variables)
        job = Job(job_id, identity, dict(variables), (), codec.digest(encoded), None)
        self._drafts[job_id] = _Draft(job, encoded, is_new)
        self._here[identity] = job_id
        return job_id

    def _on_disk(self) -> Mapping[str, list[tuple[int, str | None]]]:
        """The jobs of the folder by identity, read once."""
        if self._disk is None:
            self._disk = {}
            if os.path.exists(self.folder.manifest):
                with Manifest(self.folder) as manifest:
                    for job_id, identity, fingerprint, _ in manifest.index():
                        self._disk.setdefault(identity, []).append((job_id, fingerprint))
                        self._next_id = job_id + 1
        return self._disk

    def save(self) -> None:
        """The manifest has all jobs of this experiment, and the SLURM options that were set lie beside it.

        Raises FolderError when the folder cannot be written.
        """
        new = [draft for draft in self._drafts.values() if draft.is_new]
        with planning(self.folder):
            clear_leftovers(self.folder)
            if self._slurm is not None:
                self._slurm.save(self.folder.slurm_config)
            if not new and os.path.exists(self.folder.manifest):
                return
            until_published(self.folder, partial(self._write, new))
        self._drafts = {job_id: draft._replace(is_new=False) for job_id, draft in self._drafts.items()}

    def _write(self, new: Sequence[_Draft], base: int) -> None:
        """The manifest has these jobs, too. Raises FolderError where somebody else has added jobs of their ids."""
        if os.path.exists(self.folder.manifest):
            with Manifest(self.folder) as manifest:
                base, taken = manifest.generation, {draft.job.id for draft in new}.intersection(manifest.ids())
            if taken:
                raise FolderError(
                    f"somebody else has added jobs {format_ids(taken)} to {self.folder.path} meanwhile; run this again"
                )
        with editing(self.folder, base) as editor:
            editor.set_variables(self.variables)
            for draft in new:
                editor.add_job(draft.job, Configured(Frame(draft.encoded)))

    # -- choosing ----------------------------------------------------------------------------------------------------

    def get_all_ids(self) -> list[int]:
        """The ids of all jobs of this experiment, in order."""
        if not self._is_loaded or not os.path.exists(self.folder.manifest):
            return sorted(self._drafts)
        return [*self._saved_ids(), *(draft.job.id for draft in self._drafts.values() if draft.is_new)]

    def get_ids(self, pass_filter: Any) -> list[int]:
        """The ids of the jobs that pass: a function of the variables, or any other form of the pass filter.

            exp.get_ids(lambda variables: variables["algorithm"] == "TD3")
            exp.get_ids("algorithm == 'TD3' and seed < 3")

        Raises FilterError.
        """
        return [job.id for job in self.select(pass_filter).jobs]

    def get_random_ids(self, n_jobs: int, seed: int | None = None) -> list[int]:
        """So many ids, drawn at random without repetition; the same ones for the same seed."""
        ids = self.get_all_ids()
        if not 0 < n_jobs <= len(ids):
            raise FilterError(f"{n_jobs} jobs cannot be drawn from {len(ids)} in {self.folder.path}; ask for fewer")
        return sorted(random.Random(seed).sample(ids, n_jobs))

    def select(self, pass_filter: Any) -> filters.Selection:
        """What passes a filter in any form, and what each rule dropped: the explanation of `get_ids`."""
        return self._select(pass_filter, cache(self.snapshot))

    def _select(self, pass_filter: Any, snapshot: Callable[[], Snapshot]) -> filters.Selection:
        jobs = list(self.iter_jobs())
        world = World(
            names=frozenset(name for job in jobs for name in job.variables),
            ids=frozenset(job.id for job in jobs),
            configuration=lambda job: self._resolved(job.id, Unresolved),
            state=lambda job_id: snapshot().state(job_id),
            result=lambda job: views.returned(self.folder, job.id, snapshot()),
            metrics=lambda job: views.last_metrics(self.folder, job.id, snapshot()),
        )
        return filters.apply(filters.parse(pass_filter), jobs, world)

    def save_pass_filter(self, allowed_ids: Iterable[int], how: Any = None) -> None:
        """These jobs, and no others, may run. `how` says for people how they were chosen.

        Raises UnknownJob, and FilterError for no jobs at all.
        """
        self.folder.require()
        if isinstance(allowed_ids, str | Mapping) or callable(allowed_ids):
            raise FilterError(f"save_pass_filter takes ids: save_pass_filter(exp.get_ids({allowed_ids!r}))")
        ids = list(dict.fromkeys(int(job_id) for job_id in allowed_ids))
        known = set(self.get_all_ids()) | set(self._saved_ids())
        for job_id in ids:
            if job_id not in known:
                raise UnknownJob(unknown_job(job_id, sorted(known), self.folder.path))
        if not ids:
            raise FilterError(
                f"no job passes the filter of {self.folder.path}; {filters.values_there_are(self.iter_jobs())}"
            )
        write_selection(self.folder, ids, how)

    def _saved_ids(self) -> Sequence[int]:
        if not os.path.exists(self.folder.manifest):
            return ()
        with Manifest(self.folder) as manifest:
            return manifest.ids()

    def get_filtered_ids(self) -> list[int]:
        """The ids that may run. Raises FilterError when none were chosen yet."""
        return read_selection(self.folder)

    def rules(self, where: Sequence[str] | None, *, selected: bool = False) -> list[Any] | None:
        """What several conditions, and where `selected` the saved pass filter, ask for as one filter; None: nothing."""
        return [*([self.get_filtered_ids()] if selected else []), *(where or [])] or None

    # -- the jobs ----------------------------------------------------------------------------------------------------

    def iter_jobs(self) -> Iterator[Job]:
        """The jobs of this experiment, ordered by id: those added here; after `load`, those of the folder."""
        if not self._is_loaded or not os.path.exists(self.folder.manifest):
            yield from (self._drafts[job_id].job for job_id in sorted(self._drafts))
            return
        with Manifest(self.folder) as manifest:
            yield from manifest.jobs()
        yield from (draft.job for draft in self._drafts.values() if draft.is_new)

    def job(self, job_id: int) -> Job:
        """One job. Raises UnknownJob."""
        if job_id in self._drafts:
            return self._drafts[job_id].job
        if not os.path.exists(self.folder.manifest):
            raise UnknownJob(unknown_job(job_id, self.get_all_ids(), self.folder.path))
        with Manifest(self.folder) as manifest:
            return manifest.job(job_id)

    def jobs_of(self, ids: Sequence[int]) -> list[Job]:
        """Several jobs, read at once. Raises UnknownJob."""
        if not ids or any(job_id in self._drafts for job_id in ids):
            return [self.job(job_id) for job_id in ids]
        with Manifest(self.folder) as manifest:
            return [manifest.job(job_id) for job_id in ids]

    def configuration(self, job_id: int) -> Any:
        """All parameters of a job; None while it has none. Raises UnknownJob."""
        return codec.decode(self._encoded(job_id))

    def _encoded(self, job_id: int) -> codec.Encoded:
        self.job(job_id)
        if job_id in self._drafts:
            return self._drafts[job_id].encoded
        with Manifest(self.folder) as manifest:
            return manifest.encoded_configuration(job_id)

    def _resolved(self, job_id: int, unresolved: Callable[[str, str, str], Any] | None = None) -> Any:
        """The configuration with the values that interpolations stand for: those that the sweep kept, else those that
        can be told here, else what `unresolved` makes of their keys and texts."""
        encoded, kept = self._encoded(job_id), {}
        if job_id not in self._drafts:
            with Manifest(self.folder) as manifest:
                kept = manifest.kept(job_id)
        return resolved(encoded, kept, unresolved)

    def snapshot(self) -> Snapshot:
        """The states of all attempts; those whose process is gone have become LOST, SLURM is asked about its own."""
        return reconciled(self.folder)
