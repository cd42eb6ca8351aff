"""What a release consists of beside the wheel: citation, Dockerfile with its context, and one version."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import lightning_bench
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
