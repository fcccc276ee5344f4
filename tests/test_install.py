"""Hydra finds the plugin however the package was installed; the core stays light."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib.metadata import PathDistribution, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import APP, clean_env

pytestmark = pytest.mark.xdist_group("install")  # which has one backend for all
ROOT = Path(__file__).parent.parent
PLUGINS = {
    "hydra_plugins.hydra_experiment_manager.beginning:ExperimentBeginning",
    "hydra_plugins.hydra_experiment_manager.launchers:LocalPoolLauncher",
    "hydra_plugins.hydra_experiment_manager.launchers:SlurmScriptLauncher",
    "hydra_plugins.hydra_experiment_manager.launchers:SlurmSubmititLauncher",
    "hydra_plugins.hydra_experiment_manager.sweeper:ExperimentOptunaSweeper",
    "hydra_plugins.hydra_experiment_manager.sweeper:ExperimentSweeper",
}
PIP = ("-m", "pip", "--disable-pip-version-check")
SOURCES = ["experiment_manager", "hydra_plugins", "conf", "train.py", "pyproject.toml", "README.md", "LICENSE"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built from, so that nothing of the checkout itself can be imported by accident."""
    copy = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, copy / name)
    return copy


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what builds this package, as `build-system.requires` names it, and what that asks for to install it
    editable."""
    place = tmp_path_factory.mktemp("backend")
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    call(sys.executable, *PIP, "install", "--quiet", "--target", str(place), *requires, "editables", cwd=place)
    return place


@pytest.fixture
def python(tmp_path: Path) -> str:
    """The interpreter of a new virtual environment with nothing in it."""
    venv.create(tmp_path / "venv", symlinks=True)
    return str(tmp_path / "venv/bin/python")


def call(*command: str, cwd: Path, **env: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**clean_env(), **env}, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install(python: str, how: str, sources: Path, backend: Path) -> None:
    """Installs our package alone; what it needs is borrowed from this environment when the program runs.

    The wheel is built as whoever publishes it builds it: isolated, with nothing but what the package asks for.
    """
    pip = (sys.executable, *PIP, "--python", python, "install", "--quiet", "--no-deps")
    if how == "wheel":
        call(sys.executable, "-m", "build", "--wheel", "--outdir", str(sources / "dist"), str(sources), cwd=sources)
        (wheel,) = (sources / "dist").glob("*.whl")
        call(*pip, str(wheel), cwd=sources)
    else:
        words = ["--editable"] if how == "editable" else []
        call(*pip, "--no-build-isolation", *words, str(sources), cwd=sources, PYTHONPATH=str(backend))


@pytest.mark.parametrize("how", ["plain", "editable", "wheel"])
def test_hydra_finds_the_plugin(python: str, how: str, sources: Path, backend: Path, tmp_path: Path) -> None:
    """After `pip install .`, `pip install -e .` and from a built wheel a sweep runs, with the code from that place, and
    the plugins are declared."""
    copy = tmp_path / "sources"
    shutil.copytree(sources, copy, ignore=shutil.ignore_patterns("dist"))
    install(python, how, copy, backend)
    if how != "editable":
        shutil.rmtree(copy)
    home = tmp_path / "home"
    shutil.copytree(APP, home, ignore=shutil.ignore_patterns("__pycache__"))
    borrowed = {"PYTHONPATH": sysconfig.get_path("purelib")}  # .pth files, as our own editable install, do not count
    call(python, "train.py", "-m", "seed=1", cwd=home, **borrowed)
    assert "0.1.COMPLETED" in set(os.listdir(home / "experiments/train/states"))
    where = call(python, "-c", "import experiment_manager; print(experiment_manager.__file__)", cwd=home, **borrowed)
    expected = copy if how == "editable" else tmp_path / "venv"
    assert where.startswith(str(expected))
    script = str(Path(python).parent / "experiment-manager")
    assert "COMPLETED" in call(script, "status", "experiments/train", cwd=home, **borrowed)
    (metadata,) = (tmp_path / "venv").glob("lib/python*/site-packages/hydra_experiment_manager-*.dist-info")
    declared = PathDistribution(metadata).entry_points.select(group="hydra.plugins")
    assert PLUGINS == {entry_point.value for entry_point in declared}


def test_each_plugin_is_declared_and_registered_once(tmp_path: Path) -> None:
    """Every plugin of the namespace package is declared as an entry point, too, and Hydra, which looks at both from 1.4
    on, knows each class once."""
    script = """if True:
        import json
        from importlib.metadata import distribution

        from hydra.core.plugins import PLUGIN_TYPES, Plugins

        def named(classes):
            names = [f"{each.__module__}:{each.__name__}" for each in classes]
            return sorted(name for name in names if name.startswith("hydra_plugins.hydra_experiment_manager."))

        declared = distribution("hydra-experiment-manager").entry_points.select(group="hydra.plugins")
        known = {kind.__name__: named(Plugins.instance().discover(kind)) for kind in PLUGIN_TYPES}
        print(json.dumps([named(each.load() for each in declared), known]))
    """
    declared, known = json.loads(call(sys.executable, "-W", "error", "-c", script, cwd=tmp_path))
    assert sorted(PLUGINS) == declared == known["Plugin"]
    assert sorted(PLUGINS) == sorted(known["Launcher"] + known["Sweeper"] + known["SearchPathPlugin"])


def test_core_pulls_in_no_scientific_library() -> None:
    """What the core needs, and all that is needed for that, as the packages say that are installed, has neither NumPy
    nor pandas nor PyTorch in it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    seen: set[tuple[str, str]] = set()  # names, and extras of them
    ahead = [("", text) for text in project["dependencies"]]
    while ahead:
        extra, text = ahead.pop()
        needed = Requirement(text)
        if needed.marker is None or needed.marker.evaluate({"extra": extra}):
            new = {(canonicalize_name(needed.name), one) for one in ("", *needed.extras)} - seen
            ahead += [(one, text) for name, one in new for text in requires(name) or ()]
            seen |= new
    names = {name for name, _ in seen}
    assert {"hydra-core", "omegaconf", "submitit", "hydra-submitit-launcher", "typer", "rich", "antlr4"} <= {
        name.removesuffix("-python3-runtime") for name in names
    }
    assert set() == names & {"numpy", "pandas", "torch", "matplotlib", "gymnasium", "scipy"}
