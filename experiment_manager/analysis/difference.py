"""Two jobs side by side: what differs between them."""

from collections.abc import Mapping
from typing import Any

from experiment_manager.analysis import views
from experiment_manager.model import codec, delta
from experiment_manager.model.records import JobId
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest
from experiment_manager.store.provenance import read_packages
from experiment_manager.store.states import States, StateTable, node_of


def difference(folder: Folder, one: int, other: int, table: StateTable) -> dict[str, Any]:
    """`one` and `other`: job, state, attempt, variables; `configuration` and `environment` map what differs to both
    texts.

    The environment is where and with which code the last attempt of each was launched. Raises UnknownJob.
    """
    with Manifest(folder) as manifest:
        sides = [_side(manifest, job_id, table) for job_id in (one, other)]
        before, after = (manifest.encoded_configuration(job_id) for job_id in (one, other))
    about = [_about(folder, job_id, table) for job_id in (one, other)]
    return {
        "one": sides[0],
        "other": sides[1],
        "configuration": {
            change.key: (change.before, change.after) for change in delta.compare(before or {}, after or {})
        },
        "environment": {
            name: tuple(_text(side.get(name)) for side in about)
            for name in dict.fromkeys([*about[0], *about[1]])
            if about[0].get(name) != about[1].get(name)
        },
    }


def _side(manifest: Manifest, job_id: int, table: StateTable) -> dict[str, Any]:
    job, last = manifest.job(job_id), table.last(job_id)
    return {"job": job_id, "state": str(last.state), "attempt": last.number, "variables": dict(job.variables)}


def _about(folder: Folder, job_id: int, table: StateTable) -> Mapping[str, Any]:
    """Node, launch, command line and code of the last attempt; empty for a job that has not run."""
    last = table.last(job_id)
    if not last.number:
        return {}
    record = States(folder).record(JobId(job_id), last.number)
    number = str(record.get("launch"))
    installed = read_packages(folder.join("launches", number, "packages.txt"))
    packages = {f"package {name}": version for name, version in installed.items()}
    about = {"node": node_of(record), "launch": record.get("launch")}
    return about | views.environment(folder, number) | packages


def _text(value: Any) -> str:
    return delta.ABSENT if value is None else value if isinstance(value, str) else codec.readable(codec.encode(value))
