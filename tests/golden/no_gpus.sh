#!/bin/bash
#SBATCH --job-name=train-x1y2z3a4
#SBATCH --array=0
#SBATCH --output=/home/me/logs/%A_%a.log
#SBATCH --open-mode=append
#SBATCH --no-requeue

# Experiment Manager: launch 0001, jobs 0 of
# /home/me/experiments/train
# Submit it with `sbatch <this file>`, or, which can be repeated without running anything twice, with
# `experiment-manager submit /home/me/experiments/train`.

# A warning that comes before the job can hear it does not end this script.
trap '' USR1 USR2

job=$SLURM_ARRAY_TASK_ID
exec /venv/bin/python -P -m experiment_manager run --experiment-path /home/me/experiments --experiment-name train --launch 0001 --array train-x1y2z3a4 --job-id "$job"
