"""Versions of the installed software, read without importing it."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
from pathlib import Path


def version_of(distribution: str) -> str:
    """Return the version of an installed distribution, or `""` if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def torch_cuda() -> str:
    """Return the CUDA version that the installed torch was built for, or `""` if for none."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return ""
    try:
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
        found = re.search(r"^cuda\b[^=\n]*=\s*(.+)$", text, re.MULTILINE)
        value = ast.literal_eval(found[1]) if found else None
    except (OSError, ValueError, SyntaxError):
        return ""
    return value if isinstance(value, str) else ""


def why_no_cuda_build() -> str:
    """Return why the installed torch cannot use a GPU, or `""` if it can."""
    if torch_cuda():
        return ""
    version = version_of("torch")
    return f"torch {version} is a build without CUDA" if version else "torch is not installed"
