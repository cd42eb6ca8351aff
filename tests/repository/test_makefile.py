"""`make bench` installs what running needs and no more; what tests need comes with `make test`."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# Modules whose distribution has another name or comes with another one, and those that providers and timers
# import if they are installed.
DISTRIBUTIONS = {
    "jinja2": "Jinja2",
    "markupsafe": "Jinja2",
    "pydantic_core": "pydantic",
    "pynvml": "nvidia-ml-py",
}
OPTIONAL = {
    "ray",
    "submitit",
    "flash_attn",
    "xformers",
    "fla",
    "lightning_attn",
    "cupti",
    "IPython",
    "kernels",
    "huggingface_hub",
    "mamba_ssm",
    "flashinfer",
    "transformers",
    "vllm",
    "sglang",
    "pyarrow",
}


def printed(goal: str, folder: Path) -> str:
    """Return what `make GOAL` would run in a clone without a .venv."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    command = ["make", "-n", goal, f"PYTHON={sys.executable}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("goal", ["bench", "reports"])
def test_running_installs_no_extra(goal: str, tmp_path: Path) -> None:
    installs = re.findall(r"pip install .*", printed(goal, tmp_path))
    assert [line.split(" -e ")[1] for line in installs] == ["'.'"]


@pytest.mark.parametrize("goal", ["test", "fast", "lint", "format", "site"])
def test_tests_and_linters_install_theirs_once(goal: str, tmp_path: Path) -> None:
    installs = re.findall(r"pip install .*", printed(goal, tmp_path))
    assert [line.split(" -e ")[1] for line in installs] == ["'.[test,hub]'"]


def test_the_packages_import_only_what_running_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {re.match(r"[\w-]+", text)[0] for text in project["dependencies"]}  # type: ignore[index]
    missing: dict[str, str] = {}
    for package in ("lightning_bench", "kernels/lightning_kernels"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level:
                    names = [node.module or ""]
                for top in {name.partition(".")[0] for name in names}:
                    ours = {"lightning_bench", "lightning_kernels"} | OPTIONAL | set(sys.stdlib_module_names)
                    if top not in ours and DISTRIBUTIONS.get(top, top) not in required:
                        missing[top] = str(path.relative_to(ROOT))
    assert missing == {}
