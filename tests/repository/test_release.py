"""What a release has beside the wheel: citation, Dockerfile with its context, version, notes and tag."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from datetime import date
from pathlib import Path

import pytest
import yaml

import lightning_bench
from scripts.release import VERSIONS, NotReady, prepare, released
from tests.support.documents import DOCS, REPOSITORY
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_the_citation_names_this_version_and_this_repository() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == PROJECT["version"] == lightning_bench.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["repository-code"] == REPOSITORY
    assert citation["authors"] == PROJECT["authors"]


def test_the_addresses_of_the_project_are_of_one_repository() -> None:
    owner, name = REPOSITORY.split("/")[-2:]
    site = f"https://{owner}.github.io/{name}/"
    config = (ROOT / "mkdocs.yml").read_text()
    assert PROJECT["urls"]["Documentation"] == site
    assert f"site_url: {site}\n" in config
    assert f"repo_url: {REPOSITORY}\n" in config


def test_the_image_has_the_versions_of_the_results() -> None:
    results = " ".join((DOCS / "results-h200.md").read_text().split())
    for package in ("torch", "triton", "flash-attn", "xformers", "fla-core", "lightning-attn"):
        (version,) = set(re.findall(rf"{package}==([\w.]+)", DOCKERFILE))
        assert re.search(rf"\b{package} {re.escape(version)}\b", results), package


@pytest.mark.slow
def test_the_context_of_the_image_is_enough_to_build_the_wheel(tmp_path: Path) -> None:
    context = tmp_path / "context"
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            source, target = ROOT / line[1:], context / line[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target, ignore=ignored) if source.is_dir() else shutil.copy(
                source, target
            )
    names = []
    for folder in (context, ROOT):
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / folder.name)]
        subprocess.run(build, cwd=folder, check=True, capture_output=True, timeout=PATIENCE_S)
        (wheel,) = (tmp_path / folder.name).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            names.append({name for name in archive.namelist() if not name.endswith("/commit.txt")})
    assert names[0] == names[1]


def test_hadolint_has_nothing_to_say() -> None:
    if (program := shutil.which("hadolint")) is None:
        pytest.skip("hadolint is not installed")
    subprocess.run([program, str(ROOT / "Dockerfile")], check=True)


CHANGES = """# Changelog

Notes by version. Nothing has been released yet.

## [Unreleased]

### Added

- One more thing.

## [0.0.9] - 2026-01-01

- The beginning.
"""
PLANNED = CHANGES + "\n## [0.1.0] - not released\n\nThe first release.\n\n### Known limits\n\n- None.\n"
DAY = date(2026, 12, 1)


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    done = subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository with the files that a release changes; its changelog is CHANGES."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "nobody")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "nobody@example.org")
    for name in VERSIONS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text(CHANGES)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "Before")
    return tmp_path


def test_a_release_sets_version_and_date_and_is_tagged_with_its_notes(checkout: Path) -> None:
    prepare(checkout, "0.2.0", DAY)
    for name, pattern in VERSIONS.items():
        assert re.findall(pattern, (checkout / name).read_text(), re.MULTILINE) == ["0.2.0"]
    citation = yaml.safe_load((checkout / "CITATION.cff").read_text())
    assert citation["date-released"] == DAY
    changelog = (checkout / "CHANGELOG.md").read_text()
    assert "Nothing has been released" not in changelog
    assert (
        "## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n\n### Added\n\n- One more thing.\n\n## [0.0.9]"
        in changelog
    )
    assert git(checkout, "status", "--porcelain") == ""
    assert git(checkout, "cat-file", "-t", "v0.2.0") == "tag\n"
    told = git(checkout, "tag", "--list", "--format=%(contents)", "v0.2.0").strip()
    assert told == "lightning-bench 0.2.0\n\n### Added\n\n- One more thing."


def test_notes_that_are_written_by_hand_take_the_place_of_the_list(checkout: Path) -> None:
    made, notes = released(PLANNED, "0.1.0", DAY)
    assert notes == "The first release.\n\n### Known limits\n\n- None."
    heads = re.findall(r"^## .*", made, re.MULTILINE)
    assert heads == ["## [Unreleased]", "## [0.1.0] - 2026-12-01", "## [0.0.9] - 2026-01-01"]
    assert "One more thing" not in made
    prepare(checkout, "0.1.0", DAY)
    (checkout / "CHANGELOG.md").write_text(made)
    git(checkout, "commit", "--quiet", "-am", "By hand")
    git(checkout, "tag", "--delete", "v0.1.0")
    with pytest.raises(NotReady, match=r"has a section of 0\.1\.0 with a date"):
        prepare(checkout, "0.1.0", DAY)
    with pytest.raises(NotReady, match="lists nothing under Unreleased"):
        prepare(checkout, "0.2.0", DAY)


@pytest.mark.parametrize(
    ("version", "change", "problem"),
    [
        ("0.2", "", "0.2 is no version: give three numbers"),
        ("0.2.0", "echo >> CHANGELOG.md", "files differ from the last commit"),
        ("0.2.0", "git tag v0.2.0", "there is a tag v0.2.0"),
    ],
)
def test_what_is_not_ready_is_refused(checkout: Path, version: str, change: str, problem: str) -> None:
    subprocess.run(change, shell=True, cwd=checkout, check=True)
    before = git(checkout, "rev-parse", "HEAD")
    with pytest.raises(NotReady, match=re.escape(problem)):
        prepare(checkout, version, DAY)
    assert git(checkout, "rev-parse", "HEAD") == before


def test_the_changelog_has_notes_of_this_version() -> None:
    changelog, version = (ROOT / "CHANGELOG.md").read_text(), PROJECT["version"]
    if f"## [{version}] - not released\n" in changelog:
        changelog, notes = released(changelog, version, DAY)
        assert len(notes.splitlines()) > 20
    assert (
        len(re.findall(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE)) == 1
    )
