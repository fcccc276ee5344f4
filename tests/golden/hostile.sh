#!/bin/bash
#SBATCH --job-name=home-x1y2z3a4
#SBATCH --array=0,7
#SBATCH --output=/dev/null
#SBATCH --open-mode=append
#SBATCH --comment='a\\b'

# Experiment Manager: launch 0002, jobs 0,7 of
# '/tmp/it'"'"'s a $(touch pwned) "quoted" 50% \back `tick` #hash ü/$HOME; exit 3'
# Submit it with `sbatch <this file>`, or, which can be repeated without running anything twice, with
# `experiment-manager submit '/tmp/it'"'"'s a $(touch pwned) "quoted" 50% \back `tick` #hash ü/$HOME; exit 3'`.

# A warning that comes before the job can hear it does not end this script.
trap '' USR1 USR2

echo 'as it is' $HOME

job=$SLURM_ARRAY_TASK_ID
exec '/venv/my python' -P -m experiment_manager run --experiment-path '/tmp/it'"'"'s a $(touch pwned) "quoted" 50% \back `tick` #hash ü' --experiment-name '$HOME; exit 3' --launch 0002 --array home-x1y2z3a4 --job-id "$job"
