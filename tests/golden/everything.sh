#!/bin/bash
#SBATCH --job-name=train-x1y2z3a4
#SBATCH --array=0-2,5%2
#SBATCH --output=/home/me/logs/%A_%a.log
#SBATCH --open-mode=append
#SBATCH --time=01:30:00
#SBATCH --nodes=2
#SBATCH --cpus-per-task=3
#SBATCH --gpus-per-node=1
#SBATCH --ntasks-per-node=4
#SBATCH --mem=1536M
#SBATCH --partition=gpu,long
#SBATCH --account='lab 7'
#SBATCH --qos=high
#SBATCH --constraint='a100&ib'
#SBATCH --exclude='n[1-3]'
#SBATCH --gres=disk:1
#SBATCH --comment='it'"'"'s #1; $(date)'
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --mail-type=END
#SBATCH --exclusive
#SBATCH --nice=10

# Experiment Manager: launch 0001, jobs 0-2,5 of
# /home/me/experiments/train
# Submit it with `sbatch <this file>`, or, which can be repeated without running anything twice, with
# `experiment-manager submit /home/me/experiments/train`.

# A warning that comes before the job can hear it does not end this script.
trap '' USR1 USR2

module purge
module load cuda
export NOTE="a b"

job=$SLURM_ARRAY_TASK_ID
exec /venv/bin/python -P -m experiment_manager run --experiment-path /home/me/experiments --experiment-name train --launch 0001 --array train-x1y2z3a4 --job-id "$job"
