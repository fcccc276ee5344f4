"""`experiment-manager status` of 100,000 jobs in states of every kind.

Of a hundred jobs five are PENDING, one runs, one each is in every state that is no success, and the others have
completed. The files are those that jobs leave; the process that runs is this one.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.place import PROGRAMS, Place, planned
from benchmarks.rows.planning import grid
from benchmarks.table import Line
from benchmarks.timing import Measured, take_turns
from experiment_manager.model.records import ENDED, ENDED_BADLY, State
from experiment_manager.store.layout import Folder
from experiment_manager.store.processes import this_process

LIMIT_S, PERIOD, N_PENDING = 2.0, 100, 5


def lines(place: Place) -> Iterator[Line]:
    n_jobs = place.size(100_000, 1_000)
    where = place.fresh("status")
    planned(place, place.demo(), where, grid(n_jobs))
    folder = where / "it"
    print(f"  writing the states of {n_jobs:,} jobs", file=sys.stderr, flush=True)
    write_states(Folder.at(folder), n_jobs)
    took = take_turns(
        {
            "ours": lambda: place.python("-m", "experiment_manager", "status", folder, cwd=where).seconds,
            "limit": lambda: place.python(PROGRAMS / "list_names.py", folder / "states", cwd=where).seconds,
        },
        rounds=place.rounds,
    )
    what = f"`status` of {n_jobs:,} jobs in {len(State) - 1} states"
    peer = "bare Python that lists the folder of the states"
    yield Line(what=what, ours=took["ours"], peer=peer, theirs=took["limit"], limit=LIMIT_S)
    output = place.python(PROGRAMS / "counted.py", "status", folder, cwd=where).output
    listed = [path for path in json.loads(output.splitlines()[-1])["listed"] if Path(path).name == "states"]
    yield Line(what=f"{what}: how often the folder of the states is listed", ours=Measured((len(listed),), ""), limit=1)


def write_states(folder: Folder, n_jobs: int) -> None:
    """What jobs of every state leave behind."""
    others = [State.RUNNING, *sorted(ENDED - {State.COMPLETED})]
    anchor = json.dumps({**this_process(), "start": time.time(), "launch": "0001"})
    os.makedirs(folder.states, exist_ok=True)
    for job_id in range(n_jobs):
        place = job_id % PERIOD - N_PENDING
        if place < 0:
            continue
        state = others[place] if place < len(others) else State.COMPLETED
        os.makedirs(folder.job(job_id))
        name = os.path.join(folder.states, f"{job_id}.1")
        Path(name).write_text(anchor)
        os.link(name, f"{name}.{state}")
        if state in ENDED_BADLY:
            record = {"state": state, "reason": f"what {state.lower()} jobs say", "exit_code": 1}
            Path(folder.of_attempt(job_id, 1, "attempt")).write_text(json.dumps(record))
