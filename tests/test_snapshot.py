"""`hydra.launcher.snapshot=true`: jobs run the code of the moment in which they were launched, whatever is edited."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from experiment_manager.errors import FreezeError
from experiment_manager.store import code as code_copy
from experiment_manager.store.layout import Folder
from tests.conftest import Kept, Program, clean_env
from tests.test_provenance import git

pytestmark = pytest.mark.xdist_group("snapshot")  # what is prepared for several tests is prepared once
SCRIPT = """
import json, os, sys
import hydra

LETTER = "a"

@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg):
    from lib import model
    import late
    with open("text/settings.json") as file:
        settings = json.load(file)
    with open("data/set.txt") as file:
        data = file.read()
    return {"script": LETTER, "model": model.LETTER, "late": late.LETTER, "settings": settings, "data": data,
            "seed": cfg.seed}

if __name__ == "__main__":
    main()
"""
FILES = {
    ".gitignore": "experiments/\ndata/\n*.ignored.py\n",
    "scripts/train.py": SCRIPT,
    "scripts/conf/config.yaml": "defaults:\n  - override hydra/sweeper: experiment\n"
    "  - override hydra/launcher: slurm_script\n  - _self_\nseed: 0\n",
    "src/lib/__init__.py": "",
    "src/lib/model.py": "LETTER = 'a'\n",
    "src/late.py": "LETTER = 'a'\n",
    "text/settings.json": '"a"',
    "data/set.txt": "a",
}
SNAPSHOT = "hydra.launcher.snapshot=true"
AS_LAUNCHED = {"script": "a", "model": "a", "late": "a", "settings": "a", "data": "a"}
EDITED = {"script": "b", "model": "b", "late": "b", "settings": "b", "data": "b"}

HOOK = """
import importlib.machinery, importlib.util, os, sys

class Finder:  # as the one of an editable install by setuptools
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        for place in (f"{SRC}/{name}/__init__.py", f"{SRC}/{name}.py"):
            if os.path.exists(place):
                return importlib.util.spec_from_file_location(name, place)

SRC = os.environ["SRC"]
if "IS_MAPPED" in os.environ:
    MAPPING = {"lib": f"{SRC}/lib", "late": f"{SRC}/late"}
sys.meta_path.append(Finder)
"""


class Project(Program):
    """A program in a repository, with modules of its own in another folder than the script."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.env = {"PYTHONPATH": str(home / "src")}

    def make(self) -> None:
        """The files are there, and committed."""
        home = self.home
        for name, text in FILES.items():
            path = home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        git(home, "init", "-q")
        git(home, "add", ".")
        git(home, "commit", "-q", "-m", "first")

    def launch(self, *arguments: str, **more: Any) -> "subprocess.CompletedProcess[str]":
        """A sweep of one job by default, which SLURM would run; nothing runs yet."""
        arguments = arguments or ("seed=1", SNAPSHOT)
        done = self.run("-m", *arguments, script="scripts/train.py", **{**self.env, **more})
        assert done.returncode == 0, done.stderr
        return done

    def edit_all(self) -> None:
        """Every file says something else, and nothing of it is committed."""
        for name in ("scripts/train.py", "src/lib/model.py", "src/late.py"):
            path = self.home / name
            path.write_text(path.read_text().replace("LETTER = 'a'", "LETTER = 'b'").replace('= "a"', '= "b"'))
        (self.home / "text/settings.json").write_text('"b"')
        (self.home / "data/set.txt").write_text("b")

    def result(self, job_id: int, **env: str) -> Any:
        """What the job has returned, run by hand, but for its seed."""
        done = self.tool("run", str(job_id), **{**self.env, **env})
        assert done.returncode == 0, done.stderr + self.tool("logs", str(job_id), "--stderr").stdout
        row = next(row for row in self.told("results") if row["job"] == job_id)
        return {key: value for key, value in row["result"].items() if key != "seed"}


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = Project(tmp_path_factory.mktemp("made") / "home")
    project.make()
    return project.home


@pytest.fixture
def project(_made: Path, tmp_path: Path) -> Project:
    shutil.copytree(_made, tmp_path / "home")
    return Project(tmp_path / "home")


@pytest.fixture(scope="module")
def _launched(_made: Path, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    project = Project(tmp_path_factory.mktemp("launched") / "home")
    shutil.copytree(_made, project.home)
    project.launch()
    return Kept(project.home)


@pytest.fixture
def launched(_launched: Kept) -> Project:
    """A project that has launched one job, which is made once for all tests that begin with it."""
    _launched.put_back()
    return Project(_launched.home)


def test_editing_reaches_no_launched_job(project: Project) -> None:
    """Script, modules, also those that are imported late, and files by relative paths are those of the launch; what
    git does not track is not copied, and there all the same."""
    done = project.launch()
    (copy,) = (project.experiment / "code").iterdir()
    assert f"its jobs run from the snapshot {copy}\n" in done.stderr
    project.edit_all()
    assert {**AS_LAUNCHED, "data": "b"} == project.result(0)
    assert "snapshot" not in project.launch("seed=2").stderr
    assert EDITED == project.result(1)


def test_code_that_is_gone_runs(launched: Project) -> None:
    """A job needs nothing of what was copied any more."""
    for name in ("scripts/train.py", "src/lib/model.py", "src/late.py", "text/settings.json"):
        (launched.home / name).unlink()
    assert AS_LAUNCHED == launched.result(0)


def test_what_is_not_committed_is_copied(project: Project) -> None:
    """A snapshot has tracked files as they stand on disk, new Python files, no file that was removed; Python files
    that git ignores are linked, and named."""
    project.edit_all()
    (project.home / "src/new.py").write_text("")
    (project.home / "src/mine.ignored.py").write_text("")
    (project.home / "src/notes.txt").write_text("")
    (project.home / "scripts/conf/config.yaml").chmod(0o755)
    (project.home / "src/lib/__init__.py").unlink()
    assert f"mine.ignored ({project.home / 'src/mine.ignored.py'})\n" in project.launch().stderr
    (copy,) = (project.experiment / "code").iterdir()
    assert EDITED == project.result(0)
    assert (copy / "src/new.py").is_file()
    assert not (copy / "src/new.py").is_symlink()
    for name in ("src/mine.ignored.py", "src/notes.txt", "data", "experiments"):
        assert str(project.home / name) == os.readlink(copy / name)
    assert not (copy / "src/lib/__init__.py").exists()
    assert (0o555, 0o444) == tuple(
        (copy / name).stat().st_mode & 0o777 for name in ("scripts/conf/config.yaml", "text/settings.json")
    )


def test_same_code_is_copied_once(launched: Project) -> None:
    """Launches share a copy until the code is another one; what was linked since is there, too."""
    (launched.home / "more.txt").write_text("")
    launched.launch("seed=1,2", SNAPSHOT)
    (copy,) = (launched.experiment / "code").iterdir()
    assert (copy / "more.txt").exists()
    records = [json.loads((launched.experiment / f"launches/000{n}/launch.json").read_text()) for n in (1, 2)]
    assert [f"code/{copy.name}"] * 2 == [record["code"] for record in records]
    launched.edit_all()
    launched.launch("seed=1,2,3", SNAPSHOT)
    assert 2 == len(list((launched.experiment / "code").iterdir()))


def test_retries_keep_their_code_and_sweeps_bring_new_code(project: Project) -> None:
    """A failed job that is run again runs what it was launched with; the sweep, typed again, what there is now."""
    project.edit_all()
    project.edit("import late", "import late; 1 / 0", file="scripts/train.py")
    arguments = ("seed=1", SNAPSHOT, "hydra/launcher=local_pool")
    assert 1 == project.run("-m", *arguments, script="scripts/train.py", **project.env).returncode
    project.edit("1 / 0", "0 / 1", file="scripts/train.py")
    assert 1 == project.tool("resubmit", "--yes", **project.env).returncode
    assert ["0.1.FAILED", "0.2.FAILED"] == project.states()
    project.launch(*arguments)
    assert ["0.1.FAILED", "0.2.FAILED", "0.3.COMPLETED"] == project.states()


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_jobs_here_run_from_the_copy(project: Project, start_method: str) -> None:
    """The pool's jobs, forked or not, have the code of the moment in which the sweep began."""
    project.edit("import late", "import late, edit; edit.all_files()", file="scripts/train.py")
    (project.home / "edit.py").write_text(
        f"""
from pathlib import Path

def all_files():
    for name in ("scripts/train.py", "src/lib/model.py", "src/late.py", "text/settings.json"):
        path = Path({str(project.home)!r}, name)
        path.write_text(path.read_text().replace("'a'", "'b'").replace('"a"', '"b"'))
"""
    )
    project.env["PYTHONPATH"] += f":{project.home}"
    method = f"hydra.launcher.start_method={start_method}"
    done = project.launch("seed=1,2", SNAPSHOT, "hydra/launcher=local_pool", method, "hydra.launcher.n_jobs=1")
    assert "LETTER = 'b'\n" == (project.home / "src/late.py").read_text()
    found = [row["result"] for row in project.told("results")]
    assert [{**AS_LAUNCHED, "seed": seed} for seed in (1, 2)] == found
    assert "forked" not in done.stderr  # which would say that they cannot be
    log = project.experiment / "launches/0001/forkserver.log"
    assert not log.exists(), log.read_text()


def test_started_elsewhere_as_a_module_or_by_a_link(project: Project) -> None:
    """However the program was started, its jobs run from the copy."""
    elsewhere = project.home.parent / "elsewhere"
    elsewhere.mkdir()
    link = project.home.parent / "link"
    link.symlink_to(project.home)
    ways = {
        "absolute": (["scripts/train.py"], elsewhere, str(project.home) + "/"),
        "below": (["../scripts/train.py"], project.home / "data", ""),
        "link": ([f"{link}/scripts/train.py"], link, ""),
        "module": (["-m", "scripts.train"], project.home, ""),
    }
    for name, (target, cwd, before) in ways.items():
        words = [*target[:-1], before + target[-1]]
        place = f"hydra.sweeper.experiment_path={project.home / 'experiments'}"
        arguments = ["-m", "seed=1", SNAPSHOT, place, f"hydra.sweeper.experiment_name={name}"]
        if name in ("absolute", "below"):
            assert 0 == Program(cwd).python(*words, *arguments, **project.env).returncode
        else:  # which no copy of a process can take the place of
            command = [sys.executable, *words, *arguments]
            subprocess.run(command, cwd=cwd, env=clean_env(**project.env), check=True, capture_output=True)
    project.edit_all()
    for name, (_, cwd, _) in ways.items():
        project.experiment = project.home / "experiments" / name
        done = project.tool("run", "0", **project.env)
        if cwd == elsewhere or cwd.name == "data":  # relative paths are those of a directory that is not copied
            assert "No such file or directory: 'text/settings.json'" in project.tool("logs", "0", "--stderr").stdout
            (copy,) = (project.experiment / "code").iterdir()
            assert f"{copy}/scripts/train.py" in project.tool("logs", "0", "--stderr").stdout
        else:
            assert done.returncode == 0, project.tool("logs", "0", "--stderr").stdout
            assert {**AS_LAUNCHED, "data": "b", "seed": 1} == project.told("results")[0]["result"]


@pytest.mark.parametrize("is_imported", [True, False])
def test_editable_installs_are_copied(project: Project, *, is_imported: bool) -> None:
    """Modules that an import hook finds in the repository, as for `pip install -e .`, are taken from the copy: those
    that the launch has imported, and those that only the job imports."""
    hook = project.home.parent / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(HOOK)
    project.env = {"PYTHONPATH": str(hook), "SRC": str(project.home / "src")}
    if is_imported:
        project.edit("import hydra\n", "import hydra, lib, late\n", file="scripts/train.py")
    else:
        project.env["IS_MAPPED"] = "yes"
    project.launch()
    project.edit_all()
    assert {**AS_LAUNCHED, "data": "b"} == project.result(0)


def test_hooks_are_asked_for_what_is_imported_late(project: Project) -> None:
    """What an import hook would find in the repository is taken from the copy, imported at the launch or not."""
    hook = project.home.parent / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(HOOK)
    project.env = {"PYTHONPATH": str(hook), "SRC": str(project.home / "src")}
    project.launch()
    project.edit_all()
    assert {**AS_LAUNCHED, "data": "b"} == project.result(0)


def test_copied_places_are_searched_in_the_copy_only(project: Project) -> None:
    """A file that is new since the launch turns no copied folder into a package of today."""
    (project.home / "src/lib/__init__.py").unlink()
    project.launch()
    project.edit_all()
    (project.home / "src/lib/__init__.py").touch()
    assert {**AS_LAUNCHED, "data": "b"} == project.result(0)


def test_another_repository_in_the_environment(project: Project) -> None:
    """What a hook of git has set says nothing of which files belong to the program."""
    project.launch(GIT_DIR=str(project.home / ".git"))
    project.edit_all()
    assert {**AS_LAUNCHED, "data": "b"} == project.result(0)


def test_experiments_beside_code(project: Project) -> None:
    """Of a folder that holds experiments and code, the code is copied."""
    project.launch("seed=1", SNAPSHOT, f"hydra.sweeper.experiment_path={project.home / 'src'}")
    project.edit_all()
    project.experiment = project.home / "src/train"
    assert {**AS_LAUNCHED, "data": "b"} == project.result(0)


def test_half_a_copy_is_removed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends the copying, nothing of it is left."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupt)
    script = str(project.home / "scripts/train.py")
    with pytest.raises(KeyboardInterrupt):
        code_copy.copy_code(Folder(project.home, "x"), script, str(project.home), script)
    assert [] == list((project.home / "x/code").iterdir())


def test_what_is_not_copied_is_told(project: Project) -> None:
    """Imported code that is neither in the repository nor installed may be edited: it is named."""
    other = project.home.parent / "other"
    (other / "friend").mkdir(parents=True)
    (other / "friend/__init__.py").write_text("")
    project.edit("import hydra\n", "import hydra, friend\n", file="scripts/train.py")
    done = project.launch("seed=1", SNAPSHOT, PYTHONPATH=f"{project.home / 'src'}:{other}")
    assert f"snapshot: not copied, and so as it is when the jobs run: friend ({other})\n" in done.stderr


def test_the_command_that_is_shown_runs_the_copy(launched: Project) -> None:
    """`show` prints a line that, pasted, runs the same code."""
    launched.edit_all()
    launched.edit('return {"script"', 'print("edited"); return {"script"', file="scripts/train.py")
    line = launched.told("show", "0")["command"]
    (copy,) = (launched.experiment / "code").iterdir()
    assert line.startswith(f"cd {shlex.quote(str(copy))} && PYTHONPATH={copy}/scripts:{copy}/src ")
    done = subprocess.run(["bash", "-c", line], env=clean_env(), cwd="/", check=True, capture_output=True, text=True)
    assert "edited" not in done.stdout


def test_archives_have_the_code(launched: Project) -> None:
    """An archive has what was copied, and no links to what was not."""
    archive = launched.home.parent / "a.tar.gz"
    assert 0 == launched.tool("archive", "--out", str(archive)).returncode
    (copy,) = (launched.experiment / "code").iterdir()
    with tarfile.open(archive) as file:
        names = {name.removeprefix(f"train/code/{copy.name}/") for name in file.getnames() if "/code/" in name}
    assert {name for name in FILES if not name.startswith("data/")} == names


def test_links_keep_their_meaning(tmp_path: Path) -> None:
    """A link within the repository leads to the copy, one out of it to where it led."""
    home = tmp_path / "home"
    (home / "deep").mkdir(parents=True)
    (home / "train.py").write_text("a")
    (home / "deep/inside").symlink_to("../train.py")
    (home / "deep/whole").symlink_to(home / "train.py")
    (home / "deep/outside").symlink_to("../../data")
    (home / "deep/nothing").symlink_to("nowhere")
    (tmp_path / "data").write_text("data")
    git(home, "init", "-q")
    git(home, "add", ".")
    folder = Folder(home, "x")
    code = code_copy.copy_code(folder, str(home / "train.py"), str(home), str(home / "train.py"))
    copy = Path(folder.join(code.path))
    (home / "train.py").write_text("b")
    assert ("a", "a", "data") == tuple((copy / f"deep/{name}").read_text() for name in ("inside", "whole", "outside"))
    assert "nowhere" == os.readlink(copy / "deep/nothing")
    assert ("", "train.py") == (code.cwd, code.script)


def test_submodules_are_copied(project: Project) -> None:
    """Code of a submodule is code of the program."""
    other = project.home.parent / "other"
    other.mkdir()
    (other / "sub.py").write_text("")
    git(other, "init", "-q")
    git(other, "add", ".")
    git(other, "commit", "-q", "-m", "first")
    git(project.home, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(other), "libs/other")
    project.launch()
    (copy,) = (project.experiment / "code").iterdir()
    assert (copy / "libs/other/sub.py").is_file()
    assert not (copy / "libs").is_symlink()


@pytest.mark.parametrize("sentence", ["is in no git repository that can be read", "is ignored by git"])
def test_no_snapshot_no_launch(project: Project, sentence: str) -> None:
    """Where the code cannot be copied, one sentence says why, and nothing is written."""
    if "ignored" in sentence:
        git(project.home, "rm", "-q", "--cached", "scripts/train.py")
        (project.home / ".git/info/exclude").write_text("train.py\n")
    else:
        (project.home / ".git").rename(project.home / "git")
    env = {**project.env, "GIT_CEILING_DIRECTORIES": str(project.home.parent)}
    done = project.run("-m", "seed=1", SNAPSHOT, script="scripts/train.py", **env)
    assert 2 == done.returncode
    assert sentence in done.stderr
    assert "leave hydra.launcher.snapshot out" in done.stderr
    assert "Traceback" not in done.stderr
    assert not project.experiment.exists()


def test_too_much_is_not_copied(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that git tracks is not copied for a sweep; many files that it does not track are not linked."""
    folder, program = Folder(project.home, "x"), str(project.home / "scripts/train.py")
    monkeypatch.setattr(code_copy, "LARGEST_BYTES", 100)
    with pytest.raises(FreezeError, match=r"git tracks more than 0 MiB in .*home, at scripts/conf/config.yaml"):
        code_copy.copy_code(folder, program, str(project.home), program)
    assert not (project.home / "x").exists()
    monkeypatch.undo()
    monkeypatch.setattr(code_copy, "MOST_LINKS", 1)
    (project.home / "one.txt").touch()
    code = code_copy.copy_code(folder, program, str(project.home), program)
    assert not (Path(folder.join(code.path)) / "data").exists()


def test_copies_are_as_private_as_the_umask_says(project: Project) -> None:
    """Nobody else reads the code whom the umask keeps from it."""
    script = str(project.home / "scripts/train.py")
    before = os.umask(0o077)
    try:
        code = code_copy.copy_code(Folder(project.home, "x"), script, str(project.home), script)
    finally:
        os.umask(before)
    for path in (Path(project.home, "x", code.path), Path(project.home, "x", code.path, "scripts/train.py")):
        assert 0 == path.stat().st_mode & 0o077


def test_folders_that_python_cannot_search(project: Project) -> None:
    """A folder whose name PYTHONPATH would take apart is refused."""
    script = str(project.home / "scripts/train.py")
    with pytest.raises(FreezeError, match="a:b holds ':', which PYTHONPATH cannot name"):
        code_copy.copy_code(Folder(project.home, "a:b"), script, str(project.home), script)


def test_wrong_words_for_a_snapshot(project: Project) -> None:
    """An option that is neither true nor false is refused by both kinds of launchers."""
    for launcher in ("local_pool", "slurm_script"):
        arguments = ("-m", "seed=1", "hydra.launcher.snapshot=maybe", f"hydra/launcher={launcher}")
        done = project.run(*arguments, script="scripts/train.py", **project.env)
        assert done.returncode != 0
        assert "snapshot" in done.stderr
        assert "maybe" in done.stderr
        assert not project.experiment.exists()


@pytest.mark.parametrize("words", [(SNAPSHOT,), ()])
def test_a_launch_never_runs_the_code_of_a_later_one(project: Project, words: tuple[str, ...]) -> None:
    """A job that two sweeps have launched runs the code that its launch names: the first launch refuses it once the
    second has given it other code, in a sentence, and nothing is recorded; the second runs it."""
    project.launch("seed=1", SNAPSHOT)
    project.edit_all()
    project.launch("seed=1,2", *words)
    done = project.tool("run", "0", "--launch", "0001", **project.env)
    (first,) = {json.loads(path.read_text())["code"] for path in project.experiment.glob("launches/0001/launch.json")}
    assert 2 == done.returncode
    assert f"was to run from the snapshot {first} in launch 0001" in done.stderr
    assert [] == project.states()
    for job in (0, 1):
        done = project.tool("run", str(job), "--launch", "0002", **project.env)
        assert done.returncode == 0, done.stderr
    assert ["b", "b"] == [row["result"]["script"] for row in project.told("results")]


def test_copy_that_was_removed_is_named(launched: Project) -> None:
    """A job whose copy is gone never runs other code instead."""
    (copy,) = (launched.experiment / "code").iterdir()
    copy.rename(copy.with_name("elsewhere"))
    done = launched.tool("run", "0", **launched.env)
    assert 2 == done.returncode
    assert f"runs from the snapshot {copy}, which is not there" in done.stderr
    assert [] == launched.states()


def test_live_code_is_never_run_unsaid(project: Project) -> None:
    """A program that puts a whole path in front of all others finds its original there: its job ends before it begins,
    or, with `on_drift=warn`, says so; what is imported only later is told at the end."""
    first = f"import sys; sys.path.insert(0, {str(project.home / 'src')!r}); "
    project.edit("import hydra\n", f"{first}import hydra, late\n", file="scripts/train.py")
    project.launch()
    project.launch("seed=2", SNAPSHOT, "hydra.sweeper.on_drift=warn")
    project.edit("import hydra, late\n", "import hydra\n", file="scripts/train.py")
    project.launch("seed=3", SNAPSHOT)
    project.experiment.joinpath("pass_filter.json").write_text('{"jobs": [0, 1, 2]}')
    said = f"imports code as it is today, and not as its snapshot has it: late ({project.home}/src/late.py); let "
    assert [78, 0, 0] == [project.tool("run", str(job), **project.env).returncode for job in range(3)]
    assert ["0.1.FAILED", "1.1.COMPLETED", "2.1.COMPLETED"] == project.states()
    assert f"error: job 0 {said}" in project.tool("logs", "0", "--stderr").stdout
    for job in (1, 2):
        log = project.tool("logs", str(job), "--stderr").stdout
        assert f"warning: job {job} imports code as it is today, and not as its snapshot has it: " in log
        assert f"lib.model ({project.home}/src/lib/model.py)" in log
    assert said in project.told("show", "0")["attempts"][0]["reason"]
