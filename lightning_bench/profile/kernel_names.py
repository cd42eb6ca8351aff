"""Names of kernels, which every profiler prints in its own way."""

from __future__ import annotations

import re


def base_name(kernel: str) -> str:
    """Return the name without return type, template arguments and parameters."""
    bare = re.split(r"[<(]", kernel.replace("(anonymous namespace)", "_anonymous_"), maxsplit=1)[0]
    return bare.split()[-1] if bare.split() else kernel


def unqualified_name(kernel: str) -> str:
    """Return the base name without namespaces."""
    return base_name(kernel).rsplit("::", 1)[-1]
