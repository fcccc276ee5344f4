"""The rules that hold for all code: functions stay small, what is public is documented, entry points are cheap.

Which layer imports from which is a contract in `pyproject.toml`, held by import-linter in `make check`.
"""

import ast
import dataclasses
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import experiment_manager
from tests.conftest import clean_env

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "experiment_manager"
PLUGINS = ROOT / "hydra_plugins" / "hydra_experiment_manager"


PACKAGES = {".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("__init__.py")}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """How this file names a module: `states`, `slurm.script`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imported(path: Path, *, at_import_only: bool = False) -> Iterator[str]:
    """The modules that a file imports, also inside functions; those under TYPE_CHECKING do not count."""
    tree = ast.parse(path.read_text())
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        if at_import_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield from [f"{module}.{alias.name}" for alias in node.names] if module in PACKAGES else [module]
        pending.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize("path", [*modules(), *sorted(PLUGINS.glob("*.py")), ROOT / "train.py"], ids=lambda p: p.stem)
def test_functions_stay_small(path: Path) -> None:
    """A function has under 60 lines, and a module says what it is."""
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines < 60 or isinstance(node, ast.ClassDef), f"{node.name} has {lines} lines"
    assert ast.get_docstring(ast.parse(text))


def public_definitions(path: Path) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node


def test_the_package_keeps_its_promises() -> None:
    """Everything in __all__ can be had, has a docstring, and an unknown name is answered with those that there are."""
    for name in experiment_manager.__all__:
        assert getattr(experiment_manager, name).__doc__, name
    with pytest.raises(AttributeError, match="it offers SLURM, Attempt, AttemptDetails, Cleaning, Comparison"):
        _ = experiment_manager.NoSuchName


def test_errors_have_one_root() -> None:
    """Every error of the tree can be caught by its root, and the tree in the docstring names them all."""
    errors = importlib.import_module("experiment_manager.errors")
    for node in public_definitions(PACKAGE / "errors.py"):
        assert issubclass(getattr(errors, node.name), errors.ExperimentManagerError)
        assert node.name in (errors.__doc__ or "")


def test_plugins_import_nothing_that_hydra_has_not() -> None:
    """What Hydra executes in every program on the machine imports Hydra, the schema, and the standard library."""
    for path in PLUGINS.glob("*.py"):
        names = {name.split(".")[0] for name in imported(path, at_import_only=True)}
        allowed = {"hydra", "omegaconf", "experiment_manager"} | set(sys.stdlib_module_names)
        assert names <= allowed
        assert {name for name in imported(path, at_import_only=True) if name.startswith("experiment_manager")} <= {
            "experiment_manager.hydra.schema"
        }


def test_discovery_adds_few_modules(tmp_path: Path) -> None:
    """A Hydra program that does not use us imports, because of us, the package itself, the schema, and no more than the
    record of options that the schema is derived from."""
    script = (
        "import json, sys\nfrom hydra.core.plugins import Plugins\nPlugins.instance()\n"
        "print(json.dumps(sorted(name for name in sys.modules if name.startswith('experiment_manager'))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=clean_env(), capture_output=True, text=True, check=True
    )
    assert [
        "experiment_manager",
        "experiment_manager.errors",
        "experiment_manager.hydra",
        "experiment_manager.hydra.schema",
        "experiment_manager.scheduler",
        "experiment_manager.scheduler.slurm",
        "experiment_manager.scheduler.slurm.options",
    ] == json.loads(done.stdout)


def test_slurm_schema_is_the_record() -> None:
    """Hydra's options for SLURM are the record's, one by one, and take a user of hydra-submitit-launcher over."""
    from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf

    from experiment_manager.hydra.schema import slurm_node
    from experiment_manager.scheduler.slurm.options import valid_options

    ours = slurm_node("Launcher")
    own = {"_target_", "experiment_name", "experiment_path", "snapshot", "join", "after"}
    assert {*valid_options(), *own} == set(ours)
    for theirs in dataclasses.fields(SlurmQueueConf):
        if theirs.name != "_target_" and theirs.default is not dataclasses.MISSING:
            assert theirs.default == ours[theirs.name], theirs.name


def test_schema_and_options_agree() -> None:
    """Every option of the schema is one that the sweeper reads, with the defaults that the README names."""
    from experiment_manager.hydra.schema import Options, SweeperConf

    in_schema = set(SweeperConf.__dataclass_fields__) - {"_target_", "_recursive_", "max_batch_size"}
    assert in_schema == set(Options._fields)


def test_no_word_of_the_machine() -> None:
    """No absolute path of a machine it was written on, and no bare print of debugging, is in the sources."""
    for path in [*modules(), *PLUGINS.glob("*.py"), ROOT / "train.py", ROOT / "README.md", ROOT / "Makefile"]:
        text = path.read_text()
        assert not re.search(r"/(work|root|home)/", text), path
        assert "breakpoint(" not in text, path


OPENS = {
    "store.documents": "reads whatever an experiment holds: regular files, without waiting",
    "store.files": "writes under names that nobody else has, and appends without following a link",
    "store.lock": "a lock has a name that all know",
    "store.reserve": "writes into files of its own, which it has looked at",
    "store.states": "asks whether a file is there, and reads nothing",
    "store.results": "savers are given a path to write to",
    "analysis.archive": "packs no link, and nothing that a file was exchanged for",
    "report.page": "reads the page's template from the package",
    "model.filters": "reads the source of a module",
    "store.processes": "reads /proc",
    "execution.run": "writes where the batch script asks it to",
    "execution.child": "writes to /proc",
    "execution.resources": "reads /proc and /sys",
    "execution.forkserver.job": "reads the program",
    "execution.forkserver.program": "reads the program, and the modules that it names",
    "execution.forkserver.sharing": "reads where a package was installed from",
    "execution.signals": "reads /proc",
    "testing": "makes the runner of its jobs, in a folder of the test",
    "text": "streams of this process, and /dev/null",
}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_files_that_others_may_have_laid_are_opened_in_one_place(path: Path) -> None:
    """A module opens a file itself only when it makes a new one, under a name that is not there, or has a reason."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    calls = [ast.unparse(node) for node in nodes if isinstance(node, ast.Call)]
    found = [
        call for call in calls if call.startswith(("open(", "os.open(", "io.open(", "tarfile.open(", "gzip.open("))
    ]
    found += [call for call in calls if re.search(r"\.(read|write)_(text|bytes)\(", call)]
    opens = [call for call in found if not re.search(r"'(x[^']*)'|O_EXCL", call)]
    assert bool(opens) == (name_of(path) in OPENS), opens


@pytest.mark.parametrize("path", [*modules(), *sorted(PLUGINS.glob("*.py"))], ids=lambda p: p.stem)
def test_no_folder_is_passed_over_in_silence(path: Path) -> None:
    """Nobody walks through folders by what leaves out those that cannot be listed: `store.files.walked` raises."""
    calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    silent = re.compile(r"(os\.f?walk|.*\b(r?glob|iglob|glob[01])|(?!ast\.|libcst\.).*\.walk)").fullmatch
    assert [] == [call for call in calls if silent(call)]


LOOKS = {
    "execution.forkserver.client.ForkServer.can_run": "at /proc, which no server shows",
    "execution.forkserver.job.is_plain": "the job is started as without a fork server",
    "execution.forkserver.sharing.Imports._of_the_program": "what Python has just read",
    "execution.forkserver.sharing.Imports.trouble": "at /proc",
    "execution.forkserver.sharing._comes_from_a_folder": "where modules were imported from a moment ago",
    "execution.forkserver.warm_worker._run_forked": "at /proc",
    "execution.resources.may_have_gpus": "at /dev",
    "execution.supervisor._Supervision._look_for_result": "it looks again at each turn",
    "hydra.entry._file": "a script that cannot be seen may be any, and refuses no sweep",
    "store.code._tell_what_is_not_copied": "for a note to people, about what links lead to",
    "store.layout._has_manifest": "for a suggestion to people",
    "store.layout._make_folder": "what cannot be seen is made, and the system says what is wrong",
    "store.results._folder_or_file": "after an error, to lay back what was there",
    "store.results._save": "the folder is listed then",
    "store.states.States.cancelled_for": "whoever claims the job asks again, and learns what is wrong",
    "store.states.States.may_write": "whoever writes then learns what is wrong",
    "testing.Jobs.has_begun": "for tests",
    "trust._keeps_modes": "whoever makes a file there learns what is wrong",
    "trust.how_to_close": "for the words of a way out",
}
"""Who may ask whether something is there by what answers False where a file system errs, and why nothing follows."""


def asking(path: Path) -> Iterator[str]:
    """The functions of a module that ask so."""
    silent = re.compile(r"os\.path\.(l?exists|is(file|dir|link))|(?!os\.path).*\.exists|.*\.is_(file|dir)\(\)")
    pending: list[tuple[ast.AST, str]] = [(ast.parse(path.read_text()), "")]
    while pending:
        node, within = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            within += f".{node.name}"
        if isinstance(node, ast.Attribute | ast.Call) and silent.fullmatch(ast.unparse(node)):
            yield f"{path.stem if path.is_relative_to(PLUGINS) else name_of(path)}{within}"
        pending.extend((child, within) for child in ast.iter_child_nodes(node))


def test_what_cannot_be_looked_at_is_not_taken_for_absent() -> None:
    """os.path.exists, Path.exists and their like are False where a disk or its server errs: what follows from that is
    asked by `store.files.is_there`, `exists`, `is_file`, `is_folder` and `is_link`, which raise."""
    found = {name for path in [*modules(), *PLUGINS.glob("*.py")] for name in asking(path)}
    assert sorted(LOOKS) == sorted(found)
