"""The command `experiment-manager`. `run` takes a short way, because every task pays for what is imported."""

import gc
import os
import sys

from experiment_manager import text

_MANY = 100_000
"""So many new objects before Python looks for garbage among them."""


def main() -> None:
    text.protect()
    if sys.argv[1:2] == ["run"]:
        gc.disable()  # nothing that is imported is ever garbage, and looking for some takes a twentieth of the start
        from experiment_manager.execution.run import main as run

        gc.enable()
        status = run(sys.argv[2:])
        text.settle()
        os._exit(status)  # a signal during the interpreter's own shutdown would change the status (measured)
    gc.disable()
    from experiment_manager.cli.main import main as command_line

    gc.enable()
    gc.set_threshold(_MANY)  # what is read of 100,000 jobs is in use, and to look for garbage in it takes a tenth
    status = text.exit_status(command_line(sys.argv[1:]))
    gc.disable()  # all of it is garbage now
    sys.exit(status)


if __name__ == "__main__":
    main()
