"""SLURM: its options, its script, its commands and what they print."""
