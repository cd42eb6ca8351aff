"""Open a file that one process at a time appends to."""

from __future__ import annotations

import os
from pathlib import Path

from lightning_bench.errors import UsageError


def refuse_target(path: Path) -> None:
    """Create the folder of `path`. Raises UsageError if `path` cannot become a CSV."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise UsageError(f"{path} is not a file: give the name of a .csv file")
    if path.suffix != ".csv":
        raise UsageError(f"{path} does not end with .csv: give the name of a .csv file")
    refuse_file(path)


def refuse_file(path: Path) -> None:
    """Create the folder of `path`. Raises UsageError if `path` cannot be written, before it is measured."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder: give the name of a file")
    refuse_folder(path.parent)
    if path.exists() and not os.access(path, os.W_OK):
        raise UsageError(f"cannot write {path}: it is read-only; give another name")


def refuse_folder(path: Path) -> None:
    """Create the folder. Raises UsageError if files cannot be written in it."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file: give the name of a folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {path}: {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write in the folder {path}: it is read-only; give another one")


def open_for_appending(path: Path) -> int:
    """Return a descriptor of the file, which is created if need be. Raises UsageError if that fails."""
    try:
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError as error:
        raise UsageError(f"cannot open {path} for writing: {error.strerror}") from error


def open_locked(path: Path) -> int:
    """Return a descriptor that is locked against other writers. Raises UsageError if one has the lock."""
    import fcntl  # not on Windows, where reports can still be read

    descriptor = open_for_appending(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not is_at(descriptor, path):
            raise BlockingIOError  # another sweep's --fresh moved it aside since it was opened
    except BlockingIOError:
        os.close(descriptor)
        raise UsageError(f"another lbench sweep is writing {path}; wait for it, or give --out") from None
    except OSError as error:
        os.close(descriptor)
        raise UsageError(f"cannot lock {path}: {error.strerror}; give --out on another disk") from error
    return descriptor


def is_at(descriptor: int, path: Path) -> bool:
    """Return whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False
