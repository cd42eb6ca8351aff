"""The `lbench` command: one module per command; each parses, calls, and prints through one sink."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run `lbench`. An error that a user can act on becomes one message and an exit code."""
    from lightning_bench.errors import LbenchError

    try:
        from lightning_bench.cli.app import app

        app()
    except LbenchError as error:
        from lightning_bench.cli.shared.sink import Sink

        if os.environ.get("LBENCH_TRACEBACK"):
            raise
        Sink().error(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
