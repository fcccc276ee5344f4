"""How a launch wants each of its jobs to be run, for the tasks, of which there may be a hundred thousand.

launches/0001/orders.sqlite    what `launch.json` beside it says, by job

    orders  id, body           attempt, options, runner, cwd: what jobs have in common (JSON, see Order)
    jobs    first, last, body  the jobs from `first` to `last` have that order
    arrays  name               of the arrays that the launch has, which its tasks know

The index is written once, before the record, and never changed. Without it, the record is asked. Both bear the same
number of a format.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing

from experiment_manager.errors import JobRefused, NewerRecord, UnreadableLaunch
from experiment_manager.model.codec import loads
from experiment_manager.store.documents import LAUNCH_FORMAT, opened
from experiment_manager.store.files import appearing, asked_twice, finished_database, is_of_the_disk, private_database
from experiment_manager.store.layout import Folder
from experiment_manager.typing_names import Any, Final, NamedTuple

_ANY_LATER: Final = 2**62
"""The last id of those that a search may still propose: how many there will be, nobody knows yet."""

_SCHEMA: Final = (
    "CREATE TABLE orders (id INTEGER PRIMARY KEY, body TEXT NOT NULL)",
    "CREATE TABLE jobs (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, body INTEGER NOT NULL REFERENCES orders)",
)
_RECIPE: Final = "CREATE TABLE recipe (number INTEGER NOT NULL)"  # by itself: older versions take no order with it
_ARRAYS: Final = "CREATE TABLE arrays (name TEXT PRIMARY KEY) WITHOUT ROWID"
_FIND: Final = """
SELECT jobs.first, jobs.last, orders.body FROM jobs LEFT JOIN orders ON orders.id = jobs.body
WHERE jobs.first <= ? ORDER BY jobs.first DESC LIMIT 1
"""


class Order(NamedTuple):
    """How a launch wants a job to be run."""

    attempt: int  # the number of the job's first attempt in this launch
    options: Mapping[str, Any] | None  # the scheduler's; None where none runs it
    runner: list[str] | None  # the words of a command that runs jobs which were written in Python
    cwd: str  # where the launch was made
    other_scheduler: str | None = None  # the name of the scheduler, where it is not SLURM
    job_timeout_min: float | None = None  # where no scheduler runs it, whose options say so otherwise
    pruner: Mapping[str, Any] | None = None  # what tells jobs to end early, see `model.pruning`
    upstream: Mapping[str, Any] | None = None  # which jobs of another experiment it comes after, see `model.stages`
    recipe: int | None = None  # the number of the recipe that the job had when a sweep launched it

    @property
    def scheduler(self) -> str | None:
        """The name of the scheduler that runs the job; None where none does."""
        return None if self.options is None else self.other_scheduler or "slurm"

    @property
    def limit_s(self) -> float | None:
        """How long an attempt may run; None: as long as whoever runs it lets it."""
        minutes = self.job_timeout_min if self.options is None else self.options.get("job_timeout_min")
        return None if minutes is None else 60.0 * minutes

    @property
    def body(self) -> dict[str, Any]:
        """The order as it is kept: without what older versions do not know, where it says nothing of that."""
        kept = self._asdict()
        del kept["recipe"]
        for name in ("job_timeout_min", "pruner", "upstream"):
            if kept[name] is None:
                del kept[name]
        return kept


def write_orders(path: str, record: Mapping[str, Any]) -> None:
    """The index of the record of a launch is in that file, on disk for good."""
    numbers: dict[str, int] = {}
    rows = [(first, last, numbers.setdefault(body, len(numbers) + 1)) for first, last, body in _ranges(record)]
    with appearing(path) as temporary, private_database(temporary, page_bytes=1024) as connection:
        for statement in (f"PRAGMA user_version = {record['format']}", *_SCHEMA):
            connection.execute(statement)
        connection.executemany("INSERT INTO orders VALUES (?, ?)", [(number, body) for body, number in numbers.items()])
        connection.executemany("INSERT INTO jobs VALUES (?, ?, ?)", rows)
        connection.execute(_ARRAYS)
        connection.executemany("INSERT OR IGNORE INTO arrays VALUES (?)", [(name,) for name in _array_names(record)])
        if record.get("recipe") is not None:
            connection.execute(_RECIPE)
            connection.execute("INSERT INTO recipe VALUES (?)", (record["recipe"],))


def read_order(folder: Folder, number: str, job_id: int) -> Order | None:
    """The order that the launch of that number has for a job; None: the job is not in this launch.

    Reads a few pages of the index, however many jobs there are. Raises JobRefused when there is no such launch, or its
    files are damaged.
    """
    return Orders(folder).of(number, job_id)


def require_array(folder: Folder, number: str, name: str) -> None:
    """Raise JobRefused unless the launch of that number has an array of that name: another experiment may have come in
    the place of the one that a task was submitted for."""
    path = folder.join("launches", number, "orders.sqlite")
    try:
        found = asked_twice(lambda: _has_array(path, name))
    except (sqlite3.Error, OSError, MemoryError):  # the record is asked, which tells what is wrong
        found = None
    if found is None:
        from experiment_manager.store.launches import read_record

        found = name in _array_names(read_record(folder, number))
    if not found:
        raise JobRefused(
            f"launch {number} of {folder.path} has no array {name}: this task was submitted for an experiment that was "
            "there before, and runs nothing of this one; take what is left of its array out of the queue"
        )


def _has_array(path: str, name: str) -> bool | None:
    """What an index says of an array; None for one of an older version, which does not tell."""
    opened(path).close()
    with closing(finished_database(path)) as connection:
        if not _has_table(connection, "arrays"):
            return None
        return connection.execute("SELECT 1 FROM arrays WHERE name = ?", (name,)).fetchone() is not None


def _array_names(record: Mapping[str, Any]) -> list[str]:
    from experiment_manager.store.launches import of_scheduler

    return [array["name"] for array in (of_scheduler(record) or {}).get("arrays", ())]


class Orders:
    """The orders of an experiment's launches, for whoever asks about many jobs: neighbours have one, and a launch never
    changes, so the order that was read last is kept."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._kept = _Kept("", range(0), None)

    def of(self, number: str, job_id: int) -> Order | None:
        """As `read_order`."""
        if number != self._kept.launch or job_id not in self._kept.jobs:
            self._kept = _read_order(self._folder, number, job_id)
        return self._kept.order

    def required(self, number: str, job_id: int) -> Order:
        """The same. Raises JobRefused for a job that is not in the launch."""
        order = self.of(number, job_id)
        if order is None:
            raise JobRefused(f"job {job_id} is not among the jobs of launch {number} in {self._folder.path}")
        return order


class _Kept(NamedTuple):
    """An order, and the jobs that have it: none where it is None."""

    launch: str
    jobs: range
    order: Order | None


def _read_order(folder: Folder, number: str, job_id: int) -> _Kept:
    path = folder.join("launches", number, "orders.sqlite")
    try:
        found, kept = asked_twice(lambda: _indexed(path, number, job_id))
    except (FileNotFoundError, NotADirectoryError):
        return _slowly(folder, number, job_id)
    except (sqlite3.Error, OSError, ValueError, TypeError, MemoryError) as error:
        if is_of_the_disk(error):
            return _slowly(folder, number, job_id)  # launch.json is asked again, if it cannot be reached either
        why = str(error) or type(error).__name__
        way_out = "remove it: launch.json beside it says the same"
        raise UnreadableLaunch(f"{path} cannot be read ({why}); {way_out}") from error
    if kept is None:
        raise UnreadableLaunch(str(NewerRecord(path, found, LAUNCH_FORMAT)), is_newer=True)
    return kept


def _indexed(path: str, number: str, job_id: int) -> tuple[int, _Kept | None]:
    """The format of an index, and what it says of a job; None where a newer version has written it."""
    opened(path).close()  # SQLite would wait for a pipe
    with closing(finished_database(path)) as connection:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found > LAUNCH_FORMAT:
            return found, None
        row = connection.execute(_FIND, (job_id,)).fetchone() if 0 <= job_id < 2**63 else None
        recipe = None if row is None else _recipe(connection)
    if row is None or job_id > int(row[1]):
        return found, _Kept(number, range(0), None)
    order = _order(loads(row[2]))._replace(recipe=recipe)
    return found, _Kept(number, range(int(row[0]), int(row[1]) + 1), order)


def _recipe(connection: sqlite3.Connection) -> int | None:
    if not _has_table(connection, "recipe"):
        return None
    (found,) = connection.execute("SELECT number FROM recipe").fetchone()
    return int(found)


def _has_table(connection: sqlite3.Connection, name: str) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone() is not None


def _slowly(folder: Folder, number: str, job_id: int) -> _Kept:
    """The same from the record, as for launches that were made before there was an index."""
    from experiment_manager.store.launches import RESTORE, read_record  # which no task needs where there is an index

    record = read_record(folder, number)
    try:
        for first, last, body in _ranges(record):
            if first <= job_id <= last:
                order = _order(json.loads(body))._replace(recipe=record.get("recipe"))
                return _Kept(number, range(first, last + 1), order)
        return _Kept(number, range(0), None)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        path = folder.join("launches", number, "launch.json")
        raise JobRefused(f"{path} is damaged ({type(error).__name__}: {error}); {RESTORE}") from error


def _order(body: Any) -> Order:
    """Raises TypeError for what is no order."""
    order = Order(**body)
    is_one = isinstance(order.attempt, int) and isinstance(order.cwd, str)
    is_one = is_one and isinstance(order.job_timeout_min, float | int | None)
    is_one = is_one and isinstance(order.pruner, dict | None) and isinstance(order.upstream, dict | None)
    if not (is_one and isinstance(order.options, dict | None) and isinstance(order.runner, list | None)):
        raise TypeError(f"this is no order: {body}")
    return order


def _ranges(record: Mapping[str, Any]) -> Iterator[tuple[int, int, str]]:
    """First and last of neighbouring jobs, ascending, and what the record says of all of them."""
    from experiment_manager.model.ids import parse_ids
    from experiment_manager.store.launches import of_scheduler, planned

    arrays = (of_scheduler(record) or {}).get("arrays", ())
    array_of = {job_id: place for place, array in enumerate(arrays) for job_id in parse_ids(array["jobs"])}
    options = [array["options"] for array in arrays]
    upstream: dict[int, dict[str, Any]] = {}
    if record.get("upstream") is not None:
        from experiment_manager.model import stages  # for the few launches that come after others

        upstream = stages.by_job(record["upstream"])
    texts: dict[tuple[int, int | None, int], str] = {}
    first = last = -2
    before = ""
    for job_id, attempt in sorted(planned(record).items()):
        place, after = array_of.get(job_id), upstream.get(job_id)
        key = (attempt, place, id(after))  # jobs with the same upstream share it
        text = texts.get(key)
        if text is None:
            own = None if place is None else options[place]
            other = record.get("scheduler") if place is not None and record.get("scheduler") != "slurm" else None
            limit = record.get("job_timeout_min") if place is None else None
            runner, pruner = record.get("runner") or None, record.get("pruner")
            order = Order(attempt, own, runner, record["cwd"], other, limit, pruner, after)
            text = texts[key] = json.dumps(order.body, ensure_ascii=False)
        if job_id != last + 1 or text != before:
            if before:
                yield first, last, before
            first, before = job_id, text
        last = job_id
    if before:
        yield first, last, before
    if record.get("search_from") is not None:  # whatever is proposed runs as all others do
        own = options[0] if options else None
        other = record.get("scheduler") if options and record.get("scheduler") != "slurm" else None
        limit = record.get("job_timeout_min") if own is None else None
        order = Order(1, own, None, record["cwd"], other, limit, record.get("pruner"))
        yield record["search_from"], _ANY_LATER, json.dumps(order.body, ensure_ascii=False)
