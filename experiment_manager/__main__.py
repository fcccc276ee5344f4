"""The command `experiment-manager`. `run` takes a short way, because every task pays for what is imported."""

import gc
import os
import sys

from experiment_manager import text


def main() -> None:
    text.protect()
    if sys.argv[1:2] == ["run"]:
        gc.disable()  # nothing that is imported is ever garbage, and looking for some takes a twentieth of the start
        from experiment_manager.execution.run import main as run

        gc.enable()
        status = run(sys.argv[2:])
        text.settle()
        os._exit(status)  # a signal during the interpreter's own shutdown would change the status (measured)
    from experiment_manager.cli.main import main as command_line

    sys.exit(text.exit_status(command_line(sys.argv[1:])))


if __name__ == "__main__":
    main()
