"""Faults at every file and process call of every command, and what must be true afterwards: `make faults`."""
