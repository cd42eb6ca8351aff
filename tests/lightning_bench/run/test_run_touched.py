"""`--from-diff`: which providers a diff touches, in repositories of a few files; nothing is measured."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_bench.providers import get_provider
from lightning_bench.providers.bundled import KERNELS, BundledProvider, sources_of_function
from lightning_bench.run.touched import Diff
from lightning_bench.run.worktree import changed_files, checked_out, working_tree
from tests.support.paths import ROOT

PACKAGE = ROOT / "kernels" / KERNELS
MINE = """
from helpers import attention
from lightning_bench.providers import Provider

class Mine(Provider):
    name, label, family, package = "mine", "Mine", "softmax", "torch"
    devices = ("cpu",)
    def build(self, inputs):
        return lambda: attention(inputs.q, inputs.k, inputs.v)
"""


def git(root: Path, *words: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    subprocess.run(["git", *who, *words], cwd=root, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    shutil.copytree(PACKAGE, root / "kernels" / KERNELS, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "mine.py").write_text(MINE)
    (root / "helpers.py").write_text("def attention(q, k, v):\n    return v\n")
    (root / "suite.toml").write_text('title = "A"\n')
    (root / "readme.md").write_text("Text\n")
    for words in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "first"]):
        git(root, *words)
    return root


class Bundled(BundledProvider):
    name, label = "bundled", "Bundled"

    def __init__(self, function: str) -> None:
        self.function = function  # type: ignore[misc]


FUNCTIONS = ("lightning_attn2", "lightning_attn1", "simple_rms_norm", "gate_loop", "TransNormerAttention")


def touched(root: Path) -> set[str]:
    """Return what the uncommitted changes touch: `mine`, functions of the kernels, `all`.

    Of a file only its path counts, so any provider that is not bundled will do beside it.
    """
    tree = working_tree(root)
    with checked_out(tree, "main") as other:
        diff = Diff(root, other.root, changed_files(tree, other), Path("kernels"))
        names = {name for name in FUNCTIONS if diff.touches("bundled", Bundled(name))}
        names |= {"mine"} if diff.touches(f"{root / 'mine.py'}:Mine", get_provider("sdpa-math")) else set()
        return names | ({"all"} if diff.touches_all(root / "suite.toml") else set())


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("readme.md", set()),
        ("mine.py", {"mine"}),
        ("helpers.py", {"mine"}),
        ("suite.toml", {"all"}),
        ("new.cu", {"all"}),
        ("new.py", set()),
        (f"kernels/{KERNELS}/norm/rms_norm.py", {"simple_rms_norm", "TransNormerAttention"}),
        (f"kernels/{KERNELS}/lightning1/attention1.py", {"lightning_attn1"}),
        (f"kernels/{KERNELS}/gateloop/gate_loop.py", {"gate_loop"}),
        (f"kernels/{KERNELS}/lightning2/hopper/host.py", {"lightning_attn2", "TransNormerAttention"}),
        (f"kernels/{KERNELS}/__init__.py", set(FUNCTIONS)),
    ],
)
def test_a_changed_file_touches_those_that_run_it(repository: Path, file: str, names: set[str]) -> None:
    path = repository / file
    path.write_text((path.read_text() if path.exists() else "") + "\n# changed\n")
    assert touched(repository) == names


def test_a_change_counts_whether_it_is_staged_or_not(repository: Path) -> None:
    assert touched(repository) == set()
    for file, names in (("new.cu", {"all"}), ("mine.py", {"all", "mine"})):
        with (repository / file).open("a") as changed:
            changed.write("\n# changed\n")
        assert touched(repository) == names
        git(repository, "add", "-A")
        assert touched(repository) == names


def test_a_deleted_file_touches_those_that_ran_it(repository: Path) -> None:
    (repository / "helpers.py").unlink()
    (repository / "mine.py").write_text(MINE.replace("from helpers import attention", "attention = None"))
    assert touched(repository) == {"mine"}
    git(repository, "checkout", "-q", "mine.py")
    (repository / "kernels" / KERNELS / "norm" / "rms_norm.py").unlink()
    assert {"simple_rms_norm", "mine"} <= touched(repository)


IMPORT_EACH = """
import json, os, sys
import torch

for function in sys.argv[1:]:
    if os.fork() == 0:
        import lightning_kernels

        getattr(lightning_kernels, function)
        loaded = [m.__file__ for n, m in sys.modules.items() if n.partition(".")[0] == "lightning_kernels"]
        print(json.dumps([function, loaded]), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, list[str]]:
    """Return the files that Python has loaded once a function is there, each in a process of its own."""
    command = [sys.executable, "-c", IMPORT_EACH, *FUNCTIONS]
    ran = subprocess.run(command, cwd=ROOT / "kernels", capture_output=True, text=True, check=True)
    return dict(map(json.loads, ran.stdout.splitlines()))


@pytest.mark.slow
@pytest.mark.parametrize("function", FUNCTIONS)
def test_sources_of_a_function_hold_every_module_that_it_imports(
    function: str, loaded: dict[str, list[str]]
) -> None:
    """Those that Python has loaded once the function is there are among the files that were found."""
    found = sources_of_function(PACKAGE, function)
    files = set(map(Path, loaded[function]))
    assert len(files) > 1
    assert {path for path in files if path.name != "__init__.py"} <= found


def test_a_package_that_does_not_say_where_its_function_is_counts_whole(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError(  # not Python")
    (package / "a.py").write_text("")
    assert {path.name for path in sources_of_function(package, "attention")} == {"__init__.py", "a.py"}


def test_providers_of_libraries_are_never_touched(repository: Path) -> None:
    diff = Diff(repository, repository, frozenset({"mine.py"}), Path("kernels"))
    assert not diff.touches("sdpa-math", get_provider("sdpa-math"))
