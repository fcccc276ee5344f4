"""What every job would do first with Hydra, done once in the process that jobs are forked from."""

from hydra._internal.hydra import Hydra  # noqa: F401 - imported by Hydra when a program begins to run
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

import experiment_manager.hydra.callback  # noqa: F401 - what a job's command line names

_OVERRIDES = ["a=1", "+b/c=d", "++e.f='g h'", "~i", "j=[1,2.5,null]", "k={l: true}", "m@n=o-p_q", "r=choice(1,2)"]


def warm_up() -> None:
    """Hydra's plugins are known, and its two grammars have been used: their parsers learn from what they read."""
    Plugins.instance()
    OverridesParser.create().parse_overrides(_OVERRIDES)
    OmegaConf.to_container(OmegaConf.create({"a": "1", "b": "${a}", "c": "${d.e:${a}}/x-${.b}"}))
    for text in ("${a}", "x/${a}", "${oc.env:HOME,''}"):
        OmegaConf.create({"a": "1", "b": text}).b  # noqa: B018 - reading it parses it
