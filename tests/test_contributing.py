"""What is written for contributors is true: the words of make, the workflows, the version that is published."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import experiment_manager

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def words_of_make() -> set[str]:
    """What can be made, by the Makefile."""
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    return set(phony.split())


def of_yaml(path: Path) -> Any:
    return yaml.load(path.read_text(), Loader=yaml.BaseLoader)  # to whom `on` is a word


def test_every_word_of_make_is_explained() -> None:
    """The contributor's guide names each word of the Makefile, and no other."""
    assert words_of_make() == set(re.findall(r"(?:`|^)make ([a-z][a-z-]*)", CONTRIBUTING, re.MULTILINE))


def test_one_version_is_published() -> None:
    """Package, changelog and citation name the same version and day, and what is not released yet has its heading."""
    citation = of_yaml(ROOT / "CITATION.cff")
    headings = re.findall(r"^## \[([^\]]+)\](?: - (\S+))?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert ("Unreleased", "") == headings[0]
    assert (experiment_manager.__version__, citation["date-released"]) == headings[1]
    assert experiment_manager.__version__ == citation["version"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (project["license"], project["keywords"]) == (citation["license"], citation["keywords"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_words_of_make(path: Path) -> None:
    """Continuous integration makes what can be made at home, and stops when it hangs."""
    jobs = of_yaml(path)["jobs"]
    assert all("timeout-minutes" in job for job in jobs.values())
    lines = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    called = {word for line in lines for word in re.findall(r"^make ([a-z-]+)", line, re.MULTILINE)}
    called |= {
        row["word"] for job in jobs.values() for row in job.get("strategy", {}).get("matrix", {}).get("include", [])
    }
    assert called
    assert called <= words_of_make()


def test_every_python_that_is_promised_is_tested() -> None:
    """The workflow names the oldest Python that the package allows."""
    matrix = of_yaml(ROOT / ".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]["include"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=" + min((row["python"] for row in matrix), key=lambda text: text.split("."))
