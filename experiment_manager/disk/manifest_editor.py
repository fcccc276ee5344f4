"""Writing a manifest: a copy is edited, synced, and renamed over the old one; see `manifest` for what is in it."""

import json
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, Final, NamedTuple

from experiment_manager import codec, delta
from experiment_manager.disk.files import sync, temporary_name
from experiment_manager.disk.folder import Folder
from experiment_manager.disk.manifest import APPLICATION_ID, FORMAT, Manifest
from experiment_manager.frame import Configured, Frame
from experiment_manager.grid import Point
from experiment_manager.records import Job, Recipe

_SCHEMA: Final = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE recipes (id INTEGER PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE bases (id INTEGER PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY, identity TEXT NOT NULL, variables TEXT NOT NULL, overrides TEXT NOT NULL,
    recipe INTEGER REFERENCES recipes, base INTEGER REFERENCES bases, changes TEXT, fingerprint TEXT
);
"""
_KEPT: Final = """
CREATE TABLE IF NOT EXISTS kept (job INTEGER, key TEXT, value TEXT NOT NULL, PRIMARY KEY (job, key)) WITHOUT ROWID
"""
_ROWS_AT_ONCE: Final = 1000


class _Stored(NamedTuple):
    """How the manifest stores the configurations of a frame."""

    base: int
    fixed: list[str]  # the changes that all of them have
    places: list[tuple[str, str]]  # by place of the frame: the text of its path, and the canonical text in the base


class ManifestEditor:
    """Adds jobs to a copy of the manifest. Ids only grow; a configuration, once there, stays."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._rows: list[tuple[Any, ...]] = []
        self._frames: dict[int, tuple[Frame, _Stored]] = {}  # with the frame itself, or its id could come back
        self._recipes: dict[str, int] = {
            body: number for number, body in connection.execute("SELECT id, body FROM recipes")
        }
        self._bases: dict[frozenset[delta.Path], tuple[int, dict[delta.Path, Any]]] = {}
        for number, body in connection.execute("SELECT id, body FROM bases"):
            leaves = delta.leaves(codec.loads(body))
            self._bases.setdefault(frozenset(leaves), (number, leaves))

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

    def add_point(self, job_id: int, point: Point, configured: Configured | None, recipe: int) -> None:
        """The same for a point of a sweep, of which there are many: the texts of its settings are there already."""
        variables = ",".join([setting.stored for setting in point.settings if setting.is_variable])
        overrides = ",".join([setting.stored_text for setting in point.settings])
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
        """What was added is in the copy."""
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

    def keep(self, kept: Mapping[int, Mapping[str, Any]]) -> None:
        """What interpolations stand for, by job and dotted key, is that. Nothing changes where it was so before."""
        if not kept:
            return
        self._connection.execute(_KEPT)
        there = {(job, key): value for job, key, value in self._connection.execute("SELECT job, key, value FROM kept")}
        found = {(job, key): codec.dumps(codec.encode(item)) for job, of in kept.items() for key, item in of.items()}
        rows = [(*place, value) for place, value in found.items() if there.get(place) != value]
        self._connection.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", rows)

    def _split(self, configured: Configured) -> tuple[int, str]:
        """The number of the base, and the text of what differs from it."""
        stored = self._stored(configured.frame)
        changes = [
            f"[{path},{value.stored}]"
            for (path, in_base), value in zip(stored.places, configured.values, strict=True)
            if value.canonical != in_base
        ]
        return stored.base, f"[{','.join(stored.fixed + changes)}]"

    def _stored(self, frame: Frame) -> _Stored:
        if id(frame) in self._frames:
            return self._frames[id(frame)][1]
        leaves = delta.leaves(frame.encoded)
        keys = frozenset(leaves)
        if keys not in self._bases:
            cursor = self._connection.execute("INSERT INTO bases (body) VALUES (?)", (codec.dumps(frame.encoded),))
            self._bases[keys] = (int(cursor.lastrowid or 0), leaves)
        number, base_leaves = self._bases[keys]
        places = set(frame.paths)
        stored = _Stored(
            number,
            [
                codec.dumps([list(path), item])
                for path, item in delta.replaced(base_leaves, leaves)
                if path not in places
            ],
            [(codec.dumps(list(path)), codec.canonical(base_leaves[path])) for path in frame.paths],
        )
        if frame.paths:
            self._frames[id(frame)] = (frame, stored)
        return stored


@contextmanager
def editing(folder: Folder) -> Iterator[ManifestEditor]:
    """Yields an editor of a copy, which replaces the manifest at the end, or is thrown away when anything is raised.

    To be used inside `folder.planning`.
    """
    temporary = temporary_name(folder.manifest)
    try:
        _start_copy(folder, temporary)
        with closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
            # The copy is thrown away when anything fails, so a journal and syncs would only cost time.
            connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")
            if not os.path.exists(folder.manifest):
                connection.executescript(_SCHEMA)
            before = connection.total_changes
            connection.execute("BEGIN")
            editor = ManifestEditor(connection)
            yield editor
            editor.write()
            connection.execute("COMMIT")
            has_changed = connection.total_changes > before
        if has_changed or not os.path.exists(folder.manifest):
            _publish(temporary, folder.manifest)
        else:
            os.unlink(temporary)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def _start_copy(folder: Folder, temporary: str) -> None:
    if os.path.exists(temporary):
        os.unlink(temporary)
    if os.path.exists(folder.manifest):
        Manifest(folder).close()  # a damaged or newer one is not copied
        shutil.copyfile(folder.manifest, temporary)


def _publish(temporary: str, path: str) -> None:
    os.chmod(temporary, 0o444)
    sync(temporary)
    for ending in ("-wal", "-shm", "-journal"):  # left there by somebody's SQLite shell, they would be read as ours
        if os.path.exists(path + ending):
            os.unlink(path + ending)
    os.replace(temporary, path)
    sync(os.path.dirname(path))
