"""Questions to git, which never asks back."""

import os
import subprocess
from typing import Final

_SILENT: Final = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}
_OF_ANOTHER_REPOSITORY: Final = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR")
"""Set inside of git's hooks, where the repository around the directory is meant nevertheless."""


def ask(*arguments: str, cwd: str | None = None, limit_s: float = 5.0) -> bytes | None:
    """The answer of git about the repository around a directory, the working directory by default; None when it fails,
    takes too long, or is not there."""
    inherited = {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER_REPOSITORY}
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=cwd,
            env={**inherited, **_SILENT},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit_s,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
