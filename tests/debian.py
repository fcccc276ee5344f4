"""Packages of Debian that tests need, where root may have them."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from filelock import FileLock

_LIMIT_S = 300


def install(*packages: str) -> str:
    """They are there, if they can be; sessions that want some at once wait for each other. Returns why they are not, as
    apt-get says it last; empty where nothing failed."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return "apt-get is not here, or not ours to use"
    with FileLock(Path(tempfile.gettempdir()) / "experiment-manager-debian.lock", timeout=4 * _LIMIT_S):
        wanted = f"apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout={_LIMIT_S} {' '.join(packages)}"
        line = f"{wanted} || (apt-get update -q && {wanted})"
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(
            ["sh", "-c", line], env=env, capture_output=True, text=True, errors="replace", timeout=_LIMIT_S, check=False
        )
    return (done.stderr or done.stdout).strip().rpartition("\n")[2] if done.returncode else ""
