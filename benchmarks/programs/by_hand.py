"""What a researcher writes to read 10,000 jobs: a loop over their folders, with json and pandas.

python by_hand.py FOLDER results|metrics
"""

import json
import sys
from pathlib import Path

import pandas as pd

folder, what = Path(sys.argv[1]), sys.argv[2]
results, metrics = [], []
for job in (folder / "jobs").iterdir():
    logged = pd.read_json(job / "metrics.1.jsonl", lines=True)
    if what == "metrics":
        metrics.append(pd.DataFrame(list(logged["values"])).assign(job=int(job.name), step=logged["step"]))
    else:
        result = json.loads((job / "result.1.json").read_text())["result"]
        results.append({"job": int(job.name), "result": result, **logged["values"].iloc[-1]})
frame = pd.concat(metrics, ignore_index=True) if what == "metrics" else pd.DataFrame(results).sort_values("job")
print(len(frame) if what == "metrics" else frame.to_string())
