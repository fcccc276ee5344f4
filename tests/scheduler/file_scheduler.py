"""A scheduler whose queue is a folder and whose tasks are real processes. It needs neither root nor a cluster, and it
can be told to lie, stall, forget, answer twice, and lose what it runs.

    <root>/<id>/array.json     what was submitted: name, tasks, throttle, user, after
    <root>/<id>/7.0.json       the first run of task 7: its word, process, start, end
    <root>/<id>/7.log          what it printed
    <root>/faults.json         what it is to do wrong now: {"stalls": true, "refuses": "no more today", ...}

Each array is run by a process of its own, `python file_scheduler.py <root>/<id>`.
"""

import getpass
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_manager.errors import OptionsError, SchedulerError
from experiment_manager.model.healing import checked_rule
from experiment_manager.model.ids import RangeSet, parse_ids
from experiment_manager.model.records import State, Task
from experiment_manager.scheduler.arrays import Array
from experiment_manager.scheduler.protocol import Scheduler, Stop
from experiment_manager.scheduler.records import NOTHING, Dependency, Phase, Place, QueueRow, Run
from experiment_manager.store.files import PATIENCE_VARIABLE, write_json

if TYPE_CHECKING:
    from experiment_manager.testing import Jobs

ROOT = "FILE_SCHEDULER_ROOT"
LOOK_S = 0.02
KILL_WAIT_S = 3.0


class FileOptions(NamedTuple):
    """The options of its jobs."""

    name: str | None = None
    pack: int | None = None
    array_parallelism: int | None = None
    workers: int | None = None
    resources_from: str | None = None
    max_retries: int | None = None
    start_method: str | None = None
    gpus_per_job: float | None = None
    limit_s: float | None = None  # a task is killed after so many seconds
    mem_gb: float | None = None  # nobody looks: a task is told to end as OUT_OF_MEMORY
    on_oom: Mapping[str, Any] | None = None
    on_timeout: Mapping[str, Any] | None = None
    exclude: str | None = None
    exclude_after: int | None = None
    max_requeues: int | None = None
    wait: bool = False


class FileScheduler(Scheduler):
    """The queue is a folder, which the environment names."""

    name = "file"
    label = "the file scheduler"
    submit_command = "file-submit"
    order_s = 2.0

    @property
    def root(self) -> Path:
        return Path(os.environ[ROOT])

    def options(self, values: Mapping[str, Any], *, where: str) -> FileOptions:
        if unknown := sorted(set(values) - set(FileOptions._fields)):
            raise OptionsError(
                f"{where}: unknown option {unknown[0]!r}; the options are {', '.join(FileOptions._fields)}"
            )
        set_ = {name: value for name, value in values.items() if value is not None}
        rules = {"on_oom": "mem_gb", "on_timeout": "limit_s"}
        return FileOptions(**{**set_, **{name: checked_rule(set_[name], rules[name]) for name in rules.keys() & set_}})

    def kept(self, options: Any) -> dict[str, Any]:
        return {name: value for name, value in options._asdict().items() if value not in (None, False)}

    def script(self, array: Array, place: Place) -> str:
        about = {"name": place.job_name, "tasks": array.text, "limit_s": array.options.limit_s, "logs": place.logs}
        table = {str(index): word for index, word in array.words.items()}
        return json.dumps({**about, "jobs": table, "run": place.command(array)}, indent=1) + "\n"

    # ---- from any machine

    def faults(self) -> dict[str, Any]:
        with suppress(FileNotFoundError):
            found: dict[str, Any] = json.loads((self.root / "faults.json").read_text())
            return found
        return {}

    def require(self) -> None:
        if ROOT not in os.environ or not self.root.is_dir():
            raise SchedulerError("the folder of the queue is not there", words="no queue")

    def cluster(self) -> str | None:
        found: str | None = self.faults().get("cluster")
        return found

    def asked(self) -> frozenset[str]:
        return frozenset({self.cluster() or "here"})

    def why_unasked(self, clusters: Collection[str | None]) -> str | None:
        names = {cluster or "here" for cluster in clusters}
        is_asked = not names or not names.isdisjoint(self.asked())
        return None if is_asked else f"{self.cluster()} is asked, {clusters} has the jobs"

    def _answer(self) -> dict[str, Any]:
        self.require()
        faults = self.faults()
        if faults.get("stalls"):
            raise SchedulerError("no answer from the queue", words="no answer")
        return faults

    def submit(self, script: str, after: Dependency = NOTHING) -> str:
        faults = self.faults()
        if words := faults.get("refuses"):
            raise SchedulerError(f"refused: {words}", words=words)
        self.require()
        about = json.loads(Path(script).read_text())
        about |= {"script": script, "text": json.dumps(about), "name": faults.get("renames", about["name"])}
        number = next(number for number in range(1, 10**6) if self._made(self.root / str(number)))
        write_json(
            str(self.root / str(number) / "array.json"),
            {**about, "user": getpass.getuser(), "after": after.ended, "cwd": os.getcwd()},
        )
        ours = {name for name in os.environ if name.startswith("EXPERIMENT_MANAGER_")} - {PATIENCE_VARIABLE}
        environ = {name: value for name, value in os.environ.items() if name not in ours}
        subprocess.Popen(
            [sys.executable, __file__, str(self.root / str(number))],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True, env=environ,
        )  # fmt: skip
        if faults.get("times_out_after_accepting"):
            raise SchedulerError("no answer in time", words="no answer", is_doubtful=True)
        return str(number)

    @staticmethod
    def _made(path: Path) -> bool:
        try:
            path.mkdir()
        except FileExistsError:
            return False
        return True

    def _arrays(self) -> list[tuple[str, dict[str, Any]]]:
        found = []
        for path in sorted(self.root.iterdir(), key=lambda path: path.name.zfill(9)):
            with suppress(FileNotFoundError, NotADirectoryError):
                found.append((path.name, json.loads((path / "array.json").read_text())))
        return found

    def _runs(self, array: str, index: int) -> list[dict[str, Any]]:
        paths = (self.root / array).glob(f"{index}.*.json")
        return [json.loads(path.read_text()) for path in sorted(paths, key=lambda path: int(path.name.split(".")[1]))]

    def queue(self, users: Iterable[str]) -> Sequence[QueueRow]:
        faults, wanted, rows = self._answer(), set(users), []
        for array, about in self._arrays():
            if (wanted and about["user"] not in wanted) or about["name"] in faults.get("forgets", ()):
                continue
            for index in indices_of(about):
                row = self._row(array, about, index, self._runs(array, index))
                rows += [row] if row is not None else []
        return rows * 2 if faults.get("answers_twice") else rows

    def _row(self, array: str, about: Mapping[str, Any], index: int, runs: list[dict[str, Any]]) -> QueueRow | None:
        if (self.root / array / f"{index}.gone").exists():
            return None
        last: dict[str, Any] = runs[-1] if runs else {"word": "WAITING", "start": None}
        phases = {"WAITING": Phase.WAITING, "RUNNING": Phase.RUNNING, "ENDING": Phase.ENDING}
        phase = phases.get(last["word"], Phase.ENDED)
        if phase is Phase.ENDED and time.time() - last["end"] > 1.0:
            return None  # the queue forgets soon
        end = State(last["word"]) if phase is Phase.ENDED else None
        tasks = RangeSet([range(index, index + 1)])
        name, start, user, script = about["name"], last["start"], about["user"], about["script"]
        is_held = (self.root / array / f"{index}.held").exists()
        reason = "held" if is_held else self.faults().get("holds_for", "Priority")
        return QueueRow(name, array, tasks, phase, end, last["word"], reason, start, user, script=script)

    def never_begins(self, reason: str) -> bool:
        return reason != "Priority"

    def may_pass(self, reason: str) -> bool:
        return reason == "its account is not known"

    def way_out(self, reason: str) -> str:
        return "ask them to let it go" if self.never_begins(reason) else ""

    def queue_of(self, array: str) -> Sequence[QueueRow]:
        return [row for row in self.queue(()) if row.array == array]

    def history_of(self, array: str, since: float) -> Sequence[Run] | None:
        runs = self._history({about["name"] for _, about in self._arrays()})
        return None if runs is None else [run for run in runs if run.array == array]

    def script_of(self, array: str) -> str | None:
        return str(dict(self._arrays())[array]["text"])

    def history(self, names: Iterable[str], since: float) -> Sequence[Run] | None:
        """What never began is not in it, as it may happen on SLURM."""
        runs = self._history(names)
        return None if runs is None else [run for run in runs if run.start is not None]

    def _history(self, names: Iterable[str]) -> Sequence[Run] | None:
        faults, wanted = self._answer(), set(names)
        if faults.get("no_history"):
            return None
        if words := faults.get("keeps_history_to_itself"):
            raise SchedulerError(f"the history refused: {words}", words=words)
        return [
            Run(about["name"], array, index, None, None if run["end"] is None else State(run["word"]), run["word"],
                exit_code=run.get("status") or 0, start=run["start"], end_time=run["end"], node=os.uname().nodename)
            for array, about in self._arrays()
            if about["name"] in wanted and about["name"] not in faults.get("forgets", ())
            for index in indices_of(about)
            for run in self._runs(array, index)
            if run["word"] != "WAITING"
        ]  # fmt: skip

    def cancel(self, tasks: Iterable[tuple[str, int]]) -> None:
        self._answer()
        for array, index in tasks:
            self.order(array, index, "CANCELLED")

    def order(self, array: str, index: int, word: str) -> None:
        """The task is to end with that word: CANCELLED, TIMEOUT, PREEMPTED (and starts again), NODE_FAIL (at once)."""
        (self.root / array / f"{index}.order").write_text(word)

    def hold(self, tasks: Iterable[tuple[str, int]]) -> None:
        self._answer()
        for array, index in tasks:
            (self.root / array / f"{index}.held").touch()

    def release(self, tasks: Iterable[tuple[str, int]]) -> None:
        self._answer()
        for array, index in tasks:
            (self.root / array / f"{index}.held").unlink(missing_ok=True)

    def end_in_log(self, text: str) -> State | None:
        found = re.findall(r"^file-scheduler: ended as (\w+)$", text, re.MULTILINE)
        return State(found[-1]) if found else None

    # ---- inside of a task

    def task(self, environ: Mapping[str, str]) -> Task | None:
        if "FILE_TASK" not in environ:
            return None
        array, index, restart = environ["FILE_TASK"].split(":")
        here = node_of(environ), getpass.getuser(), self.cluster()
        return Task("file", f"{array}.{index}", array, int(index), int(restart), *here)

    def why_stopped(self, task: Task) -> Stop:
        if self.faults().get("breaks_inside"):
            raise ValueError("broken, as it was told to be")
        with suppress(OSError):
            return Stop(State((self.root / str(task.array) / f"{task.array_index}.why").read_text()), KILL_WAIT_S)
        return Stop(State.CANCELLED, KILL_WAIT_S)

    def ends_at(self, task: Task) -> float | None:
        about = json.loads((self.root / str(task.array) / "array.json").read_text())
        run = self._runs(str(task.array), task.array_index or 0)[task.restart]
        return float("inf") if about["limit_s"] is None else float(run["start"] + about["limit_s"])

    def has_ended(self, task: Task) -> bool:
        runs = self._runs(str(task.array), task.array_index or 0)
        return len(runs) > task.restart + 1 or (len(runs) > task.restart and runs[task.restart]["end"] is not None)

    def requeue(self, task: Task) -> str | None:
        (self.root / str(task.array) / f"{task.array_index}.again").touch()
        return None


def node_of(environ: Mapping[str, str]) -> str:
    """The node of a task, or where we are."""
    return environ.get("FILE_NODE") or os.uname().nodename


def indices_of(about: Mapping[str, Any]) -> list[int]:
    return list(parse_ids(about["tasks"].partition("%")[0]))


def wrong(**faults: Any) -> None:
    """From now on the scheduler does these things wrong, and no others."""
    (FileScheduler().root / "faults.json").write_text(json.dumps(faults))


def order(jobs: "Jobs", job_id: int, word: str, attempt: int = 1) -> None:
    """The task of an attempt is to end with that word, see `FileScheduler.order`."""
    task = jobs.task(job_id, attempt)
    FileScheduler().order(str(task.array), task.array_index or 0, word)


def begun(jobs: "Jobs", *configurations: dict[str, Any], **options: Any) -> "Jobs":
    """Jobs that last until they are let go, and have begun."""
    jobs.make(*(configurations or ({"seconds": 180.0},)), **options).submit()
    jobs.wait_until(lambda: all(jobs.has_begun(job_id) for job_id in range(len(configurations) or 1)))
    return jobs


# ---------------------------------------------------------------- the process that runs an array


class Running(NamedTuple):
    process: "subprocess.Popen[bytes]"
    restart: int
    started: float


class Runner:
    """Runs the tasks of one array, so many at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.about: dict[str, Any] = json.loads((path / "array.json").read_text())
        throttle = self.about["tasks"].partition("%")[2]
        self.most = int(throttle) if throttle else 8
        self.waiting = [(index, 0) for index in indices_of(self.about)]
        self.running: dict[int, Running] = {}
        self.ending: dict[int, tuple[str, float]] = {}

    def run(self) -> None:
        while self.waiting or self.running:
            for index in {*dict(self.waiting), *self.running}:
                self._obey(index)
            for index, running in list(self.running.items()):
                self._look(index, running)
            free = [one for one in self.waiting if not (self.path / f"{one[0]}.held").exists()]
            for one in free[: max(0, self.most - len(self.running))] if self._may_begin() else ():
                self.waiting.remove(one)
                self._begin(*one)
            time.sleep(LOOK_S)

    def _may_begin(self) -> bool:
        if (self.path.parent / "hold").exists():
            return False
        return all(map(self._has_ended, self.about["after"]))

    def _has_ended(self, name: str) -> bool:
        array, _, index = name.partition("_")
        before = self.path.parent / array
        tasks = [int(index)] if index else indices_of(json.loads((before / "array.json").read_text()))
        ended = {int(path.name.split(".")[0]) for path in before.glob("*.json") if path.name != "array.json"
                 and json.loads(path.read_text())["end"] is not None}  # fmt: skip
        return ended >= set(tasks)

    def _note(self, index: int, restart: int, word: str, **about: Any) -> None:
        write_json(str(self.path / f"{index}.{restart}.json"), {"word": word, "start": None, "end": None, **about})

    def _begin(self, index: int, restart: int) -> None:
        log = open(Path(self.about["logs"]) / f"{self.path.name}_{index}.log", "ab")  # noqa: SIM115
        environ = {**os.environ, "EXPERIMENT_MANAGER_SCHEDULER": "file"}
        environ["FILE_TASK"] = f"{self.path.name}:{index}:{restart}"
        environ["FILE_NODE"] = str(FileScheduler().faults().get("node", node_of(os.environ)))
        command = [*self.about["run"], self.about["jobs"][str(index)]]
        process = subprocess.Popen(
            command, env=environ, cwd=self.about["cwd"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        log.close()
        self.running[index] = Running(process, restart, time.time())
        self._note(index, restart, "RUNNING", start=time.time(), pid=process.pid)

    def _obey(self, index: int) -> None:
        path = self.path / f"{index}.order"
        running = self.running.get(index)
        word = path.read_text() if path.exists() else ""
        if running is not None and self.about["limit_s"] and time.time() - running.started > self.about["limit_s"]:
            word = word or "TIMEOUT"
        if not word or index in self.ending:
            return
        path.unlink(missing_ok=True)
        if running is None:
            restart = dict(self.waiting)[index]
            self.waiting = [(other, restart) for other, restart in self.waiting if other != index]
            if word == "TIMEOUT":  # it has met its deadline
                self._note(index, restart, word, end=time.time())
            else:
                (self.path / f"{index}.gone").touch()  # as on SLURM, nothing tells of it later
            return
        (self.path / f"{index}.why").write_text(word)
        self.ending[index] = (word, time.time() + KILL_WAIT_S)
        if word == "NODE_FAIL":
            self._kill_all(running)
        else:
            running.process.send_signal(signal.SIGTERM)

    def _kill_all(self, running: Running) -> None:
        """A node that is lost takes all processes of its task along, those of the job in sessions of their own, and
        none of another queue's, whose arrays have the same numbers."""
        ours = {f"{ROOT}={self.path.parent}".encode(), f"FILE_TASK={self._task_of(running)}".encode()}
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if ours <= set(path.read_bytes().split(b"\0")):
                    os.kill(int(path.parent.name), signal.SIGKILL)

    def _task_of(self, running: Running) -> str:
        index = next(index for index, one in self.running.items() if one is running)
        return f"{self.path.name}:{index}:{running.restart}"

    def _look(self, index: int, running: Running) -> None:
        word, kill_at = self.ending.get(index, ("", 0.0))
        if running.process.poll() is None:
            if word and time.time() > kill_at:
                self._kill_all(running)
            return
        del self.running[index]
        self.ending.pop(index, None)
        status = running.process.returncode
        word = word or ("COMPLETED" if status == 0 else "FAILED")
        again = self.path / f"{index}.again"
        self._note(index, running.restart, word, start=running.started, end=time.time(), status=max(status, 0))
        if word in ("PREEMPTED", "NODE_FAIL") or again.exists():
            again.unlink(missing_ok=True)
            self.waiting.append((index, running.restart + 1))
            self._note(index, running.restart + 1, "WAITING")
        elif word not in ("COMPLETED", "FAILED"):
            with open(Path(self.about["logs"]) / f"{self.path.name}_{index}.log", "a") as log:
                log.write(f"file-scheduler: ended as {word}\n")


if __name__ == "__main__":
    Runner(Path(sys.argv[1])).run()
