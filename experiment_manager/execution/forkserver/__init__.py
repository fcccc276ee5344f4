"""The fork server: jobs that begin as copies of a process which has imported their libraries already.

`client` is what a pool sees of it, one class; `server` is the process; `sharing` says what may be imported there, and
what that must not leave behind; `job` is a copy that becomes the program of a job.
"""
