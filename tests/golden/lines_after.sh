#!/bin/bash
#SBATCH --job-name=train-x1y2z3a4
#SBATCH --array=3
#SBATCH --output=/home/me/logs/%A_%a.log
#SBATCH --open-mode=append

# Experiment Manager: launch 0001, jobs 3 of
# /home/me/experiments/train
# Submit it with `sbatch <this file>`, or, which can be repeated without running anything twice, with
# `experiment-manager submit /home/me/experiments/train`.

# A warning that comes before the job can hear it does not end this script.
trap '' USR1 USR2

job=$SLURM_ARRAY_TASK_ID

# The job runs in the background, so that this shell can pass signals on to it. Its exit status is kept in a
# file, because `wait` can lose it when many signals come, and is the status of this script in the end.
em_job= em_again= em_file=$(mktemp)
for em_name in TERM INT HUP; do
    trap "[ -z \"\$em_job\" ] || kill -$em_name \"\$em_job\" 2>/dev/null || :" $em_name
done
EXPERIMENT_MANAGER_STATUS_FILE=$em_file /venv/bin/python -P -m experiment_manager run --experiment-path /home/me/experiments --experiment-name train --launch 0001 --array train-x1y2z3a4 --job-id "$job" &
em_job=$!
for em_name in USR1 USR2; do
    trap "[ -z \"\$em_job\" ] || kill -$em_name \"\$em_job\" 2>/dev/null || :" $em_name
done
while em_status=0; wait "$em_job" || em_status=$?; kill -0 "$em_job" 2>/dev/null; do :; done
[ ! -s "$em_file" ] || read -r em_status em_again < "$em_file"
rm -f "$em_file"
trap : USR1 USR2; trap em_again= TERM INT HUP
trap '[ -z "$em_again" ] || scontrol requeue "$em_again" || :; exit "$em_status"' EXIT

module unload cuda
false
