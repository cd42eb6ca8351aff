"""Another commit of the user's repository, checked out beside it for as long as it is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from lightning_bench.errors import UsageError
from lightning_bench.machine.git import is_shallow, run_git

_PREFIX = "lbench-ref-"
_HARNESS = "lightning_bench"


@dataclass(frozen=True)
class Checkout:
    """A tree and its commit; `dirty` if the tree differs from that commit."""

    root: Path
    commit: str
    dirty: bool = False

    @property
    def name(self) -> str:
        """Twelve digits of the commit, followed by `-dirty` if the tree differs."""
        return self.commit[:12] + ("-dirty" if self.dirty else "")


def working_tree(folder: Path) -> Checkout:
    """Return the repository that `folder` is in, as it is. Raise UsageError if there is none."""
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top.returncode:
        message = (top.stderr.strip().splitlines() or ["git failed"])[-1]
        raise UsageError(
            f"--ref needs a git repository, and {folder} lies in none ({message}); "
            "run it in the repository of the kernels"
        )
    root = Path(top.stdout.strip())
    head = _git(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    if head.returncode:
        raise UsageError(f"{root} has no commit yet; commit what is to be compared with")
    changes = _git(root, "status", "--porcelain", "--", ".", ":!results", ":!reports")
    return Checkout(root, head.stdout.strip(), bool(changes.stdout.strip()))


@contextmanager
def checked_out(tree: Checkout, ref: str) -> Iterator[Checkout]:
    """Yield the commit that `ref` names in a temporary worktree, which is removed in any case.

    Worktrees that a killed process of lbench has left are removed too. Raises UsageError for an unknown ref.
    """
    _remove_orphans(tree.root)
    found = _git(tree.root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    if found.returncode:
        shallow = "; this is a shallow clone: fetch it first (git fetch --unshallow)"
        hint = shallow if is_shallow(tree.root) else ""
        raise UsageError(
            f"--ref {ref!r} names no commit of {tree.root}{hint}; `git branch -a` lists the branches"
        )
    commit = found.stdout.strip()
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    try:
        added = _git(tree.root, "worktree", "add", "--detach", "--force", str(folder), commit)
        if added.returncode:
            raise UsageError(f"git could not check {ref} out: {added.stderr.strip()}")
        yield Checkout(folder, commit)
    finally:
        _remove(tree.root, folder)


def import_folders(tree: Path, side: Path) -> list[Path]:
    """Return the folders of the checkout `side` that the import path names in `tree`, as PYTHONPATH does.

    Behind them, what a provider imports would be that of the tree on both sides. Folders with the harness,
    which is the same for both, and with installed packages are left out.
    """
    folders = [Path(entry).resolve() for entry in sys.path]
    return [
        side / folder.relative_to(tree.resolve())
        for folder in folders
        if folder.is_relative_to(tree.resolve())
        and not {"site-packages", "dist-packages"} & set(folder.parts)
        and not (folder / _HARNESS).is_dir()
    ]


def changed_files(tree: Checkout, other: Checkout) -> frozenset[str]:
    """Return the paths of the files of `tree`, as it is, that differ from those of `other`; new ones too."""
    diff = _git(tree.root, "diff", "--name-only", "--no-renames", "-z", other.commit, "--")
    new = _git(tree.root, "ls-files", "--others", "--exclude-standard", "-z")
    for done in (diff, new):
        if done.returncode:
            raise UsageError(f"git could not list what changed since {other.name}: {done.stderr.strip()}")
    return frozenset(name for done in (diff, new) for name in done.stdout.split("\0") if name)


def _remove_orphans(root: Path) -> None:
    for line in _git(root, "worktree", "list", "--porcelain").stdout.splitlines():
        folder = Path(line.removeprefix("worktree "))
        if not line.startswith("worktree ") or not folder.name.startswith(_PREFIX):
            continue
        number = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            _remove(root, folder)


def _remove(root: Path, folder: Path) -> None:
    _git(root, "worktree", "remove", "--force", "--force", str(folder))
    shutil.rmtree(folder, ignore_errors=True)
    _git(root, "worktree", "prune")


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return run_git(folder, *arguments)
    except OSError as error:
        raise UsageError(f"--ref needs git: {error.strerror}; install it") from error
