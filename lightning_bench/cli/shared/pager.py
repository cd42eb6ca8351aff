"""Long output on a terminal goes through the user's pager, as that of git does."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lightning_bench.cli.shared.sink import Sink

_LESS = "FRX"  # ends by itself on a short text, keeps colors, leaves the text on the screen


@contextmanager
def paged(sink: Sink) -> Iterator[None]:
    """Show by $PAGER, else less, what is printed through `sink.out` meanwhile and exceeds the terminal.

    What fits, or has no terminal or no pager that can be started, is printed.
    """
    if not (sys.stdout.isatty() and sys.stdin.isatty()):
        yield
        return
    with sink.out.capture() as captured:
        yield
    text = captured.get()
    if text.count("\n") < sink.out.height or not _shown(text):
        sink.out.file.write(text)


def _shown(text: str) -> bool:
    """Return whether a pager has shown the text; it may have been left before its end."""
    command = shlex.split(os.environ.get("PAGER", "") or "less")
    environment = {"LESS": _LESS, **os.environ}
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the pager's
    try:
        done = subprocess.run(command, input=text.encode(errors="replace"), env=environment, check=False)
    except OSError:
        return False
    finally:
        signal.signal(signal.SIGINT, before)
    return done.returncode not in (126, 127)
