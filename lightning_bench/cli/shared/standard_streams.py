"""Standard output and error that end a command in order when their reader goes, or when a disk is full."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from lightning_bench.errors import LbenchError


class ReaderGone(BaseException):
    """Nobody reads what is printed any more, as after `| head -1`; no handler of OSError takes it."""


class _Output:
    """A stream whose errors are ours: libraries that print would each end the process in their own way."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name = stream, name

    def write(self, text: str) -> int:
        """Write as the stream does. Raise ReaderGone or LbenchError."""
        return int(self._tried(self._stream.write, text))

    def flush(self) -> None:
        """Flush as the stream does. Raise ReaderGone or LbenchError."""
        self._tried(self._stream.flush)

    def _tried(self, method: Callable[..., Any], *arguments: str) -> Any:
        try:
            return method(*arguments)
        except BrokenPipeError:
            self._silence()
            raise ReaderGone from None
        except OSError as error:
            self._silence()
            raise LbenchError(f"standard {self._name} cannot be written: {error.strerror}") from error

    def _silence(self) -> None:
        """Send what is still buffered nowhere, or Python would complain of it as it ends."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Guard standard output and error in the block, and flush them at its end, also after `sys.exit`."""
    out, err = sys.stdout, sys.stderr
    sys.stdout = cast(TextIO, out and _Output(out, "output"))
    sys.stderr = cast(TextIO, err and _Output(err, "error"))
    try:
        try:
            yield
        finally:
            for stream in filter(None, (sys.stdout, sys.stderr)):
                stream.flush()
    finally:
        sys.stdout, sys.stderr = out, err
