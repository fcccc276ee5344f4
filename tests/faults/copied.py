"""The process that is copied for each command with faults: as `command_line`, with the calls of the copy counted."""

import ctypes
import os
import socket
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent.parent))
    from tests import command_line

    injected = ctypes.CDLL(None)  # what is preloaded is part of it
    command_line.import_all()
    command_line.serve(socket.socket(fileno=int(sys.argv[1])))
    is_inside = os.environ.get("FAULTS_INSIDE") == "1"
    if is_inside:
        injected.faults_begin()
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0])) if sys.argv[0] != "-m" else "/nowhere"  # as a program
    if is_inside:
        command_line.run_copy()  # and ends as any Python does
    else:
        command_line.end_as_python(command_line.run_copy)
