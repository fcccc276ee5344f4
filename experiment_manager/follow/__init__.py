"""What people do in the days after `sbatch`: look, read logs, compare, run again, bring results together."""
