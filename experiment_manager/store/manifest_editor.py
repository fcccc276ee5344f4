"""Writing a manifest: a copy is edited, synced, and renamed over the old one; see `manifest` for what is in it.

    generations/7     the manifest as it was published for the 7th time: the file that manifest.sqlite is, too
    generations/6     empty: this generation has been, and nothing can be published under its name again

Two planners may be at it at once, where a lock is known to one machine alone. So each publishes by linking its copy to
the name of the generation after the one that it has copied, which only one of them can: the other one plans again.
"""

import errno
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from experiment_manager.errors import DamagedManifest, ManifestError, Overtaken
from experiment_manager.model import codec, configurations
from experiment_manager.model.configurations import ConfigTemplate, Configured
from experiment_manager.model.grid import Point
from experiment_manager.model.records import Job, Recipe
from experiment_manager.store.files import (
    MOST_ROW_BYTES,
    appearing,
    discard,
    give_access,
    is_there,
    linked,
    make_read_only,
    private_database,
    sync,
    temporary_name,
)
from experiment_manager.store.layout import LOCK_WAIT_S, Folder
from experiment_manager.store.manifest import APPLICATION_ID, FORMAT_OF_SEARCHES, Manifest

if TYPE_CHECKING:
    from experiment_manager.model.search import Proposal, Search

_SCHEMA: Final = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    "PRAGMA user_version = 1",
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE recipes (id INTEGER PRIMARY KEY, body TEXT NOT NULL)",
    "CREATE TABLE bases (id INTEGER PRIMARY KEY, body TEXT NOT NULL)",
    """CREATE TABLE jobs (
    id INTEGER PRIMARY KEY, identity TEXT NOT NULL, variables TEXT NOT NULL, overrides TEXT NOT NULL,
    recipe INTEGER REFERENCES recipes, base INTEGER REFERENCES bases, changes TEXT, fingerprint TEXT)""",
)
_KEPT: Final = """
CREATE TABLE IF NOT EXISTS kept (job INTEGER, key TEXT, value TEXT NOT NULL, PRIMARY KEY (job, key)) WITHOUT ROWID
"""
_OF_SEARCHES: Final = (
    f"PRAGMA user_version = {FORMAT_OF_SEARCHES}",  # older versions would give its ids to others
    "CREATE TABLE IF NOT EXISTS searches (id INTEGER PRIMARY KEY, body TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS trials (job INTEGER PRIMARY KEY, body TEXT NOT NULL)",
)
_FIRST_PAUSE_S: Final = 0.01
_LONGEST_PAUSE_S: Final = 1.0
_REMEMBERED_S: Final = 86_400.0
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK})
_Planned = TypeVar("_Planned")

_ROWS_AT_ONCE: Final = 1000


class _Stored(NamedTuple):
    """How the manifest stores the configurations of a template."""

    base: int
    fixed: list[str]  # the changes that all of them have
    places: list[tuple[str, str]]  # by place of the template: the text of its path, and the text in the base


class ManifestEditor:
    """Adds jobs to a copy of the manifest. Ids only grow; a configuration, once there, stays."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._rows: list[tuple[Any, ...]] = []
        # by its id, with the template itself, or the id could come back
        self._templates: dict[int, tuple[ConfigTemplate, _Stored]] = {}
        self._recipes: dict[str, int] = {
            body: number for number, body in connection.execute("SELECT id, body FROM recipes")
        }
        # by its leaves in their order, which is that of the keys: programs go through mappings, and layers are built so
        self._bases: dict[tuple[configurations.Path, ...], tuple[int, dict[configurations.Path, Any]]] = {}
        self._last: tuple[int, codec.Encoded] | None = None  # the base of the job that was written in Python last
        for number, body in connection.execute("SELECT id, body FROM bases"):
            leaves = configurations.leaves(codec.loads(body))
            self._bases.setdefault(tuple(leaves), (number, leaves))

    def set_variables(self, names: Iterable[str]) -> None:
        """Names that are there stay in their order; new ones follow."""
        row = self._connection.execute("SELECT value FROM meta WHERE key = 'variables'").fetchone()
        known = json.loads(row[0]) if row else []
        text = json.dumps(list(dict.fromkeys([*known, *names])), ensure_ascii=False)
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES ('variables', ?)", (text,))

    def next_recipe(self) -> int:
        """The number that a new recipe would get."""
        return max(self._recipes.values(), default=0) + 1

    def add_recipe(self, recipe: Recipe, *, expected: int | None = None) -> int:
        """The number of the recipe, a new one only when none is the same.

        `expected` is the number that jobs have been given already; they get the right one.
        """
        code = None if recipe.code is None else recipe.code._asdict()
        body = json.dumps({**recipe._asdict(), "entry": recipe.entry._asdict(), "code": code}, ensure_ascii=False)
        if body not in self._recipes:
            cursor = self._connection.execute("INSERT INTO recipes (body) VALUES (?)", (body,))
            self._recipes[body] = int(cursor.lastrowid or 0)
        number = self._recipes[body]
        if expected is not None and expected != number:
            self.write()
            self._connection.execute("UPDATE jobs SET recipe = ? WHERE recipe = ?", (number, expected))
        return number

    def add_job(self, job: Job, configured: Configured | None = None) -> None:
        """The job is there, with its configuration where it has one."""
        variables = codec.dumps(codec.encode(dict(job.variables)))
        overrides = json.dumps(job.overrides, ensure_ascii=False)
        stored = () if configured is None else (*self._split(configured), job.fingerprint)
        self._add(job.id, job.identity, variables, overrides, job.recipe, *stored)

    def add_configured(self, job: Job, encoded: codec.Encoded) -> None:
        """The same for a job that was written in Python, of which there are many, too, and no two share a template."""
        variables = codec.dumps(codec.encode(job.variables))
        self._add(job.id, job.identity, variables, "[]", None, *self._split_whole(encoded), job.fingerprint)

    def add_point(self, job_id: int, point: Point, configured: Configured | None, recipe: int) -> None:
        """The same for a point of a sweep, of which there are many: the texts of its settings are there already."""
        variables = ",".join([setting.stored for setting in point.settings if setting.is_variable])
        overrides = ",".join([setting.stored_text for setting in point.settings if setting.text])
        stored = () if configured is None else (recipe, *self._split(configured), configured.fingerprint)
        self._add(job_id, point.identity, f"{{{variables}}}", f"[{overrides}]", *stored)

    def _add(
        self,
        number: int,
        identity: str,
        variables: str,
        overrides: str,
        recipe: int | None = None,
        base: int | None = None,
        changes: str | None = None,
        fingerprint: str | None = None,
    ) -> None:
        self._rows.append((number, identity, variables, overrides, recipe, base, changes, fingerprint))
        if len(self._rows) >= _ROWS_AT_ONCE:
            self.write()

    def write(self) -> None:
        """All that was added is in the copy."""
        rows, self._rows = self._rows, []
        self._connection.executemany("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def set_configuration(self, job: Job, configured: Configured) -> None:
        """The job, which had no configuration, has this one for good, composed from these overrides by this recipe."""
        self.write()
        base, changes = self._split(configured)
        self._connection.execute(
            "UPDATE jobs SET overrides = ?, base = ?, changes = ?, fingerprint = ?, recipe = ? "
            "WHERE id = ? AND fingerprint IS NULL",
            (json.dumps(job.overrides, ensure_ascii=False), base, changes, job.fingerprint, job.recipe, job.id),
        )

    def renew_recipe(self, job: Job) -> None:
        """The job, whose configuration is the same, is composed from these overrides by this recipe from now on."""
        self._connection.execute(
            "UPDATE jobs SET overrides = ?, recipe = ? WHERE id = ? AND fingerprint = ?",
            (json.dumps(job.overrides, ensure_ascii=False), job.recipe, job.id, job.fingerprint),
        )

    def keep(self, kept: Mapping[int, Mapping[str, Any]], anew: Container[int] = ()) -> None:
        """The values of interpolations, by job and dotted key, are there. Where a job has one, it is replaced only for
        those that are run anew: the others have run with what was kept, or are about to."""
        if not kept:
            return
        self._connection.execute(_KEPT)
        there = {(job, key): value for job, key, value in self._connection.execute("SELECT job, key, value FROM kept")}
        found = {(job, key): codec.dumps(codec.encode(item)) for job, of in kept.items() for key, item in of.items()}
        rows = [
            (*place, value)
            for place, value in found.items()
            if place not in there or (place[0] in anew and there[place] != value)
        ]
        self._connection.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", rows)

    def set_search(self, search: "Search") -> None:
        """The experiment has this search; its ids are reserved."""
        for statement in _OF_SEARCHES:
            self._connection.execute(statement)
        text = json.dumps(search.body, ensure_ascii=False)
        self._connection.execute("INSERT OR REPLACE INTO searches VALUES (1, ?)", (text,))

    def add_trial(self, proposal: "Proposal", configured: Configured | None) -> None:
        """The job that a search has proposed is there, with its configuration where it has one."""
        stored = () if configured is None else (*self._split(configured), configured.fingerprint)
        variables, overrides = codec.dumps(proposal.variables), json.dumps(proposal.overrides, ensure_ascii=False)
        self._add(proposal.job_id, proposal.identity, variables, overrides, proposal.recipe, *stored)
        row = (proposal.job_id, json.dumps(proposal.body, ensure_ascii=False))
        self._connection.execute("INSERT INTO trials VALUES (?, ?)", row)

    def renew_trials(self, ids: Iterable[int], recipe: int) -> None:
        """These trials are composed by this recipe from now on."""
        self.write()
        rows = [(recipe, job_id) for job_id in ids]
        self._connection.executemany("UPDATE jobs SET recipe = ? WHERE id = ?", rows)

    def take_up(self, folder: Folder) -> None:
        """What the search has proposed since, and the configurations that its jobs have left, are in the copy."""
        with Manifest(folder) as manifest:
            if manifest.search is None:
                return
            proposals = list(manifest.proposals())
        from experiment_manager.store.proposals import read_configuration

        query = "SELECT id, fingerprint FROM jobs"
        there: dict[int, str | None] = dict(self._connection.execute(query).fetchall())
        for proposal in proposals:
            job_id = proposal.job_id
            left = read_configuration(folder, job_id) if there.get(job_id) is None else None
            configured = None if left is None else Configured(ConfigTemplate(left[1]))
            if job_id not in there:
                self.add_trial(proposal, configured)
            elif configured is not None:
                base, changes = self._split(configured)
                row = (base, changes, configured.fingerprint, job_id)
                self._connection.execute("UPDATE jobs SET base = ?, changes = ?, fingerprint = ? WHERE id = ?", row)
        self.write()

    def _split_whole(self, encoded: codec.Encoded) -> tuple[int, str]:
        """The same as `_split` of a whole configuration: most have the keys of the one before."""
        changes = None if self._last is None else configurations.replaced_leaves(self._last[1], encoded)
        if self._last is not None and changes is not None:
            return self._last[0], codec.dumps(changes)
        number, text = self._split(Configured(ConfigTemplate(encoded)))
        base = encoded
        if text != "[]":
            (body,) = self._connection.execute("SELECT body FROM bases WHERE id = ?", (number,)).fetchone()
            base = codec.loads(body)
        self._last = number, base
        return number, text

    def _split(self, configured: Configured) -> tuple[int, str]:
        """The number of the base, and the text of what differs from it."""
        stored = self._stored(configured.template)
        changes = [
            f"[{path},{value.stored}]"
            for (path, in_base), value in zip(stored.places, configured.values, strict=True)
            if value.stored != in_base
        ]
        return stored.base, f"[{','.join(stored.fixed + changes)}]"

    def _stored(self, template: ConfigTemplate) -> _Stored:
        if id(template) in self._templates:
            return self._templates[id(template)][1]
        leaves = configurations.leaves(template.encoded)
        keys = tuple(leaves)
        if keys not in self._bases:
            cursor = self._connection.execute("INSERT INTO bases (body) VALUES (?)", (codec.dumps(template.encoded),))
            self._bases[keys] = (int(cursor.lastrowid or 0), leaves)
        number, base_leaves = self._bases[keys]
        places = set(template.paths)
        stored = _Stored(
            number,
            [
                codec.dumps([list(path), item])
                for path, item in configurations.replaced(base_leaves, leaves)
                if path not in places
            ],
            [(codec.dumps(list(path)), codec.dumps(base_leaves[path])) for path in template.paths],
        )
        if template.paths:
            self._templates[id(template)] = (template, stored)
        return stored


@contextmanager
def editing(folder: Folder, base: int | None = None) -> Iterator[ManifestEditor]:
    """Yields an editor of a copy, which replaces the manifest at the end, or is thrown away when anything is raised.

    Raises Overtaken, with nothing written, when the manifest is not, or no more, of the generation `base`. To be used
    inside `folder.planning`, and there in what `until_published` calls.
    """
    published = _published(folder)  # first: whatever is published from now on is newer, or bears our number
    current = newest(folder)
    if base not in (None, current):
        raise _overtaken(folder)
    base, number = current, max([current, *published]) + 1
    temporary = temporary_name(folder.manifest)
    is_first = not is_there(folder.manifest)
    try:
        if not is_first:
            Manifest(folder).close()  # a damaged or newer one is not copied
            shutil.copyfile(folder.manifest, temporary)
        with private_database(temporary) as connection:
            for statement in _SCHEMA if is_first else ():
                connection.execute(statement)
            if _generation_in(connection) != base:
                raise _overtaken(folder)
            before = connection.total_changes
            editor = ManifestEditor(connection)
            if _format_of(connection) >= FORMAT_OF_SEARCHES:
                editor.take_up(folder)
            yield editor
            editor.write()
            is_new = is_first or connection.total_changes > before
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('generation', ?)", (str(number),))
        if is_new:
            _publish(folder, temporary, number)
    except sqlite3.DataError as error:
        raise ManifestError(
            f"a job is not kept in {folder.manifest}: {error}, of {MOST_ROW_BYTES >> 20} MiB at most; let its "
            "configuration name a file that has the rest"
        ) from error
    finally:
        discard(temporary)


def until_published(folder: Folder, plan: Callable[[int], _Planned]) -> _Planned:
    """The value that `plan` returns, given the generation of the manifest that it is to plan on.

    It is called again while somebody else publishes meanwhile, as happens where a lock is known to one machine alone.
    """
    deadline = time.monotonic() + LOCK_WAIT_S
    pause = _FIRST_PAUSE_S
    while True:
        try:
            return plan(newest(folder))
        except Overtaken:
            if time.monotonic() > deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def newest(folder: Folder) -> int:
    """The generation of the manifest, which is the newest that was published, 0 before the first.

    A planner that was killed between publishing it and giving it its name is helped out.
    """
    current = _generation(folder, folder.manifest) or 0
    while True:
        top = max(_published(folder), default=0)
        if top <= current or not _name(folder, top):
            return current
        current = top


def unnamed_generation(folder: Folder) -> int | None:
    """The number of a generation that is newer than the manifest: its planner was killed before it got that name, and
    the next one helps out. None: there is none. Raises ManifestError."""
    top = max(_published(folder), default=0)
    current = _generation(folder, folder.manifest) or 0
    path = os.path.join(folder.generations, str(top))
    return top if top > current and os.path.getsize(path) else None


def _overtaken(folder: Folder) -> Overtaken:
    return Overtaken(f"somebody else has planned {folder.path} meanwhile; run this again")


def _published(folder: Folder) -> list[int]:
    try:
        return [int(name) for name in os.listdir(folder.generations) if name.isdecimal()]
    except FileNotFoundError:
        return []


def _generation(folder: Folder, path: str) -> int | None:
    """The generation of a manifest; None where there is none. Raises ManifestError, and FolderError, where nobody can
    tell."""
    if not is_there(path):
        return None
    with Manifest(folder, path) as manifest:
        return manifest.generation


def _format_of(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _generation_in(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT value FROM meta WHERE key = 'generation'").fetchone()
    return 0 if row is None else int(row[0])


def _publish(folder: Folder, temporary: str, number: int) -> None:
    """The finished copy is the manifest of that generation. Raises Overtaken when there is another one already."""
    give_access(temporary, folder.manifest)
    make_read_only(temporary)
    sync(temporary)
    folder.make(folder.generations)
    published = os.path.join(folder.generations, str(number))
    try:
        if not linked(temporary, published):
            raise _overtaken(folder)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    else:
        sync(folder.generations)
    if newest(folder) < number:  # else somebody has named it, or gone on from it: nothing older takes the place of that
        _replace(folder, temporary)
    _retire(folder, number)


def _name(folder: Folder, number: int) -> bool:
    """The manifest is what was published as that generation; false when it is no more whole, or was damaged. Raises
    ManifestError, and OSError, where that cannot be seen now: nobody plans as if it had never been."""
    published = os.path.join(folder.generations, str(number))
    while _is_whole(published):
        temporary = temporary_name(folder.manifest)
        try:
            os.link(published, temporary)
            found = _generation(folder, temporary)
            if found is None:  # it is as old as what it is a name of: somebody may have taken it for a leftover
                continue
            if found != number:
                return False
            _replace(folder, temporary)
            return True
        except FileNotFoundError:
            continue
        except DamagedManifest:
            return False
        except ManifestError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                continue
            raise ManifestError(str(error).replace(temporary, published)) from error
        finally:
            discard(temporary)  # it is still there, too, where both names are of one file
    return False


def _is_whole(published: str) -> bool:
    """Whether a generation was not retired since."""
    try:
        return os.path.getsize(published) > 0
    except FileNotFoundError:
        return False


def _replace(folder: Folder, temporary: str) -> None:
    for ending in ("-wal", "-shm", "-journal"):  # left there by somebody's SQLite shell, they would be read as ours
        with suppress(FileNotFoundError):
            os.unlink(folder.manifest + ending)
    os.replace(temporary, folder.manifest)
    sync(folder.path)


def _retire(folder: Folder, number: int) -> None:
    """Of earlier generations only the names are left, so that a slow planner finds them taken; after a day, nothing."""
    with suppress(OSError):
        now = os.stat(os.path.join(folder.generations, str(number))).st_mtime
        for old in _published(folder):
            path = os.path.join(folder.generations, str(old))
            about = os.stat(path)
            if old >= number:
                continue
            if about.st_size:
                with appearing(path, for_good=False) as empty, open(empty, "xb"):
                    pass
            elif now - about.st_mtime > _REMEMBERED_S:
                os.unlink(path)
