"""The contract of schedulers, kept by the two of the tests; on a cluster SLURM keeps the same one."""

import pytest

from experiment_manager.scheduler.protocol import Scheduler
from experiment_manager.testing import SchedulerContract
from tests.scheduler.file_scheduler import FileScheduler
from tests.scheduler.table_scheduler import TableScheduler


class TestFileScheduler(SchedulerContract):
    """A queue of files and real processes."""

    @pytest.fixture
    def scheduler(self) -> Scheduler:
        return FileScheduler()


class TestTableScheduler(SchedulerContract):
    """A queue in SQLite, without a history."""

    @pytest.fixture
    def scheduler(self) -> Scheduler:
        return TableScheduler()
