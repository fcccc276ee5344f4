"""Which code and packages a launch is made with: enough to have the same again. Never asks, never fails a launch."""

import os
import re
import sys
from contextlib import suppress
from typing import Any, Final

from experiment_manager.store import git
from experiment_manager.store.documents import content
from experiment_manager.store.files import appearing

MOST_BYTES: Final = 20_000_000
"""Of a patch; what is larger is data, and not kept."""

_INSTALLED: Final = re.compile(r"(?P<name>.+?)-(?P<version>[^-]+)(?:-[^-]+)?\.(?:dist|egg)-info\Z")


def of_code() -> dict[str, Any]:
    """`git_commit` and `git_dirty` of the working directory; None where git cannot tell."""
    commit, status = git.ask("rev-parse", "HEAD"), git.ask("status", "--porcelain", "--untracked-files=no")
    return {
        "git_commit": None if commit is None else commit.decode().strip(),
        "git_dirty": None if status is None else bool(status.strip()),
    }


def write_patch(path: str) -> None:
    """The file holds what differs from the commit, in tracked files, as `git apply` takes it; no file where git cannot
    tell, or where that is larger than MOST_BYTES."""
    patch = git.ask("diff", "--no-ext-diff", "--no-textconv", "--no-color", "--binary", "HEAD")
    if patch is None or not 0 < len(patch) <= MOST_BYTES:
        return
    with suppress(OSError), appearing(path, for_good=False) as temporary, open(temporary, "xb") as file:
        file.write(patch)


def write_packages(path: str) -> None:
    """The file holds the installed packages as pip reads them: `pip install -r packages.txt`."""
    with (
        suppress(OSError),
        appearing(path, for_good=False) as temporary,
        open(temporary, "x", encoding="utf-8") as file,
    ):
        file.writelines(f"{name}=={version}\n" for name, version in packages().items())


def read_packages(path: str) -> dict[str, str]:
    """The packages that `write_packages` wrote; empty when there is nothing to read."""
    try:
        pairs = [line.partition("==") for line in content(path).decode().splitlines()]
    except (OSError, ValueError):
        return {}
    return {name: version for name, _, version in pairs}


def packages() -> dict[str, str]:
    """The installed packages that this process finds, with their versions: by the names of their folders, since to read
    the metadata of a hundred packages would take longer than planning a thousand jobs."""
    found: dict[str, str] = {}
    for place in sys.path:
        try:
            names = sorted(os.listdir(place or os.curdir))
        except OSError:
            continue
        for name in names:
            match = _INSTALLED.match(name) if name.endswith("-info") else None
            if match is not None:
                found.setdefault(match["name"].replace("_", "-").lower(), match["version"])
    return dict(sorted(found.items()))
