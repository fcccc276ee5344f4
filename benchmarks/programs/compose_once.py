"""The least that any planner does: import Hydra, compose the configuration once, write the bytes of a plan.

python compose_once.py CONFIG_FOLDER PLAN COPY
"""

import os
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir

configuration, plan, copy = sys.argv[1:]
with initialize_config_dir(configuration, version_base=None):
    compose("config")
for folder, _, names in os.walk(plan):
    target = Path(copy, os.path.relpath(folder, plan))
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        (target / name).write_bytes(Path(folder, name).read_bytes())
