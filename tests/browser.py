"""A real headless Chromium for the tests: the one that is there, or Debian's, which root may install."""

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.debian import install

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def executable() -> str | None:
    """The path of a Chromium: EM_CHROMIUM, or one on the PATH; None where there is none."""
    return os.environ.get("EM_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """A browser without a window; the test is skipped where there can be none."""
    playwright = pytest.importorskip("playwright.sync_api")
    why_not = ""
    for package in ("chromium-headless-shell", "chromium"):
        if executable() is None:
            why_not = install(package)
    path = executable()
    if path is None:
        pytest.skip(f"no Chromium ({why_not}): install one, or set EM_CHROMIUM; root on Debian gets one by itself")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()
