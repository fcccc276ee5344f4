"""Submits an array of jobs with submitit alone: a function, its arguments pickled, no configuration.

python plain_submitit.py FOLDER N_JOBS
"""

import sys

import submitit


def train(algorithm: str, seed: int) -> str:
    return f"{algorithm} {seed}"


folder, n_jobs = sys.argv[1], int(sys.argv[2])
executor = submitit.AutoExecutor(folder=folder, cluster="slurm")
executor.update_parameters(timeout_min=60, slurm_additional_parameters={"hold": True})
algorithms = ["TD3", "DDPG"] * (n_jobs // 2)
executor.map_array(train, algorithms, range(n_jobs))
