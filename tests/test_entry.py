"""How a program was started, asked of real interpreters: started again that way, it is the same program."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_manager.hydra.entry import _before, _split
from tests.conftest import clean_env, examples

TELL = """
import json, sys
from experiment_manager.hydra.entry import this_program
entry = this_program()
tell = {"file": globals().get("__file__"), "optimize": sys.flags.optimize, "dev": sys.flags.dev_mode}
print(json.dumps({**tell, "argv": sys.argv[1:], "entry": entry and entry._asdict()}))
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with one program as a script, as a module and as a package."""
    home = tmp_path / "my home"
    (home / "pkg" / "sub").mkdir(parents=True)
    (home / "other").mkdir()
    for file in ("train.py", "pkg/mod.py", "pkg/sub/__main__.py", "other/train.py"):
        (home / file).write_text(TELL)
    return home


def told(home: Path, *arguments: str, stdin: str | None = None) -> Any:
    """What the program says of itself."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=home,
        env=clean_env(),
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    return json.loads(done.stdout)


def again(entry: Any, *arguments: str) -> Any:
    """What the program says of itself when it is started from its entry, with other arguments."""
    command = [entry["python"], *entry["flags"], *entry["target"], *entry["app_arguments"], *arguments]
    done = subprocess.run(command, cwd=entry["cwd"], env=clean_env(), capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("started", "flags", "target"),
    [
        (["train.py"], [], ["train.py"]),
        (["./train.py"], [], ["./train.py"]),
        (["-O", "train.py"], ["-O"], ["train.py"]),
        (["-OO", "-B", "train.py"], ["-OO", "-B"], ["train.py"]),
        (["-X", "dev", "train.py"], ["-X", "dev"], ["train.py"]),
        (["-Xdev", "-Wignore", "train.py"], ["-Xdev", "-Wignore"], ["train.py"]),
        (["-W", "ignore", "-u", "train.py"], ["-W", "ignore", "-u"], ["train.py"]),
        (["-BX", "dev", "train.py"], ["-BX", "dev"], ["train.py"]),
        (["--check-hash-based-pycs", "never", "train.py"], ["--check-hash-based-pycs", "never"], ["train.py"]),
        (["-m", "pkg.mod"], [], ["-m", "pkg.mod"]),
        (["-mpkg.mod"], [], ["-m", "pkg.mod"]),
        (["-Om", "pkg.mod"], ["-O"], ["-m", "pkg.mod"]),
        (["-BOmpkg.mod"], ["-BO"], ["-m", "pkg.mod"]),
        (["-X", "dev", "-m", "pkg.mod"], ["-X", "dev"], ["-m", "pkg.mod"]),
        (["-m", "pkg.sub"], [], ["-m", "pkg.sub"]),
        (["pkg/sub"], [], ["pkg/sub"]),
    ],
)
def test_program_is_found_and_starts_again(home: Path, started: list[str], flags: list[str], target: list[str]) -> None:
    """Flags and target are those that were typed, Hydra's `-m` is not taken for the interpreter's, and the entry starts
    the same file with the same flags."""
    first = told(home, *started, "-m", "seed=1,2")
    entry = first["entry"]
    assert flags == entry["flags"]
    assert target == entry["target"]
    assert [] == entry["app_arguments"]
    assert (str(home), sys.executable) == (entry["cwd"], entry["python"])
    second = again(entry, "seed=1", "hydra.mode=RUN")
    assert ["seed=1", "hydra.mode=RUN"] == second["argv"]
    assert (home / first["file"]).samefile(home / second["file"])
    assert (first["optimize"], first["dev"]) == (second["optimize"], second["dev"])


def test_absolute_script_from_elsewhere(home: Path) -> None:
    """A script that was named by its whole path is named so again, hostile characters and all."""
    script = home / "it's = [a, b].py"
    script.write_text(TELL)
    entry = told(home / "other", str(script), "seed=1")["entry"]
    assert [str(script)] == entry["target"]
    assert str(script) == again(entry)["file"]


@pytest.mark.parametrize(
    ("arguments", "stdin"), [(["-c", TELL, "-m", "x"], None), (["-Oc", TELL], None), (["-"], TELL), ([], TELL)]
)
def test_no_program(home: Path, arguments: list[str], stdin: str | None) -> None:
    """What came by `-c` or from the standard input cannot be started again."""
    assert None is told(home, *arguments, stdin=stdin)["entry"]


@pytest.mark.parametrize(
    ("prelude", "typed", "taken"),
    [
        ("del sys.argv[1:3]", ["--gpu", "0", "-m", "seed=1,2"], ["--gpu", "0"]),
        (
            "sys.argv = [a for a in sys.argv if not a.startswith('--own')]",
            ["-m", "--own=x", "seed=1,2", "--own2"],
            ["--own=x", "--own2"],
        ),
        ("sys.argv = sys.argv[:1] + sys.argv[3:]", ["seed=1", "x", "seed=1"], ["seed=1", "x"]),
        ("sys.argv[1:] = []", ["a", "b"], ["a", "b"]),
        ("", ["-m", "x=1"], []),
    ],
)
@pytest.mark.parametrize("started", [["train.py"], ["-m", "train"]])
def test_program_that_takes_arguments_of_its_own(
    home: Path, started: list[str], prelude: str, typed: list[str], taken: list[str]
) -> None:
    """What a program took from `sys.argv` before Hydra saw it is given to it again."""
    (home / "train.py").write_text(f"import sys\n{prelude}\n{TELL}")
    first = told(home, *started, *typed)
    assert taken == first["entry"]["app_arguments"]


@pytest.mark.parametrize(
    "prelude", ["sys.argv.append('seed=1')", "sys.argv.insert(1, '-m'); sys.argv.remove('--fast')"]
)
def test_program_that_gives_hydra_what_nobody_typed(home: Path, prelude: str) -> None:
    """Such a program would do so again in every job, so it is not started again by its command line."""
    (home / "train.py").write_text(f"import sys\n{prelude}\n{TELL}")
    assert told(home, "train.py", "--fast", "x=1")["entry"] is None


@pytest.mark.parametrize("decoy", [False, True])
def test_script_that_changed_its_directory(home: Path, decoy: bool) -> None:
    """A script that has gone elsewhere is found from there, also where a file of its name lies there."""
    (home / "train.py").write_text(f"import os\nos.chdir({str(home / 'other')!r})\n{TELL}")
    (home / "other" / "train.py").unlink()
    if decoy:
        (home / "other" / "train.py").write_text("raise SystemExit('this is another program')")
    entry = told(home, "train.py", "seed=1")["entry"]
    assert str(home / "train.py") == again(entry)["file"]


def test_module_that_changed_its_directory(home: Path) -> None:
    """A module that has gone elsewhere is found again, too: the entry starts where the program was started."""
    (home / "pkg" / "mod.py").write_text(f"import os\nos.chdir({str(home / 'other')!r})\n{TELL}")
    entry = told(home, "-m", "pkg.mod", "seed=1")["entry"]
    assert str(home / "pkg" / "mod.py") == again(entry)["file"]


def test_program_under_another(home: Path) -> None:
    """A program that a module runs for us (`-m runpy train.py`, as coverage does) is started through it again."""
    (home / "wrapper.py").write_text(
        "import runpy, sys\nsys.argv = sys.argv[2:]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    entry = told(home, "-m", "wrapper", "run", "train.py", "-m", "seed=1,2")["entry"]
    assert (["-m", "wrapper"], ["run", "train.py"]) == (entry["target"], entry["app_arguments"])
    assert ["seed=1"] == again(entry, "seed=1")["argv"]


@pytest.mark.parametrize(
    "argv", [["python"], ["python", "-"], ["python", "-O"], ["python", "-c", "x"], ["python", "-Oc", "x"]]
)
def test_split_of_no_program(argv: list[str]) -> None:
    """A prompt, the standard input and `-c` are no program."""
    assert None is _split(argv)


@examples(100)
@given(
    st.lists(st.sampled_from(["a", "b", "--x", "-m"]), max_size=5),
    st.lists(st.sampled_from(["a", "-m", "s=1"]), max_size=4),
)
def test_what_stands_before_is_what_was_taken(taken: list[str], left: list[str]) -> None:
    """Whatever a program takes from the front is told apart from the rest, equal arguments or not."""
    assert tuple(taken) == _before([*taken, *left], left)


@examples(100)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c", "--x", "-m"]), st.booleans()), max_size=7, unique_by=lambda p: p[0]
    )
)
def test_what_was_taken_from_the_middle(arguments: list[tuple[str, bool]]) -> None:
    """Of different arguments those that are gone were taken, in their order, wherever they stood."""
    typed = [item for item, _ in arguments]
    assert tuple(item for item, stays in arguments if not stays) == _before(
        typed, [item for item, stays in arguments if stays]
    )
