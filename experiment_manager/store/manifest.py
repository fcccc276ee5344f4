"""The manifest: the durable record of every job of an experiment, one SQLite file that is never changed in place.

A new manifest is built beside the old one, synced, renamed over it and made read-only. Readers open it as immutable:
no locks, which network file systems are bad at, and no journal. Any SQLite tool can open it, too. How two writers at
once are kept from losing what the other one wrote, `manifest_editor` tells.

    meta     key, value           variables (names, in order), generation (how often it has been published)
    recipes  id, body             how overrides become a process (JSON, see records.Recipe)
    bases    id, body             one configuration per order of keys (JSON, tagged as in codec)
    jobs     id, identity, variables, overrides, recipe, base, changes, fingerprint
             (base, changes and fingerprint are NULL until the job has a configuration)
    kept     job, key, value      what interpolations stood for where a sweep's filter read them (see resolved.to_keep)
    searches id, body             the space of a search, and the ids that are reserved for it (JSON, see model.search)
    trials   job, body            what was proposed, for the studies of those who ask next (JSON, see model.search)

Jobs that a search has proposed since are in files of their own until the manifest is written next, see `proposals`:
who reads a manifest sees them, too. One with a search is of the second format, of which alone `searches` and `trials`
are.
"""

from __future__ import annotations

import errno
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from types import NoneType

from experiment_manager.errors import LOOK_AT_THE_DISK, DamagedManifest, ManifestError, UnknownJob, UnreadableRecord
from experiment_manager.model import codec
from experiment_manager.model.records import Code, Entry, Job, JobId, Recipe, Source
from experiment_manager.store.documents import (
    CODE,
    ENTRY,
    PROPOSAL,
    RECIPE,
    SOURCES,
    WORDS,
    Kind,
    opened,
    trouble,
)
from experiment_manager.store.files import (
    SHORTLY_S,
    asked_again,
    asked_twice,
    finished_database,
    is_of_the_disk,
    unreadable,
)
from experiment_manager.store.layout import Folder
from experiment_manager.typing_names import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from experiment_manager.model.search import Proposal, Search

Answer = TypeVar("Answer")

FORMAT: Final = 2
FORMAT_OF_SEARCHES: Final = 2
APPLICATION_ID: Final = 0x45584D47  # "EXMG"

_MOST_READ_S: Final = 3.0
"""How long what may be damaged is read, to tell that from what a disk does not give."""

_JOB: Final = "SELECT id, identity, variables, overrides, fingerprint, recipe FROM jobs"


_DAMAGE: Final = (
    *(sqlite3.DatabaseError, OSError, MemoryError),
    *(ValueError, TypeError, LookupError, AttributeError, RecursionError),  # JSON of another shape
)


class Manifest:
    """A reader of one manifest. Raises ManifestError where the file is damaged or too new."""

    def __init__(self, folder: Folder, path: str | None = None) -> None:
        if path is None:
            folder.require()
        self._folder = folder
        self._path = path or folder.manifest
        self._connection = self._open()
        folder.was_there = folder.was_there or path is None

    def _open(self) -> sqlite3.Connection:
        connection, found, application = self._again(self._connected)
        if application != APPLICATION_ID:
            raise DamagedManifest(f"{self._path} is damaged, or no manifest: restore it from a backup")
        if found > FORMAT:
            raise ManifestError(
                f"{self._path} was written by a newer version of Experiment Manager (format {found}, this one reads "
                f"{FORMAT}); upgrade hydra-experiment-manager"
            )
        self._format = int(found)
        return connection

    def _connected(self) -> tuple[sqlite3.Connection, int, int]:
        """A connection, the format of what it leads to, and whose it is."""
        opened(self._path).close()  # SQLite would wait for a pipe
        connection = finished_database(self._path)
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        return connection, found, application

    def _again(self, read: Callable[[], Answer]) -> Answer:
        """What `read` returns; of a file system that errs it is asked again for a moment. Raises ManifestError."""

        def ask() -> Answer:
            try:
                return asked_twice(read)
            except sqlite3.OperationalError as error:
                if not is_of_the_disk(error):
                    raise
                raise OSError(errno.EIO, str(error), self._path) from error

        with self._damage_named():
            return asked_again(ask, most_s=SHORTLY_S)

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            if isinstance(error, OSError) and error.errno == errno.EACCES:
                sentence = "cannot be read: mend its permissions, or ask whom it belongs to"
                raise ManifestError(f"{self._path} {sentence}") from error
            if is_of_the_disk(error):
                said = error.strerror if isinstance(error, OSError) else error
                raise ManifestError(f"{self._path} cannot be read ({said}); {LOOK_AT_THE_DISK}") from error
            if isinstance(error, OSError):
                raise ManifestError(f"{self._path} cannot be read: {error.strerror or error}") from error
            if isinstance(error, MemoryError):  # which damage can ask for, too
                raise ManifestError(f"{self._path} cannot be read: it needs more memory than there is") from error
            if (found := self._why_unread()) is not None:
                raise ManifestError(unreadable(self._path, found)) from found
            raise DamagedManifest(f"{self._path} is damaged ({error}); restore it from a backup") from error

    def _why_unread(self) -> OSError | None:
        """Why the file cannot be read to its end: SQLite takes for damage what a failing disk has not given it. What
        others have laid there may be longer than all manifests: it is read for some seconds."""
        until = time.monotonic() + _MOST_READ_S
        try:
            with opened(self._path) as file:
                while file.read(1 << 20) and time.monotonic() < until:
                    pass
        except OSError as error:
            return error
        return None

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def variables(self) -> tuple[str, ...]:
        """The names of the variables, in the order in which they came."""
        with self._damage_named():
            row = self._connection.execute("SELECT value FROM meta WHERE key = 'variables'").fetchone()
            return () if row is None else tuple(_of(codec.loads(row[0]), WORDS))

    @property
    def generation(self) -> int:
        """How often this manifest has been published; 0 where it was last written before that was counted."""
        with self._damage_named():
            row = self._connection.execute("SELECT value FROM meta WHERE key = 'generation'").fetchone()
            return 0 if row is None else int(row[0])

    def quick_check(self) -> str | None:
        """What SQLite finds wrong with the file; None: nothing. Reads all of it."""
        try:
            (found,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        except (sqlite3.DatabaseError, MemoryError) as error:
            return str(error) or "it needs more memory than there is"
        return None if found == "ok" else str(found).partition("\n")[0]

    def __len__(self) -> int:
        with self._damage_named():
            (count,) = self._connection.execute("SELECT count(*) FROM jobs").fetchone()
        return int(count) + len(self._proposed_since())

    def ids(self) -> list[JobId]:
        with self._damage_named():
            found: list[JobId] = [job_id for (job_id,) in self._connection.execute("SELECT id FROM jobs ORDER BY id")]
            if not {*map(type, found)} <= {int} or (found and found[0] < 0):
                raise TypeError("an id is no number from 0 on")
        since = self._proposed_since()
        return sorted([*found, *map(JobId, since)]) if since else found

    @property
    def next_id(self) -> int:
        """The id that the next new job gets: all before it are given, or reserved."""
        with self._damage_named():
            (last,) = self._connection.execute("SELECT max(id) FROM jobs").fetchone()
        reserved = [end for _, end in self.search.ranges] if self.search is not None else []
        return max([-1 if last is None else int(last), *reserved]) + 1

    def job(self, job_id: int) -> Job:
        """One job by one indexed read, or that of a file. Raises UnknownJob."""
        row = self._again(lambda: self._row(_JOB + " WHERE id = ?", job_id))
        with self._damage_named():
            job = None if row is None else _job(row)
        if job is None and self.may_propose(job_id):
            job = self._proposed(job_id)
        if job is not None:
            return self._as_it_ran(job)
        raise UnknownJob(unknown_job(job_id, self.ids(), self._path))

    def _row(self, query: str, number: int) -> tuple[Any, ...] | None:
        """The row of a number; None for numbers that SQLite cannot hold, too."""
        if not -(2**63) <= number < 2**63:
            return None
        row: tuple[Any, ...] | None = self._connection.execute(query, (number,)).fetchone()
        return row

    def jobs(self) -> Iterator[Job]:
        """Every job in the order of the ids, one at a time."""
        since = self._proposed_since()
        if not since:
            yield from map(self._as_it_ran, self._in_rows())
            return
        from heapq import merge

        proposed = (job for job in map(self._proposed, since) if job is not None)
        yield from map(self._as_it_ran, merge(self._in_rows(), proposed, key=lambda job: job.id))

    def _in_rows(self) -> Iterator[Job]:
        with self._damage_named():
            rows = self._connection.execute(_JOB + " ORDER BY id")
        while True:
            with self._damage_named():
                row = rows.fetchone()
                job = None if row is None else _job(row)
            if job is None:
                return
            yield job

    def of_one_configuration(self) -> list[Job]:
        """The jobs whose fingerprint others have, too, but for what a search has proposed."""
        query = f"{_JOB} WHERE fingerprint IN (SELECT fingerprint FROM jobs GROUP BY fingerprint HAVING count(*) > 1)"
        with self._damage_named():
            return [_job(row) for row in self._connection.execute(f"{query} ORDER BY id")]

    def index(self) -> Iterator[tuple[int, str, str | None, int | None]]:
        """Of every job, in the order of the ids: id, identity, fingerprint and the number of its recipe."""
        if self.search is not None:
            yield from ((job.id, job.identity, job.fingerprint, job.recipe) for job in self.jobs())
            return
        with self._damage_named():
            for row in self._connection.execute("SELECT id, identity, fingerprint, recipe FROM jobs ORDER BY id"):
                if not _is_of_a_job(*row):
                    raise TypeError(f"job {row[0]!r:.40} is none")
                yield row

    def unconfigured(self, ids: Collection[int]) -> list[int]:
        """Those of these jobs that no sweep has composed, and no search proposes: none of them can run."""
        wanted = frozenset(ids)
        with self._damage_named():
            rows = self._connection.execute("SELECT id FROM jobs WHERE fingerprint IS NULL ORDER BY id").fetchall()
        return [job_id for (job_id,) in rows if job_id in wanted and not self.may_propose(job_id)]

    @cached_property
    def search(self) -> Search | None:
        """The search of this experiment; None: there is none."""
        if self._format < FORMAT_OF_SEARCHES:
            return None
        from experiment_manager.model.search import Search

        with self._damage_named():
            row = self._connection.execute("SELECT body FROM searches").fetchone()
            return None if row is None else Search.read(codec.loads(row[0]))

    def may_propose(self, job_id: int) -> bool:
        """Whether the id of a job is reserved for the search."""
        return self._format >= FORMAT_OF_SEARCHES and self.search is not None and job_id in self.search

    def proposal(self, job_id: int) -> Proposal | None:
        """What the search has proposed as that job; None: nothing yet. Raises UnreadableRecord."""
        if not self.may_propose(job_id):
            return None
        from experiment_manager.model.search import Proposal
        from experiment_manager.store.proposals import read_proposal

        with self._damage_named():
            row = self._row("SELECT body FROM trials WHERE job = ?", job_id)
            if row is not None:
                body = codec.loads(row[0])
                if wrong := trouble(body, PROPOSAL, required=[name for name in PROPOSAL if name != "format"]):
                    raise ValueError(wrong)
                return Proposal.read(job_id, body)
        return read_proposal(self._folder, job_id)

    def proposals(self) -> Iterator[Proposal]:
        """What the search has proposed so far, in the order of the slots: none was left out."""
        for job_id in self.search.ids() if self.search is not None else ():
            found = self.proposal(job_id)
            if found is None:
                return
            yield found

    def n_unproposed(self) -> int:
        """How many jobs of the search nobody has proposed yet; reads all that were."""
        return 0 if self.search is None else self.search.n_slots - sum(1 for _ in self.proposals())

    def next_unproposed(self) -> JobId | None:
        """The id that the next job gets; None: there is none. Reads all that were proposed."""
        found = None if self.search is None else self.search.job_id(self.search.n_slots - self.n_unproposed())
        return None if found is None else JobId(found)

    def has_unproposed(self) -> bool:
        """Whether a job of the search is left that nobody has proposed yet: the last one is asked for."""
        last = None if self.search is None else self.search.job_id(self.search.n_slots - 1)
        return last is not None and self.proposal(last) is None

    def _proposed_since(self) -> list[int]:
        """The ids of the jobs that are in files alone, in order."""
        if self.search is None:
            return []
        from experiment_manager.store.proposals import proposed_ids

        found = [job_id for job_id in proposed_ids(self._folder) if job_id in self.search]
        with self._damage_named():
            return [job_id for job_id in found if self._row("SELECT 1 FROM jobs WHERE id = ?", job_id) is None]

    def _proposed(self, job_id: int) -> Job | None:
        from experiment_manager.store.proposals import read_proposal

        found = read_proposal(self._folder, job_id)
        if found is None:
            return None
        try:
            variables = _variables(codec.decode(found.variables))
        except _DAMAGE as error:
            raise UnreadableRecord(self._folder.join("proposals", f"{job_id}.json"), f"{error}") from error
        return Job(JobId(job_id), found.identity, variables, found.overrides, None, found.recipe)

    def _as_it_ran(self, job: Job) -> Job:
        """The job with the fingerprint of what it composed where it ran first, if it was proposed."""
        if job.fingerprint is not None or not self.may_propose(job.id):
            return job
        from experiment_manager.store.proposals import read_configuration

        found = read_configuration(self._folder, job.id)
        return job if found is None else job._replace(fingerprint=found[0])

    def encoded_configuration(self, job_id: int) -> codec.Encoded | None:
        """The tagged configuration of a job; None when it has none yet."""
        query = (
            "SELECT jobs.fingerprint, bases.body, jobs.changes FROM jobs LEFT JOIN bases ON bases.id = jobs.base "
            "WHERE jobs.id = ?"
        )
        with self._damage_named():
            row = self._row(query, job_id)
            if row is not None and row[0] is not None:
                from experiment_manager.model.configurations import apply  # no supervisor reads a configuration

                return apply(codec.loads(row[1]), codec.loads(row[2]))
        if row is None:
            self.job(job_id)
        if not self.may_propose(job_id):
            return None
        from experiment_manager.store.proposals import read_configuration

        found = read_configuration(self._folder, job_id)
        return None if found is None else found[1]

    def own_leaves(self, job_id: int) -> tuple[int, dict[tuple[str, ...], codec.Encoded]] | None:
        """The base of a job's configuration, and the leaves in which it is not as that; None where it is stored
        otherwise. Costs a tenth of reading the whole."""
        with self._damage_named():
            row = self._row("SELECT base, changes FROM jobs WHERE id = ?", job_id)
            if row is None or row[0] is None or row[1] is None:
                return None
            return row[0], {tuple(path): item for path, item in codec.loads(row[1])}

    def configuration(self, job_id: int) -> Any:
        """All parameters of a job; None when it has no configuration yet."""
        encoded = self.encoded_configuration(job_id)
        with self._damage_named():
            return codec.decode(encoded)

    def enum_paths(self, job_id: int) -> frozenset[str]:
        """The paths of the classes of all enums among the variables and in the configuration of a job."""
        encoded = self.encoded_configuration(job_id)
        with self._damage_named():
            row = self._row("SELECT variables FROM jobs WHERE id = ?", job_id)
            return frozenset(codec.enum_paths([encoded, codec.loads("null" if row is None else row[0])]))

    def kept(self, job_id: int) -> dict[str, Any]:
        """The values of interpolations in a job's configuration, by their dotted keys, as far as they were kept."""
        with self._damage_named():
            if self._connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'kept'").fetchone() is None:
                return {}
            rows = self._connection.execute("SELECT key, value FROM kept WHERE job = ?", (job_id,))
            return {key: codec.decode(codec.loads(value)) for key, value in rows}

    def recipe(self, number: int) -> Recipe:
        """Raises UnknownJob where there is none, as in an older manifest than that which whoever names it has read."""
        row = self._again(lambda: self._row("SELECT body FROM recipes WHERE id = ?", number))
        with self._damage_named():
            if row is not None:
                return _recipe(codec.loads(row[0]))
        raise UnknownJob(f"{self._path} does not say how jobs of recipe {number} run; a newer one does: repeat")


def unknown_job(job_id: object, known: Sequence[int], where: str) -> str:
    """The sentence for an id that is not there."""
    from experiment_manager.model.ids import format_ids

    has = f"its jobs are {format_ids(known)}" if known else "it has no jobs"
    return f"there is no job {job_id} in {where}: {has}"


def unconfigured(job_id: int, folder: Folder) -> str:
    """The sentence for a job of a sweep that was never composed."""
    return (
        f"job {job_id} of {folder.path} has no configuration yet: no sweep's filter has let it pass; sweep again with "
        "one that it passes"
    )


def are_unconfigured(ids: Sequence[int]) -> str:
    """The sentence for jobs that may run, and cannot, as they were never composed; they are some of several."""
    from experiment_manager.model.ids import which

    (have, them) = ("has", "it") if len(ids) == 1 else ("have", "them")
    return (
        f"{which(ids)} {have} no configuration yet, since no sweep's filter has let {them} pass: the same sweep, with "
        f"one that lets {them} pass, composes {them}"
    )


def without_program(job_id: int, folder: Folder) -> str:
    """The sentence for a job of a sweep that was defined in Python, and of which nobody has said what runs it."""
    return (
        f"job {job_id} of {folder.path} was defined without a program; name the one that runs it with "
        'exp.launch("local_pool", "train.py"), or sweep the same from that program'
    )


def changed_configuration(folder: Folder, job_id: int, encoded: codec.Encoded, way_out: str) -> str:
    """The sentence for a job that is there already with another configuration: which keys, from what to what."""
    from experiment_manager.model import configurations

    with Manifest(folder) as manifest:
        changes = configurations.compare(manifest.encoded_configuration(job_id), encoded)
    return (
        f"job {job_id} of {folder.path} is there already with another configuration: "
        f"{configurations.describe(changes)}; "
        f"put the configuration back, or {way_out}"
    )


def _job(row: tuple[Any, ...]) -> Job:
    """Raises TypeError, or ValueError, for what is no job."""
    number, identity, variables, overrides, fingerprint, recipe = row
    if not _is_of_a_job(number, identity, fingerprint, recipe):
        raise TypeError(f"job {number!r:.40} is none")
    named, words = _variables(codec.decode(codec.loads(variables))), tuple(_of(codec.loads(overrides), WORDS))
    return Job(JobId(number), identity, named, words, fingerprint, recipe)


def _is_of_a_job(number: Any, identity: Any, fingerprint: Any, recipe: Any) -> bool:
    is_named = type(number) is int and number >= 0 and type(identity) is str
    return is_named and type(fingerprint) in (str, NoneType) and type(recipe) in (int, NoneType)


def _variables(found: Any) -> Mapping[str, Any]:
    """Raises TypeError for what are no variables."""
    if type(found) is not dict or not {*map(type, found)} <= {str}:
        raise TypeError("its variables are no mapping of names")
    return found


def _of(found: Any, kind: Kind) -> Any:
    """What was found is of that kind. Raises TypeError."""
    if not kind.fits(found):
        raise TypeError(f"{found!r:.40} is no {kind.words}")
    return found


def _recipe(body: Any) -> Recipe:
    """Raises TypeError, or ValueError, for what is no recipe."""
    required = [name for name in RECIPE if name not in ("config_name", "task_pickle", "code")]
    if wrong := trouble(body, RECIPE, required) or trouble(body["entry"], ENTRY, list(ENTRY)):
        raise ValueError(wrong)
    code = body.get("code")
    if code is not None and (wrong := trouble(code, CODE, ["path", "root", "imports"])):
        raise ValueError(wrong)
    return Recipe(
        **{
            **body,
            "entry": Entry(**_with_tuples(body["entry"])),
            "sources": tuple(Source(*source) for source in _of(body["sources"], SOURCES)),
            "hydra_overrides": tuple(body["hydra_overrides"]),
            "code": None if code is None else Code(**_with_tuples(code)),
        }
    )


def _with_tuples(body: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in body.items()}
