"""SLURM: options, array scripts, submission, and what the cluster says about tasks. Rooms that know a `sbatch` line."""
