"""The files that a worker makes for its jobs, with an fsync where it has one, and nothing else: no job runs.

python files_of_jobs.py FOLDER FIRST LAST
"""

import os
import sys

ANCHOR, RESERVE, RECORD = b"a" * 250, b"r" * 8192, b"e" * 350


def write(path: str, content: bytes, *, for_good: bool = False) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.write(handle, content)
    if for_good:
        os.fsync(handle)
    os.close(handle)


def sync(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def run(folder: str, number: int) -> None:
    """From the claim of a job to the record of its end."""
    anchor, own = f"{folder}/states/{number}.1", f"{folder}/jobs/{number}"
    os.mkdir(own)
    write(f"{anchor}.tmp", ANCHOR, for_good=True)
    for name in ("result", "attempt"):
        write(f"{own}/{name}.tmp", RESERVE)
    os.link(f"{anchor}.tmp", anchor)
    for name in ("result", "attempt"):
        os.rename(f"{own}/{name}.tmp", f"{own}/{name}.reserve")
    os.link(anchor, f"{anchor}.RUNNING")
    os.unlink(f"{anchor}.tmp")
    for name in ("stdout", "stderr"):
        write(f"{own}/{name}.1.log", b"")
    write(f"{own}/attempt.tmp", RECORD, for_good=True)
    os.rename(f"{own}/attempt.tmp", f"{own}/attempt.1.json")
    sync(own)
    for name in ("result", "attempt"):
        os.unlink(f"{own}/{name}.reserve")
    os.rename(f"{anchor}.RUNNING", f"{anchor}.COMPLETED")


for number in range(int(sys.argv[2]), int(sys.argv[3]) + 1):
    run(sys.argv[1], number)
