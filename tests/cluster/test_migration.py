"""The part of the pages for those who come from elsewhere that needs a cluster, typed on one."""

from pathlib import Path

import pytest

from tests.pages import follow, here, needs_cluster, parts, save_files
from tests.test_migration import pages

pytestmark = pytest.mark.heavy  # one of them runs into a time limit, which takes minutes


@pytest.mark.parametrize("page", [page for page in pages() if needs_cluster(f"migration/{page}.md")])
def test_page_on_the_cluster(page: str, tmp_path: Path) -> None:
    """Whoever has followed the page up to there, and types the rest on the cluster, sees what it shows."""
    local, on_cluster = parts(f"migration/{page}.md")
    save_files(local, tmp_path)
    assert follow(on_cluster, tmp_path, here(tmp_path)) > 1
