"""The pages for those who come from elsewhere run: each is followed in a folder of its own, before and after."""

import json
import re
from pathlib import Path

import pytest

from tests.pages import DOCS, follow, here, parts

PAGES = DOCS / "migration"
CONFIG = {"epochs": 3, "seed": 1, "size": 16}
OLD = [
    {"_id": 1, "config": {"db_collection": "train", "overwrite": 1, **CONFIG, "lr": 0.1}, "result": {"loss": 0.730563}},
    {"_id": 2, "config": {"db_collection": "train", "overwrite": 2, **CONFIG, "lr": 0.2}, "result": {"loss": 0.513525}},
]
JOBS = [{"variables": {"algorithm": name, "seed": seed}} for name in ("TD3", "DDPG") for seed in (1, 2, 3)]
ORIGINAL = {"variables": ["algorithm", "seed"], "jobs": [{**job, "run_config": job["variables"]} for job in JOBS]}
GIVEN: dict[str, dict[str, object]] = {
    "seml": {"old.json": OLD},
    "original-library": {
        "old/config.json": ORIGINAL,
        "old/pass_filter.json": {"jobs": [0, 1, 2]},
        "old/0_returns.json": [0.5, 1.0],
        "old/1_returns.json": [0.5, 2.0],
    },
}
"""What lies in the folder already: what the program that a page begins with has left, where that cannot run here."""


def pages() -> list[str]:
    return sorted(path.stem for path in PAGES.glob("*.md") if path.stem != "index")


@pytest.mark.parametrize("page", pages())
def test_page_from_top_to_end(page: str, tmp_path: Path) -> None:
    """A reader who follows the page without a cluster sees what it shows, before and after."""
    typed, _ = parts(f"migration/{page}.md")
    for name, value in GIVEN.get(page, {}).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(value))
    assert follow(typed, tmp_path, here(tmp_path)) > 2


def test_index_names_every_page() -> None:
    """The overview links each page, and the table of contents has each."""
    index = (PAGES / "index.md").read_text()
    assert set(pages()) == set(re.findall(r"\]\(([\w-]+)\.md\)", index))
    assert set(pages()) <= set(index.partition("```{toctree}")[2].split())
