"""An archive as an RO-Crate, which repositories of research data read: what is in it, in words, as JSON-LD."""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, Final

import experiment_manager
from experiment_manager.errors import ExperimentManagerError
from experiment_manager.model.secrets import Masks
from experiment_manager.store.files import is_there
from experiment_manager.store.holds import read_removed
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.states import StateTable
from experiment_manager.text import counted, one_line, value_text

NAME: Final = "ro-crate-metadata.json"
_VERSION: Final = "1.1"
_MOST_VALUES: Final = 100
_NO_LICENSE: Final = "No license is stated: ask whoever has made this archive how it may be used"
_JSON: Final = {"encodingFormat": "application/json"}
_FILES: Final[Mapping[str, Mapping[str, str]]] = {
    "manifest.sqlite": {
        "name": "Manifest",
        "description": "All jobs with their variables and configurations",
        "encodingFormat": "application/vnd.sqlite3",
    },
    "config.json": {"name": "Manifest", "description": "All jobs, as the original library wrote them", **_JSON},
    "pass_filter.json": {"name": "Pass filter", "description": "The ids of the jobs that may run", **_JSON},
    "slurm_config.json": {"name": "Options", "description": "The options of jobs on SLURM", **_JSON},
}
_FOLDERS: Final = {
    "jobs": ("Jobs", "A folder for each job: results, metrics, errors and ends of its attempts"),
    "states": ("States", "The attempts of each job, and how each has ended"),
    "launches": ("Launches", "How, where and with which packages jobs were handed over"),
    "conf": ("Configuration files", "The sources of configurations, as they were when jobs first passed a filter"),
    "code": ("Code", "Copies of the code that jobs ran from"),
    "tasks": ("Tasks", "Pickled functions that jobs ran"),
    "warnings": ("Warnings", "Attempts whose results are to be looked at"),
    "rungs": ("Rungs", "The values by which jobs were compared while they ran"),
    "proposals": ("Proposals", "What a search has proposed"),
    "tags": ("Tags", "Words by which people have marked jobs"),
    "held": ("Held jobs", "Jobs that were not to begin"),
    "removed": ("Removed jobs", "Jobs that were defined by mistake"),
    "notes": ("Notes", "What people have written about jobs, and about the experiment"),
}


def require_library() -> None:
    """Raise ExperimentManagerError unless RO-Crates can be made."""
    try:
        import rocrate  # noqa: F401 - it is missing now, and not in the middle
    except ImportError as error:
        install = "pip install 'hydra-experiment-manager[ro-crate]'"
        raise ExperimentManagerError(f"an RO-Crate needs rocrate; install it with {install}") from error


def metadata(folder: Folder, table: StateTable, parts: Collection[str], license_: str | None) -> bytes:
    """The content of `ro-crate-metadata.json`; `parts` are the names of what is packed, at the top.

    A crate must have a license, or say how it may be used: where none is given, that it is to be asked for.
    """
    from rocrate.model.contextentity import ContextEntity
    from rocrate.rocrate import ROCrate

    crate = ROCrate(version=_VERSION)
    names, jobs = _jobs(folder)
    states = Counter(str(table.state(job.id)) for job in jobs)
    found = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    differ = f" that differ in {', '.join(names)}" if names else ""
    crate.name = f"Experiment {folder.name}"
    crate.description = f"{counted(len(jobs))}{differ}: {found}" if jobs else "Jobs of the original library"

    def context(name: str, properties: Mapping[str, Any]) -> Any:
        return crate.add(ContextEntity(crate, name, properties=dict(properties)))

    is_address = license_ is not None and license_.startswith(("http://", "https://"))
    crate.license = (
        context(str(license_), {"@type": "CreativeWork", "name": license_}) if is_address else license_ or _NO_LICENSE
    )
    program = {"@type": "SoftwareApplication", "name": "Experiment Manager", "version": experiment_manager.__version__}
    made = {"@type": "CreateAction", "name": "The jobs were run", "result": crate.root_dataset}
    crate.root_dataset["mentions"] = context("#jobs", {**made, "instrument": context("#experiment-manager", program)})
    crate.root_dataset["variableMeasured"] = [
        context(f"#variable-{number}", {"@type": "PropertyValue", "name": name, "value": _values(name, jobs)})
        for number, name in enumerate(names, start=1)
    ]
    for part in sorted(parts):
        if part in _FILES:
            crate.add_file(dest_path=part, properties=dict(_FILES[part]))
        elif part in _FOLDERS:
            name, description = _FOLDERS[part]
            crate.add_directory(dest_path=f"{part}/", properties={"name": name, "description": description})
    return (json.dumps(crate.metadata.generate(), ensure_ascii=False, indent=1) + "\n").encode("utf-8", "replace")


def _jobs(folder: Folder) -> tuple[list[str], list[Any]]:
    """The names of the variables, and the jobs; none of those that the original library wrote."""
    if not is_there(folder.manifest):
        return [], []
    with Manifest(folder) as manifest:
        removed = read_removed(folder)
        return list(manifest.variables), [job for job in manifest.jobs() if job.id not in removed]


def _values(name: str, jobs: Collection[Any]) -> list[str]:
    """The different values of a variable, in their order, without secrets; where they are many, the first of them."""
    masks = Masks()
    shown = (masks.settings({name: job.variables[name]})[name] for job in jobs if name in job.variables)
    return [*dict.fromkeys(one_line(value_text(value)) for value in shown)][:_MOST_VALUES]
