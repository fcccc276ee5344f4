"""What a process of a job is told in its environment: which attempt it is, and which of several processes.

A sweep is one process, and a job begins as one, or as those that a scheduler makes of it: whoever started them tells
each its rank in the environment. A rank that was there before would let jobs of different configurations meet, or keep
their results to themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from experiment_manager.scheduler.schedulers import BUILT_IN
from experiment_manager.store.layout import Folder
from experiment_manager.store.processes import ATTEMPT_VARIABLE, FOLDER_VARIABLE, JOB_VARIABLE
from experiment_manager.typing_names import Any, Final

PRUNER_VARIABLE: Final = "EXPERIMENT_MANAGER_PRUNER"
_LAUNCHERS: Final = (
    ("RANK", ("WORLD_SIZE",)),  # torchrun, deepspeed, accelerate
    *((scheduler.rank_variable, scheduler.size_variables) for scheduler in BUILT_IN),
    ("OMPI_COMM_WORLD_RANK", ("OMPI_COMM_WORLD_SIZE",)),
    ("MV2_COMM_WORLD_RANK", ("MV2_COMM_WORLD_SIZE",)),
    ("PMI_RANK", ("PMI_SIZE",)),  # MPICH, Intel MPI
    ("PMIX_RANK", ("PMIX_SIZE",)),
    ("PALS_RANKID", ("PALS_SIZE",)),
    ("FLUX_TASK_RANK", ("FLUX_JOB_SIZE",)),
    ("JSM_NAMESPACE_RANK", ("JSM_NAMESPACE_SIZE",)),
    ("HOROVOD_RANK", ("HOROVOD_SIZE",)),
)
"""The variable that tells the rank, and those that tell of how many; the first that is there counts."""

_LOCAL: Final = ("LOCAL_RANK", "NODE_RANK")
"""What tells it where nothing else does: Lightning starts its processes so."""

_NAMES: Final = (
    r"((LOCAL|GROUP|NODE|ROLE)_)?RANK|ROLE_NAME|((LOCAL|GROUP|ROLE)_)?WORLD_SIZE|MASTER_(ADDR|PORT)|TORCHELASTIC_\w+"
    + "".join(f"|{scheduler.rank_names}" for scheduler in BUILT_IN)
    + r"|OMPI_(COMM_WORLD_\w+|UNIVERSE_SIZE|MCA_(ess|orte)\w*)|MV2_COMM_WORLD_\w+|MPI_LOCAL(RANKID|NRANKS)"
    r"|PMI_\w+|PMIX_(?!MCA_)\w+|PALS_\w+|FLUX_TASK_\w+|FLUX_JOB_(SIZE|NNODES)|JSM_NAMESPACE_\w+"
    r"|HOROVOD_((LOCAL_|CROSS_)?(RANK|SIZE)|GLOO_\w+|CONTROLLER)"
)
"""Every variable by which processes of one program know and find each other; compiled for those who ask."""


def of_attempt(
    folder: Folder,
    job_id: int,
    attempt: int,
    *,
    pruner: Mapping[str, Any] | None = None,
    since: int | None = None,
) -> dict[str, str]:
    """The variables that tell a process which attempt it is, and what prunes it in a launch whose first attempt of the
    job has the number `since`."""
    told = {} if pruner is None else {PRUNER_VARIABLE: json.dumps({**pruner, "since": since or 1})}
    return {FOLDER_VARIABLE: folder.path, JOB_VARIABLE: str(job_id), ATTEMPT_VARIABLE: str(attempt), **told}


def one_of_several(environ: Mapping[str, str]) -> str | None:
    """Which of several this process is, as `rank 1 of 4 (RANK, WORLD_SIZE)`; None for one that is alone.

    >>> one_of_several({"RANK": "1", "WORLD_SIZE": "4"}), one_of_several({"RANK": "1"})
    ('rank 1 of 4 (RANK, WORLD_SIZE)', None)

    A batch script and the shell of `salloc` are told the tasks that their job may have, and are alone.

    >>> one_of_several({BUILT_IN[0].rank_variable: "0", BUILT_IN[0].size_variables[-1]: "4"})
    """
    for name, sizes in _LAUNCHERS:
        rank, size_name = environ.get(name), next((size for size in sizes if size in environ), None)
        if not rank or size_name is None or not environ[size_name].isdigit() or int(environ[size_name]) < 2:
            continue
        if any(name == scheduler.rank_variable and scheduler.is_before_ranks(environ) for scheduler in BUILT_IN):
            continue
        return f"rank {rank} of {environ[size_name]} ({name}, {size_name})"
    return None


def other_than_first(environ: Mapping[str, str]) -> str | None:
    """Which rank this process is, as `rank 1 (RANK)`; None for the first, and for a process that has none.

    >>> other_than_first({"RANK": "0", "PMI_RANK": "1"}), other_than_first({"LOCAL_RANK": "1"})
    (None, 'rank 1 (LOCAL_RANK)')
    """
    if environ.get("RANK"):  # torchrun numbers its processes anew, wherever it runs
        return None if environ["RANK"] == "0" else f"rank {environ['RANK']} (RANK)"
    for name in (*(name for name, _ in _LAUNCHERS), *_LOCAL):
        if environ.get(name, "0") not in ("", "0"):
            return f"rank {environ[name]} ({name})"
    return None


def is_of_ranks(name: str) -> bool:
    """Whether an environment variable tells one of several processes about itself and the others."""
    return re.fullmatch(_NAMES, name) is not None


def is_of_a_scheduler(name: str) -> bool:
    """Whether a scheduler tells its tasks this variable of ranks."""
    return any(re.fullmatch(scheduler.rank_names, name) for scheduler in BUILT_IN if scheduler.rank_names)


def without_ranks(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that is alone.

    >>> without_ranks({"RANK": "1", "MASTER_PORT": "29500", "PMI_RANK": "0", "LANG": "C"})
    {'LANG': 'C'}
    """
    return {name: value for name, value in environ.items() if not is_of_ranks(name)}


def of_a_task(environ: Mapping[str, str], *, is_alone: bool) -> dict[str, str]:
    """The environment of a job that a scheduler runs: what its script has set stays, as MASTER_ADDR; a rank that came
    along from the shell that submitted it does not.

    What starts several ranks tells them theirs itself; a job that is alone has none, or, where its script says so, the
    first.

    >>> of_a_task({"RANK": "1", "MASTER_ADDR": "n1", "PMI_RANK": "0"}, is_alone=True)
    {'MASTER_ADDR': 'n1', 'PMI_RANK': '0'}
    """
    of_schedulers = {scheduler.rank_variable for scheduler in BUILT_IN}
    told = ({name for name, _ in _LAUNCHERS} - of_schedulers) | set(_LOCAL)
    return {name: value for name, value in environ.items() if name not in told or (is_alone and value == "0")}
