"""Calls of DTensors: sequences or heads on the ranks of a mesh, here two processes on the CPU."""

import os
import subprocess
import sys

import pytest
import torch

from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_ranks_agree_with_one(tmp_path):
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.sharded_calls", "2", tmp_path / "store"]
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=PATIENCE_S,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout
