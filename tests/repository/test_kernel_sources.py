"""Which code a function of the kernels, or a model, ran at a commit."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from lightning_bench.models.model_sizes import Architecture
from scripts.kernel_sources import (
    _NOT_RUN,
    _OF_MODEL,
    MODELS,
    PACKAGE,
    _digest,
    _model_digest,
    _tree,
    same_model,
    same_sources,
)
from tests.support.paths import ROOT


@pytest.fixture
def repository(tmp_path: Path) -> Callable[[dict[str, str]], str]:
    """Commit files of kernels in a repository of their own, and return the commit."""
    package = tmp_path / PACKAGE
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(tmp_path))
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)

    def commit(sources: dict[str, str]) -> str:
        for name, text in sources.items():
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / name).write_text(text)
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-q", "-m", "x"], check=True)
        done = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
        return done.stdout.strip()[:12]

    return commit


def test_rows_of_models_are_stale_once_the_model_s_code_changes(
    repository: Callable[[dict[str, str]], str], tmp_path: Path
) -> None:
    def place(name: str) -> str:
        return f"../../{MODELS}/{name}.py"

    first = repository({
        place("language_model"): '"""Models."""\nPARTS = 1\n',
        place("llama"): "def llama(): ...\n",
        place("transnormer_llm"): "def transnormer(): ...\n",
    })  # fmt: skip

    def kept(commit: str) -> list[bool | None]:
        _model_digest.cache_clear()
        _tree.cache_clear()
        return [same_model(name, commit, tmp_path) for name in ("llama", "transnormer")]

    repository({place("language_model"): '"""Other words."""\nPARTS = 1  # here too\n'})
    assert kept(first) == [True, True]
    second = repository({place("llama"): "def llama():\n    return 1\n"})
    assert kept(first) == [False, True]
    assert kept(second) == [True, True]
    repository({place("language_model"): "PARTS = 2\n"})
    assert kept(first) == kept(second) == [False, False]
    plugged = "def attention_of(): ...\ndef build_model(): ...\n"
    third = repository({place("plugged_attention"): plugged})
    assert kept(second) == [False, False]
    repository({place("plugged_attention"): f"{plugged}def exact_softmax(): ...\n"})  # which only judges
    assert kept(third) == [True, True]
    repository({place("plugged_attention"): plugged.replace("attention_of(): ...", "attention_of(x): ...")})
    assert kept(third) == [False, False]
    fourth = repository({place("norms"): "NORM = 1\n"})
    repository({place("model_sizes"): "", place("published"): ""})
    assert kept(fourth) == [True, True]
    repository({place("norms"): "NORM = 2\n"})
    assert kept(fourth) == [False, False]
    fifth = repository({place("byte_text"): "class ByteText: ...\n"})
    repository({place("byte_text"): "class ByteText:\n    def batch(self): ...\n"})  # which a step calls
    assert kept(fifth) == [False, False]
    assert kept(f"{second}-dirty") == kept("0123456789ab") == [None, None]


def test_every_architecture_has_a_file_of_its_own() -> None:
    """Else a change of that file makes the rows of all models stale."""
    assert _OF_MODEL.keys() == set(get_args(Architecture))
    assert {path.name for path in (ROOT / MODELS).iterdir()} >= {*_OF_MODEL.values(), *_NOT_RUN}


def test_models_that_were_elsewhere_are_other_models(
    repository: Callable[[dict[str, str]], str], tmp_path: Path
) -> None:
    first = repository({"__init__.py": ""})
    repository({f"../../{MODELS}/llama.py": "def llama(): ...\n"})
    assert same_model("llama", first, tmp_path) is False


def test_a_row_outlives_changes_of_sources_that_its_function_does_not_use(
    repository: Callable[[dict[str, str]], str], tmp_path: Path
) -> None:
    first = repository({
        "__init__.py": "from .train.api import train\nfrom .serve.api import serve\n",
        "train/__init__.py": "",
        "train/api.py": "def train():\n    from ..common.grid import grid\n    return grid()\n",
        "serve/__init__.py": "",
        "serve/api.py": "def serve(): ...\n",
        "common/__init__.py": "",
        "common/grid.py": "def grid(): ...\n",
    })  # fmt: skip

    def kept(commit: str) -> list[bool | None]:
        _digest.cache_clear()
        _tree.cache_clear()
        return [same_sources(name, commit, tmp_path) for name in ("train", "serve")]

    assert kept(first) == [True, True]
    exported = "from .train.api import train\nfrom .serve.api import serve, more\n"
    changed = "def serve(): return more()\ndef more(): ...\n"
    second = repository({"serve/api.py": changed, "__init__.py": exported})
    assert kept(first) == [True, False]
    assert kept(second) == [True, True]
    repository({"common/grid.py": "def grid():\n    return 1\n"})
    assert kept(first) == [False, False]
    assert kept(second) == [False, True]
    assert kept(f"{second}-dirty") == kept("0123456789ab") == kept("") == [None, None]


BASE = """
import os

from .tools import helper, registered
from .tools import original as other_name

LIMIT = 4
os.environ["ALL"] = "1"


def train():
    return helper(LIMIT), "named_in_a_string", other_name()
"""
TOOLS = """
from functools import cache


def helper(x):
    return _more(x)


def _more(x):
    return x


def named_in_a_string(): ...


def original(): ...
"""


@pytest.mark.parametrize(
    ("file", "old", "new", "same"),
    [
        ("api", "def train():\n", 'def train():\n    """Say so."""\n', True),
        ("api", "LIMIT = 4\n", 'LIMIT = 4  # few\n"""Of them."""\n__all__ = ["train"]\n', True),
        ("api", "helper(LIMIT)", "helper(\n        LIMIT,\n    )", True),
        ("api", "LIMIT = 4", "LIMIT = 5", False),
        ("api", "LIMIT = 4", "LIMIT = 4\nOTHER, MORE = 5, 6", True),
        ("api", "LIMIT = 4", "LIMIT = 4\nOTHER = helper(5)", False),  # a call may do anything
        ("tools", "def helper", "def other(x):\n    return helper(x)\n\n\ndef helper", True),
        ("tools", "def helper", "@cache\ndef other(x): ...\n\n\ndef helper", True),
        ("tools", "def helper", "@register\ndef other(x): ...\n\n\ndef helper", False),
        ("tools", "def _more(x):\n    return x", "def _more(x):\n    return 2 * x", False),
        ("tools", "def named_in_a_string(): ...", "def named_in_a_string():\n    return 1", False),
        ("tools", "def helper(x):", "def helper(x, y=1):", False),
        ("tools", "def original(): ...", "def original():\n    return 1", False),
        ("api", 'os.environ["ALL"] = "1"', 'os.environ["ALL"] = "2"', False),
    ],
)
def test_only_code_that_a_function_runs_makes_its_rows_stale(
    repository: Callable[[dict[str, str]], str],
    tmp_path: Path,
    file: str,
    old: str,
    new: str,
    same: bool,
) -> None:
    sources = {"train/api.py": BASE, "train/tools.py": TOOLS}
    first = repository({"__init__.py": "from .train.api import train\n", "train/__init__.py": "", **sources})
    place = f"train/{file}.py"
    assert old in sources[place]
    repository({place: sources[place].replace(old, new)})
    _digest.cache_clear()
    _tree.cache_clear()
    assert same_sources("train", first, tmp_path) is same
