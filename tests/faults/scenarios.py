"""The commands that faults are tried in: what lies there before, what is typed, what is typed again afterwards."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

PROGRAM: Final = Path(__file__).parent / "program"
"""Copied as a project of its own, of which PLACE stands for the folder: a snapshot has these files alone."""

PLACE: Final = "PROGRAM"

FOLDER: Final = "experiments/app"
MOVED: Final = "experiments/moved"
Words = tuple[str, ...]


class Scenario(NamedTuple):
    """A command, and what it is about."""

    command: Words
    before: tuple[Words, ...] = ()  # where x=9 fails, and x=8 is killed for memory; what is submitted has run
    again: Words | None = None  # typed after the fault, until it ends well; None: the same
    does_run: bool = True  # whether 0 says that all of its jobs have ended
    is_only_read: bool = False  # whether what it prints is what it is for
    is_submitted: bool = False  # whether jobs wait for the scheduler afterwards
    waits_before: bool = False  # whether what was submitted waits still, when the command is typed
    is_done_once: bool = False  # whether it refuses to do again what was done
    is_of_others: bool = False  # whether a library of others starts the jobs, whose words are its own
    beside: Words | None = None  # a sweep whose job waits here until the command ends it, and meets the same faults
    leaves_scripts: bool = False  # whether what it has written can be submitted afterwards, and runs
    makes: str | None = None  # the file that it is for, of which nothing differs from run to run
    is_typed_at_once: bool = False  # again, after a kill, while what the killed one has started may run still
    is_of_tasks: bool = False  # whether the faults meet what SLURM runs, not what people type
    is_preempted: bool = False  # whether each of these tasks has to make room, and is started again
    makes_new_jobs: bool = False  # each time that it is typed, as Hydra's sweeper, whose words are Hydra's, too


def sweep(*words: str) -> Words:
    """A multirun of the program."""
    return (f"{PLACE}/app.py", "-m", *words)


def verb(name: str, *words: str, folder: str = FOLDER) -> Words:
    """A command about the experiment."""
    return ("-m", "experiment_manager", name, folder, *words)


def _of_tasks(sweep: Words, *, is_preempted: bool = False) -> Scenario:
    """What SLURM runs of jobs that were submitted."""
    return Scenario(
        verb("submit"),
        (sweep, verb("submit")),
        does_run=False,
        waits_before=True,
        is_of_tasks=True,
        is_preempted=is_preempted,
    )


_POOL: Final = "hydra.launcher.n_jobs=2"
_ONE: Final = sweep("x=1", _POOL)
_FAILING: Final = sweep("x=1,9", _POOL)
_SCRIPT: Final = sweep("x=1", "hydra/launcher=slurm_script")
_TWO_TO_RUN: Final = sweep("x=1,2", "hydra/launcher=slurm_script")
_FAILED_ON_SLURM: Final = (sweep("x=9", "hydra/launcher=slurm_script"), verb("submit"))
_RULE: Final = ("hydra.launcher.mem_gb=1", "hydra.launcher.on_oom={mem_gb: x2, max: 4}")
_OUT_OF_MEMORY: Final = (sweep("x=1,8", "hydra/launcher=slurm_script", *_RULE), verb("submit"))
_SEARCH: Final = sweep(
    *("hydra/sweeper=experiment_optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.metric=score", "x=range(1,1000)"),
    "hydra.launcher.n_jobs=1",
)
_SEEDED: Final = (*_SEARCH, "hydra.sweeper.sampler.seed=1")
_ONE_OF_TWO: Final = ("--where", "x == 1")

SCENARIOS: Final[Mapping[str, Scenario]] = {
    "sweep": Scenario(sweep("x=1,2", _POOL)),
    "forkserver": Scenario(sweep("x=1,2", _POOL, "hydra.launcher.start_method=forkserver")),
    "at-once": Scenario(sweep("x=1,6", _POOL), is_typed_at_once=True),
    "work-at-once": Scenario(
        verb("work", "--jobs", "2"), (sweep("x=6,7", "hydra/launcher=slurm_script"),), is_typed_at_once=True
    ),
    "snapshot": Scenario(sweep("x=1", _POOL, "hydra.launcher.snapshot=true")),
    "grow": Scenario(sweep("x=1,2", _POOL), (_ONE,)),
    "search": Scenario(_SEEDED),
    "search-again": Scenario(_SEARCH, (_SEEDED,)),  # a second search would have a seed of its own, and other trials
    "retry": Scenario(_FAILING, (_FAILING,)),
    "resubmit": Scenario(verb("resubmit", "--yes"), (_FAILING,)),
    "run": Scenario(verb("run", "0"), (_SCRIPT,)),
    "work": Scenario(verb("work", "--jobs", "2"), (sweep("x=1,2,3", "hydra/launcher=slurm_script"),)),
    "python": Scenario((f"{PLACE}/python_jobs.py",)),
    "basic": Scenario(sweep("x=1,2", "hydra/launcher=basic"), is_of_others=True),
    "joblib": Scenario(sweep("x=1,2", "hydra/launcher=joblib", _POOL), is_of_others=True),
    "foreign-sweeper": Scenario(
        sweep("x=1,2", "hydra/sweeper=basic", _POOL, "hydra.sweep.dir=${oc.env:FAULTS_SWEEPS}"), makes_new_jobs=True
    ),
    "filter": Scenario(verb("filter", "x == 1"), (_ONE, sweep("x=2", _POOL)), does_run=False),
    "emit": Scenario(sweep("x=1,2", "hydra/launcher=slurm_script"), (_ONE,), does_run=False, leaves_scripts=True),
    "script": Scenario(verb("script"), (_SCRIPT,), does_run=False, leaves_scripts=True),
    "submit": Scenario(verb("submit"), (_SCRIPT,), does_run=False, is_submitted=True),
    "submitit": Scenario(sweep("x=1,2", "hydra/launcher=slurm_submitit"), does_run=False, is_submitted=True),
    "tasks": _of_tasks(_TWO_TO_RUN),
    "pack": _of_tasks(sweep("x=1,2", "hydra/launcher=slurm_script", "hydra.launcher.pack=2")),
    "workers": _of_tasks(sweep("x=1,2,3", "hydra/launcher=slurm_script", "hydra.launcher.workers=2")),
    "requeue": _of_tasks(
        sweep("x=7", "hydra/launcher=slurm_script", "hydra.launcher.max_requeues=3"), is_preempted=True
    ),
    "resubmit-slurm": Scenario(verb("resubmit", "--yes"), _FAILED_ON_SLURM, does_run=False, leaves_scripts=True),
    "submit-again": Scenario(
        verb("submit"), (*_FAILED_ON_SLURM, verb("resubmit", "--yes")), does_run=False, is_submitted=True
    ),
    "cancel": Scenario(verb("cancel"), (_SCRIPT, verb("submit")), does_run=False, waits_before=True),
    "cancel-pool": Scenario(verb("cancel"), does_run=False, beside=sweep("x=7", _POOL)),
    "hold": Scenario(verb("hold", *_ONE_OF_TWO), (_TWO_TO_RUN,), does_run=False),
    "release": Scenario(verb("release", *_ONE_OF_TWO), (_TWO_TO_RUN, verb("hold")), does_run=False),
    "remove": Scenario(verb("remove", "--files", "--yes", *_ONE_OF_TWO), (_FAILING,), does_run=False),
    "bring-back": Scenario(verb("remove", "--undo"), (_FAILING, verb("remove", "0", "--yes")), does_run=False),
    "move": Scenario(verb("move", MOVED), (_FAILING,), does_run=False),
    "clean": Scenario(verb("clean", "--yes"), (_FAILING, _FAILING), does_run=False),
    "heal": Scenario(verb("heal"), _OUT_OF_MEMORY, does_run=False, is_submitted=True),
    "archive": Scenario(
        verb("archive", "--all", "--out", "app.tar.gz"), (_ONE,), does_run=False, is_done_once=True, makes="app.tar.gz"
    ),
    "report": Scenario(verb("report", "--out", "report.html"), (_ONE,), does_run=False, makes="report.html"),
    "tag": Scenario(verb("tag", "0", "good"), (_ONE,), does_run=False),
    "note": Scenario(verb("note", "0", "a line"), (_ONE,), does_run=False),
    "status": Scenario(verb("status"), (_FAILING,), does_run=False, is_only_read=True),
    "status-queued": Scenario(
        verb("status"), (_SCRIPT, verb("submit")), does_run=False, is_only_read=True, waits_before=True
    ),
    "results": Scenario(verb("results"), (_FAILING,), does_run=False, is_only_read=True),
    "jobs": Scenario(verb("jobs"), (_FAILING,), does_run=False, is_only_read=True),
    "show": Scenario(verb("show", "0"), (_FAILING,), does_run=False, is_only_read=True),
    "logs": Scenario(verb("logs", "1", "--stderr"), (_FAILING,), does_run=False, is_only_read=True),
    "diff": Scenario(verb("diff", "0", "1"), (_FAILING,), does_run=False, is_only_read=True),
    "efficiency": Scenario(verb("efficiency"), (_FAILING,), does_run=False, is_only_read=True),
    "doctor": Scenario(verb("doctor"), (_FAILING,), does_run=False, is_only_read=True),
}


def environment(place: Path, **more: str) -> dict[str, str]:
    """What commands are told: where the program notes its runs, where SLURM is, and to be patient for a moment only."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("EXPERIMENT_MANAGER", "SLURM_", "SBATCH_", "LD_", "PYTEST_"))
    }
    return {
        **kept,
        "PATH": f"{place / 'bin'}:{Path(sys.executable).parent}:{kept['PATH']}",
        "FAULTS_RUNS": str(place / "runs"),
        "FAULTS_SWEEPS": str(place / "sweeps"),
        "FAULTS_SLURM": str(place / "home/slurm"),
        "EXPERIMENT_MANAGER_PATIENCE_S": "2",
        "PYTHONDONTWRITEBYTECODE": "1",
        "COLUMNS": "200",
        **more,
    }
