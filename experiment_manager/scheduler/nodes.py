"""The nodes of a cluster: on which of them jobs die at their start, and how others stay away from those."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from experiment_manager.model.healing import AT_ITS_START_S, Beginning, bad_nodes
from experiment_manager.model.records import ENDED_WELL, JobId, State
from experiment_manager.scheduler.protocol import Scheduler
from experiment_manager.scheduler.records import Options
from experiment_manager.store.documents import END, read_optional
from experiment_manager.store.layout import Folder
from experiment_manager.store.states import States, node_of, scheduler_in
from experiment_manager.text import tell

_AT_FAULT: Final = frozenset({State.FAILED, State.LOST, State.NODE_FAIL})
"""What an attempt that died at its start may have come to, if its node is to blame."""


def nodes_left_out(folder: Folder, options: Mapping[str, Any]) -> Sequence[str]:
    """The nodes that get no job of a launch with these options, since jobs have died there at their start; people are
    told of each."""
    after = options.get("exclude_after")
    if after is None:
        return ()
    found = bad_nodes(beginnings(folder), after)
    for node, count in found.items():
        died = "1 job has died there at its start" if count == 1 else f"{count} jobs have died there at their start"
        tell(f"{node} is left out: {died} (exclude_after={after})")
    return tuple(found)


def elsewhere(scheduler: Scheduler, options: Options, nodes: Sequence[str]) -> Options:
    """The options by which a job goes to none of these nodes."""
    if not nodes:
        return options
    kept = scheduler.kept(options)
    before = [kept["exclude"]] if kept.get("exclude") else []
    known = ",".join(before).split(",")
    names = [*before, *(node for node in nodes if node not in known)]
    return scheduler.options({**kept, "exclude": ",".join(names)}, where=f"{scheduler.label} options")


def beginnings(folder: Folder) -> list[Beginning]:
    """How the attempts that a scheduler has run got over their start. Of those that ended before it was over for
    another reason than a fault, as for want of memory, nothing is said.

    Reads the records of those that may have died so, and of the others where some have.
    """
    states = States(folder)
    table = states.table()
    attempts = [(job_id, *one) for job_id, numbers in table.attempts.items() for one in numbers.items()]
    died = [_beginning(folder, states, *one) for one in attempts if one[2] in _AT_FAULT]
    if not any(one is not None and one.has_died for one in died):
        return []
    others = [_beginning(folder, states, *one) for one in attempts if one[2] not in _AT_FAULT]
    return [one for one in (*died, *others) if one is not None]


def _beginning(folder: Folder, states: States, job_id: JobId, number: int, state: State) -> Beginning | None:
    anchor = states.record(job_id, number)
    node = node_of(anchor)
    if scheduler_in(anchor) is None or node is None:
        return None
    if "unbegun" in anchor:
        if state not in _AT_FAULT:
            return None
        return Beginning(node, job_id, os.stat(folder.join("states", f"{job_id}.{number}")).st_mtime, has_died=True)
    end = read_optional(folder.of_attempt(job_id, number, "attempt"), END).get("end")
    until = time.time() if state is State.RUNNING else end
    start = anchor.get("start")
    lasted = None if start is None or until is None else until - start
    if state is State.FAILED and lasted is not None and lasted < AT_ITS_START_S:
        return Beginning(node, job_id, until or 0.0, has_died=True)
    if state in ENDED_WELL or (lasted is not None and lasted >= AT_ITS_START_S):
        return Beginning(node, job_id, until or start or 0.0, has_died=False)
    return None
