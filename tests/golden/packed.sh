#!/bin/bash
#SBATCH --job-name=train-x1y2z3a4
#SBATCH --array=0-1
#SBATCH --output=/home/me/logs/%A_%a.log
#SBATCH --open-mode=append
#SBATCH --mem=0

# Experiment Manager: launch 0001, jobs 4-5,9 of
# /home/me/experiments/train
# Submit it with `sbatch <this file>`, or, which can be repeated without running anything twice, with
# `experiment-manager submit /home/me/experiments/train`.

# A warning that comes before the job can hear it does not end this script.
trap '' USR1 USR2

jobs=(  # by index of the task
    4,5 9
)
job=${jobs[SLURM_ARRAY_TASK_ID]}
exec /venv/bin/python -P -m experiment_manager run --experiment-path /home/me/experiments --experiment-name train --launch 0001 --array train-x1y2z3a4 --job-id "$job"
