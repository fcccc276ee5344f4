#!/bin/bash
#SBATCH --job-name=train-x1y2z3a4
#SBATCH --array=0-29
#SBATCH --output=/home/me/logs/%A_%a.log
#SBATCH --open-mode=append
#SBATCH --time=UNLIMITED

# Experiment Manager: launch 0001, jobs 2000-2029 of
# /home/me/experiments/train
# Submit it with `sbatch <this file>`, or, which can be repeated without running anything twice, with
# `experiment-manager submit /home/me/experiments/train`.

# A warning that comes before the job can hear it does not end this script.
trap '' USR1 USR2

jobs=(  # by index of the task
    2000 2001 2002 2003 2004 2005 2006 2007 2008 2009 2010 2011 2012 2013 2014 2015 2016 2017 2018 2019 2020
    2021 2022 2023 2024 2025 2026 2027 2028 2029
)
job=${jobs[SLURM_ARRAY_TASK_ID]}
exec /venv/bin/python -P -m experiment_manager run --experiment-path /home/me/experiments --experiment-name train --launch 0001 --array train-x1y2z3a4 --job-id "$job"
