"""The runner: which rows, how large, and where the table goes."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.place import Place
from benchmarks.rows import (
    child,
    following,
    growth,
    original,
    planning,
    pool,
    seml,
    start,
    status,
    submission,
    tree,
    workers,
)
from benchmarks.table import Line, markdown, measured_with
from benchmarks.timing import Failed

ROWS: dict[str, Callable[[Place], Iterator[Line]]] = {
    module.__name__.rpartition(".")[2]: module.lines
    for module in (planning, growth, tree, start, original, submission, child, pool, workers, status, following, seml)
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure us beside our peers.")
    command.add_argument("rows", nargs="*", metavar="ROW", help=f"which rows, by default all: {', '.join(ROWS)}")
    command.add_argument("--quick", action="store_true", help="tiny sizes: shows that it works; the numbers say little")
    command.add_argument("--rounds", type=int, help="how often each contestant is measured (3; with --quick 1)")
    command.add_argument("--out", type=Path, metavar="FILE", help="write the table into this file, too")
    return command


def main() -> int:
    command = parser()
    options = command.parse_args()
    unknown = [name for name in options.rows if name not in ROWS]
    if unknown:
        command.error(f"no row is called {unknown[0]}; there are {', '.join(ROWS)}")
    rounds = options.rounds or (1 if options.quick else 3)
    lines: list[Line] = []
    failed = 0
    with tempfile.TemporaryDirectory(prefix="experiment-manager-benchmarks-") as home:
        place = Place(home=Path(home).resolve(), is_quick=options.quick, rounds=rounds)
        for name in options.rows or ROWS:
            print(f"{time.strftime('%H:%M:%S')} {name}", file=sys.stderr, flush=True)
            try:
                lines.extend(ROWS[name](place))
            except Failed as failure:
                print(f"  {failure}", file=sys.stderr, flush=True)
                lines.append(Line(what=name, why_not=str(failure)[:300]))
                failed += 1
    text = report(lines, rounds=rounds, is_quick=options.quick)
    print(text, end="")
    if options.out:
        options.out.write_text(text)
    return 1 if failed else 0


def report(lines: list[Line], *, rounds: int, is_quick: bool) -> str:
    """The page: the table, and what it was measured with."""
    size = "**Quick sizes: the targets are meant for the full ones.** " if is_quick else ""
    runs = "one run" if rounds == 1 else f"medians of {rounds} runs"
    head = f"{size}Measured on {time.strftime('%Y-%m-%d')}, {runs}; how is said in `benchmarks/__init__.py`."
    return f"# Benchmarks\n\n{head}\n\n{markdown(lines)}\n{measured_with()}"


if __name__ == "__main__":
    sys.exit(main())
