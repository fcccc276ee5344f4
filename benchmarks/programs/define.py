"""Defines an experiment in Python with the library that LIBRARY names; half of its jobs pass.

python define.py FOLDER N_JOBS
"""

import importlib
import os
import sys

folder, n_jobs = sys.argv[1], int(sys.argv[2])
library = importlib.import_module(os.environ["LIBRARY"])
experiment = library.Experiment(["algorithm", "seed"], "it", folder)
for algorithm in ("TD3", "DDPG"):
    for seed in range(n_jobs // 2):
        variables = {"algorithm": algorithm, "seed": seed}
        settings = {"nn": [64, 64], "tau": 0.005, "gamma": 0.99, "learning_rate": 0.002, "steps": 20000}
        experiment.add_job(variables, {**variables, **settings, "batch_size": 64, "buffer_size": 50000})
experiment.save()
experiment.save_pass_filter(experiment.get_ids(lambda variables: variables["seed"] < n_jobs // 4))
