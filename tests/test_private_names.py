"""Names of Hydra and OmegaConf that are promised to nobody: a release without one of them costs time, and no sweep."""

import ast
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import experiment_manager
from experiment_manager.hydra.private_names import NAMES
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest
from tests.conftest import APP, Program

PACKAGE = Path(experiment_manager.__file__).parent
NEAR_HYDRA = [
    *(path for path in (PACKAGE / "hydra").glob("*.py") if path.stem != "private_names"),
    *(PACKAGE / "model").glob("*.py"),
    *(PACKAGE.parent / "hydra_plugins").rglob("*.py"),
]
OF_PYTHON = {"_replace", "_asdict", "_fields", "_field_defaults", "_getframe", "_eval_name"}
"""Names with an underscore that are promised: by Python, and by simpleeval to those who extend it."""

PRELUDE = """
import os
from experiment_manager.hydra import private_names


def gone():
    raise {"module": ImportError, "name": AttributeError}[os.environ["HOW"]]


for name in filter(None, [os.environ["GONE"]]):
    private_names.NAMES[name] = private_names.NAMES[name]._replace(get=gone, since=(1, 0))


"""
GRID = (
    *("algorithm=TD3,DDPG", "tau=0.1", r"+late=[1],['it\'s']", "~deaf"),
    *("hydra.sweeper.pass_filter='cfg.algorithm.gain < 9'", "hydra/launcher=slurm_script"),
)


N_JOBS = 4


def program_without(home: Path) -> Program:
    """A program that, as it begins, has no more what is named in its environment, in its sweeps and in its jobs."""
    shutil.copytree(APP, home, ignore=shutil.ignore_patterns("__pycache__"))
    script = home / "train.py"
    script.write_text(PRELUDE + script.read_text())
    return Program(home)


def written_by(program: Program) -> list[str]:
    """The jobs as the manifest has them, with their configurations, and how they are composed again."""
    with Manifest(Folder.at(program.experiment)) as manifest:
        jobs = [manifest.job(job_id) for job_id in range(N_JOBS)]
        configured = [(job, manifest.encoded_configuration(job.id)) for job in jobs]
        recipes = [manifest.recipe(job.recipe or 0)._replace(now={}) for job in jobs]
    return [str(found).replace(str(program.home), "HOME") for found in (*configured, *recipes)]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the sweep writes while all names are there."""
    program = program_without(tmp_path_factory.mktemp("all") / "home")
    done = program.sweep(*GRID, GONE="", HOW="")
    assert 0 == done.returncode, done.stderr
    assert "any more" not in done.stderr
    assert f"{N_JOBS} new in the manifest" in done.stderr
    return written_by(program)


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_needs_no_private_name(name: str, tmp_path: Path, expected: list[str]) -> None:
    """Without it, the manifest is the same, and one line says what is gone."""
    program = program_without(tmp_path / "home")
    done = program.sweep(*GRID, GONE=name, HOW="module" if "." in name else "name")
    assert 0 == done.returncode, done.stderr
    assert 1 == done.stderr.count(f" has no {name} any more, so "), done.stderr
    assert expected == written_by(program)


@pytest.mark.parametrize("name", ["Callbacks", "JobReturn._return_value"])
def test_jobs_need_no_private_name(name: str, tmp_path: Path) -> None:
    """Without it, a job leaves what it returns, and its error where it fails."""
    program = program_without(tmp_path / "home")
    done = program.sweep("seed=4", "how=well,raise", GONE=name, HOW="name")
    assert 1 == done.returncode, done.stderr
    assert ["0.1.COMPLETED", "1.1.FAILED"] == program.states()
    assert 6.0 == json.loads((program.experiment / "jobs/0/result.1.json").read_text())["result"]
    assert "told to raise" in (program.experiment / "jobs/1/error.1.json").read_text()


def foreign_names(path: Path) -> Iterator[str]:
    """The private names that a file takes from elsewhere."""
    tree = ast.parse(path.read_text())
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names = [*module, *(alias.name for alias in node.names)]
            private = [part for name in names for part in name.split(".") if part.startswith("_")]
            yield from (part for part in private if part != "__future__")
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            if node.attr not in own | OF_PYTHON:
                yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "hydra._internal" in node.value:
            yield node.value


@pytest.mark.parametrize("path", NEAR_HYDRA, ids=lambda path: path.stem)
def test_private_names_have_one_place(path: Path) -> None:
    """No other module that knows Hydra or OmegaConf uses a name of theirs that begins with an underscore."""
    assert [] == list(foreign_names(path))
