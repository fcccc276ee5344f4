"""The manifest as a file on a real disk: nothing is lost, nothing moves, nothing half-written is ever read."""

import errno
import json
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_manager.errors import DamagedManifest, FolderError, ManifestError, UnknownJob
from experiment_manager.model import codec
from experiment_manager.model.configurations import ConfigTemplate, Configured
from experiment_manager.model.records import Entry, Job, JobId, Recipe, Source
from experiment_manager.model.search import INT, MINIMIZE, Dimension, Search
from experiment_manager.store import documents
from experiment_manager.store import manifest as manifest_module
from experiment_manager.store.files import MOST_ROW_BYTES
from experiment_manager.store.layout import Folder, planning
from experiment_manager.store.manifest import APPLICATION_ID, FORMAT, Manifest
from experiment_manager.store.manifest_editor import editing
from tests.conftest import clean_env, examples

RECIPE = Recipe(
    entry=Entry("/usr/bin/python", ("-O",), ("-m", "pkg.train"), ("--own", "ä'\n"), "/work"),
    config_name="config",
    sources=(Source("main", "conf/abc/main", True), Source("searchpath", "pkg://x", False)),
    hydra_overrides=("hydra/launcher=local_pool",),
    job_name="train",
    task="train.py:main",
    on_drift="error",
    now={"%Y": "2024"},
)
KEYS = st.sampled_from(["a", "b", "ü", "a.b", "$x"])
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(0, 2)
    | st.sampled_from([0.0, -0.0, 1e300, float("inf")])
    | st.text(max_size=3)
    | st.lists(st.integers(0, 1), max_size=2)
    | st.tuples(st.text(max_size=2))
    | st.dictionaries(st.integers(0, 1), st.text(max_size=1), max_size=2)
)
CONFIGURATIONS = st.dictionaries(
    KEYS | st.integers(0, 1), st.recursive(LEAVES, lambda inner: st.dictionaries(KEYS, inner, max_size=3)), max_size=4
)


def job(number: int, **more: Any) -> Job:
    plain = Job(JobId(number), f"identity {number}", {"seed": number}, (f"seed={number}",), None, None)
    return plain._replace(**more)


def add(folder: Folder, configurations: Mapping[int, Any]) -> None:
    """Jobs with these configurations are in the manifest; None is a job without one."""
    with planning(folder), editing(folder) as editor:
        editor.set_variables(["seed"])
        for number, configuration in configurations.items():
            editor.add_job(job(number))
            if configuration is not None:
                encoded = codec.encode(configuration)
                editor.set_configuration(
                    job(number, fingerprint=codec.digest(encoded)), Configured(ConfigTemplate(encoded))
                )


def read_all(folder: Folder) -> dict[int, Any]:
    with Manifest(folder) as manifest:
        return {each.id: manifest.configuration(each.id) for each in manifest.jobs()}


def tried(folder: Folder) -> tuple[dict[int, Any] | None, str]:
    """Everything in the manifest, or None and the sentence with which reading it was refused."""
    try:
        return read_all(folder), ""
    except (ManifestError, UnknownJob) as error:
        return None, str(error)


def read_names_and_all(folder: Folder) -> None:
    with Manifest(folder) as manifest:
        assert manifest.variables
        assert [{"x": 0}, {"x": 1}] == [manifest.configuration(manifest.job(number).id) for number in (0, 1)]


def failing(error: OSError) -> Callable[[str], Any]:
    """Opens the manifest itself, and fails for every other file."""

    def opened(path: str) -> Any:
        if os.path.basename(path) == "manifest.sqlite":
            return documents.opened(path)
        raise error

    return opened


DEEP = '{"a":' * 300 + "1" + "}" * 300


def edit_by_hand(folder: Folder, statement: str) -> None:
    """What somebody with a SQLite shell has done to the file."""
    os.chmod(folder.manifest, 0o644)
    connection = sqlite3.connect(folder.manifest)
    with connection:
        connection.execute(statement)
    connection.close()


@examples(40)
@given(st.lists(CONFIGURATIONS, min_size=1, max_size=4), st.lists(CONFIGURATIONS, max_size=3))
def test_every_configuration_comes_back(
    tmp_path_factory: pytest.TempPathFactory, first: list[dict[Any, Any]], then: list[dict[Any, Any]]
) -> None:
    """Jobs of two plannings come back from the file with the configurations that they were given, typed and signed."""
    folder = Folder(tmp_path_factory.mktemp("experiments"), "train")
    add(folder, dict(enumerate(first)))
    add(folder, dict(enumerate(then, start=len(first))))
    with Manifest(folder) as manifest:
        for number, configuration in enumerate([*first, *then]):
            encoded = codec.encode(configuration)
            assert codec.canonical(encoded) == codec.canonical(manifest.encoded_configuration(number))
            assert codec.digest(encoded) == manifest.job(number).fingerprint


def test_configurations_that_are_one_leaf(tmp_path: Path) -> None:
    """Configurations with integer keys, or no mapping at all, come back as any other."""
    configurations = {0: {1: "a"}, 1: {1: "b"}, 2: [1], 3: [2], 4: {}, 5: {"a": {}}}
    add(Folder(tmp_path, "train"), configurations)
    assert configurations == read_all(Folder(tmp_path, "train"))


def test_job_comes_back_whole(tmp_path: Path) -> None:
    """Variables keep types and order, overrides their letters, recipes every field; the same recipe is kept once."""
    folder = Folder(tmp_path, "train")
    other = RECIPE._replace(config_name=None, task_pickle="launches/0001/task.pkl")
    variables = {"z": Path("a/b"), "a": (1, 1.0, True), "nn": {"x": [float("inf")]}, "text": "it's \n ü"}
    with planning(folder), editing(folder) as editor:
        editor.set_variables(variables)
        numbers = [editor.add_recipe(recipe) for recipe in (RECIPE, other, RECIPE)]
        written = job(3, variables=variables, overrides=("a='x=1'", "+db=ü", "~c", "t=a\nb"), recipe=numbers[1])
        editor.add_job(written)
        editor.set_configuration(written._replace(fingerprint="f"), Configured(ConfigTemplate({})))
    with planning(folder), editing(folder) as editor:
        assert numbers[0] == editor.add_recipe(RECIPE)
    with Manifest(folder) as manifest:
        found = manifest.job(3)
        assert written._replace(fingerprint="f") == found
        assert [int, float, bool] == [type(item) for item in found.variables["a"]]
        assert list(variables) == list(found.variables)
        assert tuple(variables) == manifest.variables
        assert (RECIPE, other) == (manifest.recipe(numbers[0]), manifest.recipe(numbers[1]))
        assert numbers[0] == numbers[2]


def test_appended_jobs_leave_the_others_alone(tmp_path: Path) -> None:
    """A second planning adds ids, gaps and all; jobs that are there keep their ids and what they hold."""
    folder = Folder(tmp_path, "train")
    add(folder, {0: {"x": 0}, 1: None, 5: {"x": 5}})
    add(folder, {6: {"x": 6}, 9: {"y": 9}})
    assert {0: {"x": 0}, 1: None, 5: {"x": 5}, 6: {"x": 6}, 9: {"y": 9}} == read_all(folder)
    with Manifest(folder) as manifest:
        assert [0, 1, 5, 6, 9] == manifest.ids()
        assert 5 == len(manifest)
        assert None is manifest.job(1).fingerprint


def test_names_of_variables_keep_their_order(tmp_path: Path) -> None:
    """Names come in the order in which they first came, whatever comes later; no names are no names."""
    folder = Folder(tmp_path, "train")
    with planning(folder), editing(folder) as editor:
        editor.set_variables(["z", "a"])
    with planning(folder), editing(folder) as editor:
        editor.set_variables(["b", "a", "ü", "z"])
    with Manifest(folder) as manifest:
        assert ("z", "a", "b", "ü") == manifest.variables


def test_manifest_without_variables_has_none(tmp_path: Path) -> None:
    """A manifest whose variables nobody has set has no names."""
    folder = Folder(tmp_path, "train")
    with planning(folder), editing(folder):
        pass
    with Manifest(folder) as manifest:
        assert 0 == len(manifest)
        assert () == manifest.variables


def test_configuration_once_there_stays(tmp_path: Path) -> None:
    """A job that has a configuration keeps it, its overrides, recipe and fingerprint, now and in later plannings."""
    folder = Folder(tmp_path, "train")
    with planning(folder), editing(folder) as editor:
        number = editor.add_recipe(RECIPE)
        editor.add_job(job(0))
        editor.set_configuration(job(0, fingerprint="first", recipe=number), Configured(ConfigTemplate({"x": 1})))
        editor.set_configuration(
            job(0, fingerprint="second", overrides=("seed=9",)), Configured(ConfigTemplate({"x": 2}))
        )
    with planning(folder), editing(folder) as editor:
        editor.set_configuration(
            job(0, fingerprint="third", overrides=("seed=9",)), Configured(ConfigTemplate({"x": 3, "y": 1}))
        )
    with Manifest(folder) as manifest:
        assert {"x": 1} == manifest.configuration(0)
        assert job(0, fingerprint="first", recipe=number) == manifest.job(0)


def test_configuration_can_come_later(tmp_path: Path) -> None:
    """A job that never passed a filter has none; it gets its configuration when it passes one."""
    folder = Folder(tmp_path, "train")
    add(folder, {0: None})
    assert {0: None} == read_all(folder)
    with planning(folder), editing(folder) as editor:
        editor.set_configuration(job(0, fingerprint="f"), Configured(ConfigTemplate({"x": 1})))
    assert {0: {"x": 1}} == read_all(folder)


def test_thousand_jobs_store_what_differs(tmp_path: Path) -> None:
    """A configuration is stored once, and per job only its leaves that differ."""
    folder = Folder(tmp_path, "train")
    common = {f"key{place}": "x" * 100 for place in range(100)}
    add(folder, {number: {**common, "seed": number} for number in range(1000)})
    assert os.path.getsize(folder.manifest) < 300_000
    with Manifest(folder) as manifest:
        assert {**common, "seed": 777} == manifest.configuration(777)


def test_published_file_is_read_only(tmp_path: Path) -> None:
    """The file is 0444 from its first day, after each replacement, and any SQLite tool knows whose it is."""
    folder = Folder(tmp_path, "train")
    for number in range(2):
        add(folder, {number: None})
        assert 0o444 == stat.S_IMODE(os.stat(folder.manifest).st_mode)
    with open(folder.manifest, "rb") as file:
        assert APPLICATION_ID.to_bytes(4, "big") == file.read()[68:72]


def test_stale_files_of_a_sqlite_shell_are_removed(tmp_path: Path) -> None:
    """A -wal, -shm or -journal beside the old file would be taken for that of the new one; each is gone."""
    folder = Folder(tmp_path, "train")
    add(folder, {0: {"x": 0}})
    for ending in ("-wal", "-shm", "-journal"):
        Path(folder.manifest + ending).write_bytes(os.urandom(5000))
    assert {0: {"x": 0}} == read_all(folder)
    add(folder, {1: {"x": 1}})
    assert {"manifest.sqlite", "generations"} == set(os.listdir(folder.path)) - {".planning.lock"}
    assert {0: {"x": 0}, 1: {"x": 1}} == read_all(folder)


@pytest.mark.parametrize(
    "name", ["a?b", "a#b", "a%20b", "100%", "a b", "it's", "ü", "file:x", "a?mode=rw", "a&b;c", ":memory:"]
)
def test_any_name_of_a_folder(tmp_path: Path, name: str) -> None:
    """What is special in a URI opens no other file, neither in the name of the experiment nor in its path."""
    for folder in (Folder(tmp_path, name), Folder(tmp_path / name, "train")):
        add(folder, {0: {"x": name}})
        add(folder, {1: {"x": 1}})
        assert {0: {"x": name}, 1: {"x": 1}} == read_all(folder)


def test_relative_path_is_that_of_its_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder named by a relative path stays where it is when the working directory changes."""
    monkeypatch.chdir(tmp_path)
    folder = Folder("experiments", "train")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    add(folder, {0: {"x": 0}})
    assert (tmp_path / "experiments" / "train" / "manifest.sqlite").is_file()
    assert {0: {"x": 0}} == read_all(folder)


def test_no_manifest(tmp_path: Path) -> None:
    """Where there is no manifest, there is no experiment."""
    with pytest.raises(FolderError, match="is no experiment"):
        Manifest(Folder(tmp_path, "train"))


def test_truncated_file_never_gives_less(tmp_path: Path) -> None:
    """Wherever the file ends too early, reading all of it names the damage or gives all of it, never a part."""
    folder = Folder(tmp_path, "train")
    whole = {number: {"x": "y" * 500, "seed": number} for number in range(40)}
    add(folder, whole)
    content = Path(folder.manifest).read_bytes()
    os.chmod(folder.manifest, 0o644)
    refused = 0
    for length in [0, 1, 15, 99, 100, *range(512, len(content), 1300), len(content) - 1]:
        Path(folder.manifest).write_bytes(content[:length])
        found, said = tried(folder)
        assert found == whole or folder.manifest in said
        assert found == whole or "backup" in said
        refused += found is None
    assert refused > 5


def test_damaged_pages_are_named_or_harmless(tmp_path: Path) -> None:
    """Whatever a disk has done to a page, what reading raises is a sentence that names the manifest."""
    folder = Folder(tmp_path, "train")
    add(folder, {number: {"x": "y" * 300, "seed": number} for number in range(40)})
    content = Path(folder.manifest).read_bytes()
    os.chmod(folder.manifest, 0o644)
    chance = random.Random(7)
    for _ in range(60):
        damaged = bytearray(content)
        start = chance.randrange(len(content))
        damaged[start : start + 200] = chance.randbytes(200)
        Path(folder.manifest).write_bytes(damaged[: len(content)])
        found, said = tried(folder)
        assert found is not None or folder.manifest in said


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 8192, b"garbage" * 1000, b"{}", b"SQLite format 3\0", b"SQLite format 3\0" + b"x" * 999]
)
def test_file_that_is_no_manifest(tmp_path: Path, content: bytes) -> None:
    """Any other file in its place is named with its path and the way out, by readers and writers; writers keep it."""
    folder = Folder(tmp_path, "train")
    os.makedirs(folder.path)
    Path(folder.manifest).write_bytes(content)
    with pytest.raises(ManifestError) as refused:
        read_all(folder)
    assert folder.manifest in str(refused.value)
    assert "backup" in str(refused.value)
    with pytest.raises(ManifestError):
        add(folder, {0: None})
    assert content == Path(folder.manifest).read_bytes()
    assert {"manifest.sqlite"} == set(os.listdir(folder.path)) - {".planning.lock"}


def test_other_database_is_no_manifest(tmp_path: Path) -> None:
    """A good SQLite database that is none of ours is refused as damaged, and not written to."""
    folder = Folder(tmp_path, "train")
    os.makedirs(folder.path)
    connection = sqlite3.connect(folder.manifest)
    connection.executescript("CREATE TABLE jobs (id INTEGER PRIMARY KEY); PRAGMA user_version = 1;")
    connection.close()
    before = Path(folder.manifest).read_bytes()
    with pytest.raises(ManifestError, match="no manifest"):
        Manifest(folder)
    with pytest.raises(ManifestError, match="no manifest"):
        add(folder, {0: None})
    assert before == Path(folder.manifest).read_bytes()


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE bases",
        "DROP TABLE jobs",
        "DELETE FROM bases",
        "UPDATE bases SET body = substr(body, 1, 5)",
        "UPDATE jobs SET changes = '[['",
        "UPDATE jobs SET variables = '{'",
        "UPDATE jobs SET overrides = ''",
        'UPDATE jobs SET changes = \'[[["gone", "x"], 1]]\'',
        "UPDATE meta SET value = '['",
        "UPDATE jobs SET variables = CAST(x'80ff' AS TEXT)",
        "UPDATE jobs SET variables = '[1]'",
        """UPDATE jobs SET variables = '{"$dict": [[1, 2]]}'""",
        """UPDATE jobs SET variables = '{"$tuple": 3}'""",
        """UPDATE jobs SET variables = '{"seed": "\\ud800"}'""",
        f"UPDATE jobs SET variables = '{DEEP}'",
        f"UPDATE bases SET body = '{DEEP}'",
        "UPDATE jobs SET overrides = '[1]'",
        """UPDATE jobs SET overrides = '"seed"'""",
        "UPDATE jobs SET identity = x'33'",
        "UPDATE jobs SET fingerprint = x'33'",
        "UPDATE jobs SET recipe = 'x'",
        "UPDATE jobs SET id = -1 WHERE id = 0",
        "UPDATE meta SET value = '[1]'",
        """UPDATE meta SET value = '"seed"'""",
    ],
)
def test_damage_inside_a_good_database_is_named(tmp_path: Path, statement: str) -> None:
    """Where the database is whole but what it holds is not, readers name the manifest; no job loses its configuration
    in silence."""
    folder = Folder(tmp_path, "train")
    add(folder, {0: {"x": 0}, 1: {"x": 1}})
    edit_by_hand(folder, statement)
    with pytest.raises(ManifestError) as refused:
        read_names_and_all(folder)
    assert folder.manifest in str(refused.value)


@pytest.mark.parametrize(
    "body",
    [
        '{"ranges": [["a", "b"]]}',
        '{"directions": ["up"]}',
        '{"fixed": [[1, 2]]}',
        '{"dimensions": [{"key": "x", "kind": "float", "choices": []}]}',
        '{"dimensions": [{"key": "x", "kind": "categorical", "choices": []}]}',
        '{"dimensions": [{"key": "x", "kind": "categorical", "choices": [[1, 2]]}]}',
        '{"warm": [1]}',
        '{"sampler": []}',
        '{"seed": "x"}',
        "[]",
    ],
)
def test_a_search_of_another_shape_is_damage(tmp_path: Path, body: str) -> None:
    """Whatever stands in the place of a search, readers name the manifest."""
    folder = Folder(tmp_path, "train")
    add(folder, {0: {"x": 0}, 1: {"x": 1}})
    dimension = Dimension("x", INT, low=0, high=9)
    good = Search(((2, 9),), (dimension,), (), (), (MINIMIZE,), (), {"name": "tpe"}, 0, 0.5, 1, None)
    with planning(folder), editing(folder) as editor:
        editor.set_search(good)
    with Manifest(folder) as manifest:
        assert (good, 10) == (manifest.search, manifest.next_id)
    found = json.loads(body)
    edit_by_hand(folder, f"UPDATE searches SET body = '{json.dumps({**good.body, **found} if found else found)}'")
    with Manifest(folder) as manifest, pytest.raises(ManifestError, match=f"{folder.manifest} is damaged"):
        manifest.ids()


@pytest.mark.parametrize(
    "changed",
    [
        {"entry": []},
        {"entry": {"cwd": None}},
        {"sources": [["a"]]},
        {"task": 3},
        {"now": 1},
        {"code": {"path": 1}},
        {"x": 1},
    ],
)
def test_a_recipe_of_another_shape_is_damage(tmp_path: Path, changed: dict[str, Any]) -> None:
    """Whatever stands in the place of a recipe, readers name the manifest."""
    folder = Folder(tmp_path, "train")
    with planning(folder), editing(folder) as editor:
        number = editor.add_recipe(RECIPE)
    with Manifest(folder) as manifest:
        assert RECIPE == manifest.recipe(number)
    edit_by_hand(folder, f"UPDATE recipes SET body = json_patch(body, '{json.dumps(changed)}')")
    with Manifest(folder) as manifest, pytest.raises(ManifestError, match=f"{folder.manifest} is damaged"):
        manifest.recipe(number)


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i id, '' identity FROM n"
VIEW = f"CREATE VIEW jobs AS {ENDLESS}".replace("'", "''")
HOSTILE = {
    "a view that never ends": f"ALTER TABLE jobs RENAME TO mine; CREATE VIEW jobs AS {ENDLESS}",
    "another view": "CREATE VIEW other AS SELECT 1",
    "a trigger": "CREATE TRIGGER other AFTER INSERT ON jobs BEGIN DELETE FROM jobs; END",
    "a module's table": "CREATE VIRTUAL TABLE other USING fts5(text)",
    "a view that says it is a table": f"""
        PRAGMA writable_schema = ON; DELETE FROM sqlite_master WHERE name = 'jobs';
        INSERT INTO sqlite_master VALUES ('table', 'jobs', 'jobs', 2, '{VIEW}')""",
    "a row of 64 MiB": f"UPDATE jobs SET changes = zeroblob({MOST_ROW_BYTES + 1})",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_manifest_that_takes_all_time_or_memory_is_refused(tmp_path: Path, kind: str) -> None:
    """What computes rows, or holds more than a configuration may have, is damage: nothing of it is read, and it is not
    planned over."""
    folder = Folder(tmp_path, "train")
    add(folder, {0: {"x": 0}, 1: {"x": 1}})
    os.chmod(folder.manifest, 0o644)
    with closing(sqlite3.connect(folder.manifest)) as connection:
        connection.executescript(HOSTILE[kind])
    with pytest.raises(ManifestError, match=f"{folder.manifest} is damaged"):
        read_names_and_all(folder)


def test_a_manifest_as_long_as_no_other_is_damaged_within_seconds(tmp_path: Path) -> None:
    """Of a file of a hundred gigabytes that somebody has laid there no command reads all before it says so."""
    folder = Folder(tmp_path, "train")
    os.makedirs(folder.path)
    Path(folder.manifest).touch()
    os.truncate(folder.manifest, 100 << 30)
    begun = time.monotonic()
    with pytest.raises(DamagedManifest, match=f"{folder.manifest} is damaged"):
        Manifest(folder)
    assert 10 > time.monotonic() - begun


def test_a_configuration_that_nobody_could_read_is_refused(tmp_path: Path) -> None:
    """No manifest is published with a row that its readers refuse; the sentence says what to do instead."""
    folder = Folder(tmp_path, "train")
    add(folder, {0: {"x": 0}})
    with pytest.raises(ManifestError, match="64 MiB at most; let its configuration name a file"):
        add(folder, {1: {"x": "y" * MOST_ROW_BYTES}})
    assert {0: {"x": 0}} == read_all(folder)
    assert {"manifest.sqlite", "generations"} == set(os.listdir(folder.path)) - {".planning.lock"}


def test_too_little_memory_is_no_damage(tmp_path: Path) -> None:
    """What a manifest needs more memory for than there is, is said in a sentence, and not called damaged."""
    folder = Folder(tmp_path, "train")
    add(folder, {0: {"x": "y" * (MOST_ROW_BYTES - 1000)}})
    text = f"""
from resource import RLIMIT_AS, setrlimit
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest
with Manifest(Folder({str(tmp_path)!r}, "train")) as manifest:
    used = int(open("/proc/self/statm").read().split()[0]) * 4096
    setrlimit(RLIMIT_AS, (used + (32 << 20), -1))
    manifest.configuration(0)
"""
    done = subprocess.run([sys.executable, "-c", text], env=clean_env(), capture_output=True, text=True, check=False)
    said = done.stderr.splitlines()[-1]
    assert said.endswith(f"ManifestError: {folder.manifest} cannot be read: it needs more memory than there is"), said


def test_newer_format_is_refused_with_the_way_out(tmp_path: Path) -> None:
    """A manifest of a newer version is not read and not rewritten; the sentence says to upgrade."""
    folder = Folder(tmp_path, "train")
    add(folder, {0: {"x": 0}})
    edit_by_hand(folder, f"PRAGMA user_version = {FORMAT + 1}")
    before = Path(folder.manifest).read_bytes()
    for act in (read_all, lambda folder: add(folder, {1: None})):
        with pytest.raises(ManifestError, match=r"newer version.*upgrade") as refused:
            act(folder)
        assert folder.manifest in str(refused.value)
    assert before == Path(folder.manifest).read_bytes()
    assert {"manifest.sqlite", "generations"} == set(os.listdir(folder.path)) - {".planning.lock"}


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
@pytest.mark.parametrize("there", [False, True])
def test_failed_editing_leaves_the_old_manifest(tmp_path: Path, error: type[BaseException], there: bool) -> None:
    """An exception while editing leaves the old manifest, or none, to the byte, and no temporary file."""
    folder = Folder(tmp_path, "train")
    if there:
        add(folder, {0: {"x": 0}})
    else:
        os.makedirs(folder.path)
    before = Path(folder.manifest).read_bytes() if there else None

    def fail() -> None:
        with editing(folder) as editor:
            for number in range(1, 500):
                editor.add_job(job(number))
            raise error

    with pytest.raises(error):
        fail()
    expected = {"manifest.sqlite", "generations"} if there else set()
    assert expected == set(os.listdir(folder.path)) - {".planning.lock"}
    if there:
        assert before == Path(folder.manifest).read_bytes()


def test_killed_editing_leaves_the_old_manifest(tmp_path: Path) -> None:
    """A planner that is killed by SIGKILL in the middle leaves the old manifest; the next planning goes on."""
    folder = Folder(tmp_path, "train")
    add(folder, {0: {"x": 0}})
    program = (
        "import os, signal, sys\n"
        "from experiment_manager.store.layout import Folder, planning\n"
        "from experiment_manager.store.manifest_editor import editing\n"
        "folder = Folder(sys.argv[1], 'train')\n"
        "with planning(folder), editing(folder) as editor:\n"
        "    editor.set_variables(['y'])\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=clean_env(), check=False)
    assert -9 == done.returncode
    assert {0: {"x": 0}} == read_all(folder)
    add(folder, {1: {"x": 1}})
    assert {0: {"x": 0}, 1: {"x": 1}} == read_all(folder)


def unnamed(folder: Folder, changed: Callable[[bytes], bytes] = bytes) -> bytes:
    """The manifest, whose planner has published the next generation, changed so, and was killed before it was named."""
    add(folder, {0: {"x": 0}})
    first = Path(folder.manifest).read_bytes()
    add(folder, {1: {"x": 1}})
    for path in (Path(folder.generations, "2"), Path(folder.manifest)):
        content = first if path.name == "manifest.sqlite" else changed(path.read_bytes())
        path.unlink()
        path.write_bytes(content)
    return first


def of_newer_version(content: bytes) -> bytes:
    return content[:60] + (FORMAT + 1).to_bytes(4, "big") + content[64:]  # where SQLite keeps user_version


def test_what_cannot_be_seen_now_is_not_planned_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newest generation that a newer version has published, or that the disk does not give, keeps others from
    planning; one that is damaged never had its name, and nobody has heard of it."""
    newer = Folder(tmp_path, "newer")
    before = unnamed(newer, of_newer_version)
    with pytest.raises(ManifestError, match="newer version"):
        add(newer, {2: {"x": 2}})
    assert before == Path(newer.manifest).read_bytes()

    folder = Folder(tmp_path, "train")
    before = unnamed(folder)
    with monkeypatch.context() as errs:
        errs.setattr("experiment_manager.store.manifest.opened", failing(OSError(errno.EIO, "Input/output error")))
        with pytest.raises(ManifestError, match="Input/output error"):
            add(folder, {2: {"x": 2}})
    assert before == Path(folder.manifest).read_bytes()
    add(folder, {2: {"x": 2}})
    assert {number: {"x": number} for number in range(3)} == read_all(folder)

    damaged = Folder(tmp_path, "damaged")
    unnamed(damaged, lambda _: b"no manifest")
    add(damaged, {2: {"x": 2}})
    assert {0: {"x": 0}, 2: {"x": 2}} == read_all(damaged)


def test_readers_during_replacements(tmp_path: Path) -> None:
    """During 20 replacements new readers see one planning whole, and an open reader the one that it opened."""
    folder = Folder(tmp_path, "train")
    add(folder, {0: {"x": 0}})
    early = Manifest(folder)
    failures: list[BaseException] = []
    done = threading.Event()
    reads: list[int] = []

    def keep_reading() -> None:
        try:
            while not done.is_set():
                found = read_all(folder)
                assert {number: {"x": number} for number in range(len(found))} == found
                assert 1 == len(found) % 10
                reads.append(len(found))
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=keep_reading) for _ in range(2)]
    for reader in readers:
        reader.start()
    for start in range(1, 201, 10):
        add(folder, {number: {"x": number} for number in range(start, start + 10)})
        assert {"x": 0} == early.configuration(0)
        assert [0] == early.ids()
    done.set()
    for reader in readers:
        reader.join()
    early.close()
    assert [] == failures
    assert reads
    assert 201 == len(read_all(folder))


@pytest.mark.parametrize("unknown", [7, -1, 2**31, 2**63, 2**70])
def test_unknown_job_says_which_there_are(tmp_path: Path, unknown: int) -> None:
    """An id that is not there is refused with those that are, by every reader of one job, however large it is."""
    folder = Folder(tmp_path, "train")
    add(folder, {0: {"x": 0}, 1: None, 2: None, 9: None})
    with Manifest(folder) as manifest:
        for read in (manifest.job, manifest.configuration, manifest.encoded_configuration):
            with pytest.raises(UnknownJob, match=rf"no job {unknown} in .*its jobs are 0-2,9"):
                read(unknown)


def test_copied_experiment_is_read_where_it_is(tmp_path: Path) -> None:
    """A folder can be copied, to a read-only place, too: the manifest is one file that nobody needs to write."""
    folder = Folder(tmp_path, "train")
    add(folder, {0: {"x": 0}})
    shutil.copytree(folder.path, tmp_path / "copy")
    os.chmod(tmp_path / "copy", 0o555)
    assert {0: {"x": 0}} == read_all(Folder(tmp_path, "copy"))
    assert {"manifest.sqlite", "generations"} == set(os.listdir(tmp_path / "copy")) - {".planning.lock"}
    os.chmod(tmp_path / "copy", 0o755)


def test_what_a_disk_does_not_give_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite says that the image is malformed, also where a page could not be read: nobody is told to restore it."""
    folder = Folder(tmp_path, "train")
    add(folder, {number: {"x": number} for number in range(100)})
    os.chmod(folder.manifest, 0o644)
    with open(folder.manifest, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 40_960)

    def errs(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO), folder.manifest)

    with pytest.raises(DamagedManifest, match="is damaged"), Manifest(folder) as manifest:
        list(manifest.jobs())
    with Manifest(folder) as manifest:
        jobs = manifest.jobs()
        monkeypatch.setattr(manifest_module, "opened", errs)
        with pytest.raises(ManifestError, match="cannot be read: Input/output error; the disk") as found:
            list(jobs)
    assert not isinstance(found.value, DamagedManifest)
