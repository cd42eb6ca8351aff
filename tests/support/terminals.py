"""`lbench` on a terminal of its own, as a person sees it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

from tests.support.patience import PATIENCE_S


def on_a_terminal(
    arguments: list[str], rows: int = 60, environment: dict[str, str] | None = None, *, code: int = 0
) -> str:
    """Return what `lbench` shows on a terminal of this many rows and 80 columns; it must end with `code`."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", rows, 80, 0, 0))
    given = os.environ if environment is None else environment
    environment = {name: value for name, value in given.items() if name not in ("LINES", "COLUMNS")}
    process = subprocess.Popen(
        [sys.executable, "-m", "lightning_bench", *arguments],
        stdin=child,
        stdout=child,
        stderr=child,
        env={**environment, "TERM": "xterm"},
    )
    os.close(child)
    parts = []
    with contextlib.suppress(OSError):  # a terminal ends with an error
        while part := os.read(parent, 65536):
            parts.append(part)
    os.close(parent)
    assert process.wait(PATIENCE_S) == code
    return b"".join(parts).decode()
