"""The README and the pages of the documentation run, and name every option, command, state and method there is."""

import re
import shutil
from pathlib import Path

import pytest

from tests.pages import DOCS, FIRST_SWEEP, ROOT, clone, follow, here, local_part, needs_cluster, typed_pages

README = (ROOT / "README.md").read_text()
OVERVIEW = (DOCS / "reference/overview.md").read_text()
ALONE = [page for page in typed_pages() if page != FIRST_SWEEP and local_part(page)]


def test_readme_from_top_to_end(tmp_path: Path) -> None:
    """Who follows the README sees what it shows."""
    assert follow(README, clone(tmp_path), here(tmp_path)) > 5


@pytest.fixture(scope="module")
def after_the_first_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a reader who has followed that page, which shows what is printed."""
    home = tmp_path_factory.mktemp("first")
    (home / "conf").mkdir()
    assert follow(local_part(FIRST_SWEEP), home, here(home)) > 8
    return home


@pytest.mark.xdist_group("pages")
@pytest.mark.parametrize("page", ALONE)
def test_each_page_can_be_followed_alone(page: str, after_the_first_sweep: Path, tmp_path: Path) -> None:
    """Who has followed the first page, and opens any other, sees what it shows; what needs a cluster is typed on one,
    by tests/cluster/test_pages.py."""
    home = tmp_path / "home"
    shutil.copytree(after_the_first_sweep, home, symlinks=True)
    n_commands = follow(local_part(page), home, here(home))
    assert n_commands > 0 or needs_cluster(page)


GENERATED = {DOCS / "reference" / f"{name}.md" for name in ("commands", "json", "options", "python")}
"""What `make docs` writes, of what the programs say."""


def slugs(page: Path) -> set[str]:
    """The titles of a page as they stand in addresses."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_lead_somewhere() -> None:
    """Every link from a page to another, or to a title of it, finds it, also where the sources are read as they are."""
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    pages += [page for page in DOCS.rglob("*.md") if page not in GENERATED]
    lost = []
    for page in pages:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            path, _, title = link.partition("#")
            if "://" in link:
                continue
            target = (page.parent / path).resolve() if path else page
            if target not in GENERATED and not (target.exists() and (not title or title in slugs(target))):
                lost.append((page.name, link))
    assert [] == lost


def test_every_page_is_in_the_index() -> None:
    """A page that nobody is led to is not there."""
    index = (DOCS / "index.md").read_text()
    for folder in ("tutorial", "how-to", "reference", "migration"):
        for path in (DOCS / folder).glob("*.md"):
            name = str(path.relative_to(DOCS).with_suffix(""))
            assert re.search(rf"^{name}$", index, re.MULTILINE) or path.parent.joinpath("index.md").exists(), name


def test_the_overview_names_every_command() -> None:
    """The table has every verb and no other, and each state has its row."""
    from experiment_manager.cli.main import program
    from experiment_manager.model.records import State

    verbs = {command.name or command.callback.__name__ for command in program().registered_commands if command.callback}
    assert verbs == set(re.findall(r"^\| `(\w+) FOLDER", OVERVIEW, re.MULTILINE))
    states = re.findall(r"^\| ([A-Z_]+) \|", (DOCS / "reference/states.md").read_text(), re.MULTILINE)
    assert list(State) == states


def test_every_option_is_explained() -> None:
    """The reference says of each option of sweepers and launchers what it means."""
    from docs import reference_pages

    rows = [line.split(" | ") for line in reference_pages.options() if line.startswith("| `")]
    assert len(rows) > 60
    assert [] == [row[0] for row in rows if not row[-1].strip(" |")]


def test_methods_that_the_pages_name_exist() -> None:
    """Every `exp.name` in the README and the pages is a method of Experiment, but for those of other programs."""
    from experiment_manager import Experiment

    pages = [path for path in DOCS.rglob("*.md") if path.parent.name != "migration"]
    text = README + "".join(path.read_text() for path in pages)
    names = set(re.findall(r"\bexp\.(\w+)\(", text))
    assert len(names) > 8
    assert [] == [name for name in sorted(names) if not hasattr(Experiment, name)]
