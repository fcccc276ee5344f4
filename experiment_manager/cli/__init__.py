"""The command line: each verb is the twin of a call on `Experiment`. Prints, and decides nothing."""
