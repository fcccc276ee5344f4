"""Reading what jobs left: status, rows, logs, tables, archives, exports."""
