"""The fork server: jobs that begin as copies of a process which has imported their libraries already."""
