"""From jobs to array scripts on disk: which options each job has, the arrays that result, and their scripts."""

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from experiment_manager.disk.files import appearing, make_executable
from experiment_manager.disk.folder import Folder, writing
from experiment_manager.errors import OptionsError
from experiment_manager.records import Launch
from experiment_manager.slurm.arrays import Array, arrays
from experiment_manager.slurm.client import max_array_size
from experiment_manager.slurm.launched import launched_arrays, records, script_name, script_paths, stale_scripts
from experiment_manager.slurm.options import SlurmOptions, as_mapping, overridden
from experiment_manager.slurm.script import Place, render, require_line


class Arrangement(NamedTuple):
    """The arrays of a launch that is not written yet, and what its record keeps of them."""

    arrays: tuple[Array, ...]
    record: Mapping[str, Any]


def arrange(
    folder: Folder, options: SlurmOptions, ids: Sequence[int], configuration: Callable[[int], Any]
) -> Arrangement:
    """The arrays that run these jobs. `configuration` is asked only where `resources_from` names a node of it.

    Raises OptionsError for options of a job that cannot be meant, where no job has any, and for a folder that no script
    can name.
    """
    require_line("experiment_path", folder.parent)
    if options.resources_from is None:
        groups = [(options, list(ids))]
    else:
        groups = []
        owns = {job_id: _own_options(options, configuration(job_id), job_id) for job_id in ids}
        if not any(owns.values()):
            raise OptionsError(f"resources_from={options.resources_from}: no job has that node in its configuration")
        for job_id in ids:
            own = owns[job_id] or options
            for known, members in groups:
                if known == own:
                    members.append(job_id)
                    break
            else:
                groups.append((own, [job_id]))
    found = tuple(arrays(groups, max_array_size=max_array_size()))
    kept = records(found, options.name or folder.name)
    return Arrangement(found, {"slurm": {"options": as_mapping(options), "arrays": kept}})


def _own_options(options: SlurmOptions, configuration: Any, job_id: int) -> SlurmOptions | None:
    """The options of one job: those of the launch, and over them the node of its configuration; None without one."""
    node = configuration
    where = f"{options.resources_from} of job {job_id}"
    for key in (options.resources_from or "").split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    if node is None:
        return None
    if not isinstance(node, Mapping):
        raise OptionsError(f"{where} is {node!r}; resources_from names a mapping of options, such as {{mem_gb: 32}}")
    return overridden(options, node, where=where)


def write_scripts(folder: Folder, launch: Launch, arrangement: Arrangement, *, is_newest: bool = True) -> list[str]:
    """The scripts of a launch are in its folder and, where `is_newest`, at the top of the experiment: their paths.

    Scripts of earlier launches are removed from the top; each launch keeps its own.
    """
    logs = folder.join("launches", launch.number)
    paths = []
    with writing(folder.path):
        for part, (array, launched) in enumerate(
            zip(arrangement.arrays, launched_arrays(launch), strict=True), start=1
        ):
            place = Place(
                experiment_path=folder.parent,
                experiment_name=folder.name,
                launch=launch.number,
                job_name=launched.name,
                logs=logs,
                python=sys.executable,
                part=part,
                n_parts=len(arrangement.arrays),
            )
            text = render(array, place)
            top, kept = script_paths(folder, launch, launched)
            for path in (kept, top) if is_newest else (kept,):
                _write(path, text)
            paths.append(top if is_newest else kept)
        if is_newest:
            for path in stale_scripts(folder, [script_name(part + 1) for part in range(len(paths))]):
                with suppress(FileNotFoundError):
                    os.unlink(path)
    return paths


def _write(path: str, text: str) -> None:
    with appearing(path) as temporary:
        with open(temporary, "x", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        make_executable(temporary)


def how_to_submit(folder: Folder, paths: Sequence[str]) -> str:
    """The lines that people paste."""
    shown = shlex.quote(os.path.relpath(folder.path))
    if len(paths) == 1:
        return f"submit with: sbatch {shlex.quote(os.path.relpath(paths[0]))}"
    return f"{len(paths)} scripts; submit all of them with: experiment-manager submit {shown}"
