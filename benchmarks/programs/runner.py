"""Runs a job with the library that LIBRARY names; the job writes down when it began, into the file that STAMP names."""

import argparse
import importlib
import os
import time
from pathlib import Path
from typing import Any


def run(job_id: int, variables: Any, configuration: Any) -> float:  # noqa: ARG001 - what a runner is called with
    Path(os.environ["STAMP"]).write_text(f"{time.time():.6f}")
    return float(configuration["tau"])


parser = argparse.ArgumentParser()
parser.add_argument("--job-id", type=int)
parser.add_argument("--experiment-path")
parser.add_argument("--experiment-name")
options = parser.parse_args()
library = importlib.import_module(os.environ["LIBRARY"])
library.Experiment.load(options.experiment_name, options.experiment_path).run_id(options.job_id, run)
