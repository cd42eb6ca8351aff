"""multiprocessing's resource tracker: it removes the semaphores that workers leave behind, without a word."""

from __future__ import annotations

import sys
from multiprocessing import resource_tracker

# torch.compile leaves one in a worker that ends in order; the tracker would warn on the user's terminal.
_SILENCE = "ignore::UserWarning:multiprocessing.resource_tracker"


def start_tracker() -> None:
    """Start the tracker unless it runs. Call it before SIGINT is blocked, which its start would unblock."""
    sys.warnoptions.append(_SILENCE)  # a process that multiprocessing starts gets these as its -W
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(_SILENCE)
