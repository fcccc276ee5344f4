"""Whether two files are one file in two working trees of a git repository: a clone, or a worktree beside it.

What lies in `.git` tells that, and git is not asked. The commit that both began with does not: projects that were made
of one template have it in common.
"""

import os
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from experiment_manager.store.documents import content

_USER: Final = re.compile(r"\A(?:[a-z+]+://)?(?:[^/@]*@)?")


class _Tree(NamedTuple):
    """A working tree."""

    top: str
    git: str  # what it shares with other worktrees


def are_one_file(one: str, other: str) -> bool:
    """Whether both have the same place in working trees of one repository: one that both are worktrees of, or that one
    is a clone of; or both have a remote in common."""
    found, others = _tree_of(one), _tree_of(other)
    if found is None or others is None or os.path.relpath(one, found.top) != os.path.relpath(other, others.top):
        return False
    return not {*_names(found)}.isdisjoint(_names(others))


def _tree_of(path: str) -> _Tree | None:
    """The working tree around a file; None where there is none, or it cannot be read."""
    top, above = os.path.dirname(path), path
    while top != above:
        git = os.path.join(top, ".git")
        if os.path.isdir(git):
            return _Tree(top, os.path.realpath(git))
        if os.path.isfile(git):  # of a worktree or a submodule
            git = os.path.join(top, _read(git).removeprefix("gitdir:").strip())
            return _Tree(top, os.path.realpath(os.path.join(git, _read(os.path.join(git, "commondir")).strip())))
        top, above = os.path.dirname(top), top
    return None


def _names(tree: _Tree) -> Iterator[str]:
    """What its repository is called: by its own place, and by its remotes."""
    yield tree.git
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
        path = os.path.realpath(os.path.join(top, address))
        inside = os.path.join(path, ".git")
        return inside if os.path.isdir(inside) else path
    return _USER.sub("", address).replace(":", "/", 1).rstrip("/").removesuffix(".git")


def _read(path: str) -> str:
    """A small file of a repository; nothing where it cannot be read."""
    try:
        return content(path).decode(errors="replace")
    except (OSError, ValueError):
        return ""
