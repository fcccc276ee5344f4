"""The callback that Hydra calls whenever it begins, in every program, before it composes anything."""

import os

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class ExperimentBeginning(SearchPathPlugin):
    """Adds no place to search: it is the one plugin that Hydra always calls. No permission of the program is needed
    for it, while Hydra 1.4 calls the callback of a configuration only where the program allows that."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """In the process of a job, Hydra knows our callback."""
        if "EXPERIMENT_MANAGER_JOB" in os.environ:
            from experiment_manager.hydra.callback import listen

            listen()
