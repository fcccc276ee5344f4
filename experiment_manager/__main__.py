"""The command `experiment-manager`. `run` takes a short way, because every task pays for what is imported."""

import os
import sys


def main() -> None:
    if sys.argv[1:2] == ["run"]:
        from experiment_manager.run import main as run

        status = run(sys.argv[2:])
        _flush()
        os._exit(status)  # a signal during the interpreter's own shutdown would change the status (measured)
    from experiment_manager.cli.main import main as command_line

    status = command_line(sys.argv[1:])
    _flush()
    sys.exit(status)


def _flush() -> None:
    """All that was said is out; nothing is said about a reader that has had enough, as in `| head`."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # Python flushes once more when it ends


if __name__ == "__main__":
    main()
