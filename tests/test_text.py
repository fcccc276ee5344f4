"""What is told: it never raises, never decides how a process ends, and does no harm to a terminal."""

import ast
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import experiment_manager
from experiment_manager import text
from experiment_manager.model.records import State
from experiment_manager.text import JobLines
from tests.conftest import Program, clean_env, wait_until

PACKAGE = Path(experiment_manager.__file__).parent
PRINTING = ("print", "print_exc", "print_exception", "echo", "secho")


def test_only_one_module_prints() -> None:
    """Nothing in the package prints but `text`: whoever else did could raise, or send a terminal what a job said."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", None) or getattr(node.func, "attr", "")
            writes = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value).startswith("sys.std")
            if (name in PRINTING and not ast.unparse(node.func).startswith(("self.", "Console("))) or (
                writes and name == "write"
            ):
                found.append(f"{path.name}: {ast.unparse(node.func)}")
    assert [] == found


class Hostile:
    """A stream of a user's own, with an error of its own."""

    encoding = "ascii"

    def write(self, _: str) -> int:
        raise RuntimeError("no such window")

    def flush(self) -> None:
        raise KeyError("flush")


@contextmanager
def broken(kind: str, tmp_path: Path) -> Iterator[Any]:
    """A stream that cannot be written to, or not in these letters."""
    if kind == "none":
        yield None
    elif kind == "hostile":
        yield Hostile()
    elif kind == "gone terminal":
        ours, theirs = pty.openpty()
        with os.fdopen(theirs, "w") as stream:
            os.close(ours)
            yield stream
            os.dup2(os.open(os.devnull, os.O_WRONLY), theirs)
    elif kind == "gone reader":
        ours, theirs = os.pipe()
        os.close(ours)
        with os.fdopen(theirs, "w") as stream:
            yield stream
            os.dup2(os.open(os.devnull, os.O_WRONLY), theirs)
    elif kind == "ascii":
        with open(tmp_path / "ascii", "w", encoding="ascii") as stream:
            yield stream
    else:
        stream = open("/dev/full" if kind == "full" else os.devnull, "w")  # noqa: SIM115
        if kind == "closed":
            stream.close()
        yield stream
        if not stream.closed:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            stream.close()


@pytest.mark.parametrize("kind", ["none", "hostile", "gone terminal", "gone reader", "ascii", "full", "closed"])
def test_nothing_that_is_told_raises(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever has become of standard error and output, what is told there is told or lost, and nothing else."""
    with broken(kind, tmp_path) as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        for _ in range(3):
            text.tell("\u2500 \u00e9 \ud800 [bold]")
            text.say("x" * 10_000)
            text.say_json('"\u00e9"')
            text.LogText().say(b"\xff\x1b[2J")
            text.flush()
        try:
            raise ValueError("x")
        except ValueError:
            text.tell_traceback()
        with JobLines(1).showing() as lines:
            lines.ended(0, State.FAILED, "a=1", seconds=0.0, reason="no")
        assert text.exit_status(3) == 3
    if kind == "ascii":
        written = (tmp_path / "ascii").read_text(encoding="latin-1")
        assert written.startswith("- \\xe9 \\ud800 [bold]\n")
        assert '"\\u00e9"' in written


def test_each_bar_tells_when_the_rest_will_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """By how many jobs have ended so far, once these are a few; by what is known better, once that is told; and
    nothing at the end."""
    shown: list[str] = []

    class Shown:
        def update(self, html: dict[str, str], *, raw: bool) -> None:
            shown.append(html["text/plain"].partition("  ")[2] if raw else "")

    monkeypatch.setattr(text, "_started_notebook_bar", lambda n: text._NotebookBar(lambda *_, **__: Shown(), n))
    with JobLines(6).showing() as lines:
        for job_id in range(6):
            lines.ended(job_id, State.COMPLETED, "", seconds=0.0, reason=None)
            told = shown[-1].partition("  ")[2]
            assert (job_id in (2, 3), job_id == 4) == ("about 0:00 left" == told, "soon" == told), (job_id, shown)
            if job_id == 3:
                lines.look_ahead("soon")
    assert "" == shown[-1].partition("  ")[2]


@pytest.mark.parametrize("where", ["2>/dev/full", "2>&-", "2>&1 | true", ">/dev/full 2>&1", ">&- 2>&-"])
def test_a_process_ends_as_it_means_to(where: str) -> None:
    """What cannot be told changes no exit status: not when it is told, nor when Python ends and flushes."""
    script = (
        "import sys; from experiment_manager import text; text.hold_numbers(); print('theirs')\n"
        "for _ in range(2000): text.tell('x' * 99)\n"
        "sys.exit(7)"
    )
    command = f'"$0" -c "$1" {where}; echo ${{PIPESTATUS[0]}} >&9'
    ours, theirs = os.pipe()
    with os.fdopen(ours) as told:
        subprocess.run(
            ["bash", "-c", command.replace(">&9", f">&{theirs}"), sys.executable, script],
            env=clean_env(PYTHONUNBUFFERED=""),
            pass_fds=[theirs],
            check=False,
        )
        os.close(theirs)
        assert told.read().strip() == "7"


def test_text_of_others_does_no_harm() -> None:
    """What a job said is one short line, without what steers a terminal; an exception without words has a name."""

    class Silent(Exception):
        def __str__(self) -> str:
            raise SystemExit(3)

    assert text.described(Silent()) == "Silent: <exception str() failed>"
    assert text.described(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert text.one_line("a\r\n\r\n b\x9b2J\u202e") == "a b\\x9b2J\\u202e"
    long = text.one_line("\x1b" * 10_000_000)
    assert (text.MOST_CHARACTERS, "...") == (len(long), long[-3:])
    assert text.one_line("a" + "\n" * 1_000_000 + "b") == "a..."


@pytest.mark.usefixtures("light")
def test_jobs_end_well_when_the_terminal_does_not(program: Program) -> None:
    """A sweep whose terminal is gone runs all its jobs, and ends with 0; what they said is in their logs."""
    ours, theirs = pty.openpty()
    sweep = subprocess.Popen(
        [sys.executable, "train.py", "-m", "seed=1,2", "hydra.launcher.n_jobs=1"],
        cwd=program.home,
        env=clean_env(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),  # as after `disown -h`
    )
    os.close(theirs)
    wait_until(lambda: b"running" in os.read(ours, 4096))
    os.close(ours)
    assert sweep.wait(60) == 0
    assert ["0.1.COMPLETED", "1.1.COMPLETED"] == program.states()
    shell = f'"$0" -m experiment_manager "$@" {program.experiment}'
    assert _shell(program, shell + " 0 2>/dev/full", "run")[0] == 0
    assert _shell(program, shell + " 1 2>&-", "run")[0] == 0
    assert ["0.1.COMPLETED", "0.2.COMPLETED", "1.1.COMPLETED", "1.2.COMPLETED"] == program.states()
    assert _shell(program, shell + " >/dev/full", "status") == (
        1,
        "error: standard output is not complete: No space left on device\n",
    )
    assert _shell(program, shell + " | true; exit ${PIPESTATUS[0]}", "status") == (0, "")
    assert _shell(program, shell + " --where 'seed < 3' 2>/dev/full --no-such-option", "results")[0] == 2


def _shell(program: Program, command: str, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, *words],
        cwd=program.home, env=clean_env(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.usefixtures("light")
def test_what_jobs_say_is_shown_on_one_line(program: Program) -> None:
    """A long message with escape codes: in the sweep's lines, in `status` and in `show`, in whatever encoding."""
    program.edit(
        'raise ValueError("told to raise")', 'raise ValueError("\u00e9\\x1b[31m[red]" + "x" * 9999)', "train.py"
    )
    done = program.sweep("how=raise", PYTHONIOENCODING="ascii")
    shown = "ValueError: \\xe9\\x1b[31m[red]xx"
    assert shown in done.stderr
    assert max(map(len, done.stderr.splitlines())) < 500
    for verb in ("status", "show"):
        told = program.tool(verb, *["0"][: verb == "show"], PYTHONIOENCODING="ascii")
        assert shown in told.stdout
        assert (0, True, False) == (told.returncode, told.stdout.isascii(), "\x1b" in told.stdout)
    (trouble,) = json.loads(program.tool("status", "--json", PYTHONIOENCODING="ascii").stdout)["troubles"]
    assert trouble["reason"].startswith("ValueError: \u00e9")
