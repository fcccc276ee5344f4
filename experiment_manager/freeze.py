"""Frozen copies of the YAML files that jobs are composed from, so that editing them later reaches no queued job.

    conf/<hash>/main/config.yaml, conf/<hash>/main/algorithm/TD3.yaml, conf/<hash>/searchpath-0/...

The hash is one of the contents: the same files are copied once, however many sweeps use them.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Final, NamedTuple

from experiment_manager.errors import FreezeError
from experiment_manager.files import sync, temporary_name
from experiment_manager.folder import Folder
from experiment_manager.records import Source

LARGEST_BYTES: Final = 64 * 1024 * 1024
MOST_FILES: Final = 20_000
_ENDINGS: Final = (".yaml", ".yml")


class Origin(NamedTuple):
    """One place where Hydra looks for YAML; `directory` is None for what is no directory, as `pkg://package`."""

    provider: str
    path: str
    directory: str | None


class _File(NamedTuple):
    relative: str
    content: bytes


def freeze(folder: Folder, origins: Iterable[Origin]) -> tuple[Source, ...]:
    """Copies of all origins are in the folder; returns where, in the same order.

    Raises FreezeError when there is more than a configuration can reasonably hold.
    """
    listed = list(origins)
    trees = {
        f"{origin.provider}-{place}" if origin.provider == "searchpath" else origin.provider: (
            list(_yaml_files(origin.directory, skip=folder.path)) if origin.directory else None
        )
        for place, origin in enumerate(listed)
    }
    copied = {name: files for name, files in trees.items() if files is not None}
    key = _digest(copied)
    if copied and not os.path.isdir(folder.join("conf", key)):
        _publish(folder.join("conf", key), copied)
    return tuple(
        Source(origin.provider, os.path.join("conf", key, name) if name in copied else origin.path, name in copied)
        for origin, name in zip(listed, trees, strict=True)
    )


def _yaml_files(directory: str, *, skip: str) -> Iterator[_File]:
    """Every YAML file below a directory; links are followed, each real folder once; hidden folders are left out."""
    seen: set[str] = set()
    count = size = 0
    for path, folders, names in os.walk(directory, followlinks=True):
        real = os.path.realpath(path)
        if real in seen or real == os.path.realpath(skip):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            full = os.path.join(path, name)
            if not name.endswith(_ENDINGS) or not os.path.isfile(full):
                continue
            with open(full, "rb") as file:
                content = file.read()
            count, size = count + 1, size + len(content)
            if count > MOST_FILES or size > LARGEST_BYTES:
                raise FreezeError(
                    f"{directory} holds more than {MOST_FILES} YAML files or {LARGEST_BYTES >> 20} MiB of them, too "
                    "much for a configuration; keep data out of the config folder"
                )
            yield _File(os.path.relpath(full, directory), content)


def _digest(trees: dict[str, list[_File]]) -> str:
    state = blake2b(digest_size=8)
    for name, files in trees.items():
        for file in files:
            for part in (name.encode(), os.fsencode(file.relative), file.content):
                state.update(len(part).to_bytes(8, "big") + part)
    return state.hexdigest()


def _publish(target: str, trees: dict[str, list[_File]]) -> None:
    """The whole copy appears under its name at once."""
    temporary = temporary_name(target)
    shutil.rmtree(temporary, ignore_errors=True)
    for name, files in trees.items():
        os.makedirs(os.path.join(temporary, name))
        for file in files:
            path = os.path.join(temporary, name, file.relative)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as out:
                out.write(file.content)
            sync(path)
    try:
        os.rename(temporary, target)
    except OSError:  # somebody else has published the same content
        shutil.rmtree(temporary)
