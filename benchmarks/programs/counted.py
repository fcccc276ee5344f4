"""`experiment-manager VERB FOLDER`, and at the end, as JSON, which folders of the experiment it listed, and how many of
its files it opened.

python counted.py VERB FOLDER
"""

import json
import sys
from typing import Any

from experiment_manager.cli.main import main

verb, folder = sys.argv[1:]
listed: list[str] = []
opened: list[str] = []


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("os.scandir", "os.listdir", "open") and str(arguments[0]).startswith(f"{folder}/"):
        (opened if event == "open" else listed).append(str(arguments[0]))


sys.addaudithook(hook)
status = main([verb, folder])
print(json.dumps({"listed": listed, "opened": len(opened)}))
sys.exit(status)
