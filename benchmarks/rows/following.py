"""Results, metrics and status of 10,000 jobs that have all completed, each with a result and 100 lines of metrics.

The files are those that jobs leave, and the caches of the machine hold them: on a network file system each file that is
opened costs a round trip more, so what is opened is counted, too.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.place import PROGRAMS, Place, planned
from benchmarks.rows.planning import grid
from benchmarks.table import Line, absent, is_installed
from benchmarks.timing import Measured, take_turns
from experiment_manager.model.records import State
from experiment_manager.store.files import write_json
from experiment_manager.store.layout import Folder
from experiment_manager.store.processes import this_process

N_LINES = 100
FEW_S, STATUS_S = 5.0, 1.0
BY_HAND = "a loop with `json.loads` and `pd.read_json(.., lines=True)`"
RESULT, METRICS = "result.1.json", "metrics.1.jsonl"


def lines(place: Place) -> Iterator[Line]:
    if not is_installed("pandas"):
        yield absent("results and metrics", "pandas")
        return
    n_jobs = place.size(10_000, 200)
    where = place.fresh("following")
    planned(place, place.demo(), where, grid(n_jobs))
    folder = where / "it"
    print(f"  writing what {n_jobs:,} jobs leave", file=sys.stderr, flush=True)
    write_jobs(Folder.at(folder), n_jobs)

    def run(*command: str | Path) -> Callable[[], float]:
        return lambda: place.python(*command, cwd=where).seconds

    def ours(verb: str, *options: str) -> Callable[[], float]:
        return run("-m", "experiment_manager", verb, folder, *options)

    took = take_turns(
        {
            "results": ours("results"),
            "--json": ours("results", "--json"),
            "exp.results()": run(PROGRAMS / "in_python.py", folder, "results"),
            "exp.metrics()": run(PROGRAMS / "in_python.py", folder, "metrics"),
            "status": ours("status"),
            "results by hand": run(PROGRAMS / "by_hand.py", folder, "results"),
            "metrics by hand": run(PROGRAMS / "by_hand.py", folder, "metrics"),
            "read both": run(PROGRAMS / "read_files.py", folder, RESULT, METRICS),
            "read metrics": run(PROGRAMS / "read_files.py", folder, METRICS),
            "list": run(PROGRAMS / "list_names.py", folder / "states"),
        },
        rounds=place.rounds,
    )
    of = f"of {n_jobs:,} jobs with {N_LINES} lines of metrics each"
    floor = "bare Python that opens and reads the same files"
    for name, what in (("results", "`results`"), ("--json", "`results --json`"), ("exp.results()", "`exp.results()`")):
        for peer, rival in ((BY_HAND, "results by hand"), (floor, "read both")):
            yield Line(what=f"{what} {of}", ours=took[name], peer=peer, theirs=took[rival], limit=FEW_S)
    for peer, rival in ((BY_HAND, "metrics by hand"), (floor, "read metrics")):
        what = f"`exp.metrics()` {of}, two values a line"
        yield Line(what=what, ours=took["exp.metrics()"], peer=peer, theirs=took[rival], limit=2 * FEW_S)
    output = place.python(PROGRAMS / "counted.py", "results", folder, cwd=where).output
    opened = Measured((json.loads(output.splitlines()[-1])["opened"] / n_jobs,), "")
    yield Line(what=f"`results` {of}: files opened for each job", ours=opened, limit=2 + 10 / n_jobs)
    peer = "bare Python that lists the folder of the states"
    yield Line(what=f"`status` {of}", ours=took["status"], peer=peer, theirs=took["list"], limit=STATUS_S)


def write_jobs(folder: Folder, n_jobs: int) -> None:
    """What jobs leave that have completed; not for good, which would take minutes."""
    anchor = json.dumps({**this_process(), "start": time.time(), "launch": "0001"})
    os.makedirs(folder.states, exist_ok=True)
    for job_id in range(n_jobs):
        name = os.path.join(folder.states, f"{job_id}.1")
        Path(name).write_text(anchor)
        os.link(name, f"{name}.{State.COMPLETED}")
        os.makedirs(folder.job(job_id))
        write_json(
            folder.of_attempt(job_id, 1, "result"), {"result": -150.0 - job_id / 100, "told": False}, for_good=False
        )
        logged = "".join(_line(job_id, step) for step in range(N_LINES))
        Path(folder.of_attempt(job_id, 1, "metrics")).write_text(logged)


def _line(job_id: int, step: int) -> str:
    """What `log_metrics` writes."""
    values = {"episode_return": -1000.0 + step * 7.7 - job_id / 10, "critic_loss": 1.0 / (step + 1)}
    return json.dumps({"step": step, "time": 1.7e9 + step, "values": values}) + "\n"
