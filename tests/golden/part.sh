#!/bin/bash
#SBATCH --job-name=train-x1y2z3a4
#SBATCH --array=0-6
#SBATCH --output=/home/me/logs/%A_%a.log
#SBATCH --open-mode=append
#SBATCH --time=10:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --mail-user=me@uni
#SBATCH --mail-type=END,FAIL

# Experiment Manager: launch 0001, part 2 of 3, jobs 0-6 of
# /home/me/experiments/train
# Submit all parts, in their order, each once however often it is said, with (sbatch takes this one alone)
# `experiment-manager submit /home/me/experiments/train`.

# A warning that comes before the job can hear it does not end this script.
trap '' USR1 USR2

job=$SLURM_ARRAY_TASK_ID
exec /venv/bin/python -P -m experiment_manager run --experiment-path /home/me/experiments --experiment-name train --launch 0001 --array train-x1y2z3a4 --job-id "$job"
