"""Defines jobs that a command runs, and writes the script of an array of workers for them.

python short_jobs.py FOLDER N_JOBS N_WORKERS COMMAND
"""

import sys

from experiment_manager import SLURM, Experiment

folder, n_jobs, n_workers, command = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
experiment = Experiment(["number"], "it", folder)
for number in range(n_jobs):
    experiment.add_job({"number": number}, {"number": number})
experiment.set_slurm_config(SLURM(job_runner=[command], workers=n_workers))
experiment.save()
experiment.save_pass_filter(range(n_jobs))
experiment.generate_slurm_script()
