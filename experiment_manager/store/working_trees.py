"""Whether two files are one file in two working trees of a git repository: a clone, or a worktree beside it.

What lies in `.git` tells that, and git is not asked. The commit that both began with does not: projects that were made
of one template have it in common.
"""

import os
import re
from collections.abc import Iterator
from functools import partial
from typing import Final, NamedTuple

from experiment_manager.store.documents import content
from experiment_manager.store.files import is_file, is_folder, is_of_the_disk, looked

_USER: Final = re.compile(r"\A(?:[a-z+]+://)?(?:[^/@]*@)?")
_INSIDE: Final = f"{os.sep}.git"  # of the working tree that a repository has been made in, by which others name it


class _Tree(NamedTuple):
    """A working tree."""

    top: str
    git: str  # what it shares with other worktrees


def are_one_file(one: str, other: str) -> bool:
    """Whether both have the same place in working trees of one repository: one that both are worktrees of, or that one
    is a clone of; or both have a remote in common. Raises FolderError, OSError, where a file system errs."""
    found, others = _tree_of(one), _tree_of(other)
    if found is None or others is None or os.path.relpath(one, found.top) != os.path.relpath(other, others.top):
        return False
    return not {*_names(found)}.isdisjoint(_names(others))


def _tree_of(path: str) -> _Tree | None:
    """The working tree around a file; None where there is none, or it cannot be read."""
    top, above = os.path.dirname(path), path
    while top != above:
        git = os.path.join(top, ".git")
        if is_folder(git):
            return _Tree(top, os.path.realpath(git))
        if is_file(git):  # of a worktree or a submodule
            git = os.path.join(top, _read(git).removeprefix("gitdir:").strip())
            return _Tree(top, os.path.realpath(os.path.join(git, _read(os.path.join(git, "commondir")).strip())))
        top, above = os.path.dirname(top), top
    return None


def _names(tree: _Tree) -> Iterator[str]:
    """What its repository is called: by its own place, and by its remotes."""
    yield tree.git.removesuffix(_INSIDE)
    is_remote = False
    for line in _read(os.path.join(tree.git, "config")).splitlines():
        if line.lstrip().startswith("["):
            is_remote = line.lstrip().startswith("[remote ")
        key, _, value = line.partition("=")
        if is_remote and key.strip() == "url" and value.strip():
            yield _named(value.strip().strip('"'), tree.top)


def _named(address: str, top: str) -> str:
    """The same for all the ways to write where a repository is."""
    address = address.removeprefix("file://")
    if "://" not in address and ":" not in address.partition("/")[0]:
        return os.path.realpath(os.path.join(top, address)).removesuffix(_INSIDE)
    return _USER.sub("", address).replace(":", "/", 1).rstrip("/").removesuffix(".git")


def _read(path: str) -> str:
    """A small file of a repository; nothing where it cannot be read. Raises OSError where a file system errs."""
    try:
        return looked(partial(content, path)).decode(errors="replace")
    except (OSError, ValueError) as error:
        if is_of_the_disk(error):
            raise
        return ""
