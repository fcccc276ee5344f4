"""Ways out: the runs of an experiment in the files and on the servers of programs that track experiments."""
