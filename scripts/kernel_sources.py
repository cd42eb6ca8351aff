"""Which sources a function of the kernels has at a commit: those of its module and of all that it imports.

A change in the kernels that serve leaves the rows of training as they are. The version in a row tells of all
sources together; with the commit in that row, git tells of those that mattered to it.
"""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tarfile
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from lightning_bench.machine.git import run_git
from lightning_bench.providers.bundled import KERNELS, sources_of_function

ROOT = Path(__file__).parents[1]
PACKAGE = f"kernels/{KERNELS}"
_FOLDERS = ExitStack()
atexit.register(_FOLDERS.close)


def same_sources(function: str, commit: str, root: Path = ROOT) -> bool | None:
    """Say whether a function has the sources that it had at a commit; None if git does not know the commit.

    Comments count. The package's own file does not, which only says where the functions are.
    """
    then = _digest(function, commit, root)
    return None if then is None else then == _digest(function, None, root)


@cache
def _digest(function: str, commit: str | None, root: Path) -> str | None:
    """Return a digest of the sources of a function, at a commit or as they are now."""
    tree = _tree(commit, root)
    if tree is None:
        return None
    digest, package = hashlib.sha256(), tree / PACKAGE
    for path in sorted(sources_of_function(package, function)):
        name = path.relative_to(package).as_posix()
        if name != "__init__.py":
            digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@cache
def _tree(commit: str | None, root: Path) -> Path | None:
    """Return a folder that has the kernels of a commit, or as they are now, until this process ends."""
    tree = Path(_FOLDERS.enter_context(TemporaryDirectory())).resolve()
    (tree / ".git").mkdir()  # imports are followed up to here
    if commit is None:
        shutil.copytree(root / PACKAGE, tree / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
        return tree
    return tree if _extracted(commit, root, tree) else None


def _extracted(commit: str, root: Path, tree: Path) -> bool:
    """Put the kernels of a commit into a folder, and return whether git knows it."""
    if not commit.isalnum():  # as with `-dirty`
        return False
    archive = tree / "kernels.tar"
    try:
        done = run_git(root, "archive", "-o", str(archive), commit, PACKAGE)
    except OSError:  # no git
        return False
    if done.returncode:
        return False
    with tarfile.open(archive) as tar:
        tar.extractall(tree, filter="data")
    return True
