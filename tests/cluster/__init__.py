"""The tests that need a SLURM cluster; a package, so that its files may bear the names of those beside it."""
