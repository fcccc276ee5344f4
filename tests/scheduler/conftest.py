"""The two schedulers of the tests are found by their names, here and in the processes of their tasks."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiment_manager.scheduler import schedulers
from experiment_manager.testing import Jobs, register
from tests.scheduler import file_scheduler, table_scheduler

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture(scope="session")
def entry_points(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Both are known by their names, as if installed; gives what PYTHONPATH has to be for other processes."""
    folder = tmp_path_factory.mktemp("installed")
    register("file", "tests.scheduler.file_scheduler:FileScheduler", folder / "file")
    register("table", "tests.scheduler.table_scheduler:TableScheduler", folder / "table")
    yield os.pathsep.join(map(str, (REPOSITORY, folder / "file", folder / "table")))
    schedulers.named.cache_clear()


@pytest.fixture(autouse=True)
def _tasks_find_them(entry_points: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (entry_points, before))))
    for name in (file_scheduler.ROOT, table_scheduler.ROOT):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    """Of a queue that is a folder; nothing stays in it."""
    found = Jobs(file_scheduler.FileScheduler(), tmp_path / "home", {}, 180.0)
    yield found
    file_scheduler.wrong()
    for array, about in file_scheduler.FileScheduler()._arrays():
        for index in range(len(about["jobs"])):
            file_scheduler.FileScheduler().order(array, index, "CANCELLED")
