"""The smallest scheduler that keeps the contract: a queue in SQLite, no history, and a process for each array."""

import getpass
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from experiment_manager.errors import OptionsError, SchedulerError
from experiment_manager.model.ids import RangeSet
from experiment_manager.model.records import State, Task
from experiment_manager.scheduler.arrays import Array
from experiment_manager.scheduler.protocol import Scheduler, Stop
from experiment_manager.scheduler.records import NOTHING, Dependency, Phase, Place, QueueRow, Run

ROOT = "TABLE_SCHEDULER_ROOT"
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS arrays (id INTEGER PRIMARY KEY AUTOINCREMENT)",  # no id is given twice
    """CREATE TABLE IF NOT EXISTS tasks (array INTEGER, place INTEGER, name TEXT, user TEXT,
    word TEXT DEFAULT 'waiting', start REAL, is_wanted INTEGER DEFAULT 1)""",
)


@contextmanager
def queue_of(root: str | Path) -> Any:
    if not Path(root).is_dir():
        raise SchedulerError("the folder of the queue is not there", words="no queue")
    with closing(sqlite3.connect(Path(root) / "queue.sqlite", timeout=30, isolation_level="IMMEDIATE")) as found, found:
        for statement in SCHEMA:
            found.execute(statement)
        yield found


class TableOptions(NamedTuple):
    """The options of its jobs."""

    name: str | None = None
    pack: int | None = None
    array_parallelism: int | None = None
    workers: int | None = None
    resources_from: str | None = None


class TableScheduler(Scheduler):
    """The folder of the queue is named in the environment."""

    name = "table"
    label = "the table"

    def options(self, values: Mapping[str, Any], *, where: str) -> TableOptions:
        if unknown := sorted(set(values) - set(TableOptions._fields)):
            raise OptionsError(f"{where}: there is no option {unknown[0]}")
        return TableOptions(**values)

    def kept(self, options: Any) -> dict[str, Any]:
        return {name: value for name, value in options._asdict().items() if value is not None}

    def script(self, array: Array, place: Place) -> str:
        about = {"name": place.job_name, "run": place.command(array), "jobs": array.words}
        return json.dumps({**about, "most": array.throttle or 8}) + "\n"

    def require(self) -> None:
        with queue_of(os.environ[ROOT]):
            pass

    def submit(self, script: str, after: Dependency = NOTHING) -> str:
        about = json.loads(Path(script).read_text())
        with queue_of(os.environ[ROOT]) as queue:
            array = queue.execute("INSERT INTO arrays DEFAULT VALUES").lastrowid
            for index in about["jobs"]:
                row = (array, int(index), about["name"], getpass.getuser())
                queue.execute("INSERT INTO tasks (array, place, name, user) VALUES (?, ?, ?, ?)", row)
        command = [sys.executable, __file__, os.environ[ROOT], str(array), script, *after.ended]
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
        return str(array)

    def queue(self, users: Iterable[str]) -> Sequence[QueueRow]:
        with queue_of(os.environ[ROOT]) as queue:
            rows = queue.execute(
                "SELECT array, place, name, user, word, start FROM tasks ORDER BY array, place"
            ).fetchall()
        return [
            QueueRow(name, str(array), RangeSet([range(place, place + 1)]), Phase(word), None, word, "", start, user)
            for array, place, name, user, word, start in rows
            if user in users or not users
        ]

    def history(self, names: Iterable[str], since: float) -> Sequence[Run] | None:
        return None

    def cancel(self, tasks: Iterable[tuple[str, int]]) -> None:
        with queue_of(os.environ[ROOT]) as queue:
            for task in tasks:
                queue.execute("UPDATE tasks SET is_wanted = 0 WHERE array = ? AND place = ?", task)

    def task(self, environ: Mapping[str, str]) -> Task | None:
        if "TABLE_TASK" not in environ:
            return None
        array, _, index = environ["TABLE_TASK"].partition(".")
        return Task(self.name, environ["TABLE_TASK"], array, int(index), user=getpass.getuser())

    def why_stopped(self, task: Task) -> Stop:
        return Stop(State.CANCELLED, 5.0)

    def has_ended(self, task: Task) -> bool:
        with queue_of(os.environ[ROOT]) as queue:
            row = (task.array, task.array_index)
            return queue.execute("SELECT 1 FROM tasks WHERE array = ? AND place = ?", row).fetchone() is None


def run_array(root: str, array: str, script: str, *after: str) -> None:
    about = json.loads(Path(script).read_text())
    running: dict[int, subprocess.Popen[bytes]] = {}
    while True:
        with queue_of(root) as queue:
            rows = queue.execute("SELECT place, word, is_wanted FROM tasks WHERE array = ?", (array,)).fetchall()
            left = {str(one) for row in queue.execute("SELECT array, array || '_' || place FROM tasks") for one in row}
            for place, word, is_wanted in rows:
                process = running.get(place)
                if process is not None and process.poll() is None:
                    if not is_wanted and word != "ending":
                        process.send_signal(signal.SIGTERM)
                        queue.execute("UPDATE tasks SET word = 'ending' WHERE array = ? AND place = ?", (array, place))
                elif process is not None or not is_wanted:
                    running.pop(place, None)
                    queue.execute("DELETE FROM tasks WHERE array = ? AND place = ?", (array, place))
                elif len(running) < about["most"] and left.isdisjoint(after):
                    running[place] = begin(about, array, place)
                    row = ("running", time.time(), array, place)
                    queue.execute("UPDATE tasks SET word = ?, start = ? WHERE array = ? AND place = ?", row)
        if not rows:
            return
        time.sleep(0.03)


def begin(about: Mapping[str, Any], array: str, place: int) -> "subprocess.Popen[bytes]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EXPERIMENT_MANAGER_")}
    environ = {**kept, "EXPERIMENT_MANAGER_SCHEDULER": "table", "TABLE_TASK": f"{array}.{place}"}
    return subprocess.Popen([*about["run"], about["jobs"][str(place)]], env=environ, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    run_array(*sys.argv[1:])
