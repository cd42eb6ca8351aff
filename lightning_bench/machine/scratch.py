"""Temporary folders that go with their process, after `kill -9` at the next start."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

_PREFIX = "lbench-tmp-"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a new folder, which is removed in any case, as are those of this user's dead processes."""
    _remove_orphans()
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_orphans() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        number = folder.name.removeprefix(_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):  # another process was faster
            ours = number.isdecimal() and folder.lstat().st_uid == os.getuid()
            if ours and not psutil.pid_exists(int(number)):
                shutil.rmtree(folder, ignore_errors=True)
