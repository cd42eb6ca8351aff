"""Build hook of hatch: a wheel and an sdist hold the commit that they were built from.

Rows that an installed wheel writes then name it although there is no git. An editable installation gets no
stamp: there git is asked whenever rows are written.
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CommitStamp(BuildHookInterface):
    """Add `lightning_bench/commit.txt`, unless the commit is not known."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the stamp to a temporary file and let the archive hold it; `version` is the kind of build."""
        git = _git_module(Path(self.root))
        commit = git.harness_commit(Path(self.root))
        if version == "editable" or not commit:
            return
        self._folder = tempfile.TemporaryDirectory()
        stamp = Path(self._folder.name) / "commit.txt"
        stamp.write_text(f"{commit}\n")
        build_data["force_include"][str(stamp)] = git.STAMP

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary file."""
        if folder := getattr(self, "_folder", None):
            folder.cleanup()


def _git_module(root: Path) -> Any:
    """Return `lightning_bench/machine/git.py` without its package, whose dependencies a build lacks."""
    spec = importlib.util.spec_from_file_location("_git", root / "lightning_bench" / "machine" / "git.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
