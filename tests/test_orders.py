"""What a launch says about one job: found without reading the rest, the same with and without the index."""

import errno
import json
import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_manager.errors import JobRefused
from experiment_manager.model.records import Attempt, JobId, State
from experiment_manager.scheduler.arrays import arrays
from experiment_manager.scheduler.records import Limits
from experiment_manager.scheduler.slurm.options import as_mapping, make
from experiment_manager.scheduler.submission import records
from experiment_manager.store.documents import LAUNCH_FORMAT
from experiment_manager.store.launches import create_launch, planned_attempts, read_launch
from experiment_manager.store.layout import Folder
from experiment_manager.store.orders import Order, Orders, read_order
from tests.conftest import examples

HOSTILE = "what?#%41 'ü'\n"


def launched(place: Path, attempts: dict[int, int], **about: Any) -> Folder:
    """A folder whose launch 0001 plans these attempts: job -> number."""
    folder = Folder(place, "e?#%41 ü")
    create_launch(folder, (Attempt(JobId(job), number, State.PENDING) for job, number in attempts.items()), about)
    return folder


def index_of(folder: Folder) -> Path:
    return Path(folder.join("launches", "0001", "orders.sqlite"))


@examples(60)
@given(attempts=st.dictionaries(st.integers(0, 60) | st.integers(0, 2**63 - 1), st.integers(1, 3)))
def test_every_job_is_found_with_and_without_the_index(
    attempts: dict[int, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever jobs a launch has, the index says of every id what the record says, and so does who keeps what it has
    read."""
    folder = launched(tmp_path_factory.mktemp("e"), attempts)
    asked = {*attempts, *range(62), *(job + 1 for job in attempts), -1, 2**63, 10**30}
    fast = {job: read_order(folder, "0001", job) for job in asked}
    orders = Orders(folder)
    assert {job: orders.of("0001", job) for job in asked} == fast
    index_of(folder).unlink()
    assert {job: read_order(folder, "0001", job) for job in asked} == fast
    assert {job: orders.of("0001", job) for job in asked} == fast
    assert attempts == {job: order.attempt for job, order in fast.items() if order is not None}
    assert attempts == planned_attempts(read_launch(folder, "0001"))


def test_a_job_has_the_options_of_its_array(tmp_path: Path) -> None:
    """Jobs of one launch may run under different options; a job that no array has is not run by SLURM."""
    ids = random.Random(0).sample(range(100), 50)
    wanted = [(make({"mem_gb": memory}, where="test"), ids[memory::3]) for memory in (1, 2)]
    kept = records(arrays(wanted, Limits(7, 4000)), "e", as_mapping)
    folder = launched(tmp_path, dict.fromkeys(ids, 2), slurm={"arrays": kept}, runner=["python", HOSTILE])
    for indexed in (True, False):
        for memory in (1, 2):
            for job in ids[memory::3]:
                options = json.loads(json.dumps(as_mapping(wanted[memory - 1][0])))
                assert Order(2, options, ["python", HOSTILE], str(Path.cwd())) == read_order(folder, "0001", job)
        assert Order(2, None, ["python", HOSTILE], str(Path.cwd())) == read_order(folder, "0001", ids[0])
        if indexed:
            index_of(folder).unlink()


def test_the_recipe_of_a_launch_is_in_no_order(tmp_path: Path) -> None:
    """The recipe that jobs had when they were launched is known with and without the index; the orders are what older
    versions read, too."""
    folder = launched(tmp_path, {0: 1, 7: 2}, recipe=3)
    with closing(sqlite3.connect(index_of(folder))) as connection:
        bodies = [json.loads(body) for (body,) in connection.execute("SELECT body FROM orders")]
    assert [{"attempt", "options", "runner", "cwd", "other_scheduler"}] * 2 == [set(body) for body in bodies]
    assert [3, 3] == [order.recipe for job in (0, 7) if (order := read_order(folder, "0001", job))]
    index_of(folder).unlink()
    assert [3, 3] == [order.recipe for job in (0, 7) if (order := read_order(folder, "0001", job))]


def test_the_index_is_small_and_read_by_pages(tmp_path: Path) -> None:
    """Neighbours share a line, and what jobs have in common is kept once."""
    folder = launched(tmp_path, dict.fromkeys([*range(5000), *range(6000, 9000)], 1) | {4000: 2})
    with closing(sqlite3.connect(index_of(folder))) as connection:
        assert [(0, 3999), (4000, 4000), (4001, 4999), (6000, 8999)] == list(
            connection.execute("SELECT first, last FROM jobs ORDER BY first")
        )
        assert (2,) == connection.execute("SELECT count(*) FROM orders").fetchone()
        (plan,) = connection.execute(
            "EXPLAIN QUERY PLAN SELECT last FROM jobs WHERE first <= 7 ORDER BY first DESC LIMIT 1"
        )
        assert "SEARCH jobs USING INTEGER PRIMARY KEY" in plan[-1]


@pytest.mark.parametrize(
    ("expected", "options", "about"),
    [
        (1, {"mem_gb": 1}, {"options": {"job_timeout_min": None}, "job_timeout_min": None}),
        (2, {"mem_gb": 1, "job_timeout_min": 0.5}, {}),
        (2, None, {"job_timeout_min": 0.5}),
    ],
)
def test_a_launch_bears_the_least_format_that_it_needs(
    expected: int, options: dict[str, Any] | None, about: dict[str, Any], tmp_path: Path
) -> None:
    """Older versions read a launch, unless it says what they would not do; record and index bear one number."""
    kept = (
        []
        if options is None
        else records(arrays([(make(options, where="test"), [0])], Limits(7, 4000)), "e", as_mapping)
    )
    folder = launched(tmp_path, {0: 1}, **about, **({"slurm": {"arrays": kept}} if kept else {}))
    with closing(sqlite3.connect(index_of(folder))) as connection:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        (body,) = connection.execute("SELECT body FROM orders").fetchone()
    order = read_order(folder, "0001", 0)
    assert order is not None
    assert (expected, expected) == (read_launch(folder, "0001").record["format"], found)
    assert (30.0 if expected > 1 else None) == order.limit_s
    assert ("job_timeout_min" in body) == (expected > 1)


DAMAGE = {
    "a cut": "cut",
    "text": "no database",
    "nothing": "",
    "an order that is no object": "UPDATE orders SET body = '[1]'",
    "an order that is no JSON": "UPDATE orders SET body = '{'",
    "an order without an attempt": """UPDATE orders SET body = '{"options": null, "runner": null, "cwd": "/"}'""",
    "an attempt that is no number": """UPDATE orders SET body = json_set(body, '$.attempt', 'x')""",
    "more than an order has": """UPDATE orders SET body = json_set(body, '$.more', 1)""",
    "no orders": "DELETE FROM orders",
    "no table": "DROP TABLE jobs",
    "a view": "CREATE VIEW other AS SELECT 1",
    "an end that is no number": "UPDATE jobs SET last = 'x'",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_refused_in_a_sentence(tmp_path: Path, kind: str) -> None:
    """Whatever is wrong with the index: one sentence, the file, and the way out, which works."""
    folder = launched(tmp_path, dict.fromkeys(range(0, 6000, 2), 1))
    path, how = index_of(folder), DAMAGE[kind]
    if how.startswith(("UPDATE", "DELETE", "DROP", "CREATE")):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(how)
            connection.commit()
    else:
        path.write_bytes(path.read_bytes()[:4100] if how == "cut" else how.encode())
    with pytest.raises(JobRefused, match=r"sqlite cannot be read .*remove it: launch\.json beside it") as refused:
        read_order(folder, "0001", 4)
    assert "\n" not in str(refused.value)
    path.unlink()
    found = read_order(folder, "0001", 4)
    assert found is not None
    assert 1 == found.attempt


def test_an_index_that_a_disk_does_not_show_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record beside it says the same, and nobody is told to remove a file that is whole."""
    folder = launched(tmp_path, {0: 2})
    expected, stale = read_order(folder, "0001", 0), os.strerror(errno.ESTALE)

    def erring(path: str, *arguments: Any, **options: Any) -> int:
        if str(path).endswith("orders.sqlite"):
            raise OSError(errno.ESTALE, stale, path)
        return actual(path, *arguments, **options)

    actual = os.open
    monkeypatch.setattr(os, "open", erring)
    assert expected == read_order(folder, "0001", 0)


def test_an_index_of_another_version_is_refused(tmp_path: Path) -> None:
    """What a newer version has written is not guessed at."""
    folder = launched(tmp_path, {0: 1})
    with closing(sqlite3.connect(index_of(folder))) as connection:
        connection.execute(f"PRAGMA user_version = {LAUNCH_FORMAT + 1}")
    with pytest.raises(JobRefused, match=r"newer version of Experiment Manager .*update it: pip"):
        read_order(folder, "0001", 0)


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"jobs": 3}', '{"jobs": {"x": "1-"}}', '{"jobs": {"1": "0"}}'])
def test_a_damaged_record_is_refused_in_a_sentence(tmp_path: Path, text: str) -> None:
    """Without the index the record is asked, and what is no record says so."""
    folder = launched(tmp_path, {0: 1})
    index_of(folder).unlink()
    Path(folder.join("launches", "0001", "launch.json")).write_text(text)
    with pytest.raises(JobRefused, match=r"launch\.json is damaged .*restore it, or move its folder away"):
        read_order(folder, "0001", 0)


def test_an_order_is_kept_for_the_jobs_of_its_launch(tmp_path: Path) -> None:
    """What was read of one launch is said of no other one."""
    folder = launched(tmp_path, {0: 1, 1: 1, 7: 1})
    create_launch(folder, [Attempt(JobId(1), 2, State.PENDING)], {})
    orders = Orders(folder)
    asked = [("0001", 0), ("0002", 1), ("0001", 1), ("0002", 0), ("0001", 0), ("0001", 4), ("0001", 7)]
    found = [orders.of(number, job) for number, job in asked]
    assert [1, 2, 1, None, 1, None, 1] == [None if order is None else order.attempt for order in found]


def test_no_launch_of_that_number(tmp_path: Path) -> None:
    """A launch that is not there is refused by its number."""
    with pytest.raises(JobRefused, match="there is no launch 0002"):
        read_order(launched(tmp_path, {0: 1}), "0002", 0)
