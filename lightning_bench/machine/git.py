"""git without what surrounds it: the repository is the one of the folder, whatever a hook has set."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path

STAMP = "lightning_bench/commit.txt"
"""File of a wheel or an sdist with the commit that it was built from (scripts/commit_stamp.py)."""

_PACKAGE_PARENT = Path(__file__).resolve().parents[2]
# Set by git for its hooks: they would point our questions at another repository.
_REDIRECTS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")


def run_git(
    folder: Path, *arguments: str, timeout_s: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run git in `folder`, capture both of its streams as text, and return whatever its exit code is.

    Raises OSError if git or the folder is missing, and subprocess.TimeoutExpired.
    """
    return subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name not in _REDIRECTS},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=timeout_s,
        check=False,
    )


def is_shallow(folder: Path) -> bool:
    """Return whether the repository of a folder lacks older commits; without git, False."""
    try:
        return run_git(folder, "rev-parse", "--is-shallow-repository").stdout.strip() == "true"
    except OSError:
        return False


def harness_commit(root: Path = _PACKAGE_PARENT) -> str:
    """Name the commit of the harness whose package is in `root`, or return `""` where that cannot be known.

    `LBENCH_COMMIT` takes precedence (a copy without `.git` gives it), then git in a checkout, then the stamp
    that a wheel was built with. `-dirty` follows if tracked files differ; results/ and reports/ do not count,
    since writing rows there changes no code.
    """
    if given := os.environ.get("LBENCH_COMMIT", "").strip():
        return given
    return _commit_of_checkout(root) or _stamped(root)


def _stamped(root: Path) -> str:
    try:
        return (root / STAMP).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def _commit_of_checkout(root: Path) -> str:
    if not _is_our_project(root):
        return ""
    top = _answer(root, "rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != root.resolve():
        return ""
    commit = _answer(root, "rev-parse", "--short=12", "HEAD")
    changes = _answer(
        root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!results", ":!reports"
    )
    if not commit or changes is None:
        return ""
    return f"{commit}-dirty" if changes else commit


def _is_our_project(root: Path) -> bool:
    """Whether `root` is a checkout of lightning-bench: a site-packages inside some checkout is not."""
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    metadata = project.get("project")
    return isinstance(metadata, dict) and metadata.get("name") == "lightning-bench"


def _answer(root: Path, *arguments: str) -> str | None:
    """Return git's output, stripped; None where git is missing, refuses or hangs."""
    try:
        done = run_git(root, "--no-optional-locks", *arguments, timeout_s=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout.strip()
