"""The first things that every job does with Hydra, done once in the process that jobs are forked from."""

from collections.abc import Sequence
from contextlib import suppress

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.types import RunMode

import experiment_manager.hydra.callback  # noqa: F401 - what Hydra calls in a job
from experiment_manager.hydra import private_names


def warm_up(arguments: Sequence[str]) -> None:
    """Hydra's plugins are known, and the parsers of its grammars have learnt from what they read: the overrides among
    the arguments of a job, and Hydra's own configuration."""
    setup_globals()
    Plugins.instance()
    parser = OverridesParser.create()
    for override in (item for item in arguments if "=" in item):
        with suppress(Exception):  # the job will tell
            parser.parse_override(override)
    with suppress(Exception):
        private_names.loader_of_nothing().load_configuration(config_name=None, overrides=[], run_mode=RunMode.RUN)
