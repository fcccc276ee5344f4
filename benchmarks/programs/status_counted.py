"""`experiment-manager status FOLDER`, and at the end how often it listed folders of the experiment, as JSON."""

import json
import sys
from typing import Any

from experiment_manager.cli import main

folder = sys.argv[1]
listed: list[str] = []


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("os.scandir", "os.listdir") and str(arguments[0]).startswith(folder):
        listed.append(str(arguments[0]))


sys.addaudithook(hook)
status = main(["status", folder])
print(json.dumps(listed))
sys.exit(status)
