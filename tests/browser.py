"""A real headless Chromium for the tests: the one that is there, or Debian's, which root may install."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_LIMIT_S = 300


def executable() -> str | None:
    """The path of a Chromium: EM_CHROMIUM, or one on the PATH; None where there is none."""
    return os.environ.get("EM_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


def install() -> None:
    """Debian's Chromium is there, where root can have it; sessions that want it at once wait for each other."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    with FileLock(Path(tempfile.gettempdir()) / "experiment-manager-browser.lock", timeout=2 * _LIMIT_S):
        for package in ("chromium-headless-shell", "chromium"):
            if executable() is None:
                wanted = f"apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout={_LIMIT_S} {package}"
                line = f"{wanted} || (apt-get update -q && {wanted})"
                env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
                subprocess.run(["sh", "-c", line], env=env, capture_output=True, timeout=_LIMIT_S, check=False)


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """A browser without a window; the test is skipped where there can be none."""
    playwright = pytest.importorskip("playwright.sync_api")
    if executable() is None:
        install()
    path = executable()
    if path is None:
        pytest.skip("no Chromium: install one, or set EM_CHROMIUM; root on Debian gets one by itself")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()
