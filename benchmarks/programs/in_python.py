"""`Experiment.results()` or `Experiment.metrics()`: how many rows there are.

python in_python.py FOLDER results|metrics
"""

import sys

from experiment_manager import Experiment

print(len(getattr(Experiment.at(sys.argv[1]), sys.argv[2])()))
