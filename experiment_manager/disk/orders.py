"""Orders: what a launch says about one job, found without reading what it says about all others.

launches/0001/launch.json      the record, for people, and for those who want all of it
launches/0001/orders.sqlite    the same by job, for the tasks, of which there may be a hundred thousand

    orders  id, body           attempt, options, runner, cwd: what jobs have in common (JSON, see Order)
    jobs    first, last, body  the jobs from `first` to `last` have that order

The index is written once, before the record, and never changed. Without it, the record is asked.
"""

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any, Final, NamedTuple

from experiment_manager.disk.documents import ARRAY, LAUNCH, LIST, TABLE, opened, read_json, trouble
from experiment_manager.disk.files import appearing, database_uri, private_database
from experiment_manager.disk.folder import Folder
from experiment_manager.errors import JobRefused, UnreadableLaunch, UnreadableRecord

FORMAT: Final = 1

_SCHEMA: Final = (
    f"PRAGMA user_version = {FORMAT}",
    "CREATE TABLE orders (id INTEGER PRIMARY KEY, body TEXT NOT NULL)",
    "CREATE TABLE jobs (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, body INTEGER NOT NULL REFERENCES orders)",
)
_FIND: Final = """
SELECT jobs.last, orders.body FROM jobs LEFT JOIN orders ON orders.id = jobs.body
WHERE jobs.first <= ? ORDER BY jobs.first DESC LIMIT 1
"""


class Order(NamedTuple):
    """How a launch wants a job to be run."""

    attempt: int  # the number of the job's first attempt in this launch
    options: Mapping[str, Any] | None  # SLURM's; None where SLURM does not run it
    runner: list[str] | None  # the words of a command that runs jobs which were written in Python
    cwd: str  # where the launch was made


def write_orders(path: str, record: Mapping[str, Any]) -> None:
    """The index of the record of a launch is in that file, on disk for good."""
    numbers: dict[str, int] = {}
    rows = [(first, last, numbers.setdefault(body, len(numbers) + 1)) for first, last, body in _ranges(record)]
    with appearing(path) as temporary, private_database(temporary, page_bytes=1024) as connection:
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.executemany("INSERT INTO orders VALUES (?, ?)", [(number, body) for body, number in numbers.items()])
        connection.executemany("INSERT INTO jobs VALUES (?, ?, ?)", rows)


def read_order(folder: Folder, number: str, job_id: int) -> Order | None:
    """What the launch of that number says about a job; None: the job is not in this launch.

    Reads a few pages of the index, however many jobs there are. Raises JobRefused when there is no such launch, or its
    files are damaged.
    """
    path = folder.join("launches", number, "orders.sqlite")
    if not os.path.exists(path):
        return _slowly(folder, number, job_id)
    try:
        opened(path).close()  # SQLite would wait for a pipe
        with closing(sqlite3.connect(database_uri(path), uri=True)) as connection:
            (found,) = connection.execute("PRAGMA user_version").fetchone()
            row = connection.execute(_FIND, (job_id,)).fetchone() if 0 <= job_id < 2**63 else None
        order = None if row is None or job_id > int(row[0]) else _order(json.loads(row[1]))
    except (sqlite3.Error, OSError, ValueError, TypeError, RecursionError) as error:
        why = f"{path} cannot be read ({error}); remove it: launch.json beside it says the same"
        raise UnreadableLaunch(why) from error
    if found != FORMAT:
        raise JobRefused(f"{path} was written by another version of Experiment Manager; upgrade it, or remove the file")
    return order


def read_record(folder: Folder, number: str) -> dict[str, Any]:
    """The record of the launch of that number. Raises JobRefused when there is none; UnreadableLaunch."""
    path = folder.join("launches", number, "launch.json")
    try:
        record: dict[str, Any] = read_json(path)
    except FileNotFoundError as error:
        raise JobRefused(f"there is no launch {number} in {folder.path}; leave --launch out") from error
    except UnreadableRecord as error:
        raise UnreadableLaunch(f"{path} cannot be read ({error.why})") from error
    if wrong := trouble(record, LAUNCH, required=["jobs"]) or _wrong_arrays(record):
        raise UnreadableLaunch(f"{path} is damaged ({wrong}); restore it, or move its folder away")
    return record


def _wrong_arrays(record: Mapping[str, Any]) -> str | None:
    """What is wrong with a record of job arrays; None: nothing."""
    slurm = record.get("slurm")
    if slurm is None:
        return None
    wrong = trouble(slurm, {"options": TABLE, "arrays": LIST}, required=["arrays"])
    wrong = wrong or trouble(record, {}, required=["time", "user", "cwd"])
    required = [name for name in ARRAY if name != "after"]
    for place, array in enumerate(() if wrong else slurm["arrays"]):
        wrong = wrong or trouble(array, ARRAY, required)
        if not wrong and not 0 <= (array.get("after") or 0) <= place:
            wrong = "an array comes after one that is none of its launch"
    return wrong


def planned(record: Mapping[str, Any]) -> dict[int, int]:
    """The number of the first attempt that a launch planned, for each of its jobs."""
    from experiment_manager.ids import parse_ids

    return {job_id: int(first) for first, ids in record["jobs"].items() for job_id in parse_ids(ids)}


def _slowly(folder: Folder, number: str, job_id: int) -> Order | None:
    """The same from the record, as for launches that were made before there was an index."""
    record = read_record(folder, number)
    try:
        bodies = (body for first, last, body in _ranges(record) if first <= job_id <= last)
        return next((_order(json.loads(body)) for body in bodies), None)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        path = folder.join("launches", number, "launch.json")
        raise JobRefused(
            f"{path} is damaged ({type(error).__name__}: {error}); restore it, or move its folder away"
        ) from error


def _order(body: Any) -> Order:
    """Raises TypeError for what is no order."""
    order = Order(**body)
    is_one = isinstance(order.attempt, int) and isinstance(order.cwd, str)
    if not (is_one and isinstance(order.options, dict | None) and isinstance(order.runner, list | None)):
        raise TypeError(f"this is no order: {body}")
    return order


def _ranges(record: Mapping[str, Any]) -> Iterator[tuple[int, int, str]]:
    """First and last of neighbouring jobs, ascending, and what the record says of all of them."""
    from experiment_manager.ids import parse_ids

    arrays = record.get("slurm", {}).get("arrays", ())
    array_of = {job_id: place for place, array in enumerate(arrays) for job_id in parse_ids(array["jobs"])}
    options = [array["options"] for array in arrays]
    texts: dict[tuple[int, int | None], str] = {}
    first = last = -2
    before = ""
    for job_id, attempt in sorted(planned(record).items()):
        place = array_of.get(job_id)
        text = texts.get((attempt, place))
        if text is None:
            order = Order(
                attempt, None if place is None else options[place], record.get("runner") or None, record["cwd"]
            )
            text = texts[attempt, place] = json.dumps(order._asdict(), ensure_ascii=False)
        if job_id != last + 1 or text != before:
            if before:
                yield first, last, before
            first, before = job_id, text
        last = job_id
    if before:
        yield first, last, before
