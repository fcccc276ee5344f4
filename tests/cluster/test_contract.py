"""SLURM keeps the contract of schedulers on a real cluster."""

from typing import ClassVar

import pytest

from experiment_manager.scheduler.protocol import Scheduler
from experiment_manager.scheduler.slurm.scheduler import Slurm
from experiment_manager.testing import SchedulerContract


class TestSlurm(SchedulerContract):
    """Every test of the contract; jobs ask for little memory, as the nodes of the test cluster have little."""

    options: ClassVar = {"mem_gb": 0.25}
    seconds: ClassVar = 90.0

    @pytest.fixture
    def scheduler(self) -> Scheduler:
        return Slurm()
