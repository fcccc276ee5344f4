#!/bin/sh
#SBATCH --hold
#SBATCH --time=01:00:00
exec true
