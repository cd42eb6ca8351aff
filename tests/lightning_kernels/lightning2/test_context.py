"""Context parallelism: real gloo processes on the CPU find what one process finds."""

import os
import subprocess
import sys

import pytest
import torch

from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not hasattr(os, "fork"), reason="needs torch.distributed and fork"
)


CASES = (
    "equal:2", "equal:3", "equal:8", "refused:2", "orphaned:3", "counted:3", "overlapped:3",
    "interpreted:2", "compiled:2", "trained:2",
)  # fmt: skip


@pytest.mark.slow
def test_ranks_find_what_one_process_finds(tmp_path):
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.support.context_calls", str(tmp_path), *CASES],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=PATIENCE_S,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    assert [line for line in ran.stdout.splitlines() if line.endswith("failed")] == [
        f"{case}: 0 ranks failed" for case in CASES
    ]
