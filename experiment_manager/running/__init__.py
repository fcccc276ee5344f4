"""Running jobs: the supervisor of one job, its child, its signals, and several at a time on this machine."""
