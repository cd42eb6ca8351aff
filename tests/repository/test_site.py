"""The docs site builds without a warning, has every page, and shows the API and the pictures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import lightning_bench
import lightning_kernels
from tests.support.documents import DOCS, REPOSITORY
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.slow
WARNINGS_ONLY = os.environ | {"NO_MKDOCS_2_WARNING": "1"}


def built(source: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(
        command, cwd=source, env=WARNINGS_ONLY, capture_output=True, text=True, timeout=PATIENCE_S
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the site. CI must have mkdocs; elsewhere the tests are skipped without it."""
    if find_spec("mkdocs") is None and "CI" not in os.environ:
        pytest.skip("mkdocs is not installed: make test installs it")
    folder = tmp_path_factory.mktemp("site")
    done = built(ROOT, folder)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_every_page_is_there_and_in_the_navigation(site: Path) -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in DOCS.glob("*.md"):
        assert f": {page.name}\n" in navigation
        built_page = site / ("index.html" if page.stem == "index" else f"{page.stem}/index.html")
        assert built_page.exists()


def test_the_api_page_has_every_public_name(site: Path) -> None:
    text = (site / "api" / "index.html").read_text()
    headings = {anchor.rpartition(".")[2] for anchor in re.findall(r'<h3 id="([\w.]+)"', text)}
    ours = {name for name in lightning_bench.__all__ if not name.startswith("_")}
    kernels = {name for name in lightning_kernels.__all__ if not name.startswith("_")}
    assert ours | kernels <= headings


def test_links_out_of_docs_lead_to_the_repository_and_pictures_are_copied(site: Path) -> None:
    text = (site / "results-h200" / "index.html").read_text()
    assert f'href="{REPOSITORY}/blob/main/results/h200/README.md"' in text
    (picture,) = re.findall(r'<img [^>]*src="([^"]*\.svg)"', text)
    assert (site / "results-h200" / picture).resolve().is_file()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("[gone](../results/gone.csv)", "gone.csv"),
        ("[gone](trust.md#no-such-heading)", "no-such-heading"),
        ("::: lightning_bench.api.measuring.no_such_function", "no_such_function"),
    ],
)
def test_what_leads_nowhere_fails_the_build(site: Path, tmp_path: Path, line: str, complaint: str) -> None:
    for name in ("docs", "scripts", "lightning_bench", "kernels", "results", "reports", "suites"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "docs").unlink()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Start\n\n[trust](trust.md)\n\n{line}\n")
    (tmp_path / "docs" / "trust.md").write_text("# Trust\n")
    config = (ROOT / "mkdocs.yml").read_text()
    config = re.sub(r"\nnav:\n.*?\n\n", "\nnav: [index.md, trust.md]\n\n", config, flags=re.DOTALL)
    (tmp_path / "mkdocs.yml").write_text(config)
    done = built(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    assert complaint in done.stdout + done.stderr
