"""What SLURM's commands are asked, by programs that stand for them and note their words."""

import datetime
import os
import time
from pathlib import Path

import pytest

from experiment_manager.scheduler.slurm import client


@pytest.mark.parametrize("ahead_s", [0, 600, 100_000])
def test_accounting_is_asked_from_before_the_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_s: int
) -> None:
    """Clocks disagree: accounting is asked from a while before the launch on, and never from a moment to come."""
    sacct, said = tmp_path / "sacct", tmp_path / "said"
    sacct.write_text(f'#!/bin/sh\necho "$@" > {said}\n')
    sacct.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    now = time.time()
    assert [] == client.sacct(["name"], now + ahead_s)
    words = said.read_text().split()
    since = datetime.datetime.fromisoformat(words[words.index("-S") + 1]).replace(tzinfo=datetime.UTC)
    assert since.timestamp() < now - 3600
