"""Frozen copies of the YAML files that jobs are composed from, so that editing them later reaches no queued job, and of
the small files beside them, which programs find through `hydra.runtime.config_sources`.

    conf/<hash>/main/config.yaml, conf/<hash>/main/algorithm/TD3.yaml, conf/<hash>/searchpath-0/...

The hash is one of the contents: the same files are copied once, however many sweeps use them.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from typing import Final, NamedTuple

from experiment_manager.errors import FreezeError
from experiment_manager.model.records import Source
from experiment_manager.store.documents import opened
from experiment_manager.store.files import (
    appearing,
    appearing_folder,
    is_folder,
    is_of_the_disk,
    looked,
    sync,
)
from experiment_manager.store.layout import Folder
from experiment_manager.text import tell, tell_once

LARGEST_BYTES: Final = 64 * 1024 * 1024
MOST_FILES: Final = 20_000
_ENDINGS: Final = (".yaml", ".yml")
_CODE: Final = (".py", ".pyc", ".pyi", ".ipynb", ".so")
LARGEST_BESIDE_BYTES: Final = 1 << 20
"""Of one file that is no YAML."""
_MOST_NAMED: Final = 3
_OUTPUT: Final = frozenset({"manifest.sqlite", ".planning.lock", ".hydra"})
"""Names that only the output of programs has: a folder with one of them is no configuration."""
_SWEPT: Final = re.compile(rb"^hydra:\n(?:(?:  .*)?\n)*?  runtime:\n", re.MULTILINE)
"""In the multirun.yaml that Hydra leaves in the folder of a sweep; a config of that name, which may set options of
Hydra's, too, has no `hydra.runtime`, which is Hydra's to fill."""


class Origin(NamedTuple):
    """One place where Hydra looks for YAML; `directory` is None for what is no directory, as `pkg://package`."""

    provider: str
    path: str
    directory: str | None


class _File(NamedTuple):
    relative: str
    content: bytes


class _Limit(NamedTuple):
    """How much of what lies beside the YAML of one source is copied."""

    files: int
    bytes: int


_OF_CONFIGURATION: Final = _Limit(1000, 16 << 20)
_OF_CODE: Final = _Limit(100, 1 << 20)
"""Where the folder is that of the program itself, whose other files change with every run."""


class Copies(NamedTuple):
    """What was read from all origins, and where it lies in an experiment once it is written."""

    sources: tuple[Source, ...]  # in the order of the origins
    key: str
    trees: Mapping[str, Sequence[_File]]

    def write(self, folder: Folder) -> None:
        """The copies are in the folder, byte by byte: what was changed there since is mended, and told."""
        target = folder.join("conf", self.key)
        if not self.trees:
            return
        if is_folder(target):
            _mend(target, self.trees)
        else:
            folder.make(folder.join("conf"))
            _publish(target, self.trees)


def freeze(folder: Folder, origins: Iterable[Origin]) -> tuple[Source, ...]:
    """Copies of all origins are in the folder; returns where, in the same order. Raises FreezeError."""
    copies = read_origins(folder, origins)
    copies.write(folder)
    return copies.sources


def read_origins(folder: Folder, origins: Iterable[Origin]) -> Copies:
    """What is to be copied from all origins into the folder.

    Raises FreezeError when there is more than a configuration can reasonably hold.
    """
    listed, budget = list(origins), _Budget()
    trees = {
        f"{origin.provider}-{place}" if origin.provider == "searchpath" else origin.provider: (
            _files(origin.directory, budget, os.path.realpath(folder.parent)) if origin.directory else None
        )
        for place, origin in enumerate(listed)
    }
    copied = {name: files for name, files in trees.items() if files is not None}
    key = _digest(copied)
    sources = tuple(
        Source(origin.provider, os.path.join("conf", key, name) if name in copied else origin.path, name in copied)
        for origin, name in zip(listed, trees, strict=True)
    )
    return Copies(sources, key, copied)


class _Budget:
    """How much may still be copied, over all origins."""

    def __init__(self) -> None:
        self.files, self.bytes = MOST_FILES, LARGEST_BYTES

    def take(self, path: str) -> bytes:
        """The content of a file. Raises FreezeError before reading what is too much."""
        self.files, self.bytes = self.files - 1, self.bytes - looked(partial(os.path.getsize, path))
        if self.files < 0 or self.bytes < 0:
            raise FreezeError(
                f"the configuration, at {path}, has more than {MOST_FILES} YAML files or {LARGEST_BYTES >> 20} MiB of "
                "them, too much to be copied; keep data out of the config folders"
            )
        return looked(partial(_whole, path))


def _whole(path: str) -> bytes:
    with opened(path, follows=True) as file:
        return file.read()


def _files(directory: str, budget: _Budget, skip: str) -> list[_File]:
    """Every YAML file below a directory, and what is small beside them; says what is not copied.

    Of a folder that holds code, too, only what lies in a folder with YAML.
    """
    yaml, beside = [], []
    for relative in _names(directory, skip):
        if relative.endswith(_ENDINGS):
            yaml.append(_File(relative, budget.take(os.path.join(directory, relative))))
        elif not relative.endswith(_CODE):
            beside.append(relative)
    if not _holds_code(directory):
        return yaml + _small(directory, beside, _OF_CONFIGURATION, tells=True)
    places = {os.path.dirname(file.relative) for file in yaml}
    beside = [relative for relative in beside if os.path.dirname(relative) in places]
    return yaml + _small(directory, beside, _OF_CODE, tells=False)


def _holds_code(directory: str) -> bool:
    """Whether a folder is not one for configuration alone."""
    names = set(looked(partial(os.listdir, directory))) - {"__init__.py"}
    return ".git" in names or any(name.endswith(_CODE) for name in names)


def _small(directory: str, names: Iterable[str], limit: _Limit, *, tells: bool) -> list[_File]:
    """The files of these names that are small and can be read, as long as there is room for them. Raises OSError where
    a file system errs."""
    taken, left, n_bytes = list[_File](), list[str](), 0
    for relative in names:
        path = os.path.join(directory, relative)
        try:
            size = looked(partial(os.path.getsize, path))
            if size > LARGEST_BESIDE_BYTES or n_bytes + size > limit.bytes or len(taken) == limit.files:
                left.append(path)
                continue
            taken.append(_File(relative, looked(partial(_whole, path))))
            n_bytes += size
        except OSError as error:
            if is_of_the_disk(error):
                raise
            left.append(path)
    if left and tells:
        named = ", ".join(left[:_MOST_NAMED]) + (f" and {len(left) - _MOST_NAMED} more" * (len(left) > _MOST_NAMED))
        tell_once(
            f"{named}: not YAML and not small, so not copied with the configuration of the jobs; a program that looks "
            "for it through hydra.runtime.config_sources needs its whole path instead"
        )
    return taken


def _names(directory: str, skip: str, below: str = "", above: tuple[str, ...] = ()) -> Iterator[str]:
    """Every file below a directory by its name there. Links are followed, but not back to a folder that they are in;
    what is hidden, the folder `skip`, experiments and the output of sweeps are left out. Raises OSError."""
    path = os.path.join(directory, below)
    real = os.path.realpath(path)
    names = sorted(looked(partial(os.listdir, path)))
    if real in above or (below and (real == skip or _is_output(path, names))):
        return
    for name in names:
        full, relative = os.path.join(path, name), os.path.join(below, name)
        if name.startswith(".") and not name.endswith(_ENDINGS):
            continue
        kind = _kind(full)
        if stat.S_ISDIR(kind):
            if not name.startswith("."):
                yield from _names(directory, skip, relative, (*above, real))
        elif stat.S_ISREG(kind):
            yield relative


def _kind(path: str) -> int:
    """The mode of what is there, also behind a link; 0 where nothing is, or others keep us from it. Raises OSError
    where a file system errs."""
    try:
        return looked(partial(os.stat, path)).st_mode
    except OSError as error:
        if is_of_the_disk(error):
            raise
        return 0


def _is_output(path: str, names: Sequence[str]) -> bool:
    """Whether a folder with these names in it is what a program or a sweep has left."""
    if not _OUTPUT.isdisjoint(names):
        return True
    path = os.path.join(path, "multirun.yaml")
    if "multirun.yaml" not in names or not stat.S_ISREG(_kind(path)):
        return False
    with opened(path, follows=True) as file:
        return _SWEPT.search(file.read(LARGEST_BESIDE_BYTES)) is not None


def _digest(trees: dict[str, list[_File]]) -> str:
    state = blake2b(digest_size=8)
    for name, files in trees.items():
        parts = [name.encode(), *(part for file in files for part in (os.fsencode(file.relative), file.content))]
        for part in (len(parts).to_bytes(8, "big"), *parts):
            state.update(len(part).to_bytes(8, "big") + part)
    return state.hexdigest()


def _publish(target: str, trees: Mapping[str, Sequence[_File]]) -> None:
    """The whole copy appears under its name at once."""
    with appearing_folder(target) as temporary:
        for name, files in trees.items():
            os.makedirs(os.path.join(temporary, name))
            for file in files:
                path = os.path.join(temporary, name, file.relative)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                _write(path, file.content)
                sync(path)


def _write(path: str, content: bytes) -> None:
    """A new file, which is not to be edited; who may read it is what the umask says."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444), "wb") as out:
        out.write(content)


def _mend(target: str, trees: Mapping[str, Sequence[_File]]) -> None:
    """The copy is what its name says. Files are replaced one by one, since jobs may be reading the others."""
    changed = []
    for name, files in trees.items():
        root = os.path.join(target, name)
        os.makedirs(root, exist_ok=True)
        for file in files:
            path = os.path.join(root, file.relative)
            if _content(path) != file.content:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with appearing(path) as temporary:
                    _write(temporary, file.content)
                changed.append(path)
        known = {file.relative for file in files}
        for relative in list(_names(root, "")):
            if relative not in known and relative.endswith(_ENDINGS):
                os.remove(os.path.join(root, relative))
                changed.append(os.path.join(root, relative))
    if changed:
        tell(
            f"warning: {', '.join(changed[:_MOST_NAMED])}{' and more' * (len(changed) > _MOST_NAMED)}: the copies that "
            "jobs are composed from were changed by hand, and are again as they were; jobs that ran meanwhile may have "
            "had another configuration"
        )


def _content(path: str) -> bytes | None:
    """What is in a file; None where there is none. Raises OSError where that cannot be told."""
    try:
        with opened(path) as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
