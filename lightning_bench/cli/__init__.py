"""The `lbench` command: one module per command; each parses, calls, and prints through one sink."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress

_OWN = ("lightning_bench", "lightning_kernels")
_INCOMPLETE = (
    "there is no module {}, which lightning-bench needs: install it with its dependencies "
    "(pip install without --no-deps, or `make bench` in a clone)"
)


def main() -> None:
    """Run `lbench`. An error becomes one message and an exit code; a bug also a traceback."""
    from lightning_bench.cli.shared.standard_streams import ReaderGone, guarded_streams
    from lightning_bench.errors import ExitCode, LbenchError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A file name that is no UTF-8, and × in a terminal that has only ASCII.
            stream.reconfigure(errors="backslashreplace")
    try:
        from lightning_bench.cli.app import app

        with guarded_streams():
            app()
    except ReaderGone:
        sys.exit(ExitCode.UNREAD)
    except LbenchError as error:
        _show(str(error), traceback=bool(os.environ.get("LBENCH_TRACEBACK")))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and (missing := error.name or "").split(".")[0] not in _OWN:
            # What prints messages may be missing as well.
            print(f"lbench: {_INCOMPLETE.format(missing)}", file=sys.stderr)
            sys.exit(ExitCode.DIED)
        # Python would end with 1, which says that every case was measured.
        _show(f"a bug of lightning-bench ({type(error).__name__}); please report it", traceback=True)
        sys.exit(ExitCode.DIED)


def _show(message: str, *, traceback: bool) -> None:
    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.cli.shared.standard_streams import ReaderGone, guarded_streams
    from lightning_bench.errors import LbenchError

    with suppress(ReaderGone, LbenchError), guarded_streams():
        if traceback:
            from traceback import format_exc

            print(format_exc(), end="", file=sys.stderr)
        Sink().error(message)
