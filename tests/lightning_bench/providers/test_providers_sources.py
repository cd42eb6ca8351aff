"""The version of a provider from a file covers every module that it loads from its folder or repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_bench.providers.registry.probe import declared_file_provider
from lightning_bench.providers.registry.sources import digest_of_sources

PROVIDER = """\
from lightning_bench.providers import Provider
class Mine(Provider):
    name, label, family, package = "mine", "Mine", "softmax", "torch"
    def build(self, inputs):
        import lazily
        return lazily.forward
"""


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / (name.replace("__in__", "__init__").replace("_D_", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("import helper", "kernels_D_helper"),
        ("import helper", "helper"),  # the repository's root is on the path where sweeps start there
        ("from helper import f", "kernels_D_helper"),
        ("import pack.deep.leaf", "kernels_D_pack_D_deep_D_leaf"),
        ("import pack.deep.leaf", "kernels_D_pack_D___in__"),
        ("from pack.deep import leaf", "kernels_D_pack_D_deep_D_leaf"),
        ("from pack import deep", "kernels_D_pack_D_deep_D___in__"),
        ("import kernels.helper", "kernels_D_helper"),
        ("def build(self):\n    import helper", "kernels_D_helper"),
        ("import importlib\nx = importlib.import_module('helper')", "kernels_D_helper"),
        ("import sys\nsys.path.insert(0, 'far/away')\nimport helper", "far_D_away_D_helper"),
        ("import helper", "src_D_helper"),
    ],
)
def test_changed_import_changes_the_digest(tmp_path: Path, line: str, module: str) -> None:
    (tmp_path / ".git").mkdir()
    write(tmp_path, kernels_D_mine=line + "\n", other="import helper\n", **{module: "x = 1\n"})
    path = tmp_path / "kernels" / "mine.py"
    first = digest_of_sources(path)
    write(tmp_path, other="y = 1\n")
    assert digest_of_sources(path) == first
    write(tmp_path, **{module: "x = 2\n"})
    assert digest_of_sources(path) != first


def test_imports_are_followed_through_packages(tmp_path: Path) -> None:
    write(
        tmp_path,
        mine="import pack\n",
        pack_D___in__="from .a import f\n",
        pack_D_a="from . import b\nfrom ..mine import Mine\n",
        pack_D_b="x = 1\n",
    )
    first = digest_of_sources(tmp_path / "mine.py")
    write(tmp_path, pack_D_b="x = 2\n")
    assert digest_of_sources(tmp_path / "mine.py") != first


def test_only_sources_of_the_repository_count(tmp_path: Path) -> None:
    """A digest does not depend on where the repository lies: both sides of a comparison have their own."""
    digests = []
    for side in ("one", "two"):
        root = tmp_path / side
        (root / ".git").mkdir(parents=True)
        write(root, mine="import json, torch, helper, lightning_bench.case\n", helper="x = 1\n")
        write(root, **{".venv_D_lib_D_helper": f"# {side}\n", "venv_D_helper": f"# {side}\n"})
        (root / "venv" / "pyvenv.cfg").touch()
        digests.append(digest_of_sources(root / "mine.py"))
    assert digests[0] == digests[1]
    write(tmp_path, helper="x = 2\n")
    assert digest_of_sources(tmp_path / "two" / "mine.py") == digests[1]


@pytest.mark.parametrize("source", ["def f(:\n", "from .... import x\nimport nowhere\nx = '\\0'\n", ""])
def test_odd_sources_have_a_digest(tmp_path: Path, source: str) -> None:
    path = tmp_path / "odd.py"
    path.write_text(source)
    assert len(digest_of_sources(path)) == 8


def test_version_covers_imports_in_either_tree(tmp_path: Path) -> None:
    for tree in ("head", "base"):
        (tmp_path / tree / ".git").mkdir(parents=True)
        write(tmp_path / tree, mine=PROVIDER, lazily="forward = None\n")
    provider = declared_file_provider(f"{tmp_path}/head/mine.py:Mine")
    assert provider.version_in(tmp_path / "base" / "mine.py") == provider.version()
    write(tmp_path / "base", lazily="forward = 1\n")
    assert provider.version_in(tmp_path / "base" / "mine.py") != provider.version()
