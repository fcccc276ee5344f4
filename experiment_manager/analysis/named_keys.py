"""Keys of configurations that are named as variables are, `cfg.batch_size`, in tables, means and comparisons."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from experiment_manager.errors import ExperimentManagerError
from experiment_manager.model.facts import CONFIGURATION, NOTHING, read, resolved
from experiment_manager.model.rows import ResultRow
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest


def with_keys(
    folder: Folder, rows: Sequence[ResultRow], names: Iterable[str], *, are_several: bool = False
) -> list[ResultRow]:
    """The rows, with those of the names as variables more that are keys of configurations, as `cfg.batch_size`; None
    for a job that lacks one. Raises ExperimentManagerError for a key that no job of the experiment has, unless it is
    one of several."""
    keys = keys_named(names, {name for row in rows for name in row["variables"]})
    values = key_values(folder, [row["job"] for row in rows], keys, are_several=are_several)
    return [{**row, "variables": {**row["variables"], **values.get(row["job"], {})}} for row in rows]


def keys_named(names: Iterable[str], variables: Collection[str]) -> list[str]:
    """Those of the names that are of keys of configurations, and of no variable."""
    there = [name for name in names if name.startswith(f"{CONFIGURATION}.") and name not in variables]
    return list(dict.fromkeys(there))


def key_values(
    folder: Folder, ids: Iterable[int], names: Sequence[str], *, are_several: bool = False
) -> dict[int, dict[str, Any]]:
    """The values of such names, by job; see `with_keys`."""
    if not names:
        return {}
    wanted = {name: name.split(".")[1:] for name in names}
    with Manifest(folder) as manifest:

        def values_of(job_id: int) -> dict[str, Any]:
            configuration = resolved(manifest.encoded_configuration(job_id), manifest.kept(job_id))
            found = {name: read(configuration, way) for name, way in wanted.items()}
            return {name: value for name, value in found.items() if value is not NOTHING}

        values = {int(job_id): values_of(job_id) for job_id in ids}
        unknown = wanted.keys() - {name for found in values.values() for name in found}
        for job_id in manifest.ids() if unknown and not are_several else ():
            unknown -= {*(values.get(job_id) or values_of(job_id))}
            if not unknown:
                break
    if unknown and not are_several:
        raise ExperimentManagerError(
            f"no configuration of a job of {folder.path} has a key {min(unknown).partition('.')[2]!r}; "
            "`experiment-manager show` has that of each"
        )
    return {job_id: {name: found.get(name) for name in names} for job_id, found in values.items()}
