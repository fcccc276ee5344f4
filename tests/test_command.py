"""The command of a job survives Hydra's grammar and a shell, whatever is in its paths and overrides."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, example, given
from hypothesis import strategies as st

from experiment_manager.errors import FreezeError
from experiment_manager.execution.command import Place, job_command, pasteable, place_of, quoted, runner_command
from experiment_manager.model.records import Entry, Job, JobId, Recipe, Source
from experiment_manager.store.layout import Folder
from experiment_manager.store.programs import is_gone, missing_program
from tests.conftest import examples

PARSER = OverridesParser.create()
NASTY = st.text(alphabet="\\'\"${}[](),=: ~#%@?!*&|;<>`\t\näa1", max_size=12)
ARGUMENTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12) | NASTY

JOB = Job(JobId(7), "identity", {"seed": 1}, ("seed=1", "text='a b'", "+db=x"), "f", 1)
ENTRY = Entry("/usr/bin/python3", ("-O", "-X", "dev"), ("-m", "pkg.train"), ("--own", "a b"), "/work dir")
RECIPE = Recipe(
    entry=ENTRY,
    config_name="config",
    sources=(
        Source("main", "conf/abc/main", True),
        Source("command-line", "/etc/conf", False),
        Source("searchpath", "conf/abc/searchpath-2", True),
        Source("searchpath", "pkg://other.conf", False),
    ),
    hydra_overrides=("hydra/job_logging=default", "hydra.verbose=true"),
    job_name="train",
    task="train.py:main",
    on_drift="error",
    now={},
)


def parsed(override: str) -> Any:
    """The value that Hydra reads from an override."""
    return PARSER.parse_override(override).value()


@examples(150)
@given(st.text(max_size=12) | NASTY)
@example("\\")
@example("\\'")
@example("\\\\'")
@example("a\\\\")
@example('it\'s "quoted" = [a, {b: c}]')
def test_quoted_text_is_what_hydra_reads(text: str) -> None:
    """Hydra's own parser reads the text back from the quoted string, alone and inside a list."""
    assume("${" not in text)
    assert text == str(parsed(f"a={quoted(text)}"))
    assert [text, text] == [str(item) for item in parsed(f"a=[{quoted(text)},{quoted(text)}]")]


@examples(150)
@given(st.text(max_size=12) | NASTY, NASTY)
@example("it's \\'", "\\\\")
def test_place_is_read_from_overrides(sweep_dir: str, subdir: str) -> None:
    """Where another sweeper lets a job write is read back from the job's last overrides, and Hydra reads the same; any
    other job writes into its folder of the experiment."""
    assume("${" not in sweep_dir + subdir)
    folder = Folder("/experiments", "train")
    assert Place(7, "/experiments/train/jobs", "7", "/experiments/train/jobs/7") == place_of(folder, JOB)
    place = Place(3, sweep_dir, subdir, f"/{sweep_dir}/{subdir}")
    placed = JOB._replace(overrides=(*JOB.overrides, *place.overrides()))
    assert place == place_of(folder, placed)
    assert [3, *place[1:]] == [parsed(override) for override in placed.overrides[-4:]]


@pytest.mark.parametrize("text", ["${x}", "a/${now:%Y}/b", "${", "\\${x}"])
def test_interpolation_is_refused(text: str) -> None:
    """Text that Hydra would take for an interpolation is refused and quoted."""
    with pytest.raises(FreezeError) as refused:
        quoted(text)
    assert repr(text) in str(refused.value)


@examples(10)
@given(st.lists(st.lists(ARGUMENTS, max_size=5), min_size=12, max_size=12))
@example([["", "it's", '"', "$HOME", "`id`", "a\nb", "\\", "-n", "*", "~", "!x", "ü"]])
def test_pasteable_line_survives_bash(tmp_path_factory: pytest.TempPathFactory, lines: list[list[str]]) -> None:
    """What bash makes of the line is the working directory and, byte by byte, the arguments."""
    cwd = tmp_path_factory.mktemp("a 'b' $c") / 'd"e#'
    cwd.mkdir()
    script, expected = [], b""
    for arguments in lines:
        script.append(pasteable(["printf", r"%s\0", "|", *arguments], str(cwd)))
        expected += b"".join(item.encode() + b"\0" for item in ("|", *arguments))
    script.append(pasteable(["pwd"], str(cwd)))
    done = subprocess.run(["bash", "-c", "\n".join(script)], capture_output=True, check=True)
    assert expected + str(cwd).encode() + b"\n" == done.stdout


def test_whole_command(tmp_path: Path) -> None:
    """Program, Hydra's flags, the sweep's overrides of Hydra, the job's to the letter, and ours, in this order."""
    folder = Folder(tmp_path / "it's", "a=b")
    at = str(tmp_path / "it's" / "a=b")
    assert [
        *("/usr/bin/python3", "-O", "-X", "dev", "-m", "pkg.train", "--own", "a b"),
        *("-cp", f"{at}/conf/abc/main", "-cd", "/etc/conf", "-cn", "config"),
        *("hydra/job_logging=default", "hydra.verbose=true"),
        *("seed=1", "text='a b'", "+db=x"),
        *("hydra.mode=RUN", f"hydra.run.dir={quoted(f'{at}/jobs/7')}", "hydra.job.num=7"),
        f"hydra.searchpath=[{quoted(f'file://{at}/conf/abc/searchpath-2')},'pkg://other.conf']",
    ] == job_command(folder, JOB, RECIPE)


def test_command_without_config_and_with_a_pickle(tmp_path: Path) -> None:
    """Without sources, config and overrides nothing is said about them; a pickled task has its name told."""
    folder = Folder(tmp_path, "train")
    bare = RECIPE._replace(config_name=None, sources=(), hydra_overrides=())
    command = job_command(folder, JOB._replace(overrides=()), bare)
    assert ["hydra.mode=RUN", f"hydra.run.dir='{tmp_path}/train/jobs/7'", "hydra.job.num=7"] == command[8:]
    pickled = job_command(folder, JOB, bare._replace(task_pickle="launches/0001/task.pkl", job_name="it's"))
    pickle = f"{tmp_path}/train/launches/0001/task.pkl"
    start = ["-O", "-X", "dev", "-m", "experiment_manager.hydra.pickled_task", pickle]
    assert start == pickled[1:7]
    assert r"hydra.job.name='it\'s'" == pickled[-1]


@pytest.mark.parametrize(
    "name", ["it's", "a=b,c", "[x]", "{y: 1}", "ü 日本", 'say "hi"', "back\\slash", "end\\", "a#b?c%d", "$HOME"]
)
def test_our_overrides_are_hydras_grammar(tmp_path: Path, name: str) -> None:
    """Hydra's parser reads every override of a job whose folder has a hostile name, and finds the folder in it."""
    folder = Folder(tmp_path / name, name)
    ours = [item for item in job_command(folder, JOB, RECIPE) if item.startswith(("hydra.", "++hydra"))]
    values: dict[str, Any] = {override.key_or_group: override.value() for override in PARSER.parse_overrides(ours)}
    assert f"{tmp_path}/{name}/{name}/jobs/7" == str(values["hydra.run.dir"])
    assert f"file://{tmp_path}/{name}/{name}/conf/abc/searchpath-2" == str(values["hydra.searchpath"][0])
    assert 7 == values["hydra.job.num"]
    assert "RUN" == values["hydra.mode"]


def test_path_with_an_interpolation_is_refused(tmp_path: Path) -> None:
    """A path that Hydra would resolve cannot be handed over."""
    with pytest.raises(FreezeError):
        job_command(Folder(tmp_path / "${x}", "train"), JOB, RECIPE)


def test_runner_gets_its_job(tmp_path: Path) -> None:
    """A runner script is told the job, the path and the name, each as an argument of its own."""
    command = runner_command(Folder(tmp_path / "a b", "it's"), JOB, [sys.executable, "my runner.py"])
    assert [sys.executable, "my runner.py", "--job-id", "7"] == command[:4]
    assert ["--experiment-path", str(tmp_path / "a b"), "--experiment-name", "it's"] == command[4:]


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES, errno.ENOENT])
def test_a_program_is_missing_where_the_disk_says_so(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of a disk is no answer; a module, and a function that travels as a pickle, have no file to look for."""
    look, folder = os.stat, Folder(tmp_path, "train")
    recipe = RECIPE._replace(entry=ENTRY._replace(target=("train.py",), cwd=str(tmp_path)))
    (tmp_path / "train.py").touch()
    assert missing_program(folder, recipe) is None

    def erring(path: object, *arguments: object, **options: object) -> os.stat_result:
        if str(path).endswith("train.py"):
            raise OSError(number, os.strerror(number), path)
        return look(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", erring)
    path = f"{tmp_path}/train.py" if number == errno.ENOENT else None
    assert path == ((found := missing_program(folder, recipe)) and found.path)
    assert (path is not None) is is_gone(recipe.entry)
    assert missing_program(folder, RECIPE) is None
    assert missing_program(folder, recipe._replace(task_pickle="tasks/0.pkl")) is None


def test_a_module_is_gone_where_its_package_is_there(tmp_path: Path) -> None:
    """As after `git mv`; one that was installed elsewhere, or whose folder is not here, is not known to be gone."""
    package = tmp_path / "pkg"
    entry = ENTRY._replace(cwd=str(tmp_path))
    assert not is_gone(entry)
    package.mkdir()
    assert is_gone(entry)
    (package / "train.py").touch()
    assert not is_gone(entry)
