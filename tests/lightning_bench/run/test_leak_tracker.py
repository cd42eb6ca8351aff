"""What a worker leaves behind is removed without a warning on the terminal."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.patience import PATIENCE_S

LEAVES = """
import sys
from multiprocessing import resource_tracker
from lightning_bench.run.leak_tracker import start_tracker

options = list(sys.warnoptions)
{start}
assert sys.warnoptions == options
resource_tracker.register("/lbench-test-left", "semaphore")
"""


@pytest.mark.parametrize(
    ("start", "warned"), [("start_tracker()", False), ("resource_tracker.ensure_running()", True)]
)
def test_a_semaphore_that_is_left_behind_is_no_warning(start: str, warned: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVES.format(start=start)],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    assert ("resource_tracker" in done.stderr) is warned
    assert warned or done.stderr == ""
